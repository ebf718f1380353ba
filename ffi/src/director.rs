//! A director in a thread of the program: for tests, and for programs that are their own bus.

use std::collections::VecDeque;
use std::ffi::c_char;
use std::sync::Mutex;

use trine::{Director, DirectorHandle, DirectorOptions};

use crate::handle::{self, FreeList, Kind};
use crate::input;
use crate::status::*;
use crate::types::*;

/// A director.
pub(crate) struct Running(DirectorHandle);

impl Kind for Running {
    const MAGIC: u32 = 0x7472_6469;
    type Shared = ();
    fn free_list() -> &'static FreeList<Running> {
        static FREE: FreeList<Running> = Mutex::new(VecDeque::new());
        &FREE
    }
}

/// Starts a director in two threads of its own. [B] Arguments and failures as trine_connect().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trine_director_start(
    bus: *const c_char,
    options: *const trine_options,
    out: *mut *mut trine_director,
) -> trine_status {
    handle::guarded(|| {
        // SAFETY: the rules of the header.
        let out = unsafe { input::slot(out)? };
        out.write(std::ptr::null_mut());
        // SAFETY: the rules of the header.
        let (bus, given) = unsafe { (input::bus(bus)?, input::read::<trine_options>(options)?) };
        let options = DirectorOptions::default().waiting(input::waiting(&given)?);
        let director = Director::new(&bus, options)?.spawn()?;
        out.write(handle::make(Running(director), ()));
        Ok(())
    })
}

/// Stops it: what waits ends, workers finish what they have begun, 5 s at most. [B] NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn trine_director_stop(director: *mut trine_director) -> trine_status {
    // SAFETY: the rules of the header.
    unsafe { handle::close(director, |running: Running| Ok(running.0.stop()?)) }
}

/// The version of this interface that a program was compiled with: major << 16 | minor << 8 | patch.
pub const TRINE_VERSION: u32 = 0x000100;

/// The version of this interface that is there: the same major number, and at least that of TRINE_VERSION.
#[unsafe(no_mangle)]
pub extern "C" fn trine_version() -> u32 {
    TRINE_VERSION
}

/// The version of what the parties of a bus exchange: all have the same.
#[unsafe(no_mangle)]
pub extern "C" fn trine_protocol() -> u32 {
    trine::limits::PROTOCOL
}
