//! Percentiles of latencies, for people and for programs.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Longest latency that is told from longer ones: a minute.
const MAX_NS: u64 = 60_000_000_000;
/// Digits that count.
const DIGITS: u8 = 3;

/// A histogram of nanoseconds.
#[derive(Clone)]
pub struct Latencies(Histogram<u64>);

/// What is told of one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Half are within it.
    pub p50: u64,
    /// Nine in ten.
    pub p90: u64,
    /// All but one in a hundred.
    pub p99: u64,
    /// All but one in a thousand.
    #[serde(rename = "p99.9")]
    pub p99_9: u64,
    /// The longest.
    pub max: u64,
    /// The mean, which says little.
    pub mean: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        // The bounds are right: they are constants.
        Latencies(Histogram::new_with_bounds(1, MAX_NS, DIGITS).expect("the bounds are right"))
    }
}

impl Latencies {
    /// Counts one.
    pub fn record(&mut self, ns: u64) {
        self.0.saturating_record(ns.max(1));
    }

    /// Counts `count` of the same.
    pub fn record_many(&mut self, ns: u64, count: u64) {
        self.0.saturating_record_n(ns.max(1), count);
    }

    /// Counts all of another.
    pub fn add(&mut self, other: &Latencies) {
        // Fails only where bounds differ, and they are constants.
        let _ = self.0.add(&other.0);
    }

    /// The latency that so many of a hundred are within.
    pub fn percentile(&self, percentile: f64) -> u64 {
        self.0.value_at_percentile(percentile)
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// Each latency that occurred, and how often: to be sent to another process.
    pub fn counts(&self) -> Vec<(u64, u64)> {
        self.0.iter_recorded().map(|v| (v.value_iterated_to(), v.count_at_value())).collect()
    }

    /// What is told of it.
    pub fn summary(&self) -> Summary {
        let at = |percentile| self.0.value_at_percentile(percentile);
        Summary {
            p50: at(50.0),
            p90: at(90.0),
            p99: at(99.0),
            p99_9: at(99.9),
            max: self.0.max(),
            mean: self.0.mean() as u64,
        }
    }
}

/// A duration for people: three digits and a unit.
pub fn human(ns: u64) -> String {
    let (value, unit) = match ns {
        0..1_000 => return format!("{ns} ns"),
        1_000..1_000_000 => (ns as f64 / 1e3, "µs"),
        1_000_000..1_000_000_000 => (ns as f64 / 1e6, "ms"),
        _ => (ns as f64 / 1e9, "s"),
    };
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$} {unit}")
}

/// A number for people: with a comma every three digits.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_told_in_few_digits() {
        let shown = [7, 999, 1_840, 18_400, 184_000, 2_500_000, 61_000_000_000].map(human);
        assert_eq!(shown, ["7 ns", "999 ns", "1.84 µs", "18.4 µs", "184 µs", "2.50 ms", "61.0 s"]);
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn a_histogram_survives_the_way_to_another_process() {
        let (mut here, mut there) = (Latencies::default(), Latencies::default());
        (1..=10_000).for_each(|i| here.record(i * 7));
        here.counts().into_iter().for_each(|(ns, count)| there.record_many(ns, count));
        assert_eq!((here.summary(), here.count()), (there.summary(), there.count()));
    }
}
