//! Trine's own client and worker: what is measured.

use std::collections::VecDeque;
use std::panic::resume_unwind;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::{Args, ValueEnum};
use trine::{
    Bus, Client, ClientOptions, Pending, Policy, Request, Route, Served, ServiceOptions, Shared, Until,
    WorkerOptions,
};
use trine_measure::payload::{self, Check, Way, Words};
use trine_measure::{Caller, Measured, PartyOptions, Wait, ready};

use super::INLINE_MAX;
use super::memory::where_it_lies;

/// Name of the service.
const SERVICE: &str = "bench";
/// Its operation.
const OPERATION: &str = "check";
/// What is copied out of shared memory at a time: it stays in the nearest cache.
const SCRATCH: usize = 4096;

/// How its library waits.
pub fn waiting(wait: Wait) -> trine::Waiting {
    match wait {
        Wait::Spin => trine::Waiting::Spin,
        Wait::Yield => trine::Waiting::Yield,
        Wait::Adaptive => trine::Waiting::Adaptive,
        Wait::Park => trine::Waiting::Park,
    }
}

/// What is particular about a worker.
#[derive(Args, Clone, Copy)]
pub struct WorkerKind {
    /// How the director chooses among several.
    #[arg(long, value_enum)]
    policy: Option<PolicyOption>,
    /// One call in 200 takes a thousand times as long as the others, which take a microsecond.
    #[arg(long)]
    bimodal: bool,
    /// Look at requests where they lie.
    #[arg(long)]
    in_place: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum PolicyOption {
    Jbsq,
    RoundRobin,
}

/// Answers until it is ended.
pub fn worker(kind: WorkerKind, options: &PartyOptions) -> anyhow::Result<()> {
    let bus = Bus::at(&options.folder);
    let worker = bus.worker(WorkerOptions::default().waiting(waiting(options.waiting)))?;
    let mut service = ServiceOptions::default();
    if let Some(policy) = kind.policy {
        service = service.policy(match policy {
            PolicyOption::Jbsq => Policy::Jbsq,
            PolicyOption::RoundRobin => Policy::RoundRobin,
        });
    }
    worker.provide_with(SERVICE, &[OPERATION], service)?;
    ready();
    let mut scratch = [0; SCRATCH];
    worker.serve(|request| answer(request, kind, options.reply_bytes, &mut scratch))?;
    Ok(())
}

/// The number of the call, if every word is right.
fn check(bytes: &Shared<'_>, way: Way, in_place: bool, scratch: &mut [u8]) -> Option<u64> {
    if in_place {
        return payload::check(where_it_lies(bytes), way);
    }
    if bytes.len() <= INLINE_MAX {
        let len = bytes.read_at(0, scratch);
        return payload::check(&scratch[..len], way);
    }
    let mut check = Check::new(way);
    bytes.for_each_line(|piece| match piece.try_into() {
        Ok(line) => check.line(line),
        Err(_) => check.piece(piece),
    });
    check.number()
}

fn answer<'w>(request: Request<'w>, kind: WorkerKind, len: usize, scratch: &mut [u8; SCRATCH]) -> Served {
    let number = check(&request.bytes(), Way::Request, kind.in_place, scratch);
    let Some(number) = number else { return request.fail(1, "a wrong request") };
    if kind.bimodal {
        work(number);
    }
    if len <= INLINE_MAX {
        let small = &mut scratch[..len];
        payload::fill(small, Way::Answer, number);
        return request.reply(small);
    }
    request.reply_with(len, |_, reply| {
        let mut words = Words::new(Way::Answer, number);
        for at in (0..len).step_by(SCRATCH) {
            let piece = &mut scratch[..(len - at).min(SCRATCH)];
            words.fill(piece);
            reply.write_at(at, piece);
        }
    })
}

/// A microsecond of work; for one call in 200 a millisecond of waiting, as for a disk: four such workers don't need
/// four CPUs.
fn work(number: u64) {
    // Spread over the calls as if by chance, but the same in each run.
    if number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32 < (1 << 32) / 200 {
        std::thread::sleep(Duration::from_millis(1));
        return;
    }
    let start = Instant::now();
    while start.elapsed() < Duration::from_micros(1) {
        std::hint::spin_loop();
    }
}

/// What is particular about a client.
#[derive(Args, Clone, Copy)]
pub struct ClientKind {
    /// Take answers in the order in which they come, not in that of the calls.
    #[arg(long)]
    any_order: bool,
    /// Look at answers where they lie.
    #[arg(long)]
    in_place: bool,
    /// So many sessions, each with a thread of its own that runs the load.
    #[arg(long, default_value_t = 1)]
    sessions: usize,
}

/// Runs its load.
pub fn client(kind: ClientKind, options: &PartyOptions) -> anyhow::Result<()> {
    if kind.sessions == 1 {
        return session(kind, options, None)?.tell();
    }
    // All begin together, when all are there.
    let there = Barrier::new(kind.sessions);
    let measured: Vec<anyhow::Result<Measured>> = std::thread::scope(|scope| {
        let start = || scope.spawn(|| session(kind, options, Some(&there)));
        let threads: Vec<_> = (0..kind.sessions).map(|_| start()).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    });
    let measured: anyhow::Result<Vec<Measured>> = measured.into_iter().collect();
    Measured::of_all(&measured?).tell()
}

fn session(kind: ClientKind, options: &PartyOptions, there: Option<&Barrier>) -> anyhow::Result<Measured> {
    let slots = (options.load.in_flight as u32).next_power_of_two().max(64);
    let chosen = ClientOptions::default().waiting(waiting(options.waiting)).slots(slots);
    let client = Bus::at(&options.folder).client(chosen)?;
    let route = client.route(SERVICE, OPERATION)?;
    let mut caller =
        Calls { client: &client, route, options, kind, open: VecDeque::new(), scratch: [0; SCRATCH] };
    if let Some(there) = there {
        there.wait();
    }
    options.load.run(&mut caller)
}

/// A call is all that there is to one: a session, a route, a call, and the end of the session.
pub fn connect(options: &PartyOptions) -> anyhow::Result<()> {
    struct Connecting<'a>(&'a PartyOptions, Option<u64>);
    impl Caller for Connecting<'_> {
        fn send(&mut self, number: u64) -> anyhow::Result<()> {
            call_once(&Bus::at(&self.0.folder).client(ClientOptions::default())?)?;
            self.1 = Some(number);
            Ok(())
        }
        fn receive(&mut self, _: bool) -> anyhow::Result<Option<u64>> {
            Ok(self.1.take())
        }
    }
    options.load.run(&mut Connecting(options, None))?.tell()
}

struct Calls<'c> {
    client: &'c Client,
    route: Route,
    options: &'c PartyOptions,
    kind: ClientKind,
    /// The open calls, oldest first; none where any may end first: then the client knows them.
    open: VecDeque<Pending<'c>>,
    scratch: [u8; SCRATCH],
}

impl<'c> Calls<'c> {
    #[inline]
    fn keep(&mut self, pending: Pending<'c>) {
        match self.kind.any_order {
            true => drop(pending.detach()),
            false => self.open.push_back(pending),
        }
    }
}

impl Caller for Calls<'_> {
    /// A payload that fits the record is copied into it; a longer one is built where the worker reads it.
    fn send(&mut self, number: u64) -> anyhow::Result<()> {
        let len = self.options.bytes;
        let draft = self.client.request(self.route).reply_capacity(self.options.reply_bytes.max(64));
        if len <= 64 {
            let mut bytes = [0; 64];
            payload::fill(&mut bytes[..len], Way::Request, number);
            self.keep(draft.submit(&bytes[..len], Until::Forever)?);
        } else {
            let mut loan = draft.loan(len, Until::Forever)?;
            payload::fill(&mut loan, Way::Request, number);
            self.keep(loan.submit(Until::Forever)?);
        }
        Ok(())
    }

    fn receive(&mut self, wait: bool) -> anyhow::Result<Option<u64>> {
        let (client, until) = (self.client, if wait { Until::Forever } else { Until::Now });
        let ended = if self.kind.any_order {
            let Some(ticket) = client.wait_any(until)? else { return Ok(None) };
            client.pending(ticket).context("a ticket that is unknown")?.poll()
        } else {
            self.open.front_mut().context("no call is open")?.wait_until(until)
        };
        let reply = match &ended {
            Some(Ok(reply)) => reply,
            Some(Err(error)) => bail!("a call ended: {error}"),
            None => return Ok(None),
        };
        let number = check(reply.bytes(), Way::Answer, self.kind.in_place, &mut self.scratch);
        drop(ended);
        self.open.pop_front();
        number.context("a wrong answer").map(Some)
    }
}

/// Asks for the route, and makes a call.
pub fn call_once(client: &Client) -> anyhow::Result<()> {
    let route = client.route(SERVICE, OPERATION)?;
    let mut request = [0; 64];
    payload::fill(&mut request, Way::Request, 7);
    let answer = client.call(route, &request)?.bytes().to_vec();
    ensure!(payload::check(&answer, Way::Answer) == Some(7), "a wrong answer");
    Ok(())
}
