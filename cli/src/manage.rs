//! `trine reload` and `trine drain`: what a running bus can be asked to do.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;

use crate::options::BusOptions;

/// Have the director read its policy file anew.
///
/// A file that is wrong is refused, with line and reason, and the old rules stay in force. SIGHUP does the same, and
/// says so in the director's log.
#[derive(Args)]
pub struct ReloadOptions {}

/// Asks for it.
pub fn reload(bus: &BusOptions, _: &ReloadOptions) -> anyhow::Result<()> {
    Ok(bus.bus()?.reload()?)
}

/// Give a worker no new work: what it has it serves, and leaves.
///
/// Clients notice nothing. `trine ls` shows the workers' ids.
#[derive(Args)]
#[command(after_help = "\
Examples:
  trine drain 7
  trine drain 7 --wait 30s      until it is gone")]
pub struct DrainOptions {
    /// The worker's id.
    #[arg(value_name = "WORKER", value_parser = clap::value_parser!(u64).range(1..))]
    worker: u64,
    /// Wait so long until it is gone.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    wait: Option<Duration>,
}

/// How often to look whether a worker is gone.
const LOOK: Duration = Duration::from_millis(20);

/// Asks for it.
pub fn drain(bus: &BusOptions, options: &DrainOptions) -> anyhow::Result<()> {
    let (bus, id) = (bus.bus()?, options.worker);
    bus.drain(id)?;
    let Some(wait) = options.wait else { return Ok(()) };
    let until = Instant::now().checked_add(wait);
    while bus.inspect()?.workers.iter().any(|worker| worker.id == id) {
        if until.is_some_and(|until| Instant::now() >= until) {
            bail!("worker {id} is draining, and not gone after {}", humantime::format_duration(wait));
        }
        std::thread::sleep(LOOK);
    }
    let _ = writeln!(std::io::stdout(), "worker {id} is gone");
    Ok(())
}
