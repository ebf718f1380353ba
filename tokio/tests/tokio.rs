//! Many tasks on one handle: nothing is lost, and what is dropped is given up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;
use trine::{
    Bus, ClientOptions, Director, DirectorHandle, DirectorOptions, Key, ServiceOptions, Status, Stopper,
    WorkerOptions,
};
use trine_tokio::{AsyncClient, AsyncRequest, AsyncWorker};

const LONG: Duration = Duration::from_secs(20);

struct Here {
    _folder: tempfile::TempDir,
    bus: Bus,
    _director: DirectorHandle,
}

fn here() -> Here {
    let folder = tempfile::tempdir().unwrap();
    let bus = Bus::at(folder.path());
    let director = Director::new(&bus, DirectorOptions::default()).unwrap().spawn().unwrap();
    Here { _folder: folder, bus, _director: director }
}

impl Here {
    fn worker(&self) -> (AsyncWorker, Stopper) {
        let worker = self.bus.worker(WorkerOptions::default()).unwrap();
        worker.provide("test", &["echo", "fail", "wait", "drop"]).unwrap();
        let stopper = worker.stopper();
        (AsyncWorker::new(worker).unwrap(), stopper)
    }

    fn client(&self, slots: u32) -> AsyncClient {
        AsyncClient::new(self.bus.client(ClientOptions::default().slots(slots)).unwrap()).unwrap()
    }
}

/// What "wait" has seen.
#[derive(Default)]
struct Seen {
    begun: Notify,
    given_up: Notify,
}

async fn handle(request: AsyncRequest, seen: Arc<Seen>) {
    match request.number() {
        0 => {
            tokio::task::yield_now().await;
            let bytes = request.to_vec();
            request.reply_with(bytes.len(), |_, out| out.write_at(0, &bytes));
        }
        1 => request.fail(7, "no, thank you"),
        2 => {
            seen.begun.notify_one();
            while !request.is_cancelled() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            seen.given_up.notify_one();
        }
        _ => {}
    }
}

/// Runs a test beside a worker.
async fn with_worker<F: Future<Output = ()>>(slots: u32, test: impl FnOnce(AsyncClient, Arc<Seen>) -> F) {
    let here = here();
    let ((mut worker, stopper), seen) = (here.worker(), Arc::new(Seen::default()));
    let serving = tokio::spawn({
        let seen = seen.clone();
        async move { worker.serve(16, |request| handle(request, seen.clone())).await }
    });
    timeout(LONG, test(here.client(slots), seen)).await.unwrap();
    stopper.stop();
    timeout(LONG, serving).await.unwrap().unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_call_and_each_gets_its_own() {
    with_worker(8, |client, _| async move {
        let echo = client.route("test", "echo").unwrap();
        let (done, mut all) = mpsc::channel(1);
        for task in 0..50 {
            let (client, done) = (client.clone(), done.clone());
            tokio::spawn(async move {
                for call in 0..20 {
                    let text = format!("{task} {call}").repeat(1 + call * 10);
                    let reply = client.call(echo, text.as_bytes()).await.unwrap();
                    assert_eq!(reply.bytes().to_vec(), text.as_bytes());
                }
                done.send(()).await.unwrap();
            });
        }
        drop(done);
        let mut ended = 0;
        while all.recv().await.is_some() {
            ended += 1;
        }
        assert_eq!(ended, 50);
    })
    .await;
}

#[tokio::test]
async fn large_ones_are_built_in_place() {
    with_worker(8, |client, _| async move {
        let echo = client.route("test", "echo").unwrap();
        for len in [0usize, 1, 64, 65, 4096, 1 << 20, 16 << 20] {
            let fill = |bytes: &mut [u8]| bytes.iter_mut().enumerate().for_each(|(i, byte)| *byte = i as u8);
            let reply =
                client.call_built(echo, |draft| draft.reply_capacity(len.max(1)), len, fill).await.unwrap();
            let bytes = reply.bytes().to_vec();
            assert!(
                bytes.len() == len && bytes.iter().enumerate().all(|(i, byte)| *byte == i as u8),
                "{len}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn ends_that_are_no_results() {
    with_worker(8, |client, _| async move {
        let route = |name| client.route("test", name).unwrap();
        let error = client.call(route("fail"), b"").await.err().unwrap();
        assert_eq!(
            (error.status(), error.code(), error.message()),
            (Status::WorkerError, 7, "no, thank you")
        );
        let error = client.call(route("drop"), b"").await.err().unwrap();
        assert_eq!(
            (error.status(), error.message()),
            (Status::WorkerError, "the worker dropped the request")
        );
        let late =
            client.call_with(route("wait"), |draft| draft.timeout(Duration::from_millis(20)), b"").await;
        assert_eq!(late.err().unwrap().status(), Status::DeadlineExceeded);
        assert!(client.route("test", "nothing").is_err());
        client.post(route("echo"), b"nobody waits").await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_future_that_is_dropped_gives_its_call_up() {
    with_worker(2, |client, seen| async move {
        let wait = client.route("test", "wait").unwrap();
        let call = tokio::spawn({
            let client = client.clone();
            async move { client.call(wait, b"").await.map(drop) }
        });
        seen.begun.notified().await;
        call.abort();
        seen.given_up.notified().await;
        assert!(timeout(Duration::from_millis(20), client.call(wait, b"")).await.is_err());
        seen.given_up.notified().await;
        // Never polled: never sent.
        drop(client.call(wait, b""));
    })
    .await;
}

#[tokio::test]
async fn what_waits_for_room_goes_on_when_a_call_or_a_reply_goes() {
    with_worker(2, |client, seen| async move {
        let (echo, wait) = (client.route("test", "echo").unwrap(), client.route("test", "wait").unwrap());
        let (held, sent) = (client.call(echo, &[1; 1000]).await.unwrap(), AtomicU32::new(0));
        let occupied = tokio::spawn({
            let client = client.clone();
            async move { client.call(wait, b"").await.map(drop) }
        });
        seen.begun.notified().await;
        let blocked = async {
            assert_eq!(client.call(echo, b"in the end").await.unwrap().bytes().to_vec(), b"in the end");
            sent.store(1, Ordering::Relaxed);
        };
        let release = async {
            tokio::task::yield_now().await;
            assert_eq!(sent.load(Ordering::Relaxed), 0);
            drop(held);
        };
        tokio::join!(blocked, release);
        occupied.abort();
        seen.given_up.notified().await;
    })
    .await;
}

#[tokio::test]
async fn a_drained_worker_serves_what_it_has_and_is_done() {
    let here = here();
    let (mut worker, _) = here.worker();
    let client = here.client(8);
    let echo = client.route("test", "echo").unwrap();
    let call = tokio::spawn(async move { client.call(echo, b"last").await.unwrap().bytes().to_vec() });
    let request = timeout(LONG, worker.next()).await.unwrap().unwrap();
    worker.with(|worker| worker.drain()).unwrap();
    let answer = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let bytes = request.to_vec();
        request.reply(&bytes);
    });
    timeout(LONG, worker.serve(1, |_| async {})).await.unwrap().unwrap();
    answer.await.unwrap();
    assert_eq!(call.await.unwrap(), b"last");
}

/// A worker in a thread that speaks for some keys: it adds them up, or waits until nobody wants to know.
fn serve_sums(
    here: &Here,
    keys: std::ops::RangeInclusive<u64>,
    given_up: Option<mpsc::UnboundedSender<()>>,
) -> (Stopper, std::thread::JoinHandle<()>) {
    let worker = here.bus.worker(WorkerOptions::default()).unwrap();
    worker.provide_with("parts", &["sum"], ServiceOptions::default().resource(keys)).unwrap();
    let stopper = worker.stopper();
    let serve = move || {
        worker
            .serve(|request| {
                if let Some(given_up) = &given_up {
                    while !request.is_cancelled() {
                        std::thread::yield_now();
                    }
                    given_up.send(()).unwrap();
                }
                let sum: u64 = request.keys().into_iter().filter_map(Key::as_number).sum();
                request.reply(&sum.to_ne_bytes())
            })
            .unwrap();
    };
    (stopper, std::thread::spawn(serve))
}

#[tokio::test]
async fn parts_come_as_they_end_and_are_given_up_when_they_are_dropped() {
    let here = here();
    let (tell, mut given_up) = mpsc::unbounded_channel();
    let workers = [serve_sums(&here, 0..=9, None), serve_sums(&here, 10..=19, Some(tell))];
    let client = here.client(8);
    let sum = client.route("parts", "sum").unwrap();
    let scatter = |numbers: &[u64]| {
        let keys: Vec<Key> = numbers.iter().copied().map(Key::number).collect();
        let client = client.clone();
        async move { client.scatter(sum, |draft| draft, &keys, b"").await.unwrap() }
    };
    let mut parts = scatter(&[1, 11, 2]).await;
    let first = timeout(LONG, parts.next()).await.unwrap().unwrap();
    assert_eq!((first.keys(), first.key_mask()), (&[Key::number(1), Key::number(2)][..], 0b101));
    assert_eq!(first.into_result().unwrap().bytes().get::<u64>(), Some(3));
    assert_eq!(parts.len(), Some(2));
    assert!(timeout(Duration::from_millis(20), parts.next()).await.is_err());
    drop(parts);
    timeout(LONG, given_up.recv()).await.unwrap().unwrap();

    assert!(scatter(&[]).await.next().await.is_none());
    // More than there is room for at a time: each waits for its slots.
    let all = (0..40).map(|_| async {
        let mut parts = scatter(&[3, 4, 5, 6]).await;
        let sum = parts.next().await.unwrap().into_result().unwrap().bytes().get::<u64>();
        assert!(parts.next().await.is_none());
        sum.unwrap()
    });
    for sum in timeout(LONG, all_of(all)).await.unwrap() {
        assert_eq!(sum, 18);
    }
    let mut refused = client.scatter_all(sum, |draft| draft.parts(1), b"").await.unwrap();
    let error = refused.next().await.unwrap().into_result().err().unwrap();
    assert_eq!((error.status(), error.needed()), (Status::TooManyParts, Some(2)));
    for (stopper, thread) in workers {
        stopper.stop();
        thread.join().unwrap();
    }
}

/// All of them at once, in this task.
async fn all_of<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut open: Vec<_> = futures.map(Box::pin).collect();
    let mut done = Vec::new();
    std::future::poll_fn(|context| {
        open.retain_mut(|future| match future.as_mut().poll(context) {
            std::task::Poll::Ready(value) => {
                done.push(value);
                false
            }
            std::task::Poll::Pending => true,
        });
        if open.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done
}
