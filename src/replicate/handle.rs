//! What a replicator can do with the log that it was attached to.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::commit::replicas::Standing;
use crate::error::{Error, Result};
use crate::offset::{Epoch, Position};
use crate::pending::Pending;
use crate::record::Record;
use crate::segment::frames::Frames;
use crate::shared::Shared;
use crate::watermark::Ack;

use super::history::{History, LogEnd};
use super::snapshot::Snapshot;

/// A log in the hands of its [`Replicator`](super::Replicator). Cheap to clone. It does not keep
/// the log open: once that is closed, all calls answer [`Error::Closed`].
#[derive(Clone)]
pub struct LogHandle {
    shared: Weak<Shared>,
}

/// A frame in all replicas of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameId {
    /// In which epoch it was written.
    pub epoch: Epoch,
    /// Its number: dense from 0.
    pub sequence: u64,
    /// Where it begins.
    pub start: Position,
    /// The position behind it.
    pub end: Position,
}

impl fmt::Debug for LogHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogHandle").finish_non_exhaustive()
    }
}

impl LogHandle {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::downgrade(shared) }
    }

    fn shared(&self) -> Result<Arc<Shared>> {
        self.shared.upgrade().ok_or(Error::Closed)
    }

    /// The newest epoch that this replica has promised not to go behind. Durable.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`], [`Error::Poisoned`].
    pub fn promised(&self) -> Result<Epoch> {
        Ok(self.shared()?.promise()?.epoch)
    }

    /// The epoch that this log leads, if it leads.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`], [`Error::Poisoned`].
    pub fn leading(&self) -> Result<Option<Epoch>> {
        let shared = self.shared()?;
        shared.check_attached()?;
        Ok(match shared.commits.standing() {
            Standing::Leading { epoch, .. } => Some(epoch),
            _ => None,
        })
    }

    /// What this log says of itself to others.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`], [`Error::Poisoned`].
    pub fn history(&self) -> Result<History> {
        self.shared()?.history()
    }

    /// The position below which frames are written here.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`], [`Error::Poisoned`].
    pub fn written(&self) -> Result<Position> {
        let shared = self.shared()?;
        shared.check_attached()?;
        Ok(shared.commits.marks.written())
    }

    /// The position below which frames are durable here.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`], [`Error::Poisoned`].
    pub fn durable(&self) -> Result<Position> {
        let shared = self.shared()?;
        shared.check_attached()?;
        Ok(shared.commits.marks.durable())
    }

    /// The position below which readers see the log.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`], [`Error::Poisoned`].
    pub fn visible(&self) -> Result<Position> {
        let shared = self.shared()?;
        shared.check_attached()?;
        Ok(shared.commits.marks.visible())
    }

    /// Promises to follow `epoch` and no leader of an older one, durably, and leads no more. Whoever
    /// waits for an older epoch's appends gets [`Error::Fenced`].
    ///
    /// # Errors
    ///
    /// [`Error::Fenced`] if a newer epoch was promised; [`Error::InvalidOption`] if the epoch is not
    /// below 2⁶².
    pub fn follow(&self, epoch: Epoch) -> Result<()> {
        self.shared()?.follow(epoch)
    }

    /// Makes this log the leader of `epoch`: appends are taken from now on.
    ///
    /// `needed` is how far the furthest of the replicas goes that have promised this epoch: of as
    /// many as it takes that one of them holds whatever was acknowledged.
    ///
    /// # Errors
    ///
    /// [`Error::Lagging`] if this log does not go as far as `needed`; [`Error::Fenced`] if a newer
    /// epoch was promised, or frames of this epoch or a newer one exist; [`Error::InvalidOption`] if
    /// the epoch is not below 2⁶².
    pub fn lead(&self, epoch: Epoch, needed: LogEnd) -> Result<()> {
        self.shared()?.lead(epoch, needed)
    }

    /// Says that enough replicas hold all frames below `end`. Monotone and idempotent. Of a leader,
    /// nothing counts before a frame of its own epoch does.
    ///
    /// # Errors
    ///
    /// [`Error::Fenced`] if `epoch` is not the one that this log leads or follows.
    pub fn advance(&self, epoch: Epoch, end: Position) -> Result<()> {
        let shared = self.shared()?;
        shared.check_attached()?;
        shared.commits.advance(epoch, end)
    }

    /// The time by the log's clock, as long as there is a log.
    pub(crate) fn now(&self) -> Option<Duration> {
        self.shared().ok().map(|shared| shared.commits.clock.monotonic())
    }

    /// Reads whole frames of one epoch from `from` on, at most about `bytes_max` bytes of them but at
    /// least one, durable or not. `None` at the end of what is written.
    ///
    /// # Errors
    ///
    /// [`Error::NotContinuous`] if nothing begins there or it is not kept any more: take
    /// [`snapshot`](Self::snapshot). [`Error::Corrupt`], also at a gap that salvage has left;
    /// [`Error::Io`], [`Error::Closed`], [`Error::Poisoned`].
    pub fn read(&self, from: Position, bytes_max: usize) -> Result<Option<Frames>> {
        let shared = self.shared()?;
        shared.check_attached()?;
        let commits = &shared.commits;
        commits.segments.frames(from, commits.marks.written(), bytes_max)
    }

    /// Appends frames of the leader of `epoch`. They may overlap with what is there already. The
    /// handle resolves once all of them are durable, with where the log then ends (at least).
    ///
    /// The handle's errors: [`Error::Fenced`] if a newer epoch was promised (a newer one than was
    /// promised is promised first); [`Error::NotContinuous`] if they begin behind the end;
    /// [`Error::Diverged`] if they differ from what is there.
    pub fn ingest(&self, epoch: Epoch, frames: &Frames) -> Pending<Position> {
        self.ingest_for(epoch, frames, false)
    }

    /// The same for a caller who is about to wait, so that no other thread has to be woken.
    pub(crate) fn ingest_to_wait(&self, epoch: Epoch, frames: &Frames) -> Pending<Position> {
        self.ingest_for(epoch, frames, true)
    }

    fn ingest_for(&self, epoch: Epoch, frames: &Frames, caller_waits: bool) -> Pending<Position> {
        let ingested = self.shared().and_then(|shared| {
            if epoch > shared.promise()?.epoch {
                shared.follow(epoch)?;
            }
            shared.commits.ingest(epoch, frames, caller_waits)
        });
        match ingested {
            Ok(ticket) => Pending::queued(frames.end(), |_| None, ticket, Ack::Synced),
            Err(error) => Pending::failed(error),
        }
    }

    /// Appends a record to a topic as one frame of its own, of `epoch`; the topic is made if it is
    /// missing. For an engine that owns the order, such as one of Raft, and gives every replica the
    /// same records in the same order: the frame's sequence number is the record's index, and its
    /// epoch the term. The handle resolves once it is durable.
    ///
    /// A newer epoch than was promised is promised first. An older one is taken as long as it is not
    /// older than that of the frame before: a leader of Raft hands on what earlier ones have left. So
    /// whether the caller still leads is for the engine to know.
    ///
    /// A record without a timestamp gets 0, so that all replicas write the same bytes.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`], [`Error::InvalidName`], [`Error::Full`]; [`Error::Fenced`] if the frame
    /// before is of a newer epoch; [`Error::Diverged`] if this log leads. The handle's errors:
    /// [`Error::Poisoned`].
    pub fn append<'a>(
        &self,
        epoch: Epoch,
        topic: &str,
        record: impl Into<Record<'a>>,
    ) -> Result<(FrameId, Pending<FrameId>)> {
        let (record, shared) = (record.into(), self.shared()?);
        crate::format::name::check(topic)?;
        record.check(shared.limits.payload_bytes_max)?;
        if epoch > shared.promise()?.epoch {
            shared.follow(epoch)?;
        }
        let content = (&record.content(), record.timestamp_ms(0));
        let topic = (topic, shared.limits.topics_max);
        let (header, ticket) = shared.commits.append_ordered(epoch, topic, content)?;
        let id = FrameId {
            epoch,
            sequence: header.sequence,
            start: header.position,
            end: header.position.plus(header.frame_bytes()),
        };
        Ok((id, Pending::queued(id, |_| None, ticket, Ack::Synced)))
    }

    /// Deletes the oldest segments that lie wholly below `end` and below what is visible, consumed
    /// or not; returns the first position that is left. For an engine that purges its log: what it
    /// purged last it keeps in the [cell](Self::store_cell), since segments go as a whole.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], [`Error::Closed`], [`Error::Poisoned`].
    pub fn purge(&self, end: Position) -> Result<Position> {
        crate::retention::purge(&*self.shared()?, end)
    }

    /// Removes all frames from `end` on, durably. For followers of `epoch` alone.
    ///
    /// # Errors
    ///
    /// [`Error::Diverged`] if frames are visible behind `end`: nothing is removed.
    /// [`Error::Fenced`], [`Error::NotContinuous`] if no frame ends there.
    pub fn truncate(&self, epoch: Epoch, end: Position) -> Result<()> {
        self.shared()?.truncate(epoch, end)
    }

    /// The state at the beginning of the oldest segment.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`], [`Error::Io`], [`Error::Closed`], [`Error::Poisoned`].
    pub fn snapshot(&self) -> Result<Snapshot> {
        self.shared()?.snapshot()
    }

    /// Replaces all that the log holds by a snapshot of the leader of `epoch`. An empty log takes
    /// one of any log and is a replica of that one from then on.
    ///
    /// # Errors
    ///
    /// [`Error::Fenced`]; [`Error::Diverged`] if the log holds frames of another log, or any behind
    /// the snapshot's position: truncate them first, where they may go.
    pub fn reset(&self, epoch: Epoch, snapshot: &Snapshot) -> Result<()> {
        self.shared()?.reset(epoch, snapshot)
    }

    /// What was stored last by [`store_cell`](Self::store_cell); empty before.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`], [`Error::Poisoned`].
    pub fn cell(&self) -> Result<Vec<u8>> {
        Ok(self.shared()?.promise()?.cell)
    }

    /// Stores up to 256 bytes of the host's, say a vote, durably before it returns: before whatever
    /// is appended later, behind what was appended and synced before.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`], [`Error::Closed`], [`Error::Poisoned`].
    pub fn store_cell(&self, bytes: &[u8]) -> Result<()> {
        self.shared()?.store_cell(bytes)
    }
}

#[cfg(test)]
mod tests {
    use crate::replicate::{Quorum, QuorumOptions};
    use crate::storage::sim::{SimClock, SimDisk};
    use crate::{Epoch, Error, Options};
    use std::sync::Arc;

    #[test]
    fn an_engine_makes_no_more_topics_than_anybody_may() {
        let quorum = Quorum::new(&QuorumOptions::new(1), Vec::new()).expect("possible");
        let mut options = Options::new().replicator(Arc::new(quorum));
        options.topics_max = 2;
        let options = options.simulated(Arc::new(SimClock::new()), 1);
        let log = options.open_on(SimDisk::new(1).storage()).expect("opens");
        let append = |topic| log.replica().append(Epoch(1), topic, "a").map(|(id, _)| id.sequence);
        for (sequence, topic) in [(0, "a"), (1, "b"), (2, "a")] {
            assert_eq!(append(topic).expect("it may"), sequence);
        }
        let refused = append("c");
        let expected =
            matches!(refused, Err(Error::TooLarge { what: "number of topics", bytes: 3, max: 2 }));
        assert!(expected, "{refused:?}");
        assert_eq!(append("b").expect("the log goes on"), 3);
    }
}
