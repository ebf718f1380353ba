//! An inspection, as messages and back; and what else a monitor may ask for.

use super::inspect::{Inspection, ServiceInfo, SessionInfo, WorkerInfo};
use crate::bus::Bus;
use crate::control::greeting::{greet, unexpected};
use crate::control::message::{FromDirector, Role, ToDirector};
use crate::control::name::Name;
use crate::error::{Error, Status};
use crate::identity::Identity;
use crate::limits;

/// How long a director may take for one row.
const ANSWER_NS: u64 = 5_000_000_000;

/// The messages that tell all of it, the end last.
pub fn rows(inspection: &Inspection) -> Vec<FromDirector> {
    let services = inspection.services.iter().filter_map(service_row);
    let workers = inspection.workers.iter().map(worker_row);
    let sessions = inspection.sessions.iter().map(session_row);
    let end = FromDirector::InspectEnd {
        calls: inspection.dispatched,
        ended: inspection.refused,
        faults: inspection.faults,
    };
    services.chain(workers).chain(sessions).chain([end]).collect()
}

fn service_row(s: &ServiceInfo) -> Option<FromDirector> {
    Some(FromDirector::ServiceRow {
        service: Name::new("service", &s.name).ok()?,
        operations: s.operations.iter().filter_map(|o| Name::new("operation", o).ok()).collect(),
        workers: s.workers.iter().copied().take(limits::ROW_WORKERS_MAX).collect(),
        waiting: s.waiting,
    })
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
    let channel = greet(bus, Role::Monitor)?;
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
    let channel = greet(bus, Role::Monitor)?;
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
            let operations = operations.iter().map(|o| o.as_str().to_owned()).collect();
            let name = service.as_str().to_owned();
            inspection.services.push(ServiceInfo { name, operations, workers, waiting });
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
