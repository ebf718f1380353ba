//! Workers that were given up, and live.
//!
//! ```text
//! missed the window, or its socket closed ──► verdicts for what it has; its rights count as held
//!      │                                            │
//!      ├── presents itself: t = taken is final ──►  position ≥ t: NOT_BEGUN, its slots are free
//!      │        │                                   position < t: it still answers
//!      │        └── once more, holding nothing: its program has heard that all is lost
//!      └── dies, or holds nothing and has marked all done that it had begun ──► its rights are nobody's
//! ```
//! Such a worker is a new one to this director, with a new id. Of its old self only the books are kept. What it held
//! exclusively it may still be working on. Where this director knows what that is, it stays its; else nothing is granted
//! in the services that the head of its segment marks, and calls end as those services say for an unheld resource.
//!
//! Whether it is done its progress page says, entry by entry: the sessions of the calls may be long gone.

use super::core::{DirectorCore, Effects};
use super::recovery::Presence;
use super::worker::Standing;
use crate::core::ledger::Entry;
use crate::core::{Memory, Read};
use crate::error::Status;
use crate::layout::{Progress, WorkShape};

/// Which services, by a hash of their names, a worker may hold a right in: a bit for each.
pub type Holds = [u64; HOLDS_WORDS];

/// Words of a work segment's head that say so. Two services share a bit with a chance of 1 in 512; then one of them
/// may have to wait for a worker that only held something in the other.
pub const HOLDS_WORDS: usize = 8;

/// The word and the bit of a service: the same for every director.
pub fn holds_bit(service: &str) -> (usize, u64) {
    // FNV-1a: it is to spread names, and nothing depends on who can foresee it.
    let hash = service.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let bit = crate::resource::mix(hash) as usize % (64 * HOLDS_WORDS);
    (bit / 64, 1 << (bit % 64))
}

/// Whether a service is marked.
pub(super) fn is_marked(holds: &Holds, service: &str) -> bool {
    let (word, bit) = holds_bit(service);
    holds[word] & bit != 0
}

/// A worker that was given up, and is back.
pub(super) struct Late<M: Memory> {
    /// Its old id.
    worker: u64,
    /// What lies at this position or behind it never began.
    taken: u64,
    /// Its program has not heard yet that it has lost what it held.
    holds: bool,
    /// Its old page, which it alone writes: whom it lies to is itself.
    page: M::Ro,
    at: Progress,
}

impl<M: Memory> Late<M> {
    /// Whether it has finished what an entry of its ledger names.
    fn has_done(&self, e: u16, entry: &Entry) -> bool {
        let word = self.at.done + usize::from(e);
        word < self.at.words && self.page.load(word) == entry.position + 1
    }
}

impl<M: Memory> DirectorCore<M> {
    /// What an inherited worker may hold exclusively. Before anybody attaches.
    pub fn inherit_rights(&mut self, worker: u64, holds: Holds) {
        if let Some(inherited) = self.recovery.workers.iter_mut().find(|w| w.worker == worker) {
            inherited.holds = holds;
        }
    }

    /// A worker that was given up is back, too late to go on as itself, and says where it stood: what lies behind that
    /// it never began. What it had begun it still answers. `holds`: its program has not heard yet that it has lost what
    /// it held; it will come once more.
    pub fn too_late(
        &mut self,
        worker: u64,
        taken: u64,
        holds: bool,
        (page, shape): (M::Ro, WorkShape),
        fx: &mut impl Effects,
    ) {
        self.late.retain(|late| late.worker != worker);
        self.late.push(Late { worker, taken, holds, page, at: shape.progress() });
        self.review_late(fx);
    }

    /// Looks what of those that came too late never began, who is done with all that he had begun, and what may be granted
    /// again.
    pub(super) fn review_late(&mut self, fx: &mut impl Effects) {
        for late in std::mem::take(&mut self.late) {
            if self.finish_late(&late, fx) {
                self.late.push(late);
            }
        }
        self.withhold_services(fx);
    }

    /// The same for one of them. Returns whether there is more to come.
    fn finish_late(&mut self, late: &Late<M>, fx: &mut impl Effects) -> bool {
        if let Some(inherited) = self.recovery.workers.iter_mut().find(|w| w.worker == late.worker) {
            match inherited.presence {
                // Who refused it knew that it is too late before the clock of this thread says so; until then what was
                // published again waits for it.
                Presence::Awaited => return true,
                Presence::Missed => {
                    let behind = inherited.entries.extract_if(.., |(_, entry)| entry.position >= late.taken);
                    let unbegun: Vec<_> = behind.map(|(_, entry)| (entry.session, entry.ticket)).collect();
                    inherited.entries.retain(|(e, entry)| !late.has_done(*e, entry));
                    let is_done = !late.holds && inherited.entries.is_empty();
                    if is_done {
                        // It has nothing more to say as its old self.
                        inherited.presence = Presence::Dead;
                        self.recovery.unsettle();
                    }
                    self.end_unbegun(unbegun, fx);
                    return !is_done;
                }
                Presence::Presented(_) | Presence::Buried(_) | Presence::Dead => {}
            }
        }
        let own = self.workers.iter_mut().find(|(_, w)| w.id == late.worker);
        let Some((key, worker)) = own else { return false };
        if worker.standing != Standing::Gone {
            return true; // that its socket is closed is still to be heard
        }
        let unbegun =
            worker.disown(late.taken).iter().map(|flight| (flight.session, flight.ticket)).collect();
        let is_done = !late.holds && worker.has_done_all();
        self.end_unbegun(unbegun, fx);
        if is_done {
            self.worker_dead(key, fx);
        }
        !is_done
    }

    pub(super) fn end_unbegun(&mut self, unbegun: Vec<(u64, u64)>, fx: &mut impl Effects) {
        for (session, ticket) in unbegun {
            self.end_dead(session, ticket, (Status::NotBegun, 0), fx);
        }
    }

    /// Brings up to date in which services nothing is granted.
    pub(super) fn withhold_services(&mut self, fx: &mut impl Effects) {
        // While the window is open nothing is granted anywhere.
        let names = self.table.service_names().filter(|_| !self.recovery.is_open());
        let withheld =
            names.filter(|(_, name)| self.recovery.may_be_held(name)).map(|(key, _)| key).collect();
        if self.table.rights.withhold_services(withheld) {
            self.tell(fx);
            self.held.wake_all();
        }
    }

    /// A service is new in the table: somebody who is not here may hold something in it.
    pub(super) fn withhold_new_service(&mut self, service: &str) {
        if !self.recovery.is_open()
            && self.recovery.may_be_held(service)
            && let Some(key) = self.table.service_of(service)
        {
            self.table.rights.withhold_service(key);
        }
    }
}
