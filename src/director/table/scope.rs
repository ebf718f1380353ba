//! What one worker speaks for in one service: its declaration.
//!
//! A union: of everything, of single keys, of ranges and of shares. A change is checked as a whole before any of it
//! is made, so it is made whole or not at all.

use std::collections::HashSet;

use crate::error::Status;
use crate::intervals::Intervals;
use crate::limits;
use crate::resource::{Action, Key, Resource};

/// A declaration.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    all: bool,
    keys: HashSet<Key>,
    ranges: Intervals<()>,
    shares: Vec<(u32, u32)>,
}

impl Scope {
    /// Whether the worker speaks for this key.
    #[inline]
    pub fn covers(&self, key: Key) -> bool {
        self.all
            || (!self.keys.is_empty() && self.keys.contains(&key))
            || key.as_number().is_some_and(|number| self.ranges.at(number).is_some())
            || self.shares.iter().any(|&(index, of)| key.share(of) == index)
    }

    /// Whether it speaks for every key.
    pub fn is_all(&self) -> bool {
        self.all
    }

    /// How many resources it names.
    pub fn len(&self) -> usize {
        self.keys.len() + self.ranges.len() + self.shares.len() + usize::from(self.all)
    }

    /// Whether it names none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes a change: first what is withdrawn, then what is declared. Refused as a whole if something is withdrawn
    /// that was not declared so (NO_SUCH_RESOURCE), if two ranges would overlap or one is no range (BAD_RESOURCE),
    /// or if it would be too many (BUSY). Costs as much as the change is long, and a copy of the ranges.
    pub fn change(&mut self, changes: &[(Action, Resource)]) -> Result<(), Status> {
        let (mut ranges, mut shares, mut all) = (self.ranges.clone(), self.shares.clone(), self.all);
        for resource in of(changes, Action::Withdraw) {
            let was = match resource {
                Resource::All => std::mem::replace(&mut all, false),
                Resource::Key(key) => self.keys.contains(&key),
                Resource::Range { first, last } => {
                    let own = ranges.at(first) == Some((first, last, ()));
                    if own {
                        ranges.remove(first);
                    }
                    own
                }
                Resource::Share { index, of } => {
                    let at = shares.iter().position(|&share| share == (index, of));
                    at.map(|at| shares.swap_remove(at)).is_some()
                }
            };
            if !was {
                return Err(Status::NoSuchResource);
            }
        }
        for resource in of(changes, Action::Declare) {
            match resource {
                _ if !resource.is_valid() => return Err(Status::BadResource),
                Resource::All => all = true,
                Resource::Key(_) => {}
                Resource::Range { first, last } if ranges.at(first) == Some((first, last, ())) => {}
                Resource::Range { first, last } if ranges.overlapping(first, last).next().is_some() => {
                    return Err(Status::BadResource);
                }
                Resource::Range { first, last } => ranges.insert(first, last, ()),
                Resource::Share { index, of } if shares.contains(&(index, of)) => {}
                Resource::Share { index, of } => shares.push((index, of)),
            }
        }
        if self.keys.len() + changes.len() > limits::RESOURCES_PER_WORKER || ranges.len() > limits::RANGES_MAX
        {
            return Err(Status::Busy);
        }
        (self.ranges, self.shares, self.all) = (ranges, shares, all);
        for resource in of(changes, Action::Withdraw) {
            if let Resource::Key(key) = resource {
                self.keys.remove(&key);
            }
        }
        for resource in of(changes, Action::Declare) {
            if let Resource::Key(key) = resource {
                self.keys.insert(key);
            }
        }
        Ok(())
    }
}

fn of(changes: &[(Action, Resource)], action: Action) -> impl Iterator<Item = Resource> {
    changes.iter().filter(move |(a, _)| *a == action).map(|&(_, resource)| resource)
}
