//! An entry names one call, whole, or nothing, wherever its writer was killed; and it is used again only when its own
//! call is done.

use crate::explore::{Event, breaks, explore, explore_deaths, until};
use crate::memory::{Death, Fence, LoomMemory, STRONG, Weak};
use loom::thread;
use trine::core::ledger::{Entry, Ledger};
use trine::core::{Read, Write};
use trine::layout::LEDGER_ENTRY;

const POSITION: usize = 0;
const TICKET: usize = 2;

/// The release that stands between the invalid position and the new words.
const WITHOUT_RELEASE_AFTER_INVALID: Weak = &[(Fence::Release, POSITION..POSITION + 1)];
/// The release that stands between the new words and the new position.
const WITHOUT_RELEASE_BEFORE_POSITION: Weak = &[(Fence::Release, TICKET..TICKET + 1)];
const WITHOUT_ACQUIRE_AFTER_POSITION: Weak = &[(Fence::Acquire, POSITION..POSITION + 1)];

const OLD: Entry = Entry { position: (1 << 32) - 2, session: 3, ticket: 5 };
const NEW: Entry = Entry { position: (1 << 32) - 1, session: 4, ticket: 6 };

fn is_whole(found: Entry) {
    assert!(found == OLD || found == NEW, "torn: {found:?}");
}

mod killed {
    //! The writer is a director that is killed somewhere; the reader is the next one, which the lock tells that the
    //! writer stores no more. No fence is needed between the two: those in `enter` order what a kill can leave.
    use super::*;

    fn model(weak: Weak, death: Death) -> impl Fn() + Send + Sync + 'static {
        move || {
            let memory = LoomMemory::new(LEDGER_ENTRY, weak);
            let lock = Event::new();
            Ledger::new(0).enter(&memory, 0, OLD);
            let (director, released) = (memory.mortal(&death), lock.clone());
            thread::spawn(move || {
                Ledger::new(0).enter(&director, 0, NEW);
                released.raise();
            });
            lock.wait_for(1);
            if let Some(found) = Ledger::new(0).read(&memory, 0) {
                is_whole(found);
            }
        }
    }

    #[test]
    fn writer_leaves_the_old_entry_none_or_the_new_one() {
        explore_deaths("ledger, its writer killed anywhere", None, |death| model(STRONG, death));
    }

    #[test]
    fn writer_needs_release_after_the_invalid_position() {
        breaks("torn", || explore_deaths("", None, |death| model(WITHOUT_RELEASE_AFTER_INVALID, death)));
    }

    #[test]
    fn writer_needs_release_before_the_new_position() {
        breaks("torn", || explore_deaths("", None, |death| model(WITHOUT_RELEASE_BEFORE_POSITION, death)));
    }
}

mod alive {
    //! The same fences seen by a reader beside a writer that lives. It reads twice: an entry counts if its position is
    //! still there afterwards.
    use super::*;

    fn model(weak: Weak) -> impl Fn() + Send + Sync + 'static {
        move || {
            let memory = LoomMemory::new(LEDGER_ENTRY, weak);
            Ledger::new(0).enter(&memory, 0, OLD);
            let director = memory.party();
            thread::spawn(move || Ledger::new(0).enter(&director, 0, NEW));
            let found = Ledger::new(0).read(&memory, 0);
            memory.acquire();
            let again = Ledger::new(0).read(&memory, 0);
            if let (Some(found), Some(again)) = (found, again)
                && found.position == again.position
            {
                is_whole(found);
            }
        }
    }

    #[test]
    fn writer_is_read_beside() {
        explore("ledger, its writer alive", None, model(STRONG));
    }

    #[test]
    fn writer_needs_release_after_the_invalid_position() {
        breaks("torn", || explore("", None, model(WITHOUT_RELEASE_AFTER_INVALID)));
    }

    #[test]
    fn writer_needs_release_before_the_new_position() {
        breaks("torn", || explore("", None, model(WITHOUT_RELEASE_BEFORE_POSITION)));
    }

    #[test]
    fn reader_needs_acquire_after_the_position() {
        breaks("torn", || explore("", None, model(WITHOUT_ACQUIRE_AFTER_POSITION)));
    }
}

mod reuse {
    //! Three calls, two entries, and a worker that keeps the first call and answers the second: the third call may have
    //! the second's entry, never the first's. When the worker is killed, the book still names all that it held.
    use super::*;
    use trine::core::reply::Replies;
    use trine::core::ring::{Publisher, Taker};

    const W: usize = 2;
    const SLOTS: u64 = 4;
    const ENTRIES: u16 = 2;
    const CALLS: u64 = 3;
    const WORK: usize = ENTRIES as usize * LEDGER_ENTRY;
    const REPLY: usize = WORK + SLOTS as usize * W;
    const DONE: usize = REPLY + SLOTS as usize * W;
    const COMPLETED: usize = DONE + ENTRIES as usize;
    const WORDS: usize = COMPLETED + 1;

    /// How a director tells that an entry is free.
    #[derive(Clone, Copy)]
    enum Free {
        ByItsDoneMark,
        ByCount,
    }

    /// A work record's one word: which entry its call has.
    fn record(entry: u16) -> [u64; W] {
        [0, u64::from(entry)]
    }

    fn replies() -> Replies<W> {
        Replies::new(REPLY, SLOTS)
    }

    fn answer(memory: &LoomMemory, call: u64) {
        replies().publish(memory, call, &[0, call], W);
    }

    /// Tickets are positions here.
    fn dispatch(memory: &LoomMemory, work: &mut Publisher<W>, entry: u16) {
        let call = Entry { position: work.next(), session: 1, ticket: work.next() };
        Ledger::new(0).enter(memory, entry, call);
        work.publish(memory, &record(entry), W);
    }

    fn free_entry(memory: &LoomMemory, pushed: u64, free: Free) -> Option<u16> {
        match free {
            Free::ByItsDoneMark => (0..ENTRIES).find(|&entry| {
                let open = Ledger::new(0).read(memory, entry).expect("all are in use");
                memory.load(DONE + usize::from(entry)) == open.position + 1
            }),
            Free::ByCount => {
                let next = (pushed % u64::from(ENTRIES)) as u16;
                (pushed - memory.load(COMPLETED) < u64::from(ENTRIES)).then_some(next)
            }
        }
    }

    fn director(memory: &LoomMemory, gone: &Event, free: Free) {
        let mut work = Publisher::<W>::new(WORK, SLOTS, 0);
        dispatch(memory, &mut work, 0);
        dispatch(memory, &mut work, 1);
        let room = until(|| {
            let is_gone = gone.count() == 1;
            free_entry(memory, work.next(), free).map(Some).or(is_gone.then_some(None))
        });
        match room {
            Some(entry) => dispatch(memory, &mut work, entry),
            None => answer(memory, work.next()),
        }
        gone.wait_for(1);
        for entry in 0..ENTRIES {
            let open = Ledger::new(0).read(memory, entry).expect("all are in use");
            if replies().stamp(memory, open.ticket) <= open.ticket {
                answer(memory, open.ticket);
            }
        }
    }

    fn worker(memory: &LoomMemory) {
        let mut work = Taker::<W>::new(WORK, SLOTS, 0);
        let mut completed = 0;
        let mut take = || {
            until(|| {
                let taken = work.take(memory, |_| false).expect("overrun");
                taken.map(|record| Some(record[1])).or(memory.is_killed().then_some(None))
            })
        };
        let mut finish = |call: u64, entry: u64| {
            answer(memory, call);
            completed += 1;
            memory.store(COMPLETED, completed);
            memory.full();
            memory.store(DONE + entry as usize, call + 1);
        };
        let (Some(kept), Some(second)) = (take(), take()) else { return };
        finish(1, second);
        let Some(third) = take() else { return };
        finish(2, third);
        finish(0, kept);
    }

    fn model(free: Free, death: Death) -> impl Fn() + Send + Sync + 'static {
        move || {
            let memory = LoomMemory::new(WORDS, STRONG);
            let gone = Event::new();
            let (dying, died) = (memory.mortal(&death), gone.clone());
            thread::spawn(move || {
                worker(&dying);
                died.raise();
            });
            director(&memory, &gone, free);
            for call in 0..CALLS {
                let stamp = REPLY + replies().slot(call) * W;
                assert_eq!(memory.landed(stamp), 1, "call {call} was not answered once");
            }
        }
    }

    #[test]
    fn an_entry_is_free_when_its_own_call_is_done() {
        explore_deaths("ledger entries, reused by done mark", None, |death| {
            model(Free::ByItsDoneMark, death)
        });
    }

    #[test]
    fn needs_the_entrys_own_done_mark() {
        breaks("call 0 was not answered once", || {
            explore_deaths("", None, |death| model(Free::ByCount, death));
        });
    }
}
