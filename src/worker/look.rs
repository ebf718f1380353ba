//! Waiting for the next request, as the loop drives it.

use slab::Slab;

use super::attached::Attached;
use super::core::{Begun, Taken};
use super::handle::RequestId;
use super::inner::Open;
use super::stop::Stop;
use crate::core::{Party, Turn};

/// How often a worker that doesn't sleep looks whether its director is still there.
const CHECK_NS: u64 = 1_000_000;

/// Why a worker's look has ended.
pub(super) enum Found {
    Begun(RequestId),
    /// The program is to be told something.
    Told,
    /// Something that was recalled may be given up.
    Due,
    /// The time has come.
    Nothing,
    /// The director is gone, and the ring it left is empty.
    Detached,
    Stopped,
}

/// A worker that looks for its next request, as the party that is driven.
pub(super) struct Look<'a> {
    pub(super) attached: &'a mut Attached,
    /// The attachment's number.
    pub(super) number: u32,
    /// Where what has begun is kept, and the serial number of the next.
    pub(super) open: (&'a mut Slab<Open>, &'a mut u64),
    pub(super) stop: &'a Stop,
    pub(super) until_ns: u64,
    pub(super) checked_ns: u64,
    pub(super) check: bool,
    pub(super) interrupted: bool,
}

impl Party for Look<'_> {
    type Out = Found;

    #[inline]
    fn turn(&mut self, now_ns: u64) -> Turn<Found> {
        // Before the ring, which others may keep full for ever: a session that waits for its mapping has its turn.
        if self.attached.has_control() {
            self.attached.read_control();
        }
        if self.attached.rights.has_told() {
            return Turn::Done(Found::Told);
        }
        match self.attached.take(now_ns) {
            Taken::Begun(begun) => {
                let id = enter(self.open.0, self.open.1, self.number, begun);
                return Turn::Done(Found::Begun(id));
            }
            Taken::Skipped => return Turn::Busy,
            Taken::Nothing | Taken::Unheard => {}
        }
        if self.attached.rights.is_due(self.attached.taken()) {
            return Turn::Done(Found::Due);
        }
        if self.check || now_ns.saturating_sub(self.checked_ns) > CHECK_NS {
            (self.check, self.checked_ns) = (false, now_ns);
            self.attached.read_control();
        }
        if self.stop.is_rung() || self.interrupted {
            return Turn::Done(Found::Stopped);
        }
        if !self.attached.is_attached() {
            return Turn::Done(Found::Detached);
        }
        if now_ns >= self.until_ns {
            return Turn::Done(Found::Nothing);
        }
        Turn::Idle
    }

    fn park(&mut self) {
        self.attached.park();
    }

    fn awake(&mut self) {
        self.attached.awake();
        self.check = true;
    }

    fn wake_at_ns(&self) -> u64 {
        self.until_ns.min(self.attached.wake_at_ns())
    }

    fn interrupted(&mut self) {
        self.interrupted = true;
    }
}

/// Keeps a request that has begun, under the next serial number.
#[inline]
pub(super) fn enter(open: &mut Slab<Open>, next: &mut u64, attachment: u32, begun: Begun) -> RequestId {
    let serial = *next;
    *next += 1;
    RequestId::new(open.insert(Open { serial, attachment, begun }), serial)
}
