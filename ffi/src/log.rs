//! What the library says on the side, given to a callback: a `tracing` subscriber, as small as one can be.

use std::cell::Cell;
use std::ffi::{c_char, c_void};
use std::fmt::{Debug, Write};
use std::sync::{OnceLock, RwLock};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::handle;
use crate::status::*;

/// Log level: something went wrong.
pub const TRINE_LOG_ERROR: i32 = 1;
/// Log level: something is not as it should be.
pub const TRINE_LOG_WARN: i32 = 2;
/// Log level: something happened.
pub const TRINE_LOG_INFO: i32 = 3;
/// Log level: for who looks for a mistake.
pub const TRINE_LOG_DEBUG: i32 = 4;

/// Is given each message, in whichever thread it arises: with the `user` of trine_log(), the level, the place in the
/// library, and the text, which is valid until it returns. It may call trine_wake(), and no other function on a handle.
pub type trine_log_callback = Option<
    unsafe extern "C" fn(user: *mut c_void, level: i32, target: *const c_char, message: *const c_char),
>;

struct Sink {
    callback: unsafe extern "C" fn(*mut c_void, i32, *const c_char, *const c_char),
    user: *mut c_void,
    level: i32,
}

// SAFETY: the callback is made for any thread, and knows what its `user` points to: the rules of the header.
unsafe impl Send for Sink {}
// SAFETY: the same.
unsafe impl Sync for Sink {}

/// Held for reading while the callback runs: so that it is over for good when `trine_log` returns.
static SINK: RwLock<Option<Sink>> = RwLock::new(None);

thread_local! {
    /// The callback runs in this thread.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Has everything up to this level (TRINE_LOG_…) said to the callback; NULL ends that, and when it returns the old
/// callback runs no more. One for the whole process. TRINE_EBUSY: from within the callback; or the program has a Rust
/// `tracing` subscriber of its own.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trine_log(
    level: i32,
    callback: trine_log_callback,
    user: *mut c_void,
) -> trine_status {
    static INSTALLED: OnceLock<bool> = OnceLock::new();
    handle::guarded(|| {
        if !(TRINE_LOG_ERROR..=TRINE_LOG_DEBUG).contains(&level) && callback.is_some() {
            return Err(Failure::argument("the level is none of TRINE_LOG_"));
        }
        if INSIDE.get() {
            return Err(Failure::new(TRINE_EBUSY, "from within the log callback"));
        }
        if !INSTALLED.get_or_init(|| tracing::subscriber::set_global_default(Say).is_ok()) {
            return Err(Failure::new(TRINE_EBUSY, "the program has a tracing subscriber of its own"));
        }
        let sink = callback.map(|callback| Sink { callback, user, level });
        *SINK.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = sink;
        Ok(())
    })
}

struct Say;

impl Subscriber for Say {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= Level::DEBUG
    }

    fn register_callsite(&self, _: &'static Metadata<'static>) -> tracing::subscriber::Interest {
        tracing::subscriber::Interest::sometimes() // the level may change
    }

    fn event(&self, event: &Event<'_>) {
        let level = match *event.metadata().level() {
            Level::ERROR => TRINE_LOG_ERROR,
            Level::WARN => TRINE_LOG_WARN,
            Level::INFO => TRINE_LOG_INFO,
            _ => TRINE_LOG_DEBUG,
        };
        if INSIDE.get() {
            return;
        }
        let Ok(sink) = SINK.read() else { return };
        let Some(sink) = sink.as_ref().filter(|sink| level <= sink.level) else { return };
        let mut message = Message(String::new());
        event.record(&mut message);
        let (target, message) = (c_text(event.metadata().target()), c_text(&message.0));
        INSIDE.set(true);
        // SAFETY: a callback of this signature, as C gave it; both strings live until it returns.
        unsafe { (sink.callback)(sink.user, level, target.as_ptr(), message.as_ptr()) };
        INSIDE.set(false);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// An event's text, and its fields behind it.
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing into a string can't fail.
        let _ = match field.name() {
            "message" => {
                let rest = std::mem::take(&mut self.0);
                write!(self.0, "{value:?}{rest}")
            }
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}
