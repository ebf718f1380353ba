//! The director's shell: sockets, deaths and doorbells in, effects out.

use std::rc::Rc;

use trine::core::ledger::{Entry, Ledger};
use trine::core::{Party, Read, Turn, Write, block_on};
use trine::director::core::{DirectorCore, Effects, Peer, Settings, Told};
use trine::director::late::Holds;
use trine::director::recovery::{CarriedOver, carry_over};
use trine::layout::{WorkShape, head};
use trine::{Fault, Identity, Resource, ServiceOptions, Status};

use crate::simulator::coverage::Seen;
use crate::simulator::holdings::LOCKS;
use crate::simulator::memory::{Cpu, Role, Segment, Sim};
use crate::simulator::plan::{CLIENTS, DIRECTOR, Mutation, PARTIES};
use crate::simulator::world::{Linked, SimOs, State, ToDirector, ToPeer, World, name};

/// So many sleeps in a row show that nothing will happen before the next timer: nobody watches from then on.
const BEATS_MAX: u32 = 50;

/// A session's memory and name.
struct SessionPeer {
    key: usize,
    party: usize,
    id: u64,
    outbox: Rc<Segment>,
    inbox: Rc<Segment>,
    /// Workers may have it mapped of whom this director knows nothing.
    resumed: bool,
}

/// A ledger of an earlier director.
struct Inherited {
    worker: u64,
    party: usize,
    start: u64,
    entries: Vec<(u16, Entry)>,
    holds: Holds,
}

/// Who has which key. A client may have a new session before its old one is forgotten.
#[derive(Default)]
struct Peers {
    sessions: Vec<SessionPeer>,
    /// A worker's key and id.
    workers: [Option<(usize, u64)>; PARTIES],
    /// Ledgers that nobody has come back for, nor will be asked for in vain.
    estate: Vec<Inherited>,
    /// Ids of workers that came back and died, whose links stay for a while.
    kept: Vec<u64>,
}

impl Peers {
    fn session(&self, key: usize) -> Option<&SessionPeer> {
        self.sessions.iter().find(|s| s.key == key)
    }

    /// A client's last session.
    fn session_of(&self, party: usize) -> Option<usize> {
        self.sessions.iter().rev().find(|s| s.party == party).map(|s| s.key)
    }

    fn worker(&self, key: usize) -> Option<usize> {
        self.workers.iter().position(|w| w.is_some_and(|(k, _)| k == key))
    }
}

/// Where effects go.
struct Hands<'a> {
    world: &'a World,
    peers: &'a mut Peers,
    /// A worker's death is being handled.
    death: bool,
}

impl Effects for Hands<'_> {
    fn ring(&mut self, peer: Peer) {
        let party = match peer {
            Peer::Session(key) => self.peers.session(key).map(|s| s.party),
            Peer::Worker(key) => self.peers.worker(key),
        };
        let Some(party) = party else {
            return self.world.fail(|| format!("a ring for {peer:?}, which is nobody"));
        };
        if !(self.death && self.world.plan.mutation == Mutation::NoRingOnDeath) {
            self.world.ring(DIRECTOR, party);
        }
    }

    fn map_session(&mut self, worker: usize, index: u16, session: usize) {
        let (Some(peer), Some(worker)) = (self.peers.session(session), self.peers.worker(worker)) else {
            return self
                .world
                .fail(|| format!("session {session} for worker {worker}, one of which is nobody"));
        };
        let (id, shape) = (peer.id, self.world.plan.session);
        let (outbox, inbox) = (peer.outbox.clone(), peer.inbox.clone());
        self.world.send_peer(worker, ToPeer::Map { index, id, shape, outbox, inbox });
    }

    fn unmap_session(&mut self, worker: usize, index: u16) {
        let Some(worker) = self.peers.worker(worker) else {
            return self.world.fail(|| format!("worker {worker} is to unmap {index}, but is nobody"));
        };
        self.world.send_peer(worker, ToPeer::Unmap { index });
    }

    fn fault(&mut self, peer: Peer, fault: Fault) {
        self.world.fault(&format!("{peer:?}"), &fault);
    }

    fn forget(&mut self, peer: Peer) {
        self.world.note(DIRECTOR, || format!("forgets {peer:?}"));
        let Peers { sessions, workers, kept, .. } = &mut *self.peers;
        let known = match peer {
            Peer::Session(key) => sessions.iter().position(|s| s.key == key).map(|i| {
                let session = sessions.remove(i);
                session.outbox.returned.set(!session.resumed);
                session.inbox.returned.set(!session.resumed);
                self.world.saw(Seen::SessionForgotten);
            }),
            Peer::Worker(key) => {
                workers.iter_mut().find(|w| w.is_some_and(|(k, _)| k == key)).and_then(Option::take).map(
                    |(_, id)| {
                        if !kept.contains(&id) {
                            self.world.links.borrow_mut().remove(&id);
                        }
                    },
                )
            }
        };
        if known.is_none() {
            self.world.fail(|| format!("{peer:?} is forgotten, but was nobody"));
        }
    }

    fn keep_ledger(&mut self, worker: usize, id: u64) {
        self.world
            .note(DIRECTOR, || format!("keeps the ledger of worker {id:#x}, which was number {worker}"));
        self.world.saw(Seen::LedgerKept);
        if self.world.plan.mutation != Mutation::LedgerNotKept {
            self.peers.kept.push(id);
        }
    }

    fn settled_all(&mut self) {
        self.world.note(DIRECTOR, || "has settled all".into());
        if self.world.plan.mutation != Mutation::SettledUnsaid {
            self.world.settled.set(self.world.epoch.get());
        }
    }

    fn forget_ledger(&mut self, worker: u64) {
        self.world.note(DIRECTOR, || format!("forgets the ledger of worker {worker:#x}"));
        self.world.saw(Seen::LedgerForgotten);
        self.world.links.borrow_mut().remove(&worker);
        self.peers.estate.retain(|l| l.worker != worker);
    }

    fn clock_ns(&mut self) -> u64 {
        self.world.now_ns.get()
    }

    fn tell(&mut self, worker: usize, told: Told<'_>) {
        let Some(worker) = self.peers.worker(worker) else {
            return self.world.fail(|| format!("worker {worker} is to hear {told:?}, but is nobody"));
        };
        self.world.note(DIRECTOR, || format!("tells {}: {told:?}", name(worker)));
        let message = match told {
            Told::Granted { sequence, resource, .. } => ToPeer::Granted { sequence, resource },
            Told::Recalled { sequence, resource, before, .. } => {
                if resource == Resource::All {
                    self.world.saw(Seen::WithdrawnHolding);
                }
                ToPeer::Recalled { sequence, resource, before }
            }
            Told::Drain { sequence, before } => ToPeer::Draining { sequence, before },
        };
        self.world.send_peer(worker, message);
    }
}

struct Director<'c> {
    cpu: &'c Cpu<'c>,
    core: DirectorCore<Sim<'c>>,
    peers: Peers,
    last_id: u64,
    turns: u32,
    /// Links that a broken director makes some time after it has told their workers.
    late_links: Vec<(u64, Linked)>,
    window_ends_ns: u64,
    /// When this turn began.
    turn_ns: u64,
    /// Sleeps in a row from which it woke by itself alone, and found nothing.
    beats: u32,
}

/// Runs a director until its machine is switched off.
pub fn run(cpu: &Cpu<'_>) {
    let (world, plan) = (&cpu.world, &cpu.world.plan);
    world.start_director();
    let epoch = world.epoch.get();
    let settings = Settings {
        epoch,
        waiting_per_route: plan.waiting_per_route,
        share_max: plan.share_max,
        // While a worker is busy, a director that watches it wakes by itself, and finds what no ring told it of.
        stall_ns: match plan.mutation {
            Mutation::DeafDirector => u64::MAX,
            _ => plan.stall.map_or(Settings::default().stall_ns, |stall| stall * plan.step_ns),
        },
        ..Settings::default()
    };
    let core = DirectorCore::new(settings);
    let mut director = Director {
        cpu,
        core,
        peers: Peers::default(),
        last_id: epoch << 8,
        turns: 0,
        late_links: Vec::new(),
        window_ends_ns: 0,
        turn_ns: 0,
        beats: 0,
    };
    world.unwatched.set(false);
    if epoch > 1 {
        world.note(DIRECTOR, || format!("starts as number {epoch}"));
        world.saw(Seen::DirectorRestarted);
        director.inherit();
    }
    cpu.system_call();
    world.listens.set(true);
    block_on(&mut director, &mut SimOs { cpu, yields: 0 });
}

impl Party for Director<'_> {
    type Out = ();

    fn turn(&mut self, now_ns: u64) -> Turn<()> {
        let world = &self.cpu.world;
        if self.window_ends_ns <= now_ns {
            self.look_who_is_missed();
        }
        self.turn_ns = now_ns;
        // Now and then a turn without a look at the sockets, as while calls keep coming.
        let mut rung = false;
        if world.chance(80) {
            for party in CLIENTS.start..PARTIES {
                if world.bells[party].take() {
                    rung = true;
                    if let Some(key) = self.peers.session_of(party) {
                        self.core.heat(key);
                    }
                }
                while let Some(message) = world.receive(&world.places[party].to_director) {
                    self.handle(party, message);
                }
            }
        }
        let fx = &mut Hands { world, peers: &mut self.peers, death: false };
        self.turns += 1;
        if self.turns.is_multiple_of(16) {
            world.links.borrow_mut().extend(self.late_links.drain(..));
        }
        if world.plan.stops_after == Some(self.turns) {
            self.core.stop(fx);
        }
        let found = self.core.turn(now_ns, fx);
        let settled = self.core.settlements();
        let rows = [
            (settled.answered, Seen::Answered),
            (settled.fresh, Seen::Fresh),
            (settled.in_flight, Seen::InFlight),
            (settled.died, Seen::Died),
            (settled.held, Seen::Held),
            (settled.unknown, Seen::Unknown),
        ];
        rows.iter().filter(|(n, _)| *n > 0).for_each(|&(_, row)| world.saw(row));
        let load = self.core.load();
        if load.backlog > 0 {
            world.saw(Seen::Backlog);
        }
        world.load.set(load);
        // Whoever rings says so once for each sleep: it is not to be fallen asleep upon.
        let found = if rung { Turn::Busy } else { found };
        if !matches!(found, Turn::Idle) {
            self.beats = 0;
            world.unwatched.set(false);
        }
        found
    }

    fn park(&mut self) {
        self.beats += 1;
        self.cpu.world.unwatched.set(self.beats > BEATS_MAX);
        self.cpu.world.parking.set(true);
        self.core.park();
        self.cpu.world.parking.set(false);
    }

    fn awake(&mut self) {
        self.core.awake();
    }

    fn wake_at_ns(&self) -> u64 {
        self.core.wake_at_ns().min(self.shows_life_ns())
    }
}

impl Director<'_> {
    /// A director that sleeps wakes now and then by itself, and shows that it lives; as long as anybody looks.
    fn shows_life_ns(&self) -> u64 {
        let world = &self.cpu.world;
        let looks = |party: usize| {
            !matches!(world.places[party].state.get(), State::Absent | State::Killed | State::Ended)
        };
        let watched = world.is_watched() && CLIENTS.into_iter().any(looks);
        if watched { world.now_ns.get() + 400 * world.plan.step_ns } else { u64::MAX }
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn handle(&mut self, party: usize, message: ToDirector) {
        let (cpu, world) = (self.cpu, &self.cpu.world);
        match message {
            ToDirector::AttachSession { id, published, settled, shape, outbox, inbox } => {
                let resumed = id != 0;
                let refuse = || {
                    world.saw(Seen::SessionRefused);
                    world.send_peer(party, ToPeer::Refused);
                };
                if resumed && settled < world.settled.get() {
                    world.saw(Seen::MissedADirector);
                    return refuse();
                }
                let id = if resumed { id } else { self.next_id() };
                world.referee.borrow_mut().named(outbox.session, id);
                // One that was closed and forgotten within the window may come back to the same director.
                let were_returned = [&outbox, &inbox].map(|memory| memory.returned.replace(false));
                let identity = Identity::default();
                let (o, i) = (cpu.map(&outbox), cpu.map(&inbox));
                let attached = if resumed {
                    self.core.resume_session(id, identity, shape, published, o, i)
                } else {
                    self.core.attach_session(id, identity, shape, published, o, i)
                };
                let key = match attached {
                    Ok(key) => key,
                    Err(status) => {
                        outbox.returned.set(were_returned[0]);
                        inbox.returned.set(were_returned[1]);
                        return if status == Status::Busy {
                            world.send_peer(party, ToPeer::Busy)
                        } else {
                            refuse()
                        };
                    }
                };
                self.peers.sessions.push(SessionPeer { key, party, id, outbox, inbox, resumed });
                world.send_peer(party, ToPeer::Attached { id });
            }
            ToDirector::AttachWorker { id, taken, holds, shape, page } => {
                self.attach_worker(party, id, (taken, holds), shape, &page);
            }
            message if CLIENTS.contains(&party) => self.handle_client(party, message),
            message => self.handle_worker(party, message),
        }
    }

    /// What was left: each ledger that a link leads to, and whether its worker is dead, read in this order.
    fn inherit(&mut self) {
        let (cpu, world) = (self.cpu, &self.cpu.world);
        let links = world.links.borrow().clone();
        for (worker, Linked { party, segment }) in links {
            if world.chance(world.plan.mishaps) {
                world.note(DIRECTOR, || format!("can't read the ledger of worker {worker:#x}"));
                world.saw(Seen::Unreadable);
                world.lose_slots();
                world.places[party].excused.set(true);
                self.core.inherit_unreadable();
                continue;
            }
            let at = world.plan.work.work();
            let (memory, ledger) = (cpu.map(&segment), Ledger::new(at.ledger));
            let entries = 0..world.plan.work.slots as u16;
            let entries: Vec<_> = entries.filter_map(|e| Some((e, ledger.read(&memory, e)?))).collect();
            let start = memory.load(at.head + head::START);
            let is_dead = matches!(world.places[party].state.get(), State::Killed | State::Ended);
            world.note(DIRECTOR, || {
                format!("finds the ledger of worker {worker:#x} (dead: {is_dead}): {entries:?}")
            });
            if is_dead {
                world.saw(Seen::DeadAtStart);
                world.referee.borrow_mut().worker_dead(party);
                if world.plan.mutation == Mutation::DeadLedgersDropped {
                    world.links.borrow_mut().remove(&worker);
                    continue;
                }
            }
            let holds = memory.copy_out(at.head + head::HOLDS);
            self.core.inherit(worker, &entries, is_dead);
            self.core.inherit_rights(worker, holds);
            self.peers.estate.push(Inherited { worker, party, start, entries, holds });
        }
        if world.plan.mutation != Mutation::NoWindow {
            self.window_ends_ns = world.now_ns.get() + world.plan.window * world.plan.step_ns;
        }
        world.window_ends_ns.set(self.window_ends_ns);
        self.core.open_window(self.window_ends_ns);
    }

    /// The window has ended: who lived then and had not come back may keep a slot for ever.
    fn look_who_is_missed(&mut self) {
        let world = &self.cpu.world;
        let lives = |l: &Inherited| match world.places[l.party].state.get() {
            State::Killed => world.places[l.party].killed_ns.get() >= self.window_ends_ns,
            State::Ended => false,
            _ => true,
        };
        if !world.missed.get() && self.peers.estate.iter().any(lives) {
            world.saw(Seen::WorkerMissed);
            world.missed.set(true);
            world.lose_slots();
        }
    }

    /// A worker presents itself: a new segment is linked when it is complete, and only then anybody hears of it.
    fn attach_worker(
        &mut self,
        party: usize,
        id: u64,
        (taken, holds): (u64, bool),
        shape: WorkShape,
        page: &Rc<Segment>,
    ) {
        let (cpu, world) = (self.cpu, &self.cpu.world);
        let mut carried = None;
        if id != 0 {
            let is_late = world.now_ns.get() >= self.window_ends_ns;
            let place = self.peers.estate.iter().position(|l| l.worker == id).filter(|_| !is_late);
            let Some(place) = place else {
                world.saw(Seen::WorkerRefused);
                let fx = &mut Hands { world, peers: &mut self.peers, death: false };
                self.core.too_late(id, taken, holds, (cpu.map(page), shape), fx);
                return world.send_peer(party, ToPeer::Refused);
            };
            let old = &self.peers.estate[place];
            let page = cpu.map(page);
            match carry_over(old.start, &old.entries, old.holds, taken, &page, &shape.progress()) {
                Ok(found) => carried = Some(found),
                Err(fault) => return world.fault("a worker's", &fault),
            }
            if let Some(carried) = &mut carried {
                break_rules(world.plan.mutation, carried);
                world.saw(Seen::WorkerCameBack);
                if !carried.entries.is_empty() {
                    world.saw(Seen::CarriedOver);
                }
            }
            self.peers.estate.swap_remove(place);
        }
        let id = if id == 0 { self.next_id() } else { id };
        let start = carried.as_ref().map_or(world.plan.start, |c| c.start);
        let work = Segment::new(Role::Work(party, shape), id as usize);
        let memory = cpu.map(&work);
        memory.store(shape.work().head + head::WORKER, id);
        memory.store(shape.work().head + head::START, start);
        for (i, bits) in carried.iter().flat_map(|c| c.holds).enumerate() {
            memory.store(shape.work().head + head::HOLDS + i, bits);
        }
        let ledger = Ledger::new(shape.work().ledger);
        for &(e, entry) in carried.iter().flat_map(|c| &c.entries) {
            ledger.enter(&memory, e, entry);
        }
        cpu.system_call();
        let linked = Linked { party, segment: work.clone() };
        world.note(DIRECTOR, || format!("links a segment for worker {id:#x}, from {start}: {carried:?}"));
        if world.plan.mutation == Mutation::ToldBeforeLinked {
            self.late_links.push((id, linked));
        } else {
            world.links.borrow_mut().insert(id, linked);
        }
        cpu.system_call();
        let (w, p, identity) = (cpu.map(&work), cpu.map(page), Identity::default());
        let key = match &carried {
            Some(carried) => {
                let fx = &mut Hands { world, peers: &mut self.peers, death: false };
                self.core.resume_worker(id, identity, shape, carried, (w, p), fx)
            }
            None => self.core.attach_worker(id, identity, shape, start, w, p),
        };
        let Ok(key) = key else { return world.fail(|| "no room for a worker".into()) };
        self.peers.workers[party] = Some((key, id));
        world.send_peer(party, ToPeer::WorkerAttached { id, start, work });
    }

    /// The kernel says that a process is dead: what an earlier director gave it, too.
    fn inherited_dead(&mut self, party: usize) {
        let world = &self.cpu.world;
        let dead: Vec<u64> =
            self.peers.estate.iter().filter(|l| l.party == party).map(|l| l.worker).collect();
        for worker in dead {
            world.saw(Seen::DiedLater);
            world.referee.borrow_mut().worker_dead(party);
            let fx = &mut Hands { world, peers: &mut self.peers, death: true };
            self.core.inherited_dead(worker, fx);
        }
    }

    fn handle_client(&mut self, party: usize, message: ToDirector) {
        let Some(key) = self.peers.session_of(party) else { return };
        let world = &self.cpu.world;
        let fx = &mut Hands { world, peers: &mut self.peers, death: false };
        match message {
            ToDirector::OpenRoute { number, service, operation } => {
                let status = self.core.open_route(key, number, service, operation, fx);
                world.send_peer(party, ToPeer::RouteOpened { status });
            }
            ToDirector::Republished => self.core.republished(key, self.turn_ns, fx),
            _ => {
                world.note(DIRECTOR, || format!("hears that session {key} is gone"));
                self.core.session_gone(key, fx);
            }
        }
    }

    fn handle_worker(&mut self, party: usize, message: ToDirector) {
        if matches!(message, ToDirector::Dead) {
            self.inherited_dead(party);
        }
        let Some((key, _)) = self.peers.workers[party] else { return };
        let world = &self.cpu.world;
        let fx = &mut Hands { world, peers: &mut self.peers, death: true };
        match message {
            ToDirector::Provide { service, first, operations, exclusive, resources } => {
                let options = ServiceOptions::default().resources(resources);
                let options = exclusive.map_or(options.clone(), |unheld| options.exclusive(unheld));
                let status = self.core.provide_with(key, service, first, operations, &options);
                if status != Status::Ok {
                    world.fail(|| format!("providing {service} ended {status}"));
                }
            }
            ToDirector::Withdraw { service } => {
                world.saw(Seen::Withdrawn);
                self.core.withdraw(key, service, fx);
            }
            ToDirector::Change { service, changes, asks } => {
                let status = self.core.change(key, service, &changes, fx);
                if asks {
                    world.send_peer(party, ToPeer::Changed { status });
                }
            }
            ToDirector::Yielded { resource } => self.core.yielded(key, LOCKS, resource, fx),
            ToDirector::Drain => drop(self.core.drain(key, fx)),
            ToDirector::Mapped { index, accepted } => self.core.session_mapped(key, index, accepted, fx),
            ToDirector::Unmapped { index } => {
                world.saw(Seen::Unmapped);
                self.core.session_unmapped(key, index, fx);
            }
            ToDirector::Republished => self.core.provided_again(key, fx),
            ToDirector::Gone if world.plan.mutation == Mutation::TakenBack => self.core.worker_dead(key, fx),
            ToDirector::Gone => {
                self.core.worker_gone(key);
                self.core.end_by_verdict(key, fx);
            }
            _ => {
                world.note(DIRECTOR, || format!("hears that worker {key} is dead"));
                if world.referee.borrow_mut().worker_dead(party)
                    && world.places[party].state.get() == State::Killed
                {
                    world.saw(Seen::KilledAfterStamp);
                }
                self.core.worker_dead(key, fx);
            }
        }
    }
}

/// Switches rules off.
fn break_rules(mutation: Mutation, carried: &mut CarriedOver) {
    match mutation {
        Mutation::StartAtTaken => carried.start = carried.taken,
        Mutation::NothingCarried => carried.entries.clear(),
        Mutation::MarksDropped => carried.holds = Holds::default(),
        _ => {}
    }
}
