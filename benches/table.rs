//! What the resource table costs at scale: 10,000 services, 1,000,000 exclusively held resources, and as many declared by
//! one worker; and what calls notice of it while a worker changes that many on a real bus.
//!
//! Keys are asked for in a random order, so nearly every look-up misses the caches, as it would among a million live
//! resources. The memory is what the process has more after acquiring them, said once, before the measurements.

use std::hint::black_box;
use std::time::Instant;

use criterion::{Criterion, criterion_group, criterion_main};
use trine::director::table::Table;
use trine::director::table::rights::Span;
use trine::limits::RESOURCES_PER_CHANGE;
use trine::resource::Action;
use trine::{Key, Resource, ServiceOptions, Unheld};

const SERVICES: usize = 10_000;
const WORKERS: usize = 16;
const HELD: usize = 1_000_000;

/// Bytes of memory that this process has, in pages that were touched.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.expect("a number of pages") * 4096
}

/// A table with its services, and the operations' keys.
fn services() -> (Table, Vec<usize>) {
    let mut table = Table::default();
    let options = ServiceOptions::default().exclusive(Unheld::Wait);
    let operation = |service: usize| {
        let name = format!("service-{service}");
        for worker in 0..2 {
            let worker = (service + worker) % WORKERS;
            table.provide_with(worker, &name, 0, &["operation"], &options).expect("room");
        }
        table.open_route(&name, "operation").expect("there")
    };
    let operations = (0..SERVICES).map(operation).collect();
    (table, operations)
}

/// The n-th resource that is held: its operation, its key, and who holds it.
fn nth(operations: &[usize], n: usize) -> (usize, Key, usize) {
    let service = n % SERVICES;
    (operations[service], Key::number((n / SERVICES) as u64 * 7), service % WORKERS)
}

fn table(c: &mut Criterion) {
    let (mut table, operations) = services();
    let before = resident();
    let (mut longest, began) = (0, Instant::now());
    for n in 0..HELD {
        let (operation, key, worker) = nth(&operations, n);
        let span = Span::of_key(table.operation(operation).service, key);
        let claimed = Instant::now();
        table.rights.claim(worker, span).expect("room");
        table.rights.take_notices();
        longest = longest.max(claimed.elapsed().as_micros());
    }
    let each_ns = began.elapsed().as_nanos() as usize / HELD;
    let bytes = (resident() - before) / HELD;
    println!(
        "{HELD} resources held: {bytes} bytes each; {each_ns} ns to acquire one, the longest took {longest} us"
    );

    let mut state = 1_usize;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % HELD
    };
    let mut asked: Vec<(usize, Key)> = Vec::new();
    asked.resize_with(1 << 20, || {
        let (operation, key, _) = nth(&operations, random());
        (operation, key)
    });
    let spans: Vec<Span> =
        asked.iter().map(|&(operation, key)| Span::of_key(table.operation(operation).service, key)).collect();
    // The floor: one load out of as much memory as the table has, at random.
    let memory = vec![1_u64; HELD * 4];
    let places: Vec<u32> = (0..1 << 20).map(|_| (random() * 4) as u32).collect();
    let mut next = 0;
    c.bench_function("table/floor: one load at random from 32 MB", |b| {
        b.iter(|| {
            next = (next + 1) & (places.len() - 1);
            black_box(memory[places[next] as usize])
        });
    });
    // The same where each load says where the next one is: what a miss takes when nothing is done meanwhile.
    let chain = chain(HELD * 4, 8, &mut random);
    let mut at = 0;
    c.bench_function("table/floor: one load of a chain through 32 MB", |b| {
        b.iter(|| {
            at = chain[at] as usize;
            black_box(at)
        });
    });
    c.bench_function("table/holder of one of 1,000,000 keys", |b| {
        b.iter(|| {
            next = (next + 1) & (spans.len() - 1);
            black_box(table.rights.holder(&spans[next]))
        });
    });
    c.bench_function("table/the same, and one of 10,000 operations", |b| {
        b.iter(|| {
            next = (next + 1) & (asked.len() - 1);
            let (operation, key) = asked[next];
            black_box(table.holder(operation, key))
        });
    });
    percentiles("holder of one of 1,000,000 keys of 10,000 operations", &asked, |&(operation, key)| {
        table.holder(operation, key)
    });
    // The same key again and again: what the look-up costs where the caches have it.
    c.bench_function("table/holder of the same key", |b| {
        b.iter(|| black_box(table.holder(asked[0].0, asked[0].1)))
    });
    c.bench_function("table/holder of a key that nobody holds", |b| {
        b.iter(|| black_box(table.holder(asked[0].0, Key::number(u64::MAX))));
    });
    let span = Span::of_key(table.operation(operations[0]).service, Key::number(u64::MAX));
    c.bench_function("table/acquire, release and yield", |b| {
        b.iter(|| {
            table.rights.claim(0, span).expect("room");
            table.rights.release(0, span).expect("held");
            table.rights.yielded(0, span);
            black_box(table.rights.take_notices())
        });
    });
    c.bench_function("table/change of two keys", |b| {
        let service = table.provided_by(0, "service-0").expect("provided");
        b.iter(|| {
            let keys = [(Action::Declare, Resource::from(1)), (Action::Declare, Resource::from(2))];
            table.change(0, service, &keys).expect("declared");
            let keys = keys.map(|(_, resource)| (Action::Withdraw, resource));
            table.change(0, service, &keys).expect("withdrawn");
        });
    });
    sweep(&mut table);
    declared(c);
    calls_beside_changes();
}

/// Words of which every `stride`-th says where the next one is; all of those are one ring, in a random order.
fn chain(words: usize, stride: usize, random: &mut impl FnMut() -> usize) -> Vec<u64> {
    let mut order: Vec<usize> = (0..words / stride).collect();
    for last in (1..order.len()).rev() {
        order.swap(last, random() % (last + 1));
    }
    let mut chain = vec![0; words];
    for (index, &place) in order.iter().enumerate() {
        chain[place * stride] = (order[(index + 1) % order.len()] * stride) as u64;
    }
    chain
}

/// Prints what a look-up takes at p50 and p99: of batches of 64, since the clock takes as long as one look-up.
fn percentiles<T, R>(what: &str, asked: &[T], look: impl Fn(&T) -> R) {
    let batch = |batch: &[T]| {
        let began = Instant::now();
        batch.iter().for_each(|one| _ = black_box(look(one)));
        began.elapsed().as_nanos() as usize / batch.len()
    };
    let mut each_ns: Vec<usize> = asked.chunks_exact(64).map(batch).collect();
    each_ns.sort_unstable();
    let [p50, p99] = [50, 99].map(|percent| each_ns[each_ns.len() * percent / 100]);
    println!("{what}: p50 {p50} ns, p99 {p99} ns");
}

/// A worker declares a million keys of a service, 128 at a time.
fn declared(c: &mut Criterion) {
    let mut table = Table::default();
    let options = ServiceOptions::default().resource(u64::MAX);
    table.provide_with(0, "service", 0, &["operation"], &options).expect("room");
    let operation = table.open_route("service", "operation").expect("there");
    let service = table.service_of("service").expect("there");
    let provider = table.operation(operation).providers[0];
    let (before, began, mut longest) = (resident(), Instant::now(), 0);
    for first in (0..HELD as u64).step_by(RESOURCES_PER_CHANGE) {
        let keys = first..(first + RESOURCES_PER_CHANGE as u64).min(HELD as u64);
        let changes: Vec<_> = keys.map(|key| (Action::Declare, Resource::from(key * 7))).collect();
        let changed = Instant::now();
        table.change(0, service, &changes).expect("declared");
        longest = longest.max(changed.elapsed().as_micros());
    }
    let each_ns = began.elapsed().as_nanos() as usize / HELD;
    let bytes = (resident() - before) / HELD;
    println!(
        "{HELD} resources declared: {bytes} bytes each; {each_ns} ns for one, the longest change of {RESOURCES_PER_CHANGE} took {longest} us"
    );
    let mut state = 7_u64;
    let keys: Vec<Key> = (0..1 << 20)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            Key::number((state >> 33) % HELD as u64 * 7)
        })
        .collect();
    let mut next = 0;
    c.bench_function("table/does a worker speak for one of its 1,000,000 keys", |b| {
        b.iter(|| {
            next = (next + 1) & (keys.len() - 1);
            black_box(table.covers(&provider, keys[next]))
        });
    });
    let gone = Instant::now();
    table.remove_worker(0);
    println!("a worker with {HELD} declared keys goes: {} us", gone.elapsed().as_micros());
}

/// A client calls one worker, one call after the other, while another worker does nothing, declares a million keys, or
/// acquires a million: how long its calls take. Each party is a thread of its own, over real sockets and segments.
fn calls_beside_changes() {
    use trine::{Bus, Changes, ClientOptions, Director, DirectorOptions, Until, WorkerOptions};
    let folder = tempfile::tempdir().expect("a folder");
    let bus = Bus::at(folder.path());
    let director =
        Director::new(&bus, DirectorOptions::default()).and_then(Director::spawn).expect("a director");
    let worker = bus.worker(WorkerOptions::default()).expect("a worker");
    worker.provide("echo", &["echo"]).expect("provided");
    let stopper = worker.stopper();
    let serving = std::thread::spawn(move || worker.serve(|request| request.reply(b"")));
    let client = bus.client(ClientOptions::default()).expect("a client");
    let echo = client.route("echo", "echo").expect("provided");
    let calls_while = |what: &str, is_over: &dyn Fn() -> bool| {
        let mut took_ns = Vec::new();
        while !is_over() {
            let began = Instant::now();
            client.call(echo, b"").expect("an answer");
            took_ns.push(began.elapsed().as_nanos() as u64);
        }
        took_ns.sort_unstable();
        let at = |part: f64| took_ns[((took_ns.len() - 1) as f64 * part) as usize] as f64 / 1000.0;
        let (p50, p99, p9999, most) = (at(0.5), at(0.99), at(0.9999), at(1.0));
        println!(
            "{} calls while another worker {what}: p50 {p50:.1} us, p99 {p99:.1}, p99.99 {p9999:.1}, the longest {most:.1}",
            took_ns.len()
        );
    };
    let began = Instant::now();
    calls_while("does nothing", &|| began.elapsed().as_secs() >= 2);
    for acquires in [false, true] {
        let changing = {
            let bus = bus.clone();
            std::thread::spawn(move || {
                let worker = bus.worker(WorkerOptions::default()).expect("a worker");
                let options = ServiceOptions::default().resource(u64::MAX).exclusive(Unheld::Error);
                worker.provide_with("million", &["get"], options).expect("provided");
                let began = Instant::now();
                for first in (0..HELD as u64 - 1).step_by(RESOURCES_PER_CHANGE) {
                    let keys = first..(first + RESOURCES_PER_CHANGE as u64).min(HELD as u64 - 1);
                    let changes = keys.fold(Changes::new(), |changes, key| match acquires {
                        true => changes.acquire(key),
                        false => changes.declare(key),
                    });
                    worker.change("million", changes).expect("within the quota");
                    // It is told of each right that it gets.
                    let _ = worker.next(Until::Now);
                }
                println!("  (it took {} ms)", began.elapsed().as_millis());
            })
        };
        let what = if acquires { "acquires 1,000,000 keys" } else { "declares 1,000,000 keys" };
        calls_while(what, &|| changing.is_finished());
        changing.join().expect("no panic");
    }
    stopper.stop();
    let _ = serving.join();
    drop(client);
    director.stop().expect("stopped");
}

/// A worker that held a sixteenth of all dies: how long the longest slice of sweeping takes.
fn sweep(table: &mut Table) {
    let died = Instant::now();
    table.remove_worker(0);
    let removed = died.elapsed().as_micros();
    table.rights.remove_worker(0);
    let dead = died.elapsed().as_micros();
    let (mut slices, mut longest) = (0, 0);
    while !table.rights.is_swept() {
        let slice = Instant::now();
        table.rights.sweep(256);
        (slices, longest) = (slices + 1, longest.max(slice.elapsed().as_micros()));
    }
    println!(
        "a death: {removed} us for what it provided, {dead} us in all; {slices} slices of sweeping, the longest {longest} us"
    );
}

criterion_group!(benches, table);
criterion_main!(benches);
