//! Topics: appending records and reading them in order.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::clock::to_wall_ms;
use crate::commit::queue::TopicRuntime;
use crate::commit::replicas::Standing;
use crate::commit::{Class, Commits};
use crate::error::{Error, Result};
use crate::group::{Group, GroupOptions, shared::open_group};
use crate::mutant::{self, Mutant};
use crate::offset::Offset;
use crate::pending::Pending;
use crate::record::{Acknowledged, BatchReceipt, Home, Message, Receipt, Record};
use crate::segment::cursor::{Step, TopicCursor};
use crate::shared::{Handle, Shared};
use crate::sync::atomic::Ordering;
use crate::watermark::Ack;

/// A topic of a log: a sequence of messages with dense offsets. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Topic {
    pub(crate) handle: Arc<Handle>,
    pub(crate) runtime: Arc<TopicRuntime>,
    pub(crate) ack: Ack,
}

/// The offsets that a topic has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Offsets {
    /// The first message that retention has left.
    pub start: Offset,
    /// The offset after the last visible message.
    pub end: Offset,
}

/// A place in a topic, for new groups and for seeking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Start {
    /// The first message that is there.
    Earliest,
    /// Behind the last visible message.
    Latest,
    /// This message.
    Offset(Offset),
    /// The first message that is not older.
    Time(SystemTime),
}

impl From<Offset> for Start {
    fn from(offset: Offset) -> Self {
        Self::Offset(offset)
    }
}

impl From<SystemTime> for Start {
    fn from(time: SystemTime) -> Self {
        Self::Time(time)
    }
}

impl Topic {
    pub(crate) fn shared(&self) -> &Shared {
        &self.handle.shared
    }

    /// The same topic, with appends through this handle waiting for that. Default:
    /// [`Ack::Replicated`], which is no different where there is no replicator.
    ///
    /// # Examples
    ///
    /// ```
    /// use ackline::Ack;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// let log = ackline::Log::open(dir.path())?;
    /// let metrics = log.topic("metrics")?.with_ack(Ack::Synced);
    /// metrics.append("cpu 17 %")?; // Whether or not a replica has it.
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn with_ack(mut self, ack: Ack) -> Self {
        self.ack = ack;
        self
    }

    /// Fails if this replica has given up the frame that made the topic. To be called under the
    /// queue's lock before an entry names the topic: its number may be another topic's by now.
    pub(crate) fn check_there(&self) -> Result<()> {
        if !self.runtime.gone.load(Ordering::Acquire) {
            return Ok(());
        }
        match self.shared().commits.standing() {
            Standing::Following { promised: epoch } | Standing::Leading { epoch, .. } => {
                Err(Error::Fenced { epoch })
            }
            Standing::Alone => Err(Error::Closed),
        }
    }

    /// The topic's name.
    pub fn name(&self) -> &str {
        &self.runtime.name
    }

    /// Appends a record and waits until the log's [`SyncPolicy`](crate::SyncPolicy) calls it
    /// safe: by default, until it is on stable storage.
    ///
    /// Messages of one topic become visible in append order.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`], [`Error::Full`] and [`Error::Closed`]: nothing was written.
    /// [`Error::SyncTimeout`]: the outcome is unknown. [`Error::Poisoned`]: a write or sync
    /// failed; reopen the log.
    ///
    /// With a replicator, [`Error::ReplicasUnavailable`]: nothing was written;
    /// [`Error::ReplicaTimeout`]: the outcome is unknown; [`Error::Fenced`]: nothing was written if
    /// the log did not lead, the outcome is unknown if it was made to stop meanwhile.
    ///
    /// # Examples
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// let log = ackline::Log::open(dir.path())?;
    /// let receipt = log.topic("orders")?.append(b"order 1")?;
    /// assert_eq!(receipt.offset, ackline::Offset(0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn append<'a>(&self, record: impl Into<Record<'a>>) -> Result<Receipt> {
        self.append_checked(&record.into(), |_| Ok(()))
    }

    /// Appends a record if it gets the offset `expected`: optimistic concurrency for writers
    /// that must not miss one another's records.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] with the actual next offset, if another writer was first; those of
    /// [`append`](Self::append).
    pub fn append_if<'a>(
        &self,
        expected: Offset,
        record: impl Into<Record<'a>>,
    ) -> Result<Receipt> {
        self.append_checked(&record.into(), |next| {
            let actual = Offset(next);
            if actual == expected { Ok(()) } else { Err(Error::Conflict { expected, actual }) }
        })
    }

    fn append_checked(
        &self,
        record: &Record<'_>,
        check: impl FnOnce(u64) -> Result<()>,
    ) -> Result<Receipt> {
        let (shared, id) = (self.shared(), self.runtime.id);
        let bytes = self.check(record)?;
        let now_ms = shared.commits.clock.wall_ms();
        let mut receipt = Receipt::of(acknowledged(&shared.commits, self.ack));
        let offset_of = |offset: &Offset| Some(*offset);
        receipt.offset =
            shared.commits.commit((Class::Append, self.ack), bytes, offset_of, |enlisting| {
                self.check_there()?;
                let mut next = enlisting.state.topic(id).map_or(0, |topic| topic.next);
                if mutant::on(Mutant::ConditionOnVisible) {
                    next = self.offsets().end.0;
                }
                check(next)?;
                receipt.position = enlisting.position();
                Ok(Offset(enlisting.message(id, record.timestamp_ms(now_ms), &record.content())))
            })?;
        Ok(receipt)
    }

    /// Appends a record without waiting; the handle that is returned resolves when it is safe.
    ///
    /// Submits of one thread get ascending offsets. The call itself waits only while more than
    /// 32 MiB are queued or a new segment is put in place.
    ///
    /// # Examples
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let log = ackline::Log::open(dir.path())?;
    /// let orders = log.topic("orders")?;
    /// orders.submit("fire and forget").detach();
    /// let receipt = orders.submit("wait for me").wait()?;
    /// assert_eq!(receipt.offset, ackline::Offset(1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn submit<'a>(&self, record: impl Into<Record<'a>>) -> Pending<Receipt> {
        let record = record.into();
        let commits = &self.shared().commits;
        let bytes = match self.check(&record) {
            Ok(bytes) => bytes,
            Err(error) => return Pending::failed(error),
        };
        let (id, now_ms) = (self.runtime.id, commits.clock.wall_ms());
        let mut receipt = Receipt::of(acknowledged(commits, self.ack));
        let enlisted = commits.enlist(Class::Append, bytes, |enlisting| {
            self.check_there()?;
            let time = record.timestamp_ms(now_ms);
            receipt.position = enlisting.position();
            receipt.offset = Offset(enlisting.message(id, time, &record.content()));
            Ok(())
        });
        match enlisted {
            Ok(((), ticket)) => {
                Pending::queued(receipt, |receipt| Some(receipt.offset), ticket, self.ack)
            }
            Err(error) => Pending::failed(error),
        }
    }

    /// Appends several records in one frame: after a crash either all are there or none.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`] if they are over
    /// [`batch_bytes_max`](crate::Options::batch_bytes_max) together; those of
    /// [`append`](Self::append).
    pub fn append_batch<'a, R: Into<Record<'a>>>(
        &self,
        records: impl IntoIterator<Item = R>,
    ) -> Result<BatchReceipt> {
        let (shared, id) = (self.shared(), self.runtime.id);
        let mut records: Vec<Record<'_>> = records.into_iter().map(Into::into).collect();
        if mutant::on(Mutant::BatchSplit)
            && records.len() > 1
            && let Some(last) = records.pop()
        {
            let BatchReceipt { mut offsets, position } = self.append_batch(records)?;
            offsets.end = self.append(last)?.offset.next();
            return Ok(BatchReceipt { offsets, position });
        }
        let mut bytes = 0;
        for record in &records {
            bytes += self.check(record)?;
        }
        let now_ms = shared.commits.clock.wall_ms();
        let offset_of = |receipt: &BatchReceipt| Some(receipt.offsets.start);
        shared.commits.commit((Class::Append, self.ack), bytes, offset_of, |enlisting| {
            self.check_there()?;
            let position = enlisting.position();
            let next = enlisting.state.topic(id).map_or(0, |topic| topic.next);
            let mut offsets = Offset(next)..Offset(next);
            for record in &records {
                let time = record.timestamp_ms(now_ms);
                let offset = enlisting.message(id, time, &record.content());
                offsets.end = Offset(offset).next();
            }
            Ok(BatchReceipt { offsets, position })
        })
    }

    /// Checks a record against all limits and returns the bytes that it takes.
    pub(crate) fn check(&self, record: &Record<'_>) -> Result<usize> {
        let shared = self.shared();
        let bytes = record.check(shared.limits.payload_bytes_max)?;
        // A dead letter is the record and a few more headers, and must fit as well.
        let max = shared.commits.config.batch_bytes_max - DEAD_LETTER_BYTES_MAX as u64;
        if bytes as u64 > max {
            return Err(Error::TooLarge { what: "record", bytes: bytes as u64, max });
        }
        Ok(bytes)
    }

    /// Waits until the message at `offset` is visible, for at most `timeout`: what to do after
    /// [`Error::SyncTimeout`] or [`Error::ReplicaTimeout`], instead of appending again.
    ///
    /// It tells nothing of *which* message that is: after another replica was made the leader, the
    /// offset may be another record's.
    ///
    /// # Errors
    ///
    /// [`Error::ReplicaTimeout`] if it is not visible in time; [`Error::Fenced`] if this replica does
    /// not lead; [`Error::Poisoned`], [`Error::Closed`].
    pub fn wait_visible(&self, offset: Offset, timeout: Duration) -> Result<()> {
        let commits = &self.shared().commits;
        let deadline = commits.clock.monotonic().saturating_add(timeout);
        loop {
            let observed = self.runtime.signal.observe();
            if self.runtime.visible_next.load(Ordering::Acquire) > offset.0 {
                return Ok(());
            }
            self.shared().check_open()?;
            commits.check_leading()?;
            let left = deadline.saturating_sub(commits.clock.monotonic());
            if left.is_zero() {
                return Err(Error::ReplicaTimeout { offset: Some(offset), waited: timeout });
            }
            self.runtime.signal.wait(observed, Some(left));
        }
    }

    /// The offsets of the messages that can be read now.
    pub fn offsets(&self) -> Offsets {
        let start = self.runtime.start.load(Ordering::Acquire);
        let end = self.runtime.visible_next.load(Ordering::Acquire);
        Offsets { start: Offset(start), end: Offset(end.max(start)) }
    }

    /// Reads the visible messages from `offset` on, outside of any group.
    ///
    /// The iterator ends at the last visible message; asked again later, it goes on. A poisoned
    /// log can still be read.
    ///
    /// # Errors
    ///
    /// [`Error::OffsetOutOfRange`]; [`Error::Closed`], also from the iterator, once. The iterator yields [`Error::Lagged`] where messages are
    /// gone, and then goes on behind them; [`Error::Corrupt`] or [`Error::Io`] if a message
    /// cannot be read.
    ///
    /// # Examples
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let log = ackline::Log::open(dir.path())?;
    /// let orders = log.topic("orders")?;
    /// orders.append_batch(["a", "b", "c"])?;
    /// let payloads: Vec<_> = orders
    ///     .read_from(ackline::Offset(1))?
    ///     .map(|message| message.map(|message| message.payload().to_vec()))
    ///     .collect::<ackline::Result<_>>()?;
    /// assert_eq!(payloads, [b"b", b"c"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn read_from(&self, offset: Offset) -> Result<Reader> {
        self.shared().check_readable()?;
        let Offsets { start, end } = self.offsets();
        if offset < start || offset > end {
            return Err(Error::OffsetOutOfRange { offset, start, end });
        }
        let cursor = TopicCursor::new(self.runtime.id, offset.0);
        Ok(Reader { topic: self.clone(), cursor, home: None, told_closed: false })
    }

    /// The offset of the first message that is not older than `time`, or the topic's end.
    ///
    /// # Errors
    ///
    /// Those of reading: [`Error::Corrupt`], [`Error::Io`], [`Error::Closed`].
    pub fn offset_at(&self, time: SystemTime) -> Result<Offset> {
        let shared = self.shared();
        shared.check_readable()?;
        let time_ms = to_wall_ms(time);
        let Offsets { start, end } = self.offsets();
        let from = shared.commits.segments.locate_time(self.runtime.id, time_ms)?;
        let mut reader = self.read_from(Offset(from).clamp(start, end))?;
        loop {
            match reader.next() {
                Some(Ok(message)) if message.timestamp_ms() < time_ms => {}
                Some(Ok(message)) => return Ok(message.offset()),
                Some(Err(Error::Lagged { .. })) => {}
                Some(Err(error)) => return Err(error),
                None => return Ok(reader.next_offset()),
            }
        }
    }

    /// The offset that a [`Start`] stands for now.
    pub(crate) fn resolve(&self, start: Start) -> Result<Offset> {
        let offsets = self.offsets();
        match start {
            Start::Earliest => Ok(offsets.start),
            Start::Latest if mutant::on(Mutant::LatestAboveVisible) => {
                let core = self.shared().commits.core.lock();
                Ok(Offset(core.state.topics()[self.runtime.id.0 as usize].next))
            }
            Start::Latest => Ok(offsets.end),
            Start::Offset(offset) if offset < offsets.start || offset > offsets.end => {
                let Offsets { start, end } = offsets;
                Err(Error::OffsetOutOfRange { offset, start, end })
            }
            Start::Offset(offset) => Ok(offset),
            Start::Time(time) => self.offset_at(time),
        }
    }

    /// Opens the consumer group `name` with the options that it was given last since the log was
    /// opened, else with the defaults; creates it if it does not exist, beginning with the
    /// earliest message.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`]; when it is created, those of [`append`](Self::append).
    pub fn group(&self, name: &str) -> Result<Group> {
        open_group(self, name, None)
    }

    /// Opens the consumer group `name` with options; creates it if it does not exist. Where it
    /// exists, its start is not changed.
    ///
    /// # Errors
    ///
    /// Those of [`group`](Self::group); [`Error::InvalidOption`].
    pub fn group_with(&self, name: &str, options: GroupOptions) -> Result<Group> {
        open_group(self, name, Some(options))
    }
}

/// What the headers of a dead letter and the entries beside it take at most.
pub(crate) const DEAD_LETTER_BYTES_MAX: usize = 8192;

/// Who holds what a caller has waited for.
pub(crate) fn acknowledged(commits: &Commits, ack: Ack) -> Acknowledged {
    match ack {
        Ack::Replicated if commits.replicas.is_some() => Acknowledged::Replicated,
        _ => Acknowledged::Local,
    }
}

/// Reads a topic's messages in order; see [`Topic::read_from`].
#[derive(Debug)]
pub struct Reader {
    topic: Topic,
    cursor: TopicCursor,
    /// That of the last message.
    home: Option<Arc<Home>>,
    /// That the log is closed was said once, so that a loop over the reader ends.
    told_closed: bool,
}

impl Reader {
    /// The offset of the message that comes next.
    pub fn next_offset(&self) -> Offset {
        Offset(self.cursor.next_offset())
    }
}

impl Iterator for Reader {
    type Item = Result<Message>;

    fn next(&mut self) -> Option<Self::Item> {
        let commits = &self.topic.shared().commits;
        // The directory may be another opener's by now, and its files may be gone.
        if self.topic.shared().stopping.load(Ordering::Acquire) {
            let told = std::mem::replace(&mut self.told_closed, true);
            return if told { None } else { Some(Err(Error::Closed)) };
        }
        let end = self.topic.runtime.visible_next.load(Ordering::Acquire);
        let from = self.next_offset();
        match self.cursor.step(&commits.segments, end, commits.marks.visible()) {
            Ok(Step::Message(chunk, found)) => {
                let home = match &self.home {
                    Some(home) if home.is_in(chunk) => home,
                    _ => self.home.insert(Home::of_topic(chunk, &self.topic.runtime.name)),
                };
                Some(Ok(Message::new(Arc::clone(home), found)))
            }
            Ok(Step::End) => None,
            Ok(Step::Gone { to }) => Some(Err(Error::Lagged { from, to: Offset(to) })),
            Err(error) => Some(Err(error)),
        }
    }
}
