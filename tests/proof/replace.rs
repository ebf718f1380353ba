//! A director is replaced while calls go on.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use trine::ClientOptions;

use crate::support::{Place, eventually, long, mix};

/// 100 sessions and 8 workers in the long form; each calls, and pauses for `TRINE_PAUSE_MS`.
#[test]
fn a_director_is_replaced_under_load_and_no_call_is_lost() {
    let place = Place::new();
    let mut director = place.director();
    let (clients, rounds) = if long() { (100u64, 10) } else { (12, 3) };
    let pause = std::env::var("TRINE_PAUSE_MS").ok().and_then(|ms| ms.parse().ok()).unwrap_or(2);
    let pause = Duration::from_millis(pause);
    let workers: Vec<_> = (0..2).map(|_| place.role("worker").with("workers", 4).ready()).collect();
    let (stop, calls, longest_us) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for n in 0..clients {
            let client = place.client(ClientOptions::default());
            let (stop, calls, longest_us) = (&stop, &calls, &longest_us);
            scope.spawn(move || {
                let route = client.route("work", "mix").expect("a route");
                for i in 0u64.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let (request, began) = ([n as u8, i as u8].repeat(1 + (i % 90) as usize), Instant::now());
                    let reply = client.call(route, &request).expect("no call is lost");
                    assert_eq!(reply.bytes().to_vec(), mix(&request));
                    longest_us.fetch_max(began.elapsed().as_micros() as u64, Ordering::Relaxed);
                    calls.fetch_add(1, Ordering::Relaxed);
                    // A load, and not all that there is: else every call waits for the CPU.
                    std::thread::sleep(pause);
                }
            });
        }
        let ran = || calls.load(Ordering::Relaxed);
        // As many as it takes that each session has met its workers, and that what waited has ended.
        let go_on = || {
            let before = ran();
            eventually("calls go on", || ran() > before + 50 * clients);
            longest_us.swap(0, Ordering::Relaxed)
        };
        go_on();
        println!("longest call {} µs, without a replacement", go_on());
        for round in 0..rounds {
            let next = place.role("director").with("replace", 1).ready();
            director.hear("stopped");
            assert!(director.exit().success());
            director = next;
            println!("round {round}: longest call {} µs", go_on());
        }
        stop.store(true, Ordering::Relaxed);
    });
    let seen = place.inspect();
    assert_eq!(seen.workers.len(), 8, "all came over");
    drop(workers);
    director.stop();
}

#[test]
fn without_a_director_there_is_nothing_to_replace_and_two_at_once_are_impossible() {
    let place = Place::new();
    let first = place.role("director").with("replace", 1).ready();
    let second = place.role("director").start();
    assert!(second.hear("error").contains("already serves the bus"));
    // Several replace it at once, and each other: one is left in the end.
    let mut all = vec![first, second];
    all.extend((0..4).map(|_| place.role("director").with("replace", 1).start()));
    eventually("all but one have ended", || {
        all.iter_mut().filter_map(|role| role.is_running().then_some(())).count() == 1
    });
    eventually("it serves", || place.bus.inspect().is_ok());
    let left = all.into_iter().find_map(|mut role| role.is_running().then_some(role)).expect("one");
    let worker = place.worker();
    assert_eq!(place.inspect().workers[0].identity.pid, worker.pid());
    drop(left);
    assert!(place.bus.inspect().is_err(), "nobody else serves");
}
