//! `trine call`: one call, or the same call many times.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytesize::ByteSize;
use clap::Args;
use serde_json::{Value, json};
use trine::{CallError, Client, ClientOptions, Draft, Error, Pending, Reply, Route, Shared, Status, Until};

use crate::doctor::Role;
use crate::exit::Usage;
use crate::options::{BusOptions, RunOptions};
use crate::sha256::hex;
use trine_measure::latencies::{Latencies, grouped, human};

/// Call an operation of a service, and print the reply.
///
/// The reply's bytes go to stdout as they are; on a terminal a newline follows. With --repeat the latencies are
/// printed instead.
#[derive(Args)]
#[command(after_help = "\
Examples:
  trine call echo echo --data hello
  trine call sha256 hash --file /etc/passwd
  head -c 1000 /dev/urandom | trine call echo echo --file - > copy
  trine call sleep sleep --data 1s --deadline 50ms      ends DEADLINE_EXCEEDED, with exit code 5
  trine call echo echo --data hello --repeat 100000     prints latencies

Exit codes: see trine --help.")]
pub struct CallOptions {
    /// The service's name (trine ls shows what there is).
    service: String,
    /// The operation's name.
    operation: String,
    #[command(flatten)]
    payload: PayloadOptions,
    /// The call ends then, answered or not: 50ms, 2s, 1m [default: 30s].
    #[arg(long, value_name = "TIME", value_parser = duration, allow_hyphen_values = true)]
    deadline: Option<Duration>,
    /// Call so many times, one after the other, and print latencies instead of replies.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    repeat: u64,
    /// Room for a reply of so many bytes, for instance 4096 or 16MiB [default: 1MiB, or as much as is sent].
    #[arg(long, value_name = "BYTES")]
    reply_capacity: Option<ByteSize>,
    /// Room for requests, and the same for replies.
    #[arg(long, value_name = "BYTES", default_value = "64MiB")]
    arena: ByteSize,
    /// Print status, worker, latency and reply as JSON.
    #[arg(long)]
    json: bool,
    /// Print the reply in hexadecimal digits.
    #[arg(long)]
    hex_out: bool,
    #[command(flatten)]
    run: RunOptions,
}

#[derive(Args)]
#[group(multiple = false)]
struct PayloadOptions {
    /// Send this text.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    data: Option<String>,
    /// Send what this file holds; - for stdin.
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// Send these bytes, two hexadecimal digits each.
    #[arg(long, value_name = "HEX")]
    hex: Option<String>,
}

/// Runs it. With `--json` a failure is printed as JSON too.
pub fn run(bus: &BusOptions, options: &CallOptions) -> anyhow::Result<()> {
    options.run.apply(Role::Client)?;
    let called = call(bus, options);
    if let (true, Err(error)) = (options.json, &called)
        && let Some(told) = failure_as_json(error)
    {
        print_json(&told)?;
    }
    called
}

fn call(bus: &BusOptions, options: &CallOptions) -> anyhow::Result<()> {
    let mut payload = Payload::open(&options.payload)?;
    let arena = options.arena.as_u64();
    let client =
        bus.bus()?.client(ClientOptions::default().waiting(options.run.waiting()).arenas(arena, arena))?;
    let route = client.route(&options.service, &options.operation)?;
    let call = Call { client: &client, route, options, payload_len: payload.len() };
    match options.repeat {
        1 => call.once(&mut payload),
        _ => call.repeat(&mut payload),
    }
}

struct Call<'c> {
    client: &'c Client,
    route: Route,
    options: &'c CallOptions,
    payload_len: u64,
}

impl<'c> Call<'c> {
    fn once(&self, payload: &mut Payload) -> anyhow::Result<()> {
        let (reply, latency_ns) = self.attempt(payload)?;
        if self.options.json {
            return print_json(&reply_as_json(&reply, latency_ns));
        }
        print_reply(reply.bytes(), self.options.hex_out)
    }

    fn repeat(&self, payload: &mut Payload) -> anyhow::Result<()> {
        let mut latencies = Latencies::default();
        let start = Instant::now();
        for done in 0..self.options.repeat {
            let (_, latency_ns) = self
                .attempt(payload)
                .with_context(|| format!("after {} calls that went well", grouped(done)))?;
            latencies.record(latency_ns);
        }
        let rate = (self.options.repeat as f64 / start.elapsed().as_secs_f64()) as u64;
        let summary = latencies.summary();
        if self.options.json {
            let calls = self.options.repeat;
            let told =
                json!({ "status": "OK", "calls": calls, "calls_per_second": rate, "latency_ns": summary });
            return print_json(&told);
        }
        let [p50, p90, p99, p99_9, max] =
            [summary.p50, summary.p90, summary.p99, summary.p99_9, summary.max].map(human);
        let calls = grouped(self.options.repeat);
        writeln!(
            io::stdout(),
            "{calls} calls: p50 {p50}, p90 {p90}, p99 {p99}, p99.9 {p99_9}, max {max}; {} calls/s",
            grouped(rate)
        )?;
        Ok(())
    }

    /// One call, and how long it took from publishing to the reply.
    fn attempt(&self, payload: &mut Payload) -> anyhow::Result<(Reply<'c>, u64)> {
        let draft = self.draft();
        let (pending, start) = payload.send(draft, self.until())?;
        let reply = pending.wait().map_err(|error| self.advise(error))?;
        Ok((reply, start.elapsed().as_nanos() as u64))
    }

    fn draft(&self) -> Draft<'c> {
        let draft = self.client.request(self.route).reply_capacity(self.reply_capacity());
        match self.options.deadline {
            Some(after) => draft.timeout(after),
            None => draft,
        }
    }

    fn until(&self) -> Until {
        self.options.deadline.map_or(Until::Forever, Until::after)
    }

    fn reply_capacity(&self) -> usize {
        let arena = self.options.arena.as_u64();
        // An arena can't always be had to the last byte: it is cut by size classes.
        let default = (1 << 20).max(self.payload_len).min(arena - arena / 8);
        self.options.reply_capacity.map_or(default, |bytes| bytes.as_u64()) as usize
    }

    /// Says which option helps.
    fn advise(&self, error: CallError) -> anyhow::Error {
        let advice = match (error.status(), error.needed()) {
            (Status::ReplyTooLarge, Some(needed)) => format!("pass --reply-capacity {needed}"),
            _ => return error.into(),
        };
        anyhow::Error::from(error).context(advice)
    }
}

/// What is sent.
enum Payload {
    Bytes(Vec<u8>),
    /// A file of so many bytes, read straight into the memory that the worker reads.
    File(File, u64, PathBuf),
}

impl Payload {
    fn open(options: &PayloadOptions) -> anyhow::Result<Payload> {
        if let Some(path) = &options.file {
            return Payload::of_file(path).with_context(|| path.display().to_string());
        }
        let bytes = match (&options.data, &options.hex) {
            (Some(text), _) => text.clone().into_bytes(),
            (None, Some(hex)) => bytes_of_hex(hex)?,
            (None, None) => Vec::new(),
        };
        Ok(Payload::Bytes(bytes))
    }

    fn of_file(path: &Path) -> io::Result<Payload> {
        let mut bytes = Vec::new();
        if path == Path::new("-") {
            io::stdin().lock().read_to_end(&mut bytes)?;
            return Ok(Payload::Bytes(bytes));
        }
        let mut file = File::open(path)?;
        let about = file.metadata()?;
        if about.is_file() && about.len() > 0 {
            return Ok(Payload::File(file, about.len(), path.into()));
        }
        // A pipe, or a file whose length its file system doesn't know.
        file.read_to_end(&mut bytes)?;
        Ok(Payload::Bytes(bytes))
    }

    fn len(&self) -> u64 {
        match self {
            Payload::Bytes(bytes) => bytes.len() as u64,
            Payload::File(_, len, _) => *len,
        }
    }

    /// Sends it, and says when.
    fn send<'c>(&mut self, draft: Draft<'c>, until: Until) -> anyhow::Result<(Pending<'c>, Instant)> {
        let sent = self.len();
        let advise = |error| advise_arena(error, sent);
        match self {
            Payload::Bytes(bytes) => {
                let start = Instant::now();
                Ok((draft.submit(bytes, until).map_err(advise)?, start))
            }
            Payload::File(file, len, path) => {
                let mut loan = draft.loan(*len as usize, until).map_err(advise)?;
                let mut reader = &*file;
                let read = reader.rewind().and_then(|()| read_all(&mut reader, &mut loan));
                loan.shrink(read.with_context(|| path.display().to_string())?);
                let start = Instant::now();
                Ok((loan.submit(until).map_err(advise)?, start))
            }
        }
    }
}

/// Reads until the end or until `into` is full. Returns how much there was.
pub fn read_all(file: &mut impl Read, into: &mut [u8]) -> io::Result<usize> {
    let mut at = 0;
    while at < into.len() {
        match file.read(&mut into[at..]) {
            Ok(0) => break,
            Ok(count) => at += count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(at)
}

/// Says which option makes room for what is sent, or for the reply.
fn advise_arena(error: CallError, len: u64) -> anyhow::Error {
    let needed = match error.status() {
        Status::RequestTooLarge => len,
        Status::ReplyTooLarge => error.needed().unwrap_or(len),
        _ => return error.into(),
    };
    // Twice: the allocator rounds, and keeps whole units.
    let advice = format!("pass --arena {}", needed.saturating_mul(2));
    anyhow::Error::from(error).context(advice)
}

fn bytes_of_hex(hex: &str) -> anyhow::Result<Vec<u8>> {
    let digits: Vec<u8> = hex.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    let byte = |pair: &[u8]| {
        let [high, low] = pair else { return None };
        let value = |digit: u8| char::from(digit).to_digit(16);
        Some((value(*high)? << 4 | value(*low)?) as u8)
    };
    let bytes: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
    bytes.ok_or_else(|| Usage("--hex: two hexadecimal digits a byte are wanted, as in 00ff10".into()).into())
}

fn duration(text: &str) -> Result<Duration, String> {
    if text.starts_with('-') {
        return Err("it lies in the past".into());
    }
    humantime::parse_duration(text).map_err(|e| format!("{e}; write for instance 50ms, 2s or 1m"))
}

fn print_reply(bytes: &Shared<'_>, as_hex: bool) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    if as_hex {
        writeln!(out, "{}", hex(&bytes.to_vec()))?;
    } else {
        io::copy(&mut bytes.reader(), &mut out)?;
        if out.is_terminal() {
            out.write_all(b"\n")?;
        }
    }
    Ok(out.flush()?)
}

fn print_json(value: &Value) -> anyhow::Result<()> {
    Ok(writeln!(io::stdout(), "{value}")?)
}

fn reply_as_json(reply: &Reply<'_>, latency_ns: u64) -> Value {
    let bytes = reply.bytes().to_vec();
    let (length, worker) = (bytes.len(), reply.worker());
    let mut told = json!({ "status": "OK", "worker": worker, "latency_ns": latency_ns, "length": length });
    match String::from_utf8(bytes) {
        Ok(text) => told["text"] = text.into(),
        Err(error) => told["hex"] = hex(error.as_bytes()).into(),
    }
    told
}

/// A failure that has a status.
fn failure_as_json(error: &anyhow::Error) -> Option<Value> {
    let message = crate::exit::text(error);
    if let Some(error) = error.downcast_ref::<CallError>() {
        return Some(json!({
            "status": error.status().name(), "may_have_run": error.may_have_run(), "code": error.code(),
            "needed": error.needed(), "message": message,
        }));
    }
    let error = error.downcast_ref::<Error>()?;
    Some(json!({ "status": error.status().name(), "may_have_run": false, "message": message }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_digits_are_pairs() {
        assert_eq!(bytes_of_hex("00ff 10").unwrap(), [0, 255, 16]);
        assert_eq!(bytes_of_hex("").unwrap(), [0; 0]);
        for bad in ["0", "0g", "ä0", "+1"] {
            assert!(bytes_of_hex(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_deadline_is_a_duration_ahead() {
        assert_eq!(duration("50ms"), Ok(Duration::from_millis(50)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert!(duration("-5ms").unwrap_err().contains("past"));
        assert!(duration("soon").is_err());
    }
}
