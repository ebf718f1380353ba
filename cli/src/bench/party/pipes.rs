//! A pair of pipes: the oldest way there is.
//!
//! ```text
//! client ── pipe ──► worker ── pipe ──► client
//! ```

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::Context;
use clap::ValueEnum;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use trine_measure::payload::{self, Way};
use trine_measure::{Caller, PartyOptions, Wait, ready};

use super::{answered, asked};

/// Which of the processes.
#[derive(Clone, Copy, ValueEnum)]
pub enum Role {
    Client,
    Worker,
}

/// Runs it.
pub fn run(role: Role, options: &PartyOptions) -> anyhow::Result<()> {
    let (request, answer) = (vec![0; options.bytes], vec![0; options.reply_bytes]);
    let pipe = |name| Pipe::open(options, name);
    match role {
        Role::Client => {
            let (asks, hears) = (pipe("request")?, pipe("answer")?);
            options.load.run(&mut Client { asks, hears, request, answer, got: 0 })?.tell()
        }
        Role::Worker => {
            for name in ["request", "answer"] {
                mkfifo(&options.path(name), Mode::S_IRUSR | Mode::S_IWUSR).context("making a pipe")?;
            }
            let (asks, hears) = (pipe("request")?, pipe("answer")?);
            ready();
            worker(&asks, &hears, request, answer)
        }
    }
}

fn worker(asks: &Pipe, hears: &Pipe, mut request: Vec<u8>, mut answer: Vec<u8>) -> anyhow::Result<()> {
    loop {
        let mut got = 0;
        while got < request.len() {
            got += asks.read(&mut request[got..], true)?;
        }
        payload::fill(&mut answer, Way::Answer, asked(&request)?);
        hears.write(&answer)?;
    }
}

struct Client {
    asks: Pipe,
    hears: Pipe,
    request: Vec<u8>,
    answer: Vec<u8>,
    got: usize,
}

impl Caller for Client {
    fn send(&mut self, number: u64) -> anyhow::Result<()> {
        payload::fill(&mut self.request, Way::Request, number);
        self.asks.write(&self.request)
    }

    fn receive(&mut self, wait: bool) -> anyhow::Result<Option<u64>> {
        while self.got < self.answer.len() {
            match self.hears.read(&mut self.answer[self.got..], wait)? {
                0 => return Ok(None),
                count => self.got += count,
            }
        }
        self.got = 0;
        answered(&self.answer).map(Some)
    }
}

/// A named pipe, open at both ends, so that neither party waits for the other to open it.
struct Pipe {
    file: File,
    wait: Wait,
}

impl Pipe {
    fn open(options: &PartyOptions, name: &str) -> anyhow::Result<Pipe> {
        let polls = options.waiting.polls() || options.load.rate.is_some();
        let flags = if polls { OFlag::O_NONBLOCK } else { OFlag::empty() };
        let mut open = OpenOptions::new();
        let file = open.read(true).write(true).custom_flags(flags.bits()).open(options.path(name));
        let file = file.context("opening a pipe")?;
        // As large as an ordinary user may make it; what doesn't fit goes in pieces.
        fcntl(&file, FcntlArg::F_SETPIPE_SZ(1 << 20)).context("widening a pipe")?;
        Ok(Pipe { file, wait: if polls { options.waiting } else { Wait::Park } })
    }

    fn write(&self, mut bytes: &[u8]) -> anyhow::Result<()> {
        while !bytes.is_empty() {
            match (&self.file).write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait.pause(),
                Err(error) => return Err(error).context("writing to a pipe"),
            }
        }
        Ok(())
    }

    /// How many bytes came; 0 only where it doesn't wait.
    fn read(&self, into: &mut [u8], wait: bool) -> anyhow::Result<usize> {
        loop {
            match (&self.file).read(into) {
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock && wait => self.wait.pause(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
                Err(error) => return Err(error).context("reading from a pipe"),
            }
        }
    }
}
