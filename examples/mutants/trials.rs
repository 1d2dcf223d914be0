//! Trials of one mutant: who finds it, and after how many crashes.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use ackline::simulation::mutants::{Mutant, activate};

use crate::cluster::campaign as cluster;
use crate::sim::campaign::{Campaign, Summary};
use crate::sim::labels::label;
use crate::threads;

/// The mutants of this area are looked for with threads: a run of the simulation has one.
const THREADED: &str = "wake-ups";

/// The mutants of this area are looked for among several replicas.
const REPLICATED: &str = "replication";

/// How many runs of the replicated simulation a trial has: 1 % of what the check script runs.
pub(crate) const RUNS: u64 = 1_000;

/// How many rounds of threads a trial has.
pub(crate) const ROUNDS: u64 = 350;

/// A trial in which no run of the simulation ends for so long hangs: a run takes milliseconds.
const HANG: Duration = Duration::from_secs(60);

/// The runs of a trial have seeds of their own.
const SEEDS_APART: u64 = 1_000_000;

/// What each mutant gets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    pub(crate) trials: u64,
    pub(crate) crashes: u64,
    pub(crate) seed: u64,
}

/// How a mutant was found.
#[derive(Clone, Debug)]
pub(crate) struct Kill {
    pub(crate) label: String,
    /// After how many crashes, rounds of threads or runs of replicas.
    pub(crate) after: u64,
}

/// What came of a trial.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) kill: Option<Kill>,
}

impl Outcome {
    fn killed(label: impl Into<String>, after: u64) -> Self {
        Self { kill: Some(Kill { label: label.into(), after }) }
    }

    pub(crate) fn survived() -> Self {
        Self { kill: None }
    }

    /// The process ended before it could tell.
    pub(crate) fn ended() -> Self {
        Self::killed("process ended", 0)
    }

    /// A line for the process that started this one.
    fn line(&self) -> String {
        match &self.kill {
            Some(Kill { label, after }) => format!("killed\t{after}\t{label}"),
            None => "survived".to_owned(),
        }
    }

    /// Reads such a line; none if it is another one.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        if line == "survived" {
            return Some(Self::survived());
        }
        let (after, label) = line.strip_prefix("killed\t")?.split_once('\t')?;
        Some(Self::killed(label, after.parse().ok()?))
    }
}

/// Whether the threads rather than the simulation look for it.
pub(crate) fn is_threaded(mutant: Mutant) -> bool {
    mutant.area() == THREADED
}

/// Whether it takes several replicas to find it.
pub(crate) fn is_replicated(mutant: Mutant) -> bool {
    mutant.area() == REPLICATED
}

/// Runs some trials in this process, which is there for nothing else, and prints their outcomes.
pub(crate) fn run(mutant: Option<Mutant>, budget: &Budget, numbers: Range<u64>) {
    // What panics is found; its message would only be in the way.
    std::panic::set_hook(Box::new(|_| {}));
    if let Some(mutant) = mutant {
        activate(mutant);
    }
    let seeds = numbers.map(|number| budget.seed.wrapping_add(number * SEEDS_APART));
    if mutant.is_some_and(is_threaded) {
        // They wait more than they work, so they run all at a time.
        let trials: Vec<_> =
            seeds.map(|seed| std::thread::spawn(move || with_threads(seed))).collect();
        for trial in trials {
            let outcome = trial.join().unwrap_or_else(|_| Outcome::killed("panic", 1));
            println!("{}", outcome.line());
        }
        return;
    }
    for seed in seeds {
        let mut outcome = match mutant {
            Some(mutant) if is_replicated(mutant) => with_replicas(seed),
            _ => with_crashes(seed, budget.crashes),
        };
        if mutant.is_none() && outcome.kill.is_none() {
            outcome = with_threads(seed);
        }
        if mutant.is_none() && outcome.kill.is_none() {
            outcome = with_replicas(seed);
        }
        println!("{}", outcome.line());
    }
}

fn with_replicas(seed: u64) -> Outcome {
    let done = AtomicU64::new(0);
    let watch = |runs| done.store(runs, Ordering::Relaxed);
    match cluster::run_all(seed, RUNS, 1, &watch) {
        Ok(_) => Outcome::survived(),
        Err(failure) => Outcome::killed(label(&failure.violation), done.load(Ordering::Relaxed)),
    }
}

fn with_threads(seed: u64) -> Outcome {
    match threads::trial(seed, ROUNDS) {
        Ok(()) => Outcome::survived(),
        Err(stuck) => Outcome::killed(stuck.why, stuck.round),
    }
}

fn with_crashes(seed: u64, crashes: u64) -> Outcome {
    let (done, over) = channel();
    let progress = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&progress);
    std::thread::spawn(move || {
        let watch = |summary: &Summary| counter.store(summary.crashes(), Ordering::Relaxed);
        let outcome = match Campaign::new(seed, crashes).run(&watch) {
            Ok(_) => Outcome::survived(),
            Err(failure) => Outcome::killed(label(&failure.violation), failure.crashes),
        };
        // Nobody listens any more once the trial was given up.
        done.send(outcome).ok();
    });
    let mut before = 0;
    loop {
        match over.recv_timeout(HANG) {
            Ok(outcome) => return outcome,
            Err(RecvTimeoutError::Disconnected) => unreachable!("a campaign catches its panics"),
            Err(RecvTimeoutError::Timeout) => {
                let now = progress.load(Ordering::Relaxed);
                if now == before {
                    return Outcome::killed("hang", now);
                }
                before = now;
            }
        }
    }
}
