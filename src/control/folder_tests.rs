//! Directors that come, are killed, and go.

use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::*;
use crate::control::socket::Channel;

fn given() -> (TempDir, Bus) {
    let folder = tempfile::tempdir().unwrap();
    let bus = Bus::at(folder.path());
    (folder, bus)
}

/// Takes a folder whose last director is gone. Its lock may be held for a moment still: a process that another test
/// starts has copies of this one's descriptors until it executes.
fn take_after(bus: &Bus) -> RuntimeFolder {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        match RuntimeFolder::take(bus) {
            Err(Error::BusTaken { .. }) if Instant::now() < until => std::thread::yield_now(),
            taken => return taken.unwrap(),
        }
    }
}

fn names_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().mode() & 0o7777
}

#[test]
fn a_second_director_is_refused_and_told_who_is_there() {
    let (folder, bus) = given();
    let first = RuntimeFolder::take(&bus).unwrap();
    let error = RuntimeFolder::take(&bus).unwrap_err();
    let me = std::process::id() as i32;
    assert!(
        matches!(&error, Error::BusTaken { path, pid } if path == folder.path() && *pid == me),
        "{error}"
    );
    drop(first);
    take_after(&bus);
}

#[test]
fn the_next_director_finds_what_a_killed_one_left() {
    let (_folder, bus) = given();
    let first = RuntimeFolder::take(&bus).unwrap();
    assert_eq!(first.epoch(), 1);
    assert_ne!(first.bus_id(), [0; 2]);
    let (id, credential) = (first.bus_id(), first.credentials().session(1, 2, Domain::of_uid(2), 3, 4));
    let listener = first.bind().unwrap();
    let links = [first.worker_link(7), first.worker_link(u64::MAX)];
    for link in &links {
        fs::write(link, "a segment's name").unwrap();
    }
    for name in [".7.new", "007", "+7", "x"] {
        fs::write(bus.folder().join("workers").join(name), "no link").unwrap();
    }
    drop((first, listener));
    assert!(bus.socket().exists());

    let second = take_after(&bus);
    assert_eq!((second.epoch(), second.bus_id()), (2, id));
    assert_eq!(second.credentials().session(1, 2, Domain::of_uid(2), 3, 4), credential);
    let mut stale = second.stale_links().unwrap();
    stale.sort();
    assert_eq!(stale, [links[1].clone(), links[0].clone()]);
    let listener = second.bind().unwrap();
    let _client = Channel::connect(bus.socket()).unwrap();
    assert!(listener.accept().unwrap().is_some());
}

#[test]
fn who_has_settled_all_is_known_to_those_who_come_after() {
    let (_folder, bus) = given();
    drop(RuntimeFolder::take(&bus).unwrap());
    let second = take_after(&bus);
    assert_eq!(second.settled(), 0);
    second.settle();
    assert_eq!(second.settled(), 2);
    drop(second);
    for epoch in [3, 4] {
        let next = take_after(&bus);
        assert_eq!((next.epoch(), next.settled()), (epoch, 2));
        drop(next);
    }
}

#[test]
fn nothing_resumes_where_it_could_not_be_said_who_has_settled_all() {
    let (_folder, bus) = given();
    let first = RuntimeFolder::take(&bus).unwrap();
    fs::create_dir_all(bus.folder().join("epoch.new/in_the_way")).unwrap();
    first.settle();
    let id = first.bus_id();
    drop(first);
    fs::remove_dir_all(bus.folder().join("epoch.new")).unwrap();
    assert_ne!(take_after(&bus).bus_id(), id);
}

#[test]
fn everything_is_for_its_owner_only() {
    let parent = tempfile::tempdir().unwrap();
    let bus = Bus::in_base("test", &parent.path().join("a/b"));
    let taken = RuntimeFolder::take(&bus).unwrap();
    let _listener = taken.bind().unwrap();
    for folder in [parent.path().join("a"), parent.path().join("a/b"), bus.folder().into(), taken.workers()] {
        assert_eq!(mode(&folder), 0o700, "{folder:?}");
    }
    for name in ["lock", "secret", "epoch", "socket"] {
        assert_eq!(mode(&bus.folder().join(name)), 0o600, "{name}");
    }
}

#[test]
fn a_clean_stop_leaves_nothing() {
    let parent = tempfile::tempdir().unwrap();
    let bus = Bus::in_base("test", parent.path());
    let taken = RuntimeFolder::take(&bus).unwrap();
    let id = taken.bus_id();
    let _listener = taken.bind().unwrap();
    fs::write(taken.worker_link(1), "").unwrap();
    fs::write(bus.folder().join("epoch.new"), "").unwrap();
    taken.clean().unwrap();
    assert!(names_in(parent.path()).is_empty());

    let again = RuntimeFolder::take(&bus).unwrap();
    assert_eq!(again.epoch(), 1);
    assert_ne!(again.bus_id(), id);
    fs::write(bus.folder().join("notes"), "somebody's").unwrap();
    again.clean().unwrap();
    assert_eq!(names_in(bus.folder()), ["notes"]);
}

#[test]
fn a_folder_that_was_given_stays() {
    let (folder, bus) = given();
    let taken = RuntimeFolder::take(&bus).unwrap();
    let _listener = taken.bind().unwrap();
    taken.clean().unwrap();
    assert!(names_in(folder.path()).is_empty());
}

#[test]
fn a_wiped_folder_is_another_bus() {
    let parent = tempfile::tempdir().unwrap();
    let bus = Bus::in_base("test", parent.path());
    let first = RuntimeFolder::take(&bus).unwrap();
    fs::remove_dir_all(bus.folder()).unwrap();
    let second = RuntimeFolder::take(&bus).unwrap();
    assert_ne!(second.bus_id(), first.bus_id());
    assert_eq!(second.epoch(), 1);
    assert!(matches!(RuntimeFolder::take(&bus), Err(Error::BusTaken { .. })));
}

#[test]
fn nothing_resumes_on_a_secret_or_an_epoch_that_is_spoilt() {
    let (_folder, bus) = given();
    let at = |name| bus.folder().join(name);
    let spoil: [(&str, &dyn Fn()); 11] = [
        ("no secret", &|| fs::remove_file(at("secret")).unwrap()),
        ("a short secret", &|| fs::write(at("secret"), [1; 31]).unwrap()),
        ("a long secret", &|| fs::write(at("secret"), [1; 33]).unwrap()),
        ("zeros", &|| fs::write(at("secret"), [0; 32]).unwrap()),
        ("seen by others", &|| fs::set_permissions(at("secret"), Permissions::from_mode(0o640)).unwrap()),
        ("a link", &|| {
            fs::rename(at("secret"), at("elsewhere")).unwrap();
            symlink(at("elsewhere"), at("secret")).unwrap();
        }),
        ("no epoch", &|| fs::remove_file(at("epoch")).unwrap()),
        ("half an epoch", &|| fs::write(at("epoch"), "1 0").unwrap()),
        ("one epoch", &|| fs::write(at("epoch"), "1\n").unwrap()),
        ("settled by nobody yet", &|| fs::write(at("epoch"), "1 2\n").unwrap()),
        ("the last epoch", &|| fs::write(at("epoch"), "4294967295 1\n").unwrap()),
    ];
    let mut id = RuntimeFolder::take(&bus).unwrap().bus_id();
    for (what, spoil) in spoil {
        spoil();
        let taken = take_after(&bus);
        assert_ne!(taken.bus_id(), id, "{what}");
        assert_eq!(taken.epoch(), 1, "{what}");
        id = taken.bus_id();
    }
    fs::write(at("epoch"), "4294967294 7\n").unwrap();
    fs::write(at("epoch.new"), "what a kill left").unwrap();
    let last = take_after(&bus);
    assert_eq!((last.bus_id(), last.epoch(), last.settled()), (id, EPOCH_MAX, 7));
}

#[test]
fn a_folder_that_others_own_or_write_is_refused() {
    let (folder, bus) = given();
    for (mode, fine) in [(0o755, true), (0o711, true), (0o775, false), (0o702, false), (0o1777, false)] {
        fs::set_permissions(folder.path(), Permissions::from_mode(mode)).unwrap();
        if fine {
            take_after(&bus);
            continue;
        }
        match RuntimeFolder::take(&bus) {
            Ok(_) => panic!("{mode:o}"),
            Err(e) => assert!(matches!(e, Error::Path { .. }), "{mode:o}: {e}"),
        }
    }
    // Root gives the folder away; anyone else finds one that isn't his.
    let root = nix::unistd::geteuid().is_root();
    let other = if root { folder.path() } else { Path::new("/usr") };
    if root {
        fs::set_permissions(other, Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::chown(other, Some(4711), None).unwrap();
    }
    let error = RuntimeFolder::take(&Bus::at(other)).unwrap_err();
    assert!(matches!(&error, Error::Path { why, .. } if why.contains("owns it")), "{error}");
}

#[test]
fn what_the_system_refuses_is_told_with_the_path() {
    let (folder, _) = given();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let bus = Bus::in_base("test", &file);
    let error = RuntimeFolder::take(&bus).unwrap_err();
    assert!(matches!(error, Error::System { .. }), "{error}");
    assert!(error.to_string().contains(bus.folder().to_str().unwrap()), "{error}");
}

#[test]
fn what_is_not_a_socket_is_not_removed() {
    let (_folder, bus) = given();
    let taken = RuntimeFolder::take(&bus).unwrap();
    fs::write(bus.socket(), "somebody's").unwrap();
    assert!(matches!(taken.bind(), Err(Error::NotASocket { .. })));
    assert!(matches!(taken.clean(), Err(Error::NotASocket { .. })));
    assert_eq!(fs::read(bus.socket()).unwrap(), b"somebody's");
}

/// Directors that start and stop at once: the lock's file, and the folder, come and go between any two steps.
#[test]
fn there_is_one_director_at_a_time() {
    let parent = tempfile::tempdir().unwrap();
    let bus = Bus::in_base("test", parent.path());
    let (held, taken) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while taken.load(Ordering::Relaxed) < 300 {
                    match RuntimeFolder::take(&bus) {
                        Ok(folder) => {
                            assert!(!held.swap(true, Ordering::SeqCst), "two directors");
                            let epochs = taken.fetch_add(1, Ordering::Relaxed);
                            held.store(false, Ordering::SeqCst);
                            if epochs % 3 != 0 {
                                folder.clean().unwrap();
                            }
                        }
                        Err(Error::BusTaken { .. }) => std::thread::yield_now(),
                        Err(e) => panic!("{e}"),
                    }
                }
            });
        }
    });
}

#[test]
fn credentials_differ_where_anything_differs() {
    let of = |key, id| Credentials::new([key; 16], id);
    let a = of(1, [1, 2]);
    let all = [
        a.session(1, 2, Domain::of_uid(2), 3, 4),
        a.session(2, 2, Domain::of_uid(2), 3, 4),
        a.session(1, 3, Domain::of_uid(2), 3, 4),
        a.session(1, 2, Domain::of_uid(2), 4, 4),
        a.session(1, 2, Domain::of_uid(2), 3, 5),
        a.session(1, 2, Domain::of_uid(3), 3, 4),
        a.worker(1, 2, 3),
        a.worker(2, 2, 3),
        a.worker(1, 3, 3),
        a.worker(1, 2, 4),
        of(2, [1, 2]).session(1, 2, Domain::of_uid(2), 3, 4),
        of(1, [2, 2]).session(1, 2, Domain::of_uid(2), 3, 4),
        of(1, [1, 3]).session(1, 2, Domain::of_uid(2), 3, 4),
    ];
    let different: std::collections::HashSet<_> = all.iter().collect();
    assert_eq!(different.len(), all.len());
    assert_eq!(of(1, [1, 2]).session(1, 2, Domain::of_uid(2), 3, 4), all[0]);
}
