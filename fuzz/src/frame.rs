//! Frames whose checksums are right and whose bodies are anything: whatever passes the checksum
//! is decoded and applied, and must be either refused or harmless.

use ackline::Error;
use ackline::simulation::SimClock;

use crate::{Bytes, File, disk_with, options, use_and_reopen};

const HEAD_BYTES: usize = 128;
const SECTOR_BYTES: usize = 512;
const FILE_BYTES: usize = 16 * 1024;

/// Opens a log of one segment whose checkpoint and frames have bodies out of `data`.
pub fn run(data: &[u8]) {
    let file = ("00000000000000000000.seg".to_owned(), segment(data));
    open(&[file]);
}

fn open(files: &[File]) {
    let (disk, clock) = (disk_with(files, 1), SimClock::new());
    match options(&disk, &clock).open_on(disk.storage()) {
        Ok(log) => {
            let used = use_and_reopen(log, &disk, &clock);
            let refused = matches!(used, Ok(()) | Err(Error::TooLarge { .. }));
            assert!(refused, "a log that opened goes on: {used:?}");
        }
        Err(Error::Corrupt { .. } | Error::UnsupportedVersion { .. }) => {}
        Err(error) => panic!("an unexpected answer to a damaged file: {error}"),
    }
}

/// A segment with right checksums.
pub fn segment(data: &[u8]) -> Vec<u8> {
    let mut bytes = Bytes::new(data);
    let (checkpoint_entries, checkpoint) = body(&mut bytes);
    let mut file = vec![0; HEAD_BYTES];
    file[0..4].copy_from_slice(b"AKLS");
    file[4] = 1;
    put(&mut file, 32, &u64::MAX.to_le_bytes());
    put(&mut file, 68, &length(&checkpoint).to_le_bytes());
    put(&mut file, 72, &u32::from(checkpoint_entries).to_le_bytes());
    put(&mut file, 76, &crc32fast::hash(&checkpoint).to_le_bytes());
    // Half of the files are salted.
    let salt = if data.len().is_multiple_of(2) { 0 } else { crc32fast::hash(data) };
    put(&mut file, 88, &salt.to_le_bytes());
    let checksum = crc32fast::hash(&file[..HEAD_BYTES - 4]);
    put(&mut file, HEAD_BYTES - 4, &checksum.to_le_bytes());
    file.extend_from_slice(&checkpoint);
    file.resize(file.len().next_multiple_of(SECTOR_BYTES), 0);
    let (start, mut sequence, mut identity) = (file.len(), 0_u64, 0_u32);
    while !bytes.is_empty() && file.len() < FILE_BYTES / 2 {
        let (entries, mut body) = body(&mut bytes);
        if body.is_empty() {
            body.resize(8, 0);
        }
        let position = (file.len() - start) as u64;
        let mut header = [0; 64];
        put(&mut header, 0, b"AKLF");
        put(&mut header, 4, &[1, 1]);
        put(&mut header, 8, &length(&body).to_le_bytes());
        put(&mut header, 12, &u32::from(entries.max(1)).to_le_bytes());
        put(&mut header, 16, &sequence.to_le_bytes());
        put(&mut header, 24, &position.to_le_bytes());
        put(&mut header, 40, &identity.to_le_bytes());
        put(&mut header, 44, &crc32fast::hash(&body).to_le_bytes());
        put(&mut header, 48, &position.to_le_bytes());
        identity = crc32fast::hash(&header[..48]);
        put(&mut header, 56, &identity.to_le_bytes());
        let checksum = crc32fast::hash(&header[..60]) ^ salt;
        put(&mut header, 60, &checksum.to_le_bytes());
        file.extend_from_slice(&header);
        file.extend_from_slice(&body);
        sequence += 1;
    }
    file.resize(file.len().max(FILE_BYTES), 0);
    file
}

/// Entries: their number, and bytes in which each entry's length may be put right.
fn body(bytes: &mut Bytes<'_>) -> (u8, Vec<u8>) {
    let (entries, mut body) = (bytes.u8() % 8, Vec::new());
    for _ in 0..entries {
        // The lengths decide where the next entry begins: left to chance, few would be found.
        let (kind, attributes) = (bytes.u8(), bytes.u8());
        let fields = usize::from(bytes.u8());
        let fields = bytes.take(fields);
        let lie = i32::from(kind >= 250) * 3;
        let length = (8 + fields.len() as i32 + lie).to_le_bytes();
        body.extend_from_slice(&length);
        body.extend_from_slice(&[kind % 7, attributes, 0, 0]);
        body.extend_from_slice(fields);
        body.resize(body.len().next_multiple_of(8), 0);
    }
    (entries, body)
}

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("bodies are small")
}
