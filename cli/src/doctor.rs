//! `trine doctor`: what this machine can do for a bus, and what to choose on it.
//!
//! ```text
//! topology ──► who should run where, and how they should wait        limits ──► what will be refused, and when
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use clap::Args;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statvfs::statvfs;
use serde::Serialize;
use trine::Bus;

use crate::bench::placement::available;

/// Look at this machine: its CPUs, its limits, and what to choose for director, workers and clients.
///
/// Starts nothing and changes nothing. Ends with 1 if something is amiss without which there can be no bus.
#[derive(Args)]
#[command(after_help = "\
Examples:
  trine doctor
  trine doctor --json | jq .placement
  trine director --pin auto                   runs where this says that it should")]
pub struct DoctorOptions {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// A CPU, as far as placement goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Cpu {
    pub number: usize,
    /// Threads of one core have the same.
    pub core: usize,
    /// CPUs that share the last level of cache have the same.
    pub cache: usize,
}

/// Who should run where, and how wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Advice {
    pub director: usize,
    pub worker: usize,
    pub client: usize,
    /// As on the command line.
    pub waiting: &'static str,
    pub why: &'static str,
}

/// Something that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    found: String,
    /// Nothing to mind, something to mind, or no bus at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    mind: Option<String>,
    fatal: bool,
}

#[derive(Serialize)]
struct Report {
    cpus: Vec<Cpu>,
    placement: Advice,
    findings: Vec<Finding>,
}

/// Runs it. Returns whether a bus can be.
pub fn run(options: &DoctorOptions) -> anyhow::Result<bool> {
    let cpus = topology();
    let report = Report { placement: advice(&cpus), cpus, findings: findings() };
    let text = match options.json {
        true => serde_json::to_string_pretty(&report)? + "\n",
        false => report.text(),
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(report.findings.iter().all(|finding| !finding.fatal))
}

/// The CPUs on which this process may run.
pub fn topology() -> Vec<Cpu> {
    let number = |path: String| {
        let text = std::fs::read_to_string(path).ok()?;
        // A list of CPUs, `0-3,8`: its first is as good a name as any.
        text.trim().split([',', '-']).next()?.parse::<usize>().ok()
    };
    let of = |cpu: usize| {
        let base = format!("/sys/devices/system/cpu/cpu{cpu}");
        let core = number(format!("{base}/topology/thread_siblings_list")).unwrap_or(cpu);
        let last = (0..=4).rev().find_map(|i| number(format!("{base}/cache/index{i}/shared_cpu_list")));
        Cpu { number: cpu, core, cache: last.unwrap_or(0) }
    };
    available().into_iter().map(of).collect()
}

/// A core for each of the three where there are as many that share a cache; else the client apart, so that a call's
/// two sides work at the same time; else all together.
pub fn advice(cpus: &[Cpu]) -> Advice {
    let mut caches: BTreeMap<usize, Vec<Cpu>> = BTreeMap::new();
    for &cpu in cpus {
        let cores = caches.entry(cpu.cache).or_default();
        if cores.iter().all(|other| other.core != cpu.core) {
            cores.push(cpu);
        }
    }
    // The cache with the most cores; CPU 0 last in it, since interrupts tend to go there.
    let mut cores = caches.into_values().max_by_key(Vec::len).unwrap_or_default();
    cores.sort_by_key(|cpu| (cpu.number == 0 && cpus.len() > 3, cpu.number));
    let at = |index: usize| cores.get(index).map_or(0, |cpu: &Cpu| cpu.number);
    match cores.len() {
        0 | 1 if cpus.len() > 1 => Advice {
            client: cpus[0].number,
            director: cpus[1].number,
            worker: cpus[1].number,
            waiting: "adaptive",
            why: "fewer cores than parties: two threads of a core, or two caches",
        },
        0 | 1 => Advice {
            client: at(0),
            director: at(0),
            worker: at(0),
            waiting: "adaptive",
            why: "one CPU for all: whoever has nothing to do has to give way",
        },
        2 => Advice {
            client: at(0),
            director: at(1),
            worker: at(1),
            waiting: "adaptive",
            why: "fewer CPUs than parties: the client has one, director and worker share the other and give way",
        },
        cores => Advice {
            director: at(0),
            worker: at(1),
            client: at(2),
            waiting: if cores > 3 { "spin" } else { "yield" },
            why: "a core for each, with a cache in common: nobody has to give way",
        },
    }
}

fn findings() -> Vec<Finding> {
    let all = [kernel(), seals(), descriptors(), shared_memory(), folder(), clock(), quota()];
    all.into_iter().flatten().collect()
}

fn finding(what: &'static str, found: impl Into<String>) -> Finding {
    Finding { what, found: found.into(), mind: None, fatal: false }
}

impl Finding {
    fn mind(mut self, is: bool, why: &str) -> Finding {
        if is {
            self.mind = Some(why.to_owned());
        }
        self
    }

    fn fatal(self, is: bool, why: &str) -> Finding {
        Finding { fatal: is, ..self.mind(is, why) }
    }
}

fn read(path: &str) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
}

fn kernel() -> Option<Finding> {
    let release = read("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next()?, numbers.next()?);
    let found = finding("kernel", release);
    Some(if version < (5, 3) {
        found.fatal(true, "pidfds, by which deaths are noticed, are there from 5.3 on")
    } else {
        found.mind(version < (6, 5), "before 6.5 a peer's process is found by its number, with a second look")
    })
}

fn seals() -> Option<Finding> {
    let sealed = memfd_create("trine doctor", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING);
    let found = finding("sealed memory", if sealed.is_ok() { "there" } else { "not there" });
    Some(found.fatal(sealed.is_err(), "no memfd can be made: nothing could be shared"))
}

/// What a session takes of the director's descriptors; a worker takes as many.
const DESCRIPTORS: u64 = 6;

fn descriptors() -> Option<Finding> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    let found =
        finding("open files", format!("{soft}, up to {hard}: {} sessions of a director", hard / DESCRIPTORS));
    Some(found.mind(hard < 4096, "raise it (ulimit -Hn) for more than a few hundred sessions"))
}

fn shared_memory() -> Option<Finding> {
    let path = Path::new("/dev/shm");
    let Ok(stat) = statvfs(path) else {
        return Some(finding("/dev/shm", "not there").fatal(true, "what outlives a director lies there"));
    };
    let mib = |blocks: u64| (blocks * stat.fragment_size()) >> 20;
    let free = mib(stat.blocks_available());
    let found = finding("/dev/shm", format!("{free} MiB free of {}", mib(stat.blocks())));
    Some(found.mind(
        free < 64,
        "a worker's segment takes 64 KiB there; containers get 64 MiB unless they ask for more",
    ))
}

fn folder() -> Option<Finding> {
    let what = "runtime folder";
    Some(match Bus::named(Bus::DEFAULT) {
        Ok(bus) => finding(what, bus.folder().display().to_string()),
        Err(error) => finding(what, "none").mind(true, &format!("{error}; --path names one")),
    })
}

fn clock() -> Option<Finding> {
    let source = read("/sys/devices/system/clocksource/clocksource0/current_clocksource")?;
    let slow = !matches!(&*source, "tsc" | "kvm-clock" | "hyperv_clocksource_tsc_page" | "arch_sys_counter");
    Some(finding("clock", source).mind(slow, "reading it is a system call: calls take longer"))
}

/// A container's share of the CPUs: where it is less than the parties that poll, the kernel stops them all for a while.
fn quota() -> Option<Finding> {
    let text = read("/sys/fs/cgroup/cpu.max")?;
    let (quota, period) = text.split_once(' ')?;
    let (Ok(quota), Ok(period)) = (quota.parse::<f64>(), period.parse::<f64>()) else {
        return Some(finding("CPU quota", "none"));
    };
    let found = finding("CPU quota", format!("{:.1} CPUs", quota / period));
    Some(
        found.mind(
            quota < 3.0 * period,
            "who never sleeps uses it up, and then stands still: --waiting adaptive",
        ),
    )
}

impl Report {
    fn text(&self) -> String {
        let mut text = String::new();
        let list = |of: fn(&Cpu) -> usize| {
            let mut all: Vec<usize> = self.cpus.iter().map(of).collect();
            all.sort_unstable();
            all.dedup();
            all.len()
        };
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "CPUs            {} on {} cores, {} last-level caches",
            self.cpus.len(),
            list(|cpu| cpu.core),
            list(|cpu| cpu.cache)
        );
        for finding in &self.findings {
            let _ = writeln!(text, "{:<15} {}", finding.what, finding.found);
            if let Some(why) = &finding.mind {
                let _ =
                    writeln!(text, "{:<15} {} {why}", "", if finding.fatal { "NO BUS:" } else { "mind:" });
            }
        }
        let Advice { director, worker, client, waiting, why } = &self.placement;
        let _ = write!(
            text,
            "\nFor the lowest latency ({why}):
  trine director --pin {director} --waiting {waiting}
  trine worker … --pin {worker} --waiting {waiting}
  trine call   … --pin {client} --waiting {waiting}
With --pin auto each finds its place by itself. Without any of this they wait adaptively: right for almost all.\n"
        );
        text
    }
}

/// Where whoever has this role should run.
pub fn place(role: Role) -> anyhow::Result<usize> {
    let cpus = topology();
    anyhow::ensure!(!cpus.is_empty(), "no CPU is known on which this process may run");
    let advice = advice(&cpus);
    Ok(match role {
        Role::Director => advice.director,
        Role::Worker => advice.worker,
        Role::Client => advice.client,
    })
}

/// Who asks for its place.
#[derive(Clone, Copy, Debug)]
pub enum Role {
    Director,
    Worker,
    Client,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpus(of: &[(usize, usize, usize)]) -> Vec<Cpu> {
        of.iter().map(|&(number, core, cache)| Cpu { number, core, cache }).collect()
    }

    fn places(of: &[(usize, usize, usize)]) -> ([usize; 3], &'static str) {
        let advice = advice(&cpus(of));
        ([advice.client, advice.director, advice.worker], advice.waiting)
    }

    #[test]
    fn nobody_spins_where_there_are_fewer_cpus_than_parties() {
        assert_eq!(places(&[(0, 0, 0)]), ([0, 0, 0], "adaptive"));
        assert_eq!(places(&[(0, 0, 0), (1, 1, 0)]), ([0, 1, 1], "adaptive"));
        assert_eq!(places(&[(0, 0, 0), (1, 0, 0)]), ([0, 1, 1], "adaptive"));
        assert_eq!(places(&[]), ([0, 0, 0], "adaptive"));
    }

    #[test]
    fn three_get_cores_of_their_own_that_share_a_cache() {
        // Two caches of four threads on two cores each, and a third one with four cores.
        let machine = [
            (0, 0, 0),
            (1, 0, 0),
            (2, 2, 0),
            (3, 2, 0), //
            (4, 4, 4),
            (5, 5, 4),
            (6, 6, 4),
            (7, 7, 4),
        ];
        assert_eq!(places(&machine), ([6, 4, 5], "spin"));
        assert_eq!(places(&[(0, 0, 0), (1, 1, 0), (2, 2, 0)]), ([2, 0, 1], "yield"));
    }
}
