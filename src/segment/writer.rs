//! Making segments and ending them. Each step is ordered so that a crash between any two leaves
//! either the old state or the new one.

use std::io;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::SECTOR_BYTES;
use crate::format::frame::{HEADER_BYTES, Header, Kind};
use crate::format::header::SegmentHead;
use crate::format::name;
use crate::mutant::{self, Mutant};
use crate::offset::Position;
use crate::storage::{Storage, StorageFile, is_full, write_full};

use super::{ECHOES, Segment, Tail};

static ZEROS: [u8; 256 * 1024] = [0; 256 * 1024];

/// What the blocks of a new file are like before anything is written to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blocks {
    /// Written, full of zeros: syncing what is written to them later changes nothing else.
    Filled,
    /// Reserved: they read as zeros and need no more room, but the system notes of each that it
    /// was written to, which the sync then waits for.
    Reserved,
}

/// A durable file full of zeros, without a place in the log yet.
#[derive(Debug)]
pub(crate) struct Spare {
    pub(crate) file: Arc<dyn StorageFile>,
    pub(crate) file_name: String,
    pub(crate) bytes: u64,
}

/// Where a new segment goes on.
#[derive(Clone, Debug)]
pub(crate) struct Start {
    pub(crate) log_id: u128,
    pub(crate) base: Position,
    pub(crate) previous_base: Option<Position>,
    pub(crate) sequence: u64,
    pub(crate) epoch: u64,
    pub(crate) chain: u32,
    pub(crate) created_ms: u64,
    pub(crate) salt: u32,
}

impl Start {
    /// The marker for a new segment without frames.
    pub(crate) fn marker(&self) -> Header {
        let tail = Tail { sequence: self.sequence, chain: self.chain, epoch: self.epoch };
        marker(Kind::Idle, self.base, &tail, self.base)
    }

    /// The head of the segment, with a checkpoint, in a file of this size.
    pub(crate) fn head(
        &self,
        checkpoint: &[u8],
        checkpoint_entries: u32,
        file_bytes: u64,
    ) -> Result<SegmentHead> {
        let too_large = |_| Error::TooLarge {
            what: "checkpoint",
            bytes: checkpoint.len() as u64,
            max: u32::MAX.into(),
        };
        Ok(SegmentHead {
            log_id: self.log_id,
            base: self.base,
            previous_base: self.previous_base,
            sequence: self.sequence,
            epoch: self.epoch,
            created_ms: self.created_ms,
            chain: self.chain,
            checkpoint_bytes: u32::try_from(checkpoint.len()).map_err(too_large)?,
            checkpoint_entries,
            checkpoint_checksum: crc32fast::hash(checkpoint),
            file_bytes,
            salt: self.salt,
        })
    }
}

/// Makes a durable file that reads as `bytes` zeros, so that later writes to it need no room. A
/// full disk shows here: [`Error::Full`], with nothing left behind.
pub(crate) fn prepare(
    storage: &dyn Storage,
    file_name: &str,
    bytes: u64,
    blocks: Blocks,
) -> Result<Spare> {
    let made = (|| {
        let file = match storage.create(file_name) {
            // An earlier attempt failed, and to remove its file failed as well.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                storage.remove(file_name)?;
                storage.create(file_name)?
            }
            created => created?,
        };
        // Ask for all of the room at once: a full disk then answers before anything is written.
        if !mutant::on(Mutant::SizeNotSynced) {
            let is_reserved = file.allocate(bytes)?;
            if blocks == Blocks::Filled || !is_reserved {
                fill_with_zeros(&*file, bytes)?;
            }
        }
        file.sync()?;
        Ok(file)
    })();
    match made {
        Ok(file) => Ok(Spare { file, file_name: file_name.to_owned(), bytes }),
        Err(error) => Err(failed_to_prepare(storage, file_name, bytes, error)),
    }
}

fn fill_with_zeros(file: &dyn StorageFile, bytes: u64) -> io::Result<()> {
    let mut at = 0;
    while at < bytes {
        let chunk = ZEROS.len().min(usize::try_from(bytes - at).unwrap_or(usize::MAX));
        write_full(file, &ZEROS[..chunk], at)?;
        at += chunk as u64;
    }
    Ok(())
}

fn failed_to_prepare(
    storage: &dyn Storage,
    file_name: &str,
    bytes: u64,
    error: io::Error,
) -> Error {
    let full = is_full(&error);
    // Nothing refers to the file yet. If it cannot be removed either, the next attempt or the
    // next open removes it, and the first failure is the one to report.
    let removed = storage.remove(file_name);
    // On a disk without any room, not even the name could be made.
    let gone = removed.map_or_else(|error| error.kind() == io::ErrorKind::NotFound, |()| true);
    if full && gone {
        return Error::Full { free: storage.free_bytes().unwrap_or(0), needed: bytes };
    }
    Error::io("prepare", file_name, error)
}

/// The bytes of a file with room for a head with a checkpoint, for frames of so many bytes, for
/// a marker behind them and for its echoes.
pub(crate) fn file_bytes_for(head_bytes: u64, frame_bytes: u64) -> u64 {
    let sector = SECTOR_BYTES as u64;
    (head_bytes + frame_bytes + HEADER_BYTES as u64).next_multiple_of(sector)
        + ECHOES as u64 * sector
}

/// Gives `spare` its place in the log: from here on, it is the newest segment.
///
/// Everything before `start.base` must be durable. `frames` are some that are known to follow
/// it; recovery moves them along. `marker` lies behind them: with it, the salt of the head is
/// found in the file from the beginning.
pub(crate) fn activate(
    storage: &dyn Storage,
    spare: Spare,
    start: &Start,
    checkpoint: &(Vec<u8>, u32),
    frames: &[u8],
    marker: &Header,
) -> Result<Segment> {
    let (temporary, bytes) = (spare.file_name.clone(), spare.bytes);
    let segment_name = name::segment(start.base);
    let early = mutant::on(Mutant::CheckpointWrittenLate);
    if early {
        give_name(storage, &temporary, &segment_name)?;
    }
    let segment = fill(spare, start, checkpoint, frames, marker)?;
    if !early {
        give_name(storage, &temporary, &segment_name)?;
    }
    if mutant::on(Mutant::SizeNotSynced) {
        let grown = segment.file.set_size(bytes);
        grown.map_err(|e| Error::io("extend", &segment.name, e))?;
    }
    Ok(segment)
}

/// Writes what a segment begins with into `spare`, and syncs it. It has no place in the log yet.
pub(crate) fn fill(
    spare: Spare,
    start: &Start,
    checkpoint: &(Vec<u8>, u32),
    frames: &[u8],
    marker: &Header,
) -> Result<Segment> {
    let (checkpoint, entries) = checkpoint;
    let head = start.head(checkpoint, *entries, spare.bytes)?;
    let mut bytes = head.encode(checkpoint);
    bytes.extend_from_slice(frames);
    let segment = Segment::new(spare.file, name::segment(start.base), head, spare.bytes);
    let room_end = segment.file_at(segment.room_end());
    assert!(bytes.len() as u64 <= room_end, "the spare was made to fit");
    let (file, temporary) = (&segment.file, &spare.file_name);
    let written = write_full(&**file, &bytes, 0).and_then(|()| write_marker(&segment, marker));
    written.map_err(|e| Error::io("write", temporary, e))?;
    if !mutant::on(Mutant::NewSegmentNotSynced) {
        file.sync().map_err(|e| Error::io("sync", temporary, e))?;
    }
    Ok(segment)
}

/// Renames a file, durably.
pub(crate) fn give_name(storage: &dyn Storage, from: &str, to: &str) -> Result<()> {
    storage.rename(from, to).map_err(|e| Error::io("rename", from, e))?;
    if mutant::on(Mutant::SkipDirectorySync) {
        return Ok(());
    }
    // Sync the directory too: without it, a crash can lose the segment's name, and with it
    // every record that was acknowledged in it.
    let synced = match storage.sync_directory() {
        Err(_) if mutant::on(Mutant::RetryFailedDirectorySync) => storage.sync_directory(),
        synced => synced,
    };
    synced.map_err(|e| Error::io("sync", storage.describe(), e))
}

/// Writes a marker with its echoes, and syncs them. The next frame overwrites the marker, the
/// next marker the echoes.
pub(crate) fn mark(segment: &Segment, marker: &Header) -> Result<()> {
    write_marker(segment, marker).map_err(|e| Error::io("write", &segment.name, e))?;
    if mutant::on(Mutant::MarkerBeforeDurable) {
        return Ok(());
    }
    segment.file.sync().map_err(|e| Error::io("sync", &segment.name, e))
}

fn write_marker(segment: &Segment, marker: &Header) -> io::Result<()> {
    debug_assert!(marker.kind != Kind::Frame, "a marker has no entries");
    let mut bytes = [0; HEADER_BYTES];
    marker.encode(&mut bytes, segment.head.salt);
    write_full(&*segment.file, &bytes, segment.file_at(marker.position))?;
    // A sealed segment needs none: the next one vouches for all of it.
    let is_echoed = marker.kind != Kind::Sealed && !mutant::on(Mutant::EchoesNotWritten);
    for (at, echo) in segment.layout.echoes_of(marker).filter(|_| is_echoed) {
        echo.encode(&mut bytes, segment.head.salt);
        write_full(&*segment.file, &bytes, at)?;
    }
    Ok(())
}

/// A marker at the end of the log, or of a segment.
pub(crate) fn marker(kind: Kind, at: Position, tail: &Tail, durable: Position) -> Header {
    Header {
        kind,
        body_bytes: 0,
        entries: 0,
        sequence: tail.sequence,
        position: at,
        epoch: tail.epoch,
        previous: tail.chain,
        body_checksum: crc32fast::hash(&[]),
        durable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::sim::{Call, Fault, SimDisk};

    /// How many calls it takes to prepare a file for which a write of zeros is enough.
    fn calls_to_prepare(blocks: Blocks, reserves: bool) -> u64 {
        let disk = SimDisk::new(1);
        disk.set_reserves(reserves);
        let before = disk.calls();
        let spare = prepare(&*disk.storage(), "spare.tmp", 8192, blocks).expect("prepares");
        let calls = disk.calls() - before;
        assert_eq!(spare.file.size().expect("the file is open"), 8192);
        calls
    }

    #[test]
    fn zeros_are_written_unless_reserved_blocks_will_do_and_are_to_be_had() {
        let reserved = calls_to_prepare(Blocks::Reserved, true);
        for (blocks, reserves) in
            [(Blocks::Filled, true), (Blocks::Filled, false), (Blocks::Reserved, false)]
        {
            let calls = calls_to_prepare(blocks, reserves);
            assert_eq!(calls, reserved + 1, "{blocks:?} {reserves}");
        }
    }

    #[test]
    fn what_a_failed_preparation_left_behind_does_not_fail_the_next_one() {
        let disk = SimDisk::new(1);
        let storage = disk.storage();
        disk.fail_next(Call::Allocate, Fault::NoSpace);
        disk.fail_next(Call::Remove, Fault::NoSpace);
        assert!(prepare(&*storage, "spare.tmp", 4096, Blocks::Filled).is_err());
        assert_eq!(disk.names(), ["spare.tmp"], "nobody could remove it");
        let prepared = prepare(&*storage, "spare.tmp", 8192, Blocks::Filled);
        let spare = prepared.expect("the next one has a file");
        assert_eq!(spare.file.size().expect("the file is open"), 8192);
    }
}
