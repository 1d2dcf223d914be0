//! Operations of groups: polling, commits and seeks.

mod next;
mod settle;

use std::rc::Rc;
use std::time::Duration;

use ackline::simulation::{Crash, Rng};
use ackline::{Delivery, Error, Explanation, Offset, Start};

use super::model::{Ack, Progress};
use super::setup::wall;
use super::world::{Actor, Failed, Hand, World};
use super::{Checked, ensure};

/// What a process leaves behind that ends.
#[derive(Clone, Debug)]
pub(crate) struct Leaving {
    poisoned: bool,
    /// Tasks that wait for a message of each group: they may be about to get one.
    waiting: Vec<u32>,
}

impl World {
    pub(crate) fn poll(&mut self, rng: &mut Rng) -> Checked {
        let Some(group) = self.draw_group(rng) else { return Ok(()) };
        let max = if rng.chance(1, 6) { 100 } else { 1 + rng.index(12) };
        self.poll_group(group, max)
    }

    /// Polls for up to so many messages.
    pub(crate) fn poll_group(&mut self, group: usize, max: usize) -> Checked {
        self.count("poll");
        let result = self.live().groups[group].poll(max, Duration::ZERO);
        let deliveries = match result {
            Ok(deliveries) => deliveries,
            Err(error) => return self.no_delivery(group, "poll", &error),
        };
        self.succeeded("poll")?;
        ensure!(deliveries.len() <= max, "polled {} of {max}", deliveries.len());
        self.note(|| {
            let got: Vec<_> =
                deliveries.iter().map(|got| (got.offset().0, got.attempt())).collect();
            format!("poll {max} of group {group}: {got:?}")
        });
        let alone = deliveries.len() == 1;
        let until = self.now() + self.setup.groups[self.model.groups[group].plan].lease;
        for delivery in deliveries {
            self.take(group, delivery, alone, until)?;
        }
        self.take_exhausted(group)
    }

    /// A poll failed, or a task that waited for a message.
    fn no_delivery(&mut self, group: usize, call: &str, error: &Error) -> Checked {
        if let Error::Lagged { from, to } = error
            && self.setup.lossy
        {
            let start = self.live().groups[group].topic().offsets().start;
            self.succeeded(call)?;
            let right = from < to && *to <= start;
            ensure!(right, "group {group} lags from {from} to {to}, and {start} is there");
            self.count("lagged");
            return self.take_exhausted(group);
        }
        self.model.groups[group].unseen += 1;
        let was_poisoned = self.live().poisoned;
        self.failed(call, error)?;
        // Dead letters may have been queued before it failed.
        if was_poisoned { Ok(()) } else { self.take_exhausted(group) }
    }

    /// Takes a delivery into the hands of the one who acts, its lease lasting until then.
    fn take(&mut self, group: usize, delivery: Delivery, alone: bool, until: Duration) -> Checked {
        let (offset, attempt) = (delivery.offset().0, delivery.attempt());
        let topic = self.model.groups[group].topic;
        self.model.check(&self.setup, topic, delivery.message())?;
        // One whose lease is over already is in flight for nobody.
        let late = until <= self.now();
        self.check_delivery(group, offset, attempt)?;
        if !late {
            self.check_company(group, offset, alone)?;
        }
        let token = self.next_token;
        self.next_token += 1;
        let progress = self.model.groups[group].get_mut(offset);
        progress.counted = attempt;
        // It may have been counted without having been seen, for a task that slept.
        progress.deliveries = attempt.max(progress.deliveries + 1);
        progress.token = token;
        progress.held_until = Some(until);
        progress.suspect = false;
        progress.due = Duration::ZERO;
        self.actor().hands.push(Hand { delivery, group, offset, token, attempt });
        Ok(())
    }

    /// Checks that a message may be in somebody's hands besides those that are.
    fn check_company(&self, id: usize, offset: u64, alone: bool) -> Checked {
        let (group, now) = (&self.model.groups[id], self.now());
        let plan = &self.setup.groups[group.plan];
        let holds = |found: &&Progress| found.held_until.is_some_and(|until| until > now);
        // What retention took from its holder is not in flight any more.
        let in_flight =
            if self.setup.lossy { 0 } else { group.offsets.iter().filter(holds).count() };
        ensure!(in_flight < plan.in_flight_max, "too many in flight: group {id}, offset {offset}");
        let suspect = group.get(offset).suspect && !(alone && in_flight == 0);
        ensure!(!suspect, "a suspect in company: group {id}, offset {offset}");
        Ok(())
    }

    fn check_delivery(&self, id: usize, offset: u64, attempt: u32) -> Checked {
        let group = &self.model.groups[id];
        let plan = &self.setup.groups[group.plan];
        let (progress, now) = (group.get(offset), self.now());
        let place = format_args!("group {id}, offset {offset}, attempt {attempt}");
        ensure!(progress.ack == Ack::No, "delivered although done ({:?}): {place}", progress.ack);
        let held = progress.held_until.is_some_and(|until| until > now);
        ensure!(!held, "delivered while somebody holds it: {place}");
        ensure!(progress.due <= now, "delivered before {:?}, now {now:?}: {place}", progress.due);
        let counted = progress.counted;
        ensure!(attempt > counted, "attempts went back from {counted}: {place}");
        let most = progress.deliveries + self.unseen(id) + 1;
        ensure!(attempt <= most, "at most {most} attempts can be: {place}");
        ensure!(attempt <= plan.attempts_max, "over the limit: {place}");
        let wanted = self.model.is_wanted(&self.setup, id, offset);
        ensure!(wanted, "delivered in spite of the tag filter: {place}");
        Ok(())
    }

    /// How many tasks wait for a message of a group: each may be about to get one.
    pub(crate) fn waiting(&self, group: usize) -> u32 {
        let actors = self.live.iter().flat_map(|live| &live.actors);
        let waits = |actor: &Actor| actor.waiting.as_ref().is_some_and(|task| task.group == group);
        actors.map(|actor| u32::from(waits(actor))).sum()
    }

    /// How many deliveries of a message of a group may be counted that nobody saw.
    fn unseen(&self, group: usize) -> u32 {
        self.model.unseen(group) + self.waiting(group)
    }

    /// Notices which messages a poll has sent to the dead letters.
    fn take_exhausted(&mut self, id: usize) -> Checked {
        let setup = Rc::clone(&self.setup);
        let now = self.now();
        let group = &self.model.groups[id];
        let plan = &setup.groups[group.plan];
        let handle = self.live.as_ref().expect("a process runs").groups[id].clone();
        let offsets = handle.topic().offsets();
        let mut buried = Vec::new();
        for offset in offsets.start.0..offsets.end.0 {
            let progress = group.get(offset);
            let held = progress.held_until.is_some_and(|until| until > now);
            let tries = progress.deliveries + self.unseen(id);
            let done = progress.ack != Ack::No || !self.model.is_wanted(&setup, id, offset);
            if done || held || tries < plan.attempts_max {
                continue;
            }
            if matches!(handle.explain(Offset(offset)), Ok(Explanation::Settled) | Err(_)) {
                buried.push(offset);
            }
        }
        if buried.is_empty() {
            return Ok(());
        }
        self.count("exhausted");
        self.note(|| format!("  out of attempts: {buried:?}"));
        let dead = handle.dead_letter_topic();
        for &offset in &buried {
            let slot = self.letter(id, buried.clone(), "out of attempts");
            let event = self.model.add_letter(&dead, slot);
            let progress = self.model.groups[id].get_mut(offset);
            progress.letters += 1;
            let nth = progress.letters;
            let ack = if buried.len() == 1 { Ack::With(event) } else { Ack::Letter(nth) };
            self.model.groups[id].settle(offset, ack, now);
        }
        self.open_new_topics()
    }

    /// Whether a message may have been taken from the one who has it: by retention, or, once the
    /// lease is over, by a task that is about to get it.
    pub(crate) fn is_lost(&mut self, group: usize, offset: u64) -> bool {
        let start = self.live().groups[group].topic().offsets().start.0;
        let until = self.model.groups[group].get(offset).held_until;
        let held = until.is_some_and(|until| until > self.now());
        (self.setup.lossy && offset < start) || (!held && self.waiting(group) > 0)
    }

    /// Acknowledges by offset.
    pub(crate) fn ack_offset(&mut self, rng: &mut Rng) -> Checked {
        let Some(group) = self.draw_group(rng) else { return Ok(()) };
        let model = &self.model.groups[group];
        let len = self.model.topics[model.topic].len();
        let offset = rng.below(len.max(1));
        let open = model.get(offset).ack == Ack::No;
        let (filtered, lossy) = (self.setup.groups[model.plan].tag.is_some(), self.setup.lossy);
        self.count("ack_offset");
        self.note(|| format!("ack offset {group}/{offset}"));
        let result = self.live().groups[group].ack(Offset(offset));
        // A group may acknowledge what retention took from it, until its next poll notices.
        if !open && !lossy {
            ensure!(result.is_err(), "acknowledged {offset} of group {group} twice");
        }
        match result {
            Ok(()) => {
                self.succeeded("ack offset")?;
                let now = self.now();
                self.model.groups[group].settle(offset, Ack::Maybe, now);
                Ok(())
            }
            Err(Error::AlreadyAcked { .. }) => {
                self.succeeded("ack offset")?;
                ensure!(!open || filtered || lossy, "{group}/{offset} was not acknowledged yet");
                Ok(())
            }
            Err(Error::NotLeased { .. }) => self.succeeded("ack offset"),
            Err(error) => self.failed("ack offset", &error).map(|_| ()),
        }
    }

    pub(crate) fn commit(&mut self, rng: &mut Rng) -> Checked {
        let Some(group) = self.draw_group(rng) else { return Ok(()) };
        self.count("commit");
        self.note(|| format!("commit group {group}"));
        match self.live().groups[group].commit() {
            Ok(()) => {
                self.succeeded("commit")?;
                self.model.promise(true);
                let now = self.now();
                self.model.groups[group].promise(now);
                Ok(())
            }
            Err(error) => self.failed("commit", &error).map(|_| ()),
        }
    }

    pub(crate) fn commit_through(&mut self, rng: &mut Rng) -> Checked {
        let Some(group) = self.draw_group(rng) else { return Ok(()) };
        let offsets = self.live().groups[group].topic().offsets();
        let (start, end) = (offsets.start.0, offsets.end.0);
        if start == end {
            return Ok(());
        }
        let through = start + rng.below(end - start);
        self.count("commit_through");
        self.note(|| format!("commit group {group} through {through}"));
        let result = self.live().groups[group].commit_through(Offset(through));
        if let Err(error) = &result {
            let before = self.live().poisoned;
            self.failed("commit_through", error)?;
            if before {
                return Ok(());
            }
        }
        let now = self.now();
        for offset in 0..=through {
            let progress = self.model.groups[group].get_mut(offset);
            progress.held_until = None;
            if progress.ack == Ack::No {
                self.model.groups[group].settle(offset, Ack::Maybe, now);
            }
        }
        if result.is_ok() {
            self.succeeded("commit_through")?;
            self.model.promise(true);
            let now = self.now();
            self.model.groups[group].promise(now);
        }
        Ok(())
    }

    pub(crate) fn seek(&mut self, rng: &mut Rng) -> Checked {
        let Some(group) = self.draw_group(rng) else { return Ok(()) };
        self.seek_group(rng, group)
    }

    /// Moves a group.
    pub(crate) fn seek_group(&mut self, rng: &mut Rng, group: usize) -> Checked {
        let offsets = self.live().groups[group].topic().offsets();
        let (start, end) = (offsets.start.0, offsets.end.0);
        let topic = self.model.groups[group].topic;
        let (to, target) = match rng.below(5) {
            0 => (start, Start::Earliest),
            1 => (end, Start::Latest),
            2 => {
                self.count("seek_by_time");
                let ms = 1_700_000_000_000 + rng.below(200_000) - 60_000;
                (self.model.offset_at(topic, start..end, ms), Start::Time(wall(ms)))
            }
            _ => {
                let to = start + rng.below(end - start + 1);
                (to, Start::Offset(Offset(to)))
            }
        };
        self.count("seek");
        self.note(|| format!("seek group {group} to {to}"));
        match self.live().groups[group].seek(target) {
            Ok(()) => {
                self.succeeded("seek")?;
                self.model.promise(true);
                let token = self.next_token;
                self.live().valid_from.insert(group, token);
                let len = self.model.topics[self.model.groups[group].topic].len();
                for offset in 0..len {
                    let progress = self.model.groups[group].get_mut(offset);
                    let ack = if offset < to { Ack::Durable } else { Ack::No };
                    let letters = progress.letters;
                    *progress = Progress { letters, ..Progress::with(ack) };
                }
            }
            Err(error) => {
                if self.failed("seek", &error)? == Failed::Unknown {
                    self.model.groups[group].seek_unknown = true;
                }
            }
        }
        Ok(())
    }

    pub(crate) fn leaving(&self) -> Leaving {
        let waiting = (0..self.model.groups.len()).map(|group| self.waiting(group)).collect();
        Leaving { poisoned: self.poisoned(), waiting }
    }

    /// Remembers who had what when the process ended.
    pub(crate) fn mark_suspects(&mut self, crash: Crash, leaving: &Leaving) {
        let now = self.now();
        let sure = self.setup.syncs() || (crash == Crash::Kill && !leaving.poisoned);
        self.model.crashed = true;
        for (group, waiting) in self.model.groups.iter_mut().zip(&leaving.waiting) {
            group.unseen += waiting;
            for progress in &mut group.offsets {
                let held = progress.held_until.take().is_some_and(|until| until > now);
                progress.suspect = sure && held && progress.ack == Ack::No;
                progress.token = 0;
                if !sure {
                    progress.counted = progress.counted.min(progress.counted_synced);
                }
            }
        }
    }
}
