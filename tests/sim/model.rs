//! What was done, in the order of the log, and what of it was promised.
//!
//! The log is one sequence of events. A crash may keep any prefix of it that holds everything
//! that was promised, and does not cut through the events of one call.

use std::rc::Rc;
use std::time::Duration;

use ackline::simulation::Crash;
use ackline::{Message, Record};

use super::setup::{Setup, wall};
use super::{Checked, at, ensure, violation};

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
    pub(crate) fn record(&self) -> Record {
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

    /// What was acknowledged so far is durable.
    pub(crate) fn promise(&mut self) {
        for progress in &mut self.offsets {
            if progress.ack == Ack::Maybe {
                progress.ack = Ack::Durable;
            }
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
    /// How many deliveries may have been counted that nobody saw.
    pub(crate) slack: u32,
    calls: u64,
}

impl Model {
    /// Begins a call, whose events share a fate.
    pub(crate) fn call(&mut self) -> u64 {
        self.calls += 1;
        self.calls
    }

    fn event(&mut self, kind: Kind, call: u64) -> usize {
        self.events.push(Event { kind, call });
        self.events.len() - 1
    }

    pub(crate) fn add_topic(&mut self, name: String, call: u64) -> usize {
        self.event(Kind::Topic, call);
        self.topics.push(TopicModel { name, messages: Vec::new() });
        self.topics.len() - 1
    }

    pub(crate) fn add_group(&mut self, topic: usize, plan: usize, floor: u64, call: u64) {
        self.event(Kind::Group, call);
        let offsets = vec![Progress::with(Ack::Durable); at(floor)];
        self.groups.push(GroupModel { topic, plan, offsets, seek_unknown: false });
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

    /// All groups' acknowledgements are durable.
    pub(crate) fn promise_groups(&mut self) {
        for group in &mut self.groups {
            group.promise();
        }
    }

    pub(crate) fn promised(&self, loss: Loss) -> usize {
        match loss {
            Loss::Kill => self.written.max(self.synced),
            Loss::Power => self.synced,
        }
    }

    /// Checks that a message that was read is the one that was appended at its offset.
    pub(crate) fn check(&self, setup: &Setup, topic: usize, message: &Message) -> Checked<()> {
        let offset = message.offset().0;
        let name = &self.topics[topic].name;
        let Some((slot, _)) = self.topics[topic].messages.get(at(offset)) else {
            violation!("invented: {name} has a message at {offset}, {message:?}");
        };
        ensure!(message.topic() == *name, "topic {} for {name}", message.topic());
        match slot {
            Slot::Plain(expected) => same(message, expected, &[], name),
            Slot::Letter { group, sources, reason, .. } => {
                let source = letter_source(message).unwrap_or(u64::MAX);
                ensure!(sources.contains(&source), "{name}@{offset}: letter of {source}");
                let group = &self.groups[*group];
                let source_topic = &self.topics[group.topic];
                let (Slot::Plain(original), _) = &source_topic.messages[at(source)] else {
                    violation!("a dead letter of a dead letter in {name}");
                };
                let group_name = setup.groups[group.plan].name.as_str();
                let source = source.to_string();
                let headers = [
                    ("ackline.topic", source_topic.name.as_str()),
                    ("ackline.group", group_name),
                    ("ackline.offset", source.as_str()),
                    ("ackline.reason", *reason),
                ];
                same(message, original, &headers, name)
            }
        }
    }
}

/// The offset of the message that a dead letter was made of.
pub(crate) fn letter_source(message: &Message) -> Option<u64> {
    let offset = message.header("ackline.offset")?;
    std::str::from_utf8(offset).ok()?.parse().ok()
}

fn same(message: &Message, expected: &Msg, more: &[(&str, &str)], name: &str) -> Checked<()> {
    let place = format_args!("{name}@{}", message.offset().0);
    ensure!(message.payload() == expected.payload, "altered: payload of {place}");
    ensure!(message.key() == expected.key.as_deref(), "altered: key of {place}");
    ensure!(message.tag() == expected.tag, "altered: tag of {place}");
    let mut headers = message.headers();
    for (header, value) in &expected.headers {
        let found = headers.next();
        ensure!(found == Some((header, value)), "altered: header {found:?} of {place}");
    }
    for (header, value) in more {
        let found = message.header(header);
        ensure!(found == Some(value.as_bytes()), "altered: {header} {found:?} of {place}");
    }
    let rest = headers.count();
    let extra = if more.is_empty() { 0 } else { more.len() + 1 };
    ensure!(rest == extra, "altered: {rest} more headers of {place}");
    if more.is_empty() {
        let time = message.timestamp();
        ensure!(time == wall(expected.time_ms), "altered: timestamp of {place}");
    }
    Ok(())
}
