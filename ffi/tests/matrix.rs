//! Every client with every worker, {Rust, C, C++, Python} × {Rust, C, C++, Python}: what `conformance/cases.txt` says, with
//! real processes.

mod build;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use build::{C, CPP, compile, is_there, prefix, root, with_library};
use trine::{Bus, Director, DirectorOptions, Status};

const LANGUAGES: [&str; 4] = ["Rust", "C", "C++", "Python"];

fn here() -> PathBuf {
    root().join("ffi/tests/conformance")
}

/// The conformance program of a language; nothing where the language is not there.
fn program(language: &str, role: &str) -> Option<Command> {
    match language {
        "Rust" => {
            let test = std::env::current_exe().unwrap();
            let examples = test.parent().and_then(Path::parent).unwrap().join("examples");
            Some(Command::new(examples.join(format!("conformance_{role}"))))
        }
        "C" => Some(with_library(&compile("cc", &C, &here().join(format!("{role}.c"))))),
        "C++" => Some(with_library(&compile("c++", &CPP, &here().join(format!("{role}.cpp"))))),
        _ if is_there("python3") => {
            let mut command = Command::new("python3");
            command.arg(here().join(format!("{role}.py"))).env("PYTHONPATH", root().join("python"));
            command
                .env("TRINE_LIBRARY", prefix().join("lib/libtrine.so.0"))
                .env("PYTHONDONTWRITEBYTECODE", "1");
            Some(command)
        }
        _ => None,
    }
}

/// A process that ends with this.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start_worker(mut command: Command, bus: &Path, more: &[&str]) -> Process {
    let mut child = command.arg(bus).args(more).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "serving\n", "{command:?}");
    Process(child)
}

struct Client {
    _process: Process,
    commands: ChildStdin,
    said: BufReader<ChildStdout>,
}

impl Client {
    fn start(mut command: Command, bus: &Path) -> Client {
        let mut child = command.arg(bus).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (commands, said) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Client { _process: Process(child), commands, said }
    }

    fn ask(&mut self, command: &str) -> String {
        writeln!(self.commands, "{command}").unwrap();
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        line.trim_end_matches('\n').to_owned()
    }
}

fn run_cases(pair: &str, client: Command, workers: (Command, Command)) {
    let folder = tempfile::tempdir().unwrap();
    let bus = Bus::at(folder.path());
    let mut director = Some(Director::new(&bus, DirectorOptions::default()).unwrap().spawn().unwrap());
    let path = folder.path().join("");
    let mut running = vec![
        start_worker(workers.0, &path, &["0", "9"]),
        start_worker(workers.1, &path, &["10", "19", "parts"]),
    ];
    let mut client = Client::start(client, &path);
    let cases = std::fs::read_to_string(here().join("cases.txt")).unwrap();
    for line in cases.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if line == "!stop" {
            running.clear();
            director.take().unwrap().stop().unwrap();
            continue;
        }
        let (command, expected) = line.split_once(" => ").unwrap();
        let said = client.ask(command);
        match command {
            "names" => assert_eq!(said, Status::ALL.map(Status::name).join(" "), "{pair}"),
            _ if expected.contains("ran=?") => {
                let either = [expected.replace('?', "0"), expected.replace('?', "1")];
                assert!(either.contains(&said), "{pair}: {command}: {said}");
            }
            _ => assert_eq!(said, expected, "{pair}: {command}"),
        }
    }
}

#[test]
fn every_client_with_every_worker() {
    let mut pairs = 0;
    for client in LANGUAGES {
        for worker in LANGUAGES {
            let programs = (program(client, "client"), program(worker, "worker"), program(worker, "worker"));
            let (Some(with), Some(first), Some(second)) = programs else {
                eprintln!("{client} × {worker}: there is no python3, not run");
                continue;
            };
            run_cases(&format!("{client} × {worker}"), with, (first, second));
            pairs += 1;
        }
    }
    assert!(pairs >= 9);
}
