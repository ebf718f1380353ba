//! Options that several subcommands have: which bus, which CPU, how to wait.

use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};
use trine::{Bus, Waiting};

/// Which bus.
#[derive(Args, Clone, Debug)]
pub struct BusOptions {
    /// The bus, by name: a folder of that name in TRINE_RUNTIME_DIR, XDG_RUNTIME_DIR/trine or /run/trine.
    #[arg(long, global = true, env = "TRINE_BUS", value_name = "NAME", default_value = Bus::DEFAULT)]
    bus: String,
    /// The bus, by path: its folder, or its socket. Goes before --bus.
    #[arg(long, global = true, value_name = "DIR|SOCKET")]
    path: Option<PathBuf>,
}

impl BusOptions {
    /// The bus that was asked for.
    pub fn bus(&self) -> Result<Bus, trine::Error> {
        match &self.path {
            Some(path) => Ok(Bus::at(path)),
            None => Bus::named(&self.bus),
        }
    }
}

/// What a process does while it has nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WaitingOption {
    /// Yields the CPU for some microseconds, then sleeps.
    Adaptive,
    /// Sleeps at once.
    Park,
    /// Never sleeps, but gives the CPU to whoever wants it.
    Yield,
    /// Never sleeps: only with a CPU for each process.
    Spin,
}

impl WaitingOption {
    /// The library's word for it.
    pub fn waiting(self) -> Waiting {
        match self {
            WaitingOption::Adaptive => Waiting::Adaptive,
            WaitingOption::Park => Waiting::Park,
            WaitingOption::Yield => Waiting::Yield,
            WaitingOption::Spin => Waiting::Spin,
        }
    }
}

/// How a process runs.
#[derive(Args, Clone, Debug)]
pub struct RunOptions {
    /// What to do while there is nothing to do.
    #[arg(long, value_enum, default_value_t = WaitingOption::Adaptive)]
    pub waiting: WaitingOption,
    /// Run on these CPUs only, for instance 1 or 0,2.
    #[arg(long, value_name = "CPU", value_delimiter = ',')]
    pub pin: Vec<usize>,
    /// Stop when this process, which started this one, ends.
    #[arg(long, hide = true, value_name = "PID")]
    pub parent: Option<i32>,
}

impl RunOptions {
    /// Does what was asked for to this process. To be called before any thread is started, since threads inherit it.
    pub fn apply(&self) -> anyhow::Result<()> {
        if let Some(parent) = self.parent {
            set_pdeathsig(Signal::SIGTERM).context("asking to be told of the parent's end")?;
            ensure!(getppid().as_raw() == parent, "the process that started this one has ended");
        }
        if self.pin.is_empty() {
            return Ok(());
        }
        let mut cpus = CpuSet::new();
        for &cpu in &self.pin {
            cpus.set(cpu).with_context(|| format!("--pin: there can't be a CPU {cpu}"))?;
        }
        let pinned = sched_setaffinity(Pid::from_raw(0), &cpus);
        pinned.with_context(|| format!("--pin {:?}: this process may not run there", self.pin))
    }
}
