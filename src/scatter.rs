//! One request to several workers: what travels, and how a worker knows which keys its part is about.
//!
//! ```text
//! client     n ordinary records in a row, each with its own ticket, slot and reply buffer; one payload for all
//! director   takes all n ─► who gets what ─► ends the tickets that are no part: NO_PART ─► dispatches the parts
//! worker     one part: the first of its records, and a mask of which keys of the list are its
//! ```
//! So a part is a call like any other: with its place in the ledger, its reply right, its end. What is new is that
//! *the client knows from the first reply on how many there will be*, with no count on the wire: every NO_PART is
//! stored before the first part is pushed, so whoever has seen a part's reply sees them all. (`tests/loom/scatter.rs`)
//!
//! The list of keys lies once in the client's memory, where the client can change it at any time. But the director has
//! seen each key in a record of its own, has asked who holds it, and *seals* what it has decided: a keyed hash, which
//! only it and the worker can make, travels with the part. A worker copies the list, and answers FAULT where the seal
//! is not that of its copy: it never runs on a key that the director did not give it.
//!
//! ```text
//! word  in the second half of a record with SCATTER
//! 8     of the director: the keys of this part, a bit for each place in the list
//! 9     offset of the list in the outbox's arena: a word with a bit for each key that is a name's, then the keys
//! 10    index in the scatter (16) | records of it (16); 0 records: others of its scatter have ended, so it is no
//!       part that could still begin
//! 11    of the director: the seal
//! ```

use std::hash::Hasher;

use siphasher::sip::SipHasher24;

use crate::layout::Record;
use crate::limits::SCATTER_KEYS_MAX;
use crate::resource::Key;

const WORD_MASK: usize = 8;
/// Where the list of keys is.
pub const WORD_LIST: usize = 9;
const WORD_PLACE: usize = 10;
/// Where the seal is.
pub const WORD_SEAL: usize = 11;

/// A record's place in its scatter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which record it is, from 0 on.
    pub index: u16,
    /// How many there are. 0: others have ended, before a director died.
    pub count: u16,
}

impl Place {
    /// Reads it.
    pub fn of(record: &Record) -> Place {
        Place { index: record[WORD_PLACE] as u16, count: (record[WORD_PLACE] >> 16) as u16 }
    }

    /// Writes it.
    pub fn write(self, record: &mut Record) {
        record[WORD_PLACE] = u64::from(self.index) | u64::from(self.count) << 16;
    }

    /// Whether it is the last.
    pub fn is_last(self) -> bool {
        self.index + 1 == self.count
    }
}

/// Which keys of the list a part is about.
pub fn mask(record: &Record) -> u64 {
    record[WORD_MASK]
}

/// Says so.
pub fn set_mask(record: &mut Record, mask: u64) {
    record[WORD_MASK] = mask;
}

/// The places of a mask's keys.
pub fn places(mask: u64) -> impl Iterator<Item = usize> {
    (0..SCATTER_KEYS_MAX).filter(move |i| mask >> i & 1 == 1)
}

/// Words of a list of so many keys.
pub const fn list_words(keys: usize) -> usize {
    1 + keys
}

/// A list of keys as it lies in memory.
pub fn list(keys: &[Key]) -> Vec<u64> {
    let names = keys.iter().enumerate().fold(0, |names, (i, key)| names | u64::from(key.is_name()) << i);
    std::iter::once(names).chain(keys.iter().map(|key| key.word())).collect()
}

/// A part's keys, out of a private copy of the list. `None` if the mask names one that is not there.
pub fn keys_of(list: &[u64], mask: u64) -> Option<Vec<Key>> {
    let (&names, words) = list.split_first()?;
    places(mask).map(|i| Some(Key::from_word(*words.get(i)?, names >> i & 1 == 1))).collect()
}

/// Seals the keys that a part is about.
pub fn seal(secret: [u64; 2], record: &mut Record, keys: &[Key]) {
    record[WORD_SEAL] = seal_of(secret, mask(record), keys);
}

/// Whether these are the keys that the director gave to this part.
pub fn is_sealed(secret: [u64; 2], record: &Record, keys: &[Key]) -> bool {
    record[WORD_SEAL] == seal_of(secret, mask(record), keys)
}

fn seal_of([one, two]: [u64; 2], mask: u64, keys: &[Key]) -> u64 {
    let mut hasher = SipHasher24::new_with_keys(one, two);
    hasher.write_u64(mask);
    for key in keys {
        hasher.write_u64(u64::from(key.is_name()));
        hasher.write_u64(key.word());
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::LINE;
    use proptest::prelude::*;

    fn keys() -> impl Strategy<Value = Vec<Key>> {
        let key = (any::<bool>(), 0u64..4).prop_map(|(is_name, word)| Key::from_word(word, is_name));
        prop::collection::vec(key, 1..=SCATTER_KEYS_MAX)
    }

    proptest! {
        #[test]
        fn a_part_has_the_keys_of_its_mask_and_no_others(keys in keys(), mask in any::<u64>(), secret in any::<[u64; 2]>()) {
            let mask = mask & (u64::MAX >> (SCATTER_KEYS_MAX - keys.len()));
            let own: Vec<Key> = places(mask).map(|i| keys[i]).collect();
            prop_assert_eq!(keys_of(&list(&keys), mask), Some(own.clone()));
            let mut record = [0; LINE];
            set_mask(&mut record, mask);
            seal(secret, &mut record, &own);
            prop_assert!(is_sealed(secret, &record, &own));
        }

        #[test]
        fn whatever_a_client_changes_in_its_list_breaks_the_seal(
            keys in keys(), at in any::<prop::sample::Index>(), word in 0u64..4, is_name: bool,
        ) {
            let mut record = [0; LINE];
            set_mask(&mut record, u64::MAX >> (SCATTER_KEYS_MAX - keys.len()));
            seal([1, 2], &mut record, &keys);
            let mut changed = keys.clone();
            let at = at.index(keys.len());
            changed[at] = Key::from_word(word, is_name);
            prop_assert_eq!(is_sealed([1, 2], &record, &changed), changed == keys);
        }
    }

    #[test]
    fn a_mask_beyond_the_list_is_no_part() {
        assert_eq!(keys_of(&list(&[Key::number(1)]), 0b10), None);
        assert_eq!(keys_of(&[], 0), None);
    }
}
