//! A worker's core between a director and clients that write anything.

use trine::core::{Read, Write};
use trine::layout::{LINE, Record, ReplyHead, SessionShape, WorkShape};
use trine::worker::core::{Begun, Effects, Taken, WorkerCore};

use crate::memory::{Bytes, Hostile, Noise, Region, scribble};

const SESSION: SessionShape =
    SessionShape { slots: 4, reply_capacity: 64, request_arena: 4096, reply_arena: 4096 };
const WORK: WorkShape = WorkShape { slots: 4 };

struct Hands;

impl Effects for Hands {
    fn ring_client(&mut self, _: u64) {}

    fn ring_director(&mut self) {}

    fn clock_ns(&mut self) -> u64 {
        0
    }
}

/// Returns how many calls of the core were made.
pub fn run(input: &[u8]) -> u64 {
    let mut bytes = Bytes::new(input);
    let noise = Noise::new(bytes.number());
    let mut work = Region::new(WORK.work().words, &noise);
    let page = Region::new(WORK.progress().words, &Noise::new(1));
    let mut core: WorkerCore<Hostile> = WorkerCore::new(1, WORK, 0, work.clone(), page.clone());
    let (mut fx, mut now_ns, mut calls) = (Hands, 1u64, 0);
    let (mut begun, mut boxes): (Vec<Begun>, Vec<[Region; 2]>) = (Vec::new(), Vec::new());
    while let Some(step) = bytes.more() {
        calls += 1;
        now_ns += u64::from(bytes.u8());
        match step % 16 {
            0 | 1 => {
                let outbox = Region::new(SESSION.outbox().words, &noise);
                let inbox = Region::new(SESSION.inbox().words, &noise);
                let (index, id) = (bytes.u16() % 4, 1 + u64::from(bytes.u8() % 8));
                if core.map_session(index, id, SESSION, outbox.clone(), inbox.clone()) {
                    boxes.push([outbox, inbox]);
                }
            }
            2..6 => {
                // A work record that is right but for what the input changes.
                let position = core.taken();
                let at = WORK.work().ring + (position % 4) as usize * LINE;
                (1..8).for_each(|word| work.store(at + word, bytes.number()));
                if !bytes.u8().is_multiple_of(4) {
                    let (index, tag) = (u64::from(bytes.u8() % 4), 1 + u64::from(bytes.u8() % 8));
                    work.store(at + 1, (4 + position) | (u64::from(bytes.u8() % 6) << 48));
                    work.store(at + 2, (index << 16) | (tag << 48));
                    work.store(at + 4, 0);
                }
                work.store(at, if bytes.u8() < 250 { position + 1 } else { bytes.number() });
            }
            6..10 => {
                let taken_before = core.taken();
                match core.take(now_ns, &mut fx) {
                    Ok(Taken::Begun(request)) => {
                        assert_eq!(page.load(WORK.progress().taken), taken_before + 1, "it is on the books");
                        begun.push(request);
                    }
                    Ok(Taken::Skipped) => assert_eq!(core.taken(), taken_before + 1),
                    Ok(Taken::Nothing | Taken::Unheard) | Err(_) => assert_eq!(core.taken(), taken_before),
                }
            }
            10 | 11 => {
                if begun.is_empty() {
                    continue;
                }
                let request = begun.swap_remove(bytes.below(begun.len()));
                let _ =
                    (core.memory(&request).is_some(), core.session_of(&request), core.is_cancelled(&request));
                let head = ReplyHead { status: bytes.u16(), len: bytes.number(), ..ReplyHead::default() };
                let mut record: Record = [0; LINE];
                let before = core.completed();
                core.reply(request, head, &mut record, &mut fx);
                assert_eq!(core.completed(), before + 1);
            }
            12 => drop(core.retire_session(bytes.u16() % 6)),
            13 => noise.set(bytes.u8() % 32),
            14 => {
                scribble(&work, &mut bytes);
                if let Some(boxes) = bytes.one_of(&boxes) {
                    boxes.iter().for_each(|region| scribble(region, &mut bytes));
                }
            }
            _ => match bytes.u8() % 4 {
                0 => drop(core.stop_taking()),
                1 => {
                    work = Region::new(WORK.work().words, &noise);
                    core.resume(bytes.number() >> 16, work.clone());
                }
                2 => {
                    core.park();
                    core.awake();
                }
                _ => {
                    core.hear(bytes.number());
                    let _ = (core.control_sequence(), core.heard(), core.is_ready());
                }
            },
        }
    }
    calls
}
