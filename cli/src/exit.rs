//! How the command ends: one line that says what went wrong and what to do, and a code that a script can use.

use std::io::{self, Write};
use std::process::ExitCode;

use nix::libc;
use trine::{CallError, Error, Status};

/// Something else went wrong.
pub const OTHER: u8 = 1;
/// It was not asked rightly.
pub const USAGE: u8 = 2;
const NO_DIRECTOR: u8 = 3;
const NO_SUCH: u8 = 4;
const DEADLINE: u8 = 5;
const WORKER_ERROR: u8 = 6;
const MAY_HAVE_RUN: u8 = 7;
const REFUSED: u8 = 8;
const BUSY: u8 = 9;
const TOO_LARGE: u8 = 10;
/// By SIGINT, as shells count it.
pub const INTERRUPTED: u8 = 130;
const BROKEN_PIPE: u8 = 141;

/// Something that was not asked rightly, in a sentence.
#[derive(Debug)]
pub struct Usage(pub String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// Says what went wrong on stderr. Whoever stopped reading our output wants to hear nothing.
pub fn report(error: &anyhow::Error) -> ExitCode {
    let code = code(error);
    if code != BROKEN_PIPE {
        say(&format!("trine: {}", text(error)));
    }
    ExitCode::from(code)
}

/// Writes a line to stderr, if somebody reads there.
pub fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// The whole story in one line. The library's errors tell their own causes.
pub fn text(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause.to_string());
        if cause.is::<Error>() {
            break;
        }
        if cause.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) == Some(libc::EMFILE) {
            text.push_str("; raise the limit with `ulimit -n`");
        }
    }
    text
}

fn code(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        if let Some(error) = cause.downcast_ref::<CallError>() {
            return code_of_status(error.status());
        }
        if let Some(error) = cause.downcast_ref::<Error>() {
            return code_of_error(error);
        }
        if cause.is::<Usage>() {
            return USAGE;
        }
        if cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) {
            return BROKEN_PIPE;
        }
    }
    OTHER
}

fn code_of_error(error: &Error) -> u8 {
    match error {
        Error::Name { .. } | Error::Option { .. } | Error::Policy(_) => USAGE,
        Error::NoDirector { .. } | Error::NotASocket { .. } | Error::DirectorGone(_) => NO_DIRECTOR,
        Error::ProtocolMismatch { .. } => NO_DIRECTOR,
        Error::BusTaken { .. } => REFUSED,
        Error::Refused { status, .. } => code_of_status(*status),
        Error::Interrupted => INTERRUPTED,
        _ => OTHER,
    }
}

pub fn code_of_status(status: Status) -> u8 {
    match status {
        Status::Ok => 0,
        Status::DirectorGone | Status::ProtocolMismatch => NO_DIRECTOR,
        Status::NoSuchService | Status::NoSuchOperation | Status::NoWorker => NO_SUCH,
        Status::DeadlineExceeded | Status::Cancelled => DEADLINE,
        Status::WorkerError => WORKER_ERROR,
        Status::WorkerDied | Status::MayHaveRun => MAY_HAVE_RUN,
        Status::PermissionDenied => REFUSED,
        Status::Busy | Status::WouldBlock | Status::NotBegun => BUSY,
        Status::RequestTooLarge | Status::ReplyTooLarge => TOO_LARGE,
        Status::Interrupted => INTERRUPTED,
        _ => OTHER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_but_ok_has_a_code_that_is_not_success() {
        for status in Status::ALL {
            assert_eq!(code_of_status(status) == 0, status == Status::Ok, "{status}");
        }
    }

    #[test]
    fn a_cause_decides_the_code_and_is_told_once() {
        let source = io::Error::from_raw_os_error(24);
        let error = Error::System { what: "making an epoll".into(), source };
        let error = anyhow::Error::from(error).context("starting");
        assert_eq!(code(&error), OTHER);
        assert_eq!(text(&error).matches("os error 24").count(), 1, "{}", text(&error));
        let error = anyhow::Error::from(Usage("no".into())).context("so");
        assert_eq!((code(&error), text(&error).as_str()), (USAGE, "so: no"));
        let error = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).context("printing");
        assert_eq!(code(&error), BROKEN_PIPE);
    }
}
