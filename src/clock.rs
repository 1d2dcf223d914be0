//! Time, passed in. The library never asks the machine for the time anywhere else, so that a
//! simulation can run it on a clock of its own.

use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A source of time.
///
/// To be correct, `monotonic` must never go back. `wall_ms` may jump; it is only stamped on
/// records and used for retry times that must survive a restart.
pub trait Clock: Send + Sync + fmt::Debug + 'static {
    /// Time since an arbitrary origin that stays the same for the life of the clock.
    fn monotonic(&self) -> Duration;
    /// Milliseconds since the Unix epoch.
    fn wall_ms(&self) -> u64;
    /// Both times at once.
    fn now(&self) -> Now {
        Now { monotonic: self.monotonic(), wall_ms: self.wall_ms() }
    }
}

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Time since the clock's origin; leases end by it.
    pub monotonic: Duration,
    /// Milliseconds since the Unix epoch; stored times are in it.
    pub wall_ms: u64,
}

/// The machine's clocks.
#[derive(Debug)]
pub(crate) struct SystemClock {
    origin: Instant,
}

impl SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the place that passes the time in")]
    pub(crate) fn new() -> Self {
        Self { origin: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn monotonic(&self) -> Duration {
        self.origin.elapsed()
    }

    #[expect(clippy::disallowed_methods, reason = "this is the place that passes the time in")]
    fn wall_ms(&self) -> u64 {
        to_wall_ms(SystemTime::now())
    }
}

/// Milliseconds since the Unix epoch; times before it count as the epoch itself.
pub(crate) fn to_wall_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let whole = since.as_secs().saturating_mul(1000);
    whole.saturating_add(u64::from(since.subsec_millis()))
}

/// The inverse of [`to_wall_ms`], saturating at the last time that the platform can express.
pub(crate) fn from_wall_ms(ms: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_millis(ms)).unwrap_or(UNIX_EPOCH)
}
