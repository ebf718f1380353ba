//! `trine bench`: how long a call takes, and how long the least takes that a call could be.
//!
//! ```text
//! for each placement, several rounds of:
//!     call    client, director, worker     client.rs    64 bytes, checked at both ends
//!     floor   client, relay, worker        floor.rs     one cache line through three processes
//! ```
//! A round starts its own processes, and call and floor take turns, so that what drifts (clocks, neighbours, memory)
//! hits both. Every row names its placement and how its processes wait.

pub mod client;
pub mod floor;
mod lines;
mod placement;
pub mod words;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use crate::exit::Usage;
use crate::latencies::{Latencies, Summary, grouped, human};
use crate::options::WaitingOption;
use crate::processes::{Background, Foreground, PrivateBus, this_program};
use client::Measured;
use lines::LinesFile;
use placement::{Placement, available};

/// Measure calls of 64 bytes between processes, and beside them the bare relay of a cache line as the floor.
///
/// Starts director, worker and client as processes of their own on a private bus, once a round. In the same rounds
/// one cache line is passed through three processes with the same placement and waiting: the least that a call
/// through a broker could cost.
#[derive(Args)]
#[command(after_help = "\
Examples:
  trine bench
  trine bench --placement split --calls 1000000
  trine bench --waiting adaptive --json bench.json

Where processes would sleep (adaptive, park) the floor yields: a bare relay has nothing to wake anybody with.")]
pub struct BenchOptions {
    /// Where the processes run [default: all that make sense here].
    #[arg(long, value_enum, value_delimiter = ',')]
    placement: Vec<Placement>,
    /// What the processes do while there is nothing to do.
    #[arg(long, value_enum, default_value_t = WaitingOption::Yield)]
    waiting: WaitingOption,
    /// Calls a round.
    #[arg(long, default_value_t = 50_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    calls: u64,
    /// Rounds of each.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Also measure throughput with so many calls in flight.
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1,8,64",
          value_parser = clap::value_parser!(u32).range(1..=4096))]
    in_flight: Vec<u32>,
    /// Write all figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// One line of the result.
#[derive(Serialize)]
struct Row {
    what: &'static str,
    placement: &'static str,
    waiting: &'static str,
    in_flight: u32,
    calls: u64,
    calls_per_second: u64,
    latency_ns: Summary,
    /// Of a call's p50 to the floor's.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio_p50: Option<f64>,
}

/// Everything, as it is written to a file.
#[derive(Serialize)]
struct Report<'a> {
    version: &'static str,
    cpus: usize,
    payload_bytes: usize,
    rounds: u32,
    rows: &'a [Row],
}

/// Runs it.
pub fn run(options: &BenchOptions) -> anyhow::Result<ExitCode> {
    let cpus = available();
    let placements = placements(options, cpus.len())?;
    let bench = Bench { options, cpus: &cpus, foreground: Foreground::new()? };
    let mut rows = Vec::new();
    print(&heads())?;
    for &placement in &placements {
        let [call, floor] = bench.latency(placement)?;
        print(&call.line())?;
        print(&floor.line())?;
        rows.extend([call, floor]);
    }
    for (&placement, &in_flight) in
        placements.iter().flat_map(|p| options.in_flight.iter().map(move |n| (p, n)))
    {
        let row = bench.throughput(placement, in_flight)?;
        print(&row.line())?;
        rows.push(row);
    }
    if let Some(path) = &options.json {
        let (version, rounds) = (env!("CARGO_PKG_VERSION"), options.rounds);
        let report =
            Report { version, cpus: cpus.len(), payload_bytes: words::WORDS * 8, rounds, rows: &rows };
        let text = serde_json::to_string_pretty(&report)? + "\n";
        std::fs::write(path, text).with_context(|| path.display().to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print(line: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}

fn placements(options: &BenchOptions, cpus: usize) -> anyhow::Result<Vec<Placement>> {
    if options.placement.is_empty() {
        let sensible = Placement::sensible(cpus, options.waiting == WaitingOption::Spin);
        if sensible.is_empty() {
            let why = format!(
                "spinning wants a CPU for each of 3 processes, and there are {cpus}; --placement insists"
            );
            return Err(Usage(why).into());
        }
        return Ok(sensible);
    }
    if let Some(large) = options.placement.iter().find(|p| p.cpus() > cpus) {
        let why = format!("--placement {} takes {} CPUs, and there are {cpus}", large.name(), large.cpus());
        return Err(Usage(why).into());
    }
    Ok(options.placement.clone())
}

struct Bench<'a> {
    options: &'a BenchOptions,
    cpus: &'a [usize],
    foreground: Foreground,
}

/// What all rounds of one thing gave.
#[derive(Default)]
struct Sum {
    latencies: Latencies,
    elapsed_ns: u64,
}

impl Sum {
    fn add(&mut self, measured: Measured) {
        self.elapsed_ns += measured.elapsed_ns;
        measured.counts.into_iter().for_each(|(ns, count)| self.latencies.record_many(ns, count));
    }
}

impl Bench<'_> {
    /// Calls and the floor, in turns.
    fn latency(&self, placement: Placement) -> anyhow::Result<[Row; 2]> {
        let (mut call, mut floor) = (Sum::default(), Sum::default());
        for _ in 0..self.options.rounds {
            call.add(self.call_round(placement, 1)?);
            floor.add(self.floor_round(placement)?);
        }
        let call = row("call", placement, self.options.waiting, 1, &call);
        let floor = row("floor", placement, floor::floor_waiting(self.options.waiting), 1, &floor);
        let ratio = call.latency_ns.p50 as f64 / floor.latency_ns.p50.max(1) as f64;
        Ok([Row { ratio_p50: Some(ratio), ..call }, floor])
    }

    fn throughput(&self, placement: Placement, in_flight: u32) -> anyhow::Result<Row> {
        let mut sum = Sum::default();
        for _ in 0..self.options.rounds {
            sum.add(self.call_round(placement, in_flight)?);
        }
        Ok(row("throughput", placement, self.options.waiting, in_flight, &sum))
    }

    fn call_round(&self, placement: Placement, in_flight: u32) -> anyhow::Result<Measured> {
        let [client_cpu, director_cpu, worker_cpu] = placement.of(self.cpus);
        let bus = PrivateBus::new()?;
        let on_bus = |name: &[&str], cpu| {
            let mut command = self.process(name, cpu);
            command.arg("--path").arg(bus.path());
            command
        };
        let director = Background::start("director", on_bus(&["director"], director_cpu))?;
        let worker = Background::start("worker", on_bus(&["worker", words::SERVICE], worker_cpu))?;
        let mut client = on_bus(&["bench-client"], client_cpu);
        client.args(["--calls", &self.options.calls.to_string(), "--in-flight", &in_flight.to_string()]);
        let measured = self.measured(client);
        // The worker leaves before its director does.
        drop((worker, director));
        measured
    }

    fn floor_round(&self, placement: Placement) -> anyhow::Result<Measured> {
        let [client_cpu, relay_cpu, worker_cpu] = placement.of(self.cpus);
        let file = LinesFile::new()?;
        let on_lines = |role, cpu| {
            let mut command = self.process(&["bench-relay", role], cpu);
            command.arg("--lines").arg(file.path());
            command
        };
        let _relay = Background::start("relay", on_lines("relay", relay_cpu))?;
        let _worker = Background::start("worker", on_lines("worker", worker_cpu))?;
        let mut client = on_lines("client", client_cpu);
        client.args(["--calls", &self.options.calls.to_string()]);
        self.measured(client)
    }

    /// A process that waits as was asked for, where it is to run.
    fn process(&self, name: &[&str], cpu: Option<usize>) -> Command {
        let mut command = this_program(name);
        command.args(["--waiting", self.options.waiting.name()]);
        if let Some(cpu) = cpu {
            command.args(["--pin", &cpu.to_string()]);
        }
        command
    }

    fn measured(&self, client: Command) -> anyhow::Result<Measured> {
        let output = self.foreground.output(client)?;
        serde_json::from_slice(&output).context("the client's figures can't be read")
    }
}

fn row(what: &'static str, placement: Placement, waiting: WaitingOption, in_flight: u32, sum: &Sum) -> Row {
    let calls = sum.latencies.count();
    Row {
        what,
        placement: placement.name(),
        waiting: waiting.name(),
        in_flight,
        calls,
        calls_per_second: (calls as f64 / (sum.elapsed_ns.max(1) as f64 / 1e9)) as u64,
        latency_ns: sum.latencies.summary(),
        ratio_p50: None,
    }
}

fn heads() -> String {
    format!(
        "{:<10} {:<9} {:<8} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>12}  {}",
        "",
        "PLACEMENT",
        "WAITING",
        "IN FLIGHT",
        "P50",
        "P90",
        "P99",
        "P99.9",
        "MAX",
        "CALLS/S",
        "P50 TO FLOOR"
    )
}

impl Row {
    fn line(&self) -> String {
        let s = &self.latency_ns;
        let [p50, p90, p99, p99_9, max] = [s.p50, s.p90, s.p99, s.p99_9, s.max].map(human);
        let mut line = format!(
            "{:<10} {:<9} {:<8} {:>9} {p50:>9} {p90:>9} {p99:>9} {p99_9:>9} {max:>9} {:>12}",
            self.what,
            self.placement,
            self.waiting,
            self.in_flight,
            grouped(self.calls_per_second),
        );
        if let Some(ratio) = self.ratio_p50 {
            // Writing to a string does not fail.
            let _ = write!(line, "  {ratio:.2}");
        }
        line
    }
}
