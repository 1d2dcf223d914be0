//! The log as applications see it: opening, closing, topics, batches.

mod background;
mod create;
mod cut;
mod frames;
mod older;
pub(crate) mod open;
mod replay;
pub(crate) mod replica;
mod report;
mod rewrite;
pub(crate) mod salvage;
mod snapshot;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::batch::Batch;
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::mutant::{self, Mutant};
use crate::options::Options;
use crate::replicate::LogHandle;
use crate::shared::{Handle, create_topic, sync};
use crate::stats::{Stats, gather};
use crate::storage::Storage;
use crate::sync::Mutex;
use crate::sync::atomic::Ordering;
use crate::sync::thread::{self, JoinHandle};
use crate::topic::Topic;
use crate::watermark::Ack;
pub use report::{Ending, OpenReport};

/// A durable queue in a directory. Cheap to clone; all clones are one log.
///
/// The log stays open, and its directory locked, until [`close`](Self::close) or until the last
/// handle of any kind is dropped: logs, topics, groups, deliveries, readers, batches. Dropping
/// never blocks; a background thread then makes everything durable and closes the log.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// # let dir = tempfile::tempdir()?;
/// let log = ackline::Log::open(dir.path())?;
/// let orders = log.topic("orders")?;
/// orders.append(b"order 1")?; // Durable when it returns.
///
/// let billing = orders.group("billing")?;
/// for message in billing.poll(100, Duration::from_secs(1))? {
///     assert_eq!(message.payload(), b"order 1");
///     message.ack()?;
/// }
/// billing.commit()?; // Progress durable.
/// log.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Log {
    handle: Arc<Handle>,
    report: Arc<OpenReport>,
    threads: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let storage = self.handle.shared.commits.storage.describe();
        f.debug_struct("Log").field("storage", &storage).finish_non_exhaustive()
    }
}

impl Log {
    /// Opens the log in a directory with the default [`Options`], creating both if missing.
    ///
    /// # Errors
    ///
    /// Those of [`Options::open`].
    pub fn open(directory: impl AsRef<Path>) -> Result<Self> {
        Options::new().open(directory)
    }

    pub(crate) fn open_with(
        options: Options,
        storage: Arc<dyn Storage>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let (background, replicator) = (options.background, options.replicator.clone());
        let (shared, report) = open::open(options, storage, clock)?;
        let shared = Arc::new(shared);
        if let Some(replicator) = replicator {
            replicator.attach(LogHandle::new(&shared))?;
        }
        let started = if background { background::start(&shared) } else { Ok(Vec::new()) };
        if let (Err(_), Some(replicas)) = (&started, &shared.commits.replicas) {
            replicas.outlet.detach(Duration::ZERO);
        }
        let threads = started?;
        Ok(Self {
            handle: Arc::new(Handle { shared }),
            report: Arc::new(report),
            threads: Arc::new(Mutex::new(threads)),
        })
    }

    /// What opening found and did.
    pub fn report(&self) -> &OpenReport {
        &self.report
    }

    /// Opens a topic, creating it if it does not exist; a new one is durable when this returns.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`] for an empty name, one over 249 bytes, or one with path separators
    /// or control characters; when it is created, those of [`Topic::append`], and
    /// [`Error::TooLarge`] at 100,000 topics.
    pub fn topic(&self, name: &str) -> Result<Topic> {
        let shared = &self.handle.shared;
        shared.check_open()?;
        let id = create_topic(&shared.commits, name, shared.limits.topics_max)?;
        let core = shared.commits.core.lock();
        // A follower may have given it up since.
        let there = core.topics.get(id.0 as usize).filter(|slot| *slot.runtime.name == *name);
        let Some(runtime) = there.map(|slot| Arc::clone(&slot.runtime)) else {
            let epoch = core.fenced.unwrap_or_default();
            return Err(Error::Fenced { epoch });
        };
        drop(core);
        Ok(Topic { handle: Arc::clone(&self.handle), runtime, ack: Ack::default() })
    }

    /// The names of all topics, in the order in which they were created.
    pub fn topics(&self) -> Vec<String> {
        let core = self.handle.shared.commits.core.lock();
        core.state.topics().iter().map(|topic| topic.name.to_string()).collect()
    }

    /// The names of the groups of a topic, in the order in which they were created.
    pub fn groups(&self, topic: &Topic) -> Vec<String> {
        let core = self.handle.shared.commits.core.lock();
        let groups = core.state.groups().iter();
        let of_topic = groups.filter(|group| group.topic == topic.runtime.id);
        of_topic.map(|group| group.name.to_string()).collect()
    }

    /// Begins a batch of appends and acknowledgements that take effect together.
    pub fn batch(&self) -> Batch {
        Batch::new(Arc::clone(&self.handle))
    }

    /// Makes everything durable that was appended or acknowledged so far, whatever the policy.
    ///
    /// # Errors
    ///
    /// [`Error::Poisoned`], [`Error::Closed`], [`Error::Full`] if there is no room for what was
    /// acknowledged. With a replicator, [`Error::ReplicaTimeout`], and [`Error::Fenced`] if this log
    /// led and does not any more: the outcome is unknown.
    pub fn sync(&self) -> Result<()> {
        let shared = &self.handle.shared;
        shared.check_open()?;
        let began = shared.commits.standing();
        let forgets = mutant::on(Mutant::SyncForgetsAcks);
        let logged = if forgets { Ok(()) } else { shared.log_groups() };
        // What was queued before one of them failed is nobody else's to commit.
        sync(&shared.commits)?;
        logged?;
        shared.commits.wait_replicated(began)
    }

    /// Numbers for monitoring.
    pub fn stats(&self) -> Stats {
        gather(&self.handle.shared)
    }

    /// Makes everything durable, acknowledgements included, marks the log as cleanly closed and
    /// lets go of the directory. All other handles answer [`Error::Closed`] from then on; leases
    /// end, their attempts counted.
    ///
    /// With a replicator, replicas that are there get up to
    /// [`Options::replica_timeout`](crate::Options::replica_timeout) to take what was written last.
    /// The background threads give them as much where the last handle is dropped instead, and keep
    /// the directory locked meanwhile.
    ///
    /// # Errors
    ///
    /// [`Error::Poisoned`], [`Error::Io`] or [`Error::Full`] if that fails; the next open then
    /// recovers.
    /// [`Error::Closed`] if another handle closed the log before.
    pub fn close(self) -> Result<()> {
        let shared = &self.handle.shared;
        if *shared.closing.lock() {
            return Err(Error::Closed);
        }
        let result = shared.close();
        shared.stopping.store(true, Ordering::Release);
        shared.commits.work.notify();
        shared.commits.files.notify();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            // A callback may close the log on one of its own threads.
            if thread.thread().id() != thread::current().id() {
                assert!(thread.join().is_ok(), "the background threads catch panics");
            }
        }
        result
    }
}

#[cfg(any(test, feature = "simulation"))]
impl Log {
    /// Does once what the background threads of a log do that has them.
    ///
    /// # Errors
    ///
    /// What a background thread would try again later, such as [`Error::Full`].
    pub fn maintain(&self) -> Result<()> {
        let shared = &self.handle.shared;
        background::commit_once(shared, crate::commit::Commits::drain);
        background::tick(shared);
        background::keep_files(shared)
    }
}
