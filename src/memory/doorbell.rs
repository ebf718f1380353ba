//! Ringing a sleeper: an eventfd that is never read.
//!
//! Its counter only grows, and the sleeper's epoll is edge-triggered, so a ring costs the ringer one system call and
//! the sleeper none. A counter that is full (after 2^64 rings) has been rung, which is all that it has to say.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::descriptor::{unanswered, wrong};
use crate::error::{Error, Fault};

const WHAT: &str = "doorbell";

/// One doorbell: its sleeper and its ringers each hold a descriptor of it.
#[derive(Debug)]
pub struct Doorbell(OwnedFd);

impl Doorbell {
    /// Makes one, for its sleeper.
    pub fn new() -> Result<Doorbell, Error> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let made = EventFd::from_value_and_flags(0, flags).map_err(Error::system("making a doorbell"))?;
        Ok(Doorbell(made.into()))
    }

    /// Takes a peer's, if it is one. An eventfd that blocks would hold its ringer up once it is full.
    pub fn from_fd(fd: OwnedFd) -> Result<Doorbell, Fault> {
        let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let kind = nix::fcntl::readlink(link.as_str()).map_err(unanswered(WHAT, "its kind"))?;
        if kind != "anon_inode:[eventfd]" {
            return Err(wrong(WHAT, format!("{kind:?}, not an eventfd")));
        }
        let flags = fcntl(&fd, FcntlArg::F_GETFL).map_err(unanswered(WHAT, "its flags"))?;
        if !OFlag::from_bits_truncate(flags).contains(OFlag::O_NONBLOCK) {
            return Err(wrong(WHAT, "an eventfd that blocks"));
        }
        Ok(Doorbell(fd))
    }

    /// Rings. Never blocks; one system call.
    pub fn ring(&self) {
        // EAGAIN: it is full, so it has been rung. Nothing else can go wrong that its ringer could mend: a sleeper
        // looks by itself now and then.
        let _ = nix::unistd::write(&self.0, &1u64.to_ne_bytes());
    }

    /// A descriptor to pass on.
    pub fn try_clone_fd(&self) -> Result<OwnedFd, Error> {
        self.0.try_clone().map_err(Error::io("duplicating a doorbell"))
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

    #[test]
    fn each_ring_wakes_though_nobody_reads() {
        let sleeper = Doorbell::new().unwrap();
        let ringer = Doorbell::from_fd(sleeper.try_clone_fd().unwrap()).unwrap();
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
        nix::unistd::write(&bell, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        bell.ring();
        bell.ring();
    }

    #[test]
    fn other_kinds_are_refused() {
        let (pipe, _writer) = nix::unistd::pipe().unwrap();
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        for fd in [pipe, socket.into(), epoll.0] {
            let fault = Doorbell::from_fd(fd).unwrap_err();
            assert!(fault.to_string().contains("not an eventfd"), "{fault}");
        }
        let blocking = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC).unwrap();
        let fault = Doorbell::from_fd(blocking.into()).unwrap_err();
        assert!(fault.to_string().contains("blocks"), "{fault}");
    }
}
