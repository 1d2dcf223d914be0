//! Consumer groups: each message of a topic goes to one consumer of the group, under a lease,
//! until it is acknowledged.

pub(crate) mod delivery;
pub(crate) mod options;
mod poll;
pub(crate) mod shared;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::commit::Class;
use crate::error::{Error, Result};
use crate::mutant::{self, Mutant};
use crate::offset::Offset;
use crate::state::lease::OffsetStatus;
use crate::topic::{Start, Topic};
pub use delivery::Delivery;
use delivery::Origin;
pub use options::GroupOptions;
use shared::GroupShared;

/// A consumer group of a topic. Cheap to clone; all handles of one group share its state.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// # let dir = tempfile::tempdir()?;
/// let log = ackline::Log::open(dir.path())?;
/// let orders = log.topic("orders")?;
/// orders.append(b"order 1")?;
///
/// let billing = orders.group("billing")?;
/// for message in billing.poll(100, Duration::from_secs(1))? {
///     println!("charging for {:?}", message.payload());
///     message.ack()?;
/// }
/// billing.commit()?;
/// assert_eq!(billing.lag()?.messages, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Group {
    pub(crate) topic: Topic,
    pub(crate) shared: Arc<GroupShared>,
    pub(crate) origin: Arc<Origin>,
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("topic", &self.topic.name())
            .field("name", &self.shared.name)
            .finish_non_exhaustive()
    }
}

/// How far a group is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lag {
    /// Visible messages that are not acknowledged.
    pub messages: u64,
    /// Of these, how many consumers hold now.
    pub leased: u64,
    /// Of these, how many were delivered before and wait for their next delivery.
    pub waiting: u64,
}

/// What became of a message in a group; see [`Group::explain`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Explanation {
    /// Acknowledged, dead-lettered, skipped by a seek or by the tag filter.
    Settled,
    /// A consumer holds it.
    Leased {
        /// The number of this delivery, from 1.
        attempt: u32,
        /// How long the lease still lasts.
        ends_in: Duration,
    },
    /// It was delivered before and comes again.
    Waiting {
        /// How often it was delivered.
        attempts: u32,
        /// How long until it is due; zero if it is.
        due_in: Duration,
    },
    /// Nobody has had it yet.
    Undelivered,
    /// It is not visible yet, or not appended.
    NotYet,
    /// Retention has deleted it.
    Gone,
}

impl Group {
    pub(crate) fn new(topic: &Topic, shared: Arc<GroupShared>) -> Self {
        let (group, handle) = (Arc::clone(&shared), Arc::clone(&topic.handle));
        Self { topic: topic.clone(), shared, origin: Arc::new(Origin { group, handle }) }
    }

    /// The group's name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// The topic that the group consumes.
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// Leases up to `max` messages, waiting up to `timeout` for the first one.
    ///
    /// Due redeliveries come first, then new messages in order of their offsets. Each message
    /// is leased for [`GroupOptions::lease`]; nobody else gets it until the lease ends. The
    /// result is empty when the timeout has passed. While
    /// [`in_flight_max`](GroupOptions::in_flight_max) messages are leased there is nothing to
    /// give out, and the call waits.
    ///
    /// After an unclean end of the process, the messages that may have been under way are
    /// delivered one at a time, so that one that ends the process does so alone and runs out of
    /// attempts.
    ///
    /// # Errors
    ///
    /// [`Error::Lagged`], once, when retention or salvage removed messages that the group had
    /// not seen; the next call goes on behind them. [`Error::Poisoned`], [`Error::Closed`];
    /// [`Error::Full`] if not even progress can be logged; [`Error::Corrupt`] or [`Error::Io`] if
    /// a message cannot be read.
    pub fn poll(&self, max: usize, timeout: Duration) -> Result<Vec<Delivery>> {
        poll::poll(self, max, timeout)
    }

    /// Waits for one message, on any async runtime.
    ///
    /// Dropping the future early loses nothing: a message that was leased for it is free again.
    ///
    /// # Errors
    ///
    /// Those of [`poll`](Self::poll).
    pub async fn next(&self) -> Result<Delivery> {
        poll::next(self).await
    }

    /// Acknowledges a message by its offset, whoever holds it.
    ///
    /// # Errors
    ///
    /// [`Error::NotLeased`] if it was not delivered; [`Error::AlreadyAcked`].
    pub fn ack(&self, offset: Offset) -> Result<()> {
        self.topic.shared().check_open()?;
        self.shared.settle(offset.0, |leases| leases.ack_offset(offset.0))
    }

    /// Makes everything acknowledged so far durable, and waits for it.
    ///
    /// # Errors
    ///
    /// [`Error::Poisoned`], [`Error::Closed`], [`Error::Full`] if there is no room for progress
    /// either, [`Error::SyncTimeout`]. With a replicator, [`Error::ReplicaTimeout`] and
    /// [`Error::Fenced`]: what becomes of the acknowledgements is unknown, and the message may come
    /// again.
    pub fn commit(&self) -> Result<()> {
        self.topic.shared().check_open()?;
        let commits = &self.topic.shared().commits;
        let began = commits.standing();
        let ticket = self.shared.log_delta(&mut *self.shared.open_runtime()?)?;
        if mutant::on(Mutant::CommitBeforeDurable) {
            return Ok(());
        }
        match ticket {
            Some(ticket) => self.shared.wait(&ticket)?,
            // What was acknowledged may be on its way with someone else's write.
            None if mutant::on(Mutant::CommitForgetsRiders) => {}
            None => commits.flush_queue()?,
        }
        commits.sync_written()?;
        commits.wait_replicated(began)
    }

    /// Acknowledges all messages up to and including `offset`, delivered or not, and waits until
    /// that is durable: the cumulative commit of Kafka.
    ///
    /// # Errors
    ///
    /// [`Error::OffsetOutOfRange`] if `offset` is not visible yet; those of
    /// [`commit`](Self::commit).
    pub fn commit_through(&self, offset: Offset) -> Result<()> {
        self.topic.shared().check_open()?;
        let offsets = self.topic.offsets();
        if offset >= offsets.end && !mutant::on(Mutant::CommitAboveVisible) {
            let (start, end) = (offsets.start, offsets.end);
            return Err(Error::OffsetOutOfRange { offset, start, end });
        }
        let mut runtime = self.shared.open_runtime()?;
        let before = runtime.leases.held_back();
        runtime.leases.ack_through(offset.0);
        self.shared.let_go(runtime, before);
        self.commit()
    }

    /// Moves the group: it forgets what it has done and goes on from there. Leases that are out
    /// become stale. Durable when this returns.
    ///
    /// # Errors
    ///
    /// [`Error::OffsetOutOfRange`]; those of [`commit`](Self::commit).
    pub fn seek(&self, to: impl Into<Start>) -> Result<()> {
        self.topic.shared().check_open()?;
        let to = self.topic.resolve(to.into())?;
        let (id, commits) = (self.shared.id, &self.topic.shared().commits);
        let mut runtime = self.shared.open_runtime()?;
        let ((), ticket) = commits.enlist(Class::Progress, shared::SEEK_BYTES, |enlisting| {
            if !mutant::on(Mutant::SeekNotLogged) {
                enlisting.seek(id, to.0);
            }
            Ok(())
        })?;
        runtime.leases.seek(to.0);
        if let Some(reserve) = runtime.leases.wants_reserve_after_seek(commits.clock.monotonic()) {
            self.shared.log_reserve(&mut runtime, reserve);
        }
        self.shared.note_floor(&runtime);
        runtime.lagged = None;
        drop(runtime);
        self.topic.runtime.wake();
        self.shared.wait(&ticket)?;
        commits.sync_written()
    }

    /// How far the group is behind.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`], [`Error::Poisoned`].
    pub fn lag(&self) -> Result<Lag> {
        self.topic.shared().check_open()?;
        let end = self.topic.offsets().end.0;
        let now = self.topic.shared().commits.clock.monotonic();
        let mut runtime = self.shared.open_runtime()?;
        runtime.leases.expire(now);
        let leases = &runtime.leases;
        let settled = leases.floor() + leases.settled_above_floor();
        Ok(Lag {
            messages: end.saturating_sub(settled),
            leased: leases.leased_len() as u64,
            waiting: leases.waiting_len() as u64,
        })
    }

    /// Tells what became of a message in this group.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`], [`Error::Poisoned`].
    pub fn explain(&self, offset: Offset) -> Result<Explanation> {
        self.topic.shared().check_open()?;
        let offsets = self.topic.offsets();
        let now = self.topic.shared().commits.clock.monotonic();
        let mut runtime = self.shared.open_runtime()?;
        runtime.leases.expire(now);
        if offset >= offsets.end {
            return Ok(Explanation::NotYet);
        }
        let left = |until: Duration| until.saturating_sub(now);
        Ok(match runtime.leases.status(offset.0) {
            OffsetStatus::Settled => Explanation::Settled,
            _ if offset < offsets.start => Explanation::Gone,
            OffsetStatus::Leased { attempt, until } => {
                Explanation::Leased { attempt, ends_in: left(until) }
            }
            OffsetStatus::Waiting { attempt, due } => {
                Explanation::Waiting { attempts: attempt, due_in: left(due) }
            }
            OffsetStatus::Fresh => Explanation::Undelivered,
        })
    }

    /// The name of the topic to which messages go that are rejected or out of attempts.
    pub fn dead_letter_topic(&self) -> String {
        self.shared.runtime.lock().options.dead_letter_topic(self.topic.name(), self.name())
    }
}
