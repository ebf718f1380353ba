//! Whole buses in one thread, from a seed: two clients, a director and two workers run the code that ships, over
//! simulated memory, interleaved between single stores and loads, and are killed at any of them.
//!
//! ```text
//! seed ─► plan (sizes, speeds, deaths) ─► schedule (who makes the next step) ─► at rest: has every call ended, once,
//!                                                                              truly, and is nothing left over?
//! ```
//! A seed that fails can be replayed with a trace of every store:
//! `TRINE_SEED=123 cargo test --test simulator every_call -- --nocapture`; `TRINE_SCHEDULES=n` sets how many run.
//! The other tests switch a rule off, in the simulated memory or the simulated shells, and demand that a schedule
//! fails: a simulator that can't fail proves nothing.

mod simulator {
    pub mod client;
    pub mod coverage;
    pub mod director;
    pub mod memory;
    pub mod plan;
    pub mod referee;
    pub mod runner;
    pub mod worker;
    pub mod world;
}

use simulator::plan::Mutation;
use simulator::runner::Runner;

const SCHEDULES: u64 = 100_000;
/// Schedules in which a rule that is switched off must have shown.
const MUTANT_SCHEDULES: u64 = 5_000;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn every_call_ends_exactly_once_and_truly() {
    let mut runner = Runner::default();
    if let Some(seed) = number("TRINE_SEED") {
        let result = runner.run(seed, Mutation::None, true);
        println!("{}", runner.coverage);
        return assert_eq!(result, Ok(()));
    }
    let schedules = number("TRINE_SCHEDULES").unwrap_or(SCHEDULES);
    for seed in 0..schedules {
        if let Err(why) = runner.run(seed, Mutation::None, false) {
            panic!(
                "schedule {seed}: {why}\nreplay it with \
                 TRINE_SEED={seed} cargo test --test simulator every_call -- --nocapture"
            );
        }
    }
    println!("{}", runner.coverage);
    let missing = runner.coverage.missing();
    assert!(schedules < SCHEDULES || missing.is_empty(), "no schedule has met {missing:?}");
}

/// Runs schedules with a rule switched off until one fails as expected.
fn is_caught(mutation: Mutation, expected: &str) {
    let mut runner = Runner::default();
    let caught = (0..MUTANT_SCHEDULES).find_map(|seed| {
        let why = runner.run(seed, mutation, false).err()?;
        why.contains(expected).then_some((seed, why))
    });
    let Some((seed, why)) = caught else {
        panic!("{MUTANT_SCHEDULES} schedules of {mutation:?}, and none failed as \"{expected}\"")
    };
    println!("{mutation:?} is caught by schedule {seed}: {why}");
}

#[test]
fn a_missing_full_fence_loses_a_wake_up() {
    is_caught(Mutation::NoFullFence, "never ends");
}

#[test]
fn taken_after_the_run_runs_a_call_twice() {
    is_caught(Mutation::LateTaken, "runs a second time");
}

#[test]
fn a_stamp_before_its_record_shows_half_an_answer() {
    is_caught(Mutation::LateReplyBody, "record [");
}

#[test]
fn a_death_that_rings_nobody_leaves_a_call_open() {
    is_caught(Mutation::NoRingOnDeath, "never ends");
}

#[test]
fn a_death_reported_before_the_kill_gives_a_slot_two_writers() {
    is_caught(Mutation::DeathBeforeKill, "writes reply slot");
}

#[test]
fn a_session_said_to_be_unmapped_too_early_is_written_after_its_end() {
    is_caught(Mutation::EarlyUnmapped, "whose owner has it back");
}

#[test]
fn a_session_said_to_be_mapped_too_early_loses_a_call() {
    is_caught(Mutation::EarlyMapped, "never ends");
}

#[test]
fn a_lost_ring_to_the_director_leaves_a_call_waiting() {
    is_caught(Mutation::DeafDirector, "never ends");
}
