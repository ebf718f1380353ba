//! Memory that the processes of a floor share: words for their rings and lines, and bytes for large payloads.
//!
//! ```text
//! page 0 …                     words: lines, or rings of records
//! WORDS * 8 …                  the request's bytes, then the answer's
//! ```
//! The only `unsafe` of the command. The file lies in the round's own folder, which nobody else knows; the processes
//! of a round touch the words through atomics only, and the bytes in turns: whose turn it is, a word says.

#![allow(unsafe_code)]

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use anyhow::{Context, ensure};
use memmap2::{MmapOptions, MmapRaw};
use trine::core::{Read, Write};
use trine_measure::PartyOptions;

/// Words: room for a few rings of [`RECORDS`](super::rings::RECORDS) records.
pub const WORDS: usize = 1 << 17;

/// The mapping.
pub struct Memory {
    map: MmapRaw,
    request: usize,
    answer: usize,
}

impl Memory {
    /// Maps the round's memory, and makes it if it is not there: the first party to start does.
    pub fn map(options: &PartyOptions) -> anyhow::Result<Memory> {
        let [request, answer] = [options.bytes, options.reply_bytes].map(|n| n.next_multiple_of(4096));
        let bytes = WORDS * 8 + request + answer;
        let map = open(&options.path("memory"), bytes as u64).context("making shared memory")?;
        let map = MmapOptions::new().len(bytes).map_raw(&map).context("mapping shared memory")?;
        Ok(Memory { map, request, answer })
    }

    fn word(&self, word: usize) -> &AtomicU64 {
        assert!(word < WORDS);
        // SAFETY: the mapping has at least WORDS words, lives as long as `self`, and begins on a page, so this word
        // lies in it and is aligned. All processes touch it through atomics only, and the file is never made shorter.
        unsafe { AtomicU64::from_ptr(self.map.as_mut_ptr().cast::<u64>().add(word)) }
    }

    /// A word; what was stored before its `publish` is seen after it.
    pub fn look(&self, word: usize) -> u64 {
        // Acquire: pairs with the Release in publish.
        self.word(word).load(Ordering::Acquire)
    }

    /// Stores a word after all that was stored before.
    pub fn publish(&self, word: usize, value: u64) {
        // Release: pairs with the Acquire in look.
        self.word(word).store(value, Ordering::Release);
    }

    /// Sleeps as long as a word is this one, in its lower half.
    pub fn sleep_while(&self, word: usize, value: u64) {
        let word = self.word(word).as_ptr();
        let (wait, forever) = (nix::libc::FUTEX_WAIT, std::ptr::null::<nix::libc::timespec>());
        // SAFETY: the kernel reads the lower half of the word, which is mapped as long as `self` lives and aligned; a
        // little-endian word begins with it. It writes nothing. A signal or a value that has changed ends the wait.
        unsafe { nix::libc::syscall(nix::libc::SYS_futex, word, wait, value as u32, forever) };
    }

    /// Wakes who sleeps on this word.
    pub fn wake(&self, word: usize) {
        let word = self.word(word).as_ptr();
        // SAFETY: to the kernel the word is a name; it is mapped as long as `self` lives.
        unsafe { nix::libc::syscall(nix::libc::SYS_futex, word, nix::libc::FUTEX_WAKE, 1) };
    }

    /// The request's bytes, for whoever's turn it is.
    pub fn request(&self, len: usize) -> &mut [u8] {
        self.bytes(0, self.request, len)
    }

    /// The answer's bytes, for whoever's turn it is.
    pub fn answer(&self, len: usize) -> &mut [u8] {
        self.bytes(self.request, self.answer, len)
    }

    #[expect(clippy::mut_from_ref, reason = "the other references are other processes'")]
    fn bytes(&self, at: usize, room: usize, len: usize) -> &mut [u8] {
        assert!(len <= room);
        // SAFETY: the mapping is as long as words, request and answer together, and `len` bytes from here lie within
        // one of the latter two. A process has one thread, which has one of these at a time; another process touches
        // the bytes only after a word has told it so, and until it has told it on.
        unsafe { std::slice::from_raw_parts_mut(self.map.as_mut_ptr().add(WORDS * 8 + at), len) }
    }
}

impl Read for Memory {
    #[inline]
    fn load(&self, word: usize) -> u64 {
        self.word(word).load(Ordering::Relaxed)
    }
    #[inline]
    fn acquire(&self) {
        fence(Ordering::Acquire);
    }
}

impl Write for Memory {
    #[inline]
    fn store(&self, word: usize, value: u64) {
        self.word(word).store(value, Ordering::Relaxed);
    }
    #[inline]
    fn release(&self) {
        fence(Ordering::Release);
    }
    #[inline]
    fn full(&self) {
        fence(Ordering::SeqCst);
    }
}

fn open(path: &Path, bytes: u64) -> anyhow::Result<File> {
    let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
    if file.metadata()?.len() == 0 {
        file.set_len(bytes)?;
    }
    ensure!(file.metadata()?.len() == bytes, "{} is of another round", path.display());
    Ok(file)
}

/// A payload of Trine's where it lies.
pub fn where_it_lies<'a>(bytes: &'a trine::Shared<'_>) -> &'a [u8] {
    // SAFETY: both ends are this program. A client writes a request before it sends it and a worker a reply before it
    // answers, and neither does again before the other has answered, or dropped the reply, which `bytes` is borrowed
    // from. Nobody gives a call up.
    unsafe { bytes.as_slice() }
}

/// Descriptors that whoever started this process left open for it.
pub mod inherited {
    use std::os::fd::{FromRawFd, OwnedFd, RawFd};

    use anyhow::Context;
    use nix::fcntl::{FcntlArg, fcntl};

    /// The descriptor of this number.
    pub fn take(fd: RawFd) -> anyhow::Result<OwnedFd> {
        // SAFETY: it is asked about, and nothing else is done with it, before anybody owns it; a number that is not
        // open is an error of the call.
        let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
        fcntl(borrowed, FcntlArg::F_GETFD).with_context(|| format!("descriptor {fd} was not left open"))?;
        // SAFETY: it is open, and this program was told its number so that it owns it: the number stands on its
        // command line once, and nothing else in it knows of it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}
