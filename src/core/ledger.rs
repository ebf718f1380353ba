//! The book that outlives the director: which ticket of which session is in a worker's hands.
//!
//! ```text
//! entry e:  [ position + 1 | session | ticket | – ]      written by the director, before it pushes the record
//! done[e]:  position + 1                                 written by the worker, after it has replied
//! ```
//! An entry is *open* from the moment its position is written until the worker has marked the same position done.
//! The worker's mark frees the entry and nothing else: what has become of a call is read from the reply's stamp.
//! The order of an entry's words matters, since a kill may come between any two: a reader either finds the old
//! entry, none, or the new one, whole.

use super::{Read, Write};
use crate::layout::{LEDGER_ENTRY, TICKET_MASK};

/// An entry, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Position in the work ring.
    pub position: u64,
    /// The session's id.
    pub session: u64,
    /// The ticket in that session.
    pub ticket: u64,
}

/// Where a ledger lies.
#[derive(Clone, Copy, Debug)]
pub struct Ledger {
    base: usize,
}

impl Ledger {
    /// The ledger whose entry 0 is at word `base`.
    pub fn new(base: usize) -> Self {
        Ledger { base }
    }

    fn at(&self, entry: u16) -> usize {
        self.base + usize::from(entry) * LEDGER_ENTRY
    }

    /// Enters a ticket, before its record is pushed. The entry's last user is done. Wait-free.
    #[inline]
    pub fn enter(&self, mem: &impl Write, entry: u16, new: Entry) {
        let at = self.at(entry);
        mem.store(at, 0); // invalid while its words belong to two calls
        mem.release();
        mem.store(at + 1, new.session);
        mem.store(at + 2, new.ticket);
        mem.release(); // pairs with the acquire in read
        mem.store(at, new.position + 1);
    }

    /// Reads an entry; `None` if it names nothing.
    pub fn read(&self, mem: &impl Read, entry: u16) -> Option<Entry> {
        let at = self.at(entry);
        let position = mem.load(at).checked_sub(1)?;
        mem.acquire(); // pairs with the release in enter
        // A ticket has no more bits; a segment that says so was scribbled on.
        let ticket = mem.load(at + 2) & TICKET_MASK;
        Some(Entry { position, session: mem.load(at + 1), ticket })
    }
}
