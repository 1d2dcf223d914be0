//! The replica's side: makes its log the leader's, frame by frame, and says how far it is durable.
//!
//! It answers for an epoch only after it has reconciled its log with that epoch's leader, in this
//! life. From then on all that its log holds is the leader's, since nothing but the leader's
//! frames is added; so whatever is durable may be acknowledged. What it knows of that is in memory
//! alone: after a restart it says `Unknown`, and is told again.

use crate::error::{Error, Result};
use crate::mutant::{self, Mutant};
use crate::offset::{Epoch, Position};
use crate::pending::Pending;
use crate::sync::Mutex;

use super::{History, LogHandle, Message, Snapshot};

/// A log that follows whoever leads the newest epoch.
#[derive(Debug)]
pub(crate) struct Follower {
    log: LogHandle,
    /// Held while a message is looked at, so that one of a newer epoch does not come in between;
    /// not while something waits for the disk.
    standing: Mutex<Option<Standing>>,
}

/// How the log stands to the leader of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It needs a snapshot. Only who has said so in this life takes one: a copy that comes late
    /// would take back what was acknowledged since.
    Outside(Epoch),
    /// All that it holds is the leader's.
    Reconciled(Epoch),
}

/// Frames that are on their way to the disk.
struct Ingested {
    epoch: Epoch,
    visible: Position,
    pending: Pending<Position>,
}

impl Follower {
    pub(crate) fn new(log: LogHandle) -> Self {
        Self { log, standing: Mutex::new(None) }
    }

    /// Takes messages for a replica, in the order in which they came over one link, and answers
    /// them. Frames that come together share one write; this waits for the disk, and the caller's
    /// thread does the write itself where nobody else does, so that no thread has to be woken.
    ///
    /// Called under no lock.
    pub(crate) fn receive(
        &self,
        messages: impl IntoIterator<Item = Message>,
        mut reply: impl FnMut(Message),
    ) {
        let mut ingested = Vec::new();
        for message in messages {
            let epoch = message.epoch();
            match self.take(message) {
                Ok(Taken::Answer(answer)) => reply(answer),
                Ok(Taken::Ingest(frames)) => ingested.push(frames),
                Ok(Taken::Seen { visible, end }) => {
                    reply(Message::Synced { epoch, end });
                    self.advance(epoch, visible.min(end));
                }
                Ok(Taken::Nothing) => {}
                Err(error) => reply(refusal(epoch, &error)),
            }
        }
        let mut reached: Option<(Epoch, Position, Position)> = None;
        for Ingested { epoch, visible, pending } in ingested {
            match pending.wait() {
                // One answer for all that became durable together.
                Ok(end) => {
                    let (end, visible) = match reached {
                        Some((of, before, seen)) if of == epoch => {
                            (end.max(before), visible.max(seen))
                        }
                        _ => (end, visible),
                    };
                    reached = Some((epoch, end, visible));
                }
                Err(error) => reply(refusal(epoch, &error)),
            }
        }
        if let Some((epoch, end, visible)) = reached {
            reply(Message::Synced { epoch, end });
            self.advance(epoch, visible.min(end));
        }
    }

    /// What is visible to the leader's readers is visible to those of this log, as far as it goes.
    fn advance(&self, epoch: Epoch, end: Position) {
        // It fails if a newer epoch has begun meanwhile, and that one says how far to see.
        drop(self.log.advance(epoch, end));
    }

    fn take(&self, message: Message) -> Result<Taken> {
        let mut standing = self.standing.lock();
        let epoch = message.epoch();
        let promised = self.log.promised()?;
        if epoch < promised {
            return Ok(Taken::Answer(Message::Fenced { epoch: promised }));
        }
        if self.log.leading()? == Some(epoch) {
            // The epoch was given twice. Whoever obeys here would have two histories of it.
            let reason = format!("this replica leads epoch {epoch} itself");
            return Ok(Taken::Answer(Message::Failed { epoch, reason }));
        }
        let is_reconciled = *standing == Some(Standing::Reconciled(epoch));
        Ok(match message {
            Message::Campaign { .. } => {
                self.log.follow(epoch)?;
                // Read after the promise: no frame of an older epoch is added from here on.
                Taken::Answer(Message::Promised { epoch, end: self.log.history()?.log_end() })
            }
            Message::Lead { history, .. } if !is_reconciled => {
                self.log.follow(epoch)?;
                *standing = None;
                let own = self.log.history()?;
                let verdict = compare(&own, &history, epoch)?;
                Taken::Answer(self.reconcile(&mut standing, epoch, (verdict, own.end))?)
            }
            Message::Snapshot { snapshot, .. } if *standing == Some(Standing::Outside(epoch)) => {
                Taken::Answer(self.reset(&mut standing, epoch, &snapshot)?)
            }
            // The leader does not keep any more what would have to come next.
            Message::Lead { history, .. } if self.log.history()?.end < history.start => {
                *standing = Some(Standing::Outside(epoch));
                Taken::Answer(Message::NeedsSnapshot { epoch })
            }
            // It says again what it has said, which may have been lost.
            Message::Lead { .. } | Message::Snapshot { .. } if is_reconciled => {
                Taken::Answer(Message::Following { epoch, end: self.log.durable()? })
            }
            _ if !is_reconciled => Taken::Answer(Message::Unknown { epoch }),
            Message::Visible { visible, .. } => Taken::Seen { visible, end: self.log.durable()? },
            Message::Frames { visible, frames, .. } => {
                let pending = self.log.ingest_to_wait(epoch, &frames);
                if mutant::on(Mutant::FollowerAcksUnsynced) {
                    pending.detach();
                    return Ok(Taken::Answer(Message::Synced { epoch, end: frames.end() }));
                }
                Taken::Ingest(Ingested { epoch, visible, pending })
            }
            _ => Taken::Nothing,
        })
    }

    /// Makes the log a beginning of the leader's, and says how far it goes.
    fn reconcile(
        &self,
        standing: &mut Option<Standing>,
        epoch: Epoch,
        (verdict, end): (Verdict, Position),
    ) -> Result<Message> {
        if mutant::on(Mutant::TruncateByWatermark) {
            self.log.truncate(epoch, self.log.visible()?)?;
            *standing = Some(Standing::Reconciled(epoch));
            return Ok(Message::Following { epoch, end: self.log.durable()? });
        }
        match verdict {
            Verdict::Beyond(common) => {
                // What differs would be in the way of the snapshot.
                if let Some(common) = common.filter(|common| *common < end) {
                    self.log.truncate(epoch, common)?;
                }
                *standing = Some(Standing::Outside(epoch));
                return Ok(Message::NeedsSnapshot { epoch });
            }
            Verdict::Truncate(end) if !mutant::on(Mutant::FollowerAcksUnmatched) => {
                self.log.truncate(epoch, end)?;
            }
            Verdict::Truncate(_) | Verdict::Prefix => {}
        }
        *standing = Some(Standing::Reconciled(epoch));
        Ok(Message::Following { epoch, end: self.log.durable()? })
    }

    fn reset(
        &self,
        standing: &mut Option<Standing>,
        epoch: Epoch,
        snapshot: &Snapshot,
    ) -> Result<Message> {
        // If it fails half-way, nothing is known of the log: the leader has to ask anew.
        *standing = None;
        self.log.reset(epoch, snapshot)?;
        *standing = Some(Standing::Reconciled(epoch));
        Ok(Message::Following { epoch, end: self.log.durable()? })
    }
}

/// What became of a message.
enum Taken {
    Answer(Message),
    Ingest(Ingested),
    /// The leader's readers see up to `visible`, and the log is durable up to `end`.
    Seen {
        visible: Position,
        end: Position,
    },
    Nothing,
}

/// How a log compares with that of a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The leader holds all of it.
    Prefix,
    /// The leader holds what is below this position.
    Truncate(Position),
    /// The leader does not keep what would have to come next; it holds what is below the position,
    /// if one is known.
    Beyond(Option<Position>),
}

fn compare(own: &History, leader: &History, epoch: Epoch) -> Result<Verdict> {
    let last = leader.epochs.last().map(|last| last.epoch);
    if last != Some(epoch) {
        let reason = format!("of a leader of epoch {epoch} whose log does not end in it");
        return Err(Error::Malformed { what: "history", reason });
    }
    if own.log_id != leader.log_id {
        // Whether it is empty, so that it may become a replica, is for the log to say.
        return Ok(Verdict::Beyond(None));
    }
    // The epoch that leads goes on, and its history may have been overtaken by its frames: what
    // this log holds of it is the leader's, be it more than the leader had when it wrote this.
    let leader = History { end: Position(u64::MAX), ..leader.clone() };
    Ok(match own.common_end(&leader) {
        Some(common) if common < leader.start => Verdict::Beyond(Some(common)),
        Some(common) if common < own.end => Verdict::Truncate(common),
        Some(_) => Verdict::Prefix,
        None => Verdict::Beyond(None),
    })
}

/// How an error is answered.
fn refusal(epoch: Epoch, error: &Error) -> Message {
    match error {
        Error::Fenced { epoch } => Message::Fenced { epoch: *epoch },
        Error::NotContinuous { start, end } if start > end => Message::Gap { epoch, end: *end },
        error => Message::Failed { epoch, reason: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::options::Options;
    use crate::replicate::mirror::Passive;
    use crate::replicate::{EpochStart, LogEnd};
    use crate::storage::sim::{SimClock, SimDisk};

    const EPOCH: Epoch = Epoch(3);

    fn history(log_id: u128, epochs: &[(u64, u64)], start: u64, end: u64) -> History {
        let epochs = epochs
            .iter()
            .map(|(epoch, start)| EpochStart { epoch: Epoch(*epoch), start: Position(*start) })
            .collect();
        History { log_id, epochs, start: Position(start), end: Position(end) }
    }

    fn check(own: &[(u64, u64)], end: u64, leader: &[(u64, u64)], start: u64, verdict: Verdict) {
        let own = history(1, own, 0, end);
        let leader = history(1, leader, start, 100);
        assert_eq!(compare(&own, &leader, Epoch(3)).expect("a verdict"), verdict);
    }

    #[test]
    fn a_log_of_the_leaders_epochs_is_a_prefix() {
        check(&[(1, 0)], 50, &[(1, 0), (3, 60)], 0, Verdict::Prefix);
        check(&[(1, 0), (3, 60)], 80, &[(1, 0), (3, 60)], 0, Verdict::Prefix);
    }

    #[test]
    fn what_the_leader_does_not_hold_is_truncated() {
        check(&[(1, 0)], 70, &[(1, 0), (3, 60)], 0, Verdict::Truncate(Position(60)));
        check(&[(1, 0), (2, 50)], 90, &[(1, 0), (3, 60)], 0, Verdict::Truncate(Position(50)));
    }

    #[test]
    fn a_history_that_comes_late_takes_nothing_back() {
        // The leader's history ends at 100, and the replica has taken more of its frames since.
        check(&[(1, 0), (3, 60)], 500, &[(1, 0), (3, 60)], 0, Verdict::Prefix);
    }

    #[test]
    fn a_log_that_ends_before_what_the_leader_keeps_needs_a_snapshot() {
        check(&[(1, 0)], 50, &[(1, 0), (3, 60)], 55, Verdict::Beyond(Some(Position(50))));
        check(&[(1, 0), (2, 40)], 70, &[(1, 0), (3, 40)], 55, Verdict::Beyond(Some(Position(40))));
        check(&[(2, 0)], 50, &[(1, 0), (3, 60)], 0, Verdict::Beyond(None));
    }

    #[test]
    fn a_replica_that_falls_behind_what_its_leader_keeps_asks_for_a_snapshot() {
        let open = |seed| {
            let (disk, clock) = (SimDisk::new(seed), SimClock::new());
            let options = Options::new().simulated(Arc::new(clock), seed);
            let passive = Arc::new(Passive::default());
            let log = options.replicator(passive).open_on(disk.storage()).expect("it opens");
            (log.replica(), log)
        };
        let ((leader, _leading), (replica, _following)) = (open(1), open(2));
        leader.lead(EPOCH, LogEnd::default()).expect("it leads");
        let follower = Follower::new(replica);
        let answer = |message| {
            let mut answers = Vec::new();
            follower.receive([message], |answer| answers.push(answer));
            answers.pop().expect("it answers")
        };
        let lead = |start: u64| {
            let history = leader.history().expect("it is open");
            let start = Position(history.start.0 + start);
            Message::Lead { epoch: EPOCH, history: History { start, ..history } }
        };
        let needs_snapshot = Message::NeedsSnapshot { epoch: EPOCH };
        assert_eq!(answer(lead(0)), needs_snapshot);
        let snapshot = leader.snapshot().expect("there is one");
        let end = snapshot.position();
        let following = Message::Following { epoch: EPOCH, end };
        assert_eq!(answer(Message::Snapshot { epoch: EPOCH, snapshot }), following);
        assert_eq!(answer(lead(0)), following, "it goes on from there");
        assert_eq!(answer(lead(8)), needs_snapshot, "what comes next is not kept");
    }

    #[test]
    fn another_log_needs_a_snapshot() {
        let (own, leader) = (history(1, &[(0, 0)], 0, 0), history(2, &[(3, 0)], 0, 9));
        assert_eq!(compare(&own, &leader, Epoch(3)).expect("a verdict"), Verdict::Beyond(None));
    }

    #[test]
    fn a_history_that_does_not_end_in_the_epoch_that_leads_is_refused() {
        let own = history(1, &[(1, 0)], 0, 9);
        assert!(matches!(compare(&own, &own, Epoch(3)), Err(Error::Malformed { .. })));
    }
}
