//! The protocol's bytes, written by hand as PROTOCOL.md has them, so that any of them can be wrong.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::Duration;

use memmap2::{MmapOptions, MmapRaw};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, connect,
    recvmsg, send, sendmsg, socket, socketpair,
};
use trine::core::{Read, Write};
use trine::layout::{SessionShape, WorkShape};
use trine::{Bus, limits};

pub const CLIENT: u32 = 1;
pub const WORKER: u32 = 2;

pub mod kind {
    pub const HELLO: u32 = 1;
    pub const OPEN_SESSION: u32 = 2;
    pub const OPEN_ROUTE: u32 = 3;
    pub const OPEN_WORKER: u32 = 4;
    pub const PROVIDE: u32 = 5;
    pub const SESSION_MAPPED: u32 = 7;
    pub const SESSION_UNMAPPED: u32 = 8;
    pub const LEAVE: u32 = 9;
    pub const YIELDED: u32 = 35;
    pub const WELCOME: u32 = 129;
    pub const SESSION_OPENED: u32 = 131;
    pub const ROUTE_OPENED: u32 = 132;
    pub const WORKER_OPENED: u32 = 133;
    pub const PROVIDED: u32 = 134;
    pub const MAP_SESSION: u32 = 135;
    pub const UNMAP_SESSION: u32 = 136;
}

/// A message that is being written.
pub struct Message(Vec<u8>);

impl Message {
    pub fn new(kind: u32) -> Message {
        Message([kind.to_ne_bytes(), [0; 4]].concat())
    }

    pub fn u16(mut self, value: u16) -> Message {
        self.0.extend(value.to_ne_bytes());
        self
    }

    pub fn u32(mut self, value: u32) -> Message {
        self.0.extend(value.to_ne_bytes());
        self
    }

    pub fn u64(mut self, value: u64) -> Message {
        self.0.extend(value.to_ne_bytes());
        self
    }

    pub fn name(self, name: &str) -> Message {
        let mut with_len = self.u16(name.len() as u16);
        with_len.0.extend(name.as_bytes());
        with_len
    }

    pub fn bytes(mut self) -> Vec<u8> {
        let len = self.0.len() as u32;
        self.0[4..8].copy_from_slice(&len.to_ne_bytes());
        self.0
    }
}

pub fn now_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).expect("a clock");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

pub fn hello(role: u32) -> Vec<u8> {
    let head = Message::new(kind::HELLO).u64(0x5452_494e_4500_6374).u32(limits::PROTOCOL).u32(role);
    head.u64(0).u64(0).u64(now_ns()).bytes()
}

pub fn open_session(shape: SessionShape, identity: [u64; 4]) -> Vec<u8> {
    let [session, credential, credential_2, published] = identity;
    let head = Message::new(kind::OPEN_SESSION).u64(session).u64(credential).u64(credential_2).u64(published);
    let known_to_all = u64::MAX;
    let sizes = head.u64(known_to_all).u32(shape.slots).u32(shape.reply_capacity);
    sizes.u64(shape.request_arena).u64(shape.reply_arena).bytes()
}

pub fn open_route(route: u32, service: &str, operation: &str) -> Vec<u8> {
    Message::new(kind::OPEN_ROUTE).u32(route).u32(0).name(service).name(operation).bytes()
}

pub fn open_worker(slots: u32, identity: [u64; 4]) -> Vec<u8> {
    let [worker, credential, credential_2, taken] = identity;
    let head = Message::new(kind::OPEN_WORKER).u64(worker).u64(credential).u64(credential_2);
    head.u64(taken).u32(slots).u32(0).bytes()
}

pub fn provide(service: &str, operation: &str) -> Vec<u8> {
    Message::new(kind::PROVIDE).u16(0).u16(1).u32(0).name(service).name(operation).bytes()
}

/// `index` and a second word: SessionMapped, SessionUnmapped.
pub fn about_session(kind: u32, index: u16, word: u16) -> Vec<u8> {
    Message::new(kind).u16(index).u16(word).u32(0).bytes()
}

/// A control socket.
pub struct Wire(OwnedFd);

impl Wire {
    pub fn connect(bus: &Bus) -> Option<Wire> {
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).ok()?;
        connect(socket.as_raw_fd(), &UnixAddr::new(bus.socket()).ok()?).ok()?;
        Some(Wire(socket))
    }

    /// Connected, and past Hello.
    pub fn greeted(bus: &Bus, role: u32) -> Option<Wire> {
        let wire = Wire::connect(bus)?;
        wire.send(&hello(role), &[]);
        wire.hear(kind::WELCOME).map(|_| wire)
    }

    /// Returns whether there was room, and somebody.
    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd]) -> bool {
        let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control = if raw.is_empty() { &[][..] } else { &rights };
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        sendmsg::<UnixAddr>(self.0.as_raw_fd(), &[IoSlice::new(bytes)], control, flags, None).is_ok()
    }

    /// Whether the director has ended it, or does soon.
    pub fn is_ended(&self, within: Duration) -> bool {
        let mut fds = [nix::poll::PollFd::new(self.0.as_fd(), nix::poll::PollFlags::empty())];
        let timeout = nix::poll::PollTimeout::try_from(within).expect("not so long");
        let _ = nix::poll::poll(&mut fds, timeout);
        let flags = fds[0].revents().unwrap_or(nix::poll::PollFlags::empty());
        flags.intersects(nix::poll::PollFlags::POLLHUP | nix::poll::PollFlags::POLLERR)
    }

    /// The next message, if one comes soon; `None` at the end.
    pub fn receive(&self, within: Duration) -> Option<(Vec<u8>, Vec<OwnedFd>)> {
        let mut fds = [nix::poll::PollFd::new(self.0.as_fd(), nix::poll::PollFlags::POLLIN)];
        let timeout = nix::poll::PollTimeout::try_from(within).expect("not so long");
        if nix::poll::poll(&mut fds, timeout).ok()? == 0 {
            return None;
        }
        let (mut buffer, mut space) = ([0; 8192], nix::cmsg_space!([RawFd; 8]));
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
        let got = recvmsg::<UnixAddr>(self.0.as_raw_fd(), &mut parts, Some(&mut space), flags).ok()?;
        let mut fds = Vec::new();
        for part in got.cmsgs().ok()? {
            if let ControlMessageOwned::ScmRights(raw) = part {
                // SAFETY: the kernel has just made these descriptors for this process, and nobody else knows them.
                fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
        let len = got.bytes;
        (len > 0).then(|| (buffer[..len].to_vec(), fds))
    }

    /// Waits for a message of a kind, over others; `None` at the end.
    pub fn hear(&self, kind: u32) -> Option<(Vec<u8>, Vec<OwnedFd>)> {
        loop {
            let (bytes, fds) = self.receive(Duration::from_secs(10))?;
            if bytes.first_chunk() == Some(&kind.to_ne_bytes()) {
                return Some((bytes, fds));
            }
        }
    }
}

/// Words of a shared mapping: for the library's own rings, and for any store anywhere.
pub struct Words {
    map: MmapRaw,
}

impl Words {
    pub fn of(fd: &OwnedFd, bytes: u64) -> Option<Words> {
        Some(Words { map: MmapOptions::new().len(bytes as usize).map_raw(fd).ok()? })
    }

    pub fn read_only(fd: &OwnedFd, bytes: u64) -> Option<Words> {
        Some(Words { map: MmapOptions::new().len(bytes as usize).map_raw_read_only(fd).ok()? })
    }

    pub fn len(&self) -> usize {
        self.map.len() / 8
    }

    fn word(&self, at: usize) -> Option<&AtomicU64> {
        // SAFETY: within the mapping, which is page-aligned and lives as long as `self`; its words are accessed as
        // atomics only. (A read-only one is stored to by nobody: `store` is not called on it.)
        (at < self.len()).then(|| unsafe { AtomicU64::from_ptr(self.map.as_mut_ptr().cast::<u64>().add(at)) })
    }
}

impl Read for Words {
    fn load(&self, word: usize) -> u64 {
        self.word(word).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    fn acquire(&self) {
        fence(Ordering::Acquire);
    }
}

impl Write for Words {
    fn store(&self, word: usize, value: u64) {
        if let Some(word) = self.word(word) {
            word.store(value, Ordering::Relaxed);
        }
    }

    fn release(&self) {
        fence(Ordering::Release);
    }

    fn full(&self) {
        fence(Ordering::SeqCst);
    }
}

pub const SIZE_SEALS: i32 = 0x7;
pub const WRITER_SEALS: i32 = 0x17;

/// A memfd of so many bytes, the first of them written, mapped and sealed.
pub fn segment(bytes: u64, written: u64, seals: i32) -> Option<(Words, OwnedFd)> {
    let fd = memfd_create("trine hostile", MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_CLOEXEC).ok()?;
    nix::unistd::ftruncate(&fd, bytes as i64).ok()?;
    let zeros = vec![0; written as usize];
    nix::sys::uio::pwrite(&fd, &zeros, 0).ok()?;
    let words = Words::of(&fd, bytes)?;
    fcntl(&fd, FcntlArg::F_ADD_SEALS(SealFlag::from_bits_retain(seals))).ok()?;
    Some((words, fd))
}

pub fn bell(flags: EfdFlags) -> OwnedFd {
    EventFd::from_flags(flags).expect("an eventfd").into()
}

/// A doorbell as it should be, and what keeps it one.
pub struct Bell {
    ring: OwnedFd,
    /// A socket's other end.
    _mailbox: Option<OwnedFd>,
}

impl Bell {
    /// Fills it.
    pub fn fill(&self) {
        // Of these calls one works: the other is for the other kind.
        let _ = nix::unistd::write(&self.ring, &(u64::MAX - 1).to_ne_bytes());
        while send(self.ring.as_raw_fd(), &[1], MsgFlags::MSG_DONTWAIT).is_ok() {}
    }
}

impl From<OwnedFd> for Bell {
    fn from(ring: OwnedFd) -> Bell {
        Bell { ring, _mailbox: None }
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

/// A counter; of another user than the director a mailbox, which is all that it takes then.
pub fn good_bell() -> Bell {
    if nix::unistd::geteuid().is_root() {
        return bell(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC).into();
    }
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (ring, mailbox) = socketpair(AddressFamily::Unix, SockType::Datagram, None, flags).expect("a pair");
    Bell { ring, _mailbox: Some(mailbox) }
}

/// A session, opened as it should be, with routes 0 to `work.mix` and 1 to `evil.do`.
pub struct Session {
    pub wire: Wire,
    pub outbox: Words,
    pub inbox: Words,
    pub inbox_fd: OwnedFd,
    pub director: OwnedFd,
    /// Its own doorbell lives as long as it.
    _own: Bell,
}

pub const SHAPE: SessionShape =
    SessionShape { slots: 8, reply_capacity: 64, request_arena: 4096, reply_arena: 4096 };

/// Outbox and inbox as they should be.
pub fn boxes(shape: SessionShape) -> Option<[(Words, OwnedFd); 2]> {
    let (out, at) = (shape.outbox(), shape.inbox());
    let (out_bytes, in_bytes) = (out.words as u64 * 8, at.words as u64 * 8);
    Some([
        segment(out_bytes + out.arena_bytes, out_bytes, WRITER_SEALS)?,
        segment(in_bytes + at.arena_bytes, in_bytes, SIZE_SEALS)?,
    ])
}

impl Session {
    pub fn open(bus: &Bus) -> Option<Session> {
        Session::open_with(bus, good_bell())
    }

    pub fn open_with(bus: &Bus, own: Bell) -> Option<Session> {
        let wire = Wire::greeted(bus, CLIENT)?;
        let [(outbox, outbox_fd), (inbox, inbox_fd)] = boxes(SHAPE)?;
        wire.send(&open_session(SHAPE, [0; 4]), &[outbox_fd.as_fd(), inbox_fd.as_fd(), own.as_fd()]);
        let (_, mut fds) = wire.hear(kind::SESSION_OPENED)?;
        let director = fds.pop()?;
        for (number, (service, operation)) in [("work", "mix"), ("evil", "do")].into_iter().enumerate() {
            wire.send(&open_route(number as u32, service, operation), &[]);
            wire.hear(kind::ROUTE_OPENED)?;
        }
        Some(Session { wire, outbox, inbox, inbox_fd, director, _own: own })
    }

    pub fn ring(&self) {
        let _ = nix::unistd::write(&self.director, &1u64.to_ne_bytes());
    }
}

/// A worker, opened as it should be, that provides `evil.do`.
pub struct RawWorker {
    pub wire: Wire,
    pub page: Words,
    pub work: Words,
    pub director: OwnedFd,
    /// The client's memory that it was given: index, id, outbox, inbox.
    pub sessions: Vec<(u16, u64, SessionShape, Words, Words)>,
    _own: Bell,
}

pub const WORK: WorkShape = WorkShape { slots: 16 };

impl RawWorker {
    pub fn open(bus: &Bus) -> Option<RawWorker> {
        let wire = Wire::greeted(bus, WORKER)?;
        let bytes = WORK.progress().words as u64 * 8;
        let (page, fd) = segment(bytes, bytes, WRITER_SEALS)?;
        let own = good_bell();
        wire.send(&open_worker(WORK.slots, [0; 4]), &[fd.as_fd(), own.as_fd()]);
        let (_, mut fds) = wire.hear(kind::WORKER_OPENED)?;
        let (director, work) = (fds.pop()?, fds.pop()?);
        let work = Words::read_only(&work, WORK.work().words as u64 * 8)?;
        wire.send(&provide("evil", "do"), &[]);
        Some(RawWorker { wire, page, work, director, sessions: Vec::new(), _own: own })
    }

    /// Maps what it is given, and says so.
    pub fn listen(&mut self, within: Duration) {
        let mut within = within;
        while let Some((bytes, fds)) = self.wire.receive(within) {
            within = Duration::ZERO;
            let number = |at: usize| u64::from_ne_bytes(*bytes[at..].first_chunk().expect("8 bytes"));
            let of_kind = |kind: u32| bytes.first_chunk() == Some(&kind.to_ne_bytes());
            if of_kind(kind::MAP_SESSION) && bytes.len() >= 64 && fds.len() == 3 {
                let (index, sizes) = (number(8) as u16, number(24));
                let (slots, reply_capacity) = (sizes as u32, (sizes >> 32) as u32);
                let shape = SessionShape {
                    slots,
                    reply_capacity,
                    request_arena: number(32),
                    reply_arena: number(40),
                };
                let (out, at) = (shape.outbox(), shape.inbox());
                let outbox = Words::read_only(&fds[0], out.words as u64 * 8 + out.arena_bytes);
                let inbox = Words::of(&fds[1], at.words as u64 * 8 + at.arena_bytes);
                if let (Some(outbox), Some(inbox)) = (outbox, inbox) {
                    self.sessions.push((index, number(16), shape, outbox, inbox));
                }
                self.wire.send(&about_session(kind::SESSION_MAPPED, index, 1), &[]);
            } else if of_kind(kind::UNMAP_SESSION) {
                let index = number(8) as u16;
                self.sessions.retain(|s| s.0 != index);
                self.wire.send(&about_session(kind::SESSION_UNMAPPED, index, 0), &[]);
            }
        }
    }
}
