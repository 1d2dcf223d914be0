//! Appends that are spread over many topics, against one topic.

use std::error::Error;
use std::path::Path;

use ackline::{Log, Offset, SyncPolicy, Topic};

use crate::measure::{Counts, Meter, Side, place, read_stamp, stamp};
use crate::queue::{counts_of, open};
use crate::{Bar, Bench, Comparison};

/// What is aimed at.
const BAR_1_000_TOPICS: Bar = Bar::AtLeast(0.95);
const BAR_10_000_TOPICS: Bar = Bar::AtLeast(0.90);

const THREADS: usize = 16;
const PAYLOAD_BYTES: usize = 100;
/// How many topics are made at a time: they share syncs.
const MAKERS: usize = 64;
/// How many topics are read back. Each is read by itself, and all lie in the same segments.
const READ_BACK: usize = 50;

/// Each number of topics against one.
pub(crate) fn rows(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    for (topics, bar) in [(100, Bar::None), (1_000, BAR_1_000_TOPICS), (10_000, BAR_10_000_TOPICS)]
    {
        let comparison = Comparison {
            name: format!("append, {THREADS} threads, {topics} topics, 100 B"),
            against: "the same with 1 topic".to_owned(),
            bar,
            threads: THREADS,
            payload_bytes: PAYLOAD_BYTES,
        };
        bench.compare(&comparison, |directory| {
            Ok((Topics::new(directory, 1)?, Topics::new(directory, topics)?))
        })?;
    }
    Ok(())
}

/// Threads whose appends go to one topic after the other.
struct Topics {
    log: Log,
    topics: Vec<Topic>,
}

impl Topics {
    fn new(directory: &Path, count: usize) -> Result<Self, Box<dyn Error>> {
        let (log, _) = open(directory, SyncPolicy::default())?;
        let open_every = |maker| -> ackline::Result<Vec<_>> {
            let own = (maker..count).step_by(MAKERS);
            own.map(|number| Ok((number, log.topic(&format!("topic {number}"))?))).collect()
        };
        let mut made = Vec::new();
        std::thread::scope(|scope| {
            let makers: Vec<_> =
                (0..MAKERS).map(|maker| scope.spawn(move || open_every(maker))).collect();
            for maker in makers {
                made.extend(maker.join().expect("no maker panics")?);
            }
            Ok::<_, ackline::Error>(())
        })?;
        made.sort_by_key(|(number, _)| *number);
        let topics = made.into_iter().map(|(_, topic)| topic).collect();
        Ok(Self { log, topics })
    }

    /// Which topic a record goes to.
    fn place(&self, thread: usize, number: u64) -> usize {
        (place(number, self.topics.len()) * THREADS + thread) % self.topics.len()
    }

    fn check(&self, at: usize) -> Result<(), String> {
        let mut next = [0; THREADS];
        for message in self.topics[at].read_from(Offset(0)).map_err(|e| e.to_string())? {
            let message = message.map_err(|e| e.to_string())?;
            let (thread, number) = read_stamp(message.payload()).ok_or("an altered record")?;
            if self.place(thread, number) != at || number < next[thread] {
                return Err(format!("record {number} of thread {thread} is out of place"));
            }
            next[thread] = number + 1;
        }
        Ok(())
    }
}

impl Side for Topics {
    fn work(&self, thread: usize, first: u64, meter: &mut Meter<'_>) -> u64 {
        let (mut payload, mut number) = (vec![0; PAYLOAD_BYTES], first);
        while meter.goes_on() {
            stamp(&mut payload, thread, number);
            let topic = &self.topics[self.place(thread, number)];
            meter.time(|| topic.append(payload.as_slice())).expect("the log takes an append");
            number += 1;
        }
        number
    }

    fn counts(&self) -> Counts {
        counts_of(&self.log)
    }

    fn verify(&self, acknowledged: &[u64]) -> Result<(), String> {
        let ends = self.topics.iter().map(|topic| topic.offsets().end.0);
        let (found, expected): (u64, u64) = (ends.sum(), acknowledged.iter().sum());
        if found != expected {
            return Err(format!("{found} records, expected {expected}"));
        }
        let step = self.topics.len().div_ceil(READ_BACK);
        (0..self.topics.len()).step_by(step).try_for_each(|at| self.check(at))
    }
}
