//! The time, which the kernel keeps in a page that every process can read.
//!
//! Asked for directly: what comes between copies the two words that were just stored at once, and has to wait for them to
//! leave the processor's store queue: see [`map`](super::map).

use std::mem::MaybeUninit;

use nix::libc::{CLOCK_MONOTONIC, CLOCK_MONOTONIC_COARSE, clock_gettime, clockid_t, timespec};

/// CLOCK_MONOTONIC, in nanoseconds.
#[inline]
pub fn now_ns() -> u64 {
    clock_ns(CLOCK_MONOTONIC)
}

/// CLOCK_MONOTONIC as of the kernel's last tick, some milliseconds ago at most: for a fifth of what the exact time
/// costs.
#[inline]
pub fn coarse_ns() -> u64 {
    clock_ns(CLOCK_MONOTONIC_COARSE)
}

#[inline]
fn clock_ns(clock: clockid_t) -> u64 {
    let mut time = MaybeUninit::<timespec>::uninit();
    // SAFETY: `time` is this function's own, and may be written. Both clocks are always there, so it has been.
    let time = unsafe {
        clock_gettime(clock, time.as_mut_ptr());
        time.assume_init_ref()
    };
    // Since boot: neither is negative.
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
