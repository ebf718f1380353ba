//! What a seed decides before the first step: sizes, speeds, and who is to die where.
//!
//! Bounds are small on purpose: rings of two slots turn over, queues of one call overflow and a share of one keeps
//! calls waiting within a few dozen stores, so that rare meetings are common here.

use fastrand::Rng;
use trine::Unheld;
use trine::layout::{SessionShape, WorkShape};

/// The director's place among the parties.
pub const DIRECTOR: usize = 0;
/// The clients' places.
pub const CLIENTS: std::ops::Range<usize> = 1..3;
/// The workers' places: two from the start, the others for those that replace a dead one.
pub const WORKERS: std::ops::Range<usize> = 3..7;
/// Workers from the start.
pub const FIRST_WORKERS: std::ops::Range<usize> = 3..5;
/// All places.
pub const PARTIES: usize = 7;

/// A rule that is switched off, to show that the simulator sees the difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// The shipped rules.
    None,
    /// Memory: a full fence does nothing, on a machine with store buffers.
    NoFullFence,
    /// Memory: a worker's `taken` comes into sight only with `completed`, so after the run.
    LateTaken,
    /// Memory: the last word of a reply comes into sight after its stamp.
    LateReplyBody,
    /// The director's shell rings nobody when a worker has died.
    NoRingOnDeath,
    /// The kernel's word of a worker's death comes while it still runs.
    DeathBeforeKill,
    /// A worker says that it has unmapped a session while it still answers one of its calls.
    EarlyUnmapped,
    /// A worker says that it has mapped a session before it has.
    EarlyMapped,
    /// A worker's ring to the director is lost.
    DeafDirector,
    /// A worker goes on taking from its old ring after it said where it stood.
    KeepsTaking,
    /// A worker is told of its new segment before the link leads to it.
    ToldBeforeLinked,
    /// Ledgers of the dead are dropped when they are found.
    DeadLedgersDropped,
    /// A worker's new ring starts at its `taken`, not past all that the old ledger names.
    StartAtTaken,
    /// Open entries are not carried over.
    NothingCarried,
    /// A client publishes again without saying so.
    SilentAgain,
    /// Memory: a ledger entry comes into sight after its record was pushed.
    LateLedger,
    /// A director does not wait for those who lived under the last.
    NoWindow,
    /// A worker takes a record before it has read what was said about rights before it was pushed.
    RightsUnread,
    /// A worker gives a right up as soon as it is told to, though its ring holds calls on it.
    YieldsAtOnce,
    /// A worker gives a right up though it still runs a call on it.
    YieldsWhatRuns,
    /// A worker that comes back says that it has told all before it has told what it holds.
    HoldsUnsaid,
    /// A worker that comes back says nothing of what it holds in a service that it has withdrawn, and that this is all
    /// before its program has heard that it is lost.
    WithdrawnUnsaid,
    /// A worker that was refused says that it holds nothing before its program has heard so.
    RenouncesUnheard,
    /// Which services a worker may hold something in is not carried over into its new segment.
    MarksDropped,
    /// Memory: a ledger entry is overwritten without having been made invalid first.
    EntryStaysValid,
    /// Memory: the director takes an entry for free by how many calls its worker has answered, not by its own mark.
    EntryByCount,
    /// Memory: the request ring has N slots, not 2N.
    SmallRing,
    /// The director takes back what a worker has that is gone and lives.
    TakenBack,
    /// Memory: a client uses a slot again as soon as it has given the call in it up.
    FreedByDeadline,
    /// Memory: the director knows an answer by its own stamp only, not by a later one.
    StampByEquality,
    /// Links to ledgers of the dead go when the worker is forgotten, though a client may ask for what they name.
    LedgerNotKept,
    /// Memory: a word of a request comes into sight after its stamp.
    LateRequestBody,
    /// The same of a work record.
    LateWorkBody,
    /// A worker marks a call done before it has answered it.
    DoneBeforeStamp,
    /// A director that has settled all, and forgets the ledgers, does not say so to the next.
    SettledUnsaid,
    /// A client that comes back publishes again what it has published since it presented itself, too.
    KnownPublishedAgain,
}

/// How a party's life is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is not.
    Lives,
    /// It is killed at its n-th step.
    Killed(u32),
    /// It stops at its n-th step, and is taken for gone.
    Hangs(u32),
    /// It is stopped at its n-th step, and goes on after a while, or is killed then. Nobody is told.
    Stops(u32),
}

/// One schedule's decisions.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is switched off.
    pub mutation: Mutation,
    /// Whether stores pass through a buffer of their party (as on x86).
    pub store_buffers: bool,
    /// Virtual time per step.
    pub step_ns: u64,
    /// Longest run of one party, in steps.
    pub burst_max: u32,
    /// How often a party yields before it parks, at most.
    pub patience: u32,
    /// Longest way of a control message, in steps.
    pub control_delay: u64,
    /// Longest run of an operation, in steps.
    pub work_steps: u64,
    /// How likely the scheduler picks a party, by place.
    pub weights: [u32; PARTIES],
    /// How lives end.
    pub fates: [Fate; PARTIES],
    /// Whether dead workers are replaced.
    pub replace: bool,
    /// A session's sizes.
    pub session: SessionShape,
    /// A worker's sizes.
    pub work: WorkShape,
    /// The director's settings.
    pub waiting_per_route: u32,
    /// See `waiting_per_route`.
    pub share_max: u64,
    /// First position of the work rings.
    pub start: u64,
    /// Steps of a client's program.
    pub program: u32,
    /// Requests that a worker keeps begun.
    pub keep: usize,
    /// Whether calls may have deadlines.
    pub deadlines: bool,
    /// The director takes on no more calls after so many of its turns.
    pub stops_after: Option<u32>,
    /// How the lives of the directors after the first end.
    pub successors: Vec<Fate>,
    /// Nobody dies but directors and clients, and nobody refuses, leaves, withdraws or comes too late: then every
    /// call ends OK, or as its own deadline or cancel says.
    pub gentle: bool,
    /// How long a successor waits for those who lived under the last, in steps.
    pub window: u64,
    /// How long peers take to look for a director, in steps.
    pub look: u64,
    /// In how many of a hundred cases a peer comes after the window, or a ledger can't be read.
    pub mishaps: u64,
    /// How many clients there are, and first workers.
    pub clients: usize,
    /// See `clients`.
    pub workers: usize,
    /// A client makes one call, and nothing else.
    pub one_call: bool,
    /// That one is a scatter.
    pub scatter: bool,
    /// That one is on a key that two workers want, so that it changes hands.
    pub keyed: bool,
    /// How long a worker may stand still with something in its hands, in steps; where that is watched, clients watch
    /// whether the director shows signs of life.
    pub stall: Option<u64>,
    /// Longest time for which somebody is stopped, in steps.
    pub stop: u64,
    /// Whether there is a service whose resources are held exclusively, and what becomes of a call on one that nobody
    /// holds.
    pub exclusive: Option<Unheld>,
}

impl Plan {
    /// What this seed decides.
    pub fn new(rng: &mut Rng, mutation: Mutation) -> Plan {
        let mut fates = [Fate::Lives; PARTIES];
        let steps = [40, 200, 1_000][rng.usize(0..3)];
        for (place, fate) in fates.iter_mut().enumerate() {
            let n = rng.u32(1..=steps);
            *fate = match rng.u32(0..100) {
                0..8 if CLIENTS.contains(&place) => Fate::Killed(n),
                0..5 if place == DIRECTOR => Fate::Killed(n),
                0..35 if WORKERS.contains(&place) => Fate::Killed(n),
                35..42 if WORKERS.contains(&place) => Fate::Hangs(n),
                30..50 if place == DIRECTOR => Fate::Stops(n),
                42..50 => Fate::Stops(n),
                _ => Fate::Lives,
            };
        }
        let pick = |rng: &mut Rng, of: &[u64]| of[rng.usize(0..of.len())];
        let mut successors = Vec::new();
        let gentle = rng.u8(0..100) < 30;
        if gentle {
            // Of a worker that is stopped, too: it may be killed then.
            fates[WORKERS].fill(Fate::Lives);
        }
        if gentle || rng.u8(0..100) < 45 {
            let early = pick(rng, &[60, 200, 1_000]) as u32;
            fates[DIRECTOR] = Fate::Killed(rng.u32(1..=early));
            for _ in 0..rng.u8(0..3) {
                let early = pick(rng, &[15, 60, 400]) as u32;
                successors.push(Fate::Killed(rng.u32(1..=early)));
            }
            if gentle || rng.u8(0..8) > 0 {
                successors.push(Fate::Lives);
            }
        }
        let mishaps = if gentle { 0 } else { pick(rng, &[0, 0, 5, 30]) };
        let mut plan = Plan {
            successors,
            gentle,
            keyed: false,
            stall: (!gentle && mutation != Mutation::DeafDirector && rng.u8(0..3) == 0)
                .then(|| rng.u64(800..3_000)),
            stop: pick(rng, &[100, 2_000, 20_000]),
            window: if gentle { 1 << 40 } else { pick(rng, &[300, 3_000, 30_000]) },
            look: pick(rng, &[20, 200]),
            mishaps,
            clients: CLIENTS.len(),
            workers: FIRST_WORKERS.len(),
            one_call: false,
            scatter: false,
            exclusive: match rng.u8(0..8) {
                0 => Some(Unheld::Wait),
                1 => Some(Unheld::Error),
                2..4 => Some(Unheld::Offer),
                _ => None,
            },
            mutation,
            store_buffers: mutation == Mutation::NoFullFence || rng.u8(0..4) == 0,
            step_ns: pick(rng, &[1, 20, 500, 5_000]),
            burst_max: pick(rng, &[1, 3, 12, 60, 400]) as u32,
            patience: pick(rng, &[0, 1, 4]) as u32,
            control_delay: pick(rng, &[0, 20, 300]),
            work_steps: pick(rng, &[0, 10, 200, 1_000]),
            weights: std::array::from_fn(|_| pick(rng, &[1, 1, 4, 16]) as u32),
            fates,
            replace: rng.bool(),
            session: SessionShape {
                slots: pick(rng, &[1, 2, 4]) as u32,
                reply_capacity: 64,
                request_arena: 4096,
                reply_arena: 4096,
            },
            work: WorkShape { slots: pick(rng, &[2, 4, 8]) as u32 },
            waiting_per_route: if gentle { 64 } else { pick(rng, &[1, 2, 64]) as u32 },
            share_max: pick(rng, &[1, 2, 7]),
            start: pick(rng, &[0, 5, 1 << 40]),
            program: rng.u32(4..=12),
            keep: rng.usize(1..=3),
            deadlines: rng.u8(0..3) == 0,
            stops_after: (!gentle && rng.u8(0..20) == 0).then(|| rng.u32(1..100)),
        };
        plan.favour(mutation, rng);
        plan
    }

    /// Some rules matter in rare places only: there, when they are switched off.
    fn favour(&mut self, mutation: Mutation, rng: &mut Rng) {
        if mutation == Mutation::LedgerNotKept {
            // Workers come back and die, and then the director does, before all clients have come.
            (self.gentle, self.mishaps, self.window, self.look) = (false, 0, 30_000, 200);
            self.fates[DIRECTOR] = Fate::Killed(rng.u32(40..600));
            self.successors = vec![Fate::Killed(rng.u32(60..600)), Fate::Lives];
        }
        if mutation == Mutation::DoneBeforeStamp {
            // Workers that answer and die, while nobody else does and no deadline ends what they leave.
            (self.gentle, self.mishaps, self.stall, self.stops_after) = (false, 0, None, None);
            (self.exclusive, self.deadlines, self.work_steps, self.program) = (None, false, 0, 12);
            self.fates = [Fate::Lives; PARTIES];
            (WORKERS).for_each(|worker| self.fates[worker] = Fate::Killed(rng.u32(20..600)));
        }
        if mutation == Mutation::SettledUnsaid {
            // A worker dies with its director, and a client is away for as long as the next one lives.
            (self.gentle, self.mishaps, self.window, self.look, self.stall) = (false, 0, 300, 20, None);
            (self.exclusive, self.stops_after, self.work_steps, self.stop) = (None, None, 200, 20_000);
            self.fates = [Fate::Lives; PARTIES];
            self.fates[DIRECTOR] = Fate::Killed(rng.u32(60..400));
            self.fates[WORKERS.start] = Fate::Killed(rng.u32(20..200));
            self.fates[CLIENTS.start] = Fate::Stops(rng.u32(60..300));
            self.successors = vec![Fate::Killed(rng.u32(30..300)), Fate::Lives];
        }
        if mutation == Mutation::KnownPublishedAgain {
            // A worker and its director die, and a client that waits for one call finds later that another never began.
            (self.gentle, self.mishaps, self.window, self.stall) = (false, 0, 30_000, None);
            (self.session.slots, self.work.slots, self.share_max, self.program) = (4, 8, 7, 12);
            (self.exclusive, self.stops_after, self.deadlines) = (None, None, false);
            self.fates = [Fate::Lives; PARTIES];
            self.fates[DIRECTOR] = Fate::Killed(rng.u32(100..1_000));
            (self.fates[WORKERS.start], self.replace) = (Fate::Killed(rng.u32(20..300)), true);
            (self.work_steps, self.waiting_per_route, self.successors) = (0, 64, vec![Fate::Lives]);
        }
        if matches!(mutation, Mutation::WithdrawnUnsaid | Mutation::MarksDropped) {
            // Rights that several want, workers that change their minds, and directors that die one after another.
            (self.gentle, self.mishaps, self.stall, self.stops_after) = (false, 0, None, None);
            (self.exclusive, self.program, self.burst_max) = (Some(Unheld::Offer), 12, 3);
            self.fates[DIRECTOR] = Fate::Killed(rng.u32(300..2_500));
            self.fates[WORKERS].fill(Fate::Lives);
            (self.fates[WORKERS.start], self.stop) = (Fate::Stops(rng.u32(100..2_500)), 20_000);
            self.weights = [16; PARTIES];
            self.weights[WORKERS.start] = 1;
            self.successors = match mutation {
                Mutation::WithdrawnUnsaid => vec![Fate::Lives],
                _ => vec![Fate::Killed(rng.u32(60..1_000)), Fate::Lives],
            };
            if mutation == Mutation::MarksDropped {
                (self.mishaps, self.window) = (30, 300);
            }
        }
        if mutation == Mutation::EntryByCount {
            // Calls that overtake a long one, more of them than there are entries; then the director dies.
            (self.work.slots, self.share_max, self.keep, self.work_steps) = (4, 7, 3, 1_000);
            (self.session.slots, self.program) = (4, 12);
            self.fates[DIRECTOR] = Fate::Killed(rng.u32(200..2_000));
            self.fates[WORKERS].fill(Fate::Lives);
            self.successors = vec![Fate::Lives];
        }
    }

    /// One call of one client, with two workers, in which these are killed at these steps.
    pub fn one_call(rng: &mut Rng, [director, successor, worker, client]: [u32; 4]) -> Plan {
        let killed = |n: u32| if n == 0 { Fate::Lives } else { Fate::Killed(n) };
        let mut fates = [Fate::Lives; PARTIES];
        (fates[DIRECTOR], fates[CLIENTS.start], fates[WORKERS.start]) =
            (killed(director), killed(client), killed(worker));
        Plan {
            fates,
            successors: vec![killed(successor), Fate::Lives],
            gentle: worker == 0,
            clients: 1,
            workers: 1 + rng.usize(0..2),
            one_call: true,
            stall: None,
            exclusive: None,
            replace: true,
            deadlines: false,
            stops_after: None,
            store_buffers: false,
            mishaps: 0,
            window: 1 << 40,
            waiting_per_route: 64,
            weights: [1; PARTIES],
            control_delay: 0,
            ..Plan::new(rng, Mutation::None)
        }
    }

    /// The same of a call on a key that both workers want: the right to it changes hands.
    pub fn one_keyed_call(rng: &mut Rng, kills: [u32; 4]) -> Plan {
        Plan { keyed: true, exclusive: Some(Unheld::Wait), workers: 2, ..Plan::one_call(rng, kills) }
    }
}
