//! Calling.

use std::collections::VecDeque;
use std::ffi::{c_char, c_int, c_void};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Mutex;
use std::time::Duration;

use trine::{
    Armed, CallError, Client, ClientOptions, Draft, KeptLoan, Key, Parts, Priority, Reply, Route, Status,
    Ticket, Until,
};

use crate::handle::{self, FreeList, Kind};
use crate::input::{self, Out};
use crate::resource;
use crate::shelf::Shelf;
use crate::status::*;
use crate::types::*;

/// A client, and what of it is in C's hands.
pub(crate) struct Calls {
    client: Client,
    shelf: Shelf,
    loans: Vec<Lent>,
}

/// Memory in which C builds a request.
struct Lent {
    start: *mut u8,
    route: Route,
    kept: KeptLoan,
}

// SAFETY: `start` is only compared with; the rest may go from thread to thread.
unsafe impl Send for Lent {}

impl Kind for Calls {
    const MAGIC: u32 = 0x7472_636c;
    type Shared = ();
    fn free_list() -> &'static FreeList<Calls> {
        static FREE: FreeList<Calls> = Mutex::new(VecDeque::new());
        &FREE
    }
}

/// Connects a client. [B] `bus` is a bus's name, or a path with a slash in it, or NULL for the default bus; `options` may
/// be NULL. Where it fails, *out is NULL and trine_error(NULL) says why.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trine_connect(
    bus: *const c_char,
    options: *const trine_options,
    out: *mut *mut trine_client,
) -> trine_status {
    handle::guarded(|| {
        // SAFETY: the rules of the header.
        let out = unsafe { input::slot(out)? };
        out.write(std::ptr::null_mut());
        // SAFETY: the rules of the header.
        let (bus, options) = unsafe { (input::bus(bus)?, input::read(options)?) };
        let client = bus.client(client_options(&options)?)?;
        out.write(handle::make(Calls { client, shelf: Shelf::default(), loans: Vec::new() }, ()));
        Ok(())
    })
}

fn client_options(given: &trine_options) -> Outcome<ClientOptions> {
    let mut options = ClientOptions::default().interruptible(given.flags & TRINE_RESTART == 0);
    options.waiting = input::waiting(given)?;
    fn choose<T: PartialEq + Default>(field: &mut T, given: T) {
        if given != T::default() {
            *field = given;
        }
    }
    choose(&mut options.slots, given.slots);
    choose(&mut options.reply_capacity, given.reply_capacity);
    choose(&mut options.request_arena, given.request_arena);
    choose(&mut options.reply_arena, given.reply_arena);
    choose(&mut options.director_gone, Duration::from_nanos(given.director_gone_ns));
    Ok(options)
}

/// Ends a client: gives up its open calls, after waiting for one-way calls to be taken over, a second at most. [B] The
/// data of its replies and its loans are gone then. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trine_close(client: *mut trine_client) -> trine_status {
    // SAFETY: the rules of the header.
    unsafe {
        handle::close(client, |calls: Calls| {
            drop(calls);
            Ok(())
        })
    }
}

/// Finds an operation. Once for each; a call needs only the result. [B]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trine_route_of(
    client: *mut trine_client,
    service: *const c_char,
    operation: *const c_char,
    out: *mut trine_route,
) -> trine_status {
    // SAFETY: the rules of the header.
    let route = |calls: &mut Calls| unsafe {
        let out = input::slot(out)?;
        let (service, operation) =
            (input::text(service, "the service")?, input::text(operation, "the operation")?);
        out.write(calls.client.route(service, operation)?.number());
        Ok(TRINE_OK)
    };
    // SAFETY: the rules of the header.
    unsafe { handle::with(client, route) }
}

/// The key of a resource's name, for trine_call_args.key: the same for every client and worker as long as the bus lives.
/// [B], once for each name. TRINE_BAD_RESOURCE: another name has the same hash.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trine_key_of(
    client: *mut trine_client,
    name: *const c_char,
    out: *mut trine_key,
) -> trine_status {
    // SAFETY: the rules of the header.
    let key = |calls: &mut Calls| unsafe {
        let out = input::slot(out)?;
        out.write(trine_key::default());
        out.write(calls.client.key(input::text(name, "the name")?)?.into());
        Ok(TRINE_OK)
    };
    // SAFETY: the rules of the header.
    unsafe { handle::with(client, key) }
}

/// Calls, and waits for the result; the data is copied in. [B] `args` may be NULL. Returns how the call ended, as
/// out->status says. After TRINE_INTERRUPTED with out->ticket not 0 the call is still open: trine_wait() for it, or
/// trine_cancel() it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trine_call(
    client: *mut trine_client,
    route: trine_route,
    data: *const c_void,
    len: usize,
    args: *const trine_call_args,
    out: *mut trine_reply,
) -> trine_status {
    // SAFETY: the rules of the header.
    let call = |calls: &mut Calls| unsafe {
        let out = Out::new(out)?;
        let mut reply = input::zeroed::<trine_reply>();
        let sent = draft(&calls.client, route, args).and_then(|draft| {
            let sent = draft.submit(input_bytes(data, len)?, Until::Forever);
            sent.map_err(|error| {
                note(&mut reply, &error);
                Failure::from(&error)
            })
        });
        let mut pending = match sent {
            Ok(pending) => pending,
            Err(failure) => {
                reply.status = failure.status;
                out.put(&reply);
                return Err(failure);
            }
        };
        reply.ticket = pending.ticket().to_bits();
        let ended = pending.wait_until(Until::Forever);
        if ended.is_none() {
            let _ = pending.detach();
        }
        finish(&calls.client, &mut calls.shelf, reply, ended, &out)
    };
    // SAFETY: the rules of the header.
    unsafe { handle::with(client, call) }
}

/// Bytes of a request: more than any request may have are refused before they are looked at.
unsafe fn input_bytes<'a>(data: *const c_void, len: usize) -> Outcome<&'a [u8]> {
    if len as u64 > trine::limits::PAYLOAD_MAX {
        return Err(Failure::plain(Status::RequestTooLarge));
    }
    // SAFETY: the caller's promise.
    unsafe { input::bytes(data, len) }
}

unsafe fn draft<'c>(
    client: &'c Client,
    route: trine_route,
    args: *const trine_call_args,
) -> Outcome<Draft<'c>> {
    let draft = client.request(Route::from_number(route));
    if args.is_null() {
        return Ok(draft);
    }
    // SAFETY: the caller's promise.
    let args = unsafe { input::read(args)? };
    if args.flags & !(TRINE_HIGH | TRINE_LOW | TRINE_TRACED) != 0 {
        return Err(Failure::argument("a flag of the call is not known"));
    }
    let draft = if args.flags & TRINE_TRACED != 0 { draft.traced() } else { draft };
    let draft = match args.flags & (TRINE_HIGH | TRINE_LOW) {
        0 => draft,
        TRINE_HIGH => draft.priority(Priority::High),
        TRINE_LOW => draft.priority(Priority::Low),
        _ => return Err(Failure::argument("a call is of one class only")),
    };
    let draft = match resource::key(args.key)? {
        Some(key) => draft.key(key),
        None => draft,
    };
    let draft = match args.deadline_ns {
        0 => draft,
        1.. => draft.timeout(Duration::from_nanos(args.deadline_ns as u64)),
        _ => return Err(Failure::argument("a deadline is negative")),
    };
    let capacity = usize::try_from(args.reply_capacity).unwrap_or(usize::MAX);
    Ok(if capacity == 0 { draft } else { draft.reply_capacity(capacity) })
}

fn note(reply: &mut trine_reply, error: &CallError) {
    reply.status = number(error.status());
    reply.flags |= if error.may_have_run() { TRINE_RAN } else { 0 };
    reply.code = error.code();
    reply.needed = error.needed().unwrap_or(0);
}

/// Says how a call ended, or that it has not.
#[inline]
fn finish(
    client: &Client,
    shelf: &mut Shelf,
    mut reply: trine_reply,
    ended: Option<Result<Reply<'_>, CallError>>,
    out: &Out<trine_reply>,
) -> Outcome<trine_status> {
    let failure = match ended {
        Some(Ok(result)) => {
            reply.worker = u64::from(result.worker());
            if let Some(hops) = result.hops() {
                (reply.taken_ns, reply.pushed_ns, reply.began_ns) =
                    (hops.taken_ns, hops.pushed_ns, hops.began_ns);
                (reply.replied_ns, reply.received_ns) = (hops.replied_ns, hops.received_ns);
            }
            let shelved = shelf.put(result);
            reply.flags |= TRINE_RAN;
            (reply.held, reply.data, reply.len) = (shelved.held, shelved.data, shelved.len as u64);
            out.put(&reply);
            return Ok(TRINE_OK);
        }
        Some(Err(error)) => {
            note(&mut reply, &error);
            Failure::from(&error)
        }
        None if client.was_interrupted() => {
            Failure::new(TRINE_INTERRUPTED, "a signal ended the wait; the call is still open")
        }
        None => Failure::new(TRINE_WOULD_BLOCK, "the call has not ended yet"),
    };
    reply.status = failure.status;
    out.put(&reply);
    Err(failure)
}

/// Sends a request; the data is copied in. [B], but with a timeout of 0, which is how long to wait for a free slot and
/// for room. Its outcome is trine_wait()'s to fetch.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trine_submit(
    client: *mut trine_client,
    route: trine_route,
    data: *const c_void,
    len: usize,
    args: *const trine_call_args,
    timeout_ns: i64,
    out: *mut trine_ticket,
) -> trine_status {
    // SAFETY: the rules of the header.
    let submit = |calls: &mut Calls| unsafe {
        let out = input::slot(out)?;
        out.write(0);
        let draft = draft(&calls.client, route, args)?;
        let sent = draft.submit(input_bytes(data, len)?, input::until(timeout_ns)?);
        out.write(sent.map_err(|e| Failure::from(&e))?.detach().to_bits());
        Ok(TRINE_OK)
    };
    // SAFETY: the rules of the header.
    unsafe { handle::with(client, submit) }
}

/// Sends a request that has no reply. It runs once at most. [B] as trine_submit().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trine_post(
    client: *mut trine_client,
    route: trine_route,
    data: *const c_void,
    len: usize,
    args: *const trine_call_args,
    timeout_ns: i64,
) -> trine_status {
    // SAFETY: the rules of the header.
    let post = |calls: &mut Calls| unsafe {
        let draft = draft(&calls.client, route, args)?;
        let sent = draft.post(input_bytes(data, len)?, input::until(timeout_ns)?);
        sent.map(|()| TRINE_OK).map_err(|e| Failure::from(&e))
    };
    // SAFETY: the rules of the header.
    unsafe { handle::with(client, post) }
}

/// Waits for a call, or, with TRINE_ANY, for whichever ends first. [B] TRINE_WOULD_BLOCK: it did not end in time.
/// TRINE_INTERRUPTED: a signal came. Both leave the call open. Any other status is how it ended, and is said once; a
/// ticket whose end was said, or that was cancelled, gives TRINE_EINVAL. Of a scatter, each time, one part that has
/// ended and was not said: out->parts says how many there are, TRINE_LAST that there are no more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trine_wait(
    client: *mut trine_client,
    ticket: trine_ticket,
    timeout_ns: i64,
    out: *mut trine_reply,
) -> trine_status {
    // SAFETY: the rules of the header.
    let wait = |calls: &mut Calls| {
        // SAFETY: the rules of the header.
        let out = unsafe { Out::new(out)? };
        let mut reply = input::zeroed::<trine_reply>();
        let mut until = input::until(timeout_ns)?;
        let mut ticket = Ticket::from_bits(ticket);
        if ticket.to_bits() == TRINE_ANY {
            match calls.client.wait_any(until)? {
                Some(ended) => (ticket, until) = (ended, Until::Now),
                None => {
                    reply.status = TRINE_WOULD_BLOCK;
                    out.put(&reply);
                    return Err(Failure::new(TRINE_WOULD_BLOCK, "no call has ended, or none is open"));
                }
            }
        }
        reply.ticket = ticket.to_bits();
        let Some(mut pending) = calls.client.pending(ticket) else {
            let Calls { client, shelf, .. } = calls;
            return match client.parts(ticket) {
                Some(parts) => next_part(client, shelf, reply, parts, until, &out),
                None => Err(Failure::argument("there is no such call, or its end was said already")),
            };
        };
        let ended = pending.wait_until(until);
        if ended.is_none() {
            let _ = pending.detach();
        }
        finish(&calls.client, &mut calls.shelf, reply, ended, &out)
    };
    // SAFETY: the rules of the header.
    unsafe { handle::with(client, wait) }
}

/// The next part of a scatter.
fn next_part(
    client: &Client,
    shelf: &mut Shelf,
    mut reply: trine_reply,
    mut parts: Parts<'_>,
    until: Until,
    out: &Out<trine_reply>,
) -> Outcome<trine_status> {
    let part = parts.wait_until(until);
    let (is_done, count) = (parts.is_done(), parts.len());
    let _ = parts.detach();
    let ended = match part {
        None if is_done => return Err(Failure::argument("all parts of it were said already")),
        None => None,
        Some(part) => {
            reply.flags = if is_done { TRINE_LAST } else { 0 };
            reply.key_mask = part.key_mask();
            Some(part.into_result())
        }
    };
    reply.parts = count.map_or(0, |count| count as u32);
    finish(client, shelf, reply, ended, out)
}

/// Sends a request to the workers that have these keys, up to 64: a part for each worker, about those of the keys that it
/// has. The data is copied in, but for a loan: that is sent as by trine_send_loan(). [B] as trine_submit(). Each part
/// ends as a call does, with the deadline of `args` at the latest; trine_wait() gives them as they come, trine_cancel()
/// gives up all that is open. No keys: nothing is sent, and *out is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trine_scatter(
    client: *mut trine_client,
    route: trine_route,
    keys: *const trine_key,
    count: usize,
    data: *const c_void,
    len: usize,
    args: *const trine_call_args,
    timeout_ns: i64,
    out: *mut trine_ticket,
) -> trine_status {
    let send = |calls: &mut Calls| {
        // SAFETY: the rules of the header.
        let (out, keys) = unsafe { (input::slot(out)?, input::array(keys, count, 1 << 16, "the keys")?) };
        out.write(0);
        let key = |&given| resource::key(given)?.ok_or_else(|| Failure::argument("a key is all zeros"));
        let keys = keys.iter().map(key).collect::<Outcome<Vec<Key>>>()?;
        if !keys.is_empty() {
            // SAFETY: the rules of the header.
            let sent = unsafe { scatter(calls, route, Some(&keys), data, len, args, 0, timeout_ns)? };
            out.write(sent.to_bits());
        }
        Ok(TRINE_OK)
    };
    // SAFETY: the rules of the header.
    unsafe { handle::with(client, send) }
}

/// Sends a request to all workers that provide the operation: a part for each, `most` of them at most (0: as many as the
/// client has free slots); where there would be more, nobody gets anything, and the only part ends with
/// TRINE_TOO_MANY_PARTS. Else as trine_scatter().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trine_scatter_all(
    client: *mut trine_client,
    route: trine_route,
    most: u32,
    data: *const c_void,
    len: usize,
    args: *const trine_call_args,
    timeout_ns: i64,
    out: *mut trine_ticket,
) -> trine_status {
    let send = |calls: &mut Calls| {
        // SAFETY: the rules of the header.
        let out = unsafe { input::slot(out)? };
        out.write(0);
        // SAFETY: the rules of the header.
        let sent = unsafe { scatter(calls, route, None, data, len, args, most, timeout_ns)? };
        out.write(sent.to_bits());
        Ok(TRINE_OK)
    };
    // SAFETY: the rules of the header.
    unsafe { handle::with(client, send) }
}

/// Sends bytes, or the loan that begins at `data`: to those who have the keys, or to all.
///
/// # Safety
/// `data` has `len` bytes, and `args` is such a struct or NULL.
#[expect(clippy::too_many_arguments, reason = "what C said")]
unsafe fn scatter(
    calls: &mut Calls,
    route: trine_route,
    keys: Option<&[Key]>,
    data: *const c_void,
    len: usize,
    args: *const trine_call_args,
    most: u32,
    timeout_ns: i64,
) -> Outcome<Ticket> {
    let until = input::until(timeout_ns)?;
    let lent = find_loan(&calls.loans, data.cast_mut()).ok();
    let route = lent.map_or(route, |index| calls.loans[index].route.number());
    // SAFETY: the caller's promise.
    let draft = unsafe { draft(&calls.client, route, args)? };
    let draft = if most > 0 { draft.parts(most as usize) } else { draft };
    let sent = match lent {
        None => {
            // SAFETY: the caller's promise.
            let bytes = unsafe { input_bytes(data, len)? };
            match keys {
                Some(keys) => draft.scatter(keys, bytes, until),
                None => draft.scatter_all(bytes, until),
            }
        }
        Some(index) if len > calls.loans[index].kept.len() => {
            return Err(Failure::argument("the loan is shorter than that"));
        }
        Some(index) => {
            let kept = calls.loans.swap_remove(index).kept;
            let mut loan = draft.reattach(kept).ok_or_else(|| Failure::plain(Status::Fault))?;
            loan.shrink(len);
            match keys {
                Some(keys) => loan.scatter(keys, until),
                None => loan.scatter_all(until),
            }
        }
    };
    Ok(sent.map_err(|e| Failure::from(&e))?.detach())
}

/// trine_wait() with a timeout of 0: looks, and never blocks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trine_poll(
    client: *mut trine_client,
    ticket: trine_ticket,
    out: *mut trine_reply,
) -> trine_status {
    // SAFETY: the rules of the header.
    unsafe { trine_wait(client, ticket, 0, out) }
}

/// Gives a call up. Never blocks. A worker may still run it, and can see that nobody waits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trine_cancel(client: *mut trine_client, ticket: trine_ticket) -> trine_status {
    let ticket = Ticket::from_bits(ticket);
    let cancel = |calls: &mut Calls| match (calls.client.pending(ticket), calls.client.parts(ticket)) {
        (Some(pending), _) => {
            drop(pending);
            Ok(TRINE_OK)
        }
        (None, Some(parts)) => {
            drop(parts);
            Ok(TRINE_OK)
        }
        (None, None) => Err(Failure::argument("there is no such call, or its end was said already")),
    };
    // SAFETY: the rules of the header.
    unsafe { handle::with(client, cancel) }
}

/// Gives a reply's data back, and empties the struct. One that holds nothing is left as it is, and so is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trine_reply_free(
    client: *mut trine_client,
    reply: *mut trine_reply,
) -> trine_status {
    if reply.is_null() {
        return TRINE_OK;
    }
    // SAFETY: the rules of the header.
    let free = |calls: &mut Calls| unsafe {
        let out = Out::new(reply)?;
        // A newer caller's struct may hold more than is known here; what is needed of it stands at its beginning.
        let held = (&raw const (*reply).held).read();
        if held != 0 && !calls.shelf.free(held, &calls.client) {
            return Err(Failure::argument("the reply is another client's, or was freed already"));
        }
        out.put(&input::zeroed());
        Ok(TRINE_OK)
    };
    // SAFETY: the rules of the header.
    unsafe { handle::with(client, free) }
}

/// Lends memory in which to build a request for `route`: the worker will read it there. [B] as trine_submit(). It holds
/// what an earlier request left there. It is yours until trine_send_loan(), trine_loan_free() or trine_close().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trine_loan(
    client: *mut trine_client,
    route: trine_route,
    len: usize,
    timeout_ns: i64,
    out: *mut *mut c_void,
) -> trine_status {
    // SAFETY: the rules of the header.
    let loan = |calls: &mut Calls| {
        // SAFETY: the rules of the header.
        let out = unsafe { input::slot(out)? };
        out.write(std::ptr::null_mut());
        let route = Route::from_number(route);
        let loan = calls.client.request(route).loan(len, input::until(timeout_ns)?);
        let kept = loan.map_err(|e| Failure::from(&e))?.detach();
        let mut kept = kept.ok_or_else(|| Failure::plain(Status::Fault))?;
        let start = kept.as_mut_ptr();
        calls.loans.push(Lent { start, route, kept });
        out.write(start.cast());
        Ok(TRINE_OK)
    };
    // SAFETY: the rules of the header.
    unsafe { handle::with(client, loan) }
}

/// Sends the first `len` bytes of a loan. [B] as trine_submit(). The loan is gone then, sent or not, unless the status is
/// TRINE_EINVAL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trine_send_loan(
    client: *mut trine_client,
    loan: *mut c_void,
    len: usize,
    args: *const trine_call_args,
    timeout_ns: i64,
    out: *mut trine_ticket,
) -> trine_status {
    // SAFETY: the rules of the header.
    let send = |calls: &mut Calls| {
        // SAFETY: the rules of the header.
        let out = unsafe { input::slot(out)? };
        out.write(0);
        let until = input::until(timeout_ns)?;
        let index = find_loan(&calls.loans, loan)?;
        if len > calls.loans[index].kept.len() {
            return Err(Failure::argument("the loan is shorter than that"));
        }
        // SAFETY: the rules of the header.
        let draft = unsafe { draft(&calls.client, calls.loans[index].route.number(), args)? };
        let kept = calls.loans.swap_remove(index).kept;
        let mut loan = draft.reattach(kept).ok_or_else(|| Failure::plain(Status::Fault))?;
        loan.shrink(len);
        out.write(loan.submit(until).map_err(|e| Failure::from(&e))?.detach().to_bits());
        Ok(TRINE_OK)
    };
    // SAFETY: the rules of the header.
    unsafe { handle::with(client, send) }
}

fn find_loan(loans: &[Lent], start: *mut c_void) -> Outcome<usize> {
    let found = loans.iter().position(|lent| lent.start == start.cast());
    found.ok_or_else(|| Failure::argument("there is no such loan, or it was sent already"))
}

/// Gives a loan back, unsent. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trine_loan_free(client: *mut trine_client, loan: *mut c_void) -> trine_status {
    if loan.is_null() {
        return TRINE_OK;
    }
    let free = |calls: &mut Calls| {
        let Lent { route, kept, .. } = calls.loans.swap_remove(find_loan(&calls.loans, loan)?);
        // Attached again, it gives its room back as it is dropped.
        drop(calls.client.request(route).reattach(kept));
        Ok(TRINE_OK)
    };
    // SAFETY: the rules of the header.
    unsafe { handle::with(client, free) }
}

/// The descriptor for an event loop: see the head of this file. A negative number is a status: TRINE_EINVAL also in a
/// forked child.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trine_client_fd(client: *const trine_client) -> c_int {
    // SAFETY: the rules of the header.
    unsafe { handle::number(client, |calls: &mut Calls| Ok(calls.client.as_fd().as_raw_fd())) }
}

/// Before an event loop sleeps. TRINE_OK: poll the descriptor, then disarm. TRINE_READY: don't. [S] now and then.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trine_client_arm(client: *mut trine_client) -> trine_status {
    // SAFETY: the rules of the header.
    unsafe { handle::with(client, |calls: &mut Calls| Ok(armed(calls.client.arm()?))) }
}

/// After an event loop has slept. [S]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trine_client_disarm(client: *mut trine_client) -> trine_status {
    // SAFETY: the rules of the header.
    unsafe { handle::with(client, |calls: &mut Calls| Ok(calls.client.disarm().map(|()| TRINE_OK)?)) }
}

pub(crate) fn armed(armed: Armed) -> trine_status {
    match armed {
        Armed::Sleep => TRINE_OK,
        Armed::Ready => TRINE_READY,
    }
}
