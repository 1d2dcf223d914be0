//! A log that an earlier version wrote opens, and says what it said then. Each version of the
//! format has a directory in `tests/fixtures`; none of them ever changes.

#![allow(clippy::disallowed_methods, reason = "fixtures are copied with the file system's means")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use ackline::replicate::{Quorum, QuorumOptions};
use ackline::simulation::{SimClock, SimDisk};
use ackline::{Ending, Epoch, Error, GroupOptions, Log, Offset, Options, Record};

fn fixture(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(version)
}

fn options() -> Options {
    Options::new().segment_bytes(4096)
}

fn record(i: u64) -> Record<'static> {
    let record = Record::new(format!("order {i} {}", "abc".repeat(10)))
        .timestamp(UNIX_EPOCH + Duration::from_secs(1_700_000_000 + i));
    match i % 4 {
        0 => record,
        1 => record.key(format!("key {i}")),
        2 => record.tag("even").header("trace", vec![1, 2, 3]),
        _ => record.key("k").tag("odd").header("a", "b").header("a", "c"),
    }
}

/// To be run once for each new version of the format: `cargo test --test fixtures -- --ignored`.
#[test]
#[ignore = "writes the fixtures of the present version"]
fn write_the_fixtures() {
    for (name, closed) in [("v1-salts", true), ("v1-salts-idle", false)] {
        let dir = fixture(name);
        assert!(!dir.exists(), "fixtures never change");
        let (disk, clock) = (SimDisk::new(1), SimClock::new());
        let options = options().simulated(Arc::new(clock.clone()), 1);
        let log = options.open_on(disk.storage()).expect("opens");
        fill(&log);
        if closed {
            log.close().expect("closes");
        } else {
            // The acknowledgements are written, then the marker that the log is idle.
            clock.advance(Duration::from_secs(2));
            log.maintain().expect("writes");
            clock.advance(Duration::from_secs(2));
            log.maintain().expect("writes");
        }
        fs::create_dir(&dir).expect("is made");
        for name in disk.names() {
            fs::write(dir.join(&name), disk.file(&name).expect("it was listed")).expect("writes");
        }
        fs::remove_file(dir.join("LOCK")).ok();
    }
}

/// A replica that is alone, so that it leads without others.
fn alone() -> Quorum {
    Quorum::new(&QuorumOptions::new(1), Vec::new()).expect("one of one")
}

fn led_by(quorum: &Quorum) -> Options {
    options().replicator(Arc::new(quorum.clone()))
}

#[test]
#[ignore = "writes the fixture of a replica of the present version"]
fn write_the_fixture_of_a_replica() {
    let dir = fixture("v1-replica");
    assert!(!dir.exists(), "fixtures never change");
    let (disk, clock) = (SimDisk::new(1), SimClock::new());
    for epoch in [1, 2] {
        let quorum = alone();
        let options = led_by(&quorum).simulated(Arc::new(clock.clone()), epoch);
        let log = options.open_on(disk.storage()).expect("opens");
        quorum.campaign(Epoch(epoch)).expect("leads");
        if epoch == 1 {
            fill(&log);
        }
        log.close().expect("closes");
    }
    fs::create_dir(&dir).expect("is made");
    for name in disk.names() {
        fs::write(dir.join(&name), disk.file(&name).expect("it was listed")).expect("writes");
    }
    fs::remove_file(dir.join("LOCK")).ok();
}

#[test]
fn version_1_of_a_replica_opens_and_says_what_it_said() {
    let dir = tempfile::tempdir().expect("a directory");
    copy_of("v1-replica", dir.path());
    let alone_again = options().open(dir.path());
    assert!(matches!(alone_again, Err(Error::InvalidOption { .. })), "{alone_again:?}");
    let quorum = alone();
    let log = led_by(&quorum).open(dir.path()).expect("opens");
    assert_eq!((log.stats().epoch, log.stats().leads), (Epoch(2), false));
    let led_before = quorum.campaign(Epoch(2));
    assert!(matches!(led_before, Err(Error::Fenced { epoch: Epoch(2) })), "{led_before:?}");
    quorum.campaign(Epoch(3)).expect("leads");
    check_log(&log, Ending::Closed);
}

/// What every fixture holds.
fn fill(log: &Log) {
    let (orders, audit) = (log.topic("orders").expect("made"), log.topic("audit").expect("made"));
    for i in 0..60 {
        orders.append(record(i)).expect("appends");
    }
    audit.append_batch(["", "x"]).expect("appends");
    let group = orders
        .group_with("billing", GroupOptions::new().backoff([Duration::from_secs(3600)]))
        .expect("made");
    let polled = group.poll(10, Duration::ZERO).expect("polls");
    for message in polled {
        match message.offset().0 {
            3 => message.reject("not wanted").expect("rejects"),
            5 => message.retry_after(Duration::from_secs(1)).expect("gives back"),
            _ => message.ack().expect("acks"),
        }
    }
}

fn copy_of(version: &str, dir: &Path) {
    for entry in fs::read_dir(fixture(version)).expect("a fixture") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), dir.join(entry.file_name())).expect("copies");
    }
}

/// Opens a copy of a fixture, since opening writes.
fn open_copy(version: &str, dir: &Path) -> Log {
    copy_of(version, dir);
    options().open(dir).expect("opens")
}

#[test]
fn version_1_before_echoes_and_salts_opens_and_says_what_it_said() {
    check("v1", Ending::Closed);
}

#[test]
fn version_1_opens_and_says_what_it_said() {
    check("v1-salts", Ending::Closed);
}

#[test]
fn version_1_of_a_process_that_was_killed_when_idle_opens_and_says_what_it_said() {
    check("v1-salts-idle", Ending::Unclean);
}

fn check(version: &str, ending: Ending) {
    let dir = tempfile::tempdir().expect("a directory");
    check_log(&open_copy(version, dir.path()), ending);
}

fn check_log(log: &Log, ending: Ending) {
    assert_eq!(log.report().ending, ending);
    assert_eq!(log.report().rewritten_bytes, 0, "all of it was durable, and says so");
    assert_eq!(log.topics(), ["orders", "audit", "orders.billing.dead"]);
    let orders = log.topic("orders").expect("there");
    for (message, i) in orders.read_from(Offset(0)).expect("reads").zip(0..) {
        let (message, expected) = (message.expect("whole"), record(i));
        assert_eq!(message.payload(), format!("order {i} {}", "abc".repeat(10)).as_bytes());
        let mut again = Record::new(message.payload()).timestamp(message.timestamp());
        if let Some(key) = message.key() {
            again = again.key(key);
        }
        if let Some(tag) = message.tag() {
            again = again.tag(tag);
        }
        for (name, value) in message.headers() {
            again = again.header(name, value);
        }
        assert_eq!(again, expected);
    }
    assert_eq!(orders.offsets().end, Offset(60));
    let dead = log.topic("orders.billing.dead").expect("there");
    let letter = dead.read_from(Offset(0)).expect("reads").next().expect("one").expect("whole");
    assert_eq!(letter.header("ackline.offset"), Some(&b"3"[..]));
    assert_eq!(letter.header("ackline.reason"), Some(&b"not wanted"[..]));
    let group = orders.group("billing").expect("there");
    assert_eq!(group.lag().expect("lag").messages, 51);
    if ending == Ending::Unclean {
        // What was out is a suspect, and comes alone.
        let polled = group.poll(100, Duration::ZERO).expect("polls");
        assert_eq!((polled.len(), polled[0].offset(), polled[0].attempt()), (1, Offset(5), 2));
        return;
    }
    let polled = group.poll(100, Duration::ZERO).expect("polls");
    let offsets: Vec<_> = polled.iter().map(|message| message.offset().0).collect();
    assert_eq!(offsets, [5].into_iter().chain(10..60).collect::<Vec<_>>());
    assert_eq!(polled[0].attempt(), 2);
}

/// A log from before echoes and salts whose process was killed: what opening writes again gets
/// a salt, and lies behind segments without.
#[test]
fn version_1_before_echoes_and_salts_is_recovered_and_goes_on() {
    for kept in [0, 64] {
        let dir = tempfile::tempdir().expect("a directory");
        copy_of("v1", dir.path());
        let newest = dir.path().join("00000000000000006928.seg");
        let mut bytes = fs::read(&newest).expect("reads");
        let mut headers =
            (0..bytes.len()).step_by(8).filter(|at| bytes[*at..].starts_with(b"AKLF"));
        let closed = headers.next_back().expect("the marker");
        // It had not been closed yet, or was about to be written to.
        bytes[closed..closed + 64].fill(0);
        bytes[closed..closed + kept].fill(7);
        fs::write(&newest, bytes).expect("writes");
        for again in 0..2 {
            let log = options().open(dir.path()).expect("opens");
            let torn = again == 0 && kept > 0;
            assert_eq!(
                (log.report().ending, log.report().dropped_torn_tail),
                match again {
                    0 => (Ending::Unclean, torn),
                    _ => (Ending::Closed, false),
                }
            );
            assert_eq!(log.report().rewritten_bytes > 0, again == 0);
            let orders = log.topic("orders").expect("there");
            let read = orders.read_from(Offset(0)).expect("reads");
            let read: Vec<_> = read.map(|message| message.expect("whole")).collect();
            assert_eq!(read.len(), 60 + again);
            orders.append("one more").expect("appends");
            log.close().expect("closes");
        }
    }
}
