//! The director: from the clients' rings to the workers'.
//!
//! ```text
//! core     the data path: poll, check, route, dispatch, or let wait        ┐
//! attach   who comes and goes, and what a death leaves                     │ no I/O, over any memory
//! session  what the director keeps of a client      table  who provides what
//! worker   what it keeps of a worker                recovery  what it inherits  ┘
//! data     the thread that drives the core          control  the thread of sockets and descriptors
//! link     what the two say to each other           handle   what a program holds
//! earlier  what a killed director left
//! ```

pub mod attach;
mod control;
pub mod core;
mod data;
mod earlier;
pub(crate) mod handle;
pub mod inspect;
mod link;
pub mod recovery;
pub(crate) mod rows;
pub mod session;
pub mod table;
pub mod worker;

#[cfg(test)]
mod hostile_tests;
