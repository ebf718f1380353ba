//! One round of one subject: its processes start, its client measures, they end.
//!
//! ```text
//! folder ── parties in their order, each where it belongs, each "ready" ── client ── what it measured
//! ```

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use tempfile::TempDir;
use trine_measure::{Load, Measured, Party, Seat, Subject, Wait};

use super::party::{BELLS, Hung};
use super::placement::{Placement, on_cpu};
use crate::processes::{Background, Foreground, this_program};

/// Everything that makes a row what it is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Setting {
    /// Who runs where.
    pub placement: Placement,
    /// How they wait.
    pub waiting: Wait,
    /// Bytes of a request, and of an answer.
    pub bytes: usize,
    pub reply_bytes: usize,
    /// What the client does.
    #[serde(flatten)]
    pub load: Load,
    /// Whether a program that has nothing to do with it burns the CPU of client and, where that is another, worker.
    pub neighbour: bool,
    /// Sessions beside the client's that do nothing.
    pub idle_sessions: usize,
}

/// A subject, and the program that is its parties.
#[derive(Clone, Debug)]
pub struct Contender {
    pub subject: Subject,
    /// `None`: this one.
    pub program: Option<PathBuf>,
}

/// How the names of floors begin.
pub const FLOOR: &str = "floor";

impl Contender {
    /// Whether it is there to show what nobody can be faster than.
    pub fn is_floor(&self) -> bool {
        self.subject.name.starts_with(FLOOR)
    }

    /// Whether it stands for this.
    pub fn can(&self, setting: &Setting) -> bool {
        let bytes = setting.bytes.max(setting.reply_bytes);
        self.subject.can(setting.waiting, bytes, setting.load.in_flight)
    }

    /// With so many calls in flight at most.
    pub fn at_most(mut self, in_flight: usize) -> Contender {
        self.subject.in_flight_max = in_flight;
        self
    }

    /// The beginning of each party's command line.
    fn command(&self) -> Command {
        match &self.program {
            None => this_program(["bench-party"]),
            Some(program) => {
                let mut command = Command::new(program);
                command.arg("--parent").arg(std::process::id().to_string());
                command
            }
        }
    }
}

/// Runs rounds.
pub struct Rounds {
    /// The CPUs that there are.
    pub cpus: Vec<usize>,
    pub foreground: Foreground,
}

/// What was started before the client, in the order in which it ends: the director last.
struct Stage {
    others: Vec<Background>,
    parties: Vec<Background>,
    bells: Hung,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.others.clear();
        while self.parties.pop().is_some() {}
    }
}

impl Rounds {
    /// One round.
    pub fn run(&self, contender: &Contender, setting: &Setting) -> anyhow::Result<Measured> {
        let name = &contender.subject.name;
        let folder = shared_folder()?;
        let (client, before) =
            contender.subject.parties.split_last().context("a subject without a client")?;
        let mut stage = Stage { others: Vec::new(), parties: Vec::new(), bells: Hung::new()? };
        for party in before {
            let mut command = self.command(contender, party, setting, &folder);
            command.env(BELLS, stage.bells.numbers());
            let start = || Background::start(name, command);
            stage.parties.push(on_cpu(setting.placement.of(party.seat, &self.cpus), start)?);
        }
        if setting.idle_sessions > 0 {
            stage.others.push(self.idle_sessions(setting, &folder)?);
        }
        if setting.neighbour {
            stage.others.extend(self.neighbours(setting, &folder)?);
        }
        let mut command = self.command(contender, client, setting, &folder);
        command.env(BELLS, stage.bells.numbers());
        let output = || self.foreground.output(command, patience(&setting.load));
        let output = on_cpu(setting.placement.of(client.seat, &self.cpus), output)
            .with_context(|| format!("measuring {name}"))?;
        serde_json::from_slice(&output).with_context(|| format!("the figures of {name} can't be read"))
    }

    fn command(&self, contender: &Contender, party: &Party, setting: &Setting, folder: &TempDir) -> Command {
        if party.arguments == ["director"] {
            let mut command = this_program(["director", "--waiting", setting.waiting.name()]);
            command.arg("--path").arg(folder.path());
            return command;
        }
        let mut command = contender.command();
        let Load { calls, warm_up, in_flight, every_ns, rate } = setting.load;
        let mut option = |name: &str, value: u64| {
            command.arg(name).arg(value.to_string());
        };
        option("--bytes", setting.bytes as u64);
        option("--reply-bytes", setting.reply_bytes as u64);
        option("--calls", calls);
        option("--warm-up", warm_up);
        option("--in-flight", in_flight as u64);
        every_ns.into_iter().for_each(|ns| option("--every-ns", ns));
        rate.into_iter().for_each(|rate| option("--rate", rate));
        command.arg("--folder").arg(folder.path());
        command.args(["--waiting", setting.waiting.name()]).args(&party.arguments);
        command
    }

    fn idle_sessions(&self, setting: &Setting, folder: &TempDir) -> anyhow::Result<Background> {
        let mut command = this_program(["bench-party"]);
        command.arg("--folder").arg(folder.path()).args(["idle", &setting.idle_sessions.to_string()]);
        on_cpu(setting.placement.of(Seat::Client, &self.cpus), || Background::start("idle sessions", command))
    }

    /// One for each CPU that a party is on.
    fn neighbours(&self, setting: &Setting, folder: &TempDir) -> anyhow::Result<Vec<Background>> {
        let seats = [Seat::Client, Seat::Middle, Seat::Worker];
        let mut cpus: Vec<Option<usize>> = seats.map(|seat| setting.placement.of(seat, &self.cpus)).to_vec();
        cpus.dedup();
        let burn = |cpu| {
            let mut command = this_program(["bench-party"]);
            command.arg("--folder").arg(folder.path()).arg("burn");
            on_cpu(cpu, || Background::start("neighbour", command))
        };
        cpus.into_iter().map(burn).collect()
    }
}

/// How long a client may take: much longer than any that was ever measured.
fn patience(load: &Load) -> Duration {
    let each_ns = load.every_ns.unwrap_or(0) + load.rate.map_or(0, |rate| 1_000_000_000 / rate.max(1));
    Duration::from_secs(60) + Duration::from_nanos((load.calls + load.warm_up) * (1_000_000 + each_ns))
}

/// A folder in shared memory: what lies in it is never written to a disk while somebody measures.
pub fn shared_folder() -> anyhow::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("trine-bench-");
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { builder.tempdir_in(memory) } else { builder.tempdir() };
    made.context("making a folder for the benchmark")
}
