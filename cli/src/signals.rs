//! SIGTERM, SIGINT and SIGHUP as requests to stop in good order.

use anyhow::Context;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

/// The signals, caught from now on.
pub struct Caught(Signals);

impl Caught {
    /// Catches them: to be done before there is anything that a signal would leave behind.
    pub fn new() -> anyhow::Result<Caught> {
        Ok(Caught(Signals::new([SIGTERM, SIGINT, SIGHUP]).context("catching signals")?))
    }

    /// Calls `stop` in a thread of its own when one comes, or has come. A second one ends the process as if it were
    /// not caught: for whoever has waited long enough.
    pub fn then(mut self, stop: impl Fn() + Send + 'static) -> anyhow::Result<()> {
        let listen = move || {
            for (count, signal) in self.0.forever().enumerate() {
                if count > 0 {
                    // Fails only for signals that can't be handled.
                    let _ = emulate_default_handler(signal);
                }
                stop();
                tracing::info!(signal, "asked to stop");
            }
        };
        std::thread::Builder::new().name("signals".into()).spawn(listen).context("starting a thread")?;
        Ok(())
    }
}
