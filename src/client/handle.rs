//! What a program calls with.

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use bytemuck::{AnyBitPattern, NoUninit};

use super::asking::RouteName;
use super::call::{Draft, KeptReply, Pending, Reply};
use super::inner::{Inner, refused};
use super::options::ClientOptions;
use super::parts::Parts;
use super::session::Session;
use crate::bus::Bus;
use crate::control::name::Name;
use crate::error::{CallError, Error, Status};
use crate::memory::Fork;
use crate::resource::Key;
use crate::waiting::{Armed, Events, Until, Waiter};

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
    /// more than [`NAMED_KEYS_MAX`](crate::limits::NAMED_KEYS_MAX) names.
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
