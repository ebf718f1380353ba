//! The interface as it is meant to be used: round trips, in place, many at a time, event loops, signals.

mod common;

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::{null, null_mut};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::pthread::{pthread_kill, pthread_self};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use trine_ffi::*;

const OPERATIONS: [&CStr; 5] = [c"echo", c"invert", c"fail", c"forget", c"large"];
const LARGE: u64 = 100_000;

/// Answers until it is woken.
fn serve(worker: *mut trine_worker) {
    let mut request = trine_incoming::sized();
    // SAFETY: as the header says; a payload is read where it is.
    unsafe {
        loop {
            match trine_next(worker, TRINE_FOREVER, &raw mut request) {
                TRINE_OK => {}
                TRINE_INTERRUPTED => break,
                status => panic!("{status}: {}", error(worker.cast())),
            }
            let (id, len) = (request.request, request.len as usize);
            let status = match request.operation {
                0 => trine_answer(worker, id, request.data, len),
                1 => {
                    let out = request.out.cast::<u8>();
                    for (i, byte) in bytes(request.data, request.len).iter().enumerate() {
                        out.add(i).write(!byte);
                    }
                    trine_answer(worker, id, request.out, len)
                }
                2 => trine_fail(worker, id, 7, c"no, thank you".as_ptr()),
                3 => continue,
                _ => trine_answer(worker, id, vec![1; LARGE as usize].as_ptr().cast(), LARGE as usize),
            };
            assert_eq!(status, TRINE_OK, "{}", error(worker.cast()));
        }
    }
}

/// A worker that serves meanwhile.
fn with_worker(test: impl FnOnce(&Here, *mut trine_client)) {
    let here = Here::new();
    let worker = here.worker(&OPERATIONS);
    let client = here.client();
    thread::scope(|scope| {
        let sent = Sent(worker);
        let serving = scope.spawn(move || serve(sent.get()));
        test(&here, client);
        // SAFETY: as the header says.
        assert_eq!(unsafe { trine_wake(worker) }, TRINE_OK);
        serving.join().unwrap();
    });
    // SAFETY: as the header says.
    unsafe {
        assert_eq!(trine_close(client), TRINE_OK);
        assert_eq!(trine_worker_close(worker), TRINE_OK);
    }
}

fn room(bytes: u64) -> trine_call_args {
    trine_call_args { reply_capacity: bytes, ..trine_call_args::sized() }
}

#[test]
fn what_is_sent_comes_back_whatever_its_size() {
    with_worker(|_, client| {
        for operation in [c"echo", c"invert"] {
            let (route, mask) = (route(client, operation), if operation == c"echo" { 0 } else { 0xff });
            for len in [0usize, 1, 7, 32, 33, 48, 64, 65, 4096, 4097, 1 << 20, 16 << 20] {
                let sent: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
                let (args, mut reply) = (room(len as u64), trine_reply::sized());
                // SAFETY: as the header says.
                unsafe {
                    let status =
                        trine_call(client, route, sent.as_ptr().cast(), len, &raw const args, &raw mut reply);
                    assert_eq!(status, TRINE_OK, "{len}: {}", error(client.cast()));
                    assert_eq!((reply.status, reply.flags, reply.len), (TRINE_OK, TRINE_RAN, len as u64));
                    assert!(!reply.data.is_null() && reply.data.cast::<u64>().is_aligned());
                    let got = bytes(reply.data, reply.len);
                    assert!(got.iter().zip(&sent).all(|(got, sent)| got ^ mask == *sent), "{len}");
                    assert_eq!(trine_reply_free(client, &raw mut reply), TRINE_OK);
                    assert!(reply.data.is_null() && reply.held == 0);
                    assert_eq!(trine_reply_free(client, &raw mut reply), TRINE_OK, "nothing is held");
                }
            }
        }
    });
}

#[test]
fn ends_that_are_errors_say_why() {
    with_worker(|_, client| {
        let mut reply = trine_reply::sized();
        // SAFETY: as the header says.
        unsafe {
            let status = trine_call(client, route(client, c"fail"), null(), 0, null(), &raw mut reply);
            assert_eq!(
                (status, reply.status, reply.code, reply.flags),
                (TRINE_WORKER_ERROR, status, 7, TRINE_RAN)
            );
            assert_eq!(error(client.cast()), "no, thank you");

            let status = trine_call(client, route(client, c"large"), null(), 0, null(), &raw mut reply);
            assert_eq!((status, reply.needed), (TRINE_REPLY_TOO_LARGE, LARGE));

            let args = trine_call_args { deadline_ns: 5_000_000, ..trine_call_args::sized() };
            let status =
                trine_call(client, route(client, c"forget"), null(), 0, &raw const args, &raw mut reply);
            assert_eq!((status, reply.flags), (TRINE_DEADLINE_EXCEEDED, TRINE_RAN));

            let mut none = 0;
            let status = trine_route_of(client, c"test".as_ptr(), c"sing".as_ptr(), &raw mut none);
            assert_eq!(status, TRINE_NO_SUCH_OPERATION);
            let status = trine_route_of(client, c"nothing".as_ptr(), c"sing".as_ptr(), &raw mut none);
            assert_eq!(status, TRINE_NO_SUCH_SERVICE);
            assert_ne!(error(client.cast()), "");

            let huge = vec![0; 65 << 20];
            let status = trine_call(client, 0, huge.as_ptr().cast(), huge.len(), null(), &raw mut reply);
            assert_eq!((status, reply.flags), (TRINE_REQUEST_TOO_LARGE, 0));
        }
    });
}

#[test]
fn many_at_a_time_in_place_both_ways() {
    with_worker(|_, client| {
        let (invert, forget) = (route(client, c"invert"), route(client, c"forget"));
        let args = room(LARGE);
        let mut open = Vec::new();
        // SAFETY: as the header says; a loan is written where it is.
        unsafe {
            for i in 0..20u8 {
                let (mut loan, mut ticket) = (null_mut(), 0);
                let len = LARGE as usize - usize::from(i);
                assert_eq!(trine_loan(client, invert, LARGE as usize, 0, &raw mut loan), TRINE_OK);
                loan.cast::<u8>().write_bytes(i, len);
                assert_eq!(trine_send_loan(client, loan, len, &raw const args, 0, &raw mut ticket), TRINE_OK);
                assert_eq!(trine_loan_free(client, loan), TRINE_EINVAL, "it was sent");
                open.push((ticket, len, !i));
            }
            let mut unsent = null_mut();
            assert_eq!(trine_loan(client, invert, 10, 0, &raw mut unsent), TRINE_OK);
            assert_eq!(trine_loan_free(client, unsent), TRINE_OK);

            let mut cancelled = 0;
            assert_eq!(trine_submit(client, forget, null(), 0, null(), 0, &raw mut cancelled), TRINE_OK);
            let mut reply = trine_reply::sized();
            assert_eq!(trine_poll(client, cancelled, &raw mut reply), TRINE_WOULD_BLOCK);
            assert_eq!(trine_wait(client, cancelled, 1_000_000, &raw mut reply), TRINE_WOULD_BLOCK);
            assert_eq!(trine_cancel(client, cancelled), TRINE_OK);
            assert_eq!(trine_cancel(client, cancelled), TRINE_EINVAL);

            let mut held = Vec::new();
            while !open.is_empty() {
                let mut reply = trine_reply::sized();
                assert_eq!(trine_wait(client, TRINE_ANY, TRINE_FOREVER, &raw mut reply), TRINE_OK);
                let at = open.iter().position(|(ticket, ..)| *ticket == reply.ticket).unwrap();
                let (_, len, byte) = open.remove(at);
                held.push((reply, len, byte));
            }
            assert_eq!(trine_poll(client, TRINE_ANY, &raw mut reply), TRINE_WOULD_BLOCK);
            for (reply, len, byte) in &mut held {
                assert_eq!(bytes(reply.data, reply.len), vec![*byte; *len]);
                assert_eq!(trine_wait(client, reply.ticket, 0, &raw mut *reply), TRINE_EINVAL, "said once");
                let mut copy = *reply;
                assert_eq!(trine_reply_free(client, &raw mut *reply), TRINE_OK);
                assert_eq!(trine_reply_free(client, &raw mut copy), TRINE_EINVAL, "freed twice");
            }
        }
    });
}

#[test]
fn one_way_calls_are_done_when_the_client_has_closed() {
    let here = Here::new();
    let worker = here.worker(&[c"count"]);
    let counted = AtomicUsize::new(0);
    thread::scope(|scope| {
        let (sent, counted) = (Sent(worker), &counted);
        let serving = scope.spawn(move || {
            let mut request = trine_incoming::sized();
            // SAFETY: as the header says.
            unsafe {
                while trine_next(sent.get(), TRINE_FOREVER, &raw mut request) == TRINE_OK {
                    counted.fetch_add(1, Ordering::Relaxed);
                    assert_eq!(trine_answer(sent.get(), request.request, null(), 0), TRINE_OK);
                }
            }
        });
        let client = here.client();
        let count = route(client, c"count");
        // SAFETY: as the header says.
        unsafe {
            for _ in 0..200 {
                assert_eq!(
                    trine_post(client, count, c"x".as_ptr().cast(), 1, null(), TRINE_FOREVER),
                    TRINE_OK
                );
            }
            assert_eq!(trine_close(client), TRINE_OK);
            assert_eq!(counted.load(Ordering::Relaxed), 200);
            assert_eq!(trine_wake(worker), TRINE_OK);
            serving.join().unwrap();
            assert_eq!(trine_worker_close(worker), TRINE_OK);
        }
    });
}

/// Waits as an event loop does.
fn sleep_on(fd: c_int) {
    assert!(fd >= 0);
    // SAFETY: the handle that it is of is open.
    let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
    let woken = poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::from(20_000u16)).unwrap();
    assert_eq!(woken, 1, "nobody rang");
}

#[test]
fn both_ends_in_an_event_loop() {
    const CALLS: u32 = 300;
    let here = Here::new();
    let worker = here.worker(&[c"echo"]);
    let client = here.client();
    let echo = route(client, c"echo");
    thread::scope(|scope| {
        let sent = Sent(worker);
        // SAFETY: as the header says.
        scope.spawn(move || unsafe {
            let (worker, mut served) = (sent.get(), 0);
            let fd = trine_worker_fd(worker);
            while served < CALLS {
                let mut request = trine_incoming::sized();
                while trine_next(worker, 0, &raw mut request) == TRINE_OK {
                    assert_eq!(
                        trine_answer(worker, request.request, request.data, request.len as usize),
                        TRINE_OK
                    );
                    served += 1;
                }
                match trine_worker_arm(worker) {
                    _ if served == CALLS => break,
                    TRINE_READY => continue,
                    status => assert_eq!(status, TRINE_OK),
                }
                sleep_on(fd);
                assert_eq!(trine_worker_disarm(worker), TRINE_OK);
            }
        });
        // SAFETY: as the header says.
        let fd = unsafe { trine_client_fd(client) };
        for i in 0..CALLS {
            let (mut ticket, mut reply) = (0, trine_reply::sized());
            // SAFETY: as the header says.
            unsafe {
                let data = (&raw const i).cast();
                assert_eq!(trine_submit(client, echo, data, 4, null(), 0, &raw mut ticket), TRINE_OK);
                loop {
                    match trine_poll(client, TRINE_ANY, &raw mut reply) {
                        TRINE_OK => break,
                        status => assert_eq!(status, TRINE_WOULD_BLOCK),
                    }
                    if trine_client_arm(client) == TRINE_OK {
                        sleep_on(fd);
                        assert_eq!(trine_client_disarm(client), TRINE_OK);
                    }
                }
                assert_eq!((reply.ticket, bytes(reply.data, reply.len)), (ticket, i.to_ne_bytes().to_vec()));
                assert_eq!(trine_reply_free(client, &raw mut reply), TRINE_OK);
            }
        }
    });
    // SAFETY: as the header says.
    unsafe {
        trine_close(client);
        trine_worker_close(worker);
    }
}

/// Sends this thread signals until what it does is over.
fn signalled<T>(wait: impl FnOnce() -> T) -> T {
    extern "C" fn ignore(_: i32) {}
    let action = SigAction::new(SigHandler::Handler(ignore), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler does nothing, which is safe at any moment.
    unsafe { sigaction(Signal::SIGUSR1, &action) }.unwrap();
    let (waiter, over) = (pthread_self(), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Acquire) {
                pthread_kill(waiter, Signal::SIGUSR1).unwrap();
                thread::sleep(Duration::from_millis(1));
            }
        });
        let result = wait();
        over.store(true, Ordering::Release);
        result
    })
}

#[test]
fn a_signal_ends_a_wait_and_the_call_goes_on() {
    let here = Here::new();
    let worker = here.worker(&[c"echo"]);
    let client = here.client();
    let echo = route(client, c"echo");
    let (mut request, mut reply) = (trine_incoming::sized(), trine_reply::sized());
    // SAFETY: as the header says.
    unsafe {
        assert_eq!(signalled(|| trine_next(worker, TRINE_FOREVER, &raw mut request)), TRINE_INTERRUPTED);
        let status = signalled(|| trine_call(client, echo, null(), 0, null(), &raw mut reply));
        assert_eq!((status, reply.status), (TRINE_INTERRUPTED, TRINE_INTERRUPTED));
        let ticket = reply.ticket;
        assert_ne!(ticket, 0);
        assert_eq!(
            signalled(|| trine_wait(client, ticket, TRINE_FOREVER, &raw mut reply)),
            TRINE_INTERRUPTED
        );
        assert_eq!(
            signalled(|| trine_wait(client, TRINE_ANY, TRINE_FOREVER, &raw mut reply)),
            TRINE_INTERRUPTED
        );

        assert_eq!(trine_next(worker, TRINE_FOREVER, &raw mut request), TRINE_OK);
        assert_eq!(trine_is_cancelled(worker, request.request), 0);
        assert_eq!(trine_answer(worker, request.request, c"late".as_ptr().cast(), 4), TRINE_OK);
        assert_eq!(trine_wait(client, ticket, TRINE_FOREVER, &raw mut reply), TRINE_OK);
        assert_eq!(bytes(reply.data, reply.len), b"late");
        assert_eq!(trine_reply_free(client, &raw mut reply), TRINE_OK);
        trine_close(client);
        trine_worker_close(worker);

        let (mut patient, options) =
            (null_mut(), trine_options { flags: TRINE_RESTART, ..trine_options::sized() });
        assert_eq!(trine_worker_open(here.bus.as_ptr(), &raw const options, &raw mut patient), TRINE_OK);
        let status = signalled(|| trine_next(patient, 30_000_000, &raw mut request));
        assert_eq!(status, TRINE_WOULD_BLOCK);
        trine_worker_close(patient);
    }
}

#[test]
fn a_signal_handler_may_wake() {
    static WORKER: AtomicPtr<trine_worker> = AtomicPtr::new(null_mut());
    extern "C" fn wake(_: i32) {
        // SAFETY: as the header says: the worker is closed after the last signal.
        unsafe { trine_wake(WORKER.load(Ordering::Acquire)) };
    }
    let here = Here::new();
    let action = SigAction::new(SigHandler::Handler(wake), SaFlags::SA_RESTART, SigSet::empty());
    // The signal itself does not end this worker's waits.
    let (mut worker, options) =
        (null_mut(), trine_options { flags: TRINE_RESTART, ..trine_options::sized() });
    let mut request = trine_incoming::sized();
    // SAFETY: as the header says.
    unsafe {
        sigaction(Signal::SIGUSR2, &action).unwrap();
        assert_eq!(trine_worker_open(here.bus.as_ptr(), &raw const options, &raw mut worker), TRINE_OK);
        WORKER.store(worker, Ordering::Release);
        let (sent, waiter) = (Sent(worker), pthread_self());
        thread::scope(|scope| {
            scope.spawn(move || {
                while trine_worker_fd(sent.get()) != TRINE_EBUSY {
                    thread::yield_now();
                }
                pthread_kill(waiter, Signal::SIGUSR2).unwrap();
            });
            // The other thread's look is in the handle for a moment, too.
            let status = loop {
                match trine_next(worker, TRINE_FOREVER, &raw mut request) {
                    TRINE_EBUSY => thread::yield_now(),
                    status => break status,
                }
            };
            assert_eq!(status, TRINE_INTERRUPTED);
        });
        assert_eq!(trine_next(worker, 0, &raw mut request), TRINE_WOULD_BLOCK);
        assert_eq!(trine_worker_close(worker), TRINE_OK);
    }
}

#[test]
fn waking_is_said_once() {
    let here = Here::new();
    let worker = here.worker(&[c"echo"]);
    let mut request = trine_incoming::sized();
    // SAFETY: as the header says.
    unsafe {
        nix::errno::Errno::set_raw(77);
        assert_eq!(trine_wake(worker), TRINE_OK);
        assert_eq!(nix::errno::Errno::last_raw(), 77);
        assert_eq!(trine_next(worker, TRINE_FOREVER, &raw mut request), TRINE_INTERRUPTED);
        assert_eq!(trine_next(worker, 0, &raw mut request), TRINE_WOULD_BLOCK);
        trine_worker_close(worker);
    }
}

#[test]
fn a_worker_s_calls_end_when_it_closes_and_a_client_s_when_it_cancels() {
    let here = Here::new();
    let worker = here.worker(&[c"echo"]);
    let client = here.client();
    let (echo, mut tickets) = (route(client, c"echo"), [0; 2]);
    let (mut request, mut reply) = (trine_incoming::sized(), trine_reply::sized());
    // SAFETY: as the header says.
    unsafe {
        for ticket in &mut tickets {
            assert_eq!(trine_submit(client, echo, null(), 0, null(), 0, ticket), TRINE_OK);
            assert_eq!(trine_next(worker, TRINE_FOREVER, &raw mut request), TRINE_OK);
        }
        assert_eq!(trine_cancel(client, tickets[1]), TRINE_OK);
        assert_eq!(trine_is_cancelled(worker, request.request), 1);
        assert_eq!(trine_worker_close(worker), TRINE_OK);
        assert_eq!(trine_wait(client, tickets[0], TRINE_FOREVER, &raw mut reply), TRINE_WORKER_ERROR);
        assert_eq!(trine_withdraw(worker, c"test".as_ptr()), TRINE_EINVAL);
        trine_close(client);
    }
}

#[test]
fn the_director_s_end_is_an_end() {
    let mut here = Here::new();
    let worker = here.worker(&[c"echo"]);
    let client = here.client();
    let (echo, mut ticket, mut reply) = (route(client, c"echo"), 0, trine_reply::sized());
    let mut request = trine_incoming::sized();
    // SAFETY: as the header says.
    unsafe {
        assert_eq!(trine_submit(client, echo, null(), 0, null(), 0, &raw mut ticket), TRINE_OK);
        assert_eq!(trine_next(worker, TRINE_FOREVER, &raw mut request), TRINE_OK);
        assert_eq!(trine_withdraw(worker, c"test".as_ptr()), TRINE_OK);
        assert_eq!(trine_answer(worker, request.request, null(), 0), TRINE_OK);
        here.stop_director();
        assert_eq!(trine_wait(client, ticket, TRINE_FOREVER, &raw mut reply), TRINE_OK);
        assert_eq!(trine_reply_free(client, &raw mut reply), TRINE_OK);
        let mut none: *mut trine_client = null_mut();
        assert_eq!(trine_connect(here.bus.as_ptr(), null(), &raw mut none), TRINE_DIRECTOR_GONE);
        assert!(none.is_null() && error(null()).contains("trine director"), "{}", error(null()));
        trine_close(client);
        trine_worker_close(worker);
    }
}

/// Says to the director what is no message: it has something to say about that.
fn break_the_protocol(here: &Here) {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
    use std::os::fd::AsRawFd;
    let peer = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
    let path = here.folder.path().join("socket");
    connect(peer.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
    nix::unistd::write(&peer, b"good morning").unwrap();
    // Until it hangs up.
    while nix::unistd::read(&peer, &mut [0; 64]).is_ok_and(|count| count > 0) {}
}

#[test]
fn the_log_reaches_its_callback() {
    static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());
    unsafe extern "C" fn say(user: *mut c_void, level: i32, target: *const c_char, message: *const c_char) {
        // SAFETY: as the header says.
        let (target, message) = unsafe { (CStr::from_ptr(target), CStr::from_ptr(message)) };
        // SAFETY: from within, which is what is tested.
        let within = unsafe { trine_log(TRINE_LOG_ERROR, None, null_mut()) };
        let line = format!("{} {level} {within} {target:?} {message:?}", user as usize);
        SAID.lock().unwrap().push(line);
    }
    // SAFETY: as the header says.
    unsafe {
        assert_eq!(trine_log(TRINE_LOG_DEBUG, Some(say), 42 as *mut c_void), TRINE_OK);
        assert_eq!(trine_log(99, Some(say), null_mut()), TRINE_EINVAL);
        let here = Here::new();
        break_the_protocol(&here);
        let until = Instant::now() + Duration::from_secs(20);
        while SAID.lock().unwrap().is_empty() && Instant::now() < until {
            thread::yield_now();
        }
        assert_eq!(trine_log(TRINE_LOG_DEBUG, None, null_mut()), TRINE_OK);
    }
    let said = SAID.lock().unwrap().clone();
    assert!(said.iter().all(|line| line.starts_with("42 ") && line.contains(" -2 \"trine::")), "{said:?}");
    assert!(!said.is_empty());
}

/// A program that reads too far finds zeros, and nothing of another caller's.
#[test]
fn behind_a_small_payload_stand_zeros() {
    let here = Here::new();
    let (worker, client) = (here.worker(&OPERATIONS), here.client());
    let route = route(client, c"echo");
    let with_zeros = |data: *const c_void, len: usize| {
        // What is small lies in 64 bytes of the library's own.
        assert_eq!(bytes(data, 64), [vec![9; len], vec![0; 64 - len]].concat(), "{len}");
    };
    // The longest first: what it leaves lies where the others come to lie.
    for len in [64, 40, 3, 0] {
        let (request, mut ticket) = (vec![9_u8; len], 0);
        let (mut incoming, mut reply) = (trine_incoming::sized(), trine_reply::sized());
        // SAFETY: as the header says.
        unsafe {
            let data = request.as_ptr().cast();
            assert_eq!(
                trine_submit(client, route, data, len, null(), TRINE_FOREVER, &raw mut ticket),
                TRINE_OK
            );
            assert_eq!(trine_next(worker, TRINE_FOREVER, &raw mut incoming), TRINE_OK);
            with_zeros(incoming.data, len);
            assert_eq!(trine_answer(worker, incoming.request, incoming.data, len), TRINE_OK);
            assert_eq!(trine_wait(client, ticket, TRINE_FOREVER, &raw mut reply), TRINE_OK);
            with_zeros(reply.data, len);
            assert_eq!(trine_reply_free(client, &raw mut reply), TRINE_OK);
        }
    }
    // SAFETY: as the header says.
    unsafe { (trine_close(client), trine_worker_close(worker)) };
}
