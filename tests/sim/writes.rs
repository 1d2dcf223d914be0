//! Operations that append.

use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ackline::simulation::Rng;
use ackline::{Batch, Error, Offset, Record};

use super::model::{Ack, Msg, Slot};
use super::setup::{Begin, PAYLOAD_MAX};
use super::world::{Answer, Failed, Submitted, Task, World, is_done};
use super::{Checked, at, ensure, violation};

/// A batch that is not committed yet.
struct Drawn {
    batch: Batch,
    appends: Vec<(usize, Rc<Msg>)>,
    /// The group, the offset and the token of each delivery.
    acks: Vec<(usize, u64, u64)>,
    /// All deliveries are their holders' last ones.
    valid: bool,
    /// One of them may have been taken from its holder.
    lost: bool,
}

impl World {
    /// Creates the next topic that is planned.
    pub(crate) fn create_topic(&mut self, rng: &mut Rng) -> Checked {
        self.count("topic");
        let name = format!("t{}", rng.index(self.setup.topics));
        let known = self.model.topic_named(&name);
        self.note(|| format!("topic {name}"));
        match self.live().log.topic(&name) {
            Ok(topic) => {
                if known.is_none() {
                    self.succeeded("topic")?;
                    let call = self.model.call();
                    self.model.add_topic(name, call);
                    self.model.promise(true);
                    self.live().topics.push(topic);
                }
            }
            Err(error) => {
                if self.failed("topic", &error)? == Failed::Unknown && known.is_none() {
                    let call = self.model.call();
                    self.model.add_topic(name, call);
                }
            }
        }
        Ok(())
    }

    /// Creates a planned group of a topic that exists.
    pub(crate) fn create_group(&mut self, rng: &mut Rng) -> Checked {
        let setup = Rc::clone(&self.setup);
        let plan = rng.index(setup.groups.len());
        let planned = &setup.groups[plan];
        let Some(topic) = self.model.topic_named(&planned.topic) else { return Ok(()) };
        let no_handle = topic >= self.live().topics.len();
        if no_handle || self.model.groups.iter().any(|group| group.plan == plan) {
            return Ok(());
        }
        self.count("group");
        let handle = self.live().topics[topic].clone();
        let offsets = handle.offsets();
        let middle = offsets.start.0 + rng.below(offsets.end.0 - offsets.start.0 + 1);
        let time = super::setup::wall(1_700_000_000_000 + rng.below(100_000));
        let options = planned.options();
        let (floor, options) = match planned.begin {
            Begin::Earliest => (offsets.start, options),
            Begin::Latest => (offsets.end, options.start(ackline::Start::Latest)),
            Begin::Middle => (Offset(middle), options.start(Offset(middle))),
            Begin::Time => match handle.offset_at(time) {
                Ok(offset) => (offset, options.start(time)),
                Err(error) => return self.failed_to_read("offset_at", &error),
            },
        };
        self.note(|| format!("group {} of {} from {floor}", planned.name, planned.topic));
        let created = handle.group_with(&planned.name, options);
        match created {
            Ok(group) => {
                self.succeeded("group")?;
                let call = self.model.call();
                self.model.add_group(topic, plan, floor.0, call);
                self.model.promise(true);
                self.live().groups.push(group);
            }
            Err(error) => {
                if self.failed("group", &error)? == Failed::Unknown {
                    let call = self.model.call();
                    self.model.add_group(topic, plan, floor.0, call);
                }
            }
        }
        Ok(())
    }

    /// Appends one record, with or without a condition on its offset.
    pub(crate) fn append(&mut self, rng: &mut Rng, conditional: bool) -> Checked {
        let Some(topic) = self.draw_topic(rng) else { return Ok(()) };
        self.count(if conditional { "append_if" } else { "append" });
        let message = self.draw_message(rng);
        let next = self.model.topics[topic].len();
        let expected = if rng.chance(1, 3) { next + 1 } else { next };
        let oversized = !conditional && rng.chance(1, 40);
        self.note(|| format!("append {} bytes to #{topic}, {next}", message.payload.len()));
        let handle = self.live().topics[topic].clone();
        let result = if conditional {
            handle.append_if(Offset(expected), message.record())
        } else if oversized {
            handle.append(Record::new(vec![7; PAYLOAD_MAX + 1]))
        } else {
            handle.append(message.record())
        };
        match result {
            Ok(receipt) => {
                self.succeeded("append")?;
                ensure!(!oversized, "a payload over the limit was taken");
                ensure!(!conditional || expected == next, "append_if took {expected} for {next}");
                ensure!(receipt.offset.0 == next, "append answered {} for {next}", receipt.offset);
                let call = self.model.call();
                let event = self.model.add_message(topic, Slot::Plain(message), call);
                self.model.locate(event, receipt.position);
                self.promise_by_policy();
                self.found_room();
                let visible = handle.offsets().end.0 == next + 1;
                ensure!(visible || !self.setup.syncs(), "an appended message is not visible");
                Ok(())
            }
            Err(Error::TooLarge { .. }) if oversized => Ok(()),
            Err(Error::Conflict { actual, .. }) if conditional && expected != next => {
                self.succeeded("append_if")?;
                ensure!(actual.0 == next, "append_if said {actual} for {next}");
                Ok(())
            }
            Err(error) => {
                if self.failed("append", &error)? == Failed::Unknown && !oversized {
                    let call = self.model.call();
                    self.model.add_message(topic, Slot::Plain(message), call);
                }
                Ok(())
            }
        }
    }

    /// What was appended is as safe as the policy says.
    pub(crate) fn promise_by_policy(&mut self) {
        let syncs = self.setup.syncs();
        self.model.promise(syncs);
    }

    pub(crate) fn submit(&mut self, rng: &mut Rng) -> Checked {
        let Some(topic) = self.draw_topic(rng) else { return Ok(()) };
        self.count("submit");
        let message = self.draw_message(rng);
        let offset = self.model.topics[topic].len();
        self.note(|| format!("submit {} bytes to #{topic}, {offset}", message.payload.len()));
        let pending = self.live().topics[topic].submit(message.record());
        // A handle that is answered already has not been queued.
        if is_done(&pending) {
            return match pending.wait() {
                Ok(_) => violation!("a submit was done at once"),
                Err(error) => {
                    if self.failed("submit", &error)? == Failed::Unknown {
                        let call = self.model.call();
                        self.model.add_message(topic, Slot::Plain(message), call);
                    }
                    Ok(())
                }
            };
        }
        let call = self.model.call();
        let event = self.model.add_message(topic, Slot::Plain(message), call);
        let answer = match rng.below(4) {
            0 => {
                pending.detach();
                return Ok(());
            }
            1 => {
                let mut task = Task::new(pending);
                let ready = task.poll();
                ensure!(ready.is_pending(), "a submit was done at once: {ready:?}");
                Answer::Task(task)
            }
            2 => {
                let arrival = Arc::new(Mutex::new(None));
                let sender = Arc::clone(&arrival);
                pending.on_complete(move |result| {
                    *sender.lock().expect("not poisoned") = Some(result);
                });
                Answer::Callback(arrival)
            }
            _ => Answer::Handle(pending),
        };
        self.actor().submitted.push(Submitted { event, offset, answer });
        Ok(())
    }

    /// Waits for one of the submits, or moves one to another task.
    pub(crate) fn wait_for_submit(&mut self, rng: &mut Rng) -> Checked {
        let submitted = &mut self.actor().submitted;
        if rng.chance(1, 4) {
            let tasks = submitted.iter_mut().filter_map(|submitted| match &mut submitted.answer {
                Answer::Task(task) => Some(task),
                _ => None,
            });
            for task in tasks {
                task.move_on();
                let ready = task.poll();
                ensure!(ready.is_pending(), "a submit was done and its task not woken: {ready:?}");
            }
            return Ok(());
        }
        let handles: Vec<usize> = (0..submitted.len())
            .filter(|&i| matches!(submitted[i].answer, Answer::Handle(_)))
            .collect();
        if handles.is_empty() {
            return Ok(());
        }
        let chosen = submitted.swap_remove(handles[rng.index(handles.len())]);
        self.count("wait");
        let Submitted { event, offset, answer } = chosen;
        self.note(|| format!("wait for the submit of {offset}"));
        let Answer::Handle(pending) = answer else { return Ok(()) };
        match pending.wait_timeout(Duration::from_secs(1)) {
            Ok(Ok(receipt)) => self.answered(event, offset, receipt)?,
            Ok(Err(error)) => {
                self.failed("wait", &error)?;
            }
            Err(_) => violation!("waiting for a submit timed out with nobody else writing"),
        }
        Ok(())
    }

    pub(crate) fn append_batch(&mut self, rng: &mut Rng) -> Checked {
        let Some(topic) = self.draw_topic(rng) else { return Ok(()) };
        self.count("append_batch");
        let count = if rng.chance(1, 6) { 8 + rng.index(16) } else { 1 + rng.index(4) };
        let messages: Vec<Rc<Msg>> = (0..count).map(|_| self.draw_message(rng)).collect();
        let next = self.model.topics[topic].len();
        self.note(|| format!("append_batch of {count} to #{topic}, {next}"));
        let records: Vec<Record<'_>> = messages.iter().map(|message| message.record()).collect();
        let result = self.live().topics[topic].append_batch(records);
        let unknown = match &result {
            Ok(receipt) => {
                self.succeeded("append_batch")?;
                let (start, end) = (receipt.offsets.start.0, receipt.offsets.end.0);
                ensure!(start == next && end == next + count as u64, "batch at {start}..{end}");
                self.found_room();
                false
            }
            Err(error) => {
                if self.failed("append_batch", error)? == Failed::Refused {
                    return Ok(());
                }
                true
            }
        };
        let call = self.model.call();
        for message in messages {
            let event = self.model.add_message(topic, Slot::Plain(message), call);
            if let Ok(receipt) = &result {
                self.model.locate(event, receipt.position);
            }
        }
        if !unknown {
            self.promise_by_policy();
        }
        Ok(())
    }

    /// Draws what is to happen in a batch.
    fn draw_batch(&mut self, rng: &mut Rng) -> Drawn {
        let mut batch = self.live().log.batch();
        let mut appends = Vec::new();
        for _ in 0..rng.index(4) {
            let Some(topic) = self.draw_topic(rng) else { break };
            let message = self.draw_message(rng);
            batch = batch.append(&self.live().topics[topic], message.record());
            appends.push((topic, message));
        }
        let mut acks = Vec::new();
        let (mut valid, mut lost) = (true, false);
        for _ in 0..rng.index(4) {
            let hands = self.actor().hands.len();
            if hands == 0 {
                break;
            }
            let hand = self.actor().hands.swap_remove(rng.index(hands));
            valid &= self.is_current(hand.group, hand.offset, hand.token);
            lost |= self.is_lost(hand.group, hand.offset);
            acks.push((hand.group, hand.offset, hand.token));
            batch = batch.ack(hand.delivery);
        }
        Drawn { batch, appends, acks, valid, lost }
    }

    /// Appends to several topics and acknowledges several deliveries, all or nothing.
    pub(crate) fn batch(&mut self, rng: &mut Rng) -> Checked {
        self.count("batch");
        let Drawn { batch, appends, acks, valid, lost } = self.draw_batch(rng);
        self.note(|| format!("batch of {} appends, acks {acks:?}", appends.len()));
        let firsts: Vec<u64> =
            self.model.topics.iter().map(super::model::TopicModel::len).collect();
        let result = batch.commit();
        let unknown = match &result {
            Ok(receipts) => {
                ensure!(valid, "a batch took a stale delivery");
                let mut next = firsts;
                for ((topic, _), receipt) in appends.iter().zip(receipts) {
                    ensure!(receipt.offset.0 == next[*topic], "batch: offset {}", receipt.offset);
                    next[*topic] += 1;
                }
                false
            }
            Err(Error::StaleLease { .. } | Error::AlreadyAcked { .. }) if !valid || lost => {
                self.succeeded("batch")?;
                self.give_back(&acks);
                return Ok(());
            }
            Err(error) => {
                // One with a stale delivery cannot have been written, whatever else went wrong.
                if self.failed("batch", error)? == Failed::Refused || !valid {
                    self.give_back(&acks);
                    return Ok(());
                }
                true
            }
        };
        let idle = appends.is_empty() && acks.is_empty();
        let call = self.model.call();
        let mut event = None;
        for (i, (topic, message)) in appends.into_iter().enumerate() {
            let added = self.model.add_message(topic, Slot::Plain(message), call);
            if let Ok(receipts) = &result {
                self.model.locate(added, receipts[i].position);
            }
            event = Some(added);
        }
        let ack = match event {
            Some(event) => Ack::With(event),
            None if unknown || !self.setup.syncs() => Ack::Maybe,
            None => Ack::Durable,
        };
        let now = self.now();
        for (group, offset, _) in acks {
            self.model.groups[group].settle(offset, ack, now);
        }
        if !unknown && !idle {
            self.succeeded("batch")?;
            self.promise_by_policy();
        }
        Ok(())
    }

    /// The leases of a batch that was refused have ended.
    fn give_back(&mut self, acks: &[(usize, u64, u64)]) {
        for (group, offset, token) in acks {
            if self.is_current(*group, *offset, *token) {
                self.model.groups[*group].get_mut(*offset).held_until = None;
            }
        }
    }

    /// Whether the delivery with this token is the last one of its message, and not settled.
    pub(crate) fn is_current(&mut self, group: usize, offset: u64, token: u64) -> bool {
        let valid_from = self.live().valid_from.get(&group).copied().unwrap_or(0);
        let offsets = &self.model.groups[group].offsets;
        let current = offsets.get(at(offset));
        token >= valid_from
            && current.is_some_and(|found| found.token == token && found.ack == Ack::No)
    }
}
