//! The log, on stderr: warnings, and more where it is asked for.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

/// Starts it. TRINE_LOG, in the form of `tracing`'s filters, goes before the number of `-v`.
pub fn start(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_env("TRINE_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let colours = io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(io::stderr);
    // Whoever has stopped reading the log is not told that it can't be written: that would be a panic.
    log.log_internal_errors(false).init();
}
