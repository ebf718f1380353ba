//! What C hands over, looked at before it is used: strings, bytes, timeouts, structs of other versions' sizes.
//!
//! A struct's first word is its size, as the caller's header had it. A smaller one is an older caller: what it lacks is
//! 0. A larger one is a newer caller: it may ask for nothing that this library does not know, so the rest must be 0.

use std::ffi::{CStr, c_char, c_void};
use std::mem::{MaybeUninit, offset_of};
use std::time::Duration;

use trine::{Bus, Until};

use crate::resource::{trine_event, trine_service_options};
use crate::status::{Failure, Outcome};
use crate::types::*;

/// A struct of this interface.
///
/// # Safety
/// It is `repr(C)`, its first field is `size: u32`, and it may be all zeros.
pub unsafe trait Record: Copy {
    /// The least that a caller must have of it.
    const SMALLEST: usize;
}

// SAFETY: as the trait says: see `types`.
unsafe impl Record for trine_options {
    const SMALLEST: usize = offset_of!(trine_options, waiting);
}
// SAFETY: as the trait says: see `types`.
unsafe impl Record for trine_call_args {
    const SMALLEST: usize = offset_of!(trine_call_args, deadline_ns);
}
// SAFETY: as the trait says: see `types`. A null pointer is all zeros.
unsafe impl Record for trine_reply {
    const SMALLEST: usize = offset_of!(trine_reply, needed);
}
// SAFETY: as the trait says: see `types`. A null pointer is all zeros.
unsafe impl Record for trine_incoming {
    const SMALLEST: usize = offset_of!(trine_incoming, deadline_ns);
}

// SAFETY: as the trait says: see `resource`. A null pointer is all zeros.
unsafe impl Record for trine_service_options {
    const SMALLEST: usize = offset_of!(trine_service_options, resources);
}
// SAFETY: as the trait says: see `resource`. A null pointer is all zeros.
unsafe impl Record for trine_event {
    const SMALLEST: usize = offset_of!(trine_event, resource);
}

/// A size beyond this is no size: it was never set.
const LARGEST: usize = 4096;

/// All zeros.
pub fn zeroed<T: Record>() -> T {
    // SAFETY: a `Record` may be all zeros.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

#[inline]
unsafe fn size_of_callers<T: Record>(pointer: *const T) -> Outcome<usize> {
    if pointer.is_null() || !pointer.is_aligned() {
        return Err(Failure::argument("a struct's pointer is NULL or not aligned"));
    }
    // SAFETY: not null, aligned, and a struct that begins with its size: the caller's promise.
    let size = unsafe { pointer.cast::<u32>().read() } as usize;
    if (T::SMALLEST..=LARGEST).contains(&size) { Ok(size) } else { Err(no_size(size)) }
}

#[cold]
fn no_size(size: usize) -> Failure {
    Failure::argument(format!("a struct's size is {size}: set it to sizeof, see TRINE_INIT"))
}

/// A struct that the caller filled in; NULL is all zeros.
///
/// # Safety
/// `pointer` is NULL or points to a struct of as many bytes as its first word says.
pub unsafe fn read<T: Record>(pointer: *const T) -> Outcome<T> {
    let mut value = zeroed::<T>();
    if pointer.is_null() {
        return Ok(value);
    }
    // SAFETY: the caller's promise.
    let size = unsafe { size_of_callers(pointer)? };
    let common = size.min(size_of::<T>());
    // SAFETY: both have `common` bytes and more; a `Record` has no bytes that can't be copied as such.
    unsafe { pointer.cast::<u8>().copy_to_nonoverlapping((&raw mut value).cast::<u8>(), common) };
    // SAFETY: the caller's struct has `size` bytes.
    let unknown = unsafe { std::slice::from_raw_parts(pointer.cast::<u8>().add(common), size - common) };
    if unknown.iter().any(|&byte| byte != 0) {
        return Err(Failure::argument(
            "a struct asks for something that this version of the library has not",
        ));
    }
    Ok(value)
}

/// A struct that the caller wants filled in: its size is known to be good.
pub struct Out<T> {
    pointer: *mut T,
    size: usize,
}

impl<T: Record> Out<T> {
    /// # Safety
    /// As for [`read`]; it may be written, and stays where it is until this is used.
    #[inline]
    pub unsafe fn new(pointer: *mut T) -> Outcome<Out<T>> {
        // SAFETY: the caller's promise.
        let size = unsafe { size_of_callers(pointer)? };
        Ok(Out { pointer, size })
    }

    /// Fills it in, all but its size.
    #[inline]
    pub fn put(&self, value: &T) {
        const WORD: usize = size_of::<u32>();
        let (from, to) = ((&raw const *value).cast::<u8>(), self.pointer.cast::<u8>());
        if self.size == size_of::<T>() {
            // A caller of this very version: the compiler knows how much to copy.
            // SAFETY: both have so many bytes, and more than a word; the caller's struct is not ours.
            return unsafe { from.add(WORD).copy_to_nonoverlapping(to.add(WORD), size_of::<T>() - WORD) };
        }
        let common = self.size.min(size_of::<T>());
        // SAFETY: both have `common` bytes and more, and that is more than a word; the caller's struct is not ours.
        // What it has beyond `common` are `size - common` bytes of its own.
        unsafe {
            from.add(WORD).copy_to_nonoverlapping(to.add(WORD), common - WORD);
            to.add(common).write_bytes(0, self.size - common);
        }
    }
}

/// Where a plain result is to be written.
///
/// # Safety
/// `pointer` is NULL or can be written while `'a` lasts.
pub unsafe fn slot<'a, T>(pointer: *mut T) -> Outcome<&'a mut MaybeUninit<T>> {
    if pointer.is_null() || !pointer.is_aligned() {
        return Err(Failure::argument("a result's pointer is NULL or not aligned"));
    }
    // SAFETY: not null, aligned, and the caller's promise. Nothing is read through it.
    Ok(unsafe { &mut *pointer.cast::<MaybeUninit<T>>() })
}

/// Bytes that the caller passes in.
///
/// # Safety
/// `data` is NULL, or points to `len` bytes that nobody writes while `'a` lasts.
pub unsafe fn bytes<'a>(data: *const c_void, len: usize) -> Outcome<&'a [u8]> {
    match (data.is_null(), len) {
        (_, 0) => Ok(&[]),
        (true, _) => Err(Failure::argument("the data is NULL, but its length is not 0")),
        _ if len > isize::MAX as usize || (data as usize).checked_add(len).is_none() => {
            Err(Failure::argument("no data is as long as that"))
        }
        // SAFETY: not null, of a length that can be, and the caller's promise.
        _ => Ok(unsafe { std::slice::from_raw_parts(data.cast(), len) }),
    }
}

/// An array that the caller passes in, of no more than `most`.
///
/// # Safety
/// `items` is NULL, or points to `count` of them, which nobody writes while `'a` lasts.
pub unsafe fn array<'a, T>(items: *const T, count: usize, most: usize, what: &str) -> Outcome<&'a [T]> {
    match (items.is_null() || !items.is_aligned(), count) {
        (_, 0) => Ok(&[]),
        (true, _) => Err(Failure::argument(format!("{what} are NULL, or not aligned"))),
        _ if count > most => Err(Failure::argument(format!("{what} are more than {most}"))),
        // SAFETY: not null, aligned, not many, and the caller's promise.
        _ => Ok(unsafe { std::slice::from_raw_parts(items, count) }),
    }
}

/// A string that the caller passes in.
///
/// # Safety
/// `text` is NULL, or ends with a NUL, and nobody writes it while `'a` lasts.
pub unsafe fn text<'a>(text: *const c_char, what: &str) -> Outcome<&'a str> {
    if text.is_null() {
        return Err(Failure::argument(format!("{what} is NULL")));
    }
    // SAFETY: not null, and the caller's promise.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map_err(|_| Failure::argument(format!("{what} is not UTF-8")))
}

/// A bus by its name, or by a path, which has a slash in it; NULL is the default bus.
///
/// # Safety
/// As for [`text`].
pub unsafe fn bus(name: *const c_char) -> Outcome<Bus> {
    if name.is_null() {
        return Ok(Bus::named(Bus::DEFAULT)?);
    }
    // SAFETY: the caller's promise.
    let name = unsafe { text(name, "the bus")? };
    Ok(if name.contains('/') { Bus::at(name) } else { Bus::named(name)? })
}

/// How long to wait.
pub fn until(timeout_ns: i64) -> Outcome<Until> {
    match timeout_ns {
        0 => Ok(Until::Now),
        TRINE_FOREVER => Ok(Until::Forever),
        1.. => Ok(Until::after(Duration::from_nanos(timeout_ns as u64))),
        _ => Err(Failure::argument("a timeout is negative")),
    }
}

/// What a handle does while it waits.
pub fn waiting(options: &trine_options) -> Outcome<trine::Waiting> {
    if options.flags & !TRINE_RESTART != 0 || options.reserved_word != 0 || options.reserved != [0; 2] {
        return Err(Failure::argument("a flag of the options is not known, or what is reserved is not 0"));
    }
    match options.waiting {
        TRINE_WAIT_ADAPTIVE => Ok(trine::Waiting::Adaptive),
        TRINE_WAIT_PARK => Ok(trine::Waiting::Park),
        TRINE_WAIT_YIELD => Ok(trine::Waiting::Yield),
        TRINE_WAIT_SPIN => Ok(trine::Waiting::Spin),
        other => Err(Failure::argument(format!("waiting is {other}, which is none of TRINE_WAIT_"))),
    }
}
