//! Many runs, their counts, and the report of a failure.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::world::World;
use super::{Checked, Violation, mix};

/// All that can happen in a run, and is counted.
pub(crate) const HAPPENINGS: [&str; 48] = [
    "start",
    "start failed",
    "campaign",
    "led",
    "kill",
    "power cut",
    "poisoned",
    "disk fault",
    "partition",
    "one-way cut",
    "heal",
    "message delivered",
    "message lost",
    "message doubled",
    "message overtaken",
    "message cut off",
    "message straggling",
    "stale word",
    "inherited",
    "stale ack",
    "long tail",
    "death in a step",
    "death in recovery",
    "truncation",
    "snapshot",
    "segment deleted",
    "submit",
    "acknowledged",
    "fenced",
    "unavailable",
    "replica timeout",
    "append poisoned",
    "group",
    "delivered",
    "delivery failed",
    "dropped",
    "retried",
    "released",
    "acked",
    "outcome refused",
    "committed",
    "committed through",
    "commit refused",
    "read",
    "read of a follower",
    "two leaders at a time",
    "leader changed",
    "redelivered",
];

/// What runs have done.
#[derive(Clone, Debug, Default)]
pub(crate) struct Summary {
    pub(crate) runs: u64,
    pub(crate) tally: BTreeMap<&'static str, u64>,
    /// Records that were acknowledged, and acknowledgements of groups that were committed.
    pub(crate) checked: (u64, u64),
    /// The same whatever the number of threads.
    pub(crate) trace: u64,
}

impl Summary {
    fn add(&mut self, world: &World, seed: u64) {
        self.runs += 1;
        for (what, count) in &world.tally {
            *self.tally.entry(what).or_default() += count;
        }
        let net = &world.net.counts;
        for (what, count) in [
            ("message delivered", net.delivered),
            ("message lost", net.lost),
            ("message doubled", net.doubled),
            ("message overtaken", net.reordered),
            ("message cut off", net.cut),
            ("message straggling", net.stragglers),
        ] {
            *self.tally.entry(what).or_default() += count;
        }
        let (records, acks) = world.model.totals();
        self.checked = (self.checked.0 + records, self.checked.1 + acks);
        // Order does not matter, so that threads may take turns as they like.
        self.trace = self.trace.wrapping_add(mix(seed, world.trace));
    }
}

/// A run that broke a promise.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) seed: u64,
    pub(crate) violation: String,
}

/// Runs so many seeds from `seed` on; `watch` is told how many are done.
pub(crate) fn run_all(
    seed: u64,
    runs: u64,
    threads: usize,
    watch: &(dyn Fn(u64) + Sync),
) -> Result<Summary, Failure> {
    let next = AtomicU64::new(0);
    let over = AtomicBool::new(false);
    let merged = Mutex::new((Summary::default(), None::<Failure>));
    let work = || {
        while !over.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= runs {
                return;
            }
            let seed = seed.wrapping_add(number);
            let (world, result) = run(seed, false);
            let mut merged = merged.lock().unwrap_or_else(PoisonError::into_inner);
            merged.0.add(&world, seed);
            if let Err(Violation(violation)) = result {
                over.store(true, Ordering::Relaxed);
                // Of several at a time, the first one is told.
                if merged.1.as_ref().is_none_or(|known| seed < known.seed) {
                    merged.1 = Some(Failure { seed, violation });
                }
            }
            watch(merged.0.runs);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    let (summary, failure) = merged.into_inner().unwrap_or_else(PoisonError::into_inner);
    failure.map_or(Ok(summary), Err)
}

fn run(seed: u64, verbose: bool) -> (World, Checked) {
    let mut world = World::new(seed, verbose);
    let caught = catch_unwind(AssertUnwindSafe(|| world.run()));
    let result = caught.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(Violation(format!("panic: {}", text.unwrap_or_default())))
    });
    (world, result)
}

/// What the run of a seed does, line by line.
pub(crate) fn history(seed: u64) -> Vec<String> {
    let (world, result) = run(seed, true);
    let mut history = vec![format!("{:?}", world.setup)];
    history.extend(world.notes.unwrap_or_default());
    if let Err(Violation(violation)) = result {
        history.push(format!("=> {violation}"));
    }
    history
}
