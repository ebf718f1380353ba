//! Rules, as the director asks them.
//!
//! Names of keys are words here, and keys are sets: one look into a hash table or a tree for each rule about keys.
//! Whether a route may be used is decided once, when it is opened, wherever that doesn't depend on the key: then a
//! call costs nothing. Else the route keeps the few rules that its calls can meet.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{Domain, KeyRule, Otherwise, Pattern, Rule, Rules, ServiceRule, Verb, Who};
use crate::intervals::Intervals;
use crate::resource::Key;

/// Who asks for something, as the kernel says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asker<'a> {
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its other groups.
    pub groups: &'a [u32],
}

/// What decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The rule with this index.
    Rule(u32),
    /// None matched.
    Default,
    /// None allows another user to provide it, which the default never does.
    OtherUser,
}

/// A yes or a no, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether it may be done.
    pub allow: bool,
    /// What decided it.
    pub cause: Cause,
}

/// What can be said before the key of a call is known.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// The same for every call.
    Always(Decision),
    /// It depends on the key.
    ByKey(Arc<KeyRules>),
}

#[derive(Clone, Debug, Default)]
struct KeySet {
    numbers: Intervals<()>,
    names: HashSet<u64>,
}

impl KeySet {
    fn covers(&self, key: Key) -> bool {
        match key.as_number() {
            Some(number) => self.numbers.at(number).is_some(),
            None => self.names.contains(&key.word()),
        }
    }

    /// Parts ranges into what lies in the set, if anything does, and the rest.
    fn part(&self, is_name: bool, ranges: &[(u64, u64)]) -> (bool, Vec<(u64, u64)>) {
        let (mut hit, mut rest) = (false, Vec::new());
        for &(first, last) in ranges {
            if is_name {
                // Names don't lie beside each other: a range of them is one.
                let own = self.names.contains(&first);
                hit |= own;
                rest.extend((!own).then_some((first, last)));
                continue;
            }
            let mut next = Some(first);
            for (from, to, ()) in self.numbers.overlapping(first, last) {
                hit = true;
                if let Some(at) = next.filter(|&at| at < from) {
                    rest.push((at, from - 1));
                }
                next = to.checked_add(1);
            }
            rest.extend(next.filter(|&at| at <= last).map(|at| (at, last)));
        }
        (hit, rest)
    }
}

/// The rules that matter to one route: those about keys, up to the first that is about all.
#[derive(Clone, Debug)]
pub struct KeyRules {
    steps: Vec<(Arc<KeySet>, Decision)>,
    otherwise: Decision,
}

impl KeyRules {
    /// Of one call.
    pub fn decide(&self, key: Option<Key>) -> Decision {
        let hit = |(keys, _): &&(Arc<KeySet>, Decision)| key.is_some_and(|key| keys.covers(key));
        self.steps.iter().find(hit).map_or(self.otherwise, |&(_, decision)| decision)
    }

    /// Of all words from the first to the last at once: allowed if each of them is.
    fn decide_span(&self, is_name: bool, first: u64, last: u64) -> Decision {
        let mut left = vec![(first, last)];
        let mut allowed = None;
        for (keys, decision) in &self.steps {
            let (hit, rest) = keys.part(is_name, &left);
            if hit && !decision.allow {
                return *decision;
            }
            if hit {
                allowed = allowed.or(Some(*decision));
            }
            left = rest;
            if left.is_empty() {
                break;
            }
        }
        match allowed {
            Some(allowed) if left.is_empty() || self.otherwise.allow => allowed,
            _ => self.otherwise,
        }
    }
}

#[derive(Debug)]
struct Compiled {
    rule: Rule,
    /// `None` where the rule is about all keys.
    keys: Option<Arc<KeySet>>,
}

/// The rules of a bus.
#[derive(Debug)]
pub struct Access {
    owner: u32,
    default: Otherwise,
    default_origin: String,
    rules: Vec<Compiled>,
    domains: HashMap<u32, Domain>,
    /// Labels, and where they were written.
    labels: HashMap<Domain, (String, String)>,
    services: Vec<ServiceRule>,
}

impl Access {
    /// The rules of `owner`'s bus. `word` gives a name of a key the word that travels for it.
    pub fn new<E>(
        rules: &Rules,
        owner: u32,
        mut word: impl FnMut(&str) -> Result<u64, E>,
    ) -> Result<Access, E> {
        let mut compiled = Vec::with_capacity(rules.rules.len());
        for rule in &rules.rules {
            let mut keys = KeySet::default();
            for key in &rule.keys {
                match key {
                    KeyRule::Numbers { first, last } => {
                        keys.numbers.cut(*first, *last);
                        keys.numbers.insert(*first, *last, ());
                    }
                    KeyRule::Name(name) => _ = keys.names.insert(word(name)?),
                }
            }
            let keys = (!rule.keys.is_empty()).then(|| Arc::new(keys));
            compiled.push(Compiled { rule: rule.clone(), keys });
        }
        let (mut domains, mut labels) = (HashMap::new(), HashMap::new());
        for rule in &rules.domains {
            let domain = Domain::of_label(&rule.label);
            labels.insert(domain, (rule.label.clone(), rule.origin.clone()));
            for member in &rule.members {
                match member {
                    Who::Owner => _ = domains.insert(owner, domain),
                    Who::Uid(uid) => _ = domains.insert(*uid, domain),
                    // A process may be in many groups, and has one domain.
                    Who::Gid(_) => {}
                }
            }
        }
        let (default, default_origin) = (rules.default, rules.default_origin.clone());
        let services = rules.services.clone();
        Ok(Access { owner, default, default_origin, rules: compiled, domains, labels, services })
    }

    /// Those of a bus for one user.
    pub fn none(owner: u32) -> Access {
        let Rules { default, default_origin, .. } = Rules::default();
        let (rules, services) = (Vec::new(), Vec::new());
        let (domains, labels) = (HashMap::new(), HashMap::new());
        Access { owner, default, default_origin, rules, domains, labels, services }
    }

    /// Whose bus it is.
    pub fn owner(&self) -> u32 {
        self.owner
    }

    /// Whether this user is the bus's own, or root.
    pub fn is_own(&self, uid: u32) -> bool {
        uid == self.owner || uid == 0
    }

    /// Where what decided was written.
    pub fn origin(&self, cause: Cause) -> String {
        match cause {
            Cause::Rule(index) => {
                self.rules.get(index as usize).map_or_else(String::new, |r| r.rule.origin.clone())
            }
            Cause::Default => self.default_origin.clone(),
            Cause::OtherUser => {
                format!("{}; other users provide only what a rule allows", self.default_origin)
            }
        }
    }

    /// The trust domain of a user's workers.
    pub fn domain_of(&self, uid: u32) -> Domain {
        self.domains.get(&uid).copied().unwrap_or(Domain::of_uid(uid))
    }

    /// A domain's name for a person.
    pub fn domain_name(&self, domain: Domain) -> String {
        match (self.labels.get(&domain), domain.uid()) {
            (Some((label, _)), _) => label.clone(),
            (None, Some(uid)) => format!("uid {uid}"),
            (None, None) => "of an earlier policy".into(),
        }
    }

    /// Where a domain was written, if it was.
    pub fn domain_origin(&self, domain: Domain) -> Option<String> {
        self.labels.get(&domain).map(|(_, origin)| origin.clone())
    }

    /// What is said of services, by name.
    pub fn services(&self) -> HashMap<Box<str>, ServiceRule> {
        self.services.iter().map(|rule| (rule.name.as_str().into(), rule.clone())).collect()
    }

    /// What is said of one.
    pub fn service(&self, name: &str) -> Option<&ServiceRule> {
        self.services.iter().find(|rule| rule.name == name)
    }

    /// Whether anybody else than the bus's own user, and root, may be allowed something.
    pub fn admits_others(&self) -> bool {
        let others = |who: &Who| match who {
            Who::Owner => false,
            Who::Uid(uid) => !self.is_own(*uid),
            Who::Gid(_) => true,
        };
        self.default == Otherwise::Allow
            || self
                .rules
                .iter()
                .any(|r| r.rule.allow && (r.rule.who.is_empty() || r.rule.who.iter().any(others)))
    }

    /// Whether somebody may connect: who may be allowed anything, and the bus's own user and root in any case.
    pub fn admits(&self, asker: Asker<'_>) -> Decision {
        let named = |r: &Compiled| r.rule.allow && self.is_about(&r.rule, asker);
        let allow =
            self.is_own(asker.uid) || self.default == Otherwise::Allow || self.rules.iter().any(named);
        Decision { allow, cause: Cause::Default }
    }

    /// Whether somebody may call an operation.
    pub fn may_call(&self, asker: Asker<'_>, service: &str, operation: &str) -> Verdict {
        let rules = self.matching(asker, Verb::Call, service, Some(operation));
        if rules.steps.is_empty() {
            Verdict::Always(rules.otherwise)
        } else {
            Verdict::ByKey(Arc::new(rules))
        }
    }

    /// Whether somebody may provide an operation.
    pub fn may_provide(&self, asker: Asker<'_>, service: &str, operation: &str) -> Decision {
        self.matching(asker, Verb::Provide, service, Some(operation)).otherwise
    }

    /// Whether somebody may acquire all words from the first to the last.
    pub fn may_acquire(
        &self,
        asker: Asker<'_>,
        service: &str,
        is_name: bool,
        first: u64,
        last: u64,
    ) -> Decision {
        self.matching(asker, Verb::Acquire, service, None).decide_span(is_name, first, last)
    }

    fn is_about(&self, rule: &Rule, asker: Asker<'_>) -> bool {
        let is = |who: &Who| match *who {
            Who::Owner => asker.uid == self.owner,
            Who::Uid(uid) => asker.uid == uid,
            Who::Gid(gid) => asker.gid == gid || asker.groups.contains(&gid),
        };
        rule.who.is_empty() || rule.who.iter().any(is)
    }

    /// The rules that a request can meet, whatever its key.
    fn matching(&self, asker: Asker<'_>, verb: Verb, service: &str, operation: Option<&str>) -> KeyRules {
        let mut steps = Vec::new();
        for (index, Compiled { rule, keys }) in self.rules.iter().enumerate() {
            let named = |patterns: &[Pattern], name: &str| {
                patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(name))
            };
            let about = (rule.verbs.is_empty() || rule.verbs.contains(&verb))
                && self.is_about(rule, asker)
                && named(&rule.services, service)
                && operation.map_or(rule.operations.is_empty(), |name| named(&rule.operations, name))
                && !(verb == Verb::Provide && keys.is_some());
            if !about {
                continue;
            }
            let decision = Decision { allow: rule.allow, cause: Cause::Rule(index as u32) };
            match keys {
                Some(keys) => steps.push((keys.clone(), decision)),
                None => return KeyRules { steps, otherwise: decision },
            }
        }
        KeyRules { steps, otherwise: self.otherwise(asker, verb) }
    }

    fn otherwise(&self, asker: Asker<'_>, verb: Verb) -> Decision {
        let own = self.is_own(asker.uid);
        match self.default {
            Otherwise::Allow if verb == Verb::Provide && !own => {
                Decision { allow: false, cause: Cause::OtherUser }
            }
            Otherwise::Allow => Decision { allow: true, cause: Cause::Default },
            Otherwise::Deny => Decision { allow: false, cause: Cause::Default },
            Otherwise::Owner => Decision { allow: own, cause: Cause::Default },
        }
    }
}
