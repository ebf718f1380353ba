//! Trine: brokered calls between processes of one Linux host, in three messages through shared memory.
#![deny(unsafe_code)]

mod control;
pub mod core;
mod error;
pub mod layout;
pub mod limits;
#[allow(unsafe_code, dead_code, unused_imports)]
mod memory;

pub use error::{CallError, Error, Fault, Status};
