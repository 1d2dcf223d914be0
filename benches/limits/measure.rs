//! Runs the sides of a comparison in turns, and keeps what each did.

use std::error::Error;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::process::{self, Disk};

/// How long and how often each side is measured.
pub(crate) struct Plan {
    pub(crate) time: Duration,
    pub(crate) rounds: usize,
    pub(crate) disk: Disk,
    /// Where writes fill the caches of the system and nobody waits for the disk: each round begins with
    /// a disk that has nothing to write.
    pub(crate) unsynced: Option<std::path::PathBuf>,
}

/// More than what the sides of one round write where they wait for no disk.
const ROUND_BYTES: usize = 3 * 1024 * 1024 * 1024;

/// One side of a comparison.
pub(crate) trait Side: Sync {
    /// Writes the records of a thread from the number `first` on until the meter says stop, or
    /// until there is no more to do; returns the number after the last one that was acknowledged.
    fn work(&self, thread: usize, first: u64, meter: &mut Meter<'_>) -> u64;
    /// What it has done to its disk so far.
    fn counts(&self) -> Counts;
    /// Reads everything back, given the number of records of each thread.
    fn verify(&self, acknowledged: &[u64]) -> Result<(), String>;

    /// What is to be done before a turn and is not measured.
    fn prepare(&self) -> Result<(), Box<dyn Error>> {
        Ok(())
    }

    /// How many threads work beside those whose records count. They have the numbers behind.
    fn helpers(&self) -> usize {
        0
    }
}

/// What a side has done to its disk so far.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) syncs: u64,
    /// Bytes of frames, where there are frames.
    pub(crate) frame_bytes: u64,
    /// The sizes of the files that the frames are in, which may have been filled with zeros before.
    pub(crate) file_bytes: u64,
}

impl Counts {
    /// Counts for sides that have no frames.
    pub(crate) fn of_syncs(syncs: u64) -> Self {
        Self { syncs, ..Self::default() }
    }
}

/// What a thread needs to measure itself: when to stop, and how long its operations took.
pub(crate) struct Meter<'a> {
    stop: &'a AtomicBool,
    latencies: Latencies,
}

/// So rarely that the clock's share of a microsecond's work is far below a percent.
const SAMPLE_EVERY: u64 = 64;

/// Nanoseconds, within a percent.
pub(crate) type Latencies = Histogram<u32>;

pub(crate) fn no_latencies() -> Latencies {
    let (low, high) = (16, 60_000_000_000);
    Histogram::new_with_bounds(low, high, 2).expect("the bounds are in order")
}

impl Meter<'_> {
    pub(crate) fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Takes the time of one operation. Only for such as wait for a disk or do a lot: on others,
    /// looking at the clock would be what is measured.
    pub(crate) fn time<T>(&mut self, operation: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let done = operation();
        let nanoseconds = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.latencies.saturating_record(nanoseconds);
        done
    }

    /// Takes the time of one operation in a few, by its number.
    pub(crate) fn sample<T>(&mut self, number: u64, operation: impl FnOnce() -> T) -> T {
        if number.is_multiple_of(SAMPLE_EVERY) { self.time(operation) } else { operation() }
    }
}

/// Sides take turns this long. Short turns let both sides of a round see the same machine, even
/// where its speed changes from one second to the next.
pub(crate) const TURN: Duration = Duration::from_millis(70);

/// What a side did in one turn.
#[derive(Clone, Copy, Default)]
pub(crate) struct Turn {
    pub(crate) records: u64,
    pub(crate) syncs: u64,
    pub(crate) elapsed: Duration,
    pub(crate) frame_bytes: u64,
    pub(crate) file_bytes: u64,
    /// What the disk was sent, by whomever.
    pub(crate) sent_bytes: u64,
    /// What the process holds at the end, apart from maps of files.
    pub(crate) anonymous_bytes: u64,
}

impl Turn {
    pub(crate) fn per_second(&self) -> f64 {
        number(self.records) / self.elapsed.as_secs_f64()
    }

    pub(crate) fn per_sync(&self) -> f64 {
        number(self.records) / number(self.syncs.max(1))
    }

    fn syncs_per_second(&self) -> f64 {
        number(self.syncs) / self.elapsed.as_secs_f64()
    }
}

/// What a side did in one round. Figures are medians over its turns, so that a turn in which the
/// machine stood still does not decide.
pub(crate) type Round = [Turn];

pub(crate) fn per_second(round: &Round) -> f64 {
    spread(round.iter().map(Turn::per_second)).median
}

pub(crate) fn per_sync(round: &Round) -> f64 {
    spread(round.iter().map(Turn::per_sync)).median
}

pub(crate) fn syncs_per_second(round: &Round) -> f64 {
    spread(round.iter().map(Turn::syncs_per_second)).median
}

/// The ratio of two sides, each turn against the one that ran next to it.
pub(crate) fn ratio(ours: &Round, theirs: &Round) -> f64 {
    let pairs = ours.iter().zip(theirs);
    spread(pairs.map(|(ours, theirs)| ours.per_second() / theirs.per_second())).median
}

#[allow(clippy::cast_precision_loss, reason = "counts of a few seconds fit into 52 bits")]
pub(crate) fn number(count: u64) -> f64 {
    count as f64
}

/// The least, the middle and the greatest of some figures.
#[derive(Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

pub(crate) fn spread(figures: impl Iterator<Item = f64>) -> Spread {
    let mut figures: Vec<_> = figures.collect();
    figures.sort_by(f64::total_cmp);
    let (first, last) = (figures[0], figures[figures.len() - 1]);
    Spread { min: first, median: figures[figures.len() / 2], max: last }
}

/// What was measured of one side, round by round.
pub(crate) struct Measured {
    pub(crate) rounds: Vec<Vec<Turn>>,
    /// Empty where no operation was timed.
    pub(crate) latencies: Vec<Latencies>,
}

impl Measured {
    fn new(rounds: usize) -> Self {
        let latencies = (0..rounds).map(|_| no_latencies()).collect();
        Self { rounds: vec![Vec::new(); rounds], latencies }
    }

    /// Bytes of some kind for each byte of payload.
    pub(crate) fn per_payload_byte(
        &self,
        payload_bytes: usize,
        bytes: impl Fn(&Turn) -> u64,
    ) -> Spread {
        spread(self.rounds.iter().map(|round| {
            let records: u64 = round.iter().map(|turn| turn.records).sum();
            let of_payload = records.max(1) * payload_bytes as u64;
            number(round.iter().map(&bytes).sum()) / number(of_payload)
        }))
    }
}

/// Lets the sides take turns, every other turn in reverse, and verifies them at the end. Returns
/// what was measured of each side.
pub(crate) fn in_turns(
    sides: &[&dyn Side],
    threads: usize,
    payload_bytes: usize,
    plan: &Plan,
) -> Result<Vec<Measured>, Box<dyn Error>> {
    assert!(payload_bytes >= STAMP_BYTES, "a payload holds its own number");
    let mut next: Vec<_> = sides.iter().map(|side| vec![0; threads + side.helpers()]).collect();
    let turns = plan.time.as_millis().div_ceil(TURN.as_millis()).max(1);
    let turns = usize::try_from(turns)?;
    for (side, next) in sides.iter().zip(&mut next) {
        // The first turn only warms up: files, caches, threads of the system.
        run(*side, threads, next, (TURN, &plan.disk), &mut no_latencies())?;
    }
    let mut measured: Vec<_> = sides.iter().map(|_| Measured::new(plan.rounds)).collect();
    for turn in 0..plan.rounds * turns {
        if let Some(directory) = plan.unsynced.as_ref().filter(|_| turn % turns == 0) {
            process::settle(directory)?;
            process::touch_memory(ROUND_BYTES)?;
        }
        for i in 0..sides.len() {
            let i = if turn % 2 == 0 { i } else { sides.len() - 1 - i };
            let (round, time) = (turn / turns, plan.time / u32::try_from(turns)?);
            let latencies = &mut measured[i].latencies[round];
            let done = run(sides[i], threads, &mut next[i], (time, &plan.disk), latencies)?;
            measured[i].rounds[round].push(done);
        }
    }
    for (side, next) in sides.iter().zip(&next) {
        side.verify(&next[..threads])?;
    }
    Ok(measured)
}

fn run(
    side: &dyn Side,
    threads: usize,
    next: &mut [u64],
    (time, disk): (Duration, &Disk),
    latencies: &mut Latencies,
) -> Result<Turn, Box<dyn Error>> {
    side.prepare()?;
    let (stop, ready) = (AtomicBool::new(false), Barrier::new(next.len() + 1));
    let records_before: u64 = next[..threads].iter().sum();
    let (before, sent_bytes) = (side.counts(), disk.sent_bytes());
    let worked: Vec<_> = std::thread::scope(|scope| {
        let (stop, ready) = (&stop, &ready);
        let work = |(thread, next): (usize, &mut u64)| {
            let mut meter = Meter { stop, latencies: no_latencies() };
            ready.wait();
            let start = Instant::now();
            *next = side.work(thread, *next, &mut meter);
            (start, Instant::now(), meter.latencies)
        };
        let spawn = |numbered| scope.spawn(move || work(numbered));
        let workers: Vec<_> = next.iter_mut().enumerate().map(spawn).collect();
        ready.wait();
        std::thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
        workers.into_iter().map(|worker| worker.join().expect("no worker panics")).collect()
    });
    let starts = worked.iter().map(|(start, ..)| *start);
    let ends = worked.iter().map(|(_, end, _)| *end);
    let (start, end) = (starts.min().expect("a worker"), ends.max().expect("a worker"));
    for (.., of_worker) in &worked {
        latencies.add(of_worker)?;
    }
    let records_after: u64 = next[..threads].iter().sum();
    let after = side.counts();
    Ok(Turn {
        records: records_after - records_before,
        syncs: after.syncs - before.syncs,
        elapsed: end - start,
        frame_bytes: after.frame_bytes - before.frame_bytes,
        file_bytes: after.file_bytes.saturating_sub(before.file_bytes),
        sent_bytes: disk.sent_bytes() - sent_bytes,
        anonymous_bytes: process::anonymous_bytes(),
    })
}

/// Where the record with this number goes when so many places are used in turn.
pub(crate) fn place(number: u64, places: usize) -> usize {
    usize::try_from(number % places as u64).expect("it is below a usize")
}

/// What each payload begins with: the number of its thread and its own.
pub(crate) const STAMP_BYTES: usize = 16;

/// Makes the payload with this number.
pub(crate) fn stamp(payload: &mut [u8], thread: usize, number: u64) {
    payload[..8].copy_from_slice(&(thread as u64 + 1).to_le_bytes());
    payload[8..16].copy_from_slice(&number.to_le_bytes());
    payload[16..].fill(filler(thread, number));
}

/// The thread and number of a payload, if it is whole.
pub(crate) fn read_stamp(payload: &[u8]) -> Option<(usize, u64)> {
    let filler = |(thread, number)| filler(thread, number);
    let stamp = peek_stamp(payload)?;
    payload[16..].iter().all(|byte| *byte == filler(stamp)).then_some(stamp)
}

/// The same without a look at the rest, for those who are measured and have compared a checksum.
pub(crate) fn peek_stamp(payload: &[u8]) -> Option<(usize, u64)> {
    let field = |at: usize| payload.get(at..at + 8)?.try_into().map(u64::from_le_bytes).ok();
    let (thread, number) = (field(0)?.checked_sub(1)?, field(8)?);
    Some((usize::try_from(thread).ok()?, number))
}

fn filler(thread: usize, number: u64) -> u8 {
    (number.wrapping_mul(31).wrapping_add(thread as u64) & 0xff) as u8 | 1
}
