//! Who a peer is, and whether it still lives, as the kernel says.
//!
//! A pid alone names nobody: it is used again. A pidfd names one process for ever, but only in the process that
//! holds it. For a director that comes later, a process is written down as (pid, start time, inode of its pidfd):
//! the last is unique in a boot where the kernel (6.9) numbers pidfds, and one constant for all before that.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};
use nix::sys::stat::fstat;

use crate::error::Error;
use crate::identity::Identity;

/// A process that a socket leads to.
#[derive(Debug)]
pub struct Process {
    /// Who it runs as.
    pub identity: Identity,
    /// Its other groups.
    pub groups: Vec<u32>,
    /// Readable when it is dead. One descriptor for all who watch it.
    pub pidfd: Arc<OwnedFd>,
    /// Which process it is, in this boot.
    pub pidfd_inode: u64,
}

impl Process {
    /// Who connected the other end of this socket (or listened, seen from who connected). Some system calls.
    pub fn of_peer(socket: BorrowedFd<'_>) -> Result<Process, Error> {
        let failed = || Error::system("asking who the peer is");
        let peer = getsockopt(&socket, sockopt::PeerCredentials).map_err(failed())?;
        let pid = peer.pid();
        let pidfd = match getsockopt(&socket, sockopt::PeerPidfd) {
            // Before 6.5. Where the peer is dead, another process may have the pid by now, and is watched in its place.
            Err(Errno::ENOPROTOOPT) => pidfd_open(pid),
            answer => answer,
        }
        .map_err(failed())?;
        let identity = Identity { uid: peer.uid(), gid: peer.gid(), pid };
        let groups = peer_groups(socket).map_err(failed())?;
        let pidfd_inode = inode(&pidfd)?;
        Ok(Process { identity, groups, pidfd: Arc::new(pidfd), pidfd_inode })
    }

    /// When it started, in clock ticks since boot; 0 where that can't be told. Reads a file of the kernel's, which takes
    /// the longer the more threads the process has: to be asked only where it is to be written down.
    pub fn start_time_ticks(&self) -> u64 {
        start_time_ticks(self.identity.pid).filter(|_| !is_dead(self.pidfd.as_fd())).unwrap_or(0)
    }

    /// The process that was written down so, in this boot and pid namespace, if it lives. `None` is certain; an
    /// error is not knowing, as with a pid of 0.
    pub fn find(pid: i32, start_time_ticks: u64, pidfd_inode: u64) -> Result<Option<OwnedFd>, Error> {
        let pidfd = match pidfd_open(pid) {
            Ok(pidfd) => pidfd,
            // No such process; or the number is a mere thread's by now (EINVAL, or ENOENT).
            Err(Errno::ESRCH | Errno::EINVAL | Errno::ENOENT) if pid > 0 => return Ok(None),
            Err(errno) => return Err(Error::system(format!("looking for process {pid}"))(errno)),
        };
        // The start time is of `pidfd`'s process only if that is alive after it was read.
        let started = self::start_time_ticks(pid);
        let same = inode(&pidfd)? == pidfd_inode
            && (start_time_ticks == 0 || started.is_none() || started == Some(start_time_ticks));
        Ok((same && !is_dead(pidfd.as_fd())).then_some(pidfd))
    }
}

/// The user that this process acts as.
pub fn own_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// The user of who connected the other end, or listened there. One system call.
pub fn peer_uid(socket: BorrowedFd<'_>) -> Result<u32, Error> {
    let peer = getsockopt(&socket, sockopt::PeerCredentials);
    Ok(peer.map_err(Error::system("asking who the peer is"))?.uid())
}

/// Supplementary groups that a peer may have and still be told apart from none: as many as a process can have.
const GROUPS_MAX: usize = 65_536;

/// The supplementary groups of who connected the other end, as they were then.
fn peer_groups(socket: BorrowedFd<'_>) -> Result<Vec<u32>, Errno> {
    let mut groups = vec![0u32; 64];
    loop {
        let mut bytes = (groups.len() * size_of::<u32>()) as libc::socklen_t;
        // SAFETY: the pointer leads to `bytes` writable bytes of a live vector of plain integers, the kernel writes no
        // more than that, and both outlive the call.
        let got = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &mut bytes,
            )
        };
        let count = bytes as usize / size_of::<u32>();
        match Errno::result(got) {
            Ok(_) => {
                groups.truncate(count);
                return Ok(groups);
            }
            // There are more, and it says how many.
            Err(Errno::ERANGE) if groups.len() < count && count <= GROUPS_MAX => groups.resize(count, 0),
            // The listener's end of a pair, or a kernel before 4.13.
            Err(Errno::ENODATA | Errno::ENOPROTOOPT) => return Ok(Vec::new()),
            Err(errno) => return Err(errno),
        }
    }
}

/// Whether a pidfd's process is dead. One system call, which does not block.
pub fn is_dead(pidfd: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::new(pidfd, PollFlags::POLLIN)];
    // EINTR can't be: it does not wait.
    poll(&mut polled, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// This boot. It differs after the next one, so what was written down before it means nothing then.
pub fn boot_id() -> Result<[u64; 2], Error> {
    let path = "/proc/sys/kernel/random/boot_id";
    let text = fs::read_to_string(path).map_err(Error::io(format!("reading {path}")))?;
    let hex: String = text.trim().chars().filter(|&c| c != '-').collect();
    let id = u128::from_str_radix(&hex, 16).map_err(|_| Errno::EBADMSG);
    let id = id.map_err(Error::system(format!("reading {path}")))?;
    Ok([(id >> 64) as u64, id as u64])
}

/// This process's pid namespace. Pids mean the same processes only within one.
pub fn pid_namespace_inode() -> Result<u64, Error> {
    let path = "/proc/self/ns/pid";
    Ok(fs::metadata(path).map_err(Error::io(format!("reading {path}")))?.ino())
}

fn inode(pidfd: &OwnedFd) -> Result<u64, Error> {
    Ok(fstat(pidfd).map_err(Error::system("reading a pidfd's inode"))?.st_ino)
}

/// When the process with this pid started; `None` where it can't be told.
fn start_time_ticks(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; the 22nd field is the 20th behind it.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

fn pidfd_open(pid: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: the call takes two integers and touches no memory of this process.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the kernel just made this descriptor (close-on-exec) for this call; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use std::process::Command;

    fn written_down(pid: i32) -> (u64, u64) {
        (start_time_ticks(pid).unwrap(), inode(&pidfd_open(pid).unwrap()).unwrap())
    }

    #[test]
    fn a_peer_is_who_it_is() {
        let (one, _other) = UnixStream::pair().unwrap();
        let peer = Process::of_peer(one.as_fd()).unwrap();
        let (uid, gid) = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
        let pid = std::process::id() as i32;
        assert_eq!(peer.identity, Identity { uid, gid, pid });
        let groups: Vec<u32> = nix::unistd::getgroups().unwrap().iter().map(|g| g.as_raw()).collect();
        assert_eq!(peer.groups, groups);
        assert_eq!((peer.start_time_ticks(), peer.pidfd_inode), written_down(pid));
        assert!(!is_dead(peer.pidfd.as_fd()));
    }

    #[test]
    fn a_process_is_found_while_it_lives() {
        let mut child = Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let pid = child.id() as i32;
        let (start, inode) = written_down(pid);
        let pidfd = Process::find(pid, start, inode).unwrap().expect("it waits for its input");
        assert!(!is_dead(pidfd.as_fd()));
        assert!(Process::find(pid, start + 1, inode).unwrap().is_none(), "another one with this pid");
        assert!(Process::find(pid, start, inode + 1).unwrap().is_none(), "another one with this pid");
        assert!(
            Process::find(pid, 0, inode).unwrap().is_some(),
            "what is not known does not tell them apart"
        );

        child.kill().unwrap();
        poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE).unwrap();
        assert!(is_dead(pidfd.as_fd()), "dead as a zombie already");
        assert!(Process::find(pid, start, inode).unwrap().is_none());
        child.wait().unwrap();
        assert!(is_dead(pidfd.as_fd()));
        assert!(Process::find(pid, start, inode).unwrap().is_none());
        assert!(Process::find(0, start, inode).is_err(), "nobody known is not dead");
    }

    #[test]
    fn boot_and_namespace_have_names() {
        assert_ne!(boot_id().unwrap(), [0, 0]);
        assert_eq!(boot_id().unwrap(), boot_id().unwrap());
        assert_ne!(pid_namespace_inode().unwrap(), 0);
    }
}
