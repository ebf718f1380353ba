//! Closing what peers sent, where it holds nobody up.
//!
//! A descriptor can be such that closing it waits: a socket that lingers does so for as long as its owner has said. A
//! peer's own socket, in which more may stand, is therefore closed on a thread of that peer's user, and with it what the
//! peer sent and nobody took. Whoever sends such things waits for himself.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Sender, channel};

use super::socket::Channel;

/// Connections with such descriptors that one user may have in the line. Others have none.
const BEHIND_MAX: usize = 32;

/// A thread and a line for each user that was here.
#[derive(Debug, Default)]
pub(crate) struct Closer(HashMap<u32, Line>);

#[derive(Debug)]
struct Line {
    channels: Sender<Channel>,
    /// Those with descriptors that may take their time.
    behind: Arc<AtomicUsize>,
}

impl Closer {
    /// Ends a user's connection: its peer sees that at once, and the rest is done elsewhere.
    pub fn close(&mut self, uid: u32, channel: Channel) {
        channel.shut();
        let line = self.0.entry(uid).or_insert_with(Line::new);
        line.behind.fetch_add(usize::from(channel.has_strays()), Relaxed);
        if line.channels.send(channel).is_err() {
            self.0.remove(&uid);
        }
    }

    /// Whether a user has so many things in the line that may take their time that no more of its are to come.
    pub fn is_behind(&self, uid: u32) -> bool {
        self.0.get(&uid).is_some_and(|line| line.behind.load(Relaxed) >= BEHIND_MAX)
    }
}

impl Line {
    fn new() -> Line {
        let (channels, line) = channel::<Channel>();
        let behind = Arc::new(AtomicUsize::new(0));
        let count = behind.clone();
        let close = move || {
            for channel in line {
                let had_strays = channel.has_strays();
                drop(channel);
                count.fetch_sub(usize::from(had_strays), Relaxed);
            }
        };
        // Without a thread its end of the line is gone, and what is sent is closed by the sender.
        if let Err(error) = std::thread::Builder::new().name("trine-closer".into()).spawn(close) {
            tracing::warn!(%error, "what peers sent is closed where it may hold others up");
        }
        Line { channels, behind }
    }
}
