//! Which process runs on which CPU.
//!
//! A process is put there before its program starts: it inherits the affinity of the thread that starts it, and its
//! own threads inherit it in turn. One that pins itself has been elsewhere before, with its memory and its threads.

use anyhow::Context;
use clap::ValueEnum;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde::Serialize;
use trine_measure::Seat;

/// Where client, director and worker run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Placement {
    /// The client on one CPU, director and worker on another.
    Split,
    /// All on one CPU.
    One,
    /// A CPU for each.
    Spread,
    /// Wherever the system puts them.
    Unpinned,
}

impl Placement {
    /// Its name, as on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Placement::Split => "split",
            Placement::One => "one",
            Placement::Spread => "spread",
            Placement::Unpinned => "unpinned",
        }
    }

    /// How many CPUs it takes.
    pub fn cpus(self) -> usize {
        match self {
            Placement::Split => 2,
            Placement::One | Placement::Unpinned => 1,
            Placement::Spread => 3,
        }
    }

    /// The CPU of who sits there, of those that there are; `None` for any.
    pub fn of(self, seat: Seat, cpus: &[usize]) -> Option<usize> {
        let index = match (self, seat) {
            (Placement::Unpinned, _) => return None,
            (Placement::One, _) | (_, Seat::Client) => 0,
            (_, Seat::Middle) | (Placement::Split, Seat::Worker) => 1,
            (Placement::Spread, Seat::Worker) => 2,
        };
        cpus.get(index).copied()
    }

    /// The same for people: client, middle, worker.
    pub fn told(self, cpus: &[usize]) -> String {
        let at = |seat| self.of(seat, cpus).map_or("-".into(), |cpu| cpu.to_string());
        match self {
            Placement::Unpinned => self.name().into(),
            _ => format!("{} {}", self.name(), [Seat::Client, Seat::Middle, Seat::Worker].map(at).join("/")),
        }
    }

    /// All that make sense on so many CPUs. Whoever spins needs a CPU of its own.
    pub fn sensible(cpus: usize, spinning: bool) -> Vec<Placement> {
        let all = [Placement::Split, Placement::One, Placement::Spread, Placement::Unpinned];
        let fits = |p: &Placement| {
            p.cpus() <= cpus
                && (!spinning || (*p == Placement::Spread || (*p == Placement::Unpinned && cpus >= 3)))
        };
        all.into_iter().filter(fits).collect()
    }
}

/// The CPUs on which this process may run.
pub fn available() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(Pid::from_raw(0)) else { return Vec::new() };
    (0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false)).collect()
}

/// Does something with this thread on that CPU: what it starts stays there.
pub fn on_cpu<T>(cpu: Option<usize>, start: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let Some(cpu) = cpu else { return start() };
    let me = Pid::from_raw(0);
    let before = sched_getaffinity(me).context("asking where this process runs")?;
    let mut there = CpuSet::new();
    there
        .set(cpu)
        .and_then(|()| sched_setaffinity(me, &there))
        .with_context(|| format!("pinning to CPU {cpu}"))?;
    let started = start();
    sched_setaffinity(me, &before).context("going back to where this process ran")?;
    started
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placements_take_the_cpus_that_there_are() {
        use Placement::*;
        assert_eq!(Placement::sensible(1, false), [One, Unpinned]);
        assert_eq!(Placement::sensible(2, false), [Split, One, Unpinned]);
        assert_eq!(Placement::sensible(2, true), []);
        assert_eq!(Placement::sensible(4, true), [Spread, Unpinned]);
        let seats = [Seat::Client, Seat::Middle, Seat::Worker];
        assert_eq!(seats.map(|seat| Split.of(seat, &[3, 5])), [Some(3), Some(5), Some(5)]);
        assert_eq!(Spread.told(&[3, 5, 9]), "spread 3/5/9");
    }

    #[test]
    fn what_is_started_on_a_cpu_stays_there_and_this_thread_does_not() {
        let before = available();
        let cpu = before[before.len() - 1];
        let seen = on_cpu(Some(cpu), || Ok(std::thread::spawn(available).join().unwrap())).unwrap();
        assert_eq!((seen, available()), (vec![cpu], before));
    }
}
