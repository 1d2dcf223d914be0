//! What is counted: each way to write and to consume, so many times on one thread.
//!
//! A workload of `n` operations and one of more of them make, open and fill the same, so that their
//! difference is the operations alone. That is why none of them rolls to a second segment midway.

use std::collections::VecDeque;
use std::mem::ManuallyDrop;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ackline::simulation::SimClock;
use ackline::{Delivery, Group, GroupOptions, Log, Options, Pending, Retention, SyncPolicy, Topic};

use crate::Outcome;

const PAYLOAD: [u8; 100] = [0x5a; 100];
/// How many submits are under way at a time.
const IN_FLIGHT: usize = 128;
/// How many records a batch has.
const BATCH: usize = 100;
/// How many messages are polled at a time in the whole cycle.
const POLL_MAX: usize = 100;
/// How many messages one cumulative acknowledgement covers.
const CUMULATIVE: usize = 500;
/// How many messages wait for consumers: more than two segments of them, so that what is polled
/// lies in sealed ones.
const BACKLOG: usize = 24 * 1024;
/// Any identity will do, as long as it is the same in each run.
const SEED: u64 = 1;

/// The real disk with a clock that stands still, and without threads in the background: when those
/// come to run is chance. Nothing is deleted.
fn open(directory: &Path, policy: SyncPolicy) -> ackline::Result<(Log, Topic)> {
    let clock = Arc::new(SimClock::new());
    let options = Options::new().sync(policy).retention(Retention::keep_consumed());
    let log = options.simulated(clock, SEED).open(directory)?;
    let topic = log.topic("counted")?;
    Ok((log, topic))
}

/// `append`, one at a time.
fn append(directory: &Path, policy: SyncPolicy, operations: usize) -> Outcome {
    let (log, topic) = open(directory, policy)?;
    for _ in 0..operations {
        topic.append(PAYLOAD.as_slice())?;
    }
    Ok(log.close()?)
}

pub(crate) fn append_synced(directory: &Path, operations: usize) -> Outcome {
    append(directory, SyncPolicy::default(), operations)
}

pub(crate) fn append_never(directory: &Path, operations: usize) -> Outcome {
    append(directory, SyncPolicy::Never, operations)
}

/// `submit`, each waited for when so many others are under way.
fn submit(directory: &Path, policy: SyncPolicy, operations: usize) -> Outcome {
    let (log, topic) = open(directory, policy)?;
    let mut under_way = VecDeque::with_capacity(IN_FLIGHT);
    for _ in 0..operations {
        if under_way.len() == IN_FLIGHT {
            let oldest: Pending<_> = under_way.pop_front().expect("not empty");
            oldest.wait()?;
        }
        under_way.push_back(topic.submit(PAYLOAD.as_slice()));
    }
    for pending in under_way {
        pending.wait()?;
    }
    Ok(log.close()?)
}

pub(crate) fn submit_synced(directory: &Path, operations: usize) -> Outcome {
    submit(directory, SyncPolicy::default(), operations)
}

pub(crate) fn submit_never(directory: &Path, operations: usize) -> Outcome {
    submit(directory, SyncPolicy::Never, operations)
}

fn append_records(topic: &Topic, records: usize, batch: usize) -> ackline::Result<()> {
    for _ in 0..records / batch {
        topic.append_batch(std::iter::repeat_n(PAYLOAD.as_slice(), batch))?;
    }
    Ok(())
}

/// `append_batch`, synced.
pub(crate) fn append_batch(directory: &Path, operations: usize) -> Outcome {
    let (log, topic) = open(directory, SyncPolicy::default())?;
    append_records(&topic, operations, BATCH)?;
    Ok(log.close()?)
}

/// A log with messages that wait.
fn fill(directory: &Path) -> ackline::Result<(Log, Topic)> {
    let (log, topic) = open(directory, SyncPolicy::default())?;
    append_records(&topic, BACKLOG, 1024)?;
    Ok((log, topic))
}

/// The same, opened anew, so that none of them is in memory.
fn fill_and_open(directory: &Path) -> ackline::Result<(Log, Topic)> {
    let (log, _) = fill(directory)?;
    log.close()?;
    open(directory, SyncPolicy::default())
}

/// A group that has seen none of the messages, and may be given all of them.
fn group_of(topic: &Topic) -> ackline::Result<Group> {
    topic.group_with("counting", GroupOptions::new().in_flight_max(BACKLOG).unacked_max(BACKLOG))
}

/// `poll`, with a cumulative acknowledgement of many messages now and then.
fn poll((log, topic): (Log, Topic), per_call: usize, operations: usize) -> Outcome {
    let group = group_of(&topic)?;
    let mut held: Vec<Delivery> = Vec::with_capacity(CUMULATIVE);
    for _ in 0..operations / CUMULATIVE {
        while held.len() < CUMULATIVE {
            held.append(&mut group.poll(per_call, Duration::ZERO)?);
        }
        let last = held.last().expect("messages wait").offset();
        group.commit_through(last)?;
        held.clear();
    }
    Ok(log.close()?)
}

pub(crate) fn poll_written(directory: &Path, operations: usize) -> Outcome {
    poll(fill(directory)?, 100, operations)
}

pub(crate) fn poll_hundreds(directory: &Path, operations: usize) -> Outcome {
    poll(fill_and_open(directory)?, 100, operations)
}

pub(crate) fn poll_single(directory: &Path, operations: usize) -> Outcome {
    poll(fill_and_open(directory)?, 1, operations)
}

/// Acknowledges messages that were polled before, and does something behind each. As many are polled
/// however many are acknowledged, and the others are not given back, which would cost something, too.
fn ack_each(
    directory: &Path,
    operations: usize,
    behind: fn(&Group) -> ackline::Result<()>,
) -> Outcome {
    let (_log, topic) = fill_and_open(directory)?;
    let group = group_of(&topic)?;
    let mut polled = ManuallyDrop::new(group.poll(BACKLOG / 4, Duration::ZERO)?.into_iter());
    assert!(polled.len() >= operations, "enough messages wait: {}", polled.len());
    for message in polled.by_ref().take(operations) {
        message.ack()?;
        behind(&group)?;
    }
    Ok(())
}

/// `ack` alone.
pub(crate) fn ack(directory: &Path, operations: usize) -> Outcome {
    ack_each(directory, operations, |_| Ok(()))
}

/// `ack`, each made durable by itself.
pub(crate) fn ack_and_commit(directory: &Path, operations: usize) -> Outcome {
    ack_each(directory, operations, Group::commit)
}

/// The whole way of a message: appended, polled, acknowledged, its progress durable.
pub(crate) fn cycle(directory: &Path, operations: usize) -> Outcome {
    let (log, topic) = open(directory, SyncPolicy::default())?;
    let group = topic.group("counting")?;
    for _ in 0..operations / POLL_MAX {
        for _ in 0..POLL_MAX {
            topic.append(PAYLOAD.as_slice())?;
        }
        let polled = group.poll(POLL_MAX, Duration::ZERO)?;
        assert_eq!(polled.len(), POLL_MAX, "what was appended is visible");
        for message in polled {
            message.ack()?;
        }
        group.commit()?;
    }
    Ok(log.close()?)
}
