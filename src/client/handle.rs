//! What a program calls with.

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytemuck::{AnyBitPattern, NoUninit};

use super::call::{Draft, KeptReply, Pending, Reply};
use super::parts::Parts;
use super::session::{Asked, RouteName, Session, Stashed};
use crate::access::Domain;
use crate::bus::Bus;
use crate::control::name::Name;
use crate::core::{Os, Party, Turn, block_on};
use crate::error::{CallError, Error, Status};
use crate::layout::SessionShape;
use crate::limits;
use crate::memory::Fork;
use crate::resource::Key;
use crate::waiting::{Armed, Events, Until, Waiter, Waiting, coarse_ns, now_ns};

/// How often a client that doesn't sleep looks whether its director is still there.
const CHECK_NS: u64 = 1_000_000;
/// How long `close` waits for one-way calls to be taken over by their workers.
const CLOSE_NS: u64 = 1_000_000_000;

/// How long a session's slots may be held by workers that don't answer, before it is left for a new one.
const CLOGGED_NS: u64 = 1_000_000_000;

/// Longest pause between two questions whether a service is back.
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// What can be chosen when a client connects.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ClientOptions {
    /// What it does while it waits for a reply.
    pub waiting: Waiting,
    /// Calls that can be open at a time, a power of two.
    pub slots: u32,
    /// Bytes of reply that every call has room for without asking.
    pub reply_capacity: u32,
    /// Bytes of the arena in which requests of more than 64 bytes are built. Memory that is never written is free.
    pub request_arena: u64,
    /// Bytes of the arena for replies that ask for more than `reply_capacity`.
    pub reply_arena: u64,
    /// How long calls look for a director before they end DIRECTOR_GONE.
    pub director_gone: Duration,
    /// Whether a signal that this thread handles ends its wait: see [`Client::was_interrupted`].
    pub interruptible: bool,
}

impl Default for ClientOptions {
    fn default() -> Self {
        ClientOptions {
            waiting: Waiting::default(),
            slots: limits::SLOTS_DEFAULT,
            reply_capacity: limits::REPLY_CAPACITY_DEFAULT,
            request_arena: limits::ARENA_DEFAULT,
            reply_arena: limits::ARENA_DEFAULT,
            director_gone: Duration::from_nanos(limits::DIRECTOR_GONE_NS),
            interruptible: false,
        }
    }
}

impl ClientOptions {
    /// See [`waiting`](Self::waiting).
    pub fn waiting(mut self, waiting: Waiting) -> Self {
        self.waiting = waiting;
        self
    }

    /// See [`slots`](Self::slots).
    pub fn slots(mut self, slots: u32) -> Self {
        self.slots = slots;
        self
    }

    /// See [`reply_capacity`](Self::reply_capacity).
    pub fn reply_capacity(mut self, bytes: u32) -> Self {
        self.reply_capacity = bytes;
        self
    }

    /// Bytes of both arenas: for requests, and for replies.
    pub fn arenas(mut self, request_bytes: u64, reply_bytes: u64) -> Self {
        (self.request_arena, self.reply_arena) = (request_bytes, reply_bytes);
        self
    }

    /// See [`director_gone`](Self::director_gone).
    pub fn director_gone(mut self, after: Duration) -> Self {
        self.director_gone = after;
        self
    }

    /// See [`interruptible`](Self::interruptible).
    pub fn interruptible(mut self, interruptible: bool) -> Self {
        self.interruptible = interruptible;
        self
    }

    fn gone_after_ns(&self) -> u64 {
        u64::try_from(self.director_gone.as_nanos()).unwrap_or(u64::MAX)
    }

    fn shape(&self) -> Result<SessionShape, Error> {
        let bounds = |what, value, bounds: String| Err(Error::Option { what, value, bounds });
        if !self.slots.is_power_of_two() || self.slots > limits::SLOTS_MAX {
            let text = format!("a power of two up to {}", limits::SLOTS_MAX);
            return bounds("slots", u64::from(self.slots), text);
        }
        if !(64..=1 << 20).contains(&self.reply_capacity) {
            return bounds("reply_capacity", u64::from(self.reply_capacity), "64 to 1048576".into());
        }
        let largest = self.request_arena.max(self.reply_arena);
        if largest > limits::ARENA_MAX {
            return bounds("an arena", largest, format!("up to {}", limits::ARENA_MAX));
        }
        Ok(SessionShape {
            slots: self.slots,
            reply_capacity: self.reply_capacity.next_multiple_of(64),
            request_arena: self.request_arena.next_multiple_of(4096),
            reply_arena: self.reply_arena.next_multiple_of(4096),
        })
    }
}

/// An operation of a service, as [`Client::route`] found it. Outlives any director.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Route(pub(super) u32);

impl Route {
    /// A number for this client's route, where a `Route` can't be kept: other languages, for one.
    pub fn number(self) -> u32 {
        self.0
    }

    /// The route of this number. One that the client has not is refused where it is used.
    pub fn from_number(number: u32) -> Route {
        Route(number)
    }
}

/// A call's name, to be kept anywhere. It is not a right to anything, and never another call's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(u64);

impl Ticket {
    /// As a number, which is never 0.
    pub fn to_bits(self) -> u64 {
        self.0
    }

    /// What `to_bits` gave. Of any other number no client knows anything.
    pub fn from_bits(bits: u64) -> Ticket {
        Ticket(bits)
    }

    pub(super) fn new(session: u16, name: u64) -> Self {
        Ticket(u64::from(session) << 48 | name)
    }

    pub(super) fn session(self) -> u16 {
        (self.0 >> 48) as u16
    }

    pub(super) fn name(self) -> u64 {
        self.0 & ((1 << 48) - 1)
    }
}

/// A client of a bus. It may be sent to another thread, and is used by one at a time: a pool takes one a thread.
pub struct Client {
    pub(super) inner: RefCell<Inner>,
    /// The waiter's descriptor: one that can be lent while nothing else is.
    events: Events,
    /// Tells this process's clients from one another.
    pub(super) number: u64,
    fork: Fork,
}

static CLIENTS: AtomicU64 = AtomicU64::new(0);

/// A client's state. Borrowed for the length of one operation; never across a call of the program's own code.
pub(super) struct Inner {
    bus: Bus,
    options: ClientOptions,
    shape: SessionShape,
    pub(super) waiter: Waiter,
    /// The one that calls go to.
    pub(super) session: Session,
    /// Those of other trust domains: a session is seen by the workers of one. Whichever is needed changes places with
    /// the one that calls go to.
    others: Vec<Session>,
    /// Those whose director is gone, as long as somebody may ask for an outcome or holds a reply.
    old: Vec<Session>,
    /// The next session's number.
    next_session: u16,
    routes: Vec<RouteName>,
    numbers: HashMap<RouteName, u32>,
    keys: HashMap<Name, Key>,
    /// When it was last looked whether the director is there: over all looks, since who only polls has none that is long.
    checked_ns: u64,
}

impl Client {
    pub(crate) fn connect(bus: &Bus, options: ClientOptions) -> Result<Client, Error> {
        let fork = Fork::mark()?;
        let shape = options.shape()?;
        let waiter = Waiter::new(options.waiting, 8)?.interruptible(options.interruptible);
        let session = Session::attach(bus, shape, 0, None, options.gone_after_ns(), &waiter)?;
        let events = waiter.events();
        let inner = Inner {
            bus: bus.clone(),
            options,
            shape,
            waiter,
            session,
            others: Vec::new(),
            old: Vec::new(),
            next_session: 1,
            routes: Vec::new(),
            numbers: HashMap::new(),
            keys: HashMap::new(),
            checked_ns: 0,
        };
        let number = CLIENTS.fetch_add(1, Ordering::Relaxed);
        Ok(Client { inner: RefCell::new(inner), events, number, fork })
    }

    /// Finds an operation. Once for each; a call needs only the result. Blocks for a round trip on a socket.
    ///
    /// # Errors
    /// [`Error::Refused`] with NO_SUCH_SERVICE or NO_SUCH_OPERATION.
    pub fn route(&self, service: &str, operation: &str) -> Result<Route, Error> {
        self.check_fork()?;
        let (service, operation) = (Name::new("service", service)?, Name::new("operation", operation)?);
        self.inner.borrow_mut().route(RouteName { service, operation })
    }

    /// The key of a resource's name, for [`Draft::key`]: the same for every client and worker as long as the bus
    /// lives; after a director's clean stop, ask anew. Blocks for a round trip on a socket, once for each name.
    ///
    /// # Errors
    /// [`Error::Name`]; [`Error::Refused`] with BAD_RESOURCE if another name has the same hash, and with BUSY for
    /// more than [`NAMED_KEYS_MAX`](limits::NAMED_KEYS_MAX) names.
    pub fn key(&self, name: &str) -> Result<Key, Error> {
        self.check_fork()?;
        let name = Name::new("key", name)?;
        let mut inner = self.inner.borrow_mut();
        if let Some(&key) = inner.keys.get(&name) {
            return Ok(key);
        }
        inner.attach(u64::MAX).map_err(refused)?;
        let key = inner.session.key(&name)?;
        inner.keys.insert(name, key);
        Ok(key)
    }

    /// Calls, and waits for the result. The request is copied in once. The call's deadline is 30 s from now.
    ///
    /// # Errors
    /// Everything that a call can end with; [`CallError::may_have_run`] is the truth.
    pub fn call(&self, route: Route, request: &[u8]) -> Result<Reply<'_>, CallError> {
        self.request(route).submit(request, Until::Forever)?.wait()
    }

    /// The same with plain values: the reply has exactly the size of `R`.
    ///
    /// # Errors
    /// As [`call`](Self::call); FAULT if the reply is of another size.
    pub fn call_as<Q: NoUninit, R: AnyBitPattern>(&self, route: Route, request: &Q) -> Result<R, CallError> {
        let reply = self.call(route, bytemuck::bytes_of(request))?;
        reply.bytes().get().ok_or_else(|| {
            let message = format!("the reply has {} bytes, not {}", reply.bytes().len(), size_of::<R>());
            CallError::sent(Status::Fault, true).with_message(0, message)
        })
    }

    /// Begins a request for which more is to be said: a key, a deadline, room for a large reply, and so on.
    pub fn request(&self, route: Route) -> Draft<'_> {
        Draft::new(self, route)
    }

    /// Waits until any open call has ended, or a part of a scatter, and names it: [`pending`](Self::pending) or
    /// [`parts`](Self::parts) gives it back. `None`: none did in time, or none is open.
    ///
    /// # Errors
    /// [`Error::Interrupted`], if a signal may end a wait: see [`ClientOptions::interruptible`].
    pub fn wait_any(&self, until: Until) -> Result<Option<Ticket>, Error> {
        self.check_fork()?;
        let mut inner = self.inner.borrow_mut();
        match inner.wait_any(until) {
            None if inner.waiter.take_interrupted() => Err(Error::Interrupted),
            ended => Ok(ended),
        }
    }

    /// Whether a signal ended the last wait: then [`Pending::wait_until`] gave `None` before its time, and the call is
    /// still open. Says so once. Only with [`ClientOptions::interruptible`].
    pub fn was_interrupted(&self) -> bool {
        self.inner.borrow_mut().waiter.take_interrupted()
    }

    /// Before sleeping in an event loop: announces the sleep, and looks once more. After [`Armed::Sleep`] the
    /// descriptor ([`AsFd`]) gets readable when there may be something to do, a deadline included: then
    /// [`disarm`](Self::disarm), and [`wait_any`](Self::wait_any) with [`Until::Now`] until it has nothing more.
    /// Nothing else is to be done with the descriptor. Any other call on the client in between is fine, and may make
    /// it readable for nothing. At most one system call, mostly none.
    ///
    /// # Errors
    /// [`Error::Forked`], [`Error::System`].
    pub fn arm(&self) -> Result<Armed, Error> {
        self.check_fork()?;
        self.inner.borrow_mut().arm()
    }

    /// After sleeping in an event loop: takes the announcement back, and sees whether the director is gone. Two
    /// system calls. Without a director, looks for the next one, if it is time to: to come back to one blocks for a
    /// few round trips on a socket. An armed client wakes for that, too: every 5 ms while calls are under way, else
    /// every second.
    ///
    /// # Errors
    /// [`Error::Forked`].
    pub fn disarm(&self) -> Result<(), Error> {
        self.check_fork()?;
        self.inner.borrow_mut().disarm();
        Ok(())
    }

    /// An open call, or one that has ended and whose outcome nobody has taken, from its name.
    pub fn pending(&self, ticket: Ticket) -> Option<Pending<'_>> {
        self.inner.borrow().knows(ticket).then(|| Pending::new(self, ticket))
    }

    /// A scatter of which parts are still to come, from its name.
    pub fn parts(&self, ticket: Ticket) -> Option<Parts<'_>> {
        let mut inner = self.inner.borrow_mut();
        let known = inner.session_of(ticket).is_some_and(|session| session.core.is_group(ticket.name()));
        drop(inner);
        known.then(|| Parts::new(self, ticket))
    }

    /// A reply again, from what [`Reply::detach`] gave. `None` if it is another client's.
    pub fn reattach(&self, kept: KeptReply) -> Option<Reply<'_>> {
        (kept.client == self.number).then(|| Reply::of(self, kept))
    }

    /// Ends the session, after waiting for one-way calls to be answered, a second at most. Dropping does the same.
    pub fn close(self) {}

    pub(super) fn check_fork(&self) -> Result<(), Error> {
        if self.fork.is_child() { Err(Error::Forked) } else { Ok(()) }
    }

    pub(super) fn is_forked(&self) -> bool {
        self.fork.is_child()
    }
}

impl AsFd for Client {
    /// What an event loop waits on: see [`Client::arm`].
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if !self.fork.is_child() {
            self.inner.get_mut().finish_one_way();
        }
    }
}

impl Inner {
    fn route(&mut self, name: RouteName) -> Result<Route, Error> {
        self.attach(u64::MAX).map_err(refused)?;
        if let Some(&number) = self.numbers.get(&name) {
            return Ok(Route(number));
        }
        let number = self.routes.len() as u32;
        if number >= limits::ROUTES_MAX {
            let bounds = format!("up to {}", limits::ROUTES_MAX);
            return Err(Error::Option { what: "the number of routes", value: u64::from(number), bounds });
        }
        let opened = self.open_somewhere(number, &name);
        if !matches!(opened, Err(Error::Refused { .. })) {
            // Also where no answer came: the number is this name's, whatever the director has made of it.
            self.routes.push(name.clone());
            self.numbers.insert(name, number);
        }
        opened.map(|()| Route(number))
    }

    /// Makes sure that there is a director, as far as is known, and that it knows the route.
    #[inline]
    pub fn prepare(&mut self, route: Route, until_ns: u64) -> Result<(), CallError> {
        if self.session.open_routes.get(route.0 as usize) != Some(&true) {
            self.select_for(route);
        }
        if !self.session.is_attached() {
            self.attach(until_ns)?;
        }
        let is_used_up = self.session.core.is_used_up() && self.session.core.open() == 0;
        if is_used_up || self.session.is_left() {
            self.begin_anew()?;
        }
        if self.session.core.is_clogged() {
            self.leave_clogged(until_ns)?;
        } else {
            self.session.clogged_ns = 0;
        }
        if self.session.open_routes.get(route.0 as usize) == Some(&true) {
            return Ok(());
        }
        let Some(name) = self.routes.get(route.0 as usize).cloned() else {
            return Err(CallError::not_sent(Status::NoSuchService, "the route is another client's"));
        };
        self.open_again(route.0, &name, until_ns)
    }

    /// Makes the session current in which a route is open, if there is one.
    fn select_for(&mut self, route: Route) {
        let open = |s: &&mut Session| s.open_routes.get(route.0 as usize) == Some(&true);
        if let Some(other) = self.others.iter_mut().find(open) {
            std::mem::swap(&mut self.session, other);
        }
    }

    /// Makes the session of this number current. Returns whether it is one that calls can go to.
    pub fn select(&mut self, number: u16) -> bool {
        if self.session.number == number {
            return true;
        }
        let other = self.others.iter_mut().find(|s| s.number == number);
        other.map(|other| std::mem::swap(&mut self.session, other)).is_some()
    }

    /// Opens a route in the session of the domain that it leads to, which is current then.
    fn open_somewhere(&mut self, number: u32, name: &RouteName) -> Result<(), Error> {
        // Who provides it may change while it is asked for; not for ever.
        for _ in 0..4 {
            match self.session.open_route(number, name)? {
                Asked::Open => return Ok(()),
                Asked::Elsewhere(domain) => self.enter(domain)?,
            }
        }
        let message = "its workers change from one trust domain to another all the time".into();
        Err(Error::Refused { status: Status::Busy, message })
    }

    /// Makes the session of a domain current, and opens one if there is none.
    fn enter(&mut self, domain: Domain) -> Result<(), Error> {
        if let Some(other) = self.others.iter_mut().find(|s| s.domain == domain) {
            std::mem::swap(&mut self.session, other);
            return self.attach(u64::MAX).map_err(refused);
        }
        let (number, gone_after_ns) = (self.next_session, self.options.gone_after_ns());
        let session =
            Session::attach(&self.bus, self.shape, number, Some(domain), gone_after_ns, &self.waiter)?;
        self.next_session = number.wrapping_add(1);
        self.others.push(std::mem::replace(&mut self.session, session));
        Ok(())
    }

    /// Opens a route that an earlier director knew. Its workers may come back later than this client.
    fn open_again(&mut self, number: u32, name: &RouteName, until_ns: u64) -> Result<(), CallError> {
        let gone_ns = now_ns().saturating_add(self.options.director_gone.as_nanos() as u64);
        let mut pause = Pause::default();
        self.waiter.take_interrupted();
        loop {
            let error = match self.open_somewhere(number, name) {
                Ok(()) => return Ok(()),
                Err(error @ Error::Refused { .. }) if is_unknown(error.status()) => error,
                Err(error) => return Err(not_sent(error)),
            };
            let now_ns = now_ns();
            if now_ns >= gone_ns {
                return Err(not_sent(error));
            }
            if now_ns >= until_ns {
                return Err(CallError::not_sent(Status::WouldBlock, "its workers are not back yet"));
            }
            pause.sleep(&mut self.waiter, until_ns.min(gone_ns) - now_ns);
            if self.waiter.take_interrupted() {
                return Err(not_sent(Error::Interrupted));
            }
        }
    }

    /// Makes sure that there is a director, waiting for one if need be.
    fn attach(&mut self, until_ns: u64) -> Result<(), CallError> {
        self.session.check_director();
        if self.session.is_attached() {
            return Ok(());
        }
        self.session.demand_director(now_ns(), &self.routes);
        let found = self.look_until(About::All, until_ns, |session, _, now_ns| match session.is_attached() {
            true => Some(true),
            false => (session.is_unknown() || session.is_given_up(now_ns)).then_some(false),
        });
        match found {
            Some(true) => Ok(()),
            None if self.waiter.take_interrupted() => Err(not_sent(Error::Interrupted)),
            None => Err(CallError::not_sent(Status::WouldBlock, "there is no director now")),
            Some(false) if self.session.is_unknown() => self.begin_anew(),
            Some(false) => {
                let after_s = self.options.director_gone.as_secs_f64();
                let message = format!("no director for {after_s} s; start one with `trine director`");
                Err(CallError::not_sent(Status::DirectorGone, message))
            }
        }
    }

    /// Opens a new session, where a director does not know the one there was. That is kept as long as anybody may
    /// ask for one of its outcomes.
    fn begin_anew(&mut self) -> Result<(), CallError> {
        let (number, gone_after_ns) = (self.next_session, self.options.gone_after_ns());
        let domain = Some(self.session.domain);
        let session = Session::attach(&self.bus, self.shape, number, domain, gone_after_ns, &self.waiter);
        let session = session.map_err(not_sent)?;
        self.next_session = number.wrapping_add(1);
        self.waiter.remove_doorbell(self.session.doorbell());
        let mut old = std::mem::replace(&mut self.session, session);
        old.leave();
        self.old.push(old);
        self.old.retain(Session::is_in_use);
        Ok(())
    }

    /// A session most of whose slots are held by workers that don't answer is left for a new one, when it has been so
    /// for a while: they may be about to answer. What there is still room for goes on meanwhile.
    fn leave_clogged(&mut self, until_ns: u64) -> Result<(), CallError> {
        let now_ns = now_ns();
        if self.session.clogged_ns == 0 {
            self.session.clogged_ns = now_ns;
        }
        let leave_ns = self.session.clogged_ns + CLOGGED_NS;
        self.look_until(About::All, until_ns.min(leave_ns), |session, _, now_ns| {
            session.reclaim(now_ns);
            session.core.has_free().then_some(())
        });
        let is_over = crate::waiting::now_ns() >= leave_ns;
        if is_over && self.session.core.is_clogged() {
            // Without a new one, what is left of this one has to do.
            match self.begin_anew() {
                Err(error) if !self.session.core.has_free() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Takes a slot, waiting for one if need be.
    #[inline]
    pub fn reserve(&mut self, until_ns: u64) -> Result<u32, CallError> {
        match self.session.reserve() {
            Some(slot) => Ok(slot),
            None => self.reserve_slowly(until_ns),
        }
    }

    /// Takes so many slots at once, waiting for them if need be.
    pub fn reserve_many(&mut self, count: usize, until_ns: u64) -> Result<Vec<u32>, CallError> {
        match self.session.reserve_many(count) {
            Some(slots) => Ok(slots),
            None => self.wait_for_slots(until_ns, |session| session.reserve_many(count)),
        }
    }

    fn reserve_slowly(&mut self, until_ns: u64) -> Result<u32, CallError> {
        self.wait_for_slots(until_ns, Session::reserve)
    }

    fn wait_for_slots<T>(
        &mut self,
        until_ns: u64,
        take: impl FnMut(&mut Session) -> Option<T>,
    ) -> Result<T, CallError> {
        let all = match self.make_room(until_ns, take) {
            Ok(taken) => return Ok(taken),
            Err(Shortage::Held) => "all slots are held by replies that have not been dropped",
            Err(Shortage::Clogged) => "all slots are held by workers that don't answer",
            Err(Shortage::Now) => "all slots are in use",
            Err(Shortage::Lost) => return Err(lost()),
            Err(Shortage::Interrupted) => return Err(not_sent(Error::Interrupted)),
        };
        Err(CallError::not_sent(Status::WouldBlock, all))
    }

    /// Takes something out of an arena, waiting for room if need be.
    pub fn allocate<T>(
        &mut self,
        until_ns: u64,
        mut take: impl FnMut(&mut Session) -> Option<T>,
    ) -> Result<T, CallError> {
        if let Some(taken) = take(&mut self.session) {
            return Ok(taken);
        }
        let full = match self.make_room(until_ns, take) {
            Ok(taken) => return Ok(taken),
            Err(Shortage::Held) => "the arena is full of what this program holds",
            Err(Shortage::Clogged) => "the arena is full of what workers hold that don't answer",
            Err(Shortage::Now) => "the arena is full",
            Err(Shortage::Lost) => return Err(lost()),
            Err(Shortage::Interrupted) => return Err(not_sent(Error::Interrupted)),
        };
        Err(CallError::not_sent(Status::WouldBlock, full))
    }

    /// Takes what there is too little of, as soon as there is enough. Calls that have ended and whose outcomes nobody
    /// has asked for yet make room: unless this caller did not want to wait, who may well ask for one next.
    fn make_room<T>(
        &mut self,
        until_ns: u64,
        mut take: impl FnMut(&mut Session) -> Option<T>,
    ) -> Result<T, Shortage> {
        let clogged_ns = now_ns() + CLOGGED_NS;
        let taken = self.look_until(About::All, until_ns, |session, _, now_ns| {
            session.reclaim(now_ns);
            loop {
                if let Some(taken) = take(session) {
                    return Some(Ok(taken));
                }
                if until_ns == 0 || !session.stash_one(now_ns) {
                    break;
                }
            }
            match (session.core.open(), session.core.quarantined()) {
                (0, 0) => Some(Err(Shortage::Held)),
                (0, _) if now_ns >= clogged_ns => {
                    session.is_spent = true;
                    Some(Err(Shortage::Clogged))
                }
                _ => None,
            }
        });
        match taken {
            Some(taken) => taken,
            None if self.waiter.take_interrupted() => Err(Shortage::Interrupted),
            None if self.session.is_attached() => Err(Shortage::Now),
            None => Err(Shortage::Lost),
        }
    }

    /// Looks at the current session, or at all, until there is what is looked for, or until the time has come. Each look
    /// brings up to date what it is about. Whatever is looked at, all sessions go on to the next director.
    pub(super) fn look_until<T>(
        &mut self,
        about: About,
        until_ns: u64,
        find: impl FnMut(&mut Session, &mut [Session], u64) -> Option<T>,
    ) -> Option<T> {
        self.waiter.take_interrupted();
        let checked_ns = self.checked_ns;
        let (session, others, routes) = (&mut self.session, &mut self.others[..], &self.routes[..]);
        let mut look = Look {
            session,
            others,
            routes,
            about,
            find,
            until_ns,
            checked_ns,
            check: false,
            interrupted: false,
        };
        let found = block_on(&mut look, &mut self.waiter);
        self.checked_ns = look.checked_ns;
        self.watch_arrival();
        found
    }

    /// Sleeps see the death of a director that a session has just come back to.
    #[inline]
    fn watch_arrival(&mut self) {
        for session in std::iter::once(&mut self.session).chain(&mut self.others) {
            if let Some(channel) = session.take_arrival()
                && let Err(error) = self.waiter.add_socket(channel, 0)
            {
                tracing::warn!(%error, "the director's death will be noticed late");
            }
        }
    }

    /// Waits for one call. `None`: not in time; or its outcome was given out already, then at once.
    #[inline]
    pub fn wait(&mut self, ticket: Ticket, until_ns: u64) -> Option<Ended> {
        let name = ticket.name();
        if !self.select(ticket.session()) {
            return self.find_in_old(ticket);
        }
        if !self.session.stash.is_empty()
            && let Some(stashed) = self.session.stash.remove(&name)
        {
            return Some(Ended::Stashed(stashed));
        }
        // With many calls in flight the next has ended mostly: then there is nothing to wait with.
        if self.session.core.is_answered(name) {
            let now_ns = self.waiter.now_ns();
            if let Some(slot) = self.session.core.take_ended(name, now_ns, &mut self.session.bells) {
                self.waiter.take_interrupted();
                return Some(Ended::Slot(slot));
            }
        }
        let slot = self.look_until(About::Call(name), until_ns, |session, _, now_ns| {
            match session.core.take_ended(name, now_ns, &mut session.bells) {
                Some(slot) => Some(Some(slot)),
                None => (!session.core.is_known(name)).then_some(None),
            }
        });
        slot.flatten().map(Ended::Slot)
    }

    /// The outcome of a call whose director is gone: it has ended.
    fn find_in_old(&mut self, ticket: Ticket) -> Option<Ended> {
        let name = ticket.name();
        let session = self.session_of(ticket)?;
        if let Some(stashed) = session.stash.remove(&name) {
            return Some(Ended::Stashed(stashed));
        }
        session.core.take_ended(name, 0, &mut session.bells).map(Ended::Slot)
    }

    /// The session of a ticket.
    pub fn session_of(&mut self, ticket: Ticket) -> Option<&mut Session> {
        self.session_numbered(ticket.session())
    }

    /// A session that is still kept.
    pub fn session_numbered(&mut self, number: u16) -> Option<&mut Session> {
        if self.session.number == number {
            return Some(&mut self.session);
        }
        self.others.iter_mut().chain(&mut self.old).find(|s| s.number == number)
    }

    fn knows(&self, ticket: Ticket) -> bool {
        let mut sessions = std::iter::once(&self.session).chain(&self.others).chain(&self.old);
        let session = sessions.find(|s| s.number == ticket.session());
        session.is_some_and(|s| s.core.is_known(ticket.name()) || s.stash.contains_key(&ticket.name()))
    }

    fn arm(&mut self) -> Result<Armed, Error> {
        for session in std::iter::once(&mut self.session).chain(&mut self.others) {
            // A sleep of its own, though the last was never taken back: its bell may have been rung already.
            session.awake();
            session.core.park();
        }
        if self.wait_any(Until::Now).is_some() {
            std::iter::once(&mut self.session).chain(&mut self.others).for_each(Session::awake);
            return Ok(Armed::Ready);
        }
        let wake_ns = |session: &Session| {
            // Who has nothing under way is in no hurry to find a director.
            let look_at_ns = if session.core.open() == 0 { u64::MAX } else { session.wake_at_ns() };
            session.core.next_deadline_ns().min(look_at_ns)
        };
        let wake_ns = std::iter::once(&self.session).chain(&self.others).map(wake_ns).min();
        self.waiter.set_alarm(wake_ns.unwrap_or(u64::MAX))?;
        Ok(Armed::Sleep)
    }

    fn disarm(&mut self) {
        std::iter::once(&mut self.session).chain(&mut self.others).for_each(Session::awake);
        self.waiter.slept_elsewhere();
        for session in std::iter::once(&mut self.session).chain(&mut self.others) {
            session.check_director();
            session.look_for_director(now_ns(), &self.routes);
        }
        self.watch_arrival();
    }

    fn wait_any(&mut self, until: Until) -> Option<Ticket> {
        let sessions = std::iter::once(&mut self.session).chain(&mut self.others).chain(&mut self.old);
        for session in sessions {
            let ended = match session.stash.keys().next() {
                Some(&name) => Some(name),
                None if !session.is_unknown() => None,
                None => session.core.any_ended(0, &mut session.bells),
            };
            if let Some(name) = ended {
                return Some(Ticket::new(session.number, name));
            }
        }
        let found = self.look_until(About::Everywhere, until.ns(), |session, others, now_ns| {
            let mut open = 0;
            for session in std::iter::once(session).chain(others) {
                if let Some(name) = session.core.any_ended(now_ns, &mut session.bells) {
                    return Some(Some(Ticket::new(session.number, name)));
                }
                open += session.core.open();
            }
            (open == 0).then_some(None)
        });
        found.flatten()
    }

    fn finish_one_way(&mut self) {
        let one_way = |session: &Session| session.core.one_way();
        if std::iter::once(&self.session).chain(&self.others).map(one_way).sum::<u32>() > 0 {
            self.waiter.ignore_signals();
            let until_ns = now_ns() + CLOSE_NS;
            self.look_until(About::Everywhere, until_ns, |session, others, now_ns| {
                let mut left = 0;
                for session in std::iter::once(session).chain(others) {
                    session.reclaim(now_ns);
                    left += session.core.one_way();
                }
                (left == 0).then_some(())
            });
        }
    }
}

/// A call that has ended.
pub(super) enum Ended {
    /// In this slot, which is held until it is released.
    Slot(u32),
    /// Its outcome and payload; the slot has been another call's since.
    Stashed(Box<Stashed>),
}

/// What each look brings up to date: nobody is woken for the deadline of anything else, and woken again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum About {
    /// All calls of the current session.
    All,
    /// One of them.
    Call(u64),
    /// One scatter there.
    Group(u64),
    /// All calls of all sessions.
    Everywhere,
}

/// Looks at sessions until there is what is looked for: a client, as the party that is driven.
struct Look<'a, F> {
    session: &'a mut Session,
    others: &'a mut [Session],
    routes: &'a [RouteName],
    about: About,
    find: F,
    until_ns: u64,
    checked_ns: u64,
    check: bool,
    interrupted: bool,
}

impl<F> Look<'_, F> {
    /// Looks after the sessions that nobody waits for: their calls go on to the next director in time.
    fn tend_others(&mut self, now_ns: u64) {
        for other in &mut *self.others {
            if !other.is_attached() && !self.interrupted {
                other.look_for_director(now_ns, self.routes);
            }
        }
    }

    /// The other sessions, if their calls are waited for.
    fn waited_for(&mut self) -> &mut [Session] {
        if self.about == About::Everywhere { self.others } else { &mut [] }
    }
}

impl<T, F: FnMut(&mut Session, &mut [Session], u64) -> Option<T>> Party for Look<'_, F> {
    type Out = Option<T>;

    #[inline]
    fn turn(&mut self, now_ns: u64) -> Turn<Option<T>> {
        if let Some(found) = (self.find)(self.session, self.others, now_ns) {
            return Turn::Done(Some(found));
        }
        if self.check || now_ns.saturating_sub(self.checked_ns) > CHECK_NS {
            (self.check, self.checked_ns) = (false, now_ns);
            self.session.check_director();
            self.others.iter_mut().for_each(Session::check_director);
        }
        if !self.others.is_empty() {
            self.tend_others(now_ns);
        }
        // To look takes a while: whoever was interrupted hears of that first.
        if !self.session.is_attached() && !self.interrupted {
            self.session.look_for_director(now_ns, self.routes);
            // It may have come, or calls may have ended: a last look at what is looked for.
            if let Some(found) = (self.find)(self.session, self.others, now_ns) {
                return Turn::Done(Some(found));
            }
        }
        let lost = self.session.is_unknown() && self.about != About::Everywhere;
        if now_ns >= self.until_ns || self.interrupted || lost {
            return Turn::Done(None);
        }
        Turn::Idle
    }

    fn park(&mut self) {
        self.session.core.park();
        self.waited_for().iter_mut().for_each(|other| other.core.park());
    }

    fn awake(&mut self) {
        self.session.awake();
        self.waited_for().iter_mut().for_each(Session::awake);
        self.check = true;
    }

    fn wake_at_ns(&self) -> u64 {
        let core = &self.session.core;
        let deadline_ns = match self.about {
            About::All | About::Everywhere => core.next_deadline_ns(),
            About::Call(name) => core.deadline_ns(name),
            About::Group(name) => core.group_deadline_ns(name),
        };
        let others_ns = self.others.iter().map(|other| match self.about {
            About::Everywhere => other.wake_at_ns().min(other.core.next_deadline_ns()),
            _ => other.wake_at_ns(),
        });
        let others_ns = others_ns.min().unwrap_or(u64::MAX);
        deadline_ns.min(self.until_ns).min(self.session.wake_at_ns()).min(others_ns)
    }

    fn interrupted(&mut self) {
        self.interrupted = true;
    }
}

/// Waiting for somebody who will be: there is nothing to wait on yet.
struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Pause(Duration::from_millis(1))
    }
}

impl Pause {
    /// Sleeps so long at most; each time longer.
    fn sleep(&mut self, waiter: &mut Waiter, most_ns: u64) {
        waiter.pause(self.0.min(Duration::from_nanos(most_ns)).as_nanos() as u64);
        self.0 = (self.0 * 2).min(PAUSE_MAX);
    }
}

/// Why there is no room for a call.
enum Shortage {
    /// There is none in time.
    Now,
    /// The program itself holds everything, so there never will be.
    Held,
    /// Workers that don't answer hold it: the next call goes to a new session.
    Clogged,
    /// The director went away, and nothing comes back any more.
    Lost,
    /// A signal ended the wait for it.
    Interrupted,
}

fn lost() -> CallError {
    CallError::not_sent(Status::DirectorGone, "the director went away before the call could be sent")
}

/// Whether nobody provides it, as far as this director knows.
fn is_unknown(status: Status) -> bool {
    matches!(status, Status::NoSuchService | Status::NoSuchOperation)
}

/// What a call could not be sent for, where there is no call.
fn refused(e: CallError) -> Error {
    Error::Refused { status: e.status(), message: e.message().to_owned() }
}

/// A call that could not be sent.
pub(super) fn not_sent(error: Error) -> CallError {
    let message = match &error {
        Error::Refused { message, .. } => message.clone(),
        error => error.to_string(),
    };
    CallError::not_sent(error.status(), message)
}

/// On CLOCK_MONOTONIC, from now on.
pub(super) fn deadline_ns(deadline: Option<Instant>) -> u64 {
    match deadline {
        Some(at) => crate::waiting::to_ns(at),
        None => coarse_ns() + limits::DEADLINE_DEFAULT_NS,
    }
}
