//! Numbers about a log, for monitoring.

use crate::commit::replicas::Standing;
use crate::offset::{Epoch, Position};
use crate::shared::Shared;
use crate::sync::Tally;
use crate::sync::atomic::Ordering;

/// Numbers about a log since it was opened; see [`Log::stats`](crate::Log::stats).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Messages that were written.
    pub appended: u64,
    /// Frames that were written, those with progress alone included.
    pub frames: u64,
    /// Writes, each followed by a sync under the policies that sync commits.
    pub writes: u64,
    /// Syncs of the active segment.
    pub syncs: u64,
    /// Bytes of frames that were written, headers and padding included; segment heads and
    /// zero-filling are not.
    pub bytes: u64,
    /// Times that a new segment was put in place.
    pub rolls: u64,
    /// Calls that were refused for want of room.
    pub refused_full: u64,
    /// Sidecar indexes that could not be written and will be made again when needed.
    pub index_failures: u64,
    /// Segments that exist.
    pub segments: usize,
    /// The sizes of all segment files together, in bytes.
    pub segment_bytes: u64,
    /// Everything below is written.
    pub written: Position,
    /// Everything below is durable.
    pub durable: Position,
    /// Readers see everything below.
    pub visible: Position,
    /// Replicas hold everything below, as far as the replicator has said; none without one.
    pub replicated: Option<Position>,
    /// The epoch that this log leads, or has promised to follow; 0 without a replicator.
    pub epoch: Epoch,
    /// Whether it takes appends: without a replicator, always.
    pub leads: bool,
    /// Topics that exist.
    pub topics: usize,
    /// Groups that exist.
    pub groups: usize,
    /// A write or sync failed: the log must be reopened.
    pub poisoned: bool,
}

pub(crate) fn gather(shared: &Shared) -> Stats {
    let commits = &shared.commits;
    let counters = &commits.counters;
    let get = |counter: &Tally| counter.load(Ordering::Relaxed);
    let core = commits.core.lock();
    let (topics, groups) = (core.state.topics().len(), core.state.groups().len());
    let segment_bytes = core.log_bytes;
    drop(core);
    let (leads, epoch) = match commits.standing() {
        Standing::Alone => (true, Epoch(0)),
        Standing::Leading { epoch, .. } => (true, epoch),
        Standing::Following { promised } => (false, promised),
    };
    Stats {
        appended: get(&counters.appended),
        frames: get(&counters.frames),
        writes: get(&counters.writes),
        syncs: get(&counters.syncs),
        bytes: get(&counters.bytes),
        rolls: get(&counters.rolls),
        refused_full: get(&counters.refused_full),
        index_failures: get(&counters.index_failures),
        segments: commits.segments.view().bases.len(),
        segment_bytes,
        written: commits.marks.written(),
        durable: commits.marks.durable(),
        visible: commits.marks.visible(),
        replicated: commits.replicas.as_ref().map(|_| commits.marks.replicated()),
        epoch,
        leads,
        topics,
        groups,
        poisoned: commits.latch.get().is_some(),
    }
}
