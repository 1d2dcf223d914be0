//! What a workload is divided by: the same without any queue.

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::ideal::{Design, Ideal};
use crate::measure::{self, Counts, Meter, Plan, STAMP_BYTES, Side, read_stamp, stamp};
use crate::peer::{Failure, Mode};
use crate::process::Disk;
use crate::raw::{FILE_BYTES, Raw, zero_filled};
use crate::sides::{is_payload, read_records};
use crate::workload::{BATCH_RECORDS, IN_FLIGHT, Work, Workload};

/// Makes the limit of a workload; `design` is that of the group commit.
pub(crate) fn make(
    workload: &Workload,
    directory: &Path,
    design: usize,
) -> Result<Box<dyn Side>, Failure> {
    let Workload { threads, payload_bytes: bytes, .. } = *workload;
    let side = match (workload.work, threads) {
        (Work::Append(Mode::Durable), 1) => boxed(Raw::new(directory, bytes, 1, bytes)),
        (Work::Append(Mode::Durable) | Work::Cycle, _) => {
            let design = Design::all().nth(design).ok_or("there is no such design")?;
            boxed(Ideal::new(directory, bytes, threads, design))
        }
        (Work::Append(Mode::Unsynced), _) => boxed(Unsynced::new(directory, bytes)),
        (Work::Batch, _) => boxed(Raw::new(directory, bytes, BATCH_RECORDS, bytes * BATCH_RECORDS)),
        (Work::Submit, _) => boxed(Raw::new(directory, bytes, IN_FLIGHT, bytes * IN_FLIGHT)),
        // As much as it takes to say which number a consumer is at.
        (Work::Ack, _) => boxed(Raw::new(directory, STAMP_BYTES, 1, STAMP_BYTES)),
        (Work::Read, _) => boxed(Scan::new(directory, bytes)),
    };
    // Those of the other benchmark have errors that cannot go to another thread.
    side.map_err(|error| error.to_string().into())
}

fn boxed(
    side: Result<impl Side + 'static, Box<dyn Error>>,
) -> Result<Box<dyn Side>, Box<dyn Error>> {
    Ok(Box::new(side?))
}

/// The number of the design of a group commit that is the fastest here and now, by the median of
/// three tries.
pub(crate) fn fastest_design(
    directory: &Path,
    threads: usize,
    time: Duration,
) -> Result<usize, Failure> {
    const PAYLOAD_BYTES: usize = 100;
    let plan = Plan { time: time / 2, rounds: 3, disk: Disk::default(), unsynced: None };
    let tried: Vec<_> = Design::all()
        .map(|design| Ideal::new(directory, PAYLOAD_BYTES, threads, design))
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())?;
    let sides: Vec<_> = tried.iter().map(|ideal| ideal as &dyn Side).collect();
    let measured = measure::in_turns(&sides, threads, PAYLOAD_BYTES, &plan)
        .map_err(|error| error.to_string())?;
    let rate = |side: &measure::Measured| {
        measure::spread(side.rounds.iter().map(|round| measure::per_second(round))).median
    };
    let rates = measured.iter().map(rate).enumerate();
    let fastest = rates.max_by(|a, b| a.1.total_cmp(&b.1));
    Ok(fastest.ok_or("there is at least one design")?.0)
}

/// One thread that writes and never syncs.
struct Unsynced {
    file: File,
    payload_bytes: usize,
    slot: AtomicU64,
}

impl Unsynced {
    fn new(directory: &Path, payload_bytes: usize) -> Result<Self, Box<dyn Error>> {
        Ok(Self { file: zero_filled(directory)?, payload_bytes, slot: AtomicU64::new(0) })
    }

    fn slots(&self) -> u64 {
        (FILE_BYTES / self.payload_bytes) as u64
    }

    fn at(&self, slot: u64) -> u64 {
        slot % self.slots() * self.payload_bytes as u64
    }
}

impl Side for Unsynced {
    fn work(&self, thread: usize, first: u64, meter: &mut Meter<'_>) -> u64 {
        let (mut payload, mut number) = (vec![0; self.payload_bytes], first);
        while meter.goes_on() {
            stamp(&mut payload, thread, number);
            let slot = self.slot.fetch_add(1, Ordering::Relaxed);
            self.file.write_all_at(&payload, self.at(slot)).expect("the raw file takes a write");
            number += 1;
        }
        number
    }

    fn counts(&self) -> Counts {
        // Syncs are counted by strace.
        Counts::default()
    }

    fn verify(&self, acknowledged: &[u64]) -> Result<(), String> {
        let written = self.slot.load(Ordering::Relaxed);
        if acknowledged != [written] {
            return Err(format!("{written} writes, {acknowledged:?} acknowledged"));
        }
        let mut payload = vec![0; self.payload_bytes];
        for slot in written.saturating_sub(self.slots())..written {
            let read = self.file.read_exact_at(&mut payload, self.at(slot));
            read.map_err(|error| error.to_string())?;
            if read_stamp(&payload) != Some((0, slot)) {
                return Err(format!("the raw file lost record {slot}"));
            }
        }
        Ok(())
    }
}

/// A file of records, each behind its checksum, that is read from front to back.
struct Scan {
    file: File,
    payload_bytes: usize,
    records: u64,
}

/// How many bytes are read at a time, at most.
const READ_BYTES: usize = 1 << 20;

impl Scan {
    fn new(directory: &Path, payload_bytes: usize) -> Result<Self, Box<dyn Error>> {
        let path = directory.join("scan");
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        let mut payload = vec![0; payload_bytes];
        let mut bytes = Vec::new();
        let records = read_records(payload_bytes);
        for number in 0..records {
            stamp(&mut payload, 0, number);
            bytes.extend_from_slice(&crc32fast::hash(&payload).to_le_bytes());
            bytes.extend_from_slice(&payload);
        }
        file.write_all_at(&bytes, 0)?;
        Ok(Self { file, payload_bytes, records })
    }

    /// Reads until the end or until told to stop; returns the number of records, and whether all
    /// of them were right.
    fn read(&self, goes_on: impl Fn() -> bool) -> std::io::Result<(u64, bool)> {
        let record_bytes = size_of::<u32>() + self.payload_bytes;
        let mut bytes = vec![0; READ_BYTES / record_bytes * record_bytes];
        let total = self.records * record_bytes as u64;
        let (mut next, mut at) = (0, 0);
        while at < total {
            let rest = usize::try_from(total - at).unwrap_or(usize::MAX);
            let here = rest.min(bytes.len());
            let chunk = &mut bytes[..here];
            self.file.read_exact_at(chunk, at)?;
            at += here as u64;
            for record in chunk.chunks_exact(record_bytes) {
                let (checksum, payload) = record.split_at(size_of::<u32>());
                let right = crc32fast::hash(payload).to_le_bytes() == checksum;
                if !right || !is_payload(payload, next) {
                    return Ok((next, false));
                }
                next += 1;
                if !goes_on() {
                    return Ok((next, true));
                }
            }
        }
        Ok((next, true))
    }
}

impl Side for Scan {
    fn work(&self, _: usize, first: u64, meter: &mut Meter<'_>) -> u64 {
        let mut read = 0;
        while meter.goes_on() {
            let (records, right) = self.read(|| meter.goes_on()).expect("the raw file reads");
            assert!(right, "record {records} of the raw file is altered");
            read += records;
        }
        first + read
    }

    fn counts(&self) -> Counts {
        // Syncs are counted by strace.
        Counts::default()
    }

    fn verify(&self, _: &[u64]) -> Result<(), String> {
        let read = self.read(|| true).map_err(|error| error.to_string())?;
        if read == (self.records, true) { Ok(()) } else { Err(format!("the scan found {read:?}")) }
    }
}
