//! Ringing a sleeper: a counter or, where not all are of one user, a mailbox.
//!
//! ```text
//! eventfd    one descriptor for all; never read: the sleeper's epoll is edge-triggered
//! datagrams  ringers ──► send without waiting ──► the sleeper drains them wholly, and then looks
//! ```
//! An eventfd costs its sleeper no system call, and only grows; full (after 2^64 rings) it has been rung, which is all
//! that it has to say. But whoever holds it can fill it, and make it block: the flag is the file's, not the descriptor's.
//! Whoever rings it then hangs. (`pwritev2` with `RWF_NOWAIT` would say for itself that it doesn't wait, but the kernel has
//! no such write for eventfds.) So it is for processes of one user only, who could stop each other anyway. Elsewhere a
//! bell is a pair of datagram sockets: each send says for itself that it doesn't wait, and a mailbox that is full has been
//! rung. Its ringers can send it elsewhere, or shut it; then the sleeper misses rings, and looks by itself within a second:
//! they are those that may spoil its memory too.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, getpeername, getsockopt, recv, send, socketpair,
    sockopt,
};

use super::descriptor::{unanswered, wrong};
use crate::error::{Error, Fault};

const WHAT: &str = "doorbell";
/// Rings drained at a time: more than a mailbox holds.
const DRAIN_MAX: usize = 4096;

/// Who can ring a bell, or hold a descriptor of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Among {
    /// Processes of one user.
    OneUser,
    /// Of several.
    Several,
}

impl Among {
    /// What these users are.
    pub fn users(uids: &[u32]) -> Among {
        if uids.windows(2).all(|pair| pair[0] == pair[1]) { Among::OneUser } else { Among::Several }
    }
}

/// One doorbell: its sleeper and its ringers each hold a descriptor of it.
#[derive(Debug)]
pub struct Doorbell {
    /// What is rung, and passed on.
    ring: OwnedFd,
    /// What the sleeper of a mailbox reads; `None` for a counter, and at its ringers.
    mailbox: Option<OwnedFd>,
    is_counter: bool,
}

impl Doorbell {
    /// Makes one for processes of one user, for its sleeper.
    pub fn new() -> Result<Doorbell, Error> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let made = EventFd::from_value_and_flags(0, flags).map_err(Error::system("making a doorbell"))?;
        Ok(Doorbell { ring: made.into(), mailbox: None, is_counter: true })
    }

    /// Makes one that these may hold.
    pub fn among(among: Among) -> Result<Doorbell, Error> {
        if among == Among::OneUser {
            return Doorbell::new();
        }
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (ring, mailbox) = socketpair(AddressFamily::Unix, SockType::Datagram, None, flags)
            .map_err(Error::system("making a doorbell"))?;
        Ok(Doorbell { ring, mailbox: Some(mailbox), is_counter: false })
    }

    /// Takes a peer's, if it is one that may be used among these. An eventfd that blocks would hold its ringer up once it
    /// is full; among several users any of them could make it so at any time.
    pub fn from_fd(fd: OwnedFd, among: Among) -> Result<Doorbell, Fault> {
        let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let kind = nix::fcntl::readlink(link.as_str()).map_err(unanswered(WHAT, "its kind"))?;
        if kind.to_string_lossy().starts_with("socket:") {
            return Doorbell::of_socket(fd);
        }
        if kind != "anon_inode:[eventfd]" {
            return Err(wrong(WHAT, format!("{kind:?}, neither an eventfd nor a socket")));
        }
        if among == Among::Several {
            return Err(wrong(WHAT, "an eventfd, which another user could make block"));
        }
        let flags = fcntl(&fd, FcntlArg::F_GETFL).map_err(unanswered(WHAT, "its flags"))?;
        if !OFlag::from_bits_truncate(flags).contains(OFlag::O_NONBLOCK) {
            return Err(wrong(WHAT, "an eventfd that blocks"));
        }
        Ok(Doorbell { ring: fd, mailbox: None, is_counter: true })
    }

    /// A socket that leads to nobody but a nameless one: what is sent there says nothing to anybody else.
    fn of_socket(fd: OwnedFd) -> Result<Doorbell, Fault> {
        let kind = getsockopt(&fd, sockopt::SockType).map_err(unanswered(WHAT, "its kind"))?;
        if kind != SockType::Datagram {
            return Err(wrong(WHAT, format!("a socket, but of {kind:?}")));
        }
        let peer = getpeername::<UnixAddr>(fd.as_raw_fd()).map_err(unanswered(WHAT, "where it leads"))?;
        if peer.path().is_some() || peer.as_abstract().is_some() {
            return Err(wrong(WHAT, "a socket that leads to somebody with a name"));
        }
        Ok(Doorbell { ring: fd, mailbox: None, is_counter: false })
    }

    /// Rings. Never blocks, whatever others do with it; one system call.
    pub fn ring(&self) {
        // EAGAIN: it is full, so it has been rung. Nothing else can go wrong that its ringer could mend: a sleeper
        // looks by itself now and then.
        if self.is_counter {
            let _ = nix::unistd::write(&self.ring, &1u64.to_ne_bytes());
        } else {
            let _ = send(self.ring.as_raw_fd(), &[1], MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
        }
    }

    /// Takes the rings that have come: to be done by its sleeper, awake, before it looks at what they were for. No
    /// system call for an eventfd.
    #[inline]
    pub fn drain(&self) {
        let Some(mailbox) = &self.mailbox else { return };
        for _ in 0..DRAIN_MAX {
            // An empty message is the end, too: one of a mailbox that was shut.
            if !recv(mailbox.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT).is_ok_and(|len| len > 0) {
                return;
            }
        }
    }

    /// What its sleeper watches.
    pub fn sleeper(&self) -> BorrowedFd<'_> {
        self.mailbox.as_ref().unwrap_or(&self.ring).as_fd()
    }

    /// A descriptor to pass on.
    pub fn try_clone_fd(&self) -> Result<OwnedFd, Error> {
        self.ring.try_clone().map_err(Error::io("duplicating a doorbell"))
    }
}

impl AsFd for Doorbell {
    /// What is passed on.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

    #[test]
    fn each_ring_wakes_though_nobody_reads() {
        let sleeper = Doorbell::new().unwrap();
        let ringer = Doorbell::from_fd(sleeper.try_clone_fd().unwrap(), Among::OneUser).unwrap();
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        epoll.add(&sleeper, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 7)).unwrap();
        let rung = || epoll.wait(&mut [EpollEvent::empty(); 2], EpollTimeout::ZERO).unwrap();
        assert_eq!(rung(), 0);
        for _ in 0..3 {
            ringer.ring();
            assert_eq!((rung(), rung()), (1, 0));
        }
    }

    #[test]
    fn a_full_one_does_not_block() {
        let bell = Doorbell::new().unwrap();
        nix::unistd::write(&bell.ring, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        bell.ring();
        bell.ring();
    }

    #[test]
    fn other_kinds_are_refused() {
        let (pipe, _writer) = nix::unistd::pipe().unwrap();
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        for fd in [pipe, epoll.0] {
            let fault = Doorbell::from_fd(fd, Among::OneUser).unwrap_err();
            assert!(fault.to_string().contains("neither an eventfd"), "{fault}");
        }
        let refused = |fd: OwnedFd, among, why: &str| {
            let fault = Doorbell::from_fd(fd, among).unwrap_err();
            assert!(fault.to_string().contains(why), "{fault}");
        };
        refused(socket.into(), Among::Several, "but of Stream");
        let blocking = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC).unwrap();
        refused(blocking.into(), Among::OneUser, "blocks");
        refused(Doorbell::new().unwrap().ring, Among::Several, "another user");
        let folder = tempfile::tempdir().unwrap();
        let named = folder.path().join("log");
        let _log = std::os::unix::net::UnixDatagram::bind(&named).unwrap();
        let towards = std::os::unix::net::UnixDatagram::unbound().unwrap();
        refused(towards.try_clone().unwrap().into(), Among::Several, "where it leads");
        towards.connect(&named).unwrap();
        refused(towards.into(), Among::Several, "with a name");
    }

    #[test]
    fn a_mailbox_wakes_its_sleeper_and_blocks_nobody() {
        let sleeper = Doorbell::among(Among::users(&[1, 2])).unwrap();
        let ringer = Doorbell::from_fd(sleeper.try_clone_fd().unwrap(), Among::Several).unwrap();
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        epoll.add(sleeper.sleeper(), EpollEvent::new(flags, 7)).unwrap();
        let rung = || epoll.wait(&mut [EpollEvent::empty(); 2], EpollTimeout::ZERO).unwrap();
        // Somebody makes it block, and fills it.
        fcntl(&ringer.ring, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
        for _ in 0..2 {
            (0..100_000).for_each(|_| ringer.ring());
            assert_eq!(rung(), 1);
            sleeper.drain();
            assert_eq!(rung(), 0);
            ringer.ring();
            assert_eq!((rung(), rung()), (1, 0), "after all that it rings again");
            sleeper.drain();
        }
        // Somebody shuts it: the others are not held up, nor is its sleeper.
        nix::sys::socket::shutdown(ringer.ring.as_raw_fd(), nix::sys::socket::Shutdown::Both).unwrap();
        ringer.ring();
        sleeper.drain();
    }

    #[test]
    fn who_is_of_one_user() {
        assert_eq!(Among::users(&[5, 5, 5]), Among::OneUser);
        assert_eq!(Among::users(&[5, 5, 0]), Among::Several);
        assert_eq!(Among::users(&[0, 5, 5]), Among::Several);
    }
}
