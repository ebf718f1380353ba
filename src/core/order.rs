//! The order in which parties that share a CPU take turns.
//!
//! ```text
//! client ─► director ─► worker ─► client        each call takes one round of yields
//! client ─► worker ─► director ─► client        each call takes two: both orders are stable
//! ```
//! A party that has yielded exactly twice for each of many waits in a row is in the second one, or it is not alone with
//! the others. It steps aside for a moment, and comes back at another place. Where that changes nothing, it does so more and
//! more seldom.

/// So many waits in a row that took two yields are an order, not an accident.
const IN_VAIN_MIN: u32 = 64;
const IN_VAIN_MAX: u32 = 1 << 20;
/// After so many in a row that took one, the next slow order is a new one.
const IN_ORDER_LONG: u32 = 1_000;

/// How many yields one party's waits take.
#[derive(Debug)]
pub struct Order {
    yields: u32,
    /// Waits in a row that took two.
    in_vain: u32,
    /// And that took one.
    in_order: u32,
    patience: u32,
}

impl Default for Order {
    fn default() -> Self {
        Order { yields: 0, in_vain: 0, in_order: 0, patience: IN_VAIN_MIN }
    }
}

impl Order {
    /// It yields.
    #[inline]
    pub fn yields(&mut self) {
        // One that never finds anything may yield for days.
        self.yields = self.yields.saturating_add(1);
    }

    /// The last wait is over. Whether to step aside.
    #[inline]
    pub fn must_step_aside(&mut self) -> bool {
        match std::mem::take(&mut self.yields) {
            1 => (self.in_vain, self.in_order) = (0, self.in_order + 1),
            2 => (self.in_vain, self.in_order) = (self.in_vain + 1, 0),
            _ => (self.in_vain, self.in_order) = (0, 0),
        }
        if self.in_order > IN_ORDER_LONG {
            (self.in_order, self.patience) = (0, IN_VAIN_MIN);
        }
        if self.in_vain < self.patience {
            return false;
        }
        (self.in_vain, self.patience) = (0, (2 * self.patience).min(IN_VAIN_MAX));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(order: &mut Order, count: u32, yields: u32) -> usize {
        let wait = |order: &mut Order| {
            (0..yields).for_each(|_| order.yields());
            order.must_step_aside()
        };
        (0..count).filter(|_| wait(order)).count()
    }

    #[test]
    fn whoever_always_yields_twice_steps_aside_ever_more_seldom() {
        let mut order = Order::default();
        assert_eq!(waits(&mut order, 63, 2), 0);
        assert_eq!(waits(&mut order, 1, 2), 1);
        assert_eq!((waits(&mut order, 127, 2), waits(&mut order, 1, 2)), (0, 1));
        assert!(waits(&mut order, 1_000_000, 2) < 14);
        // A long time in order: what comes then is something new.
        assert_eq!((waits(&mut order, 2_000, 1), waits(&mut order, 64, 2)), (0, 1));
    }

    #[test]
    fn other_numbers_of_yields_say_nothing() {
        let mut order = Order::default();
        let mut long = Order { yields: u32::MAX, ..Order::default() };
        long.yields();
        assert!(!long.must_step_aside());
        assert_eq!([0, 1, 3, 9].map(|yields| waits(&mut order, 10_000, yields)), [0; 4]);
        assert_eq!((0..100).map(|_| waits(&mut order, 60, 2) + waits(&mut order, 1, 3)).sum::<usize>(), 0);
    }
}
