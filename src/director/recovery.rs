//! What a director inherits from one that was killed, and how it settles it.
//!
//! ```text
//!  ledgers of the earlier director ──► who had which ticket at which position
//!  clients publish again what is unanswered (AGAIN) ──► settle:
//!      answered                                   ring the client
//!      in no ledger                               it was never in a worker's hands: dispatch it
//!      at a worker that has presented itself      it began (the entry was carried over), or it never will: dispatch
//!      at a worker that is dead                   WORKER_DIED: it may have run
//!      at a worker that lives and is not here     hold, until it presents itself, dies, or the window ends
//! ```
//! A worker that presents itself says where it stands: `taken` is final then, since it takes nothing more from its old
//! ring. What lies behind it has never begun. Its new ring starts past every position that the old ledger names, so
//! that no position is ever used twice, and entries that are open are carried over under their own numbers.

use std::collections::{HashMap, HashSet};

use super::core::{DirectorCore, Effects, Peer, Took};
use super::late::{Holds, is_marked};
use super::session::Session;
use super::worker::{Standing, Worker};
use crate::core::ledger::Entry;
use crate::core::{Memory, Read};
use crate::error::{Fault, Status};
use crate::identity::Identity;
use crate::layout::{POSITION_END, Progress, Record, Request, SessionShape, WorkShape, flag, reply_flag};
use crate::limits;

/// How long the window's end waits for a worker that came back within it and is still telling what it holds.
const TELLING_NS: u64 = 5_000_000_000;

/// So long after a session that came back another one may be on its way, which goes before what can wait.
const RUSH_NS: u64 = 20_000_000;
/// So long that can go on, if they come one by one, or mean harm.
const RUSH_MAX_NS: u64 = 1_000_000_000;

/// What is known of a worker whose ledger was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// It seems to live, and has not presented itself.
    Awaited,
    /// It has, and had begun all before this position.
    Presented(u64),
    /// It did, and has died since.
    Buried(u64),
    /// The kernel says that it is dead.
    Dead,
    /// It lives, but did not come in time.
    Missed,
}

/// A worker's ledger, as an earlier director left it.
pub(super) struct Inherited {
    pub worker: u64,
    pub presence: Presence,
    /// In which services it may hold an exclusive right.
    pub holds: Holds,
    /// It has come back, and has not said yet that it has told all that it provides.
    is_telling: bool,
    /// What was in its hands, by the entries' numbers.
    pub entries: Vec<(u16, Entry)>,
}

/// What is inherited, and not all settled.
#[derive(Default)]
pub struct Recovery {
    /// Until then workers and sessions may come back.
    until_ns: u64,
    open: bool,
    /// The window has ended, and somebody who came back within it is still telling what it holds: it has until then.
    telling_until_ns: Option<u64>,
    /// Ledgers may still be asked for, or wait to be forgotten.
    unsettled: bool,
    pub(super) workers: Vec<Inherited>,
    /// By session and ticket: which worker had it, and at which position.
    tickets: HashMap<(u64, u64), (usize, u64)>,
    /// A ledger could not be read, so what no other names may have been in it.
    incomplete: bool,
    /// Records that wait for their worker, by session's key and slot.
    held: Vec<(usize, u32)>,
    /// Sessions that have not said that all is published again.
    republishing: u32,
    /// One has come back since the clock was looked at.
    came: bool,
    /// So long such go before what can wait; 0: they don't.
    rush_until_ns: u64,
    /// And never longer than this; 0: none has come yet.
    rush_end_ns: u64,
    /// Those who have not come back may be asked for by later directors, if this one dies.
    owes_word: bool,
    /// Sessions that are gone, of which this director has taken requests: the ledgers that it found don't name those.
    spent: HashSet<u64>,
    settlements: Settlements,
}

/// How many records that were published again were settled how. One that was held counts again when it is settled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settlements {
    /// The answer was in.
    pub answered: u64,
    /// It was never begun: dispatched, or given back if its caller had given it up.
    pub fresh: u64,
    /// In the hands of a worker that came back.
    pub in_flight: u64,
    /// In those of one that is dead.
    pub died: u64,
    /// It waits for its worker.
    pub held: u64,
    /// Nobody can say.
    pub unknown: u64,
}

/// What is to be done with a record that was published again.
#[derive(Debug, PartialEq, Eq)]
enum Settled {
    /// It was never begun, and never will be by whom had it: dispatch it.
    Fresh,
    /// Somebody who lives has it in his hands.
    InFlight,
    /// Whoever had it is dead.
    Died,
    /// Not known yet.
    Held,
    /// Never to be known in time: the caller is told so, and the slot stays in quarantine.
    Unknown,
}

impl Settlements {
    fn count(&mut self, settled: &Settled) {
        *match settled {
            Settled::Fresh => &mut self.fresh,
            Settled::InFlight => &mut self.in_flight,
            Settled::Died => &mut self.died,
            Settled::Held => &mut self.held,
            Settled::Unknown => &mut self.unknown,
        } += 1;
    }
}

impl Recovery {
    /// Whether workers that were here before may still come, or tell what they provide.
    pub fn awaits_workers(&self) -> bool {
        (self.open && self.workers.iter().any(|w| w.presence == Presence::Awaited)) || self.hears_more()
    }

    /// Whether somebody may hold an exclusive right of whom nothing is known yet.
    fn awaits_holders(&self) -> bool {
        (self.open && self.incomplete) || self.awaits_workers()
    }

    /// Whether somebody who came back in time has not told all, and may.
    fn hears_more(&self) -> bool {
        (self.open || self.telling_until_ns.is_some()) && self.workers.iter().any(|w| w.is_telling)
    }

    /// Whether a worker has come back, and has not told all yet.
    pub(super) fn is_telling(&self, worker: u64) -> bool {
        self.workers.iter().any(|w| w.worker == worker && w.is_telling)
    }

    /// Whether a worker has come back, has not told all that it provides and holds, and may have held something in a
    /// service: what it acquires there it had. However long it takes, nobody else has got it meanwhile.
    pub(super) fn presents(&self, worker: u64, service: &str) -> bool {
        self.workers.iter().any(|w| w.worker == worker && w.is_telling && is_marked(&w.holds, service))
    }

    /// Whether somebody who lives, and is not here or has not told all, may hold something in a service.
    pub(super) fn may_be_held(&self, service: &str) -> bool {
        let unheard = |w: &&Inherited| w.presence == Presence::Missed || w.is_telling;
        self.workers.iter().filter(unheard).any(|w| is_marked(&w.holds, service))
    }

    /// A worker that came back has told all; or it is dead, and holds nothing.
    pub(super) fn has_told(&mut self, worker: u64) {
        self.workers.iter_mut().filter(|w| w.worker == worker).for_each(|w| w.is_telling = false);
    }

    /// There is a ledger more that can be forgotten.
    pub(super) fn unsettle(&mut self) {
        self.unsettled = true;
    }

    /// Whether sessions and workers may still come back.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Whether sessions are coming back, and go before what can wait.
    pub(super) fn is_rush(&self, now_ns: u64) -> bool {
        let is_over = self.rush_end_ns != 0 && now_ns >= self.rush_end_ns;
        !is_over && (self.came || now_ns < self.rush_until_ns)
    }

    /// When it will be seen that nobody comes any more; `u64::MAX`: it has been.
    pub(super) fn rush_ends_ns(&self) -> u64 {
        if self.rush_until_ns == 0 { u64::MAX } else { self.rush_until_ns }
    }

    /// When the window ends, if it is open; or the time in which all is to be told.
    pub fn ends_ns(&self) -> u64 {
        if self.open { self.until_ns } else { self.telling_until_ns.unwrap_or(u64::MAX) }
    }

    /// A session is gone, of which something was taken or not.
    pub(super) fn session_gone(&mut self, (id, key): (u64, usize), republishing: bool, is_spent: bool) {
        self.held.retain(|&(k, _)| k != key);
        self.republishing -= u32::from(republishing);
        if self.open && is_spent {
            self.spent.insert(id);
        }
    }

    /// Whether a ticket that was published again has not begun and won't, unless it is dispatched now.
    pub(super) fn never_begins(&self, session: u64, ticket: u64) -> bool {
        self.settle(session, ticket) == Settled::Fresh
    }

    fn settle(&self, session: u64, ticket: u64) -> Settled {
        let Some(&(worker, position)) = self.tickets.get(&(session, ticket)) else {
            return if self.incomplete { Settled::Unknown } else { Settled::Fresh };
        };
        match self.workers[worker].presence {
            Presence::Presented(taken) | Presence::Buried(taken) if position >= taken => Settled::Fresh,
            Presence::Presented(_) => Settled::InFlight,
            Presence::Dead | Presence::Buried(_) => Settled::Died,
            Presence::Awaited => Settled::Held,
            Presence::Missed => Settled::Unknown,
        }
    }
}

/// What goes over from a worker's old segment to its new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CarriedOver {
    /// The first position of the new ring.
    pub start: u64,
    /// What the worker had begun before: all behind it never will.
    pub taken: u64,
    /// Entries that are open, by their number.
    pub entries: Vec<(u16, Entry)>,
    /// In which services it may hold an exclusive right: until it has told all, only the old segment knew.
    pub holds: Holds,
}

/// Finds that out: from the old ledger and its head, the worker's final `taken`, and its done marks.
pub fn carry_over(
    old_start: u64,
    entries: &[(u16, Entry)],
    holds: Holds,
    taken: u64,
    page: &impl Read,
    at: &Progress,
) -> Result<CarriedOver, Fault> {
    // Each push is entered. The newest entry is still there; or it was done, and the director died while it overwrote
    // it: then only the worker knows of that one position.
    let newest = entries.iter().map(|(_, e)| e.position).max().unwrap_or(0);
    if newest.max(old_start) >= POSITION_END {
        return Err(Fault::Field {
            field: "position",
            value: newest.max(old_start),
            bound: POSITION_END - 1,
        });
    }
    let top = entries.iter().map(|(_, e)| e.position + 1).max().unwrap_or(0).max(old_start);
    if taken > top + 1 {
        return Err(Fault::Field { field: "taken", value: taken, bound: top + 1 });
    }
    let open = |&&(e, entry): &&(u16, Entry)| {
        entry.position < taken && page.load(at.done + usize::from(e)) != entry.position + 1
    };
    let entries = entries.iter().filter(open).copied().collect();
    Ok(CarriedOver { start: top.max(taken), taken, entries, holds })
}

impl<M: Memory> DirectorCore<M> {
    /// A worker's ledger was found. Before anybody attaches.
    pub fn inherit(&mut self, worker: u64, entries: &[(u16, Entry)], is_dead: bool) {
        let presence = if is_dead { Presence::Dead } else { Presence::Awaited };
        let recovery = &mut self.recovery;
        let index = recovery.workers.len();
        for (_, e) in entries {
            recovery.tickets.insert((e.session, e.ticket), (index, e.position));
        }
        let (entries, holds) = (entries.to_vec(), Holds::default());
        recovery.workers.push(Inherited { worker, presence, holds, is_telling: false, entries });
        recovery.unsettled = true;
    }

    /// A ledger was found that can't be read: truth goes before precision from now on.
    pub fn inherit_unreadable(&mut self) {
        (self.recovery.incomplete, self.recovery.unsettled) = (true, true);
    }

    /// Until then workers and sessions may come back. No exclusive right is granted before all workers have, which may
    /// hold some.
    pub fn open_window(&mut self, until_ns: u64) {
        (self.recovery.until_ns, self.recovery.open, self.recovery.owes_word) = (until_ns, true, true);
        self.table.rights.withhold(true);
    }

    /// A session comes back, with the memory and the id that it had. Its client opens its routes, publishes again
    /// what is unanswered, and then says that it has: see [`republished`](Self::republished).
    ///
    /// MAY_HAVE_RUN where what it has open can't be settled: the window has ended (the shell's clock may have said
    /// otherwise), or this director has taken something of it before. BUSY while it is still here.
    pub fn resume_session(
        &mut self,
        id: u64,
        identity: Identity,
        shape: SessionShape,
        published: u64,
        outbox: M::Ro,
        inbox: M::Rw,
    ) -> Result<usize, Status> {
        if !self.recovery.open || self.recovery.spent.contains(&id) {
            return Err(Status::MayHaveRun);
        }
        if self.session_ids.contains_key(&id) {
            return Err(Status::Busy);
        }
        let key = self.attach_session(id, identity, shape, published, outbox, inbox)?;
        self.sessions[key].republishing = true;
        self.recovery.republishing += 1;
        self.recovery.came = true;
        Ok(key)
    }

    /// A session that came back has published all that it had open. It is all taken now: from here on the ledgers
    /// that say what has become of it may be forgotten.
    pub fn republished(&mut self, key: usize, now_ns: u64, fx: &mut impl Effects) {
        let Some(session) = self.sessions.get(key).filter(|s| s.republishing) else { return };
        let end = session.ring.next() + session.shape.ring_slots();
        self.heat(key);
        self.put_in_order(now_ns, fx);
        while self.sessions.get(key).is_some_and(|s| s.ring.next() < end)
            && self.poll_session(key, now_ns, fx) != Took::Nothing
        {}
        if let Some(session) = self.sessions.get_mut(key)
            && std::mem::take(&mut session.republishing)
        {
            self.recovery.republishing -= 1;
            self.news = true;
        }
    }

    /// A worker comes back. Its new work segment is linked and holds the entries that were carried over.
    pub fn resume_worker(
        &mut self,
        id: u64,
        identity: Identity,
        shape: WorkShape,
        carried: &CarriedOver,
        (work, page): (M::Rw, M::Ro),
        fx: &mut impl Effects,
    ) -> Result<usize, Status> {
        if self.workers.len() >= limits::WORKERS_MAX {
            return Err(Status::Busy);
        }
        let mut worker = Worker::new(id, identity, shape, carried.start, self.settings.share_max, work, page);
        worker.set_first_stall(self.settings.stall_ns);
        carried.entries.iter().for_each(|&(e, entry)| worker.carry(e, entry));
        let key = self.workers.insert(worker);
        if let Some(inherited) = self.recovery.workers.iter_mut().find(|w| w.worker == id) {
            let was = std::mem::replace(&mut inherited.presence, Presence::Presented(carried.taken));
            inherited.is_telling = true;
            if was == Presence::Missed {
                // The window ended while it was on its way to this thread: verdicts were given for what it never begins.
                let behind = inherited.entries.extract_if(.., |(_, entry)| entry.position >= carried.taken);
                let unbegun = behind.map(|(_, entry)| (entry.session, entry.ticket)).collect();
                self.end_unbegun(unbegun, fx);
            }
        }
        self.recovery_news();
        Ok(key)
    }

    /// A worker that came back has told all that it provides and holds, and its program has heard of what it has lost.
    /// What it holds of what it does not provide any more it gives up.
    pub fn provided_again(&mut self, key: usize, fx: &mut impl Effects) {
        let Some(id) = self.workers.get(key).map(|w| w.id) else { return };
        if self.recovery.workers.iter().any(|w| w.worker == id) {
            self.recovery.has_told(id);
            self.table.leave_what_is_not_provided(key);
            self.tell(fx);
            self.withhold_services(fx);
            self.news = true;
            self.recheck_worker(key);
        }
    }

    /// The kernel says that a worker whose ledger was found is dead.
    pub fn inherited_dead(&mut self, worker: u64, fx: &mut impl Effects) {
        let Some(inherited) = self.recovery.workers.iter_mut().find(|w| w.worker == worker) else { return };
        match inherited.presence {
            Presence::Awaited => inherited.presence = Presence::Dead,
            Presence::Missed => {
                inherited.presence = Presence::Dead;
                for (_, entry) in std::mem::take(&mut inherited.entries) {
                    // Its clients were told long ago, and now their slots can be free.
                    self.end_dead(entry.session, entry.ticket, (Status::WorkerDied, 0), fx);
                }
                self.withhold_services(fx);
            }
            Presence::Presented(_) | Presence::Buried(_) | Presence::Dead => {}
        }
        self.recovery.unsettled = true;
        self.recovery_news();
    }

    /// A worker that came back is dead. A session that has not come back yet may still ask for what was carried
    /// over, and so may the next director. Returns whether the ledger has to stay until then.
    pub(super) fn bury(&mut self, worker: u64) -> bool {
        let recovery = &mut self.recovery;
        let inherited = recovery.workers.iter_mut().find(|w| w.worker == worker);
        let Some(inherited) = inherited.filter(|_| recovery.unsettled) else { return false };
        let Presence::Presented(taken) = inherited.presence else { return false };
        inherited.presence = Presence::Buried(taken);
        self.recovery_news();
        true
    }

    fn recovery_news(&mut self) {
        (self.news, self.resettle) = (true, true);
    }

    /// Looks after what is inherited: the window's end, and what waits for it.
    pub(super) fn recover(&mut self, now_ns: u64, fx: &mut impl Effects) {
        if self.recovery.open && now_ns >= self.recovery.until_ns {
            self.recovery.open = false;
            for w in self.recovery.workers.iter_mut().filter(|w| w.presence == Presence::Awaited) {
                w.presence = Presence::Missed;
            }
            self.withhold_services(fx);
            self.resettle = true;
            self.recovery.telling_until_ns = Some(now_ns + TELLING_NS);
        }
        let rush = &mut self.recovery;
        if std::mem::take(&mut rush.came) {
            if rush.rush_end_ns == 0 {
                rush.rush_end_ns = now_ns + RUSH_MAX_NS;
            }
            rush.rush_until_ns = (now_ns + RUSH_NS).min(rush.rush_end_ns);
        } else if now_ns >= rush.rush_until_ns {
            rush.rush_until_ns = 0;
        }
        let is_told = !self.recovery.hears_more();
        if self.recovery.telling_until_ns.take_if(|until_ns| is_told || now_ns >= *until_ns).is_some() {
            self.withhold_services(fx);
        }
        if self.table.rights.is_withheld() && !self.recovery.awaits_holders() {
            self.table.rights.withhold(false);
            self.tell(fx);
            self.held.wake_all();
        }
        if std::mem::take(&mut self.resettle) {
            for (key, slot) in std::mem::take(&mut self.recovery.held) {
                let Some(mut record) = self.sessions.get_mut(key).and_then(|s| s.take_held(slot)) else {
                    continue;
                };
                let request = Request::of_client(&record);
                self.route(key, &mut record, &request, now_ns, fx);
            }
        }
        if !self.recovery.open && self.recovery.republishing == 0 && self.recovery.held.is_empty() {
            self.forget_ledgers(fx);
        }
    }

    /// Nobody will ask about these any more.
    fn forget_ledgers(&mut self, fx: &mut impl Effects) {
        let recovery = &mut self.recovery;
        if std::mem::take(&mut recovery.owes_word) {
            fx.settled_all();
        }
        recovery.tickets.clear();
        recovery.spent.clear();
        (recovery.incomplete, recovery.unsettled) = (false, false);
        recovery.workers.retain(|w| {
            let keep = w.presence == Presence::Missed || w.is_telling;
            if matches!(w.presence, Presence::Dead | Presence::Buried(_)) {
                fx.forget_ledger(w.worker);
            }
            keep
        });
    }

    /// How what was published again was settled so far.
    pub fn settlements(&self) -> Settlements {
        self.recovery.settlements
    }

    /// Whether anything is left to look after.
    pub(super) fn is_recovering(&self) -> bool {
        let recovery = &self.recovery;
        let is_rush = recovery.came || recovery.rush_until_ns != 0;
        recovery.open || self.resettle || recovery.unsettled || is_rush || self.table.rights.is_withheld()
    }

    /// Settles a record that was published again. Returns it if it is to be dispatched like a new one.
    pub(super) fn settle(
        &mut self,
        key: usize,
        mut record: Record,
        request: &Request,
        fx: &mut impl Effects,
    ) -> Option<Record> {
        let session = &mut self.sessions[key];
        let (id, ticket) = (session.id, request.ticket);
        if session.is_answered(ticket) {
            self.recovery.settlements.answered += 1;
            fx.ring(Peer::Session(key));
            return None;
        }
        let settled = self.recovery.settle(id, ticket);
        self.recovery.settlements.count(&settled);
        match settled {
            Settled::Fresh if request.flags & flag::QUARANTINED != 0 => {
                self.refuse(key, ticket, Status::NotBegun, fx);
            }
            Settled::Fresh => {
                Request::set_flags(&mut record, 0, flag::AGAIN);
                return Some(record);
            }
            Settled::InFlight => self.check_carried(key, id, ticket, fx),
            Settled::Died => {
                // Its worker's own word died with the director; what the others say of the operation is as good.
                let route = session.route(request.operation).map(|route| route.operation);
                let idempotent = route.is_some_and(|operation| {
                    self.table.operation(operation).providers.iter().any(|p| p.idempotent)
                });
                let flags = if idempotent { reply_flag::MAY_RERUN } else { 0 };
                self.refuse_flagged(key, ticket, Status::WorkerDied, flags, fx);
            }
            Settled::Held => {
                let slot = session.hold(request, &record);
                self.recovery.held.push((key, slot));
            }
            Settled::Unknown => give_verdict(session, key, ticket, fx),
        }
        None
    }

    /// A ticket that its worker had begun is in the ledger that was carried over, and will be answered. If it is not,
    /// the worker has marked it done and there is no answer; or the worker is gone, though it lives: the caller is told
    /// that it may have run.
    fn check_carried(&mut self, key: usize, id: u64, ticket: u64, fx: &mut impl Effects) {
        let mut lively =
            self.workers.iter().filter(|(_, w)| w.standing != Standing::Gone && !w.pulse.stalled);
        let carried = lively.any(|(_, w)| w.has(id, ticket));
        let session = &mut self.sessions[key];
        if !carried && !session.is_answered(ticket) {
            give_verdict(session, key, ticket, fx);
        }
    }

    /// Ends a ticket whose worker is dead, if its session is here and it was not answered.
    pub(super) fn end_dead(
        &mut self,
        session: u64,
        ticket: u64,
        (status, flags): (Status, u16),
        fx: &mut impl Effects,
    ) {
        let Some(key) = self.session_key(session) else { return };
        if self.sessions[key].is_answered(ticket) {
            fx.ring(Peer::Session(key)); // it may have died between the stamp and the ring
        } else {
            self.refuse_flagged(key, ticket, status, flags, fx);
        }
    }

    /// The key of a session that is attached, and not retired.
    pub(super) fn session_key(&self, id: u64) -> Option<usize> {
        let &key = self.session_ids.get(&id)?;
        self.sessions.get(key).filter(|s| !s.retired).map(|_| key)
    }
}

fn give_verdict<M: Memory>(session: &mut Session<M>, key: usize, ticket: u64, fx: &mut impl Effects) {
    session.give_verdict(ticket);
    fx.ring(Peer::Session(key));
}
