//! What the director tells about itself, on request.

use super::core::DirectorCore;
use crate::access::Denial;
use crate::core::Memory;
use crate::identity::Identity;

/// A service, as its users and providers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceInfo {
    /// Its name.
    pub name: String,
    /// Its operations' names.
    pub operations: Vec<String>,
    /// Ids of the workers that provide any of them.
    pub workers: Vec<u64>,
    /// Calls that wait for one of them.
    pub waiting: u64,
}

/// A worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerInfo {
    /// Its id.
    pub id: u64,
    /// Whose process it is.
    pub identity: Identity,
    /// Calls in its hands.
    pub in_flight: u64,
    /// Calls it has answered.
    pub completed: u64,
    /// Sessions that it has mapped.
    pub sessions: u32,
    /// Calls that it may have in its hands now.
    pub share: u64,
}

/// A session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// Its id.
    pub id: u64,
    /// Whose process it is.
    pub identity: Identity,
    /// Routes that it has opened.
    pub routes: u32,
    /// Its calls that wait for a worker.
    pub waiting: u32,
    /// Calls that it has made.
    pub calls: u64,
    /// Whether it is polled; else its next call rings.
    pub hot: bool,
}

/// All that is attached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inspection {
    /// By name.
    pub services: Vec<ServiceInfo>,
    /// By id.
    pub workers: Vec<WorkerInfo>,
    /// By id.
    pub sessions: Vec<SessionInfo>,
    /// Calls given to workers.
    pub dispatched: u64,
    /// Calls ended by the director.
    pub refused: u64,
    /// Peers disconnected because they broke the protocol.
    pub faults: u64,
    /// What the rules refused, by cause, and how often: the most frequent first.
    pub denied: Vec<(Denial, u64)>,
}

impl<M: Memory> DirectorCore<M> {
    /// Everything that is attached, now.
    pub fn inspect(&mut self, now_ns: u64) -> Inspection {
        self.workers.iter_mut().for_each(|(_, worker)| worker.look(now_ns));
        let mut services: Vec<ServiceInfo> = self.table.services().map(|s| self.service_info(s)).collect();
        services.sort_by(|a, b| a.name.cmp(&b.name));
        let workers = self.workers.iter().map(|(_, w)| WorkerInfo {
            id: w.id,
            identity: w.identity,
            in_flight: w.in_flight(),
            completed: w.completed(),
            sessions: w.sessions() as u32,
            share: w.share(),
        });
        let sessions = self.sessions.iter().filter(|(_, s)| !s.retired).map(|(_, s)| SessionInfo {
            id: s.id,
            identity: s.identity,
            routes: s.routes.iter().flatten().count() as u32,
            waiting: s.waiting,
            calls: s.calls,
            hot: s.hot,
        });
        let (mut workers, mut sessions): (Vec<_>, Vec<_>) = (workers.collect(), sessions.collect());
        workers.sort_by_key(|w| w.id);
        sessions.sort_by_key(|s| s.id);
        let (dispatched, refused) = (self.dispatched, self.refused);
        Inspection { services, workers, sessions, dispatched, refused, faults: 0, denied: self.denials() }
    }

    fn service_info(
        &self,
        (service, operations): (&super::table::Service, Vec<&super::table::Operation>),
    ) -> ServiceInfo {
        let providers = operations.iter().flat_map(|o| &o.providers);
        let mut workers: Vec<u64> =
            providers.filter_map(|p| self.workers.get(p.worker)).map(|w| w.id).collect();
        workers.sort_unstable();
        workers.dedup();
        let routes = |key: usize| operations.iter().any(|o| o.key == key);
        let waiting = self.sessions.iter().flat_map(|(_, s)| s.routes.iter().flatten());
        ServiceInfo {
            name: service.name.to_string(),
            operations: operations.iter().map(|o| o.name.to_string()).collect(),
            workers,
            waiting: waiting.filter(|r| routes(r.operation)).map(|r| u64::from(r.waiting)).sum(),
        }
    }
}
