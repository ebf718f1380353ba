//! Shared memory as the core sees it: words; and behind them an arena of bytes.
//!
//! ```text
//!  base          words × 8                                  mapping's end
//!   │ AtomicU64 … │ AtomicU8, copied by words …               │
//!   └── rings ────┴── arena ──────────────────────────────────┘
//! ```
//! Whatever a peer may write is only ever behind atomics, so nothing that it does is undefined behaviour here; on a
//! [`Ro`] there are only relaxed loads of at most eight bytes, which are what Rust allows on read-only pages. Records and
//! long payloads are copied by instructions that the compiler can't see (`load_64_bytes`, `copy_string`).
//!
//! The arena of an outbox is different: nobody else can write it, so [`arena`](super::arena) gives out `&mut [u8]`
//! of it. For that to be sound, an [`Rw`] of such memory has no access to the arena: it can only be taken, once.

use std::fmt;
use std::mem::ManuallyDrop;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering, fence};

use memmap2::{MmapOptions, MmapRaw};
use nix::sys::mman::{MmapAdvise, madvise};
use shared_memory::Shmem;

use super::fork::Fork;
use crate::core::{Memory, Read, Write};
use crate::error::Error;
use crate::layout::HEAD;

/// What unmaps when it is dropped.
enum Backing {
    Descriptor(MmapRaw),
    Named(Shmem),
}

/// A mapping, for as long as anyone holds a part of it.
pub(super) struct Mapping {
    backing: ManuallyDrop<Backing>,
    fork: Fork,
    /// Whether its arena is this process's alone, and still to be taken.
    own_arena: AtomicBool,
}

// SAFETY: `MmapRaw` is Send and Sync. `Shmem` is neither for its pointer, which is only handed out here; its drop
// unmaps and closes, which any thread may do. The rest is atomic or never written.
unsafe impl Send for Mapping {}
// SAFETY: as above; no method of `Backing` that changes anything is called through a shared reference.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(backing: Backing) -> Result<Mapping, Error> {
        let fork = Fork::mark()?;
        let mapping =
            Mapping { backing: ManuallyDrop::new(backing), fork, own_arena: AtomicBool::new(false) };
        let (base, len) = mapping.range()?;
        // SAFETY: the range is a whole mapping that `backing` owns. The advice concerns children only.
        unsafe { madvise(base.cast(), len, MmapAdvise::MADV_DONTFORK) }
            .map_err(Error::system("keeping a mapping from children"))?;
        Ok(mapping)
    }

    /// Maps the first `bytes` of a descriptor, to read only.
    pub(super) fn read_only(fd: &OwnedFd, bytes: usize) -> Result<Mapping, Error> {
        let map = MmapOptions::new().len(bytes).map_raw_read_only(fd);
        Mapping::new(Backing::Descriptor(map.map_err(Error::io(format!("mapping {bytes} bytes to read")))?))
    }

    /// Maps the first `bytes` of a descriptor, to read and write.
    pub(super) fn read_write(fd: &OwnedFd, bytes: usize) -> Result<Mapping, Error> {
        let map = MmapOptions::new().len(bytes).map_raw(fd);
        Mapping::new(Backing::Descriptor(map.map_err(Error::io(format!("mapping {bytes} bytes to write")))?))
    }

    /// Keeps a named segment, which is always mapped to read and write.
    pub(super) fn named(segment: Shmem) -> Result<Mapping, Error> {
        Mapping::new(Backing::Named(segment))
    }

    fn range(&self) -> Result<(NonNull<u8>, usize), Error> {
        let (base, len) = match &*self.backing {
            Backing::Descriptor(map) => (map.as_mut_ptr(), map.len()),
            Backing::Named(segment) => (segment.as_ptr(), segment.len()),
        };
        let base = NonNull::new(base).ok_or(nix::errno::Errno::EFAULT);
        Ok((base.map_err(Error::system("mapping memory"))?, len))
    }

    /// Whether this process is a child of the one that mapped it: then nothing of it is here.
    #[inline]
    pub(super) fn is_gone(&self) -> bool {
        self.fork.is_child()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // In a child the range is not mapped, or is something else by now.
        if !self.is_gone() {
            // SAFETY: `backing` is not used after this, since `self` is being dropped.
            unsafe { ManuallyDrop::drop(&mut self.backing) }
        }
    }
}

/// The parts of a mapping. Pointer and bounds lie here, so that a load needs no second one to find them.
#[derive(Clone)]
struct Region {
    base: NonNull<u8>,
    words: usize,
    arena_len: usize,
    mapping: Arc<Mapping>,
}

// SAFETY: `base` is only used to make shared slices of atomics, and `mapping` keeps what it points to; both may be
// used from any thread.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// The first `words` words, as far as they are there, are the word region; the rest is the arena.
    fn new(mapping: Mapping, words: usize) -> Result<Region, Error> {
        let (base, len) = mapping.range()?;
        let words = words.min(len / 8);
        Ok(Region { base, words, arena_len: len - words * 8, mapping: Arc::new(mapping) })
    }

    #[inline]
    fn words(&self) -> &[AtomicU64] {
        // SAFETY: `base` begins a mapping (so it is aligned for words) of at least `words * 8` bytes, by `new`; it
        // stays mapped while `self.mapping` lives, which the returned lifetime is within. Any bytes are a valid
        // AtomicU64. Other processes may write at any time: that is what atomics are for. Where the mapping is
        // read-only, the caller is `Ro`, which only does relaxed 8-byte loads.
        unsafe { slice::from_raw_parts(self.base.as_ptr().cast::<AtomicU64>(), self.words) }
    }

    #[inline]
    fn load(&self, word: usize) -> u64 {
        self.words().get(word).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    #[inline]
    fn copy_out<const N: usize>(&self, at: usize) -> [u64; N] {
        match self.words().get(at..).and_then(<[AtomicU64]>::first_chunk::<N>) {
            Some(words) => load_all(words),
            None => std::array::from_fn(|i| self.load(at.wrapping_add(i))),
        }
    }

    /// A range of the arena, if it is one; none in a forked child, where nothing is mapped.
    #[inline]
    fn arena(&self, at: u64, len: usize) -> Option<&[AtomicU8]> {
        if self.mapping.is_gone() {
            return None;
        }
        // SAFETY: `words * 8 + arena_len` is at most the mapping's length, by `new`; the rest as in `words`, bytes
        // having no alignment. The arena shares no byte with the words, and where anyone has `&mut [u8]` of it,
        // `arena_len` is 0 here.
        let arena = unsafe {
            let start = self.base.as_ptr().add(self.words * 8);
            slice::from_raw_parts(start.cast::<AtomicU8>(), self.arena_len)
        };
        let at = usize::try_from(at).ok()?;
        arena.get(at..at.checked_add(len)?)
    }

    fn read(&self, at: u64, into: &mut [u8]) -> Option<()> {
        copy_out_bytes(self.arena(at, into.len())?, into);
        Some(())
    }

    #[inline]
    fn for_each_line(&self, at: u64, len: usize, mut each: impl FnMut(&[u8])) -> Option<()> {
        let (lines, rest) = self.arena(at, len)?.as_chunks::<64>();
        lines.iter().for_each(|line| each(&load_bytes(line)));
        if !rest.is_empty() {
            let last = &mut [0; 64][..rest.len()];
            copy_out_bytes(rest, last);
            each(last);
        }
        Some(())
    }

    fn ptr(&self, at: u64, len: usize) -> Option<*const u8> {
        Some(self.arena(at, len)?.as_ptr().cast())
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} words, arena of {} bytes", self.words, self.arena_len)
    }
}

/// Memory that this party only reads. Cloning it shares the mapping.
#[derive(Clone, Debug)]
pub struct Ro(Region);

/// Memory that this party reads and writes. Cloning it shares the mapping.
#[derive(Clone, Debug)]
pub struct Rw(Region);

/// The memory of real parties: mappings.
#[derive(Clone, Copy, Debug)]
pub struct Mapped;

impl Memory for Mapped {
    type Ro = Ro;
    type Rw = Rw;
}

impl Ro {
    pub(super) fn new(mapping: Mapping, words: usize) -> Result<Ro, Error> {
        Ok(Ro(Region::new(mapping, words)?))
    }

    /// Words of the word region.
    pub fn words(&self) -> usize {
        self.0.words
    }

    #[cfg(test)]
    /// Bytes of the arena.
    pub fn arena_len(&self) -> u64 {
        self.0.arena_len as u64
    }

    /// Copies bytes out of the arena, once; what was read is whatever stood there. `None`: out of bounds, and
    /// nothing was copied.
    #[inline]
    pub fn read(&self, at: u64, into: &mut [u8]) -> Option<()> {
        self.0.read(at, into)
    }

    /// Calls `each` with one copy of 64 bytes after the other, and last of what is left. `None`: out of bounds, and nothing
    /// was read.
    #[inline]
    pub fn for_each_line(&self, at: u64, len: usize, each: impl FnMut(&[u8])) -> Option<()> {
        self.0.for_each_line(at, len, each)
    }

    /// Where a range of the arena lies, if it is within bounds. It is valid while this, or a clone, lives; whoever
    /// reads it knows that its writer leaves it alone meanwhile.
    #[inline]
    pub fn ptr(&self, at: u64, len: usize) -> Option<*const u8> {
        self.0.ptr(at, len)
    }
}

impl Rw {
    /// `mapping` is one to read and write.
    pub(super) fn new(mapping: Mapping, words: usize) -> Result<Rw, Error> {
        Ok(Rw(Region::new(mapping, words)?))
    }

    /// The same for memory whose arena is to be taken as plain bytes.
    ///
    /// # Safety
    /// As long as `mapping` lives, nobody writes the bytes after the words through another mapping or descriptor,
    /// in this process or in another.
    pub(super) unsafe fn own(mapping: Mapping, words: usize) -> Result<Rw, Error> {
        mapping.own_arena.store(true, Ordering::Relaxed);
        let mut region = Region::new(mapping, words)?;
        region.arena_len = 0;
        Ok(Rw(region))
    }

    /// Takes the arena of memory that nobody else writes: for the first who asks.
    pub(super) fn take_own_arena(&self) -> Option<OwnArena> {
        let Region { base, words, mapping, .. } = &self.0;
        if !mapping.own_arena.swap(false, Ordering::Relaxed) {
            return None;
        }
        let (_, len) = mapping.range().ok()?;
        // SAFETY: `words * 8` is at most the mapping's length, by `Region::new`.
        let start = unsafe { base.add(words * 8) };
        Some(OwnArena { start, len: len - words * 8, mapping: mapping.clone() })
    }

    #[cfg(test)]
    /// Words of the word region.
    pub fn words(&self) -> usize {
        self.0.words
    }

    #[cfg(test)]
    /// Bytes of the arena; 0 where it is an [`Arena`](super::Arena)'s.
    pub fn arena_len(&self) -> u64 {
        self.0.arena_len as u64
    }

    /// See [`Ro::read`].
    #[inline]
    pub fn read(&self, at: u64, into: &mut [u8]) -> Option<()> {
        self.0.read(at, into)
    }

    /// See [`Ro::for_each_line`].
    #[inline]
    pub fn for_each_line(&self, at: u64, len: usize, each: impl FnMut(&[u8])) -> Option<()> {
        self.0.for_each_line(at, len, each)
    }

    /// Copies bytes into the arena. `None`: out of bounds, and nothing was copied.
    #[inline]
    pub fn write(&self, at: u64, from: &[u8]) -> Option<()> {
        copy_in_bytes(from, self.0.arena(at, from.len())?);
        Some(())
    }

    /// See [`Ro::ptr`].
    #[inline]
    pub fn ptr(&self, at: u64, len: usize) -> Option<*const u8> {
        self.0.ptr(at, len)
    }
}

/// An arena that nobody else in any process can write, and that no [`Rw`] reaches.
pub(super) struct OwnArena {
    pub(super) start: NonNull<u8>,
    pub(super) len: usize,
    pub(super) mapping: Arc<Mapping>,
}

// SAFETY: it is the only way to its bytes, like a Box of them, and `mapping` may go to any thread.
unsafe impl Send for OwnArena {}

impl Read for Ro {
    #[inline]
    fn load(&self, word: usize) -> u64 {
        self.0.load(word)
    }

    #[inline]
    fn acquire(&self) {
        fence(Ordering::Acquire);
    }

    #[inline]
    fn copy_out<const N: usize>(&self, at: usize) -> [u64; N] {
        self.0.copy_out(at)
    }
}

impl Read for Rw {
    #[inline]
    fn load(&self, word: usize) -> u64 {
        self.0.load(word)
    }

    #[inline]
    fn acquire(&self) {
        fence(Ordering::Acquire);
    }

    #[inline]
    fn copy_out<const N: usize>(&self, at: usize) -> [u64; N] {
        self.0.copy_out(at)
    }
}

impl Write for Rw {
    #[inline]
    fn store(&self, word: usize, value: u64) {
        if let Some(word) = self.0.words().get(word) {
            word.store(value, Ordering::Relaxed);
        }
    }

    #[inline]
    fn release(&self) {
        fence(Ordering::Release);
    }

    #[inline]
    fn full(&self) {
        fence(Ordering::SeqCst);
    }

    #[inline]
    fn prepare(&self, word: usize) {
        #[cfg(target_arch = "x86_64")]
        if let Some(word) = self.0.words().get(word) {
            // SAFETY: a prefetch changes no register and no memory, and can't fault; processors without this one take
            // it for a no-op. Not the intrinsic: without a target feature that makes a prefetch for reading of it.
            unsafe {
                std::arch::asm!(
                    "prefetchw [{}]",
                    in(reg) std::ptr::from_ref(word),
                    options(nostack, preserves_flags, readonly)
                );
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = word;
    }

    #[inline]
    fn copy_in(&self, at: usize, words: &[u64]) {
        match self.0.words().get(at..).and_then(|rest| rest.get(..words.len())) {
            Some(shared) => shared.iter().zip(words).for_each(|(s, &word)| s.store(word, Ordering::Relaxed)),
            None => words.iter().enumerate().for_each(|(i, &word)| self.store(at.wrapping_add(i), word)),
        }
    }
}

/// Copies words that others may be writing meanwhile: eight at a time, as far as there are so many.
///
/// What is stored one word at a time can't be loaded two at a time before it has left the processor's store queue, and
/// there it stands behind lines that other CPUs have yet to give up. The compiler moves what it has whole by two words or
/// more; so a copy that is to be moved on is made so as well.
#[inline]
fn load_all<const N: usize>(words: &[AtomicU64; N]) -> [u64; N] {
    let mut copy = [0; N];
    let ((lines, rest), (to_lines, to_rest)) = (words.as_chunks(), copy.as_chunks_mut());
    lines.iter().zip(to_lines).for_each(|(line, to)| *to = load_line(line));
    rest.iter().zip(to_rest).for_each(|(word, to)| *to = word.load(Ordering::Relaxed));
    copy
}

/// Half a record.
#[inline]
fn load_line(words: &[AtomicU64; HEAD]) -> [u64; HEAD] {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: 64 bytes that are borrowed.
    return bytemuck::cast(unsafe { load_64_bytes(words.as_ptr().cast()) });
    #[cfg(not(target_arch = "x86_64"))]
    words.each_ref().map(|word| word.load(Ordering::Relaxed))
}

/// Copies 64 bytes of an arena that others may be writing meanwhile: to registers, for who needs no more.
#[inline]
fn load_bytes(bytes: &[AtomicU8; 64]) -> [u8; 64] {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: 64 bytes that are borrowed.
    return bytemuck::cast(unsafe { load_64_bytes(bytes.as_ptr().cast()) });
    #[cfg(not(target_arch = "x86_64"))]
    {
        let mut copy = [0; 64];
        copy_out_bytes(bytes, &mut copy);
        copy
    }
}

/// Reads 64 bytes that others may be writing meanwhile; aligned words of them whole.
///
/// # Safety
/// They are readable, and behind atomics on this side.
#[cfg(target_arch = "x86_64")]
#[inline]
unsafe fn load_64_bytes(from: *const u8) -> [std::arch::x86_64::__m128i; 4] {
    let (a, b, c, d);
    // SAFETY: the caller's promise is all that the instructions want. To the compiler this is some code that it can't see,
    // so it has no data race with it; each half of a load is one of an aligned word, if that is, as a relaxed load would be.
    unsafe {
        std::arch::asm!(
            "movdqu {a}, [{from}]",
            "movdqu {b}, [{from} + 16]",
            "movdqu {c}, [{from} + 32]",
            "movdqu {d}, [{from} + 48]",
            from = in(reg) from,
            a = out(xmm_reg) a,
            b = out(xmm_reg) b,
            c = out(xmm_reg) c,
            d = out(xmm_reg) d,
            options(nostack, preserves_flags, readonly)
        );
    }
    [a, b, c, d]
}

/// The aligned words of a range of bytes, and the ragged edges before and behind them.
fn by_words(bytes: &[AtomicU8]) -> (&[AtomicU8], &[AtomicU64], &[AtomicU8]) {
    // SAFETY: eight aligned AtomicU8 have the size and alignment of an AtomicU64, and any bytes are one. Of one
    // range each byte is on one side of the split only; other processes' accesses of another size are, for this
    // process, values that change.
    unsafe { bytes.align_to::<AtomicU64>() }
}

/// From so many bytes on the processor's own copy is quicker than one word at a time: three times, for a few KiB.
const STRING_COPY_MIN: usize = 512;

/// Copies bytes that others may be writing meanwhile, or reading: `rep movsb`, which the compiler knows nothing of. Says
/// whether it did: not on processors that have no such thing.
///
/// # Safety
/// `len` bytes from `from` on are readable, `len` from `into` on are writable, and they don't overlap. Bytes that others
/// touch at the same time are behind atomics on this side.
#[inline]
unsafe fn copy_string(from: *const u8, into: *mut u8, len: usize) -> bool {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller's promises are all that the instruction wants; the direction flag is clear, by the ABI. To the
    // compiler this is some code that it can't see: it has no data race with what this process does through atomics, and
    // what is read while another process writes is some mix of bytes, as with relaxed loads.
    unsafe {
        std::arch::asm!(
            "rep movsb",
            inout("rcx") len => _,
            inout("rsi") from => _,
            inout("rdi") into => _,
            options(nostack, preserves_flags)
        );
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (from, into, len);
    cfg!(target_arch = "x86_64")
}

/// Copies shared bytes to private ones of the same length.
fn copy_out_bytes(from: &[AtomicU8], into: &mut [u8]) {
    if from.len() >= STRING_COPY_MIN {
        let len = from.len().min(into.len());
        // SAFETY: two slices of at least this length, of which the second is nobody else's.
        let copied = unsafe { copy_string(from.as_ptr().cast(), into.as_mut_ptr(), len) };
        if copied {
            return;
        }
    }
    let (head, words, tail) = by_words(from);
    let (into_head, into) = into.split_at_mut(head.len());
    let (into_words, into_tail) = into.as_chunks_mut::<8>();
    words.iter().zip(into_words).for_each(|(word, b)| *b = word.load(Ordering::Relaxed).to_ne_bytes());
    head.iter().zip(into_head).for_each(|(byte, b)| *b = byte.load(Ordering::Relaxed));
    tail.iter().zip(into_tail).for_each(|(byte, b)| *b = byte.load(Ordering::Relaxed));
}

/// Copies private bytes to shared ones of the same length.
fn copy_in_bytes(from: &[u8], into: &[AtomicU8]) {
    if from.len() >= STRING_COPY_MIN {
        let len = from.len().min(into.len());
        // SAFETY: two slices of at least this length, of which the first is nobody else's; atomics may be written through
        // a shared reference, and an `Rw`'s memory is mapped to be written.
        let copied = unsafe { copy_string(from.as_ptr(), into.as_ptr().cast_mut().cast(), len) };
        if copied {
            return;
        }
    }
    let (head, words, tail) = by_words(into);
    let (from_head, from) = from.split_at(head.len());
    let (from_words, from_tail) = from.as_chunks::<8>();
    words.iter().zip(from_words).for_each(|(word, b)| word.store(u64::from_ne_bytes(*b), Ordering::Relaxed));
    head.iter().zip(from_head).for_each(|(byte, &b)| byte.store(b, Ordering::Relaxed));
    tail.iter().zip(from_tail).for_each(|(byte, &b)| byte.store(b, Ordering::Relaxed));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::in_child;
    use crate::memory::sealed::{Kind, create, map_ro};
    use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
    use proptest::prelude::*;
    use std::num::NonZeroUsize;

    const WORDS: usize = 512;

    fn memory() -> (Rw, Ro) {
        let (rw, fd) = create("inbox", 16 << 10, WORDS as u64 * 8, Kind::ReadWrite).unwrap();
        (rw, map_ro(&fd, 16 << 10, WORDS).unwrap())
    }

    #[test]
    fn no_index_leads_out() {
        let (rw, ro) = memory();
        let all_ones = [u64::MAX; 16];
        (0..WORDS).for_each(|word| rw.store(word, u64::MAX));
        for at in [WORDS, WORDS + 1, usize::MAX / 8, usize::MAX - 3, usize::MAX] {
            rw.store(at, 1);
            assert_eq!((rw.load(at), ro.load(at)), (0, 0));
        }
        assert_eq!(ro.copy_out::<16>(WORDS - 16), all_ones);
        let across: [u64; 16] = ro.copy_out(WORDS - 3);
        assert_eq!((&across[..3], &across[3..]), (&all_ones[..3], &[0; 13][..]));
        assert_eq!(ro.copy_out::<16>(usize::MAX), std::array::from_fn(|i| if i == 0 { 0 } else { u64::MAX }));
        rw.copy_in(WORDS - 2, &[1, 2, 3, 4]);
        assert_eq!(ro.copy_out::<2>(WORDS - 2), [1, 2]);
        assert_eq!(ro.load(0), u64::MAX);
        rw.copy_in(8, &[3; 16]);
        assert_eq!(ro.copy_out::<18>(7)[..2], [u64::MAX, 3]);
    }

    #[test]
    fn no_offset_leads_out() {
        let (rw, ro) = memory();
        let end = ro.arena_len();
        assert_eq!(end, (16 << 10) - WORDS as u64 * 8);
        for (at, len) in [(end, 1), (end - 7, 8), (u64::MAX, 1), (u64::MAX - 7, 8), (0, 13 << 10)] {
            let mut into = vec![7; len];
            assert!(ro.read(at, &mut into).is_none() && rw.write(at, &into).is_none());
            assert!(ro.for_each_line(at, len, |_| unreachable!()).is_none());
            assert!(ro.ptr(at, len).is_none() && into.iter().all(|&b| b == 7));
        }
        assert!(ro.read(end, &mut []).is_some() && ro.ptr(0, end as usize).is_some());
    }

    proptest! {
        /// Every alignment and length of shared and private side, against a plain array.
        #[test]
        fn byte_copies_are_exact(
            at in 0usize..40, offset in 0usize..9, len in 0usize..200, seed in any::<u8>(),
        ) {
            let (rw, ro) = memory();
            let source: Vec<u8> = (0..offset + len).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect();
            let mut oracle = [0xee; 300];
            rw.write(0, &oracle).unwrap();
            rw.write(at as u64, &source[offset..]).unwrap();
            oracle[at..at + len].copy_from_slice(&source[offset..]);
            let mut whole = [0; 300];
            ro.read(0, &mut whole).unwrap();
            prop_assert_eq!(&whole[..], &oracle[..]);
            let mut lines = Vec::new();
            ro.for_each_line(at as u64, len, |line| lines.push(line.to_vec())).unwrap();
            prop_assert!(lines.iter().rev().skip(1).all(|line| line.len() == 64));
            prop_assert_eq!(&lines.concat(), &source[offset..]);
            let mut part = vec![0x55; offset + len + 3];
            rw.read(at as u64, &mut part[offset..offset + len]).unwrap();
            prop_assert_eq!(&part[offset..offset + len], &source[offset..]);
            prop_assert!(part[..offset].iter().chain(&part[offset + len..]).all(|&b| b == 0x55));
        }
    }

    /// Something private of the same size at this address, if nothing is there.
    fn settle_at(address: usize, len: usize) -> bool {
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_FIXED_NOREPLACE;
        let (at, len) = (NonZeroUsize::new(address), NonZeroUsize::new(len).unwrap());
        // SAFETY: MAP_FIXED_NOREPLACE replaces nothing.
        unsafe { mmap_anonymous(at, len, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, flags) }
            .is_ok_and(|made| made.as_ptr() as usize == address)
    }

    #[test]
    fn a_child_has_no_mapping_and_its_drop_touches_nothing() {
        let (rw, ro) = memory();
        let (base, len) = ro.0.mapping.range().unwrap();
        let (rw_base, _) = rw.0.mapping.range().unwrap();
        rw.store(0, 42);
        let mut handles = Some((rw, ro.clone(), ro));
        assert!(in_child(|| {
            let settled = settle_at(base.as_ptr() as usize, len) && settle_at(rw_base.as_ptr() as usize, len);
            drop(handles.take());
            // Still there: it can't be settled again. (Reading it would kill the child, were it not.)
            settled && !settle_at(base.as_ptr() as usize, len) && !settle_at(rw_base.as_ptr() as usize, len)
        }));
        let (rw, ro, _) = handles.expect("the child took its own copy");
        assert_eq!((rw.load(0), ro.load(0)), (42, 42));
        drop((rw, ro));
    }

    #[test]
    fn the_last_holder_unmaps() {
        let (_rw, ro) = memory();
        let (base, len) = ro.0.mapping.range().unwrap();
        let clone = ro.clone();
        let mapping = Arc::downgrade(&ro.0.mapping);
        drop(ro);
        assert!(!settle_at(base.as_ptr() as usize, len) && clone.load(0) == 0);
        drop(clone);
        assert_eq!(mapping.strong_count(), 0);
    }
}
