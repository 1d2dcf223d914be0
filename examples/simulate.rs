//! Crashes the queue millions of times on a simulated disk, and checks after each crash that
//! nothing is lost, invented, altered or reordered.
//!
//! ```text
//! cargo run --release --features simulation --example simulate -- --crashes 10000000 --seed 1
//! ```
//!
//! The exit status is 1 if a promise was broken, with the seed and the shortest history that shows
//! it, or if an operation or a fault never came up. The same seed gives the same counts and the
//! same trace, whatever the number of threads. What is simulated stands in `docs/testing.md`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example shows what it does")]
#![allow(clippy::disallowed_methods, reason = "an example uses clocks like anyone")]

use std::convert::Infallible;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lexopt::prelude::*;

#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../tests/sim/mod.rs"]
mod sim;

use sim::campaign::{Campaign, Failure, Summary, history};

const HELP: &str = "\
Crashes the queue on a simulated disk and checks what each recovery gives back.

Usage: simulate [OPTIONS]

Options:
  --crashes N    how many crashes to simulate [default: 1000000]
  --seed N       the seed of the first run; each next run has the next one [default: 1]
  --threads N    how many runs go on at a time [default: the number of cores]
  --history      print what the one run of the seed does, line by line, and nothing else
  --help         print this";

/// Below this number of crashes, it is no surprise that something rare has not come up.
const ALL_COME_UP: u64 = 200_000;

/// A run takes milliseconds.
const STANDSTILL: Duration = Duration::from_secs(60);

const LINE_EVERY: Duration = Duration::from_secs(10);

struct Arguments {
    campaign: Campaign,
    history: bool,
}

fn parse() -> Result<Option<Arguments>, lexopt::Error> {
    let mut campaign = Campaign::new(1, 1_000_000);
    campaign.threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut history = false;
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("crashes") => campaign.crashes = parser.value()?.parse()?,
            Long("seed") => campaign.seed = parser.value()?.parse()?,
            Long("threads") => campaign.threads = parser.value()?.parse()?,
            Long("history") => history = true,
            Long("help") => return Ok(None),
            _ => return Err(argument.unexpected()),
        }
    }
    if campaign.crashes == 0 {
        return Err("without a crash nothing is shown".into());
    }
    Ok(Some(Arguments { campaign, history }))
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
    let campaign = arguments.campaign;
    if arguments.history {
        history(campaign.seed).for_each(|line| println!("{line}"));
        return ExitCode::SUCCESS;
    }
    let progress = Progress::new(campaign.crashes);
    let runs = Arc::new(AtomicU64::new(0));
    let watched = watch_for_standstill(&campaign, &runs);
    let result = campaign.run(&|summary| {
        runs.store(summary.runs, Ordering::Relaxed);
        progress.show(summary.crashes());
    });
    // No run ends any more from here on: what follows may take as long as it likes.
    drop(watched);
    progress.end();
    match result {
        Ok(summary) => passed(&campaign, &summary, progress.began.elapsed()),
        Err(failure) => failed(&failure),
    }
}

/// Ends the program once a run has taken so long that it must hang, until what it returns is
/// dropped.
fn watch_for_standstill(campaign: &Campaign, runs: &Arc<AtomicU64>) -> Sender<Infallible> {
    let (campaign, runs) = (campaign.clone(), Arc::clone(runs));
    let (watched, over) = channel();
    std::thread::spawn(move || {
        let mut before = u64::MAX;
        while over.recv_timeout(STANDSTILL) == Err(RecvTimeoutError::Timeout) {
            let now = runs.load(Ordering::Relaxed);
            if now == before {
                // The runs are counted in the order of their seeds: this one is not over.
                let seed = campaign.seed.wrapping_add(now);
                eprintln!("the run of seed {seed} does not end");
                eprintln!("what it does until then: simulate --seed {seed} --history");
                std::process::exit(1);
            }
            before = now;
        }
    });
    watched
}

fn passed(campaign: &Campaign, summary: &Summary, took: Duration) -> ExitCode {
    for (what, count) in summary.all() {
        println!("  {what:<24} {count:>12}");
    }
    let rate = per_second(summary.crashes(), took);
    println!(
        "{} crashes in {} runs from seed {} on {} threads in {}, {rate}/s",
        summary.crashes(),
        summary.runs,
        campaign.seed,
        campaign.threads,
        minutes(took),
    );
    let (recoveries, records) = summary.checked;
    println!("{recoveries} recoveries and {records} records compared with the model:");
    println!("lost 0, invented 0, altered 0, reordered 0; trace {:016x}", summary.trace);
    let idle: Vec<_> = summary.all().filter(|count| count.1 == 0).map(|count| count.0).collect();
    if idle.is_empty() || summary.crashes() < ALL_COME_UP {
        return ExitCode::SUCCESS;
    }
    eprintln!("never came up, so nothing is proven about it: {}", idle.join(", "));
    ExitCode::FAILURE
}

fn failed(failure: &Failure) -> ExitCode {
    let Failure { seed, violation, crashes, .. } = failure;
    eprintln!("seed {seed} breaks a promise, after {crashes} crashes:\n{violation}");
    eprintln!("again: simulate --seed {seed} --crashes 1");
    eprintln!("looking for the shortest history that shows it ...");
    println!("{}", failure.shortest_history().join("\n"));
    ExitCode::FAILURE
}

fn per_second(crashes: u64, time: Duration) -> u64 {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    crashes.saturating_mul(1000) / millis.max(1)
}

fn minutes(time: Duration) -> String {
    format!("{} min {:02} s", time.as_secs() / 60, time.as_secs() % 60)
}

/// How far the campaign is: a bar on a terminal, a line now and then elsewhere.
struct Progress {
    began: Instant,
    bar: ProgressBar,
    /// When a line was last printed, where there is no terminal for a bar.
    printed: Option<Mutex<Instant>>,
    total: u64,
}

impl Progress {
    fn new(total: u64) -> Self {
        let began = Instant::now();
        if std::io::stderr().is_terminal() {
            let style = "{wide_bar} {human_pos}/{human_len} crashes {per_sec} {eta} left";
            let style = ProgressStyle::with_template(style).expect("the template is well formed");
            let bar = ProgressBar::new(total).with_style(style);
            return Self { began, bar, printed: None, total };
        }
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
        Self { began, bar, printed: Some(Mutex::new(began)), total }
    }

    fn show(&self, crashes: u64) {
        self.bar.set_position(crashes);
        let Some(printed) = &self.printed else { return };
        // Whoever holds it is printing already.
        let Ok(mut printed) = printed.try_lock() else { return };
        if printed.elapsed() < LINE_EVERY {
            return;
        }
        *printed = Instant::now();
        let rate = per_second(crashes, self.began.elapsed());
        let left = self.total.saturating_sub(crashes) / rate.max(1);
        let left = minutes(Duration::from_secs(left));
        eprintln!("{crashes} of {} crashes, {rate}/s, {left} left", self.total);
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}
