//! A client's session: its core, its memory, and its connection to the director.
//!
//! Attaching is one path, for the first time and after a director has gone: connect, greet, present the memory,
//! present the routes by number and name.

use std::collections::HashMap;
use std::os::fd::AsFd;

use super::core::{ClientCore, Effects, Outcome};
use crate::bus::Bus;
use crate::control::greeting::greet;
use crate::control::message::{FromDirector, Role, ToDirector};
use crate::control::name::Name;
use crate::control::socket::{Channel, Received};
use crate::error::{Error, Status};
use crate::layout::{Place, SessionShape, reply_place};
use crate::memory::sealed::{self, Kind};
use crate::memory::{Arena, Block, Doorbell, Mapped, Rw, Span, Spans};
use crate::resource::Key;
use crate::shared::Shared;
use crate::waiting::Waiter;

/// How long a director may take to answer on the control socket.
pub const ANSWER_NS: u64 = 5_000_000_000;

/// A route as the program sees it: its number is its place in the client's list.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RouteName {
    pub service: Name,
    pub operation: Name,
}

/// The buffers of a slot's call.
#[derive(Default)]
pub struct Buffers {
    pub request: Option<Block>,
    pub reply: Option<Span>,
}

/// An outcome whose slot is in use by another call already.
pub struct Stashed {
    pub outcome: Outcome,
    pub payload: Vec<u8>,
}

/// What rings the director.
pub struct Bells {
    director: Doorbell,
}

impl Effects for Bells {
    fn ring_director(&mut self) {
        self.director.ring();
    }
}

/// A session that is, or was, attached.
pub struct Session {
    /// Which of the handle's sessions: tickets carry it.
    pub number: u16,
    pub shape: SessionShape,
    pub core: ClientCore<Mapped>,
    pub inbox: Rw,
    pub requests: Arena,
    pub replies: Spans,
    pub buffers: Vec<Buffers>,
    pub stash: HashMap<u64, Stashed>,
    pub bells: Bells,
    /// By route's number: whether the director knows it.
    pub open_routes: Vec<bool>,
    own: Doorbell,
    /// `None` once the director is gone.
    channel: Option<Channel>,
}

impl Session {
    /// Attaches with fresh memory. Blocks for two round trips on a socket.
    pub fn attach(bus: &Bus, shape: SessionShape, number: u16, waiter: &Waiter) -> Result<Session, Error> {
        let channel = greet(bus, Role::Client)?;
        let (out, at) = (shape.outbox(), shape.inbox());
        let (out_bytes, in_bytes) = (out.words as u64 * 8, at.words as u64 * 8);
        let (outbox, outbox_fd) =
            sealed::create("trine outbox", out_bytes + out.arena_bytes, out_bytes, Kind::WriterOnly)?;
        let (inbox, inbox_fd) =
            sealed::create("trine inbox", in_bytes + at.arena_bytes, in_bytes, Kind::ReadWrite)?;
        let own = Doorbell::new()?;
        let core = ClientCore::new(shape, outbox.clone(), inbox.clone());
        let open =
            ToDirector::OpenSession { session: 0, credential: [0; 2], published: core.published(), shape };
        let fds = [outbox_fd.as_fd(), inbox_fd.as_fd(), own.as_fd()];
        channel.send_message(&open, &fds).map_err(Error::io("presenting the session"))?;
        let (FromDirector::SessionOpened { .. }, mut fds) = channel.answer(ANSWER_NS)? else {
            return Err(crate::control::greeting::unexpected());
        };
        let director = fds.pop().ok_or_else(crate::control::greeting::unexpected)?;
        let director = Doorbell::from_fd(director)?;
        waiter.add_doorbell(&own, 0)?;
        waiter.add_socket(&channel, 0)?;
        Ok(Session {
            number,
            shape,
            requests: Arena::new(&outbox, shape.slots),
            replies: Spans::new(at.own_bytes, at.arena_bytes, shape.slots),
            buffers: (0..shape.slots).map(|_| Buffers::default()).collect(),
            stash: HashMap::new(),
            bells: Bells { director },
            open_routes: Vec::new(),
            channel: Some(channel),
            core,
            inbox,
            own,
        })
    }

    /// Whether there is a director at the other end, as far as is known.
    pub fn is_attached(&self) -> bool {
        self.channel.is_some()
    }

    /// Tells the director what a route's number means. Blocks for a round trip on a socket.
    pub fn open_route(&mut self, number: u32, name: &RouteName) -> Result<(), Error> {
        let Some(channel) = &self.channel else { return Err(Error::DirectorGone(std::time::Duration::ZERO)) };
        let RouteName { service, operation } = name.clone();
        let ask = ToDirector::OpenRoute { route: number, service, operation };
        channel.send_message(&ask, &[]).map_err(Error::io("asking for a route"))?;
        match channel.answer(ANSWER_NS)? {
            (FromDirector::RouteOpened { status: Status::Ok, .. }, _) => {
                let number = number as usize;
                if number >= self.open_routes.len() {
                    self.open_routes.resize(number + 1, false);
                }
                self.open_routes[number] = true;
                Ok(())
            }
            (FromDirector::RouteOpened { status, message, .. }, _) => Err(Error::Refused { status, message }),
            _ => Err(crate::control::greeting::unexpected()),
        }
    }

    /// The key of a resource's name. Blocks for a round trip on a socket.
    pub fn key(&mut self, name: &Name) -> Result<Key, Error> {
        let Some(channel) = &self.channel else { return Err(Error::DirectorGone(std::time::Duration::ZERO)) };
        let ask = ToDirector::NameKey { name: name.clone() };
        channel.send_message(&ask, &[]).map_err(Error::io("asking for a key"))?;
        match channel.answer(ANSWER_NS)? {
            (FromDirector::KeyNamed { status: Status::Ok, word }, _) => Ok(Key::from_word(word, true)),
            (FromDirector::KeyNamed { status, .. }, _) => {
                Err(Error::Refused { status, message: status.text().into() })
            }
            _ => Err(crate::control::greeting::unexpected()),
        }
    }

    /// Looks whether the director is still there; if it is not, ends every open call. One system call.
    pub fn check_director(&mut self) {
        let Some(channel) = &self.channel else { return };
        loop {
            match channel.receive_message::<FromDirector>() {
                Ok(Received::Nothing) => return,
                Ok(Received::Message(FromDirector::Closing, _)) => {}
                _ => return self.detach(),
            }
        }
    }

    /// The director is gone: what is open ends, what has ended can still be looked at.
    pub fn detach(&mut self) {
        if self.channel.take().is_some() {
            self.core.abandon(&mut self.bells);
        }
    }

    /// The doorbell that others ring.
    pub fn doorbell(&self) -> &Doorbell {
        &self.own
    }

    /// Frees a slot that its caller is done with, and its buffers unless somebody may still write there.
    pub fn release(&mut self, slot: u32) {
        if self.core.release(slot) {
            self.free_buffers(slot);
        }
    }

    /// Frees the buffers of a free slot.
    pub fn free_buffers(&mut self, slot: u32) {
        let Buffers { request, reply } = std::mem::take(&mut self.buffers[slot as usize]);
        if let Some(block) = request {
            self.requests.free(block);
        }
        if let Some(span) = reply {
            self.replies.free(span);
        }
    }

    /// Finds slots and buffers that came back unseen: of one-way calls, and out of quarantine.
    pub fn reclaim(&mut self, now_ns: u64) {
        self.core.reclaim(now_ns, &mut self.bells);
        for slot in 0..self.shape.slots {
            if self.core.is_free(slot) {
                self.free_buffers(slot);
            }
        }
    }

    /// Moves an outcome that nobody has asked for yet into private memory, so that its slot is free.
    pub fn stash_one(&mut self, now_ns: u64) -> bool {
        let Some(name) = self.core.any_ended(now_ns, &mut self.bells) else { return false };
        let Some(outcome) = self.core.look(name, now_ns, &mut self.bells) else { return false };
        let slot = self.core.slot_of(name);
        let payload = self.payload(slot, &outcome).to_vec();
        self.release(slot);
        self.stash.insert(name, Stashed { outcome, payload });
        true
    }

    /// A reply's payload, where the client's own notes say that it is: its length is the worker's word, and is cut
    /// to what was reserved.
    pub fn payload<'a>(&self, slot: u32, outcome: &Outcome) -> Shared<'a> {
        let head = outcome.head();
        let (at, capacity) = match &self.buffers[slot as usize].reply {
            Some(span) => (span.offset(), span.len() as u64),
            None => {
                (u64::from(slot) * u64::from(self.shape.reply_capacity), u64::from(self.shape.reply_capacity))
            }
        };
        let len = match outcome.status {
            Status::Ok | Status::WorkerError => head.len,
            _ => 0,
        };
        match reply_place(len, head.flags) {
            Place::Head => Shared::in_record(&outcome.record, 4, len as usize),
            Place::Tail => Shared::in_record(&outcome.record, crate::layout::HEAD, len as usize),
            Place::Arena => {
                let len = len.min(capacity) as usize;
                Shared::in_inbox(&self.inbox, at, len).unwrap_or_else(|| Shared::private(Vec::new()))
            }
        }
    }

    /// Whether anybody still needs this session after its director has gone.
    pub fn is_in_use(&self) -> bool {
        self.is_attached() || !self.stash.is_empty() || !self.core.is_settled()
    }
}
