//! Four workers that fight for a hundred resources while clients write to them: real processes, of which workers and
//! directors are killed.
//!
//! ```text
//! this process ── clients (threads): write to resources, each in its own order
//!      ├── director           ┐
//!      ├── worker × 4         ├─ log: a shared file mapping, in which everybody notes what he does, in one order
//!      └── storm: kills       ┘
//! ```
//! The log must show that no resource was ever written by two at a time, that a worker wrote only between gaining and
//! losing it, that nothing was written twice, and that each client's writes to one resource took effect in its order.
//! Only a call that was open while a worker was killed may come late: what that one had not begun is tried again.

mod log;
mod parties;
#[allow(dead_code)] // it serves the other tests with real processes, too
#[path = "../proof/support.rs"]
mod support;

use std::sync::Arc;
use std::time::Duration;

use log::{Log, What, check};
use parties::client;
use support::{Place, Random, Role, eventually};

const WORKERS: usize = 4;
const CLIENTS: u64 = 2;
const RESOURCES: u64 = 100;

/// What is killed.
#[derive(Clone, Copy, Debug)]
enum Strike {
    Worker,
    Director,
    Both,
}

struct Fighter {
    /// Never another's.
    number: u64,
    role: Role,
    /// What its bus calls it, once it is there.
    id: Option<u64>,
}

impl Fighter {
    fn id(&mut self) -> u64 {
        let said = || self.role.hear("ready").parse().expect("an id");
        *self.id.get_or_insert_with(said)
    }
}

struct Fight {
    place: Place,
    log: Arc<Log>,
    director: Role,
    workers: Vec<Fighter>,
    next_worker: u64,
    random: Random,
}

impl Fight {
    fn begin() -> Fight {
        let place = Place::new();
        let log = Arc::new(Log::create(&place.path().join("log")));
        let director = place.director_of_fight();
        let (workers, random) = (Vec::new(), Random(4711));
        let mut fight = Fight { place, log, director, workers, next_worker: 0, random };
        for _ in 0..WORKERS {
            let mut worker = fight.start_worker();
            worker.id();
            fight.workers.push(worker);
        }
        fight
    }

    fn start_worker(&mut self) -> Fighter {
        self.next_worker += 1;
        let launch = self.place.role("worker").with("log", self.place.path().join("log").display());
        let role = launch.with("number", self.next_worker).start();
        Fighter { number: self.next_worker, role, id: None }
    }

    /// The clients write, so much each, and what `strikes` says is killed meanwhile: the next when so much was logged
    /// since the last.
    fn fight(&mut self, writes: u64, strikes: &[Strike], pause: u64) {
        let clients: Vec<_> =
            (0..CLIENTS).map(|n| client(&self.place.bus, n, writes, self.log.clone())).collect();
        let mut at = self.log.now();
        for strike in strikes {
            at += pause;
            eventually("the fight goes on", || self.log.now() >= at);
            self.strike(*strike);
        }
        clients.into_iter().for_each(|client| client.join().expect("no panic"));
    }

    fn strike(&mut self, strike: Strike) {
        if let Strike::Director = strike {
            return self.kill_director();
        }
        let which = self.random.next() as usize % WORKERS;
        let (id, number) = (self.workers[which].id(), self.workers[which].number);
        self.log.note(What::Gone { worker: number });
        self.workers[which].role.kill();
        self.workers[which] = self.start_worker();
        if let Strike::Both = strike {
            self.kill_director();
        }
        eventually("the director knows that it is dead", || {
            self.place.bus.inspect().is_ok_and(|seen| seen.workers.iter().all(|w| w.id != id))
        });
        self.log.note(What::Noticed { worker: number });
    }

    fn kill_director(&mut self) {
        self.director.kill();
        self.director = self.place.director_of_fight();
    }

    /// Everybody leaves in good order. Returns what was logged.
    fn end(mut self) -> Vec<What> {
        for mut worker in std::mem::take(&mut self.workers) {
            worker.role.say("stop");
            assert!(worker.role.exit().success());
        }
        self.director.stop();
        self.log.entries()
    }
}

impl Place {
    fn director_of_fight(&self) -> Role {
        self.role("director").ready()
    }
}

#[test]
fn no_resource_is_ever_written_by_two() {
    let mut fight = Fight::begin();
    fight.fight(4_000, &[], 0);
    let seen = check(fight.end());
    assert_eq!(seen.written, CLIENTS * 4_000);
    assert!(seen.hand_overs > 50, "{seen:?}");
}

#[test]
fn no_resource_is_ever_written_by_two_whoever_is_killed() {
    let mut fight = Fight::begin();
    let strikes = [Strike::Worker, Strike::Director, Strike::Worker, Strike::Both];
    let strikes: Vec<Strike> = strikes.into_iter().cycle().take(8).collect();
    fight.fight(5_000, &strikes, 1_500);
    let seen = check(fight.end());
    println!("{seen:?}");
    assert!(seen.hand_overs > 50 && seen.inherited > 10, "{seen:?}");
    assert!(seen.written + seen.died >= CLIENTS * 5_000, "{seen:?}");
}

/// Where a process that a fight has started begins. Run by itself it plays nothing.
#[test]
fn role() {
    if let Ok(role) = std::env::var(support::ROLE) {
        parties::play(&role);
        std::process::exit(0);
    }
}

/// How long a client waits for one call: longer than its deadline.
const HANGS_AFTER: Duration = Duration::from_secs(60);
