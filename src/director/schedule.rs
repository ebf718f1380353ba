//! Who gets a call: the policy of its service, among the workers that may do it.
//!
//! ```text
//! providers ─► speaks for the key? ─► has mapped the session? ─► has room? ─► the one the policy likes best
//! ```
//! *Room* is the worker's share with JBSQ, and all of its ring with the other policies. What finds no room waits.

use super::core::{DirectorCore, Effects};
use super::mapping::{Asking, Reach, reach};
use super::session::Mapping;
use super::table::Provider;
use super::worker::Worker;
use crate::core::Memory;
use crate::resource::{Key, Policy, mix};

/// Calls that a worker may always have in its hands before the load bound of affinity sends others elsewhere.
pub const AFFINE_MIN: u64 = 4;

/// What became of an attempt to find a worker.
pub(super) enum Choice {
    /// This worker has room, and knows the session under this index.
    Give(Provider, u16),
    /// Nobody has room now.
    Wait,
    /// Nobody provides it.
    Nobody,
}

/// How well a worker suits a call on a key, by rendezvous hashing: whoever comes or goes, the others' keys stay.
#[inline]
pub fn suits(worker_id: u64, key: Key) -> u64 {
    mix(mix(worker_id) ^ key.word().rotate_left(u32::from(key.is_name())))
}

/// Most calls that a worker may have in its hands and be given another one for affinity's sake: a quarter more than
/// its part of all, this one included.
pub fn affine_bound(total: u64, workers: u64) -> u64 {
    (5 * (total + 1)).div_ceil(4 * workers.max(1)).max(AFFINE_MIN)
}

/// How well a worker suits a call: less is better, and 0 best. `None`: it has no room for it.
#[inline]
pub(super) fn score<M: Memory>(
    policy: Policy,
    worker: &Worker<M>,
    bound: u64,
    resource: Option<Key>,
) -> Option<u64> {
    let load = worker.in_flight();
    match policy {
        Policy::Jbsq if worker.has_room() => Some(load),
        Policy::LeastOutstanding if worker.has_slots() => Some(load),
        Policy::RoundRobin if worker.has_slots() => Some(0),
        // At least 1: only an idle worker under the other policies ends the search.
        Policy::Affinity if worker.has_slots() && load < bound => {
            Some(!suits(worker.id, resource.unwrap_or(Key::number(0))) | 1)
        }
        _ => None,
    }
}

impl<M: Memory> DirectorCore<M> {
    /// The worker for a call of session `key`, on `resource` where that says anything.
    #[inline]
    pub(super) fn choose(
        &mut self,
        operation: usize,
        key: usize,
        resource: Option<Key>,
        now_ns: u64,
        fx: &mut impl Effects,
    ) -> Choice {
        let only = if resource.is_none() { self.only(operation, key, fx) } else { None };
        match only {
            Some(choice) => choice,
            None => self.choose_among(operation, key, resource, now_ns, fx),
        }
    }

    /// The same among several, or where there is more to be seen to.
    #[inline(never)]
    fn choose_among(
        &mut self,
        operation: usize,
        key: usize,
        resource: Option<Key>,
        now_ns: u64,
        fx: &mut impl Effects,
    ) -> Choice {
        let policy = match (self.table.operation(operation).policy, resource) {
            (Policy::Affinity, None) => Policy::Jbsq,
            (policy, _) => policy,
        };
        let bound = match (policy, resource) {
            (Policy::Affinity, Some(resource)) => self.bound(operation, resource, now_ns),
            _ => 0,
        };
        let found = self.table.operation(operation);
        let several = found.providers.len() > 1;
        let first =
            if policy == Policy::RoundRobin && several { found.next % found.providers.len() } else { 0 };
        let mut best: Option<(u64, usize, Provider, u16)> = None;
        let (mut hope, mut strangers, mut asking) = (false, false, Asking::new(now_ns));
        // Whoever shows no sign of life is given work only where nobody does.
        let (mut lively, mut last_resort) = (false, None);
        let (before, from) = found.providers.split_at(first);
        for (i, provider) in from.iter().chain(before).enumerate() {
            if resource.is_some_and(|resource| !self.table.covers(provider, resource)) {
                continue;
            }
            let Some(worker) = self.workers.get_mut(provider.worker) else { continue };
            if !worker.is_serving() {
                continue;
            }
            let index = match reach(&mut self.sessions[key], worker, provider.worker, &mut asking) {
                Reach::Now(index) => index,
                Reach::Soon => {
                    hope = true;
                    continue;
                }
                Reach::Unknown => {
                    strangers = true;
                    continue;
                }
                Reach::Never => continue,
            };
            hope = true;
            if worker.owes_part {
                continue;
            }
            if !worker.has_room() || (several && (worker.in_flight() > 0 || worker.pulse.silent)) {
                worker.look(now_ns);
            }
            lively |= !worker.pulse.silent;
            let Some(score) = score(policy, worker, bound, resource) else { continue };
            let found = (score, first + i + 1, *provider, index);
            if worker.pulse.silent {
                last_resort.get_or_insert(found);
            } else if best.is_none_or(|(least, ..)| score < least) {
                best = Some(found);
                if score == 0 {
                    break;
                }
            }
        }
        if strangers {
            hope |= self.introduce(operation, key, resource, &mut asking, fx);
        }
        match best.or(last_resort.filter(|_| !lively)) {
            Some((_, next, provider, index)) => {
                if policy == Policy::RoundRobin {
                    self.table.operation_mut(operation).next = next;
                }
                Choice::Give(provider, index)
            }
            None if hope || self.recovery.awaits_workers() => Choice::Wait,
            None => Choice::Nobody,
        }
    }

    /// The usual case, said quickly: there is one worker, it knows the session, and has room. The clock is asked once
    /// for a worker's share: by an old time its quickness would be a guess, and so would be its share.
    #[inline(always)]
    fn only(&mut self, operation: usize, key: usize, fx: &mut impl Effects) -> Option<Choice> {
        let found = self.table.operation(operation);
        let &[provider] = &found.providers[..] else { return None };
        let takes_turns = !matches!(found.policy, Policy::Jbsq | Policy::Affinity);
        let Mapping::Open(index) = self.sessions[key].mapping(provider.worker) else { return None };
        let worker = self.workers.get_mut(provider.worker).filter(|w| w.is_serving() && !w.owes_part)?;
        if !worker.has_room() {
            worker.look(fx.clock_ns());
        }
        let room = if takes_turns { worker.has_slots() } else { worker.has_room() };
        room.then_some(Choice::Give(provider, index))
    }

    /// The load bound among the workers that may do a call on this key.
    pub(super) fn bound(&mut self, operation: usize, resource: Key, now_ns: u64) -> u64 {
        let (mut total, mut count) = (0, 0);
        for provider in &self.table.operation(operation).providers {
            let covers = self.table.covers(provider, resource);
            let Some(worker) = self.workers.get_mut(provider.worker).filter(|w| covers && w.is_serving())
            else {
                continue;
            };
            worker.look(now_ns);
            (total, count) = (total + worker.in_flight(), count + 1);
        }
        affine_bound(total, count)
    }
}
