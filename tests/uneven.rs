//! Policies where calls take unevenly long, in virtual time: the three cores over plain memory, and nothing else that
//! costs time. Of 200 calls 199 take a microsecond, and one a millisecond; four workers run one call at a time each.
//!
//! It says what a policy gives by itself, on a machine on which whoever has something to do runs at once: who has fewer
//! CPUs than parties that run adds to that what his scheduler takes.

use std::cell::Cell;
use std::rc::Rc;

use trine::client::core::ClientCore;
use trine::core::{Memory, Read, Write};
use trine::director::core::{DirectorCore, Peer, Settings};
use trine::layout::{LINE, ReplyHead, Request, SessionShape, WorkShape};
use trine::resource::Policy;
use trine::worker::core::{Begun, Taken, WorkerCore};
use trine::{Fault, Identity, ServiceOptions, Status};

const SESSION: SessionShape =
    SessionShape { slots: 512, reply_capacity: 64, request_arena: 4096, reply_arena: 4096 };
const WORK: WorkShape = WorkShape { slots: 256 };
const WORKERS: usize = 4;
const CALLS: u64 = 20_000;
const SHORT_NS: u64 = 1_000;
const LONG_NS: u64 = 1_000_000;
/// The resolution of time.
const TICK_NS: u64 = 500;

/// Plain memory.
#[derive(Clone)]
struct Words(Rc<[Cell<u64>]>);

impl Words {
    fn new(words: usize) -> Words {
        Words((0..words).map(|_| Cell::new(0)).collect())
    }
}

impl Read for Words {
    fn load(&self, word: usize) -> u64 {
        self.0.get(word).map_or(0, Cell::get)
    }

    fn acquire(&self) {}
}

impl Write for Words {
    fn store(&self, word: usize, value: u64) {
        if let Some(cell) = self.0.get(word) {
            cell.set(value);
        }
    }

    fn release(&self) {}

    fn full(&self) {}
}

struct Plain;

impl Memory for Plain {
    type Ro = Words;
    type Rw = Words;
}

/// Mappings that are asked for: nothing else is to be done.
#[derive(Default)]
struct Hands(Vec<(usize, u16)>);

impl trine::director::core::Effects for Hands {
    fn ring(&mut self, _: Peer) {}

    fn map_session(&mut self, worker: usize, index: u16, _: usize) {
        self.0.push((worker, index));
    }

    fn unmap_session(&mut self, _: usize, _: u16) {}

    fn fault(&mut self, peer: Peer, fault: Fault) {
        panic!("a fault of {peer:?}: {fault}");
    }

    fn forget(&mut self, _: Peer) {}

    fn clock_ns(&mut self) -> u64 {
        0
    }
}

impl trine::client::core::Effects for Hands {
    fn ring_director(&mut self) {}
}

impl trine::worker::core::Effects for Hands {
    fn ring_client(&mut self, _: u64) {}

    fn ring_director(&mut self) {}

    fn clock_ns(&mut self) -> u64 {
        0
    }
}

/// A worker, and what it runs until when.
struct Server {
    core: WorkerCore<Plain>,
    runs: Option<(u64, Begun)>,
}

/// Every call's latency in nanoseconds, sorted: calls come at this interval.
fn latencies(policy: Policy, interval_ns: u64) -> Vec<u64> {
    let mut director = DirectorCore::<Plain>::new(Settings::default());
    let (outbox, inbox) = (Words::new(SESSION.outbox().words), Words::new(SESSION.inbox().words));
    let mut client = ClientCore::<Plain>::new(SESSION, outbox.clone(), inbox.clone());
    let (mut hands, mut servers) = (Hands::default(), Vec::new());
    let options = ServiceOptions::default().policy(policy);
    for id in 1..=WORKERS as u64 {
        let (work, page) = (Words::new(WORK.work().words), Words::new(WORK.progress().words));
        let key = director.attach_worker(id, Identity::default(), WORK, 0, work.clone(), page.clone());
        let provided = director.provide_with(key.expect("room"), "s", 0, &["op"], &options);
        assert_eq!(provided, Status::Ok);
        servers.push(Server { core: WorkerCore::new(id, WORK, 0, work, page), runs: None });
    }
    let key = director.attach_session(7, Identity::default(), SESSION, 0, outbox.clone(), inbox.clone());
    assert_eq!(director.open_route(key.expect("room"), 0, "s", "op", &mut hands), Status::Ok);
    for (worker, index) in std::mem::take(&mut hands.0) {
        servers[worker].core.map_session(index, 7, SESSION, outbox.clone(), inbox.clone());
        director.session_mapped(worker, index, true, &mut hands);
    }
    let (mut random, mut sent, mut now_ns) = (fastrand::Rng::with_seed(7), 0, 1_000_000_000);
    let (begin_ns, mut open, mut took) = (now_ns, Vec::new(), Vec::new());
    while (took.len() as u64) < CALLS {
        while sent < CALLS && begin_ns + sent * interval_ns <= now_ns {
            let slot = client.reserve().expect("a free slot");
            let mut record = [0; LINE];
            record[6] = if random.u32(0..200) == 0 { LONG_NS } else { SHORT_NS };
            let request = Request { len: 16, ..Request::default() };
            open.push((client.submit(slot, request, &record, &mut hands), now_ns));
            sent += 1;
            director.heat(0); // as its ring would
        }
        director.turn(now_ns, &mut hands);
        for Server { core, runs } in &mut servers {
            if let Some((_, begun)) = runs.take_if(|(until_ns, _)| *until_ns <= now_ns) {
                core.reply(begun, ReplyHead::default(), &mut [0; LINE], &mut hands);
            }
            if runs.is_none()
                && let Ok(Taken::Begun(begun)) = core.take(now_ns, &mut hands)
            {
                *runs = Some((now_ns + begun.record[6], begun));
            }
        }
        open.retain(|&(name, sent_ns)| {
            let Some(outcome) = client.look(name, now_ns, &mut hands) else { return true };
            assert_eq!(outcome.status, Status::Ok);
            client.release(client.slot_of(name));
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
        let [jbsq, in_turn] = [Policy::Jbsq, Policy::RoundRobin].map(|policy| latencies(policy, interval_ns));
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
