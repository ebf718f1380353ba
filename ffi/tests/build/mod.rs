//! The library as it is installed, and programs that are compiled with it.
#![allow(dead_code, reason = "each test uses some of it")]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, OnceLock};

pub const C: [&str; 5] = ["-std=c11", "-Wall", "-Wextra", "-pedantic", "-Werror"];
pub const CPP: [&str; 5] = ["-std=c++17", "-Wall", "-Wextra", "-pedantic", "-Werror"];

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

pub fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {said}", output.status);
    output
}

pub fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn is_there(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// The archive that was built together with this test: the newest, since cargo keeps those of other builds, too.
pub fn archive() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let files = test.parent().unwrap().read_dir().unwrap().map(|entry| entry.unwrap().path());
    let is_one = |path: &PathBuf| {
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        name.starts_with("libtrine_ffi-") && name.ends_with(".a")
    };
    files.filter(is_one).max_by_key(|path| path.metadata().and_then(|m| m.modified()).unwrap()).unwrap()
}

/// Where the library is installed for these tests: anew in each run.
pub fn prefix() -> &'static Path {
    static PREFIX: OnceLock<PathBuf> = OnceLock::new();
    PREFIX.get_or_init(|| {
        let prefix = Path::new(env!("CARGO_TARGET_TMPDIR")).join("prefix");
        let _ = std::fs::remove_dir_all(&prefix); // there is none the first time
        run(Command::new(root().join("ffi/install.sh")).arg(&prefix).env("TRINE_ARCHIVE", archive()));
        prefix
    })
}

/// What pkg-config says about the installed library.
pub fn flags() -> Vec<String> {
    let pkgconfig = prefix().join("lib/pkgconfig");
    let output = run(Command::new("pkg-config")
        .args(["--cflags", "--libs", "trine"])
        .env("PKG_CONFIG_PATH", pkgconfig));
    text(&output).split_whitespace().map(str::to_owned).collect()
}

/// Compiles a program, if this process has not yet. Returns where it is.
pub fn compile(compiler: &str, flavour: &[&str], source: &Path) -> PathBuf {
    static COMPILED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
    let name = source.file_name().and_then(OsStr::to_str).unwrap();
    let program = prefix().join(format!("{compiler} {name}"));
    let mut compiled = COMPILED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if compiled.contains(&program) {
        return program;
    }
    compiled.push(program.clone());
    let command = &mut Command::new(compiler);
    run(command.args(flavour).arg("-g").arg(source).arg("-o").arg(&program).args(flags()));
    program
}

pub fn with_library(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env("LD_LIBRARY_PATH", prefix().join("lib"));
    command
}
