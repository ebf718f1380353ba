//! The three victims, and what must be true after each kill.

use std::fs::File;
use std::path::PathBuf;
use std::time::Instant;

use trine::{Client, ClientOptions, Inspection, Pending, Request, Route, Status, Until, WorkerOptions};

use crate::roles::{open_log, run};
use crate::step::{Kills, MARK, Step, Traced, every};
use crate::support::{PATIENCE, Place, Role, descriptors, eventually, mix, segments};

/// Instructions that a director is stepped for when all calls have been answered: it has some more to do then.
const BEHIND: u64 = 300;

struct Scene {
    place: Place,
    path: PathBuf,
    log: File,
    next_id: u64,
}

/// A call of this process's, and its number.
struct Call<'c>(u64, Vec<u8>, Pending<'c>);

impl Scene {
    fn new() -> Scene {
        let place = Place::new();
        let path = place.path().join("log");
        let log = open_log(path.to_str().expect("UTF-8"));
        Scene { place, path, log, next_id: 0 }
    }

    fn start(&self, role: &str) -> (Role, i32) {
        let role = self.place.role(role).with("log", self.path.display()).with("id", self.next_id).start();
        let thread = role.hear("ready").parse().expect("a thread");
        (role, thread)
    }

    fn send<'c>(&mut self, client: &'c Client, route: Route) -> Call<'c> {
        let mut request = vec![7; 100];
        request[..8].copy_from_slice(&self.next_id.to_le_bytes());
        self.next_id += 1;
        let pending = client.request(route).submit(&request, Until::Forever).expect("a director, soon");
        Call(self.next_id - 1, request, pending)
    }

    /// How often a call has run.
    fn ran(&self, id: u64) -> usize {
        let log = std::fs::read_to_string(&self.path).expect("the log");
        log.lines().filter(|line| line.parse() == Ok(id)).count()
    }

    fn forget_runs(&self) {
        self.log.set_len(0).expect("a file");
    }

    /// Waits until the director's books say so.
    #[track_caller]
    fn books(&self, what: &str, right: impl Fn(&Inspection) -> bool) {
        let mut seen = None;
        let until = Instant::now() + PATIENCE;
        while !seen.as_ref().is_some_and(&right) {
            assert!(Instant::now() < until, "{what}: {seen:?}");
            seen = self.place.bus.inspect().ok();
        }
    }

    /// The books of a bus on which nothing is called: so many sessions and workers, and nothing else.
    fn balanced(&self, sessions: usize, workers: usize) {
        self.books("balanced books", |seen| {
            (seen.sessions.len(), seen.workers.len(), seen.faults) == (sessions, workers, 0)
                && seen.workers.iter().all(|w| w.in_flight == 0)
                && seen.services.iter().all(|s| s.waiting == 0)
        });
        let links = self.place.path().join("workers");
        eventually("a link for each worker", || {
            std::fs::read_dir(&links).map_or(0, Iterator::count) == workers
        });
    }
}

/// What a call's end says must be true.
fn check(scene: &Scene, call: &Call<'_>, outcome: Result<trine::Reply<'_>, trine::CallError>, may_die: bool) {
    let ran = scene.ran(call.0);
    match outcome {
        Ok(reply) => {
            assert_eq!(reply.bytes().to_vec(), mix(&call.1));
            assert_eq!(ran, 1, "call {} is OK", call.0);
        }
        Err(error) => {
            assert!(may_die && error.status() == Status::WorkerDied && error.may_have_run(), "{error}");
            assert!(ran <= 1, "call {} ran {ran} times", call.0);
        }
    }
}

/// Waits for the end of calls, while `meanwhile` is done.
fn end(scene: &Scene, calls: Vec<Call<'_>>, may_die: bool, mut meanwhile: impl FnMut()) {
    for mut call in calls {
        let until = Instant::now() + PATIENCE;
        let outcome = loop {
            if let Some(outcome) = call.2.poll() {
                break outcome;
            }
            assert!(Instant::now() < until, "call {} does not end", call.0);
            meanwhile();
        };
        check(scene, &call, outcome, may_die);
    }
}

#[test]
fn a_client_killed_after_any_instruction_of_a_call_leaves_nothing() {
    let mut scene = Scene::new();
    let (director, _) = scene.start("director");
    let (worker, _) = scene.start("worker");
    let client = scene.place.client(ClientOptions::default());
    let route = client.route("work", "run").expect("a route");
    let (mut kills, mut before) = (Kills::new(307), None);
    while kills.are_left() {
        let call = scene.send(&client, route);
        end(&scene, vec![call], false, || {});
        scene.balanced(1, 1);
        // What the director and the worker have for a session is gone with each.
        let of = |role: &Role| (descriptors(role.pid()), segments(role.pid()).len());
        let held = || (of(&director), of(&worker));
        let first = *before.get_or_insert_with(held);
        eventually("nothing is left over", || held() <= first);
        scene.forget_runs();

        let (mut victim, thread) = scene.start("victim client");
        let id = scene.next_id;
        scene.next_id += 1;
        let traced = Traced::seize(thread);
        victim.say("go");
        let ended = kills.run(&traced);
        traced.kill(&mut victim);
        scene.balanced(1, 1);
        let ran = scene.ran(id);
        assert!(ran == 1 || (ran == 0 && !ended), "call {id} ran {ran} times");
    }
    kills.report("client");
}

#[test]
fn a_worker_killed_after_any_instruction_of_a_call_ends_each_call_truly() {
    let mut scene = Scene::new();
    let (_director, _) = scene.start("director");
    // Another worker, in this process: what the victim had not begun is its.
    let other = scene.place.bus.worker(WorkerOptions::default()).expect("a worker");
    other.provide("work", &["run"]).expect("provided");
    let client = scene.place.client(ClientOptions::default());
    let route = client.route("work", "run").expect("a route");
    let mut log = open_log(scene.path.to_str().expect("UTF-8"));
    let mut kills = Kills::new(1499);
    while kills.are_left() {
        let (mut victim, thread) = scene.start("victim worker");
        let warm = client.route("warm", "up").expect("a route");
        client.call(warm, b"").expect("the victim serves it");
        let traced = Traced::seize(thread);
        let calls: Vec<Call> = (0..4).map(|_| scene.send(&client, route)).collect();
        let mut kept: Vec<Request> = Vec::new();
        let it = |worker: &&trine::WorkerInfo| worker.identity.pid == victim.pid();
        let of_victim = |seen: &Inspection| seen.workers.iter().find(it).map(|w| w.in_flight);
        eventually("two calls each", || {
            kept.extend(other.next(Until::Now).expect("a director"));
            kept.len() == 2 && of_victim(&scene.place.inspect()) == Some(2)
        });
        victim.say("go");
        let ended = kills.run(&traced);
        traced.kill(&mut victim);
        kept.into_iter().for_each(|request| drop(run(request, &mut log)));
        end(&scene, calls, !ended, || {
            if let Some(request) = other.next(Until::Now).expect("a director") {
                let _ = run(request, &mut log);
            }
        });
        scene.balanced(1, 1);
        scene.forget_runs();
    }
    kills.report("worker");
}

#[test]
fn a_director_killed_after_any_instruction_of_a_call_loses_none() {
    let mut scene = Scene::new();
    let (mut director, mut thread) = scene.start("director");
    let (_worker, _) = scene.start("worker");
    let client = scene.place.client(ClientOptions::default());
    let route = client.route("work", "run").expect("a route");
    let every = every(211);
    let (mut next, mut kills, mut stepped) = (0, 0, 0);
    let path = loop {
        // Everybody is here, and knows everybody.
        let call = scene.send(&client, route);
        end(&scene, vec![call], false, || {});
        scene.balanced(1, 1);
        scene.forget_runs();

        let traced = Traced::seize(thread);
        traced.hold();
        let calls: Vec<Call> = (0..2).map(|_| scene.send(&client, route)).collect();
        let (mut ran, mut behind) = (0, 0);
        let ended = loop {
            if ran == next {
                break false;
            }
            // It sleeps when nothing is left to do.
            match traced.step(|_| scene.ran(calls[1].0) == 1) {
                Step::Done => ran += 1,
                Step::Sleeps => break true,
                Step::Mark => unreachable!("a director sends itself no {MARK}"),
            }
            let all_ran = behind > 0 || (ran % 64 == 0 && calls.iter().all(|call| scene.ran(call.0) == 1));
            behind += u64::from(all_ran);
            if behind > BEHIND {
                break true;
            }
        };
        traced.kill(&mut director);
        (director, thread) = scene.start("director");
        end(&scene, calls, false, || {});
        (next, kills, stepped) = (next + every, kills + 1, stepped + ran);
        if ended {
            break ran;
        }
    };
    println!("director: {kills} kills survived, one each {every} of {path} instructions; {stepped} stops");
}
