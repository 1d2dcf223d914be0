//! What every peer is asked to do, and the list of them.

use std::error::Error;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use crate::peers;
use crate::workload::IN_FLIGHT;

/// Why a peer could not do it; some of them have error types of their own, so it is boxed.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// Takes one record that was read; says whether to go on.
pub(crate) type Visit<'a> = dyn FnMut(&[u8]) -> ControlFlow<()> + 'a;

/// Takes one record that is consumed.
pub(crate) type Take<'a> = dyn FnMut(&[u8]) + 'a;

/// How long a consumer that finds nothing waits before it looks again.
pub(crate) const PATIENCE: Duration = Duration::from_millis(1);

/// When an append returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// When the peer calls the record durable: the safest that it can do.
    Durable,
    /// Without asking for a sync.
    Unsynced,
}

/// What a peer is opened for.
pub(crate) struct Setup<'a> {
    /// An empty directory of its own.
    pub(crate) directory: &'a Path,
    pub(crate) mode: Mode,
    /// How many topics, trees or queues it shall have.
    pub(crate) topics: usize,
    /// How many threads will append.
    pub(crate) threads: usize,
    /// How many will consume, all of them from topic 0.
    pub(crate) consumers: usize,
}

/// A queue, log or database that keeps records in order. The records of one thread in one topic
/// are read in the order in which they were appended.
pub(crate) trait Peer: Sync {
    /// Appends one record and returns when the mode says so. `thread` is the number of the caller,
    /// for peers that keep one log for each writer.
    fn append(&self, thread: usize, topic: usize, record: &[u8]) -> Result<(), Failure>;

    /// Appends records as one: atomically where the peer can, with one sync where it can.
    fn append_batch(&self, thread: usize, topic: usize, records: &[Vec<u8>])
    -> Result<(), Failure>;

    /// Appends these records to topic 0 as thread 0, with [`IN_FLIGHT`] of them under way, until
    /// there are no more; all of them are durable when it returns. Where there is no call that
    /// returns before a record is durable, a batch is under way.
    fn append_in_flight(&self, records: &mut dyn Iterator<Item = Vec<u8>>) -> Result<(), Failure> {
        loop {
            let batch: Vec<_> = (&mut *records).take(IN_FLIGHT).collect();
            if batch.is_empty() {
                return Ok(());
            }
            self.append_batch(0, 0, &batch)?;
        }
    }

    /// Reads a topic from its beginning until its end or until the visitor breaks off.
    fn read(&self, topic: usize, visit: &mut Visit<'_>) -> Result<(), Failure>;

    /// Makes ready to be read so many times, for peers that can read what they hold only once.
    fn prepare_reads(&self, _times: usize) -> Result<(), Failure> {
        Ok(())
    }

    /// Hands over the records of topic 0 that come next, at most so many, and then makes durable
    /// that they are done with. Returns how many there were.
    fn consume(
        &self,
        _consumer: usize,
        _max: usize,
        _take: &mut Take<'_>,
    ) -> Result<usize, Failure> {
        Err("it has no consumers".into())
    }

    /// Reads the records of topic 0 that nobody is done with, from where the peer has kept that.
    /// Nothing is consumed any more.
    fn read_rest(&self, _visit: &mut Visit<'_>) -> Result<(), Failure> {
        Err("it has no consumers".into())
    }
}

/// A kind of peer: how it is opened, and what is to be known of it.
pub(crate) struct Kind {
    /// The name of its crate.
    pub(crate) name: &'static str,
    pub(crate) open: fn(&Setup<'_>) -> Result<Box<dyn Peer>, Failure>,
    /// How a durable append is made: the options and calls that were chosen.
    pub(crate) durable: &'static str,
    /// The same for an append that is not synced; `None` if there is no such thing.
    pub(crate) unsynced: Option<&'static str>,
    /// What it calls its topics; `None` if it has one sequence of records alone.
    pub(crate) topics: Option<&'static str>,
    /// How [`IN_FLIGHT`] records are under way by one thread.
    pub(crate) in_flight: &'static str,
    /// How a record is acknowledged; `None` if it keeps no position of a consumer.
    pub(crate) acked: Option<&'static str>,
    /// Where its documentation speaks of syncing. `{}` stands for the version.
    pub(crate) documentation: &'static str,
    /// What a reader of the figures should know besides.
    pub(crate) remark: &'static str,
}

/// All of them, ackline first.
pub(crate) const ALL: [&Kind; 11] = [
    &peers::ackline::KIND,
    &peers::okaywal::KIND,
    &peers::raft_engine::KIND,
    &peers::walrus::KIND,
    &peers::fjall::KIND,
    &peers::redb::KIND,
    &peers::sqlite::KIND,
    &peers::sled::KIND,
    &peers::yaque::KIND,
    &peers::commitlog::KIND,
    &peers::queue_file::KIND,
];

/// The one that all others are compared with.
pub(crate) const OURS: &Kind = ALL[0];

/// The kind with this name.
pub(crate) fn kind(name: &str) -> Result<&'static Kind, Failure> {
    let found = ALL.into_iter().find(|kind| kind.name == name);
    found.ok_or_else(|| format!("there is no peer {name:?}").into())
}

/// What an impossible lock says: a thread that panics ends the measurement.
pub(crate) const NO_PANIC: &str = "no thread panics while it holds the lock";
