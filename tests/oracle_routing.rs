//! The resource table against a naive one: two plain lists, searched from end to end.
//!
//! Random sequences of what workers and clients do to the table must leave both with the same services, the same
//! resolution of every name, and the same providers of every open route, in the same order.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use trine::Status;
use trine::director::table::Table;

const SERVICES: [&str; 3] = ["a", "b", "c"];
const OPERATIONS: [&str; 3] = ["x", "y", "z"];

#[derive(Clone, Debug)]
enum Step {
    Provide { worker: usize, service: usize, first: u16, operations: Vec<usize> },
    Withdraw { worker: usize, service: usize },
    RemoveWorker { worker: usize },
    OpenRoute { service: usize, operation: usize },
    CloseRoute { which: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let operations = proptest::sample::subsequence(vec![0, 1, 2], 0..=3).prop_shuffle();
    prop_oneof![
        3 => (0..4usize, 0..3usize, 0..9u16, operations)
            .prop_map(|(worker, service, first, operations)| {
                Step::Provide { worker, service, first, operations }
            }),
        1 => (0..4usize, 0..3usize).prop_map(|(worker, service)| Step::Withdraw { worker, service }),
        1 => (0..4usize).prop_map(|worker| Step::RemoveWorker { worker }),
        3 => (0..3usize, 0..3usize).prop_map(|(service, operation)| Step::OpenRoute { service, operation }),
        2 => (0..8usize).prop_map(|which| Step::CloseRoute { which }),
    ]
}

/// Who provides what, in the order in which they came; and which routes are open.
#[derive(Default)]
struct Naive {
    provided: Vec<(usize, u16, usize, usize)>,
    /// Service, operation, and the real table's key.
    routes: Vec<(usize, usize, usize)>,
}

impl Naive {
    fn withdraw(&mut self, worker: usize, service: usize) -> bool {
        let before = self.provided.len();
        self.provided.retain(|&(w, _, s, _)| (w, s) != (worker, service));
        self.provided.len() < before
    }

    fn known(&self) -> BTreeSet<(usize, usize)> {
        let provided = self.provided.iter().map(|&(_, _, s, o)| (s, o));
        provided.chain(self.routes.iter().map(|&(s, o, _)| (s, o))).collect()
    }

    fn resolve(&self, service: usize, operation: usize) -> Result<(), Status> {
        let known = self.known();
        if known.contains(&(service, operation)) {
            Ok(())
        } else if known.iter().any(|&(s, _)| s == service) {
            Err(Status::NoSuchOperation)
        } else {
            Err(Status::NoSuchService)
        }
    }

    fn providers(&self, service: usize, operation: usize) -> Vec<(usize, u16)> {
        let of = self.provided.iter().filter(|&&(_, _, s, o)| (s, o) == (service, operation));
        of.map(|&(worker, number, ..)| (worker, number)).collect()
    }
}

fn take(table: &mut Table, naive: &mut Naive, step: &Step) -> Result<(), TestCaseError> {
    match *step {
        Step::Provide { worker, service, first, ref operations } => {
            let names: Vec<&str> = operations.iter().map(|&o| OPERATIONS[o]).collect();
            prop_assert_eq!(table.provide(worker, SERVICES[service], first, &names), Ok(()));
            naive.withdraw(worker, service);
            let numbered = operations.iter().zip(first..);
            naive.provided.extend(numbered.map(|(&o, number)| (worker, number, service, o)));
        }
        Step::Withdraw { worker, service } => {
            let did = table.withdraw(worker, SERVICES[service]);
            prop_assert_eq!(did, naive.withdraw(worker, service));
        }
        Step::RemoveWorker { worker } => {
            table.remove_worker(worker);
            naive.provided.retain(|&(w, ..)| w != worker);
        }
        Step::OpenRoute { service, operation } => {
            let opened = table.open_route(SERVICES[service], OPERATIONS[operation]);
            prop_assert_eq!(opened.map(|_| ()), naive.resolve(service, operation));
            naive.routes.extend(opened.ok().map(|key| (service, operation, key)));
        }
        Step::CloseRoute { which } => {
            if which < naive.routes.len() {
                table.close_route(naive.routes.swap_remove(which).2);
            }
        }
    }
    Ok(())
}

fn compare(table: &Table, naive: &Naive) -> Result<(), TestCaseError> {
    for &(service, operation, key) in &naive.routes {
        let real: Vec<_> = table.operation(key).providers.iter().map(|p| (p.worker, p.number)).collect();
        prop_assert_eq!(real, naive.providers(service, operation));
    }
    let mut real = BTreeMap::new();
    for (service, operations) in table.services() {
        let names: BTreeSet<String> = operations.iter().map(|o| o.name.to_string()).collect();
        real.insert(service.name.to_string(), names);
    }
    let mut expected: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (service, operation) in naive.known() {
        expected.entry(SERVICES[service].into()).or_default().insert(OPERATIONS[operation].into());
    }
    prop_assert_eq!(real, expected);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_table_is_two_plain_lists(steps in proptest::collection::vec(step(), 1..60)) {
        let (mut table, mut naive) = (Table::default(), Naive::default());
        for step in &steps {
            take(&mut table, &mut naive, step)?;
            compare(&table, &naive)?;
        }
        // With everybody gone, nothing is left.
        (0..4).for_each(|worker| table.remove_worker(worker));
        naive.routes.drain(..).for_each(|(_, _, key)| table.close_route(key));
        prop_assert_eq!(table.services_len(), 0);
    }
}
