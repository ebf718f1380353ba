//! Processes in roles, and conditions to wait for.

use std::fmt::Display;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use trine::{Bus, Client, ClientOptions, Director, DirectorHandle, DirectorOptions, Inspection};

/// How long anything may take before its test fails.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Names the role that a process plays.
pub const ROLE: &str = "TRINE_TEST_ROLE";
/// What a role says begins so: the test harness prints to the same pipe.
pub const MARK: &str = "@@";

/// Whether the long forms were asked for.
pub fn long() -> bool {
    std::env::var_os("TRINE_LONG").is_some()
}

/// Waits until a condition holds.
#[track_caller]
pub fn eventually(what: impl Display, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A private bus, which goes with its folder.
pub struct Place {
    pub bus: Bus,
    folder: TempDir,
}

impl Place {
    pub fn new() -> Place {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Place { bus: Bus::at(folder.path()), folder }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn role(&self, role: &str) -> Launch {
        Launch {
            program: std::env::current_exe().expect("this program"),
            prefix: Vec::new(),
            environment: vec![(ROLE.into(), role.into()), ("TRINE_TEST_BUS".into(), self.path_text())],
        }
    }

    /// A director that is ready.
    pub fn director(&self) -> Role {
        self.role("director").ready()
    }

    /// A process with one worker, which provides the service `work`; ready.
    pub fn worker(&self) -> Role {
        self.role("worker").ready()
    }

    pub fn client(&self, options: ClientOptions) -> Client {
        self.bus.client(options).expect("a client")
    }

    pub fn inspect(&self) -> Inspection {
        self.bus.inspect().expect("an inspection")
    }

    fn path_text(&self) -> String {
        self.folder.path().to_str().expect("UTF-8").into()
    }
}

impl Drop for Place {
    /// What directors that were killed left in /dev/shm goes: the next one cleans up, and stops.
    fn drop(&mut self) {
        let next = Director::new(&self.bus, DirectorOptions::default()).and_then(Director::spawn);
        let _ = next.and_then(DirectorHandle::stop);
    }
}

/// A role that is about to be played.
pub struct Launch {
    program: PathBuf,
    prefix: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Launch {
    /// Tells the role something.
    pub fn with(mut self, key: &str, value: impl Display) -> Launch {
        self.environment.push((format!("TRINE_TEST_{}", key.to_uppercase()), value.to_string()));
        self
    }

    /// Starts it by another program, which executes what follows.
    pub fn under(mut self, prefix: &[&str]) -> Launch {
        self.prefix = prefix.iter().map(|&s| s.into()).collect();
        self
    }

    /// A copy of this program, which others may execute.
    pub fn program(mut self, path: &Path) -> Launch {
        self.program = path.into();
        self
    }

    /// To be called by a thread that outlives the role: the kernel kills it with the thread that started it.
    pub fn start(self) -> Role {
        let own = self.program.to_str().expect("UTF-8").to_owned();
        let mut words = self.prefix.clone();
        words.extend([own, "role".into(), "--exact".into(), "--nocapture".into(), "--test-threads=1".into()]);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).envs(self.environment).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("a process");
        let (say, lines) = channel();
        let out = BufReader::new(child.stdout.take().expect("its output"));
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if let Some((_, said)) = line.split_once(MARK)
                    && say.send(said.to_owned()).is_err()
                {
                    return;
                }
            }
        });
        let stdin = child.stdin.take().expect("its input");
        Role { child, stdin, lines }
    }

    pub fn ready(self) -> Role {
        let role = self.start();
        role.hear("ready");
        role
    }
}

/// A process in a role. Killed when it is dropped.
pub struct Role {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Role {
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Waits for the next thing it says, which begins with `word`, and returns the rest.
    #[track_caller]
    pub fn hear(&self, word: &str) -> String {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => match line.strip_prefix(word) {
                Some(rest) => rest.trim().to_owned(),
                None => panic!("it said {line:?}, not {word:?}"),
            },
            Err(RecvTimeoutError::Timeout) => panic!("it did not say {word:?} in time"),
            Err(RecvTimeoutError::Disconnected) => panic!("it ended without saying {word:?}"),
        }
    }

    /// What it has said and nobody has heard.
    pub fn heard(&self) -> Vec<String> {
        self.lines.try_iter().collect()
    }

    pub fn say(&mut self, word: &str) {
        writeln!(self.stdin, "{word}").expect("it reads");
    }

    /// SIGKILL, and waits for its end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    #[allow(dead_code)] // not every test asks
    /// SIGSTOP, and waits until all of its threads stand still.
    pub fn freeze(&self) {
        signal(self.pid(), Signal::SIGSTOP);
        eventually("it stands still", || {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).expect("a living process");
            let stands = |task: std::io::Result<std::fs::DirEntry>| {
                let stat = std::fs::read_to_string(task.ok()?.path().join("stat")).ok()?;
                Some(stat.rsplit(')').next()?.trim_start().starts_with('T'))
            };
            tasks.map(stands).all(|stands| stands == Some(true))
        });
    }

    #[allow(dead_code)] // not every test asks
    /// SIGCONT.
    pub fn thaw(&self) {
        signal(self.pid(), Signal::SIGCONT);
    }

    /// Stops it in good order.
    pub fn stop(mut self) {
        self.say("stop");
        self.hear("stopped");
        assert!(self.exit().success());
    }

    /// Whether it has not ended.
    #[allow(dead_code)] // not every test asks
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    /// Waits for its end.
    pub fn exit(&mut self) -> ExitStatus {
        let mut ended = None;
        eventually("a process's end", || {
            ended = self.child.try_wait().expect("a child");
            ended.is_some()
        });
        ended.expect("it has ended")
    }
}

fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).expect("a process of this test's own");
}

impl Drop for Role {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a worker answers to `mix`: every byte depends on the request's and on its place.
pub fn mix(request: &[u8]) -> Vec<u8> {
    let byte = |(i, b): (usize, &u8)| b.wrapping_mul(31).wrapping_add((i as u8) ^ ((i >> 8) as u8));
    request.iter().enumerate().map(byte).collect()
}

/// Bytes that look random, the same for a seed.
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random(seed | 1);
    (0..len).map(|_| random.next() as u8).collect()
}

/// Xorshift.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
    }
}

/// Open descriptors of a process, but for one alarm: a party gets it when it has slept often, and that may be at any time.
pub fn descriptors(pid: i32) -> usize {
    let Ok(open) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return 0 };
    let is_alarm = |entry: &std::fs::DirEntry| {
        std::fs::read_link(entry.path()).is_ok_and(|to| to.to_string_lossy().contains("[timerfd]"))
    };
    let (alarms, others): (Vec<_>, Vec<_>) = open.flatten().partition(is_alarm);
    others.len() + alarms.len().saturating_sub(1)
}

/// Mappings of Trine's segments in a process: (name, bytes).
pub fn segments(pid: i32) -> Vec<(String, u64)> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let segment = |line: &str| {
        let name =
            ["/memfd:trine", "/dev/shm/trine"].iter().find_map(|at| line.find(at).map(|i| &line[i..]))?;
        let (from, to) = line.split(' ').next()?.split_once('-')?;
        let bytes = u64::from_str_radix(to, 16).ok()? - u64::from_str_radix(from, 16).ok()?;
        Some((name.to_owned(), bytes))
    };
    maps.lines().filter_map(segment).collect()
}

/// A number of kB that `/proc/PID/status` tells.
pub fn status_kb(pid: i32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a living process");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("the field");
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse().expect("a number")
}

/// Whether a program can be had and works here.
pub fn works(program: &[&str]) -> bool {
    let output = (Stdio::null(), Stdio::null());
    let status = Command::new(program[0]).args(&program[1..]).stdout(output.0).stderr(output.1).status();
    status.is_ok_and(|status| status.success())
}
