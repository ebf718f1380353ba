//! Who comes presents memory, old or new: every descriptor is checked, and only then mapped.
//!
//! ```text
//! client ─ outbox, inbox, bell ─► known? ─► shape ─► seals, sizes ─► charge ─► map the rings ─► data thread
//! worker ─ progress page, bell ─► carried over? ─► ... ─► a work segment, linked ──────────► data thread
//! ```

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::peer::{SessionDescriptors, Stage, Trouble, WorkerSegment, charge_peer};
use super::{Control, Peer, segment_prefix};
use crate::access::Domain;
use crate::core::Write;
use crate::core::ledger::Ledger;
use crate::director::late::HOLDS_WORDS;
use crate::director::link::{Connection, NewSession, NewWorker, ToData, TooLate};
use crate::director::quota::{Charge, Counted, SESSION_DESCRIPTORS, WORKER_DESCRIPTORS};
use crate::director::recovery::{self, CarriedOver};
use crate::error::{Error, Status};
use crate::identity::Identity;
use crate::layout::{SessionShape, WorkShape, head};
use crate::limits;
use crate::memory::named::Named;
use crate::memory::sealed::{self, Kind};
use crate::memory::{Among, Doorbell, Process};
use crate::waiting::now_ns;

impl Control {
    /// A client presents its session: every descriptor is checked, then the rings (never an arena) are mapped.
    pub(super) fn open_session(
        &mut self,
        from: Connection,
        (session, credential): (u64, [u64; 2]),
        domain: Domain,
        (published, settled): (u64, u64),
        shape: SessionShape,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), Trouble> {
        let resumed = session != 0;
        let is_here = |p: &Peer| matches!(&p.stage, Stage::Session(s) if s.id == session);
        // An earlier director forgot what could have been said of the calls of one that it had not heard whole.
        if resumed && (now_ns() >= self.until_ns || settled < self.folder.settled()) {
            return Err(unknown("session"));
        }
        if resumed && self.peers.values().any(is_here) {
            return Err(Trouble::Refused(Status::Busy, "its earlier connection is still open".into()));
        }
        let Some(peer) = self.peers.get_mut(&from) else { return Ok(()) };
        let Ok([outbox, inbox, client]) = <[OwnedFd; 3]>::try_from(descriptors) else {
            return Err(Trouble::Gone);
        };
        if !shape.is_valid() {
            return Err(Trouble::Refused(Status::Fault, format!("sizes out of bounds: {shape:?}")));
        }
        let (out, at) = (shape.outbox(), shape.inbox());
        let (out_bytes, in_bytes) = (out.words as u64 * 8, at.words as u64 * 8);
        sealed::check(&outbox, "outbox", out_bytes + out.arena_bytes, out_bytes, Kind::WriterOnly)?;
        sealed::check(&inbox, "inbox", in_bytes + at.arena_bytes, in_bytes, Kind::ReadWrite)?;
        let Identity { uid, pid, .. } = peer.process.identity;
        let charge = Charge::new(uid, pid)
            .and(Counted::Sessions, 1)
            .and(Counted::SegmentBytes, out_bytes + out.arena_bytes + in_bytes + at.arena_bytes)
            .and(Counted::WaitingCalls, u64::from(shape.slots))
            .and(Counted::Descriptors, SESSION_DESCRIPTORS);
        charge_peer(&mut self.accounts, peer, charge, resumed)?;
        let home = domain == Domain::of_uid(self.uid);
        let among = if home { Among::users(&[self.uid, peer.process.identity.uid]) } else { Among::Several };
        let client = Arc::new(Doorbell::from_fd(client, among)?);
        let id = if resumed { session } else { self.next_session };
        let identity = peer.process.identity;
        let (outbox_inode, inbox_inode) = (sealed::inode(&outbox)?, sealed::inode(&inbox)?);
        let right = self.credentials.session(id, identity.uid, domain, outbox_inode, inbox_inode);
        if !resumed {
            self.next_session += 1;
        } else if credential != right {
            return Err(unknown("session"));
        }
        let credential = right;
        let new = NewSession {
            id,
            credential,
            identity,
            groups: peer.process.groups.as_slice().into(),
            domain,
            shape,
            published,
            resumed,
            pidfd: peer.process.pidfd.clone(),
            outbox: sealed::map_ro(&outbox, out_bytes, out.words)?,
            inbox: sealed::map_rw(&inbox, in_bytes, at.words)?,
            client: client.clone(),
            own: Doorbell::new()?,
        };
        peer.stage = Stage::Session(SessionDescriptors { id, shape, outbox, inbox, client });
        peer.attached = true;
        self.pass_on(ToData::Session(from, Box::new(new)))
    }

    /// A worker presents its progress page, and gets a work segment. One that comes back gets it in the place of its
    /// old one, with what it had begun carried over.
    pub(super) fn open_worker(
        &mut self,
        from: Connection,
        (worker, credential): (u64, [u64; 2]),
        (taken, holds): (u64, bool),
        shape: WorkShape,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), Trouble> {
        let Ok([page, bell]) = <[OwnedFd; 2]>::try_from(descriptors) else { return Err(Trouble::Gone) };
        if !shape.is_valid() {
            return Err(Trouble::Refused(Status::Fault, format!("sizes out of bounds: {shape:?}")));
        }
        let progress = shape.progress();
        let page_bytes = progress.words as u64 * 8;
        sealed::check(&page, "progress page", page_bytes, page_bytes, Kind::WriterOnly)?;
        let page_inode = sealed::inode(&page)?;
        let page = sealed::map_ro(&page, page_bytes, progress.words)?;
        let id = if worker == 0 { self.new_worker_id() } else { worker };
        let Some(peer) = self.peers.get(&from) else { return Ok(()) };
        let identity = peer.process.identity;
        let right = self.credentials.worker(id, identity.uid, page_inode);
        let carried = if worker == 0 {
            None
        } else {
            let old = self.estate.ledgers.iter().find(|l| l.worker == worker && l.shape == shape);
            let old = old.filter(|_| credential == right && now_ns() < self.until_ns);
            if old.is_none() && credential == right {
                // It was given up; what it never began is to be said to those who wait for it.
                let late = TooLate { worker, taken, holds, page: page.clone(), shape };
                self.link.to_data.push(ToData::TooLate(Box::new(late)));
            }
            let old = old.ok_or_else(|| unknown("worker"))?;
            Some(recovery::carry_over(old.start, &old.entries, old.holds, taken, &page, &progress)?)
        };
        let charge = Charge::new(identity.uid, identity.pid)
            .and(Counted::Workers, 1)
            .and(Counted::Descriptors, WORKER_DESCRIPTORS);
        if let Some(peer) = self.peers.get_mut(&from) {
            charge_peer(&mut self.accounts, peer, charge, carried.is_some())?;
        }
        let Some(peer) = self.peers.get(&from) else { return Ok(()) };
        let named = self.new_segment(id, shape, &peer.process, carried.as_ref())?;
        if let Some(i) = self.estate.ledgers.iter().position(|l| l.worker == worker) {
            self.estate.ledgers.swap_remove(i).replaced()?;
        }
        let Some(peer) = self.peers.get_mut(&from) else { return Ok(()) };
        let new = NewWorker {
            id,
            credential: right,
            identity,
            groups: peer.process.groups.as_slice().into(),
            domain: self.access.domain_of(identity.uid),
            shape,
            start: carried.as_ref().map_or(0, |c| c.start),
            carried,
            work: named.mem().clone(),
            page,
            pidfd: peer.process.pidfd.clone(),
            worker: Doorbell::from_fd(bell, Among::users(&[self.uid, identity.uid]))?,
            own: Doorbell::new()?,
        };
        peer.stage = Stage::Worker(WorkerSegment { id, named, sent: 0 });
        peer.attached = true;
        self.pass_on(ToData::Worker(from, Box::new(new)))
    }

    /// An id that nobody has, nor will be asked for by. It has 32 bits, as many as a reply carries: so ids come round,
    /// after 2^32 workers, and those that are somebody's are passed over.
    fn new_worker_id(&mut self) -> u64 {
        let (peers, estate, kept, folder) = (&self.peers, &self.estate, &self.kept, &self.folder);
        next_id(&mut self.last_worker, |id| {
            peers.values().any(|p| matches!(&p.stage, Stage::Worker(segment) if segment.id == id))
                || estate.ledgers.iter().any(|l| l.worker == id)
                || kept.contains_key(&id)
                || estate.unreadable.contains(&folder.worker_link(id))
        })
    }

    /// Makes a work segment: linked, when its head and its ledger are complete.
    fn new_segment(
        &self,
        id: u64,
        shape: WorkShape,
        process: &Process,
        carried: Option<&CarriedOver>,
    ) -> Result<Named, Error> {
        let at = shape.work();
        let (bus, seal) = (self.folder.bus_id(), self.folder.seal(id));
        let head = [
            (head::VERSION, u64::from(limits::PROTOCOL) | u64::from(shape.slots) << 32),
            (head::BUS, bus[0]),
            (head::BUS + 1, bus[1]),
            (head::WORKER, id),
            (head::EPOCH, self.folder.epoch()),
            (head::START, carried.map_or(0, |c| c.start)),
            (head::PID, process.identity.pid as u64),
            (head::START_TIME, process.start_time_ticks()),
            (head::PIDFD_INODE, process.pidfd_inode),
            (head::BOOT, self.boot[0]),
            (head::BOOT + 1, self.boot[1]),
            (head::PID_NAMESPACE, self.pid_namespace),
            (head::SEAL, seal[0]),
            (head::SEAL + 1, seal[1]),
            (head::MAGIC, head::WORD),
        ];
        let link = self.folder.worker_link(id);
        Named::create(&link, &segment_prefix(&self.folder), at.words, |memory| {
            head.iter().for_each(|&(word, value)| memory.store(at.head + word, value));
            let holds = carried.map_or([0; HOLDS_WORDS], |carried| carried.holds);
            holds.iter().enumerate().for_each(|(i, &bits)| memory.store(at.head + head::HOLDS + i, bits));
            let ledger = Ledger::new(at.ledger);
            for &(e, entry) in carried.iter().flat_map(|c| &c.entries) {
                ledger.enter(memory, e, entry);
            }
        })
    }
}

/// The next id that is not 0 and not used: one of the next few, since more can't be.
fn next_id(last: &mut u32, is_used: impl Fn(u64) -> bool) -> u64 {
    loop {
        *last = last.wrapping_add(1);
        let id = u64::from(*last);
        if id != 0 && !is_used(id) {
            return id;
        }
    }
}

/// Somebody who says that he was here before: who can't be, or comes too late. He begins anew.
fn unknown(what: &str) -> Trouble {
    Trouble::Refused(Status::MayHaveRun, format!("this director does not know that {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_workers_fit_a_reply_and_are_never_two_workers() {
        let mut last = u32::MAX - 1;
        let next = |last: &mut u32| next_id(last, |id| [1, 2].contains(&id));
        assert_eq!(next(&mut last), u64::from(u32::MAX));
        assert_eq!(next(&mut last), 3, "0 is the director, the others are here");
        assert_eq!(next(&mut last), 4);
    }
}
