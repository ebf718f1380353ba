//! Access rights at the director: who is let through, what becomes of a right that is gone, and what was refused.
//!
//! ```text
//! route opened ─► Open: nobody is asked again     Guarded: each call is decided, by its key where that matters
//! rules change ─► each session's routes, each worker's services and rights are looked at again, some in each turn
//! refused      ─► the one who asked hears it; the same cause again only counts
//! ```
//! Without rules everything is allowed: then it is for whoever admits peers to admit only the right ones.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::core::{DirectorCore, Effects};
use super::held::Call;
use super::session::Passage;
use super::table::rights::Span;
use super::worker::Standing;
use crate::access::{Access, Cause, Decision, Denial, Domain, ServiceRule, Verb, Verdict};
use crate::core::Memory;
use crate::error::Status;
use crate::layout::Request;
use crate::resource::{Action, Key, Resource};

/// Causes that are told apart, and those of one user: who asks for a thousand names fills only his own. What is refused
/// for others is only counted.
const CAUSES_MAX: usize = 1024;
const CAUSES_OF_USER_MAX: usize = 64;
/// Routes, services or rights looked at again in one turn.
const SLICE: usize = 64;

/// Somebody who is to be looked at again.
#[derive(Clone, Copy)]
enum Recheck {
    /// A session's routes, from this number on.
    Session { key: usize, id: u64, route: usize },
    /// A worker's domain and services.
    Worker { key: usize, id: u64 },
    /// What it holds, behind this piece.
    Rights { key: usize, id: u64, after: Option<Span> },
}

/// The rules, and what they have refused.
#[derive(Default)]
pub(super) struct Guard {
    access: Option<Arc<Access>>,
    denials: HashMap<Denial, u64>,
    /// How many causes each user has.
    causes: HashMap<u32, usize>,
    /// All that was ever refused.
    total: u64,
    /// Causes that nobody has logged yet.
    news: Vec<Denial>,
    recheck: VecDeque<Recheck>,
}

impl Guard {
    /// Whether somebody is still to be looked at again.
    #[inline]
    pub fn is_rechecking(&self) -> bool {
        !self.recheck.is_empty()
    }

    /// The rules.
    pub fn access(&self) -> Option<&Access> {
        self.access.as_deref()
    }

    /// What says which domain this is.
    pub fn domain_origin(&self, domain: Domain) -> String {
        let written = self.access().and_then(|access| access.domain_origin(domain));
        written.unwrap_or_else(|| "each user is one, unless the policy says otherwise".into())
    }

    /// What the policy says of a service, if it does.
    pub fn service(&self, service: &str) -> Option<&ServiceRule> {
        self.access().and_then(|access| access.service(service))
    }

    fn count(&mut self, denial: Denial) {
        self.total += 1;
        if let Some(count) = self.denials.get_mut(&denial) {
            *count += 1;
        } else if self.denials.len() < CAUSES_MAX
            && self.causes.get(&denial.uid).is_none_or(|&own| own < CAUSES_OF_USER_MAX)
        {
            *self.causes.entry(denial.uid).or_default() += 1;
            self.news.push(denial.clone());
            self.denials.insert(denial, 1);
        }
    }
}

impl<M: Memory> DirectorCore<M> {
    /// New rules: what they take away is taken away in the next turns.
    pub fn set_access(&mut self, access: Arc<Access>) {
        self.table.set_rules(access.services());
        self.held.wake_all();
        self.guard.access = Some(access);
        let sessions = self.sessions.iter().map(|(key, s)| Recheck::Session { key, id: s.id, route: 0 });
        let workers = self.workers.iter().map(|(key, w)| Recheck::Worker { key, id: w.id });
        self.guard.recheck = sessions.chain(workers).collect();
        self.news = true;
    }

    /// Whether a session has not been looked at yet since the rules are others: its calls are let through by the old ones.
    pub fn is_rechecking_callers(&self) -> bool {
        matches!(self.guard.recheck.front(), Some(Recheck::Session { .. })) // they stand before the workers
    }

    /// Says which workers may see a session, and in which groups its client is.
    pub fn place_session(&mut self, key: usize, domain: Domain, groups: Arc<[u32]>) {
        if let Some(session) = self.sessions.get_mut(key) {
            (session.domain, session.groups) = (domain, groups);
        }
    }

    /// The same for a worker.
    pub fn place_worker(&mut self, key: usize, domain: Domain, groups: Arc<[u32]>) {
        if let Some(worker) = self.workers.get_mut(key) {
            (worker.domain, worker.groups) = (domain, groups);
        }
    }

    /// The domain that a session's route has to be opened in, if it is another than the session's own.
    pub fn elsewhere(&self, key: usize, service: &str, operation: &str) -> Option<Domain> {
        let session = self.sessions.get(key)?;
        if let Passage::Guarded(Verdict::Always(_)) = self.passage(key, service, operation) {
            return None;
        }
        self.table.domain_of(service).filter(|&domain| domain != session.domain)
    }

    /// What was refused, by cause, and how often.
    pub fn denials(&self) -> Vec<(Denial, u64)> {
        let told: u64 = self.guard.denials.values().sum();
        let mut denials: Vec<(Denial, u64)> =
            self.guard.denials.iter().map(|(denial, &count)| (denial.clone(), count)).collect();
        denials.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.to_string().cmp(&b.0.to_string())));
        if self.guard.total > told {
            let (service, operation, origin) =
                ("*".into(), "*".into(), "more causes than are told apart".into());
            let other = Denial { uid: u32::MAX, verb: Verb::Call, service, operation, origin };
            denials.push((other, self.guard.total - told));
        }
        denials
    }

    /// Causes that are new: to be logged.
    pub fn take_denials(&mut self) -> Vec<Denial> {
        std::mem::take(&mut self.guard.news)
    }

    /// Whether there are any.
    #[inline]
    pub fn has_denials(&self) -> bool {
        !self.guard.news.is_empty()
    }

    /// Somebody else has refused something.
    pub fn count_denial(&mut self, denial: Denial) {
        self.guard.count(denial);
    }

    /// What the rules say about a route of a session.
    pub(super) fn passage(&self, key: usize, service: &str, operation: &str) -> Passage {
        let (Some(access), Some(session)) = (&self.guard.access, self.sessions.get(key)) else {
            return Passage::Open;
        };
        Passage::of(access.may_call(session.asker(), service, operation))
    }

    /// A route was refused, or a call.
    pub(super) fn deny_call(&mut self, key: usize, service: &str, operation: &str, cause: Cause) -> String {
        let uid = self.sessions.get(key).map_or(u32::MAX, |s| s.identity.uid);
        self.deny(uid, Verb::Call, service, operation, self.origin(cause))
    }

    fn origin(&self, cause: Cause) -> String {
        self.guard.access.as_ref().map_or_else(String::new, |access| access.origin(cause))
    }

    fn deny(&mut self, uid: u32, verb: Verb, service: &str, operation: &str, origin: String) -> String {
        let (service, operation) = (service.to_owned(), operation.to_owned());
        let denial = Denial { uid, verb, service, operation, origin };
        let text = denial.to_string();
        self.guard.count(denial);
        self.refusal = text.clone();
        text
    }

    /// Why somebody was last refused something.
    pub fn last_refusal(&self) -> &str {
        &self.refusal
    }

    /// A call on a guarded route: whether it may go on. If not, it has ended.
    pub(super) fn is_let_through(&mut self, key: usize, request: &Request, fx: &mut impl Effects) -> bool {
        let Some(route) = self.sessions[key].route(request.operation) else { return false };
        let Some(cause) = refusal(&route.access, request.resource()) else { return true };
        self.count_refusal(key, request.operation, cause);
        self.refuse(key, request.ticket, Status::PermissionDenied, fx);
        false
    }

    /// Whether a scatter may go on, whatever its keys are: those are decided one by one.
    pub(super) fn is_scatter_let_through(&mut self, key: usize, request: &Request) -> bool {
        let Some(route) = self.sessions[key].route(request.operation) else { return false };
        let cause = match &route.access {
            Passage::Guarded(Verdict::ByKey(_)) if request.resource().is_some() => None,
            access => refusal(access, request.resource()),
        };
        self.pass_unless(key, request.operation, cause)
    }

    /// Whether one of its keys may.
    pub(super) fn is_key_let_through(&mut self, key: usize, route: u32, resource: Key) -> bool {
        let Some(found) = self.sessions[key].route(route) else { return false };
        let cause = refusal(&found.access, Some(resource));
        self.pass_unless(key, route, cause)
    }

    /// Whether nothing speaks against it; else that is counted.
    fn pass_unless(&mut self, key: usize, route: u32, refused: Option<Cause>) -> bool {
        let Some(cause) = refused else { return true };
        self.count_refusal(key, route, cause);
        false
    }

    /// Something on a route was refused.
    fn count_refusal(&mut self, key: usize, route: u32, cause: Cause) {
        if let Some(operation) = self.sessions[key].route(route).map(|route| route.operation) {
            let found = self.table.operation(operation);
            let (service, name) = (self.table.service_name(found.service).to_owned(), found.name.to_string());
            self.deny_call(key, &service, &name, cause);
        }
    }

    /// Whether a worker may provide a service with all of these operations. A service is of one domain at a time.
    pub(super) fn may_provide(&mut self, key: usize, service: &str, operations: &[&str]) -> bool {
        let Some(worker) = self.workers.get(key) else { return false };
        let (uid, domain) = (worker.identity.uid, worker.domain);
        if let Some(access) = &self.guard.access {
            let asker = worker.asker();
            let denied = operations.iter().find_map(|operation| {
                let decision = access.may_provide(asker, service, operation);
                (!decision.allow).then(|| (*operation, access.origin(decision.cause)))
            });
            if let Some((operation, origin)) = denied {
                self.deny(uid, Verb::Provide, service, operation, origin);
                return false;
            }
        }
        if let Some(other) = self.table.domain_of(service).filter(|&other| other != domain) {
            let origin = format!(
                "it is provided in the trust domain {}, and this is {}",
                self.name_of(other),
                self.name_of(domain)
            );
            self.deny(uid, Verb::Provide, service, "", origin);
            return false;
        }
        true
    }

    /// A domain's name for a person.
    pub(super) fn name_of(&self, domain: Domain) -> String {
        match (&self.guard.access, domain.uid()) {
            (Some(access), _) => access.domain_name(domain),
            (None, Some(uid)) => format!("uid {uid}"),
            (None, None) => "of an earlier policy".into(),
        }
    }

    /// Whether a worker may acquire a span, if it is one.
    pub(super) fn may_acquire(&self, key: usize, span: &Span) -> Decision {
        let open = Decision { allow: true, cause: Cause::Default };
        let (Some(access), Some(worker)) = (&self.guard.access, self.workers.get(key)) else { return open };
        let service = self.table.service_name(span.space.service());
        access.may_acquire(worker.asker(), service, span.space.is_name(), span.first, span.last)
    }

    /// Whether a change acquires nothing that its worker may not.
    pub(super) fn may_change(&mut self, key: usize, service: usize, changes: &[(Action, Resource)]) -> bool {
        if self.guard.access.is_none() {
            return true;
        }
        let acquired = changes.iter().filter(|(action, _)| *action == Action::Acquire);
        let spans: Vec<Span> =
            acquired.filter_map(|&(_, resource)| super::change::span_of(service, resource)).collect();
        let denied = spans.iter().map(|span| self.may_acquire(key, span)).find(|decision| !decision.allow);
        let Some(Decision { cause, .. }) = denied else { return true };
        let name = self.table.service_name(service).to_owned();
        let uid = self.workers[key].identity.uid;
        self.deny(uid, Verb::Acquire, &name, "", self.origin(cause));
        false
    }

    /// A worker that came back has presented all: what it may not have it gives up.
    pub(super) fn recheck_worker(&mut self, key: usize) {
        if let Some(id) = self.workers.get(key).map(|w| w.id)
            && self.guard.access.is_some()
        {
            self.guard.recheck.push_back(Recheck::Worker { key, id });
        }
    }

    /// Looks at some of those whom new rules concern.
    pub(super) fn recheck(&mut self, fx: &mut impl Effects) {
        let mut left = SLICE;
        while left > 0
            && let Some(next) = self.guard.recheck.pop_front()
        {
            let again = match next {
                Recheck::Session { key, id, route } if self.sessions.get(key).is_some_and(|s| s.id == id) => {
                    self.recheck_routes(key, id, route, &mut left, fx)
                }
                Recheck::Worker { key, id } if self.workers.get(key).is_some_and(|w| w.id == id) => {
                    self.recheck_services(key, &mut left, fx);
                    Some(Recheck::Rights { key, id, after: None })
                }
                Recheck::Rights { key, id, after } if self.workers.get(key).is_some_and(|w| w.id == id) => {
                    let last = self.recheck_rights(key, after, &mut left, fx);
                    last.map(|last| Recheck::Rights { key, id, after: Some(last) })
                }
                _ => None,
            };
            left = left.saturating_sub(1);
            if let Some(again) = again {
                self.guard.recheck.push_front(again);
            }
        }
        if !self.guard.is_rechecking() {
            // Somebody may provide or hold now what calls wait for.
            self.held.wake_all();
            self.news = true;
        }
    }

    /// A session's routes are as open as the rules say now; what waits on them ends or stays.
    fn recheck_routes(
        &mut self,
        key: usize,
        id: u64,
        from: usize,
        left: &mut usize,
        fx: &mut impl Effects,
    ) -> Option<Recheck> {
        let end = self.sessions[key].routes.len().min(from + *left);
        for number in from..end {
            let Some(operation) = self.sessions[key].route(number as u32).map(|route| route.operation) else {
                continue;
            };
            let found = self.table.operation(operation);
            let passage = self.passage(key, self.table.service_name(found.service), &found.name);
            if let Some(route) = self.sessions[key].route(number as u32) {
                route.access = passage;
            }
        }
        *left = left.saturating_sub(end - from);
        if end < self.sessions[key].routes.len() {
            return Some(Recheck::Session { key, id, route: end });
        }
        for slot in self.sessions[key].waiting_slots() {
            self.recheck_waiting(key, slot, fx);
        }
        None
    }

    /// A call that waits, or a part that does, ends if it may not go on: a part if any of its keys may not.
    fn recheck_waiting(&mut self, key: usize, slot: u32, fx: &mut impl Effects) {
        let Some(request) = self.sessions[key].waiting_record(slot).map(Request::of_client) else { return };
        let keys = self.scatters.keys(Call { session: key, slot });
        let keys: Vec<Option<Key>> = match keys {
            Some(keys) if !keys.is_empty() => keys.iter().copied().map(Some).collect(),
            _ => vec![request.resource()],
        };
        let Some(route) = self.sessions[key].route(request.operation) else { return };
        let refused = keys.into_iter().find_map(|resource| refusal(&route.access, resource));
        if let Some(cause) = refused {
            self.count_refusal(key, request.operation, cause);
            self.drop_waiting(key, slot);
            self.refuse(key, request.ticket, Status::PermissionDenied, fx);
        }
    }

    /// A worker provides what it may, and sees sessions of its own domain.
    fn recheck_services(&mut self, key: usize, left: &mut usize, fx: &mut impl Effects) {
        let Some(access) = self.guard.access.clone() else { return };
        let worker = &self.workers[key];
        if access.domain_of(worker.identity.uid) != worker.domain && worker.standing == Standing::Serving {
            tracing::warn!(worker = worker.id, "drained: its trust domain is another now");
            self.drain(key, fx);
        }
        // To find them, all services are looked at: that is enough for one turn.
        *left = 0;
        for (service, operations) in self.table.provided_services(key) {
            let names: Vec<&str> = operations.iter().map(|o| &**o).collect();
            if !self.may_provide(key, &service, &names) {
                self.withdraw(key, &service, fx);
                self.news = true;
            }
        }
    }

    /// What a worker waits for and may not have it is not granted later either.
    fn recheck_claims(&mut self, key: usize) {
        let mut lost = self.table.rights.claims_of(key);
        lost.retain(|span| {
            let decision = self.may_acquire(key, span);
            if !decision.allow {
                self.deny_acquiring(key, span, decision.cause);
            }
            !decision.allow
        });
        self.table.rights.drop_claims_of(key, &lost);
    }

    fn deny_acquiring(&mut self, key: usize, span: &Span, cause: Cause) {
        let service = self.table.service_name(span.space.service()).to_owned();
        let uid = self.workers[key].identity.uid;
        self.deny(uid, Verb::Acquire, &service, "", self.origin(cause));
    }

    /// Recalls some of what a worker holds and may not. Returns the last piece that was looked at, if there are more.
    fn recheck_rights(
        &mut self,
        key: usize,
        after: Option<Span>,
        left: &mut usize,
        fx: &mut impl Effects,
    ) -> Option<Span> {
        if after.is_none() {
            self.recheck_claims(key);
        }
        let most = (*left).max(1);
        let pieces = self.table.rights.pieces_behind(key, after, most);
        *left = left.saturating_sub(pieces.len());
        for span in &pieces {
            let decision = self.may_acquire(key, span);
            if decision.allow {
                continue;
            }
            self.deny_acquiring(key, span, decision.cause);
            // It holds it, so it can be recalled.
            let _ = self.table.rights.release(key, *span);
        }
        self.tell(fx);
        pieces.last().copied().filter(|_| pieces.len() == most)
    }
}

/// Why a call may not go on; `None`: it may.
fn refusal(access: &Passage, resource: Option<Key>) -> Option<Cause> {
    let decision = match access {
        Passage::Open => return None,
        Passage::Guarded(Verdict::Always(decision)) => *decision,
        Passage::Guarded(Verdict::ByKey(rules)) => rules.decide(resource),
    };
    (!decision.allow).then_some(decision.cause)
}
