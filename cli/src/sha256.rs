//! SHA-256 in pieces that any worker can take: the running state travels with the request.
//!
//! ```text
//! hash    any bytes                                          ─► 64 hexadecimal digits
//! piece   state, 0, padded to 64 ‖ n · 64 bytes              ─► the next state, 40 bytes
//!         state, 1, padded to 64 ‖ the rest, however much    ─► the digest, 32 bytes
//! ```
//! A worker keeps nothing between two pieces, so the next one may go to another worker, or to this one after a
//! restart. The state is sha2's own serialised core: eight words and the number of blocks behind them. A state is 40
//! bytes, so that a reply fits a record; in a request it takes a cache line, so that the piece begins on one.

use sha2::block_api::Sha256VarCore;
use sha2::digest::array::Array;
use sha2::digest::block_api::{Block, Buffer, UpdateCore, VariableOutputCore};
use sha2::digest::common::hazmat::SerializableState;
use trine::{Request, Served, Shared};

/// Name of the service.
pub const SERVICE: &str = "sha256";
/// Its operations.
pub const OPERATIONS: [&str; 2] = ["hash", "piece"];

/// Bytes of a state.
pub const STATE: usize = 40;
/// Bytes before the piece in a request: a cache line, with the state and whether the piece is the last.
pub const HEADER: usize = 64;
/// Where it says whether the piece is the last.
const LAST_AT: usize = STATE;
/// Bytes of a block.
const BLOCK: usize = 64;
/// Bytes that are copied out of a request at a time: they stay in the first-level cache.
const SCRATCH: usize = 16 << 10;
/// Blocks that a state may have behind it: SHA-256 counts bits in 64 bits.
const BLOCKS_MAX: u64 = 1 << 54;

/// A hash that has begun.
pub struct Running(Sha256VarCore);

/// A digest.
pub type Digest = [u8; 32];

impl Running {
    /// Of no bytes yet.
    pub fn new() -> Running {
        // 32 bytes are an output size that SHA-256 has.
        Running(Sha256VarCore::new(size_of::<Digest>()).expect("SHA-256 has 32 bytes"))
    }

    /// From the state that travelled; `None` where it can't be one.
    pub fn from_state(state: &[u8; STATE]) -> Option<Running> {
        let (_, blocks) = state.split_at(32);
        let blocks = u64::from_le_bytes(blocks.try_into().ok()?);
        if blocks > BLOCKS_MAX {
            return None;
        }
        Sha256VarCore::deserialize(&Array(*state)).ok().map(Running)
    }

    /// The state that travels.
    pub fn state(&self) -> [u8; STATE] {
        self.0.serialize().0
    }

    /// Takes all whole blocks of `bytes`, and returns the rest.
    fn update<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let (blocks, rest) = Block::<Sha256VarCore>::slice_as_chunks(bytes);
        self.0.update_blocks(blocks);
        rest
    }

    /// Takes the last bytes, less than a block, and pads them.
    fn finish(mut self, rest: &[u8]) -> Digest {
        let mut digest = Default::default();
        self.0.finalize_variable_core(&mut Buffer::<Sha256VarCore>::new(rest), &mut digest);
        digest.0
    }
}

/// Takes the payload from `from` on, copying it through a buffer that stays in the cache. Returns what is less than
/// a block.
fn update_with(running: &mut Running, bytes: &Shared<'_>, from: usize) -> Vec<u8> {
    let mut scratch = [0; SCRATCH];
    let mut at = from;
    loop {
        let count = bytes.read_at(at, &mut scratch);
        at += count;
        // The scratch holds whole blocks, so only the last read leaves a rest.
        let rest = running.update(&scratch[..count]);
        if count < SCRATCH {
            return rest.to_vec();
        }
    }
}

const _: () = assert!(SCRATCH.is_multiple_of(BLOCK) && LAST_AT < HEADER);

/// A digest as people write it.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The worker's handler.
pub fn serve(request: Request<'_>) -> Served {
    let bytes = request.bytes();
    if request.is("hash") {
        let mut running = Running::new();
        let rest = update_with(&mut running, &bytes, 0);
        drop(bytes);
        return request.reply(hex(&running.finish(&rest)).as_bytes());
    }
    let mut header = [0; HEADER];
    let is_whole = bytes.read_at(0, &mut header) == HEADER;
    let Some((mut running, is_last)) = read_header(&header).filter(|_| is_whole) else {
        drop(bytes);
        return request.fail(1, "a piece begins with a state of 40 bytes, 0 or 1, and zeros up to 64");
    };
    let rest = update_with(&mut running, &bytes, HEADER);
    drop(bytes);
    if is_last {
        return request.reply(&running.finish(&rest));
    }
    match rest.len() {
        0 => request.reply(&running.state()),
        _ => request.fail(2, "a piece that is not the last has a multiple of 64 bytes"),
    }
}

/// What stands before a piece.
pub fn header(state: &[u8; STATE], is_last: bool) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..STATE].copy_from_slice(state);
    header[LAST_AT] = u8::from(is_last);
    header
}

fn read_header(header: &[u8; HEADER]) -> Option<(Running, bool)> {
    let (state, rest) = header.split_first_chunk::<STATE>()?;
    let is_last = match rest.split_first()? {
        (0, _) => false,
        (1, _) => true,
        _ => return None,
    };
    rest[1..].iter().all(|&byte| byte == 0).then_some(())?;
    Some((Running::from_state(state)?, is_last))
}

#[cfg(test)]
mod tests {
    use sha2::Digest as _;

    use super::*;

    #[test]
    fn a_state_that_travels_ends_in_the_same_digest() {
        let bytes: Vec<u8> = (0..1000u32).map(|i| (i * 7) as u8).collect();
        for len in (0..200).chain([255, 256, 257, 511, 512, 1000]) {
            for piece in [64, 128, 320] {
                let mut state = Running::new().state();
                let (all, mut rest) = (&bytes[..len], &bytes[..len]);
                while rest.len() >= piece {
                    let mut running = Running::from_state(&state).unwrap();
                    assert!(running.update(&rest[..piece]).is_empty());
                    (state, rest) = (running.state(), &rest[piece..]);
                }
                let mut running = Running::from_state(&state).unwrap();
                let rest = running.update(rest).to_vec();
                assert_eq!(running.finish(&rest), sha2::Sha256::digest(all).0, "{len} in {piece}");
            }
        }
    }

    #[test]
    fn a_state_that_cannot_be_is_refused() {
        assert!(Running::from_state(&[0xff; STATE]).is_none());
        let mut good = header(&Running::new().state(), true);
        assert!(read_header(&good).is_some_and(|(_, is_last)| is_last));
        good[HEADER - 1] = 1;
        assert!(read_header(&good).is_none());
    }
}
