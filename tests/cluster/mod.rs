//! The replicated simulation: three or five replicas in one process, each on a disk and a clock of
//! its own, over a network that loses, doubles, delays and reorders messages and falls apart.
//! Leaders are changed by somebody who does nothing but hand out epochs.
//!
//! | file | holds |
//! |---|---|
//! | `net` | the network |
//! | `node` | a replica, its life and its ends |
//! | `model` | what was acknowledged and what was seen |
//! | `world` | a run: what happens next |
//! | `situations` | what takes several changes of the leader in a certain order |
//! | `clients` | producers, consumers and readers |
//! | `finish` | healing everything, and what must be there then |
//! | `campaign` | many runs and their counts |

pub(crate) mod campaign;
mod clients;
mod finish;
mod model;
mod net;
mod node;
mod situations;
mod world;

/// What went against a promise.
#[derive(Clone, Debug)]
pub(crate) struct Violation(pub(crate) String);

/// What a check answers.
pub(crate) type Checked<T = ()> = Result<T, Violation>;

/// Answers a [`Violation`] unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::cluster::Violation(format!($($message)+)));
        }
    };
}
pub(crate) use ensure;

/// Spreads a seed and a number into a new seed.
fn mix(seed: u64, number: u64) -> u64 {
    let mut z = (seed ^ number.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ (z >> 32)
}
