//! The algorithms of `trine::core`, model-checked: every interleaving of two or three parties, and every value that
//! the memory model lets a load return.
//!
//! The memory is a parameter of that code, so no `cfg` is needed: it is the code that ships, over a memory made of
//! loom's atomics. What shows that a model can see anything is its weakened twin: the same code over a memory in which
//! one named fence does nothing ([`memory::Weak`]), or driven by a party that breaks one named rule. Each must fail,
//! and for the reason that its test names.
//!
//! ```text
//! memory    words, fences that can be switched off, stores that a kill loses
//! explore   runs a model; counts executions; expects a failure
//! ring      publisher and taker        doorbell   going to sleep and waking
//! handover  the reply right, and a worker that dies with it
//! scatter   a part's answer says how many parts there are
//! ledger    what a kill leaves of an entry, and when an entry is free again
//! settle    a director that is killed while it dispatches, and the next one
//! ```
//! Loom runs each party's loads and stores in the order of the program, and a load returns only what was stored
//! before it ran. So it can't show what a load that is delayed past a *later store* would see: where that matters
//! (the reader's progress), the test lets a party do by hand, in the wrong order, what a machine might do to it.

mod doorbell;
mod explore;
mod handover;
mod ledger;
mod memory;
mod ring;
mod scatter;
mod settle;
