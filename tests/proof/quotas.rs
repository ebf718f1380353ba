//! How much one process may have; and a director, or a bus, that has lost something under its feet.

use std::time::{Duration, Instant};

use trine::{
    Bus, ClientOptions, Director, DirectorHandle, DirectorOptions, Error, Quota, Quotas, ServiceOptions,
};
use trine::{Changes, Client, Status, Unheld, Until, WorkerOptions};

use crate::support::{Place, Role, eventually, mix, works};

fn far() -> Instant {
    Instant::now() + Duration::from_secs(600)
}

fn director(bus: &Bus, quotas: Quotas) -> DirectorHandle {
    let options = DirectorOptions::default().quotas(quotas);
    Director::new(bus, options).and_then(Director::spawn).expect("a director")
}

fn small() -> ClientOptions {
    ClientOptions::default().slots(4).arenas(1 << 16, 1 << 16)
}

/// Asserts that something was refused for a quota that is named, with its value.
#[track_caller]
fn names<T>(result: Result<T, Error>, quota: &str) {
    let error = result.err().expect("more than the quota");
    assert_eq!(error.status(), Status::Busy, "{error}");
    assert!(error.to_string().contains(quota), "{error}");
}

#[test]
fn a_process_gets_so_much_and_is_told_the_quota_and_its_value() {
    let place = Place::new();
    let quota = |process| Quota { pool: 1 << 40, process };
    let quotas = Quotas {
        sessions: quota(3),
        workers: quota(1),
        routes: quota(2),
        held_keys: quota(10),
        declared_keys: quota(12),
        waiting_calls: quota(4096),
        segment_bytes: quota(1 << 30),
        ..Quotas::default()
    };
    let director = director(&place.bus, quotas);
    let worker = place.bus.worker(WorkerOptions::default()).unwrap();
    names(place.bus.worker(WorkerOptions::default()), "\"workers\" for a process is 1");
    let exclusive = ServiceOptions::default().exclusive(Unheld::Error);
    worker.provide_with("store", &["a", "b", "c"], exclusive).unwrap();
    let acquire = |keys: std::ops::Range<u64>| keys.fold(Changes::new(), |changes, key| changes.acquire(key));
    worker.change("store", acquire(0..10)).unwrap();
    names(worker.change("store", acquire(10..11)), "\"held_keys\" for a process is 10");
    let declare = (0..13).fold(Changes::new(), |changes, key: u64| changes.declare(key));
    names(worker.change("store", declare), "\"declared_keys\" for a process is 12");

    let clients: Vec<Client> = (0..3).map(|_| place.client(small())).collect();
    names(place.bus.client(small()), "\"sessions\" for a process is 3");
    clients[0].route("store", "a").unwrap();
    clients[1].route("store", "a").unwrap();
    names(clients[2].route("store", "a"), "\"routes\" for a process is 2");
    drop(clients);
    // The worker is this thread's: it unmaps a session when it looks.
    let look = || drop(worker.next(Until::after(Duration::from_millis(1))));
    let mut next = None;
    eventually("the quota is back", || {
        look();
        next = place.bus.client(small()).ok();
        next.is_some()
    });
    let client = next.expect("a client");
    client.route("store", "b").unwrap();
    // Once those that have gone are no longer counted, it is another quota that says no.
    for (options, quota) in [
        (ClientOptions::default().slots(4096), "\"waiting_calls\""),
        (ClientOptions::default().arenas(1 << 30, 0), "\"segment_bytes\""),
    ] {
        eventually(quota, || {
            look();
            place.bus.client(options).err().is_some_and(|e| e.to_string().contains(quota))
        });
    }
    drop((client, worker, director));
}

#[test]
fn a_million_resources_may_be_declared_and_not_one_more() {
    const MOST: u64 = 1_000_000;
    let place = Place::new();
    let director = director(&place.bus, Quotas::default());
    let worker = place.bus.worker(WorkerOptions::default()).unwrap();
    worker.provide_with("store", &["get"], ServiceOptions::default().resource(0)).unwrap();
    let declare = |keys: std::ops::Range<u64>| keys.fold(Changes::new(), |changes, key| changes.declare(key));
    let mut next = 1;
    while next < MOST - 1 {
        let end = (next + 128).min(MOST - 1);
        worker.change("store", declare(next..end)).unwrap();
        next = end;
    }
    // One is left. Two are refused, and neither of them is declared.
    let quota = "the quota \"declared_keys\" for a process is 1000000, and this would make 1000001";
    names(worker.change("store", declare(MOST - 1..MOST + 1)), quota);
    let stopper = worker.stopper();
    let serve = move || {
        let served = worker.serve(|request| request.reply(b""));
        (worker, served)
    };
    let client = place.client(small());
    let get = client.route("store", "get").unwrap();
    let call = |key: u64| {
        let pending = client.request(get).key(key).submit(b"", Until::Forever).unwrap();
        pending.wait().map_or_else(|e| e.status(), |_| Status::Ok)
    };
    let serving = std::thread::spawn(serve);
    assert_eq!([MOST - 2, MOST - 1, MOST].map(call), [Status::Ok, Status::NoWorker, Status::NoWorker]);
    stopper.stop();
    let (worker, served) = serving.join().unwrap();
    assert!(served.is_ok(), "{served:?}");
    worker.change("store", declare(MOST - 1..MOST)).unwrap();
    names(worker.change("store", declare(MOST..MOST + 1)), quota);
    names(worker.provide_with("other", &["get"], ServiceOptions::default().resource(7)), quota);
    // What is there already is none more; what goes makes room.
    worker.change("store", declare(0..100)).unwrap();
    worker.change("store", Changes::new().withdraw(3).declare(MOST)).unwrap();
    names(worker.change("store", declare(3..4)), quota);
    worker.change("store", Changes::new().withdraw(5)).unwrap();
    worker.change("store", declare(3..4)).unwrap();
    drop((client, worker));
    director.stop().unwrap();
}

#[test]
fn a_quota_comes_back_when_nobody_maps_the_memory_any_more() {
    let place = Place::new();
    let sessions = Quota { pool: 1 << 20, process: 1 };
    let director = director(&place.bus, Quotas { sessions, ..Quotas::default() });
    let worker = place.worker();
    let client = place.client(small());
    let route = client.route("work", "mix").unwrap();
    client.call(route, b"").unwrap();
    worker.freeze();
    drop(client);
    // Its memory is still where a stopped worker may write.
    eventually("it is seen to be gone", || place.inspect().sessions.is_empty());
    names(place.bus.client(small()), "\"sessions\" for a process is 1");
    worker.thaw();
    eventually("it was unmapped", || place.bus.client(small()).is_ok());
    drop((worker, director));
}

#[test]
fn without_descriptors_those_who_are_there_are_served_and_others_come_when_some_go() {
    let place = Place::new();
    let _director = place.role("director").with("descriptors", 120).ready();
    let worker = place.worker();
    let mut clients = Vec::new();
    let refused = loop {
        match place.bus.client(small().director_gone(Duration::from_secs(1))) {
            Ok(client) => clients.push(client),
            Err(error) => break error,
        }
        assert!(clients.len() < 100, "no limit was met");
    };
    assert!(clients.len() >= 5, "{} and then {refused}", clients.len());
    for client in &clients {
        // A route makes the worker map the session, for which the director duplicates descriptors: with none left,
        // calls wait until there are some.
        let route = client.route("work", "mix").unwrap();
        let called =
            client.request(route).timeout(Duration::from_secs(1)).submit(b"x", Until::Now).unwrap().wait();
        if let Ok(reply) = called {
            assert_eq!(reply.bytes().to_vec(), mix(b"x"));
        }
    }
    clients.truncate(3);
    let route = clients[0].route("work", "mix").unwrap();
    eventually("those who are left are served", || clients[0].call(route, b"x").is_ok());
    let mut next = None;
    eventually("others come", || {
        next = place.bus.client(small()).ok();
        next.is_some()
    });
    let next = next.expect("a client");
    let route = next.route("work", "mix").unwrap();
    eventually("and are served", || next.call(route, b"y").is_ok());
    drop(worker);
}

#[test]
fn a_wiped_runtime_folder_is_another_bus_and_those_who_are_there_go_on() {
    let place = Place::new();
    let mut director = place.director();
    let mut worker = place.worker();
    let client = place.client(small());
    let (mix_route, keep) = (client.route("work", "mix").unwrap(), client.route("work", "keep").unwrap());
    let kept = client.request(keep).deadline(far()).submit(b"x", Until::Now).unwrap();
    eventually("it has begun", || place.inspect().workers[0].in_flight == 1);
    for entry in std::fs::read_dir(place.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }.unwrap();
    }
    for n in 0..100u64 {
        assert_eq!(client.call(mix_route, &n.to_le_bytes()).unwrap().bytes().to_vec(), mix(&n.to_le_bytes()));
    }
    // The next director can't know anybody: what is open may have run, and everybody begins anew by himself.
    director.kill();
    let _next = place.director();
    assert_eq!(kept.wait().err().map(|e| (e.status(), e.may_have_run())), Some((Status::MayHaveRun, true)));
    worker.say("open");
    eventually("calls are served again", || client.call(mix_route, b"again").is_ok());
}

#[test]
fn swept_segments_lose_their_names_and_not_a_call() {
    let place = Place::new();
    let mut director = place.director();
    let mut worker = place.worker();
    let client = place.client(small());
    let (mix_route, keep) = (client.route("work", "mix").unwrap(), client.route("work", "keep").unwrap());
    let kept = client.request(keep).deadline(far()).submit(b"x", Until::Now).unwrap();
    eventually("it has begun", || place.inspect().workers[0].in_flight == 1);
    let named = crate::support::segments(worker.pid()).into_iter().map(|(name, _)| name);
    let named: Vec<_> = named.filter(|name| name.starts_with("/dev/shm/")).collect();
    assert!(!named.is_empty());
    named.iter().for_each(|name| std::fs::remove_file(name).unwrap());
    client.call(mix_route, b"as before").unwrap();
    let other = place.worker();
    for _ in 0..50 {
        client.call(mix_route, b"as before").unwrap();
    }
    drop(other);
    // The ledger can't be read any more: truth goes before precision.
    director.kill();
    let next = place.director();
    assert_eq!(kept.wait().err().map(|e| (e.status(), e.may_have_run())), Some((Status::MayHaveRun, true)));
    worker.say("open");
    eventually("calls are served again", || client.call(mix_route, b"again").is_ok());
    worker.stop();
    next.stop();
}

/// Starts a role in a pid namespace of its own.
fn elsewhere(place: &Place, role: &str) -> Option<Role> {
    let prefix = ["unshare", "--pid", "--fork", "--kill-child"];
    works(&["unshare", "--pid", "--fork", "--kill-child", "true"])
        .then(|| place.role(role).under(&prefix).ready())
}

#[test]
fn a_worker_in_another_pid_namespace_is_one_like_any_other() {
    let place = Place::new();
    let mut director = place.director();
    let Some(mut worker) = elsewhere(&place, "worker") else { return println!("unshare can't be used here") };
    let client = place.client(small());
    let keep = client.route("work", "keep").unwrap();
    let kept = client.request(keep).deadline(far()).submit(b"x", Until::Now).unwrap();
    eventually("it has begun", || place.inspect().workers[0].in_flight == 1);
    director.kill();
    let _next = place.director();
    eventually("it is back, with what it had", || place.inspect().workers.iter().any(|w| w.in_flight == 1));
    worker.say("open");
    assert_eq!(kept.wait().unwrap().bytes().to_vec(), mix(b"x"));
    let stuck = client.route("work", "stuck").unwrap();
    let begun = client.request(stuck).deadline(far()).submit(b"x", Until::Now).unwrap();
    worker.hear("begun");
    worker.kill();
    assert_eq!(begun.wait().err().map(|e| (e.status(), e.may_have_run())), Some((Status::WorkerDied, true)));
}

#[test]
fn a_director_in_another_pid_namespace_tells_the_living_from_the_dead() {
    let place = Place::new();
    let Some(mut director) = elsewhere(&place, "director") else {
        return println!("unshare can't be used here");
    };
    let mut worker = place.worker();
    let client = place.client(small());
    let keep = client.route("work", "keep").unwrap();
    let kept = client.request(keep).deadline(far()).submit(b"x", Until::Now).unwrap();
    eventually("it has begun", || place.inspect().workers[0].in_flight == 1);
    // The next one is in this namespace: the pids in the ledger mean nothing to it, so nobody is taken for dead.
    director.kill();
    let mut next = None;
    eventually("the next one has the bus", || {
        let role = place.role("director").start();
        let said = role.hear("");
        next = (said == "ready").then_some(role);
        next.is_some()
    });
    eventually("the worker is back, with what it had", || {
        place.inspect().workers.iter().any(|w| w.in_flight == 1)
    });
    worker.say("open");
    assert_eq!(kept.wait().unwrap().bytes().to_vec(), mix(b"x"));
    drop(next);
}
