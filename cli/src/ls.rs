//! `trine ls`: what is attached to a bus.

use std::fmt::Write as _;
use std::io::Write;

use clap::Args;
use serde_json::{Value, json};
use tabled::builder::Builder;
use tabled::settings::{Padding, Style};
use trine::{Identity, Inspection};

use crate::options::BusOptions;
use trine_measure::latencies::grouped;

/// List services, operations, workers and sessions.
#[derive(Args)]
#[command(after_help = "\
Examples:
  trine ls
  trine ls --bus work --json | jq '.services[].name'")]
pub struct LsOptions {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Asks the director, and prints.
pub fn run(bus: &BusOptions, options: &LsOptions) -> anyhow::Result<()> {
    let inspection = bus.bus()?.inspect()?;
    let text = if options.json { format!("{:#}\n", as_json(&inspection)) } else { as_text(&inspection) };
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

fn as_text(inspection: &Inspection) -> String {
    let mut text = String::new();
    let services = inspection
        .services
        .iter()
        .map(|s| vec![s.name.clone(), s.operations.join(", "), join(&s.workers), s.waiting.to_string()]);
    table(&mut text, &["SERVICE", "OPERATIONS", "WORKERS", "WAITING"], services);
    let workers = inspection.workers.iter().map(|w| {
        let Identity { uid, pid, .. } = w.identity;
        let numbers = [w.in_flight, w.share, u64::from(w.sessions)].map(|n| n.to_string());
        let [in_flight, share, sessions] = numbers;
        vec![
            w.id.to_string(),
            pid.to_string(),
            uid.to_string(),
            in_flight,
            share,
            sessions,
            grouped(w.completed),
        ]
    });
    table(&mut text, &["WORKER", "PID", "UID", "IN FLIGHT", "SHARE", "SESSIONS", "COMPLETED"], workers);
    let sessions = inspection.sessions.iter().map(|s| {
        let Identity { uid, pid, .. } = s.identity;
        let polled = if s.hot { "yes" } else { "no" };
        let (routes, waiting) = (s.routes.to_string(), s.waiting.to_string());
        vec![
            s.id.to_string(),
            pid.to_string(),
            uid.to_string(),
            routes,
            waiting,
            polled.into(),
            grouped(s.calls),
        ]
    });
    table(&mut text, &["SESSION", "PID", "UID", "ROUTES", "WAITING", "POLLED", "CALLS"], sessions);
    let denied = inspection.denied.iter().map(|(d, count)| {
        let uid = if d.uid == u32::MAX { "*".into() } else { d.uid.to_string() };
        vec![
            uid,
            d.verb.to_string(),
            d.service.clone(),
            d.operation.clone(),
            grouped(*count),
            d.origin.clone(),
        ]
    });
    table(&mut text, &["DENIED UID", "WHAT", "SERVICE", "OPERATION", "TIMES", "BY"], denied);
    let Inspection { dispatched, refused, faults, .. } = inspection;
    let [dispatched, refused, faults] = [dispatched, refused, faults].map(|&n| grouped(n));
    // Writing to a string does not fail.
    let _ =
        writeln!(text, "{dispatched} calls given to workers, {refused} ended here, {faults} peers at fault");
    text
}

/// One table and an empty line, or nothing where it would be empty but for its heads.
fn table(text: &mut String, heads: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let mut builder = Builder::default();
    builder.push_record(heads.iter().copied());
    rows.for_each(|row| builder.push_record(row));
    if builder.count_records() == 1 {
        return;
    }
    let mut table = builder.build();
    table.with(Style::empty()).with(Padding::new(0, 2, 0, 0));
    for line in table.to_string().lines() {
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text.push('\n');
}

fn join(ids: &[u64]) -> String {
    match ids {
        [] => "none".into(),
        ids => ids.iter().map(u64::to_string).collect::<Vec<_>>().join(", "),
    }
}

fn as_json(inspection: &Inspection) -> Value {
    let identity = |i: &Identity| json!({ "uid": i.uid, "gid": i.gid, "pid": i.pid });
    let services = inspection.services.iter().map(
        |s| json!({ "name": s.name, "operations": s.operations, "workers": s.workers, "waiting": s.waiting }),
    );
    let workers = inspection.workers.iter().map(|w| {
        json!({
            "id": w.id, "identity": identity(&w.identity), "in_flight": w.in_flight, "share": w.share,
            "sessions": w.sessions, "completed": w.completed,
        })
    });
    let sessions = inspection.sessions.iter().map(|s| {
        json!({
            "id": s.id, "identity": identity(&s.identity), "routes": s.routes, "waiting": s.waiting,
            "calls": s.calls, "polled": s.hot,
        })
    });
    let denied = inspection.denied.iter().map(|(d, count)| {
        json!({
            "uid": d.uid, "verb": d.verb.to_string(), "service": d.service, "operation": d.operation,
            "times": count, "by": d.origin,
        })
    });
    json!({
        "denied": denied.collect::<Vec<_>>(),
        "services": services.collect::<Vec<_>>(),
        "workers": workers.collect::<Vec<_>>(),
        "sessions": sessions.collect::<Vec<_>>(),
        "dispatched": inspection.dispatched, "refused": inspection.refused, "faults": inspection.faults,
    })
}
