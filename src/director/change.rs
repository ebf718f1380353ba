//! Changes of what workers declare and hold: checked whole, made, and told.
//!
//! ```text
//! Change ─► all of it can be made? ─► declarations at once; claims: granted now, or when the holder has yielded
//! Granted, Recalled, Drain ─► to the worker, numbered        Yielded ─► the next claim, and the calls that waited
//! ```
//! What a worker is told about rights is numbered, and the number stands in its segment before any record that is
//! pushed after it: a worker takes no record before it has read that far. Whatever changes, the calls that wait on the
//! keys it touches are looked at again: those are in [`held`](super::held).

use std::collections::HashSet;

use super::core::{DirectorCore, Effects, Told};
use super::quota::{Counted, Usage};
use super::table::rights::{Notice, Space, Span};
use super::worker::Standing;
use crate::core::Memory;
use crate::error::Status;
use crate::limits;
use crate::resource::{Action, Resource};

/// Dead workers' holdings swept out in one turn.
const SWEEP: usize = 256;

impl<M: Memory> DirectorCore<M> {
    /// A change of what a worker declares and holds in a service, whole or not at all: what it acquires it may get
    /// later, when a holder has handed it over. A worker that has come back, and has not told all yet, acquires what it
    /// held before: it has it now, or it has lost it. It does so too in a service that it has withdrawn, and gives it up
    /// when it has told all.
    pub fn change(
        &mut self,
        worker: usize,
        service: &str,
        changes: &[(Action, Resource)],
        fx: &mut impl Effects,
    ) -> Status {
        let presents = self.workers.get(worker).is_some_and(|w| self.recovery.presents(w.id, service));
        let declares =
            |(action, _): &(Action, Resource)| matches!(action, Action::Declare | Action::Withdraw);
        let declares = changes.iter().any(declares);
        let service = match self.table.provided_by(worker, service) {
            Some(service) => service,
            None if presents && !declares => match self.table.service_named(service) {
                Ok(service) => service,
                Err(status) => return status,
            },
            None => return Status::NoSuchService,
        };
        let status = self.check_rights(worker, service, changes, presents);
        if status != Status::Ok {
            self.table.forget_if_unused(service);
            return status;
        }
        if !presents && !self.may_change(worker, service, changes) {
            return Status::PermissionDenied;
        }
        if declares && let Err(status) = self.declare(worker, service, changes) {
            return status;
        }
        let mut status = Status::Ok;
        for &(action, resource) in changes {
            let Some(span) = span_of(service, resource) else { continue };
            let done = match action {
                Action::Acquire if presents => {
                    self.table.rights.present(worker, span);
                    Ok(())
                }
                Action::Acquire => self.table.rights.claim(worker, span),
                Action::Release => {
                    self.held.wake(&span); // it may have been a claim that others waited behind
                    self.table.rights.release(worker, span)
                }
                Action::Declare | Action::Withdraw => Ok(()),
            };
            // Checked before; what is left is what the change itself made impossible, such as giving back twice.
            status = done.err().unwrap_or(status);
        }
        self.tell(fx);
        self.table.forget_if_unused(service);
        status
    }

    /// The part of a change that is about what a worker declares.
    fn declare(
        &mut self,
        worker: usize,
        service: usize,
        changes: &[(Action, Resource)],
    ) -> Result<(), Status> {
        let change = self.table.plan(worker, service, changes).map_err(|status| self.undeclarable(status))?;
        if !self.may_have_more(Counted::DeclaredKeys, worker, change.more) {
            return Err(Status::Busy);
        }
        self.table.make(change);
        // What waits may be for whoever provides it now, or for nobody any more.
        self.held.wake_all();
        self.news = true;
        Ok(())
    }

    /// Says why a declaration can't be made: BUSY has one reason.
    pub(super) fn undeclarable(&mut self, status: Status) -> Status {
        if status == Status::Busy {
            let most = limits::RANGES_MAX;
            self.refusal = format!("a worker may declare {most} ranges and shares of a service");
        }
        status
    }

    /// Whether every right that a change names can be claimed or given back. What a worker presents again it is not
    /// refused for a quota's sake.
    fn check_rights(
        &mut self,
        worker: usize,
        service: usize,
        changes: &[(Action, Resource)],
        presents: bool,
    ) -> Status {
        let acquired = changes.iter().filter(|(action, _)| *action == Action::Acquire).count();
        if !presents && !self.table.rights.has_room(acquired) {
            let most = limits::CLAIMS_MAX;
            self.refusal = format!("{most} claims may wait for a hand-over at a time");
            return Status::Busy;
        }
        if !presents && !self.may_have_more(Counted::HeldKeys, worker, acquired) {
            return Status::Busy;
        }
        for &(action, resource) in changes {
            match (action, span_of(service, resource)) {
                (Action::Declare | Action::Withdraw, _) => {}
                (_, Some(span)) if span.first > span.last => return Status::BadResource,
                (_, None) => return Status::BadResource,
                (Action::Acquire, Some(span)) if !presents && !self.table.rights.is_claimable(&span) => {
                    let most = limits::RESOURCES_PER_CHANGE;
                    self.refusal = format!("what is acquired may meet {most} holdings");
                    return Status::Busy;
                }
                (Action::Acquire, Some(_)) => {}
                (Action::Release, Some(span)) if self.table.rights.has_part(worker, &span) => {}
                (Action::Release, Some(_)) => return Status::NotHeld,
            }
        }
        Status::Ok
    }

    /// Whether a worker's process and user may hold, or declare, so many resources more. One that has come back and
    /// has not told all yet is not refused what it had.
    pub(super) fn may_have_more(&mut self, counted: Counted, worker: usize, more: usize) -> bool {
        let Some(found) = self.workers.get(worker) else { return false };
        if more == 0 || self.recovery.is_telling(found.id) {
            return true;
        }
        let (own, mut usage, mut others) = (found.identity, Usage::default(), HashSet::new());
        for (key, w) in &self.workers {
            let has = match counted {
                Counted::DeclaredKeys => self.table.declared_by(key),
                _ => self.table.rights.pieces_of(key),
            } as u64;
            if w.identity.uid == own.uid {
                usage.user += has;
                usage.process += if w.identity.pid == own.pid { has } else { 0 };
            } else if has > 0 {
                usage.others += has;
                others.insert(w.identity.uid);
            }
        }
        usage.other_users = others.len() as u64;
        let judged = self.accounts.judge(counted, own.uid, &usage, more as u64, 0);
        if let Err(exceeded) = judged {
            self.refusal = exceeded.to_string();
        }
        judged.is_ok()
    }

    /// A worker has finished with a resource that it was told to give up.
    pub fn yielded(&mut self, worker: usize, service: &str, resource: Resource, fx: &mut impl Effects) {
        let Some(service) = self.table.service_of(service) else { return };
        if resource == Resource::All && self.table.rights.left(worker, service) {
            self.held.wake_service(service);
            self.tell(fx);
        } else if let Some(span) = span_of(service, resource)
            && span.first <= span.last
            && self.table.rights.yielded(worker, span)
        {
            self.held.wake(&span);
            self.table.forget_if_unused(service);
            self.tell(fx);
        }
    }

    /// Tells workers what they have got and what they are to give up, and looks again at what waited for that.
    pub(super) fn tell(&mut self, fx: &mut impl Effects) {
        for notice in self.table.rights.take_notices() {
            let (key, service, resource) = match notice {
                Notice::Granted(key, span) | Notice::Recalled(key, span) => {
                    self.held.wake(&span);
                    let resource = Resource::of_span(span.space.is_name(), span.first, span.last);
                    (key, span.space.service(), resource)
                }
                Notice::Left(key, service) => {
                    self.held.wake_service(service);
                    (key, service, Resource::All)
                }
            };
            let Some(worker) = self.workers.get_mut(key) else { continue };
            let service = self.table.service_name(service);
            let told = match notice {
                Notice::Granted(..) => {
                    worker.mark_right(service);
                    Told::Granted { sequence: worker.count_rights(), service, resource }
                }
                Notice::Recalled(..) | Notice::Left(..) => {
                    let sequence = worker.count_rights();
                    Told::Recalled { sequence, service, resource, before: worker.pushed() }
                }
            };
            fx.tell(key, told);
        }
    }

    /// What a dead worker held is swept out, some of it in each turn.
    pub(super) fn sweep(&mut self) {
        for service in self.table.rights.sweep(SWEEP) {
            self.table.forget_if_unused(service);
        }
    }

    /// A worker is given no new work from now on. When it has served what its ring holds, it leaves.
    pub fn drain(&mut self, worker: usize, fx: &mut impl Effects) -> Status {
        let Some(found) = self.workers.get_mut(worker) else { return Status::NoWorker };
        if found.standing == Standing::Serving {
            found.standing = Standing::Draining;
            let (sequence, before) = (found.count_rights(), found.pushed());
            fx.tell(worker, Told::Drain { sequence, before });
        }
        Status::Ok
    }

    /// The worker with this id.
    pub fn worker_with_id(&self, id: u64) -> Option<usize> {
        self.workers.iter().find(|(_, worker)| worker.id == id).map(|(key, _)| key)
    }
}

/// What a resource is among the rights of a service; `None`: nothing that can be held.
pub(super) fn span_of(service: usize, resource: Resource) -> Option<Span> {
    let (is_name, first, last) = resource.span()?;
    Some(Span { space: Space::new(service, is_name), first, last })
}
