//! The director's core, among sessions and workers that write what they like, in a shell that keeps to its contract.

use std::rc::Rc;

use trine::core::ring::Publisher;
use trine::core::{Turn, Write};
use trine::director::core::{DirectorCore, Effects, Load, Peer, Settings};
use trine::director::late::HOLDS_WORDS;
use trine::director::recovery::carry_over;
use trine::layout::{LINE, Record, Request, SessionShape, WorkShape, flag};
use trine::resource::Action;
use trine::{Fault, Identity, Policy, Resource, ServiceOptions, Unheld};

use crate::memory::{Bytes, Hostile, Noise, Region, scribble};

const SESSION: SessionShape =
    SessionShape { slots: 4, reply_capacity: 64, request_arena: 4096, reply_arena: 4096 };
const WORK: WorkShape = WorkShape { slots: 4 };
const SERVICES: [&str; 2] = ["s", "t"];
const OPERATIONS: [&str; 3] = ["x", "y", "z"];
const PARTIES: usize = 4;

#[derive(Default)]
struct Hands {
    to_map: Vec<(usize, u16)>,
    to_unmap: Vec<(usize, u16)>,
    faulty: Vec<Peer>,
    forgotten: Vec<Peer>,
}

impl Effects for Hands {
    fn ring(&mut self, _: Peer) {}

    fn map_session(&mut self, worker: usize, index: u16, _: usize) {
        self.to_map.push((worker, index));
    }

    fn unmap_session(&mut self, worker: usize, index: u16) {
        self.to_unmap.push((worker, index));
    }

    fn fault(&mut self, peer: Peer, _: Fault) {
        self.faulty.push(peer);
    }

    fn forget(&mut self, peer: Peer) {
        self.forgotten.push(peer);
    }

    fn clock_ns(&mut self) -> u64 {
        0
    }
}

struct Session {
    key: usize,
    outbox: Region,
    inbox: Region,
    ring: Publisher<LINE>,
    gone: bool,
}

struct Worker {
    key: usize,
    page: Region,
    gone: bool,
}

struct Bus {
    director: DirectorCore<Hostile>,
    sessions: Vec<Session>,
    workers: Vec<Worker>,
    fx: Hands,
    noise: Rc<Noise>,
    now_ns: u64,
    last_id: u64,
}

/// Returns how many calls of the core were made.
pub fn run(input: &[u8]) -> u64 {
    let mut bytes = Bytes::new(input);
    let noise = Noise::new(bytes.number());
    let settings = Settings {
        epoch: 1,
        waiting_per_route: 1 + u32::from(bytes.u8() % 4),
        share_max: 3,
        ..Settings::default()
    };
    let mut bus = Bus {
        director: DirectorCore::new(settings),
        sessions: Vec::new(),
        workers: Vec::new(),
        fx: Hands::default(),
        noise,
        now_ns: 1,
        last_id: 10,
    };
    bus.inherit(&mut bytes);
    let mut calls = 0;
    while let Some(step) = bytes.more() {
        bus.step(step, &mut bytes);
        bus.react();
        calls += 1;
    }
    bus.end();
    calls
}

impl Bus {
    /// What an earlier director left.
    fn inherit(&mut self, bytes: &mut Bytes) {
        if bytes.u8().is_multiple_of(2) {
            return;
        }
        for worker in 0..bytes.below(3) as u64 {
            let entries: Vec<_> = (0..bytes.below(4) as u16)
                .map(|e| {
                    let (session, ticket, position) =
                        (1 + bytes.number() % 3, bytes.number() >> 16, bytes.number() >> 1);
                    (e, trine::core::ledger::Entry { session, ticket, position })
                })
                .collect();
            self.director.inherit(worker + 1, &entries, bytes.u8().is_multiple_of(2));
        }
        if bytes.u8().is_multiple_of(4) {
            self.director.inherit_unreadable();
        }
        self.director.open_window(bytes.u8().into());
    }

    fn step(&mut self, step: u8, bytes: &mut Bytes) {
        match step % 28 {
            0 => self.attach_session(bytes),
            1 => self.attach_worker(bytes),
            2 | 3 => self.provide(bytes),
            4 | 5 => self.open_route(bytes),
            6..9 => self.answer_mapping(bytes),
            9 => self.lie_about_mapping(bytes),
            10..14 => self.turn(bytes),
            14..19 => self.publish(bytes),
            19 => self.scribble(bytes),
            20 | 21 => self.progress(bytes),
            22 => self.noise.set(bytes.u8() % 32),
            23 => self.change(bytes),
            24 => self.part(bytes),
            25 => self.recover(bytes),
            26 => {
                self.director.park();
                self.turn(bytes);
                self.director.awake();
            }
            _ => self.ask(bytes),
        }
    }

    fn attach_session(&mut self, bytes: &mut Bytes) {
        if self.sessions.len() == PARTIES {
            return;
        }
        let outbox = Region::new(SESSION.outbox().words, &self.noise);
        let inbox = Region::new(SESSION.inbox().words, &self.noise);
        let (o, i, who) = (outbox.clone(), inbox.clone(), Identity::default());
        let published = if bytes.u8().is_multiple_of(4) { bytes.number() } else { 0 };
        let attached = if bytes.u8().is_multiple_of(2) {
            self.last_id += 1;
            self.director.attach_session(self.last_id, who, SESSION, published, o, i)
        } else {
            // One that comes back, if it is not here.
            let id = 1 + bytes.number() % 3;
            if self.director.inspect(self.now_ns).sessions.iter().any(|s| s.id == id) {
                return;
            }
            self.director.resume_session(id, who, SESSION, published, o, i)
        };
        let Ok(key) = attached else { return };
        let ring = Publisher::new(SESSION.outbox().ring, SESSION.ring_slots(), published);
        self.sessions.push(Session { key, outbox, inbox, ring, gone: false });
    }

    fn attach_worker(&mut self, bytes: &mut Bytes) {
        if self.workers.len() == PARTIES {
            return;
        }
        // What the director alone writes is as it wrote it.
        let work = Region::new(WORK.work().words, &Noise::new(1));
        let page = Region::new(WORK.progress().words, &self.noise);
        let (p, who) = (page.clone(), Identity::default());
        let attached = if bytes.u8().is_multiple_of(2) {
            self.last_id += 1;
            self.director.attach_worker(self.last_id, who, WORK, bytes.number() >> 16, work, p)
        } else {
            let id = 1 + bytes.number() % 2;
            if self.director.worker_with_id(id).is_some() {
                return;
            }
            let entry = trine::core::ledger::Entry {
                session: 1,
                ticket: bytes.number() >> 16,
                position: bytes.number(),
            };
            let taken = bytes.number() >> 16;
            scribble(&page, bytes);
            let Ok(carried) = carry_over(0, &[(0, entry)], [0; HOLDS_WORDS], taken, &page, &WORK.progress())
            else {
                return;
            };
            self.director.resume_worker(id, who, WORK, &carried, (work, p), &mut self.fx)
        };
        if let Ok(key) = attached {
            self.workers.push(Worker { key, page, gone: false });
        }
    }

    fn provide(&mut self, bytes: &mut Bytes) {
        let Some(key) = self.workers.get(bytes.below(PARTIES)).filter(|w| !w.gone).map(|w| w.key) else {
            return;
        };
        let operations = &OPERATIONS[..bytes.below(4)];
        let mut options = ServiceOptions::default();
        options.policy =
            [None, Some(Policy::Jbsq), Some(Policy::RoundRobin), Some(Policy::Affinity)][bytes.below(4)];
        options.unheld = [None, Some(Unheld::Wait), Some(Unheld::Error), Some(Unheld::Offer)][bytes.below(4)];
        options.resources = (0..bytes.below(4)).map(|_| resource(bytes)).collect();
        let service = SERVICES[bytes.below(2)];
        self.director.provide_with(key, service, u16::from(bytes.u8()), operations, &options);
    }

    fn open_route(&mut self, bytes: &mut Bytes) {
        let Some(session) = self.sessions.get(bytes.below(PARTIES)).filter(|s| !s.gone) else { return };
        let (service, operation) = (SERVICES[bytes.below(2)], OPERATIONS[bytes.below(3)]);
        let number = if bytes.u8() < 250 { u32::from(bytes.u8() % 4) } else { bytes.number() as u32 };
        self.director.open_route(session.key, number, service, operation, &mut self.fx);
    }

    fn answer_mapping(&mut self, bytes: &mut Bytes) {
        let accepted = !bytes.u8().is_multiple_of(8);
        if let Some((worker, index)) = self.fx.to_map.pop() {
            self.director.session_mapped(worker, index, accepted, &mut self.fx);
        } else if let Some((worker, index)) = self.fx.to_unmap.pop() {
            self.director.session_unmapped(worker, index, &mut self.fx);
        }
    }

    fn lie_about_mapping(&mut self, bytes: &mut Bytes) {
        let Some(worker) = self.workers.get(bytes.below(PARTIES)) else { return };
        let (key, index) = (worker.key, bytes.u16() % 8);
        match bytes.u8() % 3 {
            0 => self.director.session_mapped(key, index, true, &mut self.fx),
            1 => self.director.session_mapped(key, index, false, &mut self.fx),
            _ => self.director.session_unmapped(key, index, &mut self.fx),
        }
    }

    fn turn(&mut self, bytes: &mut Bytes) {
        self.now_ns += bytes.number() % 3_000_000_000;
        let _: Turn<()> = self.director.turn(self.now_ns, &mut self.fx);
    }

    /// A request that is right but for what the input changes.
    fn publish(&mut self, bytes: &mut Bytes) {
        let Some(session) = self.sessions.get_mut(bytes.below(PARTIES)) else { return };
        let flags = match bytes.u8() % 8 {
            0 => flag::HAS_KEY,
            1 => flag::HAS_KEY | flag::NAME_KEY,
            2 => flag::AGAIN,
            3 => flag::AGAIN | flag::QUARANTINED,
            4 => bytes.u16(),
            5 => flag::HIGH,
            _ => 0,
        };
        let ticket = match bytes.u8() % 16 {
            0 => bytes.number(),
            _ => session.ring.next().wrapping_add(4 + u64::from(bytes.u8() % 2)),
        };
        let request = Request {
            ticket,
            operation: u32::from(bytes.u8() % 5),
            flags,
            key: bytes.number() % 40,
            deadline_ns: if bytes.u8() < 200 { 0 } else { bytes.number() },
            len: if bytes.u8() < 250 { 8 } else { bytes.number() as u32 },
            capacity: if bytes.u8() < 250 { 8 } else { bytes.number() as u32 },
            ..Request::default()
        };
        let mut record: Record = [0; LINE];
        request.write(&mut record);
        (record[6], record[7]) = (bytes.u8().into(), bytes.u8().into());
        session.ring.publish(&session.outbox, &record, LINE);
        self.director.heat(session.key);
    }

    fn scribble(&mut self, bytes: &mut Bytes) {
        let Some(session) = self.sessions.get(bytes.below(PARTIES)) else { return };
        let region = if bytes.u8().is_multiple_of(2) { &session.outbox } else { &session.inbox };
        scribble(region, bytes);
    }

    fn progress(&mut self, bytes: &mut Bytes) {
        let Some(worker) = self.workers.get(bytes.below(PARTIES)) else { return };
        let at = WORK.progress();
        match bytes.u8() % 8 {
            0 => scribble(&worker.page, bytes),
            1 => worker.page.store(at.taken, bytes.number()),
            2 => worker.page.store(at.done + bytes.below(4), bytes.number()),
            3 => worker.page.store(at.completed, bytes.number()),
            _ => {
                // One more, as it should be.
                let one_more = |word| worker.page.store(word, worker.page.truth(word).wrapping_add(1));
                one_more(at.taken);
                one_more(at.completed);
                worker.page.store(at.done + bytes.below(4), worker.page.truth(at.taken));
            }
        }
    }

    fn change(&mut self, bytes: &mut Bytes) {
        let Some(key) = self.workers.get(bytes.below(PARTIES)).filter(|w| !w.gone).map(|w| w.key) else {
            return;
        };
        let service = SERVICES[bytes.below(2)];
        match bytes.u8() % 8 {
            0 => drop(self.director.withdraw(key, service, &mut self.fx)),
            1 => drop(self.director.drain(key, &mut self.fx)),
            2 => self.director.yielded(key, service, resource(bytes), &mut self.fx),
            3 => self.director.provided_again(key, &mut self.fx),
            _ => {
                let actions = [Action::Declare, Action::Withdraw, Action::Acquire, Action::Release];
                let changes: Vec<_> =
                    (0..1 + bytes.below(3)).map(|_| (actions[bytes.below(4)], resource(bytes))).collect();
                self.director.change(key, service, &changes, &mut self.fx);
            }
        }
    }

    /// Somebody goes.
    fn part(&mut self, bytes: &mut Bytes) {
        let which = bytes.below(PARTIES);
        if bytes.u8().is_multiple_of(2) {
            if let Some(session) = self.sessions.get_mut(which).filter(|s| !s.gone) {
                session.gone = true;
                self.director.session_gone(session.key, &mut self.fx);
            }
            return;
        }
        let Some(worker) = self.workers.get_mut(which) else { return };
        match bytes.u8() % 3 {
            0 => {
                worker.gone = true;
                self.director.worker_gone(worker.key);
            }
            1 if worker.gone => self.director.end_by_verdict(worker.key, &mut self.fx),
            _ => {
                worker.gone = true;
                self.director.worker_gone(worker.key);
                self.director.worker_dead(worker.key, &mut self.fx);
            }
        }
    }

    fn recover(&mut self, bytes: &mut Bytes) {
        match bytes.u8() % 2 {
            0 => self.director.inherited_dead(1 + u64::from(bytes.u8() % 3), &mut self.fx),
            _ => {
                let Some(session) = self.sessions.get(bytes.below(PARTIES)).filter(|s| !s.gone) else {
                    return;
                };
                self.director.republished(session.key, self.now_ns, &mut self.fx);
            }
        }
    }

    fn ask(&mut self, bytes: &mut Bytes) {
        match bytes.u8() % 4 {
            0 => drop(self.director.inspect(self.now_ns)),
            1 => drop(self.director.wake_at_ns()),
            2 => drop(self.director.in_flight(self.now_ns)),
            _ => self.director.look_at_everything(),
        }
    }

    /// What the shell does when a peer breaks the protocol, or is forgotten.
    fn react(&mut self) {
        for peer in std::mem::take(&mut self.fx.faulty) {
            match peer {
                Peer::Session(key) => {
                    if let Some(session) = self.sessions.iter_mut().find(|s| s.key == key && !s.gone) {
                        session.gone = true;
                        self.director.session_gone(key, &mut self.fx);
                    }
                }
                Peer::Worker(key) => {
                    if let Some(worker) = self.workers.iter_mut().find(|w| w.key == key) {
                        worker.gone = true;
                        self.director.worker_gone(key);
                    }
                }
            }
        }
        for peer in std::mem::take(&mut self.fx.forgotten) {
            match peer {
                Peer::Session(key) => self.sessions.retain(|s| s.key != key),
                Peer::Worker(key) => {
                    self.workers.retain(|w| w.key != key);
                    self.fx.to_map.retain(|m| m.0 != key);
                    self.fx.to_unmap.retain(|m| m.0 != key);
                }
            }
        }
    }

    /// Everybody goes, and nothing is kept.
    fn end(mut self) {
        self.noise.set(0);
        for n in 0..self.sessions.len() {
            if !std::mem::replace(&mut self.sessions[n].gone, true) {
                self.director.session_gone(self.sessions[n].key, &mut self.fx);
            }
        }
        for worker in self.workers.iter().map(|w| w.key).collect::<Vec<_>>() {
            self.director.worker_gone(worker);
            self.director.worker_dead(worker, &mut self.fx);
        }
        self.react();
        for id in 1..4 {
            self.director.inherited_dead(id, &mut self.fx);
        }
        for _ in 0..1000 {
            self.now_ns += 10_000_000_000;
            let _: Turn<()> = self.director.turn(self.now_ns, &mut self.fx);
            self.react();
            if self.director.load() == Load::default() {
                return;
            }
        }
        panic!("nobody is left, but {:?}", self.director.load());
    }
}

fn resource(bytes: &mut Bytes) -> Resource {
    match bytes.u8() % 8 {
        0 => Resource::All,
        1 => Resource::Range { first: bytes.number(), last: bytes.number() },
        2 => Resource::Share { index: bytes.u8().into(), of: bytes.u8().into() },
        3 | 4 => Resource::Range { first: u64::from(bytes.u8() % 40), last: u64::from(bytes.u8() % 40) },
        _ => Resource::from(u64::from(bytes.u8() % 40)),
    }
}
