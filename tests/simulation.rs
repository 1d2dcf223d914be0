//! The crash simulation; see the modules for what it does.
//!
//! `ACKLINE_CRASHES` is how many crashes to simulate, `ACKLINE_SEED` where to begin. A failure
//! prints the seed of its run: with that and `ACKLINE_CRASHES=1` it runs alone.

#![allow(clippy::print_stdout, reason = "the counts are the proof that the faults fired")]

mod sim;

use sim::Lie;
use sim::campaign::{Failure, Summary, campaign, report};

fn number(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().expect("the variable holds a number"),
        Err(_) => default,
    }
}

fn passed(result: Result<Summary, Failure>) -> Summary {
    result.unwrap_or_else(|failure| {
        let Failure { seed, violation, history, crashes } = failure;
        panic!(
            "{violation}\nafter {crashes} crashes; again: ACKLINE_SEED={seed} ACKLINE_CRASHES=1\n{}",
            history.join("\n")
        )
    })
}

#[test]
fn no_crash_loses_invents_alters_or_reorders_anything() {
    let (seed, crashes) = (number("ACKLINE_SEED", 1), number("ACKLINE_CRASHES", 2000));
    let summary = passed(campaign(seed, crashes, None));
    println!("{} simulated crashes in {} runs, seed {seed}:", summary.crashes(), summary.runs);
    print!("{}", report(&summary));
    let (recoveries, records) =
        (summary.tallied("checked_recoveries"), summary.tallied("checked_records"));
    // Each check ends the campaign where it fails, so whoever gets here has met none that did.
    assert!(recoveries > 0 && records > 0, "there was something to check");
    if summary.crashes() >= 50_000 {
        let idle: Vec<_> = summary.counts.iter().filter(|count| count.1 == 0).collect();
        assert!(idle.is_empty(), "faults that never struck: {idle:?}");
    }
    println!("{recoveries} recoveries and {records} records compared with the model:");
    println!("lost 0, invented 0, altered 0, reordered 0");
    println!("trace {:016x}", summary.trace);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let trace = |seed| passed(campaign(seed, 100, None)).trace;
    assert_eq!(trace(77), trace(77));
    assert_ne!(trace(77), trace(78));
}

#[test]
fn a_storage_that_skips_syncs_is_found_out() {
    assert!(campaign(1, 1000, Some(Lie::Sync)).is_err());
}

#[test]
fn a_storage_that_skips_directory_syncs_is_found_out() {
    assert!(campaign(1, 1000, Some(Lie::SyncDirectory)).is_err());
}
