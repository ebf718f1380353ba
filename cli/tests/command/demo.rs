//! `trine demo`: its lines are what `sha256sum -c` accepts, and nothing is left behind.

use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::scene::{Scene, sha256sum_check, stderr};

/// Hashes files in the scene's folder, and has the lines checked.
fn demo(scene: &Scene, options: &[&str], names: &[String]) -> String {
    let mut command = scene.trine(&["demo"]);
    let output = command.args(options).args(names).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let lines = output.stdout.iter().filter(|&&byte| byte == b'\n').count();
    assert_eq!(lines, names.len());
    let checked = sha256sum_check(scene.folder(), &output.stdout);
    assert!(checked.status.success(), "{checked:?}");
    assert_nothing_is_left(scene.folder());
    stderr(&output)
}

fn assert_nothing_is_left(folder: &Path) {
    let left: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .filter(|name| name.starts_with("private-"))
        .collect();
    assert_eq!(left, [""; 0]);
}

fn name_of(path: std::path::PathBuf) -> String {
    path.file_name().unwrap().to_str().unwrap().into()
}

#[test]
fn files_of_all_small_sizes_and_some_large_ones() {
    let scene = Scene::new();
    let sizes = (0..=130).chain([1 << 20, (1 << 20) + 1, (3 << 20) - 1, 5_000_000]);
    let names: Vec<String> = sizes.map(|len| name_of(scene.file(&format!("f{len}"), len))).collect();
    let said = demo(&scene, &["--calls", "200"], &names);
    assert!(said.contains("200 small calls") && said.contains("worker → client"), "{said}");
}

#[test]
fn pieces_of_one_block_and_of_odd_counts_of_blocks() {
    let scene = Scene::new();
    let names: Vec<String> =
        [0, 63, 64, 65, 127, 128, 129, 6400].map(|len| name_of(scene.file(&format!("f{len}"), len))).into();
    demo(&scene, &["--calls", "0", "--piece", "64", "--workers", "3"], &names);
    demo(&scene, &["--calls", "0", "--piece", "192", "--workers", "1"], &names);
}

#[test]
fn names_that_must_be_escaped() {
    let scene = Scene::new();
    let names = ["with space", "back\\slash", "new\nline", "-dash"];
    let names: Vec<String> = names.map(|name| name_of(scene.file(name, 70))).into();
    let paths: Vec<String> = names.iter().map(|name| format!("./{name}")).collect();
    demo(&scene, &["--calls", "0"], &paths);
}

#[test]
fn what_cannot_be_read_does_not_stop_the_others() {
    let scene = Scene::new();
    scene.file("there", 100);
    let output = scene.run(&["demo", "--calls", "0", "gone", ".", "there"]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("gone: No such file") && said.contains(".: Is a directory"), "{said}");
    assert!(sha256sum_check(scene.folder(), &output.stdout).status.success());
    assert_nothing_is_left(scene.folder());
}

#[test]
fn without_a_file_it_says_what_to_do() {
    let scene = Scene::new();
    let said = scene.run_badly(&["demo"], 2);
    assert!(said.contains("trine demo README.md"), "{said}");
}

#[test]
fn a_demo_that_is_interrupted_leaves_nothing() {
    let scene = Scene::new();
    // A pipe that nobody writes: the demo waits for its end.
    let demo = scene
        .trine(&["demo", "-"])
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let private =
        |folder: &Path| std::fs::read_dir(folder).unwrap().next().map(|entry| entry.unwrap().path());
    let is_served = || {
        private(scene.folder()).is_some_and(|bus| {
            let listed = scene.run(&["ls", "--json", "--path", bus.to_str().unwrap()]);
            String::from_utf8_lossy(&listed.stdout).contains("\"polled\"")
        })
    };
    while !is_served() {}
    kill(Pid::from_raw(demo.id() as i32), Signal::SIGINT).unwrap();
    let output = demo.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert_nothing_is_left(scene.folder());
}
