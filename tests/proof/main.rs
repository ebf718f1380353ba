//! Real processes and real memory: the promises of the library, one test each.
//!
//! ```text
//! this process ── the tests, often as the client
//!      ├── director   this binary again, in a role: see `roles`
//!      ├── worker …
//!      └── client …   each on a private bus in a temporary folder, killed when its test ends
//! ```
//! Nothing here sleeps in place of a condition: a test waits for what a role says, for what the director tells about
//! itself, or for a process's end, and fails after [`support::PATIENCE`].

mod calls;
mod cancels;
mod deaths;
mod endings;
mod hangs;
mod leaks;
mod quotas;
mod replace;
mod resources;
mod roles;
mod support;
mod trust;

/// Where a process that a test has started begins: see [`support::Role`]. Run by itself it plays nothing.
#[test]
fn role() {
    if let Ok(role) = std::env::var(support::ROLE) {
        roles::play(&role);
        std::process::exit(0);
    }
}
