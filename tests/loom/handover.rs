//! The reply right goes from client to director to worker, and back to the director when the worker dies: whoever
//! dies where, the client sees one answer, whole, and it says truly whether the operation ran.
//!
//! ```text
//! client ─ request ─► director ─ ledger, work ─► worker: taken │ runs │ reply │ completed │ done
//!    ▲                    └─ reaps after its death: stamp in? nothing : begun? WORKER_DIED : NOT_BEGUN
//!    └────────────────────────────── reply
//! ```

use crate::explore::{breaks, explore, explore_deaths, until};
use crate::memory::{Death, Fence, LoomMemory, STRONG, Weak};
use loom::thread;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use trine::core::ledger::{Entry, Ledger};
use trine::core::reply::Replies;
use trine::core::ring::{Publisher, Taker};
use trine::core::{Read, Write};

const W: usize = 3;
const SLOTS: u64 = 2;
const REQUESTS: usize = 0;
const WORK: usize = REQUESTS + SLOTS as usize * W;
const REPLY: usize = WORK + SLOTS as usize * W;
const LEDGER: usize = REPLY + W;
const PAYLOAD: usize = LEDGER + trine::layout::LEDGER_ENTRY;
const TAKEN: usize = PAYLOAD + 1;
const RAN: usize = TAKEN + 1;
const COMPLETED: usize = RAN + 1;
const DONE: usize = COMPLETED + 1;
const WORDS: usize = DONE + 1;

const TICKET: u64 = (1 << 32) - 1;
const SESSION: u64 = 7;
/// What the client's arena holds: it is no part of the record, and reaches the worker through the director's hands.
const ARGUMENT: u64 = 11;

const SERVED: u64 = 1;
const NOT_BEGUN: u64 = 2;
const WORKER_DIED: u64 = 3;

/// What a director might do wrong when its worker has died.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reaping {
    /// After the death is known: the stamp, then `taken`.
    Right,
    /// It doesn't ask whether the worker has answered.
    IgnoresTheStamp,
    /// It doesn't wait for the death.
    TakesFromTheLiving,
}

/// When the worker says that it begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Begins {
    BeforeItRuns,
    AfterItRan,
}

fn replies() -> Replies<W> {
    Replies::new(REPLY, 1)
}

fn answer(memory: &LoomMemory, status: u64) {
    replies().publish(memory, TICKET, &[0, status, !status], W);
}

fn client(memory: &LoomMemory) -> u64 {
    memory.store(PAYLOAD, ARGUMENT);
    Publisher::<W>::new(REQUESTS, SLOTS, 0).publish(memory, &[0, TICKET, !TICKET], W);
    let reply = until(|| replies().take(memory, TICKET, |_| false));
    assert_eq!(reply[1], !reply[2], "torn: the client's reply");
    reply[1]
}

fn dispatch(memory: &LoomMemory) {
    let mut requests = Taker::<W>::new(REQUESTS, SLOTS, 0);
    let request = until(|| requests.take(memory, |_| false).expect("overrun"));
    assert_eq!(request[1..], [TICKET, !TICKET], "torn: the director's request");
    let mut work = Publisher::<W>::new(WORK, SLOTS, 0);
    let call = Entry { position: work.next(), session: SESSION, ticket: request[1] };
    Ledger::new(LEDGER).enter(memory, 0, call);
    work.publish(memory, &request, W);
}

fn reap(memory: &LoomMemory, reaping: Reaping) {
    let call = Ledger::new(LEDGER).read(memory, 0).expect("it was entered");
    let is_answered = replies().stamp(memory, call.ticket) > call.ticket;
    if !is_answered || reaping == Reaping::IgnoresTheStamp {
        answer(memory, if call.position >= memory.load(TAKEN) { NOT_BEGUN } else { WORKER_DIED });
    }
}

fn worker(memory: &LoomMemory, begins: Begins) {
    let mut work = Taker::<W>::new(WORK, SLOTS, 0);
    let record = until(|| work.take(memory, |_| false).expect("overrun"));
    assert_eq!(record[1..], [TICKET, !TICKET], "torn: the worker's record");
    if begins == Begins::BeforeItRuns {
        memory.store(TAKEN, work.next());
        memory.release(); // no effect of the operation may outlive a worker whose `taken` does not
    }
    assert_eq!(memory.load(PAYLOAD), ARGUMENT, "torn: the payload");
    memory.store(RAN, 1);
    if begins == Begins::AfterItRan {
        memory.release();
        memory.store(TAKEN, work.next());
    }
    answer(memory, SERVED);
    memory.store(COMPLETED, 1);
    memory.full();
    memory.store(DONE, work.next());
}

/// The first thread is the director; the end of the worker's is the death that the kernel reports.
fn model(weak: Weak, reaping: Reaping, begins: Begins, death: Death) -> impl Fn() + Send + Sync + 'static {
    move || {
        let memory = LoomMemory::new(WORDS, weak);
        let (caller, dying) = (memory.party(), memory.mortal(&death));
        let seen = Arc::new(AtomicU64::new(0));
        let note = seen.clone();
        let client = thread::spawn(move || note.store(client(&caller), Relaxed));
        let worker = thread::spawn(move || worker(&dying, begins));
        dispatch(&memory);
        if reaping == Reaping::TakesFromTheLiving {
            reap(&memory, reaping);
            worker.join().expect("it ends");
        } else {
            worker.join().expect("it ends");
            reap(&memory, reaping);
        }
        client.join().expect("it ends");
        check(&memory, seen.load(Relaxed));
    }
}

fn check(memory: &LoomMemory, seen: u64) {
    assert_eq!(memory.landed(REPLY), 1, "a published slot was written");
    assert_eq!(memory.load(REPLY + 1), seen, "a published slot was written");
    match seen {
        NOT_BEGUN => assert_eq!(memory.load(RAN), 0, "untrue: it ran"),
        WORKER_DIED => {}
        SERVED => assert_eq!(memory.load(RAN), 1, "untrue: it did not run"),
        other => panic!("torn: nobody answers {other}"),
    }
}

/// The model without a death.
fn lives(weak: Weak) -> impl Fn() + Send + Sync + 'static {
    model(weak, Reaping::Right, Begins::BeforeItRuns, Death::default())
}

#[test]
fn a_call_is_served_and_the_dead_workers_right_returns_to_the_director() {
    explore_deaths("hand-over, a worker killed anywhere", None, |death| {
        model(STRONG, Reaping::Right, Begins::BeforeItRuns, death)
    });
}

#[test]
fn needs_release_before_the_requests_stamp() {
    breaks("torn", || explore("", None, lives(&[(Fence::Release, REQUESTS..WORK)])));
}

#[test]
fn needs_acquire_after_the_requests_stamp() {
    breaks("torn", || explore("", None, lives(&[(Fence::Acquire, REQUESTS..WORK)])));
}

#[test]
fn needs_release_before_the_work_records_stamp() {
    breaks("torn: the worker's record", || explore("", None, lives(&[(Fence::Release, WORK..REPLY)])));
}

#[test]
fn needs_acquire_after_the_work_records_stamp() {
    breaks("torn: the worker's record", || explore("", None, lives(&[(Fence::Acquire, WORK..REPLY)])));
}

#[test]
fn needs_release_before_the_replys_stamp() {
    breaks("torn: the client's reply", || explore("", None, lives(&[(Fence::Release, REPLY..LEDGER)])));
}

#[test]
fn needs_acquire_after_the_replys_stamp() {
    breaks("torn: the client's reply", || explore("", None, lives(&[(Fence::Acquire, REPLY..LEDGER)])));
}

/// Only a death shows it: no living party looks at `taken` for this.
#[test]
fn needs_release_between_taken_and_running() {
    breaks("untrue: it ran", || {
        explore_deaths("", None, |death| {
            model(&[(Fence::Release, TAKEN..RAN)], Reaping::Right, Begins::BeforeItRuns, death)
        });
    });
}

#[test]
fn needs_taken_before_running() {
    breaks("untrue: it ran", || {
        explore_deaths("", None, |death| model(STRONG, Reaping::Right, Begins::AfterItRan, death));
    });
}

#[test]
fn needs_the_stamp_to_be_asked() {
    breaks("a published slot was written", || {
        explore_deaths("", None, |death| {
            model(STRONG, Reaping::IgnoresTheStamp, Begins::BeforeItRuns, death)
        });
    });
}

#[test]
fn needs_the_death_to_be_known() {
    breaks("a published slot was written", || {
        explore_deaths("", None, |death| {
            model(STRONG, Reaping::TakesFromTheLiving, Begins::BeforeItRuns, death)
        });
    });
}
