//! The client: from a free slot to the result.
//!
//! ```text
//! core     slots, tickets, stamps        no I/O, over any memory
//! session  the core, its memory, its connection
//! asking   what it asks the director              silence  whether that one shows signs of life
//! inner    all sessions of a handle      look  a wait, as the loop drives it
//! handle   what a program holds          call  one call of it, from draft to reply
//! group    several tickets of one request         parts  a scatter, as a program sees it
//! ```

mod asking;
pub(crate) mod call;
pub mod core;
pub mod group;
pub(crate) mod handle;
mod inner;
mod look;
pub(crate) mod options;
pub(crate) mod parts;
mod session;
mod silence;

#[cfg(test)]
mod fork_tests;
