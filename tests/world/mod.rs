//! A bus in one thread: the three cores over plain memory, and a shell that notes what the director asks for.
//!
//! ```text
//! Client ──outbox──► DirectorCore ──work──► Worker
//!   ▲                     │  └─ Effects ─► Shell: what is on its way to each worker, who is at fault, who is gone
//!   └───────inbox─────────┴─────────────────┘
//! ```
//! Nothing happens by itself: a test gives the director its turns, says what time it is, and lets each worker read what
//! it was sent, when it likes. So every order of events can be had, and had again. The memory is that of one thread,
//! and its fences do nothing: what the orderings are for is shown elsewhere, over other memories.

// Each test uses a part of it.
#![allow(dead_code)]

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use trine::client::core::{ClientCore, Outcome};
use trine::core::{Memory, Read, Write};
use trine::director::core::{DirectorCore, Effects, Peer, Told};
use trine::layout::{LINE, Record, ReplyHead, Request, SessionShape, WorkShape};
use trine::worker::core::{Begun, Taken, WorkerCore};
use trine::{Fault, Identity, Resource};

/// Words that several have.
#[derive(Clone)]
pub struct Words(Rc<[Cell<u64>]>);

impl Words {
    pub fn new(words: usize) -> Words {
        Words((0..words).map(|_| Cell::new(0)).collect())
    }
}

impl Read for Words {
    fn load(&self, word: usize) -> u64 {
        self.0.get(word).map_or(0, Cell::get)
    }

    fn acquire(&self) {}
}

impl Write for Words {
    fn store(&self, word: usize, value: u64) {
        if let Some(cell) = self.0.get(word) {
            cell.set(value);
        }
    }

    fn release(&self) {}

    fn full(&self) {}
}

pub struct Plain;

impl Memory for Plain {
    type Ro = Words;
    type Rw = Words;
}

/// What a worker is sent. `sequence` and `before` are as in [`Told`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    Map { index: u16, session: usize },
    Unmap { index: u16 },
    Granted { sequence: u64, resource: Resource },
    Recalled { sequence: u64, resource: Resource, before: u64 },
    Drain { sequence: u64, before: u64 },
}

/// All effects. Nobody sleeps, so nobody need be rung.
#[derive(Default)]
pub struct Shell {
    /// By the worker's key: what it has not read yet, in order.
    sent: BTreeMap<usize, VecDeque<Control>>,
    /// Whether somebody may break the protocol; else a fault ends the test.
    pub may_fault: bool,
    pub faults: Vec<(Peer, Fault)>,
    pub forgotten: Vec<Peer>,
    pub forgotten_ledgers: Vec<u64>,
    /// What its clock says, where the director asks by itself.
    pub now_ns: u64,
}

impl Shell {
    fn send(&mut self, worker: usize, control: Control) {
        self.sent.entry(worker).or_default().push_back(control);
    }

    /// What a worker reads next.
    pub fn next_for(&mut self, worker: usize) -> Option<Control> {
        self.sent.get_mut(&worker)?.pop_front()
    }

    /// Whether every worker has read all that it was sent.
    pub fn has_sent_nothing(&self) -> bool {
        self.sent.values().all(VecDeque::is_empty)
    }

    /// All that workers were sent and this picks, with their keys: it is taken out of its order.
    pub fn take<T>(&mut self, pick: impl Fn(&Control) -> Option<T>) -> Vec<(usize, T)> {
        let mut taken = Vec::new();
        for (&worker, controls) in &mut self.sent {
            controls.retain(|control| match pick(control) {
                Some(picked) => {
                    taken.push((worker, picked));
                    false
                }
                None => true,
            });
        }
        taken
    }

    /// Whether a worker has a session to map.
    pub fn any_maps(&self) -> bool {
        self.sent.values().flatten().any(|control| matches!(control, Control::Map { .. }))
    }

    /// The sessions that workers are to map, as (worker, (index, session)).
    pub fn take_maps(&mut self) -> Vec<(usize, (u16, usize))> {
        self.take(|control| match *control {
            Control::Map { index, session } => Some((index, session)),
            _ => None,
        })
    }
}

impl Effects for Shell {
    fn ring(&mut self, _: Peer) {}

    fn map_session(&mut self, worker: usize, index: u16, session: usize) {
        self.send(worker, Control::Map { index, session });
    }

    fn unmap_session(&mut self, worker: usize, index: u16) {
        self.send(worker, Control::Unmap { index });
    }

    fn fault(&mut self, peer: Peer, fault: Fault) {
        assert!(self.may_fault, "a fault of {peer:?}: {fault}");
        self.faults.push((peer, fault));
    }

    fn forget(&mut self, peer: Peer) {
        if let Peer::Worker(key) = peer {
            self.sent.remove(&key);
        }
        self.forgotten.push(peer);
    }

    fn forget_ledger(&mut self, worker: u64) {
        self.forgotten_ledgers.push(worker);
    }

    fn clock_ns(&mut self) -> u64 {
        self.now_ns
    }

    fn tell(&mut self, worker: usize, told: Told<'_>) {
        let control = match told {
            Told::Granted { sequence, resource, .. } => Control::Granted { sequence, resource },
            Told::Recalled { sequence, resource, before, .. } => {
                Control::Recalled { sequence, resource, before }
            }
            Told::Drain { sequence, before } => Control::Drain { sequence, before },
        };
        self.send(worker, control);
    }
}

impl trine::client::core::Effects for Shell {
    fn ring_director(&mut self) {}
}

impl trine::worker::core::Effects for Shell {
    fn ring_client(&mut self, _: u64) {}

    fn ring_director(&mut self) {}

    fn clock_ns(&mut self) -> u64 {
        0
    }
}

/// A client with its session.
pub struct Client {
    pub core: ClientCore<Plain>,
    pub key: usize,
    pub id: u64,
    shape: SessionShape,
    pub outbox: Words,
    pub inbox: Words,
}

impl Client {
    pub fn attach(director: &mut DirectorCore<Plain>, id: u64, who: Identity, shape: SessionShape) -> Client {
        let (outbox, inbox) = (Words::new(shape.outbox().words), Words::new(shape.inbox().words));
        let key = director.attach_session(id, who, shape, 0, outbox.clone(), inbox.clone()).expect("room");
        let core = ClientCore::new(shape, outbox.clone(), inbox.clone());
        Client { core, key, id, shape, outbox, inbox }
    }

    /// One that comes back to a director whose window is open, with nothing that is unanswered.
    pub fn resume(director: &mut DirectorCore<Plain>, id: u64, who: Identity, shape: SessionShape) -> Client {
        let (outbox, inbox) = (Words::new(shape.outbox().words), Words::new(shape.inbox().words));
        let key = director.resume_session(id, who, shape, 0, outbox.clone(), inbox.clone());
        let core = ClientCore::new(shape, outbox.clone(), inbox.clone());
        Client { core, key: key.expect("it may come back"), id, shape, outbox, inbox }
    }

    /// Publishes a call, and returns its name. `None`: no slot is free.
    pub fn submit(&mut self, request: Request, record: &Record, shell: &mut Shell) -> Option<u64> {
        let slot = self.core.reserve()?;
        *self.core.draft(slot) = *record;
        Some(self.core.submit(slot, request, shell))
    }

    /// How a call has ended, if it has: then its slot is free.
    pub fn ended(&mut self, name: u64, now_ns: u64, shell: &mut Shell) -> Option<Outcome> {
        let outcome = self.core.look(name, now_ns, shell)?;
        self.core.release(self.core.slot_of(name));
        Some(outcome)
    }
}

/// A worker with its segment and its page.
pub struct Worker {
    pub core: WorkerCore<Plain>,
    pub key: usize,
    pub work: Words,
    pub page: Words,
}

impl Worker {
    pub fn attach(director: &mut DirectorCore<Plain>, id: u64, who: Identity, shape: WorkShape) -> Worker {
        let (work, page) = (Words::new(shape.work().words), Words::new(shape.progress().words));
        let key = director.attach_worker(id, who, shape, 0, work.clone(), page.clone()).expect("room");
        let core = WorkerCore::new(id, shape, 0, work.clone(), page.clone());
        Worker { core, key, work, page }
    }

    /// Maps a session, as it was told to, and says so.
    pub fn map(
        &mut self,
        index: u16,
        client: &Client,
        director: &mut DirectorCore<Plain>,
        shell: &mut Shell,
    ) {
        let Client { id, shape, outbox, inbox, .. } = client;
        self.core.map_session(index, *id, *shape, outbox.clone(), inbox.clone());
        director.session_mapped(self.key, index, true, shell);
    }

    /// Begins the next call. `None`: there is none, or none that it may look at yet.
    pub fn begin(&mut self, now_ns: u64, shell: &mut Shell) -> Option<Begun> {
        match self.core.take(now_ns, shell) {
            Ok(Taken::Begun(begun)) => Some(begun),
            Ok(Taken::Nothing | Taken::Unheard) => None,
            other => panic!("{other:?}"),
        }
    }

    pub fn answer(&mut self, begun: Begun, shell: &mut Shell) {
        self.core.reply(begun, ReplyHead::default(), &mut [0; LINE], shell);
    }
}
