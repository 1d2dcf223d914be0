//! Writes `benchmarks.md` and its plots.

use std::fmt::Write as _;
use std::path::Path;

use crate::count::{Counted, Verdict};
use crate::machine::{Machine, version};
use crate::peer::Failure;
use crate::report::{NOT_COUNTED, calls};
use crate::results::Results;
use crate::sections::{Group, section};
use crate::workload::BATCH_RECORDS;
use crate::{latency, plots};

/// The names of the plots, in the directory of the document.
const THREADS_PLOT: &str = "benchmarks-threads.svg";
const TOPICS_PLOT: &str = "benchmarks-topics.svg";
const LATENCY_PLOT: &str = "benchmarks-latency.svg";

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
that was written is read back, and every record is compared: its bytes, and its order within its thread. What is
consumed is compared when it comes, and none may be missing or come twice. ackline and the limit ran beside each of the
peers, so their ratio is over the rounds of all of them.

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
            Ok(Counted { append, batch, .. }) => {
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

pub(crate) fn add(out: &mut String, line: &str) {
    writeln!(out, "{line}").expect("a string takes text");
}
