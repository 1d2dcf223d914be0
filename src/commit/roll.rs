//! Going on in a new segment, and what happens when there is no room for one.

use crate::error::{Error, Result};
use crate::format::frame::Kind;
use crate::format::{header, name};
use crate::mutant::{self, Mutant};
use crate::segment::index::SegmentIndex;
use crate::segment::writer::{self, Spare, Start, marker};
use crate::segment::{Active, Starts};
use crate::storage::is_full;
use crate::sync::RwLock;
use crate::sync::atomic::Ordering;

use super::replicas::Seen;
use super::{Class, Commits, Counters};

/// The first segment of a log has this size at most; later ones double up to the option, so
/// that a small queue stays small on disk and opens fast.
pub(crate) const FIRST_SEGMENT_BYTES: u64 = 1024 * 1024;

/// The need of whoever puts a new segment in place for its own sake: to open or close the log.
const WHATEVER_ROOM: u64 = u64::MAX;

/// Ends the time in which nothing may be queued, on every way out.
pub(crate) struct Rolling<'a>(&'a Commits);

impl Drop for Rolling<'_> {
    fn drop(&mut self) {
        if let Some(mut core) = self.0.core.lock_in_drop() {
            core.rolling = false;
        }
        self.0.room.notify();
    }
}

/// Ends the time in which the spare's file name is taken, on every way out.
struct Preparing<'a>(&'a Commits);

impl Drop for Preparing<'_> {
    fn drop(&mut self) {
        if let Some(mut core) = self.0.core.lock_in_drop() {
            core.preparing = false;
        }
        self.0.room.notify();
    }
}

impl Commits {
    /// The size of the segment after the active one.
    pub(crate) fn next_segment_bytes(&self) -> u64 {
        let active = self.segments.active().segment.file_bytes;
        active.saturating_mul(2).max(FIRST_SEGMENT_BYTES).min(self.config.segment_bytes)
    }

    /// Puts a new segment in place that has room for `need` bytes.
    ///
    /// Whoever needs the room does this, while nothing can be queued. Every failure that leaves
    /// the old segment in use is answered to the caller alone; nothing was queued for it.
    pub(super) fn roll(&self, class: Class, need: u64) -> Result<()> {
        {
            let mut core = self.core.lock();
            // A file that was put together by others may be filled up to its last byte.
            let there_is_room = core.room_end.0.saturating_sub(core.end.0) >= need;
            if core.rolling || there_is_room {
                // Someone else was faster; the caller looks again.
                return Ok(());
            }
            if self.is_closed() && need != WHATEVER_ROOM {
                // Since the caller looked. A new segment would hide the mark that it was closed.
                return Err(Error::Closed);
            }
            core.rolling = true;
        }
        let rolling = Rolling(self);
        self.flush_queue()?;
        let (checkpoint, starts) = {
            let core = self.core.lock();
            let mut bytes = Vec::new();
            let entries = core.state.encode(&mut bytes);
            ((bytes, entries), Starts::of(&core.state))
        };
        let head_bytes = header::frames_at(checkpoint.0.len());
        let need = if need == WHATEVER_ROOM { 0 } else { need };
        // Where the state is large, a segment has at least as much room for frames as for it.
        let needed = writer::file_bytes_for(head_bytes, need.max(head_bytes));
        self.ensure_spare(class, self.next_segment_bytes().max(needed))?;
        self.switch(&checkpoint, starts)?;
        drop(rolling);
        self.files.notify();
        Ok(())
    }

    /// Ends the active segment and makes the spare one the active one.
    fn switch(&self, checkpoint: &(Vec<u8>, u32), starts: Starts) -> Result<()> {
        let mut seen = Seen::default();
        let switched = self.switch_and_show(checkpoint, starts, &mut seen);
        // What the switch has synced is visible, whether or not there was room to go on.
        self.announce(seen);
        // Those who wait are answered without its locks: what wakes them is the application's.
        if switched.is_err()
            && let Some(error) = self.latch.get()
        {
            return Err(self.fail(&error));
        }
        switched
    }

    /// The same; leaves it to the caller to tell those who wait for what was `seen`.
    fn switch_and_show(
        &self,
        checkpoint: &(Vec<u8>, u32),
        starts: Starts,
        seen: &mut Seen,
    ) -> Result<()> {
        let mut writer = self.writer.lock();
        // Nobody syncs the old segment or the directory meanwhile: if both fail, the system may
        // tell only one of us.
        let syncing = self.syncing.lock();
        self.latch.check()?;
        let old = self.segments.active();
        let base = self.core.lock().end;
        // All of the old segment must be on disk before the new one is: recovery reads only the
        // newest.
        if self.marks.durable() < base && !mutant::on(Mutant::OldSegmentNotSynced) {
            let synced = old.segment.file.sync();
            synced.map_err(|e| self.latch.set(&Error::io("sync", &old.segment.name, e)))?;
            Counters::add(&self.counters.syncs, 1);
            self.marks.raise_durable(base);
            writer.unsynced_since = None;
            writer.unsynced_bytes = 0;
        }
        let (visible, replicated) = (self.marks.visible(), self.marks.replicated());
        self.unseen.lock().take(visible, replicated, seen);
        // An empty segment that is too small is replaced under its own name.
        let replaces = base == old.segment.base();
        let previous_base =
            if replaces { old.segment.head.previous_base } else { Some(old.segment.base()) };
        let start = Start {
            log_id: old.segment.head.log_id,
            base,
            previous_base,
            sequence: writer.tail.sequence,
            epoch: writer.tail.epoch,
            chain: writer.tail.chain,
            created_ms: self.clock.wall_ms(),
            salt: self.draws.salt(),
        };
        // Until the spare is renamed, its name is taken: nobody may prepare the next one.
        let (spare, preparing) = self.take_spare();
        // The caller made sure of one, but a log that fails to close removes it.
        let Some(spare) = spare else { return Err(self.latch.get().unwrap_or(Error::Closed)) };
        let (file_name, needed) = (spare.file_name.clone(), spare.bytes);
        let marks = !replaces && self.config.media.may_mark(&old.segment, base);
        let sealed = marker(Kind::Sealed, base, &writer.tail, base);
        if marks && mutant::on(Mutant::SealedTooEarly) {
            writer::mark(&old.segment, &sealed).map_err(|error| self.latch.set(&error))?;
        }
        let segment =
            match writer::activate(&*self.storage, spare, &start, checkpoint, &[], &start.marker())
            {
                Ok(segment) => segment,
                Err(error) => return Err(self.after_failed_switch(&file_name, needed, &error)),
            };
        drop(preparing);
        drop(syncing);
        // From here on the new segment is the newest. The marker lets a reader of the old one
        // know that it existed.
        if marks && !mutant::on(Mutant::SealNotMarked) {
            writer::mark(&old.segment, &sealed).map_err(|error| self.latch.set(&error))?;
        }
        Counters::add(&self.counters.syncs, 2);
        Counters::add(&self.counters.rolls, 1);
        let (room_end, file_bytes) = (segment.room_end(), segment.file_bytes);
        let index = RwLock::new(SegmentIndex::default());
        let sealed = self.segments.roll(Active { segment, starts, index });
        self.unindexed.lock().extend(sealed);
        writer.marked = true;
        self.sizes.restart();
        drop(writer);
        self.expect_spare();
        let mut core = self.core.lock();
        core.room_end = room_end;
        core.log_bytes += file_bytes;
        if replaces {
            core.log_bytes -= old.segment.file_bytes;
        }
        for topic in &mut core.topics {
            topic.forget_points();
        }
        drop(core);
        Ok(())
    }

    /// A full disk before the new name is in the directory changes nothing; any other failure
    /// leaves it open which segment is the newest after a crash, so nothing more is promised.
    fn after_failed_switch(&self, file_name: &str, needed: u64, error: &Error) -> Error {
        let full = match error {
            Error::Io { operation, source, file } => {
                is_full(source) && *operation != "sync" && file == file_name
            }
            _ => false,
        };
        if full && self.storage.remove(file_name).is_ok() {
            Counters::add(&self.counters.refused_full, 1);
            return Error::Full { free: self.storage.free_bytes().unwrap_or(0), needed };
        }
        self.latch.set(error)
    }

    /// Makes sure that an append may use the last part of the active segment: the next segment
    /// is there, so progress does not depend on what is left of this one.
    pub(super) fn ensure_room_for_append(&self) -> Result<()> {
        self.ensure_spare(Class::Append, self.next_segment_bytes())
    }

    /// Takes the spare, and its file name until the guard is dropped, waiting for whoever is
    /// about to prepare one.
    fn take_spare(&self) -> (Option<Spare>, Preparing<'_>) {
        loop {
            let observed = self.room.observe();
            let mut core = self.core.lock();
            if !core.preparing {
                core.preparing = true;
                return (core.spare.take(), Preparing(self));
            }
            drop(core);
            self.room.wait(observed, None);
        }
    }

    /// Removes the spare: the log is closed.
    pub(crate) fn remove_spare(&self) -> Result<()> {
        let (spare, _preparing) = self.take_spare();
        let Some(Spare { file_name, .. }) = spare else { return Ok(()) };
        self.storage.remove(&file_name).map_err(|e| Error::io("remove", file_name, e))
    }

    /// Makes sure that a prepared file of at least `bytes` is there, for a caller who needs it.
    fn ensure_spare(&self, class: Class, bytes: u64) -> Result<()> {
        let result = self.prepare_spare(class, bytes);
        if matches!(result, Err(Error::Full { .. })) {
            Counters::add(&self.counters.refused_full, 1);
            // Retention may be able to help.
            self.files.notify();
        }
        result
    }

    /// The same for the file keeper, which must not wake itself where there is no room: it would
    /// try again without pause.
    pub(crate) fn prepare_spare(&self, class: Class, bytes: u64) -> Result<()> {
        let outgrown = loop {
            let observed = self.room.observe();
            let mut core = self.core.lock();
            if core.spare.as_ref().is_some_and(|spare| spare.bytes >= bytes) {
                return Ok(());
            }
            if core.preparing {
                drop(core);
                self.room.wait(observed, None);
                continue;
            }
            if class == Class::Append {
                self.check_limit(core.log_bytes, bytes)?;
            }
            if self.is_closed() && class == Class::Append {
                // Whoever closed the log removes the spare, or has done so.
                return Err(Error::Closed);
            }
            core.preparing = true;
            break core.spare.take();
        };
        let preparing = Preparing(self);
        self.close_removed();
        let blocks = self.sizes.next_blocks(self.config.policy);
        let prepared = (|| {
            if let Some(outgrown) = outgrown {
                let removed = self.storage.remove(&outgrown.file_name);
                removed.map_err(|e| Error::io("remove", &outgrown.file_name, e))?;
            }
            writer::prepare(&*self.storage, &name::spare(), bytes, blocks)
        })();
        let result = prepared.map(|spare| self.core.lock().spare = Some(spare));
        drop(preparing);
        result
    }

    /// Closes the files that opening has removed, so that their room is there. Whoever needs room
    /// meanwhile waits for that.
    pub(crate) fn close_removed(&self) {
        self.removed.lock().clear();
    }

    /// Keeps everybody from queueing anything until the guard is dropped, once the queue is empty
    /// and there is room for `bytes` bytes of entries, for the caller alone.
    pub(crate) fn pause(&self, class: Class, bytes: usize) -> Result<Rolling<'_>> {
        loop {
            let observed = self.room.observe();
            let mut core = self.core.lock();
            self.latch.check()?;
            if self.is_closed() {
                return Err(Error::Closed);
            }
            if core.rolling {
                drop(core);
                self.room.wait(observed, None);
                continue;
            }
            let need = core.worst_bytes(bytes);
            if core.end.plus(need) > core.room_end && bytes > 0 {
                drop(core);
                self.roll(class, need)?;
                continue;
            }
            core.rolling = true;
            drop(core);
            let paused = Rolling(self);
            self.flush_queue()?;
            return Ok(paused);
        }
    }

    /// The same for somebody who changes files: nothing is written, made or synced meanwhile.
    pub(crate) fn pause_for_files(&self) -> Result<Rolling<'_>> {
        self.pause(Class::Progress, 0)
    }

    /// Puts a new segment in place that has room for a frame, or begins at the end of a sector.
    pub(super) fn roll_for_frame(&self, need: u64) -> Result<()> {
        let has_room = {
            let core = self.core.lock();
            core.end.plus(need) <= core.room_end
        };
        self.roll(Class::Progress, if has_room { WHATEVER_ROOM } else { need })
    }

    /// Puts a new segment in place whatever room the present one has.
    pub(crate) fn roll_now(&self) -> Result<()> {
        self.roll(Class::Progress, WHATEVER_ROOM)
    }

    /// Notes when the next segment is to be prepared: once the active one is half full.
    pub(super) fn expect_spare(&self) {
        let active = self.segments.active();
        let half = (active.segment.room_end().0 - active.segment.base().0) / 2;
        self.spare_due.store(active.segment.base().0 + half, Ordering::Release);
    }

    /// Whether the next segment is due to be prepared.
    pub(crate) fn wants_spare(&self) -> bool {
        let core = self.core.lock();
        let due = core.end.0 >= self.spare_due.load(Ordering::Acquire);
        due && core.spare.is_none() && !core.preparing && !self.is_closed()
    }

    /// Writes the sidecars of the segments that were sealed since.
    pub(crate) fn write_sidecars(&self) {
        let sealed = std::mem::take(&mut *self.unindexed.lock());
        for sealed in sealed {
            // A sidecar is a hint: one that cannot be written is made again when needed.
            if sealed.write_sidecar(&*self.storage).is_err() {
                Counters::add(&self.counters.index_failures, 1);
            }
        }
    }

    /// Refuses appends for which the log would grow past its limit.
    fn check_limit(&self, log_bytes: u64, bytes: u64) -> Result<()> {
        let Some(max) = self.config.max_bytes else { return Ok(()) };
        if log_bytes + bytes <= max {
            return Ok(());
        }
        if bytes > max {
            // No room that anybody could make would do.
            return Err(Error::TooLarge { what: "segment for the batch", bytes, max });
        }
        Err(Error::Full { free: max.saturating_sub(log_bytes), needed: bytes })
    }
}
