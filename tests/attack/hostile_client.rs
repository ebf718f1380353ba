//! A client that keeps to nothing.

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::eventfd::EfdFlags;
use nix::sys::memfd::{MFdFlags, memfd_create};
use trine::Bus;
use trine::core::Write;
use trine::core::ring::Publisher;
use trine::layout::{LINE, Record, Request, flag};

use crate::raw::{
    CLIENT, SHAPE, SIZE_SEALS, Session, WRITER_SEALS, Wire, bell, boxes, good_bell, hello, now_ns,
    open_route, open_session, segment,
};
use crate::roles::tell;
use crate::support::Random;

const ATTACKS: [fn(&Bus, &mut Random) -> Option<()>; 11] = [
    garbage,
    mutated,
    flood,
    wrong_descriptors,
    stalling_descriptors,
    bad_bells,
    punched,
    forged,
    scribble,
    half_right,
    forged_identities,
];

/// All attacks once, in order; then at random.
pub fn attack(bus: &Bus, seed: u64) {
    let mut random = Random(seed | 1);
    for attack in ATTACKS {
        attack(bus, &mut random);
    }
    tell("once");
    loop {
        ATTACKS[random.next() as usize % ATTACKS.len()](bus, &mut random);
    }
}

/// Random bytes at every stage.
fn garbage(bus: &Bus, random: &mut Random) -> Option<()> {
    for stage in 0..3 {
        let wire = match stage {
            0 => Wire::connect(bus)?,
            1 => Wire::greeted(bus, CLIENT)?,
            _ => Session::open(bus)?.wire,
        };
        for _ in 0..4 {
            let len = random.next() as usize % [9, 100, 9000][random.next() as usize % 3];
            let bytes: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
            wire.send(&bytes, &[]);
        }
    }
    Some(())
}

/// Right messages with a bit turned, cut off, or with something behind.
fn mutated(bus: &Bus, random: &mut Random) -> Option<()> {
    let shape = SHAPE;
    let rights = [hello(CLIENT), open_session(shape, [0; 4]), open_route(0, "work", "mix")];
    for (stage, right) in rights.iter().enumerate() {
        for _ in 0..8 {
            let wire = match stage {
                0 => Wire::connect(bus)?,
                1 => Wire::greeted(bus, CLIENT)?,
                _ => Session::open(bus)?.wire,
            };
            let mut bytes = right.clone();
            match random.next() % 3 {
                0 => bytes[random.next() as usize % right.len()] ^= 1 << (random.next() % 8),
                1 => bytes.truncate(random.next() as usize % right.len()),
                _ => bytes.extend([0; 8]),
            }
            let [(_, outbox), (_, inbox)] = boxes(shape)?;
            let own = good_bell();
            let fds = [outbox.as_fd(), inbox.as_fd(), own.as_fd()];
            wire.send(&bytes, if stage == 1 { &fds } else { &[] });
            wire.receive(Duration::from_millis(20));
        }
    }
    Some(())
}

/// Asks, and never reads an answer.
fn flood(bus: &Bus, _: &mut Random) -> Option<()> {
    let session = Session::open(bus)?;
    let question = open_route(2, "nobody", "nothing");
    let mut full = 0;
    for _ in 0..20_000 {
        full = if session.wire.send(&question, &[]) { 0 } else { full + 1 };
        if full > 1000 {
            break;
        }
    }
    Some(())
}

/// Sets of descriptors of which one at least is not what it should be.
fn wrong_descriptors(bus: &Bus, random: &mut Random) -> Option<()> {
    let null = || OwnedFd::from(std::fs::File::open("/dev/null").expect("a device"));
    let (out, at) = (SHAPE.outbox(), SHAPE.inbox());
    let (out_words, in_words) = (out.words as u64 * 8, at.words as u64 * 8);
    let (out_bytes, in_bytes) = (out_words + out.arena_bytes, in_words + at.arena_bytes);
    let huge = memfd_create("trine hostile", MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_HUGETLB);
    let of = |bytes, written, seals| segment(bytes, written, seals).map(|(_, fd)| fd);
    let outboxes = [
        of(out_bytes, out_words, 0),
        of(out_bytes, out_words, SIZE_SEALS),
        of(out_bytes, 0, WRITER_SEALS),
        of(out_bytes + 4096, out_words, WRITER_SEALS),
        huge.ok(),
        Some(null()),
    ];
    let inboxes =
        [of(in_bytes, in_words, 0), of(in_bytes, in_words, WRITER_SEALS), of(in_bytes, 0, SIZE_SEALS)];
    let [(_, outbox), (_, inbox)] = boxes(SHAPE)?;
    let own = good_bell();
    let right = [outbox.as_fd(), inbox.as_fd(), own.as_fd()];
    let mut sets: Vec<Vec<BorrowedFd>> = Vec::new();
    sets.extend(outboxes.iter().flatten().map(|fd| vec![fd.as_fd(), right[1], right[2]]));
    sets.extend(inboxes.iter().flatten().map(|fd| vec![right[0], fd.as_fd(), right[2]]));
    sets.extend([right[..2].to_vec(), [&right[..], &right[..1]].concat(), vec![], right.repeat(60)]);
    sets.extend([vec![right[0], right[1], right[0]], vec![right[1], right[0], right[2]]]);
    for set in &sets {
        let wire = Wire::greeted(bus, CLIENT)?;
        wire.send(&open_session(SHAPE, [0; 4]), set);
        wire.receive(Duration::from_millis(50));
    }
    // Where none belong.
    let wire = Wire::connect(bus)?;
    wire.send(&hello(CLIENT), &sets[random.next() as usize % sets.len()]);
    wire.receive(Duration::from_millis(50));
    Some(())
}

/// Sockets that take their time to close: what they have sent is not read, and they linger.
fn stalling_descriptors(bus: &Bus, _: &mut Random) -> Option<()> {
    let listener = TcpListener::bind("127.0.0.1:0").ok()?;
    let mut readers = Vec::new();
    for _ in 0..3 {
        let mut lingering = Vec::new();
        for _ in 0..3 {
            let mut stream = TcpStream::connect(listener.local_addr().ok()?).ok()?;
            readers.push(listener.accept().ok()?);
            let linger = nix::libc::linger { l_onoff: 1, l_linger: 1 };
            nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::Linger, &linger).ok()?;
            stream.set_nonblocking(true).ok()?;
            while stream.write(&[0; 65536]).is_ok() {}
            lingering.push(stream);
        }
        let wire = Wire::greeted(bus, CLIENT)?;
        let fds: Vec<BorrowedFd> = lingering.iter().map(AsFd::as_fd).collect();
        wire.send(&open_session(SHAPE, [0; 4]), &fds);
        // The director has the last copies, whose close waits.
        drop(lingering);
        drop(fds_are_gone(wire));
    }
    Some(())
}

fn fds_are_gone(wire: Wire) -> Option<(Vec<u8>, Vec<OwnedFd>)> {
    wire.receive(Duration::from_millis(20))
}

/// Doorbells that block, are full, or are none. (One that is accepted and made to block later holds its ringers up, as
/// SIGSTOP would: between processes of one user that can't be prevented; among several, a doorbell is a socket.)
fn bad_bells(bus: &Bus, random: &mut Random) -> Option<()> {
    let blocking = bell(EfdFlags::empty());
    let (reading, writing) = nix::unistd::pipe().ok()?;
    for bell in [blocking, writing, reading] {
        drop(Session::open_with(bus, bell.into()));
    }
    let full = good_bell();
    full.fill();
    let session = Session::open_with(bus, full)?;
    let mut ring = Publisher::new(SHAPE.outbox().ring, SHAPE.ring_slots(), 0);
    // Parked for ever: whoever answers rings.
    session.outbox.store(SHAPE.outbox().waiting, u64::MAX);
    for n in 0..8 {
        publish(&session, &mut ring, sound(8 + n), [0; 2]);
    }
    for n in 0..8 {
        publish(&session, &mut ring, Request { ticket: 16 + n, ..sound(0) }, [random.next(); 2]);
    }
    session.wire.is_ended(Duration::from_millis(20));
    Some(())
}

/// The pages of an inbox go away while replies are written into it.
fn punched(bus: &Bus, _: &mut Random) -> Option<()> {
    let session = Session::open(bus)?;
    let mut ring = Publisher::new(SHAPE.outbox().ring, SHAPE.ring_slots(), 0);
    let bytes = session.inbox.len() as i64 * 8;
    for n in 0..200 {
        publish(&session, &mut ring, Request { len: 100, capacity: 64, ..sound(8 + n) }, [0; 2]);
        let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let _ = fallocate(&session.inbox_fd, punch, 0, bytes);
    }
    session.wire.is_ended(Duration::from_millis(20));
    Some(())
}

/// A request as it should be.
fn sound(ticket: u64) -> Request {
    let deadline_ns = now_ns() + 50_000_000;
    Request { ticket, operation: 0, flags: 0, deadline_ns, len: 8, capacity: 64, ..Request::default() }
}

fn publish(session: &Session, ring: &mut Publisher<LINE>, request: Request, at: [u64; 2]) {
    let mut record: Record = [0; LINE];
    request.write(&mut record);
    (record[6], record[7]) = (at[0], at[1]);
    ring.publish(&session.outbox, &record, LINE);
    session.ring();
}

/// Requests with one field that nobody may write.
fn forged(bus: &Bus, _: &mut Random) -> Option<()> {
    let far = [u64::MAX - 7; 2];
    let forged = [
        (Request { flags: 0x8000, ..sound(8) }, far),
        (Request { len: u32::MAX, ..sound(8) }, far),
        (Request { len: 4097, ..sound(8) }, [0; 2]),
        (Request { len: 65, ..sound(8) }, [4096, 0]),
        (Request { capacity: u32::MAX, ..sound(8) }, [0; 2]),
        (Request { flags: flag::REPLY_AT, capacity: 8, ..sound(8) }, far),
        (Request { ticket: 0, ..sound(8) }, [0; 2]),
        (Request { ticket: u64::MAX, ..sound(8) }, [0; 2]),
        (Request { operation: 4000, ..sound(8) }, [0; 2]),
        (Request { deadline_ns: u64::MAX, ..sound(8) }, [0; 2]),
        (Request { flags: flag::AGAIN | flag::QUARANTINED, ..sound(8) }, [0; 2]),
        (Request { flags: flag::HAS_KEY | flag::NAME_KEY, key: u64::MAX, ..sound(8) }, [0; 2]),
    ];
    for (request, at) in forged {
        let session = Session::open(bus)?;
        let mut ring = Publisher::new(SHAPE.outbox().ring, SHAPE.ring_slots(), 0);
        publish(&session, &mut ring, request, at);
        session.wire.is_ended(Duration::from_millis(20));
    }
    // A ticket twice, to where nobody answers so soon.
    let session = Session::open(bus)?;
    let mut ring = Publisher::new(SHAPE.outbox().ring, SHAPE.ring_slots(), 0);
    for _ in 0..2 {
        publish(&session, &mut ring, sound(8), [0; 2]);
    }
    session.wire.is_ended(Duration::from_millis(20));
    // A stamp from the future.
    let session = Session::open(bus)?;
    session.outbox.store(SHAPE.outbox().ring, 77);
    session.ring();
    session.wire.is_ended(Duration::from_millis(20));
    Some(())
}

/// Random words everywhere.
fn scribble(bus: &Bus, random: &mut Random) -> Option<()> {
    for _ in 0..4 {
        let session = Session::open(bus)?;
        for n in 0..3000 {
            let value = [random.next(), u64::MAX, random.next() % 64][random.next() as usize % 3];
            session.outbox.store(random.next() as usize % session.outbox.len(), value);
            session.inbox.store(random.next() as usize % session.inbox.len(), value);
            if n % 100 == 0 {
                session.ring();
            }
        }
    }
    Some(())
}

/// Requests that are right but for something, over and over, among stores that are not.
fn half_right(bus: &Bus, random: &mut Random) -> Option<()> {
    for _ in 0..6 {
        let session = Session::open(bus)?;
        let (out, at) = (SHAPE.outbox(), SHAPE.inbox());
        let mut ring = Publisher::new(out.ring, SHAPE.ring_slots(), 0);
        for step in 0..400 {
            let (a, b) = (random.next(), random.next());
            match a % 12 {
                0 => session.inbox.store(at.polled, b),
                1 => session.inbox.store(at.notices, b),
                2 => session.inbox.store(at.verdict + b as usize % 8, random.next() % 64),
                3 => session.inbox.store(at.replies + (b as usize % 8) * LINE, random.next() % 64),
                4 => session.outbox.store(out.cancel + b as usize % 8, random.next() % 64),
                5 => session.outbox.store(out.waiting, b),
                _ => {
                    let request = Request {
                        ticket: 8 + step,
                        operation: (b >> 60) as u32 % 3,
                        flags: if b & 15 == 0 { (b >> 8) as u16 & flag::ALL } else { 0 },
                        len: [0, 8, 16, 64, 65, 4000][(b >> 24) as usize % 6],
                        capacity: [0, 8, 64][(b >> 32) as usize % 3],
                        ..sound(8)
                    };
                    publish(&session, &mut ring, request, [(b >> 40) % 200, (a >> 40) % 200]);
                }
            }
        }
        session.wire.is_ended(Duration::from_millis(5));
    }
    Some(())
}

/// Sessions that are not its own.
fn forged_identities(bus: &Bus, random: &mut Random) -> Option<()> {
    for n in 0..8 {
        let wire = Wire::greeted(bus, CLIENT)?;
        let [(_, outbox), (_, inbox)] = boxes(SHAPE)?;
        let own = good_bell();
        let session = if n < 4 { (1 << 32) + n + 1 } else { random.next() };
        let identity = [session, random.next(), random.next(), random.next() % 100];
        wire.send(&open_session(SHAPE, identity), &[outbox.as_fd(), inbox.as_fd(), own.as_fd()]);
        if let Some((bytes, fds)) = wire.receive(Duration::from_secs(1))
            && bytes.first() == Some(&131)
            && !fds.is_empty()
        {
            tell(format!("wrong: session {session:#x} was given to a stranger"));
        }
    }
    Some(())
}
