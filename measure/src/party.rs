//! A process that takes part: what it is told, and what it tells.
//!
//! It runs where whoever started it has put it: affinity is inherited, so all its threads are there from their first
//! instruction on.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::getppid;
use serde::{Deserialize, Serialize};

use crate::load::Load;

/// What a party does while it finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wait {
    /// Looks again and again.
    Spin,
    /// Looks again and again, and yields the CPU in between.
    Yield,
    /// Yields for some microseconds, then sleeps: what a program gets that says nothing.
    Adaptive,
    /// Sleeps at once.
    Park,
}

impl Wait {
    /// Its name, as on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Wait::Spin => "spin",
            Wait::Yield => "yield",
            Wait::Adaptive => "adaptive",
            Wait::Park => "park",
        }
    }

    /// Whether it never sleeps.
    pub fn polls(self) -> bool {
        matches!(self, Wait::Spin | Wait::Yield)
    }

    /// A moment between two looks, for whoever polls.
    #[inline]
    pub fn pause(self) {
        match self {
            Wait::Spin => std::hint::spin_loop(),
            _ => std::thread::yield_now(),
        }
    }
}

/// What each party is told.
#[derive(Args, Clone, Debug)]
pub struct PartyOptions {
    /// Where the parties of this round find each other.
    #[arg(long)]
    pub folder: PathBuf,
    /// How to wait.
    #[arg(long, value_enum, default_value_t = Wait::Yield)]
    pub waiting: Wait,
    /// Bytes of a request.
    #[arg(long, default_value_t = 64)]
    pub bytes: usize,
    /// Bytes of an answer.
    #[arg(long, default_value_t = 64)]
    pub reply_bytes: usize,
    /// What the client does.
    #[command(flatten)]
    pub load: Load,
    /// Stop when this process, which started this one, ends.
    #[arg(long)]
    pub parent: Option<i32>,
}

impl PartyOptions {
    /// To be called first of all.
    pub fn begin(&self) -> anyhow::Result<()> {
        ensure!(self.bytes >= 8 && self.bytes.is_multiple_of(8), "a request has words of 8 bytes");
        ensure!(
            self.reply_bytes >= 8 && self.reply_bytes.is_multiple_of(8),
            "an answer has words of 8 bytes"
        );
        end_with(self.parent)
    }

    /// A file or socket of this round.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// Lets the kernel end this process when the one that started it ends.
pub fn end_with(parent: Option<i32>) -> anyhow::Result<()> {
    let Some(parent) = parent else { return Ok(()) };
    set_pdeathsig(Signal::SIGTERM).context("asking to be told of the parent's end")?;
    ensure!(getppid().as_raw() == parent, "the process that started this one has ended");
    Ok(())
}

/// Says that the next party may start.
pub fn ready() {
    // Whoever doesn't read the line sees the process end.
    let _ = writeln!(std::io::stdout(), "ready");
}
