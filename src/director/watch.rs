//! Who stands still.
//!
//! ```text
//! every second:  a sign of life in every session  ─► a client that waits knows that the director lives
//!                each worker's signs of life       ─► none for 3 s: others are given work first
//!                                                     none for the stall limit, something in its hands: verdicts
//!                calls in workers' hands           ─► marked done and not answered: a fault, and a verdict
//! ```
//! A process that is stopped is not dead: nothing can be taken back from it, since it may go on between any two
//! instructions. So its calls end by verdict, their slots stay with it, and when it moves again it is a worker like any
//! other. What it answers then frees the slots.

use super::core::{DirectorCore, Effects, Peer};
use super::worker::{Standing, Worker};
use crate::core::Memory;
use crate::error::{Fault, Status};

/// How often.
const WATCH_NS: u64 = 1_000_000_000;
/// Reply slots that are looked at each time: each costs up to the transfer of a line.
const AUDIT_SLOTS: u64 = 1024;

impl<M: Memory> DirectorCore<M> {
    /// Does it, if it is time to.
    #[inline]
    pub(super) fn watch(&mut self, now_ns: u64, fx: &mut impl Effects) {
        if now_ns >= self.watch_at_ns {
            self.watch_at_ns = now_ns + WATCH_NS.min(self.settings.stall_ns / 4);
            self.show_life();
            self.watch_workers(now_ns, fx);
            self.audit(fx);
            self.sweep_cancelled(None, fx);
        }
    }

    fn show_life(&mut self) {
        for (_, session) in self.sessions.iter_mut().filter(|(_, s)| s.is_served()) {
            session.polled.beat(&session.inbox);
        }
    }

    fn watch_workers(&mut self, now_ns: u64, fx: &mut impl Effects) {
        let mut stalled = Vec::new();
        for (key, worker) in &mut self.workers {
            if let Some(fault) = worker.fault().filter(|_| worker.standing != Standing::Gone) {
                fx.fault(Peer::Worker(key), fault);
                continue;
            }
            let was_stalled = worker.pulse.stalled;
            worker.look(now_ns);
            worker.feel_pulse(now_ns);
            if was_stalled && !worker.pulse.stalled {
                tracing::warn!(worker = worker.id, "it moves again");
                self.news = true;
            }
            if is_busy(worker) && now_ns >= worker.pulse.stalls_ns() {
                tracing::warn!(
                    worker = worker.id,
                    "it stands still: what it has in its hands ends by verdict"
                );
                worker.pulse.stalled = true;
                stalled.push(key);
            }
        }
        for key in stalled {
            self.end_by_verdict(key, fx);
            self.news = true;
            self.held.wake_all();
        }
    }

    /// Looks whether what workers have marked done is answered: at some sessions each time, in turn. A done mark is only
    /// the worker's word, and frees an entry; whoever believed it would leave the call to its deadline.
    fn audit(&mut self, fx: &mut impl Effects) {
        let served = self.sessions.iter().filter(|(_, session)| session.is_served());
        let keys: Vec<usize> = served.map(|(key, _)| key).collect();
        let from = keys.partition_point(|&key| key < self.audit_from);
        let mut left = AUDIT_SLOTS;
        self.unaudited = false;
        for &key in keys[from..].iter().chain(&keys[..from]) {
            let session = &mut self.sessions[key];
            let slots = u64::from(session.shape.slots);
            if left < slots.min(AUDIT_SLOTS) {
                (self.unaudited, self.audit_from) = (true, key);
                return;
            }
            left = left.saturating_sub(slots);
            for (ticket, worker) in session.unanswered() {
                self.audit_call(key, ticket, worker, fx);
            }
        }
    }

    fn audit_call(&mut self, key: usize, ticket: u64, worker: u64, fx: &mut impl Effects) {
        let id = self.sessions[key].id;
        let holder = self.workers.iter_mut().find(|(_, w)| w.id == worker);
        if let Some((_, holder)) = &holder
            && holder.keeps(id, ticket)
        {
            self.unaudited |= !holder.pulse.stalled;
            return;
        }
        let session = &mut self.sessions[key];
        session.give_to(ticket, 0);
        if session.is_answered(ticket) {
            return; // since it was looked at
        }
        let Some((worker, found)) = holder else {
            // It is dead: nobody will write there any more.
            return self.refuse(key, ticket, Status::WorkerDied, fx);
        };
        session.give_verdict(ticket);
        fx.ring(Peer::Session(key));
        if found.standing != Standing::Gone {
            found.standing = Standing::Gone;
            fx.fault(Peer::Worker(worker), Fault::Unanswered { ticket });
        }
    }

    /// When to look again: only while somebody has something in his hands, also one who was given up and finishes it.
    pub(super) fn watch_again_ns(&self) -> u64 {
        let is_watched = |w: &Worker<M>| is_busy(w) && w.pulse.stalls_ns() < u64::MAX;
        let waits = !self.late.is_empty() || self.workers.iter().any(|(_, w)| is_watched(w));
        if waits { self.watch_at_ns } else { u64::MAX }
    }

    /// When to show the next sign of life, and to look again whether what is marked done is answered: as long as a call may
    /// be open, whoever it waits for, and whatever a worker says that it has completed.
    pub fn beats_at_ns(&self) -> u64 {
        let is_open = self.unaudited
            || self.holds_work_back()
            || self.is_recovering()
            || self.workers.iter().any(|(_, w)| is_busy(w));
        if is_open { self.watch_at_ns } else { u64::MAX }
    }
}

/// Whether it has something in its hands that has not ended by verdict.
fn is_busy<M: Memory>(worker: &Worker<M>) -> bool {
    worker.in_flight() > 0 && !worker.pulse.stalled
}
