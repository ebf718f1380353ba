//! One request to several workers: whoever has seen the answer to a part knows which tickets are no part.
//!
//! ```text
//! director ─ NO_PART in slot 1 ─► pushes the part ─► worker ─ answers in slot 0 ─► client: slot 0, then slot 1
//! ```
//! The client reads slot 1 once, after it has seen slot 0: the count of parts that it tells its caller from then on rests
//! on that. No party tells another how many there are; the order is carried through all three.

use crate::explore::{breaks, explore, until};
use crate::memory::{Fence, LoomMemory, STRONG, Weak};
use loom::thread;
use trine::core::reply::Replies;
use trine::core::ring::{Publisher, Taker};

const W: usize = 3;
const SLOTS: u64 = 2;
const WORK: usize = 0;
const PART: usize = WORK + SLOTS as usize * W;
const NO_PART: usize = PART + W;
const WORDS: usize = NO_PART + W;

/// The tickets: of the part, and of what is none.
const PART_TICKET: u64 = (1 << 32) - 2;
const NO_PART_TICKET: u64 = PART_TICKET + 1;

/// When the director says what is no part.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Says {
    BeforeItPushes,
    AfterItPushed,
}

fn replies() -> Replies<W> {
    Replies::new(PART, 2)
}

fn answer(memory: &LoomMemory, ticket: u64) {
    replies().publish(memory, ticket, &[0, ticket, !ticket], W);
}

fn director(memory: &LoomMemory, says: Says) {
    if says == Says::BeforeItPushes {
        answer(memory, NO_PART_TICKET);
    }
    Publisher::<W>::new(WORK, SLOTS, 0).publish(memory, &[0, PART_TICKET, !PART_TICKET], W);
    if says == Says::AfterItPushed {
        answer(memory, NO_PART_TICKET);
    }
}

fn worker(memory: &LoomMemory) {
    let mut work = Taker::<W>::new(WORK, SLOTS, 0);
    until(|| work.take(memory, |_| false).expect("overrun"));
    // It needs nothing of the record, which may be torn where a fence is missing: that is another model's matter.
    answer(memory, PART_TICKET);
}

fn client(memory: &LoomMemory) {
    until(|| replies().take(memory, PART_TICKET, |_| false));
    let no_part = replies().take(memory, NO_PART_TICKET, |_| false);
    let no_part = no_part.expect("miscounted: the client takes for a part what is none");
    assert_eq!(no_part[1..], [NO_PART_TICKET, !NO_PART_TICKET], "torn: what is no part");
}

fn model(weak: Weak, says: Says) -> impl Fn() + Send + Sync + 'static {
    move || {
        let memory = LoomMemory::new(WORDS, weak);
        let (serving, calling) = (memory.party(), memory.party());
        let worker = thread::spawn(move || worker(&serving));
        let client = thread::spawn(move || client(&calling));
        director(&memory, says);
        worker.join().expect("it ends");
        client.join().expect("it ends");
    }
}

#[test]
fn a_parts_answer_says_how_many_parts_there_are() {
    explore("scatter, one part of two tickets", None, model(STRONG, Says::BeforeItPushes));
}

#[test]
fn needs_no_part_to_be_said_before_the_push() {
    breaks("miscounted", || explore("", None, model(STRONG, Says::AfterItPushed)));
}

#[test]
fn needs_release_before_the_work_records_stamp() {
    breaks("miscounted", || {
        explore("", None, model(&[(Fence::Release, WORK..PART)], Says::BeforeItPushes));
    });
}

#[test]
fn needs_acquire_after_the_work_records_stamp() {
    breaks("miscounted", || {
        explore("", None, model(&[(Fence::Acquire, WORK..PART)], Says::BeforeItPushes));
    });
}

#[test]
fn needs_release_before_the_parts_stamp() {
    breaks("miscounted", || {
        explore("", None, model(&[(Fence::Release, PART..NO_PART)], Says::BeforeItPushes));
    });
}

#[test]
fn needs_acquire_after_the_parts_stamp() {
    breaks("miscounted", || {
        explore("", None, model(&[(Fence::Acquire, PART..NO_PART)], Says::BeforeItPushes));
    });
}
