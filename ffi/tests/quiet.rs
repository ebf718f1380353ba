//! What the header does not mark makes no system call, but to ring a sleeping peer, and now and then to see what the
//! director says. So it does not block either: to wait is to ask the kernel.
//!
//! System calls are counted by a seccomp filter that a thread puts on itself once all is warm: it turns each into a
//! signal, whose handler counts it and answers EAGAIN.
#![cfg(target_arch = "x86_64")]

mod common;
#[path = "../../tests/seccomp/mod.rs"]
mod seccomp;

use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use nix::libc;
use trine_ffi::*;

/// How often each function is called: so often that one system call in each is far more than what goes by the clock.
const TIMES: u64 = 4000;
/// The same of what rings: each call keeps one of the client's 64 slots, as the director is not to hear the bell.
const RINGS: u64 = 32;

/// No function of the interface, but one that makes a system call.
const CONTROL: &str = "getpid";

static COUNTED: AtomicU64 = AtomicU64::new(0);

extern "C" fn count(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    COUNTED.fetch_add(1, SeqCst);
    seccomp::answer_again(context);
}

/// From now on this thread's system calls are counted, and not made; but for pause(), which nobody else uses.
fn filter_this_thread() {
    seccomp::handle(count);
    assert!(seccomp::filter_this_thread(libc::SYS_pause));
}

/// What one function did.
struct Count {
    name: &'static str,
    /// How often it was called, and how often it did not do what it should.
    times: u64,
    wrong: u64,
    /// System calls: how many it made, and how many it may have made.
    made: u64,
    most: u64,
}

type Counts = Vec<Count>;

static COUNTS: Mutex<Counts> = Mutex::new(Counts::new());
static DONE: AtomicBool = AtomicBool::new(false);

/// Calls it, and counts. `rings`: how many peers one call may ring.
fn counted(counts: &mut Counts, name: &'static str, times: u64, rings: u64, mut call: impl FnMut() -> bool) {
    let (before, begun) = (COUNTED.load(SeqCst), Instant::now());
    // A thread with the filter could not even say why it failed.
    let wrong = (0..times).filter(|_| !call()).count() as u64;
    // A look for what the director says, once in a millisecond; room for a second one.
    let looks = 2 * (begun.elapsed().as_millis() as u64 + 1);
    counts.push(Count {
        name,
        times,
        wrong,
        made: COUNTED.load(SeqCst) - before,
        most: times * rings + looks,
    });
}

/// All functions that are not marked, of a client and a worker that have a call open.
fn all(client: *mut trine_client, worker: *mut trine_worker, open: (trine_ticket, trine_request)) -> Counts {
    let mut counts = Counts::with_capacity(64);
    let (echo, mut reply) = (route(client, c"echo"), trine_reply::sized());
    let (mut request, mut key) = (trine_incoming::sized(), trine_key::default());
    let (mut ticket, mut loan, mut count) = (0, null_mut(), 0);
    let test = c"test".as_ptr();
    for is_warm in [false, true] {
        if is_warm {
            filter_this_thread();
        }
        counts.clear();
        macro_rules! quiet {
            ($name:ident($($argument:expr),*), $expected:pat) => {
                counted(&mut counts, stringify!($name), TIMES, 0, || {
                    // SAFETY: as the header says.
                    let status = unsafe { $name($($argument),*) };
                    matches!(status, $expected)
                });
            };
        }
        quiet!(trine_poll(client, open.0, &raw mut reply), TRINE_WOULD_BLOCK);
        quiet!(trine_poll(client, TRINE_ANY, &raw mut reply), TRINE_WOULD_BLOCK);
        quiet!(trine_wait(client, open.0, 0, &raw mut reply), TRINE_WOULD_BLOCK);
        quiet!(trine_cancel(client, 4711), TRINE_EINVAL);
        quiet!(trine_reply_free(client, &raw mut reply), TRINE_OK);
        quiet!(trine_loan_free(client, null_mut()), TRINE_OK);
        quiet!(trine_client_fd(client), 0..);
        quiet!(trine_next(worker, 0, &raw mut request), TRINE_WOULD_BLOCK);
        quiet!(trine_is_cancelled(worker, open.1), 0);
        quiet!(trine_request_keys(worker, open.1, &raw mut key, 1, &raw mut count), TRINE_OK);
        quiet!(trine_holds(worker, test, null_mut(), 0, &raw mut count), TRINE_OK);
        quiet!(trine_on_event(worker, None, null_mut()), TRINE_OK);
        quiet!(trine_worker_id(worker), 1..);
        quiet!(trine_worker_fd(worker), 0..);
        quiet!(trine_answer(worker, 4711, null(), 0), TRINE_EINVAL);
        quiet!(trine_fail(worker, 4711, 0, null()), TRINE_EINVAL);
        counted(&mut counts, "trine_error", TIMES, 0, || {
            // SAFETY: as the header says.
            !unsafe { trine_error(worker.cast()) }.is_null()
        });
        counted(&mut counts, "trine_loan", TIMES, 0, || {
            // SAFETY: as the header says.
            unsafe {
                trine_loan(client, echo, 5000, 0, &raw mut loan) == TRINE_OK
                    && trine_loan_free(client, loan) == TRINE_OK
            }
        });
        // What asks the kernel is counted.
        counted(&mut counts, CONTROL, TIMES, 0, || {
            // SAFETY: has no conditions.
            unsafe { libc::getpid() != 0 }
        });
        // Sending rings the director, and so does giving up.
        counted(&mut counts, "trine_submit", RINGS, 2, || {
            // SAFETY: as the header says.
            unsafe {
                match trine_submit(client, echo, null(), 0, null(), 0, &raw mut ticket) {
                    TRINE_OK => trine_cancel(client, ticket) == TRINE_OK,
                    // Nobody was rung, so slots stay taken.
                    status => matches!(status, TRINE_WOULD_BLOCK | TRINE_BUSY),
                }
            }
        });
        if !is_warm {
            // What was sent and given up comes, or not: until it all has.
            // SAFETY: as the header says.
            while unsafe { trine_next(worker, 200_000_000, &raw mut request) } == TRINE_OK {
                // SAFETY: as the header says.
                assert_eq!(unsafe { trine_answer(worker, request.request, null(), 0) }, TRINE_OK);
            }
        }
    }
    counts
}

#[test]
fn what_is_not_marked_makes_no_system_call() {
    let (tell, told) = mpsc::sync_channel(1);
    let here = Here::new();
    let handles = (Sent(here.client()), Sent(here.worker(&[c"echo"])));
    thread::spawn(move || {
        let (client, worker) = (handles.0.get(), handles.1.get());
        let (mut ticket, mut request) = (0, trine_incoming::sized());
        let echo = route(client, c"echo");
        // SAFETY: as the header says.
        unsafe {
            let args = trine_call_args { deadline_ns: 1 << 50, ..trine_call_args::sized() };
            assert_eq!(trine_submit(client, echo, null(), 0, &raw const args, 0, &raw mut ticket), TRINE_OK);
            assert_eq!(trine_next(worker, TRINE_FOREVER, &raw mut request), TRINE_OK);
        }
        tell.send(()).unwrap();
        let counts = all(client, worker, (ticket, request.request));
        // A director that is stopped waits for what was begun.
        // SAFETY: as the header says.
        unsafe { trine_answer(worker, request.request, null(), 0) };
        // Nobody waits for it, so it needs no system call.
        *COUNTS.lock().unwrap() = counts;
        DONE.store(true, SeqCst);
        loop {
            // SAFETY: waits for a signal, until the process ends: with its filter, the thread can't end by itself.
            unsafe { libc::pause() };
        }
    });
    told.recv().unwrap();
    let begun = Instant::now();
    while !DONE.load(SeqCst) {
        assert!(begun.elapsed().as_secs() < 60, "the thread with the filter failed, or waits");
        thread::sleep(Duration::from_millis(10));
    }
    let counts = COUNTS.lock().unwrap();
    for Count { name, times, wrong, made, most } in &*counts {
        eprintln!("{name}: {made} system calls in {times} calls; {most} at most");
        assert_eq!(*wrong, 0, "{name}");
        assert!(if *name == CONTROL { made == times } else { made <= most }, "{name}");
    }
    assert!(counts.len() > 18, "{}", counts.len());
}
