//! ackline itself, through its public API.

use std::collections::VecDeque;

use ackline::{Log, Offset, Options, Retention, SyncPolicy, Topic};

use crate::peer::{Failure, Kind, Mode, Peer, Setup, Visit};
use crate::workload::IN_FLIGHT;

pub(crate) const KIND: Kind = Kind {
    name: "ackline",
    open,
    durable: "`SyncPolicy::GroupCommit`, the default; `append`, `append_batch`",
    unsynced: Some("`SyncPolicy::Never`"),
    topics: Some("topics"),
    in_flight: "`submit`, and `Pending::wait` for the oldest of 128",
    documentation: "../README.md#what-it-guarantees",
    remark: "Readers check the checksum of every frame.",
};

struct Ackline {
    topics: Vec<Topic>,
    _log: Log,
}

fn open(setup: &Setup<'_>) -> Result<Box<dyn Peer>, Failure> {
    let policy = match setup.mode {
        Mode::Durable => SyncPolicy::default(),
        Mode::Unsynced => SyncPolicy::Never,
    };
    // What is written is read back at the end.
    let options = Options::new().sync(policy).retention(Retention::keep_consumed());
    let log = options.open(setup.directory)?;
    let topics = (0..setup.topics).map(|topic| log.topic(&format!("topic {topic}")));
    let topics = topics.collect::<Result<_, _>>()?;
    Ok(Box::new(Ackline { topics, _log: log }))
}

impl Peer for Ackline {
    fn append(&self, _: usize, topic: usize, record: &[u8]) -> Result<(), Failure> {
        self.topics[topic].append(record)?;
        Ok(())
    }

    fn append_batch(&self, _: usize, topic: usize, records: &[Vec<u8>]) -> Result<(), Failure> {
        self.topics[topic].append_batch(records.iter().map(Vec::as_slice))?;
        Ok(())
    }

    fn append_in_flight(&self, records: &mut dyn Iterator<Item = Vec<u8>>) -> Result<(), Failure> {
        let mut under_way = VecDeque::with_capacity(IN_FLIGHT);
        for record in records {
            if under_way.len() == IN_FLIGHT
                && let Some(oldest) = under_way.pop_front()
            {
                ackline::Pending::wait(oldest)?;
            }
            under_way.push_back(self.topics[0].submit(record));
        }
        for pending in under_way {
            pending.wait()?;
        }
        Ok(())
    }

    fn read(&self, topic: usize, visit: &mut Visit<'_>) -> Result<(), Failure> {
        for message in self.topics[topic].read_from(Offset(0))? {
            if visit(message?.payload()).is_break() {
                break;
            }
        }
        Ok(())
    }
}
