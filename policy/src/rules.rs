//! What a file means: its values, checked one by one.

use std::collections::HashMap;

use toml::Spanned;
use trine::access::{
    DomainRule, KeyRule, Otherwise, Pattern, Rule, Rules, ServiceRule, Verb, Who, check_name,
};
use trine::director::quota::{Counted, QuotaRules};
use trine::{Policy, Unheld};

use crate::raw::{self, Atom, List};
use crate::{People, RULES_MAX};

/// A place in the file, and what is wrong there.
type Wrong = (usize, String);

/// The user whose bus it is, whoever that is.
const OWNER: &str = "@owner";
/// Everybody, or everything.
const ALL: &str = "*";

/// Understands a file. `origin` says where a place in it is.
pub fn rules(raw: raw::File, origin: &dyn Fn(usize) -> String, people: &dyn People) -> Result<Rules, Wrong> {
    let default = match &**raw.default.get_ref() {
        "allow" => Otherwise::Allow,
        "deny" => Otherwise::Deny,
        "owner" => Otherwise::Owner,
        other => {
            let reason = format!("default is {other:?}, and may be \"allow\", \"deny\" or \"owner\"");
            return Err((raw.default.span().start, reason));
        }
    };
    let mut rules = Rules { default, default_origin: origin(raw.default.span().start), ..Rules::default() };
    if let Some(one_more) = raw.rules.get(RULES_MAX) {
        return Err((one_more.span().start, format!("there may be {RULES_MAX} rules, and this is one more")));
    }
    let mut seen: HashMap<String, String> = HashMap::new();
    for raw in raw.rules {
        let at = raw.span().start;
        let rule = rule(raw, origin(at), people)?;
        let about = format!("{:?}", Rule { origin: String::new(), allow: true, ..rule.clone() });
        if let Some(earlier) = seen.insert(about, rule.origin.clone()) {
            return Err((at, format!("it can never decide anything: {earlier} is about exactly the same")));
        }
        rules.rules.push(rule);
    }
    let mut members: HashMap<Who, String> = HashMap::new();
    for (label, raw) in raw.domains {
        let (at, label) = (label.span().start, label.into_inner());
        name(at, "domain", &label)?;
        let user = raw.into_inner().user;
        let user_at = user.span().start;
        let users = atoms(user, "user", |at, atom| match who(at, atom, "user", people)? {
            Some(user) => Ok(user),
            None => Err((at, "a domain has members: name each of them".into())),
        })?;
        for user in &users {
            if let Some(other) = members.insert(*user, label.clone()) {
                return Err((
                    user_at,
                    format!("a user is in one domain only, and one of these is in {other:?} too"),
                ));
            }
        }
        rules.domains.push(DomainRule { origin: origin(at), label, members: users });
    }
    for (service, raw) in raw.services {
        let (at, service) = (service.span().start, service.into_inner());
        name(at, "service", &service)?;
        let raw::Service { policy: raw_policy, unheld: raw_unheld } = raw.into_inner();
        let (policy, unheld) = (raw_policy.map(policy).transpose()?, raw_unheld.map(unheld).transpose()?);
        rules.services.push(ServiceRule { origin: origin(at), name: service, policy, unheld });
    }
    rules.quotas = quotas(raw.quotas)?;
    Ok(rules)
}

fn quotas(raw: raw::Quotas) -> Result<QuotaRules, Wrong> {
    let all = [
        (Counted::Sessions, raw.sessions),
        (Counted::Workers, raw.workers),
        (Counted::SegmentBytes, raw.segment_bytes),
        (Counted::Descriptors, raw.descriptors),
        (Counted::Routes, raw.routes),
        (Counted::HeldKeys, raw.held_keys),
        (Counted::DeclaredKeys, raw.declared_keys),
        (Counted::WaitingCalls, raw.waiting_calls),
    ];
    let some = |value: Option<Spanned<u64>>| match value {
        Some(value) if *value.get_ref() == 0 => {
            Err((value.span().start, "a quota of 0 lets nobody in: say what there may be".to_owned()))
        }
        value => Ok(value.map(Spanned::into_inner)),
    };
    let mut rules = QuotaRules::default();
    for (which, quota) in all {
        let Some(raw::Quota { pool, process }) = quota else { continue };
        rules.quotas.push((which, some(pool)?, some(process)?));
    }
    rules.worker_reserve = raw.worker_reserve.map(Spanned::into_inner);
    Ok(rules)
}

fn rule(raw: Spanned<raw::Rule>, origin: String, people: &dyn People) -> Result<Rule, Wrong> {
    let at = raw.span().start;
    let raw::Rule { allow, deny, user, group, service, operation, keys } = raw.into_inner();
    let wrong = |reason: &str| Err((at, reason.to_owned()));
    let (allow, verbs) = match (allow, deny) {
        (Some(verbs), None) => (true, verbs),
        (None, Some(verbs)) => (false, verbs),
        (Some(_), Some(second)) => {
            return Err((second.span().start, "a rule allows or denies: write two of them".into()));
        }
        (None, None) => return wrong("a rule says what it allows or denies: allow = \"call\", for instance"),
    };
    let verbs_at = verbs.span().start;
    let verbs = all_or(atoms(verbs, "what is allowed or denied", |at, atom| {
        Ok(match &*text(at, atom, "what is allowed or denied")? {
            "call" => Some(Verb::Call),
            "provide" => Some(Verb::Provide),
            "acquire" => Some(Verb::Acquire),
            ALL => None,
            other => {
                return Err((
                    at,
                    format!("{other:?} is none of \"call\", \"provide\", \"acquire\" and \"*\""),
                ));
            }
        })
    })?);
    let who = match (user, group) {
        (None, None) => {
            return wrong(
                "a rule says whom it is about: user = \"name\", user = \"*\" for everybody, or group = …",
            );
        }
        (users, groups) => {
            let users =
                users.map(|list| atoms(list, "user", |at, a| who(at, a, "user", people))).transpose()?;
            let groups =
                groups.map(|list| atoms(list, "group", |at, a| who(at, a, "group", people))).transpose()?;
            all_or(users.into_iter().chain(groups).flatten().collect())
        }
    };
    let Some(service) = service else {
        return wrong(
            "a rule says which services it is about: service = \"name\", or service = \"*\" for all",
        );
    };
    let services = all_or(atoms(service, "service", |at, atom| pattern(at, atom, "service"))?);
    let (operation_at, keys_at) =
        (operation.as_ref().map(|o| o.span().start), keys.as_ref().map(|k| k.span().start));
    let operations =
        operation.map(|list| atoms(list, "operation", |at, atom| pattern(at, atom, "operation")));
    let operations = all_or(operations.transpose()?.unwrap_or_default());
    let keys = keys.map(|list| atoms(list, "keys", key)).transpose()?.unwrap_or_default();
    // What would be ignored is said instead.
    if let Some(at) = operation_at.filter(|_| verbs.contains(&Verb::Acquire)) {
        return Err((
            at,
            "a right is to a resource, whatever the operation: leave \"acquire\" to a rule of its own".into(),
        ));
    }
    if let Some(at) = keys_at.filter(|_| verbs.contains(&Verb::Provide)) {
        return Err((
            at,
            "who may provide a service may do so for all keys: leave \"provide\" to a rule of its own".into(),
        ));
    }
    if verbs.is_empty() && (operation_at.is_some() || keys_at.is_some()) {
        return Err((
            verbs_at,
            "with operation or keys, say what it is about: \"call\" or \"acquire\"".into(),
        ));
    }
    Ok(Rule { origin, allow, verbs, who, services, operations, keys })
}

/// A list's values, of which none may be there twice, and at least one is.
fn atoms<T: PartialEq>(
    list: Spanned<List>,
    what: &str,
    mut each: impl FnMut(usize, Atom) -> Result<T, Wrong>,
) -> Result<Vec<T>, Wrong> {
    let start = list.span().start;
    let List(atoms) = list.into_inner();
    if atoms.is_empty() {
        return Err((start, format!("{what}: an empty list is about nothing")));
    }
    let mut values: Vec<T> = Vec::with_capacity(atoms.len());
    for (at, atom) in atoms {
        let at = at.unwrap_or(start);
        let value = each(at, atom)?;
        if values.contains(&value) {
            return Err((at, format!("{what}: this is there twice")));
        }
        values.push(value);
    }
    Ok(values)
}

/// Nothing said is all; so is whatever stands beside "all".
fn all_or<T>(values: Vec<Option<T>>) -> Vec<T> {
    values.into_iter().collect::<Option<Vec<T>>>().unwrap_or_default()
}

fn text(at: usize, atom: Atom, what: &str) -> Result<String, Wrong> {
    match atom {
        Atom::Text(text) => Ok(text),
        _ => Err((at, format!("{what} is a text, in quotes"))),
    }
}

fn name(at: usize, what: &'static str, name: &str) -> Result<(), Wrong> {
    check_name(what, name).map_err(|e| (at, e.to_string()))
}

fn who(at: usize, atom: Atom, what: &'static str, people: &dyn People) -> Result<Option<Who>, Wrong> {
    let (number, make): (_, fn(u32) -> Who) = match (what, &atom) {
        ("user", Atom::Text(text)) if text == ALL => return Ok(None),
        ("user", Atom::Text(text)) if text == OWNER => return Ok(Some(Who::Owner)),
        ("user", Atom::Text(text)) => (people.uid(text), Who::Uid),
        ("group", Atom::Text(text)) => (people.gid(text), Who::Gid),
        // The last number is nobody's: it means "unknown".
        (_, Atom::Number(number)) => {
            let number = u32::try_from(*number).ok().filter(|&n| n < u32::MAX);
            let reason = format!("{what} numbers go from 0 to {}", u32::MAX - 1);
            let make = if what == "user" { Who::Uid } else { Who::Gid };
            return number.map(|n| Some(make(n))).ok_or((at, reason));
        }
        _ => return Err((at, format!("a {what} is a name, in quotes, or a number"))),
    };
    let Atom::Text(text) = atom else { return Ok(None) };
    let known = number.map(|n| Some(make(n)));
    known.ok_or_else(|| (at, format!("there is no {what} {:?} on this machine", shown(&text))))
}

fn pattern(at: usize, atom: Atom, what: &'static str) -> Result<Option<Pattern>, Wrong> {
    let text = text(at, atom, what)?;
    Ok(match text.strip_suffix(ALL) {
        Some("") => None,
        Some(prefix) => {
            name(at, what, prefix)?;
            Some(Pattern::Prefix(prefix.into()))
        }
        None => {
            name(at, what, &text)?;
            Some(Pattern::Exact(text))
        }
    })
}

fn key(at: usize, atom: Atom) -> Result<KeyRule, Wrong> {
    let number = |n: i64| u64::try_from(n).map_err(|_| (at, format!("{n} is no key: keys count from 0 on")));
    Ok(match atom {
        Atom::Text(text) => {
            name(at, "key", &text)?;
            KeyRule::Name(text)
        }
        Atom::Number(n) => KeyRule::Numbers { first: number(n)?, last: number(n)? },
        Atom::Range { first: None, last: None } => {
            return Err((at, "a range has a first number, a last one, or both".into()));
        }
        Atom::Range { first, last } => {
            let first = first.map_or(Ok(0), number)?;
            let last = last.map_or(Ok(u64::MAX), number)?;
            if first > last {
                return Err((at, format!("the range is upside down: first is {first}, and last {last}")));
            }
            KeyRule::Numbers { first, last }
        }
    })
}

fn policy(raw: Spanned<String>) -> Result<Policy, Wrong> {
    match &**raw.get_ref() {
        "jbsq" => Ok(Policy::Jbsq),
        "round-robin" => Ok(Policy::RoundRobin),
        "affinity" => Ok(Policy::Affinity),
        "least-outstanding" => Ok(Policy::LeastOutstanding),
        other => {
            let all = "\"jbsq\", \"round-robin\", \"affinity\" and \"least-outstanding\"";
            Err((raw.span().start, format!("{:?} is none of {all}", shown(other))))
        }
    }
}

fn unheld(raw: Spanned<String>) -> Result<Unheld, Wrong> {
    match &**raw.get_ref() {
        "wait" => Ok(Unheld::Wait),
        "error" => Ok(Unheld::Error),
        "offer" => Ok(Unheld::Offer),
        other => {
            let all = "\"wait\", \"error\" and \"offer\"";
            Err((raw.span().start, format!("{:?} is none of {all}", shown(other))))
        }
    }
}

/// A text from the file, cut where it is long.
fn shown(text: &str) -> String {
    text.chars().take(32).collect()
}
