//! walrus: a log of topics. It takes its directory from the environment, and one process has one
//! sync schedule, which is why each measurement is a process of its own.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Mutex;

use walrus_rust::{FsyncSchedule, ReadConsistency, Walrus};

use crate::peer::{Failure, Kind, Mode, NO_PANIC, Peer, Setup, Take, Visit};
use crate::workload::POLL_MAX;

pub(crate) const KIND: Kind = Kind {
    name: "walrus-rust",
    open,
    durable: "`FsyncSchedule::SyncEach`",
    unsynced: Some("`FsyncSchedule::NoFsync`"),
    topics: Some("topics"),
    in_flight: "`batch_append_for_topic` of 128",
    acked: Some("`read_next`, `batch_read_for_topic` with `ReadConsistency::StrictlyAtOnce`"),
    documentation: "https://docs.rs/walrus-rust/{}/walrus_rust/wal/enum.FsyncSchedule.html",
    remark: "Batches are written through io_uring, which strace does not see. A reader consumes \
             what it reads, so that each reading has an instance of its own, opened before. \
             Readers check a checksum of each record.",
};

/// Where walrus looks for the directory that it is to keep its files in.
pub(crate) const DIRECTORY_VARIABLE: &str = "WALRUS_DATA_DIR";
/// It prints what it does unless this is set.
pub(crate) const QUIET_VARIABLE: &str = "WALRUS_QUIET";

/// How many bytes a reader asks for at a time.
const READ_BYTES: usize = 1 << 20;
/// The same for a consumer: a bound of records it does not have, and theirs have 100 B.
const CONSUMED_BYTES: usize = POLL_MAX * 100;

struct Wal {
    writer: Walrus,
    key: String,
    schedule: FsyncSchedule,
    readers: Mutex<Readers>,
    consuming: Mutex<()>,
    names: Vec<String>,
}

/// Instances that read: each reads a topic once.
#[derive(Default)]
struct Readers {
    /// The one in use, and the topics that it has read.
    current: Option<(Walrus, HashSet<usize>)>,
    /// Those that have read nothing yet.
    prepared: Vec<Walrus>,
}

fn open(setup: &Setup<'_>) -> Result<Box<dyn Peer>, Failure> {
    let parent = std::env::var_os(DIRECTORY_VARIABLE).ok_or("no directory in the environment")?;
    if setup.directory.parent() != Some(Path::new(&parent)) {
        return Err("walrus keeps its files elsewhere".into());
    }
    let key = setup.directory.file_name().and_then(|name| name.to_str());
    let key = key.ok_or("the directory's name is text")?.to_owned();
    let schedule = match setup.mode {
        Mode::Durable => FsyncSchedule::SyncEach,
        Mode::Unsynced => FsyncSchedule::NoFsync,
    };
    let consistency = match setup.consumers {
        0 => UNKEPT,
        _ => ReadConsistency::StrictlyAtOnce,
    };
    let writer = instance(&key, consistency, schedule)?;
    let names = (0..setup.topics).map(|topic| format!("t{topic}")).collect();
    let (readers, consuming) = (Mutex::default(), Mutex::default());
    Ok(Box::new(Wal { writer, key, schedule, readers, consuming, names }))
}

/// Readers that never write down how far they are.
const UNKEPT: ReadConsistency = ReadConsistency::AtLeastOnce { persist_every: u32::MAX };

fn instance(
    key: &str,
    consistency: ReadConsistency,
    schedule: FsyncSchedule,
) -> Result<Walrus, Failure> {
    Ok(Walrus::with_consistency_and_schedule_for_key(key, consistency, schedule)?)
}

impl Peer for Wal {
    fn append(&self, _: usize, topic: usize, record: &[u8]) -> Result<(), Failure> {
        Ok(self.writer.append_for_topic(&self.names[topic], record)?)
    }

    fn append_batch(&self, _: usize, topic: usize, records: &[Vec<u8>]) -> Result<(), Failure> {
        let records: Vec<_> = records.iter().map(Vec::as_slice).collect();
        Ok(self.writer.batch_append_for_topic(&self.names[topic], &records)?)
    }

    fn read(&self, topic: usize, visit: &mut Visit<'_>) -> Result<(), Failure> {
        let Readers { current, prepared } = &mut *self.readers.lock().expect(NO_PANIC);
        let fresh = current.take().filter(|(_, read)| !read.contains(&topic));
        let next = fresh.or_else(|| Some((prepared.pop()?, HashSet::new())));
        let (reader, read) = current.insert(match next {
            Some(next) => next,
            None => (instance(&self.key, UNKEPT, self.schedule)?, HashSet::new()),
        });
        read.insert(topic);
        loop {
            let entries = reader.batch_read_for_topic(&self.names[topic], READ_BYTES, true)?;
            if entries.is_empty() {
                return Ok(());
            }
            for entry in entries {
                if visit(&entry.data).is_break() {
                    return Ok(());
                }
            }
        }
    }

    fn prepare_reads(&self, times: usize) -> Result<(), Failure> {
        let mut readers = self.readers.lock().expect(NO_PANIC);
        for _ in 0..times {
            readers.prepared.push(instance(&self.key, UNKEPT, self.schedule)?);
        }
        Ok(())
    }

    fn consume(&self, _: usize, max: usize, take: &mut Take<'_>) -> Result<usize, Failure> {
        // Two that read at once may keep their positions in the wrong order.
        let _one = self.consuming.lock().expect(NO_PANIC);
        if max == 1 {
            let entry = self.writer.read_next(&self.names[0], true)?;
            return Ok(entry.map_or(0, |entry| {
                take(&entry.data);
                1
            }));
        }
        let entries = self.writer.batch_read_for_topic(&self.names[0], CONSUMED_BYTES, true)?;
        for entry in &entries {
            take(&entry.data);
        }
        Ok(entries.len())
    }

    /// By an instance that begins where the position was kept.
    fn read_rest(&self, visit: &mut Visit<'_>) -> Result<(), Failure> {
        self.read(0, visit)
    }
}
