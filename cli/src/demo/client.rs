//! The demo's client: hashes the files, then makes small calls, and tells how long it all took.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytesize::ByteSize;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest as _, Sha256};
use trine::{Client, Route, Until};

use super::hops::HopTimes;
use super::lines::line;
use super::pieces::{Answered, Pieces, monotonic_ns};
use crate::doctor::Role;
use crate::exit::{OTHER, say, text};
use crate::options::{BusOptions, RunOptions};
use crate::sha256::{Digest, OPERATIONS, SERVICE, hex};
use trine_measure::latencies::grouped;

/// Files that are hashed at a time.
const FILES_AT_A_TIME: usize = 8;
/// Fewer calls have no percentiles.
const CALLS_THAT_COUNT: u64 = 100;
/// Work that takes longer gets a progress bar.
const LONG: Duration = Duration::from_millis(500);

/// The demo's client, which the demo starts.
#[derive(Args)]
pub struct ClientOptions {
    files: Vec<PathBuf>,
    #[arg(long)]
    piece: u64,
    #[arg(long)]
    calls: u64,
    #[command(flatten)]
    run: RunOptions,
}

/// Runs it.
pub fn run(bus: &BusOptions, options: &ClientOptions) -> anyhow::Result<ExitCode> {
    options.run.apply(Role::Client)?;
    // Of each file a worker has a piece, and another is being read; and the allocator rounds up.
    let arena = FILES_AT_A_TIME as u64 * 2 * (2 * options.piece + 4096);
    let chosen = trine::ClientOptions::default().waiting(options.run.waiting());
    let client = bus.bus()?.client(chosen.arenas(arena, trine::ClientOptions::default().reply_arena))?;
    let [hash, piece] = OPERATIONS;
    let (hash, piece) = (client.route(SERVICE, hash)?, client.route(SERVICE, piece)?);

    let mut hashing = Hashing::new(&options.files, options.piece as usize);
    hashing.run(&client, piece)?;
    hashing.tell();
    if options.calls > 0 {
        small_calls(&client, hash, options.calls)?;
    }
    Ok(if hashing.all_well { ExitCode::SUCCESS } else { OTHER.into() })
}

/// The files under way, and what became of those before.
struct Hashing<'f> {
    files: &'f [PathBuf],
    piece: usize,
    ends: Ends<'f>,
    all_well: bool,
    pieces: u64,
    bytes: u64,
    hops: HopTimes,
    start: Instant,
    took: Duration,
    bar: Bar,
}

impl<'f> Hashing<'f> {
    fn new(files: &'f [PathBuf], piece: usize) -> Self {
        Hashing {
            files,
            piece,
            ends: Ends::new(files),
            all_well: true,
            pieces: 0,
            bytes: 0,
            hops: HopTimes::default(),
            start: Instant::now(),
            took: Duration::ZERO,
            bar: Bar::default(),
        }
    }

    /// Hashes all of them, some at a time.
    fn run(&mut self, client: &Client, route: Route) -> anyhow::Result<()> {
        let mut left: VecDeque<usize> = (0..self.files.len()).collect();
        let mut open: Vec<(usize, Pieces)> = Vec::new();
        loop {
            while open.len() < FILES_AT_A_TIME
                && let Some(number) = left.pop_front()
            {
                match Pieces::open(client, route, &self.files[number], self.piece) {
                    Ok(pieces) => open.push((number, pieces)),
                    Err(error) => self.end(number, Err(error.into()))?,
                }
            }
            let mut failed = Vec::new();
            open.retain_mut(|(number, pieces)| match pieces.advance() {
                Ok(()) => true,
                Err(error) => {
                    failed.push((*number, error));
                    false
                }
            });
            for (number, error) in failed {
                self.end(number, Err(error))?;
            }
            if open.is_empty() && left.is_empty() {
                self.took = self.start.elapsed();
                self.bar.finish();
                return Ok(());
            }
            if !open.is_empty() {
                self.take_one(client, &mut open)?;
            }
        }
    }

    /// Waits for any piece, and takes its answer.
    fn take_one(&mut self, client: &Client, open: &mut Vec<(usize, Pieces)>) -> anyhow::Result<()> {
        let ticket = client.wait_any(Until::Forever)?.context("no call is open")?;
        let at = open.iter().position(|(_, pieces)| pieces.has(ticket)).context("a call that nobody made")?;
        let digest = match open[at].1.take_answer() {
            Ok(answered) => match self.count(answered) {
                Some(digest) => Ok(digest),
                None => return Ok(()),
            },
            Err(error) => Err(error),
        };
        let (number, _) = open.swap_remove(at);
        self.end(number, digest)
    }

    fn count(&mut self, answered: Answered) -> Option<Digest> {
        let Answered { bytes, published_ns, hops, digest } = answered;
        self.pieces += 1;
        self.bytes += bytes as u64;
        if let Some(hops) = hops {
            self.hops.record(published_ns, hops);
        }
        self.bar.show(self.start, self.bytes, self.files);
        digest
    }

    fn end(&mut self, number: usize, end: anyhow::Result<Digest>) -> anyhow::Result<()> {
        self.all_well &= end.is_ok();
        let ends = &mut self.ends;
        self.bar.beside(|| ends.add(number, end))
    }

    /// Tells on stderr how it went.
    fn tell(&self) {
        let seconds = self.took.as_secs_f64().max(1e-9);
        say(&format!(
            "\n{} in {} of files, {:.2} s: {}/s, {} calls/s",
            ByteSize(self.bytes).display().iec(),
            plural(self.pieces, "piece"),
            seconds,
            ByteSize((self.bytes as f64 / seconds) as u64).display().iec(),
            grouped((self.pieces as f64 / seconds) as u64),
        ));
        if self.hops.count() >= CALLS_THAT_COUNT {
            say(&self.hops.table("hops of these calls"));
        }
    }
}

fn plural(count: u64, what: &str) -> String {
    format!("{} {what}{}", grouped(count), if count == 1 { "" } else { "s" })
}

/// What became of the files, told in the order in which they were named.
struct Ends<'f> {
    files: &'f [PathBuf],
    waiting: Vec<Option<anyhow::Result<Digest>>>,
    told: usize,
}

impl<'f> Ends<'f> {
    fn new(files: &'f [PathBuf]) -> Self {
        Ends { files, waiting: files.iter().map(|_| None).collect(), told: 0 }
    }

    fn add(&mut self, number: usize, end: anyhow::Result<Digest>) -> anyhow::Result<()> {
        self.waiting[number] = Some(end);
        while let Some(end) = self.waiting.get_mut(self.told).and_then(Option::take) {
            let path = &self.files[self.told];
            self.told += 1;
            match end {
                Ok(digest) => io::stdout().write_all(&line(&digest, path))?,
                Err(error) => say(&format!("trine demo: {}: {}", shown(path), text(&error))),
            }
        }
        Ok(())
    }
}

/// A name that may be anything, in one line.
fn shown(path: &Path) -> String {
    path.to_string_lossy().escape_debug().collect()
}

/// A progress bar: for long work, on a terminal.
#[derive(Default)]
struct Bar(Option<ProgressBar>);

impl Bar {
    fn show(&mut self, start: Instant, bytes: u64, files: &[PathBuf]) {
        if self.0.is_none() && start.elapsed() > LONG && io::stderr().is_terminal() {
            let total = files.iter().filter_map(|path| path.metadata().ok()).map(|about| about.len()).sum();
            let style = ProgressStyle::with_template("{wide_bar} {bytes} of {total_bytes}, {eta} left");
            // The template is right: it is a constant.
            self.0 = Some(ProgressBar::new(total).with_style(style.expect("the template is right")));
        }
        if let Some(bar) = &self.0 {
            bar.set_position(bytes);
        }
    }

    /// Writes something while it is not there.
    fn beside<T>(&self, write: impl FnOnce() -> T) -> T {
        match &self.0 {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    fn finish(&mut self) {
        if let Some(bar) = self.0.take() {
            bar.finish_and_clear();
        }
    }
}

/// Small calls, one at a time, each answer checked: what a call costs that carries next to nothing.
fn small_calls(client: &Client, route: Route, calls: u64) -> anyhow::Result<()> {
    let mut hops = HopTimes::default();
    let start = Instant::now();
    for number in 0..calls {
        let bytes = number.to_le_bytes();
        let published_ns = monotonic_ns();
        let reply = client.request(route).traced().submit(&bytes, Until::Forever)?.wait()?;
        ensure!(reply.bytes().to_vec() == hex(&Sha256::digest(bytes)).as_bytes(), "a wrong hash");
        if let Some(passed) = reply.hops() {
            hops.record(published_ns, passed);
        }
    }
    let rate = (calls as f64 / start.elapsed().as_secs_f64()) as u64;
    say(&format!("\n{} of 8 bytes, one at a time: {} calls/s", plural(calls, "small call"), grouped(rate)));
    say(&hops.table("hops of these calls"));
    Ok(())
}
