//! A request in a worker's hands: the right, and the duty, to answer it.

use std::time::Instant;

use super::attached::Attached;
use super::core::Begun;
use super::handle::{RequestId, Worker};
use super::inner::Inner;
use crate::error::Status;
use crate::identity::Identity;
use crate::layout::{HEAD, LINE, Place, reply_place};
use crate::memory::Rw;
use crate::resource::Key;
use crate::scatter;
use crate::shared::Shared;
use crate::waiting::to_instant;

/// Proof that a request was answered, or kept to be answered later.
#[must_use = "return it from the handler"]
#[derive(Debug)]
pub struct Served(());

/// All that is said of a request, read at once: for who passes it on to another language.
#[non_exhaustive]
pub struct Details<'r> {
    /// As [`Request::bytes`].
    pub bytes: Shared<'r>,
    /// As [`Request::number`].
    pub number: u32,
    /// As [`Request::key`].
    pub key: Option<Key>,
    /// As [`Request::key_mask`].
    pub key_mask: Option<u64>,
    /// As [`Request::caller`].
    pub caller: Identity,
    /// As [`Request::deadline_ns`].
    pub deadline_ns: Option<u64>,
    /// As [`Request::capacity`].
    pub capacity: usize,
    /// Where [`Request::buffer`] begins; null where there is none.
    pub buffer: *mut u8,
}

impl Details<'_> {
    #[inline]
    fn of(attached: &Attached, begun: &Begun) -> Self {
        let request = begun.request();
        let capacity = request.capacity as usize;
        let buffer = attached.buffer(begun).and_then(|(inbox, at)| inbox.ptr(at, capacity));
        Details {
            bytes: attached.payload(begun),
            number: u32::from(request.operation as u16),
            key: request.resource(),
            key_mask: begun.is_part().then(|| scatter::mask(&begun.record)),
            caller: attached.caller(begun),
            deadline_ns: Some(request.deadline_ns).filter(|&ns| ns != 0),
            capacity,
            buffer: buffer.map_or(std::ptr::null_mut(), <*const u8>::cast_mut),
        }
    }
}

/// A request that has begun. It is answered once: by a method that takes it, or, if it is dropped, by WORKER_ERROR.
/// One that was forgotten is answered when its worker goes.
#[must_use = "dropping it answers WORKER_ERROR"]
pub struct Request<'w> {
    worker: &'w Worker,
    id: RequestId,
}

/// A request that is to be answered later: keep as many as you like, and answer them in any order.
pub type Kept<'w> = Request<'w>;

impl<'w> Request<'w> {
    #[inline]
    pub(super) fn new(worker: &'w Worker, id: RequestId) -> Self {
        Request { worker, id }
    }

    #[inline]
    fn with<T>(&self, look: impl FnOnce(&Attached, &Begun) -> T) -> Option<T> {
        if self.worker.is_forked() {
            return None;
        }
        let inner = self.worker.inner.borrow();
        inner.of(self.id).map(|(attached, begun)| look(attached, begun))
    }

    /// Answers it by `how`; in a forked child, whose it is not, that does nothing.
    #[inline]
    fn answer(self, how: impl FnOnce(&mut Inner, RequestId)) -> Served {
        let (worker, id) = (self.worker, self.detach());
        if !worker.is_forked() {
            how(&mut worker.inner.borrow_mut(), id);
        }
        Served(())
    }

    /// The service that it asks for.
    pub fn service(&self) -> String {
        let names = self.worker.inner.borrow().names_of(self.id);
        names.map(|(service, _)| service.as_str().to_owned()).unwrap_or_default()
    }

    /// The operation that it asks for.
    pub fn operation(&self) -> String {
        let names = self.worker.inner.borrow().names_of(self.id);
        names.map(|(_, operation)| operation.as_str().to_owned()).unwrap_or_default()
    }

    /// Whether it asks for this operation. Allocates nothing.
    pub fn is(&self, operation: &str) -> bool {
        let names = self.worker.inner.borrow().names_of(self.id);
        names.is_some_and(|(_, o)| o.as_str() == operation)
    }

    /// The operation that it asks for, as a number: see [`Worker::provide`].
    pub fn number(&self) -> u32 {
        self.with(|_, begun| u32::from(begun.request().operation as u16)).unwrap_or(u32::MAX)
    }

    /// The resource that it is about, if it names one.
    pub fn key(&self) -> Option<Key> {
        self.with(|_, begun| begun.request().resource()).flatten()
    }

    /// The resources that it is about: of a part of a scatter all that this worker is asked about, in the order in
    /// which its caller named them; else the one that it names, if it does. They are what the director went by: no
    /// caller can change them.
    pub fn keys(&self) -> Vec<Key> {
        self.with(|_, begun| begun.keys().collect()).unwrap_or_default()
    }

    /// Of a part of a scatter over keys: which of the caller's keys [`keys`](Self::keys) gives, a bit for each place
    /// in its list.
    pub fn key_mask(&self) -> Option<u64> {
        self.with(|_, begun| begun.is_part().then(|| scatter::mask(&begun.record))).flatten()
    }

    /// All of it at once. `None` in a forked child, whose it is not.
    #[inline]
    pub fn details(&self) -> Option<Details<'_>> {
        self.with(Details::of)
    }

    /// The payload.
    #[inline]
    pub fn bytes(&self) -> Shared<'_> {
        if !self.worker.is_forked()
            && let Some((attached, begun)) = self.worker.inner.borrow().of(self.id)
        {
            return attached.payload(begun);
        }
        Shared::private(Vec::new())
    }

    /// Who asks: as the kernel told the director.
    pub fn caller(&self) -> Identity {
        let nobody = Identity { uid: u32::MAX, gid: u32::MAX, pid: 0 };
        self.with(|attached, begun| attached.caller(begun)).unwrap_or(nobody)
    }

    /// When its caller will have stopped waiting.
    pub fn deadline(&self) -> Option<Instant> {
        let deadline_ns = self.with(|_, begun| begun.request().deadline_ns)?;
        (deadline_ns != 0).then(|| to_instant(deadline_ns))
    }

    /// The same on CLOCK_MONOTONIC, which asks no clock.
    pub fn deadline_ns(&self) -> Option<u64> {
        self.with(|_, begun| begun.request().deadline_ns).filter(|&ns| ns != 0)
    }

    /// Whether its caller has given it up, or is gone: no use going on.
    pub fn is_cancelled(&self) -> bool {
        if self.worker.is_forked() {
            return true;
        }
        self.worker.hear();
        self.with(|attached, begun| attached.is_cancelled(begun)).unwrap_or(true)
    }

    /// How many bytes the reply may have.
    pub fn capacity(&self) -> usize {
        self.with(|_, begun| begun.request().capacity as usize).unwrap_or(0)
    }

    /// Answers. The bytes are copied once, to where the client reads them. More than there is room for gives the
    /// caller REPLY_TOO_LARGE, with what is needed.
    #[inline]
    pub fn reply(self, bytes: &[u8]) -> Served {
        self.answer(|inner, id| {
            inner.answer(id, Status::Ok, 0, bytes);
        })
    }

    /// Answers with `len` bytes that `fill` writes in place: where the client reads them, if they are more than 64.
    /// It is given the request's payload, too: so a payload can be turned into a reply, and neither is copied.
    pub fn reply_with(self, len: usize, fill: impl FnOnce(&Shared<'_>, &mut SharedMut<'_>)) -> Served {
        let asked = self.with(|_, begun| (begun.request().capacity as usize, begun.reply_flags()));
        let (capacity, flags) = asked.unwrap_or_default();
        if len > capacity {
            return self.finish(Status::ReplyTooLarge, len);
        }
        if reply_place(len as u64, flags) != Place::Arena {
            let mut small = [0; (LINE - HEAD) * 8];
            fill(&self.bytes(), &mut SharedMut { target: Target::Small(&mut small[..len]), len });
            return self.reply(&small[..len]);
        }
        let buffer = self.inbox();
        // Where the client has said that the buffer lies where it can't.
        let Some((inbox, at)) = buffer.filter(|(inbox, at)| inbox.ptr(*at, len).is_some()) else {
            return self.fail(0, "the reply buffer is not within the inbox");
        };
        fill(&self.bytes(), &mut SharedMut { target: Target::Inbox(inbox, at), len });
        self.finish(Status::Ok, len)
    }

    /// The memory that the reply's buffer is in, and where.
    fn inbox(&self) -> Option<(Rw, u64)> {
        let inbox = |attached: &Attached, begun: &Begun| {
            attached.buffer(begun).map(|(inbox, at)| (inbox.clone(), at))
        };
        self.with(inbox).flatten()
    }

    /// Where the reply may be built in place, [`capacity`](Self::capacity) bytes of it: the client reads it there.
    /// Then [`reply_built`](Self::reply_built). `None` where the client has said that it lies where it can't.
    pub fn buffer(&self) -> Option<SharedMut<'_>> {
        let (inbox, at) = self.inbox()?;
        let len = self.capacity();
        inbox.ptr(at, len)?;
        Some(SharedMut { target: Target::Inbox(inbox, at), len })
    }

    /// Answers with the first `len` bytes of [`buffer`](Self::buffer). Up to 64 bytes are copied: they travel in the
    /// record.
    pub fn reply_built(self, len: usize) -> Served {
        if len > self.capacity() {
            return self.finish(Status::ReplyTooLarge, len);
        }
        let Some((inbox, at)) = self.inbox() else {
            return self.fail(0, "the reply buffer is not within the inbox");
        };
        let mut small = [0; (LINE - HEAD) * 8];
        if len <= small.len() {
            // Within the arena, or else what the client gets is zeros: it has said where they are.
            let _ = inbox.read(at, &mut small[..len]);
            return self.reply(&small[..len]);
        }
        if inbox.ptr(at, len).is_none() {
            return self.fail(0, "the reply buffer is not within the inbox");
        }
        self.finish(Status::Ok, len)
    }

    /// Answers with what is written already, or with nothing.
    fn finish(self, status: Status, len: usize) -> Served {
        self.answer(|inner, id| {
            if let Some((attached, begun)) = inner.take(id) {
                attached.finish(begun, status, 0, len as u64, &mut [0; LINE]);
            }
        })
    }

    /// Answers WORKER_ERROR, with a number of your own and a short message (1 KiB; what is longer is cut).
    pub fn fail(self, code: u32, message: &str) -> Served {
        self.answer(|inner, id| inner.fail(id, code, message))
    }

    /// Keeps it, to be answered later: the handler returns, and the next request comes.
    pub fn keep(self) -> (Served, Kept<'w>) {
        (Served(()), self)
    }

    /// Its name, as [`detach`](Self::detach) gives it.
    pub fn id(&self) -> RequestId {
        self.id
    }

    /// Lets go of this without an answer: [`Worker::request`] gives it back.
    #[inline]
    pub fn detach(self) -> RequestId {
        let id = self.id;
        std::mem::forget(self);
        id
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        if self.worker.is_forked() {
            return;
        }
        let why = if std::thread::panicking() {
            "the worker's handler panicked"
        } else {
            "the worker dropped the request"
        };
        // A drop while the worker is borrowed can't be: the program's own code never runs then.
        if let Ok(mut inner) = self.worker.inner.try_borrow_mut() {
            inner.fail(self.id, 0, why);
        }
    }
}

enum Target<'a> {
    Small(&'a mut [u8]),
    Inbox(Rw, u64),
}

/// Room for a reply, to be written in place. The client can read it, and write it too: so it is written only.
pub struct SharedMut<'a> {
    target: Target<'a>,
    len: usize,
}

impl SharedMut<'_> {
    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where the bytes begin, for who passes them on to another language. They are the client's to write, too: they
    /// may change between two looks. Valid until the request is answered.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        match &mut self.target {
            Target::Small(small) => small.as_mut_ptr(),
            Target::Inbox(inbox, at) => {
                inbox.ptr(*at, self.len).map_or(std::ptr::null_mut(), <*const u8>::cast_mut)
            }
        }
    }

    /// Writes bytes from `at` on; what would be beyond the end is cut.
    pub fn write_at(&mut self, at: usize, bytes: &[u8]) {
        let count = self.len.saturating_sub(at).min(bytes.len());
        match &mut self.target {
            Target::Small(small) if count > 0 => small[at..at + count].copy_from_slice(&bytes[..count]),
            Target::Small(_) => {}
            Target::Inbox(inbox, offset) => {
                // Within the arena, as was checked when this was made.
                let _ = inbox.write(*offset + at as u64, &bytes[..count]);
            }
        }
    }
}
