//! Instructions a hop: a fixed number of calls, to be run under callgrind by `benches/instructions`.
//!
//! Times drift with the machine and its neighbours; instructions do not. Run by itself this measures nothing.

mod support;
use support::Bus;

/// Bytes of payload, rounds, and calls a round: 1, 64, or 0 for a director that finds nothing.
fn main() {
    // `cargo bench` passes flags of its own.
    let numbers: Vec<u32> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let [len, rounds, at_a_time] = numbers[..] else { return };
    let mut bus = Bus::new();
    for _ in 0..rounds {
        match at_a_time {
            0 => bus.hop_route(),
            1 => bus.call(len),
            _ => bus.batch::<64>(len),
        }
    }
}
