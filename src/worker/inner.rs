//! A worker's state: its attachments, and what it has begun.
//!
//! A director that does not know the worker gets a new attachment. What was begun under an old one is answered there, so
//! old ones stay as long as they have something to answer.

use std::collections::{HashMap, HashSet};

use slab::Slab;

use super::attached::Attached;
use super::core::{Begun, Taken};
use super::handle::RequestId;
use super::look::{Found, Look, enter};
use super::stop::Stop;
use crate::bus::Bus;
use crate::control::message::twin;
use crate::control::name::Name;
use crate::core::{Os, block_on};
use crate::error::{Error, Status};
use crate::layout::WorkShape;
use crate::limits;
use crate::resource::{Action, Key, Resource, ServiceOptions};
use crate::waiting::{Armed, Waiter};

/// How often a worker without a director looks for one.
const ATTACH_NS: u64 = 10_000_000;

/// A service that this worker provides.
pub(super) struct Service {
    pub(super) name: Name,
    pub(super) first: u16,
    pub(super) operations: Vec<Name>,
    /// But its resources.
    pub(super) options: ServiceOptions,
    /// What it speaks for; `None` is everything.
    pub(super) declared: Option<HashSet<Resource>>,
}

/// A worker's state. Borrowed for the length of one operation; never across a call of the program's own code.
pub(super) struct Inner {
    pub(super) bus: Bus,
    pub(super) shape: WorkShape,
    pub(super) waiter: Waiter,
    /// The attachment that work comes from, and its number.
    pub(super) attached: (u32, Attached),
    /// Those whose director is gone, as long as something of them is not answered.
    pub(super) old: Vec<(u32, Attached)>,
    /// Requests that have begun, and the number of their attachment.
    pub(super) begun: Slab<Open>,
    /// Of the next one that begins.
    pub(super) serial: u64,
    pub(super) services: Vec<Service>,
    pub(super) next_operation: u16,
    /// By the worker's own number: which service and operation.
    pub(super) names: HashMap<u16, (Name, Name)>,
    pub(super) keys: HashMap<Name, Key>,
    pub(super) attach_at_ns: u64,
    /// When it last looked whether its director is still there.
    pub(super) checked_ns: u64,
    /// It has left, and serves no more.
    pub(super) drained: bool,
}

/// A request that has begun and is not answered.
pub(super) struct Open {
    pub(super) serial: u64,
    /// The number of its attachment.
    pub(super) attachment: u32,
    pub(super) begun: Begun,
}

impl Inner {
    pub fn provide(
        &mut self,
        name: Name,
        operations: Vec<Name>,
        mut options: ServiceOptions,
    ) -> Result<u32, Error> {
        let count = operations.len();
        let most = limits::OPERATIONS_MAX.min(usize::from(u16::MAX - self.next_operation));
        if count == 0 || count > most {
            let bounds = format!("1 to {most}");
            return Err(Error::Option { what: "the number of operations", value: count as u64, bounds });
        }
        if let Some(twin) = twin(&operations) {
            let (name, why) = (twin.as_str().to_owned(), "it is there twice");
            return Err(Error::Name { what: "operation", name, why });
        }
        let first = self.next_operation;
        if options == ServiceOptions::default() {
            self.attached.1.provide(&name, first, &operations)?;
        } else {
            self.attached.1.register(&name, first, &operations, options.clone())?;
        }
        self.next_operation += count as u16;
        for (i, operation) in operations.iter().enumerate() {
            self.names.insert(first + i as u16, (name.clone(), operation.clone()));
        }
        let resources = std::mem::take(&mut options.resources);
        let declared = (!resources.is_empty()).then(|| resources.into_iter().collect());
        self.services.retain(|s| s.name != name);
        self.services.push(Service { name, first, operations, options, declared });
        Ok(u32::from(first))
    }

    pub fn change(&mut self, name: &Name, changes: &[(Action, Resource)]) -> Result<(), Error> {
        self.attached.1.change(name, changes)?;
        let Some(service) = self.services.iter_mut().find(|s| s.name == *name) else { return Ok(()) };
        let of = |action| changes.iter().filter(move |(a, _)| *a == action).map(|&(_, resource)| resource);
        if changes.iter().any(|(a, _)| matches!(a, Action::Declare | Action::Withdraw)) {
            let declared = service.declared.get_or_insert_with(|| HashSet::from([Resource::All]));
            of(Action::Withdraw).for_each(|resource| _ = declared.remove(&resource));
            declared.extend(of(Action::Declare));
        }
        Ok(())
    }

    /// Gives up what was recalled and is served; leaves, if that was the last thing to do.
    pub fn settle_rights(&mut self) {
        let (number, attached) = (self.attached.0, &mut self.attached.1);
        let (begun, names) = (&self.begun, &self.names);
        let taken = attached.taken();
        let is_kept = |about: Option<(&Name, Resource)>, before: u64| {
            begun.iter().any(|(_, open)| {
                let begun = &open.begun;
                let concerns = about.is_none_or(|(service, resource)| {
                    let operation = names.get(&(begun.request().operation as u16));
                    operation.is_some_and(|(name, _)| name == service)
                        && begun.keys().any(|key| resource.covers(key))
                });
                let is_old = open.attachment != number;
                if about.is_none() {
                    is_old || begun.position < before
                } else {
                    !is_old && begun.position < before && concerns
                }
            })
        };
        if attached.rights.settle(taken, is_kept) {
            attached.leave();
            self.drained = true;
        }
    }

    /// Service and operation of a request.
    pub fn names_of(&self, id: RequestId) -> Option<(Name, Name)> {
        let (_, begun) = self.of(id)?;
        self.names.get(&(begun.request().operation as u16)).cloned()
    }

    pub fn arm(&mut self, stop: &Stop) -> Result<Armed, Error> {
        let attached = &mut self.attached.1;
        // A sleep of its own, though the last was never taken back: its bell may have been rung already.
        attached.awake();
        attached.park();
        let told = attached.rights.has_told() || attached.rights.is_due(attached.taken()) || self.drained;
        if told || stop.is_rung() || attached.is_ready() || attached.has_control() {
            attached.awake();
            return Ok(Armed::Ready);
        }
        let wake_ns = if attached.is_attached() { attached.wake_at_ns() } else { self.attach_at_ns };
        self.waiter.set_alarm(wake_ns)?;
        Ok(Armed::Sleep)
    }

    pub fn disarm(&mut self) {
        self.attached.1.awake();
        self.waiter.slept_elsewhere();
        self.attached.1.read_control();
    }

    /// The next request, if it stands there, and there is nothing to be seen to before it.
    #[inline]
    pub fn take_at_once(&mut self, stop: &Stop) -> Option<RequestId> {
        let (number, attached) = (self.attached.0, &mut self.attached.1);
        let is_usual = attached.is_attached() && !attached.has_control() && !attached.rights.has_told();
        if !attached.is_ready() || !is_usual || stop.is_rung() || self.drained {
            return None;
        }
        self.waiter.refresh();
        match attached.take(self.waiter.now_ns()) {
            Taken::Begun(begun) => Some(enter(&mut self.begun, &mut self.serial, number, begun)),
            Taken::Skipped | Taken::Nothing | Taken::Unheard => None,
        }
    }

    pub fn look(&mut self, stop: &Stop, until_ns: u64) -> Result<Found, Error> {
        // Since the last look the program's own code ran, for however long: what has expired is not to begin.
        self.waiter.refresh();
        let open = (&mut self.begun, &mut self.serial);
        let (number, attached) = (self.attached.0, &mut self.attached.1);
        let checked_ns = self.checked_ns;
        let mut look =
            Look { attached, number, open, stop, until_ns, checked_ns, check: false, interrupted: false };
        let found = block_on(&mut look, &mut self.waiter);
        self.checked_ns = look.checked_ns;
        Ok(found)
    }

    /// Attaches to the next director, if there is one and it is time to look: as the same worker, or, to one that
    /// doesn't know it, as a new one.
    pub fn attach_again(&mut self) -> Result<(), Error> {
        let now_ns = crate::waiting::now_ns();
        if now_ns < self.attach_at_ns {
            return Ok(());
        }
        self.attach_at_ns = now_ns + ATTACH_NS;
        match self.attached.1.come_back(&self.bus, &self.waiter) {
            Ok(true) => self.provide_again(),
            Ok(false) if self.attached.1.rights.is_held() => {
                // The program hears of it first; then this one says so, and is refused once more.
                self.attached.1.rights.lose_all();
                self.attach_at_ns = now_ns;
            }
            Ok(false) => match self.begin_anew() {
                Ok(()) => self.provide_again(),
                Err(error) => return given_up(error),
            },
            Err(error) => return given_up(error),
        }
        Ok(())
    }

    fn begin_anew(&mut self) -> Result<(), Error> {
        let attached = Attached::attach(&self.bus, self.shape, &self.waiter)?;
        self.waiter.remove_doorbell(self.attached.1.doorbell());
        let number = self.attached.0 + 1;
        let old = std::mem::replace(&mut self.attached, (number, attached));
        self.attached.1.rights = old.1.rights.of_successor();
        self.old.push(old);
        let begun = &self.begun;
        self.old.retain(|(number, _)| begun.iter().any(|(_, open)| open.attachment == *number));
        Ok(())
    }

    /// Tells a new director what this worker provides and holds. If that one goes away meanwhile, the next is told. One
    /// that drains provides nothing more.
    fn provide_again(&mut self) {
        let attached = &mut self.attached.1;
        let drains = attached.rights.is_draining();
        for service in self.services.iter().filter(|_| !drains) {
            if let Err(error) = provide_again(attached, service) {
                tracing::warn!(%error, service = service.name.as_str(), "a service could not be provided again");
            }
        }
        attached.present_again();
        attached.presented_all();
        if drains && let Err(error) = attached.drain() {
            tracing::warn!(%error, "a new director could not be asked for leave");
        }
    }

    /// A request that has begun, and the attachment that it came from.
    #[inline]
    pub fn of(&self, id: RequestId) -> Option<(&Attached, &Begun)> {
        let open = self.begun.get(id.index()).filter(|open| open.serial == id.serial())?;
        let attached = if open.attachment == self.attached.0 {
            &self.attached.1
        } else {
            &self.old.iter().find(|(number, _)| *number == open.attachment)?.1
        };
        Some((attached, &open.begun))
    }

    /// Takes a request out, to answer it.
    #[inline]
    pub fn take(&mut self, id: RequestId) -> Option<(&mut Attached, Begun)> {
        self.of(id)?;
        let Open { attachment: number, begun, .. } = self.begun.try_remove(id.index())?;
        let attached = if number == self.attached.0 {
            &mut self.attached.1
        } else {
            &mut self.old.iter_mut().find(|(n, _)| *n == number)?.1
        };
        // It may have been what a recall waits for.
        attached.rights.look_again();
        Some((attached, begun))
    }

    /// Answers WORKER_ERROR. The message is cut to what there is room for, so that it is this error in any case.
    pub fn fail(&mut self, id: RequestId, code: u32, message: &str) {
        let Some((_, begun)) = self.of(id) else { return };
        let most = limits::MESSAGE_MAX.min(begun.request().capacity as usize).min(message.len());
        let end = (0..=most).rev().find(|&end| message.is_char_boundary(end)).unwrap_or(0);
        self.answer(id, Status::WorkerError, code, &message.as_bytes()[..end]);
    }

    /// Answers a request; whether there is one.
    #[inline]
    pub fn answer(&mut self, id: RequestId, status: Status, code: u32, bytes: &[u8]) -> bool {
        let Some((attached, begun)) = self.take(id) else { return false };
        attached.answer(begun, status, code, bytes);
        true
    }
}

/// What ends a program's look for a director: that there is one, with which it can't work.
fn given_up(error: Error) -> Result<(), Error> {
    match error {
        error @ (Error::ProtocolMismatch { .. } | Error::NotASocket { .. }) => Err(error),
        _ => Ok(()),
    }
}

/// Tells a new director about a service: what this worker provides of it, and speaks for.
fn provide_again(attached: &mut Attached, service: &Service) -> Result<(), Error> {
    let Service { name, first, operations, options, declared } = service;
    let mut resources: Vec<Resource> = declared.iter().flatten().copied().collect();
    let nothing = declared.is_some() && resources.is_empty();
    if nothing {
        // To name no resource is to speak for all: so it names almost none, and withdraws that.
        resources.push(ALMOST_NONE);
    }
    let mut resources = resources.chunks(limits::RESOURCES_PER_CHANGE);
    let first_of_them = resources.next().unwrap_or_default().to_vec();
    let options = ServiceOptions { resources: first_of_them, ..options.clone() };
    attached.register(name, *first, operations, options)?;
    if nothing {
        attached.change(name, &[(Action::Withdraw, ALMOST_NONE)])?;
    }
    for more in resources {
        let more: Vec<_> = more.iter().map(|&resource| (Action::Declare, resource)).collect();
        attached.change(name, &more)?;
    }
    Ok(())
}

/// One key in four billion.
const ALMOST_NONE: Resource = Resource::Share { index: 0, of: u32::MAX };

pub(super) fn check_resources(count: usize) -> Result<(), Error> {
    if count <= limits::RESOURCES_PER_CHANGE {
        return Ok(());
    }
    let bounds = format!("up to {} in one change", limits::RESOURCES_PER_CHANGE);
    Err(Error::Option { what: "the number of resources", value: count as u64, bounds })
}
