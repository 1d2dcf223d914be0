//! Counts the system calls of a peer's durable operations with strace, rather than to believe what
//! is said of them.
//!
//! A child does one a number of times and another child twice as often. What the second did beyond
//! the first belongs to the operations; what it takes to open and to close cancels out.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use crate::parent::Child;
use crate::peer::{Failure, Kind};

/// The calls that ask for something to be durable.
pub(crate) const SYNCS: [&str; 4] = ["fsync", "fdatasync", "sync_file_range", "msync"];
/// The calls that write.
const WRITES: [&str; 4] = ["write", "pwrite64", "writev", "pwritev"];

/// How many operations the first child does.
const OPERATIONS: u32 = 250;
/// How many operations a child does at most.
pub(crate) const TIMES_MAX: u64 = 2 * OPERATIONS as u64;
/// What a child may take under strace.
const TIME: Duration = Duration::from_mins(2);

/// What was counted for one operation.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    /// In the order of [`SYNCS`].
    pub(crate) syncs: [f64; 4],
    pub(crate) writes: f64,
    /// Whether a file was opened so that each write to it is synced (`O_SYNC`, `O_DSYNC`).
    pub(crate) opened_sync: bool,
}

/// What became of an append when it returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Synced,
    /// Only by `sync_file_range`, which neither writes metadata nor empties the disk's cache.
    Halfway,
    NotSynced,
}

impl Counts {
    /// How many calls that sync were made.
    pub(crate) fn all_syncs(&self) -> f64 {
        self.syncs.iter().sum()
    }

    pub(crate) fn verdict(&self) -> Verdict {
        // A little less than one for each operation, for what several may share by chance.
        const EACH: f64 = 0.95;
        let [fsync, fdatasync, range, _] = self.syncs;
        // A map is synced without what was written beside it, so msync alone proves nothing.
        if fsync + fdatasync >= EACH || (self.opened_sync && self.writes >= EACH) {
            Verdict::Synced
        } else if range >= EACH {
            Verdict::Halfway
        } else {
            Verdict::NotSynced
        }
    }
}

/// What is done again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// An append of one record.
    Append,
    Batch,
    /// An acknowledgement of one record.
    Ack,
}

impl Operation {
    const ALL: [Self; 3] = [Self::Append, Self::Batch, Self::Ack];

    fn name(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::Batch => "batch",
            Self::Ack => "ack",
        }
    }
}

impl FromStr for Operation {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|operation| operation.name() == name);
        found.ok_or_else(|| format!("there is no operation {name:?}"))
    }
}

/// The counts for one append, for one batch, and for one acknowledgement if there is such a thing.
#[derive(Clone, Debug)]
pub(crate) struct Counted {
    pub(crate) append: Counts,
    pub(crate) batch: Counts,
    pub(crate) ack: Option<Counts>,
}

/// Counts all; fails where strace is missing or not permitted.
pub(crate) fn count(parent: &Path, kind: &Kind) -> Result<Counted, Failure> {
    let count = |operation| each(parent, kind, operation);
    let ack = kind.acked.map(|_| count(Operation::Ack)).transpose()?;
    Ok(Counted { append: count(Operation::Append)?, batch: count(Operation::Batch)?, ack })
}

/// What one operation does, as the difference of two runs.
fn each(parent: &Path, kind: &Kind, operation: Operation) -> Result<Counts, Failure> {
    let few = traced(parent, kind, operation, OPERATIONS.into())?;
    let many = traced(parent, kind, operation, TIMES_MAX)?;
    let per_operation = |few: f64, many: f64| (many - few).max(0.0) / f64::from(OPERATIONS);
    let mut counts = Counts { opened_sync: many.opened_sync, ..Counts::default() };
    for (i, sync) in counts.syncs.iter_mut().enumerate() {
        *sync = per_operation(few.syncs[i], many.syncs[i]);
    }
    counts.writes = per_operation(few.writes, many.writes);
    Ok(counts)
}

/// What a whole run does.
fn traced(parent: &Path, kind: &Kind, operation: Operation, times: u64) -> Result<Counts, Failure> {
    let child = Child::new(parent)?;
    let trace = child.directory.path().join("trace");
    let trace = trace.to_str().ok_or("the directory's name is text")?;
    // A summary behind the calls themselves: how a file is opened stands there alone.
    let calls = format!("trace={},{},openat", SYNCS.join(","), WRITES.join(","));
    let mut command = child.command(&["strace", "-f", "-C", "-e", &calls, "-o", trace]);
    command.args(["--repeat", kind.name, "--operation", operation.name()]);
    command.args(["--times", &times.to_string()]);
    command.arg("--dir").arg(child.directory.path());
    child.run(&mut command, TIME)?;
    Ok(parse(&std::fs::read_to_string(trace)?))
}

/// Reads what `strace -C` writes.
fn parse(trace: &str) -> Counts {
    let mut counts = Counts::default();
    let opens = trace.lines().filter(|line| line.contains("openat("));
    counts.opened_sync = opens
        .into_iter()
        .any(|line| line.split(['|', ',', ' ']).any(|flag| flag == "O_SYNC" || flag == "O_DSYNC"));
    // The columns: share, seconds, microseconds of a call, calls, perhaps errors, name.
    let summary = trace.lines().skip_while(|line| !line.starts_with("% time"));
    for line in summary {
        let columns: Vec<_> = line.split_whitespace().collect();
        let [_, _, _, calls, .., name] = columns[..] else { continue };
        let Ok(calls) = calls.parse::<f64>() else { continue };
        if let Some(i) = SYNCS.iter().position(|sync| *sync == name) {
            counts.syncs[i] += calls;
        } else if WRITES.contains(&name) {
            counts.writes += calls;
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "\
12 openat(AT_FDCWD, \"log\", O_RDWR|O_SYNC|O_CLOEXEC) = 3
12 fdatasync(3) = 0
12 +++ exited with 0 +++
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 62.07    0.000018           0        50           fdatasync
 30.00    0.000010           0        75         2 pwrite64
  5.00    0.000010           0        25           write
  2.93    0.000001           0         9         1 openat
------ ----------- ----------- --------- --------- ----------------
100.00    0.000029           0       159         3 total
";

    #[test]
    fn the_summary_of_strace_is_counted_by_name() {
        let counts = parse(TRACE);
        assert_eq!(format!("{:?}", counts.syncs), "[0.0, 50.0, 0.0, 0.0]");
        assert_eq!(format!("{}", counts.writes), "100");
        assert!(counts.opened_sync);
    }

    #[test]
    fn only_a_sync_for_each_operation_counts_as_synced() {
        let with = |syncs| Counts { syncs, ..Counts::default() }.verdict();
        assert_eq!(with([0.0, 1.0, 0.0, 0.0]), Verdict::Synced);
        assert_eq!(with([0.0, 0.5, 1.0, 0.0]), Verdict::Halfway);
        assert_eq!(with([0.0, 0.0, 0.0, 1.0]), Verdict::NotSynced);
    }
}
