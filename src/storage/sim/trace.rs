//! A running hash of everything that happened, to compare two runs of one seed.

use std::io;

/// Not for secrets: words are mixed in by multiplication.
#[derive(Clone, Debug)]
pub(super) struct Trace {
    hash: u64,
}

impl Default for Trace {
    fn default() -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325 }
    }
}

impl Trace {
    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn mix(&mut self, word: u64) {
        self.hash = mix(self.hash, word);
    }

    pub(super) fn mix_all(&mut self, words: &[u64]) {
        for word in words {
            self.mix(*word);
        }
    }

    pub(super) fn mix_outcome(&mut self, error: Option<&io::Error>) {
        match error {
            None => self.mix(0),
            Some(error) => self.mix(hash_bytes(format!("{:?}", error.kind()).as_bytes())),
        }
    }
}

/// A hash of `bytes`: four words at a time, so that one multiplication need not wait for the
/// other, then one at a time.
pub(super) fn hash_bytes(bytes: &[u8]) -> u64 {
    let mut lanes = [bytes.len() as u64; 4];
    let (blocks, rest) = bytes.as_chunks::<32>();
    for block in blocks {
        let (words, _) = block.as_chunks::<8>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane = mix(*lane, u64::from_le_bytes(*word));
        }
    }
    let mut hash = lanes.into_iter().fold(0, mix);
    let (words, rest) = rest.as_chunks::<8>();
    for word in words {
        hash = mix(hash, u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    mix(hash, u64::from_le_bytes(last))
}

fn mix(hash: u64, word: u64) -> u64 {
    (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}
