//! Moving what recovery could not prove to a new segment: what was read may have come from cached
//! pages that the disk never got. A crash between any two steps leaves the old state or the new one.

use crate::clock::Clock;
use crate::commit::{Config, FIRST_SEGMENT_BYTES};
use crate::draws::Draws;
use crate::error::{Error, Result};
use crate::format::frame::{HEADER_BYTES, Header, Kind};
use crate::format::header::frames_at;
use crate::format::name;
use crate::mutant::{self, Mutant};
use crate::offset::Position;
use crate::segment::Segment;
use crate::segment::chunk::usize_of;
use crate::segment::scan::{Place, Scan, scan_from};
use crate::segment::writer::{self, Blocks, Start, marker};
use crate::state::State;
use crate::storage::{Storage, read_full};

use super::replay::Replay;
use super::snapshot::Snapshot;

/// No more than one of so many parts of a file is left behind its end: whoever opens the log waits
/// while blocks are freed, and for a few of them longer than for any sync.
const REST_PARTS: u64 = 8;

/// A segment whose end nobody can vouch for.
pub(super) struct Part {
    pub(super) segment: Segment,
    pub(super) checkpoint: Vec<u8>,
    /// All below is on the disk for certain.
    pub(super) durable: Position,
    pub(super) scanned: Scan,
    /// The state at a place that is not above `durable`, and behind no gap.
    pub(super) snapshot: Option<Snapshot>,
}

impl Part {
    /// The state where what is not proven begins, and what lies there; the frames before it are
    /// read again.
    fn prove(&mut self) -> Result<(Scan, State)> {
        let (place, replay) = match self.snapshot.take() {
            Some(snapshot) => (snapshot.place, Replay::from_state(snapshot.state)),
            None => self.beginning()?,
        };
        let (proven, state) = self.read_from(place, replay, self.durable)?;
        // A gap must stay in front of what follows it: of each topic, messages may be missing there.
        match proven.gap.filter(|gap| *gap < self.durable) {
            Some(gap) => {
                let (place, replay) = self.beginning()?;
                self.read_from(place, replay, gap)
            }
            None => Ok((proven, state)),
        }
    }

    fn beginning(&self) -> Result<(Place, Replay)> {
        let replay = Replay::of(&self.segment, &self.checkpoint)?;
        Ok((Place::start(&self.segment.head), replay))
    }

    /// Reads up to a position at which a frame or a gap begins.
    fn read_from(&self, from: Place, mut replay: Replay, until: Position) -> Result<(Scan, State)> {
        let old = &self.segment;
        let proven = scan_from(old, from, until, |visited| replay.take(old, &visited))?;
        if proven.end != until {
            let (at, expected) = (old.file_at(proven.end), format!("a frame that ends at {until}"));
            return Err(Error::corrupt(&old.name, at, expected, format!("one to {}", proven.end)));
        }
        Ok((proven, replay.state))
    }
}

/// Makes the frames and gaps of a segment from `base` on those of a file with another salt.
pub(super) fn salt_anew(old: &Segment, frames: &mut [u8], base: Position, salt: u32) -> Result<()> {
    let mut at = 0;
    while let Some(rest) = frames.get_mut(at..).filter(|rest| !rest.is_empty()) {
        let (header, _) = Header::decode(rest, old.head.salt).map_err(|bad| {
            let byte = old.file_at(base) + at as u64;
            Error::corrupt(&old.name, byte, "the header just read", format!("{bad:?}"))
        })?;
        Header::salt_anew(rest, old.head.salt, salt);
        at = match header.kind {
            Kind::Gap => usize_of(header.durable.0 - base.0),
            _ => at + usize_of(header.frame_bytes()),
        };
    }
    Ok(())
}

/// Moves what is not proven to be durable to a new segment, and syncs it there. Returns the
/// segment, the state that it begins with, and the bytes of the file that is left before it.
pub(super) fn rewrite(
    storage: &dyn Storage,
    part: &mut Part,
    config: &Config,
    (clock, draws): (&dyn Clock, &Draws),
) -> Result<(Segment, State, u64)> {
    let (proven, state) = part.prove()?;
    let (old, base) = (&part.segment, proven.end);
    let bytes = usize_of(part.scanned.end.0 - base.0);
    let mut tail = vec![0; bytes];
    let read = read_full(&*old.file, &mut tail, old.file_at(base))
        .map_err(|e| Error::io("read", &old.name, e))?;
    if read < bytes {
        let at = old.file_at(base) + read as u64;
        return Err(Error::corrupt(&old.name, at, "the frames just read", "the end of the file"));
    }
    // Once the new file is synced all of it is durable, and says so: a crash before the next
    // write finds nothing to prove again.
    let end = part.scanned.end;
    let idle = marker(Kind::Idle, end, &part.scanned.tail, end);
    let mut checkpoint = Vec::new();
    let entries = state.encode(&mut checkpoint);
    let moves_whole_segment = base == old.base();
    let start = Start {
        log_id: old.head.log_id,
        base,
        previous_base: if moves_whole_segment { old.head.previous_base } else { Some(old.base()) },
        sequence: proven.tail.sequence,
        epoch: proven.tail.epoch,
        chain: proven.tail.chain,
        created_ms: if moves_whole_segment { old.head.created_ms } else { clock.wall_ms() },
        salt: if mutant::on(Mutant::SaltKept) { old.head.salt } else { draws.salt() },
    };
    salt_anew(old, &mut tail, base, start.salt)?;
    let needed = writer::file_bytes_for(frames_at(checkpoint.len()), bytes as u64);
    let room = config.segment_bytes.min(FIRST_SEGMENT_BYTES);
    let temporary = name::unfinished(base);
    // Whoever opens a log waits for this: zeros would save less than they cost.
    let prepare = |bytes| writer::prepare(storage, &temporary, bytes, Blocks::Reserved);
    let spare = match prepare(needed + room) {
        // Without room for more, there may still be room for what is there.
        Err(Error::Full { .. }) => prepare(needed)?,
        prepared => prepared?,
    };
    if mutant::on(Mutant::CutBeforeCopy) && !moves_whole_segment {
        old.file.set_size(old.file_at(base)).map_err(|e| Error::io("cut", &old.name, e))?;
    }
    let segment = writer::activate(storage, spare, &start, &(checkpoint, entries), &tail, &idle)?;
    let mut left_bytes = 0;
    if !moves_whole_segment {
        // The new segment is in place: what lies behind its base in the old one is a copy.
        let is_marked = config.media.may_mark(old, base);
        if is_marked {
            let sealed = marker(Kind::Sealed, base, &proven.tail, base);
            writer::mark(old, &sealed)?;
        }
        left_bytes = old.file_at(base) + HEADER_BYTES as u64;
        let rest_bytes = old.file_bytes.saturating_sub(left_bytes);
        // Without a marker, that it was cut is all that tells of the next segment, should it be lost.
        if !is_marked || rest_bytes > old.file_bytes / REST_PARTS {
            old.file.set_size(left_bytes).map_err(|e| Error::io("cut", &old.name, e))?;
            if !is_marked {
                old.file.sync().map_err(|e| Error::io("sync", &old.name, e))?;
            }
        } else {
            left_bytes += rest_bytes;
        }
    }
    Ok((segment, state, left_bytes))
}
