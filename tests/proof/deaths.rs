//! Anyone may be killed at any time: every call ends, and what it says is true.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use trine::{Armed, CallError, Client, ClientOptions, Reply, Route, Status, Until};

use crate::support::{PATIENCE, Place, Role, bytes, descriptors, eventually, mix, segments};

fn far() -> Instant {
    Instant::now() + Duration::from_secs(600)
}

fn ended(result: Result<Reply<'_>, CallError>) -> (Status, bool) {
    result.map_or_else(|e| (e.status(), e.may_have_run()), |_| (Status::Ok, true))
}

fn client_of(place: &Place, operation: &str) -> (Client, Route) {
    let client = place.client(ClientOptions::default());
    let route = client.route("work", operation).expect("a route");
    (client, route)
}

fn count(worker: &mut Role) -> u64 {
    worker.say("count");
    worker.hear("count").parse().expect("a number")
}

#[test]
fn a_worker_killed_in_its_handler_ends_that_call_and_the_rest_goes_to_another() {
    let place = Place::new();
    let _director = place.director();
    let mut first = place.worker();
    let (client, stuck) = client_of(&place, "stuck");
    let mix_route = client.route("work", "mix").unwrap();
    let begun = client.request(stuck).deadline(far()).submit(b"x", Until::Now).unwrap();
    first.hear("begun");
    // These stand behind it, in the worker's ring and in the director's queue.
    let behind: Vec<_> =
        (0..40u64).map(|n| client.request(mix_route).submit(&n.to_le_bytes(), Until::Now).unwrap()).collect();
    eventually("calls behind it", || place.inspect().workers[0].in_flight >= 2);
    let second = place.worker();
    first.kill();
    assert_eq!(ended(begun.wait()), (Status::WorkerDied, true));
    for (n, pending) in behind.into_iter().enumerate() {
        assert_eq!(pending.wait().expect("retried unseen").bytes().to_vec(), mix(&(n as u64).to_le_bytes()));
    }
    let seen = place.inspect();
    assert_eq!(seen.workers.len(), 1);
    assert_eq!(seen.workers[0].identity.pid, second.pid());
    assert_eq!(seen.services[0].workers, [seen.workers[0].id]);
}

#[test]
fn without_another_worker_nothing_that_was_not_begun_has_run() {
    let place = Place::new();
    let _director = place.director();
    let mut worker = place.worker();
    let (client, stuck) = client_of(&place, "stuck");
    let counted = client.route("work", "count").unwrap();
    let begun = client.request(stuck).deadline(far()).submit(b"x", Until::Now).unwrap();
    worker.hear("begun");
    let behind: Vec<_> =
        (0..20).map(|_| client.request(counted).deadline(far()).submit(b"y", Until::Now).unwrap()).collect();
    worker.kill();
    assert_eq!(ended(begun.wait()), (Status::WorkerDied, true));
    for pending in behind {
        assert_eq!(ended(pending.wait()), (Status::NoWorker, false));
    }
    assert_eq!(ended(client.call(counted, b"")), (Status::NoWorker, false));
    // The route leads to whoever comes next.
    let mut next = place.worker();
    client.call(counted, b"").unwrap();
    assert_eq!(count(&mut next), 1);
}

#[test]
fn a_worker_killed_between_calls_is_not_noticed() {
    let place = Place::new();
    let _director = place.director();
    let (mut first, _second) = (place.worker(), place.worker());
    let (client, route) = client_of(&place, "mix");
    for n in 0..2000u64 {
        assert_eq!(client.call(route, &n.to_le_bytes()).unwrap().bytes().to_vec(), mix(&n.to_le_bytes()));
    }
    first.kill();
    for n in 0..2000u64 {
        assert_eq!(client.call(route, &n.to_le_bytes()).unwrap().bytes().to_vec(), mix(&n.to_le_bytes()));
    }
}

/// Calls run once at most, and exactly once if answered, while worker processes are killed again and again.
#[test]
fn workers_killed_under_load_lose_no_call_and_run_none_twice() {
    let place = Place::new();
    let _director = place.director();
    let mut workers: Vec<Role> = (0..2).map(|_| place.role("worker").with("workers", 3).ready()).collect();
    let (client, route) = client_of(&place, "mix");
    let mut died = 0;
    for round in 0..10u64 {
        let open: Vec<_> = (0..64u64)
            .map(|n| client.request(route).submit(&bytes(n, 500), Until::Forever).unwrap())
            .collect();
        let next = place.role("worker").with("workers", 3).start();
        workers[round as usize % 2].kill();
        for (n, pending) in open.into_iter().enumerate() {
            match pending.wait() {
                Ok(reply) => assert_eq!(reply.bytes().to_vec(), mix(&bytes(n as u64, 500))),
                Err(e) => {
                    assert_eq!((e.status(), e.may_have_run()), (Status::WorkerDied, true), "{e}");
                    died += 1;
                }
            }
        }
        next.hear("ready");
        workers[round as usize % 2] = next;
    }
    // At most one call was being run by each of the workers that died.
    assert!(died <= 30, "{died} calls ended WORKER_DIED");
    assert_eq!(place.inspect().workers.len(), 6);
}

#[test]
fn a_worker_that_leaves_in_order_gives_back_what_it_never_began() {
    let place = Place::new();
    let _director = place.director();
    let mut first = place.worker();
    let (client, gate) = client_of(&place, "gate");
    let counted = client.route("work", "count").unwrap();
    let begun = client.request(gate).deadline(far()).submit(b"g", Until::Now).unwrap();
    first.hear("begun");
    let behind: Vec<_> = (0..20).map(|_| client.request(counted).submit(b"", Until::Now).unwrap()).collect();
    eventually("calls behind it", || place.inspect().workers[0].in_flight >= 2);
    let mut second = place.worker();
    first.say("stop");
    first.say("open");
    assert_eq!(begun.wait().unwrap().bytes().to_vec(), mix(b"g"));
    first.hear("stopped");
    assert!(first.exit().success());
    for pending in behind {
        pending.wait().expect("answered by the other");
    }
    assert!(count(&mut second) >= 19, "one that was next may have been run by the first");
}

#[test]
fn requests_that_are_dropped_forgotten_or_panicked_over_are_answered() {
    let place = Place::new();
    let _director = place.director();
    let mut worker = place.worker();
    let (client, mix_route) = client_of(&place, "mix");
    let call = |operation: &str| {
        let route = client.route("work", operation).unwrap();
        client.request(route).deadline(far()).submit(b"12345678", Until::Now).unwrap()
    };
    let forgotten = call("forget");
    worker.hear("forgotten");
    for (operation, why) in [("panic", "panicked"), ("drop", "dropped")] {
        let error = call(operation).wait().err().expect("no reply");
        assert_eq!((error.status(), error.may_have_run()), (Status::WorkerError, true));
        assert!(error.message().contains(why), "{error}");
        // Where there is no room for why, it is the same error.
        let route = client.route("work", operation).unwrap();
        let short = client.request(route).reply_capacity(5).submit(b"12345678", Until::Now).unwrap();
        let error = short.wait().err().expect("no reply");
        assert_eq!((error.status(), error.message().len()), (Status::WorkerError, 5));
        client.call(mix_route, b"it goes on").unwrap();
    }
    let route = client.route("work", "forget").unwrap();
    let short = client.request(route).reply_capacity(0).submit(b"12345678", Until::Now).unwrap();
    worker.hear("forgotten");
    worker.say("stop");
    assert_eq!(ended(short.wait()), (Status::WorkerError, true));
    let error = forgotten.wait().err().expect("no reply");
    assert_eq!(error.status(), Status::WorkerError);
    assert!(error.message().contains("went away"), "{error}");
    worker.hear("stopped");
}

#[test]
fn a_client_that_is_killed_is_forgotten_and_disturbs_nobody() {
    let place = Place::new();
    let _director = place.director();
    let mut worker = place.worker();
    let (client, mix_route) = client_of(&place, "mix");
    client.call(mix_route, b"").unwrap();
    for operation in ["keep", "gate"] {
        worker.say("close");
        let mut holder = place.role("holder").with("calls", 30).with("operation", operation).ready();
        eventually("its calls", || place.inspect().sessions.iter().any(|s| s.calls >= 30));
        holder.kill();
        eventually("it is forgotten", || place.inspect().sessions.len() == 1);
        assert_eq!(place.inspect().services[0].waiting, 0);
        worker.say("open");
        if operation == "gate" {
            worker.hear("begun");
        }
        client.call(mix_route, b"the worker goes on").unwrap();
        eventually("the worker has unmapped it", || place.inspect().workers[0].sessions == 1);
    }
    eventually("nothing of it is counted", || place.inspect().workers[0].in_flight == 0);
}

#[test]
fn two_hundred_clients_that_come_and_go_leave_nothing() {
    let place = Place::new();
    let director = place.director();
    let worker = place.worker();
    let of = |role: &Role| (descriptors(role.pid()), segments(role.pid()).len());
    let visit = |count: u64| {
        let mut visitors = place.role("visitors").with("calls", count).start();
        visitors.hear("done");
        visitors.exit();
    };
    visit(1);
    let gone = || {
        eventually("all are gone", || {
            let seen = place.inspect();
            seen.sessions.is_empty() && seen.workers[0].sessions == 0
        });
    };
    gone();
    let before = (of(&director), of(&worker));
    visit(150);
    let mut killed = 0;
    while killed < 50 {
        // Killed with calls in flight that wait behind one that is stuck in nobody's hands: they are kept.
        let mut holders: Vec<Role> = (0..10)
            .map(|_| place.role("holder").with("calls", 5).with("operation", "keep").start())
            .collect();
        holders.iter().for_each(|h| drop(h.hear("ready")));
        holders.iter_mut().for_each(Role::kill);
        killed += holders.len();
    }
    // What was kept is answered into the void, and only then unmapped.
    let mut worker = worker;
    worker.say("open");
    gone();
    // The first count may have had an inspection's descriptors in it.
    let mut after = before;
    eventually(format!("nothing is left: {before:?}"), || {
        after = (of(&director), of(&worker));
        let ((fds, maps), (worker_fds, worker_maps)) = after;
        fds <= before.0.0 && maps <= before.0.1 && worker_fds <= before.1.0 && worker_maps <= before.1.1
    });
}

#[test]
fn a_directors_death_loses_no_call_and_everybody_comes_back_to_the_next() {
    let place = Place::new();
    let mut director = place.director();
    let mut worker = place.worker();
    let (client, keep) = client_of(&place, "keep");
    let mix_route = client.route("work", "mix").unwrap();
    let open: Vec<_> =
        (0..10).map(|_| client.request(keep).deadline(far()).submit(b"x", Until::Now).unwrap()).collect();
    let id = place.inspect().workers[0].id;
    eventually("the worker has them", || place.inspect().workers[0].in_flight == 10);
    let (said, waiting) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Another client, which sleeps in a wait when it happens.
            let (blocked, stuck) = client_of(&place, "keep");
            let pending = blocked.request(stuck).deadline(far()).submit(b"x", Until::Now).unwrap();
            said.send(()).unwrap();
            assert_eq!(pending.wait().unwrap().bytes().to_vec(), mix(b"x"));
        });
        waiting.recv_timeout(PATIENCE).unwrap();
        eventually("the worker has that too", || place.inspect().workers[0].in_flight == 11);
        director.kill();
        let director = place.director();
        eventually("the same worker is back, with what it had", || {
            let workers = place.inspect().workers;
            workers.iter().any(|w| w.id == id && w.in_flight == 11)
        });
        // The routes still lead there, and new calls go past those that are kept.
        assert_eq!(client.call(mix_route, b"after").unwrap().bytes().to_vec(), mix(b"after"));
        assert_eq!(place.inspect().workers[0].identity.pid, worker.pid());
        worker.say("open");
        // An outcome is given out once, and asking again neither hangs nor takes another call's.
        let mut open = open;
        let mut first = open.remove(0);
        let reply = first.wait_until(Until::Forever).expect("an end").unwrap();
        assert_eq!(reply.bytes().to_vec(), mix(b"x"));
        assert!(first.poll().is_none(), "it was given out");
        for pending in open {
            assert_eq!(pending.wait().unwrap().bytes().to_vec(), mix(b"x"));
        }
        director.stop();
    });
    worker.kill();
    let after: Vec<_> = std::fs::read_dir(place.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(after.is_empty(), "a clean stop leaves {after:?}");
}

#[test]
fn an_armed_client_comes_back_to_the_next_director_and_the_one_after() {
    let place = Place::new();
    let mut director = place.director();
    let mut worker = place.worker();
    let (client, keep) = client_of(&place, "keep");
    let pending = client.request(keep).deadline(far()).submit(b"x", Until::Now).unwrap();
    eventually("the worker has it", || place.inspect().workers[0].in_flight == 1);
    // One turn of a program's event loop.
    let turn = || {
        if client.arm().unwrap() == Armed::Sleep {
            let mut fds = [PollFd::new(client.as_fd(), PollFlags::POLLIN)];
            assert_eq!(poll(&mut fds, PollTimeout::from(10_000u16)).unwrap(), 1, "nothing woke it");
            client.disarm().unwrap();
        }
        client.wait_any(Until::Now).unwrap()
    };
    for _ in 0..2 {
        director.kill();
        director = place.director();
        eventually("the loop has brought the client back", || {
            assert_eq!(turn(), None);
            place.inspect().sessions.len() == 1
        });
        eventually("so has the worker's", || place.inspect().workers.iter().any(|w| w.in_flight == 1));
    }
    worker.say("open");
    let ended = loop {
        if let Some(ended) = turn() {
            break ended;
        }
    };
    assert_eq!(ended, pending.ticket());
    assert_eq!(pending.wait().unwrap().bytes().to_vec(), mix(b"x"));
}

#[test]
fn a_director_and_a_worker_dead_together_end_what_the_ledger_names_and_nothing_else() {
    let place = Place::new();
    let mut director = place.director();
    let mut worker = place.worker();
    let (client, keep) = client_of(&place, "keep");
    let begun = client.request(keep).deadline(far()).submit(b"x", Until::Now).unwrap();
    eventually("the worker has it", || place.inspect().workers[0].in_flight == 1);
    director.kill();
    worker.kill();
    // Sent while there is nobody at all: it is in no ledger, and waits for whoever comes.
    let fresh = client.request(keep).deadline(far()).submit(b"y", Until::Now).unwrap();
    let _director = place.director();
    assert_eq!(ended(begun.wait()), (Status::WorkerDied, true));
    let mut other = place.worker();
    other.say("open");
    match fresh.wait() {
        Ok(reply) => assert_eq!(reply.bytes().to_vec(), mix(b"y")),
        // The other worker came after it was told that there is none.
        Err(error) => assert_eq!((error.status(), error.may_have_run()), (Status::NoWorker, false)),
    }
}

#[test]
fn a_killed_directors_segments_go_when_nobody_can_ask_for_them_and_a_clean_stop_leaves_none() {
    let place = Place::new();
    let mut director = place.director();
    let mut workers = [place.worker(), place.worker()];
    let segment = |worker: &Role| {
        let mut found = segments(worker.pid()).into_iter().map(|(name, _)| name);
        found.find(|name| name.starts_with("/dev/shm/")).expect("its work segment")
    };
    let names = [segment(&workers[0]), segment(&workers[1])];
    let there = |name: &String| std::path::Path::new(name).exists();
    assert!(names.iter().all(there), "{names:?}");
    director.kill();
    workers.iter_mut().for_each(Role::kill);
    assert!(names.iter().all(there), "they outlive their director");
    let director = place.director();
    eventually("the window has ended", || !names.iter().any(there));
    let worker = place.worker();
    let name = segment(&worker);
    assert!(there(&name));
    director.stop();
    assert!(!there(&name));
}

#[test]
fn without_a_director_calls_end_in_the_time_that_was_set() {
    let place = Place::new();
    let mut director = place.director();
    let worker = place.worker();
    let client = place.client(ClientOptions::default().director_gone(Duration::from_millis(300)));
    let route = client.route("work", "mix").unwrap();
    client.call(route, b"").unwrap();
    director.kill();
    // What was sent before it was known may have run; after that nothing is sent any more.
    let first = client.call(route, b"").err().expect("no director");
    assert!(matches!(first.status(), Status::MayHaveRun | Status::DirectorGone), "{first}");
    let began = Instant::now();
    let error = client.call(route, b"").err().expect("no director");
    assert_eq!((error.status(), error.may_have_run()), (Status::DirectorGone, false));
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    let refused = client.request(route).submit(b"", Until::Now).err().expect("no director");
    assert!(matches!(refused.status(), Status::DirectorGone | Status::WouldBlock) && !refused.may_have_run());
    let _director = place.director();
    eventually("the worker attached again", || place.inspect().workers.len() == 1);
    client.call(route, b"").unwrap();
    drop(worker);
}

#[test]
fn waiting_for_a_slot_outlasts_the_director() {
    let place = Place::new();
    let mut director = place.director();
    let mut worker = place.worker();
    let client = place.client(ClientOptions::default().slots(4));
    let (keep, mix_route) = (client.route("work", "keep").unwrap(), client.route("work", "mix").unwrap());
    let open: Vec<_> = (0..4)
        .map(|_| client.request(keep).deadline(far()).submit(b"x", Until::Now).unwrap().detach())
        .collect();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || {
            // Sent to the next director, which comes while this waits.
            let reply = client.request(mix_route).submit(b"late", Until::Forever).unwrap().wait();
            assert_eq!(reply.unwrap().bytes().to_vec(), mix(b"late"));
            for ticket in open {
                let reply = client.pending(ticket).expect("its outcome is kept").wait();
                assert_eq!(reply.unwrap().bytes().to_vec(), mix(b"x"));
            }
        });
        eventually("its calls", || place.inspect().workers[0].in_flight == 4);
        director.kill();
        let _director = place.director();
        eventually("the worker is back", || place.inspect().workers.iter().any(|w| w.in_flight == 4));
        worker.say("open");
        waiting.join().unwrap();
    });
}
