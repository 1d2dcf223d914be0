//! Where a replica begins that has nothing in common with the leader, or lags behind what the
//! leader has kept: the head of a segment, with the whole state in it.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::header::{FIXED_BYTES, SegmentHead};
use crate::offset::{Epoch, Position};

/// The whole state of a log at the beginning of one of its segments, without any message. A
/// replica that is reset to it goes on with the frames from [`Snapshot::position`] on.
#[derive(Clone)]
pub struct Snapshot {
    pub(crate) head: SegmentHead,
    /// Head and checkpoint, as they lie on the disk.
    bytes: Arc<Vec<u8>>,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot")
            .field("position", &self.head.base.0)
            .field("epoch", &self.head.epoch)
            .field("bytes", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

impl PartialEq for Snapshot {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Snapshot {}

impl Snapshot {
    pub(crate) fn new(head: SegmentHead, checkpoint: &[u8]) -> Self {
        let bytes = Arc::new(head.encode(checkpoint));
        Self { head, bytes }
    }

    /// Reads a snapshot that another replica has sent.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] if a checksum does not match.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        let bad = |reason: String| Error::Malformed { what: "snapshot", reason };
        let head = SegmentHead::decode(&bytes, "snapshot").map_err(|e| bad(e.to_string()))?;
        let checkpoint = FIXED_BYTES..FIXED_BYTES + head.checkpoint_bytes as usize;
        let found = bytes.get(checkpoint).map(crc32fast::hash);
        if found != Some(head.checkpoint_checksum) || bytes.len() as u64 != head.frames_at() {
            return Err(bad("the checkpoint is damaged".to_owned()));
        }
        Ok(Self { head, bytes: Arc::new(bytes) })
    }

    /// The snapshot as it travels; [`from_bytes`](Self::from_bytes) reads it.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Drawn when the log was made; the same in all replicas of it.
    pub fn log_id(&self) -> u128 {
        self.head.log_id
    }

    /// The position of the first frame that is not in the state.
    pub fn position(&self) -> Position {
        self.head.base
    }

    /// The epoch of the frame before.
    pub fn epoch(&self) -> Epoch {
        Epoch(self.head.epoch)
    }

    pub(crate) fn checkpoint(&self) -> &[u8] {
        &self.bytes[FIXED_BYTES..FIXED_BYTES + self.head.checkpoint_bytes as usize]
    }
}
