//! The worker: from its ring to the client's reply slot.
//!
//! ```text
//! core      take, begin, reply             no I/O, over any memory
//! attached  the core, its memory, its sessions, its connection
//! rights    what it holds exclusively
//! handle    what a program holds           request  one request in its hands
//! ```

mod attached;
pub mod core;
pub(crate) mod handle;
pub(crate) mod request;
pub mod rights;
