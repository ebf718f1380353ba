//! The director: from the clients' rings to the workers'.

pub mod attach;
pub mod core;
pub mod inspect;
pub mod session;
pub mod table;
pub mod worker;
