//! Requests to several workers: what a client does with them, and what must hold of each.
//!
//! *Each ticket* has a call of its own in the referee's books: what was no part never runs, and a part runs its own
//! record once at most. *Each scatter* ends as it said with its first part: with so many parts, that are about all its
//! keys, each about others; and no worker has two, but where keys are exclusive: what nobody holds is a part of its own.

use trine::client::group::PartEnd;
use trine::layout::{Request, flag};
use trine::{Key, Unheld, scatter};

use crate::simulator::client::{Bell, Client};
use crate::simulator::coverage::Seen;
use crate::simulator::holdings::{KEYS, key};
use crate::simulator::referee::Call;
use crate::simulator::worker::{OPERATIONS, PLAIN};

/// A scatter that is under way.
pub struct Scatter {
    pub name: u64,
    /// What the referee calls each of its records, with its slot; `None` once it has ended.
    records: Vec<(u32, Option<u64>)>,
    by_key: bool,
    is_exclusive: bool,
    /// Keys that parts were about.
    mask: u64,
    len: Option<u32>,
    parts: u32,
    workers: Vec<u32>,
    /// Nobody but this client has ended it: what has become of the rest is not known.
    uncertain: bool,
}

impl Client<'_> {
    /// Sends one to whoever provides an operation, with as many tickets as there are free slots, or fewer.
    pub fn scatter(&mut self) {
        let Some(first) = self.slot() else { return };
        let mut slots = vec![first];
        for _ in 0..self.cpu.world.below(4) {
            slots.extend(self.core.reserve());
        }
        if self.unknown || self.cpu.world.is_orphaned() {
            for slot in slots {
                self.core.release(slot);
            }
            return;
        }
        let world = &self.cpu.world;
        let is_exclusive = world.plan.exclusive.is_some() && (world.plan.one_call || world.chance(50));
        let by_key = world.chance(if is_exclusive { 85 } else { 40 });
        let operation = match is_exclusive {
            true => PLAIN + world.below((OPERATIONS.len() - PLAIN) as u64) as usize,
            false if world.plan.one_call => 0,
            false => world.below(PLAIN as u64) as usize,
        };
        let turn = world.below(KEYS as u64) as usize;
        let which: Vec<usize> = (turn..).take(slots.len()).filter(|_| by_key).map(|i| i % KEYS).collect();
        let keys: Vec<Key> = which.iter().map(|&which| key(which)).collect();
        let mut request =
            Request { capacity: 64, operation: operation as u32, len: 16, ..Request::default() };
        if world.chance(10) {
            request.flags |= flag::TRACED;
        }
        if world.plan.deadlines && world.chance(50) {
            request.deadline_ns = world.now_ns.get() + world.some_ns(800);
        } else if is_exclusive && !(world.plan.gentle && world.plan.exclusive != Some(Unheld::Wait)) {
            // Whoever holds a key may never answer, and there may be nobody who wants it.
            request.deadline_ns = world.now_ns.get() + world.some_ns(3_000);
        }
        let ticket = Call {
            operation,
            has_route: self.routes[operation],
            deadline_ns: request.deadline_ns,
            session: self.session,
            keys: which.iter().filter(|_| is_exclusive).fold(0, |keys, which| keys | 1 << which),
            part: true,
            ..Call::default()
        };
        let ids: Vec<u64> = slots.iter().map(|_| world.referee.borrow_mut().submitted(ticket)).collect();
        world.saw(if is_exclusive && by_key { Seen::ScatteredOnLocks } else { Seen::Scattered });
        world.note(self.cpu.party, || {
            format!("scatters {ids:?} in slots {slots:?}, on {which:?}: {request:?}")
        });
        let fill = |i: usize, record: &mut [u64; 16]| {
            record[6..8].copy_from_slice(&[ids[i], !ids[i]]);
            record[scatter::WORD_LIST] = turn as u64 * 8; // see `keys_of` of the workers
        };
        let name = self.core.submit_group(&slots, request, &[0; 16], &keys, fill, &mut Bell(self.cpu));
        let records = slots.into_iter().zip(ids.iter().copied().map(Some)).collect();
        self.scatters.push(Scatter {
            name,
            records,
            by_key,
            is_exclusive,
            mask: 0,
            len: None,
            parts: 0,
            workers: Vec::new(),
            uncertain: false,
        });
    }

    /// A part has ended.
    pub fn part_ended(&mut self, name: u64, end: &PartEnd) {
        let world = &self.cpu.world;
        let Some(at) = self.scatters.iter().position(|s| s.name == name) else {
            return world.fail(|| format!("a part of scatter {name}, which is none"));
        };
        let len = self.core.group_len(name);
        let scatter = &mut self.scatters[at];
        let record = scatter.records.iter_mut().find(|(slot, id)| *slot == end.slot && id.is_some());
        let Some(id) = record.and_then(|(_, id)| id.take()) else {
            return world.fail(|| format!("a part of scatter {name} in slot {}, which has none", end.slot));
        };
        world.note(self.cpu.party, || format!("part {id} of {len:?} ended {}", end.outcome.status));
        world.referee.borrow_mut().ended(world, id, &end.outcome);
        scatter.parts += 1;
        if len.is_none() || scatter.len.is_some_and(|was| Some(was) != len) {
            world.fail(|| format!("scatter {name} has {len:?} parts, but had {:?}", scatter.len));
        }
        scatter.len = len;
        let all = u64::MAX >> (64 - scatter.records.len());
        if scatter.by_key && (end.mask == 0 || end.mask & scatter.mask != 0 || end.mask & !all != 0) {
            world.fail(|| format!("a part about keys {:b}, after {:b}", end.mask, scatter.mask));
        }
        scatter.mask |= end.mask;
        let worker = end.outcome.head().worker;
        if worker != 0 && !scatter.is_exclusive && scatter.workers.contains(&worker) {
            world.fail(|| format!("worker {worker:#x} has two parts of one scatter"));
        }
        scatter.workers.push(worker);
        scatter.uncertain = len == Some(1) && end.outcome.record[0] == 0;
        self.core.release(end.slot);
        if self.core.forget_if_done(name) {
            self.scatter_ended(at);
        }
    }

    /// All parts of a scatter have ended: what is left was none.
    pub fn scatter_ended(&mut self, at: usize) {
        let world = &self.cpu.world;
        let scatter = self.scatters.swap_remove(at);
        let all = u64::MAX >> (64 - scatter.records.len());
        if scatter.len != Some(scatter.parts) || (scatter.by_key && scatter.mask != all) {
            let (len, parts, mask) = (scatter.len, scatter.parts, scatter.mask);
            world.fail(|| format!("{parts} of {len:?} parts have ended, about {mask:b}, and no more come"));
        }
        for id in scatter.records.into_iter().filter_map(|(_, id)| id) {
            if scatter.uncertain {
                world.referee.borrow_mut().given_up(world, id);
            } else {
                world.saw(Seen::NoPart);
                world.referee.borrow_mut().no_part(world, id);
            }
        }
    }

    /// Gives one up.
    pub fn give_up_scatter(&mut self, at: usize) {
        let world = &self.cpu.world;
        let scatter = self.scatters.swap_remove(at);
        world.note(self.cpu.party, || format!("gives up scatter {}", scatter.name));
        for id in scatter.records.into_iter().filter_map(|(_, id)| id) {
            world.referee.borrow_mut().given_up(world, id);
        }
        self.core.cancel_group(scatter.name);
    }
}
