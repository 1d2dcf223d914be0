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
