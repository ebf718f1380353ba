//! Handles: what a pointer from C is checked against before anything behind it is touched.
//!
//! ```text
//! pointer ─► aligned? ─► magic: this kind's? ─► busy: nobody in it? ─► [ the library ] ─► status
//!            EINVAL      EINVAL                  EBUSY                  a panic: EPANIC, and closed for all but close
//! ```
//! The memory of a handle is never given back, only used for another one later, oldest first: so a look at the magic
//! word of a freed handle is always a look at a magic word, and mostly one that says so.

use std::any::Any;
use std::borrow::Cow;
use std::cell::UnsafeCell;
use std::collections::VecDeque;
use std::ffi::{CString, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, Once};

use crate::status::*;

/// What a handle can be of.
pub trait Kind: Sized + Send + 'static {
    /// No two kinds have the same.
    const MAGIC: u32;
    /// What other threads may use while one is in the handle.
    type Shared: Send + Sync;
    /// Where its handles are kept when they are free.
    fn free_list() -> &'static FreeList<Self>;
}

/// The magic word of a handle that is not in use.
const FREE: u32 = 0x6672_6565;
/// So many handles are kept before one is used again.
const REST: usize = 64;

/// What all kinds of handles begin with.
#[repr(C)]
struct Head {
    magic: AtomicU32,
    /// Somebody is in it.
    busy: AtomicBool,
    /// How often this process and those before it were forked when the handle was made.
    forks: AtomicU32,
    /// A panic came through it. Belongs to who is in it, as the error does.
    broken: UnsafeCell<bool>,
    error: UnsafeCell<Cow<'static, str>>,
    /// The error, as C was given it.
    c_error: UnsafeCell<CString>,
}

/// What a pointer from C points to.
#[repr(C)]
pub struct Handle<K: Kind> {
    head: Head,
    body: UnsafeCell<Option<K>>,
    shared: UnsafeCell<Option<K::Shared>>,
}

/// Handles that are not in use.
pub type FreeList<K> = Mutex<VecDeque<&'static Handle<K>>>;

// SAFETY: all but the atomics and `shared` is touched only by whoever has set `busy`, one at a time, and a `Kind` may go
// from thread to thread. `shared` is written only while nobody has the handle yet, or any more; in between it is read,
// and may be, by several threads.
unsafe impl<K: Kind> Sync for Handle<K> {}

/// Forks that have led to this process, since the library is in use. The library itself sees a fork, too; here it is
/// seen before anything is touched.
static FORKS: AtomicU32 = AtomicU32::new(0);

fn forks() -> u32 {
    static COUNTING: Once = Once::new();
    extern "C" fn count() {
        FORKS.fetch_add(1, Ordering::Relaxed);
    }
    COUNTING.call_once(|| {
        // SAFETY: `count` does nothing but what may be done in a child of a process with threads. Fails only for want
        // of memory; then the library finds most of it.
        unsafe { nix::libc::pthread_atfork(None, None, Some(count)) };
    });
    FORKS.load(Ordering::Relaxed)
}

/// Who is in a handle: the only one. Leaves when it is dropped.
struct Inside<'a>(&'a Head);

impl Head {
    /// Whether it is this process's own. One that is forked has only the one thread, which sees its own count.
    #[inline]
    fn check_fork(&self) -> Outcome {
        if self.forks.load(Ordering::Relaxed) == FORKS.load(Ordering::Relaxed) {
            return Ok(());
        }
        Err(Failure::plain(trine::Status::Forked))
    }

    fn enter(&self) -> Outcome<Inside<'_>> {
        // Acquire: pairs with the release in Inside::drop, of whoever was in it before.
        if self.busy.swap(true, Ordering::Acquire) {
            return Err(Failure::new(TRINE_EBUSY, "another thread uses this handle now; one at a time"));
        }
        Ok(Inside(self))
    }
}

impl Inside<'_> {
    fn keep(&self, failure: &Failure) {
        // SAFETY: whoever is inside is alone.
        unsafe { *self.0.error.get() = failure.message.clone() };
    }

    fn is_broken(&self) -> bool {
        // SAFETY: whoever is inside is alone.
        unsafe { *self.0.broken.get() }
    }

    fn set_broken(&self, broken: bool) {
        // SAFETY: whoever is inside is alone.
        unsafe { *self.0.broken.get() = broken };
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.busy.store(false, Ordering::Release); // pairs with the acquire in Head::enter
    }
}

/// What a pointer points to, if it is such a handle.
///
/// # Safety
/// `pointer` is one that `make` gave, of any kind, freed or not; or NULL; or else readable for a word.
unsafe fn find<K: Kind, P>(pointer: *const P) -> Outcome<&'static Handle<K>> {
    let handle = pointer.cast::<Handle<K>>();
    if handle.is_null() || !handle.is_aligned() {
        return Err(Failure::argument("the handle is NULL, or no handle"));
    }
    // SAFETY: not null, aligned, readable: the caller's promise.
    let magic = unsafe { &*pointer.cast::<AtomicU32>() }.load(Ordering::Acquire); // pairs with the release in make
    if magic == K::MAGIC {
        // SAFETY: whatever has this word is such a handle, and its memory stays one for ever.
        return Ok(unsafe { &*handle });
    }
    Err(Failure::argument(if magic == FREE {
        "the handle is closed"
    } else {
        "the handle is of another kind"
    }))
}

/// Makes a handle.
pub fn make<K: Kind, P>(body: K, shared: K::Shared) -> *mut P {
    let mut free = K::free_list().lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let rested = if free.len() >= REST { free.pop_front() } else { None };
    drop(free);
    let handle: &'static Handle<K> = rested.unwrap_or_else(|| {
        let head = Head {
            magic: AtomicU32::new(FREE),
            busy: AtomicBool::new(false),
            forks: AtomicU32::new(0),
            broken: UnsafeCell::new(false),
            error: UnsafeCell::new(Cow::Borrowed("")),
            c_error: UnsafeCell::new(CString::default()),
        };
        Box::leak(Box::new(Handle { head, body: UnsafeCell::new(None), shared: UnsafeCell::new(None) }))
    });
    // Somebody who still uses a handle that is closed may be in it for a moment.
    let inside = loop {
        match handle.head.enter() {
            Ok(inside) => break inside,
            Err(_) => std::thread::yield_now(),
        }
    };
    // SAFETY: whoever is inside is alone.
    unsafe {
        (*handle.body.get(), *handle.shared.get()) = (Some(body), Some(shared));
        *handle.head.error.get() = Cow::Borrowed("");
    }
    handle.head.forks.store(forks(), Ordering::Relaxed);
    drop(inside);
    handle.head.magic.store(K::MAGIC, Ordering::Release); // pairs with the acquire in find
    (&raw const *handle).cast_mut().cast()
}

/// Ends a handle. NULL is fine.
///
/// # Safety
/// As for [`find`].
pub unsafe fn close<K: Kind, P>(pointer: *mut P, end: impl FnOnce(K) -> Outcome) -> trine_status {
    if pointer.is_null() {
        return TRINE_OK;
    }
    guarded(|| {
        // SAFETY: the caller's promise.
        let handle = unsafe { find::<K, P>(pointer)? };
        let inside = handle.head.enter()?;
        // Another thread may have closed it since.
        let ours = handle.head.magic.compare_exchange(K::MAGIC, FREE, Ordering::AcqRel, Ordering::Relaxed);
        ours.map_err(|_| Failure::argument("the handle is closed"))?;
        // SAFETY: whoever is inside is alone, and with the magic word gone nobody comes any more.
        let body = unsafe {
            drop((*handle.shared.get()).take());
            (*handle.body.get()).take()
        };
        inside.set_broken(false);
        drop(inside);
        let ended = catch_unwind(AssertUnwindSafe(|| body.map_or(Ok(()), end)));
        // In a forked child the lock may be held for ever: then the memory is not used again.
        if let Ok(mut free) = K::free_list().try_lock() {
            free.push_back(handle);
        }
        ended.unwrap_or_else(|panic| Err(panicked(&*panic)))
    })
}

/// Runs what is done with a handle, and keeps why it failed.
///
/// # Safety
/// As for [`find`].
#[inline]
pub unsafe fn with<K: Kind, P>(
    pointer: *const P,
    run: impl FnOnce(&mut K) -> Outcome<trine_status>,
) -> trine_status {
    // SAFETY: the caller's promise.
    let entered = unsafe { find::<K, P>(pointer) }.and_then(|handle| Ok((handle, handle.head.enter()?)));
    let (handle, inside) = match entered {
        Ok(entered) => entered,
        Err(failure) => return lost(&failure),
    };
    // SAFETY: whoever is inside is alone.
    let Some(body) = (unsafe { (*handle.body.get()).as_mut() }) else {
        return lost(&Failure::argument("the handle is closed"));
    };
    if inside.is_broken() {
        return TRINE_EPANIC;
    }
    if let Err(failure) = inside.0.check_fork() {
        inside.keep(&failure);
        return failure.status;
    }
    // Nobody sees what a panic left half done: the handle is broken then.
    let failure = match catch_unwind(AssertUnwindSafe(|| run(body))) {
        Ok(Ok(status)) => return status,
        Ok(Err(failure)) => failure,
        Err(panic) => {
            inside.set_broken(true);
            panicked(&*panic)
        }
    };
    inside.keep(&failure);
    failure.status
}

/// The same for what gives a number, from 0 on: a status is below 0 then, whatever it is.
///
/// # Safety
/// As for [`find`].
pub unsafe fn number<K: Kind, P>(pointer: *const P, look: impl FnOnce(&mut K) -> Outcome<c_int>) -> c_int {
    let mut number = 0;
    let keep = |body: &mut K| {
        number = look(body)?;
        Ok(TRINE_OK)
    };
    // SAFETY: the caller's promise.
    let status = unsafe { with(pointer, keep) };
    if status == TRINE_OK { number } else { status.min(TRINE_EINVAL) }
}

/// What other threads may use while one is in the handle.
///
/// # Safety
/// As for [`find`]; and nobody closes the handle meanwhile.
pub unsafe fn shared<K: Kind, P>(pointer: *const P) -> Outcome<&'static K::Shared> {
    // SAFETY: the caller's promise.
    let handle = unsafe { find::<K, P>(pointer)? };
    handle.head.check_fork()?;
    // SAFETY: it was written before anybody had the handle, and stays until it is closed.
    let shared = unsafe { (*handle.shared.get()).as_ref() };
    shared.ok_or_else(|| Failure::argument("the handle is closed"))
}

/// Runs what is done without a handle; why it failed is the thread's to ask.
pub fn guarded(run: impl FnOnce() -> Outcome) -> trine_status {
    match catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| Err(panicked(&*panic))) {
        Ok(()) => TRINE_OK,
        Err(failure) => lost(&failure),
    }
}

#[cold]
fn lost(failure: &Failure) -> trine_status {
    keep_for_thread(failure);
    failure.status
}

fn panicked(panic: &(dyn Any + Send)) -> Failure {
    let said = panic.downcast_ref::<String>().map(String::as_str);
    let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
    Failure::new(TRINE_EPANIC, format!("a mistake of the library's own: {said}"))
}

/// Why the last function that failed on this handle did: a sentence, without the status's name. Of a call that ended
/// with TRINE_WORKER_ERROR it is the worker's message. With NULL, or a handle that is none: of the last function of
/// this thread that failed without a handle, such as trine_connect(). Valid until the next function on that handle,
/// or in this thread. Never NULL; "" if nothing failed yet.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trine_error(handle: *const c_void) -> *const c_char {
    use crate::{client::Calls, director::Running, worker::Serving};
    let head = handle.cast::<Head>();
    if head.is_null() || !head.is_aligned() {
        return of_thread();
    }
    // SAFETY: not null, aligned, and a handle, as the caller promises: each begins with this word.
    let magic = unsafe { &*handle.cast::<AtomicU32>() }.load(Ordering::Acquire); // pairs with the release in make
    if ![Calls::MAGIC, Serving::MAGIC, Running::MAGIC].contains(&magic) {
        return of_thread();
    }
    // SAFETY: whatever has such a word is a handle, and begins with a head.
    let head = unsafe { &*head };
    let Ok(_inside) = head.enter() else { return c"another thread uses this handle now".as_ptr() };
    // SAFETY: whoever is inside is alone.
    unsafe {
        *head.c_error.get() = c_text(&*head.error.get());
        (*head.c_error.get()).as_ptr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Thing;

    impl Kind for Thing {
        const MAGIC: u32 = 0x7472_7468;
        type Shared = ();
        fn free_list() -> &'static FreeList<Thing> {
            static FREE: FreeList<Thing> = Mutex::new(VecDeque::new());
            &FREE
        }
    }

    #[test]
    fn a_panic_goes_no_further_and_its_handle_can_only_be_closed() {
        let [first, second]: [*mut Thing; 2] = [make(Thing, ()), make(Thing, ())];
        // SAFETY: both are handles.
        unsafe {
            assert_eq!(with(first, |_: &mut Thing| Ok(TRINE_OK)), TRINE_OK);
            assert_eq!(with(first, |_: &mut Thing| panic!("on purpose")), TRINE_EPANIC);
            assert_eq!(with(first, |_: &mut Thing| Ok(TRINE_OK)), TRINE_EPANIC);
            assert_eq!(number(first, |_: &mut Thing| Ok(7)), TRINE_EPANIC);
            assert_eq!(close(first, |_: Thing| Ok(())), TRINE_OK);
            assert_eq!(with(first, |_: &mut Thing| Ok(TRINE_OK)), TRINE_EINVAL);
            // The other is as it was; a panic while it closes is one, too, and it is closed.
            assert_eq!(number(second, |_: &mut Thing| Ok(7)), 7);
            assert_eq!(close(second, |_: Thing| panic!("on purpose")), TRINE_EPANIC);
            assert_eq!(close(second, |_: Thing| Ok(())), TRINE_EINVAL);
        }
        assert_eq!(guarded(|| panic!("on purpose")), TRINE_EPANIC);
    }
}
