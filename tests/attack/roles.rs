//! What the processes do that the tests start.

use std::fmt::Write;

use trine::{Bus, Director, DirectorOptions, WorkerOptions};

use crate::support::{MARK, mix};

pub fn argument(key: &str) -> Option<String> {
    std::env::var(format!("TRINE_TEST_{key}")).ok()
}

pub fn tell(what: impl std::fmt::Display) {
    println!("{MARK}{what}");
}

pub fn bus() -> Bus {
    let bus = Bus::at(argument("BUS").expect("a bus"));
    // Where this is another user, it is root's.
    if argument("UID").is_some() { bus.trusting(0) } else { bus }
}

pub fn play(role: &str) {
    if let Some(uid) = argument("UID").and_then(|uid| uid.parse().ok()) {
        nix::unistd::setgroups(&[]).expect("root");
        nix::unistd::setgid(nix::unistd::Gid::from_raw(uid)).expect("root");
        nix::unistd::setuid(nix::unistd::Uid::from_raw(uid)).expect("root");
    }
    // Whatever becomes of the test, nothing of it stays. (A change of uid forgets it.)
    let _ = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
    let seed = argument("SEED").and_then(|seed| seed.parse().ok()).unwrap_or(1);
    match role {
        "director" => director(),
        "worker" => worker(),
        "hostile client" => crate::hostile_client::attack(&bus(), seed),
        "hostile worker" => crate::hostile_worker::attack(&bus(), seed),
        "silent worker" => crate::hostile_worker::answer_nothing(&bus()),
        "writer" => crate::hostile_worker::write_what_it_reads(&bus()),
        other => panic!("no role {other:?}"),
    }
}

fn director() {
    tracing::subscriber::set_global_default(Telling).expect("the first");
    let mut options = DirectorOptions::default();
    if let Some(policy) = argument("POLICY") {
        let read = move || trine_policy::read(policy.as_ref()).map_err(|error| error.to_string());
        options = options.policy(read);
    }
    let director = Director::new(&bus(), options).expect("a free bus");
    tell("ready");
    director.run().expect("a director");
}

fn worker() {
    let worker = bus().worker(WorkerOptions::default()).expect("a worker");
    worker.provide("work", &["mix"]).expect("provided");
    tell("ready");
    let served = worker.serve(|request| {
        let bytes = request.bytes().to_vec();
        request.reply(&mix(&bytes))
    });
    served.expect("nobody can end it");
}

/// Tells what is logged as a warning or as news.
struct Telling;

impl tracing::Subscriber for Telling {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::INFO
    }

    fn event(&self, event: &tracing::Event<'_>) {
        struct Line(String);
        impl tracing::field::Visit for Line {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                let _ = write!(self.0, " {}={value:?}", field.name());
            }
        }
        let mut line = Line(String::new());
        event.record(&mut line);
        tell(format!("log{}", line.0));
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}
