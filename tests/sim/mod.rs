//! The crash simulation: seeded runs of the whole public API on a simulated disk, checked
//! against a model that knows what was promised.
//!
//! | file | holds |
//! |---|---|
//! | `setup` | what a run is like: options, topics, groups |
//! | `model` | what was done and what was promised |
//! | `world` | the running log, and what its errors mean |
//! | `writes`, `reads`, `groups` | the operations |
//! | `crashes` | ends of the process, recovery, and going on |
//! | `verify` | recovery against the model |
//! | `drain` | whether everything that is left is delivered |
//! | `damage` | runs on a disk that lies or rots |
//! | `lying` | a storage that skips syncs, to prove that the checks can fail |
//! | `situations` | operations in orders that single draws hardly ever bring about |
//! | `steps` | which operation comes next |
//! | `campaign` | many runs, their counts, and the report of a failure |
//! | `labels` | which check a violation comes from |

pub(crate) mod campaign;
mod crashes;
mod damage;
mod drain;
mod groups;
pub(crate) mod labels;
mod lying;
mod model;
mod reads;
mod setup;
mod situations;
mod steps;
mod verify;
mod world;
mod writes;

pub(crate) use lying::Lie;

/// What went against a promise.
#[derive(Debug)]
pub(crate) struct Violation(pub(crate) String);

/// What a check answers.
pub(crate) type Checked<T = ()> = Result<T, Violation>;

/// Answers a [`Violation`] unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::sim::Violation(format!($($message)+)));
        }
    };
}
/// Answers a [`Violation`].
macro_rules! violation {
    ($($message:tt)+) => {
        return Err($crate::sim::Violation(format!($($message)+)))
    };
}
pub(crate) use {ensure, violation};

/// Spreads a seed and a number into a new seed.
pub(crate) fn mix(seed: u64, number: u64) -> u64 {
    let mut z = (seed ^ number.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ (z >> 32)
}

/// An offset as a place in a model's vector.
pub(crate) fn at(offset: u64) -> usize {
    usize::try_from(offset).expect("simulated topics are short")
}
