//! What a group was given, and what it must not be given again.

use std::collections::{HashMap, VecDeque};

use crate::layout::GroupLayout;
use crate::model::{Verdict, violation};
use crate::topic::REMEMBERED;

/// What is known of one message of a group.
#[derive(Clone, Copy, Debug)]
struct Seat {
    /// The least that the next delivery may count.
    attempt: u32,
    /// The same after a power cut.
    durable_attempt: u32,
    delivered: bool,
    /// In somebody's hands.
    held: bool,
    ending: Ending,
}

impl Default for Seat {
    fn default() -> Self {
        let (attempt, durable_attempt) = (1, 1);
        Self { attempt, durable_attempt, delivered: false, held: false, ending: Ending::Open }
    }
}

/// Whether a message was ended for good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Ending {
    #[default]
    Open,
    /// Acknowledged in a process that is gone: a crash may have kept that or not.
    AckedBefore,
    /// Acknowledged in this process.
    Acked,
    /// Never to be delivered again.
    Settled,
}

/// What is known of a group.
#[derive(Debug)]
pub(crate) struct GroupModel {
    layout: GroupLayout,
    first: u64,
    seats: VecDeque<Seat>,
    /// Acknowledged in this process and not known to be durable.
    acked: Vec<u64>,
    /// How many of them there were when a commit began.
    commits: HashMap<u64, usize>,
    /// Changed in this process.
    touched: Vec<u64>,
}

impl GroupModel {
    pub(crate) fn new(layout: GroupLayout) -> Self {
        let (seats, acked, touched) = (VecDeque::new(), Vec::new(), Vec::new());
        Self { layout, first: 0, seats, acked, commits: HashMap::new(), touched }
    }

    fn seat(&mut self, offset: u64) -> Option<&mut Seat> {
        let at = usize::try_from(offset.checked_sub(self.first)?).ok()?;
        if self.seats.len() <= at {
            self.seats.resize(at + 1, Seat::default());
        }
        self.seats.get_mut(at)
    }

    fn known(&self, offset: u64) -> Option<&Seat> {
        self.seats.get(usize::try_from(offset.checked_sub(self.first)?).ok()?)
    }

    pub(crate) fn was_delivered(&self, offset: u64) -> bool {
        offset < self.first || self.known(offset).is_some_and(|seat| seat.delivered)
    }

    fn is_settled(&self, offset: u64) -> bool {
        offset < self.first || self.known(offset).is_some_and(|seat| seat.ending == Ending::Settled)
    }

    /// Whether a consumer ended a message for good, as far as it can tell.
    pub(crate) fn was_ended(&self, offset: u64) -> bool {
        offset < self.first || self.known(offset).is_some_and(|seat| seat.ending > Ending::Open)
    }

    fn error<T>(&self, what: &str, offset: u64) -> Verdict<T> {
        violation(format!("{what}: {} {offset}: {:?}", self.layout.name, self.known(offset)))
    }

    /// A consumer was given a message. Says whether it had been before.
    pub(crate) fn deliver(&mut self, offset: u64, attempt: u32, durable: bool) -> Verdict<bool> {
        let has_short_lease = self.layout.short_lease;
        let Some(seat) = self.seat(offset) else {
            return self.error("delivered again after it was deleted", offset);
        };
        let before = *seat;
        seat.attempt = attempt + 1;
        if durable {
            seat.durable_attempt = attempt + 1;
        }
        (seat.delivered, seat.held) = (true, true);
        if before.ending == Ending::AckedBefore {
            // The crash took the acknowledgement back.
            seat.ending = Ending::Open;
        }
        self.touched.push(offset);
        if before.ending == Ending::Settled {
            return self.error("delivered again after it was settled for good", offset);
        }
        if before.ending == Ending::Acked {
            return self.error("delivered again although nothing had crashed", offset);
        }
        if before.held && !has_short_lease {
            return self.error("delivered to two at a time", offset);
        }
        if attempt < before.attempt {
            return self.error(&format!("attempt {attempt} is told, too low"), offset);
        }
        Ok(before.delivered)
    }

    pub(crate) fn give_back(&mut self, offset: u64, counted: bool) -> Verdict {
        let Some(seat) = self.seat(offset) else {
            return self.error("given back after it was deleted", offset);
        };
        seat.held = false;
        if !counted {
            // A release may be all that a power cut leaves of what was told since.
            seat.attempt = seat.attempt.saturating_sub(1);
            seat.durable_attempt = seat.durable_attempt.min(seat.attempt);
        }
        Ok(())
    }

    /// An acknowledgement returned; a crash may take it back.
    pub(crate) fn ack(&mut self, offset: u64) -> Verdict {
        // Whoever acknowledges before it tells may find the message deleted by then.
        let Some(seat) = self.seat(offset) else { return Ok(()) };
        let had_it = seat.delivered;
        (seat.ending, seat.held) = (seat.ending.max(Ending::Acked), false);
        self.acked.push(offset);
        if had_it { Ok(()) } else { self.error("acknowledged and never delivered", offset) }
    }

    /// What is acknowledged now is durable once this commit has returned.
    pub(crate) fn begin_commit(&mut self, id: u64) {
        self.commits.insert(id, self.acked.len());
    }

    pub(crate) fn end_commit(&mut self, id: u64, durable: bool) -> Verdict {
        let Some(count) = self.commits.remove(&id) else {
            return violation(format!("commit {id} ended and never began"));
        };
        for at in 0..if durable { count.min(self.acked.len()) } else { 0 } {
            self.settle(self.acked[at])?;
        }
        Ok(())
    }

    pub(crate) fn settle_acked(&mut self) -> Verdict {
        for at in 0..self.acked.len() {
            self.settle(self.acked[at])?;
        }
        Ok(())
    }

    /// The end of a message is durable.
    #[expect(clippy::unnecessary_wraps, reason = "it is used where others may fail")]
    pub(crate) fn settle(&mut self, offset: u64) -> Verdict {
        if let Some(seat) = self.seat(offset) {
            seat.ending = Ending::Settled;
        }
        Ok(())
    }

    pub(crate) fn settle_through(&mut self, last: u64, durable: bool) -> Verdict {
        for offset in self.first..=last {
            if !self.was_delivered(offset) && !self.is_settled(offset) {
                return self.error("committed and never delivered", offset);
            }
            let Some(seat) = self.seat(offset) else { continue };
            let ending = if durable { Ending::Settled } else { Ending::Acked };
            seat.ending = seat.ending.max(ending);
            self.touched.push(offset);
        }
        Ok(())
    }

    /// The process is gone: leases and acknowledgements that were not committed may be, too.
    pub(crate) fn end_process(&mut self, keeps_written: bool) {
        for offset in std::mem::take(&mut self.touched) {
            let Some(seat) = self.seat(offset) else { continue };
            seat.held = false;
            if seat.ending == Ending::Acked {
                seat.ending = Ending::AckedBefore;
            }
            if !keeps_written {
                seat.attempt = seat.attempt.min(seat.durable_attempt);
            }
        }
        self.acked.clear();
        self.commits.clear();
    }

    /// Retention deleted everything below `start`, which a crash may undo.
    pub(crate) fn delete(&mut self, start: u64) {
        while self.first + REMEMBERED < start {
            self.seats.pop_front();
            self.first += 1;
        }
    }
}
