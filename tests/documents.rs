//! What the documents say of the tests is so.

use std::path::Path;

fn read_all(folder: &Path, into: &mut String) {
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            read_all(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push_str(&std::fs::read_to_string(&path).expect("UTF-8"));
        }
    }
}

/// Every row of the failure table names tests, and each of them is there.
#[test]
fn the_failure_tables_tests_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("ARCHITECTURE.md")).expect("the page");
    let mut sources = String::new();
    read_all(&root.join("tests"), &mut sources);
    let (_, table) = page.split_once("## Failure table").expect("it is there");
    let table = table.split("\n## ").next().expect("its begin");
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert!(rows.len() > 20, "{} rows", rows.len());
    for row in rows {
        let last = row.trim_end_matches(" |").rsplit(" | ").next().expect("a cell");
        let names: Vec<&str> = last.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "nothing shows this row: {row}");
        for name in names {
            assert!(sources.contains(&format!("fn {name}(")), "there is no test {name}");
        }
    }
}

/// The rules of ARCHITECTURE.md are those that the simulator switches off: every test that does, and no other.
#[test]
fn the_table_of_rules_names_each_that_is_switched_off() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("ARCHITECTURE.md")).expect("the page");
    let simulator = std::fs::read_to_string(root.join("tests/simulator.rs")).expect("the simulator");
    let (_, table) = page.split_once("## Rules, and what goes wrong without them").expect("it is there");
    let table = table.split("\n## ").next().expect("its begin");
    let rows = table.lines().filter(|line| line.starts_with("| ") && line.contains('`'));
    let mut named: Vec<&str> = rows.map(|row| row.rsplit('`').nth(1).expect("the test's name")).collect();
    let (_, tests) =
        simulator.split_once("/// Runs schedules with a rule switched off").expect("they are there");
    let calls = tests.split("fn ").filter(|function| function.contains("Mutation::"));
    let mut tested: Vec<&str> = calls.map(|call| call.split("()").next().expect("its name")).collect();
    named.sort_unstable();
    tested.sort_unstable();
    assert!(tested.len() > 25, "{tested:?}");
    assert_eq!(named, tested);
}
