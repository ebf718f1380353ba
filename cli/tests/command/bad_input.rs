//! Whatever is asked wrongly gets a clear sentence and an exit code of its own, and harms nobody.

use std::process::{Command, Output};

use crate::scene::{Running, Scene, stderr};

#[test]
fn no_director() {
    let scene = Scene::new();
    for command in [vec!["ls"], vec!["worker", "echo"], vec!["call", "echo", "echo", "--data", "x"]] {
        let said = scene.run_badly(&command, 3);
        assert!(said.contains("no director at") && said.contains("`trine director`"), "{said}");
    }
    let output = scene.run(&["call", "a", "b", "--json"]);
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&told["status"], &told["may_have_run"]), (&"DIRECTOR_GONE".into(), &false.into()));
}

#[test]
fn a_path_that_is_not_a_socket() {
    let scene = Scene::new();
    let path = scene.file("file", 10);
    let said = scene.run_badly(&["ls", "--path", path.to_str().unwrap()], 3);
    assert!(said.contains("not a director's socket"), "{said}");
    let said = scene.run_badly(&["director", "--path", path.to_str().unwrap()], 3);
    assert!(said.contains("not a director's socket"), "{said}");
    assert_eq!(std::fs::read(path).unwrap().len(), 10, "the file is as it was");
    let said = scene.run_badly(&["ls", "--bus", "No/Name"], 2);
    assert!(said.contains("not a name"), "{said}");
}

#[test]
fn names_that_nobody_can_have() {
    let scene = Scene::new();
    let _director = scene.director();
    let _worker = scene.worker("echo");
    for name in [&"x".repeat(10_000), "a\u{7}b", "a b", ""] {
        let said = scene.run_badly(&["call", name, "echo"], 2);
        assert!(said.contains("not a name") && said.len() < 300, "{said}");
        assert!(!said.trim_end().contains(char::is_control), "{said:?}");
        scene.run_badly(&["call", "echo", name], 2);
    }
    let said = scene.run_badly(&["call", "ehco", "echo"], 4);
    assert!(said.contains("NO_SUCH_SERVICE") && said.contains("ehco"), "{said}");
    let said = scene.run_badly(&["call", "echo", "ohce"], 4);
    assert!(said.contains("NO_SUCH_OPERATION") && said.contains("ohce"), "{said}");
    scene.check_echo();
}

#[test]
fn a_payload_larger_than_the_arena() {
    let scene = Scene::new();
    let _director = scene.director();
    let _worker = scene.worker("echo");
    let path = scene.file("large", 200_000);
    let call = ["call", "echo", "echo", "--file", path.to_str().unwrap(), "--arena", "64KiB"];
    let said = scene.run_badly(&call, 10);
    assert!(said.contains("REQUEST_TOO_LARGE") && said.contains("pass --arena 400000"), "{said}");
    assert!(said.contains("[did not run]"), "{said}");
    let advised = [&call[..6], &["400000"]].concat();
    assert_eq!(scene.run(&advised).stdout.len(), 200_000);
    scene.check_echo();
}

#[test]
fn a_reply_larger_than_its_buffer() {
    let scene = Scene::new();
    let _director = scene.director();
    let _worker = scene.worker("echo");
    let data = "x".repeat(5000);
    let said = scene.run_badly(&["call", "echo", "echo", "--data", &data, "--reply-capacity", "100"], 10);
    assert!(said.contains("REPLY_TOO_LARGE") && said.contains("pass --reply-capacity 5000"), "{said}");
    assert_eq!(scene.run_well(&["call", "echo", "echo", "--data", &data, "--reply-capacity", "5000"]), data);
    let said = scene.run_badly(&["call", "echo", "echo", "--reply-capacity", "1GiB"], 10);
    assert!(said.contains("REPLY_TOO_LARGE") && said.contains("pass --arena"), "{said}");
    scene.check_echo();
}

#[test]
fn a_deadline_in_the_past_or_too_near() {
    let scene = Scene::new();
    let _director = scene.director();
    let _echo = scene.worker("echo");
    let _sleeper = scene.worker("sleep");
    let said = scene.run_badly(&["call", "echo", "echo", "--deadline", "-5ms"], 2);
    assert!(said.contains("in the past"), "{said}");
    scene.run_badly(&["call", "echo", "echo", "--deadline", "soon"], 2);
    let said = scene.run_badly(&["call", "echo", "echo", "--deadline", "0s"], 5);
    assert!(said.contains("DEADLINE_EXCEEDED"), "{said}");
    let said = scene.run_badly(&["call", "sleep", "sleep", "--data", "10s", "--deadline", "30ms"], 5);
    assert!(said.contains("DEADLINE_EXCEEDED") && said.contains("[may have run]"), "{said}");
    scene.check_echo();
}

#[test]
fn a_second_director() {
    let scene = Scene::new();
    let director = scene.director();
    let _worker = scene.worker("echo");
    let said = scene.run_badly(&["director"], 8);
    assert!(said.contains("already serves the bus") && said.contains(&director.pid().to_string()), "{said}");
    scene.check_echo();
}

#[test]
fn questions_that_make_no_sense() {
    let scene = Scene::new();
    for command in [
        &["call", "a", "b", "--data", "x", "--hex", "00"][..],
        &["call", "a", "b", "--hex", "0"],
        &["call", "a", "b", "--repeat", "0"],
        &["worker"],
        &["worker", "nothing"],
        &["demo"],
        &["demo", "--piece", "100", "x"],
        &["bench", "--placement", "nowhere"],
        &["bench", "--in-flight", "0"],
    ] {
        scene.run_badly(command, 2);
    }
    let said = scene.run_badly(&["call", "a", "b", "--file", "/nonexistent"], 1);
    assert!(said.contains("/nonexistent: No such file"), "{said}");
    let said = scene.run_badly(&["director", "--pin", "100000"], 1);
    assert!(said.contains("--pin"), "{said}");
}

/// Runs a command with so few descriptors.
fn with_descriptors(scene: &Scene, count: u32, arguments: &[&str]) -> Command {
    let script = format!("ulimit -n {count}; exec \"$0\" \"$@\"");
    let inner = scene.trine(arguments);
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).arg(inner.get_program()).args(inner.get_args());
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.current_dir(scene.folder());
    command
}

fn says_what_to_do(output: &Output) {
    let said = stderr(output);
    assert!(!output.status.success() && !said.contains("panicked"), "{said}");
    assert!(said.contains("Too many open files") && said.contains("ulimit -n"), "{said}");
}

#[test]
fn a_client_or_worker_with_few_descriptors() {
    let scene = Scene::new();
    let _director = scene.director();
    let _worker = scene.worker("echo");
    let call = ["call", "echo", "echo", "--data", "x"];
    assert_eq!(with_descriptors(&scene, 16, &call).output().unwrap().stdout, b"x");
    let worker = Running::start(&mut with_descriptors(&scene, 16, &["worker", "echo"]));
    drop(worker);
    for few in [5, 6, 7] {
        says_what_to_do(&with_descriptors(&scene, few, &call).output().unwrap());
        says_what_to_do(&with_descriptors(&scene, few, &["worker", "echo"]).output().unwrap());
    }
    scene.check_echo();
}

#[test]
fn a_director_with_few_descriptors() {
    let scene = Scene::new();
    for few in [6, 8, 10] {
        says_what_to_do(&with_descriptors(&scene, few, &["director"]).output().unwrap());
    }
    // Sixteen are enough for itself, and not for a worker: whoever comes is told so, and it goes on.
    let director = Running::start(&mut with_descriptors(&scene, 16, &["director"]));
    for _ in 0..3 {
        let output = scene.run(&["worker", "echo"]);
        assert_eq!(output.status.code(), Some(9), "{}", stderr(&output));
        says_what_to_do(&output);
        assert!(scene.run_well(&["ls"]).contains("0 calls"));
    }
    assert!(director.end(nix::sys::signal::Signal::SIGTERM).success());
    assert!(!scene.bus_folder().exists());
}
