//! Calls that are given up: through all three parties, and by the thousand.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use trine::{ClientOptions, Status, Until};

use crate::support::{Place, eventually, mix};

fn far() -> Instant {
    Instant::now() + Duration::from_secs(600)
}

#[test]
fn a_storm_of_cancels_starves_nobody() {
    let place = Place::new();
    let _director = place.director();
    let _worker = place.role("worker").with("workers", 2).ready();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let client = place.client(ClientOptions::default());
            let stop = &stop;
            scope.spawn(move || {
                let route = client.route("work", "sleep").expect("a route");
                let mut given_up = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    // Given up at once, wherever it is by then.
                    let call = client
                        .request(route)
                        .submit(&200u64.to_le_bytes(), Until::after(Duration::from_millis(5)));
                    given_up += u64::from(call.is_ok());
                }
                assert!(given_up > 0);
            });
        }
        let client = place.client(ClientOptions::default());
        let route = client.route("work", "mix").unwrap();
        for n in 0..300u64 {
            let reply = client.call(route, &n.to_le_bytes()).expect("served between those that are given up");
            assert_eq!(reply.bytes().to_vec(), mix(&n.to_le_bytes()));
        }
        stop.store(true, Ordering::Relaxed);
    });
    eventually("nothing of the storm is left", || {
        let seen = place.inspect();
        seen.workers.iter().all(|w| w.in_flight == 0) && seen.services[0].waiting == 0
    });
}

#[test]
fn calls_that_were_given_up_hold_no_place_that_another_needs() {
    let place = Place::new();
    let _director = place.role("director").with("waiting_per_route", 8).ready();
    let mut worker = place.worker();
    let client = place.client(ClientOptions::default());
    let (gate, route) = (client.route("work", "gate").unwrap(), client.route("work", "mix").unwrap());
    let begun = client.request(gate).deadline(far()).submit(b"x", Until::Now).unwrap();
    worker.hear("begun");
    let behind = client.request(route).deadline(far()).submit(b"y", Until::Now).unwrap();
    eventually("it has its share", || place.inspect().workers[0].in_flight == 2);
    for _ in 0..5 {
        let storm: Vec<_> =
            (0..8).map(|_| client.request(route).deadline(far()).submit(b"z", Until::Now).unwrap()).collect();
        eventually("they wait", || place.inspect().services[0].waiting == 8);
        drop(storm);
        // All places are taken by calls that nobody waits for: they make room at once.
        let wanted = client.request(route).deadline(far()).submit(b"wanted", Until::Now).unwrap();
        eventually("it waits, and they do not", || place.inspect().services[0].waiting == 1);
        drop(wanted);
        eventually("that is seen within a second or so", || place.inspect().services[0].waiting == 0);
    }
    worker.say("open");
    assert_eq!(begun.wait().unwrap().bytes().to_vec(), mix(b"x"));
    assert_eq!(behind.wait().unwrap().bytes().to_vec(), mix(b"y"));
}

#[test]
fn slots_of_calls_that_wait_at_the_director_come_back_though_no_worker_moves() {
    let place = Place::new();
    let _director = place.director();
    let mut worker = place.worker();
    let client = place.client(ClientOptions::default().slots(8));
    let (gate, route) = (client.route("work", "gate").unwrap(), client.route("work", "mix").unwrap());
    let begun = client.request(gate).deadline(far()).submit(b"x", Until::Now).unwrap();
    worker.hear("begun");
    let behind: Vec<_> =
        (0..7).map(|_| client.request(route).deadline(far()).submit(b"y", Until::Now).unwrap()).collect();
    eventually("they wait", || place.inspect().services[0].waiting == 6);
    let session = place.inspect().sessions[0].id;
    drop(behind);
    // Six of the seven were nowhere but at the director: it ends them by itself.
    let again: Vec<_> = (0..6)
        .map(|_| {
            client.request(route).deadline(far()).submit(b"z", Until::after(Duration::from_secs(10))).unwrap()
        })
        .collect();
    assert_eq!(place.inspect().sessions[0].id, session);
    worker.say("open");
    assert_eq!(begun.wait().unwrap().bytes().to_vec(), mix(b"x"));
    for pending in again {
        assert_eq!(pending.wait().unwrap().bytes().to_vec(), mix(b"z"));
    }
}

#[test]
fn a_deadline_is_kept_by_whoever_has_the_call() {
    let place = Place::new();
    let _director = place.director();
    let mut worker = place.worker();
    let client = place.client(ClientOptions::default());
    let (gate, counted) = (client.route("work", "gate").unwrap(), client.route("work", "count").unwrap());
    let begun = client.request(gate).deadline(far()).submit(b"x", Until::Now).unwrap();
    worker.hear("begun");
    // One is in the worker's ring by the time that its deadline passes, the others wait at the director.
    let late: Vec<_> = (0..5)
        .map(|_| client.request(counted).timeout(Duration::from_millis(300)).submit(b"", Until::Now).unwrap())
        .collect();
    for pending in late {
        assert_eq!(pending.wait().err().expect("too late").status(), Status::DeadlineExceeded);
    }
    worker.say("open");
    begun.wait().unwrap();
    eventually("all are off the books", || {
        let seen = place.inspect();
        seen.workers[0].in_flight == 0 && seen.services[0].waiting == 0
    });
    worker.say("count");
    assert_eq!(worker.hear("count"), "0", "none of them ran");
}
