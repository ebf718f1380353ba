//! The director's core against a few lists: who gets each call, who holds each key, and whether it was said before.
//!
//! ```text
//! one event ─► the core, with real clients and workers ─► turns until nothing moves ─┐
//!           └► the model (model.rs)                    ──────────────────────────────┴─► the same?
//! a call:  explain says what would happen ─► the model says what may ─► it is sent ─► it happens
//! ```
//! Events: workers come, provide, declare, acquire, drain, withdraw, lose their socket, die; sessions come and go; the
//! policy changes; calls are made with and without a key. `TRINE_ORACLE_STEPS` asks for more of them.

mod cases;
mod model;
#[path = "../world/mod.rs"]
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fastrand::Rng;
use model::{Call, EXCLUSIVE, Fate, Hold, KEYS, Line, Model, OPERATIONS, Provided, SERVICES, UIDS};
use trine::access::{Asker, Domain, Verb};
use trine::core::{Read, Turn};
use trine::director::core::{DirectorCore, Settings};
use trine::director::explain::{Explanation, Question};
use trine::director::schedule::suits;
use trine::layout::{LINE, Request, SessionShape, WorkShape, flag};
use trine::resource::{Action, Policy};
use trine::worker::core::{Begun, Taken};
use trine::{Identity, Key, Resource, ServiceOptions, Status, Unheld};
use world::{Control, Plain, Shell};

const SESSION: SessionShape =
    SessionShape { slots: 8, reply_capacity: 64, request_arena: 4096, reply_arena: 4096 };
const WORK: WorkShape = WorkShape { slots: 8 };
const CLIENTS: usize = 3;
const WORKERS: usize = 5;
/// Calls that a worker may have in its hands.
const SHARE_MAX: u64 = 4;

struct Client {
    end: world::Client,
    uid: u32,
    /// By service and operation: its route's number, once it has one.
    routes: [[Option<u32>; 2]; 2],
    next_route: u32,
    /// Workers that know this session.
    known: BTreeSet<u64>,
}

struct Worker {
    end: world::Worker,
    id: u64,
    /// The next record that nobody has looked at.
    seen: u64,
    /// Calls that it was given and has not answered.
    given: Vec<u64>,
    begun: Vec<(u64, u64, Begun)>,
    /// Keys that it was granted and has not given up.
    holds: BTreeSet<u64>,
    recalls: Vec<(Resource, u64)>,
}

struct Sent {
    call: Call,
    client: u64,
    name: u64,
}

struct Bus {
    director: DirectorCore<Plain>,
    shell: Shell,
    clients: Vec<Client>,
    workers: Vec<Worker>,
    model: Model,
    /// Calls that have not ended, by number: in the order in which they were made.
    open: BTreeMap<u64, Sent>,
    /// How calls have ended since somebody asked.
    ended: BTreeMap<u64, Status>,
    rng: Rng,
    last_id: u64,
    now_ns: u64,
    /// How often calls went to somebody, waited, and ended in an error.
    tally: [u64; 3],
}

impl Bus {
    fn new(unheld: Unheld, seed: u64) -> Bus {
        let mut bus = Bus {
            director: DirectorCore::new(Settings { share_max: SHARE_MAX, ..Settings::default() }),
            shell: Shell::default(),
            clients: Vec::new(),
            workers: Vec::new(),
            model: Model::new(unheld),
            open: BTreeMap::new(),
            ended: BTreeMap::new(),
            rng: Rng::with_seed(seed),
            last_id: 0,
            now_ns: 1,
            tally: [0; 3],
        };
        bus.director.set_access(Arc::new(bus.model.policy()));
        // The first one stays, so that routes lead somewhere; of every other bus it speaks for one key only.
        bus.attach_worker();
        for service in 0..2 {
            let resources = if seed.is_multiple_of(2) { Vec::new() } else { vec![Resource::from(0)] };
            bus.provide(0, service, Provided { operations: vec![0, 1], resources });
        }
        (0..CLIENTS).for_each(|_| bus.attach_client());
        bus
    }

    fn identity(&mut self, uid: u32) -> Identity {
        self.last_id += 1;
        Identity { uid, gid: 0, pid: self.last_id as i32 }
    }

    fn attach_client(&mut self) {
        let uid = self.rng.u32(UIDS);
        let who = self.identity(uid);
        let end = world::Client::attach(&mut self.director, self.last_id, who, SESSION);
        self.director.place_session(end.key, Domain::of_label("all"), Arc::new([]));
        let (routes, known) = (Default::default(), BTreeSet::new());
        self.clients.push(Client { end, uid, routes, next_route: 0, known });
    }

    fn attach_worker(&mut self) {
        let uid = self.rng.u32(UIDS);
        let who = self.identity(uid);
        let id = self.last_id;
        let end = world::Worker::attach(&mut self.director, id, who, WORK);
        self.director.place_worker(end.key, Domain::of_label("all"), Arc::new([]));
        let (given, begun, recalls) = (Vec::new(), Vec::new(), Vec::new());
        self.workers.push(Worker { end, id, seen: 0, given, begun, holds: BTreeSet::new(), recalls });
        self.model.workers.push(model::Worker {
            id,
            uid,
            serves: true,
            provides: [None, None],
            leaves: false,
        });
    }

    fn provide(&mut self, w: usize, service: usize, provided: Provided) {
        let Worker { end, id, .. } = &self.workers[w];
        let mut options = ServiceOptions::default().resources(provided.resources.clone());
        let all = [Policy::Jbsq, Policy::RoundRobin, Policy::Affinity, Policy::LeastOutstanding];
        let policy = if service == EXCLUSIVE { Policy::Jbsq } else { all[self.rng.usize(..4)] };
        if service == EXCLUSIVE {
            options = options.exclusive(self.model.unheld);
        } else {
            options = options.policy(policy);
        }
        let names: Vec<&str> = provided.operations.iter().map(|&o| OPERATIONS[o]).collect();
        let status = self.director.provide_with(end.key, SERVICES[service], 0, &names, &options);
        let uid = self.model.worker(*id).uid;
        if !self.model.may(Verb::Provide, uid, service, None) {
            assert_eq!(status, Status::PermissionDenied);
        } else {
            assert_eq!(status, Status::Ok);
            self.model.worker(*id).provides[service] = Some(provided);
            self.model.policies[service] = policy;
        }
    }

    /// A session asks for a route, if it may have one.
    fn open_route(&mut self, c: usize, service: usize, operation: usize) -> Option<u32> {
        let client = &mut self.clients[c];
        let (number, names) = (client.next_route, (SERVICES[service], OPERATIONS[operation]));
        let status = self.director.open_route(client.end.key, number, names.0, names.1, &mut self.shell);
        // The first line that says anything of such a call: if that is for some keys, each call is looked at by itself.
        let mut lines = self.model.lines.iter();
        let about = lines.find(|line| line.is_about(Verb::Call, client.uid, service));
        let denied = about.is_some_and(|line| !line.allow && line.keys.is_none());
        assert_eq!(status, if denied { Status::PermissionDenied } else { Status::Ok });
        client.next_route += u32::from(!denied);
        (!denied).then_some(number)
    }

    /// Everybody who provides a service knows the session from now on. Explain is about somebody who asks, not about a
    /// session, so it can't know who has yet to map one.
    fn introduce(&mut self, c: usize, service: usize) {
        let own = |w: &model::Worker| w.provides[service].as_ref().map(|p| (w.id, p.operations[0]));
        for (id, operation) in self.model.workers.iter().filter_map(own).collect::<Vec<_>>() {
            if !self.clients[c].known.contains(&id) && self.open_route(c, service, operation).is_some() {
                self.clients[c].known.insert(id);
            }
        }
    }

    /// Turns until nothing moves: what workers are sent they read, and what has ended is seen.
    fn settle(&mut self) {
        loop {
            let mut moved = false;
            for w in 0..self.workers.len() {
                moved |= self.read(w);
            }
            self.now_ns += 10;
            self.director.look_at_everything(); // as clients' rings would make it
            moved |= self.director.turn(self.now_ns, &mut self.shell) != Turn::Idle;
            moved |= self.look();
            if !moved && self.shell.has_sent_nothing() {
                break;
            }
        }
        for w in 0..self.workers.len() {
            self.see_given(w);
        }
    }

    /// Whether a worker had anything to read.
    fn read(&mut self, w: usize) -> bool {
        let mut any = false;
        while let Some(control) = self.shell.next_for(self.workers[w].end.key) {
            any = true;
            self.obey(w, control);
        }
        any
    }

    fn obey(&mut self, w: usize, control: Control) {
        match control {
            Control::Map { index, session } => {
                let client = self.clients.iter().find(|c| c.end.key == session).expect("it is here");
                self.workers[w].end.map(index, &client.end, &mut self.director, &mut self.shell);
            }
            Control::Unmap { index } => {
                if self.workers[w].end.core.retire_session(index) {
                    let key = self.workers[w].end.key;
                    self.director.session_unmapped(key, index, &mut self.shell);
                }
            }
            Control::Granted { sequence, resource } => {
                self.workers[w].end.core.hear(sequence);
                for key in keys_of(resource) {
                    let other = self.workers.iter().position(|other| other.holds.contains(&key));
                    assert!(other.is_none_or(|other| other == w), "key {key} has two holders");
                    self.workers[w].holds.insert(key);
                    self.see_offer(w, key);
                }
            }
            Control::Recalled { sequence, resource, before } => {
                self.workers[w].end.core.hear(sequence);
                self.workers[w].recalls.push((resource, before));
            }
            Control::Drain { sequence, .. } => self.workers[w].end.core.hear(sequence),
        }
    }

    /// Somebody was made the holder of a key because a call waits that nobody could be given.
    fn see_offer(&mut self, w: usize, key: u64) {
        let id = self.workers[w].id;
        if self.model.holders[key as usize] == Hold::Nobody {
            let call = |call: &Call| call.service == EXCLUSIVE && call.key == Some(key);
            let may = |sent: &Sent| call(&sent.call) && self.model.offered(&sent.call, key).contains(&id);
            let may = self.model.unheld == Unheld::Offer && self.open.values().any(may);
            let why = format!("{:?} {:?}", self.model.lines, self.model.claims);
            assert!(may, "worker {id} was granted key {key} for no reason: {why}");
            self.model.holders[key as usize] = Hold::Has(id);
        }
    }

    /// Sees how calls have ended. What was not begun is published again by its client. Returns whether any has.
    fn look(&mut self) -> bool {
        let (clients, shell, now_ns) = (&mut self.clients, &mut self.shell, self.now_ns);
        let before = self.ended.len();
        self.open.retain(|&number, sent| {
            let Some(client) = clients.iter_mut().find(|c| c.end.id == sent.client) else { return false };
            let outcome = client.end.ended(sent.name, now_ns, shell);
            self.ended.extend(outcome.iter().map(|outcome| (number, outcome.status)));
            outcome.is_none()
        });
        self.ended.len() > before
    }

    /// What a worker's ring holds that it did not hold before.
    fn see_given(&mut self, w: usize) {
        let worker = &mut self.workers[w];
        loop {
            let at = WORK.work().ring + (worker.seen % u64::from(WORK.slots)) as usize * LINE;
            if worker.end.work.load(at) != worker.seen + 1 {
                return;
            }
            worker.seen += 1;
            worker.given.push(worker.end.work.load(at + 6));
        }
    }

    fn given_to(&self, number: u64) -> Option<u64> {
        self.workers.iter().find(|w| w.given.contains(&number)).map(|w| w.id)
    }

    fn submit(&mut self, c: usize, call: Call, route: u32) -> Option<u64> {
        self.last_id += 1;
        let mut record = [0; LINE];
        record[6] = self.last_id;
        let (flags, key) = (call.key.map_or(0, |_| flag::HAS_KEY), call.key.unwrap_or(0));
        let request = Request { operation: route, flags, key, len: 16, capacity: 64, ..Request::default() };
        let name = self.clients[c].end.submit(request, &record, &mut self.shell)?;
        let client = self.clients[c].end.id;
        self.open.insert(self.last_id, Sent { call, client, name });
        Some(self.last_id)
    }

    fn call(&mut self) {
        let (c, service, operation) = (self.rng.usize(..CLIENTS), self.rng.usize(..2), self.rng.usize(..2));
        let key = (self.rng.u8(..4) > 0).then(|| self.rng.u64(..KEYS));
        let call = Call { uid: self.clients[c].uid, service, operation, key };
        if self.clients[c].routes[service][operation].is_none() {
            self.clients[c].routes[service][operation] = self.open_route(c, service, operation);
        }
        let Some(route) = self.clients[c].routes[service][operation] else { return };
        self.introduce(c, service);
        self.settle();
        let asker = Asker { uid: call.uid, gid: 0, groups: &[] };
        let (service, operation) = (SERVICES[service], OPERATIONS[operation]);
        let question = Question { asker, service, operation, key: key.map(Key::number) };
        let said = self.director.explain(&question, self.now_ns);
        let fate = self.model.fate(&call);
        if let Some(number) = self.submit(c, call, route) {
            self.settle();
            self.compare_call(number, &call, &fate, &said);
        }
    }

    /// What became of a call is what the model allows, and what explain said.
    fn compare_call(&mut self, number: u64, call: &Call, fate: &Fate, said: &Explanation) {
        let (ended, to) = (self.ended.remove(&number), self.given_to(number));
        let happened = format!("{call:?} ended {ended:?}, went to {to:?}; {fate:?}; {said:#?}");
        match (fate, ended, to) {
            (Fate::Ends(status), Some(ended), None) => assert_eq!(*status, ended, "{happened}"),
            (Fate::Among(able), None, Some(id)) => assert!(self.is_best(call, able, id), "{happened}"),
            (Fate::Among(able), None, None) => {
                assert!(self.has_reason_to_wait(number, call, able), "{happened}");
            }
            (Fate::Waits, None, None) => {}
            // Behind others, who wait for somebody else.
            (Fate::Ends(Status::NoWorker | Status::NotHeld), None, None) => {
                assert!(self.is_behind(number, call), "{happened}")
            }
            _ => panic!("{happened}"),
        }
        let held = call.service == EXCLUSIVE && call.key.is_some();
        let as_said = match ended {
            Some(status) => said.status == status,
            // It is behind others, of which explain says nothing.
            None if !held && to.is_none() && self.follows_its_own(number) => true,
            None if !held && said.status == Status::NoWorker => self.is_behind(number, call),
            None => said.status == Status::Ok && said.worker == to,
        };
        assert!(as_said, "explain was wrong: {happened}");
        self.tally[if to.is_some() {
            0
        } else if ended.is_none() {
            1
        } else {
            2
        }] += 1;
    }

    /// Whether a call went to the one among these that the policy likes best. It is in his hands.
    fn is_best(&self, call: &Call, able: &[u64], id: u64) -> bool {
        let load = |w: &Worker| w.given.len() - usize::from(w.id == id);
        let room = self.model.room(call);
        let rivals = || self.workers.iter().filter(|w| able.contains(&w.id) && load(w) < room);
        let Some(chosen) = self.workers.iter().find(|w| w.id == id) else { return false };
        let best = match (self.model.policies[call.service], call.key) {
            _ if call.service == EXCLUSIVE && call.key.is_some() => true,
            (Policy::RoundRobin, _) => true, // explain says whose turn it is
            (Policy::Affinity, Some(key)) => {
                rivals().all(|w| suits(w.id, Key::number(key)) <= suits(id, Key::number(key)))
            }
            _ => rivals().all(|w| load(chosen) <= load(w)),
        };
        best && able.contains(&id) && chosen.given.len() <= SHARE_MAX as usize
    }

    /// Whether another call waits that may have come before: on the same key, where keys are held, or for somebody
    /// without room.
    fn is_behind(&self, number: u64, call: &Call) -> bool {
        let held = call.service == EXCLUSIVE && call.key.is_some();
        let same = |other: &Call| match held {
            true => (other.service, other.key) == (call.service, call.key),
            false => (other.service, other.operation) == (call.service, call.operation),
        };
        let mut others = self.open.iter().filter(|&(&n, sent)| n != number && same(&sent.call));
        others.any(|(&n, sent)| {
            let waits = self.given_to(n).is_none();
            waits
                && match self.model.fate(&sent.call) {
                    Fate::Among(able) => self.are_full(&sent.call, &able),
                    _ => held,
                }
        })
    }

    /// Whether another call of the same session, of the same operation, waits: one that was tried again has become the
    /// later one.
    fn follows_its_own(&self, number: u64) -> bool {
        let route = |sent: &Sent| (sent.client, sent.call.service, sent.call.operation);
        let own = self.open.get(&number).map(route);
        let mut others = self.open.iter().filter(|&(&n, sent)| n != number && own == Some(route(sent)));
        others.any(|(&n, _)| self.given_to(n).is_none())
    }

    /// Whether none of these has room for a call, as far as the lists tell.
    fn are_full(&self, call: &Call, able: &[u64]) -> bool {
        let room = self.model.room(call);
        self.workers.iter().all(|w| !able.contains(&w.id) || w.given.len() >= room)
    }

    fn has_reason_to_wait(&self, number: u64, call: &Call, able: &[u64]) -> bool {
        let held = call.service == EXCLUSIVE && call.key.is_some();
        self.are_full(call, able)
            || if held { self.is_behind(number, call) } else { self.follows_its_own(number) }
    }

    /// Everything that can be seen of rights is as the model has it, and whoever waits has a reason to.
    fn compare(&mut self) {
        for worker in &self.workers {
            let own = [Hold::Has(worker.id), Hold::Leaving(worker.id)];
            let keys = (0..KEYS).filter(|&key| own.contains(&self.model.holders[key as usize]));
            assert_eq!(worker.holds, keys.collect(), "worker {}", worker.id);
        }
        for (&number, Sent { call, .. }) in &self.open {
            if self.given_to(number).is_none() {
                match self.model.fate(call) {
                    Fate::Among(able) => {
                        assert!(
                            self.has_reason_to_wait(number, call, &able),
                            "{:?} {able:?} {call:?} waits",
                            self.model.policies
                        )
                    }
                    Fate::Ends(status) => {
                        let behind = status != Status::PermissionDenied && self.is_behind(number, call);
                        assert!(behind, "{call:?} waits for {status}")
                    }
                    Fate::Waits => {}
                }
            }
        }
    }

    /// A worker begins its next call: on a key that it holds, where keys are held.
    fn take(&mut self, w: usize) {
        let worker = &mut self.workers[w];
        let position = worker.end.core.taken();
        let begun = match worker.end.core.take(self.now_ns, &mut self.shell) {
            Ok(Taken::Begun(begun)) => begun,
            Ok(Taken::Nothing) => return,
            // Whose it was has left.
            Ok(Taken::Skipped) => {
                let is_next = |n: &u64| worker.begun.iter().all(|(_, begun, _)| begun != n);
                let next = worker.given.iter().position(is_next).expect("it was given one");
                assert!(!self.open.contains_key(&worker.given.remove(next)));
                return;
            }
            other => panic!("{other:?}"),
        };
        let number = begun.record[6];
        assert!(worker.given.contains(&number));
        if let Some(Sent { call, .. }) = self.open.get(&number) {
            let key = call.key.filter(|_| call.service == EXCLUSIVE);
            assert!(key.is_none_or(|key| worker.holds.contains(&key)), "{call:?} at one without the right");
        }
        worker.begun.push((position, number, begun));
    }

    fn answer(&mut self, w: usize) {
        let worker = &mut self.workers[w];
        if !worker.begun.is_empty() {
            let (_, number, begun) = worker.begun.swap_remove(self.rng.usize(..worker.begun.len()));
            worker.given.retain(|&n| n != number);
            worker.end.answer(begun, &mut self.shell);
        }
    }

    /// A worker gives up something that it was told to, and has finished with.
    fn give_up(&mut self, w: usize) {
        let worker = &mut self.workers[w];
        let (taken, begun) = (worker.end.core.taken(), &worker.begun);
        let done = |&(_, before): &(Resource, u64)| taken >= before && begun.iter().all(|b| b.0 >= before);
        let Some(at) = worker.recalls.iter().position(done) else { return };
        let (resource, _) = worker.recalls.remove(at);
        keys_of(resource).for_each(|key| _ = worker.holds.remove(&key));
        self.model.yielded(worker.id, resource);
        self.director.yielded(worker.end.key, SERVICES[EXCLUSIVE], resource, &mut self.shell);
    }

    /// Often what somebody waits for.
    fn resource(&mut self) -> Resource {
        let (a, b) = (self.rng.u64(..KEYS), self.rng.u64(..KEYS));
        let waits = |&(&number, _): &(&u64, &Sent)| self.given_to(number).is_none();
        let wanted = self.open.iter().filter(waits).filter_map(|(_, sent)| sent.call.key).next_back();
        match self.rng.u8(..8) {
            0 => Resource::All,
            1 => Resource::Share { index: self.rng.u32(..3), of: 3 },
            2 => Resource::from(a.min(b)..=a.max(b)),
            3..6 => Resource::from(a),
            _ => Resource::from(wanted.unwrap_or(a)),
        }
    }

    /// A worker speaks for something more, or less.
    fn declare(&mut self, w: usize, service: usize) {
        let resource = self.resource();
        let Worker { end, id, .. } = &self.workers[w];
        let Some(own) = &mut self.model.worker(*id).provides[service] else { return };
        let had = own.resources.iter().position(|r| *r == resource);
        let ranged = |r: &Resource| matches!(r, Resource::Range { .. });
        if own.resources.is_empty()
            || (had.is_none() && ranged(&resource) && own.resources.iter().any(ranged))
        {
            return; // one that speaks for all, or two ranges that may overlap
        }
        let action = match had {
            Some(_) if own.resources.len() == 1 => return,
            Some(at) => {
                own.resources.remove(at);
                Action::Withdraw
            }
            None => {
                own.resources.push(resource);
                Action::Declare
            }
        };
        let status = self.director.change(end.key, SERVICES[service], &[(action, resource)], &mut self.shell);
        assert_eq!(status, Status::Ok);
    }

    fn acquire_or_release(&mut self, w: usize, action: Action) {
        let (a, b) = (self.rng.u64(..KEYS), self.rng.u64(..KEYS));
        let random = if self.rng.u8(..3) > 0 { (a, a) } else { (a.min(b), a.max(b)) };
        let Worker { end, id, .. } = &self.workers[w];
        // A claim is withdrawn by its own bounds only.
        let claims = self.model.claims.iter().filter(|claim| claim.0 == *id && action == Action::Release);
        let claim = claims.map(|&(_, first, last)| (first, last)).next_back();
        let (first, last) = claim.filter(|_| self.rng.bool()).unwrap_or(random);
        let resource = if first == last { Resource::from(first) } else { Resource::from(first..=last) };
        let (uid, provides) = {
            let worker = self.model.worker(*id);
            (worker.uid, worker.provides[EXCLUSIVE].is_some())
        };
        let denied = !self.model.may_acquire(uid, first, last);
        let expected = match action {
            _ if !provides => Status::NoSuchService,
            Action::Acquire if denied => Status::PermissionDenied,
            Action::Acquire => {
                self.model.acquire(*id, first, last);
                Status::Ok
            }
            _ => self.model.release(*id, first, last),
        };
        let status =
            self.director.change(end.key, SERVICES[EXCLUSIVE], &[(action, resource)], &mut self.shell);
        assert_eq!(status, expected, "{action:?} {resource:?}");
    }

    fn change_policy(&mut self) {
        let one = |rng: &mut Rng| {
            let verb = [Verb::Call, Verb::Call, Verb::Acquire, Verb::Acquire, Verb::Provide][rng.usize(..5)];
            let (a, b) = (rng.u64(..KEYS), rng.u64(..KEYS));
            let range = [(a, a), (a.min(b), a.max(b))][rng.usize(..2)];
            Line {
                allow: rng.u8(..4) == 0,
                verb,
                uid: (rng.u8(..4) > 0).then(|| rng.u32(UIDS)),
                service: (rng.u8(..4) > 0).then(|| rng.usize(..2)),
                keys: (rng.u8(..3) > 0).then_some(range),
            }
        };
        let mut lines: Vec<Line> = (0..self.rng.usize(..5)).map(|_| one(&mut self.rng)).collect();
        let stays = self.model.workers[0].uid;
        lines.retain(|line| line.verb != Verb::Provide || line.uid.is_some_and(|uid| uid != stays));
        let mut order: Vec<(usize, u64)> = self.workers.iter().map(|w| (w.end.key, w.id)).collect();
        order.sort_unstable();
        self.model.set_policy(lines, &order.into_iter().map(|(_, id)| id).collect::<Vec<_>>());
        self.director.set_access(Arc::new(self.model.policy()));
    }

    /// A worker's process ends.
    fn die(&mut self, w: usize) {
        let worker = self.workers.swap_remove(w);
        self.model.die(worker.id);
        self.director.worker_dead(worker.end.key, &mut self.shell);
        self.look();
        for (_, number, _) in worker.begun {
            let status = self.ended.remove(&number);
            assert!(matches!(status, None | Some(Status::WorkerDied)), "{status:?}");
        }
    }

    fn leave(&mut self, c: usize) {
        let Client { end, .. } = self.clients.swap_remove(c);
        self.open.retain(|_, sent| sent.client != end.id);
        self.director.session_gone(end.key, &mut self.shell);
        self.attach_client();
    }

    fn step(&mut self) {
        let (any, service) = (self.rng.usize(..self.workers.len()), self.rng.usize(..2));
        let client = self.rng.usize(..CLIENTS);
        let serves = self.model.worker(self.workers[any].id).serves;
        // The first one stays as it is; who has lost its socket can only die.
        let other = (any > 0).then_some(any);
        match (self.rng.u16(..1000), other) {
            (0..260, _) => self.call(),
            (260..460, _) => self.take(any),
            (460..660, _) => self.answer(any),
            (660..740, _) => self.give_up(any),
            (740..775, Some(w)) if serves => self.declare(w, service),
            (775..840, _) if serves => self.acquire_or_release(any, Action::Acquire),
            (840..865, _) if serves => self.acquire_or_release(any, Action::Release),
            (865..890, _) if self.workers.len() < WORKERS => self.attach_worker(),
            (890..930, Some(w)) if serves => {
                let resources = (0..self.rng.usize(..3).min(1)).map(|_| self.resource()).collect();
                let operations = [vec![0], vec![1], vec![0, 1], vec![1, 0]][self.rng.usize(..4)].clone();
                self.provide(w, service, Provided { operations, resources });
            }
            (930..942, Some(w)) if serves => self.withdraw(w, service),
            (942..947, Some(w)) if serves => {
                self.model.worker(self.workers[w].id).serves = false;
                self.director.drain(self.workers[w].end.key, &mut self.shell);
            }
            (947..952, Some(w)) => self.lose_socket(w),
            (952..965, Some(w)) => self.die(w),
            (965..985, _) => self.leave(client),
            (985..1000, _) => self.change_policy(),
            _ => {}
        }
        self.settle();
        self.ended.clear();
        self.compare();
    }

    fn withdraw(&mut self, w: usize, service: usize) {
        let Worker { end, id, .. } = &self.workers[w];
        let provides = self.model.worker(*id).provides[service].is_some();
        let status = self.director.withdraw(end.key, SERVICES[service], &mut self.shell);
        assert_eq!(status, if provides { Status::Ok } else { Status::NoSuchService });
        if provides {
            self.model.withdraw(*id, service);
        }
    }

    /// It may hold still what it held, until it is known to be dead.
    fn lose_socket(&mut self, w: usize) {
        let worker = self.model.worker(self.workers[w].id);
        (worker.serves, worker.provides) = (false, [None, None]);
        self.director.worker_gone(self.workers[w].end.key);
    }
}

fn keys_of(resource: Resource) -> impl Iterator<Item = u64> {
    (0..KEYS).filter(move |&key| resource.covers(Key::number(key)))
}

#[test]
fn every_call_goes_where_a_few_lists_and_explain_say() {
    let steps = std::env::var("TRINE_ORACLE_STEPS").ok().and_then(|steps| steps.parse().ok());
    let steps: u64 = steps.unwrap_or(300_000);
    let mut tally = [0; 3];
    for (seed, unheld) in (0..30).zip([Unheld::Wait, Unheld::Error, Unheld::Offer].into_iter().cycle()) {
        let mut bus = Bus::new(unheld, seed);
        for _ in 0..steps / 30 {
            bus.step();
        }
        (0..3).for_each(|i| tally[i] += bus.tally[i]);
    }
    println!("{tally:?} calls were given, waited, ended in an error");
    assert!(tally.iter().all(|&count| count > steps / 100), "{tally:?}");
}
