//! A worker as the director sees it: its work ring, its ledger, and how much more it may be given.
//!
//! ```text
//! pushed ──── in flight, at most `share` ──── completed          entry free: unused, or done[e] = its position + 1
//! ```
//! How far a worker is stands in its progress page, and is read only when the cached copy says that it has its
//! share: a read costs a transfer of the line. The share is what the worker does in about 20 µs, but at least two:
//! one that runs and one that waits, so that it never stands idle, and behind a long call little has to wait. One that has
//! done its whole share before anybody looked gets twice as much: a director that shares its CPU looks seldom. What a
//! worker has begun and keeps, to answer it later, leaves room for as much again: it goes on beside it.

use std::collections::HashMap;
use std::sync::Arc;

use slab::Slab;

use super::late::{Holds, holds_bit};
use crate::access::{Asker, Domain};
use crate::core::ledger::{Entry, Ledger};
use crate::core::parking::{Bell, Parking};
use crate::core::ring::Publisher;
use crate::core::{Memory, Read, Write};
use crate::error::Fault;
use crate::identity::Identity;
use crate::layout::{HEAD, LINE, Progress, Record, Request, WorkShape, head};

/// What should stand before a worker, in time.
const SHARE_NS: u64 = 20_000;
/// Smallest share.
pub const SHARE_MIN: u64 = 2;
/// A worker that has answered nothing for so long runs something long: behind that, no more is to wait.
const LONG_NS: u64 = 1_000_000;

/// A call in a worker's hands.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flight {
    /// Whether the entry is in use.
    pub on: bool,
    /// The session's id.
    pub session: u64,
    /// The ticket.
    pub ticket: u64,
    /// The position in the work ring.
    pub position: u64,
    /// Whether it may run again if its worker dies.
    pub idempotent: bool,
}

/// Whether a worker is given work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Yes.
    Serving,
    /// It serves what its ring holds, and will leave: no.
    Draining,
    /// It lives, but its socket is closed: no.
    Gone,
}

/// A worker without a sign of life for so long gets no new work, as long as there is another.
const QUIET_NS: u64 = 3_000_000_000;

/// Signs of life: a worker takes, answers, or looks for work, and says in its page that it does. Whoever waits for
/// work does so once a second at least, whatever it keeps in its hands; so one that shows nothing is stopped, or runs
/// one operation all the time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pulse {
    signs: [u64; 3],
    /// When the last sign came.
    moved_ns: u64,
    /// When it was last seen to have nothing in its hands.
    idle_ns: u64,
    /// How long it may have something in its hands, and show no sign.
    limit_ns: u64,
    /// It has shown none for a while.
    pub silent: bool,
    /// It has shown none for too long: its calls have ended by verdict.
    pub stalled: bool,
}

impl Pulse {
    fn feel(&mut self, signs: [u64; 3], is_idle: bool, now_ns: u64) {
        if self.moved_ns == 0 || signs != self.signs {
            (self.signs, self.moved_ns, self.stalled) = (signs, now_ns, false);
        }
        if is_idle {
            self.idle_ns = now_ns;
        }
        self.silent = now_ns.saturating_sub(self.moved_ns) >= QUIET_NS;
    }

    /// When it will have stood still for too long.
    pub fn stalls_ns(&self) -> u64 {
        self.moved_ns.max(self.idle_ns).saturating_add(self.limit_ns)
    }
}

/// A worker.
pub struct Worker<M: Memory> {
    /// Never used again.
    pub id: u64,
    /// Who the kernel says it is.
    pub identity: Identity,
    /// Its other groups.
    pub groups: Arc<[u32]>,
    /// Sessions of this domain it may see.
    pub domain: Domain,
    /// Whether it is given work.
    pub standing: Standing,
    /// Whether it shows signs of life.
    pub pulse: Pulse,
    work: M::Rw,
    page: M::Ro,
    progress: Progress,
    ring: Publisher<LINE>,
    ledger: Ledger,
    flights: Box<[Flight]>,
    free: Vec<u16>,
    /// Position + 1 of the last that it has begun, as far as is known.
    taken: u64,
    /// Calls that were given to it, those that were carried over included.
    given: u64,
    /// Of those, how many it has answered, as far as is known.
    completed: u64,
    /// What its page counted before.
    completed_before: u64,
    share: u64,
    share_max: u64,
    service_ns: u64,
    looked_ns: u64,
    bell: Bell,
    wanted: Parking,
    rights_at: usize,
    rights: u64,
    /// As it stands in the head of its segment.
    holds: Holds,
    /// Keys of the sessions that it has mapped, or was told to, by the index that it knows them under.
    sessions: Slab<usize>,
    /// How many of these it has not answered about.
    pub asked: u32,
    /// Whether something was pushed since it was last looked at for ringing.
    pub touched: bool,
    /// What the keys of its parts are sealed with.
    pub seal: [u64; 2],
    /// A part of a scatter waits for room here, and it is its turn: other calls leave it the next room.
    pub owes_part: bool,
    /// How long each of its services lets it show no sign of life.
    stalls_ns: HashMap<Box<str>, u64>,
}

impl<M: Memory> Worker<M> {
    /// A worker that attaches. The work segment is fresh; the page is the worker's.
    pub fn new(
        id: u64,
        identity: Identity,
        shape: WorkShape,
        start: u64,
        share_max: u64,
        work: M::Rw,
        page: M::Ro,
    ) -> Self {
        let (at, progress, slots) = (shape.work(), shape.progress(), u64::from(shape.slots));
        Worker {
            standing: Standing::Serving,
            pulse: Pulse { limit_ns: u64::MAX, ..Pulse::default() },
            ring: Publisher::new(at.ring, slots, start),
            ledger: Ledger::new(at.ledger),
            flights: vec![Flight::default(); slots as usize].into_boxed_slice(),
            free: (0..shape.slots as u16).rev().collect(),
            taken: start,
            given: 0,
            completed: 0,
            completed_before: page.load(progress.completed),
            share: SHARE_MIN,
            share_max: share_max.clamp(1, slots - 1),
            service_ns: SHARE_NS,
            looked_ns: 0,
            bell: Bell::new(progress.waiting),
            wanted: Parking::new(at.wanted, 0),
            rights_at: at.rights,
            rights: 0,
            holds: work.copy_out(at.head + head::HOLDS),
            sessions: Slab::new(),
            asked: 0,
            touched: false,
            seal: work.copy_out(at.head + head::SEAL),
            owes_part: false,
            stalls_ns: HashMap::new(),
            groups: Arc::new([]),
            domain: Domain::default(),
            id,
            identity,
            work,
            page,
            progress,
        }
    }

    /// Who asks, when it asks for something.
    pub fn asker(&self) -> Asker<'_> {
        Asker { uid: self.identity.uid, gid: self.identity.gid, groups: &self.groups }
    }

    /// Calls in its hands, as far as is known.
    #[inline]
    pub fn in_flight(&self) -> u64 {
        self.given - self.completed
    }

    /// Calls it has answered, as far as is known.
    pub fn completed(&self) -> u64 {
        self.completed
    }

    /// How many it may have in its hands.
    pub fn share(&self) -> u64 {
        self.share.min(self.share_max)
    }

    /// Whether it may be given one more: it has less than its share, or of what it has so little is not begun that
    /// it would soon have nothing to begin.
    #[inline]
    pub fn has_room(&self) -> bool {
        let (in_flight, share) = (self.in_flight(), self.share());
        let not_begun = self.ring.next() - self.taken;
        in_flight < share || (not_begun + 1 < share && in_flight < self.share_max)
    }

    /// Whether its ring has room for one more, whatever its share is.
    #[inline]
    pub fn has_slots(&self) -> bool {
        self.in_flight() < self.share_max
    }

    /// Whether it is given new work.
    #[inline]
    pub fn is_serving(&self) -> bool {
        self.standing == Standing::Serving && !self.pulse.stalled
    }

    /// The position of the next record.
    pub fn pushed(&self) -> u64 {
        self.ring.next()
    }

    /// What its page says that can't be so.
    pub fn fault(&self) -> Option<Fault> {
        let at = &self.progress;
        let counted = self.page.load(at.completed).wrapping_sub(self.completed_before);
        // An earlier director may have given it some that no ledger named any more.
        let most = self.given + self.flights.len() as u64;
        if counted > most {
            return Some(Fault::Field { field: "completed", value: counted, bound: most });
        }
        let (taken, pushed) = (self.page.load(at.taken), self.ring.next());
        (taken > pushed).then_some(Fault::Field { field: "taken", value: taken, bound: pushed })
    }

    /// Looks how far it is, and sets its share by how quickly it got there.
    pub fn look(&mut self, now_ns: u64) {
        if self.pulse.silent {
            self.feel_pulse(now_ns);
        }
        let counted = self.page.load(self.progress.completed).saturating_sub(self.completed_before);
        let completed = counted.min(self.given);
        let taken = self.page.load(self.progress.taken).min(self.ring.next());
        self.page.acquire();
        self.taken = taken.max(self.taken);
        let newly = completed.saturating_sub(self.completed);
        if newly == 0 {
            if self.in_flight() > 0 && now_ns.saturating_sub(self.looked_ns) > LONG_NS {
                self.share = SHARE_MIN;
            }
            return;
        }
        let took_ns = now_ns.saturating_sub(self.looked_ns);
        let each_ns = took_ns / newly;
        // One that has done all may have stood idle for most of that time: who looks seldom learns little.
        let has_done_all = completed == self.given;
        self.service_ns =
            if has_done_all { self.service_ns.min(each_ns) } else { (3 * self.service_ns + each_ns) / 4 };
        let could_do_more = has_done_all && newly >= self.share() && took_ns < LONG_NS;
        let wish = if could_do_more { u64::MAX } else { SHARE_NS / self.service_ns.max(1) };
        self.share = wish.clamp(SHARE_MIN, 2 * self.share().max(SHARE_MIN));
        (self.completed, self.looked_ns) = (completed, now_ns);
    }

    /// A service of its lets it show no sign of life for so long; `None`: it is not its service any more. The most
    /// patient one decides.
    pub fn set_stall(&mut self, service: &str, stall_ns: Option<u64>) {
        match stall_ns {
            Some(ns) => _ = self.stalls_ns.insert(service.into(), ns),
            None => _ = self.stalls_ns.remove(service),
        }
        // Without a service it may still have calls of the last one.
        self.pulse.limit_ns = self.stalls_ns.values().copied().max().unwrap_or(self.pulse.limit_ns);
    }

    /// How long it may show no sign of life, as long as it provides nothing: it may have come back with calls.
    pub fn set_first_stall(&mut self, stall_ns: u64) {
        self.pulse.limit_ns = stall_ns;
    }

    /// Looks for signs of life. Costs two loads of lines that the worker writes.
    pub fn feel_pulse(&mut self, now_ns: u64) {
        let at = &self.progress;
        let signs = [at.taken, at.completed, at.waiting].map(|word| self.page.load(word));
        self.pulse.feel(signs, self.in_flight() == 0, now_ns);
    }

    /// A free ledger entry. There is one whenever there is room: at most one reply is counted as completed and not
    /// yet marked done, and room is one less than the entries.
    #[inline]
    fn free_entry(&mut self) -> Option<u16> {
        if self.free.is_empty() {
            self.collect_done();
        }
        self.free.pop()
    }

    fn collect_done(&mut self) {
        for (e, flight) in self.flights.iter_mut().enumerate().rev() {
            if flight.on && self.page.load(self.progress.done + e) == flight.position + 1 {
                flight.on = false;
                self.free.push(e as u16);
            }
        }
        self.page.acquire();
    }

    /// Gives it a call: into the ledger first, then into the ring. Returns whether there was room.
    #[inline]
    pub fn push(&mut self, record: &mut Record, mut flight: Flight, number: u16, index: u16) -> bool {
        let Some(entry) = self.free_entry() else { return false };
        let position = self.ring.next();
        (flight.on, flight.position) = (true, position);
        self.flights[usize::from(entry)] = flight;
        let Flight { session, ticket, .. } = flight;
        self.ledger.enter(&self.work, entry, Entry { position, session, ticket });
        let used = if Request::needs_tail(record) { LINE } else { HEAD };
        Request::address(record, entry, number, index, session as u16);
        self.ring.publish(&self.work, record, used);
        self.given += 1;
        self.touched = true;
        true
    }

    /// Takes over an entry that it had begun under an earlier director.
    pub fn carry(&mut self, entry: u16, carried: Entry) {
        let Entry { position, session, ticket } = carried;
        if let Some(flight) = self.flights.get_mut(usize::from(entry)) {
            *flight = Flight { on: true, session, ticket, position, ..Flight::default() };
            self.free.retain(|&e| e != entry);
            self.given += 1;
        }
    }

    /// Whether it has a ticket in its hands, as far as is known.
    pub fn has(&self, session: u64, ticket: u64) -> bool {
        self.flights.iter().any(|f| f.on && (f.session, f.ticket) == (session, ticket))
    }

    /// Whether it has a ticket in its hands, and has not marked it done.
    pub fn keeps(&self, session: u64, ticket: u64) -> bool {
        let own = |(_, f): &(usize, &Flight)| f.on && (f.session, f.ticket) == (session, ticket);
        let kept = self
            .flights
            .iter()
            .enumerate()
            .find(own)
            .is_some_and(|(e, flight)| self.page.load(self.progress.done + e) != flight.position + 1);
        self.page.acquire(); // an answer is stored before its mark
        kept
    }

    /// Whether to ring it, now that something was pushed and `fence` was called.
    #[inline]
    pub fn must_ring(&mut self) -> bool {
        self.touched = false;
        self.bell.must_ring_after_fence(&self.page)
    }

    /// The full fence between pushing and looking whether anybody sleeps: one for all that was pushed.
    #[inline]
    pub fn fence(&self) {
        self.work.full();
    }

    /// Asks to be rung when it has completed something: the director is about to sleep and holds work back.
    pub fn want(&mut self) {
        self.wanted.park(&self.work);
    }

    /// Takes that back.
    pub fn unwant(&mut self) {
        self.wanted.awake(&self.work);
    }

    /// A message about rights is on its way to it: its number, which stands in the segment before any record that is
    /// pushed from now on.
    pub fn count_rights(&mut self) -> u64 {
        self.rights += 1;
        self.work.release();
        self.work.store(self.rights_at, self.rights);
        self.rights
    }

    /// An index to know a session under, if there is one left.
    pub fn know(&mut self, session: usize) -> Option<u16> {
        let index = u16::try_from(self.sessions.vacant_key()).ok()?;
        self.sessions.insert(session);
        Some(index)
    }

    /// The session that it knows under this index.
    pub fn session(&self, index: u16) -> Option<usize> {
        self.sessions.get(usize::from(index)).copied()
    }

    /// How many it knows.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// The worker has unmapped what had this index, or never mapped it.
    pub fn forget(&mut self, index: u16) {
        self.sessions.try_remove(usize::from(index));
    }

    /// It was given up, and says that it never began what lies at this position and behind: takes that off its books.
    pub fn disown(&mut self, taken: u64) -> Vec<Flight> {
        let unbegun = self.flights.iter_mut().filter(|f| f.on && f.position >= taken);
        unbegun.map(std::mem::take).collect()
    }

    /// It was given up. Whether it has marked all done that it had begun.
    pub fn has_done_all(&mut self) -> bool {
        self.collect_done();
        self.flights.iter().all(|flight| !flight.on)
    }

    /// It may hold a right in a service from now on: on its books, before it hears of it.
    pub fn mark_right(&mut self, service: &str) {
        let (word, bit) = holds_bit(service);
        let (at, marked) = (head::HOLDS + word, self.holds[word] | bit);
        if marked != self.holds[word] {
            self.holds[word] = marked;
            self.work.store(at, marked);
        }
    }

    /// What it may have had in its hands, and the position behind the last that it began. Only to be asked when the
    /// kernel says that it is dead, or when it has said that it takes no more.
    pub fn remains(&self) -> (u64, Vec<Flight>) {
        let taken = self.page.load(self.progress.taken).min(self.ring.next());
        self.page.acquire();
        (taken, self.flights.iter().copied().filter(|f| f.on).collect())
    }
}
