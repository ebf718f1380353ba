//! What everybody did, in a file that all map: a store that was made outlives its process.
//!
//! ```text
//! [ next ] [ entry ] [ entry ] …     an entry's place is its time: taken first, then filled
//! ```
//! Whoever is killed between the two leaves an empty entry.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};

const WORDS: usize = 1 << 20;

/// Something that somebody did. Calls are named by client, resource, and the how many-th of it to that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A client has sent a call.
    Sent(Call),
    /// It has ended: written, or its worker died.
    Answered(Call, bool),
    /// A worker hears that it holds a resource.
    Gained {
        worker: u64,
        key: u64,
    },
    /// It hears that it does not.
    Lost {
        worker: u64,
        key: u64,
    },
    /// It begins to write, and has.
    Began(u64, Call),
    Wrote(u64, Call),
    /// It is about to be killed, or leaves: what it holds may be another's from here on.
    Gone {
        worker: u64,
    },
    /// The director knows that it is dead.
    Noticed {
        worker: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Call {
    pub client: u64,
    pub key: u64,
    pub sequence: u64,
}

impl What {
    /// Kind, worker, client, key, sequence: 8, 16, 8, 8 and 24 bits.
    fn to_word(self) -> u64 {
        let pack = |kind: u64, worker: u64, client: u64, key: u64, sequence: u64| {
            kind << 56 | worker << 40 | client << 32 | key << 24 | sequence
        };
        let of_call =
            |kind, worker, Call { client, key, sequence }| pack(kind, worker, client, key, sequence);
        match self {
            What::Sent(call) => of_call(1, 0, call),
            What::Answered(call, written) => of_call(2, written.into(), call),
            What::Gained { worker, key } => pack(3, worker, 0, key, 0),
            What::Lost { worker, key } => pack(4, worker, 0, key, 0),
            What::Began(worker, call) => of_call(5, worker, call),
            What::Wrote(worker, call) => of_call(6, worker, call),
            What::Gone { worker } => pack(7, worker, 0, 0, 0),
            What::Noticed { worker } => pack(8, worker, 0, 0, 0),
        }
    }

    fn of_word(word: u64) -> Option<What> {
        let (worker, key) = (word >> 40 & 0xffff, word >> 24 & 0xff);
        let call = Call { client: word >> 32 & 0xff, key, sequence: word & 0xff_ffff };
        Some(match word >> 56 {
            1 => What::Sent(call),
            2 => What::Answered(call, worker == 1),
            3 => What::Gained { worker, key },
            4 => What::Lost { worker, key },
            5 => What::Began(worker, call),
            6 => What::Wrote(worker, call),
            7 => What::Gone { worker },
            8 => What::Noticed { worker },
            _ => return None,
        })
    }
}

pub struct Log {
    map: MmapRaw,
}

impl Log {
    pub fn create(path: &Path) -> Log {
        let file = std::fs::File::create_new(path).expect("a new file");
        file.set_len(WORDS as u64 * 8).expect("room for it");
        Log::open(path)
    }

    pub fn open(path: &Path) -> Log {
        let file = std::fs::File::options().read(true).write(true).open(path).expect("the log");
        Log { map: MmapOptions::new().len(WORDS * 8).map_raw(&file).expect("a mapping") }
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at < WORDS, "the log is full");
        // SAFETY: the mapping is shared, writable and of WORDS words, page-aligned, and lives as long as `self`; its
        // words are only ever accessed as atomics, by every process.
        unsafe { AtomicU64::from_ptr(self.map.as_mut_ptr().cast::<u64>().add(at)) }
    }

    /// How much was noted.
    pub fn now(&self) -> u64 {
        self.word(0).load(Ordering::SeqCst)
    }

    pub fn note(&self, what: What) {
        let at = self.word(0).fetch_add(1, Ordering::SeqCst) as usize + 1;
        self.word(at).store(what.to_word(), Ordering::SeqCst);
    }

    pub fn entries(&self) -> Vec<What> {
        let words = (1..=self.now() as usize).map(|at| self.word(at).load(Ordering::SeqCst));
        words.filter_map(What::of_word).collect()
    }
}

/// What a fight came to.
#[derive(Debug, Default)]
pub struct Seen {
    /// Calls that were written.
    pub written: u64,
    /// Those that ended with their worker's death, of which some were written.
    pub died: u64,
    /// Calls that came late, since a worker was killed while they were open.
    pub late: u64,
    /// Resources that a worker has given up.
    pub hand_overs: u64,
    /// Resources that were a dead worker's.
    pub inherited: u64,
}

/// In which order calls may have been tried again: when each was open, and when a worker's death was not known.
struct Open {
    calls: HashMap<Call, (usize, usize)>,
    deaths: Vec<(usize, usize)>,
}

impl Open {
    fn of(entries: &[What]) -> Open {
        let (mut calls, mut deaths, mut gone) = (HashMap::new(), Vec::new(), HashMap::new());
        for (at, what) in entries.iter().enumerate() {
            match *what {
                What::Sent(call) => _ = calls.insert(call, (at, usize::MAX)),
                What::Answered(call, _) => calls.get_mut(&call).expect("it was sent").1 = at,
                What::Gone { worker } => _ = gone.insert(worker, at),
                What::Noticed { worker } => deaths.push((gone[&worker], at)),
                _ => {}
            }
        }
        Open { calls, deaths }
    }

    fn may_be_late(&self, call: &Call) -> bool {
        let (sent, answered) = self.calls[call];
        self.deaths.iter().any(|&(from, to)| sent < to && from < answered)
    }
}

/// Checks all that was promised.
pub fn check(entries: Vec<What>) -> Seen {
    let (open, mut seen) = (Open::of(&entries), Seen::default());
    let mut holders: HashMap<u64, u64> = HashMap::new();
    let mut writing: HashMap<u64, (u64, Call)> = HashMap::new();
    let mut begun: HashSet<Call> = HashSet::new();
    let mut wrote: HashSet<Call> = HashSet::new();
    let mut last: HashMap<(u64, u64), u64> = HashMap::new();
    let mut gone: HashSet<u64> = HashSet::new();
    for (at, what) in entries.into_iter().enumerate() {
        match what {
            What::Sent(_) | What::Noticed { .. } => {}
            What::Gone { worker } => _ = gone.insert(worker),
            What::Gained { worker, key } => {
                let before = holders.insert(key, worker).filter(|&before| before != worker);
                assert!(
                    before.is_none_or(|b| gone.contains(&b)),
                    "{key}: two holders, {before:?} and {worker} at {at}"
                );
                seen.inherited += u64::from(before.is_some());
                if before.is_some() {
                    writing.remove(&key); // by one who is dead: if he is not, what he does next shows it
                }
                assert_eq!(writing.get(&key), None, "{key} is another's while it is written, at {at}");
            }
            What::Lost { worker, key } => {
                assert_eq!(writing.get(&key), None, "{key} was lost while it was written, at {at}");
                assert_eq!(holders.remove(&key), Some(worker), "{key} at {at}");
                seen.hand_overs += 1;
            }
            What::Began(worker, call) => {
                let Call { client, key, sequence } = call;
                assert_eq!(holders.get(&key), Some(&worker), "who writes {key} at {at}");
                assert_eq!(writing.insert(key, (worker, call)), None, "{key} is written by two at {at}");
                assert!(begun.insert(call), "{call:?} is written twice, at {at}");
                let last = last.entry((client, key)).or_default();
                if sequence < *last {
                    assert!(open.may_be_late(&call), "{call:?} is written after {last}, at {at}");
                    seen.late += 1;
                }
                *last = sequence.max(*last);
            }
            What::Wrote(worker, call) => {
                assert_eq!(
                    writing.remove(&call.key),
                    Some((worker, call)),
                    "it is written by another at {at}"
                );
                wrote.insert(call);
            }
            What::Answered(call, true) => {
                assert!(wrote.contains(&call), "{call:?} is said to be written, at {at}");
                seen.written += 1;
            }
            What::Answered(..) => seen.died += 1,
        }
    }
    seen
}
