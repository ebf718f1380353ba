//! Calling from many tasks.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use trine::{Armed, CallError, Client, Draft, Error, KeptReply, Key, Route, Shared, Status, Ticket, Until};

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
}

impl State {
    /// Whether there is something that makes room when it ends, or is dropped.
    fn may_get_room(&self) -> bool {
        !self.calls.is_empty() || self.held > 0
    }
}

/// How a call ended: its reply, and who answered.
type Ended = Result<(KeptReply, u32), CallError>;

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
        let state = Mutex::new(State { client, held: 0, calls: HashMap::new() });
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
        self.ended(self.send(send).await?).await
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
        self.ended(self.send(send).await?).await
    }

    /// Sends a request that has no reply. It runs once at most.
    ///
    /// # Errors
    /// As [`Draft::submit`].
    pub async fn post(&self, route: Route, request: &[u8]) -> Result<(), CallError> {
        loop {
            let room = self.inner.room.notified();
            let sent = {
                let state = lock(&self.inner.state);
                let sent = state.client.request(route).post(request, Until::Now);
                sent.map_err(|error| (error, state.may_get_room()))
            };
            match sent {
                Err((error, true)) if error.status() == Status::WouldBlock => room.await,
                sent => return sent.map_err(|(error, _)| error),
            }
        }
    }

    /// Sends, as soon as there is room; whatever has ended meanwhile makes some.
    async fn send(&self, send: impl Fn(&Client) -> Result<Ticket, CallError>) -> Result<Call<'_>, CallError> {
        loop {
            // Made before it is tried: what ends in between is not missed.
            let room = self.inner.room.notified();
            match self.try_send(&send) {
                Err((error, true)) if error.status() == Status::WouldBlock => room.await,
                sent => return sent.map_err(|(error, _)| error),
            }
        }
    }

    /// The second is whether others' ends may make room.
    fn try_send(
        &self,
        send: impl Fn(&Client) -> Result<Ticket, CallError>,
    ) -> Result<Call<'_>, (CallError, bool)> {
        let mut state = lock(&self.inner.state);
        let ticket = send(&state.client).map_err(|error| (error, state.may_get_room()))?;
        let (tell, told) = oneshot::channel();
        state.calls.insert(ticket, tell);
        // Anew, since it may be the next whose deadline passes; and it may have ended already.
        if !matches!(state.client.arm(), Ok(Armed::Sleep)) {
            self.inner.sleep.kick();
        }
        drop(state);
        Ok(Call { inner: &self.inner, ticket, told, is_told: false })
    }

    async fn ended(&self, mut call: Call<'_>) -> Result<AsyncReply, CallError> {
        let Ok(ended) = (&mut call.told).await else {
            // Nobody drops it untold but this call itself.
            return std::future::pending().await;
        };
        call.is_told = true;
        let (kept, worker) = ended?;
        Ok(AsyncReply { inner: self.inner.clone(), kept: Some(kept), worker })
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
            state.held -= 1;
            drop(state.client.reattach(kept));
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
        let State { client, held, calls } = state;
        let Some(result) = client.pending(ticket).and_then(|mut pending| pending.poll()) else {
            // A scatter that was begun before the client was taken over: nobody waits for it here.
            drop(client.parts(ticket));
            return;
        };
        let ended = result.map(|reply| {
            let worker = reply.worker();
            (reply.detach(), worker)
        });
        let has_reply = usize::from(ended.is_ok());
        let untold = match calls.remove(&ticket) {
            Some(tell) => tell.send(ended).err(),
            None => Some(ended),
        };
        match untold {
            None => *held += has_reply,
            Some(Ok((kept, _))) => drop(client.reattach(kept)),
            Some(Err(_)) => {}
        }
        self.room.notify_waiters();
    }
}

/// A result. What is longer than 64 bytes is read where the worker wrote it, and holds one of its client's slots.
pub struct AsyncReply {
    inner: Arc<Inner>,
    kept: Option<KeptReply>,
    worker: u32,
}

impl AsyncReply {
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
            let mut state = lock(&self.inner.state);
            state.held -= 1;
            drop(state.client.reattach(kept));
            drop(state);
            self.inner.room.notify_waiters();
        }
    }
}
