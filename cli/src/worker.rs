//! `trine worker`: built-in workers, to try things with and to measure with.

use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use trine::{Bus, Request, Served, Stopper, Worker};

use crate::doctor::Role;
use crate::options::{BusOptions, RunOptions};
use crate::sha256;
use crate::signals::Caught;

/// Serve built-in services until SIGTERM or SIGINT.
///
/// Prints a line for each worker when it is attached. On SIGTERM or SIGINT it finishes what it has begun; what it
/// had not begun goes to other workers.
#[derive(Args)]
#[command(after_help = "\
Services and their operations:
  echo    echo                    answers with what it was sent
  sha256  hash                    answers with the hash, in hexadecimal digits
          piece                   hash in pieces: the state travels with them (see trine demo)
  sleep   sleep                   waits for as long as the request says, for instance 10ms or 1m 30s

Examples:
  trine worker echo
  trine worker sha256 --threads 4
  trine worker echo sha256 sleep --bus work")]
pub struct WorkerOptions {
    /// What to serve; several are served by a worker each.
    #[arg(required = true, value_enum, value_name = "SERVICE")]
    services: Vec<Service>,
    /// Workers of each service, in a thread each.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,
    #[command(flatten)]
    run: RunOptions,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Service {
    Echo,
    Sha256,
    Sleep,
}

impl Service {
    fn name(self) -> &'static str {
        match self {
            Service::Echo => "echo",
            Service::Sha256 => sha256::SERVICE,
            Service::Sleep => "sleep",
        }
    }

    fn operations(self) -> &'static [&'static str] {
        match self {
            Service::Echo => &["echo"],
            Service::Sha256 => &sha256::OPERATIONS,
            Service::Sleep => &["sleep"],
        }
    }
}

/// Runs them.
pub fn run(bus: &BusOptions, options: &WorkerOptions) -> anyhow::Result<()> {
    options.run.apply(Role::Worker)?;
    let bus = bus.bus()?;
    let stopping = Arc::new(Stopping::default());
    let at_signal = stopping.clone();
    Caught::new()?.then(move || at_signal.stop())?;
    let mut serving = Vec::new();
    for &service in &options.services {
        for _ in 0..options.threads {
            match start(&bus, service, options, &stopping) {
                Ok(thread) => serving.push(thread),
                Err(error) => {
                    stopping.stop();
                    finish(serving)?;
                    return Err(error);
                }
            }
        }
    }
    finish(serving)
}

/// Attaches one worker, and starts its thread.
fn start(
    bus: &Bus,
    service: Service,
    options: &WorkerOptions,
    stopping: &Arc<Stopping>,
) -> anyhow::Result<JoinHandle<Result<(), trine::Error>>> {
    let worker = bus.worker(trine::WorkerOptions::default().waiting(options.run.waiting()))?;
    worker.provide(service.name(), service.operations())?;
    stopping.add(worker.stopper());
    let (id, operations) = (worker.id(), service.operations().join(", "));
    // Whoever doesn't read the line wants a worker all the same.
    let _ = writeln!(std::io::stdout(), "worker {id} provides {}: {operations}", service.name());
    let stopping = stopping.clone();
    let serve = move || serve(&worker, service, &stopping);
    std::thread::Builder::new().name(service.name().into()).spawn(serve).context("starting a thread")
}

fn finish(serving: Vec<JoinHandle<Result<(), trine::Error>>>) -> anyhow::Result<()> {
    for thread in serving {
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    }
    Ok(())
}

fn serve(worker: &Worker, service: Service, stopping: &Stopping) -> Result<(), trine::Error> {
    match service {
        Service::Echo => worker.serve(echo),
        Service::Sha256 => worker.serve(sha256::serve),
        Service::Sleep => worker.serve(|request| sleep(request, stopping)),
    }
}

/// Answers with what it was sent: read where the client built it, written where the client reads it.
fn echo(request: Request<'_>) -> Served {
    let len = request.bytes().len();
    request.reply_with(len, |bytes, reply| {
        let (mut at, mut scratch) = (0, [0; 4096]);
        bytes.for_each_chunk(&mut scratch, |chunk| {
            reply.write_at(at, chunk);
            at += chunk.len();
        });
    })
}

/// Waits for as long as the request says, or until this process is to stop.
fn sleep(request: Request<'_>, stopping: &Stopping) -> Served {
    let text = String::from_utf8_lossy(&request.bytes().to_vec()).into_owned();
    tracing::info!(text, "asked to sleep");
    match humantime::parse_duration(text.trim()) {
        Ok(time) if stopping.wait(time) => request.fail(2, "the worker was asked to stop"),
        Ok(time) => request.reply(format!("slept {}", humantime::format_duration(time)).as_bytes()),
        Err(_) => request.fail(1, "send a duration, for instance 10ms"),
    }
}

/// Whether this process is to stop, and whom to tell.
#[derive(Default)]
struct Stopping {
    state: Mutex<(bool, Vec<Stopper>)>,
    changed: Condvar,
}

impl Stopping {
    fn add(&self, stopper: Stopper) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.0 {
            stopper.stop();
        }
        state.1.push(stopper);
    }

    fn stop(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 = true;
        state.1.iter().for_each(Stopper::stop);
        self.changed.notify_all();
    }

    /// Waits so long. Returns whether it was asked to stop.
    fn wait(&self, time: Duration) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(state, time, |state| !state.0);
        waited.unwrap_or_else(PoisonError::into_inner).0.0
    }
}
