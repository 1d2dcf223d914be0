//! The replicated simulation; see the modules for what it does.
//!
//! `ACKLINE_RUNS` is how many runs to simulate, `ACKLINE_SEED` where to begin. A failure prints the
//! seed of its run: with that and `ACKLINE_RUNS=1` it runs alone.

#[allow(dead_code, reason = "the example `simulate_replicas` uses more of it")]
mod cluster;

use cluster::campaign::{Failure, Summary, history, run_all};

fn number(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().expect("the variable holds a number"),
        Err(_) => default,
    }
}

fn passed(result: Result<Summary, Failure>) -> Summary {
    result.unwrap_or_else(|Failure { seed, violation }| {
        let history = history(seed).join("\n");
        panic!("{history}\n{violation}\nagain: ACKLINE_SEED={seed} ACKLINE_RUNS=1")
    })
}

#[test]
fn no_failover_loses_undoes_or_doubles_anything() {
    let (seed, runs) = (number("ACKLINE_SEED", 1), number("ACKLINE_RUNS", 150));
    let summary = passed(run_all(seed, runs, 1, &|_| {}));
    let (records, acks) = summary.checked;
    assert!(runs < 20 || (records > 0 && acks > 0), "there was something to check");
}

#[test]
fn the_same_seed_gives_the_same_trace_on_any_number_of_threads() {
    let trace = |seed, threads| passed(run_all(seed, 8, threads, &|_| {})).trace;
    assert_eq!(trace(5, 1), trace(5, 1));
    assert_eq!(trace(5, 1), trace(5, 3));
    assert_ne!(trace(5, 1), trace(6, 1));
}
