//! What lies on the disks after all logs were closed: the same frames.

use std::sync::Arc;

use crate::error::Result;
use crate::offset::Position;
use crate::options::Options;
use crate::replicate::mirror::Passive;

use super::stage::{Played, broken};
use super::{Rule, Seat, Shape};

/// How many bytes are read at a time.
const READ_BYTES: usize = 1 << 20;

/// A frame: where it lies, what names it and all before it, and its content.
#[derive(PartialEq, Eq)]
struct Frame {
    at: Position,
    epoch: u64,
    identity: u32,
    body: Vec<u8>,
}

struct Copy {
    log_id: u128,
    start: Position,
    end: Position,
    frames: Vec<Frame>,
}

fn read(seat: &Seat, options: &Options) -> Result<Copy> {
    let log = seat.open(options.clone().replicator(Arc::new(Passive::default())))?;
    let handle = log.replica();
    let history = handle.history()?;
    let mut copy =
        Copy { log_id: history.log_id, start: history.start, end: history.end, frames: Vec::new() };
    let mut from = history.start;
    while let Some(frames) = handle.read(from, READ_BYTES)? {
        copy.frames.extend(frames.iter().map(|frame| Frame {
            at: frame.header.position,
            epoch: frame.header.epoch,
            identity: frame.identity,
            body: frame.bytes[crate::format::frame::HEADER_BYTES..].to_vec(),
        }));
        from = frames.end();
    }
    log.close()?;
    Ok(copy)
}

/// Checks that all copies hold the same frames, as far as they go, and that enough go up to where
/// readers saw.
pub(super) fn compare(
    seats: &[Seat],
    options: &Options,
    leader: usize,
    visible: Position,
    shape: Shape,
) -> Played {
    let mut copies = Vec::new();
    for (node, seat) in seats.iter().enumerate() {
        match read(seat, options) {
            Ok(copy) => copies.push(copy),
            Err(e) => return broken(Rule::CopiesAreEqual, format!("copy {node}: {e}")),
        }
    }
    let whole = copies[leader].frames.as_slice();
    for (node, copy) in copies.iter().enumerate() {
        if copy.log_id != copies[leader].log_id {
            return broken(Rule::CopiesAreEqual, format!("copy {node} is another log"));
        }
        let common = copy.start.max(copies[leader].start)..copy.end.min(copies[leader].end);
        let within = |frames: &'_ [Frame]| {
            let from = frames.partition_point(|frame| frame.at < common.start);
            let to = frames.partition_point(|frame| frame.at < common.end);
            from..to.max(from)
        };
        let ours = &copy.frames[within(&copy.frames)];
        let theirs = &whole[within(whole)];
        if let Some((frame, _)) = ours.iter().zip(theirs).find(|(ours, theirs)| ours != theirs) {
            let what = format!("copy {node} differs at {} in epoch {}", frame.at, frame.epoch);
            return broken(Rule::CopiesAreEqual, what);
        }
        if ours.len() != theirs.len() {
            let what = format!("copy {node} has {} frames, not {}", ours.len(), theirs.len());
            return broken(Rule::CopiesAreEqual, what);
        }
    }
    let enough = copies.iter().filter(|copy| copy.end >= visible).count();
    if enough < shape.copies {
        let what = format!("{enough} of {} copies go up to {visible}", copies.len());
        return broken(Rule::AcknowledgedIsDurable, what);
    }
    Ok(())
}
