//! What a program serves with.

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use slab::Slab;

use super::attached::Attached;
use super::inner::{Inner, check_resources};
use super::look::Found;
use super::request::{Request, Served};
use super::rights::Event;
use super::stop::{Stop, Stopper};
use crate::bus::Bus;
use crate::control::name::Name;
use crate::core::Os;
use crate::error::{Error, Status};
use crate::layout::WorkShape;
use crate::limits;
use crate::memory::{Doorbell, Fork};
use crate::resource::{Changes, Key, Resource, ServiceOptions};
use crate::waiting::{Armed, Events, Until, Waiter, Waiting};

/// What can be chosen when a worker attaches.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct WorkerOptions {
    /// What it does while it has nothing to do.
    pub waiting: Waiting,
    /// Slots of its ring, a power of two: it may have one less in its hands.
    pub slots: u32,
    /// Whether a signal that this thread handles ends `next` and `serve`, as [`Stopper::wake`] does.
    pub interruptible: bool,
}

impl Default for WorkerOptions {
    fn default() -> Self {
        WorkerOptions { waiting: Waiting::default(), slots: limits::WORK_SLOTS_DEFAULT, interruptible: false }
    }
}

impl WorkerOptions {
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

    /// See [`interruptible`](Self::interruptible).
    pub fn interruptible(mut self, interruptible: bool) -> Self {
        self.interruptible = interruptible;
        self
    }
}

/// A worker on a bus. It may be sent to another thread, and is used by one at a time; a process can have several.
pub struct Worker {
    pub(super) inner: RefCell<Inner>,
    listener: RefCell<Option<Listener>>,
    stop: Arc<Stop>,
    /// The waiter's descriptor: one that can be lent while nothing else is.
    events: Events,
    fork: Fork,
}

/// What hears of events.
type Listener = Box<dyn FnMut(&Event) + Send>;

/// Names an open request where a [`Request`] can't be kept: see [`Request::detach`]. Not a right to anything by
/// itself; never another request's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(u64);

/// Bits of an id that say where the request is kept: for more than a worker of all attachments can have open.
const INDEX_BITS: u32 = 20;

impl RequestId {
    pub(super) fn new(index: usize, serial: u64) -> Self {
        RequestId(serial << INDEX_BITS | index as u64)
    }

    /// As a number, which is never 0.
    pub fn to_bits(self) -> u64 {
        self.0
    }

    /// What `to_bits` gave. Of any other number no worker knows anything.
    pub fn from_bits(bits: u64) -> RequestId {
        RequestId(bits)
    }

    /// A small number that no other open request of this worker has: to keep notes in an array.
    pub fn index(self) -> usize {
        (self.0 & ((1 << INDEX_BITS) - 1)) as usize
    }

    pub(super) fn serial(self) -> u64 {
        self.0 >> INDEX_BITS
    }
}

impl Worker {
    pub(crate) fn attach(bus: &Bus, options: WorkerOptions) -> Result<Worker, Error> {
        let fork = Fork::mark()?;
        let shape = WorkShape { slots: options.slots };
        if !shape.is_valid() {
            let bounds = format!("a power of two from 2 to {}", limits::WORK_SLOTS_MAX);
            return Err(Error::Option { what: "slots", value: u64::from(options.slots), bounds });
        }
        let waiter = Waiter::new(options.waiting, 8)?.interruptible(options.interruptible);
        let events = waiter.events();
        let (asked, woken) = (AtomicBool::new(false), AtomicBool::new(false));
        let stop = Arc::new(Stop { asked, woken, bell: Doorbell::new()? });
        waiter.add_doorbell(&stop.bell, 0)?;
        let attached = (0, Attached::attach(bus, shape, &waiter)?);
        let inner = Inner {
            bus: bus.clone(),
            shape,
            waiter,
            attached,
            old: Vec::new(),
            begun: Slab::new(),
            serial: 1,
            services: Vec::new(),
            next_operation: 0,
            names: HashMap::new(),
            keys: HashMap::new(),
            attach_at_ns: 0,
            checked_ns: 0,
            drained: false,
        };
        Ok(Worker { inner: RefCell::new(inner), listener: RefCell::new(None), stop, events, fork })
    }

    /// The worker's id on its bus, as replies carry it.
    pub fn id(&self) -> u64 {
        self.inner.borrow().attached.1.id()
    }

    /// Provides a service from now on: its requests come to this worker, and to others that provide it. A second
    /// time replaces the operations. Blocks for a round trip on a socket. Returns the number that
    /// [`Request::number`] gives for the first operation; the others' follow. They count up from 0 in the order in
    /// which a worker provides.
    ///
    /// # Errors
    /// [`Error::Name`], [`Error::Refused`], [`Error::Option`] for too many operations.
    pub fn provide(&self, service: &str, operations: &[&str]) -> Result<u32, Error> {
        self.provide_with(service, operations, ServiceOptions::default())
    }

    /// The same, on some resources only, or with a policy for the service: see [`ServiceOptions`].
    ///
    /// # Errors
    /// As [`provide`](Self::provide); [`Error::Refused`] with BAD_RESOURCE; [`Error::Option`] for more than
    /// [`RESOURCES_PER_CHANGE`](limits::RESOURCES_PER_CHANGE) resources: [`change`](Self::change) adds more.
    pub fn provide_with(
        &self,
        service: &str,
        operations: &[&str],
        options: ServiceOptions,
    ) -> Result<u32, Error> {
        self.check_fork()?;
        let name = Name::new("service", service)?;
        let operations: Result<Vec<Name>, Error> =
            operations.iter().map(|o| Name::new("operation", o)).collect();
        check_resources(options.resources.len())?;
        let operations = operations?;
        let unknown = |one: &&String| operations.iter().all(|o| o.as_str() != one.as_str());
        if let Some(name) = options.idempotent.iter().find(unknown) {
            let why = "it is said to be idempotent, but is not provided";
            return Err(Error::Name { what: "operation", name: name.clone(), why });
        }
        self.inner.borrow_mut().provide(name, operations, options)
    }

    /// Changes what this worker declares and holds in a service that it provides: in one step, all of it or nothing,
    /// while calls go on. A right that another worker holds is handed over when that one has finished what it was
    /// given: [`holds`](Self::holds) and [`Event::Gained`] say when. Blocks for a round trip on a socket.
    ///
    /// # Errors
    /// [`Error::Refused`] with NO_SUCH_SERVICE, NO_SUCH_RESOURCE (withdrawn but not declared so), NOT_HELD (released
    /// but not held), BAD_RESOURCE, BUSY (too many); [`Error::Option`] for more than
    /// [`RESOURCES_PER_CHANGE`](limits::RESOURCES_PER_CHANGE) resources.
    pub fn change(&self, service: &str, changes: Changes) -> Result<(), Error> {
        self.check_fork()?;
        let name = Name::new("service", service)?;
        check_resources(changes.0.len())?;
        self.inner.borrow_mut().change(&name, &changes.0)
    }

    /// Asks for the exclusive right to a key or a range. Returns whether it is held already; if not, another worker
    /// holds it, was asked to hand it over, and [`Event::Gained`] will tell. Blocks for a round trip on a socket.
    ///
    /// # Errors
    /// As [`change`](Self::change).
    pub fn acquire(&self, service: &str, resource: impl Into<Resource>) -> Result<bool, Error> {
        let resource = resource.into();
        self.change(service, Changes::new().acquire(resource))?;
        Ok(self.inner.borrow().attached.1.rights.holds(service, resource))
    }

    /// Gives a right back. What this worker was given on it, it still serves; then it is lost: [`Event::Lost`].
    /// Blocks for a round trip on a socket.
    ///
    /// # Errors
    /// As [`change`](Self::change).
    pub fn release(&self, service: &str, resource: impl Into<Resource>) -> Result<(), Error> {
        self.change(service, Changes::new().release(resource))
    }

    /// What this worker holds exclusively of a service, as far as it has heard.
    pub fn holds(&self, service: &str) -> Vec<Resource> {
        self.inner.borrow().attached.1.rights.held(service)
    }

    /// The key of a resource's name: the same for every client and worker of the bus. Blocks for a round trip on a
    /// socket, once for each name.
    ///
    /// # Errors
    /// [`Error::Name`]; [`Error::Refused`] with BAD_RESOURCE if another name has the same hash.
    pub fn key(&self, name: &str) -> Result<Key, Error> {
        self.check_fork()?;
        let name = Name::new("key", name)?;
        let mut inner = self.inner.borrow_mut();
        if let Some(&key) = inner.keys.get(&name) {
            return Ok(key);
        }
        let key = inner.attached.1.key(&name)?;
        inner.keys.insert(name, key);
        Ok(key)
    }

    /// Takes no new work: what this worker was given it still serves, then `serve` returns and `next` says
    /// [`Error::Drained`]. Clients notice nothing. Blocks for a round trip on a socket.
    ///
    /// # Errors
    /// [`Error::DirectorGone`].
    pub fn drain(&self) -> Result<(), Error> {
        self.check_fork()?;
        self.inner.borrow_mut().attached.1.drain()
    }

    /// Calls `listener` with each [`Event`], from within [`next`](Self::next) and [`serve`](Self::serve). A resource
    /// that is lost is another's only when the listener has returned.
    pub fn on_event(&self, listener: impl FnMut(&Event) + Send + 'static) {
        *self.listener.borrow_mut() = Some(Box::new(listener));
    }

    /// Reads what the director has said meanwhile: that a client is gone, for one. What else it was is for `next`, for
    /// which an event loop is woken: the socket, which is empty now, does that no more.
    pub(super) fn hear(&self) {
        let mut inner = self.inner.borrow_mut();
        let attached = &mut inner.attached.1;
        if !attached.has_control() {
            return;
        }
        attached.read_control();
        let has_news = attached.rights.has_told() || attached.rights.is_due(attached.taken());
        if has_news || !attached.is_attached() {
            self.stop.bell.ring();
        }
    }

    /// Tells the program what it has not heard yet. Nothing is borrowed while it listens.
    fn tell(&self) {
        loop {
            let Some(told) = self.inner.borrow_mut().attached.1.rights.next_told() else { return };
            let listener = self.listener.borrow_mut().take();
            if let Some(mut listener) = listener {
                listener(&told.event);
                self.listener.borrow_mut().get_or_insert(listener);
            }
            let attached = &mut self.inner.borrow_mut().attached.1;
            if let Some((service, resource)) = told.yields {
                attached.give_up(service, resource);
            }
            attached.say_that_all_is_told();
        }
    }

    /// Provides it no more. What was given to this worker already it still serves; then it has lost all that it held
    /// there exclusively, and hears so: [`Event::Lost`]. Blocks for a round trip.
    ///
    /// # Errors
    /// [`Error::Refused`] with NO_SUCH_SERVICE, if it never did.
    pub fn withdraw(&self, service: &str) -> Result<(), Error> {
        self.check_fork()?;
        let name = Name::new("service", service)?;
        let mut inner = self.inner.borrow_mut();
        inner.attached.1.withdraw(&name)?;
        inner.services.retain(|s| s.name != name);
        Ok(())
    }

    /// The next request, in the order in which they came. `None`: none came in time.
    ///
    /// # Errors
    /// [`Error::Interrupted`] once the worker was asked to stop; when it was woken; when a signal came, if one may
    /// end the wait ([`WorkerOptions::interruptible`]). [`Error::Drained`] once it has served its last request.
    #[inline]
    pub fn next(&self, until: Until) -> Result<Option<Request<'_>>, Error> {
        let id = match self.next_at_once() {
            Some(id) => Some(id),
            None => self.wait_for_next(until)?,
        };
        Ok(id.map(|id| Request::new(self, id)))
    }

    /// The next request, where nothing is to be done but to take it.
    fn next_at_once(&self) -> Option<RequestId> {
        if self.is_forked() {
            return None;
        }
        let mut inner = self.inner.borrow_mut();
        inner.attached.1.rights.look_again();
        inner.take_at_once(&self.stop)
    }

    fn wait_for_next(&self, until: Until) -> Result<Option<RequestId>, Error> {
        self.check_fork()?;
        let mut inner = self.inner.borrow_mut();
        let until_ns = until.ns();
        loop {
            if inner.drained {
                return Err(Error::Drained);
            }
            if self.stop.is_asked() || self.stop.take_woken() || inner.waiter.take_interrupted() {
                return Err(Error::Interrupted);
            }
            if !inner.attached.1.is_attached() {
                inner.attach_again()?;
            }
            match inner.look(&self.stop, until_ns)? {
                Found::Told => {
                    drop(inner);
                    self.tell();
                    inner = self.inner.borrow_mut();
                }
                Found::Due => inner.settle_rights(),
                Found::Begun(id) => return Ok(Some(id)),
                Found::Detached if crate::waiting::now_ns() < until_ns => {
                    let wake_ns = until_ns.min(inner.attach_at_ns);
                    inner.waiter.sleep(wake_ns);
                }
                Found::Detached | Found::Nothing => return Ok(None),
                Found::Stopped => {
                    // It is said now, and not again.
                    self.stop.take_woken();
                    inner.waiter.take_interrupted();
                    return Err(Error::Interrupted);
                }
            }
        }
    }

    /// Serves until it is stopped, woken, or interrupted. A request that the handler drops, or in which it panics, is
    /// answered WORKER_ERROR; a panic does not end the worker.
    ///
    /// # Errors
    /// What [`next`](Self::next) can't go on after.
    pub fn serve<'w>(&'w self, mut handler: impl FnMut(Request<'w>) -> Served) -> Result<(), Error> {
        loop {
            match self.next(Until::Forever) {
                Ok(Some(request)) => {
                    // Whatever the handler leaves half done is its own; the worker's state is not borrowed now.
                    let served = catch_unwind(AssertUnwindSafe(|| handler(request)));
                    if served.is_err() {
                        tracing::error!("a handler panicked; its request was answered WORKER_ERROR");
                    }
                }
                Ok(None) => {}
                Err(Error::Interrupted | Error::Drained) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// A request again, from its name. `None` if it was answered.
    pub fn request(&self, id: RequestId) -> Option<Request<'_>> {
        self.inner.borrow().of(id)?;
        Some(Request::new(self, id))
    }

    /// Answers a request by its name, as [`Request::reply`] does. Whether there was one to answer.
    #[inline]
    pub fn reply(&self, id: RequestId, bytes: &[u8]) -> bool {
        !self.is_forked() && self.inner.borrow_mut().answer(id, Status::Ok, 0, bytes)
    }

    /// What stops it, from another thread.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.stop.clone())
    }

    /// Before sleeping in an event loop: announces the sleep, and looks once more. After [`Armed::Sleep`] the
    /// descriptor ([`AsFd`]) gets readable when there may be something to do: then [`disarm`](Self::disarm), and
    /// [`next`](Self::next) with [`Until::Now`] until it has nothing more. Nothing else is to be done with the
    /// descriptor. Any other call on the worker in between is fine, and may make it readable for nothing. At most
    /// one system call, mostly none.
    ///
    /// # Errors
    /// [`Error::Forked`], [`Error::System`].
    pub fn arm(&self) -> Result<Armed, Error> {
        self.check_fork()?;
        self.inner.borrow_mut().arm(&self.stop)
    }

    /// After sleeping in an event loop: takes the announcement back, and reads what the director has sent. Two
    /// system calls.
    ///
    /// # Errors
    /// [`Error::Forked`].
    pub fn disarm(&self) -> Result<(), Error> {
        self.check_fork()?;
        self.inner.borrow_mut().disarm();
        Ok(())
    }

    /// Requests answered since it attached.
    pub fn completed(&self) -> u64 {
        self.inner.borrow().attached.1.completed()
    }

    fn check_fork(&self) -> Result<(), Error> {
        if self.fork.is_child() { Err(Error::Forked) } else { Ok(()) }
    }

    pub(super) fn is_forked(&self) -> bool {
        self.fork.is_child()
    }
}

impl AsFd for Worker {
    /// What an event loop waits on: see [`Worker::arm`].
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

impl Drop for Worker {
    /// Answers what was begun and forgotten, and leaves in good order: what it never began goes to other workers.
    fn drop(&mut self) {
        if self.fork.is_child() {
            return;
        }
        let inner = self.inner.get_mut();
        let open = inner.begun.iter().map(|(index, open)| RequestId::new(index, open.serial));
        for id in open.collect::<Vec<_>>() {
            inner.fail(id, 0, "the worker went away without an answer");
        }
        inner.attached.1.leave();
    }
}
