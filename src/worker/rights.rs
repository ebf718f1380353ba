//! What a worker holds exclusively, as it was told, and what it still has to do for what it was told to give up.
//!
//! ```text
//! Granted ─► held ─► event Gained ─► its first call
//! Recalled ─► the ring is served up to `before`, and begun calls on it are answered ─► event Lost ─► Yielded
//! ```
//! Both ends of a right are seen by the program in order with its calls: it hears of a right before the first call on
//! it, and of the loss after the last one and before anybody else can have it.

use std::collections::{HashMap, VecDeque};

use crate::control::name::Name;
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
pub(super) struct Told {
    pub event: Event,
    pub yields: Option<(Name, Resource)>,
}

/// A worker's rights.
#[derive(Default)]
pub(super) struct Rights {
    /// Messages about rights that were read.
    pub heard: u64,
    held: HashMap<(Name, bool), Intervals<()>>,
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
        let of = self.held.iter().filter(|((name, _), _)| name.as_str() == service);
        let spans = of.flat_map(|((_, is_name), held)| held.iter().map(move |(f, l, ())| (*is_name, f, l)));
        spans.map(|(is_name, first, last)| Resource::of_span(is_name, first, last)).collect()
    }

    /// Whether it holds all of a resource of a service.
    pub fn holds(&self, service: &str, resource: Resource) -> bool {
        let Some((is_name, first, last)) = resource.span() else { return false };
        let of = self.held.iter().find(|((name, named), _)| name.as_str() == service && *named == is_name);
        of.is_some_and(|(_, held)| held.at(first).is_some_and(|(_, end, ())| end >= last))
    }

    /// The director is gone, and all rights with it.
    pub fn lose_all(&mut self) -> VecDeque<Told> {
        let lost = std::mem::take(&mut self.held).into_iter().flat_map(|((service, is_name), held)| {
            let name = service.as_str().to_owned();
            let all: Vec<_> = held.iter().collect();
            all.into_iter().map(move |(first, last, ())| {
                let resource = Resource::of_span(is_name, first, last);
                Told { event: Event::Lost { service: name.clone(), resource }, yields: None }
            })
        });
        lost.collect()
    }

    /// Adds what an earlier attachment left to tell.
    pub fn tell_first(&mut self, told: VecDeque<Told>) {
        told.into_iter().rev().for_each(|told| self.told.push_front(told));
    }
}
