//! The control messages, as values.
//!
//! ```text
//! client                     director                     worker
//!   │ Hello ───────────────────► │ ◄─────────────────── Hello │
//!   │ ◄─────── Welcome | Refused │ Welcome | Refused ───────► │
//!   │ OpenSession +3 ──────────► │ ◄─────────── OpenWorker +2 │   +n: descriptors that travel with it
//!   │ ◄──────── SessionOpened +1 │ WorkerOpened +2 ─────────► │
//!   │ OpenRoute ───────────────► │ ◄────────────────── Provide │
//!   │ ◄───────────── RouteOpened │ Provided ────────────────► │
//!   │                            │ MapSession +3 ───────────► │   before its first call goes to this worker
//!   │                            │ ◄──────────── SessionMapped │
//!   │                            │ UnmapSession ────────────► │   when the client is gone
//!   │                            │ ◄────────── SessionUnmapped │
//!   │ NameKey ─────────────────► │ ◄────── Register, Change    │   on some resources; answered by Provided
//!   │ ◄──────────────── KeyNamed │ Granted, Recalled ───────► │   exclusive rights, numbered
//!   │                            │ ◄────────────────── Yielded │   its calls on the resource are answered
//!   │                            │ Draining ────────────────► │   it is to serve its ring and leave
//!   │                            │ ◄──────────────────── Leave │   it takes no more
//!   │                            │ Left ────────────────────► │
//! the next director: Replace ──► the director ── HandOver +1 ──► the next director
//! ```
//! A first message that can't be read is answered with Refused, so that a mismatch of versions can always be told:
//! the header and the bodies of Hello, Welcome and Refused, the roles, and the number of PROTOCOL_MISMATCH, are the
//! same in all versions. Everything else may change with [`limits::PROTOCOL`](crate::limits::PROTOCOL). The numbers
//! of the two directions do not overlap, so a message that goes the wrong way is unknown there. Which number each has, and
//! how it becomes bytes, is in [`coding`](super::coding).

use std::collections::HashSet;

use super::name::Name;
use crate::access::{Denial, Domain, Topic};
use crate::layout::{SessionShape, WorkShape};
use crate::resource::{Action, Key, Resource, ServiceOptions};
use crate::{Fault, Status};

/// A message that can be sent.
pub(crate) trait Message: Sized {
    /// Replaces the buffer's content by the message. Lists are within their bounds, which is the sender's care:
    /// a longer one is refused by the receiver.
    fn encode(&self, out: &mut Vec<u8>);
    /// Reads a message; anything that is not exactly one is a [`Fault::Message`].
    fn decode(bytes: &[u8]) -> Result<Self, Fault>;
    /// The number of its kind.
    fn kind(&self) -> u32;
    /// How many descriptors a message of this kind carries: exactly so many.
    fn descriptors(kind: u32) -> usize;
}

/// What a peer is. The numbers are for ever: a version that needs another role says so in another message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Role {
    /// It calls.
    Client = 1,
    /// It serves.
    Worker = 2,
    /// It only looks.
    Monitor = 3,
}

/// What clients, workers and monitors say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ToDirector {
    /// The first message.
    Hello {
        /// The sender's [`limits::PROTOCOL`](crate::limits::PROTOCOL).
        protocol: u32,
        /// What it is.
        role: Role,
        /// The bus that it was attached to before; zeros where it was not.
        bus_id: [u64; 2],
        /// Its CLOCK_MONOTONIC: deadlines mean nothing between two time namespaces.
        monotonic_ns: u64,
    },
    /// Presents a session; with its outbox, inbox, and the client's doorbell.
    OpenSession {
        /// Its id; 0 for a new one.
        session: u64,
        /// What came with the id; zeros for a new one.
        credential: [u64; 2],
        /// The next position of the request ring: what stands before it was for an earlier director.
        published: u64,
        /// The epoch of the last director that it has said Republished to, or that opened it; 0 for a new one.
        settled: u64,
        /// Sizes of the segments.
        shape: SessionShape,
    },
    /// Gives an operation of a service a number in this session.
    OpenRoute {
        /// The client's number for it.
        route: u32,
        /// Of whom.
        service: Name,
        /// What.
        operation: Name,
    },
    /// Presents a worker; with its progress page and its doorbell.
    OpenWorker {
        /// Its id; 0 for a new one.
        worker: u64,
        /// What came with the id; zeros for a new one.
        credential: [u64; 2],
        /// Its `taken`, final: it takes nothing more from the ring that it had.
        taken: u64,
        /// Its program has not heard that it has lost what it held exclusively.
        holds: bool,
        /// Sizes of the segments.
        shape: WorkShape,
    },
    /// This worker provides operations of a service, from now on.
    Provide {
        /// Which service.
        service: Name,
        /// The worker's number for the first of them; the others' follow.
        first: u16,
        /// At most [`limits::OPERATIONS_MAX`](crate::limits::OPERATIONS_MAX).
        operations: Vec<Name>,
    },
    /// It provides this service no more.
    Withdraw {
        /// Which service.
        service: Name,
    },
    /// Answers MapSession.
    SessionMapped {
        /// The index that the director gave.
        index: u16,
        /// Whether it is mapped; else the worker has no room for it.
        accepted: bool,
    },
    /// Answers UnmapSession: the index may be used again.
    SessionUnmapped {
        /// Which.
        index: u16,
    },
    /// The worker leaves in good order: what its ring holds from here on it will never begin.
    Leave {
        /// Its `taken`, final.
        taken: u64,
    },
    /// Asks for the rows about services, workers and sessions.
    Inspect,
    /// A session that came back has published again all that it had open; a worker that came back has told all that
    /// it provides.
    Republished,
    /// Asks for the key of a resource's name.
    NameKey {
        /// Which.
        name: Name,
    },
    /// As Provide, for some resources only, or with a policy for the service.
    Register {
        /// Which service.
        service: Name,
        /// The worker's number for the first operation; the others' follow.
        first: u16,
        /// At most [`limits::OPERATIONS_MAX`](crate::limits::OPERATIONS_MAX).
        operations: Vec<Name>,
        /// Resources and policies.
        options: ServiceOptions,
    },
    /// Changes what this worker declares and holds in a service, in one step; answered by Provided.
    Change {
        /// Which service.
        service: Name,
        /// At most [`limits::RESOURCES_PER_CHANGE`](crate::limits::RESOURCES_PER_CHANGE).
        changes: Vec<(Action, Resource)>,
    },
    /// Answers Recalled: the calls on it are answered, and it may be another's now.
    Yielded {
        /// Of which service.
        service: Name,
        /// What.
        resource: Resource,
    },
    /// A worker is to be given no new work, and to leave when it has served its ring; answered by Provided.
    Drain {
        /// Its id; 0 is the sender.
        worker: u64,
    },
    /// As OpenSession, in another trust domain than the director's own user's.
    OpenSessionIn {
        /// Its id; 0 for a new one.
        session: u64,
        /// What came with the id; zeros for a new one.
        credential: [u64; 2],
        /// The next position of the request ring.
        published: u64,
        /// The last director that knew it whole.
        settled: u64,
        /// Sizes of the segments.
        shape: SessionShape,
        /// Which, as RouteElsewhere named it.
        domain: Domain,
    },
    /// Asks what would happen to a request.
    Explain {
        /// Whose it would be.
        uid: u32,
        /// Their group.
        gid: u32,
        /// Their other groups, at most [`limits::EXPLAIN_GROUPS_MAX`](crate::limits::EXPLAIN_GROUPS_MAX).
        groups: Vec<u64>,
        /// Of which service.
        service: Name,
        /// What.
        operation: Name,
        /// On what.
        key: Option<Key>,
    },
    /// Asks the director to read its policy anew.
    Reload,
    /// Another director takes over; answered by HandOver.
    Replace,
}

/// What a director says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FromDirector {
    /// Answers Hello.
    Welcome {
        /// The director's [`limits::PROTOCOL`](crate::limits::PROTOCOL).
        protocol: u32,
        /// Which bus this is.
        bus_id: [u64; 2],
        /// The how many-th director of it this is.
        epoch: u64,
        /// Its process.
        pid: i32,
        /// Its CLOCK_MONOTONIC.
        monotonic_ns: u64,
    },
    /// Answers what it does not accept; the connection ends.
    Refused {
        /// In a word.
        status: Status,
        /// The director's [`limits::PROTOCOL`](crate::limits::PROTOCOL).
        protocol: u32,
        /// In a sentence.
        message: String,
    },
    /// Answers OpenSession; with the director's doorbell for it.
    SessionOpened {
        /// Its id, new or old.
        session: u64,
        /// What to present the session with, to the next director.
        credential: [u64; 2],
    },
    /// Answers OpenRoute.
    RouteOpened {
        /// The client's number for it.
        route: u32,
        /// Whether it may be used.
        status: Status,
        /// Else why not.
        message: String,
    },
    /// Answers OpenWorker; with the work segment, read-only, and the director's doorbell for it.
    WorkerOpened {
        /// Its id, new or old.
        worker: u64,
        /// What to present the worker with, to the next director.
        credential: [u64; 2],
        /// The first position of the work ring.
        start: u64,
    },
    /// Answers Provide and Withdraw, in their order.
    Provided {
        /// Whether it was done.
        status: Status,
        /// Else why not.
        message: String,
    },
    /// Gives a worker a session; with its outbox, inbox and doorbell: the permission to reply there.
    MapSession {
        /// The dense index under which records will name it.
        index: u16,
        /// Its id.
        session: u64,
        /// Sizes of the segments.
        shape: SessionShape,
        /// The client's user, as the kernel says.
        uid: u32,
        /// The client's group, as the kernel says.
        gid: u32,
        /// The client's process, as the kernel says; 0 where it has none here.
        pid: i32,
    },
    /// The session has ended: the worker unmaps it and skips its calls.
    UnmapSession {
        /// Which.
        index: u16,
    },
    /// Answers Leave.
    Left,
    /// The director stops in good order.
    Closing,
    /// About one service; answers Inspect, as do the other rows.
    ServiceRow {
        /// Which.
        service: Name,
        /// What it can do.
        operations: Vec<Name>,
        /// Who provides it, at most [`limits::ROW_WORKERS_MAX`](crate::limits::ROW_WORKERS_MAX) in a row.
        workers: Vec<u64>,
        /// Calls that wait for room at one of them.
        waiting: u64,
    },
    /// About one worker.
    WorkerRow {
        /// Its id.
        worker: u64,
        /// Its user.
        uid: u32,
        /// Its group.
        gid: u32,
        /// Its process.
        pid: i32,
        /// Calls in its hands.
        in_flight: u32,
        /// Calls that it has answered.
        completed: u64,
        /// Sessions that it has mapped.
        sessions: u32,
        /// Calls that it may have in its hands.
        share: u32,
    },
    /// About one session.
    SessionRow {
        /// Its id.
        session: u64,
        /// Its user.
        uid: u32,
        /// Its group.
        gid: u32,
        /// Its process.
        pid: i32,
        /// Routes that it has opened.
        open: u32,
        /// Calls that wait for room at a worker.
        waiting: u32,
        /// Calls that were taken from it.
        calls: u64,
        /// Whether its ring is polled.
        hot: bool,
    },
    /// Answers NameKey.
    KeyNamed {
        /// Whether the name has a key.
        status: Status,
        /// The key's word.
        word: u64,
    },
    /// The worker holds a resource from now on.
    Granted {
        /// The how many-th message about rights this is.
        sequence: u64,
        /// Of which service.
        service: Name,
        /// What.
        resource: Resource,
    },
    /// The worker is to give a resource up; answered by Yielded.
    Recalled {
        /// The how many-th message about rights this is.
        sequence: u64,
        /// Of which service.
        service: Name,
        /// What.
        resource: Resource,
        /// The position behind the last record on it.
        before: u64,
    },
    /// The worker is to leave when it has answered what stands before a position.
    Draining {
        /// The how many-th message about rights this is.
        sequence: u64,
        /// The position behind its last record.
        before: u64,
    },
    /// Answers OpenRoute: its workers are of another trust domain, and a session there is to ask.
    RouteElsewhere {
        /// The client's number for it.
        route: u32,
        /// Which domain.
        domain: Domain,
    },
    /// About one distinct thing that was refused; answers Inspect, too.
    DenialRow {
        /// How often.
        count: u64,
        /// What, to whom, and why.
        denial: Denial,
    },
    /// One thing that matters to a request; answers Explain, as does the end.
    ExplainRow {
        /// What it is about.
        topic: Topic,
        /// The worker that it is about; 0 where it is about none.
        worker: u64,
        /// What is so.
        text: String,
        /// What says so.
        origin: String,
    },
    /// What would become of the request.
    ExplainEnd {
        /// How it would end, or OK where a worker would get it.
        status: Status,
        /// Which; 0 for none.
        worker: u64,
        /// In a sentence.
        text: String,
    },
    /// Answers Reload.
    Reloaded {
        /// Whether the new policy is in force.
        applied: bool,
        /// Else why not.
        message: String,
    },
    /// Answers Replace; with the socket at which the bus is met. The bus is free once its lock is.
    HandOver,
    /// The last row: what the director has counted.
    InspectEnd {
        /// Calls given to workers.
        calls: u64,
        /// Calls that the director ended itself.
        ended: u64,
        /// Peers that were disconnected for a fault.
        faults: u64,
    },
}

/// A name that is there twice: its worker would count as two that provide it.
pub(crate) fn twin(names: &[Name]) -> Option<&Name> {
    let mut seen = HashSet::new();
    names.iter().find(|&name| !seen.insert(name))
}
