//! How many instructions each operation takes: a count that is the same in each run, so that a
//! change for the worse is found on any machine, however busy.
//!
//! `cargo bench --bench instructions` takes half a minute. It ends with a failure where a bound is
//! exceeded, and with status 77 where there is no valgrind. Behind a `--`:
//!
//! - `--only TEXT` for the rows whose name contains the text;
//! - `--rounds 10` to count each row so often, and see by how much the counts differ;
//! - `--profile` for the functions in which the instructions are;
//! - `--dir DIRECTORY` to write elsewhere than in the build directory.
//!
//! Each workload runs twice under callgrind, on one thread, with two numbers of operations. The
//! difference is that of so many operations; starting, opening, filling and closing cancel out.
//! The disk is the real one, since that is what users run; the simulated one would be counted, too.
//! There are no threads in the background: when those come to run is chance, and with them the
//! figures differ from run to run by up to a tenth. So what they do is not counted, nor what it
//! costs to wake them, nor what the kernel does; `benches/limits` has the time of all that. The clock
//! stands still; to read it is counted, at most 6 % of a figure.
//!
//! Valgrind knows no AVX-512: what chooses its instructions when it runs, such as crc32fast and the
//! copying of memory, falls back to what valgrind has, PCLMULQDQ and AVX2. An optimisation with wider
//! instructions is not seen here, and a checksum of a long payload may take more than it does outside.
//! A compiler or a C library of another version moves all figures by a little.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it prints a table")]
#![allow(clippy::disallowed_methods, reason = "it counts on real files")]

#[path = "instructions/callgrind.rs"]
mod callgrind;
#[path = "instructions/workloads.rs"]
mod workloads;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use callgrind::Counts;

/// What is counted, and the most instructions that one operation may take. The last column of what
/// is printed suggests a bound, a tenth above what was counted. Whoever makes an operation cheaper
/// lowers its bound with the same commit; one that is printed as loose no longer finds that a fifth
/// is added.
const ROWS: [Row; 11] = [
    row("append, synced", 3_520, workloads::append_synced),
    row("append, never synced", 3_430, workloads::append_never),
    row("submit, 128 in flight, synced", 890, workloads::submit_synced),
    row("submit, 128 in flight, never synced", 890, workloads::submit_never),
    row("append_batch of 100, per record", 500, workloads::append_batch),
    row("poll 100, just written, per message", 220, workloads::poll_written),
    row("poll 100, per message", 280, workloads::poll_hundreds),
    row("poll 1", 3_290, workloads::poll_single),
    row("ack", 730, workloads::ack),
    row("ack, each committed", 6_120, workloads::ack_and_commit),
    row("append, poll 100, ack, commit", 5_490, workloads::cycle),
];

/// The two numbers of operations. Few enough that no workload rolls to another segment in between,
/// and a multiple of one another, so that buffers that double do so equally often for any of them.
const OPERATIONS: [usize; 2] = [1_000, 4_000];

/// How many functions a profile shows.
const FUNCTIONS: usize = 20;

/// What `.ci/run` takes for a step that lacks what it needs.
const LEFT_OUT: u8 = 77;

type Outcome = Result<(), Box<dyn Error>>;

struct Row {
    name: &'static str,
    bound: u64,
    run: fn(&Path, usize) -> Outcome,
}

const fn row(name: &'static str, bound: u64, run: fn(&Path, usize) -> Outcome) -> Row {
    Row { name, bound, run }
}

struct Arguments {
    only: String,
    rounds: usize,
    is_profiled: bool,
    directory: PathBuf,
    /// What is to be run in this process, if it was started to be counted.
    operations: Option<usize>,
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments = parse_arguments()?;
    if let Some(operations) = arguments.operations {
        let row = ROWS.iter().find(|row| row.name == arguments.only).ok_or("no such row")?;
        (row.run)(&arguments.directory, operations)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(lacking) = lacking() {
        eprintln!("nothing was counted: {lacking}");
        return Ok(ExitCode::from(LEFT_OUT));
    }
    println!("| {:<36} | counted | spread | bound |         | suggested |", "payloads of 100 B");
    let mut are_met = true;
    for row in ROWS.iter().filter(|row| row.name.contains(&arguments.only)) {
        are_met &= row.measure(&arguments)?;
    }
    if are_met { Ok(ExitCode::SUCCESS) } else { Err("a bound is exceeded".into()) }
}

/// What is lacking to compare anything with the bounds.
fn lacking() -> Option<&'static str> {
    if !cfg!(target_arch = "x86_64") {
        return Some("the bounds are for instructions of x86-64");
    }
    (!callgrind::is_there()).then_some("valgrind is not installed; most systems have a package")
}

fn parse_arguments() -> Result<Arguments, Box<dyn Error>> {
    use lexopt::prelude::*;
    let mut parsed = Arguments {
        only: String::new(),
        rounds: 1,
        is_profiled: false,
        directory: PathBuf::from(env!("CARGO_TARGET_TMPDIR")),
        operations: None,
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("only") => parsed.only = parser.value()?.string()?,
            Long("rounds") => parsed.rounds = parser.value()?.parse()?,
            Long("profile") => parsed.is_profiled = true,
            Long("dir") => parsed.directory = parser.value()?.into(),
            Long("operations") => parsed.operations = Some(parser.value()?.parse()?),
            // Cargo passes it to every benchmark.
            Long("bench") => {}
            other => return Err(other.unexpected().into()),
        }
    }
    std::fs::create_dir_all(&parsed.directory)?;
    Ok(parsed)
}

impl Row {
    /// Counts and prints it; says whether the bound is met.
    fn measure(&self, arguments: &Arguments) -> Result<bool, Box<dyn Error>> {
        let mut figures = Vec::new();
        for round in 0..arguments.rounds.max(1) {
            let directory = tempfile::tempdir_in(&arguments.directory)?;
            let few = self.count(directory.path(), OPERATIONS[0])?;
            let many = self.count(directory.path(), OPERATIONS[1])?;
            figures.push(per_operation(few.total, many.total).ok_or("more took less")?);
            if arguments.is_profiled && round == 0 {
                self.print_profile(&few, &many)?;
            }
        }
        let (min, max) = (figures.iter().min().expect("a round"), figures.iter().max());
        Ok(self.print(*min, *max.expect("a round")))
    }

    /// Runs it under callgrind, in a directory of its own within this one.
    fn count(&self, directory: &Path, operations: usize) -> Result<Counts, Box<dyn Error>> {
        let (operations, log) = (operations.to_string(), directory.join(operations.to_string()));
        let log = log.to_str().ok_or("the directory's name is not UTF-8")?;
        let arguments = ["--only", self.name, "--operations", &operations, "--dir", log];
        let counted = Counts::of(&arguments, directory.join(format!("{operations}.callgrind")));
        counted.map_err(|error| format!("{}: {error}", self.name).into())
    }

    /// The worst of several rounds is what has to meet the bound.
    fn print(&self, min: u64, max: u64) -> bool {
        let Self { name, bound, .. } = self;
        let is_met = max <= *bound;
        let verdict = match is_met {
            true if max * 6 / 5 < *bound => "loose",
            true => "met",
            false => "NOT MET",
        };
        let spread = max - min;
        let suggested = (max * 11).div_ceil(100) * 10;
        println!(
            "| {name:<36} | {max:>7} | {spread:>6} | {bound:>5} | {verdict:<7} | {suggested:>9} |"
        );
        is_met
    }

    /// The functions with the most instructions, per operation.
    fn print_profile(&self, few: &Counts, many: &Counts) -> Outcome {
        let few = few.by_function()?;
        let mut functions: Vec<_> = many.by_function()?.into_iter().collect();
        for (name, count) in &mut functions {
            let before = few.get(name).copied().unwrap_or(0);
            // What is run at the beginning alone may take less.
            *count = per_operation(before, *count).unwrap_or(0);
        }
        functions.sort_by(|a, b| (b.1, &a.0).cmp(&(a.1, &b.0)));
        println!("{}, by function:", self.name);
        for (name, count) in functions.iter().take(FUNCTIONS) {
            println!("  {count:>5}  {name}");
        }
        Ok(())
    }
}

/// Of the instructions of both runs, those of one operation, rounded up.
fn per_operation(few: u64, many: u64) -> Option<u64> {
    Some(many.checked_sub(few)?.div_ceil((OPERATIONS[1] - OPERATIONS[0]) as u64))
}
