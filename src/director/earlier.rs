//! What an earlier director left: the ledgers of its workers.
//!
//! A director that is killed leaves a work segment for each worker, linked from the runtime folder. Its head says
//! whose it is, its ledger which calls were in that worker's hands. The worker goes on with what its ring holds,
//! whatever becomes of the link: it has the segment mapped.

use std::path::Path;

use crate::core::Read;
use crate::core::ledger::{Entry, Ledger};
use crate::error::Error;
use crate::layout::{WorkShape, head};
use crate::limits;
use crate::memory::named::{self, Earlier};
use crate::memory::{Process, Ro, boot_id, pid_namespace_inode};

/// A worker's ledger, as an earlier director left it.
#[derive(Debug)]
pub struct Inheritance {
    /// The worker's id.
    pub worker: u64,
    /// Its process.
    pub pid: i32,
    /// Whether that process lives, as far as can be told: in another boot or pid namespace it counts as alive.
    pub lives: bool,
    /// The calls that were in its hands, and perhaps are.
    pub entries: Vec<Entry>,
}

/// Reads a segment. `None`: it is not a work segment of this bus and protocol, or was never finished.
fn read(mem: &Ro, bus: [u64; 2]) -> Result<Option<Inheritance>, Error> {
    let version = mem.load(head::VERSION);
    let shape = WorkShape { slots: (version >> 32) as u32 };
    let ours = mem.load(head::MAGIC) == head::WORD
        && version as u32 == limits::PROTOCOL
        && mem.copy_out(head::BUS) == bus
        && shape.is_valid()
        && shape.work().words <= mem.words();
    if !ours {
        return Ok(None);
    }
    let ledger = Ledger::new(shape.work().ledger);
    let entries = (0..shape.slots as u16).filter_map(|e| ledger.read(mem, e)).collect();
    let same_kernel =
        mem.copy_out(head::BOOT) == boot_id()? && mem.load(head::PID_NAMESPACE) == pid_namespace_inode()?;
    let pid = mem.load(head::PID) as i32;
    let found = Process::find(pid, mem.load(head::START_TIME), mem.load(head::PIDFD_INODE));
    let lives = !same_kernel || !matches!(found, Ok(None));
    Ok(Some(Inheritance { worker: mem.load(head::WORKER), pid, lives, entries }))
}

fn report_and_unlink(link: &Path, bus: [u64; 2]) -> Result<(), Error> {
    let segment = Earlier::open(link)?;
    match read(segment.mem(), bus)? {
        Some(Inheritance { worker, pid, lives, entries }) => {
            let calls = entries.len();
            tracing::info!(worker, pid, lives, calls, "an earlier director left a ledger");
        }
        None => tracing::warn!(link = %link.display(), "a link to no work segment of this bus"),
    }
    segment.unlink()
}

/// Reads what the links name, then removes it: until ledgers are settled, they serve nobody. Clients have ended
/// their open calls, and workers attach anew. A segment that can't be read is removed too.
pub fn clear(links: &[std::path::PathBuf], bus: [u64; 2], prefix: &str) -> Result<(), Error> {
    for link in links {
        if let Err(error) = report_and_unlink(link, bus) {
            tracing::warn!(link = %link.display(), %error, "a ledger could not be read");
        }
        named::remove_link_and_segment(link)?;
    }
    // Segments whose link was never made, or is gone.
    named::sweep(prefix, &[])?;
    Ok(())
}
