//! Names of services and operations.

use std::fmt;
use std::sync::Arc;

use crate::{Error, limits};

/// Characters of a bad name that its error shows.
const SHOWN: usize = 32;

/// The name of a service or of an operation: 1 to [`limits::NAME_MAX`] bytes of UTF-8 that a person can see: no
/// white space, no control characters, and none of the invisible ones that join, reorder or only mark text. Case and
/// composition count: names are compared byte by byte. A clone costs no allocation.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// A name; `what` says what it is to name.
    ///
    /// # Errors
    /// [`Error::Name`], with the rule that it breaks.
    pub fn new(what: &'static str, name: &str) -> Result<Name, Error> {
        check(name).map_err(|why| bad(what, name, why))?;
        Ok(Name(name.into()))
    }

    /// A name that a peer sent.
    pub(super) fn from_wire(name: &str) -> Result<Name, &'static str> {
        check(name)?;
        Ok(Name(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The error about a name, which is cut where it is long: it may be anything, a whole file for instance.
pub(crate) fn bad(what: &'static str, name: &str, why: &'static str) -> Error {
    let mut shown: String = name.chars().take(SHOWN).collect();
    if shown.len() < name.len() {
        shown.push('…');
    }
    Error::Name { what, name: shown, why }
}

fn check(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("it is empty");
    }
    if name.len() > limits::NAME_MAX {
        return Err("it is longer than 64 bytes");
    }
    if name.chars().any(|c| c.is_whitespace() || c.is_control() || is_invisible(c)) {
        return Err("it has white space, or characters that can't be seen");
    }
    Ok(())
}

/// Format characters by which two names could look the same. A list of our own, since both ends must agree on it
/// whatever version of Unicode they were built with.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

const _: () = assert!(limits::NAME_MAX == 64, "the error's text says so");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_a_person_can_see() {
        for good in ["a", "echo", "files.v2/read", "größe", "日本", "\"", &"x".repeat(64)] {
            assert_eq!(Name::new("service", good).unwrap().as_str(), good);
        }
        let long = "x".repeat(65);
        for bad in ["", " ", "a b", "a\n", "\0", "a\u{a0}b", "a\u{202e}b", "a\u{200b}", "\u{85}", &long] {
            assert!(matches!(Name::new("service", bad), Err(Error::Name { what: "service", .. })), "{bad:?}");
        }
    }

    #[test]
    fn an_error_shows_only_the_beginning_of_a_long_name() {
        let text = Name::new("operation", &"ä".repeat(1 << 20)).unwrap_err().to_string();
        assert!(text.starts_with("operation \"ää") && text.len() < 200, "{text}");
    }
}
