//! The sections of `benchmarks.md` that have figures: rows of one kind of work, under a heading.

use crate::count::{Counted, Verdict};
use crate::docs::add;
use crate::measure::Spread;
use crate::peer::{Kind, Mode};
use crate::report::{NOT_COUNTED, calls, number};
use crate::results::{Figures, Results, Row};
use crate::workload::{BATCH_RECORDS, CONSUMERS, IN_FLIGHT, Work};

/// The number of threads of the rows that compare topics, as text.
pub(crate) const TOPICS_THREADS: &str = "16";

/// Rows that share a heading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    Durable,
    Batches,
    Submits,
    Acks,
    Cycle,
    Unsynced,
    Reads,
    Topics,
}

impl Group {
    pub(crate) const ALL: [Self; 8] = [
        Self::Durable,
        Self::Batches,
        Self::Submits,
        Self::Acks,
        Self::Cycle,
        Self::Unsynced,
        Self::Reads,
        Self::Topics,
    ];

    pub(crate) fn takes(self, row: &Row) -> bool {
        let group = match row.workload.work {
            Work::Append(Mode::Durable) if row.workload.compares_topics => Self::Topics,
            Work::Append(Mode::Durable) => Self::Durable,
            Work::Append(Mode::Unsynced) => Self::Unsynced,
            Work::Batch => Self::Batches,
            Work::Submit => Self::Submits,
            Work::Ack => Self::Acks,
            Work::Cycle => Self::Cycle,
            Work::Read => Self::Reads,
        };
        group == self
    }

    fn heading(self) -> String {
        match self {
            Self::Durable => "Durable append, one record at a time".to_owned(),
            Self::Batches => format!("Durable append, {BATCH_RECORDS} records at a time"),
            Self::Submits => format!("Durable append, {IN_FLIGHT} records under way"),
            Self::Acks => "Durable acknowledgement, one record at a time".to_owned(),
            Self::Cycle => format!("Append and consume, 16 producers and {CONSUMERS} consumers"),
            Self::Unsynced => "Append without a sync".to_owned(),
            Self::Reads => "Reading everything in order".to_owned(),
            Self::Topics => format!("Many topics, durable append by {TOPICS_THREADS} threads"),
        }
    }

    fn explanation(self) -> &'static str {
        match self {
            Self::Durable => {
                "Threads append and wait. The limit of one thread is `pwrite` and `fdatasync` on a \
                 file that was filled with zeros, that of several the fastest of eight designs of \
                 group commit on such a file."
            }
            Self::Batches => "One thread. The limit is `pwrite` of the batch and `fdatasync`.",
            Self::Submits => {
                "One thread, by what each peer has for it. ackline alone has a call that returns \
                 before its record is durable and tells later that it is; of the others, batches \
                 are under way, each synced before the next one. (`Tree::flush_async` of sled is \
                 for all records that were written, on another thread.) The limit is `pwrite` of \
                 128 records and `fdatasync`."
            }
            Self::Acks => {
                "One consumer that reads ahead, and makes durable that a record is done with before \
                 it takes the next one. A position that a peer does not keep by itself is a value \
                 in it. The limit is `pwrite` of 16 B and `fdatasync`. *none*: a log that has no \
                 place for how far a consumer is."
            }
            Self::Cycle => {
                "Producers append one record at a time, durably. Consumers poll up to 100 of them \
                 and acknowledge these together, by the calls from above, until all are \
                 acknowledged. Where a peer has no consumers that share the work, they share its \
                 position behind a lock; where they cannot wait for records, they look every \
                 millisecond. The limit is the group commit from above: nobody consumes."
            }
            Self::Unsynced => "One thread. The limit is one `pwrite` for each record.",
            Self::Reads => {
                "One thread, warm, from the beginning, again and again; written in batches before. \
                 The limit is `pread` of 1 MiB at a time and a CRC-32 of each record."
            }
            Self::Topics => {
                "Each thread goes from topic to topic. The limit is the group commit from above, \
                 which has no topics. Peers without topics are left out."
            }
        }
    }

    /// The titles of the columns behind the figures, in the first table alone.
    fn titles(self) -> &'static [&'static str] {
        match self {
            Self::Durable | Self::Topics => &["syncs per append"],
            Self::Batches => &["syncs per batch"],
            Self::Submits => &["by"],
            Self::Acks => &["by", "one acknowledgement"],
            Self::Cycle | Self::Unsynced | Self::Reads => &[],
        }
    }

    /// What stands in them.
    fn notes(self, kind: &Kind, counted: Option<&Counted>) -> Vec<String> {
        const NONE: &str = "none";
        let of = |note: fn(&Counted) -> String| counted.map_or(NOT_COUNTED.to_owned(), note);
        match self {
            Self::Durable | Self::Topics => {
                vec![of(|counted| number(counted.append.all_syncs()))]
            }
            Self::Batches => vec![of(|counted| number(counted.batch.all_syncs()))],
            Self::Submits => vec![kind.in_flight.to_owned()],
            Self::Acks => {
                let ack = |counted: &Counted| counted.ack.as_ref().map_or(NONE.to_owned(), calls);
                vec![kind.acked.unwrap_or(NONE).to_owned(), of(ack)]
            }
            Self::Cycle | Self::Unsynced | Self::Reads => Vec::new(),
        }
    }

    /// Whether it is known that what is to be durable here is not.
    fn is_unsynced(self, counted: &Counted) -> bool {
        let counts = match self {
            Self::Unsynced | Self::Reads => return false,
            Self::Acks => counted.ack.as_ref(),
            _ => Some(&counted.append),
        };
        counts.is_some_and(|counts| counts.verdict() != Verdict::Synced)
    }
}

/// A heading with its tables.
pub(crate) fn section(group: Group, rows: &[&Row], results: &Results) -> String {
    let mut out = format!("\n## {}\n\n{}\n", group.heading(), group.explanation());
    let columns: Vec<_> = rows.iter().map(|row| column(row)).collect();
    for (of, choose, has_notes) in [
        ("the limit", (|figures| Some(figures.to_limit)) as fn(&Figures) -> Option<Spread>, true),
        ("ackline", |figures| figures.to_ours, false),
    ] {
        let mut titles = columns.clone();
        if has_notes {
            titles.extend(group.titles().iter().map(|title| (*title).to_owned()));
        }
        let lines = "---|".repeat(titles.len());
        add(&mut out, &format!("\n| of {of} | {} |\n|---|{lines}", titles.join(" | ")));
        for (kind, counted) in &results.counts {
            let mut cells: Vec<_> = rows.iter().map(|row| cell(row, kind, choose)).collect();
            if cells.iter().all(String::is_empty) {
                continue;
            }
            let counted = counted.as_ref().ok();
            if has_notes {
                cells.extend(group.notes(kind, counted));
            }
            let unsynced = counted.is_some_and(|counted| group.is_unsynced(counted));
            let mark = if unsynced { " †" } else { "" };
            add(&mut out, &format!("| {}{mark} | {} |", kind.name, cells.join(" | ")));
        }
    }
    let limits = rows.iter().map(|row| format!("{:.0}", row.limit.median));
    let limits = limits.collect::<Vec<_>>().join(" | ");
    let lines = "---|".repeat(columns.len());
    add(&mut out, &format!("\n| | {} |\n|---|{lines}", columns.join(" | ")));
    add(&mut out, &format!("| the limit, records a second | {limits} |"));
    out
}

/// The part of a workload's name in which the rows of a group differ.
fn column(row: &Row) -> String {
    let name = row.workload.name();
    let mut parts: Vec<_> = name.split(", ").skip(1).collect();
    if row.workload.compares_topics {
        parts.drain(..2);
    } else if row.workload.work != Work::Append(Mode::Durable) {
        parts.remove(0);
    }
    parts.join(", ")
}

fn cell(row: &Row, kind: &Kind, choose: fn(&Figures) -> Option<Spread>) -> String {
    match row.outcome(kind) {
        Some(Ok(figures)) => {
            choose(figures).map_or(String::new(), |Spread { min, median, max }| {
                format!("{} ({}–{})", number(median), number(min), number(max))
            })
        }
        Some(Err(_)) => "failed".to_owned(),
        None if row.workload.consumers() > 0 && kind.acked.is_none() => "none".to_owned(),
        None => String::new(),
    }
}
