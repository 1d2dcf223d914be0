//! ackline itself, through its public API.

use std::collections::VecDeque;
use std::sync::Mutex;

use ackline::{Delivery, Group, Log, Offset, Options, Retention, SyncPolicy, Topic};

use crate::peer::{Failure, Kind, Mode, NO_PANIC, PATIENCE, Peer, Setup, Take, Visit};
use crate::workload::{IN_FLIGHT, POLL_MAX};

pub(crate) const KIND: Kind = Kind {
    name: "ackline",
    open,
    durable: "`SyncPolicy::GroupCommit`, the default; `append`, `append_batch`",
    unsynced: Some("`SyncPolicy::Never`"),
    topics: Some("topics"),
    in_flight: "`submit`, and `Pending::wait` for the oldest of 128",
    acked: Some("`Group::poll`, `Delivery::ack`, `Group::commit`"),
    documentation: "../README.md#what-it-guarantees",
    remark: "Readers check the checksum of every frame.",
};

struct Ackline {
    topics: Vec<Topic>,
    /// The group of all consumers, and what each has polled and not acknowledged.
    group: Option<Group>,
    polled: Vec<Mutex<VecDeque<Delivery>>>,
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
    let topics: Vec<_> = topics.collect::<Result<_, _>>()?;
    let group = match (setup.consumers, topics.first()) {
        (0, _) | (_, None) => None,
        (_, Some(topic)) => Some(topic.group("consumers")?),
    };
    let polled = (0..setup.consumers).map(|_| Mutex::default()).collect();
    Ok(Box::new(Ackline { topics, group, polled, _log: log }))
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

    fn consume(&self, consumer: usize, max: usize, take: &mut Take<'_>) -> Result<usize, Failure> {
        let group = self.group.as_ref().ok_or("it was opened without consumers")?;
        let mut polled = self.polled[consumer].lock().expect(NO_PANIC);
        if polled.is_empty() {
            polled.extend(group.poll(POLL_MAX, PATIENCE)?);
        }
        let count = polled.len().min(max);
        for message in polled.drain(..count) {
            take(message.payload());
            message.ack()?;
        }
        if count > 0 {
            group.commit()?;
        }
        Ok(count)
    }

    fn read_rest(&self, visit: &mut Visit<'_>) -> Result<(), Failure> {
        let group = self.group.as_ref().ok_or("it was opened without consumers")?;
        let end = group.topic().offsets().end.0;
        // All that is acknowledged lies before all that is not, once nobody consumes.
        let from = Offset(end - group.lag()?.messages);
        for message in group.topic().read_from(from)? {
            if visit(message?.payload()).is_break() {
                break;
            }
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
