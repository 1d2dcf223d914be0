//! raft-engine: the log of many Raft groups.

use std::sync::atomic::{AtomicU64, Ordering};

use protobuf::well_known_types::BytesValue;
use raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};

use crate::peer::{Failure, Kind, Mode, Peer, Setup, Take, Visit};
use crate::positions::{self, Numbered, Positions};

pub(crate) const KIND: Kind = Kind {
    name: "raft-engine",
    open,
    durable: "`Engine::write(.., sync: true)`; no compression, else the defaults",
    unsynced: Some("`Engine::write(.., sync: false)`"),
    topics: Some("Raft groups"),
    in_flight: "a `LogBatch` of 128 entries",
    acked: Some("`LogBatch::put` of the positions into a group of their own, `Engine::write`"),
    documentation: "https://docs.rs/raft-engine/{}/raft_engine/struct.Engine.html#method.write",
    remark: "A group has one writer at a time, so each thread has a group of its own in each \
             topic. There is no order across threads. Readers check a checksum of each batch.",
};

/// How many entries a reader asks for at a time.
const FETCHED: u64 = 1000;

struct RaftEngine {
    engine: Engine,
    mode: Mode,
    threads: usize,
    /// The number of entries of each group.
    ends: Vec<AtomicU64>,
    /// Of each group that has the records of a thread.
    positions: Positions,
}

/// Entries carry their index in front of the record.
struct Indexed;

impl MessageExt for Indexed {
    type Entry = BytesValue;

    fn index(entry: &BytesValue) -> u64 {
        let index = entry.value.first_chunk().expect("an entry begins with its index");
        u64::from_le_bytes(*index)
    }
}

fn open(setup: &Setup<'_>) -> Result<Box<dyn Peer>, Failure> {
    let config = Config {
        dir: setup.directory.to_str().ok_or("the directory's name is text")?.to_owned(),
        // The records are easy to compress; those of an application may not be.
        batch_compression_threshold: ReadableSize(0),
        ..Config::default()
    };
    let engine = Engine::open(config)?;
    let groups = setup.topics * setup.threads;
    let ends = (0..groups).map(|_| AtomicU64::new(0)).collect();
    let (threads, positions) = (setup.threads, Positions::new(setup.threads));
    Ok(Box::new(RaftEngine { engine, mode: setup.mode, threads, ends, positions }))
}

impl RaftEngine {
    /// The number of a group among all; the engine counts from 1.
    fn group(&self, thread: usize, topic: usize) -> usize {
        topic * self.threads + thread
    }

    fn write<'a>(
        &self,
        thread: usize,
        topic: usize,
        records: impl Iterator<Item = &'a [u8]>,
    ) -> Result<(), Failure> {
        let group = self.group(thread, topic);
        let mut index = self.ends[group].load(Ordering::Relaxed);
        let entry = |record: &[u8]| {
            index += 1;
            let mut entry = BytesValue::new();
            entry.value.reserve_exact(size_of::<u64>() + record.len());
            entry.value.extend_from_slice(&index.to_le_bytes());
            entry.value.extend_from_slice(record);
            entry
        };
        let entries: Vec<_> = records.map(entry).collect();
        let mut batch = LogBatch::default();
        batch.add_entries::<Indexed>(group as u64 + 1, &entries)?;
        self.engine.write(&mut batch, self.mode == Mode::Durable)?;
        // Nobody else writes to this group.
        self.ends[group].fetch_add(entries.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

impl Peer for RaftEngine {
    fn append(&self, thread: usize, topic: usize, record: &[u8]) -> Result<(), Failure> {
        self.write(thread, topic, std::iter::once(record))
    }

    fn append_batch(
        &self,
        thread: usize,
        topic: usize,
        records: &[Vec<u8>],
    ) -> Result<(), Failure> {
        self.write(thread, topic, records.iter().map(Vec::as_slice))
    }

    fn read(&self, topic: usize, visit: &mut Visit<'_>) -> Result<(), Failure> {
        let mut entries = Vec::new();
        for thread in 0..self.threads {
            let group = self.group(thread, topic);
            let end = self.ends[group].load(Ordering::Relaxed) + 1;
            let mut next = 1;
            while next < end {
                let until = end.min(next + FETCHED);
                let group = group as u64 + 1;
                self.engine.fetch_entries_to::<Indexed>(group, next, until, None, &mut entries)?;
                for entry in entries.drain(..) {
                    if visit(&entry.value[size_of::<u64>()..]).is_break() {
                        return Ok(());
                    }
                }
                next = until;
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

impl RaftEngine {
    /// The group that holds positions: behind all others, which the engine counts from 1.
    fn group_of_positions(&self) -> u64 {
        self.ends.len() as u64 + 1
    }
}

/// The key of a position.
fn position_key(sequence: usize) -> Vec<u8> {
    format!("position {sequence}").into_bytes()
}

impl Numbered for RaftEngine {
    /// A sequence is a thread. Its entries are numbered from 1.
    fn read_from(&self, sequence: usize, number: u64, max: usize) -> Result<Vec<Vec<u8>>, Failure> {
        let group = self.group(sequence, 0);
        let end = self.ends[group].load(Ordering::Relaxed).min(number + max as u64);
        let mut entries = Vec::new();
        if number < end {
            let (group, first) = (group as u64 + 1, number + 1);
            self.engine.fetch_entries_to::<Indexed>(group, first, end + 1, None, &mut entries)?;
        }
        let records = entries.into_iter().map(|entry| entry.value[size_of::<u64>()..].to_vec());
        Ok(records.collect())
    }

    fn keep(&self, positions: &[(usize, u64)]) -> Result<(), Failure> {
        let mut batch = LogBatch::default();
        for (sequence, position) in positions {
            let (key, value) = (position_key(*sequence), position.to_be_bytes().to_vec());
            batch.put(self.group_of_positions(), key, value)?;
        }
        self.engine.write(&mut batch, self.mode == Mode::Durable)?;
        Ok(())
    }

    fn kept(&self, sequence: usize) -> Result<u64, Failure> {
        let position = self.engine.get(self.group_of_positions(), &position_key(sequence));
        position.map_or(Ok(0), |position| positions::decode(&position))
    }
}
