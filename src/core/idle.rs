//! How long to look again before going to sleep: a budget that learns.
//!
//! A party that finds nothing yields its CPU, because the peer that has the answer may want just this CPU; after a
//! budget of time it parks. The budget doubles when the wait turns out to have been short, its sleep included (it would
//! have paid to look a little longer), and halves when it was long.

/// Shortest budget.
pub const BUDGET_MIN_NS: u64 = 2_000;
/// Longest budget.
pub const BUDGET_MAX_NS: u64 = 200_000;
/// Whoever has waited no longer, his sleep included, would have done better to look on: he had to be woken.
const WAIT_SHORT_NS: u64 = 2 * BUDGET_MAX_NS;
/// A yield that took longer gave the CPU to a busy stranger, if it is not the only one: then yielding is a bad way to wait
/// here. One alone may have been anything: a virtual machine that stood still, for one.
const YIELD_LONG_NS: u64 = 100_000;
/// For how many times as long it then parks at once.
const STRANGER_TIMES: u64 = 4;
/// For how many times as long another one is taken for the same stranger's.
const STRANGER_AGAIN_TIMES: u64 = 2 * STRANGER_TIMES;

/// The adaptive budget of one party.
#[derive(Debug)]
pub struct Budget {
    budget_ns: u64,
    idle_since_ns: u64,
    park_at_once_until_ns: u64,
    /// A long yield that began before this was not the only one.
    stranger_until_ns: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Budget {
            budget_ns: BUDGET_MAX_NS / 2,
            idle_since_ns: 0,
            park_at_once_until_ns: 0,
            stranger_until_ns: 0,
        }
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
            if before_ns < self.stranger_until_ns {
                self.park_at_once_until_ns = after_ns + STRANGER_TIMES * took_ns;
            }
            self.stranger_until_ns = after_ns + STRANGER_AGAIN_TIMES * took_ns;
        }
    }

    /// A sleep ended.
    pub fn slept(&mut self, before_ns: u64, after_ns: u64) {
        let since_ns = if self.idle_since_ns == 0 { before_ns } else { self.idle_since_ns };
        self.idle_since_ns = 0;
        let waited_ns = after_ns.saturating_sub(since_ns);
        self.budget_ns = if waited_ns < WAIT_SHORT_NS { self.budget_ns * 2 } else { self.budget_ns / 2 }
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

    /// A yield that begins then and takes so long.
    fn long_yield(budget: &mut Budget, at_ns: u64, took_ns: u64) -> u64 {
        budget.busy();
        assert!(budget.may_yield(at_ns), "it parks at once");
        budget.yielded(at_ns, at_ns + took_ns);
        budget.busy();
        at_ns + took_ns
    }

    #[test]
    fn what_was_waited_counts_whole() {
        let mut budget = Budget { budget_ns: BUDGET_MAX_NS, ..Budget::default() };
        assert!(budget.may_yield(1));
        // A short sleep after a long look, which would not have paid though twice as long.
        budget.slept(1 + BUDGET_MAX_NS, 1 + WAIT_SHORT_NS);
        assert_eq!(budget.budget_ns, BUDGET_MAX_NS / 2);
        assert!(budget.may_yield(2 * WAIT_SHORT_NS));
        budget.slept(2 * WAIT_SHORT_NS + BUDGET_MAX_NS / 2, 2 * WAIT_SHORT_NS + BUDGET_MAX_NS);
        assert_eq!(budget.budget_ns, BUDGET_MAX_NS);
    }

    #[test]
    fn yields_to_a_stranger_make_it_park_at_once_for_a_while() {
        let (mut budget, took_ns) = (Budget::default(), YIELD_LONG_NS + 1);
        let first_ns = long_yield(&mut budget, 1, took_ns);
        let mut at_ns = first_ns + 10;
        // As long as the stranger is there, each time is followed by a while without.
        for _ in 0..3 {
            at_ns = long_yield(&mut budget, at_ns, took_ns);
            assert!(!budget.may_yield(at_ns));
            budget.busy();
            assert!(!budget.may_yield(at_ns + STRANGER_TIMES * took_ns - 1));
            at_ns += STRANGER_TIMES * took_ns;
        }
    }

    #[test]
    fn a_long_yield_now_and_then_is_no_stranger() {
        let (mut budget, took_ns) = (Budget::default(), 3 * YIELD_LONG_NS);
        let mut at_ns = 1;
        for _ in 0..5 {
            at_ns = long_yield(&mut budget, at_ns, took_ns) + STRANGER_AGAIN_TIMES * took_ns;
        }
        assert!(budget.may_yield(at_ns));
    }
}
