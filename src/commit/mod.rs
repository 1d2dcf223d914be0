//! Group commit: who writes, when, and what the others wait for.
//!
//! No thread of its own stands between a writer and the disk. Entries are queued under one lock;
//! the first writer that wants to wait becomes the leader, writes and syncs for all that queued
//! up, and hands leadership to a waiter of the next gathering. A background thread commits only
//! what nobody waits for.
//!
//! Lock order: a group, the writer, the one who syncs, the core, what is unseen, a ticket. The leader
//! holds the writer's lock while it writes, and takes groups by `try_lock` alone.

mod admit;
mod answers;
mod blocks;
mod enlist;
mod ingest;
mod leader;
pub(crate) mod policy;
pub(crate) mod queue;
pub(crate) mod replicas;
pub(crate) mod riders;
mod roll;

pub(crate) use roll::FIRST_SEGMENT_BYTES;

use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::clock::Clock;
use crate::draws::Draws;
use crate::error::Result;
use crate::format::frame::Kind;
use crate::mutant::{self, Mutant};
use crate::offset::{Epoch, Position};
use crate::segment::sealed::Sealed;
use crate::segment::writer::marker;
use crate::segment::{Active, Segments, Starts, Tail};
use crate::state::State;
use crate::storage::{Storage, StorageFile};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Mutex, Signal, Tally};
use crate::watermark::{Ack, PoisonLatch, Watermarks};
use answers::Callbacks;
use blocks::CommitSizes;
use policy::SyncPolicy;
use queue::{Core, Media};
use replicas::{Replicas, Standing, Unseen};
use riders::Riders;

/// What the commit machinery is told at open.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) policy: SyncPolicy,
    pub(crate) media: Media,
    pub(crate) sync_timeout: Duration,
    pub(crate) segment_bytes: u64,
    pub(crate) batch_bytes_max: u64,
    /// The limit for all segment files together.
    pub(crate) max_bytes: Option<u64>,
    /// Whether threads may be started.
    pub(crate) background: bool,
}

/// Who may use the last of the room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// New messages: refused first.
    Append,
    /// Progress of groups, which is what makes room again.
    Progress,
}

/// Whether a marker was written at the end of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Marked {
    /// It was, or the disk does not allow for one there.
    Done,
    /// Not all before it is durable.
    NotDurable,
    /// Someone else writes.
    Busy,
}

/// Numbers for `Log::stats`.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) appended: Tally,
    pub(crate) frames: Tally,
    pub(crate) writes: Tally,
    pub(crate) syncs: Tally,
    pub(crate) bytes: Tally,
    pub(crate) rolls: Tally,
    pub(crate) refused_full: Tally,
    pub(crate) index_failures: Tally,
}

impl Counters {
    pub(crate) fn add(counter: &Tally, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    /// The same for one that nobody else adds to meanwhile: it need not lock the memory.
    fn add_alone(counter: &Tally, n: u64) {
        counter.store(counter.load(Ordering::Relaxed) + n, Ordering::Relaxed);
    }
}

/// What only the leader touches.
#[derive(Debug)]
struct Writer {
    tail: Tail,
    /// What is written and waits for a sync by someone else.
    unsynced_bytes: u64,
    /// When the oldest of it was written.
    unsynced_since: Option<Duration>,
    /// Nothing was written since the last marker.
    marked: bool,
    last_write: Duration,
}

/// The write side of a log.
#[derive(Debug)]
pub(crate) struct Commits {
    pub(crate) core: Mutex<Core>,
    writer: Mutex<Writer>,
    /// What waits to be seen. Locked after the writer and the core.
    unseen: Mutex<Unseen>,
    pub(crate) replicas: Option<Replicas>,
    /// Held while a file is synced beside the leader, or the directory, until a failure is
    /// latched: the system reports it to one of two syncs at the same time and lets the other
    /// one succeed. Locked after the writer.
    syncing: Mutex<()>,
    pub(crate) segments: Segments,
    pub(crate) marks: Watermarks,
    pub(crate) latch: PoisonLatch,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) draws: Draws,
    pub(crate) config: Config,
    pub(crate) counters: Counters,
    /// The background committer has something to do.
    pub(crate) work: Signal,
    /// The background file keeper has something to do.
    pub(crate) files: Signal,
    /// A roll or a preparation ended, or the queue became shorter.
    room: Signal,
    /// Changed under the core's lock: whoever has that can rely on it.
    closed: AtomicBool,
    /// Groups with changes that are not logged.
    riders: Mutex<Riders>,
    has_riders: AtomicBool,
    /// Sealed segments without a sidecar.
    unindexed: Mutex<Vec<Arc<Sealed>>>,
    /// The base and size of a segment that is forgotten, but whose files are not removed yet.
    pub(crate) undeleted: Mutex<Option<(Position, u64)>>,
    /// Beyond this position, the next segment is to be prepared.
    spare_due: AtomicU64,
    sizes: CommitSizes,
    /// Files that opening has removed, still open: the system takes its time to free their blocks.
    removed: Mutex<Vec<Arc<dyn StorageFile>>>,
    callbacks: Mutex<Callbacks>,
    /// Held while files are made and deleted in the background, and while frames are given up.
    pub(crate) keeping: Mutex<()>,
}

/// What recovery found in a log that is open already.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) state: State,
    pub(crate) end: Position,
    pub(crate) tail: Tail,
    pub(crate) bases: Vec<Position>,
    pub(crate) active: Active,
    pub(crate) log_bytes: u64,
    /// Where each topic stands at the beginning of the oldest segment.
    pub(crate) starts: Starts,
}

/// What is needed to go on from a recovered log.
#[derive(Debug)]
pub(crate) struct Resume {
    pub(crate) core: Core,
    pub(crate) tail: Tail,
    pub(crate) segments: Segments,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) draws: Draws,
    pub(crate) config: Config,
    /// Files without a name, which are to be closed.
    pub(crate) removed: Vec<Arc<dyn StorageFile>>,
    /// With what was promised, and a position below which all was visible once.
    pub(crate) replicas: Option<(Replicas, Epoch, Position)>,
}

impl Commits {
    pub(crate) fn new(resume: Resume) -> Arc<Self> {
        let Resume { mut core, tail, segments, storage, .. } = resume;
        let Resume { clock, draws, config, removed, replicas, .. } = resume;
        core.one_by_one = config.policy == SyncPolicy::EachAppend;
        core.is_replicated = replicas.is_some();
        let (mut standing, mut replicated) = (Standing::Alone, None);
        if let Some((_, promised, visible)) = &replicas {
            core.fenced = Some(*promised);
            standing = Standing::Following { promised: *promised };
            replicated = Some((*visible).min(core.end));
        }
        let marks = Watermarks::new(core.end, replicated, config.policy == SyncPolicy::Never);
        let mut unseen = Unseen::new(standing);
        if marks.visible() < core.end {
            unseen.restart_at(core.end, core.hide_all());
        }
        let last_write = clock.monotonic();
        let commits = Arc::new_cyclic(|commits: &Weak<Self>| {
            core.committer = Some(Weak::clone(commits) as _);
            Self {
                core: Mutex::new(core),
                writer: Mutex::new(Writer {
                    tail,
                    unsynced_bytes: 0,
                    unsynced_since: None,
                    marked: true,
                    last_write,
                }),
                unseen: Mutex::new(unseen),
                replicas: replicas.map(|(replicas, ..)| replicas),
                keeping: Mutex::default(),
                syncing: Mutex::default(),
                segments,
                marks,
                latch: PoisonLatch::default(),
                storage,
                clock,
                draws,
                config,
                counters: Counters::default(),
                work: Signal::default(),
                files: Signal::default(),
                room: Signal::default(),
                closed: AtomicBool::new(false),
                riders: Mutex::default(),
                has_riders: AtomicBool::new(false),
                unindexed: Mutex::default(),
                undeleted: Mutex::default(),
                spare_due: AtomicU64::new(0),
                sizes: CommitSizes::default(),
                removed: Mutex::new(removed),
                callbacks: Mutex::default(),
            }
        });
        commits.expect_spare();
        commits
    }

    /// Commits what is queued, if it is urgent or has been there for a while: whoever has queued it a
    /// moment ago may be about to queue more, and to wait for it.
    pub(crate) fn drain_due(&self) {
        let core = self.core.lock();
        let seen = core.attended;
        let is_old = core.queue.front().is_some_and(|front| Some(front.number) <= seen);
        let is_due = core.urgent || is_old;
        drop(core);
        if is_due {
            self.drain();
        }
    }

    /// Takes note of what is queued, for [`drain_due`](Self::drain_due). Says whether anything was
    /// left to the committer since `seen`: if not, it may sleep until it is told, and will be.
    pub(crate) fn attend(&self, seen: &mut u64) -> bool {
        let mut core = self.core.lock();
        let left = core.left;
        // Whoever leads tells the committer of what is left, if it sleeps by then.
        let is_there =
            !core.leading && core.queue.front().is_some_and(|front| front.number <= left);
        let is_active = std::mem::replace(seen, left) != left || is_there;
        let is_thought_active = is_active || mutant::on(Mutant::AwakeInItsSleep);
        core.attended = is_thought_active.then_some(core.next_gather);
        is_active
    }

    /// Commits all that is queued, without a caller of its own.
    pub(crate) fn drain(&self) {
        let mut core = self.core.lock();
        if core.leading || core.queue.is_empty() {
            return;
        }
        core.leading = true;
        let last = core.queue.back().map(|gather| Arc::clone(&gather.ticket));
        drop(core);
        let last = last.expect("the queue was not empty");
        self.lead(&last);
    }

    /// Waits until everything that is queued now is committed.
    pub(crate) fn flush_queue(&self) -> Result<()> {
        loop {
            let core = self.core.lock();
            let Some(back) = core.queue.back() else { break };
            let ticket = Arc::clone(&back.ticket);
            drop(core);
            if let Some(result) = self.wait_for(&ticket, Ack::Synced, None) {
                result?;
            }
        }
        // What left the queue may still be on its way; the writer's lock waits for it.
        drop(self.writer.lock());
        self.latch.check()
    }

    /// How long a marker has been due, if one is: the log is idle and its end is not marked.
    pub(crate) fn unmarked_since(&self) -> Option<Duration> {
        match self.writer.try_lock() {
            Some(writer) => (!writer.marked).then_some(writer.last_write),
            // Somebody writes just now, and is not to be waited for.
            None => Some(self.clock.monotonic()),
        }
    }

    /// When the oldest write was made that no sync has covered, and how many bytes there are.
    pub(crate) fn unsynced(&self) -> Option<(Duration, u64)> {
        let writer = self.writer.lock();
        writer.unsynced_since.map(|since| (since, writer.unsynced_bytes))
    }

    /// Lets nothing more be queued.
    pub(crate) fn close(&self) {
        let core = self.core.lock();
        self.closed.store(true, Ordering::Release);
        drop(core);
    }

    /// Every call asks, so it takes no lock.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Marks the end of a log that is closed, once nobody writes to it any more.
    pub(crate) fn mark_closed(&self) -> Result<()> {
        loop {
            // Observed before the look, so that the end of what is in the way is not missed.
            let observed = self.room.observe();
            self.flush_queue()?;
            self.sync_written()?;
            if mutant::on(Mutant::ClosingNotMarked) {
                return Ok(());
            }
            if self.mark_end(Kind::Closed)? != Marked::Busy {
                return Ok(());
            }
            self.room.wait(observed, None);
        }
    }

    /// Waits until what is under way is over: writes, rolls, syncs, and the answers to those who
    /// wait, so that all callbacks are there to be run. The log is closed: nothing new begins.
    pub(crate) fn let_all_end(&self) {
        loop {
            let observed = self.room.observe();
            let core = self.core.lock();
            if !core.leading && !core.rolling && core.failing == 0 {
                break;
            }
            drop(core);
            self.room.wait(observed, None);
        }
        drop(self.writer.lock_in_drop());
        drop(self.syncing.lock_in_drop());
    }

    /// Writes a marker at the end of the log, if everything before it is durable.
    pub(crate) fn mark_end(&self, kind: Kind) -> Result<Marked> {
        self.latch.check()?;
        let mut core = self.core.lock();
        if self.is_closed() && kind != Kind::Closed {
            // The directory may belong to another opener by now.
            return Ok(Marked::Done);
        }
        if core.leading || core.rolling || !core.queue.is_empty() {
            return Ok(Marked::Busy);
        }
        core.leading = true;
        let end = core.end;
        drop(core);
        let mut writer = self.writer.lock();
        let due = self.marks.durable() == end || mutant::on(Mutant::MarkerBeforeDurable);
        let mut marked = Ok(());
        let active = self.segments.active();
        if due && self.config.media.may_mark(&active.segment, end) {
            let header = marker(kind, end, &writer.tail, end);
            marked = crate::segment::writer::mark(&active.segment, &header);
            Counters::add(&self.counters.syncs, 1);
            writer.marked = marked.is_ok();
        }
        if let Err(error) = &marked {
            // Before anybody else can have the writer, and sync once more.
            self.latch.set(error);
        }
        drop(writer);
        if let Err(error) = marked {
            let error = self.fail(&error);
            self.hand_off(None);
            return Err(error);
        }
        self.hand_off(None);
        Ok(if due { Marked::Done } else { Marked::NotDurable })
    }

    /// The part of a segment that only progress may use while the next one is not there: an
    /// eighth, or a quarter of what lies behind its middle. Every append asks, so it takes no
    /// lock.
    fn reserve_bytes(&self, room_end: Position) -> u64 {
        room_end.0.saturating_sub(self.spare_due.load(Ordering::Acquire)) / 4
    }

    /// Goes on with what recovery found after frames were given up or all were replaced. The caller
    /// has paused the log, and has made sure that what is visible is still there.
    pub(crate) fn go_on_with(&self, found: Found) {
        let Found { state, end, tail, bases, active, log_bytes, starts } = found;
        let mut writer = self.writer.lock();
        // Whoever syncs what was there before must not take it for what comes now.
        let syncing = self.syncing.lock();
        let mut core = self.core.lock();
        let mut unseen = self.unseen.lock();
        writer.tail = tail;
        (writer.marked, writer.unsynced_since, writer.unsynced_bytes) = (true, None, 0);
        core.room_end = active.segment.room_end();
        self.segments.replace(bases, active);
        self.unindexed.lock().clear();
        self.marks.restart_at(end);
        (core.end, core.log_bytes, core.ingested) = (end, log_bytes, Some(tail));
        core.replace_state(state, &starts);
        let topics = core.ends();
        unseen.restart_at(end, topics);
        *self.undeleted.lock() = None;
        drop((unseen, core, syncing, writer));
        self.expect_spare();
        self.settle();
    }

    pub(crate) fn end(&self) -> Position {
        self.core.lock().end
    }
}
