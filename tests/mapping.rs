//! Which workers are told to map a session, and when: the director's core over plain memory, with time as a number.

mod world;

use std::collections::BTreeMap;

use trine::director::core::{DirectorCore, Settings};
use trine::layout::{LINE, Request, SessionShape, WorkShape};
use trine::worker::core::Taken;
use trine::{Identity, Status};
use world::{Client, Control, Plain, Shell, Worker};

const SECOND: u64 = 1_000_000_000;
const WORKERS: usize = 4;
const SESSION: SessionShape =
    SessionShape { slots: 4, reply_capacity: 64, request_arena: 4096, reply_arena: 4096 };
const WORK: WorkShape = WorkShape { slots: 8 };

/// What workers are to map, as they are told to: (worker, (index, session)).
type Maps = Vec<(usize, (u16, usize))>;

/// A bus on which [`WORKERS`] workers provide `s`.`op`.
struct Bus {
    director: DirectorCore<Plain>,
    workers: Vec<Worker>,
    clients: BTreeMap<usize, Client>,
    shell: Shell,
}

impl Bus {
    fn new() -> Bus {
        let mut director = DirectorCore::new(Settings::default());
        let attach = |id| Worker::attach(&mut director, id, Identity::default(), WORK);
        let workers: Vec<Worker> = (1..=WORKERS as u64).map(attach).collect();
        for worker in &workers {
            assert_eq!(director.provide(worker.key, "s", 0, &["op"]), Status::Ok);
        }
        Bus { director, workers, clients: BTreeMap::new(), shell: Shell::default() }
    }

    fn turn(&mut self, now_ns: u64) {
        self.shell.now_ns = now_ns;
        self.director.turn(now_ns, &mut self.shell);
    }

    /// A session that says where its route leads: what workers are to map then.
    fn opened(&mut self, client: Client) -> Maps {
        let key = client.key;
        self.clients.insert(key, client);
        assert_eq!(self.director.open_route(key, 0, "s", "op", &mut self.shell), Status::Ok);
        self.shell.take_maps()
    }

    fn comes(&mut self, id: u64) -> Maps {
        let client = Client::attach(&mut self.director, id, Identity::default(), SESSION);
        self.opened(client)
    }

    fn comes_back(&mut self, id: u64) -> Maps {
        let client = Client::resume(&mut self.director, id, Identity::default(), SESSION);
        let key = client.key;
        let maps = self.opened(client);
        self.director.republished(key, self.shell.now_ns, &mut self.shell);
        maps
    }

    /// They have done so.
    fn map(&mut self, maps: &[(usize, (u16, usize))]) {
        for &(worker, (index, session)) in maps {
            let client = &self.clients[&session];
            self.workers[worker].map(index, client, &mut self.director, &mut self.shell);
        }
    }

    /// A session calls: which worker begins it, and what others are to map.
    fn call(&mut self, session: usize) -> (Option<usize>, Maps) {
        let client = self.clients.get_mut(&session).unwrap();
        client.submit(Request::default(), &[0; LINE], &mut self.shell).expect("a free slot");
        self.director.heat(session); // as its ring would
        let now_ns = self.shell.now_ns;
        self.turn(now_ns);
        let mut begun = None;
        for worker in &mut self.workers {
            if let Some(request) = worker.begin(now_ns, &mut self.shell) {
                worker.answer(request, &mut self.shell);
                begun = Some(worker.key);
            }
        }
        (begun, self.shell.take_maps())
    }
}

fn workers_of(maps: &Maps) -> Vec<usize> {
    maps.iter().map(|&(worker, _)| worker).collect()
}

#[test]
fn a_new_session_is_mapped_by_all_who_may_serve_it() {
    let mut bus = Bus::new();
    let maps = bus.comes(70);
    assert_eq!(workers_of(&maps), [0, 1, 2, 3]);
    assert_eq!(bus.call(maps[0].1.1).0, None, "nobody has mapped it yet");
    bus.map(&maps[2..3]);
    let (begun, more) = bus.call(maps[0].1.1);
    assert_eq!((begun, more), (Some(2), vec![]), "one is enough, and nobody is told twice");
}

#[test]
fn one_that_does_not_answer_is_told_of_few_and_keeps_no_session_waiting() {
    let mut bus = Bus::new();
    for n in 0..20 {
        let maps = bus.comes(70 + n);
        let told = workers_of(&maps);
        assert_eq!(told.contains(&0), n < 4, "session {n}: {told:?}");
        assert!(told.ends_with(&[1, 2, 3]), "session {n}: {told:?}");
        let living = maps.iter().filter(|&&(worker, _)| worker != 0).copied().collect::<Maps>();
        bus.map(&living);
        assert!(bus.call(maps[0].1.1).0.is_some_and(|worker| worker != 0), "session {n}");
    }
}

#[test]
fn a_session_that_nobody_has_time_for_is_mapped_by_who_knows_the_fewest() {
    let mut bus = Bus::new();
    let told: Vec<Maps> = (0..7).map(|n| bus.comes(70 + n)).collect();
    assert!(told[..4].iter().all(|maps| maps.len() == WORKERS));
    let later: Vec<usize> = told[4..].iter().flat_map(workers_of).collect();
    assert_eq!(later, [0, 1, 2], "one each");
}

#[test]
fn those_who_come_back_at_once_meet_one_worker_each_and_the_others_with_their_next_call() {
    let mut bus = Bus::new();
    bus.director.open_window(5 * SECOND);
    bus.shell.now_ns = SECOND;
    let told: Vec<Maps> = (0..8).map(|n| bus.comes_back(70 + n)).collect();
    let first: Vec<usize> = told.iter().flat_map(workers_of).collect();
    assert_eq!(first, [0, 1, 2, 3, 0, 1, 2, 3]);
    let session = told[5][0].1.1;
    bus.turn(SECOND);
    bus.map(&told[5]);
    assert_eq!(bus.call(session), (Some(1), vec![]), "others may be coming back");
    // Nobody has come for a while.
    bus.shell.now_ns += SECOND / 10;
    let (begun, maps) = bus.call(session);
    assert_eq!((begun, workers_of(&maps)), (Some(1), vec![0, 2, 3]));
}

#[test]
fn a_session_whose_one_worker_is_stopped_meets_the_others_when_nobody_comes_any_more() {
    // The second one comes just before the window ends.
    for came_ns in [SECOND, 5 * SECOND - SECOND / 200] {
        let mut bus = Bus::new();
        bus.director.open_window(5 * SECOND);
        bus.shell.now_ns = came_ns;
        let maps = bus.comes_back(70);
        assert_eq!(workers_of(&maps), [0], "and that one is stopped");
        assert_eq!(bus.call(maps[0].1.1), (None, vec![]));
        let mut now_ns = came_ns;
        while !bus.shell.any_maps() {
            bus.director.park();
            let wake_ns = bus.director.wake_at_ns();
            assert!(wake_ns > now_ns && wake_ns < came_ns + SECOND / 20, "{now_ns}, then {wake_ns}");
            bus.director.awake();
            now_ns = wake_ns;
            bus.turn(now_ns);
        }
        let others = bus.shell.take_maps();
        assert_eq!(workers_of(&others), [1, 2, 3]);
        bus.turn(now_ns + 1);
        assert!(
            bus.director.wake_at_ns() > now_ns + 1,
            "it does not wake for that any more, though the call waits"
        );
        bus.map(&others);
        bus.turn(now_ns + 1);
        assert!(bus.workers.iter_mut().any(|worker| worker.begin(now_ns + 1, &mut bus.shell).is_some()));
    }
}

#[test]
fn who_comes_back_again_and_again_does_not_keep_a_session_from_the_others() {
    let mut bus = Bus::new();
    bus.director.open_window(5 * SECOND);
    for n in 0..200 {
        bus.turn(n * SECOND / 100);
        let maps = bus.comes_back(70 + n);
        assert_eq!(maps.len(), if n < 100 { 1 } else { WORKERS }, "session {n}");
        bus.map(&maps);
    }
}

#[test]
fn words_about_sessions_that_nobody_asked_for_change_nothing() {
    let mut bus = Bus::new();
    let maps = bus.comes(70);
    bus.map(&maps);
    for index in [0, 1, u16::MAX] {
        bus.director.session_mapped(2, index, false, &mut bus.shell);
        bus.director.session_unmapped(2, index, &mut bus.shell);
        bus.director.session_mapped(99, index, true, &mut bus.shell);
    }
    assert_eq!(bus.call(maps[0].1.1), (Some(0), vec![]));
}

#[test]
fn a_record_of_a_session_that_is_gone_is_not_one_of_the_next_under_its_index() {
    // The third sessions of two directors, both of which have come back to a third one.
    let (old_id, new_id) = (889 << 32 | 2, 894 << 32 | 2);
    let mut bus = Bus::new();
    let maps = bus.comes(old_id);
    bus.map(&maps[..1]);
    let (worker, (index, session)) = maps[0];
    let client = bus.clients.get_mut(&session).unwrap();
    client.submit(Request::default(), &[0; LINE], &mut bus.shell).expect("a free slot");
    bus.director.heat(session);
    bus.turn(1);
    assert!(bus.workers[worker].core.is_ready(), "its call is in the ring");
    bus.director.session_gone(session, &mut bus.shell);
    for &(other, (index, _)) in &maps[1..] {
        bus.director.session_mapped(other, index, false, &mut bus.shell);
    }
    let gone = bus.shell.take(|control| matches!(control, Control::Unmap { .. }).then_some(()));
    assert_eq!(gone, [(worker, ())]);
    assert!(bus.workers[worker].core.retire_session(index), "nothing of it has begun");
    bus.director.session_unmapped(worker, index, &mut bus.shell);
    let maps = bus.comes(new_id);
    assert_eq!(maps[0].1.0, index, "the same index");
    bus.map(&maps[..1]);
    let taken = bus.workers[worker].core.take(2, &mut bus.shell);
    assert!(matches!(taken, Ok(Taken::Skipped)), "{taken:?}");
}
