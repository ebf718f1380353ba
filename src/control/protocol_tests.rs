//! That PROTOCOL.md says what the code does: its tables of numbers against the code's constants and functions.
//!
//! Whoever writes a client in another language has only the page. So a number is on it once, and a change of the code
//! that is not a change of the page fails here, with the line.

use std::cell::Cell;
use std::rc::Rc;

use super::*;
use crate::client::core::{ClientCore, Effects};
use crate::control::wire::Fields;
use crate::core::reply::Replies;
use crate::core::{Memory, Read, Write};
use crate::layout::{
    self, LINE, Place, Record, ReplyHead, Request, SessionShape, WorkShape, flag, head, reply_flag,
};
use crate::memory::sealed::{self, Kind};
use crate::resource::Key;
use crate::scatter;
use crate::{Status, limits};

#[path = "protocol_page.rs"]
mod page;
use page::{Row, matched};

const PAGE: &str = include_str!("../../PROTOCOL.md");

fn table(heading: &str) -> Vec<Row> {
    page::table(PAGE, heading)
}

/// Compares a table's second column of numbers.
fn compare_numbers(heading: &str, code: &[(&str, u64)]) {
    let code = code.iter().map(|&(name, value)| (name.to_owned(), value)).collect();
    for (row, value) in matched(&table(heading), 0, code) {
        if row.number(1) != value {
            row.expect(1, value);
        }
    }
}

#[test]
fn numbers() {
    compare_numbers(
        "Numbers",
        &[
            ("protocol", limits::PROTOCOL.into()),
            ("control magic", MAGIC),
            ("work segment magic", head::WORD),
            ("role client", Role::Client as u64),
            ("role worker", Role::Worker as u64),
            ("role monitor", Role::Monitor as u64),
        ],
    );
    compare_numbers(
        "Flags of a request",
        &[
            ("HAS_KEY", flag::HAS_KEY.into()),
            ("ONE_WAY", flag::ONE_WAY.into()),
            ("TRACED", flag::TRACED.into()),
            ("REPLY_AT", flag::REPLY_AT.into()),
            ("NAME_KEY", flag::NAME_KEY.into()),
            ("HIGH", flag::HIGH.into()),
            ("LOW", flag::LOW.into()),
            ("SCATTER", flag::SCATTER.into()),
            ("AGAIN", flag::AGAIN.into()),
            ("QUARANTINED", flag::QUARANTINED.into()),
        ],
    );
    let page = table("Flags of a request").iter().map(|row| row.number(1)).sum::<u64>();
    assert_eq!(u64::from(flag::ALL), page, "a flag that is not on the page");
    assert_eq!(reply_flag::TRACED, 1, "the page's table of a reply says so");
}

/// Every number of `u16` that means something, with its name.
fn named<T: std::fmt::Debug>(from_number: impl Fn(u16) -> Option<T>) -> Vec<(String, u64)> {
    (0..=64).filter_map(|n| Some((format!("{:?}", from_number(n)?).to_lowercase(), n.into()))).collect()
}

#[test]
fn words_of_resources() {
    for (heading, code) in [
        ("Actions", named(Action::from_number)),
        ("Policies", named(Policy::from_number)),
        ("Unheld resources", named(Unheld::from_number)),
    ] {
        for (row, value) in matched(&table(heading), 0, code) {
            row.expect(1, value);
        }
    }
    let item = wire::Item::fields().into_iter().map(|(name, offset, kind)| (name.to_owned(), (offset, kind)));
    for (row, (offset, kind)) in matched(&table("Items"), 0, item.collect()) {
        row.expect(1, offset);
        row.expect(2, kind);
    }
    let kinds = [
        ("all", Resource::All),
        ("number", Resource::Key(Key::number(1))),
        ("name", Resource::Key(Key::from_word(1, true))),
        ("range", Resource::Range { first: 1, last: 2 }),
        ("share", Resource::Share { index: 1, of: 2 }),
    ];
    let code = kinds.into_iter().map(|(name, resource)| (name.to_owned(), resource)).collect();
    for (row, resource) in matched(&table("Kinds of resources"), 0, code) {
        let mut bytes = Vec::new();
        let service = Name::new("service", "s").unwrap();
        ToDirector::Yielded { service, resource }.encode(&mut bytes);
        row.expect(1, u16::from_ne_bytes([bytes[13], bytes[14]]));
    }
}

/// The fields as the page has them, from a message's first byte on, and the size.
fn body<T: Fields>() -> (usize, String) {
    let mut fields = Vec::new();
    flatten(8, T::fields(), &mut fields);
    (8 + size_of::<T>(), fields.join(", "))
}

fn flatten(base: usize, fields: Vec<(&str, usize, &str)>, into: &mut Vec<String>) {
    for (name, offset, kind) in fields {
        match kind {
            "Shape" => flatten(base + offset, wire::Shape::fields(), into),
            "Identity" => flatten(base + offset, wire::Identity::fields(), into),
            _ => {
                let kind = match kind.strip_prefix('[').and_then(|k| k.strip_suffix(']')) {
                    Some(array) => array.replace("; ", "[") + "]",
                    None => kind.to_owned(),
                };
                into.push(format!("{} {name} {kind}", base + offset));
            }
        }
    }
}

fn compare_messages<M: Message>(heading: &str, code: Vec<(u32, &str, (usize, String))>) {
    // Whatever kind can be read is on the page: an empty message of it is refused for another reason.
    let known = |kind: u32| match M::decode(&[kind.to_ne_bytes(), 8u32.to_ne_bytes()].concat()) {
        Err(Fault::Message { why, .. }) => !why.starts_with("no such message"),
        _ => true,
    };
    let kinds: Vec<u32> = (0..1024).filter(|&kind| known(kind)).collect();
    assert_eq!(kinds, code.iter().map(|c| c.0).collect::<Vec<_>>(), "kinds that this test compares");
    let code = code.into_iter().map(|(kind, name, body)| (name.to_owned(), (kind, body))).collect();
    for (row, (kind, (bytes, fields))) in matched(&table(heading), 1, code) {
        row.expect(0, kind);
        row.expect(2, bytes);
        row.expect(3, M::descriptors(kind));
        row.expect(4, fields);
    }
}

#[test]
fn messages() {
    let none = || (8, String::new());
    compare_messages::<ToDirector>(
        "To the director",
        vec![
            (kind::HELLO, "Hello", body::<wire::Hello>()),
            (kind::OPEN_SESSION, "OpenSession", body::<wire::OpenSession>()),
            (kind::OPEN_ROUTE, "OpenRoute", body::<wire::OpenRoute>()),
            (kind::OPEN_WORKER, "OpenWorker", body::<wire::OpenWorker>()),
            (kind::PROVIDE, "Provide", body::<wire::Provide>()),
            (kind::WITHDRAW, "Withdraw", none()),
            (kind::SESSION_MAPPED, "SessionMapped", body::<wire::SessionMapped>()),
            (kind::SESSION_UNMAPPED, "SessionUnmapped", body::<wire::SessionIndex>()),
            (kind::LEAVE, "Leave", body::<wire::Leave>()),
            (kind::INSPECT, "Inspect", none()),
            (kind::REPUBLISHED, "Republished", none()),
            (kind::NAME_KEY, "NameKey", none()),
            (kind::REGISTER, "Register", body::<wire::Register>()),
            (kind::CHANGE, "Change", body::<wire::Change>()),
            (kind::YIELDED, "Yielded", none()),
            (kind::DRAIN, "Drain", body::<wire::Drain>()),
            (kind::OPEN_SESSION_IN, "OpenSessionIn", body::<wire::OpenSessionIn>()),
            (kind::EXPLAIN, "Explain", body::<wire::Explain>()),
            (kind::RELOAD, "Reload", none()),
            (kind::REPLACE, "Replace", none()),
        ],
    );
    compare_messages::<FromDirector>(
        "From the director",
        vec![
            (kind::WELCOME, "Welcome", body::<wire::Welcome>()),
            (kind::REFUSED, "Refused", body::<wire::Refused>()),
            (kind::SESSION_OPENED, "SessionOpened", body::<wire::Identity>()),
            (kind::ROUTE_OPENED, "RouteOpened", body::<wire::RouteOpened>()),
            (kind::WORKER_OPENED, "WorkerOpened", body::<wire::WorkerOpened>()),
            (kind::PROVIDED, "Provided", body::<wire::Provided>()),
            (kind::MAP_SESSION, "MapSession", body::<wire::MapSession>()),
            (kind::UNMAP_SESSION, "UnmapSession", body::<wire::SessionIndex>()),
            (kind::LEFT, "Left", none()),
            (kind::CLOSING, "Closing", none()),
            (kind::SERVICE_ROW, "ServiceRow", body::<wire::ServiceRow>()),
            (kind::WORKER_ROW, "WorkerRow", body::<wire::WorkerRow>()),
            (kind::SESSION_ROW, "SessionRow", body::<wire::SessionRow>()),
            (kind::INSPECT_END, "InspectEnd", body::<wire::InspectEnd>()),
            (kind::KEY_NAMED, "KeyNamed", body::<wire::KeyNamed>()),
            (kind::GRANTED, "Granted", body::<wire::Right>()),
            (kind::RECALLED, "Recalled", body::<wire::Right>()),
            (kind::DRAINING, "Draining", body::<wire::Right>()),
            (kind::ROUTE_ELSEWHERE, "RouteElsewhere", body::<wire::RouteElsewhere>()),
            (kind::DENIAL_ROW, "DenialRow", body::<wire::DenialRow>()),
            (kind::EXPLAIN_ROW, "ExplainRow", body::<wire::ExplainRow>()),
            (kind::EXPLAIN_END, "ExplainEnd", body::<wire::ExplainEnd>()),
            (kind::RELOADED, "Reloaded", body::<wire::Reloaded>()),
            (kind::HAND_OVER, "HandOver", none()),
        ],
    );
}

#[test]
fn shapes() {
    type Valid = fn(u64) -> bool;
    const SESSION: fn() -> SessionShape = SessionShape::default;
    let code: Vec<(String, Valid)> = vec![
        ("N".into(), |n| SessionShape { slots: n as u32, ..SESSION() }.is_valid()),
        ("C".into(), |c| SessionShape { reply_capacity: c as u32, ..SESSION() }.is_valid()),
        ("A".into(), |a| SessionShape { request_arena: a, ..SESSION() }.is_valid()),
        ("B".into(), |b| SessionShape { reply_arena: b, ..SESSION() }.is_valid()),
        ("S".into(), |s| WorkShape { slots: s as u32 }.is_valid()),
    ];
    for (row, valid) in matched(&table("Shapes"), 0, code) {
        let (least, most) = (row.number(2), row.number(3));
        let unit =
            row.cell(4).strip_prefix("a multiple of ").map(|unit| unit.parse::<u64>().expect("a number"));
        let (less, more, between) = match unit {
            Some(unit) => (least.checked_sub(unit), most + unit, most - unit / 2),
            None => (Some(least / 2), most * 2, most - 1),
        };
        if !valid(least) || !valid(most) || valid(more) || valid(between) || less.is_some_and(valid) {
            row.wrong("the code has other bounds");
        }
    }
}

#[test]
fn places_in_segments() {
    for bits in 0..=12 {
        let session = SessionShape { slots: 1 << bits, ..SessionShape::default() };
        let (n, out, at) = (1u64 << bits, session.outbox(), session.inbox());
        let variables = [("N", n)];
        compare_parts(
            "Outbox",
            &variables,
            &[
                ("waiting", out.waiting, 1),
                ("cancel", out.cancel, n),
                ("ring", out.ring, session.ring_slots() * LINE as u64),
                ("end", out.words, 0),
            ],
        );
        compare_parts(
            "Inbox",
            &variables,
            &[
                ("polled", at.polled, 1),
                ("notices", at.notices, 1),
                ("verdict", at.verdict, n),
                ("replies", at.replies, n * LINE as u64),
                ("end", at.words, 0),
            ],
        );
        let worker = WorkShape { slots: 2 << bits.min(11) };
        let (s, work, progress) = (u64::from(worker.slots), worker.work(), worker.progress());
        compare_parts(
            "Work segment",
            &[("S", s)],
            &[
                ("head", work.head, 2 * LINE as u64),
                ("control", work.control, 1),
                ("rights", work.rights, 1),
                ("wanted", work.wanted, 1),
                ("ring", work.ring, s * LINE as u64),
                ("ledger", work.ledger, s * layout::LEDGER_ENTRY as u64),
                ("end", work.words, 0),
            ],
        );
        compare_parts(
            "Progress page",
            &[("S", s)],
            &[
                ("taken", progress.taken, 1),
                ("completed", progress.completed, 1),
                ("waiting", progress.waiting, 1),
                ("done", progress.done, s),
                ("end", progress.words, 0),
            ],
        );
    }
    let own = SessionShape { slots: 1, reply_capacity: 64, ..SessionShape::default() }.inbox();
    assert_eq!(own.own_bytes, 4096, "the page says up(N * C, 4096)");
    assert!(PAGE.contains("`up(N * C, 4096)`"));
}

fn compare_parts(heading: &str, variables: &[(&str, u64)], code: &[(&str, usize, u64)]) {
    let code = code.iter().map(|&(name, first, words)| (name.to_owned(), (first as u64, words))).collect();
    for (row, (first, words)) in matched(&table(heading), 0, code) {
        let page = row.formula(1, variables);
        if page != first {
            row.wrong(format!("{variables:?}: word {page} on the page, {first} in the code"));
        }
        if words > 0 && row.formula(2, variables) != words {
            row.wrong(format!(
                "{variables:?}: {} words on the page, {words} in the code",
                row.formula(2, variables)
            ));
        }
    }
}

#[test]
fn head_of_a_work_segment() {
    let words = [
        head::MAGIC,
        head::VERSION,
        head::BUS,
        head::WORKER,
        head::EPOCH,
        head::START,
        head::PID,
        head::START_TIME,
        head::PIDFD_INODE,
        head::BOOT,
        head::PID_NAMESPACE,
        head::SEAL,
        head::HOLDS,
    ];
    matched(&table("Head of a work segment"), 0, words.map(|word| (word.to_string(), ())).into());
}

#[test]
fn seals() {
    let seals = |kind| {
        let (_memory, fd) = sealed::create("test", 4096, 4096, kind).unwrap();
        let seals = nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_GET_SEALS).unwrap();
        Some((seals & !nix::libc::F_SEAL_EXEC) as u64)
    };
    let code = vec![
        ("outbox".into(), seals(Kind::WriterOnly)),
        ("inbox".into(), seals(Kind::ReadWrite)),
        ("progress page".into(), seals(Kind::WriterOnly)),
        ("work segment".into(), None),
    ];
    for (row, seals) in matched(&table("Seals and checks"), 0, code) {
        match seals {
            Some(seals) if row.number(3) != seals => row.wrong(format!("the code's seals are {seals:#x}")),
            Some(_) => {}
            None => row.expect(3, "none"),
        }
    }
}

/// Compares the bits of each field: those that change when it does.
fn compare_fields(heading: &str, code: Vec<(&str, Record)>) {
    let code = code.into_iter().map(|(name, record)| (name.to_owned(), record)).collect();
    for (row, record) in matched(&table(heading), 2, code) {
        let (word, bits) = row.bits();
        let mut page = [0; LINE];
        page[word] = bits;
        if page != record {
            row.wrong(format!("in the code it has these bits: {record:x?}"));
        }
    }
}

fn word(at: usize) -> Record {
    let mut record = [0; LINE];
    record[at] = u64::MAX;
    record
}

#[test]
fn records() {
    let request = |request: Request| {
        let mut record = [0; LINE];
        request.write(&mut record);
        record
    };
    let none = Request::default;
    let (ticket, flags) = ((1 << layout::TICKET_BITS) - 1, u16::MAX);
    compare_fields(
        "Request",
        vec![
            ("stamp", word(0)),
            ("ticket", request(Request { ticket, ..none() })),
            ("route", request(Request { operation: u32::MAX, ..none() })),
            ("flags", request(Request { flags, ..none() })),
            ("key", request(Request { key: u64::MAX, ..none() })),
            ("deadline", request(Request { deadline_ns: u64::MAX, ..none() })),
            ("length", request(Request { len: u32::MAX, ..none() })),
            ("capacity", request(Request { capacity: u32::MAX, ..none() })),
            ("payload offset", word(layout::WORD_PAYLOAD_AT)),
            ("reply offset", word(layout::WORD_REPLY_AT)),
        ],
    );
    let work = |asked: Request, entry, operation, index, tag| {
        let mut record = request(asked);
        Request::address(&mut record, entry, operation, index, tag);
        record
    };
    let all = u16::MAX;
    compare_fields(
        "Work record",
        vec![
            ("stamp", word(0)),
            ("ticket", work(Request { ticket, ..none() }, 0, 0, 0, 0)),
            ("entry", work(none(), all, 0, 0, 0)),
            ("operation", work(none(), 0, all, 0, 0)),
            ("session index", work(none(), 0, 0, all, 0)),
            ("flags", work(Request { flags, ..none() }, 0, 0, 0, 0)),
            ("session tag", work(none(), 0, 0, 0, all)),
            ("director took", word(layout::WORD_TAKEN_NS)),
            ("director pushed", word(layout::WORD_TAKEN_NS + 1)),
        ],
    );
    let part = |write: &dyn Fn(&mut Record)| {
        let mut record = [0; LINE];
        write(&mut record);
        record
    };
    let place = |index, count| part(&|record| scatter::Place { index, count }.write(record));
    compare_fields(
        "Part of a scatter",
        vec![
            ("keys", part(&|record| scatter::set_mask(record, u64::MAX))),
            ("list offset", word(scatter::WORD_LIST)),
            ("index", place(all, 0)),
            ("count", place(0, all)),
            ("seal", word(scatter::WORD_SEAL)),
        ],
    );
    let reply = |reply: ReplyHead| {
        let mut record = [0; LINE];
        reply.write(&mut record);
        record
    };
    let none = ReplyHead::default;
    compare_fields(
        "Reply",
        vec![
            ("stamp", word(0)),
            ("status", reply(ReplyHead { status: all, ..none() })),
            ("flags", reply(ReplyHead { flags, ..none() })),
            ("worker", reply(ReplyHead { worker: u32::MAX, ..none() })),
            ("code", reply(ReplyHead { code: u32::MAX, ..none() })),
            ("length", reply(ReplyHead { len: u64::MAX, ..none() })),
        ],
    );
}

/// The lengths that go to a place, as the page writes them; they are tried up to one beyond any record's.
fn lengths(at: Place, place: &impl Fn(usize) -> Place) -> String {
    let lengths: Vec<usize> = (0..=200).filter(|&len| place(len) == at).collect();
    match lengths[..] {
        [] => "none".to_owned(),
        [first, .., 200] => format!("{first} and more"),
        [first, .., last] => format!("{first}–{last}"),
        [only] => only.to_string(),
    }
}

fn compare_places(heading: &str, flags: &[(&str, u16)], place: impl Fn(usize, u16) -> Place) {
    let code = flags.iter().map(|&(name, flags)| (name.to_owned(), flags)).collect();
    for (row, flags) in matched(&table(heading), 0, code) {
        for (column, at) in [(1, Place::Head), (2, Place::Tail), (3, Place::Arena)] {
            row.expect(column, lengths(at, &|len| place(len, flags)));
        }
    }
}

#[test]
fn where_payloads_lie() {
    let both = ("TRACED and REPLY_AT", flag::TRACED | flag::REPLY_AT);
    let scattered = ("SCATTER and REPLY_AT", flag::SCATTER | flag::REPLY_AT);
    let part = ("SCATTER", flag::SCATTER);
    let flags = [("none", 0), ("REPLY_AT", flag::REPLY_AT), ("TRACED", flag::TRACED), both, part, scattered];
    compare_places("Where a request's payload lies", &flags, layout::place);
    let flags = [("none", 0), ("TRACED", reply_flag::TRACED)];
    compare_places("Where a reply's payload lies", &flags, |len, flags| {
        layout::reply_place(len as u64, flags)
    });
}

/// Words of one thread.
#[derive(Clone)]
struct Words(Rc<[Cell<u64>]>);

impl Words {
    fn new(words: usize) -> Words {
        Words((0..words).map(|_| Cell::new(0)).collect())
    }
}

impl Read for Words {
    fn load(&self, word: usize) -> u64 {
        self.0[word].get()
    }
    fn acquire(&self) {}
}

impl Write for Words {
    fn store(&self, word: usize, value: u64) {
        self.0[word].set(value);
    }
    fn release(&self) {}
    fn full(&self) {}
}

impl Memory for Words {
    type Ro = Words;
    type Rw = Words;
}

struct NoBell;

impl Effects for NoBell {
    fn ring_director(&mut self) {}
}

/// A client with one call under way: its core, its inbox, and the call's name.
fn client(deadline_ns: u64) -> (ClientCore<Words>, Words, u64) {
    let shape = SessionShape { slots: 2, ..SessionShape::default() };
    let (outbox, inbox) = (Words::new(shape.outbox().words), Words::new(shape.inbox().words));
    let mut core = ClientCore::<Words>::new(shape, outbox, inbox.clone());
    let slot = core.reserve().unwrap();
    let request = Request { deadline_ns, ..Request::default() };
    let name = core.submit(slot, request, &mut NoBell);
    (core, inbox, name)
}

/// Whether a call that is answered with this status may have run, as its client says.
fn answered(status: Status) -> bool {
    let (mut core, inbox, name) = client(0);
    let shape = SessionShape { slots: 2, ..SessionShape::default() };
    let replies = Replies::<LINE>::new(shape.inbox().replies, 2);
    let mut record = [0; LINE];
    ReplyHead { status: status as u16, ..ReplyHead::default() }.write(&mut record);
    // Nobody has given this one up: it is tried again, like one that was never begun.
    let seen = if status == Status::Cancelled { Status::NotBegun } else { status };
    let tries = if seen == Status::NotBegun { u64::from(limits::TRIES_MAX) } else { 1 };
    for again in 0..tries {
        assert_eq!(core.look(name, 1, &mut NoBell), None, "{status}, try {again}");
        replies.publish(&inbox, name + again * 2, &record, LINE);
    }
    let outcome = core.look(name, 1, &mut NoBell).expect("it has ended");
    assert_eq!(outcome.status, seen);
    outcome.may_have_run
}

#[test]
fn statuses() {
    let ran = |may: bool| if may { "may have run" } else { "did not run" };
    let code = Status::ALL.iter().map(|&status| (status.name().to_owned(), status)).collect();
    for (row, status) in matched(&table("Statuses"), 1, code) {
        row.expect(0, status as u16);
        row.expect(2, ran(answered(status)));
        let (mut core, _, name) = client(7);
        match status {
            Status::DeadlineExceeded => {}
            Status::MayHaveRun | Status::DirectorGone => core.abandon(status, &mut NoBell),
            _ => continue,
        }
        let outcome = core.look(name, 7, &mut NoBell).expect("it has ended");
        assert_eq!(outcome.status, status);
        row.expect(3, ran(outcome.may_have_run));
    }
}

/// The `pub const`s of a source file that are written as one.
fn constants(source: &str) -> Vec<&str> {
    source.lines().filter_map(|line| line.strip_prefix("pub const ")?.split(':').next()).collect()
}

#[test]
fn limits_are_all_there() {
    macro_rules! named {
        ($($name:ident),* $(,)?) => { [$((stringify!($name), limits::$name as u64)),*] };
    }
    let code = named![
        PROTOCOL,
        BUS_NAME_MAX,
        NAME_MAX,
        OPERATIONS_MAX,
        MESSAGE_MAX,
        MESSAGE_BYTES_MAX,
        MESSAGE_DESCRIPTORS_MAX,
        ROW_WORKERS_MAX,
        SLOTS_DEFAULT,
        SLOTS_MAX,
        REPLY_CAPACITY_DEFAULT,
        ARENA_DEFAULT,
        ARENA_MAX,
        PAYLOAD_MAX,
        ARENA_UNIT,
        WORK_SLOTS_DEFAULT,
        WORK_SLOTS_MAX,
        SESSIONS_PER_WORKER_MAX,
        ROUTES_MAX,
        WORKERS_MAX,
        SESSIONS_MAX,
        SERVICES_MAX,
        RESOURCES_PER_CHANGE,
        RANGES_MAX,
        CLAIMS_MAX,
        NAMED_KEYS_MAX,
        SCATTER_KEYS_MAX,
        PARTS_MAX,
        EXPLAIN_GROUPS_MAX,
        DEADLINE_DEFAULT_NS,
        DIRECTOR_GONE_NS,
        WINDOW_NS,
        STALL_NS,
        RUNS_MAX,
        TRIES_MAX,
    ];
    let names: Vec<&str> = code.iter().map(|c| c.0).collect();
    assert_eq!(names, constants(include_str!("../limits.rs")), "the limits that this test compares");
    compare_numbers("Limits", &code);
}

#[test]
fn times() {
    // These are their modules' own, so they are read from the source.
    let sources = [
        include_str!("../director/control.rs"),
        include_str!("../director/control/admission.rs"),
        include_str!("../director/data.rs"),
        include_str!("../director/core.rs"),
        include_str!("../director/session.rs"),
        include_str!("../director/held.rs"),
        include_str!("../director/watch.rs"),
        include_str!("../director/worker.rs"),
        include_str!("../client/session.rs"),
        include_str!("../worker/core.rs"),
        include_str!("../director/table/mod.rs"),
    ];
    for row in table("Times and other choices of the code") {
        let begins = format!("const {}: ", row.cell(0));
        let line = sources
            .iter()
            .flat_map(|source| source.lines())
            .find_map(|line| line.trim_start_matches("pub ").strip_prefix(&begins));
        let value = line.and_then(|line| line.split_once("= ")?.1.strip_suffix(';'));
        match value {
            Some(value) => row.expect(1, value.replace('_', "")),
            None => row.wrong(format!("no constant {}", row.cell(0))),
        }
    }
}
