//! How processes end: asked to, or killed.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::scene::{Running, Scene, segments, stderr};

#[test]
fn a_director_that_is_asked_to_stop_leaves_nothing() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let scene = Scene::new();
        let director = scene.director();
        let worker = scene.worker("echo");
        scene.check_echo();
        let prefix = scene.segment_prefix();
        assert_eq!(segments(&prefix).len(), 1, "the worker's");
        assert!(director.end(signal).success());
        assert_eq!(segments(&prefix), [""; 0]);
        assert!(!scene.bus_folder().exists());
        assert!(worker.end(signal).success(), "a worker without a director stops too");
    }
}

#[test]
fn a_director_starts_after_one_that_was_killed() {
    let scene = Scene::new();
    let director = scene.director();
    let worker = scene.worker("echo");
    scene.check_echo();
    let prefix = scene.segment_prefix();
    director.end(Signal::SIGKILL);
    assert!(scene.bus_folder().join("socket").exists(), "a killed one leaves what it had");
    assert_eq!(segments(&prefix).len(), 1);
    let said = scene.run_badly(&["ls"], 3);
    assert!(said.contains("no director"), "{said}");

    let director = scene.director();
    drop(worker);
    let _worker = scene.worker("echo");
    scene.check_echo();
    let deadline = Instant::now() + Duration::from_secs(20);
    while segments(&prefix).len() > 1 {
        assert!(Instant::now() < deadline, "only the new worker's may stay: {:?}", segments(&prefix));
        std::thread::yield_now();
    }
    assert!(director.end(Signal::SIGTERM).success());
    assert_eq!(segments(&prefix), [""; 0]);
    assert!(!scene.bus_folder().exists());
}

#[test]
fn a_worker_that_is_asked_to_stop_leaves_in_good_order() {
    let scene = Scene::new();
    let _director = scene.director();
    let worker = scene.worker("echo");
    scene.check_echo();
    assert!(worker.end(Signal::SIGTERM).success());
    let said = scene.run_badly(&["call", "echo", "echo"], 4);
    assert!(said.contains("NO_WORKER") || said.contains("NO_SUCH_SERVICE"), "{said}");
    assert!(scene.run_well(&["ls", "--json"]).contains("\"workers\": []"));
    let _worker = scene.worker("echo");
    scene.check_echo();
}

/// A worker that has begun to sleep, and the call that it sleeps for.
fn sleeping(scene: &Scene) -> (Running, Child) {
    let mut worker = Running::start(scene.trine(&["worker", "sleep", "-v"]).stderr(Stdio::piped()));
    let mut call = scene.trine(&["call", "sleep", "sleep", "--data", "1h", "--deadline", "2h"]);
    let call = call.stderr(Stdio::piped()).spawn().unwrap();
    worker.wait_for_log("asked to sleep");
    (worker, call)
}

#[test]
fn a_call_whose_worker_is_killed_may_have_run() {
    let scene = Scene::new();
    let _director = scene.director();
    let (worker, call) = sleeping(&scene);
    worker.end(Signal::SIGKILL);
    let output = call.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", stderr(&output));
    assert!(stderr(&output).contains("may have run"), "{}", stderr(&output));
}

#[test]
fn a_worker_that_is_asked_to_stop_does_not_sleep_to_the_end() {
    let scene = Scene::new();
    let _director = scene.director();
    let (worker, call) = sleeping(&scene);
    assert!(worker.end(Signal::SIGTERM).success());
    let output = call.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(6), "{}", stderr(&output));
    assert!(stderr(&output).contains("asked to stop"), "{}", stderr(&output));
}
