//! Sessions that do nothing: what else is on a bus.

use anyhow::Context;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use trine::{Bus, ClientOptions};
use trine_measure::{PartyOptions, ready};

use super::trine_parties::call_once;

/// Opens so many, each with a call behind it, and keeps them until it is ended.
pub fn run(sessions: usize, options: &PartyOptions) -> anyhow::Result<()> {
    // As many open files as this user may have: a session takes a few.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let bus = Bus::at(&options.folder);
    let open = |_| bus.client(ClientOptions::default());
    let clients: Result<Vec<_>, _> = (0..sessions).map(open).collect();
    let clients = clients.with_context(|| format!("opening {sessions} sessions"))?;
    // A call each, so that the worker has mapped them, too.
    clients.iter().try_for_each(call_once)?;
    ready();
    loop {
        std::thread::park();
        std::hint::black_box(&clients);
    }
}
