//! Frames: the atomic unit of write, of recovery and of replication; and markers, which hold no
//! entries and are overwritten by the next frame.
//!
//! A header proves five things: that it is whole (`header_checksum`), that it was written to this
//! file (the file's salt is part of that checksum), that it is where it was meant to be
//! (`position`), that nothing is missing before it (`previous`, the identity of the
//! frame before), and that its body is whole (`body_checksum`). It also carries the durable
//! watermark that was known when it was written: by it, recovery tells a torn tail from a
//! damaged middle. The watermark is the writer's own, so it is not part of the frame's identity.

use super::{ALIGNMENT, VERSION, u16_at, u32_at, u64_at};
use crate::mutant::{self, Mutant};
use crate::offset::Position;

/// The size of a frame's header.
pub(crate) const HEADER_BYTES: usize = 64;

/// A frame is closed once its body is larger than this; only an atomic batch makes a larger one.
pub(crate) const BODY_TARGET_BYTES: usize = 256 * 1024;

/// `AKLF`: not zero, so that a zero-filled tail is not taken for a frame.
pub(crate) const MAGIC: u32 = u32::from_le_bytes(*b"AKLF");

const KIND_FRAME: u8 = 1;
const KIND_MARKER: u8 = 2;

/// What the header introduces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Entries follow.
    Frame,
    /// The log was idle here: all before is durable.
    Idle,
    /// The log was closed here: all before is durable, and nothing was written since.
    Closed,
    /// The log was opened here after a clean close; revokes the `Closed` that it overwrites.
    Opened,
    /// The segment ends here and another one follows, whose base is `durable`.
    Sealed,
    /// What was here is lost; salvage says so. The log goes on at `durable`.
    Gap,
}

impl Kind {
    const fn code(self) -> (u8, u16) {
        match self {
            Self::Frame => (KIND_FRAME, 0),
            Self::Idle => (KIND_MARKER, 0),
            Self::Closed => (KIND_MARKER, 1),
            Self::Opened => (KIND_MARKER, 2),
            Self::Sealed => (KIND_MARKER, 3),
            Self::Gap => (KIND_MARKER, 4),
        }
    }

    const fn parse(kind: u8, flags: u16) -> Option<Self> {
        match (kind, flags) {
            (KIND_FRAME, 0) => Some(Self::Frame),
            (KIND_MARKER, 0) => Some(Self::Idle),
            (KIND_MARKER, 1) => Some(Self::Closed),
            (KIND_MARKER, 2) => Some(Self::Opened),
            (KIND_MARKER, 3) => Some(Self::Sealed),
            (KIND_MARKER, 4) => Some(Self::Gap),
            _ => None,
        }
    }
}

/// The header of a frame or marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) body_bytes: u32,
    pub(crate) entries: u32,
    /// The dense number of the frame; a marker has the number that the next frame gets.
    pub(crate) sequence: u64,
    pub(crate) position: Position,
    pub(crate) epoch: u64,
    /// The identity of the frame before, 0 for the first.
    pub(crate) previous: u32,
    pub(crate) body_checksum: u32,
    /// Everything below was durable when the header was written.
    pub(crate) durable: Position,
}

/// Why bytes are not a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    /// Fewer bytes than a header has.
    Short,
    /// All zero: nothing was ever written here.
    Zero,
    Magic {
        found: u32,
    },
    Checksum {
        expected: u32,
        found: u32,
    },
    Version {
        found: u8,
    },
    Kind {
        kind: u8,
        flags: u16,
    },
    /// The lengths contradict one another.
    Lengths,
}

impl Header {
    /// Writes the header to the first [`HEADER_BYTES`] of `out` and returns its identity, by
    /// which the next frame refers to it. `salt` is that of the file.
    pub(crate) fn encode(&self, out: &mut [u8], salt: u32) -> u32 {
        let (kind, flags) = self.kind.code();
        out[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        out[4] = VERSION;
        out[5] = kind;
        out[6..8].copy_from_slice(&flags.to_le_bytes());
        out[8..12].copy_from_slice(&self.body_bytes.to_le_bytes());
        out[12..16].copy_from_slice(&self.entries.to_le_bytes());
        out[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        out[24..32].copy_from_slice(&self.position.0.to_le_bytes());
        out[32..40].copy_from_slice(&self.epoch.to_le_bytes());
        out[40..44].copy_from_slice(&self.previous.to_le_bytes());
        out[44..48].copy_from_slice(&self.body_checksum.to_le_bytes());
        out[48..56].copy_from_slice(&self.durable.0.to_le_bytes());
        let identity = crc32fast::hash(&out[..48]);
        out[56..60].copy_from_slice(&identity.to_le_bytes());
        let checksum = crc32fast::hash(&out[..60]) ^ salt;
        out[60..64].copy_from_slice(&checksum.to_le_bytes());
        identity
    }

    /// Reads a header and its identity from the start of `bytes`, which lie in a file with this
    /// salt.
    pub(crate) fn decode(bytes: &[u8], salt: u32) -> Result<(Self, u32), Bad> {
        let Some(bytes) = bytes.get(..HEADER_BYTES) else { return Err(Bad::Short) };
        let magic = u32_at(bytes, 0);
        if magic != MAGIC {
            let zero = bytes.iter().all(|byte| *byte == 0);
            return Err(if zero { Bad::Zero } else { Bad::Magic { found: magic } });
        }
        let (expected, found) = (crc32fast::hash(&bytes[..60]) ^ salt, u32_at(bytes, 60));
        if expected != found && !mutant::on(Mutant::SkipHeaderChecksum) {
            return Err(Bad::Checksum { expected, found });
        }
        if bytes[4] != VERSION {
            return Err(Bad::Version { found: bytes[4] });
        }
        let (kind, flags) = (bytes[5], u16_at(bytes, 6));
        let Some(kind) = Kind::parse(kind, flags) else { return Err(Bad::Kind { kind, flags }) };
        let header = Self {
            kind,
            body_bytes: u32_at(bytes, 8),
            entries: u32_at(bytes, 12),
            sequence: u64_at(bytes, 16),
            position: Position(u64_at(bytes, 24)),
            epoch: u64_at(bytes, 32),
            previous: u32_at(bytes, 40),
            body_checksum: u32_at(bytes, 44),
            durable: Position(u64_at(bytes, 48)),
        };
        let is_frame = kind == Kind::Frame;
        let aligned = (header.body_bytes as usize).is_multiple_of(ALIGNMENT);
        if !aligned || is_frame != (header.body_bytes > 0) || is_frame != (header.entries > 0) {
            return Err(Bad::Lengths);
        }
        Ok((header, u32_at(bytes, 56)))
    }

    /// The salt of the file in which a header was written, if these bytes are one.
    pub(crate) fn salt_of(bytes: &[u8]) -> Option<u32> {
        let bytes = bytes.get(..HEADER_BYTES)?;
        // The identity has no salt in it.
        let is_whole =
            u32_at(bytes, 0) == MAGIC && crc32fast::hash(&bytes[..48]) == u32_at(bytes, 56);
        is_whole.then(|| crc32fast::hash(&bytes[..60]) ^ u32_at(bytes, 60))
    }

    /// Makes a header that was read from a file with one salt one of a file with another.
    pub(crate) fn salt_anew(bytes: &mut [u8], from: u32, to: u32) {
        let checksum = u32_at(bytes, 60) ^ from ^ to;
        bytes[60..64].copy_from_slice(&checksum.to_le_bytes());
    }

    /// Makes a header that was written by another replica one of this file, with this watermark.
    /// Returns the sequence number and the epoch of the frame, and its identity, none of which
    /// change.
    pub(crate) fn stamp(bytes: &mut [u8], durable: Position, salt: u32) -> (u64, u64, u32) {
        bytes[48..56].copy_from_slice(&durable.0.to_le_bytes());
        let checksum = crc32fast::hash(&bytes[..60]) ^ salt;
        bytes[60..64].copy_from_slice(&checksum.to_le_bytes());
        (u64_at(bytes, 16), u64_at(bytes, 32), u32_at(bytes, 56))
    }

    /// The bytes of header and body together.
    pub(crate) fn frame_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.body_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SALT: u32 = 0x5a17_0001;

    fn header(kind: Kind) -> Header {
        let frame = kind == Kind::Frame;
        Header {
            kind,
            body_bytes: if frame { 136 } else { 0 },
            entries: u32::from(frame),
            sequence: 7,
            position: Position(4096),
            epoch: 3,
            previous: 0x1234_5678,
            body_checksum: 0x9abc_def0,
            durable: Position(4000),
        }
    }

    #[test]
    fn every_kind_of_header_reads_back() {
        let markers = [Kind::Idle, Kind::Closed, Kind::Opened, Kind::Sealed, Kind::Gap];
        for kind in markers.into_iter().chain([Kind::Frame]) {
            let mut bytes = [0; HEADER_BYTES];
            let identity = header(kind).encode(&mut bytes, SALT);
            assert_eq!(Header::decode(&bytes, SALT), Ok((header(kind), identity)));
        }
    }

    #[test]
    fn no_flipped_bit_of_a_header_goes_unnoticed() {
        let mut bytes = [0; HEADER_BYTES];
        header(Kind::Frame).encode(&mut bytes, SALT);
        for bit in 0..HEADER_BYTES * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&damaged, SALT).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_header_of_another_file_is_none_of_this_one() {
        let mut bytes = [0; HEADER_BYTES];
        let identity = header(Kind::Frame).encode(&mut bytes, SALT);
        for bit in 0..32 {
            let other = SALT ^ (1 << bit);
            assert!(matches!(Header::decode(&bytes, other), Err(Bad::Checksum { .. })));
            let mut moved = bytes;
            Header::salt_anew(&mut moved, SALT, other);
            assert_eq!(Header::decode(&moved, other), Ok((header(Kind::Frame), identity)));
            assert_eq!(Header::salt_of(&moved), Some(other));
        }
        bytes[20] ^= 1;
        assert_eq!(Header::salt_of(&bytes), None);
    }

    #[test]
    fn the_identity_leaves_out_the_watermark_alone() {
        let mut bytes = [0; HEADER_BYTES];
        let identity = header(Kind::Frame).encode(&mut bytes, SALT);
        let moved = Header { durable: Position(1), ..header(Kind::Frame) };
        assert_eq!(moved.encode(&mut bytes, SALT), identity);
        let other = Header { epoch: 4, ..header(Kind::Frame) };
        assert_ne!(other.encode(&mut bytes, SALT), identity);
    }

    #[test]
    fn zeros_are_told_from_garbage() {
        assert_eq!(Header::decode(&[0; HEADER_BYTES], SALT), Err(Bad::Zero));
        assert_eq!(Header::decode(&[0; 10], SALT), Err(Bad::Short));
        assert!(matches!(Header::decode(&[7; HEADER_BYTES], SALT), Err(Bad::Magic { .. })));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Header::decode(&bytes, SALT).is_err());
        }
    }
}
