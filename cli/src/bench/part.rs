//! The parts of the benchmark that are rows of a table: in which settings, and who beside whom.

use clap::ValueEnum;
use trine_measure::{Load, Wait};

use super::placement::Placement;
use super::round::Setting;

/// A part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// A call after the other, of 8 and of 64 bytes.
    Latency,
    /// The same with nothing chosen: unpinned, adaptive.
    Default,
    /// What can wake a sleeper, in each placement.
    Doorbells,
    /// Two, three and four messages over the same rings.
    Forms,
    /// 4 KiB, 1 MiB, 16 MiB.
    Large,
    /// A call each 1 ms and each 10 ms: everybody sleeps in between.
    Paced,
    /// Calls at given rates, timed from when they should have been sent.
    Open,
    /// 1, 8, 64 and 512 calls in flight.
    Throughput,
    /// Idle sessions beside a busy one.
    Sessions,
    /// A program that burns the same CPUs.
    Neighbour,
    /// 1 to 64 sessions that call at the same time.
    Busy,
    /// 1 to 64 workers.
    Workers,
    /// Connect, call, and go.
    Connect,
    /// Calls that take unevenly long, given to four workers: JBSQ and round robin.
    Fairness,
}

impl Part {
    /// All of them.
    pub const ALL: [Part; 14] = [
        Part::Latency,
        Part::Default,
        Part::Doorbells,
        Part::Forms,
        Part::Large,
        Part::Paced,
        Part::Open,
        Part::Throughput,
        Part::Sessions,
        Part::Neighbour,
        Part::Busy,
        Part::Workers,
        Part::Connect,
        Part::Fairness,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Part::Latency => "latency",
            Part::Default => "default",
            Part::Doorbells => "doorbells",
            Part::Forms => "forms",
            Part::Large => "large",
            Part::Paced => "paced",
            Part::Open => "open",
            Part::Throughput => "throughput",
            Part::Sessions => "sessions",
            Part::Neighbour => "neighbour",
            Part::Busy => "busy",
            Part::Workers => "workers",
            Part::Connect => "connect",
            Part::Fairness => "fairness",
        }
    }

    /// What a reader should know before the table.
    pub fn title(self) -> &'static str {
        match self {
            Part::Latency => "A call after the other",
            Part::Default => "A call after the other, nothing chosen: unpinned, default waiting",
            Part::Doorbells => "What wakes a sleeper, and nothing else: all sleep",
            Part::Forms => "Two, three and four messages over the same rings",
            Part::Large => "Payloads built in place: written by the client, read by the worker",
            Part::Paced => "A call now and then: everybody sleeps in between",
            Part::Open => {
                "Calls at a given rate, timed from when each should have been sent; the client polls"
            }
            Part::Throughput => "Many calls in flight",
            Part::Sessions => "Idle sessions beside the one that calls",
            Part::Neighbour => "Beside a program that burns the same CPUs",
            Part::Busy => "Sessions that call at the same time, one call each at a time",
            Part::Workers => "Several workers of a service, 64 calls in flight",
            Part::Connect => "A session, a route, a call, and the end of the session",
            Part::Fairness => {
                "Four workers; of 200 calls 199 take a microsecond and one a millisecond; by given rates"
            }
        }
    }

    /// Whether what can't wait as was asked takes part in its own way.
    pub fn takes_all(self) -> bool {
        matches!(self, Part::Open | Part::Throughput)
    }
}

/// What a command line chose for all parts.
#[derive(Clone, Debug)]
pub struct Chosen {
    pub placements: Vec<Placement>,
    pub waiting: Vec<Wait>,
    /// Calls of a round that takes a few microseconds each.
    pub calls: u64,
    pub in_flight: Vec<usize>,
    pub rates: Vec<u64>,
    pub bytes: Vec<usize>,
    /// Sessions beside the one that calls.
    pub idle_sessions: usize,
}

impl Chosen {
    /// The settings of a part.
    pub fn settings(&self, part: Part) -> Vec<Setting> {
        match part {
            Part::Latency => self.each(|base| {
                self.bytes.iter().map(|&bytes| Setting { bytes, reply_bytes: bytes, ..base }).collect()
            }),
            Part::Default => vec![self.base(Placement::Unpinned, Wait::Adaptive)],
            Part::Doorbells => {
                self.placements.iter().map(|&placement| self.base(placement, Wait::Park)).collect()
            }
            Part::Forms => self.polling(|base| vec![base]),
            Part::Large => self.polling(|base| {
                let sizes = [(4 << 10, 64, 4), (1 << 20, 64, 40), (16 << 20, 16 << 20, 1_000)];
                sizes
                    .map(|(bytes, reply_bytes, part)| fewer(Setting { bytes, reply_bytes, ..base }, part))
                    .to_vec()
            }),
            Part::Paced => self.sleeping(|base| {
                let every = |ns, part| {
                    let fewer = fewer(base, part);
                    let load = Load { every_ns: Some(ns), warm_up: 10, ..fewer.load };
                    Setting { load, ..fewer }
                };
                vec![every(1_000_000, 100), every(10_000_000, 1_000)]
            }),
            Part::Open => self.polling(|base| {
                // A fifth of a second of each rate, so that a slow one does not take for ever.
                let at = |&rate: &u64| {
                    let load = Load { rate: Some(rate), calls: rate / 5, in_flight: 512, ..base.load };
                    Setting { load, ..base }
                };
                self.rates.iter().map(at).collect()
            }),
            Part::Throughput => self.polling(|base| {
                let with = |&in_flight: &usize| {
                    let calls = base.load.calls * in_flight.min(4) as u64;
                    Setting { load: Load { in_flight, calls, warm_up: 4_000, ..base.load }, ..base }
                };
                self.in_flight.iter().map(with).collect()
            }),
            Part::Sessions => self.polling(|base| {
                let counts = [0, 10, 100, 1_000, 3_000].into_iter().filter(|n| *n <= self.idle_sessions);
                counts.map(|idle_sessions| Setting { idle_sessions, ..base }).collect()
            }),
            Part::Busy => vec![fewer(self.base(Placement::Unpinned, Wait::Adaptive), 4)],
            Part::Workers => {
                let base = self.base(Placement::Unpinned, Wait::Adaptive);
                vec![Setting { load: Load { in_flight: 64, ..base.load }, ..base }]
            }
            Part::Connect => vec![fewer(self.base(Placement::Unpinned, Wait::Adaptive), 20)],
            Part::Fairness => {
                let base = self.base(self.placements[0], Wait::Adaptive);
                // Up to a second of each: what is rare should have occurred.
                let at = |rate: u64| {
                    let calls = rate.min(self.calls);
                    let load = Load { rate: Some(rate), calls, in_flight: 512, ..base.load };
                    Setting { load, ..base }
                };
                vec![at(5_000), at(20_000)]
            }
            Part::Neighbour => {
                let base = |placement, waiting, neighbour| Setting {
                    neighbour,
                    ..fewer(self.base(placement, waiting), 20)
                };
                let places = self.placements.iter().filter(|p| **p != Placement::Unpinned);
                places
                    .flat_map(|&p| [Wait::Adaptive, Wait::Park].map(|w| (p, w)))
                    .flat_map(|(p, w)| [base(p, w, false), base(p, w, true)])
                    .collect()
            }
        }
    }

    /// A call of 64 bytes after the other.
    pub fn base(&self, placement: Placement, waiting: Wait) -> Setting {
        let slow = !waiting.polls() && placement != Placement::One;
        let load = Load {
            calls: if slow { (self.calls / 4).max(1) } else { self.calls },
            warm_up: (self.calls / 20).clamp(1, 1_000),
            in_flight: 1,
            every_ns: None,
            rate: None,
        };
        Setting { placement, waiting, bytes: 64, reply_bytes: 64, load, neighbour: false, idle_sessions: 0 }
    }

    /// In each placement and with each way to wait.
    fn each(&self, settings: impl Fn(Setting) -> Vec<Setting>) -> Vec<Setting> {
        let both = self.placements.iter().flat_map(|&p| self.waiting.iter().map(move |&w| (p, w)));
        both.flat_map(|(p, w)| settings(self.base(p, w))).collect()
    }

    /// In each placement, for those who never sleep.
    fn polling(&self, settings: impl Fn(Setting) -> Vec<Setting>) -> Vec<Setting> {
        let waiting = self.waiting.iter().copied().find(|w| w.polls()).unwrap_or(Wait::Yield);
        self.placements.iter().flat_map(|&p| settings(self.base(p, waiting))).collect()
    }

    /// In each placement, for those who sleep.
    fn sleeping(&self, settings: impl Fn(Setting) -> Vec<Setting>) -> Vec<Setting> {
        let waiting = self.waiting.iter().copied().find(|w| !w.polls()).unwrap_or(Wait::Adaptive);
        self.placements.iter().flat_map(|&p| settings(self.base(p, waiting))).collect()
    }
}

/// The same with a part of the calls.
fn fewer(setting: Setting, part: u64) -> Setting {
    let load = Load {
        calls: (setting.load.calls / part).max(10),
        warm_up: (setting.load.warm_up / part).max(1),
        ..setting.load
    };
    Setting { load, ..setting }
}
