//! One request to several workers, and its parts as they come.

use std::sync::Arc;

use super::call::{Draft, Loan, Payload, Reply, allocate, finish, reserve_reply};
use super::group::{Looked, PartEnd};
use super::handle::{Client, Ticket};
use super::inner::{Ended, Inner, deadline_ns, not_sent};
use super::look::About;
use super::session::Buffers;
use crate::error::{CallError, Status};
use crate::layout::{LINE, Record, Request, WORD_REPLY_AT, flag};
use crate::limits::{PARTS_MAX, SCATTER_KEYS_MAX};
use crate::memory::{Block, Span};
use crate::resource::Key;
use crate::scatter;
use crate::waiting::{Until, now_ns};

impl<'c> Draft<'c> {
    /// Most parts of a [`scatter_all`](Self::scatter_all): each takes a slot, and `scatter_all` waits for so many free
    /// ones. Where nothing is said it takes all that are free, at least one.
    pub fn parts(mut self, most: usize) -> Self {
        self.parts = Some(most);
        self
    }

    /// Sends a copy of `request` to all workers that have some of these keys: one part each, about the keys that are
    /// that worker's. The request is copied once, whatever the number of parts. Each part has a reply buffer of its own.
    ///
    /// Who has a key is its holder, where the service's resources are exclusive; else one of those that speak for it.
    /// A part that a worker has not begun when it goes is not tried again: its end says that it did not run.
    ///
    /// # Errors
    /// TOO_MANY_PARTS for more than [`SCATTER_KEYS_MAX`](crate::limits::SCATTER_KEYS_MAX) keys, or more than the
    /// client has slots; WOULD_BLOCK, REQUEST_TOO_LARGE. Nothing was sent then. What befalls a part is its own end.
    pub fn scatter(self, keys: &[Key], request: &[u8], until: Until) -> Result<Parts<'c>, CallError> {
        if keys.is_empty() {
            return Ok(Parts::of_nothing(self.client));
        }
        self.send_scatter(keys, keys.len(), request, until)
    }

    /// Sends a copy of `request` to all workers that provide the operation: one part each.
    ///
    /// # Errors
    /// As [`scatter`](Self::scatter). Where more workers provide it than [`parts`](Self::parts) allows, nobody gets
    /// anything, and the only part ends TOO_MANY_PARTS; [`CallError::needed`] says how many there are.
    pub fn scatter_all(self, request: &[u8], until: Until) -> Result<Parts<'c>, CallError> {
        let count = match self.parts {
            Some(most) => most.max(1),
            None => 0,
        };
        self.send_scatter(&[], count, request, until)
    }

    fn send_scatter(
        self,
        keys: &[Key],
        count: usize,
        request: &[u8],
        until: Until,
    ) -> Result<Parts<'c>, CallError> {
        self.client.check_fork().map_err(not_sent)?;
        let mut inner = self.client.inner.borrow_mut();
        loop {
            inner.prepare(self.route, until.ns())?;
            match self.scatter_payload(&mut inner, keys, count, Payload::Bytes(request), None, until.ns()) {
                Err(error) if !inner.session.is_attached() && error.status() != Status::Interrupted => {}
                sent => {
                    let ticket = sent?;
                    drop(inner);
                    return Ok(Parts::new(self.client, ticket));
                }
            }
        }
    }

    /// Builds the records and publishes them. What was taken for them is given back if that fails.
    fn scatter_payload(
        &self,
        inner: &mut Inner,
        keys: &[Key],
        count: usize,
        payload: Payload<'_>,
        block: Option<Block>,
        until_ns: u64,
    ) -> Result<Ticket, CallError> {
        let mut taken = Taken { payload: block, ..Taken::default() };
        match self.build_scatter(inner, keys, count, payload, &mut taken, until_ns) {
            Ok((request, record)) => Ok(send(inner, request, &record, keys, taken)),
            Err(error) => {
                taken.give_back(inner);
                Err(error)
            }
        }
    }

    fn build_scatter(
        &self,
        inner: &mut Inner,
        keys: &[Key],
        count: usize,
        payload: Payload<'_>,
        taken: &mut Taken,
        until_ns: u64,
    ) -> Result<(Request, Record), CallError> {
        self.check_deadline()?;
        let slots = inner.session.shape.slots as usize;
        check_count(keys, count, slots)?;
        let capacity = self.capacity_of(inner);
        let mut flags = self.flags & !(flag::HAS_KEY | flag::NAME_KEY) | flag::SCATTER;
        let own_buffers = capacity <= u64::from(inner.session.shape.reply_capacity);
        if !own_buffers {
            flags |= flag::REPLY_AT;
        }
        let mut record = [0; LINE];
        let mut buffers = Buffers { request: taken.payload.take(), ..Buffers::default() };
        let place = payload.make_room(inner, &mut buffers, flags, until_ns);
        if let Ok(place) = place {
            payload.write(&mut record, &buffers, place);
            payload.give_room_back(inner, &mut buffers, place);
        }
        taken.payload = buffers.request;
        place?;
        if !keys.is_empty() {
            let list = scatter::list(keys);
            let block = taken.list.insert(allocate(inner, list.len() * 8, until_ns)?);
            block.as_mut_slice()[..list.len() * 8].copy_from_slice(bytemuck::cast_slice(&list));
            record[scatter::WORD_LIST] = block.offset();
        }
        let count = match count {
            0 => {
                inner.session.reclaim(now_ns());
                inner.session.core.free().clamp(1, PARTS_MAX)
            }
            count => count,
        };
        taken.slots = inner.reserve_many(count, until_ns)?;
        while !own_buffers && taken.replies.len() < count {
            taken.replies.push(reserve_reply(inner, capacity, until_ns)?);
        }
        let request = Request {
            operation: self.route.number(),
            flags,
            deadline_ns: deadline_ns(self.deadline),
            len: payload.len() as u32,
            capacity: capacity as u32,
            ..Request::default()
        };
        Ok((request, record))
    }
}

impl<'c> Loan<'c> {
    /// Sends it to all workers that have some of these keys: see [`Draft::scatter`]. They all read the same bytes, which
    /// are never copied.
    ///
    /// # Errors
    /// As [`Draft::scatter`]; DIRECTOR_GONE if the director went away since: build it anew.
    pub fn scatter(self, keys: &[Key], until: Until) -> Result<Parts<'c>, CallError> {
        if keys.is_empty() {
            return Ok(Parts::of_nothing(self.draft.client));
        }
        self.send_scatter(keys, keys.len(), until)
    }

    /// Sends it to all workers that provide the operation: see [`Draft::scatter_all`].
    ///
    /// # Errors
    /// As [`Draft::scatter_all`]; DIRECTOR_GONE if the director went away since: build it anew.
    pub fn scatter_all(self, until: Until) -> Result<Parts<'c>, CallError> {
        let count = self.draft.parts.map_or(0, |most| most.max(1));
        self.send_scatter(&[], count, until)
    }

    fn send_scatter(mut self, keys: &[Key], count: usize, until: Until) -> Result<Parts<'c>, CallError> {
        let client = self.draft.client;
        client.check_fork().map_err(not_sent)?;
        let mut inner = client.inner.borrow_mut();
        let block = self.take_block(&mut inner)?;
        let payload = Payload::Built(self.len);
        let ticket = self.draft.scatter_payload(&mut inner, keys, count, payload, Some(block), until.ns())?;
        drop(inner);
        Ok(Parts::new(client, ticket))
    }
}

/// What a scatter takes before it is sent.
#[derive(Default)]
struct Taken {
    payload: Option<Block>,
    list: Option<Block>,
    slots: Vec<u32>,
    replies: Vec<Span>,
}

impl Taken {
    fn give_back(self, inner: &mut Inner) {
        let session = &mut inner.session;
        for slot in self.slots {
            session.release(slot);
        }
        for block in self.payload.into_iter().chain(self.list) {
            session.requests.free(block);
        }
        for span in self.replies {
            session.replies.free(span);
        }
    }
}

fn check_count(keys: &[Key], count: usize, slots: usize) -> Result<(), CallError> {
    let most = if keys.is_empty() { PARTS_MAX } else { SCATTER_KEYS_MAX };
    let of = if keys.is_empty() { "parts" } else { "keys" };
    let message = if count > most {
        format!("a scatter of {count} {of}: it may have {most}; send several")
    } else if count > slots {
        format!("a scatter of {count} {of}: the client has {slots} slots (ClientOptions::slots)")
    } else {
        return Ok(());
    };
    Err(CallError::not_sent(Status::TooManyParts, message).with_needed(count as u64))
}

/// Publishes the records.
fn send(inner: &mut Inner, request: Request, record: &Record, keys: &[Key], taken: Taken) -> Ticket {
    let session = &mut inner.session;
    let Taken { payload, list, slots, replies } = taken;
    let at: Vec<u64> = replies.iter().map(Span::offset).collect();
    let shared = Arc::new(payload.into_iter().chain(list).collect::<Vec<Block>>());
    let mut replies = replies.into_iter();
    for &slot in &slots {
        let shared = (!shared.is_empty()).then(|| shared.clone());
        session.buffers[slot as usize] = Buffers { request: None, shared, reply: replies.next() };
    }
    drop(shared);
    let fill = |index: usize, record: &mut Record| {
        if let Some(&at) = at.get(index) {
            record[WORD_REPLY_AT] = at;
        }
    };
    let name = session.core.submit_group(&slots, request, record, keys, fill, &mut session.bells);
    Ticket::new(session.number, name)
}

/// A scatter that is under way. Its parts come as they end; it is an iterator that waits for each. Dropping it gives up
/// those that have not ended.
///
/// ```no_run
/// # let client = trine::Bus::named("default")?.client(trine::ClientOptions::default())?;
/// use trine::{Key, Until};
///
/// let sum = client.route("ledger", "sum")?;
/// let accounts: Vec<Key> = (1..=40).map(Key::number).collect();
/// let parts = client.request(sum).scatter(&accounts, b"EUR", Until::Forever)?;
/// let (total, missing) = parts.gather((0, Vec::new()), |(total, mut missing), part| match part.result() {
///     Ok(reply) => (total + reply.bytes().get::<i64>().unwrap_or(0), missing),
///     Err(_) => {
///         missing.extend_from_slice(part.keys());
///         (total, missing)
///     }
/// });
/// println!("{total}; not counted: {missing:?}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "dropping it cancels the parts"]
pub struct Parts<'c> {
    client: &'c Client,
    ticket: Ticket,
    /// How many there are, as far as this has seen.
    len: Option<usize>,
    done: bool,
}

/// One part of a scatter, ended: one worker's answer, or what has become of it.
pub struct Part<'c> {
    keys: Vec<Key>,
    mask: u64,
    result: Result<Reply<'c>, CallError>,
}

impl<'c> Part<'c> {
    /// What it is about: the keys that its worker has, in the order in which they were named; none in a scatter to all.
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// The same as bits: one for each place in the list that was sent.
    pub fn key_mask(&self) -> u64 {
        self.mask
    }

    /// The answer, or why there is none.
    pub fn result(&self) -> Result<&Reply<'c>, &CallError> {
        self.result.as_ref()
    }

    /// The answer itself.
    ///
    /// # Errors
    /// What the part has ended with; [`CallError::may_have_run`] is the truth about this part.
    pub fn into_result(self) -> Result<Reply<'c>, CallError> {
        self.result
    }
}

impl<'c> Parts<'c> {
    pub(super) fn new(client: &'c Client, ticket: Ticket) -> Self {
        Parts { client, ticket, len: None, done: false }
    }

    /// A scatter over no keys: it is not sent, and has no parts.
    fn of_nothing(client: &'c Client) -> Self {
        Parts { client, ticket: Ticket::new(0, 0), len: Some(0), done: true }
    }

    /// The scatter's name: to keep, with [`detach`](Self::detach), and to get this back from [`Client::parts`].
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }

    #[allow(clippy::len_without_is_empty)] // there always is one, but in a scatter over no keys
    /// How many parts there are in all. Known from the first one on, and then never changes.
    pub fn len(&self) -> Option<usize> {
        self.len
    }

    /// Whether all parts have been handed out.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// The next part that has ended, if one has. Never blocks.
    pub fn poll(&mut self) -> Option<Part<'c>> {
        self.wait_until(Until::Now)
    }

    /// Waits for the next part so long. `None`: none has ended in time; or there are no more: see
    /// [`is_done`](Self::is_done). Each ends at the deadline at the latest.
    pub fn wait_until(&mut self, until: Until) -> Option<Part<'c>> {
        if self.done || self.client.is_forked() {
            return None;
        }
        let mut inner = self.client.inner.borrow_mut();
        let looked = inner.wait_for_part(self.ticket, until.ns());
        let (number, name) = (self.ticket.session(), self.ticket.name());
        let keys = match inner.session_of(self.ticket) {
            Some(session) => {
                self.len = session.core.group_len(name).map(|len| len as usize).or(self.len);
                session.core.group_keys(name).to_vec()
            }
            None => Vec::new(),
        };
        match looked {
            Looked::Open => None,
            Looked::Done => {
                self.done = true;
                None
            }
            Looked::Part(PartEnd { slot, mask, .. }) => {
                self.done = inner.is_last_part(self.ticket);
                let result = finish(self.client, &mut inner, number, Ended::Slot(slot));
                let keys = scatter::places(mask).filter_map(|i| keys.get(i).copied()).collect();
                Some(Part { keys, mask, result })
            }
        }
    }

    /// Waits for all parts, and folds them as they come. An interrupted wait (see
    /// [`ClientOptions::interruptible`](crate::ClientOptions::interruptible)) ends it early.
    pub fn gather<A>(self, start: A, fold: impl FnMut(A, Part<'c>) -> A) -> A {
        self.fold(start, fold)
    }

    /// Lets go of this without giving the scatter up.
    pub fn detach(mut self) -> Ticket {
        self.done = true;
        self.ticket
    }
}

impl<'c> Iterator for Parts<'c> {
    type Item = Part<'c>;

    fn next(&mut self) -> Option<Part<'c>> {
        self.wait_until(Until::Forever)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, self.len)
    }
}

impl Drop for Parts<'_> {
    fn drop(&mut self) {
        if self.done || self.client.is_forked() {
            return;
        }
        let mut inner = self.client.inner.borrow_mut();
        if let Some(session) = inner.session_of(self.ticket) {
            session.core.cancel_group(self.ticket.name());
            session.free_given_back();
        }
    }
}

impl Inner {
    /// Waits for a part of a scatter.
    fn wait_for_part(&mut self, ticket: Ticket, until_ns: u64) -> Looked {
        let name = ticket.name();
        if !self.select(ticket.session()) {
            // Its director is gone: whatever there is, is there.
            let Some(session) = self.session_of(ticket) else { return Looked::Done };
            let looked = session.core.look_group(name, 0, &mut session.bells);
            session.free_given_back();
            return looked;
        }
        let looked = self.look_until(About::Group(name), until_ns, |session, _, now_ns| {
            let looked = session.core.look_group(name, now_ns, &mut session.bells);
            session.free_given_back();
            (looked != Looked::Open).then_some(looked)
        });
        looked.unwrap_or(Looked::Open)
    }

    /// Whether every part of a scatter has been handed out; then it is forgotten.
    fn is_last_part(&mut self, ticket: Ticket) -> bool {
        let Some(session) = self.session_of(ticket) else { return true };
        session.core.forget_if_done(ticket.name())
    }
}
