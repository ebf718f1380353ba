//! The control thread: sockets, descriptors, mapping.
//!
//! ```text
//! accept ─► Hello ─► Welcome ─► OpenSession or OpenWorker ─► check every descriptor ─► map ─► data thread
//! ```
//! Nothing from a peer is believed: shapes are bounded before they are used, descriptors are checked before they
//! are mapped, and what breaks a rule ends its own connection only. A peer that doesn't read what it asked for isn't
//! read from any more either.

mod admission;
mod opening;
mod peer;

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use self::peer::{Peer, Silent, Stage, Trouble};
use super::earlier::{self, Estate, Inheritance, Life};
use super::handle::ReadRules;
use super::link::{Asked, Connection, Inherited, InheritedLedger, Link, ToControl, ToData};
use super::names::{Names, hash_of};
use super::quota::{Accounts, Quotas};
use crate::access::{Access, Asker, Domain, Rules};
use crate::control::closer::Closer;
use crate::control::folder::{Credentials, RuntimeFolder};
use crate::control::message::{FromDirector, Role, ToDirector};
use crate::control::name::Name;
use crate::control::socket::{Listener, Received};
use crate::core::Write;
use crate::error::{Error, Fault, Status};
use crate::identity::Identity;
use crate::layout::WORK_CONTROL;
use crate::limits;
use crate::memory::named::Named;
use crate::memory::{Process, boot_id, is_closed_at_once, pid_namespace_inode};
use crate::waiting::now_ns;

/// Peers other than workers that are heard before the workers are again: when a director is new, all wait for those.
const OTHERS: usize = 8;
/// Messages read from one peer before the next has its turn.
const BUDGET: usize = 16;
/// Messages that may wait for a worker that is slow to read: one for each session, and some. An inspection, which may
/// be longer, is one answer; while it is not read nothing else is asked.
const UNSENT_MAX: usize = limits::SESSIONS_MAX + 64;
/// Peers whose clocks differ more are in another time namespace, where deadlines mean something else.
const CLOCKS_DIFFER_NS: u64 = 10_000_000_000;
/// How long a connection may take to say Hello.
const SILENT_NS: u64 = 5_000_000_000;
/// How often a listener that had no descriptor left tries again.
const RETRY_MS: u16 = 200;

const LISTENER: u64 = 0;
const QUEUE: u64 = 1;
const FIRST_CONNECTION: u64 = 2;

/// The control thread.
pub struct Control {
    link: Arc<Link>,
    folder: RuntimeFolder,
    credentials: Credentials,
    /// Ledgers of an earlier director.
    estate: Estate,
    /// Segments of workers that came back and died, by id: they may still be asked for.
    kept: HashMap<u64, Named>,
    /// Until then those who were attached to it may come back.
    until_ns: u64,
    /// `None` once the director stops.
    listener: Option<Listener>,
    /// It has been given to another director.
    is_replaced: bool,
    /// No descriptor was left for a new connection.
    exhausted: bool,
    epoll: Epoll,
    peers: HashMap<Connection, Peer>,
    /// Those of them whose turn it will be, in their order.
    others: VecDeque<Connection>,
    /// Connections that have not said Hello, the oldest first.
    silent: VecDeque<Silent>,
    closer: Closer,
    /// Keys that are names.
    names: Names,
    /// Who has how much.
    accounts: Accounts,
    /// The quotas, where the policy says nothing.
    quotas: Quotas,
    /// Where the rules come from, if not from here.
    policy: Option<Arc<ReadRules>>,
    access: Arc<Access>,
    /// Whether other users can reach the socket; `None`: as an earlier director left it.
    open_to_others: Option<bool>,
    /// In whose name the rules' own keys are kept: one of two, so that the old ones stay until new ones are there.
    keys_of_rules: Connection,
    next_connection: Connection,
    next_session: u64,
    last_worker: u32,
    boot: [u64; 2],
    pid_namespace: u64,
    uid: u32,
}

impl Control {
    /// Takes the bus: sweeps what a killed director left, and listens.
    ///
    /// Returns what there is to settle, too: `window_ns` is how long those who were attached may take to come back.
    /// `listener` is the earlier director's, where that one has handed it over.
    pub fn new(
        link: Arc<Link>,
        folder: RuntimeFolder,
        window_ns: u64,
        listener: Option<Listener>,
        quotas: Quotas,
        policy: (Option<Arc<ReadRules>>, &Rules),
    ) -> Result<(Self, Inherited), Error> {
        let (policy, rules) = policy;
        let mut estate = earlier::find(&folder.stale_links()?, folder.bus_id(), &segment_prefix(&folder))?;
        // The first director of a bus has nobody to wait for.
        let until_ns = if folder.epoch() > 1 { now_ns() + window_ns } else { 0 };
        let ledgers = estate.ledgers.iter_mut().map(|ledger| {
            let life = std::mem::replace(&mut ledger.life, Life::Unknown);
            let (is_dead, pidfd) = match life {
                Life::Lives(pidfd) => (false, Some(pidfd)),
                Life::Dead => (true, None),
                Life::Unknown => (false, None),
            };
            let (worker, holds) = (ledger.worker, ledger.holds);
            InheritedLedger { worker, entries: ledger.entries.clone(), holds, is_dead, pidfd }
        });
        let inherited =
            Inherited { ledgers: ledgers.collect(), is_incomplete: !estate.unreadable.is_empty(), until_ns };
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(Error::system("making an epoll"))?;
        let handed_over = listener.is_some();
        let listener = listener.map_or_else(|| folder.bind(), Ok)?;
        watch(&epoll, &listener, EpollFlags::EPOLLIN, LISTENER)?;
        watch(&epoll, link.to_control.bell(), EpollFlags::EPOLLIN | EpollFlags::EPOLLET, QUEUE)?;
        let uid = nix::unistd::geteuid().as_raw();
        let mut control = Control {
            estate,
            kept: HashMap::new(),
            until_ns,
            credentials: folder.credentials(),
            listener: Some(listener),
            is_replaced: false,
            exhausted: false,
            peers: HashMap::new(),
            others: VecDeque::new(),
            silent: VecDeque::new(),
            closer: Closer::default(),
            names: Names::new(hash_of(folder.name_hasher())),
            policy,
            access: Arc::new(Access::none(uid)),
            open_to_others: if handed_over { None } else { Some(false) },
            keys_of_rules: Connection::MAX,
            next_connection: FIRST_CONNECTION,
            // Above all that an earlier director gave.
            next_session: (folder.epoch() << 32) + 1,
            // Somewhere else than an earlier director began, so that ids of workers that went are not soon given again.
            last_worker: (folder.epoch() << 16) as u32,
            boot: boot_id()?,
            pid_namespace: pid_namespace_inode()?,
            quotas,
            accounts: Accounts::new(quotas, uid),
            uid,
            epoll,
            link,
            folder,
        };
        control.install(rules).map_err(Error::Policy)?;
        Ok((control, inherited))
    }

    /// Puts rules in force: for whoever comes, and, in the data thread's next turns, for whoever is here.
    fn install(&mut self, rules: &Rules) -> Result<(), String> {
        let keys = if self.keys_of_rules == Connection::MAX { Connection::MAX - 1 } else { Connection::MAX };
        let names = &mut self.names;
        let word = |text: &str| {
            let name = Name::new("key", text).map_err(|e| e.to_string())?;
            names.key(keys, &name).map_err(|status| format!("the key {text:?}: {}", status.text()))
        };
        let access = match Access::new(rules, self.uid, word) {
            Ok(access) => Arc::new(access),
            Err(why) => {
                self.names.forget(keys);
                return Err(why);
            }
        };
        self.names.forget(std::mem::replace(&mut self.keys_of_rules, keys));
        let open = access.admits_others();
        if self.open_to_others != Some(open) {
            self.folder.open_to_others(open).map_err(|e| e.to_string())?;
            self.open_to_others = Some(open);
        }
        self.access = access.clone();
        self.link.to_data.push(ToData::Access(access));
        let quotas = rules.quotas.over(self.quotas);
        self.accounts.set_quotas(quotas);
        self.link.to_data.push(ToData::Quotas(quotas));
        Ok(())
    }

    /// Reads the policy anew. What is refused changes nothing.
    fn reload(&mut self) -> Result<(), String> {
        let Some(read) = &self.policy else {
            return Err("this director has no policy to read: start it with one".into());
        };
        let installed = read().and_then(|rules| self.install(&rules));
        match &installed {
            Ok(()) => tracing::info!("a new policy is in force"),
            Err(why) => tracing::error!("the policy is refused, and the old one stays in force: {why}"),
        }
        installed
    }

    /// Runs until the data thread has ended, then leaves nothing behind.
    pub fn run(mut self) -> Result<(), Error> {
        let mut events = [EpollEvent::empty(); 64];
        loop {
            let timeout = if self.others.is_empty() { self.timeout() } else { EpollTimeout::ZERO };
            // An interrupted wait found nothing, and is done again.
            let ready = self.epoll.wait(&mut events, timeout).unwrap_or(0);
            if self.exhausted {
                self.accept();
            }
            for event in &events[..ready] {
                match event.data() {
                    LISTENER => self.accept(),
                    QUEUE => {}
                    connection => self.note_event(connection, event.events()),
                }
            }
            for _ in 0..OTHERS {
                let Some(connection) = self.others.pop_front() else { break };
                let Some(peer) = self.peers.get_mut(&connection) else { continue };
                let events = std::mem::replace(&mut peer.events, EpollFlags::empty());
                self.serve(connection, events);
            }
            self.close_silent();
            while let Some(message) = self.link.to_control.pop() {
                if matches!(message, ToControl::Finished) {
                    return if self.is_replaced { self.hand_over() } else { self.finish() };
                }
                self.obey(message);
            }
        }
    }

    /// Whoever has something to say waits for his turn; but a worker that may be coming back, and that all wait for, is
    /// heard at once.
    fn note_event(&mut self, connection: Connection, events: EpollFlags) {
        let Some(peer) = self.peers.get_mut(&connection) else { return };
        match peer.stage {
            Stage::Greeted(Role::Worker) | Stage::Worker(_) if now_ns() < self.until_ns => {
                self.serve(connection, events);
            }
            _ => {
                if peer.events.is_empty() {
                    self.others.push_back(connection);
                }
                peer.events |= events;
            }
        }
    }

    /// When it is to look though nothing has come.
    fn timeout(&self) -> EpollTimeout {
        let silent_ms = self.silent.front().map(|s| s.until_ns.saturating_sub(now_ns()).div_ceil(1_000_000));
        let silent_ms = silent_ms.map(|ms| ms.min(SILENT_NS / 1_000_000) as u16);
        let retry_ms = self.exhausted.then_some(RETRY_MS);
        silent_ms.into_iter().chain(retry_ms).min().map_or(EpollTimeout::NONE, EpollTimeout::from)
    }

    /// Says goodbye to everybody and removes everything.
    fn finish(mut self) -> Result<(), Error> {
        self.listener = None;
        for (_, peer) in self.peers.drain() {
            if let Some(channel) = &peer.channel {
                // Whoever doesn't read it sees the socket close.
                let _ = channel.send_message(&FromDirector::Closing, &[]);
            }
            if let Stage::Worker(segment) = peer.stage
                && let Err(error) = segment.named.unlink()
            {
                // The rest goes all the same.
                tracing::warn!(%error, "a worker's segment could not be removed");
            }
        }
        for (_, named) in self.kept.drain() {
            named.unlink()?;
        }
        self.forget_ledgers(|_| true);
        self.folder.clean()
    }

    /// Another director asks for the bus. It gets the socket at once; then this one ends as if it were killed, but
    /// between two turns.
    fn replace(&mut self, from: Connection) -> Result<(), Trouble> {
        let Some(peer) = self.peers.get(&from) else { return Ok(()) };
        let uid = peer.process.identity.uid;
        if uid != self.uid && uid != 0 {
            let message = format!("this director is uid {}'s, and you are uid {uid}", self.uid);
            return Err(Trouble::Refused(Status::PermissionDenied, message));
        }
        let (Some(listener), Some(channel)) = (&self.listener, &peer.channel) else {
            return Err(Trouble::Refused(Status::Busy, "this director stops already".into()));
        };
        let sent = channel.send_message(&FromDirector::HandOver, &[listener.as_fd()]);
        sent.map_err(Error::io("handing the socket over"))?;
        tracing::info!(pid = peer.process.identity.pid, "replaced by another director");
        let _ = self.epoll.delete(listener);
        (self.listener, self.is_replaced, self.exhausted) = (None, true, false);
        self.pass_on(ToData::HandOver)
    }

    /// Leaves the bus to the next director. The data thread has stopped, so nobody stores any more: the lock goes
    /// first, and that director reads the ledgers while sockets are closed here; the workers' before the others,
    /// since all wait for those.
    fn hand_over(self) -> Result<(), Error> {
        let Control { folder, mut peers, .. } = self;
        drop(folder);
        peers.retain(|_, peer| !matches!(peer.stage, Stage::Worker(_)));
        drop(peers);
        Ok(())
    }

    /// Removes inherited ledgers that nobody will ask for any more. Those that can't be read go with the last.
    fn forget_ledgers(&mut self, which: impl Fn(u64) -> bool) {
        let (gone, kept) =
            std::mem::take(&mut self.estate.ledgers).into_iter().partition(|l| which(l.worker));
        self.estate.ledgers = kept;
        for ledger in gone as Vec<Inheritance> {
            if let Err(error) = ledger.forget() {
                tracing::warn!(%error, "an inherited ledger could not be removed");
            }
        }
        if self.estate.ledgers.is_empty() {
            for link in self.estate.unreadable.drain(..) {
                let _ = std::fs::remove_file(link);
            }
        }
    }

    /// What a peer says, and whether it reads.
    fn serve(&mut self, connection: Connection, events: EpollFlags) {
        if events.intersects(EpollFlags::EPOLLOUT | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
            self.send_unsent(connection);
        }
        self.hear(connection, BUDGET);
    }

    /// Reads so many of its messages.
    fn hear(&mut self, connection: Connection, messages: usize) {
        for _ in 0..messages {
            let Some(peer) = self.peers.get(&connection) else { return };
            // Whoever doesn't read the answers asks no more questions.
            let Some(channel) = peer.channel.as_ref().filter(|_| peer.unsent.is_empty()) else { return };
            if self.link.to_data.is_full() {
                return; // nor does anybody, faster than the data thread can answer; the rest stands in the socket
            }
            let outcome = match channel.receive_message::<ToDirector>() {
                Ok(Received::Nothing) => return,
                Ok(Received::Message(message, descriptors)) => self.take(connection, message, descriptors),
                Ok(Received::Short(_, error)) => Err(Trouble::Own(error)),
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
        // Such as may take their time to close are closed elsewhere, whatever becomes of this message.
        if let Some(channel) = &peer.channel {
            for stray in descriptors.iter().filter(|fd| !is_closed_at_once(fd)) {
                channel.keep(vec![stray.try_clone().map_err(Error::io("duplicating a descriptor"))?]);
            }
        }
        match (&peer.stage, message) {
            (Stage::Connected, ToDirector::Hello { protocol, role, monotonic_ns, .. }) => {
                self.greet(from, protocol, role, monotonic_ns)
            }
            (
                Stage::Greeted(Role::Client),
                ToDirector::OpenSession { session, credential, published, settled, shape },
            ) => self.open_session(
                from,
                (session, credential),
                Domain::of_uid(self.uid),
                (published, settled),
                shape,
                descriptors,
            ),
            (
                Stage::Greeted(Role::Client),
                ToDirector::OpenSessionIn { session, credential, published, settled, shape, domain },
            ) => self.open_session(
                from,
                (session, credential),
                domain,
                (published, settled),
                shape,
                descriptors,
            ),
            (
                Stage::Greeted(Role::Worker),
                ToDirector::OpenWorker { worker, credential, taken, holds, shape },
            ) => self.open_worker(from, (worker, credential), (taken, holds), shape, descriptors),
            (Stage::Session(_) | Stage::Worker(..), ToDirector::Republished) => {
                self.pass_on(ToData::Republished(from))
            }
            (Stage::Greeted(Role::Monitor), ToDirector::Inspect) => self.pass_on(ToData::Inspect(from)),
            (
                Stage::Greeted(Role::Monitor),
                ToDirector::Explain { uid, gid, groups, service, operation, key },
            ) => {
                // Their bounds were checked when the message was read.
                let groups = groups.into_iter().map(|group| group as u32).collect();
                let asked = Asked { uid, gid, groups, service, operation, key };
                self.pass_on(ToData::Explain(from, Box::new(asked)))
            }
            (Stage::Greeted(Role::Monitor), ToDirector::Reload) => {
                match self.reload() {
                    // Who hears of them is held to them: so the data thread says when they are in force.
                    Ok(()) => self.link.to_data.push(ToData::Reloaded(from)),
                    Err(message) => {
                        self.send(from, FromDirector::Reloaded { applied: false, message }, Vec::new());
                    }
                }
                Ok(())
            }
            (Stage::Session(_), ToDirector::OpenRoute { route, service, operation }) => {
                self.pass_on(ToData::OpenRoute { from, route, service, operation })
            }
            (Stage::Worker(..), ToDirector::Provide { service, first, operations }) => {
                self.pass_on(ToData::Provide { from, service, first, operations })
            }
            (Stage::Worker(..), ToDirector::Withdraw { service }) => {
                self.pass_on(ToData::Withdraw { from, service })
            }
            (Stage::Worker(..), ToDirector::SessionMapped { index, accepted }) => {
                self.pass_on(ToData::SessionMapped { from, index, accepted })
            }
            (Stage::Worker(..), ToDirector::SessionUnmapped { index }) => {
                self.pass_on(ToData::SessionUnmapped { from, index })
            }
            (
                Stage::Session(_) | Stage::Worker(..) | Stage::Greeted(Role::Monitor),
                ToDirector::NameKey { name },
            ) => {
                let (status, word) = match self.names.key(from, &name) {
                    Ok(word) => (Status::Ok, word),
                    Err(status) => (status, 0),
                };
                self.send(from, FromDirector::KeyNamed { status, word }, Vec::new());
                Ok(())
            }
            (Stage::Worker(..), ToDirector::Register { service, first, operations, options }) => {
                self.pass_on(ToData::Register { from, service, first, operations, options })
            }
            (Stage::Worker(..), ToDirector::Change { service, changes }) => {
                self.pass_on(ToData::Change { from, service, changes })
            }
            (Stage::Worker(..), ToDirector::Yielded { service, resource }) => {
                self.pass_on(ToData::Yielded { from, service, resource })
            }
            (Stage::Worker(..), ToDirector::Drain { worker: 0 }) => {
                self.pass_on(ToData::Drain { from, worker: 0 })
            }
            (Stage::Greeted(Role::Monitor), ToDirector::Replace) => self.replace(from),
            (Stage::Greeted(Role::Monitor), ToDirector::Drain { worker: worker @ 1.. }) => {
                self.pass_on(ToData::Drain { from, worker })
            }
            (Stage::Worker(..), ToDirector::Leave { .. }) => self.pass_on(ToData::Leave(from)),
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
        let uid = self.peers.get(&from).map_or(u32::MAX, |peer| peer.process.identity.uid);
        if role == Role::Monitor && !self.access.is_own(uid) {
            let message = format!("to look at this bus, and to manage it, is for uid {} and root", self.uid);
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
        self.silent.retain(|s| s.connection != from);
        self.send(from, welcome, Vec::new());
        Ok(())
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
                let Some(Peer { stage: Stage::Worker(segment), .. }) = self.peers.get(&to) else { return };
                match segment.named.read_only_fd() {
                    Ok(work) => self.send(to, message, vec![work, own]),
                    Err(error) => self.end(to, Trouble::Own(error)),
                }
            }
            ToControl::MapSession { to, index, session } => self.map_session(to, index, session),
            ToControl::Inspected(to, rows) => {
                self.send_all(to, rows.into_iter().map(|row| (row, Vec::new())))
            }
            // What is refused has been logged.
            ToControl::Reload => _ = self.reload(),
            ToControl::Disconnect(connection) => self.close(connection),
            ToControl::Forget(connection) => {
                self.close(connection);
                if let Some(Peer { stage: Stage::Worker(segment), .. }) = self.remove_peer(connection)
                    && let Err(error) = segment.named.unlink()
                {
                    tracing::warn!(%error, "a worker's segment could not be removed");
                }
            }
            ToControl::KeepLedger(connection, worker) => self.keep_ledger(connection, worker),
            ToControl::SettledAll => self.folder.settle(),
            ToControl::ForgetLedger(worker) => {
                if let Some(Err(error)) = self.kept.remove(&worker).map(Named::unlink) {
                    tracing::warn!(%error, "a dead worker's ledger could not be removed");
                }
                self.forget_ledgers(|w| w == worker);
            }
            ToControl::Finished => {}
        }
    }

    fn keep_ledger(&mut self, connection: Connection, worker: u64) {
        let Some(peer) = self.peers.get_mut(&connection) else { return };
        match std::mem::replace(&mut peer.stage, Stage::Greeted(Role::Worker)) {
            Stage::Worker(segment) => _ = self.kept.insert(worker, segment.named),
            other => peer.stage = other,
        }
    }

    /// Gives a worker what it needs to answer a session: that is the permission to.
    fn map_session(&mut self, to: Connection, index: u16, session: Connection) {
        let Some(Peer { stage: Stage::Session(s), process, .. }) = self.peers.get(&session) else { return };
        let Identity { uid, gid, pid } = process.identity;
        let message = FromDirector::MapSession { index, session: s.id, shape: s.shape, uid, gid, pid };
        let copy = |fd: &OwnedFd| fd.try_clone().map_err(Error::io("duplicating a descriptor"));
        let copies = [copy(&s.outbox), copy(&s.inbox), s.client.try_clone_fd()];
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
        self.send_all(to, [(message, descriptors)]);
    }

    /// The same for an answer of several messages.
    fn send_all(&mut self, to: Connection, answer: impl IntoIterator<Item = (FromDirector, Vec<OwnedFd>)>) {
        let Some(peer) = self.peers.get_mut(&to) else { return };
        if peer.channel.is_none() {
            return;
        }
        if peer.unsent.len() >= UNSENT_MAX {
            return self.end(to, Trouble::Refused(Status::Busy, "you don't read your messages".into()));
        }
        let was_empty = peer.unsent.is_empty();
        peer.unsent.extend(answer);
        if was_empty {
            self.send_unsent(to);
        }
    }

    fn send_unsent(&mut self, to: Connection) {
        let Some(peer) = self.peers.get_mut(&to) else { return };
        let Some(channel) = &peer.channel else { return };
        while let Some((message, descriptors)) = peer.unsent.front() {
            let borrowed: Vec<BorrowedFd> = descriptors.iter().map(AsFd::as_fd).collect();
            match channel.send_message(message, &borrowed) {
                Ok(()) => {
                    peer.unsent.pop_front();
                    if let Stage::Worker(segment) = &mut peer.stage {
                        // Once the message can be read, so that a worker that looks for it finds it.
                        segment.sent += 1;
                        let memory = segment.named.mem();
                        memory.release();
                        memory.store(WORK_CONTROL, segment.sent);
                    }
                }
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                    if !std::mem::replace(&mut peer.blocked, true) {
                        let mut event = EpollEvent::new(EpollFlags::EPOLLOUT, to);
                        let _ = self.epoll.modify(channel, &mut event);
                    }
                    return;
                }
                Err(_) => return self.end(to, Trouble::Gone),
            }
        }
        if std::mem::take(&mut peer.blocked) {
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
                self.link.faults.report(peer.process.identity, &fault);
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
            self.closer.close(peer.process.identity.uid, channel);
        }
        peer.unsent.clear();
        if matches!(peer.stage, Stage::Connected) {
            self.silent.retain(|s| s.connection != connection);
        }
        self.names.forget(connection);
        if peer.attached {
            self.link.to_data.push(ToData::Closed(connection));
        } else {
            self.remove_peer(connection);
        }
    }

    /// Forgets a peer: nobody maps what it brought any more, and its user and process have their quota back.
    fn remove_peer(&mut self, connection: Connection) -> Option<Peer> {
        let peer = self.peers.remove(&connection)?;
        peer.charges.iter().for_each(|charge| self.accounts.refund(charge));
        Some(peer)
    }
}

fn asker(process: &Process) -> Asker<'_> {
    let Identity { uid, gid, .. } = process.identity;
    Asker { uid, gid, groups: &process.groups }
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
