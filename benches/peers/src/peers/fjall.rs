//! fjall: an LSM tree with a journal. Records are values under ascending keys.

use std::sync::atomic::{AtomicU64, Ordering};

use fjall::config::CompressionPolicy;
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use crate::peer::{Failure, Kind, Mode, Peer, Setup, Take, Visit};
use crate::positions::{self, Numbered, Positions};

pub(crate) const KIND: Kind = Kind {
    name: "fjall",
    open,
    durable: "`insert`, then `Database::persist(PersistMode::SyncData)`; a batch with the same \
              durability; no compression",
    unsynced: Some("`insert` alone, which writes to the operating system"),
    topics: Some("keyspaces"),
    in_flight: "a batch of 128",
    acked: Some("`insert` of the position into a keyspace of its own, then `persist`"),
    documentation: "https://docs.rs/fjall/{}/fjall/enum.PersistMode.html",
    remark: "Keys are big-endian numbers, given in the order of the calls.",
};

struct Fjall {
    database: Database,
    keyspaces: Vec<(Keyspace, AtomicU64)>,
    /// Where the position is kept, if there are consumers.
    consumed: Option<Keyspace>,
    positions: Positions,
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
    let consumed = match setup.consumers {
        0 => None,
        _ => Some(database.keyspace("consumed", uncompressed)?),
    };
    let positions = Positions::new(1);
    Ok(Box::new(Fjall { database, keyspaces, consumed, positions, mode: setup.mode }))
}

impl Fjall {
    fn persist(&self) -> Result<(), Failure> {
        if self.mode == Mode::Durable {
            self.database.persist(PersistMode::SyncData)?;
        }
        Ok(())
    }

    fn consumed(&self) -> Result<&Keyspace, Failure> {
        self.consumed.as_ref().ok_or("it was opened without consumers".into())
    }
}

impl Peer for Fjall {
    fn append(&self, _: usize, topic: usize, record: &[u8]) -> Result<(), Failure> {
        let (keyspace, next) = &self.keyspaces[topic];
        let key = next.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        keyspace.insert(key, record)?;
        self.persist()
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

    fn consume(&self, _: usize, max: usize, take: &mut Take<'_>) -> Result<usize, Failure> {
        self.positions.consume(self, max, take)
    }

    fn read_rest(&self, visit: &mut Visit<'_>) -> Result<(), Failure> {
        self.positions.read_rest(self, visit)
    }
}

const POSITION: &str = "position";

impl Numbered for Fjall {
    fn read_from(&self, _: usize, number: u64, max: usize) -> Result<Vec<Vec<u8>>, Failure> {
        let mut records = Vec::new();
        let pairs = self.keyspaces[0].0.range(number.to_be_bytes()..);
        for (expected, pair) in (number..).zip(pairs.take(max)) {
            let (key, record) = pair.into_inner()?;
            if positions::decode(&key)? != expected {
                break;
            }
            records.push(record.to_vec());
        }
        Ok(records)
    }

    fn keep(&self, positions: &[(usize, u64)]) -> Result<(), Failure> {
        for (_, position) in positions {
            self.consumed()?.insert(POSITION, position.to_be_bytes())?;
        }
        self.persist()
    }

    fn kept(&self, _: usize) -> Result<u64, Failure> {
        self.consumed()?.get(POSITION)?.map_or(Ok(0), |position| positions::decode(&position))
    }
}
