//! While all are awake, a call allocates nothing and asks the kernel for nothing but to yield.
//!
//! Client, director and worker run as threads here. The allocator counts. System calls are counted by a seccomp filter
//! that each of the three puts on itself once all is warm: it lets `sched_yield` pass, and turns all else into a
//! signal, whose handler counts it and answers EAGAIN. What is left are looks that go by the clock, not by calls: of
//! the director into its epoll (every 20 µs), and of all three for their control sockets (every millisecond).
//!
//! Where others burn the CPUs, one may be away for so long that the director takes its session for an idle one, and has
//! to be rung when it is back. That is not what is counted here: such a run is made again, in a new process. If each call
//! rang somebody, no run would count.

#[cfg(target_arch = "x86_64")]
mod seccomp;

#[cfg(target_arch = "x86_64")]
fn main() {
    counted::run();
}

#[cfg(not(target_arch = "x86_64"))]
fn main() {
    println!("counted on x86-64 only");
}

#[cfg(target_arch = "x86_64")]
mod counted {
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::cell::Cell;
    use std::os::unix::thread::JoinHandleExt;
    use std::process::Command;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
    use std::thread;
    use std::time::{Duration, Instant};

    use nix::libc;
    use trine::{
        Bus, Client, ClientOptions, Director, DirectorOptions, Route, Until, Waiting, WorkerOptions,
    };

    use crate::seccomp;

    /// Payloads: in a record's head, in its second half, and in the arenas.
    const SIZES: [usize; 3] = [8, 64, 4000];
    /// Calls of each.
    const CALLS: u64 = 500;
    /// Runs that are made, until in one of them all stayed awake.
    const RUNS: u32 = 20;
    /// The exit status of a run in which somebody had to be rung.
    const NOT_AWAKE: i32 = 75;
    /// Tells the process that it is such a run.
    const ONE_RUN: &str = "TRINE_AWAKE_ONE_RUN";

    /// No call has ended for so long: somebody waits to be rung.
    const STUCK: Duration = Duration::from_secs(3);

    struct Counting;

    static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
    thread_local! {
        /// Whether this is one of the three: not the director's other thread, which does what comes up beside calls.
        static IS_COUNTED: Cell<bool> = const { Cell::new(false) };
    }

    // SAFETY: the system's allocator does everything; a count is kept beside it.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            ALLOCATIONS.fetch_add(u64::from(IS_COUNTED.get()), SeqCst);
            // SAFETY: the caller's promises are those that the system's allocator wants.
            unsafe { System.alloc(layout) }
        }
        unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
            // SAFETY: as above; the block is the system's.
            unsafe { System.dealloc(block, layout) }
        }
    }

    #[global_allocator]
    static ALLOCATOR: Counting = Counting;

    /// System calls by number, and how many threads count theirs.
    static ASKED: [AtomicU64; 512] = [const { AtomicU64::new(0) }; 512];
    static FILTERED: AtomicU32 = AtomicU32::new(0);

    /// The number of the system call that a SIGSYS tells of: behind the address of the call.
    const SI_SYSCALL: usize = 24;

    extern "C" fn counted(_: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        // SAFETY: the kernel's own structure, of a SIGSYS, which this handler is installed for alone.
        let number = unsafe { info.cast::<u8>().add(SI_SYSCALL).cast::<i32>().read() };
        ASKED[number as usize % ASKED.len()].fetch_add(1, SeqCst);
        seccomp::answer_again(context);
    }

    /// Puts the filter on the thread that gets the signal, and has its allocations counted.
    extern "C" fn filter_this_thread(_: i32) {
        let filtered = seccomp::filter_this_thread(libc::SYS_sched_yield);
        IS_COUNTED.set(true);
        FILTERED.fetch_add(if filtered { 1 } else { 1000 }, SeqCst);
    }

    fn handle_signals() {
        seccomp::handle(counted);
        // SAFETY: zeros are a sigaction; the handler does only what is allowed in one.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = filter_this_thread as *const () as usize;
            assert_eq!(libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()), 0);
        }
    }

    /// What the client has done; and what it was told to do.
    #[derive(Default)]
    struct Progress {
        warm: AtomicU32,
        begin: AtomicU32,
        allocations: AtomicU64,
        /// Calls that have ended.
        ended: AtomicU64,
        done: AtomicU32,
    }

    fn calls(client: &Client, route: Route, size: usize, count: u64, progress: &Progress) {
        let (request, mut answer) = ([7; 4096], [0; 4096]);
        for _ in 0..count {
            let reply = client.request(route).submit(&request[..size], Until::Forever).and_then(|p| p.wait());
            let reply = reply.expect("a reply");
            assert_eq!(reply.bytes().read_at(0, &mut answer), size);
            assert!(answer[..size].iter().all(|&byte| byte == 7));
            progress.ended.fetch_add(1, SeqCst);
        }
    }

    fn client(bus: &Bus, progress: &Progress) {
        let client = bus.client(ClientOptions::default().waiting(Waiting::Yield)).expect("a client");
        let route = client.route("echo", "echo").expect("a route");
        SIZES.iter().for_each(|&size| calls(&client, route, size, 100, progress));
        progress.warm.store(1, SeqCst);
        while progress.begin.load(SeqCst) == 0 {
            calls(&client, route, 8, 1, progress);
        }
        let before = ALLOCATIONS.load(SeqCst);
        SIZES.iter().for_each(|&size| calls(&client, route, size, CALLS, progress));
        progress.allocations.store(ALLOCATIONS.load(SeqCst) - before, SeqCst);
        progress.done.store(1, SeqCst);
        loop {
            thread::yield_now(); // to end takes system calls
        }
    }

    fn worker(bus: &Bus) {
        let worker = bus.worker(WorkerOptions::default().waiting(Waiting::Yield)).expect("a worker");
        worker.provide("echo", &["echo"]).expect("provided");
        let mut scratch = [0; 4096];
        let served = worker.serve(|request| {
            let len = request.bytes().read_at(0, &mut scratch);
            request.reply(&scratch[..len])
        });
        unreachable!("nobody stops it: {served:?}");
    }

    /// Waits for it. If somebody had to be rung, that ends the process: the ring, or the look for it, is kept from him, so
    /// that no call ends any more.
    fn eventually(progress: &Progress, holds: impl Fn() -> bool) {
        let (mut ended, mut since) = (0, Instant::now());
        while !holds() {
            let now_ended = progress.ended.load(SeqCst);
            if now_ended != ended {
                (ended, since) = (now_ended, Instant::now());
            }
            let has_rung = ASKED[libc::SYS_write as usize].load(SeqCst) > 0;
            if has_rung || since.elapsed() > STUCK {
                std::process::exit(NOT_AWAKE);
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn run() {
        if std::env::var_os(ONE_RUN).is_some() {
            return run_once();
        }
        let this = std::env::current_exe().expect("this program");
        let counts = (0..RUNS).any(|_| {
            let status = Command::new(&this).env(ONE_RUN, "").status().expect("a run");
            assert!(status.success() || status.code() == Some(NOT_AWAKE), "{status}");
            status.success()
        });
        assert!(counts, "in each of {RUNS} runs somebody had to be rung, or a call never ended");
    }

    fn run_once() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let bus = Bus::at(folder.path());
        handle_signals();
        let director = Director::new(&bus, DirectorOptions::default().waiting(Waiting::Yield));
        let director = director.expect("a director");
        let progress = Arc::new(Progress::default());
        let director = thread::spawn(move || director.run());
        let worker = thread::spawn({
            let bus = bus.clone();
            move || worker(&bus)
        });
        eventually(&progress, || {
            bus.inspect().is_ok_and(|i| i.services.iter().any(|s| s.name == "echo" && !s.workers.is_empty()))
        });
        let client = thread::spawn({
            let (bus, progress) = (bus.clone(), progress.clone());
            move || client(&bus, &progress)
        });
        eventually(&progress, || progress.warm.load(SeqCst) == 1 || client.is_finished());
        for thread in [director.as_pthread_t(), worker.as_pthread_t(), client.as_pthread_t()] {
            // SAFETY: the thread has not been joined.
            assert_eq!(unsafe { libc::pthread_kill(thread, libc::SIGUSR1) }, 0);
        }
        eventually(&progress, || FILTERED.load(SeqCst) >= 3);
        assert_eq!(FILTERED.load(SeqCst), 3, "the filter could not be installed");
        let (before, start) = (snapshot(), Instant::now());
        progress.begin.store(1, SeqCst);
        eventually(&progress, || progress.done.load(SeqCst) == 1);
        let (asked, elapsed_us) = (snapshot(), start.elapsed().as_micros() as u64 + 1);
        assert_eq!(progress.allocations.load(SeqCst), 0, "allocations in {} calls", CALLS * 3);
        // The last is a step aside, out of a slow order of yielders.
        let clocked =
            [(libc::SYS_epoll_wait, 20), (libc::SYS_recvmsg, 300), (libc::SYS_clock_nanosleep, 1_000)];
        for number in 0..ASKED.len() {
            let count = asked[number] - before[number];
            let clock = clocked.iter().find(|(clocked, _)| *clocked == number as i64);
            let most = clock.map_or(0, |(_, each_us)| elapsed_us / each_us + 2);
            assert!(count <= most, "system call {number}: {count} times in {} calls", CALLS * 3);
        }
        println!("{} calls: no allocation, and no system call but by the clock", CALLS * 3);
        // The threads can't end in good order any more.
        drop(folder);
        std::process::exit(0);
    }

    fn snapshot() -> Vec<u64> {
        ASKED.iter().map(|count| count.load(SeqCst)).collect()
    }
}
