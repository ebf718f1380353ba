//! What a worker holds exclusively, as it was told, and what it still has to do for what it was told to give up.
//!
//! ```text
//! Granted ─► held ─► event Gained ─► its first call
//! Recalled ─► the ring is served up to `before`, and begun calls on it are answered ─► event Lost ─► Yielded
//! withdrawn ─► Recalled, of all that is held of the service
//! ```
//! Both ends of a right are seen by the program in order with its calls: it hears of a right before the first call on
//! it, and of the loss after the last one and before anybody else can have it.
//!
//! A new director is told what is held before it grants anything: what it confirms was never lost. What it does not
//! confirm the program hears of before that director is told that this is all.

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
        /// What: all of it, where the worker has withdrawn the service.
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
        if self.draining.replace(Due { before, kept: false }).is_none() {
            self.told.push_back(Told { event: Event::Draining, yields: None });
        }
    }

    /// Whether it was asked to drain, by this director or an earlier one.
    pub fn is_draining(&self) -> bool {
        self.draining.is_some()
    }

    /// Whether the program may think that it holds something.
    pub fn is_held(&self) -> bool {
        !self.held.is_empty() || !self.earlier.is_empty() || self.has_told()
    }

    /// Whether there is something to tell the program.
    #[inline]
    pub fn has_told(&self) -> bool {
        !self.told.is_empty()
    }

    /// The next event. What it says is lost is not held any more.
    pub fn next_told(&mut self) -> Option<Told> {
        let told = self.told.pop_front()?;
        if let Some((service, resource)) = &told.yields {
            self.cut(service, *resource);
        }
        Some(told)
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
            let event = Event::Lost { service: service.as_str().into(), resource };
            self.told.push_back(Told { event, yields: Some((service, resource)) });
        }
        let Some(due) = &mut self.draining else { return false };
        due.kept = is_kept(None, due.before) || !self.told.is_empty();
        !due.kept && taken >= due.before
    }

    fn cut(&mut self, service: &Name, resource: Resource) {
        self.held.retain(|(name, named), held| {
            if name == service {
                match resource.span() {
                    Some((is_name, first, last)) if is_name == *named => _ = held.cut(first, last),
                    Some(_) => {}
                    None => *held = Intervals::default(),
                }
            }
            !held.is_empty()
        });
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
        let recalls = std::mem::take(&mut self.recalls).into_iter();
        self.unfinished.extend(recalls.map(|recall| (recall.service, recall.resource)));
        for told in std::mem::take(&mut self.told) {
            match told.yields {
                Some(unfinished) => self.unfinished.push(unfinished),
                None => self.told.push_back(told),
            }
        }
        // What it has left by withdrawing it may have come back to: so it is named piece by piece.
        let (pieces, all): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.unfinished).into_iter().partition(|(_, what)| *what != Resource::All);
        self.unfinished = pieces;
        for (service, _) in all {
            let held = resources(&self.held, service.as_str()).into_iter();
            self.unfinished.extend(held.map(|piece| (service.clone(), piece)));
        }
        for ((service, is_name), held) in std::mem::take(&mut self.held) {
            for (first, last, ()) in held.iter() {
                self.keep(&service, is_name, first, last);
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

    /// The services of which it had something.
    pub fn earlier_services(&self) -> Vec<Name> {
        let mut services: Vec<Name> = self.earlier.keys().map(|(service, _)| service.clone()).collect();
        services.dedup();
        services
    }

    /// The new director has heard all: what it has not granted again is lost. The program is to hear of that before the
    /// director may think that it has.
    pub fn lose_unconfirmed(&mut self) {
        self.unfinished.clear();
        let lost = lost(std::mem::take(&mut self.earlier));
        self.told.extend(lost);
    }

    /// The director is gone, the next one does not know this worker, and all rights are lost.
    pub fn lose_all(&mut self) {
        self.begin_again();
        self.lose_unconfirmed();
    }

    /// The rights of a new worker in the place of one that was not known any more: it has none, and drains if that one
    /// did.
    pub fn of_successor(&self) -> Rights {
        let draining = self.is_draining().then_some(Due { before: u64::MAX, kept: false });
        Rights { draining, ..Rights::default() }
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

    #[test]
    fn a_withdrawn_service_is_lost_as_a_whole_and_what_it_was_under_the_next_director_piece_by_piece() {
        let service = Name::new("service", "s").unwrap();
        let of = |resource| Event::Lost { service: "s".into(), resource };
        let mut rights = Rights::default();
        let name = Resource::from(crate::Key::from_word(7, true));
        for (sequence, resource) in [Resource::from(1..=4), name].into_iter().enumerate() {
            rights.granted(sequence as u64 + 1, &service, resource);
        }
        while rights.next_told().is_some() {}
        rights.recalled(3, service.clone(), Resource::All, 5);
        assert!(!rights.is_due(4) && rights.is_due(5));
        assert!(!rights.settle(5, |_, _| false));
        assert!(rights.has_told() && rights.holds("s", name), "the program has not heard of it");
        // The director is gone before it has: then it is all still there, and to be given up.
        rights.begin_again();
        assert!(!rights.has_told());
        let (held, mut unfinished) = rights.earlier(&service);
        assert_eq!((held.len(), unfinished.len()), (2, 2));
        unfinished.retain(|resource| !held.contains(resource));
        assert_eq!(unfinished, []);
        rights.granted(1, &service, Resource::from(1..=4));
        rights.granted(2, &service, name);
        rights.lose_unconfirmed();
        rights.recalled(3, service.clone(), Resource::All, 5);
        rights.settle(5, |_, _| false);
        let told = rights.next_told().unwrap();
        assert_eq!((told.event, told.yields), (of(Resource::All), Some((service, Resource::All))));
        assert!(!rights.is_held());
    }

    #[test]
    fn who_drains_drains_under_the_next_director_and_hears_of_it_once() {
        let mut rights = Rights::default();
        rights.drain(1, 9);
        assert_eq!(rights.next_told().unwrap().event, Event::Draining);
        rights.begin_again();
        assert!(rights.is_draining());
        let mut successor = rights.of_successor();
        assert!(successor.is_draining() && !successor.settle(1_000, |_, _| false), "it has not asked yet");
        successor.drain(1, 0);
        assert!(!successor.has_told());
        assert!(!successor.settle(0, |_, _| true), "it keeps a request");
        successor.look_again();
        assert!(successor.settle(0, |_, _| false));
        assert!(!Rights::default().of_successor().is_draining());
    }
}
