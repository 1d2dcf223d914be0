//! What has changed since the last entry in the log.
//!
//! It stays small: acks of neighbours are one range, and counts are kept for unsettled offsets
//! only. The counts themselves are read from the leases when the delta is taken, so that it
//! never carries an older fact than they do.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use super::{Due, Hold, Leases, remove_all};
use crate::clock::Now;
use crate::format::entry::{Attempt, Progress};
use crate::mutant::{self, Mutant};
use crate::state::ranges::RangeSet;

/// What is not logged yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Delta {
    acked: RangeSet,
    /// Waiting offsets whose count or due time the log does not know.
    touched: BTreeSet<u64>,
}

impl Delta {
    pub(super) fn settle(&mut self, range: Range<u64>) {
        self.acked.insert(range);
    }

    pub(super) fn touch(&mut self, offset: u64) {
        self.touched.insert(offset);
    }

    /// The offsets are settled, or their counts are logged in another way.
    pub(super) fn forget(&mut self, offsets: &Range<u64>) {
        remove_all(&mut self.touched, offsets);
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Leases {
    /// Whether [`Self::take_delta`] has anything to log.
    pub(crate) fn is_dirty(&self) -> bool {
        !self.delta.acked.is_empty() || !self.delta.touched.is_empty()
    }

    /// Hands over what is not logged yet. If logging it fails, give it to [`Self::put_back`].
    pub(crate) fn take_delta(&mut self) -> Option<Progress> {
        if !self.is_dirty() {
            return None;
        }
        let mut delta = std::mem::take(&mut self.delta);
        // Everything below the floor is settled, so the gaps there need not be spelled out.
        if mutant::on(Mutant::LoggedRangesJoined)
            && let (Some(first), Some(last)) = (delta.acked.first(), delta.acked.iter().last())
        {
            delta.acked.insert(first.start..last.end);
        }
        if let Some(first) = delta.acked.first()
            && first.end < self.floor
        {
            delta.acked.insert(first.start..self.floor);
        }
        let attempts = delta.touched.iter().filter_map(|&offset| self.waiting_attempt(offset));
        Some(Progress {
            acked: delta.acked.iter().collect(),
            attempts: attempts.collect(),
            ..Progress::default()
        })
    }

    /// Takes back a delta that could not be logged, as far as it still holds.
    pub(crate) fn put_back(&mut self, progress: Progress) {
        if mutant::on(Mutant::DeltaDropped) {
            return;
        }
        for range in progress.acked {
            // What a seek has unsettled since is not to be settled again by an older fact.
            self.delta.settle(range.start..range.end.min(self.floor));
            for settled in self.acked.held(range) {
                self.delta.settle(settled);
            }
        }
        for Attempt { offset, .. } in progress.attempts {
            // A message that is leased again has had its newer count logged by the plan.
            if self.waiting_attempt(offset).is_some() {
                self.delta.touch(offset);
            }
        }
    }

    /// Ends all leases, counted, and returns what a clean reopening needs: everything not
    /// logged yet, and exactly how far the group has come.
    pub(crate) fn close(&mut self, now: Now) -> Progress {
        for (offsets, entry) in self.unsettled.iter_mut() {
            if let Hold::Leased { token, .. } = entry.hold {
                entry.hold = Hold::Waiting { due: Due::at_once(now.monotonic), last_token: token };
                self.due.extend(offsets.map(|offset| (now.monotonic, offset)));
            }
        }
        self.leased = 0;
        self.earliest_until = Duration::MAX;
        self.suspects.clear();
        self.suspect_leased = None;
        let delta = self.take_delta().unwrap_or_default();
        Progress { delivered: self.next, exact: true, ..delta }
    }

    fn waiting_attempt(&self, offset: u64) -> Option<Attempt> {
        let entry = self.unsettled.get(offset)?;
        match entry.hold {
            Hold::Waiting { due, .. } => {
                Some(Attempt { offset, count: entry.count, due_ms: due.wall_ms })
            }
            Hold::Leased { .. } => None,
        }
    }
}
