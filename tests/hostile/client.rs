//! A client's core over an inbox in which anybody writes anything.

use std::collections::HashSet;

use trine::Status;
use trine::client::core::{ClientCore, Effects};
use trine::core::Write;
use trine::layout::{LINE, Record, Request, SessionShape, flag};

use crate::memory::{Bytes, Hostile, Noise, Region, scribble};

const SHAPE: SessionShape =
    SessionShape { slots: 4, reply_capacity: 64, request_arena: 4096, reply_arena: 4096 };

struct Hands;

impl Effects for Hands {
    fn ring_director(&mut self) {}
}

/// Returns how many calls of the core were made.
pub fn run(input: &[u8]) -> u64 {
    let mut bytes = Bytes::new(input);
    let noise = Noise::new(bytes.number());
    let inbox = Region::new(SHAPE.inbox().words, &noise);
    let outbox = Region::new(SHAPE.outbox().words, &Noise::new(1));
    let mut core: ClientCore<Hostile> = ClientCore::new(SHAPE, outbox, inbox.clone());
    let (mut fx, mut now_ns, mut calls) = (Hands, 1u64, 0);
    let (mut reserved, mut names) = (Vec::new(), Vec::new());
    let mut outcomes = HashSet::new();
    while let Some(step) = bytes.more() {
        calls += 1;
        now_ns += u64::from(bytes.u8());
        match step % 16 {
            0 | 1 => reserved.extend(core.reserve()),
            2..5 => {
                let Some(slot) = reserved.pop() else { continue };
                let deadline_ns = if bytes.u8() < 128 { 0 } else { now_ns + u64::from(bytes.u8()) };
                let flags = if bytes.u8() < 32 { flag::ONE_WAY } else { 0 };
                let request = Request { deadline_ns, flags, len: 8, capacity: 64, ..Request::default() };
                let mut record: Record = [0; LINE];
                request.write(&mut record);
                *core.draft(slot) = record;
                names.push(core.submit(slot, request, &mut fx));
            }
            5 | 6 => {
                let Some(&name) = bytes.one_of(&names) else { continue };
                if let Some(outcome) = core.look(name, now_ns, &mut fx) {
                    assert!(outcomes.insert(name), "an outcome was handed out twice");
                    assert!(outcome.status != Status::Ok || outcome.may_have_run);
                    if !bytes.u8().is_multiple_of(4) {
                        core.release(core.slot_of(name));
                    }
                }
            }
            7 => {
                let Some(&name) = bytes.one_of(&names) else { continue };
                core.cancel(name);
                assert!(!core.is_known(name), "it was given up");
            }
            8 => drop(core.any_ended(now_ns, &mut fx)),
            9 => core.reclaim(now_ns, &mut fx),
            10 => core.republish(bytes.number(), &mut fx),
            11 => {
                core.park();
                core.awake();
            }
            12 => noise.set(bytes.u8() % 32),
            13 => scribble(&inbox, &mut bytes),
            14 => {
                // The reply to something that is open, or nearly.
                let Some(&name) = bytes.one_of(&names) else { continue };
                let at = SHAPE.inbox().replies + core.slot_of(name) as usize * LINE;
                inbox.store(at + 1, bytes.number());
                inbox.store(at + 3, bytes.number());
                inbox.store(at, name + u64::from(bytes.u8() % 3));
            }
            _ => match bytes.u8() {
                0 => core.abandon(Status::DirectorGone, &mut fx),
                1.. => {
                    let at = SHAPE.inbox();
                    inbox.store(at.verdict + bytes.below(4), bytes.number() % 64);
                    inbox.store(at.notices, now_ns);
                }
            },
        }
        let most = core.open() + core.quarantined();
        assert!(most <= SHAPE.slots, "{most} of {} slots are in use", SHAPE.slots);
        assert!(core.one_way() <= core.open());
    }
    calls
}
