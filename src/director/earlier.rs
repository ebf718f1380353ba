//! What an earlier director left: the ledgers of its workers.
//!
//! A director that is killed leaves a work segment for each worker, linked from the runtime folder. Its head says
//! whose it is, its ledger which calls were in that worker's hands. Segment and link stay until the worker has come
//! back and has a new one, or until nobody can ask for it any more: if this director is killed too, the next one
//! finds the same. [`recovery`](super::recovery) says what is made of it.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::late::Holds;
use crate::core::Read;
use crate::core::ledger::{Entry, Ledger};
use crate::error::Error;
use crate::layout::{WorkShape, head};
use crate::limits;
use crate::memory::named::{self, Earlier};
use crate::memory::{Process, Ro, boot_id, pid_namespace_inode};

/// Whether a worker lives, as far as can be told from here.
#[derive(Debug)]
pub enum Life {
    /// It does; readable when it is dead.
    Lives(OwnedFd),
    /// The kernel knows no such process any more.
    Dead,
    /// It was written down in another boot or pid namespace: it counts as alive.
    Unknown,
}

/// A worker's ledger, as an earlier director left it.
#[derive(Debug)]
pub struct Inheritance {
    /// The worker's id.
    pub worker: u64,
    /// Whether its process lives.
    pub life: Life,
    /// Sizes of the segment.
    pub shape: WorkShape,
    /// The first position of the ring.
    pub start: u64,
    /// The calls that were in its hands, by their entry's number.
    pub entries: Vec<(u16, Entry)>,
    /// In which services it may hold exclusive rights.
    pub holds: Holds,
    link: PathBuf,
    segment: Earlier,
}

impl Inheritance {
    /// Removes the segment; the link leads to the worker's new one by now.
    pub fn replaced(self) -> Result<(), Error> {
        self.segment.unlink()
    }

    /// Removes segment and link.
    pub fn forget(self) -> Result<(), Error> {
        named::remove_link_and_segment(&self.link)
    }
}

/// All that was left.
#[derive(Debug, Default)]
pub struct Estate {
    /// The ledgers.
    pub ledgers: Vec<Inheritance>,
    /// Links to ledgers that can't be read: what they named can't be known.
    pub unreadable: Vec<PathBuf>,
}

/// Reads what the links name. Removes what is no work segment of this bus, and segments that nothing links.
pub fn find(links: &[PathBuf], bus: [u64; 2], prefix: &str) -> Result<Estate, Error> {
    let mut estate = Estate::default();
    let here = if links.is_empty() { ([0; 2], 0) } else { (boot_id()?, pid_namespace_inode()?) };
    for link in links {
        match Earlier::open(link) {
            Ok(segment) => match read(segment, link, bus, here) {
                Some(inheritance) => {
                    let Inheritance { worker, life, entries, .. } = &inheritance;
                    let entries = entries.len();
                    tracing::info!(worker, ?life, entries, "an earlier director left a ledger");
                    estate.ledgers.push(inheritance);
                }
                None => {
                    tracing::warn!(link = %link.display(), "a link to no work segment of this bus");
                    named::remove_link_and_segment(link)?;
                }
            },
            Err(error) => {
                tracing::warn!(link = %link.display(), %error, "a ledger can't be read");
                estate.unreadable.push(link.clone());
            }
        }
    }
    let folders: Vec<&Path> = links.first().and_then(|link| link.parent()).into_iter().collect();
    named::sweep(prefix, &folders)?;
    Ok(estate)
}

/// Where pids mean what they mean to this process: boot and pid namespace.
type Here = ([u64; 2], u64);

/// Reads a segment. `None`: it is not a work segment of this bus and protocol.
fn read(segment: Earlier, link: &Path, bus: [u64; 2], here: Here) -> Option<Inheritance> {
    let mem = segment.mem();
    let version = mem.load(head::VERSION);
    let shape = WorkShape { slots: (version >> 32) as u32 };
    let ours = mem.load(head::MAGIC) == head::WORD
        && version as u32 == limits::PROTOCOL
        && mem.copy_out(head::BUS) == bus
        && shape.is_valid()
        && shape.work().words <= mem.words();
    if !ours {
        return None;
    }
    let ledger = Ledger::new(shape.work().ledger);
    let entries = (0..shape.slots as u16).filter_map(|e| Some((e, ledger.read(mem, e)?))).collect();
    let (worker, start, life) = (mem.load(head::WORKER), mem.load(head::START), life(mem, here));
    let holds = mem.copy_out(head::HOLDS);
    Some(Inheritance { worker, life, shape, start, entries, holds, link: link.into(), segment })
}

/// Only with the same boot and pid namespace does a missing or other process mean dead.
fn life(mem: &Ro, here: Here) -> Life {
    if (mem.copy_out(head::BOOT), mem.load(head::PID_NAMESPACE)) != here {
        return Life::Unknown;
    }
    let pid = mem.load(head::PID) as i32;
    match Process::find(pid, mem.load(head::START_TIME), mem.load(head::PIDFD_INODE)) {
        Ok(Some(pidfd)) => Life::Lives(pidfd),
        Ok(None) => Life::Dead,
        Err(_) => Life::Unknown,
    }
}
