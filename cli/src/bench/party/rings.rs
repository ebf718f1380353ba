//! Two, three and four messages a call, over the same rings: what each message costs.
//!
//! ```text
//! direct     client ──► worker ──────────────────────────► client        2
//! director   client ──► director ──► worker ─────────────► client        3
//! managed    client ──► director ──► worker ──► director ──► client      4
//! ```
//! The rings are Trine's (`trine::core::ring`). Nothing is looked up, entered in a ledger or checked but the
//! payload: the rest of what a call costs is what Trine adds to the middle one.

use clap::ValueEnum;
use trine::core::ring::{Publisher, Taker};
use trine::layout::{HEAD, LINE, Record};
use trine_measure::payload::{self, Way};
use trine_measure::{Caller, PartyOptions, Wait, ready};

use super::memory::Memory;
use super::{answered, asked};

/// How many messages, and by whom.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    Direct,
    Director,
    Managed,
}

/// Which of the processes.
#[derive(Clone, Copy, ValueEnum)]
pub enum Role {
    Client,
    Director,
    Worker,
}

/// Records of a ring: more than can be in flight, so none overflows.
pub const RECORDS: u64 = 1024;

/// The rings, in the order of a call's way.
#[derive(Clone, Copy)]
enum Ring {
    Request = 0,
    Work = 1,
    Result = 2,
    Reply = 3,
}

impl Ring {
    fn base(self) -> usize {
        self as usize * RECORDS as usize * LINE
    }

    fn publisher(self) -> Publisher<LINE> {
        Publisher::new(self.base(), RECORDS, 0)
    }

    fn taker(self) -> Taker<LINE> {
        Taker::new(self.base(), RECORDS, 0)
    }
}

/// Longest payload: it lies in the record.
pub const INLINE_MAX: usize = (LINE - HEAD) * 8;
/// Where the payload lies in a record.
const PAYLOAD: usize = HEAD;

fn bytes(record: &mut Record, len: usize) -> &mut [u8] {
    &mut bytemuck::cast_slice_mut(&mut record[PAYLOAD..])[..len]
}

/// Runs it.
pub fn run(form: Form, role: Role, options: &PartyOptions) -> anyhow::Result<()> {
    let memory = Memory::map(options)?;
    let (to_worker, from_worker) = match form {
        Form::Direct => (Ring::Request, Ring::Reply),
        Form::Director => (Ring::Work, Ring::Reply),
        Form::Managed => (Ring::Work, Ring::Result),
    };
    match role {
        Role::Client => {
            let (sends, hears) = (Ring::Request.publisher(), Ring::Reply.taker());
            let mut client = Client { memory: &memory, wait: options.waiting, sends, hears, options };
            options.load.run(&mut client)?.tell()
        }
        Role::Worker => worker(&memory, (to_worker.taker(), from_worker.publisher()), options),
        Role::Director => {
            let mut ways = vec![(Ring::Request.taker(), Ring::Work.publisher())];
            if form == Form::Managed {
                ways.push((Ring::Result.taker(), Ring::Reply.publisher()));
            }
            director(&memory, ways, options.waiting)
        }
    }
}

/// From which ring to which.
type Hop = (Taker<LINE>, Publisher<LINE>);

fn take(memory: &Memory, taker: &mut Taker<LINE>) -> anyhow::Result<Option<Record>> {
    taker.take(memory, |_| true).map_err(|overrun| anyhow::anyhow!("{overrun:?}"))
}

fn director(memory: &Memory, mut ways: Vec<Hop>, wait: Wait) -> anyhow::Result<()> {
    ready();
    loop {
        let mut found = false;
        for (from, to) in &mut ways {
            while let Some(record) = take(memory, from)? {
                to.publish(memory, &record, LINE);
                found = true;
            }
        }
        if !found {
            wait.pause();
        }
    }
}

fn worker(memory: &Memory, (mut from, mut to): Hop, options: &PartyOptions) -> anyhow::Result<()> {
    ready();
    loop {
        let Some(mut record) = take(memory, &mut from)? else {
            options.waiting.pause();
            continue;
        };
        let number = asked(bytes(&mut record, options.bytes))?;
        payload::fill(bytes(&mut record, options.reply_bytes), Way::Answer, number);
        to.publish(memory, &record, LINE);
    }
}

struct Client<'a> {
    memory: &'a Memory,
    wait: Wait,
    sends: Publisher<LINE>,
    hears: Taker<LINE>,
    options: &'a PartyOptions,
}

impl Caller for Client<'_> {
    fn send(&mut self, number: u64) -> anyhow::Result<()> {
        let mut record = [0; LINE];
        payload::fill(bytes(&mut record, self.options.bytes), Way::Request, number);
        self.sends.publish(self.memory, &record, LINE);
        Ok(())
    }

    fn receive(&mut self, wait: bool) -> anyhow::Result<Option<u64>> {
        loop {
            if let Some(mut record) = take(self.memory, &mut self.hears)? {
                return answered(bytes(&mut record, self.options.reply_bytes)).map(Some);
            }
            if !wait {
                return Ok(None);
            }
            self.wait.pause();
        }
    }
}
