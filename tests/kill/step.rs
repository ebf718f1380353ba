//! A process that is held, stepped, and killed.

use std::collections::HashMap;
#[cfg(target_arch = "x86_64")]
use std::mem::offset_of;
use std::time::{Duration, Instant};

#[cfg(target_arch = "x86_64")]
use nix::libc;
use nix::sys::personality::{self, Persona};
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

    /// Where the instruction lies that it runs next.
    #[cfg(target_arch = "x86_64")]
    fn address(&self) -> u64 {
        ptrace::read_user(self.0, offset(offset_of!(libc::user, regs.rip))).expect("it is held") as u64
    }

    /// Lets it run on to the instruction there, which it is to pass so often before. Returns whether it came there, and
    /// not to its mark.
    #[cfg(target_arch = "x86_64")]
    fn run_to(&self, place: &Place) -> bool {
        let registers = [(0, place.address as i64), (7, BREAK_AT_0)];
        for (register, value) in registers {
            let at = offset_of!(libc::user, u_debugreg) + register * size_of::<u64>();
            ptrace::write_user(self.0, offset(at), value).expect("it is held");
        }
        (0..=place.passes).all(|_| {
            ptrace::cont(self.0, None).expect("it is held");
            match self.wait(|_| false) {
                Some(WaitStatus::Stopped(_, Signal::SIGTRAP)) => true,
                Some(WaitStatus::Stopped(_, MARK)) => false,
                other => panic!("the victim did something else: {other:?}"),
            }
        })
    }

    /// Other processors have other registers: there each victim is stepped from the begin.
    #[cfg(not(target_arch = "x86_64"))]
    fn address(&self) -> u64 {
        0
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn run_to(&self, _: &Place) -> bool {
        false
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

/// Offset in `struct user`, as ptrace takes it.
#[cfg(target_arch = "x86_64")]
fn offset(at: usize) -> ptrace::AddressType {
    std::ptr::without_provenance_mut(at)
}

/// In the seventh debug register: stop at the instruction of the first.
#[cfg(target_arch = "x86_64")]
const BREAK_AT_0: i64 = 1;

/// How many instructions lie between two kills; in the short form so many.
pub fn every(short: usize) -> usize {
    let asked = std::env::var("TRINE_KILL_EVERY").ok().and_then(|value| value.parse().ok());
    asked.unwrap_or(short).max(1)
}

/// An instruction on a victim's path.
struct Place {
    address: u64,
    /// How often the path has been there before.
    passes: u64,
}

/// Which kills there are, and what was done.
///
/// The first victim is stepped from its mark to its end, which is the path. To step each of the others as far as it is to
/// come would take time by the square of the path; so they run to a breakpoint. One that comes another way, past it, is
/// followed by one that is stepped from the begin.
pub struct Kills {
    every: usize,
    /// Addresses are the same in each victim.
    fixed: bool,
    path: Vec<Place>,
    /// Instructions that the next victim may run.
    next: usize,
    /// Whether the last victim passed its breakpoint by.
    missed: bool,
    kills: u64,
    stops: u64,
    misses: u64,
    shorter: u64,
}

impl Kills {
    /// `every` is the short form's. For victims that the calling thread starts.
    pub fn new(every: usize) -> Kills {
        let fixed = cfg!(target_arch = "x86_64") && personality::set(Persona::ADDR_NO_RANDOMIZE).is_ok();
        let (every, path, missed) = (self::every(every), Vec::new(), false);
        Kills { every, fixed, path, next: 0, missed, kills: 0, stops: 0, misses: 0, shorter: 0 }
    }

    /// Whether another victim is wanted.
    pub fn are_left(&self) -> bool {
        self.path.is_empty() || self.next < self.path.len()
    }

    /// Lets a victim run from its mark to where it is to be killed. Returns whether it came to the end before.
    pub fn run(&mut self, victim: &Traced) -> bool {
        victim.wait_for_mark();
        if self.path.is_empty() {
            self.learn(victim);
            return true;
        }
        let ended = if self.fixed && !std::mem::take(&mut self.missed) {
            let place = &self.path[self.next];
            self.stops += place.passes + 1;
            if !victim.run_to(place) {
                (self.missed, self.misses) = (true, self.misses + 1);
                return true;
            }
            false
        } else {
            (0..self.next).any(|_| self.is_last(victim))
        };
        self.next += self.every;
        (self.kills, self.shorter) = (self.kills + u64::from(!ended), self.shorter + u64::from(ended));
        ended
    }

    fn learn(&mut self, victim: &Traced) {
        let mut passes = HashMap::<u64, u64>::new();
        loop {
            let address = victim.address();
            let passes = passes.entry(address).or_default();
            self.path.push(Place { address, passes: *passes });
            *passes += 1;
            if self.is_last(victim) {
                return;
            }
        }
    }

    /// Steps over one instruction of a victim that sleeps nowhere: returns whether that was the last before its mark.
    /// A string instruction, which stops for each of its bytes, is one.
    fn is_last(&mut self, victim: &Traced) -> bool {
        let address = victim.address();
        loop {
            self.stops += 1;
            match victim.step(|_| false) {
                Step::Done if address != 0 && victim.address() == address => {}
                Step::Done => return false,
                Step::Mark => return true,
                Step::Sleeps => unreachable!("somebody answers it"),
            }
        }
    }

    pub fn report(&self, victim: &str) {
        let Kills { every, path, kills, stops, misses, shorter, .. } = self;
        println!(
            "{victim}: {kills} kills survived, one each {every} of {} instructions; {stops} stops, {misses} ran past \
             their breakpoint, {shorter} ended before their kill",
            path.len()
        );
    }
}
