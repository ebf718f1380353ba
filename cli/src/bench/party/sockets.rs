//! Unix sockets of sequenced packets: what most programs use, and a floor for three that sleep.
//!
//! ```text
//! direct     client ──► worker ──► client                                2 messages
//! relay      client ──► relay ──► worker ──────────────► client          3
//! broker     client ──► broker ──► worker ──► broker ──► client          4
//! ```
//! Nobody dispatches or looks a name up: a broker here is a process that passes on what it gets. Who polls asks the
//! socket again and again, and yields in between. A payload that is longer than a packet goes in several, each of
//! which is passed on as it comes.

use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, ensure};
use clap::ValueEnum;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::sockopt::{RcvBuf, SndBuf};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, accept, bind, connect, listen, recv,
    send, setsockopt, socket,
};
use trine_measure::payload::{self, Way};
use trine_measure::{Caller, PartyOptions, Wait, ready};

use super::memory::inherited;
use super::{answered, asked};

/// Which of the processes.
#[derive(Clone, Copy, ValueEnum)]
pub enum Role {
    Client,
    RelayedClient,
    BrokeredClient,
    Relay,
    Broker,
    Worker,
    RelayedWorker,
}

/// Bytes of a packet: a few fit the buffer that an ordinary user's socket has.
const PACKET: usize = 64 << 10;

/// Runs it.
pub fn run(role: Role, options: &PartyOptions) -> anyhow::Result<()> {
    let at = |name: &str| Socket::connect(options, name);
    match role {
        Role::Client => client(options, at("worker")?, None),
        Role::RelayedClient => client(options, at("relay")?, Some(at("worker")?)),
        Role::BrokeredClient => client(options, at("relay")?, None),
        Role::Relay => {
            let worker = at("worker")?;
            let client = Listener::new(options, "relay")?.ready(1)?.remove(0);
            pass_on(options, &client, &worker, false)
        }
        Role::Broker => {
            let worker = at("worker")?;
            let client = Listener::new(options, "relay")?.ready(1)?.remove(0);
            pass_on(options, &client, &worker, true)
        }
        Role::Worker => {
            let asks = Listener::new(options, "worker")?.ready(1)?.remove(0);
            worker(options, &asks, &asks)
        }
        Role::RelayedWorker => {
            let mut peers = Listener::new(options, "worker")?.ready(2)?;
            let (asks, hears) = (peers.remove(0), peers.remove(0));
            worker(options, &asks, &hears)
        }
    }
}

/// Passes requests on, and answers back if they come this way.
fn pass_on(options: &PartyOptions, client: &Socket, worker: &Socket, back: bool) -> anyhow::Result<()> {
    let mut buffer = vec![0; PACKET];
    let wait = options.waiting;
    if !back {
        loop {
            let len = client.packet(&mut buffer)?;
            worker.send(&buffer[..len])?;
        }
    }
    // Of several in flight either may be next.
    loop {
        let mut found = false;
        for (from, to) in [(client, worker), (worker, client)] {
            if let Some(len) = from.try_packet(&mut buffer)? {
                to.send(&buffer[..len])?;
                found = true;
            }
        }
        match wait {
            _ if found => {}
            wait if wait.polls() => wait.pause(),
            _ => Socket::wait_for_either([client, worker])?,
        }
    }
}

fn worker(options: &PartyOptions, asks: &Socket, hears: &Socket) -> anyhow::Result<()> {
    let (mut request, mut answer) = (vec![0; options.bytes], vec![0; options.reply_bytes]);
    loop {
        asks.receive(&mut request)?;
        payload::fill(&mut answer, Way::Answer, asked(&request)?);
        hears.send(&answer)?;
    }
}

fn client(options: &PartyOptions, asks: Socket, hears: Option<Socket>) -> anyhow::Result<()> {
    let (request, answer) = (vec![0; options.bytes], vec![0; options.reply_bytes]);
    options.load.run(&mut Client { asks, hears, request, answer, got: 0 })?.tell()
}

struct Client {
    asks: Socket,
    hears: Option<Socket>,
    request: Vec<u8>,
    answer: Vec<u8>,
    /// Bytes of the next answer that have come.
    got: usize,
}

impl Caller for Client {
    fn send(&mut self, number: u64) -> anyhow::Result<()> {
        payload::fill(&mut self.request, Way::Request, number);
        self.asks.send(&self.request)
    }

    fn receive(&mut self, wait: bool) -> anyhow::Result<Option<u64>> {
        let hears = self.hears.as_ref().unwrap_or(&self.asks);
        while self.got < self.answer.len() {
            let rest = &mut self.answer[self.got..];
            self.got += match wait {
                true => hears.packet(rest)?,
                false => match hears.try_packet(rest)? {
                    Some(len) => len,
                    None => return Ok(None),
                },
            };
        }
        self.got = 0;
        answered(&self.answer).map(Some)
    }
}

/// One end.
struct Socket {
    fd: OwnedFd,
    wait: Wait,
}

fn new(options: &PartyOptions) -> anyhow::Result<OwnedFd> {
    let made = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None);
    let fd = made.context("making a socket")?;
    widen(&fd, options)?;
    Ok(fd)
}

/// Room for the largest packet, and for what is in flight.
fn widen(fd: &OwnedFd, options: &PartyOptions) -> anyhow::Result<()> {
    let bytes = (2 * options.bytes.max(options.reply_bytes)).max(4 * PACKET);
    setsockopt(fd, SndBuf, &bytes).context("widening a socket")?;
    setsockopt(fd, RcvBuf, &bytes).context("widening a socket")
}

impl Socket {
    fn new(fd: OwnedFd, options: &PartyOptions) -> anyhow::Result<Socket> {
        widen(&fd, options)?;
        if options.waiting.polls() {
            fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).context("making a socket not block")?;
        }
        Ok(Socket { fd, wait: options.waiting })
    }

    fn connect(options: &PartyOptions, name: &str) -> anyhow::Result<Socket> {
        let fd = new(options)?;
        let to = UnixAddr::new(&options.path(name))?;
        connect(fd.as_raw_fd(), &to).with_context(|| format!("connecting to the {name}"))?;
        Socket::new(fd, options)
    }

    fn send(&self, bytes: &[u8]) -> anyhow::Result<()> {
        bytes.chunks(PACKET).try_for_each(|packet| self.send_packet(packet))
    }

    fn send_packet(&self, bytes: &[u8]) -> anyhow::Result<()> {
        loop {
            match send(self.fd.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(Errno::EAGAIN) => self.wait.pause(),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error).context("sending"),
            }
        }
    }

    /// All packets of a payload.
    fn receive(&self, into: &mut [u8]) -> anyhow::Result<()> {
        let mut got = 0;
        while got < into.len() {
            got += self.packet(&mut into[got..])?;
        }
        Ok(())
    }

    /// How many bytes came.
    fn packet(&self, into: &mut [u8]) -> anyhow::Result<usize> {
        loop {
            match recv(self.fd.as_raw_fd(), into, MsgFlags::empty()) {
                Ok(0) => std::process::exit(0), // the other end has gone: the round is over
                Ok(len) => return Ok(len),
                Err(Errno::EAGAIN) => self.wait.pause(),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error).context("receiving"),
            }
        }
    }

    fn try_packet(&self, into: &mut [u8]) -> anyhow::Result<Option<usize>> {
        match recv(self.fd.as_raw_fd(), into, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => std::process::exit(0),
            Ok(len) => Ok(Some(len)),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(error) => Err(error).context("receiving"),
        }
    }

    fn wait_for_either(sockets: [&Socket; 2]) -> anyhow::Result<()> {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        use std::os::fd::AsFd;
        let mut fds = sockets.map(|s| PollFd::new(s.fd.as_fd(), PollFlags::POLLIN));
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error).context("waiting"),
        }
    }
}

/// Waits for those who connect.
struct Listener<'a> {
    fd: OwnedFd,
    options: &'a PartyOptions,
}

impl<'a> Listener<'a> {
    fn new(options: &'a PartyOptions, name: &str) -> anyhow::Result<Listener<'a>> {
        let fd = new(options)?;
        let path = UnixAddr::new(&options.path(name))?;
        bind(fd.as_raw_fd(), &path).with_context(|| format!("binding the {name}'s socket"))?;
        listen(&fd, Backlog::new(8)?).context("listening")?;
        Ok(Listener { fd, options })
    }

    /// Says that it is ready, and takes so many, in the order in which they come.
    fn ready(&self, count: usize) -> anyhow::Result<Vec<Socket>> {
        ready();
        let peers: anyhow::Result<Vec<Socket>> = (0..count)
            .map(|_| Socket::new(inherited::take(accept(self.fd.as_raw_fd())?)?, self.options))
            .collect();
        let peers = peers.context("accepting")?;
        ensure!(peers.len() == count, "too few came");
        Ok(peers)
    }
}
