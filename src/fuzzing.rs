//! What fuzzers outside this crate can't reach otherwise: the parsers of control messages. No part of the interface.

use crate::control::message::{FromDirector, Message, ToDirector};

/// Reads bytes as a message to a director. Returns whether they are one; what was read says the same when it is
/// written and read again.
pub fn to_director(bytes: &[u8]) -> bool {
    reads_the_same::<ToDirector>(bytes)
}

/// The same, for a message from a director.
pub fn from_director(bytes: &[u8]) -> bool {
    reads_the_same::<FromDirector>(bytes)
}

fn reads_the_same<M: Message + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> bool {
    let Ok(message) = M::decode(bytes) else { return false };
    let mut again = Vec::new();
    message.encode(&mut again);
    assert_eq!(M::decode(&again).as_ref(), Ok(&message), "it does not say the same again");
    true
}
