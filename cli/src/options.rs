//! Options that several subcommands have: which bus, which CPU, how to wait.

use std::path::PathBuf;
use std::thread::available_parallelism;

use anyhow::Context;
use clap::{Args, ValueEnum};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use trine::{Bus, Waiting};
use trine_measure::party::end_with;

use crate::doctor::{Role, place};

/// Which bus.
#[derive(Args, Clone, Debug)]
pub struct BusOptions {
    /// The bus, by name: a folder of that name in TRINE_RUNTIME_DIR, XDG_RUNTIME_DIR/trine or /run/trine.
    #[arg(long, global = true, env = "TRINE_BUS", value_name = "NAME", default_value = Bus::DEFAULT)]
    bus: String,
    /// The bus, by path: its folder, or its socket. Goes before --bus.
    #[arg(long, global = true, value_name = "DIR|SOCKET")]
    path: Option<PathBuf>,
    /// Trust a director of this user, too: else it has to be yours, or root's.
    #[arg(long, global = true, env = "TRINE_DIRECTOR_UID", value_name = "UID")]
    director_uid: Option<u32>,
}

impl BusOptions {
    /// The bus that was asked for.
    pub fn bus(&self) -> Result<Bus, trine::Error> {
        let bus = match &self.path {
            Some(path) => Bus::at(path),
            None => Bus::named(&self.bus)?,
        };
        Ok(self.director_uid.into_iter().fold(bus, Bus::trusting))
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
    fn waiting(self) -> Waiting {
        match self {
            WaitingOption::Adaptive => Waiting::Adaptive,
            WaitingOption::Park => Waiting::Park,
            WaitingOption::Yield => Waiting::Yield,
            WaitingOption::Spin => Waiting::Spin,
        }
    }
}

/// Where a process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pin {
    /// Where `trine doctor` says that one of its role should.
    Auto,
    /// On these CPUs only.
    Cpus(Vec<usize>),
}

fn pin(text: &str) -> Result<Pin, String> {
    if text == "auto" {
        return Ok(Pin::Auto);
    }
    let cpus: Result<Vec<usize>, _> = text.split(',').map(str::parse).collect();
    cpus.map(Pin::Cpus).map_err(|_| "CPUs by number, for instance 1 or 0,2; or auto".into())
}

/// How a process runs.
#[derive(Args, Clone, Debug)]
pub struct RunOptions {
    /// What to do while there is nothing to do.
    #[arg(long, value_enum, default_value_t = WaitingOption::Adaptive)]
    waiting: WaitingOption,
    /// Run on these CPUs only, for instance 1 or 0,2; or, with auto, where trine doctor says.
    #[arg(long, value_name = "CPU", value_parser = pin)]
    pin: Option<Pin>,
    /// Stop when this process, which started this one, ends.
    #[arg(long, hide = true, value_name = "PID")]
    parent: Option<i32>,
}

/// Parties of a call: with fewer CPUs some of them share one.
const PARTIES: usize = 3;

impl RunOptions {
    /// Does what was asked for to this process. To be called before any thread is started, since threads inherit it.
    pub fn apply(&self, role: Role) -> anyhow::Result<()> {
        end_with(self.parent)?;
        let chosen = match &self.pin {
            None => return Ok(()),
            Some(Pin::Auto) => vec![place(role)?],
            Some(Pin::Cpus(cpus)) => cpus.clone(),
        };
        let mut cpus = CpuSet::new();
        for &cpu in &chosen {
            cpus.set(cpu).with_context(|| format!("--pin: there can't be a CPU {cpu}"))?;
        }
        let pinned = sched_setaffinity(Pid::from_raw(0), &cpus);
        pinned.with_context(|| format!("--pin {chosen:?}: this process may not run there"))
    }

    /// How to wait. Who would spin on CPUs that the others need gives way instead: spinning there makes a call take
    /// as long as a time slice. Who was pinned by number has been given its CPU.
    pub fn waiting(&self) -> Waiting {
        let shares = !matches!(self.pin, Some(Pin::Cpus(_)))
            && available_parallelism().is_ok_and(|n| n.get() < PARTIES);
        if self.waiting == WaitingOption::Spin && shares {
            tracing::warn!("fewer than {PARTIES} CPUs for {PARTIES} parties: yielding instead of spinning");
            return Waiting::Yield;
        }
        self.waiting.waiting()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_named_by_numbers_or_left_to_the_doctor() {
        assert_eq!(pin("auto"), Ok(Pin::Auto));
        assert_eq!(pin("0,2"), Ok(Pin::Cpus(vec![0, 2])));
        assert!(["", "first", "0,,1", "-1"].into_iter().all(|text| pin(text).is_err()));
    }
}
