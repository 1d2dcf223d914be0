//! What is counted of a file's lines, and how it travels through the `counts` topic.

use std::collections::hash_map::DefaultHasher;
use std::fmt;
use std::hash::Hasher;
use std::ops::AddAssign;
use std::str::FromStr;

/// Lines, words, and a fingerprint of the lines whatever their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) lines: u64,
    pub(crate) words: u64,
    /// The sum of the hashes of all lines: it differs if a line is missing, changed or there
    /// twice, and does not depend on the order in which they are added.
    pub(crate) fingerprint: u128,
}

impl Tally {
    /// Adds one line of `words` words. `number` is its number in the file, or 0 where lines are
    /// compared without their places.
    pub(crate) fn add_line(&mut self, number: u64, line: &[u8], words: u64) {
        let half = |seed: u8| {
            let mut hasher = DefaultHasher::new();
            hasher.write_u8(seed);
            hasher.write_u64(number);
            hasher.write(line);
            u128::from(hasher.finish())
        };
        self.lines += 1;
        self.words += words;
        self.fingerprint = self.fingerprint.wrapping_add(half(1) << 64 | half(2));
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.lines += other.lines;
        self.words += other.words;
        self.fingerprint = self.fingerprint.wrapping_add(other.fingerprint);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.lines, self.words, self.fingerprint)
    }
}

impl FromStr for Tally {
    type Err = crate::Failure;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut numbers = text.split(' ');
        let mut number = || numbers.next().ok_or("a tally has three numbers");
        let (lines, words) = (number()?.parse()?, number()?.parse()?);
        Ok(Self { lines, words, fingerprint: number()?.parse()? })
    }
}
