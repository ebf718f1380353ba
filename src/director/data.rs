//! The data thread: the director's core in its loop.
//!
//! It touches rings, doorbells and pidfds, and the queue from and to the control thread. While sessions are hot it
//! looks into its epoll every 20 µs without waiting, for those that are cold.

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use super::core::{DirectorCore, Effects, Peer, Settings, Told};
use super::explain::Question;
use super::link::{Asked, Connection, Inherited, Link, NewSession, NewWorker, ToControl, ToData, TooLate};
use crate::access::Asker;
use crate::control::message::FromDirector;
use crate::control::name::Name;
use crate::core::{Os, Party, Turn, block_on};
use crate::error::{Error, Fault, Status};
use crate::limits;
use crate::memory::Doorbell;
use crate::memory::Mapped;
use crate::waiting::{Waiter, Waiting, coarse_ns, now_ns};

/// How often a busy director looks for doorbells and deaths.
const GLANCE_NS: u64 = 20_000;
/// How long a worker whose socket is closed may take to die before its calls end by verdict.
const GRACE_NS: u64 = 1_000_000_000;
/// How long a stopping director waits for what workers have begun.
const DRAIN_NS: u64 = 5_000_000_000;
/// Doorbells and deaths that one look into the epoll returns.
const EVENTS: usize = 256;
/// Messages worked through in one turn. The longest, a change of 128 resources, takes some ten microseconds.
const MESSAGES: usize = 8;

/// Tokens of the epoll: a kind, and a key or a connection.
mod token {
    pub const QUEUE: u64 = 0;
    pub const SESSION_RINGS: u64 = 1 << 56;
    pub const WORKER_RINGS: u64 = 2 << 56;
    pub const WORKER_DIED: u64 = 3 << 56;
    /// A worker whose ledger was inherited: by its place in the list.
    pub const INHERITED_DIED: u64 = 4 << 56;
    pub const CLIENT_DIED: u64 = 5 << 56;
    pub const KIND: u64 = 0xff << 56;
}

/// The doorbells and descriptors of somebody who is attached.
struct Attached {
    connection: Connection,
    theirs: Arc<Doorbell>,
    own: Doorbell,
    pidfd: Option<Arc<OwnedFd>>,
}

/// The shell's side of the core: what it asks for, done or noted.
struct Shell {
    link: Arc<Link>,
    waiter: Rc<RefCell<Waiter>>,
    sessions: HashMap<usize, Attached>,
    workers: HashMap<usize, Attached>,
    peers: HashMap<Connection, Peer>,
    /// Who broke the protocol in this turn.
    faulty: Vec<(Peer, Fault)>,
}

impl Shell {
    fn attached(&self, peer: Peer) -> Option<&Attached> {
        match peer {
            Peer::Session(key) => self.sessions.get(&key),
            Peer::Worker(key) => self.workers.get(&key),
        }
    }

    fn send(&self, message: ToControl) {
        self.link.to_control.push(message);
    }
}

impl Effects for Shell {
    fn ring(&mut self, peer: Peer) {
        if let Some(attached) = self.attached(peer) {
            attached.theirs.ring();
        }
    }

    fn map_session(&mut self, worker: usize, index: u16, session: usize) {
        if let (Some(worker), Some(session)) = (self.workers.get(&worker), self.sessions.get(&session)) {
            let (to, session) = (worker.connection, session.connection);
            self.send(ToControl::MapSession { to, index, session });
        }
    }

    fn unmap_session(&mut self, worker: usize, index: u16) {
        if let Some(worker) = self.workers.get(&worker) {
            self.send(ToControl::Send(worker.connection, FromDirector::UnmapSession { index }));
        }
    }

    fn fault(&mut self, peer: Peer, fault: Fault) {
        self.faulty.push((peer, fault));
    }

    fn forget(&mut self, peer: Peer) {
        let gone = match peer {
            Peer::Session(key) => self.sessions.remove(&key),
            Peer::Worker(key) => self.workers.remove(&key),
        };
        let Some(gone) = gone else { return };
        let waiter = self.waiter.borrow();
        waiter.remove_doorbell(&gone.own);
        if let Some(pidfd) = &gone.pidfd {
            waiter.remove(pidfd);
        }
        self.peers.remove(&gone.connection);
        self.send(ToControl::Forget(gone.connection));
    }

    fn keep_ledger(&mut self, worker: usize, id: u64) {
        if let Some(attached) = self.workers.get(&worker) {
            self.send(ToControl::KeepLedger(attached.connection, id));
        }
    }

    fn settled_all(&mut self) {
        self.send(ToControl::SettledAll);
    }

    fn forget_ledger(&mut self, worker: u64) {
        self.send(ToControl::ForgetLedger(worker));
    }

    fn clock_ns(&mut self) -> u64 {
        now_ns()
    }

    fn tell(&mut self, worker: usize, told: Told<'_>) {
        let Some(attached) = self.workers.get(&worker) else { return };
        // A service that a worker provides has a name.
        let name = |service| Name::new("service", service).ok();
        let message = match told {
            Told::Granted { sequence, service, resource } => {
                name(service).map(|service| FromDirector::Granted { sequence, service, resource })
            }
            Told::Recalled { sequence, service, resource, before } => {
                name(service).map(|service| FromDirector::Recalled { sequence, service, resource, before })
            }
            Told::Drain { sequence, before } => Some(FromDirector::Draining { sequence, before }),
        };
        if let Some(message) = message {
            self.send(ToControl::Send(attached.connection, message));
        }
    }
}

/// The data thread's loop, as the party that is driven.
pub struct Data {
    core: DirectorCore<Mapped>,
    shell: Shell,
    /// Workers whose socket is closed, and when their calls end by verdict.
    graces: Vec<(u64, Connection)>,
    /// Workers that an earlier director had, and that may be dead one day.
    awaited: Vec<(u64, Option<OwnedFd>)>,
    /// Who is to hear that new rules are in force.
    reloaded: Vec<Connection>,
    stop_at_ns: u64,
    /// Another director takes over.
    is_replaced: bool,
    looked_ns: u64,
}

impl Data {
    /// Runs until it is stopped, and has drained. What is returned does nothing more, and stores nowhere: it keeps
    /// everybody's memory mapped.
    pub fn run(
        link: Arc<Link>,
        settings: Settings,
        waiting: Waiting,
        inherited: Inherited,
    ) -> Result<Data, Error> {
        let waiter = Waiter::new(waiting, EVENTS)?;
        waiter.add_doorbell(link.to_data.bell(), token::QUEUE)?;
        let waiter = Rc::new(RefCell::new(waiter));
        let shell = Shell {
            link,
            waiter: waiter.clone(),
            sessions: HashMap::new(),
            workers: HashMap::new(),
            peers: HashMap::new(),
            faulty: Vec::new(),
        };
        let core = DirectorCore::new(settings);
        let (graces, awaited, stop_at_ns) = (Vec::new(), Vec::new(), u64::MAX);
        let is_replaced = false;
        let reloaded = Vec::new();
        let mut data = Data { core, shell, graces, awaited, reloaded, stop_at_ns, is_replaced, looked_ns: 0 };
        data.inherit(inherited)?;
        block_on(&mut data, &mut Glancing { waiter, glanced_ns: 0 });
        Ok(data)
    }

    fn inherit(&mut self, inherited: Inherited) -> Result<(), Error> {
        for ledger in inherited.ledgers {
            self.core.inherit(ledger.worker, &ledger.entries, ledger.is_dead);
            self.core.inherit_rights(ledger.worker, ledger.holds);
            if let Some(pidfd) = &ledger.pidfd {
                let token = token::INHERITED_DIED | self.awaited.len() as u64;
                self.shell.waiter.borrow().add_socket(pidfd, token)?;
            }
            self.awaited.push((ledger.worker, ledger.pidfd));
        }
        if inherited.is_incomplete {
            self.core.inherit_unreadable();
        }
        if inherited.until_ns > 0 {
            self.core.open_window(inherited.until_ns);
        }
        Ok(())
    }

    fn inherited_died(&mut self, place: usize) {
        let Some((worker, pidfd)) = self.awaited.get_mut(place) else { return };
        if let Some(pidfd) = pidfd.take() {
            self.shell.waiter.borrow().remove(&pidfd);
            self.core.inherited_dead(*worker, &mut self.shell);
        }
    }

    /// What the last look into the epoll found.
    fn take_events(&mut self) -> bool {
        let mut found = false;
        loop {
            let Some(event) = self.shell.waiter.borrow_mut().take_ready() else { return found };
            found = true;
            let key = (event & !token::KIND) as usize;
            match event & token::KIND {
                token::SESSION_RINGS => self.core.heat(key),
                token::WORKER_DIED => self.core.worker_dead(key, &mut self.shell),
                token::INHERITED_DIED => self.inherited_died(key),
                token::CLIENT_DIED => self.client_died(key),
                _ => {} // the queue and the workers' progress are looked at in every turn
            }
        }
    }

    fn take_messages(&mut self, now_ns: u64) -> bool {
        for n in 0..MESSAGES {
            let Some(message) = self.shell.link.to_data.pop() else { return n > 0 };
            self.take_message(message, now_ns);
        }
        true
    }

    fn take_message(&mut self, message: ToData, now_ns: u64) {
        match message {
            ToData::Session(from, new) => self.attach_session(from, *new),
            ToData::Worker(from, new) => self.attach_worker(from, *new),
            ToData::Closed(from) => self.closed(from, now_ns),
            ToData::Inspect(from) => self.inspect(from, now_ns),
            ToData::Explain(from, asked) => self.explain(from, &asked, now_ns),
            ToData::Access(access) => self.core.set_access(access),
            ToData::Reloaded(from) => self.reloaded.push(from),
            ToData::Denied(denial) => self.core.count_denial(denial),
            ToData::Stop => self.stop(now_ns),
            ToData::HandOver => self.is_replaced = true,
            ToData::Quotas(quotas) => self.core.set_quotas(quotas),
            ToData::TooLate(late) => {
                let TooLate { worker, taken, holds, page, shape } = *late;
                self.core.too_late(worker, taken, holds, (page, shape), &mut self.shell);
            }
            ToData::Drain { from, worker: id @ 1.. } => self.drain_for(from, id),
            ToData::OpenRoute { from, .. }
            | ToData::Provide { from, .. }
            | ToData::Withdraw { from, .. }
            | ToData::Register { from, .. }
            | ToData::Change { from, .. }
            | ToData::Yielded { from, .. }
            | ToData::Drain { from, worker: 0 }
            | ToData::SessionMapped { from, .. }
            | ToData::SessionUnmapped { from, .. }
            | ToData::Republished(from)
            | ToData::Leave(from) => match self.shell.peers.get(&from) {
                Some(&Peer::Session(key)) => self.take_from_session(key, message, now_ns),
                Some(&Peer::Worker(key)) => self.take_from_worker(key, message),
                None => {}
            },
        }
    }

    fn take_from_session(&mut self, key: usize, message: ToData, now_ns: u64) {
        if let ToData::Republished(_) = message {
            return self.core.republished(key, now_ns, &mut self.shell);
        }
        let ToData::OpenRoute { from, route, service, operation } = message else { return };
        let (service, operation) = (service.as_str(), operation.as_str());
        if let Some(domain) = self.core.elsewhere(key, service, operation) {
            return self.shell.send(ToControl::Send(from, FromDirector::RouteElsewhere { route, domain }));
        }
        let status = self.core.open_route(key, route, service, operation, &mut self.shell);
        let message = match status {
            Status::NoSuchService => format!("no worker provides a service {service:?}"),
            Status::NoSuchOperation => format!("the service {service:?} has no operation {operation:?}"),
            Status::Fault => format!("the session's route {route} leads elsewhere already"),
            Status::PermissionDenied | Status::Busy => self.core.last_refusal().into(),
            _ => String::new(),
        };
        self.shell.send(ToControl::Send(from, FromDirector::RouteOpened { route, status, message }));
    }

    fn take_from_worker(&mut self, key: usize, message: ToData) {
        match message {
            ToData::Provide { from, service, first, operations } => {
                let names: Vec<&str> = operations.iter().map(|name| name.as_str()).collect();
                let status = self.core.provide(key, service.as_str(), first, &names);
                self.provided(from, status);
            }
            ToData::Withdraw { from, service } => {
                let status = self.core.withdraw(key, service.as_str(), &mut self.shell);
                self.provided(from, status);
            }
            ToData::Register { from, service, first, operations, options } => {
                let names: Vec<&str> = operations.iter().map(|name| name.as_str()).collect();
                let status = self.core.provide_with(key, service.as_str(), first, &names, &options);
                self.provided(from, status);
            }
            ToData::Change { from, service, changes } => {
                let status = self.core.change(key, service.as_str(), &changes, &mut self.shell);
                self.provided(from, status);
            }
            ToData::Yielded { service, resource, .. } => {
                self.core.yielded(key, service.as_str(), resource, &mut self.shell);
            }
            ToData::Drain { from, .. } => {
                let status = self.core.drain(key, &mut self.shell);
                self.provided(from, status);
            }
            ToData::SessionMapped { index, accepted, .. } => {
                self.core.session_mapped(key, index, accepted, &mut self.shell);
            }
            ToData::Republished(_) => self.core.provided_again(key, &mut self.shell),
            ToData::SessionUnmapped { index, .. } => self.core.session_unmapped(key, index, &mut self.shell),
            ToData::Leave(from) => {
                self.shell.send(ToControl::Send(from, FromDirector::Left));
                self.core.worker_dead(key, &mut self.shell);
            }
            _ => {}
        }
    }

    /// Answers a worker.
    fn provided(&mut self, to: Connection, status: Status) {
        let message = match status {
            Status::PermissionDenied | Status::Busy => self.core.last_refusal().into(),
            _ => String::new(),
        };
        self.shell.send(ToControl::Send(to, FromDirector::Provided { status, message }));
    }

    /// Somebody else than the worker itself wants it to drain.
    fn drain_for(&mut self, from: Connection, id: u64) {
        let (status, message) = match self.core.worker_with_id(id) {
            Some(key) => (self.core.drain(key, &mut self.shell), String::new()),
            None => (Status::NoWorker, format!("there is no worker {id}")),
        };
        self.shell.send(ToControl::Send(from, FromDirector::Provided { status, message }));
    }

    /// A client is dead. Its socket may be open in a child that it has forked, and that lives on.
    fn client_died(&mut self, key: usize) {
        let Some(session) = self.shell.sessions.get_mut(&key) else { return };
        if let Some(pidfd) = session.pidfd.take() {
            self.shell.waiter.borrow().remove(&pidfd);
            self.shell.link.to_control.push(ToControl::Disconnect(session.connection));
        }
    }

    fn attach_session(&mut self, from: Connection, new: NewSession) {
        let NewSession { id, credential, identity, groups, domain, shape, published, resumed, .. } = new;
        let NewSession { outbox, inbox, client, own, pidfd, .. } = new;
        let answer = own.try_clone_fd().map_err(|_| Status::Busy).and_then(|copy| {
            let key = if resumed {
                self.core.resume_session(id, identity, shape, published, outbox, inbox)
            } else {
                self.core.attach_session(id, identity, shape, published, outbox, inbox)
            }?;
            self.core.place_session(key, domain, groups);
            let waiter = self.shell.waiter.borrow();
            let added = waiter
                .add_doorbell(&own, token::SESSION_RINGS | key as u64)
                .and_then(|()| waiter.add_socket(&pidfd, token::CLIENT_DIED | key as u64));
            let attached = Attached { connection: from, theirs: client, own, pidfd: Some(pidfd) };
            self.shell.sessions.insert(key, attached);
            self.shell.peers.insert(from, Peer::Session(key));
            added.map_err(|_| Status::Busy)?;
            Ok(copy)
        });
        match answer {
            Ok(own) => self.shell.send(ToControl::SessionOpened { to: from, session: id, credential, own }),
            Err(Status::MayHaveRun) => self.refuse(from, Status::MayHaveRun, "it comes too late, or again"),
            Err(status) => self.refuse(from, status, "the director has no room for another session"),
        }
    }

    fn attach_worker(&mut self, from: Connection, new: NewWorker) {
        let NewWorker { id, credential, identity, groups, domain, shape, start, carried, .. } = new;
        let NewWorker { work, page, pidfd, worker, own, .. } = new;
        let answer = own.try_clone_fd().map_err(|_| Status::Busy).and_then(|copy| {
            let key = match &carried {
                Some(carried) => {
                    self.core.resume_worker(id, identity, shape, carried, (work, page), &mut self.shell)
                }
                None => self.core.attach_worker(id, identity, shape, start, work, page),
            }?;
            self.core.place_worker(key, domain, groups);
            let waiter = self.shell.waiter.borrow();
            let added = waiter
                .add_doorbell(&own, token::WORKER_RINGS | key as u64)
                .and_then(|()| waiter.add_socket(&pidfd, token::WORKER_DIED | key as u64));
            let attached = Attached { connection: from, theirs: Arc::new(worker), own, pidfd: Some(pidfd) };
            self.shell.workers.insert(key, attached);
            self.shell.peers.insert(from, Peer::Worker(key));
            added.map_err(|_| Status::Busy)?;
            Ok(copy)
        });
        match answer {
            Ok(own) => {
                self.shell.send(ToControl::WorkerOpened { to: from, worker: id, credential, start, own })
            }
            Err(status) => self.refuse(from, status, "the director has no room for another worker"),
        }
    }

    fn refuse(&mut self, to: Connection, status: Status, message: &str) {
        let refused = FromDirector::Refused { status, protocol: limits::PROTOCOL, message: message.into() };
        self.shell.send(ToControl::Send(to, refused));
        self.shell.send(ToControl::Disconnect(to));
    }

    /// A control socket is closed. A client's session is over then; a worker is given time to be dead.
    fn closed(&mut self, from: Connection, now_ns: u64) {
        match self.shell.peers.get(&from) {
            Some(&Peer::Session(key)) => self.core.session_gone(key, &mut self.shell),
            Some(&Peer::Worker(key)) => {
                self.core.worker_gone(key);
                self.graces.push((now_ns + GRACE_NS, from));
            }
            None => self.shell.send(ToControl::Forget(from)),
        }
    }

    fn end_graces(&mut self, now_ns: u64) {
        let core = &mut self.core;
        let shell = &mut self.shell;
        self.graces.retain(|&(at_ns, connection)| {
            let over = now_ns >= at_ns;
            // It may be dead by now, and its key another's.
            if over && let Some(&Peer::Worker(key)) = shell.peers.get(&connection) {
                core.end_by_verdict(key, shell);
            }
            !over
        });
    }

    fn end_faulty(&mut self, now_ns: u64) {
        for (peer, fault) in std::mem::take(&mut self.shell.faulty) {
            let Some(connection) = self.shell.attached(peer).map(|a| a.connection) else { continue };
            self.shell.link.faults.report(self.core.identity(peer), &fault);
            self.shell.send(ToControl::Disconnect(connection));
            self.closed(connection, now_ns);
        }
    }

    fn inspect(&mut self, from: Connection, now_ns: u64) {
        let mut inspection = self.core.inspect(now_ns);
        inspection.faults = self.shell.link.faults.total();
        self.shell.send(ToControl::Inspected(from, super::rows::rows(&inspection)));
    }

    fn explain(&mut self, from: Connection, asked: &Asked, now_ns: u64) {
        let Asked { uid, gid, groups, service, operation, key } = asked;
        let asker = Asker { uid: *uid, gid: *gid, groups };
        let (service, operation) = (service.as_str(), operation.as_str());
        let explanation = self.core.explain(&Question { asker, service, operation, key: *key }, now_ns);
        self.shell.send(ToControl::Inspected(from, super::rows::explanation(explanation)));
    }

    /// What was refused for a cause that nobody has seen yet.
    fn log_denials(&mut self) {
        for denial in self.core.take_denials() {
            tracing::warn!("denied: {denial}");
        }
    }

    /// No call that comes from now on is let through by the old ones.
    fn say_that_rules_are_in_force(&mut self) {
        for to in self.reloaded.drain(..) {
            let reloaded = FromDirector::Reloaded { applied: true, message: String::new() };
            self.shell.link.to_control.push(ToControl::Send(to, reloaded));
        }
    }

    fn stop(&mut self, now_ns: u64) {
        if self.stop_at_ns == u64::MAX {
            self.stop_at_ns = now_ns + DRAIN_NS;
            self.core.stop(&mut self.shell);
        }
    }
}

impl Party for Data {
    type Out = ();

    fn turn(&mut self, now_ns: u64) -> Turn<()> {
        let woken = self.take_events();
        let told = self.take_messages(now_ns);
        let turned = self.core.turn(now_ns, &mut self.shell);
        let busy = told || turned == Turn::Busy;
        if self.is_replaced {
            // What was taken is dispatched, and in its worker's ledger; or it waits, and is published again.
            return Turn::Done(());
        }
        if !self.shell.faulty.is_empty() {
            self.end_faulty(now_ns);
        }
        if !self.graces.is_empty() {
            self.end_graces(now_ns);
        }
        if self.core.has_denials() {
            self.log_denials();
        }
        if !self.reloaded.is_empty() && !self.core.is_rechecking_callers() {
            self.say_that_rules_are_in_force();
        }
        if self.stop_at_ns < u64::MAX && !busy && !woken && turned == Turn::Idle {
            let drained = self.core.in_flight(now_ns) == 0;
            if drained || now_ns >= self.stop_at_ns {
                return Turn::Done(());
            }
        }
        match turned {
            _ if busy => Turn::Busy,
            // All that it was woken for was looked at just now. But whoever rang does so once a sleep: this one is over.
            Turn::Idle if woken => Turn::Settled,
            turned => turned,
        }
    }

    fn park(&mut self) {
        self.core.park();
    }

    fn awake(&mut self) {
        self.core.awake();
        // A peer's word about whether it rang is not the last one: after a second asleep, look at everybody.
        let now_ns = coarse_ns();
        if now_ns.saturating_sub(self.looked_ns) > 900_000_000 {
            self.looked_ns = now_ns;
            self.core.look_at_everything();
        }
    }

    fn wake_at_ns(&self) -> u64 {
        let grace_ns = self.graces.iter().map(|&(at_ns, _)| at_ns).min().unwrap_or(u64::MAX);
        self.core.wake_at_ns().min(self.core.beats_at_ns()).min(grace_ns).min(self.stop_at_ns)
    }
}

/// A waiter that also looks into its epoll while it is busy.
struct Glancing {
    waiter: Rc<RefCell<Waiter>>,
    glanced_ns: u64,
}

impl Os for Glancing {
    #[inline]
    fn now_ns(&mut self) -> u64 {
        let mut waiter = self.waiter.borrow_mut();
        let now_ns = waiter.now_ns();
        if now_ns.saturating_sub(self.glanced_ns) > GLANCE_NS {
            self.glanced_ns = now_ns;
            waiter.glance();
        }
        now_ns
    }

    fn busy(&mut self) {
        self.waiter.borrow_mut().busy();
    }

    fn idle(&mut self) -> bool {
        self.waiter.borrow_mut().idle()
    }

    fn sleep(&mut self, until_ns: u64) {
        self.waiter.borrow_mut().sleep(until_ns);
    }
}
