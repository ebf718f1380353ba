//! What all rounds of one subject in one setting gave, as a line of a table and as JSON.
//!
//! Rounds come at two levels where the order in which processes get a CPU, or the CPUs on which the system puts them,
//! has two stable forms (three that take turns on one CPU by yielding; both ends of a socket, unpinned). Mixed into
//! one histogram they give percentiles of neither. So a row that polls is that of its better level: of the rounds
//! whose p50 is within a quarter of the best round's; how many those are stands beside it, and every round's p50 is
//! in the JSON. A row that is unpinned or sleeps has all its rounds.

use serde::{Deserialize, Serialize};
use tabled::builder::Builder;
use tabled::settings::object::Columns;
use tabled::settings::{Alignment, Padding, Style};
use trine_measure::latencies::{grouped, human};
use trine_measure::{Latencies, Load, Measured, Summary};

use super::placement::Placement;
use super::round::{Contender, Setting};

/// A round that takes more than five quarters of the best one is of another level.
const LEVEL: (u64, u64) = (5, 4);

/// A line of the result.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Of which part of the benchmark.
    pub part: &'static str,
    /// What was measured.
    pub what: String,
    /// Messages of a call.
    pub messages: u32,
    /// Who ran on which CPU: client, middle, worker.
    pub cpus: String,
    #[serde(flatten)]
    pub setting: Setting,
    /// Calls in the rounds that count.
    pub calls_counted: u64,
    pub calls_per_second: u64,
    pub latency_ns: Summary,
    /// Each round's p50.
    pub rounds_p50_ns: Vec<u64>,
    /// How many rounds count.
    pub rounds_counted: usize,
    /// Its p50 to that of the first floor beside it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_floor: Option<f64>,
    /// For plots: percentile, and nanoseconds.
    pub curve: Vec<Point>,
}

/// A point of a percentile curve.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Point {
    pub percentile: f64,
    pub ns: u64,
}

impl Row {
    /// Of these rounds, of which there is one at least.
    pub fn new(
        part: &'static str,
        contender: &Contender,
        setting: Setting,
        cpus: &[usize],
        rounds: &[Measured],
    ) -> Row {
        let histograms: Vec<Latencies> = rounds.iter().map(histogram).collect();
        let rounds_p50_ns: Vec<u64> = histograms.iter().map(|h| h.summary().p50).collect();
        let best = rounds_p50_ns.iter().copied().min().unwrap_or(0);
        let levels = setting.waiting.polls() && setting.placement != Placement::Unpinned;
        let counts = |p50: u64| !levels || p50 * LEVEL.1 <= best * LEVEL.0;
        let (mut latencies, mut elapsed_ns, mut rounds_counted) = (Latencies::default(), 0, 0);
        for ((round, histogram), &p50) in rounds.iter().zip(&histograms).zip(&rounds_p50_ns) {
            if counts(p50) {
                latencies.add(histogram);
                elapsed_ns += round.elapsed_ns;
                rounds_counted += 1;
            }
        }
        let calls_counted = latencies.count();
        Row {
            part,
            what: contender.subject.name.clone(),
            messages: contender.subject.messages,
            cpus: setting.placement.told(cpus),
            setting,
            calls_counted,
            calls_per_second: (calls_counted as f64 / (elapsed_ns.max(1) as f64 / 1e9)) as u64,
            latency_ns: latencies.summary(),
            rounds_p50_ns,
            rounds_counted,
            to_floor: None,
            curve: curve(&latencies),
        }
    }

    fn cells(&self) -> Vec<String> {
        let s = &self.latency_ns;
        let mut cells = vec![
            self.what.clone(),
            self.messages.to_string(),
            self.cpus.clone(),
            self.setting.waiting.name().to_owned(),
            size(self.setting.bytes, self.setting.reply_bytes),
            load(&self.setting),
        ];
        cells.extend([s.p50, s.p90, s.p99, s.p99_9, s.max].map(human));
        cells.push(grouped(self.calls_per_second));
        cells.push(self.to_floor.map_or(String::new(), |ratio| format!("{ratio:.2}")));
        cells.push(format!("{}/{}", self.rounds_counted, self.rounds_p50_ns.len()));
        cells
    }
}

fn histogram(measured: &Measured) -> Latencies {
    let mut latencies = Latencies::default();
    measured.counts.iter().for_each(|&(ns, count)| latencies.record_many(ns, count));
    latencies
}

fn curve(latencies: &Latencies) -> Vec<Point> {
    let percentiles =
        [0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 97.5, 99.0, 99.5, 99.75, 99.9, 99.95, 99.99, 99.999];
    // What fewer than ten calls stand behind is an accident.
    let stands = |p: &f64| latencies.count() as f64 * (100.0 - p) / 100.0 >= 10.0;
    let point = |percentile| Point { percentile, ns: latencies.percentile(percentile) };
    percentiles.into_iter().filter(stands).map(point).collect()
}

/// Sizes for people: of request and answer, where they differ.
fn size(bytes: usize, reply: usize) -> String {
    let human = |bytes: usize| match bytes {
        0..1024 => format!("{bytes} B"),
        1024..0x10_0000 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    };
    if bytes == reply { human(bytes) } else { format!("{}, {}", human(bytes), human(reply)) }
}

/// A load for people.
fn load(setting: &Setting) -> String {
    let Load { in_flight, every_ns, rate, .. } = setting.load;
    let mut text = match (every_ns, rate) {
        (Some(ns), _) => format!("every {}", human(ns)),
        (_, Some(rate)) => format!("{}/s", grouped(rate)),
        _ if in_flight > 1 => format!("{in_flight} in flight"),
        _ => "closed".into(),
    };
    if setting.idle_sessions > 0 {
        text += &format!(", {} idle", grouped(setting.idle_sessions as u64));
    }
    if setting.neighbour {
        text += ", neighbour";
    }
    text
}

/// A table of rows.
pub fn table(rows: &[Row]) -> String {
    let heads = [
        "WHAT", "MSGS", "CPUS", "WAITING", "BYTES", "LOAD", "P50", "P90", "P99", "P99.9", "MAX", "CALLS/S",
        "TO FLOOR", "ROUNDS",
    ];
    let mut builder = Builder::default();
    builder.push_record(heads);
    rows.iter().for_each(|row| builder.push_record(row.cells()));
    let mut table = builder.build();
    table.with(Style::empty()).with(Padding::new(0, 2, 0, 0)).modify(Columns::new(6..), Alignment::right());
    let lines: Vec<String> = table.to_string().lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::subjects::trine;
    use trine_measure::Wait;

    fn setting(placement: Placement, waiting: Wait) -> Setting {
        let load = Load { calls: 100, warm_up: 0, in_flight: 1, every_ns: None, rate: None };
        Setting { placement, waiting, bytes: 64, reply_bytes: 64, load, neighbour: false, idle_sessions: 0 }
    }

    #[test]
    fn a_row_that_polls_is_that_of_its_better_level_and_says_so() {
        let round = |ns| Measured { counts: vec![(ns, 100)], elapsed_ns: ns * 100 };
        let rounds = [round(8_000), round(4_000), round(4_200), round(8_100)];
        let row = |placement, waiting| Row::new("", &trine(), setting(placement, waiting), &[0, 1], &rounds);
        let better = row(Placement::One, Wait::Yield);
        assert_eq!((better.rounds_counted, better.calls_counted), (2, 200));
        assert!(better.latency_ns.max < 4_300 && better.rounds_p50_ns.len() == 4, "{better:?}");
        assert!((235_000..250_000).contains(&better.calls_per_second), "{better:?}");
        for all in [row(Placement::Unpinned, Wait::Yield), row(Placement::One, Wait::Park)] {
            assert_eq!((all.rounds_counted, all.calls_counted), (4, 400));
        }
    }
}
