//! Ranges of numbers that don't overlap, each with a value.

use std::collections::BTreeMap;

/// Disjoint ranges, both ends included. A look-up costs one descent of a tree.
#[derive(Clone, Debug)]
pub(crate) struct Intervals<V>(BTreeMap<u64, (u64, V)>);

impl<V> Default for Intervals<V> {
    fn default() -> Self {
        Intervals(BTreeMap::new())
    }
}

impl<V: Copy> Intervals<V> {
    /// The range that a number lies in.
    pub fn at(&self, number: u64) -> Option<(u64, u64, V)> {
        let (&first, &(last, value)) = self.0.range(..=number).next_back()?;
        (number <= last).then_some((first, last, value))
    }

    /// The ranges that have something in common with this one, in order; none with one that is upside down.
    pub fn overlapping(&self, first: u64, last: u64) -> impl Iterator<Item = (u64, u64, V)> {
        let from = self.at(first).map_or(first, |(first, ..)| first);
        let upside_down = first > last;
        let found = self.0.range(from.min(last)..=last).filter(move |_| !upside_down);
        found.map(|(&first, &(last, value))| (first, last, value))
    }

    /// Adds a range that overlaps none.
    pub fn insert(&mut self, first: u64, last: u64, value: V) {
        debug_assert!(first <= last && self.overlapping(first, last).next().is_none());
        self.0.insert(first, (last, value));
    }

    /// Removes the range that begins here.
    pub fn remove(&mut self, first: u64) {
        self.0.remove(&first);
    }

    /// Takes these numbers out of whatever ranges they lie in. Returns whether there were any.
    pub fn cut(&mut self, first: u64, last: u64) -> bool {
        let hit: Vec<(u64, u64, V)> = self.overlapping(first, last).collect();
        for &(from, to, value) in &hit {
            self.0.remove(&from);
            if from < first {
                self.0.insert(from, (first - 1, value));
            }
            if to > last {
                self.0.insert(last + 1, (to, value));
            }
        }
        !hit.is_empty()
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64, V)> {
        self.0.iter().map(|(&first, &(last, value))| (first, last, value))
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn intervals_are_an_array(steps in prop::collection::vec((0..32u64, 0..32u64, any::<bool>()), 0..60)) {
            let (mut real, mut naive) = (Intervals::default(), [None; 32]);
            for (n, (a, b, put)) in steps.into_iter().enumerate() {
                let (first, last) = (a.min(b), a.max(b));
                let hit = naive[first as usize..=last as usize].iter().any(Option::is_some);
                prop_assert_eq!(real.overlapping(first, last).next().is_some(), hit);
                prop_assert_eq!(real.cut(first, last), hit);
                naive[first as usize..=last as usize].fill(None);
                if put {
                    real.insert(first, last, n);
                    naive[first as usize..=last as usize].fill(Some(n));
                }
                for number in 0..32 {
                    prop_assert_eq!(real.at(number).map(|(.., value)| value), naive[number as usize]);
                }
            }
        }
    }
}
