//! Reading a segment back into state and index, whether to open a log or to salvage one.

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::format::entry::{Entries, Entry};
use crate::format::frame::Header;
use crate::format::header::FIXED_BYTES;
use crate::offset::{Position, TopicId};
use crate::segment::index::{Point, SegmentIndex};
use crate::segment::scan::Visited;
use crate::segment::sealed::{bad_entry, starts_of};
use crate::segment::{Segment, Starts};
use crate::state::State;

/// The state and the index, while frames are read.
#[derive(Debug, Default)]
pub(super) struct Replay {
    pub(super) state: State,
    pub(super) starts: Starts,
    latest_ms: HashMap<TopicId, u64>,
    pub(super) index: SegmentIndex,
    after_gap: bool,
}

impl Replay {
    /// Begins with a segment's checkpoint.
    pub(super) fn of(segment: &Segment, checkpoint: &[u8]) -> Result<Self> {
        let entries = segment.head.checkpoint_entries;
        let starts = starts_of(checkpoint, entries, &segment.name)?;
        // A log that has frames has a topic. Where a later checkpoint has none, salvage has made
        // it for a head that was lost with all before it.
        let after_gap = segment.base() > Position(0) && entries == 0;
        let state = checkpointed(segment, checkpoint)?;
        Ok(Self { state, starts, after_gap, ..Self::default() })
    }

    /// Begins where a checkpoint was just made of `state`.
    pub(super) fn from_state(state: State) -> Self {
        let starts = Starts::of(&state);
        Self { state, starts, ..Self::default() }
    }

    /// Takes in what a scan comes by.
    pub(super) fn take(&mut self, segment: &Segment, visited: &Visited<'_>) -> Result<()> {
        match visited {
            Visited::Gap => {
                self.after_gap = true;
                Ok(())
            }
            Visited::Frame(header, body) => self.take_frame(segment, header, body),
        }
    }

    fn take_frame(&mut self, segment: &Segment, header: &Header, body: &[u8]) -> Result<()> {
        for entry in Entries::new(body, header.entries) {
            let entry = entry.map_err(|bad| bad_entry(&segment.name, header.position, &bad))?;
            let applied = if self.after_gap {
                self.state.apply_after_gap(&entry)
            } else {
                self.state.apply(&entry)
            };
            applied.map_err(|bad| {
                let at = segment.file_at(header.position);
                Error::corrupt(&segment.name, at, bad.expected, bad.found)
            })?;
            if let Entry::Message(message) = entry {
                let starts = &self.starts;
                let latest = self
                    .latest_ms
                    .entry(message.topic)
                    .or_insert_with(|| starts.latest_ms(message.topic));
                let (offset, latest_ms) = (message.offset, *latest);
                self.index.add(message.topic, Point { offset, at: header.position, latest_ms });
                *latest = message.timestamp_ms.max(*latest);
            }
        }
        Ok(())
    }
}

/// The state that a segment begins with.
fn checkpointed(segment: &Segment, checkpoint: &[u8]) -> Result<State> {
    let mut state = State::default();
    let at = FIXED_BYTES as u64;
    for entry in Entries::new(checkpoint, segment.head.checkpoint_entries) {
        let entry = entry.map_err(|bad| {
            Error::corrupt(&segment.name, at, "checkpoint entries", format!("{bad:?}"))
        })?;
        state
            .apply(&entry)
            .map_err(|bad| Error::corrupt(&segment.name, at, bad.expected, bad.found))?;
    }
    Ok(state)
}
