//! How deliveries end: their outcomes, and whether they took effect.

use std::time::Duration;

use ackline::Error;
use ackline::simulation::Rng;

use super::super::model::Ack;
use super::super::setup::GroupPlan;
use super::super::world::{Failed, Hand, World};
use super::super::{Checked, ensure};

impl World {
    /// Ends, or prolongs, one of the deliveries that are out.
    pub(crate) fn settle(&mut self, rng: &mut Rng) -> Checked {
        let hands = self.actor().hands.len();
        if hands == 0 {
            return Ok(());
        }
        let hand = self.actor().hands.swap_remove(rng.index(hands));
        let Hand { group, offset, token, .. } = hand;
        self.settle_hand(rng, hand)?;
        // Whoever has the message now must still have it.
        let was_last = self.model.groups[group].get(offset).token == token;
        if was_last && rng.chance(3, 4) { Ok(()) } else { self.look_at(group, offset) }
    }

    fn settle_hand(&mut self, rng: &mut Rng, hand: Hand) -> Checked {
        let Hand { group, offset, token, .. } = hand;
        let current = self.is_current(group, offset, token);
        let until = self.model.groups[group].get(offset).held_until;
        // Retention may have taken it out of its holder's hands.
        let lost = self.is_lost(group, offset);
        let held = current && !lost && until.is_some_and(|until| until > self.now());
        match rng.below(16) {
            0 | 1 => self.retry(rng, hand, current, held),
            2 => self.release(hand, current, held),
            3 | 4 => self.reject(hand, current, lost),
            5 | 6 => {
                self.count("drop");
                self.note(|| format!("drop {group}/{offset}"));
                drop(hand);
                if current {
                    self.model.groups[group].get_mut(offset).held_until = None;
                }
                Ok(())
            }
            7 => self.extend(rng, hand, current, held),
            _ => self.ack(hand),
        }
    }

    /// Acknowledges a delivery.
    fn ack(&mut self, hand: Hand) -> Checked {
        let Hand { group, offset, token, .. } = hand;
        let current = self.is_current(group, offset, token);
        let lost = self.is_lost(group, offset);
        self.count("ack");
        self.note(|| format!("ack {group}/{offset}"));
        let result = hand.delivery.ack();
        if self.outcome("ack", result, current, current && !lost)? {
            let now = self.now();
            self.model.groups[group].settle(offset, Ack::Maybe, now);
        }
        Ok(())
    }

    /// Acknowledges all that the one who acts has in its hands.
    pub(crate) fn ack_all(&mut self) -> Checked {
        while let Some(hand) = self.actor().hands.pop() {
            self.ack(hand)?;
        }
        Ok(())
    }

    /// Whether an outcome took effect. It may if `may`, and must if `must`.
    fn outcome(
        &mut self,
        call: &str,
        result: ackline::Result<()>,
        may: bool,
        must: bool,
    ) -> Checked<bool> {
        match result {
            Ok(()) => {
                self.succeeded(call)?;
                ensure!(may, "{call} succeeded for a lease that is over");
                Ok(true)
            }
            Err(
                error @ (Error::StaleLease { .. }
                | Error::AlreadyAcked { .. }
                | Error::NotLeased { .. }),
            ) => {
                self.succeeded(call)?;
                ensure!(!must, "{call} refused: {error}");
                Ok(false)
            }
            Err(error) => {
                self.failed(call, &error)?;
                Ok(false)
            }
        }
    }

    fn retry(&mut self, rng: &mut Rng, hand: Hand, current: bool, held: bool) -> Checked {
        let Hand { group, offset, attempt, .. } = hand;
        let (name, delay, result) = if rng.chance(1, 2) {
            ("retry", GroupPlan::backoff_after(attempt), hand.delivery.retry())
        } else {
            let delay = Duration::from_millis(rng.below(20_000));
            ("retry_after", delay, hand.delivery.retry_after(delay))
        };
        self.count(name);
        self.note(|| format!("retry {group}/{offset} after {delay:?}"));
        let taken_back = self.outcome(name, result, current, held)?;
        if current {
            self.model.groups[group].get_mut(offset).held_until = None;
        }
        if taken_back {
            let now = self.now();
            self.model.groups[group].give_back(offset, delay, now);
        }
        Ok(())
    }

    fn release(&mut self, hand: Hand, current: bool, held: bool) -> Checked {
        self.count("release");
        let Hand { group, offset, attempt, .. } = hand;
        self.note(|| format!("release {group}/{offset}"));
        let result = hand.delivery.release();
        let released = self.outcome("release", result, current, held)?;
        let progress = self.model.groups[group].get_mut(offset);
        if released {
            progress.counted = attempt - 1;
            progress.counted_synced = progress.counted_synced.min(attempt - 1);
        }
        if current {
            progress.held_until = None;
        }
        Ok(())
    }

    fn extend(&mut self, rng: &mut Rng, hand: Hand, current: bool, held: bool) -> Checked {
        self.count("extend");
        let Hand { group, offset, .. } = hand;
        let by = Duration::from_millis(rng.below(60_000));
        self.note(|| format!("extend {group}/{offset} by {by:?}"));
        let result = hand.delivery.extend(by);
        if self.outcome("extend", result, current, held)? {
            let until = self.now() + by;
            self.model.groups[group].get_mut(offset).held_until = Some(until);
        }
        self.actor().hands.push(hand);
        Ok(())
    }

    /// Rejects a delivery.
    pub(crate) fn reject_hand(&mut self, hand: Hand) -> Checked {
        let current = self.is_current(hand.group, hand.offset, hand.token);
        let lost = self.is_lost(hand.group, hand.offset);
        self.reject(hand, current, lost)
    }

    fn reject(&mut self, hand: Hand, current: bool, lost: bool) -> Checked {
        self.count("reject");
        let Hand { group, offset, .. } = hand;
        self.note(|| format!("reject {group}/{offset}"));
        let dead = self.live().groups[group].dead_letter_topic();
        let result = hand.delivery.reject("bad");
        let unknown = match &result {
            Ok(()) => false,
            Err(
                Error::StaleLease { .. } | Error::AlreadyAcked { .. } | Error::NotLeased { .. },
            ) => {
                self.succeeded("reject")?;
                ensure!(!current || lost, "reject refused a lease that was not over");
                return Ok(());
            }
            Err(error) => {
                if self.failed("reject", error)? == Failed::Refused {
                    if current {
                        self.model.groups[group].get_mut(offset).held_until = None;
                    }
                    return Ok(());
                }
                true
            }
        };
        ensure!(current || unknown, "reject succeeded for a lease that is over");
        let slot = self.letter(group, vec![offset], "bad");
        let event = self.model.add_letter(&dead, slot);
        let now = self.now();
        self.model.groups[group].settle(offset, Ack::With(event), now);
        self.model.groups[group].get_mut(offset).letters += 1;
        if !unknown {
            self.succeeded("reject")?;
            self.promise_by_policy();
        }
        self.open_new_topics()
    }
}
