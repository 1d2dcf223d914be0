//! How long an append waits while a consumer reads what nobody has in memory.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use ackline::{Group, Log, Offset, Topic};

use crate::consumers::{BATCH_BYTES, fill};
use crate::measure::{Counts, Meter, Side, peek_stamp};
use crate::process;
use crate::queue::{Queue, counts_of, kept};
use crate::{Bar, Bench, Comparison};

const PAYLOAD_BYTES: usize = 100;
const POLL_MAX: usize = 100;

/// Appends beside a consumer of a cold backlog, against appends alone.
pub(crate) fn rows(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let comparison = Comparison {
        name: "append beside a cold consumer, 100 B".to_owned(),
        against: "append, nobody reads".to_owned(),
        bar: Bar::None,
        threads: 1,
        payload_bytes: PAYLOAD_BYTES,
    };
    bench.compare(&comparison, |directory| {
        let (alone, beside) = (directory.join("alone"), directory.join("beside"));
        Ok((Beside::new(&alone, false)?, Beside::new(&beside, true)?))
    })
}

/// One thread that appends and, if it is read, a helper that consumes another topic of the log.
struct Beside {
    directory: PathBuf,
    records: u64,
    is_read: bool,
    /// Opened anew for each turn, so that the backlog is cold.
    opened: Mutex<Option<Opened>>,
}

#[derive(Clone)]
struct Opened {
    log: Log,
    backlog: Topic,
    group: Group,
    written: Topic,
}

impl Beside {
    fn new(directory: &Path, is_read: bool) -> Result<Self, Box<dyn Error>> {
        let log = kept().open(directory)?;
        let records = fill(&log.topic("backlog")?, PAYLOAD_BYTES, BATCH_BYTES)?;
        log.close()?;
        let directory = directory.to_owned();
        Ok(Self { directory, records, is_read, opened: Mutex::new(None) })
    }

    fn guard(&self) -> MutexGuard<'_, Option<Opened>> {
        self.opened.lock().expect("no worker panics")
    }

    fn opened(&self) -> Opened {
        self.guard().clone().expect("it was prepared")
    }
}

impl Side for Beside {
    fn prepare(&self) -> Result<(), Box<dyn Error>> {
        let mut opened = self.guard();
        if let Some(Opened { log, .. }) = opened.take() {
            log.close()?;
        }
        process::drop_cached(&self.directory)?;
        let log = kept().open(&self.directory)?;
        let (backlog, written) = (log.topic("backlog")?, log.topic("written")?);
        let group = backlog.group("measured")?;
        group.seek(Offset(0))?;
        *opened = Some(Opened { log, backlog, group, written });
        Ok(())
    }

    fn work(&self, thread: usize, first: u64, meter: &mut Meter<'_>) -> u64 {
        let Opened { log, group, written, .. } = self.opened();
        if thread == 0 {
            return Queue::on(log, written, PAYLOAD_BYTES).work(thread, first, meter);
        }
        let mut next = 0;
        while meter.goes_on() && next < self.records {
            let polled = group.poll(POLL_MAX, Duration::ZERO).expect("the group polls");
            for message in polled {
                assert_eq!(peek_stamp(message.payload()), Some((0, next)), "in order");
                message.ack().expect("the message is leased");
                next += 1;
            }
        }
        first
    }

    fn helpers(&self) -> usize {
        usize::from(self.is_read)
    }

    fn counts(&self) -> Counts {
        counts_of(&self.opened().log)
    }

    fn verify(&self, acknowledged: &[u64]) -> Result<(), String> {
        let Opened { log, backlog, written, .. } = self.opened();
        Queue::on(log.clone(), backlog, PAYLOAD_BYTES).verify(&[self.records])?;
        Queue::on(log, written, PAYLOAD_BYTES).verify(acknowledged)
    }
}
