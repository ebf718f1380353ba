//! What one worker speaks for in one service: its declaration.
//!
//! ```text
//! [ withdraw …, declare … ] ─► plan: checked as a whole, nothing done yet ─► make: all of it
//! ```
//! A union: of everything, of single keys, of ranges and of shares. Between the two steps somebody else may say no,
//! who counts how much a user has; so a change is made whole or not at all.

use std::collections::HashSet;

use super::rights::Space;
use super::singles::Singles;
use crate::error::Status;
use crate::intervals::Intervals;
use crate::limits;
use crate::resource::{Action, Key, Resource};

/// A declaration.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    parts: Parts,
    keys: Singles,
}

/// What there is little of.
#[derive(Clone, Debug, Default)]
struct Parts {
    all: bool,
    ranges: Intervals<()>,
    shares: Vec<(u32, u32)>,
}

impl Parts {
    fn len(&self) -> usize {
        self.ranges.len() + self.shares.len() + usize::from(self.all)
    }

    /// Returns whether it was declared so.
    fn withdraw(&mut self, resource: Resource) -> bool {
        match resource {
            Resource::All => std::mem::replace(&mut self.all, false),
            Resource::Key(_) => false,
            Resource::Range { first, last } => {
                let own = self.ranges.at(first) == Some((first, last, ()));
                if own {
                    self.ranges.remove(first);
                }
                own
            }
            Resource::Share { index, of } => {
                let at = self.shares.iter().position(|&share| share == (index, of));
                at.map(|at| self.shares.swap_remove(at)).is_some()
            }
        }
    }

    fn declare(&mut self, resource: Resource) -> Result<(), Status> {
        match resource {
            _ if !resource.is_valid() => return Err(Status::BadResource),
            Resource::All => self.all = true,
            Resource::Key(_) => {}
            Resource::Range { first, last } if self.ranges.at(first) == Some((first, last, ())) => {}
            Resource::Range { first, last } if self.ranges.overlapping(first, last).next().is_some() => {
                return Err(Status::BadResource);
            }
            Resource::Range { first, last } => self.ranges.insert(first, last, ()),
            Resource::Share { index, of } if self.shares.contains(&(index, of)) => {}
            Resource::Share { index, of } => self.shares.push((index, of)),
        }
        Ok(())
    }
}

/// A change that can be made.
#[derive(Debug)]
pub struct Plan {
    parts: Parts,
    withdrawn: HashSet<Key>,
    declared: HashSet<Key>,
    len: usize,
}

impl Plan {
    /// How many resources the declaration will name.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it will name none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Keys of one declaration: numbers and names.
fn space(key: Key) -> Space {
    Space::new(0, key.is_name())
}

impl Scope {
    /// Everything.
    pub fn of_all() -> Scope {
        Scope { parts: Parts { all: true, ..Parts::default() }, keys: Singles::default() }
    }

    /// Whether the worker speaks for this key.
    #[inline]
    pub fn covers(&self, key: Key) -> bool {
        let Parts { all, ranges, shares } = &self.parts;
        *all || self.names(key)
            || key.as_number().is_some_and(|number| ranges.at(number).is_some())
            || shares.iter().any(|&(index, of)| key.share(of) == index)
    }

    /// Whether it names this key by itself.
    #[inline]
    fn names(&self, key: Key) -> bool {
        self.keys.get(space(key), key.word()).is_some()
    }

    /// Whether it speaks for every key.
    pub fn is_all(&self) -> bool {
        self.parts.all
    }

    /// How many resources it names.
    pub fn len(&self) -> usize {
        self.keys.len() + self.parts.len()
    }

    /// Whether it names none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Checks a change: first what is withdrawn, then what is declared. Refused as a whole if something is withdrawn
    /// that was not declared so (NO_SUCH_RESOURCE), if two ranges would overlap or one is no range (BAD_RESOURCE),
    /// or if there would be too many ranges and shares (BUSY). Costs as much as the change is long, and a copy of the
    /// ranges and shares.
    pub fn plan(&self, changes: &[(Action, Resource)]) -> Result<Plan, Status> {
        let (mut parts, mut withdrawn, mut declared) = (self.parts.clone(), HashSet::new(), HashSet::new());
        for resource in of(changes, Action::Withdraw) {
            let was = match resource {
                Resource::Key(key) => {
                    withdrawn.insert(key);
                    self.names(key)
                }
                resource => parts.withdraw(resource),
            };
            if !was {
                return Err(Status::NoSuchResource);
            }
        }
        for resource in of(changes, Action::Declare) {
            parts.declare(resource)?;
            if let Resource::Key(key) = resource
                && !withdrawn.remove(&key)
                && !self.names(key)
            {
                declared.insert(key);
            }
        }
        if parts.ranges.len() + parts.shares.len() > limits::RANGES_MAX {
            return Err(Status::Busy);
        }
        let len = self.keys.len() - withdrawn.len() + declared.len() + parts.len();
        Ok(Plan { parts, withdrawn, declared, len })
    }

    /// Makes a change that was planned for it as it is.
    pub fn make(&mut self, plan: Plan) {
        self.parts = plan.parts;
        plan.withdrawn.into_iter().for_each(|key| self.keys.remove(space(key), key.word()));
        plan.declared.into_iter().for_each(|key| self.keys.insert(space(key), key.word(), 0));
    }
}

fn of(changes: &[(Action, Resource)], action: Action) -> impl Iterator<Item = Resource> {
    changes.iter().filter(move |(a, _)| *a == action).map(|&(_, resource)| resource)
}
