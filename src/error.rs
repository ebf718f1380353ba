//! How things end: a call's [`Status`], a call's failure, the library's own errors, and a peer's faults.
//!
//! Two families are kept apart. An [`Error`] or [`CallError`] is for the program that uses Trine: it says what to do.
//! A [`Fault`] is what a *peer* did wrong, with the numbers; whoever sees one disconnects that peer and goes on.

use std::fmt;
use std::path::PathBuf;

/// How a call ended. Numbers are for ever: new ones are appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
#[non_exhaustive]
pub enum Status {
    /// The result is there.
    Ok = 0,
    /// No worker was ever known that provides such a service.
    NoSuchService = 1,
    /// The service is there; it has no such operation.
    NoSuchOperation = 2,
    /// The service is known, but no worker provides it now.
    NoWorker = 3,
    /// The caller may not do this.
    PermissionDenied = 4,
    /// The deadline passed.
    DeadlineExceeded = 5,
    /// The caller gave the call up.
    Cancelled = 6,
    /// The result does not fit the reply buffer; [`CallError::needed`] says what would.
    ReplyTooLarge = 7,
    /// The request does not fit the arena.
    RequestTooLarge = 8,
    /// It could not be done without waiting, and the caller did not want to wait.
    WouldBlock = 9,
    /// Too many calls wait on this route already.
    Busy = 10,
    /// The worker died after it had begun.
    WorkerDied = 11,
    /// The worker answered with an error: see [`CallError::code`] and the message.
    WorkerError = 12,
    /// Whether it ran can't be known.
    MayHaveRun = 13,
    /// There is no director.
    DirectorGone = 14,
    /// A signal, or another thread, ended the wait.
    Interrupted = 15,
    /// The peers speak different versions.
    ProtocolMismatch = 16,
    /// The handle belongs to the process that this one was forked from.
    Forked = 17,
    /// It had been given to a worker, which had not begun it. The library tries again by itself; a caller sees this
    /// only after many tries.
    NotBegun = 18,
    /// A peer broke the protocol.
    Fault = 19,
    /// The resource needs a holder, and has none.
    NotHeld = 20,
    /// The resource was not declared, or not so.
    NoSuchResource = 21,
    /// A range upside down, a share that there is none of, two ranges that overlap, two names with one hash.
    BadResource = 22,
    /// There is no such part: a call to several workers had more tickets than it needed.
    NoPart = 23,
    /// More workers would have a part than the call may have parts; [`CallError::needed`] says how many.
    TooManyParts = 24,
}

impl Status {
    /// All of them, in the order of their numbers.
    pub const ALL: [Status; 25] = [
        Status::Ok,
        Status::NoSuchService,
        Status::NoSuchOperation,
        Status::NoWorker,
        Status::PermissionDenied,
        Status::DeadlineExceeded,
        Status::Cancelled,
        Status::ReplyTooLarge,
        Status::RequestTooLarge,
        Status::WouldBlock,
        Status::Busy,
        Status::WorkerDied,
        Status::WorkerError,
        Status::MayHaveRun,
        Status::DirectorGone,
        Status::Interrupted,
        Status::ProtocolMismatch,
        Status::Forked,
        Status::NotBegun,
        Status::Fault,
        Status::NotHeld,
        Status::NoSuchResource,
        Status::BadResource,
        Status::NoPart,
        Status::TooManyParts,
    ];

    /// The status with this number, if there is one.
    pub fn from_number(number: u16) -> Option<Status> {
        Status::ALL.get(usize::from(number)).copied()
    }

    /// Its name, as in the C header and in scripts: `NO_SUCH_SERVICE`.
    pub fn name(self) -> &'static str {
        match self {
            Status::Ok => "OK",
            Status::NoSuchService => "NO_SUCH_SERVICE",
            Status::NoSuchOperation => "NO_SUCH_OPERATION",
            Status::NoWorker => "NO_WORKER",
            Status::PermissionDenied => "PERMISSION_DENIED",
            Status::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Status::Cancelled => "CANCELLED",
            Status::ReplyTooLarge => "REPLY_TOO_LARGE",
            Status::RequestTooLarge => "REQUEST_TOO_LARGE",
            Status::WouldBlock => "WOULD_BLOCK",
            Status::Busy => "BUSY",
            Status::WorkerDied => "WORKER_DIED",
            Status::WorkerError => "WORKER_ERROR",
            Status::MayHaveRun => "MAY_HAVE_RUN",
            Status::DirectorGone => "DIRECTOR_GONE",
            Status::Interrupted => "INTERRUPTED",
            Status::ProtocolMismatch => "PROTOCOL_MISMATCH",
            Status::Forked => "FORKED",
            Status::NotBegun => "NOT_BEGUN",
            Status::Fault => "FAULT",
            Status::NotHeld => "NOT_HELD",
            Status::NoSuchResource => "NO_SUCH_RESOURCE",
            Status::BadResource => "BAD_RESOURCE",
            Status::NoPart => "NO_PART",
            Status::TooManyParts => "TOO_MANY_PARTS",
        }
    }

    /// What it means, in a sentence that says what to do.
    pub fn text(self) -> &'static str {
        match self {
            Status::Ok => "the result is there",
            Status::NoSuchService => "no worker provides such a service; check the name with `trine ls`",
            Status::NoSuchOperation => "the service has no such operation; check the name with `trine ls`",
            Status::NoWorker => "the service is known, but no worker provides it now; start one",
            Status::PermissionDenied => "you may not do this on this bus",
            Status::DeadlineExceeded => "the call's deadline passed",
            Status::Cancelled => "the call was given up",
            Status::ReplyTooLarge => "the result does not fit the reply buffer; ask for a larger one",
            Status::RequestTooLarge => {
                "the request does not fit the arena; send less, or make the arena larger"
            }
            Status::WouldBlock => "it can't be done without waiting: all slots or buffers are in use",
            Status::Busy => "too many calls wait on this route already; try again later",
            Status::WorkerDied => "the worker died after it had begun; the operation may have run",
            Status::WorkerError => "the worker answered with an error",
            Status::MayHaveRun => "whether the operation ran can't be known",
            Status::DirectorGone => "there is no director; start one with `trine director`",
            Status::Interrupted => "the wait was interrupted",
            Status::ProtocolMismatch => "this program and the director speak different versions",
            Status::Forked => "this handle belongs to the parent process; connect anew after fork",
            Status::NotBegun => "no worker began it, however often it was tried",
            Status::Fault => "a peer broke the protocol",
            Status::NotHeld => "no worker holds this resource now; try again later, or start one that does",
            Status::NoSuchResource => "the resource was not declared so; withdraw it as it was declared",
            Status::BadResource => {
                "a range upside down or overlapping another, a share beyond the last, or a name whose hash is taken"
            }
            Status::NoPart => "there is no such part",
            Status::TooManyParts => "more workers would have a part than the call may have parts",
        }
    }

    /// Whether the operation may have run, where nothing more is known than this status. A call that the director
    /// or a worker ended for its deadline, or because it was cancelled, did not run: [`CallError::may_have_run`]
    /// knows.
    pub fn may_have_run(self) -> bool {
        matches!(
            self,
            Status::Ok
                | Status::DeadlineExceeded
                | Status::Cancelled
                | Status::ReplyTooLarge
                | Status::WorkerDied
                | Status::WorkerError
                | Status::MayHaveRun
                | Status::DirectorGone
                | Status::Fault
        )
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a call has no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallError {
    status: Status,
    may_have_run: bool,
    code: u32,
    needed: Option<u64>,
    message: String,
}

impl CallError {
    /// A call that failed before it was sent.
    pub(crate) fn not_sent(status: Status, message: impl Into<String>) -> Self {
        CallError { status, may_have_run: false, code: 0, needed: None, message: message.into() }
    }

    /// A call that was sent.
    pub(crate) fn sent(status: Status, may_have_run: bool) -> Self {
        CallError { status, may_have_run, code: 0, needed: None, message: String::new() }
    }

    /// What the worker's application said.
    pub(crate) fn with_message(mut self, code: u32, message: String) -> Self {
        (self.code, self.message) = (code, message);
        self
    }

    /// How large the reply buffer would have to be, or how many parts there would have to be.
    pub(crate) fn with_needed(mut self, needed: u64) -> Self {
        self.needed = Some(needed);
        self
    }

    /// How the call ended.
    pub fn status(&self) -> Status {
        self.status
    }

    /// Whether the operation may have run. `false` is a promise: it did not, and never will.
    pub fn may_have_run(&self) -> bool {
        self.may_have_run
    }

    /// With WORKER_ERROR: the application's own number.
    pub fn code(&self) -> u32 {
        self.code
    }

    /// With REPLY_TOO_LARGE: the bytes that the result needs. With TOO_MANY_PARTS: the parts that there would be.
    pub fn needed(&self) -> Option<u64> {
        self.needed
    }

    /// With WORKER_ERROR: what the worker said, as text. Else what is wrong, if there is more to say than the status.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = if self.message.is_empty() { self.status.text() } else { &self.message };
        write!(f, "{}: {text}", self.status.name())?;
        if self.status == Status::WorkerError && self.code != 0 {
            write!(f, " (code {})", self.code)?;
        }
        if let Some(needed) = self.needed {
            let what = if self.status == Status::TooManyParts { "parts" } else { "bytes" };
            write!(f, " ({needed} {what} needed)")?;
        }
        if self.status != Status::WorkerError {
            f.write_str(if self.may_have_run { " [may have run]" } else { " [did not run]" })?;
        }
        Ok(())
    }
}

impl std::error::Error for CallError {}

/// Why a handle could not be made, or does not work any more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A name that can't be one.
    #[error("{what} {name:?} is not a name: {why}")]
    Name {
        /// What it was to name.
        what: &'static str,
        /// The name, cut where it is long.
        name: String,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// Nobody listens.
    #[error("no director at {path}: start one with `trine director` ({source})")]
    NoDirector {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something else is there.
    #[error("{path} is not a director's socket")]
    NotASocket {
        /// What was to be one.
        path: PathBuf,
    },
    /// A path that a bus can't have, or a folder that a director can't trust.
    #[error("the bus can't use {path}: {why}")]
    Path {
        /// Which.
        path: PathBuf,
        /// What is wrong with it, and what would be right.
        why: String,
    },
    /// The user has no folder for sockets and the like.
    #[error(
        "there is no folder for the bus: set XDG_RUNTIME_DIR, or TRINE_RUNTIME_DIR, to a folder of your own"
    )]
    NoRuntimeFolder,
    /// A director is there already.
    #[error("a director (pid {pid}) already serves the bus at {path}: stop it first, or use another bus")]
    BusTaken {
        /// The runtime folder.
        path: PathBuf,
        /// Who it is, as far as the lock file says.
        pid: i32,
    },
    /// The two ends speak different versions.
    #[error(
        "the director speaks protocol {theirs}, this program {ours}: update the older one (PROTOCOL_MISMATCH)"
    )]
    ProtocolMismatch {
        /// This library's.
        ours: u32,
        /// The director's.
        theirs: u32,
    },
    /// The director said no.
    #[error("{status}: {message}")]
    Refused {
        /// In a word.
        status: Status,
        /// In a sentence.
        message: String,
    },
    /// The director's policy is not one: it says where, and why.
    #[error("the policy is refused: {0}")]
    Policy(String),
    /// An option is out of its bounds.
    #[error("{what} is {value}, but may be {bounds}")]
    Option {
        /// Which.
        what: &'static str,
        /// What it was.
        value: u64,
        /// What it may be.
        bounds: String,
    },
    /// The director went away, and none came back in time.
    #[error("{}: DIRECTOR_GONE; start one with `trine director`", silence(.0))]
    DirectorGone(std::time::Duration),
    /// Another process's handle.
    #[error("this handle belongs to the process that this one was forked from: connect after fork (FORKED)")]
    Forked,
    /// A signal, or a stopper, ended the wait.
    #[error("interrupted")]
    Interrupted,
    /// The worker was asked to drain, and has served its last request.
    #[error("drained: there is no more work for this worker")]
    Drained,
    /// The director broke the protocol.
    #[error("the director broke the protocol: {0}")]
    Fault(#[from] Fault),
    /// The system refused something.
    #[error("{what}: {source}{}", advice(.source))]
    System {
        /// What was to be done.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// How long there was nobody, in words.
fn silence(time: &std::time::Duration) -> String {
    match time.as_secs() {
        0 => "the director went away".into(),
        seconds => format!("no answer from a director for {seconds} s"),
    }
}

/// What a person can do about an error of the system's.
fn advice(e: &std::io::Error) -> &'static str {
    use nix::libc;
    match e.raw_os_error() {
        Some(libc::EMFILE) => "; raise the limit with `ulimit -n`",
        Some(libc::ENFILE) => "; the whole system is out of descriptors",
        Some(libc::ENOSPC) => "; free some space there, or use smaller segments",
        Some(libc::EDQUOT) => "; your disk quota there is used up",
        Some(libc::EACCES | libc::EPERM) => "; check the owner and the mode",
        Some(libc::ENOMEM) => "; use smaller segments",
        _ => "",
    }
}

impl Error {
    /// The system's last word on something that was to be done.
    pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(nix::errno::Errno) -> Error {
        let what = what.into();
        move |errno| Error::System { what, source: errno.into() }
    }

    /// The same, for the standard library's errors.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
        let what = what.into();
        move |source| Error::System { what, source }
    }

    /// The status that says the same, for callers that look at statuses only.
    pub fn status(&self) -> Status {
        match self {
            Error::Refused { status, .. } => *status,
            Error::ProtocolMismatch { .. } => Status::ProtocolMismatch,
            Error::Forked => Status::Forked,
            Error::Interrupted | Error::Drained => Status::Interrupted,
            Error::Fault(_) | Error::Policy(_) => Status::Fault,
            Error::System { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                Status::PermissionDenied
            }
            _ => Status::DirectorGone,
        }
    }
}

/// What a peer did that nobody may do. The one who sees it disconnects that peer; nobody else is disturbed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// A stamp that can't have been reached.
    #[error("a stamp of {stamp} at position {position}")]
    Stamp {
        /// Where.
        position: u64,
        /// What stood there.
        stamp: u64,
    },
    /// A field of a record that is out of its bounds.
    #[error("{field} is {value}, beyond {bound}")]
    Field {
        /// Which.
        field: &'static str,
        /// What it was.
        value: u64,
        /// What it may be at most.
        bound: u64,
    },
    /// A record of a scatter that does not go with those before it.
    #[error("record {index} of {count} of a scatter: {why}")]
    Scatter {
        /// Its place, as it says.
        index: u16,
        /// How many there are, as it says.
        count: u16,
        /// What is wrong.
        why: &'static str,
    },
    /// A second open call in one slot.
    #[error("ticket {ticket} in a slot whose call {open} is open")]
    SlotInUse {
        /// The new one.
        ticket: u64,
        /// The one that is there.
        open: u64,
    },
    /// A call that its worker has marked done, and not answered.
    #[error("ticket {ticket} is marked done, and has no reply")]
    Unanswered {
        /// Its ticket.
        ticket: u64,
    },
    /// A control message that can't be read.
    #[error("a control message of kind {kind} and {len} bytes: {why}")]
    Message {
        /// Its kind's number.
        kind: u32,
        /// Its length.
        len: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// A descriptor that is not what it should be.
    #[error("a descriptor for the {what}: {why}")]
    Descriptor {
        /// What it should be.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
}

impl Fault {
    /// Its kind's name.
    pub fn name(&self) -> &'static str {
        match self {
            Fault::Stamp { .. } => "STAMP",
            Fault::Field { .. } => "FIELD",
            Fault::Scatter { .. } => "SCATTER",
            Fault::SlotInUse { .. } => "SLOT_IN_USE",
            Fault::Unanswered { .. } => "UNANSWERED",
            Fault::Message { .. } => "MESSAGE",
            Fault::Descriptor { .. } => "DESCRIPTOR",
        }
    }

    /// What it has in common with others of its cause: its name and what was wrong, without the numbers.
    pub fn cause(&self) -> String {
        match self {
            Fault::Field { field, .. } => format!("{} {field}", self.name()),
            Fault::Message { why, .. } | Fault::Scatter { why, .. } => format!("{} {why}", self.name()),
            Fault::Descriptor { what, .. } => format!("{} {what}", self.name()),
            Fault::Stamp { .. } | Fault::SlotInUse { .. } | Fault::Unanswered { .. } => {
                self.name().to_owned()
            }
        }
    }
}
