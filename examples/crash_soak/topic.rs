//! Which record is at which offset of a topic, and which of them were promised.

use std::collections::VecDeque;

use crate::event::Found;
use crate::model::{Verdict, violation};

/// What is known of one offset.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Slot {
    pub(crate) offset: u64,
    pub(crate) found: Option<Found>,
    /// When the append was told to have returned.
    pub(crate) appended_at: Option<u64>,
    /// It must be there after every crash.
    pub(crate) promised: bool,
}

/// How many deleted records are remembered: a crash may undo that they were deleted, as nobody
/// was promised that.
pub(crate) const REMEMBERED: u64 = 20_000;

/// What is known of a topic, from the first record that retention has left and somewhat before.
#[derive(Debug, Default)]
pub(crate) struct TopicModel {
    /// Of all below, nothing is known any more.
    first: u64,
    /// Everything below has been deleted at some time.
    deleted: u64,
    slots: VecDeque<Slot>,
    /// Where reading is, and where it must end; after an open.
    next: u64,
    until: u64,
    /// Slots from here on may hold an append that is not promised.
    unpromised_from: u64,
}

impl TopicModel {
    /// Everything below has been deleted at some time, though it may have come back.
    pub(crate) fn deleted(&self) -> u64 {
        self.deleted
    }

    /// Behind the last offset of which something is known.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    fn slot(&mut self, offset: u64) -> Option<&mut Slot> {
        let at = usize::try_from(offset.checked_sub(self.first)?).ok()?;
        while self.slots.len() <= at {
            let offset = self.first + self.slots.len() as u64;
            self.slots.push_back(Slot { offset, ..Slot::default() });
        }
        self.slots.get_mut(at)
    }

    pub(crate) fn found(&self, offset: u64) -> Option<Found> {
        let at = usize::try_from(offset.checked_sub(self.first)?).ok()?;
        self.slots.get(at).and_then(|slot| slot.found)
    }

    /// A record is at an offset. Says whether that is new.
    pub(crate) fn place(&mut self, offset: u64, found: Found) -> Verdict<bool> {
        let Some(slot) = self.slot(offset) else {
            return violation(format!("{found} is back at {offset}, which was deleted"));
        };
        match slot.found {
            Some(known) if known == found => Ok(false),
            Some(known) => violation(format!("altered: at {offset} was {known}, now {found}")),
            None => {
                slot.found = Some(found);
                Ok(true)
            }
        }
    }

    pub(crate) fn promise(&mut self, offset: u64) {
        if let Some(slot) = self.slot(offset) {
            slot.promised = true;
        }
    }

    pub(crate) fn appended(&mut self, offset: u64, promised: bool, now: u64) -> Verdict {
        let Some(slot) = self.slot(offset) else { return Ok(()) };
        if slot.appended_at.is_some() {
            return violation(format!("two appends were told that they are at {offset}"));
        }
        slot.appended_at = Some(now);
        slot.promised |= promised;
        Ok(())
    }

    pub(crate) fn promise_appended_before(&mut self, moment: u64) {
        let from = self.unpromised_from.saturating_sub(self.first);
        let from = usize::try_from(from).unwrap_or(0).min(self.slots.len());
        for slot in self.slots.range_mut(from..) {
            slot.promised |= slot.appended_at.is_some_and(|at| at < moment);
        }
    }

    /// A reader is about to read all from `start` to before `end`.
    pub(crate) fn begin_reading(&mut self, start: u64, end: u64) -> Verdict {
        if start < self.first || start > self.deleted || end < start {
            return violation(format!("reads {start}..{end}, {} is the first", self.deleted));
        }
        (self.next, self.until) = (start, end);
        Ok(())
    }

    pub(crate) fn read_next(&mut self, offset: u64) -> Verdict {
        if offset != self.next {
            return violation(format!("read {offset}, and {} was next", self.next));
        }
        self.next += 1;
        Ok(())
    }

    pub(crate) fn skip(&mut self, from: u64, to: u64) -> Verdict {
        if from != self.next || to < from {
            return violation(format!("{from}..{to} is gone, and {} was next", self.next));
        }
        self.next = to;
        Ok(())
    }

    pub(crate) fn read_to(&mut self, end: u64) -> Verdict {
        if end != self.next || end < self.until {
            return violation(format!("read to {end}, {} of {}", self.next, self.until));
        }
        self.until = end;
        Ok(())
    }

    /// Everything was read: returns what was not there, and forgets it.
    pub(crate) fn finish_reading(&mut self) -> Verdict<Vec<Slot>> {
        if self.next != self.until {
            return violation(format!("read only to {} of {}", self.next, self.until));
        }
        let kept = usize::try_from(self.until.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let lost = self.slots.split_off(kept.min(self.slots.len()));
        self.unpromised_from = self.until;
        Ok(lost.into())
    }

    /// Retention deleted everything below `start`.
    pub(crate) fn delete(&mut self, start: u64) -> Verdict {
        for offset in self.deleted..start {
            if self.found(offset).is_none() {
                return violation(format!("{offset} was deleted and never seen"));
            }
        }
        self.deleted = self.deleted.max(start);
        while self.first + REMEMBERED < self.deleted {
            self.first += 1;
            self.slots.pop_front();
        }
        Ok(())
    }
}
