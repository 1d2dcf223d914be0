//! Frames for the unit tests of this folder.

use std::sync::Arc;

use crate::format::frame::{HEADER_BYTES, Header, Kind};
use crate::offset::Position;
use crate::segment::chunk::Shared;

use super::Frames;

/// Frames of one epoch from `start` on, with bodies of these sizes, right down to the checksums.
pub(crate) fn whole_frames(epoch: u64, start: u64, bodies: &[usize]) -> Frames {
    let (mut bytes, mut previous) = (Vec::new(), 0);
    for (number, body) in bodies.iter().enumerate() {
        let content = vec![7; *body];
        let header = Header {
            kind: Kind::Frame,
            body_bytes: u32::try_from(*body).expect("a small body"),
            entries: 1,
            sequence: number as u64,
            position: Position(start + bytes.len() as u64),
            epoch,
            previous,
            body_checksum: crc32fast::hash(&content),
            durable: Position(0),
        };
        let mut head = [0; HEADER_BYTES];
        previous = header.encode(&mut head, 5);
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(&content);
    }
    Frames::from_bytes(bytes).expect("whole frames")
}

/// Frames of this range, of which nobody looks at the content.
pub(crate) fn hollow_frames(epoch: u64, start: u64, bytes: usize) -> Frames {
    let header = Header {
        kind: Kind::Frame,
        body_bytes: 8,
        entries: 1,
        sequence: start,
        position: Position(start),
        epoch,
        previous: 0,
        body_checksum: 0,
        durable: Position(0),
    };
    Frames::new(Shared::Memory(Arc::new(vec![0; bytes])), 0..bytes, 0, &header, 1)
}
