//! One file, taken apart: the piece that a worker has, and the next one, read meanwhile.
//!
//! ```text
//! read into a loan ─► state of the pieces before ─► worker ─► state ─► … last piece ─► worker ─► digest
//! ```
//! Pieces of one file follow each other, since each begins where the one before ended; so a file has one call open
//! at a time, and several files are under way together.

use std::fs::File;
use std::io;
use std::path::Path;

use anyhow::{Context, ensure};
use nix::time::{ClockId, clock_gettime};
use trine::{CallError, Client, Loan, Pending, Reply, Route, Ticket, Until};

use crate::call::read_all;
use crate::sha256::{Digest, HEADER, Running, STATE, header};

/// A file that is being hashed.
pub struct Pieces<'c> {
    client: &'c Client,
    /// The operation that hashes pieces.
    route: Route,
    file: File,
    piece: usize,
    /// After all pieces that were answered.
    state: [u8; STATE],
    read: Option<Piece<'c>>,
    sent: Option<Sent<'c>>,
    at_end: bool,
}

/// A piece in the memory in which a worker will read it.
struct Piece<'c> {
    loan: Loan<'c>,
    bytes: usize,
    is_last: bool,
}

/// A piece that a worker has.
struct Sent<'c> {
    pending: Pending<'c>,
    bytes: usize,
    is_last: bool,
    published_ns: u64,
}

/// What became of a piece.
pub struct Answered {
    pub bytes: usize,
    pub published_ns: u64,
    pub hops: Option<trine::Hops>,
    /// After the last piece.
    pub digest: Option<Digest>,
}

impl<'c> Pieces<'c> {
    /// Opens a file; `-` is stdin.
    pub fn open(client: &'c Client, route: Route, path: &Path, piece: usize) -> io::Result<Pieces<'c>> {
        let path = if path == Path::new("-") { Path::new("/dev/stdin") } else { path };
        let (file, state) = (File::open(path)?, Running::new().state());
        Ok(Pieces { client, route, file, piece, state, read: None, sent: None, at_end: false })
    }

    /// Sends the next piece if no worker has one, and reads the one after it.
    pub fn advance(&mut self) -> anyhow::Result<()> {
        self.read_ahead()?;
        if self.sent.is_none()
            && let Some(piece) = self.read.take()
        {
            self.sent = Some(self.send(piece)?);
            self.read_ahead()?;
        }
        Ok(())
    }

    /// Whether this is the call of the piece that a worker has.
    pub fn has(&self, ticket: Ticket) -> bool {
        self.sent.as_ref().is_some_and(|sent| sent.pending.ticket() == ticket)
    }

    /// Takes the answer for the piece that a worker has.
    pub fn take_answer(&mut self) -> anyhow::Result<Answered> {
        let Sent { pending, bytes, is_last, published_ns } =
            self.sent.take().context("no piece is under way")?;
        let reply = pending.wait()?;
        let hops = reply.hops();
        let digest = if is_last {
            Some(exactly(&reply)?)
        } else {
            self.state = exactly(&reply)?;
            None
        };
        Ok(Answered { bytes, published_ns, hops, digest })
    }

    fn read_ahead(&mut self) -> anyhow::Result<()> {
        if self.read.is_some() || self.at_end {
            return Ok(());
        }
        let draft = self.client.request(self.route).traced();
        let mut loan = draft.loan(HEADER + self.piece, Until::Forever)?;
        let bytes = read_all(&mut self.file, &mut loan[HEADER..])?;
        self.at_end = bytes < self.piece;
        loan.shrink(HEADER + bytes);
        self.read = Some(Piece { loan, bytes, is_last: self.at_end });
        Ok(())
    }

    fn send(&self, piece: Piece<'c>) -> Result<Sent<'c>, CallError> {
        let Piece { mut loan, bytes, is_last } = piece;
        loan[..HEADER].copy_from_slice(&header(&self.state, is_last));
        let published_ns = monotonic_ns();
        let pending = loan.submit(Until::Forever)?;
        Ok(Sent { pending, bytes, is_last, published_ns })
    }
}

/// A reply's bytes, which are as many as they must be.
fn exactly<const N: usize>(reply: &Reply<'_>) -> anyhow::Result<[u8; N]> {
    let (bytes, mut exact) = (reply.bytes(), [0; N]);
    ensure!(bytes.len() == N, "a worker answered with {} bytes instead of {N}", bytes.len());
    bytes.read_at(0, &mut exact);
    Ok(exact)
}

/// CLOCK_MONOTONIC, as director and workers note it.
pub fn monotonic_ns() -> u64 {
    // The clock is always there.
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}
