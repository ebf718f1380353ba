//! Other ways to make a call between processes, as parties of `trine bench --rivals`.
//!
//! ```text
//! iceoryx.rs   iceoryx2: request-response and publish-subscribe, direct and relayed
//! zeromq.rs    ZeroMQ over ipc: DEALER, a proxy of ROUTER and DEALER, REP
//! bus.rs       a D-Bus daemon
//! grpc.rs      gRPC (tonic) over a Unix socket
//! ```
//! Each is configured as its own documentation advises for latency. All of them send the payloads, make the loads and
//! keep the histograms of `trine-measure`: what differs is what carries the messages.

mod bus;
mod grpc;
mod iceoryx;
mod zeromq;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use clap::{Parser, Subcommand};
use trine_measure::payload::{self, Way};
use trine_measure::{PartyOptions, Subject};

#[derive(Parser)]
#[command(about = "A party of trine bench: see README.md")]
struct Command {
    #[command(flatten)]
    options: PartyOptions,
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// iceoryx2.
    Iceoryx { pattern: iceoryx::Pattern, role: iceoryx::Role },
    /// ZeroMQ.
    Zeromq { role: zeromq::Role },
    /// D-Bus.
    Dbus { role: bus::Role },
    /// gRPC.
    Grpc { role: grpc::Role },
}

fn main() -> anyhow::Result<()> {
    // Not a party: it is told nothing.
    if std::env::args().nth(1).as_deref() == Some("list") {
        return list();
    }
    let command = Command::parse();
    let options = &command.options;
    options.begin()?;
    match command.role {
        Role::Iceoryx { pattern, role } => iceoryx::run(pattern, role, options),
        Role::Zeromq { role } => zeromq::run(role, options),
        Role::Dbus { role } => bus::run(role, options),
        Role::Grpc { role } => grpc::run(role, options),
    }
}

/// Prints what can be measured, as JSON.
fn list() -> anyhow::Result<()> {
    let subjects: Vec<Subject> =
        [iceoryx::subjects(), zeromq::subjects(), bus::subjects(), grpc::subjects()].concat();
    println!("{}", serde_json::to_string_pretty(&subjects)?);
    Ok(())
}

/// The number of the call that these bytes are a request of.
fn asked(bytes: &[u8]) -> anyhow::Result<u64> {
    payload::check(bytes, Way::Request).context("a wrong request")
}

/// The number of the call that these bytes are an answer to.
fn answered(bytes: &[u8]) -> anyhow::Result<u64> {
    payload::check(bytes, Way::Answer).context("a wrong answer")
}

/// Whether this process was asked to end: for what has something to clean up.
fn ending() -> anyhow::Result<Arc<AtomicBool>> {
    let asked = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGTERM, asked.clone()).context("catching a signal")?;
    Ok(asked)
}
