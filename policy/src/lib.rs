//! The policy file of a director: who may do what on its bus.
//!
//! ```text
//! policy.toml ─► read ─► Rules, each with the line that it stands in ─► the director
//!                  └───► or a PolicyError: file, line, column, reason; nothing is taken of a file that has one
//! ```
//! The library knows rules as values, and neither TOML nor the names of users; so a program that only links it builds
//! no parser. `docs/policy.md` explains the file.
#![deny(unsafe_code)]

mod raw;
mod rules;

use std::fmt;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use trine::access::Rules;

/// Longest file, in bytes.
pub const BYTES_MAX: usize = 1 << 20;
/// Most rules: a route is checked against all of them when it is opened.
pub const RULES_MAX: usize = 4096;

/// Why a policy file is refused: all of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", Shown(self))]
pub struct PolicyError {
    /// The file, as it was named.
    pub file: String,
    /// From 1 on; 0 where the error is about no place in it.
    pub line: usize,
    /// In characters, from 1 on.
    pub column: usize,
    /// What is wrong there, and what would be right.
    pub reason: String,
}

struct Shown<'a>(&'a PolicyError);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PolicyError { file, line, column, reason } = self.0;
        match line {
            0 => write!(f, "{file}: {reason}"),
            _ => write!(f, "{file}:{line}:{column}: {reason}"),
        }
    }
}

/// Who the users and groups of a machine are.
pub trait People {
    /// A user's number.
    fn uid(&self, user: &str) -> Option<u32>;
    /// A group's number.
    fn gid(&self, group: &str) -> Option<u32>;
}

/// Those that the system knows.
pub struct System;

impl People for System {
    fn uid(&self, user: &str) -> Option<u32> {
        nix::unistd::User::from_name(user).ok().flatten().map(|user| user.uid.as_raw())
    }

    fn gid(&self, group: &str) -> Option<u32> {
        nix::unistd::Group::from_name(group).ok().flatten().map(|group| group.gid.as_raw())
    }
}

/// Reads a policy file.
///
/// # Errors
/// Whatever is wrong with it first: it can't be read, others than its owner may write it, or it does not say what a
/// policy says.
pub fn read(path: &Path) -> Result<Rules, PolicyError> {
    let shown = path.display().to_string();
    let error = |reason| PolicyError { file: shown.clone(), line: 0, column: 0, reason };
    let io = |e: std::io::Error| error(e.to_string());
    let file = std::fs::File::open(path).map_err(io)?;
    let meta = file.metadata().map_err(io)?;
    let me = nix::unistd::geteuid().as_raw();
    if meta.uid() != me && meta.uid() != 0 {
        return Err(error(format!(
            "user {} owns it, and could change it: it has to be yours or root's",
            meta.uid()
        )));
    }
    if meta.mode() & 0o022 != 0 {
        return Err(error("others than its owner may write it: `chmod go-w` it".into()));
    }
    let mut text = String::new();
    file.take(BYTES_MAX as u64 + 1).read_to_string(&mut text).map_err(io)?;
    // Rules say where they stand by the file's name, not its whole path.
    let name = path.file_name().map_or(shown.clone(), |name| name.to_string_lossy().into_owned());
    parse(&text, &name).map_err(|e| PolicyError { file: shown, ..e })
}

/// Reads a policy from text that is called `file`.
///
/// # Errors
/// As [`read`].
pub fn parse(text: &str, file: &str) -> Result<Rules, PolicyError> {
    parse_with(text, file, &System)
}

/// The same, with users and groups of one's own.
///
/// # Errors
/// As [`read`].
pub fn parse_with(text: &str, file: &str, people: &dyn People) -> Result<Rules, PolicyError> {
    let wrong = |at: usize, reason: String| {
        let before = &text[..floor(text, at)];
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        let (line, column) = (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1);
        PolicyError { file: file.into(), line, column, reason }
    };
    if text.len() > BYTES_MAX {
        let reason = format!("it is longer than {BYTES_MAX} bytes");
        return Err(PolicyError { file: file.into(), line: 0, column: 0, reason });
    }
    let raw: raw::File = toml::from_str(text)
        .map_err(|e| wrong(e.span().map_or(0, |span| span.start), e.message().trim().to_owned()))?;
    let origin = |at: usize| format!("{file}:{}", text[..floor(text, at)].matches('\n').count() + 1);
    rules::rules(raw, &origin, people).map_err(|(at, reason)| wrong(at, reason))
}

/// The character boundary at or before a byte.
fn floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0)
}
