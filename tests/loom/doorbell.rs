//! Nobody sleeps through what was published for him, and nobody is rung for twice in one sleep.

use crate::explore::{Event, breaks, explore};
use crate::memory::{Fence, LoomMemory, STRONG, Weak};
use loom::thread;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use trine::core::parking::{Bell, Parking};
use trine::core::ring::{Publisher, Taker};
use trine::core::{Os, Party, Turn, block_on};

const W: usize = 2;
const SLOTS: u64 = 4;
const RING: usize = SLOTS as usize * W;
/// Two rings, then the word that the sleeper writes.
const PARKING: usize = 2 * RING;
const WORDS: usize = PARKING + 1;
/// The word's first number: it crosses a power of two.
const AWAKE: u64 = (1 << 32) - 2;

const WITHOUT_SLEEPERS_FENCE: Weak = &[(Fence::Full, PARKING..WORDS)];
const WITHOUT_RINGERS_FENCE: Weak = &[(Fence::Full, 0..PARKING)];

/// The kernel's side of a doorbell, and what the checks at the end want to know.
#[derive(Clone)]
struct Doorbell {
    rung: Event,
    /// Ringers that have published all they had.
    finished: Event,
    ringers: u64,
    rings: [Arc<AtomicU64>; 2],
}

impl Doorbell {
    fn new(ringers: u64) -> Self {
        Doorbell { rung: Event::new(), finished: Event::new(), ringers, rings: Default::default() }
    }

    /// Sleeps until it rings once more than `heard`. If nobody is left who could ring, that would be for ever.
    fn sleep(&self, heard: &mut u64) {
        loop {
            let over = self.finished.count() == self.ringers;
            let rung = self.rung.count();
            if rung > *heard {
                *heard = rung;
                return;
            }
            assert!(!over, "lost wake-up: asleep, and all is published");
            thread::yield_now();
        }
    }

    /// Publishes records in a ring of its own and rings for them.
    fn ringer(self, memory: LoomMemory, who: usize, records: u64) {
        let mut ring = Publisher::<W>::new(who * RING, SLOTS, 0);
        let mut bell = Bell::new(PARKING);
        for n in 0..records {
            ring.publish(&memory, &[0, n], W);
            if bell.must_ring(&memory, &memory) {
                self.rings[who].fetch_add(1, Relaxed);
                self.rung.raise();
            }
        }
        self.finished.raise();
    }

    /// Everybody has finished, and there were so many sleeps.
    fn check(&self, sleeps: u64) {
        self.finished.wait_for(self.ringers);
        for rings in &self.rings {
            let rings = rings.load(Relaxed);
            assert!(rings <= sleeps, "rung {rings} times in {sleeps} sleeps");
        }
    }
}

/// A party that waits for records, driven by the loop that drives all parties.
struct Sleeper {
    memory: LoomMemory,
    parking: Parking,
    rings: Vec<Taker<W>>,
    left: u64,
    sleeps: u64,
    /// Whether it takes the turn between announcing its sleep and sleeping seriously.
    looks_again: bool,
}

impl Party for Sleeper {
    type Out = u64;

    fn turn(&mut self, _now_ns: u64) -> Turn<u64> {
        if self.parking.is_parked() && !self.looks_again {
            return Turn::Idle;
        }
        let mut turn = Turn::Idle;
        for ring in &mut self.rings {
            while ring.take(&self.memory, |_| false).expect("overrun").is_some() {
                self.left -= 1;
                turn = Turn::Busy;
            }
        }
        if self.left == 0 { Turn::Done(self.sleeps) } else { turn }
    }

    fn park(&mut self) {
        self.parking.park(&self.memory);
        self.sleeps += 1;
    }

    fn awake(&mut self) {
        self.parking.awake(&self.memory);
    }

    fn wake_at_ns(&self) -> u64 {
        u64::MAX
    }
}

/// A shell without time, that parks at the first empty turn.
struct Shell {
    doorbell: Doorbell,
    heard: u64,
    /// Whether the drive begins with an announcement.
    expects_sleep: bool,
}

impl Os for Shell {
    fn now_ns(&mut self) -> u64 {
        0
    }

    fn busy(&mut self) {}

    fn idle(&mut self) -> bool {
        false
    }

    fn sleep(&mut self, _until_ns: u64) {
        self.doorbell.sleep(&mut self.heard);
    }

    fn expects_sleep(&mut self) -> bool {
        self.expects_sleep
    }
}

/// One sleeper; each ringer publishes so many records.
fn model(weak: Weak, records: &'static [u64], looks_again: bool) -> impl Fn() + Send + Sync + 'static {
    model_that(false, weak, records, looks_again)
}

/// The same; the sleeper may expect to sleep.
fn model_that(
    expects_sleep: bool,
    weak: Weak,
    records: &'static [u64],
    looks_again: bool,
) -> impl Fn() + Send + Sync + 'static {
    move || {
        let memory = LoomMemory::new(WORDS, weak);
        let doorbell = Doorbell::new(records.len() as u64);
        for (who, &records) in records.iter().enumerate() {
            let (memory, doorbell) = (memory.party(), doorbell.clone());
            thread::spawn(move || doorbell.ringer(memory, who, records));
        }
        let mut sleeper = Sleeper {
            parking: Parking::new(PARKING, AWAKE),
            rings: (0..records.len()).map(|who| Taker::new(who * RING, SLOTS, 0)).collect(),
            left: records.iter().sum(),
            sleeps: 0,
            looks_again,
            memory,
        };
        let mut shell = Shell { doorbell: doorbell.clone(), heard: 0, expects_sleep };
        let sleeps = block_on(&mut sleeper, &mut shell);
        doorbell.check(sleeps);
    }
}

#[test]
fn one_ringer_wakes_the_sleeper_and_rings_once_a_sleep() {
    explore("doorbell, one ringer, three records", Some(4), model(STRONG, &[3], true));
}

#[test]
fn two_ringers_wake_the_sleeper_and_ring_once_a_sleep_each() {
    explore("doorbell, two ringers", Some(3), model(STRONG, &[1, 1], true));
}

#[test]
fn a_sleeper_that_announces_before_it_has_looked_is_woken() {
    explore("doorbell, a sleep that is expected", Some(4), model_that(true, STRONG, &[2], true));
    breaks("lost wake-up", || explore("", None, model_that(true, STRONG, &[1], false)));
}

#[test]
fn needs_the_sleepers_fence() {
    breaks("lost wake-up", || explore("", None, model(WITHOUT_SLEEPERS_FENCE, &[1], true)));
}

#[test]
fn needs_the_ringers_fence() {
    breaks("lost wake-up", || explore("", None, model(WITHOUT_RINGERS_FENCE, &[1], true)));
}

#[test]
fn needs_one_more_look() {
    breaks("lost wake-up", || explore("", None, model(STRONG, &[1], false)));
}

mod chill {
    //! The director stops polling a session that has been quiet: the `polled` word is a parking word, though the
    //! director itself may be awake.
    use super::*;

    const RECORDS: u64 = 2;

    fn model(weak: Weak, looks_again: bool) -> impl Fn() + Send + Sync + 'static {
        move || {
            let memory = LoomMemory::new(WORDS, weak);
            let doorbell = Doorbell::new(1);
            let (client, bell) = (memory.party(), doorbell.clone());
            thread::spawn(move || bell.ringer(client, 0, RECORDS));
            doorbell.check(direct(&memory, &doorbell, looks_again));
        }
    }

    /// Takes all; how often it chilled the session.
    fn direct(memory: &LoomMemory, doorbell: &Doorbell, looks_again: bool) -> u64 {
        let mut ring = Taker::<W>::new(0, SLOTS, 0);
        let mut polled = Parking::new(PARKING, AWAKE);
        let (mut heard, mut chills) = (0, 0);
        while ring.next() < RECORDS {
            if ring.take(memory, |_| false).expect("overrun").is_some() {
                continue;
            }
            polled.park(memory);
            chills += 1;
            if !(looks_again && ring.is_ready(memory)) {
                doorbell.sleep(&mut heard);
            }
            polled.awake(memory);
        }
        chills
    }

    #[test]
    fn a_session_that_goes_cold_is_heard() {
        explore("hot to cold", Some(4), model(STRONG, true));
    }

    #[test]
    fn needs_the_directors_fence() {
        breaks("lost wake-up", || explore("", None, model(WITHOUT_SLEEPERS_FENCE, true)));
    }

    #[test]
    fn needs_the_clients_fence() {
        breaks("lost wake-up", || explore("", None, model(WITHOUT_RINGERS_FENCE, true)));
    }

    #[test]
    fn needs_one_more_look() {
        breaks("lost wake-up", || explore("", None, model(STRONG, false)));
    }
}
