//! Who is stopped, or closes his socket, and does not die: calls end all the same, and nobody else is disturbed.

use std::time::{Duration, Instant};

use trine::{CallError, ClientOptions, Reply, ServiceOptions, Status, Unheld, Until, WorkerOptions};

use crate::support::{Place, Role, eventually, mix};

fn far() -> Instant {
    Instant::now() + Duration::from_secs(600)
}

fn ended(result: Result<Reply<'_>, CallError>) -> (Status, bool) {
    result.map_or_else(|e| (e.status(), e.may_have_run()), |_| (Status::Ok, true))
}

#[test]
fn a_stopped_workers_calls_end_by_verdict_and_the_others_go_on_elsewhere() {
    let place = Place::new();
    let _director = place.role("director").with("stall_ms", 600).ready();
    let stopped = place.worker();
    let client = place.client(ClientOptions::default().slots(8));
    let route = client.route("work", "mix").unwrap();
    client.call(route, b"").unwrap();
    stopped.freeze();
    // It gets its share, which is two, and all ends as what can be known: it was in its hands.
    let held: Vec<_> =
        (0..2).map(|_| client.request(route).deadline(far()).submit(b"x", Until::Now).unwrap()).collect();
    let _other = place.worker();
    for n in 0..500u64 {
        assert_eq!(client.call(route, &n.to_le_bytes()).unwrap().bytes().to_vec(), mix(&n.to_le_bytes()));
    }
    for pending in held {
        assert_eq!(ended(pending.wait()), (Status::MayHaveRun, true));
    }
    // What it was given stays with it, and nothing more comes.
    let workers = || place.inspect().workers;
    assert_eq!(workers().iter().find(|w| w.identity.pid == stopped.pid()).unwrap().in_flight, 2);
    for _ in 0..200 {
        client.call(route, b"y").unwrap();
    }
    // It moves again: what was given up meanwhile is answered into the void, and it serves as before.
    stopped.thaw();
    eventually("it has answered", || workers().iter().all(|w| w.in_flight == 0));
    let answered = || workers().iter().find(|w| w.identity.pid == stopped.pid()).unwrap().completed;
    let before = answered();
    eventually("it serves again", || {
        let open: Vec<_> =
            (0..8).map_while(|_| client.request(route).submit(b"z", Until::Now).ok()).collect();
        open.into_iter().for_each(|pending| drop(pending.wait().unwrap()));
        answered() > before
    });
}

#[test]
fn a_worker_that_keeps_requests_and_waits_for_more_does_not_stand_still() {
    let place = Place::new();
    // Shorter than a second is shorter than its signs of life.
    let _director = place.role("director").with("stall_ms", 2_500).ready();
    let mut worker = place.worker();
    let client = place.client(ClientOptions::default());
    let keep = client.route("work", "keep").unwrap();
    let pending = client.request(keep).deadline(far()).submit(b"x", Until::Now).unwrap();
    std::thread::sleep(Duration::from_secs(5)); // twice the limit, in which nothing else happens
    worker.say("open");
    assert_eq!(pending.wait().unwrap().bytes().to_vec(), mix(b"x"));
}

#[test]
fn a_client_whose_slots_a_stopped_worker_holds_gets_a_new_session_unseen() {
    let place = Place::new();
    let _director = place.director();
    let stopped = place.worker();
    let client = place.client(ClientOptions::default().slots(2).arenas(1 << 20, 1 << 20));
    let route = client.route("work", "mix").unwrap();
    client.call(route, b"").unwrap();
    let session = place.inspect().sessions[0].id;
    stopped.freeze();
    for _ in 0..2 {
        let short =
            client.request(route).timeout(Duration::from_millis(100)).submit(&[7; 1 << 19], Until::Now);
        assert_eq!(ended(short.unwrap().wait()), (Status::DeadlineExceeded, true));
    }
    let _other = place.worker();
    // All slots, and all of the arena, are where the stopped worker may still write and read.
    let reply = client.request(route).reply_capacity(900_000).submit(&[3; 900_000], Until::Forever).unwrap();
    assert_eq!(reply.wait().unwrap().bytes().to_vec(), mix(&[3; 900_000]));
    assert!(place.inspect().sessions.iter().all(|s| s.id != session), "the old one is gone");
    stopped.thaw();
    eventually("nothing is kept of the old one", || {
        place.inspect().workers.iter().all(|w| w.in_flight == 0 && w.sessions <= 1)
    });
    client.call(route, b"").unwrap();
}

#[test]
fn a_stopped_director_is_noticed_and_one_that_goes_on_is_found_again() {
    let place = Place::new();
    let director = place.director();
    let _worker = place.worker();
    let client = place.client(ClientOptions::default().director_gone(Duration::from_secs(3)));
    let route = client.route("work", "mix").unwrap();
    client.call(route, b"").unwrap();
    director.freeze();
    let began = Instant::now();
    assert_eq!(
        ended(client.request(route).deadline(far()).submit(b"x", Until::Now).unwrap().wait()),
        (Status::DirectorGone, true)
    );
    assert!(began.elapsed() >= Duration::from_secs(3), "{:?}", began.elapsed());
    // Nothing more is sent to it.
    assert_eq!(ended(client.call(route, b"")), (Status::DirectorGone, false));
    director.thaw();
    eventually("it is found again", || client.call(route, b"y").is_ok());
}

#[test]
fn a_call_that_takes_its_time_is_no_sign_that_the_director_stopped() {
    let place = Place::new();
    let _director = place.director();
    let mut worker = place.worker();
    let client = place.client(ClientOptions::default().director_gone(Duration::from_millis(100)));
    let keep = client.route("work", "keep").unwrap();
    let ticket = client.request(keep).deadline(far()).submit(b"x", Until::Now).unwrap().detach();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || {
            let reply = client.pending(ticket).expect("its name").wait();
            reply.map(|r| r.bytes().to_vec())
        });
        std::thread::sleep(Duration::from_secs(4)); // longer than a stopped director would be waited for
        worker.say("open");
        assert_eq!(waiting.join().unwrap().unwrap(), mix(b"x"));
    });
}

#[test]
fn a_stopped_client_harms_nobody() {
    let place = Place::new();
    let _director = place.director();
    let mut worker = place.worker();
    let holder = place.role("holder").with("calls", 40).with("operation", "keep").ready();
    eventually("its calls", || place.inspect().sessions.iter().any(|s| s.calls >= 40));
    holder.freeze();
    worker.say("open");
    let client = place.client(ClientOptions::default());
    let route = client.route("work", "mix").unwrap();
    for n in 0..2000u64 {
        assert_eq!(client.call(route, &n.to_le_bytes()).unwrap().bytes().to_vec(), mix(&n.to_le_bytes()));
    }
    eventually("it was answered", || place.inspect().workers[0].in_flight == 0);
    holder.thaw();
    for _ in 0..40 {
        holder.hear("ended Ok(4)");
    }
}

#[test]
fn a_worker_that_hangs_up_and_lives_on_is_a_new_one_and_answers_what_it_had_begun() {
    let place = Place::new();
    let _director = place.director();
    let mut worker = place.worker();
    let client = place.client(ClientOptions::default().slots(4));
    let (keep, mix_route) = (client.route("work", "keep").unwrap(), client.route("work", "mix").unwrap());
    let begun = client.request(keep).deadline(far()).submit(b"x", Until::Now).unwrap();
    eventually("it has begun", || place.inspect().workers[0].in_flight == 1);
    let id = place.inspect().workers[0].id;
    worker.say("hang up");
    // It lives, so nobody can say whether it will answer: a verdict, after a second.
    assert_eq!(ended(begun.wait()), (Status::MayHaveRun, true));
    eventually("it is another worker by now", || place.inspect().workers.iter().any(|w| w.id != id));
    client.call(mix_route, b"goes on").unwrap();
    worker.say("open");
    // The slot comes back with the answer that nobody waits for.
    eventually("all slots can be used", || {
        let open: Vec<_> =
            (0..4).map_while(|_| client.request(mix_route).submit(b"z", Until::Now).ok()).collect();
        let all = open.len() == 4;
        open.into_iter().for_each(|pending| drop(pending.wait().unwrap()));
        all
    });
}

#[test]
fn a_worker_that_comes_after_the_window_frees_what_it_never_began_and_answers_the_rest() {
    // The client has to come back within the window: where that takes too long, once more, with a longer one.
    assert!([1_500, 6_000, 15_000].into_iter().any(a_worker_comes_after_the_window));
}

/// Returns whether the client was back in time.
fn a_worker_comes_after_the_window(window_ms: u64) -> bool {
    let place = Place::new();
    let mut director = place.director();
    let mut worker = place.worker();
    let client = place.client(ClientOptions::default().slots(2));
    let (gate, counted) = (client.route("work", "gate").unwrap(), client.route("work", "count").unwrap());
    let begun = client.request(gate).deadline(far()).submit(b"x", Until::Now).unwrap();
    worker.hear("begun");
    let behind = client.request(counted).deadline(far()).submit(b"", Until::Now).unwrap();
    eventually("it stands behind", || place.inspect().workers[0].in_flight == 2);
    let session = place.inspect().sessions[0].id;
    worker.freeze();
    director.kill();
    let _director = place.role("director").with("window_ms", window_ms).ready();
    // Both are in the ledger of a worker that lives: it may have begun either.
    assert_eq!(ended(begun.wait()), (Status::MayHaveRun, true));
    assert_eq!(ended(behind.wait()), (Status::MayHaveRun, true));
    if place.inspect().sessions.iter().all(|s| s.id != session) {
        return false;
    }
    worker.thaw();
    worker.say("open");
    eventually("it is a worker again", || place.inspect().workers.len() == 1);
    // Both slots are back, in the same session: one was answered, the other was never begun. It may be there before what it
    // provides is known again.
    eventually("both slots can be used", || {
        let open: Vec<_> =
            (0..2).map_while(|_| client.request(counted).submit(b"z", Until::Now).ok()).collect();
        let both = open.len() == 2;
        open.into_iter().fold(both, |both, pending| pending.wait().is_ok() && both)
    });
    assert_eq!(place.inspect().sessions[0].id, session);
    true
}

#[test]
fn what_a_worker_that_missed_the_window_may_hold_is_not_anothers() {
    let place = Place::new();
    let mut director = place.director();
    let mut holder = place.role("worker").with("service", "store").with("holds", 7).ready();
    holder.freeze();
    director.kill();
    let _director = place.role("director").with("window_ms", 300).ready();
    let other = place.bus.worker(WorkerOptions::default()).unwrap();
    let exclusive = || ServiceOptions::default().exclusive(Unheld::Error);
    other.provide_with("store", &["mix"], exclusive()).unwrap();
    other.provide_with("shop", &["mix"], exclusive()).unwrap();
    let client = place.client(ClientOptions::default());
    let route = client.route("store", "mix").unwrap();
    eventually("another service's resources can be had", || other.acquire("shop", 7).unwrap());
    assert!(!other.acquire("store", 7).unwrap(), "its holder lives");
    assert!(!other.acquire("store", 8).unwrap(), "of which nobody knows what else it holds");
    let call = client.request(route).key(7).submit(b"x", Until::Now).unwrap();
    assert_eq!(ended(call.wait()), (Status::NotHeld, false));
    holder.kill();
    eventually("it is dead, and the other is the holder", || {
        let _ = other.next(Until::after(Duration::from_millis(1)));
        other.holds("store").len() == 2
    });
}

#[test]
fn an_idempotent_call_runs_again_when_its_worker_dies_and_three_times_at_most() {
    let place = Place::new();
    let _director = place.director();
    for (idempotent, runs) in [("die mix", 3), ("mix", 1)] {
        let mut workers: Vec<_> =
            (0..4).map(|_| place.role("worker").with("idempotent", idempotent).ready()).collect();
        let client = place.client(ClientOptions::default());
        let route = client.route("work", "die").unwrap();
        assert_eq!(ended(client.call(route, b"")), (Status::WorkerDied, true));
        let dead = workers.iter_mut().filter_map(|worker| (!worker.is_running()).then_some(())).count();
        assert_eq!(dead, runs, "{idempotent}");
        // One that does not die answers, and nobody hears of those that did.
        workers.iter_mut().for_each(Role::kill);
    }
    let mut first = place.role("worker").with("idempotent", "gate").ready();
    let client = place.client(ClientOptions::default());
    let gate = client.route("work", "gate").unwrap();
    let pending = client.request(gate).deadline(far()).submit(b"again", Until::Now).unwrap();
    first.hear("begun");
    let mut second = place.role("worker").with("idempotent", "gate").ready();
    second.say("open");
    first.kill();
    assert_eq!(pending.wait().unwrap().bytes().to_vec(), mix(b"again"));
    second.hear("begun");
}
