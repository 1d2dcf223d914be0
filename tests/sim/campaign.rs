//! Many runs, their counts, and the report of a failure.
//!
//! Runs are spread over threads and put together in the order of their seeds, so that a campaign
//! gives the same counts, the same trace and the same failure on any number of them.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, MutexGuard};

use ackline::simulation::Counts;

use super::labels::label;
use super::setup::Setup;
use super::steps::COUNTED;
use super::world::World;
use super::{Checked, Lie, Violation, damage, mix};

/// What some runs did together.
#[derive(Clone, Debug)]
pub(crate) struct Summary {
    pub(crate) runs: u64,
    /// How often each crash outcome and each fault came up.
    pub(crate) counts: Counts,
    /// How often each operation came up.
    pub(crate) operations: BTreeMap<&'static str, u64>,
    /// Recoveries that were compared with the model, and the records in them.
    pub(crate) checked: (u64, u64),
    pub(crate) trace: u64,
}

impl Summary {
    fn new() -> Self {
        Self {
            runs: 0,
            counts: Counts::default(),
            operations: COUNTED.into_iter().map(|what| (what, 0)).collect(),
            checked: (0, 0),
            trace: 0,
        }
    }

    pub(crate) fn crashes(&self) -> u64 {
        self.counts.kill + self.counts.power
    }

    /// Every fault and operation with its count.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.counts.iter().chain(self.operations.iter().map(|(what, count)| (*what, *count)))
    }

    fn of(run: &World) -> Self {
        let mut summary = Self::new();
        summary.runs = 1;
        summary.counts.add(&run.counts);
        summary.checked = run.checked;
        summary.trace = run.trace;
        for (what, count) in &run.tally {
            let known = summary.operations.get_mut(what);
            *known.unwrap_or_else(|| panic!("{what} is missing in the table of what counts")) =
                *count;
        }
        summary
    }

    fn add(&mut self, next: &Self) {
        self.runs += next.runs;
        self.counts.add(&next.counts);
        for (what, count) in &next.operations {
            *self.operations.entry(what).or_default() += count;
        }
        self.checked = (self.checked.0 + next.checked.0, self.checked.1 + next.checked.1);
        self.trace = mix(self.trace, next.trace);
    }
}

/// A run that broke a promise.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) seed: u64,
    pub(crate) violation: String,
    /// How many crashes the campaign had simulated until then.
    pub(crate) crashes: u64,
    lie: Option<Lie>,
}

/// A number of runs.
#[derive(Clone, Debug)]
pub(crate) struct Campaign {
    /// The seed of the first run; each next run has the next one.
    pub(crate) seed: u64,
    /// The runs go on until so many crashes have happened.
    pub(crate) crashes: u64,
    pub(crate) threads: usize,
    pub(crate) lie: Option<Lie>,
}

impl Campaign {
    pub(crate) fn new(seed: u64, crashes: u64) -> Self {
        Self { seed, crashes, threads: 1, lie: None }
    }

    /// Runs all of it; `watch` is told now and then how far it is.
    pub(crate) fn run(&self, watch: &(dyn Fn(&Summary) + Sync)) -> Result<Summary, Failure> {
        let shared = InOrder {
            next: AtomicU64::new(0),
            over: AtomicBool::new(false),
            merged: Mutex::new(Merged {
                summary: Summary::new(),
                waiting: BTreeMap::new(),
                failure: None,
            }),
        };
        if self.threads <= 1 {
            self.work(&shared, watch);
        } else {
            std::thread::scope(|scope| {
                for _ in 0..self.threads {
                    scope.spawn(|| self.work(&shared, watch));
                }
            });
        }
        let merged = shared.merged.into_inner().expect("runs catch their panics");
        merged.failure.map_or(Ok(merged.summary), Err)
    }

    fn work(&self, shared: &InOrder, watch: &(dyn Fn(&Summary) + Sync)) {
        while !shared.over.load(Ordering::Relaxed) {
            let number = shared.next.fetch_add(1, Ordering::Relaxed);
            let seed = self.seed.wrapping_add(number);
            let (world, result) = run(seed, self.lie, &BTreeSet::new(), None);
            let outcome = (Summary::of(&world), result.err());
            drop(world);
            let mut merged = shared.lock();
            merged.waiting.insert(number, outcome);
            if merged.go_on(self) {
                shared.over.store(true, Ordering::Relaxed);
            }
            watch(&merged.summary);
        }
    }
}

/// Runs that are done, put together in the order of their numbers.
struct InOrder {
    next: AtomicU64,
    over: AtomicBool,
    merged: Mutex<Merged>,
}

struct Merged {
    summary: Summary,
    /// Runs that are done before one with a lower number is.
    waiting: BTreeMap<u64, (Summary, Option<Violation>)>,
    failure: Option<Failure>,
}

impl InOrder {
    fn lock(&self) -> MutexGuard<'_, Merged> {
        self.merged.lock().expect("runs catch their panics")
    }
}

impl Merged {
    /// Takes in the runs whose turn it is; answers whether the campaign is over.
    fn go_on(&mut self, campaign: &Campaign) -> bool {
        while self.failure.is_none() && self.summary.crashes() < campaign.crashes {
            let number = self.summary.runs;
            let Some((summary, violation)) = self.waiting.remove(&number) else { return false };
            self.summary.add(&summary);
            self.failure = violation.map(|Violation(violation)| Failure {
                seed: campaign.seed.wrapping_add(number),
                violation,
                crashes: self.summary.crashes(),
                lie: campaign.lie,
            });
        }
        true
    }
}

/// Runs one seed, but for the operations in `skip`, and tells `notes` of each step.
fn run(
    seed: u64,
    lie: Option<Lie>,
    skip: &BTreeSet<usize>,
    notes: Option<Sender<String>>,
) -> (World, Checked) {
    let mut world = World::new(Setup::draw(seed, lie), notes);
    let damaged = lie.is_none() && damage::is_drawn(seed);
    let caught = catch_unwind(AssertUnwindSafe(|| {
        if damaged { damage::run(&mut world, skip) } else { world.run(skip) }
    }));
    let result = caught.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(Violation(format!("panic: {}", text.unwrap_or_default())))
    });
    world.counts.add(&world.disk.counts());
    world.trace = mix(world.trace, world.disk.trace_hash());
    (world, result)
}

/// What the run of a seed does, line by line, each as soon as it happens: a run that hangs is told
/// up to there.
pub(crate) fn history(seed: u64) -> impl Iterator<Item = String> {
    let (notes, lines) = channel();
    std::thread::spawn(move || tell(seed, None, &BTreeSet::new(), &notes));
    lines.into_iter()
}

/// Tells all that the run does, and what it comes to.
fn tell(seed: u64, lie: Option<Lie>, skip: &BTreeSet<usize>, notes: &Sender<String>) {
    let (world, result) = run(seed, lie, skip, Some(notes.clone()));
    drop(world);
    if let Err(Violation(violation)) = result {
        notes.send(format!("=> {violation}")).expect("who listens does so to the end");
    }
}

impl Failure {
    /// The history of the run without the operations that are not needed to break the same promise.
    pub(crate) fn shortest_history(&self) -> Vec<String> {
        let mut skip = BTreeSet::new();
        let ops = Setup::draw(self.seed, self.lie).ops;
        let silent = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        loop {
            let before = skip.len();
            for op in (0..ops).rev() {
                if skip.insert(op) && !self.is_shown_without(&skip) {
                    skip.remove(&op);
                }
            }
            // Once nothing more can go, every operation that is left is needed.
            if skip.len() == before {
                break;
            }
        }
        std::panic::set_hook(silent);
        let (notes, lines) = channel();
        tell(self.seed, self.lie, &skip, &notes);
        drop(notes);
        lines.into_iter().collect()
    }

    /// Whether the run breaks the same promise without some of its operations. Another one would be
    /// another history than what was asked for.
    fn is_shown_without(&self, skip: &BTreeSet<usize>) -> bool {
        let (_, result) = run(self.seed, self.lie, skip, None);
        result.is_err_and(|Violation(violation)| label(&violation) == label(&self.violation))
    }
}
