//! What a batch writes, and what it refuses.

use std::time::Duration;

use ackline::{Error, Log, Options, Record};

#[test]
fn acknowledging_neighbours_in_one_batch_writes_one_range() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = Log::open(dir.path()).expect("opens");
    let topic = log.topic("t").expect("a topic");
    topic.append_batch((0..1000).map(|i| i.to_string())).expect("appends");
    let group = topic.group("g").expect("a group");
    let polled = group.poll(1000, Duration::ZERO).expect("polls");
    assert_eq!(polled.len(), 1000);
    let before = log.stats().bytes;
    let batch = polled.into_iter().fold(log.batch(), ackline::Batch::ack);
    batch.commit().expect("commits");
    let written = log.stats().bytes - before;
    assert!(written < 1024, "{written} bytes");
    assert_eq!(group.lag().expect("lag").messages, 0);
}

#[test]
fn a_batch_refuses_a_record_that_could_not_be_dead_lettered() {
    let dir = tempfile::tempdir().expect("a directory");
    let max = 1024 * 1024;
    let options = Options::new().payload_bytes_max(max).batch_bytes_max(2 * max as u64);
    let log = options.open(dir.path()).expect("opens");
    let jobs = log.topic("jobs").expect("a topic");
    let large = Record::new(vec![1; max]).header("more", vec![2; max - 200]);
    assert!(matches!(jobs.append(large.clone()), Err(Error::TooLarge { .. })));
    let appended = log.batch().append(&jobs, large).commit();
    assert!(matches!(appended, Err(Error::TooLarge { .. })), "{appended:?}");
}
