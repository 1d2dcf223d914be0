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
use crate::promise::Intent;
use crate::segment::chunk::usize_of;
use crate::segment::scan::{Scan, scan};
use crate::segment::sealed::open_segment;
use crate::segment::writer::{self, Start, marker};
use crate::segment::{Segment, Tail};
use crate::storage::{Storage, read_full};

use super::open::{Listing, list, salt_anew};

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

impl Bench<'_> {
    /// Finishes what was begun, if anything was.
    pub(super) fn finish(&self, intent: Intent) -> Result<()> {
        match intent {
            Intent::None => Ok(()),
            Intent::Truncate(end) => self.truncate(end),
            Intent::Reset(base) => self.put_in_place(base),
        }
    }

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

    /// Removes the segments behind the one that holds `end`, and gives the prepared one its place.
    /// Where it is not there under its temporary name, that was done.
    fn truncate(&self, end: Position) -> Result<()> {
        let listing = list(self.storage)?;
        let Some(base) = listing.bases.iter().rev().find(|base| **base <= end).copied() else {
            let start = listing.bases.first().copied().unwrap_or(end);
            return Err(Error::NotContinuous { start, end });
        };
        let unfinished = name::unfinished(base);
        if !listing.temporary.contains(&unfinished) {
            return Ok(());
        }
        // The newest first: what is left has no hole, whenever this ends.
        for behind in listing.bases.iter().rev().filter(|behind| **behind > base) {
            self.remove(*behind)?;
        }
        // Its index knows of what is given up.
        self.remove_name(&name::index(base))?;
        writer::give_name(self.storage, &unfinished, &name::segment(base))
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
        self.sync_names()
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
        self.remove_name(&unfinished)?;
        match writer::prepare(self.storage, &unfinished, bytes) {
            // Without room for more, there may still be room for what is there.
            Err(Error::Full { .. }) => writer::prepare(self.storage, &unfinished, needed),
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
        self.sync_names()
    }

    /// Removes all segments and gives the prepared one its place. Where it is not there under its
    /// temporary name, that was done.
    fn put_in_place(&self, base: Position) -> Result<()> {
        let listing = list(self.storage)?;
        let unfinished = name::unfinished(base);
        if !listing.temporary.contains(&unfinished) {
            return Ok(());
        }
        for base in listing.bases.iter().rev() {
            self.remove(*base)?;
        }
        writer::give_name(self.storage, &unfinished, &name::segment(base))
    }

    /// Removes a segment and its index, durably.
    fn remove(&self, base: Position) -> Result<()> {
        self.remove_name(&name::index(base))?;
        self.remove_name(&name::segment(base))?;
        self.sync_names()
    }

    fn sync_names(&self) -> Result<()> {
        let synced = self.storage.sync_directory();
        synced.map_err(|e| Error::io("sync", self.storage.describe(), e))
    }

    fn remove_name(&self, file_name: &str) -> Result<()> {
        match self.storage.remove(file_name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("remove", file_name, error))
            }
            _ => Ok(()),
        }
    }
}
