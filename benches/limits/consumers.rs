//! Consumers of messages that wait: each way of polling and of acknowledging.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use ackline::{Delivery, Group, GroupOptions, Log, Offset, Topic};

use crate::mapped::{Handles, Scan};
use crate::measure::{Counts, Meter, Side, peek_stamp};
use crate::queue::{counts_of, kept, stamped, verify};
use crate::raw::{FILE_BYTES, Raw};
use crate::{Bar, Bench, Comparison, FRAME_HEADER_BYTES, entry_bytes, process};

/// What is aimed at.
const BAR_POLL_100_B: Bar = Bar::AtLeast(0.45);
const BAR_POLL_1_KIB: Bar = Bar::AtLeast(0.80);
const BAR_DURABLE_ACK: Bar = Bar::AtLeast(0.95);

/// What is left of the limit where each record is handed out by itself.
const HANDLES: &str = "the least of such polls";

/// An entry of progress with one range.
const PROGRESS_BYTES: usize = 48;
/// How many messages one cumulative acknowledgement covers. It waits for a sync, which takes as
/// long as reading thousands of messages.
const CUMULATIVE: usize = 100_000;
/// How many bytes of payload a batch has that fills a topic.
pub(crate) const BATCH_BYTES: usize = 1024 * 1024;
/// The same where commits are measured afterwards. Behind larger batches the log has no zeros in its
/// next segment, as large commits do without, and the raw side has them.
const SMALL_BATCH_BYTES: usize = 64 * 1024;
/// Longer than a row takes.
const LEASE: Duration = Duration::from_secs(3600);

/// When messages are acknowledged.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Acks {
    /// Each by itself, at once.
    Single,
    /// All of the last thousands by one call, which is durable when it returns.
    Cumulative,
    /// Each by itself, and durable before the next one.
    Durable,
}

/// How messages are consumed.
#[derive(Clone, Copy)]
pub(crate) struct Way {
    pub(crate) payload_bytes: usize,
    pub(crate) per_call: usize,
    pub(crate) acks: Acks,
    /// Nothing is in memory when a turn begins.
    pub(crate) is_cold: bool,
    /// They take turns, poll by poll.
    pub(crate) groups: usize,
}

/// All ways of polling against reading a mapped file, and durable acknowledgements.
pub(crate) fn rows(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let poll = |payload_bytes, per_call, acks, is_cold| Way {
        payload_bytes,
        per_call,
        acks,
        is_cold,
        groups: 1,
    };
    for (way, bar) in [
        (poll(100, 100, Acks::Cumulative, false), BAR_POLL_100_B),
        (poll(1024, 100, Acks::Cumulative, false), BAR_POLL_1_KIB),
        (poll(100, 100, Acks::Single, false), Bar::None),
        (poll(100, 1, Acks::Cumulative, false), Bar::None),
        (poll(100, 1, Acks::Single, false), Bar::None),
        (poll(100, 100, Acks::Cumulative, true), Bar::None),
        (poll(100, 100, Acks::Single, true), Bar::None),
        (poll(100, 1, Acks::Cumulative, true), Bar::None),
        (poll(100, 1, Acks::Single, true), Bar::None),
    ] {
        let Way { payload_bytes, per_call, is_cold, .. } = way;
        let warmth = if is_cold { "cold" } else { "warm" };
        let acks = if way.acks == Acks::Single { "single acks" } else { "cumulative" };
        let name = format!("poll {per_call}, {warmth}, {acks}, {payload_bytes} B");
        let against = "mapped scan + crc32 per record".to_owned();
        let comparison = Comparison { name, against, bar, threads: 1, payload_bytes };
        if bar == Bar::None {
            bench.compare(&comparison, |directory| {
                let scan = Scan::new(directory, payload_bytes, is_cold)?;
                Ok((scan, Polls::new(directory, way)?))
            })?;
            continue;
        }
        bench.compare_with(&comparison, HANDLES, |directory| {
            let other = directory.join("handles");
            std::fs::create_dir(&other)?;
            let scanned = Scan::new(&other, payload_bytes, is_cold)?;
            let handles = Handles::new(scanned, per_call, CUMULATIVE)?;
            let scan = Scan::new(directory, payload_bytes, is_cold)?;
            Ok((scan, handles, Polls::new(directory, way)?))
        })?;
    }
    durable_acks(bench)
}

fn durable_acks(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let way =
        Way { payload_bytes: 100, per_call: 100, acks: Acks::Durable, is_cold: false, groups: 1 };
    let frame = FRAME_HEADER_BYTES + PROGRESS_BYTES;
    let comparison = Comparison {
        name: "durable ack, one at a time".to_owned(),
        against: format!("pwrite of {frame} B + fdatasync"),
        bar: BAR_DURABLE_ACK,
        threads: 1,
        payload_bytes: way.payload_bytes,
    };
    bench.compare(&comparison, |directory| {
        let raw = Raw::new(directory, way.payload_bytes, 1, frame)?;
        Ok((raw, Polls::new(directory, way)?))
    })
}

/// Groups that take turns, against one group alone.
pub(crate) fn group_rows(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    for groups in [10, 100] {
        let way = |groups| Way {
            payload_bytes: 100,
            per_call: 100,
            acks: Acks::Single,
            is_cold: false,
            groups,
        };
        let comparison = Comparison {
            name: format!("poll 100, {groups} groups in turns, 100 B"),
            against: "the same with 1 group".to_owned(),
            bar: Bar::None,
            threads: 1,
            payload_bytes: 100,
        };
        bench.compare(&comparison, |directory| {
            let (one, many) = (directory.join("one"), directory.join("many"));
            Ok((Polls::new(&one, way(1))?, Polls::new(&many, way(groups))?))
        })?;
    }
    Ok(())
}

/// Fills a topic with stamped messages, about as many bytes as a segment has, in batches of so many
/// bytes of payload.
pub(crate) fn fill(topic: &Topic, payload_bytes: usize, batch: usize) -> ackline::Result<u64> {
    let records = (FILE_BYTES / entry_bytes(payload_bytes)) as u64;
    let batch = batch / payload_bytes;
    for first in (0..records).step_by(batch) {
        topic.append_batch(stamped(first..records.min(first + batch as u64), payload_bytes))?;
    }
    Ok(records)
}

/// Consumers on one thread.
pub(crate) struct Polls {
    way: Way,
    directory: PathBuf,
    records: u64,
    /// Closed in between where each turn is to begin cold.
    opened: Mutex<Option<Opened>>,
}

struct Opened {
    log: Log,
    consumers: Vec<Consumer>,
    turn: usize,
}

struct Consumer {
    group: Group,
    /// The number of the message that comes next.
    next: u64,
    /// Delivered and to be acknowledged together.
    held: Vec<Delivery>,
}

impl Polls {
    pub(crate) fn new(directory: &Path, way: Way) -> Result<Self, Box<dyn Error>> {
        let directory = directory.join("polled");
        std::fs::create_dir_all(&directory)?;
        let log = kept().open(&directory)?;
        let batch = if way.acks == Acks::Durable { SMALL_BATCH_BYTES } else { BATCH_BYTES };
        let records = fill(&log.topic("measured")?, way.payload_bytes, batch)?;
        log.close()?;
        Ok(Self { way, directory, records, opened: Mutex::new(None) })
    }

    fn opened(&self) -> MutexGuard<'_, Option<Opened>> {
        self.opened.lock().expect("no consumer panics")
    }

    fn open(&self) -> ackline::Result<Opened> {
        let log = kept().open(&self.directory)?;
        let topic = log.topic("measured")?;
        let options =
            GroupOptions::new().in_flight_max(CUMULATIVE).unacked_max(CUMULATIVE).lease(LEASE);
        let consumers = (0..self.way.groups).map(|number| {
            let group = topic.group_with(&format!("group {number}"), options.clone())?;
            Ok(Consumer { group, next: 0, held: Vec::new() })
        });
        let consumers = consumers.collect::<ackline::Result<_>>()?;
        Ok(Opened { log, consumers, turn: 0 })
    }
}

impl Consumer {
    /// Polls once and acknowledges; returns the number of messages.
    fn consume(&mut self, way: &Way, meter: &mut Meter<'_>) -> ackline::Result<u64> {
        let poll = || self.group.poll(way.per_call, Duration::ZERO);
        let polled = match way {
            Way { acks: Acks::Durable, .. } => poll(),
            Way { per_call: 1, .. } => meter.sample(self.next, poll),
            _ => meter.time(poll),
        }?;
        let count = polled.len() as u64;
        for message in polled {
            assert_eq!(peek_stamp(message.payload()), Some((0, self.next)), "in order");
            self.next += 1;
            match way.acks {
                Acks::Single => message.ack()?,
                Acks::Durable => meter.time(|| {
                    message.ack()?;
                    self.group.commit()
                })?,
                Acks::Cumulative => self.held.push(message),
            }
        }
        if self.held.len() >= CUMULATIVE || count == 0 {
            self.acknowledge_held()?;
        }
        Ok(count)
    }

    fn acknowledge_held(&mut self) -> ackline::Result<()> {
        if let Some(last) = self.held.last() {
            self.group.commit_through(last.offset())?;
            self.held.clear();
        }
        Ok(())
    }

    fn begin_again(&mut self) -> ackline::Result<()> {
        self.next = 0;
        self.group.seek(Offset(0))
    }
}

impl Side for Polls {
    fn prepare(&self) -> Result<(), Box<dyn Error>> {
        let mut opened = self.opened();
        if !self.way.is_cold && opened.is_some() {
            return Ok(());
        }
        if let Some(Opened { log, consumers, .. }) = opened.take() {
            drop(consumers);
            log.close()?;
        }
        if self.way.is_cold {
            process::drop_cached(&self.directory)?;
        }
        let opened = opened.insert(self.open()?);
        for consumer in &mut opened.consumers {
            consumer.begin_again()?;
        }
        Ok(())
    }

    fn work(&self, _: usize, first: u64, meter: &mut Meter<'_>) -> u64 {
        let (mut opened, mut number) = (self.opened(), first);
        let Opened { consumers, turn, .. } = opened.as_mut().expect("it was prepared");
        while meter.goes_on() {
            let at = *turn % consumers.len();
            let consumer = &mut consumers[at];
            let count = consumer.consume(&self.way, meter).expect("the group goes on");
            number += count;
            if count == 0 {
                assert_eq!(consumer.next, self.records, "all came");
                if self.way.is_cold {
                    // What is read twice is not cold.
                    break;
                }
                consumer.begin_again().expect("the group seeks");
            }
            *turn += 1;
        }
        number
    }

    fn counts(&self) -> Counts {
        self.opened().as_ref().map_or(Counts::default(), |opened| counts_of(&opened.log))
    }

    /// Each message was checked when it came. What was acknowledged must be known after a restart.
    fn verify(&self, _: &[u64]) -> Result<(), String> {
        let Some(Opened { log, consumers, .. }) = self.opened().take() else {
            return Err("nothing was consumed".to_owned());
        };
        let left = |consumer: &Consumer| self.records - consumer.next + consumer.held.len() as u64;
        let expected: Vec<_> = consumers.iter().map(left).collect();
        drop(consumers);
        let check = || -> ackline::Result<_> {
            log.close()?;
            let opened = self.open()?;
            let lag = |consumer: &Consumer| Ok(consumer.group.lag()?.messages);
            let lags = opened.consumers.iter().map(lag).collect::<ackline::Result<Vec<_>>>()?;
            Ok((opened, lags))
        };
        let (opened, lags) = check().map_err(|e| e.to_string())?;
        if lags != expected {
            return Err(format!("lags {lags:?}, expected {expected:?}"));
        }
        verify(opened.consumers[0].group.topic(), &[self.records])
    }
}
