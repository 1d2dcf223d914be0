//! Exhaustive small cases: all workloads of up to three operations, every point at which a crash
//! can come, every subset of what was not synced.
#![allow(clippy::print_stdout, reason = "the counts are the proof that the cases were run")]

#[path = "exhaustive/model.rs"]
mod model;
#[path = "exhaustive/outcomes.rs"]
mod outcomes;
#[path = "exhaustive/recorder.rs"]
mod recorder;
#[path = "exhaustive/recovery.rs"]
mod recovery;
#[path = "exhaustive/sweep.rs"]
mod sweep;
#[path = "exhaustive/world.rs"]
mod world;

use std::thread;

use ackline::Media;
use recorder::Lie;
use sweep::{Prelude, Sweep, Totals};
use world::Op;

/// All workloads of up to so many operations.
fn workloads(operations: usize) -> Vec<Vec<Op>> {
    let mut all = vec![Vec::new()];
    let mut longest = all.clone();
    for _ in 0..operations {
        let longer = longest.iter().flat_map(|workload: &Vec<Op>| {
            Op::ALL.map(|op| workload.iter().copied().chain([op]).collect())
        });
        longest = longer.collect();
        all.extend_from_slice(&longest);
    }
    all
}

/// Goes through all workloads of up to so many operations. An error is a broken promise.
fn sweep(
    media: Media,
    lie: Option<Lie>,
    operations: impl Fn(Prelude) -> usize,
) -> Result<Totals, String> {
    let mut sweep = Sweep::default();
    for prelude in [Prelude::Nothing, Prelude::Used, Prelude::Full] {
        for workload in workloads(operations(prelude)) {
            sweep.run(media, lie, prelude, &workload)?;
        }
    }
    Ok(sweep.totals)
}

/// How long the workloads are: `ACKLINE_EXHAUSTIVE`. Three operations take a minute of an
/// optimized build; without the variable there are up to two, where a slow build can take them.
fn operations(media: Media, prelude: Prelude) -> usize {
    if let Ok(given) = std::env::var("ACKLINE_EXHAUSTIVE") {
        return given.parse().expect("a number of operations");
    }
    let (whole, full) = (media == Media::WholeSectors, prelude == Prelude::Full);
    if whole == full { 2 } else { 1 }
}

#[test]
fn no_crash_of_a_small_workload_breaks_a_promise() {
    let all = [Media::PowersafeOverwrite, Media::WholeSectors];
    let totals = thread::scope(|scope| {
        let sweeps = all.map(|media| {
            scope.spawn(move || sweep(media, None, |prelude| operations(media, prelude)))
        });
        sweeps.map(|sweep| sweep.join().expect("the sweep ends"))
    });
    for (media, totals) in all.iter().zip(totals) {
        let totals = totals.unwrap_or_else(|broken| panic!("{broken}"));
        println!("{media:?}:\n{totals}");
        let reached = [totals.workloads, totals.rolls, totals.kills, totals.recoveries.second];
        assert!(!reached.contains(&0), "something was never reached");
    }
}

#[test]
fn a_storage_that_skips_syncs_is_found_out() {
    let broken = sweep(Media::PowersafeOverwrite, Some(Lie::Sync), |_| 1);
    let error = broken.expect_err("what is not synced is lost");
    assert!(error.contains("cannot open: corrupt log"), "{error}");
}

#[test]
fn a_storage_that_skips_directory_syncs_is_found_out() {
    let broken = sweep(Media::PowersafeOverwrite, Some(Lie::SyncDirectory), |_| 1);
    let error = broken.expect_err("a name that is not synced is lost");
    assert!(error.contains("lost: 0 events are left of 1 promised"), "{error}");
}
