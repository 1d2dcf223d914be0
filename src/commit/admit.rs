//! Getting in: how callers queue entries, and how they wait for them.

use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::mutant::{self, Mutant};
use crate::offset::Offset;
use crate::pending::{Committer, Late, Limit, Parked, Ticket};
use crate::sync::MutexGuard;
use crate::watermark::Ack;

use super::enlist::Enlisting;
use super::queue::Core;
use super::{Class, Commits};

/// More than this in the queue makes callers wait until some of it is written.
pub(super) const QUEUED_BYTES_MAX: usize = 32 * 1024 * 1024;

/// What a caller does once its entries are queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Lead,
    Follow,
}

impl Commits {
    /// Queues entries of at most `bytes` in one frame. Whoever waits for them commits them; if nobody
    /// does, the background does in a moment.
    pub(crate) fn enlist<R>(
        &self,
        class: Class,
        bytes: usize,
        add: impl FnOnce(&mut Enlisting<'_>) -> Result<R>,
    ) -> Result<(R, Arc<Ticket>)> {
        let mut core = self.admit(class, bytes)?;
        let enlisted = core.enlist(bytes, add)?;
        core.left = core.next_gather;
        let is_told = core.leading || core.attended.is_some() || core.queue.is_empty();
        drop(core);
        if !is_told && !mutant::on(Mutant::WorkNotAnnounced) {
            self.work.notify();
        }
        Ok(enlisted)
    }

    /// The same for a caller who commits them at once, and for whom the background need not look.
    pub(crate) fn enlist_to_commit<R>(
        &self,
        class: Class,
        bytes: usize,
        add: impl FnOnce(&mut Enlisting<'_>) -> Result<R>,
    ) -> Result<(R, Arc<Ticket>)> {
        self.admit(class, bytes)?.enlist(bytes, add)
    }

    /// Has the background commit what is queued at once, if nobody does.
    pub(crate) fn hurry(&self) {
        let mut core = self.core.lock();
        core.urgent = !core.queue.is_empty();
        let is_for_it = core.urgent && !core.leading;
        drop(core);
        if is_for_it {
            self.work.notify();
        }
    }

    /// Queues entries of at most `bytes` in one frame and waits until the policy calls them
    /// safe. `offset_of` names the offset for the message about a wait that was too long.
    pub(crate) fn commit<R>(
        &self,
        (class, ack): (Class, Ack),
        bytes: usize,
        offset_of: impl FnOnce(&R) -> Option<Offset>,
        add: impl FnOnce(&mut Enlisting<'_>) -> Result<R>,
    ) -> Result<R> {
        let mut core = self.admit(class, bytes)?;
        let (value, ticket) = core.enlist(bytes, add)?;
        if mutant::on(Mutant::FullAfterEnqueue) && class == Class::Append {
            drop(core);
            self.ensure_room_for_append()?;
            core = self.core.lock();
        }
        let role = Self::choose_role(&mut core, &ticket, ack);
        drop(core);
        let late = match self.follow_through(&ticket, ack, role, Some(self.config.sync_timeout)) {
            None => Late::Sync,
            // The wait has begun before the write, so the time of the write decides.
            Some(Ok(())) if ack == Ack::Replicated => {
                match self.wait_for_replicas(&ticket, Duration::ZERO, None) {
                    Ok(result) => return result.map(|()| value),
                    Err(late) => late,
                }
            }
            Some(result) => return result.map(|()| value),
        };
        Err(self.late(late, offset_of(&value)))
    }

    /// Like [`enlist`](Self::enlist), but gives up rather than wait for anything. `false` if
    /// nothing was queued.
    pub(crate) fn try_enlist(&self, bytes: usize, add: impl FnOnce(&mut Enlisting<'_>)) -> bool {
        let mut core = self.core.lock();
        let need = core.worst_bytes(bytes);
        let stuck = self.latch.get().is_some() || core.rolling || self.is_closed();
        let excess = self.unreplicated_excess(Class::Progress, core.end).is_some();
        if stuck || core.fenced.is_some() || excess || core.end.plus(need) > core.room_end {
            return false;
        }
        let added = core.enlist(bytes, |enlisting| {
            add(enlisting);
            Ok(())
        });
        added.is_ok()
    }

    /// Waits until `bytes` bytes of entries may be queued.
    fn admit(&self, class: Class, bytes: usize) -> Result<MutexGuard<'_, Core>> {
        self.check_available(class)?;
        if bytes as u64 > self.config.batch_bytes_max {
            let max = self.config.batch_bytes_max;
            return Err(Error::TooLarge { what: "batch", bytes: bytes as u64, max });
        }
        let mut gives_up_at = None;
        loop {
            let observed = self.room.observe();
            let core = self.core.lock();
            self.latch.check()?;
            if self.is_closed() {
                return Err(Error::Closed);
            }
            if let Some(epoch) = core.fenced {
                return Err(Error::Fenced { epoch });
            }
            if let Some(excess) = self.unreplicated_excess(class, core.end) {
                drop(core);
                self.await_replicas(observed, excess, &mut gives_up_at)?;
                continue;
            }
            if core.rolling {
                drop(core);
                self.room.wait(observed, None);
                continue;
            }
            if core.queued_bytes > QUEUED_BYTES_MAX {
                let front = core.queue.front().map(|gather| Arc::clone(&gather.ticket));
                drop(core);
                if let Some(ticket) = front {
                    // Whatever becomes of it, the queue is shorter; errors show at the next turn.
                    drop(self.wait_for(&ticket, Ack::Synced, None));
                }
                continue;
            }
            let need = core.worst_bytes(bytes);
            if core.end.plus(need) > core.room_end {
                drop(core);
                self.roll(class, need)?;
                continue;
            }
            // The last part of a segment is for progress, unless the next one is there.
            let reserve = if core.spare.is_some() { 0 } else { self.reserve_bytes(core.room_end) };
            let in_reserve = core.end.plus(need + reserve) > core.room_end;
            if class == Class::Append && in_reserve {
                drop(core);
                self.ensure_room_for_append()?;
                continue;
            }
            return Ok(core);
        }
    }

    fn choose_role(core: &mut Core, ticket: &Ticket, ack: Ack) -> Role {
        if core.leading {
            ticket.register(ack);
            Role::Follow
        } else {
            core.leading = true;
            Role::Lead
        }
    }

    /// Waits for a ticket, leading if nobody does. `None` if it is not safe here after `timeout`.
    /// If more is to be waited for, this may return before that, once it is safe here.
    pub(super) fn wait_for(
        &self,
        ticket: &Arc<Ticket>,
        ack: Ack,
        timeout: Option<Duration>,
    ) -> Option<Result<()>> {
        if let Some(result) = ticket.result() {
            return Some(result);
        }
        let role = Self::choose_role(&mut self.core.lock(), ticket, ack);
        self.follow_through(ticket, ack, role, timeout)
    }

    fn follow_through(
        &self,
        ticket: &Arc<Ticket>,
        ack: Ack,
        mut role: Role,
        timeout: Option<Duration>,
    ) -> Option<Result<()>> {
        let deadline = match (role, timeout) {
            (Role::Follow, Some(timeout)) => Some(self.clock.monotonic().saturating_add(timeout)),
            _ => None,
        };
        let shares = timeout == Some(self.config.sync_timeout);
        let mut limit = self.limit(timeout, shares.then_some(Limit::Shared), ack);
        loop {
            if role == Role::Lead {
                self.lead(ticket);
                return Some(ticket.result().unwrap_or_else(|| self.latch.check()));
            }
            match ticket.park(limit, ack) {
                Parked::Done(result) => return Some(result),
                Parked::Lead => role = Role::Lead,
                Parked::TimedOut { kept_time } => {
                    if let Some(result) = ticket.result() {
                        if kept_time {
                            // Others wait for the replicas as well, and no longer than it has.
                            ticket.look_up();
                        }
                        return Some(result);
                    }
                    let left = deadline.map(|end| end.saturating_sub(self.clock.monotonic()));
                    let is_over = left.is_some_and(|left| left.is_zero());
                    if !is_over {
                        role = Self::choose_role(&mut self.core.lock(), ticket, ack);
                    }
                    if kept_time && (is_over || role == Role::Lead) {
                        ticket.look_up();
                    }
                    if is_over {
                        return None;
                    }
                    limit = self.limit(left, kept_time.then_some(Limit::Keeper), ack);
                }
            }
        }
    }

    /// How long to wait for an outcome where so much time is left, which `shared` makes a limit that
    /// others share: with a replicator, those who wait for that do.
    fn limit(
        &self,
        left: Option<Duration>,
        shared: Option<fn(Duration) -> Limit>,
        ack: Ack,
    ) -> Limit {
        match (left, &self.replicas) {
            // It may be safe here and be given no more time there.
            (left, Some(replicas)) if ack == Ack::Replicated => {
                let time = left.map_or(replicas.timeout, |left| left.min(replicas.timeout));
                shared.unwrap_or(Limit::Own)(time)
            }
            (None, _) => Limit::Endless,
            (Some(left), Some(_)) => Limit::Own(left),
            (Some(left), None) => shared.unwrap_or(Limit::Own)(left),
        }
    }
}
