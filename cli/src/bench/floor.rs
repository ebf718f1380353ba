//! The floor: one cache line passed through three processes, and nothing else.
//!
//! ```text
//! client ── request line ──► relay ── work line ──► worker ── reply line ──► client
//! ```
//! No rings, no routing, no deadlines, no deaths: what no broker on this path can be faster than.

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};

use super::client::print_measured;
use super::lines::{CARRIED, Line, Lines};
use super::words;
use crate::latencies::Latencies;
use crate::options::{RunOptions, WaitingOption};

/// One of the three processes of the floor, which the benchmark starts.
#[derive(Args)]
pub struct RelayOptions {
    #[arg(value_enum)]
    role: Role,
    #[arg(long)]
    lines: PathBuf,
    /// For the client: how many calls.
    #[arg(long, default_value_t = 0)]
    calls: u64,
    #[command(flatten)]
    run: RunOptions,
}

#[derive(Clone, Copy, ValueEnum)]
enum Role {
    Client,
    Relay,
    Worker,
}

/// Runs it: the client makes its calls, the others go on until they are ended.
pub fn run(options: &RelayOptions) -> anyhow::Result<()> {
    options.run.apply()?;
    let lines = Lines::map(&options.lines)?;
    let wait = waiting(options.run.waiting);
    match options.role {
        Role::Client => client(&lines, options.calls, wait),
        Role::Relay => {
            ready("relay");
            pass_on(&lines, (Line::Request, Line::Work), wait, Some)
        }
        Role::Worker => {
            ready("worker");
            pass_on(&lines, (Line::Work, Line::Reply), wait, |words| words::answer(&words))
        }
    }
}

/// How a process of the floor waits. One that would sleep yields instead: a floor that sleeps needs bells, and then it
/// is none.
pub fn floor_waiting(waiting: WaitingOption) -> WaitingOption {
    match waiting {
        WaitingOption::Spin => WaitingOption::Spin,
        _ => WaitingOption::Yield,
    }
}

fn waiting(waiting: WaitingOption) -> fn() {
    match floor_waiting(waiting) {
        WaitingOption::Spin => std::hint::spin_loop,
        _ => std::thread::yield_now,
    }
}

fn ready(role: &str) {
    // Whoever doesn't read the line sees the process end.
    let _ = writeln!(std::io::stdout(), "{role}");
}

type Words = [u64; CARRIED];

fn pass_on(
    lines: &Lines,
    (from, to): (Line, Line),
    wait: fn(),
    change: impl Fn(Words) -> Option<Words>,
) -> anyhow::Result<()> {
    for stamp in 1.. {
        let words = take(lines, from, stamp, wait);
        lines.publish(to, stamp, &change(words).context("a line with wrong words")?);
    }
    Ok(())
}

fn client(lines: &Lines, calls: u64, wait: fn()) -> anyhow::Result<()> {
    let mut latencies = Latencies::default();
    let start = Instant::now();
    let mut before = start;
    for stamp in 1..=calls {
        lines.publish(Line::Request, stamp, &words::request(stamp));
        let answer = take(lines, Line::Reply, stamp, wait);
        ensure!(words::is_answer(&answer, stamp), "a wrong answer");
        let now = Instant::now();
        latencies.record((now - before).as_nanos() as u64);
        before = now;
    }
    print_measured(&latencies, start.elapsed())
}

fn take(lines: &Lines, from: Line, stamp: u64, wait: fn()) -> Words {
    loop {
        match lines.take(from, stamp) {
            Some(words) => return words,
            None => wait(),
        }
    }
}
