#![doc = include_str!("crate.md")]

/// The README's code is compiled with the documentation's.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;

mod batch;
#[cfg_attr(
    not(any(test, feature = "simulation")),
    expect(unreachable_pub, reason = "public with the feature `simulation`")
)]
mod clock;
mod commit;
mod draws;
mod error;
mod format;
mod group;
mod log;
#[cfg_attr(
    not(feature = "mutants"),
    expect(unreachable_pub, reason = "public with the feature `mutants`")
)]
mod mutant;
mod offset;
mod options;
mod pending;
mod promise;
mod record;
pub mod replicate;
mod retention;
mod segment;
mod shared;
mod state;
mod stats;
#[cfg_attr(
    not(any(test, feature = "simulation")),
    expect(unreachable_pub, reason = "public with the feature `simulation`")
)]
mod storage;
mod sync;
mod topic;
mod watermark;

pub use batch::Batch;
pub use commit::policy::SyncPolicy;
pub use commit::queue::Media;
pub use error::{Error, Result};
pub use group::{Delivery, Explanation, Group, GroupOptions, Lag};
pub use log::salvage::{Lost, SalvageReport, salvage};
pub use log::{Ending, Log, OpenReport};
pub use offset::{Epoch, Offset, Position};
pub use options::Options;
pub use pending::Pending;
pub use record::{Acknowledged, BatchReceipt, Message, Receipt, Record};
pub use retention::Retention;
pub use stats::Stats;
pub use topic::{Offsets, Reader, Start, Topic};
pub use watermark::Ack;

/// The storage trait, the simulated disk and the simulated clock: for tests that crash the
/// queue. Only with the feature `simulation`; not covered by semantic versioning.
#[cfg(any(test, feature = "simulation"))]
pub mod simulation {
    pub use crate::clock::{Clock, Now};
    pub use crate::log::salvage::salvage_on;
    pub use crate::storage::sim::*;
    pub use crate::storage::{FileName, LockError, LockGuard, Mapping, Storage, StorageFile};

    /// Deliberate bugs, to be switched on one at a time. Only with the feature `mutants`.
    #[cfg(feature = "mutants")]
    pub mod mutants {
        pub use crate::mutant::{Mutant, activate, deactivate};
    }
}
