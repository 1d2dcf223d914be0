//! Ends of the process, recovery, and going on.

use std::collections::BTreeMap;
use std::sync::Arc;

use ackline::simulation::{Crash, Fault, Rng, Storage};
use ackline::{Ending, Error, Log};

use super::drain::drain;
use super::model::Loss;
use super::verify::{Survey, survey};
use super::world::{Actor, Answer, Ended, FaultWatch, Live, World};
use super::{Checked, ensure, violation};

/// A log that was opened, and what may have been lost before.
struct Recovered {
    log: Log,
    storage: Arc<dyn Storage>,
    loss: Loss,
    /// How many events an earlier recovery from the same crash has returned.
    known: Option<usize>,
}

/// What goes wrong in the middle of a recovery.
const FAULTS: [Fault; 5] =
    [Fault::Io, Fault::SyncLost, Fault::NoSpace, Fault::Short, Fault::Interrupted];

/// Draws what ends the process: one that is dead already left its cache behind, mostly.
fn draw_crash(rng: &mut Rng, dead: bool) -> Crash {
    if rng.chance(1, if dead { 2 } else { 4 }) { Crash::Kill } else { Crash::Power }
}

impl World {
    /// Opens the log for the first time, or again, as the process that goes on.
    pub(crate) fn open(&mut self, rng: &mut Rng, loss: Loss) -> Checked<Survey> {
        let recovered = self.recover(rng, loss)?;
        let loss = recovered.loss;
        if loss == Loss::Power && !self.setup.syncs() {
            for progress in self.model.groups.iter_mut().flat_map(|group| &mut group.offsets) {
                progress.counted = progress.counted.min(progress.counted_synced);
                progress.suspect = false;
            }
        }
        let survey = survey(&recovered.log, &self.model, &self.setup, loss)?;
        self.count_checked(survey.records());
        let (cut, known) = (survey.cut, recovered.known.unwrap_or(survey.cut));
        ensure!(cut == known, "recovery returned {known} events, then {cut}");
        self.model.adopt(&survey);
        self.note(|| format!("opened: {cut} events are there"));
        self.watch = FaultWatch::at(&self.disk);
        (self.acting, self.ended) = (0, Ended::Open);
        let messages_before = self.messages();
        self.live = Some(Live {
            stats: recovered.log.stats(),
            log: recovered.log,
            storage: recovered.storage,
            starts: survey.topics.iter().map(|topic| topic.offsets().start.0).collect(),
            topics: survey.topics.clone(),
            groups: survey.groups.clone(),
            actors: self.setup.actors.iter().map(|role| Actor::new(*role)).collect(),
            poisoned: false,
            messages_before,
            appended_at: None,
            valid_from: BTreeMap::new(),
        });
        Ok(survey)
    }

    /// Opens the log, perhaps after crashes and faults in the middle of recovery.
    fn recover(&mut self, rng: &mut Rng, mut loss: Loss) -> Checked<Recovered> {
        self.allow_work();
        self.disk.clear_faults();
        self.disk.die_at(u64::MAX);
        let (mut known, mut crashes) = (None, 0);
        for _ in 0..2 {
            let (dies, fails) = (rng.chance(1, 4), rng.chance(1, 8));
            if !dies && !fails {
                break;
            }
            self.try_to_open(rng, loss, &mut known, dies)?;
            // From now on the last process may have ended in a recovery.
            self.ended = Ended::Maybe;
            if dies || rng.chance(1, 2) {
                let crash = draw_crash(rng, dies);
                self.disk.crash(crash);
                loss = if loss == Loss::Power { loss } else { crash.into() };
                crashes += 1;
                self.count(if crashes == 1 { "recovery_crash" } else { "recovery_crash_twice" });
                self.note(|| format!("  {crash:?} in recovery"));
            }
            if rng.chance(1, 4) {
                self.disk.evict_some();
            }
        }
        loop {
            let storage = self.storage_of(&self.disk);
            match self.setup.options(&self.clock, self.disk.calls()).open_on(Arc::clone(&storage)) {
                Ok(log) => {
                    self.check_report(&log)?;
                    return Ok(Recovered { log, storage, loss, known });
                }
                Err(Error::Full { .. }) if self.tight => {
                    self.disk.set_capacity(None);
                    self.tight = false;
                }
                Err(error) => violation!("cannot open: {error} ({error:?})"),
            }
        }
    }

    /// Opens the log while something goes wrong.
    fn try_to_open(
        &mut self,
        rng: &mut Rng,
        loss: Loss,
        known: &mut Option<usize>,
        dies: bool,
    ) -> Checked {
        let mut watch = FaultWatch::at(&self.disk);
        if dies {
            // An opening that goes on in a new segment, or takes over old ones, makes many calls.
            let calls = if rng.chance(1, 2) { 25 } else { 100 };
            self.plan_death_soon(rng, calls);
        } else {
            let fault = FAULTS[rng.index(FAULTS.len())];
            let when = watch.plan_soon(&self.disk, rng, 25, fault);
            self.count("recovery_fault");
            self.note(|| format!("  {fault:?} in recovery at {when}"));
        }
        let storage = self.storage_of(&self.disk);
        let opened =
            self.setup.options(&self.clock, self.disk.calls()).open_on(Arc::clone(&storage));
        let dead = storage.free_bytes().is_err();
        // What comes later than the opening is not to be struck.
        self.disk.clear_faults();
        self.disk.die_at(u64::MAX);
        match opened {
            Ok(log) if !dead => {
                let found = survey(&log, &self.model, &self.setup, loss)?;
                let same = known.is_none_or(|known| known == found.cut);
                ensure!(same, "recovery returned {known:?} events, then {}", found.cut);
                *known = Some(found.cut);
            }
            Ok(_) => {}
            Err(error) => {
                self.note(|| format!("  open: {error}"));
                let full = self.tight && matches!(error, Error::Full { .. });
                let excused = dead || full || watch.struck(&self.disk);
                ensure!(excused, "cannot open: {error} ({error:?})");
            }
        }
        Ok(())
    }

    /// Lets the process die just before a call, or in the middle of it.
    pub(crate) fn plan_death(&mut self, rng: &mut Rng, call: u64) {
        match rng.below(4) {
            0 => {
                self.note(|| format!("  die at call {call}"));
                self.disk.die_at(call);
            }
            1 => {
                self.note(|| format!("  die in call {call}"));
                self.disk.fail_at(call, Fault::Death);
            }
            _ => {
                let syncs = rng.below(3);
                self.note(|| format!("  die after {syncs} syncs"));
                self.disk.die_at_sync(syncs);
            }
        }
    }

    /// Lets the process die at one of the next calls, or at the next one of some kind.
    pub(crate) fn plan_death_soon(&mut self, rng: &mut Rng, calls: u64) {
        if rng.chance(1, 2) {
            let call = self.disk.calls() + rng.below(calls);
            self.plan_death(rng, call);
        } else {
            let when = FaultWatch::default().plan_soon(&self.disk, rng, calls, Fault::Death);
            self.note(|| format!("  die at {when}"));
        }
    }

    /// Checks what an opening says of how the last process ended.
    fn check_report(&mut self, log: &Log) -> Checked {
        let report = log.report();
        let closed = report.ending == Ending::Closed;
        match self.ended {
            Ended::Closed => {
                let quick = closed && report.rewritten_bytes == 0 && !report.dropped_torn_tail;
                ensure!(quick, "the log was closed, and opening says {report:?}");
            }
            Ended::Open => ensure!(!closed, "nobody closed the log, and opening says {report:?}"),
            Ended::Maybe => {}
        }
        let new = report.ending == Ending::New;
        ensure!(!new || self.model.synced == 0, "opening made a new log: {report:?}");
        Ok(())
    }

    /// Crashes a copy of the disk, and checks what recovery makes of it. The copy may go on for
    /// a while, to be crashed once more.
    pub(crate) fn check_fork(&mut self, rng: &mut Rng, drained: bool) -> Checked {
        self.take_in()?;
        let disk = self.disk.fork();
        disk.reseed(rng.next_u64());
        let crash = draw_crash(rng, self.dead());
        self.note(|| format!("  fork: {crash:?}"));
        let leaving = self.leaving();
        let mut branch = self.branch(disk);
        branch.mark_suspects(crash, &leaving);
        branch.disk.crash(crash);
        let result = branch.go_on(rng, crash, drained);
        branch.live = None;
        self.absorb(branch);
        result
    }

    fn go_on(&mut self, rng: &mut Rng, crash: Crash, drained: bool) -> Checked {
        if rng.chance(1, 2) {
            self.disk.set_capacity(None);
            self.tight = false;
        }
        if rng.chance(1, 4) {
            self.disk.evict();
        }
        let goes_on = !drained && rng.chance(1, 6);
        let survey = self.open(rng, crash.into())?;
        if goes_on {
            // Its handles would keep the log open.
            drop(survey);
            self.count("branch");
            for _ in 0..=rng.index(8) {
                self.step(rng)?;
                self.after(rng, false)?;
            }
            let survey = self.end(rng)?;
            return if rng.chance(1, 4) { self.drain(&survey) } else { Ok(()) };
        }
        if drained { self.drain(&survey) } else { Ok(()) }
    }

    fn drain(&mut self, survey: &Survey) -> Checked {
        self.count("drained");
        self.allow_work();
        self.disk.set_capacity(None);
        let live = self.live.as_ref().expect("it was opened");
        drain(&live.log, survey, &self.model, &self.setup, &self.clock)
    }

    /// Ends the process, checks copies of what it leaves behind, and goes on from one of them.
    pub(crate) fn crash(&mut self, rng: &mut Rng) -> Checked {
        let forks = if self.is_branch { 0 } else { 1 + rng.index(3) };
        for _ in 0..forks {
            let drained = rng.chance(1, 5);
            self.check_fork(rng, drained)?;
        }
        self.end(rng).map(|_| ())
    }

    /// Ends the process and goes on with what it leaves behind.
    fn end(&mut self, rng: &mut Rng) -> Checked<Survey> {
        let crash = draw_crash(rng, self.dead());
        self.note(|| format!("crash: {crash:?}"));
        self.count("crash");
        self.take_in()?;
        let leaving = self.leaving();
        self.mark_suspects(crash, &leaving);
        self.disk.crash(crash);
        // What the dead process still does must not reach the disk.
        drop(self.live.take());
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
        let leaving = self.leaving();
        self.mark_suspects(Crash::Kill, &leaving);
        drop(self.live.take());
        self.open(rng, Loss::Kill)?;
        Ok(())
    }

    pub(crate) fn close_and_reopen(&mut self, rng: &mut Rng) -> Checked {
        self.count("close");
        self.note(|| "close and reopen".to_owned());
        self.take_in()?;
        self.ended = Ended::Maybe;
        let log = self.live().log.clone();
        let result = log.close();
        let clean = result.is_ok();
        match result {
            Ok(()) => {
                self.succeeded("close")?;
                self.model.promise(true);
                let now = self.now();
                self.model.promise_groups(now);
                self.ended = Ended::Closed;
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
            self.ended = Ended::Maybe;
            return self.crash(rng);
        }
        self.check_closed(clean)?;
        let leaving = self.leaving();
        self.mark_suspects(Crash::Kill, &leaving);
        if clean && !self.is_branch && rng.chance(1, 2) {
            self.check_fork(rng, false)?;
        }
        drop(self.live.take());
        self.open(rng, Loss::Kill)?;
        Ok(())
    }

    /// A closed log answers that it is closed, and leaves no waiter behind.
    fn check_closed(&mut self, clean: bool) -> Checked {
        let (poisoned, dead) = (self.live().poisoned, self.dead());
        for acting in 0..self.live().actors.len() {
            let submitted = std::mem::take(&mut self.live().actors[acting].submitted);
            for submitted in submitted {
                // Where commits are not synced, it was answered when it was written.
                let kept = submitted.event < self.model.synced || !self.setup.syncs();
                match submitted.answer {
                    Answer::Handle(pending) => match pending.wait() {
                        Ok(_) => ensure!(kept, "a submit was answered after a failed close"),
                        Err(error) => ensure!(!clean, "close left a submit to fail: {error}"),
                    },
                    _ => ensure!(dead, "close left a submit without an answer"),
                }
            }
            self.check_closed_waiting(acting)?;
        }
        if let Some(topic) = self.live().topics.first() {
            let answer = topic.append("late");
            let refused = matches!(answer, Err(Error::Closed | Error::Poisoned { .. }));
            ensure!(refused, "an append after close (poisoned: {poisoned}): {answer:?}");
        }
        Ok(())
    }
}
