//! A second directory, say on another disk, that holds all that the log holds: the double write.
//!
//! It is a quorum of two, both of whose copies are needed. The second one is a log of its own,
//! opened as a follower, and the link to it a queue. A thread takes from the queue, so that the
//! two disks are written at the same time; a simulation takes the steps itself.

use std::collections::VecDeque;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::log::Log;
use crate::offset::{Epoch, Position};
use crate::options::Options;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::thread::{self, Builder, JoinHandle};
use crate::sync::{Mutex, Signal};

use super::follower::Follower;
use super::quorum::options::QuorumOptions;
use super::{Frames, Link, LogHandle, Message, Quorum, ReplicaStatus, Replicator};

/// How many bytes of frames are read at a time to refill the first directory.
const REFILL_BYTES: usize = 4 << 20;
/// How many messages wait for the second copy. The quorum's window limits the bytes of frames; a
/// second disk that answers nothing must not collect heartbeats for ever either.
const QUEUE_MAX: usize = 100_000;

/// A [`Replicator`] that keeps a second copy of the log in another directory. An append is
/// answered, and visible, once both copies are durable.
///
/// The log leads by itself, as soon as it is opened. If the second directory then holds more of it
/// than the first, say because the first disk was replaced, what is missing is copied back before
/// anything else; nothing is ever removed from the second directory that the first one lacks,
/// unless it was never acknowledged.
///
/// If the second directory fails, appends are refused with
/// [`Error::ReplicasUnavailable`](crate::Error::ReplicasUnavailable) until the log is opened anew,
/// or [`continue_alone`](Self::continue_alone) is called.
///
/// # Examples
///
/// ```no_run
/// use std::sync::Arc;
/// use ackline::Options;
/// use ackline::replicate::Mirror;
///
/// let mirror = Arc::new(Mirror::open("/mnt/second/queue")?);
/// let log = Options::new().replicator(mirror).open("/mnt/first/queue")?;
/// log.topic("orders")?.append("order 1")?; // On both disks when it returns.
/// # Ok::<(), ackline::Error>(())
/// ```
pub struct Mirror {
    quorum: Quorum,
    second: Arc<Second>,
    has_thread: bool,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mirror").field("status", &self.status()).finish_non_exhaustive()
    }
}

/// The second copy.
#[derive(Debug)]
struct Second {
    queue: Arc<Queue>,
    handle: LogHandle,
    follower: Follower,
    /// Keeps it open.
    log: Mutex<Option<Log>>,
}

/// The link to the second copy.
#[derive(Debug, Default)]
struct Queue {
    messages: Mutex<VecDeque<Message>>,
    arrived: Signal,
    stopped: AtomicBool,
}

impl Link for Queue {
    fn send(&self, message: Message) {
        let mut messages = self.messages.lock();
        if messages.len() < QUEUE_MAX {
            messages.push_back(message);
        }
        drop(messages);
        self.arrived.notify();
    }
}

/// The second log's replicator: hands out its handle, and lets it follow.
#[derive(Debug, Default)]
pub(super) struct Passive {
    handle: Mutex<Option<LogHandle>>,
}

impl Replicator for Passive {
    fn attach(&self, log: LogHandle) -> Result<()> {
        *self.handle.lock() = Some(log);
        Ok(())
    }

    fn offer(&self, _: &Frames) {}

    fn status(&self) -> ReplicaStatus {
        ReplicaStatus::Following
    }

    fn detach(&self, _: Duration) {
        drop(self.handle.lock().take());
    }
}

impl Mirror {
    /// Opens or makes the second directory, with the default [`Options`].
    ///
    /// # Errors
    ///
    /// Those of [`Options::open`].
    pub fn open(directory: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(Options::new(), directory)
    }

    /// Opens or makes the second directory. The options' limits should be those of the first log;
    /// their replicator is not used.
    ///
    /// # Errors
    ///
    /// Those of [`Options::open`].
    pub fn open_with(options: Options, directory: impl AsRef<Path>) -> Result<Self> {
        Self::new(options, |options| options.open(directory))
    }

    /// Opens the second copy on any storage, see [`Options::open_on`].
    ///
    /// # Errors
    ///
    /// Those of [`Options::open`].
    #[cfg(any(test, feature = "simulation"))]
    pub fn open_on(options: Options, storage: Arc<dyn crate::storage::Storage>) -> Result<Self> {
        Self::new(options, |options| options.open_on(storage))
    }

    fn new(options: Options, open: impl FnOnce(Options) -> Result<Log>) -> Result<Self> {
        let has_thread = options.background;
        let passive = Arc::new(Passive::default());
        let log = open(options.replicator(passive.clone()))?;
        let handle = passive.handle.lock().clone().expect("an open log has been attached");
        let queue = Arc::new(Queue::default());
        let quorum = Quorum::new(&QuorumOptions::new(2), vec![queue.clone()])?;
        let follower = Follower::new(handle.clone());
        let second = Arc::new(Second { queue, handle, follower, log: Mutex::new(Some(log)) });
        Ok(Self { quorum, second, has_thread, thread: Mutex::default() })
    }

    /// Goes on with the first directory alone. **What is appended meanwhile is lost with that
    /// disk.** [`Replicator::status`] answers [`ReplicaStatus::Degraded`].
    ///
    /// # Errors
    ///
    /// None while a log is attached.
    pub fn continue_alone(&self) -> Result<()> {
        self.quorum.continue_degraded(1)
    }

    /// Needs both copies again.
    pub fn restore(&self) {
        self.quorum.restore();
    }

    /// Does what the thread `ackline-mirror` does where there is one: hands what was sent to the
    /// second copy, and its answers back. `false` if there was nothing.
    #[cfg(any(test, feature = "simulation"))]
    pub fn step(&self) -> bool {
        self.second.step(&self.quorum)
    }

    fn lead(&self, first: &LogHandle) -> Result<()> {
        let epoch = self.reconcile(first)?;
        // It needs no promise but its own, so there is nothing to wait for.
        self.quorum.promote(epoch, Duration::ZERO)?;
        // The second copy joins here, so that the first append finds it in sync.
        while self.second.step(&self.quorum) {}
        if self.has_thread { self.start_thread() } else { Ok(()) }
    }

    /// Copies what the second log holds and the first one lacks, and returns the epoch to lead.
    fn reconcile(&self, first: &LogHandle) -> Result<Epoch> {
        let second = &self.second.handle;
        let epoch = first.promised()?.max(second.promised()?).next();
        let (own, other) = (first.history()?, second.history()?);
        if own.log_end() >= other.log_end() {
            return Ok(epoch);
        }
        // An epoch of its own, so that what comes next leads a newer one.
        let mut from = match own.common_end(&other).filter(|_| own.log_id == other.log_id) {
            Some(common) if common >= other.start => {
                first.follow(epoch)?;
                if common < own.end {
                    first.truncate(epoch, common)?;
                }
                common
            }
            _ => {
                let snapshot = second.snapshot()?;
                first.follow(epoch)?;
                first.reset(epoch, &snapshot)?;
                snapshot.position()
            }
        };
        while let Some(frames) = second.read(from, REFILL_BYTES)? {
            from = refill(first, epoch, &frames)?;
        }
        Ok(epoch.next())
    }

    fn start_thread(&self) -> Result<()> {
        let (second, quorum) = (Arc::clone(&self.second), self.quorum.clone());
        let spawned = Builder::new()
            .name("ackline-mirror".to_owned())
            .spawn(move || second.run(&quorum))
            .map_err(|e| Error::io("start", "thread ackline-mirror", e))?;
        *self.thread.lock() = Some(spawned);
        Ok(())
    }
}

fn refill(first: &LogHandle, epoch: Epoch, frames: &Frames) -> Result<Position> {
    first.ingest(epoch, frames).wait()?;
    Ok(frames.end())
}

impl Second {
    /// Takes what has arrived; `false` if nothing has.
    fn step(&self, quorum: &Quorum) -> bool {
        let arrived = std::mem::take(&mut *self.queue.messages.lock());
        let is_some = !arrived.is_empty();
        self.follower.receive(arrived, |answer| quorum.received(0, answer));
        is_some
    }

    fn run(&self, quorum: &Quorum) {
        loop {
            let observed = self.queue.arrived.observe();
            let found = self.step(quorum);
            if !found {
                // What was sent before it was stopped has been taken.
                if self.queue.stopped.load(Ordering::Acquire) {
                    return;
                }
                self.queue.arrived.wait(observed, None);
            }
        }
    }
}

impl Replicator for Mirror {
    fn attach(&self, log: LogHandle) -> Result<()> {
        if self.second.log.lock().is_none() {
            let reason = "the mirror was closed with the log that it belonged to".to_owned();
            return Err(Error::InvalidOption { option: "replicator", reason });
        }
        self.quorum.attach(log.clone())?;
        let begun = self.lead(&log);
        if begun.is_err() {
            // The log is not opened, so nobody will detach it.
            self.quorum.detach(Duration::ZERO);
        }
        begun
    }

    fn offer(&self, frames: &Frames) {
        self.quorum.offer(frames);
    }

    fn synced(&self, epoch: Epoch, end: Position) {
        self.quorum.synced(epoch, end);
    }

    fn settle(&self) {
        self.quorum.settle();
    }

    fn needed_from(&self) -> Option<Position> {
        self.quorum.needed_from()
    }

    fn status(&self) -> ReplicaStatus {
        self.quorum.status()
    }

    fn tick(&self, now: Duration) {
        self.quorum.tick(now);
    }

    fn detach(&self, within: Duration) {
        if !self.has_thread {
            while self.second.step(&self.quorum) {}
        }
        self.quorum.detach(within);
        self.second.queue.stopped.store(true, Ordering::Release);
        self.second.queue.arrived.notify();
        if let Some(thread) = self.thread.lock().take()
            && thread.thread().id() != thread::current().id()
        {
            assert!(thread.join().is_ok(), "the mirror's thread does not panic");
        }
        if let Some(log) = self.second.log.lock().take() {
            // If it fails, the next open recovers: what was acknowledged is durable.
            drop(log.close());
        }
    }
}
