//! A value for each single key: a hash table for a million of them. Who holds what, and what a worker declares.
//!
//! ```text
//! hash(space, word) ─► 10 bits: shard ─► the rest: slot ─► [ space | word | value ]   16 bytes, probed in order
//! ```
//! Of our own for two reasons. A look-up reads one cache line, where a table with control bytes beside its entries
//! reads two, and among a million keys each is a miss. And each shard grows by itself, so no insertion takes longer
//! than copying a thousandth of all. A small table is one shard: there are as many tables as workers declare keys in
//! services.
//!
//! The hash is keyed with random words: whoever chooses keys can't choose where they meet.

use std::hash::{BuildHasher, RandomState};

use super::rights::Space;
use crate::resource::mix;

const SHARDS: usize = 1 << SHARD_BITS;
const SHARD_BITS: u32 = 10;
/// Slots of a shard's first table.
const SLOTS_MIN: usize = 8;
/// Slots of the only shard, beyond which there are [`SHARDS`].
const SLOTS_ALONE: usize = 4096;

/// Space, low and high half of the word, value + 1; a value of 0 marks a free slot.
type Slot = [u32; 4];
const FREE: Slot = [0; 4];

#[derive(Clone, Debug, Default)]
struct Shard {
    slots: Box<[Slot]>,
    len: usize,
}

/// A map from single keys to values below `u32::MAX`.
#[derive(Clone, Debug)]
pub(super) struct Singles {
    secret: [u64; 2],
    /// None, one, or `SHARDS`.
    shards: Vec<Shard>,
    len: usize,
}

impl Default for Singles {
    fn default() -> Self {
        let random = RandomState::new();
        Singles { secret: [random.hash_one(0), random.hash_one(1)], shards: Vec::new(), len: 0 }
    }
}

impl Singles {
    /// A key's shard, and where in it the search begins.
    #[inline]
    fn place(&self, space: Space, word: u64) -> (usize, usize) {
        let hash = mix(mix(word ^ self.secret[0]) ^ u64::from(space.number()) ^ self.secret[1]);
        let shard = if self.shards.len() < SHARDS { 0 } else { (hash >> (u64::BITS - SHARD_BITS)) as usize };
        (shard, hash as usize)
    }

    /// How many keys have one.
    pub fn len(&self) -> usize {
        self.len
    }

    /// A key's value.
    #[inline]
    pub fn get(&self, space: Space, word: u64) -> Option<u32> {
        let (shard, from) = self.place(space, word);
        let shard = self.shards.get(shard)?;
        let at = shard.find(from, key(space, word)).ok()?;
        Some(shard.slots[at][3] - 1)
    }

    /// Gives a key a value.
    pub fn insert(&mut self, space: Space, word: u64, value: u32) {
        if self.shards.is_empty() {
            self.shards.push(Shard::default());
        }
        let (mut number, from) = self.place(space, word);
        if self.shards[number].is_full() {
            self.grow(number);
            (number, _) = self.place(space, word);
        }
        let shard = &mut self.shards[number];
        let [a, b, c] = key(space, word);
        let found = shard.find(from, [a, b, c]);
        shard.len += usize::from(found.is_err());
        self.len += usize::from(found.is_err());
        let (Ok(at) | Err(at)) = found;
        shard.slots[at] = [a, b, c, value + 1];
    }

    /// Makes room in a shard; where it is the only one, and large, by making many of it.
    fn grow(&mut self, number: usize) {
        let was = self.shards[number].slots.len();
        let old = if was == SLOTS_ALONE && self.shards.len() == 1 {
            let each = Shard { slots: vec![FREE; 2 * was / SHARDS].into(), len: 0 };
            std::mem::replace(&mut self.shards, vec![each; SHARDS]).swap_remove(0)
        } else {
            let slots = vec![FREE; (2 * was).max(SLOTS_MIN)].into();
            std::mem::replace(&mut self.shards[number], Shard { slots, len: 0 })
        };
        for slot in old.slots.into_iter().filter(|slot| slot[3] != 0) {
            let (number, from) = self.place(Space::numbered(slot[0]), word_of(&slot));
            if self.shards[number].is_full() {
                self.grow(number);
            }
            let shard = &mut self.shards[number];
            let (Ok(at) | Err(at)) = shard.find(from, [slot[0], slot[1], slot[2]]);
            shard.slots[at] = slot;
            shard.len += 1;
        }
    }

    /// Takes a key out. Those behind it that were pushed on by it move up, so that no search ends at a gap.
    pub fn remove(&mut self, space: Space, word: u64) {
        let (number, from) = self.place(space, word);
        let Some(Ok(mut gap)) = self.shards.get(number).map(|shard| shard.find(from, key(space, word)))
        else {
            return;
        };
        let mask = self.shards[number].slots.len() - 1;
        let mut at = gap;
        loop {
            at = (at + 1) & mask;
            let slot = self.shards[number].slots[at];
            if slot[3] == 0 {
                break;
            }
            let home = self.place(Space::numbered(slot[0]), word_of(&slot)).1 & mask;
            // It may move up unless its search begins behind the gap.
            if at.wrapping_sub(home) & mask >= at.wrapping_sub(gap) & mask {
                self.shards[number].slots[gap] = slot;
                gap = at;
            }
        }
        self.shards[number].slots[gap] = FREE;
        self.shards[number].len -= 1;
        self.len -= 1;
    }
}

impl Shard {
    /// Whether one more would make its searches long.
    #[inline]
    fn is_full(&self) -> bool {
        (self.len + 1) * 4 > self.slots.len() * 3
    }

    /// The slot of a key, or the free one in which it would be. There is always a free one, but in an empty shard.
    #[inline]
    fn find(&self, from: usize, key: [u32; 3]) -> Result<usize, usize> {
        if self.slots.is_empty() {
            return Err(0);
        }
        let mask = self.slots.len() - 1;
        let mut at = from & mask;
        loop {
            let slot = self.slots[at];
            if slot[3] == 0 {
                return Err(at);
            }
            if slot[..3] == key {
                return Ok(at);
            }
            at = (at + 1) & mask;
        }
    }
}

#[inline]
fn key(space: Space, word: u64) -> [u32; 3] {
    [space.number(), word as u32, (word >> 32) as u32]
}

fn word_of(slot: &Slot) -> u64 {
    u64::from(slot[1]) | u64::from(slot[2]) << 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn it_is_a_map(steps in prop::collection::vec((0..40_000u64, 0..3usize, any::<u16>(), any::<bool>()), 0..20_000)) {
            let (mut real, mut naive) = (Singles::default(), HashMap::new());
            for (word, service, value, insert) in steps {
                let space = Space::new(service, word % 2 == 0);
                if insert {
                    real.insert(space, word / 8, value.into());
                    naive.insert((space, word / 8), u32::from(value));
                } else {
                    real.remove(space, word / 8);
                    naive.remove(&(space, word / 8));
                }
                prop_assert_eq!(real.get(space, word / 8), naive.get(&(space, word / 8)).copied());
            }
            for (&(space, word), &value) in &naive {
                prop_assert_eq!(real.get(space, word), Some(value));
            }
            prop_assert_eq!(real.shards.iter().map(|shard| shard.len).sum::<usize>(), naive.len());
            prop_assert_eq!(real.len(), naive.len());
        }

        #[test]
        fn a_full_shard_loses_nothing(words in prop::collection::vec(0..24u64, 0..200)) {
            // One shard of eight slots: everything collides, and wraps.
            let shards = vec![Shard::default(); SHARDS];
            let mut real = Singles { secret: [1, 2], shards, len: 0 };
            let near: Vec<u64> = (0..200_000).filter(|&w| real.place(Space::new(0, false), w).0 == 5).take(24).collect();
            let mut naive = HashMap::new();
            for word in words {
                let word = near[word as usize];
                if naive.remove(&word).is_some() {
                    real.remove(Space::new(0, false), word);
                } else {
                    naive.insert(word, word as u32);
                    real.insert(Space::new(0, false), word, word as u32);
                }
                for &word in &near {
                    prop_assert_eq!(real.get(Space::new(0, false), word), naive.get(&word).copied());
                }
            }
        }
    }
}
