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
    pub mod broken;
    pub mod client;
    pub mod coverage;
    pub mod director;
    pub mod holder;
    pub mod holdings;
    pub mod memory;
    pub mod plan;
    pub mod referee;
    pub mod runner;
    pub mod scatter;
    pub mod worker;
    pub mod world;
}

use simulator::coverage::Seen;
use simulator::plan::{Mutation, Plan};
use simulator::runner::Runner;
use trine::Unheld;

const SCHEDULES: u64 = 200_000;
/// Schedules in which a rule that is switched off must have shown.
const MUTANT_SCHEDULES: u64 = 50_000;

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
    let (first, schedules) =
        (number("TRINE_FIRST").unwrap_or(0), number("TRINE_SCHEDULES").unwrap_or(SCHEDULES));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let seeds = |thread: usize| (first..first + schedules).skip(thread).step_by(threads);
    let run = |thread| {
        let mut runner = Runner::default();
        let failed =
            seeds(thread).find_map(|seed| Some((seed, runner.run(seed, Mutation::None, false).err()?)));
        (runner.coverage, failed)
    };
    let results = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || run(thread))).collect();
        running.into_iter().map(|thread| thread.join().expect("a thread of schedules")).collect::<Vec<_>>()
    });
    let mut coverage = runner.coverage;
    for (part, failed) in results {
        if let Some((seed, why)) = failed {
            panic!(
                "schedule {seed}: {why}\nreplay it with \
                 TRINE_SEED={seed} cargo test --test simulator every_call -- --nocapture"
            );
        }
        coverage.join(&part);
    }
    println!("{coverage}");
    let missing = coverage.missing();
    assert!(schedules < SCHEDULES || missing.is_empty(), "no schedule has met {missing:?}");
}

/// A seed that fails is worth something only if it fails again.
#[test]
fn a_seed_is_one_schedule() {
    let (mut once, mut again) = (Runner::default(), Runner::default());
    for seed in 0..4_000 {
        let results = [&mut once, &mut again].map(|runner| runner.run(seed, Mutation::None, false));
        assert_eq!(results[0], results[1], "seed {seed}");
        assert_eq!(once.coverage.steps, again.coverage.steps, "seed {seed}");
    }
}

/// One call, with the first director, the second, a worker and the client killed at these steps (0: not at all), under
/// several schedules. Returns whether the director and the worker came that far in any.
fn one_call(runner: &mut Runner, kills: [u32; 4]) -> (bool, bool) {
    let mut died = (false, false);
    for seed in 0..3 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let plan = Plan::one_call(&mut rng, kills);
        if let Err(why) = runner.run_plan(plan, rng, number("TRINE_TRACE").is_some()) {
            panic!("one call, kills at {kills:?}, schedule {seed}: {why}");
        }
        died = (died.0 | runner.director_died, died.1 | runner.worker_died);
    }
    died
}

#[test]
fn one_call_survives_every_kill_of_every_party() {
    let mut runner = Runner::default();
    for at in 1..400 {
        one_call(&mut runner, [at, 0, 0, 0]);
        one_call(&mut runner, [0, 0, at, 0]);
        one_call(&mut runner, [0, 0, 0, at]);
    }
    println!("{}", runner.coverage);
}

#[test]
fn one_call_survives_every_pair_of_kills() {
    let mut runner = Runner::default();
    let (mut director, mut went_on) = (1, true);
    while went_on {
        went_on = false;
        let mut worker = 0;
        loop {
            let (director_died, worker_died) = one_call(&mut runner, [director, 0, worker, 0]);
            went_on |= director_died;
            if worker > 0 && !worker_died {
                break;
            }
            worker += 1;
        }
        let mut successor = 1;
        while successor < 80 {
            one_call(&mut runner, [director, successor, 0, 0]);
            successor += 1;
        }
        director += 1;
    }
    println!("{director} steps of the director; {}", runner.coverage);
}

/// One scatter, with the same kills as in `one_call`.
fn one_scatter(runner: &mut Runner, kills: [u32; 4]) -> bool {
    let mut died = false;
    for seed in 0..6 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let plan = Plan { scatter: true, ..Plan::one_call(&mut rng, kills) };
        if let Err(why) = runner.run_plan(plan, rng, number("TRINE_TRACE").is_some()) {
            panic!("one scatter, kills at {kills:?}, schedule {seed}: {why}");
        }
        died |= runner.director_died;
    }
    died
}

#[test]
fn one_scatter_survives_every_kill_of_every_party() {
    let mut runner = Runner::default();
    for at in 1..500 {
        one_scatter(&mut runner, [0, 0, at, 0]);
        one_scatter(&mut runner, [0, 0, 0, at]);
        if one_scatter(&mut runner, [at, 0, 0, 0]) {
            for successor in (1..100).step_by(3) {
                one_scatter(&mut runner, [at, successor, 0, 0]);
            }
        }
    }
    println!("{}", runner.coverage);
}

/// One scatter on keys of which two workers hold some, or are offered them, with the same kills. Returns whether a
/// director, and whether a worker, came so far.
fn one_scatter_on_locks(runner: &mut Runner, kills: [u32; 4]) -> (bool, bool) {
    let mut died = (false, false);
    for seed in 0..6 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let unheld = [Unheld::Offer, Unheld::Wait, Unheld::Error][seed as usize % 3];
        let one = Plan::one_call(&mut rng, kills);
        let plan = Plan { scatter: true, exclusive: Some(unheld), workers: 2, ..one };
        if let Err(why) = runner.run_plan(plan, rng, number("TRINE_TRACE").is_some()) {
            panic!("one scatter on locks, kills at {kills:?}, schedule {seed}: {why}");
        }
        died = (died.0 | runner.director_died, died.1 | runner.worker_died);
    }
    died
}

#[test]
fn one_scatter_on_exclusive_keys_survives_every_kill_of_every_party() {
    let mut runner = Runner::default();
    for at in 1..600 {
        one_scatter_on_locks(&mut runner, [0, 0, at, 0]);
        one_scatter_on_locks(&mut runner, [0, 0, 0, at]);
        if one_scatter_on_locks(&mut runner, [at, 0, 0, 0]).0 {
            for other in (1..120).step_by(5) {
                one_scatter_on_locks(&mut runner, [at, other, 0, 0]);
                one_scatter_on_locks(&mut runner, [at, 0, other, 0]);
            }
        }
    }
    println!("{}", runner.coverage);
}

/// One call on a key that both workers want, with the same kills as in `one_call`. Returns who died in any schedule:
/// the first director, and the worker.
fn one_keyed_call(runner: &mut Runner, kills: [u32; 4]) -> (bool, bool) {
    let mut died = (false, false);
    for seed in 0..3 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let plan = Plan::one_keyed_call(&mut rng, kills);
        if let Err(why) = runner.run_plan(plan, rng, number("TRINE_TRACE").is_some()) {
            panic!("one call on a key, kills at {kills:?}, schedule {seed}: {why}");
        }
        died = (died.0 | runner.director_died, died.1 | runner.worker_died);
    }
    died
}

#[test]
fn a_call_on_a_key_that_changes_hands_survives_every_kill_of_every_party() {
    let mut runner = Runner::default();
    for at in 1..600 {
        one_keyed_call(&mut runner, [at, 0, 0, 0]);
        one_keyed_call(&mut runner, [0, 0, at, 0]);
        one_keyed_call(&mut runner, [0, 0, 0, at]);
    }
    println!("{}", runner.coverage);
    let missing = runner.coverage.missing();
    assert!(!missing.contains(&Seen::HandedOver) && !missing.contains(&Seen::RunsExclusively), "{missing:?}");
}

/// Pairs of kills between which there are none: 1 is every pair.
const KEYED_STRIDE: u32 = 3;

#[test]
fn a_call_on_a_key_that_changes_hands_survives_pairs_of_kills() {
    let stride = number("TRINE_PAIR_STRIDE").map_or(KEYED_STRIDE, |n| n as u32);
    let mut runner = Runner::default();
    let (mut director, mut went_on) = (1, true);
    while went_on {
        went_on = false;
        for worker in (0..).map(|n| if n == 0 { 0 } else { 1 + (n - 1) * stride }) {
            let (director_died, worker_died) = one_keyed_call(&mut runner, [director, 0, worker, 0]);
            went_on |= director_died;
            if worker > 0 && !worker_died {
                break;
            }
        }
        for successor in (1..120).step_by(stride as usize) {
            one_keyed_call(&mut runner, [director, successor, 0, 0]);
        }
        director += stride;
    }
    println!("{director} steps of the director, every {stride}.; {}", runner.coverage);
}

/// Runs schedules with a rule switched off until one fails as expected.
fn is_caught(mutation: Mutation, expected: &str) {
    is_caught_from(0, mutation, expected);
}

/// The same from this schedule on: of one that shows seldom, from near where it does.
fn is_caught_from(first: u64, mutation: Mutation, expected: &str) {
    let mut runner = Runner::default();
    let caught = (first..first + MUTANT_SCHEDULES).find_map(|seed| {
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

#[test]
fn a_worker_that_keeps_taking_runs_a_call_twice() {
    is_caught(Mutation::KeepsTaking, "a second time");
}

#[test]
fn a_segment_told_before_it_is_linked_is_not_found() {
    is_caught(Mutation::ToldBeforeLinked, "is pushed, but Worker");
}

#[test]
fn a_dead_workers_ledger_dropped_at_once_lets_its_calls_run_twice() {
    is_caught(Mutation::DeadLedgersDropped, "a second time");
}

#[test]
fn a_ring_that_starts_where_the_worker_stood_uses_positions_twice() {
    is_caught(Mutation::StartAtTaken, "is used again");
}

#[test]
fn entries_left_behind_leave_calls_to_nobody() {
    is_caught(Mutation::NothingCarried, "though everybody was there");
}

#[test]
fn what_is_published_again_in_silence_gives_a_slot_two_writers() {
    is_caught(Mutation::SilentAgain, "is out");
}

#[test]
fn a_ledger_entered_after_the_push_lets_a_call_run_twice() {
    is_caught(Mutation::LateLedger, "a second time");
}

#[test]
fn a_director_that_waits_for_nobody_cannot_tell_what_has_run() {
    is_caught(Mutation::NoWindow, "though");
}

#[test]
fn a_record_taken_before_its_grant_was_read_runs_without_the_right() {
    is_caught(Mutation::RightsUnread, "which it does not hold");
}

#[test]
fn a_right_given_up_before_the_ring_is_served_runs_what_it_has_lost() {
    is_caught(Mutation::YieldsAtOnce, "which it does not hold");
}

#[test]
fn a_right_given_up_while_a_call_on_it_runs_has_two_holders() {
    is_caught(Mutation::YieldsWhatRuns, "still runs call");
}

#[test]
fn what_was_withdrawn_and_is_held_is_presented_again_or_has_two_holders() {
    is_caught_from(100_000, Mutation::WithdrawnUnsaid, "holds it");
}

#[test]
fn a_worker_that_is_refused_and_renounces_before_its_program_has_heard_is_robbed() {
    is_caught(Mutation::RenouncesUnheard, "holds it");
}

#[test]
fn marks_that_are_not_carried_over_let_a_right_be_held_twice() {
    is_caught(Mutation::MarksDropped, "holds it");
}

#[test]
fn a_worker_that_has_told_all_before_it_has_told_what_it_holds_is_robbed() {
    is_caught(Mutation::HoldsUnsaid, "holds it");
}

#[test]
fn an_entry_that_stays_valid_while_it_is_overwritten_names_a_call_that_is_not_there() {
    is_caught(Mutation::EntryStaysValid, "though no worker has died");
}

#[test]
fn an_entry_used_again_by_count_forgets_a_call_that_runs() {
    is_caught(Mutation::EntryByCount, "is pushed, but Worker");
}

#[test]
fn a_request_ring_of_one_slot_a_ticket_loses_requests() {
    is_caught(Mutation::SmallRing, "a fault of Session");
}

#[test]
fn what_is_taken_back_from_the_living_has_two_holders() {
    is_caught(Mutation::TakenBack, "writes reply slot");
}

#[test]
fn a_slot_that_is_free_when_its_call_was_given_up_has_two_calls() {
    is_caught(Mutation::FreedByDeadline, "publishes ticket");
}

#[test]
fn a_stamp_looked_for_by_equality_is_missed() {
    is_caught(Mutation::StampByEquality, "writes reply slot");
}

#[test]
fn a_ledger_dropped_while_a_client_is_away_lets_its_call_run_twice() {
    is_caught(Mutation::LedgerNotKept, "a second time");
}

#[test]
fn a_request_stamped_before_its_body_is_torn() {
    is_caught(Mutation::LateRequestBody, "a torn request");
}

#[test]
fn a_work_record_stamped_before_its_body_is_torn() {
    is_caught(Mutation::LateWorkBody, "a torn request");
}

#[test]
fn a_call_marked_done_before_its_answer_is_lost_with_its_worker() {
    is_caught(Mutation::DoneBeforeStamp, "never ends");
}

#[test]
fn a_director_that_forgets_ledgers_and_does_not_say_so_lets_a_call_run_twice() {
    is_caught(Mutation::SettledUnsaid, "a second time");
}

#[test]
fn what_was_published_since_and_is_published_again_breaks_the_protocol() {
    is_caught(Mutation::KnownPublishedAgain, "in a slot whose call");
}
