//! Calling from many tasks.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use trine::{
    Armed, CallError, Client, Draft, Error, KeptReply, Key, Parts, Reply, Route, Shared, Status, Ticket,
    Until,
};

use crate::sleep::{Sleep, lock};

/// A client for any number of tasks: clone it, or share it.
#[derive(Clone)]
pub struct AsyncClient {
    inner: Arc<Inner>,
    _driver: Arc<Driver>,
}

struct Inner {
    state: Mutex<State>,
    sleep: Sleep,
    /// A call has ended: there may be room for another one.
    room: Notify,
}

struct State {
    client: Client,
    /// Replies that have been told and are not dropped: each may hold a slot.
    held: usize,
    calls: HashMap<Ticket, oneshot::Sender<Ended>>,
    /// Scatters of which parts are open. There are no more parts than slots.
    scatters: HashMap<Ticket, mpsc::UnboundedSender<EndedPart>>,
}

impl State {
    /// Whether there is something that makes room when it ends, or is dropped.
    fn may_get_room(&self) -> bool {
        !self.calls.is_empty() || !self.scatters.is_empty() || self.held > 0
    }

    /// A reply that was told, or was to be, is of no use to anybody.
    fn give_back(&mut self, kept: KeptReply) {
        self.held -= 1;
        drop(self.client.reattach(kept));
    }
}

/// How a call ended: its reply, and who answered.
type Ended = Result<(KeptReply, u32), CallError>;

/// How a part ended.
struct EndedPart {
    keys: Vec<Key>,
    mask: u64,
    count: Option<usize>,
    ended: Ended,
}

/// The task that hears of the ends of calls; ends with the last client.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl AsyncClient {
    /// Takes a client over. In a runtime with its I/O enabled, in which it lives from now on.
    ///
    /// # Errors
    /// [`Error::System`].
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn new(client: Client) -> Result<AsyncClient, Error> {
        let sleep = Sleep::on(&client)?;
        let state = Mutex::new(State { client, held: 0, calls: HashMap::new(), scatters: HashMap::new() });
        let inner = Arc::new(Inner { state, sleep, room: Notify::new() });
        let driver = Driver(tokio::spawn(drive(inner.clone())));
        Ok(AsyncClient { inner, _driver: Arc::new(driver) })
    }

    /// Finds an operation: see [`Client::route`]. Blocks the thread for a round trip on a socket, once for each.
    ///
    /// # Errors
    /// As there.
    pub fn route(&self, service: &str, operation: &str) -> Result<Route, Error> {
        lock(&self.inner.state).client.route(service, operation)
    }

    /// The key of a resource's name: see [`Client::key`]. Blocks the thread for a round trip on a socket, once for each.
    ///
    /// # Errors
    /// As there.
    pub fn key(&self, name: &str) -> Result<Key, Error> {
        lock(&self.inner.state).client.key(name)
    }

    /// Calls. The request is copied in once, when there is a free slot and room: who holds as many replies as the client
    /// has slots waits for himself. Dropping the future gives the call up.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn call(&self, route: Route, request: &[u8]) -> Result<AsyncReply, CallError> {
        self.call_with(route, |draft| draft, request).await
    }

    /// The same where more is to be said: `say` gives the draft a key, a deadline, room for a large reply, and so on.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn call_with(
        &self,
        route: Route,
        say: impl for<'c> Fn(Draft<'c>) -> Draft<'c>,
        request: &[u8],
    ) -> Result<AsyncReply, CallError> {
        let send =
            |client: &Client| say(client.request(route)).submit(request, Until::Now).map(|p| p.detach());
        self.call_by(send).await
    }

    /// Calls with a request of `len` bytes that `build` writes in place: the worker reads it there, and nothing is copied.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn call_built(
        &self,
        route: Route,
        say: impl for<'c> Fn(Draft<'c>) -> Draft<'c>,
        len: usize,
        build: impl Fn(&mut [u8]),
    ) -> Result<AsyncReply, CallError> {
        let send = |client: &Client| {
            let mut loan = say(client.request(route)).loan(len, Until::Now)?;
            build(&mut loan);
            Ok(loan.submit(Until::Now)?.detach())
        };
        self.call_by(send).await
    }

    /// Sends a request that has no reply. It runs once at most.
    ///
    /// # Errors
    /// As [`Draft::submit`].
    pub async fn post(&self, route: Route, request: &[u8]) -> Result<(), CallError> {
        self.with_room(|state| state.client.request(route).post(request, Until::Now)).await
    }

    /// Sends a copy of a request to all workers that have some of these keys, one part each: see [`Draft::scatter`].
    /// `say` as for [`call_with`](Self::call_with). Dropping the parts gives up those that have not ended.
    ///
    /// # Errors
    /// As there.
    pub async fn scatter(
        &self,
        route: Route,
        say: impl for<'c> Fn(Draft<'c>) -> Draft<'c>,
        keys: &[Key],
        request: &[u8],
    ) -> Result<AsyncParts, CallError> {
        self.scatter_by(|client| say(client.request(route)).scatter(keys, request, Until::Now)).await
    }

    /// Sends a copy of a request to all workers that provide the operation, one part each: see [`Draft::scatter_all`].
    ///
    /// # Errors
    /// As there.
    pub async fn scatter_all(
        &self,
        route: Route,
        say: impl for<'c> Fn(Draft<'c>) -> Draft<'c>,
        request: &[u8],
    ) -> Result<AsyncParts, CallError> {
        self.scatter_by(|client| say(client.request(route)).scatter_all(request, Until::Now)).await
    }

    async fn scatter_by(
        &self,
        send: impl for<'c> Fn(&'c Client) -> Result<Parts<'c>, CallError>,
    ) -> Result<AsyncParts, CallError> {
        let begin = |state: &mut State| {
            let parts = send(&state.client)?;
            let (is_done, ticket) = (parts.is_done(), parts.detach());
            let (tell, told) = mpsc::unbounded_channel();
            if !is_done {
                state.scatters.insert(ticket, tell);
                self.inner.arm_again(state);
            }
            Ok(AsyncParts { inner: self.inner.clone(), ticket, told, count: is_done.then_some(0) })
        };
        self.with_room(begin).await
    }

    /// Does what needs a slot and memory, as soon as there is room; whatever has ended meanwhile makes some.
    async fn with_room<T>(
        &self,
        attempt: impl Fn(&mut State) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        loop {
            // Made before it is tried: what ends in between is not missed.
            let room = self.inner.room.notified();
            let (tried, may_get_room) = {
                let mut state = lock(&self.inner.state);
                (attempt(&mut state), state.may_get_room())
            };
            match tried {
                Err(error) if error.status() == Status::WouldBlock && may_get_room => room.await,
                tried => return tried,
            }
        }
    }

    async fn call_by(
        &self,
        send: impl Fn(&Client) -> Result<Ticket, CallError>,
    ) -> Result<AsyncReply, CallError> {
        let begin = |state: &mut State| {
            let ticket = send(&state.client)?;
            let (tell, told) = oneshot::channel();
            state.calls.insert(ticket, tell);
            self.inner.arm_again(state);
            Ok(Call { inner: &self.inner, ticket, told, is_told: false })
        };
        self.ended(self.with_room(begin).await?).await
    }

    async fn ended(&self, mut call: Call<'_>) -> Result<AsyncReply, CallError> {
        let Ok(ended) = (&mut call.told).await else {
            // Nobody drops it untold but this call itself.
            return std::future::pending().await;
        };
        call.is_told = true;
        AsyncReply::of(&self.inner, ended)
    }
}

/// A call that is under way; given up when it is dropped.
struct Call<'a> {
    inner: &'a Inner,
    ticket: Ticket,
    told: oneshot::Receiver<Ended>,
    is_told: bool,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if self.is_told {
            return;
        }
        let mut state = lock(&self.inner.state);
        state.calls.remove(&self.ticket);
        drop(state.client.pending(self.ticket));
        // It may have ended in the moment before.
        if let Ok(Ok((kept, _))) = self.told.try_recv() {
            state.give_back(kept);
        }
        drop(state);
        self.inner.room.notify_waiters();
    }
}

/// Tells each call its end.
async fn drive(inner: Arc<Inner>) {
    loop {
        match inner.look() {
            Armed::Sleep => inner.sleep.sleep().await,
            // It could not be armed, for want of a descriptor: looks again, and lets others run.
            Armed::Ready => tokio::task::yield_now().await,
        }
        // Fails in a forked child only, which has no runtime.
        let _ = lock(&inner.state).client.disarm();
    }
}

impl Inner {
    /// Something was sent: it may be the next whose deadline passes, and it may have ended already.
    fn arm_again(&self, state: &State) {
        if !matches!(state.client.arm(), Ok(Armed::Sleep)) {
            self.sleep.kick();
        }
    }

    /// Tells all ends that there are; then arms.
    fn look(&self) -> Armed {
        let mut state = lock(&self.state);
        loop {
            if let Ok(Some(ticket)) = state.client.wait_any(Until::Now) {
                self.tell(&mut state, ticket);
                continue;
            }
            match state.client.arm() {
                Ok(Armed::Ready) => {}
                Ok(Armed::Sleep) => return Armed::Sleep,
                Err(_) => return Armed::Ready,
            }
        }
    }

    fn tell(&self, state: &mut State, ticket: Ticket) {
        let State { client, held, calls, scatters } = state;
        let kept = |reply: Reply<'_>| {
            let worker = reply.worker();
            (reply.detach(), worker)
        };
        let ended =
            client.pending(ticket).and_then(|mut pending| pending.poll().map(|ended| ended.map(kept)));
        if let Some(ended) = ended {
            *held += usize::from(ended.is_ok());
            let untold = match calls.remove(&ticket) {
                Some(tell) => tell.send(ended).err(),
                None => Some(ended),
            };
            if let Some(Ok((kept, _))) = untold {
                state.give_back(kept);
            }
        } else if let Some(mut parts) = client.parts(ticket) {
            let Some(tell) = scatters.get(&ticket) else {
                // It was begun before the client was taken over: nobody waits for it here.
                return drop(parts);
            };
            if let Some(part) = parts.poll() {
                let (keys, mask) = (part.keys().to_vec(), part.key_mask());
                let ended = part.into_result().map(kept);
                *held += usize::from(ended.is_ok());
                // Who drops the parts first takes the sender away: there is somebody to hear it.
                let _ = tell.send(EndedPart { keys, mask, count: parts.len(), ended });
            }
            if parts.is_done() {
                scatters.remove(&ticket);
            }
            let _ = parts.detach();
        }
        self.room.notify_waiters();
    }
}

/// A scatter that is under way: its parts come as they end. Dropping it gives up those that have not ended.
#[must_use = "dropping it cancels the parts"]
pub struct AsyncParts {
    inner: Arc<Inner>,
    ticket: Ticket,
    told: mpsc::UnboundedReceiver<EndedPart>,
    count: Option<usize>,
}

/// One part of a scatter, ended: one worker's answer, or what has become of it.
pub struct AsyncPart {
    keys: Vec<Key>,
    mask: u64,
    result: Result<AsyncReply, CallError>,
}

impl AsyncPart {
    /// What it is about: the keys that its worker has, in the order in which they were named; none in a scatter to all.
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// The same as bits: one for each place in the list that was sent.
    pub fn key_mask(&self) -> u64 {
        self.mask
    }

    /// The answer, or why there is none.
    pub fn result(&self) -> Result<&AsyncReply, &CallError> {
        self.result.as_ref()
    }

    /// The answer itself.
    ///
    /// # Errors
    /// What the part has ended with.
    pub fn into_result(self) -> Result<AsyncReply, CallError> {
        self.result
    }
}

impl AsyncParts {
    /// The next part that has ended; `None`: there are no more. Dropping the future loses none.
    pub async fn next(&mut self) -> Option<AsyncPart> {
        let EndedPart { keys, mask, count, ended } = self.told.recv().await?;
        self.count = count;
        Some(AsyncPart { keys, mask, result: AsyncReply::of(&self.inner, ended) })
    }

    #[allow(clippy::len_without_is_empty)] // there always is one, but in a scatter over no keys
    /// How many parts there are in all. Known from the first one on, and then never changes.
    pub fn len(&self) -> Option<usize> {
        self.count
    }
}

impl Drop for AsyncParts {
    fn drop(&mut self) {
        let mut state = lock(&self.inner.state);
        if state.scatters.remove(&self.ticket).is_some() {
            drop(state.client.parts(self.ticket));
        }
        while let Ok(EndedPart { ended, .. }) = self.told.try_recv() {
            if let Ok((kept, _)) = ended {
                state.give_back(kept);
            }
        }
        drop(state);
        self.inner.room.notify_waiters();
    }
}

/// A result. What is longer than 64 bytes is read where the worker wrote it, and holds one of its client's slots.
pub struct AsyncReply {
    inner: Arc<Inner>,
    kept: Option<KeptReply>,
    worker: u32,
}

impl AsyncReply {
    fn of(inner: &Arc<Inner>, ended: Ended) -> Result<AsyncReply, CallError> {
        let (kept, worker) = ended?;
        Ok(AsyncReply { inner: inner.clone(), kept: Some(kept), worker })
    }

    /// The bytes.
    pub fn bytes(&self) -> &Shared<'static> {
        self.kept.as_ref().expect("kept until it is dropped").bytes()
    }

    /// The worker that answered.
    pub fn worker(&self) -> u32 {
        self.worker
    }
}

impl Drop for AsyncReply {
    fn drop(&mut self) {
        if let Some(kept) = self.kept.take() {
            lock(&self.inner.state).give_back(kept);
            self.inner.room.notify_waiters();
        }
    }
}
