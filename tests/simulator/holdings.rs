//! Exclusive rights as the referee keeps them: who may think that he holds what, and who runs calls on it.
//!
//! The books know nothing of what the director means. They say what a program could see: a key is held by whom an
//! event told so, from then on until an event told of the loss; a call runs from its start to its answer.

use std::ops::Range;

use trine::layout::{Request, flag};
use trine::{Key, Resource};

use crate::simulator::coverage::Seen;
use crate::simulator::memory::Cpu;
use crate::simulator::world::{World, name};

/// The service whose resources are exclusive.
pub const LOCKS: &str = "locks";
/// Keys that calls are about: numbers, then names.
pub const KEYS: usize = 6;
const NAMES: Range<usize> = 4..6;

/// Word and flags of a key in a request.
pub fn words(key: usize) -> (u64, u16) {
    match key.checked_sub(NAMES.start) {
        None => (key as u64, flag::HAS_KEY),
        Some(name) => (name as u64, flag::HAS_KEY | flag::NAME_KEY),
    }
}

/// The key as the library sees it.
pub fn key(key: usize) -> Key {
    let (key, flags) = words(key);
    Request { key, flags, ..Request::default() }.resource().expect("it has a key")
}

/// The keys that a resource covers.
pub fn keys_of(resource: Resource) -> impl Iterator<Item = usize> {
    (0..KEYS).filter(move |&i| resource.covers(key(i)))
}

/// A key, or some numbers.
pub fn some_resource(cpu: &Cpu<'_>) -> Resource {
    let below = |n: usize| cpu.world.below(n as u64);
    match below(4) {
        0 => {
            let (a, b) = (below(NAMES.start), below(NAMES.start));
            Resource::from(a.min(b)..=a.max(b))
        }
        _ => Resource::Key(key(below(KEYS) as usize)),
    }
}

/// Who holds a key, and who runs calls on it.
#[derive(Clone, Debug, Default)]
struct Holding {
    holders: Vec<usize>,
    runs: Vec<(usize, u64)>,
}

/// The books.
#[derive(Debug, Default)]
pub struct Holdings([Holding; KEYS]);

impl Holdings {
    /// A worker's program hears that it holds something.
    pub fn gained(&mut self, world: &World, worker: usize, resource: Resource) {
        world.saw(Seen::Gained);
        for key in keys_of(resource) {
            let Holding { holders, runs } = &mut self.0[key];
            for &other in holders.iter().filter(|&&other| other != worker) {
                complain(world, worker, other, || format!("{} gains key {key}", name(worker)), "holds it");
            }
            for &(other, call) in runs.iter().filter(|(other, _)| *other != worker) {
                let still = format!("still runs call {call} on it");
                complain(world, worker, other, || format!("{} gains key {key}", name(worker)), &still);
            }
            if !holders.contains(&worker) {
                holders.push(worker);
            }
        }
    }

    /// It hears that it has lost something.
    pub fn lost(&mut self, world: &World, worker: usize, resource: Resource) {
        world.saw(Seen::Lost);
        keys_of(resource).for_each(|key| self.0[key].holders.retain(|&holder| holder != worker));
    }

    /// It starts to run a call on a key; what it thinks of its own right to it is `holds`.
    pub fn started(&mut self, world: &World, worker: usize, key: usize, call: u64, holds: bool) {
        world.saw(Seen::RunsExclusively);
        let Holding { holders, runs } = &mut self.0[key];
        if !holds || !holders.contains(&worker) {
            world.fail(|| format!("{} runs call {call} on key {key}, which it does not hold", name(worker)));
        }
        for &(other, earlier) in runs.iter().filter(|(other, _)| *other != worker) {
            let runs = || format!("{} runs call {call} on key {key}", name(worker));
            complain(world, worker, other, runs, &format!("still runs call {earlier} on it"));
        }
        runs.push((worker, call));
    }

    /// It has run it.
    pub fn finished(&mut self, worker: usize, key: usize, call: u64) {
        self.0[key].runs.retain(|run| *run != (worker, call));
    }

    /// It runs no more.
    pub fn dead(&mut self, world: &World, worker: usize) {
        for Holding { holders, runs } in &mut self.0 {
            if holders.contains(&worker) {
                world.saw(Seen::KilledHolding);
            }
            holders.retain(|&holder| holder != worker);
            runs.retain(|&(runner, _)| runner != worker);
        }
    }
}

/// Two at a time: only where one of them lives and did not come back in time.
fn complain(world: &World, worker: usize, other: usize, does: impl Fn() -> String, still: &str) {
    if world.places[worker].excused.get() || world.places[other].excused.get() {
        return world.saw(Seen::Overlapped);
    }
    world.fail(|| format!("{}, though {} {still}", does(), name(other)));
}
