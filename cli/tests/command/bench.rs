//! `trine bench`: it runs, checks, and writes down what it found. What it found is not looked at: a machine that runs
//! tests measures nothing.

use serde_json::Value;

use crate::scene::Scene;

/// Runs a short one of these parts, and returns its report.
fn report(scene: &Scene, options: &[&str]) -> Value {
    let short = ["--calls", "200", "--json", "bench.json"];
    scene.run_well(&[&["bench"], options, &short].concat());
    let report = std::fs::read_to_string(scene.folder().join("bench.json")).unwrap();
    serde_json::from_str(&report).unwrap()
}

/// The rows of its report.
fn rows(scene: &Scene, options: &[&str]) -> Vec<Value> {
    report(scene, options)["rows"].as_array().unwrap().clone()
}

fn names<'r>(rows: &'r [Value], part: &str) -> Vec<&'r str> {
    rows.iter().filter(|row| row["part"] == part).map(|row| row["what"].as_str().unwrap()).collect()
}

#[test]
fn a_short_bench_has_a_row_for_everything() {
    let scene = Scene::new();
    let options = ["latency", "throughput", "--placement", "one", "--waiting", "yield,park"];
    let rows = rows(&scene, &[&options[..], &["--in-flight", "1,8", "--rounds", "2"]].concat());
    let latency = [
        "trine",
        "floor: line relayed",
        "floor: line direct", // polling
        "trine",
        "floor: eventfds relayed", // sleeping
    ];
    assert_eq!(names(&rows, "latency"), latency);
    let forms = ["rings: direct", "rings: director", "rings: managed"];
    let throughput = [&["trine", "floor: line relayed"], &forms[..], &["trine"], &forms[..]].concat();
    assert_eq!(names(&rows, "throughput"), throughput);
    for row in &rows {
        assert!(row["calls_counted"].as_u64() >= Some(200) && row["cpus"].as_str() != Some(""), "{row}");
        assert!(row["latency_ns"]["p99.9"].as_u64() >= row["latency_ns"]["p50"].as_u64(), "{row}");
    }
    assert!(rows[0]["to_floor"].as_f64() > Some(0.0), "{}", rows[0]);
    assert_eq!(scene.folder().read_dir().unwrap().count(), 1, "only the report is left");
}

#[test]
fn every_subject_answers_every_load() {
    let scene = Scene::new();
    let parts = ["latency", "forms", "large", "paced", "open", "neighbour", "default"];
    let rates = ["--beside", "all", "--placement", "one", "--rates", "5000", "--rounds", "1"];
    let rows = rows(&scene, &[&parts[..], &rates].concat());
    for subject in
        ["trine", "unix socket, direct", "unix socket, relay", "unix socket, broker", "pipes, direct"]
    {
        for part in parts.iter().filter(|part| **part != "forms") {
            assert!(names(&rows, part).contains(&subject), "{subject} in {part}");
        }
    }
    for form in ["rings: direct", "rings: director", "rings: managed"] {
        assert!(names(&rows, "forms").contains(&form), "{form}");
    }
    let large = names(&rows, "large");
    assert!(large.contains(&"floor: one process") && large.contains(&"trine, read in place"), "{large:?}");
}

#[test]
fn goals_are_met_or_missed_or_wait_for_a_rival() {
    let scene = Scene::new();
    let few = ["--placement", "one", "--rounds", "1", "--idle-sessions", "20", "--plots", "plots"];
    let report = report(&scene, &[&["goals", "fairness", "connect", "scale"], &few[..]].concat());
    let goals = report["goals"].as_array().unwrap();
    assert!(goals.iter().any(|goal| goal["met"].is_boolean()), "{goals:?}");
    let rival = |goal: &&Value| goal["what"].as_str().unwrap().contains("zeromq");
    assert!(
        goals.iter().filter(rival).all(|goal| goal["figure"].is_null() && goal["met"].is_null()),
        "{goals:?}"
    );
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(names(rows, "connect"), ["trine, a session a call"]);
    assert!(
        names(rows, "fairness").contains(&"trine, jbsq")
            && names(rows, "fairness").contains(&"trine, round-robin")
    );
    let costs = report["figures"].as_array().unwrap().iter();
    let descriptors =
        |f: &&Value| f["what"] == "a session costs the director: descriptors" && f["sessions"] == 10;
    assert!(costs.filter(descriptors).any(|f| f["value"].as_f64() > Some(1.0)), "{report}");
    let plots = scene.folder().join("plots").read_dir().unwrap();
    assert!(plots.map(|plot| plot.unwrap().path()).all(|plot| plot.extension().is_some_and(|e| e == "svg")));
}
