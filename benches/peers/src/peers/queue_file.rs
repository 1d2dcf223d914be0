//! queue-file: a queue in one file that is used in circles.

use std::sync::Mutex;

use queue_file::QueueFile;

use crate::peer::{Failure, Kind, Mode, NO_PANIC, Peer, Setup, Take, Visit};

pub(crate) const KIND: Kind = Kind {
    name: "queue-file",
    open,
    durable: "`add`, `add_n` with `sync_writes`, the default; 64 MiB to begin with",
    unsynced: Some("`set_sync_writes(false)`"),
    topics: None,
    in_flight: "`add_n` of 128",
    acked: Some("`remove`, `remove_n`, with `set_overwrite_on_remove(false)`"),
    documentation: "https://docs.rs/queue-file/{}/queue_file/struct.QueueFile.html#method.set_sync_writes",
    remark: "All threads share the queue behind a lock. Readers check a checksum of each record.",
};

/// Room that it has from the beginning; it doubles when that is full.
const CAPACITY_BYTES: u64 = 64 << 20;

struct Queue {
    queue: Mutex<QueueFile>,
}

fn open(setup: &Setup<'_>) -> Result<Box<dyn Peer>, Failure> {
    let mut queue = QueueFile::with_capacity(setup.directory.join("queue"), CAPACITY_BYTES)?;
    queue.set_sync_writes(setup.mode == Mode::Durable);
    // Else it writes zeros over what is removed, and over its whole file when it is empty.
    queue.set_overwrite_on_remove(false);
    Ok(Box::new(Queue { queue: Mutex::new(queue) }))
}

impl Peer for Queue {
    fn append(&self, _: usize, _: usize, record: &[u8]) -> Result<(), Failure> {
        Ok(self.queue.lock().expect(NO_PANIC).add(record)?)
    }

    fn append_batch(&self, _: usize, _: usize, records: &[Vec<u8>]) -> Result<(), Failure> {
        Ok(self.queue.lock().expect(NO_PANIC).add_n(records)?)
    }

    fn read(&self, _: usize, visit: &mut Visit<'_>) -> Result<(), Failure> {
        let queue = self.queue.lock().expect(NO_PANIC);
        let mut records = queue.iter();
        while let Some(record) = records.borrowed_next() {
            if visit(record).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn consume(&self, _: usize, max: usize, take: &mut Take<'_>) -> Result<usize, Failure> {
        let mut queue = self.queue.lock().expect(NO_PANIC);
        let mut count = 0;
        {
            let mut records = queue.iter();
            while count < max
                && let Some(record) = records.borrowed_next()
            {
                take(record);
                count += 1;
            }
        }
        queue.remove_n(count)?;
        Ok(count)
    }

    /// What was consumed is no longer there.
    fn read_rest(&self, visit: &mut Visit<'_>) -> Result<(), Failure> {
        self.read(0, visit)
    }
}
