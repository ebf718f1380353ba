//! Each core over hostile memory, as random sequences of calls: the stable form of what `fuzz/` does with coverage.
//!
//! ```text
//! bytes ─► director │ client │ worker: which call next, with what; what the peers store; what loads return
//! ```
//! A peer's region may return anything at any load (see [`memory`]). Whatever comes, no core panics, none loops without
//! end, none keeps what nobody has any more, and none hands out an outcome twice.
//!
//! `TRINE_FUZZ_RUNS` says how many inputs each core gets (3,000), `TRINE_FUZZ_SEED` the first one's seed.

mod client;
mod director;
mod memory;
mod worker;

fn variable(name: &str, or: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(or)
}

/// Runs inputs that look random, most of them short.
fn inputs(core: &str, run: fn(&[u8]) -> u64) {
    let (runs, first) = (variable("TRINE_FUZZ_RUNS", 3_000), variable("TRINE_FUZZ_SEED", 1));
    let mut calls = 0;
    for seed in first..first + runs {
        let mut random = fastrand::Rng::with_seed(seed);
        let longest = 1 << random.usize(5..13);
        let len = random.usize(16..longest);
        let input: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(len).collect();
        let ended = std::panic::catch_unwind(|| run(&input));
        calls += ended.unwrap_or_else(|panic| {
            eprintln!("the {core}'s core, seed {seed}");
            std::panic::resume_unwind(panic)
        });
    }
    println!("{core}: {runs} inputs, {calls} calls of its core");
}

#[test]
fn the_directors_core_bears_anything() {
    inputs("director", director::run);
}

#[test]
fn a_clients_core_bears_anything() {
    inputs("client", client::run);
}

#[test]
fn a_workers_core_bears_anything() {
    inputs("worker", worker::run);
}
