//! A replica: a disk and a clock that outlive its processes.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ackline::replicate::{
    Frames, Link, LogHandle, Quorum, QuorumOptions, ReplicaStatus, Replicator, Role,
};
use ackline::simulation::{Clock, Crash, SimClock, SimDisk, Storage};
use ackline::{Delivery, Epoch, Group, Log, Options, Position, Reader, Result};

/// A consumer's wait for a message.
pub(crate) type Next = Pin<Box<dyn Future<Output = Result<Delivery>> + Send>>;

/// A quorum, and the handle of the log that it was attached to.
#[derive(Clone, Debug)]
struct Tap {
    quorum: Quorum,
    handle: Arc<Mutex<Option<LogHandle>>>,
}

impl Tap {
    fn new(quorum: Quorum) -> Self {
        Self { quorum, handle: Arc::default() }
    }

    fn handle(&self) -> LogHandle {
        let handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        handle.clone().expect("it is attached when the log is open")
    }
}

impl Replicator for Tap {
    fn attach(&self, log: LogHandle) -> Result<()> {
        *self.handle.lock().unwrap_or_else(PoisonError::into_inner) = Some(log.clone());
        self.quorum.attach(log)
    }

    fn log_id(&self) -> Option<u128> {
        self.quorum.log_id()
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
        self.quorum.detach(within);
    }
}

/// The process that runs.
pub(crate) struct Live {
    storage: Arc<dyn Storage>,
    pub(crate) log: Log,
    pub(crate) quorum: Quorum,
    pub(crate) waiting: Option<(Epoch, Next)>,
    pub(crate) held: Vec<(Epoch, Delivery)>,
    /// What was acknowledged and not committed, by the group's handle of its leadership.
    pub(crate) acked: Vec<(Epoch, u64)>,
    /// A commit was asked for and has not been answered well.
    pub(crate) committing: bool,
    /// Readers of the topics, who look at all that becomes visible.
    pub(crate) readers: [Option<Reader>; 2],
    pub(crate) handle: LogHandle,
    pub(crate) group: Option<(Epoch, Group)>,
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").field("held", &self.held.len()).finish_non_exhaustive()
    }
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) disk: SimDisk,
    pub(crate) clock: SimClock,
    /// How fast its clock runs, in percent.
    pub(crate) skew: u32,
    /// Counts its lives.
    pub(crate) life: u64,
    pub(crate) live: Option<Live>,
    seed: u64,
    /// How far its readers have seen in this life, and how far it was written.
    pub(crate) visible: Position,
    pub(crate) written: Position,
    /// It was killed while it was opened.
    pub(crate) died_opening: bool,
    /// The epoch that it was seen leading last.
    pub(crate) led: Epoch,
}

impl Node {
    pub(crate) fn new(seed: u64, skew: u32) -> Self {
        Self {
            disk: SimDisk::new(seed),
            clock: SimClock::new(),
            skew,
            life: 0,
            live: None,
            seed,
            visible: Position(0),
            written: Position(0),
            died_opening: false,
            led: Epoch(0),
        }
    }

    /// Starts a process.
    pub(crate) fn start(
        &mut self,
        options: &Options,
        quorum: &QuorumOptions,
        links: Vec<Arc<dyn Link>>,
    ) -> Result<()> {
        self.life += 1;
        let quorum = Quorum::new(quorum, links)?;
        let clock: Arc<dyn Clock> = Arc::new(self.clock.clone());
        let options = options.clone().simulated(clock, super::mix(self.seed, self.life));
        let tap = Tap::new(quorum.clone());
        let storage = self.disk.storage();
        let opened = options.replicator(Arc::new(tap.clone())).open_on(Arc::clone(&storage));
        self.died_opening = opened.is_err() && storage.free_bytes().is_err();
        let log = opened?;
        quorum.tick(self.clock.monotonic());
        let handle = tap.handle();
        (self.visible, self.written) = (Position(0), Position(0));
        self.live = Some(Live {
            storage,
            log,
            quorum,
            waiting: None,
            held: Vec::new(),
            acked: Vec::new(),
            committing: false,
            readers: [None, None],
            handle,
            group: None,
        });
        Ok(())
    }

    /// Ends the process. Whatever it held is gone.
    pub(crate) fn crash(&mut self, crash: Crash) {
        self.disk.crash(crash);
        self.disk.clear_faults();
        self.disk.die_at(u64::MAX);
        self.live = None;
    }

    pub(crate) fn advance(&mut self, time: Duration) {
        self.clock.advance(time * self.skew / 100);
    }

    /// The epoch that it leads, if it does.
    pub(crate) fn leads(&self) -> Option<Epoch> {
        let live = self.live.as_ref()?;
        let stats = live.log.stats();
        match live.quorum.role() {
            Role::Leading { epoch } if stats.leads && stats.epoch == epoch => Some(epoch),
            _ => None,
        }
    }

    /// Whether the process has been killed in the middle of a call.
    pub(crate) fn is_dead(&self) -> bool {
        self.live.as_ref().is_some_and(|live| live.storage.free_bytes().is_err())
    }

    pub(crate) fn is_poisoned(&self) -> bool {
        self.live.as_ref().is_some_and(|live| live.log.stats().poisoned)
    }
}

/// Polls a future once.
pub(crate) fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}
