//! Writes `benchmarks.md` and its plots.

use std::fmt::Write as _;
use std::path::Path;

use crate::count::{Counted, Verdict};
use crate::machine::{Machine, version};
use crate::measure::Spread;
use crate::peer::{Failure, Kind, Mode};
use crate::report::{NOT_COUNTED, calls, number};
use crate::results::{Figures, Results, Row};
use crate::workload::{BATCH_RECORDS, Work};
use crate::{latency, plots};

/// The names of the plots, in the directory of the document.
const THREADS_PLOT: &str = "benchmarks-threads.svg";
const TOPICS_PLOT: &str = "benchmarks-topics.svg";
const LATENCY_PLOT: &str = "benchmarks-latency.svg";

/// The number of threads of the rows that compare topics, as text.
pub(crate) const TOPICS_THREADS: &str = "16";

/// Writes everything into a directory.
pub(crate) fn write(directory: &Path, results: &Results, machine: &Machine) -> Result<(), Failure> {
    std::fs::create_dir_all(directory)?;
    let mut drawn = Vec::new();
    for (name, plot) in [
        (THREADS_PLOT, plots::threads(results)),
        (TOPICS_PLOT, plots::topics(results)),
        (LATENCY_PLOT, plots::latency(results)),
    ] {
        if let Some(svg) = plot {
            std::fs::write(directory.join(name), svg)?;
            drawn.push(name);
        }
    }
    let text = document(results, machine, &drawn);
    Ok(std::fs::write(directory.join("benchmarks.md"), text)?)
}

/// The text, with those plots that were drawn.
fn document(results: &Results, machine: &Machine, drawn: &[&str]) -> String {
    let mut out = head(results, machine);
    out.push_str(&syncs(results));
    for group in Group::ALL {
        let rows: Vec<_> = results.rows.iter().filter(|row| group.takes(row)).collect();
        if rows.is_empty() {
            continue;
        }
        out.push_str(&section(group, &rows, results));
        let (what, plot) = match group {
            Group::Durable => ("Records in a second against threads", THREADS_PLOT),
            Group::Topics => ("Records in a second against topics", TOPICS_PLOT),
            _ => continue,
        };
        if drawn.contains(&plot) {
            add(&mut out, &format!("\n![{what}]({plot})"));
        }
        if group == Group::Durable {
            let plot = drawn.contains(&LATENCY_PLOT).then_some(LATENCY_PLOT);
            out.push_str(&latency::section(results, plot).unwrap_or_default());
        }
    }
    if !results.failures.is_empty() {
        add(&mut out, "\n## What failed\n");
        for failure in &results.failures {
            add(&mut out, &format!("- {failure}"));
        }
    }
    out
}

fn head(results: &Results, machine: &Machine) -> String {
    let Machine { processor, cores, memory, file_system, kernel } = machine;
    let Results { seconds, rounds, load, .. } = results;
    format!(
        "# Benchmarks

Generated; do not edit. One command makes it anew:

```sh
cargo run --release --manifest-path benches/peers/Cargo.toml -- --docs
```

| | |
|---|---|
| processor | {processor}, {cores} cores |
| memory | {memory} |
| file system | {file_system} |
| kernel | {kernel} |
| load when it began | {load} |
| each point | {seconds} s of each side in each of {rounds} rounds |

Figures are ratios, as `median (least–greatest)` over the rounds. A workload has a **limit**: the same bytes written
or read without any queue. In a process of their own, the limit, ackline and one peer take turns of 70 ms, and a
ratio is taken between turns next to one another: what else the machine does harms all three. At the end everything
that was written is read back, and every record is compared: its bytes, and its order within its thread. ackline and the
limit ran beside each of the peers, so their ratio is over the rounds of all of them.

Payloads are filled with one byte each, so compression is switched off where it would spare a peer the writing.
"
    )
}

/// What each peer's durable append is, and what was counted of it.
fn syncs(results: &Results) -> String {
    let mut out = format!(
        "
## What a durable append syncs

Each peer is asked to be as durable as it can be. What that is was counted with strace: system calls for one append
of 100 B by one thread, and for one batch of {BATCH_RECORDS}. `sync_file_range` writes neither the metadata of a file
nor empties the cache of the disk, so after a power cut the data may be gone. A peer that does not sync is marked with
† below: its figures are not those of a durable append.

| peer | version | asked for by | one append | one batch | synced |
|---|---|---|---|---|---|
"
    );
    for (kind, counted) in &results.counts {
        let (append, batch, verdict) = match counted {
            Ok(Counted { append, batch }) => {
                (calls(append), calls(batch), verdict(counted.as_ref().ok()))
            }
            Err(_) => (NOT_COUNTED.to_owned(), NOT_COUNTED.to_owned(), NOT_COUNTED),
        };
        let (name, durable, version) = (kind.name, kind.durable, version(kind.name));
        let link = kind.documentation.replace("{}", version);
        add(
            &mut out,
            &format!(
                "| [{name}]({link}) | {version} | {durable} | {append} | {batch} | {verdict} |"
            ),
        );
    }
    out.push('\n');
    for (kind, _) in &results.counts {
        add(&mut out, &format!("- {}: {}", kind.name, kind.remark));
    }
    out
}

fn verdict(counted: Option<&Counted>) -> &'static str {
    match counted.map(|counted| counted.append.verdict()) {
        Some(Verdict::Synced) => "yes",
        Some(Verdict::Halfway) => "**halfway**",
        Some(Verdict::NotSynced) => "**no**",
        None => NOT_COUNTED,
    }
}

/// Rows that share a heading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    Durable,
    Batches,
    Unsynced,
    Reads,
    Topics,
}

impl Group {
    const ALL: [Self; 5] =
        [Self::Durable, Self::Batches, Self::Unsynced, Self::Reads, Self::Topics];

    pub(crate) fn takes(self, row: &Row) -> bool {
        let group = match row.workload.work {
            Work::Append(Mode::Durable) if row.workload.compares_topics => Self::Topics,
            Work::Append(Mode::Durable) => Self::Durable,
            Work::Append(Mode::Unsynced) => Self::Unsynced,
            Work::Batch => Self::Batches,
            Work::Read => Self::Reads,
        };
        group == self
    }

    fn heading(self) -> String {
        match self {
            Self::Durable => "Durable append, one record at a time".to_owned(),
            Self::Batches => format!("Durable append, {BATCH_RECORDS} records at a time"),
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
}

fn section(group: Group, rows: &[&Row], results: &Results) -> String {
    let mut out = format!("\n## {}\n\n{}\n", group.heading(), group.explanation());
    let columns = rows.iter().map(|row| column(row)).collect::<Vec<_>>().join(" | ");
    let counted = matches!(group, Group::Durable | Group::Batches | Group::Topics);
    let (title, line) = match (counted, group) {
        (false, _) => ("", ""),
        (true, Group::Batches) => (" syncs per batch |", "---|"),
        (true, _) => (" syncs per append |", "---|"),
    };
    let lines = "---|".repeat(rows.len());
    for (of, choose) in [
        ("the limit", (|figures| Some(figures.to_limit)) as fn(&Figures) -> Option<Spread>),
        ("ackline", |figures| figures.to_ours),
    ] {
        add(&mut out, &format!("\n| of {of} | {columns} |{title}\n|---|{lines}{line}"));
        for (kind, counts) in &results.counts {
            let cells = rows.iter().map(|row| cell(row, kind, choose));
            let cells: Vec<_> = cells.collect();
            if cells.iter().all(String::is_empty) {
                continue;
            }
            let syncs = match (counted, counts) {
                (false, _) => String::new(),
                (true, Ok(Counted { append, batch })) => {
                    let one = if group == Group::Batches { batch } else { append };
                    format!(" {} |", number(one.all_syncs()))
                }
                (true, Err(_)) => format!(" {NOT_COUNTED} |"),
            };
            let mark = if counted && is_unsynced(results, kind) { " †" } else { "" };
            add(&mut out, &format!("| {}{mark} | {} |{syncs}", kind.name, cells.join(" | ")));
        }
    }
    let limits = rows.iter().map(|row| format!("{:.0}", row.limit.median));
    let limits = limits.collect::<Vec<_>>().join(" | ");
    add(&mut out, &format!("\n| | {columns} |\n|---|{lines}"));
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
        None => String::new(),
    }
}

/// Whether it is known that the peer's durable append is none.
fn is_unsynced(results: &Results, kind: &Kind) -> bool {
    results.counted(kind).is_some_and(|counted| counted.append.verdict() != Verdict::Synced)
}

pub(crate) fn add(out: &mut String, line: &str) {
    writeln!(out, "{line}").expect("a string takes text");
}
