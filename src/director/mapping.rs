//! Which workers know a session: each is told to map its memory before it can be given the session's calls.
//!
//! ```text
//!   None ── ask_to_map ──► Asked ── session_mapped ──► Open ── the session goes ──► Closing ── unmapped ──► None
//!                            └──── it could not ──► Refused ── after a while, for a call ──► Asked
//! ```
//! One worker that knows a session is enough to serve it. So the first is asked at once, when a route opens, and the
//! others as fast as they answer; but not while many sessions come back to a new director: who has been waiting is
//! served first. A session meets the others later, with a call for which those that know it are not idle.

use super::core::{DirectorCore, Effects};
use super::session::{Mapping, Session};
use super::worker::Worker;
use crate::core::Memory;
use crate::resource::Key;

/// Sessions that a worker may be mapping at a time, of such as another worker serves meanwhile: what stands in its ring
/// waits for that.
const ASKED_MAX: u32 = 4;

/// Whether a session's calls can go to a worker.
pub(super) enum Reach {
    /// Under this index.
    Now(u16),
    /// When it has mapped the session.
    Soon,
    /// When it has been [introduced](DirectorCore::introduce).
    Unknown,
    /// Not.
    Never,
}

/// Whether the workers that refused a session are asked again for a call: all of them or none.
pub(super) struct Asking {
    now_ns: u64,
    again: Option<bool>,
}

impl Asking {
    /// Once in a while.
    pub fn new(now_ns: u64) -> Self {
        Asking { now_ns, again: None }
    }

    /// They are.
    pub fn again() -> Self {
        Asking { now_ns: 0, again: Some(true) }
    }
}

/// Whether a worker knows a session.
#[inline]
pub(super) fn reach<M: Memory>(
    session: &mut Session<M>,
    worker: &Worker<M>,
    worker_key: usize,
    asking: &mut Asking,
) -> Reach {
    // Whoever serves a session can spoil its replies: it is seen by the workers of its own domain only.
    if worker.domain != session.domain {
        return Reach::Never;
    }
    match session.mapping(worker_key) {
        Mapping::Open(index) => Reach::Now(index),
        Mapping::Refused if !*asking.again.get_or_insert_with(|| session.is_time_to_ask(asking.now_ns)) => {
            Reach::Never
        }
        Mapping::None | Mapping::Refused => Reach::Unknown,
        Mapping::Asked(_) | Mapping::Closing(_) => Reach::Soon,
    }
}

/// The same for the one worker that a call must go to: it is asked at once.
pub(super) fn reach_only<M: Memory>(
    session: &mut Session<M>,
    key: usize,
    worker: &mut Worker<M>,
    worker_key: usize,
    asking: &mut Asking,
    fx: &mut impl Effects,
) -> Reach {
    match reach(session, worker, worker_key, asking) {
        Reach::Unknown if ask_to_map(session, key, worker, worker_key, fx) => Reach::Soon,
        Reach::Unknown => Reach::Never,
        known => known,
    }
}

/// Asks a worker to map a session. Returns whether there is hope that it will.
fn ask_to_map<M: Memory>(
    session: &mut Session<M>,
    key: usize,
    worker: &mut Worker<M>,
    worker_key: usize,
    fx: &mut impl Effects,
) -> bool {
    let Some(index) = worker.know(key) else {
        session.set_mapping(worker_key, Mapping::Refused);
        return false;
    };
    session.set_mapping(worker_key, Mapping::Asked(index));
    worker.asked += 1;
    fx.map_session(worker_key, index, key);
    true
}

impl<M: Memory> DirectorCore<M> {
    /// Tells workers that may do an operation, on `resource` where that says anything, to map a session: one, if none
    /// does it yet, and whoever else has time for that now. Returns whether there is one that has mapped it or will.
    #[cold]
    pub(super) fn introduce(
        &mut self,
        operation: usize,
        key: usize,
        resource: Option<Key>,
        asking: &mut Asking,
        fx: &mut impl Effects,
    ) -> bool {
        let (rush, mut met) = (self.recovery.is_rush(fx.clock_ns()), false);
        let session = &mut self.sessions[key];
        let mut least: Option<(usize, usize)> = None;
        for provider in &self.table.operation(operation).providers {
            let covers = resource.is_none_or(|resource| self.table.covers(provider, resource));
            let Some(worker) = self.workers.get_mut(provider.worker).filter(|w| covers && w.is_serving())
            else {
                continue;
            };
            match reach(session, worker, provider.worker, asking) {
                Reach::Now(_) | Reach::Soon => met = true,
                Reach::Never => {}
                Reach::Unknown if !rush && worker.asked < ASKED_MAX => {
                    met |= ask_to_map(session, key, worker, provider.worker, fx);
                }
                Reach::Unknown if least.is_none_or(|(sessions, _)| worker.sessions() < sessions) => {
                    least = Some((worker.sessions(), provider.worker));
                }
                Reach::Unknown => {}
            }
        }
        if !met && let Some((_, worker_key)) = least {
            return ask_to_map(session, key, &mut self.workers[worker_key], worker_key, fx);
        }
        met
    }

    /// A worker's answer to `map_session`.
    pub fn session_mapped(&mut self, worker: usize, index: u16, accepted: bool, fx: &mut impl Effects) {
        let Some((key, w)) = self.known(worker, index, Mapping::Asked(index)) else { return };
        w.asked -= 1;
        if !accepted {
            w.forget(index);
            self.sessions[key].set_mapping(worker, Mapping::Refused);
        } else if self.sessions[key].retired {
            self.sessions[key].set_mapping(worker, Mapping::Closing(index));
            fx.unmap_session(worker, index);
        } else {
            self.sessions[key].set_mapping(worker, Mapping::Open(index));
        }
        self.forget_session_if_unmapped(key, fx);
    }

    /// A worker's answer to `unmap_session`.
    pub fn session_unmapped(&mut self, worker: usize, index: u16, fx: &mut impl Effects) {
        let Some((key, w)) = self.known(worker, index, Mapping::Closing(index)) else { return };
        w.forget(index);
        self.sessions[key].set_mapping(worker, Mapping::None);
        self.forget_session_if_unmapped(key, fx);
    }

    /// The session that a worker knows under an index, if it is this to it: a worker may answer what nobody asked.
    fn known(&mut self, worker: usize, index: u16, mapping: Mapping) -> Option<(usize, &mut Worker<M>)> {
        let w = self.workers.get_mut(worker)?;
        let key = w.session(index)?;
        (self.sessions.get(key)?.mapping(worker) == mapping).then_some((key, w))
    }
}
