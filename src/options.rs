//! How a log is opened.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, SystemClock};
use crate::commit::policy::SyncPolicy;
use crate::commit::queue::Media;
use crate::error::{Error, Result};
use crate::log::Log;
use crate::replicate::Replicator;
use crate::retention::Retention;
use crate::storage::Storage;
use crate::storage::disk::DiskStorage;

/// How a log is opened. The defaults lose nothing on a disk as [`Media::PowersafeOverwrite`]
/// describes it.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use ackline::{Options, SyncPolicy};
///
/// # let dir = tempfile::tempdir()?;
/// let log = Options::new()
///     .sync(SyncPolicy::GroupCommit { linger: Duration::from_micros(50) })
///     .max_bytes(10 << 30)
///     .open(dir.path())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    pub(crate) sync: SyncPolicy,
    pub(crate) media: Media,
    pub(crate) sync_timeout: Duration,
    pub(crate) lock_timeout: Duration,
    pub(crate) segment_bytes: u64,
    pub(crate) payload_bytes_max: usize,
    pub(crate) batch_bytes_max: u64,
    pub(crate) max_bytes: Option<u64>,
    pub(crate) retention: Retention,
    pub(crate) map: bool,
    pub(crate) recent_bytes: usize,
    pub(crate) open_segments_max: usize,
    pub(crate) topics_max: usize,
    pub(crate) groups_max: usize,
    pub(crate) idle_after: Duration,
    pub(crate) ack_delay_max: Duration,
    pub(crate) clock: Option<Arc<dyn Clock>>,
    pub(crate) seed: Option<u64>,
    pub(crate) background: bool,
    pub(crate) replicator: Option<Arc<dyn Replicator>>,
    pub(crate) replica_timeout: Duration,
    pub(crate) unreplicated_bytes_max: u64,
    pub(crate) catch_up_bytes_max: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            sync: SyncPolicy::default(),
            media: Media::default(),
            sync_timeout: Duration::from_secs(5),
            lock_timeout: Duration::from_secs(1),
            segment_bytes: 64 * 1024 * 1024,
            payload_bytes_max: 4 * 1024 * 1024,
            batch_bytes_max: 16 * 1024 * 1024,
            max_bytes: None,
            retention: Retention::default(),
            map: true,
            recent_bytes: 8 * 1024 * 1024,
            open_segments_max: 16,
            topics_max: 100_000,
            groups_max: 10_000,
            idle_after: Duration::from_millis(100),
            ack_delay_max: Duration::from_secs(1),
            clock: None,
            seed: None,
            background: true,
            replicator: None,
            replica_timeout: Duration::from_secs(3),
            unreplicated_bytes_max: 64 * 1024 * 1024,
            catch_up_bytes_max: 1 << 30,
        }
    }
}

impl Options {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// When commits are synced. Default: [`SyncPolicy::GroupCommit`] without linger.
    #[must_use]
    pub fn sync(mut self, policy: SyncPolicy) -> Self {
        self.sync = policy;
        self
    }

    /// What a torn write can harm. Default: [`Media::PowersafeOverwrite`].
    #[must_use]
    pub fn media(mut self, media: Media) -> Self {
        self.media = media;
        self
    }

    /// How long a waiter is kept before it gets [`Error::SyncTimeout`]. Default: 5 s, as long as
    /// RocketMQ waits for a synchronous flush.
    ///
    /// The one thread that is inside the sync returns when the disk answers.
    #[must_use]
    pub fn sync_timeout(mut self, timeout: Duration) -> Self {
        self.sync_timeout = timeout;
        self
    }

    /// How long opening waits for another opener to let go of the directory. Default: 1 s, so
    /// that a log whose last handle was just dropped can be opened again.
    #[must_use]
    pub fn lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_timeout = timeout;
        self
    }

    /// The size of a segment file in bytes, from 4 KiB to 4 GiB. Default: 64 MiB. The first
    /// segments of a log are smaller; a segment is larger where one batch needs it.
    #[must_use]
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.segment_bytes = bytes;
        self
    }

    /// The largest payload in bytes, up to 1 GiB. Default: 4 MiB.
    #[must_use]
    pub fn payload_bytes_max(mut self, bytes: usize) -> Self {
        self.payload_bytes_max = bytes;
        self
    }

    /// The largest batch in bytes, all its records and acknowledgements together, up to 2 GiB.
    /// Default: 16 MiB. It is raised to what one record of the largest payload needs.
    #[must_use]
    pub fn batch_bytes_max(mut self, bytes: u64) -> Self {
        self.batch_bytes_max = bytes;
        self
    }

    /// The limit up to which appends may let all segment files together grow, in bytes; at least
    /// two segments. Default: none but the disk. Progress of groups may go beyond it. At the
    /// limit, what all groups have consumed is deleted whatever the [`Retention`], and appends
    /// answer [`Error::Full`] if that is not enough, unless every group that holds the oldest
    /// messages [may lag](crate::GroupOptions::may_lag).
    #[must_use]
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = Some(bytes);
        self
    }

    /// What is deleted when. Default: what all groups of a topic have consumed.
    #[must_use]
    pub fn retention(mut self, retention: Retention) -> Self {
        self.retention = retention;
        self
    }

    /// Whether sealed segments are read through a memory map. Default: yes. A bad disk answers
    /// a mapped read with the signal SIGBUS, which ends the process; without maps it is an
    /// error. See `docs/format.md`.
    #[must_use]
    pub fn map_segments(mut self, map: bool) -> Self {
        self.map = map;
        self
    }

    /// How many bytes of what was just written stay in memory for consumers that keep up.
    /// Default: 8 MiB. Nothing stays where no consumer has come near the end of the log while as much
    /// was written.
    #[must_use]
    pub fn recent_bytes(mut self, bytes: usize) -> Self {
        self.recent_bytes = bytes;
        self
    }

    /// How many sealed segments are kept open for reading. Default: 16.
    #[must_use]
    pub fn open_segments_max(mut self, segments: usize) -> Self {
        self.open_segments_max = segments;
        self
    }

    /// Who decides when a record counts as replicated. Default: nobody; the log is alone.
    ///
    /// With one, the log refuses appends with [`Error::Fenced`] until the replicator makes it the
    /// leader, and nothing is visible before it is replicated. See [`replicate`](crate::replicate).
    #[must_use]
    pub fn replicator(mut self, replicator: Arc<dyn Replicator>) -> Self {
        self.replicator = Some(replicator);
        self
    }

    /// How long a caller waits for replicas before it gets [`Error::ReplicaTimeout`], after the
    /// local write. Default: 3 s, as long as RocketMQ waits for a call by default.
    #[must_use]
    pub fn replica_timeout(mut self, timeout: Duration) -> Self {
        self.replica_timeout = timeout;
        self
    }

    /// How many bytes of frames may be written and not replicated before appends wait, and answer
    /// [`Error::Full`] after [`replica_timeout`](Self::replica_timeout). Default: 64 MiB.
    #[must_use]
    pub fn unreplicated_bytes_max(mut self, bytes: u64) -> Self {
        self.unreplicated_bytes_max = bytes;
        self
    }

    /// How many bytes of frames are kept, at most, only because a replica lacks them; one that
    /// lags further begins with a snapshot. Default: 1 GiB.
    #[must_use]
    pub fn catch_up_bytes_max(mut self, bytes: u64) -> Self {
        self.catch_up_bytes_max = bytes;
        self
    }

    /// Opens the log in a directory, creating both if they are missing.
    ///
    /// The directory is locked until the log is closed or its last handle is dropped. What the last run
    /// left is recovered; [`Log::report`] tells what was found.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`], [`Error::NotADirectory`], [`Error::ForeignFile`],
    /// [`Error::UnsupportedVersion`], [`Error::Corrupt`] if something that was promised is
    /// damaged, [`Error::Full`] if there is no room for a segment, [`Error::InvalidOption`],
    /// [`Error::Io`]. Nothing is lost by a failed open.
    pub fn open(self, directory: impl AsRef<Path>) -> Result<Log> {
        let storage = Arc::new(DiskStorage::new(directory.as_ref()));
        self.open_storage(storage)
    }

    pub(crate) fn open_storage(mut self, storage: Arc<dyn Storage>) -> Result<Log> {
        self.check()?;
        let needed = self.payload_bytes_max as u64 + 1024 * 1024;
        self.batch_bytes_max = self.batch_bytes_max.max(needed);
        let clock = self.clock.take().unwrap_or_else(|| Arc::new(SystemClock));
        Log::open_with(self, storage, clock)
    }

    fn check(&self) -> Result<()> {
        let check = |ok: bool, option, reason: &str| {
            let error = Error::InvalidOption { option, reason: reason.to_owned() };
            if ok { Ok(()) } else { Err(error) }
        };
        let range = 4096..=4 << 30;
        check(range.contains(&self.segment_bytes), "segment_bytes", "not from 4 KiB to 4 GiB")?;
        let fits = (1..=1 << 30).contains(&self.payload_bytes_max);
        check(fits, "payload_bytes_max", "not from 1 byte to 1 GiB")?;
        check(self.batch_bytes_max <= 2 << 30, "batch_bytes_max", "over 2 GiB")?;
        check(self.open_segments_max >= 1, "open_segments_max", "zero")?;
        check(!self.sync_timeout.is_zero(), "sync_timeout", "zero")?;
        let room = self.max_bytes.is_none_or(|max| max >= 2 * self.segment_bytes);
        check(room, "max_bytes", "less than two segments")?;
        self.sync.check()
    }
}

#[cfg(any(test, feature = "simulation"))]
impl Options {
    /// Runs on a clock and a seed that are passed in, without background threads: call
    /// [`Log::maintain`] for what they would do.
    #[must_use]
    pub fn simulated(mut self, clock: Arc<dyn Clock>, seed: u64) -> Self {
        self.clock = Some(clock);
        self.seed = Some(seed);
        self.background = false;
        self
    }

    /// Gives a simulated log its background threads again, as threads of the model checker.
    #[cfg(ackline_shuttle)]
    #[must_use]
    pub fn with_background(mut self) -> Self {
        self.background = true;
        self
    }

    /// Opens the log on any storage.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Self::open).
    pub fn open_on(self, storage: Arc<dyn Storage>) -> Result<Log> {
        self.open_storage(storage)
    }
}
