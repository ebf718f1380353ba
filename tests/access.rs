//! Rules in force on a real bus, in one process: what they let through, what a reload takes away, and what is said of it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use trine::access::{
    Asker, DomainRule, KeyRule, Otherwise, Pattern, Rule, Rules, ServiceRule, Topic, Verb, Who,
};
use trine::{
    Bus, Client, ClientOptions, Director, DirectorHandle, DirectorOptions, Error, Event, KeyText, Policy,
    Route, ServiceOptions, Status, Stopper, Unheld, Until, Worker, WorkerOptions,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// A bus whose rules a test changes.
struct Scene {
    bus: Bus,
    rules: Arc<Mutex<Result<Rules, String>>>,
    _director: DirectorHandle,
    _folder: tempfile::TempDir,
}

impl Scene {
    fn new(rules: Rules) -> Scene {
        let folder = tempfile::tempdir().expect("a folder");
        let bus = Bus::at(folder.path());
        let rules = Arc::new(Mutex::new(Ok(rules)));
        let source = rules.clone();
        let options = DirectorOptions::default().policy(move || source.lock().expect("no panic").clone());
        let director = Director::new(&bus, options).and_then(Director::spawn).expect("a director");
        Scene { bus, rules, _director: director, _folder: folder }
    }

    fn reload(&self, rules: Result<Rules, String>) -> Result<(), Error> {
        *self.rules.lock().expect("no panic") = rules;
        self.bus.reload()
    }

    fn client(&self) -> Client {
        self.bus.client(ClientOptions::default()).expect("a client")
    }

    /// A worker of the service `kv` that answers with its own id, in a thread.
    fn worker(&self, options: ServiceOptions) -> Serving {
        let worker = self.bus.worker(WorkerOptions::default()).expect("a worker");
        worker.provide_with("kv", &["get", "put"], options).expect("it may");
        Serving::start(worker)
    }
}

struct Serving {
    id: u64,
    stopper: Stopper,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Serving {
    fn start(worker: Worker) -> Serving {
        let (id, stopper) = (worker.id(), worker.stopper());
        let serve = move || {
            let _ = worker.serve(|request| request.reply(&id.to_le_bytes()));
        };
        Serving { id, stopper, thread: Some(std::thread::spawn(serve)) }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stopper.stop();
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

fn rule(allow: bool, verb: Verb, service: &str) -> Rule {
    let origin = format!("line about {verb}");
    Rule {
        origin,
        allow,
        verbs: vec![verb],
        services: vec![Pattern::Exact(service.into())],
        ..Rule::default()
    }
}

/// About the service `kv`.
fn service(rule: ServiceRule) -> ServiceRule {
    ServiceRule { origin: "line 9".into(), name: "kv".into(), ..rule }
}

fn with(rules: &[Rule]) -> Rules {
    Rules { rules: rules.to_vec(), default_origin: "the default".into(), ..Rules::default() }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn call(client: &Client, route: Route, key: u64) -> Result<(), Status> {
    let pending = client.request(route).key(key).submit(b"", Until::Forever).map_err(|e| e.status())?;
    pending.wait().map(drop).map_err(|e| e.status())
}

fn me() -> Asker<'static> {
    Asker { uid: nix::unistd::geteuid().as_raw(), gid: 0, groups: &[] }
}

#[test]
fn a_key_is_let_through_or_not_call_by_call() {
    let keys = vec![KeyRule::Numbers { first: 10, last: 19 }, KeyRule::Name("config".into())];
    let wipe = Rule { operations: vec![Pattern::Exact("put".into())], ..rule(false, Verb::Call, "kv") };
    let scene = Scene::new(with(&[wipe, Rule { keys, ..rule(false, Verb::Call, "kv") }]));
    let _worker = scene.worker(ServiceOptions::default());
    let client = scene.client();
    let denied = client.route("kv", "put").expect_err("it may not");
    assert!(denied.to_string().contains("may not call kv.put (line about call)"), "{denied}");
    let get = client.route("kv", "get").expect("on some keys it may");
    for key in [9, 20, 0, u64::MAX] {
        assert_eq!(call(&client, get, key), Ok(()));
    }
    for key in [10, 15, 19] {
        assert_eq!(call(&client, get, key), Err(Status::PermissionDenied));
    }
    assert!(client.call(get, b"").is_ok(), "a call without a key is on none of them");
    let config = client.key("config").expect("a key");
    let error =
        client.request(get).key(config).submit(b"", Until::Forever).unwrap().wait().err().expect("denied");
    assert_eq!((error.status(), error.may_have_run()), (Status::PermissionDenied, false));
    let denied = scene.bus.inspect().expect("an inspection").denied;
    let counts: Vec<u64> = denied.iter().map(|&(_, count)| count).collect();
    assert_eq!(counts, [4, 1], "the calls, and the route: {denied:?}");
}

#[test]
fn a_reload_takes_away_what_it_no_longer_allows_and_gives_it_back() {
    let open = with(&[]);
    let closed = with(&[rule(false, Verb::Call, "kv")]);
    let scene = Scene::new(open.clone());
    // A worker that is busy, so that calls wait at the director.
    let worker = scene.bus.worker(WorkerOptions::default()).expect("a worker");
    worker.provide("kv", &["get"]).expect("it may");
    let client = scene.client();
    let get = client.route("kv", "get").expect("a route");
    let waiting: Vec<_> =
        (0..40).map(|_| client.request(get).submit(b"", Until::Forever).expect("a free slot")).collect();
    let first = worker.next(Until::after(PATIENCE)).expect("a director").expect("a request");
    let _ = first.reply(b"");
    // What is in the worker's ring it answers all the same; the rest waits until it is refused.
    eventually("some of them wait", || scene.bus.inspect().expect("rows").sessions[0].waiting > 0);
    scene.reload(Ok(closed)).expect("rules");
    assert_eq!(
        call(&client, get, 1),
        Err(Status::PermissionDenied),
        "who has heard of the reload is held to it"
    );
    let serving = Serving::start(worker);
    let ends: Vec<Status> =
        waiting.into_iter().map(|p| p.wait().map_or_else(|e| e.status(), |_| Status::Ok)).collect();
    let count = |status| ends.iter().filter(|&&end| end == status).count();
    assert_eq!(count(Status::Ok) + count(Status::PermissionDenied), 40, "{ends:?}");
    assert!(count(Status::Ok) > 0 && count(Status::PermissionDenied) > 0, "{ends:?}");
    // What can't be read changes nothing.
    let refused = scene.reload(Err("policy.toml:7:1: nonsense".into())).expect_err("it is refused");
    assert_eq!(refused.to_string(), "the policy is refused: policy.toml:7:1: nonsense");
    assert_eq!(call(&client, get, 1), Err(Status::PermissionDenied));
    // The same route is open again.
    scene.reload(Ok(open)).expect("rules");
    assert_eq!(call(&client, get, 1), Ok(()));
    drop(serving);
}

#[test]
fn a_worker_loses_services_and_rights_that_it_may_not_have() {
    let scene = Scene::new(with(&[]));
    let worker = scene.bus.worker(WorkerOptions::default()).expect("a worker");
    let exclusive = || ServiceOptions::default().exclusive(Unheld::Error);
    worker.provide_with("kv", &["get"], exclusive()).expect("it may");
    for key in 0..200u64 {
        assert!(worker.acquire("kv", key).expect("it may"));
    }
    assert!(worker.acquire("kv", 1000..=1999).expect("it may"));
    let keys = vec![KeyRule::Numbers { first: 100, last: 1500 }];
    let lost = Arc::new(Mutex::new(Vec::new()));
    let heard = lost.clone();
    worker.on_event(move |event| {
        if let Event::Lost { resource, .. } = event {
            heard.lock().expect("no panic").push(*resource);
        }
    });
    let serve_until = |what: &str, holds: &dyn Fn() -> bool| {
        eventually(what, || {
            let request = worker.next(Until::after(Duration::from_millis(1))).expect("a director");
            if let Some(request) = request {
                let _ = request.reply(b"");
            }
            holds()
        });
    };
    scene.reload(Ok(with(&[Rule { keys, ..rule(false, Verb::Acquire, "kv") }]))).expect("rules");
    serve_until("it has lost a hundred keys, and the range", &|| lost.lock().expect("no panic").len() == 101);
    assert_eq!(worker.holds("kv").len(), 100);
    // All of a range, or nothing.
    let denied = worker.acquire("kv", 1400..=1600).expect_err("some of it it may not");
    assert_eq!(denied.status(), Status::PermissionDenied);
    assert!(denied.to_string().contains("may not acquire kv (line about acquire)"), "{denied}");
    worker.acquire("kv", 1501..=1600).expect("this it may");
    // And when it may not provide it at all.
    scene.reload(Ok(with(&[rule(false, Verb::Provide, "kv")]))).expect("rules");
    serve_until("it has lost everything", &|| worker.holds("kv").is_empty());
    assert!(scene.bus.inspect().expect("rows").services.iter().all(|s| s.name != "kv"));
    let denied = worker.provide_with("kv", &["get"], exclusive()).expect_err("it may not");
    assert_eq!(denied.status(), Status::PermissionDenied);
    // A cause is told once, and counted.
    let denied = scene.bus.inspect().expect("rows").denied;
    let provide: Vec<u64> = denied.iter().filter(|(d, _)| d.verb == Verb::Provide).map(|&(_, n)| n).collect();
    assert_eq!(provide, [2], "{denied:?}");
}

#[test]
fn an_explanation_is_what_happens() {
    let policies = [Policy::Jbsq, Policy::RoundRobin, Policy::Affinity, Policy::LeastOutstanding];
    let rules = |policy| Rules {
        services: vec![service(ServiceRule { policy: Some(policy), ..ServiceRule::default() })],
        rules: vec![Rule {
            keys: vec![KeyRule::Numbers { first: 5, last: 5 }],
            ..rule(false, Verb::Call, "kv")
        }],
        ..Rules::default()
    };
    let scene = Scene::new(rules(Policy::Jbsq));
    let explain = |key: Option<u64>| {
        scene.bus.explain(me(), "kv", "get", key.map(KeyText::Number)).expect("an explanation")
    };
    assert_eq!(explain(Some(1)).status, Status::NoSuchService);
    let workers: Vec<Serving> = (0..3u64)
        .map(|n| {
            scene.worker(ServiceOptions::default().resource(n * 100..=n * 100 + 149).policy(Policy::Jbsq))
        })
        .collect();
    let client = scene.client();
    let get = client.route("kv", "get").expect("a route");
    for policy in policies {
        scene.reload(Ok(rules(policy))).expect("rules");
        for key in (0..250).step_by(7) {
            eventually("everybody is idle, and knows the session", || {
                let rows = scene.bus.inspect().expect("rows");
                rows.workers.iter().all(|w| w.in_flight == 0 && w.sessions == 1)
            });
            let told = explain(Some(key));
            let called = client.request(get).key(key).submit(b"", Until::Forever).unwrap().wait();
            let worker = u64::from(called.expect("somebody speaks for it").worker());
            assert_eq!((told.status, told.worker), (Status::Ok, Some(worker)), "{policy:?} {key} {told:#?}");
            let says = |topic| told.findings.iter().filter(|f| f.topic == topic).collect::<Vec<_>>();
            assert_eq!(says(Topic::Policy)[0].origin, "line 9");
            assert_eq!(says(Topic::Candidate).len(), 3);
        }
    }
    let denied = explain(Some(5));
    assert_eq!(denied.status, Status::PermissionDenied);
    assert_eq!(denied.findings[0].origin, "line about call");
    let error = client.request(get).key(5).submit(b"", Until::Forever).unwrap().wait().err().expect("denied");
    assert_eq!(error.status(), Status::PermissionDenied);
    let none = explain(Some(9999));
    assert_eq!((none.status, call(&client, get, 9999)), (Status::NoWorker, Err(Status::NoWorker)));
    let stranger = Asker { uid: 4711, gid: 4711, groups: &[] };
    let theirs = scene.bus.explain(stranger, "kv", "get", None).expect("an explanation");
    assert_eq!(theirs.status, Status::PermissionDenied);
    assert!(workers.iter().all(|worker| worker.id > 0));
}

#[test]
fn an_explanation_names_the_holder_also_a_silent_one() {
    let scene = Scene::new(Rules::default());
    let exclusive = || ServiceOptions::default().exclusive(Unheld::Error);
    let holder = scene.bus.worker(WorkerOptions::default()).expect("a worker");
    holder.provide_with("kv", &["get"], exclusive()).expect("it may");
    let other = scene.bus.worker(WorkerOptions::default()).expect("a worker");
    other.provide_with("kv", &["get"], exclusive()).expect("it may");
    let explain = || scene.bus.explain(me(), "kv", "get", Some(KeyText::Number(7))).expect("an explanation");
    assert_eq!(explain().status, Status::NotHeld);
    assert!(holder.acquire("kv", 7u64).expect("it may"));
    let told = explain();
    assert_eq!((told.status, told.worker), (Status::Ok, Some(holder.id())), "{told:#?}");
    // Another wants it, and the holder says nothing.
    assert!(!other.acquire("kv", 7u64).expect("it may ask"));
    let told = explain();
    let found = told.findings.iter().find(|f| f.topic == Topic::Holder).expect("a holder");
    assert_eq!((told.worker, found.worker), (None, Some(holder.id())), "{told:#?}");
    assert!(found.text.contains("has not said"), "{found:?}");
    let client = scene.client();
    let get = client.route("kv", "get").expect("a route");
    let pending = client.request(get).key(7u64).submit(b"", Until::Forever).expect("a free slot");
    assert_eq!(pending.wait().err().expect("nobody serves it").status(), Status::NotHeld);
}

#[test]
fn what_an_unheld_resource_means_is_changed_by_a_reload() {
    let says = |unheld| Rules {
        services: vec![service(ServiceRule { unheld, ..ServiceRule::default() })],
        ..Rules::default()
    };
    let scene = Scene::new(says(None));
    let worker = scene.worker(ServiceOptions::default().exclusive(Unheld::Error));
    let client = scene.client();
    let get = client.route("kv", "get").expect("a route");
    assert_eq!(call(&client, get, 1), Err(Status::NotHeld), "as its worker says");
    let submit = |key: u64| client.request(get).key(key).submit(b"", Until::Forever).expect("a slot");
    let waiting = || scene.bus.inspect().expect("rows").sessions[0].waiting;
    // What waits ends as it is said later.
    scene.reload(Ok(says(Some(Unheld::Wait)))).expect("rules");
    let (one, two) = (submit(1), submit(2));
    eventually("both wait", || waiting() == 2);
    let told = scene.bus.explain(me(), "kv", "get", Some(KeyText::Number(1))).expect("an explanation");
    assert_eq!((told.status, told.worker), (Status::Ok, None), "{told:#?}");
    assert!(
        told.findings.iter().any(|f| f.origin == "line 9" && f.text.starts_with("unheld: calls wait")),
        "{told:#?}"
    );
    scene.reload(Ok(says(Some(Unheld::Error)))).expect("rules");
    assert_eq!(
        [one, two].map(|p| p.wait().map_or_else(|e| e.status(), |_| Status::Ok)),
        [Status::NotHeld; 2]
    );
    scene.reload(Ok(says(Some(Unheld::Wait)))).expect("rules");
    let three = submit(3);
    eventually("it waits", || waiting() == 1);
    scene.reload(Ok(says(Some(Unheld::Offer)))).expect("rules");
    assert_eq!(u64::from(three.wait().expect("its worker is made the holder").worker()), worker.id);
    // What was said is said no more.
    scene.reload(Ok(says(None))).expect("rules");
    assert_eq!([3, 4].map(|key| call(&client, get, key)), [Ok(()), Err(Status::NotHeld)]);
    // And where resources are not exclusive it means nothing.
    let open = scene.bus.worker(WorkerOptions::default()).expect("a worker");
    open.provide("open", &["get"]).expect("it may");
    let about_open =
        ServiceRule { name: "open".into(), unheld: Some(Unheld::Error), ..ServiceRule::default() };
    scene.reload(Ok(Rules { services: vec![about_open], ..Rules::default() })).expect("rules");
    let _open = Serving::start(open);
    let get = client.route("open", "get").expect("a route");
    assert_eq!(call(&client, get, 1), Ok(()));
}

#[test]
fn a_service_moves_to_another_domain_with_the_user_that_a_reload_puts_there() {
    let of = |label: &str| {
        let (label, origin) = (label.to_owned(), format!("the line of {label}"));
        Rules { domains: vec![DomainRule { origin, label, members: vec![Who::Owner] }], ..Rules::default() }
    };
    let scene = Scene::new(of("old"));
    let mut worker = scene.worker(ServiceOptions::default());
    // One that keeps a call, and so does not leave at once.
    let keeper = scene.bus.worker(WorkerOptions::default()).expect("a worker");
    keeper.provide("kept", &["get"]).expect("it may");
    let client = scene.client();
    let (get, kept) =
        (client.route("kv", "get").expect("a route"), client.route("kept", "get").expect("a route"));
    assert_eq!(call(&client, get, 1), Ok(()));
    let sessions = || scene.bus.inspect().expect("rows").sessions.len();
    let before = sessions();
    let pending = client.request(kept).submit(b"", Until::Forever).expect("a slot");
    let request = keeper.next(Until::after(PATIENCE)).expect("a director").expect("a request");

    scene.reload(Ok(of("new"))).expect("rules");
    // Who was asked to drain leaves by itself; what it has it answers.
    eventually("the idle worker has left", || worker.thread.as_ref().is_none_or(|t| t.is_finished()));
    assert_eq!(call(&client, get, 2), Err(Status::NoWorker), "nobody provides it, and it did not run");
    let newcomer = scene.bus.worker(WorkerOptions::default()).expect("a worker");
    let refused = newcomer.provide("kept", &["get"]).expect_err("it is the old domain's still");
    assert_eq!(refused.status(), Status::PermissionDenied);
    let text = refused.to_string();
    assert!(text.contains("in the trust domain") && text.contains("this is new"), "{text}");
    let _ = request.reply(b"before it goes");
    assert_eq!(pending.wait().expect("answered by who had it").bytes().to_vec(), b"before it goes");
    assert!(matches!(keeper.next(Until::after(PATIENCE)), Err(Error::Drained)));
    drop(keeper);
    eventually("the old one is gone", || newcomer.provide("kept", &["get"]).is_ok());
    newcomer.provide("kv", &["get"]).expect("nobody else does");
    worker = Serving::start(newcomer);
    // The same routes, and another session behind them.
    let ends: Vec<_> = (0..3).map(|key| call(&client, get, key)).collect();
    assert!(ends[..2].iter().all(|end| matches!(end, Ok(()) | Err(Status::NoWorker))), "{ends:?}");
    assert_eq!(ends[2], Ok(()), "{ends:?}");
    eventually("and so for the other", || call(&client, kept, 1) == Ok(()));
    assert_eq!(sessions(), before + 1, "one for the new domain");
    let told = scene.bus.explain(me(), "kv", "get", None).expect("an explanation");
    let domain = told.findings.iter().find(|f| f.topic == Topic::Domain).expect("it has one");
    assert!(domain.text.contains("domain new") && domain.origin == "the line of new", "{domain:?}");
    drop(worker);
}

/// What this process has logged as a warning.
struct Log;

static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());

impl tracing::Subscriber for Log {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }

    fn event(&self, event: &tracing::Event<'_>) {
        struct Line(String);
        impl tracing::field::Visit for Line {
            fn record_debug(&mut self, _: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                self.0 += &format!("{value:?} ");
            }
        }
        let mut line = Line(String::new());
        event.record(&mut line);
        LOG.lock().expect("no panic").push(line.0);
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn each_denial_is_an_error_a_count_and_one_line_in_the_log() {
    tracing::subscriber::set_global_default(Log).expect("the only one in these tests");
    let denied = [Verb::Call, Verb::Provide, Verb::Acquire];
    let services = ["not-to-call", "not-to-provide", "not-to-hold"];
    let rules: Vec<Rule> = denied.iter().zip(services).map(|(&verb, name)| rule(false, verb, name)).collect();
    let scene = Scene::new(with(&rules));
    let worker = scene.bus.worker(WorkerOptions::default()).expect("a worker");
    worker.provide(services[0], &["get"]).expect("it may");
    let exclusive = ServiceOptions::default().exclusive(Unheld::Error);
    worker.provide_with(services[2], &["get"], exclusive).expect("it may");
    let client = scene.client();
    for _ in 0..3 {
        let errors = [
            client.route(services[0], "get").map(drop).expect_err("it may not"),
            worker.provide(services[1], &["get"]).map(drop).expect_err("it may not"),
            worker.acquire(services[2], 7u64).map(drop).expect_err("it may not"),
        ];
        for (error, verb) in errors.into_iter().zip(denied) {
            assert_eq!(error.status(), Status::PermissionDenied);
            assert!(error.to_string().contains(&format!("(line about {verb})")), "{error}");
        }
    }
    assert_eq!(worker.holds(services[2]), []);
    let counted = scene.bus.inspect().expect("rows").denied;
    for (verb, service) in denied.into_iter().zip(services) {
        let counts = counted.iter().filter(|(d, _)| (d.verb, &*d.service) == (verb, service));
        assert_eq!(counts.map(|&(_, count)| count).collect::<Vec<_>>(), [3], "{verb}: {counted:?}");
        // The director logs at the end of its turn.
        let lines = || LOG.lock().expect("no panic").iter().filter(|line| line.contains(service)).count();
        eventually(service, || lines() > 0);
        assert_eq!(lines(), 1, "{verb}: {:?}", LOG.lock().expect("no panic"));
    }
}

#[test]
fn rules_that_cannot_be_read_start_no_director() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = DirectorOptions::default().policy(|| Err("policy.toml:1:1: nothing in it".into()));
    let error = Director::new(&Bus::at(folder.path()), options).err().expect("it is refused");
    assert!(matches!(error, Error::Policy(_)), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0, "nothing was made");
    let none = Scene::new(Rules { default: Otherwise::Owner, ..Rules::default() });
    assert!(none.bus.reload().is_ok());
}
