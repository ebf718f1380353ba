//! A D-Bus daemon, with libdbus at both ends.
//!
//! ```text
//! client ──► dbus-daemon ──► worker ──► dbus-daemon ──► client          4 messages
//! ```
//! A bus of its own, whose policy allows all.

use std::os::unix::process::CommandExt;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::ValueEnum;
use dbus::Message;
use dbus::channel::Channel;
use trine_measure::Seat::{Client, Middle, Worker};
use trine_measure::payload::{self, Way};
use trine_measure::{Caller, PartyOptions, Subject, Wait, ready};

use crate::{answered, asked};

/// Which of the processes.
#[derive(Clone, Copy, ValueEnum)]
pub enum Role {
    Client,
    Daemon,
    Worker,
}

const NAME: &str = "org.trine.Bench";
const PATH: &str = "/org/trine/Bench";
const METHOD: &str = "Call";

/// What can be measured.
pub fn subjects() -> Vec<Subject> {
    let parties = [(Middle, "dbus daemon"), (Worker, "dbus worker"), (Client, "dbus client")];
    vec![Subject::new("d-bus daemon", 4, &parties).waiting(&[Wait::Adaptive, Wait::Park]).bounds(1 << 20, 64)]
}

/// Runs it.
pub fn run(role: Role, options: &PartyOptions) -> anyhow::Result<()> {
    match role {
        Role::Daemon => daemon(options),
        Role::Worker => {
            let channel = open(options)?;
            request_name(&channel)?;
            ready();
            let mut answer = vec![0; options.reply_bytes];
            loop {
                let message = next(&channel, None)?.context("the daemon has gone")?;
                if message.member().is_none_or(|member| &*member != METHOD) {
                    continue;
                }
                let request: &[u8] = message.get1().context("a request without bytes")?;
                payload::fill(&mut answer, Way::Answer, asked(request)?);
                send(&channel, message.method_return().append1(&answer))?;
            }
        }
        Role::Client => {
            let mut calls = Calls { channel: open(options)?, request: vec![0; options.bytes] };
            options.load.run(&mut calls)?.tell()
        }
    }
}

/// Becomes the daemon: the address that it prints says that it is ready.
fn daemon(options: &PartyOptions) -> anyhow::Result<()> {
    let config = format!(
        "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN\"
 \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">
<busconfig><type>session</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>
<policy context=\"default\"><allow send_destination=\"*\" eavesdrop=\"true\"/><allow eavesdrop=\"true\"/>
<allow own=\"*\"/><allow user=\"*\"/></policy></busconfig>",
        options.path("bus").display()
    );
    std::fs::write(options.path("bus.conf"), config)?;
    let mut daemon = std::process::Command::new("dbus-daemon");
    daemon.arg("--config-file").arg(options.path("bus.conf")).args(["--nofork", "--print-address=1"]);
    // It says there that it may not have more open files, which it doesn't need.
    daemon.stderr(std::process::Stdio::null());
    Err(daemon.exec()).context("starting dbus-daemon")
}

fn open(options: &PartyOptions) -> anyhow::Result<Channel> {
    let mut channel = Channel::open_private(&format!("unix:path={}", options.path("bus").display()))?;
    channel.register()?;
    Ok(channel)
}

fn request_name(channel: &Channel) -> anyhow::Result<()> {
    let ask = Message::call_with_args(
        "org.freedesktop.DBus",
        "/org/freedesktop/DBus",
        "org.freedesktop.DBus",
        "RequestName",
        (NAME, 0u32),
    );
    let reply = channel.send_with_reply_and_block(ask, Duration::from_secs(5))?;
    match reply.get1() {
        Some(1u32) => Ok(()),
        other => bail!("the daemon does not give the name: {other:?}"),
    }
}

fn send(channel: &Channel, message: Message) -> anyhow::Result<()> {
    channel.send(message).map_err(|()| anyhow!("sending"))?;
    channel.flush();
    Ok(())
}

/// The next message; `None` if there is none within the time.
fn next(channel: &Channel, within: Option<Duration>) -> anyhow::Result<Option<Message>> {
    loop {
        if let Some(message) = channel.pop_message() {
            return Ok(Some(message));
        }
        channel.read_write(within).map_err(|()| anyhow!("the daemon has gone"))?;
        if within.is_some() {
            return Ok(channel.pop_message());
        }
    }
}

struct Calls {
    channel: Channel,
    request: Vec<u8>,
}

impl Caller for Calls {
    fn send(&mut self, number: u64) -> anyhow::Result<()> {
        payload::fill(&mut self.request, Way::Request, number);
        let call = Message::new_method_call(NAME, PATH, NAME, METHOD).map_err(|why| anyhow!(why))?;
        send(&self.channel, call.append1(&self.request))
    }

    fn receive(&mut self, wait: bool) -> anyhow::Result<Option<u64>> {
        loop {
            let within = if wait { None } else { Some(Duration::ZERO) };
            let Some(message) = next(&self.channel, within)? else { return Ok(None) };
            if message.msg_type() == dbus::message::MessageType::MethodReturn {
                return answered(message.get1().context("an answer without bytes")?).map(Some);
            }
        }
    }
}
