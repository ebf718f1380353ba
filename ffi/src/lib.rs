//! The C interface: `include/trine.h` is generated from this crate, and its rules stand at the head of that file.
//!
//! ```text
//! extern "C" fn ── handle: is it one, of this kind, nobody else's now? ── the trine crate ── status, error text
//!                  └ a panic ends here                  in place: shelf, kept until freed
//! ```
//! A borrow can't cross this border. A call is its ticket, a request its number, a reply that is read in place lies on
//! a [`shelf`] until it is freed. What a caller does wrong gives `TRINE_EINVAL`, as far as it can be seen at all.
#![allow(
    non_camel_case_types,
    clippy::missing_safety_doc,
    reason = "C's names; the header states the contract"
)]

mod client;
mod director;
mod handle;
mod input;
mod log;
mod resource;
mod rights;
mod shelf;
mod status;
mod types;
mod worker;

pub use client::*;
pub use director::*;
pub use handle::trine_error;
pub use log::*;
pub use resource::*;
pub use rights::*;
pub use status::*;
pub use types::*;
pub use worker::*;
