//! What memory allows: records with a checksum in a file that is mapped, written and read without
//! any calls of the system.

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use memmap2::{Mmap, MmapMut};

use crate::measure::{Counts, Meter, Side, peek_stamp, place, read_stamp, stamp};
use crate::process;
use crate::raw::{FILE_BYTES, zero_filled};
use crate::{ENTRY_BYTES, entry_bytes};

/// Maps a file for reading.
#[allow(unsafe_code, reason = "a map of a file is unsafe to make")]
fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: The file is in a temporary directory of this process, which neither changes nor
    // cuts it while it is mapped.
    unsafe { Mmap::map(file) }
}

/// Maps a file for writing.
#[allow(unsafe_code, reason = "a map of a file is unsafe to make")]
fn map_mut(file: &File) -> std::io::Result<MmapMut> {
    // SAFETY: The file is in a temporary directory of this process, which reaches it by one map
    // at a time and does not cut it.
    unsafe { MmapMut::map_mut(file) }
}

/// Writes a payload behind its length and its checksum.
fn write_entry(entry: &mut [u8], payload: &[u8]) {
    let (header, rest) = entry.split_at_mut(ENTRY_BYTES);
    rest[..payload.len()].copy_from_slice(payload);
    header[..8].copy_from_slice(&(payload.len() as u64).to_le_bytes());
    header[8..12].copy_from_slice(&crc32fast::hash(payload).to_le_bytes());
}

/// The payload of an entry whose checksum is right.
fn read_entry(entry: &[u8]) -> Option<&[u8]> {
    let (header, rest) = entry.split_at(ENTRY_BYTES);
    let length = header[..8].try_into().map(u64::from_le_bytes).ok()?;
    let checksum = header[8..12].try_into().map(u32::from_le_bytes).ok()?;
    let payload = rest.get(..usize::try_from(length).ok()?)?;
    (crc32fast::hash(payload) == checksum).then_some(payload)
}

/// Copies records into a mapped file, from front to back and again from the front. Each pass maps it
/// anew: what is appended to a log goes to pages that were not touched before.
pub(crate) struct Copies {
    file: File,
    map: Mutex<MmapMut>,
    payload_bytes: usize,
}

impl Copies {
    pub(crate) fn new(directory: &Path, payload_bytes: usize) -> Result<Self, Box<dyn Error>> {
        let file = zero_filled(directory)?;
        let map = Mutex::new(map_mut(&file)?);
        Ok(Self { file, map, payload_bytes })
    }

    fn map(&self) -> MutexGuard<'_, MmapMut> {
        self.map.lock().expect("no writer panics")
    }

    fn slots(&self) -> u64 {
        (FILE_BYTES / entry_bytes(self.payload_bytes)) as u64
    }
}

impl Side for Copies {
    fn work(&self, thread: usize, first: u64, meter: &mut Meter<'_>) -> u64 {
        let (mut payload, mut number) = (vec![0; self.payload_bytes], first);
        let mut map = self.map();
        let entry_bytes = entry_bytes(self.payload_bytes);
        let slots = map.len() / entry_bytes;
        while meter.goes_on() {
            for entry in map.chunks_exact_mut(entry_bytes).skip(place(number, slots)) {
                if !meter.goes_on() {
                    break;
                }
                stamp(&mut payload, thread, number);
                write_entry(entry, &payload);
                number += 1;
            }
            if place(number, slots) == 0 {
                *map = map_mut(&self.file).expect("the file can be mapped again");
            }
        }
        number
    }

    fn counts(&self) -> Counts {
        Counts::default()
    }

    fn verify(&self, acknowledged: &[u64]) -> Result<(), String> {
        let [count] = acknowledged else { return Err("the map has one writer".to_owned()) };
        let (map, slots) = (self.map(), self.slots());
        let entries = map.chunks_exact(entry_bytes(self.payload_bytes));
        for (slot, entry) in (0..slots.min(*count)).zip(entries) {
            let number = slot + (count - 1 - slot) / slots * slots;
            if read_entry(entry).and_then(read_stamp) != Some((0, number)) {
                return Err(format!("the map lost record {number}"));
            }
        }
        Ok(())
    }
}

/// Reads all records of a mapped file, from front to back and again from the front.
pub(crate) struct Scan {
    path: PathBuf,
    map: Mutex<Mmap>,
    payload_bytes: usize,
    records: usize,
    is_cold: bool,
}

impl Scan {
    pub(crate) fn new(
        directory: &Path,
        payload_bytes: usize,
        is_cold: bool,
    ) -> Result<Self, Box<dyn Error>> {
        let path = directory.join("scanned");
        let entry_bytes = entry_bytes(payload_bytes);
        let records = FILE_BYTES / entry_bytes;
        let (mut bytes, mut payload) = (vec![0; records * entry_bytes], vec![0; payload_bytes]);
        for (number, entry) in (0..).zip(bytes.chunks_exact_mut(entry_bytes)) {
            stamp(&mut payload, 0, number);
            write_entry(entry, &payload);
        }
        std::fs::write(&path, &bytes)?;
        let file = OpenOptions::new().read(true).open(&path)?;
        file.sync_all()?;
        Ok(Self { path, map: Mutex::new(map(&file)?), payload_bytes, records, is_cold })
    }

    fn map(&self) -> MutexGuard<'_, Mmap> {
        self.map.lock().expect("no reader panics")
    }
}

impl Side for Scan {
    fn prepare(&self) -> Result<(), Box<dyn Error>> {
        if self.is_cold {
            let mut held = self.map();
            // The system forgets nothing that is mapped.
            *held = MmapMut::map_anon(1)?.make_read_only()?;
            process::drop_cached(&self.path)?;
            *held = map(&File::open(&self.path)?)?;
        }
        Ok(())
    }

    fn work(&self, thread: usize, first: u64, meter: &mut Meter<'_>) -> u64 {
        let (map, mut number) = (self.map(), first);
        loop {
            // What is read twice is not cold.
            let begin = if self.is_cold { 0 } else { place(number, self.records) };
            let mut expected = begin as u64;
            for entry in map.chunks_exact(entry_bytes(self.payload_bytes)).skip(begin) {
                if !meter.goes_on() {
                    return number;
                }
                let payload = read_entry(entry).expect("unaltered");
                assert_eq!(peek_stamp(payload), Some((thread, expected)), "in order");
                (number, expected) = (number + 1, expected + 1);
            }
            if self.is_cold {
                return number;
            }
        }
    }

    fn counts(&self) -> Counts {
        Counts::default()
    }

    /// Each record was checked when it was read.
    fn verify(&self, _: &[u64]) -> Result<(), String> {
        Ok(())
    }
}

/// The same by calls that return a hundred handles at a time, which the caller keeps until it has so
/// many.
pub(crate) struct Handles {
    scan: Scan,
    per_call: usize,
    kept_max: usize,
    held: Mutex<Held>,
}

/// What stays from one turn to the next.
struct Held {
    map: Arc<Mmap>,
    kept: Vec<Handle>,
}

/// A record that was read. It keeps the memory alive that it lies in, and knows where.
struct Handle {
    number: u64,
    at: usize,
    payload_bytes: usize,
    map: Arc<Mmap>,
}

impl Handles {
    pub(crate) fn new(scan: Scan, per_call: usize, kept_max: usize) -> std::io::Result<Self> {
        let map = Arc::new(map(&File::open(&scan.path)?)?);
        let held = Mutex::new(Held { map, kept: Vec::with_capacity(kept_max + per_call) });
        Ok(Self { scan, per_call, kept_max, held })
    }

    /// Reads the records from `number` on, up to the end of the file.
    fn call(&self, map: &Arc<Mmap>, number: usize) -> Vec<Handle> {
        let entry_bytes = entry_bytes(self.scan.payload_bytes);
        let end = self.scan.records.min(number + self.per_call);
        let mut handles = Vec::with_capacity(end - number);
        for number in number..end {
            let at = number * entry_bytes;
            let payload = read_entry(&map[at..at + entry_bytes]).expect("unaltered");
            let (payload_bytes, number) = (payload.len(), number as u64);
            handles.push(Handle {
                number,
                at: at + ENTRY_BYTES,
                payload_bytes,
                map: Arc::clone(map),
            });
        }
        handles
    }
}

impl Side for Handles {
    fn work(&self, thread: usize, first: u64, meter: &mut Meter<'_>) -> u64 {
        let (mut held, mut number) = (self.held.lock().expect("no reader panics"), first);
        let Held { map, kept } = &mut *held;
        while meter.goes_on() {
            let begin = place(number, self.scan.records);
            let handles = self.call(map, begin);
            for (expected, handle) in (begin as u64..).zip(handles) {
                let payload = &handle.map[handle.at..handle.at + handle.payload_bytes];
                assert_eq!(peek_stamp(payload), Some((thread, expected)), "in order");
                assert_eq!(handle.number, expected);
                number += 1;
                kept.push(handle);
            }
            if kept.len() >= self.kept_max {
                kept.clear();
            }
        }
        number
    }

    fn counts(&self) -> Counts {
        Counts::default()
    }

    /// Each record was checked when it was read.
    fn verify(&self, _: &[u64]) -> Result<(), String> {
        Ok(())
    }
}
