//! What can be chosen when a client connects.

use std::time::Duration;

use crate::error::Error;
use crate::layout::SessionShape;
use crate::limits;
use crate::waiting::Waiting;

/// What can be chosen when a client connects.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ClientOptions {
    /// What it does while it waits for a reply.
    pub waiting: Waiting,
    /// Calls that can be open at a time, a power of two.
    pub slots: u32,
    /// Bytes of reply that every call has room for without asking.
    pub reply_capacity: u32,
    /// Bytes of the arena in which requests of more than 64 bytes are built. Memory that is never written is free.
    pub request_arena: u64,
    /// Bytes of the arena for replies that ask for more than `reply_capacity`.
    pub reply_arena: u64,
    /// How long calls look for a director before they end DIRECTOR_GONE.
    pub director_gone: Duration,
    /// Whether a signal that this thread handles ends its wait: see [`Client::was_interrupted`](crate::Client::was_interrupted).
    pub interruptible: bool,
}

impl Default for ClientOptions {
    fn default() -> Self {
        ClientOptions {
            waiting: Waiting::default(),
            slots: limits::SLOTS_DEFAULT,
            reply_capacity: limits::REPLY_CAPACITY_DEFAULT,
            request_arena: limits::ARENA_DEFAULT,
            reply_arena: limits::ARENA_DEFAULT,
            director_gone: Duration::from_nanos(limits::DIRECTOR_GONE_NS),
            interruptible: false,
        }
    }
}

impl ClientOptions {
    /// See [`waiting`](Self::waiting).
    pub fn waiting(mut self, waiting: Waiting) -> Self {
        self.waiting = waiting;
        self
    }

    /// See [`slots`](Self::slots).
    pub fn slots(mut self, slots: u32) -> Self {
        self.slots = slots;
        self
    }

    /// See [`reply_capacity`](Self::reply_capacity).
    pub fn reply_capacity(mut self, bytes: u32) -> Self {
        self.reply_capacity = bytes;
        self
    }

    /// Bytes of both arenas: for requests, and for replies.
    pub fn arenas(mut self, request_bytes: u64, reply_bytes: u64) -> Self {
        (self.request_arena, self.reply_arena) = (request_bytes, reply_bytes);
        self
    }

    /// See [`director_gone`](Self::director_gone).
    pub fn director_gone(mut self, after: Duration) -> Self {
        self.director_gone = after;
        self
    }

    /// See [`interruptible`](Self::interruptible).
    pub fn interruptible(mut self, interruptible: bool) -> Self {
        self.interruptible = interruptible;
        self
    }

    pub(super) fn gone_after_ns(&self) -> u64 {
        u64::try_from(self.director_gone.as_nanos()).unwrap_or(u64::MAX)
    }

    pub(super) fn shape(&self) -> Result<SessionShape, Error> {
        let bounds = |what, value, bounds: String| Err(Error::Option { what, value, bounds });
        if !self.slots.is_power_of_two() || self.slots > limits::SLOTS_MAX {
            let text = format!("a power of two up to {}", limits::SLOTS_MAX);
            return bounds("slots", u64::from(self.slots), text);
        }
        if !(64..=1 << 20).contains(&self.reply_capacity) {
            return bounds("reply_capacity", u64::from(self.reply_capacity), "64 to 1048576".into());
        }
        let largest = self.request_arena.max(self.reply_arena);
        if largest > limits::ARENA_MAX {
            return bounds("an arena", largest, format!("up to {}", limits::ARENA_MAX));
        }
        Ok(SessionShape {
            slots: self.slots,
            reply_capacity: self.reply_capacity.next_multiple_of(64),
            request_arena: self.request_arena.next_multiple_of(4096),
            reply_arena: self.reply_arena.next_multiple_of(4096),
        })
    }
}
