//! A key-value service and its client in tokio: `cargo run -p trine-tokio --example keyvalue_async service BUS`, and `client BUS`. Any client of these examples
//! works with any service, in whichever language.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use trine::{Bus, ClientOptions, WorkerOptions};
use trine_tokio::{AsyncClient, AsyncRequest, AsyncWorker};

type Store = Arc<Mutex<HashMap<Vec<u8>, Vec<u8>>>>;

/// A request is a key, a zero byte, and for `put` a value.
async fn answer(request: AsyncRequest, store: Store) {
    let bytes = request.to_vec();
    let Some(end) = bytes.iter().position(|&byte| byte == 0) else {
        return request.fail(400, "a request is a key, a zero byte, and a value");
    };
    let (key, value) = (&bytes[..end], &bytes[end + 1..]);
    let mut store = store.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if request.is("put") {
        store.insert(key.to_vec(), value.to_vec());
        return request.reply(b"");
    }
    match store.get(key) {
        Some(value) => request.reply(value),
        None => request.fail(404, "no such key"),
    }
}

async fn serve(bus: &Bus) -> Result<(), Box<dyn std::error::Error>> {
    let worker = bus.worker(WorkerOptions::default())?;
    worker.provide("store", &["get", "put"])?;
    let (stopper, store) = (worker.stopper(), Store::default());
    let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::spawn(async move {
        terminated.recv().await;
        stopper.stop();
    });
    let mut worker = AsyncWorker::new(worker)?;
    println!("serving");
    Ok(worker.serve(64, |request| answer(request, store.clone())).await?)
}

async fn call(bus: &Bus) -> Result<(), Box<dyn std::error::Error>> {
    let client = AsyncClient::new(bus.client(ClientOptions::default())?)?;
    let (get, put) = (client.route("store", "get")?, client.route("store", "put")?);
    for i in 0..1000 {
        client.call(put, format!("key {i}\0value {i}").as_bytes()).await?;
    }
    let asked: Vec<_> = (0..1000)
        .map(|i| {
            let client = client.clone();
            tokio::spawn(async move {
                let reply = client.call(get, format!("key {i}\0").as_bytes()).await;
                reply.is_ok_and(|reply| reply.bytes().to_vec() == format!("value {i}").into_bytes())
            })
        })
        .collect();
    let mut found = 0;
    for answer in asked {
        found += usize::from(answer.await?);
    }
    println!("{found} values found");
    client
        .call_built(
            put,
            |draft| draft,
            3000,
            |bytes| {
                bytes.fill(b'x');
                bytes[..6].copy_from_slice(b"large\0");
            },
        )
        .await?;
    println!("a value of {} bytes", client.call(get, b"large\0").await?.bytes().len());
    if let Err(error) = client.call(get, b"no such\0").await {
        println!("{} {}: {}", error.status().name(), error.code(), error.message());
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let bus = Bus::at(arguments.get(2).map_or("", String::as_str));
    match arguments.get(1).map(String::as_str) {
        Some("service") => serve(&bus).await,
        Some("client") => call(&bus).await,
        _ => Err("usage: keyvalue service|client BUS".into()),
    }
}
