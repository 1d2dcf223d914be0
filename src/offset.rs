//! The numbers that name things: where a byte lies in the log, and which message of a topic is
//! meant. They are different types, so that one is never taken for the other.

use std::fmt;

/// The dense, 0-based number of a message within its topic.
///
/// The first message of a topic has offset 0, the next one 1, and so on without gaps. An offset
/// is never given to another message, not even after retention deleted the one that had it,
/// unless a crash or [`salvage`](crate::salvage) lost that message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(pub u64);

impl Offset {
    /// The offset of the next message.
    ///
    /// # Examples
    ///
    /// ```
    /// assert_eq!(ackline::Offset(4).next(), ackline::Offset(5));
    /// ```
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<u64> for Offset {
    fn from(offset: u64) -> Self {
        Self(offset)
    }
}

/// A byte position in the whole log, counted over all segments. What a crash loses frees its
/// positions; others are never reused.
///
/// Positions order everything that the log holds: of two records, whatever their topics, the one
/// at the lower position was written first. Records of one frame share its position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

impl Position {
    /// The position `bytes` further on.
    #[must_use]
    pub(crate) const fn plus(self, bytes: u64) -> Self {
        Self(self.0 + bytes)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a leadership: each time a replica of a log is made its leader, it is given one
/// that is greater than all before. Frames are stamped with it.
///
/// A log that was never replicated is in epoch 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// No log gets this far: a larger number in a file is not one that was written. Sums of a few
/// smaller ones do not overflow.
pub(crate) const NUMBER_MAX: u64 = 1 << 62;

/// The number of a topic within its log; names are only looked up once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TopicId(pub(crate) u32);

/// The number of a consumer group within its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct GroupId(pub(crate) u32);
