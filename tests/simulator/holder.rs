//! A worker and its exclusive rights: it acquires and releases, hears of gains and losses, and gives up what it was
//! told to when it has finished.

use trine::resource::Action;
use trine::worker::rights::{Event, Name};
use trine::{Key, Resource, Status};

use crate::simulator::coverage::Seen;
use crate::simulator::holdings::{LOCKS, key, some_resource};
use crate::simulator::plan::Mutation;
use crate::simulator::worker::Worker;
use crate::simulator::world::{ToDirector, ToPeer};

/// The service's name.
pub fn locks() -> Name {
    Name::new("service", LOCKS).expect("a good name")
}

impl Worker<'_> {
    /// What the director says about rights.
    pub fn hear(&mut self, message: ToPeer) {
        match message {
            ToPeer::Granted { sequence, resource, .. } => {
                let held = self.rights.has_told();
                self.rights.granted(sequence, &locks(), resource);
                if !held && !self.rights.has_told() {
                    self.cpu.world.saw(Seen::NeverLost);
                }
            }
            ToPeer::Recalled { sequence, resource, before, .. } => {
                let early = self.cpu.world.plan.mutation == Mutation::YieldsAtOnce;
                let before = if early { 0 } else { before };
                self.rights.recalled(sequence, locks(), resource, before);
            }
            ToPeer::Draining { sequence, before } => self.rights.drain(sequence, before),
            _ => self.cpu.world.fail(|| "a worker got a client's message".into()),
        }
    }

    /// Tells the program one thing; what it has lost is another's after that.
    pub fn tell_program(&mut self) {
        let (world, party) = (&self.cpu.world, self.cpu.party);
        let Some(told) = self.rights.next_told() else { return };
        world.note(party, || format!("hears {:?}", told.event));
        match &told.event {
            Event::Gained { resource, .. } => {
                world.referee.borrow_mut().holdings.gained(world, party, *resource);
            }
            Event::Lost { resource, .. } => {
                world.referee.borrow_mut().holdings.lost(world, party, *resource);
            }
            _ => {}
        }
        if let Some((_, resource)) = told.yields {
            world.saw(Seen::HandedOver);
            self.tell(ToDirector::Yielded { resource });
        }
        self.say_that_all_is_told();
    }

    /// Gives up what was recalled and is served; leaves, if that was the last thing to do.
    pub fn settle_rights(&mut self) {
        let (side, taken) = (self.sides.len() - 1, self.core().taken());
        let careless = self.cpu.world.plan.mutation == Mutation::YieldsWhatRuns;
        let running = &self.running;
        let is_kept = |about: Option<(&Name, Resource)>, before: u64| {
            !careless
                && running.iter().any(|run| {
                    let is_old = run.side != side;
                    match about {
                        None => is_old || run.position < before,
                        Some((_, resource)) => !is_old && run.position < before && run.covered_by(resource),
                    }
                })
        };
        if self.rights.settle(taken, is_kept) {
            self.cpu.world.saw(Seen::Drained);
            (self.leaving, self.serves_to_the_end) = (true, false);
        }
    }

    /// Wants something, or gives something back.
    pub fn change_rights(&mut self) {
        let world = &self.cpu.world;
        if world.plan.exclusive.is_none() || !self.provides[2] {
            return;
        }
        let resource = some_resource(self.cpu);
        let action = if world.chance(70) { Action::Acquire } else { Action::Release };
        self.want(action, resource);
    }

    /// Wants this.
    pub fn want(&mut self, action: Action, resource: Resource) {
        self.cpu.world.note(self.cpu.party, || format!("wants to {action:?} {resource:?}"));
        self.tell(ToDirector::Change { service: LOCKS, changes: vec![(action, resource)], asks: false });
    }

    /// Tells a new director what it held, and what of that it was giving up.
    pub fn present_again(&mut self) {
        let (held, unfinished) = self.rights.earlier(&locks());
        for (action, resources) in [(Action::Acquire, held), (Action::Release, unfinished)] {
            if !resources.is_empty() {
                let changes = resources.into_iter().map(|resource| (action, resource)).collect();
                self.tell(ToDirector::Change { service: LOCKS, changes, asks: true });
                if self.await_change().is_none() {
                    return;
                }
            }
        }
    }

    /// The director's answer; what else it says is obeyed meanwhile. `None`: it is gone.
    fn await_change(&mut self) -> Option<Status> {
        loop {
            match self.cpu.world.answer_of_director(self.cpu)? {
                ToPeer::Changed { status } => return Some(status),
                other => self.handle(other),
            }
        }
    }

    /// Whether it thinks that it holds a key.
    pub fn holds(&self, which: usize) -> bool {
        let key: Key = key(which);
        self.rights.holds(LOCKS, Resource::Key(key))
    }
}
