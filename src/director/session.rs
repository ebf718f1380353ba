//! A session as the director sees it: its ring, its routes, and the calls of it that wait.
//!
//! Every reply slot of a session has one place here in which its call can wait for a worker, made when the session
//! attaches: so the queue can't overflow, costs no allocation, and a flood fills only its own. The places of a
//! route's waiting calls form a list, in the order in which the client sent them.

use std::sync::Arc;

use super::table::CLASSES;
use crate::access::{Asker, Domain, Verdict};
use crate::core::parking::{Bell, Parking};
use crate::core::reply::Replies;
use crate::core::ring::Taker;
use crate::core::{Memory, Read, Write};
use crate::error::Fault;
use crate::identity::Identity;
use crate::layout::{Inbox, LINE, Outbox, Place, Record, Request, SessionShape, flag, place};
use crate::layout::{WORD_PAYLOAD_AT, WORD_REPLY_AT};
use crate::limits;
use crate::scatter;

/// How long a worker that refused to map a session is left alone.
const ASK_AGAIN_NS: u64 = 1_000_000_000;

/// No place: the end of a list.
pub const NONE: u32 = u32::MAX;

/// One reply slot's place.
struct WaitingCall {
    /// The last ticket that was taken for this slot: the next one is larger.
    last: u64,
    /// Where that stood in the request ring: the order of the session's calls.
    position: u64,
    /// The id of the worker that was given that call, until it is seen to be answered; 0: none was.
    given_to: u64,
    /// Whether its call waits here.
    occupied: bool,
    /// It waits for its worker, in no route's list.
    held: bool,
    /// It is part of a scatter that has not been taken whole yet: in no route's list.
    gathered: bool,
    /// Whether it waits for one certain worker, or for a resource's holder, and so is in none of its route's lists.
    parked: bool,
    next: u32,
    previous: u32,
}

/// A route of a session.
#[derive(Debug)]
pub struct Route {
    /// The operation's key in the table.
    pub operation: usize,
    /// Whether it may be used, as the rules say: for every call, or by its key.
    pub access: Passage,
    /// Calls that wait.
    pub waiting: u32,
    /// Its waiting calls, by class.
    lists: [List; CLASSES],
}

/// What the rules say about a route.
#[derive(Clone, Debug)]
pub enum Passage {
    /// Every call may pass: nobody is asked.
    Open,
    /// None may, or it depends on the key.
    Guarded(Verdict),
}

impl Passage {
    /// What a verdict makes of a route.
    pub fn of(verdict: Verdict) -> Passage {
        match verdict {
            Verdict::Always(decision) if decision.allow => Passage::Open,
            verdict => Passage::Guarded(verdict),
        }
    }
}

/// Calls of one route and class that wait, in their order.
#[derive(Clone, Copy, Debug)]
struct List {
    first: u32,
    last: u32,
    /// Whether it has a turn in the operation's queue.
    has_turn: bool,
}

/// What a session is to one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// The worker knows nothing of it.
    None,
    /// It was told to map it, under this index.
    Asked(u16),
    /// It has mapped it: calls may go there.
    Open(u16),
    /// It could not. It is asked again after a while: see [`Session::is_time_to_ask`].
    Refused,
    /// It was told to unmap it.
    Closing(u16),
}

/// A session.
pub struct Session<M: Memory> {
    /// Never used again.
    pub id: u64,
    /// Who the kernel says it is.
    pub identity: Identity,
    /// Its other groups.
    pub groups: Arc<[u32]>,
    /// The workers that may see it are of this domain.
    pub domain: Domain,
    /// Its sizes, checked.
    pub shape: SessionShape,
    /// The client's memory.
    pub outbox: M::Ro,
    /// The client's memory for replies.
    pub inbox: M::Rw,
    out: Outbox,
    at: Inbox,
    /// The request ring's reading end.
    pub ring: Taker<LINE>,
    replies: Replies<LINE>,
    /// To wake the client.
    pub client: Bell,
    /// Whether the director polls it, as the client sees it.
    pub polled: Parking,
    /// Whether it is in the list of sessions that are polled.
    pub hot: bool,
    /// When a request was last found.
    pub active_ns: u64,
    /// By the number that the client chose.
    pub routes: Vec<Option<Route>>,
    /// By worker's key.
    mappings: Vec<Mapping>,
    places: Box<[WaitingCall]>,
    /// Slots of the scatter that is being taken, in its order; empty when none is.
    gather: Vec<u32>,
    /// The records of those that wait, apart: every call looks at its place, and few wait.
    records: Box<[Record]>,
    /// Calls that wait, on all routes.
    pub waiting: u32,
    /// Calls taken since it attached.
    pub calls: u64,
    /// The client is gone.
    pub retired: bool,
    /// It broke the protocol: nothing more is taken from it. It stays until the shell says that it is gone.
    pub faulty: bool,
    /// It came back after a director's death, and has not published all again yet.
    pub republishing: bool,
    notices: u64,
    /// When workers that refused to map it are asked again; 0: none did, as far as anybody has noticed.
    ask_again_ns: u64,
}

impl<M: Memory> Session<M> {
    /// A session that attaches. `published` is the position of the first request that it will publish.
    pub fn new(
        id: u64,
        identity: Identity,
        shape: SessionShape,
        published: u64,
        epoch: u64,
        outbox: M::Ro,
        inbox: M::Rw,
    ) -> Self {
        let (out, at, n) = (shape.outbox(), shape.inbox(), u64::from(shape.slots));
        let place = |_| WaitingCall {
            last: 0,
            position: 0,
            given_to: 0,
            occupied: false,
            held: false,
            gathered: false,
            parked: false,
            next: NONE,
            previous: NONE,
        };
        // Each director's numbers are above those of the one before, so that no client takes a new cold spell for
        // one that it has rung for already.
        let polled = Parking::new(at.polled, epoch << 32);
        polled.announce(&inbox);
        Session {
            ring: Taker::new(out.ring, shape.ring_slots(), published),
            replies: Replies::new(at.replies, n),
            client: Bell::new(out.waiting),
            polled,
            hot: false,
            active_ns: 0,
            routes: Vec::new(),
            mappings: Vec::new(),
            places: (0..n).map(place).collect(),
            gather: Vec::new(),
            records: vec![[0; LINE]; n as usize].into_boxed_slice(),
            waiting: 0,
            calls: 0,
            retired: false,
            faulty: false,
            republishing: false,
            // Goes on where an earlier director was: only that it moves means anything.
            notices: inbox.load(at.notices),
            ask_again_ns: 0,
            groups: Arc::new([]),
            domain: Domain::default(),
            id,
            identity,
            shape,
            outbox,
            inbox,
            out,
            at,
        }
    }

    /// Who asks, when it asks for something.
    pub fn asker(&self) -> Asker<'_> {
        Asker { uid: self.identity.uid, gid: self.identity.gid, groups: &self.groups }
    }

    /// Whether requests are taken from it.
    #[inline]
    pub fn is_served(&self) -> bool {
        !self.retired && !self.faulty
    }

    /// Takes the next request: copied once, and every field that anybody will use checked against its bound.
    #[inline]
    pub fn take(&mut self, record: &mut Record) -> Result<Option<Request>, Fault> {
        let mut request = Request::default();
        let taken = self.ring.take_into(&self.outbox, record, |record| {
            request = Request::of_client(record);
            Request::needs_tail(record)
        });
        if !taken.map_err(|e| Fault::Stamp { position: e.position, stamp: e.stamp })? {
            return Ok(None);
        }
        self.check(record, &request)?;
        self.calls += 1;
        Ok(Some(request))
    }

    #[inline]
    fn check(&mut self, record: &Record, request: &Request) -> Result<(), Fault> {
        let within = |field, value: u64, bound: u64| {
            if value <= bound { Ok(()) } else { Err(Fault::Field { field, value, bound }) }
        };
        if request.flags & !flag::ALL != 0 {
            let (value, bound) = (u64::from(request.flags), u64::from(flag::ALL));
            return Err(Fault::Field { field: "flags", value, bound });
        }
        if place(request.len as usize, request.flags) == Place::Arena {
            let end = record[WORD_PAYLOAD_AT].saturating_add(u64::from(request.len));
            within("payload end", end, self.out.arena_bytes)?;
        }
        if request.flags & flag::REPLY_AT != 0 {
            let end = record[WORD_REPLY_AT].saturating_add(u64::from(request.capacity));
            within("reply buffer's end", end, self.at.arena_bytes)?;
        } else {
            within("reply capacity", u64::from(request.capacity), u64::from(self.shape.reply_capacity))?;
        }
        let slot = &mut self.places[self.replies.slot(request.ticket)];
        if slot.held && self.replies.stamp(&self.inbox, slot.last) > slot.last {
            // Its worker, which has not come back yet, has answered it meanwhile.
            (slot.held, slot.occupied) = (false, false);
        }
        if request.ticket <= slot.last || slot.occupied {
            return Err(Fault::SlotInUse { ticket: request.ticket, open: slot.last });
        }
        (slot.last, slot.position, slot.given_to) = (request.ticket, self.ring.next() - 1, 0);
        if request.flags & flag::SCATTER != 0 {
            return self.gather(record, request);
        }
        if !self.gather.is_empty() {
            return Err(self.broken_off("the scatter was broken off"));
        }
        Ok(())
    }

    /// Checks a scatter's record, and keeps it until the last of them is there. One that is none of a scatter that
    /// could still begin is not kept.
    fn gather(&mut self, record: &Record, request: &Request) -> Result<(), Fault> {
        let place = scatter::Place::of(record);
        let scatter::Place { index, count } = place;
        let wrong = |why| Err(Fault::Scatter { index, count, why });
        let (has_keys, again) = (request.flags & flag::HAS_KEY != 0, request.flags & flag::AGAIN != 0);
        let most = if has_keys { limits::SCATTER_KEYS_MAX } else { limits::PARTS_MAX };
        if request.flags & flag::ONE_WAY != 0 {
            return wrong("nobody would look at its parts");
        }
        if usize::from(count) > most || (count == 0 && !again) {
            return wrong("there can't be so many");
        }
        if has_keys {
            let bytes = scatter::list_words(usize::from(count)) as u64 * 8;
            if record[scatter::WORD_LIST].saturating_add(bytes) > self.out.arena_bytes {
                return wrong("its keys are not within the arena");
            }
        }
        if count == 0 {
            return if self.gather.is_empty() { Ok(()) } else { Err(self.broken_off("it was broken off")) };
        }
        if usize::from(index) != self.gather.len() || index >= count {
            return wrong("it is out of its order");
        }
        if let Some(&first) = self.gather.first() {
            let first = &self.records[first as usize];
            let names = u64::from(flag::NAME_KEY) << 32;
            let same = |word: usize| first[word] == record[word];
            let alike =
                same(4) && same(5) && same(scatter::WORD_LIST) && first[2] & !names == record[2] & !names;
            if !alike || scatter::Place::of(first).count != count {
                return wrong("it differs from the first");
            }
        }
        let slot = self.replies.slot(request.ticket) as u32;
        let own = &mut self.places[slot as usize];
        (own.occupied, own.parked, own.gathered) = (true, false, true);
        self.records[slot as usize] = *record;
        self.gather.push(slot);
        Ok(())
    }

    fn broken_off(&self, why: &'static str) -> Fault {
        let first = self.gather.first().map(|&slot| scatter::Place::of(&self.records[slot as usize]));
        Fault::Scatter { index: self.gather.len() as u16, count: first.map_or(0, |f| f.count), why }
    }

    /// The slots of the scatter of which the last record was taken.
    pub fn take_gathered(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.gather)
    }

    /// Keeps a record that was taken back once more.
    pub fn gather_again(&mut self, record: &Record) {
        let slot = self.replies.slot(Request::of_client(record).ticket);
        let place = &mut self.places[slot];
        (place.occupied, place.parked, place.gathered) = (true, false, true);
        self.records[slot] = *record;
    }

    /// Takes back the record of a gathered slot.
    pub fn ungather(&mut self, slot: u32) -> Option<Record> {
        let place = self.places.get_mut(slot as usize).filter(|p| p.gathered)?;
        (place.occupied, place.gathered) = (false, false);
        Some(self.records[slot as usize])
    }

    /// The route with this number.
    #[inline]
    pub fn route(&mut self, number: u32) -> Option<&mut Route> {
        self.routes.get_mut(number as usize)?.as_mut()
    }

    /// Gives the client's number a meaning.
    pub fn set_route(&mut self, number: u32, operation: usize, access: Passage) {
        let number = number as usize;
        if number >= self.routes.len() {
            self.routes.resize_with(number + 1, || None);
        }
        let route = Route {
            operation,
            access,
            waiting: 0,
            lists: [List { first: NONE, last: NONE, has_turn: false }; CLASSES],
        };
        self.routes[number] = Some(route);
    }

    /// What it is to a worker.
    #[inline]
    pub fn mapping(&self, worker: usize) -> Mapping {
        self.mappings.get(worker).copied().unwrap_or(Mapping::None)
    }

    /// Changes that.
    pub fn set_mapping(&mut self, worker: usize, mapping: Mapping) {
        if worker >= self.mappings.len() {
            self.mappings.resize(worker + 1, Mapping::None);
        }
        self.mappings[worker] = mapping;
    }

    /// Whether workers that refused to map it are to be asked again, now that a call could go to one: they may have
    /// had no descriptor left. True once in a while.
    pub fn is_time_to_ask(&mut self, now_ns: u64) -> bool {
        let is_time = self.ask_again_ns != 0 && now_ns >= self.ask_again_ns;
        if is_time || self.ask_again_ns == 0 {
            self.ask_again_ns = now_ns + ASK_AGAIN_NS;
        }
        is_time
    }

    /// Whether a worker may still reach its memory.
    pub fn is_mapped(&self) -> bool {
        self.mappings.iter().any(|m| !matches!(m, Mapping::None | Mapping::Refused))
    }

    /// Whether the caller has given a call up.
    pub fn is_cancelled(&self, ticket: u64) -> bool {
        self.outbox.load(self.out.cancel + self.replies.slot(ticket)) == ticket + 1
    }

    /// The last ticket of a slot is in this worker's hands.
    #[inline]
    pub fn give_to(&mut self, ticket: u64, worker: u64) {
        self.places[self.replies.slot(ticket)].given_to = worker;
    }

    /// Tickets that were given to a worker, with its id, and that have no answer. Costs a load of each reply slot that
    /// was used since the last look.
    pub fn unanswered(&mut self) -> Vec<(u64, u64)> {
        let (replies, inbox) = (&self.replies, &self.inbox);
        let given = self.places.iter_mut().filter(|place| place.given_to != 0);
        let open = given.filter_map(|place| {
            if replies.stamp(inbox, place.last) > place.last {
                place.given_to = 0;
            }
            (place.given_to != 0).then_some((place.last, place.given_to))
        });
        open.collect()
    }

    /// Whether a ticket has been answered.
    pub fn is_answered(&self, ticket: u64) -> bool {
        self.replies.stamp(&self.inbox, ticket) > ticket
    }

    /// Answers a ticket whose reply right the director holds. The caller rings the client.
    pub fn answer(&self, ticket: u64, record: &Record, used: usize) {
        self.replies.publish(&self.inbox, ticket, record, used);
    }

    /// Tells the client that a call may never be answered. The reply right stays where it is.
    pub fn give_verdict(&mut self, ticket: u64) {
        self.inbox.store(self.at.verdict + self.replies.slot(ticket), ticket + 1);
        self.notices = self.notices.wrapping_add(1);
        self.inbox.release(); // pairs with the acquire where the client sees `notices` move
        self.inbox.store(self.at.notices, self.notices);
    }

    /// Lets a call wait, behind those of its route and class. Returns whether these have to be given a turn.
    pub fn wait(&mut self, number: u32, request: &Request, record: &Record) -> bool {
        let slot = self.replies.slot(request.ticket) as u32;
        let Some(route) = self.routes.get_mut(number as usize).and_then(Option::as_mut) else { return false };
        let list = &mut route.lists[request.class()];
        let place = &mut self.places[slot as usize];
        self.records[slot as usize] = *record;
        (place.occupied, place.parked) = (true, false);
        (place.next, place.previous) = (NONE, list.last);
        match std::mem::replace(&mut list.last, slot) {
            NONE => list.first = slot,
            last => self.places[last as usize].next = slot,
        }
        route.waiting += 1;
        self.waiting += 1;
        !std::mem::replace(&mut list.has_turn, true)
    }

    /// Keeps a call that was published again until it is known what has become of it. Returns its slot.
    pub fn hold(&mut self, request: &Request, record: &Record) -> u32 {
        let slot = self.replies.slot(request.ticket);
        let place = &mut self.places[slot];
        self.records[slot] = *record;
        (place.occupied, place.parked, place.held) = (true, false, true);
        slot as u32
    }

    /// Takes it back.
    pub fn take_held(&mut self, slot: u32) -> Option<Record> {
        let place = self.places.get_mut(slot as usize).filter(|p| p.held)?;
        (place.occupied, place.held) = (false, false);
        Some(self.records[slot as usize])
    }

    /// Lets a call wait for one certain worker, or for a resource's holder. Returns its slot.
    pub fn park(&mut self, request: &Request, record: &Record) -> u32 {
        let slot = self.replies.slot(request.ticket) as u32;
        let place = &mut self.places[slot as usize];
        self.records[slot as usize] = *record;
        (place.occupied, place.parked) = (true, true);
        if let Some(route) = self.route(request.operation) {
            route.waiting += 1;
        }
        self.waiting += 1;
        slot
    }

    /// Where the call in a slot stood in the request ring: the order in which the client sent them.
    pub fn position(&self, slot: u32) -> u64 {
        self.places[slot as usize].position
    }

    /// The slots of calls that wait for room at any worker, in the order in which the client sent them.
    pub fn waiting_in_order(&self) -> Vec<u32> {
        let mut slots = self.waiting_slots();
        slots.retain(|&slot| self.parked_record(slot).is_none());
        slots.sort_unstable_by_key(|&slot| self.position(slot));
        slots
    }

    /// The call that waits in a slot for one certain worker, or for a resource's holder.
    pub fn parked_record(&self, slot: u32) -> Option<&Record> {
        self.places
            .get(slot as usize)
            .filter(|p| p.occupied && p.parked)
            .map(|_| &self.records[slot as usize])
    }

    /// The slot of the first call that waits on a route in a class; if there is none, its turn is over.
    pub fn first_waiting(&mut self, number: u32, class: usize) -> Option<u32> {
        let list = &mut self.route(number)?.lists[class];
        list.has_turn = list.first != NONE;
        list.has_turn.then_some(list.first)
    }

    /// The call that waits in a slot.
    pub fn waiting_record(&self, slot: u32) -> Option<&Record> {
        self.places.get(slot as usize).filter(|p| p.occupied).map(|_| &self.records[slot as usize])
    }

    /// Takes a call out of its route's list.
    pub fn remove_waiting(&mut self, slot: u32) {
        let place = &mut self.places[slot as usize];
        if !std::mem::replace(&mut place.occupied, false)
            || std::mem::take(&mut place.held)
            || std::mem::take(&mut place.gathered)
        {
            return;
        }
        let (previous, next, parked) = (place.previous, place.next, place.parked);
        let request = Request::of_client(&self.records[slot as usize]);
        let Some(route) = self.routes[request.operation as usize].as_mut() else { return };
        route.waiting -= 1;
        self.waiting -= 1;
        if parked {
            return;
        }
        let list = &mut route.lists[request.class()];
        match previous {
            NONE => list.first = next,
            p => self.places[p as usize].next = next,
        }
        match next {
            NONE => list.last = previous,
            n => self.places[n as usize].previous = previous,
        }
    }

    /// The slots in which calls wait for room: the director has their reply rights.
    pub fn waiting_slots(&self) -> Vec<u32> {
        let waits = |p: &WaitingCall| p.occupied && !p.held && !p.gathered;
        (0..self.places.len() as u32).filter(|&s| waits(&self.places[s as usize])).collect()
    }
}
