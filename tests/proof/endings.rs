//! Every other way in which a call ends, and what is said about it.

use std::time::{Duration, Instant};

use trine::{Bus, CallError, Client, ClientOptions, Error, Reply, Route, Status, Until, WorkerOptions};

use crate::support::{Place, Role, bytes, eventually, mix};

fn ended(result: Result<Reply<'_>, CallError>) -> (Status, bool) {
    result.map_or_else(|e| (e.status(), e.may_have_run()), |_| (Status::Ok, true))
}

fn after_ms(milliseconds: u64) -> Instant {
    Instant::now() + Duration::from_millis(milliseconds)
}

fn far() -> Instant {
    after_ms(600_000)
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

/// A call that holds up the only worker.
fn gated<'c>(client: &'c Client, worker: &Role) -> trine::Pending<'c> {
    let gate = client.route("work", "gate").unwrap();
    let pending = client.request(gate).deadline(far()).submit(b"g", Until::Now).unwrap();
    worker.hear("begun");
    pending
}

#[test]
fn a_deadline_in_the_past_is_not_sent() {
    let place = Place::new();
    let (_director, mut worker) = (place.director(), place.worker());
    let (client, counted) = client_of(&place, "count");
    for _ in 0..100 {
        let late = client.request(counted).deadline(Instant::now()).submit(b"", Until::Forever);
        let error = late.err().expect("too late");
        assert_eq!((error.status(), error.may_have_run()), (Status::DeadlineExceeded, false));
    }
    assert_eq!(count(&mut worker), 0);
}

#[test]
fn what_has_expired_is_begun_by_nobody() {
    let place = Place::new();
    let (_director, mut worker) = (place.role("director").with("share_max", 4).ready(), place.worker());
    let (client, counted) = client_of(&place, "count");
    let gate = gated(&client, &worker);
    // Some stand in the worker's ring, the others in the director's queue, when their time has come.
    let deadline = after_ms(50);
    let open: Vec<_> = (0..20)
        .map(|_| client.request(counted).deadline(deadline).submit(b"", Until::Now).unwrap())
        .collect();
    for pending in open {
        // The director ends what waits there and says so; what is in the worker's hands only its client can end.
        let (status, _) = ended(pending.wait());
        assert_eq!(status, Status::DeadlineExceeded);
    }
    assert!(Instant::now() >= deadline);
    worker.say("open");
    gate.wait().unwrap();
    client.call(counted, b"").unwrap();
    assert_eq!(count(&mut worker), 1, "none of the twenty was run");
}

#[test]
fn a_worker_does_not_begin_what_expired_while_it_was_busy() {
    let place = Place::new();
    let (_director, worker) = (place.director(), place.worker());
    let (client, slow) = client_of(&place, "slow");
    // Its own clock must not be as old as its last look: each call is longer than the next one's deadline.
    let mut began = 0;
    for _ in 0..10 {
        let first = client.request(slow).submit(&20_000u64.to_le_bytes(), Until::Now).unwrap();
        let second =
            client.request(slow).deadline(after_ms(10)).submit(&1u64.to_le_bytes(), Until::Now).unwrap();
        first.wait().unwrap();
        assert_eq!(ended(second.wait()).0, Status::DeadlineExceeded);
        client.request(slow).submit(&1u64.to_le_bytes(), Until::Now).unwrap().wait().unwrap();
        began += worker.heard().len();
    }
    began += worker.heard().len();
    assert!(began <= 20, "{began} began, ten of which had expired");
}

#[test]
fn a_deadline_that_only_the_client_sees_may_have_run() {
    let place = Place::new();
    let (_director, mut worker) = (place.director(), place.worker());
    let (client, gate) = client_of(&place, "gate");
    let pending = client.request(gate).deadline(after_ms(50)).submit(b"", Until::Now).unwrap();
    worker.hear("begun");
    assert_eq!(ended(pending.wait()), (Status::DeadlineExceeded, true));
    // Its slot is in quarantine: a reply that comes now is nobody's.
    worker.say("open");
    for n in 0..500u64 {
        let request = bytes(n, 100);
        let route = client.route("work", "mix").unwrap();
        assert_eq!(client.call(route, &request).unwrap().bytes().to_vec(), mix(&request));
    }
}

#[test]
fn the_directors_word_on_a_deadline_or_a_cancel_is_that_it_did_not_run() {
    let place = Place::new();
    let (_director, mut worker) = (place.role("director").with("share_max", 1).ready(), place.worker());
    let (client, counted) = client_of(&place, "count");
    let gate = gated(&client, &worker);
    let refused = place.inspect().refused;
    // Nobody waits for these, so only the director can end them; it tells how many it ended.
    for _ in 0..5 {
        let _ = client.request(counted).deadline(after_ms(20)).submit(b"", Until::Now).unwrap().detach();
    }
    eventually("five are ended by the director", || place.inspect().refused == refused + 5);
    let mut outcomes = Vec::new();
    while let Some(ticket) = client.wait_any(Until::after(Duration::from_millis(100))).unwrap() {
        outcomes.push(ended(client.pending(ticket).unwrap().wait()));
    }
    assert_eq!(outcomes, [(Status::DeadlineExceeded, false); 5]);
    worker.say("open");
    gate.wait().unwrap();
    client.call(counted, b"").unwrap();
    assert_eq!(count(&mut worker), 1);
}

#[test]
fn a_thread_stops_waiting_and_its_call_goes_on() {
    let place = Place::new();
    let (_director, mut worker) = (place.director(), place.worker());
    let (client, gate) = client_of(&place, "gate");
    let mut pending = client.request(gate).submit(b"on", Until::Now).unwrap();
    worker.hear("begun");
    let began = Instant::now();
    assert!(pending.wait_until(Until::after(Duration::from_millis(30))).is_none());
    assert!(pending.poll().is_none());
    assert!((30..5000).contains(&(began.elapsed().as_millis() as u64)), "{:?}", began.elapsed());
    worker.say("open");
    assert_eq!(pending.wait().unwrap().bytes().to_vec(), mix(b"on"));
}

#[test]
fn a_call_that_is_given_up_is_cancelled_where_it_is() {
    let place = Place::new();
    let (_director, mut worker) = (place.role("director").with("share_max", 2).ready(), place.worker());
    let (client, watch) = client_of(&place, "watch");
    let counted = client.route("work", "count").unwrap();
    let watched = client.request(watch).deadline(far()).submit(b"", Until::Now).unwrap();
    worker.hear("begun");
    // One stands in the worker's ring, the others in the director's queue.
    let behind: Vec<_> =
        (0..20).map(|_| client.request(counted).deadline(far()).submit(b"", Until::Now).unwrap()).collect();
    drop(behind);
    drop(watched);
    worker.hear("cancelled");
    client.call(counted, b"").unwrap();
    assert_eq!(count(&mut worker), 1, "none of the twenty was run");
    // All slots come back.
    let open: Vec<_> =
        (0..64).map(|_| client.request(counted).submit(b"", Until::Forever).unwrap()).collect();
    for pending in open {
        pending.wait().unwrap();
    }
}

#[test]
fn a_worker_hears_that_its_caller_is_gone_while_it_runs() {
    let place = Place::new();
    let (_director, worker) = (place.director(), place.worker());
    let (client, watch) = client_of(&place, "watch");
    let _ = client.request(watch).submit(b"", Until::Now).unwrap().detach();
    worker.hear("begun");
    // It does not look into its ring meanwhile, where it would be told.
    drop(client);
    worker.hear("cancelled");
}

#[test]
fn one_way_calls_run_and_close_waits_for_them() {
    let place = Place::new();
    let (_director, mut worker) = (place.director(), place.worker());
    let client = place.client(ClientOptions::default().slots(8).arenas(64 << 10, 4096));
    let counted = client.route("work", "count").unwrap();
    for n in 0..5000u64 {
        // More than the arena has room for at a time: what they took comes back.
        client.request(counted).post(&bytes(n, 10_000), Until::Forever).unwrap();
    }
    client.close();
    assert_eq!(count(&mut worker), 5000);
}

#[test]
fn unknown_names_are_refused_at_once() {
    let place = Place::new();
    let (_director, _worker) = (place.director(), place.worker());
    let client = place.client(ClientOptions::default());
    let began = Instant::now();
    let refused = |service: &str, operation: &str| client.route(service, operation).unwrap_err();
    let error = refused("nobody", "mix");
    assert_eq!(error.status(), Status::NoSuchService);
    assert!(error.to_string().contains("\"nobody\""), "{error}");
    let error = refused("work", "nothing");
    assert_eq!(error.status(), Status::NoSuchOperation);
    assert!(error.to_string().contains("\"nothing\""), "{error}");
    for bad in ["", &"x".repeat(10_000), "a\nb", "a\0b", "\u{7f}", "\u{202e}evil"] {
        let error = refused(bad, "mix");
        assert!(matches!(error, Error::Name { .. }), "{error}");
        assert!(error.to_string().len() < 400 && !error.to_string().contains('\n'), "{error}");
        assert!(matches!(refused("work", bad), Error::Name { .. }));
    }
    assert!(began.elapsed() < Duration::from_secs(5));
    client.call(client.route("work", "mix").unwrap(), b"").unwrap();
}

#[test]
fn too_many_that_wait_on_a_route_are_refused_and_not_run() {
    let place = Place::new();
    let director = place.role("director").with("share_max", 1).with("waiting_per_route", 5).ready();
    let mut worker = place.worker();
    let (client, counted) = client_of(&place, "count");
    let gate = gated(&client, &worker);
    let open: Vec<_> =
        (0..20).map(|_| client.request(counted).deadline(far()).submit(b"", Until::Now).unwrap()).collect();
    eventually("all were taken", || place.inspect().sessions[0].calls == 21);
    worker.say("open");
    gate.wait().unwrap();
    let endings: Vec<_> = open.into_iter().map(|p| ended(p.wait())).collect();
    assert_eq!(endings.iter().filter(|e| **e == (Status::Busy, false)).count(), 15);
    assert_eq!(endings.iter().filter(|e| e.0 == Status::Ok).count(), 5);
    assert_eq!(count(&mut worker), 5);
    drop(director);
}

#[test]
fn what_is_too_large_is_said_with_its_size() {
    let place = Place::new();
    let (_director, _worker) = (place.director(), place.worker());
    let client = place.client(ClientOptions::default().reply_capacity(128).arenas(8192, 8192));
    let (fill, echo) = (client.route("work", "fill").unwrap(), client.route("work", "echo").unwrap());
    for len in [129u64, 4096, 1 << 20] {
        let error = client.call(fill, &len.to_le_bytes()).err().expect("too large");
        assert_eq!((error.status(), error.needed()), (Status::ReplyTooLarge, Some(len)));
        assert!(error.to_string().contains(&len.to_string()), "{error}");
    }
    let error = client.call(echo, &[7; 129]).err().expect("too large");
    assert_eq!((error.status(), error.needed()), (Status::ReplyTooLarge, Some(129)));
    let wanted = client.request(fill).reply_capacity(8000).submit(&8000u64.to_le_bytes(), Until::Now);
    assert_eq!(wanted.unwrap().wait().unwrap().bytes().to_vec(), bytes(8000, 8000));
    for len in [8193, 1 << 20] {
        let error = client.call(echo, &vec![7; len]).err().expect("too large");
        assert_eq!((error.status(), error.may_have_run()), (Status::RequestTooLarge, false));
        let loan = client.request(echo).loan(len, Until::Forever).err().expect("too large");
        assert_eq!(loan.status(), Status::RequestTooLarge);
        let reply =
            client.request(echo).reply_capacity(len).submit(b"", Until::Forever).err().expect("too large");
        assert_eq!((reply.status(), reply.needed()), (Status::ReplyTooLarge, Some(len as u64)));
    }
    client.call(echo, b"it goes on").unwrap();
}

#[test]
fn a_workers_error_comes_with_its_code_and_its_words() {
    let place = Place::new();
    let (_director, _worker) = (place.director(), place.worker());
    for capacity in [64, 4096] {
        let client = place.client(ClientOptions::default().reply_capacity(capacity));
        let route = client.route("work", "fail").unwrap();
        let error = client.call(route, &4_000_000_000u64.to_le_bytes()).err().expect("an error");
        assert_eq!(
            (error.status(), error.may_have_run(), error.code()),
            (Status::WorkerError, true, 4_000_000_000)
        );
        let whole = "é".repeat(2000);
        assert!(whole.starts_with(error.message()), "cut between two characters: {:?}", error.message());
        assert_eq!(error.message().len(), 1024.min(capacity as usize));
    }
}

#[test]
fn a_worker_that_is_stopped_is_interrupted() {
    let place = Place::new();
    let _director = place.director();
    let worker = place.bus.worker(WorkerOptions::default()).unwrap();
    let stopper = worker.stopper();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || {
            let stopped = worker.next(Until::Forever);
            let again = worker.next(Until::Forever).map(|_| ());
            (stopped.map(|_| ()), again)
        });
        stopper.stop();
        let (stopped, again) = waiting.join().unwrap();
        assert!(matches!(stopped, Err(Error::Interrupted)) && matches!(again, Err(Error::Interrupted)));
        assert_eq!(stopped.unwrap_err().status(), Status::Interrupted);
    });
}

#[test]
fn nobody_and_nothing_there_is_said_with_what_to_do() {
    let place = Place::new();
    let said = |bus: &Bus| bus.client(ClientOptions::default()).err().expect("no director").to_string();
    let text = said(&place.bus);
    assert!(text.contains("no director at") && text.contains("trine director"), "{text}");
    let file = place.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let text = said(&Bus::at(&file));
    assert!(text.contains("is not a director's socket"), "{text}");
    let _director = place.director();
    let second = place.role("director").start();
    let text = second.hear("error");
    assert!(text.contains("already serves") && text.contains("pid"), "{text}");
    place.inspect();
}

#[test]
fn another_user_is_refused() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: only root can become another user");
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    let open = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
    };
    // Where the other user can reach folder, socket and this program.
    let place = Place::new();
    open(place.path(), 0o755);
    let program = place.path().join("program");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    open(&program, 0o755);
    let director = place.director();
    let other = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let refusal = |role: &str| place.role(role).program(&program).under(&other).start().hear("error");
    for role in ["caller", "worker"] {
        let text = refusal(role);
        assert!(text.contains("ermission denied") && text.contains("owner and the mode"), "{text}");
    }
    // Though it can connect.
    open(place.bus.socket(), 0o666);
    for role in ["caller", "worker"] {
        for _ in 0..10 {
            let text = refusal(role);
            assert!(text.contains("PERMISSION_DENIED") && text.contains("65534"), "{text}");
        }
    }
    let _worker = place.worker();
    let (client, route) = client_of(&place, "mix");
    client.call(route, b"").unwrap();
    drop((client, director));
}
