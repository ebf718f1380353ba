//! Who may do what on a bus: its rules, as values.
//!
//! ```text
//! policy file ─► Rules ─► Access ─┬─ a client opens a route:  always, never, or by the key of each call
//!  (not here)   values   compiled ├─ a worker provides a service
//!                                 └─ a worker acquires a resource
//! ```
//! The first rule that matches decides; where none does, the default. Each rule knows where it was written, so that
//! whoever is refused can be told, and whoever asks why can be shown. Nothing here does I/O, looks up a user's name or
//! knows a file's format: that is for whoever makes the rules.
//!
//! Trust: whoever serves a session can spoil its other replies, since it may write in the session's inbox. So the
//! workers of a bus fall into *trust domains*, and a session is shown to those of one domain only. A user is a domain
//! of its own, unless the rules put several under one label.

mod compiled;

use crate::director::quota::QuotaRules;
use std::fmt;

use crate::resource::{Policy, Unheld};

pub use compiled::{Access, Asker, Cause, Decision, KeyRules, Verdict};

/// All that a director's file says. The default is a bus for one user: its own, and root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// What holds where no rule matches.
    pub default: Otherwise,
    /// Where that was said.
    pub default_origin: String,
    /// In their order: the first that matches decides.
    pub rules: Vec<Rule>,
    /// Users whose workers trust each other.
    pub domains: Vec<DomainRule>,
    /// What is said of services.
    pub services: Vec<ServiceRule>,
    /// What is said of quotas.
    pub quotas: QuotaRules,
}

impl Default for Rules {
    fn default() -> Self {
        Rules {
            default: Otherwise::Owner,
            default_origin: "the default: there is no policy file".into(),
            rules: Vec::new(),
            domains: Vec::new(),
            services: Vec::new(),
            quotas: QuotaRules::default(),
        }
    }
}

/// What holds where no rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Otherwise {
    /// Everybody may call and acquire. To provide a service is for the bus's own user and root even so.
    Allow,
    /// Nobody may do anything.
    Deny,
    /// The bus's own user and root may do everything, others nothing.
    Owner,
}

/// One rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Where it was written, as a person would say it: `policy.toml:12`.
    pub origin: String,
    /// Whether it allows; else it denies.
    pub allow: bool,
    /// What it is about; nothing said is all three.
    pub verbs: Vec<Verb>,
    /// Whom; nobody said is everybody.
    pub who: Vec<Who>,
    /// Which services; none said is all.
    pub services: Vec<Pattern>,
    /// Which operations; none said is all. A rule that names some says nothing about acquiring.
    pub operations: Vec<Pattern>,
    /// Which keys; none said is all, and calls without a key. A rule that names some says nothing about providing.
    pub keys: Vec<KeyRule>,
}

/// What a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
pub enum Verb {
    /// A client calls an operation.
    Call = 1,
    /// A worker provides a service.
    Provide = 2,
    /// A worker acquires an exclusive right.
    Acquire = 3,
    /// Somebody connects at all: what nobody allowed anything does in vain.
    Connect = 4,
}

impl Verb {
    pub(crate) fn from_number(number: u16) -> Option<Verb> {
        [Verb::Call, Verb::Provide, Verb::Acquire, Verb::Connect].into_iter().find(|v| *v as u16 == number)
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verb::Call => "call",
            Verb::Provide => "provide",
            Verb::Acquire => "acquire",
            Verb::Connect => "connect",
        })
    }
}

/// Whom a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    /// The user whose bus it is.
    Owner,
    /// A user.
    Uid(u32),
    /// Whoever is in this group, first or supplementary.
    Gid(u32),
}

/// Which services or operations.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// The one of this name.
    Exact(String),
    /// Those whose names begin so.
    Prefix(String),
}

impl Pattern {
    /// Whether a name is one of them.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Pattern::Exact(own) => own == name,
            Pattern::Prefix(own) => name.starts_with(&**own),
        }
    }
}

/// Which keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeyRule {
    /// The numbers from `first` to `last`, both included.
    Numbers {
        /// The lowest.
        first: u64,
        /// The highest.
        last: u64,
    },
    /// A name.
    Name(String),
}

/// Users whose workers trust each other with their clients' sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainRule {
    /// Where it was written.
    pub origin: String,
    /// What it is called.
    pub label: String,
    /// Who belongs to it; nobody belongs to two.
    pub members: Vec<Who>,
}

/// What is said of one service, whatever its workers say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceRule {
    /// Where it was written.
    pub origin: String,
    /// Which.
    pub name: String,
    /// How its calls are scheduled.
    pub policy: Option<Policy>,
    /// What becomes of a call on a resource without a holder, where its workers say that resources are exclusive.
    pub unheld: Option<Unheld>,
}

/// A trust domain, as a word that means the same to every director of every bus: a user's number, or, with the highest
/// bit set, a hash of a label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Domain(pub(crate) u64);

impl Domain {
    /// That of one user.
    pub const fn of_uid(uid: u32) -> Domain {
        Domain(uid as u64)
    }

    /// That of a label.
    pub fn of_label(label: &str) -> Domain {
        use siphasher::sip::SipHasher24;
        Domain(SipHasher24::new().hash(label.as_bytes()) | 1 << 63)
    }

    /// The word that travels.
    pub const fn word(self) -> u64 {
        self.0
    }

    /// What a word names.
    pub const fn from_word(word: u64) -> Domain {
        Domain(word)
    }

    /// The user, where it is one user's.
    pub fn uid(self) -> Option<u32> {
        u32::try_from(self.0).ok()
    }
}

/// What one line of an explanation is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Topic {
    /// Whether it may be called, and what says so.
    Access = 1,
    /// The service and the operation.
    Route = 2,
    /// The trust domain.
    Domain = 3,
    /// How the service is scheduled.
    Policy = 4,
    /// Who holds the resource.
    Holder = 5,
    /// A worker that could have it.
    Candidate = 6,
}

impl Topic {
    const ALL: [Topic; 6] =
        [Topic::Access, Topic::Route, Topic::Domain, Topic::Policy, Topic::Holder, Topic::Candidate];

    pub(crate) fn from_number(number: u16) -> Option<Topic> {
        Topic::ALL.into_iter().find(|topic| *topic as u16 == number)
    }

    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Topic::Access => "access",
            Topic::Route => "route",
            Topic::Domain => "domain",
            Topic::Policy => "policy",
            Topic::Holder => "holder",
            Topic::Candidate => "candidate",
        }
    }
}

/// Something that was refused: the same again only counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Denial {
    /// Who asked.
    pub uid: u32,
    /// For what.
    pub verb: Verb,
    /// Of which service.
    pub service: String,
    /// Which operation; empty where it is about none.
    pub operation: String,
    /// What decided it.
    pub origin: String,
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Denial { uid, verb, service, operation, origin } = self;
        match (verb, &**operation) {
            (Verb::Connect, _) => write!(f, "uid {uid} may do nothing on this bus ({origin})"),
            (_, "") => write!(f, "uid {uid} may not {verb} {service} ({origin})"),
            _ => write!(f, "uid {uid} may not {verb} {service}.{operation} ({origin})"),
        }
    }
}

/// Whether a text can be a name: of a service, an operation, a key, or a domain, as `what` says.
///
/// # Errors
/// [`Error::Name`](crate::Error::Name), with the rule that it breaks.
pub fn check_name(what: &'static str, name: &str) -> Result<(), crate::Error> {
    crate::control::name::Name::new(what, name).map(|_| ())
}
