//! The same work for ackline, for raw files and for what people would pick instead.
//!
//! From the root of the repository:
//!
//! ```sh
//! cargo run --release --manifest-path benches/peers/Cargo.toml
//! ```
//!
//! Behind a `--`:
//!
//! - `--seconds 0.7` for each side of each round, `--rounds 5`;
//! - `--only PEER` for one peer beside ackline and the limit;
//! - `--workload TEXT` for the workloads whose name contains the text;
//! - `--dir DIRECTORY` to measure another file system than the one with the build directory;
//! - `--out FILE.json`, where the figures go to;
//! - `--docs` to write `docs/benchmarks.md` and its plots, `--docs=DIRECTORY` to write them there.
//!
//! Each workload of each peer is measured by a process of its own, in which the limit, ackline and
//! the peer take turns of 70 ms, so that whatever else the machine does harms all three. At the end
//! everything that was written is read back and compared with what was acknowledged. Every peer is
//! asked to be as durable as it can be; what it really does is counted with strace, if that is
//! installed and permitted.
//!
//! `src/peers` has one file for each peer. A new one implements [`peer::Peer`] and joins
//! [`peer::ALL`].
#![allow(clippy::disallowed_methods, reason = "it measures real time on real files")]

mod child;
mod consumers;
mod count;
mod docs;
mod latency;
mod limit;
mod machine;
#[cfg(test)]
mod machine_tests;
mod parent;
mod peer;
mod peers;
mod plot;
mod plots;
mod positions;
mod report;
mod results;
mod sections;
mod sides;
mod workload;

#[path = "../../limits/ideal.rs"]
mod ideal;
#[allow(dead_code, reason = "the other benchmark counts syncs by itself")]
#[path = "../../limits/measure.rs"]
mod measure;
#[allow(dead_code, reason = "the other benchmark looks at the disk and at memory, too")]
#[path = "../../limits/process.rs"]
mod process;
#[allow(dead_code, reason = "the other benchmark has more uses for it")]
#[path = "../../limits/raw.rs"]
mod raw;

use std::path::{Path, PathBuf};
use std::time::Duration;

use count::Operation;
use machine::Machine;
use measure::Plan;
use peer::{Failure, Kind, OURS};
use process::Disk;
use results::{Results, Row};
use workload::Workload;

/// What this process is to do.
enum Task {
    /// Everything; the others are its children.
    All { docs: Option<PathBuf> },
    /// One workload of one peer.
    Measure { kind: &'static Kind, design: usize },
    /// One operation again and again, to be counted.
    Repeat { kind: &'static Kind, operation: Operation, times: u64 },
}

struct Arguments {
    task: Task,
    plan: Plan,
    only: Option<&'static Kind>,
    workload: String,
    directory: PathBuf,
    out: PathBuf,
}

fn main() -> Result<(), Failure> {
    let arguments = parse_arguments()?;
    let Arguments { plan, directory, out, workload, .. } = &arguments;
    match &arguments.task {
        Task::All { docs } => all(&arguments, docs.as_deref()),
        Task::Measure { kind, design } => {
            let workload = child::workload(workload)?;
            let sides = child::measure(kind, &workload, directory, *design, plan)?;
            Ok(std::fs::write(out, child::encode(&sides))?)
        }
        Task::Repeat { kind, operation, times } => {
            Ok(child::repeat(kind, directory, *operation, *times)?)
        }
    }
}

fn parse_arguments() -> Result<Arguments, Failure> {
    use lexopt::prelude::*;
    let build = std::env::current_exe()?;
    let build = build.parent().ok_or("the program is in a directory")?;
    let (time, disk) = (Duration::from_millis(700), Disk::default());
    let mut plan = Plan { time, rounds: 5, disk, unsynced: None };
    let (mut directory, mut out) = (build.to_owned(), build.join("peers.json"));
    let (mut only, mut workload) = (None, String::new());
    let (mut docs, mut measured, mut repeating) = (None, None, None);
    let (mut design, mut times, mut operation) = (0, 0, Operation::Append);
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("seconds") => {
                plan.time = Duration::try_from_secs_f64(parser.value()?.parse()?)?;
            }
            Long("rounds") => plan.rounds = parser.value()?.parse()?,
            Long("only") => only = Some(peer::kind(&parser.value()?.string()?)?),
            Long("workload") => workload = parser.value()?.string()?,
            Long("dir") => directory = parser.value()?.into(),
            Long("out") => out = parser.value()?.into(),
            Long("docs") => {
                let own = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").into();
                docs = Some(PathBuf::from(parser.optional_value().unwrap_or_else(own)));
            }
            // For children.
            Long("measure") => measured = Some(peer::kind(&parser.value()?.string()?)?),
            Long("design") => design = parser.value()?.parse()?,
            Long("repeat") => repeating = Some(peer::kind(&parser.value()?.string()?)?),
            Long("operation") => operation = parser.value()?.parse()?,
            Long("times") => times = parser.value()?.parse()?,
            other => return Err(other.unexpected().into()),
        }
    }
    if plan.rounds == 0 {
        return Err("there is at least one round".into());
    }
    std::fs::create_dir_all(&directory)?;
    let task = match (measured, repeating) {
        (Some(kind), _) => Task::Measure { kind, design },
        (None, Some(kind)) => Task::Repeat { kind, operation, times },
        (None, None) => Task::All { docs },
    };
    Ok(Arguments { task, plan, only, workload, directory, out })
}

/// Counts, measures, and writes everything down.
fn all(arguments: &Arguments, docs: Option<&Path>) -> Result<(), Failure> {
    let Arguments { plan, only, directory, .. } = arguments;
    let kinds: Vec<_> = match only {
        Some(kind) => vec![*kind],
        None => peer::ALL.into_iter().filter(|kind| kind.name != OURS.name).collect(),
    };
    let workloads = workload::all().into_iter();
    let workloads: Vec<_> =
        workloads.filter(|workload| workload.name().contains(&arguments.workload)).collect();
    let machine = Machine::read(directory);
    // Where others are at work, only the ratios mean something.
    let load = machine::load();
    println!("load before: {load}; each point {:?} in {} rounds", plan.time, plan.rounds);
    let (seconds, rounds) = (plan.time.as_secs_f64(), plan.rounds);
    let mut results = Results {
        seconds,
        rounds,
        load,
        rows: Vec::new(),
        counts: Vec::new(),
        failures: Vec::new(),
    };
    let counted = peer::ALL
        .into_iter()
        .filter(|kind| kind.name == OURS.name || kinds.iter().any(|other| other.name == kind.name));
    for kind in counted {
        let counts = count::count(directory, kind).map_err(|error| format!("strace: {error}"));
        results.counts.push((kind, counts));
    }
    println!("{}", report::counts_table(&results));
    let mut designs = Designs::default();
    for workload in workloads {
        let design = designs.fastest(&workload, arguments)?;
        if let Some(row) = row(workload, &kinds, arguments, design, &mut results.failures) {
            println!("{}", report::table(&row, &results));
            results.rows.push(row);
        }
    }
    std::fs::write(&arguments.out, report::json(&results, &machine))?;
    println!("figures written to {}", arguments.out.display());
    if let Some(docs) = docs {
        docs::write(docs, &results, &machine)?;
        println!("benchmarks.md and its plots written to {}", docs.display());
    }
    match results.failures.as_slice() {
        [] => Ok(()),
        failures => Err(format!("failed: {}", failures.join("; ")).into()),
    }
}

/// One workload of all these peers.
fn row(
    workload: Workload,
    kinds: &[&'static Kind],
    arguments: &Arguments,
    design: usize,
    failures: &mut Vec<String>,
) -> Option<Row> {
    let Arguments { directory, plan, .. } = arguments;
    let kinds = kinds.iter().filter(|kind| workload.suits(kind));
    let measured = kinds.map(|kind| {
        eprintln!("{}: {}", workload.name(), kind.name);
        let sides = parent::measure(directory, kind, &workload, design, plan);
        let sides = sides.map_err(|error| error.to_string()).inspect_err(|failure| {
            failures.push(format!("{}, {}: {failure}", kind.name, workload.name()));
        });
        (*kind, sides)
    });
    Row::new(workload, measured.collect())
}

/// The fastest designs of a group commit that were found so far, by the number of threads.
#[derive(Default)]
struct Designs(Vec<(usize, usize)>);

impl Designs {
    fn fastest(&mut self, workload: &Workload, arguments: &Arguments) -> Result<usize, Failure> {
        let threads = workload.threads;
        if threads == 1 {
            return Ok(0);
        }
        if let Some((_, design)) = self.0.iter().find(|(own, _)| *own == threads) {
            return Ok(*design);
        }
        let directory = tempfile::tempdir_in(&arguments.directory)?;
        let design = limit::fastest_design(directory.path(), threads, arguments.plan.time)?;
        self.0.push((threads, design));
        Ok(design)
    }
}
