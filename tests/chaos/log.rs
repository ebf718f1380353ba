//! What everybody did, in a file that all map: a store that was made outlives its process.
//!
//! ```text
//! head   round │ per client: quiet since, and by bank: next, killed below
//! calls  per bank, per client: { end, begun, finished } × CALLS
//! ```
//! A client gives its calls numbers in order, and notes one before it sends it. Whoever runs a call counts it as begun
//! before and as finished after.
//!
//! Rounds use two banks by turns. What nobody waits for may run after its round: a client that has posted a call which was
//! never begun sends it again when it looks the next time. So a bank is checked twice, the second time after the next round.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use trine::Status;

pub const CLIENTS: usize = 8;
/// Calls that one client can make in a round; then it waits for the next.
pub const CALLS: usize = 100_000;

const HEAD: usize = 16 + CLIENTS * 16;
const WORDS: usize = HEAD + BANKS * CLIENTS * CALLS * 3;
pub const BANKS: usize = 2;

/// Not a call yet.
pub const UNUSED: u32 = 0;
/// It was about to be sent.
pub const SENT: u32 = 1;
/// Its client gave it up without asking how it ended.
pub const DROPPED: u32 = 2;
/// Nobody was to hear how it ended.
pub const POSTED: u32 = 3;
/// It did not end.
pub const HUNG: u32 = 4;
/// The reply was another call's, or not right.
pub const WRONG: u32 = 5;
/// From here on: a status, and whether it may have run.
const ENDED: u32 = 16;
const RAN: u32 = 1 << 16;

/// How a call ended, as its client noted it.
pub fn end_of(status: Status, may_have_run: bool) -> u32 {
    ENDED + status as u32 + if may_have_run { RAN } else { 0 }
}

/// The status of an end, and whether it may have run.
pub fn status_of(end: u32) -> Option<(Status, bool)> {
    let number = (end & !RAN).checked_sub(ENDED)?;
    Some((Status::from_number(number as u16)?, end & RAN != 0))
}

pub struct Log {
    map: MmapRaw,
}

/// One call's words.
pub struct Call<'a> {
    pub end: &'a AtomicU32,
    pub begun: &'a AtomicU32,
    pub finished: &'a AtomicU32,
}

impl Log {
    pub fn create(path: &Path) -> Log {
        let file = std::fs::File::create_new(path).expect("a new file");
        file.set_len(WORDS as u64 * 4).expect("room for it");
        Log::open(path)
    }

    pub fn open(path: &Path) -> Log {
        let file = std::fs::File::options().read(true).write(true).open(path).expect("the log");
        Log { map: MmapOptions::new().len(WORDS * 4).map_raw(&file).expect("a mapping") }
    }

    fn word(&self, at: usize) -> &AtomicU32 {
        assert!(at < WORDS);
        // SAFETY: the mapping is shared, writable and of WORDS words, page-aligned, and lives as long as `self`; its
        // words are only ever accessed as atomics, by every process.
        unsafe { AtomicU32::from_ptr(self.map.as_mut_ptr().cast::<u32>().add(at)) }
    }

    /// Odd while calls are to be made.
    pub fn round(&self) -> &AtomicU32 {
        self.word(0)
    }

    /// The bank of a round in which calls are made.
    pub fn bank_of(round: u32) -> usize {
        round as usize / 2 % BANKS
    }

    /// The next number that a client gives.
    pub fn next(&self, bank: usize, client: usize) -> &AtomicU32 {
        self.word(16 + client * 16 + bank)
    }

    /// What has a number below, and no end, was lost with its client.
    pub fn killed_below(&self, bank: usize, client: usize) -> &AtomicU32 {
        self.word(18 + client * 16 + bank)
    }

    /// The round in which a client was last done: all its calls had ended, and a call came back.
    pub fn quiet(&self, client: usize) -> &AtomicU32 {
        self.word(20 + client * 16)
    }

    /// What a client's n-th call of a round is called everywhere.
    pub fn id(bank: usize, client: usize, n: usize) -> usize {
        (bank * CLIENTS + client) * CALLS + n
    }

    pub fn call(&self, id: usize) -> Call<'_> {
        let at = HEAD + id * 3;
        Call { end: self.word(at), begun: self.word(at + 1), finished: self.word(at + 2) }
    }

    /// Takes a client's next number; `None`: there is none left in this round.
    pub fn number(&self, bank: usize, client: usize) -> Option<usize> {
        let n = self.next(bank, client).load(Ordering::Relaxed) as usize;
        if n == CALLS {
            return None;
        }
        let id = Log::id(bank, client, n);
        self.call(id).end.store(SENT, Ordering::SeqCst);
        self.next(bank, client).store(n as u32 + 1, Ordering::SeqCst);
        Some(id)
    }

    /// A client learnt how a call ended. It may do so once.
    pub fn end(&self, id: usize, end: u32) {
        let before = self.call(id).end.swap(end, Ordering::SeqCst);
        assert_eq!(before, SENT, "call {id} ended twice: {:?} and {:?}", status_of(before), status_of(end));
    }

    /// Forgets all calls of a bank: nobody makes any there.
    pub fn clear(&self, bank: usize) {
        for client in 0..CLIENTS {
            let used = self.next(bank, client).swap(0, Ordering::SeqCst) as usize;
            self.killed_below(bank, client).store(0, Ordering::SeqCst);
            for n in 0..used {
                let call = self.call(Log::id(bank, client, n));
                for word in [call.end, call.begun, call.finished] {
                    word.store(0, Ordering::SeqCst);
                }
            }
        }
    }
}
