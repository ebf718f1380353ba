//! Keys, resources, what can be chosen for a service, and events, as C has them.

use std::ffi::c_char;
use std::time::Duration;

use trine::{Changes, Key, Policy, Resource, ServiceOptions, Unheld};

use crate::input;
use crate::status::{Failure, Outcome};
use crate::types::{TRINE_FOREVER, trine_key};

/// trine_key.kind, trine_resource.kind: a number. A resource's is `first`.
pub const TRINE_NUMBER: u32 = 1;
/// trine_key.kind, trine_resource.kind: a name. A resource's is the key's word, as `first`.
pub const TRINE_NAME: u32 = 2;
/// trine_resource.kind: the numbers from `first` to `last`, both included.
pub const TRINE_RANGE: u32 = 3;
/// trine_resource.kind: share `first` of `last`, by a hash of the key.
pub const TRINE_SHARE: u32 = 4;
/// trine_resource.kind: all that there are.
pub const TRINE_ALL: u32 = 5;

/// Resources of a service.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct trine_resource {
    /// TRINE_NUMBER, TRINE_NAME, TRINE_RANGE, TRINE_SHARE or TRINE_ALL.
    pub kind: u32,
    /// 0.
    pub reserved: u32,
    /// As the kind says.
    pub first: u64,
    /// As the kind says; of a kind that has no use for it, ignored.
    pub last: u64,
}

/// trine_service_options.policy: join the shortest of bounded queues; the best tail where calls take unevenly long.
pub const TRINE_JBSQ: u32 = 1;
/// trine_service_options.policy: each worker in its turn.
pub const TRINE_ROUND_ROBIN: u32 = 2;
/// trine_service_options.policy: calls on the same key go to the same worker, unless it has far more to do.
pub const TRINE_AFFINITY: u32 = 3;
/// trine_service_options.policy: whoever has the fewest calls in its hands.
pub const TRINE_LEAST_OUTSTANDING: u32 = 4;

/// trine_service_options.unheld: a call on a resource that nobody holds waits for a holder.
pub const TRINE_UNHELD_WAIT: u32 = 1;
/// trine_service_options.unheld: it ends with TRINE_NOT_HELD, not run.
pub const TRINE_UNHELD_ERROR: u32 = 2;
/// trine_service_options.unheld: the worker with the fewest calls in its hands is made the holder.
pub const TRINE_UNHELD_OFFER: u32 = 3;

/// What can be chosen when a worker provides a service; 0 is the default of each. The policy, and what an unheld
/// resource means, hold for all workers of the service: the one who says so last decides.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct trine_service_options {
    /// sizeof(trine_service_options).
    pub size: u32,
    /// 0.
    pub flags: u32,
    /// TRINE_JBSQ, and so on.
    pub policy: u32,
    /// TRINE_UNHELD_…: makes the resources exclusive. A call with a key goes to the key's holder alone.
    pub unheld: u32,
    /// What this worker speaks for; NULL is all of it.
    pub resources: *const trine_resource,
    /// How many, up to 128: trine_change() adds more.
    pub resource_count: u64,
    /// Operations that may run more than once, a bit for each place in the list of operations (1 is the first): a call
    /// of one whose worker died after it had begun runs again at another one, three times in all at most.
    pub idempotent: u64,
    /// How long a worker that has one of its calls in its hands may show no sign of life before they end with
    /// TRINE_MAY_HAVE_RUN, in whole milliseconds, rounded down, at least one. 0: what the director says, 30 s.
    /// TRINE_FOREVER: for ever. Of all services of a worker the most patient one decides.
    pub stall_ns: i64,
}

/// trine_step.action: the worker speaks for it from now on.
pub const TRINE_DECLARE: u32 = 1;
/// trine_step.action: no more; named exactly as it was declared.
pub const TRINE_WITHDRAW: u32 = 2;
/// trine_step.action: the worker asks for the exclusive right.
pub const TRINE_ACQUIRE: u32 = 3;
/// trine_step.action: it gives the right back.
pub const TRINE_RELEASE: u32 = 4;

/// One step of a trine_change().
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct trine_step {
    /// TRINE_DECLARE, TRINE_WITHDRAW, TRINE_ACQUIRE or TRINE_RELEASE.
    pub action: u32,
    /// 0.
    pub reserved: u32,
    /// Of what.
    pub resource: trine_resource,
}

/// trine_event.kind: the worker holds the exclusive right from now on.
pub const TRINE_GAINED: u32 = 1;
/// trine_event.kind: it holds it no more once the callback has returned. No more calls on it will come. Be ready for
/// TRINE_ALL: who withdraws a service loses at once whatever it held of it, and is not told piece by piece.
pub const TRINE_LOST: u32 = 2;
/// trine_event.kind: it was asked to drain: what it was given it still serves, then trine_next() gives TRINE_DRAINED.
pub const TRINE_DRAINING: u32 = 3;

/// What a worker is told, between its requests. Kinds are appended, so be ready for one that you don't know.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct trine_event {
    /// sizeof(trine_event), as the library has it.
    pub size: u32,
    /// TRINE_GAINED, TRINE_LOST, TRINE_DRAINING.
    pub kind: u32,
    /// Of which service; NULL where it is about none. Valid until the callback returns.
    pub service: *const c_char,
    /// Of what; of a TRINE_LOST also TRINE_ALL.
    pub resource: trine_resource,
    /// 0.
    pub reserved: [u64; 2],
}

/// A key as C has said it; `None` for no key.
pub(crate) fn key(key: trine_key) -> Outcome<Option<Key>> {
    match key {
        trine_key { word: 0, kind: 0, reserved: 0 } => Ok(None),
        trine_key { word, kind: TRINE_NUMBER, reserved: 0 } => Ok(Some(Key::number(word))),
        trine_key { word, kind: TRINE_NAME, reserved: 0 } => Ok(Some(Key::from_word(word, true))),
        _ => Err(Failure::argument("a key is neither TRINE_NUMBER nor TRINE_NAME, nor all zeros")),
    }
}

impl From<Key> for trine_key {
    fn from(key: Key) -> trine_key {
        let kind = if key.is_name() { TRINE_NAME } else { TRINE_NUMBER };
        trine_key { word: key.word(), kind, reserved: 0 }
    }
}

/// Whether it means something is the library's to say.
pub(crate) fn resource(given: trine_resource) -> Outcome<Resource> {
    let small =
        |word: u64| u32::try_from(word).map_err(|_| Failure::argument("a share is one of 2^32 at most"));
    if given.reserved != 0 {
        return Err(Failure::argument("what is reserved of a resource is not 0"));
    }
    Ok(match given.kind {
        TRINE_NUMBER => Resource::Key(Key::number(given.first)),
        TRINE_NAME => Resource::Key(Key::from_word(given.first, true)),
        TRINE_RANGE => Resource::Range { first: given.first, last: given.last },
        TRINE_SHARE => Resource::Share { index: small(given.first)?, of: small(given.last)? },
        TRINE_ALL => Resource::All,
        other => return Err(Failure::argument(format!("a resource's kind is {other}, which is none"))),
    })
}

impl From<Resource> for trine_resource {
    fn from(resource: Resource) -> trine_resource {
        let (kind, first, last) = match resource {
            Resource::Key(key) => (trine_key::from(key).kind, key.word(), key.word()),
            Resource::Range { first, last } => (TRINE_RANGE, first, last),
            Resource::Share { index, of } => (TRINE_SHARE, u64::from(index), u64::from(of)),
            Resource::All => (TRINE_ALL, 0, 0),
        };
        trine_resource { kind, reserved: 0, first, last }
    }
}

/// What C has chosen for a service of these operations.
///
/// # Safety
/// The resources are NULL, or as many as it says.
pub(crate) unsafe fn service_options(
    given: &trine_service_options,
    operations: &[&str],
) -> Outcome<ServiceOptions> {
    if given.flags != 0 {
        return Err(Failure::argument("a flag of the service is not known"));
    }
    let is_marked =
        |place: usize| given.idempotent.checked_shr(place as u32).is_some_and(|bits| bits & 1 == 1);
    if (operations.len()..64).any(is_marked) {
        return Err(Failure::argument("an operation is said to be idempotent that is not in the list"));
    }
    let most = trine::limits::RESOURCES_PER_CHANGE;
    let count = usize::try_from(given.resource_count).unwrap_or(usize::MAX);
    // SAFETY: the caller's promise.
    let resources = unsafe { input::array(given.resources, count, most, "the resources")? };
    let resources = resources.iter().map(|&given| resource(given));
    let mut options = ServiceOptions::default().resources(resources.collect::<Outcome<Vec<_>>>()?);
    options.policy = match given.policy {
        0 => None,
        TRINE_JBSQ => Some(Policy::Jbsq),
        TRINE_ROUND_ROBIN => Some(Policy::RoundRobin),
        TRINE_AFFINITY => Some(Policy::Affinity),
        TRINE_LEAST_OUTSTANDING => Some(Policy::LeastOutstanding),
        other => return Err(Failure::argument(format!("the policy is {other}, which is none"))),
    };
    options.unheld = match given.unheld {
        0 => None,
        TRINE_UNHELD_WAIT => Some(Unheld::Wait),
        TRINE_UNHELD_ERROR => Some(Unheld::Error),
        TRINE_UNHELD_OFFER => Some(Unheld::Offer),
        other => return Err(Failure::argument(format!("unheld is {other}, which is none of TRINE_UNHELD_"))),
    };
    options.stall = match given.stall_ns {
        0 => None,
        TRINE_FOREVER => Some(Duration::MAX),
        1.. => Some(Duration::from_nanos(given.stall_ns as u64)),
        _ => return Err(Failure::argument("a stall limit is negative")),
    };
    let marked = operations.iter().enumerate().filter(|&(place, _)| is_marked(place));
    Ok(options.idempotent(marked.map(|(_, &name)| name)))
}

/// A change as C has said it.
pub(crate) fn changes(steps: &[trine_step]) -> Outcome<Changes> {
    steps.iter().try_fold(Changes::new(), |changes, step| {
        let resource = resource(step.resource)?;
        match step.action {
            _ if step.reserved != 0 => Err(Failure::argument("what is reserved of a step is not 0")),
            TRINE_DECLARE => Ok(changes.declare(resource)),
            TRINE_WITHDRAW => Ok(changes.withdraw(resource)),
            TRINE_ACQUIRE => Ok(changes.acquire(resource)),
            TRINE_RELEASE => Ok(changes.release(resource)),
            other => Err(Failure::argument(format!("a step's action is {other}, which is none"))),
        }
    })
}
