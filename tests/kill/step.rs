//! A process that is held, stepped, and killed.

use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::support::{PATIENCE, Role};

/// What a victim sends itself at the begin and at the end of what is stepped.
pub const MARK: Signal = Signal::SIGUSR1;
/// A thread that has not ended one instruction by then sleeps in the kernel.
const SLEEPS_AFTER: Duration = Duration::from_millis(30);

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// One more instruction has run.
    Done,
    /// The thread is at its mark.
    Mark,
    /// It sleeps in the kernel, and nobody is expected to wake it.
    Sleeps,
}

/// A thread of a child process, traced by this thread.
pub struct Traced(Pid);

impl Traced {
    /// Begins to trace a thread, which runs on.
    pub fn seize(thread: i32) -> Traced {
        let thread = Pid::from_raw(thread);
        ptrace::seize(thread, ptrace::Options::empty()).expect("a child may be traced");
        Traced(thread)
    }

    /// Waits until the thread has come to its mark by itself.
    pub fn wait_for_mark(&self) {
        match self.wait(|_| false) {
            Some(WaitStatus::Stopped(_, MARK)) => {}
            other => panic!("the victim should be at its mark: {other:?}"),
        }
    }

    /// Holds the thread wherever it is.
    pub fn hold(&self) {
        ptrace::interrupt(self.0).expect("it is traced");
        match self.wait(|_| false) {
            Some(WaitStatus::PtraceEvent(..) | WaitStatus::Stopped(_, Signal::SIGTRAP)) => {}
            other => panic!("the victim should be held: {other:?}"),
        }
    }

    /// Runs one instruction. While it does not end, `idle` is asked whether that is how it should be.
    pub fn step(&self, idle: impl FnMut(Duration) -> bool) -> Step {
        ptrace::step(self.0, None).expect("it is held");
        match self.wait(idle) {
            None => Step::Sleeps,
            Some(WaitStatus::Stopped(_, Signal::SIGTRAP)) => Step::Done,
            Some(WaitStatus::Stopped(_, MARK)) => Step::Mark,
            // Any other signal is none of this thread's.
            other => panic!("the victim did something else: {other:?}"),
        }
    }

    /// SIGKILL for its process, of which nothing is left afterwards.
    pub fn kill(self, role: &mut Role) {
        nix::sys::signal::kill(Pid::from_raw(role.pid()), Signal::SIGKILL).expect("a child");
        // The process ends when all its threads have, and this one ends for its tracer.
        while !matches!(self.wait(|_| false), Some(WaitStatus::Signaled(..) | WaitStatus::Exited(..))) {}
        role.kill();
    }

    /// Waits for what the thread does next. `None`: `idle` said that nothing is to be waited for.
    fn wait(&self, mut idle: impl FnMut(Duration) -> bool) -> Option<WaitStatus> {
        let (began, flags) = (Instant::now(), WaitPidFlag::__WALL | WaitPidFlag::WNOHANG);
        loop {
            match waitpid(self.0, Some(flags)).expect("a child") {
                WaitStatus::StillAlive => {}
                status => return Some(status),
            }
            let waited = began.elapsed();
            assert!(waited < PATIENCE, "a step did not end");
            if waited > SLEEPS_AFTER && idle(waited) {
                return None;
            }
            std::thread::yield_now();
        }
    }
}

/// Which kills there are, and what was done.
pub struct Kills {
    every: u64,
    /// Instructions that the next victim may still run.
    pub next: u64,
    pub kills: u64,
    pub stepped: u64,
}

impl Kills {
    /// `every` is the short form's.
    pub fn new(every: u64) -> Kills {
        let asked = std::env::var("TRINE_KILL_EVERY").ok().and_then(|value| value.parse().ok());
        Kills { every: asked.unwrap_or(every).max(1), next: 0, kills: 0, stepped: 0 }
    }

    /// A victim was killed after `ran` instructions, all that it was to run.
    pub fn killed(&mut self, ran: u64) {
        (self.kills, self.stepped, self.next) = (self.kills + 1, self.stepped + ran, self.next + self.every);
    }

    pub fn report(&self, victim: &str, path: u64) {
        println!(
            "{victim}: {} kills survived, one each {} of {path} instructions; {} instructions stepped",
            self.kills, self.every, self.stepped
        );
    }
}
