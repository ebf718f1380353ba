//! What a worker holds exclusively, as it was told, and what it still has to do for what it was told to give up.
//!
//! ```text
//! Granted ─► held ─► event Gained ─► its first call
//! Recalled ─► the ring is served up to `before`, and begun calls on it are answered ─► event Lost ─► Yielded
//! ```
//! Both ends of a right are seen by the program in order with its calls: it hears of a right before the first call on
//! it, and of the loss after the last one and before anybody else can have it.
//!
//! A new director is told what is held before it grants anything: what it confirms was never lost.

use std::collections::{HashMap, VecDeque};

pub use crate::control::name::Name;
use crate::intervals::Intervals;
use crate::resource::Resource;

/// What a worker is told, between its requests.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// It holds the exclusive right to a resource from now on.
    Gained {
        /// Of which service.
        service: String,
        /// What.
        resource: Resource,
    },
    /// It holds the right no more once this event has been handled; no more calls on it will come.
    Lost {
        /// Of which service.
        service: String,
        /// What.
        resource: Resource,
    },
    /// It was asked to drain: what it was given it still serves, then serving ends.
    Draining,
}

/// Something to be done when the ring has been served up to a position.
struct Due {
    before: u64,
    /// A request that was begun before is still kept: looked at again when the program comes back.
    kept: bool,
}

struct Recall {
    service: Name,
    resource: Resource,
    due: Due,
}

/// An event, and what is to be given up when it has been handled.
#[derive(Debug)]
pub struct Told {
    /// What the program hears.
    pub event: Event,
    /// What the director hears after that.
    pub yields: Option<(Name, Resource)>,
}

/// A worker's rights.
#[derive(Default)]
pub struct Rights {
    /// Messages about rights that were read.
    pub heard: u64,
    held: HashMap<(Name, bool), Intervals<()>>,
    /// What it held under a director that is gone, and has not held under the next one yet.
    earlier: HashMap<(Name, bool), Intervals<()>>,
    /// What of that was recalled and not given up.
    unfinished: Vec<(Name, Resource)>,
    recalls: Vec<Recall>,
    draining: Option<Due>,
    told: VecDeque<Told>,
}

impl Rights {
    /// A right was granted.
    pub fn granted(&mut self, sequence: u64, service: &Name, resource: Resource) {
        self.heard = self.heard.max(sequence);
        let Some((is_name, first, last)) = resource.span().filter(|_| resource.is_valid()) else { return };
        let held = self.held.entry((service.clone(), is_name)).or_default();
        held.cut(first, last);
        held.insert(first, last, ());
        if let Some(earlier) = self.earlier.get_mut(&(service.clone(), is_name)) {
            let had = earlier.at(first).is_some_and(|(_, end, ())| end >= last);
            earlier.cut(first, last);
            if had {
                return; // it never lost it
            }
        }
        let event = Event::Gained { service: service.as_str().into(), resource };
        self.told.push_back(Told { event, yields: None });
    }

    /// A right is to be given up.
    pub fn recalled(&mut self, sequence: u64, service: Name, resource: Resource, before: u64) {
        self.heard = self.heard.max(sequence);
        self.recalls.push(Recall { service, resource, due: Due { before, kept: false } });
    }

    /// The worker is to leave.
    pub fn drain(&mut self, sequence: u64, before: u64) {
        self.heard = self.heard.max(sequence);
        self.draining = Some(Due { before, kept: false });
        self.told.push_back(Told { event: Event::Draining, yields: None });
    }

    /// Whether there is something to tell the program.
    #[inline]
    pub fn has_told(&self) -> bool {
        !self.told.is_empty()
    }

    /// The next event.
    pub fn next_told(&mut self) -> Option<Told> {
        self.told.pop_front()
    }

    /// Whether something may be given up, now that the ring was served up to `taken`.
    #[inline]
    pub fn is_due(&self, taken: u64) -> bool {
        let due = |due: &Due| !due.kept && taken >= due.before;
        (!self.recalls.is_empty() && self.recalls.iter().any(|recall| due(&recall.due)))
            || self.draining.as_ref().is_some_and(due)
    }

    /// The program comes back: what it kept may have been answered.
    pub fn look_again(&mut self) {
        self.recalls.iter_mut().for_each(|recall| recall.due.kept = false);
        if let Some(due) = &mut self.draining {
            due.kept = false;
        }
    }

    /// Gives up what is due, in the order in which it was recalled, by an event each; unless a call on it that stood
    /// before is still kept, which `is_kept` says. Returns whether the worker is to leave now.
    pub fn settle(&mut self, taken: u64, is_kept: impl Fn(Option<(&Name, Resource)>, u64) -> bool) -> bool {
        for mut recall in std::mem::take(&mut self.recalls) {
            let about = Some((&recall.service, recall.resource));
            recall.due.kept = is_kept(about, recall.due.before);
            if recall.due.kept || taken < recall.due.before {
                self.recalls.push(recall);
                continue;
            }
            let Recall { service, resource, .. } = recall;
            if let Some((is_name, first, last)) = resource.span() {
                self.cut(&service, is_name, first, last);
            }
            let event = Event::Lost { service: service.as_str().into(), resource };
            self.told.push_back(Told { event, yields: Some((service, resource)) });
        }
        let Some(due) = &mut self.draining else { return false };
        due.kept = is_kept(None, due.before) || !self.told.is_empty();
        !due.kept && taken >= due.before
    }

    fn cut(&mut self, service: &Name, is_name: bool, first: u64, last: u64) {
        let key = (service.clone(), is_name);
        if let Some(held) = self.held.get_mut(&key) {
            held.cut(first, last);
            if held.is_empty() {
                self.held.remove(&key);
            }
        }
    }

    /// What it holds of a service.
    pub fn held(&self, service: &str) -> Vec<Resource> {
        resources(&self.held, service)
    }

    /// Whether it holds all of a resource of a service.
    pub fn holds(&self, service: &str, resource: Resource) -> bool {
        let Some((is_name, first, last)) = resource.span() else { return false };
        let of = self.held.iter().find(|((name, named), _)| name.as_str() == service && *named == is_name);
        of.is_some_and(|(_, held)| held.at(first).is_some_and(|(_, end, ())| end >= last))
    }

    /// There is a new director, which knows of nothing that it holds. What the program has not given up it still has,
    /// until [`lose_unconfirmed`](Self::lose_unconfirmed): also what it was about to be told that it has lost.
    pub fn begin_again(&mut self) {
        self.heard = 0;
        for ((service, is_name), held) in std::mem::take(&mut self.held) {
            for (first, last, ()) in held.iter() {
                self.keep(&service, is_name, first, last);
            }
        }
        for Recall { service, resource, .. } in std::mem::take(&mut self.recalls) {
            self.unfinished.push((service, resource));
        }
        for told in std::mem::take(&mut self.told) {
            match told.yields {
                Some((service, resource)) => {
                    if let Some((is_name, first, last)) = resource.span() {
                        self.keep(&service, is_name, first, last);
                    }
                    self.unfinished.push((service, resource));
                }
                None => self.told.push_back(told),
            }
        }
    }

    fn keep(&mut self, service: &Name, is_name: bool, first: u64, last: u64) {
        let earlier = self.earlier.entry((service.clone(), is_name)).or_default();
        earlier.cut(first, last);
        earlier.insert(first, last, ());
    }

    /// What it had of a service under an earlier director: to be held again, and what of it to be given up then.
    pub fn earlier(&self, service: &Name) -> (Vec<Resource>, Vec<Resource>) {
        let unfinished = self.unfinished.iter().filter(|(name, _)| name == service);
        (resources(&self.earlier, service.as_str()), unfinished.map(|&(_, resource)| resource).collect())
    }

    /// The new director has heard all: what it has not granted again is lost.
    pub fn lose_unconfirmed(&mut self) {
        self.unfinished.clear();
        let lost = lost(std::mem::take(&mut self.earlier));
        self.told.extend(lost);
    }

    /// The director is gone, the next one does not know this worker, and all rights are lost. Returns what the program
    /// is to be told.
    pub fn lose_all(&mut self) -> VecDeque<Told> {
        self.begin_again();
        self.lose_unconfirmed();
        std::mem::take(&mut self.told)
    }

    /// Adds what an earlier attachment left to tell.
    pub fn tell_first(&mut self, told: VecDeque<Told>) {
        told.into_iter().rev().for_each(|told| self.told.push_front(told));
    }
}

fn lost(held: HashMap<(Name, bool), Intervals<()>>) -> impl Iterator<Item = Told> {
    held.into_iter().flat_map(|((service, is_name), held)| {
        let spans: Vec<_> = held.iter().collect();
        spans.into_iter().map(move |(first, last, ())| {
            let (service, resource) = (service.as_str().into(), Resource::of_span(is_name, first, last));
            Told { event: Event::Lost { service, resource }, yields: None }
        })
    })
}

fn resources(held: &HashMap<(Name, bool), Intervals<()>>, service: &str) -> Vec<Resource> {
    let of = held.iter().filter(|((name, _), _)| name.as_str() == service);
    let spans = of.flat_map(|((_, is_name), held)| held.iter().map(move |(f, l, ())| (*is_name, f, l)));
    spans.map(|(is_name, first, last)| Resource::of_span(is_name, first, last)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(rights: &mut Rights) -> Vec<Resource> {
        let mut lost = Vec::new();
        while let Some(told) = rights.next_told() {
            match told.event {
                Event::Lost { resource, .. } => lost.push(resource),
                other => panic!("{other:?}"),
            }
        }
        lost
    }

    #[test]
    fn what_a_new_director_confirms_was_never_lost() {
        let service = Name::new("service", "s").unwrap();
        let mut rights = Rights::default();
        for (sequence, resource) in
            [Resource::from(1), Resource::from(2), Resource::from(10..=19)].iter().enumerate()
        {
            rights.granted(sequence as u64 + 1, &service, *resource);
        }
        while rights.next_told().is_some() {}
        rights.recalled(4, service.clone(), Resource::from(2), 0);
        rights.recalled(5, service.clone(), Resource::from(15), 7);
        assert!(!rights.settle(3, |_, _| false), "2 is given up, and the program has not heard of it");
        rights.begin_again();
        assert_eq!((rights.heard, rights.has_told()), (0, false));
        let (mut held, unfinished) = rights.earlier(&service);
        held.sort_by_key(|resource| resource.span());
        assert_eq!(held, [Resource::from(1), Resource::from(2), Resource::from(10..=19)]);
        assert_eq!(unfinished, [Resource::from(15), Resource::from(2)]);
        rights.granted(1, &service, Resource::from(2));
        rights.granted(2, &service, Resource::from(10..=19));
        rights.lose_unconfirmed();
        assert_eq!(lost(&mut rights), [Resource::from(1)]);
        assert!(rights.holds("s", Resource::from(2)) && rights.holds("s", Resource::from(15)));
        rights.granted(3, &service, Resource::from(1));
        assert!(rights.has_told(), "that is news");
    }
}
