//! The whole of ackline on real text: every line of some files goes through a durable queue, and
//! no line is lost although the consumers are killed half-way.
//!
//! ```text
//! cargo run --release --example quickstart [--dir DIR] [FILE...]
//! ```
//!
//! 1. Several threads append every line to a topic per file type. Each append is waited for.
//! 2. A second process works the lines off with two groups: `words` counts the words of each
//!    file with four threads, `archive` writes the lines to a file per topic.
//! 3. When about half is done, that process is killed by SIGKILL and started again.
//!    Each batch of lines is acknowledged together with its counts, all or nothing, and the
//!    archiver skips what it has: a line that is delivered twice takes effect once.
//! 4. What came out is compared with what is in the files. Any difference is an exit status of 1.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example shows what it does")]
#![allow(clippy::disallowed_methods, reason = "an example uses files and clocks like anyone")]

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ackline::{Ending, Options, Stats};
use lexopt::prelude::*;

#[path = "quickstart/archive.rs"]
mod archive;
#[path = "quickstart/check.rs"]
mod check;
#[path = "quickstart/input.rs"]
mod input;
#[path = "quickstart/meter.rs"]
mod meter;
#[path = "quickstart/produce.rs"]
mod produce;
#[path = "quickstart/supervise.rs"]
mod supervise;
#[path = "quickstart/tally.rs"]
mod tally;
#[path = "quickstart/work.rs"]
mod work;

use check::Findings;
use input::Inputs;
use supervise::{Supervisor, Told};

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

const HELP: &str = "\
Sends every line of some text files through a durable queue, kills the consumers half-way,
and checks that no line is lost.

Usage: quickstart [OPTIONS] [FILE...]

Without files, the sources of this repository are taken.

Options:
  --dir DIR      keep the queue in DIR/queue and the archive in DIR/archive
                 [default: a temporary directory, removed at the end]
  --threads N    producer threads [default: 8]
  -h, --help     show this";

/// What the command line asks for.
#[derive(Debug)]
struct Arguments {
    files: Vec<PathBuf>,
    directory: Option<PathBuf>,
    threads: usize,
    /// For the test of this example: leave a line out.
    pretend_lost: bool,
    /// This process is one that consumes, started by the one that the user started.
    consume: Option<work::Orders>,
}

fn main() -> ExitCode {
    let run = || match parse(std::env::args_os().skip(1).collect())? {
        None => {
            println!("{HELP}");
            Ok(true)
        }
        Some(Arguments { consume: Some(orders), directory, .. }) => {
            let directory = directory.ok_or("--consume needs --dir")?;
            work::run(&directory.join("queue"), &directory.join("archive"), orders)?;
            Ok(true)
        }
        Some(arguments) => run(arguments),
    };
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let error: Failure = error;
            eprintln!("quickstart: {error}");
            ExitCode::FAILURE
        }
    }
}

/// `None` if help is asked for.
fn parse(arguments: Vec<OsString>) -> Result<Option<Arguments>, Failure> {
    let mut parsed = Arguments {
        files: Vec::new(),
        directory: None,
        threads: 8,
        pretend_lost: false,
        consume: None,
    };
    let mut parser = lexopt::Parser::from_args(arguments);
    while let Some(argument) = parser.next()? {
        match argument {
            Short('h') | Long("help") => return Ok(None),
            Long("dir") => parsed.directory = Some(parser.value()?.into()),
            Long("threads") => parsed.threads = parser.value()?.parse::<usize>()?.clamp(1, 1024),
            Long("pretend-lost") => parsed.pretend_lost = true,
            Long("consume") => {
                let lines = parser.value()?.parse()?;
                parsed.consume = Some(work::Orders { lines, hold: false });
            }
            Long(task @ ("hold" | "finish")) => {
                let hold = task == "hold";
                parsed.consume.as_mut().ok_or("--consume comes first")?.hold = hold;
            }
            Value(file) => parsed.files.push(file.into()),
            _ => return Err(argument.unexpected().into()),
        }
    }
    Ok(Some(parsed))
}

/// How every process of the run opens the log.
pub(crate) fn options() -> Options {
    // A busy disk is not an error here.
    Options::new().payload_bytes_max(input::LINE_BYTES_MAX).sync_timeout(Duration::from_secs(60))
}

/// The run that the user started. `false` if a line was lost or altered.
fn run(arguments: Arguments) -> Result<bool, Failure> {
    let temporary = tempfile::tempdir()?;
    let directory = arguments.directory.as_deref().unwrap_or(temporary.path());
    let mut files = arguments.files;
    if files.is_empty() {
        files = input::own_sources()?;
    }
    files.sort();
    files.dedup();
    let inputs = Inputs::read(files)?;
    let (file_number, bytes) = (inputs.files.len(), inputs.bytes);
    println!("{file_number} files, {} lines, {bytes} bytes", inputs.lines);

    let meters = meter::Meters::new();
    let words = meters.add("words", inputs.lines);
    let archive = meters.add("archive", inputs.lines);
    let started = Instant::now();
    let append = meters.add("append", inputs.lines);
    let appended = produce(directory, &inputs, &append, arguments.threads, arguments.pretend_lost)?;
    let append_time = started.elapsed();

    let lines = appended.appended;
    let supervisor = Supervisor { directory, lines, words, archive, meters: &meters };
    let started = Instant::now();
    let told = supervisor.run()?;
    let work_time = started.elapsed();

    let log = options().open(directory.join("queue"))?;
    let findings = Findings::gather(&log, &inputs, &directory.join("archive"))?;
    log.close()?;
    let report = Report { inputs, appended, append_time, told, work_time, findings };
    report.print();
    Ok(report.is_clean())
}

/// Appends everything to a new log, and closes it, since the consumers are to open it.
fn produce(
    directory: &Path,
    inputs: &Inputs,
    meter: &meter::Meter,
    threads: usize,
    pretend_lost: bool,
) -> Result<Stats, Failure> {
    let queue = directory.join("queue");
    let log = options().open(&queue)?;
    if log.report().ending != Ending::New {
        return Err(format!("{} holds a queue already", queue.display()).into());
    }
    let producers = produce::Producers::new(&log, inputs, meter, pretend_lost)?;
    producers.run(threads)?;
    meter.finish();
    let stats = log.stats();
    drop(producers);
    log.close()?;
    Ok(stats)
}

/// All that is shown at the end.
struct Report {
    inputs: Inputs,
    appended: Stats,
    append_time: Duration,
    told: [Told; 2],
    work_time: Duration,
    findings: Findings,
}

impl Report {
    fn is_clean(&self) -> bool {
        self.findings.differences.is_empty()
    }

    fn print(&self) {
        let Findings { words, archive, differences } = &self.findings;
        let [first, second] = &self.told;
        let [again_words, again_archive] =
            [0, 1].map(|group| first.redelivered[group] + second.redelivered[group]);
        println!();
        println!("{:24} {:>14} {:>14}", "", "words", "archive");
        let row = |name: &str, words: u64, archive: u64| {
            println!("{name:24} {words:>14} {archive:>14}");
        };
        row("lines in", self.inputs.lines, self.inputs.lines);
        row("lines delivered", words.lines, archive.lines);
        row("redelivered", again_words, again_archive);
        row("done before SIGKILL", first.counted, first.archived);
        row("skipped as known", 0, first.skipped + second.skipped);
        row("twice in the result", words.doubled, archive.doubled);
        row("lost", words.lost, archive.lost);
        println!();
        let expected_words: u64 = self.inputs.files.iter().map(|file| file.expected.words).sum();
        println!("{:24} {:>14} of {expected_words}", "words counted", words.words);
        println!("{:24} {:>14.0} lines/s", "append rate", self.rate(self.append_time));
        let delivery = self.rate(self.work_time);
        println!(
            "{:24} {delivery:>14.0} lines/s to both groups, restart included",
            "delivery rate"
        );
        let (syncs, messages) = (self.appended.syncs, self.appended.appended);
        #[expect(clippy::cast_precision_loss, reason = "it is shown with six digits")]
        let per_message = syncs as f64 / messages.max(1) as f64;
        println!("{:24} {per_message:>14.6} ({syncs} for {messages})", "fsyncs per message");
        for difference in differences.iter().take(10) {
            println!("DIFFERENT, expected and found lines, words, fingerprint: {difference}");
        }
        println!("lost {}", words.lost.max(archive.lost));
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate is shown without decimals")]
    fn rate(&self, time: Duration) -> f64 {
        self.appended.appended as f64 / time.as_secs_f64()
    }
}
