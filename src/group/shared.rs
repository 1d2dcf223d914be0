//! The state of a group that all its handles and deliveries share.

use std::sync::Arc;
use std::time::Duration;

use crate::commit::queue::TopicRuntime;
use crate::commit::riders::Rider;
use crate::commit::{Class, Commits};
use crate::error::{Error, Result};
use crate::format::entry::Progress;
use crate::format::name;
use crate::mutant::{self, Mutant};
use crate::offset::{GroupId, Offset};
use crate::pending::Ticket;
use crate::segment::cursor::TopicCursor;
use crate::shared::NAME_ENTRY_BYTES;
use crate::state::lease::{HeldBack, Leases, Refused, Reserve};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard};
use crate::topic::Topic;
use crate::watermark::Ack;

use super::{Group, GroupOptions};

/// More than a group can have delivered and not settled: a larger number is not one that was
/// written.
const UNSETTLED_MAX: u64 = 4_000_000;

/// The bytes of a seek entry.
pub(super) const SEEK_BYTES: usize = 32;

/// A group that is open in this process.
#[derive(Debug)]
pub(crate) struct GroupShared {
    pub(crate) id: GroupId,
    pub(crate) name: Arc<str>,
    pub(crate) topic: Arc<TopicRuntime>,
    pub(crate) commits: Arc<Commits>,
    pub(crate) runtime: Mutex<Runtime>,
    /// Everything below is settled: a copy that is read without the lock, and may be behind.
    settled_below: AtomicU64,
    /// Itself, to ride along on writes.
    this: std::sync::Weak<GroupShared>,
}

/// What changes while a group is consumed.
#[derive(Debug)]
pub(crate) struct Runtime {
    pub(crate) leases: Leases,
    pub(crate) cursor: TopicCursor,
    pub(crate) options: GroupOptions,
    /// Changes are announced to ride along on the next write.
    pub(crate) riding: bool,
    /// A raise of the delivery reserve that is being logged.
    pub(crate) reserve: Option<(Reserve, Arc<Ticket>)>,
    /// Messages that are gone, to be told at the next poll.
    pub(crate) lagged: Option<(u64, u64)>,
    /// Why nothing may be delivered or settled any more: the log was closed, and what was logged
    /// last is exact, or this replica does not lead any more.
    pub(crate) ended: Option<Error>,
}

/// Opens a group, creating it if it does not exist.
pub(crate) fn open_group(
    topic: &Topic,
    group: &str,
    options: Option<GroupOptions>,
) -> Result<Group> {
    name::check(group)?;
    let shared = topic.shared();
    shared.check_open()?;
    topic.check_there()?;
    let given = options.unwrap_or_default_for(topic, group)?;
    let id = create(topic, group, &given)?;
    let mut groups = shared.groups.lock();
    // Under the lock: whoever ends this leadership empties the list after it.
    shared.commits.check_leading()?;
    if let Some(known) = groups.get(&id) {
        let known = Arc::clone(known);
        drop(groups);
        if given.explicit {
            known.set_options(given.options);
        }
        return Ok(Group::new(topic, known));
    }
    let core = shared.commits.core.lock();
    // A follower may have given it up since.
    let epoch = core.fenced.unwrap_or_default();
    let state = core.state.group(id).ok_or(Error::Fenced { epoch })?;
    let (name, progress) = (Arc::clone(&state.name), state.progress.clone());
    drop(core);
    let ends = shared.ends_at_open.lock();
    let end_at_open = ends.get(topic.runtime.id.0 as usize).copied().unwrap_or(0);
    drop(ends);
    let now = shared.commits.clock.now();
    let limits = given.options.limits.clone();
    let unsettled = progress.delivered.min(end_at_open).saturating_sub(progress.floor);
    if unsettled.saturating_sub(progress.acked.numbers()) > UNSETTLED_MAX {
        let expected = format!("at most {UNSETTLED_MAX} delivered messages of group {group}");
        let directory = shared.commits.storage.describe();
        return Err(Error::corrupt(directory, 0, expected, unsettled.to_string()));
    }
    let after_crash = !progress.exact;
    let leases = Leases::recover(&progress, end_at_open, after_crash, limits, now);
    let cursor = TopicCursor::new(topic.runtime.id, leases.next());
    let opened = Arc::new_cyclic(|this| GroupShared {
        id,
        name,
        topic: Arc::clone(&topic.runtime),
        commits: Arc::clone(&shared.commits),
        runtime: Mutex::new(Runtime {
            leases,
            cursor,
            options: given.options,
            riding: false,
            reserve: None,
            lagged: None,
            ended: None,
        }),
        settled_below: AtomicU64::new(0),
        this: this.clone(),
    });
    groups.insert(id, Arc::clone(&opened));
    Ok(Group::new(topic, opened))
}

/// Whether the group was opened in this process, so that its options are known.
fn is_open(topic: &Topic, group: &str) -> bool {
    let shared = topic.shared();
    let known = shared.commits.core.lock().state.group_named(topic.runtime.id, group);
    known.is_some_and(|known| shared.groups.lock().contains_key(&known))
}

/// Options and whether the caller gave them.
struct Given {
    options: GroupOptions,
    explicit: bool,
}

trait OrDefault {
    fn unwrap_or_default_for(self, topic: &Topic, group: &str) -> Result<Given>;
}

impl OrDefault for Option<GroupOptions> {
    fn unwrap_or_default_for(self, topic: &Topic, group: &str) -> Result<Given> {
        let explicit = self.is_some();
        let options = self.unwrap_or_default();
        if explicit || !is_open(topic, group) {
            options.check(topic.name(), group)?;
        }
        Ok(Given { options, explicit })
    }
}

/// Finds or makes the group in the log. Durable when it returns.
fn create(topic: &Topic, group: &str, given: &Given) -> Result<GroupId> {
    let (shared, id) = (topic.shared(), topic.runtime.id);
    let may_lag = given.options.may_lag;
    let is_known;
    {
        let core = shared.commits.core.lock();
        if let Some(known) = core.state.group_named(id, group) {
            let same = core.state.group(known).is_some_and(|state| state.may_lag == may_lag);
            if same || !given.explicit {
                return Ok(known);
            }
        }
        is_known = core.state.group_named(id, group).is_some();
    }
    // The start is only for a group that is made; it may be out of range by now.
    let floor = if is_known { 0 } else { topic.resolve(given.options.start)?.0 };
    let groups_max = shared.limits.groups_max;
    let created = shared.commits.commit(
        (Class::Append, Ack::Replicated),
        NAME_ENTRY_BYTES,
        |_| None,
        |enlisting| {
            let state = &enlisting.state;
            if let Some(known) = state.group_named(id, group) {
                enlisting.group(known, id, floor, may_lag, group);
                return Ok(known);
            }
            let groups = state.groups().len();
            if groups >= groups_max {
                let (bytes, max) = (groups as u64 + 1, groups_max as u64);
                return Err(Error::TooLarge { what: "number of groups", bytes, max });
            }
            let made = GroupId(u32::try_from(groups).expect("groups are bounded"));
            enlisting.group(made, id, floor, may_lag, group);
            Ok(made)
        },
    )?;
    // A group that was made must not be forgotten: it would begin elsewhere the next time.
    crate::shared::sync(&shared.commits)?;
    Ok(created)
}

/// What a refused outcome is called outside.
pub(crate) fn refusal(refused: Refused, offset: Offset) -> Error {
    match refused {
        Refused::Stale => Error::StaleLease { offset },
        Refused::AlreadySettled => Error::AlreadyAcked { offset },
        Refused::NotLeased => Error::NotLeased { offset },
    }
}

/// The bytes that a progress entry takes at most.
pub(crate) fn progress_bytes(progress: &Progress) -> usize {
    64 + 16 * progress.acked.len() + 20 * progress.attempts.len()
}

impl GroupShared {
    /// Waits until a commit is as safe as the policy says.
    pub(crate) fn wait(&self, ticket: &Arc<Ticket>) -> Result<()> {
        self.commits.wait_safe(ticket)
    }

    /// Announces that something is to be logged, within the time that acks may be delayed.
    pub(crate) fn changed(&self, runtime: &mut Runtime) {
        if !runtime.riding && runtime.leases.is_dirty() {
            runtime.riding = true;
            self.commits.add_rider(self.this.clone());
        }
    }

    /// Lets go of a group that was changed since `before`: announces what is to be logged, and
    /// wakes those whom the bounds held back, if there is room now.
    pub(crate) fn let_go(&self, mut runtime: MutexGuard<'_, Runtime>, before: HeldBack) {
        let is_eased = self.changed_since(&mut runtime, before);
        drop(runtime);
        if is_eased {
            self.topic.wake();
        }
    }

    /// Announces what is to be logged; says whether those whom the bounds held back are to be
    /// woken, once no lock is held.
    pub(crate) fn changed_since(&self, runtime: &mut Runtime, before: HeldBack) -> bool {
        self.changed(runtime);
        self.note_floor(runtime);
        before.is_eased(runtime.leases.held_back())
    }

    /// Queues what is not logged yet, for the caller to commit; returns the ticket of the write that
    /// carries it.
    pub(crate) fn log_delta(&self, runtime: &mut Runtime) -> Result<Option<Arc<Ticket>>> {
        let Some(delta) = runtime.leases.take_delta() else { return Ok(None) };
        let (bytes, mut left) = (progress_bytes(&delta), Some(delta));
        let enlisted = self.commits.enlist_to_commit(Class::Progress, bytes, |enlisting| {
            enlisting.progress(self.id, left.take().expect("it is queued once"));
            Ok(())
        });
        if let Some(delta) = left {
            // It was not queued, and the error says why.
            runtime.leases.put_back(delta);
            self.changed(runtime);
        }
        enlisted.map(|((), ticket)| Some(ticket))
    }

    /// Queues a reserve that later polls need. If it cannot be logged now, one of those logs it and says
    /// why it cannot.
    pub(super) fn log_reserve(&self, runtime: &mut Runtime, reserve: Reserve) {
        let progress = reserve.to_progress();
        let bytes = progress_bytes(&progress);
        let enlisted = self.commits.enlist(Class::Progress, bytes, |enlisting| {
            enlisting.progress(self.id, progress);
            Ok(())
        });
        if let Ok(((), ticket)) = enlisted {
            runtime.reserve = Some((reserve, ticket));
        }
    }

    /// Ends all leases and logs exactly how far the group is.
    pub(crate) fn close(&self) -> Result<()> {
        let mut runtime = self.runtime.lock();
        runtime.ended = Some(Error::Closed);
        let progress = runtime.leases.close(self.commits.clock.now());
        let bytes = progress_bytes(&progress);
        self.commits.enlist(Class::Progress, bytes, |enlisting| {
            enlisting.progress(self.id, progress);
            Ok(())
        })?;
        Ok(())
    }

    /// Tells those who take no lock how far the group is.
    pub(super) fn note_floor(&self, runtime: &Runtime) {
        self.settled_below.store(runtime.leases.floor(), Ordering::Release);
    }

    /// Whether an offset that was delivered is settled for certain, so that nothing need be done to
    /// end its lease. A seek that unsettles it has ended the lease as well.
    pub(super) fn is_settled(&self, offset: u64) -> bool {
        offset < self.settled_below.load(Ordering::Acquire)
    }

    /// When the group may have something for a consumer that sleeps now.
    pub(crate) fn next_event(&self) -> Option<Duration> {
        self.runtime.lock().leases.next_event()
    }

    /// Runs `change` on the leases for an outcome of a delivery.
    pub(crate) fn settle(
        &self,
        offset: u64,
        change: impl FnOnce(&mut Leases) -> std::result::Result<(), Refused>,
    ) -> Result<()> {
        self.commits.latch.check()?;
        let mut runtime = self.open_runtime()?;
        let before = runtime.leases.held_back();
        change(&mut runtime.leases).map_err(|refused| refusal(refused, Offset(offset)))?;
        self.let_go(runtime, before);
        Ok(())
    }

    /// The group's runtime, unless the log is closed.
    pub(crate) fn open_runtime(&self) -> Result<MutexGuard<'_, Runtime>> {
        let runtime = self.runtime.lock();
        match &runtime.ended {
            Some(error) => Err(error.clone()),
            None => Ok(runtime),
        }
    }

    /// The group's runtime, after the messages that retention has deleted were skipped.
    pub(super) fn caught_up_runtime(&self) -> Result<MutexGuard<'_, Runtime>> {
        let mut runtime = self.open_runtime()?;
        if let Some((reserve, ticket)) = &runtime.reserve
            && let early = mutant::on(Mutant::ReserveUsedEarly).then_some(Ok(()))
            && let Some(result) = ticket.awaited(Ack::Replicated).result().or(early)
        {
            let reserve = *reserve;
            runtime.reserve = None;
            if result.is_ok() {
                runtime.leases.reserve_logged(reserve);
            }
        }
        let start = self.topic.start.load(Ordering::Acquire);
        let floor = runtime.leases.floor();
        if floor < start {
            runtime.leases.skip_to(start);
            runtime.lagged = Some((runtime.lagged.map_or(floor, |lagged| lagged.0), start));
            self.changed(&mut runtime);
        }
        match runtime.lagged.take() {
            Some((from, to)) => Err(Error::Lagged { from: Offset(from), to: Offset(to) }),
            None => Ok(runtime),
        }
    }

    fn set_options(&self, options: GroupOptions) {
        let mut runtime = self.runtime.lock();
        let before = runtime.leases.held_back();
        runtime.leases.set_limits(options.limits.clone());
        runtime.options = options;
        self.let_go(runtime, before);
    }
}

impl Rider for GroupShared {
    fn ride(&self) {
        // Whoever holds the group may be waiting for the very write that this rides on.
        let Some(mut runtime) = self.runtime.try_lock() else {
            self.commits.add_rider(self.this.clone());
            return;
        };
        runtime.riding = mutant::on(Mutant::RiderLost);
        if runtime.ended.is_some() {
            // What it has not logged by now is of an earlier leadership, and its offsets may be
            // other messages since.
            return;
        }
        let Some(delta) = runtime.leases.take_delta() else { return };
        let logged = delta.clone();
        let bytes = progress_bytes(&delta);
        if !self.commits.try_enlist(bytes, |enlisting| enlisting.progress(self.id, logged)) {
            runtime.leases.put_back(delta);
            self.changed(&mut runtime);
        }
    }
}
