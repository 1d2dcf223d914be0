//! How leases end: by an outcome of their holder, or because the whole group moves.

use std::ops::Range;
use std::time::Duration;

use super::remove_all;
use super::runs::length;
use super::{Due, Hold, Leases, NO_TOKEN, Unsettled};
use crate::clock::Now;
use crate::mutant::{self, Mutant};

/// Why an outcome changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The lease is over: the message was leased again, or the group was moved by a seek.
    /// For anything but an ack, also when the lease just ended.
    Stale,
    /// The offset was settled before.
    AlreadySettled,
    /// The offset was never leased, or not with any such token.
    NotLeased,
}

impl Leases {
    /// Settles `offset`, held with `token`.
    ///
    /// A late ack counts for as long as the message was not leased again.
    ///
    /// # Errors
    ///
    /// Says why the offset could not be settled by this lease.
    pub(crate) fn ack(&mut self, offset: u64, token: u64) -> Result<(), Refused> {
        self.check(offset, token)?;
        self.settle_one(offset);
        Ok(())
    }

    /// Whether [`Self::ack`] would succeed.
    ///
    /// # Errors
    ///
    /// Those of [`Self::ack`].
    pub(crate) fn check(&self, offset: u64, token: u64) -> Result<(), Refused> {
        if !self.is_issued(token) {
            return Err(self.refusal(offset, token));
        }
        match self.unsettled.get(offset).map(|entry| entry.hold) {
            Some(Hold::Leased { token: last, .. } | Hold::Waiting { last_token: last, .. }) => {
                if last == token || mutant::on(Mutant::StaleAckAccepted) {
                    Ok(())
                } else {
                    Err(Refused::Stale)
                }
            }
            None => Err(self.refusal(offset, token)),
        }
    }

    /// Whether `offset` is leased with `token`, as far as anybody has noticed.
    pub(crate) fn holds(&self, offset: u64, token: u64) -> bool {
        self.held(offset, token).is_ok()
    }

    /// Settles `offset`, whoever holds it or held it last, before a restart as well.
    ///
    /// # Errors
    ///
    /// Refuses an offset that is settled already or was never delivered.
    pub(crate) fn ack_offset(&mut self, offset: u64) -> Result<(), Refused> {
        let Some(entry) = self.unsettled.get(offset) else {
            return Err(self.refusal(offset, NO_TOKEN));
        };
        if let Hold::Waiting { last_token: NO_TOKEN, .. } = entry.hold
            && entry.count == 0
        {
            return Err(Refused::NotLeased);
        }
        self.settle_one(offset);
        Ok(())
    }

    /// Ends the lease; the message is due again after `delay`, or after the group's backoff.
    ///
    /// # Errors
    ///
    /// Refuses a lease that is over.
    pub(crate) fn retry(
        &mut self,
        offset: u64,
        token: u64,
        delay: Option<Duration>,
        now: Now,
    ) -> Result<(), Refused> {
        let count = self.held(offset, token)?;
        let mut delay = delay.unwrap_or_else(|| self.limits.backoff_after(count));
        if mutant::on(Mutant::RetryAtOnce) {
            delay = Duration::ZERO;
        }
        self.end_lease_for(offset, count, delay, token, now);
        Ok(())
    }

    /// Ends the lease without counting the attempt; the message is due at once.
    ///
    /// # Errors
    ///
    /// Refuses a lease that is over.
    pub(crate) fn release(&mut self, offset: u64, token: u64, now: Now) -> Result<(), Refused> {
        let count = self.held(offset, token)?;
        self.end_lease(offset, count.saturating_sub(1), Due::at_once(now.monotonic), token);
        self.delta.touch(offset);
        Ok(())
    }

    /// Ends the lease of a holder that gave no outcome: counted, and due at once.
    ///
    /// # Errors
    ///
    /// Refuses a lease that is over.
    pub(crate) fn drop_lease(&mut self, offset: u64, token: u64, now: Now) -> Result<(), Refused> {
        let count = self.held(offset, token)?;
        self.end_lease(offset, count, Due::at_once(now.monotonic), token);
        Ok(())
    }

    /// Lets the lease last until `by` from now, which may be sooner than before.
    ///
    /// # Errors
    ///
    /// Refuses a lease that is over.
    pub(crate) fn extend(
        &mut self,
        offset: u64,
        token: u64,
        now: Now,
        by: Duration,
    ) -> Result<(), Refused> {
        self.held(offset, token)?;
        let new = now.monotonic.saturating_add(by);
        if let Some(mut entry) = self.unsettled.get(offset)
            && let Hold::Leased { until, .. } = &mut entry.hold
        {
            *until = new;
            self.unsettled.insert(offset, entry);
        }
        self.earliest_until = self.earliest_until.min(new);
        Ok(())
    }

    /// Settles an exhausted offset: it is among the dead letters now.
    ///
    /// # Errors
    ///
    /// Says why the offset could not be settled by this lease.
    pub(crate) fn settle_exhausted(&mut self, offset: u64, token: u64) -> Result<(), Refused> {
        self.ack(offset, token)
    }

    /// Takes an exhausted offset back: it could not be dead-lettered, and is due for that again
    /// after `delay`.
    ///
    /// # Errors
    ///
    /// Refuses a lease that is over.
    pub(crate) fn unbury(
        &mut self,
        offset: u64,
        token: u64,
        now: Now,
        delay: Duration,
    ) -> Result<(), Refused> {
        let count = self.held(offset, token)?;
        // Nobody got it, so whoever had it last may still acknowledge it.
        let last = self.held_before(offset, token).map_or(token, |(_, previous)| previous);
        self.end_lease_for(offset, count, delay, last, now);
        Ok(())
    }

    /// Settles offsets that the group's tag filter skips.
    pub(crate) fn settle_filtered(&mut self, range: Range<u64>) {
        let range = range.start.max(self.floor)..range.end;
        if range.is_empty() {
            return;
        }
        self.detach(&range);
        if range.start <= self.next {
            self.next = self.next.max(range.end);
        }
        self.settle(range);
    }

    /// Settles everything up to and with `offset`, delivered or not.
    pub(crate) fn ack_through(&mut self, offset: u64) {
        self.settle_filtered(self.floor..offset.saturating_add(1));
    }

    /// Settles everything below `to`: retention has taken it.
    pub(crate) fn skip_to(&mut self, to: u64) {
        self.settle_filtered(self.floor..to);
    }

    /// Starts over at `to`: every lease is stale, and nothing is unsettled.
    ///
    /// What was to be logged is dropped, for the caller logs the seek itself.
    pub(crate) fn seek(&mut self, to: u64) {
        self.floor = to;
        self.next = to;
        self.acked.clear();
        self.unsettled.clear();
        self.leased = 0;
        self.due.clear();
        self.earliest_until = Duration::MAX;
        self.suspects.clear();
        self.suspect_leased = None;
        self.valid_tokens_from = self.next_token;
        self.reserves.seek(to);
        if !mutant::on(Mutant::SeekKeepsDelta) {
            self.delta.clear();
        }
    }

    /// Turns the leased `offset` into a waiting one; a suspect stays one.
    pub(super) fn wait(&mut self, offset: u64, count: u32, due: Due, last_token: u64) {
        self.unsettled.insert(offset, Unsettled { count, hold: Hold::Waiting { due, last_token } });
        self.due.insert((due.at, offset));
        self.leased -= 1;
        if self.suspect_leased == Some(offset) {
            self.suspect_leased = None;
        }
    }

    /// The delivery count of `offset`, if it is leased with `token`.
    fn held(&self, offset: u64, token: u64) -> Result<u32, Refused> {
        let issued = self.is_issued(token);
        match self.unsettled.get(offset) {
            Some(Unsettled { count, hold: Hold::Leased { token: current, .. } })
                if current == token || mutant::on(Mutant::LeaseFreedTwice) =>
            {
                Ok(count)
            }
            Some(_) if issued => Err(Refused::Stale),
            _ => Err(self.refusal(offset, token)),
        }
    }

    /// Ends the lease of `offset` while the process lives, which clears it of suspicion.
    fn end_lease(&mut self, offset: u64, count: u32, due: Due, token: u64) {
        self.wait(offset, count, due, token);
        self.suspects.remove(&offset);
    }

    fn end_lease_for(&mut self, offset: u64, count: u32, delay: Duration, token: u64, now: Now) {
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        let due = Due {
            at: now.monotonic.saturating_add(delay),
            wall_ms: now.wall_ms.saturating_add(delay_ms),
        };
        self.end_lease(offset, count, due, token);
        self.delta.touch(offset);
    }

    fn is_issued(&self, token: u64) -> bool {
        (self.valid_tokens_from..self.next_token).contains(&token)
    }

    /// Why there is no lease of `offset` with `token`.
    fn refusal(&self, offset: u64, token: u64) -> Refused {
        let from_before_seek = token != NO_TOKEN && token < self.valid_tokens_from;
        if from_before_seek {
            Refused::Stale
        } else if self.is_settled(offset) {
            Refused::AlreadySettled
        } else {
            Refused::NotLeased
        }
    }

    fn settle_one(&mut self, offset: u64) {
        self.detach(&(offset..offset + 1));
        self.settle(offset..offset + 1);
    }

    /// Forgets offsets as unsettled ones.
    fn detach(&mut self, range: &Range<u64>) {
        let mut left = range.clone();
        while !left.is_empty()
            && let Some((offsets, entry)) = self.unsettled.take_within(&left)
        {
            left.start = offsets.end;
            match entry.hold {
                Hold::Leased { .. } => self.leased -= length(&offsets),
                Hold::Waiting { due, .. } => {
                    for offset in offsets.clone() {
                        self.due.remove(&(due.at, offset));
                    }
                }
            }
            self.delta.forget(&offsets);
            remove_all(&mut self.suspects, &offsets);
            self.suspect_leased = self.suspect_leased.filter(|offset| !offsets.contains(offset));
        }
    }

    fn settle(&mut self, range: Range<u64>) {
        self.delta.settle(range.clone());
        if range.start == self.floor || mutant::on(Mutant::FloorPastHole) {
            // In order, as usual: nothing to remember above the floor.
            self.floor = range.end;
            self.acked.remove_below(self.floor);
        } else {
            self.acked.insert(range);
        }
        while let Some(end) = self.acked.take_front_if_starts_at(self.floor) {
            self.floor = end;
        }
        self.next = self.next.max(self.floor);
    }
}
