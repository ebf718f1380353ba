//! The director, the workers that fight, and the clients that write.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use trine::{
    Bus, ClientOptions, Director, DirectorOptions, Error, Event, Pending, Resource, ServiceOptions, Status,
    Unheld, Until, Worker, WorkerOptions,
};

use crate::log::{Call, Log, What};
use crate::support::{MARK, Random};
use crate::{HANGS_AFTER, RESOURCES};

static STOP: AtomicBool = AtomicBool::new(false);

fn text(key: &str) -> String {
    std::env::var(format!("TRINE_TEST_{key}")).expect("an argument")
}

fn tell(what: impl std::fmt::Display) {
    println!("{MARK}{what}");
}

pub fn play(role: &str) {
    // Whatever becomes of the fight, nothing of it stays.
    let _ = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
    let bus = Bus::at(text("BUS"));
    match role {
        "director" => director(&bus),
        "worker" => worker(&bus),
        other => panic!("no role {other:?}"),
    }
}

/// Calls `stop` when the fight is over.
fn when_told(stop: impl FnOnce() + Send + 'static) {
    std::thread::spawn(move || {
        if let Some(Ok(line)) = std::io::stdin().lines().next() {
            assert_eq!(line, "stop");
            stop();
        }
    });
}

fn director(bus: &Bus) {
    let director = Director::new(bus, DirectorOptions::default()).expect("a free bus");
    let stopper = director.stopper();
    when_told(move || stopper.stop());
    tell("ready");
    director.run().expect("a director's life");
    tell("stopped");
}

/// What may fail where a director was killed: all is tried again, or by another.
fn is_of_a_death(error: &Error) -> bool {
    matches!(
        error,
        Error::NoDirector { .. } | Error::DirectorGone(_) | Error::System { .. } | Error::Refused { .. }
    )
}

fn provide(bus: &Bus) -> Worker {
    let options = ServiceOptions::default().exclusive(Unheld::Offer);
    loop {
        let attached = bus.worker(WorkerOptions::default());
        match attached.and_then(|w| w.provide_with("store", &["write"], options.clone()).map(|_| w)) {
            Ok(worker) => return worker,
            Err(error) => assert!(is_of_a_death(&error), "{error}"),
        }
        std::thread::sleep(Duration::from_millis(2)); // until there is a director
    }
}

fn worker(bus: &Bus) {
    let number: u64 = text("NUMBER").parse().expect("a number");
    let log = Arc::new(Log::open(&PathBuf::from(text("LOG"))));
    let worker = provide(bus);
    let heard = log.clone();
    worker.on_event(move |event| {
        let keys = |resource: Resource| (0..RESOURCES).filter(move |&key| resource.covers(key.into()));
        match *event {
            Event::Gained { resource, .. } => {
                keys(resource).for_each(|key| heard.note(What::Gained { worker: number, key }));
            }
            Event::Lost { resource, .. } => {
                keys(resource).for_each(|key| heard.note(What::Lost { worker: number, key }));
            }
            _ => {}
        }
    });
    when_told(|| STOP.store(true, Ordering::SeqCst));
    tell(format!("ready {}", worker.id()));
    let (mut random, mut kept) = (Random(number), VecDeque::new());
    while !STOP.load(Ordering::SeqCst) {
        match worker.next(Until::after(Duration::from_millis(1))) {
            Ok(Some(request)) => {
                let key = request.key().and_then(|key| key.as_number()).expect("a number");
                let bytes = request.bytes().to_vec();
                let [client, sequence] =
                    [0, 8].map(|at| u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("8 bytes")));
                let call = Call { client, key, sequence };
                log.note(What::Began(number, call));
                std::thread::yield_now();
                log.note(What::Wrote(number, call));
                // Some are answered only later: a hand-over waits for them.
                kept.push_back(request);
                if !random.next().is_multiple_of(4) {
                    kept.drain(..).for_each(|request| drop(request.reply(b"")));
                }
            }
            Ok(None) => kept.drain(..).for_each(|request| drop(request.reply(b""))),
            Err(error) => panic!("{error}"),
        }
        if random.next().is_multiple_of(8) {
            let (key, is_range) = (random.next() % RESOURCES, random.next().is_multiple_of(4));
            let last = (key + random.next() % 5).min(RESOURCES - 1);
            let resource = if is_range { Resource::from(key..=last) } else { Resource::from(key) };
            let done = match random.next() % 4 {
                0 => worker.release("store", resource),
                _ => worker.acquire("store", resource).map(|_| ()),
            };
            assert!(
                done.as_ref().is_ok_and(|()| true) || done.as_ref().is_err_and(is_of_a_death),
                "{done:?}"
            );
        }
    }
    kept.drain(..).for_each(|request| drop(request.reply(b"")));
    // One that leaves loses what it holds without an event.
    log.note(What::Gone { worker: number });
}

pub fn client(bus: &Bus, number: u64, writes: u64, log: Arc<Log>) -> JoinHandle<()> {
    let client = bus.client(ClientOptions::default()).expect("a client");
    std::thread::spawn(move || {
        let write = client.route("store", "write").expect("provided");
        let (mut random, mut sequences) = (Random(number + 100), HashMap::new());
        let mut open = VecDeque::new();
        for _ in 0..writes {
            let key = random.next() % RESOURCES;
            let sequence = sequences.entry(key).or_insert(0_u64);
            *sequence += 1;
            let call = Call { client: number, key, sequence: *sequence };
            let bytes = [number.to_ne_bytes(), sequence.to_ne_bytes()].concat();
            log.note(What::Sent(call));
            let pending = client.request(write).key(key).submit(&bytes, Until::Forever).expect("sent");
            open.push_back((call, pending));
            if open.len() == 32 {
                end(&log, open.pop_front().expect("one of 32"));
            }
        }
        open.into_iter().for_each(|one| end(&log, one));
    })
}

fn end(log: &Log, (call, mut pending): (Call, Pending<'_>)) {
    let written = match pending.wait_until(Until::after(HANGS_AFTER)) {
        Some(Ok(_)) => true,
        Some(Err(error)) if error.status() == Status::WorkerDied => false,
        other => panic!("{call:?} ended {:?}", other.map(|end| end.map(|_| ()))),
    };
    log.note(What::Answered(call, written));
}
