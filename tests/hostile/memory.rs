//! Memory that a hostile peer writes, and the bytes that decide what it does.

use std::cell::Cell;
use std::rc::Rc;

use trine::core::{Memory, Read, Write};

/// The input: what is asked for beyond its end is 0.
pub struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    pub fn new(input: &'a [u8]) -> Bytes<'a> {
        Bytes(input)
    }

    pub fn more(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    pub fn u8(&mut self) -> u8 {
        self.more().unwrap_or(0)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        usize::from(self.u8()) % bound.max(1)
    }

    pub fn one_of<'l, T>(&mut self, list: &'l [T]) -> Option<&'l T> {
        list.get(self.below(list.len()))
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.u8(), self.u8()])
    }

    /// A number of one of the sizes that matter: small, near the end of its range, or any.
    pub fn number(&mut self) -> u64 {
        match self.u8() % 5 {
            0 => u64::from(self.u8()),
            1 => u64::from(self.u16()),
            2 => u64::MAX - u64::from(self.u8()),
            3 => (1 << (self.u8() % 64)) - u64::from(self.u8() % 3).min(1),
            _ => u64::from_le_bytes(std::array::from_fn(|_| self.u8())),
        }
    }
}

/// How often a peer's words change between two loads: out of 256.
pub struct Noise {
    level: Cell<u8>,
    state: Cell<u64>,
}

impl Noise {
    pub fn new(seed: u64) -> Rc<Noise> {
        Rc::new(Noise { level: Cell::new(0), state: Cell::new(seed | 1) })
    }

    pub fn set(&self, level: u8) {
        self.level.set(level);
    }

    fn next(&self) -> u64 {
        let mut x = self.state.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.state.set(x);
        x >> 3
    }

    /// What a load returns of a word that says `value`.
    fn disturb(&self, value: u64) -> u64 {
        let level = self.level.get();
        if level == 0 || self.next() as u8 >= level {
            return value;
        }
        match self.next() % 5 {
            0 => value.wrapping_add(1),
            1 => value.wrapping_sub(1),
            2 => u64::MAX - self.next() % 4,
            3 => self.next() % 64,
            _ => value ^ (1 << (self.next() % 64)),
        }
    }
}

/// A region that a peer writes too.
#[derive(Clone)]
pub struct Region {
    words: Rc<[Cell<u64>]>,
    noise: Rc<Noise>,
}

impl Region {
    pub fn new(words: usize, noise: &Rc<Noise>) -> Region {
        Region { words: (0..words).map(|_| Cell::new(0)).collect(), noise: noise.clone() }
    }

    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// What stands there.
    pub fn truth(&self, word: usize) -> u64 {
        self.words.get(word).map_or(0, Cell::get)
    }
}

impl Read for Region {
    fn load(&self, word: usize) -> u64 {
        self.noise.disturb(self.truth(word))
    }

    fn acquire(&self) {}
}

impl Write for Region {
    fn store(&self, word: usize, value: u64) {
        if let Some(cell) = self.words.get(word) {
            cell.set(value);
        }
    }

    fn release(&self) {}

    fn full(&self) {}
}

pub struct Hostile;

impl Memory for Hostile {
    type Ro = Region;
    type Rw = Region;
}

/// Stores a peer's word, here or there.
pub fn scribble(region: &Region, bytes: &mut Bytes) {
    let at = usize::from(bytes.u16()) % region.len();
    region.store(at, bytes.number());
}
