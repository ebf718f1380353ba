//! What would happen to a request, and which line of which table decides it.
//!
//! The same tables are asked in the same order as for a call; nothing is changed, and nobody is called.

use super::change::span_of;
use super::core::DirectorCore;
use super::schedule::score;
use super::table::Provider;
use super::table::rights::Holder;
use super::worker::Standing;
use crate::access::{Asker, Decision, Topic, Verdict};
use crate::core::Memory;
use crate::error::Status;
use crate::resource::{Key, Policy, Resource, Unheld};

/// One thing that matters to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is about.
    pub topic: Topic,
    /// The id of the worker that it is about, if it is about one.
    pub worker: Option<u64>,
    /// What is so.
    pub text: String,
    /// What says so: a line of the policy, or one of the director's tables.
    pub origin: String,
}

/// What would happen to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What decides it, in the order in which it is asked.
    pub findings: Vec<Finding>,
    /// How it would end here; OK where a worker would get it, now or later.
    pub status: Status,
    /// The id of the worker that would get it now.
    pub worker: Option<u64>,
    /// In a sentence.
    pub text: String,
}

/// A request that nobody has made.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Whose it would be.
    pub asker: Asker<'a>,
    /// Of which service.
    pub service: &'a str,
    /// What.
    pub operation: &'a str,
    /// On what.
    pub key: Option<Key>,
}

const SERVICES: &str = "the table of services";
const RIGHTS: &str = "the table of rights";

impl Explanation {
    fn add(&mut self, topic: Topic, worker: Option<u64>, text: impl Into<String>, origin: impl Into<String>) {
        self.findings.push(Finding { topic, worker, text: text.into(), origin: origin.into() });
    }

    fn end(mut self, status: Status, worker: Option<u64>, text: impl Into<String>) -> Explanation {
        (self.status, self.worker, self.text) = (status, worker, text.into());
        self
    }
}

impl<M: Memory> DirectorCore<M> {
    /// What would happen to a request now, if none of its caller's own waits before it on the same route.
    pub fn explain(&mut self, question: &Question<'_>, now_ns: u64) -> Explanation {
        let Question { service, operation, key, .. } = *question;
        let mut found =
            Explanation { findings: Vec::new(), status: Status::Ok, worker: None, text: String::new() };
        if !self.explain_access(question, &mut found) {
            return found.end(Status::PermissionDenied, None, "it ends PERMISSION_DENIED, and does not run");
        }
        let Some(service_key) = self.table.service_of(service) else {
            found.add(Topic::Route, None, format!("nobody provides a service {service:?}"), SERVICES);
            return found.end(Status::NoSuchService, None, "no route to it can be opened");
        };
        let Some(operation) = self.table.operation_of(service_key, operation) else {
            found.add(Topic::Route, None, format!("the service has no operation {operation:?}"), SERVICES);
            return found.end(Status::NoSuchOperation, None, "no route to it can be opened");
        };
        let count = self.table.operation(operation).providers.len();
        found.add(Topic::Route, None, format!("provided by {}", workers(count)), SERVICES);
        if let Some(domain) = self.table.domain_of(service) {
            let origin = self.guard.domain_origin(domain);
            found.add(
                Topic::Domain,
                None,
                format!("its workers are of the domain {}", self.name_of(domain)),
                origin,
            );
        }
        let policy = self.table.operation(operation).policy;
        let rule = self.guard.service(service).filter(|rule| rule.policy.is_some());
        let origin = rule.map_or("its workers, or the default".into(), |rule| rule.origin.clone());
        found.add(Topic::Policy, None, policy_text(policy), origin);
        let unheld = self.table.operation(operation).unheld;
        let holder = match (key, unheld) {
            (Some(key), Some(unheld)) => Some((key, unheld)),
            _ => None,
        };
        let best = self.explain_candidates(operation, key, now_ns, &mut found);
        match holder {
            Some((key, unheld)) => {
                let found = self.explain_holder(operation, service_key, key, unheld, now_ns, found);
                self.explain_queue(service_key, key, found)
            }
            None => match best {
                Some(Some(worker)) => found.end(Status::Ok, Some(worker), format!("worker {worker} gets it")),
                Some(None) => found.end(Status::Ok, None, "it waits for room at one of them"),
                None => found.end(Status::NoWorker, None, "it ends NO_WORKER, and does not run"),
            },
        }
    }

    fn explain_access(&self, question: &Question<'_>, found: &mut Explanation) -> bool {
        let Question { asker, service, operation, key } = *question;
        let uid = asker.uid;
        let Some(access) = self.guard.access() else {
            found.add(Topic::Access, None, "everything is allowed to whoever is here", "no rules");
            return true;
        };
        let verdict = access.may_call(asker, service, operation);
        let (Decision { allow, cause }, by) = match &verdict {
            Verdict::Always(decision) => (*decision, "whatever its key"),
            Verdict::ByKey(rules) if key.is_some() => (rules.decide(key), "on this key"),
            Verdict::ByKey(rules) => (rules.decide(key), "without a key"),
        };
        let may = if allow { "may" } else { "may not" };
        let text = format!("uid {uid} {may} call {service}.{operation} {by}");
        found.add(Topic::Access, None, text, access.origin(cause));
        allow
    }

    /// Says of each provider what speaks for it. `None`: nobody can have it. `Some(None)`: nobody has room.
    fn explain_candidates(
        &mut self,
        operation: usize,
        key: Option<Key>,
        now_ns: u64,
        found: &mut Explanation,
    ) -> Option<Option<u64>> {
        let named = self.table.operation(operation);
        let resource = if named.by_key { key } else { None };
        let policy = match (named.policy, resource) {
            (Policy::Affinity, None) => Policy::Jbsq,
            (policy, _) => policy,
        };
        let providers: Vec<Provider> = named.providers.clone();
        let first = if policy == Policy::RoundRobin { named.next % providers.len().max(1) } else { 0 };
        let bound = match (policy, resource) {
            (Policy::Affinity, Some(resource)) => self.bound(operation, resource, now_ns),
            _ => 0,
        };
        let (mut anybody, mut best, mut last_resort) = (false, None::<(u64, u64)>, None);
        let mut lively = false;
        let (before, from) = providers.split_at(first);
        for provider in from.iter().chain(before) {
            let covers = resource.is_none_or(|resource| self.table.covers(provider, resource));
            let Some(worker) = self.workers.get_mut(provider.worker) else { continue };
            worker.look(now_ns);
            let can = covers && worker.is_serving();
            let score = if can { score(policy, worker, bound, resource) } else { None };
            let silent = worker.pulse.silent;
            anybody |= can;
            lively |= can && !silent;
            let text = match (covers, worker.standing, score) {
                (false, ..) => "doesn't speak for this key".into(),
                (_, Standing::Draining, _) => "is draining".into(),
                (_, Standing::Gone, _) => "has closed its socket".into(),
                _ if worker.pulse.stalled => "stands still, and is given nothing".into(),
                (.., None) if silent => "has no room, and shows no sign of life".into(),
                (.., Some(_)) if silent => "shows no sign of life".into(),
                (.., None) => format!("has no room: {} calls in its hands", worker.in_flight()),
                (.., Some(_)) => {
                    format!("has room: {} calls in its hands, of {}", worker.in_flight(), worker.share())
                }
            };
            match score {
                Some(score) if silent => _ = last_resort.get_or_insert((score, worker.id)),
                Some(score) if best.is_none_or(|(least, _)| score < least) => best = Some((score, worker.id)),
                _ => {}
            }
            let id = worker.id;
            found.add(Topic::Candidate, Some(id), text, SERVICES);
        }
        anybody.then_some(best.or(last_resort.filter(|_| !lively)).map(|(_, id)| id))
    }

    /// Whoever holds it: calls that wait on the key go first.
    fn explain_queue(&self, service: usize, key: Key, mut found: Explanation) -> Explanation {
        if !span_of(service, Resource::Key(key)).is_some_and(|span| self.held.waits_for(&span)) {
            return found;
        }
        found.add(Topic::Holder, None, "others wait for it already", RIGHTS);
        found.end(Status::Ok, None, "it waits behind those that wait already")
    }

    fn explain_holder(
        &mut self,
        operation: usize,
        service: usize,
        key: Key,
        unheld: Unheld,
        now_ns: u64,
        mut found: Explanation,
    ) -> Explanation {
        let Some(span) = span_of(service, Resource::Key(key)) else { return found };
        let id = |key: usize| self.workers.get(key).map_or(0, |worker| worker.id);
        match self.table.rights.holder(&span) {
            Holder::Worker(worker) => self.explain_at_holder(operation, worker, unheld, found),
            Holder::Leaving(worker) => {
                let id = id(worker);
                let silent = self.held.has_been_leaving_ns(&span, now_ns);
                let since =
                    silent.map_or(String::new(), |ns| format!(", for {} ms that calls wait", ns / 1_000_000));
                let text = format!("is to give it up, and has not said that it has{since}");
                found.add(Topic::Holder, Some(id), text, RIGHTS);
                let text = match unheld {
                    Unheld::Error => "it waits for the hand-over, and ends NOT_HELD if that takes too long",
                    _ => "it waits for the hand-over",
                };
                found.end(Status::Ok, None, text)
            }
            Holder::Nobody if self.table.rights.is_withheld() => {
                let text = "nobody, as far as is known: workers of an earlier director may come back";
                found.add(Topic::Holder, None, text, RIGHTS);
                found.end(Status::Ok, None, "it waits until that is known")
            }
            Holder::Nobody if self.table.rights.is_withheld_in(service) && unheld != Unheld::Error => {
                let text = "nobody, as far as is known: a worker that has not come back may still work on it";
                found.add(Topic::Holder, None, text, RIGHTS);
                found.end(Status::Ok, None, "it waits until that has ended")
            }
            Holder::Nobody => {
                found.add(Topic::Holder, None, "nobody holds it", RIGHTS);
                let rule = self.guard.service(self.table.service_name(service));
                let rule = rule.filter(|rule| rule.unheld.is_some());
                let origin = rule.map_or("its workers".into(), |rule| rule.origin.clone());
                found.add(Topic::Policy, None, unheld_text(unheld), origin);
                self.explain_unheld(operation, span, unheld, now_ns, found)
            }
        }
    }

    /// Somebody holds it, and is not giving it up.
    fn explain_at_holder(
        &self,
        operation: usize,
        holder: usize,
        unheld: Unheld,
        mut found: Explanation,
    ) -> Explanation {
        let Some(worker) = self.workers.get(holder) else { return found };
        let (id, room) = (worker.id, worker.has_room());
        let provides = self.table.operation(operation).providers.iter().any(|p| p.worker == holder);
        let hindrance = match worker.standing {
            _ if !provides => Some("holds it, and does not provide the operation"),
            Standing::Gone => Some("holds it, and has closed its socket"),
            Standing::Serving if worker.pulse.stalled => Some("holds it, and stands still"),
            Standing::Draining => Some("holds it, and is draining"),
            Standing::Serving => None,
        };
        found.add(Topic::Holder, Some(id), hindrance.unwrap_or("holds it"), RIGHTS);
        let drains = provides && worker.standing == Standing::Draining;
        match hindrance {
            None if room => found.end(Status::Ok, Some(id), format!("worker {id} gets it")),
            None => found.end(Status::Ok, None, format!("it waits for room at worker {id}")),
            Some(_) if unheld == Unheld::Error && !drains => {
                found.end(Status::NotHeld, None, "it ends NOT_HELD, and does not run")
            }
            Some(_) => found.end(Status::Ok, None, "it waits until another holds it"),
        }
    }

    fn explain_unheld(
        &mut self,
        operation: usize,
        span: super::table::rights::Span,
        unheld: Unheld,
        now_ns: u64,
        found: Explanation,
    ) -> Explanation {
        match unheld {
            Unheld::Error => found.end(Status::NotHeld, None, "it ends NOT_HELD, and does not run"),
            Unheld::Wait => found.end(Status::Ok, None, "it waits for a holder"),
            Unheld::Offer if self.table.rights.is_claimed(&span) => {
                found.end(Status::Ok, None, "it waits: somebody has asked for it, or for what it lies in")
            }
            Unheld::Offer => match self.least_loaded(operation, &span, now_ns) {
                Some(key) => {
                    let (id, room) = self.workers.get(key).map_or((0, false), |w| (w.id, w.has_room()));
                    let then = if room { "gets it" } else { "it waits for room there" };
                    let text = format!("worker {id} is made the holder, and {then}");
                    found.end(Status::Ok, room.then_some(id), text)
                }
                None => found.end(Status::Ok, None, "it waits: nobody can be made the holder"),
            },
        }
    }

    /// The worker that would be offered a resource.
    fn least_loaded(
        &mut self,
        operation: usize,
        span: &super::table::rights::Span,
        now_ns: u64,
    ) -> Option<usize> {
        let resource = Key::from_word(span.first, span.space.is_name());
        let mut best: Option<(u64, usize)> = None;
        for provider in &self.table.operation(operation).providers {
            let may = self.table.covers(provider, resource)
                && self.may_acquire(provider.worker, span).allow
                && !self.table.rights.is_leaving(provider.worker, span.space.service());
            let Some(worker) = self.workers.get_mut(provider.worker).filter(|w| may && w.is_serving()) else {
                continue;
            };
            worker.look(now_ns);
            let load = worker.in_flight();
            if best.is_none_or(|(least, _)| load < least) {
                best = Some((load, provider.worker));
            }
        }
        best.map(|(_, worker)| worker)
    }
}

fn workers(count: usize) -> String {
    match count {
        0 => "nobody now".into(),
        1 => "one worker".into(),
        count => format!("{count} workers"),
    }
}

fn unheld_text(unheld: Unheld) -> &'static str {
    match unheld {
        Unheld::Wait => "unheld: calls wait for a holder",
        Unheld::Error => "unheld: calls end NOT_HELD",
        Unheld::Offer => "unheld: the provider with the fewest calls in its hands is made the holder",
    }
}

fn policy_text(policy: Policy) -> &'static str {
    match policy {
        Policy::Jbsq => "jbsq: to the one with the fewest calls in its hands, up to its share",
        Policy::RoundRobin => "round-robin: to each in its turn",
        Policy::Affinity => "affinity: one key to one worker, unless that has far more than the others",
        Policy::LeastOutstanding => "least-outstanding: to the one with the fewest calls in its hands",
    }
}
