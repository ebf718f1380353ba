//! Attack: a hostile client and a hostile worker, as programs that speak the protocol by themselves and keep to none of
//! it, while others work. The others' replies stay right, their rate stays above the half, and each violation is a fault with
//! a name.
//!
//! ```text
//! this process: a client that behaves, and checks every reply
//!      ├── director        says what it logs
//!      ├── worker × 2      behave
//!      ├── hostile client  also under another uid, where this is root
//!      └── hostile worker  and a client of its own, whose library has to live with it
//! ```
//! An attacker goes through everything that it knows once, in order, says so, and goes on at random until it is killed.
//! `TRINE_ATTACK_SECONDS` says how long that is at least (2), `TRINE_ATTACK_SEED` what it chooses.

mod hostile_client;
mod hostile_worker;
mod raw;
mod roles;
#[allow(dead_code)] // it serves the other tests with real processes, too
#[path = "../proof/support.rs"]
mod support;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use trine::{Client, ClientOptions, Route};

use support::{PATIENCE, Place, Role, bytes, descriptors, eventually, mix};

/// Where a process that a test has started begins. Run by itself it plays nothing.
#[test]
fn role() {
    if let Ok(role) = std::env::var(support::ROLE) {
        roles::play(&role);
        std::process::exit(0);
    }
}

fn variable(name: &str, or: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(or)
}

/// A bus on which others work.
struct Scene {
    place: Place,
    director: Role,
    _workers: Vec<Role>,
    client: Client,
    route: Route,
    calls: u64,
}

impl Scene {
    fn new() -> Scene {
        let place = Place::new();
        let director = place.role("director").ready();
        Scene::with(place, director)
    }

    /// One on which another user may do something: `None` where nobody can be one.
    fn admitting(rules: &str) -> Option<Scene> {
        if !nix::unistd::geteuid().is_root() {
            println!("another uid needs root: not tested");
            return None;
        }
        let place = Place::new();
        let policy = place.path().join("policy.toml");
        std::fs::write(&policy, format!("default = \"owner\"\n{rules}")).expect("our own");
        std::fs::set_permissions(place.path(), Permissions::from_mode(0o711)).expect("our own");
        let director = place.role("director").with("policy", policy.display()).ready();
        Some(Scene::with(place, director))
    }

    fn with(place: Place, director: Role) -> Scene {
        let workers = (0..2).map(|_| place.role("worker").ready()).collect();
        let client = place.client(ClientOptions::default());
        let route = client.route("work", "mix").expect("a route");
        Scene { place, director, _workers: workers, client, route, calls: 0 }
    }

    /// One call of one of many sizes, whose reply must be right.
    fn call(&mut self) {
        let len = [8, 64, 65, 700, 20_000][self.calls as usize % 5];
        let request = bytes(self.calls, len);
        let pending =
            self.client.request(self.route).reply_capacity(len).submit(&request, trine::Until::Forever);
        let reply = pending.expect("room").wait().expect("a reply, whoever attacks");
        assert_eq!(reply.bytes().to_vec(), mix(&request));
        self.calls += 1;
    }

    /// Calls for so long at least, and until `done`; returns calls per second.
    fn rate(&mut self, at_least: Duration, mut done: impl FnMut() -> bool) -> f64 {
        let (began, before) = (Instant::now(), self.calls);
        while began.elapsed() < at_least || !done() {
            self.call();
            assert!(began.elapsed() < 6 * PATIENCE, "an attacker does not come to its end");
        }
        (self.calls - before) as f64 / began.elapsed().as_secs_f64()
    }

    /// The attacker rages while the client that behaves works; then it is killed, and nothing of it is left.
    fn endure(&mut self, attacker: &str, launch: support::Launch) -> Vec<String> {
        let at_least = Duration::from_secs(variable("TRINE_ATTACK_SECONDS", 2));
        let held = |scene: &Scene| descriptors(scene.director.pid());
        let sessions = self.place.inspect().sessions.len();
        let before = held(self);
        let alone = self.rate(at_least / 2, || true);
        let mut attacker_role = launch.with("seed", variable("TRINE_ATTACK_SEED", 4711)).start();
        let (mut said, mut once) = (Vec::new(), false);
        let mut attacked = 0.0;
        // Others may have the CPUs for a while: then once more.
        for _ in 0..5 {
            attacked = self.rate(at_least, || {
                for line in attacker_role.heard() {
                    assert!(!line.starts_with("wrong"), "{attacker} {line}");
                    once |= line == "once";
                }
                assert!(attacker_role.is_running(), "{attacker} ended");
                once
            });
            if attacked > alone / 2.0 {
                break;
            }
        }
        assert!(attacked > alone / 2.0, "{attacker}: {alone:.0} calls/s alone, {attacked:.0} attacked");
        attacker_role.kill();
        self.rate(Duration::ZERO, || true);
        eventually("the attacker is forgotten", || {
            let seen = self.place.inspect();
            seen.sessions.len() == sessions && seen.workers.len() == 2
        });
        // An inspection's own descriptors may still be counted.
        eventually("its descriptors are closed", || held(self) <= before + 1);
        assert!(self.director.is_running(), "the director ended");
        said.extend(self.director.heard());
        println!(
            "{attacker}: {} calls right; {alone:.0} calls/s alone, {attacked:.0} attacked ({:.2}); {} faults",
            self.calls,
            attacked / alone,
            self.place.inspect().faults
        );
        said
    }
}

/// Each of these is a fault, and was logged.
#[track_caller]
fn expect_faults(said: &[String], faults: &[&str]) {
    for fault in faults {
        assert!(said.iter().any(|line| line.contains(fault)), "nothing was logged of {fault:?}: {said:#?}");
    }
}

/// What a hostile client is caught at.
const CLIENTS_FAULTS: [&str; 8] = [
    "a stamp of",
    "payload",
    "in a slot whose call",
    "a control message of kind",
    "a descriptor for the outbox",
    "a descriptor for the inbox",
    "a descriptor for the doorbell",
    "a descriptor for the control message",
];
/// And a hostile worker.
const WORKERS_FAULTS: [&str; 5] = [
    "a control message of kind",
    "a descriptor for the progress page",
    "completed is",
    "taken is",
    "is marked done, and has no reply",
];

#[test]
fn a_hostile_client_harms_nobody() {
    let mut scene = Scene::new();
    let launch = scene.place.role("hostile client");
    let said = scene.endure("hostile client", launch);
    expect_faults(&said, &CLIENTS_FAULTS);
    assert!(scene.place.inspect().faults > 0, "they are counted");
}

#[test]
fn a_hostile_worker_harms_nobody_that_it_does_not_serve() {
    let mut scene = Scene::new();
    let launch = scene.place.role("hostile worker");
    let said = scene.endure("hostile worker", launch);
    expect_faults(&said, &WORKERS_FAULTS);
}

#[test]
fn a_hostile_client_of_another_user_who_may_call_harms_nobody() {
    let rules = "[[rule]]\nallow = \"call\"\nuser = 65534\nservice = \"work\"\n";
    let Some(mut scene) = Scene::admitting(rules) else { return };
    let launch = scene.place.role("hostile client").with("uid", 65534);
    let said = scene.endure("hostile client of another uid that may call", launch);
    expect_faults(&said, &CLIENTS_FAULTS);
}

#[test]
fn a_hostile_worker_of_another_user_who_may_provide_harms_nobody_that_it_does_not_serve() {
    let rules = "[[rule]]\nallow = [\"provide\", \"call\"]\nuser = 65533\nservice = \"evil\"\n";
    let Some(mut scene) = Scene::admitting(rules) else { return };
    let launch = scene.place.role("hostile worker").with("uid", 65533);
    let said = scene.endure("hostile worker of another uid that may provide", launch);
    expect_faults(&said, &WORKERS_FAULTS);
}

#[test]
fn a_worker_that_marks_done_what_it_does_not_answer_is_found_out() {
    let mut scene = Scene::new();
    let silent = scene.place.role("silent worker").ready();
    let route = scene.client.route("evil", "do").expect("it is provided");
    // Nothing else happens on the bus: the director has to look by itself, long before the call's deadline.
    let began = Instant::now();
    let call = scene.client.request(route).timeout(6 * PATIENCE).submit(b"x", trine::Until::Now);
    let error = call.expect("room").wait().map(drop).expect_err("nobody answers it");
    assert_eq!(error.status(), trine::Status::MayHaveRun, "after {:?}", began.elapsed());
    assert_eq!(silent.hear("disconnected"), "true");
    // The log is heard through a pipe, and a thread that reads it.
    let is_logged = |line: &String| line.contains("is marked done, and has no reply");
    eventually("it is logged", || scene.director.heard().iter().any(is_logged));
    for _ in 0..100 {
        scene.call();
    }
    assert_eq!(scene.place.inspect().faults, 1);
}

#[test]
fn a_hostile_client_of_another_user_harms_nobody() {
    if !nix::unistd::geteuid().is_root() {
        println!("another uid needs root: not tested");
        return;
    }
    let mut scene = Scene::new();
    // As open as it may be: the director itself has to refuse.
    let open = |path: &Path, mode| std::fs::set_permissions(path, Permissions::from_mode(mode));
    open(scene.place.path(), 0o755).expect("our own");
    open(&scene.place.path().join("socket"), 0o666).expect("our own");
    let launch = scene.place.role("hostile client").with("uid", 65534);
    let said = scene.endure("hostile client of another uid", launch);
    assert!(said.iter().any(|line| line.contains("denied")), "it was let in: {said:#?}");
}

#[test]
fn a_worker_of_another_user_can_not_write_what_it_was_given_to_read() {
    if !nix::unistd::geteuid().is_root() {
        println!("another uid needs root: not tested");
        return;
    }
    let place = Place::new();
    let policy = place.path().join("policy.toml");
    let rule = "default = \"owner\"\n[[rule]]\nallow = \"provide\"\nuser = 65533\nservice = \"evil\"\n";
    std::fs::write(&policy, rule).expect("our own");
    std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o711)).expect("our own");
    let _director = place.role("director").with("policy", policy.display()).ready();
    let writer = place.role("writer").with("uid", 65533).start();
    assert_eq!(writer.hear("work segment"), "EACCES");
    writer.hear("ready");
    let client = place.client(ClientOptions::default());
    client.route("evil", "do").expect("it is provided");
    assert_eq!(writer.hear("outbox"), "EPERM");
    assert_eq!(writer.hear("inbox"), "OK");
}
