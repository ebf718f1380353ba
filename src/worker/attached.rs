//! A worker's side of one director: its core, its memory, and the sessions that it may answer.
//!
//! When the director is gone, the worker serves what its ring still holds, until the next director listens. Then it
//! takes nothing more, and presents itself: with its id, its progress page, and where it stands. It goes on with what
//! it has begun. A director that does not know it gets a worker with fresh memory; requests that it has begun belong
//! to the side that they came from, and are answered there.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};

use super::core::{Begun, Effects, Taken, WorkerCore};
use super::rights::Rights;
use crate::bus::Bus;
use crate::control::greeting::{ANSWER_NS, Patience, greet, is_late, unexpected};
use crate::control::message::{FromDirector, Role, ToDirector};
use crate::control::name::Name;
use crate::control::socket::{Channel, Received};
use crate::error::{Error, Fault, Status};
use crate::identity::Identity;
use crate::layout::{HEAD, LINE, Place, Record, ReplyHead, SessionShape, WORD_REPLY_AT, WorkShape};
use crate::layout::{flag, place, reply_place};
use crate::limits;
use crate::memory::named::check_read_only;
use crate::memory::sealed::{self, Kind};
use crate::memory::{Among, Doorbell, Mapped, Ro, Rw, own_uid, peer_uid};
use crate::resource::{Action, Key, Resource, ServiceOptions};
use crate::scatter;
use crate::shared::Shared;
use crate::waiting::{Waiter, now_ns};

/// How long a worker that comes back lets a director take to answer: others may wait for it meanwhile.
const BACK_NS: u64 = 1_000_000_000;

/// What is rung: clients by their session's id, and the director.
struct Bells {
    clients: HashMap<u64, Doorbell>,
    director: Doorbell,
}

impl Effects for Bells {
    fn ring_client(&mut self, session: u64) {
        if let Some(bell) = self.clients.get(&session) {
            bell.ring();
        }
    }

    fn ring_director(&mut self) {
        self.director.ring();
    }

    fn clock_ns(&mut self) -> u64 {
        now_ns()
    }
}

/// What a director gives a worker that presents itself.
struct Opened {
    worker: u64,
    credential: [u64; 2],
    start: u64,
    work: Ro,
    director: Doorbell,
}

/// Presents a worker.
fn present(channel: &Channel, open: &ToDirector, page: &OwnedFd, own: &Doorbell) -> Result<(), Error> {
    let presented = channel.send_message(open, &[page.as_fd(), own.as_fd()]);
    presented.map_err(Error::io("presenting the worker"))
}

/// What answers that.
fn opened(channel: &Channel, shape: WorkShape, within_ns: u64) -> Result<Opened, Error> {
    let (FromDirector::WorkerOpened { worker, credential, start }, fds) = channel.answer(within_ns)? else {
        return Err(unexpected());
    };
    let Ok([work_fd, director]) = <[OwnedFd; 2]>::try_from(fds) else { return Err(unexpected()) };
    let words = shape.work().words;
    check_read_only(&work_fd, "work segment", words as u64 * 8)?;
    let work = sealed::map_ro(&work_fd, words as u64 * 8, words)?;
    // The director never reads it, and shares it with nobody else: nobody can hold this worker up.
    let director = Doorbell::from_fd(director, Among::OneUser)?;
    Ok(Opened { worker, credential, start, work, director })
}

/// A session's memory, and which it is: one that comes back to another director with the same is not mapped again.
struct SessionMemory {
    inodes: [u64; 2],
    shape: SessionShape,
    outbox: Ro,
    inbox: Rw,
}

/// One attachment.
pub struct Attached {
    core: WorkerCore<Mapped>,
    bells: Bells,
    /// Who calls, by their session's id.
    /// A tree, since there are few, each is asked for with every call in C, and nothing is quicker to find there.
    callers: BTreeMap<u64, Identity>,
    /// Ids of the sessions, by the index that the director gave.
    sessions: HashMap<u16, u64>,
    /// What is mapped, by session's id: also of those that the next director has not named yet.
    mapped: HashMap<u64, SessionMemory>,
    /// When sessions that no director has named since are forgotten; 0: there are none.
    forget_at_ns: u64,
    shape: WorkShape,
    credential: [u64; 2],
    page: OwnedFd,
    own: Doorbell,
    /// `None` once the director is gone.
    channel: Option<Channel>,
    /// A director that it has presented itself to, and that has not answered yet.
    arrival: Option<Channel>,
    control_read: u64,
    /// Answers to Provide and the like that came while something else was awaited.
    provided: VecDeque<(Status, String)>,
    named: VecDeque<(Status, u64)>,
    /// What the director's socket had no room for yet.
    unsent: VecDeque<ToDirector>,
    /// What it holds exclusively.
    pub rights: Rights,
    /// It has presented itself again, and not yet said that this is all.
    owes_word: bool,
}

impl Attached {
    /// Attaches with fresh memory. Blocks for two round trips on a socket.
    pub fn attach(bus: &Bus, shape: WorkShape, waiter: &Waiter) -> Result<Attached, Error> {
        let (channel, _) = greet(bus, Role::Worker, ANSWER_NS)?;
        let page_bytes = shape.progress().words as u64 * 8;
        let (page, page_fd) =
            sealed::create("trine progress page", page_bytes, page_bytes, Kind::WriterOnly)?;
        let own = Doorbell::among(Among::users(&[own_uid(), peer_uid(channel.as_fd())?]))?;
        let (worker, credential, taken, holds) = (0, [0; 2], 0, false);
        let open = ToDirector::OpenWorker { worker, credential, taken, holds, shape };
        present(&channel, &open, &page_fd, &own)?;
        let opened = opened(&channel, shape, ANSWER_NS)?;
        waiter.add_doorbell(&own, 0)?;
        waiter.add_socket(&channel, 0)?;
        Ok(Attached {
            core: WorkerCore::new(opened.worker, shape, opened.start, opened.work, page),
            bells: Bells { clients: HashMap::new(), director: opened.director },
            callers: BTreeMap::new(),
            sessions: HashMap::new(),
            mapped: HashMap::new(),
            forget_at_ns: 0,
            shape,
            credential: opened.credential,
            page: page_fd,
            own,
            channel: Some(channel),
            arrival: None,
            control_read: 0,
            provided: VecDeque::new(),
            named: VecDeque::new(),
            unsent: VecDeque::new(),
            rights: Rights::default(),
            owes_word: false,
        })
    }

    /// Comes back, to a new director. Returns whether that one knew it: if not, this attachment is good for nothing
    /// but answering what it has begun. Blocks for two round trips on a socket.
    pub fn come_back(&mut self, bus: &Bus, waiter: &Waiter) -> Result<bool, Error> {
        let channel = match self.arrival.take() {
            Some(channel) => channel,
            None => self.present_itself(bus)?,
        };
        let opened = match opened(&channel, self.shape, BACK_NS) {
            Ok(opened) => opened,
            Err(Error::Refused { status: Status::MayHaveRun, .. }) => return Ok(false),
            Err(error) => {
                // What it has presented it does not take back: that director may have given it work already.
                self.arrival = is_late(&error).then_some(channel);
                return Err(error);
            }
        };
        waiter.add_socket(&channel, 0)?;
        self.core.resume(opened.start, opened.work);
        self.bells.director = opened.director;
        self.sessions.clear();
        // Most sessions come back as well, with the memory that is mapped here.
        self.forget_at_ns = now_ns() + limits::WINDOW_NS;
        self.credential = opened.credential;
        self.control_read = 0;
        self.provided.clear();
        self.named.clear();
        self.unsent.clear();
        self.rights.begin_again();
        self.owes_word = false;
        self.channel = Some(channel);
        Ok(true)
    }

    fn present_itself(&mut self, bus: &Bus) -> Result<Channel, Error> {
        let (channel, _) = greet(bus, Role::Worker, BACK_NS)?;
        // A director listens. From here on nothing more is taken from the old ring, whatever becomes of this one.
        let taken = self.core.stop_taking();
        let (worker, credential, shape) = (self.core.id(), self.credential, self.shape);
        let holds = self.rights.is_held();
        let open = ToDirector::OpenWorker { worker, credential, taken, holds, shape };
        present(&channel, &open, &self.page, &self.own)?;
        Ok(channel)
    }

    /// Forgets sessions that can't come back any more.
    fn forget_sessions(&mut self) {
        self.forget_at_ns = 0;
        let core = &self.core;
        self.mapped.retain(|&session, _| core.knows(session));
        self.callers.retain(|&session, _| core.knows(session));
        self.bells.clients.retain(|&session, _| core.knows(session));
    }

    /// When [`read_control`](Self::read_control) has something to do though nothing was said; `u64::MAX`: never.
    pub fn wake_at_ns(&self) -> u64 {
        if self.forget_at_ns == 0 { u64::MAX } else { self.forget_at_ns }
    }

    /// The worker's id on its bus.
    pub fn id(&self) -> u64 {
        self.core.id()
    }

    /// Whether there is a director at the other end, as far as is known.
    #[inline]
    pub fn is_attached(&self) -> bool {
        self.channel.is_some()
    }

    /// The doorbell that others ring.
    pub fn doorbell(&self) -> &Doorbell {
        &self.own
    }

    /// How many requests have been answered.
    pub fn completed(&self) -> u64 {
        self.core.completed()
    }

    /// Takes the next request. A ring that can't be is the director's fault: it is left.
    #[inline]
    pub fn take(&mut self, now_ns: u64) -> Taken {
        if self.rights.has_told() {
            return Taken::Nothing; // the program hears of it first
        }
        self.core.hear(self.rights.heard);
        match self.core.take(now_ns, &mut self.bells) {
            Ok(Taken::Begun(begun)) if begun.lacks_keys() => self.take_part(begun),
            Ok(Taken::Unheard) => {
                self.read_control();
                // Of a director that died before it had said all, what stands behind that never begins.
                let heard = self.rights.heard;
                if heard > self.core.heard() { Taken::Skipped } else { Taken::Unheard }
            }
            Ok(taken) => taken,
            Err(fault) => {
                tracing::error!(%fault, "the director's work ring is broken: leaving it");
                self.channel = None;
                Taken::Nothing
            }
        }
    }

    /// Finds the keys of a part, in a list that its client can change: one whose keys are not those that the director
    /// gave it is not run.
    #[cold]
    fn take_part(&mut self, mut begun: Begun) -> Taken {
        let (at, words) = begun.list();
        let mut list = [0; scatter::list_words(limits::SCATTER_KEYS_MAX)];
        let bytes = bytemuck::cast_slice_mut(&mut list[..words]);
        let read = self.core.memory(&begun).and_then(|(outbox, _): (&Ro, &Rw)| outbox.read(at, bytes));
        if read.is_some() && begun.set_keys(&list[..words], self.core.seal()) {
            return Taken::Begun(begun);
        }
        self.finish(begun, Status::Fault, 0, 0, &mut [0; LINE]);
        Taken::Skipped
    }

    /// Whether a request, or what is broken, stands in the ring.
    #[inline]
    pub fn is_ready(&self) -> bool {
        self.core.is_ready()
    }

    /// Announces a sleep.
    pub fn park(&mut self) {
        self.core.park();
    }

    /// Takes that back.
    pub fn awake(&mut self) {
        self.core.awake();
        self.own.drain();
    }

    /// Whether the director says that it has sent something.
    #[inline]
    pub fn has_control(&self) -> bool {
        self.core.control_sequence() != self.control_read
    }

    /// Reads the control socket to its end.
    pub fn read_control(&mut self) {
        self.control_read = self.core.control_sequence();
        if self.forget_at_ns != 0 && now_ns() >= self.forget_at_ns {
            self.forget_sessions();
        }
        self.send_unsent();
        while let Some(channel) = &self.channel {
            match channel.receive_message::<FromDirector>() {
                Ok(Received::Nothing) => return,
                Ok(Received::Message(message, fds)) => self.obey(message, fds),
                Ok(Received::Short(message, error)) => {
                    channel.close_strays();
                    tracing::warn!(%error, "a session could not be received");
                    if let FromDirector::MapSession { index, .. } = message {
                        // It gets none of that session's calls.
                        self.send(&ToDirector::SessionMapped { index, accepted: false });
                    }
                }
                Ok(Received::Closed) => self.channel = None,
                Ok(Received::Fault(fault)) => {
                    tracing::error!(%fault, "the director broke the protocol: leaving it");
                    self.channel = None;
                }
                Err(error) => {
                    tracing::warn!(%error, "the director could not be heard");
                    return;
                }
            }
        }
    }

    fn obey(&mut self, message: FromDirector, fds: Vec<OwnedFd>) {
        match message {
            FromDirector::MapSession { index, session, shape, uid, gid, pid } => {
                let mapped = self.map(index, session, shape, Identity { uid, gid, pid }, fds);
                if let Err(error) = &mapped {
                    tracing::warn!(%error, session, "a session could not be mapped");
                }
                self.send(&ToDirector::SessionMapped { index, accepted: mapped.is_ok() });
            }
            FromDirector::UnmapSession { index } if self.core.retire_session(index) => self.unmapped(index),
            FromDirector::Provided { status, message } => self.provided.push_back((status, message)),
            FromDirector::KeyNamed { status, word } => self.named.push_back((status, word)),
            FromDirector::Granted { sequence, service, resource } => {
                self.rights.granted(sequence, &service, resource);
            }
            FromDirector::Recalled { sequence, service, resource, before } => {
                self.rights.recalled(sequence, service, resource, before);
            }
            FromDirector::Draining { sequence, before } => self.rights.drain(sequence, before),
            _ => {}
        }
    }

    fn map(
        &mut self,
        index: u16,
        session: u64,
        shape: SessionShape,
        caller: Identity,
        fds: Vec<OwnedFd>,
    ) -> Result<(), Error> {
        let Ok([outbox, inbox, client]) = <[OwnedFd; 3]>::try_from(fds) else { return Err(unexpected()) };
        let inodes = [sealed::inode(&outbox)?, sealed::inode(&inbox)?];
        if !self.mapped.get(&session).is_some_and(|known| known.inodes == inodes && known.shape == shape) {
            let (memory, client) = self.map_anew(inodes, shape, caller, [outbox, inbox, client])?;
            self.mapped.insert(session, memory);
            self.callers.insert(session, caller);
            self.bells.clients.insert(session, client);
        }
        let known = &self.mapped[&session];
        let (outbox, inbox) = (known.outbox.clone(), known.inbox.clone());
        if !self.core.map_session(index, session, shape, outbox, inbox) {
            self.unmap_unknown(session);
            let why = format!("index {index} is another's");
            return Err(Fault::Descriptor { what: "session", why }.into());
        }
        self.sessions.insert(index, session);
        Ok(())
    }

    /// Checks what was never mapped here, and maps it.
    fn map_anew(
        &self,
        inodes: [u64; 2],
        shape: SessionShape,
        caller: Identity,
        [outbox, inbox, client]: [OwnedFd; 3],
    ) -> Result<(SessionMemory, Doorbell), Error> {
        if !shape.is_valid() {
            let why = "its sizes are out of bounds".into();
            return Err(Fault::Descriptor { what: "session", why }.into());
        }
        let (out, at) = (shape.outbox(), shape.inbox());
        let (out_rings, in_rings) = (out.words as u64 * 8, at.words as u64 * 8);
        let (out_bytes, in_bytes) = (out_rings + out.arena_bytes, in_rings + at.arena_bytes);
        sealed::check(&outbox, "outbox", out_bytes, out_rings, Kind::WriterOnly)?;
        sealed::check(&inbox, "inbox", in_bytes, in_rings, Kind::ReadWrite)?;
        let director = match &self.channel {
            Some(channel) => peer_uid(channel.as_fd())?,
            None => return Err(unexpected()),
        };
        let client = Doorbell::from_fd(client, Among::users(&[own_uid(), caller.uid, director]))?;
        let outbox = sealed::map_ro(&outbox, out_bytes, out.words)?;
        let inbox = sealed::map_rw(&inbox, in_bytes, at.words)?;
        Ok((SessionMemory { inodes, shape, outbox, inbox }, client))
    }

    /// A session's memory is unmapped: the director may give its index to another.
    fn unmapped(&mut self, index: u16) {
        if let Some(session) = self.sessions.remove(&index) {
            self.unmap_unknown(session);
        }
        self.send(&ToDirector::SessionUnmapped { index });
    }

    /// Unmaps a session, if nothing of it is used.
    fn unmap_unknown(&mut self, session: u64) {
        if !self.core.knows(session) {
            self.mapped.remove(&session);
            self.callers.remove(&session);
            self.bells.clients.remove(&session);
        }
    }

    fn send(&mut self, message: &ToDirector) {
        self.unsent.push_back(message.clone());
        self.send_unsent();
    }

    /// Sends what waits; what the socket has no room for waits on. A director that doesn't read may itself be
    /// waiting for this worker to read, so nobody waits for it here.
    fn send_unsent(&mut self) {
        while let (Some(message), Some(channel)) = (self.unsent.front(), &self.channel) {
            match channel.send_message(message, &[]) {
                Ok(()) => drop(self.unsent.pop_front()),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(_) => self.channel = None, // it reads nothing any more: as good as gone
            }
        }
    }

    /// Says something and waits for the answer, which comes in order. Blocks for a round trip on a socket.
    fn ask<T>(
        &mut self,
        message: &ToDirector,
        answer: impl Fn(&mut Self) -> Option<(Status, T)>,
    ) -> Result<(Status, T), Error> {
        self.send(message);
        let mut patience = Patience::new(ANSWER_NS, now_ns());
        loop {
            self.read_control();
            if let Some(answer) = answer(self) {
                return Ok(answer);
            }
            let waited = self.channel.as_ref().map(|channel| channel.wait_readable(patience.until_ns()));
            match waited {
                Some(waited) if !patience.is_over(now_ns()) => waited.map(|_| ())?,
                _ => {
                    // Its answer would be taken for the next question's.
                    self.channel = None;
                    return Err(Error::DirectorGone(std::time::Duration::from_nanos(ANSWER_NS)));
                }
            }
        }
    }

    fn ask_whether(&mut self, message: &ToDirector) -> Result<(), Error> {
        match self.ask(message, |own| own.provided.pop_front())? {
            (Status::Ok, _) => Ok(()),
            (status, message) if message.is_empty() => {
                Err(Error::Refused { status, message: status.text().into() })
            }
            (status, message) => Err(Error::Refused { status, message }),
        }
    }

    /// Provides a service from now on, as its options say.
    pub fn register(
        &mut self,
        service: &Name,
        first: u16,
        operations: &[Name],
        options: ServiceOptions,
    ) -> Result<(), Error> {
        let (service, operations) = (service.clone(), operations.to_vec());
        self.ask_whether(&ToDirector::Register { service, first, operations, options })
    }

    /// Changes what this worker declares and holds.
    pub fn change(&mut self, service: &Name, changes: &[(Action, Resource)]) -> Result<(), Error> {
        self.ask_whether(&ToDirector::Change { service: service.clone(), changes: changes.to_vec() })
    }

    /// Tells a new director what this worker held, and gives up again what it was giving up. What the director refuses
    /// is lost.
    pub fn present_again(&mut self) {
        for service in self.rights.earlier_services() {
            let (held, unfinished) = self.rights.earlier(&service);
            for (action, resources) in [(Action::Acquire, held), (Action::Release, unfinished)] {
                for some in resources.chunks(limits::RESOURCES_PER_CHANGE) {
                    let changes: Vec<_> = some.iter().map(|&resource| (action, resource)).collect();
                    if let Err(error) = self.change(&service, &changes) {
                        let service = service.as_str();
                        tracing::warn!(%error, service, ?action, "rights could not be presented again");
                    }
                }
            }
        }
    }

    /// The key of a name.
    pub fn key(&mut self, name: &Name) -> Result<Key, Error> {
        match self.ask(&ToDirector::NameKey { name: name.clone() }, |own| own.named.pop_front())? {
            (Status::Ok, word) => Ok(Key::from_word(word, true)),
            (status, _) => Err(Error::Refused { status, message: status.text().into() }),
        }
    }

    /// Asks to be given no new work.
    pub fn drain(&mut self) -> Result<(), Error> {
        self.ask_whether(&ToDirector::Drain { worker: 0 })
    }

    /// Gives a recalled resource up.
    pub fn give_up(&mut self, service: Name, resource: Resource) {
        self.send(&ToDirector::Yielded { service, resource });
    }

    /// The position + 1 of the last request that was begun.
    pub fn taken(&self) -> u64 {
        self.core.taken()
    }

    /// This worker provides a service from now on.
    pub fn provide(&mut self, service: &Name, first: u16, operations: &[Name]) -> Result<(), Error> {
        let (service, operations) = (service.clone(), operations.to_vec());
        self.ask_whether(&ToDirector::Provide { service, first, operations })
    }

    /// A worker that came back has presented all that it provides and holds: what was not confirmed is lost.
    pub fn presented_all(&mut self) {
        if self.is_attached() {
            self.rights.lose_unconfirmed();
            self.owes_word = true;
            self.say_that_all_is_told();
        }
    }

    /// Says to the director that it has told all: once the program has heard of what it has lost, so that nobody has
    /// got that before.
    pub fn say_that_all_is_told(&mut self) {
        if self.owes_word && !self.rights.has_told() {
            self.owes_word = false;
            self.send(&ToDirector::Republished);
        }
    }

    /// No more.
    pub fn withdraw(&mut self, service: &Name) -> Result<(), Error> {
        self.ask_whether(&ToDirector::Withdraw { service: service.clone() })
    }

    /// Takes nothing more: what stands in the ring goes to others.
    pub fn leave(&mut self) {
        self.unsent.clear();
        let taken = self.core.stop_taking();
        self.send(&ToDirector::Leave { taken });
        self.channel = None;
    }

    /// Who asks.
    #[inline]
    pub fn caller(&self, begun: &Begun) -> Identity {
        let session = self.core.session_of(begun).and_then(|(id, _)| self.callers.get(&id));
        session.copied().unwrap_or(Identity { uid: u32::MAX, gid: u32::MAX, pid: 0 })
    }

    /// Whether the caller has given the call up.
    pub fn is_cancelled(&self, begun: &Begun) -> bool {
        self.core.is_cancelled(begun)
    }

    /// A request's payload. Empty if the client has said that it lies where it can't.
    #[inline]
    pub fn payload<'a>(&self, begun: &Begun) -> Shared<'a> {
        let len = begun.request().len as usize;
        let within = match place(len, begun.request().flags) {
            Place::Head => Some(Shared::in_record(&begun.record, 6, len)),
            Place::Tail => Some(Shared::in_record(&begun.record, HEAD, len)),
            Place::Arena => self.core.memory(begun).and_then(|(outbox, _): (&Ro, &Rw)| {
                Shared::in_outbox(outbox, begun.record[crate::layout::WORD_PAYLOAD_AT], len)
            }),
        };
        within.unwrap_or_else(|| Shared::private(Vec::new()))
    }

    /// Where a reply of `len` bytes that does not fit the record is to be written.
    #[inline]
    pub fn buffer(&self, begun: &Begun) -> Option<(&Rw, u64)> {
        let at = if begun.request().flags & flag::REPLY_AT != 0 {
            begun.record[WORD_REPLY_AT]
        } else {
            let (_, shape) = self.core.session_of(begun)?;
            let slot = begun.request().ticket & u64::from(shape.slots - 1);
            slot * u64::from(shape.reply_capacity)
        };
        let (_, inbox) = self.core.memory(begun)?;
        Some((inbox, at))
    }

    /// Answers with bytes, which are copied once, to where the client reads them.
    #[inline]
    pub fn answer(&mut self, begun: Begun, status: Status, code: u32, bytes: &[u8]) {
        let mut record: Record = [0; LINE];
        let len = bytes.len() as u64;
        let words = match reply_place(len, begun.reply_flags()) {
            _ if len > u64::from(begun.request().capacity) => {
                return self.finish(begun, Status::ReplyTooLarge, 0, len, &mut record);
            }
            Place::Head => 4..HEAD,
            Place::Tail => HEAD..LINE,
            Place::Arena => {
                let wrote = self.buffer(&begun).and_then(|(inbox, at)| inbox.write(at, bytes));
                let status = if wrote.is_some() { status } else { Status::Fault };
                return self.finish(begun, status, code, len, &mut record);
            }
        };
        bytemuck::cast_slice_mut(&mut record[words])[..bytes.len()].copy_from_slice(bytes);
        self.finish(begun, status, code, len, &mut record);
    }

    /// Publishes the reply: what does not fit the record has been written.
    #[inline]
    pub fn finish(&mut self, begun: Begun, status: Status, code: u32, len: u64, record: &mut Record) {
        let head = ReplyHead { status: status as u16, code, len, ..ReplyHead::default() };
        if let Some(index) = self.core.reply(begun, head, record, &mut self.bells) {
            self.unmapped(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::played::{Played, hear};
    use crate::memory::named::Named;
    use crate::waiting::Waiting;

    const SHAPE: WorkShape = WorkShape { slots: 8 };

    /// A session's memory and doorbell, as its client makes them.
    fn session(shape: SessionShape) -> [OwnedFd; 3] {
        let (out, at) = (shape.outbox(), shape.inbox());
        let (out_bytes, in_bytes) = (out.words as u64 * 8, at.words as u64 * 8);
        let outbox = sealed::create("outbox", out_bytes + out.arena_bytes, out_bytes, Kind::WriterOnly);
        let inbox = sealed::create("inbox", in_bytes + at.arena_bytes, in_bytes, Kind::ReadWrite);
        [outbox.unwrap().1, inbox.unwrap().1, Doorbell::new().unwrap().try_clone_fd().unwrap()]
    }

    fn presented(channel: &Channel) {
        let (heard, _) = hear(channel);
        assert!(matches!(heard, ToDirector::OpenWorker { .. }), "{heard:?}");
    }

    fn open(director: &Played, channel: &Channel) {
        let link = director.folder().join("work");
        let work = Named::create(&link, "trine-test-worker-", SHAPE.work().words, |_| {}).unwrap();
        let (memory, bell) = (work.read_only_fd().unwrap(), Doorbell::new().unwrap());
        let opened = FromDirector::WorkerOpened { worker: 7, credential: [1, 2], start: 0 };
        channel.send_message(&opened, &[memory.as_fd(), bell.as_fd()]).unwrap();
        work.unlink().unwrap();
    }

    const SESSION: SessionShape =
        SessionShape { slots: 2, reply_capacity: 64, request_arena: 4096, reply_arena: 4096 };

    /// A worker that a played director has taken.
    fn attached(director: &Played, waiter: &Waiter) -> (Channel, Attached) {
        let play = |channel: &Channel| {
            presented(channel);
            open(director, channel);
        };
        director.meet(play, |bus| Attached::attach(bus, SHAPE, waiter).unwrap())
    }

    #[test]
    fn a_session_that_the_next_director_names_again_is_not_mapped_again_and_others_are_forgotten() {
        let director = Played::new();
        let waiter = Waiter::new(Waiting::default(), 8).unwrap();
        let shape = SESSION;
        let play = |channel: &Channel| {
            presented(channel);
            open(&director, channel);
        };
        let name = |channel: &Channel, attached: &mut Attached, index, session, fds: &[OwnedFd; 3]| {
            let (uid, gid, pid) = (own_uid(), 0, 1);
            let message = FromDirector::MapSession { index, session, shape, uid, gid, pid };
            channel.send_message(&message, &fds.each_ref().map(AsFd::as_fd)).unwrap();
            attached.read_control();
            let (answer, _) = hear(channel);
            assert!(matches!(answer, ToDirector::SessionMapped { accepted: true, .. }), "{answer:?}");
            attached.mapped[&session].outbox.ptr(0, 1).unwrap()
        };
        let (first, mut attached) = attached(&director, &waiter);
        let sessions = [session(shape), session(shape), session(shape)];
        let places =
            [0, 1, 2].map(|i| name(&first, &mut attached, i, 70 + u64::from(i), &sessions[usize::from(i)]));
        first.shut();
        attached.read_control();

        let (next, back) = director.meet(play, |bus| attached.come_back(bus, &waiter));
        assert!(back.unwrap());
        assert_eq!(name(&next, &mut attached, 0, 71, &sessions[1]), places[1], "as it was");
        // Somebody's who is said to be the same, with other memory.
        let other = session(shape);
        assert_ne!(name(&next, &mut attached, 1, 72, &other), places[2]);
        assert_eq!(attached.mapped[&72].inodes[0], sealed::inode(&other[0]).unwrap());
        assert!(attached.mapped.contains_key(&70), "it may still come back");
        attached.forget_at_ns = attached.wake_at_ns().min(now_ns());
        attached.read_control();
        let mut known: Vec<u64> = attached.mapped.keys().copied().collect();
        known.sort_unstable();
        assert_eq!((known, attached.wake_at_ns()), (vec![71, 72], u64::MAX));
        assert_eq!((attached.callers.len(), attached.bells.clients.len()), (2, 2));
        // What the director takes back goes at once.
        next.send_message(&FromDirector::UnmapSession { index: 0 }, &[]).unwrap();
        attached.read_control();
        assert_eq!(attached.mapped.keys().collect::<Vec<_>>(), [&72]);
    }

    #[test]
    fn a_session_under_an_index_that_another_has_is_refused_and_not_kept() {
        let director = Played::new();
        let waiter = Waiter::new(Waiting::default(), 8).unwrap();
        let shape = SESSION;
        let (channel, mut attached) = attached(&director, &waiter);
        for (named, accepted) in [(70, true), (71, false)] {
            let message =
                FromDirector::MapSession { index: 0, session: named, shape, uid: own_uid(), gid: 0, pid: 1 };
            channel.send_message(&message, &session(shape).each_ref().map(AsFd::as_fd)).unwrap();
            attached.read_control();
            let (answer, _) = hear(&channel);
            assert!(
                matches!(answer, ToDirector::SessionMapped { index: 0, accepted: a } if a == accepted),
                "{answer:?}"
            );
        }
        assert_eq!(attached.mapped.keys().collect::<Vec<_>>(), [&70]);
        assert_eq!((attached.callers.len(), attached.bells.clients.len()), (1, 1));
        assert_eq!(attached.sessions[&0], 70);
    }

    #[test]
    fn a_worker_that_comes_back_to_a_slow_director_goes_on_at_the_same_socket() {
        let director = Played::new();
        let waiter = Waiter::new(Waiting::default(), 8).unwrap();
        let (channel, mut attached) = attached(&director, &waiter);
        // Dropped, it could live on for a moment in a child that another test has just forked.
        channel.shut();
        attached.read_control();
        assert!(!attached.is_attached());

        // The next one does not answer in time; and then it does.
        let (channel, arrival) = director.meet(presented, |bus| attached.present_itself(bus).unwrap());
        attached.arrival = Some(arrival);
        let late = attached.come_back(director.bus(), &waiter);
        assert!(late.as_ref().is_err_and(is_late), "{late:?}");
        open(&director, &channel);
        assert!(attached.come_back(director.bus(), &waiter).unwrap());
        assert!(attached.is_attached());
        assert!(!director.is_asked_for(), "it has connected once more");
    }
}
