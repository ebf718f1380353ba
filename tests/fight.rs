//! Four workers that fight for a hundred resources while clients write to them.
//!
//! Each worker logs what it executes, with a stamp before and one after, from one counter for all. The log must show
//! that no resource was ever written by two at a time, that a worker wrote only between gaining and losing it, and
//! that each client's writes to one resource took effect in its order.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use trine::{
    Bus, ClientOptions, Director, DirectorOptions, Error, Event, Resource, ServiceOptions, Unheld, Until,
    WorkerOptions,
};

const WORKERS: u64 = 4;
const CLIENTS: u64 = 2;
const RESOURCES: u64 = 100;
const WRITES: u64 = 4_000;

/// Something that a worker did to a resource.
#[derive(Clone, Copy, Debug)]
enum What {
    Gained,
    /// The client, and the how many-th write of it to this resource; the second stamp.
    Wrote(u64, u64, u64),
    Lost,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    stamp: u64,
    worker: u64,
    key: u64,
    what: What,
}

struct Log {
    clock: AtomicU64,
    entries: Mutex<Vec<Entry>>,
    done: AtomicBool,
    /// Where the workers meet at the end: one that leaves loses what it holds without an event.
    end: Barrier,
}

impl Log {
    fn stamp(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    fn note(&self, stamp: u64, worker: u64, key: u64, what: What) {
        self.entries.lock().expect("no panic").push(Entry { stamp, worker, key, what });
    }
}

/// Small numbers, the same in every run for the same seed.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

fn worker(bus: &Bus, number: u64, log: &Arc<Log>) -> JoinHandle<()> {
    let worker = bus.worker(WorkerOptions::default()).expect("a worker");
    worker
        .provide_with("store", &["write"], ServiceOptions::default().exclusive(Unheld::Offer))
        .expect("provided");
    let log = log.clone();
    std::thread::spawn(move || {
        let heard = log.clone();
        worker.on_event(move |event| {
            let (resource, what) = match event {
                Event::Gained { resource, .. } => (*resource, What::Gained),
                Event::Lost { resource, .. } => (*resource, What::Lost),
                _ => return,
            };
            let keys = (0..RESOURCES).filter(|&key| resource.covers(key.into()));
            keys.for_each(|key| heard.note(heard.stamp(), number, key, what));
        });
        let (mut state, mut kept) = (number + 1, VecDeque::new());
        while !log.done.load(Ordering::Relaxed) {
            match worker.next(Until::after(Duration::from_millis(1))) {
                Ok(Some(request)) => {
                    let key = request.key().and_then(|key| key.as_number()).expect("a number");
                    let bytes = request.bytes().to_vec();
                    let [client, sequence] =
                        [0, 8].map(|at| u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("8 bytes")));
                    let began = log.stamp();
                    std::thread::yield_now();
                    log.note(began, number, key, What::Wrote(client, sequence, log.stamp()));
                    // Some are answered only later: a hand-over waits for them.
                    kept.push_back(request);
                    if !random(&mut state).is_multiple_of(4) {
                        kept.drain(..).for_each(|request| drop(request.reply(b"")));
                    }
                }
                Ok(None) => kept.drain(..).for_each(|request| drop(request.reply(b""))),
                Err(error) => panic!("{error}"),
            }
            if random(&mut state).is_multiple_of(8) {
                let (key, range) = (random(&mut state) % RESOURCES, random(&mut state).is_multiple_of(4));
                let last = (key + random(&mut state) % 5).min(RESOURCES - 1);
                let resource = if range { Resource::from(key..=last) } else { Resource::from(key) };
                let done = match random(&mut state) % 4 {
                    0 => worker.release("store", resource),
                    _ => worker.acquire("store", resource).map(|_| ()),
                };
                assert!(matches!(done, Ok(()) | Err(Error::Refused { .. })), "{done:?}");
            }
        }
        kept.drain(..).for_each(|request| drop(request.reply(b"")));
        log.end.wait();
    })
}

fn client(bus: &Bus, number: u64) -> JoinHandle<()> {
    let client = bus.client(ClientOptions::default()).expect("a client");
    std::thread::spawn(move || {
        let write = client.route("store", "write").expect("provided");
        let (mut state, mut sequences) = (number + 100, HashMap::new());
        let mut open = VecDeque::new();
        for _ in 0..WRITES {
            let key = random(&mut state) % RESOURCES;
            let sequence = sequences.entry(key).or_insert(0_u64);
            *sequence += 1;
            let bytes = [number.to_ne_bytes(), sequence.to_ne_bytes()].concat();
            open.push_back(client.request(write).key(key).submit(&bytes, Until::Forever).expect("sent"));
            if open.len() == 32 {
                open.pop_front().expect("one of 32").wait().expect("written");
            }
        }
        open.into_iter().for_each(|call| drop(call.wait().expect("written")));
    })
}

fn check(mut entries: Vec<Entry>) {
    entries.sort_by_key(|entry| entry.stamp);
    let mut holders: HashMap<u64, u64> = HashMap::new();
    let mut written: HashMap<u64, u64> = HashMap::new();
    let mut sequences: HashMap<(u64, u64), u64> = HashMap::new();
    let mut hand_overs = 0;
    for Entry { stamp, worker, key, what } in entries {
        let free = written.get(&key).is_none_or(|&until| until < stamp);
        match what {
            What::Gained => {
                let before = holders.insert(key, worker);
                assert!(before.is_none_or(|b| b == worker), "{key}: two holders at {stamp}");
            }
            What::Lost => {
                assert!(free, "{key} was lost while it was written, at {stamp}");
                assert_eq!(holders.remove(&key), Some(worker), "{key} at {stamp}");
                hand_overs += 1;
            }
            What::Wrote(client, sequence, until) => {
                assert!(free, "{key} was written by two at {stamp}");
                assert_eq!(holders.get(&key), Some(&worker), "{key} at {stamp}");
                written.insert(key, until);
                let last = sequences.insert((client, key), sequence).unwrap_or(0);
                assert_eq!(sequence, last + 1, "client {client}'s order on {key}");
            }
        }
    }
    assert_eq!(sequences.values().sum::<u64>(), CLIENTS * WRITES);
    assert!(hand_overs > 50, "{hand_overs} hand-overs");
}

#[test]
fn no_resource_is_ever_written_by_two() {
    let folder = tempfile::tempdir().expect("a folder");
    let bus = Bus::at(folder.path());
    let director = Director::new(&bus, DirectorOptions::default()).expect("a free bus");
    let _director = director.spawn().expect("a thread");
    let log = Arc::new(Log {
        clock: AtomicU64::new(0),
        entries: Mutex::default(),
        done: AtomicBool::new(false),
        end: Barrier::new(WORKERS as usize),
    });
    let workers: Vec<_> = (0..WORKERS).map(|number| worker(&bus, number, &log)).collect();
    let clients: Vec<_> = (0..CLIENTS).map(|number| client(&bus, number)).collect();
    clients.into_iter().for_each(|client| client.join().expect("no panic"));
    log.done.store(true, Ordering::Relaxed);
    workers.into_iter().for_each(|worker| worker.join().expect("no panic"));
    check(std::mem::take(&mut log.entries.lock().expect("no panic")));
}
