//! Trine: brokered calls between processes of one Linux host, in three messages through shared memory.
//!
//! ```text
//!             1 request                      2 work
//!   client ───────────────► director ───────────────► worker
//!      ▲                                                 │
//!      └───────────────────── 3 reply ───────────────────┘
//! ```
//! A [`Client`] calls an operation of a service by name. The [`Director`] knows who provides it, and passes the call
//! on. The [`Worker`] writes the result straight into the client's memory.
//!
//! ```
//! use trine::{Bus, ClientOptions, Director, DirectorOptions, WorkerOptions};
//!
//! let folder = tempfile::tempdir()?;
//! let bus = Bus::at(folder.path());
//! let _director = Director::new(&bus, DirectorOptions::default())?.spawn()?;
//!
//! let worker = bus.worker(WorkerOptions::default())?;
//! worker.provide("text", &["upper"])?;
//! let stopper = worker.stopper();
//! let serving = std::thread::spawn(move || {
//!     worker.serve(|request| {
//!         let text = request.bytes().to_vec();
//!         request.reply(&text.to_ascii_uppercase())
//!     })
//! });
//!
//! let client = bus.client(ClientOptions::default())?;
//! let upper = client.route("text", "upper")?;
//! assert_eq!(client.call(upper, b"three messages")?.bytes().to_vec(), b"THREE MESSAGES");
//!
//! stopper.stop();
//! serving.join().expect("no panic")?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Where to read on: [`Client::call`] and [`Client::request`] for calls, [`Worker::serve`] and [`Request`] for
//! serving, [`Status`] for how things end. The modules [`core`], [`client::core`](mod@client::core) and so on are the
//! machinery: state machines without I/O, public so that the models and simulators outside this crate can run them.
#![deny(unsafe_code)]

pub mod access;
mod bus;
pub mod client;
mod control;
pub mod core;
pub mod director;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod identity;
mod intervals;
pub mod layout;
pub mod limits;
#[allow(unsafe_code)]
mod memory;
pub mod resource;
pub mod scatter;
mod shared;
mod waiting;
pub mod worker;

pub use bus::Bus;
pub use client::call::{Draft, Hops, KeptLoan, KeptReply, Loan, Pending, Reply};
pub use client::handle::{Client, Route, Ticket};
pub use client::options::ClientOptions;
pub use client::parts::{Part, Parts};
pub use director::explain::{Explanation, Finding};
pub use director::handle::{Director, DirectorHandle, DirectorOptions, DirectorReloader, DirectorStopper};
pub use director::inspect::{Inspection, ServiceInfo, SessionInfo, WorkerInfo};
pub use director::quota::{Quota, Quotas};
pub use director::rows::KeyText;
pub use error::{CallError, Error, Fault, Status};
pub use identity::Identity;
pub use resource::{Changes, Key, Policy, Priority, Resource, ServiceOptions, Unheld};
pub use shared::{Reader, Shared};
pub use waiting::{Armed, Until, Waiting};
pub use worker::handle::{RequestId, Worker, WorkerOptions};
pub use worker::request::{Details, Kept, Request, Served, SharedMut};
pub use worker::rights::Event;
pub use worker::stop::Stopper;
