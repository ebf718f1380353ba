//! What a worker provides, declares and holds; what it is told of that; how it leaves.

use std::ffi::{CStr, c_char, c_void};

use trine::{Event, Resource};

use crate::handle;
use crate::input;
use crate::resource::{self, *};
use crate::status::*;
use crate::types::*;
use crate::worker::Serving;

/// trine_provide(), on some resources only, or with a policy for the service. [B] `options` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trine_provide_with(
    worker: *mut trine_worker,
    service: *const c_char,
    operations: *const *const c_char,
    count: usize,
    options: *const trine_service_options,
    first: *mut u32,
) -> trine_status {
    let provide = |serving: &mut Serving| {
        // SAFETY: the rules of the header.
        let (service, names, given) = unsafe {
            (
                input::text(service, "the service")?,
                input::array(operations, count, trine::limits::OPERATIONS_MAX, "the operations")?,
                input::read::<trine_service_options>(options)?,
            )
        };
        if names.is_empty() {
            return Err(Failure::argument("there are no operations"));
        }
        // SAFETY: the rules of the header.
        let names = names.iter().map(|&name| unsafe { input::text(name, "an operation") });
        let names = names.collect::<Outcome<Vec<_>>>()?;
        // SAFETY: the rules of the header.
        let options = unsafe { resource::service_options(&given, &names)? };
        // Before anything is done: a bad pointer's TRINE_EINVAL says that nothing was.
        // SAFETY: the rules of the header.
        let first = if first.is_null() { None } else { Some(unsafe { input::slot(first)? }) };
        let number = serving.worker.provide_with(service, &names, options)?;
        if let Some(first) = first {
            first.write(number);
        }
        Ok(TRINE_OK)
    };
    // SAFETY: the rules of the header.
    unsafe { handle::with(worker, provide) }
}

/// Changes what this worker declares and holds in a service that it provides: all `count` steps (up to 128) or none,
/// at once, while calls go on. [B] A right that another worker holds is handed over when that one has finished what it
/// was given: TRINE_GAINED says when. TRINE_NO_SUCH_SERVICE: not provided. TRINE_NO_SUCH_RESOURCE: withdrawn, but not
/// declared so. TRINE_NOT_HELD: released, but not held. TRINE_BAD_RESOURCE: it can't be. TRINE_BUSY: too many.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trine_change(
    worker: *mut trine_worker,
    service: *const c_char,
    steps: *const trine_step,
    count: usize,
) -> trine_status {
    // SAFETY: the rules of the header.
    let change = |serving: &mut Serving| unsafe {
        let service = input::text(service, "the service")?;
        let steps = input::array(steps, count, trine::limits::RESOURCES_PER_CHANGE, "the steps")?;
        serving.worker.change(service, resource::changes(steps)?)?;
        Ok(TRINE_OK)
    };
    // SAFETY: the rules of the header.
    unsafe { handle::with(worker, change) }
}

/// # Safety
/// As for [`input::slot`].
unsafe fn one(given: *const trine_resource) -> Outcome<Resource> {
    // SAFETY: the caller's promise.
    let given = unsafe { input::array(given, 1, 1, "the resource's pointer")? };
    resource::resource(given[0])
}

/// Asks for the exclusive right to a number, a name or a range. [B] TRINE_OK: it is held. TRINE_WOULD_BLOCK: another
/// worker holds it, and was asked to hand it over; TRINE_GAINED will tell. Else as trine_change().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trine_acquire(
    worker: *mut trine_worker,
    service: *const c_char,
    resource: *const trine_resource,
) -> trine_status {
    // SAFETY: the rules of the header.
    let acquire = |serving: &mut Serving| unsafe {
        let (service, resource) = (input::text(service, "the service")?, one(resource)?);
        if serving.worker.acquire(service, resource)? {
            return Ok(TRINE_OK);
        }
        Err(Failure::new(TRINE_WOULD_BLOCK, "another worker holds it, and was asked to hand it over"))
    };
    // SAFETY: the rules of the header.
    unsafe { handle::with(worker, acquire) }
}

/// Gives a right back. [B] What this worker was given on it, it still serves; then it is lost: TRINE_LOST.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trine_release(
    worker: *mut trine_worker,
    service: *const c_char,
    resource: *const trine_resource,
) -> trine_status {
    // SAFETY: the rules of the header.
    let release = |serving: &mut Serving| unsafe {
        let (service, resource) = (input::text(service, "the service")?, one(resource)?);
        Ok(serving.worker.release(service, resource).map(|()| TRINE_OK)?)
    };
    // SAFETY: the rules of the header.
    unsafe { handle::with(worker, release) }
}

/// What this worker holds exclusively of a service, as far as it has heard: the first `room` of it are written to
/// `out`, which may be NULL if there is none; *count says how much there is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trine_holds(
    worker: *mut trine_worker,
    service: *const c_char,
    out: *mut trine_resource,
    room: usize,
    count: *mut usize,
) -> trine_status {
    // SAFETY: the rules of the header.
    let holds = |serving: &mut Serving| unsafe {
        let (service, count) = (input::text(service, "the service")?, input::slot(count)?);
        count.write(0);
        let held = serving.worker.holds(service);
        if room > 0 {
            input::slot(out)?;
        }
        for (index, &resource) in held.iter().take(room).enumerate() {
            // Up to `room` of them the caller has.
            out.add(index).write(resource.into());
        }
        count.write(held.len());
        Ok(TRINE_OK)
    };
    // SAFETY: the rules of the header.
    unsafe { handle::with(worker, holds) }
}

/// The key of a resource's name: see trine_key_of(). [B], once for each name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trine_worker_key_of(
    worker: *mut trine_worker,
    name: *const c_char,
    out: *mut trine_key,
) -> trine_status {
    // SAFETY: the rules of the header.
    let key = |serving: &mut Serving| unsafe {
        let out = input::slot(out)?;
        out.write(trine_key::default());
        out.write(serving.worker.key(input::text(name, "the name")?)?.into());
        Ok(TRINE_OK)
    };
    // SAFETY: the rules of the header.
    unsafe { handle::with(worker, key) }
}

/// Takes no new work: what this worker was given it still serves, then trine_next() gives TRINE_DRAINED. [B] Clients
/// notice nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trine_drain(worker: *mut trine_worker) -> trine_status {
    // SAFETY: the rules of the header.
    unsafe { handle::with(worker, |serving: &mut Serving| Ok(serving.worker.drain().map(|()| TRINE_OK)?)) }
}

/// The worker's id on its bus, as trine_reply.worker says it; 0 where there is no such worker.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trine_worker_id(worker: *mut trine_worker) -> u64 {
    let mut id = 0;
    let look = |serving: &mut Serving| {
        id = serving.worker.id();
        Ok(TRINE_OK)
    };
    // SAFETY: the rules of the header.
    unsafe { handle::with(worker, look) };
    id
}

/// Is told each event of a worker, with the `user` of trine_on_event(), in the thread that is in trine_next(). It must
/// not throw. It may call trine_wake(); the others give TRINE_EBUSY on this worker.
pub type trine_event_callback = Option<unsafe extern "C" fn(user: *mut c_void, event: *const trine_event)>;

/// What is told of events.
struct Ear {
    callback: unsafe extern "C" fn(*mut c_void, *const trine_event),
    user: *mut c_void,
}

// SAFETY: a worker is used by one thread at a time, and so is what `user` points to: the rules of the header.
unsafe impl Send for Ear {}

impl Ear {
    fn hear(&self, event: &Event) {
        let mut told = input::zeroed::<trine_event>();
        told.size = size_of::<trine_event>() as u32;
        let (kind, about) = match event {
            Event::Gained { service, resource } => (TRINE_GAINED, Some((service, *resource))),
            Event::Lost { service, resource } => (TRINE_LOST, Some((service, *resource))),
            Event::Draining => (TRINE_DRAINING, None),
            _ => return,
        };
        told.kind = kind;
        let service = about.as_ref().map(|(service, _)| c_text(service));
        told.service = service.as_deref().map_or(std::ptr::null(), CStr::as_ptr);
        told.resource = about.map_or_else(trine_resource::default, |(_, resource)| resource.into());
        // SAFETY: a callback of this signature, as C gave it; the event and its string live until it returns.
        unsafe { (self.callback)(self.user, &raw const told) };
    }
}

/// Has each event told to the callback, from within trine_next(): a right that was gained before the first request on
/// it comes, one that is lost after the last one was answered, and before anybody else has it. NULL: to nobody.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trine_on_event(
    worker: *mut trine_worker,
    callback: trine_event_callback,
    user: *mut c_void,
) -> trine_status {
    let listen = |serving: &mut Serving| {
        match callback.map(|callback| Ear { callback, user }) {
            Some(ear) => serving.worker.on_event(move |event| ear.hear(event)),
            None => serving.worker.on_event(|_| {}),
        }
        Ok(TRINE_OK)
    };
    // SAFETY: the rules of the header.
    unsafe { handle::with(worker, listen) }
}
