//! Workers that were given up, and live.
//!
//! ```text
//! missed the window, or its socket closed ──► verdicts for what it has; its rights count as held
//!      │                                            │
//!      ├── presents itself: t = taken is final ──►  position ≥ t: NOT_BEGUN, its slots are free
//!      │                                            position < t: it still answers
//!      └── dies, or has answered all ───────────►   its rights are nobody's
//! ```
//! Such a worker is a new one to this director, with a new id. Of its old self only the books are kept. What it held
//! exclusively it may still be working on: so in the services that the head of its segment marks nothing is granted,
//! and calls end as those services say for an unheld resource, until it is known to be done.

use super::core::{DirectorCore, Effects};
use super::recovery::{Inherited, Presence};
use super::worker::Standing;
use crate::core::Memory;
use crate::error::Status;

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

impl<M: Memory> DirectorCore<M> {
    /// What an inherited worker may hold exclusively. Before anybody attaches.
    pub fn inherit_rights(&mut self, worker: u64, holds: Holds) {
        if let Some(inherited) = self.recovery.workers.iter_mut().find(|w| w.worker == worker) {
            inherited.holds = holds;
        }
    }

    /// A worker that was given up is back, too late to go on as itself, and says where it stood: what lies behind that
    /// it never began. What it had begun it still answers.
    pub fn too_late(&mut self, worker: u64, taken: u64, fx: &mut impl Effects) {
        let mut unbegun = Vec::new();
        let missed = |w: &&mut Inherited| w.worker == worker && matches!(w.presence, Presence::Missed);
        if let Some(inherited) = self.recovery.workers.iter_mut().find(missed) {
            inherited.is_declared = true;
            let behind = inherited.entries.extract_if(.., |entry| entry.position >= taken);
            unbegun.extend(behind.map(|entry| (entry.session, entry.ticket)));
        }
        let gone = self.workers.iter_mut().find(|(_, w)| w.id == worker && w.standing == Standing::Gone);
        if let Some((_, gone)) = gone {
            unbegun.extend(gone.disown(taken).into_iter().map(|flight| (flight.session, flight.ticket)));
        }
        for (session, ticket) in unbegun {
            self.end_dead(session, ticket, (Status::NotBegun, 0), fx);
        }
        self.review_missed(fx);
    }

    /// Looks which of the workers that missed the window are done with all that they had begun, and what may be
    /// granted again.
    pub(super) fn review_missed(&mut self, fx: &mut impl Effects) {
        let mut workers = std::mem::take(&mut self.recovery.workers);
        for worker in workers.iter_mut().filter(|w| w.presence == Presence::Missed && w.is_declared) {
            // Of a session that is gone nobody can say whether its calls were answered.
            worker.entries.retain(|entry| {
                let session = self.session_key(entry.session).map(|key| &self.sessions[key]);
                session.is_none_or(|session| !session.is_answered(entry.ticket))
            });
            if worker.entries.is_empty() {
                // It has nothing more to say as its old self.
                worker.presence = Presence::Dead;
                self.recovery.unsettle();
            }
        }
        self.recovery.workers = workers;
        self.withhold_services(fx);
    }

    /// Whether a worker that missed the window, and lives, may hold something in a service.
    pub(super) fn may_be_held(&self, service: &str) -> bool {
        let (word, bit) = holds_bit(service);
        let missed = |w: &&Inherited| w.presence == Presence::Missed;
        self.recovery.workers.iter().filter(missed).any(|w| w.holds[word] & bit != 0)
    }

    /// Brings up to date in which services nothing is granted.
    pub(super) fn withhold_services(&mut self, fx: &mut impl Effects) {
        let is_missed = self.recovery.workers.iter().any(|w| w.presence == Presence::Missed);
        let withheld = self.table.service_names().filter(|(_, name)| is_missed && self.may_be_held(name));
        let withheld = withheld.map(|(key, _)| key).collect();
        if self.table.rights.withhold_services(withheld) {
            self.tell(fx);
            self.held.wake_all();
        }
    }

    /// A service is new in the table: somebody who missed the window may hold something in it.
    pub(super) fn withhold_new_service(&mut self, service: &str) {
        if self.recovery.workers.iter().any(|w| w.presence == Presence::Missed)
            && self.may_be_held(service)
            && let Some(key) = self.table.service_of(service)
        {
            self.table.rights.withhold_service(key);
        }
    }

    /// Ends what an inherited worker had, now that it is known to be dead; its clients were told long ago, and now
    /// their slots can be free.
    pub(super) fn end_missed(&mut self, entries: Vec<crate::core::ledger::Entry>, fx: &mut impl Effects) {
        for entry in entries {
            self.end_dead(entry.session, entry.ticket, (Status::WorkerDied, 0), fx);
        }
        self.withhold_services(fx);
    }
}
