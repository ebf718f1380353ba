//! A worker's core over hostile memory, as a sequence of calls. Its stable form is tests/hostile, which has the code.
#![no_main]

#[path = "../../tests/hostile/memory.rs"]
mod memory;
#[path = "../../tests/hostile/worker.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    target::run(input);
});
