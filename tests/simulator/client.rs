//! A client with a random program: it submits, waits, gives up, and closes.

use std::rc::Rc;

use trine::client::core::{ClientCore, Effects, Outcome};
use trine::client::group::{Looked, PartEnd};
use trine::core::{Party, Turn, block_on};
use trine::layout::{Place, Request, flag, place};
use trine::{Status, Unheld};

use crate::simulator::coverage::Seen;
use crate::simulator::holdings::{KEYS, words};
use crate::simulator::memory::{Cpu, Role, Segment, Sim};
use crate::simulator::plan::{DIRECTOR, Mutation};
use crate::simulator::referee::Call;
use crate::simulator::scatter::Scatter;
use crate::simulator::worker::{OPERATIONS, PLAIN};
use crate::simulator::world::{SimOs, ToDirector, ToPeer};

/// The bell.
pub struct Bell<'c>(pub &'c Cpu<'c>);

impl Effects for Bell<'_> {
    fn ring_director(&mut self) {
        self.0.world.ring(self.0.party, DIRECTOR);
    }
}

/// What a wait is for.
enum For {
    /// This call's end.
    One(u64),
    /// Any call's end, or a part's.
    Any,
    /// The end of a part of this scatter.
    Part(u64),
    /// A free slot.
    Slot,
    /// All slots back.
    Unused,
}

/// What it brought.
enum Found {
    Ended(u64, Outcome),
    Part(u64, PartEnd),
    /// A scatter has no more parts.
    Done(u64),
    Slot(u32),
    /// All slots are back, or will never be.
    Nothing,
}

/// A client.
pub struct Client<'c> {
    pub cpu: &'c Cpu<'c>,
    /// Which of all sessions this is.
    pub session: usize,
    /// What the director called it.
    id: u64,
    memory: [Rc<Segment>; 2],
    /// Which operations it has a route to.
    pub routes: [bool; OPERATIONS.len()],
    pub core: ClientCore<Sim<'c>>,
    /// Open calls: their names, and what the referee calls them.
    calls: Vec<(u64, u64)>,
    pub scatters: Vec<Scatter>,
    /// Slots whose outcome was looked at, not yet released.
    held: Vec<u32>,
    /// There is a director, as far as it knows.
    attached: bool,
    /// The last director that has heard of all that was open.
    settled: u64,
    /// Since when there is none.
    lost_ns: u64,
    look_at_ns: u64,
    /// The director's last sign of life, and when it came.
    sign: (u64, u64),
    /// A director did not know this session.
    pub unknown: bool,
}

/// A wait, as the shipped loop drives it.
struct Wait<'a, 'c> {
    client: &'a mut Client<'c>,
    what: For,
}

impl Party for Wait<'_, '_> {
    type Out = Found;

    fn turn(&mut self, now_ns: u64) -> Turn<Found> {
        if let Some(found) = self.find(now_ns) {
            return Turn::Done(found);
        }
        let client = &mut *self.client;
        let world = &client.cpu.world;
        if client.attached && !world.is_connected(client.cpu.party) {
            world.note(client.cpu.party, || "has lost its director".into());
            (client.attached, client.lost_ns) = (false, now_ns);
            client.look_at_ns = now_ns;
        }
        client.watch_director(now_ns);
        if !client.attached && !client.unknown && now_ns >= client.look_at_ns {
            client.look_for_director(now_ns);
            if let Some(found) = self.find(now_ns) {
                return Turn::Done(found);
            }
        }
        Turn::Idle
    }

    fn park(&mut self) {
        self.client.core.park();
    }

    fn awake(&mut self) {
        self.client.core.awake();
    }

    fn wake_at_ns(&self) -> u64 {
        let client = &self.client;
        let deadline_ns = match self.what {
            For::One(name) => client.core.deadline_ns(name),
            For::Part(name) => client.core.group_deadline_ns(name),
            _ => client.core.next_deadline_ns(),
        };
        let looks = !client.attached && !client.unknown;
        let look_ns =
            if looks { client.look_at_ns } else { client.sign.1.saturating_add(client.gone_after_ns()) };
        deadline_ns.min(look_ns)
    }
}

impl Wait<'_, '_> {
    /// What is waited for, if it is there.
    fn find(&mut self, now_ns: u64) -> Option<Found> {
        let fx = &mut Bell(self.client.cpu);
        let client = &mut *self.client;
        if !matches!(self.what, For::One(_) | For::Part(_)) {
            client.core.reclaim(now_ns, fx);
        }
        let name = match self.what {
            For::One(name) | For::Part(name) => name,
            For::Any => client.core.any_ended(now_ns, fx)?,
            For::Slot => {
                return match client.core.reserve() {
                    Some(slot) => Some(Found::Slot(slot)),
                    None => client.is_lost().then_some(Found::Nothing),
                };
            }
            For::Unused => {
                return (client.core.is_unused() || client.is_lost()).then_some(Found::Nothing);
            }
        };
        if client.scatters.iter().any(|s| s.name == name) {
            return match client.core.look_group(name, now_ns, fx) {
                Looked::Part(end) => Some(Found::Part(name, end)),
                Looked::Done => Some(Found::Done(name)),
                Looked::Open => None,
            };
        }
        Some(Found::Ended(name, client.core.look(name, now_ns, fx)?))
    }
}

/// Runs a client from its first attachment to its end.
pub fn run(cpu: &Cpu<'_>) {
    loop {
        match run_session(cpu) {
            None if cpu.world.is_orphaned() => return,
            None => {}
            Some(()) if cpu.world.plan.one_call || cpu.world.chance(60) => return,
            Some(()) => cpu.world.saw(Seen::NewSession),
        }
    }
}

/// Runs the program in one session. `None`: the director went away before there was one.
fn run_session(cpu: &Cpu<'_>) -> Option<()> {
    let (world, place) = (&cpu.world, &cpu.world.places[cpu.party]);
    place.waits_for.set("its attachment");
    if !world.connect_at_last(cpu) {
        return None;
    }
    let shape = world.plan.session;
    let session = world.referee.borrow_mut().new_session();
    let outbox = Segment::new(Role::Outbox(cpu.party, shape), session);
    let inbox = Segment::new(Role::Inbox(cpu.party, shape), session);
    let core = ClientCore::new(shape, cpu.map(&outbox), cpu.map(&inbox));
    let memory = [outbox.clone(), inbox.clone()];
    world.send_director(
        cpu.party,
        ToDirector::AttachSession { id: 0, published: 0, settled: 0, shape, outbox, inbox },
    );
    let ToPeer::Attached { id } = world.answer_of_director(cpu)? else { return None };
    world.note(cpu.party, || format!("is session {id:#x}"));

    let mut client = Client {
        cpu,
        session,
        id,
        memory,
        routes: [false; OPERATIONS.len()],
        core,
        calls: Vec::new(),
        scatters: Vec::new(),
        held: Vec::new(),
        attached: true,
        settled: world.places[cpu.party].connection.get(),
        lost_ns: 0,
        look_at_ns: 0,
        sign: (0, u64::MAX),
        unknown: false,
    };
    client.open_routes();
    let closes_early = !world.plan.one_call && world.chance(15);
    for _ in 0..if world.plan.one_call { 0 } else { world.plan.program } {
        client.act();
    }
    if world.plan.one_call && client.routes[if world.plan.keyed { PLAIN } else { 0 }] {
        if world.plan.scatter { client.scatter() } else { client.submit() }
    }
    if closes_early && client.core.open() > 0 {
        world.saw(Seen::ClosedWithCallsOpen);
    } else {
        client.finish();
    }
    if client.attached {
        world.send_director(cpu.party, ToDirector::CloseSession);
    }
    Some(())
}

impl<'c> Client<'c> {
    /// How many operations there are.
    fn operations(&self) -> usize {
        if self.cpu.world.plan.exclusive.is_some() { OPERATIONS.len() } else { PLAIN }
    }

    /// Opens a route to each operation; where none provides it yet, a few times. Whether the director lives is seen
    /// when something is waited for.
    fn open_routes(&mut self) {
        let (cpu, world) = (self.cpu, &self.cpu.world);
        world.places[cpu.party].waits_for.set("its routes");
        for number in 0..self.operations() {
            for _ in 0..4 {
                match self.ask_route(number) {
                    Some(Status::Ok) => self.routes[number] = true,
                    Some(_) => {
                        cpu.sleep(world.now_ns.get() + world.plan.step_ns * 100);
                        continue;
                    }
                    None => {}
                }
                break;
            }
        }
    }

    /// `None`: the director is gone.
    fn ask_route(&self, number: usize) -> Option<Status> {
        let (world, (service, operation)) = (&self.cpu.world, OPERATIONS[number]);
        let ask = ToDirector::OpenRoute { number: number as u32, service, operation };
        world.send_director(self.cpu.party, ask);
        match world.answer_of_director(self.cpu)? {
            ToPeer::RouteOpened { status } => Some(status),
            _ => None,
        }
    }

    /// Without a director: comes back to the next one, or gives up what nobody will end.
    fn look_for_director(&mut self, now_ns: u64) {
        let (world, party) = (&self.cpu.world, self.cpu.party);
        if world.chance(world.plan.mishaps) {
            let rung = self.cpu.sleep(now_ns + world.some_ns(2 * world.plan.window));
            // It is away, not at its doorbell.
            world.places[party].rung.set(rung || world.places[party].rung.get());
        }
        self.look_at_ns = world.look_again_ns();
        if world.connect(party) {
            self.attached = self.come_back().is_some() && world.is_connected(party);
        } else if world.is_orphaned() || (!world.plan.gentle && now_ns > self.lost_ns + world.gone_after_ns())
        {
            self.core.abandon(Status::DirectorGone, &mut Bell(self.cpu));
        }
    }

    fn gone_after_ns(&self) -> u64 {
        self.cpu.world.gone_after_ns()
    }

    /// A director that shows no sign of life while calls are open is left like one that is gone.
    fn watch_director(&mut self, now_ns: u64) {
        let (world, party) = (&self.cpu.world, self.cpu.party);
        if !world.is_watched() || !self.attached || self.core.open() == 0 {
            self.sign.1 = u64::MAX;
            return;
        }
        let sign = self.core.directors_sign();
        if self.sign.1 == u64::MAX || self.sign.0 != sign {
            self.sign = (sign, now_ns);
        } else if now_ns >= self.sign.1 + self.gone_after_ns() {
            world.note(party, || "leaves a silent director".into());
            world.saw(Seen::LeftSilent);
            world.send_director(party, ToDirector::CloseSession);
            world.places[party].connection.set(0);
            (self.attached, self.lost_ns, self.sign.1) = (false, now_ns, u64::MAX);
            self.look_at_ns = world.look_again_ns();
            self.core.abandon(Status::DirectorGone, &mut Bell(self.cpu));
        }
    }

    /// With the same memory, id and routes; then what is unanswered is published again. `None`: that one went away,
    /// too, or does not know this session.
    fn come_back(&mut self) -> Option<()> {
        let world = &self.cpu.world;
        let [outbox, inbox] = self.memory.clone();
        let (shape, published) = (world.plan.session, self.core.published());
        let (id, settled) = (self.id, self.settled);
        let director = world.places[self.cpu.party].connection.get();
        let attach = ToDirector::AttachSession { id, published, settled, shape, outbox, inbox };
        world.send_director(self.cpu.party, attach);
        match world.answer_of_director(self.cpu)? {
            ToPeer::Attached { .. } => {}
            ToPeer::Busy => return None,
            _ => {
                world.note(self.cpu.party, || "is not known any more".into());
                self.unknown = true;
                self.core.abandon(Status::MayHaveRun, &mut Bell(self.cpu));
                return None;
            }
        }
        if world.chance(30) {
            // It takes its time: what nobody began is tried again meanwhile.
            self.core.reclaim(world.now_ns.get(), &mut Bell(self.cpu));
        }
        for number in 0..OPERATIONS.len() {
            if self.routes[number] {
                self.routes[number] = self.ask_route(number)? == Status::Ok;
            }
        }
        world.note(self.cpu.party, || "publishes again".into());
        let known_from =
            if world.plan.mutation == Mutation::KnownPublishedAgain { u64::MAX } else { published };
        self.core.republish(known_from, &mut Bell(self.cpu));
        self.settled = director;
        world.send_director(self.cpu.party, ToDirector::Republished);
        world.saw(Seen::SessionCameBack);
        Some(())
    }

    /// One step of the program.
    fn act(&mut self) {
        let world = &self.cpu.world;
        match world.below(10) {
            0..5 => self.submit(),
            5 => self.scatter(),
            6 if !self.calls.is_empty() => {
                let i = world.below(self.calls.len() as u64) as usize;
                self.wait(For::One(self.calls[i].0));
            }
            7 if !self.calls.is_empty() || !self.scatters.is_empty() => {
                self.wait(For::Any);
            }
            8 if !self.calls.is_empty() && world.chance(60) => {
                let i = world.below(self.calls.len() as u64) as usize;
                let (name, id) = self.calls.swap_remove(i);
                world.note(self.cpu.party, || format!("gives up call {id}"));
                world.referee.borrow_mut().given_up(world, id);
                self.core.cancel(name);
            }
            8 if !self.scatters.is_empty() => {
                let i = world.below(self.scatters.len() as u64) as usize;
                if world.chance(30) {
                    self.give_up_scatter(i);
                } else {
                    self.wait(For::Part(self.scatters[i].name));
                }
            }
            _ => self.cpu.pause(),
        }
    }

    /// Whether what is still out may never come back: somebody hangs for ever with the right or was missed with it,
    /// or no director will settle it.
    fn is_lost(&self) -> bool {
        let lost = self.cpu.world.slots_lost.get() || self.unknown;
        lost && self.core.open() == 0 && self.core.quarantined() > 0
    }

    /// Waits until it is there; only a wait for a slot brings one.
    fn wait(&mut self, what: For) -> Option<u32> {
        self.cpu.world.places[self.cpu.party].waits_for.set(match what {
            For::One(_) => "a call",
            For::Any => "any call",
            For::Part(_) => "a part",
            For::Slot => "a slot",
            For::Unused => "its slots to come back",
        });
        let (cpu, yields) = (self.cpu, 0);
        match block_on(&mut Wait { client: self, what }, &mut SimOs { cpu, yields }) {
            Found::Ended(name, outcome) => self.ended(name, &outcome),
            Found::Part(name, end) => self.part_ended(name, &end),
            Found::Done(name) => {
                if let Some(at) = self.scatters.iter().position(|s| s.name == name) {
                    self.scatter_ended(at);
                }
            }
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
    pub fn slot(&mut self) -> Option<u32> {
        loop {
            if let Some(slot) = self.core.reserve() {
                return Some(slot);
            }
            self.release_held();
            if self.calls.is_empty() && self.scatters.is_empty() {
                return self.wait(For::Slot);
            }
            self.wait(For::Any);
        }
    }

    fn submit(&mut self) {
        let Some(slot) = self.slot() else { return };
        if self.unknown || self.cpu.world.is_orphaned() {
            self.core.release(slot);
            return;
        }
        let world = &self.cpu.world;
        let mut request = Request { capacity: 64, ..Request::default() };
        request.operation = match world.below(100) {
            _ if world.plan.keyed => PLAIN as u32,
            _ if world.plan.one_call => 0,
            0..5 => 9,
            _ => world.below(self.operations() as u64) as u32,
        };
        request.len = if world.chance(70) { 16 } else { 40 };
        if !world.plan.one_call && world.chance(15) {
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
        if world.chance(30) {
            request.flags |= [flag::HIGH, flag::LOW][world.below(2) as usize];
            world.saw(Seen::Classes);
        }
        let one_way = request.flags & flag::ONE_WAY != 0;
        let operation = request.operation as usize;
        let is_exclusive = (PLAIN..OPERATIONS.len()).contains(&operation);
        let key = (is_exclusive && world.chance(90)).then(|| world.below(KEYS as u64) as usize);
        let key = if world.plan.keyed { Some(0) } else { key };
        if let Some(key) = key {
            let (word, flags) = words(key);
            (request.key, request.flags) = (word, request.flags | flags);
            // Whoever holds it may never answer, and there may be nobody who wants it.
            let wants = world.plan.keyed || world.plan.gentle && world.plan.exclusive != Some(Unheld::Wait);
            if request.deadline_ns == 0 && !wants {
                request.deadline_ns = world.now_ns.get() + world.some_ns(3_000);
            }
        }
        let has_route = self.routes.get(operation) == Some(&true);
        let id = world.referee.borrow_mut().submitted(Call {
            operation,
            has_route,
            deadline_ns: request.deadline_ns,
            session: self.session,
            keys: key.map_or(0, |key| 1 << key),
            ..Call::default()
        });
        let mut record = [0; 16];
        let at = if place(request.len as usize, request.flags) == Place::Head { 6 } else { 8 };
        record[at..at + 2].copy_from_slice(&[id, !id]);
        world.note(self.cpu.party, || format!("submits call {id} in slot {slot}: {request:?}"));
        *self.core.draft(slot) = record;
        let name = self.core.submit(slot, request, &mut Bell(self.cpu));
        if !one_way {
            self.calls.push((name, id));
        }
    }

    /// Waits for all that is open, and for all slots.
    fn finish(&mut self) {
        while !self.calls.is_empty() || !self.scatters.is_empty() {
            let what = match (self.calls.first(), self.scatters.first()) {
                (Some(&(name, _)), _) if self.cpu.world.chance(50) => For::One(name),
                (None, Some(scatter)) if self.cpu.world.chance(50) => For::Part(scatter.name),
                _ => For::Any,
            };
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
