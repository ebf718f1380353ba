//! Runs schedules: makes the machine, lets the seed pick who goes on, and looks at what is left at rest.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult};
use fastrand::Rng;

use crate::simulator::coverage::{Coverage, Seen};
use crate::simulator::memory::Cpu;
use crate::simulator::plan::{CLIENTS, DIRECTOR, Mutation, PARTIES, Plan, WORKERS};
use crate::simulator::world::{State, ToDirector, World, name};
use crate::simulator::{client, director, worker};

/// More steps than any schedule needs to come to rest.
const STEPS_MAX: u64 = 1_000_000;
/// Enough for a party in an unoptimised build, and for an unwinding.
const STACK_BYTES: usize = 128 << 10;

type Party = Coroutine<(), (), (), DefaultStack>;

/// What schedules share: stacks, which are dear to make, and counts.
#[derive(Default)]
pub struct Runner {
    stacks: Vec<DefaultStack>,
    /// Whether a director died in the last schedule.
    pub director_died: bool,
    /// The same of a worker.
    pub worker_died: bool,
    pub coverage: Coverage,
}

impl Runner {
    /// Runs one schedule. `Err` says which promise it broke.
    pub fn run(&mut self, seed: u64, mutation: Mutation, trace: bool) -> Result<(), String> {
        let mut rng = Rng::with_seed(seed);
        let plan = Plan::new(&mut rng, mutation);
        self.run_plan(plan, rng, trace)
    }

    /// Runs one schedule of this plan.
    pub fn run_plan(&mut self, plan: Plan, rng: Rng, trace: bool) -> Result<(), String> {
        let world = Rc::new(World::new(plan, rng, trace));
        if trace {
            eprintln!("{:#?}", world.plan);
        }
        if world.plan.store_buffers {
            world.saw(Seen::StoreBuffers);
        }
        if world.plan.gentle {
            world.saw(Seen::Gentle);
        }
        let clients = CLIENTS.take(world.plan.clients);
        let parties = [DIRECTOR].into_iter().chain(clients).chain(WORKERS.take(world.plan.workers));
        parties.for_each(|party| world.places[party].state.set(State::Runs));
        let mut coroutines: [Option<Party>; PARTIES] = std::array::from_fn(|_| None);

        while !world.failed() {
            if world.steps.get() > STEPS_MAX {
                world.fail(|| format!("somebody never ends, nor rests: {}", state_of(&world)));
            } else if let Some(party) = pick(&world) {
                self.advance(&world, party, &mut coroutines[party]);
            } else if !pass_time(&world) && !close(&world) {
                check_rest(&world);
                break;
            }
        }
        for coroutine in coroutines.iter_mut() {
            self.end(coroutine);
        }
        self.director_died = world.has_seen(Seen::DirectorKilled);
        self.worker_died = world.has_seen(Seen::WorkerKilled);
        self.coverage.add(world.seen.get(), world.steps.get());
        world.failure.take().map_or(Ok(()), Err)
    }

    /// Lets a party run until its next suspension.
    fn advance(&mut self, world: &Rc<World>, party: usize, coroutine: &mut Option<Party>) {
        let place = &world.places[party];
        if place.state.get() == State::Hangs {
            match decide_hanging(world, party) {
                State::Runs => {}
                State::Killed => return self.end(coroutine),
                _ => return,
            }
        }
        if place.state.get() == State::Stopped && !world.plan.gentle && world.chance(25) {
            world.kill(party);
            self.end(coroutine);
            return if party == DIRECTOR {
                world.succeed_director()
            };
        }
        place.state.set(State::Runs);
        world.burst.set(world.below(u64::from(world.plan.burst_max)) as u32);
        let running = coroutine.get_or_insert_with(|| self.begin(world, party));
        match catch_unwind(AssertUnwindSafe(|| running.resume(()))) {
            Ok(CoroutineResult::Yield(())) if place.state.get() == State::Killed => {
                self.end(coroutine);
                if party == DIRECTOR {
                    world.succeed_director();
                }
            }
            Ok(CoroutineResult::Yield(())) => {}
            Ok(CoroutineResult::Return(())) => {
                place.state.set(State::Ended);
                world.note(party, || "has ended".into());
                self.end(coroutine);
            }
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("?");
                world.fail(|| format!("{} panicked: {text}", name(party)));
            }
        }
    }

    fn begin(&mut self, world: &Rc<World>, party: usize) -> Party {
        let stack = self.stacks.pop().or_else(|| DefaultStack::new(STACK_BYTES).ok());
        let world = world.clone();
        Coroutine::with_stack(stack.expect("memory for a stack"), move |yielder, ()| {
            let cpu = Cpu::new(world, party, yielder);
            match party {
                DIRECTOR => director::run(&cpu),
                client if CLIENTS.contains(&client) => client::run(&cpu),
                _ => worker::run(&cpu),
            }
        })
    }

    /// Unwinds what has not ended, and keeps the stack.
    fn end(&mut self, coroutine: &mut Option<Party>) {
        if let Some(mut coroutine) = coroutine.take() {
            coroutine.force_unwind();
            self.stacks.push(coroutine.into_stack());
        }
    }
}

/// The next to run, by weight, among those that can.
fn pick(world: &World) -> Option<usize> {
    if world.plan.store_buffers && world.chance(40) {
        world.drain_one(world.below(PARTIES as u64) as usize);
    }
    let now_ns = world.now_ns.get();
    let mut weights = [0; PARTIES];
    for (party, weight) in weights.iter_mut().enumerate() {
        let place = &world.places[party];
        let can = match place.state.get() {
            State::Runs => true,
            State::Sleeps => world.wake_ns(party) <= now_ns,
            State::Hangs | State::Stopped => place.until_ns.get() <= now_ns,
            State::Absent | State::Killed | State::Ended => false,
        };
        *weight = if can { world.plan.weights[party] } else { 0 };
    }
    let sum: u32 = weights.iter().sum();
    let mut at = world.below(u64::from(sum)) as u32;
    weights.iter().position(|&weight| {
        let here = at < weight;
        at = at.saturating_sub(weight);
        here
    })
}

/// What becomes of a worker that hung: it dies, it goes on, or neither ever.
fn decide_hanging(world: &World, party: usize) -> State {
    match world.below(3) {
        0 => {
            world.kill(party);
            State::Killed
        }
        1 => {
            world.note(party, || "goes on".into());
            world.saw(Seen::WorkerResumed);
            State::Runs
        }
        _ => {
            world.give_up_on(party);
            State::Hangs
        }
    }
}

/// Everybody sleeps: time jumps to the next thing that will happen. Returns whether there is one.
fn pass_time(world: &World) -> bool {
    let timer = |party: usize| match world.places[party].state.get() {
        State::Sleeps => world.wake_ns(party),
        State::Hangs | State::Stopped => world.places[party].until_ns.get(),
        _ => u64::MAX,
    };
    let next = (0..PARTIES).map(timer).min().unwrap_or(u64::MAX);
    if next == u64::MAX {
        return false;
    }
    // A director looks every second whether one that has hung for ever has done what it had, and finds nothing.
    let alone = CLIENTS.clone().all(|client| has_ended(world, client))
        && WORKERS.clone().all(|worker| timer(worker) == u64::MAX)
        && world.places.iter().all(|place| place.to_director.borrow().is_empty());
    if alone && world.is_up.get() && world.hung_for_ever.get() && world.unwatched.get() {
        return false;
    }
    check_stopped_clients(world, timer);
    world.now_ns.set(world.now_ns.get().max(next));
    true
}

/// Nobody waits for a client that is stopped: where nothing else will ever happen, the other one has ended.
fn check_stopped_clients(world: &World, timer: impl Fn(usize) -> u64) {
    let is_stopped = |party: usize| world.places[party].state.get() == State::Stopped;
    let goes_on = |party: usize| timer(party) < u64::MAX && !(CLIENTS.contains(&party) && is_stopped(party));
    let waits = |party: usize| world.places[party].state.get() == State::Sleeps;
    if let Some(party) = CLIENTS.clone().find(|&party| waits(party))
        && !(0..PARTIES).any(goes_on)
    {
        world.fail(|| format!("{} waits for a client that is stopped: {}", name(party), state_of(world)));
    }
}

fn has_ended(world: &World, party: usize) -> bool {
    matches!(world.places[party].state.get(), State::Ended | State::Killed | State::Absent)
}

/// At rest with all clients ended: nothing of theirs is left. Then workers are told to leave, once. Returns whether
/// there is more to come.
fn close(world: &World) -> bool {
    if world.closing.get() || !CLIENTS.clone().all(|client| has_ended(world, client)) {
        return false;
    }
    let load = world.load.get();
    if load.sessions > 0 && !world.hung_for_ever.get() && !world.is_orphaned() {
        world.fail(|| format!("no client is left, but sessions are: {load:?}"));
    }
    world.closing.set(true);
    WORKERS.for_each(|worker| world.places[worker].rung.set(true));
    true
}

/// The machine is at rest: every living client's program has ended, and the director has nothing left over.
fn check_rest(world: &World) {
    let hangs = |party: usize| world.places[party].state.get() == State::Hangs;
    if let Some(party) = (1..PARTIES).find(|&party| !has_ended(world, party) && !hangs(party)) {
        return world.fail(|| format!("{} never ends: {}", name(party), state_of(world)));
    }
    if world.is_orphaned() {
        return;
    }
    let left: Vec<u64> =
        world.links.borrow().iter().filter(|(_, l)| !hangs(l.party)).map(|(&worker, _)| worker).collect();
    if !left.is_empty() && !world.has_seen(Seen::Unreadable) {
        return world.fail(|| format!("links are left over, of workers {left:x?}"));
    }
    let load = world.load.get();
    let left = load.backlog + load.hot + load.waiting;
    let attached = load.sessions + load.workers + load.services;
    if left > 0 || (attached > 0 && !WORKERS.clone().any(hangs)) {
        world.fail(|| format!("the director has something left over: {load:?}"));
    }
    let unread = |party: &usize| !world.places[*party].to_director.borrow().is_empty();
    if let Some(party) = (1..PARTIES).find(unread) {
        let messages = world.places[party].to_director.borrow();
        let death = matches!(messages.back(), Some((_, ToDirector::Dead)));
        world.fail(|| format!("{}'s messages were never read (its death among them: {death})", name(party)));
    }
}

/// Who waits for what.
fn state_of(world: &World) -> String {
    let mut text = String::new();
    for (party, place) in world.places.iter().enumerate() {
        let state = place.state.get();
        if state != State::Absent {
            let waits_for = place.waits_for.get();
            let what = if waits_for.is_empty() { String::new() } else { format!(" (waits for {waits_for})") };
            text += &format!("{} {state:?}{what}, ", name(party));
        }
    }
    text + &format!("director {:?}, {}", world.load.get(), world.referee.borrow().open())
}
