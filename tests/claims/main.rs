//! What the patent claims that a single host can show, with real processes, one test each; and requests to several
//! workers, among them such as should not be.
//!
//! ```text
//! patent    each test is named for its claim: ARCHITECTURE.md has the table
//! forger    a client that writes into its own memory what it likes
//! scatter   parts as they come, deaths, deadlines, order, bounds
//! roles     what the processes do that the tests start
//! ```

mod forger;
mod patent;
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
