//! The resource table: who provides which operation of which service.
//!
//! ```text
//! name ─► service ─► operations ─► providers (worker, the worker's own number for it)
//!                         └─────► routes that wait their turn
//! ```
//! Plain data in the director's private memory. Workers come and go and clients are told nothing: a route names an
//! operation, and the operation's providers are looked up for each call. A service is forgotten when no worker
//! provides it and no route leads to it.

use std::collections::{HashMap, VecDeque};

use slab::Slab;

use crate::error::Status;
use crate::limits;

/// A worker that provides an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Provider {
    /// The worker's key in the director.
    pub worker: usize,
    /// What the worker calls the operation.
    pub number: u16,
}

/// An operation of a service.
#[derive(Debug)]
pub struct Operation {
    /// Its own key.
    pub key: usize,
    /// The service's key.
    pub service: usize,
    /// The operation's name.
    pub name: Box<str>,
    /// Who provides it, in the order in which they came.
    pub providers: Vec<Provider>,
    /// Routes with calls that wait, as (session, route): each in its turn gives one call.
    pub turns: VecDeque<(usize, u32)>,
    routes: u32,
}

/// A service.
#[derive(Debug)]
pub struct Service {
    /// Its name.
    pub name: Box<str>,
    /// Its operations' keys.
    pub operations: Vec<usize>,
}

/// The table.
#[derive(Debug, Default)]
pub struct Table {
    names: HashMap<Box<str>, usize>,
    services: Slab<Service>,
    operations: Slab<Operation>,
}

impl Table {
    /// A worker provides a service from now on, with these operations, which it numbers from `first` on. What it
    /// provided of that service before is replaced, in one step. Nothing changes if it is refused.
    pub fn provide(
        &mut self,
        worker: usize,
        service: &str,
        first: u16,
        operations: &[&str],
    ) -> Result<(), Status> {
        if !self.names.contains_key(service) && self.services.len() >= limits::SERVICES_MAX {
            return Err(Status::Busy);
        }
        let service = self.service_or_new(service);
        self.remove_provider(service, worker);
        for (i, name) in operations.iter().enumerate() {
            let key = self.operation_or_new(service, name);
            self.operations[key].providers.push(Provider { worker, number: first + i as u16 });
        }
        self.forget_unused(service);
        Ok(())
    }

    fn service_or_new(&mut self, name: &str) -> usize {
        if let Some(&key) = self.names.get(name) {
            return key;
        }
        let key = self.services.insert(Service { name: name.into(), operations: Vec::new() });
        self.names.insert(name.into(), key);
        key
    }

    fn operation_or_new(&mut self, service: usize, name: &str) -> usize {
        self.operation_of(service, name).unwrap_or_else(|| {
            let entry = self.operations.vacant_entry();
            let key = entry.key();
            let (providers, turns) = (Vec::new(), VecDeque::new());
            entry.insert(Operation { key, service, name: name.into(), providers, turns, routes: 0 });
            self.services[service].operations.push(key);
            key
        })
    }

    /// A worker provides a service no more. Returns whether it did.
    pub fn withdraw(&mut self, worker: usize, service: &str) -> bool {
        let Some(&key) = self.names.get(service) else { return false };
        let did = self.remove_provider(key, worker);
        self.forget_unused(key);
        did
    }

    /// A worker provides nothing any more.
    pub fn remove_worker(&mut self, worker: usize) {
        let keys: Vec<usize> = self.services.iter().map(|(key, _)| key).collect();
        for key in keys {
            if self.remove_provider(key, worker) {
                self.forget_unused(key);
            }
        }
    }

    fn remove_provider(&mut self, service: usize, worker: usize) -> bool {
        let mut did = false;
        for &key in &self.services[service].operations {
            let providers = &mut self.operations[key].providers;
            let before = providers.len();
            providers.retain(|p| p.worker != worker);
            did |= providers.len() < before;
        }
        did
    }

    /// Forgets operations that nobody provides and no route leads to, and the service with its last one.
    fn forget_unused(&mut self, service: usize) {
        let operations = &mut self.operations;
        self.services[service].operations.retain(|&key| {
            let used = operations[key].routes > 0 || !operations[key].providers.is_empty();
            if !used {
                operations.remove(key);
            }
            used
        });
        if self.services[service].operations.is_empty() {
            let gone = self.services.remove(service);
            self.names.remove(&gone.name);
        }
    }

    fn operation_of(&self, service: usize, name: &str) -> Option<usize> {
        self.services[service].operations.iter().copied().find(|&key| &*self.operations[key].name == name)
    }

    /// Opens a route: finds the operation, and holds it until `close_route`.
    pub fn open_route(&mut self, service: &str, operation: &str) -> Result<usize, Status> {
        let &service = self.names.get(service).ok_or(Status::NoSuchService)?;
        let key = self.operation_of(service, operation).ok_or(Status::NoSuchOperation)?;
        self.operations[key].routes += 1;
        Ok(key)
    }

    /// Whether a route's operation is the one of these names.
    pub fn leads_to(&self, key: usize, service: &str, operation: &str) -> bool {
        let found = &self.operations[key];
        &*found.name == operation && &*self.services[found.service].name == service
    }

    /// Opens a route to an operation that nobody provides yet.
    pub fn expect_route(&mut self, service: &str, operation: &str) -> usize {
        let service_key = self.service_or_new(service);
        let key = self.operation_or_new(service_key, operation);
        self.operations[key].routes += 1;
        key
    }

    /// Lets go of an operation.
    pub fn close_route(&mut self, operation: usize) {
        self.operations[operation].routes -= 1;
        self.forget_unused(self.operations[operation].service);
    }

    /// Whether the key is an operation's.
    pub fn has_operation(&self, key: usize) -> bool {
        self.operations.contains(key)
    }

    /// An operation that a route holds.
    #[inline]
    pub fn operation(&self, key: usize) -> &Operation {
        &self.operations[key]
    }

    /// The same, to change its turns.
    #[inline]
    pub fn operation_mut(&mut self, key: usize) -> &mut Operation {
        &mut self.operations[key]
    }

    /// How many services there are.
    pub fn services_len(&self) -> usize {
        self.services.len()
    }

    /// All services with their operations.
    pub fn services(&self) -> impl Iterator<Item = (&Service, Vec<&Operation>)> {
        self.services
            .iter()
            .map(|(_, s)| (s, s.operations.iter().map(|&key| &self.operations[key]).collect()))
    }
}
