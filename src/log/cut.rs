//! Giving up the frames at a follower's end, and replacing all of a log by a snapshot: on its
//! files, in steps that opening can finish.
//!
//! The intent is on the disk before the first step and leaves it after the last one. Every step can
//! be done again.

use std::io;

use crate::clock::Clock;
use crate::commit::{Config, FIRST_SEGMENT_BYTES};
use crate::draws::Draws;
use crate::error::{Error, Result};
use crate::format::frame::Kind;
use crate::format::header::{SegmentHead, frames_at};
use crate::format::name;
use crate::offset::Position;
use crate::promise::{INTENT_AT, Intent, PromiseFile};
use crate::segment::chunk::usize_of;
use crate::segment::scan::{Scan, scan};
use crate::segment::sealed::open_segment;
use crate::segment::writer::{self, Blocks, Start, marker};
use crate::segment::{Segment, Tail};
use crate::storage::{Storage, read_full};

use super::open::{Listing, list};
use super::rewrite::salt_anew;

/// Where files are made and what they are made like.
pub(super) struct Bench<'a> {
    pub(super) storage: &'a dyn Storage,
    pub(super) config: &'a Config,
    pub(super) clock: &'a dyn Clock,
    pub(super) draws: &'a Draws,
}

/// A segment up to a position at which one of its frames ends.
pub(super) struct Kept {
    segment: Segment,
    checkpoint: Vec<u8>,
    tail: Tail,
}

/// Reads what a replica has promised, and finishes what was begun by its word.
///
/// The directory must be synced before: a rename that is seen need not be on the disk, and the
/// intent must not leave it first. Until this is done, no segment is to be read, and no `.tmp` to
/// be removed: it may be the only copy of what the log is to hold.
pub(super) fn open_promises(storage: &dyn Storage) -> Result<PromiseFile> {
    let kept = PromiseFile::open(storage)?;
    let intent = kept.get().intent;
    if intent != Intent::None {
        finish(storage, intent)?;
        kept.change(|promise| promise.intent = Intent::None)?;
    }
    Ok(kept)
}

/// Finishes what was begun, if anything was.
///
/// Fails with [`Error::Corrupt`] where files are missing that no step takes away. Then nothing is
/// changed, and the intent has to stay: without it, what is left would be taken for the log.
pub(super) fn finish(storage: &dyn Storage, intent: Intent) -> Result<()> {
    match intent {
        Intent::None => Ok(()),
        Intent::Truncate(end) => truncate(storage, end),
        Intent::Reset(base) => put_in_place(storage, base),
    }
}

/// Removes the segments behind the one that holds `end`, and gives the prepared one its place.
/// Where it is not there under its temporary name, that was done.
fn truncate(storage: &dyn Storage, end: Position) -> Result<()> {
    let listing = list(storage)?;
    let Some(base) = listing.bases.iter().rev().find(|base| **base <= end).copied() else {
        return Err(missing(format!("the segment to cut at {end}"), "none at or below it"));
    };
    let unfinished = name::unfinished(base);
    if !listing.temporary.contains(&unfinished) {
        return Ok(());
    }
    // The newest first: what is left has no hole, whenever this ends.
    for behind in listing.bases.iter().rev().filter(|behind| **behind > base) {
        remove(storage, *behind)?;
    }
    // Its index knows of what is given up.
    remove_name(storage, &name::index(base))?;
    writer::give_name(storage, &unfinished, &name::segment(base))
}

/// Removes all segments and gives the prepared one its place. Where it is not there under its
/// temporary name, that was done.
fn put_in_place(storage: &dyn Storage, base: Position) -> Result<()> {
    let listing = list(storage)?;
    let (unfinished, segment) = (name::unfinished(base), name::segment(base));
    if !listing.temporary.contains(&unfinished) {
        if listing.bases.contains(&base) {
            return Ok(());
        }
        return Err(missing(format!("{unfinished} or {segment}"), "neither"));
    }
    for base in listing.bases.iter().rev() {
        remove(storage, *base)?;
    }
    writer::give_name(storage, &unfinished, &segment)
}

fn missing(expected: String, found: &str) -> Error {
    Error::corrupt(name::replica(), INTENT_AT, expected, found)
}

/// Removes a segment and its index, durably.
fn remove(storage: &dyn Storage, base: Position) -> Result<()> {
    remove_name(storage, &name::index(base))?;
    remove_name(storage, &name::segment(base))?;
    sync_names(storage)
}

pub(super) fn sync_names(storage: &dyn Storage) -> Result<()> {
    storage.sync_directory().map_err(|e| Error::io("sync", storage.describe(), e))
}

fn remove_name(storage: &dyn Storage, file_name: &str) -> Result<()> {
    match storage.remove(file_name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io("remove", file_name, error))
        }
        _ => Ok(()),
    }
}

impl Bench<'_> {
    /// What is left of a log that is cut at `end`.
    ///
    /// Fails with [`Error::NotContinuous`] if no frame ends there.
    pub(super) fn keep(&self, listing: &Listing, end: Position) -> Result<Kept> {
        let base = listing.bases.iter().rev().find(|base| **base <= end);
        let start = listing.bases.first().copied().unwrap_or(end);
        let Some(base) = base else { return Err(Error::NotContinuous { start, end }) };
        let (segment, checkpoint) = open_segment(self.storage, *base)?;
        let Scan { end: found, tail, .. } = scan(&segment, Some(end), |_| Ok(()))?;
        if found != end {
            return Err(Error::NotContinuous { start: found, end });
        }
        Ok(Kept { segment, checkpoint, tail })
    }

    /// Makes a segment anew, without what lies behind `end`, durable with its temporary name. The
    /// old file is not written to: readers may have a map of it.
    pub(super) fn prepare_cut(&self, kept: &Kept, end: Position) -> Result<()> {
        let old = &kept.segment;
        let mut frames = vec![0; usize_of(end.0 - old.base().0)];
        let read = read_full(&*old.file, &mut frames, old.file_at(old.base()))
            .map_err(|e| Error::io("read", &old.name, e))?;
        if read < frames.len() {
            let at = old.file_at(old.base()) + read as u64;
            return Err(Error::corrupt(&old.name, at, "frames just read", "the end of the file"));
        }
        let SegmentHead { log_id, base, previous_base, sequence, epoch, created_ms, chain, .. } =
            old.head;
        let salt = self.draws.salt();
        let start = Start { log_id, base, previous_base, sequence, epoch, chain, created_ms, salt };
        salt_anew(old, &mut frames, base, salt)?;
        let spare = self.prepare(base, kept.checkpoint.len(), frames.len())?;
        let checkpoint = (kept.checkpoint.clone(), old.head.checkpoint_entries);
        let idle = marker(Kind::Idle, end, &kept.tail, end);
        writer::fill(spare, &start, &checkpoint, &frames, &idle)?;
        sync_names(self.storage)
    }

    fn prepare(
        &self,
        base: Position,
        checkpoint_bytes: usize,
        frame_bytes: usize,
    ) -> Result<writer::Spare> {
        let room = self.config.segment_bytes.min(FIRST_SEGMENT_BYTES);
        let needed = writer::file_bytes_for(frames_at(checkpoint_bytes), frame_bytes as u64);
        let bytes = needed + room;
        let unfinished = name::unfinished(base);
        // An earlier attempt may have left it.
        remove_name(self.storage, &unfinished)?;
        let prepare = |bytes| writer::prepare(self.storage, &unfinished, bytes, Blocks::Filled);
        match prepare(bytes) {
            // Without room for more, there may still be room for what is there.
            Err(Error::Full { .. }) => prepare(needed),
            prepared => prepared,
        }
    }

    /// Makes the segment of a snapshot, durable with its temporary name.
    pub(super) fn prepare_reset(&self, head: &SegmentHead, checkpoint: &[u8]) -> Result<()> {
        let spare = self.prepare(head.base, checkpoint.len(), 0)?;
        let start = Start {
            log_id: head.log_id,
            base: head.base,
            // Nothing lies before it here.
            previous_base: None,
            sequence: head.sequence,
            epoch: head.epoch,
            chain: head.chain,
            created_ms: head.created_ms,
            salt: self.draws.salt(),
        };
        let checkpoint = (checkpoint.to_vec(), head.checkpoint_entries);
        writer::fill(spare, &start, &checkpoint, &[], &start.marker())?;
        sync_names(self.storage)
    }
}
