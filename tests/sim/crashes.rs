//! Ends of the process, recovery, and going on.

use std::collections::BTreeMap;

use ackline::simulation::{Clock, Crash, Fault, Rng, SimClock, SimDisk, Storage};
use ackline::{Error, Log};
use std::sync::Arc;

use super::drain::drain;
use super::model::Loss;
use super::verify::survey;
use super::world::{Answer, FaultWatch, Live, World};
use super::{Checked, ensure, mix, violation};

/// A log that was opened, and what may have been lost before.
struct Recovered {
    log: Log,
    storage: Arc<dyn Storage>,
    loss: Loss,
    /// How many events an earlier recovery from the same crash has returned.
    known: Option<usize>,
}

fn draw_crash(rng: &mut Rng) -> Crash {
    if rng.chance(1, 4) { Crash::Kill } else { Crash::Power }
}

impl World {
    /// Opens the log for the first time, or again, as the process that goes on.
    pub(crate) fn open(&mut self, rng: &mut Rng, loss: Loss) -> Checked {
        let (disk, clock) = (self.disk.clone(), self.clock.clone());
        let recovered = self.recover(&disk, &clock, rng, loss)?;
        let loss = recovered.loss;
        if loss == Loss::Power && !self.setup.syncs() {
            for progress in self.model.groups.iter_mut().flat_map(|group| &mut group.offsets) {
                progress.counted = progress.counted.min(progress.counted_synced);
                progress.suspect = false;
            }
        }
        let survey = survey(&recovered.log, &self.model, &self.setup, loss)?;
        self.count_checked(survey.records);
        let (cut, known) = (survey.cut, recovered.known.unwrap_or(survey.cut));
        ensure!(cut == known, "recovery returned {known} events, then {cut}");
        self.model.adopt(&survey);
        self.note(|| format!("opened: {cut} events are there"));
        self.watch_faults();
        self.live = Some(Live {
            log: recovered.log,
            storage: recovered.storage,
            topics: survey.topics,
            groups: survey.groups,
            hands: Vec::new(),
            submitted: Vec::new(),
            poisoned: false,
            valid_from: BTreeMap::new(),
        });
        Ok(())
    }

    /// Opens the log on a disk, perhaps after crashes and faults in the middle of recovery.
    fn recover(
        &mut self,
        disk: &SimDisk,
        clock: &SimClock,
        rng: &mut Rng,
        mut loss: Loss,
    ) -> Checked<Recovered> {
        disk.clear_faults();
        disk.die_at(u64::MAX);
        let mut known = None;
        for _ in 0..2 {
            let (dies, fails) = (rng.chance(1, 4), rng.chance(1, 8));
            if !dies && !fails {
                break;
            }
            let call = disk.calls() + rng.below(25);
            let mut watch = FaultWatch::at(disk);
            if dies {
                disk.die_at(call);
            } else {
                let fault =
                    [Fault::Io, Fault::SyncLost, Fault::NoSpace, Fault::Short][rng.index(4)];
                watch.plan(disk, call, fault);
                self.note(|| format!("  {fault:?} in recovery at call {call}"));
            }
            let storage = self.storage_of(disk);
            let opened = self.setup.options(clock).open_on(Arc::clone(&storage));
            let dead = storage.free_bytes().is_err();
            // What comes later than the opening is not to be struck.
            disk.clear_faults();
            disk.die_at(u64::MAX);
            match opened {
                Ok(log) if !dead => {
                    let found = survey(&log, &self.model, &self.setup, loss)?;
                    let same = known.is_none_or(|known| known == found.cut);
                    ensure!(same, "recovery returned {known:?} events, then {}", found.cut);
                    known = Some(found.cut);
                }
                Ok(_) => {}
                Err(error) => {
                    self.note(|| format!("  open: {error}"));
                    let full = self.tight && matches!(error, Error::Full { .. });
                    let excused = dead || full || watch.struck(disk);
                    ensure!(excused, "cannot open: {error} ({error:?})");
                }
            }
            if dies || rng.chance(1, 2) {
                let crash = draw_crash(rng);
                disk.crash(crash);
                loss = if loss == Loss::Power { loss } else { crash.into() };
                self.note(|| format!("  {crash:?} in recovery before call {call}"));
            }
        }
        loop {
            let storage = self.storage_of(disk);
            match self.setup.options(clock).open_on(Arc::clone(&storage)) {
                Ok(log) => {
                    return Ok(Recovered { log, storage, loss, known });
                }
                Err(Error::Full { .. }) if self.tight => {
                    disk.set_capacity(None);
                    // Forks have a capacity of their own.
                    if std::ptr::eq(clock, &raw const self.clock) {
                        self.tight = false;
                    }
                }
                Err(error) => violation!("cannot open: {error} ({error:?})"),
            }
        }
    }

    /// Crashes a copy of the disk, and checks what recovery makes of it.
    pub(crate) fn check_fork(&mut self, rng: &mut Rng, drained: bool) -> Checked {
        self.take_in()?;
        let disk = self.disk.fork();
        disk.reseed(rng.next_u64());
        let crash = draw_crash(rng);
        disk.crash(crash);
        self.note(|| format!("  fork: {crash:?}"));
        if rng.chance(1, 2) {
            disk.set_capacity(None);
        }
        if rng.chance(1, 4) {
            disk.evict();
        }
        let clock = SimClock::new();
        clock.advance(self.clock.monotonic());
        let tight = self.tight;
        let result = self.check_recovery(&disk, &clock, rng, crash.into(), drained);
        self.tight = tight;
        self.counts.add(&disk.counts());
        self.trace = mix(self.trace, disk.trace_hash());
        result
    }

    fn check_recovery(
        &mut self,
        disk: &SimDisk,
        clock: &SimClock,
        rng: &mut Rng,
        loss: Loss,
        drained: bool,
    ) -> Checked {
        let recovered = self.recover(disk, clock, rng, loss)?;
        let found = survey(&recovered.log, &self.model, &self.setup, recovered.loss)?;
        self.count_checked(found.records);
        let known = recovered.known.unwrap_or(found.cut);
        ensure!(found.cut == known, "recovery returned {known} events, then {}", found.cut);
        if drained {
            disk.set_capacity(None);
            drain(&recovered.log, &found, &self.model, &self.setup, clock)?;
            self.count("drained");
        }
        Ok(())
    }

    /// Ends the process, checks copies of what it leaves behind, and goes on from one of them.
    pub(crate) fn crash(&mut self, rng: &mut Rng) -> Checked {
        for _ in 0..=rng.index(4) {
            let drained = rng.chance(1, 5);
            self.check_fork(rng, drained)?;
        }
        let crash = draw_crash(rng);
        self.note(|| format!("crash: {crash:?}"));
        self.count("crash");
        self.take_in()?;
        self.mark_suspects(crash);
        self.disk.crash(crash);
        // What the dead process still does must not reach the disk.
        drop(self.live.take());
        self.model.slack += 1;
        if rng.chance(1, 4) {
            self.disk.evict();
        }
        self.open(rng, crash.into())
    }

    /// Drops all handles without closing the log, and opens it again.
    pub(crate) fn drop_and_reopen(&mut self, rng: &mut Rng) -> Checked {
        self.count("reopen");
        self.note(|| "drop and reopen".to_owned());
        self.take_in()?;
        self.mark_suspects(Crash::Kill);
        drop(self.live.take());
        self.model.slack += 1;
        self.open(rng, Loss::Kill)
    }

    pub(crate) fn close_and_reopen(&mut self, rng: &mut Rng) -> Checked {
        self.count("close");
        self.note(|| "close and reopen".to_owned());
        self.take_in()?;
        let log = self.live().log.clone();
        let result = log.close();
        let clean = result.is_ok();
        match result {
            Ok(()) => {
                self.succeeded("close")?;
                self.model.promise(true);
                self.model.promise_groups();
            }
            Err(error) => {
                self.failed("close", &error)?;
            }
        }
        self.take_in()?;
        // Even where it failed, closing has ended the leases: nobody was killed by a message.
        for progress in self.model.groups.iter_mut().flat_map(|group| &mut group.offsets) {
            progress.held_until = None;
        }
        if self.dead() {
            return self.crash(rng);
        }
        self.check_closed(clean)?;
        self.mark_suspects(Crash::Kill);
        drop(self.live.take());
        self.model.slack += 1;
        if clean && rng.chance(1, 2) {
            self.check_fork(rng, false)?;
        }
        self.open(rng, Loss::Kill)
    }

    /// A closed log answers that it is closed, and leaves no waiter behind.
    fn check_closed(&mut self, clean: bool) -> Checked {
        let poisoned = self.live().poisoned;
        let submitted = std::mem::take(&mut self.live().submitted);
        for submitted in submitted {
            let Answer::Handle(pending) = submitted.answer else { continue };
            let answer = pending.wait();
            // Where commits are not synced, it was answered when it was written.
            let kept = submitted.event < self.model.synced || !self.setup.syncs();
            match answer {
                Ok(_) => ensure!(kept, "a submit was answered after a failed close"),
                Err(error) => ensure!(!clean, "close left a submit to fail: {error}"),
            }
        }
        if let Some(topic) = self.live().topics.first() {
            let answer = topic.append("late");
            let refused = matches!(answer, Err(Error::Closed | Error::Poisoned { .. }));
            ensure!(refused, "an append after close (poisoned: {poisoned}): {answer:?}");
        }
        Ok(())
    }
}
