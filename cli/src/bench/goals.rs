//! What Trine is meant to reach, as ratios in one run: each with its figure, and whether it is met.
//!
//! ```text
//! a few groups of rows, each in turns ──► ratios of their figures ──► a line for each goal
//! ```
//! Absolute figures drift from hour to hour; two that were taken in turns drift together.

use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use tabled::builder::Builder;
use tabled::settings::{Padding, Style};
use trine_measure::{Load, Wait};

use super::part::Chosen;
use super::placement::Placement;
use super::round::{Contender, Setting};
use super::row::Row;
use super::{Bench, cpu, subjects};

/// A goal, and what came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Goal {
    what: String,
    /// `≤ 1.15`
    goal: String,
    figure: Option<f64>,
    /// The same of the floor: what nobody can be better than on this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    floor: Option<f64>,
    met: Option<bool>,
    /// Whether the floor misses it, too: then nobody can meet it here.
    missed_by_floor: bool,
}

/// Which side of its bound a figure is to be on.
#[derive(Clone, Copy)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

use Bound::{AtLeast, AtMost};

impl Bound {
    fn told(self) -> String {
        match self {
            AtMost(bound) => format!("≤ {bound}"),
            AtLeast(bound) => format!("≥ {bound}"),
        }
    }

    fn holds(self, figure: f64) -> bool {
        match self {
            AtMost(bound) => figure <= bound,
            AtLeast(bound) => figure >= bound,
        }
    }
}

/// The goals as they are found, and the rows that they were found from.
#[derive(Default)]
pub struct Found {
    pub goals: Vec<Goal>,
    pub rows: Vec<Row>,
}

impl Found {
    fn goal(&mut self, what: impl Into<String>, bound: Bound, figure: Option<f64>) {
        self.goal_with_floor(what, bound, figure, None);
    }

    fn goal_with_floor(
        &mut self,
        what: impl Into<String>,
        bound: Bound,
        figure: Option<f64>,
        floor: Option<f64>,
    ) {
        let met = figure.map(|figure| bound.holds(figure));
        let missed_by_floor = floor.is_some_and(|floor| !bound.holds(floor));
        self.goals.push(Goal { what: what.into(), goal: bound.told(), figure, floor, met, missed_by_floor });
    }

    /// Keeps rows, and gives them for a look.
    fn keep(&mut self, rows: Vec<Row>) -> Group {
        self.rows.extend(rows.iter().cloned());
        Group(rows)
    }

    /// A line for each.
    pub fn table(&self) -> String {
        let mut builder = Builder::default();
        builder.push_record(["GOAL", "BOUND", "FIGURE", "FLOOR'S", ""]);
        for goal in &self.goals {
            let number = |figure: Option<f64>, none: &str| figure.map_or(none.into(), |f| format!("{f:.2}"));
            let (figure, floor) = (number(goal.figure, "-"), number(goal.floor, ""));
            let met = match goal.met {
                Some(true) => "met",
                Some(false) if goal.missed_by_floor => "missed; the floor misses it, too",
                Some(false) => "missed",
                None => "not measured: its rival is not there",
            };
            builder.push_record([&goal.what, &goal.goal, &figure, &floor, met]);
        }
        let mut table = builder.build();
        table.with(Style::empty()).with(Padding::new(0, 2, 0, 0));
        let lines: Vec<String> = table.to_string().lines().map(|line| line.trim_end().to_owned()).collect();
        lines.join("\n") + "\n"
    }
}

/// Rows that were measured in turns.
struct Group(Vec<Row>);

impl Group {
    fn of(&self, what: &str) -> Option<&Row> {
        self.0.iter().find(|row| row.what == what)
    }

    /// Of what `of` says about the one to what it says about the other.
    fn ratio(&self, one: &str, other: &str, of: impl Fn(&Row) -> u64) -> Option<f64> {
        let [one, other] = [one, other].map(|name| self.of(name).map(&of));
        Some(one? as f64 / other?.max(1) as f64)
    }
}

fn p50(row: &Row) -> u64 {
    row.latency_ns.p50
}

fn p99(row: &Row) -> u64 {
    row.latency_ns.p99
}

const TRINE: &str = subjects::TRINE;
const LINE: &str = "floor: line relayed";
const BELLS: &str = "floor: eventfds relayed";
const EPOLLS: &str = "eventfd, epoll, relay";
const RINGS: &str = "rings: director";
const IN_PLACE: &str = "trine, read in place";
const RR: &str = "iceoryx2 request-response, direct";
const PS: &str = "iceoryx2 publish-subscribe, direct";
const RR_RELAY: &str = "iceoryx2 request-response, relay";
const PS_RELAY: &str = "iceoryx2 publish-subscribe, relay";
const ZEROMQ: &str = "zeromq, broker";

/// Measures all of them.
pub fn run(bench: &Bench, chosen: &Chosen) -> anyhow::Result<Found> {
    let goals = Goals { bench, chosen };
    let mut found = Found::default();
    if bench.rounds.cpus.len() > 1 {
        goals.polling(&mut found, Placement::Split)?;
    }
    goals.polling(&mut found, Placement::One)?;
    goals.parked(&mut found)?;
    goals.default(&mut found)?;
    goals.throughput(&mut found)?;
    goals.large(&mut found)?;
    goals.sessions(&mut found)?;
    goals.neighbour(&mut found)?;
    goals.idle(&mut found)?;
    Ok(found)
}

struct Goals<'a> {
    bench: &'a Bench,
    chosen: &'a Chosen,
}

impl Goals<'_> {
    /// Trine, floors and those rivals, in turns.
    fn group(&self, setting: Setting, rivals: &[&str]) -> anyhow::Result<Vec<Row>> {
        let others = &self.bench.others;
        let mut all = vec![subjects::trine()];
        all.extend(subjects::floors());
        all.extend(others.rivals.iter().filter(|r| rivals.contains(&r.subject.name.as_str())).cloned());
        self.bench.group("goals", self.fitting(all, setting))
    }

    fn fitting(&self, all: Vec<Contender>, setting: Setting) -> Vec<(Contender, Setting)> {
        all.into_iter().filter(|c| c.can(&setting)).map(|c| (c, setting)).collect()
    }

    fn polling(&self, found: &mut Found, placement: Placement) -> anyhow::Result<()> {
        let setting = self.chosen.base(placement, Wait::Yield);
        let group = found.keep(self.group(setting, &[RR, PS, RR_RELAY, PS_RELAY])?);
        let on = placement.name();
        found.goal(
            format!("{on}, polling, 64 B: ÷ line relayed, p50"),
            AtMost(1.15),
            group.ratio(TRINE, LINE, p50),
        );
        found.goal(
            format!("{on}, polling, 64 B: ÷ line relayed, p99"),
            AtMost(1.5),
            group.ratio(TRINE, LINE, p99),
        );
        let direct = if placement == Placement::One { AtMost(1.0) } else { AtMost(0.85) };
        for (rival, bound) in [(RR, direct), (RR_RELAY, AtMost(0.35)), (PS_RELAY, AtMost(0.68))] {
            let [figure, floor] = [TRINE, LINE].map(|who| group.ratio(who, rival, p50));
            found.goal_with_floor(format!("{on}, polling: ÷ {rival}, p50"), bound, figure, floor);
        }
        Ok(())
    }

    fn parked(&self, found: &mut Found) -> anyhow::Result<()> {
        let setting = self.chosen.base(Placement::One, Wait::Park);
        let mut all = vec![subjects::trine()];
        all.extend(subjects::floors());
        all.extend(subjects::doorbells().into_iter().filter(|c| c.subject.name == EPOLLS));
        let group = found.keep(self.bench.group("goals", self.fitting(all, setting))?);
        // Who watches for more than one bell can't sleep in a `read` of it.
        let [figure, floor] = [TRINE, EPOLLS].map(|who| group.ratio(who, BELLS, p50));
        found.goal_with_floor("one, parked: ÷ eventfds relayed, p50", AtMost(1.25), figure, floor);
        Ok(())
    }

    /// The fastest of all that there are, whatever it is.
    fn default(&self, found: &mut Found) -> anyhow::Result<()> {
        let mut all = vec![subjects::trine()];
        let rivals = &self.bench.others.rivals;
        let missing = |c: &Contender| rivals.iter().all(|r| r.subject.name != c.subject.name);
        all.extend(subjects::system().into_iter().filter(missing));
        all.extend(rivals.iter().cloned());
        let setting = self.chosen.base(Placement::Unpinned, Wait::Adaptive);
        let group = found.keep(self.bench.group("goals", self.fitting(all, setting))?);
        for (name, of, bound) in [("p50", p50 as fn(&Row) -> u64, AtMost(0.8)), ("p99", p99, AtMost(0.1))] {
            let fastest = group.0.iter().filter(|row| row.what != TRINE).min_by_key(|row| of(row));
            let rival = fastest.map_or("fastest rival", |row| &row.what);
            let figure = group.ratio(TRINE, rival, of);
            found.goal(format!("unpinned, nothing chosen: ÷ {rival}, {name}"), bound, figure);
        }
        Ok(())
    }

    /// Each in its best placement.
    fn throughput(&self, found: &mut Found) -> anyhow::Result<()> {
        let mut rows = Vec::new();
        for &placement in &self.chosen.placements {
            for (waiting, rivals) in [(Wait::Yield, &[RR, PS][..]), (Wait::Park, &[ZEROMQ])] {
                let base = self.chosen.base(placement, waiting);
                // Long enough that a round is not over before the system has moved anybody, and warm as in the part of that name.
                let calls = self.chosen.calls * 16;
                let load = Load { in_flight: 64, calls, warm_up: 4_000, ..base.load };
                let mut all = Vec::new();
                if waiting.polls() {
                    all.push(subjects::trine());
                    all.extend(subjects::forms().into_iter().filter(|c| c.subject.name == RINGS));
                }
                let rival = |c: &&Contender| rivals.contains(&c.subject.name.as_str());
                all.extend(self.bench.others.rivals.iter().filter(rival).cloned());
                rows.extend(self.bench.group("goals", self.fitting(all, Setting { load, ..base }))?);
            }
        }
        let rows = found.keep(rows);
        let best =
            |name: &str| rows.0.iter().filter(|row| row.what == name).map(|row| row.calls_per_second).max();
        for (rival, bound) in [(ZEROMQ, 20.0), (RR, 8.0), (PS, 3.5)] {
            let ratio = |who| best(who).zip(best(rival)).map(|(own, other)| own as f64 / other.max(1) as f64);
            let what = format!("calls/s, 64 in flight, each at its best: ÷ {rival}");
            found.goal_with_floor(what, AtLeast(bound), ratio(TRINE), ratio(RINGS));
        }
        Ok(())
    }

    fn large(&self, found: &mut Found) -> anyhow::Result<()> {
        for &placement in self.chosen.placements.iter().filter(|p| **p != Placement::Unpinned) {
            let base = self.chosen.base(placement, Wait::Yield);
            let load = Load { calls: (base.load.calls / 40).max(10), warm_up: 20, ..base.load };
            let setting = Setting { bytes: 1 << 20, load, ..base };
            let all = [vec![subjects::in_place(), subjects::trine()], subjects::floors()].concat();
            let group = found.keep(self.bench.group("goals", self.fitting(all, setting))?);
            for (who, how) in [(IN_PLACE, "read in place"), (TRINE, "copied out by lines")] {
                let what =
                    format!("{}, 1 MiB, {how}: ÷ line relayed with the same MiB, p50", placement.name());
                found.goal(what, AtMost(1.05), group.ratio(who, LINE, p50));
            }
        }
        Ok(())
    }

    /// The same beside something and alone, in turns: of the former to the latter.
    fn beside(&self, found: &mut Found, alone: Setting, beside: Setting) -> anyhow::Result<Option<f64>> {
        let tasks = [beside, alone].map(|setting| (subjects::trine(), setting)).to_vec();
        let rows = found.keep(self.bench.group("goals", tasks)?);
        let [beside, alone] = [rows.0.first(), rows.0.get(1)];
        Ok(beside.zip(alone).map(|(beside, alone)| p50(beside) as f64 / p50(alone).max(1) as f64))
    }

    fn sessions(&self, found: &mut Found) -> anyhow::Result<()> {
        let placement = if self.bench.rounds.cpus.len() > 1 { Placement::Split } else { Placement::One };
        let alone = self.chosen.base(placement, Wait::Yield);
        let figure =
            self.beside(found, alone, Setting { idle_sessions: self.chosen.idle_sessions, ..alone })?;
        let what =
            format!("{}, {} idle sessions beside: ÷ alone, p50", placement.name(), self.chosen.idle_sessions);
        found.goal(what, AtMost(1.1), figure);
        Ok(())
    }

    fn neighbour(&self, found: &mut Found) -> anyhow::Result<()> {
        let alone = self.chosen.base(Placement::One, Wait::Adaptive);
        let alone = Setting { load: Load { calls: (alone.load.calls / 20).max(10), ..alone.load }, ..alone };
        let figure = self.beside(found, alone, Setting { neighbour: true, ..alone })?;
        found.goal("one, adaptive, beside a program that burns the CPU: ÷ without, p50", AtMost(3.0), figure);
        Ok(())
    }

    fn idle(&self, found: &mut Found) -> anyhow::Result<()> {
        let idle = cpu::of_an_idle_bus(Duration::from_secs(4)).context("an idle bus")?;
        found.goal(
            "an idle bus: CPU, ms per second, all three parties",
            AtMost(0.5),
            Some(idle.cpu_ms_per_second),
        );
        found.goal(
            "an idle bus: times woken per second, each party at most",
            AtMost(1.0),
            Some(idle.wakes_per_second),
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_met_missed_or_not_measured() {
        let mut found = Found::default();
        found.goal("a", AtMost(1.15), Some(1.15));
        found.goal("b", AtMost(1.15), Some(1.16));
        found.goal("c", AtLeast(8.0), Some(8.1));
        found.goal("d", AtLeast(8.0), None);
        let met: Vec<_> = found.goals.iter().map(|goal| goal.met).collect();
        assert_eq!(met, [Some(true), Some(false), Some(true), None]);
        assert!(found.table().contains("missed") && found.table().contains("not measured"));
    }
}
