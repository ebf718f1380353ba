//! The director as a state machine: from the clients' rings to the workers'.
//!
//! ```text
//! turn:  each hot session ─► take ─► check the copy ─► route ─► operation ─┬─► a worker with room ─► ledger, ring
//!                                                                         ├─► wait, in the session's own place
//!        calls that wait, one of each route in its turn ──────────────────┘    or an error, straight to the client
//!        then one fence, and a ring for each worker that sleeps
//! ```
//! All of it is private memory but the rings. A session is *hot* while requests keep coming: then it is polled; else
//! it is cold, and its next request rings. Here is the data path; who comes and goes is in [`attach`](super::attach).

use std::collections::HashMap;

use slab::Slab;

use super::guard::Guard;
use super::held::Parked;
use super::late::Late;
use super::quota::{Accounts, Quotas};
use super::recovery::Recovery;
use super::scatter::Scatters;
use super::schedule::Choice;
use super::session::{Passage, Session};
use super::table::rights::Holder;
use super::table::{CLASSES, Provider, Table};
use super::worker::{Flight, Standing, Worker};
use crate::core::{Memory, Turn};
use crate::error::{Fault, Status};
use crate::identity::Identity;
use crate::layout::{HEAD, LINE, Record, ReplyHead, Request, WORD_TAKEN_NS, flag};
use crate::resource::{Policy, Resource};

/// Records taken from one session before the next has its turn.
const BUDGET: usize = 64;
/// A session that was quiet for this long is no longer polled.
const COLD_NS: u64 = 200_000;
/// Sessions polled at a time: each costs every call of the others some nanoseconds.
const HOT_MAX: usize = 32;

/// Somebody who is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// A session, by its key.
    Session(usize),
    /// A worker, by its key.
    Worker(usize),
}

/// What the director's core asks of its shell. Keys are the core's, and are used again after `forget`.
pub trait Effects {
    /// Rings a client or a worker.
    fn ring(&mut self, peer: Peer);
    /// Tells a worker to map a session; it answers with `session_mapped`.
    fn map_session(&mut self, worker: usize, index: u16, session: usize);
    /// Tells a worker to unmap one; it answers with `session_unmapped`.
    fn unmap_session(&mut self, worker: usize, index: u16);
    /// The peer broke the protocol: the shell disconnects it, and then says that it is gone.
    fn fault(&mut self, peer: Peer, fault: Fault);
    /// The peer's memory is used by nobody any more, and its key is free.
    fn forget(&mut self, peer: Peer);
    /// A worker is about to be forgotten, but its ledger, under its id, stays until `forget_ledger`.
    fn keep_ledger(&mut self, _worker: usize, _id: u64) {}
    /// All who came back are settled. Who did not is not known any more, to later directors neither: they are to be told
    /// so before any ledger is forgotten.
    fn settled_all(&mut self) {}
    /// Nobody will ask for what this worker's inherited ledger names any more.
    fn forget_ledger(&mut self, _worker: u64) {}
    /// CLOCK_MONOTONIC, exact: for traced calls, and to see how quick a worker is.
    fn clock_ns(&mut self) -> u64;
    /// Tells a worker something about rights: in the order of the calls, and before it can have read any record that
    /// is pushed after.
    fn tell(&mut self, worker: usize, told: Told<'_>) {
        let _ = (worker, told);
    }
}

/// What a worker is told about rights. `sequence` counts these messages to it; `before` is the position of the first
/// record that is pushed after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told<'a> {
    /// It holds this resource from now on.
    Granted {
        /// The message's number.
        sequence: u64,
        /// Of which service.
        service: &'a str,
        /// What.
        resource: Resource,
    },
    /// It is to give this resource up: when the calls on it that stand before `before` are answered, it says so.
    Recalled {
        /// The message's number.
        sequence: u64,
        /// Of which service.
        service: &'a str,
        /// What.
        resource: Resource,
        /// Where the calls end that it is to finish.
        before: u64,
    },
    /// It is given no new work; when all that stands before `before` is answered, it leaves.
    Drain {
        /// The message's number.
        sequence: u64,
        /// Where its work ends.
        before: u64,
    },
}

/// What a look into a session's ring gave.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Took {
    /// Nothing was there.
    Nothing,
    /// All that there was.
    All,
    /// Something, and there may be more.
    More,
}

/// What can be set.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Of this director's life; the next one's is higher.
    pub epoch: u64,
    /// Calls that may wait on one route; one more ends BUSY.
    pub waiting_per_route: u32,
    /// Calls that one worker may have in its hands: k of JBSQ(k).
    pub share_max: u64,
    /// How long a worker with something in its hands may show no sign of life, where its service says nothing.
    pub stall_ns: u64,
    /// How much one process, and one user, may have.
    pub quotas: Quotas,
    /// The director's own user.
    pub owner: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            epoch: 1,
            waiting_per_route: 64,
            share_max: 128,
            stall_ns: crate::limits::STALL_NS,
            quotas: Quotas::default(),
            owner: 0,
        }
    }
}

/// What a director has to look after at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Sessions whose memory somebody may still reach.
    pub sessions: usize,
    /// Workers.
    pub workers: usize,
    /// Services that somebody provides, or that a route leads to.
    pub services: usize,
    /// Sessions that are polled.
    pub hot: usize,
    /// Operations on which calls wait.
    pub backlog: usize,
    /// Calls that wait.
    pub waiting: usize,
}

/// The director.
pub struct DirectorCore<M: Memory> {
    pub(super) settings: Settings,
    pub(super) table: Table,
    pub(super) sessions: Slab<Session<M>>,
    pub(super) workers: Slab<Worker<M>>,
    /// Keys of the sessions, by id.
    pub(super) session_ids: HashMap<u64, usize>,
    pub(super) recovery: Recovery,
    /// Something has become known of which inherited calls wait.
    pub(super) resettle: bool,
    hot: Vec<usize>,
    /// Operations on which calls wait.
    backlog: Vec<usize>,
    /// Calls that wait for the holder of a resource.
    pub(super) held: Parked,
    /// Parts of scatters that wait for their worker.
    pub(super) scatters: Scatters,
    /// Workers that were given up, and finish what they had begun.
    pub(super) late: Vec<Late<M>>,
    /// Who may do what.
    pub(super) guard: Guard,
    /// Why somebody was last refused something.
    pub(super) refusal: String,
    /// Services whose resources have become exclusive while calls may wait there.
    pub(super) parted: Vec<usize>,
    touched: Vec<usize>,
    /// No waiting call expires before.
    next_expiry_ns: u64,
    parked: bool,
    /// Something is polled or provided that was not before: the next turn is not idle, so that nobody goes to sleep
    /// between having announced it and having looked at that too.
    pub(super) news: bool,
    stopping: bool,
    /// Who has how many routes.
    pub(super) accounts: Accounts,
    /// When to look who stands still.
    pub(super) watch_at_ns: u64,
    /// Something was given to a worker, and not found answered yet.
    pub(super) unaudited: bool,
    /// The first session whose open calls are looked at the next time.
    pub(super) audit_from: usize,
    /// Calls dispatched, calls ended by the director itself.
    pub(super) dispatched: u64,
    pub(super) refused: u64,
}

impl<M: Memory> DirectorCore<M> {
    /// A director that nobody has attached to.
    pub fn new(settings: Settings) -> Self {
        DirectorCore {
            table: Table::default(),
            sessions: Slab::new(),
            workers: Slab::new(),
            session_ids: HashMap::new(),
            recovery: Recovery::default(),
            resettle: false,
            hot: Vec::new(),
            backlog: Vec::new(),
            held: Parked::default(),
            scatters: Scatters::default(),
            late: Vec::new(),
            guard: Guard::default(),
            refusal: String::new(),
            parted: Vec::new(),
            touched: Vec::new(),
            next_expiry_ns: u64::MAX,
            parked: false,
            news: false,
            stopping: false,
            accounts: Accounts::new(settings.quotas, settings.owner),
            watch_at_ns: 0,
            unaudited: false,
            audit_from: 0,
            dispatched: 0,
            refused: 0,
            settings,
        }
    }

    /// Looks at every hot session once, and at what waits.
    pub fn turn(&mut self, now_ns: u64, fx: &mut impl Effects) -> Turn<()> {
        self.watch(now_ns, fx);
        let (mut found, mut looked) = (false, std::mem::take(&mut self.news));
        if self.guard.is_rechecking() {
            // Before anything is taken: who has heard that the rules are others now is served by those.
            self.recheck(fx);
            found = true;
        }
        if !self.late.is_empty() {
            self.review_late(fx);
        }
        self.put_in_order(now_ns, fx);
        let mut i = 0;
        while let Some(&key) = self.hot.get(i) {
            let took = self.poll_session(key, now_ns, fx);
            found |= took == Took::More;
            looked |= took == Took::All;
            if took != Took::Nothing || !self.chill(key, now_ns) {
                i += 1;
            }
        }
        if self.holds_work_back() {
            found |= self.serve_backlog(now_ns, fx);
            found |= self.serve_parked(now_ns, fx);
            found |= self.serve_parts(now_ns, fx);
            self.expire(now_ns, fx);
        }
        if !self.table.rights.is_swept() {
            self.sweep();
            found = true;
        }
        self.ring_workers(fx);
        found |= std::mem::take(&mut self.news);
        match (found, looked) {
            (true, _) => Turn::Busy,
            (false, true) => Turn::Settled,
            (false, false) => Turn::Idle,
        }
    }

    /// Whether anything waits for a worker.
    #[inline]
    pub(super) fn holds_work_back(&self) -> bool {
        !self.backlog.is_empty() || !self.held.is_empty() || !self.scatters.is_empty()
    }

    /// Whether it has been told to stop.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// What came earlier and had to wait for something to become known goes before what comes now.
    pub(super) fn put_in_order(&mut self, now_ns: u64, fx: &mut impl Effects) {
        if self.is_recovering() {
            self.recover(now_ns, fx);
        }
        if !self.parted.is_empty() {
            self.part_by_key(now_ns, fx);
        }
        if self.scatters.has_early() {
            self.scatter_early(now_ns, fx);
        }
    }

    /// One more turn of the same, for what is cold: a peer's word about whether it rang is never the last one.
    pub fn look_at_everything(&mut self) {
        let cold = self.sessions.iter().filter(|(_, s)| !s.hot && s.is_served());
        let ready: Vec<usize> =
            cold.filter(|(_, s)| s.ring.is_ready(&s.outbox)).map(|(key, _)| key).collect();
        for key in ready {
            self.heat(key);
        }
    }

    /// A session's doorbell rang: it is polled from now on.
    pub fn heat(&mut self, key: usize) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        self.news = true;
        session.polled.awake(&session.inbox);
        session.active_ns = 0;
        if !session.hot && session.is_served() {
            session.hot = true;
            self.hot.push(key);
        }
    }

    /// Takes what a session has published, up to the budget.
    pub(super) fn poll_session(&mut self, key: usize, now_ns: u64, fx: &mut impl Effects) -> Took {
        let so_far = |n| if n > 0 { Took::All } else { Took::Nothing };
        let mut record = [0; LINE];
        for n in 0..BUDGET {
            let Some(session) = self.sessions.get_mut(key).filter(|s| s.is_served()) else {
                return so_far(n);
            };
            match session.take(&mut record) {
                Ok(Some(request)) => {
                    session.active_ns = now_ns;
                    if session.polled.is_parked() {
                        session.polled.awake(&session.inbox);
                    }
                    self.route(key, &mut record, &request, now_ns, fx);
                }
                Ok(None) => return so_far(n),
                Err(fault) => {
                    // Nothing more is taken from it; the shell disconnects it.
                    session.faulty = true;
                    fx.fault(Peer::Session(key), fault);
                    return Took::More;
                }
            }
        }
        Took::More
    }

    /// Stops polling a session that has been quiet. Returns whether it did.
    fn chill(&mut self, key: usize, now_ns: u64) -> bool {
        let crowd = self.hot.len() > HOT_MAX;
        let Some(session) = self.sessions.get_mut(key).filter(|s| s.is_served()) else {
            self.hot.retain(|&k| k != key);
            return true;
        };
        if session.active_ns == 0 {
            session.active_ns = now_ns;
        }
        let quiet_ns = now_ns.saturating_sub(session.active_ns);
        if self.parked || quiet_ns < if crowd { COLD_NS / 8 } else { COLD_NS } {
            return false;
        }
        session.polled.park(&session.inbox);
        if session.ring.is_ready(&session.outbox) {
            session.polled.awake(&session.inbox);
            return false;
        }
        session.hot = false;
        self.hot.retain(|&k| k != key);
        true
    }

    /// Decides what happens to a call.
    pub(super) fn route(
        &mut self,
        key: usize,
        record: &mut Record,
        request: &Request,
        now_ns: u64,
        fx: &mut impl Effects,
    ) {
        if request.flags & flag::SCATTER != 0 {
            return self.route_scatter(key, *record, *request, now_ns, fx);
        }
        if request.flags & flag::TRACED != 0 {
            record[WORD_TAKEN_NS] = fx.clock_ns();
        }
        if request.flags & flag::AGAIN != 0 {
            match self.settle(key, *record, request, fx) {
                Some(fresh) => *record = fresh,
                None => return,
            }
        }
        let Some(route) = self.sessions[key].route(request.operation) else {
            return self.refuse(key, request.ticket, Status::NoSuchService, fx);
        };
        let (operation, waiting) = (route.operation, route.waiting);
        if !matches!(route.access, Passage::Open) && !self.is_let_through(key, request, fx) {
            return;
        }
        if self.stopping {
            return self.refuse(key, request.ticket, Status::DirectorGone, fx);
        }
        if request.deadline_ns != 0 && now_ns > request.deadline_ns {
            return self.refuse(key, request.ticket, Status::DeadlineExceeded, fx);
        }
        let found = self.table.operation(operation);
        let resource = if found.by_key { request.resource() } else { None };
        if let (Some(resource), Some(_)) = (resource, found.unheld) {
            return self.route_held(key, *record, *request, resource, now_ns, fx);
        }
        // Whoever waits already goes first: his own calls for their order, the others' for fairness.
        if found.is_quiet() {
            match self.choose(operation, key, resource, now_ns, fx) {
                Choice::Give(to, index) => return self.dispatch(key, record, request, to, index, fx),
                Choice::Nobody => return self.refuse(key, request.ticket, Status::NoWorker, fx),
                Choice::Wait => {}
            }
        }
        if !self.has_place(key, waiting, fx) {
            return self.refuse(key, request.ticket, Status::Busy, fx);
        }
        self.wait(key, operation, request, record);
    }

    /// Whether one more call may wait on a route on which so many do. Calls that their callers have given up hold half
    /// of the places at most: when that many wait, they are swept out.
    pub(super) fn has_place(&mut self, key: usize, waiting: u32, fx: &mut impl Effects) -> bool {
        let places = self.settings.waiting_per_route;
        let swept = (waiting == places / 2 || waiting >= places) && self.sweep_cancelled(Some(key), fx) > 0;
        waiting < places || swept
    }

    /// Ends the calls of one session, or of all, that wait and that their callers have given up. Returns how many.
    pub(super) fn sweep_cancelled(&mut self, of: Option<usize>, fx: &mut impl Effects) -> usize {
        let waits = self.sessions.iter().filter(|(_, session)| session.waiting > 0).map(|(key, _)| key);
        let keys: Vec<usize> = of.map_or_else(|| waits.collect(), |key| vec![key]);
        let mut swept = 0;
        for key in keys {
            for slot in self.sessions[key].waiting_slots() {
                let session = &self.sessions[key];
                let Some(ticket) = session.waiting_record(slot).map(|r| Request::of_client(r).ticket) else {
                    continue;
                };
                if session.is_cancelled(ticket) {
                    self.drop_waiting(key, slot);
                    self.refuse(key, ticket, Status::Cancelled, fx);
                    swept += 1;
                }
            }
        }
        swept
    }

    fn wait(&mut self, key: usize, operation: usize, request: &Request, record: &Record) {
        self.expire_by(request.deadline_ns);
        if self.sessions[key].wait(request.operation, request, record) {
            let operation = self.table.operation_mut(operation);
            if operation.is_quiet() {
                self.backlog.push(operation.key);
            }
            operation.turns[request.class()].push_back((key, request.operation));
        }
    }

    /// A call waits that has this deadline.
    pub(super) fn expire_by(&mut self, deadline_ns: u64) {
        if deadline_ns != 0 {
            self.next_expiry_ns = self.next_expiry_ns.min(deadline_ns);
        }
    }

    /// Hands the reply right to a worker.
    pub(super) fn dispatch(
        &mut self,
        key: usize,
        record: &mut Record,
        request: &Request,
        to: Provider,
        index: u16,
        fx: &mut impl Effects,
    ) {
        if request.flags & flag::TRACED != 0 {
            record[WORD_TAKEN_NS + 1] = fx.clock_ns();
        }
        let worker = &mut self.workers[to.worker];
        let (session, ticket) = (self.sessions[key].id, request.ticket);
        let flight = Flight { session, ticket, idempotent: to.idempotent, ..Flight::default() };
        if !worker.touched {
            self.touched.push(to.worker);
        }
        worker.owes_part = false;
        if worker.push(record, flight, to.number, index) {
            self.dispatched += 1;
            self.sessions[key].give_to(ticket, worker.id);
            self.unaudited = true;
        } else {
            // Its done marks say that it is still busy with what it counted as completed: it lies.
            let fault = Fault::Field { field: "done marks", value: 0, bound: worker.in_flight() };
            worker.standing = Standing::Gone;
            fx.fault(Peer::Worker(to.worker), fault);
            self.refuse(key, request.ticket, Status::NotBegun, fx);
        }
    }

    /// Ends a call whose reply right the director holds.
    pub(super) fn refuse(&mut self, key: usize, ticket: u64, status: Status, fx: &mut impl Effects) {
        self.refuse_flagged(key, ticket, status, 0, fx);
    }

    /// The same, with more to say: see [`reply_flag`](crate::layout::reply_flag).
    pub(super) fn refuse_flagged(
        &mut self,
        key: usize,
        ticket: u64,
        status: Status,
        flags: u16,
        fx: &mut impl Effects,
    ) {
        let Some(session) = self.sessions.get_mut(key).filter(|s| !s.retired) else { return };
        let mut record = [0; LINE];
        ReplyHead { status: status as u16, flags, ..ReplyHead::default() }.write(&mut record);
        session.answer(ticket, &record, HEAD);
        self.refused += 1;
        if session.client.must_ring(&session.inbox, &session.outbox) {
            fx.ring(Peer::Session(key));
        }
    }

    /// Gives what waits to whoever has room now.
    fn serve_backlog(&mut self, now_ns: u64, fx: &mut impl Effects) -> bool {
        let mut found = false;
        let mut i = 0;
        while let Some(&operation) = self.backlog.get(i) {
            found |= self.serve_operation(operation, now_ns, fx);
            if self.backlog.get(i) == Some(&operation) {
                if self.table.operation(operation).is_quiet() {
                    self.backlog.swap_remove(i);
                } else {
                    i += 1;
                }
            }
        }
        // Operations share workers: whoever was first this time is last the next.
        if found && !self.backlog.is_empty() {
            self.backlog.rotate_left(1);
        }
        found
    }

    /// Each route with waiting calls has a turn in which one of them goes; classes take turns, too. Ends when
    /// everybody's turn has passed without a worker for anybody, or the budget is used up.
    fn serve_operation(&mut self, operation: usize, now_ns: u64, fx: &mut impl Effects) -> bool {
        let (mut served, mut passed) = (0, [0; CLASSES]);
        while served < BUDGET {
            let waiting = self.table.operation_mut(operation);
            let Some(class) = waiting.next_class(&passed) else { break };
            let Some((key, number)) = waiting.turns[class].pop_front() else { break };
            match self.serve_route(operation, key, number, class, now_ns, fx) {
                Some(true) => {
                    (served, passed) = (served + 1, [0; CLASSES]);
                    self.table.operation_mut(operation).count_served(class);
                }
                Some(false) if self.is_full(operation) => {
                    // Room that comes free from here on is for the same one, and not for a class below.
                    self.table.operation_mut(operation).turns[class].push_front((key, number));
                    // It may have been for some of the workers only: then nobody has looked at the others.
                    if !self.finds_room(operation, now_ns) {
                        break;
                    }
                    continue;
                }
                Some(false) => passed[class] += 1,
                None => continue,
            }
            self.table.operation_mut(operation).turns[class].push_back((key, number));
        }
        served > 0
    }

    /// Whether none of an operation's workers had room when it was last looked at.
    fn is_full(&self, operation: usize) -> bool {
        let found = self.table.operation(operation);
        let is_full = |worker: &Worker<M>| match found.policy {
            Policy::Jbsq => !worker.has_room(),
            _ => !worker.has_slots(),
        };
        found.providers.iter().all(|p| self.workers.get(p.worker).is_none_or(is_full))
    }

    /// Looks at all of an operation's workers. Returns whether one of them has room.
    fn finds_room(&mut self, operation: usize, now_ns: u64) -> bool {
        for provider in &self.table.operation(operation).providers {
            if let Some(worker) = self.workers.get_mut(provider.worker) {
                worker.look(now_ns);
            }
        }
        !self.is_full(operation)
    }

    /// One call of a route and class. `None`: none waits there any more, and its turn is over.
    fn serve_route(
        &mut self,
        operation: usize,
        key: usize,
        number: u32,
        class: usize,
        now_ns: u64,
        fx: &mut impl Effects,
    ) -> Option<bool> {
        let session = self.sessions.get_mut(key)?;
        let slot = session.first_waiting(number, class)?;
        let mut record = *session.waiting_record(slot)?;
        let request = Request::of_client(&record);
        if session.is_cancelled(request.ticket) {
            session.remove_waiting(slot);
            self.refuse(key, request.ticket, Status::Cancelled, fx);
            return Some(true);
        }
        let found = self.table.operation(operation);
        let resource = if found.by_key { request.resource() } else { None };
        match self.choose(operation, key, resource, now_ns, fx) {
            Choice::Wait => return Some(false),
            Choice::Give(to, index) => {
                self.sessions[key].remove_waiting(slot);
                self.dispatch(key, &mut record, &request, to, index, fx);
            }
            Choice::Nobody => {
                self.sessions[key].remove_waiting(slot);
                self.refuse(key, request.ticket, Status::NoWorker, fx);
            }
        }
        Some(true)
    }

    /// Ends the waiting calls whose deadline has passed.
    fn expire(&mut self, now_ns: u64, fx: &mut impl Effects) {
        if now_ns < self.next_expiry_ns {
            return;
        }
        self.next_expiry_ns = u64::MAX;
        let keys: Vec<usize> =
            self.sessions.iter().filter(|(_, s)| s.waiting > 0).map(|(key, _)| key).collect();
        for key in keys {
            for slot in self.sessions[key].waiting_slots() {
                let Some(request) = self.sessions[key].waiting_record(slot).map(Request::of_client) else {
                    continue;
                };
                match request.deadline_ns {
                    0 => {}
                    deadline_ns if deadline_ns < now_ns => {
                        self.drop_waiting(key, slot);
                        self.refuse(key, request.ticket, Status::DeadlineExceeded, fx);
                    }
                    deadline_ns => self.next_expiry_ns = self.next_expiry_ns.min(deadline_ns),
                }
            }
        }
    }

    /// One fence for all that was pushed, then a ring for each worker that sleeps.
    fn ring_workers(&mut self, fx: &mut impl Effects) {
        let Some(&first) = self.touched.first() else { return };
        if let Some(worker) = self.workers.get(first) {
            worker.fence(); // pairs with the fence in Parking::park, of each worker
        }
        for key in self.touched.drain(..) {
            if self.workers.get_mut(key).is_some_and(Worker::must_ring) {
                fx.ring(Peer::Worker(key));
            }
        }
    }

    /// Announces a sleep: to every hot session, and to every worker for which work is held back.
    pub fn park(&mut self) {
        self.parked = true;
        for &key in &self.hot {
            if let Some(session) = self.sessions.get_mut(key) {
                session.polled.park(&session.inbox);
            }
        }
        for &operation in &self.backlog {
            for provider in &self.table.operation(operation).providers {
                if let Some(worker) = self.workers.get_mut(provider.worker) {
                    worker.want();
                }
            }
        }
        for worker in self.scatters.workers() {
            if let Some(worker) = self.workers.get_mut(worker) {
                worker.want();
            }
        }
        for span in self.held.ready() {
            if let Holder::Worker(holder) = self.table.rights.holder(span)
                && let Some(worker) = self.workers.get_mut(holder)
            {
                worker.want();
            }
        }
        if self.stopping {
            self.workers.iter_mut().for_each(|(_, worker)| worker.want());
        }
    }

    /// Takes that back. A session in which the last look found nothing stays cold: it will ring.
    pub fn awake(&mut self) {
        self.parked = false;
        let sessions = &mut self.sessions;
        self.hot.retain(|&key| {
            let Some(session) = sessions.get_mut(key) else { return false };
            session.hot = !session.polled.is_parked() && session.is_served();
            session.hot
        });
        for (_, worker) in &mut self.workers {
            worker.unwant();
        }
    }

    /// When it wants to be woken though nobody rings: for a waiting call's deadline.
    pub fn wake_at_ns(&self) -> u64 {
        let waits_ns = if self.holds_work_back() {
            // A worker that was told of a session alone may be stopped: then others are told.
            self.next_expiry_ns.min(self.held.wake_at_ns()).min(self.recovery.rush_ends_ns())
        } else {
            u64::MAX
        };
        waits_ns.min(self.recovery.ends_ns()).min(self.watch_again_ns())
    }

    /// From now on no call is taken on; what waits is ended. Those in workers' hands go on.
    pub fn stop(&mut self, fx: &mut impl Effects) {
        self.stopping = true;
        let keys: Vec<usize> =
            self.sessions.iter().filter(|(_, s)| s.waiting > 0).map(|(key, _)| key).collect();
        for key in keys {
            for slot in self.sessions[key].waiting_slots() {
                let Some(request) = self.sessions[key].waiting_record(slot).map(Request::of_client) else {
                    continue;
                };
                self.drop_waiting(key, slot);
                self.refuse(key, request.ticket, Status::DirectorGone, fx);
            }
        }
        self.scatter_early(0, fx);
    }

    /// Operations whose last turn was taken away wait for nothing any more.
    pub(super) fn forget_backlog_without_turns(&mut self) {
        let table = &self.table;
        self.backlog.retain(|&o| table.has_operation(o) && !table.operation(o).is_quiet());
    }

    /// A session's key is about to be free.
    pub(super) fn forget_hot(&mut self, key: usize) {
        self.hot.retain(|&k| k != key);
    }

    /// A worker's key is about to be free.
    pub(super) fn forget_touched(&mut self, key: usize) {
        self.touched.retain(|&k| k != key);
    }

    /// Other quotas are in force. Whoever has more than he might get now keeps it.
    pub fn set_quotas(&mut self, quotas: Quotas) {
        self.accounts.set_quotas(quotas);
    }

    /// Who somebody is that is attached.
    pub fn identity(&self, peer: Peer) -> Identity {
        let found = match peer {
            Peer::Session(key) => self.sessions.get(key).map(|s| s.identity),
            Peer::Worker(key) => self.workers.get(key).map(|w| w.identity),
        };
        found.unwrap_or_default()
    }

    /// What there is to look after.
    pub fn load(&self) -> Load {
        Load {
            sessions: self.sessions.len(),
            workers: self.workers.len(),
            services: self.table.services_len(),
            hot: self.hot.len(),
            backlog: self.backlog.len(),
            waiting: self.sessions.iter().map(|(_, s)| s.waiting as usize).sum(),
        }
    }

    /// Calls in workers' hands.
    pub fn in_flight(&mut self, now_ns: u64) -> u64 {
        self.workers
            .iter_mut()
            .map(|(_, w)| {
                w.look(now_ns);
                w.in_flight()
            })
            .sum()
    }
}
