//! SIGTERM, SIGINT and SIGHUP as requests to stop in good order; SIGHUP, where there is something to read anew, to do
//! that.

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
    pub fn then(self, stop: impl Fn() + Send + 'static) -> anyhow::Result<()> {
        self.listen(None::<fn()>, stop)
    }

    /// The same, but SIGHUP calls `reload`, as often as it comes.
    pub fn then_or_reload(
        self,
        reload: impl Fn() + Send + 'static,
        stop: impl Fn() + Send + 'static,
    ) -> anyhow::Result<()> {
        self.listen(Some(reload), stop)
    }

    fn listen(
        mut self,
        reload: Option<impl Fn() + Send + 'static>,
        stop: impl Fn() + Send + 'static,
    ) -> anyhow::Result<()> {
        let listen = move || {
            let mut stopping = false;
            for signal in self.0.forever() {
                if let Some(reload) = reload.as_ref().filter(|_| signal == SIGHUP) {
                    reload();
                    continue;
                }
                if std::mem::replace(&mut stopping, true) {
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
