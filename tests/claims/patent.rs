//! What the patent claims, as far as one host can show it: one test for each claim, named for it.
//!
//! A node is a process. That an answer does not pass through the director is shown by stopping the director: what was
//! handed on is answered all the same.

use std::collections::BTreeSet;
use std::time::Duration;

use trine::{ClientOptions, Director, DirectorOptions, Until};

use crate::scatter::{client, numbers, text, worker};
use crate::support::{Place, Role, eventually};

/// Calls from a process of its own. Returns what the answer's worker said: its name, the keys, the caller's pid.
fn call(client: &mut Role, order: &str) -> (String, String, i32) {
    client.say(order);
    let said = client.hear("");
    let fields: Vec<&str> = said.split('|').collect();
    assert_eq!(fields.len(), 5, "{order}: {said}");
    (fields[0].into(), fields[1].into(), fields[3].parse().unwrap())
}

fn name(client: &mut Role, order: &str) -> String {
    call(client, order).0
}

#[test]
fn claims_1_11_16_20_the_request_decides_who_answers_and_the_answer_comes_directly() {
    let place = Place::new();
    let director = place.director();
    let mut read = worker(&place, "reads", &[("service", "reading")]);
    let _write = worker(&place, "writes", &[("service", "writing")]);
    let mut client = place.role("client").ready();
    let pid = client.pid();
    assert_eq!(call(&mut client, "reading ask - x"), ("reads".into(), String::new(), pid));
    assert_eq!(call(&mut client, "writing ask - x"), ("writes".into(), String::new(), pid));
    client.say("reading gate - x");
    read.hear("begun");
    director.freeze();
    read.say("go");
    assert!(client.hear("reads").contains(&pid.to_string()), "the director has no hand in it");
    director.thaw();
}

#[test]
fn claims_2_14_21_a_second_request_of_the_same_process_goes_to_another_server() {
    let place = Place::new();
    let _director = place.director();
    let held = |name, keys| worker(&place, name, &[("exclusive", "wait"), ("acquire", keys)]);
    let _workers =
        [held("first", "1"), held("second", "2"), worker(&place, "third", &[("service", "other")])];
    let mut client = place.role("client").ready();
    let orders = ["work ask 1 x", "work ask 2 x", "other ask - x", "work ask 1 x"];
    assert_eq!(orders.map(|order| name(&mut client, order)), ["first", "second", "third", "first"]);
}

#[test]
fn claims_3_15_22_a_second_client_of_the_same_server_gets_its_own_result() {
    let place = Place::new();
    let director = place.director();
    let mut server = worker(&place, "server", &[]);
    let mut clients = [place.role("client").ready(), place.role("client").ready()];
    for client in &mut clients {
        assert_eq!(call(client, "work ask - x").2, client.pid());
    }
    // Both are with the server at once, and the director has no hand in either answer.
    clients[0].say("work gate - one");
    server.hear("begun");
    clients[1].say("work gate - two");
    eventually("both are handed on", || place.inspect().workers[0].in_flight == 2);
    director.freeze();
    server.say("go");
    assert!(clients[0].hear("server").ends_with(&format!("{}|one", clients[0].pid())));
    server.hear("begun");
    server.say("go");
    assert!(clients[1].hear("server").ends_with(&format!("{}|two", clients[1].pid())));
    director.thaw();
}

#[test]
fn claims_4_15_23_a_second_clients_request_goes_to_another_server() {
    let place = Place::new();
    let director = place.director();
    let held = |name, keys| worker(&place, name, &[("exclusive", "wait"), ("acquire", keys)]);
    let mut workers = [held("first", "1"), held("second", "2")];
    let mut clients = [place.role("client").ready(), place.role("client").ready()];
    for (client, (worker, order)) in
        clients.iter_mut().zip(workers.iter().zip(["work gate 1 x", "work gate 2 x"]))
    {
        client.say(order);
        worker.hear("begun");
    }
    director.freeze();
    workers.iter_mut().for_each(|worker| worker.say("go"));
    for (client, said) in clients.iter().zip(["first|1|0|", "second|2|0|"]) {
        assert_eq!(client.hear(""), format!("{said}{}|x", client.pid()));
    }
    director.thaw();
}

#[test]
fn claims_5_24_work_that_needs_several_servers_is_sent_to_each_and_each_answers_the_client() {
    let place = Place::new();
    let director = place.director();
    let held = |name, keys| worker(&place, name, &[("exclusive", "wait"), ("acquire", keys)]);
    let mut workers = [held("a", "1-9"), held("b", "11-19"), held("c", "21-29")];
    let (client, route) = client(&place, "gate", 3);
    let parts = client.request(route).scatter(&numbers([1, 11, 21, 2, 12]), b"x", Until::Forever).unwrap();
    workers.iter().for_each(|worker| drop(worker.hear("begun")));
    director.freeze();
    workers.iter_mut().for_each(|worker| worker.say("go"));
    let said: BTreeSet<String> = parts.map(|part| text(&part)).collect();
    director.thaw();
    let pid = std::process::id();
    let expected =
        [format!("a|1,2|1001|{pid}|x"), format!("b|11,12|10010|{pid}|x"), format!("c|21|100|{pid}|x")];
    assert_eq!(said, expected.into());
}

#[test]
fn claims_6_12_25_who_may_do_it_on_the_resources_that_it_needs_gets_it() {
    let place = Place::new();
    let _director = place.director();
    let declared = |name, keys| worker(&place, name, &[("declare", keys)]);
    let _workers = [declared("low", "0-99"), declared("high", "100-199"), declared("blue", "blue")];
    let _other = worker(&place, "other", &[("service", "other"), ("declare", "0-199")]);
    let mut client = place.role("client").ready();
    let orders = ["work ask 5 x", "work ask 150 x", "work ask blue x", "other ask 5 x"];
    assert_eq!(orders.map(|order| name(&mut client, order)), ["low", "high", "blue", "other"]);
    client.say("work ask 200 x");
    client.hear("NO_WORKER");
}

#[test]
fn claims_7_17_26_the_director_chooses_and_hands_on() {
    let place = Place::new();
    let director = place.director();
    let mut servers = ["one", "other"].map(|name| worker(&place, name, &[]));
    let (client, route) = client(&place, "gate", 2);
    director.freeze();
    let draft = client.request(route).timeout(Duration::from_millis(100));
    let error = draft.submit(b"without a director", Until::Forever).unwrap().wait().err().unwrap();
    assert_eq!(error.status(), trine::Status::DeadlineExceeded);
    director.thaw();
    // What was given up before the director saw it never reached a server. Of two that are open at once each goes to the
    // server that has nothing else to do.
    let calls = [(); 2].map(|()| client.request(route).submit(b"with one", Until::Forever).unwrap());
    for server in &mut servers {
        assert!(server.hear("begun").contains("with one"));
        server.say("go");
    }
    let name = |reply: Vec<u8>| String::from_utf8(reply).unwrap().split('|').next().map(str::to_owned);
    let names = calls.map(|call| name(call.wait().unwrap().bytes().to_vec()));
    assert_eq!(BTreeSet::from(names), ["one", "other"].map(|name| Some(name.to_owned())).into());
}

#[test]
fn claims_8_27_the_second_process_gives_the_result_to_the_first_directly() {
    let place = Place::new();
    let mut director = place.director();
    let mut server = worker(&place, "server", &[]);
    let (client, route) = client(&place, "gate", 1);
    let call = client.request(route).submit(b"x", Until::Forever).unwrap();
    server.hear("begun");
    director.kill();
    server.say("go");
    let reply = call.wait().unwrap();
    assert!(reply.bytes().to_vec().starts_with(b"server|"), "there is no director, and yet a result");
}

#[test]
fn claims_9_28_the_request_is_a_remote_procedure_call() {
    let place = Place::new();
    let _director = place.director();
    let _server = worker(&place, "server", &[]);
    let (client, add) = client(&place, "add", 1);
    let sum: i64 = client.call_as(add, &[40_i64, 2]).unwrap();
    assert_eq!(sum, 42);
}

#[test]
fn claim_13_the_director_looks_at_what_it_knows_of_the_servers_and_clients_are_told_nothing() {
    let place = Place::new();
    let _director = place.director();
    let mut first = worker(&place, "first", &[("declare", "1-9")]);
    let mut client = place.role("client").ready();
    let order = "work ask 5 x";
    assert_eq!(name(&mut client, order), "first");
    // A server comes, one changes what it speaks for, one goes; the client says the same each time.
    let mut second = worker(&place, "second", &[("declare", "1-9")]);
    first.say("withdraw");
    first.hear("did withdraw");
    assert_eq!(name(&mut client, order), "second");
    let _third = worker(&place, "third", &[("declare", "1-9")]);
    second.kill();
    assert_eq!(name(&mut client, order), "third");
}

#[test]
fn claim_19_the_director_knows_who_has_the_exclusive_right() {
    let place = Place::new();
    let _director = place.director();
    let mut workers = ["a", "b"].map(|name| worker(&place, name, &[("exclusive", "error")]));
    let mut client = place.role("client").ready();
    client.say("work ask 7 x");
    client.hear("NOT_HELD");
    for i in [0, 1, 0] {
        // The other hands over what it holds.
        workers[i].say("acquire 7");
        workers[i].hear("did acquire");
        let holder = ["a", "b"][i];
        eventually("the right is handed over", || {
            client.say("work ask 7 x");
            client.hear("").starts_with(holder)
        });
    }
    workers[0].kill();
    eventually("death releases", || {
        client.say("work ask 7 x");
        client.hear("") == "NOT_HELD"
    });
}

#[test]
fn thirty_clients_five_servers_three_directors() {
    let places = [Place::new(), Place::new(), Place::new()];
    let _directors = places.each_ref().map(Place::director);
    let buses = places.each_ref().map(|place| place.path().to_str().unwrap().to_owned()).join(",");
    let names = ["a", "b", "c", "d", "e"];
    let _servers =
        names.map(|name| places[0].role("server").with("name", name).with("buses", &buses).ready());
    let clients = places.each_ref().map(|place| [(); 10].map(|()| place.role("thorough client").start()));
    for client in clients.iter().flatten() {
        assert_eq!(client.hear("served by"), "a,b,c,d,e");
    }
}

#[test]
fn the_director_may_live_with_its_clients_or_with_its_servers() {
    let place = Place::new();
    let ours = Director::new(&place.bus, DirectorOptions::default()).unwrap().spawn().unwrap();
    let server = worker(&place, "server", &[]);
    let (client, route) = client(&place, "ask", 1);
    assert!(client.call(route, b"x").unwrap().bytes().to_vec().starts_with(b"server|"));
    drop((client, server));
    ours.stop().unwrap();
    let _server = worker(&place, "with a director", &[("embed", "1")]);
    let client = place.client(ClientOptions::default());
    let route = client.route("work", "ask").unwrap();
    assert!(client.call(route, b"x").unwrap().bytes().to_vec().starts_with(b"with a director|"));
}
