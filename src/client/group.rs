//! A scatter as its client's state machine: several tickets, one request, and as many ends as there are parts.
//!
//! ```text
//! submit_group ─► n records in a row
//! look_group   ─► NO_PART: the ticket is free, its key belongs to the part that the answer names
//!                 any other answer: from here on the number of parts is known, and does not change
//! ```
//! *Why it is known then*: every NO_PART was stored before the first part was pushed to its worker, so whoever has
//! seen the answer to a part sees them all. So after the first answer the tickets are looked at once more, and what
//! is no NO_PART by then is a part.
//!
//! What only this client ends (by deadline, or because nobody is left) says nothing about the number of parts. If
//! nothing else is known by then, the scatter ends as one error part that is about all its keys.

use super::core::{ClientCore, Effects, Outcome, Returned, State};
use crate::core::{Memory, Read};
use crate::error::Status;
use crate::layout::{Record, ReplyHead, Request, flag};
use crate::limits::TRIES_MAX;
use crate::resource::Key;
use crate::scatter;

/// What has become of one ticket of a scatter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Not known; or it is a part, and its end was not handed out.
    Open,
    /// No part: its key is in the part of this index.
    In(u16),
    /// Its end was handed out.
    Given,
}

/// A scatter.
#[derive(Debug)]
pub(super) struct Group {
    names: Box<[u64]>,
    fates: Box<[Fate]>,
    keys: Box<[Key]>,
    deadline_ns: u64,
    /// How many parts there are, once it is known.
    parts: Option<u32>,
}

impl Group {
    fn open(&self) -> impl Iterator<Item = (usize, u64)> {
        let open = |&(i, _): &(usize, &u64)| self.fates[i] == Fate::Open;
        self.names.iter().enumerate().filter(open).map(|(i, &name)| (i, name))
    }

    /// The places, in the list of keys, of those that a part is about.
    fn mask(&self, index: usize) -> u64 {
        let is_in = |i: usize| i == index || self.fates[i] == Fate::In(index as u16);
        (0..self.keys.len()).filter(|&i| is_in(i)).fold(0, |mask, i| mask | 1 << i)
    }
}

/// A part of a scatter that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartEnd {
    /// Its slot, which is held until it is released.
    pub slot: u32,
    /// How it ended.
    pub outcome: Outcome,
    /// Which keys of the list it is about: a bit for each place. 0 for a scatter to all.
    pub mask: u64,
}

/// What a look at a scatter found.
#[derive(Debug, PartialEq, Eq)]
pub enum Looked {
    /// A part has ended. Handed out once.
    Part(PartEnd),
    /// More will come.
    Open,
    /// All parts have been handed out; nothing is known of the scatter any more.
    Done,
}

impl<M: Memory> ClientCore<M> {
    /// Sends a request to several workers: one record for each of these reserved slots, in a row. `fill` writes what
    /// differs from slot to slot. `keys` has one for each, or is empty: then it is for all who provide the operation.
    /// Returns the scatter's name, which is that of its first ticket.
    pub fn submit_group(
        &mut self,
        slots: &[u32],
        request: Request,
        record: &Record,
        keys: &[Key],
        fill: impl Fn(usize, &mut Record),
        fx: &mut impl Effects,
    ) -> u64 {
        let mut names = Vec::with_capacity(slots.len());
        let count = slots.len() as u16;
        for (index, &slot) in slots.iter().enumerate() {
            let (mut request, mut record) = (request, *record);
            request.flags |= flag::SCATTER;
            if let Some(key) = keys.get(index) {
                request.flags |= flag::HAS_KEY | if key.is_name() { flag::NAME_KEY } else { 0 };
                request.key = key.word();
            }
            scatter::Place { index: index as u16, count }.write(&mut record);
            fill(index, &mut record);
            *self.draft(slot) = record;
            let name = self.open_slot(slot, request);
            let s = &mut self.slots[slot as usize];
            // A part that nobody began is its caller's to ask for again: others may have its keys now.
            s.tries = TRIES_MAX;
            s.group = *names.first().unwrap_or(&name);
            names.push(name);
            self.publish_quietly(slot);
        }
        self.ring_director(fx);
        let name = names.first().copied().unwrap_or(0);
        let group = Group {
            fates: names.iter().map(|_| Fate::Open).collect(),
            names: names.into(),
            keys: keys.into(),
            deadline_ns: request.deadline_ns,
            parts: None,
        };
        self.groups.insert(name, group);
        name
    }

    /// Whether a scatter of this name has parts that were not handed out.
    pub fn is_group(&self, name: u64) -> bool {
        self.groups.contains_key(&name)
    }

    /// How many parts a scatter has, once it is known: with its first part at the latest.
    pub fn group_len(&self, name: u64) -> Option<u32> {
        self.groups.get(&name)?.parts
    }

    /// A scatter's keys.
    pub fn group_keys(&self, name: u64) -> &[Key] {
        self.groups.get(&name).map_or(&[], |group| &group.keys)
    }

    /// A scatter's deadline, while it has parts that have not ended; else `u64::MAX`.
    pub fn group_deadline_ns(&self, name: u64) -> u64 {
        let Some(group) = self.groups.get(&name) else { return u64::MAX };
        let open = |(_, name)| self.slots[self.slot_of(name) as usize].state == State::Open;
        let waits = group.deadline_ns != 0 && group.open().any(open);
        if waits { group.deadline_ns } else { u64::MAX }
    }

    /// Looks for the next part of a scatter that has ended.
    pub fn look_group(&mut self, name: u64, now_ns: u64, fx: &mut impl Effects) -> Looked {
        let Some(mut group) = self.groups.remove(&name) else { return Looked::Done };
        self.bring_up_to_date(&mut group, now_ns, fx);
        let found = self.hand_out(&mut group);
        if found != Looked::Done {
            self.groups.insert(name, group);
        }
        found
    }

    /// Forgets a scatter whose parts have all been handed out. Returns whether they have.
    pub fn forget_if_done(&mut self, name: u64) -> bool {
        let done = self.groups.get(&name).is_none_or(|group| group.open().next().is_none());
        if done {
            self.groups.remove(&name);
        }
        done
    }

    /// A scatter of which a part can be handed out.
    pub(super) fn any_group_ended(&mut self, now_ns: u64, fx: &mut impl Effects) -> Option<u64> {
        let names: Vec<u64> = self.groups.keys().copied().collect();
        names.into_iter().find(|name| {
            let Some(mut group) = self.groups.remove(name) else { return false };
            self.bring_up_to_date(&mut group, now_ns, fx);
            let ended = self.ready_part(&group).is_some();
            self.groups.insert(*name, group);
            ended
        })
    }

    /// Frees the slots that are no part's, of all scatters.
    pub(super) fn reclaim_groups(&mut self, now_ns: u64, fx: &mut impl Effects) {
        if !self.groups.is_empty() {
            let mut groups = std::mem::take(&mut self.groups);
            groups.values_mut().for_each(|group| self.bring_up_to_date(group, now_ns, fx));
            self.groups = groups;
        }
    }

    /// The caller wants to hear no more of a scatter.
    pub fn cancel_group(&mut self, name: u64) {
        let Some(group) = self.groups.remove(&name) else { return };
        for (_, name) in group.open() {
            if self.cancel(name) {
                self.freed.push(self.slot_of(name));
            }
        }
    }

    /// Slots that scatters have given back since the last time: their buffers are free.
    pub fn take_freed(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.freed)
    }

    /// Reads what has come in: first what is no part, and once a part has ended, the rest of that.
    fn bring_up_to_date(&mut self, group: &mut Group, now_ns: u64, fx: &mut impl Effects) {
        let counts = self.read_answers(group, now_ns, fx);
        if counts && group.parts.is_none() {
            // Acquired with the answer that counts: every NO_PART that there will ever be is in by now.
            self.read_answers(group, now_ns, fx);
            group.parts = Some(group.open().count() as u32);
        }
    }

    /// Returns whether a part has ended by somebody else's word than this client's.
    fn read_answers(&mut self, group: &mut Group, now_ns: u64, fx: &mut impl Effects) -> bool {
        let mut counts = false;
        for i in 0..group.names.len() {
            if group.fates[i] != Fate::Open {
                continue;
            }
            let slot = self.slot_of(group.names[i]);
            self.settle(slot, now_ns, fx);
            self.read_late(slot);
            // Every NO_PART is in before the first part's answer, and one ticket at least is a part.
            let can_be_none = group.parts.is_none() && group.open().nth(1).is_some();
            let s = &mut self.slots[slot as usize];
            match s.state {
                State::Ended(Returned::Yes) if s.outcome.status == Status::NoPart && !can_be_none => {
                    (s.outcome.status, s.outcome.may_have_run, counts) = (Status::Fault, true, true);
                }
                State::Ended(Returned::Yes) if s.outcome.status == Status::NoPart => {
                    let of = ReplyHead::of(&s.outcome.record).code;
                    group.fates[i] = Fate::In((of as usize).min(group.names.len() - 1) as u16);
                    self.release(slot);
                    self.freed.push(slot);
                }
                State::Ended(Returned::Yes) => counts = true,
                State::Ended(Returned::No) => {
                    counts |= self.inbox.load(self.at.verdict + slot as usize) == s.ticket + 1;
                }
                _ => {}
            }
        }
        counts
    }

    /// An answer that came after this client had ended a part for itself, and before it has told anybody, counts.
    fn read_late(&mut self, slot: u32) {
        let s = &self.slots[slot as usize];
        if s.state != State::Ended(Returned::No) {
            return;
        }
        let Some(record) = self.replies.take(&self.inbox, s.ticket, ReplyHead::needs_tail) else { return };
        let own = s.outcome.status;
        let mut outcome = Outcome::of_reply(s.ticket, record);
        if outcome.status == Status::Cancelled {
            // It was not begun, and for this client's reason.
            outcome.status = if own == Status::MayHaveRun { Status::NotBegun } else { own };
        }
        let s = &mut self.slots[slot as usize];
        (s.outcome, s.state) = (outcome, State::Ended(Returned::Yes));
    }

    /// The index of a part that can be handed out.
    fn ready_part(&self, group: &Group) -> Option<usize> {
        let state = |name| self.slots[self.slot_of(name) as usize].state;
        let mut ended = group.open().filter(|&(_, name)| matches!(state(name), State::Ended(_)));
        let (first, _) = ended.next()?;
        (group.parts.is_some() || ended.count() + 1 == group.open().count()).then_some(first)
    }

    fn hand_out(&mut self, group: &mut Group) -> Looked {
        if group.open().next().is_none() {
            return Looked::Done;
        }
        let Some(index) = self.ready_part(group) else { return Looked::Open };
        let mut mask = group.mask(index);
        if group.parts.is_none() {
            // Nobody knows what the parts would have been: this is all there is to tell.
            group.parts = Some(1);
            mask = u64::MAX >> (64 - group.keys.len().clamp(1, 64));
            mask = if group.keys.is_empty() { 0 } else { mask };
            for other in 0..group.names.len() {
                if other != index && group.fates[other] == Fate::Open {
                    group.fates[other] = Fate::In(index as u16);
                    self.release(self.slot_of(group.names[other]));
                }
            }
        }
        group.fates[index] = Fate::Given;
        let slot = self.slot_of(group.names[index]);
        let s = &mut self.slots[slot as usize];
        if let State::Ended(returned) = s.state {
            s.state = State::Held(returned);
        }
        Looked::Part(PartEnd { slot, outcome: s.outcome, mask })
    }

    /// Whether every ticket of a scatter has still no answer: then it can be published again as it was.
    pub(super) fn is_whole(&self, name: u64) -> bool {
        let open = |name: u64| {
            let s = &self.slots[self.slot_of(name) as usize];
            s.state == State::Open && self.replies.stamp(&self.inbox, s.ticket) <= s.ticket
        };
        // The slot of a ticket that has ended may be another call's by now.
        let whole = |group: &Group| group.open().count() == group.names.len();
        self.groups.get(&name).is_some_and(|group| whole(group) && group.open().all(|(_, name)| open(name)))
    }
}
