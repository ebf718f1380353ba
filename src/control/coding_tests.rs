//! Messages against arbitrary values, and against arbitrary bytes.

use proptest::prelude::*;

use super::*;
use crate::layout::{SessionShape, WorkShape};
use crate::resource::Key;
use crate::{Status, limits};

fn name() -> impl Strategy<Value = Name> {
    "[a-z0-9./_äß日本-]{1,20}|[!-~]{64}".prop_map(|text| Name::new("test", &text).unwrap())
}

fn names(max: usize) -> impl Strategy<Value = Vec<Name>> {
    proptest::collection::vec(name(), 0..=max)
}

fn status() -> impl Strategy<Value = Status> {
    proptest::sample::select(Status::ALL.to_vec())
}

fn text() -> impl Strategy<Value = String> {
    proptest::collection::vec(any::<char>(), 0..=limits::MESSAGE_MAX / 4).prop_map(String::from_iter)
}

fn session_shape() -> impl Strategy<Value = SessionShape> {
    (0..=12u32, 1..=1000u32, 0..=1u64 << 20, 0..=1u64 << 20).prop_map(|(slots, unit, request, reply)| {
        SessionShape {
            slots: 1 << slots,
            reply_capacity: unit * 64,
            request_arena: request * 4096,
            reply_arena: reply * 4096,
        }
    })
}

fn work_shape() -> impl Strategy<Value = WorkShape> {
    (1..=12u32).prop_map(|bits| WorkShape { slots: 1 << bits })
}

fn resource() -> impl Strategy<Value = Resource> {
    prop_oneof![
        Just(Resource::All),
        (any::<u64>(), any::<bool>()).prop_map(|(word, is_name)| Key::from_word(word, is_name).into()),
        any::<(u64, u64)>().prop_map(|(first, last)| Resource::Range { first, last }),
        any::<(u32, u32)>().prop_map(|(index, of)| Resource::Share { index, of }),
    ]
}

fn options() -> impl Strategy<Value = ServiceOptions> {
    let resources = proptest::collection::vec(resource(), 0..=limits::RESOURCES_PER_CHANGE);
    let stall = proptest::option::of(1..u32::MAX)
        .prop_map(|ms| ms.map(|ms| std::time::Duration::from_millis(ms.into())));
    (resources, 0..=4u16, 0..=3u16, stall).prop_map(|(resources, policy, unheld, stall)| ServiceOptions {
        stall,
        idempotent: Vec::new(),
        resources,
        policy: Policy::from_number(policy),
        unheld: Unheld::from_number(unheld),
    })
}

#[test]
fn a_registration_says_what_may_run_again() {
    let name = |name| Name::new("name", name).unwrap();
    let operations = vec![name("get"), name("put"), name("list")];
    let options = ServiceOptions::default().idempotent(["list", "get"]).stall(std::time::Duration::MAX);
    let sent = ToDirector::Register { service: name("store"), first: 3, operations, options };
    let mut bytes = Vec::new();
    sent.encode(&mut bytes);
    let Ok(ToDirector::Register { options, .. }) = ToDirector::decode(&bytes) else { panic!("not as sent") };
    assert_eq!(options.idempotent, ["get", "list"]);
    assert_eq!(options.stall_ns(), Some(u64::MAX));
}

fn changes() -> impl Strategy<Value = Vec<(Action, Resource)>> {
    let change = (1..=4u16, resource())
        .prop_map(|(action, resource)| (Action::from_number(action).expect("one of four"), resource));
    proptest::collection::vec(change, 0..=limits::RESOURCES_PER_CHANGE)
}

fn domain() -> impl Strategy<Value = Domain> {
    any::<u64>().prop_map(Domain::from_word)
}

fn groups() -> impl Strategy<Value = Vec<u64>> {
    proptest::collection::vec(any::<u32>().prop_map(u64::from), 0..=limits::EXPLAIN_GROUPS_MAX)
}

fn key() -> impl Strategy<Value = Option<Key>> {
    proptest::option::of(any::<(u64, bool)>().prop_map(|(word, is_name)| Key::from_word(word, is_name)))
}

fn to_director() -> impl Strategy<Value = ToDirector> {
    let role = proptest::sample::select(vec![Role::Client, Role::Worker, Role::Monitor]);
    prop_oneof![
        (any::<u32>(), role, any::<[u64; 2]>(), any::<u64>()).prop_map(
            |(protocol, role, bus_id, monotonic_ns)| {
                ToDirector::Hello { protocol, role, bus_id, monotonic_ns }
            }
        ),
        (any::<[u64; 3]>(), any::<[u64; 2]>(), session_shape()).prop_map(
            |([session, published, settled], credential, shape)| {
                ToDirector::OpenSession { session, credential, published, settled, shape }
            }
        ),
        (any::<u32>(), name(), name()).prop_map(|(route, service, operation)| ToDirector::OpenRoute {
            route,
            service,
            operation
        }),
        (any::<u64>(), any::<[u64; 2]>(), any::<u64>(), any::<bool>(), work_shape()).prop_map(
            |(worker, credential, taken, holds, shape)| {
                ToDirector::OpenWorker { worker, credential, taken, holds, shape }
            }
        ),
        (name(), 0..=u16::MAX - 64, names(limits::OPERATIONS_MAX)).prop_map(
            |(service, first, mut operations)| {
                operations.sort();
                operations.dedup();
                ToDirector::Provide { service, first, operations }
            }
        ),
        name().prop_map(|service| ToDirector::Withdraw { service }),
        (any::<u16>(), any::<bool>())
            .prop_map(|(index, accepted)| ToDirector::SessionMapped { index, accepted }),
        any::<u16>().prop_map(|index| ToDirector::SessionUnmapped { index }),
        any::<u64>().prop_map(|taken| ToDirector::Leave { taken }),
        Just(ToDirector::Inspect),
        Just(ToDirector::Republished),
        name().prop_map(|name| ToDirector::NameKey { name }),
        (name(), 0..=u16::MAX - 64, names(limits::OPERATIONS_MAX), options()).prop_map(
            |(service, first, operations, options)| {
                ToDirector::Register { service, first, operations, options }
            }
        ),
        (name(), changes()).prop_map(|(service, changes)| ToDirector::Change { service, changes }),
        (name(), resource()).prop_map(|(service, resource)| ToDirector::Yielded { service, resource }),
        any::<u64>().prop_map(|worker| ToDirector::Drain { worker }),
        (any::<[u64; 3]>(), any::<[u64; 2]>(), session_shape(), domain()).prop_map(
            |([session, published, settled], credential, shape, domain)| {
                ToDirector::OpenSessionIn { session, credential, published, settled, shape, domain }
            }
        ),
        (any::<(u32, u32)>(), groups(), name(), name(), key()).prop_map(
            |((uid, gid), groups, service, operation, key)| {
                ToDirector::Explain { uid, gid, groups, service, operation, key }
            }
        ),
        Just(ToDirector::Reload),
    ]
}

fn from_director() -> impl Strategy<Value = FromDirector> {
    let ids = proptest::collection::vec(any::<u64>(), 0..=limits::ROW_WORKERS_MAX);
    let identity = || any::<(u32, u32, i32)>();
    prop_oneof![
        any::<(u32, [u64; 2], u64, i32, u64)>().prop_map(|(protocol, bus_id, epoch, pid, monotonic_ns)| {
            FromDirector::Welcome { protocol, bus_id, epoch, pid, monotonic_ns }
        }),
        (status(), any::<u32>(), text()).prop_map(|(status, protocol, message)| FromDirector::Refused {
            status,
            protocol,
            message
        }),
        any::<(u64, [u64; 2])>()
            .prop_map(|(session, credential)| FromDirector::SessionOpened { session, credential }),
        (any::<u32>(), status(), text()).prop_map(|(route, status, message)| FromDirector::RouteOpened {
            route,
            status,
            message
        }),
        any::<(u64, [u64; 2], u64)>().prop_map(|(worker, credential, start)| {
            FromDirector::WorkerOpened { worker, credential, start }
        }),
        (status(), text()).prop_map(|(status, message)| FromDirector::Provided { status, message }),
        (any::<u16>(), any::<u64>(), session_shape(), identity()).prop_map(
            |(index, session, shape, (uid, gid, pid))| {
                FromDirector::MapSession { index, session, shape, uid, gid, pid }
            }
        ),
        any::<u16>().prop_map(|index| FromDirector::UnmapSession { index }),
        Just(FromDirector::Left),
        Just(FromDirector::Closing),
        (name(), names(limits::OPERATIONS_MAX), ids, any::<u64>()).prop_map(
            |(service, operations, workers, waiting)| {
                FromDirector::ServiceRow { service, operations, workers, waiting }
            }
        ),
        (any::<u64>(), identity(), any::<(u32, u64, u32, u32)>()).prop_map(
            |(worker, (uid, gid, pid), (in_flight, completed, sessions, share))| {
                FromDirector::WorkerRow { worker, uid, gid, pid, in_flight, completed, sessions, share }
            }
        ),
        (any::<u64>(), identity(), any::<(u32, u32, u64, bool)>()).prop_map(
            |(session, (uid, gid, pid), (open, waiting, calls, hot))| {
                FromDirector::SessionRow { session, uid, gid, pid, open, waiting, calls, hot }
            }
        ),
        (status(), any::<u64>()).prop_map(|(status, word)| FromDirector::KeyNamed { status, word }),
        (any::<u64>(), name(), resource()).prop_map(|(sequence, service, resource)| {
            FromDirector::Granted { sequence, service, resource }
        }),
        (any::<(u64, u64)>(), name(), resource()).prop_map(|((sequence, before), service, resource)| {
            FromDirector::Recalled { sequence, service, resource, before }
        }),
        any::<(u64, u64)>().prop_map(|(sequence, before)| FromDirector::Draining { sequence, before }),
        (any::<u32>(), domain()).prop_map(|(route, domain)| FromDirector::RouteElsewhere { route, domain }),
        (any::<(u64, u32)>(), 1..=4u16, text(), text(), text()).prop_map(
            |((count, uid), verb, service, operation, origin)| {
                let verb = Verb::from_number(verb).expect("one of four");
                FromDirector::DenialRow { count, denial: Denial { uid, verb, service, operation, origin } }
            }
        ),
        (any::<u64>(), 1..=6u16, text(), text()).prop_map(|(worker, topic, text, origin)| {
            let topic = Topic::from_number(topic).expect("one of six");
            FromDirector::ExplainRow { topic, worker, text, origin }
        }),
        (any::<u64>(), status(), text()).prop_map(|(worker, status, text)| FromDirector::ExplainEnd {
            status,
            worker,
            text
        }),
        (any::<bool>(), text()).prop_map(|(applied, message)| FromDirector::Reloaded { applied, message }),
        any::<(u64, u64, u64)>()
            .prop_map(|(calls, ended, faults)| { FromDirector::InspectEnd { calls, ended, faults } }),
    ]
}

fn encoded(message: &impl Message) -> Vec<u8> {
    let mut bytes = b"what an earlier message left".to_vec();
    message.encode(&mut bytes);
    bytes
}

/// Decodes; and where that succeeds, the message means these very bytes.
fn check<M: Message>(bytes: &[u8]) -> Result<(), TestCaseError> {
    match M::decode(bytes) {
        Ok(message) => prop_assert_eq!(encoded(&message), bytes),
        Err(Fault::Message { len, .. }) => prop_assert_eq!(len, bytes.len()),
        Err(other) => prop_assert!(false, "{}", other),
    }
    Ok(())
}

fn mutated(mut bytes: Vec<u8>, changes: &[(usize, u8)], len_change: i32) -> Vec<u8> {
    let len = bytes.len().saturating_add_signed(len_change as isize);
    bytes.resize(len, 0);
    if bytes.len() >= 8 {
        bytes[4..8].copy_from_slice(&(len as u32).to_ne_bytes());
    }
    for &(at, byte) in changes {
        let at = at % bytes.len().max(1);
        if let Some(b) = bytes.get_mut(at) {
            *b = byte;
        }
    }
    bytes
}

proptest! {
    #[test]
    fn what_is_sent_is_what_arrives(to in to_director(), from in from_director()) {
        prop_assert!(encoded(&to).len() <= limits::MESSAGE_BYTES_MAX);
        prop_assert!(encoded(&from).len() <= limits::MESSAGE_BYTES_MAX);
        prop_assert_eq!(ToDirector::decode(&encoded(&to)).unwrap(), to);
        prop_assert_eq!(FromDirector::decode(&encoded(&from)).unwrap(), from);
    }

    #[test]
    fn a_message_that_goes_the_wrong_way_is_a_fault(to in to_director(), from in from_director()) {
        prop_assert!(FromDirector::decode(&encoded(&to)).is_err());
        prop_assert!(ToDirector::decode(&encoded(&from)).is_err());
    }

    #[test]
    fn random_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..256), kind in 0..160u32) {
        check::<ToDirector>(&bytes)?;
        check::<FromDirector>(&bytes)?;
        let len = bytes.len() as u32 + 8;
        let framed = [&kind.to_ne_bytes()[..], &len.to_ne_bytes(), &bytes].concat();
        check::<ToDirector>(&framed)?;
        check::<FromDirector>(&framed)?;
    }

    #[test]
    fn spoilt_messages_do_no_harm(
        to in to_director(),
        from in from_director(),
        changes in proptest::collection::vec(any::<(usize, u8)>(), 0..4),
        len_change in -9..9i32,
    ) {
        check::<ToDirector>(&mutated(encoded(&to), &changes, len_change))?;
        check::<FromDirector>(&mutated(encoded(&from), &changes, len_change))?;
    }
}

fn why<M: Message + std::fmt::Debug>(bytes: &[u8]) -> &'static str {
    match M::decode(bytes).unwrap_err() {
        Fault::Message { why, .. } => why,
        other => panic!("{other}"),
    }
}

#[test]
fn each_kind_of_spoilt_message_is_told() {
    let name = |text| Name::new("test", text).unwrap();
    let hello =
        encoded(&ToDirector::Hello { protocol: 1, role: Role::Client, bus_id: [0; 2], monotonic_ns: 0 });
    let spoil = |bytes: &[u8], at: usize, byte| mutated(bytes.to_vec(), &[(at, byte)], 0);
    assert_eq!(why::<ToDirector>(&[]), "it is too short");
    assert_eq!(why::<ToDirector>(&hello[..20]), "its header says another length");
    assert_eq!(why::<ToDirector>(&mutated(hello.clone(), &[], -1)), "it is too short");
    assert_eq!(why::<ToDirector>(&mutated(hello.clone(), &[], 1)), "it has bits that mean nothing");
    assert_eq!(why::<ToDirector>(&spoil(&hello, 8, 1)), "it is not Trine's");
    assert_eq!(why::<ToDirector>(&spoil(&hello, 20, 9)), "it has a role that does not exist");
    assert_eq!(why::<ToDirector>(&spoil(&hello, 0, 99)), "no such message goes to a director");
    assert_eq!(why::<ToDirector>(&mutated(hello, &[], 9000)), "it is too long");

    let mapped = encoded(&ToDirector::SessionMapped { index: 1, accepted: true });
    assert_eq!(why::<ToDirector>(&spoil(&mapped, 10, 2)), "it has bits that mean nothing"); // a flag of 2
    assert_eq!(why::<ToDirector>(&spoil(&mapped, 12, 1)), "it has bits that mean nothing"); // reserved

    let provide = encoded(&ToDirector::Provide { service: name("s"), first: 0, operations: vec![name("o")] });
    assert_eq!(why::<ToDirector>(&spoil(&provide, 10, 65)), "it has too many names");
    assert_eq!(why::<ToDirector>(&spoil(&provide, 10, 2)), "it is too short");
    assert_eq!(why::<ToDirector>(&spoil(&provide, 16, 0)), "it is empty");
    assert_eq!(why::<ToDirector>(&spoil(&provide, 16, 65)), "it has a text that is too long");
    assert_eq!(why::<ToDirector>(&spoil(&provide, 18, 0xff)), "it has a text that is not UTF-8");
    assert!(why::<ToDirector>(&spoil(&provide, 18, b'\n')).starts_with("it has white space"));
    let twice = vec![name("o"), name("p"), name("o")];
    let twice = encoded(&ToDirector::Provide { service: name("s"), first: 0, operations: twice });
    assert_eq!(why::<ToDirector>(&twice), "it names an operation twice");
    let last = mutated(provide, &[(8, 0xff), (9, 0xff)], 0);
    assert_eq!(why::<ToDirector>(&last), "its operations have numbers that are too large");

    let shape = WorkShape { slots: 4 };
    let (worker, credential, taken, holds) = (0, [0; 2], 0, false);
    let worker = encoded(&ToDirector::OpenWorker { worker, credential, taken, holds, shape });
    assert_eq!(why::<ToDirector>(&spoil(&worker, 40, 5)), "its sizes are out of bounds");
    let shape = SessionShape::default();
    let (session, credential, published, settled) = (0, [0; 2], 0, 0);
    let session = encoded(&ToDirector::OpenSession { session, credential, published, settled, shape });
    assert_eq!(why::<ToDirector>(&spoil(&session, 48, 3)), "its sizes are out of bounds");
    let provided = encoded(&FromDirector::Provided { status: Status::Ok, message: String::new() });
    assert_eq!(why::<FromDirector>(&spoil(&provided, 8, 200)), "it has a status that does not exist");
}

#[test]
fn a_long_text_is_cut_at_a_character() {
    let message = "ä".repeat(limits::MESSAGE_MAX);
    let bytes = encoded(&FromDirector::Provided { status: Status::Busy, message });
    let Ok(FromDirector::Provided { message, .. }) = FromDirector::decode(&bytes) else { panic!() };
    assert_eq!(message, "ä".repeat(limits::MESSAGE_MAX / 2));
    let odd = "x".to_owned() + &"ä".repeat(limits::MESSAGE_MAX);
    let bytes = encoded(&FromDirector::Provided { status: Status::Busy, message: odd });
    let Ok(FromDirector::Provided { message, .. }) = FromDirector::decode(&bytes) else { panic!() };
    assert_eq!(message.len(), limits::MESSAGE_MAX - 1);
}

/// The bytes by which two versions recognise each other, written out: they may never change.
#[test]
fn the_handshake_is_frozen() {
    let bytes = |words: &[u32]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
    let (high, low) = ((MAGIC >> 32) as u32, MAGIC as u32);
    assert_eq!((high, low), (u32::from_be_bytes(*b"TRIN"), u32::from_be_bytes(*b"E\0ct")));
    let hello = ToDirector::Hello { protocol: 7, role: Role::Worker, bus_id: [1, 2], monotonic_ns: 3 };
    assert_eq!(encoded(&hello), bytes(&[1, 48, low, high, 7, 2, 1, 0, 2, 0, 3, 0]));
    let welcome = FromDirector::Welcome { protocol: 7, bus_id: [1, 2], epoch: 3, pid: 4, monotonic_ns: 5 };
    assert_eq!(encoded(&welcome), bytes(&[129, 56, low, high, 7, 4, 1, 0, 2, 0, 3, 0, 5, 0]));
    let message = "no".to_owned();
    let refused = FromDirector::Refused { status: Status::ProtocolMismatch, protocol: 7, message };
    assert_eq!(encoded(&refused), [bytes(&[130, 28, low, high, 16, 7]), b"\x02\0no".to_vec()].concat());
}
