//! What a descriptor of shared memory is, asked of the kernel, before anything of it is mapped.
//!
//! The checks stand in the order in which it is safe to ask: flags and seals are answered by the kernel's own
//! memory, whatever the descriptor is of; a file system of the peer's making (FUSE) is asked nothing, since it might
//! never answer.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, posix_fallocate};
use nix::sys::stat::fstat;
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};

use crate::error::{Error, Fault};

/// Whether closing it can't take long: memory, and counters. Anything else may be a socket that lingers, or lie on a file
/// system of its sender's.
pub fn is_closed_at_once(fd: &OwnedFd) -> bool {
    let is_counter = || {
        let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
        nix::fcntl::readlink(link.as_str()).is_ok_and(|kind| kind == "anon_inode:[eventfd]")
    };
    fcntl(fd, FcntlArg::F_GET_SEALS).is_ok() || is_counter()
}

/// A descriptor that is not what it should be.
pub(super) fn wrong(what: &'static str, why: impl Into<String>) -> Fault {
    Fault::Descriptor { what, why: why.into() }
}

/// The same, where the kernel did not even answer.
pub(super) fn unanswered(what: &'static str, asked: &'static str) -> impl FnOnce(Errno) -> Fault {
    move |errno| wrong(what, format!("{asked}: {errno}"))
}

/// How it was opened: `O_RDONLY`, `O_WRONLY` or `O_RDWR`.
pub(super) fn access(fd: impl AsFd, what: &'static str) -> Result<OFlag, Fault> {
    let flags = fcntl(fd, FcntlArg::F_GETFL).map_err(unanswered(what, "its flags"))?;
    Ok(OFlag::from_bits_truncate(flags) & OFlag::O_ACCMODE)
}

/// That it is on a tmpfs: a hugetlb file passes for one in size and seals, and gives SIGBUS when it is touched.
pub(super) fn check_tmpfs(fd: impl AsFd, what: &'static str) -> Result<(), Fault> {
    let kind = fstatfs(fd).map_err(unanswered(what, "its file system"))?.filesystem_type();
    if kind != TMPFS_MAGIC {
        return Err(wrong(what, format!("on a file system of kind {:#x}, not tmpfs", kind.0)));
    }
    Ok(())
}

/// That it has this size exactly.
pub(super) fn check_size(fd: impl AsFd, what: &'static str, bytes: u64) -> Result<(), Fault> {
    let size = fstat(fd).map_err(unanswered(what, "its size"))?.st_size;
    if u64::try_from(size) != Ok(bytes) {
        return Err(wrong(what, format!("of {size} bytes, not {bytes}")));
    }
    Ok(())
}

/// Makes sure of room for so many bytes. Through a descriptor, a lack of room is an error; at the first store into a
/// mapping it would be SIGBUS.
pub(super) fn reserve(fd: impl AsFd, bytes: u64, what: &str) -> Result<(), Error> {
    let reserved = i64::try_from(bytes).map_err(|_| Errno::EFBIG).and_then(|len| {
        loop {
            match posix_fallocate(&fd, 0, len) {
                Err(Errno::EINTR) => {} // a signal, of this process's own
                done => break done,
            }
        }
    });
    reserved.map_err(Error::system(format!("allocating {bytes} bytes for a {what}")))
}

/// The same, and the pages are there as data, so that a receiver sees no hole: pages only reserved look like one.
pub(super) fn fill(fd: OwnedFd, bytes: u64, what: &str) -> Result<OwnedFd, Error> {
    const ZEROS: &[u8] = &[0; 64 << 10];
    let file = File::from(fd);
    let mut at = 0;
    while at < bytes {
        let len = (bytes - at).min(ZEROS.len() as u64);
        let wrote = file.write_all_at(&ZEROS[..len as usize], at);
        wrote.map_err(Error::io(format!("allocating {bytes} bytes for a {what}")))?;
        at += len;
    }
    Ok(file.into())
}
