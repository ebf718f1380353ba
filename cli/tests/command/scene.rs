//! A bus of a test's own, and its processes. Whatever a test does, dropping the scene ends them.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// The command, with nothing of this environment that would change what it does.
pub fn trine() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trine"));
    command.env_remove("TRINE_BUS").env_remove("TRINE_LOG").stdin(Stdio::null());
    command
}

/// A process that was started, and that has said it is ready.
pub struct Running(Child);

impl Running {
    pub fn start(command: &mut Command) -> Running {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the command starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("its output is piped");
        let running = Running(child);
        BufReader::new(stdout).read_line(&mut line).expect("its output can be read");
        assert!(line.contains("serving bus") || line.contains("provides"), "not ready: {line:?}");
        running
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Reads its log, which the command piped, up to a line with this text.
    pub fn wait_for_log(&mut self, text: &str) {
        let stderr = self.0.stderr.take().expect("its log is piped");
        let mut lines = BufReader::new(stderr).lines().map(|line| line.expect("its log can be read"));
        assert!(lines.any(|line| line.contains(text)), "its log ended without {text:?}");
    }

    /// Waits for its end, which something else brings about.
    pub fn wait(&mut self) -> ExitStatus {
        self.0.wait().expect("it ends")
    }

    /// Sends a signal, and waits for the end.
    pub fn end(mut self, signal: Signal) -> ExitStatus {
        kill(Pid::from_raw(self.0.id() as i32), signal).expect("it lives");
        self.0.wait().expect("it ends")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A folder, and the bus in it.
pub struct Scene {
    folder: TempDir,
}

impl Scene {
    pub fn new() -> Scene {
        Scene { folder: tempfile::tempdir().expect("a folder can be made") }
    }

    /// The folder in which named buses and files of the test's lie.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn bus_folder(&self) -> PathBuf {
        self.folder().join("test")
    }

    /// The command on this bus.
    pub fn trine(&self, arguments: &[&str]) -> Command {
        let mut command = trine();
        command.env("TRINE_RUNTIME_DIR", self.folder()).env("TRINE_BUS", "test").args(arguments);
        command.current_dir(self.folder());
        command
    }

    pub fn director(&self) -> Running {
        Running::start(&mut self.trine(&["director"]))
    }

    pub fn worker(&self, service: &str) -> Running {
        Running::start(&mut self.trine(&["worker", service]))
    }

    /// Runs a command to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.trine(arguments).output().expect("the command runs")
    }

    /// Runs one that goes well, and returns what it wrote.
    pub fn run_well(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).expect("text")
    }

    /// Runs one that fails with this exit code, and returns what it said: in words, and without a trace of how it is
    /// made.
    pub fn run_badly(&self, arguments: &[&str], code: i32) -> String {
        let output = self.run(arguments);
        let said = stderr(&output);
        let begin: Vec<_> = arguments.iter().map(|a| a.chars().take(40).collect::<String>()).collect();
        assert_eq!(output.status.code(), Some(code), "{begin:?}: {said}");
        assert!(!said.is_empty() && !said.contains("panicked") && !said.contains("Error {"), "{said}");
        said
    }

    /// That calls still go well on this bus.
    pub fn check_echo(&self) {
        assert_eq!(self.run_well(&["call", "echo", "echo", "--data", "still here"]), "still here");
    }

    /// Writes a file of so many bytes in the folder.
    pub fn file(&self, name: &str, len: usize) -> PathBuf {
        let path = self.folder().join(name);
        let mut state = len as u64 + 1;
        let bytes: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .take(len)
        .collect();
        std::fs::write(&path, bytes).expect("a file can be written");
        path
    }

    /// The names of this bus's segments in shared memory. To be asked for while there is a director.
    pub fn segment_prefix(&self) -> String {
        let secret = std::fs::read(self.bus_folder().join("secret")).expect("the bus has a secret");
        let id = u64::from_ne_bytes(secret[..8].try_into().expect("eight bytes"));
        format!("trine-{id:016x}-")
    }
}

/// Segments in shared memory whose name begins like this.
pub fn segments(prefix: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/dev/shm").expect("there is shared memory");
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| name.starts_with(prefix)).collect()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What `sha256sum -c` says to these lines.
pub fn sha256sum_check(folder: &Path, lines: &[u8]) -> Output {
    let mut check = Command::new("sha256sum")
        .args(["--check", "--strict"])
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("sha256sum starts");
    check.stdin.take().expect("its input is piped").write_all(lines).expect("it reads");
    check.wait_with_output().expect("it ends")
}
