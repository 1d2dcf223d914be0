//! SQLite through rusqlite: a table for each topic, a row for each record.

use std::sync::Mutex;

use rusqlite::{Connection, OptionalExtension, params};

use crate::peer::{Failure, Kind, Mode, NO_PANIC, Peer, Setup, Take, Visit};
use crate::positions::{Numbered, Positions};

pub(crate) const KIND: Kind = Kind {
    name: "rusqlite",
    open,
    durable: "`journal_mode=WAL`, `synchronous=FULL`; an insert or a batch is a transaction",
    unsynced: Some("`synchronous=OFF`"),
    topics: Some("tables"),
    in_flight: "a transaction of 128 inserts",
    acked: Some("an update of the position in a table of its own"),
    documentation: "https://www.sqlite.org/pragma.html#pragma_synchronous",
    remark: "All threads share one connection behind a lock: several would only find it busy.",
};

struct Sqlite {
    connection: Mutex<Connection>,
    inserts: Vec<String>,
    positions: Positions,
}

fn open(setup: &Setup<'_>) -> Result<Box<dyn Peer>, Failure> {
    let connection = Connection::open(setup.directory.join("sqlite"))?;
    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode != "wal" {
        return Err(format!("the journal mode is {mode}").into());
    }
    let synchronous = match setup.mode {
        Mode::Durable => "FULL",
        Mode::Unsynced => "OFF",
    };
    connection.pragma_update(None, "synchronous", synchronous)?;
    connection.execute_batch("BEGIN")?;
    for topic in 0..setup.topics {
        let columns = "number INTEGER PRIMARY KEY, record BLOB NOT NULL";
        connection.execute(&format!("CREATE TABLE topic{topic} ({columns})"), [])?;
    }
    if setup.consumers > 0 {
        let columns = "sequence INTEGER PRIMARY KEY, position INTEGER NOT NULL";
        connection.execute(&format!("CREATE TABLE consumed ({columns})"), [])?;
    }
    connection.execute_batch("COMMIT")?;
    let insert = |topic| format!("INSERT INTO topic{topic} (record) VALUES (?1)");
    let inserts: Vec<_> = (0..setup.topics).map(insert).collect();
    // Each statement is prepared once.
    connection.set_prepared_statement_cache_capacity(inserts.len() + 4);
    let (connection, positions) = (Mutex::new(connection), Positions::new(1));
    Ok(Box::new(Sqlite { connection, inserts, positions }))
}

impl Peer for Sqlite {
    fn append(&self, _: usize, topic: usize, record: &[u8]) -> Result<(), Failure> {
        let connection = self.connection.lock().expect(NO_PANIC);
        connection.prepare_cached(&self.inserts[topic])?.execute([record])?;
        Ok(())
    }

    fn append_batch(&self, _: usize, topic: usize, records: &[Vec<u8>]) -> Result<(), Failure> {
        let mut connection = self.connection.lock().expect(NO_PANIC);
        let transaction = connection.transaction()?;
        {
            let mut insert = transaction.prepare_cached(&self.inserts[topic])?;
            for record in records {
                insert.execute([record.as_slice()])?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    fn read(&self, topic: usize, visit: &mut Visit<'_>) -> Result<(), Failure> {
        let connection = self.connection.lock().expect(NO_PANIC);
        let select = format!("SELECT record FROM topic{topic} ORDER BY number");
        let mut select = connection.prepare_cached(&select)?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            if visit(row.get_ref(0)?.as_blob()?).is_break() {
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

impl Numbered for Sqlite {
    fn read_from(&self, _: usize, number: u64, max: usize) -> Result<Vec<Vec<u8>>, Failure> {
        let connection = self.connection.lock().expect(NO_PANIC);
        // The numbers of rows begin at 1, and none is missing.
        let select = "SELECT record FROM topic0 WHERE number > ?1 ORDER BY number LIMIT ?2";
        let mut select = connection.prepare_cached(select)?;
        let (number, max) = (i64::try_from(number)?, i64::try_from(max)?);
        let records = select.query_map(params![number, max], |row| row.get(0))?;
        Ok(records.collect::<Result<_, _>>()?)
    }

    fn keep(&self, positions: &[(usize, u64)]) -> Result<(), Failure> {
        let connection = self.connection.lock().expect(NO_PANIC);
        let update = "INSERT OR REPLACE INTO consumed (sequence, position) VALUES (?1, ?2)";
        let mut update = connection.prepare_cached(update)?;
        for (sequence, position) in positions {
            update.execute(params![i64::try_from(*sequence)?, i64::try_from(*position)?])?;
        }
        Ok(())
    }

    fn kept(&self, sequence: usize) -> Result<u64, Failure> {
        let connection = self.connection.lock().expect(NO_PANIC);
        let select = "SELECT position FROM consumed WHERE sequence = ?1";
        let mut select = connection.prepare_cached(select)?;
        let sequence = i64::try_from(sequence)?;
        let position: Option<i64> = select.query_row([sequence], |row| row.get(0)).optional()?;
        Ok(u64::try_from(position.unwrap_or(0))?)
    }
}
