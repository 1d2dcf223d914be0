//! The crash simulation; see the modules for what it does.
//!
//! `ACKLINE_CRASHES` is how many crashes to simulate, `ACKLINE_SEED` where to begin. A failure
//! prints the seed of its run: with that and `ACKLINE_CRASHES=1` it runs alone.

#![allow(clippy::print_stdout, reason = "the counts are the proof that the faults fired")]

#[allow(dead_code, reason = "the example `simulate` uses more of it")]
mod sim;

use sim::Lie;
use sim::campaign::{Campaign, Failure, Summary};
use sim::labels::label;

fn number(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().expect("the variable holds a number"),
        Err(_) => default,
    }
}

fn passed(result: Result<Summary, Failure>) -> Summary {
    result.unwrap_or_else(|failure| {
        let Failure { seed, violation, crashes, .. } = &failure;
        panic!(
            "{violation}\nafter {crashes} crashes; again: ACKLINE_SEED={seed} ACKLINE_CRASHES=1\n{}",
            failure.shortest_history().join("\n")
        )
    })
}

fn campaign(seed: u64, crashes: u64, lie: Option<Lie>) -> Result<Summary, Failure> {
    Campaign { lie, ..Campaign::new(seed, crashes) }.run(&|_| {})
}

#[test]
fn no_crash_loses_invents_alters_or_reorders_anything() {
    let (seed, crashes) = (number("ACKLINE_SEED", 1), number("ACKLINE_CRASHES", 2000));
    let summary = passed(campaign(seed, crashes, None));
    println!("{} crashes in {} runs, seed {seed}:", summary.crashes(), summary.runs);
    let (recoveries, records) = summary.checked;
    // Each check ends the campaign where it fails, so whoever gets here has met none that did.
    assert!(recoveries > 0 && records > 0, "there was something to check");
    println!("{recoveries} recoveries and {records} records compared with the model:");
    println!("lost 0, invented 0, altered 0, reordered 0");
}

#[test]
fn the_same_seed_gives_the_same_trace_on_any_number_of_threads() {
    let trace = |seed, threads| {
        let campaign = Campaign { threads, ..Campaign::new(seed, 100) };
        passed(campaign.run(&|_| {})).trace
    };
    assert_eq!(trace(77, 1), trace(77, 1));
    assert_eq!(trace(77, 1), trace(77, 3));
    assert_ne!(trace(77, 1), trace(78, 1));
}

/// Checks that a lying storage breaks a promise, rather than the simulation itself.
fn check_found_out(lie: Lie) {
    let failure = campaign(1, 1000, Some(lie)).expect_err("what is not synced is lost");
    let found = failure.violation.starts_with("lost: ")
        || failure.violation.starts_with("cannot open: corrupt log")
        || failure.violation.starts_with("opening made a new log");
    assert!(found, "{}", failure.violation);
}

#[test]
fn a_storage_that_skips_syncs_is_found_out() {
    check_found_out(Lie::Sync);
}

#[test]
fn a_storage_that_skips_directory_syncs_is_found_out() {
    check_found_out(Lie::SyncDirectory);
}

/// The same storage breaks several promises, and which one depends on what is left out.
#[test]
fn the_shortest_history_shows_the_promise_that_was_broken() {
    for seed in 1..8 {
        let lie = Some(Lie::SyncDirectory);
        let failure = campaign(seed, 1000, lie).expect_err("what is not synced is lost");
        let history = failure.shortest_history();
        let shown = history.last().and_then(|line| line.strip_prefix("=> "));
        assert_eq!(shown.map(label), Some(label(&failure.violation)), "seed {}", failure.seed);
    }
}
