//! Real kills: one call, and the client, the worker or the director killed after k instructions of it, for every k.
//!
//! ```text
//! this process (traces, kills, checks; calls, and has a worker of its own)
//!      ├── director ┐
//!      ├── worker   ├─ one of them is the victim: held at a mark, stepped for k instructions, SIGKILL
//!      └── client   ┘
//! ```
//! After each kill the others' calls end truly, the books are balanced, and nothing of the victim is left over. A new
//! victim takes its place, for the next k, until one reaches the end of the path before it is killed.
//!
//! `TRINE_KILL_EVERY` says how many instructions lie between two kills: 1 for each there is, which takes ten minutes. Only the
//! first client or worker is stepped; those after it run to a breakpoint on the path that it took.

mod roles;
mod step;
#[allow(dead_code)] // it serves the other tests with real processes, too
#[path = "../proof/support.rs"]
mod support;
mod victims;

/// Where a process that a test has started begins. Run by itself it plays nothing.
#[test]
fn role() {
    if let Ok(role) = std::env::var(support::ROLE) {
        roles::play(&role);
        std::process::exit(0);
    }
}
