//! The raw file: zero-filled, synced, written from front to back and again from the front.

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::measure::{Counts, Meter, Side, read_stamp, stamp};

/// As large as a segment.
pub(crate) const FILE_BYTES: usize = 64 * 1024 * 1024;

/// What a file has before it is written to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blocks {
    /// Zeros that are on the disk.
    Filled,
    /// Blocks that hold nothing yet.
    Reserved,
}

/// Makes a file of zeros that are on the disk.
pub(crate) fn zero_filled(directory: &Path) -> Result<File, Box<dyn Error>> {
    new_file(directory, Blocks::Filled)
}

/// Makes a file of [`FILE_BYTES`].
pub(crate) fn new_file(directory: &Path, blocks: Blocks) -> Result<File, Box<dyn Error>> {
    static FILES: AtomicU64 = AtomicU64::new(0);
    let path = directory.join(format!("raw {}", FILES.fetch_add(1, Ordering::Relaxed)));
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
    // As the log does with its segments: on ext4, writes to blocks that were reserved at once were
    // measured to sync a tenth faster than writes to a file that had grown.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        let flags = rustix::fs::FallocateFlags::empty();
        match rustix::fs::fallocate(&file, flags, 0, FILE_BYTES as u64) {
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if blocks == Blocks::Filled {
        let zeros = vec![0; 256 * 1024];
        for at in (0..FILE_BYTES).step_by(zeros.len()) {
            file.write_all_at(&zeros, at as u64)?;
        }
    }
    file.sync_all()?;
    File::open(directory)?.sync_all()?;
    Ok(file)
}

/// Stamps the payloads of a write, which lie one behind the other, with the numbers from the first on;
/// returns the next.
pub(crate) fn stamp_all(
    bytes: &mut [u8],
    payload_bytes: usize,
    records: usize,
    (thread, first): (usize, u64),
) -> u64 {
    let mut number = first;
    for payload in bytes.chunks_exact_mut(payload_bytes).take(records) {
        stamp(payload, thread, number);
        number += 1;
    }
    number
}

/// One thread that writes, and syncs unless it was told not to.
pub(crate) struct Raw {
    file: File,
    payload_bytes: usize,
    records: usize,
    write_bytes: usize,
    is_synced: bool,
    slot: AtomicU64,
    syncs: AtomicU64,
}

impl Raw {
    /// Each write has `write_bytes` bytes and carries `records` payloads.
    pub(crate) fn new(
        directory: &Path,
        payload_bytes: usize,
        records: usize,
        write_bytes: usize,
    ) -> Result<Self, Box<dyn Error>> {
        let file = zero_filled(directory)?;
        let (slot, syncs) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(Self { file, payload_bytes, records, write_bytes, is_synced: true, slot, syncs })
    }

    /// Leaves it to the system when the writes reach the disk.
    pub(crate) fn without_syncs(self) -> Self {
        Self { is_synced: false, ..self }
    }

    fn slots(&self) -> u64 {
        (FILE_BYTES / self.write_bytes) as u64
    }
}

impl Side for Raw {
    fn work(&self, thread: usize, first: u64, meter: &mut Meter<'_>) -> u64 {
        let (mut bytes, mut number) = (vec![0x5a; self.write_bytes], first);
        while meter.goes_on() {
            number = stamp_all(&mut bytes, self.payload_bytes, self.records, (thread, number));
            let slot = self.slot.fetch_add(1, Ordering::Relaxed) % self.slots();
            let at = slot * self.write_bytes as u64;
            let write = || self.file.write_all_at(&bytes, at).expect("the raw file takes a write");
            if !self.is_synced {
                meter.sample(number, write);
                continue;
            }
            meter.time(|| {
                write();
                self.file.sync_data().expect("the raw file syncs");
            });
            self.syncs.fetch_add(1, Ordering::Relaxed);
        }
        number
    }

    fn counts(&self) -> Counts {
        Counts::of_syncs(self.syncs.load(Ordering::Relaxed))
    }

    fn verify(&self, acknowledged: &[u64]) -> Result<(), String> {
        let written = self.slot.load(Ordering::Relaxed);
        let mut bytes = vec![0; self.write_bytes];
        for slot in written.saturating_sub(self.slots())..written {
            let at = (slot % self.slots()) * self.write_bytes as u64;
            self.file.read_exact_at(&mut bytes, at).map_err(|e| e.to_string())?;
            let payloads = bytes.chunks_exact(self.payload_bytes).take(self.records);
            for (number, payload) in (slot * self.records as u64..).zip(payloads) {
                if read_stamp(payload) != Some((0, number)) {
                    return Err(format!("the raw file lost record {number}"));
                }
            }
        }
        let expected = written * self.records as u64;
        let [count] = acknowledged else { return Err("the raw file has one writer".to_owned()) };
        if *count == expected { Ok(()) } else { Err(format!("{count} is not {expected}")) }
    }
}
