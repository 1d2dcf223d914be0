//! What to give out next, and what must be durable before it is given out.
//!
//! A redelivery logs its attempt number first, so that a message which kills the process runs
//! out of attempts. A first delivery needs no entry of its own: a *reserve* that runs ahead of
//! the consumer says that everything below may have been delivered once.

use std::ops::Range;
use std::time::Duration;

use super::runs::length;
use super::{AHEAD_MAX, AHEAD_MIN, AHEAD_TIME, Due, Hold, Leases, NO_TOKEN, Unsettled};
use crate::format::entry::{Attempt, Progress};
use crate::mutant::{self, Mutant};

/// One message that is leased out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Granted {
    pub(crate) offset: u64,
    pub(crate) token: u64,
    /// 1 for the first delivery.
    pub(crate) attempt: u32,
}

/// First deliveries: neighbouring offsets, leased with consecutive tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FreshRun {
    pub(crate) offsets: Range<u64>,
    pub(crate) first_token: u64,
}

impl FreshRun {
    /// The leases of the run, lowest offset first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Granted> + use<> {
        let run = self.clone();
        self.offsets.clone().map(move |offset| run.of(offset))
    }

    /// The lease of one of its offsets.
    #[inline]
    pub(crate) fn of(&self, offset: u64) -> Granted {
        let token = self.first_token + (offset - self.offsets.start);
        Granted { offset, token, attempt: 1 }
    }
}

/// A message that is out of attempts, leased to whoever dead-letters it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exhausted {
    pub(crate) offset: u64,
    pub(crate) token: u64,
    /// How often it was delivered.
    pub(crate) count: u32,
}

/// A promise to the log that everything below `delivered` may have been delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reserve {
    delivered: u64,
    generation: u64,
}

impl Reserve {
    /// The entry to log.
    pub(crate) fn to_progress(self) -> Progress {
        Progress { delivered: self.delivered, ..Progress::default() }
    }
}

/// What a poll gets. All of it is leased already.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    /// Messages that were delivered before, in the order of delivery.
    pub(crate) redeliveries: Vec<Granted>,
    /// Messages that were not; they come after the redeliveries.
    pub(crate) fresh: FreshRun,
    /// Not for consumers: to be dead-lettered, then [`Leases::settle_exhausted`], or
    /// [`Leases::unbury`] if that fails. They need no entry in the log first.
    pub(crate) exhausted: Vec<Exhausted>,
    reserve: Option<Reserve>,
    planned_at: Duration,
}

impl Plan {
    /// The messages to hand out, in the order of delivery.
    pub(crate) fn granted(&self) -> impl Iterator<Item = Granted> + '_ {
        self.redeliveries.iter().copied().chain(self.fresh.iter())
    }

    /// How many there are of these.
    pub(crate) fn granted_len(&self) -> usize {
        self.redeliveries.len() + length(&self.fresh.offsets)
    }

    /// What must be durable before a message of the plan is handed out.
    pub(crate) fn log(&self) -> Option<Progress> {
        if self.redeliveries.is_empty() && self.reserve.is_none() {
            return None;
        }
        let attempts = self
            .redeliveries
            .iter()
            .filter(|_| !mutant::on(Mutant::AttemptNotLogged))
            .map(|granted| Attempt { offset: granted.offset, count: granted.attempt, due_ms: 0 })
            .collect();
        let delivered = self.reserve.map_or(0, |reserve| reserve.delivered);
        Some(Progress { delivered, attempts, ..Progress::default() })
    }

    /// Whether all that must be durable first is this reserve.
    pub(crate) fn needs_only(&self, reserve: Reserve) -> bool {
        self.reserve == Some(reserve) && self.redeliveries.is_empty()
    }

    /// Whether there is neither anything to hand out nor to dead-letter.
    pub(crate) fn is_empty(&self) -> bool {
        self.redeliveries.is_empty() && self.fresh.offsets.is_empty() && self.exhausted.is_empty()
    }
}

/// How far first deliveries are covered by the log: `durable <= asked`.
#[derive(Clone, Debug)]
pub(super) struct Reserves {
    /// Offsets below may be delivered for the first time without logging.
    durable: u64,
    /// The highest reserve that was handed out to be logged.
    asked: u64,
    /// How far the next reserve runs ahead, and how far the last one did.
    ahead: u64,
    last_ahead: u64,
    ahead_max: u64,
    /// How far it ran when the group was last caught up or moved.
    learned: u64,
    /// The time of the last plan and up to where messages were there, and the time of the last raise.
    now: Duration,
    visible_end: u64,
    raised_at: Duration,
    /// Whether one was asked for yet: an idle group reserves nothing.
    in_use: bool,
    /// Distinguishes reserves from before a seek, which the log has forgotten.
    generation: u64,
}

impl Reserves {
    pub(super) fn starting_at(next: u64, attempts_max: u32) -> Self {
        // A crash counts one attempt for what was only reserved. Where that is the last one, the
        // message would be dead-lettered unseen: then reserve no more than is given out.
        let ahead_max = if attempts_max > 1 { AHEAD_MAX } else { 0 };
        Self {
            durable: next,
            asked: next,
            ahead: AHEAD_MIN.min(ahead_max),
            last_ahead: 0,
            ahead_max,
            learned: 0,
            now: Duration::ZERO,
            visible_end: 0,
            raised_at: Duration::ZERO,
            in_use: false,
            generation: 0,
        }
    }

    pub(super) fn seek(&mut self, to: u64) {
        self.durable = to;
        self.asked = to;
        self.in_use = false;
        self.generation += 1;
        self.slow_down();
    }

    fn cover(&mut self, next: u64) -> Option<Reserve> {
        if next <= self.durable || mutant::on(Mutant::ReserveNotLogged) {
            return None;
        }
        // A reserve that is on its way is asked for again rather than raised: the poll that
        // asked first may still fail to log it.
        Some(if next <= self.asked { self.current() } else { self.raise(next) })
    }

    /// Raises the reserve by what a few milliseconds of this consumer's work use up: what is
    /// reserved is a suspect after a crash, and then delivered alone.
    fn raise(&mut self, next: u64) -> Reserve {
        let lasted = self.now.saturating_sub(self.raised_at);
        if !self.is_at_speed() {
            self.ahead = (self.ahead / 2).max(AHEAD_MIN).min(self.ahead_max);
            self.learned = 0;
        }
        (self.raised_at, self.in_use) = (self.now, true);
        self.asked = self.reach(next);
        self.last_ahead = self.asked - next;
        if lasted < AHEAD_TIME {
            self.ahead = (self.ahead * 2).min(self.ahead_max);
        }
        self.current()
    }

    /// Up to where a reserve goes that is raised now.
    fn reach(&self, next: u64) -> u64 {
        next.saturating_add(self.ahead.max(self.learned_of_what_is_there(next)))
    }

    /// What is there already will be wanted as fast as what was there before; nothing is known of what
    /// is still to come.
    fn learned_of_what_is_there(&self, next: u64) -> u64 {
        self.learned.min(self.visible_end.saturating_sub(next))
    }

    /// Whether the last reserve was raised so lately that the consumer's speed is known.
    fn is_at_speed(&self) -> bool {
        self.now.saturating_sub(self.raised_at) <= 10 * AHEAD_TIME
    }

    /// The group is caught up: what is reserved in vain, a crash delivers as suspects.
    fn slow_down(&mut self) {
        self.learned = self.learned.max(self.ahead);
        self.ahead = AHEAD_MIN.min(self.ahead_max);
        self.last_ahead = self.ahead;
    }

    fn current(&self) -> Reserve {
        Reserve { delivered: self.asked, generation: self.generation }
    }
}

impl Leases {
    /// Leases out up to `max` messages: due redeliveries first, then offsets below
    /// `visible_end` that were never given out.
    ///
    /// If the plan has a `log`, it must be durable before a message is handed out. Then call
    /// [`Self::plan_logged`], or [`Self::plan_failed`] if it could not be logged.
    pub(crate) fn plan(&mut self, now: Duration, max: usize, visible_end: u64) -> Plan {
        self.expire(now);
        (self.reserves.now, self.reserves.visible_end) = (now, visible_end);
        let mut plan = Plan { planned_at: now, ..Plan::default() };
        if self.suspect_leased.is_some() {
            return plan;
        }
        let more = usize::from(mutant::on(Mutant::InFlightOffByOne));
        let in_flight_max = self.limits.in_flight_max.saturating_add(more);
        let room = max.min(in_flight_max.saturating_sub(self.leased));
        let mut left = room;
        while left > 0 {
            let suspect = self.suspects.first().copied();
            let Some(offset) = suspect.or_else(|| self.next_due(now)) else { break };
            self.lease_again(offset, now, &mut plan);
            left -= 1;
            if self.suspect_leased.is_some() {
                break;
            }
        }
        if self.suspects.is_empty() {
            plan.fresh = self.lease_fresh(left, visible_end, now);
        }
        plan.reserve = self.reserves.cover(plan.fresh.offsets.end);
        if plan.is_empty() && room > 0 && self.next >= visible_end {
            self.reserves.slow_down();
        }
        plan
    }

    /// The log of `plan` is durable: its reserve may be used.
    pub(crate) fn plan_logged(&mut self, plan: &Plan) {
        if let Some(reserve) = plan.reserve {
            self.reserve_logged(reserve);
        }
    }

    /// Lets the leases of `plan` begin now: how long the poll waited for the log is not taken from
    /// its consumer's time. Returns what of the first deliveries is leased to it still.
    pub(crate) fn hand_out(&mut self, plan: &Plan, now: Duration) -> Vec<FreshRun> {
        let begun = now.saturating_add(self.limits.lease);
        for &Granted { offset, token, .. } in &plan.redeliveries {
            let alone = FreshRun { offsets: offset..offset + 1, first_token: token };
            self.unsettled.extend_held_of(&alone, begun);
        }
        self.unsettled.extend_held_of(&plan.fresh, begun)
    }

    /// The log of `plan` did not become durable: ends its leases as if they had not been.
    pub(crate) fn plan_failed(&mut self, plan: &Plan) {
        let due = plan.planned_at;
        for Granted { offset, token, .. } in plan.granted() {
            if let Some((count, previous)) = self.held_before(offset, token) {
                self.wait(offset, count - 1, Due { at: due, wall_ms: 0 }, previous);
                // The entry may have reached the disk after all.
                self.delta.touch(offset);
            }
        }
        for &Exhausted { offset, token, .. } in &plan.exhausted {
            if let Some((count, previous)) = self.held_before(offset, token) {
                self.wait(offset, count, Due { at: due, wall_ms: 0 }, previous);
            }
        }
    }

    /// A raise of the reserve that should be logged in the background, so that a later plan
    /// need not wait for it: once for each raise.
    ///
    /// Call [`Self::reserve_logged`] when it is durable. If it fails, nothing need be done.
    pub(crate) fn wants_reserve(&mut self) -> Option<Reserve> {
        let reserves = &mut self.reserves;
        let remaining = reserves.asked.saturating_sub(self.next);
        let kept = reserves.last_ahead / 2;
        // Where all that is there is reserved, the same would be logged again and again.
        let low = remaining < kept && reserves.asked < reserves.reach(self.next);
        (reserves.in_use && low).then(|| reserves.raise(self.next))
    }

    /// The reserve that a consumer will want which was as fast just before the group was moved: to be
    /// logged with the move.
    pub(crate) fn wants_reserve_after_seek(&mut self, now: Duration) -> Option<Reserve> {
        let reserves = &mut self.reserves;
        reserves.now = now;
        let learned = reserves.learned_of_what_is_there(self.next);
        let is_wanted = learned > AHEAD_MIN && reserves.is_at_speed();
        is_wanted.then(|| reserves.raise(self.next))
    }

    /// `reserve` is durable: offsets below it may be delivered without waiting for the log.
    pub(crate) fn reserve_logged(&mut self, reserve: Reserve) {
        if reserve.generation == self.reserves.generation {
            self.reserves.durable = self.reserves.durable.max(reserve.delivered);
        }
    }

    /// The offsets that a plan with room for `max` may give out for the first time.
    pub(super) fn fresh_range(&self, max: usize, visible_end: u64) -> Range<u64> {
        let start = self.acked.range_of(self.next).map_or(self.next, |range| range.end);
        let room = max.min(self.limits.unsettled_max.saturating_sub(self.unsettled.len()));
        let room = u64::try_from(room).unwrap_or(u64::MAX);
        let hole = self.acked.start_from(start).unwrap_or(u64::MAX);
        let end = start.saturating_add(room).min(hole).min(visible_end);
        start..end.max(start)
    }

    /// The count of `offset` and the token before, if it is leased with `token`.
    pub(super) fn held_before(&self, offset: u64, token: u64) -> Option<(u32, u64)> {
        let entry = self.unsettled.get(offset)?;
        match entry.hold {
            Hold::Leased { token: current, previous, .. } if current == token => {
                Some((entry.count, previous))
            }
            _ => None,
        }
    }

    fn next_due(&self, now: Duration) -> Option<u64> {
        self.due.first().filter(|&&(due, _)| due <= now).map(|&(_, offset)| offset)
    }

    fn lease_again(&mut self, offset: u64, now: Duration, plan: &mut Plan) {
        let token = self.take_tokens(1);
        let until = self.lease_until(now);
        let mut entry = self.unsettled.get(offset).expect("what is due is unsettled");
        let Hold::Waiting { due, last_token: previous } = entry.hold else {
            unreachable!("what is due waits")
        };
        entry.hold = Hold::Leased { token, until, previous };
        self.due.remove(&(due.at, offset));
        self.leased += 1;
        let forgiven = u32::from(mutant::on(Mutant::AttemptsOffByOne));
        let early = u32::from(mutant::on(Mutant::BuriedTooEarly));
        if entry.count.saturating_sub(forgiven) + early >= self.limits.attempts_max {
            // It goes to no consumer, so it cannot kill one again.
            self.suspects.remove(&offset);
            plan.exhausted.push(Exhausted { offset, token, count: entry.count });
            self.unsettled.insert(offset, entry);
            return;
        }
        entry.count += 1;
        self.unsettled.insert(offset, entry);
        let attempt = entry.count;
        self.delta.forget(&(offset..offset + 1));
        if self.suspects.contains(&offset) {
            self.suspect_leased = Some(offset);
        }
        plan.redeliveries.push(Granted { offset, token, attempt });
    }

    fn lease_fresh(&mut self, max: usize, visible_end: u64, now: Duration) -> FreshRun {
        let offsets = self.fresh_range(max, visible_end);
        if offsets.is_empty() {
            return FreshRun::default();
        }
        let count = offsets.end - offsets.start;
        let first_token = self.take_tokens(count);
        let until = self.lease_until(now);
        let hold = Hold::Leased { token: first_token, until, previous: NO_TOKEN };
        self.unsettled.insert_run(offsets.clone(), Unsettled { count: 1, hold });
        self.leased += usize::try_from(count).expect("the run is no longer than `max`");
        self.next = offsets.end;
        FreshRun { offsets, first_token }
    }

    fn take_tokens(&mut self, count: u64) -> u64 {
        let first = self.next_token;
        self.next_token += count;
        first
    }

    fn lease_until(&mut self, now: Duration) -> Duration {
        let until = now.saturating_add(self.limits.lease);
        self.earliest_until = self.earliest_until.min(until);
        until
    }
}
