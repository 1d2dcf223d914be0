//! What a node tells its supervisor: one line for each event.

use std::fmt;
use std::io::Write;
use std::time::SystemTime;

use ackline::Message;

use crate::Failure;

/// Who made a record, and which of theirs it is. This is what the payload holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ident {
    /// The epoch in which it was appended.
    pub(crate) epoch: u64,
    pub(crate) producer: u64,
    /// Ascending for a producer in an epoch.
    pub(crate) number: u64,
}

impl fmt::Display for Ident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.epoch, self.producer, self.number)
    }
}

impl Ident {
    /// The payload, filled up to 100 bytes.
    pub(crate) fn payload(self) -> String {
        format!("{:<100}", self.to_string())
    }

    pub(crate) fn of(message: &Message) -> Result<Self, Failure> {
        let text = std::str::from_utf8(message.payload())?;
        let ident = Self::parse(&mut text.split_whitespace())?;
        if ident.payload() == text { Ok(ident) } else { Err("an altered payload".into()) }
    }

    fn parse<'a>(fields: &mut impl Iterator<Item = &'a str>) -> Result<Self, Failure> {
        let (epoch, producer, number) = (field(fields)?, field(fields)?, field(fields)?);
        Ok(Self { epoch, producer, number })
    }
}

/// What a node tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The log is open and the network listens.
    Ready,
    /// This node leads the epoch.
    Leads(u64),
    /// It was not made the leader of the epoch, for this reason.
    Refused(u64, String),
    /// A record is on enough disks. Times are microseconds of the machine's clock.
    Acked { offset: u64, ident: Ident, began: u64, ended: u64 },
    /// Nobody knows what became of a record.
    Unsure(Ident),
    /// The consumer was given a message.
    Got { offset: u64, ident: Ident, attempt: u64 },
    /// The consumer's acknowledgement of a message is on enough disks.
    Done { offset: u64 },
    /// How many nodes are in sync, says the leader.
    InSync(u64),
    /// All is consumed and nobody appends any more; the topic ends here.
    Finished { end: u64 },
    /// The topic holds this.
    Holds { offset: u64, ident: Ident },
    /// The topic holds no more.
    Held,
    /// The log ends at this position, and is visible up to the other one.
    Ends { written: u64, visible: u64 },
    /// The node found something that must not be.
    Failed(String),
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => write!(f, "ready"),
            Self::Leads(epoch) => write!(f, "leads {epoch}"),
            Self::Refused(epoch, reason) => write!(f, "refused {epoch} {reason}"),
            Self::Acked { offset, ident, began, ended } => {
                write!(f, "acked {offset} {ident} {began} {ended}")
            }
            Self::Unsure(ident) => write!(f, "unsure {ident}"),
            Self::Got { offset, ident, attempt } => write!(f, "got {offset} {ident} {attempt}"),
            Self::Done { offset } => write!(f, "done {offset}"),
            Self::InSync(nodes) => write!(f, "in_sync {nodes}"),
            Self::Finished { end } => write!(f, "finished {end}"),
            Self::Holds { offset, ident } => write!(f, "holds {offset} {ident}"),
            Self::Held => write!(f, "held"),
            Self::Ends { written, visible } => write!(f, "ends {written} {visible}"),
            Self::Failed(what) => write!(f, "failed {what}"),
        }
    }
}

impl Event {
    /// Reads what [`fmt::Display`] wrote.
    pub(crate) fn parse(line: &str) -> Result<Self, Failure> {
        let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
        let fields = &mut rest.split(' ');
        Ok(match kind {
            "ready" => Self::Ready,
            "leads" => Self::Leads(field(fields)?),
            "refused" => Self::Refused(field(fields)?, fields.collect::<Vec<_>>().join(" ")),
            "acked" => Self::Acked {
                offset: field(fields)?,
                ident: Ident::parse(fields)?,
                began: field(fields)?,
                ended: field(fields)?,
            },
            "unsure" => Self::Unsure(Ident::parse(fields)?),
            "got" => Self::Got {
                offset: field(fields)?,
                ident: Ident::parse(fields)?,
                attempt: field(fields)?,
            },
            "done" => Self::Done { offset: field(fields)? },
            "in_sync" => Self::InSync(field(fields)?),
            "finished" => Self::Finished { end: field(fields)? },
            "holds" => Self::Holds { offset: field(fields)?, ident: Ident::parse(fields)? },
            "held" => Self::Held,
            "ends" => Self::Ends { written: field(fields)?, visible: field(fields)? },
            "failed" => Self::Failed(rest.to_owned()),
            _ => return Err(format!("a node told {line:?}").into()),
        })
    }
}

fn field<'a>(fields: &mut impl Iterator<Item = &'a str>) -> Result<u64, Failure> {
    Ok(fields.next().ok_or("too few fields")?.parse()?)
}

/// Tells the supervisor. Without one, the process ends.
pub(crate) fn tell(event: &Event) {
    // A write of less than 4,096 bytes to a pipe is not torn apart by those of other threads.
    let line: String = event.to_string().replace('\n', " ").chars().take(1000).collect();
    if std::io::stdout().lock().write_all((line + "\n").as_bytes()).is_err() {
        std::process::exit(1);
    }
}

/// The machine's clock, which all processes of it share, in microseconds.
pub(crate) fn clock() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).expect("it is not so late")
}
