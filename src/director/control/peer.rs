//! A connection as the control thread knows it, and what can go wrong with it.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::sys::epoll::EpollFlags;

use crate::control::message::{FromDirector, Role};
use crate::control::socket::Channel;
use crate::director::link::Connection;
use crate::director::quota::{Accounts, Charge};
use crate::error::{Error, Fault, Status};
use crate::layout::SessionShape;
use crate::memory::named::Named;
use crate::memory::{Doorbell, Process};

/// How far a connection has come.
pub(super) enum Stage {
    Connected,
    Greeted(Role),
    Session(SessionDescriptors),
    Worker(WorkerSegment),
}

/// A worker's work segment.
pub(super) struct WorkerSegment {
    pub id: u64,
    pub named: Named,
    /// Messages that the worker was sent.
    pub sent: u64,
}

/// What a session's workers are given.
pub(super) struct SessionDescriptors {
    pub id: u64,
    pub shape: SessionShape,
    pub outbox: OwnedFd,
    pub inbox: OwnedFd,
    /// The same that the data thread rings.
    pub client: Arc<Doorbell>,
}

pub(super) struct Peer {
    /// `None` once it is closed.
    pub channel: Option<Channel>,
    pub process: Process,
    pub stage: Stage,
    /// The data thread knows it, and will say when to forget it.
    pub attached: bool,
    /// What its user and process are charged for it.
    pub charges: Vec<Charge>,
    pub unsent: VecDeque<(FromDirector, Vec<OwnedFd>)>,
    /// What its socket was found ready for, if its turn is yet to come.
    pub events: EpollFlags,
    /// Its socket had no room: it is watched for some, and for nothing else.
    pub blocked: bool,
}

/// A connection that has not said Hello.
pub(super) struct Silent {
    pub connection: Connection,
    pub uid: u32,
    pub until_ns: u64,
}

/// What goes wrong between a director and one peer: it ends that connection.
pub(super) enum Trouble {
    Fault(Fault),
    Refused(Status, String),
    Own(Error),
    Gone,
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Trouble::Fault(fault)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Trouble::Own(error)
    }
}

/// Charges a peer for what it brings. Somebody who was here before is not refused what he had.
pub(super) fn charge_peer(
    accounts: &mut Accounts,
    peer: &mut Peer,
    charge: Charge,
    resumed: bool,
) -> Result<(), Trouble> {
    if resumed {
        accounts.charge_anyway(&charge);
    } else if let Err(exceeded) = accounts.charge(&charge) {
        return Err(Trouble::Refused(Status::Busy, exceeded.to_string()));
    }
    peer.charges.push(charge);
    Ok(())
}
