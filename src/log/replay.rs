//! Reading a segment back into state and index, whether to open a log or to salvage one.

use crate::error::{Error, Result};
use crate::format::entry::{Entries, Entry};
use crate::format::frame::Header;
use crate::format::header::FIXED_BYTES;
use crate::offset::Position;
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

    /// Whether something may be missing of what came before.
    pub(super) fn is_after_gap(&self) -> bool {
        self.after_gap
    }

    /// Takes in what a scan comes by.
    pub(super) fn take(&mut self, segment: &Segment, visited: &Visited<'_>) -> Result<()> {
        match visited {
            Visited::Gap => {
                self.take_gap();
                Ok(())
            }
            Visited::Frame(header, body) => self.take_frame(segment, header, body),
        }
    }

    pub(super) fn take_gap(&mut self) {
        self.after_gap = true;
    }

    fn take_frame(&mut self, segment: &Segment, header: &Header, body: &[u8]) -> Result<()> {
        let mut entries = Entries::new(body, header.entries);
        while let Some(decoded) = entries.next() {
            // By reference: an entry is large, and there are many.
            let entry = match &decoded {
                Ok(entry) => entry,
                Err(bad) => return Err(bad_entry(&segment.name, header.position, bad)),
            };
            let latest_ms = match entry {
                Entry::Message(message) => {
                    self.state.topic(message.topic).map_or(0, |topic| topic.latest_ms)
                }
                _ => 0,
            };
            let applied = if self.after_gap {
                self.state.apply_after_gap(entry)
            } else {
                self.state.apply(entry)
            };
            applied.map_err(|bad| {
                let at = segment.file_at(header.position);
                Error::corrupt(&segment.name, at, bad.expected, bad.found)
            })?;
            let Entry::Message(message) = entry else { continue };
            let (topic, offset, at) = (message.topic, message.offset, header.position);
            self.index.add(topic, Point { offset, at, latest_ms });
            // Most frames have a run of one topic, of which only the first message needs a point.
            let run = entries.take_run(topic, offset + 1);
            self.state.append_run(topic, &run);
            self.index.extend_to(topic, offset + 1 + run.messages);
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
