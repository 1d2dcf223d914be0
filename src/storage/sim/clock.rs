//! A clock that stands still until it is told to move.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Clock;

/// The wall time at which a simulated clock starts: 14 November 2023.
const ORIGIN_MS: u64 = 1_700_000_000_000;

/// A clock for simulations. Clones share the same time.
#[derive(Clone, Debug, Default)]
pub struct SimClock {
    nanos: Arc<AtomicU64>,
}

impl SimClock {
    /// A clock at its origin.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets `time` pass.
    pub fn advance(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.nanos.fetch_add(nanos, Ordering::SeqCst);
        #[cfg(shuttle)]
        crate::sync::let_time_pass();
    }
}

impl Clock for SimClock {
    fn monotonic(&self) -> Duration {
        Duration::from_nanos(self.nanos.load(Ordering::SeqCst))
    }

    fn wall_ms(&self) -> u64 {
        ORIGIN_MS + self.nanos.load(Ordering::SeqCst) / 1_000_000
    }
}
