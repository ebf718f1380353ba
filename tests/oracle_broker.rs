//! The director's data path against a naive broker: lists of calls by route, and a count by worker.
//!
//! ```text
//! before a turn:  route ─► [ waiting … | fresh … ]        after it:  a prefix was given, some fresh ones were refused
//! ```
//! Everything runs in one thread over plain memory, so after each turn the whole bus can be read and compared: the
//! calls of a route go in their order, routes that wait have equal turns, no worker has more than its share, none
//! with room stands idle while somebody waits for it, and every call ends.

mod world;

use proptest::prelude::*;
use trine::core::{Read, Write};
use trine::director::core::{DirectorCore, Load, Peer, Settings};
use trine::layout::{LINE, Request, SessionShape, WorkShape};
use trine::worker::core::{Begun, Taken};
use trine::{Fault, Identity, Status};
use world::{Control, Plain, Shell};

const ROUTES: usize = 2;
const SESSION: SessionShape =
    SessionShape { slots: 8, reply_capacity: 64, request_arena: 4096, reply_arena: 4096 };
const WORK: WorkShape = WorkShape { slots: 4 };
const NAMES: [&str; ROUTES] = ["x", "y"];

struct Worker {
    end: world::Worker,
    /// Position of the next record that the oracle has not seen.
    seen: u64,
    provides: [bool; ROUTES],
    /// Calls given and not answered, in their order; those that have begun are among them.
    given: Vec<usize>,
    begun: Vec<(Begun, usize)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Fresh,
    Waiting,
    Given,
    Ended(Status),
}

struct Call {
    client: usize,
    route: usize,
    name: u64,
    state: State,
}

struct Bus {
    director: DirectorCore<Plain>,
    clients: Vec<world::Client>,
    workers: Vec<Worker>,
    calls: Vec<Call>,
    /// By client and route: the calls that are fresh or wait, in their order.
    lines: [[Vec<usize>; ROUTES]; 2],
    shell: Shell,
    now_ns: u64,
    last_id: u64,
    settings: Settings,
}

#[derive(Clone, Debug)]
enum Step {
    Submit { client: usize, route: usize, count: usize },
    Take { worker: usize },
    Reply { worker: usize, which: usize },
    Attach { provides: usize },
    Provide { worker: usize, provides: usize },
    Kill { worker: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..2usize, 0..ROUTES, 1..4usize)
            .prop_map(|(client, route, count)| Step::Submit { client, route, count }),
        5 => (0..4usize).prop_map(|worker| Step::Take { worker }),
        5 => (0..4usize, 0..4usize).prop_map(|(worker, which)| Step::Reply { worker, which }),
        1 => (1..4usize).prop_map(|provides| Step::Attach { provides }),
        1 => (0..4usize, 0..4usize).prop_map(|(worker, provides)| Step::Provide { worker, provides }),
        1 => (0..4usize).prop_map(|worker| Step::Kill { worker }),
    ]
}

type Checked = Result<(), TestCaseError>;

impl Bus {
    fn new(settings: Settings) -> Bus {
        let mut bus = Bus {
            director: DirectorCore::new(settings),
            clients: Vec::new(),
            workers: Vec::new(),
            calls: Vec::new(),
            lines: Default::default(),
            shell: Shell::default(),
            now_ns: 1,
            last_id: 0,
            settings,
        };
        bus.shell.may_fault = true;
        bus.attach_worker([true; ROUTES]);
        for _ in 0..2 {
            bus.attach_client();
        }
        bus
    }

    fn attach_client(&mut self) {
        self.last_id += 1;
        let client = world::Client::attach(&mut self.director, self.last_id, Identity::default(), SESSION);
        for (number, name) in NAMES.into_iter().enumerate() {
            let status =
                self.director.open_route(client.key, number as u32, "service", name, &mut self.shell);
            assert_eq!(status, Status::Ok);
        }
        self.clients.push(client);
    }

    fn attach_worker(&mut self, provides: [bool; ROUTES]) {
        self.last_id += 1;
        let end = world::Worker::attach(&mut self.director, self.last_id, Identity::default(), WORK);
        let (given, begun) = (Vec::new(), Vec::new());
        self.workers.push(Worker { end, seen: 0, provides: [false; ROUTES], given, begun });
        self.provide(self.workers.len() - 1, provides);
    }

    fn provide(&mut self, worker: usize, provides: [bool; ROUTES]) {
        let worker = &mut self.workers[worker];
        worker.provides = provides;
        let names: Vec<&str> = (0..ROUTES).filter(|&r| provides[r]).map(|r| NAMES[r]).collect();
        assert_eq!(self.director.provide(worker.end.key, "service", 0, &names), Status::Ok);
    }

    /// Workers do as they were told. Returns whether there was anything to do.
    fn map(&mut self) -> bool {
        let maps = self.shell.take_maps();
        for &(worker, (index, session)) in &maps {
            let client = self.clients.iter().find(|c| c.key == session).expect("it has not left");
            let worker = self.workers.iter_mut().find(|w| w.end.key == worker).expect("it has not died");
            worker.end.map(index, client, &mut self.director, &mut self.shell);
        }
        !maps.is_empty()
    }

    /// Turns until nothing more is asked for, and compares.
    fn turn(&mut self) -> Checked {
        self.map();
        self.one_turn()?;
        while self.map() {
            self.one_turn()?;
        }
        self.compare_shares()
    }

    fn one_turn(&mut self) -> Checked {
        let before = self.lines.clone();
        let waits =
            |line: &Vec<usize>| line.first().is_some_and(|&id| self.calls[id].state == State::Waiting);
        let waited = std::array::from_fn(|c| std::array::from_fn(|r| waits(&before[c][r])));
        self.now_ns += 10;
        let _ = self.director.turn(self.now_ns, &mut self.shell);
        prop_assert_eq!(&self.shell.faults, &[]);
        let given = self.see_given()?;
        let refused = self.see_ended()?;
        self.compare_lines(&before, waited, &given, &refused)
    }

    /// What the rings hold that they did not hold before.
    fn see_given(&mut self) -> Result<Vec<usize>, TestCaseError> {
        let mut all = Vec::new();
        for (number, worker) in self.workers.iter_mut().enumerate() {
            let mut last = [[None; ROUTES]; 2];
            loop {
                let at = WORK.work().ring + (worker.seen % u64::from(WORK.slots)) as usize * LINE;
                if worker.end.work.load(at) != worker.seen + 1 {
                    break;
                }
                worker.seen += 1;
                let id = worker.end.work.load(at + 6) as usize;
                let call = &mut self.calls[id];
                let line = &self.lines[call.client][call.route];
                let place = line.iter().position(|&c| c == id);
                prop_assert!(place.is_some(), "call {} was given a second time, to {}", id, number);
                let last = &mut last[call.client][call.route];
                prop_assert!(place > *last, "call {} was given before one that came earlier", id);
                prop_assert!(worker.provides[call.route], "call {} came to one that does not provide it", id);
                *last = place;
                call.state = State::Given;
                worker.given.push(id);
                all.push(id);
            }
        }
        Ok(all)
    }

    /// What has ended for its caller. What has not begun is published again by the client, at the end of its line.
    fn see_ended(&mut self) -> Result<Vec<(usize, Status)>, TestCaseError> {
        let mut all = Vec::new();
        for id in 0..self.calls.len() {
            let Call { client, name, state, .. } = self.calls[id];
            if matches!(state, State::Ended(_)) {
                continue;
            }
            let client = &mut self.clients[client];
            let Some(outcome) = client.ended(name, self.now_ns, &mut self.shell) else { continue };
            self.calls[id].state = State::Ended(outcome.status);
            if state != State::Given {
                prop_assert!(!outcome.may_have_run);
            }
            all.push((id, outcome.status));
        }
        Ok(all)
    }

    fn compare_lines(
        &mut self,
        before: &[[Vec<usize>; ROUTES]; 2],
        waited: [[bool; ROUTES]; 2],
        given: &[usize],
        refused: &[(usize, Status)],
    ) -> Checked {
        let mut gone = [[0; ROUTES]; 2];
        for client in 0..2 {
            for route in 0..ROUTES {
                let provided = self.workers.iter().any(|w| w.provides[route]);
                let mut kept: Vec<usize> = Vec::new();
                // Those that came before it and were let in: no fewer than waited when it came.
                let mut before_it = 0;
                for &id in &before[client][route] {
                    match refused.iter().find(|&&(r, _)| r == id) {
                        Some(&(_, Status::Busy)) => {
                            prop_assert_eq!(self.calls[id].state, State::Ended(Status::Busy));
                            let waited = before_it;
                            prop_assert!(
                                waited >= self.settings.waiting_per_route,
                                "BUSY with {} waiting",
                                waited
                            );
                        }
                        Some(&(_, status)) => {
                            before_it += 1;
                            prop_assert_eq!(status, Status::NoWorker);
                            prop_assert!(!provided, "call {} found no worker, though there is one", id);
                        }
                        None => {
                            before_it += 1;
                            kept.push(id);
                        }
                    }
                }
                let prefix = kept.iter().take_while(|id| given.contains(id)).count();
                let later = kept[prefix..].iter().find(|id| given.contains(id));
                prop_assert!(later.is_none(), "call {:?} passed {:?}", later, kept[prefix..].first());
                let line = kept.split_off(prefix);
                prop_assert!(line.len() as u32 <= self.settings.waiting_per_route);
                prop_assert!(provided || line.is_empty(), "{:?} wait for nobody", line);
                gone[client][route] = prefix;
                line.iter().for_each(|&id| self.calls[id].state = State::Waiting);
                self.lines[client][route] = line;
            }
        }
        self.compare_turns(waited, gone)
    }

    /// Two clients' calls of one operation that waited before and wait still have had equal turns, unless a worker
    /// has yet to map one's memory.
    fn compare_turns(&self, waited: [[bool; ROUTES]; 2], gone: [[usize; ROUTES]; 2]) -> Checked {
        for route in (0..ROUTES).filter(|_| !self.shell.any_maps()) {
            if (0..2).all(|client| waited[client][route] && !self.lines[client][route].is_empty()) {
                let [a, b] = [gone[0][route], gone[1][route]];
                prop_assert!(a.abs_diff(b) <= 1, "{} and {} of two that wait were given", a, b);
            }
        }
        Ok(())
    }

    fn compare_shares(&self) -> Checked {
        for worker in &self.workers {
            let share = self.settings.share_max as usize;
            prop_assert!(worker.given.len() <= share, "{} given of {}", worker.given.len(), share);
            for route in (0..ROUTES).filter(|&r| worker.provides[r]) {
                let waits = self.lines.iter().any(|l| !l[route].is_empty());
                prop_assert!(!waits || worker.given.len() == share, "a call waits, and a worker has room");
            }
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Checked {
        let bits = |bits: usize| std::array::from_fn(|route| bits >> route & 1 == 1);
        match *step {
            Step::Submit { client, route, count } => (0..count).for_each(|_| self.submit(client, route)),
            Step::Take { worker } if worker < self.workers.len() => self.take(worker)?,
            Step::Reply { worker, which } if worker < self.workers.len() => self.reply(worker, which),
            Step::Attach { provides } if self.workers.len() < 4 => self.attach_worker(bits(provides)),
            Step::Provide { worker, provides } if worker < self.workers.len() => {
                self.provide(worker, bits(provides));
            }
            Step::Kill { worker } if worker < self.workers.len() => self.kill(worker)?,
            _ => {}
        }
        self.turn()
    }

    fn submit(&mut self, client: usize, route: usize) {
        let id = self.calls.len();
        let mut record = [0; LINE];
        record[6] = id as u64;
        let request = Request { operation: route as u32, len: 16, capacity: 64, ..Request::default() };
        let Some(name) = self.clients[client].submit(request, &record, &mut self.shell) else { return };
        self.calls.push(Call { client, route, name, state: State::Fresh });
        self.lines[client][route].push(id);
    }

    fn take(&mut self, worker: usize) -> Checked {
        let worker = &mut self.workers[worker];
        match worker.end.core.take(self.now_ns, &mut self.shell) {
            Ok(Taken::Begun(begun)) => {
                let id = begun.record[6] as usize;
                let next = worker.given.iter().find(|&&g| worker.begun.iter().all(|(_, b)| *b != g));
                prop_assert_eq!(next, Some(&id));
                worker.begun.push((begun, id));
            }
            Ok(Taken::Nothing) => prop_assert_eq!(worker.given.len(), worker.begun.len()),
            other => prop_assert!(false, "{:?}", other.map(|_| "skipped")),
        }
        Ok(())
    }

    fn reply(&mut self, worker: usize, which: usize) {
        let worker = &mut self.workers[worker];
        if which < worker.begun.len() {
            let (begun, id) = worker.begun.swap_remove(which);
            worker.given.retain(|&g| g != id);
            worker.end.answer(begun, &mut self.shell);
        }
    }

    fn kill(&mut self, worker: usize) -> Checked {
        let mut worker = self.workers.swap_remove(worker);
        self.director.worker_dead(worker.end.key, &mut self.shell);
        // Clients look before the next turn: what was begun has ended, the rest stands in line again.
        for (id, status) in self.see_ended()? {
            let begun = worker.begun.iter().any(|(_, b)| *b == id);
            let expected = if begun { Status::WorkerDied } else { Status::Ok };
            prop_assert_eq!(status, expected);
        }
        worker.given.sort();
        for id in worker.given {
            let Call { client, route, state, .. } = self.calls[id];
            if state == State::Given {
                self.calls[id].state = State::Fresh;
                self.lines[client][route].push(id);
            }
        }
        Ok(())
    }

    /// Serves until every call has ended, then sends everybody home.
    fn finish(mut self) -> Checked {
        for _ in 0..4 * self.calls.len() + 4 {
            for worker in 0..self.workers.len() {
                self.take(worker)?;
                self.reply(worker, 0);
            }
            self.turn()?;
        }
        for (id, call) in self.calls.iter().enumerate() {
            prop_assert!(matches!(call.state, State::Ended(_)), "call {} is {:?}", id, call.state);
        }
        for client in &self.clients {
            self.director.session_gone(client.key, &mut self.shell);
        }
        let unmap = |control: &Control| match *control {
            Control::Unmap { index } => Some(index),
            _ => None,
        };
        for (worker, index) in self.shell.take(unmap) {
            self.director.session_unmapped(worker, index, &mut self.shell);
        }
        for worker in &self.workers {
            self.director.worker_dead(worker.end.key, &mut self.shell);
        }
        prop_assert_eq!(self.director.load(), Load::default());
        Ok(())
    }
}

#[test]
fn a_session_at_fault_is_kept_until_it_is_said_to_be_gone() {
    let mut bus = Bus::new(Settings { epoch: 1, waiting_per_route: 4, share_max: 1, ..Settings::default() });
    bus.map();
    let (key, ring) = (bus.clients[0].key, SESSION.outbox().ring);
    bus.clients[0].outbox.store(ring, 99);
    let _ = bus.director.turn(1, &mut bus.shell);
    let fault = Fault::Stamp { position: 0, stamp: 99 };
    assert_eq!(bus.shell.faults, [(Peer::Session(key), fault)]);

    // The key stays taken, though nobody has mapped the session any more.
    bus.director.worker_dead(bus.workers[0].end.key, &mut bus.shell);
    assert_eq!(bus.shell.forgotten, [Peer::Worker(bus.workers[0].end.key)]);
    let _ = bus.director.turn(2, &mut bus.shell);
    bus.clients.iter().for_each(|client| bus.director.session_gone(client.key, &mut bus.shell));
    assert_eq!(bus.director.load(), Load::default());
    assert_eq!(bus.shell.faults.len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_director_is_a_few_lists(
        steps in proptest::collection::vec(step(), 1..80),
        waiting_per_route in 1..6u32,
        share_max in 1..3u64,
    ) {
        let mut bus = Bus::new(Settings { epoch: 1, waiting_per_route, share_max, ..Settings::default() });
        for step in &steps {
            bus.step(step)?;
        }
        bus.finish()?;
    }
}
