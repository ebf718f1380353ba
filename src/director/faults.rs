//! What peers did wrong: counted, and logged once for each distinct cause.
//!
//! A peer that breaks the protocol is disconnected and may come back to do it again, a thousand times a second. So the
//! log has one line for each cause and user; the rest is a number.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::error::Fault;
use crate::identity::Identity;

/// Distinct causes that are told apart; what is beyond counts under the fault's name alone.
const CAUSES_MAX: usize = 256;

/// The faults of a director's peers. Both threads report here: a lock that is held for a look into a table, and only
/// when there is a fault.
#[derive(Debug, Default)]
pub struct Faults(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    total: u64,
    by_cause: HashMap<(u32, String), u64>,
}

impl Faults {
    /// A peer broke the protocol, and is disconnected for it.
    pub fn report(&self, who: Identity, fault: &Fault) {
        let Identity { uid, pid, .. } = who;
        if self.count(uid, fault) {
            tracing::warn!(uid, pid, name = fault.name(), %fault, "disconnected: it broke the protocol");
        } else {
            tracing::debug!(uid, pid, name = fault.name(), %fault, "disconnected again");
        }
    }

    /// How many there were.
    pub fn total(&self) -> u64 {
        self.lock().total
    }

    /// Counts one. Returns whether it is the first of its cause and user.
    fn count(&self, uid: u32, fault: &Fault) -> bool {
        let mut counts = self.lock();
        counts.total += 1;
        let mut cause = (uid, fault.cause());
        if counts.by_cause.len() >= CAUSES_MAX && !counts.by_cause.contains_key(&cause) {
            cause = (u32::MAX, fault.name().to_owned());
        }
        let count = counts.by_cause.entry(cause).or_default();
        *count += 1;
        *count == 1
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_is_logged_once_and_all_are_counted() {
        let faults = Faults::default();
        let field = |value| Fault::Field { field: "payload end", value, bound: 10 };
        let other = Fault::Field { field: "flags", value: 1, bound: 0 };
        assert_eq!([field(11), field(12), other].map(|fault| faults.count(7, &fault)), [true, false, true]);
        assert!(faults.count(8, &field(11)), "another user's");
        assert_eq!(faults.total(), 4);
        for uid in 100..1000 {
            faults.count(uid, &field(uid.into()));
        }
        assert!(faults.lock().by_cause.len() <= CAUSES_MAX + 1);
        assert_eq!(faults.total(), 904);
    }
}
