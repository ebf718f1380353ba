//! Who is measured: Trine, its floors, other forms of it, and what the system has. Rivals come from a program that
//! lists them.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use trine_measure::Seat::{self, Client, Middle, Worker};
use trine_measure::{Subject, Wait};

use super::party::INLINE_MAX;
use super::round::Contender;

/// Trine's name in the tables.
pub const TRINE: &str = "trine";

const POLLING: [Wait; 2] = [Wait::Spin, Wait::Yield];
const ALL: [Wait; 4] = [Wait::Spin, Wait::Yield, Wait::Adaptive, Wait::Park];
/// What has but one way to sleep sleeps so, whether asked for it or for the usual.
const SLEEPING: [Wait; 2] = [Wait::Adaptive, Wait::Park];

fn own(name: &str, messages: u32, parties: &[(Seat, &str)], waiting: &[Wait]) -> Contender {
    Contender { subject: Subject::new(name, messages, parties).waiting(waiting), program: None }
}

/// Trine itself: three processes, three messages.
pub fn trine() -> Contender {
    trine_with(1, "", "")
}

/// The same with so many workers, and more said to workers and client.
pub fn trine_with(workers: usize, worker: &str, client: &str) -> Contender {
    let (worker, client) = (format!("worker {worker}"), format!("client {client}"));
    let mut parties = vec![(Middle, "director")];
    parties.extend(std::iter::repeat_n((Worker, &worker[..]), workers));
    parties.push((Client, &client));
    own(TRINE, 3, &parties, &ALL)
}

/// Trine by another name, where it stands beside itself.
fn named(mut contender: Contender, more: &str) -> Contender {
    contender.subject.name = format!("{TRINE}, {more}");
    contender
}

/// Trine whose ends look at payloads where they lie, as those do who trust their peer.
pub fn in_place() -> Contender {
    named(trine_with(1, "--in-place", "--in-place"), "read in place")
}

/// So many sessions that call at the same time.
pub fn busy() -> Vec<Contender> {
    let of = |n: usize| named(trine_with(1, "", &format!("--sessions {n}")), &format!("{n} sessions"));
    [1, 2, 4, 8, 16, 32, 64].map(of).to_vec()
}

/// So many workers.
pub fn workers() -> Vec<Contender> {
    let of = |n: usize| named(trine_with(n, "", "--any-order"), &format!("{n} workers"));
    [1, 2, 4, 8, 16, 32, 64].map(of).to_vec()
}

/// Sessions that come and go.
pub fn connecting() -> Vec<Contender> {
    let parties = [(Middle, "director"), (Worker, "worker"), (Client, "connect")];
    vec![own("trine, a session a call", 3, &parties, &ALL).at_most(1)]
}

/// Uneven calls, given to workers by two policies.
pub fn policies() -> Vec<Contender> {
    let of = |policy: &str| {
        let four = trine_with(4, &format!("--bimodal --policy {policy}"), "--any-order");
        named(four, policy)
    };
    vec![of("jbsq"), of("round-robin")]
}

/// What nobody on the same path can be faster than.
pub fn floors() -> Vec<Contender> {
    let line = [(Worker, "line worker"), (Middle, "line relay"), (Client, "line client")];
    let bells = [(Worker, "bells worker"), (Middle, "bells relay"), (Client, "bells client")];
    vec![
        own("floor: line relayed", 3, &line, &POLLING).at_most(1),
        own("floor: eventfds relayed", 3, &bells, &SLEEPING).at_most(1),
    ]
}

/// What can wake a sleeper: there and back between two, and on its way through three.
pub fn doorbells() -> Vec<Contender> {
    let kinds = [
        ("eventfd, read", "read"),
        ("eventfd, epoll", "epoll"),
        ("datagrams, epoll", "mailbox"),
        ("futex", "futex"),
    ];
    let of = |(name, sleeps): (&str, &str)| {
        let role = |role| format!("bells {role} --sleeps {sleeps}");
        let (worker, relay) = (role("worker"), role("relay"));
        let (direct, client) = (role("direct-client"), role("client"));
        let two = [(Worker, &worker[..]), (Client, &direct)];
        let three = [(Worker, &worker[..]), (Middle, &relay), (Client, &client)];
        [
            own(&format!("{name}, direct"), 2, &two, &SLEEPING).at_most(1),
            own(&format!("{name}, relay"), 3, &three, &SLEEPING).at_most(1),
        ]
    };
    kinds.into_iter().flat_map(of).collect()
}

/// One process that writes and reads the same memory.
pub fn memory() -> Contender {
    own("floor: one process", 0, &[(Client, "memory")], &ALL).at_most(1)
}

/// A line between two.
pub fn direct_line() -> Contender {
    let parties = [(Worker, "line direct-worker"), (Client, "line direct-client")];
    own("floor: line direct", 2, &parties, &POLLING).at_most(1)
}

/// Two, three and four messages over the same rings.
pub fn forms() -> Vec<Contender> {
    let form = |messages, form| {
        let role = |role| format!("rings {form} {role}");
        let (worker, director, client) = (role("worker"), role("director"), role("client"));
        let mut parties = vec![(Worker, &worker[..])];
        if messages > 2 {
            parties.push((Middle, &director));
        }
        parties.push((Client, &client));
        let mut contender = own(&format!("rings: {form}"), messages, &parties, &POLLING).at_most(512);
        contender.subject.bytes_max = INLINE_MAX;
        contender
    };
    vec![form(2, "direct"), form(3, "director"), form(4, "managed")]
}

/// What every system has.
pub fn system() -> Vec<Contender> {
    const WAITING: [Wait; 3] = [Wait::Yield, Wait::Adaptive, Wait::Park];
    let direct = [(Worker, "socket worker"), (Client, "socket client")];
    let relay =
        [(Worker, "socket relayed-worker"), (Middle, "socket relay"), (Client, "socket relayed-client")];
    let broker = [(Worker, "socket worker"), (Middle, "socket broker"), (Client, "socket brokered-client")];
    let pipes = [(Worker, "pipe worker"), (Client, "pipe client")];
    // More in flight than a socket's or a pipe's buffer holds would stop both ends.
    [
        own("unix socket, direct", 2, &direct, &WAITING).at_most(64),
        own("unix socket, relay", 3, &relay, &WAITING).at_most(64),
        own("unix socket, broker", 4, &broker, &WAITING).at_most(64),
        own("pipes, direct", 2, &pipes, &WAITING).at_most(64),
    ]
    .to_vec()
}

/// What this program can do.
pub fn rivals(program: &Path) -> anyhow::Result<Vec<Contender>> {
    let listed = Command::new(program).arg("list").output();
    let listed = listed.with_context(|| format!("starting {}", program.display()))?;
    ensure!(listed.status.success(), "{} can't list its rivals", program.display());
    let subjects: Vec<Subject> = serde_json::from_slice(&listed.stdout)
        .with_context(|| format!("what {} lists", program.display()))?;
    Ok(subjects.into_iter().map(|s| Contender { subject: s, program: Some(program.to_owned()) }).collect())
}
