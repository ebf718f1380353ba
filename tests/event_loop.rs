//! Handles in somebody else's event loop, waits that signals end, and what outlives a borrow.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::pthread::{Pthread, pthread_kill, pthread_self};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use trine::{
    Armed, Bus, Client, ClientOptions, Director, DirectorHandle, DirectorOptions, Error, RequestId, Status,
    Until, Worker, WorkerOptions,
};

struct Here {
    _folder: tempfile::TempDir,
    bus: Bus,
    director: DirectorHandle,
}

fn here() -> Here {
    let folder = tempfile::tempdir().unwrap();
    let bus = Bus::at(folder.path());
    let director = Director::new(&bus, DirectorOptions::default()).unwrap().spawn().unwrap();
    Here { _folder: folder, bus, director }
}

/// Waits as an event loop does. Returns whether it was woken in time.
fn sleep_on(handle: &impl AsFd, most: Duration) -> bool {
    let mut fds = [PollFd::new(handle.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::try_from(most).unwrap()).unwrap() == 1
}

const LONG: Duration = Duration::from_secs(20);

/// The loop of the documentation: until `done` has what it looks for.
fn drain<T>(
    handle: &impl AsFd,
    arm: impl Fn() -> Armed,
    disarm: impl Fn(),
    mut done: impl FnMut() -> Option<T>,
) -> T {
    loop {
        if let Some(found) = done() {
            return found;
        }
        if arm() == Armed::Sleep {
            assert!(sleep_on(handle, LONG), "nobody rang");
            disarm();
        }
    }
}

fn next_ended(client: &Client) -> trine::Ticket {
    drain(
        client,
        || client.arm().unwrap(),
        || client.disarm().unwrap(),
        || client.wait_any(Until::Now).unwrap(),
    )
}

fn next_request(worker: &Worker) -> RequestId {
    drain(
        worker,
        || worker.arm().unwrap(),
        || worker.disarm().unwrap(),
        || worker.next(Until::Now).unwrap().map(|request| request.detach()),
    )
}

#[test]
fn both_ends_sleep_in_poll_and_miss_nothing() {
    let here = here();
    let worker = here.bus.worker(WorkerOptions::default()).unwrap();
    assert_eq!(worker.provide("text", &["echo"]).unwrap(), 0);
    let calls = 500;
    let serving = thread::spawn(move || {
        for _ in 0..calls {
            let request = worker.request(next_request(&worker)).unwrap();
            let bytes = request.bytes().to_vec();
            let _ = request.reply(&bytes);
        }
    });
    let client = here.bus.client(ClientOptions::default()).unwrap();
    let echo = client.route("text", "echo").unwrap();
    for i in 0..calls {
        let sent = client.request(echo).submit(format!("{i}").as_bytes(), Until::Forever).unwrap().detach();
        let ended = next_ended(&client);
        assert_eq!(sent, ended);
        let reply = client.pending(ended).unwrap().wait().unwrap();
        assert_eq!(reply.bytes().to_vec(), format!("{i}").into_bytes());
    }
    serving.join().unwrap();
}

#[test]
fn an_armed_client_wakes_for_a_deadline() {
    let here = here();
    let worker = here.bus.worker(WorkerOptions::default()).unwrap();
    worker.provide("text", &["echo"]).unwrap();
    let client = here.bus.client(ClientOptions::default()).unwrap();
    let echo = client.route("text", "echo").unwrap();
    let draft = client.request(echo).timeout(Duration::from_millis(30));
    let ticket = draft.submit(b"", Until::Forever).unwrap().detach();
    // Begun, and never answered: nobody rings.
    let _open = next_request(&worker);
    assert_eq!(next_ended(&client), ticket);
    let error = client.pending(ticket).unwrap().wait().err().unwrap();
    assert_eq!(error.status(), Status::DeadlineExceeded);
}

#[test]
fn an_armed_client_wakes_when_its_director_goes() {
    let here = here();
    let worker = here.bus.worker(WorkerOptions::default()).unwrap();
    worker.provide("text", &["echo"]).unwrap();
    let options = ClientOptions::default().director_gone(Duration::from_millis(50));
    let client = here.bus.client(options).unwrap();
    let echo = client.route("text", "echo").unwrap();
    let ticket = client.request(echo).submit(b"", Until::Forever).unwrap().detach();
    let open = next_request(&worker);
    let stopping = thread::spawn(move || here.director.stop().unwrap());
    assert_eq!(next_ended(&client), ticket);
    let error = client.pending(ticket).unwrap().wait().err().unwrap();
    assert_eq!((error.status(), error.may_have_run()), (Status::DirectorGone, true));
    stopping.join().unwrap();
    assert!(worker.request(open).is_some());
}

#[test]
fn without_a_director_signals_end_waits_and_armed_handles_find_the_next_one() {
    let here = here();
    let worker = here.bus.worker(WorkerOptions::default()).unwrap();
    worker.provide("text", &["echo"]).unwrap();
    let client = here.bus.client(ClientOptions::default().interruptible(true)).unwrap();
    let echo = client.route("text", "echo").unwrap();
    here.director.stop().unwrap();
    // Else the call would be sent, and wait for whoever comes.
    client.disarm().unwrap();
    let error =
        signalled(|| client.request(echo).submit(b"1", Until::Forever).map(|p| p.detach())).unwrap_err();
    assert_eq!((error.status(), error.may_have_run()), (Status::Interrupted, false));
    let error = client.request(echo).submit(b"1", Until::Now).map(|p| p.detach()).unwrap_err();
    assert_eq!(error.status(), Status::WouldBlock);
    let serving = thread::spawn(move || {
        let id = next_request(&worker);
        let _ = worker.request(id).unwrap().reply(b"2");
    });
    let _next = Director::new(&here.bus, DirectorOptions::default()).unwrap().spawn().unwrap();
    let ticket = client.request(echo).submit(b"1", Until::Forever).unwrap().detach();
    assert_eq!(next_ended(&client), ticket);
    assert_eq!(client.pending(ticket).unwrap().wait().unwrap().bytes().to_vec(), b"2");
    serving.join().unwrap();
}

#[test]
fn a_worker_that_was_told_something_meanwhile_does_not_sleep() {
    let here = here();
    let worker = here.bus.worker(WorkerOptions::default()).unwrap();
    worker.provide("text", &["echo"]).unwrap();
    let client = here.bus.client(ClientOptions::default()).unwrap();
    let echo = client.route("text", "echo").unwrap();
    let pending = client.request(echo).submit(b"kept", Until::Forever).unwrap();
    let kept = next_request(&worker);
    // The director's word to drain is read by whoever asked for it, and not off the descriptor.
    worker.drain().unwrap();
    assert_eq!(worker.arm().unwrap(), Armed::Ready);
    assert!(worker.next(Until::Now).unwrap().is_none(), "one is not answered yet");
    assert_eq!(worker.arm().unwrap(), Armed::Sleep);
    worker.disarm().unwrap();
    let _ = worker.request(kept).unwrap().reply(b"done");
    assert_eq!(worker.arm().unwrap(), Armed::Ready);
    assert!(matches!(worker.next(Until::Now), Err(Error::Drained)));
    assert_eq!(worker.arm().unwrap(), Armed::Ready);
    assert_eq!(pending.wait().unwrap().bytes().to_vec(), b"done");
}

#[test]
fn an_armed_handle_with_nothing_to_do_stays_asleep() {
    let here = here();
    let worker = here.bus.worker(WorkerOptions::default()).unwrap();
    let client = here.bus.client(ClientOptions::default()).unwrap();
    assert_eq!(client.arm().unwrap(), Armed::Sleep);
    assert!(!sleep_on(&client, Duration::from_millis(20)));
    while worker.arm().unwrap() == Armed::Ready {
        assert!(worker.next(Until::Now).unwrap().is_none());
    }
    assert!(!sleep_on(&worker, Duration::from_millis(20)));
    let stopper = worker.stopper();
    stopper.wake();
    assert!(sleep_on(&worker, LONG));
    worker.disarm().unwrap();
    assert_eq!(worker.arm().unwrap(), Armed::Ready);
    assert!(matches!(worker.next(Until::Now), Err(Error::Interrupted)));
    assert!(worker.next(Until::Now).unwrap().is_none(), "woken once");
}

/// Sends this thread signals until what it does is over.
fn signalled<T>(wait: impl FnOnce() -> T) -> T {
    extern "C" fn ignore(_: i32) {}
    let action = SigAction::new(SigHandler::Handler(ignore), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing, which is safe at any moment.
    unsafe { sigaction(Signal::SIGUSR1, &action) }.unwrap();
    let (waiter, over): (Pthread, AtomicBool) = (pthread_self(), AtomicBool::new(false));
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
fn a_signal_ends_a_wait_of_who_asked_for_that() {
    let here = here();
    let worker = here.bus.worker(WorkerOptions::default().interruptible(true)).unwrap();
    worker.provide("text", &["echo"]).unwrap();
    assert!(matches!(signalled(|| worker.next(Until::Forever).map(|_| ())), Err(Error::Interrupted)));

    let client = here.bus.client(ClientOptions::default().interruptible(true)).unwrap();
    let echo = client.route("text", "echo").unwrap();
    let ticket = client.request(echo).submit(b"1", Until::Forever).unwrap().detach();
    assert!(matches!(signalled(|| client.wait_any(Until::Forever)), Err(Error::Interrupted)));
    let mut pending = client.pending(ticket).unwrap();
    assert!(signalled(|| pending.wait_until(Until::Forever)).is_none());
    assert!(client.was_interrupted() && !client.was_interrupted());
    let ended = signalled(|| pending.wait()).err().unwrap();
    assert_eq!((ended.status(), ended.may_have_run()), (Status::Interrupted, true));
    assert!(client.pending(ticket).is_none(), "given up");
}

#[test]
fn a_signal_ends_no_other_wait() {
    let here = here();
    let worker = here.bus.worker(WorkerOptions::default()).unwrap();
    let until = Until::At(Instant::now() + Duration::from_millis(50));
    assert!(signalled(|| worker.next(until)).unwrap().is_none());
    let Until::At(at) = until else { unreachable!() };
    assert!(Instant::now() >= at);
}

#[test]
fn replies_loans_and_requests_outlive_their_borrow() {
    const LARGE: usize = 5000;
    let here = here();
    let worker = here.bus.worker(WorkerOptions::default()).unwrap();
    worker.provide("other", &["a", "b"]).unwrap();
    assert_eq!(worker.provide("image", &["first", "invert"]).unwrap(), 2);
    let options = ClientOptions::default().slots(1);
    let (client, stranger) = (here.bus.client(options).unwrap(), here.bus.client(options).unwrap());
    let invert = client.route("image", "invert").unwrap();
    let draft = client.request(invert).reply_capacity(LARGE);
    for round in 0..100u8 {
        let mut loan = draft.loan(LARGE, Until::Now).unwrap().detach().unwrap();
        loan.fill(round);
        let pending = draft.reattach(loan).unwrap().submit(Until::Now).unwrap();

        let id = next_request(&worker);
        let request = worker.request(id).unwrap();
        assert_eq!((request.number(), request.is("invert"), request.capacity()), (3, true, LARGE));
        assert!(request.deadline_ns().is_some());
        let len = if round % 2 == 0 { LARGE } else { 10 };
        let inverted: Vec<u8> = request.bytes().to_vec().iter().map(|b| !b).collect();
        request.buffer().unwrap().write_at(0, &inverted);
        let _ = request.reply_built(len);
        assert!(worker.request(id).is_none());

        let reply = pending.wait().unwrap().detach();
        assert_eq!(reply.bytes().to_vec(), vec![!round; len]);
        if len == LARGE {
            assert!(client.request(invert).submit(b"", Until::Now).is_err(), "its slot is in use");
        }
        drop(client.reattach(reply).unwrap());
    }
    let kept = draft.loan(LARGE, Until::Now).unwrap().detach().unwrap();
    let other = stranger.route("image", "invert").unwrap();
    assert!(stranger.request(other).reattach(kept).is_none());
}

/// When a thread ends its variables are dropped, the library's own among them: what was first used last comes first.
#[test]
fn a_handle_may_be_a_threads_own_and_goes_with_it() {
    thread_local! { static KEPT: std::cell::RefCell<Option<(Client, Worker)>> = const { std::cell::RefCell::new(None) }; }
    let here = here();
    let sessions = || here.bus.inspect().unwrap().sessions.len();
    thread::scope(|scope| {
        scope.spawn(|| {
            // It is there before anything of the library is used.
            KEPT.with_borrow_mut(|kept| assert!(kept.is_none()));
            let worker = here.bus.worker(WorkerOptions::default()).unwrap();
            worker.provide("text", &["echo"]).unwrap();
            let client = here.bus.client(ClientOptions::default()).unwrap();
            client.route("text", "echo").unwrap();
            assert_eq!(sessions(), 1);
            KEPT.set(Some((client, worker)));
        });
    });
    let deadline = Instant::now() + LONG;
    while sessions() > 0 || !here.bus.inspect().unwrap().workers.is_empty() {
        assert!(Instant::now() < deadline, "the handles were not dropped");
        thread::yield_now();
    }
    here.director.stop().unwrap();
}
