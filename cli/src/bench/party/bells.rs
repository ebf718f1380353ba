//! The floor of those who sleep: three processes that wake each other by eventfds, with blocking reads.
//!
//! ```text
//! client ── bell 0 ──► relay ── bell 1 ──► worker ── bell 2 ──► client
//! ```
//! The payload lies in shared memory. Each of them waits for its one bell and sees nobody die: a party that watches
//! for more can't sleep in a `read`.

use std::os::fd::OwnedFd;

use anyhow::Context;
use clap::ValueEnum;
use nix::unistd::{read, write};
use trine_measure::payload::{self, Way};
use trine_measure::{Caller, PartyOptions, ready};

use super::memory::{Memory, inherited};
use super::{answered, asked};

/// Which of the processes.
#[derive(Clone, Copy, ValueEnum)]
pub enum Role {
    Client,
    Relay,
    Worker,
}

/// Where the numbers of the bells stand: whoever starts the processes leaves them open.
pub const VARIABLE: &str = "TRINE_BENCH_BELLS";

struct Bells {
    waits: OwnedFd,
    rings: OwnedFd,
}

impl Bells {
    fn of(role: Role) -> anyhow::Result<Bells> {
        let numbers = std::env::var(VARIABLE).context("no bells were left open")?;
        let number = |index| numbers.split(',').nth(index).and_then(|n: &str| n.parse().ok());
        let bell = |index| inherited::take(number(index).context("no such bell")?);
        let (waits, rings) = match role {
            Role::Client => (2, 0),
            Role::Relay => (0, 1),
            Role::Worker => (1, 2),
        };
        Ok(Bells { waits: bell(waits)?, rings: bell(rings)? })
    }

    fn ring(&self) -> anyhow::Result<()> {
        write(&self.rings, &1u64.to_ne_bytes()).context("ringing a bell")?;
        Ok(())
    }

    fn wait(&self) -> anyhow::Result<()> {
        read(&self.waits, &mut [0; 8]).context("waiting for a bell")?;
        Ok(())
    }
}

/// Runs it.
pub fn run(role: Role, options: &PartyOptions) -> anyhow::Result<()> {
    let (bells, memory) = (Bells::of(role)?, Memory::map(options)?);
    if let Role::Client = role {
        return options.load.run(&mut Client { bells, memory, options })?.tell();
    }
    ready();
    loop {
        bells.wait()?;
        if let Role::Worker = role {
            let number = asked(memory.request(options.bytes))?;
            payload::fill(memory.answer(options.reply_bytes), Way::Answer, number);
        }
        bells.ring()?;
    }
}

struct Client<'a> {
    bells: Bells,
    memory: Memory,
    options: &'a PartyOptions,
}

impl Caller for Client<'_> {
    fn send(&mut self, number: u64) -> anyhow::Result<()> {
        payload::fill(self.memory.request(self.options.bytes), Way::Request, number);
        self.bells.ring()
    }

    fn receive(&mut self, _: bool) -> anyhow::Result<Option<u64>> {
        self.bells.wait()?;
        answered(self.memory.answer(self.options.reply_bytes)).map(Some)
    }
}
