//! The client: from a free slot to the result.
//!
//! ```text
//! core     slots, tickets, stamps        no I/O, over any memory
//! session  the core, its memory, its connection
//! handle   what a program holds          call  one call of it, from draft to reply
//! ```

pub(crate) mod call;
pub mod core;
pub(crate) mod handle;
mod session;

#[cfg(test)]
mod fork_tests;
