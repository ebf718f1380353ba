//! The client: from a free slot to the result.

pub mod core;
