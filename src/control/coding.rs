//! The control messages as bytes: which number each kind has, and how it is written and read.
//!
//! ```text
//! ToDirector, FromDirector ── encode ─► Writer ─► kind, body, tail ─► Reader ── decode ─► the same, or a fault
//! ```
//! A message is written as it is, and read with suspicion: each count, each name, and each number that stands for
//! something is checked. What a message means is in [`message`](super::message), what its parts look like in
//! [`wire`](super::wire). A new kind has an arm in each of four places here, and a row in PROTOCOL.md.

use std::time::Duration;

use super::message::{FromDirector, Message, Role, ToDirector, twin};
use super::name::Name;
use super::wire::{self, MAGIC, Reader, Writer};
use crate::access::{Denial, Domain, Topic, Verb};
use crate::resource::{Action, Policy, Resource, ServiceOptions, Unheld};
use crate::{Fault, limits};

/// The numbers of the kinds, for ever: new ones are appended.
mod kind {
    pub const HELLO: u32 = 1;
    pub const OPEN_SESSION: u32 = 2;
    pub const OPEN_ROUTE: u32 = 3;
    pub const OPEN_WORKER: u32 = 4;
    pub const PROVIDE: u32 = 5;
    pub const WITHDRAW: u32 = 6;
    pub const SESSION_MAPPED: u32 = 7;
    pub const SESSION_UNMAPPED: u32 = 8;
    pub const LEAVE: u32 = 9;
    pub const INSPECT: u32 = 10;
    pub const REPUBLISHED: u32 = 11;

    pub const NAME_KEY: u32 = 32;
    pub const REGISTER: u32 = 33;
    pub const CHANGE: u32 = 34;
    pub const YIELDED: u32 = 35;
    pub const DRAIN: u32 = 36;
    pub const OPEN_SESSION_IN: u32 = 48;
    pub const EXPLAIN: u32 = 49;
    pub const RELOAD: u32 = 50;
    pub const REPLACE: u32 = 64;

    pub const WELCOME: u32 = 129;
    pub const REFUSED: u32 = 130;
    pub const SESSION_OPENED: u32 = 131;
    pub const ROUTE_OPENED: u32 = 132;
    pub const WORKER_OPENED: u32 = 133;
    pub const PROVIDED: u32 = 134;
    pub const MAP_SESSION: u32 = 135;
    pub const UNMAP_SESSION: u32 = 136;
    pub const LEFT: u32 = 137;
    pub const CLOSING: u32 = 138;
    pub const SERVICE_ROW: u32 = 139;
    pub const WORKER_ROW: u32 = 140;
    pub const SESSION_ROW: u32 = 141;
    pub const INSPECT_END: u32 = 142;
    pub const KEY_NAMED: u32 = 160;
    pub const GRANTED: u32 = 161;
    pub const RECALLED: u32 = 162;
    pub const DRAINING: u32 = 163;
    pub const ROUTE_ELSEWHERE: u32 = 176;
    pub const DENIAL_ROW: u32 = 177;
    pub const EXPLAIN_ROW: u32 = 178;
    pub const EXPLAIN_END: u32 = 179;
    pub const RELOADED: u32 = 180;
    pub const HAND_OVER: u32 = 192;
}

impl Message for ToDirector {
    fn kind(&self) -> u32 {
        match self {
            ToDirector::Hello { .. } => kind::HELLO,
            ToDirector::OpenSession { .. } => kind::OPEN_SESSION,
            ToDirector::OpenRoute { .. } => kind::OPEN_ROUTE,
            ToDirector::OpenWorker { .. } => kind::OPEN_WORKER,
            ToDirector::Provide { .. } => kind::PROVIDE,
            ToDirector::Withdraw { .. } => kind::WITHDRAW,
            ToDirector::SessionMapped { .. } => kind::SESSION_MAPPED,
            ToDirector::SessionUnmapped { .. } => kind::SESSION_UNMAPPED,
            ToDirector::Leave { .. } => kind::LEAVE,
            ToDirector::Inspect => kind::INSPECT,
            ToDirector::Republished => kind::REPUBLISHED,
            ToDirector::NameKey { .. } => kind::NAME_KEY,
            ToDirector::Register { .. } => kind::REGISTER,
            ToDirector::Change { .. } => kind::CHANGE,
            ToDirector::Yielded { .. } => kind::YIELDED,
            ToDirector::Drain { .. } => kind::DRAIN,
            ToDirector::OpenSessionIn { .. } => kind::OPEN_SESSION_IN,
            ToDirector::Explain { .. } => kind::EXPLAIN,
            ToDirector::Reload => kind::RELOAD,
            ToDirector::Replace => kind::REPLACE,
        }
    }

    fn descriptors(kind: u32) -> usize {
        match kind {
            kind::OPEN_SESSION | kind::OPEN_SESSION_IN => 3,
            kind::OPEN_WORKER => 2,
            _ => 0,
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let w = Writer::new(out, self.kind());
        match self {
            &ToDirector::Hello { protocol, role, bus_id, monotonic_ns } => {
                w.body(&wire::Hello { magic: MAGIC, protocol, role: role as u32, bus_id, monotonic_ns })
            }
            &ToDirector::OpenSession { session, credential, published, settled, shape } => {
                w.body(&wire::OpenSession { session, credential, published, settled, shape: shape.into() })
            }
            ToDirector::OpenRoute { route, service, operation } => {
                w.body(&wire::OpenRoute { route: *route, reserved: 0 }).name(service).name(operation)
            }
            &ToDirector::OpenWorker { worker, credential, taken, holds, shape } => {
                let (slots, holds) = (shape.slots, holds.into());
                w.body(&wire::OpenWorker { worker, credential, taken, slots, holds })
            }
            ToDirector::Provide { service, first, operations } => w
                .body(&wire::Provide { first: *first, count: operations.len() as u16, reserved: 0 })
                .name(service)
                .names(operations),
            ToDirector::Withdraw { service } => w.name(service),
            &ToDirector::SessionMapped { index, accepted } => {
                w.body(&wire::SessionMapped { index, accepted: accepted.into(), reserved: 0 })
            }
            &ToDirector::SessionUnmapped { index } => w.body(&wire::SessionIndex { index, reserved: [0; 3] }),
            &ToDirector::Leave { taken } => w.body(&wire::Leave { taken }),
            ToDirector::Inspect | ToDirector::Republished | ToDirector::Replace | ToDirector::Reload => w,
            ToDirector::NameKey { name } => w.name(name),
            ToDirector::Register { service, first, operations, options } => w
                .body(&wire::Register {
                    first: *first,
                    operations: operations.len() as u16,
                    policy: options.policy.map_or(0, |policy| policy as u16),
                    unheld: options.unheld.map_or(0, |unheld| unheld as u16),
                    resources: options.resources.len() as u32,
                    stall_ms: options.stall_ms(),
                    idempotent: idempotent_mask(operations, &options.idempotent),
                })
                .name(service)
                .names(operations)
                .items(options.resources.iter().map(|&resource| (0, resource))),
            ToDirector::Change { service, changes } => w
                .body(&wire::Change { count: changes.len() as u32, reserved: 0 })
                .name(service)
                .items(changes.iter().map(|&(action, resource)| (action as u16, resource))),
            ToDirector::Yielded { service, resource } => w.name(service).items([(0, *resource)]),
            &ToDirector::Drain { worker } => w.body(&wire::Drain { worker }),
            &ToDirector::OpenSessionIn { session, credential, published, settled, shape, domain } => {
                let (shape, domain) = (shape.into(), domain.word());
                w.body(&wire::OpenSessionIn { session, credential, published, settled, shape, domain })
            }
            ToDirector::Explain { uid, gid, groups, service, operation, key } => w
                .body(&wire::Explain { uid: *uid, gid: *gid, groups: groups.len() as u32, reserved: 0 })
                .name(service)
                .name(operation)
                .items([(0, key.map_or(Resource::All, Resource::Key))])
                .ids(groups),
        }
        .end();
    }

    fn decode(bytes: &[u8]) -> Result<ToDirector, Fault> {
        let mut r = Reader::new(bytes)?;
        let message = match r.kind() {
            kind::HELLO => {
                let b: wire::Hello = r.body()?;
                r.magic(b.magic)?;
                let role = match b.role {
                    1 => Role::Client,
                    2 => Role::Worker,
                    3 => Role::Monitor,
                    _ => return Err(r.fault("it has a role that does not exist")),
                };
                let wire::Hello { protocol, bus_id, monotonic_ns, .. } = b;
                ToDirector::Hello { protocol, role, bus_id, monotonic_ns }
            }
            kind::OPEN_SESSION => {
                let wire::OpenSession { session, credential, published, settled, shape } = r.body()?;
                let shape = r.session_shape(shape)?;
                ToDirector::OpenSession { session, credential, published, settled, shape }
            }
            kind::OPEN_ROUTE => {
                let b: wire::OpenRoute = r.body()?;
                ToDirector::OpenRoute { route: b.route, service: r.name()?, operation: r.name()? }
            }
            kind::OPEN_WORKER => {
                let wire::OpenWorker { worker, credential, taken, slots, holds } = r.body()?;
                let (holds, shape) = (holds != 0, r.work_shape(slots)?);
                ToDirector::OpenWorker { worker, credential, taken, holds, shape }
            }
            kind::PROVIDE => {
                let wire::Provide { first, count, .. } = r.body()?;
                if first.checked_add(count).is_none() {
                    return Err(r.fault("its operations have numbers that are too large"));
                }
                let (service, operations) = (r.name()?, r.names(count)?);
                if twin(&operations).is_some() {
                    return Err(r.fault("it names an operation twice"));
                }
                ToDirector::Provide { service, first, operations }
            }
            kind::WITHDRAW => ToDirector::Withdraw { service: r.name()? },
            kind::SESSION_MAPPED => {
                let wire::SessionMapped { index, accepted, .. } = r.body()?;
                ToDirector::SessionMapped { index, accepted: accepted != 0 }
            }
            kind::SESSION_UNMAPPED => {
                let wire::SessionIndex { index, .. } = r.body()?;
                ToDirector::SessionUnmapped { index }
            }
            kind::LEAVE => {
                let wire::Leave { taken } = r.body()?;
                ToDirector::Leave { taken }
            }
            kind::INSPECT => ToDirector::Inspect,
            kind::REPUBLISHED => ToDirector::Republished,
            kind::NAME_KEY => ToDirector::NameKey { name: r.name()? },
            kind::REGISTER => {
                let wire::Register { first, operations, policy, unheld, resources, stall_ms, idempotent } =
                    r.body()?;
                if first.checked_add(operations).is_none() {
                    return Err(r.fault("its operations have numbers that are too large"));
                }
                // A policy that does not exist is none, and then the message means other bytes than it has.
                let (policy, unheld) = (Policy::from_number(policy), Unheld::from_number(unheld));
                let (service, operations) = (r.name()?, r.names(operations)?);
                let resources = r.items(resources)?.into_iter().map(|(_, resource)| resource).collect();
                let stall = match stall_ms {
                    0 => None,
                    u32::MAX => Some(Duration::MAX),
                    ms => Some(Duration::from_millis(ms.into())),
                };
                let marked = |i: usize| i < 64 && idempotent >> i & 1 == 1;
                let marked = operations.iter().enumerate().filter(|&(i, _)| marked(i));
                let idempotent = marked.map(|(_, name)| name.as_str().to_owned()).collect();
                let options = ServiceOptions { resources, policy, unheld, stall, idempotent };
                ToDirector::Register { service, first, operations, options }
            }
            kind::CHANGE => {
                let wire::Change { count, .. } = r.body()?;
                let service = r.name()?;
                let items = r.items(count)?.into_iter();
                let changes = items.map(|(action, resource)| Some((Action::from_number(action)?, resource)));
                let Some(changes) = changes.collect() else {
                    return Err(r.fault("it has an action that does not exist"));
                };
                ToDirector::Change { service, changes }
            }
            kind::YIELDED => ToDirector::Yielded { service: r.name()?, resource: r.item()?.1 },
            kind::DRAIN => {
                let wire::Drain { worker } = r.body()?;
                ToDirector::Drain { worker }
            }
            kind::OPEN_SESSION_IN => {
                let wire::OpenSessionIn { session, credential, published, settled, shape, domain } =
                    r.body()?;
                let (shape, domain) = (r.session_shape(shape)?, Domain::from_word(domain));
                ToDirector::OpenSessionIn { session, credential, published, settled, shape, domain }
            }
            kind::EXPLAIN => {
                let wire::Explain { uid, gid, groups, .. } = r.body()?;
                let (service, operation) = (r.name()?, r.name()?);
                let key = match r.item()?.1 {
                    Resource::All => None,
                    Resource::Key(key) => Some(key),
                    _ => return Err(r.fault("a request is on one key, or on none")),
                };
                let count = u16::try_from(groups).ok().filter(|&n| n as usize <= limits::EXPLAIN_GROUPS_MAX);
                let Some(count) = count else { return Err(r.fault("it has too many groups")) };
                let groups = r.ids(count)?;
                if groups.iter().any(|&group| group > u64::from(u32::MAX)) {
                    return Err(r.fault("it has a group that can't be"));
                }
                ToDirector::Explain { uid, gid, groups, service, operation, key }
            }
            kind::RELOAD => ToDirector::Reload,
            kind::REPLACE => ToDirector::Replace,
            _ => return Err(r.fault("no such message goes to a director")),
        };
        r.end(message)
    }
}

impl Message for FromDirector {
    fn kind(&self) -> u32 {
        match self {
            FromDirector::Welcome { .. } => kind::WELCOME,
            FromDirector::Refused { .. } => kind::REFUSED,
            FromDirector::SessionOpened { .. } => kind::SESSION_OPENED,
            FromDirector::RouteOpened { .. } => kind::ROUTE_OPENED,
            FromDirector::WorkerOpened { .. } => kind::WORKER_OPENED,
            FromDirector::Provided { .. } => kind::PROVIDED,
            FromDirector::MapSession { .. } => kind::MAP_SESSION,
            FromDirector::UnmapSession { .. } => kind::UNMAP_SESSION,
            FromDirector::Left => kind::LEFT,
            FromDirector::Closing => kind::CLOSING,
            FromDirector::ServiceRow { .. } => kind::SERVICE_ROW,
            FromDirector::WorkerRow { .. } => kind::WORKER_ROW,
            FromDirector::SessionRow { .. } => kind::SESSION_ROW,
            FromDirector::InspectEnd { .. } => kind::INSPECT_END,
            FromDirector::KeyNamed { .. } => kind::KEY_NAMED,
            FromDirector::Granted { .. } => kind::GRANTED,
            FromDirector::Recalled { .. } => kind::RECALLED,
            FromDirector::Draining { .. } => kind::DRAINING,
            FromDirector::RouteElsewhere { .. } => kind::ROUTE_ELSEWHERE,
            FromDirector::DenialRow { .. } => kind::DENIAL_ROW,
            FromDirector::ExplainRow { .. } => kind::EXPLAIN_ROW,
            FromDirector::ExplainEnd { .. } => kind::EXPLAIN_END,
            FromDirector::Reloaded { .. } => kind::RELOADED,
            FromDirector::HandOver => kind::HAND_OVER,
        }
    }

    fn descriptors(kind: u32) -> usize {
        match kind {
            kind::SESSION_OPENED | kind::HAND_OVER => 1,
            kind::WORKER_OPENED => 2,
            kind::MAP_SESSION => 3,
            _ => 0,
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let w = Writer::new(out, self.kind());
        match self {
            &FromDirector::Welcome { protocol, bus_id, epoch, pid, monotonic_ns } => {
                w.body(&wire::Welcome { magic: MAGIC, protocol, pid, bus_id, epoch, monotonic_ns })
            }
            FromDirector::Refused { status, protocol, message } => w
                .body(&wire::Refused { magic: MAGIC, status: *status as u32, protocol: *protocol })
                .text(message),
            &FromDirector::SessionOpened { session, credential } => {
                w.body(&wire::Identity { id: session, credential })
            }
            FromDirector::RouteOpened { route, status, message } => {
                w.body(&wire::RouteOpened { route: *route, status: *status as u32 }).text(message)
            }
            &FromDirector::WorkerOpened { worker, credential, start } => {
                w.body(&wire::WorkerOpened { identity: wire::Identity { id: worker, credential }, start })
            }
            FromDirector::Provided { status, message } => {
                w.body(&wire::Provided { status: *status as u32, reserved: 0 }).text(message)
            }
            &FromDirector::MapSession { index, session, shape, uid, gid, pid } => {
                let (shape, reserved, reserved_2) = (shape.into(), [0; 3], 0);
                w.body(&wire::MapSession { index, reserved, session, shape, uid, gid, pid, reserved_2 })
            }
            &FromDirector::UnmapSession { index } => w.body(&wire::SessionIndex { index, reserved: [0; 3] }),
            FromDirector::Left | FromDirector::Closing | FromDirector::HandOver => w,
            FromDirector::ServiceRow { service, operations, workers, waiting } => w
                .body(&wire::ServiceRow {
                    waiting: *waiting,
                    operations: operations.len() as u16,
                    workers: workers.len() as u16,
                    reserved: 0,
                })
                .name(service)
                .names(operations)
                .ids(workers),
            &FromDirector::WorkerRow { worker, uid, gid, pid, in_flight, completed, sessions, share } => {
                w.body(&wire::WorkerRow { worker, uid, gid, pid, in_flight, completed, sessions, share })
            }
            &FromDirector::SessionRow { session, uid, gid, pid, open, waiting, calls, hot } => {
                w.body(&wire::SessionRow { session, uid, gid, pid, open, waiting, calls, hot: hot.into() })
            }
            &FromDirector::InspectEnd { calls, ended, faults } => {
                w.body(&wire::InspectEnd { calls, ended, faults })
            }
            &FromDirector::KeyNamed { status, word } => {
                w.body(&wire::KeyNamed { status: status as u32, reserved: 0, word })
            }
            FromDirector::Granted { sequence, service, resource } => {
                w.body(&wire::Right { sequence: *sequence, before: 0 }).name(service).items([(0, *resource)])
            }
            FromDirector::Recalled { sequence, service, resource, before } => w
                .body(&wire::Right { sequence: *sequence, before: *before })
                .name(service)
                .items([(0, *resource)]),
            &FromDirector::Draining { sequence, before } => w.body(&wire::Right { sequence, before }),
            &FromDirector::RouteElsewhere { route, domain } => {
                w.body(&wire::RouteElsewhere { route, reserved: 0, domain: domain.word() })
            }
            FromDirector::DenialRow { count, denial } => w
                .body(&wire::DenialRow { count: *count, uid: denial.uid, verb: denial.verb as u32 })
                .text(&denial.service)
                .text(&denial.operation)
                .text(&denial.origin),
            FromDirector::ExplainRow { topic, worker, text, origin } => w
                .body(&wire::ExplainRow { worker: *worker, topic: *topic as u32, reserved: 0 })
                .text(text)
                .text(origin),
            FromDirector::ExplainEnd { status, worker, text } => {
                w.body(&wire::ExplainEnd { worker: *worker, status: *status as u32, reserved: 0 }).text(text)
            }
            FromDirector::Reloaded { applied, message } => {
                w.body(&wire::Reloaded { applied: (*applied).into(), reserved: 0 }).text(message)
            }
        }
        .end();
    }

    fn decode(bytes: &[u8]) -> Result<FromDirector, Fault> {
        let mut r = Reader::new(bytes)?;
        let message = match r.kind() {
            kind::WELCOME => {
                let wire::Welcome { magic, protocol, pid, bus_id, epoch, monotonic_ns } = r.body()?;
                r.magic(magic)?;
                FromDirector::Welcome { protocol, bus_id, epoch, pid, monotonic_ns }
            }
            kind::REFUSED => {
                let wire::Refused { magic, status, protocol } = r.body()?;
                r.magic(magic)?;
                FromDirector::Refused { status: r.status(status)?, protocol, message: r.text()? }
            }
            kind::SESSION_OPENED => {
                let wire::Identity { id: session, credential } = r.body()?;
                FromDirector::SessionOpened { session, credential }
            }
            kind::ROUTE_OPENED => {
                let wire::RouteOpened { route, status } = r.body()?;
                FromDirector::RouteOpened { route, status: r.status(status)?, message: r.text()? }
            }
            kind::WORKER_OPENED => {
                let wire::WorkerOpened { identity, start } = r.body()?;
                FromDirector::WorkerOpened { worker: identity.id, credential: identity.credential, start }
            }
            kind::PROVIDED => {
                let b: wire::Provided = r.body()?;
                FromDirector::Provided { status: r.status(b.status)?, message: r.text()? }
            }
            kind::MAP_SESSION => {
                let wire::MapSession { index, session, shape, uid, gid, pid, .. } = r.body()?;
                FromDirector::MapSession { index, session, shape: r.session_shape(shape)?, uid, gid, pid }
            }
            kind::UNMAP_SESSION => {
                let wire::SessionIndex { index, .. } = r.body()?;
                FromDirector::UnmapSession { index }
            }
            kind::LEFT => FromDirector::Left,
            kind::HAND_OVER => FromDirector::HandOver,
            kind::CLOSING => FromDirector::Closing,
            kind::SERVICE_ROW => {
                let b: wire::ServiceRow = r.body()?;
                FromDirector::ServiceRow {
                    service: r.name()?,
                    operations: r.names(b.operations)?,
                    workers: r.ids(b.workers)?,
                    waiting: b.waiting,
                }
            }
            kind::WORKER_ROW => {
                let wire::WorkerRow { worker, uid, gid, pid, in_flight, completed, sessions, share } =
                    r.body()?;
                FromDirector::WorkerRow { worker, uid, gid, pid, in_flight, completed, sessions, share }
            }
            kind::SESSION_ROW => {
                let wire::SessionRow { session, uid, gid, pid, open, calls, waiting, hot } = r.body()?;
                FromDirector::SessionRow { session, uid, gid, pid, open, waiting, calls, hot: hot != 0 }
            }
            kind::INSPECT_END => {
                let wire::InspectEnd { calls, ended, faults } = r.body()?;
                FromDirector::InspectEnd { calls, ended, faults }
            }
            kind::KEY_NAMED => {
                let wire::KeyNamed { status, word, .. } = r.body()?;
                FromDirector::KeyNamed { status: r.status(status)?, word }
            }
            kind::GRANTED => {
                let wire::Right { sequence, .. } = r.body()?;
                FromDirector::Granted { sequence, service: r.name()?, resource: r.item()?.1 }
            }
            kind::RECALLED => {
                let wire::Right { sequence, before } = r.body()?;
                FromDirector::Recalled { sequence, service: r.name()?, resource: r.item()?.1, before }
            }
            kind::DRAINING => {
                let wire::Right { sequence, before } = r.body()?;
                FromDirector::Draining { sequence, before }
            }
            kind::ROUTE_ELSEWHERE => {
                let wire::RouteElsewhere { route, domain, .. } = r.body()?;
                FromDirector::RouteElsewhere { route, domain: Domain::from_word(domain) }
            }
            kind::DENIAL_ROW => {
                let wire::DenialRow { count, uid, verb } = r.body()?;
                let Some(verb) = u16::try_from(verb).ok().and_then(Verb::from_number) else {
                    return Err(r.fault("nobody can be refused that"));
                };
                let (service, operation, origin) = (r.text()?, r.text()?, r.text()?);
                FromDirector::DenialRow { count, denial: Denial { uid, verb, service, operation, origin } }
            }
            kind::EXPLAIN_ROW => {
                let wire::ExplainRow { worker, topic, .. } = r.body()?;
                let Some(topic) = u16::try_from(topic).ok().and_then(Topic::from_number) else {
                    return Err(r.fault("it is about nothing that there is"));
                };
                FromDirector::ExplainRow { topic, worker, text: r.text()?, origin: r.text()? }
            }
            kind::EXPLAIN_END => {
                let wire::ExplainEnd { worker, status, .. } = r.body()?;
                FromDirector::ExplainEnd { status: r.status(status)?, worker, text: r.text()? }
            }
            kind::RELOADED => {
                let wire::Reloaded { applied, .. } = r.body()?;
                FromDirector::Reloaded { applied: applied != 0, message: r.text()? }
            }
            _ => return Err(r.fault("no such message comes from a director")),
        };
        r.end(message)
    }
}

/// Which of the operations are among the idempotent ones: bit i for the i-th.
fn idempotent_mask(operations: &[Name], idempotent: &[String]) -> u64 {
    let is_one = |name: &Name| idempotent.iter().any(|one| one == name.as_str());
    let marked = operations.iter().enumerate().filter(|(_, name)| is_one(name));
    marked.fold(0, |mask, (i, _)| mask | 1 << (i & 63))
}

const _: () = assert!(crate::limits::OPERATIONS_MAX <= 64, "a bit for each operation");

#[cfg(test)]
#[path = "coding_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "protocol_tests.rs"]
mod protocol;
