//! A message in a consumer's hands.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use crate::commit::{Class, Commits};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::format::entry::{Content, FIELD_BYTES_MAX, Progress};
use crate::mutant::{self, Mutant};
use crate::offset::{GroupId, Offset};
use crate::pending::Ticket;
use crate::record::Message;
use crate::shared::{Handle, NAME_ENTRY_BYTES};
use crate::state::lease::NO_TOKEN;
use crate::topic::DEAD_LETTER_BYTES_MAX;

use super::shared::{GroupShared, Runtime, progress_bytes};

/// A message that is leased to its holder. It derefs to [`Message`].
///
/// Each delivery ends in one of five ways: [`ack`](Self::ack), [`retry`](Self::retry) or
/// [`retry_after`](Self::retry_after), [`release`](Self::release), [`reject`](Self::reject), or
/// it is dropped, which ends the lease at once, the attempt counted. A `?` in the middle of a
/// loop over [`Group::poll`](crate::Group::poll) drops all that is left of the poll: end the one
/// that failed with `retry`, and go on with the others.
///
/// The payload is not copied and the delivery is `Send + 'static`: it can move to another
/// thread or task.
pub struct Delivery {
    /// Its home has an origin.
    pub(super) message: Message,
    /// That of its lease, or [`NO_TOKEN`] once there is none to end. A `bool` would tell as well, but
    /// the compiler would keep in it whether there is a delivery at all where there may be none, and
    /// then move one in odd pieces.
    pub(super) token: u64,
    pub(super) attempt: u32,
}

/// Where deliveries come from. They share it, as there are many of them.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(super) group: Arc<GroupShared>,
    /// Keeps the log open.
    pub(super) handle: Arc<Handle>,
}

impl Origin {
    /// The name of the topic.
    pub(crate) fn topic(&self) -> &Arc<str> {
        &self.group.topic.name
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("message", &self.message)
            .field("group", &self.origin().group.name)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

impl Deref for Delivery {
    type Target = Message;

    fn deref(&self) -> &Message {
        &self.message
    }
}

impl Delivery {
    /// The message itself, which can be kept after the delivery is settled.
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// The number of this delivery, from 1.
    ///
    /// After an unclean end of the process it counts deliveries that may have happened: it is
    /// never too low.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Acknowledges the message: the group does not get it again.
    ///
    /// The acknowledgement rides on the next write, within a second at the latest;
    /// [`Group::commit`](crate::Group::commit) waits until it is durable. If a crash takes it
    /// back, the message is delivered once more.
    ///
    /// # Errors
    ///
    /// [`Error::StaleLease`] if the lease had ended and the message was given out again since;
    /// a late acknowledgement succeeds otherwise. [`Error::Poisoned`]; [`Error::Closed`].
    pub fn ack(self) -> Result<()> {
        let token = self.token;
        self.finish(|group, offset| group.settle(offset, |leases| leases.ack(offset, token)))
    }

    /// Gives the message back, to be delivered again after the group's backoff for this attempt.
    ///
    /// # Errors
    ///
    /// Those of [`ack`](Self::ack).
    pub fn retry(self) -> Result<()> {
        self.retry_in(None)
    }

    /// Gives the message back, to be delivered again after `delay`, also after a restart. The
    /// attempt is counted. If a crash takes the delay back, as it may for a second like an
    /// acknowledgement, the message is delivered sooner.
    ///
    /// # Errors
    ///
    /// Those of [`ack`](Self::ack).
    pub fn retry_after(self, delay: Duration) -> Result<()> {
        self.retry_in(Some(delay))
    }

    fn retry_in(self, delay: Option<Duration>) -> Result<()> {
        let token = self.token;
        self.finish(|group, offset| {
            let now = group.commits.clock.now();
            group.settle(offset, |leases| leases.retry(offset, token, delay, now))?;
            group.topic.wake();
            Ok(())
        })
    }

    /// Gives the message back to be delivered at once, as if this delivery had not been: the
    /// attempt is not counted.
    ///
    /// # Errors
    ///
    /// Those of [`ack`](Self::ack).
    pub fn release(self) -> Result<()> {
        let token = self.token;
        self.finish(|group, offset| {
            let now = group.commits.clock.now();
            group.settle(offset, |leases| leases.release(offset, token, now))?;
            group.topic.wake();
            Ok(())
        })
    }

    /// Sends the message to the group's dead-letter topic now, and waits until that is as safe as
    /// the log's policy says.
    ///
    /// The dead letter carries the payload, the key, the tag and the headers of the message, and
    /// the headers `ackline.topic`, `ackline.group`, `ackline.offset`, `ackline.attempts` and
    /// `ackline.reason` (cut after 1,024 characters). It is written in one frame with the
    /// acknowledgement: there is never one without the other.
    ///
    /// # Errors
    ///
    /// Those of [`ack`](Self::ack) and of [`Topic::append`](crate::Topic::append); the message
    /// is then delivered again. After [`Error::SyncTimeout`] the outcome is unknown, and this
    /// process does not deliver the message again.
    pub fn reject(self, reason: &str) -> Result<()> {
        let (token, message) = (self.token, self.message.clone());
        let attempt = self.attempt;
        self.finish(|group, offset| {
            let ticket = {
                let mut runtime = group.runtime.lock();
                let before = runtime.leases.held_back();
                runtime
                    .leases
                    .check(offset, token)
                    .map_err(|refused| super::shared::refusal(refused, Offset(offset)))?;
                let ticket = group.bury(&runtime, &message, attempt, reason)?;
                runtime
                    .leases
                    .ack(offset, token)
                    .map_err(|refused| super::shared::refusal(refused, Offset(offset)))?;
                group.let_go(runtime, before);
                ticket
            };
            if mutant::on(Mutant::DeadLetterBeforeDurable) {
                return Ok(());
            }
            group.wait(&ticket)
        })
    }

    /// Lets the lease end `from_now` on, so that long work is not delivered again meanwhile.
    ///
    /// # Errors
    ///
    /// [`Error::StaleLease`] if the lease has ended; those of [`ack`](Self::ack).
    pub fn extend(&self, from_now: Duration) -> Result<()> {
        let Origin { group, handle } = self.origin();
        handle.shared.check_open()?;
        let (offset, token) = (self.offset().0, self.token);
        let now = group.commits.clock.now();
        group.settle(offset, |leases| leases.extend(offset, token, now, from_now))
    }

    fn finish(mut self, outcome: impl FnOnce(&GroupShared, u64) -> Result<()>) -> Result<()> {
        let Origin { group, handle } = self.origin();
        handle.shared.check_open()?;
        let result = outcome(group, self.offset().0);
        // Where the outcome was refused, dropping the delivery ends the lease if it is still
        // its own, and does nothing otherwise.
        if result.is_ok() {
            self.token = NO_TOKEN;
        }
        result
    }

    #[inline]
    fn origin(&self) -> &Origin {
        self.message.home().origin().expect("what is delivered comes from a group")
    }

    pub(crate) fn token(&self) -> u64 {
        self.token
    }

    pub(crate) fn group_shared(&self) -> &Arc<GroupShared> {
        &self.origin().group
    }

    /// Whether the message is of that log.
    pub(crate) fn is_of(&self, handle: &Handle) -> bool {
        Arc::ptr_eq(&self.origin().handle.shared, &handle.shared)
    }

    /// The message was settled by other means.
    pub(crate) fn forget_lease(mut self) {
        self.token = NO_TOKEN;
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if self.token == NO_TOKEN {
            return;
        }
        let group = &self.origin().group;
        if group.is_settled(self.offset().0) {
            return;
        }
        let Some(mut runtime) = group.runtime.lock_in_drop() else { return };
        let now = group.commits.clock.now();
        // A refusal means that the lease is not this one's any more: there is nothing to end.
        if runtime.leases.drop_lease(self.offset().0, self.token, now).is_ok() {
            group.changed(&mut runtime);
            drop(runtime);
            group.topic.wake();
        }
    }
}

impl GroupShared {
    /// Queues a dead letter for a message and its acknowledgement, in one frame.
    pub(super) fn bury(
        &self,
        runtime: &Runtime,
        message: &Message,
        attempts: u32,
        reason: &str,
    ) -> Result<Arc<Ticket>> {
        let topic = runtime.options.dead_letter_topic(&self.topic.name, &self.name);
        let letter = Letter { group: self, message, attempts, reason };
        letter.queue(&self.commits, self.id, &topic)
    }
}

/// A message on its way to a dead-letter topic.
struct Letter<'a> {
    group: &'a GroupShared,
    message: &'a Message,
    attempts: u32,
    reason: &'a str,
}

impl Letter<'_> {
    fn queue(&self, commits: &Commits, group: GroupId, topic: &str) -> Result<Arc<Ticket>> {
        let offset = self.message.offset().0;
        let acked = std::iter::once(offset..offset + 1).collect();
        let progress = Progress { acked, ..Progress::default() };
        let mut headers = self.message.header_pairs();
        // A letter that was rejected thousands of times, from one dead-letter topic to the next,
        // must still be one that can be written.
        headers.truncate(FIELD_BYTES_MAX - 5);
        let reason: String = self.reason.chars().take(1024).collect();
        for (name, value) in [
            ("ackline.topic", self.group.topic.name.to_string()),
            ("ackline.group", self.group.name.to_string()),
            ("ackline.offset", offset.to_string()),
            ("ackline.attempts", self.attempts.to_string()),
            ("ackline.reason", reason),
        ] {
            headers.push((name.to_owned(), value.into_bytes()));
        }
        let content = Content {
            key: self.message.key(),
            tag: self.message.tag(),
            headers: &headers,
            payload: self.message.payload(),
        };
        let beside = progress_bytes(&progress) + NAME_ENTRY_BYTES;
        debug_assert!(beside < DEAD_LETTER_BYTES_MAX / 2, "the limit covers headers and entries");
        let now_ms = commits.clock.wall_ms();
        let bytes = content.encoded_bytes() + beside;
        // It settles its source: refused where appends are, it would keep the log full for ever.
        let ((), ticket) = commits.enlist(Class::Progress, bytes, |enlisting| {
            let known = enlisting.state.topic_named(topic);
            let id = known.unwrap_or_else(|| enlisting.topic(topic));
            enlisting.message(id, now_ms, &content);
            if !mutant::on(Mutant::DeadLetterApart) {
                enlisting.progress(group, progress);
            }
            Ok(())
        })?;
        Ok(ticket)
    }
}
