//! Every bit of a log flipped, every sector zeroed, swapped and replaced by what it was before.
//!
//! `ACKLINE_DAMAGE=1` runs all cases, about a million; without it, a sample of them.
#![allow(clippy::print_stdout, reason = "the counts are the proof that the cases were run")]

#[path = "damage_sweep/cases.rs"]
mod cases;
#[path = "damage_sweep/check.rs"]
mod check;
#[path = "damage_sweep/layout.rs"]
mod layout;
#[path = "damage_sweep/log.rs"]
mod log;

use std::thread;

use ackline::{Error, Media};
use cases::{Damage, Sample, cases};
use check::Counts;
use layout::{Class, SECTOR};
use log::{Left, Subject, is_segment, open, subject};

const THREADS: usize = 2;

fn sample() -> Sample {
    match std::env::var("ACKLINE_DAMAGE") {
        Ok(every) => {
            let every = every.parse().expect("a number: one in so many cases");
            Sample { bytes: every, sectors: every }
        }
        Err(_) => Sample { bytes: 199, sectors: 3 },
    }
}

/// Runs cases, each on a copy of the disk. The errors are broken promises.
fn run(subject: &Subject, cases: &[Damage]) -> (Counts, Vec<String>) {
    let (mut counts, mut broken) = (Counts::default(), Vec::new());
    for (number, damage) in cases.iter().enumerate() {
        let map = number % 2 == 0;
        if let Err(error) = check::run(subject, damage, map, &mut counts) {
            broken.push(format!("{:?}, map {map}: {damage:?}: {error}", subject.left));
        }
    }
    (counts, broken)
}

/// Damages logs on one kind of disk, each left in another way.
fn sweep(media: Media, all: &[Left], sample: Sample) -> (Counts, Vec<String>) {
    let mut counts = Counts::default();
    let mut broken = Vec::new();
    let first = subject(all[0], media);
    for left in all {
        let subject = subject(*left, media);
        let cases = cases(&subject, (*left != first.left).then_some(&first), sample);
        thread::scope(|scope| {
            let parts = cases.chunks(cases.len().div_ceil(THREADS));
            let runs: Vec<_> = parts.map(|part| scope.spawn(|| run(&subject, part))).collect();
            for run in runs {
                let (more, errors) = run.join().expect("the cases end");
                counts.add(&more);
                broken.extend(errors);
            }
        });
    }
    (counts, broken)
}

#[test]
fn damage_is_never_silent() {
    let sample = sample();
    let (mut counts, mut broken) = sweep(Media::PowersafeOverwrite, &Left::ALL, sample);
    // Where commits are padded to sectors, little is different: fewer bits will do.
    let fewer = Sample { bytes: sample.bytes * 32, ..sample };
    let some = [Left::Closed, Left::Busy, Left::Reopened];
    let (more, errors) = sweep(Media::WholeSectors, &some, fewer);
    counts.add(&more);
    broken.extend(errors);
    println!("{counts}");
    let shown = broken[..broken.len().min(20)].join("\n");
    assert!(broken.is_empty(), "{} of them:\n{shown}", broken.len());
    for kind in [
        "bit flipped",
        "sector zeroed",
        "sectors of a file swapped",
        "sectors of two files swapped",
        "stale sector",
        "file removed",
        "file cut",
    ] {
        assert!(counts.of_kind(kind) > 0, "no case of: {kind}");
    }
}

/// Does damage to a log and expects that it is refused.
fn refused(subject: &Subject, damage: &Damage) {
    let disk = subject.disk.fork();
    assert!(!damage.strike(subject, &disk).is_empty(), "something has changed");
    let opened = open(&disk, &subject.clock, subject.media, true);
    assert!(matches!(opened, Err(Error::Corrupt { .. })), "{opened:?}");
}

/// The sector in which the last frame of a log ends.
fn last_sector(subject: &Subject) -> (String, usize) {
    let segments = subject.files.iter().rev().find(|(name, _)| is_segment(name));
    let (name, (_, layout)) = segments.expect("there are segments");
    (name.clone(), (layout.end_byte - 1) / SECTOR)
}

#[test]
fn after_a_clean_close_the_last_sector_cannot_be_lost_in_silence() {
    for left in [Left::Closed, Left::Idle, Left::ClosedTwice] {
        let subject = subject(left, Media::PowersafeOverwrite);
        refused(&subject, &Damage::Zero(last_sector(&subject)));
    }
}

#[test]
fn a_closed_marker_that_comes_back_from_an_earlier_time_hides_nothing() {
    for left in [Left::Reopened, Left::ClosedTwice] {
        let subject = subject(left, Media::PowersafeOverwrite);
        let closed = |sector: &[u8]| {
            let headers = sector.windows(8).step_by(8);
            headers.filter(|header| header.starts_with(b"AKLF\x01\x02\x01\x00")).count() == 1
        };
        let mut tried = 0;
        for (place, states) in &subject.earlier {
            let layout = &subject.files.get(&place.0).map(|file| &file.1);
            // One from before the frames that lie there now.
            let is_frame = layout.is_some_and(|layout| {
                let mut touched = layout.touched(place.1 * SECTOR..(place.1 + 1) * SECTOR);
                touched.any(|span| span.class == Class::Header)
            });
            for (number, state) in states.iter().enumerate().filter(|(_, state)| closed(state)) {
                let bytes = subject.files.get(&place.0).map(|file| &file.0[place.1 * SECTOR..]);
                let is_current = bytes.is_some_and(|bytes| bytes.starts_with(state));
                if is_frame && !is_current {
                    refused(&subject, &Damage::Stale(place.clone(), number));
                    tried += 1;
                }
            }
        }
        assert!(tried > 0, "{left:?}: no sector ever held a marker where there are frames now");
    }
}
