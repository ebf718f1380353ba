//! Which bus: the folder in which a director and its peers meet.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::access::Asker;
use crate::control::name;
use crate::director::explain::Explanation;
use crate::director::rows::KeyText;
use crate::{Client, ClientOptions, Error, Inspection, Worker, WorkerOptions, limits};

/// One named instance of Trine: a folder with its director's socket.
///
/// ```
/// # fn main() -> Result<(), trine::Error> {
/// # let folder = std::env::temp_dir();
/// let bus = trine::Bus::at(&folder);
/// assert_eq!(bus.socket(), folder.join("socket"));
/// assert!(trine::Bus::named("No such name").is_err());
/// # Ok(())
/// # }
/// ```
/// Making one asks the file system a little and connects to nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Bus {
    name: Option<String>,
    folder: PathBuf,
    socket: PathBuf,
    /// A user whose director is trusted, beside this process's own and root.
    director: Option<u32>,
}

/// The socket's name in a bus's folder.
const SOCKET: &str = "socket";
/// Names the user whose director is trusted, for every bus of this process.
const DIRECTOR: &str = "TRINE_DIRECTOR_UID";
/// Where the system's own buses are.
const SYSTEM: &str = "/run/trine";

impl Bus {
    /// The name of the bus where nobody says another.
    pub const DEFAULT: &str = "default";

    /// The bus of this name, `[a-z0-9._-]{1,48}` and no dot in front.
    ///
    /// It lies in `$TRINE_RUNTIME_DIR`; else in `$XDG_RUNTIME_DIR/trine`; else in `/run/user/UID/trine`, where there
    /// is such a user's folder; else, for root, in `/run/trine`. Never in `/tmp`, where anyone could be there first.
    pub fn named(name: &str) -> Result<Bus, Error> {
        check(name).map_err(|why| name::bad("bus", name, why))?;
        let uid = nix::unistd::geteuid().as_raw();
        let base = base(|variable| std::env::var_os(variable), uid, Path::new("/run/user"))?;
        Ok(Bus::in_base(name, &base))
    }

    /// The bus at a path: an existing directory is a bus's folder; anything else is its socket, and what a director
    /// keeps lies beside it.
    pub fn at(path: impl AsRef<Path>) -> Bus {
        let path = path.as_ref();
        // A bus is the same one after a change of directory. An empty path stays one, and fails where it is used.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.into());
        let director = trusted(|variable| std::env::var_os(variable));
        if path.is_dir() {
            return Bus { name: None, socket: path.join(SOCKET), folder: path, director };
        }
        let folder = path.parent().unwrap_or(Path::new("/")).into();
        Bus { name: None, folder, socket: path, director }
    }

    /// The same bus, whose director may be this user's. Else it has to be this process's own user, or root: a director
    /// sees every request, chooses who answers, and learns its clients' memory, so nobody is taken for one by where its
    /// socket lies. The environment variable `TRINE_DIRECTOR_UID` says the same for every bus of a process.
    ///
    /// ```
    /// let bus = trine::Bus::at("/srv/trine/store").trusting(4711);
    /// ```
    pub fn trusting(mut self, uid: u32) -> Bus {
        self.director = Some(uid);
        self
    }

    /// Whether a director of this user is one to talk to.
    pub(crate) fn trusts(&self, uid: u32) -> bool {
        uid == 0 || uid == nix::unistd::geteuid().as_raw() || self.director == Some(uid)
    }

    /// Connects a client. Blocks for two round trips on a socket.
    ///
    /// # Errors
    /// [`Error::NoDirector`], [`Error::NotASocket`], [`Error::ProtocolMismatch`], [`Error::Refused`],
    /// [`Error::Option`], [`Error::System`].
    pub fn client(&self, options: ClientOptions) -> Result<Client, Error> {
        Client::connect(self, options)
    }

    /// Attaches a worker. Blocks for two round trips on a socket.
    ///
    /// # Errors
    /// As [`client`](Self::client).
    pub fn worker(&self, options: WorkerOptions) -> Result<Worker, Error> {
        Worker::attach(self, options)
    }

    /// Asks the director what is attached. Blocks for two round trips on a socket; disturbs nobody's calls.
    ///
    /// # Errors
    /// As [`client`](Self::client).
    pub fn inspect(&self) -> Result<Inspection, Error> {
        crate::director::rows::ask(self)
    }

    /// Gives a worker no new work: what it was given it still serves, then it leaves. Clients notice nothing. Blocks
    /// for two round trips on a socket, not until the worker is gone.
    ///
    /// # Errors
    /// As [`client`](Self::client); [`Error::Refused`] with NO_WORKER.
    pub fn drain(&self, worker: u64) -> Result<(), Error> {
        crate::director::rows::drain(self, worker)
    }

    /// Asks what would happen to a request: who would get it, and which line of which table decides. Nothing is
    /// called. Blocks for two or three round trips on a socket.
    ///
    /// # Errors
    /// As [`client`](Self::client).
    pub fn explain(
        &self,
        asker: Asker<'_>,
        service: &str,
        operation: &str,
        key: Option<KeyText<'_>>,
    ) -> Result<Explanation, Error> {
        crate::director::rows::explain(self, asker, service, operation, key)
    }

    /// Has the director read its policy anew: see [`DirectorOptions::policy`](crate::DirectorOptions::policy). Blocks
    /// for two round trips on a socket, and until calls are held to the new rules: those that are sent after it returns, all of
    /// them. What workers may not have any more is taken from them in the next turns of the director.
    ///
    /// # Errors
    /// [`Error::Policy`]: it is refused, and the old rules stay in force. Else as [`client`](Self::client).
    pub fn reload(&self) -> Result<(), Error> {
        crate::director::rows::reload(self)
    }

    /// The socket at which its director listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The folder in which its director keeps what the next one must find.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether the folder is the bus's own, by its name, and goes when the bus goes. One that was given by its path
    /// is its owner's.
    pub(crate) fn owns_folder(&self) -> bool {
        self.name.is_some()
    }

    /// The bus of a name that is known to be one, in the folder of all buses.
    pub(crate) fn in_base(name: &str, base: &Path) -> Bus {
        let folder = base.join(name);
        let director = trusted(|variable| std::env::var_os(variable));
        Bus { name: Some(name.into()), socket: folder.join(SOCKET), folder, director }
    }
}

impl Default for Bus {
    /// The bus named [`Bus::DEFAULT`]; where this user has no folder for it, the system's.
    fn default() -> Self {
        Bus::named(Bus::DEFAULT).unwrap_or_else(|_| Bus::in_base(Bus::DEFAULT, Path::new(SYSTEM)))
    }
}

impl fmt::Display for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => f.write_str(name),
            None => self.socket.display().fmt(f),
        }
    }
}

fn check(name: &str) -> Result<(), &'static str> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
    match name.as_bytes() {
        [] => Err("it is empty"),
        [b'.', ..] => Err("it begins with a dot"),
        bytes if bytes.len() > limits::BUS_NAME_MAX => Err("it is longer than 48 bytes"),
        bytes if !bytes.iter().copied().all(allowed) => {
            Err("it may have lower-case letters, digits, dots, underscores and hyphens only")
        }
        _ => Ok(()),
    }
}

/// The user whose director the environment says is trusted.
fn trusted(variable: impl Fn(&str) -> Option<OsString>) -> Option<u32> {
    variable(DIRECTOR)?.to_str()?.parse().ok()
}

/// The folder in which this user's buses lie.
fn base(variable: impl Fn(&str) -> Option<OsString>, uid: u32, users: &Path) -> Result<PathBuf, Error> {
    let path = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(base) = path("TRINE_RUNTIME_DIR") {
        return std::path::absolute(&base).map_err(Error::io("finding the current directory"));
    }
    // The specification of XDG_RUNTIME_DIR says that a relative path is to be ignored.
    if let Some(base) = path("XDG_RUNTIME_DIR").filter(|base| base.is_absolute()) {
        return Ok(base.join("trine"));
    }
    let user = users.join(uid.to_string());
    match user.metadata() {
        Ok(meta) if meta.is_dir() && meta.uid() == uid => Ok(user.join("trine")),
        _ if uid == 0 => Ok(SYSTEM.into()),
        _ => Err(Error::NoRuntimeFolder),
    }
}

const _: () = assert!(limits::BUS_NAME_MAX == 48, "the error's text says so");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["default", "a", "0", "a.b_c-d", &"x".repeat(48)] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in ["", ".", "..", ".a", "A", "a/b", "a b", "ä", "a\0", &"x".repeat(49)] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
        let error = Bus::named("a/b").unwrap_err();
        assert!(error.to_string().starts_with("bus \"a/b\" is not a name"), "{error}");
    }

    #[test]
    fn the_folder_is_found_in_order() {
        let users = tempfile::tempdir().unwrap();
        let me = nix::unistd::geteuid().as_raw();
        let none = |_: &str| None;
        let base = |variables: &[(&str, &str)], uid| {
            let find = |name: &str| variables.iter().find(|v| v.0 == name).map(|v| v.1.into());
            base(find, uid, users.path())
        };
        let path = |path: &str| PathBuf::from(path);
        let both = [("TRINE_RUNTIME_DIR", "/t"), ("XDG_RUNTIME_DIR", "/x")];
        assert_eq!(base(&both, me).unwrap(), path("/t"));
        assert_eq!(base(&both[1..], me).unwrap(), path("/x/trine"));
        assert_eq!(base(&[("TRINE_RUNTIME_DIR", ""), both[1]], me).unwrap(), path("/x/trine"));
        assert_eq!(base(&[("XDG_RUNTIME_DIR", "x")], 0).unwrap(), path("/run/trine"));
        assert!(matches!(super::base(none, 4711, users.path()), Err(Error::NoRuntimeFolder)));

        std::fs::create_dir(users.path().join(me.to_string())).unwrap();
        std::fs::create_dir(users.path().join("4711")).unwrap();
        assert_eq!(base(&[], me).unwrap(), users.path().join(me.to_string()).join("trine"));
        if me != 4711 {
            assert!(matches!(base(&[], 4711), Err(Error::NoRuntimeFolder)), "another user's folder");
        }
    }

    #[test]
    fn a_director_is_trusted_for_its_user() {
        let (bus, own) = (Bus::at("/nowhere/socket"), nix::unistd::geteuid().as_raw());
        assert!(bus.trusts(0) && bus.trusts(own));
        assert!(!bus.trusts(own + 1));
        let bus = bus.trusting(own + 1);
        assert!(bus.trusts(0) && bus.trusts(own) && bus.trusts(own + 1) && !bus.trusts(own + 2));
        assert_eq!(trusted(|_| Some("4711".into())), Some(4711));
        for wrong in ["", "-1", "4294967296", "nobody"] {
            assert_eq!(trusted(|_| Some(wrong.into())), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_path_is_a_folder_or_a_socket() {
        let folder = tempfile::tempdir().unwrap();
        let bus = Bus::at(folder.path());
        assert_eq!((bus.folder(), bus.socket()), (folder.path(), &*folder.path().join("socket")));
        assert_eq!(bus.to_string(), folder.path().join("socket").display().to_string());
        let bus = Bus::at(folder.path().join("other"));
        assert_eq!((bus.folder(), bus.socket()), (folder.path(), &*folder.path().join("other")));
        assert!(Bus::at("relative").socket().is_absolute());
    }
}
