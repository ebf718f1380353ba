//! The rings and the doorbell beside the plain things that they stand for: a ring beside a queue, a doorbell beside two
//! flags; and a ring's reader on memory that answers every load with whatever it likes.

use proptest::prelude::*;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use trine::core::parking::{Bell, Parking};
use trine::core::ring::{Overrun, Publisher, Taker};
use trine::core::{Read, Write};
use trine::layout::{HEAD, LINE, Record};

/// Memory of one thread.
struct Plain(Vec<Cell<u64>>);

impl Plain {
    fn new(words: usize) -> Self {
        Plain(vec![Cell::new(0); words])
    }
}

impl Read for Plain {
    fn load(&self, word: usize) -> u64 {
        self.0.get(word).map_or(0, Cell::get)
    }

    fn acquire(&self) {}
}

impl Write for Plain {
    fn store(&self, word: usize, value: u64) {
        if let Some(at) = self.0.get(word) {
            at.set(value);
        }
    }

    fn release(&self) {}

    fn full(&self) {}
}

/// Memory of a peer that changes it between any two loads. Counts them.
struct Hostile {
    answers: RefCell<VecDeque<u64>>,
    loads: Cell<usize>,
}

impl Read for Hostile {
    fn load(&self, _word: usize) -> u64 {
        self.loads.set(self.loads.get() + 1);
        self.answers.borrow_mut().pop_front().unwrap_or(0)
    }

    fn acquire(&self) {}
}

/// Word 1 of a record says whether its second half means anything.
fn has_tail(record: &Record) -> bool {
    record[1] & 1 == 1
}

fn start() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), (1_u32..63).prop_map(|bits| (1 << bits) - 2), 0..u64::MAX / 2]
}

#[derive(Clone, Debug)]
enum Step {
    Push(Record),
    Take,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![any::<Record>().prop_map(Step::Push), Just(Step::Take)]
}

proptest! {
    #[test]
    fn a_ring_is_a_queue(start in start(), bits in 0_u32..4, base in 0_usize..40, steps in prop::collection::vec(step(), 0..200)) {
        let slots = 1 << bits;
        let memory = Plain::new(base + slots * LINE);
        let (mut publisher, mut taker) =
            (Publisher::<LINE>::new(base, slots as u64, start), Taker::<LINE>::new(base, slots as u64, start));
        let mut queue = VecDeque::new();
        for step in steps {
            prop_assert_eq!(taker.is_ready(&memory), !queue.is_empty());
            match step {
                Step::Push(record) if queue.len() < slots => {
                    publisher.publish(&memory, &record, if has_tail(&record) { LINE } else { HEAD });
                    queue.push_back(record);
                }
                Step::Push(_) => {}
                Step::Take => {
                    let taken = taker.take(&memory, has_tail).expect("nothing was overwritten");
                    prop_assert_eq!(taken.is_some(), !queue.is_empty());
                    if let (Some(taken), Some(record)) = (taken, queue.pop_front()) {
                        prop_assert_eq!(&taken[1..HEAD], &record[1..HEAD]);
                        let tail = if has_tail(&record) { &record[HEAD..] } else { &[0; LINE - HEAD][..] };
                        prop_assert_eq!(&taken[HEAD..], tail);
                    }
                }
            }
            prop_assert_eq!(publisher.next(), taker.next() + queue.len() as u64);
        }
        prop_assert!((0..base).all(|word| memory.load(word) == 0), "what lies before the ring was written");
    }

    #[test]
    fn a_writer_that_goes_round_is_found_out(start in start(), ahead in 1_u64..9) {
        const SLOTS: u64 = 4;
        let memory = Plain::new(SLOTS as usize * LINE);
        let mut publisher = Publisher::<LINE>::new(0, SLOTS, start);
        for _ in 0..SLOTS + ahead {
            publisher.publish(&memory, &[0; LINE], HEAD);
        }
        let taken = Taker::<LINE>::new(0, SLOTS, start).take(&memory, has_tail);
        let stamp = start + (ahead - 1) / SLOTS * SLOTS + SLOTS + 1;
        prop_assert_eq!(taken, Err(Overrun { position: start, stamp }));
    }

    #[test]
    fn a_reader_survives_any_memory(
        start in any::<u64>(),
        slots in 0_u32..13,
        // Stamps that are nearly right are the interesting lies.
        answers in prop::collection::vec(prop_oneof![any::<u64>().prop_map(Err), (-2_i64..4).prop_map(Ok)], 0..200),
    ) {
        let answers = answers.into_iter().map(|a| a.unwrap_or_else(|any| any as i64) as u64);
        let near = |answer: u64| if (answer as i64).unsigned_abs() < 4 { start.wrapping_add(answer) } else { answer };
        let memory = Hostile { answers: RefCell::new(answers.map(near).collect()), loads: Cell::new(0) };
        let mut taker = Taker::<LINE>::new(usize::MAX / 2, 1 << slots, start);
        for _ in 0..40 {
            let (before, loads) = (taker.next(), memory.loads.get());
            let taken = taker.take(&memory, has_tail);
            prop_assert!(memory.loads.get() - loads <= 1 + LINE);
            prop_assert_eq!(taker.next() - before, u64::from(matches!(taken, Ok(Some(_)))));
            if let Err(Overrun { position, stamp }) = taken {
                prop_assert!(position == before && stamp > before + 1);
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Doing {
    Park,
    Awake,
    Publish,
}

proptest! {
    #[test]
    fn a_bell_rings_for_the_first_thing_published_in_a_sleep(
        first in 0_u64..1 << 62,
        doings in prop::collection::vec(prop_oneof![Just(Doing::Park), Just(Doing::Awake), Just(Doing::Publish)], 0..100),
    ) {
        let memory = Plain::new(1);
        let mut parking = Parking::new(0, first * 2);
        parking.announce(&memory);
        let mut bell = Bell::new(0);
        let (mut asleep, mut rung) = (false, false);
        for doing in doings {
            let before = memory.load(0);
            match doing {
                Doing::Park => {
                    parking.park(&memory);
                    rung = asleep && rung;
                    asleep = true;
                }
                Doing::Awake => {
                    parking.awake(&memory);
                    asleep = false;
                }
                Doing::Publish => {
                    prop_assert_eq!(bell.must_ring(&memory, &memory), asleep && !rung);
                    rung = asleep;
                }
            }
            prop_assert_eq!(parking.is_parked(), asleep);
            prop_assert_eq!(memory.load(0) & 1 == 1, asleep);
            prop_assert!(memory.load(0) >= before, "the word only grows");
        }
    }

    #[test]
    fn a_bell_rings_for_odd_words_and_never_twice_for_one(words in prop::collection::vec(0_u64..8, 0..60)) {
        let memory = Hostile { answers: RefCell::new(words.iter().copied().collect()), loads: Cell::new(0) };
        let mut bell = Bell::new(0);
        let mut last_rung = 0;
        for word in words {
            let rings = bell.must_ring_after_fence(&memory);
            prop_assert_eq!(rings, word % 2 == 1 && word != last_rung);
            if rings {
                last_rung = word;
            }
        }
    }
}
