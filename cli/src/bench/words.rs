//! What the benchmark sends: a cache line of words, each of which can be checked.

/// Name of the service that checks them.
pub const SERVICE: &str = "check";
/// Its operation.
pub const OPERATION: &str = "check";

/// Words of a payload: 64 bytes.
pub const WORDS: usize = 8;
/// Any odd number with many ones: no word is like another.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// What the client sends with its call of this number.
pub fn request<const N: usize>(number: u64) -> [u64; N] {
    std::array::from_fn(|i| number.wrapping_add(STEP.wrapping_mul(i as u64)))
}

/// What the worker answers; `None` where it was not sent what a client sends.
pub fn answer<const N: usize>(sent: &[u64; N]) -> Option<[u64; N]> {
    (*sent == request(sent[0])).then(|| sent.map(|word| !word))
}

/// Whether this is the answer to a call of this number.
pub fn is_answer<const N: usize>(answer: &[u64; N], number: u64) -> bool {
    *answer == request(number).map(|word| !word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_wrong_is_seen_at_both_ends() {
        let sent: [u64; WORDS] = request(7);
        let answered = answer(&sent).unwrap();
        assert!(is_answer(&answered, 7) && !is_answer(&answered, 8));
        for i in 0..WORDS {
            let (mut bad_sent, mut bad_answer) = (sent, answered);
            bad_sent[i] ^= 1 << i;
            bad_answer[i] ^= 1 << i;
            assert!(answer(&bad_sent).is_none() && !is_answer(&bad_answer, 7));
        }
    }
}
