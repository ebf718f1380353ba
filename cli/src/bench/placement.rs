//! Which process runs on which CPU.

use clap::ValueEnum;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

/// Where client, director and worker run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
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

    /// The CPUs of client, director and worker, of those that there are; `None` for any.
    pub fn of(self, cpus: &[usize]) -> [Option<usize>; 3] {
        let at = |i: usize| cpus.get(i).copied();
        match self {
            Placement::Split => [at(0), at(1), at(1)],
            Placement::One => [at(0); 3],
            Placement::Spread => [at(0), at(1), at(2)],
            Placement::Unpinned => [None; 3],
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
        assert_eq!(Split.of(&[3, 5]), [Some(3), Some(5), Some(5)]);
    }
}
