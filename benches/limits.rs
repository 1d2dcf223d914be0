//! How close the log comes to what the disk and the memory allow: raw writes and reads against the
//! log's own calls, in one process, in short turns, so that whatever else the machine does harms
//! both.
//!
//! `cargo bench --bench limits` takes about ten minutes. Behind a `--`:
//!
//! - `--seconds 0.7` for each side of each round, `--rounds 5`;
//! - `--only TEXT` for the rows whose name contains the text;
//! - `--large` for backlogs of 1 and 10 GiB and of 100 million messages, too: it needs 15 GB of disk;
//! - `--dir DIRECTORY` to measure another file system than the one with the build directory;
//! - `--design 4` to compare with this design of the ideal rather than the fastest;
//! - `--docs` to write `docs/limits.md`;
//! - `--strict` to end with a failure where a bar is missed.
//!
//! Raw sides write to a file that was filled with zeros and synced, so that a write changes no
//! metadata, just as the log's own segments are. They keep no index, and those that write by calls
//! of the system no checksums. At the end of each row both sides are read back and compared with
//! what was acknowledged.
//!
//! What the disk is sent is counted for the disk as a whole, since what the system counts for a
//! process are whole folios of its cache. So it means something only where nobody else writes.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it prints a table")]
#![allow(clippy::disallowed_methods, reason = "it measures real time on real files")]

#[path = "limits/backlog.rs"]
mod backlog;
#[path = "limits/calls.rs"]
mod calls;
#[path = "limits/consumers.rs"]
mod consumers;
#[path = "limits/cycle.rs"]
mod cycle;
#[path = "limits/growing.rs"]
mod growing;
#[path = "limits/ideal.rs"]
mod ideal;
#[path = "limits/latency.rs"]
mod latency;
#[path = "peers/src/machine.rs"]
#[allow(dead_code, reason = "the other crate uses more of it")]
mod machine;
#[path = "limits/mapped.rs"]
mod mapped;
#[path = "limits/measure.rs"]
mod measure;
#[path = "limits/process.rs"]
mod process;
#[path = "limits/queue.rs"]
mod queue;
#[path = "limits/raw.rs"]
mod raw;
#[path = "limits/reopen.rs"]
mod reopen;
#[path = "limits/report.rs"]
mod report;
#[path = "limits/streams.rs"]
mod streams;
#[path = "limits/topics.rs"]
mod topics;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use measure::{Plan, Side};
use process::Disk;
use report::{Bar, Row};

/// A frame's header, and what an entry has before its payload; see `docs/format.md`.
const FRAME_HEADER_BYTES: usize = 64;
const ENTRY_BYTES: usize = 28;

/// How often it is tried to remove what a row has left.
const PATIENCE: usize = 500;

/// What a record takes in the log.
fn entry_bytes(payload_bytes: usize) -> usize {
    (ENTRY_BYTES + payload_bytes).next_multiple_of(8)
}

struct Arguments {
    plan: Plan,
    only: String,
    directory: PathBuf,
    is_strict: bool,
    is_large: bool,
    is_for_docs: bool,
    design: Option<usize>,
    /// What this process is for, if it was started by another one.
    role: Option<Role>,
}

#[derive(Clone, Copy)]
enum Role {
    Fill(reopen::Fill),
    Hold(u64),
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = parse_arguments()?;
    match arguments.role {
        Some(Role::Fill(fill)) => return reopen::fill(&arguments.directory, fill),
        Some(Role::Hold(messages)) => return backlog::hold(&arguments.directory, messages),
        None => {}
    }
    let directory = tempfile::tempdir_in(&arguments.directory)?;
    let mut bench = Bench { directory: directory.path().to_owned(), arguments, rows: Vec::new() };
    // Where others are at work, only the ratios mean something.
    let load = machine::load();
    println!("load before: {load}");
    println!(
        "each point {:?} in {} rounds, the sides in turns, in {}",
        bench.arguments.plan.time,
        bench.arguments.plan.rounds,
        bench.arguments.directory.display()
    );
    streams::single_rows(&mut bench)?;
    streams::group_commit_rows(&mut bench)?;
    streams::pipelined_rows(&mut bench)?;
    streams::unsynced_rows(&mut bench)?;
    consumers::rows(&mut bench)?;
    consumers::group_rows(&mut bench)?;
    cycle::rows(&mut bench)?;
    topics::rows(&mut bench)?;
    latency::rows(&mut bench)?;
    reopen::rows(&mut bench)?;
    backlog::rows(&mut bench)?;
    let Bench { rows, arguments, .. } = &bench;
    println!("\n{}", report::table(rows));
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../limits.json");
    std::fs::write(&path, report::json(rows, &arguments.plan))?;
    println!("written to limits.json in the build directory");
    if arguments.is_for_docs {
        let machine = machine::Machine::read(&arguments.directory);
        let page = report::page(rows, &arguments.plan, &machine, &load);
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/limits.md"), page)?;
        println!("and to docs/limits.md");
    }
    if arguments.is_strict && rows.iter().any(|row| row.met() == Some(false)) {
        return Err("a bar was missed".into());
    }
    Ok(())
}

fn parse_arguments() -> Result<Arguments, Box<dyn Error>> {
    use lexopt::prelude::*;
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let (time, disk) = (Duration::from_millis(700), Disk::default());
    let plan = Plan { time, rounds: 5, disk, unsynced: None };
    let mut parsed = Arguments {
        plan,
        only: String::new(),
        directory,
        is_strict: false,
        is_large: false,
        is_for_docs: false,
        design: None,
        role: None,
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("seconds") => {
                parsed.plan.time = Duration::try_from_secs_f64(parser.value()?.parse()?)?;
            }
            Long("rounds") => parsed.plan.rounds = parser.value()?.parse()?,
            Long("only") => parsed.only = parser.value()?.string()?,
            Long("dir") => parsed.directory = parser.value()?.into(),
            Long("design") => parsed.design = Some(parser.value()?.parse()?),
            Long("strict") => parsed.is_strict = true,
            Long("large") => parsed.is_large = true,
            Long("docs") => parsed.is_for_docs = true,
            Long("fill-nearly") => parsed.role = Some(Role::Fill(reopen::Fill::Nearly)),
            Long("fill-little") => parsed.role = Some(Role::Fill(reopen::Fill::Little)),
            Long("hold") => parsed.role = Some(Role::Hold(parser.value()?.parse()?)),
            // Cargo passes it to every benchmark.
            Long("bench") => {}
            other => return Err(other.unexpected().into()),
        }
    }
    std::fs::create_dir_all(&parsed.directory)?;
    parsed.plan.disk = Disk::of(&parsed.directory)?;
    Ok(parsed)
}

/// This program in another role, in a process of its own.
fn run_as(role: &str, directory: &Path) -> std::io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--dir").arg(directory).arg(role);
    Ok(command)
}

/// Two sides of a row, and how they are called.
struct Comparison {
    name: String,
    against: String,
    bar: Bar,
    threads: usize,
    payload_bytes: usize,
}

/// Where it is measured, and what was found so far.
struct Bench {
    directory: PathBuf,
    arguments: Arguments,
    rows: Vec<Row>,
}

impl Bench {
    fn wants(&self, name: &str) -> bool {
        name.contains(&self.arguments.only)
    }

    /// A directory that lasts as long as what is returned.
    fn new_directory(&self) -> std::io::Result<TempDir> {
        tempfile::tempdir_in(&self.directory)
    }

    fn push(&mut self, row: Row) {
        println!("{}", row.line());
        self.rows.push(row);
    }

    /// Measures what `make` makes: the limit, and ours.
    fn compare<A: Side, B: Side>(
        &mut self,
        comparison: &Comparison,
        make: impl FnOnce(&Path) -> Result<(A, B), Box<dyn Error>>,
    ) -> Result<(), Box<dyn Error>> {
        let Comparison { name, threads, payload_bytes, .. } = comparison;
        if !self.wants(name) {
            return Ok(());
        }
        let directory = self.new_directory()?;
        let (limit, ours) = make(directory.path())?;
        process::settle(directory.path())?;
        let plan = &self.arguments.plan;
        let measured = measure::in_turns(&[&limit, &ours], *threads, *payload_bytes, plan)
            .map_err(|error| format!("{name}: {error}"))?;
        self.push(Row::compare(comparison, &measured[0], &measured[1]));
        drop((limit, ours));
        self.clear(directory)
    }

    /// The same with what is left of the limit by something that a log cannot do without, measured
    /// beside it.
    fn compare_with<A: Side, B: Side, C: Side>(
        &mut self,
        comparison: &Comparison,
        without: &str,
        make: impl FnOnce(&Path) -> Result<(A, B, C), Box<dyn Error>>,
    ) -> Result<(), Box<dyn Error>> {
        let Comparison { name, against, bar, threads, payload_bytes } = comparison;
        if !self.wants(name) {
            return Ok(());
        }
        let directory = self.new_directory()?;
        let (limit, left, ours) = make(directory.path())?;
        process::settle(directory.path())?;
        let plan = &self.arguments.plan;
        let sides: [&dyn Side; 3] = [&limit, &ours, &left];
        let measured = measure::in_turns(&sides, *threads, *payload_bytes, plan)
            .map_err(|error| format!("{name}: {error}"))?;
        let (threads, payload_bytes) = (*threads, *payload_bytes);
        let as_much = |name, against: &str, bar| {
            let against = against.to_owned();
            Comparison { name, against, bar, threads, payload_bytes }
        };
        let whole = as_much(name.clone(), against, *bar);
        self.push(Row::compare(&whole, &measured[0], &measured[1]));
        let what_is_left = as_much(format!("{name}: {without}"), against, Bar::None);
        self.push(Row::compare(&what_is_left, &measured[0], &measured[2]));
        let of_that = as_much(format!("{name}: of these"), without, Bar::None);
        self.push(Row::compare(&of_that, &measured[2], &measured[1]));
        drop((limit, left, ours));
        self.clear(directory)
    }

    /// Removes what a row has left, so that the next one does not pay for it.
    fn clear(&self, directory: TempDir) -> Result<(), Box<dyn Error>> {
        let path = directory.keep();
        // A log that was dropped closes in the background, and may make a file meanwhile.
        for _ in 0..PATIENCE {
            if std::fs::remove_dir_all(&path).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        if path.exists() {
            return Err(format!("{} cannot be removed", path.display()).into());
        }
        process::settle(&self.directory)
    }

    /// Adds what a row that was measured wrote to its frames.
    fn add_frame_bytes(&mut self, name: &str, bar: Bar) {
        if let Some(row) = self.row(name).and_then(|row| row.frame_bytes(bar)) {
            self.push(row);
        }
    }

    fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name() == name)
    }
}
