//! Every record of a ring arrives whole, in order, once, though its slots are used again and again: because the writer
//! reads how far the reader is (work ring), or because an answer proves that it has gone on (request ring).

use crate::explore::{breaks, explore, until};
use crate::memory::{Fence, LoomMemory, STRONG, Weak};
use loom::thread;
use trine::core::reply::Replies;
use trine::core::ring::{Publisher, Taker};
use trine::core::{Read, Write};

/// Words of a record here: a stamp and two more, so that one can be torn.
const W: usize = 3;
/// Positions cross a power of two.
const START: u64 = (1 << 32) - 1;

fn record(position: u64) -> [u64; W] {
    [0, position * 3, position * 5]
}

fn is_whole(record: &[u64; W], position: u64) {
    assert_eq!(record[1..], self::record(position)[1..], "torn: not the record of {position}");
}

mod work_ring {
    use super::*;

    const SLOTS: u64 = 2;
    const RECORDS: u64 = 4;
    const TAKEN: usize = SLOTS as usize * W;
    const WORDS: usize = TAKEN + 1;

    /// What the two parties do; the second is never right.
    #[derive(Clone, Copy)]
    struct Rules {
        /// How many records the writer puts ahead of the reader.
        ahead: u64,
        /// Whether the reader says that it has taken a record before it has copied it.
        says_too_early: bool,
    }
    const RULES: Rules = Rules { ahead: SLOTS, says_too_early: false };

    fn model(weak: Weak, rules: Rules) -> impl Fn() + Send + Sync + 'static {
        move || {
            let memory = LoomMemory::new(WORDS, weak);
            let own = memory.party();
            own.store(TAKEN, START);
            let seen = memory.party();
            thread::spawn(move || write(&seen, rules.ahead));
            read(&own, rules.says_too_early);
        }
    }

    fn write(memory: &LoomMemory, ahead: u64) {
        let mut ring = Publisher::<W>::new(0, SLOTS, START);
        while ring.next() < START + RECORDS {
            until(|| {
                let taken = memory.load(TAKEN);
                memory.acquire(); // pairs with the release in read
                (ring.next() < taken + ahead).then_some(())
            });
            ring.publish(memory, &record(ring.next()), W);
        }
    }

    fn read(memory: &LoomMemory, says_too_early: bool) {
        let mut ring = Taker::<W>::new(0, SLOTS, START);
        while ring.next() < START + RECORDS {
            let position = ring.next();
            let taken = until(|| {
                if says_too_early && ring.is_ready(memory) {
                    memory.store(TAKEN, position + 1);
                }
                ring.take(memory, |_| false).expect("overrun")
            });
            is_whole(&taken, position);
            memory.release(); // pairs with the acquire in write: the copy comes before the word that gives the slot up
            memory.store(TAKEN, ring.next());
        }
    }

    #[test]
    fn records_arrive_whole_in_order_and_once() {
        explore("ring, reused as the reader goes on", Some(4), model(STRONG, RULES));
    }

    #[test]
    fn needs_release_before_the_stamp() {
        breaks("torn", || explore("", None, model(&[(Fence::Release, 0..TAKEN)], RULES)));
    }

    #[test]
    fn needs_acquire_after_the_stamp() {
        breaks("torn", || explore("", None, model(&[(Fence::Acquire, 0..TAKEN)], RULES)));
    }

    #[test]
    fn needs_progress_to_be_said_after_the_copy() {
        let rules = Rules { says_too_early: true, ..RULES };
        breaks("torn", || explore("", None, model(STRONG, rules)));
    }

    #[test]
    fn needs_the_writer_to_stay_within_the_ring() {
        let rules = Rules { ahead: SLOTS + 1, ..RULES };
        breaks("torn", || explore("", None, model(STRONG, rules)));
    }
}

mod request_ring {
    //! One reply slot, so N = 1. The ticket that is open when the model begins was dispatched by the director before;
    //! its client publishes it again, but a worker may answer it at any time, and then the client goes on.
    use super::*;

    const REPLY: usize = 2 * W;
    const WORDS: usize = REPLY + W;
    const REPLIES: u64 = 1;
    const CALLS: [u64; 3] = [START, START + 1, START + 2];

    /// Tickets of the three calls, and R.
    fn model(weak: Weak, tickets: [u64; 3], slots: u64) -> impl Fn() + Send + Sync + 'static {
        move || {
            let memory = LoomMemory::new(WORDS, weak);
            let (worker, client) = (memory.party(), memory.party());
            thread::spawn(move || replies().publish(&worker, tickets[0], &record(CALLS[0]), W));
            thread::spawn(move || call(&client, tickets, slots));
            direct(&memory.party(), tickets, slots);
        }
    }

    fn replies() -> Replies<W> {
        Replies::new(REPLY, REPLIES)
    }

    fn call(memory: &LoomMemory, tickets: [u64; 3], slots: u64) {
        let mut ring = Publisher::<W>::new(0, slots, START);
        for (call, ticket) in CALLS.into_iter().zip(tickets) {
            ring.publish(memory, &record(call), W);
            let reply = until(|| replies().take(memory, ticket, |_| false));
            is_whole(&reply, call);
        }
    }

    fn direct(memory: &LoomMemory, tickets: [u64; 3], slots: u64) {
        let mut ring = Taker::<W>::new(0, slots, START);
        for (call, ticket) in CALLS.into_iter().zip(tickets) {
            let taken = until(|| ring.take(memory, |_| false).expect("overrun"));
            is_whole(&taken, call);
            if call != CALLS[0] {
                replies().publish(memory, ticket, &record(call), W);
            }
        }
    }

    #[test]
    fn of_twice_the_open_calls_never_overruns_and_no_answer_meets_another_call() {
        explore("request ring of 2N, one reply slot", None, model(STRONG, CALLS, 2));
    }

    #[test]
    fn needs_twice_the_open_calls() {
        breaks("torn", || explore("", None, model(STRONG, CALLS, 1)));
    }

    #[test]
    fn needs_a_new_ticket_for_each_call() {
        breaks("torn", || explore("", None, model(STRONG, [START, START + 1, START + 1], 2)));
    }

    #[test]
    fn needs_release_before_the_replys_stamp() {
        breaks("torn", || explore("", None, model(&[(Fence::Release, REPLY..WORDS)], CALLS, 2)));
    }

    #[test]
    fn needs_acquire_after_the_replys_stamp() {
        breaks("torn", || explore("", None, model(&[(Fence::Acquire, REPLY..WORDS)], CALLS, 2)));
    }
}
