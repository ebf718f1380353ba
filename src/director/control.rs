//! The control thread: sockets, descriptors, mapping.
//!
//! ```text
//! accept ─► Hello ─► Welcome ─► OpenSession or OpenWorker ─► check every descriptor ─► map ─► data thread
//! ```
//! Nothing from a peer is believed: shapes are bounded before they are used, descriptors are checked before they
//! are mapped, and what breaks a rule ends its own connection only. A peer that doesn't read what it asked for isn't
//! read from any more either.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::earlier;
use super::link::{Connection, Link, NewSession, NewWorker, ToControl, ToData};
use super::names::{Names, hash_of};
use crate::control::folder::{Credentials, RuntimeFolder};
use crate::control::message::{FromDirector, Role, ToDirector};
use crate::control::socket::{Channel, Listener, Received};
use crate::core::Write;
use crate::error::{Error, Fault, Status};
use crate::identity::Identity;
use crate::layout::{SessionShape, WorkShape, head};
use crate::limits;
use crate::memory::Doorbell;
use crate::memory::named::Named;
use crate::memory::sealed::{self, Kind};
use crate::memory::{Process, boot_id, pid_namespace_inode};
use crate::waiting::now_ns;

/// Messages read from one peer before the next has its turn.
const BUDGET: usize = 16;
/// Messages that may wait for a worker that is slow to read: one for each session, and some.
const UNSENT_MAX: usize = limits::SESSIONS_MAX + 64;
/// Peers whose clocks differ more are in another time namespace, where deadlines mean something else.
const CLOCKS_DIFFER_NS: u64 = 10_000_000_000;
/// How often a listener that had no descriptor left tries again.
const RETRY_MS: u16 = 200;

const LISTENER: u64 = 0;
const QUEUE: u64 = 1;
const FIRST_CONNECTION: u64 = 2;

/// How far a connection has come.
enum Stage {
    Connected,
    Greeted(Role),
    Session(SessionDescriptors),
    Worker(Named),
}

/// What a session's workers are given.
struct SessionDescriptors {
    id: u64,
    shape: SessionShape,
    outbox: OwnedFd,
    inbox: OwnedFd,
    client: OwnedFd,
}

struct Peer {
    /// `None` once it is closed.
    channel: Option<Channel>,
    process: Process,
    stage: Stage,
    /// The data thread knows it, and will say when to forget it.
    attached: bool,
    unsent: VecDeque<(FromDirector, Vec<OwnedFd>)>,
}

/// What goes wrong between a director and one peer: it ends that connection.
enum Trouble {
    Fault(Fault),
    Refused(Status, String),
    Own(Error),
    Gone,
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Trouble::Fault(fault)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Trouble::Own(error)
    }
}

/// The control thread.
pub struct Control {
    link: Arc<Link>,
    folder: RuntimeFolder,
    credentials: Credentials,
    /// `None` once the director stops.
    listener: Option<Listener>,
    /// No descriptor was left for a new connection.
    exhausted: bool,
    epoll: Epoll,
    peers: HashMap<Connection, Peer>,
    /// Keys that are names.
    names: Names,
    next_connection: Connection,
    next_session: u64,
    next_worker: u64,
    boot: [u64; 2],
    pid_namespace: u64,
    uid: u32,
}

impl Control {
    /// Takes the bus: sweeps what a killed director left, and listens.
    pub fn new(link: Arc<Link>, folder: RuntimeFolder) -> Result<Self, Error> {
        earlier::clear(&folder.stale_links()?, folder.bus_id(), &segment_prefix(&folder))?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(Error::system("making an epoll"))?;
        let listener = folder.bind()?;
        watch(&epoll, &listener, EpollFlags::EPOLLIN, LISTENER)?;
        watch(&epoll, link.to_control.bell(), EpollFlags::EPOLLIN | EpollFlags::EPOLLET, QUEUE)?;
        Ok(Control {
            credentials: folder.credentials(),
            listener: Some(listener),
            exhausted: false,
            peers: HashMap::new(),
            names: Names::new(hash_of(folder.name_hasher())),
            next_connection: FIRST_CONNECTION,
            // Above all that an earlier director gave.
            next_session: (folder.epoch() << 32) + 1,
            next_worker: (folder.epoch() << 16) + 1,
            boot: boot_id()?,
            pid_namespace: pid_namespace_inode()?,
            uid: nix::unistd::geteuid().as_raw(),
            epoll,
            link,
            folder,
        })
    }

    /// Runs until the data thread has ended, then leaves nothing behind.
    pub fn run(mut self) -> Result<(), Error> {
        let mut events = [EpollEvent::empty(); 64];
        loop {
            let timeout = if self.exhausted { EpollTimeout::from(RETRY_MS) } else { EpollTimeout::NONE };
            // An interrupted wait found nothing, and is done again.
            let ready = self.epoll.wait(&mut events, timeout).unwrap_or(0);
            if self.exhausted {
                self.accept();
            }
            for event in &events[..ready] {
                match event.data() {
                    LISTENER => self.accept(),
                    QUEUE => {}
                    connection => self.serve(connection, event.events()),
                }
            }
            while let Some(message) = self.link.to_control.pop() {
                if matches!(message, ToControl::Finished) {
                    return self.finish();
                }
                self.obey(message);
            }
        }
    }

    /// Says goodbye to everybody and removes everything.
    fn finish(mut self) -> Result<(), Error> {
        self.listener = None;
        for (_, peer) in self.peers.drain() {
            if let Some(channel) = &peer.channel {
                // Whoever doesn't read it sees the socket close.
                let _ = channel.send_message(&FromDirector::Closing, &[]);
            }
            if let Stage::Worker(named) = peer.stage {
                named.unlink()?;
            }
        }
        self.folder.clean()
    }

    fn accept(&mut self) {
        while let Some(listener) = &self.listener {
            match listener.accept() {
                Ok(Some(channel)) => {
                    if let Err(error) = self.admit(channel) {
                        tracing::warn!(%error, "a connection was not admitted");
                    }
                }
                Ok(None) => {
                    if std::mem::take(&mut self.exhausted) {
                        let _ = watch(&self.epoll, listener, EpollFlags::EPOLLIN, LISTENER);
                    }
                    return;
                }
                Err(error) => {
                    // No descriptor left: those who are here are served on, and the others wait in the backlog.
                    if !std::mem::replace(&mut self.exhausted, true) {
                        tracing::warn!(%error, "no more connections for now");
                        let _ = self.epoll.delete(listener);
                    }
                    return;
                }
            }
        }
    }

    fn admit(&mut self, channel: Channel) -> Result<(), Error> {
        let process = Process::of_peer(channel.as_fd())?;
        let connection = self.next_connection;
        self.next_connection += 1;
        let uid = process.identity.uid;
        if uid != self.uid && uid != 0 {
            let message = format!("this bus belongs to uid {}, and you are uid {uid}", self.uid);
            let _ = channel.send_message(&refused(Status::PermissionDenied, message), &[]);
            tracing::warn!(uid, pid = process.identity.pid, "refused: another user");
            return Ok(());
        }
        watch(&self.epoll, &channel, EpollFlags::EPOLLIN, connection)?;
        let (stage, unsent) = (Stage::Connected, VecDeque::new());
        self.peers
            .insert(connection, Peer { channel: Some(channel), process, stage, attached: false, unsent });
        Ok(())
    }

    fn serve(&mut self, connection: Connection, events: EpollFlags) {
        if events.intersects(EpollFlags::EPOLLOUT | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
            self.send_unsent(connection);
        }
        for _ in 0..BUDGET {
            let Some(peer) = self.peers.get(&connection) else { return };
            // Whoever doesn't read the answers asks no more questions.
            let Some(channel) = peer.channel.as_ref().filter(|_| peer.unsent.is_empty()) else { return };
            let outcome = match channel.receive_message::<ToDirector>() {
                Ok(Received::Nothing) => return,
                Ok(Received::Message(message, descriptors)) => self.take(connection, message, descriptors),
                Ok(Received::Closed) => Err(Trouble::Gone),
                Ok(Received::Fault(fault)) => Err(Trouble::Fault(fault)),
                Err(error) => Err(Trouble::Own(error)),
            };
            if let Err(trouble) = outcome {
                return self.end(connection, trouble);
            }
        }
    }

    /// One message of a peer's.
    fn take(
        &mut self,
        from: Connection,
        message: ToDirector,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), Trouble> {
        let Some(peer) = self.peers.get(&from) else { return Ok(()) };
        match (&peer.stage, message) {
            (Stage::Connected, ToDirector::Hello { protocol, role, monotonic_ns, .. }) => {
                self.greet(from, protocol, role, monotonic_ns)
            }
            (Stage::Greeted(Role::Client), ToDirector::OpenSession { session, published, shape, .. }) => {
                self.open_session(from, session, published, shape, descriptors)
            }
            (Stage::Greeted(Role::Worker), ToDirector::OpenWorker { shape, .. }) => {
                self.open_worker(from, shape, descriptors)
            }
            (Stage::Greeted(Role::Monitor), ToDirector::Inspect) => self.pass_on(ToData::Inspect(from)),
            (Stage::Session(_), ToDirector::OpenRoute { route, service, operation }) => {
                self.pass_on(ToData::OpenRoute { from, route, service, operation })
            }
            (Stage::Worker(_), ToDirector::Provide { service, first, operations }) => {
                self.pass_on(ToData::Provide { from, service, first, operations })
            }
            (Stage::Worker(_), ToDirector::Withdraw { service }) => {
                self.pass_on(ToData::Withdraw { from, service })
            }
            (Stage::Worker(_), ToDirector::SessionMapped { index, accepted }) => {
                self.pass_on(ToData::SessionMapped { from, index, accepted })
            }
            (Stage::Worker(_), ToDirector::SessionUnmapped { index }) => {
                self.pass_on(ToData::SessionUnmapped { from, index })
            }
            (Stage::Session(_) | Stage::Worker(_), ToDirector::NameKey { name }) => {
                let (status, word) = match self.names.key(from, &name) {
                    Ok(word) => (Status::Ok, word),
                    Err(status) => (status, 0),
                };
                self.send(from, FromDirector::KeyNamed { status, word }, Vec::new());
                Ok(())
            }
            (Stage::Worker(_), ToDirector::Register { service, first, operations, options }) => {
                self.pass_on(ToData::Register { from, service, first, operations, options })
            }
            (Stage::Worker(_), ToDirector::Change { service, changes }) => {
                self.pass_on(ToData::Change { from, service, changes })
            }
            (Stage::Worker(_), ToDirector::Yielded { service, resource }) => {
                self.pass_on(ToData::Yielded { from, service, resource })
            }
            (Stage::Worker(_), ToDirector::Drain { worker: 0 }) => {
                self.pass_on(ToData::Drain { from, worker: 0 })
            }
            (Stage::Greeted(Role::Monitor), ToDirector::Drain { worker: worker @ 1.. }) => {
                self.pass_on(ToData::Drain { from, worker })
            }
            (Stage::Worker(_), ToDirector::Leave { .. }) => self.pass_on(ToData::Leave(from)),
            (_, message) => {
                use crate::control::message::Message;
                let why = "it may not be sent at this point";
                Err(Fault::Message { kind: message.kind(), len: 0, why }.into())
            }
        }
    }

    fn pass_on(&self, message: ToData) -> Result<(), Trouble> {
        self.link.to_data.push(message);
        Ok(())
    }

    fn greet(
        &mut self,
        from: Connection,
        protocol: u32,
        role: Role,
        their_clock_ns: u64,
    ) -> Result<(), Trouble> {
        if protocol != limits::PROTOCOL {
            let message = format!("the director speaks protocol {}, you speak {protocol}", limits::PROTOCOL);
            return Err(Trouble::Refused(Status::ProtocolMismatch, message));
        }
        if their_clock_ns.abs_diff(now_ns()) > CLOCKS_DIFFER_NS {
            let message = "your clock is of another time namespace than the director's".into();
            return Err(Trouble::Refused(Status::PermissionDenied, message));
        }
        let welcome = FromDirector::Welcome {
            protocol: limits::PROTOCOL,
            bus_id: self.folder.bus_id(),
            epoch: self.folder.epoch(),
            pid: std::process::id() as i32,
            monotonic_ns: now_ns(),
        };
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.stage = Stage::Greeted(role);
        }
        self.send(from, welcome, Vec::new());
        Ok(())
    }

    /// A client presents its session: every descriptor is checked, then the rings (never an arena) are mapped.
    fn open_session(
        &mut self,
        from: Connection,
        session: u64,
        published: u64,
        shape: SessionShape,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), Trouble> {
        let Some(peer) = self.peers.get_mut(&from) else { return Ok(()) };
        if session != 0 {
            let message = "this director does not know that session: open a new one".into();
            return Err(Trouble::Refused(Status::MayHaveRun, message));
        }
        let Ok([outbox, inbox, client]) = <[OwnedFd; 3]>::try_from(descriptors) else {
            return Err(Trouble::Gone);
        };
        if !shape.is_valid() {
            return Err(Trouble::Refused(Status::Fault, format!("sizes out of bounds: {shape:?}")));
        }
        let (out, at) = (shape.outbox(), shape.inbox());
        let (out_bytes, in_bytes) = (out.words as u64 * 8, at.words as u64 * 8);
        sealed::check(&outbox, "outbox", out_bytes + out.arena_bytes, out_bytes, Kind::WriterOnly)?;
        sealed::check(&inbox, "inbox", in_bytes + at.arena_bytes, in_bytes, Kind::ReadWrite)?;
        let bell = Doorbell::from_fd(client.try_clone().map_err(Error::io("duplicating a doorbell"))?)?;
        let id = self.next_session;
        self.next_session += 1;
        let identity = peer.process.identity;
        let credential =
            self.credentials.session(id, identity.uid, sealed::inode(&outbox)?, sealed::inode(&inbox)?);
        let new = NewSession {
            id,
            credential,
            identity,
            shape,
            published,
            outbox: sealed::map_ro(&outbox, out_bytes, out.words)?,
            inbox: sealed::map_rw(&inbox, in_bytes, at.words)?,
            client: bell,
            own: Doorbell::new()?,
        };
        peer.stage = Stage::Session(SessionDescriptors { id, shape, outbox, inbox, client });
        peer.attached = true;
        self.pass_on(ToData::Session(from, Box::new(new)))
    }

    /// A worker presents its progress page, and gets a work segment.
    fn open_worker(
        &mut self,
        from: Connection,
        shape: WorkShape,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), Trouble> {
        let Some(peer) = self.peers.get_mut(&from) else { return Ok(()) };
        let Ok([page, worker]) = <[OwnedFd; 2]>::try_from(descriptors) else { return Err(Trouble::Gone) };
        if !shape.is_valid() {
            return Err(Trouble::Refused(Status::Fault, format!("sizes out of bounds: {shape:?}")));
        }
        let (work, progress) = (shape.work(), shape.progress());
        let page_bytes = progress.words as u64 * 8;
        sealed::check(&page, "progress page", page_bytes, page_bytes, Kind::WriterOnly)?;
        let worker = Doorbell::from_fd(worker)?;
        let id = self.next_worker;
        self.next_worker += 1;
        let link = self.folder.worker_link(id);
        let named = Named::create(&link, &segment_prefix(&self.folder), work.words)?;
        let identity = peer.process.identity;
        let new = NewWorker {
            id,
            credential: self.credentials.worker(id, identity.uid, sealed::inode(&page)?),
            identity,
            shape,
            start: 0,
            work: named.mem().clone(),
            page: sealed::map_ro(&page, page_bytes, progress.words)?,
            pidfd: peer.process.pidfd.try_clone().map_err(Error::io("duplicating a pidfd"))?,
            worker,
            own: Doorbell::new()?,
        };
        let about = [
            (head::VERSION, u64::from(limits::PROTOCOL) | u64::from(shape.slots) << 32),
            (head::BUS, self.folder.bus_id()[0]),
            (head::BUS + 1, self.folder.bus_id()[1]),
            (head::WORKER, id),
            (head::EPOCH, self.folder.epoch()),
            (head::START, new.start),
            (head::PID, identity.pid as u64),
            (head::START_TIME, peer.process.start_time_ticks),
            (head::PIDFD_INODE, peer.process.pidfd_inode),
            (head::BOOT, self.boot[0]),
            (head::BOOT + 1, self.boot[1]),
            (head::PID_NAMESPACE, self.pid_namespace),
        ];
        about.iter().for_each(|&(word, value)| named.mem().store(work.head + word, value));
        named.mem().release();
        named.mem().store(work.head + head::MAGIC, head::WORD);
        peer.stage = Stage::Worker(named);
        peer.attached = true;
        self.pass_on(ToData::Worker(from, Box::new(new)))
    }

    /// What the data thread wants.
    fn obey(&mut self, message: ToControl) {
        match message {
            ToControl::Send(to, message) => self.send(to, message, Vec::new()),
            ToControl::SessionOpened { to, session, credential, own } => {
                self.send(to, FromDirector::SessionOpened { session, credential }, vec![own]);
            }
            ToControl::WorkerOpened { to, worker, credential, start, own } => {
                let message = FromDirector::WorkerOpened { worker, credential, start };
                let Some(Peer { stage: Stage::Worker(named), .. }) = self.peers.get(&to) else { return };
                match named.read_only_fd() {
                    Ok(work) => self.send(to, message, vec![work, own]),
                    Err(error) => self.end(to, Trouble::Own(error)),
                }
            }
            ToControl::MapSession { to, index, session } => self.map_session(to, index, session),
            ToControl::Disconnect(connection) => self.close(connection),
            ToControl::Forget(connection) => {
                self.close(connection);
                if let Some(Peer { stage: Stage::Worker(named), .. }) = self.peers.remove(&connection)
                    && let Err(error) = named.unlink()
                {
                    tracing::warn!(%error, "a worker's segment could not be removed");
                }
            }
            ToControl::Finished => {}
        }
    }

    /// Gives a worker what it needs to answer a session: that is the permission to.
    fn map_session(&mut self, to: Connection, index: u16, session: Connection) {
        let Some(Peer { stage: Stage::Session(s), process, .. }) = self.peers.get(&session) else { return };
        let Identity { uid, gid, pid } = process.identity;
        let message = FromDirector::MapSession { index, session: s.id, shape: s.shape, uid, gid, pid };
        let copies = [&s.outbox, &s.inbox, &s.client].map(OwnedFd::try_clone);
        match copies.into_iter().collect::<Result<Vec<_>, _>>() {
            Ok(descriptors) => self.send(to, message, descriptors),
            Err(_) => {
                // No descriptor left: as if the worker had none.
                self.link.to_data.push(ToData::SessionMapped { from: to, index, accepted: false });
            }
        }
    }

    /// Sends, or keeps what the peer has no room for.
    fn send(&mut self, to: Connection, message: FromDirector, descriptors: Vec<OwnedFd>) {
        let Some(peer) = self.peers.get_mut(&to) else { return };
        if peer.channel.is_none() {
            return;
        }
        if peer.unsent.len() >= UNSENT_MAX {
            return self.end(to, Trouble::Refused(Status::Busy, "you don't read your messages".into()));
        }
        peer.unsent.push_back((message, descriptors));
        if peer.unsent.len() == 1 {
            self.send_unsent(to);
        }
    }

    fn send_unsent(&mut self, to: Connection) {
        let Some(peer) = self.peers.get_mut(&to) else { return };
        let Some(channel) = &peer.channel else { return };
        let was_full = peer.unsent.len() > 1;
        while let Some((message, descriptors)) = peer.unsent.front() {
            let borrowed: Vec<BorrowedFd> = descriptors.iter().map(AsFd::as_fd).collect();
            match channel.send_message(message, &borrowed) {
                Ok(()) => {
                    peer.unsent.pop_front();
                }
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                    let mut event = EpollEvent::new(EpollFlags::EPOLLOUT, to);
                    let _ = self.epoll.modify(channel, &mut event);
                    return;
                }
                Err(_) => return self.end(to, Trouble::Gone),
            }
        }
        if was_full {
            let mut event = EpollEvent::new(EpollFlags::EPOLLIN, to);
            let _ = self.epoll.modify(channel, &mut event);
        }
    }

    /// Ends a connection, saying why where there is somebody to say it to.
    fn end(&mut self, connection: Connection, trouble: Trouble) {
        let Some(peer) = self.peers.get(&connection) else { return };
        let pid = peer.process.identity.pid;
        let answer = match trouble {
            Trouble::Gone => None,
            Trouble::Fault(fault) => {
                tracing::warn!(pid, %fault, "disconnected: it broke the protocol");
                Some(refused(Status::Fault, fault.to_string()))
            }
            Trouble::Refused(status, message) => {
                tracing::info!(pid, %status, message, "refused");
                Some(refused(status, message))
            }
            Trouble::Own(error) => {
                tracing::warn!(pid, %error, "a peer could not be served");
                Some(refused(Status::Busy, format!("the director can't: {error}")))
            }
        };
        if let (Some(answer), Some(channel)) = (answer, &peer.channel) {
            let _ = channel.send_message(&answer, &[]);
        }
        self.close(connection);
    }

    /// Closes a connection's socket. What it brought is kept until the data thread has forgotten it.
    fn close(&mut self, connection: Connection) {
        let Some(peer) = self.peers.get_mut(&connection) else { return };
        if let Some(channel) = peer.channel.take() {
            let _ = self.epoll.delete(&channel);
        }
        peer.unsent.clear();
        self.names.forget(connection);
        if peer.attached {
            self.link.to_data.push(ToData::Closed(connection));
        } else {
            self.peers.remove(&connection);
        }
    }
}

fn refused(status: Status, message: String) -> FromDirector {
    FromDirector::Refused { status, protocol: limits::PROTOCOL, message }
}

fn watch(epoll: &Epoll, fd: impl AsFd, flags: EpollFlags, token: u64) -> Result<(), Error> {
    epoll.add(fd, EpollEvent::new(flags, token)).map_err(Error::system("watching a descriptor"))
}

/// What the names of this bus's segments begin with.
fn segment_prefix(folder: &RuntimeFolder) -> String {
    format!("trine-{:016x}-", folder.bus_id()[0])
}
