//! What the parties of the benchmark share, whatever carries their messages.
//!
//! ```text
//! payload     words that say at both ends whether they arrived whole
//! load        when a client calls: at once again, every millisecond, at a given rate; so many in flight
//! latencies   percentiles
//! party       what a process that takes part is told, and what it tells
//! subject     what is measured: which processes, in which order, on whose CPU
//! ```
//! Trine, its floors and everything that it is compared with are driven by this code, so a difference between two
//! rows is a difference between what carries the messages. It is a package of its own because the programs that it
//! is compared with are one: nobody who builds Trine builds them.
#![deny(unsafe_code)]

pub mod latencies;
pub mod load;
pub mod party;
pub mod payload;
pub mod subject;

pub use latencies::{Latencies, Summary};
pub use load::{Caller, Load, Measured};
pub use party::{PartyOptions, Wait, ready};
pub use subject::{Party, Seat, Subject};
