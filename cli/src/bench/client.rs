//! The benchmark's client: calls in a closed loop, or so many in flight.

use std::collections::VecDeque;
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};
use trine::{Client, Pending, Route, Until};

use super::words::{self, OPERATION, SERVICE, WORDS};
use crate::latencies::Latencies;
use crate::options::{BusOptions, RunOptions};

/// The benchmark's client, which the benchmark starts.
#[derive(Args)]
pub struct ClientOptions {
    #[arg(long)]
    calls: u64,
    #[arg(long)]
    in_flight: usize,
    #[command(flatten)]
    run: RunOptions,
}

/// Calls before those that count: caches, page tables and the adaptive waits settle.
const WARM_UP: u64 = 1_000;

/// What a client tells the benchmark, on stdout.
#[derive(Serialize, Deserialize)]
pub struct Measured {
    pub counts: Vec<(u64, u64)>,
    pub elapsed_ns: u64,
}

/// Prints what was measured.
pub fn print_measured(latencies: &Latencies, elapsed: Duration) -> anyhow::Result<()> {
    let measured = Measured { counts: latencies.counts(), elapsed_ns: elapsed.as_nanos() as u64 };
    Ok(writeln!(std::io::stdout(), "{}", serde_json::to_string(&measured)?)?)
}

/// Runs it.
pub fn run(bus: &BusOptions, options: &ClientOptions) -> anyhow::Result<()> {
    options.run.apply()?;
    let slots = (options.in_flight as u32).next_power_of_two().max(64);
    let chosen = trine::ClientOptions::default().waiting(options.run.waiting.waiting()).slots(slots);
    let client = bus.bus()?.client(chosen)?;
    let route = client.route(SERVICE, OPERATION)?;
    measure(&client, route, options.in_flight, WARM_UP)?;
    let start = Instant::now();
    let latencies = measure(&client, route, options.in_flight, options.calls)?;
    print_measured(&latencies, start.elapsed())
}

fn measure(client: &Client, route: Route, in_flight: usize, calls: u64) -> anyhow::Result<Latencies> {
    if in_flight == 1 {
        one_at_a_time(client, route, calls)
    } else {
        several(client, route, in_flight, calls)
    }
}

fn one_at_a_time(client: &Client, route: Route, calls: u64) -> anyhow::Result<Latencies> {
    let mut latencies = Latencies::default();
    let mut before = Instant::now();
    for number in 0..calls {
        let answer: [u64; WORDS] = client.call_as(route, &words::request::<WORDS>(number))?;
        ensure!(words::is_answer(&answer, number), "a wrong answer");
        let now = Instant::now();
        latencies.record((now - before).as_nanos() as u64);
        before = now;
    }
    Ok(latencies)
}

/// A new call for each that has ended, the oldest first.
fn several(client: &Client, route: Route, in_flight: usize, calls: u64) -> anyhow::Result<Latencies> {
    let mut latencies = Latencies::default();
    let mut open: VecDeque<(u64, Instant, Pending)> = VecDeque::with_capacity(in_flight);
    let mut next = 0;
    loop {
        while next < calls && open.len() < in_flight {
            let mut bytes = [0; WORDS * 8];
            for (to, word) in bytes.chunks_exact_mut(8).zip(words::request::<WORDS>(next)) {
                to.copy_from_slice(&word.to_ne_bytes());
            }
            let start = Instant::now();
            open.push_back((next, start, client.request(route).submit(&bytes, Until::Forever)?));
            next += 1;
        }
        let Some((number, start, pending)) = open.pop_front() else { return Ok(latencies) };
        let reply = pending.wait()?;
        let answer: [u64; WORDS] = reply.bytes().get().context("an answer of another size")?;
        ensure!(words::is_answer(&answer, number), "a wrong answer");
        latencies.record(start.elapsed().as_nanos() as u64);
    }
}
