//! The worker: from its ring to the client's reply slot.

pub mod core;
