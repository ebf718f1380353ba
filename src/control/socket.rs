//! Sockets that carry control messages, with descriptors, from one process to another.
//!
//! A SOCK_SEQPACKET socket keeps messages apart, so a receiver never waits for the rest of one; and nothing here
//! blocks: a peer that reads or writes nothing costs its own connection only.
//!
//! ```text
//! send ──► bytes + up to 4 descriptors ──► receive ──► Message | Nothing | Closed | Fault
//! ```
//! *Closed* comes after the last message: the kernel says ECONNRESET first, once, where the peer left something
//! unread, and what the peer sent before is still there behind it. A *Fault* is the peer's doing; whatever
//! descriptors came with it are closed with the channel. What is this process's own trouble is an [`Error`].
//!
//! Received and accepted descriptors come through rustix, which makes them owned at once: also those of a message
//! that was cut short, which nothing else would ever close.

use std::cell::RefCell;
use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, bind, connect, listen,
    sendmsg, socket,
};
use nix::sys::stat::Mode;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, RecvMsg, ReturnFlags, SocketFlags, accept_with,
    recvmsg,
};

use super::message::Message;
use crate::limits::{MESSAGE_BYTES_MAX, MESSAGE_DESCRIPTORS_MAX};
use crate::waiting::now_ns;
use crate::{Error, Fault};

/// Connections that may wait to be accepted: everyone on the bus comes at once when a director has restarted. The
/// kernel cuts it to net.core.somaxconn.
const BACKLOG: i32 = 4096;

thread_local! {
    /// What a message is received into: cleared once, since that costs more than to hear that there is none. It needs
    /// no dropping, so that it is there to the thread's end, for a handle that another thread-local drops.
    static BUFFER: RefCell<[u8; MESSAGE_BYTES_MAX]> = const { RefCell::new([0; MESSAGE_BYTES_MAX]) };
}

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: OwnedFd,
    /// What came with messages that nobody may send: closed with this.
    strays: RefCell<Vec<OwnedFd>>,
}

/// Descriptors that the kernel lets a message have. There is room for all of them: those that find none are closed by the
/// kernel in `recvmsg`, which may have to wait for that.
const KERNEL_DESCRIPTORS_MAX: usize = 253;

/// What a look into a socket found.
#[derive(Debug)]
pub(crate) enum Received<M> {
    /// A message (or its length), and the descriptors that came with it.
    Message(M, Vec<OwnedFd>),
    /// A message without its descriptors: this process had no room for all of them, and why.
    Short(M, Error),
    /// Nothing now.
    Nothing,
    /// The peer has closed its end, and all that it sent has been read.
    Closed,
    /// The peer sent what nobody may send.
    Fault(Fault),
}

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    /// There is something to receive, perhaps the end.
    Readable,
    /// The time has come.
    TimedOut,
    /// A signal came: whether to go on is the caller's to decide.
    Interrupted,
}

impl Channel {
    fn of(socket: OwnedFd) -> Channel {
        Channel { socket, strays: RefCell::default() }
    }

    /// Connects to the director that listens at `path`. Doesn't wait: where too many others do, the error's source
    /// is `WouldBlock`.
    pub fn connect(path: &Path) -> Result<Channel, Error> {
        let no_director = |source: io::Error| Error::NoDirector { path: path.into(), source };
        let meta = match fs::metadata(path) {
            Ok(meta) => meta,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(no_director(e)),
            Err(e) => return Err(Error::io(format!("looking at {}", path.display()))(e)),
        };
        if !meta.file_type().is_socket() {
            return Err(Error::NotASocket { path: path.into() });
        }
        let socket = new_socket()?;
        let address = Address::of(path)?;
        match connect(socket.as_raw_fd(), &address.unix) {
            Ok(()) => Ok(Channel::of(socket)),
            Err(e @ (Errno::ECONNREFUSED | Errno::ENOENT)) => Err(no_director(e.into())),
            Err(Errno::EPROTOTYPE) => Err(Error::NotASocket { path: path.into() }),
            Err(e) => Err(Error::system(format!("connecting to {}", path.display()))(e)),
        }
    }

    #[cfg(test)]
    /// Two ends in one process.
    pub fn pair() -> Result<(Channel, Channel), Error> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let (a, b) = nix::sys::socket::socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)
            .map_err(Error::system("making a pair of sockets"))?;
        Ok((Channel::of(a), Channel::of(b)))
    }

    /// Sends one message, or nothing: `WouldBlock` where the peer doesn't read, `BrokenPipe` where it is gone.
    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd]) -> io::Result<()> {
        let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control = if raw.is_empty() { &[][..] } else { &rights };
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        loop {
            match sendmsg::<UnixAddr>(self.socket.as_raw_fd(), &[IoSlice::new(bytes)], control, flags, None) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => continue,
                Err(Errno::ECONNRESET) => return Err(Errno::EPIPE.into()),
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Sends a message with its descriptors.
    pub fn send_message<M: Message>(&self, message: &M, fds: &[BorrowedFd]) -> io::Result<()> {
        debug_assert_eq!(fds.len(), M::descriptors(message.kind()), "descriptors of kind {}", message.kind());
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        self.send(&bytes, fds)
    }

    /// Receives one message's bytes into `buffer`, and its descriptors. An empty message counts as the end: a peer
    /// that sends one has nothing more to say.
    pub fn receive(&self, buffer: &mut [u8]) -> Result<Received<usize>, Error> {
        // Room for all that may come, so that too many can be told from no place for them in this process.
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(KERNEL_DESCRIPTORS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let Some(got) = self.receive_any(buffer, &mut control)? else { return Ok(Received::Nothing) };
        let mut fds = Vec::new();
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(part) = part {
                fds.extend(part);
            }
        }
        let len = got.bytes;
        let kind = buffer.first_chunk().filter(|_| len >= 4).map_or(0, |&kind| u32::from_ne_bytes(kind));
        let fault = |why| Ok(Received::Fault(Fault::Message { kind, len, why }));
        if fds.len() > MESSAGE_DESCRIPTORS_MAX {
            self.keep(fds);
            return fault("too many descriptors came with it");
        }
        if len > buffer.len() || got.flags.contains(ReturnFlags::TRUNC) {
            self.keep(fds);
            return fault("it is too long");
        }
        if got.flags.contains(ReturnFlags::CTRUNC) {
            self.keep(fds);
            return Ok(Received::Short(len, Error::system("receiving descriptors")(Errno::EMFILE)));
        }
        if len == 0 {
            self.keep(fds);
            return Ok(Received::Closed);
        }
        Ok(Received::Message(len, fds))
    }

    /// Receives a message of one direction, with exactly the descriptors of its kind.
    pub fn receive_message<M: Message>(&self) -> Result<Received<M>, Error> {
        BUFFER.with_borrow_mut(|buffer| self.receive_into(buffer))
    }

    fn receive_into<M: Message>(&self, buffer: &mut [u8]) -> Result<Received<M>, Error> {
        Ok(match self.receive(buffer)? {
            Received::Message(len, fds) => match M::decode(&buffer[..len]) {
                Ok(message) => self.with_descriptors(message, fds),
                Err(fault) => {
                    self.keep(fds);
                    Received::Fault(fault)
                }
            },
            Received::Short(len, error) => match M::decode(&buffer[..len]) {
                Ok(message) => Received::Short(message, error),
                Err(fault) => Received::Fault(fault),
            },
            Received::Nothing => Received::Nothing,
            Received::Closed => Received::Closed,
            Received::Fault(fault) => Received::Fault(fault),
        })
    }

    /// A message, with exactly the descriptors that it should have.
    fn with_descriptors<M: Message>(&self, message: M, fds: Vec<OwnedFd>) -> Received<M> {
        let (kind, want, came) = (message.kind(), M::descriptors(message.kind()), fds.len());
        if came == want {
            return Received::Message(message, fds);
        }
        self.keep(fds);
        let why = format!("{came} came, and {want} belong to a message of kind {kind}");
        Received::Fault(Fault::Descriptor { what: "control message", why })
    }

    /// Keeps descriptors that may take their time to close.
    pub fn keep(&self, fds: Vec<OwnedFd>) {
        self.strays.borrow_mut().extend(fds);
    }

    /// Closes them here and now.
    pub fn close_strays(&self) {
        self.strays.borrow_mut().clear();
    }

    /// Whether there are such.
    pub fn has_strays(&self) -> bool {
        !self.strays.borrow().is_empty()
    }

    /// Ends the connection for the peer, which sees it at once. What is left to do is to drop this: that may wait.
    pub fn shut(&self) {
        let _ = nix::sys::socket::shutdown(self.socket.as_raw_fd(), nix::sys::socket::Shutdown::Both);
    }

    /// Waits until there is something to receive, or until `until_ns` of CLOCK_MONOTONIC; `u64::MAX` is for ever.
    pub fn wait_readable(&self, until_ns: u64) -> Result<Waited, Error> {
        let timeout = (until_ns < u64::MAX).then(|| until_ns.saturating_sub(now_ns()));
        let timeout = timeout.map(|ns| std::time::Duration::from_nanos(ns).into());
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        match ppoll(&mut fds, timeout, None) {
            Ok(0) => Ok(Waited::TimedOut),
            Ok(_) => Ok(Waited::Readable),
            Err(Errno::EINTR) => Ok(Waited::Interrupted),
            Err(e) => Err(Error::system("waiting for a control message")(e)),
        }
    }

    /// One `recvmsg`, or two: ECONNRESET is said once, and what the peer sent before is behind it.
    fn receive_any(
        &self,
        buffer: &mut [u8],
        control: &mut RecvAncillaryBuffer,
    ) -> Result<Option<RecvMsg>, Error> {
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC | RecvFlags::TRUNC;
        let mut last = rustix::io::Errno::CONNRESET;
        for _ in 0..3 {
            match recvmsg(&self.socket, &mut [IoSliceMut::new(buffer)], control, flags) {
                Ok(got) => return Ok(Some(got)),
                Err(rustix::io::Errno::AGAIN) => return Ok(None),
                Err(e @ (rustix::io::Errno::CONNRESET | rustix::io::Errno::INTR)) => last = e,
                Err(e) => return Err(Error::io("receiving a control message")(e.into())),
            }
        }
        Err(Error::io("receiving a control message")(last.into()))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl From<OwnedFd> for Channel {
    /// A SOCK_SEQPACKET socket that is connected already.
    fn from(socket: OwnedFd) -> Channel {
        Channel::of(socket)
    }
}

/// Where a director is met.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: OwnedFd,
}

impl Listener {
    /// Listens at `path`, where nothing is yet. Only the owner may connect: the mode is set before the socket
    /// listens, and until then nobody can.
    pub fn bind(path: &Path) -> Result<Listener, Error> {
        let socket = new_socket()?;
        let what = || format!("listening at {}", path.display());
        let address = Address::of(path)?;
        bind(socket.as_raw_fd(), &address.unix).map_err(Error::system(what()))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(Error::io(what()))?;
        let backlog = Backlog::new(BACKLOG).map_err(Error::system(what()))?;
        listen(&socket, backlog).map_err(Error::system(what()))?;
        Ok(Listener { socket })
    }

    /// The next connection, if one waits.
    pub fn accept(&self) -> Result<Option<Channel>, Error> {
        use rustix::io::Errno;
        match accept_with(&self.socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok(socket) => Ok(Some(Channel::of(socket))),
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
            Err(e) => Err(Error::io("accepting a connection")(e.into())),
        }
    }
}

impl From<OwnedFd> for Listener {
    /// A socket that listens already.
    fn from(socket: OwnedFd) -> Listener {
        Listener { socket }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn new_socket() -> Result<OwnedFd, Error> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).map_err(Error::system("making a socket"))
}

/// A path as the kernel takes it. Its 107 bytes are not much: what is longer is reached through its folder's
/// descriptor, which has to stay open until the address has been used.
struct Address {
    unix: UnixAddr,
    _folder: Option<OwnedFd>,
}

impl Address {
    fn of(path: &Path) -> Result<Address, Error> {
        if let Ok(unix) = UnixAddr::new(path) {
            return Ok(Address { unix, _folder: None });
        }
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Error::Path { path: path.into(), why: "it names no file".into() });
        };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let folder = open(folder, flags, Mode::empty())
            .map_err(Error::system(format!("opening the folder {}", folder.display())))?;
        let short = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
        let unix = UnixAddr::new(&short).map_err(|_| Error::Path {
            path: path.into(),
            why: "the file's name is too long for a socket: choose one of at most 80 bytes".into(),
        })?;
        Ok(Address { unix, _folder: Some(folder) })
    }
}

#[cfg(test)]
#[path = "socket_tests.rs"]
mod tests;
