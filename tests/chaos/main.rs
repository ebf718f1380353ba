//! Chaos: eight clients, six workers and a director, all real processes, killed, stopped and restarted at random while
//! they call; and a checker that reconciles what the clients were told with what the workers did.
//!
//! ```text
//! this process ── storm: kills, stops, restarts, from a seed
//!      ├── director          ┐
//!      ├── worker × 6        ├─ log: a shared file mapping, which no kill takes anything from
//!      └── client × 8        ┘       call: how it ended (its client), begun, finished (whoever ran it)
//! ```
//! A run has rounds of a few seconds. After each the storm rests until every call has ended and every party is back;
//! then each call must have ended once, and what its end said must be true: OK ran exactly once, "did not run" never
//! began, and nothing began twice. The books must be balanced: nothing in flight, nothing waiting, nobody accused (by no
//! director, killed ones included), no segment too many.
//!
//! `TRINE_CHAOS_SECONDS` says how long (10), `TRINE_CHAOS_SEED` what the storm and the clients choose. Real processes
//! are timed by the kernel, so a seed gives the same decisions, not the same run.

mod books;
mod log;
mod roles;
mod storm;
#[allow(dead_code)] // it serves the other tests with real processes, too
#[path = "../proof/support.rs"]
mod support;

use std::time::Duration;

fn variable(name: &str, or: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(or)
}

#[test]
fn every_call_ends_once_and_truly_whoever_is_killed_or_stopped() {
    let seconds = variable("TRINE_CHAOS_SECONDS", 10);
    let seed = variable("TRINE_CHAOS_SEED", 4711);
    let tally = storm::run(seed, Duration::from_secs(seconds));
    println!("seed {seed}, {seconds} s: {tally}");
}

/// Where a process that the storm has started begins. Run by itself it plays nothing.
#[test]
fn role() {
    if let Ok(role) = std::env::var(support::ROLE) {
        roles::play(&role);
        std::process::exit(0);
    }
}
