//! What there is too little of, and what may not be used at all.

use std::time::Duration;

use trine::{ClientOptions, Until};

use crate::support::{Place, Role, bytes, descriptors, eventually, mix, segments, status_kb, works};

#[test]
fn the_director_maps_no_arena_and_stays_small() {
    let place = Place::new();
    let director = place.director();
    let worker = place.worker();
    let client = place.client(ClientOptions::default());
    let route = client.route("work", "mix").unwrap();
    for n in 0..8 {
        let request = bytes(n, 16 << 20);
        let draft = client.request(route).reply_capacity(request.len());
        let reply = draft.submit(&request, Until::Forever).unwrap().wait().unwrap();
        assert_eq!(reply.bytes().to_vec(), mix(&request));
    }
    let of = |pid| segments(pid).iter().map(|(_, bytes)| bytes).sum::<u64>();
    let (director_bytes, worker_bytes) = (of(director.pid()), of(worker.pid()));
    assert!(worker_bytes > 128 << 20, "a worker maps both arenas: {worker_bytes}");
    assert!(
        (1..256 << 10).contains(&director_bytes),
        "a director maps rings: {:?}",
        segments(director.pid())
    );
    let kb = status_kb(director.pid(), "VmRSS:");
    println!("the director maps {director_bytes} bytes of segments; {kb} kB are resident");
    assert!(kb < 32 << 10, "{kb} kB are resident");
}

#[test]
fn no_system_call_copies_payload() {
    if !works(&["strace", "-f", "-o", "/dev/null", "true"]) {
        println!("SKIPPED: strace can't be used here");
        return;
    }
    let place = Place::new();
    let calls = "trace=/read|write|send|recv|splice|vmsplice|tee|copy";
    let log = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    let traced = |role: &str| {
        ["strace", "-f", "-qq", "-e", calls, "-o"].map(String::from).into_iter().chain([log(role)])
    };
    let start = |role: &str, and: &[(&str, u64)]| {
        let prefix: Vec<String> = traced(role).collect();
        let prefix: Vec<&str> = prefix.iter().map(String::as_str).collect();
        let launch = place.role(role).under(&prefix);
        and.iter().fold(launch, |launch, (key, value)| launch.with(key, value)).ready()
    };
    let director = start("director", &[]);
    let worker = start("worker", &[]);
    let mut caller = start("caller", &[("calls", 40), ("len", 1 << 20), ("window", 4)]);
    assert!(caller.hear("done").starts_with("40 0"));
    caller.exit();
    worker.stop();
    director.stop();
    for role in ["director", "worker", "caller"] {
        // What a program reads to be loaded is not the question: nothing is as long as one payload.
        let text = std::fs::read_to_string(log(role)).unwrap();
        let moved =
            text.lines().filter_map(|line| line.rsplit_once(" = ")?.1.split(' ').next()?.parse::<u64>().ok());
        let total: u64 = moved.sum();
        println!("{role}: system calls moved {total} bytes in all, and 40 MiB went each way");
        assert!(text.lines().count() > 5 && total < 1 << 20, "{role}: {total} bytes");
    }
}

/// Starts a role in a mount namespace of its own, after `mount` has run there.
fn in_namespace(place: &Place, role: &str, mount: &str) -> Role {
    let script = format!("{mount} && exec \"$0\" \"$@\"");
    place.role(role).under(&["unshare", "--mount", "sh", "-c", &script]).start()
}

fn can_mount() -> bool {
    let can = works(&["unshare", "--mount", "sh", "-c", "mount -t tmpfs -o size=64k tmpfs /mnt"]);
    if !can {
        println!("SKIPPED: no mount namespace can be made here");
    }
    can
}

#[test]
fn a_full_shm_is_a_clear_error_and_the_director_goes_on() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    // Room for one worker's segment, not for two.
    let director = in_namespace(&place, "director", "mount -t tmpfs -o size=72k tmpfs /dev/shm");
    director.hear("ready");
    let first = place.worker();
    let text = place.role("worker").start().hear("error");
    assert!(text.contains("No space left on device") && text.contains("free some space"), "{text}");
    let client = place.client(ClientOptions::default());
    let route = client.route("work", "mix").unwrap();
    assert_eq!(client.call(route, b"goes on").unwrap().bytes().to_vec(), mix(b"goes on"));
    first.stop();
    eventually("it is forgotten", || place.inspect().workers.is_empty());
    place.worker().stop();
    director.stop();
}

#[test]
fn a_full_or_read_only_runtime_folder_is_a_clear_error() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let folder = place.path().to_str().unwrap().to_owned();
    for (options, why) in [
        ("size=4k,nr_inodes=2", "No space left on device"),
        ("size=4k,nr_inodes=4", "No space left on device"),
        ("ro", "Read-only file system"),
    ] {
        let mount = format!("mount -t tmpfs -o mode=0700,{options} tmpfs {folder}");
        let text = in_namespace(&place, "director", &mount).hear("error");
        assert!(text.contains(why) && text.contains(&folder), "{options}: {text}");
    }
    place.director().stop();
}

fn limited(place: &Place, role: &str, files: u32) -> Role {
    place.role(role).under(&["prlimit", &format!("--nofile={files}")]).start()
}

#[test]
fn sixteen_descriptors_are_enough_or_a_clear_error() {
    let place = Place::new();
    let _director = place.director();
    let worker = limited(&place, "worker", 16);
    worker.hear("ready");
    // One client after the other finds it, as far as it has room for sessions; then it says so, and serves on.
    let clients: Vec<_> = (0..8).map(|_| place.client(ClientOptions::default())).collect();
    let mut served = 0;
    for client in &clients {
        let route = client.route("work", "mix").unwrap();
        match client.call(route, b"x") {
            Ok(reply) => {
                assert_eq!(reply.bytes().to_vec(), mix(b"x"));
                served += 1;
            }
            Err(e) => assert_eq!((e.status(), e.may_have_run()), (trine::Status::NoWorker, false), "{e}"),
        }
    }
    assert!(served >= 1, "it serves nobody");
    println!("a worker with 16 descriptors serves {served} of 8 sessions");
    let mut caller = limited(&place, "caller", 16);
    let said = caller.hear("");
    assert!(said == "ready" || said.contains("ulimit -n"), "{said}");
    caller.exit();
    // Too few for anything.
    for role in ["caller", "worker"] {
        let text = limited(&place, role, 7).hear("error");
        assert!(text.contains("Too many open files") && text.contains("ulimit -n"), "{text}");
    }
}

#[test]
fn a_director_without_descriptors_serves_those_it_has() {
    let place = Place::new();
    let text = limited(&place, "director", 6).hear("error");
    assert!(text.contains("Too many open files") && text.contains("ulimit -n"), "{text}");
    let director = limited(&place, "director", 32);
    director.hear("ready");
    let worker = place.worker();
    let mut clients = Vec::new();
    let refused = loop {
        assert!(clients.len() < 32, "32 descriptors are enough for {} sessions", clients.len());
        match place.bus.client(ClientOptions::default()) {
            Ok(client) => {
                match client.route("work", "mix").map(|route| client.call(route, b"x").map(|_| route)) {
                    Ok(Ok(route)) => clients.push((client, route)),
                    Ok(Err(e)) => break e.to_string(),
                    Err(e) => break e.to_string(),
                }
            }
            Err(e) => break e.to_string(),
        }
    };
    println!(
        "a director with 32 descriptors serves a worker and {} sessions, then: {refused}",
        clients.len()
    );
    assert!(!clients.is_empty());
    assert!(descriptors(director.pid()) <= 32);
    for (client, route) in &clients {
        for n in 0..100u64 {
            assert_eq!(
                client.call(*route, &n.to_le_bytes()).unwrap().bytes().to_vec(),
                mix(&n.to_le_bytes())
            );
        }
    }
    // Once some have gone there is room for others.
    clients.clear();
    let options = || ClientOptions::default().director_gone(Duration::from_millis(100));
    eventually("there is room again", || {
        place.bus.client(options()).is_ok_and(|client| {
            client.route("work", "mix").is_ok_and(|route| client.call(route, b"x").is_ok())
        })
    });
    drop((worker, director));
}
