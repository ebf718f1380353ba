//! The algorithms over shared words: rings, doorbell handshake, ledger, reply slots.
//!
//! Nothing here does I/O, allocates, or knows what kind of memory it runs on: the memory is a parameter. The same
//! code runs over mapped segments in production, over model-checked atomics under loom, over simulated memory that
//! suspends or kills its party at any store, and over memory that a hostile peer changes between two reads.
//!
//! Three rules make that sound. *One writer a line*, so no read-modify-write is needed. *Your own cursor is
//! private*; the shared copy is for others. *Copy first*, check the copy, use the copy.

pub mod idle;
pub mod ledger;
pub mod order;
pub mod parking;
pub mod reply;
pub mod ring;

/// Words of one region that this party may read. What a peer writes may be anything, at any time.
pub trait Read {
    /// A relaxed load. Out of range reads 0: an index is never trusted, and never panics.
    fn load(&self, word: usize) -> u64;

    /// Loads before it, if they saw a store, see all that was stored before that store's `release`.
    fn acquire(&self);

    /// Copies `N` words out, once; out of range reads zeros.
    #[inline]
    fn copy_out<const N: usize>(&self, at: usize) -> [u64; N] {
        std::array::from_fn(|i| self.load(at.wrapping_add(i)))
    }
}

/// Words of one region that this party may write too.
pub trait Write: Read {
    /// A relaxed store. Out of range does nothing.
    fn store(&self, word: usize, value: u64);

    /// Stores before it are seen by whoever sees a store after it, and acquires.
    fn release(&self);

    /// A full fence: the store before it and the load after it are not exchanged.
    fn full(&self);

    /// A hint: the line of this word will be written soon, so it may be fetched now, to be owned by then. Changes
    /// nothing.
    #[inline]
    fn prepare(&self, _word: usize) {}

    /// Copies words in.
    #[inline]
    fn copy_in(&self, at: usize, words: &[u64]) {
        for (i, &word) in words.iter().enumerate() {
            self.store(at.wrapping_add(i), word);
        }
    }
}

/// A kind of memory: what a party may only read, and what it may write.
pub trait Memory {
    /// Read-only regions.
    type Ro: Read;
    /// Read-write regions.
    type Rw: Write;
}

/// A party as the shell drives it: it turns, and when it finds nothing it is parked and woken.
pub trait Party {
    /// What ends the drive.
    type Out;
    /// Looks at everything once and does what there is to do. Never blocks.
    fn turn(&mut self, now_ns: u64) -> Turn<Self::Out>;
    /// Announces that it will sleep: from now on whoever has something for it rings.
    fn park(&mut self);
    /// Takes that back.
    fn awake(&mut self);
    /// When it wants to be woken at the latest, though nobody rings.
    fn wake_at_ns(&self) -> u64;
    /// A signal ended its sleep. One that does nothing about it sleeps on.
    fn interrupted(&mut self) {}
}

/// What a turn found.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn<T> {
    /// What the drive was for.
    Done(T),
    /// Something to do, and perhaps more.
    Busy,
    /// Something to do, and no more: a look just now found nothing else.
    Settled,
    /// Nothing.
    Idle,
}

/// What a shell gives its party: time, and ways to wait.
pub trait Os {
    /// CLOCK_MONOTONIC; may be some microseconds old.
    fn now_ns(&mut self) -> u64;
    /// A drive begins: the last one is over.
    fn begin(&mut self) {}
    /// A turn found something.
    fn busy(&mut self);
    /// A turn found nothing. Waits a moment and returns true, or false where it is time to park.
    fn idle(&mut self) -> bool;
    /// Sleeps until a doorbell rings, a descriptor is ready, or `until_ns`.
    fn sleep(&mut self, until_ns: u64);
    /// Whether a signal ended the last sleep, where anybody is to hear of that.
    fn was_interrupted(&self) -> bool {
        false
    }
    /// Whether it will come to a sleep anyway, as the last drive did: then the look before the announcement would be in
    /// vain.
    fn expects_sleep(&mut self) -> bool {
        false
    }
}

/// The only blocking loop of Trine: a client's wait, a worker's next and the director's run are this one.
///
/// ```text
/// turn ── idle ──► yield a while ── still idle ──► park, one more turn, sleep, awake ──► turn
/// ```
/// The turn between `park` and `sleep` is what makes the handshake sound: whoever published before it could see
/// the announcement is seen by that turn, and whoever publishes after it sees the announcement and rings.
pub fn block_on<P: Party, O: Os>(party: &mut P, os: &mut O) -> P::Out {
    os.begin();
    let mut sleepy = os.expects_sleep();
    loop {
        if !std::mem::take(&mut sleepy) {
            match party.turn(os.now_ns()) {
                Turn::Done(out) => return out,
                Turn::Busy => {
                    os.busy();
                    continue;
                }
                Turn::Settled => os.busy(),
                Turn::Idle => {}
            }
            if os.idle() {
                continue;
            }
        }
        party.park();
        let looked = party.turn(os.now_ns());
        if matches!(looked, Turn::Idle) {
            os.sleep(party.wake_at_ns());
            if os.was_interrupted() {
                party.interrupted();
            }
        }
        party.awake();
        if let Turn::Done(out) = looked {
            return out;
        }
    }
}
