//! What was done, in the order of the log, and what of it was promised.
//!
//! The log is one sequence of events. A crash may keep any prefix of it that holds everything
//! that was promised, and does not cut through the events of one call.

mod letters;

use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use ackline::simulation::Crash;
use ackline::{Position, Record};

use super::at;
use super::setup::{Setup, wall};
pub(crate) use letters::{is_letter_of, letter_source};

/// A record as it was handed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Msg {
    pub(crate) payload: Vec<u8>,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) tag: Option<&'static str>,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) time_ms: u64,
    /// The time is part of the record rather than that of the append.
    pub(crate) timed: bool,
}

impl Msg {
    pub(crate) fn record(&self) -> Record<'static> {
        let mut record = Record::new(self.payload.clone());
        if let Some(key) = &self.key {
            record = record.key(key.clone());
        }
        if let Some(tag) = self.tag {
            record = record.tag(tag);
        }
        for (name, value) in &self.headers {
            record = record.header(name.clone(), value.clone());
        }
        if self.timed { record.timestamp(wall(self.time_ms)) } else { record }
    }
}

/// What lies at an offset.
#[derive(Clone, Debug)]
pub(crate) enum Slot {
    Plain(Rc<Msg>),
    /// A dead letter of one of the sources.
    Letter {
        group: usize,
        sources: Rc<[u64]>,
        reason: &'static str,
        time_ms: u64,
    },
}

impl Slot {
    pub(crate) fn time_ms(&self) -> u64 {
        match self {
            Self::Plain(message) => message.time_ms,
            Self::Letter { time_ms, .. } => *time_ms,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct TopicModel {
    pub(crate) name: String,
    /// What lies at each offset, and which event put it there.
    pub(crate) messages: Vec<(Slot, usize)>,
    /// Below this, retention has taken messages; a crash may bring them back.
    pub(crate) taken: u64,
}

impl TopicModel {
    pub(crate) fn len(&self) -> u64 {
        self.messages.len() as u64
    }
}

/// Whether a message is done in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ack {
    No,
    /// Done, not promised to be so after a crash.
    Maybe,
    /// Done exactly if the event survives.
    With(usize),
    /// Done exactly if so many dead letters of it exist.
    Letter(usize),
    /// Done, and promised.
    Durable,
}

/// What a group knows about an offset.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    pub(crate) ack: Ack,
    /// The highest attempt that counts.
    pub(crate) counted: u32,
    /// The same as of the last time that everything was synced.
    pub(crate) counted_synced: u32,
    pub(crate) deliveries: u32,
    /// The last delivery's number in this process.
    pub(crate) token: u64,
    pub(crate) held_until: Option<Duration>,
    /// It was in somebody's hands when the process ended.
    pub(crate) suspect: bool,
    /// How many dead letters were made of it.
    pub(crate) letters: usize,
    /// It is not delivered before, since it was given back with a delay.
    pub(crate) due: Duration,
    /// That is promised.
    pub(crate) due_durable: bool,
    /// When it was acknowledged or given back.
    pub(crate) changed: Duration,
}

impl Progress {
    pub(crate) fn with(ack: Ack) -> Self {
        Self {
            ack,
            counted: 0,
            counted_synced: 0,
            deliveries: 0,
            token: 0,
            held_until: None,
            suspect: false,
            letters: 0,
            due: Duration::ZERO,
            due_durable: false,
            changed: Duration::ZERO,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct GroupModel {
    pub(crate) topic: usize,
    /// Its plan in the setup.
    pub(crate) plan: usize,
    pub(crate) offsets: Vec<Progress>,
    /// A seek failed; nobody knows whether it took effect.
    pub(crate) seek_unknown: bool,
    /// How many deliveries of a message may have been counted that nobody saw.
    pub(crate) unseen: u32,
}

impl GroupModel {
    /// What is known about an offset; new ones are not done.
    pub(crate) fn get(&self, offset: u64) -> Progress {
        self.offsets.get(at(offset)).copied().unwrap_or(Progress::with(Ack::No))
    }

    pub(crate) fn get_mut(&mut self, offset: u64) -> &mut Progress {
        let index = at(offset);
        if self.offsets.len() <= index {
            self.offsets.resize(index + 1, Progress::with(Ack::No));
        }
        &mut self.offsets[index]
    }

    /// The message is done with.
    pub(crate) fn settle(&mut self, offset: u64, ack: Ack, now: Duration) {
        let progress = self.get_mut(offset);
        progress.ack = ack;
        progress.held_until = None;
        progress.changed = now;
    }

    /// The message was given back, to come again after the delay.
    pub(crate) fn give_back(&mut self, offset: u64, delay: Duration, now: Duration) {
        let progress = self.get_mut(offset);
        progress.held_until = None;
        progress.due = now + delay;
        progress.due_durable = false;
        progress.changed = now;
    }

    /// What was acknowledged and given back until a time is durable.
    pub(crate) fn promise(&mut self, until: Duration) {
        for progress in self.offsets.iter_mut().filter(|progress| progress.changed <= until) {
            if progress.ack == Ack::Maybe {
                progress.ack = Ack::Durable;
            }
            progress.due_durable = true;
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Topic,
    Group,
    Message(usize),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    pub(crate) kind: Kind,
    /// The call that made it; its events survive together.
    pub(crate) call: u64,
    pub(crate) time_ms: u64,
    /// Where in the log it is, if that was said.
    pub(crate) position: Option<Position>,
}

/// What a crash may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// What was never written.
    Kill,
    /// What was never synced.
    Power,
}

impl From<Crash> for Loss {
    fn from(crash: Crash) -> Self {
        match crash {
            Crash::Kill => Self::Kill,
            Crash::Power => Self::Power,
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) topics: Vec<TopicModel>,
    pub(crate) groups: Vec<GroupModel>,
    pub(crate) events: Vec<Event>,
    /// How many events a process kill cannot take, and how many a power cut cannot.
    pub(crate) written: usize,
    pub(crate) synced: usize,
    /// A process ended without closing the log: what it may have delivered counts once.
    pub(crate) crashed: bool,
    /// The time at which events happen.
    pub(crate) now_ms: u64,
    calls: u64,
}

impl Model {
    pub(crate) fn at(now_ms: u64) -> Self {
        Self { now_ms, ..Self::default() }
    }

    /// Begins a call, whose events share a fate.
    pub(crate) fn call(&mut self) -> u64 {
        self.calls += 1;
        self.calls
    }

    fn event(&mut self, kind: Kind, call: u64) -> usize {
        self.events.push(Event { kind, call, time_ms: self.now_ms, position: None });
        self.events.len() - 1
    }

    pub(crate) fn add_topic(&mut self, name: String, call: u64) -> usize {
        self.event(Kind::Topic, call);
        self.topics.push(TopicModel { name, messages: Vec::new(), taken: 0 });
        self.topics.len() - 1
    }

    pub(crate) fn add_group(&mut self, topic: usize, plan: usize, floor: u64, call: u64) {
        self.event(Kind::Group, call);
        let offsets = vec![Progress::with(Ack::Durable); at(floor)];
        self.groups.push(GroupModel { topic, plan, offsets, seek_unknown: false, unseen: 0 });
    }

    pub(crate) fn add_message(&mut self, topic: usize, slot: Slot, call: u64) -> usize {
        let event = self.event(Kind::Message(topic), call);
        self.topics[topic].messages.push((slot, event));
        event
    }

    /// Adds a dead letter, and its topic if that is new.
    pub(crate) fn add_letter(&mut self, topic: &str, slot: Slot) -> usize {
        let call = self.call();
        let id = self.topic_named(topic).unwrap_or_else(|| self.add_topic(topic.to_owned(), call));
        self.add_message(id, slot, call)
    }

    /// Where the log says that an event is.
    pub(crate) fn locate(&mut self, event: usize, position: Position) {
        self.events[event].position = Some(position);
    }

    /// How many deliveries of a message of a group may be counted that nobody saw.
    pub(crate) fn unseen(&self, group: usize) -> u32 {
        self.groups[group].unseen + u32::from(self.crashed)
    }

    /// Whether a group's tag filter lets a message through.
    pub(crate) fn is_wanted(&self, setup: &Setup, group: usize, offset: u64) -> bool {
        let group = &self.groups[group];
        let tag = setup.groups[group.plan].tag;
        match self.topics[group.topic].messages.get(at(offset)) {
            Some((Slot::Plain(message), _)) => tag.is_none() || message.tag == tag,
            _ => true,
        }
    }

    /// The first of the visible offsets whose message is as new as that, or the end of them.
    pub(crate) fn offset_at(&self, topic: usize, mut visible: Range<u64>, ms: u64) -> u64 {
        let (messages, end) = (&self.topics[topic].messages, visible.end);
        visible.find(|&offset| messages[at(offset)].0.time_ms() >= ms).unwrap_or(end)
    }

    pub(crate) fn topic_named(&self, name: &str) -> Option<usize> {
        self.topics.iter().position(|topic| topic.name == name)
    }

    /// Everything so far is written, and with `synced` on the disk.
    pub(crate) fn promise(&mut self, synced: bool) {
        self.written = self.events.len();
        if synced {
            self.synced = self.events.len();
            for progress in self.groups.iter_mut().flat_map(|group| &mut group.offsets) {
                progress.counted_synced = progress.counted;
            }
        }
    }

    /// The event survives.
    pub(crate) fn promise_event(&mut self, event: usize, synced: bool) {
        self.written = self.written.max(event + 1);
        if synced {
            self.synced = self.synced.max(event + 1);
        }
    }

    /// What all groups have acknowledged until a time is durable.
    pub(crate) fn promise_groups(&mut self, until: Duration) {
        for group in &mut self.groups {
            group.promise(until);
        }
    }

    pub(crate) fn promised(&self, loss: Loss) -> usize {
        match loss {
            Loss::Kill => self.written.max(self.synced),
            Loss::Power => self.synced,
        }
    }
}
