//! Calls on exclusively held resources: to the holder alone, and in order.
//!
//! ```text
//! call on a key ─► somebody waits there already? ─► behind him
//!               └► holder has room ─► dispatch
//!                  holder has none, or is handing over ─► wait, in the key's own queue
//!                  nobody holds it ─► wait, end NOT_HELD, or make somebody the holder: as the service says
//! ```
//! Calls that can't go wait in one queue for each key, whatever route they came by: so a key that nobody holds stands
//! in no other's way, and each client's calls on a key are executed in the order in which it sent them.
//! How rights change, which is what most of them wait for, is in [`change`](super::change).

use std::collections::{HashMap, VecDeque};

use super::core::{DirectorCore, Effects};
use super::mapping::{Asking, Reach, reach_only};
use super::scatter::Holders;
use super::table::Provider;
use super::table::rights::{Holder, Span};
use super::worker::Standing;
use crate::core::Memory;
use crate::error::Status;
use crate::layout::{Record, Request, flag};
use crate::resource::{Key, Unheld};

/// Calls given out of one queue, and queues looked at, in one turn.
const BUDGET: usize = 64;
/// A holder that doesn't finish a hand-over for so long is silent: it keeps its right, and calls end as if nobody
/// held the resource, where the service says that those end.
const HAND_OVER_NS: u64 = 1_000_000_000;

/// A call that waits, by where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Call {
    pub session: usize,
    pub slot: u32,
}

#[derive(Default)]
struct Queue {
    /// Each with its place among its session's calls.
    calls: VecDeque<(Call, u64)>,
    has_turn: bool,
    /// When the holder was first found to be handing over; 0 = it isn't.
    leaving_ns: u64,
}

/// All calls that wait for a holder, or for room at one.
#[derive(Default)]
pub(super) struct Parked {
    queues: HashMap<Span, Queue>,
    /// Queues that may have become servable.
    ready: VecDeque<Span>,
    /// By session: the newest of its calls that ever waited here.
    newest: HashMap<usize, u64>,
    /// When to look at all of them again, for holders that are silent.
    look_ns: u64,
}

impl Parked {
    /// Whether nothing waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    /// Whether calls wait on this key.
    pub fn waits_for(&self, span: &Span) -> bool {
        self.queues.contains_key(span)
    }

    /// A session's key is about to be free.
    pub fn forget_session(&mut self, session: usize) {
        self.newest.remove(&session);
    }

    /// When it wants to be looked at.
    pub fn wake_at_ns(&self) -> u64 {
        if self.look_ns == 0 { u64::MAX } else { self.look_ns }
    }

    /// `position` says where it stood among its session's calls.
    fn push(&mut self, span: Span, call: Call, position: u64, turn: bool) {
        let queue = self.queues.entry(span).or_default();
        let newest = self.newest.entry(call.session).or_default();
        if position >= *newest {
            *newest = position;
            queue.calls.push_back((call, position));
        } else {
            // It was published again, and had to wait until it was known what has become of it.
            let overtook = |(c, p): &(Call, u64)| c.session == call.session && *p > position;
            let at = queue.calls.iter().position(overtook).unwrap_or(queue.calls.len());
            queue.calls.insert(at, (call, position));
        }
        if turn {
            self.wake(&span);
        }
    }

    /// A call waits no more. Whoever is served is the first, so only one that ends early is searched for.
    fn forget(&mut self, span: &Span, call: Call) {
        let Some(queue) = self.queues.get_mut(span) else { return };
        let at = queue.calls.iter().position(|&(c, _)| c == call);
        if let Some(at) = at {
            queue.calls.remove(at);
        }
        if queue.calls.is_empty() {
            self.queues.remove(span);
        } else if at == Some(0) {
            // The next one may be a part of a scatter that is now the first in all its queues.
            self.wake(span);
        }
    }

    /// Whether a call is the first of all that wait on a key.
    fn is_first(&self, span: &Span, call: Call) -> bool {
        self.queues
            .get(span)
            .is_some_and(|queue| queue.calls.front().is_some_and(|(first, _)| *first == call))
    }

    /// Looks at these keys' queues in the next turn.
    pub fn wake(&mut self, span: &Span) {
        if span.first == span.last {
            if let Some(queue) = self.queues.get_mut(span)
                && !std::mem::replace(&mut queue.has_turn, true)
            {
                self.ready.push_back(*span);
            }
            return;
        }
        let mut within: Vec<Span> = self.queues.keys().filter(|key| key.overlaps(span)).copied().collect();
        within.sort_unstable(); // the same every time: a simulated bus can be run again
        within.iter().for_each(|key| self.wake(key));
    }

    /// The same for all keys of a service.
    pub fn wake_service(&mut self, service: usize) {
        let mut within: Vec<Span> =
            self.queues.keys().filter(|key| key.space.service() == service).copied().collect();
        within.sort_unstable();
        within.iter().for_each(|key| self.wake(key));
    }

    /// For how long calls on a key have waited for its holder to give it up.
    pub fn has_been_leaving_ns(&self, span: &Span, now_ns: u64) -> Option<u64> {
        let queue = self.queues.get(span).filter(|queue| queue.leaving_ns != 0)?;
        Some(now_ns.saturating_sub(queue.leaving_ns))
    }

    /// Looks at all queues in the next turn.
    pub fn wake_all(&mut self) {
        let mut all: Vec<Span> = self.queues.keys().copied().collect();
        all.sort_unstable();
        all.iter().for_each(|key| self.wake(key));
    }

    /// Keys whose holder has no room, perhaps.
    pub fn ready(&self) -> impl Iterator<Item = &Span> {
        self.ready.iter()
    }
}

/// What became of an attempt to give a call to its holder.
enum Attempt {
    Give(Provider, u16),
    /// The holder has no room, or hasn't mapped the session yet.
    NoRoom,
    /// Nobody can have it, until something changes.
    Blocked,
    /// The holder is handing over.
    Leaving,
    End(Status),
}

impl<M: Memory> DirectorCore<M> {
    /// A call on a key of a service whose resources are exclusive.
    pub(super) fn route_held(
        &mut self,
        key: usize,
        mut record: Record,
        request: Request,
        resource: Key,
        now_ns: u64,
        fx: &mut impl Effects,
    ) {
        let Some(route) = self.sessions[key].route(request.operation) else { return };
        let (operation, waiting) = (route.operation, route.waiting);
        let span = Span::of_key(self.table.operation(operation).service, resource);
        let mut turn = false;
        if !self.held.waits_for(&span) {
            match self.attempt(operation, key, &span, now_ns, fx) {
                Attempt::Give(to, index) if request.flags & flag::SCATTER != 0 => {
                    return self.give_part(key, &mut record, &[resource], to, index, fx);
                }
                Attempt::Give(to, index) => return self.dispatch(key, &mut record, &request, to, index, fx),
                Attempt::End(status) => return self.refuse(key, request.ticket, status, fx),
                Attempt::Blocked => {}
                Attempt::NoRoom | Attempt::Leaving => turn = true,
            }
        }
        if !self.has_place(key, waiting, fx) {
            return self.refuse(key, request.ticket, Status::Busy, fx);
        }
        self.expire_by(request.deadline_ns);
        let slot = self.sessions[key].park(&request, &record);
        let position = self.sessions[key].position(slot);
        self.held.push(span, Call { session: key, slot }, position, turn);
    }

    /// A service's resources have become exclusive: calls that waited for any of its workers wait for their key's
    /// holder now, before any that was sent later is looked at.
    pub(super) fn part_by_key(&mut self, now_ns: u64, fx: &mut impl Effects) {
        for service in std::mem::take(&mut self.parted) {
            let keys: Vec<usize> =
                self.sessions.iter().filter(|(_, s)| s.waiting > 0).map(|(key, _)| key).collect();
            for key in keys {
                for slot in self.sessions[key].waiting_in_order() {
                    let Some(&record) = self.sessions[key].waiting_record(slot) else { continue };
                    let request = Request::of_client(&record);
                    let operation = self.sessions[key].route(request.operation).map(|route| route.operation);
                    let concerns = operation.is_some_and(|o| self.table.operation(o).service == service);
                    if let (true, Some(resource)) = (concerns, request.resource()) {
                        self.sessions[key].remove_waiting(slot);
                        self.route_held(key, record, request, resource, now_ns, fx);
                    }
                }
            }
        }
    }

    /// A part of a scatter, on keys that one worker holds: behind all that wait on any of them.
    pub(super) fn route_held_part(
        &mut self,
        key: usize,
        mut record: Record,
        request: Request,
        keys: Vec<Key>,
        now_ns: u64,
        fx: &mut impl Effects,
    ) {
        let Some(route) = self.sessions[key].route(request.operation) else { return };
        let (operation, waiting) = (route.operation, route.waiting);
        let spans = self.spans_of(operation, &keys);
        let mut turn = false;
        if !spans.iter().any(|span| self.held.queues.contains_key(span)) {
            match self.attempt_part(operation, key, &spans, now_ns, fx) {
                Attempt::Give(to, index) => return self.give_part(key, &mut record, &keys, to, index, fx),
                Attempt::End(status) => return self.refuse(key, request.ticket, status, fx),
                Attempt::Blocked => {}
                Attempt::NoRoom | Attempt::Leaving => turn = true,
            }
        }
        if waiting >= self.settings.waiting_per_route {
            return self.refuse(key, request.ticket, Status::Busy, fx);
        }
        self.expire_by(request.deadline_ns);
        let slot = self.sessions[key].park(&request, &record);
        let (call, position) = (Call { session: key, slot }, self.sessions[key].position(slot));
        spans.into_iter().for_each(|span| self.held.push(span, call, position, turn));
        self.note_held_part(call, keys);
    }

    /// Each key's place among the rights, once.
    fn spans_of(&self, operation: usize, keys: &[Key]) -> Vec<Span> {
        let service = self.table.operation(operation).service;
        let mut spans: Vec<Span> = Vec::with_capacity(keys.len());
        for &key in keys {
            let span = Span::of_key(service, key);
            if !spans.contains(&span) {
                spans.push(span);
            }
        }
        spans
    }

    /// Whether a part can go now, to whoever holds all its keys.
    fn attempt_part(
        &mut self,
        operation: usize,
        key: usize,
        spans: &[Span],
        now_ns: u64,
        fx: &mut impl Effects,
    ) -> Attempt {
        let Some(first) = spans.first() else { return Attempt::End(Status::NotBegun) };
        if self.table.rights.is_withheld() || self.scatters.is_early(key) {
            return Attempt::Blocked;
        }
        match self.holders(spans) {
            Holders::One => self.attempt(operation, key, first, now_ns, fx),
            Holders::Leaving => Attempt::Leaving,
            // They have gone different ways; only the client can ask anew.
            Holders::Several => Attempt::End(Status::NotBegun),
            Holders::Nobody => match self.table.operation(operation).unheld {
                Some(Unheld::Error) => Attempt::End(Status::NotHeld),
                Some(Unheld::Offer) => Attempt::End(Status::NotBegun),
                _ => Attempt::Blocked,
            },
        }
    }

    /// The same for a call, or a part, that waits.
    fn attempt_waiting(
        &mut self,
        operation: usize,
        call: Call,
        span: &Span,
        now_ns: u64,
        fx: &mut impl Effects,
    ) -> Attempt {
        let Some(keys) = self.scatters.keys(call) else {
            return self.attempt(operation, call.session, span, now_ns, fx);
        };
        let spans = self.spans_of(operation, keys);
        if spans.iter().all(|span| self.held.is_first(span, call)) {
            self.attempt_part(operation, call.session, &spans, now_ns, fx)
        } else {
            Attempt::Blocked
        }
    }

    /// Whether a call on a key can go now.
    fn attempt(
        &mut self,
        operation: usize,
        key: usize,
        span: &Span,
        now_ns: u64,
        fx: &mut impl Effects,
    ) -> Attempt {
        if self.scatters.is_early(key) {
            return Attempt::Blocked; // what this session has sent before goes first
        }
        let worker_key = match self.table.rights.holder(span) {
            Holder::Worker(worker) => worker,
            Holder::Leaving(_) => return Attempt::Leaving,
            // Its holder may not have come back from under an earlier director.
            Holder::Nobody if self.table.rights.is_withheld() => return Attempt::Blocked,
            // He has not come back in time, and may be working on it still.
            Holder::Nobody if self.table.rights.is_withheld_in(span.space.service()) => {
                let unheld = self.table.operation(operation).unheld;
                return match unheld {
                    Some(Unheld::Error) => Attempt::End(Status::NotHeld),
                    _ => Attempt::Blocked,
                };
            }
            Holder::Nobody => match self.table.operation(operation).unheld {
                Some(Unheld::Error) => return Attempt::End(Status::NotHeld),
                Some(Unheld::Offer) => match self.offer(operation, key, span, now_ns, fx) {
                    Some(worker) => worker,
                    None => return Attempt::Blocked,
                },
                _ => return Attempt::Blocked,
            },
        };
        let found = self.table.operation(operation);
        let silent = if found.unheld == Some(Unheld::Error) {
            Attempt::End(Status::NotHeld)
        } else {
            Attempt::Blocked
        };
        let Some(&provider) = found.providers.iter().find(|p| p.worker == worker_key) else { return silent };
        let Some(worker) = self.workers.get_mut(worker_key) else { return silent };
        match worker.standing {
            Standing::Serving if worker.pulse.stalled => return silent,
            Standing::Serving => {}
            Standing::Draining => return Attempt::Blocked,
            Standing::Gone => return silent,
        }
        match reach_only(&mut self.sessions[key], key, worker, worker_key, &mut Asking::new(now_ns), fx) {
            Reach::Never => Attempt::End(Status::NoWorker),
            Reach::Soon | Reach::Unknown => Attempt::NoRoom,
            Reach::Now(index) => {
                if !worker.has_room() {
                    worker.look(now_ns);
                }
                if worker.has_room() && !worker.owes_part {
                    Attempt::Give(provider, index)
                } else {
                    Attempt::NoRoom
                }
            }
        }
    }

    /// Makes the least loaded provider of a key its holder: not before new rules have been applied to all.
    pub(super) fn offer(
        &mut self,
        operation: usize,
        key: usize,
        span: &Span,
        now_ns: u64,
        fx: &mut impl Effects,
    ) -> Option<usize> {
        if self.guard.is_rechecking() {
            return None;
        }
        let resource = Key::from_word(span.first, span.space.is_name());
        let mut best: Option<(u64, usize)> = None;
        let mut asking = Asking::new(now_ns);
        for provider in &self.table.operation(operation).providers {
            let may_hold = self.table.covers(provider, resource)
                && self.may_acquire(provider.worker, span).allow
                && !self.table.rights.is_leaving(provider.worker, span.space.service());
            let Some(worker) = self.workers.get_mut(provider.worker) else { continue };
            if !may_hold || !worker.is_serving() {
                continue;
            }
            let reached = reach_only(&mut self.sessions[key], key, worker, provider.worker, &mut asking, fx);
            if matches!(reached, Reach::Never) {
                continue;
            }
            worker.look(now_ns);
            let load = worker.in_flight();
            if best.is_none_or(|(least, _)| load < least) {
                best = Some((load, provider.worker));
            }
        }
        let (_, worker) = best?;
        let granted = self.table.rights.offer(worker, *span);
        self.tell(fx);
        granted.then_some(worker)
    }

    /// Gives calls that wait to holders that have room now, and ends those that can't wait on.
    pub(super) fn serve_parked(&mut self, now_ns: u64, fx: &mut impl Effects) -> bool {
        if self.held.look_ns != 0 && now_ns >= self.held.look_ns {
            self.held.look_ns = 0;
            self.held.wake_all();
        }
        let (mut found, mut no_room) = (false, Vec::new());
        for _ in 0..self.held.ready.len().min(BUDGET) {
            let Some(span) = self.held.ready.pop_front() else { break };
            // Its turn is over before it is served: who wakes it meanwhile, because a key was granted, gives it another.
            if let Some(queue) = self.held.queues.get_mut(&span) {
                queue.has_turn = false;
            }
            let (served, again) = self.serve_queue(&span, now_ns, fx);
            found |= served;
            if again {
                no_room.push(span);
            }
        }
        // Those that were woken in this turn have theirs in the next one. Who found no room waits for a worker.
        found |= !self.held.ready.is_empty();
        no_room.iter().for_each(|span| self.held.wake(span));
        found
    }

    /// Calls on one key, in their order. Returns whether any was served, and whether to look again in the next turn.
    fn serve_queue(&mut self, span: &Span, now_ns: u64, fx: &mut impl Effects) -> (bool, bool) {
        for served in 0..BUDGET {
            let Some((call, operation, mut record)) = self.first_parked(span) else {
                return (served > 0, false);
            };
            let request = Request::of_client(&record);
            let key = call.session;
            let attempt = if self.sessions[key].is_cancelled(request.ticket) {
                Attempt::End(Status::Cancelled)
            } else {
                self.attempt_waiting(operation, call, span, now_ns, fx)
            };
            match attempt {
                Attempt::NoRoom => return (served > 0, true),
                Attempt::Blocked => return (served > 0, false),
                Attempt::Leaving => {
                    let may_end = self.table.operation(operation).unheld == Some(Unheld::Error);
                    if !may_end || !self.is_silent(span, now_ns) {
                        return (served > 0, false);
                    }
                    self.drop_waiting(key, call.slot);
                    self.refuse(key, request.ticket, Status::NotHeld, fx);
                }
                Attempt::End(status) => {
                    self.drop_waiting(key, call.slot);
                    self.refuse(key, request.ticket, status, fx);
                }
                Attempt::Give(to, index) => {
                    let keys = self.take_waiting(call, &request);
                    if request.flags & flag::SCATTER != 0 {
                        self.give_part(key, &mut record, &keys, to, index, fx);
                    } else {
                        self.dispatch(key, &mut record, &request, to, index, fx);
                    }
                }
            }
        }
        (true, true)
    }

    /// Whether a hand-over takes too long; else notes when to look again.
    fn is_silent(&mut self, span: &Span, now_ns: u64) -> bool {
        let Some(queue) = self.held.queues.get_mut(span) else { return false };
        if queue.leaving_ns == 0 {
            queue.leaving_ns = now_ns.max(1);
        }
        let at_ns = queue.leaving_ns + HAND_OVER_NS;
        if now_ns >= at_ns {
            return true;
        }
        self.held.look_ns = self.held.wake_at_ns().min(at_ns);
        false
    }

    /// The first call that waits on a key, its operation and its record.
    fn first_parked(&mut self, span: &Span) -> Option<(Call, usize, Record)> {
        let &(call, _) = self.held.queues.get(span)?.calls.front()?;
        let session = self.sessions.get_mut(call.session)?;
        let record = *session.parked_record(call.slot)?;
        let operation = session.route(Request::of_client(&record).operation)?.operation;
        Some((call, operation, record))
    }

    /// Takes a call out of wherever it waits.
    pub(super) fn drop_waiting(&mut self, key: usize, slot: u32) {
        let part = self.forget_part(Call { session: key, slot });
        let Some(session) = self.sessions.get_mut(key) else { return };
        if let Some(part) = part {
            if part.in_their_queues {
                self.forget_in_queues(key, slot, &part.keys);
            }
        } else if let Some(&record) = session.parked_record(slot) {
            let request = Request::of_client(&record);
            if let (Some(route), Some(resource)) = (session.route(request.operation), request.resource()) {
                let service = self.table.operation(route.operation).service;
                self.held.forget(&Span::of_key(service, resource), Call { session: key, slot });
            }
        }
        self.sessions[key].remove_waiting(slot);
    }

    fn forget_in_queues(&mut self, key: usize, slot: u32, keys: &[Key]) {
        let session = &mut self.sessions[key];
        let operation = session.parked_record(slot).map(|record| Request::of_client(record).operation);
        let Some(operation) = operation.and_then(|o| session.route(o)).map(|route| route.operation) else {
            return;
        };
        for span in self.spans_of(operation, keys) {
            self.held.forget(&span, Call { session: key, slot });
        }
    }

    /// Takes a call out of wherever it waits. Returns the keys of one that is a part of a scatter.
    fn take_waiting(&mut self, call: Call, request: &Request) -> Vec<Key> {
        let keys = match self.scatters.keys(call) {
            Some(keys) => keys.to_vec(),
            None => request.resource().into_iter().collect(),
        };
        self.drop_waiting(call.session, call.slot);
        keys
    }
}
