//! The resource table against a naive one: lists, searched from end to end.
//!
//! Random sequences of register, change, acquire, release, hand over, withdraw, die, on few keys, so that everything meets
//! everything; after each step both must have the same providers and the same holder of every key, and must have told
//! the same workers the same things.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng};
use trine::director::table::Table;
use trine::director::table::rights::{Holder, Notice, Space, Span};
use trine::resource::Action;
use trine::{Key, Resource, ServiceOptions, Status, Unheld};

const WORKERS: usize = 5;
const KEYS: u64 = 12;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Hold {
    Nobody,
    Has(usize),
    Leaving(usize),
}

/// One service. Its declarations are lists of resources, its holders an array.
struct Naive {
    declared: [Option<Vec<Resource>>; WORKERS],
    holders: [Hold; KEYS as usize],
    claims: Vec<(usize, u64, u64)>,
    granted: Vec<(usize, u64, u64)>,
    /// Who has withdrawn the service and holds something still.
    leaving: BTreeSet<usize>,
    /// Those who were told so.
    left: Vec<usize>,
    /// Single keys: a recall may come in pieces, whose borders are the real table's own affair.
    recalled: BTreeSet<(usize, u64)>,
}

impl Naive {
    fn change(&mut self, worker: usize, changes: &[(Action, Resource)]) -> Result<(), Status> {
        let Some(mut own) = self.declared[worker].clone() else { return Err(Status::NoSuchService) };
        if own.is_empty() {
            own.push(Resource::All);
        }
        for (_, resource) in changes.iter().filter(|(action, _)| *action == Action::Withdraw) {
            // Naming a key twice in a change is the same as once.
            let key_again = matches!(resource, Resource::Key(_)) && self.has(worker, resource);
            let before = own.len();
            own.retain(|r| r != resource);
            if own.len() == before && !key_again {
                return Err(Status::NoSuchResource);
            }
        }
        for (_, resource) in changes.iter().filter(|(action, _)| *action == Action::Declare) {
            if !resource.is_valid() {
                return Err(Status::BadResource);
            }
            let overlaps = |other: &Resource| match (resource, other) {
                (Resource::Range { first, last }, Resource::Range { first: f, last: l }) => {
                    first <= l && f <= last && resource != other
                }
                _ => false,
            };
            if own.iter().any(overlaps) {
                return Err(Status::BadResource);
            }
            if !own.contains(resource) {
                own.push(*resource);
            }
        }
        // Having withdrawn everything is speaking for nothing: a share that no key is in.
        if own.is_empty() {
            own.push(Resource::Share { index: u32::MAX, of: u32::MAX });
        }
        self.declared[worker] = Some(own);
        Ok(())
    }

    fn has(&self, worker: usize, resource: &Resource) -> bool {
        self.declared[worker].as_ref().is_some_and(|own| own.contains(resource))
    }

    fn providers(&self, key: Key) -> Vec<usize> {
        let covers = |own: &Vec<Resource>| own.is_empty() || own.iter().any(|resource| resource.covers(key));
        (0..WORKERS).filter(|&w| self.declared[w].as_ref().is_some_and(covers)).collect()
    }

    fn holds_all(&self, worker: usize, first: u64, last: u64) -> bool {
        (first..=last).all(|key| self.holders[key as usize] == Hold::Has(worker))
    }

    fn grant(&mut self, worker: usize, first: u64, last: u64) -> bool {
        let mut free = !self.leaving.contains(&worker);
        if !free {
            return false;
        }
        for key in first..=last {
            match self.holders[key as usize] {
                Hold::Nobody => {}
                Hold::Has(holder) if holder == worker => {}
                Hold::Has(holder) => {
                    self.holders[key as usize] = Hold::Leaving(holder);
                    self.recalled.insert((holder, key));
                    free = false;
                }
                Hold::Leaving(_) => free = false,
            }
        }
        if free {
            self.holders[first as usize..=last as usize].fill(Hold::Has(worker));
            self.granted.push((worker, first, last));
        }
        free
    }

    fn settle(&mut self) {
        let mut left: Vec<(usize, u64, u64)> = Vec::new();
        for (worker, first, last) in std::mem::take(&mut self.claims) {
            let in_the_way = left.iter().any(|&(_, f, l)| f <= last && first <= l);
            if in_the_way || !self.grant(worker, first, last) {
                left.push((worker, first, last));
            }
        }
        self.claims = left;
    }

    fn claim(&mut self, worker: usize, first: u64, last: u64) {
        if !self.claims.contains(&(worker, first, last)) {
            self.claims.push((worker, first, last));
            let before = &self.claims[..self.claims.len() - 1];
            if before.iter().all(|&(_, f, l)| f > last || first > l) && self.grant(worker, first, last) {
                self.claims.pop();
            }
        }
    }

    fn release(&mut self, worker: usize, first: u64, last: u64) -> Result<(), Status> {
        let claims = self.claims.len();
        self.claims.retain(|&claim| claim != (worker, first, last));
        let dropped = self.claims.len() < claims;
        let mut own = false;
        for key in first..=last {
            let holder = self.holders[key as usize];
            own |= holder == Hold::Has(worker) || holder == Hold::Leaving(worker);
            if holder == Hold::Has(worker) {
                self.holders[key as usize] = Hold::Leaving(worker);
                self.recalled.insert((worker, key));
            }
        }
        if dropped {
            self.settle();
        }
        if own || dropped { Ok(()) } else { Err(Status::NotHeld) }
    }

    fn yielded(&mut self, worker: usize, first: u64, last: u64) {
        for key in first..=last {
            assert_eq!(self.holders[key as usize], Hold::Leaving(worker));
            self.holders[key as usize] = Hold::Nobody;
        }
        self.settle();
    }

    fn withdraw(&mut self, worker: usize) {
        self.declared[worker] = None;
        for holder in self.holders.iter_mut().filter(|holder| is_of(holder, worker)) {
            *holder = Hold::Leaving(worker);
            if self.leaving.insert(worker) {
                self.left.push(worker);
            }
        }
        self.claims.retain(|&(w, ..)| w != worker);
        self.settle();
    }

    fn leave(&mut self, worker: usize) {
        self.leaving.remove(&worker);
        self.holders.iter_mut().filter(|holder| is_of(holder, worker)).for_each(|h| *h = Hold::Nobody);
        self.settle();
    }

    fn die(&mut self, worker: usize) {
        self.declared[worker] = None;
        self.claims.retain(|&(w, ..)| w != worker);
        self.leave(worker);
    }
}

fn is_of(holder: &Hold, worker: usize) -> bool {
    matches!(*holder, Hold::Has(w) | Hold::Leaving(w) if w == worker)
}

/// Both, and what was recalled and not given up yet.
struct Both {
    table: Table,
    service: usize,
    operation: usize,
    naive: Naive,
    recalls: Vec<(usize, Span)>,
    hand_overs: usize,
    withdrawals: usize,
}

impl Both {
    fn new() -> Self {
        let mut table = Table::default();
        // Somebody who speaks for nothing keeps the service, and a route the operation.
        let nothing = ServiceOptions::default().resource(Resource::Share { index: 0, of: u32::MAX });
        let nothing = nothing.exclusive(Unheld::Wait);
        table.provide_with(WORKERS, "service", 0, &["operation"], &nothing).expect("room");
        let operation = table.open_route("service", "operation").expect("there");
        let service = table.service_of("service").expect("there");
        let naive = Naive {
            declared: Default::default(),
            holders: [Hold::Nobody; KEYS as usize],
            claims: Vec::new(),
            granted: Vec::new(),
            leaving: BTreeSet::new(),
            left: Vec::new(),
            recalled: BTreeSet::new(),
        };
        Both { table, service, operation, naive, recalls: Vec::new(), hand_overs: 0, withdrawals: 0 }
    }

    fn span(&self, first: u64, last: u64) -> Span {
        Span { space: Space::new(self.service, false), first, last }
    }

    fn step(&mut self, rng: &mut TestRng) {
        let (worker, kind) = (rng.random_range(0..WORKERS), rng.random_range(0..100));
        let (a, b) = (rng.random_range(0..KEYS), rng.random_range(0..KEYS));
        let (first, last) = if rng.random_bool(0.7) { (a, a) } else { (a.min(b), a.max(b)) };
        let provides = self.naive.declared[worker].is_some();
        match kind {
            0..10 => {
                let resources: Vec<Resource> = (0..rng.random_range(0..3)).map(|_| resource(rng)).collect();
                let options = ServiceOptions::default().resources(resources.clone());
                let real = self.table.provide_with(worker, "service", 0, &["operation"], &options);
                let was = self.naive.declared[worker].replace(vec![Resource::Share { index: 9, of: 10 }]);
                let declared: Vec<_> = resources.iter().map(|&r| (Action::Declare, r)).collect();
                let naive = self.naive.change(worker, &declared);
                assert_eq!(real, naive);
                match naive {
                    Err(_) => self.naive.declared[worker] = was,
                    Ok(()) if resources.is_empty() => self.naive.declared[worker] = Some(Vec::new()),
                    Ok(()) => drop(self.naive.declared[worker].as_mut().expect("just set").remove(0)),
                }
            }
            10..30 => {
                let one = |rng: &mut TestRng| {
                    let action = if rng.random_bool(0.5) { Action::Declare } else { Action::Withdraw };
                    (action, resource(rng))
                };
                let changes: Vec<_> = (0..rng.random_range(1..4)).map(|_| one(rng)).collect();
                let real = match self.table.provided_by(worker, "service") {
                    Some(service) => self.table.change(worker, service, &changes),
                    None => Err(Status::NoSuchService),
                };
                assert_eq!(real, self.naive.change(worker, &changes), "{changes:?}");
            }
            30..60 if provides => {
                let span = self.span(first, last);
                if !self.naive.holds_all(worker, first, last) {
                    self.table.rights.claim(worker, span).expect("room");
                    self.naive.claim(worker, first, last);
                }
            }
            60..70 if provides => {
                let span = self.span(first, last);
                let real = self.table.rights.release(worker, span);
                assert_eq!(real, self.naive.release(worker, first, last));
            }
            70..72 if provides => {
                assert!(self.table.withdraw(worker, "service"));
                self.naive.withdraw(worker);
            }
            72..76 => {
                let leaves = self.naive.leaving.contains(&worker);
                assert_eq!(self.table.rights.left(worker, self.service), leaves);
                if leaves {
                    self.naive.leave(worker);
                    self.recalls.retain(|&(w, _)| w != worker);
                    self.withdrawals += 1;
                }
            }
            76..97 if !self.recalls.is_empty() => {
                let (holder, span) = self.recalls.swap_remove(rng.random_range(0..self.recalls.len()));
                // Nobody else can, nor can it be said of what was not recalled.
                assert!(!self.table.rights.yielded((holder + 1) % WORKERS, span));
                assert!(self.table.rights.yielded(holder, span));
                self.naive.yielded(holder, span.first, span.last);
                self.hand_overs += 1;
            }
            97.. => {
                self.table.remove_worker(worker);
                self.table.end_tenancy(worker);
                self.naive.die(worker);
                self.recalls.retain(|&(w, _)| w != worker);
            }
            _ => drop(self.table.rights.sweep(rng.random_range(0..3))),
        }
    }

    fn compare(&mut self) {
        let mut granted = Vec::new();
        let (mut recalled, mut left) = (BTreeSet::new(), Vec::new());
        for notice in self.table.rights.take_notices() {
            match notice {
                Notice::Granted(worker, span) => granted.push((worker, span.first, span.last)),
                Notice::Recalled(worker, span) => {
                    recalled.extend((span.first..=span.last).map(|key| (worker, key)));
                    self.recalls.push((worker, span));
                }
                Notice::Left(worker, service) => {
                    assert_eq!(service, self.service);
                    left.push(worker);
                }
            }
        }
        assert_eq!(granted, std::mem::take(&mut self.naive.granted));
        assert_eq!(recalled, std::mem::take(&mut self.naive.recalled));
        assert_eq!(left, std::mem::take(&mut self.naive.left));
        for number in 0..KEYS {
            let key = Key::number(number);
            let holder = match self.table.holder(self.operation, key) {
                Holder::Nobody => Hold::Nobody,
                Holder::Worker(worker) => Hold::Has(worker),
                Holder::Leaving(worker) => Hold::Leaving(worker),
            };
            assert_eq!(holder, self.naive.holders[number as usize], "key {number}");
            let operation = self.table.operation(self.operation);
            let own = operation.providers.iter().filter(|p| p.worker < WORKERS && self.table.covers(p, key));
            let mut providers: Vec<usize> = own.map(|p| p.worker).collect();
            providers.sort_unstable();
            assert_eq!(providers, self.naive.providers(key), "key {number}");
        }
        for worker in 0..WORKERS {
            let held = self.table.rights.held_by(worker, 100);
            let keys: BTreeSet<u64> = held.iter().flat_map(|(span, _)| span.first..=span.last).collect();
            let naive = (0..KEYS).filter(|&key| is_of(&self.naive.holders[key as usize], worker));
            assert_eq!(keys, naive.collect());
        }
    }
}

fn resource(rng: &mut TestRng) -> Resource {
    let (a, b) = (rng.random_range(0..KEYS), rng.random_range(0..KEYS));
    match rng.random_range(0..8) {
        0 => Resource::All,
        1 => Resource::Share { index: rng.random_range(0..3), of: 2 },
        2 | 3 => Resource::Range { first: a, last: b },
        _ => Resource::from(a),
    }
}

#[test]
fn the_table_is_lists_searched_from_end_to_end() {
    let mut rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut both = Both::new();
    for _ in 0..100_000 {
        both.step(&mut rng);
        both.compare();
    }
    assert!(both.hand_overs > 5_000, "{} hand-overs", both.hand_overs);
    assert!(both.withdrawals > 200, "{} withdrawals with something held", both.withdrawals);
    // With everybody gone and swept out, nothing is left.
    for worker in 0..=WORKERS {
        both.table.remove_worker(worker);
        both.table.end_tenancy(worker);
    }
    while !both.table.rights.is_swept() {
        both.table.rights.sweep(7).into_iter().for_each(|service| both.table.forget_if_unused(service));
    }
    assert_eq!(both.table.rights.counts(), (0, 0));
    both.table.close_route(both.operation);
    assert_eq!(both.table.services().count(), 0);
}
