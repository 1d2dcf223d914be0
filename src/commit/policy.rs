//! When a commit is synced, and so what an append waits for.

use std::time::Duration;

use crate::error::{Error, Result};

/// What [`Topic::append`](crate::Topic::append) waits for, and what a power loss can take.
///
/// | policy | `append` returns when | what can be lost |
/// |---|---|---|
/// | [`EachAppend`](Self::EachAppend) | its own frame has been synced alone | nothing |
/// | [`GroupCommit`](Self::GroupCommit) (default) | the frame that carries it is synced | nothing |
/// | [`Interval`](Self::Interval) | it is written to the operating system | power loss: the interval |
/// | [`Never`](Self::Never) | it is written to the operating system | power loss: whatever it held |
///
/// The end of the process alone loses nothing that was written under any policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SyncPolicy {
    /// Each call has a write and a sync of its own.
    EachAppend,
    /// One write and one sync for all calls that came while the one before was under way.
    GroupCommit {
        /// How long the leader waits for company before it writes. Zero, the default, adds no
        /// delay: company gathers while a sync is under way.
        linger: Duration,
    },
    /// Appends return when written; a sync follows in the background, and readers see messages
    /// once it is done.
    Interval {
        /// A sync follows after this time at the latest.
        every: Duration,
        /// A sync follows once this many bytes were written.
        bytes: u64,
    },
    /// Nothing is synced until a segment is full or about to be deleted, a topic or group is
    /// made, a group is committed or moved, the log is closed or
    /// [`Log::sync`](crate::Log::sync) is called; and every 8 MiB in the background, so that what is
    /// left of a full segment does not take long. Readers see what is written: a power loss can
    /// take back what a consumer has already seen.
    Never,
}

/// Under [`SyncPolicy::Never`], so many bytes are synced behind the writes. A full segment has to be
/// durable before the next one begins, and all of it at once takes the disk a tenth of a second.
const NEVER_BEHIND_BYTES: u64 = 8 * 1024 * 1024;

impl Default for SyncPolicy {
    fn default() -> Self {
        Self::GroupCommit { linger: Duration::ZERO }
    }
}

impl SyncPolicy {
    /// [`Interval`](Self::Interval) with RocketMQ's flush interval of 500 ms for asynchronous
    /// flush, and 16 MiB.
    pub const fn interval() -> Self {
        Self::Interval { every: Duration::from_millis(500), bytes: 16 * 1024 * 1024 }
    }

    /// Whether the leader syncs what it writes.
    pub(crate) fn syncs_commits(self) -> bool {
        matches!(self, Self::EachAppend | Self::GroupCommit { .. })
    }

    /// After so many bytes, the background syncs what was written, where commits are not synced.
    pub(crate) fn synced_behind(self) -> u64 {
        match self {
            Self::Interval { bytes, .. } => bytes,
            _ => NEVER_BEHIND_BYTES,
        }
    }

    pub(crate) fn linger(self) -> Duration {
        match self {
            Self::GroupCommit { linger } => linger,
            _ => Duration::ZERO,
        }
    }

    pub(crate) fn check(self) -> Result<()> {
        let bad =
            |option, reason: &str| Err(Error::InvalidOption { option, reason: reason.to_owned() });
        match self {
            Self::GroupCommit { linger } if linger > Duration::from_secs(1) => {
                bad("linger", "more than a second only adds delay")
            }
            Self::Interval { every: Duration::ZERO, .. } | Self::Interval { bytes: 0, .. } => {
                bad("interval", "zero would sync without pause; use GroupCommit")
            }
            _ => Ok(()),
        }
    }
}
