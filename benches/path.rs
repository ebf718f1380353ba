//! What a call costs each party in instructions: all three cores in one thread, over plain memory.
//!
//! No line travels between CPUs here and nobody waits, so what is measured is the work itself: the part of a call's
//! latency that is this library's doing. `trine bench` measures calls between processes, beside their floor.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use criterion::{Criterion, criterion_group, criterion_main};
use trine::client::core::ClientCore;
use trine::core::parking::{Bell, Parking};
use trine::core::ring::{Publisher, Taker};
use trine::core::{Memory, Read, Write};
use trine::director::core::{DirectorCore, Peer, Settings};
use trine::layout::{HEAD, LINE, Record, ReplyHead, Request, SessionShape, WorkShape};
use trine::worker::core::{Taken, WorkerCore};
use trine::{Fault, Identity};

/// Shared words, as if they were mapped.
#[derive(Clone)]
struct Words(Arc<[AtomicU64]>);

impl Words {
    fn new(words: usize) -> Self {
        Words((0..words).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Read for Words {
    #[inline]
    fn load(&self, word: usize) -> u64 {
        self.0.get(word).map_or(0, |w| w.load(Ordering::Relaxed))
    }
    #[inline]
    fn acquire(&self) {
        fence(Ordering::Acquire);
    }
}

impl Write for Words {
    #[inline]
    fn store(&self, word: usize, value: u64) {
        if let Some(w) = self.0.get(word) {
            w.store(value, Ordering::Relaxed);
        }
    }
    #[inline]
    fn release(&self) {
        fence(Ordering::Release);
    }
    #[inline]
    fn full(&self) {
        fence(Ordering::SeqCst);
    }
}

struct Plain;
impl Memory for Plain {
    type Ro = Words;
    type Rw = Words;
}

/// A shell that does nothing but answer a worker's mapping at once.
#[derive(Default)]
struct Shell {
    mapped: Option<u16>,
}

impl trine::client::core::Effects for Shell {
    fn ring_director(&mut self) {}
}
impl trine::worker::core::Effects for Shell {
    fn ring_client(&mut self, _: u64) {}
    fn ring_director(&mut self) {}
    fn clock_ns(&mut self) -> u64 {
        0
    }
}
impl trine::director::core::Effects for Shell {
    fn ring(&mut self, _: Peer) {}
    fn map_session(&mut self, _: usize, index: u16, _: usize) {
        self.mapped = Some(index);
    }
    fn unmap_session(&mut self, _: usize, _: u16) {}
    fn fault(&mut self, peer: Peer, fault: Fault) {
        panic!("{peer:?}: {fault}");
    }
    fn forget(&mut self, _: Peer) {}
    fn clock_ns(&mut self) -> u64 {
        0
    }
}

/// A bus of one client, one director and one worker.
struct Bus {
    client: ClientCore<Plain>,
    director: DirectorCore<Plain>,
    worker: WorkerCore<Plain>,
    shell: Shell,
}

impl Bus {
    fn new() -> Self {
        let (shape, work) = (SessionShape::default(), WorkShape::default());
        let (outbox, inbox) = (Words::new(shape.outbox().words), Words::new(shape.inbox().words));
        let (segment, page) = (Words::new(work.work().words), Words::new(work.progress().words));
        let mut shell = Shell::default();
        let settings = Settings { epoch: 1, waiting_per_route: 64, share_max: 128, ..Settings::default() };
        let mut director = DirectorCore::<Plain>::new(settings);
        let nobody = Identity::default();
        let w = director.attach_worker(1, nobody, work, 0, segment.clone(), page.clone()).expect("room");
        let s = director.attach_session(1, nobody, shape, 0, outbox.clone(), inbox.clone()).expect("room");
        director.provide(w, "service", 0, &["operation"]);
        director.open_route(s, 0, "service", "operation", &mut shell);
        let index = shell.mapped.expect("asked to map");
        let mut worker = WorkerCore::new(1, work, 0, segment, page);
        worker.map_session(index, 1, shape, outbox.clone(), inbox.clone());
        director.session_mapped(w, index, true, &mut shell);
        Bus { client: ClientCore::new(shape, outbox, inbox), director, worker, shell }
    }

    fn submit(&mut self, len: u32) -> u64 {
        let request = Request { len, capacity: 4096, deadline_ns: 1 << 60, ..Request::default() };
        let slot = self.client.reserve().expect("a free slot");
        self.client.submit(slot, request, &[7; LINE], &mut self.shell)
    }

    fn serve(&mut self, len: u64) {
        let Ok(Taken::Begun(begun)) = self.worker.take(1, &mut self.shell) else { panic!("no work") };
        let head = ReplyHead { len, ..ReplyHead::default() };
        self.worker.reply(begun, head, &mut [7; LINE], &mut self.shell);
    }

    fn end(&mut self, name: u64) {
        let outcome = self.client.look(name, 1, &mut self.shell).expect("an answer");
        black_box(&outcome);
        self.client.release(self.client.slot_of(name));
    }

    fn call(&mut self, len: u32) {
        let name = self.submit(len);
        black_box(self.director.turn(1, &mut self.shell));
        self.serve(u64::from(len));
        self.end(name);
    }
}

fn calls(c: &mut Criterion) {
    let mut bus = Bus::new();
    c.bench_function("call/8 bytes", |b| b.iter(|| bus.call(8)));
    c.bench_function("call/64 bytes", |b| b.iter(|| bus.call(64)));
    c.bench_function("call/64 bytes, 64 at a time", |b| {
        b.iter(|| {
            let names: [u64; 64] = std::array::from_fn(|_| bus.submit(64));
            let mut served = 0;
            while served < names.len() {
                bus.director.turn(1, &mut bus.shell);
                while bus.worker.is_ready() {
                    bus.serve(64);
                    served += 1;
                }
            }
            names.iter().for_each(|&name| bus.end(name));
        });
    });
    c.bench_function("director/turn with nothing to do", |b| {
        b.iter(|| black_box(bus.director.turn(1, &mut bus.shell)));
    });
}

fn rings(c: &mut Criterion) {
    let words = Words::new(256 * LINE);
    let (mut publisher, mut taker) = (Publisher::<LINE>::new(0, 256, 0), Taker::<LINE>::new(0, 256, 0));
    let record: Record = [7; LINE];
    for (name, used) in [("ring/half a record", HEAD), ("ring/a whole record", LINE)] {
        c.bench_function(name, |b| {
            b.iter(|| {
                publisher.publish(&words, &record, used);
                black_box(taker.take(&words, |_| used == LINE))
            });
        });
    }
    let (mut parking, mut bell) = (Parking::new(0, 0), Bell::new(0));
    c.bench_function("doorbell/peer awake", |b| b.iter(|| black_box(bell.must_ring(&words, &words))));
    c.bench_function("doorbell/park and awake", |b| {
        b.iter(|| {
            parking.park(&words);
            parking.awake(&words);
        });
    });
}

criterion_group!(benches, calls, rings);
criterion_main!(benches);
