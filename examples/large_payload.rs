//! 64 MiB there and 64 MiB back, copied nowhere: `cargo run --release --example large_payload`
//!
//! The request is built in memory that the worker reads where it is, and the reply is written where the client reads
//! it. Only a record of 128 bytes moves through the rings.

use std::time::Instant;

use trine::{Bus, ClientOptions, Director, DirectorOptions, Until, WorkerOptions};

const BYTES: usize = 64 << 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let bus = Bus::at(folder.path());
    let _director = Director::new(&bus, DirectorOptions::default())?.spawn()?;
    let worker = bus.worker(WorkerOptions::default())?;
    worker.provide("image", &["invert"])?;
    let stopper = worker.stopper();
    let serving = std::thread::spawn(move || {
        worker.serve(|request| {
            let len = request.bytes().len();
            request.reply_with(len, |source, reply| {
                // Piece by piece through a few KiB that stay in the cache.
                let (mut piece, mut at) = ([0; 4096], 0);
                while at < len {
                    let count = source.read_at(at, &mut piece);
                    piece[..count].iter_mut().for_each(|byte| *byte = !*byte);
                    reply.write_at(at, &piece[..count]);
                    at += count;
                }
            })
        })
    });

    let client = bus.client(ClientOptions::default().arenas(2 * BYTES as u64, 2 * BYTES as u64))?;
    let invert = client.route("image", "invert")?;
    for round in 0..3u8 {
        let start = Instant::now();
        let mut loan = client.request(invert).reply_capacity(BYTES).loan(BYTES, Until::Forever)?;
        loan.fill(round);
        let built = Instant::now();
        let reply = loan.submit(Until::Forever)?.wait()?;
        let answered = Instant::now();
        let mut scratch = [0; 4096];
        let mut right = 0;
        reply
            .bytes()
            .for_each_chunk(&mut scratch, |piece| right += piece.iter().filter(|&&b| b == !round).count());
        assert_eq!(right, BYTES);
        println!(
            "{} MiB built in {:?}, inverted in {:?}, read in {:?}",
            BYTES >> 20,
            built - start,
            answered - built,
            answered.elapsed()
        );
    }
    stopper.stop();
    serving.join().map_err(|_| "the worker panicked")??;
    Ok(())
}
