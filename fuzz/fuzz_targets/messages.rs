//! Control messages of both directions, from any bytes. The stable form is beside the parser: `coding_tests.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    trine::fuzzing::to_director(input);
    trine::fuzzing::from_director(input);
});
