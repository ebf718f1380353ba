//! This program, started again: directors, workers and clients as real processes on a private bus.
//!
//! ```text
//! parent ─┬─ PrivateBus          a folder, gone when it is dropped
//!         ├─ Background          director, workers: asked to stop and waited for when they are dropped
//!         └─ Foreground::run     a client: waited for, and ended by a signal to the parent
//! ```
//! Whatever ends the parent (an error, Ctrl-C), the values are dropped in the order of their owner's fields and
//! nothing is left. If the parent is killed, the kernel asks its children to stop.

use std::ffi::OsStr;
use std::fs::DirBuilder;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use tempfile::TempDir;
use trine::Bus;

use crate::signals::Caught;

/// A bus that nobody else knows of.
pub struct PrivateBus(TempDir);

impl PrivateBus {
    /// Makes its folder where this user's buses are, or, where there is no such place, among the temporary files:
    /// it has a fresh name and is this user's alone.
    pub fn new() -> anyhow::Result<PrivateBus> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("private-").permissions(std::fs::Permissions::from_mode(0o700));
        let made = runtime_folder().and_then(|base| {
            DirBuilder::new().recursive(true).mode(0o700).create(&base).ok()?;
            builder.tempdir_in(base).ok()
        });
        match made {
            Some(folder) => Ok(PrivateBus(folder)),
            None => Ok(PrivateBus(builder.tempdir().context("making a folder for a private bus")?)),
        }
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

fn runtime_folder() -> Option<PathBuf> {
    Bus::named(Bus::DEFAULT).ok()?.folder().parent().map(Path::to_owned)
}

/// A command line of this program. Its process is asked to stop when this one ends.
pub fn this_program<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("trine").args(arguments).arg("--parent").arg(std::process::id().to_string());
    command
}

/// A director or worker.
pub struct Background {
    child: Child,
    _output: BufReader<ChildStdout>,
}

impl Background {
    /// Starts it, and waits for the line by which it says that it is ready.
    pub fn start(what: &str, mut command: Command) -> anyhow::Result<Background> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting the {what}"))?;
        let output = child.stdout.take().with_context(|| format!("the {what} has no output"))?;
        let mut background = Background { child, _output: BufReader::new(output) };
        let mut line = String::new();
        match background._output.read_line(&mut line) {
            Ok(count) if count > 0 => Ok(background),
            // It has said why on stderr.
            _ => bail!("the {what} did not start"),
        }
    }
}

impl Background {
    /// Its number, as long as this lives.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it: nothing that it would have done at its end is done.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill().context("killing a process")?;
        self.child.wait().context("waiting for a process that was killed")?;
        Ok(())
    }
}

impl Drop for Background {
    /// Asks it to stop, and waits: it has its own limits for what it finishes.
    fn drop(&mut self) {
        // It has not been waited for, so the number is still its own.
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

/// Runs clients, one after the other, and ends them when this process is asked to stop.
pub struct Foreground(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    stop: bool,
    /// Not waited for yet, so that the number is its own.
    running: Option<Pid>,
}

impl Foreground {
    /// From now on a signal to stop ends the client that runs, and no other begins.
    pub fn new() -> anyhow::Result<Foreground> {
        let state = Arc::new(Mutex::new(State::default()));
        let at_signal = state.clone();
        Caught::new()?.then(move || {
            let mut state = lock(&at_signal);
            state.stop = true;
            if let Some(pid) = state.running {
                let _ = kill(pid, Signal::SIGTERM);
            }
        })?;
        Ok(Foreground(state))
    }

    /// Runs a client to its end, with our own stdin, stdout and stderr.
    pub fn run(&self, command: Command) -> anyhow::Result<ExitStatus> {
        let child = self.spawn(command)?;
        self.wait(child)
    }

    /// Runs a client to its end, and returns what it wrote. One that takes longer than this is killed.
    pub fn output(&self, mut command: Command, within: Duration) -> anyhow::Result<Vec<u8>> {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = self.spawn(command)?;
        let output = child.stdout.take().context("the client has no output");
        let output = output.and_then(|mut stdout| read_all(&mut stdout, Instant::now() + within));
        if output.is_err() {
            let _ = child.kill();
        }
        let status = self.wait(child)?;
        let output = output?;
        match status.success() {
            true => Ok(output),
            // It has said why on stderr.
            false => bail!("the client ended with {status}"),
        }
    }

    fn spawn(&self, mut command: Command) -> anyhow::Result<Child> {
        let mut state = lock(&self.0);
        if state.stop {
            return Err(trine::Error::Interrupted.into());
        }
        let child = command.spawn().context("starting the client")?;
        state.running = Some(Pid::from_raw(child.id() as i32));
        Ok(child)
    }

    fn wait(&self, mut child: Child) -> anyhow::Result<ExitStatus> {
        let ended = || Id::Pid(Pid::from_raw(child.id() as i32));
        while waitid(ended(), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(Errno::EINTR) {}
        let mut state = lock(&self.0);
        state.running = None;
        let status = child.wait().context("waiting for the client")?;
        if state.stop {
            return Err(trine::Error::Interrupted.into());
        }
        Ok(status)
    }
}

/// What a process writes until it closes its output, if it does so in time.
fn read_all(from: &mut ChildStdout, until: Instant) -> anyhow::Result<Vec<u8>> {
    let (mut output, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(from.as_fd(), PollFlags::POLLIN)], timeout) {
            Err(Errno::EINTR) => continue,
            Ok(0) if left.is_zero() => bail!("the client did not end in time"),
            Ok(0) => continue,
            other => _ = other.context("waiting for what the client writes")?,
        }
        match from.read(&mut piece).context("reading what the client wrote")? {
            0 => return Ok(output),
            count => output.extend_from_slice(&piece[..count]),
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
