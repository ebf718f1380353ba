//! The machine: time, the scheduler's state, doorbells, sockets, and who lives.
//!
//! ```text
//! runner ── picks a party by the seed ──► party runs some steps ── a store, a load, a yield, a sleep ──► runner
//! ```
//! A step is one store to or one load from shared memory. At each the party may be suspended in favour of another,
//! or be killed. Time moves by a fixed amount a step, and jumps to the next timer when everybody sleeps. When there
//! is none either, the machine is at rest, and whatever has not ended hangs.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use trine::core::Os;
use trine::director::core::Load;
use trine::layout::{LEDGER_ENTRY, SessionShape, WorkShape};
use trine::resource::Action;
use trine::{Fault, Resource, Status, Unheld};

use crate::simulator::coverage::Seen;
use crate::simulator::memory::{Cpu, Segment};
use crate::simulator::plan::{CLIENTS, DIRECTOR, Fate, Mutation, PARTIES, Plan, WORKERS};
use crate::simulator::referee::Referee;

/// What a party is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It does not exist (yet).
    Absent,
    /// It can run.
    Runs,
    /// It sleeps until its bell rings, a message comes, or `until_ns`.
    Sleeps,
    /// It has stopped in the middle, and is taken for gone; at `until_ns` its fate is decided.
    Hangs,
    /// It is stopped until `until_ns`, and nobody knows.
    Stopped,
    /// The kernel has ended it; the runner unwinds it.
    Killed,
    /// It has ended.
    Ended,
}

/// What goes to the director over a peer's socket, or about the peer from the kernel.
pub enum ToDirector {
    /// With the id that an earlier director gave, or 0.
    AttachSession {
        id: u64,
        published: u64,
        settled: u64,
        shape: SessionShape,
        outbox: Rc<Segment>,
        inbox: Rc<Segment>,
    },
    OpenRoute {
        number: u32,
        service: &'static str,
        operation: &'static str,
    },
    CloseSession,
    /// The same of a worker; `taken` is where it stands. Whether its program may think that it holds something.
    AttachWorker {
        id: u64,
        taken: u64,
        holds: bool,
        shape: WorkShape,
        page: Rc<Segment>,
    },
    /// All that was unanswered is published again, or all that was provided is told again.
    Republished,
    Provide {
        service: &'static str,
        first: u16,
        operations: &'static [&'static str],
        exclusive: Option<Unheld>,
        resources: Vec<Resource>,
    },
    Withdraw {
        service: &'static str,
    },
    /// Of what a worker holds. Whether it waits for the answer.
    Change {
        service: &'static str,
        changes: Vec<(Action, Resource)>,
        asks: bool,
    },
    Yielded {
        resource: Resource,
    },
    /// It wants no more work.
    Drain,
    Mapped {
        index: u16,
        accepted: bool,
    },
    Unmapped {
        index: u16,
    },
    /// The worker takes no more and has answered what it began.
    Leave,
    /// The socket is closed, the process lives.
    Gone,
    /// The process is dead.
    Dead,
}

/// What the director sends.
pub enum ToPeer {
    Attached {
        id: u64,
    },
    /// It does not know whoever says that he was here before.
    Refused,
    /// Not now.
    Busy,
    RouteOpened {
        status: Status,
    },
    WorkerAttached {
        id: u64,
        start: u64,
        work: Rc<Segment>,
    },
    Map {
        index: u16,
        id: u64,
        shape: SessionShape,
        outbox: Rc<Segment>,
        inbox: Rc<Segment>,
    },
    Unmap {
        index: u16,
    },
    /// The answer to a change.
    Changed {
        status: Status,
    },
    Granted {
        sequence: u64,
        resource: Resource,
    },
    Recalled {
        sequence: u64,
        resource: Resource,
        before: u64,
    },
    Draining {
        sequence: u64,
        before: u64,
    },
}

/// A socket's one direction: messages with the time at which they arrive, in order.
pub type Mail<T> = RefCell<VecDeque<(u64, T)>>;

/// What a link in the runtime folder leads to: all that a director leaves behind.
#[derive(Clone)]
pub struct Linked {
    pub party: usize,
    pub segment: Rc<Segment>,
}

/// The outside of a party.
pub struct Place {
    pub state: Cell<State>,
    pub until_ns: Cell<u64>,
    pub rung: Cell<bool>,
    pub fate: Cell<Fate>,
    /// The director that its socket leads to.
    pub connection: Cell<u64>,
    /// The director takes it for gone: its socket is closed.
    pub evicted: Cell<bool>,
    /// A director could not read its ledger, and does not know what it had: what it still runs may run beside what others
    /// are given.
    pub excused: Cell<bool>,
    /// When a worker last stored to its progress page.
    pub moved_ns: Cell<u64>,
    /// When its process was killed.
    pub killed_ns: Cell<u64>,
    /// Sleeps in a row until a time that had passed.
    pub sleepless: Cell<u32>,
    pub waits_for: Cell<&'static str>,
    pub to_director: Mail<ToDirector>,
    pub to_peer: Mail<ToPeer>,
    /// Executed stores that nobody else sees yet.
    pub buffer: RefCell<VecDeque<(Rc<Segment>, usize, u64)>>,
}

/// The machine.
pub struct World {
    pub plan: Plan,
    pub trace: bool,
    pub now_ns: Cell<u64>,
    /// Steps that the running party may still make.
    pub burst: Cell<u32>,
    pub steps: Cell<u64>,
    pub places: [Place; PARTIES],
    /// Which clients have rung the director.
    pub bells: [Cell<bool>; PARTIES],
    /// All clients have ended: workers are to leave.
    pub closing: Cell<bool>,
    /// The director announces a sleep.
    pub parking: Cell<bool>,
    /// Nothing happens: nobody looks whether the director lives.
    pub unwatched: Cell<bool>,
    /// A worker will never move again, nor die.
    pub hung_for_ever: Cell<bool>,
    /// Slots that somebody waits for may never come back.
    pub slots_lost: Cell<bool>,
    /// A director waited in vain for a worker that lives.
    pub missed: Cell<bool>,
    /// The director of this number runs, or was the last that did.
    pub epoch: Cell<u64>,
    /// It does.
    pub is_up: Cell<bool>,
    /// Until then it waits for those who lived under the last.
    pub window_ends_ns: Cell<u64>,
    /// It can be connected to.
    pub listens: Cell<bool>,
    /// The last director that had settled all that it found.
    pub settled: Cell<u64>,
    /// By worker's id.
    pub links: RefCell<BTreeMap<u64, Linked>>,
    pub load: Cell<Load>,
    pub seen: Cell<u128>,
    pub failure: RefCell<Option<String>>,
    pub referee: RefCell<Referee>,
    rng: RefCell<fastrand::Rng>,
}

impl World {
    pub fn new(plan: Plan, rng: fastrand::Rng, trace: bool) -> World {
        let place = |i: usize| Place {
            state: Cell::new(State::Absent),
            until_ns: Cell::new(0),
            rung: Cell::new(false),
            fate: Cell::new(plan.fates[i]),
            connection: Cell::new(0),
            evicted: Cell::new(false),
            excused: Cell::new(false),
            moved_ns: Cell::new(0),
            killed_ns: Cell::new(0),
            sleepless: Cell::new(0),
            waits_for: Cell::new(""),
            to_director: Mail::default(),
            to_peer: Mail::default(),
            buffer: RefCell::default(),
        };
        World {
            places: std::array::from_fn(place),
            trace,
            now_ns: Cell::new(1_000_000),
            burst: Cell::new(0),
            steps: Cell::new(0),
            bells: Default::default(),
            closing: Cell::new(false),
            parking: Cell::new(false),
            unwatched: Cell::new(false),
            hung_for_ever: Cell::new(false),
            slots_lost: Cell::new(false),
            missed: Cell::new(false),
            epoch: Cell::new(0),
            is_up: Cell::new(false),
            window_ends_ns: Cell::new(0),
            listens: Cell::new(false),
            settled: Cell::new(0),
            links: RefCell::default(),
            load: Cell::default(),
            seen: Cell::new(0),
            failure: RefCell::default(),
            referee: RefCell::new(Referee::new(plan.session.slots)),
            rng: RefCell::new(rng),
            plan,
        }
    }

    /// A number below `n`, by the seed.
    pub fn below(&self, n: u64) -> u64 {
        self.rng.borrow_mut().u64(0..n.max(1))
    }

    /// True in `percent` of the cases.
    pub fn chance(&self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// A span of time of up to so many steps.
    pub fn some_ns(&self, steps: u64) -> u64 {
        self.below(steps + 1) * self.plan.step_ns
    }

    pub fn saw(&self, what: Seen) {
        self.seen.set(self.seen.get() | 1u128 << what as u32);
    }

    pub fn has_seen(&self, what: Seen) -> bool {
        self.seen.get() >> what as u32 & 1 == 1
    }

    /// A promise is broken: the first one ends the schedule.
    pub fn fail(&self, what: impl FnOnce() -> String) {
        let mut failure = self.failure.borrow_mut();
        if failure.is_none() {
            let what = what();
            if self.trace {
                eprintln!("{:>9} FAILED: {what}", self.now_ns.get());
            }
            *failure = Some(what);
        }
    }

    pub fn failed(&self) -> bool {
        self.failure.borrow().is_some()
    }

    pub fn note(&self, party: usize, what: impl FnOnce() -> String) {
        if self.trace {
            eprintln!("{:>9} {:<8} {}", self.now_ns.get(), name(party), what());
        }
    }

    pub fn tick(&self) {
        self.now_ns.set(self.now_ns.get() + self.plan.step_ns);
        self.steps.set(self.steps.get() + 1);
    }

    /// Rings a party's doorbell. A system call: what was stored before is in sight.
    pub fn ring(&self, from: usize, to: usize) {
        self.drain(from);
        self.note(from, || format!("rings {}", name(to)));
        self.saw(match to {
            DIRECTOR if CLIENTS.contains(&from) => Seen::ClientRingsDirector,
            DIRECTOR => Seen::WorkerRingsDirector,
            to if CLIENTS.contains(&to) => Seen::ClientRung,
            _ => Seen::WorkerRung,
        });
        if to == DIRECTOR {
            if self.plan.mutation == Mutation::DeafDirector && WORKERS.contains(&from) {
                return;
            }
            self.bells[from].set(true);
        } else {
            self.places[to].rung.set(true);
        }
    }

    /// Whether clients watch the director's signs of life.
    pub fn is_watched(&self) -> bool {
        self.plan.stall.is_some() && !self.unwatched.get()
    }

    /// A worker stores to its page.
    pub fn moves(&self, worker: usize) {
        if self.stands_still(worker) {
            self.saw(Seen::StoodStill);
        }
        self.places[worker].moved_ns.set(self.now_ns.get());
    }

    /// Whether a worker has stored nothing for as long as is watched. (Half of it: its store of a done mark is none
    /// of the signs that the director goes by.)
    fn stands_still(&self, worker: usize) -> bool {
        let (moved_ns, now_ns) = (self.places[worker].moved_ns.get(), self.now_ns.get());
        self.plan
            .stall
            .is_some_and(|stall| moved_ns > 0 && now_ns - moved_ns >= stall * self.plan.step_ns / 2)
    }

    /// Whether any has.
    pub fn any_stands_still(&self) -> bool {
        self.has_seen(Seen::StoodStill) || WORKERS.into_iter().any(|worker| self.stands_still(worker))
    }

    /// A worker will never go on, nor die: whoever waits for slots to come back waits in vain.
    pub fn give_up_on(&self, worker: usize) {
        self.note(worker, || "will never go on".into());
        self.hung_for_ever.set(true);
        self.saw(Seen::WorkerHungForEver);
        self.places[worker].until_ns.set(u64::MAX);
        self.lose_slots();
    }

    /// Whoever waits for slots may wait in vain.
    pub fn lose_slots(&self) {
        self.slots_lost.set(true);
        for client in CLIENTS {
            let waits_for_slots = self.places[client].waits_for.get().contains("slot");
            self.places[client].rung.set(self.places[client].rung.get() || waits_for_slots);
        }
    }

    fn due<T>(&self, mail: &Mail<T>) -> u64 {
        let earliest = self.now_ns.get() + self.some_ns(self.plan.control_delay);
        mail.borrow().back().map_or(earliest, |&(due, _)| due.max(earliest))
    }

    /// Sends over a socket: to nobody, if the director at its other end is dead.
    pub fn send_director(&self, from: usize, message: ToDirector) {
        self.drain(from);
        if self.is_connected(from) {
            self.notify_director(from, message);
        }
    }

    /// Whether a party's socket leads to a director that runs.
    pub fn is_connected(&self, party: usize) -> bool {
        self.is_up.get() && self.places[party].connection.get() == self.epoch.get()
    }

    /// Connects to the director, if there is one that listens.
    pub fn connect(&self, party: usize) -> bool {
        let listens = self.listens.get();
        if listens {
            self.places[party].to_peer.borrow_mut().clear();
            self.places[party].connection.set(self.epoch.get());
            self.places[party].evicted.set(false);
        }
        listens
    }

    /// What the kernel tells a director, if one runs.
    pub fn notify_director(&self, from: usize, message: ToDirector) {
        if !self.is_up.get() {
            return;
        }
        let mail = &self.places[from].to_director;
        let due = self.due(mail);
        mail.borrow_mut().push_back((due, message));
    }

    pub fn send_peer(&self, to: usize, message: ToPeer) {
        self.drain(DIRECTOR);
        let mail = &self.places[to].to_peer;
        let due = self.due(mail);
        mail.borrow_mut().push_back((due, message));
    }

    /// The next message of a socket, if it has arrived.
    pub fn receive<T>(&self, mail: &Mail<T>) -> Option<T> {
        let mut mail = mail.borrow_mut();
        let arrived = mail.front().is_some_and(|&(due, _)| due <= self.now_ns.get());
        if arrived { mail.pop_front().map(|(_, message)| message) } else { None }
    }

    /// The next message of a socket whose other end is closed: all that was sent is there.
    pub fn receive_rest<T>(&self, mail: &Mail<T>) -> Option<T> {
        mail.borrow_mut().pop_front().map(|(_, message)| message)
    }

    /// When a party that sleeps is to be woken: 0 for at once, `u64::MAX` for never.
    pub fn wake_ns(&self, party: usize) -> u64 {
        let place = &self.places[party];
        let front = |mail: &Place| mail.to_director.borrow().front().map_or(u64::MAX, |m| m.0);
        if party == DIRECTOR {
            if !self.is_up.get() {
                return place.until_ns.get();
            }
            if self.bells.iter().any(Cell::get) {
                return 0;
            }
            let mail = self.places.iter().map(front).min().unwrap_or(u64::MAX);
            return place.until_ns.get().min(mail);
        }
        let mail = place.to_peer.borrow().front().map_or(u64::MAX, |m| m.0);
        if place.rung.get() || place.evicted.get() { 0 } else { place.until_ns.get().min(mail) }
    }

    /// All that a party has stored comes into sight.
    pub fn drain(&self, party: usize) {
        while self.drain_one(party) {}
    }

    /// The oldest store of a party comes into sight.
    pub fn drain_one(&self, party: usize) -> bool {
        let oldest = self.places[party].buffer.borrow_mut().pop_front();
        let Some((segment, word, value)) = oldest else { return false };
        segment.set(word, value);
        true
    }

    /// The kernel ends a process. What it has stored stays; what it has sent may or may not be read.
    pub fn kill(&self, party: usize) {
        self.drain(party);
        self.places[party].state.set(State::Killed);
        self.places[party].killed_ns.set(self.now_ns.get());
        self.note(party, || "is killed".into());
        if party == DIRECTOR {
            return self.kill_director();
        }
        self.saw(if CLIENTS.contains(&party) { Seen::ClientKilled } else { Seen::WorkerKilled });
        self.referee.borrow_mut().holdings.dead(self, party);
        if self.chance(30) {
            self.places[party].to_director.borrow_mut().clear();
        }
        self.notify_director(party, ToDirector::Dead);
        self.replace(party);
    }

    /// What it has linked stays; sockets close, and what peers have sent is lost.
    fn kill_director(&self) {
        self.saw(Seen::DirectorKilled);
        if self.epoch.get() > 1 && self.now_ns.get() < self.window_ends_ns.get() {
            self.saw(Seen::KilledWhileRecovering);
        }
        [&self.is_up, &self.listens, &self.parking].iter().for_each(|is| is.set(false));
        self.load.set(Load::default());
        self.bells.iter().for_each(|bell| bell.set(false));
        for place in &self.places {
            place.to_director.borrow_mut().clear();
            place.evicted.set(false);
            place.rung.set(true);
        }
    }

    /// After a director's death: perhaps the next one starts, after a while.
    pub fn succeed_director(&self) {
        let Some(&fate) = self.plan.successors.get(self.epoch.get().saturating_sub(1) as usize) else {
            return self.lose_slots();
        };
        let place = &self.places[DIRECTOR];
        place.fate.set(fate);
        place.until_ns.set(self.now_ns.get() + self.some_ns(300));
        place.state.set(State::Sleeps);
    }

    /// Whether there is no director, and never will be.
    pub fn is_orphaned(&self) -> bool {
        self.places[DIRECTOR].state.get() == State::Killed
    }

    /// A director starts.
    pub fn start_director(&self) {
        self.epoch.set(self.epoch.get() + 1);
        self.is_up.set(true);
    }

    /// Each entry of every ledger that a link leads to, by worker: whose it is, and where it lies.
    pub fn ledgers(&self) -> impl Iterator<Item = (usize, Rc<Segment>, usize)> {
        let at = self.plan.work.work();
        let links: Vec<Linked> = self.links.borrow().values().cloned().collect();
        let entries = move |linked: Linked| {
            let words = (at.ledger..).step_by(LEDGER_ENTRY).take(self.plan.work.slots as usize);
            words.map(move |word| (linked.party, linked.segment.clone(), word))
        };
        links.into_iter().flat_map(entries)
    }

    /// How long a party waits before it looks for a director again.
    pub fn look_again_ns(&self) -> u64 {
        if self.is_orphaned() {
            u64::MAX
        } else {
            self.now_ns.get() + (self.plan.look + self.below(50)) * self.plan.step_ns
        }
    }

    /// How long a client looks for a director before its calls end.
    pub fn gone_after_ns(&self) -> u64 {
        2_000 * self.plan.step_ns
    }

    /// The director's next message. `None`: it is gone.
    pub fn answer_of_director(&self, cpu: &Cpu<'_>) -> Option<ToPeer> {
        let mut rung = false;
        let answer = loop {
            match self.receive(&self.places[cpu.party].to_peer) {
                Some(message) => break Some(message),
                None if self.places[cpu.party].evicted.get() && self.is_silent(cpu.party) => break None,
                None if self.is_connected(cpu.party) || self.has_mail(cpu.party) => {
                    rung |= cpu.sleep(u64::MAX);
                }
                None => break None,
            }
        };
        // Only the socket was waited for: the doorbell is for who comes to it.
        if rung {
            self.places[cpu.party].rung.set(true);
        }
        answer
    }

    /// Whether nothing is on its way between it and the director.
    fn is_silent(&self, party: usize) -> bool {
        !self.has_mail(party) && self.places[party].to_director.borrow().is_empty()
    }

    /// Whether its socket has something to read, soon.
    fn has_mail(&self, party: usize) -> bool {
        !self.places[party].to_peer.borrow().is_empty()
    }

    /// Blocks until there is a director that listens. Returns whether there is one.
    pub fn connect_at_last(&self, cpu: &Cpu<'_>) -> bool {
        while !self.connect(cpu.party) {
            if self.is_orphaned() {
                return false;
            }
            cpu.sleep(self.look_again_ns());
        }
        true
    }

    /// A worker has gone: perhaps another comes.
    pub fn replace(&self, party: usize) {
        if !WORKERS.contains(&party) || !self.plan.replace || self.closing.get() {
            return;
        }
        let absent = WORKERS.clone().find(|&w| self.places[w].state.get() == State::Absent);
        let Some(next) = absent else { return };
        self.places[next].state.set(State::Sleeps);
        self.places[next].until_ns.set(self.now_ns.get() + self.some_ns(200));
        self.saw(Seen::Replaced);
    }

    /// A peer broke the protocol, and there is none here that would.
    pub fn fault(&self, whose: &str, fault: &Fault) {
        self.fail(|| format!("a fault of {whose}: {fault}"));
    }
}

/// A party's name in traces.
pub fn name(party: usize) -> &'static str {
    ["director", "client1", "client2", "worker1", "worker2", "worker3", "worker4"][party]
}

/// The operating system, as the shipped wait loop sees it.
pub struct SimOs<'c> {
    pub cpu: &'c Cpu<'c>,
    pub yields: u64,
}

impl Os for SimOs<'_> {
    fn now_ns(&mut self) -> u64 {
        self.cpu.world.now_ns.get()
    }

    fn busy(&mut self) {
        self.yields = self.cpu.world.below(u64::from(self.cpu.world.plan.patience) + 1);
    }

    fn idle(&mut self) -> bool {
        if self.yields == 0 {
            self.busy();
            return false;
        }
        self.yields -= 1;
        self.cpu.pause();
        true
    }

    fn sleep(&mut self, until_ns: u64) {
        self.cpu.sleep(until_ns);
    }

    fn expects_sleep(&mut self) -> bool {
        self.cpu.world.plan.patience == 0
    }
}
