//! What the fuzzer runs, as plain functions of bytes.
//!
//! ```text
//! mkdir -p fuzz/corpus/directory
//! cargo +nightly fuzz run -s none directory fuzz/corpus/directory fuzz/seeds/directory
//! ```
//!
//! looks for bytes that break a claim; `cargo run --bin directory -- FILES` replays files on a
//! stable compiler. A sanitizer would only make it slower: on the simulated disk, nothing is
//! `unsafe`.
#![allow(clippy::disallowed_methods, reason = "a fuzz target reads files like anyone")]

pub mod directory;
pub mod frame;
pub mod operations;

use std::sync::Arc;
use std::time::Duration;

use ackline::simulation::{SimClock, SimDisk};
use ackline::{Error, Log, Message, Offset, Options, Result, Topic};

/// Replays the files that are named as arguments, and those in directories that are.
pub fn replay(run: fn(&[u8])) -> std::io::Result<()> {
    let mut replayed = 0;
    for argument in std::env::args_os().skip(1) {
        let mut files = vec![std::path::PathBuf::from(argument)];
        if files[0].is_dir() {
            let entries = std::fs::read_dir(files.remove(0))?;
            files = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
        }
        for file in files {
            run(&std::fs::read(file)?);
            replayed += 1;
        }
    }
    println!("replayed {replayed} files");
    if replayed == 0 {
        return Err(std::io::Error::other("there was nothing to replay"));
    }
    Ok(())
}

/// Takes decisions out of bytes; zeros once they are used up.
pub struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn u8(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    pub fn u16(&mut self) -> u16 {
        u16::from(self.u8()) | u16::from(self.u8()) << 8
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::from(self.u16()) % bound.max(1)
    }

    /// Up to `bytes` bytes.
    pub fn take(&mut self, bytes: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(bytes.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

/// A file of a simulated disk.
pub type File = (String, Vec<u8>);

/// A disk with these files on it, all of them durable.
pub fn disk_with(files: &[File], seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed);
    let storage = disk.storage();
    for (name, bytes) in files {
        // Two files may have been given the same name; the first one has it.
        if let Ok(file) = storage.create(name) {
            let mut at = 0;
            while at < bytes.len() {
                at += file.write_at(&bytes[at..], at as u64).expect("the disk is healthy");
            }
            file.sync().expect("the disk is healthy");
        }
    }
    storage.sync_directory().expect("the disk is healthy");
    disk
}

/// The files of a disk.
pub fn files_of(disk: &SimDisk) -> Vec<File> {
    let storage = disk.storage();
    let mut files: Vec<File> = Vec::new();
    for entry in storage.list().expect("the disk is healthy") {
        let Ok(file) = storage.open(&entry.name) else { continue };
        let size = file.size().expect("the disk is healthy");
        let mut bytes = vec![0; usize::try_from(size).expect("small files")];
        let mut at = 0;
        while at < bytes.len() {
            let read = file.read_at(&mut bytes[at..], at as u64).expect("the disk is healthy");
            assert!(read > 0, "a file is as long as it says");
            at += read;
        }
        files.push((entry.name, bytes));
    }
    files.sort();
    files
}

/// Options for small files, and salts that differ from opening to opening.
pub fn options(disk: &SimDisk, clock: &SimClock) -> Options {
    Options::new()
        .segment_bytes(4096)
        .payload_bytes_max(4096)
        .recent_bytes(1024)
        .open_segments_max(2)
        .lock_timeout(Duration::ZERO)
        .simulated(Arc::new(clock.clone()), disk.calls())
}

/// All messages of a topic that can be read, and the first error if it is not about a gap.
pub fn read_all(topic: &Topic) -> (Vec<Message>, Option<Error>) {
    let mut messages = Vec::new();
    let reader = match topic.read_from(topic.offsets().start) {
        Ok(reader) => reader,
        Err(error) => return (messages, Some(error)),
    };
    for message in reader {
        match message {
            Ok(message) => messages.push(message),
            Err(Error::Lagged { .. }) => {}
            Err(error) => return (messages, Some(error)),
        }
    }
    (messages, None)
}

/// Uses a log that opened, whatever it holds: what is appended now must be there after closing
/// and opening it again.
///
/// Nothing may panic. A log that was accepted must be able to go on; only what lies damaged in
/// older segments may be reported when it is read.
pub fn use_and_reopen(log: Log, disk: &SimDisk, clock: &SimClock) -> Result<()> {
    let topic = log.topic("fuzzed")?;
    let payload = |i: u64| format!("appended {i}").into_bytes();
    let mut appended: Vec<Offset> = Vec::new();
    for i in 0..8 {
        appended.push(topic.append(payload(i))?.offset);
    }
    for name in log.topics() {
        // A topic of the log may have a name that is not allowed for new ones.
        let Ok(topic) = log.topic(&name) else { continue };
        drop(read_all(&topic));
        let Ok(group) = topic.group("fuzzers") else { continue };
        if let Ok(polled) = group.poll(10, Duration::ZERO) {
            for delivery in polled {
                drop(delivery.ack());
            }
        }
    }
    drop(log.maintain());
    log.close()?;
    let log = options(disk, clock).open_on(disk.storage())?;
    let topic = log.topic("fuzzed")?;
    for (i, offset) in (0..).zip(appended) {
        let message = topic.read_from(offset)?.next().expect("what was appended is there")?;
        assert_eq!(message.payload(), payload(i), "what was appended reads back");
    }
    log.close()
}
