//! A worker: it keeps a few requests begun, answers them in any order, and changes its mind about what it provides.

use std::rc::Rc;

use trine::core::{Party, Turn, block_on};
use trine::layout::{Place, ReplyHead, flag, place, reply_flag, reply_place};
use trine::resource::Action;
use trine::worker::core::{Begun, Effects, Taken, WorkerCore};
use trine::worker::rights::Rights;
use trine::{Key, Resource, Status, scatter};

use crate::simulator::coverage::Seen;
use crate::simulator::holdings::{KEYS, LOCKS, key};
use crate::simulator::memory::{Cpu, Role, Segment, Sim};
use crate::simulator::plan::{DIRECTOR, Mutation, WORKERS};
use crate::simulator::referee::answer_word;
use crate::simulator::world::{SimOs, ToDirector, ToPeer};

/// What is provided anywhere: a service's name and an operation's. The last service's resources are exclusive; not
/// every plan has it.
pub const OPERATIONS: [(&str, &str); 5] =
    [("store", "get"), ("store", "put"), ("clock", "now"), (LOCKS, "read"), (LOCKS, "write")];
/// Operations before the first exclusive one.
pub const PLAIN: usize = 3;
/// The services, with their operations.
const SERVICES: [(&str, &[&str]); 3] =
    [("store", &["get", "put"]), ("clock", &["now"]), (LOCKS, &["read", "write"])];
/// Where the numbers of each service's operations begin, and the place of the first among all.
const FIRST: [(u16, usize); 3] = [(0, 0), (4, 2), (7, PLAIN)];

/// The keys of a set.
fn bits(keys: u64) -> impl Iterator<Item = usize> {
    (0..KEYS).filter(move |which| keys >> which & 1 == 1)
}

/// Bells and clock.
struct Hands<'c> {
    cpu: &'c Cpu<'c>,
    /// Which client is behind a session's id.
    clients: Vec<(u64, usize)>,
}

impl Effects for Hands<'_> {
    fn ring_client(&mut self, session: u64) {
        let client = self.clients.iter().find(|(id, _)| *id == session).expect("a session that was mapped").1;
        self.cpu.world.ring(self.cpu.party, client);
    }

    fn ring_director(&mut self) {
        self.cpu.world.ring(self.cpu.party, DIRECTOR);
    }

    fn clock_ns(&mut self) -> u64 {
        self.cpu.world.now_ns.get()
    }
}

/// A request that runs.
pub struct Running {
    pub side: usize,
    pub position: u64,
    begun: Begun,
    call: u64,
    /// The exclusive keys that it is about, a bit for each.
    keys: u64,
    until_ns: u64,
}

impl Running {
    /// Whether it is about something that a resource covers.
    pub fn covered_by(&self, resource: Resource) -> bool {
        bits(self.keys).any(|which| resource.covers(key(which)))
    }
}

/// A worker.
pub struct Worker<'c> {
    pub cpu: &'c Cpu<'c>,
    /// The last one is attached; the others answer what they have begun.
    pub sides: Vec<WorkerCore<Sim<'c>>>,
    /// What the last one holds.
    pub rights: Rights,
    /// It has presented itself again, and not yet said that this is all.
    owes_word: bool,
    page: Rc<Segment>,
    /// There is a director, as far as it knows.
    attached: bool,
    /// It has said where it stands.
    stopped: bool,
    look_at_ns: u64,
    fx: Hands<'c>,
    pub running: Vec<Running>,
    pub provides: [bool; 3],
    /// What it speaks for of the exclusive service; nothing is all.
    declares: Vec<Resource>,
    answered: u32,
    leaves_after: u32,
    pub leaving: bool,
    /// Whether it serves its ring to the end before it leaves.
    pub serves_to_the_end: bool,
    /// It has seen that its socket is closed.
    evicted: bool,
    /// A session that a broken worker says it has mapped, and has not.
    late: Option<ToPeer>,
}

/// Runs a worker from its attachment to its end.
pub fn run<'c>(cpu: &'c Cpu<'c>) {
    let world = &cpu.world;
    let (page, side) = loop {
        if world.closing.get() || !world.connect_at_last(cpu) {
            return;
        }
        if let Some(attached) = attach(cpu) {
            break attached;
        }
    };
    let stays = world.plan.gentle || world.plan.one_call;
    let mut worker = Worker {
        cpu,
        sides: vec![side],
        rights: Rights::default(),
        owes_word: false,
        page,
        attached: true,
        stopped: false,
        look_at_ns: 0,
        fx: Hands { cpu, clients: Vec::new() },
        running: Vec::new(),
        provides: [false; 3],
        declares: Vec::new(),
        answered: 0,
        leaves_after: if !stays && world.chance(15) { world.below(10) as u32 } else { u32::MAX },
        leaving: false,
        serves_to_the_end: world.chance(70),
        evicted: false,
        late: None,
    };
    worker.provide(0);
    if stays || world.chance(60) {
        worker.provide(1);
    }
    if world.plan.exclusive.is_some() {
        if !stays && world.chance(20) {
            worker.declares = vec![Resource::from(0..=1)];
        }
        worker.provide(2);
        if world.plan.keyed {
            worker.want(Action::Acquire, Resource::Key(key(0)));
        } else {
            (0..world.below(3)).for_each(|_| worker.change_rights());
        }
    }
    block_on(&mut worker, &mut SimOs { cpu, yields: 0 });
    world.referee.borrow_mut().holdings.dead(world, cpu.party);
    let in_order = worker.attached && !worker.evicted;
    if in_order {
        world.saw(Seen::WorkerLeft);
        world.send_director(cpu.party, ToDirector::Leave);
    }
    world.saw(Seen::WorkerEnded);
    world.notify_director(cpu.party, ToDirector::Dead);
    world.replace(cpu.party);
}

/// Attaches with fresh memory. `None`: the director went away.
fn attach<'c>(cpu: &'c Cpu<'c>) -> Option<(Rc<Segment>, WorkerCore<Sim<'c>>)> {
    let (world, shape) = (&cpu.world, cpu.world.plan.work);
    let page = Segment::new(Role::Page(cpu.party, shape), 0);
    let present = ToDirector::AttachWorker { id: 0, taken: 0, holds: false, shape, page: page.clone() };
    world.send_director(cpu.party, present);
    let ToPeer::WorkerAttached { id, start, work } = world.answer_of_director(cpu)? else { return None };
    let core = WorkerCore::new(id, shape, start, cpu.map(&work), cpu.map(&page));
    Some((page, core))
}

impl Party for Worker<'_> {
    type Out = ();

    fn turn(&mut self, now_ns: u64) -> Turn<()> {
        let world = &self.cpu.world;
        self.read_control();
        self.evicted |= world.places[self.cpu.party].evicted.get() && world.chance(30);
        if self.attached && !world.is_connected(self.cpu.party) {
            while let Some(message) = world.receive_rest(&world.places[self.cpu.party].to_peer) {
                self.handle(message);
            }
            world.note(self.cpu.party, || "has lost its director".into());
            (self.attached, self.evicted, self.look_at_ns) = (false, false, now_ns);
        }
        if self.rights.has_told() {
            self.tell_program();
            return Turn::Busy;
        }
        if world.closing.get() || self.answered >= self.leaves_after {
            self.leaving = true;
        }
        if !self.attached && !self.leaving && now_ns >= self.look_at_ns {
            self.look_for_director(now_ns);
            return Turn::Busy; // that one may have died since: what told so has been used up
        }
        if let Some(i) = self.ready(now_ns) {
            self.answer(i);
            return Turn::Busy;
        }
        let may_take = self.running.len() < world.plan.keep;
        let goes = self.leaving || self.evicted;
        if may_take && (!goes || self.serves_to_the_end && !self.stopped) {
            match self.take(now_ns) {
                Turn::Idle => {}
                busy => return busy,
            }
        }
        if !self.leaving && self.rights.is_due(self.core().taken()) {
            self.settle_rights();
            return Turn::Busy;
        }
        if goes && self.running.is_empty() { Turn::Done(()) } else { Turn::Idle }
    }

    fn park(&mut self) {
        self.core_mut().park();
    }

    fn awake(&mut self) {
        self.core_mut().awake();
    }

    fn wake_at_ns(&self) -> u64 {
        let ready_ns = self.running.iter().map(|r| r.until_ns).min().unwrap_or(u64::MAX);
        if self.attached || self.leaving { ready_ns } else { ready_ns.min(self.look_at_ns) }
    }
}

impl<'c> Worker<'c> {
    pub fn core(&self) -> &WorkerCore<Sim<'c>> {
        &self.sides[self.sides.len() - 1]
    }

    fn core_mut(&mut self) -> &mut WorkerCore<Sim<'c>> {
        let last = self.sides.len() - 1;
        &mut self.sides[last]
    }

    /// Without a director: presents itself to the next one, which may not know it; then it begins anew.
    fn look_for_director(&mut self, now_ns: u64) {
        let world = &self.cpu.world;
        if world.chance(world.plan.mishaps) {
            let (place, until_ns) =
                (&world.places[self.cpu.party], now_ns + world.some_ns(2 * world.plan.window));
            let rung = self.cpu.sleep(until_ns);
            // It is away, not at its doorbell.
            place.rung.set(rung || place.rung.get());
        }
        self.look_at_ns = world.look_again_ns();
        if !world.connect(self.cpu.party) {
            return;
        }
        let attached = match self.come_back() {
            Some(true) => Some(()),
            Some(false) if self.rights.is_held() => {
                // Its program hears of it first; then it says so, and is refused once more.
                world.saw(Seen::LostAll);
                self.rights.lose_all();
                self.look_at_ns = now_ns;
                return;
            }
            Some(false) => self.begin_anew(),
            None => None,
        };
        self.attached = attached.is_some() && self.cpu.world.is_connected(self.cpu.party);
        if !self.attached {
            return;
        }
        if self.cpu.world.plan.mutation == Mutation::HoldsUnsaid {
            self.tell(ToDirector::Republished);
        }
        let drains = self.rights.is_draining();
        for which in 0..SERVICES.len() {
            if self.provides[which] && !drains {
                self.provide(which);
            }
        }
        if self.provides[2] || self.cpu.world.plan.mutation != Mutation::WithdrawnUnsaid {
            self.present_again();
        }
        if self.cpu.world.is_connected(self.cpu.party) {
            self.rights.lose_unconfirmed();
            self.owes_word = true;
            self.say_that_all_is_told();
        }
        if drains {
            self.tell(ToDirector::Drain);
        }
    }

    /// Once its program has heard of what it has lost.
    pub fn say_that_all_is_told(&mut self) {
        let hasty = self.cpu.world.plan.mutation == Mutation::WithdrawnUnsaid;
        if self.owes_word && (hasty || !self.rights.has_told()) {
            self.owes_word = false;
            self.tell(ToDirector::Republished);
            if self.cpu.world.plan.keyed {
                self.want(Action::Acquire, Resource::Key(key(0)));
            }
        }
    }

    /// From here on nothing is taken from the old ring, whatever becomes of this director. Returns whether that one
    /// knew it; `None` if it went away.
    fn come_back(&mut self) -> Option<bool> {
        let (cpu, world) = (self.cpu, &self.cpu.world);
        let (id, shape, page) = (self.core().id(), world.plan.work, self.page.clone());
        let keeps_taking = world.plan.mutation == Mutation::KeepsTaking;
        let taken = if keeps_taking {
            cpu.map(&page).view(shape.progress().taken)
        } else {
            self.stopped = true;
            self.core_mut().stop_taking()
        };
        world.referee.borrow_mut().stopped(id, taken);
        let holds = self.rights.is_held() && world.plan.mutation != Mutation::RenouncesUnheard;
        let present = ToDirector::AttachWorker { id, taken, holds, shape, page };
        world.send_director(cpu.party, present);
        if keeps_taking {
            let _ = self.take(world.now_ns.get());
        }
        let ToPeer::WorkerAttached { start, work, .. } = world.answer_of_director(cpu)? else {
            return Some(false);
        };
        self.core_mut().resume(start, cpu.map(&work));
        self.rights.begin_again();
        (self.stopped, self.owes_word) = (false, false);
        Some(true)
    }

    fn begin_anew(&mut self) -> Option<()> {
        self.cpu.world.note(self.cpu.party, || "begins anew".into());
        if !self.cpu.world.connect(self.cpu.party) {
            return None;
        }
        let (page, side) = attach(self.cpu)?;
        self.rights = self.rights.of_successor();
        self.page = page;
        self.sides.push(side);
        self.stopped = false;
        Some(())
    }

    /// Reads what has arrived from the director.
    pub fn read_control(&mut self) {
        let world = &self.cpu.world;
        while let Some(message) = world.receive(&world.places[self.cpu.party].to_peer) {
            self.handle(message);
        }
    }

    /// Says something to the director.
    pub fn tell(&self, message: ToDirector) {
        if !self.cpu.world.places[self.cpu.party].evicted.get() {
            self.cpu.world.send_director(self.cpu.party, message);
        }
    }

    fn provide(&mut self, which: usize) {
        let (service, operations) = SERVICES[which];
        self.provides[which] = true;
        let exclusive = self.cpu.world.plan.exclusive.filter(|_| service == LOCKS);
        let resources = if service == LOCKS { self.declares.clone() } else { Vec::new() };
        let first = (self.cpu.party * 10) as u16 + FIRST[which].0;
        self.tell(ToDirector::Provide { service, first, operations, exclusive, resources });
    }

    /// Does what the director says.
    pub fn handle(&mut self, message: ToPeer) {
        let world = &self.cpu.world;
        match message {
            ToPeer::Map { index, .. } if !world.plan.gentle && world.chance(5) => {
                world.saw(Seen::MappingRefused);
                self.tell(ToDirector::Mapped { index, accepted: false });
            }
            ToPeer::Map { index, .. } if world.plan.mutation == Mutation::EarlyMapped => {
                self.late = Some(message);
                self.tell(ToDirector::Mapped { index, accepted: true });
            }
            ToPeer::Map { index, .. } => {
                self.map(message);
                self.tell(ToDirector::Mapped { index, accepted: true });
            }
            ToPeer::Unmap { index } => {
                let unused = self.core_mut().retire_session(index);
                if unused || world.plan.mutation == Mutation::EarlyUnmapped {
                    self.tell(ToDirector::Unmapped { index });
                }
            }
            ToPeer::Changed { .. } => {}
            message => self.hear(message),
        }
    }

    fn map(&mut self, message: ToPeer) {
        let ToPeer::Map { index, id, shape, outbox, inbox } = message else { return };
        let Role::Outbox(client, _) = outbox.role else { return };
        self.fx.clients.push((id, client));
        let cpu = self.cpu;
        self.core_mut().map_session(index, id, shape, cpu.map(&outbox), cpu.map(&inbox));
    }

    /// One of the requests whose run is over.
    fn ready(&self, now_ns: u64) -> Option<usize> {
        let ready: Vec<usize> =
            (0..self.running.len()).filter(|&i| self.running[i].until_ns <= now_ns).collect();
        let i = *ready.get(self.cpu.world.below(ready.len() as u64) as usize)?;
        if i > 0 {
            self.cpu.world.saw(Seen::OutOfOrder);
        }
        Some(i)
    }

    fn take(&mut self, now_ns: u64) -> Turn<()> {
        let world = &self.cpu.world;
        let (side, position) = (self.sides.len() - 1, self.core().taken());
        let careless = world.plan.mutation == Mutation::RightsUnread;
        let heard = if careless { u64::MAX } else { self.rights.heard };
        self.core_mut().hear(heard);
        let begun = match self.sides[side].take(now_ns, &mut self.fx) {
            Ok(Taken::Begun(begun)) => begun,
            Ok(Taken::Skipped) => return Turn::Busy,
            Ok(Taken::Unheard) => {
                world.saw(Seen::RightsAwaited);
                self.read_control();
                return if self.rights.heard > heard { Turn::Busy } else { Turn::Idle };
            }
            Ok(Taken::Nothing) => {
                if let Some(message) = self.late.take() {
                    self.map(message);
                }
                return Turn::Idle;
            }
            Err(fault) => {
                world.fault("the director's", &fault);
                return Turn::Idle;
            }
        };
        let request = &begun.request();
        let at = if place(request.len as usize, request.flags) == Place::Head { 6 } else { 8 };
        let call = begun.record[at];
        if begun.record[at + 1] != !call {
            world.fail(|| format!("a torn request: {:x?}", begun.record));
        }
        let number = (request.operation as u16).wrapping_sub((self.cpu.party * 10) as u16);
        let (first, place) = FIRST.into_iter().rfind(|&(first, _)| first <= number).unwrap_or_default();
        let operation = place + usize::from(number - first);
        let keys = if operation < PLAIN { 0 } else { self.keys_of(&begun) };
        world.note(self.cpu.party, || format!("runs call {call} on keys {keys:b}"));
        world.referee.borrow_mut().started(world, self.cpu.party, call, operation, keys);
        for which in bits(keys) {
            let holds = self.holds(which);
            world.referee.borrow_mut().holdings.started(world, self.cpu.party, which, call, holds);
        }
        let until_ns = world.now_ns.get() + world.some_ns(world.plan.work_steps);
        self.running.push(Running { side, position, begun, call, keys, until_ns });
        Turn::Busy
    }

    /// The exclusive keys that a request is about. Of a part those of the scatter's list that the director gave it: the
    /// place of the list says which key is the first, and the others follow it.
    fn keys_of(&self, begun: &Begun) -> u64 {
        if !begun.lacks_keys() {
            let own = begun.request().resource();
            return own
                .and_then(|own| (0..KEYS).find(|&which| key(which) == own))
                .map_or(0, |which| 1 << which);
        }
        let world = &self.cpu.world;
        let first = begun.record[scatter::WORD_LIST] as usize / 8;
        let own = scatter::places(scatter::mask(&begun.record)).map(|i| (first + i) % KEYS);
        let own: Vec<usize> = own.collect();
        let keys: Vec<Key> = own.iter().map(|&which| key(which)).collect();
        if !scatter::is_sealed(self.core().seal(), &begun.record, &keys) {
            world.fail(|| format!("a part about keys {own:?}, which the director has not sealed"));
        }
        if own.len() > 1 {
            world.saw(Seen::WidePart);
        }
        own.into_iter().fold(0, |keys, which| keys | 1 << which)
    }

    fn answer(&mut self, i: usize) {
        let world = &self.cpu.world;
        let Running { side, position, begun, call, keys, .. } = self.running.swap_remove(i);
        self.rights.look_again();
        for which in bits(keys) {
            world.referee.borrow_mut().holdings.finished(self.cpu.party, which, call);
        }
        if self.sides[side].is_cancelled(&begun) {
            world.saw(Seen::AnsweredAfterGivenUp);
        }
        let traced = begun.request().flags & flag::TRACED != 0;
        let (status, code) = if world.chance(10) { (Status::WorkerError, 7) } else { (Status::Ok, 0) };
        let len = [8, 32, 64][world.below(3) as usize];
        let head = ReplyHead { status: status as u16, code, len, ..ReplyHead::default() };
        let flags = if traced { reply_flag::TRACED } else { 0 };
        let at = if reply_place(len, flags) == Place::Head { 4 } else { 8 };
        let mut record = [0; 16];
        for i in 0..len / 8 {
            record[at + i as usize] = answer_word(call, i);
        }
        world.note(self.cpu.party, || format!("answers call {call}: {status}"));
        if world.plan.mutation == Mutation::DoneBeforeStamp && side + 1 == self.sides.len() {
            let at = world.plan.work.progress().done + usize::from(begun.request().entry);
            let mark = (self.page.clone(), at, position + 1);
            *self.cpu.broken.done.borrow_mut() = Some(mark);
        }
        let unmapped = self.sides[side].reply(begun, head, &mut record, &mut self.fx);
        if let Some(index) = unmapped
            && side + 1 == self.sides.len()
        {
            self.tell(ToDirector::Unmapped { index });
        }
        self.answered += 1;
        let often = if world.plan.mutation == Mutation::WithdrawnUnsaid { 40 } else { 8 };
        if !world.plan.gentle && world.chance(often) {
            self.change_its_mind();
        }
        if !world.plan.keyed && world.chance(25) {
            self.change_rights();
        }
    }

    /// Provides a service no more, or again.
    fn change_its_mind(&mut self) {
        debug_assert!(WORKERS.contains(&self.cpu.party));
        let services = if self.cpu.world.plan.exclusive.is_some() { 3 } else { 2 };
        if services == 3 && self.cpu.world.chance(20) {
            return self.tell(ToDirector::Drain);
        }
        let which = self.cpu.world.below(services) as usize;
        if self.provides[which] {
            self.provides[which] = false;
            self.tell(ToDirector::Withdraw { service: SERVICES[which].0 });
        } else {
            self.provide(which);
        }
    }
}
