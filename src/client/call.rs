//! One call: drafted, built in place if it is large, under way, answered.

use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use super::core::Outcome;
use super::handle::{Client, Route, Ticket};
use super::inner::{Ended, Inner, deadline_ns, not_sent};
use super::session::{Buffers, Session};
use crate::error::{CallError, Error, Status};
use crate::layout::{HEAD, LINE, Place, Record, Request, WORD_PAYLOAD_AT, WORD_REPLY_AT};
use crate::layout::{flag, place, reply_flag};
use crate::limits;
use crate::memory::{Block, Span};
use crate::resource::{Key, Priority};
use crate::shared::Shared;
use crate::waiting::{Until, now_ns};

/// A request of which something more is said than its bytes.
#[must_use = "a draft is nothing until it is submitted"]
#[derive(Clone, Copy)]
pub struct Draft<'c> {
    pub(super) client: &'c Client,
    pub(super) route: Route,
    pub(super) flags: u16,
    key: u64,
    pub(super) deadline: Option<Instant>,
    capacity: Option<usize>,
    /// Most parts of a scatter to all.
    pub(super) parts: Option<usize>,
}

impl<'c> Draft<'c> {
    pub(super) fn new(client: &'c Client, route: Route) -> Self {
        Draft { client, route, flags: 0, key: 0, deadline: None, capacity: None, parts: None }
    }

    /// When the call ends, answered or not. All parties see it: what has expired is not begun. 30 s from now where
    /// nothing is said.
    pub fn deadline(mut self, at: Instant) -> Self {
        self.deadline = Some(at);
        self
    }

    /// The same, from now on.
    pub fn timeout(self, after: Duration) -> Self {
        match Instant::now().checked_add(after) {
            Some(at) => self.deadline(at),
            None => self,
        }
    }

    /// Room for a reply of so many bytes; else there is what [`ClientOptions::reply_capacity`] says.
    ///
    /// [`ClientOptions::reply_capacity`]: crate::ClientOptions::reply_capacity
    pub fn reply_capacity(mut self, bytes: usize) -> Self {
        self.capacity = Some(bytes);
        self
    }

    /// The resource that the call is about: a number, or a name's key from [`Client::key`].
    pub fn key(mut self, key: impl Into<Key>) -> Self {
        let key = key.into();
        self.flags = self.flags & !flag::NAME_KEY | flag::HAS_KEY;
        if key.is_name() {
            self.flags |= flag::NAME_KEY;
        }
        self.key = key.word();
        self
    }

    /// Its class among the calls that wait for a worker.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.flags &= !(flag::HIGH | flag::LOW);
        self.flags |= match priority {
            Priority::High => flag::HIGH,
            Priority::Normal => 0,
            Priority::Low => flag::LOW,
        };
        self
    }

    /// Director and worker note the time at each hop: see [`Reply::hops`]. Costs five readings of the clock, and an
    /// allocation.
    pub fn traced(mut self) -> Self {
        self.flags |= flag::TRACED;
        self
    }

    /// Sends a copy of `request`. How long this thread waits for a free slot, or for room in the arena, is `until`;
    /// what happens after is the deadline's.
    ///
    /// # Errors
    /// WOULD_BLOCK where it would have had to wait longer; REQUEST_TOO_LARGE. The call was not sent then.
    #[inline]
    pub fn submit(self, request: &[u8], until: Until) -> Result<Pending<'c>, CallError> {
        let ticket = self.submit_bytes(request, until)?;
        Ok(Pending::new(self.client, ticket))
    }

    fn submit_bytes(&self, request: &[u8], until: Until) -> Result<Ticket, CallError> {
        self.client.check_fork().map_err(not_sent)?;
        self.send_bytes(&mut self.client.inner.borrow_mut(), request, until)
    }

    /// Sends a copy of `request`, and forgets it: there is no reply. It runs once at most, unless the operation is declared
    /// idempotent.
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    pub fn post(mut self, request: &[u8], until: Until) -> Result<(), CallError> {
        self.client.check_fork().map_err(not_sent)?;
        self.flags |= flag::ONE_WAY;
        self.send_bytes(&mut self.client.inner.borrow_mut(), request, until).map(|_| ())
    }

    /// Lends `len` bytes of the memory that the worker will read, to build the request in place: no byte of it is
    /// ever copied. They hold what an earlier request left there.
    ///
    /// # Errors
    /// WOULD_BLOCK, REQUEST_TOO_LARGE.
    pub fn loan(self, len: usize, until: Until) -> Result<Loan<'c>, CallError> {
        self.client.check_fork().map_err(not_sent)?;
        let mut inner = self.client.inner.borrow_mut();
        let block = loop {
            inner.prepare(self.route, until.ns())?;
            match allocate(&mut inner, len, until.ns()) {
                Err(_) if inner.session.is_left() => {}
                allocated => break allocated?,
            }
        };
        let session = inner.session.number;
        Ok(Loan { draft: self, block: Some(block), len, session })
    }

    /// A loan again, from what [`Loan::detach`] gave, and to be sent as this draft says. `None` if it is another
    /// client's.
    pub fn reattach(self, kept: KeptLoan) -> Option<Loan<'c>> {
        let KeptLoan { client, block, len, session } = kept;
        (client == self.client.number).then_some(Loan { draft: self, block: Some(block), len, session })
    }

    /// Sends a copy of `request`. If the director goes away while this thread waits for room, nothing was sent, and
    /// it is done again with the next one.
    #[inline]
    fn send_bytes(&self, inner: &mut Inner, request: &[u8], until: Until) -> Result<Ticket, CallError> {
        loop {
            inner.prepare(self.route, until.ns())?;
            let error = match self.send(inner, Payload::Bytes(request), Buffers::default(), until) {
                Ok(ticket) => return Ok(ticket),
                Err(error) => error,
            };
            let is_lost = !inner.session.is_attached() && error.status() != Status::Interrupted;
            if !is_lost && !inner.session.is_left() {
                return Err(error);
            }
        }
    }

    /// Builds the record and publishes it. What was taken for it is given back if that fails.
    #[inline]
    fn send(
        &self,
        inner: &mut Inner,
        payload: Payload<'_>,
        mut buffers: Buffers,
        until: Until,
    ) -> Result<Ticket, CallError> {
        match self.build(inner, payload, &mut buffers, until.ns()) {
            Ok((slot, request)) => {
                let session = &mut inner.session;
                if !buffers.is_empty() {
                    session.buffers[slot as usize] = buffers;
                }
                let name = session.core.submit(slot, request, &mut session.bells);
                Ok(Ticket::new(session.number, name))
            }
            Err(error) => {
                inner.session.free(buffers);
                Err(error)
            }
        }
    }

    /// Whether there is any time left.
    pub(super) fn check_deadline(&self) -> Result<(), CallError> {
        if self.deadline.is_some_and(|at| at <= Instant::now()) {
            let message = "the call's deadline had passed before it was sent";
            return Err(CallError::not_sent(Status::DeadlineExceeded, message));
        }
        Ok(())
    }

    /// How many bytes the reply may have.
    pub(super) fn capacity_of(&self, inner: &Inner) -> u64 {
        self.capacity.map_or(u64::from(inner.session.shape.reply_capacity), |bytes| bytes as u64)
    }

    /// Reserves what the call needs, and builds its record in its slot, but for what the core fills in.
    #[inline]
    fn build(
        &self,
        inner: &mut Inner,
        payload: Payload<'_>,
        buffers: &mut Buffers,
        until_ns: u64,
    ) -> Result<(u32, Request), CallError> {
        self.check_deadline()?;
        let own = u64::from(inner.session.shape.reply_capacity);
        let capacity = self.capacity_of(inner);
        let mut flags = self.flags;
        if capacity > own {
            buffers.reply = Some(reserve_reply(inner, capacity, until_ns)?);
            flags |= flag::REPLY_AT;
        }
        let place = payload.make_room(inner, buffers, flags, until_ns)?;
        let slot = inner.reserve(until_ns)?;
        let record = inner.session.core.draft(slot);
        if let Some(span) = &buffers.reply {
            record[WORD_REPLY_AT] = span.offset();
        }
        payload.write(record, buffers, place);
        payload.give_room_back(inner, buffers, place);
        let request = Request {
            operation: self.route.0,
            flags,
            key: self.key,
            deadline_ns: deadline_ns(self.deadline),
            len: payload.len() as u32,
            capacity: capacity as u32,
            ..Request::default()
        };
        Ok((slot, request))
    }
}

/// What is sent: bytes to be copied, or so many that lie in the request's block already.
pub(super) enum Payload<'a> {
    Bytes(&'a [u8]),
    Built(usize),
}

impl Payload<'_> {
    #[inline]
    pub(super) fn len(&self) -> usize {
        match self {
            Payload::Bytes(bytes) => bytes.len(),
            Payload::Built(len) => *len,
        }
    }

    /// Where it lies; what does not fit the record is copied to there.
    #[inline]
    pub(super) fn make_room(
        &self,
        inner: &mut Inner,
        buffers: &mut Buffers,
        flags: u16,
        until_ns: u64,
    ) -> Result<Place, CallError> {
        let place = place(self.len(), flags);
        if let (Place::Arena, Payload::Bytes(bytes)) = (place, self) {
            let block = buffers.request.insert(allocate(inner, bytes.len(), until_ns)?);
            block.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
        }
        Ok(place)
    }

    /// Writes it into the record, or where it lies.
    #[inline]
    pub(super) fn write(&self, record: &mut Record, buffers: &Buffers, place: Place) {
        let words = match place {
            Place::Head => 6..HEAD,
            Place::Tail => HEAD..LINE,
            Place::Arena => {
                record[WORD_PAYLOAD_AT] = buffers.request.as_ref().map_or(0, Block::offset);
                return;
            }
        };
        let bytes = match self {
            Payload::Bytes(bytes) => bytes,
            Payload::Built(len) => {
                buffers.request.as_ref().map_or(&[][..], |block| &block.as_slice()[..*len])
            }
        };
        bytemuck::cast_slice_mut(&mut record[words])[..bytes.len()].copy_from_slice(bytes);
    }

    /// What was built in a block, and has fitted the record, needs that no more.
    #[inline]
    pub(super) fn give_room_back(&self, inner: &mut Inner, buffers: &mut Buffers, place: Place) {
        if place != Place::Arena
            && let Some(block) = buffers.request.take()
        {
            inner.session.requests.free(block);
        }
    }
}

pub(super) fn allocate(inner: &mut Inner, len: usize, until_ns: u64) -> Result<Block, CallError> {
    let arena = inner.session.shape.request_arena;
    if len as u64 > arena.min(limits::PAYLOAD_MAX) {
        let message = format!("a request of {len} bytes: the arena has {arena} (ClientOptions::arenas)");
        return Err(CallError::not_sent(Status::RequestTooLarge, message));
    }
    inner.allocate(until_ns, |session| session.requests.alloc(len))
}

pub(super) fn reserve_reply(inner: &mut Inner, capacity: u64, until_ns: u64) -> Result<Span, CallError> {
    let arena = inner.session.shape.reply_arena;
    if capacity > arena.min(limits::PAYLOAD_MAX) {
        let message = format!("a reply of {capacity} bytes: the arena has {arena} (ClientOptions::arenas)");
        return Err(CallError::not_sent(Status::ReplyTooLarge, message).with_needed(capacity));
    }
    inner.allocate(until_ns, |session| session.replies.alloc(capacity as usize))
}

/// Room in the client's own memory in which a request is built. Nobody else can write it; the worker reads it where
/// it is. Dropping it gives the room back.
pub struct Loan<'c> {
    pub(super) draft: Draft<'c>,
    pub(super) block: Option<Block>,
    pub(super) len: usize,
    session: u16,
}

impl<'c> Loan<'c> {
    /// Sends only the first `len` bytes.
    pub fn shrink(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Lets go of the client without giving the room back.
    pub fn detach(mut self) -> Option<KeptLoan> {
        let (client, len, session) = (self.draft.client.number, self.len, self.session);
        self.block.take().map(|block| KeptLoan { client, block, len, session })
    }

    /// What was built, to be sent in the session that it was lent in.
    pub(super) fn take_block(&mut self, inner: &mut Inner) -> Result<Block, CallError> {
        if !inner.select(self.session) {
            let message = "the director went away since the loan: build the request anew";
            return Err(CallError::not_sent(Status::DirectorGone, message));
        }
        self.block.take().ok_or_else(|| CallError::not_sent(Status::Fault, "the loan was sent already"))
    }

    /// Sends it. Takes no time that depends on its size.
    ///
    /// # Errors
    /// As [`Draft::submit`]; MAY_HAVE_RUN can't be. DIRECTOR_GONE if the director went away since: build it anew.
    pub fn submit(mut self, until: Until) -> Result<Pending<'c>, CallError> {
        let client = self.draft.client;
        client.check_fork().map_err(not_sent)?;
        let mut inner = client.inner.borrow_mut();
        let block = self.take_block(&mut inner)?;
        let buffers = Buffers { request: Some(block), ..Buffers::default() };
        let ticket = self.draft.send(&mut inner, Payload::Built(self.len), buffers, until)?;
        drop(inner);
        Ok(Pending::new(client, ticket))
    }
}

/// A [`Loan`] without its client, to be kept where a borrow can't be. The room comes back by
/// [`Draft::reattach`], or when the client goes.
#[must_use = "the room stays in use until it is attached to its client again"]
pub struct KeptLoan {
    client: u64,
    block: Block,
    len: usize,
    session: u16,
}

impl Deref for KeptLoan {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.block.as_slice().get(..self.len).unwrap_or_default()
    }
}

impl DerefMut for KeptLoan {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.block.as_mut_slice().get_mut(..self.len).unwrap_or_default()
    }
}

impl Deref for Loan<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.block.as_ref().and_then(|block| block.as_slice().get(..self.len)).unwrap_or_default()
    }
}

impl DerefMut for Loan<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.block.as_mut().and_then(|block| block.as_mut_slice().get_mut(..self.len)).unwrap_or_default()
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        let client = self.draft.client;
        if let Some(block) = self.block.take()
            && !client.is_forked()
            && let Some(session) = client.inner.borrow_mut().session_numbered(self.session)
        {
            session.requests.free(block);
        }
    }
}

/// A call that is under way. Dropping it gives the call up: that never blocks, and slot and buffers come back when
/// nobody can write there any more.
#[must_use = "dropping it cancels the call"]
pub struct Pending<'c> {
    client: &'c Client,
    ticket: Ticket,
}

impl<'c> Pending<'c> {
    #[inline]
    pub(super) fn new(client: &'c Client, ticket: Ticket) -> Self {
        Pending { client, ticket }
    }

    /// The call's name: to keep, with [`detach`](Self::detach), and to get this back from [`Client::pending`].
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// Waits for the end, which comes at the deadline at the latest.
    ///
    /// # Errors
    /// Everything that a call can end with. INTERRUPTED, if a signal may end a wait: then the call was given up, and
    /// [`wait_until`](Self::wait_until) is the better way to wait.
    pub fn wait(mut self) -> Result<Reply<'c>, CallError> {
        if let Some(ended) = self.wait_until(Until::Forever) {
            self.detach();
            return ended;
        }
        // Without a time to wait until, a wait has an outcome, unless a signal ends it.
        let interrupted = self.client.was_interrupted();
        Err(CallError::sent(if interrupted { Status::Interrupted } else { Status::MayHaveRun }, true))
    }

    /// Looks whether it has ended. Never blocks. After an outcome has been given out there is none any more.
    pub fn poll(&mut self) -> Option<Result<Reply<'c>, CallError>> {
        self.wait_until(Until::Now)
    }

    /// Waits for the end so long.
    pub fn wait_until(&mut self, until: Until) -> Option<Result<Reply<'c>, CallError>> {
        if self.client.is_forked() {
            return Some(Err(not_sent(Error::Forked)));
        }
        let mut inner = self.client.inner.borrow_mut();
        let ended = inner.wait(self.ticket, until.ns())?;
        Some(finish(self.client, &mut inner, self.ticket.session(), ended))
    }

    /// Lets go of this without giving the call up.
    #[inline]
    pub fn detach(self) -> Ticket {
        let ticket = self.ticket;
        std::mem::forget(self);
        ticket
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if self.client.is_forked() {
            return;
        }
        let mut inner = self.client.inner.borrow_mut();
        // A call whose outcome was given out is not open any more: to give it up does nothing.
        let name = self.ticket.name();
        let Some(session) = inner.session_of(self.ticket) else { return };
        let was_stashed = !session.stash.is_empty() && session.stash.remove(&name).is_some();
        if !was_stashed && session.core.cancel(name) {
            let slot = session.core.slot_of(name);
            session.free_buffers(slot);
        }
    }
}

/// Turns an outcome into a reply or an error. A slot whose payload has been copied is free at once.
#[inline]
pub(super) fn finish<'c>(
    client: &'c Client,
    inner: &mut Inner,
    session: u16,
    ended: Ended,
) -> Result<Reply<'c>, CallError> {
    let slot = match ended {
        Ended::Slot(slot) => slot,
        Ended::Stashed(stashed) => {
            let bytes = Shared::private(stashed.payload);
            return match stashed.outcome.status {
                Status::Ok => Ok(Reply::new(client, session, &stashed.outcome, bytes, None)),
                _ => Err(error_of(&stashed.outcome, &bytes)),
            };
        }
    };
    let Some(kept) = inner.session_numbered(session) else {
        return Err(CallError::sent(Status::MayHaveRun, true));
    };
    if kept.core.outcome(slot).status != Status::Ok {
        return Err(finish_failed(kept, slot));
    }
    let bytes = kept.payload(slot);
    let held = if bytes.is_private() { None } else { Some(slot) };
    if held.is_none() {
        kept.release(slot);
    }
    // Its slot may be free, but nobody's yet.
    Ok(Reply::new(client, session, kept.core.outcome(slot), bytes, held))
}

#[cold]
fn finish_failed(session: &mut Session, slot: u32) -> CallError {
    if session.core.outcome(slot).status == Status::NoWorker {
        session.doubt_route(slot);
    }
    let error = error_of(session.core.outcome(slot), &session.payload(slot));
    session.release(slot);
    error
}

#[cold]
fn error_of(outcome: &Outcome, bytes: &Shared<'_>) -> CallError {
    let head = outcome.head();
    let error = CallError::sent(outcome.status, outcome.may_have_run);
    match outcome.status {
        Status::WorkerError => {
            let mut message = bytes.to_vec();
            message.truncate(limits::MESSAGE_MAX);
            error.with_message(head.code, String::from_utf8_lossy(&message).into_owned())
        }
        Status::ReplyTooLarge | Status::TooManyParts => error.with_needed(head.len),
        _ => error,
    }
}

/// A result. It holds the buffer that it lies in; dropping it gives that back.
pub struct Reply<'c> {
    client: &'c Client,
    session: u16,
    /// The slot, where the payload lies in its buffer.
    slot: Option<u32>,
    worker: u32,
    bytes: Shared<'c>,
    hops: Option<Box<Hops>>,
}

/// A [`Reply`] without its client, to be kept where a borrow can't be. Its buffer comes back by
/// [`Client::reattach`], or when the client goes.
#[must_use = "the buffer stays in use until it is attached to its client again"]
pub struct KeptReply {
    pub(super) client: u64,
    session: u16,
    slot: Option<u32>,
    worker: u32,
    bytes: Shared<'static>,
    hops: Option<Box<Hops>>,
}

impl KeptReply {
    /// The payload.
    pub fn bytes(&self) -> &Shared<'static> {
        &self.bytes
    }
}

impl<'c> Reply<'c> {
    #[inline]
    fn new(
        client: &'c Client,
        session: u16,
        outcome: &Outcome,
        bytes: Shared<'c>,
        slot: Option<u32>,
    ) -> Self {
        let head = outcome.head();
        let traced = head.flags & reply_flag::TRACED != 0;
        let hops = traced.then(|| Box::new(Hops::of(&outcome.record)));
        Reply { client, session, slot, worker: head.worker, bytes, hops }
    }

    pub(super) fn of(client: &'c Client, kept: KeptReply) -> Self {
        let KeptReply { session, slot, worker, bytes, hops, .. } = kept;
        Reply { client, session, slot, worker, bytes, hops }
    }

    /// Lets go of the client without giving the buffer back.
    pub fn detach(mut self) -> KeptReply {
        KeptReply {
            client: self.client.number,
            session: self.session,
            slot: self.slot.take(),
            worker: self.worker,
            bytes: std::mem::replace(&mut self.bytes, Shared::private(Vec::new())).unbound(),
            hops: self.hops.take(),
        }
    }
}

impl Reply<'_> {
    /// The payload.
    pub fn bytes(&self) -> &Shared<'_> {
        &self.bytes
    }

    /// The worker that answered.
    pub fn worker(&self) -> u32 {
        self.worker
    }

    /// When the call passed each hop, if it was [`traced`](Draft::traced).
    pub fn hops(&self) -> Option<Hops> {
        self.hops.as_deref().copied()
    }
}

impl Drop for Reply<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot
            && !self.client.is_forked()
            && let Some(session) = self.client.inner.borrow_mut().session_numbered(self.session)
        {
            session.release(slot);
        }
    }
}

/// When a call passed each hop, on CLOCK_MONOTONIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hops {
    /// The director took it.
    pub taken_ns: u64,
    /// The director pushed it.
    pub pushed_ns: u64,
    /// The worker began it.
    pub began_ns: u64,
    /// The worker answered.
    pub replied_ns: u64,
    /// The client saw the answer.
    pub received_ns: u64,
}

impl Hops {
    /// What a traced reply says, which is seen now.
    fn of(reply: &Record) -> Hops {
        let [taken_ns, pushed_ns, began_ns, replied_ns] = [reply[4], reply[5], reply[6], reply[7]];
        Hops { taken_ns, pushed_ns, began_ns, replied_ns, received_ns: now_ns() }
    }
}
