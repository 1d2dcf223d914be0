//! Which epochs a log was written in, and how far two logs agree.

use crate::error::{Error, Result};
use crate::format::u64_at;
use crate::offset::{Epoch, Position};

/// How far a log goes. Of two replicas, the greater one holds everything that the lesser one
/// holds and that can have been acknowledged: ordered by the epoch of the last frame, then by
/// where it ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogEnd {
    /// The epoch of the last frame.
    pub epoch: Epoch,
    /// The position behind it.
    pub end: Position,
}

/// Where an epoch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: Epoch,
    /// The position of its first frame.
    pub start: Position,
}

/// What a log says of itself to another replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// Drawn when the log was made; the same in all replicas of it.
    pub log_id: u128,
    /// The epochs in which its frames were written, ascending, each with its beginning. Never
    /// empty. The oldest may be forgotten.
    pub epochs: Vec<EpochStart>,
    /// The first position that can still be read.
    pub start: Position,
    /// The position behind the last frame.
    pub end: Position,
}

impl History {
    /// How far the log goes.
    pub fn log_end(&self) -> LogEnd {
        let epoch = self.epochs.last().map_or(Epoch(0), |last| last.epoch);
        LogEnd { epoch, end: self.end }
    }

    /// Where `epoch` ends in this log; `None` if it has no frame of it that it remembers.
    fn end_of(&self, epoch: Epoch) -> Option<Position> {
        let at = self.epochs.iter().position(|known| known.epoch == epoch)?;
        Some(self.epochs.get(at + 1).map_or(self.end, |next| next.start))
    }

    /// The position up to which both logs hold the same frames: the end of the highest epoch that
    /// both know, in whichever it ends first. `None` if they know of no common one.
    ///
    /// An epoch has one leader, in one life, so that one epoch has one history. This is the rule
    /// by which a follower of Kafka truncates
    /// (<https://cwiki.apache.org/confluence/display/KAFKA/KIP-101>).
    pub fn common_end(&self, other: &Self) -> Option<Position> {
        self.epochs.iter().rev().find_map(|ours| {
            let (here, there) = (self.end_of(ours.epoch)?, other.end_of(ours.epoch)?);
            Some(here.min(there))
        })
    }

    /// The bytes that [`decode`](Self::decode) reads.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.log_id.to_le_bytes());
        out.extend_from_slice(&self.start.0.to_le_bytes());
        out.extend_from_slice(&self.end.0.to_le_bytes());
        out.extend_from_slice(&(self.epochs.len() as u64).to_le_bytes());
        for EpochStart { epoch, start } in &self.epochs {
            out.extend_from_slice(&epoch.0.to_le_bytes());
            out.extend_from_slice(&start.0.to_le_bytes());
        }
    }

    /// Reads a history that another replica has sent.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] unless the bytes are one, with ascending epochs.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        const FIXED_BYTES: usize = 40;
        let bad = |reason: &str| Error::Malformed { what: "history", reason: reason.to_owned() };
        let Some((fixed, epochs)) = bytes.split_at_checked(FIXED_BYTES) else {
            return Err(bad("it is cut"));
        };
        let number = u64_at(fixed, 32);
        if epochs.is_empty() || number.checked_mul(16) != Some(epochs.len() as u64) {
            return Err(bad("the number of epochs is wrong"));
        }
        let epochs: Vec<EpochStart> = epochs
            .chunks_exact(16)
            .map(|pair| EpochStart {
                epoch: Epoch(u64_at(pair, 0)),
                start: Position(u64_at(pair, 8)),
            })
            .collect();
        let ascends =
            |pair: &[EpochStart]| pair[0].epoch < pair[1].epoch && pair[0].start <= pair[1].start;
        let end = Position(u64_at(fixed, 24));
        if !epochs.windows(2).all(ascends) || epochs.last().is_some_and(|last| last.start > end) {
            return Err(bad("its epochs do not ascend"));
        }
        let log_id = u128::from(u64_at(fixed, 0)) | u128::from(u64_at(fixed, 8)) << 64;
        Ok(Self { log_id, epochs, start: Position(u64_at(fixed, 16)), end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn history(epochs: &[(u64, u64)], end: u64) -> History {
        let epochs = epochs
            .iter()
            .map(|(epoch, start)| EpochStart { epoch: Epoch(*epoch), start: Position(*start) })
            .collect();
        History { log_id: 7 << 70, epochs, start: Position(0), end: Position(end) }
    }

    fn check(ours: &[(u64, u64)], end: u64, theirs: &[(u64, u64)], their_end: u64, common: u64) {
        let (ours, theirs) = (history(ours, end), history(theirs, their_end));
        assert_eq!(ours.common_end(&theirs), Some(Position(common)), "{ours:?} {theirs:?}");
        assert_eq!(theirs.common_end(&ours), Some(Position(common)), "{theirs:?} {ours:?}");
    }

    #[test]
    fn logs_agree_up_to_the_end_of_their_highest_common_epoch() {
        check(&[(0, 0)], 100, &[(0, 0)], 60, 60);
        check(&[(0, 0), (1, 50)], 100, &[(0, 0)], 60, 50);
        check(&[(0, 0), (1, 50)], 100, &[(0, 0), (2, 40)], 60, 40);
        check(&[(0, 0), (1, 50), (3, 90)], 100, &[(0, 0), (1, 50), (2, 70)], 99, 70);
        check(&[(0, 0), (1, 50), (3, 90)], 100, &[(1, 50), (3, 90)], 95, 95);
    }

    #[test]
    fn logs_without_a_common_epoch_do_not_agree_anywhere() {
        let (ours, theirs) = (history(&[(4, 10)], 20), history(&[(5, 10)], 30));
        assert_eq!(ours.common_end(&theirs), None);
    }

    #[test]
    fn a_later_epoch_goes_further_than_a_longer_log() {
        let end = |epoch, end| LogEnd { epoch: Epoch(epoch), end: Position(end) };
        assert!(end(2, 10) > end(1, 99) && end(2, 11) > end(2, 10));
    }

    proptest! {
        #[test]
        fn a_history_reads_back(starts in prop::collection::btree_map(0..100u64, 0..9u64, 1..9)) {
            let mut at = 0;
            let pairs: Vec<_> = starts.into_iter().map(|(epoch, step)| {
                at += step;
                (epoch, at)
            }).collect();
            let history = history(&pairs, at + 5);
            let mut bytes = Vec::new();
            history.encode(&mut bytes);
            prop_assert_eq!(History::decode(&bytes).expect("it reads back"), history);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(History::decode(&bytes));
        }
    }
}
