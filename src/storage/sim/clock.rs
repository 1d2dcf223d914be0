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
    /// How often it was read, and how often it may be; 0 is for ever.
    readings: Arc<[AtomicU64; 2]>,
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
        #[cfg(ackline_shuttle)]
        crate::sync::let_time_pass();
    }

    /// Lets the time be read so often from now on. Once more is a panic: whoever looks again and
    /// again while it stands still is in a loop that does not end.
    pub fn allow_readings(&self, readings: u64) {
        let [read, most] = &*self.readings;
        most.store(read.load(Ordering::Relaxed).saturating_add(readings), Ordering::Relaxed);
    }

    fn read(&self) -> u64 {
        let [read, most] = &*self.readings;
        let (read, most) = (read.fetch_add(1, Ordering::Relaxed), most.load(Ordering::Relaxed));
        assert!(read < most || most == 0, "livelock: the time was read {read} times, and no end");
        self.nanos.load(Ordering::SeqCst)
    }
}

impl Clock for SimClock {
    fn monotonic(&self) -> Duration {
        Duration::from_nanos(self.read())
    }

    fn wall_ms(&self) -> u64 {
        ORIGIN_MS + self.read() / 1_000_000
    }
}
