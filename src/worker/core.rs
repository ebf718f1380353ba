//! The worker as a state machine: from its ring to the client's reply slot.
//!
//! ```text
//! take     copy the record out ─► taken = p + 1 ─► cancelled, expired? ─► the caller runs the operation
//! reply    reply record, stamp ─► completed += 1 ─► fence ─► ring client, director ─► done[entry] = p + 1
//! ```
//! `taken` is on the books before anything runs: if the process dies after it, the operation may have run; if it
//! dies before, it has not and never will. `done` comes last, because it frees the ledger entry, and whoever reads
//! the ledger must find the call until its client has been rung.
//!
//! Several requests may be begun at a time and answered in any order.
//!
//! A record names its session by an index and a tag. When a session goes, its records may still stand in the ring, and its
//! index may be the next one's, with the same tag: so what stood there before a session was mapped is never its.

use std::ops::Deref;

use crate::core::parking::{Bell, Parking};
use crate::core::reply::Replies;
use crate::core::ring::Taker;
use crate::core::{Memory, Read, Write};
use crate::error::{Fault, Status};
use crate::layout::{
    HEAD, LINE, Outbox, Progress, Record, ReplyHead, Request, SessionShape, Work, WorkShape,
};
use crate::layout::{WORD_TAKEN_NS, flag, head, reply_flag};
use crate::limits::SCATTER_KEYS_MAX;
use crate::resource::Key;
use crate::scatter;

/// How often a worker that finds nothing to do shows that it lives.
const BEAT_NS: u64 = 500_000_000;
/// How old the time may be that [`WorkerCore::take`] is given: what has expired by then, or may have, is looked at with
/// the exact clock. More than a tick of any kernel's timer.
pub const STALE_NS: u64 = 20_000_000;

/// What a worker's core asks of its shell.
pub trait Effects {
    /// Rings the client of the session with this id.
    fn ring_client(&mut self, session: u64);
    /// Rings the director.
    fn ring_director(&mut self);
    /// CLOCK_MONOTONIC, exact: for traced calls, and for deadlines that are near.
    fn clock_ns(&mut self) -> u64;
}

/// A session that this worker has mapped: where it may reply.
struct Session<M: Memory> {
    id: u64,
    /// Its records stand from this position on. Those before, under the same index, are of one that is gone; its tag may
    /// be the same.
    from: u64,
    shape: SessionShape,
    outbox: M::Ro,
    inbox: M::Rw,
    at: Outbox,
    replies: Replies<LINE>,
    client: Bell,
    begun: u32,
    retired: bool,
}

/// A request that has begun: the reply right. It is spent by [`WorkerCore::reply`] alone, which keeps the box for a
/// later request: so a request lies where its record was copied to, and moving the right moves a pointer.
#[must_use = "a request that has begun must be answered"]
#[derive(Debug, Default)]
pub struct Begun(Box<Asked>);

/// What was asked, of a request that has begun.
#[derive(Debug, Default)]
pub struct Asked {
    /// The record as it was taken.
    pub record: Record,
    /// Of a part of a scatter over keys: its keys, once [`set_keys`](Self::set_keys) has found them to be those that
    /// the director gave it.
    keys: Option<Box<[Key]>>,
    pub(super) position: u64,
    began_ns: u64,
    /// Under which director it began.
    life: u32,
}

impl Deref for Begun {
    type Target = Asked;
    #[inline]
    fn deref(&self) -> &Asked {
        &self.0
    }
}

impl Asked {
    /// What was asked; where its payload lies follows from it. Read from the record each time: a field costs a load.
    #[inline]
    pub fn request(&self) -> Request {
        Request::of_director(&self.record)
    }

    /// Whether it is a part of a scatter over keys, which are not known yet.
    #[inline]
    pub fn lacks_keys(&self) -> bool {
        const PART: u16 = flag::SCATTER | flag::HAS_KEY;
        self.request().flags & PART == PART && self.keys.is_none()
    }

    /// What decides, with its length, where the reply's payload lies.
    #[inline]
    pub fn reply_flags(&self) -> u16 {
        if self.request().flags & flag::TRACED != 0 { reply_flag::TRACED } else { 0 }
    }

    /// Whether it is a part of a scatter.
    pub fn is_part(&self) -> bool {
        self.request().flags & flag::SCATTER != 0
    }

    /// The words of its scatter's list of keys: where it is in the client's arena, and how many.
    pub fn list(&self) -> (u64, usize) {
        let count = usize::from(scatter::Place::of(&self.record).count).min(SCATTER_KEYS_MAX);
        (self.record[scatter::WORD_LIST], scatter::list_words(count))
    }

    /// The resources that it is about: of a part, its keys; of a call, the one that it names, if it does.
    pub fn keys(&self) -> impl Iterator<Item = Key> + '_ {
        let own = if self.keys.is_none() { self.request().resource() } else { None };
        self.keys.iter().flatten().copied().chain(own)
    }
}

impl Begun {
    /// Takes its keys out of a private copy of the list, if they are those that the director gave it. `secret` is what
    /// it shares with the director: see [`WorkerCore::seal`].
    pub fn set_keys(&mut self, list: &[u64], secret: [u64; 2]) -> bool {
        let keys = scatter::keys_of(list, scatter::mask(&self.record));
        let sealed = keys.filter(|keys| scatter::is_sealed(secret, &self.record, keys));
        self.0.keys = sealed.map(Vec::into_boxed_slice);
        self.keys.is_some()
    }
}

/// What [`WorkerCore::take`] found.
#[derive(Debug)]
pub enum Taken {
    /// A request to be run.
    Begun(Begun),
    /// A record that needs no run: it was cancelled, has expired, or its session is gone.
    Skipped,
    /// A record stands there, before which something was said about rights that has not been
    /// [heard](WorkerCore::hear).
    Unheard,
    /// The ring is empty.
    Nothing,
}

/// A worker's half of everything that it shares with the director.
pub struct WorkerCore<M: Memory> {
    id: u64,
    work: M::Ro,
    page: M::Rw,
    at: Work,
    progress: Progress,
    ring: Taker<LINE>,
    completed: u64,
    /// Messages about rights of this director that were heard.
    heard: u64,
    parking: Parking,
    /// When it last showed that it lives, though it had nothing to do.
    beat_ns: u64,
    director: Bell,
    /// By the index that the director gave.
    sessions: Vec<Option<Session<M>>>,
    /// How many directors it has had.
    life: u32,
    /// It has said where it stands: what its ring holds from there on it will never begin.
    stopped: bool,
    /// Sessions under earlier directors of which something is not answered yet, by life and index.
    former: Vec<(u32, u16, Session<M>)>,
    shape: WorkShape,
    /// Where the next record is copied to.
    next: Begun,
    /// Boxes of requests that were answered: as many as were ever begun at a time.
    spare: Vec<Begun>,
}

impl<M: Memory> WorkerCore<M> {
    /// A worker that begins at position `start` of a fresh work segment, with a fresh progress page.
    pub fn new(id: u64, shape: WorkShape, start: u64, work: M::Ro, page: M::Rw) -> Self {
        let (at, progress) = (shape.work(), shape.progress());
        page.store(progress.taken, start);
        WorkerCore {
            id,
            work,
            page,
            ring: Taker::new(at.ring, u64::from(shape.slots), start),
            completed: 0,
            heard: 0,
            parking: Parking::new(progress.waiting, 0),
            beat_ns: 0,
            director: Bell::new(at.wanted),
            at,
            progress,
            sessions: Vec::new(),
            life: 0,
            stopped: false,
            former: Vec::new(),
            shape,
            next: Begun::default(),
            spare: Vec::new(),
        }
    }

    /// A new director has given it a new work segment, which begins at `start`. What it has begun it still answers,
    /// in the sessions that it was for; what its old ring held beyond it will never begin. The new director gives it
    /// its sessions anew.
    pub fn resume(&mut self, start: u64, work: M::Ro) {
        self.work = work;
        self.ring = Taker::new(self.at.ring, u64::from(self.shape.slots), start);
        self.page.release();
        self.page.store(self.progress.taken, start);
        self.director = Bell::new(self.at.wanted);
        for (index, session) in std::mem::take(&mut self.sessions).into_iter().enumerate() {
            if let Some(session) = session.filter(|s| s.begun > 0) {
                self.former.push((self.life, index as u16, session));
            }
        }
        self.life += 1;
        self.heard = 0;
        self.stopped = false;
    }

    /// Takes nothing more from this ring. Returns where it stands, which is final: the position + 1 of the last
    /// request that was begun.
    pub fn stop_taking(&mut self) -> u64 {
        self.stopped = true;
        self.ring.next()
    }

    /// The worker's id on its bus.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What the director seals the keys of this worker's parts with.
    pub fn seal(&self) -> [u64; 2] {
        self.work.copy_out(self.at.head + head::SEAL)
    }

    /// How many control messages the director has sent: they are in the socket.
    #[inline]
    pub fn control_sequence(&self) -> u64 {
        self.work.load(self.at.control)
    }

    /// So many messages about rights have been read, and the program has heard of them: what was pushed after no more
    /// than these may be taken.
    #[inline]
    pub fn hear(&mut self, messages: u64) {
        self.heard = messages;
    }

    /// How many have been.
    pub fn heard(&self) -> u64 {
        self.heard
    }

    /// Whether a record stands in the ring, and whether all was heard that was said about rights before it was pushed.
    /// A record that comes after this look is not there for whoever acts on it.
    #[inline]
    fn next_is_heard(&self) -> Option<bool> {
        self.is_ready().then(|| {
            self.work.acquire(); // pairs with the release in Publisher::publish: the count was stored before
            self.work.load(self.at.rights) <= self.heard
        })
    }

    /// The position + 1 of the last request that was begun: what stands behind it never began.
    pub fn taken(&self) -> u64 {
        self.ring.next()
    }

    /// How many requests have been answered.
    pub fn completed(&self) -> u64 {
        self.completed
    }

    /// Whether a record stands in the ring.
    #[inline]
    pub fn is_ready(&self) -> bool {
        self.ring.is_ready(&self.work)
    }

    /// A session's memory is mapped: from now on its calls may come. Returns whether it is: an index is not given
    /// again before what had it is unmapped.
    pub fn map_session(
        &mut self,
        index: u16,
        id: u64,
        shape: SessionShape,
        outbox: M::Ro,
        inbox: M::Rw,
    ) -> bool {
        let is_used = self.sessions.get(usize::from(index)).is_some_and(Option::is_some);
        if is_used {
            return false;
        }
        let (at, replies) = (shape.outbox(), shape.inbox().replies);
        // The director pushes none of it before it has heard of this, and pushed all of the last one's before it asked for this.
        let is_first = usize::from(index) >= self.sessions.len();
        let from = if is_first { 0 } else { self.ring.ready_end(&self.work) };
        let session = Session {
            id,
            from,
            shape,
            client: Bell::new(at.waiting),
            at,
            replies: Replies::new(replies, u64::from(shape.slots)),
            outbox,
            inbox,
            begun: 0,
            retired: false,
        };
        let index = usize::from(index);
        if index >= self.sessions.len() {
            self.sessions.resize_with(index + 1, || None);
        }
        self.sessions[index] = Some(session);
        true
    }

    /// A session is gone: what stands in the ring of it is skipped. Returns whether its memory can be unmapped at
    /// once; else `reply` will say when.
    pub fn retire_session(&mut self, index: u16) -> bool {
        let slot = self.sessions.get_mut(usize::from(index));
        let Some(Some(session)) = slot else { return true };
        session.retired = true;
        self.unmap_if_unused(index)
    }

    fn unmap_if_unused(&mut self, index: u16) -> bool {
        let slot = &mut self.sessions[usize::from(index)];
        let unused = slot.as_ref().is_some_and(|s| s.retired && s.begun == 0);
        if unused {
            *slot = None;
        }
        unused
    }

    /// The session of a request, if it is mapped and is the one that is meant.
    #[inline]
    fn session_mut(&mut self, life: u32, request: &Request) -> Option<&mut Session<M>> {
        let index = request.session_index;
        let session = if life == self.life {
            self.sessions.get_mut(usize::from(index))?.as_mut()?
        } else {
            &mut self.former.iter_mut().find(|(l, i, _)| (*l, *i) == (life, index))?.2
        };
        (session.id as u16 == request.session_tag).then_some(session)
    }

    #[inline]
    fn session(&self, begun: &Begun) -> Option<&Session<M>> {
        let index = begun.request().session_index;
        if begun.life == self.life {
            return self.sessions.get(usize::from(index))?.as_ref();
        }
        self.former.iter().find(|(l, i, _)| (*l, *i) == (begun.life, index)).map(|(_, _, s)| s)
    }

    /// The memory of a begun request's session: its outbox and its inbox.
    pub fn memory(&self, begun: &Begun) -> Option<(&M::Ro, &M::Rw)> {
        self.session(begun).map(|s| (&s.outbox, &s.inbox))
    }

    /// Id and sizes of a begun request's session.
    pub fn session_of(&self, begun: &Begun) -> Option<(u64, SessionShape)> {
        self.session(begun).map(|s| (s.id, s.shape))
    }

    /// Whether anything of a session is mapped.
    pub fn knows(&self, session: u64) -> bool {
        let former = self.former.iter().map(|(_, _, s)| s.id);
        self.sessions.iter().flatten().map(|s| s.id).chain(former).any(|id| id == session)
    }

    /// Whether the caller has given the call up.
    #[inline]
    pub fn is_cancelled(&self, begun: &Begun) -> bool {
        self.session(begun).is_none_or(|s| s.retired || s.cancelled(&begun.request()))
    }

    /// Takes the next request, if there is one. `now_ns` may be [`STALE_NS`] old.
    #[inline]
    pub fn take(&mut self, now_ns: u64, fx: &mut impl Effects) -> Result<Taken, Fault> {
        if self.stopped {
            return Ok(Taken::Nothing);
        }
        let position = self.ring.next();
        let mut request = Request::default();
        let tail = |record: &Record| {
            request = Request::of_director(record);
            Request::needs_tail(record)
        };
        let taken = match self.next_is_heard() {
            Some(true) => self.ring.take_into(&self.work, &mut self.next.0.record, tail),
            Some(false) => return Ok(Taken::Unheard),
            None => Ok(false),
        };
        if !taken.map_err(|e| Fault::Stamp { position: e.position, stamp: e.stamp })? {
            if now_ns.saturating_sub(self.beat_ns) >= BEAT_NS {
                self.beat_ns = now_ns;
                self.parking.beat(&self.page);
            }
            // The director may hold work back until it sees that this worker has begun what it was given. A store of
            // `taken` that isn't out yet is by the next look, and the one after `park` comes after a full fence.
            if self.director.must_ring_after_fence(&self.work) {
                fx.ring_director();
            }
            return Ok(Taken::Nothing);
        }
        // On the books before anything runs; and not before the copy was made, since it gives the slot up.
        self.page.release();
        self.page.store(self.progress.taken, position + 1);
        self.page.release();

        let empty = self.spare.pop().unwrap_or_default();
        let mut begun = std::mem::replace(&mut self.next, empty);
        let asked = &mut *begun.0;
        let traced = request.flags & flag::TRACED != 0;
        (asked.keys, asked.position, asked.life) = (None, position, self.life);
        asked.began_ns = if traced { fx.clock_ns() } else { now_ns };
        let Some(session) = self.session_mut(self.life, &request).filter(|s| position >= s.from) else {
            self.finish(begun, fx, false);
            return Ok(Taken::Skipped);
        };
        session.begun += 1;
        let skip = if session.retired || session.cancelled(&request) {
            Some(Status::Cancelled)
        } else if request.deadline_ns != 0
            && now_ns + STALE_NS > request.deadline_ns
            && now_ns.max(fx.clock_ns()) > request.deadline_ns
        {
            Some(Status::DeadlineExceeded)
        } else {
            session.replies.prepare(&session.inbox, request.ticket);
            None
        };
        let Some(status) = skip else { return Ok(Taken::Begun(begun)) };
        let head = ReplyHead { status: status as u16, ..ReplyHead::default() };
        self.reply(begun, head, &mut [0; LINE], fx);
        Ok(Taken::Skipped)
    }

    /// Answers a request. `record` holds the payload's words where [`reply_place`](crate::layout::reply_place) puts
    /// them in the record; what lies in the reply buffer has been written. Returns the index of a retired session
    /// whose memory can now be unmapped.
    #[inline]
    pub fn reply(
        &mut self,
        begun: Begun,
        mut head: ReplyHead,
        record: &mut Record,
        fx: &mut impl Effects,
    ) -> Option<u16> {
        let (request, life) = (begun.request(), begun.life);
        let traced = request.flags & flag::TRACED != 0;
        head.worker = self.id as u32;
        if traced {
            head.flags |= reply_flag::TRACED;
            record[4..6].copy_from_slice(&begun.record[WORD_TAKEN_NS..]);
            record[6] = begun.began_ns;
            record[7] = fx.clock_ns();
        }
        head.write(record);
        let used = if ReplyHead::needs_tail(record) { LINE } else { HEAD };
        let session = self.session_mut(life, &request);
        let retired = session.map(|session| {
            session.begun -= 1;
            session.replies.publish(&session.inbox, request.ticket, record, used);
            session.retired
        });
        self.finish(begun, fx, retired == Some(false));
        if life < self.life {
            self.former.retain(|(_, _, session)| session.begun > 0);
            return None;
        }
        let index = request.session_index;
        (retired == Some(true) && self.unmap_if_unused(index)).then_some(index)
    }

    /// What follows the stamp: the count, the bells, and last the ledger entry's release.
    #[inline]
    fn finish(&mut self, begun: Begun, fx: &mut impl Effects, ring_client: bool) {
        self.completed += 1;
        self.page.store(self.progress.completed, self.completed);
        self.page.full(); // pairs with the fences in Parking::park, of the client and of the director
        if ring_client
            && let Some(session) = self.session_mut(begun.life, &begun.request())
            && session.client.must_ring_after_fence(&session.outbox)
        {
            fx.ring_client(session.id);
        }
        if self.director.must_ring_after_fence(&self.work) {
            fx.ring_director();
        }
        let entry = usize::from(begun.request().entry);
        if self.progress.done + entry < self.progress.words {
            self.page.store(self.progress.done + entry, begun.position + 1);
        }
        self.spare.push(begun);
    }

    /// Announces a sleep.
    pub fn park(&mut self) {
        self.parking.park(&self.page);
    }

    /// Takes the announcement back.
    pub fn awake(&mut self) {
        self.parking.awake(&self.page);
    }
}

impl<M: Memory> Session<M> {
    #[inline]
    fn cancelled(&self, request: &Request) -> bool {
        let slot = self.replies.slot(request.ticket);
        self.outbox.load(self.at.cancel + slot) == request.ticket + 1
    }
}
