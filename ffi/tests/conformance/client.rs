//! The conformance client: client BUS, with a command a line on its standard input.

use std::cell::Cell;
use std::io::BufRead;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use trine::{
    Bus, CallError, Client, ClientOptions, Error, Key, Parts, Pending, Reply, Route, Status, Ticket, Until,
};

/// How a command failed.
enum Failed {
    Call(CallError),
    Handle(Error),
}

impl From<CallError> for Failed {
    fn from(error: CallError) -> Failed {
        Failed::Call(error)
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Failed {
        Failed::Handle(error)
    }
}

fn said(failed: &Failed) -> String {
    let error = match failed {
        Failed::Call(error) => error,
        Failed::Handle(error) => return format!("{} ran=0 code=0 needed=0", error.status().name()),
    };
    let (name, ran, needed) =
        (error.status().name(), u8::from(error.may_have_run()), error.needed().unwrap_or(0));
    let message = match error.status() {
        Status::WorkerError => format!(" {}", error.message()),
        _ => String::new(),
    };
    format!("{name} ran={ran} code={} needed={needed}{message}", error.code())
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8).collect()
}

fn text_of(reply: &Reply<'_>) -> String {
    format!("OK {}", String::from_utf8_lossy(&reply.bytes().to_vec())).trim_end().to_owned()
}

fn compared(reply: &Reply<'_>, expected: &[u8]) -> String {
    let same = reply.bytes().to_vec() == expected;
    format!("OK {} {}", reply.bytes().len(), if same { "same" } else { "other" })
}

struct Conformance {
    client: Client,
    /// `client` may have no slot free.
    helper: Client,
    /// What was begun, and is to be waited for by a later command.
    begun: Cell<Option<Ticket>>,
    scattered: Cell<Option<Ticket>>,
}

impl Conformance {
    fn obey(&self, command: &str, rest: &str) -> Result<String, Failed> {
        let (first, second) = rest.split_once(' ').unwrap_or((rest, ""));
        let number = first.parse::<usize>().unwrap_or(0);
        match command {
            "names" => Ok(Status::ALL.map(Status::name).join(" ")),
            "echo" => self.echo(number, Some(number)),
            "narrow" => self.echo(number, None),
            "huge" => self.echo(65 << 20, None),
            "mirror" => self.mirror(number),
            "text" => Ok(text_of(&self.client.call(self.route(first)?, second.as_bytes())?)),
            "route" => Ok(self.client.route(first, second).map(|_| "OK".to_owned())?),
            "deadline" => self.deadline(),
            "poll" => self.poll(),
            "cancel" => self.cancel(),
            "full" => self.full(),
            "post" => {
                self.client.request(self.route("note")?).post(rest.as_bytes(), Until::Forever)?;
                Ok(text_of(&self.client.call(self.route("noted")?, b"")?))
            }
            "interrupt" => self.interrupt(),
            "fork" => self.fork(),
            "key" => self.key(first, second),
            "unheld" => {
                let route = self.client.route("exclusive", "echo")?;
                Ok(text_of(&self.client.request(route).key(1).submit(b"", Until::Forever)?.wait()?))
            }
            "scatter" => Ok(gathered(self.scatter(rest)?)),
            "crowd" => self.crowd(),
            "connect" => {
                let connected = Bus::at(rest).client(ClientOptions::default());
                Ok(connected.err().map_or("OK", |error| error.status().name()).to_owned())
            }
            "begin" => {
                let route = self.client.route(first, second)?;
                self.begun.set(Some(self.client.request(route).submit(b"", Until::Forever)?.detach()));
                Ok("OK".to_owned())
            }
            "end" => {
                let pending = self.begun.take().and_then(|ticket| self.client.pending(ticket));
                Ok(text_of(&pending.expect("begun").wait()?))
            }
            "begin_scatter" => {
                self.scattered.set(Some(self.scatter(rest)?.detach()));
                Ok("OK".to_owned())
            }
            "end_scatter" => {
                let parts = self.scattered.take().and_then(|ticket| self.client.parts(ticket));
                Ok(gathered(parts.expect("begun")))
            }
            "scatter_all" => {
                let draft = self.client.request(self.client.route("parts", "sum")?);
                let draft = if number > 0 { draft.parts(number) } else { draft };
                Ok(gathered(draft.scatter_all(b"", Until::Forever)?))
            }
            _ => std::process::exit(2),
        }
    }

    fn route(&self, operation: &str) -> Result<Route, Error> {
        self.client.route("conformance", operation)
    }

    fn echo(&self, len: usize, room: Option<usize>) -> Result<String, Failed> {
        let (bytes, draft) = (pattern(len), self.client.request(self.route("echo")?));
        let draft = room.map_or(draft, |room| draft.reply_capacity(room.max(1)));
        Ok(compared(&draft.submit(&bytes, Until::Forever)?.wait()?, &bytes))
    }

    fn mirror(&self, len: usize) -> Result<String, Failed> {
        let draft = self.client.request(self.route("mirror")?).reply_capacity(len.max(1));
        let mut loan = draft.loan(len, Until::Forever)?;
        loan.copy_from_slice(&pattern(len));
        Ok(compared(&loan.submit(Until::Forever)?.wait()?, &pattern(len)))
    }

    fn ask(&self, operation: &str) -> Result<String, Failed> {
        let route = self.helper.route("conformance", operation)?;
        Ok(String::from_utf8_lossy(&self.helper.call(route, b"")?.bytes().to_vec()).into_owned())
    }

    fn until_held(&self, expected: &str) -> Result<(), Failed> {
        while self.ask("held")? != expected {
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn hold(&self, until: Until) -> Result<Pending<'_>, Failed> {
        Ok(self.client.request(self.route("hold")?).submit(b"", until)?)
    }

    fn deadline(&self) -> Result<String, Failed> {
        let draft = self.client.request(self.route("hold")?).timeout(Duration::from_millis(20));
        let ended = draft.submit(b"", Until::Forever)?.wait();
        let text = ended.map_or_else(|error| said(&error.into()), |reply| text_of(&reply));
        self.ask("release")?;
        Ok(text)
    }

    fn poll(&self) -> Result<String, Failed> {
        let mut pending = self.hold(Until::Forever)?;
        self.until_held("1 0")?;
        let seen = if pending.poll().is_none() { "WOULD_BLOCK" } else { "OK" };
        self.ask("release")?;
        Ok(format!("{seen} {}", text_of(&pending.wait()?)))
    }

    fn cancel(&self) -> Result<String, Failed> {
        let pending = self.hold(Until::Forever)?;
        self.until_held("1 0")?;
        drop(pending);
        self.until_held("1 1")?;
        let held = self.ask("held")?;
        self.ask("release")?;
        Ok(format!("OK {held}"))
    }

    fn full(&self) -> Result<String, Failed> {
        let mut pending = Vec::new();
        let ended = loop {
            match self.hold(Until::Now) {
                Ok(one) => pending.push(one),
                Err(failed) => break format!("{} {}", pending.len(), said(&failed)),
            }
        };
        self.until_held("8 0")?; // what is not begun when it is given up never is
        pending.clear();
        self.until_held("8 8")?;
        self.ask("release")?;
        Ok(ended)
    }

    fn crowd(&self) -> Result<String, Failed> {
        let route = self.helper.route("patient", "echo")?;
        let send = || self.helper.request(route).key(1).submit(b"", Until::Forever);
        let waiting = (0..8).map(|_| send()).collect::<Result<Vec<_>, _>>()?;
        let ended = send()?.wait();
        let text = ended.map_or_else(|error| said(&error.into()), |reply| text_of(&reply));
        Ok(format!("{} {text}", waiting.len()))
    }

    fn scatter(&self, numbers: &str) -> Result<Parts<'_>, Failed> {
        let numbers = numbers.split_whitespace().filter_map(|word| word.parse::<u64>().ok());
        let keys: Vec<Key> = numbers.map(Key::number).collect();
        let route = self.client.route("parts", "sum")?;
        Ok(self.client.request(route).scatter(&keys, b"", Until::Forever)?)
    }

    fn interrupt(&self) -> Result<String, Failed> {
        extern "C" fn nothing(_: nix::libc::c_int) {}
        let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler does nothing.
        unsafe { sigaction(Signal::SIGUSR1, &action) }.map_err(std::io::Error::from).expect("a handler");
        let mut pending = self.hold(Until::Forever)?;
        self.until_held("1 0")?;
        let this = nix::sys::pthread::pthread_self();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let ringing = thread::spawn(move || {
            while stopped.recv_timeout(Duration::from_millis(5)).is_err() {
                let _ = nix::sys::pthread::pthread_kill(this, Signal::SIGUSR1);
            }
        });
        let seen = pending.wait_until(Until::Forever).is_none() && self.client.was_interrupted();
        let _ = stop.send(());
        let _ = ringing.join();
        self.ask("release")?;
        let ended = loop {
            if let Some(ended) = pending.wait_until(Until::Forever) {
                break ended?;
            }
        };
        Ok(format!("{} {}", if seen { "INTERRUPTED" } else { "OK" }, text_of(&ended)))
    }

    fn fork(&self) -> Result<String, Failed> {
        let echo = self.route("echo")?;
        // SAFETY: the child makes one call, which fails, and leaves by _exit.
        match unsafe { nix::unistd::fork() }.expect("a child") {
            nix::unistd::ForkResult::Child => {
                let status = self.client.call(echo, b"").err().map_or(0, |error| error.status() as i32);
                // SAFETY: ends this process at once.
                unsafe { nix::libc::_exit(status) }
            }
            nix::unistd::ForkResult::Parent { child } => match nix::sys::wait::waitpid(child, None) {
                Ok(nix::sys::wait::WaitStatus::Exited(_, code)) => {
                    Ok(Status::from_number(code as u16).map_or("?", Status::name).to_owned())
                }
                other => Ok(format!("{other:?}")),
            },
        }
    }

    fn key(&self, kind: &str, word: &str) -> Result<String, Failed> {
        let draft = self.client.request(self.route("key")?);
        let draft = match kind {
            "number" => draft.key(word.parse::<u64>().unwrap_or(0)),
            "name" => draft.key(self.client.key(word)?),
            _ => draft,
        };
        Ok(text_of(&draft.submit(b"", Until::Forever)?.wait()?))
    }
}

fn gathered(parts: Parts<'_>) -> String {
    let mut all = parts.gather(Vec::new(), |mut all, part| {
        let mask = part.key_mask();
        all.push(match part.into_result() {
            Ok(reply) => format!("{mask}:OK:{}", String::from_utf8_lossy(&reply.bytes().to_vec())),
            Err(error) => format!("{mask}:{}", error.status().name()),
        });
        all
    });
    all.sort();
    let count = all.len().to_string();
    std::iter::once(count).chain(all).collect::<Vec<_>>().join(" ")
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let bus = Bus::at(std::env::args().nth(1).ok_or("client BUS")?);
    let options = ClientOptions::default().slots(8).director_gone(Duration::from_millis(500));
    let client = bus.client(options.interruptible(true))?;
    let helper = bus.client(ClientOptions::default())?;
    let tests = Conformance { client, helper, begun: Cell::new(None), scattered: Cell::new(None) };
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (command, rest) = line.split_once(' ').unwrap_or((&line, ""));
        println!("{}", tests.obey(command, rest).unwrap_or_else(|failed| said(&failed)));
    }
    Ok(())
}
