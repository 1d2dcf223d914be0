//! Changes of groups that nobody waits for: they ride along on the next write, or are written by the
//! background after a while.

use std::sync::Weak;
use std::time::Duration;

use crate::sync::atomic::Ordering;

use super::Commits;

/// Something with changes that ride along on the next write.
pub(crate) trait Rider: Send + Sync + std::fmt::Debug {
    /// Queues the changes without waiting for anything; keeps them if that cannot be done now.
    fn ride(&self);
}

/// Groups with changes that are not logged, and since when the first of them waits.
#[derive(Debug, Default)]
pub(super) struct Riders {
    waiting: Vec<Weak<dyn Rider>>,
    since: Option<Duration>,
    /// The committer comes by by itself, in time for whoever announces a change now.
    are_expected: bool,
    /// Some have announced a change since the committer looked.
    have_come: bool,
}

impl Commits {
    /// Announces changes that shall ride along on the next write.
    pub(crate) fn add_rider(&self, rider: Weak<dyn Rider>) {
        let mut riders = self.riders.lock();
        riders.waiting.push(rider);
        riders.since.get_or_insert_with(|| self.clock.monotonic());
        riders.have_come = true;
        let are_expected = std::mem::replace(&mut riders.are_expected, true);
        drop(riders);
        self.has_riders.store(true, Ordering::Release);
        // The background thread sees to it that they do not wait for long.
        if !are_expected {
            self.work.notify();
        }
    }

    /// Since when the longest-waiting change waits for a write.
    pub(crate) fn riders_since(&self) -> Option<Duration> {
        self.riders.lock().since
    }

    /// How long the committer may sleep if no change is to wait for a write longer than `delay`. Where
    /// changes come, more of them will: it comes by once more, and is not woken for each.
    pub(crate) fn expect_riders(&self, delay: Duration) -> Option<Duration> {
        let mut riders = self.riders.lock();
        let have_come = std::mem::replace(&mut riders.have_come, false);
        riders.are_expected = have_come || riders.since.is_some();
        let Some(since) = riders.since else { return have_come.then_some(delay) };
        if self.latch.get().is_some() {
            return None;
        }
        // What is overdue has found no room, or has come since the committer looked for it: it is tried
        // again in a while, and does not keep the committer awake.
        let left = (since + delay).saturating_sub(self.clock.monotonic());
        Some(if left.is_zero() { delay } else { left })
    }

    /// Lets everything that waits for a write ride along.
    pub(crate) fn board_riders(&self) {
        if !self.has_riders.swap(false, Ordering::AcqRel) {
            return;
        }
        let waiting = std::mem::take(&mut self.riders.lock().waiting);
        for rider in waiting {
            if let Some(rider) = rider.upgrade() {
                rider.ride();
            }
        }
        // Those who found no room have waited since before. They announce nothing anew: the
        // background thread, which may be the one that is here, would never come to rest.
        let mut left = self.riders.lock();
        if left.waiting.is_empty() {
            left.since = None;
        }
    }
}
