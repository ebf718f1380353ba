//! Director, workers, calls and the list of them.

use std::io::Write;
use std::process::Stdio;

use serde_json::Value;

use crate::scene::{Scene, trine};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn a_call_goes_round_and_everything_is_listed() {
    let scene = Scene::new();
    let director = scene.director();
    let worker = scene.worker("echo");
    assert_eq!(scene.run_well(&["call", "echo", "echo", "--data", "hello"]), "hello");
    assert_eq!(scene.run_well(&["call", "echo", "echo"]), "");
    assert_eq!(scene.run_well(&["call", "echo", "echo", "--hex", "00ff", "--hex-out"]), "00ff\n");

    let reply = json(&scene.run_well(&["call", "echo", "echo", "--data", "hello", "--json"]));
    assert_eq!(
        (&reply["status"], &reply["text"], &reply["length"]),
        (&"OK".into(), &"hello".into(), &5.into())
    );
    let reply_hex = json(&scene.run_well(&["call", "echo", "echo", "--hex", "ff", "--json"]));
    assert_eq!(reply_hex["hex"], "ff");
    let many = json(&scene.run_well(&["call", "echo", "echo", "--repeat", "500", "--json"]));
    assert_eq!(many["calls"], 500);
    assert!(many["latency_ns"]["p50"].as_u64() > Some(0), "{many}");

    let listed = json(&scene.run_well(&["ls", "--json"]));
    assert_eq!(listed["services"][0]["name"], "echo");
    assert_eq!(listed["services"][0]["operations"], json(r#"["echo"]"#));
    assert_eq!(listed["services"][0]["workers"][0], reply["worker"]);
    assert_eq!(listed["workers"][0]["identity"]["pid"], worker.pid());
    assert_eq!(listed["dispatched"], 505);
    let table = scene.run_well(&["ls"]);
    assert!(table.contains("SERVICE") && table.contains("echo") && table.contains("PID"), "{table}");
    drop(director);
}

#[test]
fn large_payloads_go_through_files_and_pipes() {
    let scene = Scene::new();
    let _director = scene.director();
    let _worker = scene.worker("echo");
    let path = scene.file("large", 3_000_001);
    let bytes = std::fs::read(&path).unwrap();
    let name = path.to_str().unwrap();
    assert_eq!(scene.run(&["call", "echo", "echo", "--file", name]).stdout, bytes);
    let mut piped = scene
        .trine(&["call", "echo", "echo", "--file", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = piped.stdin.take().unwrap();
    stdin.write_all(&bytes[..100_000]).unwrap();
    drop(stdin);
    assert_eq!(piped.wait_with_output().unwrap().stdout, bytes[..100_000]);
}

#[test]
fn the_other_workers_do_what_they_say() {
    let scene = Scene::new();
    let _director = scene.director();
    let _worker = scene.worker("sha256");
    let _sleeper = scene.worker("sleep");
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(scene.run_well(&["call", "sha256", "hash", "--data", "abc"]), abc);
    assert_eq!(scene.run_well(&["call", "sleep", "sleep", "--data", "2ms"]), "slept 2ms");
    let said = scene.run_badly(&["call", "sleep", "sleep", "--data", "long"], 6);
    assert!(said.contains("WORKER_ERROR") && said.contains("send a duration"), "{said}");
    for bad in ["00", &"ff".repeat(64), &"00".repeat(63)] {
        let said = scene.run_badly(&["call", "sha256", "piece", "--hex", bad], 6);
        assert!(said.contains("begins with a state"), "{said}");
    }
}

#[test]
fn a_bus_can_be_given_by_its_path() {
    let scene = Scene::new();
    let folder = scene.folder().join("own");
    std::fs::create_dir(&folder).unwrap();
    let path = folder.to_str().unwrap();
    let director = crate::scene::Running::start(trine().args(["director", "--path", path]));
    assert!(scene.run_well(&["ls", "--path", path]).contains("0 calls"));
    let socket = folder.join("socket");
    assert!(scene.run_well(&["ls", "--path", socket.to_str().unwrap()]).contains("0 calls"));
    assert!(director.end(nix::sys::signal::Signal::SIGINT).success());
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
}

#[test]
fn help_and_version_are_there_for_everything() {
    for command in
        [vec![], vec!["director"], vec!["worker"], vec!["call"], vec!["ls"], vec!["demo"], vec!["bench"]]
    {
        let help = trine().args(&command).arg("--help").output().unwrap();
        let text = String::from_utf8(help.stdout).unwrap();
        assert!(help.status.success() && text.contains("Usage"), "{command:?}: {text}");
        assert!(command.is_empty() || text.contains("Examples"), "{command:?}: {text}");
    }
    let version = trine().arg("--version").output().unwrap();
    assert_eq!(version.stdout, format!("trine {}\n", env!("CARGO_PKG_VERSION")).as_bytes());
}

#[test]
fn whoever_stops_reading_is_told_nothing() {
    let scene = Scene::new();
    let _director = scene.director();
    let _worker = scene.worker("echo");
    let path = scene.file("large", 1_000_000);
    let mut call = scene
        .trine(&["call", "echo", "echo", "--file", path.to_str().unwrap()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(call.stdout.take());
    let output = call.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(141), 0));
}
