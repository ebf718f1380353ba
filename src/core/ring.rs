//! A ring of records with one writer and one reader, in which the record says itself that it is there.
//!
//! ```text
//!            position p lies in slot p % slots
//! writer ──► [ words 1..W ] ─ release ─► [ word 0: stamp = p + 1 ] ──► reader polls the stamp of its next position
//! ```
//! There is no head and no tail in shared memory: a message costs one transfer of the line that carries it. What a
//! writer needs in return is to know otherwise that a slot has been taken before it is used again: the request ring
//! has twice the slots of what can be open, the work ring's writer reads how far its reader is when it runs out.
//! A reader that tells how far it is does so after a `release`, and its writer goes by that word after an `acquire`:
//! otherwise the word could give up a slot whose copy is still being made. A writer that dies in the middle has
//! published nothing.
//!
//! Positions are 64-bit and only grow, so a stamp is never seen twice.

use super::{Read, Write};
use crate::layout::HEAD;

/// Where a ring lies.
#[derive(Clone, Copy, Debug)]
struct Slots<const W: usize> {
    base: usize,
    mask: u64,
}

impl<const W: usize> Slots<W> {
    fn new(base: usize, slots: u64) -> Self {
        assert!(slots.is_power_of_two(), "a ring has a power of two of slots, not {slots}");
        Slots { base, mask: slots - 1 }
    }

    #[inline]
    fn at(&self, position: u64) -> usize {
        self.base + (position & self.mask) as usize * W
    }
}

/// The writing end: the only one.
#[derive(Debug)]
pub struct Publisher<const W: usize> {
    slots: Slots<W>,
    next: u64,
}

impl<const W: usize> Publisher<W> {
    /// Writes `slots` records from word `base` on, beginning at position `start`.
    pub fn new(base: usize, slots: u64, start: u64) -> Self {
        Publisher { slots: Slots::new(base, slots), next: start }
    }

    /// The position of the next record.
    #[inline]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Publishes a record; its word 0 is ignored, and its second half is written only where `used` words reach into
    /// it. The caller knows that the slot's last record was taken. Wait-free.
    #[inline]
    pub fn publish(&mut self, mem: &impl Write, record: &[u64; W], used: usize) {
        let at = self.slots.at(self.next);
        write_record(mem, at, record, used);
        self.next += 1;
        mem.release(); // pairs with the acquire in Taker::take
        mem.store(at, self.next);
        let ahead = self.slots.at(self.next);
        mem.prepare(ahead);
        if used > HEAD {
            mem.prepare(ahead + HEAD);
        }
    }
}

/// A stamp that its writer can't have reached: the ring is broken, or its writer lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overrun {
    /// The position that was to be read.
    pub position: u64,
    /// The stamp found there.
    pub stamp: u64,
}

/// The reading end: the only one.
#[derive(Debug)]
pub struct Taker<const W: usize> {
    slots: Slots<W>,
    next: u64,
}

impl<const W: usize> Taker<W> {
    /// Reads `slots` records from word `base` on, beginning at position `start`.
    pub fn new(base: usize, slots: u64, start: u64) -> Self {
        Taker { slots: Slots::new(base, slots), next: start }
    }

    /// The position of the next record.
    #[inline]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Whether the next record is there; costs the load that `take` begins with.
    #[inline]
    pub fn is_ready(&self, mem: &impl Read) -> bool {
        mem.load(self.slots.at(self.next)) > self.next
    }

    /// The position behind the last record that is there. One load for each that is.
    pub fn ready_end(&self, mem: &impl Read) -> u64 {
        let ready = |&position: &u64| mem.load(self.slots.at(position)) > position;
        self.next + (self.next..=self.next + self.slots.mask).take_while(ready).count() as u64
    }

    /// Takes the next record: one private copy, which the caller validates. See [`take_into`](Self::take_into).
    #[inline]
    pub fn take(
        &mut self,
        mem: &impl Read,
        tail: impl FnOnce(&[u64; W]) -> bool,
    ) -> Result<Option<[u64; W]>, Overrun> {
        let mut record = [0; W];
        Ok(self.take_into(mem, &mut record, tail)?.then_some(record))
    }

    /// Takes the next record into a private copy, which the caller validates, and says whether there is one. Its second
    /// half is read only when `tail` says so of the first; else what stood in the copy stays there. Wait-free.
    ///
    /// `tail` is also where to decode the first half, which is in registers there. From the copy, fields may be loaded two
    /// at a time that were stored one at a time, and such a load waits until the stores are out.
    #[inline(always)]
    pub fn take_into(
        &mut self,
        mem: &impl Read,
        record: &mut [u64; W],
        tail: impl FnOnce(&[u64; W]) -> bool,
    ) -> Result<bool, Overrun> {
        let at = self.slots.at(self.next);
        let stamp = mem.load(at);
        if stamp <= self.next {
            return Ok(false);
        }
        if stamp != self.next + 1 {
            return Err(Overrun { position: self.next, stamp });
        }
        mem.acquire(); // pairs with the release in Publisher::publish
        self.next += 1;
        read_record(mem, at, record, tail);
        Ok(true)
    }
}

/// Writes a record but for its stamp: the first half, and the second if `used` words reach into it.
#[inline]
pub(super) fn write_record<const W: usize>(mem: &impl Write, at: usize, record: &[u64; W], used: usize) {
    if W <= HEAD || used > HEAD {
        mem.copy_in(at + 1, &record[1..]);
    } else {
        mem.copy_in(at + 1, &record[1..HEAD]);
    }
}

/// Copies a record's first half, and its second if `tail` says so.
#[inline(always)]
pub(super) fn read_record<const W: usize>(
    mem: &impl Read,
    at: usize,
    record: &mut [u64; W],
    tail: impl FnOnce(&[u64; W]) -> bool,
) {
    if W <= HEAD {
        *record = mem.copy_out(at);
        return;
    }
    record[..HEAD].copy_from_slice(&mem.copy_out::<HEAD>(at));
    if tail(record) {
        let rest = mem.copy_out::<HEAD>(at + HEAD);
        record[HEAD..].copy_from_slice(&rest[..W - HEAD]);
    }
}
