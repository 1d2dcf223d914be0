//! Time, passed in. The library never asks the machine for the time anywhere else, so that a
//! simulation can run it on a clock of its own.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, Timespec, clock_gettime};

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

/// The machine's clocks. Asked for by their own names: what `std` makes of them takes a third longer,
/// and each record is stamped.
#[derive(Debug)]
pub(crate) struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the place that passes the time in")]
    fn monotonic(&self) -> Duration {
        since_zero(clock_gettime(ClockId::Monotonic))
    }

    #[expect(clippy::disallowed_methods, reason = "this is the place that passes the time in")]
    fn wall_ms(&self) -> u64 {
        whole_ms(since_zero(clock_gettime(ClockId::Realtime)))
    }
}

/// What a clock shows; one that was set to a time before its zero shows that.
fn since_zero(time: Timespec) -> Duration {
    match (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec)) {
        (Ok(seconds), Ok(nanoseconds)) => Duration::new(seconds, nanoseconds),
        _ => Duration::ZERO,
    }
}

fn whole_ms(since: Duration) -> u64 {
    since.as_secs().saturating_mul(1000).saturating_add(u64::from(since.subsec_millis()))
}

/// Milliseconds since the Unix epoch; times before it count as the epoch itself.
pub(crate) fn to_wall_ms(time: SystemTime) -> u64 {
    whole_ms(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// The inverse of [`to_wall_ms`], saturating at the last time that the platform can express.
pub(crate) fn from_wall_ms(ms: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_millis(ms)).unwrap_or(UNIX_EPOCH)
}
