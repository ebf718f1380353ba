//! Every client with every worker, {Rust, C, C++, Python} × {Rust, C, C++, Python}: what `conformance/cases.txt` says, with
//! real processes.

mod build;

use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use build::{C, CPP, compile, is_there, prefix, root, with_library};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, accept, bind, listen, recv, send, socket,
};
use trine::access::{KeyRule, Pattern, Rule, Rules, Verb};
use trine::{Bus, ClientOptions, Director, DirectorOptions, Status, limits};

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

struct Worker {
    _process: Process,
    said: BufReader<ChildStdout>,
}

impl Worker {
    fn start(mut command: Command, bus: &Path, more: &[&str]) -> Worker {
        let mut child = command.arg(bus).args(more).stdout(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let mut worker = Worker { _process: Process(child), said };
        worker.expect("serving");
        worker
    }

    fn expect(&mut self, what: &str) {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        assert_eq!(line.trim_end(), what);
    }
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

/// What nobody may call.
fn rules() -> Result<Rules, String> {
    let deny = |services: &str, keys: Vec<KeyRule>| Rule {
        origin: "the test".into(),
        verbs: vec![Verb::Call],
        services: vec![Pattern::Exact(services.into())],
        keys,
        ..Rule::default()
    };
    let key = KeyRule::Numbers { first: 666, last: 666 };
    let rules = vec![deny("forbidden", Vec::new()), deny("conformance", vec![key])];
    Ok(Rules { rules, ..Rules::default() })
}

/// A director that says the same to everybody who connects, and nothing more. PROTOCOL.md has the bytes. Returns its bus.
fn impostor(answer: Vec<u8>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = Bus::at(folder.path()).socket().to_owned();
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(listener.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
    listen(&listener, Backlog::MAXCONN).unwrap();
    std::thread::spawn(move || {
        while let Ok(peer) = accept(listener.as_raw_fd()) {
            // SAFETY: it was just made, and is nobody else's.
            let peer = unsafe { OwnedFd::from_raw_fd(peer) };
            let _ = recv(peer.as_raw_fd(), &mut [0; 4096], MsgFlags::empty());
            let _ = send(peer.as_raw_fd(), &answer, MsgFlags::MSG_NOSIGNAL);
        }
    });
    folder
}

/// Refused, because the director is of the next version; with an empty text.
fn another_version() -> Vec<u8> {
    let words = [130, 26, u32::from_be_bytes(*b"E\0ct"), u32::from_be_bytes(*b"TRIN")];
    let status = [Status::ProtocolMismatch as u32, limits::PROTOCOL + 1];
    let bytes = words.into_iter().chain(status).flat_map(u32::to_ne_bytes);
    bytes.chain([0, 0]).collect()
}

fn run_cases(
    pair: &str,
    client: &dyn Fn() -> Command,
    workers: (Command, Command),
    impostors: &[(&str, &str)],
) {
    let folder = tempfile::tempdir().unwrap();
    let bus = Bus::at(folder.path());
    let options = || DirectorOptions::default().policy(rules).waiting_per_route(8);
    let mut director = Some(Director::new(&bus, options()).unwrap().spawn().unwrap());
    let path = folder.path().join("");
    let mut running = vec![
        Worker::start(workers.0, &path, &["0", "9"]),
        Worker::start(workers.1, &path, &["10", "19", "parts"]),
    ];
    let mut running_client = Client::start(client(), &path);
    let cases = std::fs::read_to_string(here().join("cases.txt")).unwrap();
    for line in cases.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line {
            "!replace" => {
                let services = || bus.inspect().unwrap().services.len();
                let before = services();
                let next = Director::replace(&bus, options().window(Duration::ZERO)).unwrap();
                director.replace(next.spawn().unwrap()).unwrap().stop().unwrap();
                while services() < before {
                    std::thread::yield_now();
                }
                continue;
            }
            "!next_client" => {
                running_client = Client::start(client(), &path); // which kills the one before
                while running_client.ask("text held") == "OK 1 0" {
                    std::thread::yield_now();
                }
                continue;
            }
            "!blocks" => {
                running[1].expect("blocked");
                continue;
            }
            "!kill" => {
                running.truncate(1);
                continue;
            }
            "!stop" => {
                running.clear();
                director.take().unwrap().stop().unwrap();
                continue;
            }
            _ => {}
        }
        let (command, expected) = line.split_once(" => ").unwrap();
        let command = impostors.iter().fold(command.to_owned(), |c, (name, bus)| c.replace(name, bus));
        let command = command.as_str();
        let said = running_client.ask(command);
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
    let (other, senseless) = (impostor(another_version()), impostor(b"\x7f\0\0\0\x08\0\0\0".to_vec()));
    let path = |folder: &tempfile::TempDir| format!("{}/", folder.path().display());
    let (other, senseless) = (&*path(&other), &*path(&senseless));
    let impostors = [("$OTHER_VERSION", other), ("$NO_SENSE", senseless)];
    let mut pairs = 0;
    for client in LANGUAGES {
        for worker in LANGUAGES {
            let programs = (program(client, "client"), program(worker, "worker"), program(worker, "worker"));
            let (Some(with), Some(first), Some(second)) = programs else {
                eprintln!("{client} × {worker}: there is no python3, not run");
                continue;
            };
            drop(with);
            let client_program = || program(client, "client").expect("there was one");
            run_cases(&format!("{client} × {worker}"), &client_program, (first, second), &impostors);
            pairs += 1;
        }
    }
    assert!(pairs >= 9);
}

/// What a worker can say of its operations: that one may run again, and how long it may stand still.
fn keeps_its_rules(language: &str) {
    let Some(first) = program(language, "worker") else { return eprintln!("there is no python3: not run") };
    let second = program(language, "worker").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let bus = Bus::at(folder.path());
    let _director = Director::new(&bus, DirectorOptions::default()).unwrap().spawn().unwrap();
    let path = folder.path().join("");
    let _workers = [first, second].map(|worker| Worker::start(worker, &path, &["0", "9", "rules"]));
    let client = bus.client(ClientOptions::default()).unwrap();
    let call = |operation, data: &str| {
        let reply = client.call(client.route("rules", operation).unwrap(), data.as_bytes());
        reply.map(|reply| reply.bytes().to_vec()).map_err(|error| (error.status(), error.may_have_run()))
    };
    let name = folder.path().join("begun");
    assert_eq!(call("retry", name.to_str().unwrap()), Ok(b"again".to_vec()), "{language}");
    assert!(name.exists());
    assert_eq!(call("stall", ""), Err((Status::MayHaveRun, true)), "{language}");
}

#[test]
fn every_worker_says_what_may_run_again_and_how_long_it_may_stand_still() {
    std::thread::scope(|scope| {
        for language in LANGUAGES {
            scope.spawn(move || keeps_its_rules(language));
        }
    });
}
