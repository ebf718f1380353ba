//! Every handle in a forked child: calls fail, drops do nothing, and the parent goes on.

use std::time::Duration;

use crate::memory::{in_child, start_child};
use crate::{Bus, ClientOptions, Director, DirectorOptions, Error, Status, Until, WorkerOptions};

fn is_forked(error: Error) -> bool {
    matches!(error, Error::Forked) && error.status() == Status::Forked
}

#[test]
fn a_forked_child_is_told_so_by_every_handle_and_harms_none() {
    let folder = tempfile::tempdir().unwrap();
    let bus = Bus::at(folder.path());
    let director = Director::new(&bus, DirectorOptions::default()).unwrap().spawn().unwrap();
    let worker = bus.worker(WorkerOptions::default()).unwrap();
    worker.provide("text", &["echo"]).unwrap();
    let client = bus.client(ClientOptions::default()).unwrap();
    let route = client.route("text", "echo").unwrap();
    let soon = || Until::after(Duration::from_secs(20));

    let first = client.request(route).submit(&[1; 100], Until::Now).unwrap();
    let _ = worker.next(soon()).unwrap().expect("the first request").reply(&[2; 100]);
    let reply = first.wait().unwrap();
    let mut pending = client.request(route).submit(&[3; 100], Until::Now).unwrap();
    let request = worker.next(soon()).unwrap().expect("the second request");
    let mut loan = client.request(route).loan(1000, Until::Now).unwrap();
    loan.fill(7);

    assert!(in_child(|| {
        let refused = client.call(route, b"").err().expect("forked");
        (refused.status(), refused.may_have_run()) == (Status::Forked, false)
            && client.request(route).post(b"", Until::Now).is_err()
            && client.request(route).loan(10, Until::Now).is_err()
            && client.route("text", "echo").is_err_and(is_forked)
            && client.wait_any(Until::Now).is_err_and(is_forked)
            && pending.poll().is_some_and(|r| r.err().is_some_and(|e| e.status() == Status::Forked))
            && worker.next(Until::Now).is_err_and(is_forked)
            && worker.provide("more", &["echo"]).is_err_and(is_forked)
            && worker.withdraw("text").is_err_and(is_forked)
            && loan.is_empty()
            && request.bytes().is_empty()
            && reply.bytes().to_vec().is_empty()
    }));

    // The child drops its copies; the parent's are as they were.
    let mut parts = Some((reply, pending, loan, request));
    assert!(in_child(|| {
        drop(parts.take());
        true
    }));
    let (reply, pending, loan, request) = parts.expect("still the parent's");
    assert_eq!(reply.bytes().to_vec(), [2; 100]);
    let _ = request.reply(&[4; 100]);
    assert_eq!(pending.wait().unwrap().bytes().to_vec(), [4; 100]);
    let built = loan.submit(Until::Now).unwrap();
    let request = worker.next(soon()).unwrap().expect("the third request");
    assert_eq!(request.bytes().to_vec(), [7; 1000]);
    assert!(in_child(|| {
        let _ = request.reply(b"from a child");
        true
    }));
    drop((built, reply));

    let mut handles = Some((client, worker, director));
    assert!(in_child(|| {
        drop(handles.take());
        true
    }));
    let (client, worker, director) = handles.expect("still the parent's");
    let pending = client.request(route).submit(b"on", Until::Now).unwrap();
    let _ = worker.next(soon()).unwrap().expect("the fourth request").reply(b"and on");
    assert_eq!(pending.wait().unwrap().bytes().to_vec(), b"and on");
    let seen = bus.inspect().unwrap();
    assert_eq!((seen.sessions.len(), seen.workers.len()), (1, 1));
    director.stop().unwrap();
}

#[test]
fn a_dead_clients_session_ends_though_its_child_lives_on() {
    let folder = tempfile::tempdir().unwrap();
    let bus = Bus::at(folder.path());
    let _director = Director::new(&bus, DirectorOptions::default()).unwrap().spawn().unwrap();
    // Open as long as somebody who has inherited it lives.
    let (lives_on, end) = std::io::pipe().unwrap();
    let mut end = Some(end);
    assert!(in_child(|| {
        drop(end.take());
        let client = bus.client(ClientOptions::default()).expect("a client");
        // Ends when this test does.
        start_child(|| std::io::Read::read(&mut &lives_on, &mut [0]).is_ok());
        std::mem::forget(client);
        true
    }));
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while !bus.inspect().unwrap().sessions.is_empty() {
        assert!(std::time::Instant::now() < until, "the session is still there");
    }
    drop(end);
}

#[test]
fn a_forked_child_may_connect_anew() {
    let folder = tempfile::tempdir().unwrap();
    let bus = Bus::at(folder.path());
    let _director = Director::new(&bus, DirectorOptions::default()).unwrap().spawn().unwrap();
    let worker = bus.worker(WorkerOptions::default()).unwrap();
    worker.provide("text", &["echo"]).unwrap();
    let parent = bus.client(ClientOptions::default()).unwrap();
    let stopper = worker.stopper();
    let serving = std::thread::spawn(move || worker.serve(|request| request.reply(b"served")));
    assert!(in_child(|| {
        let client = bus.client(ClientOptions::default()).expect("a client of its own");
        let route = client.route("text", "echo").expect("a route");
        let reply = client.call(route, b"").map(|reply| reply.bytes().to_vec());
        parent.route("text", "echo").is_err_and(is_forked) && reply == Ok(b"served".to_vec())
    }));
    let route = parent.route("text", "echo").unwrap();
    assert_eq!(parent.call(route, b"").unwrap().bytes().to_vec(), b"served");
    stopper.stop();
    serving.join().unwrap().unwrap();
}
