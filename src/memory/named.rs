//! Named segments: memory of the director's that outlives it, for the next one to find.
//!
//! ```text
//! runtime folder: workers/7  ── holds the name ──►  /dev/shm/trine-BUS-RANDOM   0600
//!                 (a link, renamed into place: old or new, never half)
//! ```
//! They are the `shared_memory` crate's, which has its ways: an owner unlinks when it drops or panics, so nobody is
//! one here; it does not allocate, so that is done through another descriptor before the first store (a full
//! /dev/shm is an error then, not SIGBUS); its link is written in place, so it is made beside and renamed; it waits
//! where a link leads nowhere, so the name is read here. Nothing is removed on drop: only by [`Named::unlink`],
//! [`Earlier::unlink`], [`remove_link_and_segment`] and [`sweep`].

use std::fs::{self, File, Permissions};
use std::io::{self, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::mman::{shm_open, shm_unlink};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::geteuid;
use shared_memory::{Shmem, ShmemConf, ShmemError};

use super::descriptor::{access, check_size, check_tmpfs, reserve, wrong};
use super::map::{Mapping, Ro, Rw};
use crate::error::{Error, Fault};

/// Where the C library keeps them.
const FOLDER: &str = "/dev/shm";
/// What the segments are called in errors.
const WHAT: &str = "named segment";
/// A link's file name ends so until it is complete.
const UNFINISHED: &str = ".new";

/// A segment that this process has created, and its link.
#[derive(Debug)]
pub struct Named {
    memory: Rw,
    name: Name,
    link: PathBuf,
}

/// A segment that an earlier process created.
#[derive(Debug)]
pub struct Earlier {
    memory: Ro,
    name: Name,
}

/// A segment's name, and which file it is.
#[derive(Debug)]
struct Name {
    name: String,
    file: (u64, u64),
}

impl Named {
    /// Creates a segment of so many words, all allocated, and links it from `link`, in place of what was linked
    /// there, once `fill` has written what must be in it by then. `prefix` says whose it is: see [`sweep`]. Some
    /// system calls.
    pub fn create(link: &Path, prefix: &str, words: usize, fill: impl FnOnce(&Rw)) -> Result<Named, Error> {
        let unfinished = unfinished(link);
        remove(&unfinished)?;
        let segment = create_segment(&unfinished, prefix, words * 8)?;
        let name = segment.get_os_id().to_owned();
        Named::finish(segment, link, &unfinished, fill).inspect_err(|_| {
            let _ = fs::remove_file(&unfinished);
            let _ = shm_unlink(name.as_str());
        })
    }

    fn finish(
        segment: Shmem,
        link: &Path,
        unfinished: &Path,
        fill: impl FnOnce(&Rw),
    ) -> Result<Named, Error> {
        let failed = || Error::io(format!("linking {}", link.display()));
        let name = segment.get_os_id().to_owned();
        let fd = open_segment(&name, OFlag::O_RDWR)?;
        reserve(&fd, segment.len() as u64, WHAT)?;
        let words = segment.len() / 8;
        let memory = Rw::new(Mapping::named(segment)?, words)?;
        fill(&memory);
        fs::set_permissions(unfinished, Permissions::from_mode(0o600)).map_err(failed())?;
        fs::rename(unfinished, link).map_err(failed())?;
        Ok(Named { memory, name: Name { file: own_file(&fd)?, name }, link: link.to_owned() })
    }

    /// Its words.
    pub fn mem(&self) -> &Rw {
        &self.memory
    }

    /// A descriptor to give to its reader, which can't write it: if its uid is another, not even by opening it
    /// anew.
    pub fn read_only_fd(&self) -> Result<OwnedFd, Error> {
        self.name.open_read_only()
    }

    /// Removes segment and link. Who has it mapped keeps it.
    pub fn unlink(self) -> Result<(), Error> {
        remove(&self.link)?;
        self.name.unlink()
    }
}

impl Earlier {
    /// Opens what a link names, to read. It is refused where it is not this user's own private file.
    pub fn open(link: &Path) -> Result<Earlier, Error> {
        let name = read_link(link).map_err(Error::io(format!("reading the link {}", link.display())))?;
        let file = own_file(open_segment(&name, OFlag::O_RDONLY)?)?;
        let mut segment = ShmemConf::new().os_id(&name).open().map_err(system("opening", &name))?;
        segment.set_owner(false);
        let words = segment.len() / 8;
        Ok(Earlier { memory: Ro::new(Mapping::named(segment)?, words)?, name: Name { name, file } })
    }

    /// Its words: as many as its creator wanted.
    pub fn mem(&self) -> &Ro {
        &self.memory
    }

    /// Removes the segment; its link, which may lead to a newer one by now, stays.
    pub fn unlink(self) -> Result<(), Error> {
        self.name.unlink()
    }
}

impl Name {
    fn open_read_only(&self) -> Result<OwnedFd, Error> {
        let fd = open_segment(&self.name, OFlag::O_RDONLY)?;
        if own_file(&fd)? != self.file {
            return Err(Error::system(format!("opening {}: it was replaced", self.name))(Errno::ESTALE));
        }
        Ok(fd)
    }

    fn unlink(self) -> Result<(), Error> {
        unlink_segment(&self.name)
    }
}

/// That a descriptor from the director is a named segment of this size, to read only.
pub fn check_read_only(fd: &OwnedFd, what: &'static str, bytes: u64) -> Result<(), Fault> {
    let mode = access(fd, what)?;
    if mode != OFlag::O_RDONLY {
        return Err(wrong(what, format!("opened in mode {:#x}, not read-only", mode.bits())));
    }
    check_tmpfs(fd, what)?;
    check_size(fd, what, bytes)
}

/// Removes a link and the segment that it names, as far as they are there.
pub fn remove_link_and_segment(link: &Path) -> Result<(), Error> {
    match read_link(link) {
        Ok(name) => unlink_segment(&name)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::InvalidData => {} // it names nothing
        Err(e) => return Err(Error::io(format!("reading the link {}", link.display()))(e)),
    }
    remove(link)
}

/// Removes the segments with this prefix that no file in `folders` links, and links that were never finished: what
/// processes left that died between two steps. Returns how many segments that were. To be called by who alone
/// creates segments with this prefix.
pub fn sweep(prefix: &str, folders: &[&Path]) -> Result<usize, Error> {
    let mut linked = Vec::new();
    for folder in folders {
        for link in list(folder)? {
            match link.to_str().is_some_and(|link| link.ends_with(UNFINISHED)) {
                true => remove(&link)?,
                // What can't be read as a link is another kind of file.
                false => linked.extend(read_link(&link)),
            }
        }
    }
    let mut removed = 0;
    let failed = || Error::io(format!("listing {FOLDER}"));
    for segment in fs::read_dir(FOLDER).map_err(failed())? {
        let name = segment.map_err(failed())?.file_name();
        let Some(name) = name.to_str().filter(|name| name.starts_with(prefix)) else { continue };
        let name = format!("/{name}");
        if !linked.contains(&name) {
            // Another user's, of the same name: not ours to remove, and not ours.
            removed += usize::from(unlink_segment(&name).is_ok());
        }
    }
    Ok(removed)
}

/// Creates a segment under a new name, and an unfinished link to it. Nobody owns it.
fn create_segment(unfinished: &Path, prefix: &str, bytes: usize) -> Result<Shmem, Error> {
    let failed = || format!("creating a {WHAT} of {bytes} bytes");
    loop {
        let name = format!("/{prefix}{:016x}", random().map_err(Error::io(failed()))?);
        match ShmemConf::new().os_id(&name).flink(unfinished).size(bytes).create() {
            Ok(mut segment) => {
                segment.set_owner(false);
                return Ok(segment);
            }
            Err(ShmemError::MappingIdExists) => {} // once in 2^64
            Err(e) => return Err(system("creating", &name)(e)),
        }
    }
}

fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

/// The crate's errors, with the system's words where it kept them.
fn system(doing: &'static str, name: &str) -> impl FnOnce(ShmemError) -> Error {
    let what = format!("{doing} the {WHAT} {name}");
    move |e| {
        Error::io(what)(match e {
            ShmemError::MapCreateFailed(n) | ShmemError::MapOpenFailed(n) | ShmemError::UnknownOsError(n) => {
                io::Error::from_raw_os_error(n as i32)
            }
            ShmemError::LinkCreateFailed(e) | ShmemError::LinkWriteFailed(e) => e,
            e => io::Error::other(e.to_string()),
        })
    }
}

fn open_segment(name: &str, access: OFlag) -> Result<OwnedFd, Error> {
    shm_open(name, access | OFlag::O_CLOEXEC, Mode::empty()).map_err(Error::system(format!("opening {name}")))
}

/// Which file it is, if it is this user's and nobody else may open it. Names in /dev/shm are public, and anyone may
/// create one that is free; a file of ours nobody else can replace, since the folder is sticky.
fn own_file(fd: impl AsFd) -> Result<(u64, u64), Error> {
    let stat = fstat(fd).map_err(Error::system(format!("looking at a {WHAT}")))?;
    let private = stat.st_mode & !nix::libc::S_IFMT & 0o077 == 0;
    if stat.st_uid != geteuid().as_raw() || !private {
        return Err(Error::system(format!("looking at a {WHAT}: it is not this user's alone"))(Errno::EPERM));
    }
    Ok((stat.st_dev, stat.st_ino))
}

fn unlink_segment(name: &str) -> Result<(), Error> {
    match shm_unlink(name) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(Error::system(format!("removing {name}"))(errno)),
    }
}

/// What a link says: a name in /dev/shm, or `InvalidData`.
fn read_link(link: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(link)?.take(256).read_to_string(&mut text)?;
    let is_name =
        text.len() < 256 && text.strip_prefix('/').is_some_and(|n| !n.is_empty() && !n.contains('/'));
    if is_name { Ok(text) } else { Err(io::ErrorKind::InvalidData.into()) }
}

fn unfinished(link: &Path) -> PathBuf {
    let mut name = link.as_os_str().to_owned();
    name.push(UNFINISHED);
    name.into()
}

/// Removes a file, if it is there.
fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("removing {}", path.display()))(e))
        }
        _ => Ok(()),
    }
}

/// The regular files of a folder.
fn list(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let read = || -> io::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            // One that is gone by now is none.
            if entry.file_type().is_ok_and(|kind| kind.is_file()) {
                files.push(entry.path());
            }
        }
        Ok(files)
    };
    read().map_err(Error::io(format!("listing {}", folder.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{Read, Write};
    use crate::memory::in_child;
    use crate::memory::sealed;
    use std::os::fd::AsRawFd;

    const WORDS: usize = 1024;

    /// A prefix of this test's own, and a folder for its links.
    fn bus() -> (String, tempfile::TempDir) {
        (format!("trine-test-{:016x}-", random().unwrap()), tempfile::tempdir().unwrap())
    }

    fn segments(prefix: &str) -> Vec<PathBuf> {
        let all = list(Path::new(FOLDER)).unwrap();
        all.into_iter().filter(|p| p.file_name().unwrap().to_str().unwrap().starts_with(prefix)).collect()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_segment_outlives_its_creator() {
        let (prefix, folder) = bus();
        let link = folder.path().join("7");
        let named = Named::create(&link, &prefix, WORDS, |_| {}).unwrap();
        named.mem().store(WORDS - 1, 42);
        assert_eq!((named.mem().words(), named.mem().arena_len()), (WORDS, 0));
        let [segment] = &segments(&prefix)[..] else { panic!("one segment") };
        assert_eq!((mode(&link), mode(segment)), (0o600, 0o600));
        assert!(!unfinished(&link).exists());
        drop(named);

        let earlier = Earlier::open(&link).unwrap();
        assert_eq!((earlier.mem().words(), earlier.mem().load(WORDS - 1)), (WORDS, 42));
        drop(earlier);
        assert!(segment.exists() && link.exists());

        // The next one takes the link over; then the earlier one can go.
        let earlier = Earlier::open(&link).unwrap();
        let next = Named::create(&link, &prefix, 2 * WORDS, |_| {}).unwrap();
        earlier.unlink().unwrap();
        assert!(!segment.exists());
        assert_eq!(Earlier::open(&link).unwrap().mem().words(), 2 * WORDS);
        next.unlink().unwrap();
        assert!(segments(&prefix).is_empty() && !link.exists());
    }

    #[test]
    fn all_of_it_is_allocated() {
        let (prefix, folder) = bus();
        let named = Named::create(&folder.path().join("7"), &prefix, WORDS, |_| {}).unwrap();
        let fd = named.read_only_fd().unwrap();
        assert_eq!(fstat(&fd).unwrap().st_blocks * 512, WORDS as i64 * 8);
        named.unlink().unwrap();
    }

    #[test]
    fn a_full_shm_is_an_error_and_leaves_nothing() {
        let (prefix, folder) = bus();
        let room = nix::sys::statvfs::statvfs(FOLDER).unwrap();
        // More than the file system is long, so nothing need be filled to find out.
        let words = (room.blocks() + 1) * room.fragment_size() / 8;
        let error = Named::create(&folder.path().join("7"), &prefix, words as usize, |_| {}).unwrap_err();
        assert!(error.to_string().contains("free some space"), "{error}");
        assert!(segments(&prefix).is_empty() && fs::read_dir(&folder).unwrap().next().is_none());
    }

    #[test]
    fn a_reader_can_not_write() {
        let (prefix, folder) = bus();
        let named = Named::create(&folder.path().join("7"), &prefix, WORDS, |_| {}).unwrap();
        let fd = named.read_only_fd().unwrap();
        check_read_only(&fd, "work segment", WORDS as u64 * 8).unwrap();
        assert!(sealed::map_rw(&fd, WORDS as u64 * 8, WORDS).is_err());
        named.mem().store(5, 6);
        assert_eq!(sealed::map_ro(&fd, WORDS as u64 * 8, WORDS).unwrap().load(5), 6);

        let refused = |fd: OwnedFd, bytes, why: &str| {
            let fault = check_read_only(&fd, "work segment", bytes).unwrap_err();
            assert!(fault.to_string().contains(why), "{fault}");
        };
        refused(fd, WORDS as u64 * 8 + 1, "of 8192 bytes, not 8193");
        refused(open_segment(&named.name.name, OFlag::O_RDWR).unwrap(), WORDS as u64 * 8, "mode");
        refused(File::open("/proc/self/exe").unwrap().into(), 0, "not tmpfs");
        named.unlink().unwrap();
    }

    #[test]
    fn another_file_of_the_same_name_is_not_it() {
        let (prefix, folder) = bus();
        let link = folder.path().join("7");
        let named = Named::create(&link, &prefix, WORDS, |_| {}).unwrap();
        let path = segments(&prefix).remove(0);
        fs::remove_file(&path).unwrap();
        fs::write(&path, [0; WORDS * 8]).unwrap();
        assert!(Earlier::open(&link).unwrap_err().to_string().contains("not this user's alone"));
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert!(named.read_only_fd().unwrap_err().to_string().contains("replaced"));
        named.unlink().unwrap();
    }

    #[test]
    fn a_bad_link_is_an_error_and_can_be_removed() {
        let (_, folder) = bus();
        let link = folder.path().join("7");
        assert!(Earlier::open(&link).is_err());
        remove_link_and_segment(&link).unwrap();
        for text in
            [&b""[..], b"/", b"name", b"/a/b", b"/../x", &[0xff; 10], &[b'/'; 300], b"/trine-not-there"]
        {
            fs::write(&link, text).unwrap();
            assert!(Earlier::open(&link).is_err());
            remove_link_and_segment(&link).unwrap();
            assert!(!link.exists());
        }
    }

    #[test]
    fn a_crash_leaves_what_the_next_one_sweeps() {
        let (prefix, folder) = bus();
        let links = folder.path();
        let kept = Named::create(&links.join("1"), &prefix, WORDS, |_| {}).unwrap();
        drop(Named::create(&links.join("2"), &prefix, WORDS, |_| {}).unwrap());
        // One that died between creating and linking, and one whose link was lost.
        create_segment(&unfinished(&links.join("3")), &prefix, 4096).unwrap();
        drop(Named::create(&links.join("4"), &prefix, WORDS, |_| {}).unwrap());
        fs::remove_file(links.join("4")).unwrap();
        let (other, _folder) = bus();
        let others = Named::create(&links.join("other"), &other, WORDS, |_| {}).unwrap();

        assert_eq!(segments(&prefix).len(), 4);
        assert_eq!(sweep(&prefix, &[links]).unwrap(), 2);
        assert_eq!(segments(&prefix).len(), 2);
        assert!(!unfinished(&links.join("3")).exists());
        assert!(Earlier::open(&links.join("1")).is_ok() && Earlier::open(&links.join("2")).is_ok());
        remove_link_and_segment(&links.join("2")).unwrap();
        assert!(!links.join("2").exists() && segments(&prefix).len() == 1);
        kept.unlink().unwrap();
        others.unlink().unwrap();
        assert!(segments(&prefix).is_empty() && segments(&other).is_empty());
    }

    #[test]
    fn a_childs_drop_leaves_it() {
        let (prefix, folder) = bus();
        let link = folder.path().join("7");
        let mut named = Some(Named::create(&link, &prefix, WORDS, |_| {}).unwrap());
        assert!(in_child(|| named.take().is_some()));
        let named = named.expect("the child took its own copy");
        named.mem().store(0, 1);
        assert_eq!(Earlier::open(&link).unwrap().mem().load(0), 1);
        assert!(named.read_only_fd().unwrap().as_raw_fd() > 2);
        named.unlink().unwrap();
    }
}
