//! Who connects, and has not said yet who it is.
//!
//! ```text
//! listener ─► who the kernel says it is ─► the policy ─► its quota ─► watched ─► Hello, within some time
//! ```
//! Without descriptors those who are here are served on, and the others wait in the backlog.

use std::collections::VecDeque;
use std::os::fd::AsFd;

use nix::sys::epoll::EpollFlags;

use super::peer::{Peer, Silent, Stage, Trouble};
use super::{Control, LISTENER, SILENT_NS, asker, refused, watch};
use crate::access::{Cause, Denial, Verb};
use crate::control::socket::Channel;
use crate::director::link::{Connection, ToData};
use crate::director::quota::{CONNECTION_DESCRIPTORS, Charge, Counted};
use crate::error::{Error, Status};
use crate::memory::Process;
use crate::waiting::now_ns;

/// Connections of one user that have not said Hello: beyond, the oldest is closed.
const SILENT_MAX: usize = 256;

impl Control {
    /// Lets in those who wait, and greets those who have said already who they are.
    pub(super) fn accept(&mut self) {
        while let Some(listener) = &self.listener {
            let accepted = listener.accept();
            match &accepted {
                // No descriptor left: those who are here are served on, and the others wait in the backlog.
                Err(error) => {
                    if !std::mem::replace(&mut self.exhausted, true) {
                        tracing::warn!(%error, "no more connections for now");
                        let _ = self.epoll.delete(listener);
                    }
                }
                Ok(_) if std::mem::take(&mut self.exhausted) => {
                    let _ = watch(&self.epoll, listener, EpollFlags::EPOLLIN, LISTENER);
                }
                Ok(_) => {}
            }
            let Ok(Some(channel)) = accepted else { return };
            match self.admit(channel) {
                Ok(Some(connection)) => self.hear(connection, 1),
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "a connection was not admitted"),
            }
        }
    }

    /// Notes who has connected, if he may and there is room.
    fn admit(&mut self, channel: Channel) -> Result<Option<Connection>, Error> {
        let process = Process::of_peer(channel.as_fd())?;
        let connection = self.next_connection;
        self.next_connection += 1;
        let uid = process.identity.uid;
        if !self.access.admits(asker(&process)).allow {
            let message = format!("this bus belongs to uid {}, and allows uid {uid} nothing", self.uid);
            let _ = channel.send_message(&refused(Status::PermissionDenied, message), &[]);
            let origin = self.access.origin(Cause::Default);
            let denial =
                Denial { uid, verb: Verb::Connect, service: String::new(), operation: String::new(), origin };
            self.link.to_data.push(ToData::Denied(denial));
            return Ok(None);
        }
        if self.closer.is_behind(uid) {
            let message = "what you sent before is still being closed".into();
            let _ = channel.send_message(&refused(Status::Busy, message), &[]);
            return Ok(None);
        }
        let charge = Charge::new(uid, process.identity.pid).and(Counted::Descriptors, CONNECTION_DESCRIPTORS);
        if let Err(exceeded) = self.accounts.charge(&charge) {
            let _ = channel.send_message(&refused(Status::Busy, exceeded.to_string()), &[]);
            tracing::info!(uid, pid = process.identity.pid, %exceeded, "refused: a quota");
            return Ok(None);
        }
        if let Err(error) = watch(&self.epoll, &channel, EpollFlags::EPOLLIN, connection) {
            self.accounts.refund(&charge);
            return Err(error);
        }
        let charges = vec![charge];
        let (stage, unsent, events) = (Stage::Connected, VecDeque::new(), EpollFlags::empty());
        let channel = Some(channel);
        let peer = Peer { channel, process, stage, attached: false, charges, unsent, events, blocked: false };
        self.peers.insert(connection, peer);
        self.add_silent(connection, uid);
        Ok(Some(connection))
    }

    /// Closes connections that have been silent for too long.
    pub(super) fn close_silent(&mut self) {
        while let Some(oldest) = self.silent.front().filter(|s| now_ns() >= s.until_ns) {
            let connection = oldest.connection;
            self.close_if_silent(connection);
        }
    }

    /// Closes a connection, unless it says Hello now: that may stand in its socket.
    fn close_if_silent(&mut self, connection: Connection) {
        self.serve(connection, EpollFlags::EPOLLIN);
        if let Some(Peer { stage: Stage::Connected, .. }) = self.peers.get(&connection) {
            self.end(connection, Trouble::Refused(Status::Busy, "you don't say who you are".into()));
        }
        self.silent.retain(|s| s.connection != connection);
    }

    /// Notes a connection that has said nothing yet. Everybody has room for some: the oldest gives way.
    fn add_silent(&mut self, connection: Connection, uid: u32) {
        self.silent.push_back(Silent { connection, uid, until_ns: now_ns() + SILENT_NS });
        let mut own = self.silent.iter().filter(|s| s.uid == uid);
        if let Some(oldest) = own.next().map(|s| s.connection)
            && own.count() >= SILENT_MAX
        {
            self.close_if_silent(oldest);
        }
    }
}
