//! `trine explain`: what would happen to a call, and which line decides it.

use std::ffi::CString;
use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use nix::unistd::{Gid, Uid, User, getgrouplist};
use serde_json::json;
use tabled::builder::Builder;
use tabled::settings::{Padding, Style};
use trine::access::Asker;
use trine::{Explanation, KeyText, Status};

use crate::exit::{self, Usage};
use crate::options::BusOptions;

/// Say what would happen to a call: who would get it, and which line of which table decides.
///
/// Nothing is called. The exit code is that of such a call: 0 where a worker would get it, now or later.
#[derive(Args)]
#[command(after_help = "\
Examples:
  trine explain kv get 7
  trine explain kv get config --as www-data")]
pub struct ExplainOptions {
    /// The service.
    service: String,
    /// The operation.
    operation: String,
    /// The key: a number, or a name.
    key: Option<String>,
    /// The key is a name, though it looks like a number.
    #[arg(long, requires = "key")]
    name: bool,
    /// As this user would call, by name or number; else as you do.
    #[arg(long = "as", value_name = "USER")]
    user: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Somebody, as the kernel would see him.
struct Person {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

/// Asks, and prints.
pub fn run(bus: &BusOptions, options: &ExplainOptions) -> anyhow::Result<ExitCode> {
    let person = match &options.user {
        Some(user) => find(user)?,
        None => {
            let user = nix::unistd::geteuid().to_string();
            find(&user)?
        }
    };
    let asker = Asker { uid: person.uid, gid: person.gid, groups: &person.groups };
    let key = options.key.as_deref().map(|key| match key.parse() {
        Ok(number) if !options.name => KeyText::Number(number),
        _ => KeyText::Name(key),
    });
    let explanation = bus.bus()?.explain(asker, &options.service, &options.operation, key)?;
    let text = if options.json { format!("{:#}\n", as_json(&explanation)) } else { as_text(&explanation) };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(match explanation.status {
        Status::Ok => ExitCode::SUCCESS,
        status => ExitCode::from(exit::code_of_status(status)),
    })
}

/// A user, with the groups that a login would give.
fn find(user: &str) -> anyhow::Result<Person> {
    let known = match user.parse() {
        Ok(uid) => User::from_uid(Uid::from_raw(uid)),
        Err(_) => User::from_name(user),
    };
    match (known.context("looking for the user")?, user.parse()) {
        (Some(found), _) => {
            let name = CString::new(found.name.as_str()).context("the user's name")?;
            let groups = getgrouplist(&name, found.gid).context("looking for the user's groups")?;
            let (uid, gid) = (found.uid.as_raw(), found.gid.as_raw());
            Ok(Person { uid, gid, groups: groups.into_iter().map(Gid::as_raw).collect() })
        }
        // A number may be nobody's here, and still call.
        (None, Ok(uid)) => Ok(Person { uid, gid: u32::MAX, groups: Vec::new() }),
        (None, Err(_)) => Err(Usage(format!("--as {user}: there is no such user on this machine")).into()),
    }
}

fn as_text(explanation: &Explanation) -> String {
    let mut builder = Builder::default();
    for finding in &explanation.findings {
        let who = finding.worker.map_or(String::new(), |id| format!("worker {id} "));
        let what = format!("{who}{}", finding.text);
        builder.push_record([finding.topic.name().to_owned(), what, finding.origin.clone()]);
    }
    let mut table = builder.build();
    table.with(Style::empty()).with(Padding::new(0, 2, 0, 0));
    let lines = table.to_string();
    let mut text: String = lines.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    text.push_str(&format!("so        {}\n", explanation.text));
    text
}

fn as_json(explanation: &Explanation) -> serde_json::Value {
    let findings = explanation
        .findings
        .iter()
        .map(|f| json!({ "topic": f.topic.name(), "worker": f.worker, "text": f.text, "by": f.origin }));
    json!({
        "findings": findings.collect::<Vec<_>>(), "status": explanation.status.name(),
        "worker": explanation.worker, "text": explanation.text,
    })
}
