//! The director's shell: sockets, deaths and doorbells in, effects out.

use std::rc::Rc;

use trine::core::{Party, Turn, block_on};
use trine::director::core::{DirectorCore, Effects, Peer, Settings};
use trine::{Fault, Identity, Status};

use crate::simulator::coverage::Seen;
use crate::simulator::memory::{Cpu, Role, Segment, Sim};
use crate::simulator::plan::{CLIENTS, DIRECTOR, Mutation, PARTIES};
use crate::simulator::world::{SimOs, State, ToDirector, ToPeer, World};

/// A session's memory and name.
struct SessionPeer {
    key: usize,
    party: usize,
    id: u64,
    outbox: Rc<Segment>,
    inbox: Rc<Segment>,
}

/// Who has which key. A client may have a new session before its old one is forgotten.
#[derive(Default)]
struct Peers {
    sessions: Vec<SessionPeer>,
    workers: [Option<usize>; PARTIES],
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
        self.workers.iter().position(|&k| k == Some(key))
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
        let (sessions, workers) = (&mut self.peers.sessions, &mut self.peers.workers);
        let known = match peer {
            Peer::Session(key) => sessions.iter().position(|s| s.key == key).map(|i| {
                let session = sessions.remove(i);
                session.outbox.returned.set(true);
                session.inbox.returned.set(true);
                self.world.saw(Seen::SessionForgotten);
            }),
            Peer::Worker(key) => workers.iter_mut().find(|w| **w == Some(key)).map(|w| *w = None),
        };
        if known.is_none() {
            self.world.fail(|| format!("{peer:?} is forgotten, but was nobody"));
        }
    }

    fn clock_ns(&mut self) -> u64 {
        self.world.now_ns.get()
    }
}

struct Director<'c> {
    cpu: &'c Cpu<'c>,
    core: DirectorCore<Sim<'c>>,
    peers: Peers,
    last_id: u64,
    turns: u32,
}

/// Runs a director until its machine is switched off.
pub fn run(cpu: &Cpu<'_>) {
    let plan = &cpu.world.plan;
    let settings =
        Settings { epoch: 1, waiting_per_route: plan.waiting_per_route, share_max: plan.share_max };
    let mut director =
        Director { cpu, core: DirectorCore::new(settings), peers: Peers::default(), last_id: 0, turns: 0 };
    block_on(&mut director, &mut SimOs { cpu, yields: 0 });
}

impl Party for Director<'_> {
    type Out = ();

    fn turn(&mut self, now_ns: u64) -> Turn<()> {
        let world = &self.cpu.world;
        let mut was_rung = false;
        // Now and then a turn without a look at the sockets, as while calls keep coming.
        if world.chance(80) {
            for party in CLIENTS.start..PARTIES {
                if world.bells[party].take() {
                    was_rung = true;
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
        if world.plan.stops_after == Some(self.turns) {
            self.core.stop(fx);
        }
        let found = self.core.turn(now_ns, fx);
        let load = self.core.load();
        if load.backlog > 0 {
            world.saw(Seen::Backlog);
        }
        world.load.set(load);
        // Who is rung while it parks does not go to sleep: the ring will not come a second time.
        if was_rung && found == Turn::Idle { Turn::Busy } else { found }
    }

    fn park(&mut self) {
        self.cpu.world.parking.set(true);
        self.core.park();
        self.cpu.world.parking.set(false);
    }

    fn awake(&mut self) {
        self.core.awake();
    }

    fn wake_at_ns(&self) -> u64 {
        self.core.wake_at_ns()
    }
}

impl Director<'_> {
    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn handle(&mut self, party: usize, message: ToDirector) {
        let (cpu, world) = (self.cpu, &self.cpu.world);
        match message {
            ToDirector::AttachSession { shape, outbox, inbox } => {
                let id = self.next_id();
                world.referee.borrow_mut().named(outbox.session, id);
                let identity = Identity::default();
                let (o, i) = (cpu.map(&outbox), cpu.map(&inbox));
                let Ok(key) = self.core.attach_session(id, identity, shape, 0, o, i) else { return };
                self.peers.sessions.push(SessionPeer { key, party, id, outbox, inbox });
                world.send_peer(party, ToPeer::Attached { id });
            }
            ToDirector::AttachWorker { shape, page } => {
                let (id, start) = (self.next_id(), self.cpu.world.plan.start);
                let work = Segment::new(Role::Work(party, shape), 0);
                let (w, p) = (cpu.map(&work), cpu.map(&page));
                let Ok(key) = self.core.attach_worker(id, Identity::default(), shape, start, w, p) else {
                    return;
                };
                self.peers.workers[party] = Some(key);
                world.send_peer(party, ToPeer::WorkerAttached { id, start, work });
            }
            message if CLIENTS.contains(&party) => self.handle_client(party, message),
            message => self.handle_worker(party, message),
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
            _ => {
                world.note(DIRECTOR, || format!("hears that session {key} is gone"));
                self.core.session_gone(key, fx);
            }
        }
    }

    fn handle_worker(&mut self, party: usize, message: ToDirector) {
        let Some(key) = self.peers.workers[party] else { return };
        let world = &self.cpu.world;
        let fx = &mut Hands { world, peers: &mut self.peers, death: true };
        match message {
            ToDirector::Provide { service, first, operations } => {
                let status = self.core.provide(key, service, first, operations);
                if status != Status::Ok {
                    world.fail(|| format!("providing {service} ended {status}"));
                }
            }
            ToDirector::Withdraw { service } => {
                world.saw(Seen::Withdrawn);
                self.core.withdraw(key, service);
            }
            ToDirector::Mapped { index, accepted } => self.core.session_mapped(key, index, accepted, fx),
            ToDirector::Unmapped { index } => {
                world.saw(Seen::Unmapped);
                self.core.session_unmapped(key, index, fx);
            }
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
