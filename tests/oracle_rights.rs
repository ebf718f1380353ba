//! Exclusive rights through the three cores in one thread: random schedules of calls, claims, hand-overs and deaths.
//!
//! The referee knows who holds what from what workers were told and gave up, and nothing else. It checks that each
//! record is taken by the holder of its key alone, that each client's calls on a key are taken in its order where
//! nobody dies, and that in the end every call has ended. A part of a scatter is taken by whoever holds all its keys, in
//! its place among the calls on each of them; and each key of a scatter is in one part.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng};
use trine::client::core::ClientCore;
use trine::client::group::Looked;
use trine::core::{Memory, Read, Write};
use trine::director::core::{DirectorCore, Peer, Settings, Told};
use trine::director::late::{Holds, holds_bit};
use trine::director::recovery::CarriedOver;
use trine::layout::{LINE, ReplyHead, Request, SessionShape, WorkShape, flag};
use trine::resource::Action;
use trine::worker::core::{Begun, Taken, WorkerCore};
use trine::{Fault, Identity, Key, Resource, ServiceOptions, Status, Unheld, scatter};

const CLIENTS: usize = 2;
const WORKERS: usize = 3;
const KEYS: u64 = 6;

/// Memory of one thread.
#[derive(Clone)]
struct Words(Rc<[Cell<u64>]>);

impl Words {
    fn new(words: usize) -> Self {
        Words((0..words).map(|_| Cell::new(0)).collect())
    }
}

impl Read for Words {
    fn load(&self, word: usize) -> u64 {
        self.0.get(word).map_or(0, Cell::get)
    }
    fn acquire(&self) {}
}

impl Write for Words {
    fn store(&self, word: usize, value: u64) {
        if let Some(at) = self.0.get(word) {
            at.set(value);
        }
    }
    fn release(&self) {}
    fn full(&self) {}
}

struct Plain;
impl Memory for Plain {
    type Ro = Words;
    type Rw = Words;
}

/// What is on its way to a worker.
enum Control {
    Map(u16, usize),
    Granted(u64, Resource),
    Recalled(u64, Resource, u64),
}

/// By worker's key in the director: what was sent to it.
#[derive(Default)]
struct Shell(RefCell<HashMap<usize, VecDeque<Control>>>);

impl Shell {
    fn push(&self, worker: usize, control: Control) {
        self.0.borrow_mut().entry(worker).or_default().push_back(control);
    }
}

impl trine::director::core::Effects for &Shell {
    fn ring(&mut self, _: Peer) {}
    fn map_session(&mut self, worker: usize, index: u16, session: usize) {
        self.push(worker, Control::Map(index, session));
    }
    fn unmap_session(&mut self, _: usize, _: u16) {}
    fn fault(&mut self, peer: Peer, fault: Fault) {
        panic!("{peer:?}: {fault}");
    }
    fn forget(&mut self, peer: Peer) {
        if let Peer::Worker(key) = peer {
            self.0.borrow_mut().remove(&key);
        }
    }
    fn clock_ns(&mut self) -> u64 {
        1
    }
    fn tell(&mut self, worker: usize, told: Told<'_>) {
        match told {
            Told::Granted { sequence, resource, .. } => {
                self.push(worker, Control::Granted(sequence, resource))
            }
            Told::Recalled { sequence, resource, before, .. } => {
                self.push(worker, Control::Recalled(sequence, resource, before));
            }
            Told::Drain { .. } => {}
        }
    }
}
impl trine::worker::core::Effects for &Shell {
    fn ring_client(&mut self, _: u64) {}
    fn ring_director(&mut self) {}
    fn clock_ns(&mut self) -> u64 {
        1
    }
}
impl trine::client::core::Effects for &Shell {
    fn ring_director(&mut self) {}
}

struct Client {
    core: ClientCore<Plain>,
    memory: (Words, Words),
    open: Vec<u64>,
    /// Open scatters: what each is called, and the keys that parts were about.
    scatters: Vec<(u64, u64)>,
    sequences: [u64; KEYS as usize],
}

struct Worker {
    key: usize,
    core: WorkerCore<Plain>,
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
            let memory = (Words::new(SHAPE.outbox().words), Words::new(SHAPE.inbox().words));
            let (outbox, inbox) = memory.clone();
            let nobody = Identity::default();
            let key =
                world.director.attach_session(id as u64 + 1, nobody, SHAPE, 0, outbox, inbox).expect("room");
            assert_eq!(key, id);
            assert_eq!(
                world.director.open_route(key, 0, "service", "operation", &mut &world.shell),
                Status::Ok
            );
            let core = ClientCore::new(SHAPE, memory.0.clone(), memory.1.clone());
            world.clients.push(Client {
                core,
                memory,
                open: Vec::new(),
                scatters: Vec::new(),
                sequences: [0; KEYS as usize],
            });
        }
        world
    }

    fn new_worker(&mut self) -> Worker {
        let (work, page) = (Words::new(WORK.work().words), Words::new(WORK.progress().words));
        let (id, nobody) = (self.next_id, Identity::default());
        self.next_id += 1;
        let attached = self.director.attach_worker(id, nobody, WORK, 0, work.clone(), page.clone());
        let key = attached.expect("room");
        let options = ServiceOptions::default().exclusive(self.unheld);
        assert_eq!(self.director.provide_with(key, "service", 0, &["operation"], &options), Status::Ok);
        let core = WorkerCore::new(id, WORK, 0, work, page);
        Worker { key, core, heard: 0, begun: Vec::new(), recalls: Vec::new() }
    }

    fn submit(&mut self, client: usize, key: u64) {
        let Client { core, open, sequences, .. } = &mut self.clients[client];
        let Some(slot) = core.reserve() else { return };
        sequences[key as usize] += 1;
        let mut record = [0; LINE];
        (record[6], record[7]) = (client as u64, sequences[key as usize]);
        let request = Request { flags: flag::HAS_KEY, key, len: 16, capacity: 64, ..Request::default() };
        open.push(core.submit(slot, request, &record, &mut &self.shell));
    }

    /// One request on several keys, in any order.
    fn scatter(&mut self, client: usize, rng: &mut TestRng) {
        let Client { core, scatters, sequences, .. } = &mut self.clients[client];
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
        let name = core.submit_group(&slots, request, &record, &keys, |_, _| {}, &mut &self.shell);
        scatters.push((name, 0));
    }

    fn look_at_scatters(&mut self, client: usize) {
        let Client { core, scatters, .. } = &mut self.clients[client];
        let (unheld, deaths, ended) = (self.unheld, self.deaths, &mut self.ended);
        scatters.retain_mut(|(name, seen)| {
            let all = u64::MAX >> (64 - core.group_keys(*name).len());
            loop {
                let end = match core.look_group(*name, 1, &mut &self.shell) {
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
        let Client { core, open, .. } = &mut self.clients[client];
        let mut ended = Vec::new();
        open.retain(|&name| match core.look(name, 1, &mut &self.shell) {
            Some(outcome) => {
                ended.push(outcome.status);
                core.release(core.slot_of(name));
                false
            }
            None => true,
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
        let key = self.workers[w].key;
        let Some(control) = self.shell.0.borrow_mut().get_mut(&key).and_then(VecDeque::pop_front) else {
            return;
        };
        match control {
            Control::Map(index, session) => {
                let (outbox, inbox) = self.clients[session].memory.clone();
                self.workers[w].core.map_session(index, session as u64 + 1, SHAPE, outbox, inbox);
                self.director.session_mapped(key, index, true, &mut &self.shell);
            }
            Control::Granted(sequence, resource) => {
                self.workers[w].heard = sequence;
                for number in keys_of(resource) {
                    let holder = self.holders[number as usize].replace(w);
                    assert!(holder.is_none_or(|holder| holder == w), "key {number} has two holders");
                }
            }
            Control::Recalled(sequence, resource, before) => {
                self.workers[w].heard = sequence;
                self.workers[w].recalls.push((resource, before));
            }
        }
    }

    fn take(&mut self, w: usize) {
        let worker = &mut self.workers[w];
        if worker.begun.len() == 3 {
            return;
        }
        worker.core.hear(worker.heard);
        let position = worker.core.taken();
        let begun = match worker.core.take(1, &mut &self.shell) {
            Ok(Taken::Begun(begun)) => begun,
            Ok(Taken::Unheard | Taken::Nothing) => return,
            other => panic!("{other:?}"),
        };
        let (client, number) = (begun.record[6], begun.record[7]);
        let keys: Vec<(u64, u64)> = if begun.is_part() {
            let all = &self.scattered[number as usize];
            let own: Vec<(u64, u64)> =
                scatter::places(scatter::mask(&begun.record)).map(|i| all[i]).collect();
            let keys: Vec<Key> = own.iter().map(|&(key, _)| Key::number(key)).collect();
            assert!(scatter::is_sealed(worker.core.seal(), &begun.record, &keys), "{keys:?}");
            self.wide += u64::from(own.len() > 1);
            own
        } else {
            vec![(begun.request.resource().and_then(Key::as_number).expect("a number"), number)]
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
            worker.core.reply(begun, ReplyHead::default(), &mut [0; LINE], &mut &self.shell);
        }
    }

    /// A worker gives up what it was told to, when it has finished.
    fn give_up(&mut self, w: usize) {
        let worker = &mut self.workers[w];
        let due = worker.recalls.iter().position(|&(resource, before)| {
            let kept = |(position, keys, _): &(u64, Vec<u64>, Begun)| {
                *position < before && keys.iter().any(|&key| resource.covers(key.into()))
            };
            worker.core.taken() >= before && !worker.begun.iter().any(kept)
        });
        let Some(due) = due else { return };
        let (resource, _) = worker.recalls.swap_remove(due);
        for number in keys_of(resource) {
            assert_eq!(self.holders[number as usize].take(), Some(w));
        }
        self.director.yielded(worker.key, "service", resource, &mut &self.shell);
    }

    fn die(&mut self, w: usize) {
        // It may be granted something that it never read of: it is dead, so that is nobody's, too.
        self.holders.iter_mut().filter(|holder| **holder == Some(w)).for_each(|holder| *holder = None);
        let key = self.workers[w].key;
        self.director.worker_dead(key, &mut &self.shell);
        self.workers[w] = self.new_worker();
    }

    fn change(&mut self, w: usize, action: Action, resource: Resource) {
        let key = self.workers[w].key;
        let status = self.director.change(key, "service", &[(action, resource)], &mut &self.shell);
        assert!(matches!(status, Status::Ok | Status::NotHeld), "{status}");
    }

    fn turn(&mut self) {
        self.director.turn(1, &mut &self.shell);
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
    assert_eq!(world.director.change(newcomer.key, "service", &wish, &mut &world.shell), Status::Ok);
    (world, newcomer.key)
}

/// What a worker was told about rights since it was last asked.
fn told(world: &World, worker: usize) -> Vec<(bool, Resource)> {
    let mut all = world.shell.0.borrow_mut();
    let control = all.remove(&worker).unwrap_or_default().into_iter();
    let about = |control| match control {
        Control::Granted(_, resource) => Some((true, resource)),
        Control::Recalled(_, resource, _) => Some((false, resource)),
        Control::Map(..) => None,
    };
    control.filter_map(about).collect()
}

#[test]
fn after_a_restart_a_right_is_its_holders_who_comes_back() {
    let (mut world, newcomer) = after_a_restart();
    let holds = marked("service");
    let carried = CarriedOver { start: 0, taken: 0, entries: Vec::new(), holds };
    let (work, page) = (Words::new(WORK.work().words), Words::new(WORK.progress().words));
    let back = world
        .director
        .resume_worker(101, Identity::default(), WORK, &carried, (work, page), &mut &world.shell)
        .unwrap();
    let options = ServiceOptions::default().exclusive(Unheld::Wait);
    assert_eq!(world.director.provide_with(back, "service", 0, &["operation"], &options), Status::Ok);
    world.turn();
    let held = [(Action::Acquire, Resource::from(0..=9))];
    assert_eq!(world.director.change(back, "service", &held, &mut &world.shell), Status::Ok);
    assert_eq!(told(&world, back), [(true, Resource::from(0..=9))]);
    world.director.provided_again(back, &mut &world.shell);
    world.turn();
    assert_eq!(told(&world, newcomer), [], "another may hold something");
    assert_eq!(told(&world, back), []);
    world.director.inherited_dead(102, &mut &world.shell);
    world.turn();
    assert_eq!(told(&world, newcomer), [], "it is held");
    assert_eq!(told(&world, back), [(false, Resource::from(5))]);
    world.director.yielded(back, "service", Resource::from(5), &mut &world.shell);
    assert_eq!(told(&world, newcomer), [(true, Resource::from(5))]);
}

#[test]
fn after_a_restart_nothing_is_granted_before_the_window_ends() {
    let (mut world, newcomer) = after_a_restart();
    world.director.turn(99, &mut &world.shell);
    assert_eq!(told(&world, newcomer), []);
    assert_eq!(world.director.wake_at_ns(), 100);
    world.director.turn(100, &mut &world.shell);
    assert_eq!(told(&world, newcomer), [], "both may hold it, and live");
    for worker in [101, 102] {
        world.director.inherited_dead(worker, &mut &world.shell);
    }
    assert_eq!(told(&world, newcomer), [(true, Resource::from(5))]);
}
