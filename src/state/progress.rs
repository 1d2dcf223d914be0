//! What is durable about a consumer group: a fold over its progress entries in the log.
//!
//! It promises that the entries, applied in log order, always give the same value, and that
//! [`GroupProgress::to_progress`] carries all of it through a checkpoint. It takes any input
//! without panicking: an entry is checksummed, not trusted. It knows nothing of leases.

use std::collections::BTreeMap;
use std::ops::Range;

use super::ranges::RangeSet;
use crate::format::entry::{Attempt, Progress};

/// A delivery count that was logged, and when the next delivery is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) count: u32,
    /// Wall clock in milliseconds; 0 is now.
    pub(crate) due_ms: u64,
}

/// How far a group has come, as a restart would find it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupProgress {
    /// Everything below is settled.
    pub(crate) floor: u64,
    /// What is settled above the floor.
    pub(crate) acked: RangeSet,
    /// Everything below may have been delivered once; neither the floor nor a key of `attempts`
    /// is above.
    pub(crate) delivered: u64,
    /// The group was closed since it delivered anything: what is counted happened, and the
    /// process lived to tell. Otherwise any unsettled message may have ended it.
    pub(crate) exact: bool,
    /// The counts that [`Self::attempts_of`] cannot tell from `delivered`; unsettled offsets only.
    pub(crate) attempts: BTreeMap<u64, Counted>,
}

impl GroupProgress {
    /// A group that has settled everything below `floor` and nothing else.
    pub(crate) fn starting_at(floor: u64) -> Self {
        let (acked, attempts) = (RangeSet::new(), BTreeMap::new());
        Self { floor, acked, delivered: floor, exact: true, attempts }
    }

    /// Folds in the next entry of the log.
    pub(crate) fn apply(&mut self, progress: &Progress) {
        for range in &progress.acked {
            self.settle(range.start.max(self.floor)..range.end);
        }
        for &Attempt { offset, count, due_ms } in &progress.attempts {
            if offset >= self.floor && !self.acked.contains(offset) {
                self.attempts.insert(offset, Counted { count, due_ms });
            }
        }
        if progress.exact {
            self.delivered = progress.delivered;
            self.exact = true;
        } else if progress.delivered > self.delivered || !progress.attempts.is_empty() {
            self.delivered = self.delivered.max(progress.delivered);
            self.exact = false;
        }
        // What has a count has been given out, even if the entry that reserved it was lost.
        let counted =
            self.attempts.last_key_value().map_or(0, |(offset, _)| offset.saturating_add(1));
        self.delivered = self.delivered.max(self.floor).max(counted);
        self.exact |= self.delivered == self.floor;
    }

    /// Starts over at `to`: what lies below is settled, and nothing else is known.
    pub(crate) fn seek(&mut self, to: u64) {
        *self = Self::starting_at(to);
    }

    /// Everything as one entry: applied to [`Self::starting_at`] this floor, it gives this value.
    pub(crate) fn to_progress(&self) -> Progress {
        Progress {
            delivered: self.delivered,
            exact: self.exact,
            acked: self.acked.iter().collect(),
            attempts: self
                .attempts
                .iter()
                .map(|(&offset, &Counted { count, due_ms })| Attempt { offset, count, due_ms })
                .collect(),
        }
    }

    /// How often the message at `offset` has been delivered, as far as it counts.
    pub(crate) fn attempts_of(&self, offset: u64) -> u32 {
        let assumed = u32::from(offset < self.delivered);
        self.attempts.get(&offset).map_or(assumed, |counted| counted.count)
    }

    /// The unsettled offsets below `end` that may have been delivered.
    pub(crate) fn suspects(&self, end: u64) -> impl Iterator<Item = u64> + '_ {
        self.acked.missing(self.floor..self.delivered.min(end)).flatten()
    }

    fn settle(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        while let Some((&offset, _)) = self.attempts.range(range.clone()).next() {
            self.attempts.remove(&offset);
        }
        self.acked.insert(range);
        while let Some(end) = self.acked.take_front_if_starts_at(self.floor) {
            self.floor = end;
        }
    }
}

#[cfg(test)]
#[path = "progress_tests.rs"]
mod tests;
