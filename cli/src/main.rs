//! The `trine` command: a director, workers and calls from the shell, a demonstration, and a benchmark.
//!
//! ```text
//! trine director          serves a bus            director.rs
//! trine worker KIND…      built-in workers        worker.rs, sha256.rs
//! trine call SERVICE OP   one call, or many       call.rs
//! trine ls                what is attached        ls.rs
//! trine explain …         who would get a call    explain.rs
//! trine reload, drain     manage a running bus    manage.rs
//! trine demo FILE…        all of it at work       demo/
//! trine bench             how fast, against what  bench/
//! trine doctor            what this machine can   doctor.rs
//! trine man               its manual pages        man.rs
//! ```
//! One file for each subcommand. What they share: `options` (bus, pinning, waiting), `exit` (codes and messages),
//! `processes` (this program, started again).
#![deny(unsafe_code)]

mod bench;
mod call;
mod demo;
mod director;
mod doctor;
mod exit;
mod explain;
mod log;
mod ls;
mod man;
mod manage;
mod options;
mod processes;
mod sha256;
mod signals;
mod worker;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use options::BusOptions;

/// Brokered calls between processes of one Linux host, in three messages through shared memory.
#[derive(Parser)]
#[command(name = "trine", version, arg_required_else_help = true, after_help = EXAMPLES)]
struct Options {
    #[command(flatten)]
    bus: BusOptions,
    /// Log more to stderr: -v for what happens, -vv for details. TRINE_LOG=debug does the same.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Director(director::DirectorOptions),
    Worker(worker::WorkerOptions),
    Call(call::CallOptions),
    Ls(ls::LsOptions),
    Explain(explain::ExplainOptions),
    Reload(manage::ReloadOptions),
    Drain(manage::DrainOptions),
    Demo(demo::DemoOptions),
    Bench(bench::BenchOptions),
    Doctor(doctor::DoctorOptions),
    Man(man::ManOptions),
    #[command(hide = true)]
    DemoClient(demo::client::ClientOptions),
    #[command(hide = true)]
    BenchParty(bench::party::PartyCommand),
}

const EXAMPLES: &str = "\
A first call, in three terminals (or with & in one):
  trine director
  trine worker echo sha256
  trine call echo echo --data hello

Everything at once, with nothing to set up:
  trine demo /etc/passwd
  trine bench

Exit codes:
  0  all went well               6  the worker answered with an error
  1  something else went wrong   7  it may have run: the worker died, or nobody can know
  2  it was not asked rightly    8  refused: not permitted, or the bus has a director already
  3  no director                 9  busy: it did not run, try again later
  4  no such service, operation  10 too large: the message says which option to give
     or no worker for it         130 interrupted
  5  deadline passed, cancelled  141 whoever read the output stopped reading";

fn main() -> ExitCode {
    let options = Options::parse();
    log::start(options.verbose);
    match run(options) {
        Ok(code) => code,
        Err(error) => exit::report(&error),
    }
}

fn run(options: Options) -> anyhow::Result<ExitCode> {
    let bus = &options.bus;
    match options.command {
        Command::Director(o) => director::run(bus, &o)?,
        Command::Worker(o) => worker::run(bus, &o)?,
        Command::Call(o) => call::run(bus, &o)?,
        Command::Ls(o) => ls::run(bus, &o)?,
        Command::Explain(o) => return explain::run(bus, &o),
        Command::Reload(o) => manage::reload(bus, &o)?,
        Command::Drain(o) => manage::drain(bus, &o)?,
        Command::Demo(o) => return demo::run(&o),
        Command::Bench(o) => return bench::run(&o),
        Command::Doctor(o) => {
            return Ok(if doctor::run(&o)? { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Man(o) => man::run(Options::command(), &o)?,
        Command::DemoClient(o) => return demo::client::run(bus, &o),
        Command::BenchParty(o) => bench::party::run(&o)?,
    }
    Ok(ExitCode::SUCCESS)
}
