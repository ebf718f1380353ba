//! A bus, a worker and a client in one program: `cargo run --release --example quickstart`
//!
//! In real life the three are processes of their own: `trine director`, and two programs that hold one half each of
//! what is here.

use trine::{Bus, CallError, ClientOptions, Director, DirectorOptions, Status, WorkerOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The bus is a folder. `Bus::named("default")` is the one that `trine director` serves.
    let folder = tempfile::tempdir()?;
    let bus = Bus::at(folder.path());
    let director = Director::new(&bus, DirectorOptions::default())?.spawn()?;

    // A worker provides operations of a service, and answers each request once.
    let worker = bus.worker(WorkerOptions::default())?;
    worker.provide("text", &["upper", "length"])?;
    let stopper = worker.stopper();
    let serving = std::thread::spawn(move || {
        worker.serve(|request| {
            let bytes = request.bytes().to_vec();
            if request.is("length") {
                return request.reply(bytes.len().to_string().as_bytes());
            }
            match std::str::from_utf8(&bytes) {
                Ok(text) => request.reply(text.to_uppercase().as_bytes()),
                Err(error) => request.fail(1, &error.to_string()),
            }
        })
    });

    // A client asks for a route once, by name; who answers is not its business.
    let client = bus.client(ClientOptions::default())?;
    let upper = client.route("text", "upper")?;
    let reply = client.call(upper, "three messages, not four".as_bytes())?;
    println!("{}", String::from_utf8_lossy(&reply.bytes().to_vec()));

    // Errors are statuses, and each says whether the operation may have run.
    let error: CallError = client.call(upper, b"\xff").err().ok_or("0xff is not UTF-8")?;
    assert_eq!(error.status(), Status::WorkerError);
    println!("{error}");

    stopper.stop();
    serving.join().map_err(|_| "the worker panicked")??;
    director.stop()?;
    Ok(())
}
