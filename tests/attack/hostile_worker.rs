//! A worker that keeps to nothing, and a client of its own process that it serves.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use trine::core::{Read, Write};
use trine::layout::LINE;
use trine::{Bus, ClientOptions, Until};

use crate::raw::{
    Message, RawWorker, SIZE_SEALS, WORK, WORKER, WRITER_SEALS, Wire, about_session, good_bell, kind,
    open_worker, provide, segment,
};
use crate::roles::tell;
use crate::support::{PATIENCE, Random};

const ATTACKS: [fn(&Bus, &mut Random) -> Option<()>; 8] = [
    wrong_descriptors,
    lies_about_sessions,
    garbage,
    forged_identities,
    done_without_reply,
    from_the_future,
    scribble_on_its_page,
    scribble_on_its_client,
];

/// All attacks once, in order; then at random. A client of the same process calls it all the while.
pub fn attack(bus: &Bus, seed: u64) {
    let (victims, mut random) = (bus.clone(), Random(seed | 1));
    std::thread::spawn(move || served(&victims));
    for attack in ATTACKS {
        attack(bus, &mut random);
    }
    tell("once");
    loop {
        ATTACKS[random.next() as usize % ATTACKS.len()](bus, &mut random);
    }
}

/// Of another user than the director: tries to write what it was given to read, by opening it once more, which /proc lets
/// whoever holds a descriptor try.
pub fn write_what_it_reads(bus: &Bus) {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use std::io::Write;
    use std::os::fd::AsRawFd;
    let write = |fd: &OwnedFd| {
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let opened = std::fs::OpenOptions::new().write(true).open(path);
        let written = opened.and_then(|mut file| file.write(&[0xff; 8]));
        written.map_or_else(
            |e| format!("{:?}", nix::errno::Errno::from_raw(e.raw_os_error().unwrap_or(0))),
            |_| "OK".into(),
        )
    };
    // A doorbell among several users.
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (ring, _mailbox) = socketpair(AddressFamily::Unix, SockType::Datagram, None, flags).expect("a pair");
    let wire = Wire::greeted(bus, WORKER).expect("it may connect");
    let bytes = WORK.progress().words as u64 * 8;
    let (_page, page) = segment(bytes, bytes, WRITER_SEALS).expect("a page");
    wire.send(&open_worker(WORK.slots, [0; 4]), &[page.as_fd(), ring.as_fd()]);
    let (_, given) = wire.hear(kind::WORKER_OPENED).expect("it may work");
    tell(format!("work segment {}", write(&given[0])));
    wire.send(&provide("evil", "do"), &[]);
    wire.hear(kind::PROVIDED).expect("an answer");
    tell("ready");
    let (_, given) = wire.hear(kind::MAP_SESSION).expect("a client");
    tell(format!("outbox {}", write(&given[0])));
    // What it is meant to write, too: the way would be one.
    tell(format!("inbox {}", write(&given[1])));
    std::thread::park();
}

/// Whoever is served by such a worker gets errors, or lies; its library lives.
fn served(bus: &Bus) {
    loop {
        let Ok(client) = bus.client(ClientOptions::default().slots(16)) else { continue };
        let Ok(route) = client.route("evil", "do") else { continue };
        for _ in 0..50 {
            let calls: Vec<_> = (0..8)
                .filter_map(|_| {
                    let draft = client.request(route).timeout(Duration::from_millis(3));
                    draft.submit(&[1; 300], Until::after(Duration::from_millis(3))).ok()
                })
                .collect();
            for call in calls {
                let _ = call.wait().map(|reply| reply.bytes().to_vec());
            }
        }
    }
}

/// Descriptors that are not what they should be.
fn wrong_descriptors(bus: &Bus, _: &mut Random) -> Option<()> {
    let bytes = WORK.progress().words as u64 * 8;
    let of = |bytes, written, seals| segment(bytes, written, seals).map(|(_, fd)| fd);
    let pages: Vec<OwnedFd> = [
        of(bytes, bytes, 0),
        of(bytes, bytes, SIZE_SEALS),
        of(bytes, 0, WRITER_SEALS),
        of(bytes + 4096, bytes, WRITER_SEALS),
    ]
    .into_iter()
    .flatten()
    .collect();
    let own = good_bell();
    let mut sets: Vec<Vec<BorrowedFd>> = pages.iter().map(|page| vec![page.as_fd(), own.as_fd()]).collect();
    sets.extend([vec![], vec![own.as_fd(); 2], vec![own.as_fd(); 4]]);
    for set in sets {
        let wire = Wire::greeted(bus, WORKER)?;
        wire.send(&open_worker(WORK.slots, [0; 4]), &set);
        wire.receive(Duration::from_millis(50));
    }
    Some(())
}

/// Says of sessions what is not so.
fn lies_about_sessions(bus: &Bus, random: &mut Random) -> Option<()> {
    for lie in 0..6 {
        let mut worker = RawWorker::open(bus)?;
        worker.listen(Duration::from_millis(20));
        let known = worker.sessions.first().map_or(0, |s| s.0);
        match lie {
            0 => worker.wire.send(&about_session(kind::SESSION_MAPPED, random.next() as u16, 1), &[]),
            1 => worker.wire.send(&about_session(kind::SESSION_UNMAPPED, random.next() as u16, 0), &[]),
            2 => worker.wire.send(&about_session(kind::SESSION_UNMAPPED, known, 0), &[]),
            // A range upside down.
            3 => {
                let head = Message::new(kind::YIELDED).name("evil");
                worker.wire.send(&head.u16(0).u16(3).u32(0).u64(9).u64(1).bytes(), &[])
            }
            4 => worker.wire.send(&about_session(kind::SESSION_MAPPED, known, 7), &[]),
            _ => worker.wire.send(&Message::new(kind::LEAVE).u64(random.next()).bytes(), &[]),
        };
        worker.listen(Duration::from_millis(5));
    }
    Some(())
}

/// Random bytes, messages of the other direction, and services without end.
fn garbage(bus: &Bus, random: &mut Random) -> Option<()> {
    for n in 0..4 {
        let worker = RawWorker::open(bus)?;
        match n {
            0 => {
                let bytes: Vec<u8> = (0..random.next() % 9000).map(|_| random.next() as u8).collect();
                worker.wire.send(&bytes, &[])
            }
            1 => worker.wire.send(&Message::new(kind::MAP_SESSION).u64(0).bytes(), &[]),
            2 => worker.wire.send(&provide("evil\n", "do"), &[]),
            _ => (0..2000).all(|n| worker.wire.send(&provide(&format!("flood{n}"), "do"), &[])),
        };
        worker.wire.receive(Duration::from_millis(20));
    }
    Some(())
}

/// Workers that are not its own.
fn forged_identities(bus: &Bus, random: &mut Random) -> Option<()> {
    for n in 1..5 {
        let wire = Wire::greeted(bus, WORKER)?;
        let bytes = WORK.progress().words as u64 * 8;
        let (_, page) = segment(bytes, bytes, WRITER_SEALS)?;
        let identity = [(1 << 16) + n, random.next(), random.next(), random.next()];
        wire.send(&open_worker(WORK.slots, identity), &[page.as_fd(), good_bell().as_fd()]);
        if let Some((bytes, fds)) = wire.receive(Duration::from_secs(1))
            && bytes.first() == Some(&133)
            && !fds.is_empty()
        {
            tell("wrong: a worker's place was given to a stranger");
        }
    }
    Some(())
}

/// Marks all done that it is given, and answers nothing.
fn done_without_reply(bus: &Bus, _: &mut Random) -> Option<()> {
    if !RawWorker::open(bus)?.marks_all_done() {
        tell("wrong: to mark done what is not answered is no fault");
    }
    Some(())
}

/// The same, and nothing else.
pub fn answer_nothing(bus: &Bus) {
    let worker = RawWorker::open(bus).expect("it may work");
    tell("ready");
    tell(format!("disconnected {}", worker.marks_all_done()));
    std::thread::park();
}

impl RawWorker {
    /// Marks all done that it is given, until the director has enough of it. Returns whether it had.
    fn marks_all_done(mut self) -> bool {
        let (at, progress) = (WORK.work(), WORK.progress());
        let (mut position, until) = (0u64, Instant::now() + PATIENCE);
        while !self.wire.is_ended(Duration::from_millis(2)) {
            if Instant::now() > until {
                return false;
            }
            self.listen(Duration::ZERO);
            let slot = at.ring + (position % u64::from(WORK.slots)) as usize * LINE;
            if self.work.load(slot) == position + 1 {
                position += 1;
                let entry = (self.work.load(slot + 1) >> 48) as usize;
                self.page.store(progress.taken, position);
                self.page.store(progress.completed, position);
                self.page.store(progress.done + entry % WORK.slots as usize, position);
            }
        }
        true
    }
}

/// Counts that nobody can have reached.
fn from_the_future(bus: &Bus, random: &mut Random) -> Option<()> {
    for word in [WORK.progress().completed, WORK.progress().taken] {
        let worker = RawWorker::open(bus)?;
        worker.page.store(word, 1 << 40);
        if !worker.wire.is_ended(Duration::from_secs(10)) {
            tell("wrong: a count from the future is no fault");
        }
    }
    for word in [WORK.progress().completed, WORK.progress().taken, WORK.progress().done] {
        for value in [u64::MAX, 1 << 40, random.next(), 1000] {
            let mut worker = RawWorker::open(bus)?;
            worker.listen(Duration::from_millis(5));
            worker.page.store(word, value);
            let _ = nix::unistd::write(&worker.director, &1u64.to_ne_bytes());
            worker.listen(Duration::from_millis(5));
        }
    }
    Some(())
}

/// Random words all over its page.
fn scribble_on_its_page(bus: &Bus, random: &mut Random) -> Option<()> {
    for _ in 0..4 {
        let mut worker = RawWorker::open(bus)?;
        for _ in 0..20 {
            worker.listen(Duration::from_millis(1));
            for _ in 0..200 {
                let value = [random.next(), u64::MAX, random.next() % 64][random.next() as usize % 3];
                worker.page.store(random.next() as usize % worker.page.len(), value);
            }
        }
    }
    Some(())
}

/// Random and half-right words all over the inboxes that it was given; and no other's are among them.
fn scribble_on_its_client(bus: &Bus, random: &mut Random) -> Option<()> {
    let mut worker = RawWorker::open(bus)?;
    for _ in 0..60 {
        worker.listen(Duration::from_millis(2));
        for (_, _, shape, outbox, inbox) in &worker.sessions {
            let at = shape.inbox();
            for _ in 0..300 {
                let (a, b) = (random.next(), random.next());
                match a % 4 {
                    0 => inbox.store(b as usize % at.words, random.next()),
                    1 => {
                        // A reply to whatever is open, of any status and length.
                        let slot = b as usize % shape.slots as usize;
                        let record = at.replies + slot * 16;
                        let ticket = outbox.load(shape.outbox().ring + slot * 16 + 1);
                        inbox.store(record + 1, b >> 32);
                        inbox.store(record + 3, [8, 100, 5000, u64::MAX][a as usize / 4 % 4]);
                        inbox.store(record, ticket.wrapping_add(a / 16 % 3));
                    }
                    2 => inbox.store(at.verdict + b as usize % shape.slots as usize, random.next() % 4096),
                    _ => inbox.store(at.notices, b),
                }
            }
        }
    }
    Some(())
}
