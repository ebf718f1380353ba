//! Policies where calls take unevenly long, in virtual time: the three cores over plain memory, and nothing else that
//! costs time. Of 200 calls 199 take a microsecond, and one a millisecond; four workers run one call at a time each.
//!
//! It says what a policy gives by itself, on a machine on which whoever has something to do runs at once: who has fewer
//! CPUs than parties that run adds to that what his scheduler takes.

mod world;

use trine::director::core::{DirectorCore, Settings};
use trine::layout::{LINE, Request, SessionShape, WorkShape};
use trine::resource::Policy;
use trine::worker::core::Begun;
use trine::{Identity, ServiceOptions, Status};
use world::{Client, Plain, Shell, Worker};

const SESSION: SessionShape =
    SessionShape { slots: 512, reply_capacity: 64, request_arena: 4096, reply_arena: 4096 };
const WORK: WorkShape = WorkShape { slots: 256 };
const WORKERS: usize = 4;
const CALLS: u64 = 20_000;
const SHORT_NS: u64 = 1_000;
const LONG_NS: u64 = 1_000_000;
/// The resolution of time.
const TICK_NS: u64 = 500;

/// Every call's latency in nanoseconds, sorted: calls come at one interval, and the director has its turn at another.
fn latencies(policy: Policy, interval_ns: u64, turn_ns: u64) -> Vec<u64> {
    let (mut director, mut shell) = (DirectorCore::<Plain>::new(Settings::default()), Shell::default());
    let options = ServiceOptions::default().policy(policy);
    // Each with what it runs, and until when.
    let mut servers: Vec<(Worker, Option<(u64, Begun)>)> = Vec::new();
    for id in 1..=WORKERS as u64 {
        let worker = Worker::attach(&mut director, id, Identity::default(), WORK);
        assert_eq!(director.provide_with(worker.key, "s", 0, &["op"], &options), Status::Ok);
        servers.push((worker, None));
    }
    let mut client = Client::attach(&mut director, 7, Identity::default(), SESSION);
    assert_eq!(director.open_route(client.key, 0, "s", "op", &mut shell), Status::Ok);
    for (worker, (index, _)) in shell.take_maps() {
        servers[worker].0.map(index, &client, &mut director, &mut shell);
    }
    let (mut random, mut sent, mut now_ns) = (fastrand::Rng::with_seed(7), 0, 1_000_000_000);
    let (begin_ns, mut open, mut took) = (now_ns, Vec::new(), Vec::new());
    while (took.len() as u64) < CALLS {
        while sent < CALLS && begin_ns + sent * interval_ns <= now_ns {
            let mut record = [0; LINE];
            record[6] = if random.u32(0..200) == 0 { LONG_NS } else { SHORT_NS };
            let request = Request { len: 16, ..Request::default() };
            open.push((client.submit(request, &record, &mut shell).expect("a free slot"), now_ns));
            sent += 1;
            director.heat(0); // as its ring would
        }
        if now_ns % turn_ns < TICK_NS {
            director.turn(now_ns, &mut shell);
        }
        for (worker, runs) in &mut servers {
            if let Some((_, begun)) = runs.take_if(|(until_ns, _)| *until_ns <= now_ns) {
                worker.answer(begun, &mut shell);
            }
            if runs.is_none()
                && let Some(begun) = worker.begin(now_ns, &mut shell)
            {
                *runs = Some((now_ns + begun.record[6], begun));
            }
        }
        open.retain(|&(name, sent_ns)| {
            let Some(outcome) = client.ended(name, now_ns, &mut shell) else { return true };
            assert_eq!(outcome.status, Status::Ok);
            took.push(now_ns - sent_ns);
            false
        });
        now_ns += TICK_NS;
    }
    took.sort_unstable();
    took
}

#[test]
fn jbsq_has_a_better_tail_than_round_robin_where_calls_take_unevenly_long() {
    for interval_ns in [50_000, 10_000] {
        let [jbsq, in_turn] =
            [Policy::Jbsq, Policy::RoundRobin].map(|policy| latencies(policy, interval_ns, TICK_NS));
        let at = |all: &[u64], per_mille: usize| all[all.len() * per_mille / 1000] as f64 / 1e3;
        let row = |all: &[u64]| [500, 900, 990, 999].map(|per_mille| at(all, per_mille));
        println!(
            "every {interval_ns} ns, p50, p90, p99, p99.9 in µs: JBSQ {:?}, in turn {:?}",
            row(&jbsq),
            row(&in_turn)
        );
        assert!(at(&in_turn, 990) > 500.0, "what comes behind a long call waits for it");
        assert!(at(&jbsq, 990) < 20.0, "somebody else was idle");
    }
}

#[test]
fn a_director_that_looks_seldom_keeps_its_workers_busy() {
    // Ten calls come between two turns, and four workers have a share of two in the beginning.
    let took = latencies(Policy::Jbsq, 10_000, 100_000);
    let p90_us = took[took.len() * 9 / 10] / 1000;
    assert!(p90_us < 300, "p90 is {p90_us} µs: calls wait at the director");
}
