//! What sessions cost, and how long a bus takes to come back when its director has died.
//!
//! ```text
//! cost        so many sessions that do nothing: descriptors, mappings and bytes of each party, by the kernel's books
//! recovery    so many sessions of this process; the director is killed, another one starts, all call again
//! ```

use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use serde::Serialize;
use tabled::builder::Builder;
use tabled::settings::{Padding, Style};
use tempfile::TempDir;
use trine::{Bus, Client, ClientOptions};
use trine_measure::latencies::human;

use super::party::call_once;
use super::round::shared_folder;
use crate::processes::{Background, this_program};

/// A figure that is no latency.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    what: String,
    sessions: usize,
    value: f64,
    unit: &'static str,
}

/// A table of them.
pub fn table(figures: &[Figure]) -> String {
    let mut builder = Builder::default();
    builder.push_record(["WHAT", "SESSIONS", "FIGURE"]);
    for figure in figures {
        let value = match figure.unit {
            "ns" => human(figure.value as u64),
            unit => format!("{:.1} {unit}", figure.value),
        };
        builder.push_record([figure.what.clone(), figure.sessions.to_string(), value]);
    }
    let mut table = builder.build();
    table.with(Style::empty()).with(Padding::new(0, 2, 0, 0));
    let lines: Vec<String> = table.to_string().lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n") + "\n"
}

/// A director and a worker on a bus of their own. They end in this order: the worker before its director.
struct Scene {
    worker: Option<Background>,
    director: Option<Background>,
    folder: TempDir,
}

impl Drop for Scene {
    fn drop(&mut self) {
        drop((self.worker.take(), self.director.take()));
    }
}

impl Scene {
    fn new() -> anyhow::Result<Scene> {
        let folder = shared_folder()?;
        let director = director(folder.path())?;
        let mut command = this_program(["bench-party"]);
        command.arg("--folder").arg(folder.path()).args(["--waiting", "adaptive", "worker"]);
        let worker = Background::start("worker", command)?;
        Ok(Scene { worker: Some(worker), director: Some(director), folder })
    }
}

fn director(folder: &Path) -> anyhow::Result<Background> {
    let mut command = this_program(["director"]);
    command.arg("--path").arg(folder);
    Background::start("director", command)
}

/// What one of so many idle sessions costs each party.
pub fn cost(sessions: usize) -> anyhow::Result<Vec<Figure>> {
    let scene = Scene::new()?;
    let idle = |count: usize| {
        let mut command = this_program(["bench-party"]);
        command.arg("--folder").arg(scene.folder.path()).args(["idle", &count.to_string()]);
        Background::start("idle sessions", command)
    };
    // First one alone, so that what a process has but once is not counted.
    let one = idle(1)?;
    let sessions = sessions.max(2);
    let parties = |clients: &Background| {
        let parties = [("director", &scene.director), ("worker", &scene.worker)];
        let known = parties.into_iter().filter_map(|(name, party)| Some((name, party.as_ref()?.pid())));
        known.chain([("client", clients.pid())]).collect::<Vec<_>>()
    };
    let before: anyhow::Result<Vec<Books>> =
        parties(&one).into_iter().map(|(_, pid)| Books::of(pid)).collect();
    drop(one);
    let many = idle(sessions)?;
    let mut figures = Vec::new();
    for ((name, pid), before) in parties(&many).into_iter().zip(before?) {
        let after = Books::of(pid)?;
        let each = |after: u64, before: u64| after.saturating_sub(before) as f64 / (sessions - 1) as f64;
        let mut figure = |what: &str, value, unit| {
            figures.push(Figure {
                what: format!("a session costs the {name}: {what}"),
                sessions,
                value,
                unit,
            });
        };
        figure("descriptors", each(after.descriptors, before.descriptors), "");
        figure("mappings", each(after.mappings, before.mappings), "");
        figure("memory", each(after.pss_kib, before.pss_kib), "KiB");
    }
    drop(many);
    Ok(figures)
}

/// What the kernel says that a process has.
struct Books {
    descriptors: u64,
    mappings: u64,
    /// Shared pages in equal shares among those who map them.
    pss_kib: u64,
}

impl Books {
    fn of(pid: u32) -> anyhow::Result<Books> {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}"));
        let rollup = read("smaps_rollup").context("asking what a process maps")?;
        let pss = rollup.lines().find(|line| line.starts_with("Pss:"));
        let pss_kib = pss.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
        Ok(Books {
            descriptors: std::fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64,
            mappings: read("maps")?.lines().count() as u64,
            pss_kib: pss_kib.context("a strange smaps_rollup")?,
        })
    }
}

/// How long after a kill of the director the first, and all, of so many sessions have had a call answered. Includes
/// the next director's start, which begins at once.
pub fn recovery(sessions: usize) -> anyhow::Result<Vec<Figure>> {
    let mut scene = Scene::new()?;
    let bus = Bus::at(scene.folder.path());
    let clients: Result<Vec<Client>, _> =
        (0..sessions).map(|_| bus.client(ClientOptions::default())).collect();
    let clients = clients.with_context(|| format!("opening {sessions} sessions"))?;
    clients.iter().try_for_each(call_once)?;
    let killed = Instant::now();
    scene.director.take().context("there is a director")?.kill()?;
    scene.director = Some(director(scene.folder.path())?);
    let mut ended_ns = Vec::with_capacity(sessions);
    for client in &clients {
        call_once(client)?;
        ended_ns.push(killed.elapsed().as_nanos() as f64);
    }
    let figure = |what: &str, value| Figure { what: what.into(), sessions, value, unit: "ns" };
    let [first, last] = [ended_ns.first(), ended_ns.last()].map(|ns| ns.copied().unwrap_or(0.0));
    Ok(vec![
        figure("director killed and started: until the first session's call", first),
        figure("director killed and started: until every session's call", last),
    ])
}
