//! What the processes do that the tests start.

use std::fs::File;
use std::io::{BufRead, Write};

use trine::{Bus, ClientOptions, Director, DirectorOptions, Request, Served, Until, Worker, WorkerOptions};

use crate::step;
use crate::support::{MARK, PATIENCE, mix};

fn text(key: &str) -> String {
    std::env::var(format!("TRINE_TEST_{key}")).expect("an argument")
}

fn tell(what: impl std::fmt::Display) {
    println!("{MARK}{what}");
}

fn bus() -> Bus {
    Bus::at(text("BUS"))
}

pub fn play(role: &str) {
    // Whatever becomes of the test, nothing of it stays.
    let _ = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
    match role {
        "director" => director(),
        "worker" => worker(),
        "victim worker" => victim_worker(),
        "victim client" => victim_client(),
        other => panic!("no role {other:?}"),
    }
}

/// Tells which thread it is that will be traced, and waits for the word.
fn ready() {
    tell(format!("ready {}", nix::unistd::gettid()));
}

fn hear() {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).expect("a word");
    assert_eq!(line.trim(), "go");
}

fn mark() {
    nix::sys::signal::raise(step::MARK).expect("a signal");
}

fn director() {
    // All who were attached come back: no window ends before they do.
    let director = Director::new(&bus(), DirectorOptions::default().window(PATIENCE)).expect("a free bus");
    ready();
    director.run().expect("a director");
}

/// Each run of a call is a line in a file, whatever happens to its worker then.
pub fn run(request: Request<'_>, log: &mut File) -> Served {
    let bytes = request.bytes().to_vec();
    let id = u64::from_le_bytes(*bytes.first_chunk().expect("8 bytes"));
    log.write_all(format!("{id}\n").as_bytes()).expect("the log");
    request.reply(&mix(&bytes))
}

pub fn open_log(path: &str) -> File {
    File::options().append(true).create(true).open(path).expect("the log")
}

fn attach() -> (Worker, File) {
    let worker = bus().worker(WorkerOptions::default().slots(8)).expect("a worker");
    worker.provide("work", &["run"]).expect("provided");
    worker.provide("warm", &["up"]).expect("provided");
    (worker, open_log(&text("LOG")))
}

fn worker() {
    let (worker, mut log) = attach();
    ready();
    let _ = worker.serve(|request| match request.is("up") {
        true => request.reply(b""),
        false => run(request, &mut log),
    });
}

/// Two calls are put into its ring before it is told to go on; those it serves under the tracer's eyes.
fn victim_worker() {
    let (worker, mut log) = attach();
    ready();
    let warm = worker.next(Until::after(PATIENCE)).expect("a director").expect("a call");
    let _ = warm.reply(b"");
    // From here to the mark it takes nothing.
    hear();
    mark();
    for _ in 0..2 {
        let request = worker.next(Until::after(PATIENCE)).expect("a director").expect("a call");
        let _ = run(request, &mut log);
    }
    let _ = worker.next(Until::Now);
    mark();
    std::thread::park();
}

/// Makes one call under the tracer's eyes.
fn victim_client() {
    let client = bus().client(ClientOptions::default().slots(4)).expect("a client");
    let (run, warm) =
        (client.route("work", "run").expect("a route"), client.route("warm", "up").expect("a route"));
    client.call(warm, b"").expect("a worker");
    ready();
    hear();
    mark();
    // More than a record holds, so that both arenas are used.
    let mut request = [7; 100];
    request[..8].copy_from_slice(&text("ID").parse::<u64>().expect("a number").to_le_bytes());
    let reply = client.call(run, &request).expect("a reply");
    assert_eq!(reply.bytes().to_vec(), mix(&request));
    drop(reply);
    mark();
    std::thread::park();
}
