//! What files that grow allow: each block is written once, as in a log, and the next file is made
//! while this one is written. What the limit of [`Raw`](crate::raw::Raw) leaves out is what a log
//! cannot: it has one file, whose blocks are all there already.

use std::error::Error;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use crate::measure::{Counts, Meter, Side, read_stamp};
use crate::raw::{Blocks, FILE_BYTES, new_file, stamp_all};

/// As many bytes are written before the next sync behind the writes.
const BEHIND_BYTES: u64 = 8 * 1024 * 1024;

/// One thread that writes to one file after the other, and syncs unless it was told not to.
pub(crate) struct Growing {
    files: Mutex<Files>,
    helpers: Vec<JoinHandle<()>>,
    payload_bytes: usize,
    pub(crate) records: usize,
    write_bytes: usize,
    /// Where in a write the first payload lies, and how far it is to the next.
    layout: (usize, usize),
    is_synced: bool,
    syncs: AtomicU64,
}

struct Files {
    /// The last one is written to.
    all: Vec<Arc<File>>,
    /// Where the next write goes in it.
    at: u64,
    /// Up to where it was given to be synced.
    given: u64,
    /// Syncs behind the writes, where these do not sync themselves.
    behind: Option<SyncSender<Arc<File>>>,
    /// The next ones, each made once the one before is taken.
    next: Option<Receiver<File>>,
}

impl Growing {
    /// Each write has `write_bytes` bytes and carries `records` payloads.
    pub(crate) fn new(
        directory: &Path,
        payload_bytes: usize,
        records: usize,
        (write_bytes, blocks): (usize, Blocks),
    ) -> Result<Self, Box<dyn Error>> {
        let (sender, next) = sync_channel(0);
        let first = new_file(directory, blocks)?;
        let directory = PathBuf::from(directory);
        let maker = std::thread::spawn(move || {
            // Until nobody takes another one.
            while let Ok(file) = new_file(&directory, blocks)
                && sender.send(file).is_ok()
            {}
        });
        let files = Mutex::new(Files {
            all: vec![Arc::new(first)],
            at: 0,
            given: 0,
            behind: None,
            next: Some(next),
        });
        let syncs = AtomicU64::new(0);
        let (helpers, layout) = (vec![maker], (0, payload_bytes));
        let is_synced = true;
        Ok(Self { files, helpers, payload_bytes, records, write_bytes, layout, is_synced, syncs })
    }

    /// Expects the payloads at other places than one behind the other.
    pub(crate) fn laid_out(mut self, first: usize, stride: usize) -> Self {
        self.layout = (first, stride);
        self
    }

    /// No write waits for the disk. But each file is on the disk before the next one is written to, as
    /// what lies behind a hole in a log is lost with it; so they are synced behind the writes.
    pub(crate) fn without_syncs(mut self) -> Self {
        let (sender, given) = sync_channel::<Arc<File>>(0);
        self.helpers.push(std::thread::spawn(move || {
            for file in given {
                file.sync_data().expect("the file syncs");
            }
        }));
        self.files().behind = Some(sender);
        self.is_synced = false;
        self
    }

    pub(crate) fn is_synced(&self) -> bool {
        self.is_synced
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().expect("no writer panics")
    }

    /// Writes so many records, and syncs if it is to.
    pub(crate) fn write(&self, bytes: &[u8]) {
        let mut files = self.files();
        let (file, at) = files.place(bytes.len());
        file.write_all_at(bytes, at).expect("the file takes a write");
        if self.is_synced {
            file.sync_data().expect("the file syncs");
            self.syncs.fetch_add(1, Ordering::Relaxed);
        } else {
            files.sync_behind();
        }
    }
}

impl Drop for Growing {
    /// Waits until no file is made any more: the directory is about to be removed.
    fn drop(&mut self) {
        let mut files = self.files();
        (files.next, files.behind) = (None, None);
        drop(files);
        self.helpers.drain(..).for_each(|helper| helper.join().expect("no helper panics"));
    }
}

impl Files {
    /// The file and the place of the next write.
    fn place(&mut self, bytes: usize) -> (&File, u64) {
        let bytes = bytes as u64;
        if self.at + bytes > FILE_BYTES as u64 {
            if self.behind.is_some() {
                self.last().sync_data().expect("the file syncs");
            }
            let next = self.next.as_ref().expect("nobody writes any more");
            self.all.push(Arc::new(next.recv().expect("the next file is made")));
            (self.at, self.given) = (0, 0);
        }
        let at = self.at;
        self.at += bytes;
        (self.last(), at)
    }

    fn last(&self) -> &Arc<File> {
        self.all.last().expect("there is a first one")
    }

    /// Has what is written synced once there is enough of it, unless the last sync goes on still.
    fn sync_behind(&mut self) {
        if let Some(behind) = &self.behind
            && self.at - self.given >= BEHIND_BYTES
            && behind.try_send(Arc::clone(self.last())).is_ok()
        {
            self.given = self.at;
        }
    }
}

impl Side for Growing {
    fn work(&self, thread: usize, first: u64, meter: &mut Meter<'_>) -> u64 {
        let (mut bytes, mut number) = (vec![0x5a; self.write_bytes], first);
        while meter.goes_on() {
            number = stamp_all(&mut bytes, self.payload_bytes, self.records, (thread, number));
            if self.is_synced {
                meter.time(|| self.write(&bytes));
            } else {
                meter.sample(number, || self.write(&bytes));
            }
        }
        number
    }

    fn counts(&self) -> Counts {
        Counts::of_syncs(self.syncs.load(Ordering::Relaxed))
    }

    fn verify(&self, acknowledged: &[u64]) -> Result<(), String> {
        let (files, mut bytes, mut number) = (self.files(), vec![0; self.write_bytes], 0);
        for (i, file) in files.all.iter().enumerate() {
            let is_last = i + 1 == files.all.len();
            let written = if is_last { files.at } else { FILE_BYTES as u64 };
            for write in 0..written / self.write_bytes as u64 {
                let at = write * self.write_bytes as u64;
                file.read_exact_at(&mut bytes, at).map_err(|e| e.to_string())?;
                let (first, stride) = self.layout;
                for at in (first..).step_by(stride).take(self.records) {
                    let payload = &bytes[at..at + self.payload_bytes];
                    if read_stamp(payload) != Some((0, number)) {
                        return Err(format!("the files lost record {number}"));
                    }
                    number += 1;
                }
            }
        }
        if *acknowledged == [number] { Ok(()) } else { Err(format!("{number} were written")) }
    }
}
