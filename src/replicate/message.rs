//! What replicas say to one another, and how it looks in bytes. It owns no connection: the bytes
//! travel by whatever the host has.
//!
//! A message is a version byte, a kind byte, the epoch of its sender, the fields of its kind, and
//! a checksum of all of that, so that a transport without one is safe. All integers are
//! little-endian. No length is stored: what has no fixed size comes last and ends with the
//! message, so nothing that was received sizes an allocation.

use crate::error::{Error, Result};
use crate::format::{u32_at, u64_at};
use crate::offset::{Epoch, NUMBER_MAX, Position};

use super::{Frames, History, LogEnd, Snapshot};

/// The version that this build writes and reads.
const VERSION: u8 = 1;
/// Version, kind and epoch.
const HEAD_BYTES: usize = 10;
const CHECKSUM_BYTES: usize = 4;

/// What one replica says to another.
///
/// Any of them may be lost, doubled, delayed or overtaken by a later one: no promise depends on
/// the order in which they come.
///
/// # Examples
///
/// ```
/// use ackline::Epoch;
/// use ackline::replicate::Message;
///
/// let bytes = Message::Campaign { epoch: Epoch(7) }.encode();
/// assert_eq!(Message::decode(&bytes)?, Message::Campaign { epoch: Epoch(7) });
/// # Ok::<(), ackline::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Message {
    /// From a candidate: promise to follow nothing older than this epoch, and say how far you go.
    Campaign {
        /// The epoch that the candidate wants to lead.
        epoch: Epoch,
    },
    /// From a leader: this epoch has begun, and this is the log to agree with.
    Lead {
        /// The epoch that leads.
        epoch: Epoch,
        /// The leader's history; its last epoch is the one that leads.
        history: History,
    },
    /// From a leader: the frames that come next, maybe of older epochs.
    Frames {
        /// The epoch that leads.
        epoch: Epoch,
        /// How far the leader's readers see.
        visible: Position,
        /// The frames.
        frames: Frames,
    },
    /// From a leader, now and then: I am here, and my readers see this far.
    Visible {
        /// The epoch that leads.
        epoch: Epoch,
        /// How far the leader's readers see.
        visible: Position,
    },
    /// From a leader: begin with this state.
    Snapshot {
        /// The epoch that leads.
        epoch: Epoch,
        /// The state.
        snapshot: Snapshot,
    },
    /// Answers [`Message::Campaign`]: promised, durably.
    Promised {
        /// The epoch that was promised.
        epoch: Epoch,
        /// How far the replica's log went when it had promised.
        end: LogEnd,
    },
    /// Answers [`Message::Lead`]: the replica's log holds nothing that the leader's does not.
    Following {
        /// The epoch that leads.
        epoch: Epoch,
        /// The replica holds all below, durably.
        end: Position,
    },
    /// Answers [`Message::Lead`]: the leader does not keep what the replica would have to begin
    /// with.
    NeedsSnapshot {
        /// The epoch that leads.
        epoch: Epoch,
    },
    /// Answers [`Message::Frames`] and [`Message::Visible`]: all below `end` is durable here, and
    /// is what the leader of `epoch` has.
    Synced {
        /// The epoch that leads.
        epoch: Epoch,
        /// The position below which everything is durable.
        end: Position,
    },
    /// Answers [`Message::Frames`] that begin behind the replica's end: something is missing.
    Gap {
        /// The epoch that leads.
        epoch: Epoch,
        /// Where the replica's log ends.
        end: Position,
    },
    /// The replica did not hear of this epoch's beginning, or forgot: say [`Message::Lead`] again.
    Unknown {
        /// The epoch in question.
        epoch: Epoch,
    },
    /// The replica has promised this epoch, which is newer than the one it was addressed in.
    Fenced {
        /// The newer epoch.
        epoch: Epoch,
    },
    /// The replica cannot follow. If its log has diverged, somebody must look at it.
    Failed {
        /// The epoch that leads.
        epoch: Epoch,
        /// What is wrong, for people.
        reason: String,
    },
}

impl Message {
    /// The epoch of the sender; of [`Message::Fenced`], the one that it has promised.
    pub fn epoch(&self) -> Epoch {
        match self {
            Self::Campaign { epoch }
            | Self::Lead { epoch, .. }
            | Self::Frames { epoch, .. }
            | Self::Visible { epoch, .. }
            | Self::Snapshot { epoch, .. }
            | Self::Promised { epoch, .. }
            | Self::Following { epoch, .. }
            | Self::NeedsSnapshot { epoch }
            | Self::Synced { epoch, .. }
            | Self::Gap { epoch, .. }
            | Self::Unknown { epoch }
            | Self::Fenced { epoch }
            | Self::Failed { epoch, .. } => *epoch,
        }
    }

    /// Whether it is for one who follows; else it is an answer, for one who leads or wants to.
    pub(crate) fn is_for_replica(&self) -> bool {
        matches!(
            self,
            Self::Campaign { .. }
                | Self::Lead { .. }
                | Self::Frames { .. }
                | Self::Visible { .. }
                | Self::Snapshot { .. }
        )
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Campaign { .. } => 1,
            Self::Lead { .. } => 2,
            Self::Frames { .. } => 3,
            Self::Visible { .. } => 4,
            Self::Snapshot { .. } => 5,
            Self::Promised { .. } => 6,
            Self::Following { .. } => 7,
            Self::NeedsSnapshot { .. } => 8,
            Self::Synced { .. } => 9,
            Self::Gap { .. } => 10,
            Self::Unknown { .. } => 11,
            Self::Fenced { .. } => 12,
            Self::Failed { .. } => 13,
        }
    }

    /// The message as it travels; [`decode`](Self::decode) reads it. It does not say how long it
    /// is: the transport does.
    pub fn encode(&self) -> Vec<u8> {
        let payload = match self {
            Self::Frames { frames, .. } => frames.bytes(),
            Self::Snapshot { snapshot, .. } => snapshot.bytes(),
            Self::Failed { reason, .. } => reason.as_bytes(),
            _ => &[],
        };
        let mut out = Vec::with_capacity(HEAD_BYTES + 16 + payload.len() + CHECKSUM_BYTES);
        out.extend_from_slice(&[VERSION, self.kind()]);
        out.extend_from_slice(&self.epoch().0.to_le_bytes());
        match self {
            Self::Lead { history, .. } => history.encode(&mut out),
            Self::Promised { end, .. } => {
                out.extend_from_slice(&end.epoch.0.to_le_bytes());
                out.extend_from_slice(&end.end.0.to_le_bytes());
            }
            Self::Frames { visible: at, .. }
            | Self::Visible { visible: at, .. }
            | Self::Following { end: at, .. }
            | Self::Synced { end: at, .. }
            | Self::Gap { end: at, .. } => out.extend_from_slice(&at.0.to_le_bytes()),
            _ => {}
        }
        out.extend_from_slice(payload);
        let checksum = crc32fast::hash(&out);
        out.extend_from_slice(&checksum.to_le_bytes());
        out
    }

    /// Reads a message that another replica has sent.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] unless the bytes are one whole message of a version and kind that this
    /// build knows, with the right checksums.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        if bytes.len() < HEAD_BYTES + CHECKSUM_BYTES {
            return Err(bad("it is cut"));
        }
        let (message, checksum) = bytes.split_at(bytes.len() - CHECKSUM_BYTES);
        if crc32fast::hash(message) != u32_at(checksum, 0) {
            return Err(bad("its checksum is wrong"));
        }
        let (version, kind) = (message[0], message[1]);
        if version != VERSION {
            return Err(bad(&format!("its version is {version}, this build reads {VERSION}")));
        }
        let epoch = Epoch(checked(u64_at(message, 2))?);
        Self::decode_body(kind, epoch, &message[HEAD_BYTES..])
    }

    fn decode_body(kind: u8, epoch: Epoch, body: &[u8]) -> Result<Self> {
        Ok(match kind {
            1 => Self::Campaign { epoch: alone(epoch, body)? },
            2 => Self::Lead { epoch, history: checked_history(History::decode(body)?)? },
            3 => {
                let (visible, frames) = position(body)?;
                Self::Frames { epoch, visible, frames: Frames::from_bytes(frames.to_vec())? }
            }
            4 => Self::Visible { epoch, visible: last_position(body)? },
            5 => Self::Snapshot { epoch, snapshot: Snapshot::from_bytes(body.to_vec())? },
            6 => {
                let (last, end) = position(body)?;
                let end = LogEnd { epoch: Epoch(last.0), end: last_position(end)? };
                Self::Promised { epoch, end }
            }
            7 => Self::Following { epoch, end: last_position(body)? },
            8 => Self::NeedsSnapshot { epoch: alone(epoch, body)? },
            9 => Self::Synced { epoch, end: last_position(body)? },
            10 => Self::Gap { epoch, end: last_position(body)? },
            11 => Self::Unknown { epoch: alone(epoch, body)? },
            12 => Self::Fenced { epoch: alone(epoch, body)? },
            13 => Self::Failed { epoch, reason: String::from_utf8_lossy(body).into_owned() },
            kind => return Err(bad(&format!("its kind {kind} is not known"))),
        })
    }
}

fn bad(reason: &str) -> Error {
    Error::Malformed { what: "replication message", reason: reason.to_owned() }
}

/// A number of a size that logs have: one may add to it without a thought.
fn checked(number: u64) -> Result<u64> {
    if number <= NUMBER_MAX { Ok(number) } else { Err(bad("a number in it is too large")) }
}

fn checked_history(history: History) -> Result<History> {
    checked(history.end.0)?;
    checked(history.start.0)?;
    // The epochs ascend.
    checked(history.epochs.last().map_or(0, |last| last.epoch.0))?;
    Ok(history)
}

/// The epoch of a message that has no other field.
fn alone(epoch: Epoch, body: &[u8]) -> Result<Epoch> {
    if body.is_empty() { Ok(epoch) } else { Err(bad("it is too long")) }
}

/// A position, and what comes after it.
fn position(body: &[u8]) -> Result<(Position, &[u8])> {
    let (number, rest) = body.split_at_checked(8).ok_or_else(|| bad("it is cut"))?;
    Ok((Position(checked(u64_at(number, 0))?), rest))
}

fn last_position(body: &[u8]) -> Result<Position> {
    let (position, rest) = position(body)?;
    if rest.is_empty() { Ok(position) } else { Err(bad("it is too long")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replicate::EpochStart;
    use crate::replicate::testing::whole_frames;
    use proptest::prelude::*;

    fn any_number() -> impl Strategy<Value = u64> {
        prop_oneof![0..10u64, Just(NUMBER_MAX), 0..NUMBER_MAX]
    }

    fn any_history() -> impl Strategy<Value = History> {
        let steps = prop::collection::vec((1..9u64, 0..99u64), 1..6);
        (any::<u128>(), steps, 0..99u64).prop_map(|(log_id, steps, tail)| {
            let (mut epoch, mut start) = (0, 0);
            let mut epochs = Vec::new();
            for (more, bytes) in steps {
                (epoch, start) = (epoch + more, start + bytes);
                epochs.push(EpochStart { epoch: Epoch(epoch), start: Position(start) });
            }
            History { log_id, epochs, start: Position(3), end: Position(start + tail) }
        })
    }

    /// Every kind but the snapshot, of which only a log can make one.
    fn any_message() -> impl Strategy<Value = Message> {
        let number = any_number;
        prop_oneof![
            number().prop_map(|e| Message::Campaign { epoch: Epoch(e) }),
            (number(), any_history())
                .prop_map(|(e, history)| Message::Lead { epoch: Epoch(e), history }),
            (number(), number(), 0..9u64, 1..4usize).prop_map(|(e, visible, epoch, count)| {
                let frames = whole_frames(epoch, 4096, &vec![24; count]);
                Message::Frames { epoch: Epoch(e), visible: Position(visible), frames }
            }),
            (number(), number())
                .prop_map(|(e, at)| Message::Visible { epoch: Epoch(e), visible: Position(at) }),
            (number(), number(), number()).prop_map(|(e, last, at)| Message::Promised {
                epoch: Epoch(e),
                end: LogEnd { epoch: Epoch(last), end: Position(at) },
            }),
            (0..5u8, number(), number(), ".{0,40}").prop_map(|(kind, e, at, reason)| {
                let (epoch, end) = (Epoch(e), Position(at));
                match kind {
                    0 => Message::Following { epoch, end },
                    1 => Message::Synced { epoch, end },
                    2 => Message::Gap { epoch, end },
                    3 => Message::NeedsSnapshot { epoch },
                    _ => Message::Failed { epoch, reason },
                }
            }),
            (any::<bool>(), number()).prop_map(|(fenced, e)| {
                let epoch = Epoch(e);
                if fenced { Message::Fenced { epoch } } else { Message::Unknown { epoch } }
            }),
        ]
    }

    proptest! {
        #[test]
        fn a_message_reads_back(message in any_message()) {
            prop_assert_eq!(Message::decode(&message.encode()).expect("it reads back"), message);
        }

        #[test]
        fn no_changed_byte_and_no_cut_goes_unnoticed(
            message in any_message(),
            at in any::<prop::sample::Index>(),
            flip in 1..=255u8,
        ) {
            let mut bytes = message.encode();
            let at = at.index(bytes.len());
            prop_assert!(Message::decode(&bytes[..at]).is_err());
            bytes[at] ^= flip;
            prop_assert!(Message::decode(&bytes).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 0..200),
            kind in 0..16u8,
        ) {
            drop(Message::decode(&bytes));
            // With a right head and checksum, the fields are looked at, too.
            if bytes.len() >= HEAD_BYTES {
                (bytes[0], bytes[1]) = (VERSION, kind);
                bytes[9] = 0;
                let checksum = crc32fast::hash(&bytes);
                bytes.extend_from_slice(&checksum.to_le_bytes());
                drop(Message::decode(&bytes));
            }
        }
    }

    #[test]
    fn numbers_that_no_log_reaches_are_refused() {
        let bytes = Message::Synced { epoch: Epoch(1), end: Position(u64::MAX) }.encode();
        assert!(matches!(Message::decode(&bytes), Err(Error::Malformed { .. })));
    }
}
