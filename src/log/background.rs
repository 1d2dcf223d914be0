//! The background threads. One commits what nobody waits for: submits, delayed
//! acknowledgements, intervals, markers. Another makes and deletes files. The third, of logs with a
//! replicator only, gives it the time. Each is a loop around a function that does one round, so
//! that a simulation can run the rounds itself.

use std::sync::Arc;
use std::time::Duration;

use crate::commit::policy::SyncPolicy;
use crate::commit::{Class, Commits, Marked};
use crate::error::{Error, Result};
use crate::format::frame::Kind;
use crate::retention;
use crate::shared::Shared;
use crate::sync::atomic::Ordering;
use crate::sync::thread::{Builder, JoinHandle};

/// The file keeper looks after retention at least this often.
const FILES_EVERY: Duration = Duration::from_secs(1);
/// Replicators are given the time this often.
const TICK_EVERY: Duration = Duration::from_millis(100);
/// Tasks that wait for a lease to end or a retry to come due are looked after this often.
const TIMERS_EVERY: Duration = Duration::from_millis(10);

/// While records keep coming, the committer looks this often for those that nobody waits for, rather
/// than be woken for each: a wake-up takes longer than an append.
const COME_BACK_AFTER: Duration = Duration::from_micros(500);

/// The thread of a log with a replicator.
const TICKS: &str = "ackline-ticks";

type Run = fn(&Shared);

pub(super) fn start(shared: &Arc<Shared>) -> Result<Vec<JoinHandle<()>>> {
    let spawn = |name: &str, run: Run| {
        let shared = Arc::clone(shared);
        let spawned = Builder::new().name(name.to_owned()).spawn(move || run(&shared));
        spawned.map_err(|e| Error::io("start", format!("thread {name}"), e))
    };
    let mut threads = Vec::new();
    let wanted: [(&str, Run); 3] =
        [("ackline-files", run_files), (TICKS, run_ticks), ("ackline-commit", run_commits)];
    let is_replicated = shared.commits.replicas.is_some();
    for (name, run) in wanted.into_iter().filter(|(name, _)| is_replicated || *name != TICKS) {
        match spawn(name, run) {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                shared.stopping.store(true, Ordering::Release);
                shared.detached.store(true, Ordering::Release);
                shared.commits.files.notify();
                return Err(error);
            }
        }
    }
    Ok(threads)
}

fn run_commits(shared: &Shared) {
    let commits = &shared.commits;
    let mut seen = 0;
    loop {
        let observed = commits.work.observe();
        if shared.stopping.load(Ordering::Acquire) {
            break;
        }
        let sleep = commit_and_attend(shared, &mut seen);
        commits.work.wait(observed, sleep);
    }
    // The last handle is gone, or the log is closed already. A failure is latched, and the next
    // open recovers; there is nobody left to tell.
    drop(shared.close());
    commits.run_callbacks();
}

/// A round of the committer, and how long it may sleep behind it.
fn commit_and_attend(shared: &Shared, seen: &mut u64) -> Option<Duration> {
    let commits = &shared.commits;
    let sleep = guarded(shared, |shared| commit_once(shared, Commits::drain_due)).flatten();
    let back_after = if commits.attend(seen) {
        Some(COME_BACK_AFTER)
    } else {
        // Who announced a change up to now may have relied on another round.
        commits.expect_riders(shared.limits.ack_delay_max)
    };
    sleep.into_iter().chain(back_after).min()
}

fn run_files(shared: &Shared) {
    let commits = &shared.commits;
    commits.close_removed();
    loop {
        let observed = commits.files.observe();
        if shared.stopping.load(Ordering::Acquire) {
            return;
        }
        // What fails here is tried again at the next round, or has poisoned the log.
        drop(guarded(shared, sync_behind));
        drop(guarded(shared, keep_files));
        commits.files.wait(observed, Some(FILES_EVERY));
    }
}

/// Gives the replicator the time, on a thread of its own: it is what resends, and must not wait for
/// a disk, nor for a callback.
fn run_ticks(shared: &Shared) {
    loop {
        let observed = shared.commits.files.observe();
        // While the log is closed, copies of what was written last may still be made.
        if shared.detached.load(Ordering::Acquire) {
            return;
        }
        if guarded(shared, tick).is_none() {
            return;
        }
        shared.commits.files.wait(observed, Some(TICK_EVERY));
    }
}

pub(super) fn tick(shared: &Shared) {
    if let Some(replicas) = &shared.commits.replicas {
        replicas.outlet.tick(shared.commits.clock.monotonic());
    }
}

/// Runs a round. A replicator's panic in it must not end the thread unseen: nothing more is promised.
fn guarded<T>(shared: &Shared, round: impl FnOnce(&Shared) -> T) -> Option<T> {
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| round(shared)));
    if caught.is_err() {
        shared.commits.fail(&Error::Closed);
    }
    caught.ok()
}

/// One round of the committer; returns how long it may sleep. `drain` commits what is queued.
pub(super) fn commit_once(shared: &Shared, drain: fn(&Commits)) -> Option<Duration> {
    let commits = &shared.commits;
    commits.run_callbacks();
    drain(commits);
    if commits.latch.get().is_some() {
        commits.run_callbacks();
        return None;
    }
    let now = commits.clock.monotonic();
    let mut next: Option<Duration> = None;
    let mut due = |at: Duration| {
        if at > now {
            next = Some(next.map_or(at, |next| next.min(at)));
        }
        at <= now
    };
    if let SyncPolicy::Interval { every, bytes } = commits.config.policy
        && let Some((since, unsynced)) = commits.unsynced()
        && (unsynced >= bytes || due(since.saturating_add(every)))
    {
        // A failure poisons the log, which answers everyone.
        drop(commits.sync_written());
    }
    if let Some(since) = commits.riders_since()
        && due(since + shared.limits.ack_delay_max)
    {
        // Where there is no room for them, they stay aboard.
        drop(shared.log_groups());
        commits.board_riders();
        commits.drain();
        if commits.riders_since().is_some() {
            // Nobody announces them again: they wait for another round.
            due(now + shared.limits.ack_delay_max);
        }
    }
    // Under `Never` little is known to be durable: there is nothing to mark.
    if commits.config.policy != SyncPolicy::Never
        && let Some(since) = commits.unmarked_since()
    {
        let at = since + shared.limits.idle_after;
        if due(at) && !matches!(commits.mark_end(Kind::Idle), Ok(Marked::Done)) {
            due(now + shared.limits.idle_after);
        }
    }
    if wake_timers(shared, now) {
        due(now + TIMERS_EVERY);
    }
    commits.run_callbacks();
    next.map(|next| next.saturating_sub(now))
}

/// Wakes the tasks for which time alone has something; says whether any task waits.
fn wake_timers(shared: &Shared, now: Duration) -> bool {
    let groups: Vec<_> = shared.groups.lock().values().cloned().collect();
    let mut waiting = false;
    for group in groups {
        if group.topic.wakers.lock().is_empty() {
            continue;
        }
        waiting = true;
        if group.next_event().is_some_and(|event| event <= now) {
            group.topic.wake();
        }
    }
    waiting
}

/// Under `Never`, syncs what was written, once it is so much that the end of the segment would take
/// long.
fn sync_behind(shared: &Shared) -> Result<()> {
    let commits = &shared.commits;
    let policy = commits.config.policy;
    let is_due = policy == SyncPolicy::Never
        && commits.unsynced().is_some_and(|(_, bytes)| bytes >= policy.synced_behind());
    if is_due { commits.sync_written() } else { Ok(()) }
}

/// One round of the file keeper.
pub(super) fn keep_files(shared: &Shared) -> Result<()> {
    let commits = &shared.commits;
    let _keeping = commits.keeping.lock();
    commits.close_removed();
    shared.check_open()?;
    shared.keep_visible()?;
    commits.write_sidecars();
    let retained = retention::run(shared);
    // A log that is poisoned makes no more files, and says why.
    commits.latch.check()?;
    if commits.wants_spare() {
        match commits.prepare_spare(Class::Append, commits.next_segment_bytes()) {
            // The disk is full: appends say so when they need the room.
            Ok(()) | Err(Error::Full { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    retained.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use crate::offset::Offset;
    use crate::options::Options;
    use crate::storage::sim::{Call, Fault, SimClock, SimDisk};

    #[test]
    fn a_round_that_finds_no_room_for_an_acknowledgement_does_not_wake_itself() {
        let (disk, clock) = (SimDisk::new(1), SimClock::new());
        let options = Options::new().segment_bytes(4096).simulated(Arc::new(clock.clone()), 1);
        let log = options.open_on(disk.storage()).expect("opens");
        let topic = log.topic("t").expect("a topic");
        let group = topic.group("g").expect("a group");
        for i in 0..200 {
            topic.append(format!("{i}")).expect("appends");
        }
        disk.set_capacity(Some(0));
        // Acknowledgements go on until there is no room left for them either.
        let full = loop {
            let mut polled = group.poll(1, Duration::ZERO).unwrap_or_default();
            let Some(delivery) = polled.pop() else { break false };
            delivery.ack().expect("acks");
            match group.commit() {
                Ok(()) => {}
                Err(Error::Full { .. }) => break true,
                Err(error) => panic!("{error}"),
            }
        };
        assert!(full, "there is no room");
        let shared = &log.handle.shared;
        clock.advance(shared.limits.ack_delay_max);
        let before = shared.commits.work.observe();
        let sleep = commit_once(shared, Commits::drain);
        assert_eq!(shared.commits.work.observe(), before, "nobody else has anything to do");
        assert!(sleep.is_some_and(|sleep| !sleep.is_zero()), "it comes back: {sleep:?}");
        let mut seen = 0;
        for _ in 0..3 {
            let sleep = commit_and_attend(shared, &mut seen);
            assert!(sleep.is_some_and(|sleep| !sleep.is_zero()), "it does not spin: {sleep:?}");
        }
    }

    #[test]
    fn what_cannot_be_logged_any_more_does_not_keep_the_committer_awake() {
        let (disk, clock) = (SimDisk::new(1), SimClock::new());
        let options = Options::new().simulated(Arc::new(clock.clone()), 1);
        let log = options.open_on(disk.storage()).expect("opens");
        let topic = log.topic("t").expect("a topic");
        let group = topic.group("g").expect("a group");
        topic.append("first").expect("appends");
        let mut polled = group.poll(1, Duration::ZERO).expect("polls");
        polled.pop().expect("it was leased").ack().expect("acks");
        let shared = &log.handle.shared;
        shared.commits.fail(&Error::io("sync", "a segment", std::io::Error::other("it is gone")));
        clock.advance(2 * shared.limits.ack_delay_max);
        let mut seen = 0;
        commit_and_attend(shared, &mut seen);
        assert_eq!(commit_and_attend(shared, &mut seen), None);
    }

    #[test]
    fn acknowledgements_that_keep_coming_wake_the_committer_once() {
        let (disk, clock) = (SimDisk::new(1), SimClock::new());
        let options = Options::new().simulated(Arc::new(clock.clone()), 1);
        let log = options.open_on(disk.storage()).expect("opens");
        let (topic, shared) = (log.topic("t").expect("a topic"), &log.handle.shared);
        let group = topic.group("g").expect("a group");
        topic.append_batch(["1", "2", "3", "4"]).expect("appends");
        let mut polled = group.poll(4, Duration::ZERO).expect("polls").into_iter();
        let (work, mut seen) = (&shared.commits.work, 0);
        let mut is_woken_by_next = || {
            let before = work.observe();
            polled.next().expect("it was leased").ack().expect("acks");
            let is_woken = work.observe() != before;
            group.commit().expect("commits");
            is_woken
        };
        // What the poll has logged ahead is left to the committer, which is awake for it.
        while shared.commits.attend(&mut seen) {
            commit_once(shared, Commits::drain);
        }
        commit_and_attend(shared, &mut seen);
        assert!(is_woken_by_next(), "nobody looks after it");
        let sleep = commit_and_attend(shared, &mut seen);
        assert!(sleep.is_some_and(|sleep| sleep <= shared.limits.ack_delay_max), "{sleep:?}");
        assert!(!is_woken_by_next());
        clock.advance(shared.limits.ack_delay_max);
        commit_and_attend(shared, &mut seen);
        assert!(!is_woken_by_next(), "more have come since it looked");
        for _ in 0..2 {
            clock.advance(shared.limits.ack_delay_max);
            commit_and_attend(shared, &mut seen);
        }
        assert!(is_woken_by_next(), "none have come for a while");
    }

    #[test]
    fn an_acknowledgement_that_is_overdue_when_the_committer_goes_to_sleep_is_not_forgotten() {
        let (disk, clock) = (SimDisk::new(1), SimClock::new());
        let options = Options::new().simulated(Arc::new(clock.clone()), 1);
        let log = options.open_on(disk.storage()).expect("opens");
        let (topic, shared) = (log.topic("t").expect("a topic"), &log.handle.shared);
        let group = topic.group("g").expect("a group");
        topic.append("1").expect("appends");
        let delay = shared.limits.ack_delay_max;
        commit_once(shared, Commits::drain);
        // It comes behind the look for what is due, and the rest of the round takes long.
        let mut polled = group.poll(1, Duration::ZERO).expect("polls");
        polled.pop().expect("it was leased").ack().expect("acks");
        clock.advance(2 * delay);
        assert_eq!(shared.commits.expect_riders(delay), Some(delay));
        clock.advance(delay);
        commit_once(shared, Commits::drain);
        assert_eq!(shared.commits.riders_since(), None, "it is written");
    }

    /// How many calls a round makes in which it prepares the next segment, for payloads of a size.
    fn calls_to_prepare(policy: SyncPolicy, payload_bytes: usize) -> u64 {
        let (disk, clock) = (SimDisk::new(1), SimClock::new());
        let options = Options::new().sync(policy).segment_bytes(1 << 20);
        let options = options.simulated(Arc::new(clock), 1);
        let log = options.open_on(disk.storage()).expect("opens");
        let topic = log.topic("t").expect("a topic");
        let shared = &log.handle.shared;
        while !shared.commits.wants_spare() {
            topic.append(vec![7; payload_bytes]).expect("appends");
        }
        let before = disk.calls();
        keep_files(shared).expect("prepares");
        assert!(shared.commits.core.lock().spare.is_some(), "there is a spare");
        disk.calls() - before
    }

    #[test]
    fn the_next_segment_is_filled_with_zeros_only_ahead_of_small_commits() {
        let (default, never) = (SyncPolicy::default(), SyncPolicy::Never);
        let filled = calls_to_prepare(default, 1000);
        assert_eq!(calls_to_prepare(never, 1000), filled);
        assert_eq!(calls_to_prepare(default, 100_000), filled);
        let reserved = calls_to_prepare(default, 700_000);
        assert!(reserved < filled, "{reserved}, not {filled}");
        assert_eq!(calls_to_prepare(never, 100_000), reserved);
    }

    #[test]
    fn what_is_never_synced_by_itself_is_synced_behind_a_long_run_of_writes() {
        let (disk, clock) = (SimDisk::new(1), SimClock::new());
        let options = Options::new().sync(SyncPolicy::Never).simulated(Arc::new(clock), 1);
        let log = options.open_on(disk.storage()).expect("opens");
        let (topic, shared) = (log.topic("t").expect("a topic"), &log.handle.shared);
        let (marks, mut synced) = (&shared.commits.marks, 0);
        // The first segments are small, and each is synced once it is full.
        for _ in 0..30 {
            let observed = shared.commits.files.observe();
            topic.append(vec![7; 3 << 20]).expect("appends");
            let (_, unsynced) = shared.commits.unsynced().expect("nothing has synced it");
            let is_told = shared.commits.files.observe() > observed;
            commit_once(shared, Commits::drain);
            sync_behind(shared).expect("syncs");
            let is_due = unsynced >= 8 << 20;
            assert!(is_told || !is_due);
            assert_eq!(marks.durable() == marks.written(), is_due, "{unsynced} B");
            synced += usize::from(is_due);
        }
        assert!(synced > 1);
    }

    #[test]
    fn a_round_that_poisons_the_log_answers_that_and_makes_no_file() {
        let (disk, clock) = (SimDisk::new(1), SimClock::new());
        let options = Options::new().segment_bytes(4096).simulated(Arc::new(clock), 1);
        let log = options.open_on(disk.storage()).expect("opens");
        let topic = log.topic("t").expect("a topic");
        let group = topic.group("g").expect("a group");
        let shared = &log.handle.shared;
        // A segment that nobody needs, and an active one that is more than half full.
        while shared.commits.segments.view().bases.len() < 3 || !shared.commits.wants_spare() {
            topic.append([7; 200].as_slice()).expect("appends");
        }
        let last = Offset(topic.offsets().end.0 - 1);
        group.commit_through(last).expect("commits");
        disk.fail_next(Call::SyncDirectory, Fault::Io);
        disk.fail_next(Call::Create, Fault::Io);
        let answer = keep_files(shared);
        assert!(matches!(answer, Err(Error::Poisoned { .. })), "{answer:?}");
    }
}
