//! Statuses, and what they say. Those from 0 on are the library's own, by the same numbers.

use std::borrow::Cow;
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};
use std::sync::OnceLock;

use trine::{CallError, Error, Status};

/// How something ended. Numbers are for ever; new ones are appended, so be ready for one that you don't know.
pub type trine_status = i32;

/// It is done; a result is there.
pub const TRINE_OK: trine_status = 0;
/// No worker was ever known that provides such a service.
pub const TRINE_NO_SUCH_SERVICE: trine_status = 1;
/// The service is there; it has no such operation.
pub const TRINE_NO_SUCH_OPERATION: trine_status = 2;
/// The service is known, but no worker provides it now.
pub const TRINE_NO_WORKER: trine_status = 3;
/// The caller may not do this.
pub const TRINE_PERMISSION_DENIED: trine_status = 4;
/// The call's deadline passed.
pub const TRINE_DEADLINE_EXCEEDED: trine_status = 5;
/// The caller gave the call up.
pub const TRINE_CANCELLED: trine_status = 6;
/// The result does not fit the reply's room: see trine_reply.needed.
pub const TRINE_REPLY_TOO_LARGE: trine_status = 7;
/// The request does not fit the arena.
pub const TRINE_REQUEST_TOO_LARGE: trine_status = 8;
/// Not now, or not in the time that was given.
pub const TRINE_WOULD_BLOCK: trine_status = 9;
/// Too many calls wait on this route already.
pub const TRINE_BUSY: trine_status = 10;
/// The worker died after it had begun.
pub const TRINE_WORKER_DIED: trine_status = 11;
/// The worker answered with an error: trine_reply.code is its number, trine_error() its message.
pub const TRINE_WORKER_ERROR: trine_status = 12;
/// Whether it ran can't be known.
pub const TRINE_MAY_HAVE_RUN: trine_status = 13;
/// There is no director.
pub const TRINE_DIRECTOR_GONE: trine_status = 14;
/// A signal, or trine_wake(), ended the wait.
pub const TRINE_INTERRUPTED: trine_status = 15;
/// This library and the director speak different versions.
pub const TRINE_PROTOCOL_MISMATCH: trine_status = 16;
/// The handle belongs to the process that this one was forked from.
pub const TRINE_FORKED: trine_status = 17;
/// No worker began it, however often it was tried.
pub const TRINE_NOT_BEGUN: trine_status = 18;
/// A peer broke the protocol.
pub const TRINE_FAULT: trine_status = 19;
/// The resource needs a holder, and has none.
pub const TRINE_NOT_HELD: trine_status = 20;
/// The resource was not declared, or not so.
pub const TRINE_NO_SUCH_RESOURCE: trine_status = 21;
/// A range upside down, a share that there is none of, two ranges that overlap, two names with one hash.
pub const TRINE_BAD_RESOURCE: trine_status = 22;
/// There is no such part: a call to several workers had more tickets than it needed.
pub const TRINE_NO_PART: trine_status = 23;
/// A call to several workers would have had more parts than there was room for: see trine_reply.needed.
pub const TRINE_TOO_MANY_PARTS: trine_status = 24;
/// An argument can't be: NULL, not such a handle, a bad length, name or option. Nothing was done.
pub const TRINE_EINVAL: trine_status = -1;
/// Another thread uses this handle now. Nothing was done.
pub const TRINE_EBUSY: trine_status = -2;
/// The operating system refused: trine_error() says what.
pub const TRINE_ESYSTEM: trine_status = -3;
/// A mistake of this library's own. The handle can only be closed.
pub const TRINE_EPANIC: trine_status = -4;
/// From arming a handle: there is something to do, so don't sleep. The handle is not armed.
pub const TRINE_READY: trine_status = -5;

/// From trine_next(): the worker was drained, and has served its last request.
pub const TRINE_DRAINED: trine_status = -6;

/// What a function returns where it fails: the status, and the sentence for trine_error().
pub(crate) struct Failure {
    pub status: trine_status,
    pub message: Cow<'static, str>,
}

/// What a function of this interface comes to.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    pub fn new(status: trine_status, message: impl Into<Cow<'static, str>>) -> Failure {
        Failure { status, message: message.into() }
    }

    /// An argument that can't be.
    pub fn argument(message: impl Into<Cow<'static, str>>) -> Failure {
        Failure::new(TRINE_EINVAL, message)
    }

    /// The status says all there is to say.
    pub fn plain(status: Status) -> Failure {
        Failure::new(number(status), status.text())
    }
}

/// A status of the library's, as C knows it.
pub(crate) fn number(status: Status) -> trine_status {
    status as u16 as trine_status
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let status = match &error {
            Error::Name { .. } | Error::Option { .. } => TRINE_EINVAL,
            Error::NotASocket { .. } | Error::Path { .. } | Error::NoRuntimeFolder => TRINE_ESYSTEM,
            Error::BusTaken { .. } | Error::System { .. } => TRINE_ESYSTEM,
            Error::Drained => TRINE_DRAINED,
            error => number(error.status()),
        };
        let message = match error {
            Error::Refused { message, .. } if !message.is_empty() => message,
            error => error.to_string(),
        };
        Failure::new(status, message)
    }
}

impl From<&CallError> for Failure {
    fn from(error: &CallError) -> Failure {
        match error.message() {
            "" => Failure::plain(error.status()),
            message => Failure::new(number(error.status()), message.to_owned()),
        }
    }
}

/// A sentence as C reads it. Other people's text may have a NUL in it: it is cut there.
pub(crate) fn c_text(text: &str) -> CString {
    let bytes = text.as_bytes();
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    CString::new(&bytes[..end]).unwrap_or_default()
}

thread_local! {
    /// Of the last function that failed in this thread and had no handle to keep it in.
    static LAST: RefCell<CString> = RefCell::new(CString::default());
}

/// Keeps a failure that no handle can keep.
pub(crate) fn keep_for_thread(failure: &Failure) {
    // A thread that is ending has no use for it.
    let _ = LAST.try_with(|last| *last.borrow_mut() = c_text(&failure.message));
}

/// What `keep_for_thread` was given last.
pub(crate) fn of_thread() -> *const c_char {
    LAST.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

const OWN: [(trine_status, &CStr, &CStr); 6] = [
    (TRINE_EINVAL, c"EINVAL", c"an argument can't be: NULL, not such a handle, or out of bounds"),
    (TRINE_EBUSY, c"EBUSY", c"another thread uses this handle now; one at a time"),
    (TRINE_ESYSTEM, c"ESYSTEM", c"the operating system refused; trine_error() says what"),
    (TRINE_EPANIC, c"EPANIC", c"a mistake of the library's own; close the handle, and report it"),
    (TRINE_READY, c"READY", c"there is something to do: don't sleep"),
    (TRINE_DRAINED, c"DRAINED", c"the worker has served its last request; close it"),
];

/// Names and texts of the library's statuses, by number.
fn texts() -> &'static [(CString, CString)] {
    static TEXTS: OnceLock<Vec<(CString, CString)>> = OnceLock::new();
    TEXTS.get_or_init(|| Status::ALL.iter().map(|s| (c_text(s.name()), c_text(s.text()))).collect())
}

fn describe(status: trine_status) -> (&'static CStr, &'static CStr) {
    if let Some((_, name, text)) = OWN.iter().find(|(number, ..)| *number == status) {
        return (name, text);
    }
    match usize::try_from(status).ok().and_then(|number| texts().get(number)) {
        Some((name, text)) => (name, text),
        None => (c"UNKNOWN", c"a status that this version of the library does not know"),
    }
}

/// A status's name, without the prefix: "NO_SUCH_SERVICE". For ever valid; never NULL.
#[unsafe(no_mangle)]
pub extern "C" fn trine_status_name(status: trine_status) -> *const c_char {
    describe(status).0.as_ptr()
}

/// What a status means, and what to do, in a sentence. For ever valid; never NULL.
#[unsafe(no_mangle)]
pub extern "C" fn trine_status_text(status: trine_status) -> *const c_char {
    describe(status).1.as_ptr()
}
