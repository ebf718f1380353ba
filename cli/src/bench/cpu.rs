//! What a bus costs while nothing happens on it.

use std::time::{Duration, Instant};

use anyhow::Context;
use nix::unistd::{SysconfVar, sysconf};
use trine::{Bus, ClientOptions};

use super::round::shared_folder;
use crate::processes::{Background, this_program};

/// What was found.
#[derive(Clone, Copy, Debug)]
pub struct Idle {
    /// Of director, worker and client together.
    pub cpu_ms_per_second: f64,
    /// Of the one that was woken most often.
    pub wakes_per_second: f64,
}

/// Starts a bus, lets it settle, and watches it for so long.
pub fn of_an_idle_bus(for_time: Duration) -> anyhow::Result<Idle> {
    let folder = shared_folder()?;
    let mut command = this_program(["director"]);
    command.arg("--path").arg(folder.path());
    let director = Background::start("director", command)?;
    let mut command = this_program(["bench-party"]);
    command.arg("--folder").arg(folder.path()).args(["--waiting", "adaptive", "worker"]);
    let worker = Background::start("worker", command)?;
    let mut command = this_program(["bench-party"]);
    command.arg("--folder").arg(folder.path()).args(["idle", "1"]);
    let client = Background::start("client", command)?;
    // Parked, all of them, when a call finds none of them awake: two budgets of the longest are far behind then.
    let bus = Bus::at(folder.path());
    let watcher = bus.client(ClientOptions::default())?;
    let parties = [director.pid(), worker.pid(), client.pid()];
    settle(&parties)?;
    let before = parties.map(Use::of);
    let start = Instant::now();
    std::thread::sleep(for_time);
    let after = parties.map(Use::of);
    let seconds = start.elapsed().as_secs_f64();
    drop(watcher);
    let (mut cpu_ms, mut wakes) = (0.0, 0.0_f64);
    for (before, after) in before.into_iter().zip(after) {
        let (before, after) = (before?, after?);
        cpu_ms += after.cpu_ms - before.cpu_ms;
        wakes = wakes.max((after.wakes - before.wakes) as f64);
    }
    // The worker leaves before its director does.
    drop((client, worker, director));
    // Between so many wakes lies one interval less: three of a timer of 1 Hz can fall into two seconds.
    let wakes_per_second = (wakes - 1.0).max(0.0) / seconds;
    Ok(Idle { cpu_ms_per_second: cpu_ms / seconds, wakes_per_second })
}

/// Waits until nobody has run for a tenth of a second.
fn settle(parties: &[u32]) -> anyhow::Result<()> {
    let mut before = 0;
    for _ in 0..100 {
        std::thread::sleep(Duration::from_millis(100));
        let wakes: anyhow::Result<Vec<u64>> = parties.iter().map(|&pid| Ok(Use::of(pid)?.wakes)).collect();
        let now = wakes?.iter().sum();
        if now == before {
            return Ok(());
        }
        before = now;
    }
    anyhow::bail!("somebody was awake for ten seconds")
}

/// What a process has used, all its threads together.
struct Use {
    cpu_ms: f64,
    /// How often it went to sleep, or had to give way: once for each time that it ran.
    wakes: u64,
}

impl Use {
    fn of(pid: u32) -> anyhow::Result<Use> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // Behind the name, which may have anything in it: field 14 is the 12th.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
        let ticks =
            |index: usize| fields.get(index).and_then(|f| f.parse::<f64>().ok()).context("a strange stat");
        let per_second = sysconf(SysconfVar::CLK_TCK)?.unwrap_or(100) as f64;
        let cpu_ms = (ticks(11)? + ticks(12)?) * 1e3 / per_second;
        let mut wakes = 0;
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let status = std::fs::read_to_string(task?.path().join("status"))?;
            let counts = status.lines().filter(|line| line.contains("ctxt_switches"));
            wakes += counts.filter_map(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok()).sum::<u64>();
        }
        Ok(Use { cpu_ms, wakes })
    }
}
