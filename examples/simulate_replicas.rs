//! Lets clusters of three and five replicas live through lost messages, partitions, power cuts,
//! failing disks and changes of their leader, and checks after each run that nothing acknowledged
//! is lost, undone, altered or reordered.
//!
//! ```text
//! cargo run --release --features simulation --example simulate_replicas -- --runs 100000 --seed 1
//! ```
//!
//! The exit status is 1 if a promise was broken, with the seed of the run and all that happened in
//! it, or if something that can happen never did. The same seed gives the same runs and the same
//! trace, whatever the number of threads. What is simulated stands in `docs/testing.md`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example shows what it does")]
#![allow(clippy::disallowed_methods, reason = "an example uses clocks like anyone")]

use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use lexopt::prelude::*;

#[path = "../tests/cluster/mod.rs"]
mod cluster;

use cluster::campaign::{Failure, HAPPENINGS, Summary, history, run_all};

const HELP: &str = "\
Lets clusters of replicas live through failures and checks what they acknowledged.

Usage: simulate_replicas [OPTIONS]

Options:
  --runs N       how many runs to simulate [default: 100000]
  --seed N       the seed of the first run; each next run has the next one [default: 1]
  --threads N    how many runs go on at a time [default: the number of cores]
  --history      print what happens in the one run of the seed, line by line, and nothing else
  --help         print this";

/// Below this number of runs, it is no surprise that something rare has not come up.
const ALL_COME_UP: u64 = 5_000;

const LINE_EVERY: Duration = Duration::from_secs(10);

struct Arguments {
    runs: u64,
    seed: u64,
    threads: usize,
    history: bool,
}

fn parse() -> Result<Option<Arguments>, lexopt::Error> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut arguments = Arguments { runs: 100_000, seed: 1, threads, history: false };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("runs") => arguments.runs = parser.value()?.parse()?,
            Long("seed") => arguments.seed = parser.value()?.parse()?,
            Long("threads") => arguments.threads = parser.value()?.parse()?,
            Long("history") => arguments.history = true,
            Long("help") => return Ok(None),
            _ => return Err(argument.unexpected()),
        }
    }
    if arguments.runs == 0 || arguments.threads == 0 {
        return Err("zero runs or threads prove nothing".into());
    }
    Ok(Some(arguments))
}

fn main() -> ExitCode {
    let arguments = match parse() {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{error}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    if arguments.history {
        println!("{}", history(arguments.seed).join("\n"));
        return ExitCode::SUCCESS;
    }
    let began = Instant::now();
    let printed = Mutex::new(began);
    let result = run_all(arguments.seed, arguments.runs, arguments.threads, &|done| {
        // Whoever holds it is printing already.
        let Ok(mut printed) = printed.try_lock() else { return };
        if printed.elapsed() >= LINE_EVERY {
            *printed = Instant::now();
            let rate = per_second(done, began.elapsed());
            let left = (arguments.runs - done) / rate.max(1);
            eprintln!("{done} of {} runs, {rate}/s, {left} s left", arguments.runs);
        }
    });
    match result {
        Ok(summary) => passed(&arguments, &summary, began.elapsed()),
        Err(failure) => failed(&failure),
    }
}

fn passed(arguments: &Arguments, summary: &Summary, took: Duration) -> ExitCode {
    let count = |what: &str| summary.tally.get(what).copied().unwrap_or_default();
    for what in HAPPENINGS {
        println!("  {what:<24} {:>12}", count(what));
    }
    let rate = per_second(summary.runs, took);
    let Arguments { seed, threads, .. } = arguments;
    println!(
        "{} runs from seed {seed} on {threads} threads in {} s, {rate}/s",
        summary.runs,
        took.as_secs()
    );
    let (records, acks) = summary.checked;
    println!(
        "{records} acknowledged records and {acks} acknowledgements of groups were looked for:"
    );
    println!(
        "lost 0, undone 0, altered 0, reordered 0, seen and vanished 0; trace {:016x}",
        summary.trace
    );
    let idle: Vec<_> = HAPPENINGS.into_iter().filter(|what| count(what) == 0).collect();
    if idle.is_empty() || summary.runs < ALL_COME_UP {
        return ExitCode::SUCCESS;
    }
    eprintln!("never came up, so nothing is proven about it: {}", idle.join(", "));
    ExitCode::FAILURE
}

fn failed(failure: &Failure) -> ExitCode {
    let Failure { seed, violation } = failure;
    println!("{}", history(*seed).join("\n"));
    eprintln!("seed {seed} breaks a promise:\n{violation}");
    eprintln!("again: simulate_replicas --seed {seed} --runs 1");
    ExitCode::FAILURE
}

fn per_second(runs: u64, time: Duration) -> u64 {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    runs.saturating_mul(1000) / millis.max(1)
}
