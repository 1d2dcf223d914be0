//! The state at places that are known to be durable, kept while a segment is read: so that what
//! was proven need not be read once more from its beginning.

use crate::format::header::SegmentHead;
use crate::segment::Tail;
use crate::segment::scan::{Place, Visited};
use crate::state::State;

use super::replay::Replay;

/// Into how many parts snapshots divide a segment, at most: only one part is read once more.
const PARTS: u64 = 64;

/// How many times as much as the checkpoint is read between two snapshots, at least: to copy a
/// large state would cost more than to read a few frames.
const STRIDE_CHECKPOINTS: u64 = 4;

/// The state at the start of a frame, below which everything is durable.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) place: Place,
    pub(super) state: State,
}

/// Takes the snapshots, and keeps the last.
#[derive(Debug)]
pub(super) struct Snapshots {
    last: Option<Snapshot>,
    stride_bytes: u64,
    /// No snapshot is taken before this position.
    due: u64,
    /// That of the frame before.
    epoch: u64,
}

impl Snapshots {
    pub(super) fn of(head: &SegmentHead) -> Self {
        let checkpoints = u64::from(head.checkpoint_bytes) * STRIDE_CHECKPOINTS;
        let stride_bytes = checkpoints.max(head.file_bytes / PARTS);
        Self { last: None, stride_bytes, due: head.base.0 + stride_bytes, epoch: head.epoch }
    }

    /// Looks at what a scan comes by, before it is taken in.
    pub(super) fn look(&mut self, visited: &Visited<'_>, replay: &Replay) {
        // What follows a gap is read together with it.
        let Visited::Frame(header, _) = visited else { return };
        // The header says itself that all before it is durable.
        let is_proven = header.durable >= header.position && !replay.is_after_gap();
        if is_proven && header.position.0 >= self.due {
            let (sequence, chain) = (header.sequence, header.previous);
            let tail = Tail { sequence, chain, epoch: self.epoch };
            let place = Place { at: header.position, tail };
            self.last = Some(Snapshot { place, state: replay.state.clone() });
            self.due = header.position.0 + self.stride_bytes;
        }
        self.epoch = header.epoch;
    }

    pub(super) fn last(self) -> Option<Snapshot> {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::frame::{Header, Kind};
    use crate::offset::Position;

    const HEAD: SegmentHead = SegmentHead {
        log_id: 1,
        base: Position(0),
        previous_base: None,
        sequence: 0,
        epoch: 3,
        created_ms: 0,
        chain: 0,
        checkpoint_bytes: 0,
        checkpoint_entries: 0,
        checkpoint_checksum: 0,
        file_bytes: 64 * 100,
        salt: 0,
    };

    /// Where the last snapshot is of frames at these positions, with these watermarks.
    fn last(frames: &[(u64, u64)], gap_before: Option<u64>) -> Option<u64> {
        let (mut snapshots, mut replay) = (Snapshots::of(&HEAD), Replay::default());
        for (sequence, (at, durable)) in (0..).zip(frames) {
            if gap_before == Some(*at) {
                replay.take_gap();
            }
            let header = Header {
                kind: Kind::Frame,
                body_bytes: 8,
                entries: 1,
                sequence,
                position: Position(*at),
                epoch: 4 + sequence,
                previous: 0,
                body_checksum: 0,
                durable: Position(*durable),
            };
            snapshots.look(&Visited::Frame(&header, &[]), &replay);
        }
        let place = snapshots.last()?.place;
        assert_eq!(place.tail.epoch, 3 + place.tail.sequence, "that of the frame before");
        Some(place.at.0)
    }

    #[test]
    fn a_snapshot_is_taken_in_each_part_of_a_segment_where_all_before_is_durable() {
        assert_eq!(last(&[(0, 0), (99, 99)], None), None);
        assert_eq!(last(&[(0, 0), (100, 100), (150, 150)], None), Some(100));
        assert_eq!(last(&[(0, 0), (100, 100), (200, 200)], None), Some(200));
        assert_eq!(last(&[(0, 0), (100, 100), (200, 199)], None), Some(100));
        assert_eq!(last(&[(0, 0), (100, 50), (200, 50)], None), None);
    }

    #[test]
    fn no_snapshot_is_taken_behind_a_gap() {
        assert_eq!(last(&[(0, 0), (100, 100), (200, 200)], Some(200)), Some(100));
        assert_eq!(last(&[(0, 0), (100, 100), (200, 200)], Some(100)), None);
    }
}
