//! Sessions that come and go, in every way of going, leave nothing: no descriptor, mapping, memory, file, table entry.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr};
use nix::sys::socket::{connect, recv, sendmsg, socket};
use trine::{ClientOptions, Status, Until};

use crate::support::{Place, Role, descriptors, eventually, long, mix, segments, status_kb};

/// What a process and the bus's folder hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Holdings {
    descriptors: usize,
    mappings: usize,
    files: usize,
}

fn holdings(place: &Place, role: &Role) -> Holdings {
    let files = |at: &std::path::Path| std::fs::read_dir(at).map_or(0, Iterator::count);
    Holdings {
        descriptors: descriptors(role.pid()),
        mappings: segments(role.pid()).len(),
        files: files(place.path()) + files(&place.path().join("workers")),
    }
}

/// A connection that says as much as its number tells, and goes: nothing; a greeting; a session with descriptors that
/// are none; half a message; a session and then what makes no sense.
fn half_way(place: &Place, how: u64) {
    let flags = SockFlag::SOCK_CLOEXEC;
    let raw = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).expect("a socket");
    if connect(raw.as_raw_fd(), &UnixAddr::new(place.bus.socket()).expect("a path")).is_err() {
        return;
    }
    let say = |bytes: &[u8], fds: &[BorrowedFd]| {
        let fds: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&fds)];
        let control = if fds.is_empty() { &[][..] } else { &rights };
        let bytes = [std::io::IoSlice::new(bytes)];
        let _ = sendmsg::<UnixAddr>(raw.as_raw_fd(), &bytes, control, MsgFlags::MSG_NOSIGNAL, None);
    };
    let hear = || {
        let mut bytes = [0; 8192];
        let _ = recv(raw.as_raw_fd(), &mut bytes, MsgFlags::empty());
    };
    if how == 0 {
        return;
    }
    let now_ns = nix::time::ClockId::CLOCK_MONOTONIC.now().expect("a clock");
    let now_ns = now_ns.tv_sec() as u64 * 1_000_000_000 + now_ns.tv_nsec() as u64;
    let magic = u64::from_be_bytes(*b"TRINE\0ct");
    let hello = [1 | 48 << 32, magic, 1 | 1 << 32, 0, 0, now_ns];
    say(bytemuck::bytes_of(&hello), &[]);
    hear();
    if how == 1 {
        return;
    }
    let null = OwnedFd::from(std::fs::File::open("/dev/null").expect("/dev/null"));
    let fds = [std::os::fd::AsFd::as_fd(&null); 3];
    let open: [u64; 8] = [2 | 64 << 32, 0, 0, 0, 0, 8 | 64 << 32, 4096, 4096];
    match how {
        2 => say(bytemuck::bytes_of(&open), &fds),
        3 => say(&bytemuck::bytes_of(&open)[..20], &fds[..1]),
        _ => say(&[7; 60], &fds[..2]),
    }
    hear();
}

fn come_and_go(place: &Place, seed: u64) {
    match seed % 10 {
        way @ 0..5 => half_way(place, way),
        5..8 => {
            let client = place.client(ClientOptions::default().slots(4).arenas(1 << 16, 1 << 16));
            let route = client.route("work", "mix").expect("a route");
            assert_eq!(client.call(route, b"x").expect("a reply").bytes().to_vec(), mix(b"x"));
            assert_eq!(client.route("work", "none").expect_err("no such").status(), Status::NoSuchOperation);
        }
        _ => {
            let client = place.client(ClientOptions::default().slots(4));
            let route = client.route("work", "late").expect("a route");
            // It goes with these open: dropped, detached, one-way.
            let _ = client.request(route).submit(&500u64.to_le_bytes(), Until::Now).expect("a slot").detach();
            drop(client.request(route).submit(&500u64.to_le_bytes(), Until::Now).expect("a slot"));
            client.request(route).post(&500u64.to_le_bytes(), Until::Now).expect("a slot");
        }
    }
}

/// 100,000 in the long form, or as many as TRINE_SESSIONS says.
#[test]
fn sessions_that_come_and_go_in_every_way_leave_nothing() {
    let place = Place::new();
    let (director, worker) = (place.director(), place.worker());
    let wanted = std::env::var("TRINE_SESSIONS").ok().and_then(|n| n.parse().ok());
    let wanted: u64 = wanted.unwrap_or(if long() { 100_000 } else { 450 });
    // A tenth of them are killed, many at a time.
    let crowd = if wanted > 10_000 { 100 } else { 20 };
    let (visits, crowds) = (wanted - wanted / 10, wanted as usize / 10 / crowd);
    let visit = |from: u64, to: u64| {
        std::thread::scope(|scope| {
            for part in 0..4 {
                let place = &place;
                scope.spawn(move || {
                    (from..to).filter(|n| n % 4 == part).for_each(|n| come_and_go(place, n / 4))
                });
            }
        });
    };
    // Killed with calls open, many at a time.
    let kill = |count: usize| {
        for _ in 0..count {
            let mut held = place.role("crowd").with("sessions", crowd).ready();
            held.kill();
        }
    };
    let gone = || {
        eventually("all are gone", || {
            let seen = place.inspect();
            seen.sessions.is_empty() && seen.workers[0].sessions == 0 && seen.workers[0].in_flight == 0
        });
    };
    // Once, so that all that is only made once is there.
    visit(0, 200);
    kill(1);
    gone();
    let before = (holdings(&place, &director), holdings(&place, &worker));
    let memory = || (status_kb(director.pid(), "VmRSS"), status_kb(worker.pid(), "VmRSS"));
    let (began, memory_before) = (Instant::now(), memory());
    visit(0, visits);
    kill(crowds);
    gone();
    let mut after = before;
    eventually(format!("nothing is left: {before:?}"), || {
        after = (holdings(&place, &director), holdings(&place, &worker));
        let less = |a: Holdings, b: Holdings| {
            a.descriptors <= b.descriptors && a.mappings <= b.mappings && a.files <= b.files
        };
        less(after.0, before.0) && less(after.1, before.1)
    });
    let memory_after = memory();
    let sessions = visits as usize + crowds * crowd;
    println!(
        "{sessions} came and went in {:?}: {before:?} {after:?}, kB {memory_before:?} {memory_after:?}",
        began.elapsed()
    );
    // What allocators keep does not grow with the number: a leak of 32 bytes a session would show in the long form.
    let slack = 2048;
    assert!(memory_after.0 < memory_before.0 + slack && memory_after.1 < memory_before.1 + slack);
    let seen = place.inspect();
    assert_eq!((seen.sessions.len(), seen.workers.len(), seen.services.len()), (0, 1, 1));
}
