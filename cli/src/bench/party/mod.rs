//! The processes that the benchmark starts, and what each of them does.
//!
//! ```text
//! trine     the thing itself: client.rs calls, worker.rs answers; the director is `trine director`
//! floors    line.rs      one cache line through three processes, or two        (polling)
//!           bells.rs     the same through eventfds, and what else wakes        (sleeping)
//!           sockets.rs   the same through Unix sockets                         (both)
//!           memory.rs    one process that writes and reads the same bytes
//! forms     rings.rs     two, three and four messages over the same rings
//! rivals    sockets.rs, pipes.rs: what the system has; others are in a package of their own
//! ```
//! None of the floors knows of services, deadlines or deaths: what nobody on this path can be faster than.

mod bells;
mod idle;
mod line;
mod memory;
mod pipes;
mod rings;
mod sockets;
mod trine_parties;

pub use rings::INLINE_MAX;
pub use trine_parties::call_once;

pub use bells::{Hung, VARIABLE as BELLS};

use clap::{Args, Subcommand};
use trine_measure::{PartyOptions, payload};

use payload::Way;

/// A process of the benchmark.
#[derive(Args)]
pub struct PartyCommand {
    #[command(subcommand)]
    role: Role,
    #[command(flatten)]
    options: PartyOptions,
}

#[derive(Subcommand)]
enum Role {
    /// One line through shared memory.
    Line { role: line::Role },
    /// One process that writes and reads.
    Memory,
    /// What wakes a sleeper.
    Bells(bells::Kind),
    /// Unix sockets of sequenced packets.
    Socket { role: sockets::Role },
    /// A pair of pipes.
    Pipe { role: pipes::Role },
    /// Rings of records.
    Rings { form: rings::Form, role: rings::Role },
    /// Trine's worker.
    Worker(trine_parties::WorkerKind),
    /// Trine's client.
    Client(trine_parties::ClientKind),
    /// Connects, makes a call, and goes.
    Connect,
    /// So many sessions that do nothing.
    Idle { sessions: usize },
    /// Burns a CPU.
    Burn,
}

/// Runs it.
pub fn run(command: &PartyCommand) -> anyhow::Result<()> {
    let options = &command.options;
    options.begin()?;
    match command.role {
        Role::Line { role } => line::run(role, options),
        Role::Memory => line::alone(options),
        Role::Bells(kind) => bells::run(kind, options),
        Role::Socket { role } => sockets::run(role, options),
        Role::Pipe { role } => pipes::run(role, options),
        Role::Rings { form, role } => rings::run(form, role, options),
        Role::Worker(kind) => trine_parties::worker(kind, options),
        Role::Client(kind) => trine_parties::client(kind, options),
        Role::Connect => trine_parties::connect(options),
        Role::Idle { sessions } => idle::run(sessions, options),
        Role::Burn => {
            trine_measure::ready();
            loop {
                std::hint::spin_loop();
            }
        }
    }
}

/// The number of the call that these bytes are a request of.
fn asked(bytes: &[u8]) -> anyhow::Result<u64> {
    payload::check(bytes, Way::Request).ok_or_else(|| anyhow::anyhow!("a wrong request"))
}

/// The number of the call that these bytes are an answer to.
fn answered(bytes: &[u8]) -> anyhow::Result<u64> {
    payload::check(bytes, Way::Answer).ok_or_else(|| anyhow::anyhow!("a wrong answer"))
}
