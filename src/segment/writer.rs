//! Making segments and ending them. Each step is ordered so that a crash between any two leaves
//! either the old state or the new one.

use std::io;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::frame::{HEADER_BYTES, Header, Kind};
use crate::format::header::SegmentHead;
use crate::format::name;
use crate::mutant::{self, Mutant};
use crate::offset::Position;
use crate::storage::{Storage, StorageFile, is_full, write_full};

use super::Segment;

static ZEROS: [u8; 256 * 1024] = [0; 256 * 1024];

/// A zero-filled, durable file without a place in the log yet.
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
}

impl Start {
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
        })
    }
}

/// Makes a file of `bytes` zeros that are on the disk, so that later writes to it change no
/// metadata and need no room. A full disk shows here: [`Error::Full`], with nothing left behind.
pub(crate) fn prepare(storage: &dyn Storage, file_name: &str, bytes: u64) -> Result<Spare> {
    let made = (|| {
        let file = storage.create(file_name)?;
        // Ask for all of the room at once: a full disk then answers before anything is written.
        if !mutant::on(Mutant::SizeNotSynced) {
            file.allocate(bytes)?;
        }
        let mut at = if mutant::on(Mutant::SizeNotSynced) { bytes } else { 0 };
        while at < bytes {
            let chunk = ZEROS.len().min(usize::try_from(bytes - at).unwrap_or(usize::MAX));
            write_full(&*file, &ZEROS[..chunk], at)?;
            at += chunk as u64;
        }
        file.sync()?;
        Ok(file)
    })();
    match made {
        Ok(file) => Ok(Spare { file, file_name: file_name.to_owned(), bytes }),
        Err(error) => Err(failed_to_prepare(storage, file_name, bytes, error)),
    }
}

fn failed_to_prepare(
    storage: &dyn Storage,
    file_name: &str,
    bytes: u64,
    error: io::Error,
) -> Error {
    let full = is_full(&error);
    // Nothing refers to the file yet. If it cannot be removed either, the next attempt or the
    // next open will, and the first failure is the one to report.
    let removed = storage.remove(file_name);
    // On a disk without any room, not even the name could be made.
    let gone = removed.map_or_else(|error| error.kind() == io::ErrorKind::NotFound, |()| true);
    if full && gone {
        return Error::Full { free: storage.free_bytes().unwrap_or(0), needed: bytes };
    }
    Error::io("prepare", file_name, error)
}

/// Gives `spare` its place in the log: from here on, it is the newest segment.
///
/// Everything before `start.base` must be durable. `tail` are frames that are known to follow
/// it; recovery moves them along.
pub(crate) fn activate(
    storage: &dyn Storage,
    spare: Spare,
    start: &Start,
    checkpoint: &(Vec<u8>, u32),
    tail: &[u8],
) -> Result<Segment> {
    let (checkpoint, entries) = checkpoint;
    let head = start.head(checkpoint, *entries, spare.bytes)?;
    let mut bytes = head.encode(checkpoint);
    bytes.extend_from_slice(tail);
    assert!(bytes.len() as u64 + HEADER_BYTES as u64 <= spare.bytes, "the spare was made to fit");
    let file_name = name::segment(start.base);
    let early = mutant::on(Mutant::CheckpointWrittenLate);
    if early {
        give_name(storage, &spare.file_name, &file_name)?;
    }
    write_full(&*spare.file, &bytes, 0).map_err(|e| Error::io("write", &spare.file_name, e))?;
    if !mutant::on(Mutant::NewSegmentNotSynced) {
        spare.file.sync().map_err(|e| Error::io("sync", &spare.file_name, e))?;
    }
    if !early {
        give_name(storage, &spare.file_name, &file_name)?;
    }
    if mutant::on(Mutant::SizeNotSynced) {
        let grown = spare.file.set_size(spare.bytes);
        grown.map_err(|e| Error::io("extend", &file_name, e))?;
    }
    Ok(Segment::new(spare.file, file_name, head, spare.bytes))
}

fn give_name(storage: &dyn Storage, from: &str, to: &str) -> Result<()> {
    storage.rename(from, to).map_err(|e| Error::io("rename", from, e))?;
    if mutant::on(Mutant::SkipDirectorySync) {
        return Ok(());
    }
    // Sync the directory too: without it, a crash can lose the segment's name, and with it
    // every record that was acknowledged in it.
    storage.sync_directory().map_err(|e| Error::io("sync", storage.describe(), e))
}

/// Writes a marker at `at`, and syncs it. The next frame overwrites it.
pub(crate) fn mark(segment: &Segment, marker: &Header) -> Result<()> {
    debug_assert!(marker.kind != Kind::Frame, "a marker has no entries");
    let mut bytes = [0; HEADER_BYTES];
    marker.encode(&mut bytes);
    let at = segment.file_at(marker.position);
    write_full(&*segment.file, &bytes, at).map_err(|e| Error::io("write", &segment.name, e))?;
    if mutant::on(Mutant::MarkerBeforeDurable) {
        return Ok(());
    }
    segment.file.sync().map_err(|e| Error::io("sync", &segment.name, e))
}

/// A marker at the end of the log, or of a segment.
pub(crate) fn marker(kind: Kind, at: Position, tail: &super::Tail, durable: Position) -> Header {
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
