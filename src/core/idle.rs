//! How long to look again before going to sleep: a budget that learns.
//!
//! A party that finds nothing yields its CPU, because the peer that has the answer may want just this CPU; after a
//! budget of time it parks. The budget doubles when a sleep turns out to have been short (it would have paid to
//! look a little longer) and halves when it was long.

/// Shortest budget.
pub const BUDGET_MIN_NS: u64 = 2_000;
/// Longest budget.
pub const BUDGET_MAX_NS: u64 = 200_000;
/// A yield that took longer gave the CPU to a busy stranger: yielding is a bad way to wait here.
const YIELD_LONG_NS: u64 = 100_000;
/// For how many times as long it then parks at once.
const STRANGER_TIMES: u64 = 4;

/// The adaptive budget of one party.
#[derive(Debug)]
pub struct Budget {
    budget_ns: u64,
    idle_since_ns: u64,
    park_at_once_until_ns: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Budget { budget_ns: BUDGET_MAX_NS / 2, idle_since_ns: 0, park_at_once_until_ns: 0 }
    }
}

impl Budget {
    /// Something was found.
    #[inline]
    pub fn busy(&mut self) {
        self.idle_since_ns = 0;
    }

    /// Nothing was found: whether to yield and look again (else park).
    #[inline]
    pub fn may_yield(&mut self, now_ns: u64) -> bool {
        if self.idle_since_ns == 0 {
            self.idle_since_ns = now_ns;
        }
        now_ns >= self.park_at_once_until_ns && now_ns.saturating_sub(self.idle_since_ns) < self.budget_ns
    }

    /// A yield returned.
    #[inline]
    pub fn yielded(&mut self, before_ns: u64, after_ns: u64) {
        let took_ns = after_ns.saturating_sub(before_ns);
        if took_ns > YIELD_LONG_NS {
            self.park_at_once_until_ns = after_ns + STRANGER_TIMES * took_ns;
        }
    }

    /// A sleep ended.
    pub fn slept(&mut self, before_ns: u64, after_ns: u64) {
        self.idle_since_ns = 0;
        let slept = after_ns.saturating_sub(before_ns);
        self.budget_ns = if slept < 2 * BUDGET_MAX_NS { self.budget_ns * 2 } else { self.budget_ns / 2 }
            .clamp(BUDGET_MIN_NS, BUDGET_MAX_NS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_sleeps_lengthen_the_budget_and_long_ones_shorten_it() {
        let mut budget = Budget::default();
        for _ in 0..10 {
            budget.slept(0, 10_000);
        }
        assert_eq!(budget.budget_ns, BUDGET_MAX_NS);
        for _ in 0..10 {
            budget.slept(0, 1_000_000);
        }
        assert_eq!(budget.budget_ns, BUDGET_MIN_NS);
    }

    #[test]
    fn a_yield_to_a_stranger_makes_it_park_at_once_for_a_while() {
        let mut budget = Budget::default();
        assert!(budget.may_yield(1));
        budget.yielded(1, 1 + YIELD_LONG_NS + 1);
        assert!(!budget.may_yield(YIELD_LONG_NS + 3));
        budget.busy();
        let parks_ns = STRANGER_TIMES * (YIELD_LONG_NS + 1);
        assert!(!budget.may_yield(1 + YIELD_LONG_NS + parks_ns));
        budget.busy();
        assert!(budget.may_yield(2 + YIELD_LONG_NS + parks_ns));
    }
}
