//! Words of loom's atomics, with fences that can be switched off and a party that can be killed.
//!
//! *A fence has no name of its own, so it is known by its kind and by the word that its party touched last*: the
//! release in front of a ring's stamp follows a store into that ring, the sleeper's full fence follows the store of its
//! parking word. [`Weak`] names fences so, and the shipped code runs without them.
//!
//! *A kill* stops a party after some store. The stores before it in the order of the program are done, but for those
//! that compiler or machine had still to do: any of them, unless a release stands between. [`Death`] chooses which
//! stores never land, and [`explore_deaths`](crate::explore::explore_deaths) goes through all choices.

use loom::sync::atomic::{AtomicU64, Ordering, fence};
use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use trine::core::{Read, Write};

/// Kinds of fences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fence {
    Acquire,
    Release,
    Full,
}

/// The fences that are switched off: of a kind, after a party has touched one of these words.
pub type Weak = &'static [(Fence, Range<usize>)];

/// All fences do what they say.
pub const STRONG: Weak = &[];

/// Which stores of a party don't land because it is killed.
#[derive(Clone, Debug, Default)]
pub struct Death {
    /// Bit `i`: the `i`-th store about which there is a choice is lost.
    pub lost: u64,
    /// About how many stores there was a choice: those after the party was surely dead are lost anyway.
    pub choices: Arc<AtomicU32>,
}

/// One party's view of the memory.
pub struct LoomMemory {
    words: Arc<Vec<AtomicU64>>,
    /// How many stores landed in each word. Not part of the model: for the checks at its end.
    landed: Arc<Vec<AtomicU32>>,
    weak: Weak,
    touched: Cell<usize>,
    death: Option<Death>,
    choices: Cell<u32>,
    /// A store was lost, so the party is dead or soon will be.
    killed: Cell<bool>,
    /// A release stands behind a lost store: nothing after it can have happened.
    stopped: Cell<bool>,
}

impl LoomMemory {
    /// `len` words, all zero.
    pub fn new(len: usize, weak: Weak) -> Self {
        let words = Arc::new((0..len).map(|_| AtomicU64::new(0)).collect());
        let landed = Arc::new((0..len).map(|_| AtomicU32::new(0)).collect());
        LoomMemory { words, landed, weak, ..Self::nobody() }
    }

    fn nobody() -> Self {
        LoomMemory {
            words: Arc::default(),
            landed: Arc::default(),
            weak: STRONG,
            touched: Cell::new(usize::MAX),
            death: None,
            choices: Cell::new(0),
            killed: Cell::new(false),
            stopped: Cell::new(false),
        }
    }

    /// The same memory as another party sees it.
    pub fn party(&self) -> Self {
        let (words, landed) = (self.words.clone(), self.landed.clone());
        LoomMemory { words, landed, weak: self.weak, ..Self::nobody() }
    }

    /// The same memory as a party sees it that dies this death.
    pub fn mortal(&self, death: &Death) -> Self {
        LoomMemory { death: Some(death.clone()), ..self.party() }
    }

    /// Whether this party has been killed: it waits for nothing more.
    pub fn is_killed(&self) -> bool {
        self.killed.get()
    }

    /// How many stores landed in a word.
    pub fn landed(&self, word: usize) -> u32 {
        self.landed[word].load(Relaxed)
    }

    fn loses(&self) -> bool {
        let Some(death) = &self.death else { return false };
        if self.stopped.get() {
            return true;
        }
        let choice = self.choices.replace(self.choices.get() + 1);
        death.choices.store(choice + 1, Relaxed);
        let lost = death.lost >> choice & 1 == 1;
        self.killed.set(self.killed.get() || lost);
        lost
    }

    fn fence(&self, kind: Fence, ordering: Ordering) {
        if self.weak.iter().any(|(weak, words)| *weak == kind && words.contains(&self.touched.get())) {
            return;
        }
        if kind != Fence::Acquire {
            self.stopped.set(self.killed.get());
        }
        fence(ordering);
    }
}

impl Read for LoomMemory {
    fn load(&self, word: usize) -> u64 {
        self.touched.set(word);
        self.words.get(word).map_or(0, |w| w.load(Ordering::Relaxed))
    }

    fn acquire(&self) {
        self.fence(Fence::Acquire, Ordering::Acquire);
    }
}

impl Write for LoomMemory {
    fn store(&self, word: usize, value: u64) {
        self.touched.set(word);
        let Some(at) = self.words.get(word) else { return };
        if !self.loses() {
            self.landed[word].fetch_add(1, Relaxed);
            at.store(value, Ordering::Relaxed);
        }
    }

    fn release(&self) {
        self.fence(Fence::Release, Ordering::Release);
    }

    fn full(&self) {
        self.fence(Fence::Full, Ordering::SeqCst);
    }
}
