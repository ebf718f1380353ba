//! Requests to several workers, with real processes.
//!
//! ```text
//! scatter   parts as they come, deaths, deadlines, order, bounds
//! roles     what the processes do that the tests start
//! ```

mod roles;
mod scatter;
#[allow(dead_code)] // it serves tests/proof, too
#[path = "../proof/support.rs"]
mod support;

/// Where a process that a test has started begins: see [`support::Role`]. Run by itself it plays nothing.
#[test]
fn role() {
    if let Ok(role) = std::env::var(support::ROLE) {
        roles::play(&role);
        std::process::exit(0);
    }
}
