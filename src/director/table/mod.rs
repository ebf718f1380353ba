//! The resource table: who provides which operation of which service, on which resources; and who holds what.
//!
//! ```text
//! name ─► service ─► operations ─► providers (worker, the worker's own number for it, its scope)
//!            │            └─────► routes that wait their turn, by class
//!            └─ policy, what an unheld resource means          rights: key ─► holder
//! ```
//! Plain data in the director's private memory. Workers come and go and clients are told nothing: a route names an
//! operation, and the operation's providers are looked up for each call. A service is forgotten when no worker
//! provides it and no route leads to it.

pub mod rights;
pub mod scope;
mod singles;

use std::collections::{HashMap, VecDeque};

use slab::Slab;

use self::rights::{Holder, Rights, Span};
use self::scope::{Plan, Scope};
use crate::access::{Domain, ServiceRule};
use crate::error::Status;
use crate::limits;
use crate::resource::{Action, Key, Policy, Resource, ServiceOptions, Unheld};

/// Priority classes.
pub const CLASSES: usize = 3;
/// Calls of a class in a row, before one of a class below has its turn.
pub const CLASS_RUN: u32 = 8;

/// A worker that provides an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Provider {
    /// The worker's key in the director.
    pub worker: usize,
    /// What the worker calls the operation.
    pub number: u16,
    /// What it speaks for; `None` is everything.
    pub scope: Option<u32>,
    /// Whether it says that the operation may run more than once.
    pub idempotent: bool,
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
    /// Routes with calls that wait, as (session, route), by class: each in its turn gives one call.
    pub turns: [VecDeque<(usize, u32)>; CLASSES],
    /// The service's policy.
    pub policy: Policy,
    /// What becomes of a call on a resource without a holder, where resources are exclusive.
    pub unheld: Option<Unheld>,
    /// Whether a call's key says anything about who may serve it: else nobody looks at it.
    pub by_key: bool,
    /// Calls served of each class since one of a class below was.
    run: [u32; CLASSES],
    /// The provider whose turn it is, where they take turns.
    pub next: usize,
    routes: u32,
}

impl Operation {
    /// Whether nobody waits.
    #[inline]
    pub fn is_quiet(&self) -> bool {
        self.turns.iter().all(VecDeque::is_empty)
    }

    /// The class whose turn it is, among those of which not every route has passed: the highest, but of
    /// [`CLASS_RUN`] calls in a row one is of a class below, if one waits there.
    pub fn next_class(&self, passed: &[usize; CLASSES]) -> Option<usize> {
        let waits = |class: usize| self.turns[class].len() > passed[class];
        let due = |class: usize| self.run[class] >= CLASS_RUN && (class + 1..CLASSES).any(waits);
        (0..CLASSES).find(|&class| waits(class) && !due(class)).or_else(|| (0..CLASSES).find(|&c| waits(c)))
    }

    /// A call of this class was served.
    pub fn count_served(&mut self, class: usize) {
        self.run[..class].fill(0);
        self.run[class] = self.run[class].saturating_add(1);
    }
}

/// A service.
#[derive(Debug)]
pub struct Service {
    /// Its name.
    pub name: Box<str>,
    /// Its operations' keys.
    pub operations: Vec<usize>,
    /// How its calls are scheduled.
    pub policy: Policy,
    /// Whether its resources are exclusive, and what becomes of a call on one without a holder.
    pub unheld: Option<Unheld>,
    /// By worker, where one speaks for less than everything: its scope.
    scoped: HashMap<usize, u32>,
    /// The trust domain of its workers, as long as it has any.
    domain: Option<Domain>,
}

/// A change of a declaration that can be made.
#[derive(Debug)]
pub struct Change {
    worker: usize,
    service: usize,
    plan: Plan,
    /// How many resources more it will declare.
    pub more: usize,
}

/// The table.
#[derive(Debug, Default)]
pub struct Table {
    names: HashMap<Box<str>, usize>,
    services: Slab<Service>,
    operations: Slab<Operation>,
    /// By operation: its service. The same is said there; here it is in the cache.
    services_by_operation: Vec<u32>,
    scopes: Slab<Scope>,
    /// By worker: how many resources it declares, in all services.
    declared: HashMap<usize, usize>,
    /// What holds for services whatever their workers say, by name.
    rules: HashMap<Box<str>, ServiceRule>,
    /// Who holds what.
    pub rights: Rights,
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
        self.provide_with(worker, service, first, operations, &ServiceOptions::default())
    }

    /// The same, for some of the resources only, or with a policy.
    pub fn provide_with(
        &mut self,
        worker: usize,
        service: &str,
        first: u16,
        operations: &[&str],
        options: &ServiceOptions,
    ) -> Result<(), Status> {
        let mut scope = Scope::default();
        let declared: Vec<_> = options.resources.iter().map(|&r| (Action::Declare, r)).collect();
        scope.make(scope.plan(&declared)?);
        let service_key = self.service_named(service)?;
        self.remove_provider(service_key, worker);
        self.count_declared(worker, 0, scope.len());
        let scope = (!scope.is_empty()).then(|| self.scopes.insert(scope) as u32);
        let found = &mut self.services[service_key];
        found.policy = options.policy.unwrap_or(found.policy);
        found.unheld = options.unheld.or(found.unheld);
        if let Some(scope) = scope {
            found.scoped.insert(worker, scope);
        }
        for (i, name) in operations.iter().enumerate() {
            let key = self.operation_or_new(service_key, name);
            let idempotent = options.idempotent.iter().any(|one| one == name);
            let number = first + i as u16;
            self.operations[key].providers.push(Provider { worker, number, scope, idempotent });
        }
        self.tell_operations(service_key);
        self.forget_unused(service_key);
        Ok(())
    }

    /// The service of this name, which may be new.
    ///
    /// # Errors
    /// BUSY: it would be one too many.
    pub fn service_named(&mut self, name: &str) -> Result<usize, Status> {
        if let Some(&key) = self.names.get(name) {
            return Ok(key);
        }
        if self.services.len() >= limits::SERVICES_MAX {
            return Err(Status::Busy);
        }
        Ok(self.service_or_new(name))
    }

    fn service_or_new(&mut self, name: &str) -> usize {
        if let Some(&key) = self.names.get(name) {
            return key;
        }
        let key = self.services.insert(Service {
            name: name.into(),
            operations: Vec::new(),
            policy: Policy::default(),
            unheld: None,
            scoped: HashMap::new(),
            domain: None,
        });
        self.names.insert(name.into(), key);
        key
    }

    fn operation_or_new(&mut self, service: usize, name: &str) -> usize {
        self.operation_of(service, name).unwrap_or_else(|| {
            let entry = self.operations.vacant_entry();
            let key = entry.key();
            entry.insert(Operation {
                key,
                service,
                name: name.into(),
                providers: Vec::new(),
                turns: Default::default(),
                policy: Policy::default(),
                unheld: None,
                by_key: false,
                run: [0; CLASSES],
                next: 0,
                routes: 0,
            });
            self.services[service].operations.push(key);
            if key == self.services_by_operation.len() {
                self.services_by_operation.push(0);
            }
            self.services_by_operation[key] = service as u32;
            key
        })
    }

    /// Writes what holds for a service where the data path finds it: at its operations.
    fn tell_operations(&mut self, service: usize) {
        let Service { name, operations, policy, unheld, scoped, .. } = &self.services[service];
        let rule = self.rules.get(&**name);
        let policy = rule.and_then(|rule| rule.policy).unwrap_or(*policy);
        // Whether resources are exclusive is for its workers to say.
        let unheld = unheld.map(|unheld| rule.and_then(|rule| rule.unheld).unwrap_or(unheld));
        for &key in operations {
            let operation = &mut self.operations[key];
            (operation.policy, operation.unheld) = (policy, unheld);
            operation.by_key = unheld.is_some() || !scoped.is_empty() || policy == Policy::Affinity;
        }
    }

    /// What holds for services from now on, whatever their workers say; for the others it is as those say.
    pub fn set_rules(&mut self, rules: HashMap<Box<str>, ServiceRule>) {
        let old = std::mem::replace(&mut self.rules, rules);
        let named = old.keys().chain(self.rules.keys()).filter_map(|name| self.names.get(name).copied());
        let named: Vec<usize> = named.collect();
        named.into_iter().for_each(|key| self.tell_operations(key));
    }

    /// The trust domain of a service's workers, if it has any.
    pub fn domain_of(&self, service: &str) -> Option<Domain> {
        self.names.get(service).and_then(|&key| self.services[key].domain)
    }

    /// A worker of this domain provides the service.
    pub fn set_domain(&mut self, service: &str, domain: Domain) {
        if let Some(&key) = self.names.get(service) {
            self.services[key].domain = Some(domain);
        }
    }

    /// What a worker provides: services, and their operations.
    pub fn provided_services(&self, worker: usize) -> Vec<(Box<str>, Vec<Box<str>>)> {
        let provides = |&&key: &&usize| self.operations[key].providers.iter().any(|p| p.worker == worker);
        let services = self.services.iter().map(|(_, service)| {
            let own = service.operations.iter().filter(provides);
            (service.name.clone(), own.map(|&key| self.operations[key].name.clone()).collect::<Vec<_>>())
        });
        services.filter(|(_, operations)| !operations.is_empty()).collect()
    }

    /// Whether a worker provides any of a service.
    pub fn provides(&self, worker: usize, service: usize) -> bool {
        let Some(service) = self.services.get(service) else { return false };
        let provides = |&key: &usize| self.operations[key].providers.iter().any(|p| p.worker == worker);
        service.operations.iter().any(provides)
    }

    /// Changes what a worker declares in a service that it provides: all of it or nothing.
    ///
    /// # Errors
    /// As [`Scope::plan`].
    pub fn change(
        &mut self,
        worker: usize,
        service: usize,
        changes: &[(Action, Resource)],
    ) -> Result<(), Status> {
        self.plan(worker, service, changes).map(|change| self.make(change))
    }

    /// The same in two steps: checks it, and says how many resources more there would be.
    ///
    /// # Errors
    /// As [`Scope::plan`].
    pub fn plan(
        &self,
        worker: usize,
        service: usize,
        changes: &[(Action, Resource)],
    ) -> Result<Change, Status> {
        let (plan, was) = match self.scope_of(worker, service) {
            Some(scope) => (scope.plan(changes)?, scope.len()),
            None => (Scope::of_all().plan(changes)?, 0),
        };
        let more = plan.len().saturating_sub(was);
        Ok(Change { worker, service, plan, more })
    }

    /// Makes a change, before the table changes in any other way.
    pub fn make(&mut self, change: Change) {
        let Change { worker, service, plan, .. } = change;
        let was = self.scope_of(worker, service).map_or(0, Scope::len);
        self.count_declared(worker, was, plan.len());
        let old = self.services[service].scoped.get(&worker).copied();
        // Who has named nothing speaks for everything, and may withdraw that.
        let scope = old.unwrap_or_else(|| self.scopes.insert(Scope::of_all()) as u32);
        self.scopes[scope as usize].make(plan);
        if old.is_some() {
            return;
        }
        self.services[service].scoped.insert(worker, scope);
        for &key in &self.services[service].operations {
            let own = self.operations[key].providers.iter_mut().filter(|p| p.worker == worker);
            own.for_each(|provider| provider.scope = Some(scope));
        }
        self.tell_operations(service);
    }

    fn scope_of(&self, worker: usize, service: usize) -> Option<&Scope> {
        let scope = self.services[service].scoped.get(&worker)?;
        self.scopes.get(*scope as usize)
    }

    fn count_declared(&mut self, worker: usize, was: usize, is: usize) {
        let count = self.declared.entry(worker).or_default();
        *count = *count - was + is;
        if *count == 0 {
            self.declared.remove(&worker);
        }
    }

    /// How many resources a worker declares, in all services; one that it names no resources of counts for nothing.
    pub fn declared_by(&self, worker: usize) -> usize {
        self.declared.get(&worker).copied().unwrap_or(0)
    }

    /// How many it declares in the service of this name.
    pub fn declared_in(&self, worker: usize, service: &str) -> usize {
        self.service_of(service).and_then(|service| self.scope_of(worker, service)).map_or(0, Scope::len)
    }

    /// The service of this name, if the worker provides any of it.
    pub fn provided_by(&self, worker: usize, service: &str) -> Option<usize> {
        let &key = self.names.get(service)?;
        let provides = |&o: &usize| self.operations[o].providers.iter().any(|p| p.worker == worker);
        self.services[key].operations.iter().any(provides).then_some(key)
    }

    /// Whether a provider speaks for a key.
    #[inline]
    pub fn covers(&self, provider: &Provider, key: Key) -> bool {
        match provider.scope {
            None => true,
            Some(scope) => self.scopes.get(scope as usize).is_some_and(|scope| scope.covers(key)),
        }
    }

    /// Who holds a key of an operation's service.
    #[inline]
    pub fn holder(&self, operation: usize, key: Key) -> Holder {
        self.rights.holder(&Span::of_key(self.services_by_operation[operation] as usize, key))
    }

    /// The service of this name.
    pub fn service_of(&self, name: &str) -> Option<usize> {
        self.names.get(name).copied()
    }

    /// Whether the resources of a service of this name are exclusive.
    pub fn is_exclusive(&self, name: &str) -> bool {
        self.service_of(name).is_some_and(|key| self.services[key].unheld.is_some())
    }

    /// A service's name.
    pub fn service_name(&self, service: usize) -> &str {
        self.services.get(service).map_or("", |s| &s.name)
    }

    /// A worker provides a service no more, and gives up what it holds there. Returns whether it did.
    pub fn withdraw(&mut self, worker: usize, service: &str) -> bool {
        let Some(&key) = self.names.get(service) else { return false };
        let did = self.remove_provider(key, worker);
        if did {
            self.rights.leave(worker, key);
        }
        self.forget_unused(key);
        did
    }

    /// A worker holds something in services that it does not provide: it gives that up.
    pub fn leave_what_is_not_provided(&mut self, worker: usize) {
        for service in self.rights.services_of(worker) {
            if !self.provides(worker, service) {
                self.rights.leave(worker, service);
            }
        }
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

    /// A worker is dead, and its calls have ended: what it held and claimed is nobody's.
    pub fn end_tenancy(&mut self, worker: usize) {
        self.rights.remove_worker(worker).into_iter().for_each(|service| self.forget_if_unused(service));
    }

    fn remove_provider(&mut self, service: usize, worker: usize) -> bool {
        let mut did = false;
        for &key in &self.services[service].operations {
            let providers = &mut self.operations[key].providers;
            let before = providers.len();
            providers.retain(|p| p.worker != worker);
            did |= providers.len() < before;
        }
        if let Some(scope) = self.services[service].scoped.remove(&worker) {
            let scope = self.scopes.remove(scope as usize);
            self.count_declared(worker, scope.len(), 0);
        }
        if did {
            let none = |&key: &usize| self.operations[key].providers.is_empty();
            if self.services[service].operations.iter().all(none) {
                self.services[service].domain = None;
            }
            self.tell_operations(service);
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
        if self.services[service].operations.is_empty() && self.rights.is_unused(service) {
            let gone = self.services.remove(service);
            self.names.remove(&gone.name);
        }
    }

    /// Forgets a service in which nothing is held any more, if nothing else keeps it.
    pub fn forget_if_unused(&mut self, service: usize) {
        if self.services.contains(service) {
            self.forget_unused(service);
        }
    }

    /// An operation of a service, by its name.
    pub fn operation_of(&self, service: usize, name: &str) -> Option<usize> {
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
        self.tell_operations(service_key);
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

    /// The services' keys and names.
    pub fn service_names(&self) -> impl Iterator<Item = (usize, &str)> {
        self.services.iter().map(|(key, service)| (key, &*service.name))
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
