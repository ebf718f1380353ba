//! When a client calls, and how its calls are timed.
//!
//! ```text
//! closed    the next call when one has ended; or so many in flight
//! paced     a call at a time, one each millisecond or so: everybody sleeps in between
//! open      calls at a given rate, whether or not the earlier ones have ended
//! ```
//! An open loop's latency counts from the moment at which the call *should* have been sent. A client that is late
//! because an earlier call took long has kept its caller waiting all the same; timed from the actual sending, the
//! longest waits would leave no trace ("coordinated omission").

use std::collections::VecDeque;
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::latencies::Latencies;

/// What a client is to do.
#[derive(Args, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Calls that count.
    #[arg(long, default_value_t = 1)]
    pub calls: u64,
    /// Calls before those: caches, page tables and waits that adapt settle.
    #[arg(long, default_value_t = 0)]
    pub warm_up: u64,
    /// Calls in flight at most.
    #[arg(long, default_value_t = 1)]
    pub in_flight: usize,
    /// Paced: nanoseconds from one call to the next.
    #[arg(long)]
    pub every_ns: Option<u64>,
    /// Open loop: calls per second.
    #[arg(long, conflicts_with = "every_ns")]
    pub rate: Option<u64>,
}

/// What carries a client's calls.
pub trait Caller {
    /// Sends the request of this number.
    fn send(&mut self, number: u64) -> anyhow::Result<()>;
    /// The number of a call that was answered; its answer has been checked. With `wait` there is one open at least,
    /// and it waits for one to end.
    fn receive(&mut self, wait: bool) -> anyhow::Result<Option<u64>>;
}

/// What a client found, on its way to whoever started it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Measured {
    /// Latencies in nanoseconds, and how often each occurred.
    pub counts: Vec<(u64, u64)>,
    /// From the first call that counts to the last answer.
    pub elapsed_ns: u64,
}

impl Measured {
    /// Of these latencies.
    pub fn new(latencies: &Latencies, elapsed: Duration) -> Measured {
        Measured { counts: latencies.counts(), elapsed_ns: elapsed.as_nanos() as u64 }
    }

    /// What several found at the same time, together.
    pub fn of_all(all: &[Measured]) -> Measured {
        let counts = all.iter().flat_map(|one| one.counts.iter().copied()).collect();
        Measured { counts, elapsed_ns: all.iter().map(|one| one.elapsed_ns).max().unwrap_or(0) }
    }

    /// Tells it to whoever started this process, on stdout.
    pub fn tell(&self) -> anyhow::Result<()> {
        Ok(writeln!(std::io::stdout(), "{}", serde_json::to_string(self)?)?)
    }
}

impl Load {
    /// Runs it: first the calls that don't count, then those that do.
    pub fn run(&self, caller: &mut impl Caller) -> anyhow::Result<Measured> {
        let mut run = Run { caller, next: 0, open: Open::default(), latencies: Latencies::default() };
        run.closed(self.warm_up, self.in_flight)?;
        run.latencies = Latencies::default();
        let start = Instant::now();
        match (self.every_ns, self.rate) {
            (Some(ns), _) => run.paced(self.calls, Duration::from_nanos(ns))?,
            (_, Some(rate)) => run.open(self.calls, self.in_flight, rate.max(1))?,
            _ => run.closed(self.calls, self.in_flight)?,
        }
        Ok(Measured::new(&run.latencies, start.elapsed()))
    }
}

struct Run<'a, C> {
    caller: &'a mut C,
    next: u64,
    open: Open,
    latencies: Latencies,
}

impl<C: Caller> Run<'_, C> {
    fn send(&mut self, since: Instant) -> anyhow::Result<()> {
        self.open.begin(self.next, since);
        self.caller.send(self.next)?;
        self.next += 1;
        Ok(())
    }

    /// When one has ended, if one has.
    fn receive(&mut self, wait: bool) -> anyhow::Result<Option<Instant>> {
        let Some(number) = self.caller.receive(wait)? else { return Ok(None) };
        let since = self.open.end(number).context("an answer to a call that is not open")?;
        let now = Instant::now();
        self.latencies.record((now - since).as_nanos() as u64);
        Ok(Some(now))
    }

    fn one(&mut self) -> anyhow::Result<()> {
        let number = self.next;
        self.next += 1;
        self.caller.send(number)?;
        let ended = self.caller.receive(true)?;
        ensure!(ended == Some(number), "an answer to a call that is not open");
        Ok(())
    }

    fn closed(&mut self, calls: u64, in_flight: usize) -> anyhow::Result<()> {
        if in_flight == 1 {
            let mut before = Instant::now();
            for _ in 0..calls {
                self.one()?;
                let now = Instant::now();
                self.latencies.record((now - before).as_nanos() as u64);
                before = now;
            }
            return Ok(());
        }
        let end = self.next + calls;
        // A call that follows an answer is sent at once: one look at the clock is for both.
        let mut now = Instant::now();
        while self.next < end || self.open.count > 0 {
            while self.next < end && self.open.count < in_flight {
                self.send(now)?;
            }
            now = self.receive(true)?.unwrap_or(now);
        }
        Ok(())
    }

    fn paced(&mut self, calls: u64, every: Duration) -> anyhow::Result<()> {
        let mut at = Instant::now();
        for _ in 0..calls {
            at = (at + every).max(Instant::now());
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
            let start = Instant::now();
            self.one()?;
            self.latencies.record(start.elapsed().as_nanos() as u64);
        }
        Ok(())
    }

    fn open(&mut self, calls: u64, in_flight: usize, rate: u64) -> anyhow::Result<()> {
        let (start, first, end) = (Instant::now(), self.next, self.next + calls);
        let intended = |number: u64| {
            start
                + Duration::from_nanos((u128::from(number - first) * 1_000_000_000 / u128::from(rate)) as u64)
        };
        while self.next < end || self.open.count > 0 {
            let now = Instant::now();
            let mut did = false;
            while self.next < end && self.open.count < in_flight && intended(self.next) <= now {
                self.send(intended(self.next))?;
                did = true;
            }
            while self.open.count > 0 && self.receive(false)?.is_some() {
                did = true;
            }
            if !did {
                std::thread::yield_now();
            }
        }
        Ok(())
    }
}

/// Since when the open calls are, which may end in any order.
#[derive(Default)]
struct Open {
    /// The number that the first entry is of.
    first: u64,
    since: VecDeque<Option<Instant>>,
    count: usize,
}

impl Open {
    fn begin(&mut self, number: u64, since: Instant) {
        if self.since.is_empty() {
            self.first = number;
        }
        self.since.push_back(Some(since));
        self.count += 1;
    }

    fn end(&mut self, number: u64) -> Option<Instant> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let since = self.since.get_mut(index)?.take()?;
        self.count -= 1;
        while self.since.front().is_some_and(Option::is_none) {
            self.since.pop_front();
            self.first += 1;
        }
        Some(since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers the newest first, and never more than it was sent.
    #[derive(Default)]
    struct Newest(Vec<u64>, usize);

    impl Caller for Newest {
        fn send(&mut self, number: u64) -> anyhow::Result<()> {
            self.0.push(number);
            self.1 = self.1.max(self.0.len());
            Ok(())
        }
        fn receive(&mut self, wait: bool) -> anyhow::Result<Option<u64>> {
            assert!(!wait || !self.0.is_empty(), "waiting for nothing");
            Ok(self.0.pop())
        }
    }

    const CLOSED: Load = Load { calls: 100, warm_up: 10, in_flight: 1, every_ns: None, rate: None };

    #[test]
    fn every_load_makes_its_calls_and_counts_those_that_count() {
        let loads = [
            CLOSED,
            Load { in_flight: 8, ..CLOSED },
            Load { every_ns: Some(1_000), ..CLOSED },
            Load { rate: Some(1_000_000), in_flight: 8, ..CLOSED },
        ];
        for load in loads {
            let mut caller = Newest::default();
            let measured = load.run(&mut caller).unwrap();
            assert_eq!(measured.counts.iter().map(|c| c.1).sum::<u64>(), 100, "{load:?}");
            assert!(caller.0.is_empty() && caller.1 <= load.in_flight, "{load:?}");
        }
    }

    /// Takes its time over the first call.
    struct Slow(VecDeque<u64>);

    impl Caller for Slow {
        fn send(&mut self, number: u64) -> anyhow::Result<()> {
            if number == 0 {
                std::thread::sleep(Duration::from_millis(20));
            }
            self.0.push_back(number);
            Ok(())
        }
        fn receive(&mut self, _: bool) -> anyhow::Result<Option<u64>> {
            Ok(self.0.pop_front())
        }
    }

    #[test]
    fn a_call_that_was_sent_late_counts_from_when_it_should_have_been() {
        let load = Load { calls: 10, warm_up: 0, rate: Some(1_000), in_flight: 64, ..CLOSED };
        let measured = load.run(&mut Slow(VecDeque::new())).unwrap();
        let late = measured.counts.iter().filter(|(ns, _)| *ns > 10_000_000).map(|c| c.1).sum::<u64>();
        assert_eq!(late, 10, "{measured:?}");
    }

    #[test]
    fn an_answer_to_a_call_that_is_not_open_is_an_error() {
        struct Liar;
        impl Caller for Liar {
            fn send(&mut self, _: u64) -> anyhow::Result<()> {
                Ok(())
            }
            fn receive(&mut self, _: bool) -> anyhow::Result<Option<u64>> {
                Ok(Some(7_000))
            }
        }
        for in_flight in [1, 4] {
            assert!(Load { in_flight, ..CLOSED }.run(&mut Liar).is_err());
        }
    }
}
