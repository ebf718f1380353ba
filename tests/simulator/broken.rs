//! Memory that breaks a rule: each shows in the simulator what the rule is for.
//!
//! A party's code is the shipped one; what it stores comes late, elsewhere or not at all, or it reads what it should
//! not go by. So a party seems to have forgotten a rule that its code keeps.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use trine::core::Write;
use trine::layout::{LEDGER_ENTRY, LINE, flag};

use crate::simulator::memory::{Region, Role, Segment};
use crate::simulator::plan::{CLIENTS, DIRECTOR, Mutation, WORKERS};

/// What a party's broken memory has in mind.
#[derive(Default)]
pub struct Broken {
    /// A store that is held back.
    held_back: Cell<Option<(usize, u64)>>,
    /// By session and slot: stamps that a client takes for there, since it has given the calls up.
    freed: RefCell<HashMap<(usize, usize), u64>>,
    /// The done mark of the call that is about to be answered.
    pub done: RefCell<Option<(Rc<Segment>, usize, u64)>>,
}

/// The slot whose stamp this word is, in slots from word `base` on.
fn stamp_of(base: usize, word: usize) -> Option<usize> {
    let at = word.checked_sub(base)?;
    at.is_multiple_of(LINE).then_some(at / LINE)
}

impl Region<'_> {
    fn mutation(&self) -> Mutation {
        self.cpu.world.plan.mutation
    }

    /// Where a word lies: a request ring of R = N has two positions where there should be one.
    pub fn misplaced(&self, word: usize) -> usize {
        let Role::Outbox(_, shape) = self.segment.role else { return word };
        let ring = shape.outbox().ring;
        if self.mutation() == Mutation::SmallRing && word >= ring {
            let slots = shape.ring_slots() as usize / 2;
            return ring + (word - ring) % (slots * LINE);
        }
        word
    }

    /// What a party goes by, of a word that holds `value`.
    pub fn misread(&self, word: usize, value: u64) -> u64 {
        let party = self.cpu.party;
        match (self.mutation(), self.segment.role) {
            (Mutation::FreedByDeadline, Role::Inbox(_, shape)) if CLIENTS.contains(&party) => {
                let slot = stamp_of(shape.inbox().replies, word);
                let freed = self.cpu.broken.freed.borrow();
                let stamp = slot.and_then(|slot| freed.get(&(self.segment.session, slot)));
                stamp.map_or(value, |&stamp| stamp.max(value))
            }
            (Mutation::StampByEquality, Role::Inbox(_, shape)) if party == DIRECTOR => {
                match stamp_of(shape.inbox().replies, word) {
                    Some(slot) if self.is_older_entry(slot as u64, u64::from(shape.slots), value) => 0,
                    _ => value,
                }
            }
            (Mutation::EntryByCount, Role::Page(worker, shape)) if party == DIRECTOR => {
                let at = shape.progress();
                let entry = word.wrapping_sub(at.done);
                let by_count = word >= at.done && self.cpu.world.epoch.get() == 1;
                if by_count {
                    self.done_by_count(worker, entry, self.segment.get(at.completed))
                } else {
                    value
                }
            }
            _ => value,
        }
    }

    /// Whether the ledgers name an older ticket of this slot than the one that was answered, and not that one.
    fn is_older_entry(&self, slot: u64, slots: u64, stamp: u64) -> bool {
        let world = &self.cpu.world;
        let session = world.referee.borrow().id_of(self.segment.session);
        let named = |ticket: u64| {
            world.ledgers().any(|(_, segment, at)| {
                segment.get(at) > 0 && segment.get(at + 1) == session && segment.get(at + 2) == ticket
            })
        };
        let older = (slot..stamp.saturating_sub(1)).step_by(slots as usize).any(named);
        older && !named(stamp - 1)
    }

    /// What a mark would be, if calls were answered in their order.
    fn done_by_count(&self, worker: usize, entry: usize, completed: u64) -> u64 {
        let world = &self.cpu.world;
        let of_worker = world.ledgers().filter(|(party, ..)| *party == worker);
        let Some((_, segment, at)) = of_worker.skip(entry).step_by(self.slots()).last() else { return 0 };
        let position = segment.get(at).saturating_sub(1);
        if position < world.plan.start + completed { position + 1 } else { 0 }
    }

    fn slots(&self) -> usize {
        self.cpu.world.plan.work.slots as usize
    }

    /// A store: late, changed, or not at all.
    pub fn store_broken(&self, word: usize, value: u64) {
        let value = self.silenced(word, value);
        if self.is_lost(word, value) {
            return;
        }
        if self.is_late(word) {
            return self.cpu.broken.held_back.set(Some((word, value)));
        }
        self.free_what_is_given_up(word, value);
        self.mark_done_first(word);
        self.execute(word, value);
        if let Some((late, value)) = self.cpu.broken.held_back.get()
            && self.is_held_back(late, word)
        {
            self.cpu.broken.held_back.set(None);
            self.cpu.step();
            self.execute(late, value);
        }
    }

    /// Whether the memory holds the store of word `late` back until that of `word`, in the same segment.
    fn is_held_back(&self, late: usize, word: usize) -> bool {
        match (self.mutation(), self.segment.role) {
            (Mutation::LateTaken, Role::Page(_, shape)) => {
                let at = shape.progress();
                (late, word) == (at.taken, at.completed)
            }
            (Mutation::LateReplyBody, Role::Inbox(_, shape)) => {
                stamp_of(shape.inbox().replies, word).is_some() && late == word + 4
            }
            (Mutation::LateRequestBody, Role::Outbox(_, shape)) => {
                stamp_of(shape.outbox().ring, word).is_some() && late == word + 7
            }
            (Mutation::LateWorkBody, Role::Work(_, shape)) => {
                let at = shape.work();
                word < at.ledger && stamp_of(at.ring, word).is_some() && late == word + 7
            }
            (Mutation::LateLedger, Role::Work(_, shape)) => {
                let at = shape.work();
                let is_entry = late >= at.ledger && (late - at.ledger).is_multiple_of(LEDGER_ENTRY);
                word < at.ledger && stamp_of(at.ring, word).is_some() && is_entry
            }
            _ => false,
        }
    }

    /// Whether it holds this store back at all.
    fn is_late(&self, word: usize) -> bool {
        let until = match (self.mutation(), self.segment.role) {
            (Mutation::LateTaken, Role::Page(_, shape)) => shape.progress().completed,
            (Mutation::LateReplyBody, Role::Inbox(..)) => word.wrapping_sub(4),
            (Mutation::LateRequestBody, Role::Outbox(..)) => word.wrapping_sub(7),
            (Mutation::LateWorkBody, Role::Work(..)) => word.wrapping_sub(7),
            (Mutation::LateLedger, Role::Work(_, shape)) => shape.work().ring,
            _ => return false,
        };
        self.is_held_back(word, until)
    }

    /// What a broken client publishes: it does not say that it has published this before.
    fn silenced(&self, word: usize, value: u64) -> u64 {
        let Role::Outbox(_, shape) = self.segment.role else { return value };
        let ring = shape.outbox().ring;
        let is_flags = word >= ring && (word - ring) % LINE == 2;
        let silent = self.mutation() == Mutation::SilentAgain && is_flags;
        if silent { value & !(u64::from(flag::AGAIN | flag::QUARANTINED) << 32) } else { value }
    }

    /// A ledger entry is not made invalid before it is overwritten.
    fn is_lost(&self, word: usize, value: u64) -> bool {
        let Role::Work(_, shape) = self.segment.role else { return false };
        let at = shape.work().ledger;
        let is_entry = word >= at && (word - at).is_multiple_of(LEDGER_ENTRY);
        self.mutation() == Mutation::EntryStaysValid && is_entry && value == 0
    }

    /// A client that gives a call up takes its slot for free.
    fn free_what_is_given_up(&self, word: usize, stamp: u64) {
        let Role::Outbox(_, shape) = self.segment.role else { return };
        let slot = word.wrapping_sub(shape.outbox().cancel);
        if self.mutation() == Mutation::FreedByDeadline && slot < shape.slots as usize {
            self.cpu.broken.freed.borrow_mut().insert((self.segment.session, slot), stamp);
        }
    }

    /// A worker that answers has marked the call done before.
    fn mark_done_first(&self, word: usize) {
        let Role::Inbox(_, shape) = self.segment.role else { return };
        if !WORKERS.contains(&self.cpu.party) || stamp_of(shape.inbox().replies, word).is_none() {
            return;
        }
        if let Some((page, at, mark)) = self.cpu.broken.done.take() {
            self.cpu.map(&page).store(at, mark);
        }
    }
}
