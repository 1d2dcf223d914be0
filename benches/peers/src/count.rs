//! Counts the system calls of a peer's durable append with strace, rather than to believe what is
//! said of it.
//!
//! A child appends a number of times and another one twice as often. What the second did beyond
//! the first belongs to the appends; what it takes to open and to close cancels out.

use std::path::Path;
use std::time::Duration;

use crate::parent::Child;
use crate::peer::{Failure, Kind};

/// The calls that ask for something to be durable.
pub(crate) const SYNCS: [&str; 4] = ["fsync", "fdatasync", "sync_file_range", "msync"];
/// The calls that write.
const WRITES: [&str; 4] = ["write", "pwrite64", "writev", "pwritev"];

/// How many operations the first child does.
const OPERATIONS: u32 = 250;
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

/// The counts for one append, and for one batch.
#[derive(Clone, Debug)]
pub(crate) struct Counted {
    pub(crate) append: Counts,
    pub(crate) batch: Counts,
}

/// Counts both; fails where strace is missing or not permitted.
pub(crate) fn count(parent: &Path, kind: &Kind) -> Result<Counted, Failure> {
    Ok(Counted { append: each(parent, kind, false)?, batch: each(parent, kind, true)? })
}

/// What one operation does, as the difference of two runs.
fn each(parent: &Path, kind: &Kind, batches: bool) -> Result<Counts, Failure> {
    let few = traced(parent, kind, OPERATIONS, batches)?;
    let many = traced(parent, kind, 2 * OPERATIONS, batches)?;
    let per_operation = |few: f64, many: f64| (many - few).max(0.0) / f64::from(OPERATIONS);
    let mut counts = Counts { opened_sync: many.opened_sync, ..Counts::default() };
    for (i, sync) in counts.syncs.iter_mut().enumerate() {
        *sync = per_operation(few.syncs[i], many.syncs[i]);
    }
    counts.writes = per_operation(few.writes, many.writes);
    Ok(counts)
}

/// What a whole run does.
fn traced(parent: &Path, kind: &Kind, operations: u32, batches: bool) -> Result<Counts, Failure> {
    let child = Child::new(parent)?;
    let trace = child.directory.path().join("trace");
    let trace = trace.to_str().ok_or("the directory's name is text")?;
    // A summary behind the calls themselves: how a file is opened stands there alone.
    let calls = format!("trace={},{},openat", SYNCS.join(","), WRITES.join(","));
    let mut command = child.command(&["strace", "-f", "-C", "-e", &calls, "-o", trace]);
    command.args(["--append", kind.name, "--operations", &operations.to_string()]);
    if batches {
        command.arg("--batches");
    }
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
