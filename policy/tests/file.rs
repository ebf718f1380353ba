//! Policy files: the example that the documentation has, and everything that is refused.

use proptest::prelude::*;
use trine::access::{Access, Asker, KeyRule, Otherwise, Pattern, Verb, Who};
use trine_policy::{People, PolicyError, parse_with, read};

struct Village;

impl People for Village {
    fn uid(&self, user: &str) -> Option<u32> {
        [("root", 0), ("nobody", 65534), ("ann", 1001), ("bob", 1002)]
            .iter()
            .find(|p| p.0 == user)
            .map(|p| p.1)
    }
    fn gid(&self, group: &str) -> Option<u32> {
        [("daemon", 1), ("staff", 50)].iter().find(|p| p.0 == group).map(|p| p.1)
    }
}

fn parse(text: &str) -> Result<trine::access::Rules, PolicyError> {
    parse_with(text, "policy.toml", &Village)
}

#[test]
fn the_documentations_example_is_a_policy() {
    let page = include_str!("../../docs/policy.md");
    let example =
        page.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    let rules = parse(example).expect("it is one");
    let line = |n: usize| example.lines().nth(n - 1).expect("a line");
    for rule in &rules.rules {
        let number: usize =
            rule.origin.strip_prefix("policy.toml:").and_then(|n| n.parse().ok()).expect("a line");
        assert_eq!(line(number), "[[rule]]", "{}", rule.origin);
    }
    assert_eq!(rules.default, Otherwise::Owner);
    assert_eq!(rules.rules[0].services, [Pattern::Exact("kv".into())]);
    assert!(!rules.rules[0].allow && rules.rules[0].who.is_empty());
    let second = &rules.rules[1];
    assert_eq!(second.who, [Who::Uid(65534), Who::Uid(4711), Who::Gid(1)]);
    assert_eq!(second.verbs, [Verb::Call]);
    let keys = [
        KeyRule::Numbers { first: 7, last: 7 },
        KeyRule::Numbers { first: 100, last: 199 },
        KeyRule::Name("config".into()),
    ];
    assert_eq!(second.keys, keys);
    assert_eq!(rules.rules[2].verbs, [Verb::Provide, Verb::Acquire]);
    assert_eq!(
        (&*rules.domains[0].label, &rules.domains[0].members[..]),
        ("media", &[Who::Uid(65534), Who::Uid(4711)][..])
    );
    let service = &rules.services[0];
    assert_eq!((&*service.name, service.policy), ("kv", Some(trine::Policy::Affinity)));
    assert_eq!(service.unheld, Some(trine::Unheld::Wait));
}

#[test]
fn whoever_is_named_is_meant() {
    let text = "default = \"deny\"\n[[rule]]\nallow = \"*\"\nuser = \"@owner\"\nservice = \"*\"\n\
                [[rule]]\nallow = \"call\"\ngroup = \"staff\"\nservice = \"files.*\"\n";
    let rules = parse(text).expect("a policy");
    let access = Access::new(&rules, 1001, |_| Ok::<u64, ()>(0)).expect("no keys");
    let owner = Asker { uid: 1001, gid: 1, groups: &[] };
    let staff = Asker { uid: 1002, gid: 1, groups: &[7, 50] };
    assert!(access.may_provide(owner, "any", "op").allow && !access.may_provide(staff, "any", "op").allow);
    assert!(access.admits(staff).allow && !access.admits(Asker { groups: &[7], ..staff }).allow);
    let allows = |service: &str| match access.may_call(staff, service, "op") {
        trine::access::Verdict::Always(decision) => decision.allow,
        trine::access::Verdict::ByKey(_) => panic!("no rule is about keys"),
    };
    assert!(allows("files.v1") && !allows("file"));
}

/// What is wrong, in which line, and a part of the reason.
const REFUSED: &[(&str, usize, &str)] = &[
    ("", 1, "missing field `default`"),
    ("default = \"maybe\"", 1, "may be \"allow\""),
    ("default = 1", 1, "expected a string"),
    ("default = \"deny\"\ncolour = 1", 2, "unknown field `colour`"),
    ("default = \"deny\"\ndefault = \"deny\"", 2, "duplicate"),
    (
        "default = \"deny\"\n[[rule]]\nallow = \"call\"\nuser = \"ann\"\nservice = \"a\"\nservise = \"a\"",
        6,
        "servise",
    ),
    (
        "default = \"deny\"\n[[rule]]\nallow = \"call\"\nuser = \"ann\"\nservice = \"a\"\nallow = \"call\"",
        6,
        "duplicate",
    ),
    ("default = \"deny\"\n\n[[rule]]\nuser = \"ann\"\nservice = \"a\"", 3, "says what it allows"),
    (
        "default = \"deny\"\n[[rule]]\nallow = \"call\"\ndeny = \"call\"\nuser = \"ann\"\nservice = \"a\"",
        4,
        "write two",
    ),
    (
        "default = \"deny\"\n[[rule]]\nallow = \"shout\"\nuser = \"ann\"\nservice = \"a\"",
        3,
        "\"shout\" is none of",
    ),
    ("default = \"deny\"\n[[rule]]\nallow = \"call\"\nservice = \"a\"", 2, "whom"),
    ("default = \"deny\"\n[[rule]]\nallow = \"call\"\nuser = \"ann\"", 2, "which services"),
    ("default = \"deny\"\n[[rule]]\nallow = \"call\"\nuser = \"eve\"\nservice = \"a\"", 4, "no user \"eve\""),
    ("default = \"deny\"\n[[rule]]\nallow = \"call\"\ngroup = \"@owner\"\nservice = \"a\"", 4, "no group"),
    ("default = \"deny\"\n[[rule]]\nallow = \"call\"\nuser = -1\nservice = \"a\"", 4, "from 0 to"),
    ("default = \"deny\"\n[[rule]]\nallow = \"call\"\nuser = 4294967295\nservice = \"a\"", 4, "from 0 to"),
    (
        "default = \"deny\"\n[[rule]]\nallow = \"call\"\nuser = true\nservice = \"a\"",
        4,
        "invalid type: boolean",
    ),
    (
        "default = \"deny\"\n[[rule]]\nallow = \"call\"\nuser = 1.5\nservice = \"a\"",
        4,
        "invalid type: floating",
    ),
    ("default = \"deny\"\n[[rule]]\nallow = \"call\"\nuser = []\nservice = \"a\"", 4, "empty list"),
    (
        "default = \"deny\"\n[[rule]]\nallow = \"call\"\nuser = [\"ann\",\n 1001]\nservice = \"a\"",
        5,
        "there twice",
    ),
    ("default = \"deny\"\n[[rule]]\nallow = \"call\"\nuser = \"ann\"\nservice = 7", 5, "is a text"),
    (
        "default = \"deny\"\n[[rule]]\nallow = \"call\"\nuser = \"ann\"\nservice = \"a\\u0007\"",
        5,
        "is not a name",
    ),
    ("default = \"deny\"\n[[rule]]\nallow = \"call\"\nuser = \"ann\"\nservice = \"\"", 5, "it is empty"),
    (
        "default = \"deny\"\n[[rule]]\nallow = \"call\"\nuser = \"ann\"\nservice = \"a\"\nkeys = [1,\n\"a b\"]",
        7,
        "not a name",
    ),
    (
        "default = \"deny\"\n[[rule]]\nallow = \"call\"\nuser = \"ann\"\nservice = \"a\"\nkeys = { first = 9, last = 3 }",
        6,
        "upside down",
    ),
    (
        "default = \"deny\"\n[[rule]]\nallow = \"call\"\nuser = \"ann\"\nservice = \"a\"\nkeys = { frist = 9 }",
        6,
        "frist",
    ),
    (
        "default = \"deny\"\n[[rule]]\nallow = \"call\"\nuser = \"ann\"\nservice = \"a\"\nkeys = {}",
        6,
        "a first number",
    ),
    (
        "default = \"deny\"\n[[rule]]\nallow = \"call\"\nuser = \"ann\"\nservice = \"a\"\nkeys = -3",
        6,
        "count from 0",
    ),
    (
        "default = \"deny\"\n[[rule]]\nallow = \"provide\"\nuser = \"ann\"\nservice = \"a\"\nkeys = 3",
        6,
        "for all keys",
    ),
    (
        "default = \"deny\"\n[[rule]]\nallow = \"acquire\"\nuser = \"ann\"\nservice = \"a\"\noperation = \"o\"",
        6,
        "whatever the operation",
    ),
    (
        "default = \"deny\"\n[[rule]]\nallow = \"*\"\nuser = \"ann\"\nservice = \"a\"\nkeys = 3",
        3,
        "say what it is about",
    ),
    (
        "default = \"deny\"\n[[rule]]\nallow = \"call\"\nuser = \"ann\"\nservice = \"a\"\n\
         [[rule]]\ndeny = \"call\"\nuser = 1001\nservice = \"a\"",
        6,
        "policy.toml:2 is about exactly the same",
    ),
    ("default = \"deny\"\n[domain.a]\nuser = \"ann\"\n[domain.b]\nuser = 1001", 5, "one domain only"),
    ("default = \"deny\"\n[domain.a]\nuser = \"*\"", 3, "name each"),
    ("default = \"deny\"\n[domain.\"a b\"]\nuser = \"ann\"", 2, "is not a name"),
    ("default = \"deny\"\n[domain.a]\nuser = \"ann\"\n[domain.a]\nuser = \"bob\"", 4, "duplicate"),
    ("default = \"deny\"\n[service.kv]\npolicy = \"fastest\"", 3, "\"fastest\" is none of"),
    ("default = \"deny\"\n[service.kv]\nunheld = \"drop\"", 3, "\"drop\" is none of"),
    ("default = \"deny\"\n[service.kv]\nunheld = true", 3, "expected a string"),
    ("default = \"deny\"\n[service.kv]\nspeed = 1", 3, "unknown field `speed`"),
    ("default = \"deny\"\n[[rule]", 2, "expected `]`"),
];

#[test]
fn what_is_wrong_is_said_with_its_line() {
    for &(text, line, reason) in REFUSED {
        let error = parse(text).expect_err(text);
        assert_eq!(error.line, line, "{text:?}: {error}");
        assert!(error.reason.contains(reason), "{text:?}: {error}");
        let shown = error.to_string();
        assert!(shown.starts_with(&format!("policy.toml:{line}:")), "{shown}");
        assert!(!shown.chars().any(char::is_control), "{shown:?}");
    }
}

#[test]
fn a_file_that_others_could_change_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("policy.toml");
    assert_eq!(read(&path).expect_err("there is none").line, 0);
    std::fs::write(&path, "default = \"deny\"\n").expect("it can be written");
    let mode =
        |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("it is ours");
    mode(0o644);
    assert_eq!(read(&path).expect("a policy").default_origin, "policy.toml:1");
    mode(0o666);
    assert!(read(&path).expect_err("anybody may write it").reason.contains("may write it"));
    mode(0o644);
    std::fs::write(&path, [0xff, 0xfe]).expect("it can be written");
    assert!(read(&path).is_err());
    std::fs::write(&path, "#".repeat(trine_policy::BYTES_MAX + 1)).expect("it can be written");
    assert!(read(&path).expect_err("too long").reason.contains("longer"));
}

#[test]
fn quotas_are_named_and_what_is_not_named_stays() {
    use trine::{Quota, Quotas};
    let text = "default = \"deny\"\n[quotas]\nsessions = { pool = 100, process = 5 }\nroutes = { process = 7 }\nworker_reserve = 3\n";
    let quotas = parse(text).expect("a policy").quotas.over(Quotas::default());
    let before = Quotas::default();
    assert_eq!(quotas.sessions, Quota { pool: 100, process: 5 });
    assert_eq!(quotas.routes, Quota { pool: before.routes.pool, process: 7 });
    assert_eq!((quotas.worker_reserve, quotas.workers), (3, before.workers));
    for (wrong, line) in [
        ("sessions = 7", 3),
        ("sesions = { pool = 1 }", 3),
        ("sessions = { pool = -1 }", 3),
        ("routes = { process = 0 }", 3),
    ] {
        let error = parse(&format!("default = \"deny\"\n[quotas]\n{wrong}\n")).expect_err(wrong);
        assert_eq!(error.line, line, "{wrong}: {error}");
    }
}

proptest! {
    /// Nothing that a file can hold makes the parser panic, and every error has its place.
    #[test]
    fn any_text_is_a_policy_or_an_error_with_a_place(
        lines in prop::collection::vec(prop::sample::select(vec![
            "default = \"deny\"", "[[rule]]", "allow = \"call\"", "deny = [\"call\", \"acquire\"]", "user = \"ann\"",
            "group = 50", "service = \"a*\"", "operation = \"o\"", "keys = [1, { first = 2, last = 3 }, \"n\"]",
            "keys = { last = 9 }", "[domain.d]", "[service.kv]", "policy = \"affinity\"", "\"", "[", "ü = 1", "keys = [",
        ]), 0..14),
        noise in "\\PC{0,12}",
        at in 0usize..14,
    ) {
        let mut lines: Vec<&str> = lines;
        lines.insert(at.min(lines.len()), &noise);
        let text = lines.join("\n");
        if let Err(error) = parse(&text) {
            prop_assert!(error.line >= 1 && error.line <= text.matches('\n').count() + 1, "{}", error);
        }
    }
}
