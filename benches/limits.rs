//! How close the log comes to what the disk allows: raw writes against the log's own calls, in
//! one process, in short turns, so that whatever else the machine does harms both.
//!
//! `cargo bench --bench limits` takes about two minutes. Behind a `--`:
//!
//! - `--seconds 0.7` for each side of each round, `--rounds 5`;
//! - `--only TEXT` for the rows whose name contains the text;
//! - `--dir DIRECTORY` to measure another file system than the one with the build directory;
//! - `--design 4` to compare with this design of the ideal rather than the fastest;
//! - `--strict` to end with a failure where a bar is missed.
//!
//! Raw sides write to a file that was filled with zeros and synced, so that a write changes no
//! metadata, just as the log's own segments are. They carry no checksums and keep no index. At the
//! end of each row both sides are read back and compared with what was acknowledged.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it prints a table")]
#![allow(clippy::disallowed_methods, reason = "it measures real time on real files")]

#[path = "limits/ideal.rs"]
mod ideal;
#[path = "limits/measure.rs"]
mod measure;
#[path = "limits/queue.rs"]
mod queue;
#[path = "limits/raw.rs"]
mod raw;
#[path = "limits/report.rs"]
mod report;

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use ideal::{Design, Ideal};
use measure::{Plan, Side};
use queue::{Batches, Polls, Queue, Submits};
use raw::Raw;
use report::Row;

/// A frame's header, and what an entry has before its payload; see `docs/format.md`.
const FRAME_HEADER_BYTES: usize = 64;
const ENTRY_BYTES: usize = 28;

/// How many submits are under way at a time.
const IN_FLIGHT: usize = 128;
/// The records of one batch of 1 MiB.
const BATCH_RECORDS: usize = 1024;

/// What issue 2 asks for.
const BAR_ONE_THREAD: f64 = 0.90;
const BAR_16_THREADS: f64 = 0.70;

struct Arguments {
    plan: Plan,
    only: String,
    directory: PathBuf,
    strict: bool,
    design: Option<usize>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = parse_arguments()?;
    let directory = tempfile::tempdir_in(&arguments.directory)?;
    let bench = Bench { directory: directory.path().to_owned(), arguments };
    // Where others are at work, only the ratios mean something.
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load before: {}", load.split(' ').next().unwrap_or("unknown"));
    println!(
        "each point {:?} in {} rounds, the sides in turns, in {}",
        bench.arguments.plan.time,
        bench.arguments.plan.rounds,
        bench.arguments.directory.display()
    );
    let mut rows = Vec::new();
    bench.single(&mut rows)?;
    bench.groups(&mut rows)?;
    bench.streams(&mut rows)?;
    bench.polls(&mut rows)?;
    println!("\n{}", report::table(&rows));
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../limits.json");
    std::fs::write(&path, report::json(&rows, &bench.arguments.plan))?;
    println!("written to limits.json in the build directory");
    if bench.arguments.strict && rows.iter().any(|row| row.met() == Some(false)) {
        return Err("a bar was missed".into());
    }
    Ok(())
}

fn parse_arguments() -> Result<Arguments, Box<dyn Error>> {
    use lexopt::prelude::*;
    let mut plan = Plan { time: Duration::from_millis(700), rounds: 5 };
    let mut directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let (mut only, mut strict, mut design) = (String::new(), false, None);
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("seconds") => {
                plan.time = Duration::try_from_secs_f64(parser.value()?.parse()?)?;
            }
            Long("rounds") => plan.rounds = parser.value()?.parse()?,
            Long("only") => only = parser.value()?.string()?,
            Long("dir") => directory = parser.value()?.into(),
            Long("design") => design = Some(parser.value()?.parse()?),
            Long("strict") => strict = true,
            // Cargo passes it to every benchmark.
            Long("bench") => {}
            other => return Err(other.unexpected().into()),
        }
    }
    std::fs::create_dir_all(&directory)?;
    Ok(Arguments { plan, only, directory, strict, design })
}

struct Bench {
    directory: PathBuf,
    arguments: Arguments,
}

impl Bench {
    /// One thread that waits for each record.
    fn single(&self, rows: &mut Vec<Row>) -> Result<(), Box<dyn Error>> {
        for (bytes, bar) in [(100, Some(BAR_ONE_THREAD)), (1024, None)] {
            // The same number of bytes as our frame: a header and one entry.
            let frame = FRAME_HEADER_BYTES + (ENTRY_BYTES + bytes).next_multiple_of(8);
            let name = format!("append, 1 thread, {bytes} B");
            let baseline = format!("pwrite of {frame} B + fdatasync");
            self.row(rows, &name, &baseline, bar, 1, bytes, || {
                let raw = Raw::new(&self.directory, bytes, 1, frame)?;
                Ok((raw, Queue::new(&self.directory, bytes)?))
            })?;
        }
        Ok(())
    }

    /// Many threads that wait for each record.
    fn groups(&self, rows: &mut Vec<Row>) -> Result<(), Box<dyn Error>> {
        for (threads, bar) in [(16, Some(BAR_16_THREADS)), (64, None)] {
            let mut fastest = None;
            for bytes in [100, 1024] {
                let name = format!("append, {threads} threads, {bytes} B");
                if !name.contains(&self.arguments.only) {
                    continue;
                }
                let design = match fastest {
                    Some(design) => design,
                    None => *fastest.insert(self.fastest_design(threads)?),
                };
                let bar = bar.filter(|_| bytes == 100);
                let baseline = format!("ideal group commit ({design})");
                self.row(rows, &name, &baseline, bar, threads, bytes, || {
                    let ideal = Ideal::new(&self.directory, bytes, threads, design)?;
                    Ok((ideal, Queue::new(&self.directory, bytes)?))
                })?;
            }
        }
        Ok(())
    }

    /// The design of the ideal that is the fastest here and now, by the median of three tries.
    fn fastest_design(&self, threads: usize) -> Result<Design, Box<dyn Error>> {
        const PAYLOAD_BYTES: usize = 100;
        if let Some(chosen) = self.arguments.design {
            return Design::all().nth(chosen).ok_or("there is no such design".into());
        }
        let plan = Plan { time: self.arguments.plan.time / 2, rounds: 3 };
        let mut tried = Vec::new();
        for design in Design::all() {
            tried.push((design, Ideal::new(&self.directory, PAYLOAD_BYTES, threads, design)?));
        }
        let sides: Vec<&dyn Side> = tried.iter().map(|(_, ideal)| ideal as &dyn Side).collect();
        let measured = measure::in_turns(&sides, threads, PAYLOAD_BYTES, &plan)?;
        println!("\ndesigns of the ideal, {threads} threads, {PAYLOAD_BYTES} B:");
        let mut fastest = (0.0, tried[0].0);
        for ((design, _), rounds) in tried.iter().zip(&measured) {
            let rate =
                measure::spread(rounds.iter().map(|round| measure::per_second(round))).median;
            let each = measure::spread(rounds.iter().map(|round| measure::per_sync(round))).median;
            println!("  {rate:>9.0} records/s, {each:>5.1} per fsync: {design}");
            if rate > fastest.0 {
                fastest = (rate, *design);
            }
        }
        Ok(fastest.1)
    }

    /// One thread with many records under way.
    fn streams(&self, rows: &mut Vec<Row>) -> Result<(), Box<dyn Error>> {
        let frame = |bytes: usize, records: usize| {
            FRAME_HEADER_BYTES + records * (ENTRY_BYTES + bytes).next_multiple_of(8)
        };
        let write = frame(100, IN_FLIGHT);
        let name = format!("submit, {IN_FLIGHT} in flight, 100 B");
        let baseline = format!("pwrite of {write} B + fdatasync");
        self.row(rows, &name, &baseline, None, 1, 100, || {
            let raw = Raw::new(&self.directory, 100, IN_FLIGHT, write)?;
            Ok((raw, Submits::new(&self.directory, 100, IN_FLIGHT)?))
        })?;
        let write = frame(1024, BATCH_RECORDS);
        let baseline = format!("pwrite of {write} B + fdatasync");
        self.row(rows, "append_batch, 1 MiB of 1 KiB", &baseline, None, 1, 1024, || {
            let raw = Raw::new(&self.directory, 1024, BATCH_RECORDS, write)?;
            Ok((raw, Batches::new(&self.directory, 1024, BATCH_RECORDS)?))
        })
    }

    /// Consumers that find everything in memory.
    fn polls(&self, rows: &mut Vec<Row>) -> Result<(), Box<dyn Error>> {
        let name = "poll and ack, warm, 100 B";
        if !name.contains(&self.arguments.only) {
            return Ok(());
        }
        let polls = Polls::new(&self.directory, 100)?;
        let measured = measure::in_turns(&[&polls], 1, 100, &self.arguments.plan)?;
        rows.push(Row::alone(name, &measured[0]));
        Ok(())
    }

    #[allow(clippy::too_many_arguments, reason = "each names a column of the table")]
    fn row<A: Side, B: Side>(
        &self,
        rows: &mut Vec<Row>,
        name: &str,
        baseline: &str,
        bar: Option<f64>,
        threads: usize,
        payload_bytes: usize,
        make: impl FnOnce() -> Result<(A, B), Box<dyn Error>>,
    ) -> Result<(), Box<dyn Error>> {
        if !name.contains(&self.arguments.only) {
            return Ok(());
        }
        let (a, b) = make()?;
        let measured = measure::in_turns(&[&a, &b], threads, payload_bytes, &self.arguments.plan)?;
        let row = Row::compare(name, baseline, bar, &measured[0], &measured[1]);
        println!("{}", row.line());
        rows.push(row);
        Ok(())
    }
}
