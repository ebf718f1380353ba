//! What the C interface costs over Rust, and Python over both: `cargo bench -p trine-ffi`.
//!
//! A closed loop of echoes of 64 bytes; everybody polls and yields in between. The pairs of client and worker take
//! turns in one run, so that whatever else the machine does meets them all. C's functions are called through pointers
//! that the compiler can't see through, as a C program's calls are. Python is a process of its own, where there is one.

#[path = "../tests/build/mod.rs"]
mod build;

use std::ffi::{CString, c_void};
use std::hint::black_box;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::ptr::{null, null_mut};
use std::thread;
use std::time::Instant;

use trine::{Bus, ClientOptions, Director, DirectorOptions, Error, Route, Waiting, Worker, WorkerOptions};
use trine_ffi::*;

const BYTES: usize = 64;

/// Latencies of a number of calls, in nanoseconds.
fn measure(calls: usize, mut call: impl FnMut(&[u8; BYTES], &mut [u8; BYTES])) -> Vec<u64> {
    let (request, mut reply) = ([7; BYTES], [0; BYTES]);
    let latency = |_| {
        let start = Instant::now();
        call(black_box(&request), &mut reply);
        let latency = start.elapsed().as_nanos() as u64;
        assert_eq!(black_box(&reply), &request);
        latency
    };
    (0..calls).map(latency).collect()
}

/// A C struct that knows its size.
macro_rules! sized {
    ($name:ty) => {{
        // SAFETY: all zeros are such a struct.
        let mut value: $name = unsafe { std::mem::zeroed() };
        value.size = size_of::<$name>() as u32;
        value
    }};
}

fn rust_client(client: &trine::Client, route: Route, calls: usize) -> Vec<u64> {
    measure(calls, |request, into| {
        let reply = client.call(route, request).expect("an echo");
        reply.bytes().read_at(0, into);
    })
}

fn c_client(client: *mut trine_client, route: trine_route, calls: usize) -> Vec<u64> {
    let (call, free) = black_box((
        trine_call as unsafe extern "C" fn(_, _, _, _, _, _) -> _,
        trine_reply_free as unsafe extern "C" fn(_, _) -> _,
    ));
    measure(calls, |request, into| {
        let mut reply = sized!(trine_reply);
        // SAFETY: as the header says.
        unsafe {
            let data: *const c_void = request.as_ptr().cast();
            let status: trine_status = call(client, route, data, BYTES, null(), &raw mut reply);
            assert_eq!((status, reply.len), (TRINE_OK, BYTES as u64));
            into.copy_from_slice(std::slice::from_raw_parts(reply.data.cast(), BYTES));
            assert_eq!(free(client, &raw mut reply), TRINE_OK);
        }
    })
}

fn rust_worker(worker: &Worker) {
    let served = worker.serve(|request| {
        let mut bytes = [0; BYTES];
        request.bytes().read_at(0, &mut bytes);
        request.reply(&bytes)
    });
    served.expect("stopped");
}

struct CWorker(*mut trine_worker);
// SAFETY: a handle may go to any thread.
unsafe impl Send for CWorker {}

fn c_worker(worker: &CWorker) {
    let (next, answer) = black_box((
        trine_next as unsafe extern "C" fn(_, _, _) -> _,
        trine_answer as unsafe extern "C" fn(_, _, _, _) -> _,
    ));
    let mut request = sized!(trine_incoming);
    // SAFETY: as the header says.
    unsafe {
        while next(worker.0, TRINE_FOREVER, &raw mut request) == TRINE_OK {
            let mut bytes = [0; BYTES];
            bytes.copy_from_slice(std::slice::from_raw_parts(request.data.cast(), BYTES));
            answer(worker.0, request.request, bytes.as_ptr().cast(), BYTES);
        }
    }
}

/// A process of `overhead.py`; it ends when its standard input does.
struct Python {
    process: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Python {
    /// `None` where there is no Python.
    fn start(bus: &str, role: &str) -> Option<Python> {
        if !build::is_there("python3") {
            eprintln!("there is no python3: without it");
            return None;
        }
        let mut command = Command::new("python3");
        command.arg(build::root().join("ffi/benches/overhead.py")).args([bus, role]);
        command.env("PYTHONPATH", build::root().join("python")).env("PYTHONDONTWRITEBYTECODE", "1");
        command.env("TRINE_LIBRARY", build::prefix().join("lib/libtrine.so.0"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("a Python");
        let (input, output) = (process.stdin.take(), process.stdout.take().expect("piped"));
        Some(Python { process, input, output: BufReader::new(output) })
    }

    fn measure(&mut self, calls: usize) -> Vec<u64> {
        let input = self.input.as_mut().expect("still there");
        writeln!(input, "{calls}").expect("it reads");
        let mut bytes = vec![0; calls * 8];
        self.output.read_exact(&mut bytes).expect("as many as it was asked for");
        bytes.chunks_exact(8).map(|ns| u64::from_ne_bytes(ns.try_into().expect("8 bytes"))).collect()
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.process.wait();
    }
}

/// Who calls whom: each pair is a row.
const PAIRS: [(&str, &str); 6] =
    [("Rust", "Rust"), ("C", "Rust"), ("Rust", "C"), ("C", "C"), ("Python", "Rust"), ("Rust", "Python")];

/// The pairs that there are here.
fn pairs() -> Vec<(&'static str, &'static str)> {
    let python = build::is_there("python3");
    PAIRS.into_iter().filter(|pair| python || ![pair.0, pair.1].contains(&"Python")).collect()
}

fn main() -> Result<(), Error> {
    let quick = std::env::args().any(|arg| arg == "--test");
    let (buses, rounds, calls) = if quick { (1, 1, 10) } else { (20, 100, 200) };
    let mut latencies: Vec<Rounds> = vec![Vec::new(); pairs().len()];
    for bus in 0..buses {
        measure_bus(bus % 2 == 1, rounds, calls, &mut latencies)?;
    }
    println!(
        "echo of {BYTES} bytes, {} calls of each pair on {buses} buses, polling and yielding\n",
        buses * rounds * calls
    );
    println!("client  worker      p10      p50      p90      p99   p50 over Rust");
    for ((client, worker), rounds) in pairs().into_iter().zip(&latencies) {
        let mut all = rounds.concat();
        let [p10, p50, p90, p99] = [10, 50, 90, 99].map(|percent| percentile(&mut all, percent));
        let over = over(&latencies[0], rounds);
        println!("{client:<7} {worker:<7} {p10:>6} ns {p50:>5} ns {p90:>5} ns {p99:>5} ns   {over:>+5.1} %");
    }
    Ok(())
}

/// The latencies of a pair's calls, round by round.
type Rounds = Vec<Vec<u64>>;

fn percentile<T: PartialOrd + Copy>(values: &mut [T], percent: usize) -> T {
    values.sort_unstable_by(|a, b| a.partial_cmp(b).expect("no NaN"));
    values[values.len() * percent / 100]
}

/// By how many percent the median is above that of the first pair: compared round by round, a few milliseconds apart,
/// and of all rounds the middle one. The medians of all calls, which are printed too, move against each other by
/// several percent from run to run.
fn over(first: &Rounds, pair: &Rounds) -> f64 {
    let p50 = |round: &Vec<u64>| percentile(&mut round.clone(), 50) as f64;
    let mut over: Vec<f64> = first.iter().zip(pair).map(|(a, b)| (p50(b) / p50(a) - 1.0) * 100.0).collect();
    percentile(&mut over, 50)
}

/// What the pairs take on a bus of their own: where memory and threads come to lie differs by a few percent from bus to
/// bus, and stays as it is as long as the bus lives.
fn measure_bus(c_first: bool, rounds: usize, calls: usize, latencies: &mut [Rounds]) -> Result<(), Error> {
    let folder = tempfile::tempdir().expect("a folder");
    let bus = Bus::at(folder.path());
    let director = Director::new(&bus, DirectorOptions::default().waiting(Waiting::Yield))?.spawn()?;
    let path = CString::new(bus.socket().as_os_str().as_encoded_bytes()).expect("a path");

    // Both workers poll as long as calls come, and sleep while the other has its turn.
    let (mut c, names) = (CWorker(null_mut()), [c"echo".as_ptr()]);
    let mut open_c = || {
        // SAFETY: as the header says.
        unsafe {
            assert_eq!(trine_worker_open(path.as_ptr(), null(), &raw mut c.0), TRINE_OK);
            assert_eq!(trine_provide(c.0, c"c".as_ptr(), names.as_ptr(), 1, null_mut()), TRINE_OK);
        }
    };
    if c_first {
        open_c();
    }
    let worker = bus.worker(WorkerOptions::default())?;
    worker.provide("rust", &["echo"])?;
    if !c_first {
        open_c();
    }
    let (stopper, moved) = (worker.stopper(), CWorker(c.0));
    let serving = [thread::spawn(move || rust_worker(&worker)), thread::spawn(move || c_worker(&{ moved }))];

    let client = bus.client(ClientOptions::default().waiting(Waiting::Yield))?;
    let mut plain = null_mut();
    let mut options = sized!(trine_options);
    options.waiting = TRINE_WAIT_YIELD;
    // SAFETY: as the header says.
    assert_eq!(unsafe { trine_connect(path.as_ptr(), &raw const options, &raw mut plain) }, TRINE_OK);
    let bus_path = path.to_str().expect("UTF-8");
    let (mut python, mut python_worker) =
        (Python::start(bus_path, "client"), Python::start(bus_path, "worker"));
    if let Some(worker) = &mut python_worker {
        worker.output.read_line(&mut String::new()).expect("it serves");
    }
    let pairs = pairs();
    let route = |service: &str| client.route(&service.to_lowercase(), "echo");
    let routes: Vec<Route> = pairs.iter().map(|pair| route(pair.1)).collect::<Result<_, _>>()?;
    let numbers = [c"rust", c"c"].map(|service| {
        let mut number = 0;
        // SAFETY: as the header says.
        let found = unsafe { trine_route_of(plain, service.as_ptr(), c"echo".as_ptr(), &raw mut number) };
        assert_eq!(found, TRINE_OK);
        number
    });

    for round in 0..rounds {
        // Who comes first takes turns, too.
        for turn in 0..pairs.len() {
            let index = (turn + round) % pairs.len();
            let mut call = |calls| match (pairs[index], &mut python) {
                (("Python", _), Some(python)) => python.measure(calls),
                (("C", worker), _) => c_client(plain, numbers[usize::from(worker == "C")], calls),
                _ => rust_client(&client, routes[index], calls),
            };
            call(calls / 10); // wakes the worker
            latencies[index].push(call(calls));
        }
    }
    drop((python, python_worker));
    stopper.stop();
    // SAFETY: as the header says.
    assert_eq!(unsafe { trine_wake(c.0) }, TRINE_OK);
    for thread in serving {
        thread.join().expect("no panic");
    }
    // SAFETY: as the header says.
    unsafe { (trine_close(plain), trine_worker_close(c.0)) };
    drop((client, director));
    Ok(())
}
