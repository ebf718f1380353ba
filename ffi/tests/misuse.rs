//! What nobody should do: each function with NULL, zero, huge and negative numbers, handles of the wrong kind, handles
//! that are closed, handles that two threads use. Nothing crashes, and nothing is done.
#![allow(unused_unsafe, reason = "one macro for all")]

mod common;
mod complete;

use std::ffi::{CStr, c_char, c_void};
use std::ptr::{dangling_mut, null, null_mut};
use std::thread;

use common::*;
use trine_ffi::*;

/// The expressions, all of which are TRINE_EINVAL.
macro_rules! invalid {
    ($($call:expr),* $(,)?) => {$(
        // SAFETY: misuse that the header says is found.
        let status = unsafe { $call };
        assert_eq!(status, TRINE_EINVAL, "{}", stringify!($call));
    )*};
}

/// Every function of a client, with good arguments but for the handle.
fn client_functions(client: *mut trine_client) {
    let (mut route, mut ticket, mut loan, mut reply) = (0, 0, null_mut(), trine_reply::sized());
    let mut key = trine_key::default();
    reply.held = 1 << 32;
    invalid!(
        trine_route_of(client, c"test".as_ptr(), c"echo".as_ptr(), &raw mut route),
        trine_key_of(client, c"a".as_ptr(), &raw mut key),
        trine_call(client, 0, null(), 0, null(), &raw mut reply),
        trine_submit(client, 0, null(), 0, null(), 0, &raw mut ticket),
        trine_post(client, 0, null(), 0, null(), 0),
        trine_scatter(client, 0, null(), 0, null(), 0, null(), 0, &raw mut ticket),
        trine_scatter_all(client, 0, 0, null(), 0, null(), 0, &raw mut ticket),
        trine_wait(client, TRINE_ANY, 0, &raw mut reply),
        trine_poll(client, TRINE_ANY, &raw mut reply),
        trine_cancel(client, 1),
        trine_reply_free(client, &raw mut reply),
        trine_loan(client, 0, 1, 0, &raw mut loan),
        trine_send_loan(client, dangling_mut::<u8>().cast(), 0, null(), 0, &raw mut ticket),
        trine_loan_free(client, dangling_mut::<u8>().cast()),
        trine_client_fd(client),
        trine_client_arm(client),
        trine_client_disarm(client),
    );
}

/// The same of a worker.
fn worker_functions(worker: *mut trine_worker) {
    let (mut request, names) = (trine_incoming::sized(), [c"echo".as_ptr()]);
    let (all, step) = (&trine_resource { kind: TRINE_ALL, ..Default::default() }, trine_step::default());
    let (mut key, mut count) = (trine_key::default(), 0);
    // SAFETY: misuse that the header says is found.
    assert_eq!(unsafe { trine_worker_id(worker) }, 0);
    invalid!(
        trine_provide_with(worker, c"test".as_ptr(), names.as_ptr(), 1, null(), null_mut()),
        trine_change(worker, c"test".as_ptr(), &raw const step, 1),
        trine_acquire(worker, c"test".as_ptr(), all),
        trine_release(worker, c"test".as_ptr(), all),
        trine_holds(worker, c"test".as_ptr(), null_mut(), 0, &raw mut count),
        trine_worker_key_of(worker, c"a".as_ptr(), &raw mut key),
        trine_drain(worker),
        trine_on_event(worker, None, null_mut()),
        trine_provide(worker, c"test".as_ptr(), names.as_ptr(), 1, null_mut()),
        trine_withdraw(worker, c"test".as_ptr()),
        trine_next(worker, 0, &raw mut request),
        trine_answer(worker, 1, null(), 0),
        trine_fail(worker, 1, 0, null()),
        trine_is_cancelled(worker, 1),
        trine_request_keys(worker, 1, null_mut(), 0, &raw mut count),
        trine_wake(worker),
        trine_worker_fd(worker),
        trine_worker_arm(worker),
        trine_worker_disarm(worker),
    );
}

#[test]
fn no_handle() {
    client_functions(null_mut());
    worker_functions(null_mut());
    assert!(error(null()).contains("NULL"));
    // SAFETY: as the header says.
    unsafe {
        assert_eq!(trine_close(null_mut()), TRINE_OK);
        assert_eq!(trine_worker_close(null_mut()), TRINE_OK);
        assert_eq!(trine_director_stop(null_mut()), TRINE_OK);
    }
}

#[test]
fn handles_of_another_kind_unaligned_or_of_something_else() {
    let here = Here::new();
    let (client, worker) = (here.client(), here.worker(&[c"echo"]));
    client_functions(worker.cast());
    worker_functions(client.cast());
    assert!(error(null()).contains("another kind"), "{}", error(null()));
    client_functions(client.wrapping_byte_add(1));
    worker_functions(worker.wrapping_byte_add(2));
    let mut something = [0u64; 64];
    client_functions(something.as_mut_ptr().cast());
    worker_functions(something.as_mut_ptr().cast());
    invalid!(
        trine_close(worker.cast()),
        trine_worker_close(client.cast()),
        trine_director_stop(client.cast()),
        trine_director_stop(something.as_mut_ptr().cast()),
    );
    // Both are as they were.
    assert_eq!(route(client, c"echo"), 0);
    // SAFETY: as the header says.
    unsafe {
        assert_eq!(trine_close(client), TRINE_OK);
        assert_eq!(trine_worker_close(worker), TRINE_OK);
    }
}

#[test]
fn handles_that_are_closed() {
    let here = Here::new();
    let (client, worker) = (here.client(), here.worker(&[c"echo"]));
    // SAFETY: as the header says.
    unsafe {
        assert_eq!(trine_close(client), TRINE_OK);
        assert_eq!(trine_worker_close(worker), TRINE_OK);
    }
    client_functions(client);
    worker_functions(worker);
    assert!(error(null()).contains("closed"), "{}", error(null()));
    invalid!(trine_close(client), trine_worker_close(worker));
    assert!(error(client.cast()).contains("closed"));
    let other = Here::new();
    let director = other.stopped();
    client_functions(director.cast());
    worker_functions(director.cast());
    invalid!(
        trine_director_stop(director),
        trine_close(director.cast()),
        trine_worker_close(director.cast())
    );
    assert!(error(director.cast()).contains("closed"), "{}", error(director.cast()));
}

#[test]
fn arguments_of_a_client() {
    let here = Here::new();
    let (client, _worker) = (here.client(), here.worker(&[c"echo"]));
    let echo = route(client, c"echo");
    let (mut route, mut ticket, mut loan, mut reply) = (0, 0, null_mut(), trine_reply::sized());
    let (service, x) = (c"test".as_ptr(), c"x".as_ptr().cast::<c_void>());
    let not_utf8 = c"\xff".as_ptr();
    let unsized_reply = &mut trine_reply { size: 0, ..reply };
    let huge_reply = &mut trine_reply { size: u32::MAX, ..reply };
    let flagged = &trine_call_args { flags: 8, ..trine_call_args::sized() };
    let torn = &trine_call_args { flags: TRINE_HIGH | TRINE_LOW, ..trine_call_args::sized() };
    let key = |word, kind, reserved| trine_call_args {
        key: trine_key { word, kind, reserved },
        ..trine_call_args::sized()
    };
    let (keyless, ranged, reserved) = (&key(1, 0, 0), &key(1, TRINE_RANGE, 0), &key(1, TRINE_NUMBER, 1));
    let mut key = trine_key::default();
    let seven = trine_key { word: 7, kind: TRINE_NUMBER, reserved: 0 };
    let many = [seven; 65];
    let unsized_args = &trine_call_args { size: 0, ..trine_call_args::sized() };
    let late = &trine_call_args { deadline_ns: -1, ..trine_call_args::sized() };
    invalid!(
        trine_route_of(client, null(), service, &raw mut route),
        trine_route_of(client, service, null(), &raw mut route),
        trine_route_of(client, service, service, null_mut()),
        trine_route_of(client, not_utf8, service, &raw mut route),
        trine_route_of(client, c"".as_ptr(), service, &raw mut route),
        trine_call(client, echo, x, 1, null(), null_mut()),
        trine_call(client, echo, x, 1, null(), unsized_reply),
        trine_call(client, echo, x, 1, null(), huge_reply),
        trine_call(client, echo, x, 1, null(), (&raw mut reply).wrapping_byte_add(1)),
        trine_call(client, echo, null(), 1, null(), &raw mut reply),
        trine_call(client, echo, x, 1, flagged, &raw mut reply),
        trine_call(client, echo, x, 1, torn, &raw mut reply),
        trine_call(client, echo, x, 1, keyless, &raw mut reply),
        trine_call(client, echo, x, 1, ranged, &raw mut reply),
        trine_call(client, echo, x, 1, reserved, &raw mut reply),
        trine_key_of(client, null(), &raw mut key),
        trine_key_of(client, not_utf8, &raw mut key),
        trine_key_of(client, c"".as_ptr(), &raw mut key),
        trine_key_of(client, service, null_mut()),
        trine_call(client, echo, x, 1, unsized_args, &raw mut reply),
        trine_call(client, echo, x, 1, late, &raw mut reply),
        trine_submit(client, echo, null(), 1, null(), 0, &raw mut ticket),
        trine_submit(client, echo, x, 1, null(), -1, &raw mut ticket),
        trine_submit(client, echo, x, 1, null(), 0, null_mut()),
        trine_submit(client, echo, x, 1, late, 0, &raw mut ticket),
        trine_post(client, echo, null(), 1, null(), 0),
        trine_post(client, echo, x, 1, null(), i64::MIN),
        trine_post(client, echo, x, 1, flagged, 0),
        trine_scatter(client, echo, null(), 1, x, 1, null(), 0, &raw mut ticket),
        trine_scatter(client, echo, &raw const seven, 1, null(), 1, null(), 0, &raw mut ticket),
        trine_scatter(client, echo, &raw const seven, 1, x, 1, null(), -1, &raw mut ticket),
        trine_scatter(client, echo, &raw const seven, 1, x, 1, null(), 0, null_mut()),
        trine_scatter(client, echo, &raw const seven, 1, x, 1, flagged, 0, &raw mut ticket),
        trine_scatter(client, echo, &raw const seven, usize::MAX, x, 1, null(), 0, &raw mut ticket),
        trine_scatter(client, echo, &trine_key::default(), 1, x, 1, null(), 0, &raw mut ticket),
        trine_scatter_all(client, echo, 0, null(), 1, null(), 0, &raw mut ticket),
        trine_scatter_all(client, echo, 0, x, 1, null(), -1, &raw mut ticket),
        trine_scatter_all(client, echo, 0, x, 1, null(), 0, null_mut()),
        trine_wait(client, 4711, 0, &raw mut reply),
        trine_wait(client, u64::MAX, TRINE_FOREVER, &raw mut reply),
        trine_wait(client, TRINE_ANY, -1, &raw mut reply),
        trine_wait(client, TRINE_ANY, 0, null_mut()),
        trine_poll(client, 4711, &raw mut reply),
        trine_poll(client, u64::MAX, &raw mut reply),
        trine_poll(client, TRINE_ANY, null_mut()),
        trine_cancel(client, 0),
        trine_cancel(client, u64::MAX),
        trine_reply_free(client, &mut trine_reply { held: 1, ..reply }),
        trine_reply_free(client, &mut trine_reply { held: u64::MAX, ..reply }),
        trine_reply_free(client, unsized_reply),
        trine_loan(client, echo, 1, 0, null_mut()),
        trine_loan(client, echo, 1, -1, &raw mut loan),
        trine_send_loan(client, null_mut(), 0, null(), 0, &raw mut ticket),
        trine_send_loan(client, x.cast_mut(), 0, null(), 0, &raw mut ticket),
        trine_loan_free(client, x.cast_mut()),
    );
    // SAFETY: as the header says.
    unsafe {
        for huge in [1 << 32, usize::MAX / 4, usize::MAX] {
            let status = trine_call(client, echo, x, huge, null(), &raw mut reply);
            assert_eq!((status, reply.status, reply.flags), (TRINE_REQUEST_TOO_LARGE, status, 0));
            assert_eq!(
                trine_submit(client, echo, x, huge, null(), 0, &raw mut ticket),
                TRINE_REQUEST_TOO_LARGE
            );
            assert_eq!(trine_post(client, echo, x, huge, null(), 0), TRINE_REQUEST_TOO_LARGE);
            assert_eq!(trine_loan(client, echo, huge, 0, &raw mut loan), TRINE_REQUEST_TOO_LARGE);
            let keys = &raw const seven;
            assert_eq!(
                trine_scatter(client, echo, keys, 1, x, huge, null(), 0, &raw mut ticket),
                TRINE_REQUEST_TOO_LARGE
            );
            assert_eq!(
                trine_scatter_all(client, echo, 0, x, huge, null(), 0, &raw mut ticket),
                TRINE_REQUEST_TOO_LARGE
            );
            assert_eq!(ticket, 0);
        }
        let greedy = trine_call_args { reply_capacity: u64::MAX, ..trine_call_args::sized() };
        assert_eq!(trine_call(client, echo, x, 1, &raw const greedy, &raw mut reply), TRINE_REPLY_TOO_LARGE);
        let sent = trine_scatter(client, echo, many.as_ptr(), 65, x, 1, null(), 0, &raw mut ticket);
        assert_eq!((sent, ticket), (TRINE_TOO_MANY_PARTS, 0));
        assert_eq!(
            trine_scatter_all(client, echo, u32::MAX, x, 1, null(), 0, &raw mut ticket),
            TRINE_TOO_MANY_PARTS
        );
        assert_eq!(trine_scatter(client, echo, null(), 0, x, 1, null(), 0, &raw mut ticket), TRINE_OK);
        assert_eq!(ticket, 0, "to nobody");
        // A route that is nobody's.
        for huge in [echo + 1, u32::MAX] {
            let keys = &raw const seven;
            for status in [
                trine_call(client, huge, x, 1, null(), &raw mut reply),
                trine_submit(client, huge, x, 1, null(), 0, &raw mut ticket),
                trine_post(client, huge, x, 1, null(), 0),
                trine_scatter(client, huge, keys, 1, x, 1, null(), 0, &raw mut ticket),
                trine_scatter_all(client, huge, 0, x, 1, null(), 0, &raw mut ticket),
                trine_loan(client, huge, 1, 0, &raw mut loan),
            ] {
                assert_eq!(status, TRINE_NO_SUCH_SERVICE);
            }
            assert!(ticket == 0 && loan.is_null());
        }
        // A loan is its client's, and no longer than it is.
        let stranger = here.client();
        assert_eq!(trine_loan(client, echo, 10, 0, &raw mut loan), TRINE_OK);
        invalid!(
            trine_send_loan(stranger, loan, 1, null(), 0, &raw mut ticket),
            trine_loan_free(stranger, loan),
            trine_send_loan(client, loan, 11, null(), 0, &raw mut ticket),
            trine_send_loan(client, loan, usize::MAX, null(), 0, &raw mut ticket),
            trine_send_loan(client, loan, 1, flagged, 0, &raw mut ticket),
            trine_send_loan(client, loan, 1, null(), -1, &raw mut ticket),
            trine_send_loan(client, loan, 1, null(), 0, null_mut()),
        );
        assert_eq!(trine_send_loan(client, loan, 10, null(), 0, &raw mut ticket), TRINE_OK);
        assert_eq!(trine_cancel(stranger, ticket), TRINE_EINVAL);
        assert_eq!(trine_reply_free(client, null_mut()), TRINE_OK);
        assert_eq!(trine_loan_free(client, null_mut()), TRINE_OK);
        trine_close(stranger);
        trine_close(client);
        trine_worker_close(_worker);
    }
}

#[test]
fn arguments_about_resources() {
    let here = Here::new();
    let worker = here.worker(&[c"echo"]);
    let (test, names) = (c"test".as_ptr(), [c"echo".as_ptr()]);
    let options = trine_service_options::sized();
    let all = trine_resource { kind: TRINE_ALL, ..Default::default() };
    let many = [all; 129];
    let provide = |options: trine_service_options| {
        // SAFETY: misuse that the header says is found.
        unsafe { trine_provide_with(worker, test, names.as_ptr(), 1, &raw const options, null_mut()) }
    };
    let of = |resource: &trine_resource| {
        provide(trine_service_options { resources: resource, resource_count: 1, ..options })
    };
    let strange = [
        trine_resource { kind: 0, ..all },
        trine_resource { kind: 6, ..all },
        trine_resource { kind: u32::MAX, ..all },
        trine_resource { reserved: 1, ..all },
        trine_resource { kind: TRINE_SHARE, first: 1 << 32, last: 2, ..all },
        trine_resource { kind: TRINE_SHARE, first: 0, last: u64::MAX, ..all },
    ];
    invalid!(
        provide(trine_service_options { size: 0, ..options }),
        provide(trine_service_options { flags: 1, ..options }),
        provide(trine_service_options { policy: 5, ..options }),
        provide(trine_service_options { policy: u32::MAX, ..options }),
        provide(trine_service_options { unheld: 4, ..options }),
        provide(trine_service_options { idempotent: 1 << 63, ..options }),
        provide(trine_service_options { stall_ns: -1, ..options }),
        provide(trine_service_options { resource_count: 1, ..options }),
        provide(trine_service_options { resources: many.as_ptr(), resource_count: 129, ..options }),
        provide(trine_service_options { resources: many.as_ptr(), resource_count: u64::MAX, ..options }),
        provide(trine_service_options {
            resources: dangling_mut::<u8>().cast(),
            resource_count: 1,
            ..options
        }),
    );
    let (none, many_names, mut number) = ([null(); 1], [names[0]; 65], 0);
    invalid!(
        trine_provide_with(worker, null(), names.as_ptr(), 1, null(), null_mut()),
        trine_provide_with(worker, test, null(), 1, null(), null_mut()),
        trine_provide_with(worker, test, none.as_ptr(), 1, null(), null_mut()),
        trine_provide_with(worker, test, names.as_ptr(), 0, null(), null_mut()),
        trine_provide_with(worker, test, many_names.as_ptr(), 65, null(), null_mut()),
        trine_provide_with(worker, test, names.as_ptr(), usize::MAX, null(), null_mut()),
        trine_provide_with(worker, test, names.as_ptr(), 1, null(), (&raw mut number).wrapping_byte_add(1)),
    );
    let (step, mut count) = (trine_step { action: TRINE_ACQUIRE, resource: all, reserved: 0 }, 0);
    for resource in &strange {
        invalid!(
            of(resource),
            trine_acquire(worker, test, resource),
            trine_release(worker, test, resource),
            trine_change(worker, test, &trine_step { resource: *resource, ..step }, 1),
        );
    }
    let (steps, mut key, mut room) = ([step; 129], trine_key::default(), all);
    invalid!(
        trine_change(worker, null(), steps.as_ptr(), 1),
        trine_change(worker, test, null(), 1),
        trine_change(worker, test, steps.as_ptr(), 129),
        trine_change(worker, test, steps.as_ptr(), usize::MAX),
        trine_change(worker, test, &trine_step { action: 0, ..step }, 1),
        trine_change(worker, test, &trine_step { action: 5, ..step }, 1),
        trine_change(worker, test, &trine_step { reserved: 1, ..step }, 1),
        trine_acquire(worker, null(), &raw const all),
        trine_acquire(worker, test, null()),
        trine_release(worker, null(), &raw const all),
        trine_release(worker, test, null()),
        trine_holds(worker, null(), null_mut(), 0, &raw mut count),
        trine_holds(worker, test, null_mut(), 0, null_mut()),
        trine_holds(worker, test, null_mut(), 1, &raw mut count),
        trine_holds(worker, test, null_mut(), usize::MAX, &raw mut count),
        trine_holds(worker, test, (&raw mut room).wrapping_byte_add(1), 1, &raw mut count),
        trine_worker_key_of(worker, null(), &raw mut key),
        trine_worker_key_of(worker, c"\xff".as_ptr(), &raw mut key),
        trine_worker_key_of(worker, test, null_mut()),
    );
    // What can be said, and means nothing, is the director's to refuse: and nothing is done.
    let backwards = trine_resource { kind: TRINE_RANGE, first: 2, last: 1, ..all };
    let seven = trine_resource { kind: TRINE_NUMBER, first: 7, ..all };
    let two = [step, trine_step { action: TRINE_RELEASE, resource: seven, reserved: 0 }];
    // SAFETY: as the header says.
    unsafe {
        assert_eq!(of(&backwards), TRINE_BAD_RESOURCE);
        assert_eq!(trine_acquire(worker, test, &raw const backwards), TRINE_BAD_RESOURCE);
        assert_eq!(trine_acquire(worker, c"other".as_ptr(), &raw const seven), TRINE_NO_SUCH_SERVICE);
        assert_eq!(trine_release(worker, test, &raw const seven), TRINE_NOT_HELD);
        let two = two.map(|s| trine_step { resource: seven, ..s });
        assert_eq!(trine_change(worker, test, two[1..].as_ptr(), 1), TRINE_NOT_HELD);
        assert_eq!(trine_holds(worker, test, null_mut(), 0, &raw mut count), TRINE_OK);
        assert_eq!(count, 0);
        assert_eq!(trine_change(worker, test, null(), 0), TRINE_OK);
        trine_worker_close(worker);
    }
}

#[test]
fn arguments_of_a_worker() {
    let here = Here::new();
    let (client, worker) = (here.client(), here.worker(&[c"echo"]));
    let (service, names) = (c"other".as_ptr(), [c"a".as_ptr(); 65]);
    let (mut request, mut count) = (trine_incoming::sized(), 0);
    let holes = [c"a".as_ptr(), null()];
    invalid!(
        trine_provide(worker, null(), names.as_ptr(), 1, null_mut()),
        trine_provide(worker, service, null(), 1, null_mut()),
        trine_provide(worker, service, names.as_ptr(), 0, null_mut()),
        trine_provide(worker, service, names.as_ptr(), 65, null_mut()),
        trine_provide(worker, service, names.as_ptr(), usize::MAX, null_mut()),
        trine_provide(worker, service, holes.as_ptr(), 2, null_mut()),
        trine_provide(worker, c"not a name".as_ptr(), names.as_ptr(), 1, null_mut()),
        trine_withdraw(worker, null()),
        trine_next(worker, 0, null_mut()),
        trine_next(worker, -1, &raw mut request),
        trine_next(worker, 0, &mut trine_incoming { size: 8, ..request }),
        trine_next(worker, 0, &mut trine_incoming { size: u32::MAX, ..request }),
        trine_answer(worker, 0, null(), 0),
        trine_answer(worker, u64::MAX, null(), 0),
        trine_fail(worker, 0, 0, null()),
        trine_fail(worker, u64::MAX, u32::MAX, c"".as_ptr()),
        trine_is_cancelled(worker, 0),
        trine_is_cancelled(worker, u64::MAX),
        trine_request_keys(worker, u64::MAX, null_mut(), 0, &raw mut count),
    );
    let (echo, mut ticket, mut reply) = (route(client, c"echo"), 0, trine_reply::sized());
    // SAFETY: as the header says.
    unsafe {
        for huge in [4097, usize::MAX / 2, usize::MAX] {
            assert_eq!(trine_submit(client, echo, null(), 0, null(), 0, &raw mut ticket), TRINE_OK);
            assert_eq!(trine_next(worker, TRINE_FOREVER, &raw mut request), TRINE_OK);
            invalid!(
                trine_request_keys(worker, request.request, null_mut(), 0, null_mut()),
                trine_request_keys(worker, request.request, null_mut(), 1, &raw mut count),
                trine_request_keys(worker, request.request, null_mut(), usize::MAX, &raw mut count),
                trine_answer(worker, request.request, null(), 1),
                trine_answer(worker, request.request + 1, null(), 0),
                trine_fail(worker, request.request, 0, c"\xff".as_ptr()),
            );
            assert_eq!(trine_answer(worker, request.request, c"x".as_ptr().cast(), huge), TRINE_OK);
            invalid!(trine_answer(worker, request.request, null(), 0));
            assert_eq!(trine_wait(client, ticket, TRINE_FOREVER, &raw mut reply), TRINE_REPLY_TOO_LARGE);
        }
        trine_close(client);
        trine_worker_close(worker);
    }
}

#[test]
fn arguments_without_a_handle() {
    let here = Here::new();
    let (bus, mut client) = (here.bus.as_ptr(), null_mut());
    let (mut worker, mut director) = (null_mut(), null_mut());
    let options = trine_options::sized();
    let bad = [
        trine_options { size: 0, ..options },
        trine_options { size: u32::MAX, ..options },
        trine_options { flags: 2, ..options },
        trine_options { waiting: 4, ..options },
        trine_options { reserved_word: 1, ..options },
        trine_options { reserved: [1, 0], ..options },
    ];
    for options in &bad {
        invalid!(
            trine_connect(bus, options, &raw mut client),
            trine_worker_open(bus, options, &raw mut worker),
            trine_director_start(bus, options, &raw mut director),
        );
        assert_ne!(error(null()), "");
        assert!(client.is_null() && worker.is_null() && director.is_null());
    }
    let odd = trine_options { slots: 3, ..options };
    let huge = trine_options { request_arena: u64::MAX, reply_capacity: u32::MAX, ..options };
    for name in [c"".as_ptr(), c"No such name".as_ptr(), c"\xff".as_ptr()] {
        invalid!(
            trine_connect(name, null(), &raw mut client),
            trine_worker_open(name, null(), &raw mut worker),
            trine_director_start(name, null(), &raw mut director),
        );
    }
    invalid!(
        trine_connect(null(), null(), null_mut()),
        trine_worker_open(null(), null(), null_mut()),
        trine_director_start(null(), null(), null_mut()),
        trine_connect(bus, null(), null_mut()),
        trine_worker_open(bus, null(), null_mut()),
        trine_director_start(bus, null(), null_mut()),
        trine_connect(bus, &raw const odd, &raw mut client),
        trine_connect(bus, &raw const huge, &raw mut client),
        trine_worker_open(bus, &raw const odd, &raw mut worker),
        trine_log(0, Some(silent), null_mut()),
        trine_log(i32::MIN, Some(silent), null_mut()),
        trine_log(i32::MAX, Some(silent), null_mut()),
    );
    unsafe extern "C" fn silent(_: *mut c_void, _: i32, _: *const c_char, _: *const c_char) {}
    // SAFETY: as the header says.
    unsafe {
        let taken = trine_director_start(bus, null(), &raw mut director);
        assert_eq!((taken, director), (TRINE_ESYSTEM, null_mut()));
        assert!(error(null()).contains("already serves"), "{}", error(null()));
        for huge in [i32::MIN, -7, trine::Status::ALL.len() as i32, 4711, i32::MAX] {
            assert_eq!(CStr::from_ptr(trine_status_name(huge)), c"UNKNOWN");
            assert!(!CStr::from_ptr(trine_status_text(huge)).is_empty());
        }
        // Nobody is told anything from now on, as before.
        assert_eq!(trine_log(i32::MAX, None, null_mut()), TRINE_OK);
        assert_eq!((trine_version(), trine_protocol()), (TRINE_VERSION, trine_protocol()));
        // A handle that is none has no error of its own: the thread's is said, and "" in one in which nothing failed.
        let mut something = [0u64; 64];
        let nothing = something.as_mut_ptr().cast::<c_void>().cast_const();
        assert_eq!(CStr::from_ptr(trine_error(nothing)), CStr::from_ptr(trine_error(null())));
        thread::spawn(|| assert!(CStr::from_ptr(trine_error(null())).is_empty())).join().unwrap();
    }
}

#[test]
fn status_numbers_are_the_library_s() {
    for status in trine::Status::ALL {
        // SAFETY: as the header says.
        let (name, text) = unsafe {
            let number = status as u16 as trine_status;
            (CStr::from_ptr(trine_status_name(number)), CStr::from_ptr(trine_status_text(number)))
        };
        assert_eq!((name.to_str(), text.to_str()), (Ok(status.name()), Ok(status.text())));
        let line = format!("#define TRINE_{} {}\n", status.name(), status as u16);
        assert!(include_str!("../../include/trine.h").contains(&line), "the header lacks {line}");
    }
}

/// A struct of another version: more or less of it, with what is beyond.
#[repr(C)]
struct Other<T> {
    known: T,
    beyond: [u64; 4],
}

#[test]
fn structs_of_other_versions_are_taken() {
    let here = Here::new();
    let (client, worker) = (here.client(), here.worker(&[c"echo"]));
    let (echo, mut ticket) = (route(client, c"echo"), 0);
    // Newer callers' structs, and older ones', which end before what came later.
    for (more, reply_size, request_size) in [(32, 152, 128), (0, 48, 48)] {
        let mut args = Other { known: trine_call_args::sized(), beyond: [0; 4] };
        args.known.size = if more > 0 { args.known.size + more } else { 8 };
        let mut request = Other { known: trine_incoming::sized(), beyond: [7; 4] };
        let mut reply = Other { known: trine_reply::sized(), beyond: [7; 4] };
        (request.known.size, request.known.pid) = (request_size, -7);
        (reply.known.size, reply.known.worker) = (reply_size, 7);
        // SAFETY: as the header says.
        unsafe {
            let sent = trine_submit(client, echo, null(), 0, (&raw const args).cast(), 0, &raw mut ticket);
            assert_eq!(sent, TRINE_OK, "{}", error(client.cast()));
            assert_eq!(trine_next(worker, TRINE_FOREVER, (&raw mut request).cast()), TRINE_OK);
            assert_eq!(trine_answer(worker, request.known.request, null(), 0), TRINE_OK);
            assert_eq!(trine_wait(client, ticket, TRINE_FOREVER, (&raw mut reply).cast()), TRINE_OK);
            assert_eq!((reply.known.size, request.known.size), (reply_size, request_size));
            let filled = if more > 0 { [0; 4] } else { [7; 4] };
            assert_eq!((reply.beyond, request.beyond), (filled, filled));
            assert_eq!(request.known.pid == -7, more == 0);
            assert_eq!(reply.known.worker == 7, more == 0);
            assert_eq!(trine_reply_free(client, (&raw mut reply).cast()), TRINE_OK);

            args.beyond[3] = 1;
            let sent = trine_submit(client, echo, null(), 0, (&raw const args).cast(), 0, &raw mut ticket);
            assert_eq!(sent, if more > 0 { TRINE_EINVAL } else { TRINE_OK }, "it asks for what is not known");
        }
    }
    // SAFETY: as the header says.
    unsafe {
        trine_close(client);
        trine_worker_close(worker);
    }
}

#[test]
fn two_threads_in_one_handle() {
    let here = Here::new();
    let worker = here.worker(&[c"echo"]);
    thread::scope(|scope| {
        let sent = Sent(worker);
        let waiting = scope.spawn(move || {
            let mut request = trine_incoming::sized();
            // SAFETY: as the header says.
            unsafe { trine_next(sent.get(), TRINE_FOREVER, &raw mut request) }
        });
        // SAFETY: misuse that the header says is found.
        unsafe {
            while trine_worker_fd(worker) != TRINE_EBUSY {
                thread::yield_now();
            }
            assert_eq!(trine_worker_close(worker), TRINE_EBUSY);
            assert!(error(null()).contains("another thread"));
            assert!(error(worker.cast()).contains("another thread"));
            assert_eq!(trine_wake(worker), TRINE_OK);
            assert_eq!(waiting.join().unwrap(), TRINE_INTERRUPTED);
            assert_eq!(trine_worker_close(worker), TRINE_OK);
        }
    });
}

#[test]
fn a_child_can_only_close() {
    use nix::sys::wait::{WaitStatus, waitpid};
    let here = Here::new();
    let (client, worker) = (here.client(), here.worker(&[c"echo"]));
    let (mut reply, mut request) = (trine_reply::sized(), trine_incoming::sized());
    let (mut loan, mut ticket, echo) = (null_mut(), 0, route(client, c"echo"));
    // SAFETY: as the header says.
    assert_eq!(unsafe { trine_loan(client, echo, 8, 0, &raw mut loan) }, TRINE_OK);
    // SAFETY: the child does little, and leaves by _exit.
    match unsafe { nix::unistd::fork() }.unwrap() {
        nix::unistd::ForkResult::Child => {
            // SAFETY: as the header says.
            let right = unsafe {
                trine_call(client, 0, null(), 0, null(), &raw mut reply) == TRINE_FORKED
                    && trine_wait(client, TRINE_ANY, 0, &raw mut reply) == TRINE_FORKED
                    && trine_send_loan(client, loan, 8, null(), 0, &raw mut ticket) == TRINE_FORKED
                    && trine_loan_free(client, loan) == TRINE_FORKED
                    && trine_cancel(client, 1) == TRINE_FORKED
                    && trine_client_fd(client) == TRINE_EINVAL
                    && trine_worker_fd(worker) == TRINE_EINVAL
                    && trine_is_cancelled(worker, 1) == TRINE_EINVAL
                    && trine_client_disarm(client) == TRINE_FORKED
                    && trine_next(worker, 0, &raw mut request) == TRINE_FORKED
                    && trine_answer(worker, 1, null(), 0) == TRINE_FORKED
                    && trine_drain(worker) == TRINE_FORKED
                    && trine_wake(worker) == TRINE_FORKED
                    && trine_client_arm(client) == TRINE_FORKED
                    && trine_worker_arm(worker) == TRINE_FORKED
                    && trine_close(client) == TRINE_OK
                    && trine_worker_close(worker) == TRINE_OK
            };
            // SAFETY: ends this process at once.
            unsafe { nix::libc::_exit(i32::from(!right)) }
        }
        nix::unistd::ForkResult::Parent { child } => {
            assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
        }
    }
    // The parent's are as they were, and were not woken.
    assert_eq!(route(client, c"echo"), 0);
    // SAFETY: as the header says.
    unsafe {
        assert_eq!(trine_send_loan(client, loan, 8, null(), 0, &raw mut ticket), TRINE_OK);
        assert_eq!(trine_next(worker, TRINE_FOREVER, &raw mut request), TRINE_OK);
        trine_close(client);
        trine_worker_close(worker);
    }
}
