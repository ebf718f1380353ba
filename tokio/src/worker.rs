//! Serving in many tasks.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use trine::{Armed, Error, Identity, Key, Request, RequestId, Served, Shared, SharedMut, Until, Worker};

use crate::sleep::{Sleep, lock};

/// A worker in a runtime. It is stopped by [`Worker::stopper`], taken before it is given here.
pub struct AsyncWorker {
    inner: Arc<Inner>,
}

struct Inner {
    worker: Mutex<Worker>,
    sleep: Sleep,
}

impl AsyncWorker {
    /// Takes a worker over. In a runtime with its I/O enabled.
    ///
    /// # Errors
    /// [`Error::System`].
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn new(worker: Worker) -> Result<AsyncWorker, Error> {
        let sleep = Sleep::on(&worker)?;
        Ok(AsyncWorker { inner: Arc::new(Inner { worker: Mutex::new(worker), sleep }) })
    }

    /// Does something with the worker: provides, changes, acquires, drains. Blocks the thread for as long.
    pub fn with<T>(&self, run: impl FnOnce(&Worker) -> T) -> T {
        let ran = run(&lock(&self.inner.worker));
        self.inner.sleep.kick();
        ran
    }

    /// The next request. Dropping the future loses none.
    ///
    /// # Errors
    /// As [`Worker::next`].
    pub async fn next(&mut self) -> Result<AsyncRequest, Error> {
        loop {
            if let Some(id) = self.inner.look()? {
                return Ok(AsyncRequest { inner: self.inner.clone(), id, answered: false });
            }
            self.inner.sleep.sleep().await;
            lock(&self.inner.worker).disarm()?;
        }
    }

    /// Serves until it is stopped or drained: up to `most` requests at a time, each in a task of its own. A request that
    /// its handler drops, or in which it panics, is answered WORKER_ERROR. Dropping the future aborts the tasks.
    ///
    /// # Errors
    /// What [`next`](Self::next) can't go on after.
    pub async fn serve<F, Fut>(&mut self, most: usize, handler: F) -> Result<(), Error>
    where
        F: Fn(AsyncRequest) -> Fut,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let (places, mut tasks) = (Arc::new(Semaphore::new(most.max(1))), JoinSet::new());
        let ended = loop {
            // Nobody closes it.
            let Ok(place) = places.clone().acquire_owned().await else { break Ok(()) };
            while tasks.try_join_next().is_some() {}
            match self.next().await {
                Ok(request) => {
                    let handling = handler(request);
                    tasks.spawn(async move {
                        handling.await;
                        drop(place);
                    });
                }
                Err(Error::Interrupted | Error::Drained) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        while tasks.join_next().await.is_some() {}
        ended
    }
}

impl Inner {
    /// The next request; or nothing, and armed.
    fn look(&self) -> Result<Option<RequestId>, Error> {
        let worker = lock(&self.worker);
        loop {
            if let Some(request) = worker.next(Until::Now)? {
                return Ok(Some(request.detach()));
            }
            if worker.arm()? == Armed::Sleep {
                return Ok(None);
            }
        }
    }
}

/// A request in the hands of a task: answered once, or, where it is dropped, by WORKER_ERROR.
pub struct AsyncRequest {
    inner: Arc<Inner>,
    id: RequestId,
    answered: bool,
}

impl AsyncRequest {
    /// Looks at the request; `None` if it was answered.
    fn look<T>(&self, look: impl FnOnce(&Request<'_>) -> T) -> Option<T> {
        let worker = lock(&self.inner.worker);
        let request = worker.request(self.id)?;
        let seen = look(&request);
        let _ = request.detach();
        Some(seen)
    }

    fn answer(mut self, how: impl FnOnce(Request<'_>) -> Served) {
        self.answered = true;
        self.inner.answer(self.id, how);
    }

    /// The operation that it asks for, as a number: see [`Worker::provide`].
    pub fn number(&self) -> u32 {
        self.look(|request| request.number()).unwrap_or(u32::MAX)
    }

    /// Whether it asks for this operation.
    pub fn is(&self, operation: &str) -> bool {
        self.look(|request| request.is(operation)).unwrap_or(false)
    }

    /// The resource that it is about, if it names one.
    pub fn key(&self) -> Option<Key> {
        self.look(|request| request.key()).flatten()
    }

    /// The resources that it is about: see [`Request::keys`].
    pub fn keys(&self) -> Vec<Key> {
        self.look(|request| request.keys()).unwrap_or_default()
    }

    /// Of a part of a scatter over keys: see [`Request::key_mask`].
    pub fn key_mask(&self) -> Option<u64> {
        self.look(|request| request.key_mask()).flatten()
    }

    /// When its caller will have stopped waiting.
    pub fn deadline(&self) -> Option<Instant> {
        self.look(|request| request.deadline()).flatten()
    }

    /// Who asks.
    pub fn caller(&self) -> Option<Identity> {
        self.look(|request| request.caller())
    }

    /// Whether its caller has given it up, or is gone: no use going on.
    pub fn is_cancelled(&self) -> bool {
        self.look(|request| request.is_cancelled()).unwrap_or(true)
    }

    /// How many bytes the reply may have.
    pub fn capacity(&self) -> usize {
        self.look(|request| request.capacity()).unwrap_or(0)
    }

    /// The payload, copied.
    pub fn to_vec(&self) -> Vec<u8> {
        self.look(|request| request.bytes().to_vec()).unwrap_or_default()
    }

    /// Reads the payload where it is. The worker's other tasks wait meanwhile.
    pub fn read<T>(&self, read: impl FnOnce(&Shared<'_>) -> T) -> Option<T> {
        self.look(|request| read(&request.bytes()))
    }

    /// Answers: see [`Request::reply`].
    pub fn reply(self, bytes: &[u8]) {
        self.answer(|request| request.reply(bytes));
    }

    /// Answers with `len` bytes that `fill` writes where the client reads them: see [`Request::reply_with`]. The worker's
    /// other tasks wait meanwhile.
    pub fn reply_with(self, len: usize, fill: impl FnOnce(&Shared<'_>, &mut SharedMut<'_>)) {
        self.answer(|request| request.reply_with(len, fill));
    }

    /// Answers WORKER_ERROR: see [`Request::fail`].
    pub fn fail(self, code: u32, message: &str) {
        self.answer(|request| request.fail(code, message));
    }
}

impl Inner {
    fn answer(&self, id: RequestId, how: impl FnOnce(Request<'_>) -> Served) {
        let worker = lock(&self.worker);
        if let Some(request) = worker.request(id) {
            let _ = how(request);
        }
        // A right that was recalled may be due, now that this is answered; and what was begun is no reason to sleep.
        if !matches!(worker.arm(), Ok(Armed::Sleep)) {
            self.sleep.kick();
        }
    }
}

impl Drop for AsyncRequest {
    fn drop(&mut self) {
        if !self.answered {
            self.inner.answer(self.id, |request| request.fail(0, "the worker dropped the request"));
        }
    }
}
