//! Runs the sides of a comparison in turns, and keeps what each did.

use std::error::Error;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long and how often each side is measured.
pub(crate) struct Plan {
    pub(crate) time: Duration,
    pub(crate) rounds: usize,
}

/// One side of a comparison.
pub(crate) trait Side: Sync {
    /// Writes the records of a thread from the number `first` on until told to stop; returns
    /// the number after the last one that was acknowledged.
    fn work(&self, thread: usize, first: u64, stop: &AtomicBool) -> u64;
    /// How many syncs were done so far.
    fn syncs(&self) -> u64;
    /// Reads everything back, given the number of records of each thread.
    fn verify(&self, acknowledged: &[u64]) -> Result<(), String>;
}

/// Sides take turns this long. Short turns let both sides of a round see the same machine, even
/// where its speed changes from one second to the next.
pub(crate) const TURN: Duration = Duration::from_millis(70);

/// What a side did in one turn.
#[derive(Clone, Copy)]
pub(crate) struct Turn {
    pub(crate) records: u64,
    pub(crate) syncs: u64,
    pub(crate) elapsed: Duration,
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
fn number(count: u64) -> f64 {
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

/// Lets the sides take turns, every other turn in reverse, and verifies them at the end. Returns
/// the rounds of each side.
pub(crate) fn in_turns(
    sides: &[&dyn Side],
    threads: usize,
    payload_bytes: usize,
    plan: &Plan,
) -> Result<Vec<Vec<Vec<Turn>>>, Box<dyn Error>> {
    assert!(payload_bytes >= STAMP_BYTES, "a payload holds its own number");
    let mut next = vec![vec![0; threads]; sides.len()];
    let turns = plan.time.as_millis().div_ceil(TURN.as_millis()).max(1);
    let turns = usize::try_from(turns)?;
    for (side, next) in sides.iter().zip(&mut next) {
        // The first turn only warms up: files, caches, threads of the system.
        run(*side, next, TURN);
    }
    let mut measured = vec![vec![Vec::new(); plan.rounds]; sides.len()];
    for turn in 0..plan.rounds * turns {
        for i in 0..sides.len() {
            let i = if turn % 2 == 0 { i } else { sides.len() - 1 - i };
            let done = run(sides[i], &mut next[i], plan.time / u32::try_from(turns)?);
            measured[i][turn / turns].push(done);
        }
    }
    for (side, next) in sides.iter().zip(&next) {
        side.verify(next)?;
    }
    Ok(measured)
}

fn run(side: &dyn Side, next: &mut [u64], time: Duration) -> Turn {
    let (stop, ready) = (AtomicBool::new(false), Barrier::new(next.len() + 1));
    let (before, syncs_before): (u64, _) = (next.iter().sum(), side.syncs());
    let elapsed = std::thread::scope(|scope| {
        for (thread, next) in next.iter_mut().enumerate() {
            let (stop, ready) = (&stop, &ready);
            scope.spawn(move || {
                ready.wait();
                *next = side.work(thread, *next, stop);
            });
        }
        ready.wait();
        let start = Instant::now();
        std::thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
        start
    })
    .elapsed();
    let after: u64 = next.iter().sum();
    Turn { records: after - before, syncs: side.syncs() - syncs_before, elapsed }
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
    let field = |at: usize| payload[at..at + 8].try_into().map(u64::from_le_bytes).ok();
    let (thread, number) = (field(0)?.checked_sub(1)?, field(8)?);
    let thread = usize::try_from(thread).ok()?;
    let filler = filler(thread, number);
    payload[16..].iter().all(|byte| *byte == filler).then_some((thread, number))
}

fn filler(thread: usize, number: u64) -> u8 {
    (number.wrapping_mul(31).wrapping_add(thread as u64) & 0xff) as u8 | 1
}
