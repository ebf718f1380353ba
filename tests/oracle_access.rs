//! The rules of access against a table that is filled in by hand: each question is asked of every rule in turn.

use fastrand::Rng;
use trine::Key;
use trine::access::{
    Access, Asker, Cause, Decision, KeyRule, Otherwise, Pattern, Rule, Rules, Verb, Verdict, Who,
};

const OWNER: u32 = 10;
const UIDS: [u32; 4] = [0, OWNER, 11, 12];
const GROUPS: [u32; 3] = [20, 21, 22];
const SERVICES: [&str; 4] = ["a", "ab", "b", "c"];
const OPERATIONS: [&str; 3] = ["get", "put", "list"];
const NUMBERS: u64 = 24;
const NAMES: [&str; 3] = ["red", "green", "blue"];

fn word(name: &str) -> u64 {
    // Within the numbers on purpose: a name and a number with one word are two keys.
    NAMES.iter().position(|n| *n == name).expect("a name") as u64
}

struct Question<'a> {
    asker: Asker<'a>,
    verb: Verb,
    service: &'a str,
    operation: Option<&'a str>,
    key: Option<(bool, u64)>,
}

/// The whole semantics, in the slowest way.
fn naive(rules: &Rules, q: &Question) -> Decision {
    let own = q.asker.uid == OWNER || q.asker.uid == 0;
    for (i, rule) in rules.rules.iter().enumerate() {
        let who = rule.who.is_empty()
            || rule.who.iter().any(|w| match w {
                Who::Owner => q.asker.uid == OWNER,
                Who::Uid(uid) => *uid == q.asker.uid,
                Who::Gid(gid) => *gid == q.asker.gid || q.asker.groups.contains(gid),
            });
        let name = |patterns: &[Pattern], name: &str| {
            patterns.is_empty()
                || patterns.iter().any(|p| match p {
                    Pattern::Exact(p) => p == name,
                    Pattern::Prefix(p) => name.starts_with(p.as_str()),
                })
        };
        let key = rule.keys.is_empty()
            || q.key.is_some_and(|(is_name, n)| {
                rule.keys.iter().any(|k| match k {
                    KeyRule::Numbers { first, last } => !is_name && (*first..=*last).contains(&n),
                    KeyRule::Name(text) => is_name && word(text) == n,
                })
            });
        let operation = match q.operation {
            Some(operation) => name(&rule.operations, operation),
            None => rule.operations.is_empty(),
        };
        let verb = rule.verbs.is_empty() || rule.verbs.contains(&q.verb);
        if verb && who && name(&rule.services, q.service) && operation && key {
            return Decision { allow: rule.allow, cause: Cause::Rule(i as u32) };
        }
    }
    match rules.default {
        Otherwise::Allow if q.verb == Verb::Provide && !own => {
            Decision { allow: false, cause: Cause::OtherUser }
        }
        Otherwise::Allow => Decision { allow: true, cause: Cause::Default },
        Otherwise::Deny => Decision { allow: false, cause: Cause::Default },
        Otherwise::Owner => Decision { allow: own, cause: Cause::Default },
    }
}

fn some<T: Clone>(rng: &mut Rng, all: &[T], most: usize) -> Vec<T> {
    (0..rng.usize(..=most)).map(|_| all[rng.usize(..all.len())].clone()).collect()
}

fn random_rules(rng: &mut Rng) -> Rules {
    let patterns = |rng: &mut Rng, names: &[&str]| {
        let exact = names.iter().map(|n| Pattern::Exact((*n).into()));
        let all: Vec<Pattern> =
            exact.chain([Pattern::Prefix("a".into()), Pattern::Prefix("".into())]).collect();
        some(rng, &all, 2)
    };
    let rule = |rng: &mut Rng, i: usize| {
        let mut keys: Vec<KeyRule> = Vec::new();
        for _ in 0..rng.usize(..4) {
            let (a, b) = (rng.u64(..NUMBERS), rng.u64(..NUMBERS));
            keys.push(match rng.u8(..3) {
                0 => KeyRule::Name(NAMES[rng.usize(..NAMES.len())].into()),
                _ => KeyRule::Numbers { first: a.min(b), last: a.max(b) },
            });
        }
        if rng.bool() {
            keys.clear();
        }
        let who = [Who::Owner, Who::Uid(0), Who::Uid(11), Who::Uid(12), Who::Gid(20), Who::Gid(21)];
        Rule {
            origin: format!("line {i}"),
            allow: rng.bool(),
            verbs: some(rng, &[Verb::Call, Verb::Provide, Verb::Acquire], 2),
            who: some(rng, &who, 2),
            services: patterns(rng, &SERVICES),
            operations: if rng.u8(..3) > 0 { Vec::new() } else { patterns(rng, &OPERATIONS) },
            keys,
        }
    };
    Rules {
        default: [Otherwise::Allow, Otherwise::Deny, Otherwise::Owner][rng.usize(..3)],
        rules: (0..rng.usize(..8)).map(|i| rule(rng, i)).collect(),
        ..Rules::default()
    }
}

#[test]
fn every_question_is_answered_as_by_the_rules_read_one_by_one() {
    let mut rng = Rng::with_seed(4);
    let (mut by_key, mut split) = (0, 0);
    for round in 0..1500 {
        let rules = random_rules(&mut rng);
        let access =
            Access::new(&rules, OWNER, |name| Ok::<u64, ()>(word(name))).expect("no name is refused");
        for _ in 0..40 {
            let groups = some(&mut rng, &GROUPS, 2);
            let asker = Asker { uid: UIDS[rng.usize(..4)], gid: GROUPS[rng.usize(..3)], groups: &groups };
            let (service, operation) = (SERVICES[rng.usize(..4)], OPERATIONS[rng.usize(..3)]);
            let ask =
                |verb, operation, key| naive(&rules, &Question { asker, verb, service, operation, key });
            // Calls: what was said when the route was opened holds for every key.
            let verdict = access.may_call(asker, service, operation);
            by_key += usize::from(matches!(verdict, Verdict::ByKey(_)));
            let numbers = (0..NUMBERS).map(|n| (Some(Key::number(n)), Some((false, n))));
            for (key, naive_key) in numbers.chain([(None, None)]) {
                let said = match &verdict {
                    Verdict::Always(decision) => *decision,
                    Verdict::ByKey(rules) => rules.decide(key),
                };
                let right = ask(Verb::Call, Some(operation), naive_key);
                assert_eq!(said, right, "round {round}: {asker:?} {service}.{operation} {key:?} {rules:#?}");
            }
            let said = access.may_provide(asker, service, operation);
            assert_eq!(said, ask(Verb::Provide, Some(operation), None), "provide {rules:#?}");
            // A range may be acquired if each number of it may.
            let (a, b) = (rng.u64(..NUMBERS), rng.u64(..NUMBERS));
            let (first, last) = (a.min(b), a.max(b));
            let each: Vec<bool> =
                (first..=last).map(|n| ask(Verb::Acquire, None, Some((false, n))).allow).collect();
            split += usize::from(each.iter().any(|&a| a != each[0]));
            let said = access.may_acquire(asker, service, false, first, last);
            assert_eq!(said.allow, each.iter().all(|&allow| allow), "{first}..={last} {rules:#?}");
            let name = word(NAMES[rng.usize(..3)]);
            let said = access.may_acquire(asker, service, true, name, name);
            assert_eq!(said, ask(Verb::Acquire, None, Some((true, name))), "{rules:#?}");
        }
    }
    assert!(by_key > 1000 && split > 1000, "{by_key} routes by key, {split} ranges of two minds");
}

#[test]
fn a_user_is_a_domain_unless_a_label_says_otherwise() {
    let mut rules = Rules::default();
    let access = |rules: &Rules| Access::new(rules, OWNER, |_| Ok::<u64, ()>(0)).expect("rules");
    assert_ne!(access(&rules).domain_of(11), access(&rules).domain_of(12));
    assert!(!access(&rules).admits_others());
    rules.domains.push(trine::access::DomainRule {
        origin: String::new(),
        label: "web".into(),
        members: vec![Who::Uid(11), Who::Uid(12)],
    });
    let labelled = access(&rules);
    assert_eq!(labelled.domain_of(11), labelled.domain_of(12));
    assert_ne!(labelled.domain_of(11), labelled.domain_of(13));
    assert_eq!(labelled.domain_name(labelled.domain_of(12)), "web");
    assert_eq!(labelled.domain_name(labelled.domain_of(13)), "uid 13");
}
