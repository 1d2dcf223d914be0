//! Exhaustive small cases: all workloads of up to three operations, every point at which a crash
//! can come, every subset of what was not synced.
#![allow(clippy::print_stdout, reason = "the counts are the proof that the cases were run")]

#[path = "exhaustive/faults.rs"]
mod faults;
#[path = "exhaustive/model.rs"]
mod model;
#[path = "exhaustive/outcomes.rs"]
mod outcomes;
#[path = "exhaustive/recorder.rs"]
mod recorder;
#[path = "exhaustive/recovery.rs"]
mod recovery;
#[path = "exhaustive/salvage.rs"]
mod salvage;
#[path = "exhaustive/sweep.rs"]
mod sweep;
#[path = "exhaustive/world.rs"]
mod world;

use std::thread;

use ackline::Media;
use ackline::simulation::Fault;
use faults::{FAULTS, Fates, FaultSweep, Task};
use recorder::Lie;
use recovery::Recoveries;
use salvage::{Damaged, Which};
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

/// How long the workloads are: `ACKLINE_EXHAUSTIVE`. Three operations take two minutes of an
/// optimized build; without the variable there are up to two, as many as a slow build can take.
fn operations(media: Media, prelude: Prelude) -> usize {
    if let Ok(given) = std::env::var("ACKLINE_EXHAUSTIVE") {
        return given.parse().expect("a number of operations");
    }
    if media == Media::PowersafeOverwrite && prelude != Prelude::Full { 2 } else { 1 }
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
        // Workloads of up to three operations leave few sectors unsynced at a time.
        if operations(*media, Prelude::Nothing) <= 3 {
            assert_eq!(totals.left_out, 0, "every subset of what was not synced comes about");
        }
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

/// Without the variable, one kind of disk has to do: this may be a slow build.
fn media_for_faults() -> Vec<Media> {
    match std::env::var("ACKLINE_EXHAUSTIVE") {
        Ok(_) => vec![Media::PowersafeOverwrite, Media::WholeSectors],
        Err(_) => vec![Media::PowersafeOverwrite],
    }
}

#[test]
fn no_fault_at_any_call_breaks_a_promise() {
    let mut sweep = FaultSweep::default();
    let all = media_for_faults().into_iter();
    let all: Vec<_> = all.flat_map(|media| Task::all().map(|task| (media, task))).collect();
    for fault in FAULTS {
        let mut fates = Fates::default();
        for (media, task) in &all {
            let run = sweep.run(*media, task, fault);
            fates.add(&run.unwrap_or_else(|broken| panic!("{broken}")));
        }
        println!("{fault:?} {fates}");
        let is_error = !matches!(fault, Fault::Interrupted | Fault::Short);
        assert!(fates.struck > 0 && (fates.poisoned > 0) == is_error, "{fault:?}: {fates}");
    }
    let Recoveries { first, second, used } = sweep.recoveries;
    println!("{first} recoveries, {second} after a second crash, {used} logs used afterwards");
}

#[test]
fn no_fault_at_any_call_of_a_salvage_changes_what_it_saves() {
    for media in media_for_faults() {
        // The body of a frame, the head of a segment, the newest segment.
        for (segment, byte) in [(Which::Second, 600), (Which::Second, 30), (Which::Newest, 600)] {
            let struck = Damaged::new(media, segment, byte).sweep(&FAULTS);
            let struck = struck.unwrap_or_else(|broken| panic!("{media:?}: {broken}"));
            println!("salvage, {media:?}, byte {byte}, {segment:?}: {struck} faults struck");
            assert!(struck > 0, "faults struck");
        }
    }
}
