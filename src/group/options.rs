//! How a group behaves.

use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::format::name;
use crate::state::lease::Limits;
use crate::topic::Start;

/// How a group behaves. Only the start and [`may_lag`](Self::may_lag) are stored with the
/// group; the rest holds until the log is closed.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use ackline::{GroupOptions, Start};
///
/// # let dir = tempfile::tempdir()?;
/// # let log = ackline::Log::open(dir.path())?;
/// let options = GroupOptions::new()
///     .start(Start::Latest)
///     .lease(Duration::from_secs(300))
///     .attempts_max(3)
///     .dead_letter("failed orders");
/// let slow = log.topic("orders")?.group_with("slow", options)?;
/// # drop(slow);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct GroupOptions {
    pub(crate) start: Start,
    pub(crate) limits: Limits,
    pub(crate) tag: Option<String>,
    pub(crate) dead_letter: Option<String>,
    pub(crate) may_lag: bool,
}

impl Default for GroupOptions {
    fn default() -> Self {
        Self {
            start: Start::Earliest,
            limits: Limits::default(),
            tag: None,
            dead_letter: None,
            may_lag: false,
        }
    }
}

impl GroupOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Where a group that does not exist yet begins. Default: [`Start::Earliest`].
    #[must_use]
    pub fn start(mut self, start: impl Into<Start>) -> Self {
        self.start = start.into();
        self
    }

    /// How long a consumer may hold a message. Default: 30 s, as long as Amazon SQS hides a
    /// received message by default.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.limits.lease = lease;
        self
    }

    /// How many messages consumers may hold at a time. Default: 1,000.
    #[must_use]
    pub fn in_flight_max(mut self, messages: usize) -> Self {
        self.limits.in_flight_max = messages;
        self
    }

    /// How many delivered messages may be unacknowledged, held or waiting for a retry, before
    /// new ones are held back. It bounds the ranges of acknowledged messages that are kept, too.
    /// Default: 10,000.
    #[must_use]
    pub fn unacked_max(mut self, messages: usize) -> Self {
        self.limits.unsettled_max = messages;
        self
    }

    /// How often a message is delivered before it goes to the dead-letter topic. Default: 16,
    /// RocketMQ's number of retries.
    #[must_use]
    pub fn attempts_max(mut self, attempts: u32) -> Self {
        self.limits.attempts_max = attempts;
        self
    }

    /// The delays of [`Delivery::retry`](crate::Delivery::retry): after the first attempt, the
    /// second and so on; the last one repeats. Default: 10 s, 30 s, 1 min and on to 2 h, as
    /// RocketMQ has them.
    #[must_use]
    pub fn backoff(mut self, delays: impl Into<Vec<Duration>>) -> Self {
        self.limits.backoff = Arc::from(delays.into());
        self
    }

    /// Whether there are messages that the group is not to get.
    pub(crate) fn selects(&self) -> bool {
        self.tag.is_some()
    }

    /// Whether the group is to get a message with that tag.
    pub(crate) fn wants(&self, tag: Option<&str>) -> bool {
        self.tag.as_deref().is_none_or(|wanted| tag == Some(wanted))
    }

    /// Selects the messages with this tag; the others count as acknowledged.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tag = Some(tag.into());
        self
    }

    /// The topic for messages that are rejected or out of attempts. Default:
    /// `<topic>.<group>.dead`.
    #[must_use]
    pub fn dead_letter(mut self, topic: impl Into<String>) -> Self {
        self.dead_letter = Some(topic.into());
        self
    }

    /// At the log's [`max_bytes`](crate::Options::max_bytes), messages may be deleted that this
    /// group has not acknowledged, rather than appends be refused; the group is then told by
    /// [`Error::Lagged`]. Default: no.
    #[must_use]
    pub fn may_lag(mut self, may_lag: bool) -> Self {
        self.may_lag = may_lag;
        self
    }

    pub(crate) fn dead_letter_topic(&self, topic: &str, group: &str) -> String {
        self.dead_letter.clone().unwrap_or_else(|| format!("{topic}.{group}.dead"))
    }

    pub(crate) fn check(&self, topic: &str, group: &str) -> Result<()> {
        let check = |ok: bool, option, reason: &str| {
            let error = Error::InvalidOption { option, reason: reason.to_owned() };
            if ok { Ok(()) } else { Err(error) }
        };
        let limits = &self.limits;
        check(!limits.lease.is_zero(), "lease", "zero")?;
        check(limits.in_flight_max >= 1, "in_flight_max", "zero")?;
        check(limits.in_flight_max <= 1_000_000, "in_flight_max", "over a million")?;
        check(limits.unsettled_max >= 1, "unacked_max", "zero")?;
        check(limits.unsettled_max <= 1_000_000, "unacked_max", "over a million")?;
        check(limits.attempts_max >= 1, "attempts_max", "zero")?;
        check(!limits.backoff.is_empty(), "backoff", "no delay")?;
        let dead = self.dead_letter_topic(topic, group);
        check(dead != topic, "dead_letter", "the topic itself")?;
        name::check(&dead)
    }
}
