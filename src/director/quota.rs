//! Quotas: how much of what all share one process, and one user, may have.
//!
//! ```text
//! charge(uid, pid, amounts) ─► the process's limit ─► the user's share of the pool ─► counted, until it is refunded
//! ```
//! A pool is what the director has of something: places for sessions, descriptors, and so on. A fixed limit for each
//! user would be too small where there are two, or too large where there are a hundred. So a user's share depends on how
//! many have something, as in dbus-broker: who takes all that he may leaves as much for each of the others, and for one
//! that may come.
//!
//! ```text
//!             pool − what the others have                  pool 120: the first user can have 60,
//!   share  =  ─────────────────────────────────────        then a second 20, a third 10, a fourth 6
//!             users that have some, he included, + 1
//! ```
//! Each further one finds, at worst, a part that shrinks with the square of their number: never nothing. The pool is the
//! director's user's own: he may have all of what the others leave but a sixteenth, so that a bus of one user has no use
//! for shares, and somebody else still finds something.
//!
//! A process's limit is plain: it keeps one program's mistake from being its user's problem. A part of the pool can be
//! kept back from sessions, so that a worker can always attach. What a session brought is refunded when nobody maps it
//! any more, not when its client says so.

use std::collections::HashMap;
use std::fmt;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Counted {
    /// Attached clients.
    Sessions,
    /// Attached workers.
    Workers,
    /// Bytes of the segments of sessions, arenas included: address space in each worker that maps them, and memory
    /// as far as they are written.
    SegmentBytes,
    /// Descriptors of the director's.
    Descriptors,
    /// Routes that sessions have opened.
    Routes,
    /// Resources that workers hold exclusively: keys, and ranges of them.
    HeldKeys,
    /// Resources that workers declare, where they don't speak for all of a service.
    DeclaredKeys,
    /// Calls that may wait at the director: the slots of all sessions.
    WaitingCalls,
}

/// How many kinds there are.
const COUNT: usize = 8;

impl Counted {
    const ALL: [Counted; COUNT] = [
        Counted::Sessions,
        Counted::Workers,
        Counted::SegmentBytes,
        Counted::Descriptors,
        Counted::Routes,
        Counted::HeldKeys,
        Counted::DeclaredKeys,
        Counted::WaitingCalls,
    ];

    /// Its name, as in the `[quotas]` table.
    pub fn name(self) -> &'static str {
        match self {
            Counted::Sessions => "sessions",
            Counted::Workers => "workers",
            Counted::SegmentBytes => "segment_bytes",
            Counted::Descriptors => "descriptors",
            Counted::Routes => "routes",
            Counted::HeldKeys => "held_keys",
            Counted::DeclaredKeys => "declared_keys",
            Counted::WaitingCalls => "waiting_calls",
        }
    }
}

/// The bounds of one resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Of all together: see [`quota`](self) for a user's share of it.
    pub pool: u64,
    /// Of one process.
    pub process: u64,
}

/// The bounds of all: see [`Counted`] for what each counts. The defaults are for a desktop: one user, who runs as many
/// programs as he likes, some of which are broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quotas {
    /// See [`Counted::Sessions`].
    pub sessions: Quota,
    /// See [`Counted::Workers`].
    pub workers: Quota,
    /// See [`Counted::SegmentBytes`].
    pub segment_bytes: Quota,
    /// See [`Counted::Descriptors`]. A pool of 0 is what the director's limit leaves when it starts.
    pub descriptors: Quota,
    /// See [`Counted::Routes`].
    pub routes: Quota,
    /// See [`Counted::HeldKeys`].
    pub held_keys: Quota,
    /// See [`Counted::DeclaredKeys`].
    pub declared_keys: Quota,
    /// See [`Counted::WaitingCalls`].
    pub waiting_calls: Quota,
    /// For so many workers descriptors are kept back from sessions, whoever the workers are.
    pub worker_reserve: u64,
}

impl Default for Quotas {
    fn default() -> Self {
        let quota = |pool, process| Quota { pool, process };
        Quotas {
            sessions: quota(crate::limits::SESSIONS_MAX as u64, 4096),
            workers: quota(crate::limits::WORKERS_MAX as u64, 512),
            segment_bytes: quota(16 << 40, 2 << 40),
            descriptors: quota(0, u64::MAX),
            routes: quota(1 << 20, 1 << 18),
            held_keys: quota(4_000_000, 1_000_000),
            declared_keys: quota(4_000_000, 1_000_000),
            waiting_calls: quota(1 << 21, 1 << 19),
            worker_reserve: 16,
        }
    }
}

impl Quotas {
    fn of_mut(&mut self, resource: Counted) -> &mut Quota {
        match resource {
            Counted::Sessions => &mut self.sessions,
            Counted::Workers => &mut self.workers,
            Counted::SegmentBytes => &mut self.segment_bytes,
            Counted::Descriptors => &mut self.descriptors,
            Counted::Routes => &mut self.routes,
            Counted::HeldKeys => &mut self.held_keys,
            Counted::DeclaredKeys => &mut self.declared_keys,
            Counted::WaitingCalls => &mut self.waiting_calls,
        }
    }

    fn of(&self, resource: Counted) -> Quota {
        match resource {
            Counted::Sessions => self.sessions,
            Counted::Workers => self.workers,
            Counted::SegmentBytes => self.segment_bytes,
            Counted::Descriptors => self.descriptors,
            Counted::Routes => self.routes,
            Counted::HeldKeys => self.held_keys,
            Counted::DeclaredKeys => self.declared_keys,
            Counted::WaitingCalls => self.waiting_calls,
        }
    }
}

/// What a policy says of quotas; what it does not name stays as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuotaRules {
    /// Which, its pool, and what one process may have of it.
    pub quotas: Vec<(Counted, Option<u64>, Option<u64>)>,
    /// See [`Quotas::worker_reserve`].
    pub worker_reserve: Option<u64>,
}

impl QuotaRules {
    /// These quotas, changed so.
    pub fn over(&self, mut quotas: Quotas) -> Quotas {
        for &(which, pool, process) in &self.quotas {
            let quota = quotas.of_mut(which);
            *quota = Quota { pool: pool.unwrap_or(quota.pool), process: process.unwrap_or(quota.process) };
        }
        quotas.worker_reserve = self.worker_reserve.unwrap_or(quotas.worker_reserve);
        quotas
    }
}

/// A quota that would be exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exceeded {
    /// Which.
    pub resource: Counted,
    /// Whose: a process's, else a user's.
    pub by_process: bool,
    /// What it is, at the moment where it is a share.
    pub limit: u64,
    /// What would have been in use.
    pub wanted: u64,
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = if self.by_process { "a process" } else { "your user's share now" };
        let (name, limit, wanted) = (self.resource.name(), self.limit, self.wanted);
        write!(f, "the quota {name:?} for {whose} is {limit}, and this would make {wanted}")
    }
}

/// What somebody has, by resource.
type Amounts = [u64; COUNT];

/// What was charged to whom, to be given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Charge {
    uid: u32,
    pid: i32,
    amounts: Amounts,
}

impl Charge {
    /// Nothing yet, for this user and process.
    pub fn new(uid: u32, pid: i32) -> Charge {
        Charge { uid, pid, amounts: [0; COUNT] }
    }

    /// So much of this, too.
    pub fn and(mut self, resource: Counted, amount: u64) -> Charge {
        self.amounts[resource as usize] += amount;
        self
    }
}

/// How much of one resource is in use.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// By the process.
    pub process: u64,
    /// By its user.
    pub user: u64,
    /// By all other users.
    pub others: u64,
    /// How many of those have any.
    pub other_users: u64,
}

/// Who has how much.
#[derive(Debug, Default)]
pub struct Accounts {
    quotas: Quotas,
    /// Whose pool it is.
    owner: u32,
    users: HashMap<u32, Amounts>,
    processes: HashMap<(u32, i32), Amounts>,
    total: Amounts,
}

impl Accounts {
    /// Nobody has anything.
    pub fn new(quotas: Quotas, owner: u32) -> Accounts {
        Accounts { quotas, owner, ..Accounts::default() }
    }

    /// Changes the bounds. Whoever has more than he might get now keeps it.
    pub fn set_quotas(&mut self, quotas: Quotas) {
        self.quotas = quotas;
    }

    /// Counts a charge: all of it, or nothing.
    ///
    /// # Errors
    /// The first quota that it would exceed.
    pub fn charge(&mut self, charge: &Charge) -> Result<(), Exceeded> {
        for resource in Counted::ALL {
            self.check(charge, resource)?;
        }
        self.each(charge, |have, amount| *have += amount);
        Ok(())
    }

    /// Counts a charge whatever it exceeds: of somebody who had it before.
    pub fn charge_anyway(&mut self, charge: &Charge) {
        self.each(charge, |have, amount| *have += amount);
    }

    /// Takes a charge back that was counted.
    pub fn refund(&mut self, charge: &Charge) {
        self.each(charge, |have, amount| *have = have.saturating_sub(amount));
        let is_empty = |amounts: &Amounts| amounts.iter().all(|&amount| amount == 0);
        if self.users.get(&charge.uid).is_some_and(is_empty) {
            self.users.remove(&charge.uid);
        }
        if self.processes.get(&(charge.uid, charge.pid)).is_some_and(is_empty) {
            self.processes.remove(&(charge.uid, charge.pid));
        }
    }

    /// Users and processes that have anything.
    pub fn len(&self) -> (usize, usize) {
        (self.users.len(), self.processes.len())
    }

    fn each(&mut self, charge: &Charge, change: impl Fn(&mut u64, u64)) {
        let user = self.users.entry(charge.uid).or_default();
        let process = self.processes.entry((charge.uid, charge.pid)).or_default();
        for (i, &amount) in charge.amounts.iter().enumerate() {
            change(&mut user[i], amount);
            change(&mut process[i], amount);
            change(&mut self.total[i], amount);
        }
    }

    fn check(&self, charge: &Charge, resource: Counted) -> Result<(), Exceeded> {
        let i = resource as usize;
        let is_worker = charge.amounts[Counted::Workers as usize] > 0;
        let reserve = match resource {
            Counted::Descriptors if !is_worker => self.unused_reserve(),
            _ => 0,
        };
        let others = self.users.iter().filter(|&(&uid, amounts)| uid != charge.uid && amounts[i] > 0);
        let user = self.users.get(&charge.uid).map_or(0, |amounts| amounts[i]);
        let usage = Usage {
            process: self.processes.get(&(charge.uid, charge.pid)).map_or(0, |amounts| amounts[i]),
            user,
            others: self.total[i] - user,
            other_users: others.count() as u64,
        };
        self.judge(resource, charge.uid, &usage, charge.amounts[i], reserve)
    }

    /// Whether so much more may be had, where somebody else does the counting.
    ///
    /// # Errors
    /// The quota that it would exceed.
    pub fn judge(
        &self,
        resource: Counted,
        uid: u32,
        usage: &Usage,
        amount: u64,
        reserve: u64,
    ) -> Result<(), Exceeded> {
        let quota = self.quotas.of(resource);
        let wanted = usage.process.saturating_add(amount);
        if amount > 0 && wanted > quota.process {
            return Err(Exceeded { resource, by_process: true, limit: quota.process, wanted });
        }
        let left = quota.pool.saturating_sub(reserve).saturating_sub(usage.others);
        let limit = if uid == self.owner { left - left / 16 } else { share(left, usage.other_users + 1) };
        let wanted = usage.user.saturating_add(amount);
        if amount > 0 && wanted > limit {
            return Err(Exceeded { resource, by_process: false, limit, wanted });
        }
        Ok(())
    }

    /// Descriptors that are kept back for workers that are not there; a quarter of them at most.
    fn unused_reserve(&self) -> u64 {
        let there = self.total[Counted::Workers as usize];
        let reserve = self.quotas.worker_reserve.saturating_sub(there).saturating_mul(WORKER_DESCRIPTORS);
        reserve.min(self.quotas.descriptors.pool / 4)
    }
}

/// What one of so many users may have of what the others have left.
pub fn share(left: u64, users: u64) -> u64 {
    left / (users + 1)
}

/// Descriptors of the director's that a connection takes: socket and pidfd.
pub const CONNECTION_DESCRIPTORS: u64 = 2;
/// Those that a session takes beside: outbox, inbox, the client's doorbell and the director's.
pub const SESSION_DESCRIPTORS: u64 = 4;
/// Those that a worker takes: the work segment (and once more while it is sent), both doorbells.
pub const WORKER_DESCRIPTORS: u64 = 4;
/// Those that nobody is charged for: the director's own, and what is on its way.
pub const OWN_DESCRIPTORS: u64 = 128;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn accounts(pool: u64, process: u64) -> Accounts {
        let quotas = Quotas { sessions: Quota { pool, process }, ..Quotas::default() };
        Accounts::new(quotas, 99)
    }

    fn take(accounts: &mut Accounts, uid: u32, pid: i32) -> bool {
        accounts.charge(&Charge::new(uid, pid).and(Counted::Sessions, 1)).is_ok()
    }

    /// Takes what there is. Returns how much that was.
    fn take_all(accounts: &mut Accounts, uid: u32) -> usize {
        (0..).take_while(|_| take(accounts, uid, 1)).count()
    }

    #[test]
    fn whoever_comes_later_finds_something() {
        let mut accounts = accounts(120, u64::MAX);
        assert_eq!([1, 2, 3, 4].map(|uid| take_all(&mut accounts, uid)), [60, 20, 10, 6]);
        // Who has his share gets no more when others come, and what goes can be had again.
        assert_eq!(take_all(&mut accounts, 1), 0);
        accounts.refund(&Charge::new(1, 1).and(Counted::Sessions, 60));
        assert!(take_all(&mut accounts, 2) > 0);
        assert!(take(&mut accounts, 1, 1));
    }

    #[test]
    fn the_owner_can_have_almost_all_and_leaves_something() {
        let mut accounts = accounts(160, u64::MAX);
        assert_eq!([99, 1, 2].map(|uid| take_all(&mut accounts, uid)), [150, 3, 1]);
    }

    #[test]
    fn an_error_names_the_quota_and_its_value() {
        let mut accounts = accounts(100, 2);
        let charge = Charge::new(1, 7).and(Counted::Sessions, 2);
        accounts.charge(&charge).unwrap();
        let exceeded = accounts.charge(&Charge::new(1, 7).and(Counted::Sessions, 1)).unwrap_err();
        assert_eq!((exceeded.by_process, exceeded.limit, exceeded.wanted), (true, 2, 3));
        assert_eq!(exceeded.to_string(), "the quota \"sessions\" for a process is 2, and this would make 3");
        assert!(take(&mut accounts, 1, 8), "another process of the same user");
    }

    #[test]
    fn a_charge_is_counted_whole_or_not_at_all() {
        let mut accounts = accounts(4, 4);
        let charge = Charge::new(1, 1).and(Counted::Routes, 5).and(Counted::Sessions, 3);
        assert!(accounts.charge(&charge).is_err());
        assert_eq!(accounts.total, [0; COUNT]);
        assert_eq!(accounts.len(), (0, 0));
    }

    #[test]
    fn sessions_leave_descriptors_for_workers() {
        let descriptors = Quota { pool: 600, process: u64::MAX };
        let mut accounts = Accounts::new(Quotas { descriptors, worker_reserve: 20, ..Quotas::default() }, 99);
        let session = |uid| {
            Charge::new(uid, 1).and(Counted::Sessions, 1).and(Counted::Descriptors, SESSION_DESCRIPTORS)
        };
        let worker = Charge::new(1, 2).and(Counted::Workers, 1).and(Counted::Descriptors, WORKER_DESCRIPTORS);
        let sessions = (0..).take_while(|_| accounts.charge(&session(1)).is_ok()).count();
        let kept = 20 * WORKER_DESCRIPTORS;
        assert_eq!(
            sessions as u64,
            (600 - kept) / 2 / SESSION_DESCRIPTORS,
            "half of what the reserve leaves"
        );
        for _ in 0..10 {
            accounts.charge(&worker).expect("the reserve");
        }
    }

    proptest! {
        /// Whatever happens: nobody has more than half, the pool is never exceeded, and a newcomer gets something as
        /// long as there are fewer users than the pool has room for.
        #[test]
        fn nobody_can_take_what_a_newcomer_needs(steps in prop::collection::vec((0..6u32, any::<bool>()), 0..400)) {
            let mut accounts = accounts(200, u64::MAX);
            let mut has = [0u64; 6];
            for (uid, takes) in steps {
                let charge = Charge::new(uid, 1).and(Counted::Sessions, 1);
                let has = &mut has[uid as usize];
                if takes && accounts.charge(&charge).is_ok() {
                    *has += 1;
                } else if !takes && *has > 0 {
                    accounts.refund(&charge);
                    *has -= 1;
                }
            }
            prop_assert_eq!(accounts.total[0], has.iter().sum::<u64>());
            prop_assert!(has.iter().all(|&n| n <= 100));
            prop_assert!(take(&mut accounts, 77, 1));
        }
    }
}
