//! What the processes do that the tests start.
//!
//! A worker's answer says who gave it and to whom, so that a test sees which process did the work, and for whom:
//! `name|keys|mask|caller's pid|payload`.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::io::BufRead;
use std::str::FromStr;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use trine::{
    Bus, ClientOptions, Director, DirectorOptions, Error, Key, Policy, Request, Resource, ServiceOptions,
    Unheld, Until, Worker, WorkerOptions,
};

use crate::support::MARK;

fn tell(what: impl Display) {
    println!("{MARK}{what}");
}

fn argument<T: FromStr>(key: &str, or: T) -> T {
    let value = std::env::var(format!("TRINE_TEST_{}", key.to_uppercase())).ok();
    value.and_then(|value| value.parse().ok()).unwrap_or(or)
}

fn bus() -> Bus {
    Bus::at(argument("bus", String::new()))
}

pub fn play(role: &str) {
    // Whatever becomes of the test, nothing of it stays.
    let _ = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
    match role {
        "director" => director(),
        "worker" => worker(),
        "client" => client(),
        "server" => server(),
        "thorough client" => thorough_client(),
        other => panic!("no role {other:?}"),
    }
}

/// What it is told, line by line.
fn orders() -> Receiver<String> {
    let (say, orders) = channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if say.send(line).is_err() {
                return;
            }
        }
    });
    orders
}

fn director() {
    let options = DirectorOptions::default().share_max(argument("share_max", 128));
    let director = Director::new(&bus(), options).expect("a director");
    let stopper = director.stopper();
    let orders = orders();
    std::thread::spawn(move || {
        if orders.recv().is_ok() {
            stopper.stop();
        }
    });
    tell("ready");
    director.run().expect("a good end");
    tell("stopped");
}

/// `1-10,20` as resources; a word that is no number is a name.
fn resources(worker: &Worker, list: &str) -> Vec<Resource> {
    let one = |text: &str| match text.split_once('-') {
        Some((first, last)) => {
            Resource::from(first.parse().expect("a number")..=last.parse().expect("a number"))
        }
        None => key(worker, text).into(),
    };
    list.split(',').filter(|text| !text.is_empty()).map(one).collect()
}

fn key(worker: &Worker, text: &str) -> Key {
    text.parse().map_or_else(|_| worker.key(text).expect("a key"), Key::number)
}

/// Provides `ask`, `gate`, `fail` and `add` of a service, on the resources that it is told, and holds what it is told to.
fn worker() {
    let embedded = argument("embed", 0) == 1;
    let _director = embedded.then(|| {
        Director::new(&bus(), DirectorOptions::default()).and_then(Director::spawn).expect("a director")
    });
    let worker = bus().worker(WorkerOptions::default()).expect("a worker");
    let service: String = argument("service", "work".into());
    let mut options =
        ServiceOptions::default().resources(resources(&worker, &argument("declare", String::new())));
    options.unheld = match argument::<String>("exclusive", String::new()).as_str() {
        "wait" => Some(Unheld::Wait),
        "error" => Some(Unheld::Error),
        "offer" => Some(Unheld::Offer),
        _ => None,
    };
    worker.provide_with(&service, &["ask", "gate", "fail", "add"], options).expect("it is provided");
    for resource in resources(&worker, &argument("acquire", String::new())) {
        worker.acquire(&service, resource).expect("it is acquired");
    }
    let (name, orders): (String, _) = (argument("name", "?".into()), orders());
    tell(format!("ready {}", worker.id()));
    loop {
        for order in orders.try_iter() {
            let (word, about) = order.split_once(' ').unwrap_or((&order, ""));
            for resource in resources(&worker, about) {
                match word {
                    "acquire" => drop(worker.acquire(&service, resource).expect("it is acquired")),
                    "release" => worker.release(&service, resource).expect("it is released"),
                    other => panic!("a worker can't {other:?}"),
                }
            }
            match word {
                "withdraw" => worker.withdraw(&service).expect("it is withdrawn"),
                "stop" => return tell("stopped"),
                _ => {}
            }
            tell(format!("did {word}"));
        }
        match worker.next(Until::after(Duration::from_millis(1))) {
            Ok(Some(request)) => handle(&name, request, &orders),
            Ok(None) => {}
            Err(error) => return tell(format!("error {error}")),
        }
    }
}

fn handle(name: &str, request: Request<'_>, orders: &Receiver<String>) {
    let keys: Vec<String> = request.keys().iter().map(shown).collect();
    let (mask, pid) = (request.key_mask().unwrap_or(0), request.caller().pid);
    let payload = String::from_utf8_lossy(&request.bytes().to_vec()).into_owned();
    let answer = format!("{name}|{}|{mask:b}|{pid}|{payload}", keys.join(","));
    if request.is("gate") {
        tell(format!("begun {answer}"));
        // Until it is let go, whatever the word.
        let _ = orders.recv();
    }
    if request.is("add") {
        let sum = request.bytes().get::<[i64; 2]>().map_or(0, |[one, two]| one + two);
        let _ = request.reply(&sum.to_le_bytes());
        return;
    }
    let _ = if request.is("fail") { request.fail(7, &answer) } else { request.reply(answer.as_bytes()) };
}

fn shown(key: &Key) -> String {
    key.as_number().map_or_else(|| "a name".into(), |number| number.to_string())
}

/// A worker on each of several buses.
fn server() {
    let (name, buses): (String, String) = (argument("name", "?".into()), argument("buses", String::new()));
    let workers: Vec<Worker> = buses
        .split(',')
        .map(|path| {
            let worker = Bus::at(path).worker(WorkerOptions::default()).expect("a worker");
            let options = ServiceOptions::default().policy(Policy::RoundRobin);
            worker.provide_with("work", &["ask"], options).expect("it is provided");
            worker
        })
        .collect();
    tell("ready");
    std::thread::scope(|scope| {
        for worker in workers {
            let name = &name;
            scope.spawn(move || worker.serve(|request| request.reply(name.as_bytes())));
        }
    });
}

/// Calls until each of five servers has answered it.
fn thorough_client() {
    let client = bus().client(ClientOptions::default()).expect("a client");
    let route = client.route("work", "ask").expect("a route");
    let mut served = BTreeSet::new();
    while served.len() < 5 {
        let reply = client.call(route, b"x").expect("a reply");
        served.insert(String::from_utf8_lossy(&reply.bytes().to_vec()).into_owned());
    }
    let served: Vec<String> = served.into_iter().collect();
    tell(format!("served by {}", served.join(",")));
}

/// Calls what it is told to, one line a call: `service operation key payload`, where the key may be `-`. Tells the
/// answer.
fn client() {
    let client = bus().client(ClientOptions::default()).expect("a client");
    tell("ready");
    for order in orders() {
        let words: Vec<&str> = order.split(' ').collect();
        let [service, operation, key, payload] = words[..] else { return tell("stopped") };
        let route = match client.route(service, operation) {
            Ok(route) => route,
            Err(Error::Refused { status, .. }) => {
                tell(status.name());
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        let draft = client.request(route);
        let draft = match key.parse::<u64>() {
            Ok(number) => draft.key(number),
            Err(_) if key != "-" => draft.key(client.key(key).expect("a key")),
            Err(_) => draft,
        };
        match draft.submit(payload.as_bytes(), Until::Forever).and_then(|call| call.wait()) {
            Ok(reply) => tell(String::from_utf8_lossy(&reply.bytes().to_vec())),
            Err(error) => tell(error.status().name()),
        }
    }
}
