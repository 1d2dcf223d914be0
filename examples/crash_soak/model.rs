//! What must be in the log, as far as the supervisor was told: takes what a child tells, and
//! says at once where that cannot be.
//!
//! | file | holds |
//! |---|---|
//! | `model` | what every event means |
//! | `topic` | which record is at which offset, and which of them were promised |
//! | `group` | what each group was given, and what it must not be given again |
//! | `producers` | what was appended at all, and how much of it survived |

use std::collections::{HashMap, HashSet};

use crate::event::{Event, Found};
use crate::group::GroupModel;
use crate::layout::{DEAD, GROUPS, ORDERS, RELAY, RELAYED, TOPICS};
use crate::payload::{self, Ident, Letter};
use crate::plan::Plan;
use crate::producers::Producers;
use crate::topic::TopicModel;

/// Something that must not be.
#[derive(Debug)]
pub(crate) struct Violation(pub(crate) String);

pub(crate) type Verdict<T = ()> = Result<T, Violation>;

pub(crate) fn violation<T>(text: impl Into<String>) -> Verdict<T> {
    Err(Violation(text.into()))
}

/// Numbers for the summary.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) recoveries: u64,
    pub(crate) rewritten_tails: u64,
    pub(crate) torn_tails: u64,
    pub(crate) closed: u64,
    /// Records whose append returned.
    pub(crate) acknowledged: u64,
    /// Different records that were in the log after a crash or were delivered.
    pub(crate) records: u64,
    pub(crate) refused: u64,
    /// Records that were read and compared after an open, some of them many times.
    pub(crate) verified: u64,
    pub(crate) deliveries: u64,
    pub(crate) redeliveries: u64,
    pub(crate) letters: u64,
    pub(crate) relayed: u64,
    /// Records that retention deleted.
    pub(crate) deleted: u64,
    /// Records of an unsynced policy that a power cut took although their append had returned.
    pub(crate) unpromised_lost: u64,
    /// Records that were there although their append had not returned.
    pub(crate) unacknowledged_kept: u64,
}

/// How the next process must find the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// It was opened, and not closed.
    Open,
    Closed,
    /// In the middle of opening or closing.
    Unknown,
}

/// Everything that the supervisor knows.
#[derive(Debug)]
pub(crate) struct Model {
    /// What is not synced may be lost.
    power_cuts: bool,
    /// The power is cut already: nothing that the process still does will be there.
    cut: bool,
    plan: Plan,
    topics: Vec<TopicModel>,
    groups: Vec<GroupModel>,
    producers: Producers,
    /// Where the dead letter of a message of a group is.
    buried: HashMap<(usize, u64), u64>,
    /// Rejects that returned; their letters must be found.
    rejected: HashSet<(usize, u64)>,
    /// Where the record is that was handed on for a source.
    handed_on: HashMap<u64, u64>,
    /// Calls that make everything durable, and what had been told before they began.
    syncs: HashMap<u64, u64>,
    /// How many events were taken.
    now: u64,
    left: Left,
    pub(crate) counts: Counts,
}

impl Model {
    pub(crate) fn new(power_cuts: bool) -> Self {
        Self {
            power_cuts,
            cut: false,
            plan: Plan::drain(0),
            topics: TOPICS.map(|_| TopicModel::default()).into(),
            groups: GROUPS.map(GroupModel::new).into(),
            producers: Producers::default(),
            buried: HashMap::new(),
            rejected: HashSet::new(),
            handed_on: HashMap::new(),
            syncs: HashMap::new(),
            now: 0,
            left: Left::Unknown,
            counts: Counts::default(),
        }
    }

    /// A process is about to start.
    pub(crate) fn begin(&mut self, plan: Plan) {
        self.plan = plan;
    }

    /// The power is cut while the process still runs.
    pub(crate) fn cut(&mut self) {
        self.cut = true;
    }

    /// The process is gone, and with it all that only it knew.
    pub(crate) fn end(&mut self) {
        self.syncs.clear();
        self.cut = false;
        let keeps = self.keeps_written();
        for group in &mut self.groups {
            group.end_process(keeps);
        }
    }

    /// Whether what a call of this process did is promised as soon as the call has returned.
    fn promises(&self) -> bool {
        self.keeps_written() || (self.plan.syncs() && !self.cut)
    }

    /// Whether a crash of this process keeps everything that was written.
    fn keeps_written(&self) -> bool {
        !self.power_cuts
    }

    /// Takes what the child told next.
    pub(crate) fn take(&mut self, event: Event) -> Verdict {
        self.now += 1;
        match event {
            Event::Opening | Event::Drained | Event::Failed => Ok(()),
            Event::Closing => {
                // It may be closed before it tells so.
                self.left = Left::Unknown;
                Ok(())
            }
            Event::Opened { cleanly, rewritten, torn } => self.opened(cleanly, rewritten, torn),
            Event::Reading { topic, start, end } => self.reading(topic, start, end),
            Event::Seen { topic, offset, found } => {
                self.counts.verified += 1;
                self.topics[topic].read_next(offset)?;
                self.place(topic, offset, found)?;
                // What recovery returned is promised from then on, under every policy.
                if self.cut { Ok(()) } else { self.promise(topic, offset, found) }
            }
            Event::Gone { topic, from, to } => {
                self.topics[topic].skip(from, to)?;
                self.delete(topic, to)
            }
            Event::Read { topic, end } => self.topics[topic].read_to(end),
            Event::Working => self.working(),
            Event::Appending { producer, first, count } => {
                self.producers.appending(producer, first, count, self.now)
            }
            Event::Appended { topic, offset, ident } => self.appended(topic, offset, ident),
            Event::Refused { producer, first, count } => {
                self.counts.refused += count;
                self.producers.refused(producer, first, count)
            }
            Event::Delivered { group, offset, attempt, found } => {
                self.delivered(group, offset, attempt, found)
            }
            Event::GivingBack { group, offset, counted } => {
                self.groups[group].give_back(offset, counted)
            }
            Event::Acked { group, offset } => self.groups[group].ack(offset),
            Event::Rejected { group, offset } => self.rejected(group, offset),
            Event::Relayed { source, offset, ident } => {
                self.appended(RELAYED, offset, ident)?;
                self.groups[RELAY].ack(source)?;
                if self.promises() { self.groups[RELAY].settle(source) } else { Ok(()) }
            }
            Event::Committing { group, id } => {
                self.groups[group].begin_commit(id);
                Ok(())
            }
            Event::Committed { group, id } => self.groups[group].end_commit(id, !self.cut),
            Event::CommittedThrough { group, offset } => {
                self.groups[group].settle_through(offset, !self.cut)
            }
            Event::Syncing { id } => {
                self.syncs.insert(id, self.now);
                for group in &mut self.groups {
                    group.begin_commit(id);
                }
                Ok(())
            }
            Event::Synced { id } => self.synced(id),
            Event::Closed => self.closed(),
        }
    }

    fn opened(&mut self, cleanly: bool, rewritten: u64, torn: bool) -> Verdict {
        self.counts.recoveries += u64::from(!cleanly);
        self.counts.rewritten_tails += u64::from(rewritten > 0);
        self.counts.torn_tails += u64::from(torn);
        let wrong = match self.left {
            Left::Open => cleanly,
            // Who was killed before it told that it had opened the log has written no record.
            Left::Closed => !cleanly && (rewritten > 0 || torn),
            Left::Unknown => false,
        };
        if wrong {
            let left = self.left;
            return violation(format!("found closed {cleanly}, torn {torn}, was left {left:?}"));
        }
        self.left = match self.left {
            _ if !self.cut => Left::Open,
            // Of this opening, nothing may be left.
            Left::Closed => Left::Unknown,
            left => left,
        };
        Ok(())
    }

    fn reading(&mut self, topic: usize, start: u64, end: u64) -> Verdict {
        self.delete(topic, start)?;
        self.topics[topic].begin_reading(start, end)
    }

    /// Retention deleted everything below `start`: only what each group was given may go.
    fn delete(&mut self, topic: usize, start: u64) -> Verdict {
        let first = self.topics[topic].deleted();
        for offset in first..start {
            for (number, layout) in GROUPS.iter().enumerate() {
                if layout.topic == topic
                    && !self.groups[number].was_delivered(offset)
                    && !self.buried.contains_key(&(number, offset))
                {
                    let (topic, group) = (TOPICS[topic], layout.name);
                    return violation(format!(
                        "lost: {topic} {offset} was deleted before {group} had it"
                    ));
                }
            }
        }
        for (number, layout) in GROUPS.iter().enumerate() {
            if layout.topic == topic {
                self.groups[number].delete(start);
            }
        }
        self.counts.deleted += start.saturating_sub(first);
        self.topics[topic].delete(start)
    }

    /// Everything was read; what is missing now is lost.
    fn working(&mut self) -> Verdict {
        let mut lost = Vec::new();
        for (number, topic) in self.topics.iter_mut().enumerate() {
            for gone in topic.finish_reading()? {
                lost.push((number, gone));
            }
        }
        let promised: Vec<_> = lost.iter().filter(|(_, gone)| gone.promised).collect();
        if let Some((topic, gone)) = promised.first() {
            let (name, offset, found) = (TOPICS[*topic], gone.offset, gone.found);
            let which = found.map_or(String::new(), |found| format!(", record {}", found.ident));
            let number = promised.len();
            return violation(format!("lost: {number} promised, the first {name} {offset}{which}"));
        }
        for (topic, gone) in &lost {
            self.counts.unpromised_lost += u64::from(gone.appended_at.is_some());
            if let Some(found) = gone.found {
                self.unsettle_by(*topic, gone.offset, found);
            }
        }
        let first_lost = lost.iter().filter_map(|(_, gone)| gone.appended_at).min();
        self.producers.finish_run(self.plan.run, first_lost)?;
        for (group, offset) in &self.rejected {
            if !self.buried.contains_key(&(*group, *offset)) {
                let group = GROUPS[*group].name;
                return violation(format!("lost: the dead letter of {group} {offset}"));
            }
        }
        self.rejected.clear();
        Ok(())
    }

    /// There is a record at an offset: it must be one that was appended, and nowhere else.
    fn place(&mut self, topic: usize, offset: u64, found: Found) -> Verdict {
        let is_new = self.topics[topic].place(offset, found)?;
        if !is_new {
            return Ok(());
        }
        self.counts.records += 1;
        let name = TOPICS[topic];
        match found.letter {
            Some(letter) => self.bury(letter, found.ident, offset),
            None if topic == DEAD => violation(format!("invented: {name} {offset} is no letter")),
            None if (found.ident.producer == payload::RELAY) != (topic == RELAYED) => {
                violation(format!("invented: {} is in {name} at {offset}", found.ident))
            }
            None if topic == RELAYED => self.hand_on(found.ident, offset),
            None => self.producers.found(topic, offset, found.ident),
        }
    }

    fn bury(&mut self, letter: Letter, ident: Ident, offset: u64) -> Verdict {
        let Letter { group, offset: of, attempts, rejected } = letter;
        let name = GROUPS[group].name;
        if let Some(other) = self.buried.insert((group, of), offset) {
            return violation(format!("two dead letters of {name} {of}: {other} and {offset}"));
        }
        if !rejected && attempts < GROUPS[group].attempts_max {
            return violation(format!("{name} {of} is out of attempts after {attempts}"));
        }
        self.counts.letters += 1;
        let source = self.topics[GROUPS[group].topic].found(of);
        match source {
            Some(source) if source.ident != ident => {
                violation(format!("altered: the dead letter of {name} {of} holds {ident}"))
            }
            _ => Ok(()),
        }
    }

    fn hand_on(&mut self, ident: Ident, offset: u64) -> Verdict {
        let source = ident.number;
        if let Some(other) = self.handed_on.insert(source, offset) {
            return violation(format!("{source} was handed on twice, to {other} and {offset}"));
        }
        if !self.groups[RELAY].was_delivered(source) {
            return violation(format!("invented: {source} was handed on and never delivered"));
        }
        self.counts.relayed += 1;
        Ok(())
    }

    /// A record must be there from now on, and so must the acknowledgement that was written in
    /// one with it.
    fn promise(&mut self, topic: usize, offset: u64, found: Found) -> Verdict {
        self.topics[topic].promise(offset);
        let (group, offset) = match found.letter {
            Some(letter) => (letter.group, letter.offset),
            None if found.ident.producer == payload::RELAY => (RELAY, found.ident.number),
            None => return Ok(()),
        };
        self.groups[group].settle(offset)
    }

    /// A record was lost that nobody was promised; so was what it acknowledged.
    fn unsettle_by(&mut self, topic: usize, offset: u64, found: Found) {
        match found.letter {
            Some(letter) => {
                let key = (letter.group, letter.offset);
                self.buried.remove(&key);
                self.rejected.remove(&key);
                self.counts.letters -= 1;
            }
            None if topic == RELAYED => {
                self.handed_on.remove(&found.ident.number);
                self.counts.relayed -= 1;
            }
            None => self.producers.lost(offset, found.ident),
        }
        self.counts.records -= 1;
    }

    fn appended(&mut self, topic: usize, offset: u64, ident: Ident) -> Verdict {
        self.counts.acknowledged += 1;
        self.place(topic, offset, Found { ident, letter: None })?;
        let promised = self.promises();
        self.topics[topic].appended(offset, promised, self.now)
    }

    fn delivered(&mut self, group: usize, offset: u64, attempt: u32, found: Found) -> Verdict {
        let topic = GROUPS[group].topic;
        self.counts.deliveries += 1;
        self.place(topic, offset, found)?;
        if self.keeps_written() || (self.plan.shows_only_durable() && !self.cut) {
            // A reader never sees what a crash could take back.
            self.promise(topic, offset, found)?;
        }
        let durable = self.promises();
        let again = self.groups[group].deliver(offset, attempt, durable)?;
        self.counts.redeliveries += u64::from(again);
        Ok(())
    }

    fn rejected(&mut self, group: usize, offset: u64) -> Verdict {
        self.groups[group].ack(offset)?;
        if self.promises() {
            self.rejected.insert((group, offset));
            self.groups[group].settle(offset)?;
        }
        Ok(())
    }

    fn synced(&mut self, id: u64) -> Verdict {
        let Some(began) = self.syncs.remove(&id) else {
            return violation(format!("sync {id} ended and never began"));
        };
        let durable = !self.cut;
        for topic in &mut self.topics {
            if durable {
                topic.promise_appended_before(began);
            }
        }
        self.groups.iter_mut().try_for_each(|group| group.end_commit(id, durable))
    }

    fn closed(&mut self) -> Verdict {
        self.counts.closed += 1;
        if self.cut {
            return Ok(());
        }
        self.left = Left::Closed;
        for topic in &mut self.topics {
            topic.promise_appended_before(u64::MAX);
        }
        self.groups.iter_mut().try_for_each(GroupModel::settle_acked)
    }

    /// Checks, after the log was drained, that every group had everything.
    pub(crate) fn check_drained(&mut self) -> Verdict {
        for (number, layout) in GROUPS.iter().enumerate() {
            let topic = &self.topics[layout.topic];
            for offset in topic.deleted()..topic.end() {
                let name = (layout.name, TOPICS[layout.topic]);
                let is_buried = self.buried.contains_key(&(number, offset));
                if !is_buried && !self.groups[number].was_delivered(offset) {
                    return violation(format!("{} never had {} {offset}", name.0, name.1));
                }
                if !is_buried && !self.groups[number].was_ended(offset) {
                    return violation(format!("{} never ended {} {offset}", name.0, name.1));
                }
            }
        }
        for source in 0..self.topics[ORDERS].end() {
            let is_buried = self.buried.contains_key(&(RELAY, source));
            if self.handed_on.contains_key(&source) == is_buried {
                return violation(format!("{source} was handed on and buried, or neither"));
            }
        }
        for key in &self.rejected {
            if !self.buried.contains_key(key) {
                return violation(format!("lost: the dead letter of {key:?}"));
            }
        }
        self.counts.unacknowledged_kept = self.counts.records.saturating_sub(
            self.counts.acknowledged - self.counts.unpromised_lost + self.counts.letters,
        );
        Ok(())
    }
}
