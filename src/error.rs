//! One error type for the whole crate: matched by kind, never by text, and cheap to clone, since
//! one failed sync answers many waiters.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::offset::{Epoch, Offset, Position};

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed, with the values needed to act.
///
/// # Examples
///
/// ```
/// use ackline::Error;
///
/// fn advice(error: &Error) -> &'static str {
///     match error {
///         Error::Full { .. } => "free some space or let the consumers catch up",
///         Error::Poisoned { .. } => "reopen the log: it recovers what the disk really holds",
///         error if error.is_retryable() => "try again",
///         _ => "look at the message",
///     }
/// }
/// # assert_eq!(advice(&Error::Closed), "look at the message");
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another process, or another handle in this one, has the directory open.
    #[error("{path} is locked by {}", holder.map_or("another opener".to_owned(), |id| format!("process {id}")))]
    Locked {
        /// The directory.
        path: String,
        /// The process id of the holder, where it is known.
        holder: Option<u32>,
    },
    /// The path given to open exists and is not a directory.
    #[error("{path} is not a directory")]
    NotADirectory {
        /// The path.
        path: String,
    },
    /// The directory holds files but no log, so a new log is not made there.
    #[error("{path} holds no log, but the file {name}; choose an empty directory")]
    ForeignFile {
        /// The directory.
        path: String,
        /// One of the files in it.
        name: String,
    },
    /// The file was written by a newer version of this crate.
    #[error("{file} has format version {found}, this build reads up to {supported}")]
    UnsupportedVersion {
        /// The file.
        file: String,
        /// The version found in it.
        found: u8,
        /// The newest version that can be read.
        supported: u8,
    },
    /// Something that was promised to be on disk is damaged or missing. Nothing was changed but
    /// leftovers, and what a replica was in the middle of; see [`salvage`](crate::salvage). Where
    /// the file is `REPLICA`, salvage does not help: see `docs/replication.md`.
    #[error("corrupt log at byte {byte} of {file}: expected {expected}, found {found}")]
    Corrupt {
        /// The file.
        file: String,
        /// The byte position in the file.
        byte: u64,
        /// What should have been there.
        expected: String,
        /// What was there.
        found: String,
    },
    /// The operating system reported a failure.
    #[error("cannot {operation} {file}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The file or directory.
        file: String,
        /// The operating system's error.
        source: Arc<io::Error>,
    },
    /// An earlier write or sync failed, so that nothing more can be promised; reopen the log.
    #[error("the log is poisoned, reopen it: {cause}")]
    Poisoned {
        /// The first failure.
        #[source]
        cause: Arc<Error>,
    },
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
    /// There is no room. Nothing was written, and nothing is lost; appends succeed again once
    /// there is room.
    #[error("the disk or the log's size limit is full: {needed} bytes needed, {free} free")]
    Full {
        /// Bytes that are free.
        free: u64,
        /// Bytes that the call needs, a new segment included where one is needed.
        needed: u64,
    },
    /// The sync took longer than [`Options::sync_timeout`](crate::Options::sync_timeout). The
    /// outcome is *unknown*, not failed: the record is in the log and may yet become durable.
    #[error("not synced within {waited:?}{}", offset.map_or(String::new(), |o| format!(" (offset {o})")))]
    SyncTimeout {
        /// The offset that the record has, if it becomes durable.
        offset: Option<Offset>,
        /// How long the call waited.
        waited: Duration,
    },
    /// A topic or group name cannot be used.
    #[error("invalid name {name:?}: {reason}")]
    InvalidName {
        /// The name, cut after 300 characters.
        name: String,
        /// Why not.
        reason: &'static str,
    },
    /// An option's value cannot be used.
    #[error("invalid option {option}: {reason}")]
    InvalidOption {
        /// The option's name.
        option: &'static str,
        /// Why not.
        reason: String,
    },
    /// A payload, key, tag, header or batch is over its limit.
    #[error("{what} of {bytes} bytes is over the limit of {max}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size in bytes, or its number where the limit is a number.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// The offset is not, or no longer, in the topic.
    #[error("offset {offset} is outside {start}..{end}")]
    OffsetOutOfRange {
        /// The offset asked for.
        offset: Offset,
        /// The first offset that the topic still has.
        start: Offset,
        /// The offset after the last visible one.
        end: Offset,
    },
    /// [`Topic::append_if`](crate::Topic::append_if) found that someone else appended first.
    #[error("expected the next offset to be {expected}, it is {actual}")]
    Conflict {
        /// What the caller expected.
        expected: Offset,
        /// What it is.
        actual: Offset,
    },
    /// The message is not leased, so that there is nothing to acknowledge.
    #[error("offset {offset} is not leased")]
    NotLeased {
        /// The message.
        offset: Offset,
    },
    /// The message is acknowledged already.
    #[error("offset {offset} is already acknowledged")]
    AlreadyAcked {
        /// The message.
        offset: Offset,
    },
    /// The lease ended, and the message was leased again or the group was moved since.
    #[error("the lease of offset {offset} ended and the message was given out again")]
    StaleLease {
        /// The message.
        offset: Offset,
    },
    /// A delivery or a topic was handed to a batch of another log.
    #[error("{what} belongs to another log")]
    Foreign {
        /// What it is.
        what: &'static str,
    },
    /// Retention or salvage removed messages that the reader had not read. The next call goes on
    /// at `to`.
    #[error("the messages from {from} to {to} are gone")]
    Lagged {
        /// The first missing offset.
        from: Offset,
        /// The first offset that is there again.
        to: Offset,
    },
    /// Too few replicas are there, so nothing was written.
    #[error("{needed} replicas are needed, {available} are available")]
    ReplicasUnavailable {
        /// How many copies the replicator wants, this one included.
        needed: usize,
        /// How many it can have now.
        available: usize,
    },
    /// The replicator did not call the record safe within
    /// [`Options::replica_timeout`](crate::Options::replica_timeout). It is in the local log, and
    /// its outcome is *unknown*: it is invisible, and may become visible later or vanish with this
    /// leader. [`Topic::wait_visible`](crate::Topic::wait_visible) waits for it again.
    #[error("not replicated within {waited:?}{}", offset.map_or(String::new(), |o| format!(" (offset {o})")))]
    ReplicaTimeout {
        /// The offset that the record has, if it becomes visible.
        offset: Option<Offset>,
        /// How long the call waited.
        waited: Duration,
    },
    /// This replica does not lead: a newer epoch exists, or it was given none yet. A record that
    /// was on its way has an unknown outcome, as after [`Error::ReplicaTimeout`].
    #[error("this replica does not lead; it has promised to follow epoch {epoch}")]
    Fenced {
        /// The newest epoch that it knows.
        epoch: Epoch,
    },
    /// A replica was asked to lead and lacks what others hold, which may have been acknowledged.
    #[error(
        "this replica ends at position {end} in epoch {epoch}, but position {needed} in epoch {needed_epoch} is needed to lead"
    )]
    Lagging {
        /// The epoch of its last frame.
        epoch: Epoch,
        /// Where it ends.
        end: Position,
        /// The epoch of the last frame that another replica holds.
        needed_epoch: Epoch,
        /// Where that one ends.
        needed: Position,
    },
    /// Two replicas hold different frames where both promised theirs, or are no copies of one log.
    /// Nothing was changed; somebody has to decide which one is right.
    #[error("the replicas differ at position {at}: {reason}")]
    Diverged {
        /// Where they differ.
        at: Position,
        /// What is known of it.
        reason: String,
    },
    /// Frames do not begin where the log ends.
    #[error("frames from position {start} do not continue a log that ends at {end}")]
    NotContinuous {
        /// Where the frames begin.
        start: Position,
        /// Where the log ends.
        end: Position,
    },
    /// Bytes from another replica are not what they should be.
    #[error("not a {what}: {reason}")]
    Malformed {
        /// What was expected.
        what: &'static str,
        /// Why they are not.
        reason: String,
    },
}

impl Error {
    /// Whether the same call can succeed later without anything being repaired.
    ///
    /// A retry after [`Error::SyncTimeout`] or [`Error::ReplicaTimeout`] may store the record
    /// twice, since the first outcome is unknown.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Full { .. }
                | Self::SyncTimeout { .. }
                | Self::Locked { .. }
                | Self::ReplicasUnavailable { .. }
                | Self::ReplicaTimeout { .. }
        )
    }

    pub(crate) fn io(operation: &'static str, file: impl Into<String>, source: io::Error) -> Self {
        Self::Io { operation, file: file.into(), source: Arc::new(source) }
    }

    pub(crate) fn corrupt(
        file: impl Into<String>,
        byte: u64,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self::Corrupt { file: file.into(), byte, expected: expected.into(), found: found.into() }
    }

    /// What later calls answer once this error has poisoned the log.
    pub(crate) fn poisoned(&self) -> Self {
        match self {
            Self::Poisoned { .. } => self.clone(),
            cause => Self::Poisoned { cause: Arc::new(cause.clone()) },
        }
    }
}
