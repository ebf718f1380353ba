//! An inspection, as messages and back; and what else a monitor may ask for.

use super::explain::{Explanation, Finding};
use super::inspect::{Inspection, ServiceInfo, SessionInfo, WorkerInfo};
use crate::access::Asker;
use crate::bus::Bus;
use crate::control::greeting::{ANSWER_NS, greet, unexpected};
use crate::control::message::{FromDirector, Role, ToDirector};
use crate::control::name::Name;
use crate::error::{Error, Status};
use crate::identity::Identity;
use crate::limits;
use crate::resource::Key;

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
    let denied = inspection
        .denied
        .iter()
        .map(|(denial, count)| FromDirector::DenialRow { count: *count, denial: denial.clone() });
    services.chain(workers).chain(sessions).chain(denied).chain([end]).collect()
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
    let (channel, _) = greet(bus, Role::Monitor, ANSWER_NS)?;
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
    let (channel, _) = greet(bus, Role::Monitor, ANSWER_NS)?;
    channel.send_message(&ToDirector::Drain { worker }, &[]).map_err(Error::io("asking to drain"))?;
    match channel.answer(ANSWER_NS)? {
        (FromDirector::Provided { status: Status::Ok, .. }, _) => Ok(()),
        (FromDirector::Provided { status, message }, _) => Err(Error::Refused { status, message }),
        _ => Err(unexpected()),
    }
}

/// The messages that tell an explanation, the end last.
pub fn explanation(explanation: Explanation) -> Vec<FromDirector> {
    let Explanation { findings, status, worker, text } = explanation;
    let row = |Finding { topic, worker, text, origin }| FromDirector::ExplainRow {
        topic,
        worker: worker.unwrap_or(0),
        text,
        origin,
    };
    let end = FromDirector::ExplainEnd { status, worker: worker.unwrap_or(0), text };
    findings.into_iter().map(row).chain([end]).collect()
}

/// A resource, as a person names it.
#[derive(Clone, Copy, Debug)]
pub enum KeyText<'a> {
    /// A number.
    Number(u64),
    /// A name.
    Name(&'a str),
}

/// Asks a director what would happen to a request.
pub fn explain(
    bus: &Bus,
    asker: Asker<'_>,
    service: &str,
    operation: &str,
    key: Option<KeyText<'_>>,
) -> Result<Explanation, Error> {
    let (service, operation) = (Name::new("service", service)?, Name::new("operation", operation)?);
    let groups: Vec<u64> = asker.groups.iter().map(|&group| group.into()).collect();
    if groups.len() > limits::EXPLAIN_GROUPS_MAX {
        let bounds = format!("up to {}", limits::EXPLAIN_GROUPS_MAX);
        return Err(Error::Option { what: "the number of groups", value: groups.len() as u64, bounds });
    }
    let (channel, _) = greet(bus, Role::Monitor, ANSWER_NS)?;
    let key = match key {
        None => None,
        Some(KeyText::Number(number)) => Some(Key::number(number)),
        Some(KeyText::Name(name)) => {
            let ask = ToDirector::NameKey { name: Name::new("key", name)? };
            channel.send_message(&ask, &[]).map_err(Error::io("asking for a key"))?;
            match channel.answer(ANSWER_NS)? {
                (FromDirector::KeyNamed { status: Status::Ok, word }, _) => Some(Key::from_word(word, true)),
                (FromDirector::KeyNamed { status, .. }, _) => {
                    return Err(Error::Refused { status, message: status.text().into() });
                }
                _ => return Err(unexpected()),
            }
        }
    };
    let ask = ToDirector::Explain { uid: asker.uid, gid: asker.gid, groups, service, operation, key };
    channel.send_message(&ask, &[]).map_err(Error::io("asking for an explanation"))?;
    let mut findings = Vec::new();
    let some = |worker: u64| (worker != 0).then_some(worker);
    loop {
        match channel.answer(ANSWER_NS)?.0 {
            FromDirector::ExplainRow { topic, worker, text, origin } => {
                findings.push(Finding { topic, worker: some(worker), text, origin });
            }
            FromDirector::ExplainEnd { status, worker, text } => {
                return Ok(Explanation { findings, status, worker: some(worker), text });
            }
            _ => return Err(unexpected()),
        }
    }
}

/// Asks a director to read its policy anew.
pub fn reload(bus: &Bus) -> Result<(), Error> {
    let (channel, _) = greet(bus, Role::Monitor, ANSWER_NS)?;
    channel.send_message(&ToDirector::Reload, &[]).map_err(Error::io("asking to reload"))?;
    match channel.answer(ANSWER_NS)? {
        (FromDirector::Reloaded { applied: true, .. }, _) => Ok(()),
        (FromDirector::Reloaded { message, .. }, _) => Err(Error::Policy(message)),
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
        FromDirector::DenialRow { count, denial } => inspection.denied.push((denial, count)),
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
    use crate::access::Denial;
    use crate::control::message::Message;

    fn denied() -> Vec<(Denial, u64)> {
        let (service, operation, origin) = ("kv".into(), "wipe".into(), "policy.toml:7".into());
        let verb = crate::access::Verb::Call;
        vec![(Denial { uid: 7, verb, service, operation, origin }, 3)]
    }

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
        let told = Inspection {
            services,
            dispatched: 3,
            refused: 2,
            faults: 1,
            denied: denied(),
            ..Inspection::default()
        };
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
