//! The whole way of a message: appended, polled, acknowledged, its progress durable.

use std::error::Error;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ackline::{Delivery, Group};

use crate::measure::{Counts, Meter, Side, peek_stamp};
use crate::queue::Queue;
use crate::{Bar, Bench, Comparison};

/// What is aimed at.
const BAR_FOUR_CONSUMERS: Bar = Bar::AtLeast(0.80);

const PRODUCERS: usize = 16;
const POLL_MAX: usize = 100;
/// How long a consumer waits before it looks whether the producers have ended.
const PATIENCE: Duration = Duration::from_millis(1);

/// The whole cycle against appends that nobody reads.
pub(crate) fn rows(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    for consumers in [1, 4, 16] {
        let payload_bytes = 100;
        let comparison = Comparison {
            name: format!("cycle, producers {PRODUCERS}, consumers {consumers}, 100 B"),
            against: format!("append alone, {PRODUCERS} threads"),
            bar: if consumers == 4 { BAR_FOUR_CONSUMERS } else { Bar::None },
            threads: PRODUCERS,
            payload_bytes,
        };
        bench.compare(&comparison, |directory| {
            let alone = Queue::new(directory, payload_bytes)?;
            Ok((alone, Cycle::new(directory, payload_bytes, consumers)?))
        })?;
    }
    Ok(())
}

/// How many messages of a producer came, and the sum of their numbers: so none is missing and none
/// came twice.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Seen {
    count: u64,
    sum: u64,
}

/// Producers, and helpers that consume. A turn ends when all that was produced is acknowledged.
struct Cycle {
    queue: Queue,
    group: Group,
    consumers: usize,
    /// How many producers have ended their turn, over all turns.
    ended: AtomicU64,
    seen: Mutex<[Seen; PRODUCERS]>,
}

impl Cycle {
    fn new(
        directory: &Path,
        payload_bytes: usize,
        consumers: usize,
    ) -> Result<Self, Box<dyn Error>> {
        let queue = Queue::new(directory, payload_bytes)?;
        let group = queue.topic().group("measured")?;
        let (ended, seen) = (AtomicU64::new(0), Mutex::default());
        Ok(Self { queue, group, consumers, ended, seen })
    }

    /// Whether all is done of the turn with this number.
    fn is_drained(&self, turn: u64) -> ackline::Result<bool> {
        let ended = self.ended.load(Ordering::Acquire) == (turn + 1) * PRODUCERS as u64;
        Ok(ended && self.group.lag()?.messages == 0)
    }

    fn consume(&self, turn: u64) -> ackline::Result<()> {
        loop {
            let polled = self.group.poll(POLL_MAX, PATIENCE)?;
            if polled.is_empty() {
                if self.is_drained(turn)? {
                    return Ok(());
                }
                continue;
            }
            self.see(&polled);
            for message in polled {
                message.ack()?;
            }
            self.group.commit()?;
        }
    }

    fn see(&self, polled: &[Delivery]) {
        let mut seen = self.seen.lock().expect("no consumer panics");
        for message in polled {
            let (thread, number) = peek_stamp(message.payload()).expect("unaltered");
            let Seen { count, sum } = &mut seen[thread];
            (*count, *sum) = (*count + 1, *sum + number);
        }
    }
}

impl Side for Cycle {
    fn work(&self, thread: usize, first: u64, meter: &mut Meter<'_>) -> u64 {
        if thread < PRODUCERS {
            let next = self.queue.work(thread, first, meter);
            self.ended.fetch_add(1, Ordering::Release);
            return next;
        }
        // A helper's number is that of the turn.
        self.consume(first).expect("the group goes on");
        first + 1
    }

    fn helpers(&self) -> usize {
        self.consumers
    }

    fn counts(&self) -> Counts {
        self.queue.counts()
    }

    fn verify(&self, acknowledged: &[u64]) -> Result<(), String> {
        let seen = self.seen.lock().expect("no consumer panics");
        let all = |count: u64| Seen { count, sum: count * count.saturating_sub(1) / 2 };
        if !seen.iter().copied().eq(acknowledged.iter().copied().map(all)) {
            return Err("messages were not consumed, or came twice".to_owned());
        }
        self.queue.verify(acknowledged)
    }
}
