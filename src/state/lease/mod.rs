//! The leases of one consumer group: who holds which message, and what comes next.
//!
//! A pure state machine: the time is passed in, and what has to reach the log is handed out as
//! [`Progress`]. It promises that no message is held twice at a time, that what is settled is
//! never given out again but by a seek, and that its memory is bounded by [`Limits`]. It never
//! writes, waits or locks.
//!
//! What it hands out for the log must be logged in the order in which it was handed out.
//!
//! | file | holds |
//! |---|---|
//! | `mod` | the state, recovery, expiry and queries |
//! | `runs` | the offsets that are delivered and not settled |
//! | `plan` | what to give out next, and what must be durable first |
//! | `settle` | how a lease ends: ack, retry, release, and moves of the whole group |
//! | `delta` | what has changed since the last entry |

mod delta;
mod plan;
mod runs;
mod settle;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::progress::GroupProgress;
use super::ranges::RangeSet;
use crate::clock::Now;
#[cfg(doc)]
use crate::format::entry::Progress;
use crate::mutant::{self, Mutant};

pub(crate) use plan::{Exhausted, FreshRun, Granted, Plan, Reserve};
pub(crate) use settle::Refused;

/// How far ahead of the consumer delivery is logged, at first and at most.
const AHEAD_MIN: u64 = 16;
const AHEAD_MAX: u64 = 32_768;
/// A reserve that was used up sooner than this is doubled, so that a fast consumer seldom waits
/// for the log; one that lasted ten times longer is halved.
const AHEAD_TIME: Duration = Duration::from_millis(5);

/// No lease has this token.
pub(crate) const NO_TOKEN: u64 = 0;

/// The bounds of a group.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// How long a lease lasts.
    pub(crate) lease: Duration,
    /// How many messages may be leased at a time.
    pub(crate) in_flight_max: usize,
    /// How many delivered messages may be unsettled before new ones are held back.
    pub(crate) unsettled_max: usize,
    /// How often a message is delivered before it counts as exhausted.
    pub(crate) attempts_max: u32,
    /// The delay after the first attempt, the second and so on; the last one repeats.
    pub(crate) backoff: Arc<[Duration]>,
}

impl Default for Limits {
    fn default() -> Self {
        // RocketMQ's default delays, which start at its third delay level.
        const BACKOFF_SECS: [u64; 16] =
            [10, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 1200, 1800, 3600, 7200];
        Self {
            lease: Duration::from_secs(30),
            in_flight_max: 1000,
            unsettled_max: 10_000,
            attempts_max: 16,
            backoff: BACKOFF_SECS.map(Duration::from_secs).into(),
        }
    }
}

impl Limits {
    /// The delay after the delivery number `count`.
    fn backoff_after(&self, count: u32) -> Duration {
        let last = self.backoff.len().saturating_sub(1);
        let index = usize::try_from(count.saturating_sub(1)).unwrap_or(last);
        self.backoff.get(index.min(last)).copied().unwrap_or_default()
    }
}

/// What a group knows about an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OffsetStatus {
    /// Done: acknowledged, skipped or dead-lettered.
    Settled,
    /// Held by a consumer, or on its way to the dead letters.
    Leased { attempt: u32, until: Duration },
    /// Due for its next delivery at that time.
    Waiting { attempt: u32, due: Duration },
    /// Not yet given out.
    Fresh,
}

#[derive(Clone, Copy, Debug)]
struct Unsettled {
    /// Counted deliveries, the current one included.
    count: u32,
    hold: Hold,
}

#[derive(Clone, Copy, Debug)]
enum Hold {
    /// `previous` is the token of the lease before, should this one turn out not to count.
    Leased {
        token: u64,
        until: Duration,
        previous: u64,
    },
    Waiting {
        due: Due,
        last_token: u64,
    },
}

/// When the next delivery is due, on both clocks.
#[derive(Clone, Copy, Debug)]
struct Due {
    at: Duration,
    /// For the log, as it survives a restart; 0 is at once.
    wall_ms: u64,
}

impl Due {
    fn at_once(now: Duration) -> Self {
        Self { at: now, wall_ms: 0 }
    }
}

/// What the bounds of a group allow at some time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeldBack {
    /// Nothing at all can be given out.
    is_blocked: bool,
    /// Nothing can be given out for the first time.
    is_full: bool,
}

impl HeldBack {
    /// Whether `now` allows for something that was not allowed for before.
    pub(crate) fn is_eased(self, now: Self) -> bool {
        (self.is_blocked && !now.is_blocked) || (self.is_full && !now.is_full)
    }
}

/// The leases of one group.
#[derive(Clone, Debug)]
pub(crate) struct Leases {
    limits: Limits,
    /// Everything below is settled.
    floor: u64,
    /// What is settled above the floor.
    acked: RangeSet,
    /// The first offset that was never planned; everything in `floor..next` is settled or in
    /// `unsettled`.
    next: u64,
    unsettled: runs::Runs,
    leased: usize,
    /// The waiting ones of `unsettled`, in the order of delivery.
    due: BTreeSet<(Duration, u64)>,
    /// No lease ends before.
    earliest_until: Duration,
    /// One of them may have killed the process: each is delivered while nothing else is.
    suspects: BTreeSet<u64>,
    /// The suspect that is out.
    suspect_leased: Option<u64>,
    next_token: u64,
    /// Tokens below are from before the last seek.
    valid_tokens_from: u64,
    reserves: plan::Reserves,
    delta: delta::Delta,
}

impl Leases {
    /// The leases of a group that is opened: none; what may have been delivered waits.
    ///
    /// `end` is the topic's next offset. After a crash, what may have been in somebody's hands
    /// is suspected of having caused it and is delivered one at a time.
    pub(crate) fn recover(
        progress: &GroupProgress,
        end: u64,
        after_crash: bool,
        limits: Limits,
        now: Now,
    ) -> Self {
        let next = progress.floor.max(progress.delivered.min(end));
        let mut leases = Self {
            floor: progress.floor,
            acked: progress.acked.clone(),
            next,
            unsettled: runs::Runs::default(),
            leased: 0,
            due: BTreeSet::new(),
            earliest_until: Duration::MAX,
            suspects: BTreeSet::new(),
            suspect_leased: None,
            next_token: NO_TOKEN + 1,
            valid_tokens_from: NO_TOKEN + 1,
            reserves: plan::Reserves::starting_at(next, limits.attempts_max),
            delta: delta::Delta::default(),
            limits,
        };
        for offset in progress.suspects(end) {
            let count = progress.attempts_of(offset);
            let wall_ms = progress.attempts.get(&offset).map_or(0, |counted| counted.due_ms);
            let wait = Duration::from_millis(wall_ms.saturating_sub(now.wall_ms));
            let due = Due { at: now.monotonic.saturating_add(wait), wall_ms };
            // A delivery is logged as due now before it happens, and counts at least one: what
            // is due later, or counts none, was in nobody's hands.
            let suspect = after_crash && wait.is_zero() && count > 0;
            if suspect && !mutant::on(Mutant::SuspectsTogether) {
                leases.suspects.insert(offset);
            }
            leases.due.insert((due.at, offset));
            let hold = Hold::Waiting { due, last_token: NO_TOKEN };
            leases.unsettled.insert(offset, Unsettled { count, hold });
        }
        leases
    }

    /// Ends the leases whose time is over; their attempts stay counted.
    pub(crate) fn expire(&mut self, now: Duration) {
        if now < self.earliest_until {
            return;
        }
        let mut earliest = Duration::MAX;
        for (offsets, entry) in self.unsettled.iter_mut() {
            let Hold::Leased { token, until, .. } = entry.hold else { continue };
            if until > now {
                earliest = earliest.min(until);
                continue;
            }
            entry.hold = Hold::Waiting { due: Due::at_once(now), last_token: token };
            self.leased -= runs::length(&offsets);
            remove_all(&mut self.suspects, &offsets);
            self.suspect_leased = self.suspect_leased.filter(|leased| !offsets.contains(leased));
            self.due.extend(offsets.map(|offset| (now, offset)));
        }
        self.earliest_until = earliest;
    }

    /// Changes the bounds; leases that are out keep theirs.
    pub(crate) fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// How many delivered messages are not settled.
    #[cfg(test)]
    pub(crate) fn unsettled_len(&self) -> usize {
        self.unsettled.len()
    }

    /// How many messages are held.
    pub(crate) fn leased_len(&self) -> usize {
        self.leased
    }

    /// How many messages wait for their next delivery, due or not.
    pub(crate) fn waiting_len(&self) -> usize {
        self.due.len()
    }

    /// How many suspects of the last crash are still to be cleared.
    #[cfg(test)]
    pub(crate) fn suspects_len(&self) -> usize {
        self.suspects.len()
    }

    /// Everything below is settled.
    pub(crate) fn floor(&self) -> u64 {
        self.floor
    }

    /// The first offset that was never given out.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// How many offsets above the floor are settled.
    pub(crate) fn settled_above_floor(&self) -> u64 {
        self.acked.numbers()
    }

    /// What is known about `offset`.
    pub(crate) fn status(&self, offset: u64) -> OffsetStatus {
        if self.is_settled(offset) {
            return OffsetStatus::Settled;
        }
        match self.unsettled.get(offset) {
            Some(Unsettled { count: attempt, hold: Hold::Leased { until, .. } }) => {
                OffsetStatus::Leased { attempt, until }
            }
            Some(Unsettled { count: attempt, hold: Hold::Waiting { due, .. } }) => {
                OffsetStatus::Waiting { attempt, due: due.at }
            }
            None => OffsetStatus::Fresh,
        }
    }

    /// The earliest time at which `plan` may give more than now, other than through an outcome
    /// or an append. It may be early, never late; a `plan` at that time moves it on.
    pub(crate) fn next_event(&self) -> Option<Duration> {
        let lease_end = (self.leased > 0).then_some(self.earliest_until);
        let due = if self.is_blocked() { None } else { self.due.first().map(|&(due, _)| due) };
        lease_end.into_iter().chain(due).min()
    }

    /// Whether `plan` would give anything out at `now`.
    #[cfg(test)]
    pub(crate) fn has_work(&self, now: Now, visible_end: u64) -> bool {
        if self.leased > 0 && self.earliest_until <= now.monotonic {
            return true;
        }
        if self.is_blocked() {
            return false;
        }
        let due = self.due.first().is_some_and(|&(due, _)| due <= now.monotonic);
        due || !self.fresh_range(usize::MAX, visible_end).is_empty()
    }

    /// What keeps `plan` from giving out what is there.
    pub(crate) fn held_back(&self) -> HeldBack {
        let is_full = self.unsettled.len() >= self.limits.unsettled_max;
        HeldBack { is_blocked: self.is_blocked(), is_full }
    }

    /// Whether nothing can be given out before a lease ends.
    fn is_blocked(&self) -> bool {
        self.suspect_leased.is_some() || self.leased >= self.limits.in_flight_max
    }

    fn is_settled(&self, offset: u64) -> bool {
        offset < self.floor || (!self.acked.is_empty() && self.acked.contains(offset))
    }
}

/// Removes what a set holds within `range`.
fn remove_all(set: &mut BTreeSet<u64>, range: &Range<u64>) {
    while !set.is_empty()
        && let Some(&number) = set.range(range.clone()).next()
    {
        set.remove(&number);
    }
}

#[cfg(test)]
#[path = "../lease_log_tests.rs"]
mod log_tests;
#[cfg(test)]
#[path = "../lease_model_tests.rs"]
mod model_tests;
#[cfg(test)]
#[path = "../lease_tests.rs"]
mod tests;
