//! `trine director`: serves a bus until it is asked to stop.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use trine::Director;

use crate::doctor::Role;
use crate::options::{BusOptions, RunOptions};
use crate::signals::Caught;

/// Serve a bus until SIGTERM or SIGINT.
///
/// Prints one line when clients and workers can connect. On SIGTERM or SIGINT it ends what waits, lets the workers
/// finish what they have begun, and leaves nothing behind. Cleans up after a director that was killed. With a policy, SIGHUP
/// reads that anew.
#[derive(Args)]
#[command(after_help = "\
Examples:
  trine director                              the default bus
  trine director --bus work -v                a bus of another name, with a log of who comes and goes
  trine director --path /srv/app              a bus in a folder of your own
  trine director --replace                    a new version takes over while calls go on
  trine director --policy policy.toml         other users, and rules for who may do what
  trine director --waiting yield --pin 1      never sleeps: the quickest on a CPU that has time
  trine director --pin auto                   where trine doctor says that it should run")]
pub struct DirectorOptions {
    #[command(flatten)]
    run: RunOptions,
    /// Take over from the director that serves the bus, if one does: calls are delayed, and none is lost.
    #[arg(long)]
    replace: bool,
    /// Calls of one client that may wait on one operation for a worker; one more ends BUSY, not run.
    #[arg(long, value_name = "CALLS")]
    waiting_per_route: Option<u32>,
    /// Calls that one worker may have in its hands at a time.
    #[arg(long, value_name = "CALLS")]
    share_max: Option<u64>,
    /// Who may do what: see docs/policy.md. Without a file, this user and root may do everything, others nothing.
    #[arg(long, value_name = "FILE", env = "TRINE_POLICY")]
    policy: Option<PathBuf>,
}

/// Runs it.
pub fn run(bus: &BusOptions, options: &DirectorOptions) -> anyhow::Result<()> {
    options.run.apply(Role::Director)?;
    room_for_sessions();
    let bus = bus.bus()?;
    let mut chosen = trine::DirectorOptions::default().waiting(options.run.waiting());
    if let Some(calls) = options.waiting_per_route {
        chosen = chosen.waiting_per_route(calls);
    }
    if let Some(calls) = options.share_max {
        chosen = chosen.share_max(calls);
    }
    if let Some(path) = &options.policy {
        // The same file at each reload, wherever this process is then.
        let path = std::path::absolute(path)?;
        chosen = chosen.policy(move || trine_policy::read(&path).map_err(|error| error.to_string()));
    }
    let caught = Caught::new()?;
    let director =
        if options.replace { Director::replace(&bus, chosen)? } else { Director::new(&bus, chosen)? };
    let stopper = director.stopper();
    match &options.policy {
        Some(_) => {
            let reloader = director.reloader();
            caught.then_or_reload(move || reloader.reload(), move || stopper.stop())?;
        }
        None => caught.then(move || stopper.stop())?,
    }
    // Whoever doesn't read the line wants a director all the same.
    let _ = writeln!(std::io::stdout(), "serving bus {bus} at {}", bus.socket().display());
    director.run().context("the director stopped")
}

/// As many open files as this user may have: a session takes six.
fn room_for_sessions() {
    // What can't be raised stays: then there is room for fewer, and one too many is told so.
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
