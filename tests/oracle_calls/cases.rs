//! Single cases that the random ones have led to.

use std::sync::Arc;

use trine::access::{Domain, Verb};
use trine::core::Turn;
use trine::director::core::{DirectorCore, Settings};
use trine::layout::{LINE, Request, flag};
use trine::{Identity, Resource, ServiceOptions, Status, Unheld};

use crate::model::{EXCLUSIVE, Line, Model, OPERATIONS, SERVICES};
use crate::world::{Client, Control, Plain, Shell, Worker};
use crate::{SESSION, WORK};

/// One call on a key, of the route that is the session's first.
fn call(client: &mut Client, key: u64, shell: &mut Shell) {
    let request = Request { flags: flag::HAS_KEY, key, len: 16, capacity: 64, ..Request::default() };
    client.submit(request, &[0; LINE], shell).expect("a free slot");
}

#[test]
fn a_call_for_a_busy_worker_keeps_no_other_from_one_that_has_room() {
    let (mut director, mut shell) = (DirectorCore::<Plain>::new(Settings::default()), Shell::default());
    let mut workers = [1, 2].map(|id| {
        let worker = Worker::attach(&mut director, id, Identity::default(), WORK);
        let options = ServiceOptions::default().resources([Resource::from(id)]);
        assert_eq!(director.provide_with(worker.key, "s", 0, &["op"], &options), Status::Ok);
        worker
    });
    let mut clients = [7, 8].map(|id| Client::attach(&mut director, id, Identity::default(), SESSION));
    for client in &clients {
        assert_eq!(director.open_route(client.key, 0, "s", "op", &mut shell), Status::Ok);
    }
    for (key, (index, session)) in shell.take_maps() {
        let (worker, client) =
            (workers.iter_mut().find(|w| w.key == key), clients.iter().find(|c| c.key == session));
        worker.expect("it is here").map(index, client.expect("so is it"), &mut director, &mut shell);
    }
    // Each worker has its share, and for each a call waits: the one for the first before the other.
    for sent in [2, 1] {
        for (client, key) in clients.iter_mut().zip([1, 2]) {
            (0..sent).for_each(|_| call(client, key, &mut shell));
        }
        director.look_at_everything();
        director.turn(1, &mut shell);
    }
    assert_eq!(director.load().waiting, 2);
    for _ in 0..2 {
        let begun = workers[1].begin(2, &mut shell).expect("it was given two");
        workers[1].answer(begun, &mut shell);
    }
    director.turn(3, &mut shell);
    assert_eq!(director.load().waiting, 1, "the second worker has room again");
    assert!(workers[1].begin(4, &mut shell).is_some(), "the call is in its ring");
}

/// What user 12 may not do in the exclusive service.
fn denied(verb: Verb) -> Model {
    let (uid, service) = (Some(12), Some(EXCLUSIVE));
    let mut model = Model::new(Unheld::Offer);
    model.lines.push(Line { allow: false, verb, uid, service, keys: None });
    model
}

#[test]
fn nobody_is_offered_a_key_of_a_service_that_new_rules_take_from_him() {
    let (mut director, mut shell) = (DirectorCore::<Plain>::new(Settings::default()), Shell::default());
    let (service, operation) = (SERVICES[EXCLUSIVE], OPERATIONS[0]);
    director.set_access(Arc::new(denied(Verb::Acquire).policy()));
    for (uid, key) in [(11, 1), (12, 2)] {
        let who = Identity { uid, ..Identity::default() };
        let worker = Worker::attach(&mut director, uid.into(), who, WORK);
        director.place_worker(worker.key, Domain::of_label("all"), Arc::new([]));
        let options = ServiceOptions::default().exclusive(Unheld::Offer).resources([Resource::from(key)]);
        assert_eq!(director.provide_with(worker.key, service, 0, &[operation], &options), Status::Ok);
    }
    let who = Identity { uid: 13, ..Identity::default() };
    let mut client = Client::attach(&mut director, 7, who, SESSION);
    director.place_session(client.key, Domain::of_label("all"), Arc::new([]));
    assert_eq!(director.open_route(client.key, 0, service, operation, &mut shell), Status::Ok);
    call(&mut client, 2, &mut shell);
    director.look_at_everything();
    while director.turn(1, &mut shell) != Turn::Idle {}
    assert_eq!(director.load().waiting, 1, "whoever speaks for the key may not hold it");
    // Now he might, but he may not provide the service: that is looked at in a later turn than the call.
    director.set_access(Arc::new(denied(Verb::Provide).policy()));
    while director.turn(2, &mut shell) != Turn::Idle {}
    let granted = shell.take(|control| matches!(control, Control::Granted { .. }).then_some(()));
    assert_eq!((granted, director.load().waiting), (Vec::new(), 1));
}

#[test]
fn new_rules_are_in_force_for_all_when_no_caller_is_left_to_be_looked_at() {
    let (mut director, mut shell) = (DirectorCore::<Plain>::new(Settings::default()), Shell::default());
    let (service, operation) = (SERVICES[EXCLUSIVE], OPERATIONS[0]);
    let worker = Worker::attach(&mut director, 1, Identity { uid: 11, ..Identity::default() }, WORK);
    director.place_worker(worker.key, Domain::of_label("all"), Arc::new([]));
    assert_eq!(director.provide(worker.key, service, 0, &[operation]), Status::Ok);
    let mut attach = |id| {
        let who = Identity { uid: 12, ..Identity::default() };
        let client = Client::attach(&mut director, id, who, SESSION);
        director.place_session(client.key, Domain::of_label("all"), Arc::new([]));
        assert_eq!(director.open_route(client.key, 0, service, operation, &mut shell), Status::Ok);
        client
    };
    let mut clients: Vec<Client> = (100..300).map(&mut attach).collect();
    director.set_access(Arc::new(denied(Verb::Call).policy()));
    let mut turns = 0;
    while director.is_rechecking_callers() {
        director.turn(1, &mut shell);
        turns += 1;
    }
    assert!(turns > 1, "they are more than one turn looks at");
    for client in &mut clients {
        let request = Request { len: 16, capacity: 64, ..Request::default() };
        let name = client.submit(request, &[0; LINE], &mut shell).expect("a free slot");
        director.heat(client.key);
        director.turn(2, &mut shell);
        let outcome = client.ended(name, 2, &mut shell).expect("it is refused");
        assert_eq!(outcome.status, Status::PermissionDenied);
    }
}
