//! Lines as `sha256sum` writes and reads them.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::sha256::{Digest, hex};

/// `DIGEST  NAME`. In a name with a backslash, a newline or a carriage return these are escaped, and then the line
/// begins with a backslash.
pub fn line(digest: &Digest, path: &Path) -> Vec<u8> {
    let name = path.as_os_str().as_bytes();
    let escaped = escape(name);
    let mark = if escaped.len() == name.len() { "" } else { "\\" };
    [mark.as_bytes(), hex(digest).as_bytes(), b"  ", &escaped, b"\n"].concat()
}

fn escape(name: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(name.len());
    for &byte in name {
        match byte {
            b'\\' => escaped.extend(br"\\"),
            b'\n' => escaped.extend(br"\n"),
            b'\r' => escaped.extend(br"\r"),
            _ => escaped.push(byte),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_where_they_must_be() {
        let of = |name: &str| String::from_utf8(line(&[0xab; 32], Path::new(name))).unwrap();
        let digits = "ab".repeat(32);
        assert_eq!(of("a b"), format!("{digits}  a b\n"));
        assert_eq!(of("a\nb\\c\rd"), format!("\\{digits}  a\\nb\\\\c\\rd\n"));
    }
}
