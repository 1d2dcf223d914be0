//! Ends of a log that are rare: behind a gap, on other media than before, beside a directory
//! that has a segment's name.
#![allow(clippy::disallowed_methods, reason = "one test is about a real directory")]

#[macro_use]
mod common;

use ackline::simulation::{Crash, salvage_on};
use ackline::{Error, Log, Media, Offset, Options, Topic};

use common::{Machine, fill, payload, read_all, small};

fn sectors() -> Options {
    small().media(Media::WholeSectors)
}

fn powersafe() -> Options {
    small().media(Media::PowersafeOverwrite)
}

/// A log whose newest segment has lost a frame in the middle, and which of 20 records it was.
fn salvaged() -> (Machine, u64) {
    let machine = Machine::new(1);
    let log = machine.open(Options::new());
    fill(&log.topic("t").expect("a topic"), 0..20);
    log.close().expect("closes");
    let (name, bytes) = machine.segments().pop().expect("a segment");
    let lost = 7;
    let needle = payload(lost);
    let at = bytes.windows(needle.len()).position(|window| window == needle);
    machine.disk.flip_bit(&name, at.expect("the record is there") as u64, 0);
    assert_error!(machine.try_open(Options::new()), Error::Corrupt { .. });
    let report = salvage_on(&*machine.disk.storage()).expect("salvages");
    assert_eq!(report.lost.len(), 1);
    machine.disk.kill();
    (machine, lost)
}

/// Checks that all records up to `end` are there but for the lost one, which is told.
fn check_all_but(log: &Log, lost: u64, end: u64) {
    let topic = log.topic("t").expect("a topic");
    assert_eq!(topic.offsets().end, Offset(end));
    check_up_to(&topic, lost, end);
}

fn check_up_to(topic: &Topic, lost: u64, end: u64) {
    for i in 0..end {
        match topic.read_from(Offset(i)).expect("reads").next() {
            Some(Ok(message)) if i != lost => assert_eq!(message.payload(), payload(i)),
            Some(Err(Error::Lagged { from, to })) if i == lost => {
                assert_eq!((from, to), (Offset(lost), Offset(lost + 1)));
            }
            other => panic!("{i}: {other:?}"),
        }
    }
}

#[test]
fn a_gap_stays_where_it_is_however_often_the_log_ends_behind_it() {
    for crash in [Crash::Kill, Crash::Power] {
        let (machine, lost) = salvaged();
        let mut end = 20;
        for _ in 0..4 {
            let log = machine.open(Options::new());
            check_all_but(&log, lost, end);
            let topic = log.topic("t").expect("a topic");
            fill(&topic, end..end + 2);
            end += 2;
            check_all_but(&log, lost, end);
            machine.disk.crash(crash);
        }
        check_all_but(&machine.open(Options::new()), lost, end);
    }
}

#[test]
fn a_gap_is_written_again_with_an_unproven_record_behind_it() {
    let (machine, lost) = salvaged();
    let files = machine.segments().len();
    let log = machine.open(Options::new());
    // So short that it fits behind the gap into the file that salvage has made.
    log.topic("t").expect("a topic").append("short").expect("appends");
    assert_eq!(machine.segments().len(), files, "the log has not rolled");
    machine.disk.kill();
    let log = machine.open(Options::new());
    let (topic, report) = (log.topic("t").expect("a topic"), log.report());
    assert_eq!(machine.segments().len(), files + 1, "the tail was moved");
    // With the gap come the twelve records between it and the one that is not proven.
    assert!(report.rewritten_bytes < 300, "{report:?}");
    let moved = machine.segments().pop().expect("a segment").1;
    let in_moved = |i| moved.windows(300).any(|window| window == payload(i));
    assert!(in_moved(lost + 1) && !in_moved(lost - 1), "all from the gap on");
    check_up_to(&topic, lost, 20);
    let short = topic.read_from(Offset(20)).expect("reads").next();
    assert_eq!(short.expect("it is there").expect("reads").payload(), b"short");
}

#[test]
fn a_gap_stays_where_it_is_after_a_clean_close() {
    let (machine, lost) = salvaged();
    let log = machine.open(Options::new());
    fill(&log.topic("t").expect("a topic"), 20..22);
    log.close().expect("closes");
    check_all_but(&machine.open(Options::new()), lost, 22);
}

#[test]
fn a_log_may_be_opened_for_other_media_than_it_was_written_for() {
    let steps: [fn() -> Options; 6] = [powersafe, sectors, powersafe, sectors, sectors, powersafe];
    for ends in ["close", "kill", "power"] {
        let machine = Machine::new(2);
        for (step, options) in (0..).zip(steps) {
            let log = machine.open(options());
            let topic = log.topic("t").expect("a topic");
            assert_eq!(topic.offsets().end, Offset(3 * step), "{ends}, step {step}");
            fill(&topic, 3 * step..3 * step + 3);
            let expected: Vec<_> = (0..3 * step + 3).map(payload).collect();
            assert!(read_all(&topic) == expected, "{ends}, step {step}");
            match ends {
                "close" => log.close().expect("closes"),
                "kill" => machine.disk.crash(Crash::Kill),
                _ => machine.disk.crash(Crash::Power),
            }
        }
    }
}

#[test]
fn a_directory_with_the_name_of_a_segment_is_refused_by_its_name() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("log");
    Log::open(&path).expect("opens").close().expect("closes");
    let name = "00000000000000009999.seg";
    std::fs::create_dir(path.join(name)).expect("creates");
    assert_error!(Log::open(&path), Error::Corrupt { file, .. } if file == name);
    std::fs::remove_dir(path.join(name)).expect("removes");
    Log::open(&path).expect("opens again");
}
