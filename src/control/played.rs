//! A director that a test plays: it says what the test wants, and when.

use std::os::fd::OwnedFd;

use tempfile::TempDir;

use super::greeting::ANSWER_NS;
use super::message::{FromDirector, ToDirector};
use super::socket::{Channel, Listener, Received};
use crate::bus::Bus;
use crate::limits::PROTOCOL;
use crate::waiting::now_ns;

/// Its bus, on which it listens.
pub(crate) struct Played {
    bus: Bus,
    listener: Listener,
    folder: TempDir,
}

impl Played {
    pub fn new() -> Played {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let bus = Bus::at(folder.path());
        let listener = Listener::bind(bus.socket()).expect("a new folder");
        Played { bus, listener, folder }
    }

    /// Where it may leave something.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// Greets whoever connects, and does its part, while the other does his.
    pub fn meet<T>(&self, part: impl FnOnce(&Channel) + Send, other: impl FnOnce(&Bus) -> T) -> (Channel, T) {
        std::thread::scope(|scope| {
            let own = scope.spawn(|| {
                let channel = self.greeted();
                part(&channel);
                channel
            });
            let done = other(&self.bus);
            (own.join().expect("it has done its part"), done)
        })
    }

    /// Whether somebody wants to connect.
    pub fn is_asked_for(&self) -> bool {
        self.listener.accept().expect("it listens").is_some()
    }

    fn greeted(&self) -> Channel {
        let channel = self.hailed();
        welcome(&channel);
        channel
    }

    /// Waits for somebody who connects and says Hello.
    pub fn hailed(&self) -> Channel {
        let until_ns = now_ns() + ANSWER_NS;
        let channel = loop {
            match self.listener.accept().expect("it listens") {
                Some(channel) => break channel,
                None => assert!(now_ns() < until_ns, "nobody connects"),
            }
            std::thread::yield_now();
        };
        let (hello, _) = hear(&channel);
        assert!(matches!(hello, ToDirector::Hello { .. }), "{hello:?}");
        channel
    }
}

/// Answers Hello.
pub(crate) fn welcome(channel: &Channel) {
    let (protocol, pid, monotonic_ns) = (PROTOCOL, 1, now_ns());
    let welcome = FromDirector::Welcome { protocol, bus_id: [0; 2], epoch: 1, pid, monotonic_ns };
    channel.send_message(&welcome, &[]).expect("somebody listens");
}

/// Waits for the next message.
pub(crate) fn hear(channel: &Channel) -> (ToDirector, Vec<OwnedFd>) {
    channel.wait_readable(now_ns() + ANSWER_NS).expect("a socket");
    match channel.receive_message().expect("a socket") {
        Received::Message(message, fds) => (message, fds),
        other => panic!("no message: {other:?}"),
    }
}
