//! commitlog: an append-only log with a mapped index.

use std::sync::Mutex;

use commitlog::message::{MessageBuf, MessageSet};
use commitlog::{CommitLog, LogOptions, ReadLimit};

use crate::peer::{Failure, Kind, Mode, NO_PANIC, Peer, Setup, Visit};

pub(crate) const KIND: Kind = Kind {
    name: "commitlog",
    open,
    durable: "`append_msg` or `append`, then `CommitLog::flush`",
    unsynced: Some("`append_msg` or `append` alone"),
    topics: None,
    in_flight: "`append` of 128, then `flush`",
    acked: None,
    documentation: "https://docs.rs/commitlog/{}/commitlog/struct.CommitLog.html#method.flush",
    remark: "All threads share the log behind a lock. Readers check a checksum of each record.",
};

/// How many bytes a reader asks for at a time.
const READ_BYTES: usize = 1 << 20;

struct Log {
    log: Mutex<CommitLog>,
    mode: Mode,
}

fn open(setup: &Setup<'_>) -> Result<Box<dyn Peer>, Failure> {
    let log = Mutex::new(CommitLog::new(LogOptions::new(setup.directory.join("log")))?);
    Ok(Box::new(Log { log, mode: setup.mode }))
}

impl Log {
    fn flush(&self, log: &mut CommitLog) -> Result<(), Failure> {
        if self.mode == Mode::Durable {
            log.flush()?;
        }
        Ok(())
    }
}

impl Peer for Log {
    fn append(&self, _: usize, _: usize, record: &[u8]) -> Result<(), Failure> {
        let mut log = self.log.lock().expect(NO_PANIC);
        log.append_msg(record)?;
        self.flush(&mut log)
    }

    fn append_batch(&self, _: usize, _: usize, records: &[Vec<u8>]) -> Result<(), Failure> {
        let mut messages = MessageBuf::default();
        for record in records {
            messages.push(record).map_err(|error| format!("{error:?}"))?;
        }
        let mut log = self.log.lock().expect(NO_PANIC);
        log.append(&mut messages)?;
        self.flush(&mut log)
    }

    fn read(&self, _: usize, visit: &mut Visit<'_>) -> Result<(), Failure> {
        let log = self.log.lock().expect(NO_PANIC);
        let mut next = 0;
        while next < log.next_offset() {
            let messages = log.read(next, ReadLimit::max_bytes(READ_BYTES))?;
            for message in messages.iter() {
                if visit(message.payload()).is_break() {
                    return Ok(());
                }
                next = message.offset() + 1;
            }
        }
        Ok(())
    }
}
