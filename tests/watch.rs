//! The director's core and those who stand still, or come too late: over plain memory, with time as a number.

use std::cell::Cell;
use std::rc::Rc;

use trine::client::core::ClientCore;
use trine::core::ledger::Entry;
use trine::core::{Memory, Read, Write};
use trine::director::core::{DirectorCore, Peer, Settings, Told};
use trine::director::late::{Holds, holds_bit};
use trine::layout::{LINE, ReplyHead, Request, SessionShape, WorkShape};
use trine::resource::{Action, Resource};
use trine::worker::core::{Begun, Taken, WorkerCore};
use trine::{Fault, Identity, ServiceOptions, Status, Unheld};

const SECOND: u64 = 1_000_000_000;
const SESSION: SessionShape =
    SessionShape { slots: 4, reply_capacity: 64, request_arena: 4096, reply_arena: 4096 };
const WORK: WorkShape = WorkShape { slots: 8 };

/// Plain memory.
#[derive(Clone)]
struct Words(Rc<[Cell<u64>]>);

impl Words {
    fn new(words: usize) -> Words {
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
        if let Some(cell) = self.0.get(word) {
            cell.set(value);
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

/// What the director asks for that these tests look at.
#[derive(Default)]
struct Hands {
    to_map: Vec<(usize, u16)>,
    granted: Vec<(usize, Resource)>,
    forgotten_ledgers: Vec<u64>,
    /// Whether somebody will break the protocol, and who did.
    may_fault: bool,
    faults: Vec<(Peer, Fault)>,
}

impl trine::director::core::Effects for Hands {
    fn ring(&mut self, _: Peer) {}

    fn map_session(&mut self, worker: usize, index: u16, _: usize) {
        self.to_map.push((worker, index));
    }

    fn unmap_session(&mut self, _: usize, _: u16) {}

    fn fault(&mut self, peer: Peer, fault: Fault) {
        assert!(self.may_fault, "a fault of {peer:?}: {fault}");
        self.faults.push((peer, fault));
    }

    fn forget(&mut self, _: Peer) {}

    fn forget_ledger(&mut self, worker: u64) {
        self.forgotten_ledgers.push(worker);
    }

    fn clock_ns(&mut self) -> u64 {
        0
    }

    fn tell(&mut self, worker: usize, told: Told<'_>) {
        if let Told::Granted { resource, .. } = told {
            self.granted.push((worker, resource));
        }
    }
}

impl trine::client::core::Effects for Hands {
    fn ring_director(&mut self) {}
}

impl trine::worker::core::Effects for Hands {
    fn ring_client(&mut self, _: u64) {}

    fn ring_director(&mut self) {}

    fn clock_ns(&mut self) -> u64 {
        0
    }
}

/// A bus with one client.
struct Bus {
    director: DirectorCore<Plain>,
    client: ClientCore<Plain>,
    outbox: Words,
    inbox: Words,
    /// By the director's key.
    workers: Vec<WorkerCore<Plain>>,
    pages: Vec<Words>,
    hands: Hands,
    now_ns: u64,
}

/// The client's session.
const SESSION_ID: u64 = 77;

impl Bus {
    /// A bus on which so many workers provide `s`.`op`.
    fn new(workers: usize) -> Bus {
        let mut director = DirectorCore::new(Settings::default());
        let (outbox, inbox) = (Words::new(SESSION.outbox().words), Words::new(SESSION.inbox().words));
        let client = ClientCore::new(SESSION, outbox.clone(), inbox.clone());
        let mut hands = Hands::default();
        let (mut cores, mut pages) = (Vec::new(), Vec::new());
        for id in 1..=workers as u64 {
            let (work, page) = (Words::new(WORK.work().words), Words::new(WORK.progress().words));
            let key = director.attach_worker(id, Identity::default(), WORK, 0, work.clone(), page.clone());
            assert_eq!(key, Ok(cores.len()));
            pages.push(page.clone());
            cores.push(WorkerCore::new(id, WORK, 0, work, page));
            assert_eq!(director.provide(cores.len() - 1, "s", 0, &["op"]), Status::Ok);
        }
        director
            .attach_session(SESSION_ID, Identity::default(), SESSION, 0, outbox.clone(), inbox.clone())
            .expect("a session");
        let status = director.open_route(0, 0, "s", "op", &mut hands);
        assert!(workers == 0 || status == Status::Ok);
        let mut bus = Bus { director, client, outbox, inbox, workers: cores, pages, hands, now_ns: SECOND };
        for (worker, index) in std::mem::take(&mut bus.hands.to_map) {
            let (outbox, inbox) = (bus.outbox.clone(), bus.inbox.clone());
            bus.workers[worker].map_session(index, SESSION_ID, SESSION, outbox, inbox);
            bus.director.session_mapped(worker, index, true, &mut bus.hands);
        }
        bus
    }

    fn submit(&mut self) -> u64 {
        let slot = self.client.reserve().expect("a free slot");
        let name = self.client.submit(slot, Request::default(), &[0; LINE], &mut self.hands);
        self.director.heat(0); // as its ring would
        name
    }

    fn turn(&mut self) {
        self.director.turn(self.now_ns, &mut self.hands);
    }

    /// Lets time pass, in steps in which those who live look for work.
    fn pass(&mut self, seconds: u64, alive: &[usize]) {
        for _ in 0..seconds {
            self.now_ns += SECOND;
            for &worker in alive {
                assert!(matches!(
                    self.workers[worker].take(self.now_ns, &mut self.hands),
                    Ok(Taken::Nothing)
                ));
            }
            self.turn();
        }
    }

    fn begin(&mut self, worker: usize) -> Begun {
        match self.workers[worker].take(self.now_ns, &mut self.hands) {
            Ok(Taken::Begun(begun)) => begun,
            other => panic!("{other:?}"),
        }
    }

    fn answer(&mut self, worker: usize, begun: Begun) {
        self.workers[worker].reply(begun, ReplyHead::default(), &mut [0; LINE], &mut self.hands);
    }

    fn ended(&mut self, name: u64) -> Option<Status> {
        self.client.look(name, self.now_ns, &mut self.hands).map(|outcome| outcome.status)
    }
}

#[test]
fn who_stands_still_with_a_call_loses_it_by_verdict_and_is_a_worker_again_when_it_moves() {
    let mut bus = Bus::new(1);
    let call = bus.submit();
    bus.turn();
    assert!(bus.workers[0].is_ready());
    bus.pass(29, &[]);
    assert_eq!(bus.ended(call), None, "the limit is 30 s");
    bus.pass(3, &[]);
    assert_eq!(bus.ended(call), Some(Status::MayHaveRun));
    // There is nobody else: what comes now is not run, and is told so.
    let next = bus.submit();
    bus.turn();
    assert_eq!(bus.ended(next), Some(Status::NoWorker));
    // It moves, and finds that the call was given up.
    bus.now_ns += SECOND;
    assert!(matches!(bus.workers[0].take(bus.now_ns, &mut bus.hands), Ok(Taken::Skipped)));
    bus.pass(1, &[0]);
    let again = bus.submit();
    bus.turn();
    let begun = bus.begin(0);
    bus.answer(0, begun);
    assert_eq!(bus.ended(again), Some(Status::Ok));
}

#[test]
fn whoever_looks_for_work_does_not_stand_still_whatever_it_keeps() {
    let mut bus = Bus::new(1);
    let call = bus.submit();
    bus.turn();
    let kept = bus.begin(0);
    bus.pass(300, &[0]);
    assert_eq!(bus.ended(call), None);
    bus.answer(0, kept);
    assert_eq!(bus.ended(call), Some(Status::Ok));
}

#[test]
fn a_service_says_how_long_its_workers_may_stand_still() {
    for (limit, seconds) in [(2, 2), (100, 100)] {
        let mut bus = Bus::new(1);
        let options = ServiceOptions::default().stall(std::time::Duration::from_secs(limit));
        assert_eq!(bus.director.provide_with(0, "s", 0, &["op"], &options), Status::Ok);
        let call = bus.submit();
        bus.turn();
        bus.pass(seconds - 1, &[]);
        assert_eq!(bus.ended(call), None, "{limit} s");
        bus.pass(3, &[]);
        assert_eq!(bus.ended(call), Some(Status::MayHaveRun), "{limit} s");
    }
}

#[test]
fn who_shows_no_sign_of_life_is_given_work_only_where_nobody_does() {
    let mut bus = Bus::new(2);
    bus.pass(5, &[1]);
    for _ in 0..3 {
        let call = bus.submit();
        bus.turn();
        assert!(!bus.workers[0].is_ready(), "it has been silent for 3 s");
        let begun = bus.begin(1);
        bus.answer(1, begun);
        assert_eq!(bus.ended(call), Some(Status::Ok));
    }
    // Nobody shows one now: then a call goes to whoever is there.
    bus.pass(5, &[]);
    bus.submit();
    bus.turn();
    assert!(bus.workers.iter().any(|worker| worker.is_ready()));
}

#[test]
fn the_director_shows_a_sign_of_life_every_second_that_says_nothing_else() {
    let mut bus = Bus::new(0);
    for _ in 0..5 {
        let before = bus.client.directors_sign();
        bus.pass(1, &[]);
        let after = bus.client.directors_sign();
        assert!(after > before);
    }
    let parity = bus.client.directors_sign() & 1;
    bus.pass(3, &[]);
    assert_eq!(bus.client.directors_sign() & 1, parity, "as asleep or awake as before");
}

/// The page of a worker that comes too late.
fn late_page() -> (Words, WorkShape) {
    (Words::new(WORK.progress().words), WORK)
}

/// A director that inherits one worker's ledger with these tickets at positions 4, 5, …; its window ends at 2 s.
fn inherited(tickets: &[u64]) -> Bus {
    let mut bus = Bus::new(0);
    let entry = |(i, &ticket): (usize, &u64)| {
        (i as u16, Entry { position: 4 + i as u64, session: SESSION_ID, ticket })
    };
    let entries: Vec<_> = tickets.iter().enumerate().map(entry).collect();
    bus.director.inherit(9, &entries, false);
    bus.director.open_window(2 * SECOND);
    bus
}

#[test]
fn a_worker_that_comes_too_late_frees_what_it_never_began() {
    let mut bus = inherited(&[4, 5]);
    bus.pass(2, &[]);
    let status = |bus: &Bus, ticket: u64| {
        let at = bus.inbox.clone();
        let replies = trine::core::reply::Replies::<LINE>::new(SESSION.inbox().replies, 4);
        replies.take(&at, ticket, |_| false).map(|record| ReplyHead::of(&record).status)
    };
    assert_eq!((status(&bus, 4), status(&bus, 5)), (None, None), "nothing is taken back from the living");
    bus.director.too_late(9, 5, false, late_page(), &mut bus.hands);
    assert_eq!((status(&bus, 4), status(&bus, 5)), (None, Some(Status::NotBegun as u16)));
    // It dies before it has answered the other one.
    bus.director.inherited_dead(9, &mut bus.hands);
    assert_eq!(status(&bus, 4), Some(Status::WorkerDied as u16));
    bus.pass(1, &[]);
    assert_eq!(bus.hands.forgotten_ledgers, [9]);
}

#[test]
fn what_a_late_worker_may_hold_is_granted_when_it_has_answered_or_died() {
    for dies in [true, false] {
        let mut bus = inherited(&[4]);
        let mut holds = Holds::default();
        let (word, bit) = holds_bit("s");
        holds[word] |= bit;
        bus.director.inherit_rights(9, holds);
        bus.pass(2, &[]);
        let (work, page) = (Words::new(WORK.work().words), Words::new(WORK.progress().words));
        let key = bus.director.attach_worker(10, Identity::default(), WORK, 0, work, page).unwrap();
        let exclusive = ServiceOptions::default().exclusive(Unheld::Error);
        for service in ["s", "other"] {
            assert_eq!(bus.director.provide_with(key, service, 0, &["op"], &exclusive), Status::Ok);
            let claim = [(Action::Acquire, Resource::from(7))];
            assert_eq!(bus.director.change(key, service, &claim, &mut bus.hands), Status::Ok);
        }
        assert_eq!(bus.hands.granted.len(), 1, "in the service of which nothing is known");
        if dies {
            bus.director.inherited_dead(9, &mut bus.hands);
        } else {
            let (page, shape) = late_page();
            bus.director.too_late(9, 5, true, (page.clone(), shape), &mut bus.hands);
            bus.pass(1, &[]);
            assert_eq!(bus.hands.granted.len(), 1, "its program has not heard that it has lost anything");
            bus.director.too_late(9, 5, false, (page.clone(), shape), &mut bus.hands);
            bus.pass(1, &[]);
            assert_eq!(bus.hands.granted.len(), 1, "it has begun one, and not finished it");
            // Whose call it was is gone, and can't be asked.
            bus.director.session_gone(0, &mut bus.hands);
            page.store(shape.progress().done, 5);
            bus.pass(1, &[]);
        }
        assert_eq!(bus.hands.granted.len(), 2);
    }
}

#[test]
fn a_call_that_is_marked_done_and_not_answered_ends_by_verdict_and_its_worker_is_named() {
    let mut bus = Bus::new(1);
    let (honest, call) = (bus.submit(), bus.submit());
    bus.turn();
    let begun = bus.begin(0);
    bus.answer(0, begun);
    let begun = bus.begin(0);
    bus.pass(2, &[0]);
    assert_eq!(bus.ended(honest), Some(Status::Ok));
    assert_eq!(bus.ended(call), None, "it is in its worker's hands");

    let (at, entry) = (WORK.progress(), usize::from(begun.request.entry));
    bus.pages[0].store(at.completed, 2);
    bus.pages[0].store(at.done + entry, bus.workers[0].taken());
    bus.hands.may_fault = true;
    bus.pass(2, &[0]);
    assert_eq!(bus.ended(call), Some(Status::MayHaveRun));
    let ticket = begun.request.ticket;
    assert_eq!(bus.hands.faults, [(Peer::Worker(0), Fault::Unanswered { ticket })]);
}

#[test]
fn a_call_whose_worker_marked_it_done_and_died_ends_too() {
    let mut bus = Bus::new(1);
    let call = bus.submit();
    bus.turn();
    let begun = bus.begin(0);
    let (at, entry) = (WORK.progress(), usize::from(begun.request.entry));
    bus.pages[0].store(at.completed, 1);
    bus.pages[0].store(at.done + entry, 1);
    // So many more that the entry is used again: then the director has nothing in its books of the first.
    for n in 0..u64::from(WORK.slots) {
        let more = bus.submit();
        bus.turn();
        let begun = bus.begin(0);
        bus.answer(0, begun);
        assert_eq!(bus.ended(more), Some(Status::Ok), "call {n}");
        let slot = bus.client.slot_of(more);
        bus.client.release(slot);
    }
    bus.director.worker_dead(0, &mut bus.hands);
    assert_eq!(bus.ended(call), None);
    bus.pass(1, &[]);
    assert_eq!(bus.ended(call), Some(Status::WorkerDied));
}
