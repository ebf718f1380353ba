//! SIGTERM, SIGINT and SIGHUP as requests to stop in good order.

use anyhow::Context;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

/// Calls `stop` in a thread of its own when such a signal comes. A second one ends the process as if there were no
/// handler: for whoever has waited long enough.
pub fn on_stop(mut stop: impl FnMut(i32) + Send + 'static) -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).context("asking for signals")?;
    let listen = move || {
        for (count, signal) in signals.forever().enumerate() {
            if count > 0 {
                // Fails only for signals that can't be handled.
                let _ = emulate_default_handler(signal);
            }
            tracing::info!(signal, "asked to stop");
            stop(signal);
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(listen).context("starting a thread")?;
    Ok(())
}
