//! Shared memory and what leads to it: all of the library's unsafe code.
//!
//! ```text
//! who has it      sealed: memfds that a client or a worker presents     named: segments that outlive a director
//!                     └──────────────┬──────────────────────────────────────┘
//! how it is seen                    map: words for the core, and an arena of bytes
//!                                    └── arena: who has which piece of it
//! around it       doorbell: wakes a sleeper    process: who a peer is    fork: whether this is still the process
//!                 clock: what time it is
//! ```
//! A peer is trusted with nothing here: what it hands over is checked before it is mapped, what it may write is only
//! ever behind atomics, and every index is compared with a bound that is private memory.
//!
//! A forked child has none of the mappings. Whoever hands out a handle keeps a [`Fork`] in it and looks at that
//! before it touches memory; dropping is safe by itself.

mod arena;
mod clock;
mod descriptor;
mod doorbell;
mod fork;
mod map;
pub mod named;
mod process;
pub mod sealed;
mod slice;

pub use arena::{Arena, Block, Span, Spans};
pub use clock::{coarse_ns, now_ns};
pub use descriptor::is_closed_at_once;
pub use doorbell::{Among, Doorbell};
pub use fork::Fork;
pub use map::{Mapped, Ro, Rw};
pub use process::{Process, boot_id, own_uid, peer_uid, pid_namespace_inode};

/// Forks; true if the child says so. The child runs in a copy of one thread of many: it should do little.
#[cfg(test)]
pub(crate) fn in_child(child: impl FnOnce() -> bool) -> bool {
    use nix::sys::wait::{WaitStatus, waitpid};
    let child = start_child(child);
    waitpid(child, None) == Ok(WaitStatus::Exited(child, 0))
}

/// The same; its end is not waited for.
#[cfg(test)]
pub(crate) fn start_child(child: impl FnOnce() -> bool) -> nix::unistd::Pid {
    use nix::unistd::{ForkResult, fork};
    // SAFETY: the child only runs what the test gave it (the allocator's lock is taken over by the C library) and
    // leaves by _exit.
    match unsafe { fork() }.expect("fork") {
        ForkResult::Child => {
            let said = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child));
            // SAFETY: ends this process at once, running nothing.
            unsafe { nix::libc::_exit(if matches!(said, Ok(true)) { 0 } else { 1 }) }
        }
        ForkResult::Parent { child } => child,
    }
}
