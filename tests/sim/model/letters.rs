//! What a message must look like that was read, be it a dead letter of a dead letter.

use ackline::{Group, Message};

use super::super::setup::{Setup, wall};
use super::super::{Checked, at, ensure, violation};
use super::{Model, Msg, Slot};

/// The headers that a dead letter has behind those of the message that it was made of.
const LETTER_HEADERS: [&str; 5] =
    ["ackline.topic", "ackline.group", "ackline.offset", "ackline.attempts", "ackline.reason"];

impl Model {
    /// Checks that a message that was read is the one that was put at its offset.
    pub(crate) fn check(&self, setup: &Setup, topic: usize, message: &Message) -> Checked {
        self.check_as(setup, topic, &self.topics[topic].name, message)
    }

    /// The same, where the topic may have another name by now.
    pub(crate) fn check_as(
        &self,
        setup: &Setup,
        topic: usize,
        name: &str,
        message: &Message,
    ) -> Checked {
        let offset = message.offset().0;
        let Some((slot, event)) = self.topics[topic].messages.get(at(offset)) else {
            violation!("invented: {name} has a message at {offset}, {message:?}");
        };
        ensure!(message.topic() == name, "topic {} for {name}", message.topic());
        if let Some(said) = self.events[*event].position {
            let found = message.position();
            ensure!(found == said, "{name}@{offset} is at {found}, and was said to be at {said}");
        }
        let (found, time) = (message.timestamp(), wall(slot.time_ms()));
        ensure!(found == time, "altered: timestamp of {name}@{offset}");
        let mut headers: Vec<(&str, &[u8])> = message.headers().collect();
        let mut slot = slot;
        loop {
            match slot {
                Slot::Plain(expected) => return same(message, expected, &headers),
                Slot::Letter { .. } => slot = self.check_letter(setup, slot, &mut headers)?,
            }
        }
    }

    /// Checks the headers that a dead letter has got, and takes them away; answers what it was
    /// made of.
    fn check_letter(
        &self,
        setup: &Setup,
        slot: &Slot,
        headers: &mut Vec<(&str, &[u8])>,
    ) -> Checked<&Slot> {
        let Slot::Letter { group, sources, reason, .. } = slot else {
            violation!("not a dead letter: {slot:?}");
        };
        let Some(own) = headers.len().checked_sub(LETTER_HEADERS.len()) else {
            violation!("a dead letter with the headers {headers:?}");
        };
        let added = headers.split_off(own);
        let names = added.iter().map(|header| header.0);
        ensure!(names.eq(LETTER_HEADERS), "a dead letter with the headers {added:?}");
        let value = |i: usize| str::from_utf8(added[i].1).unwrap_or("no text");
        let group = &self.groups[*group];
        let plan = &setup.groups[group.plan];
        let topic = &self.topics[group.topic];
        let origin = (value(0), value(1), value(4));
        let expected = (topic.name.as_str(), plan.name.as_str(), *reason);
        ensure!(origin == expected, "a dead letter says {origin:?} instead of {expected:?}");
        let source = value(2).parse().unwrap_or(u64::MAX);
        ensure!(sources.contains(&source), "a dead letter of {source} instead of {sources:?}");
        let attempts = value(3).parse().unwrap_or(0);
        let possible = (1..=plan.attempts_max).contains(&attempts);
        ensure!(possible, "a dead letter after {attempts} attempts of {}", plan.attempts_max);
        match topic.messages.get(at(source)) {
            Some((slot, _)) => Ok(slot),
            None => violation!("a dead letter of {source} in {}, which is not there", topic.name),
        }
    }
}

/// The last value of a header: a dead letter of a dead letter has the headers of both.
fn last<'a>(message: &'a Message, name: &str) -> Option<&'a str> {
    let (_, value) = message.headers().filter(|header| header.0 == name).last()?;
    str::from_utf8(value).ok()
}

/// The offset of the message that a dead letter was made of.
pub(crate) fn letter_source(message: &Message) -> Option<u64> {
    last(message, "ackline.offset")?.parse().ok()
}

/// Whether a dead letter is one of this group.
pub(crate) fn is_letter_of(message: &Message, group: &Group) -> bool {
    let origin = (last(message, "ackline.topic"), last(message, "ackline.group"));
    origin == (Some(group.topic().name()), Some(group.name()))
}

fn same(message: &Message, expected: &Msg, own: &[(&str, &[u8])]) -> Checked {
    let place = format_args!("{}@{}", message.topic(), message.offset().0);
    ensure!(message.payload() == expected.payload, "altered: payload of {place}");
    ensure!(message.key() == expected.key.as_deref(), "altered: key of {place}");
    ensure!(message.tag() == expected.tag, "altered: tag of {place}");
    let headers = expected.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
    ensure!(headers.eq(own.iter().copied()), "altered: headers {own:?} of {place}");
    Ok(())
}
