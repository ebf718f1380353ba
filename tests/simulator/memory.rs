//! Shared memory of which every access is a place where its party may be suspended or killed.
//!
//! ```text
//! store ─► a step: is this where it dies? ─► the referee looks ─► [store buffer] ─► the word ◄─ a step ◄─ load
//! ```
//! With store buffers on, a store stays with its party until the scheduler drains it or the party executes a full
//! fence or a system call, as on x86: a fence that is missing shows. A killed party loses no executed store.

use std::cell::Cell;
use std::marker::PhantomData;
use std::rc::Rc;

use corosensei::Yielder;
use trine::core::{Memory, Read, Write};
use trine::layout::{SessionShape, WorkShape};

use crate::simulator::broken::Broken;
use crate::simulator::coverage::Seen;
use crate::simulator::plan::{CLIENTS, DIRECTOR, Fate, Mutation, WORKERS};
use crate::simulator::world::{State, ToDirector, World, name};

/// Sleeps in a row until a time that has passed: more is spinning.
const SLEEPLESS_MAX: u32 = 20;

/// What a segment is, and whose.
#[derive(Clone, Copy)]
pub enum Role {
    /// A client's.
    Outbox(usize, SessionShape),
    /// A client's; written by the holders of its reply rights, and the director.
    Inbox(usize, SessionShape),
    /// The director's, for a worker.
    Work(usize, WorkShape),
    /// A worker's.
    Page(usize, WorkShape),
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Role::Outbox(client, _) => write!(f, "{}'s outbox", name(client)),
            Role::Inbox(client, _) => write!(f, "{}'s inbox", name(client)),
            Role::Work(worker, _) => write!(f, "{}'s work segment", name(worker)),
            Role::Page(worker, _) => write!(f, "{}'s progress page", name(worker)),
        }
    }
}

/// A piece of memory.
pub struct Segment {
    pub role: Role,
    /// Which of all sessions it belongs to, if it is a session's; a work segment's is its worker's id.
    pub session: usize,
    words: Box<[Cell<u64>]>,
    /// Its owner has been told that nobody uses it any more.
    pub returned: Cell<bool>,
}

impl Segment {
    pub fn new(role: Role, session: usize) -> Rc<Segment> {
        let words = match role {
            Role::Outbox(_, shape) => shape.outbox().words,
            Role::Inbox(_, shape) => shape.inbox().words,
            Role::Work(_, shape) => shape.work().words,
            Role::Page(_, shape) => shape.progress().words,
        };
        let words = vec![Cell::new(0); words].into();
        Rc::new(Segment { role, session, words, returned: Cell::new(false) })
    }

    pub fn set(&self, word: usize, value: u64) {
        self.words[word].set(value);
    }

    /// What all see.
    pub fn get(&self, word: usize) -> u64 {
        self.words[word].get()
    }
}

/// What a party runs on.
pub struct Cpu<'c> {
    pub world: Rc<World>,
    pub party: usize,
    pub yielder: &'c Yielder<(), ()>,
    /// What a broken memory has in mind.
    pub broken: Broken,
}

impl<'c> Cpu<'c> {
    pub fn new(world: Rc<World>, party: usize, yielder: &'c Yielder<(), ()>) -> Self {
        Cpu { world, party, yielder, broken: Broken::default() }
    }

    /// One step: perhaps another party's turn, perhaps this one's end.
    #[inline]
    pub fn step(&self) {
        self.world.tick();
        match self.world.burst.get() {
            0 => self.yielder.suspend(()),
            n => self.world.burst.set(n - 1),
        }
        self.meet_fate();
    }

    /// A system call that others can see: what was stored before is in sight.
    pub fn system_call(&self) {
        self.world.drain(self.party);
        self.step();
    }

    /// Gives the CPU away once.
    pub fn pause(&self) {
        self.world.tick();
        self.yielder.suspend(());
    }

    /// Sleeps until something is there for this party, or `until_ns`. Something that is there already counts.
    /// Returns whether it was rung.
    pub fn sleep(&self, until_ns: u64) -> bool {
        let (world, place) = (&self.world, &self.world.places[self.party]);
        world.saw(Seen::Parked);
        world.drain(self.party);
        world.tick();
        place.until_ns.set(until_ns);
        world.note(self.party, || format!("sleeps until {until_ns}"));
        place.sleepless.set(if until_ns > world.now_ns.get() { 0 } else { place.sleepless.get() + 1 });
        if place.sleepless.get() > SLEEPLESS_MAX {
            world.fail(|| format!("{} spins: it sleeps until {until_ns}, again and again", name(self.party)));
        }
        if world.wake_ns(self.party) > world.now_ns.get() {
            place.state.set(State::Sleeps);
        }
        self.yielder.suspend(());
        let rung = place.rung.take();
        world.note(self.party, || "wakes".into());
        self.meet_fate();
        rung
    }

    /// At each step: the place where lives are cut.
    fn meet_fate(&self) {
        let place = &self.world.places[self.party];
        match place.fate.get() {
            Fate::Lives => return,
            Fate::Killed(n) if n > 1 => return place.fate.set(Fate::Killed(n - 1)),
            Fate::Hangs(n) if n > 1 => return place.fate.set(Fate::Hangs(n - 1)),
            Fate::Stops(n) if n > 1 => return place.fate.set(Fate::Stops(n - 1)),
            Fate::Killed(_)
                if self.world.plan.mutation == Mutation::DeathBeforeKill && WORKERS.contains(&self.party) =>
            {
                place.fate.set(Fate::Lives);
                return self.world.notify_director(self.party, ToDirector::Dead);
            }
            Fate::Killed(_) => self.world.kill(self.party),
            Fate::Hangs(_) => self.hang(),
            Fate::Stops(_) => self.stop(),
        }
        place.fate.set(Fate::Lives);
        self.yielder.suspend(());
    }

    /// Stops here. After a while it counts as gone; what follows then is the runner's.
    fn hang(&self) {
        let place = &self.world.places[self.party];
        self.world.drain(self.party);
        self.world.note(self.party, || "hangs".into());
        self.world.saw(Seen::WorkerHung);
        if self.world.is_connected(self.party) {
            place.evicted.set(true);
            self.world.notify_director(self.party, ToDirector::Gone);
        }
        place.until_ns.set(self.world.now_ns.get() + self.world.some_ns(2_000));
        place.state.set(State::Hangs);
    }

    /// Is stopped here, for a while. Its sockets stay open, and the kernel says nothing.
    fn stop(&self) {
        let (world, place) = (&self.world, &self.world.places[self.party]);
        world.drain(self.party);
        world.note(self.party, || "is stopped".into());
        world.saw(match self.party {
            DIRECTOR => Seen::DirectorPaused,
            client if CLIENTS.contains(&client) => Seen::ClientPaused,
            _ => Seen::WorkerPaused,
        });
        place.until_ns.set(world.now_ns.get() + world.some_ns(world.plan.stop));
        place.state.set(State::Stopped);
    }

    /// Binds a piece of memory to this party.
    pub fn map(&'c self, segment: &Rc<Segment>) -> Region<'c> {
        Region { segment: segment.clone(), cpu: self }
    }
}

/// The memory of the simulated parties.
pub struct Sim<'c>(PhantomData<&'c ()>);

impl<'c> Memory for Sim<'c> {
    type Ro = Region<'c>;
    type Rw = Region<'c>;
}

/// A segment as one party sees it.
pub struct Region<'c> {
    pub segment: Rc<Segment>,
    pub cpu: &'c Cpu<'c>,
}

impl Region<'_> {
    /// What this party sees: its own stores first.
    pub fn view(&self, word: usize) -> u64 {
        let Some(cell) = self.segment.words.get(word) else { return 0 };
        if self.cpu.world.plan.store_buffers {
            let buffer = self.cpu.world.places[self.cpu.party].buffer.borrow();
            let own = buffer.iter().rev().find(|(s, w, _)| *w == word && Rc::ptr_eq(s, &self.segment));
            if let Some(&(_, _, value)) = own {
                return value;
            }
        }
        cell.get()
    }

    pub fn execute(&self, word: usize, value: u64) {
        let world = &self.cpu.world;
        world.note(self.cpu.party, || format!("{}[{word}] = {value:#x}", self.segment.role));
        world.referee.borrow_mut().stored(world, self, word, value);
        if world.plan.store_buffers {
            let mut buffer = world.places[self.cpu.party].buffer.borrow_mut();
            buffer.push_back((self.segment.clone(), word, value));
        } else {
            self.segment.set(word, value);
        }
    }
}

impl Read for Region<'_> {
    #[inline]
    fn load(&self, word: usize) -> u64 {
        self.cpu.step();
        if self.cpu.world.plan.mutation == Mutation::None {
            return self.view(word);
        }
        self.misread(word, self.view(self.misplaced(word)))
    }

    fn acquire(&self) {}
}

impl Write for Region<'_> {
    fn store(&self, word: usize, value: u64) {
        if word >= self.segment.words.len() {
            return;
        }
        self.cpu.step();
        if self.cpu.world.plan.mutation == Mutation::None {
            return self.execute(word, value);
        }
        self.store_broken(self.misplaced(word), value);
    }

    fn release(&self) {}

    fn full(&self) {
        if self.cpu.world.plan.mutation != Mutation::NoFullFence {
            self.cpu.world.drain(self.cpu.party);
        }
    }
}
