//! A director is killed while it dispatches, and the next one settles what its client publishes again: the call is
//! answered once, and has run once.
//!
//! ```text
//! first director   request ─► ledger ─► work ✝ after any store
//! worker                                 └─► taken … presents t, which is final; answers what it began
//! next director    the stamp is in: nothing │ entered at P < t: nothing, it will be answered │ else: dispatched
//! ```

use crate::explore::{Event, breaks, explore_deaths, until};
use crate::memory::{Death, LoomMemory, STRONG};
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
const TAKEN: usize = LEDGER + trine::layout::LEDGER_ENTRY;
const PRESENTED: usize = TAKEN + 1;
const WORDS: usize = PRESENTED + 1;

const TICKET: u64 = (1 << 32) - 1;
const SESSION: u64 = 7;

/// A rule that somebody breaks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Broken {
    None,
    /// The director pushes before it enters.
    Ledger,
    /// The worker takes after it has said where it stands.
    Final,
    /// The next director asks only whether the call was entered, not whether it was begun.
    Begun,
}

fn answer(memory: &LoomMemory) {
    Replies::<W>::new(REPLY, 1).publish(memory, TICKET, &[0, 1, !1], W);
}

fn publish(memory: &LoomMemory, position: u64) {
    Publisher::<W>::new(REQUESTS, SLOTS, position).publish(memory, &[0, TICKET, !TICKET], W);
}

fn dispatch(memory: &LoomMemory, broken: Broken) {
    let mut requests = Taker::<W>::new(REQUESTS, SLOTS, 0);
    let request = requests.take(memory, |_| false).expect("overrun").expect("it was published");
    let call = Entry { position: 0, session: SESSION, ticket: TICKET };
    let push = || Publisher::<W>::new(WORK, SLOTS, 0).publish(memory, &request, W);
    if broken == Broken::Ledger {
        push();
    }
    Ledger::new(LEDGER).enter(memory, 0, call);
    if broken != Broken::Ledger {
        push();
    }
}

/// Takes what comes before its director is gone; presents itself, and answers what it took.
fn work(memory: &LoomMemory, gone: &Event, ran: &AtomicU64, broken: Broken) {
    let mut ring = Taker::<W>::new(WORK, SLOTS, 0);
    let mut take = || {
        let taken = ring.take(memory, |_| false).expect("overrun").is_some();
        if taken {
            memory.store(TAKEN, ring.next());
            memory.release();
        }
        taken
    };
    let mut begun = until(|| match take() {
        true => Some(true),
        false => (gone.count() > 0).then_some(false),
    });
    gone.wait_for(1);
    let stands_at = memory.load(TAKEN);
    memory.release(); // as the control socket does it
    memory.store(PRESENTED, stands_at + 1);
    if broken == Broken::Final && !begun {
        begun = take();
    }
    if begun {
        ran.fetch_add(1, Relaxed);
        answer(memory);
    }
}

/// The next director, and a worker of its own.
fn settle(memory: &LoomMemory, ran: &AtomicU64, broken: Broken) {
    let stands_at = until(|| memory.load(PRESENTED).checked_sub(1));
    memory.acquire();
    let entered = Ledger::new(LEDGER).read(memory, 0).filter(|call| call.ticket == TICKET);
    let is_answered = Replies::<W>::new(REPLY, 1).stamp(memory, TICKET) > TICKET;
    let is_begun = |call: Entry| call.position < stands_at || broken == Broken::Begun;
    if !is_answered && !entered.is_some_and(is_begun) {
        ran.fetch_add(1, Relaxed);
        answer(memory);
    }
}

fn model(broken: Broken, death: Death) -> impl Fn() + Send + Sync + 'static {
    move || {
        let memory = LoomMemory::new(WORDS, STRONG);
        let (dying, serving) = (memory.mortal(&death), memory.party());
        let (gone, ran) = (Arc::new(Event::new()), Arc::new(AtomicU64::new(0)));
        let (seen, counted) = (gone.clone(), ran.clone());
        publish(&memory, 0);
        let first = thread::spawn(move || dispatch(&dying, broken));
        let worker = thread::spawn(move || work(&serving, &seen, &counted, broken));
        first.join().expect("it ends");
        gone.raise();
        publish(&memory, 1); // again
        settle(&memory, &ran, broken);
        worker.join().expect("it ends");
        assert_eq!(ran.load(Relaxed), 1, "it did not run once");
        assert_eq!(memory.landed(REPLY), 1, "it was not answered once");
    }
}

fn explored(broken: Broken) {
    explore_deaths("settling what a killed director dispatched", Some(3), |death| model(broken, death));
}

#[test]
fn a_call_whose_director_was_killed_runs_once_and_is_answered_once() {
    explored(Broken::None);
}

#[test]
fn needs_the_ledger_before_the_push() {
    breaks("it did not run once", || explored(Broken::Ledger));
}

#[test]
fn needs_a_taken_that_is_final() {
    breaks("it did not run once", || explored(Broken::Final));
}

#[test]
fn needs_to_know_what_was_begun() {
    breaks("it did not run once", || explored(Broken::Begun));
}
