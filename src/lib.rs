//! Trine: brokered calls between processes of one Linux host, in three messages through shared memory.
#![deny(unsafe_code)]

pub mod client;
mod control;
pub mod core;
pub mod director;
mod error;
mod identity;
pub mod layout;
pub mod limits;
#[allow(unsafe_code, dead_code, unused_imports)]
mod memory;
pub mod worker;

pub use error::{CallError, Error, Fault, Status};
pub use identity::Identity;
