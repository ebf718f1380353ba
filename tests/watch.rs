//! The director's core and those who stand still, or come too late: over plain memory, with time as a number.

mod world;

use trine::core::Write;
use trine::core::ledger::Entry;
use trine::director::core::{DirectorCore, Peer, Settings};
use trine::director::late::{Holds, holds_bit};
use trine::director::recovery::CarriedOver;
use trine::layout::{LINE, ReplyHead, Request, SessionShape, WorkShape, flag};
use trine::resource::{Action, Resource};
use trine::worker::core::{Begun, Taken};
use trine::{Fault, Identity, ServiceOptions, Status, Unheld};
use world::{Client, Control, Plain, Shell, Words, Worker};

const SECOND: u64 = 1_000_000_000;
const SESSION: SessionShape =
    SessionShape { slots: 4, reply_capacity: 64, request_arena: 4096, reply_arena: 4096 };
const WORK: WorkShape = WorkShape { slots: 8 };

/// A bus with one client.
struct Bus {
    director: DirectorCore<Plain>,
    client: Client,
    /// By the director's key.
    workers: Vec<Worker>,
    shell: Shell,
    now_ns: u64,
}

/// The client's session.
const SESSION_ID: u64 = 77;

impl Bus {
    /// A bus on which so many workers provide `s`.`op`.
    fn new(workers: usize) -> Bus {
        let (mut director, mut shell) = (DirectorCore::new(Settings::default()), Shell::default());
        let attach = |id| Worker::attach(&mut director, id, Identity::default(), WORK);
        let mut workers: Vec<Worker> = (1..=workers as u64).map(attach).collect();
        for worker in &workers {
            assert_eq!(director.provide(worker.key, "s", 0, &["op"]), Status::Ok);
        }
        let client = Client::attach(&mut director, SESSION_ID, Identity::default(), SESSION);
        let status = director.open_route(client.key, 0, "s", "op", &mut shell);
        assert!(workers.is_empty() || status == Status::Ok);
        for (worker, (index, _)) in shell.take_maps() {
            workers[worker].map(index, &client, &mut director, &mut shell);
        }
        Bus { director, client, workers, shell, now_ns: SECOND }
    }

    fn submit(&mut self) -> u64 {
        self.submit_request(Request::default())
    }

    fn submit_request(&mut self, request: Request) -> u64 {
        let name = self.client.submit(request, &[0; LINE], &mut self.shell).expect("a free slot");
        self.director.heat(0); // as its ring would
        name
    }

    fn turn(&mut self) {
        self.director.turn(self.now_ns, &mut self.shell);
    }

    /// Lets time pass, in steps in which those who live look for work.
    fn pass(&mut self, seconds: u64, alive: &[usize]) {
        for _ in 0..seconds {
            self.now_ns += SECOND;
            for &worker in alive {
                assert!(matches!(
                    self.workers[worker].core.take(self.now_ns, &mut self.shell),
                    Ok(Taken::Nothing)
                ));
            }
            self.turn();
        }
    }

    /// Sleeps as long as the director would, if nobody rings it: not for longer than it may show no sign of life.
    fn sleep(&mut self) {
        let wake_ns = self.director.wake_at_ns().min(self.director.beats_at_ns());
        assert!(wake_ns <= self.now_ns + SECOND, "it sleeps for too long: until {wake_ns}");
        self.now_ns = wake_ns.max(self.now_ns);
        self.turn();
    }

    fn begin(&mut self, worker: usize) -> Begun {
        self.workers[worker].begin(self.now_ns, &mut self.shell).expect("a call")
    }

    fn answer(&mut self, worker: usize, begun: Begun) {
        self.workers[worker].answer(begun, &mut self.shell);
    }

    fn ended(&mut self, name: u64) -> Option<Status> {
        self.client.ended(name, self.now_ns, &mut self.shell).map(|outcome| outcome.status)
    }

    /// What stands in the reply slot of a ticket.
    fn answer_to(&self, ticket: u64) -> Option<u16> {
        let replies = trine::core::reply::Replies::<LINE>::new(SESSION.inbox().replies, 4);
        let record = replies.take(&self.client.inbox, ticket, |_| false)?;
        Some(ReplyHead::of(&record).status)
    }

    /// How many rights workers were told of since.
    fn granted(&mut self) -> usize {
        self.shell.take(|control| matches!(control, Control::Granted { .. }).then_some(())).len()
    }
}

#[test]
fn who_stands_still_with_a_call_loses_it_by_verdict_and_is_a_worker_again_when_it_moves() {
    let mut bus = Bus::new(1);
    let call = bus.submit();
    bus.turn();
    assert!(bus.workers[0].core.is_ready());
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
    assert!(matches!(bus.workers[0].core.take(bus.now_ns, &mut bus.shell), Ok(Taken::Skipped)));
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
        assert!(!bus.workers[0].core.is_ready(), "it has been silent for 3 s");
        let begun = bus.begin(1);
        bus.answer(1, begun);
        assert_eq!(bus.ended(call), Some(Status::Ok));
    }
    // Nobody shows one now: then a call goes to whoever is there.
    bus.pass(5, &[]);
    bus.submit();
    bus.turn();
    assert!(bus.workers.iter().any(|worker| worker.core.is_ready()));
}

#[test]
fn the_director_shows_a_sign_of_life_every_second_that_says_nothing_else() {
    let mut bus = Bus::new(0);
    for _ in 0..5 {
        let before = bus.client.core.directors_sign();
        bus.pass(1, &[]);
        let after = bus.client.core.directors_sign();
        assert!(after > before);
    }
    let parity = bus.client.core.directors_sign() & 1;
    bus.pass(3, &[]);
    assert_eq!(bus.client.core.directors_sign() & 1, parity, "as asleep or awake as before");
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
    assert_eq!((bus.answer_to(4), bus.answer_to(5)), (None, None), "nothing is taken back from the living");
    bus.director.too_late(9, 5, false, late_page(), &mut bus.shell);
    assert_eq!((bus.answer_to(4), bus.answer_to(5)), (None, Some(Status::NotBegun as u16)));
    // It dies before it has answered the other one.
    bus.director.inherited_dead(9, &mut bus.shell);
    assert_eq!(bus.answer_to(4), Some(Status::WorkerDied as u16));
    bus.pass(1, &[]);
    assert_eq!(bus.shell.forgotten_ledgers, [9]);
}

#[test]
fn a_worker_that_came_in_time_and_is_heard_of_after_the_window_frees_what_it_never_began() {
    let mut bus = inherited(&[4, 5]);
    bus.pass(2, &[]);
    // It had begun the first, and that is carried over; nobody else will ever say what has become of the second.
    let entry = Entry { position: 4, session: SESSION_ID, ticket: 4 };
    let carried = CarriedOver { start: 6, taken: 5, entries: vec![(0, entry)], holds: Holds::default() };
    let (work, (page, _)) = (Words::new(WORK.work().words), late_page());
    page.store(WORK.progress().taken, 5);
    let back =
        bus.director.resume_worker(9, Identity::default(), WORK, &carried, (work, page), &mut bus.shell);
    let back = back.expect("room");
    assert_eq!((bus.answer_to(4), bus.answer_to(5)), (None, Some(Status::NotBegun as u16)));
    // It is a worker as any other, with one call in its hands that ends with it.
    assert_eq!(bus.director.provide(back, "s", 0, &["op"]), Status::Ok);
    bus.director.provided_again(back, &mut bus.shell);
    bus.director.worker_dead(back, &mut bus.shell);
    assert_eq!(bus.answer_to(4), Some(Status::WorkerDied as u16));
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
        let key = Worker::attach(&mut bus.director, 10, Identity::default(), WORK).key;
        let exclusive = ServiceOptions::default().exclusive(Unheld::Error);
        for service in ["s", "other"] {
            assert_eq!(bus.director.provide_with(key, service, 0, &["op"], &exclusive), Status::Ok);
            let claim = [(Action::Acquire, Resource::from(7))];
            assert_eq!(bus.director.change(key, service, &claim, &mut bus.shell), Status::Ok);
        }
        assert_eq!(bus.granted(), 1, "in the service of which nothing is known");
        if dies {
            bus.director.inherited_dead(9, &mut bus.shell);
        } else {
            let (page, shape) = late_page();
            bus.director.too_late(9, 5, true, (page.clone(), shape), &mut bus.shell);
            bus.pass(1, &[]);
            assert_eq!(bus.granted(), 0, "its program has not heard that it has lost anything");
            bus.director.too_late(9, 5, false, (page.clone(), shape), &mut bus.shell);
            bus.pass(1, &[]);
            assert_eq!(bus.granted(), 0, "it has begun one, and not finished it");
            // Whose call it was is gone, and can't be asked.
            bus.director.session_gone(0, &mut bus.shell);
            page.store(shape.progress().done, 5);
            bus.pass(1, &[]);
        }
        assert_eq!(bus.granted(), 1);
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

    let (at, entry) = (WORK.progress(), usize::from(begun.request().entry));
    bus.workers[0].page.store(at.completed, 2);
    bus.workers[0].page.store(at.done + entry, bus.workers[0].core.taken());
    bus.shell.may_fault = true;
    bus.pass(2, &[0]);
    assert_eq!(bus.ended(call), Some(Status::MayHaveRun));
    let ticket = begun.request().ticket;
    assert_eq!(bus.shell.faults, [(Peer::Worker(0), Fault::Unanswered { ticket })]);
}

#[test]
fn a_done_mark_is_looked_into_though_nothing_else_happens() {
    let mut bus = Bus::new(1);
    let call = bus.submit();
    bus.turn();
    let begun = bus.begin(0);
    let (at, entry) = (WORK.progress(), usize::from(begun.request().entry));
    bus.workers[0].page.store(at.completed, 1);
    bus.turn();
    bus.sleep();
    bus.workers[0].page.store(at.done + entry, 1);
    bus.shell.may_fault = true;
    bus.sleep();
    assert_eq!(bus.ended(call), Some(Status::MayHaveRun));
    assert_eq!(bus.shell.faults.len(), 1);
}

#[test]
fn a_director_shows_signs_of_life_as_long_as_a_call_may_take() {
    let mut bus = Bus::new(1);
    let options = ServiceOptions::default().stall(std::time::Duration::MAX);
    assert_eq!(bus.director.provide_with(0, "s", 0, &["op"], &options), Status::Ok);
    let call = bus.submit();
    bus.turn();
    let begun = bus.begin(0);
    for _ in 0..3 {
        let before = bus.client.core.directors_sign();
        bus.sleep();
        assert!(bus.client.core.directors_sign() > before);
    }
    bus.answer(0, begun);
    assert_eq!(bus.ended(call), Some(Status::Ok));
    bus.sleep();
    assert_eq!(bus.director.beats_at_ns(), u64::MAX, "nothing is open");
}

#[test]
fn a_director_shows_signs_of_life_as_long_as_a_call_waits_for_a_holder() {
    let mut bus = Bus::new(1);
    let options = ServiceOptions::default().exclusive(Unheld::Wait);
    assert_eq!(bus.director.provide_with(0, "s", 0, &["op"], &options), Status::Ok);
    let call = bus.submit_request(Request { flags: flag::HAS_KEY, key: 7, ..Request::default() });
    bus.turn();
    for _ in 0..3 {
        let before = bus.client.core.directors_sign();
        bus.sleep();
        assert!(bus.client.core.directors_sign() > before);
    }
    assert_eq!(bus.ended(call), None);
}

#[test]
fn a_director_shows_signs_of_life_as_long_as_others_may_come_back() {
    let mut bus = inherited(&[4]);
    bus.director.open_window(4 * SECOND);
    for _ in 0..3 {
        let before = bus.client.core.directors_sign();
        bus.sleep();
        assert!(bus.client.core.directors_sign() > before);
    }
}

#[test]
fn a_call_whose_worker_marked_it_done_and_died_ends_too() {
    let mut bus = Bus::new(1);
    let call = bus.submit();
    bus.turn();
    let begun = bus.begin(0);
    let (at, entry) = (WORK.progress(), usize::from(begun.request().entry));
    bus.workers[0].page.store(at.completed, 1);
    bus.workers[0].page.store(at.done + entry, 1);
    // So many more that the entry is used again: then the director has nothing in its books of the first.
    for n in 0..u64::from(WORK.slots) {
        let more = bus.submit();
        bus.turn();
        let begun = bus.begin(0);
        bus.answer(0, begun);
        assert_eq!(bus.ended(more), Some(Status::Ok), "call {n}");
    }
    bus.director.worker_dead(0, &mut bus.shell);
    assert_eq!(bus.ended(call), None);
    bus.pass(1, &[]);
    assert_eq!(bus.ended(call), Some(Status::WorkerDied));
}
