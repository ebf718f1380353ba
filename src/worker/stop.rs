//! What stops or wakes a worker, from another thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::memory::Doorbell;

/// Asks a worker to stop, from any thread.
#[derive(Clone)]
pub struct Stopper(pub(super) Arc<Stop>);

pub(super) struct Stop {
    pub(super) asked: AtomicBool,
    pub(super) woken: AtomicBool,
    pub(super) bell: Doorbell,
}

impl Stopper {
    /// The worker's `next` and `serve` return, now and from now on. Returns at once.
    pub fn stop(&self) {
        self.0.asked.store(true, Ordering::Release); // pairs with the acquire in is_asked
        self.0.bell.ring();
    }

    /// The worker's `next` or `serve`, the one under way or else the next one, returns; once. Does nothing that is
    /// forbidden in a signal handler: an atomic store and a `write`.
    pub fn wake(&self) {
        self.0.woken.store(true, Ordering::Release); // pairs with the acquire in take_woken
        self.0.bell.ring();
    }
}

impl Stop {
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire) // pairs with the release in Stopper::stop
    }

    pub fn is_woken(&self) -> bool {
        self.woken.load(Ordering::Relaxed)
    }

    pub fn take_woken(&self) -> bool {
        self.is_woken() && self.woken.swap(false, Ordering::Acquire) // pairs with the release in Stopper::wake
    }

    /// Whether the worker is to come back for any reason.
    pub fn is_rung(&self) -> bool {
        self.is_asked() || self.is_woken()
    }
}
