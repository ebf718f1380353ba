//! Keys, registration with options, exclusive rights and what is told of them, draining: through the C interface.

mod common;

use std::ffi::{CStr, c_char, c_void};
use std::ptr::{null, null_mut};
use std::thread;

use common::*;
use trine_ffi::*;

/// What a worker heard: kind, service, resource.
type Heard = Vec<(u32, String, trine_resource)>;

unsafe extern "C" fn hear(user: *mut c_void, event: *const trine_event) {
    // SAFETY: as the header says; `user` is the Heard that the test gave.
    unsafe {
        let (heard, event) = (&mut *user.cast::<Heard>(), *event);
        assert_eq!(event.size as usize, size_of::<trine_event>());
        let service = if event.service.is_null() { c"" } else { CStr::from_ptr(event.service) };
        heard.push((event.kind, service.to_str().unwrap().to_owned(), event.resource));
    }
}

fn number(number: u64) -> trine_resource {
    trine_resource { kind: TRINE_NUMBER, first: number, last: number, reserved: 0 }
}

/// A worker that provides "test", "who", and keeps what it hears.
struct Worker {
    worker: *mut trine_worker,
    heard: Box<Heard>,
}

impl Worker {
    fn open(here: &Here, options: &trine_service_options) -> Worker {
        let (mut worker, operations) = (null_mut(), [c"who".as_ptr()]);
        let mut heard: Box<Heard> = Box::default();
        // SAFETY: as the header says.
        unsafe {
            assert_eq!(trine_worker_open(here.bus.as_ptr(), null(), &raw mut worker), TRINE_OK);
            assert_eq!(trine_on_event(worker, Some(hear), (&raw mut *heard).cast()), TRINE_OK);
            let provided =
                trine_provide_with(worker, c"test".as_ptr(), operations.as_ptr(), 1, options, null_mut());
            assert_eq!(provided, TRINE_OK, "{}", error(worker.cast()));
        }
        Worker { worker, heard }
    }

    fn acquire(&self, resource: trine_resource) -> trine_status {
        // SAFETY: as the header says.
        unsafe { trine_acquire(self.worker, c"test".as_ptr(), &raw const resource) }
    }

    fn holds(&self) -> Vec<trine_resource> {
        let (mut held, mut count) = ([trine_resource::default(); 4], 0);
        // SAFETY: as the header says.
        let status = unsafe {
            trine_holds(self.worker, c"test".as_ptr(), held.as_mut_ptr(), held.len(), &raw mut count)
        };
        assert_eq!(status, TRINE_OK);
        held[..count].to_vec()
    }

    /// Waits for an event of this kind, answering what comes meanwhile.
    fn until_it_hears(&self, kind: u32) -> trine_resource {
        loop {
            if let Some((_, service, resource)) = self.heard.iter().find(|heard| heard.0 == kind) {
                assert_eq!(service, "test");
                return *resource;
            }
            self.serve_one(1_000_000);
        }
    }

    /// The key of a request that it answered with its id, if one came.
    fn serve_one(&self, timeout_ns: i64) -> Option<trine_key> {
        let mut request = trine_incoming::sized();
        // SAFETY: as the header says.
        unsafe {
            let id = trine_worker_id(self.worker);
            match trine_next(self.worker, timeout_ns, &raw mut request) {
                TRINE_OK => {}
                TRINE_WOULD_BLOCK => return None,
                status => panic!("{status}: {}", error(self.worker.cast())),
            }
            let answered = trine_answer(self.worker, request.request, (&raw const id).cast(), 8);
            assert_eq!(answered, TRINE_OK);
        }
        Some(request.key)
    }

    fn id(&self) -> u64 {
        // SAFETY: as the header says.
        unsafe { trine_worker_id(self.worker) }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // SAFETY: as the header says.
        assert_eq!(unsafe { trine_worker_close(self.worker) }, TRINE_OK);
    }
}

// SAFETY: a handle may go to any thread, and what it tells goes with it.
unsafe impl Send for Worker {}

fn submit(client: *mut trine_client, route: trine_route, key: trine_key) -> trine_ticket {
    let (mut ticket, args) = (0, trine_call_args { key, ..trine_call_args::sized() });
    // SAFETY: as the header says.
    let status =
        unsafe { trine_submit(client, route, null(), 0, &raw const args, TRINE_FOREVER, &raw mut ticket) };
    assert_eq!(status, TRINE_OK, "{}", error(client.cast()));
    ticket
}

/// How a call ended, and the worker that answered.
fn outcome(client: *mut trine_client, ticket: trine_ticket) -> (trine_status, u64) {
    let mut reply = trine_reply::sized();
    // SAFETY: as the header says.
    unsafe {
        let status = trine_wait(client, ticket, TRINE_FOREVER, &raw mut reply);
        let worker = reply.worker;
        trine_reply_free(client, &raw mut reply);
        (status, worker)
    }
}

fn key_of(client: *mut trine_client, name: &CStr) -> trine_key {
    let mut key = trine_key::default();
    // SAFETY: as the header says.
    assert_eq!(unsafe { trine_key_of(client, name.as_ptr(), &raw mut key) }, TRINE_OK);
    key
}

fn numbered(word: u64) -> trine_key {
    trine_key { word, kind: TRINE_NUMBER, reserved: 0 }
}

#[test]
fn calls_go_to_who_declares_their_key() {
    let here = Here::new();
    let options = trine_service_options::sized();
    let (low, name) = (trine_resource { kind: TRINE_RANGE, first: 0, last: 9, reserved: 0 }, c"a/name");
    let first = Worker::open(&here, &trine_service_options { resources: &low, resource_count: 1, ..options });
    let high = trine_resource { first: 10, last: u64::MAX, ..low };
    let second =
        Worker::open(&here, &trine_service_options { resources: &high, resource_count: 1, ..options });
    let client = here.client();
    let who = route(client, c"who");
    for (number, worker) in [(0, &first), (9, &first), (10, &second), (u64::MAX, &second)] {
        let ticket = submit(client, who, numbered(number));
        assert_eq!(worker.serve_one(TRINE_FOREVER), Some(numbered(number)));
        assert_eq!(outcome(client, ticket), (TRINE_OK, worker.id()));
    }
    // Nobody speaks for the name, until somebody says so; both see the same key.
    let key = key_of(client, name);
    assert_eq!(key.kind, TRINE_NAME);
    let mut same = trine_key::default();
    // SAFETY: as the header says.
    unsafe {
        assert_eq!(trine_worker_key_of(second.worker, name.as_ptr(), &raw mut same), TRINE_OK);
        assert_eq!(same, key);
        let resource = trine_resource { kind: TRINE_NAME, first: key.word, ..Default::default() };
        let step = trine_step { action: TRINE_DECLARE, resource, reserved: 0 };
        assert_eq!(trine_change(second.worker, c"test".as_ptr(), &raw const step, 1), TRINE_OK);
    }
    let ticket = submit(client, who, key);
    assert_eq!(second.serve_one(TRINE_FOREVER), Some(key));
    assert_eq!(outcome(client, ticket), (TRINE_OK, second.id()));
    // SAFETY: as the header says.
    assert_eq!(unsafe { trine_close(client) }, TRINE_OK);
}

#[test]
fn a_right_is_held_by_one_and_handed_over_in_order() {
    let here = Here::new();
    let exclusive = trine_service_options { unheld: TRINE_UNHELD_ERROR, ..trine_service_options::sized() };
    let (first, second) = (Worker::open(&here, &exclusive), Worker::open(&here, &exclusive));
    let client = here.client();
    let who = route(client, c"who");
    assert_eq!(outcome(client, submit(client, who, numbered(7))), (TRINE_NOT_HELD, 0));

    assert_eq!(first.acquire(number(7)), TRINE_OK, "{}", error(first.worker.cast()));
    assert_eq!(first.holds(), [number(7)]);
    let ticket = submit(client, who, numbered(7));
    assert_eq!(first.serve_one(TRINE_FOREVER), Some(numbered(7)));
    assert_eq!(outcome(client, ticket), (TRINE_OK, first.id()));

    // The second asks; what the first was given before it serves, and then it is told.
    let before = submit(client, who, numbered(7));
    assert_eq!(second.acquire(number(7)), TRINE_WOULD_BLOCK);
    assert!(error(second.worker.cast()).contains("hand it over"));
    assert_eq!(first.until_it_hears(TRINE_LOST), number(7));
    assert_eq!(second.until_it_hears(TRINE_GAINED), number(7));
    assert_eq!((first.holds(), second.holds()), (vec![], vec![number(7)]));
    let after = submit(client, who, numbered(7));
    assert_eq!(second.serve_one(TRINE_FOREVER), Some(numbered(7)));
    assert_eq!(outcome(client, before).0, TRINE_OK);
    assert_eq!(outcome(client, after), (TRINE_OK, second.id()));

    // SAFETY: as the header says.
    unsafe {
        let seven = number(7);
        assert_eq!(trine_release(second.worker, c"test".as_ptr(), &raw const seven), TRINE_OK);
        assert_eq!(second.until_it_hears(TRINE_LOST), number(7));
        assert_eq!(second.holds(), []);
        assert_eq!(trine_close(client), TRINE_OK);
    }
}

#[test]
fn who_withdraws_a_service_loses_all_of_it_at_once() {
    let here = Here::new();
    let exclusive = trine_service_options { unheld: TRINE_UNHELD_ERROR, ..trine_service_options::sized() };
    let worker = Worker::open(&here, &exclusive);
    for held in [7, 9] {
        assert_eq!(worker.acquire(number(held)), TRINE_OK, "{}", error(worker.worker.cast()));
    }
    // SAFETY: as the header says.
    assert_eq!(unsafe { trine_withdraw(worker.worker, c"test".as_ptr()) }, TRINE_OK);
    let all = trine_resource { kind: TRINE_ALL, ..Default::default() };
    assert_eq!(worker.until_it_hears(TRINE_LOST), all);
    assert_eq!(worker.holds(), []);
    assert_eq!(worker.serve_one(0), None);
    assert_eq!(worker.heard.iter().filter(|heard| heard.0 == TRINE_LOST).count(), 1, "{:?}", worker.heard);
}

/// What `trine_wait` says of a scatter: status, flags, key mask, number of parts, worker.
fn part(client: *mut trine_client, ticket: trine_ticket) -> (trine_status, u32, u64, u32, u64) {
    let mut reply = trine_reply::sized();
    // SAFETY: as the header says.
    unsafe {
        let status = trine_wait(client, ticket, TRINE_FOREVER, &raw mut reply);
        let said = (status, reply.flags, reply.key_mask, reply.parts, reply.worker);
        assert!(status < 0 || reply.ticket == ticket || ticket == TRINE_ANY);
        trine_reply_free(client, &raw mut reply);
        said
    }
}

#[test]
fn a_scatter_has_a_part_for_each_worker() {
    let here = Here::new();
    let options = trine_service_options::sized();
    let low = trine_resource { kind: TRINE_RANGE, first: 0, last: 9, reserved: 0 };
    let high = trine_resource { first: 10, last: u64::MAX, ..low };
    let open = |resource: &trine_resource| {
        Worker::open(&here, &trine_service_options { resources: resource, resource_count: 1, ..options })
    };
    let (first, second) = (open(&low), open(&high));
    let client = here.client();
    let (who, mut ticket, mut loan) = (route(client, c"who"), 0, null_mut());
    let keys = [3, 30, 4].map(numbered);
    let ran = TRINE_RAN;
    // SAFETY: as the header says.
    unsafe {
        // Over keys, with a payload that was built in place.
        assert_eq!(trine_loan(client, who, 100, 0, &raw mut loan), TRINE_OK);
        let sent = trine_scatter(client, 4711, keys.as_ptr(), 3, loan, 101, null(), 0, &raw mut ticket);
        assert_eq!(sent, TRINE_EINVAL, "the loan is shorter");
        let sent = trine_scatter(client, 4711, keys.as_ptr(), 3, loan, 100, null(), 0, &raw mut ticket);
        assert_eq!(sent, TRINE_OK, "{}", error(client.cast()));
        assert_eq!(trine_loan_free(client, loan), TRINE_EINVAL, "it is gone");
        for (worker, mask, expected) in [(&first, 0b101, vec![3, 4]), (&second, 0b010, vec![30])] {
            let mut request = trine_incoming::sized();
            assert_eq!(trine_next(worker.worker, TRINE_FOREVER, &raw mut request), TRINE_OK);
            assert_eq!((request.flags, request.key_mask, request.len), (TRINE_PART, mask, 100));
            assert_eq!(request.key, trine_key::default());
            let (mut about, mut count) = ([trine_key::default(); 2], 0);
            let id = request.request;
            assert_eq!(
                trine_request_keys(worker.worker, id, about.as_mut_ptr(), 2, &raw mut count),
                TRINE_OK
            );
            assert_eq!(about[..count], expected.into_iter().map(numbered).collect::<Vec<_>>());
            if mask == 0b101 {
                assert_eq!(trine_answer(worker.worker, id, null(), 0), TRINE_OK);
                assert_eq!(part(client, ticket), (TRINE_OK, ran, mask, 2, worker.id()));
                let mut reply = trine_reply::sized();
                assert_eq!(trine_poll(client, ticket, &raw mut reply), TRINE_WOULD_BLOCK);
            } else {
                assert_eq!(trine_fail(worker.worker, id, 5, c"no".as_ptr()), TRINE_OK);
                let (status, flags, said, parts, _) = part(client, TRINE_ANY);
                assert_eq!((status, flags), (TRINE_WORKER_ERROR, ran | TRINE_LAST));
                assert_eq!((said, parts, error(client.cast()).as_str()), (mask, 2, "no"));
            }
        }
        assert_eq!(part(client, ticket).0, TRINE_EINVAL, "its end was said");

        // To all, and to more than it may have; then given up.
        let sent = trine_scatter_all(client, who, 0, null(), 0, null(), 0, &raw mut ticket);
        assert_eq!(sent, TRINE_OK, "{}", error(client.cast()));
        first.serve_one(TRINE_FOREVER);
        second.serve_one(TRINE_FOREVER);
        let mut workers = [part(client, ticket), part(client, ticket)].map(|part| {
            assert_eq!((part.0, part.3), (TRINE_OK, 2));
            part.4
        });
        workers.sort();
        assert_eq!(workers, [first.id().min(second.id()), first.id().max(second.id())]);
        assert_eq!(trine_scatter_all(client, who, 1, null(), 0, null(), 0, &raw mut ticket), TRINE_OK);
        assert_eq!(part(client, ticket).0, TRINE_TOO_MANY_PARTS);
        assert_eq!(trine_scatter_all(client, who, 0, null(), 0, null(), 0, &raw mut ticket), TRINE_OK);
        assert_eq!(trine_cancel(client, ticket), TRINE_OK);
        assert_eq!(trine_cancel(client, ticket), TRINE_EINVAL);
        assert_eq!(trine_close(client), TRINE_OK);
    }
}

#[test]
fn a_drained_worker_serves_what_it_was_given_and_is_done() {
    let here = Here::new();
    let first = Worker::open(&here, &trine_service_options::sized());
    let client = here.client();
    let who = route(client, c"who");
    let given = submit(client, who, trine_key::default());
    let mut request = trine_incoming::sized();
    // SAFETY: as the header says.
    unsafe {
        assert_eq!(trine_next(first.worker, TRINE_FOREVER, &raw mut request), TRINE_OK);
        assert_eq!(trine_drain(first.worker), TRINE_OK);
        assert_eq!(trine_answer(first.worker, request.request, null(), 0), TRINE_OK);
        assert_eq!(outcome(client, given), (TRINE_OK, first.id()));
        assert_eq!(trine_next(first.worker, TRINE_FOREVER, &raw mut request), TRINE_DRAINED);
        assert_eq!(first.heard.last().map(|heard| heard.0), Some(TRINE_DRAINING));
        assert_eq!(trine_next(first.worker, 0, &raw mut request), TRINE_DRAINED);
        assert_eq!(CStr::from_ptr(trine_status_name(TRINE_DRAINED)), c"DRAINED");
    }
    let second = Worker::open(&here, &trine_service_options::sized());
    let after = submit(client, who, trine_key::default());
    second.serve_one(TRINE_FOREVER);
    assert_eq!(outcome(client, after), (TRINE_OK, second.id()));
    // SAFETY: as the header says.
    assert_eq!(unsafe { trine_close(client) }, TRINE_OK);
}

#[test]
fn calls_of_a_class_and_their_hops() {
    let here = Here::new();
    let worker = Worker::open(&here, &trine_service_options::sized());
    let client = here.client();
    let who = route(client, c"who");
    thread::scope(|scope| {
        let worker = &worker;
        let sent = Sent(worker.worker);
        let serving = scope.spawn(move || {
            let (mut served, mut request) = (0, trine_incoming::sized());
            // SAFETY: as the header says.
            while unsafe { trine_next(sent.get(), TRINE_FOREVER, &raw mut request) } == TRINE_OK {
                // SAFETY: as the header says.
                assert_eq!(unsafe { trine_answer(sent.get(), request.request, null(), 0) }, TRINE_OK);
                served += 1;
            }
            served
        });
        for flags in [0, TRINE_HIGH, TRINE_LOW, TRINE_TRACED, TRINE_HIGH | TRINE_TRACED] {
            let (args, mut reply) =
                (trine_call_args { flags, ..trine_call_args::sized() }, trine_reply::sized());
            // SAFETY: as the header says.
            let status = unsafe {
                trine_call(client, who, null::<c_char>().cast(), 0, &raw const args, &raw mut reply)
            };
            assert_eq!(status, TRINE_OK);
            let hops = [reply.taken_ns, reply.pushed_ns, reply.began_ns, reply.replied_ns, reply.received_ns];
            assert!(hops.is_sorted(), "{hops:?}");
            assert_eq!(hops[0] != 0, flags & TRINE_TRACED != 0);
        }
        // SAFETY: as the header says.
        assert_eq!(unsafe { trine_wake(worker.worker) }, TRINE_OK);
        assert_eq!(serving.join().unwrap(), 5);
    });
    // SAFETY: as the header says.
    assert_eq!(unsafe { trine_close(client) }, TRINE_OK);
}
