//! The rules of who may get a call, written down as slowly and plainly as can be: lists, searched from end to end.

use trine::access::{Access, DomainRule, KeyRule, Pattern, Rule, Rules, Verb, Who};
use trine::resource::Policy;
use trine::{Key, Resource, Status, Unheld};

pub const KEYS: u64 = 8;
/// The one whose resources anybody may serve, and the one whose resources are exclusive.
pub const SERVICES: [&str; 2] = ["open", "exclusive"];
pub const OPERATIONS: [&str; 2] = ["x", "y"];
pub const EXCLUSIVE: usize = 1;
/// Everybody here has one of these user numbers.
pub const UIDS: std::ops::Range<u32> = 11..17;

/// What a worker provides of a service; no resources are all of them.
#[derive(Clone)]
pub struct Provided {
    pub operations: Vec<usize>,
    pub resources: Vec<Resource>,
}

pub struct Worker {
    pub id: u64,
    pub uid: u32,
    /// It is given work.
    pub serves: bool,
    pub provides: [Option<Provided>; 2],
    /// It has withdrawn the exclusive service, and gives up what it holds there.
    pub leaves: bool,
}

impl Worker {
    fn may_do(&self, call: &Call) -> bool {
        let covers = |own: &[Resource], key| own.is_empty() || own.iter().any(|r| r.covers(key));
        self.serves
            && self.provides[call.service].as_ref().is_some_and(|own| {
                own.operations.contains(&call.operation)
                    && call.key.is_none_or(|key| covers(&own.resources, Key::number(key)))
            })
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub uid: u32,
    pub service: usize,
    pub operation: usize,
    pub key: Option<u64>,
}

/// A user may not do this, to these keys or to any.
#[derive(Clone, Debug)]
pub struct Denied {
    pub verb: Verb,
    pub uid: u32,
    pub service: usize,
    pub keys: Option<(u64, u64)>,
}

/// Who holds a key, by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    Nobody,
    Has(u64),
    Leaving(u64),
}

/// What becomes of a call that is made now.
#[derive(Debug)]
pub enum Fate {
    Ends(Status),
    /// One of these gets it, now or when it has room.
    Among(Vec<u64>),
    Waits,
}

pub struct Model {
    pub unheld: Unheld,
    pub workers: Vec<Worker>,
    /// By service: what whoever provided it last has said.
    pub policies: [Policy; 2],
    pub denied: Vec<Denied>,
    pub holders: [Hold; KEYS as usize],
    /// Who waits for which keys, in their order.
    pub claims: Vec<(u64, u64, u64)>,
}

impl Model {
    pub fn new(unheld: Unheld) -> Model {
        let holders = [Hold::Nobody; KEYS as usize];
        let (workers, policies) = (Vec::new(), [Policy::Jbsq; 2]);
        Model { unheld, workers, policies, denied: Vec::new(), holders, claims: Vec::new() }
    }

    pub fn worker(&mut self, id: u64) -> &mut Worker {
        self.workers.iter_mut().find(|w| w.id == id).expect("it lives")
    }

    pub fn is_denied(&self, verb: Verb, uid: u32, service: usize, keys: Option<(u64, u64)>) -> bool {
        self.denied.iter().any(|denied| {
            let meets = match (denied.keys, keys) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some((first, last)), Some((f, l))) => first <= l && f <= last,
            };
            (denied.verb, denied.uid, denied.service) == (verb, uid, service) && meets
        })
    }

    /// A worker that has fewer calls in its hands has room for this one.
    pub fn room(&self, call: &Call) -> usize {
        match (self.policies[call.service], call.key) {
            (Policy::LeastOutstanding | Policy::RoundRobin, _) | (Policy::Affinity, Some(_)) => 4,
            _ => 2,
        }
    }

    pub fn fate(&self, call: &Call) -> Fate {
        if self.is_denied(Verb::Call, call.uid, call.service, call.key.map(|key| (key, key))) {
            return Fate::Ends(Status::PermissionDenied);
        }
        match call.key {
            Some(key) if call.service == EXCLUSIVE => self.fate_at_holder(call, key),
            _ => {
                let able: Vec<u64> = self.workers.iter().filter(|w| w.may_do(call)).map(|w| w.id).collect();
                if able.is_empty() { Fate::Ends(Status::NoWorker) } else { Fate::Among(able) }
            }
        }
    }

    fn fate_at_holder(&self, call: &Call, key: u64) -> Fate {
        let nobody = if self.unheld == Unheld::Error { Fate::Ends(Status::NotHeld) } else { Fate::Waits };
        match self.holders[key as usize] {
            Hold::Leaving(_) => Fate::Waits,
            Hold::Has(id) => {
                let holder = self.workers.iter().find(|w| w.id == id).expect("a holder lives");
                let provides = holder.provides[EXCLUSIVE].as_ref();
                match provides.is_some_and(|own| own.operations.contains(&call.operation)) {
                    true if holder.serves => Fate::Among(vec![id]),
                    true => Fate::Waits, // until it has left
                    false => nobody,
                }
            }
            Hold::Nobody if self.unheld == Unheld::Offer => {
                let able = self.offered(call, key);
                if able.is_empty() { Fate::Waits } else { Fate::Among(able) }
            }
            Hold::Nobody => nobody,
        }
    }

    /// Who can be made the holder of a key that nobody holds.
    pub fn offered(&self, call: &Call, key: u64) -> Vec<u64> {
        let claimed = self.claims.iter().any(|&(_, first, last)| (first..=last).contains(&key));
        let may = |w: &&Worker| {
            !claimed
                && w.may_do(call)
                && !w.leaves
                && !self.is_denied(Verb::Acquire, w.uid, EXCLUSIVE, Some((key, key)))
        };
        self.workers.iter().filter(may).map(|w| w.id).collect()
    }

    fn grant(&mut self, id: u64, first: u64, last: u64) -> bool {
        if self.workers.iter().any(|w| w.id == id && w.leaves) {
            return false;
        }
        let all = &mut self.holders[first as usize..=last as usize];
        let free = all.iter().all(|hold| matches!(*hold, Hold::Nobody) || *hold == Hold::Has(id));
        for hold in all {
            *hold = match *hold {
                _ if free => Hold::Has(id),
                Hold::Has(holder) if holder != id => Hold::Leaving(holder),
                other => other,
            };
        }
        free
    }

    /// Grants what can be granted, in the order in which it was asked for.
    fn settle(&mut self) {
        let mut left: Vec<(u64, u64, u64)> = Vec::new();
        for (id, first, last) in std::mem::take(&mut self.claims) {
            let in_the_way = left.iter().any(|&(_, f, l)| f <= last && first <= l);
            if in_the_way || !self.grant(id, first, last) {
                left.push((id, first, last));
            }
        }
        self.claims = left;
    }

    pub fn acquire(&mut self, id: u64, first: u64, last: u64) {
        if !self.claims.contains(&(id, first, last)) {
            self.claims.push((id, first, last));
            let (_, before) = self.claims.split_last().expect("just pushed");
            if before.iter().all(|&(_, f, l)| f > last || first > l) && self.grant(id, first, last) {
                self.claims.pop();
            }
        }
    }

    pub fn release(&mut self, id: u64, first: u64, last: u64) -> Status {
        let own = |hold: &Hold| *hold == Hold::Has(id) || *hold == Hold::Leaving(id);
        let claims = self.claims.len();
        let some = self.holders[first as usize..=last as usize].iter().any(own);
        self.claims.retain(|&claim| claim != (id, first, last));
        let dropped = self.claims.len() < claims;
        self.give_up(id, first, last);
        if dropped {
            self.settle();
        }
        if some || dropped { Status::Ok } else { Status::NotHeld }
    }

    fn give_up(&mut self, id: u64, first: u64, last: u64) {
        for hold in &mut self.holders[first as usize..=last as usize] {
            *hold = if *hold == Hold::Has(id) { Hold::Leaving(id) } else { *hold };
        }
    }

    /// A worker has given up some of what it was to.
    pub fn yielded(&mut self, id: u64, resource: Resource) {
        for key in (0..KEYS).filter(|&key| resource.covers(key.into())) {
            let hold = &mut self.holders[key as usize];
            *hold = if *hold == Hold::Leaving(id) { Hold::Nobody } else { *hold };
        }
        if resource == Resource::All {
            self.worker(id).leaves = false;
        }
        self.settle();
    }

    pub fn withdraw(&mut self, id: u64, service: usize) {
        self.worker(id).provides[service] = None;
        if service == EXCLUSIVE {
            self.give_up(id, 0, KEYS - 1);
            self.worker(id).leaves |= self.holders.contains(&Hold::Leaving(id));
            self.claims.retain(|&(claimant, ..)| claimant != id);
            self.settle();
        }
    }

    pub fn die(&mut self, id: u64) {
        self.workers.retain(|w| w.id != id);
        self.claims.retain(|&(claimant, ..)| claimant != id);
        for hold in &mut self.holders {
            *hold = if [Hold::Has(id), Hold::Leaving(id)].contains(hold) { Hold::Nobody } else { *hold };
        }
        self.settle();
    }

    /// Other rules: what somebody may not have any more he loses, these workers in this order.
    pub fn set_denied(&mut self, denied: Vec<Denied>, order: &[u64]) {
        self.denied = denied;
        for &id in order {
            let uid = self.worker(id).uid;
            for service in 0..2 {
                let provides = self.worker(id).provides[service].is_some();
                if provides && self.is_denied(Verb::Provide, uid, service, None) {
                    self.withdraw(id, service);
                }
            }
            let may_not: Vec<u64> = (0..KEYS)
                .filter(|&key| self.is_denied(Verb::Acquire, uid, EXCLUSIVE, Some((key, key))))
                .collect();
            let loses = |first, last| may_not.iter().any(|key| (first..=last).contains(key));
            self.claims.retain(|&(claimant, first, last)| claimant != id || !loses(first, last));
            may_not.iter().for_each(|&key| self.give_up(id, key, key));
            self.settle();
        }
    }

    /// The same rules as a policy says them. All users trust each other.
    pub fn policy(&self) -> Access {
        let denials = self.denied.iter().map(|denied| Rule {
            verbs: vec![denied.verb],
            who: vec![Who::Uid(denied.uid)],
            services: vec![Pattern::Exact(SERVICES[denied.service].into())],
            keys: denied.keys.iter().map(|&(first, last)| KeyRule::Numbers { first, last }).collect(),
            ..Rule::default()
        });
        let all = Rule { allow: true, ..Rule::default() };
        let (label, members) = ("all".into(), UIDS.map(Who::Uid).collect());
        let rules = Rules {
            rules: denials.chain([all]).collect(),
            domains: vec![DomainRule { origin: String::new(), label, members }],
            ..Rules::default()
        };
        Access::new(&rules, 0, |_| Err(())).expect("no key is a name")
    }
}
