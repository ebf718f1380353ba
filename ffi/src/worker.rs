//! Serving.

use std::collections::VecDeque;
use std::ffi::{c_char, c_int, c_void};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Mutex;

use nix::errno::Errno;
use trine::{Request, RequestId, Shared, SharedMut, Status, Stopper, Worker, WorkerOptions};

use crate::handle::{self, FreeList, Kind};
use crate::input::{self, Out};
use crate::rights::trine_provide_with;
use crate::shelf::{SMALL, Small, copy_small};
use crate::status::*;
use crate::types::*;

/// A worker, and what C was told of its open requests: by the request's index.
pub(crate) struct Serving {
    pub(crate) worker: Worker,
    #[expect(clippy::vec_box, reason = "C has pointers into them")]
    told: Vec<Box<Told>>,
}

/// What C has of a request, so that an answer is compared with it, and nothing is looked up again.
#[derive(Default)]
struct Told {
    /// The payload, if it is small; where it stays.
    small: Small,
    /// Where a larger one begins.
    large: usize,
    len: usize,
    /// Where the reply may be built; 0 is nowhere.
    out: usize,
    capacity: usize,
}

impl Kind for Serving {
    const MAGIC: u32 = 0x7472_776f;
    /// What wakes it.
    type Shared = Stopper;
    fn free_list() -> &'static FreeList<Serving> {
        static FREE: FreeList<Serving> = Mutex::new(VecDeque::new());
        &FREE
    }
}

/// Attaches a worker. [B] Arguments and failures as trine_connect().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trine_worker_open(
    bus: *const c_char,
    options: *const trine_options,
    out: *mut *mut trine_worker,
) -> trine_status {
    handle::guarded(|| {
        // SAFETY: the rules of the header.
        let out = unsafe { input::slot(out)? };
        out.write(std::ptr::null_mut());
        // SAFETY: the rules of the header.
        let (bus, given) = unsafe { (input::bus(bus)?, input::read::<trine_options>(options)?) };
        let mut options = WorkerOptions::default().interruptible(given.flags & TRINE_RESTART == 0);
        options.waiting = input::waiting(&given)?;
        if given.slots != 0 {
            options.slots = given.slots;
        }
        let worker = bus.worker(options)?;
        let stopper = worker.stopper();
        out.write(handle::make(Serving { worker, told: Vec::new() }, stopper));
        Ok(())
    })
}

/// Ends a worker: what it has not answered ends with TRINE_WORKER_ERROR, what it has not begun goes to others. [S] NULL
/// is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trine_worker_close(worker: *mut trine_worker) -> trine_status {
    // SAFETY: the rules of the header.
    unsafe {
        handle::close(worker, |serving: Serving| {
            drop(serving);
            Ok(())
        })
    }
}

/// Provides a service from now on. [B] A second time replaces its operations. Operations are numbered from 0 on, over
/// all services in the order in which a worker provides them: *first, if not NULL, is the first one's number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trine_provide(
    worker: *mut trine_worker,
    service: *const c_char,
    operations: *const *const c_char,
    count: usize,
    first: *mut u32,
) -> trine_status {
    // SAFETY: the rules of the header.
    unsafe { trine_provide_with(worker, service, operations, count, std::ptr::null(), first) }
}

/// Provides it no more. [B] What this worker was given already it still serves.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trine_withdraw(worker: *mut trine_worker, service: *const c_char) -> trine_status {
    // SAFETY: the rules of the header.
    let withdraw = |serving: &mut Serving| unsafe {
        Ok(serving.worker.withdraw(input::text(service, "the service")?).map(|()| TRINE_OK)?)
    };
    // SAFETY: the rules of the header.
    unsafe { handle::with(worker, withdraw) }
}

/// The next request, in the order in which they came. [B], but with a timeout of 0. TRINE_WOULD_BLOCK: none came in
/// time. TRINE_INTERRUPTED: a signal, or trine_wake(). TRINE_DRAINED: there will be none. Events (trine_on_event()) are
/// told from within.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trine_next(
    worker: *mut trine_worker,
    timeout_ns: i64,
    out: *mut trine_incoming,
) -> trine_status {
    let next = |serving: &mut Serving| {
        // SAFETY: the rules of the header.
        let out = unsafe { Out::new(out)? };
        let Serving { worker, told } = serving;
        match worker.next(input::until(timeout_ns)?) {
            Ok(Some(request)) => hand_over(request, told, &out),
            Ok(None) => Err(Failure::new(TRINE_WOULD_BLOCK, "no request came in time")),
            Err(error) => Err(error.into()),
        }
    };
    // SAFETY: the rules of the header.
    unsafe { handle::with(worker, next) }
}

#[expect(clippy::vec_box, reason = "C has pointers into them")]
#[inline]
fn hand_over(
    request: Request<'_>,
    told: &mut Vec<Box<Told>>,
    out: &Out<trine_incoming>,
) -> Outcome<trine_status> {
    let Some(details) = request.details() else { return Err(Failure::plain(Status::Forked)) };
    let index = request.id().index();
    if index >= told.len() {
        told.resize_with(index + 1, Box::default);
    }
    let told = &mut *told[index];
    let (len, large) = (details.bytes.len(), details.bytes.as_ptr());
    let data = if len <= SMALL { copy_small(&details.bytes, &mut told.small) } else { large.cast() };
    (told.large, told.len) = (large as usize, len);
    (told.out, told.capacity) = (details.buffer as usize, details.capacity);
    let key = details.key.filter(|_| details.key_mask.is_none());
    out.put(&trine_incoming {
        size: 0, // the caller's stays
        operation: details.number,
        request: request.id().to_bits(),
        data,
        len: len as u64,
        out: details.buffer.cast(),
        out_capacity: details.capacity as u64,
        deadline_ns: details.deadline_ns.unwrap_or(0),
        uid: details.caller.uid,
        gid: details.caller.gid,
        pid: details.caller.pid,
        flags: if details.key_mask.is_some() { TRINE_PART } else { 0 },
        key: key.map_or_else(trine_key::default, trine_key::from),
        key_mask: details.key_mask.unwrap_or(0),
    });
    drop(details);
    let _ = request.detach();
    Ok(TRINE_OK)
}

fn no_request() -> Failure {
    Failure::argument("there is no such request, or it was answered already")
}

fn open_request<'w>(worker: &'w Worker, request: trine_request) -> Outcome<Request<'w>> {
    worker.request(RequestId::from_bits(request)).ok_or_else(no_request)
}

/// Answers a request. If `data` is its `out`, what was built there is sent as it is; else it is copied once, to where
/// the client reads it. It may be the request's own data. More than out_capacity gives the caller
/// TRINE_REPLY_TOO_LARGE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trine_answer(
    worker: *mut trine_worker,
    request: trine_request,
    data: *const c_void,
    len: usize,
) -> trine_status {
    let answer = |serving: &mut Serving| {
        let Serving { worker, told } = serving;
        let id = RequestId::from_bits(request);
        let told = told.get(id.index()).ok_or_else(no_request)?;
        let _ = if len > told.capacity {
            open_request(worker, request)?.reply_with(len, |_, _| {}) // which says what is needed, and fills nothing
        } else if len > 0 && !data.is_null() && data as usize == told.out {
            open_request(worker, request)?.reply_built(len)
        } else if let Some(at) = told.offset_of(data as usize, len) {
            open_request(worker, request)?.reply_with(len, |from, to| copy(from, at, len, to))
        } else {
            // SAFETY: the rules of the header.
            let bytes = unsafe { input::bytes(data, len)? };
            return if worker.reply(id, bytes) { Ok(TRINE_OK) } else { Err(no_request()) };
        };
        Ok(TRINE_OK)
    };
    // SAFETY: the rules of the header.
    unsafe { handle::with(worker, answer) }
}

impl Told {
    /// Where in a large request's own payload the data begins, if it lies there: another process may write it, so that it
    /// is copied with care.
    fn offset_of(&self, data: usize, len: usize) -> Option<usize> {
        let at = data.checked_sub(self.large)?;
        (self.len > SMALL && at.checked_add(len)? <= self.len).then_some(at)
    }
}

/// Copies through a few KiB that stay in the cache.
fn copy(from: &Shared<'_>, start: usize, len: usize, to: &mut SharedMut<'_>) {
    let (mut piece, mut at) = ([0; 4096], 0);
    while at < len {
        let count = from.read_at(start + at, &mut piece).min(len - at);
        if count == 0 {
            return;
        }
        to.write_at(at, &piece[..count]);
        at += count;
    }
}

/// Answers with an error: TRINE_WORKER_ERROR, your number, and a message (1 KiB; what is longer is cut), or NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trine_fail(
    worker: *mut trine_worker,
    request: trine_request,
    code: u32,
    message: *const c_char,
) -> trine_status {
    let fail = |serving: &mut Serving| {
        // SAFETY: the rules of the header.
        let message = if message.is_null() { "" } else { unsafe { input::text(message, "the message")? } };
        let _ = open_request(&serving.worker, request)?.fail(code, message);
        Ok(TRINE_OK)
    };
    // SAFETY: the rules of the header.
    unsafe { handle::with(worker, fail) }
}

/// Whether a request's caller has given it up, or is gone: 1 or 0. A negative number is a status: TRINE_EINVAL also in
/// a forked child.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trine_is_cancelled(worker: *mut trine_worker, request: trine_request) -> c_int {
    let look = |serving: &mut Serving| {
        let request = open_request(&serving.worker, request)?;
        let cancelled = request.is_cancelled();
        let _ = request.detach();
        Ok(c_int::from(cancelled))
    };
    // SAFETY: the rules of the header.
    unsafe { handle::number(worker, look) }
}

/// The resources that a request is about: of a part of a scatter all that this worker is asked about, in the order in
/// which its caller named them; else the one that it names, if it does. The first `room` of them are written to `out`,
/// which may be NULL if there is none; *count says how many there are.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trine_request_keys(
    worker: *mut trine_worker,
    request: trine_request,
    out: *mut trine_key,
    room: usize,
    count: *mut usize,
) -> trine_status {
    // SAFETY: the rules of the header.
    let keys = |serving: &mut Serving| unsafe {
        let count = input::slot(count)?;
        count.write(0);
        if room > 0 {
            input::slot(out)?;
        }
        let request = open_request(&serving.worker, request)?;
        let keys = request.keys();
        let _ = request.detach();
        for (index, &key) in keys.iter().take(room).enumerate() {
            // Up to `room` of them the caller has.
            out.add(index).write(key.into());
        }
        count.write(keys.len());
        Ok(TRINE_OK)
    };
    // SAFETY: the rules of the header.
    unsafe { handle::with(worker, keys) }
}

/// Makes trine_next(), the one under way or else the next one, return TRINE_INTERRUPTED; once. From any thread, and from
/// a signal handler, until trine_worker_close() is called. [S]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trine_wake(worker: *const trine_worker) -> trine_status {
    // A signal handler leaves errno as it was.
    let errno = Errno::last_raw();
    let status = handle::guarded(|| {
        // SAFETY: the rules of the header.
        unsafe { handle::shared::<Serving, _>(worker)? }.wake();
        Ok(())
    });
    Errno::set_raw(errno);
    status
}

/// The descriptor for an event loop: see the head of this file. A negative number is a status: TRINE_EINVAL also in a
/// forked child.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trine_worker_fd(worker: *const trine_worker) -> c_int {
    // SAFETY: the rules of the header.
    unsafe { handle::number(worker, |serving: &mut Serving| Ok(serving.worker.as_fd().as_raw_fd())) }
}

/// Before an event loop sleeps. TRINE_OK: poll the descriptor, then disarm. TRINE_READY: don't. [S] now and then.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trine_worker_arm(worker: *mut trine_worker) -> trine_status {
    // SAFETY: the rules of the header.
    unsafe { handle::with(worker, |serving: &mut Serving| Ok(crate::client::armed(serving.worker.arm()?))) }
}

/// After an event loop has slept. [S]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trine_worker_disarm(worker: *mut trine_worker) -> trine_status {
    // SAFETY: the rules of the header.
    unsafe { handle::with(worker, |serving: &mut Serving| Ok(serving.worker.disarm().map(|()| TRINE_OK)?)) }
}
