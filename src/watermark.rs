//! How far the log is written, durable and visible, and the latch that ends all promises.
//!
//! `written >= durable`, and `visible` is one of the two, by the sync policy. All three only
//! ever rise. Readers stop at `visible`.

use crate::error::{Error, Result};
use crate::mutant::{self, Mutant};
use crate::offset::Position;
use crate::sync::OnceLock;
use crate::sync::atomic::{AtomicU64, Ordering};

/// The positions below which the log is written, durable and visible.
#[derive(Debug)]
pub(crate) struct Watermarks {
    written: AtomicU64,
    durable: AtomicU64,
    /// Readers see what is written, synced or not: `SyncPolicy::Never`.
    reads_unsynced: bool,
}

impl Watermarks {
    pub(crate) fn new(end: Position, reads_unsynced: bool) -> Self {
        let (written, durable) = (AtomicU64::new(end.0), AtomicU64::new(end.0));
        Self { written, durable, reads_unsynced }
    }

    pub(crate) fn written(&self) -> Position {
        Position(self.written.load(Ordering::Acquire))
    }

    pub(crate) fn durable(&self) -> Position {
        Position(self.durable.load(Ordering::Acquire))
    }

    pub(crate) fn visible(&self) -> Position {
        let reads_unsynced = self.reads_unsynced || mutant::on(Mutant::ReadsUnsynced);
        if reads_unsynced { self.written() } else { self.durable() }
    }

    pub(crate) fn raise_written(&self, to: Position) {
        self.written.fetch_max(to.0, Ordering::AcqRel);
    }

    pub(crate) fn raise_durable(&self, to: Position) {
        debug_assert!(to <= self.written(), "only what is written can be durable");
        self.durable.fetch_max(to.0, Ordering::AcqRel);
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
        self.get().map_or(Ok(()), Err)
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
        let marks = Watermarks::new(Position(10), false);
        marks.raise_written(Position(30));
        marks.raise_durable(Position(20));
        marks.raise_written(Position(5));
        marks.raise_durable(Position(5));
        assert_eq!((marks.written(), marks.durable()), (Position(30), Position(20)));
        assert_eq!(marks.visible(), Position(20));
    }

    #[test]
    fn unsynced_records_are_visible_only_where_nothing_is_promised() {
        let marks = Watermarks::new(Position(0), true);
        marks.raise_written(Position(30));
        assert_eq!(marks.visible(), Position(30));
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
