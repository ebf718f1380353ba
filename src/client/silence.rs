//! Whether a director shows signs of life, as far as somebody who looks now and then can tell.

/// Who looks less often than this can't tell a silence from his own absence.
const ABSENT_NS: u64 = 2_000_000_000;

/// How long a word has not moved under somebody's eyes.
#[derive(Default)]
pub struct Silence {
    word: u64,
    since_ns: u64,
    looked_ns: u64,
}

impl Silence {
    /// Looks at the word. Whoever has been away begins anew: he may have been stopped himself.
    pub fn lasts_ns(&mut self, word: u64, now_ns: u64) -> u64 {
        let was_away = now_ns.saturating_sub(self.looked_ns) > ABSENT_NS;
        if word != self.word || was_away {
            (self.word, self.since_ns) = (word, now_ns);
        }
        self.looked_ns = now_ns;
        now_ns.saturating_sub(self.since_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_is_what_was_watched() {
        let second = 1_000_000_000;
        let mut silence = Silence::default();
        let mut look = |word, at| silence.lasts_ns(word, at * second);
        assert_eq!([look(1, 10), look(1, 11), look(1, 12), look(1, 13)].map(|ns| ns / second), [0, 1, 2, 3]);
        assert_eq!(look(3, 14), 0, "it moved");
        assert_eq!(look(3, 15), second);
        assert_eq!(look(3, 30), 0, "nobody looked");
    }
}
