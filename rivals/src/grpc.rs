//! gRPC (tonic) over a Unix socket.
//!
//! ```text
//! client ──► worker ──► client          2 messages
//! ```
//! One thread each: a runtime of several would hand tasks from one to the other. Windows are wide enough for the
//! largest payload; nothing waits to be batched.

use std::pin::Pin;
use std::task::Poll;

use anyhow::Context;
use clap::ValueEnum;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::{Builder, Runtime};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::{Channel, Endpoint, Server, Uri};
use tonic::{Request, Response, Status};
use trine_measure::Seat::{Client, Worker};
use trine_measure::payload::{self, Way};
use trine_measure::{Caller, PartyOptions, Subject, Wait, ready};

use crate::{answered, asked};

mod generated {
    #![allow(clippy::all, missing_docs)]
    include!(concat!(env!("OUT_DIR"), "/bench.Bench.rs"));
}
use generated::bench_client::BenchClient;
use generated::bench_server::{Bench, BenchServer};

/// Which of the processes.
#[derive(Clone, Copy, ValueEnum)]
pub enum Role {
    Client,
    Worker,
}

/// Bytes of a window, and the longest message.
const WINDOW: u32 = 8 << 20;

/// What can be measured.
pub fn subjects() -> Vec<Subject> {
    let parties = [(Worker, "grpc worker"), (Client, "grpc client")];
    vec![Subject::new("grpc, direct", 2, &parties).waiting(&[Wait::Adaptive, Wait::Park]).bounds(1 << 20, 64)]
}

/// Runs it.
pub fn run(role: Role, options: &PartyOptions) -> anyhow::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    match role {
        Role::Worker => runtime.block_on(worker(options)),
        Role::Client => {
            let client = runtime.block_on(connect(options))?;
            let mut calls = Calls { runtime, client, bytes: options.bytes, open: FuturesUnordered::new() };
            options.load.run(&mut calls)?.tell()
        }
    }
}

struct Answers {
    reply_bytes: usize,
}

#[tonic::async_trait]
impl Bench for Answers {
    async fn call(&self, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, Status> {
        let number = asked(request.get_ref()).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let mut answer = vec![0; self.reply_bytes];
        payload::fill(&mut answer, Way::Answer, number);
        Ok(Response::new(answer))
    }
}

async fn worker(options: &PartyOptions) -> anyhow::Result<()> {
    let listener = UnixListener::bind(options.path("grpc")).context("binding a socket")?;
    let service = BenchServer::new(Answers { reply_bytes: options.reply_bytes })
        .max_decoding_message_size(WINDOW as usize)
        .max_encoding_message_size(WINDOW as usize);
    ready();
    Server::builder()
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .add_service(service)
        .serve_with_incoming(UnixListenerStream::new(listener))
        .await
        .context("serving")
}

async fn connect(options: &PartyOptions) -> anyhow::Result<BenchClient<Channel>> {
    let path = options.path("grpc");
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://localhost")
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .connect_with_connector(connector)
        .await
        .context("connecting")?;
    let client = BenchClient::new(channel);
    Ok(client.max_decoding_message_size(WINDOW as usize).max_encoding_message_size(WINDOW as usize))
}

type Open = Pin<Box<dyn Future<Output = Result<Response<Vec<u8>>, Status>>>>;

struct Calls {
    runtime: Runtime,
    client: BenchClient<Channel>,
    bytes: usize,
    open: FuturesUnordered<Open>,
}

impl Caller for Calls {
    fn send(&mut self, number: u64) -> anyhow::Result<()> {
        let mut request = vec![0; self.bytes];
        payload::fill(&mut request, Way::Request, number);
        let mut client = self.client.clone();
        self.open.push(Box::pin(async move { client.call(request).await }));
        Ok(())
    }

    fn receive(&mut self, wait: bool) -> anyhow::Result<Option<u64>> {
        let open = &mut self.open;
        let ended = self.runtime.block_on(async {
            if wait {
                return open.next().await;
            }
            // Whatever the connection's task has to do, then one look.
            tokio::task::yield_now().await;
            std::future::poll_fn(|context| match open.poll_next_unpin(context) {
                Poll::Ready(ended) => Poll::Ready(ended),
                Poll::Pending => Poll::Ready(None),
            })
            .await
        });
        let Some(ended) = ended else { return Ok(None) };
        answered(ended.map_err(|status| anyhow::anyhow!("{status}"))?.get_ref()).map(Some)
    }
}
