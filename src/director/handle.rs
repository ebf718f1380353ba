//! A director as a program holds it: as a process of its own, or in a thread.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::control::Control;
use super::core::Settings;
use super::data::Data;
use super::link::{Inherited, Link, ToControl, ToData};
use super::quota::{OWN_DESCRIPTORS, Quotas};
use crate::access::Rules;
use crate::bus::Bus;
use crate::control::folder::RuntimeFolder;
use crate::control::greeting::{ANSWER_NS, greet, unexpected};
use crate::control::message::{FromDirector, Role, ToDirector};
use crate::control::socket::Listener;
use crate::error::Error;
use crate::limits;
use crate::memory::Fork;
use crate::waiting::{Waiting, now_ns};

/// How long a director that has handed its socket over may take to let go of the bus.
const HAND_OVER_NS: u64 = 10_000_000_000;
/// How often it is looked whether it has.
const LOCK_LOOK: Duration = Duration::from_micros(200);

/// What can be chosen when a director is made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DirectorOptions {
    /// What it does while it finds nothing to do.
    pub waiting: Waiting,
    /// Calls of one session that may wait on one route for a worker; one more ends BUSY, not run.
    pub waiting_per_route: u32,
    /// Calls that one worker may have in its hands at a time (k of JBSQ(k)). Up to there, it is given what it does
    /// in about 20 µs, but at least two; and as much again beside what it has begun and keeps.
    pub share_max: u64,
    /// After a director that was killed: how long its sessions and workers may take to come back. Calls that a worker
    /// has which doesn't come back in time, and lives, end MAY_HAVE_RUN.
    pub window: Duration,
    /// How long a worker that has something in its hands may show no sign of life, where its service says nothing:
    /// see [`ServiceOptions::stall`](crate::ServiceOptions::stall). Then its calls end MAY_HAVE_RUN, and it is given
    /// no new work until it moves again.
    pub stall: Duration,
    /// How much one process, and one user, may have.
    pub quotas: Quotas,
    /// Where the rules come from.
    pub policy: PolicySource,
}

/// Where a director's rules come from: asked when it starts, and at each reload.
#[derive(Clone, Default)]
pub struct PolicySource(pub(super) Option<Arc<ReadRules>>);

impl PolicySource {
    fn read(&self) -> Result<Rules, Error> {
        self.0.as_ref().map_or_else(|| Ok(Rules::default()), |read| read()).map_err(Error::Policy)
    }
}

/// Reads rules, or says what is wrong with them.
pub(super) type ReadRules = dyn Fn() -> Result<Rules, String> + Send + Sync;

impl std::fmt::Debug for PolicySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "a source of rules" } else { "the default rules" })
    }
}

impl Default for DirectorOptions {
    fn default() -> Self {
        DirectorOptions {
            waiting: Waiting::default(),
            waiting_per_route: limits::SLOTS_MAX,
            share_max: u64::from(limits::WORK_SLOTS_DEFAULT) / 2,
            window: Duration::from_nanos(limits::WINDOW_NS),
            stall: Duration::from_nanos(limits::STALL_NS),
            quotas: Quotas::default(),
            policy: PolicySource::default(),
        }
    }
}

impl DirectorOptions {
    /// See [`waiting`](Self::waiting).
    pub fn waiting(mut self, waiting: Waiting) -> Self {
        self.waiting = waiting;
        self
    }

    /// See [`waiting_per_route`](Self::waiting_per_route).
    pub fn waiting_per_route(mut self, calls: u32) -> Self {
        self.waiting_per_route = calls;
        self
    }

    /// See [`window`](Self::window).
    pub fn window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// Who may do what: `read` says it when the director starts, and again at each reload; what it can't read or
    /// understand is refused, with its words. It is called on the director's control thread, and may read a file.
    pub fn policy(mut self, read: impl Fn() -> Result<Rules, String> + Send + Sync + 'static) -> Self {
        self.policy = PolicySource(Some(Arc::new(read)));
        self
    }

    /// See [`quotas`](Self::quotas).
    pub fn quotas(mut self, quotas: Quotas) -> Self {
        self.quotas = quotas;
        self
    }

    /// See [`stall`](Self::stall).
    pub fn stall(mut self, after: Duration) -> Self {
        self.stall = after;
        self
    }

    /// See [`share_max`](Self::share_max).
    pub fn share_max(mut self, calls: u64) -> Self {
        self.share_max = calls;
        self
    }
}

/// A director that has taken its bus. Clients and workers can connect from now on; they are served once it runs.
pub struct Director {
    link: Arc<Link>,
    control: Control,
    inherited: Inherited,
    settings: Settings,
    waiting: Waiting,
}

impl Director {
    /// Takes a bus: makes its runtime folder if need be, cleans up after a director that was killed, and listens.
    ///
    /// # Errors
    /// [`Error::BusTaken`] if a director serves the bus already; [`Error::Policy`].
    pub fn new(bus: &Bus, options: DirectorOptions) -> Result<Director, Error> {
        // What can't be is said before anything is made.
        let rules = options.policy.read()?;
        Director::on(RuntimeFolder::take(bus)?, options, &rules, None)
    }

    /// Takes a bus over from the director that serves it, if one does: that one hands its socket over and ends
    /// between two turns. Clients and workers come to this one by themselves, as after a director's death, and calls
    /// are delayed by some milliseconds. Blocks until the bus is free, 10 s at most.
    ///
    /// # Errors
    /// [`Error::BusTaken`] if the other one keeps it; [`Error::Refused`] with PERMISSION_DENIED.
    pub fn replace(bus: &Bus, options: DirectorOptions) -> Result<Director, Error> {
        // Before the other one gives anything up.
        let rules = options.policy.read()?;
        let listener = ask_for_bus(bus)?;
        let until_ns = now_ns() + HAND_OVER_NS;
        loop {
            match RuntimeFolder::take(bus) {
                Err(Error::BusTaken { .. }) if listener.is_some() && now_ns() < until_ns => {
                    std::thread::sleep(LOCK_LOOK);
                }
                taken => return Director::on(taken?, options, &rules, listener),
            }
        }
    }

    fn on(
        folder: RuntimeFolder,
        options: DirectorOptions,
        rules: &Rules,
        listener: Option<Listener>,
    ) -> Result<Director, Error> {
        let mut quotas = options.quotas;
        if quotas.descriptors.pool == 0 {
            quotas.descriptors.pool = descriptors_left();
        }
        let settings = Settings {
            quotas,
            owner: nix::unistd::geteuid().as_raw(),
            epoch: folder.epoch(),
            waiting_per_route: options.waiting_per_route,
            share_max: options.share_max.max(1),
            stall_ns: u64::try_from(options.stall.as_nanos()).unwrap_or(u64::MAX),
        };
        let link = Link::new()?;
        let window_ns = u64::try_from(options.window.as_nanos()).unwrap_or(u64::MAX / 2).min(u64::MAX / 2);
        let rules = (options.policy.0, rules);
        let (control, inherited) = Control::new(link.clone(), folder, window_ns, listener, quotas, rules)?;
        Ok(Director { link, control, inherited, settings, waiting: options.waiting })
    }

    /// What makes it read its policy anew, from another thread.
    pub fn reloader(&self) -> DirectorReloader {
        DirectorReloader(self.link.clone())
    }

    /// What stops it, from another thread.
    pub fn stopper(&self) -> DirectorStopper {
        DirectorStopper(self.link.clone())
    }

    /// Serves until it is stopped; then ends what waits, lets the workers finish what they have begun (5 s at most),
    /// and leaves nothing behind. Blocks.
    pub fn run(self) -> Result<(), Error> {
        let Director { link, control, inherited, settings, waiting } = self;
        let control = spawn("trine-control", move || control.run())?;
        let served = Data::run(link.clone(), settings, waiting, inherited);
        // Also where the data thread could not begin: the control thread would wait for ever.
        link.to_control.push(ToControl::Finished);
        let ended = join(control);
        // What it served with goes last: while that is unmapped, the next director serves already.
        ended.and(served.map(drop))
    }

    /// The same in a thread of its own: a bus within a program.
    pub fn spawn(self) -> Result<DirectorHandle, Error> {
        let fork = Fork::mark()?;
        let stopper = self.stopper();
        let thread = spawn("trine-director", move || self.run())?;
        Ok(DirectorHandle { stopper, thread: Some(thread), fork })
    }
}

/// Descriptors that peers may take: what this process may have, and does not need itself.
fn descriptors_left() -> u64 {
    use nix::sys::resource::{Resource, getrlimit};
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    // Of few, the kernel says soon enough when there are no more; a part that is kept back would be most of them.
    if soft < 8 * OWN_DESCRIPTORS { soft } else { soft - OWN_DESCRIPTORS }
}

/// Asks the director that serves a bus for its socket; `None`: there is no director.
fn ask_for_bus(bus: &Bus) -> Result<Option<Listener>, Error> {
    let (channel, _) = match greet(bus, Role::Monitor, ANSWER_NS) {
        Err(Error::NoDirector { .. }) => return Ok(None),
        greeted => greeted?,
    };
    channel.send_message(&ToDirector::Replace, &[]).map_err(Error::io("asking for the bus"))?;
    match channel.answer(ANSWER_NS)? {
        (FromDirector::HandOver, mut fds) => Ok(fds.pop().map(Listener::from)),
        _ => Err(unexpected()),
    }
}

fn spawn<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, Error> {
    std::thread::Builder::new().name(name.into()).spawn(run).map_err(Error::io("starting a thread"))
}

fn join(thread: JoinHandle<Result<(), Error>>) -> Result<(), Error> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Stops a director. Can be used from any thread, more than once.
#[derive(Clone)]
pub struct DirectorStopper(Arc<Link>);

impl DirectorStopper {
    /// Asks the director to stop. Returns at once.
    pub fn stop(&self) {
        self.0.to_data.push(ToData::Stop);
    }
}

/// Makes a director read its policy anew. Can be used from any thread, more than once.
#[derive(Clone)]
pub struct DirectorReloader(Arc<Link>);

impl DirectorReloader {
    /// Asks for it. Returns at once; a policy that is refused is logged, and the old one stays in force.
    pub fn reload(&self) {
        self.0.to_control.push(ToControl::Reload);
    }
}

/// A director in a thread. Dropping it stops the director and waits for its end.
pub struct DirectorHandle {
    stopper: DirectorStopper,
    thread: Option<JoinHandle<Result<(), Error>>>,
    fork: Fork,
}

impl DirectorHandle {
    /// Stops it and waits for its end: see [`Director::run`].
    ///
    /// # Errors
    /// What ended the director; [`Error::Forked`] in a forked child, which has no such thread.
    pub fn stop(mut self) -> Result<(), Error> {
        if self.fork.is_child() {
            return Err(Error::Forked);
        }
        self.stopper.stop();
        self.thread.take().map_or(Ok(()), join)
    }
}

impl Drop for DirectorHandle {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        if self.fork.is_child() {
            // The thread is the parent's: there is none here to wait for.
            return std::mem::forget(thread);
        }
        self.stopper.stop();
        let _ = thread.join();
    }
}
