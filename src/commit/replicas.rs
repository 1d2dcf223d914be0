//! What a log with a replicator does besides: who leads, what waits for replicas, and what readers
//! are shown once it is safe there.
//!
//! This module knows nothing of transports: it talks to an [`Outlet`].

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::mutant::{self, Mutant};
use crate::offset::{Epoch, Position};
use crate::pending::{Committer, Late, Ticket};
use crate::segment::frames::Frames;
use crate::watermark::Ack;

use super::queue::TopicRuntime;
use super::{Class, Commits};

/// The bytes of an entry that begins an epoch.
const EPOCH_BYTES: usize = 24;

/// Where frames go besides the disk.
pub(crate) trait Outlet: Send + Sync + fmt::Debug {
    /// In the order of the log, beside the local sync, under the writer's lock.
    fn offer(&self, frames: &Frames);
    /// The local copy is as durable as the policy makes it, under the writer's lock.
    fn synced(&self, epoch: Epoch, end: Position);
    /// After each commit, under no lock.
    fn settle(&self);
    /// Fails if there are too few replicas for an append.
    fn check_available(&self) -> Result<()>;
    /// From where on a replica needs frames.
    fn needed_from(&self) -> Option<Position>;
    fn tick(&self, now: Duration);
    fn detach(&self, within: Duration);
}

/// What is configured of replication.
#[derive(Clone, Debug)]
pub(crate) struct Replicas {
    pub(crate) outlet: Arc<dyn Outlet>,
    pub(crate) timeout: Duration,
    pub(crate) unreplicated_bytes_max: u64,
    pub(crate) catch_up_bytes_max: u64,
    /// Whether a caller may wait. In a simulation nothing would happen meanwhile.
    pub(crate) may_wait: bool,
}

/// Who leads, as far as this replica knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// There is no replicator.
    Alone,
    /// This log leads. Nothing counts as replicated before `from`, where the first frame of the
    /// epoch ends.
    Leading { epoch: Epoch, from: Position },
    /// This log has promised to follow that epoch.
    Following { promised: Epoch },
}

/// What waits to be seen or answered, in the order of the ends of its writes.
#[derive(Debug)]
pub(super) struct Unseen {
    pub(super) standing: Standing,
    /// Topics with messages that are written and not visible.
    pub(super) topics: Vec<(Position, (Arc<TopicRuntime>, u64))>,
    /// Commits that are done here, and wait for replicas.
    tickets: VecDeque<(Position, Arc<Ticket>)>,
}

/// What became visible, and whom to tell; once no lock is held.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) topics: Vec<(Arc<TopicRuntime>, u64)>,
    tickets: Vec<(Arc<Ticket>, Result<()>)>,
}

impl Unseen {
    pub(super) fn new(standing: Standing) -> Self {
        Self { standing, topics: Vec::new(), tickets: VecDeque::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// Takes in a commit that is done here; answers at once for one that nobody will replicate.
    pub(super) fn add_ticket(&mut self, end: Position, ticket: &Arc<Ticket>, seen: &mut Seen) {
        if ticket.replicas().is_none() {
            return;
        }
        match self.standing {
            Standing::Following { promised } => {
                seen.tickets.push((Arc::clone(ticket), Err(Error::Fenced { epoch: promised })));
            }
            _ => self.tickets.push_back((end, Arc::clone(ticket))),
        }
    }

    /// Takes what is visible, or replicated.
    pub(super) fn take(&mut self, visible: Position, replicated: Position, seen: &mut Seen) {
        let shown = self.topics.partition_point(|(end, _)| *end <= visible);
        seen.topics.extend(self.topics.drain(..shown).map(|(_, topic)| topic));
        let safe = self.tickets.partition_point(|(end, _)| *end <= replicated);
        seen.tickets.extend(self.tickets.drain(..safe).map(|(_, ticket)| (ticket, Ok(()))));
        // Under the lock: what a reader is shown must not come after what follows it.
        super::leader::show(&seen.topics);
    }

    /// Takes all that waits for replicas, with an error.
    fn take_failed(&mut self, error: &Error, seen: &mut Seen) {
        let failed = self.tickets.drain(..).map(|(_, ticket)| (ticket, Err(error.clone())));
        seen.tickets.extend(failed);
    }

    /// Forgets what lies behind `end`, and waits for `end` itself to be visible.
    pub(super) fn restart_at(&mut self, end: Position, topics: Vec<(Arc<TopicRuntime>, u64)>) {
        self.topics.retain(|(at, _)| *at < end);
        self.topics.extend(topics.into_iter().map(|topic| (end, topic)));
    }
}

impl Commits {
    pub(crate) fn standing(&self) -> Standing {
        self.unseen.lock().standing
    }

    /// Fails unless this log may be appended to.
    pub(crate) fn check_leading(&self) -> Result<()> {
        match self.standing() {
            Standing::Following { promised } => Err(Error::Fenced { epoch: promised }),
            _ => Ok(()),
        }
    }

    /// Shows what is visible and answers those whose commit is replicated.
    pub(crate) fn settle(&self) {
        let mut seen = Seen::default();
        self.unseen.lock().take(self.marks.visible(), self.marks.replicated(), &mut seen);
        self.announce(seen);
    }

    /// Wakes and answers, under no lock. Returns the list of topics, empty.
    pub(super) fn announce(&self, seen: Seen) -> Vec<(Arc<TopicRuntime>, u64)> {
        let Seen { mut topics, tickets } = seen;
        for (topic, _) in topics.drain(..) {
            topic.wake();
        }
        for (ticket, result) in tickets {
            self.resolve_replicas(&ticket, &result);
        }
        topics
    }

    /// Ends all waiting for replicas with an error.
    pub(crate) fn fail_replicas(&self, error: &Error) {
        let mut seen = Seen::default();
        let Some(mut unseen) = self.unseen.lock_in_drop() else { return };
        unseen.take_failed(error, &mut seen);
        drop(unseen);
        self.announce(seen);
    }

    /// Replicas hold everything below `end`, says somebody who leads or follows `epoch`.
    pub(crate) fn advance(&self, epoch: Epoch, end: Position) -> Result<()> {
        let mut seen = Seen::default();
        // Nobody can hold what was not even queued.
        let end = end.min(self.end());
        let mut unseen = self.unseen.lock();
        let believed = mutant::on(Mutant::AdvanceWithoutEpochCheck);
        match unseen.standing {
            Standing::Leading { epoch: ours, .. } | Standing::Following { promised: ours }
                if ours != epoch && !believed =>
            {
                return Err(Error::Fenced { epoch: ours });
            }
            // What was inherited counts together with a frame of this epoch: a replica that lacks
            // that frame could still be outrun by one with a later epoch in between.
            Standing::Leading { from, .. }
                if end < from && !mutant::on(Mutant::InheritedCountsAtOnce) =>
            {
                return Ok(());
            }
            Standing::Leading { .. } => self.marks.raise_replicated(end),
            // Only what is here can be what the leader means.
            Standing::Following { .. } => {
                self.marks.raise_replicated(end.min(self.marks.written()));
            }
            Standing::Alone => return Ok(()),
        }
        unseen.take(self.marks.visible(), self.marks.replicated(), &mut seen);
        drop(unseen);
        self.announce(seen);
        self.room.notify();
        Ok(())
    }

    /// Takes no more entries but a leader's, and answers whoever waits for replicas.
    pub(crate) fn stop_leading(&self, promised: Epoch) {
        // Nobody may get in between the two, nor wait for what nobody will answer.
        let mut core = self.core.lock();
        core.fenced = Some(promised);
        core.ingested = None;
        let mut unseen = self.unseen.lock();
        unseen.standing = Standing::Following { promised };
        let mut seen = Seen::default();
        unseen.take_failed(&Error::Fenced { epoch: promised }, &mut seen);
        drop(unseen);
        drop(core);
        self.announce(seen);
        self.room.notify();
    }

    /// Begins an epoch with a frame of its own, durable when this returns, and takes entries.
    pub(crate) fn begin_epoch(&self, epoch: Epoch) -> Result<()> {
        let paused = self.pause(Class::Progress, EPOCH_BYTES)?;
        self.writer.lock().tail.epoch = epoch.0;
        let mut core = self.core.lock();
        core.fenced = None;
        let ((), ticket) = core.enlist(EPOCH_BYTES, |enlisting| {
            enlisting.epoch(epoch);
            Ok(())
        })?;
        let from = core.end;
        self.unseen.lock().standing = Standing::Leading { epoch, from };
        drop(core);
        let began = self.wait_for(&ticket, Ack::Synced, None).unwrap_or_else(|| self.latch.check());
        drop(paused);
        began?;
        self.sync_written()
    }

    /// Waits, within the limits of the options, until replicas hold all that is written here.
    ///
    /// `began` is who led when the caller began: what a leader left behind that leads no more is not
    /// replicated, whoever leads now.
    pub(crate) fn wait_replicated(&self, began: Standing) -> Result<()> {
        let unseen = self.unseen.lock();
        match (began, unseen.standing) {
            (Standing::Leading { epoch, .. }, Standing::Leading { epoch: now, .. })
                if epoch == now => {}
            (
                Standing::Leading { .. },
                Standing::Leading { epoch, .. } | Standing::Following { promised: epoch },
            ) => {
                return Err(Error::Fenced { epoch });
            }
            _ => {}
        }
        let last = unseen.tickets.back().map(|(_, ticket)| Arc::clone(ticket));
        drop(unseen);
        match last {
            Some(ticket) => self.wait_safe(&ticket),
            None => Ok(()),
        }
    }

    /// Waits, within the limits of the options, until a commit is as safe as it is to be.
    pub(crate) fn wait_safe(&self, ticket: &Arc<Ticket>) -> Result<()> {
        self.wait(ticket, Ack::Replicated, None).unwrap_or_else(|late| Err(self.late(late, None)))
    }

    /// The second part of a wait that has begun at a time: until replicas have what is safe here.
    pub(super) fn wait_for_replicas(
        &self,
        ticket: &Ticket,
        began: Duration,
        timeout: Option<Duration>,
    ) -> std::result::Result<Result<()>, Late> {
        let (Some(waited), Some(replicas)) = (ticket.replicas(), &self.replicas) else {
            return Ok(Ok(()));
        };
        let deadline = match timeout {
            _ if !replicas.may_wait => began,
            Some(timeout) => began.saturating_add(timeout),
            // The time in which it was not safe here does not count.
            None => began.max(ticket.done_at()).saturating_add(replicas.timeout),
        };
        loop {
            let left = deadline.saturating_sub(self.clock.monotonic());
            match waited.wait(Some(left)) {
                Some(result) => return Ok(result),
                // It may have woken early.
                None if left.is_zero() || !replicas.may_wait => return Err(Late::Replicas),
                None => {}
            }
        }
    }

    /// Refuses an append for which there are too few replicas, before anything is written.
    pub(super) fn check_available(&self, class: Class) -> Result<()> {
        match &self.replicas {
            Some(replicas) if class == Class::Append => replicas.outlet.check_available(),
            _ => Ok(()),
        }
    }

    /// Sleeps while too much is not replicated; gives up after the time that the options say.
    pub(super) fn await_replicas(
        &self,
        observed: u64,
        excess: u64,
        gives_up_at: &mut Option<Duration>,
    ) -> Result<()> {
        let Some(replicas) = &self.replicas else { return Ok(()) };
        let now = self.clock.monotonic();
        let until = *gives_up_at.get_or_insert_with(|| now.saturating_add(replicas.timeout));
        if now >= until || !replicas.may_wait {
            return Err(Error::Full { free: 0, needed: excess });
        }
        self.room.wait(observed, Some(until.saturating_sub(now)));
        Ok(())
    }

    /// How many bytes more than allowed are not replicated, where progress may go a quarter further.
    pub(super) fn unreplicated_excess(&self, class: Class, end: Position) -> Option<u64> {
        let max = self.replicas.as_ref()?.unreplicated_bytes_max;
        let max = if class == Class::Progress { max.saturating_add(max / 4) } else { max };
        let excess = end.0.saturating_sub(self.marks.replicated().0).saturating_sub(max);
        (excess > 0).then_some(excess)
    }
}
