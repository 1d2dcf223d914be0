//! sled: a tree over a log of pages. Records are values under ascending keys.

use std::sync::atomic::{AtomicU64, Ordering};

use sled::{Batch, Config, Db, Tree};

use crate::peer::{Failure, Kind, Mode, Peer, Setup, Visit};

pub(crate) const KIND: Kind = Kind {
    name: "sled",
    open,
    durable: "`insert` or `apply_batch`, then `Tree::flush`; no flushing in the background",
    unsynced: Some("`insert` alone, which writes to a buffer of the process"),
    topics: Some("trees"),
    in_flight: "a batch of 128",
    documentation: "https://docs.rs/sled/{}/sled/struct.Tree.html#method.flush",
    remark: "Without a flush, the end of the process can lose records, too. Version 1 is in alpha.",
};

struct Sled {
    trees: Vec<(Tree, AtomicU64)>,
    mode: Mode,
    _database: Db,
}

fn open(setup: &Setup<'_>) -> Result<Box<dyn Peer>, Failure> {
    let database = Config::new().path(setup.directory).flush_every_ms(None).open()?;
    let trees = (0..setup.topics).map(|topic| {
        let tree = database.open_tree(format!("topic {topic}"))?;
        Ok((tree, AtomicU64::new(0)))
    });
    let trees = trees.collect::<Result<_, Failure>>()?;
    Ok(Box::new(Sled { trees, mode: setup.mode, _database: database }))
}

impl Sled {
    fn flush(&self, tree: &Tree) -> Result<(), Failure> {
        if self.mode == Mode::Durable {
            tree.flush()?;
        }
        Ok(())
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
}
