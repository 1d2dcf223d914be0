//! The head of a segment: which part of which log the file holds, and the checkpoint with which
//! a reader can start here without looking at older segments.
//!
//! The head lies outside of the position space: positions count the bytes of frames alone, so
//! the same frames have the same positions however a copy of the log is cut into segments.

use super::{SECTOR_BYTES, VERSION, align, u32_at, u64_at};
use crate::error::{Error, Result};
use crate::offset::{NUMBER_MAX, Position};

/// The fixed part; the checkpoint follows it.
pub(crate) const FIXED_BYTES: usize = 128;

/// The byte of the file at which the salt lies.
pub(crate) const SALT_AT: u64 = 88;

const MAGIC: u32 = u32::from_le_bytes(*b"AKLS");
const NO_PREVIOUS: u64 = u64::MAX;

/// The fixed part of a segment's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHead {
    /// Drawn when the log is made: a segment of another log does not match.
    pub(crate) log_id: u128,
    /// The position of the first frame.
    pub(crate) base: Position,
    /// The base of the segment before this one, if there ever was one.
    pub(crate) previous_base: Option<Position>,
    /// The number of the first frame.
    pub(crate) sequence: u64,
    pub(crate) epoch: u64,
    pub(crate) created_ms: u64,
    /// The identity of the last frame before `base`.
    pub(crate) chain: u32,
    pub(crate) checkpoint_bytes: u32,
    pub(crate) checkpoint_entries: u32,
    pub(crate) checkpoint_checksum: u32,
    /// The size that the file was made with. While the segment is written to, a smaller file
    /// was cut from outside: what was behind may have been promised.
    pub(crate) file_bytes: u64,
    /// Drawn for each file; it goes into the checksum of every header in it. So what another
    /// file held, one that lay on the same blocks even, is never taken for a part of this one.
    pub(crate) salt: u32,
}

impl SegmentHead {
    /// The byte of the file at which the frames begin.
    pub(crate) fn frames_at(&self) -> u64 {
        frames_at(self.checkpoint_bytes as usize)
    }

    /// Head and checkpoint, padded so that the frames begin on a sector boundary.
    pub(crate) fn encode(&self, checkpoint: &[u8]) -> Vec<u8> {
        let total = align(FIXED_BYTES + checkpoint.len(), SECTOR_BYTES);
        let mut out = vec![0; total];
        let previous_base = self.previous_base.map_or(NO_PREVIOUS, |base| base.0);
        out[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        out[4] = VERSION;
        out[8..24].copy_from_slice(&self.log_id.to_le_bytes());
        out[24..32].copy_from_slice(&self.base.0.to_le_bytes());
        out[32..40].copy_from_slice(&previous_base.to_le_bytes());
        out[40..48].copy_from_slice(&self.sequence.to_le_bytes());
        out[48..56].copy_from_slice(&self.epoch.to_le_bytes());
        out[56..64].copy_from_slice(&self.created_ms.to_le_bytes());
        out[64..68].copy_from_slice(&self.chain.to_le_bytes());
        out[68..72].copy_from_slice(&self.checkpoint_bytes.to_le_bytes());
        out[72..76].copy_from_slice(&self.checkpoint_entries.to_le_bytes());
        out[76..80].copy_from_slice(&self.checkpoint_checksum.to_le_bytes());
        out[80..88].copy_from_slice(&self.file_bytes.to_le_bytes());
        out[88..92].copy_from_slice(&self.salt.to_le_bytes());
        let checksum = crc32fast::hash(&out[..FIXED_BYTES - 4]);
        out[FIXED_BYTES - 4..FIXED_BYTES].copy_from_slice(&checksum.to_le_bytes());
        out[FIXED_BYTES..FIXED_BYTES + checkpoint.len()].copy_from_slice(checkpoint);
        out
    }

    /// Reads the fixed part; `file` is for messages.
    pub(crate) fn decode(bytes: &[u8], file: &str) -> Result<Self> {
        let Some(bytes) = bytes.get(..FIXED_BYTES) else {
            let found = format!("{} bytes", bytes.len());
            return Err(Error::corrupt(file, 0, "a segment head of 128 bytes", found));
        };
        let magic = u32_at(bytes, 0);
        if magic != MAGIC {
            let expected = format!("magic {MAGIC:08x}");
            return Err(Error::corrupt(file, 0, expected, format!("{magic:08x}")));
        }
        let at = FIXED_BYTES - 4;
        let (expected, found) = (crc32fast::hash(&bytes[..at]), u32_at(bytes, at));
        // The version comes first: a newer format may place its checksum elsewhere.
        if bytes[4] > VERSION {
            let (found, supported) = (bytes[4], VERSION);
            return Err(Error::UnsupportedVersion { file: file.to_owned(), found, supported });
        }
        if expected != found || bytes[4] != VERSION {
            let expected = format!("checksum {expected:08x}");
            return Err(Error::corrupt(file, at as u64, expected, format!("{found:08x}")));
        }
        let previous_base = u64_at(bytes, 32);
        for at in [24, 40, 80] {
            let number = u64_at(bytes, at);
            if number >= NUMBER_MAX {
                let expected = format!("a number below {NUMBER_MAX}");
                return Err(Error::corrupt(file, at as u64, expected, number.to_string()));
            }
        }
        Ok(Self {
            log_id: u128::from(u64_at(bytes, 8)) | u128::from(u64_at(bytes, 16)) << 64,
            base: Position(u64_at(bytes, 24)),
            previous_base: (previous_base != NO_PREVIOUS).then_some(Position(previous_base)),
            sequence: u64_at(bytes, 40),
            epoch: u64_at(bytes, 48),
            created_ms: u64_at(bytes, 56),
            chain: u32_at(bytes, 64),
            checkpoint_bytes: u32_at(bytes, 68),
            checkpoint_entries: u32_at(bytes, 72),
            checkpoint_checksum: u32_at(bytes, 76),
            file_bytes: u64_at(bytes, 80),
            salt: u32_at(bytes, 88),
        })
    }
}

/// The byte of the file at which the frames begin behind a checkpoint of this size.
pub(crate) fn frames_at(checkpoint_bytes: usize) -> u64 {
    align(FIXED_BYTES + checkpoint_bytes, SECTOR_BYTES) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> SegmentHead {
        SegmentHead {
            log_id: 0x0123_4567_89ab_cdef_0011_2233_4455_6677,
            base: Position(4096),
            previous_base: Some(Position(0)),
            sequence: 9,
            epoch: 2,
            created_ms: 1_700_000_000_000,
            chain: 0xdead_beef,
            checkpoint_bytes: 400,
            checkpoint_entries: 3,
            checkpoint_checksum: 5,
            file_bytes: 65_536,
            salt: 0x5a17_5a17,
        }
    }

    #[test]
    fn a_head_reads_back() {
        let first = SegmentHead { previous_base: None, ..head() };
        for head in [head(), first] {
            let bytes = head.encode(&[1; 400]);
            assert_eq!(bytes.len() as u64, head.frames_at());
            assert_eq!(SegmentHead::decode(&bytes, "f").expect("decodes"), head);
        }
    }

    #[test]
    fn no_flipped_bit_of_a_head_goes_unnoticed() {
        let bytes = head().encode(&[1; 400]);
        for bit in 0..FIXED_BYTES * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHead::decode(&damaged, "f").is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_newer_version_is_named_as_such() {
        let mut bytes = head().encode(&[]);
        bytes[4] = 9;
        let error = SegmentHead::decode(&bytes, "f").expect_err("a newer version");
        assert!(matches!(error, Error::UnsupportedVersion { found: 9, supported: 1, .. }));
    }
}
