//! How a thread waits: one epoll a handle, and a choice of what to do before sleeping in it.
//!
//! The epoll holds the handle's doorbells (edge-triggered, so that an eventfd need never be read) and its control
//! socket, so a sleeper also sees the other side die.
//!
//! A program with an event loop of its own sleeps there instead: it puts the epoll's descriptor into its loop, arms
//! the handle before each sleep and disarms it after.
//!
//! ```text
//! drain: poll until nothing ──► arm ── Ready ──► drain again
//!    ▲                           │
//!    └── disarm ◄── readable ◄── Sleep
//! ```
//! The epoll holds an alarm, too: for an armed handle, whose deadlines are kept by nobody else, and instead of a timeout for
//! a sleep that may be long.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId as TimerClock, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::time::{ClockId, ClockNanosleepFlags, clock_nanosleep};

use crate::core::Os;
use crate::core::idle::Budget;
use crate::core::order::Order;
use crate::error::Error;
use crate::memory::Doorbell;
pub(crate) use crate::memory::{coarse_ns, now_ns};

/// What a party does while it finds nothing to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Waiting {
    /// Yields the CPU for 2 to 200 µs, by what paid before, then sleeps. Right for almost all.
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

/// What [`arm`](crate::Client::arm) found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "who sleeps when there is something to do misses it"]
pub enum Armed {
    /// Nothing to do: wait until the descriptor is readable, then disarm.
    Sleep,
    /// There is something to do already: don't sleep. The handle is not armed.
    Ready,
}

/// The clock is read anew after so many turns: a turn costs less than the clock.
const TURNS_A_READING: u32 = 16;
/// Longest sleep: a peer's word about whether it will ring is not the last one.
const SLEEP_MAX_NS: u64 = 1_000_000_000;
/// A sleep that may be so long relies on the handle's alarm, which stays set from one sleep to the next. A timeout is a
/// timer that is set and taken back for each, which takes a virtual CPU 0.6 to 1.5 µs.
const ALARM_FROM_NS: u64 = 10_000_000;
/// And only in a handle that has slept so often: an alarm is a descriptor, and a program may have thousands of sessions that
/// it seldom uses.
const ALARM_AFTER: u32 = 16;
/// What the alarm is called in the epoll: no descriptor's own token.
const ALARM: u64 = u64::MAX;

/// The waiting end of one handle.
pub(crate) struct Waiter {
    waiting: Waiting,
    budget: Budget,
    order: Order,
    epoll: Arc<Epoll>,
    now_ns: u64,
    turns: u32,
    was_busy: bool,
    /// It slept since it was last asked.
    slept: bool,
    events: Vec<EpollEvent>,
    ready: usize,
    interruptible: bool,
    interrupted: bool,
    alarm: Option<Alarm>,
    /// Sleeps that relied on no alarm, because there was none.
    without_alarm: u32,
}

/// A timer that makes the epoll readable.
struct Alarm {
    timer: TimerFd,
    /// 0: it has gone off, and nobody waits for it.
    at_ns: u64,
}

impl Waiter {
    pub fn new(waiting: Waiting, events: usize) -> Result<Self, Error> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(Error::system("making an epoll"))?;
        let epoll = Arc::new(epoll);
        let events = vec![EpollEvent::empty(); events];
        let budget = Budget::default();
        Ok(Waiter {
            waiting,
            budget,
            order: Order::default(),
            epoll,
            now_ns: now_ns(),
            turns: 0,
            was_busy: true,
            slept: false,
            events,
            ready: 0,
            interruptible: false,
            interrupted: false,
            alarm: None,
            without_alarm: 0,
        })
    }

    /// Says of a sleep that a signal ended it: see [`take_interrupted`](Self::take_interrupted).
    pub fn interruptible(mut self, interruptible: bool) -> Self {
        self.interruptible = interruptible;
        self
    }

    /// Whether a signal ended a sleep since this was last asked.
    pub fn take_interrupted(&mut self) -> bool {
        std::mem::take(&mut self.interrupted)
    }

    /// What an event loop waits on, for a handle to lend while all else of it is in use.
    pub fn events(&self) -> Events {
        Events(self.epoll.clone())
    }

    /// Wakes on this doorbell. Whoever rings it is told from others by the token.
    pub fn add_doorbell(&self, bell: &Doorbell, token: u64) -> Result<(), Error> {
        self.add(bell.sleeper(), EpollFlags::EPOLLIN | EpollFlags::EPOLLET, token)
    }

    /// Wakes while this socket or pidfd has something to say.
    pub fn add_socket(&self, fd: impl AsFd, token: u64) -> Result<(), Error> {
        self.add(fd, EpollFlags::EPOLLIN, token)
    }

    fn add(&self, fd: impl AsFd, flags: EpollFlags, token: u64) -> Result<(), Error> {
        self.epoll.add(fd, EpollEvent::new(flags, token)).map_err(Error::system("watching a descriptor"))
    }

    /// Wakes no more on this doorbell.
    pub fn remove_doorbell(&self, bell: &Doorbell) {
        self.remove(bell.sleeper());
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

    /// After somebody else's sleep on the epoll: takes the bells that were rung for it, and the time that it is.
    pub fn slept_elsewhere(&mut self) {
        self.wait(EpollTimeout::ZERO);
        self.ready = 0;
        self.read_clock();
    }

    /// No signal ends a sleep from now on.
    pub fn ignore_signals(&mut self) {
        self.interruptible = false;
    }

    /// The token of something that the last sleep or glance found; each once.
    #[inline]
    pub fn take_ready(&mut self) -> Option<u64> {
        self.ready = self.ready.checked_sub(1)?;
        Some(self.events[self.ready].data())
    }

    fn wait(&mut self, timeout: EpollTimeout) {
        let waited = self.epoll.wait(&mut self.events, timeout);
        self.interrupted |= self.interruptible && waited == Err(Errno::EINTR);
        // An interrupted wait found nothing; whoever waits looks again anyway.
        self.ready = waited.unwrap_or(0);
        if let Some(alarm) = &mut self.alarm
            && let Some(i) = self.events[..self.ready].iter().position(|event| event.data() == ALARM)
        {
            alarm.at_ns = 0;
            self.ready -= 1;
            self.events.swap(i, self.ready);
        }
    }

    /// Sleeps where there is nothing to wait for but time.
    pub fn pause(&mut self, for_ns: u64) {
        let milliseconds = for_ns.div_ceil(1_000_000).min(1000) as u16;
        let paused = poll(&mut [], PollTimeout::from(milliseconds));
        self.interrupted |= self.interruptible && paused == Err(Errno::EINTR);
    }

    /// Makes the epoll readable at this time, or within a second. An alarm that is set for an earlier time stays:
    /// waking for nothing now and then costs less than a system call each time. At most one system call.
    pub fn set_alarm(&mut self, until_ns: u64) -> Result<(), Error> {
        let now_ns = self.read_clock();
        let at_ns = until_ns.clamp(now_ns, now_ns + SLEEP_MAX_NS);
        let is_set = self.alarm.as_ref().is_some_and(|alarm| (now_ns..=at_ns).contains(&alarm.at_ns));
        if is_set { Ok(()) } else { self.set_alarm_at(at_ns) }
    }

    /// Whether the alarm ends a sleep that must end by this time, and begins now, or so.
    fn relies_on_alarm(&mut self, at_ns: u64, now_ns: u64) -> bool {
        if self.alarm.is_none() && self.without_alarm < ALARM_AFTER {
            self.without_alarm += 1;
            return false;
        }
        let is_set = self.alarm.as_ref().is_some_and(|alarm| (1..=at_ns).contains(&alarm.at_ns));
        // Without a descriptor for it there is still the timeout.
        is_set || (at_ns >= now_ns + ALARM_FROM_NS && self.set_alarm_at(at_ns).is_ok())
    }

    fn set_alarm_at(&mut self, at_ns: u64) -> Result<(), Error> {
        if self.alarm.is_none() {
            self.alarm = Some(self.new_alarm()?);
        }
        let Some(alarm) = &mut self.alarm else { return Ok(()) };
        let at = TimeSpec::new((at_ns / 1_000_000_000) as i64, (at_ns % 1_000_000_000) as i64);
        let set = alarm.timer.set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME);
        set.map_err(Error::system("setting a timer"))?;
        alarm.at_ns = at_ns;
        Ok(())
    }

    fn new_alarm(&self) -> Result<Alarm, Error> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer =
            TimerFd::new(TimerClock::CLOCK_MONOTONIC, flags).map_err(Error::system("making a timer"))?;
        // Edge-triggered, so that it need never be read.
        self.add(&timer, EpollFlags::EPOLLIN | EpollFlags::EPOLLET, ALARM)?;
        Ok(Alarm { timer, at_ns: 0 })
    }

    /// Reads the clock, as of the last tick: whatever it said before may be long ago.
    #[inline]
    pub fn refresh(&mut self) {
        self.now_ns = self.now_ns.max(coarse_ns());
    }

    fn read_clock(&mut self) -> u64 {
        (self.turns, self.now_ns) = (0, now_ns());
        self.now_ns
    }

    fn yield_now(&mut self) {
        self.order.yields();
        std::thread::yield_now();
    }

    fn idle_adaptively(&mut self) -> bool {
        if std::mem::take(&mut self.was_busy) {
            self.read_clock();
        }
        if !self.budget.may_yield(self.now_ns) {
            return false;
        }
        let before_ns = self.now_ns;
        self.yield_now();
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
    fn begin(&mut self) {
        // What it waits for now it has not waited for yet, whatever it or its program did before.
        self.busy();
        if self.order.must_step_aside() {
            // To sleep is to leave the queue of those who want the CPU; how long does not matter.
            let _ =
                clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::empty(), &TimeSpec::new(0, 1));
        }
    }

    #[inline]
    fn busy(&mut self) {
        self.was_busy = true;
        self.budget.busy();
    }

    fn idle(&mut self) -> bool {
        match self.waiting {
            Waiting::Spin => std::hint::spin_loop(),
            Waiting::Yield => self.yield_now(),
            Waiting::Park => return false,
            Waiting::Adaptive => return self.idle_adaptively(),
        }
        true
    }

    fn sleep(&mut self, until_ns: u64) {
        // Only who learns from his sleeps, or wants to wake at a time that is near, needs to know exactly how late it is.
        let before_ns = if self.waiting == Waiting::Adaptive { self.read_clock() } else { coarse_ns() };
        if self.relies_on_alarm(until_ns.min(before_ns + SLEEP_MAX_NS), before_ns) {
            self.wait(EpollTimeout::NONE);
        } else {
            let left_ns = until_ns.saturating_sub(self.read_clock()).min(SLEEP_MAX_NS);
            // Rounded up, so that whoever waits for a time doesn't wake before it.
            self.wait(EpollTimeout::from(left_ns.div_ceil(1_000_000) as u16));
        }
        // Exactly: a director measures by it how quick its workers are.
        let after_ns = self.read_clock();
        self.budget.slept(before_ns, after_ns);
        self.slept = true;
    }

    #[inline]
    fn expects_sleep(&mut self) -> bool {
        self.waiting == Waiting::Park && std::mem::take(&mut self.slept)
    }

    fn was_interrupted(&self) -> bool {
        self.interrupted
    }
}

/// A waiter's descriptor.
pub(crate) struct Events(Arc<Epoll>);

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::idle::BUDGET_MAX_NS;
    use crate::memory::Among;

    /// One that has slept often.
    fn waiter() -> (Waiter, Doorbell) {
        let mut waiter = Waiter::new(Waiting::Park, 4).unwrap();
        let bell = Doorbell::among(Among::users(&[nix::unistd::geteuid().as_raw()])).unwrap();
        waiter.add_doorbell(&bell, 7).unwrap();
        for _ in 0..ALARM_AFTER {
            bell.ring();
            waiter.sleep(u64::MAX);
            assert!(waiter.alarm.is_none(), "a descriptor more for one that sleeps seldom");
        }
        (waiter, bell)
    }

    #[test]
    fn a_sleep_ends_at_its_time_whatever_the_alarm_was_set_for_before() {
        let (mut waiter, bell) = waiter();
        bell.ring();
        waiter.sleep(u64::MAX); // sets the alarm for in a second
        assert_eq!((waiter.take_ready(), waiter.take_ready()), (Some(7), None));
        for ahead_ns in [2 * ALARM_FROM_NS, ALARM_FROM_NS, ALARM_FROM_NS / 10, 2 * ALARM_FROM_NS, 0] {
            let (before_ns, mut sleeps) = (now_ns(), 0);
            while now_ns() < before_ns + ahead_ns {
                waiter.sleep(before_ns + ahead_ns);
                sleeps += 1;
            }
            assert_eq!(waiter.take_ready(), None, "an alarm is no news");
            assert!(sleeps <= 2, "woken {sleeps} times in {ahead_ns} ns");
            assert!(now_ns() < before_ns + SLEEP_MAX_NS / 2, "the alarm was still that of before");
        }
    }

    #[test]
    fn what_one_wait_took_is_not_counted_against_the_next() {
        let mut waiter = Waiter::new(Waiting::Adaptive, 1).unwrap();
        assert!(waiter.budget.may_yield(1) && !waiter.budget.may_yield(1 + BUDGET_MAX_NS));
        waiter.was_busy = false;
        waiter.begin();
        assert!(waiter.budget.may_yield(1 + BUDGET_MAX_NS));
        // And what the program did meanwhile is not taken for a yield.
        assert!(waiter.was_busy, "the clock is not read before the first yield");
    }

    #[test]
    fn an_alarm_stays_set_from_one_sleep_to_the_next() {
        let (mut waiter, bell) = waiter();
        let mut set = Vec::new();
        for _ in 0..3 {
            bell.ring();
            waiter.sleep(u64::MAX);
            set.push(waiter.alarm.as_ref().expect("a sleep that may be long").at_ns);
        }
        assert!(set[0] != 0 && set.iter().all(|&at_ns| at_ns == set[0]), "{set:?}");
        // And one that has gone off is set again, or this would never end.
        waiter.sleep(u64::MAX);
        assert_eq!(waiter.alarm.as_ref().map(|alarm| alarm.at_ns), Some(0));
        bell.ring();
        waiter.sleep(u64::MAX);
        assert!(waiter.alarm.as_ref().is_some_and(|alarm| alarm.at_ns > set[0]));
    }
}
