//! Payloads: words each of which follows from the call's number and from where it stands.
//!
//! ```text
//! request of call n:  n, n + s, n + 2s, …        answer:  the same, each with all its bits turned
//! ```
//! The client writes every word, the worker reads every word, and both ends know at once if one is not what it
//! should be: a payload that nobody touches would be free, whatever carries it.

/// Any odd number with many ones: no word is like another.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Which way a payload goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From client to worker.
    Request,
    /// Back.
    Answer,
}

impl Way {
    fn mask(self) -> u64 {
        match self {
            Way::Request => 0,
            Way::Answer => !0,
        }
    }
}

/// Writes a payload: a multiple of 8 bytes.
#[inline]
pub fn fill(bytes: &mut [u8], way: Way, number: u64) {
    Words::new(way, number).fill(bytes);
}

/// Writes a payload in pieces.
#[derive(Debug)]
pub struct Words {
    mask: u64,
    next: u64,
}

impl Words {
    /// From its first word on.
    pub fn new(way: Way, number: u64) -> Words {
        Words { mask: way.mask(), next: number }
    }

    /// Writes the next piece: a multiple of 8 bytes.
    #[inline]
    pub fn fill(&mut self, piece: &mut [u8]) {
        for to in piece.chunks_exact_mut(8) {
            to.copy_from_slice(&(self.next ^ self.mask).to_ne_bytes());
            self.next = self.next.wrapping_add(STEP);
        }
    }
}

/// One word of a payload, by its index: for whoever writes word by word.
#[inline]
pub fn word(way: Way, number: u64, index: usize) -> u64 {
    number.wrapping_add(STEP.wrapping_mul(index as u64)) ^ way.mask()
}

/// Reads a payload, in as many pieces as it comes in.
#[derive(Debug)]
pub struct Check {
    mask: u64,
    number: Option<u64>,
    next: u64,
    /// Bits that differed, anywhere.
    wrong: u64,
}

impl Check {
    /// Of a payload that goes this way.
    pub fn new(way: Way) -> Check {
        Check { mask: way.mask(), number: None, next: 0, wrong: 0 }
    }

    /// The next piece: a multiple of 8 bytes.
    #[inline]
    pub fn piece(&mut self, bytes: &[u8]) {
        let word = |from: &[u8]| u64::from_ne_bytes(from.try_into().unwrap_or_default()) ^ self.mask;
        if self.number.is_none() {
            let Some(first) = bytes.first_chunk::<8>() else { return };
            self.number = Some(word(first));
            self.next = word(first);
        }
        let (mut next, mut wrong) = (self.next, self.wrong);
        for from in bytes.chunks_exact(8) {
            wrong |= word(from) ^ next;
            next = next.wrapping_add(STEP);
        }
        wrong |= (bytes.len() % 8) as u64;
        (self.next, self.wrong) = (next, wrong);
    }

    /// The same of a line, whose words are checked side by side: they don't wait for each other.
    #[inline]
    pub fn line(&mut self, line: &[u8; 64]) {
        let (words, _) = line.as_chunks();
        let mask = self.mask;
        let word = |index: usize| u64::from_ne_bytes(words[index]) ^ mask;
        let next = if self.number.is_none() { word(0) } else { self.next };
        self.number = self.number.or(Some(next));
        let differ: [u64; 8] =
            std::array::from_fn(|i| word(i) ^ next.wrapping_add(STEP.wrapping_mul(i as u64)));
        self.wrong |= differ.iter().fold(0, |all, one| all | one);
        self.next = next.wrapping_add(STEP.wrapping_mul(8));
    }

    /// The call's number, if every word was right.
    pub fn number(&self) -> Option<u64> {
        self.number.filter(|_| self.wrong == 0)
    }
}

/// The call's number, if every word of the payload is right.
#[inline]
pub fn check(bytes: &[u8], way: Way) -> Option<u64> {
    let mut check = Check::new(way);
    check.piece(bytes);
    check.number()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bit_that_is_wrong_is_seen_wherever_it_is() {
        for way in [Way::Request, Way::Answer] {
            let mut bytes = [0; 64];
            fill(&mut bytes, way, 7);
            assert_eq!(check(&bytes, way), Some(7));
            for (index, bytes) in bytes.chunks_exact(8).enumerate() {
                assert_eq!(bytes, word(way, 7, index).to_ne_bytes());
            }
            for bit in 0..bytes.len() * 8 {
                let mut bad = bytes;
                bad[bit / 8] ^= 1 << (bit % 8);
                assert_ne!(check(&bad, way), Some(7), "bit {bit}");
                let mut line = Check::new(way);
                line.line(&bad);
                assert_ne!(line.number(), Some(7), "bit {bit}");
            }
            let mut line = Check::new(way);
            line.line(&bytes);
            assert_eq!(line.number(), Some(7));
            let mut pieces = Check::new(way);
            bytes.chunks(24).for_each(|piece| pieces.piece(piece));
            assert_eq!(pieces.number(), Some(7));
        }
    }

    #[test]
    fn a_payload_that_came_the_wrong_way_or_in_part_is_none() {
        let mut bytes = [0; 64];
        fill(&mut bytes, Way::Request, 7);
        assert_eq!(check(&bytes, Way::Answer), None);
        assert_eq!(check(&bytes[..20], Way::Request), None);
        assert_eq!(check(&[], Way::Request), None);
    }
}
