//! Peers whose records are consumed: acknowledged one at a time, or while others append.

use std::error::Error;
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::measure::{Counts, Meter, Side, read_stamp};
use crate::peer::{NO_PANIC, PATIENCE};
use crate::sides::{Appends, Common, fill, is_payload};
use crate::workload::{CONSUMERS, POLL_MAX};

/// How many records are there when a turn begins: more than can be acknowledged in it.
const BACKLOG: u64 = 10_000;

/// A consumer that is done with each record by itself.
pub(crate) struct Acks {
    side: Common,
    filled: AtomicU64,
    done: AtomicU64,
}

impl Acks {
    pub(crate) fn new(side: Common) -> Self {
        Self { side, filled: AtomicU64::new(0), done: AtomicU64::new(0) }
    }
}

impl Side for Acks {
    fn prepare(&self) -> Result<(), Box<dyn Error>> {
        let filled = self.filled.load(Ordering::Relaxed);
        let wanted = self.done.load(Ordering::Relaxed) + BACKLOG;
        let Common { peer, payload_bytes, .. } = &self.side;
        fill(peer.as_ref(), *payload_bytes, filled..wanted).map_err(|error| error.to_string())?;
        self.filled.store(wanted.max(filled), Ordering::Relaxed);
        Ok(())
    }

    fn work(&self, _: usize, first: u64, meter: &mut Meter<'_>) -> u64 {
        let mut number = first;
        while meter.goes_on() {
            let mut right = false;
            let mut take = |record: &[u8]| right = is_payload(record, number);
            match self.side.peer.consume(0, 1, &mut take) {
                // All is consumed: the turn is over early.
                Ok(0) => break,
                Ok(_) if right => number += 1,
                Ok(_) => {
                    self.side.fail(&format!("record {number} is missing or altered"));
                    break;
                }
                Err(error) => {
                    self.side.fail(&error.to_string());
                    break;
                }
            }
        }
        self.done.store(number, Ordering::Relaxed);
        number
    }

    fn counts(&self) -> Counts {
        // Syncs are counted by strace.
        Counts::default()
    }

    /// What was consumed was checked when it came. The rest must follow right behind it.
    fn verify(&self, acknowledged: &[u64]) -> Result<(), String> {
        self.side.no_failure()?;
        let mut next: u64 = acknowledged.iter().sum();
        let read = self.side.peer.read_rest(&mut |record| {
            if !is_payload(record, next) {
                return ControlFlow::Break(());
            }
            next += 1;
            ControlFlow::Continue(())
        });
        let (name, filled) = (self.side.name, self.filled.load(Ordering::Relaxed));
        read.map_err(|error| format!("{name}: {error}"))?;
        if next == filled {
            Ok(())
        } else {
            Err(format!("{name}: {next} of {filled} records, {acknowledged:?} acknowledged"))
        }
    }
}

/// How many records of a producer came, and the sum of their numbers: so none is missing and none
/// came twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    count: u64,
    sum: u64,
}

/// Producers, and helpers that consume. A turn ends when all that was produced is consumed.
pub(crate) struct Cycle {
    producers: Appends,
    threads: usize,
    /// How many producers have ended their turn, over all turns.
    ended: AtomicU64,
    seen: Mutex<Vec<Seen>>,
}

impl Cycle {
    pub(crate) fn new(producers: Appends, threads: usize) -> Self {
        let seen = Mutex::new(vec![Seen::default(); threads]);
        Self { producers, threads, ended: AtomicU64::new(0), seen }
    }

    /// Consumes until all is consumed of the turn with this number.
    fn consume(&self, consumer: usize, turn: u64) {
        let side = &self.producers.side;
        let mut strange = None;
        loop {
            // Before the look for records: those that come later are not of this turn.
            let ended = self.ended.load(Ordering::Acquire) == (turn + 1) * self.threads as u64;
            let start = Instant::now();
            let mut stamps = Vec::with_capacity(POLL_MAX);
            let taken =
                side.peer.consume(consumer, POLL_MAX, &mut |record| match read_stamp(record)
                    .filter(|_| record.len() == side.payload_bytes)
                {
                    Some(stamp) => stamps.push(stamp),
                    None => strange = Some("an altered record"),
                });
            self.see(&stamps);
            match (taken, strange) {
                (Err(error), _) => return side.fail(&error.to_string()),
                (_, Some(strange)) => return side.fail(strange),
                (Ok(0), _) if ended => return,
                // A peer that cannot wait for records is asked again after a while.
                (Ok(0), _) => std::thread::sleep(PATIENCE.saturating_sub(start.elapsed())),
                (Ok(_), _) => {}
            }
        }
    }

    fn see(&self, stamps: &[(usize, u64)]) {
        let mut seen = self.seen.lock().expect(NO_PANIC);
        for (thread, number) in stamps {
            // A thread that does not exist is noticed as a record that is missing.
            if let Some(Seen { count, sum }) = seen.get_mut(*thread) {
                (*count, *sum) = (*count + 1, *sum + number);
            }
        }
    }
}

impl Side for Cycle {
    fn work(&self, thread: usize, first: u64, meter: &mut Meter<'_>) -> u64 {
        if let Some(consumer) = thread.checked_sub(self.threads) {
            // A helper's number is that of the turn.
            self.consume(consumer, first);
            return first + 1;
        }
        let next = self.producers.work(thread, first, meter);
        self.ended.fetch_add(1, Ordering::Release);
        next
    }

    fn helpers(&self) -> usize {
        CONSUMERS
    }

    fn counts(&self) -> Counts {
        // Syncs are counted by strace.
        Counts::default()
    }

    /// Every record was checked when it came, so nothing may be left.
    fn verify(&self, acknowledged: &[u64]) -> Result<(), String> {
        let side = &self.producers.side;
        side.no_failure()?;
        let all = |count: &u64| Seen { count: *count, sum: count * count.saturating_sub(1) / 2 };
        let expected: Vec<_> = acknowledged.iter().map(all).collect();
        let seen = self.seen.lock().expect(NO_PANIC);
        if *seen != expected {
            return Err(format!("{}: {seen:?} came of {expected:?}", side.name));
        }
        let mut left = 0;
        let read = side.peer.read_rest(&mut |_| {
            left += 1;
            ControlFlow::Continue(())
        });
        read.map_err(|error| format!("{}: {error}", side.name))?;
        if left == 0 { Ok(()) } else { Err(format!("{}: {left} were not acknowledged", side.name)) }
    }
}
