//! Bytes that another process may be writing: copy out, then look.
//!
//! A payload lies in memory that its peer has mapped too. A peer that one trusts doesn't touch it any more; one that
//! is hostile may change it between two looks. So there is no safe reference into it: every safe way is a copy,
//! which is quick (as quick as reading it), and what was copied stays what it was.

use std::io;
use std::marker::PhantomData;

use bytemuck::AnyBitPattern;

use crate::layout::{HEAD, LINE, Record};
use crate::memory::{Ro, Rw};

/// Where the bytes are.
enum Source {
    /// In a record: a private copy of all that can be payload there.
    Record([u64; LINE - HEAD]),
    /// In an arena that only its owner can write.
    Outbox(Ro, u64),
    /// In an arena that client and workers can write.
    Inbox(Rw, u64),
    /// In private memory.
    Private(Vec<u8>),
}

/// A payload, borrowed from the request or reply that it came with.
pub struct Shared<'a> {
    source: Source,
    len: usize,
    lifetime: PhantomData<&'a ()>,
}

impl<'a> Shared<'a> {
    #[inline]
    pub(crate) fn in_record(record: &Record, word: usize, len: usize) -> Self {
        let words: [u64; LINE - HEAD] = std::array::from_fn(|i| record[word + i]);
        Shared { source: Source::Record(words), len: len.min(size_of_val(&words)), lifetime: PhantomData }
    }

    /// `None` if it is not within the arena.
    pub(crate) fn in_outbox(memory: &Ro, at: u64, len: usize) -> Option<Self> {
        memory.ptr(at, len)?;
        Some(Shared { source: Source::Outbox(memory.clone(), at), len, lifetime: PhantomData })
    }

    /// `None` if it is not within the arena.
    pub(crate) fn in_inbox(memory: &Rw, at: u64, len: usize) -> Option<Self> {
        memory.ptr(at, len)?;
        Some(Shared { source: Source::Inbox(memory.clone(), at), len, lifetime: PhantomData })
    }

    pub(crate) fn private(bytes: Vec<u8>) -> Self {
        let len = bytes.len();
        Shared { source: Source::Private(bytes), len, lifetime: PhantomData }
    }

    /// Whether nobody else can reach them any more: they were copied.
    #[inline]
    pub(crate) fn is_private(&self) -> bool {
        matches!(self.source, Source::Record(..) | Source::Private(_))
    }

    /// The same bytes, kept by whoever keeps this.
    pub(crate) fn unbound(self) -> Shared<'static> {
        Shared { source: self.source, len: self.len, lifetime: PhantomData }
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies bytes out, from `at` on. Returns how many: as many as there are and fit.
    #[inline]
    pub fn read_at(&self, at: usize, into: &mut [u8]) -> usize {
        let count = self.len.saturating_sub(at).min(into.len());
        let into = &mut into[..count];
        let read = match &self.source {
            Source::Record(words) => {
                let bytes = &bytemuck::bytes_of(words)[at..][..count];
                match (<&[u8; 64]>::try_from(bytes), <&mut [u8; 64]>::try_from(&mut *into)) {
                    (Ok(all), Ok(into)) => *into = *all, // in the pieces in which they were copied to here
                    _ => into.copy_from_slice(bytes),
                }
                Some(())
            }
            Source::Outbox(memory, offset) => memory.read(offset + at as u64, into),
            Source::Inbox(memory, offset) => memory.read(offset + at as u64, into),
            Source::Private(bytes) => {
                into.copy_from_slice(&bytes[at..][..count]);
                Some(())
            }
        };
        // Within the arena, as was checked when this was made.
        read.map_or(0, |()| count)
    }

    /// The bytes as a plain value, if they are exactly as many; their alignment doesn't matter.
    pub fn get<T: AnyBitPattern>(&self) -> Option<T> {
        if self.len != size_of::<T>() {
            return None;
        }
        let mut value = T::zeroed();
        if let Source::Record(words) = &self.source {
            return Some(bytemuck::pod_read_unaligned(&bytemuck::bytes_of(words)[..self.len]));
        }
        let bytes = self.to_vec();
        if bytes.len() == size_of::<T>() {
            value = bytemuck::pod_read_unaligned(&bytes);
        }
        Some(value)
    }

    /// All of them, copied.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len];
        let count = self.read_at(0, &mut bytes);
        bytes.truncate(count);
        bytes
    }

    /// Copies them out piece by piece.
    pub fn reader(&self) -> Reader<'_> {
        Reader { shared: self, at: 0 }
    }

    /// Calls `each` with 64 bytes after the other, and last with what is left: each a copy, which is mostly nowhere but in
    /// registers. The quickest safe way over a large payload: it takes a tenth to a quarter longer than reading in place.
    #[inline]
    pub fn for_each_line(&self, each: impl FnMut(&[u8])) {
        // Within the arena, as was checked when this was made.
        let _ = match &self.source {
            Source::Record(words) => return bytemuck::bytes_of(words)[..self.len].chunks(64).for_each(each),
            Source::Private(bytes) => return bytes.chunks(64).for_each(each),
            Source::Outbox(memory, at) => memory.for_each_line(*at, self.len, each),
            Source::Inbox(memory, at) => memory.for_each_line(*at, self.len, each),
        };
    }

    /// Calls `each` with one piece after the other, copied into `scratch`, which stays in the cache: for what is done with
    /// pieces that are longer than those of [`for_each_line`](Self::for_each_line).
    pub fn for_each_chunk(&self, scratch: &mut [u8], mut each: impl FnMut(&[u8])) {
        let mut at = 0;
        while at < self.len && !scratch.is_empty() {
            let count = self.read_at(at, scratch);
            if count == 0 {
                return;
            }
            each(&scratch[..count]);
            at += count;
        }
    }

    /// Where the bytes begin, for who passes them on to another language. Of at most 64 bytes this may be within
    /// this value itself; of more it is in shared memory, which is mapped as long as this value lives.
    pub fn as_ptr(&self) -> *const u8 {
        let ptr = match &self.source {
            Source::Record(words) => Some(bytemuck::bytes_of(words).as_ptr()),
            Source::Outbox(memory, at) => memory.ptr(*at, self.len),
            Source::Inbox(memory, at) => memory.ptr(*at, self.len),
            Source::Private(bytes) => Some(bytes.as_ptr()),
        };
        ptr.unwrap_or(std::ptr::NonNull::dangling().as_ptr())
    }
}

/// Reads a [`Shared`] from its beginning.
pub struct Reader<'a> {
    shared: &'a Shared<'a>,
    at: usize,
}

impl io::Read for Reader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.shared.read_at(self.at, into);
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_all_the_bytes_and_none_where_there_are_none() {
        let lines = |shared: Shared<'_>| {
            let mut lines = Vec::new();
            shared.for_each_line(|line| lines.push(line.to_vec()));
            lines
        };
        let bytes: Vec<u8> = (0..150).collect();
        assert_eq!(lines(Shared::private(bytes.clone())), [&bytes[..64], &bytes[64..128], &bytes[128..]]);
        let record: Record = std::array::from_fn(|word| word as u64);
        let words: Vec<u8> = record[HEAD..].iter().flat_map(|word| word.to_ne_bytes()).collect();
        for len in [1, 63, 64] {
            assert_eq!(lines(Shared::in_record(&record, HEAD, len)), [&words[..len]]);
        }
        assert!(lines(Shared::in_record(&record, HEAD, 0)).is_empty());
        assert!(lines(Shared::private(Vec::new())).is_empty());
    }
}
