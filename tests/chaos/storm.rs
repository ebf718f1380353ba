//! The storm: what is killed, stopped and restarted, and when.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::books::{Tally, bus_id, imbalance, reconcile, segments_of};
use crate::log::{BANKS, CLIENTS, Log};
use crate::support::{Place, Random, Role};

const WORKERS: usize = 6;
/// A round of storm.
const ROUND: Duration = Duration::from_millis(4500);
/// How long everybody may take to come back when the storm rests. It is long: what bounds a call is its deadline, 30 s.
const PATIENCE: Duration = Duration::from_secs(120);
/// Directors that start after a killed one wait so long for the rest: less than some stops last.
const WINDOW_MS: u64 = 900;

/// One of the processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Director,
    Worker(usize),
    Client(usize),
}

struct Storm {
    place: Place,
    log: Log,
    path: PathBuf,
    /// The bank of the round's calls.
    bank: usize,
    random: Random,
    /// `None` while nobody is started in its place.
    director: Option<Role>,
    workers: Vec<Role>,
    clients: Vec<Role>,
    /// Who is stopped, and until when.
    stopped: Vec<(Instant, Who)>,
    /// Workers that were told to leave.
    leaving: Vec<Who>,
    /// When the next director is to come.
    director_at: Option<Instant>,
    tally: Tally,
}

/// Runs a storm for so long, and checks all that was done in it.
pub fn run(seed: u64, length: Duration) -> Tally {
    let place = Place::new();
    let path = place.path().join("log");
    let log = Log::create(&path);
    let mut storm = Storm {
        log,
        path,
        bank: 0,
        random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
        director: None,
        workers: Vec::new(),
        clients: Vec::new(),
        stopped: Vec::new(),
        leaving: Vec::new(),
        director_at: None,
        tally: Tally::default(),
        place,
    };
    storm.begin();
    let until = Instant::now() + length;
    while Instant::now() < until {
        storm.rage(until.min(Instant::now() + ROUND));
        storm.rest();
    }
    storm.end()
}

impl Storm {
    fn begin(&mut self) {
        self.director = Some(self.start(Who::Director));
        self.director.as_ref().expect("just started").hear("ready");
        self.workers = (0..WORKERS).map(|n| self.start(Who::Worker(n))).collect();
        self.clients = (0..CLIENTS).map(|n| self.start(Who::Client(n))).collect();
        self.rest_until_balanced();
    }

    fn start(&mut self, who: Who) -> Role {
        let (role, number) = match who {
            Who::Director => ("director", 0),
            Who::Worker(n) => ("worker", n),
            Who::Client(n) => ("client", n),
        };
        let launch = self.place.role(role).with("log", self.path.display()).with("number", number);
        let launch = launch.with("warnings", self.warnings().display());
        launch.with("seed", self.random.next()).with("window_ms", WINDOW_MS).start()
    }

    /// What every director has warned of: a file, so that what one saw before it was killed is known, too.
    fn warnings(&self) -> PathBuf {
        self.place.path().join("warnings")
    }

    fn role(&mut self, who: Who) -> Option<&mut Role> {
        match who {
            Who::Director => self.director.as_mut(),
            Who::Worker(n) => self.workers.get_mut(n),
            Who::Client(n) => self.clients.get_mut(n),
        }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random.next() % bound
    }

    fn count(&mut self, event: &'static str) {
        *self.tally.events.entry(event).or_default() += 1;
    }

    /// A stretch of storm.
    fn rage(&mut self, until: Instant) {
        self.bank = Log::bank_of(self.log.round().fetch_add(1, Ordering::SeqCst) + 1);
        // Some rounds are rough, and some leave time for a window to end, or a director to be given up.
        let pace_ms = [20, 80, 300][self.below(3) as usize];
        while Instant::now() < until {
            let pause = Duration::from_millis(2 + self.below(pace_ms));
            std::thread::sleep(pause); // the storm's own pace; nothing waits for it
            self.resume(|until| Instant::now() >= until);
            self.replace_gone();
            if self.director_at.is_some_and(|at| Instant::now() >= at) {
                self.bring_director();
            }
            self.strike();
        }
    }

    fn strike(&mut self) {
        let (worker, client) = (
            Who::Worker(self.below(WORKERS as u64) as usize),
            Who::Client(self.below(CLIENTS as u64) as usize),
        );
        match self.below(32) {
            0..10 => self.replace(worker),
            10..12 => self.leave(worker),
            12..16 => self.replace(client),
            16..20 => self.kill_director(),
            20..21 => {
                self.kill_director();
                self.replace(worker);
            }
            21..22 => (0..WORKERS).for_each(|n| self.replace(Who::Worker(n))),
            22..27 => self.stop(worker, 2500),
            27..30 => self.stop(client, 1000),
            _ => self.stop(Who::Director, 700),
        }
    }

    fn replace(&mut self, who: Who) {
        self.kill(who);
        let next = self.start(who);
        *self.role(who).expect("there is one of these always") = next;
    }

    /// SIGKILL, wherever it is.
    fn kill(&mut self, who: Who) {
        let Some(role) = self.role(who) else { return };
        role.kill();
        check_said(role, who);
        self.stopped.retain(|(_, stopped)| *stopped != who);
        self.leaving.retain(|&leaving| leaving != who);
        if let Who::Client(n) = who {
            let next = self.log.next(self.bank, n).load(Ordering::SeqCst);
            self.log.killed_below(self.bank, n).store(next + 1, Ordering::SeqCst);
        }
        self.count(match who {
            Who::Director => "directors killed",
            Who::Worker(_) => "workers killed",
            Who::Client(_) => "clients killed",
        });
    }

    /// The next one comes at once, or soon, so that it may be killed while it recovers; or late.
    fn kill_director(&mut self) {
        if self.director.is_none() {
            return;
        }
        self.kill(Who::Director);
        self.director = None;
        let pause_ms = match self.below(4) {
            0 => self.below(1200),
            _ => 0,
        };
        self.director_at = Some(Instant::now() + Duration::from_millis(pause_ms));
        if pause_ms == 0 {
            self.bring_director();
        }
    }

    fn bring_director(&mut self) {
        self.director_at = None;
        self.director = Some(self.start(Who::Director));
    }

    /// A worker goes in good order, having answered what it has.
    fn leave(&mut self, who: Who) {
        if !self.leaving.contains(&who) {
            self.role(who).expect("a worker").say("stop");
            self.leaving.push(who);
            self.count("workers left");
        }
    }

    /// Others come in the place of those who have left.
    fn replace_gone(&mut self) {
        for who in self.leaving.clone() {
            let role = self.role(who).expect("a worker");
            if !role.is_running() {
                check_said(role, who);
                let ended = role.exit();
                assert!(ended.success(), "{who:?} ended with {ended}");
                self.leaving.retain(|&leaving| leaving != who);
                let next = self.start(who);
                *self.role(who).expect("a worker") = next;
            }
        }
    }

    fn stop(&mut self, who: Who, at_most_ms: u64) {
        let until = Instant::now() + Duration::from_millis(self.below(at_most_ms));
        let Some(role) = self.role(who) else { return };
        let _ = kill(Pid::from_raw(role.pid()), Signal::SIGSTOP);
        self.stopped.push((until, who));
        self.count("stops");
    }

    fn resume_one(&mut self, who: Who) {
        if let Some(role) = self.role(who) {
            let _ = kill(Pid::from_raw(role.pid()), Signal::SIGCONT);
        }
        self.stopped.retain(|(_, stopped)| *stopped != who);
    }

    fn resume(&mut self, whom: impl Fn(Instant) -> bool) {
        for (until, who) in self.stopped.clone() {
            if whom(until) {
                self.resume_one(who);
            }
        }
    }

    /// No more storm until every call has ended and everybody is back; then all is checked.
    fn rest(&mut self) {
        self.rest_until_balanced();
        for (end, calls) in reconcile(&self.log, self.bank) {
            *self.tally.ends.entry(end).or_default() += calls;
        }
        self.tally.rounds += 1;
        let last = (self.bank + 1) % BANKS;
        reconcile(&self.log, last);
        self.log.clear(last);
    }

    fn rest_until_balanced(&mut self) {
        self.resume(|_| true);
        if self.director_at.is_some() {
            self.bring_director();
        }
        let round = self.log.round();
        if round.load(Ordering::SeqCst).is_multiple_of(2) {
            round.fetch_add(2, Ordering::SeqCst);
        } else {
            round.fetch_add(1, Ordering::SeqCst);
        }
        let (now, until) = (round.load(Ordering::SeqCst), Instant::now() + PATIENCE);
        loop {
            let quiet: Vec<bool> =
                (0..CLIENTS).map(|n| self.log.quiet(n).load(Ordering::SeqCst) == now).collect();
            let trouble = match quiet.iter().all(|&q| q) {
                true => imbalance(&self.place, WORKERS),
                false => Some(format!("clients that are done: {quiet:?}")),
            };
            let Some(trouble) = trouble else { return };
            self.replace_gone();
            self.check_all_said();
            assert!(Instant::now() < until, "{trouble}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn check_all_said(&mut self) {
        let warned = std::fs::read_to_string(self.warnings()).expect("what directors warned of");
        assert!(!warned.contains("broke the protocol"), "somebody was accused: {warned}");
        let everybody = std::iter::once(Who::Director)
            .chain((0..WORKERS).map(Who::Worker))
            .chain((0..CLIENTS).map(Who::Client));
        for who in everybody {
            if let Some(role) = self.role(who) {
                check_said(role, who);
                let running = role.is_running();
                assert!(running || self.leaving.contains(&who), "{who:?} ended by itself");
            }
        }
    }

    /// Everybody goes in good order, and nothing is left.
    fn end(mut self) -> Tally {
        let bus = bus_id(self.place.path());
        let parties = std::mem::take(&mut self.clients).into_iter().chain(std::mem::take(&mut self.workers));
        for mut role in parties.chain(self.director.take()) {
            role.say("stop");
            assert!(role.exit().success());
        }
        assert_eq!(segments_of(bus), Vec::<String>::new(), "segments are left");
        let left: Vec<_> = std::fs::read_dir(self.place.path()).expect("the folder").flatten().collect();
        assert_eq!(left.len(), 2, "but the log and the warnings, {left:?} are left");
        self.tally
    }
}

/// A role says something only when it ends, or when something is wrong.
fn check_said(role: &Role, who: Who) {
    let said = role.heard();
    let expected = |line: &String| matches!(line.as_str(), "ready" | "stopped");
    assert!(said.iter().all(expected), "{who:?} said {said:?}");
}
