//! `trine bench`: it runs, checks, and writes down what it found. What it found is not looked at: a machine that runs
//! tests measures nothing.

use serde_json::Value;

use crate::scene::Scene;

/// Runs a short one of these parts, and returns the rows of its report.
fn rows(scene: &Scene, options: &[&str]) -> Vec<Value> {
    let short = ["--calls", "200", "--json", "bench.json"];
    scene.run_well(&[&["bench"], options, &short].concat());
    let report = std::fs::read_to_string(scene.folder().join("bench.json")).unwrap();
    let report: Value = serde_json::from_str(&report).unwrap();
    report["rows"].as_array().unwrap().clone()
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
    assert!(names(&rows, "large").contains(&"floor: one process"));
}
