//! A key-value service, and a program that fills it: `cargo run --release --example keyvalue`
//!
//! Shows operations of one service, many calls in flight, answers that are errors, and calls that nobody waits for.

use std::collections::HashMap;
use std::thread;

use trine::{
    Bus, Client, ClientOptions, Director, DirectorOptions, Request, Route, Served, Until, WorkerOptions,
};

const NOT_FOUND: u32 = 404;

/// A request is a key, a zero byte, and for `put` a value.
fn answer(store: &mut HashMap<Vec<u8>, Vec<u8>>, request: Request<'_>) -> Served {
    let bytes = request.bytes().to_vec();
    let Some(end) = bytes.iter().position(|&b| b == 0) else {
        return request.fail(400, "a request is a key, a zero byte, and a value");
    };
    let (key, value) = (&bytes[..end], &bytes[end + 1..]);
    if request.is("put") {
        store.insert(key.to_vec(), value.to_vec());
        return request.reply(b"");
    }
    match store.get(key) {
        Some(value) => request.reply(value),
        None => request.fail(NOT_FOUND, "no such key"),
    }
}

fn put(client: &Client, put: Route, key: &str, value: &str) -> Result<(), trine::CallError> {
    // One way: nobody waits for the answer. It runs once at most.
    client.request(put).post(format!("{key}\0{value}").as_bytes(), Until::Forever)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let bus = Bus::at(folder.path());
    let _director = Director::new(&bus, DirectorOptions::default())?.spawn()?;
    let worker = bus.worker(WorkerOptions::default())?;
    worker.provide("store", &["get", "put"])?;
    let stopper = worker.stopper();
    let serving = thread::spawn(move || {
        let mut store = HashMap::new();
        worker.serve(|request| answer(&mut store, request))
    });

    let client = bus.client(ClientOptions::default())?;
    let (get, set) = (client.route("store", "get")?, client.route("store", "put")?);
    for i in 0..1000 {
        put(&client, set, &format!("key {i}"), &format!("value {i}"))?;
    }
    // Many in flight. A worker takes what it is given in order, so the gets come after the puts.
    let mut found = 0;
    for tens in 0..100 {
        let asked: Result<Vec<_>, _> = (tens * 10..tens * 10 + 10)
            .map(|i| Ok((i, client.request(get).submit(format!("key {i}\0").as_bytes(), Until::Forever)?)))
            .collect();
        for (i, pending) in asked.map_err(|e: trine::CallError| e)? {
            assert_eq!(pending.wait()?.bytes().to_vec(), format!("value {i}").into_bytes());
            found += 1;
        }
    }
    println!("{found} values found");
    match client.call(get, b"no such\0") {
        Err(error) if error.code() == NOT_FOUND => println!("as it should be: {error}"),
        other => return Err(format!("{:?}", other.map(|r| r.bytes().to_vec())).into()),
    }
    stopper.stop();
    serving.join().map_err(|_| "the worker panicked")??;
    Ok(())
}
