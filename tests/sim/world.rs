//! The running log, and what its errors mean.

mod actors;
mod state;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use ackline::simulation::{Call, Clock, Counts, Fault, Rng, SimClock, SimDisk, Storage};
use ackline::{Error, Group, Log, Stats, Topic};

pub(crate) use self::actors::{Actor, Answer, Hand, Submitted, Task, Waiting, is_done};
use super::lying::LyingStorage;
use super::model::{Model, Msg, Slot};
use super::setup::{PAYLOAD_MAX, Setup, TAGS};
use super::{Checked, ensure, mix, violation};

/// The process that runs.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) log: Log,
    pub(crate) storage: Arc<dyn Storage>,
    /// By their numbers in the model.
    pub(crate) topics: Vec<Topic>,
    pub(crate) groups: Vec<Group>,
    pub(crate) actors: Vec<Actor>,
    pub(crate) poisoned: bool,
    /// What the log said of itself last.
    pub(crate) stats: Stats,
    /// How many messages the log held when it was opened.
    pub(crate) messages_before: u64,
    /// The first offset of each topic that was there last.
    pub(crate) starts: Vec<u64>,
    /// How many bytes had been written when an append found room last.
    pub(crate) appended_at: Option<u64>,
    /// The clock's time up to which each group was moved by a seek is not kept: a seek makes
    /// all tokens before this one stale.
    pub(crate) valid_from: BTreeMap<usize, u64>,
}

/// The calls whose failures are worth planning by name: the steps of protocols.
const STEPS: [Call; 7] = [
    Call::Sync,
    Call::SyncDirectory,
    Call::SyncDirectory,
    Call::Rename,
    Call::Remove,
    Call::Create,
    Call::SetSize,
];

/// Which faults have been planned, and what has struck.
#[derive(Clone, Debug, Default)]
pub(crate) struct FaultWatch {
    /// What had struck when the process began.
    began: Counts,
    /// What has struck and been answered for: it excuses nothing any more.
    answered: Counts,
    /// A want of space was planned. What had none at the capacity of the disk is another matter.
    no_space: bool,
}

impl FaultWatch {
    pub(crate) fn at(disk: &SimDisk) -> Self {
        Self { began: disk.counts(), answered: disk.counts(), no_space: false }
    }

    /// Whatever has struck was answered for.
    pub(crate) fn answer(&mut self, disk: &SimDisk) {
        self.answered = disk.counts();
    }

    pub(crate) fn plan(&mut self, disk: &SimDisk, call: u64, fault: Fault) {
        disk.fail_at(call, fault);
        self.no_space |= fault == Fault::NoSpace;
    }

    /// Plans a fault for one of the next `calls` calls, or for the next one of some kind; says
    /// which.
    pub(crate) fn plan_soon(
        &mut self,
        disk: &SimDisk,
        rng: &mut Rng,
        calls: u64,
        fault: Fault,
    ) -> String {
        if rng.chance(1, 2) {
            let call = disk.calls() + rng.below(calls);
            self.plan(disk, call, fault);
            return format!("call {call}");
        }
        let call = STEPS[rng.index(STEPS.len())];
        self.plan_next(disk, call, fault);
        format!("the next {call:?}")
    }

    /// Plans a fault for the next call of some kind.
    pub(crate) fn plan_next(&mut self, disk: &SimDisk, call: Call, fault: Fault) {
        self.no_space |= fault == Fault::NoSpace;
        disk.fail_next(call, fault);
    }

    /// Whether a fault has struck that a call may fail for, and that none has failed for yet.
    pub(crate) fn struck(&self, disk: &SimDisk) -> bool {
        self.struck_since(&self.answered, disk)
    }

    /// Whether one has struck since the process began.
    fn struck_ever(&self, disk: &SimDisk) -> bool {
        self.struck_since(&self.began, disk)
    }

    fn struck_since(&self, then: &Counts, disk: &SimDisk) -> bool {
        let now = disk.counts();
        now.fault_io > then.fault_io
            || now.fault_sync_lost > then.fault_sync_lost
            || now.fault_sync_directory > then.fault_sync_directory
            || (self.no_space && now.fault_no_space > then.fault_no_space)
    }

    /// Whether space was wanting that no call has failed for yet.
    fn lacked_space(&self, disk: &SimDisk) -> bool {
        disk.counts().fault_no_space > self.answered.fault_no_space
    }

    /// Whether space was ever wanting since the process began.
    fn lacked_space_ever(&self, disk: &SimDisk) -> bool {
        disk.counts().fault_no_space > self.began.fault_no_space
    }
}

/// How the last process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Nobody tried to close the log.
    Open,
    /// It was closed, or not: closing failed.
    Maybe,
    Closed,
}

/// One run.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) setup: Rc<Setup>,
    pub(crate) disk: SimDisk,
    pub(crate) clock: SimClock,
    pub(crate) model: Model,
    pub(crate) live: Option<Live>,
    pub(crate) watch: FaultWatch,
    pub(crate) tight: bool,
    pub(crate) counts: Counts,
    pub(crate) tally: BTreeMap<&'static str, u64>,
    /// Recoveries that were compared with the model, and the records in them.
    pub(crate) checked: (u64, u64),
    pub(crate) trace: u64,
    /// Whoever listens to what happens.
    pub(crate) notes: Option<Sender<String>>,
    pub(crate) next_token: u64,
    next_message: u64,
    /// Which of the actors acts.
    pub(crate) acting: usize,
    pub(crate) ended: Ended,
    /// It is a copy of a world, to see what could have become of it.
    pub(crate) is_branch: bool,
    /// The position below which segments may have been deleted for the size of the log.
    pub(crate) deleted_for_size: u64,
}

/// How a failed call left the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failed {
    /// Nothing was queued.
    Refused,
    /// It may be in the log or not.
    Unknown,
}

impl World {
    pub(crate) fn new(setup: Setup, notes: Option<Sender<String>>) -> Self {
        let disk = SimDisk::new(mix(setup.seed, 1));
        disk.set_sector_mode(setup.sectors());
        Self {
            setup: Rc::new(setup),
            disk,
            clock: SimClock::new(),
            model: Model::at(SimClock::new().wall_ms()),
            live: None,
            watch: FaultWatch::default(),
            tight: false,
            counts: Counts::default(),
            tally: BTreeMap::new(),
            checked: (0, 0),
            trace: 0,
            notes,
            next_token: 1,
            next_message: 0,
            acting: 0,
            ended: Ended::Open,
            is_branch: false,
            deleted_for_size: u64::MAX,
        }
    }

    /// What could become of this world, on a copy of its disk.
    pub(crate) fn branch(&mut self, disk: SimDisk) -> Self {
        let clock = SimClock::new();
        clock.advance(self.clock.monotonic());
        Self {
            setup: Rc::clone(&self.setup),
            disk,
            clock,
            model: self.model.clone(),
            live: None,
            watch: FaultWatch::default(),
            counts: Counts::default(),
            tally: BTreeMap::new(),
            checked: (0, 0),
            trace: 0,
            notes: self.notes.take(),
            is_branch: true,
            ..*self
        }
    }

    /// Takes over what a branch has counted.
    pub(crate) fn absorb(&mut self, branch: Self) {
        self.counts.add(&branch.counts);
        self.counts.add(&branch.disk.counts());
        for (what, count) in branch.tally {
            *self.tally.entry(what).or_default() += count;
        }
        self.checked = (self.checked.0 + branch.checked.0, self.checked.1 + branch.checked.1);
        self.trace = mix(mix(self.trace, branch.trace), branch.disk.trace_hash());
        self.notes = branch.notes;
    }

    /// Tells whoever listens to the history, if anybody does.
    pub(crate) fn note(&self, line: impl FnOnce() -> String) {
        if let Some(notes) = &self.notes {
            notes.send(line()).expect("who listens does so to the end");
        }
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        *self.tally.entry(what).or_default() += 1;
    }

    /// Counts what a recovery was compared with.
    pub(crate) fn count_checked(&mut self, records: u64) {
        self.checked.0 += 1;
        self.checked.1 += records;
    }

    pub(crate) fn live(&mut self) -> &mut Live {
        self.live.as_mut().expect("a process runs")
    }

    /// The one of the actors who acts.
    pub(crate) fn actor(&mut self) -> &mut Actor {
        let acting = self.acting;
        &mut self.live().actors[acting]
    }

    pub(crate) fn poisoned(&self) -> bool {
        self.live.as_ref().is_some_and(|live| live.log.stats().poisoned)
    }

    pub(crate) fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    /// The disk as the log is to see it.
    pub(crate) fn storage_of(&self, disk: &SimDisk) -> Arc<dyn Storage> {
        let inner = disk.storage();
        match self.setup.lie {
            Some(lie) => Arc::new(LyingStorage { inner, lie }),
            None => inner,
        }
    }

    /// Whether the process has been killed in the middle of a call.
    pub(crate) fn dead(&self) -> bool {
        self.live.as_ref().is_some_and(|live| live.storage.free_bytes().is_err())
    }

    pub(crate) fn plan_fault(&mut self, rng: &mut Rng) {
        const FAULTS: [Fault; 6] = [
            Fault::Io,
            Fault::NoSpace,
            Fault::Interrupted,
            Fault::Short,
            Fault::SyncLost,
            Fault::Interrupted,
        ];
        let fault = FAULTS[rng.index(FAULTS.len())];
        let when = self.watch.plan_soon(&self.disk, rng, 12, fault);
        self.note(|| format!("  plan {fault:?} at {when}"));
    }

    pub(crate) fn struck(&self) -> bool {
        self.watch.struck(&self.disk)
    }

    /// Whether a fault has struck in the life of this process.
    pub(crate) fn struck_ever(&self) -> bool {
        self.watch.struck_ever(&self.disk)
    }

    /// Whether space was wanting as it was planned, and that is not answered for yet.
    fn lacked_space_by_plan(&self) -> bool {
        self.watch.no_space && self.watch.lacked_space(&self.disk)
    }

    /// Whether space was wanting in the life of this process.
    pub(crate) fn lacked_space_ever(&self) -> bool {
        self.watch.lacked_space_ever(&self.disk)
    }

    /// What the error of a call means that writes or delivers, or that there is no reason for it.
    pub(crate) fn failed(&mut self, call: &str, error: &Error) -> Checked<Failed> {
        self.note(|| format!("  {call}: {error}"));
        if self.dead() {
            return Ok(Failed::Unknown);
        }
        let (was_poisoned, failed) = (self.live().poisoned, self.explain_failure(call, error)?);
        // What struck has its answer; the next failure is to have a reason of its own.
        if !was_poisoned {
            self.watch.answer(&self.disk);
        }
        Ok(failed)
    }

    fn explain_failure(&mut self, call: &str, error: &Error) -> Checked<Failed> {
        let was_poisoned = self.live().poisoned;
        if self.check_poisoned(call)? {
            let right = matches!(error, Error::Poisoned { .. });
            ensure!(right, "{call} of a poisoned log answers {error:?}");
            return Ok(if was_poisoned { Failed::Refused } else { Failed::Unknown });
        }
        let (struck, lacked_space) = (self.struck(), self.watch.lacked_space(&self.disk));
        match error {
            Error::Full { .. } if self.tight || self.setup.max_bytes.is_some() || lacked_space => {
                self.check_reserve(call)?;
                Ok(Failed::Refused)
            }
            // A batch may be larger than any segment that the limit allows for.
            Error::TooLarge { what: "segment for the batch", .. }
                if self.setup.max_bytes.is_some() =>
            {
                Ok(Failed::Refused)
            }
            Error::Io { .. } if struck => Ok(Failed::Refused),
            _ => violation!("{call} failed without a reason: {error} ({error:?})"),
        }
    }

    /// What the error of a call means that reads: it may go on where the log is poisoned.
    pub(crate) fn failed_to_read(&mut self, call: &str, error: &Error) -> Checked {
        let poisoned = !self.dead() && self.check_poisoned(call)?;
        // What commits do not wait for is shown before it is synced. Where the sync then fails, the
        // cache may lose what was shown.
        let gone = matches!(error, Error::Corrupt { .. }) && !self.setup.syncs();
        let failed = matches!(error, Error::Io { .. }) && self.struck();
        if poisoned && (gone || failed) {
            self.note(|| format!("  {call}: {error}"));
            self.watch.answer(&self.disk);
            return Ok(());
        }
        ensure!(!poisoned, "{call} of a poisoned log answers {error:?}");
        self.failed(call, error).map(|_| ())
    }

    /// Whether the log is poisoned, which needs a reason and lasts.
    pub(crate) fn check_poisoned(&mut self, call: &str) -> Checked<bool> {
        let struck = self.struck();
        let live = self.live();
        let was_poisoned = std::mem::replace(&mut live.poisoned, live.log.stats().poisoned);
        let poisoned = live.poisoned;
        ensure!(poisoned || !was_poisoned, "the log was poisoned and is not any more");
        ensure!(!poisoned || was_poisoned || struck, "{call} poisoned the log without a fault");
        Ok(poisoned)
    }

    /// After a failure the log answers nothing but that: checked for calls that were answered in
    /// any other way.
    pub(crate) fn succeeded(&mut self, call: &str) -> Checked {
        let poisoned = self.live().poisoned;
        ensure!(!poisoned, "a poisoned log answered {call} as if it were not");
        Ok(())
    }

    pub(crate) fn draw_message(&mut self, rng: &mut Rng) -> Rc<Msg> {
        self.next_message += 1;
        let size = match rng.below(16) {
            0 => 0,
            1 => rng.index(PAYLOAD_MAX + 1),
            2 | 3 => rng.index(700),
            4 => self.brim(rng),
            _ => rng.index(100),
        };
        let mut payload = vec![0; size];
        rng.fill(&mut payload);
        let number = self.next_message.to_le_bytes();
        let stamped = payload.len().min(number.len());
        payload[..stamped].copy_from_slice(&number[..stamped]);
        let mut headers = Vec::new();
        if rng.chance(1, 5) {
            for _ in 0..=rng.index(2) {
                headers.push((
                    format!("h{}", rng.below(3)),
                    rng.below(1 << 20).to_string().into_bytes(),
                ));
            }
        }
        let now = self.clock.wall_ms();
        let timed = rng.chance(1, 10);
        Rc::new(Msg {
            payload,
            key: rng.chance(1, 3).then(|| format!("k{}", rng.below(4)).into_bytes()),
            tag: rng.chance(1, 2).then(|| TAGS[rng.index(TAGS.len())]),
            headers,
            time_ms: if timed { now - rng.below(60_000) } else { now },
            timed,
        })
    }

    /// About as many bytes as just fit into the active segment, or just do not.
    fn brim(&self, rng: &mut Rng) -> usize {
        let Some((name, bytes)) = self.segments().pop() else { return 0 };
        let head = self.disk.file(&name).unwrap_or_default();
        // `docs/format.md` has where a head says how large the checkpoint behind it is.
        let checkpoint = head.get(68..72).and_then(|field| field.try_into().ok());
        let frames_at =
            128 + u32::from_le_bytes(checkpoint.unwrap_or_default()).div_ceil(512) * 512;
        let base: u64 = name.strip_suffix(".seg").and_then(|base| base.parse().ok()).unwrap_or(0);
        let written = self.live.as_ref().map_or(base, |live| live.log.stats().written.0);
        let left = bytes.saturating_sub(u64::from(frames_at) + written.saturating_sub(base));
        let beside = 100 + if rng.chance(1, 2) { rng.below(1500) } else { rng.below(200) };
        usize::try_from(left.saturating_sub(beside))
            .map_or(PAYLOAD_MAX, |size| size.min(PAYLOAD_MAX))
    }

    /// The topics that the run has planned and created, not those of dead letters.
    pub(crate) fn draw_topic(&self, rng: &mut Rng) -> Option<usize> {
        let topics = &self.model.topics;
        let plain = |topic: &usize| !topics[*topic].name.contains('.');
        // One whose creation failed has no handle.
        let open = self.live.as_ref().map_or(0, |live| live.topics.len());
        let own: Vec<usize> = (0..open).filter(plain).collect();
        if own.is_empty() { None } else { Some(own[rng.index(own.len())]) }
    }

    pub(crate) fn draw_group(&self, rng: &mut Rng) -> Option<usize> {
        let groups = self.live.as_ref().map_or(0, |live| live.groups.len());
        (groups > 0).then(|| rng.index(groups))
    }

    /// Opens handles for topics that dead letters have made.
    pub(crate) fn open_new_topics(&mut self) -> Checked {
        loop {
            let known = self.live().topics.len();
            let Some(topic) = self.model.topics.get(known) else { return Ok(()) };
            let name = topic.name.clone();
            match self.live().log.topic(&name) {
                Ok(topic) => self.live().topics.push(topic),
                Err(error) => {
                    self.failed("open topic", &error)?;
                    return Ok(());
                }
            }
        }
    }

    pub(crate) fn letter(&self, group: usize, sources: Vec<u64>, reason: &'static str) -> Slot {
        let time_ms = self.clock.wall_ms();
        Slot::Letter { group, sources: sources.into(), reason, time_ms }
    }
}
