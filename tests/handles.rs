//! What the last handle leaves behind: nothing.

use std::sync::Arc;
use std::time::Duration;

use ackline::Options;
use ackline::simulation::{SimClock, SimDisk};

/// Drops a log with an unsettled delivery and an acknowledgement that is not logged.
fn check(poison: bool) {
    let disk = SimDisk::new(1);
    let storage = disk.storage();
    let clock = Arc::new(SimClock::new());
    let options = Options::new().segment_bytes(8192).simulated(clock, 1);
    let log = options.open_on(Arc::clone(&storage)).expect("opens");
    let topic = log.topic("t").expect("a topic");
    topic.append_batch(["a", "b"]).expect("appends");
    let group = topic.group("g").expect("a group");
    let mut polled = group.poll(2, Duration::ZERO).expect("polls");
    polled.pop().expect("two were polled").ack().expect("acks");
    if poison {
        disk.fail_at(disk.calls(), ackline::simulation::Fault::Io);
        topic.append("c").expect_err("the write fails");
    }
    drop((log, topic, group));
    drop(polled);
    assert_eq!(Arc::strong_count(&storage), 1, "nobody holds the files of a log that is gone");
}

#[test]
fn a_log_whose_handles_are_gone_holds_no_file() {
    check(false);
}

#[test]
fn a_poisoned_log_whose_handles_are_gone_holds_no_file() {
    check(true);
}

#[test]
fn a_message_that_is_kept_beyond_its_delivery_does_not_keep_the_log_open() {
    let disk = SimDisk::new(1);
    let storage = disk.storage();
    let options = Options::new().simulated(Arc::new(SimClock::new()), 1);
    let log = options.open_on(Arc::clone(&storage)).expect("opens");
    let topic = log.topic("t").expect("a topic");
    let record = ackline::Record::new("payload").key("key").tag("tag").header("name", "value");
    topic.append(record).expect("appends");
    let group = topic.group("g").expect("a group");
    let polled = group.poll(1, Duration::ZERO).expect("polls");
    let first = polled[0].message().clone();
    let kept = [first.clone(), polled[0].message().clone(), first];
    drop((log, topic, group, polled));
    assert_eq!(Arc::strong_count(&storage), 1, "nobody holds the files of a log that is gone");
    for message in kept {
        assert_eq!((message.topic(), message.payload()), ("t", b"payload".as_slice()));
        assert_eq!((message.key(), message.tag()), (Some(b"key".as_slice()), Some("tag")));
        assert_eq!(message.header("name"), Some(b"value".as_slice()));
    }
}
