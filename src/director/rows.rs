//! An inspection, as messages and back; and what else a monitor may ask for.

use super::inspect::{Inspection, ServiceInfo, SessionInfo, WorkerInfo};
use crate::bus::Bus;
use crate::control::greeting::{ANSWER_NS, greet, unexpected};
use crate::control::message::{FromDirector, Role, ToDirector};
use crate::control::name::Name;
use crate::error::{Error, Status};
use crate::identity::Identity;
use crate::limits;

/// The messages that tell all of it, the end last.
pub fn rows(inspection: &Inspection) -> Vec<FromDirector> {
    let services = inspection.services.iter().flat_map(service_rows);
    let workers = inspection.workers.iter().map(worker_row);
    let sessions = inspection.sessions.iter().map(session_row);
    let end = FromDirector::InspectEnd {
        calls: inspection.dispatched,
        ended: inspection.refused,
        faults: inspection.faults,
    };
    services.chain(workers).chain(sessions).chain([end]).collect()
}

/// As many as its names and its workers need: several workers together may provide more than one of them can. What
/// waits is in the first.
fn service_rows(s: &ServiceInfo) -> Vec<FromDirector> {
    let Ok(service) = Name::new("service", &s.name) else { return Vec::new() };
    let names: Vec<Name> = s.operations.iter().filter_map(|o| Name::new("operation", o).ok()).collect();
    let mut operations = names.chunks(limits::OPERATIONS_MAX);
    let mut workers = s.workers.chunks(limits::ROW_WORKERS_MAX);
    let count = operations.len().max(workers.len()).max(1);
    let row = |n| FromDirector::ServiceRow {
        service: service.clone(),
        operations: operations.next().unwrap_or_default().to_vec(),
        workers: workers.next().unwrap_or_default().to_vec(),
        waiting: if n == 0 { s.waiting } else { 0 },
    };
    (0..count).map(row).collect()
}

fn worker_row(w: &WorkerInfo) -> FromDirector {
    let Identity { uid, gid, pid } = w.identity;
    let (worker, in_flight, share) = (w.id, w.in_flight as u32, w.share as u32);
    FromDirector::WorkerRow {
        worker,
        uid,
        gid,
        pid,
        in_flight,
        completed: w.completed,
        sessions: w.sessions,
        share,
    }
}

fn session_row(s: &SessionInfo) -> FromDirector {
    let Identity { uid, gid, pid } = s.identity;
    FromDirector::SessionRow {
        session: s.id,
        uid,
        gid,
        pid,
        open: s.routes,
        waiting: s.waiting,
        calls: s.calls,
        hot: s.hot,
    }
}

/// Asks a director for all of it.
pub fn ask(bus: &Bus) -> Result<Inspection, Error> {
    let channel = greet(bus, Role::Monitor, ANSWER_NS)?;
    channel.send_message(&ToDirector::Inspect, &[]).map_err(Error::io("asking what is attached"))?;
    let mut inspection = Inspection::default();
    loop {
        let (row, _) = channel.answer(ANSWER_NS)?;
        match add(&mut inspection, row) {
            Some(true) => return Ok(inspection),
            Some(false) => {}
            None => return Err(unexpected()),
        }
    }
}

/// Asks a director to drain a worker.
pub fn drain(bus: &Bus, worker: u64) -> Result<(), Error> {
    let channel = greet(bus, Role::Monitor, ANSWER_NS)?;
    channel.send_message(&ToDirector::Drain { worker }, &[]).map_err(Error::io("asking to drain"))?;
    match channel.answer(ANSWER_NS)? {
        (FromDirector::Provided { status: Status::Ok, .. }, _) => Ok(()),
        (FromDirector::Provided { status, message }, _) => Err(Error::Refused { status, message }),
        _ => Err(unexpected()),
    }
}

/// Adds a row to an inspection. Returns whether it was the last; `None` if it is no row.
fn add(inspection: &mut Inspection, row: FromDirector) -> Option<bool> {
    match row {
        FromDirector::ServiceRow { service, operations, workers, waiting } => {
            let operations = operations.iter().map(|o| o.as_str().to_owned());
            let name = service.as_str();
            match inspection.services.last_mut().filter(|s| s.name == name) {
                Some(same) => {
                    same.operations.extend(operations);
                    same.workers.extend(workers);
                    same.waiting += waiting;
                }
                None => {
                    let (name, operations) = (name.to_owned(), operations.collect());
                    inspection.services.push(ServiceInfo { name, operations, workers, waiting });
                }
            }
        }
        FromDirector::WorkerRow { worker, uid, gid, pid, in_flight, completed, sessions, share } => {
            inspection.workers.push(WorkerInfo {
                id: worker,
                identity: Identity { uid, gid, pid },
                in_flight: u64::from(in_flight),
                completed,
                sessions,
                share: u64::from(share),
            });
        }
        FromDirector::SessionRow { session, uid, gid, pid, open, waiting, calls, hot } => {
            let identity = Identity { uid, gid, pid };
            inspection.sessions.push(SessionInfo {
                id: session,
                identity,
                routes: open,
                waiting,
                calls,
                hot,
            });
        }
        FromDirector::InspectEnd { calls, ended, faults } => {
            (inspection.dispatched, inspection.refused, inspection.faults) = (calls, ended, faults);
            return Some(true);
        }
        _ => return None,
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::message::Message;

    #[test]
    fn a_large_service_is_told_in_several_rows_and_is_one_again() {
        let names = |count: usize| (0..count).map(|n| format!("{n:064}")).collect();
        let service = |name: &str, operations, workers: u64| ServiceInfo {
            name: name.into(),
            operations: names(operations),
            workers: (0..workers).collect(),
            waiting: 7,
        };
        let services = vec![
            service("few", 1, 1),
            service("many", 3 * limits::OPERATIONS_MAX + 1, 1000),
            service("none", 1, 0),
            service("workers", 64, 2 * limits::ROW_WORKERS_MAX as u64),
        ];
        let told = Inspection { services, dispatched: 3, refused: 2, faults: 1, ..Inspection::default() };
        let mut heard = Inspection::default();
        let rows = rows(&told);
        for (n, row) in rows.iter().enumerate() {
            let mut bytes = Vec::new();
            row.encode(&mut bytes);
            assert!(bytes.len() <= limits::MESSAGE_BYTES_MAX, "{} bytes", bytes.len());
            let row = FromDirector::decode(&bytes).expect("a row that can be read");
            assert_eq!(add(&mut heard, row), Some(n + 1 == rows.len()));
        }
        assert_eq!(heard, told);
    }
}
