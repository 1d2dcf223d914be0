//! The tree of workloads: every operation after every other, every crash in each.

use std::fmt;

use ackline::Media;
use ackline::simulation::{SimClock, SimDisk};

use super::model::Model;
use super::outcomes::outcomes;
use super::recorder::Lie;
use super::recovery::{Check, Depth, Memory, Recoveries, What};
use super::world::{Op, Step, World};

/// In workloads of up to so many operations each sector is torn in every way, too.
const TORN_OPERATIONS_MAX: usize = 1;

/// Where the workloads begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prelude {
    /// An empty directory.
    Nothing,
    /// A topic, a group, three messages, one of them in a consumer's hands.
    Used,
    /// The same in a segment that is full: the next operation needs another one.
    Full,
}

impl Prelude {
    fn steps(self) -> Vec<Op> {
        let used = [Op::CreateTopic, Op::CreateGroup, Op::AppendBatch, Op::Poll];
        match self {
            Self::Nothing => Vec::new(),
            Self::Used => used.to_vec(),
            Self::Full => used.into_iter().chain([Op::Fill]).collect(),
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) workloads: u64,
    /// Storage calls before which the crash may come.
    pub(crate) calls: u64,
    /// Disks that differ before a crash.
    pub(crate) points: u64,
    pub(crate) rolls: u64,
    /// Outcomes of all crashes.
    pub(crate) outcomes: u64,
    pub(crate) kills: u64,
    /// Of these, disks that had not been seen before with the same promises.
    pub(crate) states: u64,
    /// Subsets of sectors that were left out because there were too many.
    pub(crate) left_out: u64,
    pub(crate) recoveries: Recoveries,
}

/// Goes through workloads, and remembers what it has seen.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    memory: Memory,
    /// Whether sectors are torn, or whole or not there at all.
    tears: bool,
    pub(crate) totals: Totals,
}

impl Sweep {
    /// Crashes the last operation of a workload wherever it can be. An error is a broken promise.
    pub(crate) fn run(
        &mut self,
        media: Media,
        lie: Option<Lie>,
        prelude: Prelude,
        ops: &[Op],
    ) -> Result<(), String> {
        let mut world = World::new(media, lie);
        self.tears = ops.len() <= TORN_OPERATIONS_MAX;
        let mut steps = vec![Step::Open];
        steps.extend(prelude.steps().into_iter().flat_map(Step::of));
        let mut watched = if ops.is_empty() { 0 } else { usize::MAX };
        for (number, op) in ops.iter().enumerate() {
            if number + 1 == ops.len() {
                watched = steps.len();
            }
            steps.extend(Step::of(*op));
        }
        for (number, step) in steps.into_iter().enumerate() {
            if matches!(step, Step::Do(op) if !op.is_possible(&world)) {
                return Ok(());
            }
            if number < watched {
                world.apply(step);
                continue;
            }
            self.totals.workloads += u64::from(number == watched);
            self.watch(&mut world, step).map_err(|error| {
                format!(
                    "{error}
{media:?} {prelude:?} {ops:?}, in {step:?}"
                )
            })?;
        }
        Ok(())
    }

    fn watch(&mut self, world: &mut World, step: Step) -> Result<(), String> {
        world.plan(step);
        let (planned, before) = (world.model.clone(), world.disk.calls());
        world.recorder.start();
        let ran = world.run(step);
        let mut shots = world.recorder.stop();
        ran.map_err(|error| format!("without a crash: {error}"))?;
        self.totals.calls += world.disk.calls() - before;
        world.promise(step);
        let last = shots.pop().expect("the last one is always taken");
        let clock = world.clock.clone();
        for (number, shot) in shots.iter().enumerate() {
            self.crash(shot, &planned, world.media, &clock)
                .map_err(|error| format!("{error}\nbefore change {number}"))?;
        }
        self.crash(&last, &world.model, world.media, &clock)
            .map_err(|error| format!("{error}\nat the end"))?;
        if step != Step::Close && step != Step::Kill {
            self.totals.rolls += world.log().stats().rolls;
        }
        Ok(())
    }

    /// Goes through all that a crash can make of one disk.
    fn crash(
        &mut self,
        disk: &SimDisk,
        model: &Model,
        media: Media,
        clock: &SimClock,
    ) -> Result<(), String> {
        if !self.memory.is_new(What::Point, disk, model) {
            return Ok(());
        }
        self.totals.points += 1;
        let unsynced = disk.unsynced();
        let killed = disk.fork();
        killed.kill();
        self.totals.kills += 1;
        let mut check = Check {
            model,
            media,
            clock,
            memory: &mut self.memory,
            done: &mut self.totals.recoveries,
        };
        if check.memory.is_new(What::State, &killed, model) {
            self.totals.states += 1;
            let checked = check.recover(&killed, Depth::RecoverTwice);
            checked.map_err(|error| format!("{error}\nafter a kill"))?;
        }
        let (outcomes, left_out) = outcomes(unsynced, self.tears);
        self.totals.left_out += left_out;
        for outcome in &outcomes {
            let crashed = disk.fork();
            crashed.crash_as(outcome);
            self.totals.outcomes += 1;
            if !check.memory.is_new(What::State, &crashed, model) {
                continue;
            }
            self.totals.states += 1;
            let extreme = *outcome == unsynced.all(true) || *outcome == unsynced.all(false);
            let depth = if extreme { Depth::RecoverTwice } else { Depth::Recover };
            let checked = check.recover(&crashed, depth);
            checked.map_err(|error| format!("{error}\nafter {outcome:?}"))?;
        }
        Ok(())
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { workloads, calls, points, rolls, outcomes, kills, states, left_out, .. } = self;
        let Recoveries { first, second, used } = self.recoveries;
        writeln!(f, "{workloads:>10} workloads, in which the log rolled {rolls} times")?;
        writeln!(f, "{calls:>10} storage calls before which it crashed")?;
        writeln!(f, "{points:>10} different disks with different promises at those points")?;
        writeln!(f, "{kills:>10} kills")?;
        writeln!(f, "{outcomes:>10} outcomes of power cuts, {left_out} left out for their number")?;
        writeln!(f, "{states:>10} different disks after a crash")?;
        writeln!(f, "{first:>10} recoveries compared with the model")?;
        writeln!(
            f,
            "{second:>10} recoveries after a second crash, in the middle of the first one"
        )?;
        write!(f, "{used:>10} logs used after the recovery")
    }
}
