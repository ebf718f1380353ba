//! How a thread waits: one epoll a handle, and a choice of what to do before sleeping in it.
//!
//! The epoll holds the handle's doorbells (edge-triggered, so that an eventfd need never be read) and its control
//! socket, so a sleeper also sees the other side die.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::time::{ClockId, clock_gettime};

use crate::core::Os;
use crate::core::idle::Budget;
use crate::error::Error;

/// What a party does while it finds nothing to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Waiting {
    /// Yields the CPU for a few microseconds, more or less by what paid before, then sleeps. Right for almost all.
    #[default]
    Adaptive,
    /// Sleeps at once. For those who call seldom, and mind every cycle.
    Park,
    /// Looks again and again, yielding in between; never sleeps. Burns what nobody else wants of a CPU.
    Yield,
    /// Looks again and again without a break. Fastest where the CPU is this thread's own, and very bad elsewhere.
    Spin,
}

/// How long *this thread* waits. A call's deadline is another thing, and the other parties see that one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Not at all.
    Now,
    /// Until then.
    At(Instant),
    /// As long as it takes.
    Forever,
}

impl Until {
    /// From now on for so long.
    pub fn after(duration: Duration) -> Until {
        Instant::now().checked_add(duration).map_or(Until::Forever, Until::At)
    }

    /// On CLOCK_MONOTONIC.
    pub(crate) fn ns(self) -> u64 {
        match self {
            Until::Now => 0,
            Until::At(instant) => to_ns(instant),
            Until::Forever => u64::MAX,
        }
    }
}

/// CLOCK_MONOTONIC, in nanoseconds.
pub(crate) fn now_ns() -> u64 {
    // The clock is always there; its seconds are positive since boot.
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |t| t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64)
}

/// An instant on CLOCK_MONOTONIC; one that has passed is now.
pub(crate) fn to_ns(instant: Instant) -> u64 {
    let ahead = instant.saturating_duration_since(Instant::now()).as_nanos();
    now_ns().saturating_add(u64::try_from(ahead).unwrap_or(u64::MAX))
}

/// An instant from CLOCK_MONOTONIC.
pub(crate) fn to_instant(ns: u64) -> Instant {
    let (now, instant) = (now_ns(), Instant::now());
    match ns.checked_sub(now) {
        Some(ahead) => instant + Duration::from_nanos(ahead),
        None => instant - Duration::from_nanos((now - ns).min(1_000_000_000)),
    }
}

/// The clock is read anew after so many turns: a turn costs less than the clock.
const TURNS_A_READING: u32 = 16;

/// The waiting end of one handle.
pub(crate) struct Waiter {
    waiting: Waiting,
    budget: Budget,
    epoll: Epoll,
    now_ns: u64,
    turns: u32,
    was_busy: bool,
    events: Vec<EpollEvent>,
    ready: usize,
}

impl Waiter {
    pub fn new(waiting: Waiting, events: usize) -> Result<Self, Error> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(Error::system("making an epoll"))?;
        let events = vec![EpollEvent::empty(); events];
        let budget = Budget::default();
        Ok(Waiter { waiting, budget, epoll, now_ns: now_ns(), turns: 0, was_busy: true, events, ready: 0 })
    }

    /// Wakes on this doorbell. Whoever rings it is told from others by the token.
    pub fn add_doorbell(&self, fd: impl AsFd, token: u64) -> Result<(), Error> {
        self.add(fd, EpollFlags::EPOLLIN | EpollFlags::EPOLLET, token)
    }

    /// Wakes while this socket or pidfd has something to say.
    pub fn add_socket(&self, fd: impl AsFd, token: u64) -> Result<(), Error> {
        self.add(fd, EpollFlags::EPOLLIN, token)
    }

    fn add(&self, fd: impl AsFd, flags: EpollFlags, token: u64) -> Result<(), Error> {
        self.epoll.add(fd, EpollEvent::new(flags, token)).map_err(Error::system("watching a descriptor"))
    }

    /// Wakes no more on this one.
    pub fn remove(&self, fd: impl AsFd) {
        // Fails only for what is not in it.
        let _ = self.epoll.delete(fd);
    }

    /// Looks into the epoll without waiting, unless what it last found has not been taken yet.
    pub fn glance(&mut self) {
        if self.ready == 0 {
            self.wait(EpollTimeout::ZERO);
        }
    }

    /// The tokens of what the last sleep or glance found.
    pub fn take_ready(&mut self) -> impl Iterator<Item = u64> {
        let ready = std::mem::take(&mut self.ready);
        self.events[..ready].iter().map(EpollEvent::data)
    }

    fn wait(&mut self, timeout: EpollTimeout) {
        // An interrupted wait found nothing; whoever waits looks again anyway.
        self.ready = self.epoll.wait(&mut self.events, timeout).unwrap_or(0);
    }

    /// Reads the clock: whatever it said before may be long ago.
    #[inline]
    pub fn refresh(&mut self) {
        self.read_clock();
    }

    fn read_clock(&mut self) -> u64 {
        (self.turns, self.now_ns) = (0, now_ns());
        self.now_ns
    }

    fn idle_adaptively(&mut self) -> bool {
        if std::mem::take(&mut self.was_busy) {
            self.read_clock();
        }
        if !self.budget.may_yield(self.now_ns) {
            return false;
        }
        let before_ns = self.now_ns;
        std::thread::yield_now();
        let after_ns = self.read_clock();
        self.budget.yielded(before_ns, after_ns);
        true
    }
}

impl Os for Waiter {
    #[inline]
    fn now_ns(&mut self) -> u64 {
        self.turns += 1;
        if self.turns >= TURNS_A_READING { self.read_clock() } else { self.now_ns }
    }

    #[inline]
    fn busy(&mut self) {
        self.was_busy = true;
        self.budget.busy();
    }

    fn idle(&mut self) -> bool {
        match self.waiting {
            Waiting::Spin => std::hint::spin_loop(),
            Waiting::Yield => std::thread::yield_now(),
            Waiting::Park => return false,
            Waiting::Adaptive => return self.idle_adaptively(),
        }
        true
    }

    fn sleep(&mut self, until_ns: u64) {
        let before_ns = self.read_clock();
        let left_ns = until_ns.saturating_sub(before_ns);
        // Rounded up, so that whoever waits for a time doesn't wake before it; at most a second, because a peer's
        // word about whether it will ring is not the last one.
        let milliseconds = left_ns.div_ceil(1_000_000).min(1000) as u16;
        self.wait(EpollTimeout::from(milliseconds));
        let after_ns = self.read_clock();
        self.budget.slept(before_ns, after_ns);
    }
}
