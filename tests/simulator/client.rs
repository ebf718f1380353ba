//! A client with a random program: it submits, waits, gives up, and closes.

use trine::Status;
use trine::client::core::{ClientCore, Effects, Outcome};
use trine::core::{Party, Turn, block_on};
use trine::layout::{Place, Request, flag, place};

use crate::simulator::coverage::Seen;
use crate::simulator::memory::{Cpu, Role, Segment, Sim};
use crate::simulator::plan::DIRECTOR;
use crate::simulator::worker::OPERATIONS;
use crate::simulator::world::{SimOs, ToDirector, ToPeer};

/// The bell.
struct Bell<'c>(&'c Cpu<'c>);

impl Effects for Bell<'_> {
    fn ring_director(&mut self) {
        self.0.world.ring(self.0.party, DIRECTOR);
    }
}

/// What a wait is for.
enum For {
    /// This call's end.
    One(u64),
    /// Any call's end.
    Any,
    /// A free slot.
    Slot,
    /// All slots back.
    Unused,
}

/// What it brought.
enum Found {
    Ended(u64, Outcome),
    Slot(u32),
    /// All slots are back, or will never be.
    Nothing,
}

struct Client<'c> {
    cpu: &'c Cpu<'c>,
    /// Which of all sessions this is.
    session: usize,
    core: ClientCore<Sim<'c>>,
    /// Open calls: their names, and what the referee calls them.
    calls: Vec<(u64, u64)>,
    /// Slots whose outcome was looked at, not yet released.
    held: Vec<u32>,
    /// There is no director any more.
    abandoned: bool,
}

/// A wait, as the shipped loop drives it.
struct Wait<'a, 'c> {
    client: &'a mut Client<'c>,
    what: For,
}

impl Party for Wait<'_, '_> {
    type Out = Found;

    fn turn(&mut self, now_ns: u64) -> Turn<Found> {
        let fx = &mut Bell(self.client.cpu);
        let client = &mut *self.client;
        if client.cpu.world.director_is_dead() && !client.abandoned {
            client.abandoned = true;
            client.core.abandon(Status::MayHaveRun, fx);
        }
        if !matches!(self.what, For::One(_)) {
            client.core.reclaim(now_ns, fx);
        }
        let name = match self.what {
            For::One(name) => name,
            For::Any => match client.core.any_ended(now_ns, fx) {
                Some(name) => name,
                None => return Turn::Idle,
            },
            For::Slot => {
                return match client.core.reserve() {
                    Some(slot) => Turn::Done(Found::Slot(slot)),
                    None if client.is_lost() => Turn::Done(Found::Nothing),
                    None => Turn::Idle,
                };
            }
            For::Unused if client.core.is_unused() || client.is_lost() => return Turn::Done(Found::Nothing),
            For::Unused => return Turn::Idle,
        };
        match client.core.look(name, now_ns, fx) {
            Some(outcome) => Turn::Done(Found::Ended(name, outcome)),
            None => Turn::Idle,
        }
    }

    fn park(&mut self) {
        self.client.core.park();
    }

    fn awake(&mut self) {
        self.client.core.awake();
    }

    fn wake_at_ns(&self) -> u64 {
        match self.what {
            For::One(name) => self.client.core.deadline_ns(name),
            _ => self.client.core.next_deadline_ns(),
        }
    }
}

/// Runs a client from its first attachment to its end.
pub fn run(cpu: &Cpu<'_>) {
    loop {
        let went_on = run_session(cpu).is_some();
        if !went_on || cpu.world.chance(60) {
            return;
        }
        cpu.world.saw(Seen::NewSession);
    }
}

/// Runs the program in one session. `None`: there is no director.
fn run_session(cpu: &Cpu<'_>) -> Option<()> {
    let (world, place) = (&cpu.world, &cpu.world.places[cpu.party]);
    let shape = world.plan.session;
    let session = world.referee.borrow_mut().new_session();
    let outbox = Segment::new(Role::Outbox(cpu.party, shape), session);
    let inbox = Segment::new(Role::Inbox(cpu.party, shape), session);
    let core = ClientCore::new(shape, cpu.map(&outbox), cpu.map(&inbox));
    world.send_director(cpu.party, ToDirector::AttachSession { shape, outbox, inbox });
    place.waits_for.set("its attachment");
    let ToPeer::Attached { id } = world.answer_of_director(cpu)? else { return None };
    world.note(cpu.party, || format!("is session {id:#x}"));
    open_routes(cpu);

    let mut client = Client { cpu, session, core, calls: Vec::new(), held: Vec::new(), abandoned: false };
    let closes_early = world.chance(15);
    for _ in 0..world.plan.program {
        client.act();
    }
    if closes_early && client.core.open() > 0 {
        world.saw(Seen::ClosedWithCallsOpen);
    } else {
        client.finish();
    }
    world.send_director(cpu.party, ToDirector::CloseSession);
    Some(())
}

/// Opens a route to each operation; where none provides it yet, a few times.
fn open_routes(cpu: &Cpu<'_>) {
    let world = &cpu.world;
    world.places[cpu.party].waits_for.set("its routes");
    for (number, (service, operation)) in OPERATIONS.into_iter().enumerate() {
        for _ in 0..4 {
            let number = number as u32;
            world.send_director(cpu.party, ToDirector::OpenRoute { number, service, operation });
            match world.answer_of_director(cpu) {
                Some(ToPeer::RouteOpened { status: Status::Ok }) | None => break,
                _ => cpu.sleep(world.now_ns.get() + world.plan.step_ns * 100),
            }
        }
    }
}

impl<'c> Client<'c> {
    /// One step of the program.
    fn act(&mut self) {
        let world = &self.cpu.world;
        match world.below(10) {
            0..6 => self.submit(),
            6 if !self.calls.is_empty() => {
                let i = world.below(self.calls.len() as u64) as usize;
                self.wait(For::One(self.calls[i].0));
            }
            7 if !self.calls.is_empty() => {
                self.wait(For::Any);
            }
            8 if !self.calls.is_empty() && world.chance(60) => {
                let i = world.below(self.calls.len() as u64) as usize;
                let (name, id) = self.calls.swap_remove(i);
                world.note(self.cpu.party, || format!("gives up call {id}"));
                world.referee.borrow_mut().given_up(world, id);
                self.core.cancel(name);
            }
            _ => self.cpu.pause(),
        }
    }

    /// Whether what is still out will never come back: somebody hangs for ever with the right, or the director died
    /// with it.
    fn is_lost(&self) -> bool {
        let lost = self.cpu.world.hung_for_ever.get() || self.abandoned;
        lost && self.core.open() == 0 && self.core.quarantined() > 0
    }

    /// Waits until it is there; only a wait for a slot brings one.
    fn wait(&mut self, what: For) -> Option<u32> {
        self.cpu.world.places[self.cpu.party].waits_for.set(match what {
            For::One(_) => "a call",
            For::Any => "any call",
            For::Slot => "a slot",
            For::Unused => "its slots to come back",
        });
        let (cpu, yields) = (self.cpu, 0);
        match block_on(&mut Wait { client: self, what }, &mut SimOs { cpu, yields }) {
            Found::Ended(name, outcome) => self.ended(name, &outcome),
            Found::Slot(slot) => return Some(slot),
            Found::Nothing => {}
        }
        None
    }

    fn ended(&mut self, name: u64, outcome: &Outcome) {
        let world = &self.cpu.world;
        let Some(i) = self.calls.iter().position(|&(n, _)| n == name) else {
            return world.fail(|| format!("a call named {name} ended that is not open"));
        };
        let (_, id) = self.calls.swap_remove(i);
        let may = outcome.may_have_run;
        world.note(self.cpu.party, || format!("call {id} ended {} (may have run: {may})", outcome.status));
        world.referee.borrow_mut().ended(world, id, outcome);
        let slot = self.core.slot_of(name);
        if world.chance(20) {
            self.held.push(slot);
        } else {
            self.core.release(slot);
        }
    }

    fn release_held(&mut self) {
        for slot in std::mem::take(&mut self.held) {
            self.core.release(slot);
        }
    }

    /// A free slot: at once, or after what would free one. The slot of a call that has ended is free only when its
    /// outcome was looked at.
    fn slot(&mut self) -> Option<u32> {
        loop {
            if let Some(slot) = self.core.reserve() {
                return Some(slot);
            }
            self.release_held();
            if self.calls.is_empty() {
                return self.wait(For::Slot);
            }
            self.wait(For::Any);
        }
    }

    fn submit(&mut self) {
        let Some(slot) = self.slot() else { return };
        if self.abandoned {
            self.core.release(slot);
            return;
        }
        let world = &self.cpu.world;
        let mut request = Request { capacity: 64, ..Request::default() };
        request.operation = if world.chance(5) { 9 } else { world.below(OPERATIONS.len() as u64) as u32 };
        request.len = if world.chance(70) { 16 } else { 40 };
        if world.chance(15) {
            request.flags |= flag::ONE_WAY;
            world.saw(Seen::OneWay);
        }
        if world.chance(10) {
            request.flags |= flag::TRACED;
            world.saw(Seen::Traced);
        }
        if world.plan.deadlines && world.chance(50) {
            request.deadline_ns = world.now_ns.get() + world.some_ns(800);
        }
        let one_way = request.flags & flag::ONE_WAY != 0;
        let id = world.referee.borrow_mut().submitted(request.operation as usize, request.deadline_ns);
        let mut record = [0; 16];
        let at = if place(request.len as usize, request.flags) == Place::Head { 6 } else { 8 };
        record[at..at + 2].copy_from_slice(&[id, !id]);
        world.note(self.cpu.party, || format!("submits call {id} in slot {slot}: {request:?}"));
        let name = self.core.submit(slot, request, &record, &mut Bell(self.cpu));
        if !one_way {
            self.calls.push((name, id));
        }
    }

    /// Waits for all that is open, and for all slots.
    fn finish(&mut self) {
        while !self.calls.is_empty() {
            let what = if self.cpu.world.chance(50) { For::Any } else { For::One(self.calls[0].0) };
            self.wait(what);
        }
        self.release_held();
        self.wait(For::Unused);
        let world = &self.cpu.world;
        let spent = world.referee.borrow().all_spent(self.session);
        if self.core.is_unused() && !spent {
            world.fail(|| "all slots are back, but a right is out".into());
        }
    }
}
