//! What the processes do that tests start.

use std::fmt::Display;
use std::io::BufRead;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use trine::{
    Bus, Client, ClientOptions, Director, DirectorOptions, Error, Kept, Request, ServiceOptions, Stopper,
    Unheld, Until, Worker, WorkerOptions,
};

use crate::support::{MARK, bytes, mix};

/// Whether calls of `gate` and `keep` are let go.
static OPEN: AtomicBool = AtomicBool::new(false);
/// Calls of `count` that were run.
static COUNT: AtomicU64 = AtomicU64::new(0);

fn tell(what: impl Display) {
    println!("{MARK}{what}");
}

fn argument<T: FromStr>(key: &str, or: T) -> T {
    let value = std::env::var(format!("TRINE_TEST_{}", key.to_uppercase())).ok();
    value.and_then(|value| value.parse().ok()).unwrap_or(or)
}

fn bus() -> Bus {
    let bus = Bus::at(argument("bus", String::new()));
    match argument("trust", 0) {
        0 => bus,
        uid => bus.trusting(uid),
    }
}

pub fn play(role: &str) {
    // Whatever becomes of the test, nothing of it stays.
    let _ = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
    become_user(argument("as", 0));
    match role {
        "director" => director(),
        "worker" => workers(),
        "caller" => caller(),
        "holder" => holder(),
        "visitors" => visitors(),
        "crowd" => crowd(),
        "pretender" => pretender(),
        "asker" => asker(),
        "clogger" => clogger(),
        "monitor" => monitor(),
        other => panic!("no role {other:?}"),
    }
}

/// Does what it is told, line by line.
fn listen(mut each: impl FnMut(&str) + Send + 'static) {
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            each(&line);
        }
    });
}

fn director() {
    let mut options = DirectorOptions::default()
        .share_max(argument("share_max", 128))
        .waiting_per_route(argument("waiting_per_route", 4096))
        .stall(Duration::from_millis(argument("stall_ms", 30_000)))
        .window(Duration::from_millis(argument("window_ms", 5_000)));
    if let limit @ 1.. = argument("descriptors", 0) {
        // And no quota, so that it is the kernel that says no.
        nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, limit, limit)
            .expect("a lower limit");
        let descriptors = trine::Quota { pool: u64::MAX, process: u64::MAX };
        options = options.quotas(trine::Quotas { descriptors, ..trine::Quotas::default() });
    }
    let policy = argument("policy", String::new());
    if !policy.is_empty() {
        options =
            options.policy(move || trine_policy::read(policy.as_ref()).map_err(|error| error.to_string()));
    }
    let made = if argument("replace", 0) == 1 { Director::replace } else { Director::new };
    let director = match made(&bus(), options) {
        Ok(director) => director,
        Err(error) => return tell(format!("error {error}")),
    };
    let (stopper, reloader) = (director.stopper(), director.reloader());
    listen(move |word| match word {
        "reload" => reloader.reload(),
        "stop" => stopper.stop(),
        other => panic!("a director can't {other:?}"),
    });
    tell("ready");
    match director.run() {
        Ok(()) => tell("stopped"),
        Err(error) => tell(format!("error {error}")),
    }
}

/// A process with one worker a thread.
fn workers() {
    let count = argument("workers", 1);
    let attached: Result<Vec<Worker>, Error> = (0..count).map(|_| worker()).collect();
    let workers = match attached {
        Ok(workers) => workers,
        Err(error) => return tell(format!("error {error}")),
    };
    let stoppers: Vec<Stopper> = workers.iter().map(Worker::stopper).collect();
    listen(move |word| match word {
        "stop" => stoppers.iter().for_each(Stopper::stop),
        "open" => OPEN.store(true, Ordering::Release),
        "close" => OPEN.store(false, Ordering::Release),
        "count" => tell(format!("count {}", COUNT.load(Ordering::Relaxed))),
        "hang up" => hang_up(),
        other => panic!("a worker can't {other:?}"),
    });
    let ids: Vec<String> = workers.iter().map(|w| w.id().to_string()).collect();
    tell(format!("ready {}", ids.join(" ")));
    std::thread::scope(|scope| {
        for worker in workers {
            scope.spawn(move || serve(&worker));
        }
    });
    tell("stopped");
}

/// Ends this process's connections, as if the kernel had lost them.
fn hang_up() {
    use nix::sys::socket::{Shutdown, getsockopt, shutdown, sockopt::SockType};
    for fd in 3..256 {
        // SAFETY: whatever it is, it is only asked what it is; a socket that another thread closes meanwhile is none.
        let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
        if getsockopt(&borrowed, SockType).is_ok() {
            let _ = shutdown(fd, Shutdown::Both);
        }
    }
}

const OPERATIONS: [&str; 17] = [
    "mix", "echo", "sleep", "gate", "keep", "late", "stuck", "fill", "fail", "panic", "drop", "forget",
    "count", "who", "watch", "die", "slow",
];

fn worker() -> Result<Worker, Error> {
    let worker = bus().worker(WorkerOptions::default().slots(argument("slots", 256)))?;
    let service = argument("service", "work".to_owned());
    let idempotent = argument("idempotent", String::new());
    let options = ServiceOptions::default().idempotent(idempotent.split_whitespace());
    match argument("holds", 0u64) {
        0 => _ = worker.provide_with(&service, &OPERATIONS, options)?,
        key => {
            worker.provide_with(&service, &OPERATIONS, options.exclusive(Unheld::Error))?;
            worker.acquire(&service, key)?;
        }
    }
    Ok(worker)
}

fn serve(worker: &Worker) {
    let mut kept: Vec<(Instant, Kept)> = Vec::new();
    loop {
        let pause = if kept.is_empty() { Duration::from_secs(1) } else { Duration::from_millis(1) };
        let request = match worker.next(Until::after(pause)) {
            Ok(request) => request,
            Err(Error::Interrupted) => return,
            Err(error) => return tell(format!("error {error}")),
        };
        if let Some(request) = request {
            // A panic is the handler's own matter, as in `Worker::serve`.
            let handled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| handle(request)));
            kept.extend(handled.ok().flatten());
        }
        let (open, now) = (OPEN.load(Ordering::Acquire), Instant::now());
        for (_, request) in kept.extract_if(.., |(due, _)| open || *due <= now) {
            let bytes = request.bytes().to_vec();
            let _ = request.reply(&mix(&bytes));
        }
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |&first| u64::from_le_bytes(first))
}

/// Answers, or returns what is to be answered once its time has come.
fn handle(request: Request<'_>) -> Option<(Instant, Kept<'_>)> {
    let payload = request.bytes().to_vec();
    let far = Instant::now() + Duration::from_secs(3600);
    let operation = OPERATIONS.iter().find(|o| request.is(o)).copied().unwrap_or("");
    let _ = match operation {
        "mix" => request.reply(&mix(&payload)),
        "echo" => request.reply(&payload),
        // Holds its worker up for so many µs.
        "sleep" => {
            std::thread::sleep(Duration::from_micros(number(&payload)));
            request.reply(&mix(&payload))
        }
        // The same, but it counts.
        "slow" => {
            COUNT.fetch_add(1, Ordering::Relaxed);
            tell("begun");
            std::thread::sleep(Duration::from_micros(number(&payload)));
            request.reply(&mix(&payload))
        }
        // Holds its worker up until it is let go.
        "gate" => {
            tell("begun");
            while !OPEN.load(Ordering::Acquire) {
                std::thread::sleep(Duration::from_millis(1));
            }
            request.reply(&mix(&payload))
        }
        // Is kept until it is let go, while its worker goes on.
        "keep" => return Some((far, request)),
        // Is kept for so many µs.
        "late" => return Some((Instant::now() + Duration::from_micros(number(&payload)), request)),
        "stuck" => {
            tell("begun");
            loop {
                std::thread::park();
            }
        }
        // As many bytes as are asked for, written in place.
        "fill" => {
            let len = number(&payload) as usize;
            request.reply_with(len, |_, place| place.write_at(0, &bytes(len as u64, len)))
        }
        "fail" => request.fail(number(&payload) as u32, &"é".repeat(2000)),
        "panic" => panic!("as it was asked to"),
        "drop" => {
            drop(request);
            return None;
        }
        "forget" => {
            std::mem::forget(request);
            tell("forgotten");
            return None;
        }
        "count" => {
            COUNT.fetch_add(1, Ordering::Relaxed);
            request.reply(&[])
        }
        "who" => {
            let who = request.caller();
            request.reply(format!("{} {} {}", who.uid, who.gid, who.pid).as_bytes())
        }
        // Says when its caller has given it up.
        "watch" => {
            tell("begun");
            while !request.is_cancelled() {
                std::thread::sleep(Duration::from_millis(1));
            }
            tell("cancelled");
            request.reply(&[])
        }
        "die" => std::process::abort(),
        _ => request.fail(1, "no such operation"),
    };
    None
}

fn client(options: ClientOptions) -> Option<Client> {
    match bus().client(options) {
        Ok(client) => Some(client),
        Err(error) => {
            tell(format!("error {error}"));
            None
        }
    }
}

/// Calls so often, with so many calls in flight, and checks every byte of every reply.
fn caller() {
    let (calls, window, len) =
        (argument("calls", 1u64), argument("window", 64usize), argument("len", 16usize));
    let Some(client) = client(ClientOptions::default()) else { return };
    let route = match client.route("work", "mix") {
        Ok(route) => route,
        Err(error) => return tell(format!("error {error}")),
    };
    tell("ready");
    let began = Instant::now();
    let mut open = std::collections::VecDeque::with_capacity(window);
    let (mut right, mut wrong) = (0u64, 0u64);
    let request = |n: u64| {
        let mut request = bytes(n ^ 0x7472_696e_6500_0000, len);
        let stamp = n.to_le_bytes();
        let count = len.min(8);
        request[..count].copy_from_slice(&stamp[..count]);
        request
    };
    for n in 0..calls + window as u64 {
        if n >= window as u64
            && let Some((sent, pending)) = open.pop_front()
        {
            let pending: trine::Pending = pending;
            match pending.wait() {
                Ok(reply) if reply.bytes().to_vec() == mix(&request(sent)) => right += 1,
                other => {
                    wrong += 1;
                    tell(format!("wrong {sent} {:?}", other.map(|r| r.bytes().to_vec())));
                }
            }
        }
        if n < calls {
            match client.request(route).reply_capacity(len).submit(&request(n), Until::Forever) {
                Ok(pending) => open.push_back((n, pending)),
                Err(error) => {
                    wrong += 1;
                    tell(format!("wrong {n} {error}"));
                }
            }
        }
    }
    tell(format!("done {right} {wrong} {}", began.elapsed().as_millis()));
}

/// Has calls in flight, and waits for them, until it is killed.
fn holder() {
    let (calls, operation) = (argument("calls", 1), argument("operation", "stuck".to_owned()));
    let Some(client) = client(ClientOptions::default()) else { return };
    let route = match client.route("work", &operation) {
        Ok(route) => route,
        Err(error) => return tell(format!("error {error}")),
    };
    let deadline = Instant::now() + Duration::from_secs(3600);
    let open: Vec<_> = (0..calls)
        .map(|_| {
            client.request(route).deadline(deadline).submit(b"held", Until::Forever).expect("a free slot")
        })
        .collect();
    tell("ready");
    for pending in open {
        tell(format!("ended {:?}", pending.wait().map(|r| r.bytes().len()).map_err(|e| e.status())));
    }
    std::thread::park();
}

/// Many clients, each with a call open, until they are killed.
fn crowd() {
    let options = ClientOptions::default().slots(4).arenas(1 << 16, 1 << 16);
    let clients: Vec<Client> = (0..argument("sessions", 1)).filter_map(|_| client(options)).collect();
    for client in &clients {
        let route = client.route("work", "late").expect("a route");
        let _ = client.request(route).submit(&20_000u64.to_le_bytes(), Until::Now).expect("a slot").detach();
    }
    tell("ready");
    std::thread::park();
}

/// Clients that come, call, and go.
fn visitors() {
    for n in 0..argument("calls", 1u64) {
        let Some(client) = client(ClientOptions::default()) else { return };
        let route = client.route("work", "mix").expect("a route");
        let request = bytes(n, 200);
        assert_eq!(client.call(route, &request).expect("a reply").bytes().to_vec(), mix(&request));
    }
    tell("done");
}

/// Goes on as another user, of no groups: which only root can.
fn become_user(uid: u32) {
    use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};
    if uid != 0 {
        setgroups(&[]).expect("root may leave its groups");
        setgid(Gid::from_raw(uid)).expect("root may be of any group");
        setuid(Uid::from_raw(uid)).expect("root may be anybody");
        // Leaving a user behind takes that back.
        let _ = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
    }
}

/// Provides a service of its own, and tries to provide another's.
fn pretender() {
    let worker = match bus().worker(WorkerOptions::default()) {
        Ok(worker) => worker,
        Err(error) => return tell(format!("error {}", error.status())),
    };
    let stopper = worker.stopper();
    listen(move |word| match word {
        "stop" => stopper.stop(),
        "clog" => clog(),
        other => panic!("a pretender can't {other:?}"),
    });
    let tried = |service: &str| match worker.provide(service, &OPERATIONS) {
        Ok(_) => "OK".to_owned(),
        Err(error) => error.status().to_string(),
    };
    let (own, anothers) = (tried("other"), tried("work"));
    tell(format!("ready {} {own} {anothers}", worker.id()));
    serve(&worker);
    tell("stopped");
}

/// Tries to connect, to open a route, and to call.
fn asker() {
    let (service, operation) =
        (argument("service", "work".to_owned()), argument("operation", "mix".to_owned()));
    let asked = bus().client(ClientOptions::default()).and_then(|client| {
        let route = client.route(&service, &operation)?;
        let called = client.call(route, b"hello").map(|reply| reply.bytes().to_vec());
        tell(format!("call {}", called.as_ref().map_or_else(|e| e.status().to_string(), |_| "OK".into())));
        Ok(())
    });
    match asked {
        Ok(()) => tell("asked OK"),
        Err(error) => tell(format!("asked {} {error}", error.status())),
    }
}

/// Makes every doorbell that this process has a descriptor of block, and fills it.
fn clog() {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    use nix::sys::socket::{MsgFlags, SockType, getsockopt, send, sockopt};
    use std::os::fd::{AsRawFd, BorrowedFd};
    let mut clogged = 0;
    for entry in std::fs::read_dir("/proc/self/fd").expect("its descriptors").flatten() {
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let kind = std::fs::read_link(entry.path()).unwrap_or_default();
        // SAFETY: it was open when the folder was read, and is used at once; at worst the kernel says that it is not.
        #[allow(unsafe_code)]
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        if kind.as_os_str() == "anon_inode:[eventfd]" {
            let _ = nix::unistd::write(fd, &(u64::MAX - 1).to_ne_bytes());
            let _ = fcntl(fd, FcntlArg::F_SETFL(OFlag::empty()));
            clogged += 1;
        } else if getsockopt(&fd, sockopt::SockType) == Ok(SockType::Datagram) {
            let _ = fcntl(fd, FcntlArg::F_SETFL(OFlag::empty()));
            while send(fd.as_raw_fd(), &[1], MsgFlags::MSG_DONTWAIT).is_ok() {}
            clogged += 1;
        }
    }
    tell(format!("clogged {clogged}"));
}

/// A client that clogs its doorbells, and then calls without ever looking for a reply.
fn clogger() {
    let Some(client) = client(ClientOptions::default()) else { return };
    let route = client.route("work", "mix").expect("a route");
    assert_eq!(client.call(route, b"first").expect("a reply").bytes().to_vec(), mix(b"first"));
    clog();
    let _open: Vec<_> = (0..32).map(|_| client.request(route).submit(b"clogged", Until::Now)).collect();
    std::thread::park();
}

/// Tries to look at the bus, and to manage it.
fn monitor() {
    let bus = bus();
    let asker = trine::access::Asker::default();
    let said = [bus.inspect().map(drop), bus.reload(), bus.explain(asker, "work", "mix", None).map(drop)];
    let said: Vec<String> =
        said.map(|said| said.map_or_else(|e| e.status().to_string(), |()| "OK".into())).into();
    tell(format!("monitor {}", said.join(" ")));
}
