//! What a call costs each party in instructions: all three cores in one thread, over plain memory.
//!
//! No line travels between CPUs here and nobody waits, so what is measured is the work itself: the part of a call's
//! latency that is this library's doing. `trine bench` measures calls between processes, beside their floor.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use trine::core::ledger::{Entry, Ledger};
use trine::core::parking::{Bell, Parking};
use trine::core::ring::{Publisher, Taker};
use trine::layout::{HEAD, LINE, Record};

mod support;
use support::{Bus, Words};

fn calls(c: &mut Criterion) {
    let mut bus = Bus::new();
    c.bench_function("call/8 bytes", |b| b.iter(|| bus.call(8)));
    c.bench_function("call/64 bytes", |b| b.iter(|| bus.call(64)));
    c.bench_function("call/64 bytes, 64 at a time", |b| b.iter(|| bus.batch::<64>(64)));
    c.bench_function("director/turn with nothing to do", |b| {
        b.iter(|| bus.hop_route());
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
    // What others use between threads, with a record of the same size.
    let (mut producer, mut consumer) = rtrb::RingBuffer::<Record>::new(256);
    c.bench_function("ring/rtrb, a whole record", |b| {
        b.iter(|| {
            producer.push(black_box(record)).expect("room");
            black_box(consumer.pop())
        });
    });
    let queue = crossbeam::queue::ArrayQueue::<Record>::new(256);
    c.bench_function("ring/crossbeam's ArrayQueue, a whole record", |b| {
        b.iter(|| {
            queue.push(black_box(record)).expect("room");
            black_box(queue.pop())
        });
    });
    let (ledger, mut position) = (Ledger::new(0), 0);
    c.bench_function("ledger/enter", |b| {
        b.iter(|| {
            position += 1;
            ledger.enter(&words, (position % 256) as u16, Entry { position, session: 1, ticket: position });
        });
    });
    c.bench_function("ledger/read", |b| b.iter(|| black_box(ledger.read(&words, 7))));
}

fn doorbells(c: &mut Criterion) {
    let words = Words::new(LINE);
    let (mut parking, mut bell) = (Parking::new(0, 0), Bell::new(0));
    c.bench_function("doorbell/peer awake", |b| b.iter(|| black_box(bell.must_ring(&words, &words))));
    c.bench_function("doorbell/park and awake", |b| {
        b.iter(|| {
            parking.park(&words);
            parking.awake(&words);
        });
    });
    c.bench_function("doorbell/peer parked, to be rung once", |b| {
        b.iter(|| {
            parking.park(&words);
            let rings = [bell.must_ring(&words, &words), bell.must_ring(&words, &words)];
            assert_eq!(black_box(rings), [true, false]);
            parking.awake(&words);
        });
    });
}

criterion_group!(benches, calls, rings, doorbells);
criterion_main!(benches);
