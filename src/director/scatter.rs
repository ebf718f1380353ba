//! One request to several workers: who gets which part.
//!
//! ```text
//! n records of a client, gathered ─► plan: k-th provider, or worker by worker whoever has the keys
//!     ─► NO_PART for every ticket that is no part's      (all of them before the first part can be answered)
//!     ─► part ─┬─► its worker has room: ledger, ring
//!              ├─► waits for that worker, in the session's own place
//!              ├─► exclusive keys: waits in the queues of all its keys, and goes when it is the first in each
//!              └─► an error: an error part
//! ```
//! A part is for one worker. If that one goes before it has the part, a part with keys goes to whoever has all of
//! them; else it ends NOT_BEGUN: what it is about has been scattered among others, and only its client can ask anew.
//!
//! After a director's death a scatter is published again like all else. If nothing of it has ended and nothing of it
//! is in a ledger, no ticket of it was ever a part or none: it begins anew. Else who was to get what is lost: parts
//! that a ledger names are settled like any call, all others have never begun, and end so.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::core::{DirectorCore, Effects, Peer};
use super::held::Call;
use super::mapping::{Asking, Reach, reach_only};
use super::schedule::suits;
use super::table::Provider;
use super::table::rights::{Holder, Span};
use super::worker::Worker;
use crate::core::Memory;
use crate::error::Status;
use crate::layout::{HEAD, LINE, Record, ReplyHead, Request, WORD_TAKEN_NS, flag};
use crate::resource::{Key, Policy, Unheld};
use crate::scatter;

/// Parts given to one worker in one turn.
const BUDGET: usize = 64;

/// Where a part waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Queued {
    /// For this worker: its key, and its id, since keys are used again.
    Worker(usize, u64),
    /// In the queues of its keys.
    Keys,
}

/// A part that waits.
struct Waiting {
    keys: Vec<Key>,
    queued: Queued,
}

/// All parts that wait, and scatters that can't be planned yet.
#[derive(Default)]
pub(super) struct Scatters {
    parts: HashMap<Call, Waiting>,
    /// By worker's key: parts that wait for it alone.
    queues: BTreeMap<usize, VecDeque<Call>>,
    /// Scatters that came before all workers had come back from under an earlier director.
    early: Vec<(usize, Vec<u32>)>,
}

impl Scatters {
    /// Whether nothing waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.queues.is_empty() && self.early.is_empty()
    }

    /// Whether a scatter of this session can't be planned yet: what the session has sent after it on exclusive keys must
    /// not go before it.
    #[inline]
    pub fn is_early(&self, session: usize) -> bool {
        !self.early.is_empty() && self.early.iter().any(|&(key, _)| key == session)
    }

    /// Whether there is any such.
    #[inline]
    pub fn has_early(&self) -> bool {
        !self.early.is_empty()
    }

    /// Workers for which parts wait.
    pub fn workers(&self) -> impl Iterator<Item = usize> {
        self.queues.keys().copied()
    }

    /// A session is gone, and has no part that waits any more.
    pub fn forget_session(&mut self, session: usize) {
        self.early.retain(|(key, _)| *key != session);
    }

    /// The keys of a part that waits in their queues.
    pub fn keys(&self, call: Call) -> Option<&[Key]> {
        self.parts.get(&call).map(|part| &part.keys[..])
    }
}

/// Who gets a part.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// This worker.
    To(usize),
    /// Whoever gets the key, alone.
    Alone,
    /// Nobody.
    End(Status),
}

/// A part as it is planned.
struct Part {
    leader: usize,
    mask: u64,
    fate: Fate,
}

impl Part {
    fn keys(&self, all: &[Key]) -> Vec<Key> {
        scatter::places(self.mask).filter_map(|i| all.get(i).copied()).collect()
    }
}

/// Who holds some keys.
pub(super) enum Holders {
    /// One worker all of them.
    One,
    /// Nobody any of them.
    Nobody,
    /// Some are being handed over.
    Leaving,
    /// Not all the same.
    Several,
}

impl<M: Memory> DirectorCore<M> {
    /// A record of a scatter: with the last of them it is complete.
    #[cold]
    pub(super) fn route_scatter(
        &mut self,
        key: usize,
        record: Record,
        request: Request,
        now_ns: u64,
        fx: &mut impl Effects,
    ) {
        let place = scatter::Place::of(&record);
        if place.count == 0 {
            self.settle_part(key, record, fx);
        } else if place.is_last() {
            let slots = self.sessions[key].take_gathered();
            debug_assert_eq!(slots.len(), usize::from(place.count), "of ticket {}", request.ticket);
            self.scatter(key, slots, now_ns, fx);
        }
    }

    /// A scatter is complete.
    fn scatter(&mut self, key: usize, slots: Vec<u32>, now_ns: u64, fx: &mut impl Effects) {
        let session = &mut self.sessions[key];
        let taken = slots.iter().map(|&slot| session.ungather(slot));
        let mut records: Vec<Record> = taken.flatten().collect();
        let Some(first) = records.first().map(Request::of_client) else { return };
        if first.flags & flag::AGAIN != 0 && !self.is_untouched(key, &mut records) {
            records.into_iter().for_each(|record| self.settle_part(key, record, fx));
            return;
        }
        let stopping = self.is_stopping();
        let session = &mut self.sessions[key];
        let route = session.route(first.operation).map(|route| route.operation);
        let status = match route {
            _ if stopping => Status::DirectorGone,
            None => Status::NoSuchService,
            _ if first.deadline_ns != 0 && now_ns > first.deadline_ns => Status::DeadlineExceeded,
            _ if session.is_cancelled(first.ticket) => Status::Cancelled,
            Some(_) if self.recovery.awaits_workers() => {
                // Who provides and holds what isn't all known.
                records.iter().for_each(|record| session.gather_again(record));
                return self.scatters.early.push((key, slots));
            }
            Some(_) if !self.is_scatter_let_through(key, &first) => Status::PermissionDenied,
            Some(operation) => return self.plan(key, operation, records, now_ns, fx),
        };
        self.end_scatter(key, &records, status, 0, fx);
    }

    /// Scatters that came before all workers were back.
    pub(super) fn scatter_early(&mut self, now_ns: u64, fx: &mut impl Effects) {
        if self.is_stopping() || !self.recovery.awaits_workers() {
            for (key, slots) in std::mem::take(&mut self.scatters.early) {
                self.scatter(key, slots, now_ns, fx);
            }
            self.held.wake_all();
        }
    }

    /// Decides who gets what, says what is no part, and then dispatches.
    fn plan(
        &mut self,
        key: usize,
        operation: usize,
        records: Vec<Record>,
        now_ns: u64,
        fx: &mut impl Effects,
    ) {
        let keys: Vec<Key> = records.iter().filter_map(|r| Request::of_client(r).resource()).collect();
        let parts = if keys.is_empty() {
            self.plan_for_all(operation, records.len())
        } else {
            let route = records.first().map_or(0, |first| Request::of_client(first).operation);
            Ok(self.plan_by_key(key, (route, operation), &keys, now_ns, fx))
        };
        let parts = match parts {
            Ok(parts) => parts,
            Err((status, needed)) => return self.end_scatter(key, &records, status, needed, fx),
        };
        self.end_no_parts(key, &records, &parts);
        for part in parts {
            let keys = part.keys(&keys);
            let mut record = records[part.leader];
            scatter::set_mask(&mut record, part.mask);
            if Request::of_client(&record).flags & flag::TRACED != 0 {
                record[WORD_TAKEN_NS] = fx.clock_ns();
            }
            self.begin_part(key, record, keys, part.fate, now_ns, fx);
        }
    }

    /// The k-th record is for the k-th provider.
    fn plan_for_all(&self, operation: usize, records: usize) -> Result<Vec<Part>, (Status, u64)> {
        let providers = self.table.operation(operation).providers.iter();
        let serving = |p: &&Provider| self.workers.get(p.worker).is_some_and(Worker::is_serving);
        let part = |(leader, p): (usize, &Provider)| Part { leader, mask: 0, fate: Fate::To(p.worker) };
        let parts: Vec<Part> = providers.filter(serving).enumerate().map(part).collect();
        match parts.len() {
            0 => Err((Status::NoWorker, 0)),
            needed if needed > records => Err((Status::TooManyParts, needed as u64)),
            _ => Ok(parts),
        }
    }

    /// Keys that one worker has are one part.
    fn plan_by_key(
        &mut self,
        key: usize,
        (route, operation): (u32, usize),
        keys: &[Key],
        now_ns: u64,
        fx: &mut impl Effects,
    ) -> Vec<Part> {
        let mut parts: Vec<Part> = Vec::new();
        for (i, &resource) in keys.iter().enumerate() {
            let unheld = self.table.operation(operation).unheld;
            let fate = match unheld {
                _ if !self.is_key_let_through(key, route, resource) => Fate::End(Status::PermissionDenied),
                Some(_) => self.holder_for_part(key, operation, resource, now_ns, fx),
                None => self.provider_for_part(operation, resource, &parts),
            };
            match parts.iter_mut().find(|p| p.fate == fate && fate != Fate::Alone) {
                Some(part) => part.mask |= 1 << i,
                None => parts.push(Part { leader: i, mask: 1 << i, fate }),
            }
        }
        parts
    }

    /// Whoever holds a key, if that is beyond doubt.
    fn holder_for_part(
        &mut self,
        key: usize,
        operation: usize,
        resource: Key,
        now_ns: u64,
        fx: &mut impl Effects,
    ) -> Fate {
        let found = self.table.operation(operation);
        let (unheld, span) = (found.unheld, Span::of_key(found.service, resource));
        let holder = match self.table.rights.holder(&span) {
            Holder::Worker(worker) => Some(worker),
            Holder::Nobody if unheld == Some(Unheld::Offer) && !self.table.rights.is_withheld() => {
                self.offer(operation, key, &span, now_ns, fx)
            }
            Holder::Leaving(_) | Holder::Nobody => None,
        };
        match holder {
            Some(worker) if self.workers.get(worker).is_some_and(Worker::is_serving) => Fate::To(worker),
            _ => Fate::Alone,
        }
    }

    /// Somebody who provides a key: one who has a part already, so that parts are few; else the one with the fewest
    /// calls in its hands, or the key's own, where keys have their own. Who stands still is the last to be asked.
    fn provider_for_part(&self, operation: usize, resource: Key, parts: &[Part]) -> Fate {
        let found = self.table.operation(operation);
        let affine = found.policy == Policy::Affinity;
        let can = |p: &&Provider| {
            self.workers.get(p.worker).is_some_and(Worker::is_serving) && self.table.covers(p, resource)
        };
        let is_silent = |p: &&Provider| self.workers.get(p.worker).is_some_and(|w| w.pulse.silent);
        let has_part = |p: &&Provider| {
            !affine && !is_silent(p) && parts.iter().any(|part| part.fate == Fate::To(p.worker))
        };
        let mut able = found.providers.iter().filter(can);
        let rank = |p: &&Provider| {
            let rank = self.workers.get(p.worker).map_or(0, |worker| match affine {
                true => !suits(worker.id, resource),
                false => worker.in_flight(),
            });
            (is_silent(p), rank)
        };
        let chosen = able.clone().find(has_part).or_else(|| able.by_ref().min_by_key(rank));
        chosen.map_or(Fate::End(Status::NoWorker), |p| Fate::To(p.worker))
    }

    /// Ends the tickets that no part has, each with the index of the part that its key is in. The client is not rung:
    /// it will be, for a part.
    fn end_no_parts(&mut self, key: usize, records: &[Record], parts: &[Part]) {
        for (i, record) in records.iter().enumerate() {
            if parts.iter().any(|part| part.leader == i) {
                continue;
            }
            let of = parts.iter().find(|part| part.mask >> i.min(63) & 1 == 1 && i < 64);
            self.end_no_part(key, Request::of_client(record).ticket, of.map_or(0, |part| part.leader));
        }
    }

    fn end_no_part(&mut self, key: usize, ticket: u64, of: usize) {
        let mut reply = [0; LINE];
        let head = ReplyHead { status: Status::NoPart as u16, code: of as u32, ..ReplyHead::default() };
        head.write(&mut reply);
        self.sessions[key].answer(ticket, &reply, HEAD);
    }

    /// A scatter comes to nothing, as a whole: one error part.
    fn end_scatter(
        &mut self,
        key: usize,
        records: &[Record],
        status: Status,
        needed: u64,
        fx: &mut impl Effects,
    ) {
        let Some((first, others)) = records.split_first() else { return };
        others.iter().for_each(|record| self.end_no_part(key, Request::of_client(record).ticket, 0));
        self.refuse_with(key, Request::of_client(first).ticket, status, needed, fx);
    }

    /// Gives a part to its worker, or lets it wait.
    fn begin_part(
        &mut self,
        key: usize,
        mut record: Record,
        keys: Vec<Key>,
        fate: Fate,
        now_ns: u64,
        fx: &mut impl Effects,
    ) {
        let request = Request::of_client(&record);
        let Some(route) = self.sessions[key].route(request.operation) else { return };
        let (operation, waiting) = (route.operation, route.waiting);
        let is_exclusive = self.table.operation(operation).unheld.is_some() && !keys.is_empty();
        let worker = match fate {
            Fate::End(status) => return self.refuse(key, request.ticket, status, fx),
            Fate::Alone => return self.route_held(key, record, request, keys[0], now_ns, fx),
            Fate::To(_) if is_exclusive => {
                return self.route_held_part(key, record, request, keys, now_ns, fx);
            }
            Fate::To(worker) => worker,
        };
        let mut owes = false;
        if !self.scatters.queues.contains_key(&worker) {
            match self.try_part(key, operation, worker, now_ns, fx) {
                Try::Give(to, index) => return self.give_part(key, &mut record, &keys, to, index, fx),
                Try::End(status) => return self.refuse(key, request.ticket, status, fx),
                Try::NoRoom => owes = true,
                Try::NotMapped => {}
            }
        }
        if waiting >= self.settings.waiting_per_route {
            return self.refuse(key, request.ticket, Status::Busy, fx);
        }
        self.expire_by(request.deadline_ns);
        let slot = self.sessions[key].park(&request, &record);
        self.queue_part(Call { session: key, slot }, keys, worker);
        self.workers[worker].owes_part |= owes;
    }

    fn queue_part(&mut self, call: Call, keys: Vec<Key>, worker: usize) {
        let queued = Queued::Worker(worker, self.workers[worker].id);
        self.scatters.parts.insert(call, Waiting { keys, queued });
        self.scatters.queues.entry(worker).or_default().push_back(call);
    }

    /// A part waits in the queues of its keys.
    pub(super) fn note_held_part(&mut self, call: Call, keys: Vec<Key>) {
        self.scatters.parts.insert(call, Waiting { keys, queued: Queued::Keys });
    }

    /// Whether a worker can be given a part now.
    fn try_part(
        &mut self,
        key: usize,
        operation: usize,
        worker_key: usize,
        now_ns: u64,
        fx: &mut impl Effects,
    ) -> Try {
        let found = self.table.operation(operation).providers.iter().find(|p| p.worker == worker_key);
        let Some(&provider) = found else { return Try::End(Status::NotBegun) };
        let Some(worker) = self.workers.get_mut(worker_key).filter(|w| w.is_serving()) else {
            return Try::End(Status::NotBegun);
        };
        match reach_only(&mut self.sessions[key], key, worker, worker_key, &mut Asking::new(now_ns), fx) {
            Reach::Never => Try::End(Status::NoWorker),
            Reach::Soon | Reach::Unknown => Try::NotMapped,
            Reach::Now(index) => {
                if !worker.has_room() {
                    worker.look(now_ns);
                }
                if worker.has_room() { Try::Give(provider, index) } else { Try::NoRoom }
            }
        }
    }

    /// Seals a part for its worker, and hands it over.
    pub(super) fn give_part(
        &mut self,
        key: usize,
        record: &mut Record,
        keys: &[Key],
        to: Provider,
        index: u16,
        fx: &mut impl Effects,
    ) {
        scatter::seal(self.workers[to.worker].seal, record, keys);
        let request = Request::of_client(record);
        self.dispatch(key, record, &request, to, index, fx);
    }

    /// Gives parts that wait to workers that have room now, and ends those whose worker is gone.
    pub(super) fn serve_parts(&mut self, now_ns: u64, fx: &mut impl Effects) -> bool {
        let workers: Vec<usize> = self.scatters.workers().collect();
        workers.into_iter().fold(false, |found, worker| self.serve_parts_of(worker, now_ns, fx) | found)
    }

    fn serve_parts_of(&mut self, worker: usize, now_ns: u64, fx: &mut impl Effects) -> bool {
        let waiting = self.scatters.queues.get(&worker).map_or(0, VecDeque::len);
        let mut served = 0;
        for _ in 0..waiting.min(BUDGET) {
            let Some(&call) = self.scatters.queues.get(&worker).and_then(VecDeque::front) else { break };
            let Call { session: key, slot } = call;
            let Some(&record) = self.sessions.get(key).and_then(|s| s.parked_record(slot)) else { break };
            let request = Request::of_client(&record);
            match self.try_waiting(call, &request, worker, now_ns, fx) {
                Try::Give(to, index) => {
                    let (mut record, keys) = (record, self.take_part(call));
                    self.give_part(key, &mut record, &keys, to, index, fx);
                    served += 1;
                    continue;
                }
                Try::End(Status::NotBegun) if self.move_part(call, &request) => {}
                Try::End(status) => {
                    self.take_part(call);
                    self.refuse(key, request.ticket, status, fx);
                }
                Try::NotMapped => self.pass_part(worker),
                Try::NoRoom => {
                    // Calls and parts take turns, where a worker has no room for all.
                    let owes = served == 0;
                    self.workers[worker].owes_part = owes;
                    return served > 0;
                }
            }
        }
        self.owes_no_part(worker);
        served > 0
    }

    fn try_waiting(
        &mut self,
        call: Call,
        request: &Request,
        worker: usize,
        now_ns: u64,
        fx: &mut impl Effects,
    ) -> Try {
        let session = &mut self.sessions[call.session];
        if session.is_cancelled(request.ticket) {
            return Try::End(Status::Cancelled);
        }
        let Some(route) = session.route(request.operation) else { return Try::End(Status::NotBegun) };
        let operation = route.operation;
        let is_same = self.scatters.parts.get(&call).is_some_and(|part| {
            self.workers.get(worker).is_some_and(|w| part.queued == Queued::Worker(worker, w.id))
        });
        if is_same {
            self.try_part(call.session, operation, worker, now_ns, fx)
        } else {
            Try::End(Status::NotBegun)
        }
    }

    /// The first part in a worker's queue lets the others pass.
    fn pass_part(&mut self, worker: usize) {
        if let Some(queue) = self.scatters.queues.get_mut(&worker) {
            queue.rotate_left(1);
        }
    }

    /// A part whose worker is gone is for another one, if there is one who has all its keys.
    fn move_part(&mut self, call: Call, request: &Request) -> bool {
        let Some(part) = self.scatters.parts.get(&call).filter(|part| !part.keys.is_empty()) else {
            return false;
        };
        let Some(route) = self.sessions[call.session].route(request.operation) else { return false };
        let able = |p: &&Provider| {
            let serving = self.workers.get(p.worker).is_some_and(Worker::is_serving);
            serving && part.keys.iter().all(|&key| self.table.covers(p, key))
        };
        let operation = self.table.operation(route.operation);
        let Some(to) = operation.providers.iter().find(able).map(|p| p.worker) else { return false };
        let part = self.forget_part(call);
        self.queue_part(call, part.map_or(Vec::new(), |part| part.keys), to);
        self.news = true; // that one's queue may have been looked at already
        true
    }

    /// Takes a part out of wherever it waits. Returns its keys.
    fn take_part(&mut self, call: Call) -> Vec<Key> {
        let keys = self.scatters.keys(call).map(<[Key]>::to_vec);
        self.drop_waiting(call.session, call.slot);
        keys.unwrap_or_default()
    }

    /// A part that waited in a worker's queue, or in those of its keys, does so no more.
    pub(super) fn forget_part(&mut self, call: Call) -> Option<PartKeys> {
        let Waiting { keys, queued } = self.scatters.parts.remove(&call)?;
        if let Queued::Worker(worker, _) = queued
            && let Some(queue) = self.scatters.queues.get_mut(&worker)
        {
            // Whoever is served is the first, so only one that ends early is searched for.
            if let Some(at) = queue.iter().position(|&c| c == call) {
                queue.remove(at);
            }
            if queue.is_empty() {
                self.scatters.queues.remove(&worker);
                self.owes_no_part(worker);
            }
        }
        Some(PartKeys { keys, in_their_queues: queued == Queued::Keys })
    }

    /// A worker's next room is anybody's. Calls for which it had none, because it owed it to a part, are looked at once
    /// more before anybody sleeps.
    fn owes_no_part(&mut self, worker: usize) {
        if let Some(worker) = self.workers.get_mut(worker) {
            self.news |= std::mem::take(&mut worker.owes_part);
        }
    }

    /// Who holds these keys.
    pub(super) fn holders(&self, spans: &[Span]) -> Holders {
        let mut holders = spans.iter().map(|span| self.table.rights.holder(span));
        if holders.clone().any(|holder| matches!(holder, Holder::Leaving(_))) {
            return Holders::Leaving;
        }
        let first = holders.next().unwrap_or(Holder::Nobody);
        match (holders.all(|holder| holder == first), first) {
            (false, _) => Holders::Several,
            (true, Holder::Nobody) => Holders::Nobody,
            (true, _) => Holders::One,
        }
    }

    /// Whether nothing of a scatter that was published again has ended, or was in anybody's hands: then it is a new one.
    fn is_untouched(&mut self, key: usize, records: &mut [Record]) -> bool {
        let session = &self.sessions[key];
        let untouched = records.iter().all(|record| {
            let request = Request::of_client(record);
            request.flags & flag::QUARANTINED == 0
                && !session.is_answered(request.ticket)
                && self.recovery.never_begins(session.id, request.ticket)
        });
        if untouched {
            records.iter_mut().for_each(|record| Request::set_flags(record, 0, flag::AGAIN));
        }
        untouched
    }

    /// A record of a scatter of which others have ended, or may have begun. What was to become of it can't be known,
    /// unless a ledger names it.
    fn settle_part(&mut self, key: usize, mut record: Record, fx: &mut impl Effects) {
        let request = Request::of_client(&record);
        scatter::Place { count: 0, ..scatter::Place::of(&record) }.write(&mut record);
        if self.settle(key, record, &request, fx).is_some() {
            self.refuse(key, request.ticket, Status::NotBegun, fx);
        }
    }

    /// The same as `refuse`, with a number that says how many there would have to be.
    fn refuse_with(&mut self, key: usize, ticket: u64, status: Status, len: u64, fx: &mut impl Effects) {
        let Some(session) = self.sessions.get_mut(key).filter(|s| !s.retired) else { return };
        let mut record = [0; LINE];
        ReplyHead { status: status as u16, len, ..ReplyHead::default() }.write(&mut record);
        session.answer(ticket, &record, HEAD);
        self.refused += 1;
        if session.client.must_ring(&session.inbox, &session.outbox) {
            fx.ring(Peer::Session(key));
        }
    }
}

/// What is left of a part that waits no more.
pub(super) struct PartKeys {
    pub keys: Vec<Key>,
    pub in_their_queues: bool,
}

/// What became of an attempt to give a part to its worker.
enum Try {
    Give(Provider, u16),
    NoRoom,
    /// The worker has not mapped the session yet.
    NotMapped,
    End(Status),
}
