//! Opening: lock, look, recover, go on. Until the last step nothing that was there before is
//! changed but leftovers of unfinished steps.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::commit::queue::Core;
use crate::commit::replicas::Replicas;
use crate::commit::{Commits, Config, Resume};
use crate::draws::Draws;
use crate::error::{Error, Result};
use crate::format::frame::Kind;
use crate::format::header::SALT_AT;
use crate::format::name::{self, FileKind};
use crate::mutant::{self, Mutant};
use crate::offset::{Epoch, Position};
use crate::options::Options;
use crate::promise::PromiseFile;
use crate::segment::recovery::{Verdict, classify_tail};
use crate::segment::scan::{Scan, Stop, scan};
use crate::segment::sealed::open_segment;
use crate::segment::writer::{self, marker};
use crate::segment::{Active, ReadOptions, Segment, Segments, Tail};
use crate::shared::{Limits, Shared};
use crate::state::State;
use crate::storage::{LockError, LockGuard, Storage, StorageFile};
use crate::sync::atomic::AtomicBool;
use crate::sync::{Mutex, RwLock, spawn_scoped, thread};

use super::create::create;
use super::cut::{open_promises, sync_names};
use super::older::{check_older, seal_previous};
use super::replay::Replay;
use super::replica::Attached;
use super::report::{Ending, OpenReport};
use super::rewrite::{Part, rewrite};
use super::snapshot::Snapshots;

/// So many older segments are looked at while the newest one is read: to look at fewer takes less
/// than to start a thread.
const OLDER_BESIDE_MIN: usize = 16;

/// What the directory holds.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) bases: Vec<Position>,
    pub(super) indexes: Vec<Position>,
    pub(super) temporary: Vec<String>,
    pub(super) foreign: Vec<String>,
    pub(super) has_replica: bool,
}

/// A recovered log, ready to be written to.
pub(super) struct Recovered {
    pub(super) bases: Vec<Position>,
    /// The bytes of all files but the active one's.
    pub(super) older_bytes: u64,
    pub(super) active: Active,
    pub(super) state: State,
    pub(super) tail: Tail,
    pub(super) end: Position,
    pub(super) report: OpenReport,
}

pub(super) fn open(
    options: Options,
    storage: Arc<dyn Storage>,
    clock: Arc<dyn Clock>,
) -> Result<(Shared, OpenReport)> {
    let draws = Draws::new(options.seed);
    let guard = lock(&*storage, options.lock_timeout, options.background)?;
    let mut listing = list(&*storage)?;
    // A name that is listed need not be on the disk: the process before may have ended, or seen
    // an error, between the renaming of a segment and the sync of the directory. What is
    // appended to that segment now must not be lost with its name.
    if !mutant::on(Mutant::SkipDirectorySyncAtOpen) {
        sync_names(&*storage)?;
    }
    let config = config_of(&options);
    let mut promises = None;
    if listing.has_replica {
        check_replicated(&options)?;
        promises = Some(open_promises(&*storage)?);
        listing = list(&*storage)?;
    }
    let removed_files = std::mem::take(&mut listing.temporary);
    let mut removed = remove_leftovers(&*storage, &removed_files)?;
    if promises.is_none() && options.replicator.is_some() && mutant::on(Mutant::PromiseBeforeLog) {
        promises = Some(PromiseFile::create(&*storage)?);
    }
    let recover_or_create = || {
        if listing.bases.is_empty() {
            let log_id = options.replicator.as_ref().and_then(|replicator| replicator.log_id());
            return create(&*storage, &listing, (&config, log_id), (&*clock, &draws));
        }
        recover(&*storage, &listing, &config, (&*clock, &draws))
    };
    let recovered = match recover_or_create() {
        // Nothing was changed. The room of what was removed is there once it is closed.
        Err(Error::Full { .. }) if !removed.is_empty() => {
            removed.clear();
            recover_or_create()?
        }
        begun => begun?,
    };
    if promises.is_none() && options.replicator.is_some() {
        removed.clear();
        promises = Some(PromiseFile::create(&*storage)?);
    }
    seal_previous(&*storage, &recovered.bases, &recovered.active.segment.head, options.media)?;
    let mut report = recovered.report.clone();
    report.removed_files = removed_files;
    report.foreign_files = listing.foreign;
    report.segments = recovered.bases.len();
    let files = (storage, promises, removed);
    let shared = assemble(recovered, options, files, (clock, draws), guard)?;
    Ok((shared, report))
}

/// A file without a name any more, that is still open.
type Removed = Arc<dyn StorageFile>;

/// Removes what unfinished steps have left. The files stay open: to free the blocks of a large one
/// takes the system longer than all else here, and nobody need wait for that.
fn remove_leftovers(storage: &dyn Storage, names: &[String]) -> Result<Vec<Removed>> {
    let mut removed = Vec::new();
    for name in names {
        // What cannot be opened can be removed all the same.
        removed.extend(storage.open(name).ok());
        storage.remove(name).map_err(|e| Error::io("remove", name, e))?;
    }
    Ok(removed)
}

/// A replica that went on alone would write another history in an epoch that is somebody's.
fn check_replicated(options: &Options) -> Result<()> {
    if options.replicator.is_some() {
        return Ok(());
    }
    let reason = "the log is a replica; to go on alone, open it with a Quorum of one copy";
    Err(Error::InvalidOption { option: "replicator", reason: reason.to_owned() })
}

pub(super) fn lock(
    storage: &dyn Storage,
    timeout: Duration,
    may_sleep: bool,
) -> Result<Box<dyn LockGuard>> {
    const RETRY_EVERY: Duration = Duration::from_millis(5);
    let mut waited = Duration::ZERO;
    loop {
        let path = storage.describe();
        match storage.lock() {
            Ok(guard) => return Ok(guard),
            Err(LockError::Held { .. }) if may_sleep && waited < timeout => {
                thread::sleep(RETRY_EVERY);
                waited += RETRY_EVERY;
            }
            Err(LockError::Held { holder }) => return Err(Error::Locked { path, holder }),
            Err(LockError::NotADirectory) => return Err(Error::NotADirectory { path }),
            Err(LockError::Io(error)) => return Err(Error::io("lock", path, error)),
        }
    }
}

pub(super) fn list(storage: &dyn Storage) -> Result<Listing> {
    let mut listing = Listing::default();
    let names = storage.list().map_err(|e| Error::io("list", storage.describe(), e))?;
    for entry in names {
        match name::parse(&entry.name) {
            FileKind::Segment(base) if entry.is_file => listing.bases.push(base),
            FileKind::Segment(_) | FileKind::Misnamed => {
                let expected = "a segment named by twenty digits";
                return Err(Error::corrupt(entry.name, 0, expected, "another name or kind"));
            }
            FileKind::Index(base) => listing.indexes.push(base),
            FileKind::Replica => listing.has_replica = true,
            FileKind::Temporary => listing.temporary.push(entry.name),
            FileKind::Foreign => listing.foreign.push(entry.name),
        }
    }
    listing.bases.sort_unstable();
    listing.foreign.sort_unstable();
    Ok(listing)
}

pub(super) fn report(ending: Ending) -> OpenReport {
    OpenReport {
        ending,
        replayed_bytes: 0,
        rewritten_bytes: 0,
        dropped_torn_tail: false,
        segments: 0,
        removed_files: Vec::new(),
        foreign_files: Vec::new(),
    }
}

pub(super) fn recover(
    storage: &dyn Storage,
    listing: &Listing,
    config: &Config,
    (clock, draws): (&dyn Clock, &Draws),
) -> Result<Recovered> {
    let (newest, older) = listing.bases.split_last().expect("there are segments");
    let (segment, checkpoint) = open_segment(storage, *newest)?;
    check_size(&segment)?;
    let is_beside = config.background && older.len() >= OLDER_BESIDE_MIN;
    let read = both(
        is_beside,
        || check_older(storage, older, &segment.head),
        || {
            let mut replay = Replay::of(&segment, &checkpoint)?;
            let mut snapshots = Snapshots::of(&segment.head);
            let scanned = scan(&segment, None, |visited| {
                snapshots.look(&visited, &replay);
                replay.take(&segment, &visited)
            })?;
            Ok((replay, snapshots, scanned))
        },
    );
    let (older_bytes, (replay, snapshots, scanned)) = read?;
    let mut report = report(Ending::Unclean);
    report.replayed_bytes = scanned.end.0 - segment.base().0;
    match classify_tail(&scanned) {
        Verdict::Damaged { at, durable, expected, found } => {
            let expected = format!("{expected} (all below position {durable} was promised)");
            Err(Error::corrupt(&segment.name, segment.file_at(at), expected, found))
        }
        Verdict::Foreign { salt } => {
            let expected = format!("the salt of the headers in the file, {salt:08x}");
            let found = format!("{:08x}", segment.head.salt);
            Err(Error::corrupt(&segment.name, SALT_AT, expected, found))
        }
        Verdict::Missing { base } => {
            let file = name::segment(base);
            Err(Error::corrupt(file, 0, "a segment", "no file, but its predecessor is sealed"))
        }
        verdict @ (Verdict::Clean | Verdict::Intact) => {
            if verdict == Verdict::Clean {
                report.ending = Ending::Closed;
            }
            // Revoke the marker before anything is written behind it: a reader of a later crash
            // would otherwise stop here. One that is revoked already is revoked again: where the
            // sync of that failed, the cache shows what the disk does not have.
            let revoked = scanned.stop == Stop::Marker(Kind::Opened);
            // An idle one is written again, too: what is there may be in the cache alone, and the
            // disk may have echoes of a close that failed.
            let kind = if verdict == Verdict::Clean || revoked { Kind::Opened } else { Kind::Idle };
            let marks = kind == Kind::Idle || !mutant::on(Mutant::ReopeningNotMarked);
            if marks && config.media.may_mark(&segment, scanned.end) {
                let mark = marker(kind, scanned.end, &scanned.tail, scanned.end);
                writer::mark(&segment, &mark)?;
            }
            let files = (listing.bases.clone(), older_bytes);
            Ok(go_on(replay, files, segment, &scanned, report))
        }
        Verdict::Unproven { durable, end } => {
            report.rewritten_bytes = end.0 - durable.0;
            report.dropped_torn_tail = scanned.rest_is_dirty;
            let snapshot = snapshots.last();
            let mut part = Part { segment, checkpoint, durable, scanned, snapshot };
            let (segment, state, left_bytes) = rewrite(storage, &mut part, config, (clock, draws))?;
            let bases = older.iter().copied();
            let kept = (segment.base() > part.segment.base()).then_some(part.segment.base());
            let bases = bases.chain(kept).chain([segment.base()]).collect();
            let mut replay = Replay::from_state(state);
            let read = scan(&segment, Some(end), |visited| replay.take(&segment, &visited))?;
            if read.end != end {
                let (at, found) = (segment.file_at(read.end), format!("{:?}", read.stop));
                return Err(Error::corrupt(&segment.name, at, "what was just written", found));
            }
            let files = (bases, older_bytes + left_bytes);
            Ok(go_on(replay, files, segment, &part.scanned, report))
        }
    }
}

/// Does both, one after the other or on two threads, if there can be another one. Where both fail, the
/// first failure counts.
fn both<A: Send, B>(
    is_beside: bool,
    first: impl Fn() -> Result<A> + Sync,
    second: impl FnOnce() -> Result<B>,
) -> Result<(A, B)> {
    if !is_beside {
        return Ok((first()?, second()?));
    }
    thread::scope(|scope| {
        let Ok(first) = spawn_scoped(scope, "ackline-open", &first) else {
            return Ok((first()?, second()?));
        };
        let second = second();
        let first = first.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((first?, second?))
    })
}

/// Checks that the newest segment is as large as it was made. A crash does not shrink it, and
/// what was cut off may have been promised: no header that is left would tell.
fn check_size(newest: &Segment) -> Result<()> {
    let (expected, found) = (newest.head.file_bytes, newest.file_bytes);
    if found >= expected || mutant::on(Mutant::SkipSizeCheck) {
        return Ok(());
    }
    let (expected, size) = (format!("{expected} bytes"), format!("{found} bytes"));
    Err(Error::corrupt(&newest.name, found, expected, size))
}

fn go_on(
    replay: Replay,
    (bases, older_bytes): (Vec<Position>, u64),
    segment: Segment,
    scanned: &Scan,
    report: OpenReport,
) -> Recovered {
    let index = RwLock::new(replay.index);
    Recovered {
        bases,
        older_bytes,
        active: Active { segment, starts: replay.starts, index },
        state: replay.state,
        tail: scanned.tail,
        end: scanned.end,
        report,
    }
}

fn assemble(
    recovered: Recovered,
    options: Options,
    (storage, promises, removed): (Arc<dyn Storage>, Option<PromiseFile>, Vec<Removed>),
    (clock, draws): (Arc<dyn Clock>, Draws),
    guard: Box<dyn LockGuard>,
) -> Result<Shared> {
    let Recovered { bases, older_bytes, active, state, tail, end, .. } = recovered;
    let log_bytes = older_bytes + active.segment.file_bytes;
    let room_end = active.segment.room_end();
    let read_options = ReadOptions {
        map: options.map,
        open_max: options.open_segments_max,
        recent_bytes: options.recent_bytes,
    };
    let segments = Segments::new(Arc::clone(&storage), bases, active, read_options);
    let oldest = segments.starts(&segments.view(), 0)?;
    let ends_at_open: Vec<u64> = state.topics().iter().map(|topic| topic.next).collect();
    let names: Vec<_> = state.topics().iter().map(|topic| Arc::clone(&topic.name)).collect();
    let mut core = Core::new(state, end, room_end, options.media);
    core.log_bytes = log_bytes;
    for (i, name) in names.into_iter().enumerate() {
        let start = oldest.0.get(i).map_or(0, |start| start.0);
        core.add_topic(name, start, ends_at_open[i]);
    }
    let config = config_of(&options);
    let replicas = replicas(&options, promises.as_ref());
    let resume = Resume { core, tail, segments, storage, clock, draws, config, removed, replicas };
    let commits = Commits::new(resume);
    if !options.media.may_mark(&commits.segments.active().segment, end) {
        // The end shares a sector with records that are safe; the next write must not touch it.
        commits.roll_now()?;
    }
    Ok(Shared {
        commits,
        limits: Limits {
            payload_bytes_max: options.payload_bytes_max,
            topics_max: options.topics_max,
            groups_max: options.groups_max,
            idle_after: options.idle_after,
            ack_delay_max: options.ack_delay_max,
        },
        retention: options.retention,
        groups: Mutex::default(),
        ends_at_open: Mutex::new(ends_at_open),
        detached: AtomicBool::new(false),
        promised_at_open: promises.as_ref().map_or(Epoch(0), |kept| kept.get().epoch),
        promises,
        changing: Mutex::default(),
        proven: Mutex::default(),
        stopping: AtomicBool::new(false),
        lock: Mutex::new(Some(guard)),
        closing: Mutex::new(false),
    })
}

fn config_of(options: &Options) -> Config {
    Config {
        policy: options.sync,
        media: options.media,
        sync_timeout: options.sync_timeout,
        segment_bytes: options.segment_bytes,
        batch_bytes_max: options.batch_bytes_max,
        max_bytes: options.max_bytes,
        background: options.background,
    }
}

/// What the commit machinery needs of replication.
fn replicas(
    options: &Options,
    promises: Option<&PromiseFile>,
) -> Option<(Replicas, Epoch, Position)> {
    let replicator = Arc::clone(options.replicator.as_ref()?);
    let promise = promises?.get();
    let replicas = Replicas {
        outlet: Arc::new(Attached(replicator)),
        timeout: options.replica_timeout,
        unreplicated_bytes_max: options.unreplicated_bytes_max,
        catch_up_bytes_max: options.catch_up_bytes_max,
        may_wait: options.background,
    };
    Some((replicas, promise.epoch, promise.visible))
}

#[cfg(all(test, not(ackline_shuttle)))]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_counts_whether_or_not_the_two_run_side_by_side() {
        let invalid = || Error::InvalidOption { option: "first", reason: String::new() };
        for is_beside in [false, true] {
            let done = both(is_beside, || Ok(1), || Ok(2));
            assert!(matches!(done, Ok((1, 2))), "{done:?}");
            let first = both(is_beside, || Err::<u8, _>(invalid()), || Err::<u8, _>(Error::Closed));
            assert!(matches!(first, Err(Error::InvalidOption { .. })), "{first:?}");
            let second = both(is_beside, || Ok(1), || Err::<u8, _>(Error::Closed));
            assert!(matches!(second, Err(Error::Closed)), "{second:?}");
        }
    }

    #[test]
    fn a_panic_on_the_helping_thread_is_one_of_the_caller() {
        let run = || both(true, || -> Result<u8> { panic!("of the helper") }, || Ok(2));
        let panic = std::panic::catch_unwind(run).expect_err("it panics");
        assert_eq!(panic.downcast_ref(), Some(&"of the helper"));
    }
}
