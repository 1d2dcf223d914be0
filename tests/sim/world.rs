//! The running log, and what its errors mean.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ackline::simulation::{Clock, Counts, Fault, Rng, SimClock, SimDisk, Storage};
use ackline::{Delivery, Error, Group, Log, Pending, Receipt, Result, Topic};

use super::lying::LyingStorage;
use super::model::{Model, Msg, Slot};
use super::setup::{PAYLOAD_MAX, Setup, TAGS};
use super::{Checked, ensure, mix, violation};

/// A delivery in a consumer's hands.
#[derive(Debug)]
pub(crate) struct Hand {
    pub(crate) delivery: Delivery,
    pub(crate) group: usize,
    pub(crate) offset: u64,
    pub(crate) token: u64,
    pub(crate) attempt: u32,
}

/// Where the outcome of a submit arrives.
pub(crate) type Arrival = Arc<Mutex<Option<Result<Receipt>>>>;

/// A submit that has not been answered.
#[derive(Debug)]
pub(crate) struct Submitted {
    pub(crate) event: usize,
    pub(crate) offset: u64,
    pub(crate) answer: Answer,
}

#[derive(Debug)]
pub(crate) enum Answer {
    Handle(Pending<Receipt>),
    Callback(Arrival),
}

/// The process that runs.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) log: Log,
    pub(crate) storage: Arc<dyn Storage>,
    /// By their numbers in the model.
    pub(crate) topics: Vec<Topic>,
    pub(crate) groups: Vec<Group>,
    pub(crate) hands: Vec<Hand>,
    pub(crate) submitted: Vec<Submitted>,
    pub(crate) poisoned: bool,
    /// The clock's time up to which each group was moved by a seek is not kept: a seek makes
    /// all tokens before this one stale.
    pub(crate) valid_from: BTreeMap<usize, u64>,
}

/// Which faults have been planned, and what has struck.
#[derive(Clone, Debug, Default)]
pub(crate) struct FaultWatch {
    base: Counts,
    no_space: bool,
}

impl FaultWatch {
    pub(crate) fn at(disk: &SimDisk) -> Self {
        Self { base: disk.counts(), no_space: false }
    }

    pub(crate) fn plan(&mut self, disk: &SimDisk, call: u64, fault: Fault) {
        disk.fail_at(call, fault);
        self.no_space |= fault == Fault::NoSpace;
    }

    /// Whether a fault has struck that a call may fail for.
    pub(crate) fn struck(&self, disk: &SimDisk) -> bool {
        let (now, base) = (disk.counts(), &self.base);
        now.fault_io > base.fault_io
            || now.fault_sync_lost > base.fault_sync_lost
            || (self.no_space && now.fault_no_space > base.fault_no_space)
    }
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
    pub(crate) notes: Option<Vec<String>>,
    pub(crate) next_token: u64,
    next_message: u64,
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
    pub(crate) fn new(setup: Setup, verbose: bool) -> Self {
        let disk = SimDisk::new(mix(setup.seed, 1));
        disk.set_sector_mode(setup.sectors());
        Self {
            setup: Rc::new(setup),
            disk,
            clock: SimClock::new(),
            model: Model::default(),
            live: None,
            watch: FaultWatch::default(),
            tight: false,
            counts: Counts::default(),
            tally: BTreeMap::new(),
            checked: (0, 0),
            trace: 0,
            notes: verbose.then(Vec::new),
            next_token: 1,
            next_message: 0,
        }
    }

    /// Writes a line into the history, if one is kept.
    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(notes) = &mut self.notes {
            notes.push(line());
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

    pub(crate) fn watch_faults(&mut self) {
        self.watch = FaultWatch::at(&self.disk);
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
        let call = self.disk.calls() + rng.below(12);
        self.watch.plan(&self.disk, call, fault);
        self.note(|| format!("  plan {fault:?} at call {call}"));
    }

    pub(crate) fn struck(&self) -> bool {
        self.watch.struck(&self.disk)
    }

    /// What the error of a call means, or that there is no reason for it.
    pub(crate) fn failed(&mut self, call: &str, error: &Error) -> Checked<Failed> {
        self.note(|| format!("  {call}: {error}"));
        if self.dead() {
            return Ok(Failed::Unknown);
        }
        let (struck, tight) = (self.struck(), self.tight || self.setup.max_bytes.is_some());
        let no_space = self.watch.no_space;
        let live = self.live();
        let was_poisoned = std::mem::replace(&mut live.poisoned, live.log.stats().poisoned);
        if live.poisoned {
            ensure!(struck, "{call} poisoned the log, but no fault struck: {error}");
            if matches!(error, Error::Poisoned { .. }) {
                return Ok(if was_poisoned { Failed::Refused } else { Failed::Unknown });
            }
            return Ok(Failed::Unknown);
        }
        ensure!(!was_poisoned, "the log was poisoned and is not any more");
        match error {
            Error::Full { .. } if tight || no_space => Ok(Failed::Refused),
            Error::Io { .. } if struck => Ok(Failed::Refused),
            _ => violation!("{call} failed without a reason: {error} ({error:?})"),
        }
    }

    /// After a failure the log answers nothing but that: checked for calls that succeeded.
    pub(crate) fn succeeded(&mut self, call: &str) -> Checked {
        let poisoned = self.live().poisoned;
        ensure!(!poisoned, "{call} succeeded on a poisoned log");
        Ok(())
    }

    pub(crate) fn draw_message(&mut self, rng: &mut Rng) -> Rc<Msg> {
        self.next_message += 1;
        let size = match rng.below(16) {
            0 => 0,
            1 => rng.index(PAYLOAD_MAX + 1),
            2 | 3 => rng.index(700),
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

    /// Takes in what can be known without a call that writes: what is visible is promised, and
    /// answers of submits arrive.
    pub(crate) fn take_in(&mut self) -> Checked {
        let Some(live) = &mut self.live else { return Ok(()) };
        if live.log.stats().poisoned {
            // After a failed sync, the cache may show what the disk does not have, and forget it.
            self.model.written = self.model.synced;
        }
        let mut promises = Vec::new();
        for (i, topic) in live.topics.iter().enumerate() {
            let end = topic.offsets().end.0;
            let model = &self.model.topics[i];
            ensure!(end <= model.len(), "{} shows {end} messages of {}", model.name, model.len());
            if end > 0 {
                promises.push((model.messages[super::at(end - 1)].1, true));
            }
        }
        let reads_unsynced = self.setup.policy == ackline::SyncPolicy::Never;
        let syncs = self.setup.syncs();
        let mut left = Vec::new();
        for submitted in live.submitted.drain(..) {
            let arrived = match &submitted.answer {
                Answer::Callback(arrival) => arrival.lock().expect("not poisoned").take(),
                Answer::Handle(_) => None,
            };
            match arrived {
                None => left.push(submitted),
                Some(Ok(receipt)) => {
                    let (found, expected) = (receipt.offset.0, submitted.offset);
                    ensure!(found == expected, "submit answered {found} for {expected}");
                    promises.push((submitted.event, syncs));
                }
                Some(Err(_)) => {}
            }
        }
        live.submitted = left;
        let poisoned = self.live().log.stats().poisoned;
        for (event, synced) in promises {
            let synced = synced && !reads_unsynced;
            if synced || !poisoned {
                self.model.promise_event(event, synced);
            }
        }
        Ok(())
    }

    pub(crate) fn letter(&self, group: usize, sources: Vec<u64>, reason: &'static str) -> Slot {
        let time_ms = self.clock.wall_ms();
        Slot::Letter { group, sources: sources.into(), reason, time_ms }
    }
}
