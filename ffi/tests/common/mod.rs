//! A bus for a test, and shorter names for what C would write.
#![allow(dead_code, reason = "each test uses some of it")]

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::{null, null_mut};

use trine_ffi::*;

pub struct Here {
    pub folder: tempfile::TempDir,
    pub bus: CString,
    director: *mut trine_director,
}

impl Here {
    pub fn new() -> Here {
        let folder = tempfile::tempdir().unwrap();
        let bus = CString::new(format!("{}/", folder.path().display())).unwrap();
        let mut director = null_mut();
        // SAFETY: as the header says.
        let status = unsafe { trine_director_start(bus.as_ptr(), null(), &raw mut director) };
        assert_eq!(status, TRINE_OK, "{}", error(null()));
        Here { folder, bus, director }
    }

    pub fn client(&self) -> *mut trine_client {
        let mut client = null_mut();
        // SAFETY: as the header says.
        assert_eq!(unsafe { trine_connect(self.bus.as_ptr(), null(), &raw mut client) }, TRINE_OK);
        client
    }

    pub fn worker(&self, operations: &[&CStr]) -> *mut trine_worker {
        let mut worker = null_mut();
        let names: Vec<*const c_char> = operations.iter().map(|name| name.as_ptr()).collect();
        // SAFETY: as the header says.
        unsafe {
            assert_eq!(trine_worker_open(self.bus.as_ptr(), null(), &raw mut worker), TRINE_OK);
            let provided = trine_provide(worker, c"test".as_ptr(), names.as_ptr(), names.len(), null_mut());
            assert_eq!(provided, TRINE_OK, "{}", error(worker.cast()));
        }
        worker
    }

    /// Its director's handle, which is no more one.
    pub fn stopped(mut self) -> *mut trine_director {
        let director = self.director;
        self.stop_director();
        director
    }

    pub fn stop_director(&mut self) {
        let director = std::mem::replace(&mut self.director, null_mut());
        // SAFETY: as the header says.
        assert_eq!(unsafe { trine_director_stop(director) }, TRINE_OK);
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        self.stop_director();
    }
}

pub fn route(client: *mut trine_client, operation: &CStr) -> trine_route {
    let mut route = 0;
    // SAFETY: as the header says.
    let status = unsafe { trine_route_of(client, c"test".as_ptr(), operation.as_ptr(), &raw mut route) };
    assert_eq!(status, TRINE_OK, "{}", error(client.cast()));
    route
}

pub fn error(handle: *const c_void) -> String {
    // SAFETY: as the header says.
    unsafe { CStr::from_ptr(trine_error(handle)) }.to_str().unwrap().to_owned()
}

/// An empty struct that knows its size.
pub trait Sized32: Copy {
    fn sized() -> Self;
}
macro_rules! sized {
    ($($name:ty),*) => {$(
        impl Sized32 for $name {
            fn sized() -> Self {
                // SAFETY: all zeros are such a struct.
                let mut value: Self = unsafe { std::mem::zeroed() };
                value.size = size_of::<Self>() as u32;
                value
            }
        }
    )*};
}
sized!(trine_options, trine_call_args, trine_reply, trine_incoming, trine_service_options);

pub fn bytes(data: *const c_void, len: u64) -> Vec<u8> {
    // SAFETY: in place, and nobody else has it in these tests.
    unsafe { std::slice::from_raw_parts(data.cast::<u8>(), len as usize) }.to_vec()
}

/// A pointer that goes to another thread, as C's do.
pub struct Sent<T>(pub *mut T);
// SAFETY: a handle may go to any thread.
unsafe impl<T> Send for Sent<T> {}

impl<T> Sent<T> {
    pub fn get(&self) -> *mut T {
        self.0
    }
}
