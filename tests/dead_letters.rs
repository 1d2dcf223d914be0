//! Dead letters.

use std::sync::Arc;
use std::time::Duration;

use ackline::simulation::{SimClock, SimDisk};
use ackline::{GroupOptions, Offset, Options};

#[test]
fn a_dead_letter_is_durable_when_the_poll_returns_that_buried_it() {
    let disk = SimDisk::new(1);
    // Without background threads, nobody else commits the letter.
    let options = Options::new().simulated(Arc::new(SimClock::new()), 1);
    let log = options.open_on(disk.storage()).expect("opens");
    let jobs = log.topic("jobs").expect("a topic");
    jobs.append("poison").expect("appends");
    let options = GroupOptions::new().attempts_max(1).dead_letter("dead");
    let group = jobs.group_with("workers", options).expect("a group");
    drop(group.poll(1, Duration::ZERO).expect("polls"));
    assert!(group.poll(1, Duration::ZERO).expect("polls").is_empty());
    assert_eq!(group.lag().expect("lag").messages, 0);
    let dead = log.topic("dead").expect("a topic");
    assert_eq!(dead.offsets().end, Offset(1));
}
