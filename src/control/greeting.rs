//! The first words with a director, as every client, worker and monitor says them.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::message::{FromDirector, Role, ToDirector};
use super::socket::{Channel, Received, Waited};
use crate::bus::Bus;
use crate::error::{Error, Fault, Status};
use crate::limits::PROTOCOL;
use crate::memory::Process;
use crate::waiting::now_ns;

/// How long a director may take to answer on its socket, when nobody is in a hurry.
pub(crate) const ANSWER_NS: u64 = 5_000_000_000;

/// So late nobody comes out of a wait whose process runs.
const AWAY_NS: u64 = 1_000_000_000;

/// How long a peer is waited for. Time in which this process was stopped itself is not the peer's: then it begins anew.
pub(crate) struct Patience {
    within_ns: u64,
    until_ns: u64,
}

impl Patience {
    pub(crate) fn new(within_ns: u64, now_ns: u64) -> Patience {
        Patience { within_ns, until_ns: now_ns.saturating_add(within_ns) }
    }

    /// Until when to wait now.
    pub(crate) fn until_ns(&self) -> u64 {
        self.until_ns
    }

    /// Whether it is at its end, after a wait until then.
    pub(crate) fn is_over(&mut self, now_ns: u64) -> bool {
        let late_ns = now_ns.saturating_sub(self.until_ns);
        if late_ns > AWAY_NS {
            self.until_ns = now_ns.saturating_add(self.within_ns);
        }
        now_ns >= self.until_ns
    }
}

/// Connects, and greets; returns which director it is, too, by its epoch. Blocks for a round trip, `within_ns` at most.
/// A director that is being replaced closes what it has accepted and not heard yet; the next one is met at the same
/// socket.
pub(crate) fn greet(bus: &Bus, role: Role, within_ns: u64) -> Result<(Channel, u64), Error> {
    let greeted = greet_once(bus, role, within_ns);
    if greeted.as_ref().is_err_and(is_closed) { greet_once(bus, role, within_ns) } else { greeted }
}

fn greet_once(bus: &Bus, role: Role, within_ns: u64) -> Result<(Channel, u64), Error> {
    let (channel, _) = hail(bus, role)?;
    let epoch = welcomed(&channel, within_ns)?;
    Ok((channel, epoch))
}

/// Connects and says Hello, and waits for nothing; returns the director's user, too.
pub(crate) fn hail(bus: &Bus, role: Role) -> Result<(Channel, u32), Error> {
    let channel = Channel::connect(bus.socket())?;
    let director = Process::of_peer(channel.as_fd())?.identity;
    if !bus.trusts(director.uid) {
        let (uid, own) = (director.uid, nix::unistd::geteuid());
        let message = format!(
            "the director at {} is of uid {uid}, and you are uid {own}: if you trust it, say so, \
             with Bus::trusting or TRINE_DIRECTOR_UID={uid}",
            bus.socket().display()
        );
        return Err(Error::Refused { status: Status::PermissionDenied, message });
    }
    let hello = ToDirector::Hello { protocol: PROTOCOL, role, bus_id: [0; 2], monotonic_ns: now_ns() };
    said(channel.send_message(&hello, &[])).map_err(Error::io("greeting the director"))?;
    Ok((channel, director.uid))
}

/// What answers Hello: the director's epoch.
pub(crate) fn welcomed(channel: &Channel, within_ns: u64) -> Result<u64, Error> {
    match channel.answer(within_ns)? {
        (FromDirector::Welcome { protocol: PROTOCOL, epoch, .. }, _) => Ok(epoch),
        (FromDirector::Welcome { protocol: theirs, .. }, _) => {
            Err(Error::ProtocolMismatch { ours: PROTOCOL, theirs })
        }
        _ => Err(unexpected()),
    }
}

/// What was said to a director that may have closed its end already: why, it said before, and that is still to be read.
pub(crate) fn said(sent: io::Result<()>) -> io::Result<()> {
    match sent {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        sent => sent,
    }
}

/// Whether a director has closed its end.
pub(crate) fn is_closed(error: &Error) -> bool {
    matches!(error, Error::DirectorGone(after) if after.is_zero())
}

/// Whether a director has not answered in time, and may yet: it is there.
pub(crate) fn is_late(error: &Error) -> bool {
    matches!(error, Error::DirectorGone(after) if !after.is_zero())
}

/// A message that nobody asked for.
pub(crate) fn unexpected() -> Error {
    Error::Fault(Fault::Message { kind: 0, len: 0, why: "it answers nothing that was asked" })
}

impl Channel {
    /// Waits for the director's answer. A refusal is an error.
    pub(crate) fn answer(&self, within_ns: u64) -> Result<(FromDirector, Vec<OwnedFd>), Error> {
        let mut patience = Patience::new(within_ns, now_ns());
        loop {
            match self.receive_message::<FromDirector>()? {
                Received::Message(FromDirector::Refused { status, protocol, message }, _) => {
                    return Err(match status {
                        Status::ProtocolMismatch => {
                            Error::ProtocolMismatch { ours: PROTOCOL, theirs: protocol }
                        }
                        _ => Error::Refused { status, message },
                    });
                }
                Received::Message(FromDirector::Closing, _) => {}
                Received::Message(message, fds) => return Ok((message, fds)),
                Received::Short(_, error) => return Err(error),
                Received::Closed => return Err(Error::DirectorGone(std::time::Duration::ZERO)),
                Received::Fault(fault) => return Err(fault.into()),
                Received::Nothing => {
                    let waited = self.wait_readable(patience.until_ns())?;
                    if waited == Waited::TimedOut && patience.is_over(now_ns()) {
                        return Err(Error::DirectorGone(std::time::Duration::from_nanos(within_ns)));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_has_its_time_though_this_process_was_stopped() {
        let mut patience = Patience::new(5_000, 100);
        assert_eq!(patience.until_ns(), 5_100);
        assert!(!patience.is_over(5_099));
        assert!(patience.is_over(5_100) && patience.is_over(5_100 + AWAY_NS));
        // Stopped, and running again: the peer may have been, too.
        let back_ns = 5_101 + AWAY_NS;
        assert!(!patience.is_over(back_ns));
        assert_eq!(patience.until_ns(), back_ns + 5_000);
        assert!(patience.is_over(back_ns + 5_000));
    }
}
