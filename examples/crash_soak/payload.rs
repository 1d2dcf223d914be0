//! What the records hold: each says who made it, and all the rest of it follows from that, so
//! that whoever reads it can make it again and compare.

use std::fmt;

use ackline::{Message, Record};

use crate::Failure;
use crate::random::Random;

/// The producer of records that a consumer hands on from one topic to another.
pub(crate) const RELAY: u8 = 200;

/// Why the child rejects a message.
pub(crate) const REASON: &str = "rejected by the soak";

/// Who made a record, and which of theirs it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ident {
    /// The process.
    pub(crate) run: u32,
    /// The thread of the process, or [`RELAY`].
    pub(crate) producer: u8,
    /// Dense from 0 for a thread; the offset of the source for a relayed record.
    pub(crate) number: u64,
    /// Its place in the batch that it belongs to, from 0.
    pub(crate) index: u8,
    /// How many records the batch has.
    pub(crate) of: u8,
}

impl fmt::Display for Ident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { run, producer, number, index, of } = self;
        write!(f, "{run} {producer} {number} {index} {of}")
    }
}

impl Ident {
    /// Reads what [`fmt::Display`] wrote.
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        let mut fields = text.split(' ');
        let mut field = || fields.next().ok_or("too few fields");
        let ident = Self {
            run: field()?.parse()?,
            producer: field()?.parse()?,
            number: field()?.parse()?,
            index: field()?.parse()?,
            of: field()?.parse()?,
        };
        if fields.next().is_some() {
            return Err("too many fields".into());
        }
        Ok(ident)
    }
}

/// A letter in the dead-letter topic: for which message of which group, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Letter {
    /// The number of the group, see [`crate::layout`].
    pub(crate) group: usize,
    pub(crate) offset: u64,
    pub(crate) attempts: u32,
    /// Rejected by a consumer, rather than out of attempts.
    pub(crate) rejected: bool,
}

/// Everything that follows from who made a record.
#[derive(Debug, PartialEq, Eq)]
struct Parts {
    payload: Vec<u8>,
    key: Option<Vec<u8>>,
    tag: Option<String>,
    header: Option<(String, Vec<u8>)>,
}

impl Parts {
    fn of(seed: u64, ident: &Ident) -> Self {
        let mut random = Random::new(seed);
        for part in [
            u64::from(ident.run),
            u64::from(ident.producer),
            ident.number,
            u64::from(ident.index),
            u64::from(ident.of),
        ] {
            random = Random::new(random.next() ^ part);
        }
        let bytes = match random.below(100) {
            0 => 8_000 + random.below(24_000),
            1..10 => 1_000 + random.below(5_000),
            _ => 16 + random.below(300),
        };
        let mut payload = format!("{ident}\n").into_bytes();
        while (payload.len() as u64) < bytes {
            payload.extend_from_slice(&random.next().to_le_bytes());
        }
        let key = random.one_in(3).then(|| random.next().to_le_bytes().to_vec());
        let tag = random.one_in(4).then(|| format!("tag {}", random.below(10)));
        let header = random.one_in(5).then(|| {
            let value = vec![b'h'; usize::try_from(random.below(64)).expect("it is below 64")];
            (format!("header {}", random.below(10)), value)
        });
        Self { payload, key, tag, header }
    }

    fn of_message(message: &Message) -> Self {
        let mut headers = message.headers().filter(|(name, _)| !name.starts_with("ackline."));
        let header = headers.next().map(|(name, value)| (name.to_owned(), value.to_vec()));
        Self {
            payload: message.payload().to_vec(),
            key: message.key().map(<[u8]>::to_vec),
            tag: message.tag().map(str::to_owned),
            header,
        }
    }
}

/// The record that `ident` stands for.
pub(crate) fn record(seed: u64, ident: &Ident) -> Record<'static> {
    let parts = Parts::of(seed, ident);
    let mut record = Record::new(parts.payload);
    if let Some(key) = parts.key {
        record = record.key(key);
    }
    if let Some(tag) = parts.tag {
        record = record.tag(tag);
    }
    if let Some((name, value)) = parts.header {
        record = record.header(name, value);
    }
    record
}

/// Says which record a message is, if every byte of it is what it was made of.
pub(crate) fn check(seed: u64, message: &Message) -> Result<Ident, Failure> {
    let payload = message.payload();
    let end = payload.iter().position(|byte| *byte == b'\n').ok_or("no maker in the payload")?;
    let ident = Ident::parse(std::str::from_utf8(&payload[..end])?)?;
    let (expected, found) = (Parts::of(seed, &ident), Parts::of_message(message));
    if expected == found {
        return Ok(ident);
    }
    let (expected, found) = (format!("{expected:?}"), format!("{found:?}"));
    let differs = expected.bytes().zip(found.bytes()).position(|(a, b)| a != b).unwrap_or(0);
    let part = |text: &str| text.get(differs..).unwrap_or("").chars().take(60).collect::<String>();
    Err(format!("of {ident}: expected {}, found {}", part(&expected), part(&found)).into())
}

/// What a dead letter says of itself; the group by the number that `group_of` gives it.
pub(crate) fn letter(
    message: &Message,
    group_of: impl Fn(&str, &str) -> Option<usize>,
) -> Result<Letter, Failure> {
    let header = |name: &str| {
        let value = message.header(name).ok_or_else(|| format!("a letter without {name}"))?;
        Ok::<_, Failure>(std::str::from_utf8(value)?.to_owned())
    };
    let (topic, group) = (header("ackline.topic")?, header("ackline.group")?);
    let reason = header("ackline.reason")?;
    if reason != REASON && reason != "out of attempts" {
        return Err(format!("a letter for the reason {reason:?}").into());
    }
    Ok(Letter {
        group: group_of(&topic, &group).ok_or_else(|| format!("a letter of {topic}/{group}"))?,
        offset: header("ackline.offset")?.parse()?,
        attempts: header("ackline.attempts")?.parse()?,
        rejected: reason == REASON,
    })
}
