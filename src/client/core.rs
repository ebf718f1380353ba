//! A client's session as a state machine: from a free slot to the outcome.
//!
//! ```text
//! reserve ─► submit ─► [request ring] … the worker … [reply slot] ─► look: Ended ─► release
//!   slot      ticket T = slot + N·generation            stamp T + 1       │
//!                                          NOT_BEGUN: a new ticket ◄──────┘  same slot, unseen by the caller
//!                       WORKER_DIED, where the operation is idempotent: the same
//! ```
//! A slot whose call its caller gave up is in *quarantine*: somebody may still write there, so slot and buffers come
//! back only when the stamp is in, and nobody looks at the outcome. Everything the client decides by lies in its
//! private memory; from the inbox it takes stamps and copies.

use std::collections::{BTreeMap, HashSet};

use super::group::Group;
use crate::core::parking::{Bell, Parking};
use crate::core::reply::Replies;
use crate::core::ring::Publisher;
use crate::core::{Memory, Read, Write};
use crate::error::Status;
use crate::layout::{
    HEAD, Inbox, LINE, Outbox, Record, ReplyHead, Request, SessionShape, TICKET_BITS, flag, reply_flag,
};
use crate::limits::{RUNS_MAX, TRIES_MAX};
use crate::scatter;

/// What a client's core asks of its shell.
pub trait Effects {
    /// Rings the director.
    fn ring_director(&mut self);
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How.
    pub status: Status,
    /// Whether the operation may have run.
    pub may_have_run: bool,
    /// The reply as it was found, as far as its head says that there is any; zeros if there is none.
    pub record: Record,
}

impl Outcome {
    fn without_reply(status: Status, may_have_run: bool) -> Self {
        Outcome { status, may_have_run, record: [0; LINE] }
    }

    /// What a reply says.
    pub(super) fn of_reply(ticket: u64, record: Record) -> Self {
        let mut outcome = Outcome { status: Status::Fault, may_have_run: true, record };
        outcome.judge(ticket);
        outcome
    }

    /// Sees from the record, which was read as the reply to this ticket, how the call ended.
    #[inline]
    fn judge(&mut self, ticket: u64) {
        self.status = if self.record[0] != ticket + 1 {
            Status::Fault // a stamp from the future: somebody scribbled here
        } else {
            Status::from_number(self.head().status).unwrap_or(Status::Fault)
        };
        // Whoever ends a call for its deadline or because it was cancelled has not run it.
        let not_run =
            matches!(self.status, Status::DeadlineExceeded | Status::Cancelled | Status::DirectorGone);
        self.may_have_run = self.status.may_have_run() && !not_run;
    }

    /// The head of the reply.
    pub fn head(&self) -> ReplyHead {
        ReplyHead::of(&self.record)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Free,
    /// Reserved by its caller, not yet submitted.
    Reserved,
    /// In somebody's hands.
    Open,
    /// The caller gave it up: free when stamped.
    Quarantined,
    /// The outcome waits for its caller.
    Ended(Returned),
    /// The outcome has been looked at; the reply's buffer is in use until `release`.
    Held(Returned),
    /// Its tickets are used up: see [`TICKETS_END`].
    Retired,
}

/// Tickets are below this. A slot that has no room below for one more call, with all its tries, is used no more. At a
/// million calls a second that is 50 days for one slot of 64, and nine years for all of them.
const TICKETS_END: u64 = 1 << TICKET_BITS;

/// Whether the reply right has come back: only then may a slot be used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Returned {
    Yes,
    No,
}

pub(super) struct Slot {
    pub state: State,
    /// The ticket of the attempt that is under way, or was the last.
    pub ticket: u64,
    /// The ticket of the first attempt: the call's name.
    name: u64,
    pub tries: u32,
    /// Attempts that may have run, and whose worker died.
    died: u32,
    /// The name of the scatter that it is a ticket of; 0: of none.
    pub group: u64,
    deadline_ns: u64,
    record: Record,
    /// Where the record was last published: the order of the calls.
    position: u64,
    /// Nobody will look at the outcome.
    one_way: bool,
    /// Once `Ended`. Of its record, what the reply did not use is left from earlier ones.
    pub outcome: Outcome,
}

/// A session, seen from its client.
pub struct ClientCore<M: Memory> {
    outbox: M::Rw,
    pub(super) inbox: M::Rw,
    out: Outbox,
    pub(super) at: Inbox,
    ring: Publisher<LINE>,
    pub(super) replies: Replies<LINE>,
    parking: Parking,
    director: Bell,
    pub(super) slots: Vec<Slot>,
    free: Vec<u32>,
    quarantined: u32,
    retired: u32,
    open: u32,
    one_way: u32,
    notices: u64,
    next_look: usize,
    /// Scatters, by name: see [`group`](super::group).
    pub(super) groups: BTreeMap<u64, Group>,
    /// Slots that scatters have given back.
    pub(super) freed: Vec<u32>,
    /// Whether a scatter, not a call, was named last.
    named_group: bool,
}

impl<M: Memory> ClientCore<M> {
    /// A session whose memory is fresh, or was used by nobody since.
    pub fn new(shape: SessionShape, outbox: M::Rw, inbox: M::Rw) -> Self {
        let (out, at, n) = (shape.outbox(), shape.inbox(), u64::from(shape.slots));
        let slot = |ticket| Slot {
            state: State::Free,
            ticket,
            name: 0,
            tries: 0,
            group: 0,
            died: 0,
            deadline_ns: 0,
            record: [0; LINE],
            position: 0,
            one_way: false,
            outcome: Outcome::without_reply(Status::Ok, false),
        };
        ClientCore {
            ring: Publisher::new(out.ring, shape.ring_slots(), 0),
            replies: Replies::new(at.replies, n),
            parking: Parking::new(out.waiting, 0),
            director: Bell::new(at.polled),
            slots: (0..n).map(slot).collect(),
            free: (0..shape.slots).rev().collect(),
            quarantined: 0,
            retired: 0,
            open: 0,
            one_way: 0,
            notices: 0,
            next_look: 0,
            groups: BTreeMap::new(),
            freed: Vec::new(),
            named_group: false,
            outbox,
            inbox,
            out,
            at,
        }
    }

    /// The position of the next request.
    pub fn published(&self) -> u64 {
        self.ring.next()
    }

    /// Calls that are in somebody's hands.
    pub fn open(&self) -> u32 {
        self.open
    }

    /// One-way calls among them.
    pub fn one_way(&self) -> u32 {
        self.one_way
    }

    /// Slots that wait for a stamp that nobody waits for.
    pub fn quarantined(&self) -> u32 {
        self.quarantined
    }

    /// Whether there is a free slot.
    pub fn has_free(&self) -> bool {
        !self.free.is_empty()
    }

    /// Whether so much of it waits for stamps that nobody waits for, that a new session would serve better: more than
    /// half of the slots, or all that are not in use.
    pub fn is_clogged(&self) -> bool {
        let much = self.quarantined as usize * 2 > self.slots.len();
        self.open == 0 && self.quarantined > 0 && (much || self.free.is_empty())
    }

    /// The director's word about this session: it moves once a second at least, as long as the director does.
    pub fn directors_sign(&self) -> u64 {
        self.inbox.load(self.at.polled)
    }

    /// Whether no slot is in use by anybody.
    pub fn is_unused(&self) -> bool {
        self.free.len() + self.retired as usize == self.slots.len()
    }

    /// Whether every outcome has been taken and every reply given back.
    pub fn is_settled(&self) -> bool {
        !self.slots.iter().any(|s| matches!(s.state, State::Open | State::Ended(_) | State::Held(_)))
    }

    /// The slot that a ticket lies in.
    pub fn slot_of(&self, ticket: u64) -> u32 {
        self.replies.slot(ticket) as u32
    }

    /// Whether nobody uses a slot, nor its buffers.
    pub fn is_free(&self, slot: u32) -> bool {
        matches!(self.slots[slot as usize].state, State::Free | State::Retired)
    }

    /// Whether more than half of the slots have no tickets left: time for a new session.
    pub fn is_used_up(&self) -> bool {
        self.retired as usize * 2 > self.slots.len()
    }

    /// Slots that are free, as far as is known.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Takes a free slot. With none, `reclaim` may find one.
    #[inline]
    pub fn reserve(&mut self) -> Option<u32> {
        let slot = self.free.pop()?;
        self.slots[slot as usize].state = State::Reserved;
        Some(slot)
    }

    /// Gives a slot back: unsent, or after its outcome was taken and its reply read. Returns whether it is free
    /// now; if not, it is quarantined until its stamp comes in, and `reclaim` finds it.
    #[inline]
    pub fn release(&mut self, slot: u32) -> bool {
        let s = &mut self.slots[slot as usize];
        match s.state {
            State::Reserved | State::Ended(Returned::Yes) | State::Held(Returned::Yes) => {
                self.set_free(slot);
                true
            }
            State::Ended(Returned::No) | State::Held(Returned::No) => {
                s.state = State::Quarantined;
                self.quarantined += 1;
                false
            }
            State::Free | State::Open | State::Quarantined | State::Retired => false,
        }
    }

    /// Nobody uses a slot any more: it is free, as long as there are tickets for it.
    #[inline]
    fn set_free(&mut self, slot: u32) {
        let n = self.slots.len() as u64;
        let s = &mut self.slots[slot as usize];
        if s.ticket + u64::from(TRIES_MAX) * n < TICKETS_END {
            s.state = State::Free;
            self.free.push(slot);
        } else {
            s.state = State::Retired;
            self.retired += 1;
        }
    }

    /// The record of a reserved slot, empty: to be built where it stays.
    #[inline]
    pub fn draft(&mut self, slot: u32) -> &mut Record {
        let record = &mut self.slots[slot as usize].record;
        *record = [0; LINE];
        record
    }

    /// Sends what was built in a reserved slot's [`draft`](Self::draft). Ticket and stamp are filled in here. Returns the
    /// call's name.
    #[inline]
    pub fn submit(&mut self, slot: u32, request: Request, fx: &mut impl Effects) -> u64 {
        let name = self.open_slot(slot, request);
        self.publish(slot, fx);
        name
    }

    /// Gives a reserved slot a ticket; its record is there.
    #[inline]
    pub(super) fn open_slot(&mut self, slot: u32, request: Request) -> u64 {
        let n = self.slots.len() as u64;
        let s = &mut self.slots[slot as usize];
        debug_assert_eq!(s.state, State::Reserved);
        s.ticket += n;
        s.name = s.ticket;
        (s.tries, s.died, s.group) = (1, 0, 0);
        s.deadline_ns = request.deadline_ns;
        Request { ticket: s.ticket, ..request }.write(&mut s.record);
        let name = s.name;
        s.one_way = request.flags & flag::ONE_WAY != 0;
        s.state = State::Open;
        self.open += 1;
        self.one_way += u32::from(s.one_way);
        name
    }

    #[inline]
    fn publish(&mut self, slot: u32, fx: &mut impl Effects) {
        self.publish_quietly(slot);
        self.ring_director(fx);
    }

    /// Publishes a slot's record. The director is to be rung after.
    #[inline]
    pub(super) fn publish_quietly(&mut self, slot: u32) {
        let s = &mut self.slots[slot as usize];
        s.position = self.ring.next();
        let record = &s.record;
        let used = if Request::needs_tail(record) { LINE } else { HEAD };
        self.ring.publish(&self.outbox, record, used);
    }

    /// Rings the director, if it sleeps.
    #[inline]
    pub(super) fn ring_director(&mut self, fx: &mut impl Effects) {
        if self.director.must_ring(&self.outbox, &self.inbox) {
            fx.ring_director();
        }
    }

    /// Looks at one call. `None`: it is open. The outcome is handed out once; then the slot is held until
    /// `release`. A name that is not (or no longer) a call's gives `None` for ever: see [`is_known`](Self::is_known).
    pub fn look(&mut self, name: u64, now_ns: u64, fx: &mut impl Effects) -> Option<Outcome> {
        self.take_ended(name, now_ns, fx).map(|slot| *self.outcome(slot))
    }

    /// The same, for who looks at the outcome where it is: in this slot, until `release`.
    #[inline]
    pub fn take_ended(&mut self, name: u64, now_ns: u64, fx: &mut impl Effects) -> Option<u32> {
        let slot = self.slot_of(name);
        let s = &self.slots[slot as usize];
        if s.name != name || s.group != 0 {
            return None;
        }
        self.settle(slot, now_ns, fx);
        let s = &mut self.slots[slot as usize];
        let State::Ended(returned) = s.state else { return None };
        s.state = State::Held(returned);
        Some(slot)
    }

    /// Whether the last attempt of a call has been answered: a load, before a look that costs more.
    #[inline]
    pub fn is_answered(&self, name: u64) -> bool {
        let ticket = self.slots[self.slot_of(name) as usize].ticket;
        self.replies.stamp(&self.inbox, ticket) > ticket
    }

    /// The outcome of the call in a slot: once it has ended, until the slot is reserved again.
    #[inline]
    pub fn outcome(&self, slot: u32) -> &Outcome {
        &self.slots[slot as usize].outcome
    }

    /// The route of a slot's call.
    pub fn operation_of(&self, slot: u32) -> u32 {
        Request::of_client(&self.slots[slot as usize].record).operation
    }

    /// Whether this names a call whose outcome has not been handed out.
    pub fn is_known(&self, name: u64) -> bool {
        let s = &self.slots[self.slot_of(name) as usize];
        s.name == name && s.group == 0 && !s.one_way && matches!(s.state, State::Open | State::Ended(_))
    }

    /// A call that has ended and whose outcome nobody has taken yet, or a scatter that has such a part. They are
    /// looked at in turn, so that none is passed over for ever.
    pub fn any_ended(&mut self, now_ns: u64, fx: &mut impl Effects) -> Option<u64> {
        if self.groups.is_empty() {
            return self.any_call_ended(now_ns, fx);
        }
        // Calls and scatters by turns.
        let found = if self.named_group {
            self.any_call_ended(now_ns, fx).or_else(|| self.any_group_ended(now_ns, fx))
        } else {
            self.any_group_ended(now_ns, fx).or_else(|| self.any_call_ended(now_ns, fx))
        };
        self.named_group = found.is_some_and(|name| self.is_group(name));
        found
    }

    /// A call that has ended and whose outcome nobody has taken yet.
    pub fn any_call_ended(&mut self, now_ns: u64, fx: &mut impl Effects) -> Option<u64> {
        let n = self.slots.len();
        for i in 0..n {
            let slot = (self.next_look + i) % n;
            if matches!(self.slots[slot].state, State::Free | State::Quarantined | State::Retired) {
                continue;
            }
            self.settle(slot as u32, now_ns, fx);
            if matches!(self.slots[slot].state, State::Ended(_)) && self.slots[slot].group == 0 {
                self.next_look = slot + 1;
                return Some(self.slots[slot].name);
            }
        }
        None
    }

    /// Brings an open call's state up to date.
    #[inline]
    pub(super) fn settle(&mut self, slot: u32, now_ns: u64, fx: &mut impl Effects) {
        let s = &mut self.slots[slot as usize];
        if s.state != State::Open {
            return;
        }
        if self.replies.take_into(&self.inbox, s.ticket, &mut s.outcome.record, ReplyHead::needs_tail) {
            return self.answered(slot, fx);
        }
        if s.deadline_ns != 0 && now_ns >= s.deadline_ns {
            return self.give_up(slot, Outcome::without_reply(Status::DeadlineExceeded, true));
        }
        let notices = self.inbox.load(self.at.notices);
        if notices != self.notices {
            self.notices = notices;
            self.inbox.acquire(); // pairs with the release between verdict and notices
            self.read_verdicts();
        }
    }

    /// A stamp is in: the call has ended, or is tried again.
    #[inline]
    fn answered(&mut self, slot: u32, fx: &mut impl Effects) {
        let n = self.slots.len() as u64;
        let s = &mut self.slots[slot as usize];
        s.outcome.judge(s.ticket);
        if s.outcome.status == Status::Cancelled {
            // Its caller has not given it up: a director took the session for gone, and its worker passed it over.
            s.outcome.status = Status::NotBegun;
        }
        let may_rerun = s.outcome.head().flags & reply_flag::MAY_RERUN != 0;
        s.died += u32::from(s.outcome.status == Status::WorkerDied);
        let again = match s.outcome.status {
            Status::NotBegun => true,
            Status::WorkerDied => may_rerun && s.died < RUNS_MAX,
            _ => false,
        };
        if again && s.tries < TRIES_MAX {
            s.tries += 1;
            s.ticket += n;
            let request = Request { ticket: s.ticket, ..Request::of_client(&s.record) };
            request.write(&mut s.record);
            return self.publish(slot, fx);
        }
        if s.died > 0 {
            // An earlier attempt may have run, whatever has become of this one.
            s.outcome.may_have_run = true;
            if !s.outcome.status.may_have_run() {
                s.outcome.status = Status::WorkerDied;
            }
        }
        self.end(slot, Returned::Yes);
    }

    /// An open call has ended: its caller is to hear of it, if there is one.
    #[inline]
    fn end(&mut self, slot: u32, returned: Returned) {
        self.open -= 1;
        let s = &mut self.slots[slot as usize];
        s.state = State::Ended(returned);
        if s.one_way {
            self.one_way -= 1;
            self.release(slot);
        }
    }

    /// Ends a call for its caller, though the reply right has not come back.
    fn give_up(&mut self, slot: u32, outcome: Outcome) {
        let s = &mut self.slots[slot as usize];
        self.outbox.store(self.out.cancel + slot as usize, s.ticket + 1);
        s.outcome = outcome;
        self.end(slot, Returned::No);
    }

    /// Director's verdicts: calls at a worker that lives and may never answer.
    fn read_verdicts(&mut self) {
        for slot in 0..self.slots.len() as u32 {
            let s = &self.slots[slot as usize];
            let verdict = self.inbox.load(self.at.verdict + slot as usize);
            if s.state == State::Open && verdict == s.ticket + 1 {
                self.give_up(slot, Outcome::without_reply(Status::MayHaveRun, true));
            }
        }
    }

    /// The caller gives the call up and wants to hear no more of it. Returns whether its slot is free already.
    #[inline]
    pub fn cancel(&mut self, name: u64) -> bool {
        let slot = self.slot_of(name);
        if self.slots[slot as usize].name != name {
            return false;
        }
        if self.slots[slot as usize].state == State::Open {
            self.give_up(slot, Outcome::without_reply(Status::Cancelled, true));
        }
        matches!(self.slots[slot as usize].state, State::Ended(_)) && self.release(slot)
    }

    /// Looks after the slots that nobody waits for: one-way calls that have ended, and quarantined slots whose stamp
    /// is in, are free again; calls whose deadline has passed end, so that nobody is woken for them again.
    pub fn reclaim(&mut self, now_ns: u64, fx: &mut impl Effects) {
        for slot in 0..self.slots.len() as u32 {
            let s = &mut self.slots[slot as usize];
            let expired = s.deadline_ns != 0 && now_ns >= s.deadline_ns;
            if s.state == State::Open && (s.one_way || expired) {
                self.settle(slot, now_ns, fx);
            } else if s.state == State::Quarantined && self.replies.stamp(&self.inbox, s.ticket) > s.ticket {
                self.quarantined -= 1;
                self.set_free(slot);
            }
        }
        self.reclaim_groups(now_ns, fx);
    }

    /// There is no director that could end what is open: the calls end, unless their replies are in. Their slots stay
    /// in quarantine; what has ended can still be looked at.
    pub fn abandon(&mut self, status: Status, fx: &mut impl Effects) {
        for slot in 0..self.slots.len() as u32 {
            // What nobody began has not run: there is nobody to try it again with.
            self.slots[slot as usize].tries = TRIES_MAX;
            self.settle(slot, 0, fx);
            if self.slots[slot as usize].state == State::Open {
                self.give_up(slot, Outcome::without_reply(status, true));
            }
        }
    }

    /// There is a new director, to which this session's routes are known: publishes again every ticket that has no
    /// answer, in the order in which they were sent. What its caller has given up is said to be: it is not to run
    /// any more, and its slot comes back all the same.
    ///
    /// `published` is what that director was told that [`published`](Self::published) says: what was published since, it
    /// has anyway.
    pub fn republish(&mut self, published: u64, fx: &mut impl Effects) {
        let mut open: Vec<(u64, usize)> = Vec::new();
        for (slot, s) in self.slots.iter().enumerate() {
            let has_right = !matches!(
                s.state,
                State::Free
                    | State::Retired
                    | State::Reserved
                    | State::Ended(Returned::Yes)
                    | State::Held(Returned::Yes)
            );
            let is_known = s.position >= published;
            if has_right && !is_known && self.replies.stamp(&self.inbox, s.ticket) <= s.ticket {
                open.push((s.position, slot));
            }
        }
        open.sort_unstable();
        let whole: HashSet<u64> = self.groups.keys().copied().filter(|&group| self.is_whole(group)).collect();
        for (_, slot) in open {
            let s = &mut self.slots[slot];
            let given_up = if s.state == State::Open { 0 } else { flag::QUARANTINED };
            s.position = self.ring.next();
            let mut record = s.record;
            if s.group != 0 && !whole.contains(&s.group) {
                // Others of its scatter have ended, or were given up: it is none that could still begin.
                scatter::Place { count: 0, ..scatter::Place::of(&record) }.write(&mut record);
            }
            Request::set_flags(&mut record, flag::AGAIN | given_up, 0);
            let used = if Request::needs_tail(&record) { LINE } else { HEAD };
            self.ring.publish(&self.outbox, &record, used);
        }
        if self.director.must_ring(&self.outbox, &self.inbox) {
            fx.ring_director();
        }
    }

    /// The deadline of one open call, for a wait in which the others are not looked at: they would wake it, and
    /// wake it again. `u64::MAX` if there is none.
    pub fn deadline_ns(&self, name: u64) -> u64 {
        let s = &self.slots[self.slot_of(name) as usize];
        let open = s.name == name && s.state == State::Open && s.deadline_ns != 0;
        if open { s.deadline_ns } else { u64::MAX }
    }

    /// The earliest deadline of an open call, for a wait in which each turn calls [`any_ended`](Self::any_ended) or
    /// [`reclaim`](Self::reclaim); `u64::MAX` if there is none.
    pub fn next_deadline_ns(&self) -> u64 {
        let open = self.slots.iter().filter(|s| s.state == State::Open && s.deadline_ns != 0);
        open.map(|s| s.deadline_ns).min().unwrap_or(u64::MAX)
    }

    /// Announces a sleep.
    pub fn park(&mut self) {
        self.parking.park(&self.outbox);
    }

    /// Takes the announcement back.
    pub fn awake(&mut self) {
        self.parking.awake(&self.outbox);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::group::Looked;
    use crate::memory::Mapped;
    use crate::memory::sealed::{self, Kind};

    struct NoBell;

    impl Effects for NoBell {
        fn ring_director(&mut self) {}
    }

    const SHAPE: SessionShape =
        SessionShape { slots: 2, reply_capacity: 64, request_arena: 0, reply_arena: 0 };

    fn core() -> ClientCore<Mapped> {
        let segment = |words: usize| {
            let bytes = words as u64 * 8;
            sealed::create("test", bytes, bytes, Kind::ReadWrite).expect("memory").0
        };
        ClientCore::new(SHAPE, segment(SHAPE.outbox().words), segment(SHAPE.inbox().words))
    }

    fn answer(core: &ClientCore<Mapped>, ticket: u64, status: Status) {
        answer_with(core, ticket, status, 0);
    }

    fn answer_with(core: &ClientCore<Mapped>, ticket: u64, status: Status, code: u32) {
        let mut record = [0; LINE];
        ReplyHead { status: status as u16, code, ..ReplyHead::default() }.write(&mut record);
        core.replies.publish(&core.inbox, ticket, &record, HEAD);
    }

    fn submit(core: &mut ClientCore<Mapped>, slot: u32) -> u64 {
        core.draft(slot);
        core.submit(slot, Request::default(), &mut NoBell)
    }

    #[test]
    fn a_slot_whose_tickets_are_used_up_is_used_no_more() {
        let mut core = core();
        assert_eq!(core.reserve(), Some(0));
        // Room for one more call, and not for two.
        core.slots[0].ticket = TICKETS_END - 2 * u64::from(TRIES_MAX) - 2;
        let name = submit(&mut core, 0);
        for again in 0..u64::from(TRIES_MAX) {
            let ticket = name + 2 * again;
            assert!(ticket < TICKETS_END);
            answer(&core, ticket, Status::NotBegun);
            core.settle(0, 1, &mut NoBell);
        }
        assert_eq!(core.look(name, 1, &mut NoBell).map(|o| o.status), Some(Status::NotBegun));
        assert!(core.release(0));
        assert!(core.is_unused() && core.is_free(0) && !core.is_used_up());
        assert_eq!(core.reserve(), Some(1));
        core.slots[1].ticket = TICKETS_END - 1;
        assert!(core.release(1));
        assert!(core.is_unused() && core.is_used_up());
        assert_eq!(core.reserve(), None);
    }

    fn died(core: &ClientCore<Mapped>, ticket: u64, flags: u16) {
        let mut record = [0; LINE];
        ReplyHead { status: Status::WorkerDied as u16, flags, ..ReplyHead::default() }.write(&mut record);
        core.replies.publish(&core.inbox, ticket, &record, HEAD);
    }

    #[test]
    fn an_idempotent_call_runs_three_times_at_most_and_another_once() {
        for (flags, runs) in [(reply_flag::MAY_RERUN, RUNS_MAX), (0, 1)] {
            let mut core = core();
            let slot = core.reserve().expect("a free slot");
            let name = submit(&mut core, slot);
            for run in 0..u64::from(runs) {
                assert_eq!(core.look(name, 1, &mut NoBell), None, "run {run}");
                died(&core, name + 2 * run, flags);
            }
            let outcome = core.look(name, 1, &mut NoBell).expect("it has ended");
            assert_eq!((outcome.status, outcome.may_have_run), (Status::WorkerDied, true));
        }
    }

    #[test]
    fn what_may_have_run_once_is_not_said_not_to_have_run() {
        let mut core = core();
        let slot = core.reserve().expect("a free slot");
        let name = submit(&mut core, slot);
        died(&core, name, reply_flag::MAY_RERUN);
        assert_eq!(core.look(name, 1, &mut NoBell), None);
        answer(&core, name + 2, Status::NoWorker);
        let outcome = core.look(name, 1, &mut NoBell).expect("it has ended");
        assert_eq!((outcome.status, outcome.may_have_run), (Status::WorkerDied, true));
    }

    fn scatter(core: &mut ClientCore<Mapped>, deadline_ns: u64) -> (u64, [u64; 2]) {
        let slots = [core.reserve().expect("a slot"), core.reserve().expect("a slot")];
        let keys = [5, 6].map(crate::resource::Key::number);
        let request = Request { deadline_ns, ..Request::default() };
        let name = core.submit_group(&slots, request, &[0; LINE], &keys, |_, _| {}, &mut NoBell);
        (name, slots.map(|slot| core.slots[slot as usize].ticket))
    }

    fn part(core: &mut ClientCore<Mapped>, name: u64, now_ns: u64) -> Option<(Status, u64)> {
        match core.look_group(name, now_ns, &mut NoBell) {
            Looked::Part(end) => {
                core.release(end.slot);
                Some((end.outcome.status, end.mask))
            }
            Looked::Open | Looked::Done => None,
        }
    }

    #[test]
    fn what_is_no_part_is_in_another_and_its_slot_is_free() {
        let mut core = core();
        let (name, [one, two]) = scatter(&mut core, 0);
        assert_eq!((part(&mut core, name, 1), core.group_len(name)), (None, None));
        answer(&core, two, Status::NoPart);
        assert_eq!((part(&mut core, name, 1), core.group_len(name)), (None, None));
        answer(&core, one, Status::Ok);
        assert_eq!(part(&mut core, name, 1), Some((Status::Ok, 0b11)));
        assert_eq!(core.look_group(name, 1, &mut NoBell), Looked::Done);
        assert!(core.is_unused());
    }

    #[test]
    fn a_scatter_without_a_part_and_a_no_part_that_comes_late_are_faults() {
        let mut core = core();
        let (name, [one, two]) = scatter(&mut core, 0);
        answer_with(&core, one, Status::NoPart, 1);
        answer(&core, two, Status::NoPart);
        assert_eq!(part(&mut core, name, 1), Some((Status::Fault, 0b11)));
        let (name, [one, two]) = scatter(&mut core, 0);
        answer(&core, one, Status::Ok);
        assert_eq!((part(&mut core, name, 1), core.group_len(name)), (Some((Status::Ok, 0b01)), Some(2)));
        answer(&core, two, Status::NoPart);
        assert_eq!(part(&mut core, name, 1), Some((Status::Fault, 0b10)));
    }

    #[test]
    fn a_deadline_ends_what_is_open_and_an_answer_that_came_all_the_same_counts() {
        let mut core = core();
        let (name, _) = scatter(&mut core, 5);
        assert_eq!(part(&mut core, name, 5), Some((Status::DeadlineExceeded, 0b11)));
        assert_eq!((core.look_group(name, 5, &mut NoBell), core.quarantined()), (Looked::Done, 2));
        let mut core = self::core();
        let (name, [one, two]) = scatter(&mut core, 5);
        core.reclaim(5, &mut NoBell);
        answer_with(&core, one, Status::NoPart, 1);
        answer(&core, two, Status::Cancelled);
        let Looked::Part(end) = core.look_group(name, 6, &mut NoBell) else { panic!("it has ended") };
        assert_eq!((end.outcome.status, end.outcome.may_have_run), (Status::DeadlineExceeded, false));
        assert_eq!((end.mask, core.group_len(name)), (0b11, Some(1)));
    }

    #[test]
    fn a_call_that_nobody_began_has_not_run_though_nobody_is_left_to_try_it_again() {
        let mut core = core();
        let slot = core.reserve().expect("a free slot");
        let name = submit(&mut core, slot);
        answer(&core, name, Status::NotBegun);
        core.abandon(Status::MayHaveRun, &mut NoBell);
        let outcome = core.look(name, 1, &mut NoBell).expect("it has ended");
        assert_eq!((outcome.status, outcome.may_have_run), (Status::NotBegun, false));
    }
}
