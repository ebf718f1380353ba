//! Trine: brokered calls between processes of one Linux host, in three messages through shared memory.
#![deny(unsafe_code)]

mod bus;
// Its users are the client, the worker and the director.
#[allow(dead_code, unused_imports)]
mod control;
pub mod core;
mod error;
pub mod layout;
pub mod limits;
#[allow(unsafe_code)]
mod memory;

pub use bus::Bus;
pub use error::{CallError, Error, Fault, Status};
