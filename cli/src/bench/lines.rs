//! Three cache lines that three processes share: what the floor is measured with.
//!
//! The only `unsafe` of the command: words of a mapping as atomics. Each line has one writer; its last word to be
//! written is the stamp, which the reader polls.

#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, ensure};
use memmap2::{MmapOptions, MmapRaw};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// Bytes of the mapping: a page, so that each line can have a neighbour of its own.
const BYTES: usize = 4096;
/// Words from one line to the next: two lines, since processors fetch them in pairs.
const STRIDE: usize = 16;
/// Words that a line carries beside its stamp.
pub const CARRIED: usize = 7;

/// Which of the lines.
#[derive(Clone, Copy)]
pub enum Line {
    Request = 0,
    Work = 1,
    Reply = 2,
}

/// The mapping.
pub struct Lines(MmapRaw);

/// The file behind it, as long as this lives.
pub struct LinesFile(File);

impl LinesFile {
    /// Makes one that has no name.
    pub fn new() -> anyhow::Result<LinesFile> {
        let fd = memfd_create("trine bench", MFdFlags::MFD_CLOEXEC).context("making shared memory")?;
        let file = File::from(fd);
        file.set_len(BYTES as u64).context("making shared memory")?;
        Ok(LinesFile(file))
    }

    /// Where another process finds it.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()).into()
    }
}

impl Lines {
    /// Maps the file at this path.
    pub fn map(path: &Path) -> anyhow::Result<Lines> {
        let file = File::options().read(true).write(true).open(path).context("opening shared memory")?;
        ensure!(file.metadata()?.len() == BYTES as u64, "{} is not shared memory of a bench", path.display());
        Ok(Lines(MmapOptions::new().len(BYTES).map_raw(&file).context("mapping shared memory")?))
    }

    fn word(&self, line: Line, word: usize) -> &AtomicU64 {
        let index = line as usize * STRIDE + word;
        assert!(index < BYTES / 8);
        // SAFETY: the mapping is as long as `BYTES` says, lives as long as `self`, and begins on a page, so this
        // word lies in it and is aligned. All processes touch it through atomics only, and the file, a memfd that
        // only this program's processes know, is never made shorter.
        unsafe { AtomicU64::from_ptr(self.0.as_mut_ptr().cast::<u64>().add(index)) }
    }

    /// Writes a line: the stamp last.
    pub fn publish(&self, line: Line, stamp: u64, words: &[u64; CARRIED]) {
        for (i, word) in words.iter().enumerate() {
            self.word(line, i + 1).store(*word, Ordering::Relaxed);
        }
        // Release: pairs with the Acquire in take.
        self.word(line, 0).store(stamp, Ordering::Release);
    }

    /// Reads a line, if it has this stamp.
    pub fn take(&self, line: Line, stamp: u64) -> Option<[u64; CARRIED]> {
        // Acquire: pairs with the Release in publish.
        if self.word(line, 0).load(Ordering::Acquire) != stamp {
            return None;
        }
        Some(std::array::from_fn(|i| self.word(line, i + 1).load(Ordering::Relaxed)))
    }
}
