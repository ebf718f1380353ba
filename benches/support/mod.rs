//! A bus of one client, one director and one worker, all in one thread, over plain memory.

#![allow(dead_code)] // each bench uses its own part

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use trine::client::core::ClientCore;
use trine::core::{Memory, Read, Write};
use trine::director::core::{DirectorCore, Peer, Settings};
use trine::layout::{LINE, ReplyHead, Request, SessionShape, WorkShape};
use trine::worker::core::{Begun, Taken, WorkerCore};
use trine::{Fault, Identity};

/// Shared words, as if they were mapped: bounds are checked as they are there.
#[derive(Clone)]
pub struct Words(Arc<[AtomicU64]>);

impl Words {
    pub fn new(words: usize) -> Self {
        Words((0..words).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Read for Words {
    #[inline]
    fn load(&self, word: usize) -> u64 {
        self.0.get(word).map_or(0, |w| w.load(Ordering::Relaxed))
    }
    #[inline]
    fn acquire(&self) {
        fence(Ordering::Acquire);
    }
    #[inline]
    fn copy_out<const N: usize>(&self, at: usize) -> [u64; N] {
        match self.0.get(at..).and_then(<[AtomicU64]>::first_chunk::<N>) {
            Some(words) => std::array::from_fn(|i| words[i].load(Ordering::Relaxed)),
            None => [0; N],
        }
    }
}

impl Write for Words {
    #[inline]
    fn store(&self, word: usize, value: u64) {
        if let Some(w) = self.0.get(word) {
            w.store(value, Ordering::Relaxed);
        }
    }
    #[inline]
    fn release(&self) {
        fence(Ordering::Release);
    }
    #[inline]
    fn full(&self) {
        fence(Ordering::SeqCst);
    }
    #[inline]
    fn copy_in(&self, at: usize, words: &[u64]) {
        if let Some(shared) = self.0.get(at..).and_then(|rest| rest.get(..words.len())) {
            shared.iter().zip(words).for_each(|(s, &word)| s.store(word, Ordering::Relaxed));
        }
    }
}

pub struct Plain;
impl Memory for Plain {
    type Ro = Words;
    type Rw = Words;
}

/// A shell that does nothing but answer a worker's mapping at once.
#[derive(Default)]
pub struct Shell {
    mapped: Option<u16>,
}

impl trine::client::core::Effects for Shell {
    fn ring_director(&mut self) {}
}
impl trine::worker::core::Effects for Shell {
    fn ring_client(&mut self, _: u64) {}
    fn ring_director(&mut self) {}
    fn clock_ns(&mut self) -> u64 {
        0
    }
}
impl trine::director::core::Effects for Shell {
    fn ring(&mut self, _: Peer) {}
    fn map_session(&mut self, _: usize, index: u16, _: usize) {
        self.mapped = Some(index);
    }
    fn unmap_session(&mut self, _: usize, _: u16) {}
    fn fault(&mut self, peer: Peer, fault: Fault) {
        panic!("{peer:?}: {fault}");
    }
    fn forget(&mut self, _: Peer) {}
    fn clock_ns(&mut self) -> u64 {
        0
    }
}

/// A bus of one client, one director and one worker.
pub struct Bus {
    pub client: ClientCore<Plain>,
    pub director: DirectorCore<Plain>,
    pub worker: WorkerCore<Plain>,
    pub shell: Shell,
}

impl Bus {
    pub fn new() -> Self {
        let (shape, work) = (SessionShape::default(), WorkShape::default());
        let (outbox, inbox) = (Words::new(shape.outbox().words), Words::new(shape.inbox().words));
        let (segment, page) = (Words::new(work.work().words), Words::new(work.progress().words));
        let mut shell = Shell::default();
        let settings = Settings { epoch: 1, waiting_per_route: 64, share_max: 128, ..Settings::default() };
        let mut director = DirectorCore::<Plain>::new(settings);
        let nobody = Identity::default();
        let w = director.attach_worker(1, nobody, work, 0, segment.clone(), page.clone()).expect("room");
        let s = director.attach_session(1, nobody, shape, 0, outbox.clone(), inbox.clone()).expect("room");
        director.provide(w, "service", 0, &["operation"]);
        director.open_route(s, 0, "service", "operation", &mut shell);
        let index = shell.mapped.expect("asked to map");
        let mut worker = WorkerCore::new(1, work, 0, segment, page);
        worker.map_session(index, 1, shape, outbox.clone(), inbox.clone());
        director.session_mapped(w, index, true, &mut shell);
        Bus { client: ClientCore::new(shape, outbox, inbox), director, worker, shell }
    }

    /// The client's first half of a call. One function a hop, so that each can be counted apart.
    #[inline(never)]
    pub fn hop_submit(&mut self, len: u32) -> u64 {
        let request = Request { len, capacity: 4096, deadline_ns: 1 << 60, ..Request::default() };
        let slot = self.client.reserve().expect("a free slot");
        *self.client.draft(slot) = [7; LINE];
        self.client.submit(slot, request, &mut self.shell)
    }

    /// The director's part.
    #[inline(never)]
    pub fn hop_route(&mut self) {
        black_box(self.director.turn(1, &mut self.shell));
    }

    /// The worker's, up to the operation.
    #[inline(never)]
    pub fn hop_begin(&mut self) -> Begun {
        match self.worker.take(1, &mut self.shell) {
            Ok(Taken::Begun(begun)) => begun,
            _ => panic!("no work"),
        }
    }

    /// The worker's, from the operation on.
    #[inline(never)]
    pub fn hop_reply(&mut self, begun: Begun, len: u64) {
        let head = ReplyHead { len, ..ReplyHead::default() };
        self.worker.reply(begun, head, &mut [7; LINE], &mut self.shell);
    }

    /// The client's second half.
    #[inline(never)]
    pub fn hop_end(&mut self, name: u64) {
        let outcome = self.client.look(name, 1, &mut self.shell).expect("an answer");
        black_box(&outcome);
        self.client.release(self.client.slot_of(name));
    }

    /// One call, alone.
    pub fn call(&mut self, len: u32) {
        let name = self.hop_submit(len);
        self.hop_route();
        let begun = self.hop_begin();
        self.hop_reply(begun, u64::from(len));
        self.hop_end(name);
    }

    /// So many at a time.
    pub fn batch<const N: usize>(&mut self, len: u32) {
        let names: [u64; N] = std::array::from_fn(|_| self.hop_submit(len));
        let mut served = 0;
        while served < N {
            self.hop_route();
            while self.worker.is_ready() {
                let begun = self.hop_begin();
                self.hop_reply(begun, u64::from(len));
                served += 1;
            }
        }
        names.iter().for_each(|&name| self.hop_end(name));
    }
}
