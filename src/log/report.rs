//! What opening found.

/// What opening a log found and did; see [`Log::report`](crate::Log::report).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenReport {
    /// How the last run ended.
    pub ending: Ending,
    /// Bytes of frames of the newest segment that were read to recover the state.
    pub replayed_bytes: u64,
    /// Bytes of whole frames at the end that nobody knew to be on the disk: they were written
    /// again to a new segment, and are durable now.
    pub rewritten_bytes: u64,
    /// Whether something behind the last whole frame was dropped: a torn write that nobody was
    /// promised.
    pub dropped_torn_tail: bool,
    /// Segments that the log has.
    pub segments: usize,
    /// Leftovers of unfinished steps that were removed.
    pub removed_files: Vec<String>,
    /// Files in the directory that are not the log's; they are left alone.
    pub foreign_files: Vec<String>,
}

/// How the last run of a log ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ending {
    /// There was none: the log was made.
    New,
    /// The log was closed.
    Closed,
    /// The process or the machine ended without closing it.
    Unclean,
}
