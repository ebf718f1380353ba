//! The one way to look at a payload without a copy: for those who trust its peer.

use crate::shared::Shared;

impl Shared<'_> {
    /// The bytes where they are, without a copy.
    ///
    /// # Safety
    /// No process writes them while the slice lives: its peers are trusted, or stopped. A client must not have given
    /// the call up, and a worker must not have answered it.
    pub unsafe fn as_slice(&self) -> &[u8] {
        // SAFETY: `as_ptr` was checked to be the beginning of `len` bytes of one mapping (or private buffer), which
        // `self` keeps alive; they are initialised, as all mapped memory is; that nobody writes them is the
        // caller's promise.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len()) }
    }
}
