//! What the log says, as pure state machines: a fold over entries. The same fold runs when
//! entries are appended, when they are replayed, and when a checkpoint is read.

pub(crate) mod lease;
pub(crate) mod progress;
pub(crate) mod ranges;

use std::collections::HashMap;
use std::sync::Arc;

use crate::format::entry::{
    Attempt, Entry, Run, encode_epoch, encode_group, encode_progress, encode_topic,
};
use crate::mutant::{self, Mutant};
use crate::offset::{Epoch, GroupId, NUMBER_MAX, Position, TopicId};
use progress::GroupProgress;

/// How many epochs are remembered. A replica that was last heard of more leaders ago has to be
/// emptied, and begins with a snapshot.
const EPOCHS_MAX: usize = 1000;

/// How many topics or groups may be missing in one gap; more is not a gap but damage.
const INVENTED_MAX: u64 = 10_000;

/// Everything that a checkpoint holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    topics: Vec<TopicState>,
    groups: Vec<GroupState>,
    /// The epochs in which frames were written, with where each begins; none before there was a
    /// leader. The oldest are forgotten.
    epochs: Vec<(Epoch, Position)>,
    topic_names: HashMap<Arc<str>, TopicId>,
    group_names: HashMap<(TopicId, Arc<str>), GroupId>,
}

/// A topic, as of some position of the log.
#[derive(Clone, Debug)]
pub(crate) struct TopicState {
    pub(crate) name: Arc<str>,
    /// The offset that the next message gets.
    pub(crate) next: u64,
    /// The latest timestamp of any message so far; never falls.
    pub(crate) latest_ms: u64,
}

/// A group, as of some position of the log.
#[derive(Clone, Debug)]
pub(crate) struct GroupState {
    pub(crate) name: Arc<str>,
    pub(crate) topic: TopicId,
    /// At the size limit, messages may be taken from the group instead of refusing appends.
    pub(crate) may_lag: bool,
    pub(crate) progress: GroupProgress,
}

/// An entry that contradicts what came before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contradiction {
    pub(crate) expected: String,
    pub(crate) found: String,
}

impl State {
    /// Takes in the next entry of the log or of a checkpoint.
    pub(crate) fn apply(&mut self, entry: &Entry<'_>) -> Result<(), Contradiction> {
        match entry {
            Entry::Message(message) => {
                let topic = self.topic_mut(message.topic)?;
                if message.offset != topic.next {
                    return Err(contradiction("offset", topic.next, message.offset));
                }
                check_number(message.offset)?;
                topic.next += 1;
                topic.latest_ms = topic.latest_ms.max(message.timestamp_ms);
            }
            Entry::Topic { id, next, latest_ms, name } => {
                check_number(*next)?;
                if id.0 as usize != self.topics.len() {
                    return Err(contradiction("topic", self.topics.len() as u64, id.0.into()));
                }
                let name: Arc<str> = Arc::from(*name);
                self.topic_names.insert(Arc::clone(&name), *id);
                self.topics.push(TopicState { name, next: *next, latest_ms: *latest_ms });
            }
            Entry::Group { id, topic, floor, may_lag, name } => {
                check_number(*floor)?;
                self.topic_mut(*topic)?;
                let known = self.groups.len();
                if let Some(group) = self.groups.get_mut(id.0 as usize) {
                    group.may_lag = *may_lag;
                } else if id.0 as usize == known {
                    let (name, may_lag): (Arc<str>, bool) = (Arc::from(*name), *may_lag);
                    self.group_names.insert((*topic, Arc::clone(&name)), *id);
                    let progress = GroupProgress::starting_at(*floor);
                    self.groups.push(GroupState { name, topic: *topic, may_lag, progress });
                } else {
                    return Err(contradiction("group", known as u64, id.0.into()));
                }
            }
            Entry::Progress { group, progress } => {
                let group = self.group_mut(*group)?;
                check_number(progress.delivered)?;
                progress.acked.iter().try_for_each(|range| check_number(range.end))?;
                let after = |attempt: &Attempt| attempt.offset.saturating_add(1);
                progress.attempts.iter().map(after).try_for_each(check_number)?;
                group.progress.apply(progress);
            }
            Entry::Seek { group, to } => {
                check_number(*to)?;
                self.group_mut(*group)?.progress.seek(*to);
            }
            Entry::Epoch { epoch, start } => {
                check_number(epoch.0)?;
                check_number(start.0)?;
                if let Some(last) = self.epochs.last()
                    && (*epoch <= last.0 || *start < last.1)
                {
                    return Err(contradiction("an epoch after", last.0.0, epoch.0));
                }
                self.add_epoch(*epoch, *start);
            }
        }
        Ok(())
    }

    /// Prepares for what follows a gap: messages of each topic may be missing.
    ///
    /// A topic or group whose making was lost gets a name that says so when it is met.
    pub(crate) fn apply_after_gap(&mut self, entry: &Entry<'_>) -> Result<(), Contradiction> {
        match entry {
            Entry::Message(message) => {
                self.invent_topics(message.topic.0)?;
                check_number(message.offset)?;
                let topic = self.topic_mut(message.topic)?;
                topic.next = topic.next.max(message.offset);
            }
            Entry::Topic { id, .. } => self.invent_topics_below(id.0)?,
            Entry::Group { id, topic, .. } => {
                self.invent_topics(topic.0)?;
                self.invent_groups_below(id.0, *topic)?;
            }
            // Progress of a group that nobody knows helps nobody.
            Entry::Progress { group, .. } | Entry::Seek { group, .. }
                if self.group(*group).is_none() =>
            {
                return Ok(());
            }
            Entry::Progress { .. } | Entry::Seek { .. } | Entry::Epoch { .. } => {}
        }
        self.apply(entry)
    }

    fn invent_topics(&mut self, id: u32) -> Result<(), Contradiction> {
        self.invent_topics_below(id.saturating_add(1))
    }

    fn invent_topics_below(&mut self, bound: u32) -> Result<(), Contradiction> {
        let known = self.topics.len() as u64;
        if u64::from(bound) > known + INVENTED_MAX {
            return Err(contradiction("a topic near", known, bound.into()));
        }
        while self.topics.len() < bound as usize {
            let id = u32::try_from(self.topics.len()).expect("below the bound");
            let name = format!("lost topic {id}");
            self.apply(&Entry::Topic { id: TopicId(id), next: 0, latest_ms: 0, name: &name })?;
        }
        Ok(())
    }

    fn invent_groups_below(&mut self, bound: u32, topic: TopicId) -> Result<(), Contradiction> {
        let known = self.groups.len() as u64;
        if u64::from(bound) > known + INVENTED_MAX {
            return Err(contradiction("a group near", known, bound.into()));
        }
        while self.groups.len() < bound as usize {
            let id = GroupId(u32::try_from(self.groups.len()).expect("below the bound"));
            let name = format!("lost group {}", id.0);
            self.apply(&Entry::Group { id, topic, floor: 0, may_lag: true, name: &name })?;
        }
        Ok(())
    }

    fn add_epoch(&mut self, epoch: Epoch, start: Position) {
        if self.epochs.is_empty() && epoch > Epoch(0) {
            // What was written before the first leader is an epoch, too, be it nothing: all copies
            // of a log have that in common. From a checkpoint that has forgotten it, so many
            // others follow that it is forgotten here as well.
            self.epochs.push((Epoch(0), Position(0)));
        }
        if self.epochs.len() == EPOCHS_MAX {
            self.epochs.remove(0);
        }
        self.epochs.push((epoch, start));
    }

    /// The epochs in which frames were written, with where each begins; never none.
    pub(crate) fn epochs(&self) -> Vec<(Epoch, Position)> {
        if self.epochs.is_empty() { vec![(Epoch(0), Position(0))] } else { self.epochs.clone() }
    }

    /// Takes in the next message of a topic; returns its offset, and the latest timestamp of the
    /// messages before it.
    ///
    /// # Panics
    ///
    /// Panics if the topic does not exist.
    pub(crate) fn append(&mut self, topic: TopicId, timestamp_ms: u64) -> (u64, u64) {
        let topic = &mut self.topics[topic.0 as usize];
        let before = (topic.next, topic.latest_ms);
        topic.next += 1;
        topic.latest_ms = topic.latest_ms.max(timestamp_ms);
        before
    }

    /// Takes in messages of a topic that follow its last one.
    ///
    /// # Panics
    ///
    /// Panics if the topic does not exist.
    pub(crate) fn append_run(&mut self, topic: TopicId, run: &Run) {
        let topic = &mut self.topics[topic.0 as usize];
        topic.next += run.messages;
        topic.latest_ms = topic.latest_ms.max(run.latest_ms);
    }

    /// Writes the entries from which [`apply`](Self::apply) makes this state again, and returns
    /// their number.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> u32 {
        let mut entries = 0;
        for (id, topic) in (0..).map(TopicId).zip(&self.topics) {
            let lacks_time = mutant::on(Mutant::CheckpointWithoutTimes);
            let latest_ms = if lacks_time { 0 } else { topic.latest_ms };
            encode_topic(out, id, topic.next, latest_ms, &topic.name);
            entries += 1;
        }
        for (id, group) in (0..).map(GroupId).zip(&self.groups) {
            let floor = group.progress.floor;
            encode_group(out, id, group.topic, floor, group.may_lag, &group.name);
            let mut progress = group.progress.to_progress();
            if mutant::on(Mutant::CheckpointWithoutAttempts) {
                progress.attempts.clear();
            }
            encode_progress(out, id, &progress);
            entries += 2;
        }
        for (epoch, start) in &self.epochs {
            encode_epoch(out, *epoch, *start);
            entries += 1;
        }
        entries
    }

    pub(crate) fn topics(&self) -> &[TopicState] {
        &self.topics
    }

    pub(crate) fn groups(&self) -> &[GroupState] {
        &self.groups
    }

    pub(crate) fn topic(&self, id: TopicId) -> Option<&TopicState> {
        self.topics.get(id.0 as usize)
    }

    pub(crate) fn group(&self, id: GroupId) -> Option<&GroupState> {
        self.groups.get(id.0 as usize)
    }

    pub(crate) fn topic_named(&self, name: &str) -> Option<TopicId> {
        self.topic_names.get(name).copied()
    }

    pub(crate) fn group_named(&self, topic: TopicId, name: &str) -> Option<GroupId> {
        // A tuple key cannot be borrowed in parts; names are looked up when a handle is made.
        self.group_names.get(&(topic, Arc::from(name))).copied()
    }

    fn topic_mut(&mut self, id: TopicId) -> Result<&mut TopicState, Contradiction> {
        let known = self.topics.len() as u64;
        let unknown = || contradiction("a topic below", known, id.0.into());
        self.topics.get_mut(id.0 as usize).ok_or_else(unknown)
    }

    fn group_mut(&mut self, id: GroupId) -> Result<&mut GroupState, Contradiction> {
        let known = self.groups.len() as u64;
        let unknown = || contradiction("a group below", known, id.0.into());
        self.groups.get_mut(id.0 as usize).ok_or_else(unknown)
    }
}

fn check_number(number: u64) -> Result<(), Contradiction> {
    if number < NUMBER_MAX {
        return Ok(());
    }
    Err(contradiction("an offset below", NUMBER_MAX, number))
}

fn contradiction(what: &str, expected: u64, found: u64) -> Contradiction {
    Contradiction { expected: format!("{what} {expected}"), found: found.to_string() }
}

#[cfg(test)]
#[path = "bounds_tests.rs"]
mod tests;
