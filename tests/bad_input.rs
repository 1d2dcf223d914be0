//! Bad input of every kind: a typed error, nothing lost, no panic.
//!
//! Here are the directories, names, sizes, offsets and handles; damaged files are in `damage`,
//! flipped bits in `bits`.
#![allow(clippy::disallowed_methods, reason = "tests look at the files from outside")]

#[macro_use]
mod common;

#[path = "bad_input/bits.rs"]
mod bits;
#[path = "bad_input/damage.rs"]
mod damage;
#[path = "bad_input/handles.rs"]
mod handles;

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use ackline::replicate::{Quorum, QuorumOptions};
use ackline::simulation::{Call, Crash, Fault};
use ackline::{Epoch, Error, GroupOptions, Log, Offset, Options, Record, SyncPolicy};

use common::{Machine, assert_holds, fill, poll, poll_one, small};

const CHILD: &str = "ACKLINE_CHILD_DIRECTORY";

fn no_wait() -> Options {
    Options::new().lock_timeout(Duration::ZERO)
}

#[test]
fn a_path_that_is_a_file_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("file");
    std::fs::write(&path, "mine").expect("writes");
    assert_error!(Log::open(&path), Error::NotADirectory { path: found } if found == path.display().to_string());
    assert_error!(Log::open(path.join("below")), Error::Io { .. });
    assert_eq!(std::fs::read(&path).expect("reads"), b"mine");
}

#[test]
fn a_directory_that_cannot_be_made_is_an_io_error() {
    // Not even root makes directories here.
    for path in ["/proc/ackline-test", "/proc/self/ackline-test/deeper"] {
        assert!(Path::new("/proc").is_dir(), "the test needs /proc");
        assert_error!(Log::open(path), Error::Io { file, .. } if file == path);
        assert!(!Path::new(path).exists());
    }
}

#[test]
fn a_new_log_is_not_made_beside_foreign_files() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("thesis.txt"), "mine").expect("writes");
    assert_error!(Log::open(dir.path()), Error::ForeignFile { name, .. } if name == "thesis.txt");
    assert_eq!(std::fs::read(dir.path().join("thesis.txt")).expect("reads"), b"mine");
    std::fs::remove_file(dir.path().join("thesis.txt")).expect("removes");
    Log::open(dir.path()).expect("opens once the file is gone");
}

#[test]
fn a_new_log_may_lie_beside_hidden_files_and_lost_found() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join(".hidden"), "").expect("writes");
    std::fs::create_dir(dir.path().join("lost+found")).expect("makes a directory");
    let log = Log::open(dir.path()).expect("opens");
    assert_eq!(log.report().foreign_files, [".hidden", "lost+found"]);
}

#[test]
fn an_existing_log_reports_foreign_files_and_leaves_them_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = Log::open(dir.path()).expect("opens");
    log.topic("t").expect("a topic").append("kept").expect("appends");
    log.close().expect("closes");
    std::fs::write(dir.path().join("notes.tmp"), "mine").expect("writes");
    std::fs::create_dir(dir.path().join("sub")).expect("makes a directory");
    let log = Log::open(dir.path()).expect("opens");
    assert_eq!(log.report().foreign_files, ["notes.tmp", "sub"]);
    assert_eq!(log.topic("t").expect("a topic").offsets().end, Offset(1));
    log.close().expect("closes");
    assert_eq!(std::fs::read(dir.path().join("notes.tmp")).expect("reads"), b"mine");
}

#[test]
fn leftovers_of_unfinished_steps_are_removed_and_reported() {
    let machine = Machine::new(1);
    let log = machine.open(small());
    fill(&log.topic("t").expect("a topic"), 0..20);
    log.close().expect("closes");
    for name in ["spare.tmp", "00000000000000099999.tmp"] {
        machine.disk.put(name, b"half of something");
    }
    let log = machine.open(small());
    let mut removed = log.report().removed_files.clone();
    removed.sort();
    assert_eq!(removed, ["00000000000000099999.tmp", "spare.tmp"]);
    assert!(log.report().foreign_files.is_empty());
    assert!(!machine.disk.names().iter().any(|name| name.starts_with("0000000000000009")));
    assert_holds(&log.topic("t").expect("a topic"), 0..20);
}

#[test]
fn opening_tries_again_once_the_leftovers_that_it_has_removed_are_closed() {
    let machine = Machine::new(1);
    let log = machine.open(small());
    fill(&log.topic("t").expect("a topic"), 0..20);
    machine.disk.crash(Crash::Kill);
    drop(log);
    machine.disk.put("spare.tmp", b"much of something");
    // As if their blocks were free only once nobody has them open any more.
    for _ in 0..2 {
        machine.disk.fail_next(Call::Allocate, Fault::NoSpace);
    }
    let log = machine.open(small());
    assert_eq!(log.report().removed_files, ["spare.tmp"]);
    assert!(log.report().rewritten_bytes > 0);
    assert_holds(&log.topic("t").expect("a topic"), 0..20);
}

#[test]
fn names_that_cannot_be_used_are_refused() {
    let machine = Machine::new(1);
    let log = machine.open(small());
    let topic = log.topic("t").expect("a topic");
    let too_long = "x".repeat(300);
    for name in ["", "a/b", "a\\b", "a\0b", "a\nb", "a\u{7f}b", ".", "..", &too_long] {
        assert_error!(log.topic(name), Error::InvalidName { name: found, .. } if found == name);
        assert_error!(topic.group(name), Error::InvalidName { name: found, .. } if found == name);
        let options = GroupOptions::new().dead_letter(name);
        assert_error!(topic.group_with("g", options), Error::InvalidName { .. });
    }
    assert_eq!(log.topics(), ["t"]);
    assert!(log.groups(&topic).is_empty());
    let longest = "x".repeat(249);
    log.topic(&longest).expect("249 bytes are allowed");
    let options = GroupOptions::new().dead_letter("dead");
    topic.group_with(&longest, options).expect("249 bytes are allowed");
}

#[test]
fn a_group_whose_dead_letter_topic_would_have_a_bad_name_is_refused() {
    let machine = Machine::new(1);
    let log = machine.open(small());
    let topic = log.topic(&"t".repeat(200)).expect("a topic");
    assert_error!(topic.group(&"g".repeat(60)), Error::InvalidName { .. });
    let itself = GroupOptions::new().dead_letter("t".repeat(200));
    assert_error!(
        topic.group_with("g", itself),
        Error::InvalidOption { option: "dead_letter", .. }
    );
    assert!(log.groups(&topic).is_empty());
}

#[test]
fn the_largest_payload_is_accepted_and_one_byte_more_is_not() {
    const MAX: usize = 4 * 1024 * 1024;
    let machine = Machine::new(1);
    let log = machine.open(Options::new());
    let topic = log.topic("t").expect("a topic");
    let too_large = vec![7; MAX + 1];
    let refused = |result: ackline::Result<()>| {
        assert_error!(
            result,
            Error::TooLarge { what: "payload", bytes, max }
                if (bytes, max) == (MAX as u64 + 1, MAX as u64)
        );
    };
    refused(topic.append(too_large.clone()).map(drop));
    refused(topic.submit(too_large.clone()).wait().map(drop));
    refused(topic.append_if(Offset(0), too_large.clone()).map(drop));
    refused(topic.append_batch([b"small".to_vec(), too_large.clone()]).map(drop));
    refused(log.batch().append(&topic, "small").append(&topic, too_large).commit().map(drop));
    assert_eq!(topic.offsets().end, Offset(0));
    let receipt = topic.append(vec![7; MAX]).expect("exactly 4 MiB is fine");
    assert_eq!(receipt.offset, Offset(0));
    let message = topic.read_from(Offset(0)).expect("reads").next().expect("one").expect("whole");
    assert!(message.payload().len() == MAX && message.payload().iter().all(|byte| *byte == 7));
}

#[test]
fn every_part_of_a_record_has_a_limit() {
    const FIELD: usize = 65_535;
    let machine = Machine::new(1);
    let log = machine.open(Options::new().payload_bytes_max(100_000));
    let topic = log.topic("t").expect("a topic");
    let too_long = "x".repeat(FIELD + 1);
    let headers = (0..=FIELD).fold(Record::new(""), |record, _| record.header("n", "v"));
    for (record, part) in [
        (Record::new("").key(too_long.clone()), "key"),
        (Record::new("").tag(too_long.clone()), "tag"),
        (Record::new("").header(too_long.clone(), ""), "header name"),
        (Record::new("").header("n", vec![0; 100_001]), "header value"),
        (headers, "number of headers"),
    ] {
        assert_error!(topic.append(record), Error::TooLarge { what, .. } if what == part);
    }
    let fits = "x".repeat(FIELD);
    let largest =
        Record::new("").key(fits.clone()).tag(fits.clone()).header(fits, vec![0; 100_000]);
    assert_eq!(topic.append(largest).expect("each at its limit").offset, Offset(0));
}

#[test]
fn a_batch_over_the_frame_limit_is_refused_as_a_whole() {
    let machine = Machine::new(1);
    let options = Options::new().payload_bytes_max(1024).batch_bytes_max(1024 * 1024);
    let log = machine.open(options);
    let (a, b) = (log.topic("a").expect("a topic"), log.topic("b").expect("a topic"));
    let mut batch = log.batch();
    for _ in 0..2000 {
        batch = batch.append(&a, vec![1; 1024]).append(&b, vec![2; 1024]);
    }
    assert_error!(batch.commit(), Error::TooLarge { what: "batch", .. });
    let records = (0..4000).map(|_| vec![1; 1024]);
    assert_error!(a.append_batch(records), Error::TooLarge { what: "batch", .. });
    assert_eq!((a.offsets().end, b.offsets().end), (Offset(0), Offset(0)));
    a.append("later").expect("a refused batch harms nothing");
}

#[test]
fn a_record_too_large_to_be_dead_lettered_is_refused_in_a_batch_too() {
    const PART: usize = 1024 * 1024;
    let machine = Machine::new(1);
    let options = Options::new().payload_bytes_max(PART).batch_bytes_max(4 * PART as u64);
    let log = machine.open(options);
    let topic = log.topic("t").expect("a topic");
    // Together with what is beside a dead letter it is over the limit of a batch.
    let record = Record::new(vec![0; PART])
        .header("a", vec![0; PART])
        .header("b", vec![0; PART])
        .header("c", vec![0; PART - 1024]);
    assert_error!(topic.append(record.clone()), Error::TooLarge { what: "record", .. });
    assert_error!(
        log.batch().append(&topic, record).commit(),
        Error::TooLarge { what: "record", .. }
    );
}

#[test]
fn offsets_outside_of_the_topic_are_refused() {
    let machine = Machine::new(1);
    let log = machine.open(small());
    let topic = log.topic("t").expect("a topic");
    let group = topic.group("g").expect("a group");
    fill(&topic, 0..5);
    let outside = |offset: u64, result: ackline::Result<()>| {
        assert_error!(
            result,
            Error::OffsetOutOfRange { offset: found, start: Offset(0), end: Offset(5) }
                if found == Offset(offset)
        );
    };
    for offset in [6, u64::MAX] {
        outside(offset, topic.read_from(Offset(offset)).map(drop));
        outside(offset, group.seek(Offset(offset)));
        let options = GroupOptions::new().start(Offset(offset));
        outside(offset, topic.group_with("new", options).map(drop));
    }
    for offset in [5, 6, u64::MAX] {
        outside(offset, group.commit_through(Offset(offset)));
    }
    assert_eq!(topic.read_from(Offset(5)).expect("the end is allowed").count(), 0);
    assert_eq!(poll(&group, 10).len(), 5, "nothing was moved");
    assert_eq!(log.groups(&topic), ["g"]);
}

#[test]
fn only_what_was_delivered_and_not_settled_can_be_acknowledged() {
    let machine = Machine::new(1);
    let log = machine.open(small());
    let topic = log.topic("t").expect("a topic");
    let group = topic.group("g").expect("a group");
    fill(&topic, 0..3);
    assert_error!(group.ack(Offset(0)), Error::NotLeased { offset: Offset(0) });
    assert_error!(group.ack(Offset(99)), Error::NotLeased { offset: Offset(99) });
    let first = poll_one(&group);
    group.ack(Offset(0)).expect("it is leased");
    assert_error!(group.ack(Offset(0)), Error::AlreadyAcked { offset: Offset(0) });
    assert_error!(first.ack(), Error::AlreadyAcked { offset: Offset(0) });
    let second = poll_one(&group);
    group.commit_through(Offset(2)).expect("commits");
    assert_error!(log.batch().ack(second).commit(), Error::AlreadyAcked { offset: Offset(1) });
    assert_error!(group.ack(Offset(2)), Error::AlreadyAcked { offset: Offset(2) });
    assert_eq!(group.lag().expect("lag").messages, 0);
}

#[test]
fn what_belongs_to_another_log_is_refused_in_a_batch() {
    let (one, other) = (Machine::new(1).open(small()), Machine::new(2).open(small()));
    let (topic, foreign) = (one.topic("t").expect("a topic"), other.topic("t").expect("a topic"));
    fill(&foreign, 0..1);
    let group = foreign.group("g").expect("a group");
    let batch = one.batch().append(&topic, "x").append(&foreign, "y");
    assert_error!(batch.commit(), Error::Foreign { what: "the topic" });
    let batch = one.batch().append(&topic, "x").ack(poll_one(&group));
    assert_error!(batch.commit(), Error::Foreign { what: "the delivery" });
    assert_eq!(topic.offsets().end, Offset(0));
    assert_eq!(foreign.offsets().end, Offset(1));
    assert_eq!(poll_one(&group).attempt(), 2, "the delivery was given back");
}

#[test]
fn invalid_options_are_named() {
    let check = |options: Options, expected: &str| {
        let machine = Machine::new(1);
        assert_error!(
            machine.try_open(options),
            Error::InvalidOption { option, .. } if option == expected
        );
        assert!(machine.disk.names().is_empty(), "nothing was made");
    };
    check(Options::new().segment_bytes(4095), "segment_bytes");
    check(Options::new().segment_bytes((4 << 30) + 1), "segment_bytes");
    check(Options::new().payload_bytes_max(0), "payload_bytes_max");
    check(Options::new().payload_bytes_max((1 << 30) + 1), "payload_bytes_max");
    check(Options::new().batch_bytes_max((2 << 30) + 1), "batch_bytes_max");
    check(Options::new().open_segments_max(0), "open_segments_max");
    check(Options::new().sync_timeout(Duration::ZERO), "sync_timeout");
    check(Options::new().max_bytes(64 << 20), "max_bytes");
    let linger = SyncPolicy::GroupCommit { linger: Duration::from_secs(2) };
    check(Options::new().sync(linger), "linger");
    for (every, bytes) in [(Duration::ZERO, 1), (Duration::from_secs(1), 0)] {
        check(Options::new().sync(SyncPolicy::Interval { every, bytes }), "interval");
    }
}

#[test]
fn invalid_group_options_are_named() {
    let log = Machine::new(1).open(small());
    let topic = log.topic("t").expect("a topic");
    for (options, expected) in [
        (GroupOptions::new().lease(Duration::ZERO), "lease"),
        (GroupOptions::new().in_flight_max(0), "in_flight_max"),
        (GroupOptions::new().in_flight_max(1_000_001), "in_flight_max"),
        (GroupOptions::new().unacked_max(0), "unacked_max"),
        (GroupOptions::new().unacked_max(1_000_001), "unacked_max"),
        (GroupOptions::new().attempts_max(0), "attempts_max"),
        (GroupOptions::new().backoff([]), "backoff"),
    ] {
        assert_error!(
            topic.group_with("g", options),
            Error::InvalidOption { option, .. } if option == expected
        );
    }
    assert!(log.groups(&topic).is_empty());
}

#[test]
fn an_epoch_behind_which_none_is_left_is_refused() {
    let machine = Machine::new(1);
    let alone = Quorum::new(&QuorumOptions::new(1), Vec::new()).expect("one of one");
    let log = machine.open(Options::new().replicator(Arc::new(alone.clone())));
    for epoch in [1 << 62, u64::MAX] {
        assert_error!(alone.campaign(Epoch(epoch)), Error::InvalidOption { option: "epoch", .. });
    }
    alone.campaign(Epoch((1 << 62) - 1)).expect("the last one");
    log.topic("t").expect("it leads").append("still").expect("appends");
}

#[test]
fn a_second_open_in_this_process_is_locked_out() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = Log::open(dir.path()).expect("opens");
    let own = std::process::id();
    assert_error!(no_wait().open(dir.path()), Error::Locked { holder, .. } if holder == Some(own));
    log.topic("t").expect("a topic").append("the first holder goes on").expect("appends");
    log.close().expect("closes");
    no_wait().open(dir.path()).expect("opens once the holder let go");
}

#[test]
fn an_open_by_another_process_is_locked_out_with_its_id() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut child = hold_elsewhere(dir.path());
    let id = child.id();
    assert_error!(no_wait().open(dir.path()), Error::Locked { holder, .. } if holder == Some(id));
    child.kill().expect("the child runs");
    child.wait().expect("it ended");
    let log = Log::open(dir.path()).expect("the lock ended with its holder");
    assert_holds(&log.topic("t").expect("a topic"), 0..3);
}

fn hold_elsewhere(directory: &Path) -> Child {
    let test = "holds_the_lock_for_another_process";
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env(CHILD, directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut stdout = child.stdout.take().expect("it is piped");
    let mut seen = Vec::new();
    while !seen.ends_with(b"ready\n") {
        let mut byte = [0];
        assert_eq!(stdout.read(&mut byte).expect("reads"), 1, "the child opened the log");
        seen.push(byte[0]);
    }
    child
}

#[test]
#[ignore = "the child of another test"]
fn holds_the_lock_for_another_process() {
    let Some(directory) = std::env::var_os(CHILD) else { return };
    let log = Log::open(directory).expect("opens");
    fill(&log.topic("t").expect("a topic"), 0..3);
    let mut stdout = std::io::stdout();
    stdout.write_all(b"ready\n").expect("writes");
    stdout.flush().expect("writes");
    let mut rest = Vec::new();
    std::io::stdin().read_to_end(&mut rest).expect("reads until the parent ends this");
}
