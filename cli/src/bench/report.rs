//! All figures of a run, for programs.

use std::path::Path;

use anyhow::Context;
use serde::Serialize;

use super::goals::Goal;
use super::row::Row;
use super::scale::Figure;

/// Everything that was measured, and on what.
#[derive(Serialize)]
pub struct Report {
    version: &'static str,
    cpus: usize,
    cpu: String,
    kernel: String,
    rounds: u32,
    pub rows: Vec<Row>,
    pub figures: Vec<Figure>,
    pub goals: Vec<Goal>,
}

impl Report {
    /// Of nothing yet.
    pub fn new(cpus: usize, rounds: u32) -> Report {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let model = |line: &&str| line.starts_with("model name");
        let cpu = read("/proc/cpuinfo");
        let cpu = cpu.lines().find(model).and_then(|line| line.split_once(": ")).map_or("", |(_, name)| name);
        Report {
            version: env!("CARGO_PKG_VERSION"),
            cpus,
            cpu: cpu.to_owned(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            rounds,
            rows: Vec::new(),
            figures: Vec::new(),
            goals: Vec::new(),
        }
    }

    /// Writes it to a file.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(path, text).with_context(|| path.display().to_string())
    }
}
