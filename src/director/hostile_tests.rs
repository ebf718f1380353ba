//! A director among peers that keep to nothing: it lives, and the others are served rightly.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::control::message::{FromDirector, Message, Role, ToDirector};
use crate::control::name::Name;
use crate::control::socket::{Channel, Received};
use crate::core::ring::Publisher;
use crate::core::{Read, Write};
use crate::layout::{HEAD, LINE, Record, Request, SessionShape, WorkShape, flag};
use crate::limits::{self, PROTOCOL};
use crate::memory::sealed::{self, Kind};
use crate::memory::{Among, Doorbell, Rw};
use crate::resource::Action;
use crate::waiting::now_ns;
use crate::{Bus, Client, ClientOptions, Director, DirectorHandle, DirectorOptions, Error, Route, Status};
use crate::{Stopper, WorkerOptions};

const PATIENCE: Duration = Duration::from_secs(20);

/// A bus with a director, a worker, and a client that behaves.
struct Place {
    bus: Bus,
    client: Client,
    echo: Route,
    stopper: Stopper,
    serving: Option<std::thread::JoinHandle<Result<(), Error>>>,
    director: Option<DirectorHandle>,
    _folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        Place::at(tempfile::tempdir().unwrap())
    }

    /// One with a director that comes after another: workers that may come back are heard before others.
    fn after_another() -> Place {
        let folder = tempfile::tempdir().unwrap();
        drop(Director::new(&Bus::at(folder.path()), DirectorOptions::default()).unwrap());
        Place::at(folder)
    }

    fn at(folder: tempfile::TempDir) -> Place {
        let bus = Bus::at(folder.path());
        let director = Director::new(&bus, DirectorOptions::default()).unwrap().spawn().unwrap();
        let worker = bus.worker(WorkerOptions::default()).unwrap();
        worker.provide("text", &["echo"]).unwrap();
        let stopper = worker.stopper();
        let serve = move || {
            worker.serve(|request| {
                let bytes = request.bytes().to_vec();
                request.reply(&bytes)
            })
        };
        let serving = Some(std::thread::spawn(serve));
        let client = bus.client(ClientOptions::default()).unwrap();
        let echo = client.route("text", "echo").unwrap();
        Place { bus, client, echo, stopper, serving, director: Some(director), _folder: folder }
    }

    /// The client that behaves gets what it should.
    #[track_caller]
    fn others_are_right(&self, calls: u64) {
        for n in 0..calls {
            let request = vec![n as u8; (n % 300) as usize];
            assert_eq!(self.client.call(self.echo, &request).unwrap().bytes().to_vec(), request);
        }
    }

    fn connect(&self) -> Channel {
        Channel::connect(self.bus.socket()).unwrap()
    }

    fn greet(&self, role: Role) -> Channel {
        greeted(&self.bus, role)
    }

    /// Waits until the director has ended so many peers for a fault.
    #[track_caller]
    fn expect_faults(&self, count: u64) {
        let until = Instant::now() + PATIENCE;
        while self.bus.inspect().unwrap().faults < count {
            assert!(Instant::now() < until, "no fault was found");
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.stopper.stop();
        let served = self.serving.take().map(|t| t.join());
        let stopped = self.director.take().map(DirectorHandle::stop);
        if !std::thread::panicking() {
            served.unwrap().unwrap().unwrap();
            stopped.unwrap().unwrap();
        }
    }
}

fn greeted(bus: &Bus, role: Role) -> Channel {
    let channel = Channel::connect(bus.socket()).unwrap();
    say(&channel, &hello(PROTOCOL, role), &[]);
    assert!(matches!(hear(&channel), Some(FromDirector::Welcome { .. })));
    channel
}

fn hello(protocol: u32, role: Role) -> ToDirector {
    ToDirector::Hello { protocol, role, bus_id: [0; 2], monotonic_ns: now_ns() }
}

fn say(channel: &Channel, message: &ToDirector, fds: &[BorrowedFd]) {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    // It may have been disconnected meanwhile, which is what the tests then look for.
    let _ = channel.send(&bytes, fds);
}

/// The next message; `None` at the end.
#[track_caller]
fn hear(channel: &Channel) -> Option<FromDirector> {
    let until_ns = now_ns() + PATIENCE.as_nanos() as u64;
    loop {
        match channel.receive_message::<FromDirector>().unwrap() {
            Received::Message(message, _) => return Some(message),
            Received::Closed => return None,
            Received::Fault(fault) => panic!("{fault}"),
            Received::Short(_, error) => panic!("{error}"),
            Received::Nothing => {
                channel.wait_readable(until_ns).unwrap();
                assert!(now_ns() < until_ns, "the director says nothing");
            }
        }
    }
}

/// It is refused, and disconnected.
#[track_caller]
fn expect_refusal(channel: &Channel, status: Status) {
    match hear(channel) {
        Some(FromDirector::Refused { status: said, protocol: PROTOCOL, .. }) => assert_eq!(said, status),
        other => panic!("{other:?}, not a refusal"),
    }
    assert_eq!(hear(channel), None, "disconnected");
}

fn random(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    seed.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

const SHAPE: SessionShape =
    SessionShape { slots: 8, reply_capacity: 64, request_arena: 4096, reply_arena: 4096 };

/// A session as a client makes it, but in the hands of a test.
struct RawSession {
    channel: Channel,
    outbox: Rw,
    inbox: Rw,
    bell: Doorbell,
}

fn segments(shape: SessionShape) -> ((Rw, OwnedFd), (Rw, OwnedFd)) {
    let (out, at) = (shape.outbox(), shape.inbox());
    let (out_bytes, in_bytes) = (out.words as u64 * 8, at.words as u64 * 8);
    (
        sealed::create("trine outbox", out_bytes + out.arena_bytes, out_bytes, Kind::WriterOnly).unwrap(),
        sealed::create("trine inbox", in_bytes + at.arena_bytes, in_bytes, Kind::ReadWrite).unwrap(),
    )
}

fn open_session(shape: SessionShape) -> ToDirector {
    ToDirector::OpenSession { session: 0, credential: [0; 2], published: 0, settled: 0, shape }
}

impl RawSession {
    fn open(place: &Place) -> RawSession {
        let channel = place.greet(Role::Client);
        let ((outbox, outbox_fd), (inbox, inbox_fd)) = segments(SHAPE);
        let own = Doorbell::new().unwrap();
        say(&channel, &open_session(SHAPE), &[outbox_fd.as_fd(), inbox_fd.as_fd(), own.as_fd()]);
        let (answer, mut fds) = channel.answer(PATIENCE.as_nanos() as u64).unwrap();
        assert!(matches!(answer, FromDirector::SessionOpened { .. }));
        let bell = Doorbell::from_fd(fds.pop().unwrap(), Among::OneUser).unwrap();
        let (service, operation) = (Name::new("s", "text").unwrap(), Name::new("o", "echo").unwrap());
        say(&channel, &ToDirector::OpenRoute { route: 0, service, operation }, &[]);
        assert!(matches!(hear(&channel), Some(FromDirector::RouteOpened { status: Status::Ok, .. })));
        RawSession { channel, outbox, inbox, bell }
    }
}

#[test]
fn a_routes_number_leads_to_one_operation() {
    let place = Place::new();
    let session = RawSession::open(&place);
    let asked =
        [(0, "echo", Status::Ok), (0, "other", Status::Fault), (limits::ROUTES_MAX, "echo", Status::Busy)];
    for (route, operation, expected) in asked {
        let (service, operation) = (Name::new("s", "text").unwrap(), Name::new("o", operation).unwrap());
        say(&session.channel, &ToDirector::OpenRoute { route, service, operation }, &[]);
        match hear(&session.channel) {
            Some(FromDirector::RouteOpened { status, .. }) => assert_eq!(status, expected),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_inspection_may_be_longer_than_what_a_slow_reader_may_leave() {
    let place = Place::new();
    let worker = place.bus.worker(WorkerOptions::default()).unwrap();
    let many = limits::SESSIONS_MAX + 1000;
    for n in 0..many {
        worker.provide(&format!("service-{n}"), &["echo"]).unwrap();
    }
    let slow = place.greet(Role::Monitor);
    say(&slow, &ToDirector::Inspect, &[]);
    // Answered later, so all that the slow one asked for was sent, or waits for it.
    assert_eq!(place.bus.inspect().unwrap().services.len(), many + 1);
    let rows =
        std::iter::from_fn(|| hear(&slow)).take_while(|m| !matches!(m, FromDirector::InspectEnd { .. }));
    let services = rows.filter(|row| matches!(row, FromDirector::ServiceRow { .. })).count();
    assert_eq!(services, many + 1);
}

#[test]
fn another_version_is_told_both_versions() {
    let place = Place::new();
    for role in [Role::Client, Role::Worker, Role::Monitor] {
        let channel = place.connect();
        say(&channel, &hello(PROTOCOL + 7, role), &[]);
        expect_refusal(&channel, Status::ProtocolMismatch);
    }
    place.others_are_right(10);
}

#[test]
fn a_director_of_another_version_is_a_clear_error() {
    use crate::control::socket::Listener;
    let folder = tempfile::tempdir().unwrap();
    let bus = Bus::at(folder.path());
    let listener = Listener::bind(bus.socket()).unwrap();
    let answers = [
        FromDirector::Refused { status: Status::ProtocolMismatch, protocol: 99, message: "no".into() },
        FromDirector::Welcome { protocol: 99, bus_id: [1; 2], epoch: 1, pid: 1, monotonic_ns: 0 },
    ];
    for answer in answers {
        let connecting = std::thread::spawn({
            let bus = bus.clone();
            move || bus.client(ClientOptions::default()).err().expect("another version")
        });
        let channel = loop {
            if let Some(channel) = listener.accept().unwrap() {
                break channel;
            }
        };
        channel.send_message(&answer, &[]).unwrap();
        let error = connecting.join().unwrap();
        assert!(matches!(error, Error::ProtocolMismatch { ours: PROTOCOL, theirs: 99 }), "{error}");
        assert_eq!(error.status(), Status::ProtocolMismatch);
        assert!(
            error.to_string().contains("99") && error.to_string().contains("PROTOCOL_MISMATCH"),
            "{error}"
        );
    }
}

#[test]
fn garbage_ends_its_own_connection_only() {
    let place = Place::new();
    let mut seed = 1;
    for len in [1usize, 3, 4, 7, 8, 9, 48, 100, 1000, 8192, 8193, 60_000] {
        for _ in 0..3 {
            let channel = place.connect();
            let bytes: Vec<u8> = (0..len).map(|_| random(&mut seed) as u8).collect();
            channel.send(&bytes, &[]).unwrap();
            expect_refusal(&channel, Status::Fault);
        }
    }
    // An empty message is an end; half a handshake is nobody's business.
    place.connect().send(&[], &[]).unwrap();
    drop(place.connect());
    drop(place.greet(Role::Client));
    drop(place.greet(Role::Worker));
    // What may not be said at that point.
    for message in [ToDirector::Inspect, ToDirector::Leave { taken: 0 }, hello(PROTOCOL, Role::Client)] {
        let channel = place.greet(Role::Client);
        say(&channel, &message, &[]);
        expect_refusal(&channel, Status::Fault);
    }
    // A greeting that is right but for one byte.
    let mut right = Vec::new();
    hello(PROTOCOL, Role::Worker).encode(&mut right);
    for at in (0..right.len() - 8).filter(|at| !(16..20).contains(at)) {
        let mut bytes = right.clone();
        bytes[at] ^= 0x40;
        let channel = place.connect();
        channel.send(&bytes, &[]).unwrap();
        match hear(&channel) {
            Some(FromDirector::Refused { .. }) => {}
            // Which bus it was on before is its own business, and roles have more than one number.
            Some(FromDirector::Welcome { .. }) => assert!((24..40).contains(&at), "byte {at}"),
            other => panic!("byte {at}: {other:?}"),
        }
    }
    place.others_are_right(200);
}

#[test]
fn wrong_descriptors_are_refused() {
    let place = Place::new();
    let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    let pipe = || nix::unistd::pipe().unwrap().0;
    let bell = || Doorbell::new().unwrap().try_clone_fd().unwrap();
    let (out, at) = (SHAPE.outbox(), SHAPE.inbox());
    let (out_bytes, in_bytes) = (out.words as u64 * 8, at.words as u64 * 8);
    let outbox = |kind, extra| {
        sealed::create("trine outbox", out_bytes + out.arena_bytes + extra, out_bytes, kind).unwrap().1
    };
    let inbox = |kind, populated| {
        sealed::create("trine inbox", in_bytes + at.arena_bytes, populated, kind).unwrap().1
    };
    let right = || (outbox(Kind::WriterOnly, 0), inbox(Kind::ReadWrite, in_bytes), bell());
    let unsealed = || {
        let flags = nix::sys::memfd::MFdFlags::MFD_ALLOW_SEALING;
        let fd = nix::sys::memfd::memfd_create("trine outbox", flags).unwrap();
        nix::unistd::ftruncate(&fd, (out_bytes + out.arena_bytes) as i64).unwrap();
        fd
    };
    let sets: Vec<Vec<OwnedFd>> = vec![
        vec![],
        vec![right().0, right().1],
        vec![right().0, right().1, right().2, null()],
        vec![right().0, right().1, right().2, null(), null()],
        vec![right().1, right().0, right().2],
        vec![outbox(Kind::ReadWrite, 0), right().1, right().2],
        vec![outbox(Kind::WriterOnly, 4096), right().1, right().2],
        vec![unsealed(), right().1, right().2],
        vec![right().0, inbox(Kind::WriterOnly, in_bytes), right().2],
        vec![right().0, inbox(Kind::ReadWrite, 0), right().2],
        vec![right().0, right().1, null()],
        vec![right().0, right().1, pipe()],
        vec![right().0, right().1, right().0],
        vec![null(), pipe(), bell()],
    ];
    for (n, set) in sets.iter().enumerate() {
        let channel = place.greet(Role::Client);
        let fds: Vec<BorrowedFd> = set.iter().map(AsFd::as_fd).collect();
        say(&channel, &open_session(SHAPE), &fds);
        match hear(&channel) {
            Some(FromDirector::Refused { status: Status::Fault | Status::Busy, .. }) | None => {}
            other => panic!("set {n}: {other:?}"),
        }
    }
    for set in [vec![null(), bell()], vec![bell(), bell()], vec![right().0, bell()]] {
        let channel = place.greet(Role::Worker);
        let fds: Vec<BorrowedFd> = set.iter().map(AsFd::as_fd).collect();
        let shape = WorkShape::default();
        say(
            &channel,
            &ToDirector::OpenWorker { worker: 0, credential: [0; 2], taken: 0, holds: false, shape },
            &fds,
        );
        expect_refusal(&channel, Status::Fault);
    }
    place.others_are_right(100);
    let seen = place.bus.inspect().unwrap();
    assert_eq!((seen.sessions.len(), seen.workers.len()), (1, 1));
}

#[test]
fn descriptors_that_linger_hold_nobody_else_up() {
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};
    let place = Place::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut readers = Vec::new();
    for count in [1, 3, 4, 60] {
        // What they have sent nobody reads, and they wait for that when they are closed: three times as long as we do.
        let lingering: Vec<TcpStream> = (0..count)
            .map(|_| {
                let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                readers.push(listener.accept().unwrap().0);
                let linger = nix::libc::linger { l_onoff: 1, l_linger: 60 };
                nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::Linger, &linger).unwrap();
                stream.set_nonblocking(true).unwrap();
                while stream.write(&[0; 1 << 16]).is_ok() {}
                stream
            })
            .collect();
        let channel = place.greet(Role::Client);
        let fds: Vec<BorrowedFd> = lingering.iter().map(AsFd::as_fd).collect();
        say(&channel, &open_session(SHAPE), &fds);
        // Where this is the last copy, it is this process that waits: not in this thread.
        std::thread::spawn(|| drop(lingering));
        expect_refusal(&channel, Status::Fault);
        let other = place.bus.client(ClientOptions::default()).unwrap();
        assert_eq!(other.call(other.route("text", "echo").unwrap(), b"x").unwrap().bytes().to_vec(), b"x");
    }
}

#[test]
fn a_thousand_idle_connections_disturb_nobody() {
    let place = Place::new();
    // As many as this process may have descriptors for.
    let idle: Vec<Channel> = (0..1000).map_while(|_| Channel::connect(place.bus.socket()).ok()).collect();
    place.others_are_right(1000);
    drop(idle);
    let until = Instant::now() + PATIENCE;
    let more = loop {
        match place.bus.client(ClientOptions::default()) {
            Ok(client) => break client,
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
    };
    assert_eq!(more.call(more.route("text", "echo").unwrap(), b"x").unwrap().bytes().to_vec(), b"x");
}

#[test]
fn connections_that_say_nothing_give_way_and_those_that_speak_do_not() {
    let place = Place::new();
    let first = place.connect();
    let spoke = place.connect();
    say(&spoke, &hello(PROTOCOL, Role::Monitor), &[]);
    // As many as there is room for, and one more.
    let idle: Vec<Channel> = (0..256).map(|_| place.connect()).collect();
    expect_refusal(&first, Status::Busy);
    assert!(matches!(hear(&spoke), Some(FromDirector::Welcome { .. })));
    // In time, the others go as well.
    idle.iter().for_each(|channel| expect_refusal(channel, Status::Busy));
    place.others_are_right(10);
    say(&spoke, &ToDirector::Inspect, &[]);
    assert!(hear(&spoke).is_some());
}

#[test]
fn a_worker_that_refused_a_session_is_asked_again() {
    let place = Place::new();
    let worker = place.greet(Role::Worker);
    let shape = WorkShape { slots: 4 };
    let bytes = shape.progress().words as u64 * 8;
    let (_page, page) = sealed::create("trine progress page", bytes, bytes, Kind::WriterOnly).unwrap();
    let bell = Doorbell::new().unwrap();
    let open = ToDirector::OpenWorker { worker: 0, credential: [0; 2], taken: 0, holds: false, shape };
    say(&worker, &open, &[page.as_fd(), bell.as_fd()]);
    assert!(matches!(hear(&worker), Some(FromDirector::WorkerOpened { .. })));
    let operations = ["a", "b"].map(|name| Name::new("o", name).unwrap()).to_vec();
    say(
        &worker,
        &ToDirector::Provide { service: Name::new("s", "short").unwrap(), first: 0, operations },
        &[],
    );
    assert!(matches!(hear(&worker), Some(FromDirector::Provided { status: Status::Ok, .. })));
    let refuse = || match hear(&worker) {
        Some(FromDirector::MapSession { index, .. }) => {
            say(&worker, &ToDirector::SessionMapped { index, accepted: false }, &[])
        }
        other => panic!("{other:?}"),
    };
    let route = place.client.route("short", "a").unwrap();
    refuse();
    assert_eq!(place.client.call(route, b"").err().map(|e| e.status()), Some(Status::NoWorker));
    // Another route is a reason.
    place.client.route("short", "b").unwrap();
    refuse();
    // And so is time, for one who goes on calling.
    let until = Instant::now() + PATIENCE;
    while !worker_has_heard(&worker) {
        assert!(Instant::now() < until, "it is not asked again");
        let deadline = Instant::now() + Duration::from_millis(20);
        match place.client.request(route).deadline(deadline).submit(b"", crate::Until::Now) {
            Ok(call) => assert!(call.wait().is_err()),
            // This thread did not run for so long.
            Err(error) => assert_eq!(error.status(), Status::DeadlineExceeded),
        }
    }
    refuse();
}

fn worker_has_heard(worker: &Channel) -> bool {
    worker.wait_readable(0).unwrap() == crate::control::socket::Waited::Readable
}

/// A worker changes what it declares as fast as its socket takes it, and reads every answer.
#[test]
fn a_flood_of_changes_holds_up_no_call_and_nobody_who_comes() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let place = Place::after_another();
    let worker = place.greet(Role::Worker);
    let shape = WorkShape { slots: 4 };
    let bytes = shape.progress().words as u64 * 8;
    let (_page, page) = sealed::create("trine progress page", bytes, bytes, Kind::WriterOnly).unwrap();
    let bell = Doorbell::new().unwrap();
    let open = ToDirector::OpenWorker { worker: 0, credential: [0; 2], taken: 0, holds: false, shape };
    say(&worker, &open, &[page.as_fd(), bell.as_fd()]);
    assert!(matches!(hear(&worker), Some(FromDirector::WorkerOpened { .. })));
    let (service, operation) = (Name::new("s", "flood").unwrap(), Name::new("o", "o").unwrap());
    let provide = ToDirector::Provide { service: service.clone(), first: 0, operations: vec![operation] };
    say(&worker, &provide, &[]);
    assert!(matches!(hear(&worker), Some(FromDirector::Provided { status: Status::Ok, .. })));
    let flooding = &AtomicBool::new(true);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let (mut sent, mut heard) = (0u64, 0u64);
            while flooding.load(Ordering::Relaxed) || heard < sent {
                // Half of them declare, half withdraw: so the quota is never reached.
                let (action, first) = match sent % 2 {
                    0 => (Action::Declare, sent / 2),
                    _ => (Action::Withdraw, sent / 2),
                };
                let keys = (0..limits::RESOURCES_PER_CHANGE as u64).map(|n| first * 128 + n);
                let changes = keys.map(|key| (action, key.into())).collect();
                let mut bytes = Vec::new();
                ToDirector::Change { service: service.clone(), changes }.encode(&mut bytes);
                if flooding.load(Ordering::Relaxed) && worker.send(&bytes, &[]).is_ok() {
                    sent += 1;
                }
                while let Ok(Received::Message(message, _)) = worker.receive_message::<FromDirector>() {
                    let fine = matches!(message, FromDirector::Provided { status: Status::Ok, .. });
                    assert!(fine, "{message:?}");
                    heard += 1;
                }
            }
            println!("{heard} changes of 128 keys");
            assert!(heard > 100, "no flood: {heard}");
        });
        let mut longest = Duration::ZERO;
        for n in 0..2000 {
            let began = Instant::now();
            if n % 100 == 0 {
                let comes = place.bus.client(ClientOptions::default()).unwrap();
                comes.route("text", "echo").unwrap();
            }
            place.others_are_right(1);
            longest = longest.max(began.elapsed());
        }
        println!("the longest of 2,000 calls took {longest:?}");
        flooding.store(false, Ordering::Relaxed);
    });
}

/// Where a director in a process of its own begins; run by itself it does nothing.
#[test]
fn director_of_its_own() {
    if let Some(folder) = std::env::var_os(DIRECTOR) {
        Director::new(&Bus::at(folder), DirectorOptions::default()).unwrap().run().unwrap();
    }
}

const DIRECTOR: &str = "TRINE_TEST_DIRECTOR";

/// A process, killed when it is dropped.
struct Process(std::process::Child);

impl Process {
    fn director(bus: &Bus) -> Process {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["director::hostile_tests::director_of_its_own", "--exact"]);
        command.env(DIRECTOR, bus.folder()).stdout(std::process::Stdio::null());
        let process = Process(command.spawn().unwrap());
        let until = Instant::now() + PATIENCE;
        while bus.inspect().is_err() {
            assert!(Instant::now() < until, "no director");
        }
        process
    }

    /// Time on a CPU, in clock ticks of 10 ms.
    fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_flood_that_never_reads_is_not_read_from_and_costs_nothing_after() {
    let folder = tempfile::tempdir().unwrap();
    let bus = Bus::at(folder.path());
    let director = Process::director(&bus);
    let channel = greeted(&bus, Role::Client);
    let ((_outbox, outbox), (_inbox, inbox)) = segments(SHAPE);
    let own = Doorbell::new().unwrap();
    say(&channel, &open_session(SHAPE), &[outbox.as_fd(), inbox.as_fd(), own.as_fd()]);
    assert!(matches!(hear(&channel), Some(FromDirector::SessionOpened { .. })));
    let (service, operation) = (Name::new("s", "nobody").unwrap(), Name::new("o", "echo").unwrap());
    let mut bytes = Vec::new();
    ToDirector::OpenRoute { route: 5, service, operation }.encode(&mut bytes);
    // One at a time, so that one answer alone finds no room. An inspection passes the same two threads.
    let mut sent = 0u64;
    while sent < 100_000 {
        match channel.send(&bytes, &[]) {
            Ok(()) => sent += 1,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => break,
            Err(e) => panic!("{e}"),
        }
        bus.inspect().unwrap();
    }
    assert!(sent < 100_000, "it is read from without end");
    for _ in 0..sent {
        assert!(matches!(hear(&channel), Some(FromDirector::RouteOpened { .. })));
    }
    let before = director.cpu_ticks();
    // A stretch of time, to be idle in.
    std::thread::sleep(Duration::from_millis(400));
    let used = director.cpu_ticks() - before;
    assert!(used < 10, "an idle director used {used} of 40 ticks");
    channel.send(&bytes, &[]).unwrap();
    assert!(matches!(hear(&channel), Some(FromDirector::RouteOpened { .. })));
}

/// A request as it should be.
fn sound(ticket: u64) -> Request {
    let deadline_ns = now_ns() + 1_000_000_000;
    Request { ticket, operation: 0, flags: 0, deadline_ns, len: 8, capacity: 64, ..Request::default() }
}

fn publish(session: &RawSession, ring: &mut Publisher<LINE>, request: Request, at: [u64; 2]) {
    let mut record: Record = [0; LINE];
    request.write(&mut record);
    (record[6], record[7]) = (at[0], at[1]);
    ring.publish(&session.outbox, &record, LINE);
    session.bell.ring();
}

#[test]
fn forged_requests_end_their_session_only() {
    let place = Place::new();
    let big = u32::MAX;
    let forged = [
        Request { flags: 0x8000, ..sound(8) },
        Request { len: big, ..sound(8) },
        Request { len: 4097, ..sound(8) },
        Request { capacity: 65, ..sound(8) },
        Request { capacity: big, ..sound(8) },
        Request { flags: flag::REPLY_AT, capacity: big, ..sound(8) },
        Request { ticket: 0, ..sound(8) },
    ];
    for (n, request) in forged.into_iter().enumerate() {
        let session = RawSession::open(&place);
        let mut ring = Publisher::new(SHAPE.outbox().ring, SHAPE.ring_slots(), 0);
        publish(&session, &mut ring, request, [u64::MAX - 7, u64::MAX - 7]);
        assert_eq!(hear(&session.channel), None, "disconnected for request {n}");
        place.expect_faults(n as u64 + 1);
    }
    // A stamp from the future, and a ticket twice.
    let session = RawSession::open(&place);
    session.outbox.store(SHAPE.outbox().ring, 77);
    session.bell.ring();
    assert_eq!(hear(&session.channel), None);
    let session = RawSession::open(&place);
    let mut ring = Publisher::new(SHAPE.outbox().ring, SHAPE.ring_slots(), 0);
    publish(&session, &mut ring, sound(8), [0; 2]);
    publish(&session, &mut ring, sound(8), [0; 2]);
    assert_eq!(hear(&session.channel), None);
    place.expect_faults(9);
    // A route that is none, and a payload that lies within the arena's bounds but is not there, are only errors.
    let session = RawSession::open(&place);
    let mut ring = Publisher::new(SHAPE.outbox().ring, SHAPE.ring_slots(), 0);
    publish(&session, &mut ring, Request { operation: 4000, ..sound(8) }, [0; 2]);
    let slot = SHAPE.inbox().replies;
    let until = Instant::now() + PATIENCE;
    while session.inbox.load(slot) != 9 {
        assert!(Instant::now() < until, "no answer");
    }
    assert_eq!(session.inbox.load(slot + 1) as u16, Status::NoSuchService as u16);
    place.others_are_right(300);
    assert_eq!(place.bus.inspect().unwrap().faults, 9);
}

/// Random words and half-right records all over a session's own memory, while another client works.
#[test]
fn a_client_that_scribbles_over_its_rings_harms_nobody_else() {
    let place = Place::new();
    let mut seed = 4711;
    let (out, at) = (SHAPE.outbox(), SHAPE.inbox());
    for round in 0..150u64 {
        let session = RawSession::open(&place);
        let mut ring = Publisher::new(out.ring, SHAPE.ring_slots(), 0);
        for step in 0..200u64 {
            let (a, b) = (random(&mut seed), random(&mut seed));
            match a % 7 {
                0 => session.outbox.store(b as usize % out.words, random(&mut seed)),
                1 => session.inbox.store(b as usize % at.words, random(&mut seed)),
                2 => session.inbox.store(b as usize % at.words, u64::MAX),
                3 => {
                    // Stamps just ahead of their place.
                    let position = b % SHAPE.ring_slots();
                    session.outbox.store(out.ring + position as usize * LINE, position + 1);
                }
                4 => session.outbox.store(b as usize % HEAD, b),
                _ => {
                    let request = Request {
                        ticket: if b & 1 == 0 { 8 + step } else { b >> 16 },
                        flags: (b >> 8) as u16 & flag::ALL,
                        len: [0, 8, 16, 64, 65, 4096][(b >> 24) as usize % 6],
                        capacity: [0, 8, 64][(b >> 32) as usize % 3],
                        operation: u32::from(b >> 60 == 0),
                        ..sound(8)
                    };
                    publish(&session, &mut ring, request, [(b >> 40) % 5000, (a >> 40) % 5000]);
                }
            }
        }
        session.bell.ring();
        if round % 2 == 0 {
            place.others_are_right(20);
        }
        drop(session);
    }
    place.others_are_right(2000);
    let until = Instant::now() + PATIENCE;
    while place.bus.inspect().unwrap().sessions.len() > 1 {
        assert!(Instant::now() < until, "scribblers are not forgotten");
    }
}
