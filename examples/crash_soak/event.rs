//! What a child tells its supervisor, a line each, through a pipe: a line that was written is
//! read even if the child is killed right behind it.

use std::fmt;
use std::ops::Range;

use crate::Failure;
use crate::payload::{Ident, Letter};

/// Something that is in a topic: a record, or one with a dead letter around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) ident: Ident,
    pub(crate) letter: Option<Letter>,
}

/// What a child tells. Where it says *about to*, it tells before it calls, else when the call has
/// returned `Ok`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// About to open.
    Opening,
    Opened {
        cleanly: bool,
        rewritten: u64,
        torn: bool,
    },
    /// About to read a whole topic.
    Reading {
        topic: usize,
        start: u64,
        end: u64,
    },
    /// Found where it lies.
    Seen {
        topic: usize,
        offset: u64,
        found: Found,
    },
    /// Deleted by retention while it was read.
    Gone {
        topic: usize,
        from: u64,
        to: u64,
    },
    Read {
        topic: usize,
        end: u64,
    },
    /// The threads start.
    Working,
    /// About to append the next records of a producer.
    Appending {
        producer: u8,
        first: u64,
        count: u64,
    },
    /// One record is safe as the policy says.
    Appended {
        topic: usize,
        offset: u64,
        ident: Ident,
    },
    /// Nothing of it was written.
    Refused {
        producer: u8,
        first: u64,
        count: u64,
    },
    Delivered {
        group: usize,
        offset: u64,
        attempt: u32,
        found: Found,
    },
    /// About to give a message back, the attempt counted or not.
    GivingBack {
        group: usize,
        offset: u64,
        counted: bool,
    },
    Acked {
        group: usize,
        offset: u64,
    },
    /// The dead letter is as safe as the policy says.
    Rejected {
        group: usize,
        offset: u64,
    },
    /// A batch of acknowledgement and append is as safe as the policy says.
    Relayed {
        source: u64,
        offset: u64,
        ident: Ident,
    },
    /// About to commit a group.
    Committing {
        group: usize,
        id: u64,
    },
    Committed {
        group: usize,
        id: u64,
    },
    /// Everything up to there is acknowledged and durable.
    CommittedThrough {
        group: usize,
        offset: u64,
    },
    /// About to sync the log.
    Syncing {
        id: u64,
    },
    Synced {
        id: u64,
    },
    /// About to close.
    Closing,
    Closed,
    /// Every group has consumed everything.
    Drained,
    /// A call answered an error that it should not have. The text follows on the line.
    Failed,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.ident)?;
        if let Some(Letter { group, offset, attempts, rejected }) = self.letter {
            write!(f, " {group} {offset} {attempts} {}", u8::from(rejected))?;
        }
        Ok(())
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Opening => write!(f, "opening"),
            Self::Opened { cleanly, rewritten, torn } => {
                write!(f, "opened {} {rewritten} {}", u8::from(cleanly), u8::from(torn))
            }
            Self::Reading { topic, start, end } => write!(f, "reading {topic} {start} {end}"),
            Self::Seen { topic, offset, found } => write!(f, "seen {topic} {offset} {found}"),
            Self::Gone { topic, from, to } => write!(f, "gone {topic} {from} {to}"),
            Self::Read { topic, end } => write!(f, "read {topic} {end}"),
            Self::Working => write!(f, "working"),
            Self::Appending { producer, first, count } => {
                write!(f, "appending {producer} {first} {count}")
            }
            Self::Appended { topic, offset, ident } => {
                write!(f, "appended {topic} {offset} {ident}")
            }
            Self::Refused { producer, first, count } => {
                write!(f, "refused {producer} {first} {count}")
            }
            Self::Delivered { group, offset, attempt, found } => {
                write!(f, "delivered {group} {offset} {attempt} {found}")
            }
            Self::GivingBack { group, offset, counted } => {
                write!(f, "giving {group} {offset} {}", u8::from(counted))
            }
            Self::Acked { group, offset } => write!(f, "acked {group} {offset}"),
            Self::Rejected { group, offset } => write!(f, "rejected {group} {offset}"),
            Self::Relayed { source, offset, ident } => {
                write!(f, "relayed {source} {offset} {ident}")
            }
            Self::Committing { group, id } => write!(f, "committing {group} {id}"),
            Self::Committed { group, id } => write!(f, "committed {group} {id}"),
            Self::CommittedThrough { group, offset } => write!(f, "through {group} {offset}"),
            Self::Syncing { id } => write!(f, "syncing {id}"),
            Self::Synced { id } => write!(f, "synced {id}"),
            Self::Closing => write!(f, "closing"),
            Self::Closed => write!(f, "closed"),
            Self::Drained => write!(f, "drained"),
            Self::Failed => write!(f, "failed"),
        }
    }
}

/// The numbers that follow the first word of a line.
struct Fields<'a>(std::str::SplitAsciiWhitespace<'a>);

impl Fields<'_> {
    fn number<T: TryFrom<u64>>(&mut self) -> Result<T, Failure> {
        let number: u64 = self.0.next().ok_or("too few fields")?.parse()?;
        T::try_from(number).map_err(|_| format!("{number} is too large").into())
    }

    fn flag(&mut self) -> Result<bool, Failure> {
        Ok(self.number::<u8>()? != 0)
    }

    fn ident(&mut self) -> Result<Ident, Failure> {
        Ok(Ident {
            run: self.number()?,
            producer: self.number()?,
            number: self.number()?,
            index: self.number()?,
            of: self.number()?,
        })
    }

    fn found(&mut self) -> Result<Found, Failure> {
        let ident = self.ident()?;
        let letter = match self.0.clone().next() {
            None => None,
            Some(_) => Some(Letter {
                group: self.number()?,
                offset: self.number()?,
                attempts: self.number()?,
                rejected: self.flag()?,
            }),
        };
        Ok(Found { ident, letter })
    }

    fn range(&mut self) -> Result<(u8, u64, u64), Failure> {
        Ok((self.number()?, self.number()?, self.number()?))
    }
}

impl Event {
    /// Reads what [`fmt::Display`] wrote.
    pub(crate) fn parse(line: &str) -> Result<Self, Failure> {
        let mut words = line.split_ascii_whitespace();
        let word = words.next().ok_or("an empty line")?;
        if word == "failed" {
            return Ok(Self::Failed);
        }
        let mut f = Fields(words);
        let event = Self::of(word, &mut f)?;
        match f.0.next() {
            None => Ok(event),
            Some(rest) => Err(format!("{rest:?} is left of {line:?}").into()),
        }
    }

    fn of(word: &str, f: &mut Fields<'_>) -> Result<Self, Failure> {
        Ok(match word {
            "opening" => Self::Opening,
            "opened" => {
                Self::Opened { cleanly: f.flag()?, rewritten: f.number()?, torn: f.flag()? }
            }
            "reading" => Self::Reading { topic: f.number()?, start: f.number()?, end: f.number()? },
            "seen" => Self::Seen { topic: f.number()?, offset: f.number()?, found: f.found()? },
            "gone" => Self::Gone { topic: f.number()?, from: f.number()?, to: f.number()? },
            "read" => Self::Read { topic: f.number()?, end: f.number()? },
            "working" => Self::Working,
            "appending" => {
                let (producer, first, count) = f.range()?;
                Self::Appending { producer, first, count }
            }
            "appended" => {
                Self::Appended { topic: f.number()?, offset: f.number()?, ident: f.ident()? }
            }
            "refused" => {
                let (producer, first, count) = f.range()?;
                Self::Refused { producer, first, count }
            }
            "delivered" => Self::Delivered {
                group: f.number()?,
                offset: f.number()?,
                attempt: f.number()?,
                found: f.found()?,
            },
            "giving" => {
                Self::GivingBack { group: f.number()?, offset: f.number()?, counted: f.flag()? }
            }
            "acked" => Self::Acked { group: f.number()?, offset: f.number()? },
            "rejected" => Self::Rejected { group: f.number()?, offset: f.number()? },
            "relayed" => {
                Self::Relayed { source: f.number()?, offset: f.number()?, ident: f.ident()? }
            }
            "committing" => Self::Committing { group: f.number()?, id: f.number()? },
            "committed" => Self::Committed { group: f.number()?, id: f.number()? },
            "through" => Self::CommittedThrough { group: f.number()?, offset: f.number()? },
            "syncing" => Self::Syncing { id: f.number()? },
            "synced" => Self::Synced { id: f.number()? },
            "closing" => Self::Closing,
            "closed" => Self::Closed,
            "drained" => Self::Drained,
            other => return Err(format!("no event {other:?}").into()),
        })
    }
}

/// The offsets of an appended batch, in order.
pub(crate) fn offsets(range: &Range<ackline::Offset>) -> Range<u64> {
    range.start.0..range.end.0
}
