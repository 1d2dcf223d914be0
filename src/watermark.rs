//! How far the log is written, durable, replicated and visible, and the latch that ends all
//! promises.
//!
//! `written >= durable`, and `visible` is one of the two, by the sync policy, or what is
//! replicated, if that is less. All of them only ever rise, but for a follower that gives up
//! frames that nobody could see. Readers stop at `visible`.

use crate::error::{Error, Result};
use crate::mutant::{self, Mutant};
use crate::offset::Position;
use crate::sync::OnceLock;
use crate::sync::atomic::{AtomicU64, Ordering};

/// Whose copy an append waits for, in a log with a
/// [`Replicator`](crate::replicate::Replicator); see [`Topic::with_ack`](crate::Topic::with_ack).
///
/// Whatever the producer waits for, readers see a record only once it is replicated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ack {
    /// Until the replicator calls the record safe: Kafka's `acks=all`.
    #[default]
    Replicated,
    /// Until it is safe here, as the [`SyncPolicy`](crate::SyncPolicy) says: Kafka's `acks=1`.
    Synced,
}

/// A log without a replicator has nothing to wait for.
const EVERYTHING: u64 = u64::MAX;

/// The positions below which the log is written, durable, replicated and visible.
#[derive(Debug)]
pub(crate) struct Watermarks {
    written: AtomicU64,
    durable: AtomicU64,
    replicated: AtomicU64,
    /// Readers see what is written, synced or not: `SyncPolicy::Never`.
    reads_unsynced: bool,
}

impl Watermarks {
    /// `replicated` is what is known of it, if there is a replicator.
    pub(crate) fn new(end: Position, replicated: Option<Position>, reads_unsynced: bool) -> Self {
        let (written, durable) = (AtomicU64::new(end.0), AtomicU64::new(end.0));
        let replicated = AtomicU64::new(replicated.map_or(EVERYTHING, |known| known.0));
        Self { written, durable, replicated, reads_unsynced }
    }

    pub(crate) fn written(&self) -> Position {
        Position(self.written.load(Ordering::Acquire))
    }

    pub(crate) fn durable(&self) -> Position {
        Position(self.durable.load(Ordering::Acquire))
    }

    pub(crate) fn replicated(&self) -> Position {
        Position(self.replicated.load(Ordering::Acquire))
    }

    pub(crate) fn visible(&self) -> Position {
        let reads_unsynced = self.reads_unsynced || mutant::on(Mutant::ReadsUnsynced);
        let local = if reads_unsynced { self.written() } else { self.durable() };
        if mutant::on(Mutant::VisibleBeforeReplicated) {
            return local;
        }
        local.min(self.replicated())
    }

    pub(crate) fn raise_written(&self, to: Position) {
        self.written.fetch_max(to.0, Ordering::AcqRel);
    }

    pub(crate) fn raise_durable(&self, to: Position) {
        debug_assert!(to <= self.written(), "only what is written can be durable");
        self.durable.fetch_max(to.0, Ordering::AcqRel);
    }

    pub(crate) fn raise_replicated(&self, to: Position) {
        self.replicated.fetch_max(to.0, Ordering::AcqRel);
    }

    /// Goes on at another end, none of what lies behind it being visible.
    pub(crate) fn restart_at(&self, end: Position) {
        debug_assert!(self.visible() <= end, "what is visible stays");
        self.durable.store(end.0, Ordering::Release);
        self.written.store(end.0, Ordering::Release);
        self.replicated.fetch_min(end.0, Ordering::AcqRel);
    }
}

/// Set once, by the first failure after which the disk's state is unknown; never cleared.
#[derive(Debug, Default)]
pub(crate) struct PoisonLatch(OnceLock<Error>);

impl PoisonLatch {
    /// Latches `error` and returns what every later call answers: the first failure.
    pub(crate) fn set(&self, error: &Error) -> Error {
        if mutant::on(Mutant::PoisonNotLatched) {
            return error.poisoned();
        }
        self.0.get_or_init(|| error.poisoned()).clone()
    }

    pub(crate) fn check(&self) -> Result<()> {
        self.0.get().map_or(Ok(()), |error| Err(error.clone()))
    }

    pub(crate) fn get(&self) -> Option<Error> {
        self.0.get().cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watermarks_never_fall() {
        let marks = Watermarks::new(Position(10), None, false);
        marks.raise_written(Position(30));
        marks.raise_durable(Position(20));
        marks.raise_written(Position(5));
        marks.raise_durable(Position(5));
        assert_eq!((marks.written(), marks.durable()), (Position(30), Position(20)));
        assert_eq!(marks.visible(), Position(20));
    }

    #[test]
    fn unsynced_records_are_visible_only_where_nothing_is_promised() {
        let marks = Watermarks::new(Position(0), None, true);
        marks.raise_written(Position(30));
        assert_eq!(marks.visible(), Position(30));
    }

    #[test]
    fn what_is_not_replicated_is_not_visible() {
        let marks = Watermarks::new(Position(10), Some(Position(5)), false);
        assert_eq!(marks.visible(), Position(5));
        marks.raise_replicated(Position(30));
        assert_eq!(marks.visible(), Position(10), "nor what is not durable here");
    }

    #[test]
    fn the_first_failure_stays_latched() {
        let latch = PoisonLatch::default();
        assert!(latch.check().is_ok());
        latch.set(&Error::Full { free: 1, needed: 2 });
        latch.set(&Error::Closed);
        let Some(Error::Poisoned { cause }) = latch.get() else { panic!("not latched") };
        assert!(matches!(*cause, Error::Full { free: 1, needed: 2 }));
    }
}
