//! Replication: the host decides when a record counts as replicated, by a [`Replicator`].
//!
//! The log owns order, storage and visibility. It hands whole frames to the replicator, in order,
//! and is told how far they are safe elsewhere; what lies below both that and what is durable here
//! is visible. It knows nothing of networks, never guesses, and never degrades by itself.
//!
//! | file | holds |
//! |---|---|
//! | `mod` | the trait |
//! | `handle` | what a replicator can do with the log |
//! | `history` | which epochs a log was written in, and how far two logs agree |
//! | `snapshot` | where a replica begins that is too far behind |
//! | `message` | what replicas say to one another |
//! | `quorum`, `follower` | k of n copies over any transport |
//! | `mirror` | a second directory |
//! | `conformance` | what every replicator must pass |

#[cfg(feature = "conformance")]
pub mod conformance;
pub(crate) mod follower;
pub(crate) mod handle;
pub(crate) mod history;
pub(crate) mod message;
pub(crate) mod mirror;
pub(crate) mod quorum;
pub(crate) mod snapshot;
#[cfg(test)]
pub(crate) mod testing;

use std::fmt;
use std::time::Duration;

use crate::error::Result;
use crate::offset::{Epoch, Position};
pub use crate::segment::frames::Frames;
pub use handle::{FrameId, LogHandle};
pub use history::{EpochStart, History, LogEnd};
pub use message::Message;
pub use mirror::Mirror;
pub use quorum::options::QuorumOptions;
pub use quorum::report::{PeerReport, PeerState, Role};
pub use quorum::{Link, Quorum};
pub use snapshot::Snapshot;

/// Whether replicas have what they should have; see [`Replicator::status`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReplicaStatus {
    /// Enough replicas are in sync.
    Healthy {
        /// Bytes of frames that are written and not safe on enough replicas yet.
        lag: u64,
    },
    /// The host said that the log shall go on with fewer copies than it is meant to have.
    Degraded {
        /// How many copies there must be now before an append is answered.
        copies: usize,
    },
    /// Too few replicas are there: appends are refused before anything is written.
    Unavailable {
        /// How many copies are needed, this one included.
        needed: usize,
        /// How many there are.
        available: usize,
    },
    /// Another replica leads, or none does.
    Following,
}

/// Carries a log's frames to other places, and says when they are safe there.
///
/// # To be correct
///
/// - [`LogHandle::advance`] says that all frames up to a position are held by as many replicas as
///   the host wants, durably, and that any replica that may ever be made the leader holds them.
/// - It counts a replica's word only if it was given in the epoch that leads now: what one said
///   to an earlier leader may be another history.
/// - No call but `detach` blocks. `offer` and `synced` are called in the middle of a commit, under
///   locks of the log: they may read the log, but not wait, and not call `lead`, `follow`,
///   `advance`, `ingest`, `truncate` or `reset`. `settle` may call `advance` besides, and no more.
/// - No call panics: a panic poisons the log.
pub trait Replicator: Send + Sync + fmt::Debug + 'static {
    /// The log is open. Called once, before `Options::open` returns. The log follows: it refuses
    /// appends until [`LogHandle::lead`] is called, here or later.
    ///
    /// # Errors
    ///
    /// Whatever keeps the log from being replicated; opening then fails with it.
    fn attach(&self, log: LogHandle) -> Result<()>;

    /// The identity of a log that is made now, the same for all its replicas. Without one it is
    /// drawn, and an empty replica takes over that of its first leader.
    fn log_id(&self) -> Option<u128> {
        None
    }

    /// Frames of the epoch that this log leads were written. Called in the order of the log, once
    /// for each group commit, beside the local sync.
    fn offer(&self, frames: &Frames);

    /// The local copy is durable below `end`, so that it may count as one.
    fn synced(&self, epoch: Epoch, end: Position) {
        let (_, _) = (epoch, end);
    }

    /// A commit is over. Called after each one, under no lock, by the thread that made it: the
    /// place for [`LogHandle::advance`] where the local copy was the last that was missing.
    fn settle(&self) {}

    /// The position from which on frames are kept for a replica that lags, whatever the
    /// [`Retention`](crate::Retention), up to
    /// [`Options::catch_up_bytes_max`](crate::Options::catch_up_bytes_max).
    fn needed_from(&self) -> Option<Position> {
        None
    }

    /// How it stands. Asked before each append, so it must be cheap.
    fn status(&self) -> ReplicaStatus;

    /// Called by the log's background thread a few times a second, with the time of its monotonic
    /// clock: for resends and heartbeats. Under no lock.
    fn tick(&self, now: Duration) {
        let _ = now;
    }

    /// The log was closed: all of it is written and durable here. The replicator may wait for up
    /// to `within` until it is safe elsewhere, and then forgets the handle.
    fn detach(&self, within: Duration);
}
