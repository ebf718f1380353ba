//! Exclusive rights through the three cores in one thread: random schedules of calls, claims, hand-overs and deaths.
//!
//! The referee knows who holds what from what workers were told and gave up, and nothing else. It checks that each
//! record is taken by the holder of its key alone, that each client's calls on a key are taken in its order where
//! nobody dies, and that in the end every call has ended. A part of a scatter is taken by whoever holds all its keys, in
//! its place among the calls on each of them; and each key of a scatter is in one part.

mod world;

use std::collections::HashMap;

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng};
use trine::client::group::Looked;
use trine::director::core::{DirectorCore, Settings};
use trine::director::late::{Holds, holds_bit};
use trine::director::recovery::CarriedOver;
use trine::layout::{LINE, Request, SessionShape, WorkShape, flag};
use trine::resource::Action;
use trine::worker::core::Begun;
use trine::{Identity, Key, Resource, ServiceOptions, Status, Unheld, scatter};
use world::{Control, Plain, Shell, Words};

const CLIENTS: usize = 2;
const WORKERS: usize = 3;
const KEYS: u64 = 6;

struct Client {
    end: world::Client,
    open: Vec<u64>,
    /// Open scatters: what each is called, and the keys that parts were about.
    scatters: Vec<(u64, u64)>,
    sequences: [u64; KEYS as usize],
}

struct Worker {
    end: world::Worker,
    heard: u64,
    /// Position, keys, the reply right.
    begun: Vec<(u64, Vec<u64>, Begun)>,
    recalls: Vec<(Resource, u64)>,
}

struct World {
    director: DirectorCore<Plain>,
    shell: Shell,
    clients: Vec<Client>,
    workers: Vec<Worker>,
    unheld: Unheld,
    /// Who may be given a call on a key, as workers were told: an index of `workers`.
    holders: [Option<usize>; KEYS as usize],
    /// The last sequence number that was taken, by client and key.
    taken: HashMap<(u64, u64), u64>,
    deaths: bool,
    /// Of each scatter, by number: its keys with their sequence numbers.
    scattered: Vec<Vec<(u64, u64)>>,
    /// Whether there are any: a part that ends NOT_BEGUN leaves a gap in the order.
    scatters: bool,
    next_id: u64,
    ended: u64,
    /// Parts about more than one key that were taken.
    wide: u64,
}

const SHAPE: SessionShape =
    SessionShape { slots: 16, reply_capacity: 64, request_arena: 4096, reply_arena: 0 };
const WORK: WorkShape = WorkShape { slots: 8 };

impl World {
    fn new(unheld: Unheld, deaths: bool, scatters: bool) -> Self {
        let settings = Settings { epoch: 1, waiting_per_route: 64, share_max: 4, ..Settings::default() };
        let mut world = World {
            director: DirectorCore::new(settings),
            shell: Shell::default(),
            clients: Vec::new(),
            workers: Vec::new(),
            unheld,
            holders: [None; KEYS as usize],
            taken: HashMap::new(),
            deaths,
            scattered: Vec::new(),
            scatters,
            next_id: 1,
            ended: 0,
            wide: 0,
        };
        for _ in 0..WORKERS {
            let worker = world.new_worker();
            world.workers.push(worker);
        }
        for id in 0..CLIENTS {
            let nobody = Identity::default();
            let end = world::Client::attach(&mut world.director, id as u64 + 1, nobody, SHAPE);
            assert_eq!(end.key, id);
            let status = world.director.open_route(id, 0, "service", "operation", &mut world.shell);
            assert_eq!(status, Status::Ok);
            let sequences = [0; KEYS as usize];
            world.clients.push(Client { end, open: Vec::new(), scatters: Vec::new(), sequences });
        }
        world
    }

    fn new_worker(&mut self) -> Worker {
        let end = world::Worker::attach(&mut self.director, self.next_id, Identity::default(), WORK);
        self.next_id += 1;
        let options = ServiceOptions::default().exclusive(self.unheld);
        let status = self.director.provide_with(end.key, "service", 0, &["operation"], &options);
        assert_eq!(status, Status::Ok);
        Worker { end, heard: 0, begun: Vec::new(), recalls: Vec::new() }
    }

    fn submit(&mut self, client: usize, key: u64) {
        let Client { end, open, sequences, .. } = &mut self.clients[client];
        let mut record = [0; LINE];
        (record[6], record[7]) = (client as u64, sequences[key as usize] + 1);
        let request = Request { flags: flag::HAS_KEY, key, len: 16, capacity: 64, ..Request::default() };
        if let Some(name) = end.submit(request, &record, &mut self.shell) {
            sequences[key as usize] += 1;
            open.push(name);
        }
    }

    /// One request on several keys, in any order.
    fn scatter(&mut self, client: usize, rng: &mut TestRng) {
        let Client { end: world::Client { core, .. }, scatters, sequences, .. } = &mut self.clients[client];
        let mut keys: Vec<u64> = (0..KEYS).filter(|_| rng.random_bool(0.5)).collect();
        let turn = rng.random_range(0..KEYS as usize);
        let len = keys.len().max(1);
        keys.rotate_left(turn % len);
        let slots: Vec<u32> = keys.iter().map_while(|_| core.reserve()).collect();
        if keys.is_empty() || slots.len() < keys.len() {
            slots.into_iter().for_each(|slot| assert!(core.release(slot)));
            return;
        }
        let numbered = keys.iter().map(|&key| {
            sequences[key as usize] += 1;
            (key, sequences[key as usize])
        });
        self.scattered.push(numbered.collect());
        let mut record = [0; LINE];
        (record[6], record[7]) = (client as u64, self.scattered.len() as u64 - 1);
        let request = Request { len: 16, capacity: 64, ..Request::default() };
        let keys: Vec<Key> = keys.into_iter().map(Key::number).collect();
        let name = core.submit_group(&slots, request, &record, &keys, |_, _| {}, &mut self.shell);
        scatters.push((name, 0));
    }

    fn look_at_scatters(&mut self, client: usize) {
        let Client { end: world::Client { core, .. }, scatters, .. } = &mut self.clients[client];
        let (unheld, deaths, ended) = (self.unheld, self.deaths, &mut self.ended);
        scatters.retain_mut(|(name, seen)| {
            let all = u64::MAX >> (64 - core.group_keys(*name).len());
            loop {
                let end = match core.look_group(*name, 1, &mut self.shell) {
                    Looked::Part(end) => end,
                    Looked::Open => return true,
                    Looked::Done => {
                        assert_eq!(*seen, all, "every key is in a part");
                        return false;
                    }
                };
                let expected = match end.outcome.status {
                    Status::Ok | Status::NotBegun => true,
                    Status::NotHeld => unheld == Unheld::Error,
                    Status::WorkerDied => deaths,
                    _ => false,
                };
                assert!(expected, "a part ended {}", end.outcome.status);
                assert_eq!((*seen & end.mask, end.mask & !all), (0, 0), "each key is in one part");
                *seen |= end.mask;
                *ended += u64::from(end.mask.count_ones());
                core.release(end.slot);
            }
        });
    }

    fn look(&mut self, client: usize) {
        self.look_at_scatters(client);
        let Client { end, open, .. } = &mut self.clients[client];
        let mut ended = Vec::new();
        open.retain(|&name| {
            let outcome = end.ended(name, 1, &mut self.shell);
            ended.extend(outcome.iter().map(|outcome| outcome.status));
            outcome.is_none()
        });
        for status in ended {
            let expected = match status {
                Status::Ok => true,
                Status::NotHeld => self.unheld == Unheld::Error,
                Status::WorkerDied => self.deaths,
                _ => false,
            };
            assert!(expected, "{status}");
            self.ended += 1;
        }
    }

    /// A worker reads one control message.
    fn read(&mut self, w: usize) {
        let worker = &mut self.workers[w];
        match self.shell.next_for(worker.end.key) {
            Some(Control::Map { index, session }) => {
                let client = &self.clients[session].end;
                worker.end.map(index, client, &mut self.director, &mut self.shell);
            }
            Some(Control::Granted { sequence, resource }) => {
                worker.heard = sequence;
                for number in keys_of(resource) {
                    let holder = self.holders[number as usize].replace(w);
                    assert!(holder.is_none_or(|holder| holder == w), "key {number} has two holders");
                }
            }
            Some(Control::Recalled { sequence, resource, before }) => {
                worker.heard = sequence;
                worker.recalls.push((resource, before));
            }
            Some(Control::Unmap { .. } | Control::Drain { .. }) | None => {}
        }
    }

    fn take(&mut self, w: usize) {
        let worker = &mut self.workers[w];
        if worker.begun.len() == 3 {
            return;
        }
        worker.end.core.hear(worker.heard);
        let position = worker.end.core.taken();
        let Some(begun) = worker.end.begin(1, &mut self.shell) else { return };
        let (client, number) = (begun.record[6], begun.record[7]);
        let keys: Vec<(u64, u64)> = if begun.is_part() {
            let all = &self.scattered[number as usize];
            let own: Vec<(u64, u64)> =
                scatter::places(scatter::mask(&begun.record)).map(|i| all[i]).collect();
            let keys: Vec<Key> = own.iter().map(|&(key, _)| Key::number(key)).collect();
            assert!(scatter::is_sealed(worker.end.core.seal(), &begun.record, &keys), "{keys:?}");
            self.wide += u64::from(own.len() > 1);
            own
        } else {
            vec![(begun.request().resource().and_then(Key::as_number).expect("a number"), number)]
        };
        for &(key, sequence) in &keys {
            assert_eq!(self.holders[key as usize], Some(w), "key {key} was executed by another");
            let last = self.taken.insert((client, key), sequence).unwrap_or(0);
            let gaps = self.scatters || self.unheld == Unheld::Error;
            let in_order = if gaps { sequence > last } else { sequence == last + 1 };
            assert!(in_order || self.deaths, "client {client}, key {key}: {sequence} after {last}");
        }
        worker.begun.push((position, keys.into_iter().map(|(key, _)| key).collect(), begun));
    }

    fn answer(&mut self, w: usize, which: usize) {
        let worker = &mut self.workers[w];
        if !worker.begun.is_empty() {
            let (_, _, begun) = worker.begun.swap_remove(which % worker.begun.len());
            worker.end.answer(begun, &mut self.shell);
        }
    }

    /// A worker gives up what it was told to, when it has finished.
    fn give_up(&mut self, w: usize) {
        let worker = &mut self.workers[w];
        let due = worker.recalls.iter().position(|&(resource, before)| {
            let kept = |(position, keys, _): &(u64, Vec<u64>, Begun)| {
                *position < before && keys.iter().any(|&key| resource.covers(key.into()))
            };
            worker.end.core.taken() >= before && !worker.begun.iter().any(kept)
        });
        let Some(due) = due else { return };
        let (resource, _) = worker.recalls.swap_remove(due);
        for number in keys_of(resource) {
            assert_eq!(self.holders[number as usize].take(), Some(w));
        }
        self.director.yielded(worker.end.key, "service", resource, &mut self.shell);
    }

    fn die(&mut self, w: usize) {
        // It may be granted something that it never read of: it is dead, so that is nobody's, too.
        self.holders.iter_mut().filter(|holder| **holder == Some(w)).for_each(|holder| *holder = None);
        let key = self.workers[w].end.key;
        self.director.worker_dead(key, &mut self.shell);
        self.workers[w] = self.new_worker();
    }

    fn change(&mut self, w: usize, action: Action, resource: Resource) {
        let key = self.workers[w].end.key;
        let status = self.director.change(key, "service", &[(action, resource)], &mut self.shell);
        assert!(matches!(status, Status::Ok | Status::NotHeld), "{status}");
    }

    fn turn(&mut self) {
        self.director.turn(1, &mut self.shell);
    }

    fn step(&mut self, rng: &mut TestRng) {
        let (w, client) = (rng.random_range(0..WORKERS), rng.random_range(0..CLIENTS));
        let (a, b) = (rng.random_range(0..KEYS), rng.random_range(0..KEYS));
        let resource = if rng.random_bool(if self.scatters { 0.4 } else { 0.8 }) {
            Resource::from(a)
        } else {
            Resource::from(a.min(b)..=a.max(b))
        };
        match rng.random_range(0..1000) {
            0..100 if self.scatters => {
                self.look(client);
                self.scatter(client, rng);
            }
            0..200 => self.submit(client, a),
            200..400 => self.turn(),
            400..550 => self.read(w),
            550..700 => self.take(w),
            700..850 => self.answer(w, a as usize),
            850..900 => self.give_up(w),
            900..930 => self.look(client),
            // Keys stay with one worker for a while, so that parts are about several.
            945..980 if self.scatters => {}
            930..980 => self.change(w, Action::Acquire, resource),
            980..990 => self.change(w, Action::Release, resource),
            990..993 if self.deaths => self.die(w),
            _ => {}
        }
    }

    /// Everybody does all that there is to do; somebody acquires everything.
    fn finish(&mut self) {
        self.change(0, Action::Acquire, Resource::from(0..=KEYS - 1));
        for _ in 0..2000 {
            self.turn();
            for w in 0..WORKERS {
                self.read(w);
                self.take(w);
                self.answer(w, 0);
                self.give_up(w);
            }
            (0..CLIENTS).for_each(|client| self.look(client));
        }
        assert!(self.clients.iter().all(|client| client.open.is_empty()), "a call never ended");
        assert!(self.clients.iter().all(|client| client.scatters.is_empty()), "a part never ended");
        let sent: u64 = self.clients.iter().flat_map(|client| client.sequences).sum();
        assert_eq!(sent, self.ended);
    }
}

fn keys_of(resource: Resource) -> impl Iterator<Item = u64> {
    (0..KEYS).filter(move |&number| resource.covers(Key::number(number)))
}

#[test]
fn a_call_is_executed_by_the_holder_of_its_key_alone() {
    let mut rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    for unheld in [Unheld::Wait, Unheld::Error, Unheld::Offer] {
        for deaths in [false, true] {
            for _ in 0..20 {
                let mut world = World::new(unheld, deaths, false);
                (0..5_000).for_each(|_| world.step(&mut rng));
                world.finish();
            }
        }
    }
}

#[test]
fn a_part_is_executed_by_the_holder_of_all_its_keys_in_its_place_among_the_calls_on_each() {
    let mut rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    for unheld in [Unheld::Wait, Unheld::Error, Unheld::Offer] {
        let mut wide = 0;
        for deaths in [false, true] {
            for _ in 0..60 {
                let mut world = World::new(unheld, deaths, true);
                (0..5_000).for_each(|_| world.step(&mut rng));
                world.finish();
                wide += world.wide;
            }
        }
        println!("{unheld:?}: {wide} parts about several keys");
        assert!(wide > 100, "{unheld:?}: {wide}");
    }
}

/// What the head of a worker's segment says that has held something in a service.
fn marked(service: &str) -> Holds {
    let mut holds = Holds::default();
    let (word, bit) = holds_bit(service);
    holds[word] |= bit;
    holds
}

/// A director that has inherited two workers, and has been told of a third one that wants key 5.
fn after_a_restart() -> (World, usize) {
    let mut world = World::new(Unheld::Wait, false, false);
    world.director =
        DirectorCore::new(Settings { epoch: 2, waiting_per_route: 64, share_max: 4, ..Settings::default() });
    world.shell = Shell::default();
    for worker in [101, 102] {
        world.director.inherit(worker, &[], false);
        world.director.inherit_rights(worker, marked("service"));
    }
    world.director.open_window(100);
    let newcomer = world.new_worker();
    let wish = [(Action::Acquire, Resource::from(5))];
    assert_eq!(world.director.change(newcomer.end.key, "service", &wish, &mut world.shell), Status::Ok);
    (world, newcomer.end.key)
}

/// What a worker was told about rights since it was last asked.
fn told(world: &mut World, worker: usize) -> Vec<(bool, Resource)> {
    let told = std::iter::from_fn(|| world.shell.next_for(worker));
    let about = |control| match control {
        Control::Granted { resource, .. } => Some((true, resource)),
        Control::Recalled { resource, .. } => Some((false, resource)),
        _ => None,
    };
    told.filter_map(about).collect()
}

#[test]
fn after_a_restart_a_right_is_its_holders_who_comes_back() {
    let (mut world, newcomer) = after_a_restart();
    let holds = marked("service");
    let carried = CarriedOver { start: 0, taken: 0, entries: Vec::new(), holds };
    let (work, page) = (Words::new(WORK.work().words), Words::new(WORK.progress().words));
    let back = world
        .director
        .resume_worker(101, Identity::default(), WORK, &carried, (work, page), &mut world.shell)
        .unwrap();
    let options = ServiceOptions::default().exclusive(Unheld::Wait);
    assert_eq!(world.director.provide_with(back, "service", 0, &["operation"], &options), Status::Ok);
    world.turn();
    let held = [(Action::Acquire, Resource::from(0..=9))];
    assert_eq!(world.director.change(back, "service", &held, &mut world.shell), Status::Ok);
    assert_eq!(told(&mut world, back), [(true, Resource::from(0..=9))]);
    world.director.provided_again(back, &mut world.shell);
    world.turn();
    assert_eq!(told(&mut world, newcomer), [], "another may hold something");
    assert_eq!(told(&mut world, back), []);
    world.director.inherited_dead(102, &mut world.shell);
    world.turn();
    assert_eq!(told(&mut world, newcomer), [], "it is held");
    assert_eq!(told(&mut world, back), [(false, Resource::from(5))]);
    world.director.yielded(back, "service", Resource::from(5), &mut world.shell);
    assert_eq!(told(&mut world, newcomer), [(true, Resource::from(5))]);
}

#[test]
fn after_a_restart_nothing_is_granted_before_the_window_ends() {
    let (mut world, newcomer) = after_a_restart();
    world.director.turn(99, &mut world.shell);
    assert_eq!(told(&mut world, newcomer), []);
    assert_eq!(world.director.wake_at_ns(), 100);
    world.director.turn(100, &mut world.shell);
    assert_eq!(told(&mut world, newcomer), [], "both may hold it, and live");
    for worker in [101, 102] {
        world.director.inherited_dead(worker, &mut world.shell);
    }
    assert_eq!(told(&mut world, newcomer), [(true, Resource::from(5))]);
}
