//! Going to sleep without missing anything, and waking somebody without doing it twice.
//!
//! ```text
//! sleeper                          ringer
//! word = n (odd)                   publish
//! full fence                       full fence
//! one more look: nothing ──┐   ┌── load word: odd, and not the one I rang for?
//! sleep                    └─?─┘   ring
//! ```
//! Without either fence both can miss each other (store buffering); with both, at least one sees the other.
//! The word only grows: even while awake, odd while parked, each sleep a number of its own. A ringer remembers the
//! last number that it rang for, so it rings once a sleep at most, however much it publishes.

use super::{Read, Write};

/// The sleeper's side. The sleeper writes the word, its peers read it.
#[derive(Debug)]
pub struct Parking {
    word: usize,
    n: u64,
}

impl Parking {
    /// A party that is awake; `n` is a number above all that the word has had (and even).
    pub fn new(word: usize, n: u64) -> Self {
        debug_assert!(n & 1 == 0, "an even number is awake");
        Parking { word, n }
    }

    /// Whether it has announced a sleep.
    #[inline]
    pub fn is_parked(&self) -> bool {
        self.n & 1 == 1
    }

    /// Announces a sleep. The caller looks once more at everything before it sleeps.
    #[inline]
    pub fn park(&mut self, mem: &impl Write) {
        if !self.is_parked() {
            self.n += 1;
            mem.store(self.word, self.n);
        }
        mem.full(); // pairs with the fence in Bell::must_ring
    }

    /// Takes the announcement back.
    #[inline]
    pub fn awake(&mut self, mem: &impl Write) {
        if self.is_parked() {
            self.n += 1;
            mem.store(self.word, self.n);
        }
    }

    /// A sign of life: the next number that says the same. Whoever rang for the last one may ring once more.
    pub fn beat(&mut self, mem: &impl Write) {
        self.n += 2;
        mem.store(self.word, self.n);
    }

    /// Makes the word say what this end knows: for the first time.
    pub fn announce(&self, mem: &impl Write) {
        mem.store(self.word, self.n);
    }
}

/// A ringer's side, one for each sleeper that it may have to wake. All in private memory.
#[derive(Debug)]
pub struct Bell {
    word: usize,
    rung: u64,
}

impl Bell {
    /// A bell for the sleeper whose word this is.
    pub fn new(word: usize) -> Self {
        Bell { word, rung: 0 }
    }

    /// Whether to ring, now that something was published *and* `full` was called on the memory it was published
    /// in: see [`must_ring`](Self::must_ring), which does both.
    #[inline]
    pub fn must_ring_after_fence(&mut self, peer: &impl Read) -> bool {
        let n = peer.load(self.word);
        n & 1 == 1 && n != std::mem::replace(&mut self.rung, n)
    }

    /// Whether to ring, now that something was published in `own`.
    #[inline]
    pub fn must_ring(&mut self, own: &impl Write, peer: &impl Read) -> bool {
        own.full(); // pairs with the fence in Parking::park
        self.must_ring_after_fence(peer)
    }
}
