//! The segments before the newest one: that they are there, of this log and large enough, and
//! that the last of them says that another one follows. Never reads their frames.

use crate::commit::queue::Media;
use crate::error::{Error, Result};
use crate::format::frame::{Bad, HEADER_BYTES, Header, Kind};
use crate::format::header::{FIXED_BYTES, SegmentHead};
use crate::format::name;
use crate::mutant::{self, Mutant};
use crate::offset::Position;
use crate::segment::sealed::foreign;
use crate::segment::writer::{self, marker};
use crate::segment::{Segment, Tail};
use crate::storage::{Storage, read_full};

/// Checks that the older segments are there, whole in size and of this log, without reading
/// them: each names the one before it. Returns the bytes of their files.
pub(super) fn check_older(
    storage: &dyn Storage,
    older: &[Position],
    newest: &SegmentHead,
) -> Result<u64> {
    if mutant::on(Mutant::SkipPreviousCheck) {
        let sizes = older.iter().map(|base| Ok(read_head(storage, *base)?.file_bytes));
        return sizes.sum();
    }
    let mut next = newest.clone();
    let mut bytes = 0;
    for base in older.iter().rev() {
        let file_name = name::segment(*base);
        let head = match next.previous_base {
            Some(previous) if previous == *base => {
                let Segment { head, file_bytes, .. } = read_head(storage, *base)?;
                bytes += file_bytes;
                let needed = head.frames_at() + (next.base.0 - base.0);
                if file_bytes < needed {
                    let expected = format!("at least {needed} bytes");
                    let found = format!("{file_bytes} bytes");
                    return Err(Error::corrupt(&file_name, file_bytes, expected, found));
                }
                head
            }
            Some(previous) => {
                let found = format!("the older segment {file_name}, but not this one");
                return Err(Error::corrupt(name::segment(previous), 0, "a segment", found));
            }
            None => {
                let found = "a segment older than the first of the log";
                return Err(Error::corrupt(file_name, 0, "no file", found));
            }
        };
        if head.base != *base {
            let expected = format!("the segment of position {base}");
            return Err(Error::corrupt(file_name, 24, expected, format!("that of {}", head.base)));
        }
        if head.log_id != newest.log_id {
            return Err(foreign(&file_name, newest.log_id, head.log_id));
        }
        next = head;
    }
    Ok(bytes)
}

/// A segment without a look at its checkpoint.
pub(super) fn read_head(storage: &dyn Storage, base: Position) -> Result<Segment> {
    let file_name = name::segment(base);
    let io = |e| Error::io("read", &file_name, e);
    let file = storage.open(&file_name).map_err(io)?;
    let mut bytes = [0; FIXED_BYTES];
    let read = read_full(&*file, &mut bytes, 0).map_err(io)?;
    let head = SegmentHead::decode(&bytes[..read], &file_name)?;
    let file_bytes = file.size().map_err(io)?;
    Ok(Segment::new(file, file_name, head, file_bytes))
}

/// Marks the segment before the newest one as sealed, if the process before ended between the
/// two steps: without the marker, nobody would miss the newest one if it were lost.
pub(super) fn seal_previous(
    storage: &dyn Storage,
    bases: &[Position],
    newest: &SegmentHead,
    media: Media,
) -> Result<()> {
    let [.., previous, _] = bases else { return Ok(()) };
    let previous = read_head(storage, *previous)?;
    if !media.may_mark(&previous, newest.base) || mutant::on(Mutant::SealNotMarked) {
        return Ok(());
    }
    let mut bytes = [0; HEADER_BYTES];
    let read = read_full(&*previous.file, &mut bytes, previous.file_at(newest.base))
        .map_err(|e| Error::io("read", &previous.name, e))?;
    match Header::decode(&bytes[..read], previous.head.salt) {
        Ok((found, _)) if found.kind == Kind::Sealed && found.position == newest.base => Ok(()),
        // It has one under another salt than that of the head: one of the two is not of this file.
        // Whoever reads it finds out; to write over it would only hide that.
        Err(Bad::Checksum { .. }) if is_sealed_otherwise(&bytes, newest) => Ok(()),
        _ => {
            let tail = Tail { sequence: newest.sequence, chain: newest.chain, epoch: newest.epoch };
            writer::mark(&previous, &marker(Kind::Sealed, newest.base, &tail, newest.base))
        }
    }
}

/// Whether the header in these bytes would be the right one if the file had its salt.
fn is_sealed_otherwise(bytes: &[u8], newest: &SegmentHead) -> bool {
    let header = Header::salt_of(bytes).map(|salt| Header::decode(bytes, salt));
    header.and_then(Result::ok).is_some_and(|(found, _)| {
        let place = (found.position, found.previous);
        found.kind == Kind::Sealed && place == (newest.base, newest.chain)
    })
}
