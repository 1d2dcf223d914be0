//! Real file systems: a sync that really fails, a disk that is really full, and the ends of a
//! log's life on any file system that is mounted.
//!
//! With root and loop devices, ext4 is mounted from an image in memory, and XFS and btrfs where
//! their `mkfs` is installed. What is not possible says `skipped:` and why, on standard error.
//! `ACKLINE_TEST_DIRECTORY` names a directory of the file system on which the others are run.
#![allow(clippy::disallowed_methods, reason = "the tests are about files outside of the crate")]

#[macro_use]
mod common;

#[path = "real_disk/bench.rs"]
mod bench;

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use ackline::{Ending, Error, Log, Options, Topic};

use bench::{Bench, say_skipped};
use common::{assert_holds, fill, payload, poll, read_all};

fn options() -> Options {
    Options::new().segment_bytes(256 * 1024)
}

fn open(directory: &Path) -> (Log, Topic) {
    let log = options().open(directory).expect("the log opens");
    let topic = log.topic("t").expect("a topic");
    (log, topic)
}

/// One bench at a time: a program that another thread is about to start has, for a moment, all
/// files open that this process has, and then nothing can be unmounted.
static ONE_BENCH: Mutex<()> = Mutex::new(());

/// Runs a claim on a file system of its own, or says why not.
fn check_on(file_system: &'static str, image_mib: u64, claim: impl Fn(Bench)) {
    // A failed test leaves no trace in a lock without content.
    let _one = ONE_BENCH.lock().unwrap_or_else(PoisonError::into_inner);
    match Bench::new(file_system, image_mib) {
        Ok(bench) => claim(bench),
        Err(reason) => say_skipped(&format!("{file_system}: {reason}")),
    }
}

/// Appends until the disk fails; returns how many records are acknowledged then.
fn append_until_failure(topic: &Topic, from: u64) -> (u64, Error) {
    // Each record is longer than a block, so that each needs one that was not written before.
    for i in from..from + 1000 {
        if let Err(error) = topic.append(long_payload(i)) {
            return (i, error);
        }
    }
    panic!("the disk never failed")
}

fn long_payload(i: u64) -> Vec<u8> {
    let mut bytes = payload(i);
    bytes.resize(5000, b'z');
    bytes
}

/// Checks that a topic holds the records in order, at least `acknowledged` and at most one more.
fn assert_keeps(topic: &Topic, acknowledged: u64) -> u64 {
    let found = read_all(topic);
    let number = found.len() as u64;
    assert!(number >= acknowledged, "{number} of {acknowledged} acknowledged records are there");
    assert!(number <= acknowledged + 1, "{number} records, {acknowledged} acknowledged");
    for (i, found) in (0..).zip(&found) {
        assert!(*found == long_payload(i), "record {i} is altered");
    }
    number
}

/// A log on a disk of which a sync has just failed: how many records it has acknowledged.
fn fail_a_sync(bench: &mut Bench) -> u64 {
    let (log, topic) = open(&bench.directory());
    for i in 0..10 {
        topic.append(long_payload(i)).expect("appends");
    }
    log.close().expect("closes");
    drop(topic);
    bench.provision_thinly();
    let (log, topic) = open(&bench.directory());
    let group = topic.group("g").expect("a group");
    bench.exhaust();
    let (acknowledged, error) = append_until_failure(&topic, 10);
    let Error::Poisoned { cause } = &error else { panic!("expected a poisoned log: {error:?}") };
    let Error::Io { operation, source, .. } = &**cause else { panic!("no cause: {cause:?}") };
    assert_eq!(*operation, "sync", "a write goes to the cache, the sync to the disk: {source}");
    assert!(log.stats().poisoned);
    // There is room again, and it changes nothing: what the failed sync has lost is not known.
    bench.relieve();
    for _ in 0..2 {
        assert_error!(topic.append("late"), Error::Poisoned { .. });
        assert_error!(topic.submit("late").wait(), Error::Poisoned { .. });
        assert_error!(topic.append_batch(["late", "later"]), Error::Poisoned { .. });
        assert_error!(log.batch().append(&topic, "late").commit(), Error::Poisoned { .. });
        assert_error!(group.poll(1, Duration::ZERO), Error::Poisoned { .. });
        assert_error!(group.commit(), Error::Poisoned { .. });
        assert_error!(log.sync(), Error::Poisoned { .. });
        assert_error!(log.topic("another"), Error::Poisoned { .. });
    }
    assert_eq!(topic.offsets().end.0, acknowledged, "nobody sees what may not be on the disk");
    assert_error!(log.close(), Error::Poisoned { .. });
    acknowledged
}

fn a_failed_sync_loses_nothing(mut bench: Bench) {
    let acknowledged = fail_a_sync(&mut bench);
    bench.unmount();
    bench.mount();
    let (log, topic) = open(&bench.directory());
    assert_eq!(log.report().ending, Ending::Unclean);
    let kept = assert_keeps(&topic, acknowledged);
    topic.append(long_payload(kept)).expect("appends again");
    assert_keeps(&topic, kept + 1);
    log.close().expect("closes");
}

#[test]
fn a_sync_that_really_fails_poisons_the_log_and_loses_nothing() {
    check_on("ext4", 32, a_failed_sync_loses_nothing);
    check_on("xfs", 320, a_failed_sync_loses_nothing);
}

fn a_broken_roll_loses_nothing(mut bench: Bench) {
    let (log, topic) = open(&bench.directory());
    bench.exhaust();
    // The first segment has its blocks, but on btrfs, which writes nothing in its place. The
    // next one gets none, and the journal may not either.
    let (acknowledged, error) = append_until_failure(&topic, 0);
    let expected = matches!(error, Error::Full { .. } | Error::Io { .. } | Error::Poisoned { .. });
    assert!(expected, "found {error:?}");
    assert_keeps(&topic, acknowledged);
    bench.relieve();
    // It may be able to close or not.
    let closed = log.close();
    drop(topic);
    bench.unmount();
    bench.mount();
    let (log, topic) = open(&bench.directory());
    let ending = if closed.is_ok() { Ending::Closed } else { Ending::Unclean };
    assert_eq!(log.report().ending, ending, "{error:?}, then {closed:?}");
    let kept = assert_keeps(&topic, acknowledged);
    topic.append(long_payload(kept)).expect("appends again");
    log.close().expect("closes");
}

#[test]
fn a_disk_that_fails_while_a_segment_is_made_loses_nothing() {
    check_on("ext4", 32, a_broken_roll_loses_nothing);
    check_on("xfs", 320, a_broken_roll_loses_nothing);
    check_on("btrfs", 128, a_broken_roll_loses_nothing);
}

fn stale_pages_are_not_trusted(mut bench: Bench) {
    let acknowledged = fail_a_sync(&mut bench);
    // The system has the failed write in its cache, and takes it for written: what is read now
    // is not what the disk holds.
    let (log, topic) = open(&bench.directory());
    let kept = assert_keeps(&topic, acknowledged);
    bench.cut_power_under(|| {
        drop(topic);
        log.close().expect("closes");
    });
    let (log, topic) = open(&bench.directory());
    let still_kept = assert_keeps(&topic, acknowledged);
    assert_eq!(still_kept, kept, "what an open has shown is durable");
    log.close().expect("closes");
}

#[test]
fn what_is_read_after_a_failed_sync_is_written_again_before_it_is_shown() {
    check_on("ext4", 32, stale_pages_are_not_trusted);
}

fn appends_resume(bench: &Bench) {
    let (log, topic) = open(&bench.directory());
    let group = topic.group("g").expect("a group");
    fill(&topic, 0..20);
    bench.fill_up();
    let mut records = 20;
    let (free, needed) = loop {
        match topic.append(payload(records)) {
            Ok(_) => records += 1,
            Err(Error::Full { free, needed }) => break (free, needed),
            Err(error) => panic!("expected Full, found {error:?}"),
        }
        assert!(records < 100_000, "the disk is never full");
    };
    assert!(needed > free, "{needed} needed, {free} free");
    assert!(!log.stats().poisoned, "a full disk is a state");
    for delivery in poll(&group, 10) {
        delivery.ack().expect("acks");
    }
    group.commit().expect("progress goes on");
    assert_error!(topic.append(payload(records)), Error::Full { .. });
    assert_holds(&topic, 0..records);
    bench.make_room();
    fill(&topic, records..records + 20);
    assert_holds(&topic, 0..records + 20);
    log.close().expect("closes");
    drop((topic, group));
    let (log, topic) = open(&bench.directory());
    let lag = topic.group("g").expect("a group").lag().expect("a lag");
    assert_eq!(lag.messages, records + 10, "the acknowledgements were kept");
    assert_holds(&topic, 0..records + 20);
    log.close().expect("closes");
}

#[test]
fn a_disk_that_is_really_full_refuses_appends_until_there_is_room() {
    check_on("ext4", 16, |bench| appends_resume(&bench));
}

#[test]
fn a_log_that_was_opened_on_a_full_disk_goes_on_where_it_was() {
    check_on("ext4", 16, |bench| {
        let (log, topic) = open(&bench.directory());
        fill(&topic, 0..20);
        drop(log);
        drop(topic);
        bench.fill_up();
        let opened = options().lock_timeout(Duration::from_secs(20)).open(bench.directory());
        let log = match opened {
            Ok(log) => log,
            // Opening may need room for a tail; it loses nothing by being refused.
            Err(Error::Full { .. }) => {
                bench.make_room();
                options().open(bench.directory()).expect("there is room")
            }
            Err(error) => panic!("expected Full, found {error:?}"),
        };
        assert_holds(&log.topic("t").expect("a topic"), 0..20);
        log.close().expect("closes");
    });
}

/// What a log is used for, from its making to its end, in an empty directory.
fn a_life_of_a_log(directory: &Path) {
    let (log, topic) = open(directory);
    let group = topic.group("g").expect("a group");
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for i in 0..250 {
                    topic.append(payload(i)).expect("appends");
                }
            });
        }
        scope.spawn(|| {
            let mut left: usize = 1000;
            while left > 0 {
                for delivery in group.poll(50, Duration::from_secs(20)).expect("polls") {
                    assert!(delivery.payload().starts_with(b"record "));
                    delivery.ack().expect("acks");
                    left -= 1;
                }
                group.commit().expect("commits");
            }
        });
    });
    assert!(log.stats().rolls > 0, "the segments are small");
    assert_eq!(topic.offsets().end.0, 1000);
    assert_eq!(group.lag().expect("a lag").messages, 0);
    log.close().expect("closes");
    drop((topic, group));
    let (log, topic) = open(directory);
    assert_eq!(log.report().ending, Ending::Closed);
    assert_eq!(topic.group("g").expect("a group").lag().expect("a lag").messages, 0);
    fill(&topic, 0..10);
    assert_eq!(topic.offsets().end.0, 1010);
    let mut reader = topic.read_from(topic.offsets().start).expect("a reader");
    for message in &mut reader {
        match message {
            // Retention goes on beside the reader.
            Err(Error::Lagged { to, .. }) => assert!(to.0 <= 1000, "{to} was not consumed"),
            message => drop(message.expect("all that is left is readable")),
        }
    }
    assert_eq!(reader.next_offset().0, 1010);
    log.close().expect("closes");
}

#[test]
fn a_log_lives_on_the_given_file_system() {
    let place = match std::env::var_os("ACKLINE_TEST_DIRECTORY") {
        Some(given) => tempfile::tempdir_in(given).expect("ACKLINE_TEST_DIRECTORY is a directory"),
        None => tempfile::tempdir().expect("a temporary directory"),
    };
    a_life_of_a_log(&place.path().join("log"));
}

#[test]
fn a_log_lives_on_every_file_system_that_can_be_mounted() {
    for (file_system, image_mib) in [("ext4", 32), ("xfs", 320), ("btrfs", 128)] {
        check_on(file_system, image_mib, |bench| a_life_of_a_log(&bench.directory()));
    }
}

#[test]
fn what_is_acknowledged_on_a_mounted_file_system_survives_a_power_cut() {
    for (file_system, image_mib) in [("ext4", 32), ("xfs", 320), ("btrfs", 128)] {
        check_on(file_system, image_mib, |mut bench| {
            let (log, topic) = open(&bench.directory());
            fill(&topic, 0..1500);
            assert!(log.stats().rolls > 0, "the segments are small");
            bench.cut_power_under(|| {
                drop(topic);
                log.close().expect("closes");
            });
            let (log, topic) = open(&bench.directory());
            assert_eq!(log.report().ending, Ending::Unclean);
            assert_holds(&topic, 0..1500);
            log.close().expect("closes");
        });
    }
}
