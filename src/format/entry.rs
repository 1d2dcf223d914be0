//! Entries: what frames and checkpoints are made of. Messages, the names of topics and groups,
//! and the progress of groups.
//!
//! An entry begins with its length, so that a reader can step over kinds that it need not look
//! into; it never steps over a kind that it does not know.

use std::ops::Range;

pub(crate) use super::entries::{Entries, Run};
use super::fields::Fields;
use super::{ALIGNMENT, align, u16_at, u32_at, u64_at};
use crate::offset::{Epoch, GroupId, Position, TopicId};

/// Length, kind, attributes and a reserved field.
const PREFIX_BYTES: usize = 8;
/// What a message has before its attributes and payload.
pub(super) const MESSAGE_FIXED_BYTES: usize = 28;
const TIMESTAMP_AT: usize = 20;

pub(super) const KIND_MESSAGE: u8 = 1;
const KIND_TOPIC: u8 = 2;
const KIND_GROUP: u8 = 3;
const KIND_PROGRESS: u8 = 4;
const KIND_SEEK: u8 = 5;
const KIND_EPOCH: u8 = 6;

pub(super) const HAS_KEY: u8 = 1;
pub(super) const HAS_TAG: u8 = 2;
pub(super) const HAS_HEADERS: u8 = 4;
// 8 is reserved for a delivery time, 16 for a producer's sequence number.
const KNOWN_ATTRIBUTES: u8 = HAS_KEY | HAS_TAG | HAS_HEADERS;

const PROGRESS_EXACT: u8 = 1;
const GROUP_MAY_LAG: u8 = 1;

/// The longest key or tag, and the longest name of a header, in bytes; the greatest number of
/// headers that an entry can hold.
pub(crate) const FIELD_BYTES_MAX: usize = u16::MAX as usize;

/// The greatest number of headers of a record; a dead letter has a few more, as often as it is
/// rejected.
pub(crate) const HEADERS_MAX: usize = 32 * 1024;

/// A header of a record: a name and a value.
pub(crate) type HeaderPair = (String, Vec<u8>);

/// What a message carries; the fields are borrowed to be encoded.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Content<'a> {
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) tag: Option<&'a str>,
    pub(crate) headers: &'a [HeaderPair],
    pub(crate) payload: &'a [u8],
}

impl Content<'_> {
    /// The bytes that the entry takes, padding included.
    pub(crate) fn encoded_bytes(&self) -> usize {
        align(self.unpadded_bytes(), ALIGNMENT)
    }

    fn unpadded_bytes(&self) -> usize {
        let field = |bytes: usize| 2 + bytes;
        let headers = |pairs: &[HeaderPair]| -> usize {
            2 + pairs.iter().map(|(name, value)| 2 + name.len() + 4 + value.len()).sum::<usize>()
        };
        MESSAGE_FIXED_BYTES
            + self.key.map_or(0, |key| field(key.len()))
            + self.tag.map_or(0, |tag| field(tag.len()))
            + if self.headers.is_empty() { 0 } else { headers(self.headers) }
            + self.payload.len()
    }
}

/// What a group has done since the last such entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Every offset below may have been delivered once. A maximum unless `exact`; 0 says nothing.
    pub(crate) delivered: u64,
    /// `delivered` is assigned, lower or not: the log was closed and knows.
    pub(crate) exact: bool,
    /// Newly settled offsets.
    pub(crate) acked: Vec<Range<u64>>,
    /// Counted deliveries of offsets that are not settled, where they differ from the default.
    pub(crate) attempts: Vec<Attempt>,
}

/// How often a message was delivered, and when it is due again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub(crate) offset: u64,
    pub(crate) count: u32,
    /// Milliseconds since the Unix epoch; 0 is now.
    pub(crate) due_ms: u64,
}

/// A decoded entry; borrows the frame's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry<'a> {
    Message(Message),
    /// A topic exists. In a frame: it was created here. In a checkpoint: its state.
    Topic {
        id: TopicId,
        next: u64,
        latest_ms: u64,
        name: &'a str,
    },
    /// A group exists, or its stored options changed.
    Group {
        id: GroupId,
        topic: TopicId,
        floor: u64,
        may_lag: bool,
        name: &'a str,
    },
    Progress {
        group: GroupId,
        progress: Progress,
    },
    /// The group starts again from `to`, forgetting what it had done.
    Seek {
        group: GroupId,
        to: u64,
    },
    /// A leader begins here, with the frame at `start`.
    Epoch {
        epoch: Epoch,
        start: Position,
    },
}

/// What is known of a message that was decoded. Its key, tag and headers are found when they are asked
/// for, in the bytes that it was decoded from: there are many messages, and most have a payload alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) topic: TopicId,
    pub(crate) parts: Parts,
    pub(crate) offset: u64,
    pub(crate) timestamp_ms: u64,
}

/// Where the parts of a message lie in what it was decoded from: all that a delivery keeps of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parts {
    /// Where the payload begins, counted from the entry's beginning. No entry is longer than a
    /// `u32` can tell.
    pub(super) payload_from: u32,
    /// The bytes of the entry. Not read again: where a disk answers with other bytes the second time, a
    /// payload keeps its length, and no neighbour's bytes are taken for it.
    pub(super) bytes: u32,
    /// Where the entry begins, in units of [`ALIGNMENT`].
    pub(super) at: u32,
}

impl Parts {
    /// The payload, in what the message was decoded from, as all of its parts.
    pub(crate) fn payload<'a>(&self, body: &'a [u8]) -> &'a [u8] {
        &self.entry(body)[self.payload_from as usize..]
    }

    pub(crate) fn key<'a>(&self, body: &'a [u8]) -> Option<&'a [u8]> {
        self.fields(body).0
    }

    pub(crate) fn tag<'a>(&self, body: &'a [u8]) -> Option<&'a str> {
        let tag = self.fields(body).1;
        tag.map(|tag| str::from_utf8(tag).expect("the tag was checked when it was decoded"))
    }

    /// The headers, in the order in which they were added.
    pub(crate) fn headers<'a>(&self, body: &'a [u8]) -> Headers<'a> {
        let headers = self.fields(body).2;
        let number = if headers.is_empty() { 0 } else { u16_at(headers, 0) };
        Headers { rest: headers.get(2..).unwrap_or_default(), left: number }
    }

    pub(crate) fn timestamp_ms(&self, body: &[u8]) -> u64 {
        u64_at(self.entry(body), TIMESTAMP_AT)
    }

    fn entry<'a>(&self, body: &'a [u8]) -> &'a [u8] {
        &body[self.at as usize * ALIGNMENT..][..self.bytes as usize]
    }

    /// The key, the tag and the encoded headers, of which none are empty.
    fn fields<'a>(&self, body: &'a [u8]) -> (Option<&'a [u8]>, Option<&'a [u8]>, &'a [u8]) {
        let entry = self.entry(body);
        let attributes = entry[5];
        let mut rest = &entry[MESSAGE_FIXED_BYTES..self.payload_from as usize];
        let mut next = |attribute| (attributes & attribute != 0).then(|| take_short(&mut rest));
        let (key, tag) = (next(HAS_KEY), next(HAS_TAG));
        (key, tag, rest)
    }
}

/// The names and values of a message's headers.
#[derive(Clone, Debug)]
pub(crate) struct Headers<'a> {
    rest: &'a [u8],
    left: u16,
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a str, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let name = take_short(&mut self.rest);
        let name = str::from_utf8(name).expect("names were checked when the message was decoded");
        let bytes = u32_at(self.rest, 0) as usize;
        let (value, rest) = self.rest[4..].split_at(bytes);
        self.rest = rest;
        Some((name, value))
    }
}

/// Takes a field behind its length from the front of those that were checked.
fn take_short<'a>(fields: &mut &'a [u8]) -> &'a [u8] {
    let bytes = u16_at(fields, 0) as usize;
    let (field, rest) = fields[2..].split_at(bytes);
    *fields = rest;
    field
}

/// Why bytes are not an entry, though their checksum matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    /// A length does not fit into what is there.
    Length { at: usize },
    /// Written by a newer version.
    Unknown { at: usize, kind: u8, attributes: u8 },
    /// A name or tag is not UTF-8.
    Text { at: usize },
}

pub(crate) fn encode_message(
    out: &mut Vec<u8>,
    topic: TopicId,
    offset: u64,
    timestamp_ms: u64,
    content: &Content<'_>,
) {
    let mut attributes = 0;
    let mut set = |present, bit| attributes |= if present { bit } else { 0 };
    set(content.key.is_some(), HAS_KEY);
    set(content.tag.is_some(), HAS_TAG);
    set(!content.headers.is_empty(), HAS_HEADERS);
    let bytes = content.unpadded_bytes();
    out.reserve(align(bytes, ALIGNMENT));
    let start = out.len();
    let mut fixed = [0; MESSAGE_FIXED_BYTES];
    fixed[..PREFIX_BYTES].copy_from_slice(&prefix(bytes, KIND_MESSAGE, attributes));
    fixed[8..12].copy_from_slice(&topic.0.to_le_bytes());
    fixed[12..20].copy_from_slice(&offset.to_le_bytes());
    fixed[20..28].copy_from_slice(&timestamp_ms.to_le_bytes());
    out.extend_from_slice(&fixed);
    if let Some(key) = content.key {
        put_short(out, key);
    }
    if let Some(tag) = content.tag {
        put_short(out, tag.as_bytes());
    }
    if !content.headers.is_empty() {
        out.extend_from_slice(&short(content.headers.len()).to_le_bytes());
        for (name, value) in content.headers {
            put_short(out, name.as_bytes());
            out.extend_from_slice(&length(value.len()).to_le_bytes());
            out.extend_from_slice(value);
        }
    }
    out.extend_from_slice(content.payload);
    pad(out, start);
}

pub(crate) fn encode_topic(out: &mut Vec<u8>, id: TopicId, next: u64, latest_ms: u64, name: &str) {
    let start = begin(out, KIND_TOPIC, 0);
    out.extend_from_slice(&id.0.to_le_bytes());
    out.extend_from_slice(&next.to_le_bytes());
    out.extend_from_slice(&latest_ms.to_le_bytes());
    out.extend_from_slice(name.as_bytes());
    finish(out, start);
}

pub(crate) fn encode_group(
    out: &mut Vec<u8>,
    id: GroupId,
    topic: TopicId,
    floor: u64,
    may_lag: bool,
    name: &str,
) {
    let start = begin(out, KIND_GROUP, if may_lag { GROUP_MAY_LAG } else { 0 });
    out.extend_from_slice(&id.0.to_le_bytes());
    out.extend_from_slice(&topic.0.to_le_bytes());
    out.extend_from_slice(&floor.to_le_bytes());
    out.extend_from_slice(name.as_bytes());
    finish(out, start);
}

pub(crate) fn encode_progress(out: &mut Vec<u8>, group: GroupId, progress: &Progress) {
    let start = begin(out, KIND_PROGRESS, if progress.exact { PROGRESS_EXACT } else { 0 });
    out.extend_from_slice(&group.0.to_le_bytes());
    out.extend_from_slice(&length(progress.acked.len()).to_le_bytes());
    out.extend_from_slice(&length(progress.attempts.len()).to_le_bytes());
    out.extend_from_slice(&progress.delivered.to_le_bytes());
    for range in &progress.acked {
        out.extend_from_slice(&range.start.to_le_bytes());
        out.extend_from_slice(&range.end.to_le_bytes());
    }
    for attempt in &progress.attempts {
        out.extend_from_slice(&attempt.offset.to_le_bytes());
        out.extend_from_slice(&attempt.due_ms.to_le_bytes());
        out.extend_from_slice(&attempt.count.to_le_bytes());
    }
    finish(out, start);
}

pub(crate) fn encode_seek(out: &mut Vec<u8>, group: GroupId, to: u64) {
    let start = begin(out, KIND_SEEK, 0);
    out.extend_from_slice(&group.0.to_le_bytes());
    out.extend_from_slice(&to.to_le_bytes());
    finish(out, start);
}

pub(crate) fn encode_epoch(out: &mut Vec<u8>, epoch: Epoch, at: Position) {
    let start = begin(out, KIND_EPOCH, 0);
    out.extend_from_slice(&epoch.0.to_le_bytes());
    out.extend_from_slice(&at.0.to_le_bytes());
    finish(out, start);
}

/// Decodes the entry at `at` of `body`; returns it and where the next one begins.
pub(crate) fn decode(body: &[u8], at: usize) -> Result<(Entry<'_>, usize), Bad> {
    let bad_length = Bad::Length { at };
    let rest = body.get(at..).ok_or_else(|| bad_length.clone())?;
    if rest.len() < PREFIX_BYTES {
        return Err(bad_length);
    }
    let bytes = u32_at(rest, 0) as usize;
    if bytes < PREFIX_BYTES || bytes > rest.len() {
        return Err(bad_length);
    }
    let (kind, attributes) = (rest[4], rest[5]);
    let mut fields = Fields { body, at: at + PREFIX_BYTES, end: at + bytes };
    let unknown = Bad::Unknown { at, kind, attributes };
    let entry = match kind {
        KIND_MESSAGE if attributes & !KNOWN_ATTRIBUTES == 0 => {
            Entry::Message(fields.message(at, attributes)?)
        }
        KIND_TOPIC if attributes == 0 => Entry::Topic {
            id: TopicId(fields.u32()?),
            next: fields.u64()?,
            latest_ms: fields.u64()?,
            name: fields.rest_as_text()?,
        },
        KIND_GROUP if attributes & !GROUP_MAY_LAG == 0 => Entry::Group {
            id: GroupId(fields.u32()?),
            topic: TopicId(fields.u32()?),
            floor: fields.u64()?,
            may_lag: attributes & GROUP_MAY_LAG != 0,
            name: fields.rest_as_text()?,
        },
        KIND_PROGRESS if attributes & !PROGRESS_EXACT == 0 => Entry::Progress {
            group: GroupId(fields.u32()?),
            progress: fields.progress(attributes & PROGRESS_EXACT != 0)?,
        },
        KIND_SEEK if attributes == 0 => {
            Entry::Seek { group: GroupId(fields.u32()?), to: fields.u64()? }
        }
        KIND_EPOCH if attributes == 0 => {
            Entry::Epoch { epoch: Epoch(fields.u64()?), start: Position(fields.u64()?) }
        }
        _ => return Err(unknown),
    };
    Ok((entry, align(at + bytes, ALIGNMENT)))
}

/// Decodes the entry at `at` if it is a message of `topic`, and steps over it otherwise; returns
/// where the next one begins, too.
pub(crate) fn decode_message_of(
    body: &[u8],
    at: usize,
    topic: TopicId,
) -> Result<(Option<Message>, usize), Bad> {
    let Some(start) = body.get(at..).filter(|rest| rest.len() >= PREFIX_BYTES + 4) else {
        return Err(Bad::Length { at });
    };
    let (bytes, kind) = (u32_at(start, 0) as usize, start[4]);
    let is_other_message = kind == KIND_MESSAGE && u32_at(start, PREFIX_BYTES) != topic.0;
    let is_progress = matches!(kind, KIND_TOPIC..=KIND_EPOCH);
    if is_other_message || is_progress {
        if bytes < PREFIX_BYTES || bytes > start.len() {
            return Err(Bad::Length { at });
        }
        return Ok((None, align(at + bytes, ALIGNMENT)));
    }
    match decode(body, at)? {
        (Entry::Message(message), next) => Ok((Some(message), next)),
        (_, next) => Ok((None, next)),
    }
}

/// The same, but none unless it is a message of `topic` that can be read. It is small enough to
/// be inlined into a loop over many, where nothing that it returns is ever in memory.
#[expect(clippy::inline_always, reason = "run for each message, which would be copied each time")]
#[inline(always)]
pub(crate) fn message_of(body: &[u8], at: usize, topic: TopicId) -> Option<(Message, usize)> {
    let rest = body.get(at..)?;
    let fixed = rest.first_chunk::<MESSAGE_FIXED_BYTES>()?;
    let (bytes, attributes) = (u32_at(fixed, 0) as usize, fixed[5]);
    if fixed[4] != KIND_MESSAGE
        || u32_at(fixed, PREFIX_BYTES) != topic.0
        || !(MESSAGE_FIXED_BYTES..=rest.len()).contains(&bytes)
    {
        return None;
    }
    let payload_from = match attributes {
        0 => length(MESSAGE_FIXED_BYTES),
        _ => payload_from(body, at)?,
    };
    let (offset, timestamp_ms) = (u64_at(fixed, PREFIX_BYTES + 4), u64_at(fixed, TIMESTAMP_AT));
    let (length, place) = (u32_at(fixed, 0), place(at));
    let parts = Parts { payload_from, bytes: length, at: place };
    let message = Message { topic, parts, offset, timestamp_ms };
    Some((message, align(at + bytes, ALIGNMENT)))
}

/// Where the payload of a message begins, if all that is before it can be read.
#[inline(never)]
fn payload_from(body: &[u8], at: usize) -> Option<u32> {
    match decode(body, at) {
        Ok((Entry::Message(message), _)) => Some(message.parts.payload_from),
        _ => None,
    }
}

fn prefix(bytes: usize, kind: u8, attributes: u8) -> [u8; PREFIX_BYTES] {
    let mut prefix = [0; PREFIX_BYTES];
    prefix[..4].copy_from_slice(&length(bytes).to_le_bytes());
    prefix[4] = kind;
    prefix[5] = attributes;
    prefix
}

fn begin(out: &mut Vec<u8>, kind: u8, attributes: u8) -> usize {
    let start = out.len();
    out.extend_from_slice(&prefix(0, kind, attributes));
    start
}

fn finish(out: &mut Vec<u8>, start: usize) {
    let bytes = length(out.len() - start);
    out[start..start + 4].copy_from_slice(&bytes.to_le_bytes());
    pad(out, start);
}

fn pad(out: &mut Vec<u8>, start: usize) {
    let bytes = out.len() - start;
    out.resize(start + align(bytes, ALIGNMENT), 0);
}

fn put_short(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&short(bytes.len()).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn short(n: usize) -> u16 {
    u16::try_from(n).expect("fields are checked against their limit before they are encoded")
}

/// Where an entry begins, in units of [`ALIGNMENT`].
pub(crate) fn place(at: usize) -> u32 {
    debug_assert!(at.is_multiple_of(ALIGNMENT), "entries are aligned");
    u32::try_from(at / ALIGNMENT).expect("no segment has 32 GiB")
}

pub(super) fn length(n: usize) -> u32 {
    u32::try_from(n).expect("entries are checked against their limit before they are encoded")
}

#[cfg(test)]
#[path = "entry_tests.rs"]
mod tests;
