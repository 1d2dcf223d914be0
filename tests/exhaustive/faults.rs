//! Every kind of fault at every call of a few workloads.

use std::fmt;

use ackline::simulation::{Counts, Crash, Fault};
use ackline::{Error, Media};

use super::model::Model;
use super::recorder::{Call, Does};
use super::recovery::{Check, Depth, Memory, Recoveries, What};
use super::world::{Op, Step, World};

pub(crate) const FAULTS: [Fault; 5] =
    [Fault::Io, Fault::NoSpace, Fault::Interrupted, Fault::Short, Fault::SyncLost];

/// How many random outcomes of a power cut are looked at behind each fault.
const POWER_CUTS: u64 = 3;

/// A workload with a name.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) name: &'static str,
    steps: Vec<Step>,
}

impl Task {
    pub(crate) fn all() -> [Self; 7] {
        use Op::{
            Ack, Append, AppendBatch, AppendWide, Batch, Commit, CreateGroup, CreateTopic,
            KillAndReopen, Maintain, Poll, Reject, Reopen, Retry, Roll, SeekToEnd, Submit, Sync,
        };
        let used = [CreateTopic, CreateGroup, AppendBatch, Poll];
        let task = |name, ops: &[Op]| {
            let ops = used.iter().chain(ops).flat_map(|op| Step::of(*op));
            Self { name, steps: [Step::Open].into_iter().chain(ops).collect() }
        };
        [
            Self { name: "open a new directory", steps: vec![Step::Open] },
            task("consume", &[Ack, Commit, Poll, Retry, Poll, Batch, Poll, Reject, Sync]),
            task("submit and idle", &[Submit, Submit, Sync, Maintain, Append]),
            task("roll", &[Roll, Roll, Maintain, AppendWide, Poll]),
            task("close and open", &[Append, Reopen, Append, Poll]),
            task("open after a crash", &[Append, AppendWide, KillAndReopen, Append, Poll]),
            task("retention", &[Roll, Roll, SeekToEnd, Maintain, Maintain, Append]),
        ]
    }
}

/// What became of the faults of one kind.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fates {
    /// Calls for which the fault was planned.
    planned: u64,
    pub(crate) struck: u64,
    /// A call answered an error, and the log went on.
    pub(crate) refused: u64,
    pub(crate) poisoned: u64,
    /// The log could not be opened, and could at the next attempt.
    not_opened: u64,
    /// The log was not closed cleanly, and could be opened.
    not_closed: u64,
}

impl Fates {
    pub(crate) fn add(&mut self, other: &Self) {
        self.planned += other.planned;
        self.struck += other.struck;
        self.refused += other.refused;
        self.poisoned += other.poisoned;
        self.not_opened += other.not_opened;
        self.not_closed += other.not_closed;
    }
}

impl fmt::Display for Fates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { planned, struck, refused, poisoned, not_opened, not_closed } = self;
        let without = struck - refused - poisoned - not_opened - not_closed;
        write!(f, "at {planned} calls, struck {struck}: {without} without an error, ")?;
        write!(f, "{refused} refused, {poisoned} poisoned, ")?;
        write!(f, "{not_opened} not opened, {not_closed} not closed")
    }
}

/// Goes through the workloads, and remembers what it has seen.
#[derive(Debug, Default)]
pub(crate) struct FaultSweep {
    memory: Memory,
    pub(crate) recoveries: Recoveries,
}

/// How a run stands.
struct Run {
    world: World,
    call: Call,
    fault: Fault,
    before: Counts,
    fates: Fates,
}

impl FaultSweep {
    /// Runs a workload once for each of its calls, with a fault there.
    pub(crate) fn run(&mut self, media: Media, task: &Task, fault: Fault) -> Result<Fates, String> {
        let mut dry = World::new(media, None);
        for step in &task.steps {
            dry.apply(*step);
        }
        assert!(task.name != "retention" || dry.start() > 0, "retention deletes something");
        let mut fates = Fates::default();
        for call in dry.recorder.calls() {
            let told = format!("{media:?}, {}: {fault:?} at {call:?}", task.name);
            let world = World::new(media, None);
            world.disk.reseed(call.number);
            world.disk.fail_at(call.number, fault);
            let before = world.disk.counts();
            let mut run = Run { world, call, fault, before, fates };
            run.fates.planned += 1;
            self.steps(&mut run, task).map_err(|error| format!("{error}\n{told}"))?;
            fates = run.fates;
        }
        Ok(fates)
    }

    fn steps(&mut self, run: &mut Run, task: &Task) -> Result<(), String> {
        let mut was_struck = false;
        for step in &task.steps {
            if matches!(step, Step::Do(op) if !op.is_possible(&run.world)) {
                continue;
            }
            let ended = run.step(*step)?;
            let struck = run.is_struck();
            if struck && !was_struck {
                self.crash(run).map_err(|error| format!("{error}\nafter {step:?}"))?;
                run.fates.struck += 1;
                was_struck = true;
            }
            if ended {
                return Ok(());
            }
        }
        if was_struck {
            self.crash(run).map_err(|error| format!("{error}\nat the end"))?;
        }
        Ok(())
    }

    /// Ends the process in several ways, and checks every promise on what is left.
    fn crash(&mut self, run: &Run) -> Result<(), String> {
        let (disk, media) = (&run.world.disk, run.world.media);
        let mut crashed = Vec::new();
        for evict in [false, true] {
            let killed = disk.fork();
            killed.kill();
            if evict {
                killed.evict();
            }
            crashed.push((killed, "a kill".to_owned()));
        }
        for survive in [false, true] {
            let cut = disk.fork();
            cut.crash_as(&cut.unsynced().all(survive));
            crashed.push((cut, format!("a power cut that keeps all: {survive}")));
        }
        for seed in 0..POWER_CUTS {
            let cut = disk.fork();
            cut.reseed(seed);
            cut.crash(Crash::Power);
            crashed.push((cut, format!("power cut {seed}")));
        }
        let (model, clock) = (&run.world.model, &run.world.clock);
        for (disk, how) in crashed {
            if !self.memory.is_new(What::State, &disk, model) {
                continue;
            }
            let (memory, done) = (&mut self.memory, &mut self.recoveries);
            let mut check = Check { model, media, clock, memory, done };
            check
                .recover(&disk, Depth::RecoverTwice)
                .map_err(|error| format!("{error}\nafter {how}"))?;
        }
        Ok(())
    }
}

impl Run {
    /// Whether the fault has happened.
    fn is_struck(&self) -> bool {
        let strikes = |counts: &Counts| {
            counts.fault_io
                + counts.fault_no_space
                + counts.fault_interrupted
                + counts.fault_short
                + counts.fault_sync_lost
                + counts.fault_sync_directory
        };
        strikes(&self.world.disk.counts()) > strikes(&self.before)
    }

    /// Whether the promise that a failed write or sync of frames or names ends everything has to
    /// show: not while a log is opened, since there is none yet.
    fn must_poison(&self, step: Step) -> bool {
        let fails = !matches!(self.fault, Fault::Interrupted | Fault::Short);
        let of_log = match self.call.does {
            Does::Write | Does::Sync => is_segment(&self.call.file),
            Does::SyncDirectory => true,
            Does::Look | Does::Change => false,
        };
        fails && of_log && step != Step::Open
    }

    /// Takes a step; answers whether the workload is over.
    fn step(&mut self, step: Step) -> Result<bool, String> {
        let before = self.world.model.clone();
        let was_struck = self.is_struck();
        self.world.plan(step);
        let result = self.world.run(step);
        let strikes_now = self.is_struck() && !was_struck;
        let poisoned = self.world.is_poisoned();
        let poisons = strikes_now && self.must_poison(step);
        match result {
            Ok(()) => self.world.promise(step),
            Err(error) => self.failed(step, &error, strikes_now, before)?,
        }
        if poisons && step != Step::Close && !poisoned {
            return Err("the log goes on after a failed write or sync".to_owned());
        }
        if poisoned {
            self.fates.poisoned += 1;
            let refused = self.world.late_append();
            if !refused.as_ref().is_some_and(|error| matches!(error, Error::Poisoned { .. })) {
                return Err(format!("a poisoned log answers {refused:?}"));
            }
            return Ok(true);
        }
        Ok(false)
    }

    /// An error: it must have a reason and be one that is documented.
    fn failed(
        &mut self,
        step: Step,
        error: &Error,
        strikes_now: bool,
        before: Model,
    ) -> Result<(), String> {
        if !strikes_now {
            return Err(format!("{step:?} fails without a reason: {error:?}"));
        }
        if matches!(self.fault, Fault::Interrupted | Fault::Short) {
            return Err(format!("{step:?} shows what is not an error: {error:?}"));
        }
        if !is_documented(step, error) {
            return Err(format!("{step:?} answers what it does not document: {error:?}"));
        }
        if step == Step::Open {
            self.fates.not_opened += 1;
            let again = self.world.run(step);
            again.map_err(|error| format!("a second open fails, too: {error:?}"))?;
            self.world.promise(step);
        } else if step == Step::Close {
            self.fates.not_closed += 1;
        } else if !self.world.is_poisoned() {
            // Nothing of it is in the log, but what was in hand is not any more.
            self.fates.refused += 1;
            self.world.model = before;
            self.world.give_back_all();
        }
        Ok(())
    }
}

fn is_segment(name: &str) -> bool {
    name.strip_suffix("seg").is_some_and(|stem| stem.ends_with('.'))
}

/// Whether the documentation of a call names an error.
fn is_documented(step: Step, error: &Error) -> bool {
    let (full, io) = (matches!(error, Error::Full { .. }), matches!(error, Error::Io { .. }));
    let poisoned = matches!(error, Error::Poisoned { .. });
    match step {
        Step::Open => full || io,
        Step::Do(Op::Ack | Op::Retry) => poisoned,
        Step::Close | Step::Do(_) => full || io || poisoned,
        Step::Kill => false,
    }
}
