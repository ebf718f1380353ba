//! `trine doctor`, and processes that go where it says.

use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::Value;

use crate::scene::{Running, Scene};

#[test]
fn a_director_and_a_worker_go_where_the_doctor_says() {
    let scene = Scene::new();
    assert!(scene.run_well(&["doctor"]).contains("trine director --pin"));
    let report: Value = serde_json::from_str(&scene.run_well(&["doctor", "--json"])).unwrap();
    let director = Running::start(&mut scene.trine(&["director", "--pin", "auto"]));
    let worker = Running::start(&mut scene.trine(&["worker", "echo", "--pin", "auto"]));
    for (role, process) in [("director", &director), ("worker", &worker)] {
        let cpus = sched_getaffinity(Pid::from_raw(process.pid() as i32)).unwrap();
        let there: Vec<usize> = (0..CpuSet::count()).filter(|&cpu| cpus.is_set(cpu).unwrap()).collect();
        assert_eq!(there, [report["placement"][role].as_u64().unwrap() as usize], "{role}");
    }
    scene.check_echo();
    assert!(worker.end(Signal::SIGTERM).success() && director.end(Signal::SIGTERM).success());
}

#[test]
fn what_can_be_no_place_is_said() {
    let said = Scene::new().run_badly(&["director", "--pin", "first"], 2);
    assert!(said.contains("auto"), "{said}");
}
