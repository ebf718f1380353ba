//! One request to several workers, with real processes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use trine::{Client, ClientOptions, Key, Part, Route, Status, Until};

use crate::support::{Place, Role, eventually};

pub fn worker(place: &Place, name: &str, with: &[(&str, &str)]) -> Role {
    let launch = place.role("worker").with("name", name);
    with.iter().fold(launch, |launch, (key, value)| launch.with(key, value)).ready()
}

pub fn numbers(numbers: impl IntoIterator<Item = u64>) -> Vec<Key> {
    numbers.into_iter().map(Key::number).collect()
}

pub fn text(part: &Part) -> String {
    match part.result() {
        Ok(reply) => String::from_utf8(reply.bytes().to_vec()).unwrap(),
        Err(error) => format!("{}{}", error.status().name(), if error.may_have_run() { "?" } else { "" }),
    }
}

/// A client that knows the operation, once so many workers provide it and have mapped the client.
pub fn client(place: &Place, operation: &str, workers: usize) -> (Client, Route) {
    client_with(place, operation, workers, ClientOptions::default())
}

fn client_with(place: &Place, operation: &str, workers: usize, options: ClientOptions) -> (Client, Route) {
    let client = place.client(options);
    let route = client.route("work", operation).unwrap();
    eventually("every worker has mapped the client", || {
        let inspection = place.inspect();
        inspection.workers.iter().filter(|w| w.sessions > 0).count() == workers
    });
    (client, route)
}

/// Parts by the places of their keys: what each said.
fn all(parts: trine::Parts) -> BTreeMap<u64, String> {
    let mut parts = parts;
    let first = parts.next();
    let len = parts.len();
    let said: BTreeMap<u64, String> =
        first.into_iter().chain(&mut parts).map(|part| (part.key_mask(), text(&part))).collect();
    assert_eq!((Some(said.len()), parts.is_done()), (len, true), "as many as was said at first: {said:?}");
    said
}

fn fields(said: &str) -> Vec<&str> {
    said.split('|').collect()
}

#[test]
fn each_holder_gets_the_keys_that_are_its() {
    let place = Place::new();
    let _director = place.director();
    let held = |name, keys| worker(&place, name, &[("exclusive", "wait"), ("acquire", keys)]);
    let _workers = [held("a", "0-9"), held("b", "10-19"), held("c", "20-29,blue")];
    let (client, route) = client(&place, "ask", 3);
    let blue = client.key("blue").unwrap();
    let mut keys = numbers([3, 12, 4, 25, 13, 5]);
    keys.push(blue);
    let said = all(client.request(route).scatter(&keys, b"hello", Until::Forever).unwrap());
    let pid = std::process::id();
    let expected = [
        (0b100101, format!("a|3,4,5|100101|{pid}|hello")),
        (0b010010, format!("b|12,13|10010|{pid}|hello")),
        (0b1001000, format!("c|25,a name|1001000|{pid}|hello")),
    ];
    assert_eq!(said, expected.into());
}

#[test]
fn all_providers_get_a_part_and_a_key_goes_to_who_speaks_for_it() {
    let place = Place::new();
    let _director = place.director();
    let declared = |name, keys| worker(&place, name, &[("declare", keys)]);
    let _workers = [declared("a", "0-9"), declared("b", "10-19"), declared("c", "0-19")];
    let (client, route) = client(&place, "ask", 3);
    let said = client.request(route).scatter_all(b"to all", Until::Forever).unwrap().gather(
        Vec::new(),
        |mut said, part| {
            said.push(fields(&text(&part))[0].to_owned());
            said
        },
    );
    let mut said = said;
    said.sort();
    assert_eq!(said, ["a", "b", "c"]);
    // Whoever speaks for all of them, or the first two share them: but each key is one worker's.
    let said = all(client.request(route).scatter(&numbers([1, 11, 99]), b"", Until::Forever).unwrap());
    assert_eq!(said.keys().fold(0, |all, mask| all ^ mask), 0b111);
    assert_eq!(said[&0b100], "NO_WORKER");
}

#[test]
fn a_payload_is_copied_once_and_comes_back_when_the_last_part_has() {
    let place = Place::new();
    let _director = place.director();
    let _workers = ["a", "b", "c"].map(|name| worker(&place, name, &[]));
    let len = 3 << 20;
    let options = ClientOptions::default().arenas(4 << 20, 16 << 20);
    let (client, route) = client_with(&place, "ask", 3, options);
    // There is room for one payload, and not for two.
    for _ in 0..5 {
        let draft = client.request(route).reply_capacity(len + 100).parts(3);
        let mut loan = draft.loan(len, Until::Forever).unwrap();
        loan.fill(b'x');
        let mut parts = loan.scatter_all(Until::Forever).unwrap();
        let mut count = 0;
        for part in &mut parts {
            let said = text(&part);
            assert_eq!(fields(&said)[4].len(), len);
            count += 1;
        }
        assert_eq!((count, parts.len()), (3, Some(3)));
    }
}

#[test]
fn an_idle_part_comes_at_once_and_a_dead_workers_is_an_error() {
    let place = Place::new();
    let _director = place.director();
    let held = |name, keys| worker(&place, name, &[("exclusive", "wait"), ("acquire", keys)]);
    let (mut a, mut b, c) = (held("a", "1"), held("b", "2"), held("c", "3"));
    let (client, route) = client(&place, "gate", 3);
    let mut parts = client.request(route).scatter(&numbers([1, 2, 3]), b"", Until::Forever).unwrap();
    [&a, &b, &c].iter().for_each(|worker| drop(worker.hear("begun")));
    assert!(parts.poll().is_none() && parts.len().is_none() && !parts.is_done());
    a.say("go");
    let first = parts.next().unwrap();
    assert_eq!((fields(&text(&first))[0], first.key_mask(), parts.len()), ("a", 0b1, Some(3)));
    assert!(parts.poll().is_none(), "the others have not answered");
    b.kill();
    let second = parts.next().unwrap();
    assert_eq!((text(&second), second.keys()), ("WORKER_DIED?".into(), &numbers([2])[..]));
    let ticket = parts.detach();
    drop(c);
    let last = client.parts(ticket).unwrap().next().unwrap();
    assert_eq!((text(&last), last.key_mask()), ("WORKER_DIED?".into(), 0b100));
    assert!(client.parts(ticket).is_none());
}

#[test]
fn whoever_is_too_late_is_an_error_part() {
    let place = Place::new();
    let _director = place.director();
    let held = |name, keys| worker(&place, name, &[("exclusive", "wait"), ("acquire", keys)]);
    let (mut a, mut b) = (held("a", "1"), held("b", "2"));
    let (client, route) = client(&place, "gate", 2);
    let draft = client.request(route).timeout(Duration::from_millis(300));
    let mut parts = draft.scatter(&numbers([1, 2]), b"", Until::Forever).unwrap();
    [&a, &b].iter().for_each(|worker| drop(worker.hear("begun")));
    a.say("go");
    assert_eq!(fields(&text(&parts.next().unwrap()))[0], "a");
    assert_eq!(text(&parts.next().unwrap()), "DEADLINE_EXCEEDED?");
    assert!(parts.next().is_none() && parts.is_done());
    // Nobody has answered by the deadline, so nobody knows how many there would have been.
    let parts =
        draft.timeout(Duration::from_millis(50)).scatter(&numbers([1, 2]), b"", Until::Forever).unwrap();
    a.hear("begun");
    assert_eq!(all(parts), [(0b11, "DEADLINE_EXCEEDED?".to_owned())].into());
    b.say("go");
    a.say("go");
}

#[test]
fn dropping_it_gives_every_part_up() {
    let place = Place::new();
    let _director = place.director();
    let mut workers = ["a", "b"].map(|name| worker(&place, name, &[]));
    let (client, route) = client_with(&place, "gate", 2, ClientOptions::default().slots(2));
    let parts = client.request(route).parts(2).scatter_all(b"", Until::Forever).unwrap();
    workers.iter().for_each(|worker| drop(worker.hear("begun")));
    drop(parts);
    // Both slots are in quarantine until the workers answer.
    let full = client.request(route).submit(b"", Until::Now).err().map(|e| e.status());
    assert_eq!(full, Some(Status::WouldBlock));
    workers.iter_mut().for_each(|worker| worker.say("go"));
    let ask = client.route("work", "ask").unwrap();
    assert_eq!(client.request(ask).parts(2).scatter_all(b"", Until::Forever).unwrap().count(), 2);
}

#[test]
fn parts_keep_their_place_among_the_calls_on_their_keys() {
    let place = Place::new();
    let _director = place.role("director").with("share_max", 2).ready();
    let mut a = worker(&place, "a", &[("exclusive", "wait"), ("acquire", "0-9")]);
    let (client, gate) = client(&place, "gate", 1);
    let ask = client.route("work", "ask").unwrap();
    let call = |key: u64, payload: &str| {
        client.request(gate).key(key).submit(payload.as_bytes(), Until::Forever).unwrap()
    };
    // The first two fill the worker's share; the rest waits at the director, in order.
    let calls = [call(1, "0"), call(2, "1"), call(1, "2"), call(3, "3")];
    let parts = client.request(gate).scatter(&numbers([1, 2, 3]), b"4", Until::Forever).unwrap();
    let after = [call(2, "5"), call(3, "6"), call(1, "7")];
    let mut order: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    let mut begun = Vec::new();
    for _ in 0..8 {
        let said = a.hear("begun");
        begun.push(said.clone());
        let (keys, payload) = (fields(&said)[1].to_owned(), fields(&said)[4].parse().unwrap());
        for key in ["1", "2", "3"] {
            if keys.split(',').any(|k| k == key) {
                order.entry(key).or_default().push(payload);
            }
        }
        a.say("go");
    }
    let expected = [("1", vec![0, 2, 4, 7]), ("2", vec![1, 4, 5]), ("3", vec![3, 4, 6])];
    assert_eq!(order, expected.into(), "{begun:?}");
    assert_eq!(all(parts).keys().copied().collect::<Vec<_>>(), [0b111]);
    for call in calls.into_iter().chain(after) {
        call.wait().unwrap();
    }
    client.call(ask, b"").unwrap();
}

#[test]
fn what_comes_to_nothing_is_one_error_part() {
    let place = Place::new();
    let _director = place.director();
    let mut workers = ["a", "b", "c"].map(|name| worker(&place, name, &[("exclusive", "error")]));
    let (client, route) = client(&place, "ask", 3);
    let keys = numbers([1, 2]);
    let said = all(client.request(route).scatter(&keys, b"", Until::Forever).unwrap());
    assert_eq!(said, [(0b01, "NOT_HELD".to_owned()), (0b10, "NOT_HELD".to_owned())].into());
    let mut parts = client.request(route).parts(2).scatter_all(b"", Until::Forever).unwrap();
    let error = parts.next().unwrap().into_result().err().unwrap();
    assert_eq!(
        (error.status(), error.needed(), error.may_have_run()),
        (Status::TooManyParts, Some(3), false)
    );
    assert_eq!(parts.len(), Some(1));
    for worker in &mut workers {
        worker.say("withdraw");
        worker.hear("did withdraw");
    }
    let said = all(client.request(route).scatter_all(b"", Until::Forever).unwrap());
    assert_eq!(said, [(0, "NO_WORKER".to_owned())].into());
}

#[test]
fn ten_thousand_keys_are_refused_and_none_is_nothing() {
    let place = Place::new();
    let _director = place.director();
    let _a = worker(&place, "a", &[]);
    let (client, route) = client(&place, "ask", 1);
    let before = place.inspect().workers[0].completed;
    for keys in [65, 10_000] {
        let error = client.request(route).scatter(&numbers(0..keys), b"", Until::Forever).err().unwrap();
        assert_eq!((error.status(), error.may_have_run()), (Status::TooManyParts, false));
        assert!(error.to_string().contains(&keys.to_string()) && error.to_string().contains("64"), "{error}");
    }
    let too_many = client.request(route).parts(65).scatter_all(b"", Until::Forever).err().unwrap();
    assert_eq!(too_many.status(), Status::TooManyParts, "{too_many}");
    let parts = client.request(route).scatter(&[], b"", Until::Forever).unwrap();
    assert_eq!((parts.len(), parts.is_done(), parts.count()), (Some(0), true, 0));
    assert_eq!(place.inspect().workers[0].completed, before, "nobody was asked anything");
    // Nothing was kept back: all of the slots are there.
    let said = all(client.request(route).scatter(&numbers(0..64), b"", Until::Now).unwrap());
    assert_eq!(said.len(), 1);
}

#[test]
fn a_cancelled_scatters_payload_is_not_used_again_before_its_workers_are_done() {
    let place = Place::new();
    let _director = place.director();
    let mut workers = ["a", "b"].map(|name| worker(&place, name, &[]));
    let (client, route) = client_with(&place, "gate", 2, ClientOptions::default().arenas(4 << 20, 1 << 20));
    let loan = client.request(route).parts(2).loan(3 << 20, Until::Forever).unwrap();
    let parts = loan.scatter_all(Until::Forever).unwrap();
    workers.iter().for_each(|worker| drop(worker.hear("begun")));
    drop(parts);
    let again = |until| client.request(route).loan(3 << 20, until).map(|_| ()).map_err(|e| e.status());
    assert_eq!(again(Until::Now), Err(Status::WouldBlock));
    let [a, b] = &mut workers;
    a.say("go");
    eventually("the first is done", || place.inspect().workers.iter().any(|w| w.completed == 1));
    assert_eq!(again(Until::Now), Err(Status::WouldBlock), "the other still reads it");
    b.say("go");
    assert_eq!(again(Until::Forever), Ok(()));
}

#[test]
fn parts_that_were_begun_survive_the_director_and_a_scatter_without_one_waits_for_the_next() {
    let place = Place::new();
    let mut director = place.director();
    let held = |name, keys| worker(&place, name, &[("exclusive", "wait"), ("acquire", keys)]);
    let mut workers = [held("a", "1"), held("b", "2")];
    let (client, gate) = client(&place, "gate", 2);
    let ask = client.route("work", "ask").unwrap();
    let keys = numbers([1, 2]);
    for _ in 0..3 {
        let begun = client.request(gate).scatter(&keys, b"begun", Until::Forever).unwrap();
        workers.iter().for_each(|worker| drop(worker.hear("begun")));
        director.kill();
        workers[0].say("go");
        let mut begun = begun;
        assert_eq!(fields(&text(&begun.next().unwrap()))[0], "a", "there is no director, and yet an answer");
        let next = place.role("director").start();
        // Sent to a director that may not be there yet, and before its workers are back.
        let parts = client.request(ask).scatter(&keys, b"later", Until::Forever).unwrap();
        next.hear("ready");
        director = next;
        workers[1].say("go");
        assert_eq!(fields(&text(&begun.next().unwrap()))[0], "b");
        assert!(begun.next().is_none());
        assert_eq!(
            all(parts).values().map(|said| fields(said)[0].to_owned()).collect::<Vec<_>>(),
            ["a", "b"]
        );
    }
}

/// Directors are killed while scatters are under way: each part ends once, with a result or with an error that is true.
#[test]
fn a_director_killed_at_any_time_costs_no_part_its_end() {
    let place = Place::new();
    let mut director = place.director();
    let _workers = ["a", "b", "c"].map(|name| worker(&place, name, &[]));
    let (client, route) = client(&place, "ask", 3);
    let (mut whole, mut broken) = (0, 0);
    for n in 0..400 {
        let parts = client.request(route).parts(5).scatter_all(b"x", Until::Forever).unwrap();
        if n % 40 == 20 {
            // Wherever it is with that.
            director.kill();
            director = place.role("director").start();
        }
        let said = parts.gather(Vec::new(), |mut said, part| {
            said.push(text(&part));
            said
        });
        let names: std::collections::BTreeSet<&str> = said.iter().map(|said| fields(said)[0]).collect();
        match names.contains("NOT_BEGUN") {
            // Whose plan went with its director.
            true => broken += 1,
            false => {
                assert_eq!(names, ["a", "b", "c"].into(), "{said:?}");
                whole += 1;
            }
        }
    }
    println!("{whole} scatters whole, {broken} in which parts were never begun");
    assert!(whole >= 390, "{whole} of 400");
}

#[test]
fn a_flood_of_calls_leaves_parts_their_turn() {
    let place = Place::new();
    let _director = place.role("director").with("share_max", 1).ready();
    let _a = worker(&place, "a", &[]);
    let (client, route) = client(&place, "ask", 1);
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let flooding = place.client(ClientOptions::default());
            let ask = flooding.route("work", "ask").unwrap();
            let mut open = std::collections::VecDeque::new();
            while !stop.load(Relaxed) {
                open.push_back(flooding.request(ask).submit(b"flood", Until::Forever).unwrap());
                sent.fetch_add(1, Relaxed);
                if open.len() == 32 {
                    open.pop_front().unwrap().wait().unwrap();
                }
            }
        });
        eventually("calls wait for the worker", || place.inspect().sessions.iter().any(|s| s.waiting > 8));
        for _ in 0..20 {
            let before = sent.load(Relaxed);
            let said = all(client.request(route).parts(1).scatter_all(b"part", Until::Forever).unwrap());
            assert_eq!(fields(&said[&0])[0], "a");
            eventually("the calls go on, too", || sent.load(Relaxed) > before);
        }
        stop.store(true, Relaxed);
    });
}
