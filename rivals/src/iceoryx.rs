//! iceoryx2: request-response, and pairs of publish-subscribe topics; direct, and relayed by a third process.
//!
//! ```text
//! request-response, direct     client ──► worker ──► client                                2 messages
//! publish-subscribe, direct    client ─A─► worker ─C─► client                              2
//! request-response, relay      client ──► relay ──► worker ──► relay ──► client            4
//! publish-subscribe, relay     client ─A─► relay ─B─► worker ─C─► client                   3
//! ```
//! Samples are loaned and written in place. Queues are as long as calls are in flight: longer ones are slower. Who
//! sleeps is woken by its events, as its documentation has it: a notifier beside each port that sends, a listener
//! beside each that receives. A relay copies: a sample can't be sent on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::ValueEnum;
use iceoryx2::active_request::ActiveRequest;
use iceoryx2::config::Config;
use iceoryx2::pending_response::PendingResponse;
use iceoryx2::port::client::Client as Asking;
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::server::Server as Answering;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;
use trine_measure::Seat::{Client, Middle, Worker};
use trine_measure::payload::{Way, word};
use trine_measure::{Caller, PartyOptions, Subject, Wait, ready};

use crate::{answered, asked, ending};

/// Which of its patterns.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Pattern {
    RequestResponse,
    PublishSubscribe,
}

/// Which of the processes.
#[derive(Clone, Copy, ValueEnum)]
pub enum Role {
    Client,
    RelayedClient,
    Relay,
    Worker,
    RelayedWorker,
}

/// What can be measured.
pub fn subjects() -> Vec<Subject> {
    let mut all = Vec::new();
    for (name, pattern, relayed) in
        [("request-response", "request-response", 4), ("publish-subscribe", "publish-subscribe", 3)]
    {
        let role = |role| format!("iceoryx {pattern} {role}");
        let direct = [(Worker, &*role("worker")), (Client, &*role("client"))];
        all.push(Subject::new(&format!("iceoryx2 {name}, direct"), 2, &direct));
        let relay = [
            (Worker, &*role("relayed-worker")),
            (Middle, &*role("relay")),
            (Client, &*role("relayed-client")),
        ];
        all.push(Subject::new(&format!("iceoryx2 {name}, relay"), relayed, &relay));
    }
    let waiting = [Wait::Spin, Wait::Yield, Wait::Adaptive, Wait::Park];
    all.into_iter().map(|subject| subject.waiting(&waiting).bounds(1 << 20, 64)).collect()
}

type Pending = PendingResponse<ipc::Service, [u64], (), [u64], ()>;
type Active = ActiveRequest<ipc::Service, [u64], (), [u64], ()>;

/// What all ports of a process have in common.
struct Ports<'a> {
    node: Node<ipc::Service>,
    options: &'a PartyOptions,
    depth: usize,
    ending: Arc<AtomicBool>,
}

fn failed<E: std::fmt::Debug>(doing: &'static str) -> impl FnOnce(E) -> anyhow::Error {
    move |error| anyhow!("{doing}: {error:?}")
}

impl<'a> Ports<'a> {
    fn new(options: &'a PartyOptions) -> anyhow::Result<Ports<'a>> {
        let ending = ending()?;
        set_log_level(LogLevel::Fatal);
        let mut config = Config::default();
        let folder = options.folder.to_str().context("a folder's name is text")?;
        config.global.set_root_path(&Path::new(folder.as_bytes()).map_err(failed("naming a folder"))?);
        let name = options.folder.file_name().and_then(|name| name.to_str()).unwrap_or("round");
        config.global.prefix =
            FileName::new(format!("{name}_").as_bytes()).map_err(failed("naming a round"))?;
        let node = NodeBuilder::new()
            .config(&config)
            .signal_handling_mode(SignalHandlingMode::Disabled)
            .create::<ipc::Service>()
            .map_err(failed("making a node"))?;
        Ok(Ports { node, options, depth: options.load.in_flight.max(2), ending })
    }

    fn name(&self, name: &str) -> anyhow::Result<ServiceName> {
        name.try_into().map_err(failed("naming a service"))
    }

    /// What wakes the other end, and what this end is woken by: only for those who sleep.
    fn event(
        &self,
        name: &str,
    ) -> anyhow::Result<Option<iceoryx2::service::port_factory::event::PortFactory<ipc::Service>>> {
        if self.options.waiting.polls() {
            return Ok(None);
        }
        let event = self.node.service_builder(&self.name(&format!("{name}/event"))?).event().open_or_create();
        event.map(Some).map_err(failed("making an event"))
    }

    fn rings(&self, name: &str) -> anyhow::Result<Option<Notifier<ipc::Service>>> {
        let event = self.event(name)?;
        event.map(|e| e.notifier_builder().create()).transpose().map_err(failed("making a notifier"))
    }

    fn waits(&self, name: &str) -> anyhow::Result<Waits> {
        let event = self.event(name)?;
        let listener =
            event.map(|e| e.listener_builder().create()).transpose().map_err(failed("making a listener"))?;
        Ok(Waits { listener, wait: self.options.waiting, ending: self.ending.clone() })
    }

    fn topic(
        &self,
        name: &str,
    ) -> anyhow::Result<
        iceoryx2::service::port_factory::publish_subscribe::PortFactory<ipc::Service, [u64], ()>,
    > {
        let topic = self
            .node
            .service_builder(&self.name(name)?)
            .publish_subscribe::<[u64]>()
            .enable_safe_overflow(false)
            .history_size(0)
            .subscriber_max_buffer_size(self.depth)
            .subscriber_max_borrowed_samples(2)
            .max_publishers(1)
            .max_subscribers(1);
        topic.open_or_create().map_err(failed("making a topic"))
    }

    fn sends(&self, name: &str) -> anyhow::Result<Sends> {
        let words = self.options.bytes.max(self.options.reply_bytes) / 8;
        let publisher =
            self.topic(name)?.publisher_builder().initial_max_slice_len(words).max_loaned_samples(1).create();
        Ok(Sends { publisher: publisher.map_err(failed("making a publisher"))?, rings: self.rings(name)? })
    }

    fn hears(&self, name: &str) -> anyhow::Result<Hears> {
        let subscriber = self.topic(name)?.subscriber_builder().create();
        Ok(Hears { subscriber: subscriber.map_err(failed("making a subscriber"))?, waits: self.waits(name)? })
    }

    fn service(
        &self,
        name: &str,
    ) -> anyhow::Result<
        iceoryx2::service::port_factory::request_response::PortFactory<ipc::Service, [u64], (), [u64], ()>,
    > {
        let service = self
            .node
            .service_builder(&self.name(name)?)
            .request_response::<[u64], [u64]>()
            .max_active_requests_per_client(self.depth)
            .max_loaned_requests(1)
            .max_response_buffer_size(2)
            .max_borrowed_responses_per_pending_response(2)
            .enable_safe_overflow_for_requests(false)
            .enable_safe_overflow_for_responses(false)
            .max_clients(1)
            .max_servers(1);
        service.open_or_create().map_err(failed("making a service"))
    }

    fn asks(&self, name: &str) -> anyhow::Result<Asks> {
        let client =
            self.service(name)?.client_builder().initial_max_slice_len(self.options.bytes / 8).create();
        let client = client.map_err(failed("making a client"))?;
        let (rings, waits) = (self.rings(name)?, self.waits(&format!("{name}/back"))?);
        Ok(Asks { client, open: VecDeque::new(), rings, waits })
    }

    fn answers(&self, name: &str) -> anyhow::Result<Answers> {
        let server = self
            .service(name)?
            .server_builder()
            .initial_max_slice_len(self.options.reply_bytes / 8)
            .max_loaned_responses_per_request(1)
            .create();
        let server = server.map_err(failed("making a server"))?;
        Ok(Answers { server, rings: self.rings(&format!("{name}/back"))?, waits: self.waits(name)? })
    }
}

/// Waits until something may have come.
struct Waits {
    listener: Option<Listener<ipc::Service>>,
    wait: Wait,
    ending: Arc<AtomicBool>,
}

impl Waits {
    /// False when this process is to end.
    fn pause(&self) -> bool {
        match &self.listener {
            // A signal may come between the look at `ending` and the wait: so it is a bounded one.
            Some(listener) => drop(listener.timed_wait(|_| {}, Duration::from_millis(200))),
            None => self.wait.pause(),
        }
        !self.ending.load(Ordering::Relaxed)
    }

    /// What `find` finds, as soon as it does. `None` when this process is to end.
    fn until<T>(&self, mut find: impl FnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<Option<T>> {
        loop {
            if let Some(found) = find()? {
                return Ok(Some(found));
            }
            if !self.pause() {
                return Ok(None);
            }
        }
    }
}

fn ring(rings: &Option<Notifier<ipc::Service>>) -> anyhow::Result<()> {
    if let Some(notifier) = rings {
        notifier.notify().map_err(failed("notifying"))?;
    }
    Ok(())
}

/// The sending end of a topic.
struct Sends {
    publisher: Publisher<ipc::Service, [u64], ()>,
    rings: Option<Notifier<ipc::Service>>,
}

impl Sends {
    fn send(&self, words: usize, word: impl FnMut(usize) -> u64) -> anyhow::Result<()> {
        let sample = self.publisher.loan_slice_uninit(words).map_err(failed("loaning a sample"))?;
        sample.write_from_fn(word).send().map_err(failed("publishing"))?;
        ring(&self.rings)
    }
}

/// The receiving end of a topic.
struct Hears {
    subscriber: Subscriber<ipc::Service, [u64], ()>,
    waits: Waits,
}

type Heard = iceoryx2::sample::Sample<ipc::Service, [u64], ()>;

impl Hears {
    fn look(&self) -> anyhow::Result<Option<Heard>> {
        self.subscriber.receive().map_err(failed("receiving"))
    }
    fn next(&self) -> anyhow::Result<Option<Heard>> {
        self.waits.until(|| self.look())
    }
}

/// The asking end of a service.
struct Asks {
    client: Asking<ipc::Service, [u64], (), [u64], ()>,
    open: VecDeque<Pending>,
    rings: Option<Notifier<ipc::Service>>,
    waits: Waits,
}

type Response = iceoryx2::response::Response<ipc::Service, [u64], ()>;

impl Asks {
    fn send(&mut self, words: usize, word: impl FnMut(usize) -> u64) -> anyhow::Result<()> {
        let request = self.client.loan_slice_uninit(words).map_err(failed("loaning a request"))?;
        let pending = request.write_from_fn(word).send().map_err(failed("asking"))?;
        self.open.push_back(pending);
        ring(&self.rings)
    }

    /// The oldest one's answer, if it is there.
    fn look(&mut self) -> anyhow::Result<Option<Response>> {
        let Some(oldest) = self.open.front() else { return Ok(None) };
        let response = oldest.receive().map_err(failed("receiving"))?;
        if response.is_some() {
            self.open.pop_front();
        }
        Ok(response)
    }

    fn next(&mut self) -> anyhow::Result<Option<Response>> {
        loop {
            if let Some(response) = self.look()? {
                return Ok(Some(response));
            }
            if !self.waits.pause() {
                return Ok(None);
            }
        }
    }
}

/// The answering end of a service.
struct Answers {
    server: Answering<ipc::Service, [u64], (), [u64], ()>,
    rings: Option<Notifier<ipc::Service>>,
    waits: Waits,
}

impl Answers {
    fn look(&self) -> anyhow::Result<Option<Active>> {
        self.server.receive().map_err(failed("receiving"))
    }

    fn next(&self) -> anyhow::Result<Option<Active>> {
        self.waits.until(|| self.look())
    }

    fn answer(&self, request: &Active, words: usize, word: impl FnMut(usize) -> u64) -> anyhow::Result<()> {
        let response = request.loan_slice_uninit(words).map_err(failed("loaning a response"))?;
        response.write_from_fn(word).send().map_err(failed("answering"))?;
        ring(&self.rings)
    }
}

fn bytes(words: &[u64]) -> &[u8] {
    bytemuck::cast_slice(words)
}

/// Runs it.
pub fn run(pattern: Pattern, role: Role, options: &PartyOptions) -> anyhow::Result<()> {
    let ports = Ports::new(options)?;
    let words = options.reply_bytes / 8;
    match (pattern, role) {
        (Pattern::PublishSubscribe, Role::Client) => topics(&ports, "work"),
        (Pattern::PublishSubscribe, Role::RelayedClient) => topics(&ports, "request"),
        (Pattern::PublishSubscribe, Role::Relay) => {
            let (hears, sends) = (ports.hears("request")?, ports.sends("work")?);
            ready();
            while let Some(sample) = hears.next()? {
                sends.send(sample.len(), |i| sample[i])?;
            }
            Ok(())
        }
        (Pattern::PublishSubscribe, Role::Worker | Role::RelayedWorker) => {
            let (hears, sends) = (ports.hears("work")?, ports.sends("reply")?);
            ready();
            while let Some(sample) = hears.next()? {
                let number = asked(bytes(&sample))?;
                drop(sample);
                sends.send(words, |i| word(Way::Answer, number, i))?;
            }
            Ok(())
        }
        (Pattern::RequestResponse, Role::Client) => requests(&ports, "work"),
        (Pattern::RequestResponse, Role::RelayedClient) => requests(&ports, "request"),
        (Pattern::RequestResponse, Role::Relay) => relay(&ports),
        (Pattern::RequestResponse, Role::Worker | Role::RelayedWorker) => {
            let answers = ports.answers("work")?;
            ready();
            while let Some(request) = answers.next()? {
                let number = asked(bytes(request.payload()))?;
                answers.answer(&request, words, |i| word(Way::Answer, number, i))?;
            }
            Ok(())
        }
    }
}

/// Requests on, and answers back, in whatever order they come.
fn relay(ports: &Ports<'_>) -> anyhow::Result<()> {
    let (answers, mut asks) = (ports.answers("request")?, ports.asks("work")?);
    ready();
    let mut open: VecDeque<Active> = VecDeque::new();
    loop {
        let mut found = false;
        while let Some(request) = answers.look()? {
            let words = request.payload();
            asks.send(words.len(), |i| words[i])?;
            open.push_back(request);
            found = true;
        }
        while let Some(response) = asks.look()? {
            let request = open.pop_front().context("an answer to no request")?;
            answers.answer(&request, response.len(), |i| response[i])?;
            found = true;
        }
        // Who sleeps can wait for one listener: it goes by whether an answer is due.
        let waits = if open.is_empty() { &answers.waits } else { &asks.waits };
        if !found && !waits.pause() {
            return Ok(());
        }
    }
}

fn topics(ports: &Ports<'_>, to: &str) -> anyhow::Result<()> {
    struct Topics<'a>(Sends, Hears, &'a PartyOptions);
    impl Caller for Topics<'_> {
        fn send(&mut self, number: u64) -> anyhow::Result<()> {
            self.0.send(self.2.bytes / 8, |i| word(Way::Request, number, i))
        }
        fn receive(&mut self, wait: bool) -> anyhow::Result<Option<u64>> {
            let sample = if wait { self.1.next()? } else { self.1.look()? };
            sample.map(|sample| answered(bytes(&sample))).transpose()
        }
    }
    let (hears, sends) = (ports.hears("reply")?, ports.sends(to)?);
    ports.options.load.run(&mut Topics(sends, hears, ports.options))?.tell()
}

fn requests(ports: &Ports<'_>, to: &str) -> anyhow::Result<()> {
    struct Requests<'a>(Asks, &'a PartyOptions);
    impl Caller for Requests<'_> {
        fn send(&mut self, number: u64) -> anyhow::Result<()> {
            self.0.send(self.1.bytes / 8, |i| word(Way::Request, number, i))
        }
        fn receive(&mut self, wait: bool) -> anyhow::Result<Option<u64>> {
            let response = if wait { self.0.next()? } else { self.0.look()? };
            response.map(|response| answered(bytes(response.payload()))).transpose()
        }
    }
    let asks = ports.asks(to)?;
    ports.options.load.run(&mut Requests(asks, ports.options))?.tell()
}
