//! Trine in tokio: an [`AsyncClient`] that any number of tasks call with, and an [`AsyncWorker`] that serves many requests
//! at a time. Each waits on its handle's own descriptor: no thread is used.
//!
//! ```text
//! drain ─► arm ─► the descriptor is not readable: sleep ─► disarm ─► drain …
//! ```
//! What is dropped is given up: the future of a call cancels it, and its worker can see that; a request that a handler
//! drops is answered WORKER_ERROR.
//!
//! Connecting, finding an operation for the first time, and providing a service are round trips on a socket that the
//! thread waits for: some ten microseconds, or as long as a director is looked for.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! use trine::{Bus, ClientOptions, Director, DirectorOptions, WorkerOptions};
//! use trine_tokio::{AsyncClient, AsyncRequest, AsyncWorker};
//!
//! let folder = tempfile::tempdir()?;
//! let bus = Bus::at(folder.path());
//! let _director = Director::new(&bus, DirectorOptions::default())?.spawn()?;
//!
//! let worker = bus.worker(WorkerOptions::default())?;
//! worker.provide("text", &["upper"])?;
//! let mut worker = AsyncWorker::new(worker)?;
//! let serving = tokio::spawn(async move {
//!     let handler = |request: AsyncRequest| async move {
//!         let text = request.to_vec();
//!         request.reply(&text.to_ascii_uppercase());
//!     };
//!     worker.serve(64, handler).await
//! });
//!
//! let client = AsyncClient::new(bus.client(ClientOptions::default())?)?;
//! let upper = client.route("text", "upper")?;
//! let reply = client.call(upper, b"three messages").await?;
//! assert_eq!(reply.bytes().to_vec(), b"THREE MESSAGES");
//! serving.abort();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![deny(unsafe_code)]

mod client;
#[allow(unsafe_code)] // tokio wants to be promised that a descriptor stays open
mod sleep;
mod worker;

pub use client::{AsyncClient, AsyncPart, AsyncParts, AsyncReply};
pub use worker::{AsyncRequest, AsyncWorker};
