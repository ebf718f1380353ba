//! Sealed memfds: memory that its creator owns and presents to others.
//!
//! ```text
//! creator                                            receiver
//! memfd, size, zeros where the rings will be
//! map ── then seal ── pass the descriptor ─────────► check seals, size, tmpfs, rings are there ── map
//! ```
//! Sealed against shrinking, it can't give a receiver SIGBUS. Sealed against FUTURE_WRITE *after* its creator has
//! mapped it, nobody else can ever write it: not by mapping, not by `write`, not by opening it anew through /proc,
//! which is what a read-only descriptor alone would allow.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl};
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::fstat;
use nix::unistd::{Whence, ftruncate, lseek};

use super::descriptor::{access, check_size, check_tmpfs, fill, unanswered, wrong};
use super::map::{Mapping, Ro, Rw};
use crate::error::{Error, Fault};

/// Who may write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Its creator only: outbox and progress page.
    WriterOnly,
    /// Whoever has the descriptor: the inbox.
    ReadWrite,
}

impl Kind {
    fn seals(self) -> SealFlag {
        let size = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        match self {
            Kind::WriterOnly => size | SealFlag::F_SEAL_FUTURE_WRITE,
            Kind::ReadWrite => size,
        }
    }
}

/// Creates a segment of `bytes`, and maps it. Its first `populate_bytes` are its words, and are allocated now; the
/// rest is its arena, and costs memory when it is first written. Some system calls.
pub fn create(name: &str, bytes: u64, populate_bytes: u64, kind: Kind) -> Result<(Rw, OwnedFd), Error> {
    let fd = memfd(name).map_err(Error::system(format!("creating the {name}")))?;
    let size = i64::try_from(bytes).map_err(|_| Errno::EFBIG).and_then(|size| ftruncate(&fd, size));
    size.map_err(Error::system(format!("making the {name} {bytes} bytes long")))?;
    let fd = fill(fd, populate_bytes.min(bytes), name)?;
    let mapping = Mapping::read_write(&fd, bytes as usize)?;
    fcntl(&fd, FcntlArg::F_ADD_SEALS(kind.seals())).map_err(Error::system(format!("sealing the {name}")))?;
    let words = (populate_bytes / 8) as usize;
    let memory = match kind {
        // SAFETY: sealed against future writes, so this mapping is the last through which it can be written; the
        // descriptor was nobody else's before, and there is no other mapping of it.
        Kind::WriterOnly => unsafe { Rw::own(mapping, words) },
        Kind::ReadWrite => Rw::new(mapping, words),
    }?;
    Ok((memory, fd))
}

/// A memfd that can be sealed, and not executed where the kernel (6.3) knows that.
fn memfd(name: &str) -> Result<OwnedFd, Errno> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    match memfd_create(name, flags | MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL)) {
        Err(Errno::EINVAL) => memfd_create(name, flags),
        made => made,
    }
}

/// That a peer's descriptor is a segment as [`create`] makes them, before it is mapped.
pub fn check(
    fd: &OwnedFd,
    what: &'static str,
    bytes: u64,
    populated_bytes: u64,
    kind: Kind,
) -> Result<(), Fault> {
    match (access(fd, what)?, kind) {
        (OFlag::O_RDWR, _) | (OFlag::O_RDONLY, Kind::WriterOnly) => {}
        (mode, _) => return Err(wrong(what, format!("opened in mode {:#x}", mode.bits()))),
    }
    let seals = fcntl(fd, FcntlArg::F_GET_SEALS).map_err(unanswered(what, "its seals"))?;
    let expected = kind.seals().bits();
    if seals & !libc::F_SEAL_EXEC != expected {
        return Err(wrong(what, format!("its seals are {seals:#x}, not {expected:#x}")));
    }
    check_tmpfs(fd, what)?;
    check_size(fd, what, bytes)?;
    let hole = lseek(fd, 0, Whence::SeekHole).map_err(unanswered(what, "its first hole"))?;
    if u64::try_from(hole).unwrap_or(0) < populated_bytes {
        return Err(wrong(what, format!("{hole} bytes are allocated, not {populated_bytes}")));
    }
    Ok(())
}

/// Which file it is: no other has the number while this one is open anywhere.
pub fn inode(fd: &OwnedFd) -> Result<u64, Error> {
    Ok(fstat(fd).map_err(Error::system("reading a segment's inode"))?.st_ino)
}

/// Maps the first `bytes` of a checked segment to read; the first `words` of them are its words.
pub fn map_ro(fd: &OwnedFd, bytes: u64, words: usize) -> Result<Ro, Error> {
    Ro::new(Mapping::read_only(fd, bytes as usize)?, words)
}

/// The same, to read and write.
pub fn map_rw(fd: &OwnedFd, bytes: u64, words: usize) -> Result<Rw, Error> {
    Rw::new(Mapping::read_write(fd, bytes as usize)?, words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{Read, Write};
    use std::fs::{File, OpenOptions};
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::OpenOptionsExt;

    const BYTES: u64 = 64 << 10;
    const RINGS: u64 = 8 << 10;

    fn refused(fd: impl Into<OwnedFd>, kind: Kind, why: &str) {
        let fault = check(&fd.into(), "outbox", BYTES, RINGS, kind).unwrap_err();
        assert!(fault.to_string().contains(why), "{fault}, not {why}");
    }

    fn reopened(fd: &OwnedFd, write: bool) -> std::io::Result<File> {
        OpenOptions::new().read(true).write(write).open(format!("/proc/self/fd/{}", fd.as_raw_fd()))
    }

    #[test]
    fn what_is_created_is_accepted_and_shared() {
        for kind in [Kind::WriterOnly, Kind::ReadWrite] {
            let (own, fd) = create("test", BYTES, RINGS, kind).unwrap();
            check(&fd, "test", BYTES, RINGS, kind).unwrap();
            check(&reopened(&fd, true).unwrap().into(), "test", BYTES, RINGS, kind).unwrap();
            let rings = map_ro(&fd, RINGS, RINGS as usize / 8).unwrap();
            let all = map_ro(&fd, BYTES, RINGS as usize / 8).unwrap();
            assert_eq!((rings.words(), rings.arena_len()), (1024, 0));
            assert_eq!((all.words(), all.arena_len()), (1024, BYTES - RINGS));
            own.store(1023, 5);
            own.store(1024, 6);
            assert_eq!((rings.load(1023), all.load(1023), own.load(1023)), (5, 5, 5));
            assert_eq!((rings.load(1024), all.load(1024), own.load(1024)), (0, 0, 0));
            let mut arena = [9; 8];
            all.read(0, &mut arena).unwrap();
            assert_eq!(arena, [0; 8], "a store beyond the words is not one into the arena");
        }
    }

    #[test]
    fn a_writer_only_segment_has_one_writer() {
        let (own, fd) = create("outbox", BYTES, RINGS, Kind::WriterOnly).unwrap();
        let anew: OwnedFd = reopened(&fd, true).unwrap().into();
        for fd in [&fd, &anew] {
            assert!(map_rw(fd, BYTES, 1).is_err());
            assert_eq!(nix::unistd::write(fd, &[1]), Err(Errno::EPERM));
            assert_eq!(ftruncate(fd, 0), Err(Errno::EPERM));
            assert_eq!(ftruncate(fd, BYTES as i64 * 2), Err(Errno::EPERM));
            assert!(fcntl(fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)).is_err());
            let punch = nix::fcntl::FallocateFlags::FALLOC_FL_PUNCH_HOLE
                | nix::fcntl::FallocateFlags::FALLOC_FL_KEEP_SIZE;
            assert_eq!(nix::fcntl::fallocate(fd, punch, 0, BYTES as i64), Err(Errno::EPERM));
        }
        own.store(0, 1);
        assert_eq!(map_ro(&reopened(&fd, false).unwrap().into(), BYTES, 1).unwrap().load(0), 1);
    }

    #[test]
    fn a_shared_segment_is_written_by_who_has_it() {
        let (own, fd) = create("inbox", BYTES, RINGS, Kind::ReadWrite).unwrap();
        let other = map_rw(&fd, BYTES, RINGS as usize / 8).unwrap();
        other.store(3, 7);
        other.write(1, b"reply").unwrap();
        let mut reply = [0; 5];
        own.read(1, &mut reply).unwrap();
        assert_eq!((own.load(3), &reply), (7, b"reply"));
        refused(reopened(&fd, false).unwrap(), Kind::ReadWrite, "opened in mode 0x0");
    }

    #[test]
    fn wrong_seals_are_refused() {
        let inbox = create("inbox", BYTES, RINGS, Kind::ReadWrite).unwrap().1;
        refused(inbox, Kind::WriterOnly, "seals");
        let outbox = create("outbox", BYTES, RINGS, Kind::WriterOnly).unwrap().1;
        refused(outbox, Kind::ReadWrite, "seals");
        let unsealed = memfd("unsealed").unwrap();
        ftruncate(&unsealed, BYTES as i64).unwrap();
        refused(fill(unsealed, RINGS, "unsealed").unwrap(), Kind::ReadWrite, "seals");
        refused(tempfile::tempfile().unwrap(), Kind::ReadWrite, "seals");
        let (pipe, _writer) = nix::unistd::pipe().unwrap();
        refused(pipe, Kind::WriterOnly, "seals");
        let outbox = create("outbox", BYTES, RINGS, Kind::WriterOnly).unwrap().1;
        let path = format!("/proc/self/fd/{}", outbox.as_raw_fd());
        let path_only = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path).unwrap();
        refused(path_only, Kind::WriterOnly, "its seals: EBADF");
    }

    fn sealed_by_hand(fd: OwnedFd, bytes: u64, populate_bytes: u64) -> OwnedFd {
        ftruncate(&fd, bytes as i64).unwrap();
        let fd = fill(fd, populate_bytes, "test").unwrap();
        fcntl(&fd, FcntlArg::F_ADD_SEALS(Kind::WriterOnly.seals())).unwrap();
        fd
    }

    #[test]
    fn wrong_sizes_and_holes_are_refused() {
        for bytes in [BYTES - 1, BYTES + 1, 4 * BYTES] {
            refused(
                sealed_by_hand(memfd("size").unwrap(), bytes, RINGS),
                Kind::WriterOnly,
                "bytes, not 65536",
            );
        }
        for there in [0, RINGS - 4096] {
            refused(
                sealed_by_hand(memfd("hole").unwrap(), BYTES, there),
                Kind::WriterOnly,
                "allocated, not 8192",
            );
        }
        // A hole in the beginning, and pages that were only reserved.
        let fd = memfd("beginning").unwrap();
        ftruncate(&fd, BYTES as i64).unwrap();
        nix::unistd::lseek(&fd, 4096, Whence::SeekSet).unwrap();
        nix::unistd::write(&fd, &[0; 4096]).unwrap();
        refused(sealed_by_hand(fd, BYTES, 0), Kind::WriterOnly, "0 bytes are allocated");
        let fd = memfd("reserved").unwrap();
        ftruncate(&fd, BYTES as i64).unwrap();
        crate::memory::descriptor::reserve(&fd, RINGS, "test").unwrap();
        refused(sealed_by_hand(fd, BYTES, 0), Kind::WriterOnly, "0 bytes are allocated");
    }

    #[test]
    fn huge_pages_are_refused() {
        // Creating one needs no huge page to be there; a kernel without them can't be deceived with one either.
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_HUGETLB;
        let Ok(fd) = memfd_create("huge", flags) else { return };
        let bytes = 2 << 20;
        ftruncate(&fd, bytes).unwrap();
        fcntl(&fd, FcntlArg::F_ADD_SEALS(Kind::WriterOnly.seals())).unwrap();
        let fault = check(&fd, "outbox", bytes as u64, 0, Kind::WriterOnly).unwrap_err();
        assert!(fault.to_string().contains("not tmpfs"), "{fault}");
    }

    #[test]
    fn its_creator_is_told_what_went_wrong() {
        let error = create("test", u64::MAX, 0, Kind::ReadWrite).unwrap_err();
        assert!(error.to_string().contains("making the test"), "{error}");
    }
}
