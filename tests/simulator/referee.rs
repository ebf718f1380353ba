//! What must hold, whatever the schedule: the books of a third party that sees every store and every outcome.
//!
//! *Calls*: each ends once, with its own answer; what "did not run" never runs, before or after; nothing runs twice.
//! *Rights*: of a reply slot there is one holder at a time, and nobody else writes there.
//! *Lines*: a segment's words are written by whom the layout says, and by nobody once its owner has it back.

use std::collections::HashMap;

use trine::client::core::Outcome;
use trine::layout::{LINE, Place, ReplyHead, Request, flag, place};
use trine::{Status, Unheld};

use crate::simulator::coverage::Seen;
use crate::simulator::holdings::Holdings;
use crate::simulator::memory::{Region, Role};
use crate::simulator::plan::{DIRECTOR, Mutation, PARTIES};
use crate::simulator::worker::OPERATIONS;
use crate::simulator::world::{World, name};

/// Who may write a reply slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Right {
    Spent,
    Director(u64),
    /// Under which id, and at which position.
    Worker(u64, usize, (u64, u64)),
}

/// A call, from its submission on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Call {
    /// Which of the operations was asked for.
    pub operation: usize,
    pub has_route: bool,
    pub deadline_ns: u64,
    pub session: usize,
    /// The exclusive keys that it is about, a bit for each; of a ticket of a scatter those of all, until it starts.
    pub keys: u64,
    /// It is a ticket of a scatter.
    pub part: bool,
    /// How often it was sent, under a new ticket each time.
    pub sent: u32,
    pub started: u32,
    /// Whether it may have run, once it has ended.
    pub ended: Option<bool>,
}

/// The books.
pub struct Referee {
    slots: u64,
    calls: Vec<Call>,
    /// By session, then by reply slot.
    rights: Vec<Vec<Right>>,
    /// The sessions' ids, as the director gave them.
    ids: Vec<u64>,
    /// By worker's id: the position of its last record.
    positions: HashMap<usize, u64>,
    /// Who has stamped a reply and not marked it done.
    stamped: [bool; PARTIES],
    pub holdings: Holdings,
}

/// The words of an answer to a call.
pub fn answer_word(call: u64, i: u64) -> u64 {
    (call + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(i as u32)
}

impl Referee {
    pub fn new(slots: u32) -> Self {
        Referee {
            slots: u64::from(slots),
            calls: Vec::with_capacity(32),
            rights: Vec::new(),
            ids: Vec::new(),
            positions: HashMap::new(),
            stamped: [false; PARTIES],
            holdings: Holdings::default(),
        }
    }

    /// A call is about to be submitted; returns what it is called here.
    pub fn submitted(&mut self, call: Call) -> u64 {
        self.calls.push(call);
        self.calls.len() as u64 - 1
    }

    /// A ticket of a scatter was no part: it has not run, and never will.
    pub fn no_part(&mut self, world: &World, id: u64) {
        let call = &mut self.calls[id as usize];
        if call.ended.replace(false).is_some() || call.started > 0 {
            world.fail(|| format!("call {id} was no part of its scatter, but ran or has ended"));
        }
    }

    /// A worker starts to run a call, which is about these exclusive keys.
    pub fn started(&mut self, world: &World, worker: usize, id: u64, operation: usize, keys: u64) {
        let Some(call) = self.calls.get_mut(id as usize) else {
            return world.fail(|| format!("{} got a call {id:#x} that nobody made", name(worker)));
        };
        call.started += 1;
        if call.started > 1 {
            world.fail(|| format!("call {id} runs a second time, at {}", name(worker)));
        }
        if call.ended == Some(false) {
            world.fail(|| format!("call {id} runs at {}, but has ended as \"did not run\"", name(worker)));
        }
        if keys & !call.keys != 0 {
            let asked = call.keys;
            world.fail(|| format!("call {id} about {asked:b} runs about {keys:b}"));
        }
        call.keys = keys;
        let (sent, session) = (call.sent, call.session);
        if call.operation != operation {
            let asked = call.operation;
            world.fail(|| format!("call {id} of operation {asked} came to operation {operation}"));
        }
        // What was tried again takes its place anew.
        let later = |c: &Call| c.started > 0 && c.session == session && c.keys & keys != 0;
        let overtaken = self.calls.iter().enumerate().skip(id as usize + 1).find(|(_, c)| later(c));
        if let Some((by, _)) = overtaken.filter(|_| sent == 1) {
            world.fail(|| format!("call {id} runs after call {by}, which was sent later, on keys {keys:b}"));
        }
    }

    /// A call has ended for its caller.
    pub fn ended(&mut self, world: &World, id: u64, outcome: &Outcome) {
        let call = &mut self.calls[id as usize];
        let status = outcome.status;
        if call.ended.replace(outcome.may_have_run).is_some() {
            world.fail(|| format!("call {id} ended a second time, {status}"));
        }
        if !outcome.may_have_run && call.started > 0 {
            world.fail(|| format!("call {id} ended {status} as \"did not run\", but ran"));
        }
        if matches!(status, Status::Ok | Status::WorkerError) {
            let started = call.started;
            let head = outcome.head();
            let at = if head.flags & trine::layout::reply_flag::TRACED != 0 || head.len > 32 { 8 } else { 4 };
            let intact = (0..head.len / 8).all(|i| outcome.record[at + i as usize] == answer_word(id, i));
            if started != 1 || !intact || head.len < 8 {
                world.fail(|| {
                    format!("call {id} ended {status}: started {started} times, record {:x?}", outcome.record)
                });
            }
        }
        if let Some(why) = not_allowed(world, call, status) {
            world.fail(|| format!("call {id} ended {status}, though {why}"));
        }
        let deadline_ns = call.deadline_ns;
        if status == Status::DeadlineExceeded && (deadline_ns == 0 || world.now_ns.get() < deadline_ns) {
            world.fail(|| format!("call {id} ended {status}, before its deadline {deadline_ns}"));
        }
        world.saw(match status {
            Status::Ok => Seen::Ok,
            Status::WorkerError => Seen::WorkerError,
            Status::NoSuchService => Seen::NoSuchService,
            Status::NoWorker => Seen::NoWorker,
            Status::Busy => Seen::Busy,
            Status::NotHeld => Seen::NotHeld,
            Status::WorkerDied => Seen::WorkerDied,
            Status::MayHaveRun => Seen::Verdict,
            Status::DeadlineExceeded if outcome.may_have_run => Seen::DeadlineOfClient,
            Status::DeadlineExceeded => Seen::DeadlineUnrun,
            // A part that its worker has not begun, for its client had given it up.
            Status::DirectorGone if outcome.may_have_run || call.part => Seen::GivenUpOnDirector,
            Status::DirectorGone if world.plan.stops_after.is_some() => Seen::DirectorStopped,
            Status::NotBegun if call.part => Seen::PartNotBegun,
            Status::TooManyParts if call.part => Seen::TooManyParts,
            // Nobody is left to try it again with.
            Status::NotBegun if world.has_seen(Seen::LeftSilent) => return,
            Status::NotBegun if !world.plan.gentle && (world.epoch.get() > 1 || !world.is_up.get()) => return,
            // Nobody else can have given it up, and what was not begun is tried again, unseen.
            _ => return world.fail(|| format!("call {id} ended {status}")),
        });
    }

    /// A caller gave a call up and hears no more of it.
    pub fn given_up(&mut self, world: &World, id: u64) {
        world.saw(Seen::Cancelled);
        if self.calls[id as usize].ended.replace(true).is_some() {
            world.fail(|| format!("call {id} was given up after its end"));
        }
    }

    /// A client makes a session; returns which it is.
    pub fn new_session(&mut self) -> usize {
        self.ids.push(0);
        self.rights.push(vec![Right::Spent; self.slots as usize]);
        self.ids.len() - 1
    }

    /// The director has named it.
    pub fn named(&mut self, session: usize, id: u64) {
        self.ids[session] = id;
    }

    /// What the director has named it.
    pub fn id_of(&self, session: usize) -> u64 {
        self.ids[session]
    }

    /// A worker is dead, or has left: what it held is the director's. Returns whether it died between a stamp and
    /// what follows.
    pub fn worker_dead(&mut self, worker: usize) -> bool {
        for right in self.rights.iter_mut().flatten() {
            if let Right::Worker(ticket, holder, _) = *right
                && holder == worker
            {
                *right = Right::Director(ticket);
            }
        }
        std::mem::take(&mut self.stamped[worker])
    }

    /// A worker says that it takes nothing from this position on: what stands there is the director's again.
    pub fn stopped(&mut self, id: u64, taken: u64) {
        for right in self.rights.iter_mut().flatten() {
            if let Right::Worker(ticket, _, (holder, position)) = *right
                && holder == id
                && position >= taken
            {
                *right = Right::Director(ticket);
            }
        }
    }

    /// A store is about to be executed.
    pub fn stored(&mut self, world: &World, region: &Region<'_>, word: usize, value: u64) {
        let party = region.cpu.party;
        let role = region.segment.role;
        let is_own = matches!(role, Role::Outbox(client, _) if client == party);
        if region.segment.returned.get() && !is_own {
            world.fail(|| format!("{} writes {role}, whose owner has it back", name(party)));
        }
        let foreign = match region.segment.role {
            Role::Outbox(client, shape) => {
                let at = shape.outbox();
                if word >= at.ring && (word - at.ring).is_multiple_of(LINE) {
                    self.published(world, region, word);
                }
                party != client
            }
            Role::Page(worker, shape) => {
                if word >= shape.progress().done {
                    self.stamped[worker] = false;
                }
                world.moves(worker);
                party != worker
            }
            Role::Work(worker, shape) => {
                let at = shape.work();
                if (at.ring..at.ledger).contains(&word) && (word - at.ring).is_multiple_of(LINE) {
                    self.pushed(world, region, worker, word, value - 1);
                }
                party != DIRECTOR
            }
            Role::Inbox(_, shape) => {
                let at = shape.inbox();
                if let Some(word) = word.checked_sub(at.replies) {
                    self.replied(world, region, word, value);
                    false
                } else {
                    if word == at.polled && value & 1 == 1 && !world.parking.get() {
                        world.saw(Seen::SessionCold);
                    }
                    party != DIRECTOR
                }
            }
        };
        if foreign {
            let role = region.segment.role;
            world.fail(|| format!("{} writes word {word} of {role}", name(party)));
        }
    }

    fn request_of(region: &Region<'_>, record: usize) -> Request {
        Request::of_client(&std::array::from_fn(|i| region.view(record + i)))
    }

    /// A client's request stamp: the reply right goes to the director. What is published again is where it was.
    fn published(&mut self, world: &World, region: &Region<'_>, record: usize) {
        let Request { ticket, flags, len, .. } = Self::request_of(region, record);
        let right = &mut self.rights[region.segment.session][(ticket % self.slots) as usize];
        if flags & flag::AGAIN != 0 {
            return;
        }
        let at = if place(len as usize, flags) == Place::Head { 6 } else { 8 };
        if let Some(call) = self.calls.get_mut(region.view(record + at) as usize) {
            call.sent += 1;
        }
        if *right != Right::Spent {
            let (held, party) = (*right, region.cpu.party);
            world.fail(|| format!("{} publishes ticket {ticket}, but {held:?} is out", name(party)));
        }
        *right = Right::Director(ticket);
    }

    /// A work record's stamp: the right goes to the worker.
    fn pushed(&mut self, world: &World, region: &Region<'_>, worker: usize, record: usize, position: u64) {
        let ticket = Self::request_of(region, record).ticket;
        let last = self.positions.insert(region.segment.session, position);
        if last.is_some_and(|last| last >= position) {
            world.fail(|| format!("position {position} is used again, after {last:?}, at {}", name(worker)));
        }
        let tag = region.view(record + 2) >> 48;
        let Some(session) = self.ids.iter().position(|id| id & 0xffff == tag) else {
            return world.fail(|| format!("a record for session {tag:#x}, which is nobody's"));
        };
        let right = &mut self.rights[session][(ticket % self.slots) as usize];
        if *right != Right::Director(ticket) {
            let held = *right;
            world.fail(|| format!("ticket {ticket} of session {session} is pushed, but {held:?}"));
        }
        *right = Right::Worker(ticket, worker, (region.segment.session as u64, position));
    }

    /// A word of a reply slot.
    fn replied(&mut self, world: &World, region: &Region<'_>, word: usize, value: u64) {
        let (party, session) = (region.cpu.party, region.segment.session);
        let slot = word / LINE;
        let right = self.rights[session][slot];
        if world.plan.mutation == Mutation::LateReplyBody && right == Right::Spent {
            return; // held back by the memory, not stored late by the party
        }
        let ticket = match right {
            Right::Director(ticket) if party == DIRECTOR => ticket,
            Right::Worker(ticket, holder, _) if party == holder => ticket,
            _ => {
                return world.fail(|| {
                    format!("{} writes reply slot {slot} of session {session}, but {right:?}", name(party))
                });
            }
        };
        if !word.is_multiple_of(LINE) {
            return;
        }
        if value != ticket + 1 {
            world.fail(|| format!("{} stamps {value}, not {}", name(party), ticket + 1));
        }
        self.rights[session][slot] = Right::Spent;
        let Role::Inbox(_, shape) = region.segment.role else { return };
        let record = shape.inbox().replies + word;
        let head = ReplyHead::of(&std::array::from_fn(|i| region.view(record + i)));
        match Status::from_number(head.status) {
            Some(Status::NotBegun) if world.epoch.get() > 1 => world.saw(Seen::NotBegunGivenBack),
            Some(Status::NotBegun) => world.saw(Seen::NotBegunRetried),
            Some(Status::Cancelled) => world.saw(Seen::CancelledUnrun),
            Some(Status::DeadlineExceeded) => world.saw(Seen::DeadlineUnrun),
            _ if party != DIRECTOR => self.stamped[party] = true,
            _ => {}
        }
    }

    /// Whether all rights over a session's slots are spent.
    pub fn all_spent(&self, session: usize) -> bool {
        self.rights[session].iter().all(|r| *r == Right::Spent)
    }

    /// For a deadlock's report: what has not ended.
    pub fn open(&self) -> String {
        let open = self.calls.iter().enumerate().filter(|(_, c)| c.ended.is_none());
        let calls: Vec<String> = open.map(|(id, c)| format!("call {id} (started {})", c.started)).collect();
        format!("open: {}; rights by session: {:?}", calls.join(", "), self.rights)
    }
}

/// Why a call may not end so: where nothing went wrong for a worker, directors' deaths alone cost no call anything.
fn not_allowed(world: &World, call: &Call, status: Status) -> Option<&'static str> {
    let met = |any: &[Seen]| any.iter().any(|&what| world.has_seen(what));
    let has_route = call.operation < OPERATIONS.len() && call.has_route;
    match status {
        Status::WorkerDied | Status::MayHaveRun if world.plan.gentle => {
            Some("no worker has died or come too late")
        }
        Status::WorkerDied if !met(&[Seen::WorkerKilled, Seen::WorkerEnded]) => Some("every worker lives"),
        Status::MayHaveRun
            if !met(&[Seen::WorkerHung, Seen::WorkerMissed, Seen::Unreadable, Seen::SessionRefused])
                && !world.any_stands_still() =>
        {
            Some("everybody was there in time")
        }
        Status::NoSuchService | Status::NoWorker if world.plan.gentle && has_route => {
            Some("there are workers")
        }
        Status::NotHeld if call.keys == 0 || world.plan.exclusive != Some(Unheld::Error) => {
            Some("it does not need a holder at once")
        }
        Status::Busy if world.plan.gentle => Some("there is room"),
        Status::DirectorGone if world.plan.gentle => Some("there was a next director"),
        _ => None,
    }
}
