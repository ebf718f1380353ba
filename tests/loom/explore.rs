//! Running a model: through all its executions, through all deaths of its mortal party, or until it fails.

use crate::memory::Death;
use loom::sync::atomic::{AtomicU64, Ordering};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::atomic::{AtomicU64 as Counter, Ordering::Relaxed};
use std::sync::{Arc, Once};

/// Runs a model through all its executions and says how many there were. `preemptions` bounds how often a party is
/// interrupted in one execution where it need not wait; without it, there is no bound.
pub fn explore(name: &str, preemptions: Option<usize>, model: impl Fn() + Send + Sync + 'static) {
    let executions = count(preemptions, model);
    println!("{name}: {executions} executions");
}

/// The same, once for each death that the mortal party can die, the first being none.
pub fn explore_deaths<M>(name: &str, preemptions: Option<usize>, model: impl Fn(Death) -> M)
where
    M: Fn() + Send + Sync + 'static,
{
    let (mut executions, mut deaths, mut lost) = (0, 0, Some(0));
    while let Some(now) = lost {
        let death = Death { lost: now, ..Death::default() };
        executions += count(preemptions, model(death.clone()));
        deaths += 1;
        lost = next(now, death.choices.load(Relaxed));
    }
    assert!(deaths > 1, "{name}: nobody died");
    println!("{name}: {deaths} deaths, {executions} executions");
}

/// The next leaf of the tree of choices, where `lost` was a leaf after so many.
fn next(lost: u64, choices: u32) -> Option<u64> {
    let kept = (0..choices).rev().find(|i| lost >> i & 1 == 0)?;
    Some(lost & ((1 << kept) - 1) | 1 << kept)
}

fn count(preemptions: Option<usize>, model: impl Fn() + Send + Sync + 'static) -> u64 {
    let executions = Arc::new(Counter::new(0));
    let counter = executions.clone();
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(move || {
        counter.fetch_add(1, Relaxed);
        model();
    });
    executions.load(Relaxed)
}

/// Runs what must fail, and for this reason: that a model runs out of branches proves nothing.
pub fn breaks(reason: &str, run: impl FnOnce()) {
    thread_local!(static QUIET: Cell<bool> = const { Cell::new(false) });
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = take_hook();
        set_hook(Box::new(move |info| {
            if !QUIET.get() {
                loud(info)
            }
        }));
    });
    QUIET.set(true);
    let result = catch_unwind(AssertUnwindSafe(run));
    QUIET.set(false);
    let payload =
        result.expect_err("the weakened model holds: the model sees nothing, or the rule is not needed");
    let message =
        payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref::<&str>().copied());
    let message = message.unwrap_or("(not a text)");
    assert!(message.contains(reason), "the model fails for another reason than \"{reason}\": {message}");
}

/// Looks until there is something, and lets the others run in between.
pub fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    loop {
        if let Some(found) = look() {
            return found;
        }
        loom::thread::yield_now();
    }
}

/// What the kernel counts for us: rings of a doorbell, deaths that a pidfd reports. As there, whoever sees the count
/// sees what was stored before it was raised.
#[derive(Clone)]
pub struct Event(Arc<AtomicU64>);

impl Event {
    pub fn new() -> Self {
        Event(Arc::new(AtomicU64::new(0)))
    }

    pub fn raise(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    pub fn wait_for(&self, count: u64) {
        until(|| (self.count() >= count).then_some(()));
    }
}
