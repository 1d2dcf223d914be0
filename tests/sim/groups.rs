//! Operations of groups: polling, the outcomes of deliveries, commits and seeks.

use std::rc::Rc;
use std::time::Duration;

use ackline::simulation::{Crash, Rng};
use ackline::{Error, Explanation, Offset, Start};

use super::model::{Ack, Progress, Slot};
use super::world::{Failed, Hand, World};
use super::{Checked, at, ensure};

impl World {
    pub(crate) fn poll(&mut self, rng: &mut Rng) -> Checked {
        let Some(group) = self.draw_group(rng) else { return Ok(()) };
        self.count("poll");
        let max = if rng.chance(1, 3) { 100 } else { 1 + rng.index(6) };
        let result = self.live().groups[group].poll(max, Duration::ZERO);
        let deliveries = match result {
            Ok(deliveries) => deliveries,
            Err(Error::Lagged { .. }) if self.setup.lossy => return self.take_exhausted(group),
            Err(error) => {
                self.model.slack += 1;
                let was_poisoned = self.live().poisoned;
                self.failed("poll", &error)?;
                // Dead letters may have been queued before it failed.
                return if was_poisoned { Ok(()) } else { self.take_exhausted(group) };
            }
        };
        ensure!(deliveries.len() <= max, "polled {} of {max}", deliveries.len());
        self.note(|| {
            let got: Vec<_> =
                deliveries.iter().map(|got| (got.offset().0, got.attempt())).collect();
            format!("poll {max} of group {group}: {got:?}")
        });
        let alone = deliveries.len() == 1;
        for delivery in deliveries {
            let (offset, attempt) = (delivery.offset().0, delivery.attempt());
            let topic = self.model.groups[group].topic;
            self.model.check(&self.setup, topic, delivery.message())?;
            self.check_delivery(group, offset, attempt, alone)?;
            let token = self.next_token;
            self.next_token += 1;
            let lease = self.setup.groups[self.model.groups[group].plan].lease;
            let until = self.now() + lease;
            let progress = self.model.groups[group].get_mut(offset);
            progress.counted = attempt;
            progress.deliveries += 1;
            progress.token = token;
            progress.held_until = Some(until);
            progress.suspect = false;
            self.live().hands.push(Hand { delivery, group, offset, token, attempt });
        }
        self.take_exhausted(group)
    }

    fn check_delivery(&self, id: usize, offset: u64, attempt: u32, alone: bool) -> Checked {
        let group = &self.model.groups[id];
        let plan = &self.setup.groups[group.plan];
        let (progress, now) = (group.get(offset), self.clock_now());
        let place = format_args!("group {id}, offset {offset}, attempt {attempt}");
        ensure!(progress.ack == Ack::No, "delivered although done ({:?}): {place}", progress.ack);
        let held = progress.held_until.is_some_and(|until| until > now);
        ensure!(!held, "delivered while somebody holds it: {place}");
        let counted = progress.counted;
        ensure!(attempt > counted, "attempts went back from {counted}: {place}");
        let most = progress.deliveries + self.model.slack + 1;
        ensure!(attempt <= most, "at most {most} attempts can be: {place}");
        ensure!(attempt <= plan.attempts_max, "over the limit: {place}");
        let (Slot::Plain(message), _) = &self.model.topics[group.topic].messages[at(offset)] else {
            return Ok(());
        };
        let wanted = plan.tag.is_none() || plan.tag == message.tag;
        ensure!(wanted, "delivered in spite of the tag filter: {place}");
        let holds = |found: &&Progress| found.held_until.is_some_and(|until| until > now);
        // What retention took from its holder is not in flight any more.
        let in_flight =
            if self.setup.lossy { 0 } else { group.offsets.iter().filter(holds).count() };
        ensure!(in_flight < plan.in_flight_max, "too many in flight: {place}");
        ensure!(!progress.suspect || (alone && in_flight == 0), "a suspect in company: {place}");
        Ok(())
    }

    fn clock_now(&self) -> Duration {
        self.now()
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
            let tries = progress.deliveries + self.model.slack;
            if progress.ack != Ack::No || held || tries < plan.attempts_max {
                continue;
            }
            if let (Slot::Plain(message), _) = &self.model.topics[group.topic].messages[at(offset)]
                && plan.tag.is_some_and(|tag| message.tag != Some(tag))
            {
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
            progress.ack = if buried.len() == 1 { Ack::With(event) } else { Ack::Letter(nth) };
            progress.held_until = None;
        }
        self.open_new_topics()
    }

    /// Ends, or prolongs, one of the deliveries that are out.
    pub(crate) fn settle(&mut self, rng: &mut Rng) -> Checked {
        let hands = self.live().hands.len();
        if hands == 0 {
            return Ok(());
        }
        let hand = self.live().hands.swap_remove(rng.index(hands));
        let Hand { group, offset, token, .. } = hand;
        let current = self.is_current(group, offset, token);
        let until = self.model.groups[group].get(offset).held_until;
        // Retention may have taken it out of its holder's hands.
        let lost = self.is_lost(group, offset);
        let held = current && !lost && until.is_some_and(|until| until > self.now());
        match rng.below(16) {
            0 => self.retry(rng, hand, current, held),
            1 => self.release(hand, current, held),
            2 => self.reject(hand, current, lost),
            3 => {
                self.count("drop");
                self.note(|| format!("drop {group}/{offset}"));
                drop(hand);
                if current {
                    self.model.groups[group].get_mut(offset).held_until = None;
                }
                Ok(())
            }
            4 => self.extend(rng, hand, current, held),
            _ => {
                self.count("ack");
                self.note(|| format!("ack {group}/{offset}"));
                let result = hand.delivery.ack();
                if self.outcome("ack", result, current, current && !lost)? {
                    let progress = self.model.groups[group].get_mut(offset);
                    progress.ack = Ack::Maybe;
                    progress.held_until = None;
                }
                Ok(())
            }
        }
    }

    /// Whether retention has taken a message that a group had not done with.
    pub(crate) fn is_lost(&mut self, group: usize, offset: u64) -> bool {
        let start = self.live().groups[group].topic().offsets().start.0;
        self.setup.lossy && offset < start
    }

    /// Whether an outcome took effect. It may if `may`, and must if `must`.
    fn outcome(
        &mut self,
        call: &str,
        result: ackline::Result<()>,
        may: bool,
        must: bool,
    ) -> Checked<bool> {
        match result {
            Ok(()) => {
                ensure!(may, "{call} succeeded for a lease that is over");
                Ok(true)
            }
            Err(
                error @ (Error::StaleLease { .. }
                | Error::AlreadyAcked { .. }
                | Error::NotLeased { .. }),
            ) => {
                ensure!(!must, "{call} refused: {error}");
                Ok(false)
            }
            Err(error) => {
                self.failed(call, &error)?;
                Ok(false)
            }
        }
    }

    fn retry(&mut self, rng: &mut Rng, hand: Hand, current: bool, held: bool) -> Checked {
        self.count("retry_after");
        let Hand { group, offset, .. } = hand;
        let delay = Duration::from_millis(rng.below(20_000));
        self.note(|| format!("retry {group}/{offset} after {delay:?}"));
        let result =
            if rng.chance(1, 2) { hand.delivery.retry() } else { hand.delivery.retry_after(delay) };
        self.outcome("retry", result, current, held)?;
        if current {
            self.model.groups[group].get_mut(offset).held_until = None;
        }
        Ok(())
    }

    fn release(&mut self, hand: Hand, current: bool, held: bool) -> Checked {
        self.count("release");
        let Hand { group, offset, attempt, .. } = hand;
        self.note(|| format!("release {group}/{offset}"));
        let result = hand.delivery.release();
        let released = self.outcome("release", result, current, held)?;
        let progress = self.model.groups[group].get_mut(offset);
        if released {
            progress.counted = attempt - 1;
            progress.counted_synced = progress.counted_synced.min(attempt - 1);
        }
        if current {
            progress.held_until = None;
        }
        Ok(())
    }

    fn extend(&mut self, rng: &mut Rng, hand: Hand, current: bool, held: bool) -> Checked {
        self.count("extend");
        let Hand { group, offset, .. } = hand;
        let by = Duration::from_millis(rng.below(60_000));
        self.note(|| format!("extend {group}/{offset} by {by:?}"));
        let result = hand.delivery.extend(by);
        if self.outcome("extend", result, current, held)? {
            let until = self.now() + by;
            self.model.groups[group].get_mut(offset).held_until = Some(until);
        }
        self.live().hands.push(hand);
        Ok(())
    }

    fn reject(&mut self, hand: Hand, current: bool, lost: bool) -> Checked {
        self.count("reject");
        let Hand { group, offset, .. } = hand;
        self.note(|| format!("reject {group}/{offset}"));
        let dead = self.live().groups[group].dead_letter_topic();
        let result = hand.delivery.reject("bad");
        let unknown = match &result {
            Ok(()) => false,
            Err(
                Error::StaleLease { .. } | Error::AlreadyAcked { .. } | Error::NotLeased { .. },
            ) => {
                ensure!(!current || lost, "reject refused a lease that was not over");
                return Ok(());
            }
            Err(error) => {
                if self.failed("reject", error)? == Failed::Refused {
                    if current {
                        self.model.groups[group].get_mut(offset).held_until = None;
                    }
                    return Ok(());
                }
                true
            }
        };
        ensure!(current || unknown, "reject succeeded for a lease that is over");
        let slot = self.letter(group, vec![offset], "bad");
        let event = self.model.add_letter(&dead, slot);
        let progress = self.model.groups[group].get_mut(offset);
        progress.ack = Ack::With(event);
        progress.letters += 1;
        progress.held_until = None;
        if !unknown {
            self.promise_by_policy();
        }
        self.open_new_topics()
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
                let progress = self.model.groups[group].get_mut(offset);
                progress.ack = Ack::Maybe;
                progress.held_until = None;
                Ok(())
            }
            Err(Error::AlreadyAcked { .. }) => {
                ensure!(!open || filtered || lossy, "{group}/{offset} was not acknowledged yet");
                Ok(())
            }
            Err(Error::NotLeased { .. }) => Ok(()),
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
                self.model.groups[group].promise();
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
        for offset in 0..=through {
            let progress = self.model.groups[group].get_mut(offset);
            progress.held_until = None;
            if progress.ack == Ack::No {
                progress.ack = Ack::Maybe;
            }
        }
        if result.is_ok() {
            self.succeeded("commit_through")?;
            self.model.promise(true);
            self.model.groups[group].promise();
        }
        Ok(())
    }

    pub(crate) fn seek(&mut self, rng: &mut Rng) -> Checked {
        let Some(group) = self.draw_group(rng) else { return Ok(()) };
        let offsets = self.live().groups[group].topic().offsets();
        let (start, end) = (offsets.start.0, offsets.end.0);
        let (to, target) = match rng.below(4) {
            0 => (start, Start::Earliest),
            1 => (end, Start::Latest),
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

    /// Remembers who had what when the process ended.
    pub(crate) fn mark_suspects(&mut self, crash: Crash) {
        let now = self.now();
        let poisoned = self.live.as_ref().is_some_and(|live| live.log.stats().poisoned);
        let sure = self.setup.syncs() || (crash == Crash::Kill && !poisoned);
        for group in &mut self.model.groups {
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
