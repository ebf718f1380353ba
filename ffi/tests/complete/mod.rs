//! Whether the tests misuse every function in every way: the header's declarations, beside the calls in misuse.rs. Who
//! adds a function, or a parameter, and forgets its misuse, is told here.

use std::collections::HashMap;

const HEADER: &str = include_str!("../../../include/trine.h");
const TESTS: &str = include_str!("../misuse.rs");

/// What gives a handle back has a rule of its own, and tests that say so.
const CLOSES: [&str; 3] = ["trine_close", "trine_worker_close", "trine_director_stop"];

#[test]
fn every_parameter_of_every_function_is_misused() {
    let tests = without_comments(TESTS);
    let (of_clients, of_workers) =
        (calls(function(&tests, "client_functions")), calls(function(&tests, "worker_functions")));
    let calls = calls(&tests);
    let declared = declarations();
    assert!(declared.len() >= 49, "the header was not understood: {} functions", declared.len());
    let mut missing = Vec::new();
    for (name, parameters) in declared {
        let Some(calls) = calls.get(name) else {
            missing.push(format!("{name} is never called"));
            continue;
        };
        for (place, parameter) in parameters.iter().enumerate() {
            let is_tried = |how: fn(&str) -> bool| {
                calls.iter().any(|arguments| arguments.get(place).is_some_and(|argument| how(argument)))
            };
            let of_all_kinds = |calls: &Calls<'_>| calls.contains_key(name);
            let (is_misused, how) = match kind(parameter) {
                Kind::Handle if CLOSES.contains(&name) => (
                    is_tried(is_null) && is_tried(|argument| argument.ends_with(".cast()")),
                    "NULL, another kind",
                ),
                // Both are run with NULL, handles of another kind, closed ones, and what is none.
                Kind::Handle if parameter.contains("trine_client") => {
                    (of_all_kinds(&of_clients), "in client_functions()")
                }
                Kind::Handle => (of_all_kinds(&of_workers), "in worker_functions()"),
                Kind::Pointer => (is_tried(is_null), "NULL"),
                Kind::Time => (is_tried(is_negative), "a negative time"),
                Kind::Number => (is_tried(is_huge), "a huge number"),
            };
            if !is_misused {
                missing.push(format!("{name}: {parameter}: {how}"));
            }
        }
    }
    assert!(missing.is_empty(), "not tried in misuse.rs:\n{}", missing.join("\n"));
}

enum Kind {
    Handle,
    Pointer,
    Time,
    Number,
}

fn kind(parameter: &str) -> Kind {
    let is_handle = ["trine_client *", "trine_worker *", "trine_director *"];
    match parameter {
        _ if parameter.contains("**") => Kind::Pointer,
        _ if is_handle.iter().any(|handle| parameter.contains(handle)) => Kind::Handle,
        _ if parameter.contains('*') || parameter.contains("callback") => Kind::Pointer,
        _ if parameter.ends_with("_ns") => Kind::Time,
        _ => Kind::Number,
    }
}

fn is_null(argument: &str) -> bool {
    ["null()", "null_mut()", "None"].contains(&argument)
}

fn is_negative(argument: &str) -> bool {
    argument.starts_with('-') || argument.contains("MIN")
}

/// As such, or one of several.
fn is_huge(argument: &str) -> bool {
    argument.contains("MAX") || argument == "huge"
}

type Calls<'a> = HashMap<&'a str, Vec<Vec<&'a str>>>;

/// The functions that the header declares, with their parameters.
fn declarations() -> Vec<(&'static str, Vec<&'static str>)> {
    let declared = HEADER.split_once("extern \"C\" {").expect("declarations").1;
    // No comment of the header has a declaration's form.
    let text = declared.lines().filter(|line| !line.starts_with("//")).collect::<Vec<_>>().join(" ");
    let text: &'static str = text.leak();
    let declarations = text.split(';').filter_map(|declaration| declaration.split_once('('));
    declarations
        .map(|(head, parameters)| {
            let name = head.rsplit([' ', '*']).next().expect("a name");
            let parameters = arguments(parameters.trim_end().trim_end_matches(')'));
            (name, parameters.into_iter().filter(|&parameter| parameter != "void").collect())
        })
        .collect()
}

/// All calls of the interface's functions, with their arguments.
fn calls(text: &str) -> Calls<'_> {
    let mut calls = Calls::new();
    for (start, _) in text.match_indices("trine_") {
        let is_word = |c: char| c == '_' || c.is_ascii_alphanumeric();
        let is_inside = text[..start].ends_with(is_word);
        let length = text[start..].find(|c| !is_word(c)).unwrap_or(0);
        let (name, rest) = text[start..].split_at(length);
        if let (false, Some(rest)) = (is_inside, rest.strip_prefix('(')) {
            calls.entry(name).or_default().push(arguments(rest));
        }
    }
    calls
}

/// What stands between the commas, up to the parenthesis that closes the list.
fn arguments(text: &str) -> Vec<&str> {
    let (mut found, mut start, mut depth) = (Vec::new(), 0, 0);
    let mut end = text.len();
    for (place, character) in text.char_indices() {
        match character {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' if depth > 0 => depth -= 1,
            ')' => {
                end = place;
                break;
            }
            ',' if depth == 0 => {
                found.push(text[start..place].trim());
                start = place + 1;
            }
            _ => {}
        }
    }
    let last = text[start..end].trim();
    found.extend((!last.is_empty()).then_some(last));
    found
}

/// The text of one function.
fn function<'a>(text: &'a str, name: &str) -> &'a str {
    let (_, rest) = text.split_once(&format!("\nfn {name}(")).expect("such a function");
    rest.split_once("\n}\n").expect("its end").0
}

fn without_comments(text: &str) -> String {
    text.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect()
}
