//! The checker: what clients were told against what workers did; and the director's own books.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::atomic::Ordering;

use trine::Status;

use crate::log::{CALLS, CLIENTS, Call, DROPPED, HUNG, Log, POSTED, SENT, UNUSED, WRONG, status_of};
use crate::support::Place;

/// What a run came to.
#[derive(Default)]
pub struct Tally {
    pub rounds: u64,
    /// Calls by how they ended.
    pub ends: BTreeMap<String, u64>,
    /// Kills, stops and restarts.
    pub events: BTreeMap<&'static str, u64>,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let calls: u64 = self.ends.values().sum();
        write!(f, "{} rounds, {calls} calls reconciled {:?}, {:?}", self.rounds, self.ends, self.events)
    }
}

/// Reconciles a bank's round: every call that was made. Returns how many ended how.
pub fn reconcile(log: &Log, bank: usize) -> BTreeMap<String, u64> {
    let mut ends = BTreeMap::new();
    for client in 0..CLIENTS {
        let made = log.next(bank, client).load(Ordering::SeqCst) as usize;
        let killed_below = log.killed_below(bank, client).load(Ordering::SeqCst) as usize;
        for n in 0..CALLS.min(made + 1) {
            let call = log.call(Log::id(bank, client, n));
            match check(&call, n < killed_below) {
                Ok(None) => {}
                Ok(Some(end)) => *ends.entry(end).or_default() += 1,
                Err(why) => panic!(
                    "call {n} of client {client} {why}: {:?}, begun {:?}, finished {:?}",
                    status_of(call.end.load(Ordering::SeqCst)),
                    call.begun,
                    call.finished
                ),
            }
        }
    }
    ends
}

/// One call: how it ended, or what is wrong with that. A call whose client was killed has no end.
fn check(call: &Call<'_>, killed: bool) -> Result<Option<String>, &'static str> {
    let [end, begun, finished] = [call.end, call.begun, call.finished].map(|w| w.load(Ordering::SeqCst));
    if begun > 1 {
        return Err("ran twice");
    }
    let name = match end {
        UNUSED => {
            let untouched = begun == 0;
            return if untouched { Ok(None) } else { Err("ran though nobody made it") };
        }
        SENT if killed => "client killed".into(),
        SENT => return Err("has not ended"),
        HUNG => return Err("hung"),
        WRONG => return Err("has a wrong reply"),
        DROPPED => "dropped".into(),
        POSTED => "posted".into(),
        _ => match status_of(end).ok_or("ended as nothing does")? {
            (Status::Ok, _) if finished != 1 => return Err("is OK and did not run"),
            (_, false) if begun != 0 => return Err("is said not to have run, and began"),
            (
                Status::Ok
                | Status::NoSuchService
                | Status::NoWorker
                | Status::DeadlineExceeded
                | Status::Busy
                | Status::WorkerDied
                | Status::MayHaveRun
                | Status::DirectorGone
                | Status::WouldBlock
                | Status::NotBegun,
                ran,
            ) => {
                let status = status_of(end).map_or("", |(status, _)| status.name());
                if ran { status.into() } else { format!("{status} not run") }
            }
            _ => return Err("ended as no call should here"),
        },
    };
    Ok(Some(name))
}

/// What is not balanced in the director's books, when everybody is back and nothing is called: `None` if all is.
pub fn imbalance(place: &Place, workers: usize) -> Option<String> {
    let seen = match place.bus.inspect() {
        Ok(seen) => seen,
        Err(error) => return Some(error.to_string()),
    };
    let in_flight: u64 = seen.workers.iter().map(|w| w.in_flight).sum();
    let waiting: u64 = seen.services.iter().map(|s| s.waiting).sum();
    let wanted = (CLIENTS, workers, 0, 0, 0);
    let found = (seen.sessions.len(), seen.workers.len(), in_flight, waiting, seen.faults);
    // More may stay of workers that missed a window, or were linked by a director that died before they heard of it: what
    // they were is known to the director that saw them go, and not to the one after that, until they are dead.
    let segments = segments(place.path()).len();
    let links = std::fs::read_dir(place.path().join("workers")).map_or(0, Iterator::count);
    let linked = links == segments && (workers..=2 * workers).contains(&links);
    (found != wanted || !linked).then(|| {
        format!(
            "(sessions, workers, in flight, waiting, faults) are {found:?}, not {wanted:?}; {segments} segments, \
             {links} links: {seen:?}"
        )
    })
}

/// Named segments of the bus in a folder that are still there.
pub fn segments(folder: &Path) -> Vec<String> {
    let Ok(secret) = std::fs::read(folder.join("secret")) else { return Vec::new() };
    let bus = u64::from_ne_bytes(*secret.first_chunk().expect("a bus id"));
    segments_of(bus)
}

/// The bus's id, as its folder has it.
pub fn bus_id(folder: &Path) -> u64 {
    let secret = std::fs::read(folder.join("secret")).expect("a director was here");
    u64::from_ne_bytes(*secret.first_chunk().expect("a bus id"))
}

pub fn segments_of(bus: u64) -> Vec<String> {
    let prefix = format!("trine-{bus:016x}-");
    let names = std::fs::read_dir("/dev/shm").expect("the system's shared memory");
    let names = names.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| name.starts_with(&prefix)).collect()
}
