//! How long the three hops of calls took.

use std::fmt::Write;

use trine::Hops;

use trine_measure::latencies::{Latencies, human};

/// One histogram a hop.
#[derive(Default)]
pub struct HopTimes([Latencies; 3]);

const NAMES: [&str; 3] = ["1  client → director", "2  director → worker", "3  worker → client"];

impl HopTimes {
    /// Counts a call that was published at this time, on CLOCK_MONOTONIC.
    pub fn record(&mut self, published_ns: u64, hops: Hops) {
        let begun_and_ended = [
            (published_ns, hops.taken_ns),
            (hops.pushed_ns, hops.began_ns),
            (hops.replied_ns, hops.received_ns),
        ];
        for (latencies, (begun_ns, ended_ns)) in self.0.iter_mut().zip(begun_and_ended) {
            latencies.record(ended_ns.saturating_sub(begun_ns));
        }
    }

    /// Calls counted.
    pub fn count(&self) -> u64 {
        self.0[0].count()
    }

    /// A table.
    pub fn table(&self, title: &str) -> String {
        let mut text = format!("{title:<24} {:>9} {:>9} {:>9}", "p50", "p99", "p99.9");
        for (name, latencies) in NAMES.iter().zip(&self.0) {
            let s = latencies.summary();
            let [p50, p99, p99_9] = [s.p50, s.p99, s.p99_9].map(human);
            // Writing to a string does not fail.
            let _ = write!(text, "\n  {name:<22} {p50:>9} {p99:>9} {p99_9:>9}");
        }
        text
    }
}
