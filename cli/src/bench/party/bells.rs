//! What wakes a sleeper, and nothing else: two or three processes that wake each other, whose payload lies in shared
//! memory.
//!
//! ```text
//! client ── bell 0 ──► relay ── bell 1 ──► worker ── bell 2 ──► client
//! client ── bell 1 ───────────────────────► worker ── bell 2 ──► client     (direct)
//! ```
//! Each waits for its one bell and sees nobody die. The floor of those who sleep is the eventfd that is read; the
//! others show what it costs to sleep as Trine does, and what the system has beside that.

use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::Context;
use clap::{Args, ValueEnum};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use nix::unistd::{read, write};
use trine_measure::payload::{self, Way};
use trine_measure::{Caller, PartyOptions, ready};

use super::memory::{Memory, inherited};
use super::{answered, asked};

/// Which of the processes, and what it sleeps in.
#[derive(Args, Clone, Copy)]
pub struct Kind {
    role: Role,
    #[arg(long, value_enum, default_value = "read")]
    sleeps: Sleeps,
}

#[derive(Clone, Copy, ValueEnum)]
enum Role {
    Client,
    DirectClient,
    Relay,
    Worker,
}

/// What it sleeps in.
#[derive(Clone, Copy, ValueEnum)]
enum Sleeps {
    /// A `read` of an eventfd.
    Read,
    /// An epoll, edge-triggered, of an eventfd that nobody reads: Trine, among processes of one user.
    Epoll,
    /// The same of a datagram socket, which is emptied: Trine, among several users.
    Mailbox,
    /// A word of the shared memory. It can watch for nothing beside it.
    Futex,
}

/// Where the numbers of the bells stand: whoever starts the processes leaves them open.
pub const VARIABLE: &str = "TRINE_BENCH_BELLS";
const BELLS: usize = 3;

/// The bells of a round, of all kinds, which its processes inherit, since they are not closed when a program starts.
pub struct Hung(Vec<OwnedFd>);

impl Hung {
    pub fn new() -> anyhow::Result<Hung> {
        let mut all = Vec::new();
        for _ in 0..BELLS {
            all.push(EventFd::from_flags(EfdFlags::empty()).context("making an eventfd")?.into());
            let pair = socketpair(AddressFamily::Unix, SockType::Datagram, None, SockFlag::empty());
            let (rung, emptied) = pair.context("making a mailbox")?;
            all.extend([rung, emptied]);
        }
        Ok(Hung(all))
    }

    /// What [`VARIABLE`] says of them.
    pub fn numbers(&self) -> String {
        let numbers: Vec<String> = self.0.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
        numbers.join(",")
    }
}

/// What one of them is to this process.
#[derive(Clone, Copy)]
enum End {
    Counter,
    Rung,
    Emptied,
}

fn inherited_bell(bell: usize, end: End) -> anyhow::Result<OwnedFd> {
    let numbers = std::env::var(VARIABLE).context("no bells were left open")?;
    let number = numbers.split(',').nth(bell * 3 + end as usize).and_then(|n| n.parse().ok());
    inherited::take(number.context("no such bell")?)
}

/// The bell that this process sleeps on.
enum Sleeper {
    Read(OwnedFd),
    Epoll {
        epoll: Epoll,
        _counter: OwnedFd,
    },
    Mailbox(Epoll, OwnedFd),
    /// The word, and the value that it had when this process last woke.
    Futex(usize, u64),
}

/// The one that it rings.
enum Ringer {
    Counter(OwnedFd),
    Mailbox(OwnedFd),
    Futex(usize),
}

/// A futex's word is a line of its own.
fn word(bell: usize) -> usize {
    bell * 16
}

fn watched(fd: OwnedFd) -> anyhow::Result<(Epoll, OwnedFd)> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("making an epoll")?;
    let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0);
    epoll.add(&fd, event).context("watching a bell")?;
    Ok((epoll, fd))
}

impl Sleeper {
    fn new(sleeps: Sleeps, bell: usize) -> anyhow::Result<Sleeper> {
        Ok(match sleeps {
            Sleeps::Read => Sleeper::Read(inherited_bell(bell, End::Counter)?),
            Sleeps::Epoll => {
                let (epoll, _counter) = watched(inherited_bell(bell, End::Counter)?)?;
                Sleeper::Epoll { epoll, _counter }
            }
            Sleeps::Mailbox => {
                let (epoll, mailbox) = watched(inherited_bell(bell, End::Emptied)?)?;
                Sleeper::Mailbox(epoll, mailbox)
            }
            Sleeps::Futex => Sleeper::Futex(word(bell), 0),
        })
    }

    fn wait(&mut self, memory: &Memory) -> anyhow::Result<()> {
        let slept = |epoll: &Epoll| epoll.wait(&mut [EpollEvent::empty(); 4], EpollTimeout::NONE);
        match self {
            Sleeper::Read(counter) => _ = read(counter, &mut [0; 8]).context("waiting for a bell")?,
            Sleeper::Epoll { epoll, .. } => _ = slept(epoll).context("waiting for a bell")?,
            Sleeper::Mailbox(epoll, mailbox) => {
                slept(epoll).context("waiting for a bell")?;
                while recv(mailbox.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT).is_ok() {}
            }
            Sleeper::Futex(word, seen) => {
                while memory.look(*word) == *seen {
                    memory.sleep_while(*word, *seen);
                }
                *seen = memory.look(*word);
            }
        }
        Ok(())
    }
}

impl Ringer {
    fn new(sleeps: Sleeps, bell: usize) -> anyhow::Result<Ringer> {
        Ok(match sleeps {
            Sleeps::Read | Sleeps::Epoll => Ringer::Counter(inherited_bell(bell, End::Counter)?),
            Sleeps::Mailbox => Ringer::Mailbox(inherited_bell(bell, End::Rung)?),
            Sleeps::Futex => Ringer::Futex(word(bell)),
        })
    }

    fn ring(&self, memory: &Memory) -> anyhow::Result<()> {
        match self {
            Ringer::Counter(counter) => _ = write(counter, &1u64.to_ne_bytes()).context("ringing")?,
            Ringer::Mailbox(mailbox) => {
                send(mailbox.as_raw_fd(), &[1], MsgFlags::MSG_DONTWAIT).context("ringing")?;
            }
            Ringer::Futex(word) => {
                memory.publish(*word, memory.look(*word) + 1);
                memory.wake(*word);
            }
        }
        Ok(())
    }
}

struct Bells {
    waits: Sleeper,
    rings: Ringer,
    memory: Memory,
}

impl Bells {
    fn of(kind: Kind, options: &PartyOptions) -> anyhow::Result<Bells> {
        let (waits, rings) = match kind.role {
            Role::Client => (2, 0),
            Role::DirectClient => (2, 1),
            Role::Relay => (0, 1),
            Role::Worker => (1, 2),
        };
        let (waits, rings) = (Sleeper::new(kind.sleeps, waits)?, Ringer::new(kind.sleeps, rings)?);
        Ok(Bells { waits, rings, memory: Memory::map(options)? })
    }

    fn ring(&self) -> anyhow::Result<()> {
        self.rings.ring(&self.memory)
    }

    fn wait(&mut self) -> anyhow::Result<()> {
        self.waits.wait(&self.memory)
    }
}

/// Runs it.
pub fn run(kind: Kind, options: &PartyOptions) -> anyhow::Result<()> {
    let mut bells = Bells::of(kind, options)?;
    if let Role::Client | Role::DirectClient = kind.role {
        return options.load.run(&mut Client { bells, options })?.tell();
    }
    ready();
    loop {
        bells.wait()?;
        if let Role::Worker = kind.role {
            let number = asked(bells.memory.request(options.bytes))?;
            payload::fill(bells.memory.answer(options.reply_bytes), Way::Answer, number);
        }
        bells.ring()?;
    }
}

struct Client<'a> {
    bells: Bells,
    options: &'a PartyOptions,
}

impl Caller for Client<'_> {
    fn send(&mut self, number: u64) -> anyhow::Result<()> {
        payload::fill(self.bells.memory.request(self.options.bytes), Way::Request, number);
        self.bells.ring()
    }

    fn receive(&mut self, _: bool) -> anyhow::Result<Option<u64>> {
        self.bells.wait()?;
        answered(self.bells.memory.answer(self.options.reply_bytes)).map(Some)
    }
}
