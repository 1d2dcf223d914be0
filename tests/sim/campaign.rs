//! Many runs, their counts, and the report of a failure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

use ackline::simulation::{Counts, Rng};

use super::model::Loss;
use super::setup::Setup;
use super::world::World;
use super::{Checked, Lie, Violation, damage, mix};

/// What many runs did together.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    pub(crate) runs: u64,
    pub(crate) counts: Counts,
    pub(crate) tally: BTreeMap<&'static str, u64>,
    pub(crate) trace: u64,
}

impl Summary {
    pub(crate) fn crashes(&self) -> u64 {
        self.counts.kill + self.counts.power
    }

    pub(crate) fn tallied(&self, what: &str) -> u64 {
        self.tally.get(what).copied().unwrap_or(0)
    }

    fn add(&mut self, run: &World) {
        self.runs += 1;
        self.counts.add(&run.counts);
        for (what, count) in &run.tally {
            *self.tally.entry(what).or_default() += count;
        }
        self.trace = mix(self.trace, run.trace);
    }
}

/// A run that broke a promise.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) seed: u64,
    pub(crate) violation: String,
    pub(crate) history: Vec<String>,
    pub(crate) crashes: u64,
}

/// Runs seeds from `seed` on until so many crashes have happened.
pub(crate) fn campaign(seed: u64, crashes: u64, lie: Option<Lie>) -> Result<Summary, Failure> {
    let mut summary = Summary::default();
    while summary.crashes() < crashes {
        let seed = seed.wrapping_add(summary.runs);
        let (world, result) = run(seed, lie, &BTreeSet::new(), false);
        summary.add(&world);
        if let Err(Violation(violation)) = result {
            let history = shorten(seed, lie, world.setup.ops);
            return Err(Failure { seed, violation, history, crashes: summary.crashes() });
        }
    }
    Ok(summary)
}

/// Runs one seed, but for the operations in `skip`.
fn run(seed: u64, lie: Option<Lie>, skip: &BTreeSet<usize>, verbose: bool) -> (World, Checked) {
    let mut world = World::new(Setup::draw(seed, lie), verbose);
    let damaged = lie.is_none() && damage::is_drawn(seed);
    let caught = catch_unwind(AssertUnwindSafe(|| {
        if damaged { damage::run(&mut world) } else { world.run(skip) }
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

/// Leaves out what is not needed to break the promise; returns the history that is left.
fn shorten(seed: u64, lie: Option<Lie>, ops: usize) -> Vec<String> {
    let mut skip = BTreeSet::new();
    let silent = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    for _ in 0..2 {
        for op in (0..ops).rev() {
            if skip.insert(op) && run(seed, lie, &skip, false).1.is_ok() {
                skip.remove(&op);
            }
        }
    }
    let (world, result) = run(seed, lie, &skip, true);
    std::panic::set_hook(silent);
    let mut history = vec![format!("{:?}", world.setup)];
    history.extend(world.notes.unwrap_or_default());
    if let Err(Violation(violation)) = result {
        history.push(format!("=> {violation}"));
    }
    history
}

impl World {
    fn run(&mut self, skip: &BTreeSet<usize>) -> Checked {
        let seed = self.setup.seed;
        let mut rng = Rng::new(mix(seed, 2));
        self.open(&mut rng, Loss::Power)?;
        for op in 0..self.setup.ops {
            if skip.contains(&op) {
                continue;
            }
            // Each operation has its own numbers, so that leaving one out changes no other.
            let mut rng = Rng::new(mix(seed, 1000 + op as u64));
            self.disk.reseed(rng.next_u64());
            self.step(&mut rng)?;
            self.after(&mut rng)?;
        }
        let mut rng = Rng::new(mix(seed, 3));
        self.crash(&mut rng)?;
        self.check_fork(&mut rng, true)
    }

    fn step(&mut self, rng: &mut Rng) -> Checked {
        if self.model.topics.is_empty() {
            return self.create_topic(rng);
        }
        if self.model.groups.is_empty() && rng.chance(1, 2) {
            return self.create_group(rng);
        }
        match rng.below(100) {
            0..3 => self.create_topic(rng),
            3..7 => self.create_group(rng),
            7..20 => self.append(rng, false),
            20..27 => self.submit(rng),
            27..33 => self.append_batch(rng),
            33..36 => self.append(rng, true),
            36..42 => self.batch(rng),
            42..55 => self.poll(rng),
            55..67 => self.settle(rng),
            67..69 => self.ack_offset(rng),
            69..73 => self.commit(rng),
            73..75 => self.commit_through(rng),
            75..77 => self.seek(rng),
            77..79 => self.look(rng),
            79..80 => self.read(rng),
            80..81 => self.offset_at(rng),
            81..85 => {
                self.advance(rng);
                Ok(())
            }
            85..89 => self.maintain(),
            89..90 => self.sync(),
            90..92 => self.wait_for_submit(rng),
            92..94 => self.close_and_reopen(rng),
            94..95 => self.drop_and_reopen(rng),
            95..97 => self.crash(rng),
            97..98 => {
                self.change_capacity(rng);
                Ok(())
            }
            98..99 => {
                self.plan_fault(rng);
                Ok(())
            }
            _ => {
                let call = self.disk.calls() + rng.below(15);
                self.note(|| format!("  die at call {call}"));
                self.disk.die_at(call);
                Ok(())
            }
        }
    }

    /// Sees what became of an operation.
    fn after(&mut self, rng: &mut Rng) -> Checked {
        self.take_in()?;
        if self.dead() {
            self.note(|| "  died".to_owned());
            return self.crash(rng);
        }
        let live = self.live();
        if live.poisoned || live.log.stats().poisoned {
            live.poisoned = true;
            if rng.chance(1, 3) {
                return if rng.chance(1, 2) { self.crash(rng) } else { self.drop_and_reopen(rng) };
            }
        }
        if rng.chance(1, 12) {
            self.check_fork(rng, false)?;
        }
        Ok(())
    }

    /// Fills the disk, or makes room again.
    fn change_capacity(&mut self, rng: &mut Rng) {
        self.tight = !self.tight && rng.chance(2, 3);
        let used: usize =
            self.disk.names().iter().filter_map(|name| self.disk.file(name)).map(|f| f.len()).sum();
        let room = rng.below(3 * self.setup.segment_bytes / 2);
        let capacity = self.tight.then(|| used as u64 + room);
        self.note(|| format!("capacity {capacity:?}"));
        self.count(if self.tight { "disk_full" } else { "disk_roomy" });
        self.disk.set_capacity(capacity);
    }
}

/// The counts as text, one per line.
pub(crate) fn report(summary: &Summary) -> String {
    let mut text = String::new();
    for (what, count) in summary.counts.iter() {
        writeln!(text, "  {what:<16} {count:>10}").expect("a string takes everything");
    }
    text.push_str("operations:\n");
    for (what, count) in &summary.tally {
        writeln!(text, "  {what:<16} {count:>10}").expect("a string takes everything");
    }
    text
}
