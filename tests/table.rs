//! Keys, declarations, policies, rights, draining: on a bus with a director and workers in threads.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use trine::{
    Bus, Changes, Client, ClientOptions, Director, DirectorHandle, DirectorOptions, Error, Event, Key,
    Policy, Priority, Request, Resource, Route, Served, ServiceOptions, Status, Stopper, Unheld, Until,
    Worker, WorkerOptions,
};

struct Rig {
    _folder: tempfile::TempDir,
    bus: Bus,
    director: Option<DirectorHandle>,
}

impl Rig {
    fn new() -> Rig {
        let folder = tempfile::tempdir().expect("a folder");
        let bus = Bus::at(folder.path());
        let mut rig = Rig { _folder: folder, bus, director: None };
        rig.start();
        rig
    }

    fn start(&mut self) {
        let director = Director::new(&self.bus, DirectorOptions::default()).expect("a free bus");
        self.director = Some(director.spawn().expect("a thread"));
    }

    fn client(&self) -> Client {
        self.bus.client(ClientOptions::default()).expect("a client")
    }
}

/// What is done with a worker, in its thread.
type Order = Box<dyn FnOnce(&Worker) + Send>;

/// A worker in a thread. It serves, and between two requests does what it is told.
struct Serving {
    id: u64,
    orders: Sender<Order>,
    stopper: Stopper,
    events: Receiver<Event>,
    thread: Option<JoinHandle<()>>,
}

impl Serving {
    fn new(
        bus: &Bus,
        options: ServiceOptions,
        mut handler: impl FnMut(Request<'_>) -> Served + Send + 'static,
    ) -> Serving {
        let worker = bus.worker(WorkerOptions::default()).expect("a worker");
        worker.provide_with("store", &["who", "put"], options).expect("provided");
        let (heard, events) = channel();
        worker.on_event(move |event| drop(heard.send(event.clone())));
        let (orders, received) = channel::<Order>();
        let (id, stopper) = (worker.id(), worker.stopper());
        let thread = std::thread::spawn(move || {
            loop {
                while let Ok(order) = received.try_recv() {
                    order(&worker);
                }
                match worker.next(Until::after(Duration::from_millis(1))) {
                    Ok(Some(request)) => drop(handler(request)),
                    Ok(None) => {}
                    Err(Error::Interrupted | Error::Drained) => return,
                    Err(error) => panic!("{error}"),
                }
            }
        });
        Serving { id, orders, stopper, events, thread: Some(thread) }
    }

    /// One that says who it is.
    fn named(bus: &Bus, name: &'static str, options: ServiceOptions) -> Serving {
        Serving::new(bus, options, move |request| request.reply(name.as_bytes()))
    }

    fn order<T: Send + 'static>(&self, order: impl FnOnce(&Worker) -> T + Send + 'static) -> T {
        let (send, receive) = channel();
        self.orders.send(Box::new(move |worker| drop(send.send(order(worker))))).expect("it serves");
        receive.recv_timeout(Duration::from_secs(10)).expect("done")
    }

    fn event(&self) -> Event {
        self.events.recv_timeout(Duration::from_secs(10)).expect("an event")
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.join().expect("no panic");
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stopper.stop();
        if !std::thread::panicking() {
            self.join();
        }
    }
}

fn gained(resource: impl Into<Resource>) -> Event {
    Event::Gained { service: "store".into(), resource: resource.into() }
}

fn lost(resource: impl Into<Resource>) -> Event {
    Event::Lost { service: "store".into(), resource: resource.into() }
}

fn ask(client: &Client, route: Route, key: impl Into<Key>) -> Result<String, Status> {
    let draft = client.request(route).key(key).timeout(Duration::from_millis(300));
    let reply = draft.submit(b"", Until::Forever).expect("sent").wait();
    reply.map(|reply| String::from_utf8(reply.bytes().to_vec()).expect("text")).map_err(|e| e.status())
}

#[test]
fn a_key_travels_and_a_name_is_never_a_number() {
    let rig = Rig::new();
    let _worker = Serving::new(&rig.bus, ServiceOptions::default(), |request| {
        let text = format!("{:?}", request.key());
        request.reply(text.as_bytes())
    });
    let client = rig.client();
    let who = client.route("store", "who").expect("provided");
    let name = client.key("orders/2026").expect("a key");
    assert_eq!(rig.client().key("orders/2026").expect("the same key"), name);
    assert_ne!(client.key("orders/2027").expect("another"), name);
    assert_eq!(name.as_number(), None);
    assert_ne!(Key::number(name.word()), name);
    assert_eq!(ask(&client, who, name), Ok(format!("{:?}", Some(name))));
    assert_eq!(ask(&client, who, 7), Ok(format!("{:?}", Some(Key::number(7)))));
    assert_eq!(client.call(who, b"").expect("a reply").bytes().to_vec(), b"None");
    assert!(matches!(client.key("two words"), Err(Error::Name { .. })));
}

#[test]
fn calls_go_to_those_who_speak_for_their_key() {
    let rig = Rig::new();
    let client = rig.client();
    let _low = Serving::named(&rig.bus, "low", ServiceOptions::default().resource(0..=99));
    let who = client.route("store", "who").expect("provided");
    let name = client.key("apple").expect("a key");
    let set = [Resource::from(name), Resource::from(500)];
    let _set = Serving::named(&rig.bus, "set", ServiceOptions::default().resources(set));
    let share = |index| ServiceOptions::default().resource(Resource::Share { index, of: 2 });
    assert_eq!(ask(&client, who, 7), Ok("low".into()));
    assert_eq!(ask(&client, who, 99), Ok("low".into()));
    assert_eq!(ask(&client, who, 100), Err(Status::NoWorker));
    assert_eq!(ask(&client, who, 500), Ok("set".into()));
    assert_eq!(ask(&client, who, name), Ok("set".into()));
    assert_eq!(ask(&client, who, Key::number(name.word())), Err(Status::NoWorker));
    let _even = Serving::named(&rig.bus, "share 0", share(0));
    let _odd = Serving::named(&rig.bus, "share 1", share(1));
    for number in 1000..1050 {
        assert_eq!(ask(&client, who, number), Ok(format!("share {}", Key::number(number).share(2))));
    }
}

#[test]
fn a_change_is_made_whole_or_not_at_all() {
    let rig = Rig::new();
    let client = rig.client();
    let worker = Serving::named(&rig.bus, "it", ServiceOptions::default().resource(0..=9));
    let who = client.route("store", "who").expect("provided");
    let refused = |changes: Changes| match worker.order(|worker| worker.change("store", changes)) {
        Err(Error::Refused { status, .. }) => status,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(Changes::new().declare(50).withdraw(0..=8)), Status::NoSuchResource);
    assert_eq!(refused(Changes::new().declare(50).declare(9..=12)), Status::BadResource);
    let upside_down = Resource::Range { first: 70, last: 60 };
    assert_eq!(refused(Changes::new().declare(50).declare(upside_down)), Status::BadResource);
    assert_eq!(refused(Changes::new().declare(50).acquire(upside_down)), Status::BadResource);
    assert_eq!(refused(Changes::new().declare(50).release(5)), Status::NotHeld);
    assert_eq!(ask(&client, who, 50), Err(Status::NoWorker));
    let many = (0..200).fold(Changes::new(), |changes, number| changes.declare(number));
    assert!(matches!(worker.order(|worker| worker.change("store", many)), Err(Error::Option { .. })));
    worker
        .order(|worker| worker.change("store", Changes::new().withdraw(0..=9).declare(5..=50)))
        .expect("done");
    assert_eq!(ask(&client, who, 50), Ok("it".into()));
    assert_eq!(ask(&client, who, 4), Err(Status::NoWorker));
}

#[test]
fn an_unheld_resource_waits_or_errs_or_is_offered() {
    for unheld in [Unheld::Wait, Unheld::Error, Unheld::Offer] {
        let rig = Rig::new();
        let client = rig.client();
        let options = ServiceOptions::default().exclusive(unheld);
        let one = Serving::named(&rig.bus, "one", options.clone());
        let two = Serving::named(&rig.bus, "two", options);
        let who = client.route("store", "who").expect("provided");
        match unheld {
            Unheld::Wait => {
                assert_eq!(ask(&client, who, 5), Err(Status::DeadlineExceeded));
                let waiting = client.request(who).key(5).submit(b"", Until::Forever).expect("sent");
                assert!(two.order(|worker| worker.acquire("store", 5)).expect("granted"));
                assert_eq!(waiting.wait().expect("served").bytes().to_vec(), b"two");
            }
            Unheld::Error => {
                assert_eq!(ask(&client, who, 5), Err(Status::NotHeld));
                assert!(two.order(|worker| worker.acquire("store", 5)).expect("granted"));
                assert_eq!(ask(&client, who, 5), Ok("two".into()));
            }
            _ => {
                let first = ask(&client, who, 5).expect("offered");
                let holder = if first == "one" { &one } else { &two };
                assert_eq!(holder.event(), gained(5));
                for _ in 0..20 {
                    assert_eq!(ask(&client, who, 5), Ok(first.clone()));
                }
            }
        }
        // A call without a key asks for nothing that anybody holds.
        assert!(client.call(who, b"").is_ok());
    }
}

#[test]
fn what_nobody_could_be_given_goes_to_who_declares_its_key() {
    let rig = Rig::new();
    let client = rig.client();
    let options = ServiceOptions::default().exclusive(Unheld::Offer).resource(1);
    let one = Serving::named(&rig.bus, "one", options);
    let who = client.route("store", "who").expect("provided");
    let draft = client.request(who).key(5).timeout(Duration::from_secs(10));
    let waiting = draft.submit(b"", Until::Forever).expect("sent");
    let began = Instant::now();
    while rig.bus.inspect().expect("rows").sessions[0].waiting == 0 {
        assert!(began.elapsed() < Duration::from_secs(5), "it does not wait");
        std::thread::yield_now();
    }
    one.order(|worker| worker.change("store", Changes::new().declare(5))).expect("declared");
    assert_eq!(waiting.wait().expect("served").bytes().to_vec(), b"one");
    assert_eq!(one.event(), gained(5));
}

#[test]
fn a_right_is_handed_over_when_its_holder_has_finished() {
    let rig = Rig::new();
    let client = rig.client();
    let options = ServiceOptions::default().exclusive(Unheld::Wait);
    let log = Arc::new(Mutex::new(Vec::new()));
    let writer = |name: &'static str| {
        let log = log.clone();
        Serving::new(&rig.bus, options.clone(), move |request| {
            log.lock().expect("no panic").push((name, request.bytes().to_vec()[0]));
            request.reply(b"")
        })
    };
    let (one, two) = (writer("one"), writer("two"));
    assert!(one.order(|worker| worker.acquire("store", 0..=9)).expect("granted"));
    assert_eq!(one.event(), gained(0..=9));
    let put = client.route("store", "put").expect("provided");
    let mut pending = Vec::new();
    for n in 0..60 {
        pending.push(client.request(put).key(4).submit(&[n], Until::Forever).expect("sent"));
        if n == 30 {
            two.order(|worker| worker.acquire("store", 4)).expect("claimed");
        }
    }
    for call in pending {
        call.wait().expect("served");
    }
    assert_eq!((one.event(), two.event()), (lost(4), gained(4)));
    let log = log.lock().expect("no panic").clone();
    assert_eq!(log.iter().map(|&(_, n)| n).collect::<Vec<u8>>(), (0..60).collect::<Vec<u8>>());
    let handed = log.iter().position(|&(name, _)| name == "two").expect("it got the rest");
    assert!(log[handed..].iter().all(|&(name, _)| name == "two"), "{log:?}");
    let held = one.order(|worker| worker.holds("store"));
    assert_eq!(held, [Resource::from(0..=3), Resource::from(5..=9)]);
    assert_eq!(two.order(|worker| worker.holds("store")), [Resource::from(4)]);
}

#[test]
fn a_holder_that_keeps_a_call_keeps_its_right() {
    let rig = Rig::new();
    let client = rig.client();
    let options = ServiceOptions::default().exclusive(Unheld::Error);
    let worker = rig.bus.worker(WorkerOptions::default()).expect("a worker");
    worker.provide_with("store", &["who"], options.clone()).expect("provided");
    assert!(worker.acquire("store", 1).expect("granted"));
    let who = client.route("store", "who").expect("provided");
    let call = client.request(who).key(1).submit(b"", Until::Forever).expect("sent");
    let kept = worker.next(Until::Forever).expect("served").expect("a request");
    let other = Serving::named(&rig.bus, "other", options);
    assert!(!other.order(|worker| worker.acquire("store", 1)).expect("claimed"));
    assert!(worker.next(Until::after(Duration::from_millis(20))).expect("served").is_none());
    assert_eq!(worker.holds("store"), [Resource::from(1)]);
    // The hand-over takes long: a call ends as if nobody held the resource, and nobody is robbed.
    let late = client.request(who).key(1).submit(b"", Until::Forever).expect("sent").wait();
    assert_eq!(late.err().map(|e| e.status()), Some(Status::NotHeld));
    let _ = kept.reply(b"kept");
    assert_eq!(call.wait().expect("answered").bytes().to_vec(), b"kept");
    assert!(worker.next(Until::after(Duration::from_millis(20))).expect("served").is_none());
    assert_eq!(other.event(), gained(1));
    assert_eq!(ask(&client, who, 1), Ok("other".into()));
}

#[test]
fn who_goes_holds_nothing_any_more() {
    let rig = Rig::new();
    let client = rig.client();
    let options = ServiceOptions::default().exclusive(Unheld::Wait);
    let one = Serving::named(&rig.bus, "one", options.clone());
    let two = Serving::named(&rig.bus, "two", options);
    let many = (0..100).fold(Changes::new(), |changes, number| changes.acquire(number));
    one.order(|worker| worker.change("store", many)).expect("granted");
    let who = client.route("store", "who").expect("provided");
    assert_eq!(ask(&client, who, 99), Ok("one".into()));
    drop(one);
    assert!(two.order(|worker| worker.acquire("store", 99)).expect("granted"));
    assert_eq!(ask(&client, who, 99), Ok("two".into()));
    assert_eq!(ask(&client, who, 98), Err(Status::DeadlineExceeded));
    two.order(|worker| worker.release("store", 99)).expect("released");
    assert_eq!([two.event(), two.event()], [gained(99), lost(99)]);
    assert_eq!(ask(&client, who, 99), Err(Status::DeadlineExceeded));
}

#[test]
fn a_draining_worker_serves_what_it_has_and_nobody_notices() {
    let rig = Rig::new();
    let client = rig.client();
    let slow = |name: &'static str| {
        Serving::new(&rig.bus, ServiceOptions::default().exclusive(Unheld::Offer), move |request| {
            std::thread::yield_now();
            request.reply(name.as_bytes())
        })
    };
    let (mut one, two) = (slow("one"), slow("two"));
    assert!(one.order(|worker| worker.acquire("store", 3)).expect("granted"));
    let who = client.route("store", "who").expect("provided");
    assert_eq!(ask(&client, who, 3), Ok("one".into()));
    let mut pending = Vec::new();
    for n in 0..60 {
        let call = client.request(who);
        let call = if n % 2 == 0 { call.key(3) } else { call };
        pending.push(call.submit(b"", Until::Forever).expect("sent"));
        if n == 20 {
            rig.bus.drain(one.id).expect("asked");
        }
    }
    let replies: Vec<Vec<u8>> =
        pending.into_iter().map(|c| c.wait().expect("served").bytes().to_vec()).collect();
    let order: Vec<String> = replies.into_iter().map(|name| String::from_utf8(name).expect("text")).collect();
    assert!(order[21..].iter().all(|name| name == "two"), "{order:?}");
    one.join();
    assert_eq!([one.event(), one.event()], [gained(3), Event::Draining]);
    assert_eq!(two.event(), gained(3));
    let workers = rig.bus.inspect().expect("an answer").workers;
    assert_eq!(workers.iter().map(|w| w.id).collect::<Vec<_>>(), [two.id]);
    assert!(matches!(rig.bus.drain(one.id), Err(Error::Refused { status: Status::NoWorker, .. })));
}

#[test]
fn policies_choose_as_they_say() {
    let rig = Rig::new();
    let client = rig.client();
    let workers: Vec<Serving> = ["0", "1", "2"]
        .map(|name| Serving::named(&rig.bus, name, ServiceOptions::default().policy(Policy::RoundRobin)))
        .into();
    let who = client.route("store", "who").expect("provided");
    // Once all of them have mapped the session, they take turns.
    let mut seen = std::collections::HashSet::new();
    while seen.len() < 3 {
        seen.insert(ask(&client, who, 0).expect("served"));
    }
    let last: Vec<String> = (0..30).map(|n| ask(&client, who, n).expect("served")).collect();
    assert!(last.windows(3).all(|w| w[0] != w[1] && w[1] != w[2] && w[0] != w[2]), "{last:?}");
    let affine = ServiceOptions::default().policy(Policy::Affinity);
    workers[0].order(move |worker| worker.provide_with("store", &["who", "put"], affine)).expect("changed");
    let homes: Vec<String> = (0..30).map(|n| ask(&client, who, n).expect("served")).collect();
    assert!(["0", "1", "2"].iter().all(|name| homes.iter().any(|home| home == name)), "{homes:?}");
    for _ in 0..3 {
        let again: Vec<String> = (0..30).map(|n| ask(&client, who, n).expect("served")).collect();
        assert_eq!(homes, again);
    }
}

#[test]
fn classes_take_turns_and_none_starves() {
    let rig = Rig::new();
    let client = rig.client();
    let worker = rig.bus.worker(WorkerOptions::default()).expect("a worker");
    worker.provide("store", &["put"]).expect("provided");
    let put = client.route("store", "put").expect("provided");
    let submit = |class: u8, priority| {
        client.request(put).priority(priority).submit(&[class], Until::Forever).expect("sent").detach()
    };
    for _ in 0..20 {
        submit(2, Priority::Low);
    }
    for _ in 0..20 {
        submit(1, Priority::Normal);
    }
    for _ in 0..20 {
        submit(0, Priority::High);
    }
    let mut order = Vec::new();
    while order.len() < 60 {
        let request = worker.next(Until::after(Duration::from_secs(10))).expect("served").expect("a request");
        order.push(request.bytes().to_vec()[0]);
        let _ = request.reply(b"");
    }
    let last = |class| order.iter().rposition(|&c| c == class).expect("served");
    let first = |class| order.iter().position(|&c| c == class).expect("served");
    assert!(last(0) < last(1) && last(1) < last(2), "{order:?}");
    // What was given out before the others came is the low ones' in any case.
    assert!(order[..last(0)].iter().filter(|&&class| class == 1).count() >= 1, "{order:?}");
    assert!(first(1) < last(0), "{order:?}");
}

#[test]
fn rights_end_with_their_director_and_declarations_do_not() {
    let mut rig = Rig::new();
    let options = ServiceOptions::default().resource(0..=9).exclusive(Unheld::Error);
    let worker = Serving::named(&rig.bus, "it", options);
    let more = (100..300).collect::<Vec<u64>>();
    for some in more.chunks(100) {
        let declare = some.iter().fold(Changes::new(), |changes, &number| changes.declare(number));
        worker.order(|worker| worker.change("store", declare)).expect("declared");
    }
    assert!(worker.order(|worker| worker.acquire("store", 3)).expect("granted"));
    assert_eq!(worker.event(), gained(3));
    rig.director.take().expect("running").stop().expect("stopped");
    rig.start();
    assert_eq!(worker.event(), lost(3));
    assert_eq!(worker.order(|worker| worker.holds("store")), []);
    let client = rig.client();
    let who = client.route("store", "who").expect("provided again");
    assert_eq!(ask(&client, who, 3), Err(Status::NotHeld));
    // All that was declared is declared again: it can be withdrawn.
    let withdraw = |numbers: &[u64]| numbers.iter().fold(Changes::new(), |c, &number| c.withdraw(number));
    let (first, last) = (withdraw(&more[..100]), withdraw(&more[100..]));
    worker.order(move |worker| worker.change("store", first)).expect("withdrawn");
    worker.order(move |worker| worker.change("store", last.withdraw(0..=9))).expect("withdrawn");
    assert!(worker.order(|worker| worker.acquire("store", 3)).expect("granted"));
    assert_eq!(ask(&client, who, 3), Ok("it".into()));
}

#[test]
fn who_has_withdrawn_everything_speaks_for_nothing_after_a_restart_too() {
    let mut rig = Rig::new();
    let worker = Serving::named(&rig.bus, "it", ServiceOptions::default().resource(7));
    worker.order(|worker| worker.change("store", Changes::new().withdraw(7))).expect("withdrawn");
    let client = rig.client();
    let who = client.route("store", "who").expect("provided");
    assert_eq!(ask(&client, who, 7), Err(Status::NoWorker));
    rig.director.take().expect("running").stop().expect("stopped");
    rig.start();
    let client = rig.client();
    let until = std::time::Instant::now() + Duration::from_secs(20);
    let who = loop {
        match client.route("store", "who") {
            Ok(route) => break route,
            Err(error) => assert!(std::time::Instant::now() < until, "it does not come back: {error}"),
        }
    };
    // A change waits for what it was telling.
    worker.order(|worker| worker.change("store", Changes::new().declare(8))).expect("declared");
    for key in [7, 9] {
        assert_eq!(ask(&client, who, key), Err(Status::NoWorker));
    }
    assert_eq!(ask(&client, who, 8), Ok("it".into()));
}
