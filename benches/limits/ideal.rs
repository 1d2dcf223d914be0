//! The ideal group commit: threads copy their record into a shared buffer, the first becomes the
//! leader and writes and syncs for all. No checksums, no index, nobody reads.
//!
//! Which way of waking is the best depends on the machine and on how fast its disk answers, so
//! there are several designs, and the log is compared with the fastest.

use std::error::Error;
use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::thread::Thread;

use crate::measure::{Counts, Meter, Side, read_stamp, stamp};
use crate::raw::{FILE_BYTES, zero_filled};

/// How often a new leader lets others run while it hopes for more records.
const YIELDS_MAX: usize = 16;

/// How threads wait, and in which order they are woken.
#[derive(Clone, Copy)]
pub(crate) struct Design {
    /// Each waiter is unparked by name; else all share one condition variable per batch.
    parks: bool,
    /// The next leader is woken before those who are done.
    hands_off_first: bool,
    /// A new leader waits a little for those who took part in the batch before.
    gathers: bool,
}

impl Design {
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..8).map(|bits| Self {
            parks: bits & 1 != 0,
            hands_off_first: bits & 2 != 0,
            gathers: bits & 4 != 0,
        })
    }
}

impl fmt::Display for Design {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wake = if self.parks { "park" } else { "condvar" };
        let order = if self.hands_off_first { "leader first" } else { "leader last" };
        let gather = if self.gathers { "yields for company" } else { "at once" };
        write!(f, "{wake}, {order}, {gather}")
    }
}

/// A file that many threads write to.
pub(crate) struct Ideal {
    design: Design,
    file: File,
    payload_bytes: usize,
    queue: Mutex<Queue>,
    /// The number of the first batch that is not on the disk.
    done: AtomicU64,
    sleep: Mutex<()>,
    /// The waiters of even and of odd batches; no more than two batches have waiters.
    condvars: [Condvar; 2],
    /// The number of the batch that looks for a leader among its waiters, plus one.
    leaderless: AtomicU64,
    /// Whether the thread with this number shall lead; for threads that are parked.
    promoted: Vec<AtomicBool>,
    syncs: AtomicU64,
}

#[derive(Default)]
struct Queue {
    bytes: Vec<u8>,
    /// The buffer that was written last.
    spare: Vec<u8>,
    batch: u64,
    leading: bool,
    parked: Vec<(usize, Thread)>,
    spare_parked: Vec<(usize, Thread)>,
    last_bytes: usize,
    at: usize,
}

impl Ideal {
    pub(crate) fn new(
        directory: &Path,
        payload_bytes: usize,
        threads: usize,
        design: Design,
    ) -> Result<Self, Box<dyn Error>> {
        Ok(Self {
            design,
            file: zero_filled(directory)?,
            payload_bytes,
            queue: Mutex::default(),
            done: AtomicU64::new(0),
            sleep: Mutex::default(),
            condvars: Default::default(),
            leaderless: AtomicU64::new(0),
            promoted: (0..threads).map(|_| AtomicBool::new(false)).collect(),
            syncs: AtomicU64::new(0),
        })
    }

    fn queue(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().expect("no writer panics")
    }

    fn append(&self, thread: usize, record: &[u8]) {
        let mut queue = self.queue();
        queue.bytes.extend_from_slice(record);
        let batch = queue.batch;
        let leads = !std::mem::replace(&mut queue.leading, true);
        if !leads && self.design.parks {
            queue.parked.push((thread, std::thread::current()));
        }
        drop(queue);
        if leads || self.wait(thread, batch) {
            self.lead();
        }
    }

    /// Waits until the batch is done (`false`) or the caller is to write it (`true`).
    fn wait(&self, thread: usize, batch: u64) -> bool {
        if self.design.parks {
            loop {
                if self.done.load(Ordering::Acquire) > batch {
                    return false;
                }
                if self.promoted[thread].swap(false, Ordering::Acquire) {
                    return true;
                }
                std::thread::park();
            }
        }
        let mut guard = self.sleep.lock().expect("no writer panics");
        loop {
            if self.done.load(Ordering::Acquire) > batch {
                return false;
            }
            if self.leaderless.load(Ordering::Acquire) == batch + 1 {
                self.leaderless.store(0, Ordering::Release);
                return true;
            }
            let condvar = &self.condvars[usize::from(batch % 2 == 1)];
            guard = condvar.wait(guard).expect("no writer panics");
        }
    }

    /// Writes one batch, then hands leadership on.
    fn lead(&self) {
        if self.design.gathers {
            self.gather();
        }
        let mut queue = self.queue();
        let spare = std::mem::take(&mut queue.spare);
        let bytes = std::mem::replace(&mut queue.bytes, spare);
        let spare = std::mem::take(&mut queue.spare_parked);
        let mut parked = std::mem::replace(&mut queue.parked, spare);
        let batch = queue.batch;
        queue.batch += 1;
        queue.last_bytes = bytes.len();
        if queue.at + bytes.len() > FILE_BYTES {
            queue.at = 0;
        }
        let at = queue.at as u64;
        queue.at += bytes.len();
        drop(queue);
        self.file.write_all_at(&bytes, at).expect("the raw file takes a write");
        self.file.sync_data().expect("the raw file syncs");
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.done.store(batch + 1, Ordering::Release);
        if self.design.hands_off_first {
            self.hand_off();
            self.wake(batch, &mut parked);
        } else {
            self.wake(batch, &mut parked);
            self.hand_off();
        }
        let mut queue = self.queue();
        queue.spare = bytes;
        queue.spare.clear();
        queue.spare_parked = parked;
    }

    fn gather(&self) {
        for _ in 0..YIELDS_MAX {
            let queue = self.queue();
            if queue.bytes.len() >= queue.last_bytes {
                return;
            }
            drop(queue);
            std::thread::yield_now();
        }
    }

    fn wake(&self, batch: u64, parked: &mut Vec<(usize, Thread)>) {
        if self.design.parks {
            for (_, thread) in parked.drain(..) {
                thread.unpark();
            }
        } else {
            drop(self.sleep.lock().expect("no writer panics"));
            self.condvars[usize::from(batch % 2 == 1)].notify_all();
        }
    }

    /// Makes a waiter of the next batch its leader.
    fn hand_off(&self) {
        let mut queue = self.queue();
        if queue.bytes.is_empty() {
            queue.leading = false;
            return;
        }
        let batch = queue.batch;
        if self.design.parks {
            let (thread, handle) = queue.parked.pop().expect("a queued record has a waiter");
            drop(queue);
            self.promoted[thread].store(true, Ordering::Release);
            handle.unpark();
        } else {
            drop(queue);
            let guard = self.sleep.lock().expect("no writer panics");
            self.leaderless.store(batch + 1, Ordering::Release);
            drop(guard);
            self.condvars[usize::from(batch % 2 == 1)].notify_one();
        }
    }
}

impl Side for Ideal {
    fn work(&self, thread: usize, first: u64, meter: &mut Meter<'_>) -> u64 {
        let (mut record, mut number) = (vec![0; self.payload_bytes], first);
        while meter.goes_on() {
            stamp(&mut record, thread, number);
            meter.time(|| self.append(thread, &record));
            number += 1;
        }
        number
    }

    fn counts(&self) -> Counts {
        Counts::of_syncs(self.syncs.load(Ordering::Relaxed))
    }

    fn verify(&self, acknowledged: &[u64]) -> Result<(), String> {
        let mut bytes = vec![0; FILE_BYTES];
        self.file.read_exact_at(&mut bytes, 0).map_err(|e| e.to_string())?;
        let mut last = vec![0; acknowledged.len()];
        let mut found = 0;
        for record in bytes.chunks_exact(self.payload_bytes) {
            if record.iter().all(|byte| *byte == 0) {
                continue;
            }
            let (thread, number) = read_stamp(record).ok_or("the ideal wrote a torn record")?;
            let last: &mut u64 = last.get_mut(thread).ok_or("the ideal invented a thread")?;
            *last = (*last).max(number + 1);
            found += 1;
        }
        let written: u64 = acknowledged.iter().sum();
        let room = (FILE_BYTES / self.payload_bytes) as u64;
        if last != acknowledged || (written < room / 2 && found != written) {
            return Err(format!("the ideal lost records: {found} of {written} found"));
        }
        Ok(())
    }
}
