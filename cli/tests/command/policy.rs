//! Policies, and what a running bus can be asked to do.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::scene::{Running, Scene};

const OPEN: &str = "default = \"owner\"\n";
const CLOSED: &str = "default = \"owner\"\n\n[[rule]]\ndeny = \"call\"\nuser = \"*\"\nservice = \"echo\"\nkeys = { first = 5 }\n\n[[rule]]\ndeny = \"call\"\nuser = \"*\"\nservice = \"echo\"\n";

fn write(scene: &Scene, text: &str) -> PathBuf {
    let path = scene.folder().join("policy.toml");
    fs::write(&path, text).expect("a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("it is ours");
    path
}

fn start(scene: &Scene, text: &str) -> Running {
    let path = write(scene, text);
    let path = path.to_str().expect("UTF-8");
    Running::start(&mut scene.trine(&["director", "--policy", path]))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

#[test]
fn a_policy_is_reloaded_and_explained() {
    let scene = Scene::new();
    let director = start(&scene, OPEN);
    let _worker = scene.worker("echo");
    scene.check_echo();
    let said = scene.run_well(&["explain", "echo", "echo"]);
    assert!(said.contains("policy.toml:1") && said.contains("gets it"), "{said}");

    write(&scene, CLOSED);
    scene.run_well(&["reload"]);
    let said = scene.run_badly(&["call", "echo", "echo", "--data", "x"], 8);
    assert!(said.contains("PERMISSION_DENIED"), "{said}");
    let output = scene.run(&["explain", "echo", "echo", "7", "--json"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(8), "as such a call: {said}");
    assert!(said.contains("policy.toml:3") && said.contains("PERMISSION_DENIED"), "{said}");
    let said = scene.run_well(&["ls"]);
    assert!(said.contains("DENIED UID") && said.contains("policy.toml:9"), "{said}");

    // What is wrong is said, and changes nothing.
    write(&scene, "default = \"owner\"\n[[rule]]\nallow = \"everything\"\nuser = \"*\"\nservice = \"*\"\n");
    let said = scene.run_badly(&["reload"], 2);
    assert!(said.contains("policy.toml:3:9: \"everything\" is none of"), "{said}");
    scene.run_badly(&["call", "echo", "echo", "--data", "x"], 8);

    // SIGHUP does the same.
    write(&scene, OPEN);
    kill(Pid::from_raw(director.pid() as i32), Signal::SIGHUP).expect("it lives");
    let until = Instant::now() + Duration::from_secs(20);
    while !scene.run(&["call", "echo", "echo", "--data", "x"]).status.success() {
        assert!(Instant::now() < until, "the new policy is not in force");
    }
    assert!(director.end(Signal::SIGTERM).success());
}

#[test]
fn a_policy_that_is_wrong_starts_nothing() {
    let scene = Scene::new();
    for (text, why) in [
        ("", "missing field `default`"),
        ("default = \"deny\"\n[service.kv]\npolicy = \"fifo\"\n", "policy.toml:3:10: \"fifo\" is none of"),
        (
            "default = \"deny\"\n[[rule]]\nallow = \"call\"\nuser = \"no-such-user\"\nservice = \"*\"\n",
            "there is no user",
        ),
    ] {
        let path = write(&scene, text);
        let said = scene.run_badly(&["director", "--policy", path.to_str().expect("UTF-8")], 2);
        assert!(said.contains(why), "{said}");
        assert!(!scene.bus_folder().exists(), "nothing was made");
    }
    let path = write(&scene, OPEN);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("it is ours");
    let said = scene.run_badly(&["director", "--policy", path.to_str().expect("UTF-8")], 2);
    assert!(said.contains("may write it"), "{said}");
    let _director = scene.director();
    let said = scene.run_badly(&["reload"], 2);
    assert!(said.contains("no policy to read"), "{said}");
    let said = scene.run_badly(&["explain", "echo", "echo", "--as", "no-such-user"], 2);
    assert!(said.contains("there is no such user"), "{said}");
}

#[test]
fn a_cause_is_logged_once() {
    let scene = Scene::new();
    let path = write(&scene, CLOSED);
    let log = fs::File::create(scene.folder().join("log")).expect("a file");
    let mut command = scene.trine(&["director", "--policy", path.to_str().expect("UTF-8")]);
    let director = Running::start(command.stderr(Stdio::from(log)));
    let _worker = scene.worker("echo");
    for _ in 0..3 {
        scene.run_badly(&["call", "echo", "echo", "--data", "x"], 8);
    }
    assert!(director.end(Signal::SIGTERM).success());
    let log = fs::read_to_string(scene.folder().join("log")).expect("a log");
    assert_eq!(log.matches("denied: ").count(), 1, "{log}");
}

#[test]
fn other_users_reach_a_bus_only_while_its_policy_admits_them() {
    let others = "default = \"owner\"\n[[rule]]\nallow = \"call\"\nuser = 65534\nservice = \"echo\"\n";
    let scene = Scene::new();
    let director = start(&scene, OPEN);
    let (folder, socket) = (scene.bus_folder(), scene.bus_folder().join("socket"));
    assert_eq!((mode(&folder), mode(&socket)), (0o700, 0o600));
    write(&scene, others);
    scene.run_well(&["reload"]);
    assert_eq!((mode(&folder), mode(&socket)), (0o711, 0o666));
    for private in ["lock", "secret", "epoch"] {
        assert_eq!(mode(&folder.join(private)), 0o600, "{private}");
    }
    assert_eq!(mode(&folder.join("workers")), 0o700);
    write(&scene, OPEN);
    scene.run_well(&["reload"]);
    assert_eq!((mode(&folder), mode(&socket)), (0o700, 0o600));
    assert!(director.end(Signal::SIGTERM).success());
}

#[test]
fn a_worker_is_drained_by_its_id() {
    let scene = Scene::new();
    let _director = scene.director();
    let mut first = scene.worker("echo");
    let listed = scene.run_well(&["ls", "--json"]);
    let (_, rest) = listed.split_once("\"workers\": [\n        ").expect("its worker");
    let id: String = rest.chars().take_while(char::is_ascii_digit).collect();
    let _second = scene.worker("echo");
    let said = scene.run_well(&["drain", &id, "--wait", "20s"]);
    assert_eq!(said, format!("worker {id} is gone\n"));
    assert!(first.wait().success(), "it has left in good order");
    scene.check_echo();
    let said = scene.run_badly(&["drain", &id], 4);
    assert!(said.contains(&format!("there is no worker {id}")), "{said}");
}
