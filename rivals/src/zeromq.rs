//! ZeroMQ over ipc: the broker of its guide.
//!
//! ```text
//! client (DEALER) ──► proxy (ROUTER, DEALER) ──► worker (REP) ──► proxy ──► client          4 messages
//! ```
//! One I/O thread each. Whoever waits sleeps: its sockets have I/O threads behind them, which do.

use clap::ValueEnum;
use trine_measure::Seat::{Client, Middle, Worker};
use trine_measure::payload::{self, Way};
use trine_measure::{Caller, PartyOptions, Subject, Wait, ready};
use zmq::{Context, DEALER, DONTWAIT, Error, REP, ROUTER, SNDMORE, Socket, SocketType};

use crate::{answered, asked};

/// Which of the processes.
#[derive(Clone, Copy, ValueEnum)]
pub enum Role {
    Client,
    Proxy,
    Worker,
}

/// What can be measured.
pub fn subjects() -> Vec<Subject> {
    let parties = [(Middle, "zeromq proxy"), (Worker, "zeromq worker"), (Client, "zeromq client")];
    vec![
        Subject::new("zeromq, broker", 4, &parties)
            .waiting(&[Wait::Adaptive, Wait::Park])
            .bounds(16 << 20, 512),
    ]
}

fn socket(context: &Context, kind: SocketType) -> anyhow::Result<Socket> {
    let socket = context.socket(kind)?;
    socket.set_linger(0)?;
    // No high-water mark: a ROUTER drops what is above it, and counts up to half of it that was read already. With 512
    // calls in flight an answer was lost now and then, and its client waited for ever.
    socket.set_sndhwm(0)?;
    socket.set_rcvhwm(0)?;
    Ok(socket)
}

/// Runs it.
pub fn run(role: Role, options: &PartyOptions) -> anyhow::Result<()> {
    let at = |name: &str| format!("ipc://{}", options.path(name).display());
    let context = Context::new();
    match role {
        Role::Proxy => {
            let (front, back) = (socket(&context, ROUTER)?, socket(&context, DEALER)?);
            front.bind(&at("front"))?;
            back.bind(&at("back"))?;
            ready();
            Ok(zmq::proxy(&front, &back)?)
        }
        Role::Worker => {
            let worker = socket(&context, REP)?;
            worker.connect(&at("back"))?;
            ready();
            let (mut request, mut answer) = (zmq::Message::new(), vec![0; options.reply_bytes]);
            loop {
                worker.recv(&mut request, 0)?;
                payload::fill(&mut answer, Way::Answer, asked(&request)?);
                worker.send(&answer, 0)?;
            }
        }
        Role::Client => {
            let client = socket(&context, DEALER)?;
            client.connect(&at("front"))?;
            let message = zmq::Message::new();
            options.load.run(&mut Calls { client, message, request: vec![0; options.bytes] })?.tell()
        }
    }
}

struct Calls {
    client: Socket,
    message: zmq::Message,
    request: Vec<u8>,
}

impl Caller for Calls {
    fn send(&mut self, number: u64) -> anyhow::Result<()> {
        payload::fill(&mut self.request, Way::Request, number);
        self.client.send("", SNDMORE)?;
        Ok(self.client.send(&self.request, 0)?)
    }

    fn receive(&mut self, wait: bool) -> anyhow::Result<Option<u64>> {
        // An empty frame, then the payload.
        match self.client.recv(&mut self.message, if wait { 0 } else { DONTWAIT }) {
            Err(Error::EAGAIN) => return Ok(None),
            other => other?,
        }
        self.client.recv(&mut self.message, 0)?;
        answered(&self.message).map(Some)
    }
}
