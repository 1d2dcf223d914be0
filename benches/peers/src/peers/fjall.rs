//! fjall: an LSM tree with a journal. Records are values under ascending keys.

use std::sync::atomic::{AtomicU64, Ordering};

use fjall::config::CompressionPolicy;
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use crate::peer::{Failure, Kind, Mode, Peer, Setup, Visit};

pub(crate) const KIND: Kind = Kind {
    name: "fjall",
    open,
    durable: "`insert`, then `Database::persist(PersistMode::SyncData)`; a batch with the same \
              durability; no compression",
    unsynced: Some("`insert` alone, which writes to the operating system"),
    topics: Some("keyspaces"),
    in_flight: "a batch of 128",
    documentation: "https://docs.rs/fjall/{}/fjall/enum.PersistMode.html",
    remark: "Keys are big-endian numbers, given in the order of the calls.",
};

struct Fjall {
    database: Database,
    keyspaces: Vec<(Keyspace, AtomicU64)>,
    mode: Mode,
}

fn open(setup: &Setup<'_>) -> Result<Box<dyn Peer>, Failure> {
    let uncompressed = || {
        let policy = CompressionPolicy::disabled();
        KeyspaceCreateOptions::default().data_block_compression_policy(policy)
    };
    // The records are easy to compress; those of an application may not be.
    let builder = Database::builder(setup.directory).journal_compression(CompressionType::None);
    let database = builder.open()?;
    let keyspaces = (0..setup.topics).map(|topic| {
        let name = format!("topic-{topic}");
        Ok((database.keyspace(&name, uncompressed)?, AtomicU64::new(0)))
    });
    let keyspaces = keyspaces.collect::<Result<_, Failure>>()?;
    Ok(Box::new(Fjall { database, keyspaces, mode: setup.mode }))
}

impl Peer for Fjall {
    fn append(&self, _: usize, topic: usize, record: &[u8]) -> Result<(), Failure> {
        let (keyspace, next) = &self.keyspaces[topic];
        let key = next.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        keyspace.insert(key, record)?;
        if self.mode == Mode::Durable {
            self.database.persist(PersistMode::SyncData)?;
        }
        Ok(())
    }

    fn append_batch(&self, _: usize, topic: usize, records: &[Vec<u8>]) -> Result<(), Failure> {
        let (keyspace, next) = &self.keyspaces[topic];
        let first = next.fetch_add(records.len() as u64, Ordering::Relaxed);
        let durability = match self.mode {
            Mode::Durable => PersistMode::SyncData,
            Mode::Unsynced => PersistMode::Buffer,
        };
        let mut batch = self.database.batch().durability(Some(durability));
        for (key, record) in (first..).zip(records) {
            batch.insert(keyspace, key.to_be_bytes(), record.as_slice());
        }
        batch.commit()?;
        Ok(())
    }

    fn read(&self, topic: usize, visit: &mut Visit<'_>) -> Result<(), Failure> {
        for pair in self.keyspaces[topic].0.iter() {
            if visit(&pair.value()?).is_break() {
                break;
            }
        }
        Ok(())
    }
}
