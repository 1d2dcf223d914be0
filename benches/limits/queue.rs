//! The log itself, called in each of the ways in which records are written.

use std::collections::VecDeque;
use std::error::Error;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use ackline::{Log, Offset, Options, Retention, SyncPolicy, Topic};

use crate::measure::{Counts, Meter, Side, read_stamp, stamp};

/// The options of a log that keeps what consumers are done with: it is read back at the end.
pub(crate) fn kept() -> Options {
    Options::new().retention(Retention::keep_consumed())
}

/// Opens a new log with a topic.
pub(crate) fn open(directory: &Path, policy: SyncPolicy) -> Result<(Log, Topic), Box<dyn Error>> {
    static LOGS: AtomicU64 = AtomicU64::new(0);
    let name = format!("log {}", LOGS.fetch_add(1, Ordering::Relaxed));
    let log = kept().sync(policy).open(directory.join(name))?;
    let topic = log.topic("measured")?;
    Ok((log, topic))
}

pub(crate) fn counts_of(log: &Log) -> Counts {
    let stats = log.stats();
    Counts { syncs: stats.syncs, frame_bytes: stats.bytes, file_bytes: stats.segment_bytes }
}

/// Payloads of the first thread.
pub(crate) fn stamped(numbers: Range<u64>, payload_bytes: usize) -> impl Iterator<Item = Vec<u8>> {
    numbers.map(move |number| {
        let mut payload = vec![0; payload_bytes];
        stamp(&mut payload, 0, number);
        payload
    })
}

/// Compares what the topic holds with what was acknowledged, thread by thread.
pub(crate) fn verify(topic: &Topic, acknowledged: &[u64]) -> Result<(), String> {
    let mut next = vec![0; acknowledged.len()];
    for message in topic.read_from(Offset(0)).map_err(|e| e.to_string())? {
        let message = message.map_err(|e| e.to_string())?;
        let (thread, number) = read_stamp(message.payload()).ok_or("an altered record")?;
        if next.get(thread) != Some(&number) {
            return Err(format!("record {number} of thread {thread} is out of order"));
        }
        next[thread] += 1;
    }
    if next == acknowledged { Ok(()) } else { Err("records are missing or invented".to_owned()) }
}

/// Appends that wait, from any number of threads.
pub(crate) struct Queue {
    log: Log,
    topic: Topic,
    payload_bytes: usize,
    /// Each call waits for the disk.
    waits: bool,
}

impl Queue {
    pub(crate) fn new(directory: &Path, payload_bytes: usize) -> Result<Self, Box<dyn Error>> {
        Self::with_policy(directory, payload_bytes, SyncPolicy::default())
    }

    pub(crate) fn with_policy(
        directory: &Path,
        payload_bytes: usize,
        policy: SyncPolicy,
    ) -> Result<Self, Box<dyn Error>> {
        let (log, topic) = open(directory, policy)?;
        let waits = policy == SyncPolicy::default();
        Ok(Self { waits, ..Self::on(log, topic, payload_bytes) })
    }

    pub(crate) fn on(log: Log, topic: Topic, payload_bytes: usize) -> Self {
        Self { log, topic, payload_bytes, waits: true }
    }

    pub(crate) fn topic(&self) -> &Topic {
        &self.topic
    }
}

impl Side for Queue {
    fn work(&self, thread: usize, first: u64, meter: &mut Meter<'_>) -> u64 {
        let (mut payload, mut number) = (vec![0; self.payload_bytes], first);
        while meter.goes_on() {
            stamp(&mut payload, thread, number);
            let append = || self.topic.append(payload.as_slice()).expect("the log takes an append");
            if self.waits {
                meter.time(append);
            } else {
                meter.sample(number, append);
            }
            number += 1;
        }
        number
    }

    fn counts(&self) -> Counts {
        counts_of(&self.log)
    }

    fn verify(&self, acknowledged: &[u64]) -> Result<(), String> {
        // Under some policies, nobody sees what is not synced.
        self.log.sync().map_err(|e| e.to_string())?;
        verify(&self.topic, acknowledged)
    }
}

/// One thread that has many appends under way.
pub(crate) struct Submits {
    queue: Queue,
    in_flight: usize,
}

impl Submits {
    pub(crate) fn new(
        directory: &Path,
        payload_bytes: usize,
        in_flight: usize,
    ) -> Result<Self, Box<dyn Error>> {
        Ok(Self::on(Queue::new(directory, payload_bytes)?, in_flight))
    }

    pub(crate) fn on(queue: Queue, in_flight: usize) -> Self {
        Self { queue, in_flight }
    }
}

impl Side for Submits {
    fn work(&self, thread: usize, first: u64, meter: &mut Meter<'_>) -> u64 {
        let mut payload = vec![0; self.queue.payload_bytes];
        let (mut under_way, mut number) = (VecDeque::with_capacity(self.in_flight), first);
        while meter.goes_on() {
            if under_way.len() == self.in_flight {
                let oldest: ackline::Pending<_> = under_way.pop_front().expect("not empty");
                oldest.wait().expect("the log takes a submit");
            }
            stamp(&mut payload, thread, number);
            under_way.push_back(self.queue.topic.submit(payload.as_slice()));
            number += 1;
        }
        for pending in under_way {
            pending.wait().expect("the log takes a submit");
        }
        number
    }

    fn counts(&self) -> Counts {
        self.queue.counts()
    }

    fn verify(&self, acknowledged: &[u64]) -> Result<(), String> {
        self.queue.verify(acknowledged)
    }
}

/// One thread, the first, that appends batches.
pub(crate) struct Batches {
    queue: Queue,
    records: usize,
}

impl Batches {
    pub(crate) fn new(
        directory: &Path,
        payload_bytes: usize,
        records: usize,
    ) -> Result<Self, Box<dyn Error>> {
        Ok(Self { queue: Queue::new(directory, payload_bytes)?, records })
    }
}

impl Side for Batches {
    fn work(&self, _: usize, first: u64, meter: &mut Meter<'_>) -> u64 {
        let mut number = first;
        while meter.goes_on() {
            let numbers = number..number + self.records as u64;
            let records = stamped(numbers, self.queue.payload_bytes);
            meter.time(|| self.queue.topic.append_batch(records)).expect("the log takes a batch");
            number += self.records as u64;
        }
        number
    }

    fn counts(&self) -> Counts {
        self.queue.counts()
    }

    fn verify(&self, acknowledged: &[u64]) -> Result<(), String> {
        self.queue.verify(acknowledged)
    }
}
