//! redb: a copy-on-write B-tree. Records are values under ascending keys.

use std::sync::atomic::{AtomicU64, Ordering};

use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};

use crate::peer::{Failure, Kind, Mode, Peer, Setup, Take, Visit};
use crate::positions::{Numbered, Positions};

pub(crate) const KIND: Kind = Kind {
    name: "redb",
    open,
    durable: "a transaction for each append or batch, `Durability::Immediate`, the default",
    unsynced: Some("`Durability::None`"),
    topics: Some("tables"),
    in_flight: "a transaction of 128 inserts",
    acked: Some("a transaction that inserts the position into a table of its own"),
    documentation: "https://docs.rs/redb/{}/redb/enum.Durability.html",
    remark: "One transaction writes at a time. Readers check no checksums.",
};

struct Redb {
    database: Database,
    topics: Vec<(String, AtomicU64)>,
    durability: Durability,
    positions: Positions,
}

/// Where positions are kept, by the number of their sequence.
const CONSUMED: TableDefinition<'_, u64, u64> = TableDefinition::new("consumed");

fn definition(name: &str) -> TableDefinition<'_, u64, &'static [u8]> {
    TableDefinition::new(name)
}

fn open(setup: &Setup<'_>) -> Result<Box<dyn Peer>, Failure> {
    let database = Database::create(setup.directory.join("redb"))?;
    let topics = (0..setup.topics).map(|topic| (format!("topic {topic}"), AtomicU64::new(0)));
    let topics: Vec<_> = topics.collect();
    let transaction = database.begin_write()?;
    for (name, _) in &topics {
        transaction.open_table(definition(name))?;
    }
    if setup.consumers > 0 {
        transaction.open_table(CONSUMED)?;
    }
    transaction.commit()?;
    let durability = match setup.mode {
        Mode::Durable => Durability::Immediate,
        Mode::Unsynced => Durability::None,
    };
    let positions = Positions::new(1);
    Ok(Box::new(Redb { database, topics, durability, positions }))
}

impl Redb {
    fn write<'a>(
        &self,
        topic: usize,
        records: impl Iterator<Item = &'a [u8]>,
    ) -> Result<(), Failure> {
        let (name, next) = &self.topics[topic];
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(self.durability)?;
        {
            let mut table = transaction.open_table(definition(name))?;
            for record in records {
                // There is one writer at a time.
                table.insert(next.fetch_add(1, Ordering::Relaxed), record)?;
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

impl Peer for Redb {
    fn append(&self, _: usize, topic: usize, record: &[u8]) -> Result<(), Failure> {
        self.write(topic, std::iter::once(record))
    }

    fn append_batch(&self, _: usize, topic: usize, records: &[Vec<u8>]) -> Result<(), Failure> {
        self.write(topic, records.iter().map(Vec::as_slice))
    }

    fn read(&self, topic: usize, visit: &mut Visit<'_>) -> Result<(), Failure> {
        let transaction = self.database.begin_read()?;
        let table = transaction.open_table(definition(&self.topics[topic].0))?;
        for pair in table.iter()? {
            if visit(pair?.1.value()).is_break() {
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

impl Numbered for Redb {
    fn read_from(&self, _: usize, number: u64, max: usize) -> Result<Vec<Vec<u8>>, Failure> {
        let transaction = self.database.begin_read()?;
        let table = transaction.open_table(definition(&self.topics[0].0))?;
        // One transaction writes at a time, so no number is missing.
        let pairs = table.range(number..)?.take(max);
        pairs.map(|pair| Ok(pair?.1.value().to_vec())).collect()
    }

    fn keep(&self, positions: &[(usize, u64)]) -> Result<(), Failure> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(self.durability)?;
        {
            let mut table = transaction.open_table(CONSUMED)?;
            for (sequence, position) in positions {
                table.insert(*sequence as u64, *position)?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    fn kept(&self, sequence: usize) -> Result<u64, Failure> {
        let transaction = self.database.begin_read()?;
        let position = transaction.open_table(CONSUMED)?.get(sequence as u64)?;
        Ok(position.map_or(0, |position| position.value()))
    }
}
