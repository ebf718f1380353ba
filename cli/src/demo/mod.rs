//! `trine demo`: everything at work, on a bus of its own.
//!
//! ```text
//! trine demo ──┬── trine director
//!              ├── trine worker sha256
//!              ├── trine worker sha256
//!              └── trine demo-client FILE…     client.rs; pieces.rs takes a file apart
//! ```
//! The client reads each piece of a file straight into the memory in which a worker hashes it; what travels is a
//! descriptor of 128 bytes, three times.

pub mod client;
mod hops;
mod lines;
mod pieces;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bytesize::ByteSize;
use clap::Args;

use crate::exit::{OTHER, Usage};
use crate::processes::{Background, Foreground, PrivateBus, this_program};

/// Hash files by two workers, and tell how long each hop of a call took.
///
/// Starts a director, workers and a client as processes of their own on a private bus, hashes the files (any number
/// and size: large ones in pieces, of which any worker can take the next), and prints lines for sha256sum -c. Then it
/// makes small calls, one at a time, and tells on stderr how long the three hops took. Nothing is left behind.
#[derive(Args)]
#[command(after_help = "\
Examples:
  trine demo README.md Cargo.lock
  trine demo *.iso | sha256sum -c
  trine demo --workers 4 large.bin

Exit codes: 0 all files were hashed, 1 some were not, 2 no file was named.")]
pub struct DemoOptions {
    /// The files; - for stdin.
    files: Vec<PathBuf>,
    /// Workers, a process each.
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: u16,
    /// Bytes of a piece, a multiple of 64.
    #[arg(long, default_value = "1MiB", value_name = "BYTES", value_parser = piece)]
    piece: ByteSize,
    /// Small calls to make afterwards.
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    calls: u64,
}

const NO_FILES: &str = "\
demo: name some files, and they will be hashed by two workers on a private bus:
  trine demo README.md Cargo.lock
  trine demo *.iso | sha256sum -c";

/// Runs it.
pub fn run(options: &DemoOptions) -> anyhow::Result<ExitCode> {
    if options.files.is_empty() {
        return Err(Usage(NO_FILES.into()).into());
    }
    let foreground = Foreground::new()?;
    let scene = Scene::start(options.workers)?;
    let mut client = this_program(["demo-client"]);
    client.arg("--path").arg(scene.bus.path()).args(["--piece", &options.piece.as_u64().to_string()]);
    client.args(["--calls", &options.calls.to_string(), "--"]).args(&options.files);
    let status = foreground.run(client)?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(OTHER, |code| code).into())
}

/// The processes that the client needs, in the order in which they stop.
struct Scene {
    _workers: Vec<Background>,
    _director: Background,
    bus: PrivateBus,
}

impl Scene {
    fn start(workers: u16) -> anyhow::Result<Scene> {
        let bus = PrivateBus::new()?;
        let on_bus = |command: &[&str], path: &Path| {
            let mut command = this_program(command);
            command.arg("--path").arg(path);
            command
        };
        let director = Background::start("director", on_bus(&["director"], bus.path()))?;
        let worker = |_| Background::start("worker", on_bus(&["worker", "sha256"], bus.path()));
        let workers = (0..workers).map(worker).collect::<anyhow::Result<_>>()?;
        Ok(Scene { _workers: workers, _director: director, bus })
    }
}

fn piece(text: &str) -> Result<ByteSize, String> {
    let bytes: ByteSize = text.parse()?;
    match bytes.as_u64() {
        64..=0x100_0000 if bytes.as_u64().is_multiple_of(64) => Ok(bytes),
        _ => Err("a multiple of 64 from 64 to 16MiB is wanted".into()),
    }
}
