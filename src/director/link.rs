//! What the director's two threads say to each other.
//!
//! ```text
//!  control thread                                     data thread
//!  sockets, descriptors, mapping   ── ToData ──►      rings, tables, timers
//!                                  ◄── ToControl ──
//! ```
//! Receiving or closing a peer's descriptor can stall, and must not stall a call: so the data thread never touches
//! a control socket. Each direction is a queue and an eventfd.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crossbeam::queue::SegQueue;

use super::faults::Faults;
use super::late::Holds;
use super::quota::Quotas;
use super::recovery::CarriedOver;
use crate::access::{Access, Denial, Domain};
use crate::control::message::FromDirector;
use crate::control::name::Name;
use crate::core::ledger::Entry;
use crate::error::Error;
use crate::identity::Identity;
use crate::layout::{SessionShape, WorkShape};
use crate::memory::Doorbell;
use crate::memory::{Ro, Rw};
use crate::resource::{Action, Key, Resource, ServiceOptions};

/// A connection's number: never used again.
pub type Connection = u64;

/// A session that was received, checked and mapped.
pub struct NewSession {
    pub id: u64,
    pub credential: [u64; 2],
    pub identity: Identity,
    pub groups: Arc<[u32]>,
    /// The workers that may see it.
    pub domain: Domain,
    pub shape: SessionShape,
    pub published: u64,
    /// It was attached to an earlier director.
    pub resumed: bool,
    pub pidfd: Arc<OwnedFd>,
    pub outbox: Ro,
    pub inbox: Rw,
    /// The client's, to ring it.
    pub client: Arc<Doorbell>,
    /// The director's, which the client rings.
    pub own: Doorbell,
}

/// A worker that was received, checked and mapped.
pub struct NewWorker {
    pub id: u64,
    pub credential: [u64; 2],
    pub identity: Identity,
    pub groups: Arc<[u32]>,
    pub domain: Domain,
    pub shape: WorkShape,
    pub start: u64,
    /// It was attached to an earlier director: what goes over.
    pub carried: Option<CarriedOver>,
    pub work: Rw,
    pub page: Ro,
    pub pidfd: Arc<OwnedFd>,
    /// The worker's, to ring it.
    pub worker: Doorbell,
    /// The director's, which the worker rings.
    pub own: Doorbell,
}

/// What an earlier director left, as the data thread needs it.
#[derive(Default)]
pub struct Inherited {
    pub ledgers: Vec<InheritedLedger>,
    /// A ledger could not be read.
    pub is_incomplete: bool,
    /// Until then sessions and workers may come back; 0: none can.
    pub until_ns: u64,
}

/// One worker's ledger.
pub struct InheritedLedger {
    pub worker: u64,
    pub entries: Vec<(u16, Entry)>,
    /// In which services it may hold exclusive rights.
    pub holds: Holds,
    pub is_dead: bool,
    /// Readable when it is dead.
    pub pidfd: Option<OwnedFd>,
}

/// What a worker that comes too late says of itself, as it was.
pub struct TooLate {
    pub worker: u64,
    pub taken: u64,
    /// Its program has not heard that it has lost what it held.
    pub holds: bool,
    pub page: Ro,
    pub shape: WorkShape,
}

/// A question about a request.
pub struct Asked {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub service: Name,
    pub operation: Name,
    pub key: Option<Key>,
}

/// What has come in.
pub enum ToData {
    Session(Connection, Box<NewSession>),
    Worker(Connection, Box<NewWorker>),
    OpenRoute {
        from: Connection,
        route: u32,
        service: Name,
        operation: Name,
    },
    Provide {
        from: Connection,
        service: Name,
        first: u16,
        operations: Vec<Name>,
    },
    Withdraw {
        from: Connection,
        service: Name,
    },
    Register {
        from: Connection,
        service: Name,
        first: u16,
        operations: Vec<Name>,
        options: ServiceOptions,
    },
    Change {
        from: Connection,
        service: Name,
        changes: Vec<(Action, Resource)>,
    },
    Yielded {
        from: Connection,
        service: Name,
        resource: Resource,
    },
    /// Of the sender, where it names no worker.
    Drain {
        from: Connection,
        worker: u64,
    },
    SessionMapped {
        from: Connection,
        index: u16,
        accepted: bool,
    },
    SessionUnmapped {
        from: Connection,
        index: u16,
    },
    Leave(Connection),
    Republished(Connection),
    Inspect(Connection),
    /// A worker that was given up has come back too late, and says where it stood.
    TooLate(Box<TooLate>),
    Explain(Connection, Box<Asked>),
    /// New rules.
    Access(Arc<Access>),
    /// This one is to hear when they are in force.
    Reloaded(Connection),
    /// Somebody was refused who has got no further than the control thread.
    Denied(Denial),
    /// Its socket is closed, or it broke the protocol there.
    Closed(Connection),
    Stop,
    /// These quotas are in force.
    Quotas(Quotas),
    /// Another director takes over: at once, and nothing is ended for it.
    HandOver,
}

/// What is to go out.
pub enum ToControl {
    Send(Connection, FromDirector),
    /// The rows of an inspection.
    Inspected(Connection, Vec<FromDirector>),
    /// With the director's doorbell that the peer is to ring.
    SessionOpened {
        to: Connection,
        session: u64,
        credential: [u64; 2],
        own: OwnedFd,
    },
    /// The same for a worker; the control thread has its work segment.
    WorkerOpened {
        to: Connection,
        worker: u64,
        credential: [u64; 2],
        start: u64,
        own: OwnedFd,
    },
    /// With the session's descriptors, which the control thread keeps.
    MapSession {
        to: Connection,
        index: u16,
        session: Connection,
    },
    /// The policy is to be read anew: somebody has asked for it, or the program itself.
    Reload,
    /// The peer broke the protocol.
    Disconnect(Connection),
    /// Nothing refers to what this connection brought any more.
    Forget(Connection),
    /// The worker with this id is dead, but its ledger may still be asked for.
    KeepLedger(Connection, u64),
    /// Who has not come back is not known any more, to later directors neither.
    SettledAll,
    /// Nobody will ask for this worker's inherited ledger any more.
    ForgetLedger(u64),
    /// The data thread has ended in good order.
    Finished,
}

/// Messages in one direction beyond which no peer is read from: some milliseconds of work.
const FULL: usize = 512;

/// One direction.
pub struct Queue<T> {
    items: SegQueue<T>,
    bell: Doorbell,
}

impl<T> Queue<T> {
    fn new() -> Result<Self, Error> {
        Ok(Queue { items: SegQueue::new(), bell: Doorbell::new()? })
    }

    /// Sends. Never blocks.
    pub fn push(&self, item: T) {
        self.items.push(item);
        self.bell.ring();
    }

    /// Receives. Costs two loads when there is nothing.
    #[inline]
    pub fn pop(&self) -> Option<T> {
        if self.items.is_empty() { None } else { self.items.pop() }
    }

    /// Whether more is on its way than is good for the memory that it takes, and for those who wait behind it.
    pub fn is_full(&self) -> bool {
        self.items.len() >= FULL
    }

    /// What the receiver sleeps on: edge-triggered.
    pub fn bell(&self) -> &Doorbell {
        &self.bell
    }
}

/// Both directions.
pub struct Link {
    pub to_data: Queue<ToData>,
    pub to_control: Queue<ToControl>,
    /// What peers did wrong.
    pub faults: Faults,
}

impl Link {
    pub fn new() -> Result<Arc<Self>, Error> {
        let faults = Faults::default();
        Ok(Arc::new(Link { to_data: Queue::new()?, to_control: Queue::new()?, faults }))
    }
}
