//! What goes in and what comes out: records to append, messages that were read, receipts.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;
use std::time::SystemTime;

use crate::clock::{from_wall_ms, to_wall_ms};
use crate::error::{Error, Result};
use crate::format::ALIGNMENT;
use crate::format::entry::{self, Content, FIELD_BYTES_MAX, HEADERS_MAX, HeaderPair, Parts};
use crate::group::delivery::Origin;
use crate::offset::{Offset, Position};
use crate::segment::chunk::{Chunk, Shared, usize_of};
use crate::segment::cursor::Found;
use crate::sync::OnceLock;

/// A record to append: a payload, and what else is known of it.
///
/// Byte strings, vectors and text convert into a record with that payload. Slices are borrowed, so that
/// an append copies the payload once, to where it is written from; a [`Batch`](crate::Batch) makes it its
/// own first. What is kept or returned is a `Record<'static>`. An empty payload is allowed.
///
/// # Examples
///
/// ```
/// use ackline::Record;
///
/// let record = Record::new("4 apples")
///     .key("customer 17")
///     .tag("fruit")
///     .header("trace", "a81f");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record<'a> {
    payload: Cow<'a, [u8]>,
    key: Option<Vec<u8>>,
    tag: Option<String>,
    headers: Vec<HeaderPair>,
    timestamp_ms: Option<u64>,
}

impl Record<'_> {
    /// A record with a payload of its own.
    pub fn new(payload: impl Into<Vec<u8>>) -> Self {
        Self::with(Cow::Owned(payload.into()))
    }

    /// The same record with a payload of its own, borrowed from nobody.
    pub fn into_owned(self) -> Record<'static> {
        let Self { payload, key, tag, headers, timestamp_ms } = self;
        Record { payload: Cow::Owned(payload.into_owned()), key, tag, headers, timestamp_ms }
    }

    /// Sets the key: what the record is about, at most 65,535 bytes.
    #[must_use]
    pub fn key(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Sets the tag, by which a group can select messages; at most 65,535 bytes.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tag = Some(tag.into());
        self
    }

    /// Adds a header. A name may occur more than once; order is kept.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sets the timestamp, which is otherwise the time of the append. Stored in milliseconds
    /// since the Unix epoch; an earlier time counts as the epoch.
    #[must_use]
    pub fn timestamp(mut self, time: SystemTime) -> Self {
        self.timestamp_ms = Some(to_wall_ms(time));
        self
    }

    pub(crate) fn content(&self) -> Content<'_> {
        Content {
            key: self.key.as_deref(),
            tag: self.tag.as_deref(),
            headers: &self.headers,
            payload: &self.payload,
        }
    }

    pub(crate) fn timestamp_ms(&self, now_ms: u64) -> u64 {
        self.timestamp_ms.unwrap_or(now_ms)
    }

    /// Checks every part against its limit and returns the bytes that the record takes.
    pub(crate) fn check(&self, payload_bytes_max: usize) -> Result<usize> {
        let check = |what, bytes: usize, max: usize| {
            if bytes <= max {
                return Ok(());
            }
            Err(Error::TooLarge { what, bytes: bytes as u64, max: max as u64 })
        };
        check("payload", self.payload.len(), payload_bytes_max)?;
        check("key", self.key.as_ref().map_or(0, Vec::len), FIELD_BYTES_MAX)?;
        check("tag", self.tag.as_ref().map_or(0, String::len), FIELD_BYTES_MAX)?;
        check("number of headers", self.headers.len(), HEADERS_MAX)?;
        for (name, value) in &self.headers {
            check("header name", name.len(), FIELD_BYTES_MAX)?;
            check("header value", value.len(), payload_bytes_max)?;
        }
        Ok(self.content().encoded_bytes())
    }
}

impl<'a> Record<'a> {
    fn with(payload: Cow<'a, [u8]>) -> Self {
        Self { payload, ..Self::default() }
    }
}

impl<'a> From<&'a [u8]> for Record<'a> {
    fn from(payload: &'a [u8]) -> Self {
        Self::with(Cow::Borrowed(payload))
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Record<'a> {
    fn from(payload: &'a [u8; N]) -> Self {
        Self::with(Cow::Borrowed(payload))
    }
}

impl<'a> From<&'a str> for Record<'a> {
    fn from(payload: &'a str) -> Self {
        Self::with(Cow::Borrowed(payload.as_bytes()))
    }
}

impl From<Vec<u8>> for Record<'_> {
    fn from(payload: Vec<u8>) -> Self {
        Self::new(payload)
    }
}

impl From<String> for Record<'_> {
    fn from(payload: String) -> Self {
        Self::new(payload)
    }
}

/// A message that was read. It shares the memory that it lies in with its neighbours; cloning it
/// copies no payload.
pub struct Message {
    /// There always is one. Without the `Option` the compiler would keep in the reference whether there
    /// is a message at all where there may be none, such as in what an iterator returns, and then move
    /// one in odd pieces, which the processor has to put together.
    home: Option<Arc<Home>>,
    offset: u64,
    parts: Parts,
    /// Where its frame begins, in units of [`ALIGNMENT`] from the home's start.
    frame: u32,
}

/// What messages share that were read together: one count of its holders for all of it, as there
/// are many of them.
#[derive(Debug)]
pub(crate) struct Home {
    buffer: Shared,
    /// The position of the chunk, in which no frame begins before.
    start: Position,
    of: Of,
    /// The home of those that are kept beyond their delivery.
    kept: OnceLock<Arc<Home>>,
}

/// Where messages come from.
#[derive(Debug)]
enum Of {
    Topic(Arc<str>),
    /// A group delivers them. It keeps the log open, as a delivery does and a message does not.
    Group(Arc<Origin>),
}

impl Home {
    /// A home of messages of the topic of this name that were read.
    pub(crate) fn of_topic(chunk: &Chunk, topic: &Arc<str>) -> Arc<Self> {
        Self::new(&chunk.buffer, chunk.start, Of::Topic(Arc::clone(topic)))
    }

    /// A home of messages that are delivered.
    pub(crate) fn of_group(chunk: &Chunk, origin: &Arc<Origin>) -> Arc<Self> {
        Self::new(&chunk.buffer, chunk.start, Of::Group(Arc::clone(origin)))
    }

    fn new(buffer: &Shared, start: Position, of: Of) -> Arc<Self> {
        Arc::new(Self { buffer: buffer.clone(), start, of, kept: OnceLock::new() })
    }

    /// Whether it is in this memory that its messages lie.
    pub(crate) fn is_in(&self, chunk: &Chunk) -> bool {
        self.start == chunk.start && self.buffer.is_same(&chunk.buffer)
    }

    /// Who delivers its messages, where somebody does.
    #[inline]
    pub(crate) fn origin(&self) -> Option<&Arc<Origin>> {
        match &self.of {
            Of::Group(origin) => Some(origin),
            Of::Topic(_) => None,
        }
    }

    fn topic(&self) -> &Arc<str> {
        match &self.of {
            Of::Group(origin) => origin.topic(),
            Of::Topic(name) => name,
        }
    }

    /// The home of messages that keep nothing open.
    fn kept(self: &Arc<Self>) -> Arc<Self> {
        match &self.of {
            Of::Topic(_) => Arc::clone(self),
            Of::Group(origin) => {
                let topic = || Of::Topic(Arc::clone(origin.topic()));
                let kept = || Self::new(&self.buffer, self.start, topic());
                Arc::clone(self.kept.get_or_init(kept))
            }
        }
    }
}

// What a message shows is never changed, and what a delivery changes is behind locks that a panic ends.
impl UnwindSafe for Message {}
impl RefUnwindSafe for Message {}

impl Clone for Message {
    fn clone(&self) -> Self {
        Self { home: self.home.as_ref().map(Home::kept), ..*self }
    }
}

impl Message {
    /// A message in the memory of this home.
    #[inline]
    pub(crate) fn new(home: Arc<Home>, found: Found) -> Self {
        let entry::Message { offset, parts, .. } = found.message;
        let bytes = usize_of(found.at.0 - home.start.0);
        Self { frame: entry::place(bytes), home: Some(home), offset, parts }
    }

    /// The payload, without copying it.
    pub fn payload(&self) -> &[u8] {
        self.parts.payload(&self.home().buffer)
    }

    /// The key, if the record had one.
    pub fn key(&self) -> Option<&[u8]> {
        self.parts.key(&self.home().buffer)
    }

    /// The tag, if the record had one.
    pub fn tag(&self) -> Option<&str> {
        self.parts.tag(&self.home().buffer)
    }

    /// The headers in the order in which they were added.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.parts.headers(&self.home().buffer)
    }

    /// The value of the first header of this name.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers().find(|header| header.0 == name).map(|header| header.1)
    }

    /// The name of the topic.
    pub fn topic(&self) -> &str {
        self.home().topic()
    }

    /// The message's number within its topic: the same at every delivery, so that a consumer
    /// can tell what it has seen.
    pub fn offset(&self) -> Offset {
        Offset(self.offset)
    }

    /// Where in the log the write that carried the message begins.
    pub fn position(&self) -> Position {
        self.home().start.plus(u64::from(self.frame) * ALIGNMENT as u64)
    }

    /// When the message was appended, or what the record said instead.
    pub fn timestamp(&self) -> SystemTime {
        from_wall_ms(self.timestamp_ms())
    }

    pub(crate) fn timestamp_ms(&self) -> u64 {
        self.parts.timestamp_ms(&self.home().buffer)
    }

    pub(crate) fn header_pairs(&self) -> Vec<HeaderPair> {
        self.headers().map(|(name, value)| (name.to_owned(), value.to_vec())).collect()
    }

    #[inline]
    pub(crate) fn home(&self) -> &Home {
        self.home.as_ref().expect("a message has a home")
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("topic", &self.topic())
            .field("offset", &self.offset)
            .field("key", &self.key().map(|key| key.escape_ascii().to_string()))
            .field("payload_bytes", &self.payload().len())
            .finish_non_exhaustive()
    }
}

/// What an append answers: the record is as safe as the log's policy says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// The message's number within its topic.
    pub offset: Offset,
    /// Where in the log the write that carries it begins.
    pub position: Position,
    /// Who has it.
    pub acknowledged: Acknowledged,
}

impl Receipt {
    /// One to be filled in. As part of a result, it would be copied at each step.
    pub(crate) fn of(acknowledged: Acknowledged) -> Self {
        Self { offset: Offset(0), position: Position(0), acknowledged }
    }
}

/// Who holds an acknowledged record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Acknowledged {
    /// This log, as its [`SyncPolicy`](crate::SyncPolicy) says.
    Local,
    /// This log and as many replicas as its [`Replicator`](crate::replicate::Replicator) wants.
    Replicated,
}

/// What a batch append answers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchReceipt {
    /// The offsets of the records, in their order: dense from `start` to before `end`.
    pub offsets: Range<Offset>,
    /// Where in the log the write that carries them begins.
    pub position: Position,
}
