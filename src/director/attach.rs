//! Who comes and who goes: sessions, workers, routes, services, and what a death leaves behind.
//!
//! Attaching is one path: a party presents memory that it owns, and gets a key. A session's memory is reached by
//! the workers that were told to map it; it is forgotten when all of them have unmapped it, or died.
//!
//! A worker's death is reported by the kernel *first*, and only then the stamps are read: so a reply that was
//! published before the death counts, and none can come after it.

use super::core::{DirectorCore, Effects, Peer};
use super::mapping::Asking;
use super::quota::{Charge, Counted};
use super::session::{Mapping, Passage, Session};
use super::worker::{Standing, Worker};
use crate::access::Verdict;
use crate::core::Memory;
use crate::error::Status;
use crate::identity::Identity;
use crate::layout::{POSITION_END, SessionShape, WorkShape, reply_flag};
use crate::limits;
use crate::resource::ServiceOptions;

impl<M: Memory> DirectorCore<M> {
    /// A session attaches. Its id was never another's. Its memory was checked. `published` is the position of its next
    /// request. It is polled at once, since it may have published already.
    pub fn attach_session(
        &mut self,
        id: u64,
        identity: Identity,
        shape: SessionShape,
        published: u64,
        outbox: M::Ro,
        inbox: M::Rw,
    ) -> Result<usize, Status> {
        if self.sessions.len() >= limits::SESSIONS_MAX {
            return Err(Status::Busy);
        }
        if published >= POSITION_END {
            return Err(Status::Fault);
        }
        let session = Session::new(id, identity, shape, published, self.settings.epoch, outbox, inbox);
        let key = self.sessions.insert(session);
        self.session_ids.insert(id, key);
        self.heat(key);
        Ok(key)
    }

    /// A session's number gets a meaning. Workers that provide the operation are told to map the session, so that its
    /// first call need not wait for it.
    pub fn open_route(
        &mut self,
        key: usize,
        number: u32,
        service: &str,
        operation: &str,
        fx: &mut impl Effects,
    ) -> Status {
        let Some(session) = self.sessions.get_mut(key) else { return Status::Fault };
        if number >= limits::ROUTES_MAX {
            self.refusal = format!("a route's number may be up to {}", limits::ROUTES_MAX - 1);
            return Status::Busy;
        }
        let opened = session.route(number).map(|route| route.operation);
        if opened.is_some_and(|opened| !self.table.leads_to(opened, service, operation)) {
            return Status::Fault;
        }
        let access = self.passage(key, service, operation);
        let denied = match &access {
            Passage::Guarded(Verdict::Always(decision)) => {
                self.deny_call(key, service, operation, decision.cause);
                true
            }
            _ => false,
        };
        let status = if denied { Status::PermissionDenied } else { Status::Ok };
        let Some(session) = self.sessions.get_mut(key) else { return Status::Fault };
        // One that came back has calls on it, which are to end truly; else who may not call is told nothing more.
        if opened.is_some() || (denied && !session.republishing) {
            // Asked again by one who has not heard the answer in time.
            return status;
        }
        let charge = Charge::new(session.identity.uid, session.identity.pid).and(Counted::Routes, 1);
        if session.republishing {
            self.accounts.charge_anyway(&charge);
        } else if let Err(exceeded) = self.accounts.charge(&charge) {
            self.refusal = exceeded.to_string();
            return Status::Busy;
        }
        let found = self.table.open_route(service, operation);
        let operation = match found {
            Ok(operation) => operation,
            // Its workers may not have come back yet: what is called meanwhile waits for them.
            Err(_) if session.republishing => self.table.expect_route(service, operation),
            Err(status) => {
                self.accounts.refund(&charge);
                return status;
            }
        };
        session.set_route(number, operation, access);
        // One that refused may have had no descriptor left: it is asked again.
        self.introduce(operation, key, None, &mut Asking::again(), fx);
        status
    }

    /// A session's client is gone: dead, or it closed its socket. What waits is dropped, workers are told.
    pub fn session_gone(&mut self, key: usize, fx: &mut impl Effects) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        session.retired = true;
        let (id, is_spent) = (session.id, session.calls > 0);
        self.recovery.session_gone((id, key), std::mem::take(&mut session.republishing), is_spent);
        for slot in session.waiting_slots() {
            self.drop_waiting(key, slot);
        }
        self.scatters.forget_session(key);
        let Identity { uid, pid, .. } = self.sessions[key].identity;
        for route in std::mem::take(&mut self.sessions[key].routes).into_iter().flatten() {
            self.accounts.refund(&Charge::new(uid, pid).and(Counted::Routes, 1));
            for turns in &mut self.table.operation_mut(route.operation).turns {
                turns.retain(|&(k, _)| k != key);
            }
            self.table.close_route(route.operation);
        }
        self.forget_backlog_without_turns();
        let session = &mut self.sessions[key];
        for (worker_key, _) in &self.workers {
            if let Mapping::Open(index) = session.mapping(worker_key) {
                session.set_mapping(worker_key, Mapping::Closing(index));
                fx.unmap_session(worker_key, index);
            }
        }
        self.forget_session_if_unmapped(key, fx);
    }

    pub(super) fn forget_session_if_unmapped(&mut self, key: usize, fx: &mut impl Effects) {
        if self.sessions.get(key).is_some_and(|s| s.retired && !s.is_mapped()) {
            self.forget_hot(key);
            let session = self.sessions.remove(key);
            self.session_ids.remove(&session.id);
            self.held.forget_session(key);
            fx.forget(Peer::Session(key));
        }
    }

    /// A worker attaches with fresh memory on both sides. Its id is nobody else's.
    pub fn attach_worker(
        &mut self,
        id: u64,
        identity: Identity,
        shape: WorkShape,
        start: u64,
        work: M::Rw,
        page: M::Ro,
    ) -> Result<usize, Status> {
        if self.workers.len() >= limits::WORKERS_MAX {
            return Err(Status::Busy);
        }
        let mut worker = Worker::new(id, identity, shape, start, self.settings.share_max, work, page);
        worker.set_first_stall(self.settings.stall_ns);
        Ok(self.workers.insert(worker))
    }

    /// A worker provides a service from now on.
    pub fn provide(&mut self, worker: usize, service: &str, first: u16, operations: &[&str]) -> Status {
        self.provide_with(worker, service, first, operations, &ServiceOptions::default())
    }

    /// The same, for some of the resources only, or with a policy for the service.
    pub fn provide_with(
        &mut self,
        worker: usize,
        service: &str,
        first: u16,
        operations: &[&str],
        options: &ServiceOptions,
    ) -> Status {
        if !self.workers.contains(worker) || usize::from(first) + operations.len() > 1 << 16 {
            return Status::Fault;
        }
        if !self.may_provide(worker, service, operations) {
            return Status::PermissionDenied;
        }
        let more = options.resources.len().saturating_sub(self.table.declared_in(worker, service));
        if !self.may_have_more(Counted::DeclaredKeys, worker, more) {
            return Status::Busy;
        }
        if self.table.service_of(service).is_none() && self.table.services_len() >= limits::SERVICES_MAX {
            self.refusal = format!("there may be {} services", limits::SERVICES_MAX);
            return Status::Busy;
        }
        self.held.wake_all();
        let was_exclusive = self.table.is_exclusive(service);
        match self.table.provide_with(worker, service, first, operations, options) {
            Ok(()) => {
                self.table.set_domain(service, self.workers[worker].domain);
                let stall_ns = options.stall_ns().unwrap_or(self.settings.stall_ns);
                self.workers[worker].set_stall(service, Some(stall_ns));
                self.withhold_new_service(service);
                self.news = true;
                if !was_exclusive && self.table.is_exclusive(service) {
                    self.parted.extend(self.table.service_of(service));
                }
                Status::Ok
            }
            Err(status) => self.undeclarable(status),
        }
    }

    /// A worker provides a service no more. What stands in its ring is served; what waits goes to others, or ends. What
    /// it holds there exclusively it gives up when it has served its ring.
    pub fn withdraw(&mut self, worker: usize, service: &str, fx: &mut impl Effects) -> Status {
        if let Some(worker) = self.workers.get_mut(worker) {
            worker.set_stall(service, None);
        }
        let did = self.table.withdraw(worker, service);
        // What it claimed and had not got yet may be another's now.
        self.held.wake_all();
        self.news = true;
        self.tell(fx);
        if did { Status::Ok } else { Status::NoSuchService }
    }

    /// A worker's socket is closed, and whether it is dead the kernel has not said: it gets no new work. What it had
    /// not told of what it held, it may hold still.
    pub fn worker_gone(&mut self, key: usize) {
        if let Some(worker) = self.workers.get_mut(key) {
            worker.standing = Standing::Gone;
            self.table.remove_worker(key);
            self.held.wake_all();
        }
    }

    /// A worker that is gone seems to live on: its calls end by verdict. The reply rights stay with it until it
    /// answers or dies, so the clients keep the slots in quarantine.
    pub fn end_by_verdict(&mut self, key: usize, fx: &mut impl Effects) {
        let Some(worker) = self.workers.get(key) else { return };
        let (_, flights) = worker.remains();
        for flight in flights {
            let Some(key) = self.session_key(flight.session) else { continue };
            let session = &mut self.sessions[key];
            if !session.is_answered(flight.ticket) {
                session.give_verdict(flight.ticket);
            }
            // Also where the answer is in: the worker may have stopped between the stamp and the ring.
            fx.ring(Peer::Session(key));
        }
    }

    /// A worker is dead, or has said that it takes no more and has answered what it began. Each call that it had in
    /// its hands ends, once: with the reply that is in, or NOT_BEGUN, or WORKER_DIED.
    pub fn worker_dead(&mut self, key: usize, fx: &mut impl Effects) {
        let Some(worker) = self.workers.get_mut(key) else { return };
        worker.standing = Standing::Gone;
        let id = worker.id;
        self.recovery.has_told(id);
        self.table.remove_worker(key);
        let (taken, flights) = self.workers[key].remains();
        for flight in flights {
            let begun = flight.position < taken;
            let status = if begun { Status::WorkerDied } else { Status::NotBegun };
            let flags = if flight.idempotent { reply_flag::MAY_RERUN } else { 0 };
            self.end_dead(flight.session, flight.ticket, (status, flags), fx);
        }
        // Its calls have ended: only now may another hold what it held.
        self.table.end_tenancy(key);
        self.withhold_services(fx);
        self.tell(fx);
        self.held.wake_all();
        self.workers.remove(key);
        self.forget_touched(key);
        if self.bury(id) {
            fx.keep_ledger(key, id);
        }
        fx.forget(Peer::Worker(key));
        let keys: Vec<usize> = self.sessions.iter().map(|(key, _)| key).collect();
        for session in keys {
            self.sessions[session].set_mapping(key, Mapping::None);
            self.forget_session_if_unmapped(session, fx);
        }
    }
}
