//! The pure codecs of everything that is stored: no I/O, no state. `docs/format.md` gives the
//! same layout byte by byte.
//!
//! All integers are little-endian. Bytes from disk prove nothing until their checksum matched,
//! and even then no length found in them sizes an allocation.

mod entries;
pub(crate) mod entry;
mod fields;
pub(crate) mod frame;
pub(crate) mod header;
pub(crate) mod name;

/// The version written into every header.
pub(crate) const VERSION: u8 = 1;

/// Entries and frames start at multiples of this.
pub(crate) const ALIGNMENT: usize = 8;

/// The unit in which a disk is taken to write, see [`Media`](crate::Media).
pub(crate) const SECTOR_BYTES: usize = 512;

/// `n` rounded up to a multiple of the power of two `to`.
pub(crate) const fn align(n: usize, to: usize) -> usize {
    (n + to - 1) & !(to - 1)
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, at))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the slice has N bytes")
}
