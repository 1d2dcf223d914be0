//! The least that a log does for a record that is handed to it by a call of its own, which any thread
//! may make: it stamps it with the time, gives it a number and copies it under a lock, and returns a
//! handle; frames with a checksum go to files that grow.

use std::collections::VecDeque;
use std::error::Error;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::time::{ClockId, clock_gettime};

use crate::growing::Growing;
use crate::measure::{Counts, Meter, Side, stamp};
use crate::raw::Blocks;
use crate::{ENTRY_BYTES, FRAME_HEADER_BYTES, entry_bytes};

/// One thread that calls so many times, and then writes for all.
pub(crate) struct Calls {
    files: Growing,
    payload_bytes: usize,
    queue: Arc<Mutex<Queue>>,
}

#[derive(Default)]
struct Queue {
    bytes: Vec<u8>,
    next: u64,
    written: Arc<AtomicBool>,
}

/// What a call returns. It keeps its log alive, as ours does.
struct Handle {
    number: u64,
    written: Arc<AtomicBool>,
    _queue: Arc<Mutex<Queue>>,
}

impl Calls {
    pub(crate) fn new(
        directory: &Path,
        payload_bytes: usize,
        calls: usize,
        blocks: Blocks,
    ) -> Result<Self, Box<dyn Error>> {
        let stride = entry_bytes(payload_bytes);
        let files = (FRAME_HEADER_BYTES + calls * stride, blocks);
        let files = Growing::new(directory, payload_bytes, calls, files)?;
        let files = files.laid_out(FRAME_HEADER_BYTES + ENTRY_BYTES, stride);
        Ok(Self { files, payload_bytes, queue: Arc::default() })
    }

    /// Leaves it to the system when the writes reach the disk.
    pub(crate) fn without_syncs(mut self) -> Self {
        self.files = self.files.without_syncs();
        self
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("no caller panics")
    }

    /// The caller keeps its payload.
    fn call(&self, payload: &[u8]) -> Handle {
        let now = clock_gettime(ClockId::Realtime);
        let mut queue = self.queue();
        let (number, start) = (queue.next, queue.bytes.len());
        queue.next += 1;
        let mut header = [0; ENTRY_BYTES];
        header[..8].copy_from_slice(&number.to_le_bytes());
        header[8..16].copy_from_slice(&(now.tv_sec * 1000 + now.tv_nsec / 1_000_000).to_le_bytes());
        queue.bytes.extend_from_slice(&header);
        queue.bytes.extend_from_slice(payload);
        queue.bytes.resize(start + entry_bytes(self.payload_bytes), 0);
        let written = Arc::clone(&queue.written);
        Handle { number, written, _queue: Arc::clone(&self.queue) }
    }

    /// Writes what is queued as one frame.
    fn commit(&self, frame: &mut Vec<u8>) {
        let mut queue = self.queue();
        std::mem::swap(frame, &mut queue.bytes);
        queue.bytes.clear();
        queue.bytes.resize(FRAME_HEADER_BYTES, 0);
        let written = std::mem::take(&mut queue.written);
        drop(queue);
        let checksum = crc32fast::hash(&frame[FRAME_HEADER_BYTES..]);
        frame[..4].copy_from_slice(&checksum.to_le_bytes());
        self.files.write(frame);
        written.store(true, Ordering::Release);
    }
}

impl Side for Calls {
    fn work(&self, thread: usize, first: u64, meter: &mut Meter<'_>) -> u64 {
        let (mut payload, mut number) = (vec![0; self.payload_bytes], first);
        let (mut handles, mut frame) = (VecDeque::with_capacity(self.files.records), Vec::new());
        self.queue().bytes.resize(FRAME_HEADER_BYTES, 0);
        while meter.goes_on() {
            for _ in 0..self.files.records {
                stamp(&mut payload, thread, number);
                handles.push_back(self.call(&payload));
                number += 1;
            }
            if self.files.is_synced() {
                meter.time(|| self.commit(&mut frame));
            } else {
                meter.sample(number, || self.commit(&mut frame));
            }
            for handle in handles.drain(..) {
                assert!(handle.number < number && handle.written.load(Ordering::Acquire));
            }
        }
        number
    }

    fn counts(&self) -> Counts {
        self.files.counts()
    }

    fn verify(&self, acknowledged: &[u64]) -> Result<(), String> {
        self.files.verify(acknowledged)
    }
}
