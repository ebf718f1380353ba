//! The installed library, and the examples in C and C++ as their readers would build and run them: with gcc and clang,
//! every warning an error; every client against every service, against a real director; under valgrind, where there is
//! one.

mod build;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use build::{C, CPP, compile, is_there, prefix, root, run, text, with_library};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use trine::{Bus, Director, DirectorHandle, DirectorOptions, WorkerOptions};

/// The same, under valgrind: an error, or a leak, is a failure.
fn under_valgrind(program: &Path) -> Command {
    let mut command = Command::new("valgrind");
    command.args([
        "--quiet",
        "--error-exitcode=99",
        "--leak-check=full",
        "--show-leak-kinds=definite,possible",
    ]);
    command.arg("--errors-for-leak-kinds=definite,possible");
    command.arg(program);
    command.env("LD_LIBRARY_PATH", prefix().join("lib"));
    command
}

struct Here {
    folder: tempfile::TempDir,
    bus: Bus,
    _director: DirectorHandle,
}

fn here() -> Here {
    let folder = tempfile::tempdir().unwrap();
    let bus = Bus::at(folder.path());
    let director = Director::new(&bus, DirectorOptions::default()).unwrap().spawn().unwrap();
    Here { folder, bus, _director: director }
}

/// A service in a process of its own.
struct Service(Child);

impl Service {
    /// Starts it, and waits until it says that it serves.
    fn start(mut command: Command, here: &Here) -> Service {
        let mut child = command.arg(here.folder.path()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "serving\n", "{command:?}");
        Service(child)
    }

    fn stop(mut self) {
        kill(Pid::from_raw(self.0.id() as i32), Signal::SIGTERM).unwrap();
        let status = self.0.wait().unwrap();
        assert!(status.success(), "{status}");
    }
}

fn compilers() -> Vec<(&'static str, &'static [&'static str], &'static str)> {
    let all: [(&str, &'static [&'static str], &str); 4] =
        [("gcc", &C, "c"), ("clang", &C, "c"), ("g++", &CPP, "cpp"), ("clang++", &CPP, "cpp")];
    let there: Vec<_> = all.into_iter().filter(|(compiler, ..)| is_there(compiler)).collect();
    assert!(there.iter().any(|c| c.2 == "c") && there.iter().any(|c| c.2 == "cpp"), "a C and a C++ compiler");
    there
}

fn example(language: &str, name: &str) -> PathBuf {
    root().join("examples").join(language).join(format!("{name}.{language}"))
}

const SAID: &str = "1000 values found\na value of 2994 bytes\nWORKER_ERROR 404: no such key\n";

#[test]
fn every_client_with_every_service() {
    let build = |name| {
        let build = compilers()
            .into_iter()
            .map(|(cc, flavour, language)| compile(cc, flavour, &example(language, name)));
        build.collect::<Vec<_>>()
    };
    let compiled = |name| build(name).into_iter().map(|program| with_library(&program));
    let others = |role| python(&format!("keyvalue_{role}")).into_iter().chain([tokio("keyvalue", role)]);
    for service in compiled("keyvalue_service").chain(others("service")) {
        let here = here();
        let named = format!("{service:?}");
        let serving = Service::start(service, &here);
        for mut client in compiled("keyvalue_client").chain(others("client")) {
            let output = run(client.arg(here.folder.path()));
            assert_eq!(text(&output), SAID, "{client:?} with {named}");
        }
        serving.stop();
    }
}

/// An example in Python, where there is one.
fn python(name: &str) -> Option<Command> {
    if !is_there("python3") {
        eprintln!("there is no python3: not run");
        return None;
    }
    let mut command = Command::new("python3");
    command
        .arg(root().join("examples/python").join(format!("{name}.py")))
        .env("PYTHONPATH", root().join("python"));
    command.env("TRINE_LIBRARY", prefix().join("lib/libtrine.so.0")).env("PYTHONDONTWRITEBYTECODE", "1");
    Some(command)
}

/// An example in asynchronous Rust: built with these tests.
fn tokio(name: &str, role: &str) -> Command {
    let test = std::env::current_exe().unwrap();
    let mut command = Command::new(
        test.parent().and_then(Path::parent).unwrap().join("examples").join(format!("{name}_tokio")),
    );
    command.arg(role);
    command
}

/// An array as large as an image, from C to NumPy and back: neither side copies it, and the C client checks each byte.
#[test]
fn an_image_goes_from_c_to_numpy_and_back() {
    let has_numpy = Command::new("python3").args(["-c", "import numpy"]).stderr(Stdio::null()).status();
    if !has_numpy.is_ok_and(|status| status.success()) {
        eprintln!("there is no NumPy: not run");
        return;
    }
    let here = here();
    let serving = Service::start(python("inference_service").unwrap(), &here);
    let client = compile("cc", &C, &example("c", "inference_client"));
    let output = run(with_library(&client).arg(here.folder.path()));
    assert_eq!(text(&output), "6220800 bytes of edges, brightest 255\n");
    serving.stop();
}

#[test]
fn no_error_and_no_leak_under_valgrind() {
    if !is_there("valgrind") {
        eprintln!("there is no valgrind: not run");
        return;
    }
    for (compiler, flavour, language) in [("cc", &C, "c"), ("c++", &CPP, "cpp")] {
        let here = here();
        let service = compile(compiler, flavour, &example(language, "keyvalue_service"));
        let client = compile(compiler, flavour, &example(language, "keyvalue_client"));
        let serving = Service::start(under_valgrind(&service), &here);
        let output = run(under_valgrind(&client).arg(here.folder.path()));
        assert_eq!(text(&output), SAID);
        serving.stop();
    }
}

#[test]
fn the_wrapper_does_what_it_says() {
    let source = root().join("ffi/tests/wrapper.cpp");
    let flavour: Vec<&str> = CPP.into_iter().chain(["-pthread"]).collect();
    for (compiler, _, _) in compilers().into_iter().filter(|compiler| compiler.2 == "cpp") {
        let program = compile(compiler, &flavour, &source);
        let bus = || {
            let folder = tempfile::tempdir().unwrap();
            (format!("{}/", folder.path().display()), folder)
        };
        let (path, _folder) = bus();
        assert_eq!(text(&run(with_library(&program).arg(path))), "as it should be\n");
        if is_there("valgrind") && compiler == "g++" {
            let (path, _folder) = bus();
            assert_eq!(text(&run(under_valgrind(&program).arg(path))), "as it should be\n");
        }
    }
}

/// Programs of the page: the blocks that have a `main`.
fn programs_of_the_page() -> Vec<String> {
    let page = std::fs::read_to_string(root().join("docs/c.md")).unwrap();
    let blocks = page.split("```c\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned());
    blocks.filter(|block| block.contains("int main")).collect()
}

#[test]
fn the_page_s_programs_run_as_printed() {
    let programs = programs_of_the_page();
    let [client, worker] = &programs[..] else { panic!("a client and a worker, not {}", programs.len()) };
    let lines = client.lines().count();
    assert!(lines < 20, "the client has {lines} lines");
    let minimal = std::fs::read_to_string(root().join("examples/c/minimal.c")).unwrap();
    assert_eq!(*client, minimal, "the page and examples/c/minimal.c say the same");
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    assert!(readme.contains(&format!("```c\n{minimal}```\n")), "and so does the README");

    let manual = std::fs::read_to_string(root().join("docs/man/trine.7")).unwrap();
    assert!(manual.contains(&minimal.replace('\\', "\\e")), "and so does the manual");
    let header = std::fs::read_to_string(root().join("include/trine.h")).unwrap();
    for function in
        header.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|w| header.contains(&format!("{w}(")))
    {
        assert!(
            !function.starts_with("trine_") || manual.contains(function) || function == "trine_init",
            "{function}"
        );
    }

    let here = here();
    let build = |name: &str, text: &str| {
        let source = prefix().join(name);
        std::fs::write(&source, text).unwrap();
        compile("cc", &C, &source)
    };
    let worker = build("page_worker.c", worker);
    let mut serving = with_library(&worker).arg(here.folder.path()).spawn().unwrap();
    while here.bus.inspect().unwrap().services.is_empty() {
        std::thread::yield_now();
    }
    for client in [build("page_client.c", client), compile("c++", &CPP, &example("cpp", "minimal"))] {
        assert_eq!(text(&run(with_library(&client).arg(here.folder.path()))), "HELLO\n");
    }
    serving.kill().unwrap();
    serving.wait().unwrap();

    // Without a service, and without a director, they say what to do.
    let lonely = with_library(&prefix().join("cc page_client.c")).arg("/nowhere/").output().unwrap();
    assert!(!lonely.status.success());
    assert!(String::from_utf8_lossy(&lonely.stderr).contains("start one with `trine director`"));
}

#[test]
fn layout_and_names_are_as_they_were() {
    let source = root().join("ffi/tests/layout.c");
    for (compiler, flavour, language) in compilers() {
        let program = match language {
            "c" => compile(compiler, flavour, &source),
            _ => continue,
        };
        assert_eq!(text(&run(&mut with_library(&program))), "as it should be\n");
    }
    // Static, too: the archive and what it needs.
    let program = prefix().join("static");
    let (include, archive) = (prefix().join("include"), prefix().join("lib/libtrine.a"));
    let libraries = ["-lgcc_s", "-lutil", "-lrt", "-lpthread", "-lm", "-ldl"];
    let command = &mut Command::new("cc");
    run(command
        .args(C)
        .arg("-I")
        .arg(include)
        .arg(source)
        .arg(archive)
        .args(libraries)
        .arg("-o")
        .arg(&program));
    assert_eq!(text(&run(&mut Command::new(program))), "as it should be\n");
}

#[test]
fn the_shared_library_shows_its_interface_only_and_its_version() {
    let library = prefix().join("lib/libtrine.so");
    let symbols =
        text(&run(Command::new("nm").args(["-D", "--defined-only", "--with-symbol-versions"]).arg(&library)));
    let header = std::fs::read_to_string(root().join("include/trine.h")).unwrap();
    let mut functions = 0;
    for symbol in symbols.lines().filter_map(|line| line.split_whitespace().nth(2)) {
        let Some(name) = symbol.strip_suffix("@@TRINE_0") else {
            assert!(symbol.starts_with("TRINE_0"), "{symbol}");
            continue;
        };
        assert!(header.contains(&format!("{name}(")), "{name} is not in the header");
        functions += 1;
    }
    assert!(functions > 30, "{symbols}");
    let dynamic = text(&run(Command::new("readelf").arg("-d").arg(&library)));
    assert!(dynamic.contains("[libtrine.so.0]"), "{dynamic}");
}

#[test]
fn cmake_finds_it() {
    if !is_there("cmake") {
        eprintln!("there is no cmake: not run");
        return;
    }
    let project = prefix().join("project");
    std::fs::create_dir(&project).unwrap();
    let minimal = example("c", "minimal");
    let lists = format!(
        "cmake_minimum_required(VERSION 3.13)\nproject(user C)\nfind_package(trine 0.1 REQUIRED)\n\
         add_executable(user {0})\ntarget_link_libraries(user trine::trine)\n\
         add_executable(static {0})\ntarget_link_libraries(static trine::static)\n",
        minimal.display()
    );
    std::fs::write(project.join("CMakeLists.txt"), lists).unwrap();
    let cmake = || Command::new("cmake");
    run(cmake()
        .arg("-S")
        .arg(&project)
        .arg("-B")
        .arg(project.join("build"))
        .env("CMAKE_PREFIX_PATH", prefix()));
    run(cmake().arg("--build").arg(project.join("build")));

    let here = here();
    let worker = here.bus.worker(WorkerOptions::default()).unwrap();
    worker.provide("text", &["upper"]).unwrap();
    let stopper = worker.stopper();
    let serving = std::thread::spawn(move || {
        worker.serve(|request| {
            let upper = request.bytes().to_vec().to_ascii_uppercase();
            request.reply(&upper)
        })
    });
    for program in ["user", "static"] {
        let output = run(with_library(&project.join("build").join(program)).arg(here.folder.path()));
        assert_eq!(text(&output), "HELLO\n");
    }
    stopper.stop();
    serving.join().unwrap().unwrap();
}
