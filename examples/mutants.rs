//! Builds bugs into the queue, one at a time, and checks that the simulation finds each of them.
//!
//! ```text
//! cargo run --release --features simulation,mutants --example mutants
//! ```
//!
//! First the code as it is must pass; then each mutant must be found in each of several trials,
//! each within 1 % of the crashes that the check script simulates. The exit status is 1 if a
//! mutant survives. With `--write docs/mutants.md`, the table in that document is made again, once
//! every mutant has been found.
//!
//! A mutant is switched on for a whole process, so each is tried in a process of its own: this
//! program starts itself.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example shows what it does")]
#![allow(clippy::disallowed_methods, reason = "an example uses clocks and files like anyone")]

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ackline::simulation::mutants::Mutant;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lexopt::prelude::*;

#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../tests/sim/mod.rs"]
mod sim;

#[allow(dead_code, reason = "another example uses more of it")]
#[path = "../tests/cluster/mod.rs"]
mod cluster;

#[path = "mutants/report.rs"]
mod report;
#[path = "mutants/threads.rs"]
mod threads;
#[path = "mutants/trials.rs"]
mod trials;

use trials::{Budget, Outcome};

const HELP: &str = "\
Builds bugs into the queue, one at a time, and checks that the simulation finds each of them.

Usage: mutants [OPTIONS]

Options:
  --trials N     how often each mutant is tried, from seeds of its own [default: 9]
  --crashes N    how many crashes a trial has to find it [default: 30000]
  --seed N       where the seeds begin [default: 1]
  --only NAME    try this mutant, and none of the others nor the code as it is; may be repeated
  --jobs N       how many processes run at a time [default: the number of cores]
  --write FILE   write the table as a document, if none survives; not with --only
  --help         print this";

const LINE_EVERY: Duration = Duration::from_secs(10);

struct Arguments {
    budget: Budget,
    only: Vec<String>,
    jobs: usize,
    write: Option<String>,
    /// This process is one that was started for some trials of a mutant.
    child: Option<Job>,
}

/// Some trials of a mutant, or of the code as it is.
#[derive(Clone, Debug)]
struct Job {
    mutant: Option<Mutant>,
    first: u64,
    trials: u64,
}

fn parse() -> Result<Option<Arguments>, lexopt::Error> {
    let mut arguments = Arguments {
        budget: Budget { trials: 9, crashes: 30_000, seed: 1 },
        only: Vec::new(),
        jobs: std::thread::available_parallelism().map_or(1, usize::from),
        write: None,
        child: None,
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("trials") => arguments.budget.trials = parser.value()?.parse()?,
            Long("crashes") => arguments.budget.crashes = parser.value()?.parse()?,
            Long("seed") => arguments.budget.seed = parser.value()?.parse()?,
            Long("only") => arguments.only.push(parser.value()?.string()?),
            Long("jobs") => arguments.jobs = parser.value()?.parse()?,
            Long("write") => arguments.write = Some(parser.value()?.string()?),
            Long("child") => {
                let name = parser.value()?.string()?;
                let mutant = Mutant::ALL.iter().copied().find(|mutant| mutant.name() == name);
                let (first, trials) = (parser.value()?.parse()?, parser.value()?.parse()?);
                arguments.child = Some(Job { mutant, first, trials });
            }
            Long("help") => return Ok(None),
            _ => return Err(argument.unexpected()),
        }
    }
    if arguments.budget.trials == 0 || arguments.budget.crashes == 0 {
        return Err("without a trial or a crash nothing can be found".into());
    }
    if arguments.write.is_some() && !arguments.only.is_empty() {
        return Err("--write is for the table of all mutants, and --only is for some".into());
    }
    let known = |name: &String| Mutant::ALL.iter().any(|mutant| mutant.name() == name);
    if let Some(unknown) = arguments.only.iter().find(|name| !known(name)) {
        return Err(format!("there is no mutant {unknown}").into());
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
    if let Some(job) = arguments.child {
        trials::run(job.mutant, &arguments.budget, job.first..job.first + job.trials);
        return ExitCode::SUCCESS;
    }
    let began = Instant::now();
    let budget = arguments.budget;
    if arguments.only.is_empty() && !passes_unmutated(&budget, arguments.jobs) {
        return ExitCode::FAILURE;
    }
    let chosen = |mutant: &&Mutant| {
        arguments.only.is_empty() || arguments.only.iter().any(|name| name == mutant.name())
    };
    let mutants: Vec<Mutant> = Mutant::ALL.iter().filter(chosen).copied().collect();
    let job = |mutant: &Mutant| Job { mutant: Some(*mutant), first: 0, trials: budget.trials };
    let jobs: Vec<Job> = mutants.iter().map(job).collect();
    let outcomes = run_all(&jobs, &budget, arguments.jobs, "mutants");
    let table: Vec<_> = mutants.into_iter().zip(outcomes).collect();
    let survivors = report::print(&table, &budget, began.elapsed());
    if survivors > 0 {
        if let Some(path) = arguments.write {
            eprintln!("{path} is left as it was: it says that none survives");
        }
        return ExitCode::FAILURE;
    }
    if let Some(path) = arguments.write
        && let Err(error) = std::fs::write(&path, report::document(&table, &budget))
    {
        eprintln!("cannot write {path}: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Whether the code as it is passes as many trials as a mutant gets.
fn passes_unmutated(budget: &Budget, at_a_time: usize) -> bool {
    // Each takes its whole budget, so they are spread over the processes.
    let job = |first| Job { mutant: None, first, trials: 1 };
    let jobs: Vec<_> = (0..budget.trials).map(job).collect();
    let found = run_all(&jobs, budget, at_a_time, "trials of the code as it is");
    let kill = found.iter().flatten().find_map(|outcome| outcome.kill.as_ref());
    match kill {
        None => println!("the code as it is passes {} trials", budget.trials),
        Some(kill) => eprintln!("the code as it is does not pass: {kill:?}"),
    }
    kill.is_none()
}

/// Runs all jobs, some at a time, and returns what came of them in their order.
fn run_all(jobs: &[Job], budget: &Budget, at_a_time: usize, what: &str) -> Vec<Vec<Outcome>> {
    let progress = Progress::new(jobs.len(), what);
    let next = AtomicUsize::new(0);
    let results = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..at_a_time.clamp(1, jobs.len().max(1)) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(job) = jobs.get(number) else { return };
                    let outcomes = run_child(job, budget);
                    let mut results = results.lock().expect("nobody panics with it");
                    results.insert(number, outcomes);
                    progress.show(results.len());
                }
            });
        }
    });
    progress.end();
    results.into_inner().expect("nobody panics with it").into_values().collect()
}

/// Runs a job in a process of its own. A trial that the process did not live to tell of has
/// found no mutant, as nobody knows what ended it; the code as it is must not end it.
fn run_child(job: &Job, budget: &Budget) -> Vec<Outcome> {
    let name = job.mutant.map_or("none", Mutant::name);
    let program = std::env::current_exe().expect("this program has a path");
    let output = Command::new(program)
        .args(["--crashes", &budget.crashes.to_string(), "--seed", &budget.seed.to_string()])
        .args(["--child", name, &job.first.to_string(), &job.trials.to_string()])
        .stderr(Stdio::null())
        .output()
        .expect("this program can be started again");
    let text = String::from_utf8_lossy(&output.stdout);
    let mut outcomes: Vec<Outcome> = text.lines().filter_map(Outcome::parse).collect();
    if (outcomes.len() as u64) < job.trials {
        eprintln!("a process for {name} ended early: {}", output.status);
        let lost = if job.mutant.is_some() { Outcome::survived } else { Outcome::ended };
        outcomes.resize_with(usize::try_from(job.trials).expect("few"), lost);
    }
    outcomes
}

/// How far the trials are: a bar on a terminal, a line now and then elsewhere.
struct Progress<'a> {
    began: Instant,
    bar: ProgressBar,
    /// When a line was last printed, where there is no terminal for a bar.
    printed: Option<Mutex<Instant>>,
    total: usize,
    what: &'a str,
}

impl<'a> Progress<'a> {
    fn new(total: usize, what: &'a str) -> Self {
        let began = Instant::now();
        if std::io::stderr().is_terminal() {
            let style = format!("{{wide_bar}} {{pos}}/{{len}} {what} {{per_sec}} {{eta}} left");
            let style = ProgressStyle::with_template(&style).expect("the template is well formed");
            let bar = ProgressBar::new(total as u64).with_style(style);
            return Self { began, bar, printed: None, total, what };
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        Self { began, bar, printed: Some(Mutex::new(began)), total, what }
    }

    fn show(&self, done: usize) {
        self.bar.set_position(done as u64);
        let Some(printed) = &self.printed else { return };
        let mut printed = printed.lock().expect("nobody panics with it");
        if printed.elapsed() < LINE_EVERY {
            return;
        }
        *printed = Instant::now();
        let (done, total) = (done as u64, self.total as u64);
        let left = self.began.elapsed().as_secs() * (total - done) / done.max(1);
        eprintln!("{done} of {total} {}, {left} s left", self.what);
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}
