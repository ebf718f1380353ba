//! The `trine` command as a person or a script meets it: real processes, each test on a bus of its own.

mod bad_input;
mod bench;
mod demo;
mod doctor;
mod man;
mod policy;
mod round_trip;
mod scene;
mod stopping;
