//! What the processes do that the storm starts.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tracing::Level;
use trine::{
    Bus, CallError, Client, ClientOptions, Director, DirectorOptions, Error, Pending, Reply, Request, Route,
    Status, Until, WorkerOptions,
};

use crate::log::{DROPPED, HUNG, Log, POSTED, WRONG, end_of};
use crate::support::{MARK, Random, bytes, mix};

/// A call that has not ended by then hangs. Its deadline is 30 s.
const HANGS_AFTER: Duration = Duration::from_secs(90);
/// Calls that a client has in flight.
const WINDOW: usize = 24;

static STOP: AtomicBool = AtomicBool::new(false);

fn text(key: &str) -> String {
    std::env::var(format!("TRINE_TEST_{key}")).expect("an argument")
}

fn number(key: &str) -> u64 {
    text(key).parse().expect("a number")
}

fn tell(what: impl std::fmt::Display) {
    println!("{MARK}{what}");
}

fn log() -> Log {
    Log::open(&PathBuf::from(text("LOG")))
}

fn bus() -> Bus {
    Bus::at(text("BUS"))
}

pub fn play(role: &str) {
    // Whatever becomes of the storm, nothing of it stays.
    let _ = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
    std::thread::spawn(|| {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            assert_eq!(line, "stop");
            STOP.store(true, Ordering::SeqCst);
        }
    });
    match role {
        "director" => director(),
        "worker" => worker(),
        "client" => client(),
        other => panic!("no role {other:?}"),
    }
}

fn director() {
    let warnings = PathBuf::from(text("WARNINGS"));
    let appended = std::fs::File::options().append(true).create(true).open(warnings).expect("the warnings");
    tracing_subscriber::fmt().with_max_level(Level::WARN).with_ansi(false).with_writer(appended).init();
    let options = DirectorOptions::default().window(Duration::from_millis(number("WINDOW_MS")));
    let director = match Director::new(&bus(), options) {
        Ok(director) => director,
        Err(error) => return tell(format!("error {error}")),
    };
    let stopper = director.stopper();
    std::thread::spawn(move || {
        while !STOP.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        stopper.stop();
    });
    tell("ready");
    match director.run() {
        Ok(()) => tell("stopped"),
        Err(error) => tell(format!("error {error}")),
    }
}

/// Runs calls; keeps some for a while, and answers those in another order.
fn worker() {
    let (log, bus, mut random) = (log(), bus(), Random(number("SEED") | 1));
    let worker = loop {
        if STOP.load(Ordering::SeqCst) {
            return tell("stopped");
        }
        match bus.worker(WorkerOptions::default().slots(1 << (2 + random.next() % 7))) {
            Ok(worker) => match worker.provide("work", &["run", "probe"]) {
                Ok(_) => break worker,
                Err(error) => expect_death(&error),
            },
            Err(error) => expect_death(&error),
        }
    };
    let mut kept: Vec<(usize, Request)> = Vec::new();
    loop {
        let wait = if kept.is_empty() { 20 } else { 1 };
        let request = match worker.next(Until::after(Duration::from_millis(wait))) {
            Ok(request) => request,
            Err(error) => return tell(format!("error {error}")),
        };
        let idle = request.is_none();
        if let Some(request) = request.and_then(|request| match request.is("probe") {
            true => (drop(request.reply(b"")), None).1,
            false => Some(request),
        }) {
            let id = id_of(&request);
            log.call(id).begun.fetch_add(1, Ordering::SeqCst);
            match random.next() % 64 {
                0 => {
                    std::thread::sleep(Duration::from_micros(random.next() % 3000));
                    answer(&log, id, request);
                }
                1..16 => kept.push((id, request)),
                _ => answer(&log, id, request),
            }
            if let Some((id, request)) = kept.pop_if(|_| random.next().is_multiple_of(4)) {
                answer(&log, id, request);
            }
        }
        let stop = STOP.load(Ordering::SeqCst);
        if stop || idle || kept.len() > 6 {
            while !kept.is_empty() {
                let (id, request) = kept.swap_remove(random.next() as usize % kept.len());
                answer(&log, id, request);
            }
        }
        if stop {
            return tell("stopped");
        }
    }
}

fn id_of(request: &Request<'_>) -> usize {
    let bytes = request.bytes().to_vec();
    u64::from_le_bytes(*bytes.first_chunk().expect("8 bytes")) as usize
}

fn answer(log: &Log, id: usize, request: Request<'_>) {
    let bytes = request.bytes().to_vec();
    log.call(id).finished.fetch_add(1, Ordering::SeqCst);
    let _ = request.reply(&mix(&bytes));
}

/// Whoever attaches may find nobody, or somebody who dies meanwhile.
fn expect_death(error: &Error) {
    match error {
        Error::NoDirector { .. } | Error::DirectorGone(_) | Error::System { .. } => {}
        // The next director knows the service only as far as others have come back.
        Error::Refused {
            status: Status::DirectorGone | Status::NoSuchService | Status::NoSuchOperation,
            ..
        } => {}
        error => tell(format!("error {error}")),
    }
    std::thread::sleep(Duration::from_millis(2));
}

fn client() {
    let (log, bus, number, mut random) =
        (log(), bus(), number("NUMBER") as usize, Random(number("SEED") | 1));
    let gone = Duration::from_millis(if random.next().is_multiple_of(4) { 400 } else { 5000 });
    let (client, route, probe) = loop {
        match bus.client(ClientOptions::default().director_gone(gone)) {
            Ok(client) => match (client.route("work", "run"), client.route("work", "probe")) {
                (Ok(run), Ok(probe)) => break (client, run, probe),
                (Err(error), _) | (_, Err(error)) => expect_death(&error),
            },
            Err(error) => expect_death(&error),
        }
    };
    let mut caller = Caller { log: &log, number, bank: 0, client: &client, route, open: VecDeque::new() };
    while !STOP.load(Ordering::SeqCst) {
        let round = log.round().load(Ordering::SeqCst);
        if round % 2 == 1 {
            caller.bank = Log::bank_of(round);
            caller.call_while(&mut random, || log.round().load(Ordering::SeqCst) == round);
        } else if log.quiet(number).load(Ordering::SeqCst) != round {
            // The director may have been killed since the last call: this one finds the next.
            while client.call(probe, b"").is_err() {
                std::thread::sleep(Duration::from_millis(2));
            }
            log.quiet(number).store(round, Ordering::SeqCst);
        } else {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    tell("stopped");
}

/// A client, and its calls that have not ended.
struct Caller<'c> {
    log: &'c Log,
    number: usize,
    bank: usize,
    client: &'c Client,
    route: Route,
    open: VecDeque<(usize, Vec<u8>, Pending<'c>)>,
}

impl Caller<'_> {
    fn call_while(&mut self, random: &mut Random, more: impl Fn() -> bool) {
        while more() {
            while self.open.len() < WINDOW && self.send(random) {}
            if self.open.is_empty() {
                std::thread::sleep(Duration::from_millis(1)); // no director, or no number left in this round
            }
            match random.next() % 32 {
                0 => self.drop_one(random),
                1..4 => self.end_any(),
                _ => self.end_first(),
            }
        }
        while !self.open.is_empty() {
            self.end_first();
        }
    }

    /// Sends one call of many kinds. Returns whether more can be sent.
    fn send(&mut self, random: &mut Random) -> bool {
        let Some(id) = self.log.number(self.bank, self.number) else { return false };
        let len = match random.next() % 32 {
            0 => 20_000,
            1..5 => 500,
            _ => 8 + random.next() as usize % 57,
        };
        let mut request = bytes(id as u64, len);
        request[..8].copy_from_slice(&(id as u64).to_le_bytes());
        let mut draft = self.client.request(self.route).reply_capacity(len);
        if random.next().is_multiple_of(16) {
            draft = draft.timeout(Duration::from_micros(random.next() % 20_000));
        }
        if random.next().is_multiple_of(32) {
            match draft.post(&request, Until::Forever) {
                Ok(()) => self.log.end(id, POSTED),
                Err(error) => self.log.end(id, end_of(error.status(), error.may_have_run())),
            }
            return true;
        }
        match draft.submit(&request, Until::Forever) {
            Ok(pending) => {
                self.open.push_back((id, request, pending));
                true
            }
            Err(error) => {
                self.log.end(id, end_of(error.status(), error.may_have_run()));
                false // there is no director: what was sent goes first
            }
        }
    }

    fn drop_one(&mut self, random: &mut Random) {
        if !self.open.is_empty() {
            let (id, _, pending) =
                self.open.remove(random.next() as usize % self.open.len()).expect("one of them");
            drop(pending);
            self.log.end(id, DROPPED);
        }
    }

    /// Any one that has ended.
    fn end_any(&mut self) {
        let Ok(Some(ticket)) = self.client.wait_any(Until::after(Duration::from_millis(1))) else { return };
        let Some(at) = self.open.iter().position(|(_, _, pending)| pending.ticket() == ticket) else {
            return;
        };
        let (id, request, mut pending) = self.open.remove(at).expect("it is there");
        let outcome = pending.poll();
        self.note(id, &request, outcome);
    }

    fn end_first(&mut self) {
        let Some((id, request, mut pending)) = self.open.pop_front() else { return };
        let outcome = pending.wait_until(Until::At(Instant::now() + HANGS_AFTER));
        self.note(id, &request, outcome);
    }

    fn note(&self, id: usize, request: &[u8], outcome: Option<Result<Reply<'_>, CallError>>) {
        let end = match outcome {
            Some(Ok(reply)) if reply.bytes().to_vec() == mix(request) => end_of(Status::Ok, true),
            Some(Ok(_)) => WRONG,
            Some(Err(error)) => end_of(error.status(), error.may_have_run()),
            None => HUNG,
        };
        self.log.end(id, end);
    }
}
