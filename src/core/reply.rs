//! The reply slots of a session: where the right to answer is spent.
//!
//! ```text
//! slot of ticket T = T % N:   [ words 1..W ] ─ release ─► [ word 0: stamp = T + 1 ]
//! ```
//! The right is linear: client, then director, then worker hold it, never two at once, so a slot has one writer at
//! a time and needs no compare-and-swap. It is spent by publishing the stamp. Stamps of a slot only grow, and a
//! ticket is never used again, so a late reply can't be taken for the answer to a newer call.

use super::ring::{read_record, write_record};
use super::{Read, Write};
use crate::layout::HEAD;

/// Where the reply slots lie.
#[derive(Clone, Copy, Debug)]
pub struct Replies<const W: usize> {
    base: usize,
    mask: u64,
}

impl<const W: usize> Replies<W> {
    /// `slots` reply slots from word `base` on.
    pub fn new(base: usize, slots: u64) -> Self {
        assert!(slots.is_power_of_two(), "a session has a power of two of slots, not {slots}");
        Replies { base, mask: slots - 1 }
    }

    /// The slot of a ticket.
    #[inline]
    pub fn slot(&self, ticket: u64) -> usize {
        (ticket & self.mask) as usize
    }

    #[inline]
    fn at(&self, ticket: u64) -> usize {
        self.base + self.slot(ticket) * W
    }

    /// Answers a ticket: spends the reply right, which the caller holds. Word 0 of the record is ignored, and its second
    /// half is written only where `used` words reach into it. Wait-free.
    #[inline]
    pub fn publish(&self, mem: &impl Write, ticket: u64, record: &[u64; W], used: usize) {
        let at = self.at(ticket);
        write_record(mem, at, record, used);
        mem.release(); // pairs with the acquire in take
        mem.store(at, ticket + 1);
    }

    /// Fetches a ticket's slot before it is answered.
    #[inline]
    pub fn prepare(&self, mem: &impl Write, ticket: u64) {
        let at = self.at(ticket);
        mem.prepare(at);
        mem.prepare(at + HEAD.min(W - 1));
    }

    /// The stamp in a ticket's slot: above the ticket, if it was answered.
    #[inline]
    pub fn stamp(&self, mem: &impl Read, ticket: u64) -> u64 {
        mem.load(self.at(ticket))
    }

    /// The answer to a ticket, if it is there: a private copy, which the caller validates.
    #[inline]
    pub fn take(
        &self,
        mem: &impl Read,
        ticket: u64,
        tail: impl FnOnce(&[u64; W]) -> bool,
    ) -> Option<[u64; W]> {
        let mut record = [0; W];
        self.take_into(mem, ticket, &mut record, tail).then_some(record)
    }

    /// The same, into a copy that there is already: what is not read of it stays. Says whether there is an answer.
    #[inline(always)]
    pub fn take_into(
        &self,
        mem: &impl Read,
        ticket: u64,
        record: &mut [u64; W],
        tail: impl FnOnce(&[u64; W]) -> bool,
    ) -> bool {
        if self.stamp(mem, ticket) <= ticket {
            return false;
        }
        mem.acquire(); // pairs with the release in publish
        read_record(mem, self.at(ticket), record, tail);
        true
    }
}
