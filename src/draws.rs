//! Numbers that are drawn: no two are alike, for all that matters.

use std::hash::{BuildHasher, RandomState};

use crate::sync::atomic::{AtomicU64, Ordering};

/// Where they come from: the system's randomness, or a seed for a log that is simulated.
#[derive(Debug)]
pub(crate) struct Draws {
    seed: Option<u64>,
    drawn: AtomicU64,
}

impl Draws {
    pub(crate) fn new(seed: Option<u64>) -> Self {
        Self { seed, drawn: AtomicU64::new(0) }
    }

    pub(crate) fn draw(&self) -> u64 {
        let n = self.drawn.fetch_add(1, Ordering::Relaxed) + 1;
        match self.seed {
            // SplitMix64's increment and finalizer spread neighbouring seeds.
            Some(seed) => {
                let z = seed.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                z ^ (z >> 31)
            }
            // Its keys are random once in each thread, and others each time.
            None => RandomState::new().hash_one(n),
        }
    }

    /// A salt: what tells the headers of one file from those of any other.
    pub(crate) fn salt(&self) -> u32 {
        (self.draw() >> 32) as u32
    }
}
