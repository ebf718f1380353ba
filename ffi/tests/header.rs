//! `include/trine.h` is what the sources say: `TRINE_UPDATE_HEADER=1 cargo test -p trine-ffi --test header` writes it.

use std::path::Path;

#[test]
fn the_header_is_up_to_date() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(here.join("cbindgen.toml")).unwrap();
    let bindings = cbindgen::Builder::new().with_crate(here).with_config(config).generate().unwrap();
    let mut made = Vec::new();
    bindings.write(&mut made);

    let path = here.join("../include/trine.h");
    if std::env::var_os("TRINE_UPDATE_HEADER").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let made = String::from_utf8(made).unwrap();
    let there = std::fs::read_to_string(&path).unwrap();
    for (number, (made, there)) in made.lines().zip(there.lines()).enumerate() {
        assert_eq!(made, there, "line {}: set TRINE_UPDATE_HEADER=1 to write it anew", number + 1);
    }
    assert_eq!(made.len(), there.len());
    assert!(!made.contains("Vec"), "something of Rust's own got into the header");
}
