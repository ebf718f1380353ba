//! What a director keeps in its bus's folder, so that the next one can go on where it was killed.
//!
//! ```text
//! folder/         0700 where the director makes it; 0711 where others are admitted
//!   lock          who serves the bus: an flock, with the pid to show
//!   secret        the bus's id and its key, both random: 32 bytes
//!   epoch         the how many-th director this is, counted up before it does anything; and the last that settled all
//!   workers/ID    links to the ledgers, which outlive a director
//!   socket        where it is met
//! ```
//! The kernel releases the lock of a process that dies, however it dies, once its last thread is gone; so whoever
//! holds it may take all the rest for a dead director's. Files are replaced by rename: a kill leaves the old one or
//! the new one, whole. Nothing is synced to a disk: this is to outlive a process, not a power failure.
//!
//! The secret and the epoch live together. Where either is missing or is not what it should be, the secret is made
//! anew: it is another bus then, where nothing old can resume, and so nothing can meet an epoch that was used before.

use std::cell::Cell;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use bytemuck::{Pod, Zeroable};
use nix::libc;
use rustix::fs::{FlockOperation, flock};
use siphasher::sip128::SipHasher24;

use super::socket::Listener;
use crate::access::Domain;
use crate::{Bus, Error};

/// How often the folder or its lock may be gone just when it is locked.
const ATTEMPTS: usize = 16;
/// The highest epoch: the words that count polling sessions begin at epoch · 2³².
const EPOCH_MAX: u64 = u32::MAX as u64;

/// A bus's folder, in the hands of its director. Dropping it gives the lock back and leaves the rest for the next
/// director, as a kill does: to be done when none of this one's threads stores any more.
#[derive(Debug)]
pub(crate) struct RuntimeFolder {
    bus: Bus,
    _lock: File,
    secret: Secret,
    epoch: u64,
    settled: Cell<u64>,
}

impl RuntimeFolder {
    /// Makes this process the bus's director, or says who is.
    pub fn take(bus: &Bus) -> Result<RuntimeFolder, Error> {
        let lock = take_lock(bus.folder())?;
        let at = |name| bus.folder().join(name);
        make_folder(&at("workers"))?;
        let old = Secret::read(&at("secret"))?.zip(read_epochs(&at("epoch"))?);
        let (secret, epoch, settled) = match old {
            Some((secret, (epoch, settled))) => (secret, epoch + 1, settled),
            None => {
                let secret = Secret::random()?;
                replace(&at("secret"), bytemuck::bytes_of(&secret))?;
                (secret, 1, 0)
            }
        };
        let folder =
            RuntimeFolder { bus: bus.clone(), _lock: lock, secret, epoch, settled: Cell::new(settled) };
        folder.write_epochs()?;
        Ok(folder)
    }

    /// The bus's random id, the same as long as its folder lives.
    pub fn bus_id(&self) -> [u64; 2] {
        self.secret.bus_id
    }

    /// The how many-th director of this bus id this is; from 1 on, below 2³².
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The last director that had settled all that it found, and forgot the ledgers that say what became of it. A
    /// session that it did not see whole can't be settled any more.
    pub fn settled(&self) -> u64 {
        self.settled.get()
    }

    /// This director is that one, from now on: before it forgets any ledger. Where that can't be written, nothing at all
    /// resumes at the next one.
    pub fn settle(&self) {
        self.settled.set(self.epoch);
        if let Err(error) = self.write_epochs() {
            tracing::warn!(%error, "whoever is attached begins anew when this director dies");
            let epoch = self.bus.folder().join("epoch");
            if let Err(error) = absent_is_fine(fs::remove_file(&epoch), &epoch) {
                tracing::error!(%error, "a later director may take what has begun for new");
            }
        }
    }

    fn write_epochs(&self) -> Result<(), Error> {
        let text = format!("{} {}\n", self.epoch, self.settled());
        replace(&self.bus.folder().join("epoch"), text.as_bytes())
    }

    /// What makes the credentials of this bus.
    pub fn credentials(&self) -> Credentials {
        Credentials::new(self.secret.key, self.secret.bus_id)
    }

    /// What makes the keys of resources that are names: a subkey of its own, the same for every director of the bus.
    pub fn name_hasher(&self) -> SipHasher24 {
        let subkey = SipHasher24::new_with_key(&self.secret.key).hash(b"names of resources");
        SipHasher24::new_with_keys(subkey.h1, subkey.h2)
    }

    /// What this director seals the keys of a worker's parts with: a secret of these two alone.
    pub fn seal(&self, worker: u64) -> [u64; 2] {
        let subkey = SipHasher24::new_with_key(&self.secret.key).hash(b"keys of scatters");
        hash(&SipHasher24::new_with_keys(subkey.h1, subkey.h2), &[self.epoch(), worker])
    }

    /// Where the link to a worker's work segment lies. A name that isn't a number may be used beside it until it is
    /// renamed: nobody takes that for a link.
    pub fn worker_link(&self, worker: u64) -> PathBuf {
        self.workers().join(worker.to_string())
    }

    /// The links that earlier directors left, in no special order.
    pub fn stale_links(&self) -> Result<Vec<PathBuf>, Error> {
        let doing = || Error::io(format!("reading the folder {}", self.workers().display()));
        let mut links = Vec::new();
        for entry in fs::read_dir(self.workers()).map_err(doing())? {
            let path = entry.map_err(doing())?.path();
            let worker = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
            if worker.is_some_and(|worker| self.worker_link(worker) == path) {
                links.push(path);
            }
        }
        Ok(links)
    }

    /// Listens at the bus's socket. One that is there already is a dead director's, since the lock is ours.
    pub fn bind(&self) -> Result<Listener, Error> {
        self.remove_socket()?;
        Listener::bind(self.bus.socket())
    }

    /// Lets other users in, or no more: the socket is opened before the folder is, and closed after it. A folder that
    /// was given by its path is its owner's, and stays as it is; so do the folders above, but for that of all buses.
    pub fn open_to_others(&self, open: bool) -> Result<(), Error> {
        let (socket, folder) = if open { (0o666, 0o711) } else { (0o600, 0o700) };
        let socket = || set_mode(self.bus.socket(), socket);
        let folders = || -> Result<(), Error> {
            if !self.bus.owns_folder() {
                return Ok(());
            }
            set_mode(self.bus.folder(), folder)?;
            match self.bus.folder().parent() {
                // One bus closes its own door only.
                Some(base) if open && is_ours_alone(base) => set_mode(base, folder),
                _ => Ok(()),
            }
        };
        if open { socket().and_then(|()| folders()) } else { folders().and_then(|()| socket()) }
    }

    /// Leaves nothing of the bus: who comes next begins anew. The lock goes last, while it is still held.
    pub fn clean(self) -> Result<(), Error> {
        self.remove_socket()?;
        absent_is_fine(fs::remove_dir_all(self.workers()), &self.workers())?;
        for name in ["secret", "epoch"] {
            let path = self.bus.folder().join(name);
            absent_is_fine(fs::remove_file(&path), &path)?;
            absent_is_fine(fs::remove_file(unfinished(&path)), &path)?;
        }
        let lock = self.bus.folder().join("lock");
        absent_is_fine(fs::remove_file(&lock), &lock)?;
        if self.bus.owns_folder() {
            // Another director may be there already, or a file that isn't ours: then the folder stays.
            let _ = fs::remove_dir(self.bus.folder());
        }
        Ok(())
    }

    fn workers(&self) -> PathBuf {
        self.bus.folder().join("workers")
    }

    fn remove_socket(&self) -> Result<(), Error> {
        let path = self.bus.socket();
        match path.symlink_metadata() {
            Ok(meta) if !meta.file_type().is_socket() => Err(Error::NotASocket { path: path.into() }),
            Ok(_) => absent_is_fine(fs::remove_file(path), path),
            Err(e) => absent_is_fine(Err(e), path),
        }
    }
}

/// Makes the folder and takes its lock; either may go again before the next step, where another director stops.
fn take_lock(folder: &Path) -> Result<File, Error> {
    for _ in 0..ATTEMPTS {
        match make_folder(folder) {
            Err(Error::System { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {}
            made => made?,
        }
        if !check_folder(folder)? {
            continue;
        }
        if let Some(lock) = try_lock(folder)? {
            return Ok(lock);
        }
    }
    Err(Error::Path {
        path: folder.into(),
        why: "it, or the lock in it, is made and removed all the time".into(),
    })
}

/// Takes the lock; `None` where its file was removed between two steps.
fn try_lock(folder: &Path) -> Result<Option<File>, Error> {
    let path = folder.join("lock");
    let doing = || Error::io(format!("locking {}", path.display()));
    let mut file = match private().read(true).create(true).open(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(doing())?,
    };
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            return Err(Error::BusTaken { path: folder.into(), pid: read_pid(&mut file) });
        }
        Err(e) => return Err(doing()(e.into())),
    }
    let locked = file.metadata().map_err(doing())?;
    match path.symlink_metadata() {
        Ok(there) if (there.dev(), there.ino()) == (locked.dev(), locked.ino()) => {}
        Ok(_) => return Ok(None),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(doing()(e)),
    }
    file.set_len(0).map_err(doing())?;
    file.write_all(format!("{}\n", std::process::id()).as_bytes()).map_err(doing())?;
    Ok(Some(file))
}

/// What the lock's holder wrote; 0 where it has not yet.
fn read_pid(lock: &mut File) -> i32 {
    let mut text = String::new();
    let read = lock.seek(SeekFrom::Start(0)).and_then(|_| lock.take(16).read_to_string(&mut text));
    read.ok().and_then(|_| text.trim().parse().ok()).unwrap_or(0)
}

fn set_mode(path: &Path, mode: u32) -> Result<(), Error> {
    let set = fs::set_permissions(path, Permissions::from_mode(mode));
    set.map_err(Error::io(format!("changing the mode of {}", path.display())))
}

/// Whether a folder is ours, and nobody else may enter it.
fn is_ours_alone(path: &Path) -> bool {
    let me = nix::unistd::geteuid().as_raw();
    path.metadata().is_ok_and(|meta| meta.uid() == me && meta.mode() & 0o777 == 0o700)
}

fn make_folder(path: &Path) -> Result<(), Error> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(Error::io(format!("making the folder {}", path.display())))
}

/// Refuses a folder that isn't ours alone: whoever may write in it could put a socket of his own there. False where
/// there is none.
fn check_folder(path: &Path) -> Result<bool, Error> {
    let meta = match fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        meta => meta.map_err(Error::io(format!("looking at {}", path.display())))?,
    };
    let (me, mode) = (nix::unistd::geteuid().as_raw(), meta.mode() & 0o7777);
    let refuse = |why| Err(Error::Path { path: path.into(), why });
    if !meta.is_dir() {
        return refuse("it is not a folder".into());
    }
    if meta.uid() != me {
        return refuse(format!(
            "user {} owns it, and this is user {me}: choose a folder of your own",
            meta.uid()
        ));
    }
    if mode & 0o022 != 0 {
        return refuse(format!(
            "others may write in it (mode {mode:o}): `chmod go-w` it, or choose another folder"
        ));
    }
    Ok(true)
}

/// Only its owner may look into such a file, and it is not reached through a symbolic link.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    options
}

fn unfinished(path: &Path) -> PathBuf {
    path.with_extension("new")
}

/// Replaces a file as a whole.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let new = unfinished(path);
    let write = || {
        let mut file = private().create(true).truncate(true).open(&new)?;
        file.set_permissions(Permissions::from_mode(0o600))?; // whatever the umask, or an earlier file's mode
        file.write_all(bytes)?;
        fs::rename(&new, path)
    };
    write().map_err(Error::io(format!("writing {}", path.display())))
}

/// Reads a file of at most 32 bytes; `None` where it is not there, or not as `replace` makes it. What the system
/// can't do now is an error: taking it for "not there" would end every session that could have gone on.
fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let read = || {
        let meta = path.symlink_metadata()?;
        let private = meta.uid() == nix::unistd::geteuid().as_raw() && meta.mode() & 0o077 == 0;
        if !meta.is_file() || !private || meta.len() > 32 {
            return Ok(None);
        }
        fs::read(path).map(Some)
    };
    match read() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map_err(Error::io(format!("reading {}", path.display()))),
    }
}

/// The last director's epoch, and that of the last one that had settled all.
fn read_epochs(path: &Path) -> Result<Option<(u64, u64)>, Error> {
    let text = read(path)?.and_then(|bytes| String::from_utf8(bytes).ok());
    let epochs = text.and_then(|text| {
        let (epoch, settled) = text.strip_suffix('\n')?.split_once(' ')?;
        Some((epoch.parse().ok()?, settled.parse().ok()?))
    });
    Ok(epochs.filter(|(epoch, settled)| (1..EPOCH_MAX).contains(epoch) && settled <= epoch))
}

fn absent_is_fine(removed: io::Result<()>, path: &Path) -> Result<(), Error> {
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("removing {}", path.display()))(e))
        }
        _ => Ok(()),
    }
}

/// Who the bus is, and what only its directors know; as it lies in its file.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Secret {
    bus_id: [u64; 2],
    key: [u8; 16],
}

impl Secret {
    fn random() -> Result<Secret, Error> {
        let mut secret = Secret::zeroed();
        let read =
            File::open("/dev/urandom").and_then(|mut f| f.read_exact(bytemuck::bytes_of_mut(&mut secret)));
        read.map_err(Error::io("reading /dev/urandom"))?;
        Ok(secret)
    }

    fn read(path: &Path) -> Result<Option<Secret>, Error> {
        let secret = read(path)?.and_then(|bytes| bytemuck::try_pod_read_unaligned::<Secret>(&bytes).ok());
        // Zeros are what a file system may leave of a file, and an id of zeros means "none".
        Ok(secret.filter(|secret| secret.bus_id != [0; 2]))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret").field("bus_id", &self.bus_id).finish_non_exhaustive()
    }
}

/// Makes the credentials by which a session or a worker is known again: 128 bits of keyed hash over what it is, so
/// that nothing has to be stored. The inodes tie a credential to the segments that it was given for.
///
/// They may be compared like any numbers. A comparison that stops at the first word that differs tells, to one who
/// can time it through a socket and a busy thread, whether 64 bits were right at once: that is no help in guessing.
#[derive(Clone)]
pub(crate) struct Credentials {
    bus_id: [u64; 2],
    session: SipHasher24,
    worker: SipHasher24,
}

impl Credentials {
    /// Those of a bus. Sessions and workers have a subkey each: no credential of the one is ever one of the other.
    pub fn new(key: [u8; 16], bus_id: [u64; 2]) -> Credentials {
        let subkey = |purpose: &[u8]| {
            let key = SipHasher24::new_with_key(&key).hash(purpose).as_bytes();
            SipHasher24::new_with_key(&key)
        };
        Credentials { bus_id, session: subkey(b"session"), worker: subkey(b"worker") }
    }

    /// The credential of a session.
    pub fn session(
        &self,
        id: u64,
        uid: u32,
        domain: Domain,
        outbox_inode: u64,
        inbox_inode: u64,
    ) -> [u64; 2] {
        let [bus_0, bus_1] = self.bus_id;
        hash(&self.session, &[bus_0, bus_1, id, uid.into(), domain.word(), outbox_inode, inbox_inode])
    }

    /// The credential of a worker.
    pub fn worker(&self, id: u64, uid: u32, progress_inode: u64) -> [u64; 2] {
        let [bus_0, bus_1] = self.bus_id;
        hash(&self.worker, &[bus_0, bus_1, id, uid.into(), progress_inode])
    }
}

fn hash(key: &SipHasher24, words: &[u64]) -> [u64; 2] {
    key.hash(bytemuck::cast_slice(words)).as_u64().into()
}

#[cfg(test)]
#[path = "folder_tests.rs"]
mod tests;
