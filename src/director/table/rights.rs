//! Exclusive rights: who holds what, who wants it, and what is being handed over.
//!
//! ```text
//!           claim                     recall ─► the holder finishes what its ring holds ─► yielded
//! unheld ─────────► held by W1 ──────────────────────────────────────────────────────────────────► held by W2
//!    ▲                  │
//!    └── release, or W1 withdraws the service: the same way; or W1 is dead: at once
//! ```
//! A holding is a *piece*: a single key, or a range of numbers. Pieces don't overlap, so a resource has one holder at
//! any instant. Single keys lie in a hash table, ranges in a tree.
//! An ordered set of (holder, piece) tells what somebody holds, and what of it lies in a range.
//!
//! A piece names a *tenancy*: a worker's stay in a service. It ends when its worker is dead, or has withdrawn the service
//! and finished what its ring held. So whatever its size, its pieces are nobody's at once; they are swept out later, some
//! in each turn. A living worker is never robbed: a claim waits until the holder has said that it is done, however long
//! that takes.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use slab::Slab;

use super::singles::Singles;
use crate::error::Status;
use crate::intervals::Intervals;
use crate::limits;
use crate::resource::Key;

/// A service's key, and whether the words in it are names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Space(u32);

impl Space {
    /// The space of a service's numbers, or of its names.
    pub fn new(service: usize, is_name: bool) -> Space {
        Space((service as u32) << 1 | u32::from(is_name))
    }

    pub(super) fn number(self) -> u32 {
        self.0
    }

    pub(super) fn numbered(number: u32) -> Space {
        Space(number)
    }

    /// Whose it is.
    pub fn service(self) -> usize {
        (self.0 >> 1) as usize
    }

    /// Whether its words are names.
    pub fn is_name(self) -> bool {
        self.0 & 1 == 1
    }
}

/// Words of one space, from the first to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    /// Which space.
    pub space: Space,
    /// The first.
    pub first: u64,
    /// The last.
    pub last: u64,
}

impl Span {
    /// One key of a service.
    pub fn of_key(service: usize, key: Key) -> Span {
        Span { space: Space::new(service, key.is_name()), first: key.word(), last: key.word() }
    }

    /// Whether the two have a word in common.
    pub fn overlaps(&self, other: &Span) -> bool {
        self.space == other.space && self.first <= other.last && other.first <= self.last
    }

    fn is_single(&self) -> bool {
        self.first == self.last
    }
}

/// What a worker is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// It holds this from now on.
    Granted(usize, Span),
    /// It is to finish what its ring holds of this, and to say so.
    Recalled(usize, Span),
    /// The same, of all that it holds in a service.
    Left(usize, usize),
}

/// Who may be given a call on a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Nobody holds it.
    Nobody,
    /// This worker.
    Worker(usize),
    /// This worker still, but it is giving it up: nothing more goes there.
    Leaving(usize),
}

/// A tenancy, and whether the piece is being given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held(u32);

impl Held {
    fn new(tenant: u32, leaving: bool) -> Held {
        Held(tenant << 1 | u32::from(leaving))
    }
    fn tenant(self) -> u32 {
        self.0 >> 1
    }
    fn is_leaving(self) -> bool {
        self.0 & 1 == 1
    }
}

/// Whose a tenancy is. In four bytes, since each look-up of a holder reads one out of many.
#[derive(Clone, Copy, Debug, Default)]
struct Stay(u32);

impl Stay {
    fn of(worker: usize) -> Stay {
        Stay((worker as u32 + 1) << 1)
    }
    /// `None` once the tenancy has ended.
    fn worker(self) -> Option<usize> {
        (self.0 >> 1).checked_sub(1).map(|worker| worker as usize)
    }
    /// The worker has withdrawn the service: all of it is being given up.
    fn is_leaving(self) -> bool {
        self.0 & 1 == 1
    }
    fn leaving(self) -> Stay {
        Stay(self.0 | 1)
    }
}

#[derive(Debug)]
struct Tenant {
    service: usize,
    pieces: usize,
}

/// Somebody who waits for a right.
#[derive(Clone, Copy, Debug)]
struct Claim {
    worker: usize,
    span: Span,
}

/// All exclusive rights of a bus.
#[derive(Debug, Default)]
pub struct Rights {
    singles: Singles,
    ranges: HashMap<Space, Intervals<Held>>,
    /// (tenancy, space, first word) of every piece.
    owned: BTreeSet<(u32, Space, u64)>,
    tenants: Slab<Tenant>,
    /// By tenancy.
    stays: Vec<Stay>,
    /// By worker and service: the tenancies that last.
    tenancies: BTreeMap<(usize, usize), u32>,
    /// How many pieces each worker has in its tenancies.
    pieces_by_worker: HashMap<usize, usize>,
    /// In the order in which they came; one is granted when none before it overlaps, and nobody else holds anything.
    claims: HashMap<Space, VecDeque<Claim>>,
    claimed: usize,
    /// Pieces and claims of each service.
    uses: HashMap<usize, usize>,
    /// Tenancies that have ended, of which pieces are left.
    ended: Vec<u32>,
    /// Nothing is granted: somebody may hold what this table doesn't know of.
    withheld: bool,
    /// Services in which nothing is granted, for the same reason.
    withheld_services: HashSet<usize>,
    notices: Vec<Notice>,
}

impl Rights {
    /// Who holds a key. Costs one look into a hash table, and one into a tree where ranges are held in this space.
    #[inline]
    pub fn holder(&self, span: &Span) -> Holder {
        let Some(held) = self.find(span.space, span.first) else { return Holder::Nobody };
        let stay = self.stay(held);
        match stay.worker() {
            None => Holder::Nobody,
            Some(worker) if held.is_leaving() || stay.is_leaving() => Holder::Leaving(worker),
            Some(worker) => Holder::Worker(worker),
        }
    }

    /// Whether a worker is giving up all that it holds in a service.
    pub fn is_leaving(&self, worker: usize, service: usize) -> bool {
        let tenant = self.tenancies.get(&(worker, service));
        tenant.is_some_and(|&tenant| self.stays[tenant as usize].is_leaving())
    }

    /// Whether a piece is being given up.
    fn is_given_up(&self, held: Held) -> bool {
        held.is_leaving() || self.stay(held).is_leaving()
    }

    #[inline]
    fn stay(&self, held: Held) -> Stay {
        self.stays.get(held.tenant() as usize).copied().unwrap_or_default()
    }

    #[inline]
    fn find(&self, space: Space, word: u64) -> Option<Held> {
        if let Some(held) = self.singles.get(space, word) {
            return Some(Held(held));
        }
        if self.ranges.is_empty() {
            return None;
        }
        self.ranges.get(&space)?.at(word).map(|(.., held)| held)
    }

    /// The pieces that have something in common with a span; `None`: more than a change may touch.
    fn pieces(&self, span: &Span) -> Option<Vec<(Span, Held)>> {
        let Span { space, first, last } = *span;
        let mut found = Vec::new();
        let most = limits::RESOURCES_PER_CHANGE;
        if let Some(ranges) = self.ranges.get(&space) {
            let hit = ranges.overlapping(first, last).take(most + 1);
            found.extend(hit.map(|(first, last, held)| (Span { space, first, last }, held)));
        }
        let singles = |word| {
            let held = self.singles.get(space, word)?;
            Some((Span { space, first: word, last: word }, Held(held)))
        };
        if span.is_single() {
            found.extend(singles(first));
        } else {
            let here = |(_, tenant): &(usize, &Tenant)| tenant.service == space.service();
            for (tenant, _) in self.tenants.iter().filter(here) {
                let owned = self.owned.range((tenant as u32, space, first)..=(tenant as u32, space, last));
                found.extend(owned.take(most + 1).filter_map(|&(.., word)| singles(word)));
            }
        }
        (found.len() <= most).then_some(found)
    }

    fn insert(&mut self, span: Span, held: Held) {
        let Span { space, first, last } = span;
        if span.is_single() {
            self.singles.insert(space, first, held.0);
        } else {
            self.ranges.entry(space).or_default().insert(first, last, held);
        }
        self.owned.insert((held.tenant(), space, first));
        self.tenants[held.tenant() as usize].pieces += 1;
        if let Some(worker) = self.stay(held).worker() {
            *self.pieces_by_worker.entry(worker).or_default() += 1;
        }
        *self.uses.entry(space.service()).or_default() += 1;
    }

    fn remove(&mut self, span: Span, held: Held) {
        let Span { space, first, .. } = span;
        if span.is_single() {
            self.singles.remove(space, first);
        } else if let Some(ranges) = self.ranges.get_mut(&space) {
            ranges.remove(first);
            if ranges.is_empty() {
                self.ranges.remove(&space);
            }
        }
        self.owned.remove(&(held.tenant(), space, first));
        self.tenants[held.tenant() as usize].pieces -= 1;
        let worker = self.stay(held).worker();
        if let Some(pieces) = worker.and_then(|worker| self.pieces_by_worker.get_mut(&worker)) {
            *pieces -= 1;
        }
        self.unuse(space);
    }

    fn unuse(&mut self, space: Space) {
        if let Some(uses) = self.uses.get_mut(&space.service()) {
            *uses -= 1;
            if *uses == 0 {
                self.uses.remove(&space.service());
            }
        }
    }

    /// Takes what a piece and a span have in common out of the piece. Returns that.
    fn cut(&mut self, piece: Span, held: Held, span: &Span) -> Span {
        self.remove(piece, held);
        let common =
            Span { space: piece.space, first: piece.first.max(span.first), last: piece.last.min(span.last) };
        if piece.first < common.first {
            self.insert(Span { last: common.first - 1, ..piece }, held);
        }
        if common.last < piece.last {
            self.insert(Span { first: common.last + 1, ..piece }, held);
        }
        common
    }

    fn tenant_of(&mut self, worker: usize, service: usize) -> u32 {
        *self.tenancies.entry((worker, service)).or_insert_with(|| {
            let tenant = self.tenants.insert(Tenant { service, pieces: 0 });
            if tenant == self.stays.len() {
                self.stays.push(Stay::default());
            }
            self.stays[tenant] = Stay::of(worker);
            tenant as u32
        })
    }

    /// A tenancy ends: what it consists of is nobody's from now on.
    fn end(&mut self, tenant: u32) {
        let stay = std::mem::take(&mut self.stays[tenant as usize]);
        if let Some(all) = stay.worker().and_then(|worker| self.pieces_by_worker.get_mut(&worker)) {
            *all -= self.tenants[tenant as usize].pieces;
        }
        self.ended.push(tenant);
    }

    /// The tenancies of a worker, by their services.
    fn tenancies_of(&self, worker: usize) -> impl Iterator<Item = (usize, u32)> {
        let own = self.tenancies.range((worker, 0)..=(worker, usize::MAX));
        own.map(|(&(_, service), &tenant)| (service, tenant))
    }

    /// The services in which a worker holds something.
    pub fn services_of(&self, worker: usize) -> Vec<usize> {
        self.tenancies_of(worker).map(|(service, _)| service).collect()
    }

    /// A worker asks for the right to a span. Granted at once or later, by a notice.
    ///
    /// # Errors
    /// BUSY: as many claims wait as may; or the span meets too many holdings.
    pub fn claim(&mut self, worker: usize, span: Span) -> Result<(), Status> {
        let tenant = self.tenant_of(worker, span.space.service());
        let pieces = self.pieces(&span).ok_or(Status::Busy)?;
        let own = |(piece, held): &(Span, Held)| {
            let whole = piece.first <= span.first && span.last <= piece.last;
            held.tenant() == tenant && whole && !self.is_given_up(*held)
        };
        if pieces.iter().any(own) {
            return Ok(());
        }
        let claims = self.claims.get(&span.space);
        if claims.is_some_and(|c| c.iter().any(|c| c.worker == worker && c.span == span)) {
            return Ok(());
        }
        if self.claimed >= limits::CLAIMS_MAX {
            return Err(Status::Busy);
        }
        let in_the_way = claims.is_some_and(|c| c.iter().any(|c| c.span.overlaps(&span)));
        let claim = Claim { worker, span };
        if !in_the_way && self.grant_if_free(&claim) {
            return Ok(());
        }
        self.claims.entry(span.space).or_default().push_back(claim);
        self.claimed += 1;
        *self.uses.entry(span.space.service()).or_default() += 1;
        Ok(())
    }

    /// Grants what no other living worker holds; else recalls what is in the way.
    fn grant_if_free(&mut self, claim: &Claim) -> bool {
        let Claim { worker, span } = *claim;
        let service = span.space.service();
        if self.withheld || self.withheld_services.contains(&service) {
            return false;
        }
        let tenant = self.tenant_of(worker, service);
        if self.stays[tenant as usize].is_leaving() {
            return false; // what it got now would be given up with the rest
        }
        // What has become more than a change may touch is granted when it has become less.
        let Some(pieces) = self.pieces(&span) else { return false };
        let mut free = true;
        for &(piece, held) in &pieces {
            let Some(holder) = self.stay(held).worker() else { continue };
            free &= holder == worker && !held.is_leaving();
            if holder != worker && !self.is_given_up(held) {
                self.recall(holder, piece, held, &span);
            }
        }
        if free {
            for (piece, held) in pieces {
                self.cut(piece, held, &span);
            }
            self.insert(span, Held::new(tenant, false));
            self.notices.push(Notice::Granted(worker, span));
        }
        free
    }

    fn recall(&mut self, holder: usize, piece: Span, held: Held, span: &Span) {
        let common = self.cut(piece, held, span);
        self.insert(common, Held::new(held.tenant(), true));
        self.notices.push(Notice::Recalled(holder, common));
    }

    /// A worker has withdrawn a service: it gives up all that it holds there, and wants no more of it.
    pub fn leave(&mut self, worker: usize, service: usize) {
        if let Some(&tenant) = self.tenancies.get(&(worker, service)) {
            let stay = &mut self.stays[tenant as usize];
            match (self.tenants[tenant as usize].pieces, stay.is_leaving()) {
                (_, true) => {} // it was told so, and has not come back to anything yet
                (0, false) => self.end_stay(worker, service),
                (_, false) => {
                    *stay = stay.leaving();
                    self.notices.push(Notice::Left(worker, service));
                }
            }
        }
        for space in spaces(service) {
            if self.drop_claims(space, |claim| claim.worker == worker) {
                self.settle(space);
            }
        }
    }

    /// It has finished what it was to finish there. Returns whether it was to.
    pub fn left(&mut self, worker: usize, service: usize) -> bool {
        let leaves = self.is_leaving(worker, service);
        if leaves {
            self.end_stay(worker, service);
            spaces(service).into_iter().for_each(|space| self.settle(space));
        }
        leaves
    }

    fn end_stay(&mut self, worker: usize, service: usize) {
        if let Some(tenant) = self.tenancies.remove(&(worker, service)) {
            self.end(tenant);
        }
    }

    /// Makes a worker the holder of what nobody holds: the director's offer, which providing has accepted.
    pub fn offer(&mut self, worker: usize, span: Span) -> bool {
        !self.is_claimed(&span) && self.grant_if_free(&Claim { worker, span })
    }

    /// Whether somebody waits for the right to some of a span: then nobody is offered it.
    pub fn is_claimed(&self, span: &Span) -> bool {
        self.claims.get(&span.space).is_some_and(|claims| claims.iter().any(|c| c.span.overlaps(span)))
    }

    /// Spaces in which claims wait, in an order that is the same every time.
    fn claimed(&self) -> Vec<Space> {
        let mut spaces: Vec<Space> = self.claims.keys().copied().collect();
        spaces.sort_unstable();
        spaces
    }

    /// Grants nothing from now on, or again: after a director's restart, workers that hold something may not have
    /// presented it yet. What is claimed meanwhile waits.
    pub fn withhold(&mut self, withheld: bool) {
        self.withheld = withheld;
        if !withheld {
            let spaces = self.claimed();
            spaces.into_iter().for_each(|space| self.settle(space));
        }
    }

    /// Whether nothing is granted.
    #[inline]
    pub fn is_withheld(&self) -> bool {
        self.withheld
    }

    /// Grants nothing in these services from now on, and again in all others. Returns whether that is a change.
    pub fn withhold_services(&mut self, services: HashSet<usize>) -> bool {
        let changes = services != self.withheld_services;
        if changes {
            self.withheld_services = services;
            let spaces = self.claimed();
            spaces.into_iter().for_each(|space| self.settle(space));
        }
        changes
    }

    /// Nor in this one.
    pub fn withhold_service(&mut self, service: usize) {
        self.withheld_services.insert(service);
    }

    /// Whether nothing is granted in a service.
    #[inline]
    pub fn is_withheld_in(&self, service: usize) -> bool {
        !self.withheld_services.is_empty() && self.withheld_services.contains(&service)
    }

    /// A worker presents what it held under an earlier director. Returns whether it holds it now: not, if another
    /// living one has presented some of it.
    pub fn present(&mut self, worker: usize, span: Span) -> bool {
        let withheld = (std::mem::take(&mut self.withheld), std::mem::take(&mut self.withheld_services));
        let others = |pieces: &Vec<(Span, Held)>| {
            let holder = |&held: &Held| self.stay(held).worker();
            pieces.iter().any(|(_, held)| holder(held).is_some_and(|holder| holder != worker))
        };
        let free = self.pieces(&span).is_some_and(|pieces| !others(&pieces));
        let granted = free && self.grant_if_free(&Claim { worker, span });
        (self.withheld, self.withheld_services) = withheld;
        granted
    }

    /// A worker gives a span back: it is recalled like one that another wants. A claim of its own is dropped.
    ///
    /// # Errors
    /// NOT_HELD if it neither holds nor claims any of it.
    pub fn release(&mut self, worker: usize, span: Span) -> Result<(), Status> {
        let tenant = self.tenant_of(worker, span.space.service());
        let dropped = self.drop_claims(span.space, |c| c.worker == worker && c.span == span);
        let pieces = self.pieces(&span).ok_or(Status::Busy)?;
        let own: Vec<_> = pieces.into_iter().filter(|(_, held)| held.tenant() == tenant).collect();
        if own.is_empty() && !dropped {
            return Err(Status::NotHeld);
        }
        for (piece, held) in own {
            if !self.is_given_up(held) {
                self.recall(worker, piece, held, &span);
            }
        }
        if dropped {
            self.settle(span.space);
        }
        Ok(())
    }

    /// A worker has finished what it was to finish of a span that was recalled. Returns whether it was.
    pub fn yielded(&mut self, worker: usize, span: Span) -> bool {
        let Some(&tenant) = self.tenancies.get(&(worker, span.space.service())) else { return false };
        let pieces = self.pieces(&span).unwrap_or_default();
        let Some(&(piece, held)) = pieces.iter().find(|(piece, _)| *piece == span) else { return false };
        if held != Held::new(tenant, true) {
            return false;
        }
        self.remove(piece, held);
        self.settle(span.space);
        true
    }

    /// Grants what can be granted in a space, in the order of the claims.
    fn settle(&mut self, space: Space) {
        let Some(claims) = self.claims.remove(&space) else { return };
        let mut left: VecDeque<Claim> = VecDeque::new();
        for claim in claims {
            let in_the_way = left.iter().any(|earlier| earlier.span.overlaps(&claim.span));
            if !in_the_way && self.grant_if_free(&claim) {
                self.claimed -= 1;
                self.unuse(space);
            } else {
                left.push_back(claim);
            }
        }
        if !left.is_empty() {
            self.claims.insert(space, left);
        }
    }

    fn drop_claims(&mut self, space: Space, which: impl Fn(&Claim) -> bool) -> bool {
        let Some(claims) = self.claims.get_mut(&space) else { return false };
        let before = claims.len();
        claims.retain(|claim| !which(claim));
        let gone = before - claims.len();
        if claims.is_empty() {
            self.claims.remove(&space);
        }
        self.claimed -= gone;
        (0..gone).for_each(|_| self.unuse(space));
        gone > 0
    }

    /// What a worker waits for.
    pub fn claims_of(&self, worker: usize) -> Vec<Span> {
        let claims = self.claimed().into_iter().flat_map(|space| &self.claims[&space]);
        claims.filter(|claim| claim.worker == worker).map(|claim| claim.span).collect()
    }

    /// A worker waits for these no more. What it holds of them stays. All are dropped before anything is granted: one
    /// may stand in another's way.
    pub fn drop_claims_of(&mut self, worker: usize, spans: &[Span]) {
        let concerns = |claim: &Claim| claim.worker == worker && spans.contains(&claim.span);
        let spaces = self.claimed();
        let dropped: Vec<Space> = spaces.into_iter().filter(|&s| self.drop_claims(s, concerns)).collect();
        dropped.into_iter().for_each(|space| self.settle(space));
    }

    /// A worker is dead: what it held is nobody's from now on. Costs as much as there are claims. Returns the services in
    /// which nothing is left.
    pub fn remove_worker(&mut self, worker: usize) -> Vec<usize> {
        let spaces = self.claimed();
        for &space in &spaces {
            self.drop_claims(space, |claim| claim.worker == worker);
        }
        for service in self.services_of(worker) {
            self.end_stay(worker, service);
        }
        self.pieces_by_worker.remove(&worker);
        spaces.iter().for_each(|&space| self.settle(space));
        let services = spaces.into_iter().map(Space::service);
        services.filter(|&service| self.is_unused(service)).collect()
    }

    /// Whether so many more claims may wait.
    pub fn has_room(&self, more: usize) -> bool {
        self.claimed + more <= limits::CLAIMS_MAX
    }

    /// How many pieces a worker holds.
    pub fn pieces_of(&self, worker: usize) -> usize {
        self.pieces_by_worker.get(&worker).copied().unwrap_or(0)
    }

    /// Whether a span meets no more holdings than a change may touch.
    pub fn is_claimable(&self, span: &Span) -> bool {
        self.pieces(span).is_some()
    }

    /// Whether a worker holds, or waits for, some of a span.
    pub fn has_part(&self, worker: usize, span: &Span) -> bool {
        let waits = |c: &Claim| c.worker == worker && c.span == *span;
        let own = self.tenancies.get(&(worker, span.space.service()));
        let holds = |(_, held): &(Span, Held)| Some(&held.tenant()) == own;
        self.claims.get(&span.space).is_some_and(|claims| claims.iter().any(waits))
            || self.pieces(span).is_some_and(|pieces| pieces.iter().any(holds))
    }

    /// Whether no pieces are left to be swept out.
    pub fn is_swept(&self) -> bool {
        self.ended.is_empty()
    }

    /// Sweeps some of them out. Returns the services in which nothing is left.
    pub fn sweep(&mut self, most: usize) -> Vec<usize> {
        let mut left = Vec::new();
        for _ in 0..most {
            let Some(&tenant) = self.ended.last() else { break };
            let next = self.owned.range((tenant, Space(0), 0)..).next().filter(|(t, ..)| *t == tenant);
            let Some(&(_, space, first)) = next else {
                self.ended.pop();
                self.tenants.remove(tenant as usize);
                continue;
            };
            let range = self.ranges.get(&space).and_then(|ranges| ranges.at(first));
            let last = range.filter(|&(f, ..)| f == first).map_or(first, |(_, last, _)| last);
            let held = self.find(space, first).unwrap_or(Held::new(tenant, false));
            self.remove(Span { space, first, last }, held);
            if self.is_unused(space.service()) {
                left.push(space.service());
            }
        }
        left
    }

    /// Whether nothing is held or claimed in a service.
    pub fn is_unused(&self, service: usize) -> bool {
        !self.uses.contains_key(&service)
    }

    /// What is to be told, in order: takes it.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    /// What a worker holds, at most so much of it; what it is giving up is marked.
    pub fn held_by(&self, worker: usize, most: usize) -> Vec<(Span, bool)> {
        let given_up =
            |span: &Span| self.find(span.space, span.first).is_some_and(|held| self.is_given_up(held));
        let pieces = self.pieces_behind(worker, None, most).into_iter();
        pieces.map(|span| (span, given_up(&span))).collect()
    }

    /// Pieces that a worker holds, behind one of them, at most so many; those too that it is giving up.
    pub fn pieces_behind(&self, worker: usize, after: Option<Span>, most: usize) -> Vec<Span> {
        let from = after.map_or((Space(0), 0), |span| (span.space, span.first));
        let services = self.tenancies.range((worker, from.0.service())..=(worker, usize::MAX));
        let own = services.flat_map(|(_, &tenant)| {
            let behind = self.owned.range((tenant, from.0, from.1)..);
            behind.take_while(move |(t, ..)| *t == tenant)
        });
        let piece = |&(_, space, first): &(u32, Space, u64)| {
            let range = self.ranges.get(&space).and_then(|ranges| ranges.at(first));
            let last = range.filter(|&(f, ..)| f == first).map_or(first, |(_, last, _)| last);
            Span { space, first, last }
        };
        let own = own.filter(|&&(_, space, first)| after.is_none() || (space, first) != from);
        own.map(piece).take(most).collect()
    }

    /// How many pieces are held, and how many claims wait.
    pub fn counts(&self) -> (usize, usize) {
        (self.owned.len(), self.claimed)
    }
}

/// A service's numbers and its names.
fn spaces(service: usize) -> [Space; 2] {
    [Space::new(service, false), Space::new(service, true)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(first: u64, last: u64) -> Span {
        Span { space: Space::new(0, false), first, last }
    }

    #[test]
    fn what_was_held_before_is_presented_before_anything_is_granted() {
        let mut rights = Rights::default();
        rights.withhold(true);
        rights.claim(1, span(5, 5)).unwrap();
        rights.claim(1, span(20, 20)).unwrap();
        assert!(rights.present(2, span(0, 9)));
        assert!(!rights.present(3, span(9, 12)), "another holds 9");
        assert_eq!(rights.take_notices(), [Notice::Granted(2, span(0, 9))]);
        rights.withhold(false);
        let mut notices = rights.take_notices();
        notices.sort_by_key(|notice| matches!(notice, Notice::Recalled(..)));
        assert_eq!(notices, [Notice::Granted(1, span(20, 20)), Notice::Recalled(2, span(5, 5))]);
        assert!(rights.yielded(2, span(5, 5)));
        assert_eq!(rights.take_notices(), [Notice::Granted(1, span(5, 5))]);
        assert_eq!(rights.holder(&span(6, 6)), Holder::Worker(2));
    }

    #[test]
    fn there_are_quotas() {
        let mut rights = Rights::default();
        rights.claim(1, span(0, 0)).unwrap();
        for _ in 0..2 {
            rights.claim(2, span(0, 0)).unwrap(); // the same claim once more is the same claim
        }
        assert_eq!(rights.counts(), (1, 1));
        for n in 1..limits::CLAIMS_MAX as u64 {
            rights.claim(n as usize + 2, span(0, 0)).unwrap();
        }
        assert_eq!(rights.claim(9999, span(0, 0)), Err(Status::Busy));
        let mut rights = Rights::default();
        for n in 0..=limits::RESOURCES_PER_CHANGE as u64 {
            rights.claim(1, span(2 * n, 2 * n)).unwrap();
        }
        assert_eq!(rights.claim(2, span(0, 1000)), Err(Status::Busy), "it meets too many holdings");
    }
}
