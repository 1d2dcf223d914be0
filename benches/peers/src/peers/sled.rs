//! sled: a tree over a log of pages. Records are values under ascending keys.

use std::sync::atomic::{AtomicU64, Ordering};

use sled::{Batch, Config, Db, Tree};

use crate::peer::{Failure, Kind, Mode, Peer, Setup, Take, Visit};
use crate::positions::{self, Numbered, Positions};

pub(crate) const KIND: Kind = Kind {
    name: "sled",
    open,
    durable: "`insert` or `apply_batch`, then `Tree::flush`; no flushing in the background",
    unsynced: Some("`insert` alone, which writes to a buffer of the process"),
    topics: Some("trees"),
    in_flight: "a batch of 128",
    acked: Some("`insert` of the position into a tree of its own, then `flush`"),
    documentation: "https://docs.rs/sled/{}/sled/struct.Tree.html#method.flush",
    remark: "Without a flush, the end of the process can lose records, too. Version 1 is in alpha.",
};

struct Sled {
    trees: Vec<(Tree, AtomicU64)>,
    mode: Mode,
    /// Where the position is kept, if there are consumers.
    consumed: Option<Tree>,
    positions: Positions,
    _database: Db,
}

fn open(setup: &Setup<'_>) -> Result<Box<dyn Peer>, Failure> {
    let database = Config::new().path(setup.directory).flush_every_ms(None).open()?;
    let trees = (0..setup.topics).map(|topic| {
        let tree = database.open_tree(format!("topic {topic}"))?;
        Ok((tree, AtomicU64::new(0)))
    });
    let trees = trees.collect::<Result<_, Failure>>()?;
    let consumed = match setup.consumers {
        0 => None,
        _ => Some(database.open_tree("consumed")?),
    };
    let positions = Positions::new(1);
    Ok(Box::new(Sled { trees, mode: setup.mode, consumed, positions, _database: database }))
}

impl Sled {
    fn flush(&self, tree: &Tree) -> Result<(), Failure> {
        if self.mode == Mode::Durable {
            tree.flush()?;
        }
        Ok(())
    }

    fn consumed(&self) -> Result<&Tree, Failure> {
        self.consumed.as_ref().ok_or("it was opened without consumers".into())
    }
}

impl Peer for Sled {
    fn append(&self, _: usize, topic: usize, record: &[u8]) -> Result<(), Failure> {
        let (tree, next) = &self.trees[topic];
        tree.insert(next.fetch_add(1, Ordering::Relaxed).to_be_bytes(), record)?;
        self.flush(tree)
    }

    fn append_batch(&self, _: usize, topic: usize, records: &[Vec<u8>]) -> Result<(), Failure> {
        let (tree, next) = &self.trees[topic];
        let first = next.fetch_add(records.len() as u64, Ordering::Relaxed);
        let mut batch = Batch::default();
        for (key, record) in (first..).zip(records) {
            batch.insert(&key.to_be_bytes(), record.as_slice());
        }
        tree.apply_batch(batch)?;
        self.flush(tree)
    }

    fn read(&self, topic: usize, visit: &mut Visit<'_>) -> Result<(), Failure> {
        for pair in &self.trees[topic].0 {
            if visit(&pair?.1).is_break() {
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

impl Numbered for Sled {
    fn read_from(&self, _: usize, number: u64, max: usize) -> Result<Vec<Vec<u8>>, Failure> {
        let mut records = Vec::new();
        let pairs = self.trees[0].0.range(number.to_be_bytes()..);
        for (expected, pair) in (number..).zip(pairs.take(max)) {
            let (key, record) = pair?;
            if positions::decode(&key)? != expected {
                break;
            }
            records.push(record.to_vec());
        }
        Ok(records)
    }

    fn keep(&self, positions: &[(usize, u64)]) -> Result<(), Failure> {
        for (_, position) in positions {
            self.consumed()?.insert(POSITION, &position.to_be_bytes())?;
        }
        self.flush(self.consumed()?)
    }

    fn kept(&self, _: usize) -> Result<u64, Failure> {
        self.consumed()?.get(POSITION)?.map_or(Ok(0), |position| positions::decode(&position))
    }
}
