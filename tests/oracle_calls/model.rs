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

/// A line of the policy: a user or everybody may do this, or not, in a service or any, to these keys or to all. The first
/// that says anything decides; nothing said is allowed.
#[derive(Clone, Debug)]
pub struct Line {
    pub allow: bool,
    pub verb: Verb,
    pub uid: Option<u32>,
    pub service: Option<usize>,
    pub keys: Option<(u64, u64)>,
}

impl Line {
    /// Whether it says anything of what this user does in this service, whatever the key.
    pub fn is_about(&self, verb: Verb, uid: u32, service: usize) -> bool {
        self.verb == verb
            && self.uid.is_none_or(|own| own == uid)
            && self.service.is_none_or(|own| own == service)
    }
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
    pub lines: Vec<Line>,
    pub holders: [Hold; KEYS as usize],
    /// By key: whether it and the next one are of one piece. A piece was granted, or is recalled, as a whole.
    joined: [bool; KEYS as usize],
    /// Who waits for which keys, in their order.
    pub claims: Vec<(u64, u64, u64)>,
}

impl Model {
    pub fn new(unheld: Unheld) -> Model {
        let holders = [Hold::Nobody; KEYS as usize];
        let (workers, policies) = (Vec::new(), [Policy::Jbsq; 2]);
        let joined = [false; KEYS as usize];
        Model { unheld, workers, policies, lines: Vec::new(), holders, joined, claims: Vec::new() }
    }

    pub fn worker(&mut self, id: u64) -> &mut Worker {
        self.workers.iter_mut().find(|w| w.id == id).expect("it lives")
    }

    /// Whether a user may do this to a key, or where there is none.
    pub fn may(&self, verb: Verb, uid: u32, service: usize, key: Option<u64>) -> bool {
        let meets = |line: &&Line| match (line.keys, key) {
            (None, _) => true,
            (Some((first, last)), Some(key)) => (first..=last).contains(&key),
            (Some(_), None) => false,
        };
        let mut about = self.lines.iter().filter(|line| line.is_about(verb, uid, service));
        about.find(meets).is_none_or(|line| line.allow)
    }

    pub fn may_acquire(&self, uid: u32, first: u64, last: u64) -> bool {
        (first..=last).all(|key| self.may(Verb::Acquire, uid, EXCLUSIVE, Some(key)))
    }

    /// A worker that has fewer calls in its hands has room for this one.
    pub fn room(&self, call: &Call) -> usize {
        match (self.policies[call.service], call.key) {
            (Policy::LeastOutstanding | Policy::RoundRobin, _) | (Policy::Affinity, Some(_)) => 4,
            _ => 2,
        }
    }

    pub fn fate(&self, call: &Call) -> Fate {
        if !self.may(Verb::Call, call.uid, call.service, call.key) {
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
        let may = |w: &&Worker| !claimed && w.may_do(call) && !w.leaves && self.may_acquire(w.uid, key, key);
        self.workers.iter().filter(may).map(|w| w.id).collect()
    }

    fn grant(&mut self, id: u64, first: u64, last: u64) -> bool {
        if self.workers.iter().any(|w| w.id == id && w.leaves) {
            return false;
        }
        let span = first as usize..=last as usize;
        let free = self.holders[span.clone()].iter().all(|hold| [Hold::Nobody, Hold::Has(id)].contains(hold));
        if free {
            self.part(first, last, |hold| hold == Hold::Has(id));
            self.holders[span].fill(Hold::Has(id));
            self.joined[first as usize..last as usize].fill(true);
        } else {
            self.recall(first, last, |holder| holder != id);
        }
        free
    }

    /// Parts pieces at both ends of a span: those that are held so.
    fn part(&mut self, first: u64, last: u64, which: impl Fn(Hold) -> bool) {
        let (first, last) = (first as usize, last as usize);
        if first > 0 && which(self.holders[first]) {
            self.joined[first - 1] = false;
        }
        if which(self.holders[last]) {
            self.joined[last] = false;
        }
    }

    /// These give up what they have of a span.
    fn recall(&mut self, first: u64, last: u64, who: impl Fn(u64) -> bool) {
        self.part(first, last, |hold| matches!(hold, Hold::Has(id) if who(id)));
        for hold in &mut self.holders[first as usize..=last as usize] {
            *hold = match *hold {
                Hold::Has(id) if who(id) => Hold::Leaving(id),
                other => other,
            };
        }
    }

    /// Whether somebody has a span, in one piece.
    fn has_whole(&self, id: u64, first: u64, last: u64) -> bool {
        let (first, last) = (first as usize, last as usize);
        let own = |hold: &Hold| *hold == Hold::Has(id);
        self.holders[first..=last].iter().all(own) && self.joined[first..last].iter().all(|&joined| joined)
    }

    /// What somebody has, piece by piece.
    fn pieces_of(&self, id: u64) -> Vec<(u64, u64)> {
        let begins = |&key: &usize| {
            self.holders[key] == Hold::Has(id) && !(0..key).next_back().is_some_and(|k| self.joined[k])
        };
        let end = |key: usize| (key..).find(|&k| !self.joined[k]).expect("the last key is the end");
        (0..KEYS as usize).filter(begins).map(|key| (key as u64, end(key) as u64)).collect()
    }

    /// What these held is nobody's.
    fn free(&mut self, which: impl Fn(usize, Hold) -> bool) {
        for key in 0..KEYS as usize {
            if which(key, self.holders[key]) {
                (self.holders[key], self.joined[key]) = (Hold::Nobody, false);
            }
        }
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
        if !self.has_whole(id, first, last) && !self.claims.contains(&(id, first, last)) {
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
        self.recall(first, last, |holder| holder == id);
        if dropped {
            self.settle();
        }
        if some || dropped { Status::Ok } else { Status::NotHeld }
    }

    /// A worker has given up some of what it was to.
    pub fn yielded(&mut self, id: u64, resource: Resource) {
        self.free(|key, hold| hold == Hold::Leaving(id) && resource.covers((key as u64).into()));
        if resource == Resource::All {
            self.worker(id).leaves = false;
        }
        self.settle();
    }

    pub fn withdraw(&mut self, id: u64, service: usize) {
        self.worker(id).provides[service] = None;
        if service == EXCLUSIVE {
            self.recall(0, KEYS - 1, |holder| holder == id);
            self.worker(id).leaves |= self.holders.contains(&Hold::Leaving(id));
            self.claims.retain(|&(claimant, ..)| claimant != id);
            self.settle();
        }
    }

    pub fn die(&mut self, id: u64) {
        self.workers.retain(|w| w.id != id);
        self.claims.retain(|&(claimant, ..)| claimant != id);
        self.free(|_, hold| [Hold::Has(id), Hold::Leaving(id)].contains(&hold));
        self.settle();
    }

    /// Other rules: what somebody may not have any more he loses, these workers in this order. Of a piece of which he may
    /// not have some, he loses all.
    pub fn set_policy(&mut self, lines: Vec<Line>, order: &[u64]) {
        self.lines = lines;
        for &id in order {
            let uid = self.worker(id).uid;
            for service in 0..2 {
                let provides = self.worker(id).provides[service].is_some();
                if provides && !self.may(Verb::Provide, uid, service, None) {
                    self.withdraw(id, service);
                }
            }
            let mut claims = std::mem::take(&mut self.claims);
            claims.retain(|&(claimant, first, last)| claimant != id || self.may_acquire(uid, first, last));
            self.claims = claims;
            self.settle();
            for (first, last) in self.pieces_of(id) {
                if !self.may_acquire(uid, first, last) {
                    self.recall(first, last, |holder| holder == id);
                }
            }
        }
    }

    /// The same rules as a policy says them. All users trust each other.
    pub fn policy(&self) -> Access {
        let lines = self.lines.iter().map(|line| Rule {
            allow: line.allow,
            verbs: vec![line.verb],
            who: line.uid.map(Who::Uid).into_iter().collect(),
            services: line.service.map(|s| Pattern::Exact(SERVICES[s].into())).into_iter().collect(),
            keys: line.keys.map(|(first, last)| KeyRule::Numbers { first, last }).into_iter().collect(),
            ..Rule::default()
        });
        let all = Rule { allow: true, ..Rule::default() };
        let (label, members) = ("all".into(), UIDS.map(Who::Uid).collect());
        let rules = Rules {
            rules: lines.chain([all]).collect(),
            domains: vec![DomainRule { origin: String::new(), label, members }],
            ..Rules::default()
        };
        Access::new(&rules, 0, |_| Err(())).expect("no key is a name")
    }
}
