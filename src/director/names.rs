//! Keys that are names: what travels is a hash, and the director sees to it that it means one name.
//!
//! The hash is keyed with a secret of the bus, and only the director has it: with the key in hand a client could
//! look for two names with one hash at its leisure, and take another's resource by its name. So whoever wants a
//! name's key asks for it, once. The director keeps the names as long as somebody who asked is there, and refuses a
//! second name with the same hash. A director's successor has the same secret, and so the same keys.

use std::collections::{HashMap, HashSet};

use siphasher::sip128::SipHasher24;

use super::link::Connection;
use crate::control::name::Name;
use crate::error::Status;
use crate::limits;

struct Known {
    name: Name,
    users: usize,
}

/// A hash of names.
pub type Hash = Box<dyn Fn(&str) -> u64 + Send>;

/// The names that somebody uses as keys.
pub struct Names {
    hash: Hash,
    known: HashMap<u64, Known>,
    users: HashMap<Connection, HashSet<u64>>,
}

/// The hash of a bus's names.
pub fn hash_of(hasher: SipHasher24) -> Hash {
    Box::new(move |name| hasher.hash(name.as_bytes()).h1)
}

impl Names {
    /// No names yet.
    pub fn new(hash: Hash) -> Self {
        Names { hash, known: HashMap::new(), users: HashMap::new() }
    }

    /// A name's key.
    ///
    /// # Errors
    /// BAD_RESOURCE: another name has the same hash. BUSY: whoever asks has asked for too many.
    pub fn key(&mut self, user: Connection, name: &Name) -> Result<u64, Status> {
        let word = (self.hash)(name.as_str());
        let own = self.users.entry(user).or_default();
        if own.len() >= limits::NAMED_KEYS_MAX && !own.contains(&word) {
            return Err(Status::Busy);
        }
        let known = self.known.entry(word).or_insert_with(|| Known { name: name.clone(), users: 0 });
        if known.name != *name {
            return Err(Status::BadResource);
        }
        known.users += usize::from(own.insert(word));
        Ok(word)
    }

    /// Somebody is gone: names that nobody else uses are forgotten.
    pub fn forget(&mut self, user: Connection) {
        for word in self.users.remove(&user).unwrap_or_default() {
            if let Some(known) = self.known.get_mut(&word) {
                known.users -= 1;
                if known.users == 0 {
                    self.known.remove(&word);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_means_one_name_as_long_as_anybody_uses_it() {
        let mut names = Names::new(Box::new(|name| name.len() as u64));
        let name = |name| Name::new("key", name).unwrap();
        assert_eq!(names.key(1, &name("abc")), Ok(3));
        assert_eq!(names.key(2, &name("abc")), Ok(3));
        assert_eq!(names.key(1, &name("abc")), Ok(3));
        assert_eq!(names.key(2, &name("xyz")), Err(Status::BadResource));
        names.forget(1);
        assert_eq!(names.key(3, &name("xyz")), Err(Status::BadResource));
        names.forget(2);
        assert_eq!(names.key(3, &name("xyz")), Ok(3));
        names.forget(3);
        assert!(names.known.is_empty() && names.users.is_empty());
    }

    #[test]
    fn nobody_fills_the_director_with_names() {
        let mut names = Names::new(Box::new(|name| name.parse().unwrap()));
        for n in 0..limits::NAMED_KEYS_MAX {
            assert_eq!(names.key(1, &Name::new("key", &n.to_string()).unwrap()), Ok(n as u64));
        }
        let one_more = Name::new("key", &limits::NAMED_KEYS_MAX.to_string()).unwrap();
        assert_eq!(names.key(1, &one_more), Err(Status::Busy));
        assert_eq!(names.key(1, &Name::new("key", "7").unwrap()), Ok(7));
        assert!(names.key(2, &one_more).is_ok());
    }
}
