//! Knowing that this process is a fork's child.
//!
//! A child inherits every handle, but none of the mappings (they are MADV_DONTFORK): a call there must fail, and a
//! drop must touch nothing. One private page that the kernel wipes in the child tells. The word in it is a
//! generation, not a flag, so that a child may connect anew: its own handles are of a later generation.
//!
//! ```text
//! parent   mark() ► 1 ── fork ─┬─ word 1: handles of generation 1 are at home
//!                              └─ word 0 ── mark() ► 2: those of 1 are the parent's, those of 2 at home
//! ```

use std::num::NonZeroUsize;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous};

use crate::error::Error;

/// Which process made a handle: every handle keeps one.
#[derive(Clone, Copy, Debug)]
pub struct Fork {
    page: &'static AtomicU64,
    generation: u64,
}

static PAGE: OnceLock<Result<&'static AtomicU64, Errno>> = OnceLock::new();
/// Generations given out. Ordinary memory: a child goes on counting where its parent was.
static GENERATIONS: AtomicU64 = AtomicU64::new(0);

impl Fork {
    /// Marks this process as the one that makes handles now. Costs two system calls once in a process.
    pub fn mark() -> Result<Fork, Error> {
        let page = (*PAGE.get_or_init(wiped_page)).map_err(Error::system("making a page that fork wipes"))?;
        let fresh = GENERATIONS.fetch_add(1, Ordering::Relaxed) + 1;
        let generation = match page.compare_exchange(0, fresh, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => fresh,
            Err(marked) => marked,
        };
        Ok(Fork { page, generation })
    }

    /// Whether this process is a child of the one that made the mark. One relaxed load.
    #[inline]
    pub fn is_child(self) -> bool {
        self.page.load(Ordering::Relaxed) != self.generation
    }
}

/// A page of zeros, which is zeros again in every child.
fn wiped_page() -> Result<&'static AtomicU64, Errno> {
    let len = NonZeroUsize::new(4096).ok_or(Errno::EINVAL)?;
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: no address is asked for, so the new mapping replaces nothing.
    let page = unsafe { mmap_anonymous(None, len, protection, MapFlags::MAP_PRIVATE)? };
    // SAFETY: the range is the mapping just made, which nobody else knows of.
    unsafe { madvise(page, len.get(), MmapAdvise::MADV_WIPEONFORK)? };
    // SAFETY: a page is aligned for a word, is zeroed (a valid AtomicU64), is never unmapped, and nothing else
    // refers to it. Wiping happens in a child before any of its code runs.
    Ok(unsafe { page.cast::<AtomicU64>().as_ref() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::in_child;

    #[test]
    fn a_child_knows_it_and_may_begin_anew() {
        let parent = Fork::mark().unwrap();
        assert!(!parent.is_child());
        assert!(in_child(|| {
            let known = parent.is_child();
            let anew = Fork::mark().unwrap();
            known
                && parent.is_child()
                && !anew.is_child()
                && in_child(|| anew.is_child() && parent.is_child())
        }));
        assert!(!parent.is_child() && !Fork::mark().unwrap().is_child());
    }
}
