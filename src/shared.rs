//! What all handles of one log share, and the end of it: the last handle that is dropped lets
//! the background threads close the log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::commit::{Class, Commits};
use crate::error::{Error, Result};
use crate::group::shared::GroupShared;
use crate::mutant::{self, Mutant};
use crate::offset::{Epoch, GroupId, Position};
use crate::promise::{Promise, PromiseFile};
use crate::retention::{Floors, Retention};
use crate::storage::LockGuard;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::watermark::Ack;

/// A segment with more than this in it is not left to be read again at the next open.
const QUICK_OPEN_BYTES: u64 = 4 * 1024 * 1024;

/// Limits that handles check before anything reaches the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) payload_bytes_max: usize,
    pub(crate) topics_max: usize,
    pub(crate) groups_max: usize,
    pub(crate) idle_after: Duration,
    pub(crate) ack_delay_max: Duration,
}

/// One open log.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) commits: Arc<Commits>,
    pub(crate) limits: Limits,
    pub(crate) retention: Retention,
    /// The groups that were opened in this process, in the order of their ids, so that the same
    /// calls always write the same bytes.
    pub(crate) groups: Mutex<BTreeMap<GroupId, Arc<GroupShared>>>,
    /// The offset that each topic's next message had when the log was opened or made the leader.
    pub(crate) ends_at_open: Mutex<Vec<u64>>,
    /// The threads are to end.
    pub(crate) stopping: AtomicBool,
    pub(crate) lock: Mutex<Option<Box<dyn LockGuard>>>,
    pub(crate) closing: Mutex<bool>,
    /// The replicator may not use its handle any more.
    pub(crate) detached: AtomicBool,
    /// What this replica has promised; none where there is no replicator.
    pub(crate) promises: Option<PromiseFile>,
    /// What had been promised when the log was opened: who led that epoch, this replica in an
    /// earlier life perhaps, may have sent frames of it that are not here.
    pub(crate) promised_at_open: Epoch,
    /// Held while it is changed who leads, and what is promised.
    pub(crate) changing: Mutex<()>,
    /// How far groups were at a position; what they have done by then may be acted upon once
    /// replicas have it.
    pub(crate) proven: Mutex<Option<(Position, Floors)>>,
}

impl Shared {
    /// Changes what is promised, durably. If that fails, nobody knows what is on the disk.
    pub(crate) fn change_promise(&self, change: impl FnOnce(&mut Promise)) -> Result<()> {
        let visible = self.durably_visible();
        let Some(promises) = &self.promises else { return Err(Error::Closed) };
        let changed = promises.change(|promise| {
            promise.visible = promise.visible.max(visible);
            change(promise);
        });
        changed.map_err(|error| self.commits.fail(&error))
    }

    /// Remembers what is visible, so that it is not given up after a restart.
    fn keep_promise(&self) -> Result<()> {
        self.commits.latch.check()?;
        if self.promises.is_none() { Ok(()) } else { self.change_promise(|_| {}) }
    }

    /// Readers may see what a power cut takes back; that cannot be vouched for.
    fn durably_visible(&self) -> Position {
        self.commits.marks.visible().min(self.commits.marks.durable())
    }

    /// The same while the log is open, where more is visible than is remembered: after a kill the
    /// floor is as old as the last round of the file keeper.
    pub(crate) fn keep_visible(&self) -> Result<()> {
        let visible = self.durably_visible();
        match &self.promises {
            Some(promises) if promises.get().visible < visible => self.keep_promise(),
            _ => Ok(()),
        }
    }

    /// Makes everything durable, marks the end of the log and lets go of the directory. Done
    /// once; later calls do nothing.
    pub(crate) fn close(&self) -> Result<()> {
        let mut closing = self.closing.lock();
        if std::mem::replace(&mut *closing, true) {
            return Ok(());
        }
        let ended = Ended(self);
        let result = self.close_log();
        self.commits.close();
        // Nothing may be written, made or deleted once the directory can be opened by others.
        self.commits.let_all_end();
        if let Some(replicas) = &self.commits.replicas {
            // Replicas may still take what was written last, and say so.
            let within = if replicas.may_wait { replicas.timeout } else { Duration::ZERO };
            replicas.outlet.detach(within);
            drop(ended);
            self.commits.fail_replicas(&Error::Closed);
        }
        // Whoever began to promise something before the log was closed writes it before the
        // directory is somebody else's.
        let changing = self.changing.lock_in_drop();
        let result = result.and(self.keep_promise());
        drop(self.commits.keeping.lock_in_drop());
        let removed = self.commits.remove_spare();
        drop(self.lock.lock().take());
        drop((changing, closing));
        // A callback may want to close the log as well.
        self.commits.run_callbacks();
        self.wake_all();
        result.and(removed)
    }

    fn close_log(&self) -> Result<()> {
        let commits = &self.commits;
        commits.latch.check()?;
        let mut groups: Vec<_> = self.groups.lock().values().cloned().collect();
        if mutant::on(Mutant::ClosingForgetsAcks) {
            groups.clear();
        }
        let mut logged = Ok(());
        for group in groups {
            logged = logged.and(group.close());
        }
        commits.close();
        // What was submitted is written, whether or not there is room for the groups' progress.
        commits.flush_queue()?;
        commits.sync_written()?;
        logged?;
        let active = commits.segments.active().segment.base();
        if commits.end().0 - active.0 > QUICK_OPEN_BYTES {
            match commits.roll_now() {
                // Then the next open has more to read.
                Ok(()) | Err(Error::Full { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        commits.mark_closed()
    }

    pub(crate) fn wake_all(&self) {
        let topics: Vec<_> = {
            let core = self.commits.core.lock();
            core.topics.iter().map(|slot| Arc::clone(&slot.runtime)).collect()
        };
        for topic in topics {
            topic.wake();
        }
    }

    /// Queues what the groups have not logged yet, in a new segment if need be.
    pub(crate) fn log_groups(&self) -> Result<()> {
        let groups: Vec<_> = self.groups.lock().values().cloned().collect();
        let mut logged = Ok(());
        for group in groups {
            // Riding along on the next write is not enough: where the segment is full, there is
            // no such write yet. One that finds no room does not keep the others from theirs.
            logged = logged.and(group.log_delta(&mut group.runtime.lock()).map(drop));
        }
        logged
    }

    /// Fails once the replicator is detached from a log that is closed, or the log is poisoned.
    pub(crate) fn check_attached(&self) -> Result<()> {
        self.commits.latch.check()?;
        if self.detached.load(Ordering::Acquire) { Err(Error::Closed) } else { Ok(()) }
    }

    /// Fails once the log is closed or poisoned.
    pub(crate) fn check_open(&self) -> Result<()> {
        self.commits.latch.check()?;
        self.check_readable()
    }

    /// Fails once the log is closed. What is visible can be read from a poisoned log, too.
    pub(crate) fn check_readable(&self) -> Result<()> {
        if self.commits.is_closed() { Err(Error::Closed) } else { Ok(()) }
    }
}

/// Ends what the replicator is given and may ask for, be it that detaching it panics: the thread that
/// gives it the time would never end, and keep the directory locked.
struct Ended<'a>(&'a Shared);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.detached.store(true, Ordering::Release);
        self.0.commits.files.notify();
    }
}

/// What every public handle holds.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Nothing here may block: the threads do the rest and let go of the directory.
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.commits.work.notify();
        self.shared.commits.files.notify();
    }
}

/// Makes sure that everything that is queued is durable, whatever the policy.
pub(crate) fn sync(commits: &Commits) -> Result<()> {
    commits.flush_queue()?;
    commits.sync_written()
}

/// The bytes that a topic or group entry takes at most.
pub(crate) const NAME_ENTRY_BYTES: usize = 512;

/// Creates the topic `name`, unless it exists.
pub(crate) fn create_topic(
    commits: &Commits,
    name: &str,
    topics_max: usize,
) -> Result<crate::offset::TopicId> {
    crate::format::name::check(name)?;
    let known = commits.core.lock().state.topic_named(name);
    if let Some(id) = known {
        return Ok(id);
    }
    let id = commits.commit(
        (Class::Append, Ack::Replicated),
        NAME_ENTRY_BYTES,
        |_| None,
        |enlisting| {
            if let Some(id) = enlisting.state.topic_named(name) {
                return Ok(id);
            }
            enlisting.check_topics(topics_max)?;
            Ok(enlisting.topic(name))
        },
    )?;
    // Under the policies that sync later, a power cut could take the topic back.
    if !mutant::on(Mutant::TopicNotSynced) {
        sync(commits)?;
    }
    Ok(id)
}
