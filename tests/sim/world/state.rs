//! What can be known of the running log without a call that writes: what it shows, what it says
//! of itself, and whose answers have come.

use std::sync::PoisonError;
use std::task::Poll;

use ackline::{Media, Receipt, Stats, SyncPolicy};

use super::super::model::{Ack, Kind, Progress};
use super::super::{Checked, at, ensure, violation};
use super::{Answer, Submitted, World, is_done};

/// What calls that log nothing but the progress of groups are named.
const PROGRESS: [&str; 5] = ["commit", "commit_through", "poll", "next", "sync"];

impl World {
    /// Takes in what has come about: what is visible is promised, and answers of submits arrive.
    pub(crate) fn take_in(&mut self) -> Checked {
        self.allow_work();
        if self.live.is_none() {
            return Ok(());
        }
        self.check_stats()?;
        if self.live().stats.poisoned {
            // After a failed sync, the cache may show what the disk does not have, and forget it.
            self.model.written = self.model.synced;
        }
        self.take_in_offsets()?;
        for acting in 0..self.live().actors.len() {
            self.take_in_answers(acting)?;
        }
        self.check_woken()
    }

    fn take_in_offsets(&mut self) -> Checked {
        let unsynced = self.setup.policy == SyncPolicy::Never;
        for id in 0..self.live().topics.len() {
            let offsets = self.live().topics[id].offsets();
            let (start, end) = (offsets.start.0, offsets.end.0);
            let model = &self.model.topics[id];
            ensure!(end <= model.len(), "{} shows {end} messages of {}", model.name, model.len());
            // What readers see is safe, whatever the one who appended it was told.
            if end > 0 && !(unsynced && self.live().stats.poisoned) {
                let event = self.model.topics[id].messages[at(end - 1)].1;
                self.model.promise_event(event, !unsynced);
            }
            let starts = &mut self.live().starts;
            starts.resize(starts.len().max(id + 1), 0);
            let before = std::mem::replace(&mut starts[id], start);
            ensure!(start >= before, "topic {id} begins at {start}, and did at {before}");
            if start > before {
                let (model, cut) = (&self.model, self.model.events.len());
                let for_size = self.deleted_for_size;
                model.check_deleted(&self.setup, id, before..start, cut, for_size)?;
                self.model.topics[id].taken = start;
            }
        }
        Ok(())
    }

    fn take_in_answers(&mut self, acting: usize) -> Checked {
        let submitted = std::mem::take(&mut self.live().actors[acting].submitted);
        for mut submitted in submitted {
            let arrived = match &mut submitted.answer {
                Answer::Handle(_) => None,
                Answer::Callback(arrival) => {
                    arrival.lock().unwrap_or_else(PoisonError::into_inner).take()
                }
                Answer::Task(task) => {
                    let done = is_done(&task.future);
                    let lost = done && !task.is_woken();
                    ensure!(!lost, "a submit was answered, and its task was not woken");
                    match task.is_woken().then(|| task.poll()) {
                        Some(Poll::Ready(result)) => Some(result),
                        _ => {
                            ensure!(!done, "a submit was answered, and its future is pending");
                            None
                        }
                    }
                }
            };
            match arrived {
                Some(Ok(receipt)) => self.answered(submitted.event, submitted.offset, receipt)?,
                Some(Err(_)) => {}
                None => self.live().actors[acting].submitted.push(submitted),
            }
        }
        Ok(())
    }

    /// A submit was answered.
    pub(crate) fn answered(&mut self, event: usize, offset: u64, receipt: Receipt) -> Checked {
        let found = receipt.offset.0;
        ensure!(found == offset, "submit answered {found} for {offset}");
        self.model.locate(event, receipt.position);
        let syncs = self.setup.syncs();
        if syncs || !self.poisoned() {
            self.model.promise_event(event, syncs);
        }
        Ok(())
    }

    /// Checks that all that was submitted is answered: everything was committed just now.
    pub(crate) fn check_answered(&mut self) -> Checked {
        let is_open = |submitted: &Submitted| match &submitted.answer {
            Answer::Handle(pending) => !is_done(pending),
            Answer::Callback(_) | Answer::Task(_) => true,
        };
        self.take_in()?;
        let mut submitted = self.live().actors.iter().flat_map(|actor| &actor.submitted);
        let open = submitted.find(|submitted| is_open(submitted)).map(|open| open.offset);
        ensure!(open.is_none(), "a submit of {open:?} was never answered");
        Ok(())
    }

    /// Checks that whoever waits for a message of a log that has failed was woken.
    fn check_woken(&mut self) -> Checked {
        if !self.live().stats.poisoned || self.dead() {
            return Ok(());
        }
        for actor in &self.live().actors {
            let asleep = actor.waiting.as_ref().filter(|waiting| !waiting.task.is_woken());
            ensure!(asleep.is_none(), "the log failed, and {asleep:?} was not woken");
        }
        Ok(())
    }

    /// Checks the log's numbers against each other, those before and the model.
    fn check_stats(&mut self) -> Checked {
        let dead = self.dead();
        let live = self.live();
        let stats = live.log.stats();
        let last = std::mem::replace(&mut live.stats, stats.clone());
        let fallen =
            counters(&stats).into_iter().zip(counters(&last)).find(|(now, then)| now < then);
        ensure!(fallen.is_none(), "a number fell: {fallen:?} in {stats:?}");
        let ordered = stats.durable <= stats.written && stats.visible <= stats.written;
        ensure!(ordered, "more is durable or visible than written: {stats:?}");
        let unsynced = self.setup.policy == SyncPolicy::Never;
        let expected = if unsynced { stats.written } else { stats.durable };
        ensure!(stats.visible == expected, "not what is to be visible is so: {stats:?}");
        ensure!(!last.poisoned || stats.poisoned, "the log was poisoned and is not any more");
        // What failed half-way is in the model or not.
        if !stats.poisoned && !dead {
            let expected = (self.model.topics.len(), self.model.groups.len());
            let found = (stats.topics, stats.groups);
            ensure!(found == expected, "{found:?} topics and groups instead of {expected:?}");
        }
        Ok(())
    }

    /// How many messages the model holds.
    pub(crate) fn messages(&self) -> u64 {
        let is_message = |kind: Kind| matches!(kind, Kind::Message(_));
        self.model.events.iter().filter(|event| is_message(event.kind)).count() as u64
    }

    /// Notes that an append found room.
    pub(crate) fn found_room(&mut self) {
        let bytes = self.live().log.stats().bytes;
        self.live().appended_at = Some(bytes);
    }

    /// Checks that a call had reason to find no room: some is kept for progress when appends are
    /// refused.
    pub(crate) fn check_reserve(&mut self, call: &str) -> Checked {
        if !PROGRESS.contains(&call) || self.lacked_space_by_plan() {
            return Ok(());
        }
        let live = self.live();
        let Some(appended_at) = live.appended_at else { return Ok(()) };
        let used = live.log.stats().bytes - appended_at;
        // A segment's head and checkpoint, and what an entry takes at most.
        let active = self.segments().last().map_or(0, |segment| segment.1);
        let reserve = active.saturating_sub(2048) / 8;
        let unit = if self.setup.media == Media::WholeSectors { 512 } else { 8 };
        // Each message that may come again takes an attempt.
        let again = |progress: &&Progress| progress.deliveries > 0 && progress.ack == Ack::No;
        let groups = self.model.groups.iter();
        let attempts = groups.map(|group| group.offsets.iter().filter(again).count()).max();
        let needed = 600 + 2 * unit + 20 * attempts.unwrap_or(0) as u64;
        if used + needed <= reserve {
            violation!("{call} found no room after {used} bytes of a reserve of {reserve}");
        }
        Ok(())
    }
}

/// The numbers that never fall.
fn counters(stats: &Stats) -> [u64; 11] {
    [
        stats.appended,
        stats.frames,
        stats.writes,
        stats.syncs,
        stats.bytes,
        stats.rolls,
        stats.refused_full,
        stats.index_failures,
        stats.written.0,
        stats.durable.0,
        stats.visible.0,
    ]
}
