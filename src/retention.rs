//! What is deleted when: whole segments, oldest first, never the one that is written to.

use std::collections::HashMap;
use std::time::Duration;

use crate::commit::Commits;
use crate::error::{Error, Result};
use crate::format::name;
use crate::mutant::{self, Mutant};
use crate::offset::{Position, TopicId};
use crate::segment::{Starts, View};
use crate::shared::{Shared, sync};
use crate::sync::atomic::Ordering;

/// When segments are deleted. Default: once all groups of each topic in them have consumed them.
///
/// A topic without any group has not been consumed: its messages are kept.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use ackline::Retention;
///
/// // Keep a week, consumed or not, and at most 50 GiB.
/// let retention = Retention::keep_consumed()
///     .max_age(Duration::from_secs(7 * 24 * 3600))
///     .max_bytes(50 << 30);
/// # drop(retention);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    delete_consumed: bool,
    max_age: Option<Duration>,
    max_bytes: Option<u64>,
}

impl Default for Retention {
    fn default() -> Self {
        Self::delete_consumed()
    }
}

impl Retention {
    /// Deletes what all groups have consumed.
    pub const fn delete_consumed() -> Self {
        Self { delete_consumed: true, max_age: None, max_bytes: None }
    }

    /// Keeps what was consumed, so that it can be read again, up to
    /// [`Options::max_bytes`](crate::Options::max_bytes): at that limit it is deleted.
    pub const fn keep_consumed() -> Self {
        Self { delete_consumed: false, max_age: None, max_bytes: None }
    }

    /// Deletes what is older, *consumed or not*: a group that needed it gets
    /// [`Error::Lagged`].
    #[must_use]
    pub const fn max_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age);
        self
    }

    /// Deletes the oldest segments while all together are larger, *consumed or not*: a group
    /// that needed them gets [`Error::Lagged`]. To refuse appends instead, use
    /// [`Options::max_bytes`](crate::Options::max_bytes).
    #[must_use]
    pub const fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = Some(bytes);
        self
    }
}

/// What is known of the oldest segment.
struct Oldest {
    /// Where each topic stands at its beginning and at its end.
    from: Starts,
    until: Starts,
    /// When the segment after it was made.
    ended_ms: u64,
    log_bytes: u64,
    /// The limit is reached, so that appends are refused.
    at_limit: bool,
}

/// The floor of each group and whether it may lag, by topic.
pub(crate) type Floors = HashMap<TopicId, Vec<(u64, bool)>>;

/// Whether the oldest segment is to be deleted.
fn is_over(retention: &Retention, oldest: &Oldest, floors: &Floors, now_ms: u64) -> bool {
    let age = now_ms.saturating_sub(oldest.ended_ms);
    let too_old = retention.max_age.is_some_and(|max| u128::from(age) > max.as_millis());
    let too_large = retention.max_bytes.is_some_and(|max| oldest.log_bytes > max);
    if too_old || too_large {
        return true;
    }
    let topics = (0..).map(TopicId).take(oldest.until.0.len());
    let mut held = topics.filter(|topic| oldest.until.next(*topic) > oldest.from.next(*topic));
    held.all(|topic| {
        let end = oldest.until.next(topic);
        let groups = floors.get(&topic).map_or(&[][..], Vec::as_slice);
        let consumed = retention.delete_consumed || oldest.at_limit;
        (!groups.is_empty() || mutant::on(Mutant::UnreadTopicDeleted))
            && groups.iter().all(|(floor, may_lag)| {
                let floor = *floor + u64::from(mutant::on(Mutant::NeededSegmentDeleted));
                let may_lag = *may_lag || mutant::on(Mutant::MayLagIgnored);
                (consumed && floor >= end) || (oldest.at_limit && may_lag)
            })
    })
}

/// Deletes what retention no longer keeps; returns the number of segments.
pub(crate) fn run(shared: &Shared) -> Result<usize> {
    let commits = &*shared.commits;
    let mut deleted = 0;
    loop {
        shared.check_open()?;
        remove_undeleted(commits)?;
        let view = commits.segments.view();
        if view.bases.len() < 2 {
            return Ok(deleted);
        }
        let oldest = oldest(commits, &view)?;
        let Some(floors) = floors_to_act_upon(shared) else { return Ok(deleted) };
        if is_needed_elsewhere(commits, &view) {
            return Ok(deleted);
        }
        if !is_over(&shared.retention, &oldest, &floors, commits.clock.wall_ms()) {
            return Ok(deleted);
        }
        // The progress by which the segment may go must be on disk before the segment goes.
        if !mutant::on(Mutant::DeletedBeforeSync) {
            sync(commits)?;
        }
        delete_oldest(commits, &view, &oldest.until)?;
        deleted += 1;
    }
}

/// Deletes the oldest segments that lie wholly below `end`, as far as readers see; returns where
/// the log begins then.
pub(crate) fn purge(shared: &Shared, end: Position) -> Result<Position> {
    let commits = &*shared.commits;
    let _keeping = commits.keeping.lock();
    loop {
        shared.check_open()?;
        remove_undeleted(commits)?;
        let view = commits.segments.view();
        let bound = end.min(commits.marks.visible());
        if view.bases.len() < 2 || view.bases[1] > bound {
            return Ok(view.bases[0]);
        }
        let until = commits.segments.starts(&view, 1)?;
        delete_oldest(commits, &view, &until)?;
    }
}

fn oldest(commits: &Commits, view: &View) -> Result<Oldest> {
    let ended_ms = if view.bases.len() == 2 {
        view.active.segment.head.created_ms
    } else {
        commits.segments.sealed(view, 1)?.created_ms()
    };
    let log_bytes = commits.core.lock().log_bytes;
    let next = commits.next_segment_bytes();
    Ok(Oldest {
        from: commits.segments.starts(view, 0)?,
        until: commits.segments.starts(view, 1)?,
        ended_ms,
        log_bytes,
        at_limit: commits.config.max_bytes.is_some_and(|max| log_bytes + next > max),
    })
}

fn floors(commits: &Commits) -> Floors {
    floors_now(commits).1
}

/// How far the groups are, and the end of the log that says so.
fn floors_now(commits: &Commits) -> (Position, Floors) {
    let core = commits.core.lock();
    let mut floors = Floors::new();
    for group in core.state.groups() {
        floors.entry(group.topic).or_default().push((group.progress.floor, group.may_lag));
    }
    (core.end, floors)
}

/// How far the groups are, as far as it may be acted upon: replicas must have it, too. Otherwise
/// the messages could be gone here when another leader's groups still need them.
fn floors_to_act_upon(shared: &Shared) -> Option<Floors> {
    let commits = &shared.commits;
    if commits.replicas.is_none() {
        return Some(floors(commits));
    }
    let mut proven = shared.proven.lock();
    let visible = commits.marks.visible();
    let (at, known) = proven.get_or_insert_with(|| floors_now(commits));
    if *at > visible {
        return None;
    }
    let known = std::mem::take(known);
    *proven = None;
    Some(known)
}

/// Whether the oldest segment holds what is not safe elsewhere, or what a replica lacks that does
/// not lag too far.
fn is_needed_elsewhere(commits: &Commits, view: &View) -> bool {
    let Some(replicas) = &commits.replicas else { return false };
    let end = view.bases[1];
    let kept_from = commits.end().0.saturating_sub(replicas.catch_up_bytes_max);
    let lacked = replicas.outlet.needed_from().is_some_and(|from| from < end);
    end > commits.marks.visible() || (lacked && end.0 > kept_from)
}

fn delete_oldest(commits: &Commits, view: &View, until: &Starts) -> Result<()> {
    let base = view.bases[0];
    let bytes = commits.segments.sealed(view, 0)?.file_bytes();
    // Readers that come late are told where the topic goes on.
    let topics: Vec<_> = {
        let core = commits.core.lock();
        core.topics.iter().map(|slot| std::sync::Arc::clone(&slot.runtime)).collect()
    };
    for topic in &topics {
        if !mutant::on(Mutant::StartNotRaised) {
            topic.start.fetch_max(until.next(topic.id), Ordering::AcqRel);
        }
    }
    commits.segments.forget_oldest();
    *commits.undeleted.lock() = Some((base, bytes));
    remove_files(commits, base, bytes)?;
    for topic in topics {
        topic.wake();
    }
    Ok(())
}

/// One that could not be removed goes before the next: a log must not get a hole.
fn remove_undeleted(commits: &Commits) -> Result<()> {
    let undeleted = *commits.undeleted.lock();
    undeleted.map_or(Ok(()), |(base, bytes)| remove_files(commits, base, bytes))
}

/// Removes the files of a segment that is forgotten already.
fn remove_files(commits: &Commits, base: Position, bytes: u64) -> Result<()> {
    let (storage, file_name) = (&*commits.storage, name::segment(base));
    match storage.remove(&name::index(base)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::io("remove", name::index(base), error));
        }
        _ => {}
    }
    match storage.remove(&file_name) {
        // An error leaves it open whether the call took effect.
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::io("remove", &file_name, error));
        }
        _ => {}
    }
    // One name at a time: if a crash kept the removal of a later segment but not this one, the
    // log would have a hole.
    if !mutant::on(Mutant::RemovalNotSynced) {
        commits.sync_names()?;
    }
    let mut core = commits.core.lock();
    core.log_bytes = core.log_bytes.saturating_sub(bytes);
    drop(core);
    *commits.undeleted.lock() = None;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 3_600_000;

    fn oldest(at_limit: bool) -> Oldest {
        // Topic 0 has messages 0..10 in the segment, topic 1 none.
        let (from, until) = (Starts(vec![(0, 0), (5, 0)]), Starts(vec![(10, 0), (5, 0)]));
        Oldest { from, until, ended_ms: 0, log_bytes: 1000, at_limit }
    }

    fn floors(groups: &[(u64, bool)]) -> Floors {
        if groups.is_empty() { Floors::new() } else { [(TopicId(0), groups.to_vec())].into() }
    }

    fn check(retention: &Retention, at_limit: bool, groups: &[(u64, bool)], expected: bool) {
        let over = is_over(retention, &oldest(at_limit), &floors(groups), HOUR_MS);
        assert_eq!(over, expected, "{retention:?} {at_limit} {groups:?}");
    }

    #[test]
    fn a_segment_goes_when_every_group_has_consumed_it() {
        let consumed = Retention::delete_consumed();
        check(&consumed, false, &[(10, false)], true);
        check(&consumed, false, &[(10, false), (9, false)], false);
        check(&Retention::keep_consumed(), false, &[(10, false)], false);
    }

    #[test]
    fn a_topic_without_groups_is_kept() {
        check(&Retention::delete_consumed(), false, &[], false);
        check(&Retention::delete_consumed(), true, &[], false);
    }

    #[test]
    fn age_and_size_delete_what_nobody_has_consumed() {
        let short = Retention::keep_consumed().max_age(Duration::from_secs(60));
        check(&short, false, &[(0, false)], true);
        let long = Retention::keep_consumed().max_age(Duration::from_secs(7200));
        check(&long, false, &[(0, false)], false);
        check(&Retention::keep_consumed().max_bytes(999), false, &[(0, false)], true);
        check(&Retention::keep_consumed().max_bytes(1000), false, &[(0, false)], false);
    }

    #[test]
    fn at_the_limit_only_groups_that_may_lag_lose_messages() {
        let consumed = Retention::delete_consumed();
        check(&consumed, true, &[(0, true)], true);
        check(&consumed, true, &[(0, true), (0, false)], false);
        check(&consumed, true, &[(0, true), (10, false)], true);
        check(&consumed, false, &[(0, true)], false);
    }
}
