//! The worker: from its ring to the client's reply slot.
//!
//! ```text
//! core      take, begin, reply             no I/O, over any memory
//! attached  the core, its memory, its sessions, its connection
//! rights    what it holds exclusively
//! inner     its attachments, what it has begun       look  a wait, as the loop drives it
//! handle    what a program holds           request  one request in its hands        stop  what ends a wait
//! ```

mod attached;
pub mod core;
pub(crate) mod handle;
mod inner;
mod look;
pub(crate) mod request;
pub mod rights;
pub(crate) mod stop;
