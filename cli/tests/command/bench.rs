//! `trine bench`: it runs, checks, and writes down what it found.

use serde_json::Value;

use crate::scene::Scene;

#[test]
fn a_short_bench_has_a_row_for_everything() {
    let scene = Scene::new();
    let options = ["bench", "--placement", "one", "--waiting", "yield", "--calls", "300", "--rounds", "2"];
    let said = scene.run_well(&[&options[..], &["--in-flight", "1,8", "--json", "bench.json"]].concat());
    assert!(said.contains("floor") && said.contains("one") && said.contains("yield"), "{said}");
    let report = std::fs::read_to_string(scene.folder().join("bench.json")).unwrap();
    let report: Value = serde_json::from_str(&report).unwrap();
    let rows = report["rows"].as_array().unwrap();
    let kinds: Vec<&str> = rows.iter().map(|row| row["what"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["call", "floor", "throughput", "throughput"]);
    assert!(rows.iter().all(|row| row["calls"] == 600 && row["placement"] == "one"), "{rows:?}");
    assert!(rows[0]["ratio_p50"].as_f64() > Some(0.0), "{rows:?}");
    assert_eq!(scene.folder().read_dir().unwrap().count(), 1, "only the report is left");
}
