//! The director: from the clients' rings to the workers'.
//!
//! ```text
//! core     the data path: poll, check, route, dispatch, or let wait                                ┐
//! attach   who comes and goes, and what a death leaves                                             │ no I/O,
//! session  what the director keeps of a client      table  who provides what, and who holds what   │ over any
//! schedule who gets a call                          mapping  which workers know a session          │ memory
//! change   what workers declare and hold            held   calls on resources that one worker holds│
//! worker   what it keeps of a worker                recovery  what it inherits                     ┘
//! watch    who stands still                         late   workers that were given up, and live
//! data     the thread that drives the core          control  the thread of sockets and descriptors
//! quota    how much one process, and one user, may have
//! link     what the two say to each other           handle   what a program holds
//! names    keys that are names                      faults   what peers did wrong
//! guard    who may do what                          explain  what would happen to a request
//! earlier  what a killed director left
//! ```

pub mod attach;
mod change;
mod control;
pub mod core;
mod data;
mod earlier;
pub mod explain;
mod faults;
mod guard;
pub(crate) mod handle;
mod held;
pub mod inspect;
pub mod late;
mod link;
mod mapping;
mod names;
pub mod quota;
pub mod recovery;
pub(crate) mod rows;
pub mod scatter;
pub mod schedule;
pub mod session;
pub mod table;
mod watch;
pub mod worker;

#[cfg(test)]
mod hostile_tests;
