//! Who has which piece of an arena: the books are private memory, so nobody's crash or malice can spoil them.
//!
//! Two kinds, with the same books. An [`Arena`] is over an outbox, which nobody else can write: its [`Block`]s are
//! plain bytes. [`Spans`] are over an inbox, where workers write: they are only numbers.
//!
//! The books are the crate `offset-allocator`'s (two-level bins of free pieces: allocating and freeing take constant
//! time). It looks for pieces by size classes an eighth apart, so the last piece may be refused where it fits by
//! less than that.

use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;

use offset_allocator::{Allocation, Allocator};

use super::map::{Mapping, OwnArena, Rw};
use crate::limits::{ARENA_UNIT, SLOTS_MAX};

/// Pieces, in use and free together, that the books have room for: one for each open call, another for its list of
/// keys, as many that are filled and not yet sent, a free one behind each of them and before the first, and two that
/// the allocator needs. 32 bytes each, written when the books are made.
const fn pieces(slots: u32) -> u32 {
    6 * slots + 3
}

/// The books of a part of an arena.
pub struct Spans {
    at: u64,
    books: Allocator,
}

/// A piece that is in use. Dropped without [`Spans::free`], it stays in use.
#[must_use = "give it back with `free`"]
pub struct Span {
    offset: u64,
    len: usize,
    allocation: Allocation,
}

impl Spans {
    /// Books of the bytes from `at` (a multiple of [`ARENA_UNIT`], else what is before the next one is not used) up
    /// to `end` of an arena, for a session of so many slots: twice as many spans can be in use.
    pub fn new(at: u64, end: u64, slots: u32) -> Spans {
        let at = at.next_multiple_of(ARENA_UNIT);
        let units = u32::try_from(end.saturating_sub(at) / ARENA_UNIT).unwrap_or(u32::MAX);
        Spans { at, books: Allocator::with_max_allocs(units, pieces(slots.min(SLOTS_MAX))) }
    }

    /// Finds room. An empty span is one unit long, so that its offset is its own. Constant time.
    pub fn alloc(&mut self, len: usize) -> Option<Span> {
        let units = u32::try_from((len as u64).div_ceil(ARENA_UNIT).max(1)).ok()?;
        let allocation = self.books.allocate(units)?;
        Some(Span { offset: self.at + u64::from(allocation.offset) * ARENA_UNIT, len, allocation })
    }

    /// Takes a span of these books back. Constant time.
    pub fn free(&mut self, span: Span) {
        self.books.free(span.allocation);
    }

    #[cfg(test)]
    /// Bytes that are not in use, in however many pieces.
    pub fn free_bytes(&self) -> u64 {
        u64::from(self.books.storage_report().total_free_space) * ARENA_UNIT
    }
}

impl Span {
    /// Bytes from the arena's start.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes that were asked for.
    pub fn len(&self) -> usize {
        self.len
    }
}

/// The arena of memory that only this process can write.
pub struct Arena {
    memory: OwnArena,
    spans: Spans,
}

/// Bytes of an [`Arena`], owned like a `Box`. Dropped without [`Arena::free`], they stay in use.
#[must_use = "give it back with `free`"]
pub struct Block {
    start: NonNull<u8>,
    span: Span,
    mapping: Arc<Mapping>,
}

// SAFETY: a block is the only way to its bytes, like a Box of them, and `mapping` may go to any thread.
unsafe impl Send for Block {}
// SAFETY: through `&Block` the bytes are only read.
unsafe impl Sync for Block {}

impl Arena {
    /// Takes the arena of a segment that only its creator, this process, can write, for a session of so many slots:
    /// twice as many blocks can be in use.
    ///
    /// # Panics
    /// Where the segment is of another kind, or its arena was taken before: a mistake of this crate's, not a peer's.
    pub fn new(memory: &Rw, slots: u32) -> Arena {
        let memory = memory.take_own_arena().expect("a segment of this process's own, its arena not taken");
        let spans = Spans::new(0, memory.len as u64, slots);
        Arena { memory, spans }
    }

    /// Finds room. What the bytes are is whatever stood there before. Constant time.
    pub fn alloc(&mut self, len: usize) -> Option<Block> {
        let span = self.spans.alloc(len)?;
        let at = span.offset as usize;
        debug_assert!(at + len <= self.memory.len);
        // SAFETY: the books are of `memory.len` bytes, so the span is within them.
        let start = unsafe { self.memory.start.add(at) };
        Some(Block { start, span, mapping: self.memory.mapping.clone() })
    }

    /// Takes a block back. One of another arena is left alone: its bytes stay in use there. Constant time.
    pub fn free(&mut self, block: Block) {
        // There is one arena a mapping, so the same mapping is the same books.
        if Arc::ptr_eq(&block.mapping, &self.memory.mapping) {
            self.spans.free(block.span);
        }
    }

    #[cfg(test)]
    /// Bytes that are not in use, in however many pieces.
    pub fn free_bytes(&self) -> u64 {
        self.spans.free_bytes()
    }
}

impl Block {
    /// Bytes from the arena's start: what a peer is told.
    pub fn offset(&self) -> u64 {
        self.span.offset
    }

    #[cfg(test)]
    /// Bytes that were asked for.
    pub fn len(&self) -> usize {
        self.span.len
    }

    /// The bytes; none in a forked child, where they are not mapped.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: [start, start + visible) is in a mapping that `self.mapping` keeps, and that is in this process;
        // mapped memory is always initialised. Nobody writes it but through this block: other processes can't map it
        // writable (`Rw::own`), no `Rw` reaches an own arena, and the books give each unit to one block at a time.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.visible()) }
    }

    /// The bytes, to be written; none in a forked child.
    #[inline]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`; and nobody reads them but through this block, which is borrowed mutably. What
        // other processes read meanwhile is their matter: they do so with atomics.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.visible()) }
    }

    #[inline]
    fn visible(&self) -> usize {
        if self.mapping.is_gone() { 0 } else { self.span.len }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::sealed::{Kind, create, map_ro};
    use crate::memory::{Ro, in_child};
    use proptest::prelude::*;

    const RINGS: u64 = 4096;

    fn arena(bytes: u64) -> (Arena, Ro) {
        let (memory, fd) = create("outbox", RINGS + bytes, RINGS, Kind::WriterOnly).unwrap();
        (Arena::new(&memory, 4), map_ro(&fd, RINGS + bytes, RINGS as usize / 8).unwrap())
    }

    #[test]
    fn a_block_is_what_a_peer_reads() {
        let (mut arena, peer) = arena(1 << 20);
        let _before = arena.alloc(100).unwrap();
        let mut block = arena.alloc(5).unwrap();
        block.as_mut_slice().copy_from_slice(b"hello");
        let mut seen = [0; 5];
        peer.read(block.offset(), &mut seen).unwrap();
        assert_eq!((&seen, block.as_slice(), block.len()), (b"hello", &b"hello"[..], 5));
        assert_eq!(block.offset() % ARENA_UNIT, 0);
    }

    #[test]
    fn a_block_outlives_its_arena() {
        let (mut arena, peer) = arena(1 << 20);
        let mut block = arena.alloc(5).unwrap();
        drop((arena, peer));
        block.as_mut_slice().copy_from_slice(b"hello");
        assert_eq!(block.as_slice(), b"hello");
    }

    #[test]
    fn all_of_it_can_be_had_and_empty_blocks_too() {
        let (mut arena, _) = arena(1 << 20);
        let all = arena.alloc(1 << 20).unwrap();
        assert!(arena.alloc(0).is_none() && arena.alloc(1).is_none());
        arena.free(all);
        let (one, two) = (arena.alloc(0).unwrap(), arena.alloc(0).unwrap());
        assert_ne!(one.offset(), two.offset());
        assert!(one.as_slice().is_empty());
        arena.free(one);
        arena.free(two);
        assert_eq!(arena.free_bytes(), 1 << 20);
        assert!(arena.alloc((1 << 20) + 1).is_none() && arena.alloc(usize::MAX).is_none());
    }

    #[test]
    fn a_block_of_another_arena_frees_nothing() {
        let ((mut one, _), (mut two, _)) = (arena(4096), arena(4096));
        let kept = two.alloc(4096).unwrap();
        two.free(one.alloc(4096).unwrap());
        assert!(two.alloc(1).is_none());
        two.free(kept);
        assert_eq!(two.free_bytes(), 4096);
    }

    #[test]
    fn the_arena_of_own_memory_is_had_once_and_not_otherwise() {
        let (memory, _fd) = create("outbox", 2 * RINGS, RINGS, Kind::WriterOnly).unwrap();
        assert_eq!((memory.arena_len(), memory.read(0, &mut [0]), memory.ptr(0, 1)), (0, None, None));
        assert!(memory.write(0, &[1]).is_none());
        assert!(memory.take_own_arena().is_some());
        assert!(memory.clone().take_own_arena().is_none());
        let (shared, _fd) = create("inbox", 2 * RINGS, RINGS, Kind::ReadWrite).unwrap();
        assert!(shared.take_own_arena().is_none());
    }

    #[test]
    fn a_child_sees_no_bytes() {
        let (mut arena, _) = arena(4096);
        let mut block = arena.alloc(10).unwrap();
        assert!(in_child(|| block.as_slice().is_empty() && block.as_mut_slice().is_empty()));
        assert_eq!(block.as_slice().len(), 10);
    }

    #[test]
    fn the_books_have_room_for_every_call_twice() {
        let end = crate::limits::ARENA_MAX;
        for slots in [1, 2, 64, SLOTS_MAX] {
            let mut spans = Spans::new(0, end, slots);
            let mut kept = Vec::new();
            // A free piece before each that stays, so that the books get as full as they can be. Each is larger than
            // the free ones so far, so that it is cut from what is behind them.
            for i in 1..=2 * slots as usize {
                let gap = spans.alloc(i * 64).unwrap();
                kept.push(spans.alloc(10_000 * 64).unwrap());
                spans.free(gap);
            }
            let in_use = kept.iter().map(|span| span.len() as u64).sum::<u64>();
            assert_eq!(spans.free_bytes(), end - in_use);
            assert_eq!(kept.last().unwrap().offset() + 10_000 * 64, in_use + gaps(2 * u64::from(slots)));
            kept.into_iter().for_each(|span| spans.free(span));
            assert_eq!(spans.free_bytes(), end);
        }
    }

    /// Bytes of free pieces of 1, 2, … n units.
    fn gaps(n: u64) -> u64 {
        n * (n + 1) / 2 * 64
    }

    #[test]
    fn tiny_and_odd_arenas_work() {
        for bytes in [0, 63] {
            assert!(Spans::new(0, bytes, 1).alloc(0).is_none());
        }
        assert!(Spans::new(100, 50, 1).alloc(0).is_none());
        let mut spans = Spans::new(100, 128 + 3 * ARENA_UNIT + 63, 2);
        let offsets: Vec<u64> = (0..3).map(|_| spans.alloc(64).unwrap().offset()).collect();
        assert!(spans.alloc(0).is_none());
        assert!(offsets.iter().all(|at| (128..=256).contains(at)), "{offsets:?}");
    }

    proptest! {
        /// Against a plain list: live pieces lie within and never overlap, and at the end everything is free again.
        #[test]
        fn pieces_never_overlap_and_come_back_whole(
            units in 1u64..3000,
            steps in prop::collection::vec((any::<bool>(), 0usize..20_000, any::<prop::sample::Index>()), 0..300),
        ) {
            let (from, to) = (192, 192 + units * ARENA_UNIT);
            let mut spans = Spans::new(from, to, 20);
            let mut live: Vec<Span> = Vec::new();
            for (alloc, len, which) in steps {
                if alloc || live.is_empty() {
                    let Some(new) = spans.alloc(len) else { continue };
                    let (start, end) = (new.offset(), new.offset() + new.len() as u64);
                    prop_assert!(start >= from && end <= to && new.len() == len);
                    for old in &live {
                        prop_assert!(end <= old.offset() || old.offset() + old.len() as u64 <= start);
                        prop_assert_ne!(start, old.offset());
                    }
                    live.push(new);
                } else {
                    spans.free(live.swap_remove(which.index(live.len())));
                }
            }
            live.into_iter().for_each(|span| spans.free(span));
            prop_assert_eq!(spans.free_bytes(), units * ARENA_UNIT);
            // In one piece: all of it can be had, to the next smaller size class.
            prop_assert!(spans.alloc(((units - units / 8) * ARENA_UNIT) as usize).is_some());
        }
    }
}
