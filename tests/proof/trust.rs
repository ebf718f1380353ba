//! Several users on one bus: who is admitted, who gets whose calls, and what nobody can do to the others.
//!
//! Only root can be several users, so these do nothing for anybody else, and say so.

use std::os::unix::fs::PermissionsExt;

use trine::access::Verb;
use trine::{ClientOptions, Error, Status, Until};

use crate::support::{Place, bytes, eventually, mix};

const CALLER: u32 = 65534;
const WORKER: u32 = 65533;
const STRANGER: u32 = 65532;
/// Whose bus it is, where that is not root.
const OWNER: u32 = 65531;

/// A bus that others can reach, and the policy for it; `None` where nobody can be somebody else.
fn place(policy: &str) -> Option<(Place, std::path::PathBuf)> {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: only root can be another user");
        return None;
    }
    let place = Place::new();
    std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o711)).expect("it is ours");
    let path = place.path().join("policy.toml");
    std::fs::write(&path, policy).expect("a file");
    Some((place, path))
}

fn policy() -> String {
    format!(
        "default = \"owner\"\n\
         [[rule]]\nallow = \"call\"\nuser = {CALLER}\nservice = \"work\"\noperation = [\"mix\", \"who\"]\n\
         [[rule]]\nallow = \"provide\"\nuser = {WORKER}\nservice = \"other\"\n"
    )
}

#[test]
fn users_who_are_admitted_call_what_they_may_and_others_nothing() {
    let Some((place, path)) = place(&policy()) else { return };
    let director = place.role("director").with("policy", path.display()).ready();
    let worker = place.worker();
    let caller = place.role("caller").with("as", CALLER).with("calls", 200).with("len", 3000).start();
    caller.hear("ready");
    assert!(caller.hear("done").starts_with("200 0"));
    let ask = |uid: u32, operation: &str| {
        let asker = place.role("asker").with("as", uid).with("operation", operation).start();
        asker.hear("")
    };
    assert_eq!(ask(CALLER, "who"), "call OK");
    let denied = ask(CALLER, "echo");
    assert!(denied.starts_with("asked PERMISSION_DENIED"), "{denied}");
    assert!(
        denied.contains("may not call work.echo (policy.toml:1;") || denied.contains("policy.toml:1"),
        "{denied}"
    );
    for _ in 0..3 {
        let denied = ask(STRANGER, "mix");
        assert!(denied.starts_with("asked PERMISSION_DENIED"), "{denied}");
    }
    // One cause each, however often.
    let denied = place.inspect().denied;
    let count = |uid: u32, verb: Verb| -> Vec<u64> {
        denied.iter().filter(|(d, _)| (d.uid, d.verb) == (uid, verb)).map(|&(_, count)| count).collect()
    };
    assert_eq!(count(CALLER, Verb::Call), [1], "{denied:?}");
    assert_eq!(count(STRANGER, Verb::Connect), [3], "{denied:?}");
    worker.stop();
    director.stop();
}

#[test]
fn a_directors_user_is_one_that_its_peers_trust() {
    let Some((place, path)) = place(&policy()) else { return };
    nix::unistd::chown(place.path(), Some(OWNER.into()), None).expect("root may");
    let director = place.role("director").with("as", OWNER).with("policy", path.display()).ready();
    // Its own user's worker, and another's, which trusts it.
    let worker = place.role("worker").with("as", OWNER).ready();
    let pretender = place.role("pretender").with("as", WORKER).with("trust", OWNER).start();
    assert!(pretender.hear("ready").ends_with("OK PERMISSION_DENIED"));
    let ask = |uid: u32, trusts: u32, service: &str| {
        let asker = place.role("asker").with("as", uid).with("trust", trusts).with("service", service);
        asker.start().hear("")
    };
    let doubted = ask(CALLER, STRANGER, "work");
    assert!(
        doubted.starts_with("asked PERMISSION_DENIED") && doubted.contains(&format!("is of uid {OWNER}")),
        "{doubted}"
    );
    assert!(doubted.contains(&format!("TRINE_DIRECTOR_UID={OWNER}")), "{doubted}");
    let doubted = place.role("pretender").with("as", STRANGER).start();
    assert_eq!(doubted.hear("error"), "PERMISSION_DENIED");
    assert_eq!(ask(CALLER, OWNER, "work"), "call OK");
    let caller = place.role("caller").with("as", CALLER).with("trust", OWNER);
    let caller = caller.with("calls", 200).with("len", 3000).start();
    caller.hear("ready");
    assert!(caller.hear("done").starts_with("200 0"));
    // It trusts the director; the director goes by its policy all the same.
    assert!(ask(CALLER, OWNER, "other").starts_with("asked PERMISSION_DENIED"));
    assert!(ask(STRANGER, OWNER, "work").starts_with("asked PERMISSION_DENIED"));
    pretender.stop();
    worker.stop();
    director.stop();
}

#[test]
fn a_user_who_takes_all_that_he_can_get_leaves_something_for_another() {
    let policy = "default = \"allow\"\n[quotas]\nsessions = { pool = 24 }\nworker_reserve = 4\n";
    let Some((place, path)) = place(policy) else { return };
    let director = place.role("director").with("policy", path.display()).ready();
    let worker = place.worker();
    let crowd = |uid: u32| {
        let crowd = place.role("crowd").with("as", uid).with("sessions", 30).start();
        let mut refused = String::new();
        loop {
            let said = crowd.hear("");
            if said == "ready" {
                return (crowd, refused);
            }
            refused = said;
        }
    };
    let sessions = |uid: u32| place.inspect().sessions.iter().filter(|s| s.identity.uid == uid).count();
    let (first, refused) = crowd(CALLER);
    assert!(refused.contains("the quota \"sessions\" for your user's share now is 12"), "{refused}");
    let (second, _) = crowd(STRANGER);
    assert_eq!((sessions(CALLER), sessions(STRANGER)), (12, 4));
    let own = place.client(ClientOptions::default());
    let route = own.route("work", "mix").unwrap();
    assert_eq!(own.call(route, b"x").unwrap().bytes().to_vec(), mix(b"x"));
    drop((first, second));
    worker.stop();
    director.stop();
}

#[test]
fn nobody_looks_at_or_manages_another_users_bus() {
    let Some((place, path)) = place(&policy()) else { return };
    let director = place.role("director").with("policy", path.display()).with("as", 0).ready();
    assert!(place.bus.inspect().is_ok());
    let monitor = place.role("monitor").with("as", CALLER).start();
    assert_eq!(monitor.hear("monitor"), "PERMISSION_DENIED PERMISSION_DENIED PERMISSION_DENIED");
    director.stop();
}

#[test]
fn a_worker_of_another_user_gets_no_call_of_a_service_that_exists() {
    let Some((place, path)) = place(&policy()) else { return };
    let director = place.role("director").with("policy", path.display()).ready();
    let worker = place.worker();
    let pretender = place.role("pretender").with("as", WORKER).start();
    let ready = pretender.hear("ready");
    let [id, own, anothers] = ready.split(' ').collect::<Vec<_>>()[..] else { panic!("{ready}") };
    assert_eq!((own, anothers), ("OK", "PERMISSION_DENIED"));
    let id: u32 = id.parse().expect("an id");
    let client = place.client(ClientOptions::default());
    let (work, other) = (client.route("work", "mix").unwrap(), client.route("other", "mix").unwrap());
    for n in 0..300 {
        let request = bytes(n, 100 + n as usize);
        let open: Vec<_> = [work, other, work]
            .map(|route| client.request(route).submit(&request, Until::Forever).unwrap())
            .into_iter()
            .map(|pending| pending.detach())
            .collect();
        // In another order than they were made, across the two sessions.
        for (i, ticket) in open.into_iter().enumerate().rev() {
            let reply = client.pending(ticket).expect("it is open").wait().unwrap();
            assert_eq!(reply.bytes().to_vec(), mix(&request));
            assert_eq!(reply.worker() == id, i == 1, "call {i} went to worker {}", reply.worker());
        }
    }
    // Each worker sees the session of its own domain, and no other.
    let inspection = place.inspect();
    assert_eq!(inspection.sessions.len(), 2, "one for each domain");
    assert!(inspection.workers.iter().all(|worker| worker.sessions == 1), "{:?}", inspection.workers);
    let maps = |pid: i32| {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("a living process");
        let inodes = maps.lines().filter(|line| line.contains("memfd:trine inbox"));
        inodes
            .map(|line| line.split_whitespace().nth(4).expect("an inode").to_owned())
            .collect::<std::collections::HashSet<_>>()
    };
    let (own, theirs) = (maps(worker.pid()), maps(pretender.pid()));
    assert!(own.len() == 1 && theirs.len() == 1 && own.is_disjoint(&theirs), "{own:?} {theirs:?}");
    // What waits for any call finds those of both.
    let sent =
        [work, other].map(|route| client.request(route).submit(b"any", Until::Forever).unwrap().detach());
    let mut ended = Vec::new();
    while ended.len() < 2 {
        let ticket = client.wait_any(Until::Forever).unwrap().expect("calls are open");
        assert_eq!(client.pending(ticket).unwrap().wait().unwrap().bytes().to_vec(), mix(b"any"));
        ended.push(ticket);
    }
    assert!(sent.iter().all(|ticket| ended.contains(ticket)));
    drop(client);
    pretender.stop();
    worker.stop();
    director.stop();
}

#[test]
fn nothing_that_others_do_with_doorbells_holds_anybody_up() {
    let Some((place, path)) = place(&policy()) else { return };
    let director = place.role("director").with("policy", path.display()).ready();
    let worker = place.worker();
    let mut pretender = place.role("pretender").with("as", WORKER).start();
    pretender.hear("ready");
    let client = place.client(ClientOptions::default());
    let (work, other) = (client.route("work", "mix").unwrap(), client.route("other", "mix").unwrap());
    let call = |route, n: u64| {
        let request = bytes(n, 64);
        assert_eq!(client.call(route, &request).unwrap().bytes().to_vec(), mix(&request));
    };
    call(other, 0);
    let clogger = place.role("clogger").with("as", CALLER).start();
    assert!(clogger.hear("clogged").parse::<u32>().unwrap() >= 2);
    // Its own bell for the director blocks, too, where that one sleeps: then it is stuck there, with the first of its calls.
    eventually("it calls all the same", || {
        place.inspect().sessions.iter().any(|s| s.identity.uid == CALLER && s.calls > 1)
    });
    pretender.say("clog");
    assert!(pretender.hear("clogged").parse::<u32>().unwrap() >= 3, "its own, the client's, the director's");
    // Each in turn goes to sleep, and has to be woken.
    for n in 1..100 {
        call(work, n);
        call(other, n);
        if n % 10 == 0 {
            std::thread::sleep(std::time::Duration::from_millis(3));
        }
    }
    eventually("the clogger's calls are answered all the same", || {
        let inspection = place.inspect();
        inspection.workers.iter().all(|worker| worker.in_flight == 0) && inspection.faults == 0
    });
    pretender.stop();
    worker.stop();
    director.stop();
}

#[test]
fn both_sessions_of_a_client_go_on_with_the_next_director() {
    let Some((place, path)) = place(&policy()) else { return };
    let mut director = place.role("director").with("policy", path.display()).ready();
    let worker = place.worker();
    let pretender = place.role("pretender").with("as", WORKER).start();
    pretender.hear("ready");
    let client = place.client(ClientOptions::default());
    let (work, other) = (client.route("work", "mix").unwrap(), client.route("other", "late").unwrap());
    let late = client.request(other).submit(&1_500_000u64.to_le_bytes(), Until::Forever).unwrap();
    client.call(work, b"before").unwrap();
    director.kill();
    let director = place.role("director").with("policy", path.display()).ready();
    // While this waits in one session, the other comes back too.
    for n in 0..50 {
        assert_eq!(client.call(work, &[n]).unwrap().bytes().to_vec(), mix(&[n]));
    }
    assert_eq!(late.wait().unwrap().bytes().to_vec(), mix(&1_500_000u64.to_le_bytes()));
    assert_eq!(place.inspect().sessions.len(), 2);
    pretender.stop();
    worker.stop();
    director.stop();
}

#[test]
fn a_service_moves_to_another_users_worker_when_the_policy_lets_it() {
    let Some((place, path)) = place(&policy()) else { return };
    let mut director = place.role("director").with("policy", path.display()).ready();
    let worker = place.worker();
    let client = place.client(ClientOptions::default());
    let work = client.route("work", "mix").unwrap();
    assert!(client.call(work, b"here").is_ok());
    worker.stop();
    std::fs::write(
        &path,
        policy() + &format!("[[rule]]\nallow = \"provide\"\nuser = {WORKER}\nservice = \"work\"\n"),
    )
    .unwrap();
    director.say("reload");
    eventually("the new rules are in force", || {
        let pretender = place.role("pretender").with("as", WORKER).start();
        let moved = pretender.hear("ready").ends_with("OK OK");
        if moved {
            // A call that nobody can serve asks again where its route leads.
            let called = (0..3).map(|_| client.call(work, b"there").map(|r| r.bytes().to_vec()));
            let results: Vec<_> = called.collect();
            let ends = |status| results.iter().any(|r| r.as_ref().is_err_and(|e| e.status() == status));
            assert!(!ends(Status::MayHaveRun), "{results:?}");
            assert_eq!(results[2].as_deref(), Ok(&mix(b"there")[..]), "{results:?}");
        }
        moved
    });
    assert!(matches!(
        client.route("nothing", "mix"),
        Err(Error::Refused { status: Status::NoSuchService, .. })
    ));
    director.stop();
}
