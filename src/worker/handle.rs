//! What a program serves with.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use slab::Slab;

use super::attached::Attached;
use super::core::{Begun, Taken};
use super::request::{Request, Served};
use super::rights::Event;
use crate::bus::Bus;
use crate::control::message::twin;
use crate::control::name::Name;
use crate::core::{Os, Party, Turn, block_on};
use crate::error::{Error, Status};
use crate::layout::WorkShape;
use crate::limits;
use crate::memory::{Doorbell, Fork};
use crate::resource::{Action, Changes, Key, Resource, ServiceOptions};
use crate::waiting::{Armed, Events, Until, Waiter, Waiting};

/// How often a worker that doesn't sleep looks whether its director is still there.
const CHECK_NS: u64 = 1_000_000;
/// How often a worker without a director looks for one.
const ATTACH_NS: u64 = 10_000_000;

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

/// Asks a worker to stop, from any thread.
#[derive(Clone)]
pub struct Stopper(Arc<Stop>);

struct Stop {
    asked: AtomicBool,
    woken: AtomicBool,
    bell: Doorbell,
}

impl Stopper {
    /// The worker's `next` and `serve` return, now and from now on. Returns at once.
    pub fn stop(&self) {
        self.0.asked.store(true, Ordering::Release); // pairs with the acquire in is_asked
        self.0.bell.ring();
    }

    /// The worker's `next` or `serve`, the one under way or else the next one, returns; once. Does nothing that is
    /// forbidden in a signal handler: an atomic store and a `write`.
    pub fn wake(&self) {
        self.0.woken.store(true, Ordering::Release); // pairs with the acquire in take_woken
        self.0.bell.ring();
    }
}

impl Stop {
    fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire) // pairs with the release in Stopper::stop
    }

    fn is_woken(&self) -> bool {
        self.woken.load(Ordering::Relaxed)
    }

    fn take_woken(&self) -> bool {
        self.is_woken() && self.woken.swap(false, Ordering::Acquire) // pairs with the release in Stopper::wake
    }

    /// Whether the worker is to come back for any reason.
    fn is_rung(&self) -> bool {
        self.is_asked() || self.is_woken()
    }
}

/// A service that this worker provides.
struct Service {
    name: Name,
    first: u16,
    operations: Vec<Name>,
    /// But its resources.
    options: ServiceOptions,
    /// What it speaks for; `None` is everything.
    declared: Option<HashSet<Resource>>,
}

/// A worker's state. Borrowed for the length of one operation; never across a call of the program's own code.
pub(super) struct Inner {
    bus: Bus,
    shape: WorkShape,
    waiter: Waiter,
    /// The attachment that work comes from, and its number.
    attached: (u32, Attached),
    /// Those whose director is gone, as long as something of them is not answered.
    old: Vec<(u32, Attached)>,
    /// Requests that have begun, and the number of their attachment.
    begun: Slab<Open>,
    /// Of the next one that begins.
    serial: u64,
    services: Vec<Service>,
    next_operation: u16,
    /// By the worker's own number: which service and operation.
    names: HashMap<u16, (Name, Name)>,
    keys: HashMap<Name, Key>,
    attach_at_ns: u64,
    /// When it last looked whether its director is still there.
    checked_ns: u64,
    /// It has left, and serves no more.
    drained: bool,
}

/// A request that has begun and is not answered.
pub(super) struct Open {
    serial: u64,
    /// The number of its attachment.
    attachment: u32,
    begun: Begun,
}

/// Names an open request where a [`Request`] can't be kept: see [`Request::detach`]. Not a right to anything by
/// itself; never another request's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(u64);

/// Bits of an id that say where the request is kept: for more than a worker of all attachments can have open.
const INDEX_BITS: u32 = 20;

impl RequestId {
    fn new(index: usize, serial: u64) -> Self {
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

    fn serial(self) -> u64 {
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
    pub fn next(&self, until: Until) -> Result<Option<Request<'_>>, Error> {
        self.check_fork()?;
        let mut inner = self.inner.borrow_mut();
        inner.attached.1.rights.look_again();
        if let Some(id) = inner.take_at_once(&self.stop) {
            return Ok(Some(Request::new(self, id)));
        }
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
                Found::Begun(id) => return Ok(Some(Request::new(self, id))),
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

impl Inner {
    fn provide(
        &mut self,
        name: Name,
        operations: Vec<Name>,
        mut options: ServiceOptions,
    ) -> Result<u32, Error> {
        let count = operations.len();
        let most = limits::OPERATIONS_MAX.min(usize::from(u16::MAX - self.next_operation));
        if count == 0 || count > most {
            let bounds = format!("1 to {most}");
            return Err(Error::Option { what: "the number of operations", value: count as u64, bounds });
        }
        if let Some(twin) = twin(&operations) {
            let (name, why) = (twin.as_str().to_owned(), "it is there twice");
            return Err(Error::Name { what: "operation", name, why });
        }
        let first = self.next_operation;
        if options == ServiceOptions::default() {
            self.attached.1.provide(&name, first, &operations)?;
        } else {
            self.attached.1.register(&name, first, &operations, options.clone())?;
        }
        self.next_operation += count as u16;
        for (i, operation) in operations.iter().enumerate() {
            self.names.insert(first + i as u16, (name.clone(), operation.clone()));
        }
        let resources = std::mem::take(&mut options.resources);
        let declared = (!resources.is_empty()).then(|| resources.into_iter().collect());
        self.services.retain(|s| s.name != name);
        self.services.push(Service { name, first, operations, options, declared });
        Ok(u32::from(first))
    }

    fn change(&mut self, name: &Name, changes: &[(Action, Resource)]) -> Result<(), Error> {
        self.attached.1.change(name, changes)?;
        let Some(service) = self.services.iter_mut().find(|s| s.name == *name) else { return Ok(()) };
        let of = |action| changes.iter().filter(move |(a, _)| *a == action).map(|&(_, resource)| resource);
        if changes.iter().any(|(a, _)| matches!(a, Action::Declare | Action::Withdraw)) {
            let declared = service.declared.get_or_insert_with(|| HashSet::from([Resource::All]));
            of(Action::Withdraw).for_each(|resource| _ = declared.remove(&resource));
            declared.extend(of(Action::Declare));
        }
        Ok(())
    }

    /// Gives up what was recalled and is served; leaves, if that was the last thing to do.
    fn settle_rights(&mut self) {
        let (number, attached) = (self.attached.0, &mut self.attached.1);
        let (begun, names) = (&self.begun, &self.names);
        let taken = attached.taken();
        let is_kept = |about: Option<(&Name, Resource)>, before: u64| {
            begun.iter().any(|(_, open)| {
                let begun = &open.begun;
                let concerns = about.is_none_or(|(service, resource)| {
                    let operation = names.get(&(begun.request.operation as u16));
                    operation.is_some_and(|(name, _)| name == service)
                        && begun.keys().any(|key| resource.covers(key))
                });
                let is_old = open.attachment != number;
                if about.is_none() {
                    is_old || begun.position < before
                } else {
                    !is_old && begun.position < before && concerns
                }
            })
        };
        if attached.rights.settle(taken, is_kept) {
            attached.leave();
            self.drained = true;
        }
    }

    /// Service and operation of a request.
    pub fn names_of(&self, id: RequestId) -> Option<(Name, Name)> {
        let (_, begun) = self.of(id)?;
        self.names.get(&(begun.request.operation as u16)).cloned()
    }

    fn arm(&mut self, stop: &Stop) -> Result<Armed, Error> {
        let attached = &mut self.attached.1;
        // A sleep of its own, though the last was never taken back: its bell may have been rung already.
        attached.awake();
        attached.park();
        let told = attached.rights.has_told() || attached.rights.is_due(attached.taken()) || self.drained;
        if told || stop.is_rung() || attached.is_ready() || attached.has_control() {
            attached.awake();
            return Ok(Armed::Ready);
        }
        let wake_ns = if attached.is_attached() { u64::MAX } else { self.attach_at_ns };
        self.waiter.set_alarm(wake_ns)?;
        Ok(Armed::Sleep)
    }

    fn disarm(&mut self) {
        self.attached.1.awake();
        self.waiter.slept_elsewhere();
        self.attached.1.read_control();
    }

    /// The next request, if it stands there, and there is nothing to be seen to before it.
    #[inline]
    fn take_at_once(&mut self, stop: &Stop) -> Option<RequestId> {
        let (number, attached) = (self.attached.0, &mut self.attached.1);
        let is_usual = attached.is_attached() && !attached.has_control() && !attached.rights.has_told();
        if !attached.is_ready() || !is_usual || stop.is_rung() || self.drained {
            return None;
        }
        self.waiter.refresh();
        match attached.take(self.waiter.now_ns()) {
            Taken::Begun(begun) => Some(enter(&mut self.begun, &mut self.serial, number, begun)),
            Taken::Skipped | Taken::Nothing | Taken::Unheard => None,
        }
    }

    fn look(&mut self, stop: &Stop, until_ns: u64) -> Result<Found, Error> {
        // Since the last look the program's own code ran, for however long: what has expired is not to begin.
        self.waiter.refresh();
        let open = (&mut self.begun, &mut self.serial);
        let (number, attached) = (self.attached.0, &mut self.attached.1);
        let checked_ns = self.checked_ns;
        let mut look =
            Look { attached, number, open, stop, until_ns, checked_ns, check: false, interrupted: false };
        let found = block_on(&mut look, &mut self.waiter);
        self.checked_ns = look.checked_ns;
        Ok(found)
    }

    /// Attaches to the next director, if there is one and it is time to look: as the same worker, or, to one that
    /// doesn't know it, as a new one.
    fn attach_again(&mut self) -> Result<(), Error> {
        let now_ns = crate::waiting::now_ns();
        if now_ns < self.attach_at_ns {
            return Ok(());
        }
        self.attach_at_ns = now_ns + ATTACH_NS;
        match self.attached.1.come_back(&self.bus, &self.waiter) {
            Ok(true) => self.provide_again(),
            Ok(false) if self.attached.1.rights.is_held() => {
                // The program hears of it first; then this one says so, and is refused once more.
                self.attached.1.rights.lose_all();
                self.attach_at_ns = now_ns;
            }
            Ok(false) => match self.begin_anew() {
                Ok(()) => self.provide_again(),
                Err(error) => return given_up(error),
            },
            Err(error) => return given_up(error),
        }
        Ok(())
    }

    fn begin_anew(&mut self) -> Result<(), Error> {
        let attached = Attached::attach(&self.bus, self.shape, &self.waiter)?;
        self.waiter.remove_doorbell(self.attached.1.doorbell());
        let number = self.attached.0 + 1;
        let old = std::mem::replace(&mut self.attached, (number, attached));
        self.attached.1.rights = old.1.rights.of_successor();
        self.old.push(old);
        let begun = &self.begun;
        self.old.retain(|(number, _)| begun.iter().any(|(_, open)| open.attachment == *number));
        Ok(())
    }

    /// Tells a new director what this worker provides and holds. If that one goes away meanwhile, the next is told. One
    /// that drains provides nothing more.
    fn provide_again(&mut self) {
        let attached = &mut self.attached.1;
        let drains = attached.rights.is_draining();
        for service in self.services.iter().filter(|_| !drains) {
            if let Err(error) = provide_again(attached, service) {
                tracing::warn!(%error, service = service.name.as_str(), "a service could not be provided again");
            }
        }
        attached.present_again();
        attached.presented_all();
        if drains && let Err(error) = attached.drain() {
            tracing::warn!(%error, "a new director could not be asked for leave");
        }
    }

    /// A request that has begun, and the attachment that it came from.
    #[inline]
    pub fn of(&self, id: RequestId) -> Option<(&Attached, &Begun)> {
        let open = self.begun.get(id.index()).filter(|open| open.serial == id.serial())?;
        let attached = if open.attachment == self.attached.0 {
            &self.attached.1
        } else {
            &self.old.iter().find(|(number, _)| *number == open.attachment)?.1
        };
        Some((attached, &open.begun))
    }

    /// Takes a request out, to answer it.
    #[inline]
    pub fn take(&mut self, id: RequestId) -> Option<(&mut Attached, Begun)> {
        self.of(id)?;
        let Open { attachment: number, begun, .. } = self.begun.try_remove(id.index())?;
        let attached = if number == self.attached.0 {
            &mut self.attached.1
        } else {
            &mut self.old.iter_mut().find(|(n, _)| *n == number)?.1
        };
        // It may have been what a recall waits for.
        attached.rights.look_again();
        Some((attached, begun))
    }

    /// Answers WORKER_ERROR. The message is cut to what there is room for, so that it is this error in any case.
    pub fn fail(&mut self, id: RequestId, code: u32, message: &str) {
        let Some((_, begun)) = self.of(id) else { return };
        let most = limits::MESSAGE_MAX.min(begun.request.capacity as usize).min(message.len());
        let end = (0..=most).rev().find(|&end| message.is_char_boundary(end)).unwrap_or(0);
        self.answer(id, Status::WorkerError, code, &message.as_bytes()[..end]);
    }

    /// Answers a request.
    #[inline]
    pub fn answer(&mut self, id: RequestId, status: Status, code: u32, bytes: &[u8]) {
        if let Some((attached, begun)) = self.take(id) {
            attached.answer(begun, status, code, bytes);
        }
    }
}

/// What ends a program's look for a director: that there is one, with which it can't work.
fn given_up(error: Error) -> Result<(), Error> {
    match error {
        error @ (Error::ProtocolMismatch { .. } | Error::NotASocket { .. }) => Err(error),
        _ => Ok(()),
    }
}

/// Tells a new director about a service: what this worker provides of it, and speaks for.
fn provide_again(attached: &mut Attached, service: &Service) -> Result<(), Error> {
    let Service { name, first, operations, options, declared } = service;
    let mut resources: Vec<Resource> = declared.iter().flatten().copied().collect();
    let nothing = declared.is_some() && resources.is_empty();
    if nothing {
        // To name no resource is to speak for all: so it names almost none, and withdraws that.
        resources.push(ALMOST_NONE);
    }
    let mut resources = resources.chunks(limits::RESOURCES_PER_CHANGE);
    let first_of_them = resources.next().unwrap_or_default().to_vec();
    let options = ServiceOptions { resources: first_of_them, ..options.clone() };
    attached.register(name, *first, operations, options)?;
    if nothing {
        attached.change(name, &[(Action::Withdraw, ALMOST_NONE)])?;
    }
    for more in resources {
        let more: Vec<_> = more.iter().map(|&resource| (Action::Declare, resource)).collect();
        attached.change(name, &more)?;
    }
    Ok(())
}

/// One key in four billion.
const ALMOST_NONE: Resource = Resource::Share { index: 0, of: u32::MAX };

fn check_resources(count: usize) -> Result<(), Error> {
    if count <= limits::RESOURCES_PER_CHANGE {
        return Ok(());
    }
    let bounds = format!("up to {} in one change", limits::RESOURCES_PER_CHANGE);
    Err(Error::Option { what: "the number of resources", value: count as u64, bounds })
}

/// Why a worker's look has ended.
enum Found {
    Begun(RequestId),
    /// The program is to be told something.
    Told,
    /// Something that was recalled may be given up.
    Due,
    /// The time has come.
    Nothing,
    /// The director is gone, and the ring it left is empty.
    Detached,
    Stopped,
}

/// A worker that looks for its next request, as the party that is driven.
struct Look<'a> {
    attached: &'a mut Attached,
    /// The attachment's number.
    number: u32,
    /// Where what has begun is kept, and the serial number of the next.
    open: (&'a mut Slab<Open>, &'a mut u64),
    stop: &'a Stop,
    until_ns: u64,
    checked_ns: u64,
    check: bool,
    interrupted: bool,
}

/// Keeps a request that has begun, under the next serial number.
#[inline]
fn enter(open: &mut Slab<Open>, next: &mut u64, attachment: u32, begun: Begun) -> RequestId {
    let serial = *next;
    *next += 1;
    RequestId::new(open.insert(Open { serial, attachment, begun }), serial)
}

impl Party for Look<'_> {
    type Out = Found;

    #[inline]
    fn turn(&mut self, now_ns: u64) -> Turn<Found> {
        // Before the ring, which others may keep full for ever: a session that waits for its mapping has its turn.
        if self.attached.has_control() {
            self.attached.read_control();
        }
        if self.attached.rights.has_told() {
            return Turn::Done(Found::Told);
        }
        match self.attached.take(now_ns) {
            Taken::Begun(begun) => {
                let id = enter(self.open.0, self.open.1, self.number, begun);
                return Turn::Done(Found::Begun(id));
            }
            Taken::Skipped => return Turn::Busy,
            Taken::Nothing | Taken::Unheard => {}
        }
        if self.attached.rights.is_due(self.attached.taken()) {
            return Turn::Done(Found::Due);
        }
        if self.check || now_ns.saturating_sub(self.checked_ns) > CHECK_NS {
            (self.check, self.checked_ns) = (false, now_ns);
            self.attached.read_control();
        }
        if self.stop.is_rung() || self.interrupted {
            return Turn::Done(Found::Stopped);
        }
        if !self.attached.is_attached() {
            return Turn::Done(Found::Detached);
        }
        if now_ns >= self.until_ns {
            return Turn::Done(Found::Nothing);
        }
        Turn::Idle
    }

    fn park(&mut self) {
        self.attached.park();
    }

    fn awake(&mut self) {
        self.attached.awake();
        self.check = true;
    }

    fn wake_at_ns(&self) -> u64 {
        self.until_ns
    }

    fn interrupted(&mut self) {
        self.interrupted = true;
    }
}
