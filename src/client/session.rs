//! A client's session: its core, its memory, and its connection to the director.
//!
//! Attaching is one path, for the first time and after a director has gone: connect, greet, present the memory,
//! present the routes by number and name; then, if it comes back, publish again what is unanswered. A director that
//! does not know the session can't say what has become of its calls: they end MAY_HAVE_RUN, and the handle opens a
//! new one.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::asking::{Asked, RouteName, ask_key, ask_route, hear_of_route, tell_route};
use super::core::{ClientCore, Effects, Outcome};
use super::silence::Silence;
use crate::access::Domain;
use crate::bus::Bus;
use crate::control::greeting::{ANSWER_NS, greet, hail, is_closed, is_late, said, unexpected, welcomed};
use crate::control::message::{FromDirector, Role, ToDirector};
use crate::control::name::Name;
use crate::control::socket::{Channel, Received};
use crate::error::{Error, Status};
use crate::layout::{Place, SessionShape, reply_place};
use crate::memory::sealed::{self, Kind};
use crate::memory::{Among, Arena, Block, Doorbell, Mapped, Rw, Span, Spans, own_uid, peer_uid};
use crate::resource::Key;
use crate::shared::Shared;
use crate::waiting::{Waiter, now_ns};

/// How long a session that comes back lets a director take to answer: its calls' deadlines go on meanwhile.
const BACK_NS: u64 = 250_000_000;
/// The same for a call that can't be sent without one.
const DEMAND_NS: u64 = 2_000_000_000;
/// How often a session without a director looks for one.
const LOOK_NS: u64 = 5_000_000;
/// The same, where one can be connected to that doesn't answer.
const LOOK_AT_SILENT_NS: u64 = 1_000_000_000;
/// Routes that a director is asked for before its first answer is heard: no more than its socket surely has room for.
const ROUTES_AHEAD: usize = 32;
/// A director shows a sign of life every second: it is not taken for stopped before it has missed a few.
const SILENT_MIN_NS: u64 = 3_000_000_000;

/// The buffers of a slot's call.
#[derive(Default)]
pub struct Buffers {
    pub request: Option<Block>,
    /// Of a scatter: what all its parts read, given back with the last of them.
    pub shared: Option<Arc<Vec<Block>>>,
    pub reply: Option<Span>,
}

impl Buffers {
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.request.is_none() && self.shared.is_none() && self.reply.is_none()
    }
}

/// An outcome whose slot is in use by another call already.
pub struct Stashed {
    pub outcome: Outcome,
    pub payload: Vec<u8>,
}

/// What rings the director.
pub struct Bells {
    director: Doorbell,
}

impl Effects for Bells {
    fn ring_director(&mut self) {
        self.director.ring();
    }
}

/// A session that is, or was, attached.
pub struct Session {
    /// Which of the handle's sessions: tickets carry it.
    pub number: u16,
    /// The workers that see it are of this trust domain.
    pub domain: Domain,
    pub shape: SessionShape,
    pub core: ClientCore<Mapped>,
    pub inbox: Rw,
    pub requests: Arena,
    pub replies: Spans,
    pub buffers: Vec<Buffers>,
    pub stash: HashMap<u64, Box<Stashed>>,
    pub bells: Bells,
    /// By route's number: whether the director knows it.
    pub open_routes: Vec<bool>,
    bus: Bus,
    id: u64,
    credential: [u64; 2],
    outbox_fd: OwnedFd,
    inbox_fd: OwnedFd,
    /// When the director was found to be gone; 0 while there is one.
    lost_ns: u64,
    /// When to look for the next one.
    look_at_ns: u64,
    /// How long calls look for a director before they end.
    gone_after_ns: u64,
    /// A director did not know this session: it never will be attached again.
    unknown: bool,
    silence: Silence,
    /// Since when it has been clogged; 0: it is not.
    pub clogged_ns: u64,
    /// Its arena is full of what workers that don't answer may still read or write: the next call goes to a new one.
    pub is_spent: bool,
    own: Doorbell,
    /// The epoch of the last director that has heard of all that was open: one that came after it, and that has
    /// settled all without this session, leaves nobody who could say what became of that.
    settled: u64,
    /// Questions for a key that were given up: their answers, which come in order, are yet to come.
    late_keys: u32,
    /// `None` while there is no director.
    channel: Option<Channel>,
    /// The director that this session is coming back to, from one look to the next.
    arrival: Option<Arrival>,
    /// The channel is new.
    arrived: bool,
}

/// A session that is coming back. What it has presented it does not take back: a director that does not answer in
/// time is listened to in the next look, at the same socket, as long as it lives.
struct Arrival {
    channel: Channel,
    /// Which director it is, once it has said so.
    epoch: Option<u64>,
    /// The next position, as this director was told.
    published: u64,
    /// It knows the session.
    opened: bool,
    /// How many of the routes it was asked for, and of how many it has answered.
    asked: usize,
    routes: usize,
}

/// What answers a session that was presented: its id, its credential, and the director's doorbell.
fn opened(channel: &Channel, within_ns: u64) -> Result<(u64, [u64; 2], Doorbell), Error> {
    let (FromDirector::SessionOpened { session, credential }, mut fds) = channel.answer(within_ns)? else {
        return Err(unexpected());
    };
    let director = fds.pop().ok_or_else(unexpected)?;
    // The director never reads it, and shares it with nobody else: nobody can hold this client up.
    Ok((session, credential, Doorbell::from_fd(director, Among::OneUser)?))
}

/// What presents a session of a domain to a director of this user.
fn opening(
    (session, credential): (u64, [u64; 2]),
    (published, settled): (u64, u64),
    shape: SessionShape,
    domain: Domain,
    director: u32,
) -> ToDirector {
    if domain == Domain::of_uid(director) {
        ToDirector::OpenSession { session, credential, published, settled, shape }
    } else {
        ToDirector::OpenSessionIn { session, credential, published, settled, shape, domain }
    }
}

impl Session {
    /// Attaches with fresh memory, in a domain, or in that of the director's own user. Blocks for two round trips on a
    /// socket.
    pub fn attach(
        bus: &Bus,
        shape: SessionShape,
        number: u16,
        domain: Option<Domain>,
        gone_after_ns: u64,
        waiter: &Waiter,
    ) -> Result<Session, Error> {
        let (channel, epoch) = greet(bus, Role::Client, ANSWER_NS)?;
        let (out, at) = (shape.outbox(), shape.inbox());
        let (out_bytes, in_bytes) = (out.words as u64 * 8, at.words as u64 * 8);
        let (outbox, outbox_fd) =
            sealed::create("trine outbox", out_bytes + out.arena_bytes, out_bytes, Kind::WriterOnly)?;
        let (inbox, inbox_fd) =
            sealed::create("trine inbox", in_bytes + at.arena_bytes, in_bytes, Kind::ReadWrite)?;
        let director_uid = peer_uid(channel.as_fd())?;
        let home = Domain::of_uid(director_uid);
        let domain = domain.unwrap_or(home);
        let at_home = domain == home;
        let among = if at_home { Among::users(&[own_uid(), director_uid]) } else { Among::Several };
        let own = Doorbell::among(among)?;
        let core = ClientCore::new(shape, outbox.clone(), inbox.clone());
        let open = opening((0, [0; 2]), (core.published(), 0), shape, domain, director_uid);
        let fds = [outbox_fd.as_fd(), inbox_fd.as_fd(), own.as_fd()];
        channel.send_message(&open, &fds).map_err(Error::io("presenting the session"))?;
        let (id, credential, director) = opened(&channel, ANSWER_NS)?;
        waiter.add_doorbell(&own, 0)?;
        waiter.add_socket(&channel, 0)?;
        Ok(Session {
            number,
            domain,
            shape,
            requests: Arena::new(&outbox, shape.slots),
            replies: Spans::new(at.own_bytes, at.arena_bytes, shape.slots),
            buffers: (0..shape.slots).map(|_| Buffers::default()).collect(),
            stash: HashMap::new(),
            bells: Bells { director },
            open_routes: Vec::new(),
            bus: bus.clone(),
            id,
            credential,
            outbox_fd,
            inbox_fd,
            lost_ns: 0,
            look_at_ns: 0,
            gone_after_ns,
            unknown: false,
            silence: Silence::default(),
            clogged_ns: 0,
            is_spent: false,
            settled: epoch,
            late_keys: 0,
            channel: Some(channel),
            arrival: None,
            arrived: false,
            core,
            inbox,
            own,
        })
    }

    /// Comes back, to a new director: with the same memory and id. Blocks for about one round trip on a socket, or one
    /// for each [`ROUTES_AHEAD`] routes, `within_ns` at most for each; what is not done then is gone on with the next
    /// time.
    fn come_back(&mut self, routes: &[RouteName], within_ns: u64) -> Result<Channel, Error> {
        let mut arrival = match self.arrival.take() {
            Some(arrival) => arrival,
            None => self.present(routes)?,
        };
        let mut arrived = self.arrive(&mut arrival, routes, within_ns);
        if arrived.as_ref().is_err_and(is_closed) {
            // Such as are being replaced close what they have not heard; the next one is met at the same socket.
            arrival = self.present(routes)?;
            arrived = self.arrive(&mut arrival, routes, within_ns);
        }
        match arrived {
            Ok(()) => Ok(arrival.channel),
            Err(error) => {
                self.arrival = is_late(&error).then_some(arrival);
                Err(error)
            }
        }
    }

    /// Says in one go who comes back, with what, and where the first routes lead; and waits for nothing.
    fn present(&self, routes: &[RouteName]) -> Result<Arrival, Error> {
        let (channel, director_uid) = hail(&self.bus, Role::Client)?;
        let (who, published) = ((self.id, self.credential), self.core.published());
        let open = opening(who, (published, self.settled), self.shape, self.domain, director_uid);
        let fds = [self.outbox_fd.as_fd(), self.inbox_fd.as_fd(), self.own.as_fd()];
        said(channel.send_message(&open, &fds)).map_err(Error::io("presenting the session"))?;
        let asked = routes.len().min(ROUTES_AHEAD);
        for (i, name) in routes[..asked].iter().enumerate() {
            let told = self.tell_route_again(&channel, i, name);
            said(told).map_err(Error::io("asking for a route"))?;
        }
        Ok(Arrival { channel, epoch: None, published, opened: false, asked, routes: 0 })
    }

    /// Tells a director where a route leads, if an earlier one knew it.
    fn tell_route_again(&self, channel: &Channel, number: usize, name: &RouteName) -> io::Result<()> {
        let is_open = self.open_routes.get(number) == Some(&true);
        if is_open { tell_route(channel, number as u32, name) } else { Ok(()) }
    }

    /// Says all that a director is to know of a session that it was presented.
    fn arrive(&mut self, to: &mut Arrival, routes: &[RouteName], within_ns: u64) -> Result<(), Error> {
        let epoch = match to.epoch {
            Some(epoch) => epoch,
            None => *to.epoch.insert(welcomed(&to.channel, within_ns)?),
        };
        if !to.opened {
            let (_, credential, director) = opened(&to.channel, within_ns)?;
            (self.credential, self.bells.director) = (credential, director);
            to.opened = true;
        }
        while to.routes < routes.len() {
            if to.asked <= to.routes {
                let until = routes.len().min(to.routes + ROUTES_AHEAD);
                for (i, name) in routes[..until].iter().enumerate().skip(to.asked) {
                    let told = self.tell_route_again(&to.channel, i, name);
                    told.map_err(Error::io("asking for a route"))?;
                    to.asked = i + 1;
                }
            }
            if self.open_routes.get(to.routes) == Some(&true) {
                let asked = hear_of_route(&to.channel, to.routes as u32, &mut 0, within_ns);
                if !matches!(asked, Ok(_) | Err(Error::Refused { .. })) {
                    asked?;
                } else {
                    self.open_routes[to.routes] = matches!(asked, Ok(Asked::Open));
                }
            }
            to.routes += 1;
        }
        self.core.republish(to.published, &mut self.bells);
        let said = to.channel.send_message(&ToDirector::Republished, &[]);
        said.map_err(Error::io("saying that all is published"))?;
        self.settled = epoch;
        Ok(())
    }

    /// Without a director: looks for one, if it is time to. Calls that have waited too long for one end.
    pub fn look_for_director(&mut self, now_ns: u64, routes: &[RouteName]) {
        if !self.is_attached() && !self.unknown && now_ns >= self.look_at_ns {
            self.ask_for_director(now_ns, routes, BACK_NS);
        }
    }

    /// The same, at once, and with more patience: for a call that can't be sent without one.
    pub fn demand_director(&mut self, now_ns: u64, routes: &[RouteName]) {
        if !self.is_attached() && !self.unknown {
            self.ask_for_director(now_ns, routes, DEMAND_NS);
        }
    }

    fn ask_for_director(&mut self, now_ns: u64, routes: &[RouteName], within_ns: u64) {
        self.look_at_ns = now_ns + LOOK_NS;
        let came_back = self.come_back(routes, within_ns);
        let later_ns = crate::waiting::now_ns();
        if later_ns >= now_ns + within_ns {
            self.look_at_ns = later_ns + LOOK_AT_SILENT_NS;
        }
        match came_back {
            Ok(channel) => {
                (self.channel, self.lost_ns, self.late_keys, self.arrived) = (Some(channel), 0, 0, true);
            }
            Err(Error::Refused { status: Status::MayHaveRun, .. }) => {
                self.unknown = true;
                self.core.abandon(Status::MayHaveRun, &mut self.bells);
            }
            Err(_) if self.is_given_up(now_ns) => {
                self.core.abandon(Status::DirectorGone, &mut self.bells);
            }
            Err(_) => {}
        }
    }

    /// Whether there was no director for too long.
    pub fn is_given_up(&self, now_ns: u64) -> bool {
        self.lost_ns > 0 && now_ns.saturating_sub(self.lost_ns) >= self.gone_after_ns
    }

    /// Whether no director will know this session any more.
    pub fn is_unknown(&self) -> bool {
        self.unknown
    }

    /// When to look for a director next; `u64::MAX` while there is one.
    pub fn wake_at_ns(&self) -> u64 {
        if self.is_attached() || self.unknown { u64::MAX } else { self.look_at_ns }
    }

    /// The socket of a director that this session has just come back to: to be watched.
    pub fn take_arrival(&mut self) -> Option<&Channel> {
        if std::mem::take(&mut self.arrived) { self.channel.as_ref() } else { None }
    }

    /// Whether there is a director at the other end, as far as is known.
    pub fn is_attached(&self) -> bool {
        self.channel.is_some()
    }

    /// Tells the director what a route's number means. Blocks for a round trip on a socket.
    pub fn open_route(&mut self, number: u32, name: &RouteName) -> Result<Asked, Error> {
        let Some(channel) = &self.channel else { return Err(Error::DirectorGone(std::time::Duration::ZERO)) };
        let asked = ask_route(channel, number, name, &mut self.late_keys, ANSWER_NS)?;
        let number = number as usize;
        if number >= self.open_routes.len() {
            self.open_routes.resize(number + 1, false);
        }
        self.open_routes[number] = asked == Asked::Open;
        Ok(asked)
    }

    /// Nobody served a slot's call: whoever makes the next on its route asks first where it leads by now.
    pub fn doubt_route(&mut self, slot: u32) {
        if let Some(open) = self.open_routes.get_mut(self.core.operation_of(slot) as usize) {
            *open = false;
        }
    }

    /// Takes the announcement of a sleep back.
    pub fn awake(&mut self) {
        self.core.awake();
        self.own.drain();
    }

    /// The key of a resource's name. Blocks for a round trip on a socket.
    pub fn key(&mut self, name: &Name) -> Result<Key, Error> {
        let Some(channel) = &self.channel else { return Err(Error::DirectorGone(std::time::Duration::ZERO)) };
        ask_key(channel, name, &mut self.late_keys, ANSWER_NS)
    }

    /// Looks whether the director is still there. One system call. One that is there but shows no sign of life,
    /// while calls are open, is given up like one that is gone.
    pub fn check_director(&mut self) {
        self.look_at_socket();
        if self.channel.is_none() || self.core.open() == 0 {
            return self.silence = Silence::default();
        }
        let now_ns = now_ns();
        let silent_ns = self.silence.lasts_ns(self.core.directors_sign(), now_ns);
        if silent_ns >= self.gone_after_ns.max(SILENT_MIN_NS) {
            tracing::warn!(session = self.id, "the director shows no sign of life: leaving it");
            (self.channel, self.lost_ns) = (None, now_ns - silent_ns);
            self.look_at_ns = now_ns + LOOK_AT_SILENT_NS;
            self.core.abandon(Status::DirectorGone, &mut self.bells);
        }
    }

    fn look_at_socket(&mut self) {
        let Some(channel) = &self.channel else { return };
        loop {
            match channel.receive_message::<FromDirector>() {
                Ok(Received::Nothing) => return,
                // A late answer, to a question that was given up, says nothing.
                Ok(Received::Message(FromDirector::Closing, _)) => {}
                Ok(Received::Message(
                    FromDirector::RouteOpened { .. } | FromDirector::RouteElsewhere { .. },
                    _,
                )) => {}
                Ok(Received::Message(FromDirector::KeyNamed { .. }, _)) if self.late_keys > 0 => {
                    self.late_keys -= 1;
                }
                _ => {
                    // What is open goes on: workers still answer, and the next director settles the rest.
                    (self.channel, self.lost_ns) = (None, now_ns());
                    return;
                }
            }
        }
    }

    /// The doorbell that others ring.
    pub fn doorbell(&self) -> &Doorbell {
        &self.own
    }

    /// Takes a free slot, and what an ended one-way call left in it.
    #[inline]
    pub fn reserve(&mut self) -> Option<u32> {
        let slot = self.core.reserve()?;
        self.free_buffers(slot);
        Some(slot)
    }

    /// Takes so many free slots, or none.
    pub fn reserve_many(&mut self, count: usize) -> Option<Vec<u32>> {
        if self.core.free() < count {
            return None;
        }
        (0..count).map(|_| self.reserve()).collect()
    }

    /// Frees the buffers of slots that scatters have given back.
    pub fn free_given_back(&mut self) {
        for slot in self.core.take_freed() {
            if self.core.is_free(slot) {
                self.free_buffers(slot);
            }
        }
    }

    /// Frees a slot that its caller is done with, and its buffers unless somebody may still write there.
    #[inline]
    pub fn release(&mut self, slot: u32) {
        if self.core.release(slot) {
            self.free_buffers(slot);
        }
    }

    /// Frees the buffers of a free slot. A call whose payloads fit its records has none.
    #[inline]
    pub fn free_buffers(&mut self, slot: u32) {
        let buffers = &mut self.buffers[slot as usize];
        if !buffers.is_empty() {
            let buffers = std::mem::take(buffers);
            self.free_some(buffers);
        }
    }

    /// Gives buffers back to the arenas.
    #[inline]
    pub fn free(&mut self, buffers: Buffers) {
        if !buffers.is_empty() {
            self.free_some(buffers);
        }
    }

    fn free_some(&mut self, buffers: Buffers) {
        let Buffers { request, shared, reply } = buffers;
        if let Some(block) = request {
            self.requests.free(block);
        }
        for block in shared.and_then(Arc::into_inner).into_iter().flatten() {
            self.requests.free(block);
        }
        if let Some(span) = reply {
            self.replies.free(span);
        }
    }

    /// Finds slots and buffers that came back unseen: of one-way calls, and out of quarantine.
    pub fn reclaim(&mut self, now_ns: u64) {
        self.core.reclaim(now_ns, &mut self.bells);
        for slot in 0..self.shape.slots {
            if self.core.is_free(slot) {
                self.free_buffers(slot);
            }
        }
    }

    /// Moves an outcome that nobody has asked for yet into private memory, so that its slot is free.
    pub fn stash_one(&mut self, now_ns: u64) -> bool {
        let Some(name) = self.core.any_call_ended(now_ns, &mut self.bells) else { return false };
        let Some(slot) = self.core.take_ended(name, now_ns, &mut self.bells) else { return false };
        let (outcome, payload) = (*self.core.outcome(slot), self.payload(slot).to_vec());
        self.release(slot);
        self.stash.insert(name, Box::new(Stashed { outcome, payload }));
        true
    }

    /// A reply's payload, where the client's own notes say that it is: its length is the worker's word, and is cut
    /// to what was reserved.
    #[inline]
    pub fn payload<'a>(&self, slot: u32) -> Shared<'a> {
        let outcome = self.core.outcome(slot);
        let head = outcome.head();
        let len = match outcome.status {
            Status::Ok | Status::WorkerError => head.len,
            _ => 0,
        };
        match reply_place(len, head.flags) {
            Place::Head => Shared::in_record(&outcome.record, 4, len as usize),
            Place::Tail => Shared::in_record(&outcome.record, crate::layout::HEAD, len as usize),
            Place::Arena => {
                let own = u64::from(self.shape.reply_capacity);
                let (at, capacity) = match &self.buffers[slot as usize].reply {
                    Some(span) => (span.offset(), span.len() as u64),
                    None => (u64::from(slot) * own, own),
                };
                let len = len.min(capacity) as usize;
                Shared::in_inbox(&self.inbox, at, len).unwrap_or_else(|| Shared::private(Vec::new()))
            }
        }
    }

    /// Leaves the director: nothing of it is open, and no call will be sent any more.
    pub fn leave(&mut self) {
        (self.unknown, self.channel, self.arrival) = (true, None, None);
    }

    /// Whether the next call goes to a new session.
    pub fn is_left(&self) -> bool {
        self.is_spent && self.core.open() == 0
    }

    /// Whether anybody still needs this session.
    pub fn is_in_use(&self) -> bool {
        !self.unknown || !self.stash.is_empty() || !self.core.is_settled()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::played::{Played, hear, welcome};
    use crate::waiting::Waiting;

    const SHAPE: SessionShape =
        SessionShape { slots: 2, reply_capacity: 64, request_arena: 0, reply_arena: 0 };

    fn presented(channel: &Channel) {
        let (heard, _) = hear(channel);
        assert!(matches!(heard, ToDirector::OpenSession { .. }), "{heard:?}");
    }

    fn answer(channel: &Channel) {
        let bell = Doorbell::new().unwrap();
        let opened = FromDirector::SessionOpened { session: 7, credential: [1, 2] };
        channel.send_message(&opened, &[bell.as_fd()]).unwrap();
    }

    fn open_route(channel: &Channel, route: u32) {
        let opened = FromDirector::RouteOpened { route, status: Status::Ok, message: String::new() };
        channel.send_message(&opened, &[]).unwrap();
    }

    fn route(operation: &str) -> RouteName {
        let name = |name| Name::new("name", name).unwrap();
        RouteName { service: name("service"), operation: name(operation) }
    }

    /// A session whose director is gone.
    fn orphan(director: &Played, waiter: &Waiter) -> Session {
        let (channel, mut session) = director.meet(
            |channel| {
                presented(channel);
                answer(channel);
            },
            |bus| Session::attach(bus, SHAPE, 0, None, u64::MAX, waiter).unwrap(),
        );
        // Dropped, it could live on for a moment in a child that another test has just forked.
        channel.shut();
        session.check_director();
        assert!(!session.is_attached());
        session
    }

    #[test]
    fn a_session_that_comes_back_says_all_at_once_and_of_many_routes_so_many() {
        let director = Played::new();
        let waiter = Waiter::new(Waiting::default(), 8).unwrap();
        let mut session = orphan(&director, &waiter);
        let routes: Vec<RouteName> = (0..ROUTES_AHEAD + 5).map(|n| route(&n.to_string())).collect();
        // One was never open, and some are newer than the last director.
        session.open_routes = (0..ROUTES_AHEAD + 3).map(|n| n != 3).collect();
        let asked_for = |channel: &Channel| match hear(channel).0 {
            ToDirector::OpenRoute { route, .. } => route,
            other => panic!("{other:?}"),
        };
        let play = |channel: &Channel| {
            presented(channel);
            let first: Vec<u32> = (1..ROUTES_AHEAD).map(|_| asked_for(channel)).collect();
            assert!(first.iter().all(|&route| route != 3) && first.ends_with(&[ROUTES_AHEAD as u32 - 1]));
            answer(channel);
            first.iter().for_each(|&route| open_route(channel, route));
            for more in 0..3 {
                assert_eq!(asked_for(channel), ROUTES_AHEAD as u32 + more);
            }
            (0..3).for_each(|more| open_route(channel, ROUTES_AHEAD as u32 + more));
            assert_eq!(hear(channel).0, ToDirector::Republished);
        };
        director.meet(play, |_| session.look_for_director(now_ns(), &routes));
        assert!(session.is_attached());
        assert_eq!(session.open_routes, (0..ROUTES_AHEAD + 3).map(|n| n != 3).collect::<Vec<_>>());
    }

    #[test]
    fn a_session_that_comes_back_to_a_slow_director_goes_on_at_the_same_socket() {
        let director = Played::new();
        let waiter = Waiter::new(Waiting::default(), 8).unwrap();
        let routes = [route("operation")];
        let mut session = orphan(&director, &waiter);
        session.open_routes = vec![true];

        // The next one takes its time for each of its answers.
        let come_back = |session: &mut Session| {
            let back = session.come_back(&routes, 1_000_000).map(|_| ());
            assert!(back.as_ref().is_err_and(is_late), "{back:?}");
        };
        come_back(&mut session);
        let channel = director.hailed();
        presented(&channel);
        come_back(&mut session);
        welcome(&channel);
        come_back(&mut session);
        come_back(&mut session);
        answer(&channel);
        come_back(&mut session);
        assert!(matches!(hear(&channel).0, ToDirector::OpenRoute { route: 0, .. }));
        open_route(&channel, 0);
        session.look_for_director(now_ns(), &routes);
        assert!(session.is_attached() && session.open_routes[0]);
        assert_eq!(hear(&channel).0, ToDirector::Republished, "it did not ask once more");
        assert!(!director.is_asked_for(), "it has connected once more");
    }
}
