//! Adding entries to the open gathering: to its bytes, to the state, and to what readers will be
//! told. Always under the queue's lock.

use std::sync::Arc;

use crate::error::Result;
use crate::format::entry::{self, Content, Progress};
use crate::mutant::{self, Mutant};
use crate::offset::{Epoch, GroupId, Position, TopicId};
use crate::segment::index::{Point, STRIDE_BYTES};
use crate::state::{Contradiction, State};

use super::queue::{Gather, TopicSlot, add_topic, check_topics};

/// Adds entries to the log and to the state at once.
pub(crate) struct Enlisting<'a> {
    pub(crate) state: &'a mut State,
    pub(super) topics: &'a mut Vec<TopicSlot>,
    pub(super) gather: &'a mut Gather,
}

impl Enlisting<'_> {
    /// Where the frame that holds the entries begins.
    pub(crate) fn position(&self) -> Position {
        let frame = self.gather.frames.last().expect("a frame is open");
        self.gather.start.plus(frame.at as u64)
    }

    /// Adds a message, and returns its offset.
    pub(crate) fn message(
        &mut self,
        topic: TopicId,
        timestamp_ms: u64,
        content: &Content<'_>,
    ) -> u64 {
        let (offset, latest_ms) = self.state.append(topic, timestamp_ms);
        entry::encode_message(&mut self.gather.bytes, topic, offset, timestamp_ms, content);
        self.note_message(topic, offset, latest_ms);
        self.count();
        offset
    }

    /// Remembers what readers will be shown, and where they find it.
    fn note_message(&mut self, topic: TopicId, offset: u64, latest_ms: u64) {
        let (at, gather) = (self.position(), &mut *self.gather);
        let slot = &mut self.topics[topic.0 as usize];
        match slot.touched {
            Some((number, i)) if number == gather.number => gather.touched[i].1 = offset + 1,
            _ => {
                slot.touched = Some((gather.number, gather.touched.len()));
                gather.touched.push((Arc::clone(&slot.runtime), offset + 1));
            }
        }
        if slot.last_point.is_none_or(|last| at.0 - last.0 >= STRIDE_BYTES) {
            slot.last_point = Some(at);
            gather.points.push((topic, Point { offset, at, latest_ms }));
        }
        gather.messages += 1;
    }

    /// Takes in the entries of a frame that lies in the gathering as it came.
    pub(super) fn take_all(
        &mut self,
        body: &[u8],
        entries: u32,
    ) -> std::result::Result<(), Contradiction> {
        for entry in entry::Entries::new(body, entries) {
            let entry = entry.map_err(|bad| Contradiction {
                expected: "entries of this version".to_owned(),
                found: format!("{bad:?}"),
            })?;
            let before = match &entry {
                entry::Entry::Message(message) => self.state.topic(message.topic),
                _ => None,
            };
            let latest_ms = before.map_or(0, |topic| topic.latest_ms);
            self.state.apply(&entry)?;
            match entry {
                entry::Entry::Message(message) => {
                    self.note_message(message.topic, message.offset, latest_ms);
                }
                entry::Entry::Topic { name, .. } => add_topic(self.topics, Arc::from(name), 0, 0),
                _ => {}
            }
        }
        Ok(())
    }

    /// Begins an epoch with the frame that holds this entry.
    pub(crate) fn epoch(&mut self, epoch: Epoch) {
        let start = self.position();
        entry::encode_epoch(&mut self.gather.bytes, epoch, start);
        self.apply(&entry::Entry::Epoch { epoch, start });
    }

    /// Fails unless there may be one more topic.
    pub(crate) fn check_topics(&self, topics_max: usize) -> Result<()> {
        check_topics(self.topics, topics_max)
    }

    /// Adds a topic that does not exist yet.
    pub(crate) fn topic(&mut self, name: &str) -> TopicId {
        let id = TopicId(u32::try_from(self.topics.len()).expect("topics are bounded"));
        entry::encode_topic(&mut self.gather.bytes, id, 0, 0, name);
        self.apply(&entry::Entry::Topic { id, next: 0, latest_ms: 0, name });
        add_topic(self.topics, Arc::from(name), 0, 0);
        id
    }

    /// Adds a group, or changes the stored options of an existing one.
    pub(crate) fn group(
        &mut self,
        id: GroupId,
        topic: TopicId,
        floor: u64,
        may_lag: bool,
        name: &str,
    ) {
        entry::encode_group(&mut self.gather.bytes, id, topic, floor, may_lag, name);
        self.apply(&entry::Entry::Group { id, topic, floor, may_lag, name });
    }

    pub(crate) fn progress(&mut self, group: GroupId, progress: Progress) {
        let group = if mutant::on(Mutant::GroupMixedUp) { GroupId(0) } else { group };
        entry::encode_progress(&mut self.gather.bytes, group, &progress);
        self.apply(&entry::Entry::Progress { group, progress });
    }

    pub(crate) fn seek(&mut self, group: GroupId, to: u64) {
        entry::encode_seek(&mut self.gather.bytes, group, to);
        self.apply(&entry::Entry::Seek { group, to });
    }

    fn apply(&mut self, entry: &entry::Entry<'_>) {
        self.state.apply(entry).expect("entries are made from the state that they change");
        self.count();
    }

    fn count(&mut self) {
        self.gather.frames.last_mut().expect("a frame is open").entries += 1;
    }
}
