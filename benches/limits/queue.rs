//! The log itself, called in each of the ways that are measured.

use std::collections::VecDeque;
use std::error::Error;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ackline::{Group, Log, Offset, Options, Retention, Topic};

use crate::measure::{Side, read_stamp, stamp};

/// How many messages a poll asks for.
const POLL_MAX: usize = 500;
/// How many messages are put back in front of a consumer at a time; they all fit into memory.
const POLL_RECORDS: u64 = 20_000;

fn open(directory: &Path) -> Result<(Log, Topic), Box<dyn Error>> {
    static LOGS: AtomicU64 = AtomicU64::new(0);
    let name = format!("log {}", LOGS.fetch_add(1, Ordering::Relaxed));
    // What consumers are done with is read back at the end.
    let options = Options::new().retention(Retention::keep_consumed());
    let log = options.open(directory.join(name))?;
    let topic = log.topic("measured")?;
    Ok((log, topic))
}

/// Compares what the topic holds with what was acknowledged, thread by thread.
fn verify(topic: &Topic, acknowledged: &[u64]) -> Result<(), String> {
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
}

impl Queue {
    pub(crate) fn new(directory: &Path, payload_bytes: usize) -> Result<Self, Box<dyn Error>> {
        let (log, topic) = open(directory)?;
        Ok(Self::on(log, topic, payload_bytes))
    }

    pub(crate) fn on(log: Log, topic: Topic, payload_bytes: usize) -> Self {
        Self { log, topic, payload_bytes }
    }
}

impl Side for Queue {
    fn work(&self, thread: usize, first: u64, stop: &AtomicBool) -> u64 {
        let (mut payload, mut number) = (vec![0; self.payload_bytes], first);
        while !stop.load(Ordering::Relaxed) {
            stamp(&mut payload, thread, number);
            self.topic.append(payload.as_slice()).expect("the log takes an append");
            number += 1;
        }
        number
    }

    fn syncs(&self) -> u64 {
        self.log.stats().syncs
    }

    fn verify(&self, acknowledged: &[u64]) -> Result<(), String> {
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
    fn work(&self, thread: usize, first: u64, stop: &AtomicBool) -> u64 {
        let mut payload = vec![0; self.queue.payload_bytes];
        let (mut under_way, mut number) = (VecDeque::with_capacity(self.in_flight), first);
        while !stop.load(Ordering::Relaxed) {
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

    fn syncs(&self) -> u64 {
        self.queue.syncs()
    }

    fn verify(&self, acknowledged: &[u64]) -> Result<(), String> {
        self.queue.verify(acknowledged)
    }
}

/// One thread that appends batches.
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
    fn work(&self, thread: usize, first: u64, stop: &AtomicBool) -> u64 {
        let mut number = first;
        while !stop.load(Ordering::Relaxed) {
            let records = (number..number + self.records as u64).map(|number| {
                let mut payload = vec![0; self.queue.payload_bytes];
                stamp(&mut payload, thread, number);
                payload
            });
            self.queue.topic.append_batch(records).expect("the log takes a batch");
            number += self.records as u64;
        }
        number
    }

    fn syncs(&self) -> u64 {
        self.queue.syncs()
    }

    fn verify(&self, acknowledged: &[u64]) -> Result<(), String> {
        self.queue.verify(acknowledged)
    }
}

/// A consumer that finds everything in memory.
pub(crate) struct Polls {
    queue: Queue,
    group: Group,
}

impl Polls {
    pub(crate) fn new(directory: &Path, payload_bytes: usize) -> Result<Self, Box<dyn Error>> {
        let queue = Queue::new(directory, payload_bytes)?;
        let records = (0..POLL_RECORDS).map(|number| {
            let mut payload = vec![0; payload_bytes];
            stamp(&mut payload, 0, number);
            payload
        });
        queue.topic.append_batch(records)?;
        let group = queue.topic.group("measured")?;
        Ok(Self { queue, group })
    }
}

impl Side for Polls {
    fn work(&self, _: usize, first: u64, stop: &AtomicBool) -> u64 {
        let mut number = first;
        while !stop.load(Ordering::Relaxed) {
            let polled = self.group.poll(POLL_MAX, Duration::ZERO).expect("the group polls");
            if polled.is_empty() {
                // All were acknowledged: begin again.
                self.group.seek(Offset(0)).expect("the group seeks");
                continue;
            }
            for message in polled {
                let expected = Some((0, number % POLL_RECORDS));
                assert_eq!(read_stamp(message.payload()), expected, "in order and unaltered");
                message.ack().expect("the message is leased");
                number += 1;
            }
        }
        number
    }

    fn syncs(&self) -> u64 {
        self.queue.syncs()
    }

    /// Each message was checked when it came.
    fn verify(&self, acknowledged: &[u64]) -> Result<(), String> {
        let lag = self.group.lag().map_err(|e| e.to_string())?.messages;
        let done: u64 = acknowledged.iter().sum();
        let expected = (POLL_RECORDS - done % POLL_RECORDS) % POLL_RECORDS;
        if lag == expected { Ok(()) } else { Err(format!("lag {lag}, expected {expected}")) }
    }
}
