//! A director as a program holds it: as a process of its own, or in a thread.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::control::Control;
use super::core::Settings;
use super::data::Data;
use super::link::{Inherited, Link, ToControl, ToData};
use crate::bus::Bus;
use crate::control::folder::RuntimeFolder;
use crate::error::Error;
use crate::limits;
use crate::memory::Fork;
use crate::waiting::Waiting;

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
}

impl Default for DirectorOptions {
    fn default() -> Self {
        DirectorOptions {
            waiting: Waiting::default(),
            waiting_per_route: limits::SLOTS_MAX,
            share_max: u64::from(limits::WORK_SLOTS_DEFAULT) / 2,
            window: Duration::from_nanos(limits::WINDOW_NS),
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
    /// [`Error::BusTaken`] if a director serves the bus already.
    pub fn new(bus: &Bus, options: DirectorOptions) -> Result<Director, Error> {
        let folder = RuntimeFolder::take(bus)?;
        let settings = Settings {
            epoch: folder.epoch(),
            waiting_per_route: options.waiting_per_route,
            share_max: options.share_max.max(1),
        };
        let link = Link::new()?;
        let window_ns = u64::try_from(options.window.as_nanos()).unwrap_or(u64::MAX / 2).min(u64::MAX / 2);
        let (control, inherited) = Control::new(link.clone(), folder, window_ns)?;
        Ok(Director { link, control, inherited, settings, waiting: options.waiting })
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
        join(control).and(served)
    }

    /// The same in a thread of its own: a bus within a program.
    pub fn spawn(self) -> Result<DirectorHandle, Error> {
        let fork = Fork::mark()?;
        let stopper = self.stopper();
        let thread = spawn("trine-director", move || self.run())?;
        Ok(DirectorHandle { stopper, thread: Some(thread), fork })
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
