//! The floor: one cache line passed through three processes, and nothing else.
//!
//! ```text
//! client ── request line ──► relay ── work line ──► worker ── reply line ──► client
//! client ── request line ───────────────────────► worker ── reply line ──► client     (direct)
//! ```
//! Payloads that don't fit the line lie beside it, in the same place for all: the client writes them where the worker
//! reads them.
//!
//! Three that take turns on one CPU by yielding can fall into an order that costs twice: client, worker, relay instead
//! of client, relay, worker, so that each message takes two rounds. Both orders are stable. A party that has yielded
//! more than once for each of many messages sleeps for a nanosecond, which changes the order: the floor is the
//! better one.

use clap::ValueEnum;
use trine_measure::payload::{self, Way};
use trine_measure::{Caller, PartyOptions, Wait, ready};

use super::memory::Memory;
use super::{answered, asked};

/// Which of the processes.
#[derive(Clone, Copy, ValueEnum)]
pub enum Role {
    Client,
    DirectClient,
    Relay,
    Worker,
    DirectWorker,
}

#[derive(Clone, Copy)]
enum Line {
    Request = 0,
    Work = 1,
    Reply = 2,
}

/// Words from one line to the next: two lines, since processors fetch them in pairs.
const STRIDE: usize = 16;
/// Words that a line carries beside its stamp.
const CARRIED: usize = 7;

type Words = [u64; CARRIED];

/// Runs it: the client makes its calls, the others go on until they are ended.
pub fn run(role: Role, options: &PartyOptions) -> anyhow::Result<()> {
    let lines = Lines { memory: Memory::map(options)?, turns: Turns::new(options.waiting) };
    match role {
        Role::Client | Role::DirectClient => {
            let to = if matches!(role, Role::Client) { Line::Request } else { Line::Work };
            options.load.run(&mut Client { lines, to, options, at: 0 })?.tell()
        }
        Role::Relay => relay(lines),
        Role::Worker | Role::DirectWorker => worker(lines, options),
    }
}

/// One process that writes a payload, reads it, writes the answer and reads that.
pub fn alone(options: &PartyOptions) -> anyhow::Result<()> {
    struct Alone<'a>(Memory, &'a PartyOptions);
    impl Caller for Alone<'_> {
        fn send(&mut self, number: u64) -> anyhow::Result<()> {
            payload::fill(self.0.request(self.1.bytes), Way::Request, number);
            let number = asked(self.0.request(self.1.bytes))?;
            payload::fill(self.0.answer(self.1.reply_bytes), Way::Answer, number);
            Ok(())
        }
        fn receive(&mut self, _: bool) -> anyhow::Result<Option<u64>> {
            answered(self.0.answer(self.1.reply_bytes)).map(Some)
        }
    }
    options.load.run(&mut Alone(Memory::map(options)?, options))?.tell()
}

struct Lines {
    memory: Memory,
    turns: Turns,
}

impl Lines {
    /// Writes a line: the stamp last.
    fn publish(&self, line: Line, stamp: u64, words: &Words) {
        let at = line as usize * STRIDE;
        trine::core::Write::copy_in(&self.memory, at + 1, words);
        self.memory.publish(at, stamp);
    }

    /// Waits for a line with this stamp.
    fn take(&mut self, line: Line, stamp: u64) -> Words {
        let at = line as usize * STRIDE;
        while self.memory.look(at) != stamp {
            self.turns.pause();
        }
        self.turns.found();
        trine::core::Read::copy_out(&self.memory, at + 1)
    }
}

/// Yields, and looks whether it yields too often for what comes of it.
struct Turns {
    wait: Wait,
    yields: u32,
    in_vain: u32,
}

/// So many messages in a row that took two yields are an order, not an accident.
const IN_VAIN_MAX: u32 = 64;

impl Turns {
    fn new(wait: Wait) -> Turns {
        Turns { wait, yields: 0, in_vain: 0 }
    }

    #[inline]
    fn pause(&mut self) {
        self.yields += 1;
        self.wait.pause();
    }

    #[inline]
    fn found(&mut self) {
        self.in_vain = if self.yields == 2 { self.in_vain + 1 } else { 0 };
        self.yields = 0;
        if self.in_vain == IN_VAIN_MAX && self.wait == Wait::Yield {
            self.in_vain = 0;
            std::thread::sleep(std::time::Duration::from_nanos(1));
        }
    }
}

fn relay(mut lines: Lines) -> anyhow::Result<()> {
    ready();
    for stamp in 1.. {
        let words = lines.take(Line::Request, stamp);
        lines.publish(Line::Work, stamp, &words);
    }
    Ok(())
}

/// The bytes of so many that fit the line.
fn in_line(words: &mut Words, len: usize) -> Option<&mut [u8]> {
    (len <= 64).then(|| {
        // 64 bytes lose their last word to the stamp: there is no smaller message that carries them.
        let len = len.min(CARRIED * 8);
        &mut bytemuck::bytes_of_mut(words)[..len]
    })
}

fn worker(mut lines: Lines, options: &PartyOptions) -> anyhow::Result<()> {
    ready();
    for stamp in 1.. {
        let mut words = lines.take(Line::Work, stamp);
        let number = match in_line(&mut words, options.bytes) {
            Some(bytes) => asked(bytes)?,
            None => asked(lines.memory.request(options.bytes))?,
        };
        match in_line(&mut words, options.reply_bytes) {
            Some(bytes) => payload::fill(bytes, Way::Answer, number),
            None => payload::fill(lines.memory.answer(options.reply_bytes), Way::Answer, number),
        }
        lines.publish(Line::Reply, stamp, &words);
    }
    Ok(())
}

struct Client<'a> {
    lines: Lines,
    to: Line,
    options: &'a PartyOptions,
    at: u64,
}

impl Caller for Client<'_> {
    fn send(&mut self, number: u64) -> anyhow::Result<()> {
        let mut words = [0; CARRIED];
        match in_line(&mut words, self.options.bytes) {
            Some(bytes) => payload::fill(bytes, Way::Request, number),
            None => payload::fill(self.lines.memory.request(self.options.bytes), Way::Request, number),
        }
        self.at += 1;
        self.lines.publish(self.to, self.at, &words);
        Ok(())
    }

    fn receive(&mut self, _: bool) -> anyhow::Result<Option<u64>> {
        let mut words = self.lines.take(Line::Reply, self.at);
        match in_line(&mut words, self.options.reply_bytes) {
            Some(bytes) => answered(bytes).map(Some),
            None => answered(self.lines.memory.answer(self.options.reply_bytes)).map(Some),
        }
    }
}
