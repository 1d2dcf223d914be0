//! okaywal: a write-ahead log for databases. A commit always syncs, and several share one sync.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};

use okaywal::{Configuration, Entry, EntryId, LogManager, SegmentReader, WriteAheadLog};

use crate::peer::{Failure, Kind, Peer, Setup, Visit};

pub(crate) const KIND: Kind = Kind {
    name: "okaywal",
    open,
    durable: "`EntryWriter::commit`; segments of 64 MiB that are never checkpointed",
    unsynced: None,
    topics: None,
    in_flight: "an entry of 128 chunks",
    acked: None,
    documentation: "https://docs.rs/okaywal/{}/okaywal/struct.EntryWriter.html#method.commit",
    remark: "A log is read in order only when it is opened; so each reading opens hard links to \
             its files, in a thread beside the one that counts. Readers check a checksum of \
             each record.",
};

/// What one segment is filled with zeros up to when it is made.
const SEGMENT_BYTES: u32 = 64 << 20;
/// How many records a reader hands over at a time.
const HANDED_OVER: usize = 256;

struct Okaywal {
    log: WriteAheadLog,
    directory: PathBuf,
}

/// Never to be done with a segment: everything is read back at the end.
fn configuration(directory: &Path) -> Configuration {
    Configuration::default_for(directory)
        .preallocate_bytes(SEGMENT_BYTES)
        .checkpoint_after_bytes(u64::MAX)
}

fn open(setup: &Setup<'_>) -> Result<Box<dyn Peer>, Failure> {
    let directory = setup.directory.join("log");
    let log = configuration(&directory).open(Manager { records: None, gathered: Vec::new() })?;
    Ok(Box::new(Okaywal { log, directory }))
}

impl Peer for Okaywal {
    fn append(&self, _: usize, _: usize, record: &[u8]) -> Result<(), Failure> {
        let mut entry = self.log.begin_entry()?;
        entry.write_chunk(record)?;
        entry.commit()?;
        Ok(())
    }

    fn append_batch(&self, _: usize, _: usize, records: &[Vec<u8>]) -> Result<(), Failure> {
        let mut entry = self.log.begin_entry()?;
        for record in records {
            entry.write_chunk(record)?;
        }
        entry.commit()?;
        Ok(())
    }

    fn read(&self, _: usize, visit: &mut Visit<'_>) -> Result<(), Failure> {
        let parent = self.directory.parent().ok_or("the log has a directory of its own")?;
        let links = tempfile::tempdir_in(parent)?;
        for file in fs::read_dir(&self.directory)? {
            let file = file?;
            fs::hard_link(file.path(), links.path().join(file.file_name()))?;
        }
        let (sender, receiver) = sync_channel(16);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let manager = Manager { records: Some(sender), gathered: Vec::new() };
                // Dropped at once: while the manager lives, more records could come.
                configuration(links.path()).open(manager).map(drop)
            });
            let mut stopped = false;
            'all: for records in &receiver {
                for record in records {
                    if visit(&record).is_break() {
                        stopped = true;
                        break 'all;
                    }
                }
            }
            // Whoever reads on finds nobody who takes it.
            drop(receiver);
            match reader.join().map_err(|_| "okaywal panicked")? {
                Err(error) if !stopped => Err(error.into()),
                _ => Ok(()),
            }
        })
    }
}

/// Hands over what is recovered.
#[derive(Debug)]
struct Manager {
    records: Option<SyncSender<Vec<Vec<u8>>>>,
    gathered: Vec<Vec<u8>>,
}

impl Manager {
    fn hand_over(&mut self) -> io::Result<()> {
        let gathered = std::mem::take(&mut self.gathered);
        let Some(records) = &self.records else { return Ok(()) };
        records.send(gathered).map_err(io::Error::other)
    }
}

impl LogManager for Manager {
    fn recover(&mut self, entry: &mut Entry<'_>) -> io::Result<()> {
        let chunks = entry.read_all_chunks()?;
        self.gathered.extend(chunks.ok_or_else(|| io::Error::other("an aborted entry"))?);
        if self.gathered.len() >= HANDED_OVER { self.hand_over() } else { Ok(()) }
    }

    fn checkpoint_to(
        &mut self,
        _: EntryId,
        _: &mut SegmentReader,
        _: &WriteAheadLog,
    ) -> io::Result<()> {
        Err(io::Error::other("nothing is to be checkpointed"))
    }
}

impl Drop for Manager {
    /// The log is dropped once everything is recovered.
    fn drop(&mut self) {
        // Nobody takes it if the visitor broke off.
        self.hand_over().ok();
    }
}
