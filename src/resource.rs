//! What a call may be about, and how a service's calls find their worker: the words that a program uses for it.
//!
//! ```text
//! Key        one resource: a number, or a name; the two never meet
//! Resource   what a worker speaks for: all, one key, a range of numbers, share i of n
//! Changes    what a worker declares, withdraws, acquires and releases in one step
//! ```
//! A name travels as a 64-bit hash that the director makes: see [`Client::key`](crate::Client::key).

use std::ops::RangeInclusive;
use std::time::Duration;

/// One resource of a service: a number, or a name. The number 7 and a name whose hash is 7 are two resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    is_name: bool,
    word: u64,
}

impl Key {
    /// The resource with this number.
    pub const fn number(number: u64) -> Key {
        Key { is_name: false, word: number }
    }

    /// The key of which [`word`](Self::word) and [`is_name`](Self::is_name) were kept: where a `Key` can't be, in
    /// other languages for one.
    pub const fn from_word(word: u64, is_name: bool) -> Key {
        Key { is_name, word }
    }

    /// Its number; `None` for a name.
    pub const fn as_number(self) -> Option<u64> {
        if self.is_name { None } else { Some(self.word) }
    }

    /// Whether it is a name.
    pub const fn is_name(self) -> bool {
        self.is_name
    }

    /// What travels: the number, or the name's hash.
    pub const fn word(self) -> u64 {
        self.word
    }

    /// Which of `of` shares it belongs to: what [`Resource::Share`] goes by. Always 0 where there is but one.
    pub const fn share(self, of: u32) -> u32 {
        ((mix(self.word) as u128 * of as u128) >> 64) as u32
    }
}

impl From<u64> for Key {
    fn from(number: u64) -> Key {
        Key::number(number)
    }
}

/// Spreads the bits of a word over all of it (the last step of splitmix64).
pub(crate) const fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// Resources of a service that a worker speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    /// All of them.
    All,
    /// One.
    Key(Key),
    /// The numbers from `first` to `last`, both included.
    Range {
        /// The lowest.
        first: u64,
        /// The highest.
        last: u64,
    },
    /// Share `index` of `of`, by a hash of the key: see [`Key::share`].
    Share {
        /// Which, from 0 on.
        index: u32,
        /// Of how many.
        of: u32,
    },
}

impl Resource {
    /// Whether it means something: a range is not upside down, a share is one of those that there are.
    pub fn is_valid(self) -> bool {
        match self {
            Resource::All | Resource::Key(_) => true,
            Resource::Range { first, last } => first <= last,
            Resource::Share { index, of } => index < of,
        }
    }

    /// Whether the key is one of them.
    pub fn covers(self, key: Key) -> bool {
        match self {
            Resource::All => true,
            Resource::Key(own) => own == key,
            Resource::Range { first, last } => key.as_number().is_some_and(|n| (first..=last).contains(&n)),
            Resource::Share { index, of } => key.share(of) == index,
        }
    }

    /// The words from the first to the last, and whether they are names; `None` for what has no bounds.
    pub(crate) fn span(self) -> Option<(bool, u64, u64)> {
        match self {
            Resource::Key(key) => Some((key.is_name, key.word, key.word)),
            Resource::Range { first, last } => Some((false, first, last)),
            Resource::All | Resource::Share { .. } => None,
        }
    }

    /// The resource that spans these words.
    pub(crate) fn of_span(is_name: bool, first: u64, last: u64) -> Resource {
        if first == last {
            Resource::Key(Key::from_word(first, is_name))
        } else {
            Resource::Range { first, last }
        }
    }
}

impl From<Key> for Resource {
    fn from(key: Key) -> Resource {
        Resource::Key(key)
    }
}

impl From<u64> for Resource {
    fn from(number: u64) -> Resource {
        Resource::Key(Key::number(number))
    }
}

impl From<RangeInclusive<u64>> for Resource {
    fn from(range: RangeInclusive<u64>) -> Resource {
        Resource::Range { first: *range.start(), last: *range.end() }
    }
}

/// How the director chooses among the workers that may do a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u16)]
pub enum Policy {
    /// Join the shortest of the bounded queues: a worker is given only a few calls ahead, the rest waits at the
    /// director for whoever is free first. The best tail where calls take unevenly long.
    #[default]
    Jbsq = 1,
    /// Each in its turn, whatever it has in its hands.
    RoundRobin = 2,
    /// Calls on the same key go to the same worker (rendezvous hashing), unless it has far more in its hands than
    /// the others. Calls without a key go as with JBSQ.
    Affinity = 3,
    /// Whoever has the fewest calls in its hands, however many those are.
    LeastOutstanding = 4,
}

impl Policy {
    pub(crate) fn from_number(number: u16) -> Option<Policy> {
        let all = [Policy::Jbsq, Policy::RoundRobin, Policy::Affinity, Policy::LeastOutstanding];
        all.into_iter().find(|policy| *policy as u16 == number)
    }
}

/// What becomes of a call on a resource that needs a holder and has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u16)]
pub enum Unheld {
    /// It waits for one, until its deadline.
    Wait = 1,
    /// It ends NOT_HELD, not run.
    Error = 2,
    /// The worker with the fewest calls in its hands is made the holder: providing such a service says that one
    /// is willing.
    Offer = 3,
}

impl Unheld {
    pub(crate) fn from_number(number: u16) -> Option<Unheld> {
        [Unheld::Wait, Unheld::Error, Unheld::Offer].into_iter().find(|unheld| *unheld as u16 == number)
    }
}

/// Which calls go first, among those that wait at the director for a worker. None starves: of so many calls of one
/// class, one is of the class below. Calls on an exclusively held resource keep their order whatever their class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Priority {
    /// Before the others.
    High,
    /// Where nothing is said.
    #[default]
    Normal,
    /// When nothing else waits.
    Low,
}

/// What can be chosen when a worker provides a service. What is chosen for the service as a whole (its policy, what
/// an unheld resource means) holds for all its workers; the one who says so last decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServiceOptions {
    /// What this worker speaks for; nothing said is all of it.
    pub resources: Vec<Resource>,
    /// How its calls are scheduled.
    pub policy: Option<Policy>,
    /// Makes the service's resources exclusive: a call with a key goes to the key's holder alone.
    pub unheld: Option<Unheld>,
    /// How long a worker that has one of its calls in its hands may show no sign of life, in whole milliseconds; at
    /// least one, and the longest is for ever. A worker that waits for its next request shows one every second,
    /// whatever it keeps; one that is stopped, or runs one operation all the time, does not.
    pub stall: Option<Duration>,
    /// The names of operations that may run more than once: a call of one whose worker died after it had begun runs
    /// again at another one, three times in all at most.
    pub idempotent: Vec<String>,
}

impl ServiceOptions {
    /// Adds resources that this worker speaks for.
    pub fn resources<R: Into<Resource>>(mut self, resources: impl IntoIterator<Item = R>) -> Self {
        self.resources.extend(resources.into_iter().map(Into::into));
        self
    }

    /// Adds one.
    pub fn resource(self, resource: impl Into<Resource>) -> Self {
        self.resources([resource.into()])
    }

    /// See [`policy`](Self::policy).
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = Some(policy);
        self
    }

    /// See [`stall`](Self::stall). 30 s where neither the service nor the director says another time.
    pub fn stall(mut self, after: Duration) -> Self {
        self.stall = Some(after);
        self
    }

    /// Adds operations that may run more than once: see [`idempotent`](Self::idempotent).
    pub fn idempotent<S: Into<String>>(mut self, operations: impl IntoIterator<Item = S>) -> Self {
        self.idempotent.extend(operations.into_iter().map(Into::into));
        self
    }

    /// The stall limit as it travels: 0 is none, the highest number is for ever.
    pub(crate) fn stall_ms(&self) -> u32 {
        let ms = |after: Duration| u32::try_from(after.as_millis()).unwrap_or(u32::MAX).max(1);
        self.stall.map_or(0, ms)
    }

    /// The same in nanoseconds.
    pub(crate) fn stall_ns(&self) -> Option<u64> {
        match self.stall_ms() {
            0 => None,
            u32::MAX => Some(u64::MAX),
            ms => Some(u64::from(ms) * 1_000_000),
        }
    }

    /// See [`unheld`](Self::unheld).
    pub fn exclusive(mut self, unheld: Unheld) -> Self {
        self.unheld = Some(unheld);
        self
    }
}

/// What is done with a resource in a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Action {
    /// The worker speaks for it from now on.
    Declare = 1,
    /// No more: what was declared is named exactly.
    Withdraw = 2,
    /// The worker asks for the exclusive right.
    Acquire = 3,
    /// It gives the right back.
    Release = 4,
}

impl Action {
    pub(crate) fn from_number(number: u16) -> Option<Action> {
        let all = [Action::Declare, Action::Withdraw, Action::Acquire, Action::Release];
        all.into_iter().find(|action| *action as u16 == number)
    }
}

/// A change of what a worker speaks for in a service: all of it or nothing, in one step, at most
/// [`RESOURCES_PER_CHANGE`](crate::limits::RESOURCES_PER_CHANGE) resources. Withdrawals come before declarations,
/// whatever the order here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes(pub(crate) Vec<(Action, Resource)>);

impl Changes {
    /// None yet.
    pub fn new() -> Self {
        Changes::default()
    }

    fn with(mut self, action: Action, resource: Resource) -> Self {
        self.0.push((action, resource));
        self
    }

    /// The worker speaks for these from now on.
    pub fn declare(self, resource: impl Into<Resource>) -> Self {
        self.with(Action::Declare, resource.into())
    }

    /// No more: named exactly as it was declared.
    pub fn withdraw(self, resource: impl Into<Resource>) -> Self {
        self.with(Action::Withdraw, resource.into())
    }

    /// Asks for the exclusive right to a key or a range.
    pub fn acquire(self, resource: impl Into<Resource>) -> Self {
        self.with(Action::Acquire, resource.into())
    }

    /// Gives it back.
    pub fn release(self, resource: impl Into<Resource>) -> Self {
        self.with(Action::Release, resource.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_and_a_name_never_meet() {
        assert_ne!(Key::number(7), Key::from_word(7, true));
        assert!(!Resource::Range { first: 0, last: u64::MAX }.covers(Key::from_word(7, true)));
    }

    #[test]
    fn shares_part_all_keys_evenly() {
        let mut counts = [0; 3];
        for number in 0..3000 {
            let owners: Vec<u32> = (0..3)
                .filter(|&index| Resource::Share { index, of: 3 }.covers(Key::number(number)))
                .collect();
            assert_eq!(owners, [Key::number(number).share(3)]);
            counts[owners[0] as usize] += 1;
        }
        assert!(counts.iter().all(|&count| (900..1100).contains(&count)), "{counts:?}");
    }
}
