//! What the parties say to each other beside the rings: who is there, what it provides, and which memory to map.
//!
//! ```text
//!  client ──┐   Hello, OpenSession (outbox, inbox, doorbell), OpenRoute            ┌── bus's folder
//!           ├─────────────── SOCK_SEQPACKET ───────────────► director ─────────────┤   socket, lock, secret,
//!  worker ──┘   Hello, OpenWorker (page, doorbell), Provide                        └── epoch, workers/
//! ```
//! [`name`] says what a name may be, [`message`] which messages there are, [`coding`] how they are written and read,
//! [`wire`] which bytes their parts are, [`socket`] carries them with their descriptors, [`closer`] closes what nobody
//! wants of these, and [`folder`] is what a director keeps in the file system.
//!
//! This is the cold path: it allocates, makes system calls, and prefers plain checks to speed. Nothing in it blocks
//! but [`socket::Channel::wait_readable`], and nothing a peer sends makes it panic.

pub(crate) mod closer;
mod coding;
pub(crate) mod folder;
pub(crate) mod greeting;
pub(crate) mod message;
pub(crate) mod name;
#[cfg(test)]
pub(crate) mod played;
pub(crate) mod socket;
mod wire;
