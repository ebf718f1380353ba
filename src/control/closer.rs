//! Closing what peers sent, where it holds nobody up.
//!
//! A descriptor can be such that closing it waits: a socket that lingers does so for as long as its owner has said. A
//! peer's own socket, in which more may stand, is therefore closed on a thread of that peer's user, and with it what the
//! peer sent and nobody took. Whoever sends such things waits for himself.
//!
//! A program that has stopped its director finds no thread left of it: the last thing is to wait for these. But not for
//! long, since it is a peer that says how long it takes.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::socket::Channel;

/// Connections with such descriptors that one user may have in the line. Others have none.
const BEHIND_MAX: usize = 32;

/// How long the threads may take in the end. What isn't closed by then a peer has made so, and its thread is left to it.
const END: Duration = Duration::from_secs(1);

/// A thread and a line for each user that was here.
#[derive(Debug)]
pub(crate) struct Closer {
    lines: HashMap<u32, Line>,
    /// Each thread has one of the senders: when all are gone, so are the threads.
    threads: (Sender<Infallible>, Receiver<Infallible>),
}

#[derive(Debug)]
struct Line {
    channels: Sender<Channel>,
    thread: Option<JoinHandle<()>>,
    /// Those with descriptors that may take their time.
    behind: Arc<AtomicUsize>,
}

impl Default for Closer {
    fn default() -> Self {
        Closer { lines: HashMap::new(), threads: channel() }
    }
}

impl Drop for Closer {
    fn drop(&mut self) {
        let (running, ended) = std::mem::replace(&mut self.threads, channel());
        drop(running);
        let threads: Vec<_> = self.lines.drain().filter_map(|(_, line)| line.thread).collect();
        if ended.recv_timeout(END) == Err(RecvTimeoutError::Disconnected) {
            // They have nothing more to do than to end; and no panic of theirs is news by now.
            threads.into_iter().for_each(|thread| drop(thread.join()));
        }
    }
}

impl Closer {
    /// Ends a user's connection: its peer sees that at once, and the rest is done elsewhere.
    pub fn close(&mut self, uid: u32, channel: Channel) {
        channel.shut();
        let line = self.lines.entry(uid).or_insert_with(|| Line::new(self.threads.0.clone()));
        line.behind.fetch_add(usize::from(channel.has_strays()), Relaxed);
        if line.channels.send(channel).is_err() {
            self.lines.remove(&uid);
        }
    }

    /// Whether a user has so many things in the line that may take their time that no more of its are to come.
    pub fn is_behind(&self, uid: u32) -> bool {
        self.lines.get(&uid).is_some_and(|line| line.behind.load(Relaxed) >= BEHIND_MAX)
    }
}

impl Line {
    fn new(running: Sender<Infallible>) -> Line {
        let (channels, line) = channel::<Channel>();
        let behind = Arc::new(AtomicUsize::new(0));
        let count = behind.clone();
        let close = move || {
            let _running = running;
            for channel in line {
                let had_strays = channel.has_strays();
                drop(channel);
                count.fetch_sub(usize::from(had_strays), Relaxed);
            }
        };
        // Without a thread its end of the line is gone, and what is sent is closed by the sender.
        let thread = std::thread::Builder::new().name("trine-closer".into()).spawn(close);
        if let Err(error) = &thread {
            tracing::warn!(%error, "what peers sent is closed where it may hold others up");
        }
        Line { channels, thread: thread.ok(), behind }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};
    use std::time::Instant;

    use super::*;

    #[test]
    fn no_thread_is_left_in_the_end() {
        for _ in 0..20 {
            let mut closer = Closer::default();
            for uid in 0..10 {
                closer.close(uid, Channel::pair().unwrap().0);
            }
            let counts: Vec<_> = closer.lines.values().map(|line| line.behind.clone()).collect();
            drop(closer);
            // Each thread had one.
            assert!(counts.iter().all(|count| Arc::strong_count(count) == 1));
        }
    }

    #[test]
    fn what_lingers_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let reader = listener.accept().unwrap().0;
        let linger = nix::libc::linger { l_onoff: 1, l_linger: 60 };
        nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::Linger, &linger).unwrap();
        stream.set_nonblocking(true).unwrap();
        while stream.write(&[0; 1 << 16]).is_ok() {}
        let (channel, _peer) = Channel::pair().unwrap();
        channel.keep(vec![stream.into()]);
        let mut closer = Closer::default();
        closer.close(0, channel);
        let count = closer.lines[&0].behind.clone();
        let start = Instant::now();
        drop(closer);
        assert!(start.elapsed() < 10 * END, "{:?}", start.elapsed());
        // It is closed when its reader goes.
        assert_eq!(count.load(Relaxed), 1);
        drop(reader);
        while Arc::strong_count(&count) > 1 {
            std::thread::yield_now();
        }
    }
}
