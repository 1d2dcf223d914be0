//! A log at its size limit: nothing spins, nothing is stuck, nothing is answered for ever.

use std::sync::Arc;
use std::time::Duration;

use ackline::simulation::{SimClock, SimDisk};
use ackline::{Error, GroupOptions, Log, Offset, Options, Topic};

fn open(max_bytes: u64) -> Log {
    let options = Options::new().segment_bytes(8192).max_bytes(max_bytes);
    let clock = Arc::new(SimClock::new());
    options.simulated(clock, 1).open_on(SimDisk::new(1).storage()).expect("opens")
}

fn fill(topic: &Topic) {
    loop {
        match topic.append(vec![1; 500]) {
            Ok(_) => {}
            Err(Error::Full { .. }) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn one_message_that_is_rejected_does_not_keep_the_log_full() {
    let log = open(3 * 8192);
    let topic = log.topic("jobs").expect("a topic");
    let group = topic.group("workers").expect("a group");
    fill(&topic);
    for delivery in group.poll(1000, Duration::ZERO).expect("polls") {
        match delivery.offset() {
            Offset(0) => delivery.reject("never wanted").expect("there is room for its letter"),
            _ => delivery.ack().expect("acks"),
        }
    }
    group.commit().expect("commits");
    // The letter is in a topic that nobody consumes, but not in the segments that hold the room.
    log.maintain().expect("retention runs");
    topic.append("goes on").expect("there is room again");
}

#[test]
fn one_message_that_is_out_of_attempts_does_not_keep_the_log_full() {
    let log = open(3 * 8192);
    let topic = log.topic("jobs").expect("a topic");
    let options = GroupOptions::new().attempts_max(1);
    let group = topic.group_with("workers", options).expect("a group");
    fill(&topic);
    for delivery in group.poll(1000, Duration::ZERO).expect("polls") {
        // The first one is dropped, and so used up.
        if delivery.offset() > Offset(0) {
            delivery.ack().expect("acks");
        }
    }
    assert!(group.poll(10, Duration::ZERO).expect("polls").is_empty());
    assert_eq!(group.lag().expect("lag").messages, 0);
    group.commit().expect("commits");
    log.maintain().expect("retention runs");
    topic.append("goes on").expect("there is room again");
}

#[test]
fn the_file_keeper_refuses_nobody() {
    let log = open(2 * 8192);
    let topic = log.topic("t").expect("a topic");
    fill(&topic);
    let refused = log.stats().refused_full;
    assert!(refused > 0);
    for _ in 0..10 {
        log.maintain().expect("a full log is maintained");
    }
    assert_eq!(log.stats().refused_full, refused);
}

#[test]
fn a_batch_that_could_never_fit_is_too_large_rather_than_full() {
    let log = open(2 * 8192);
    let topic = log.topic("t").expect("a topic");
    let refused = topic.append_batch((0..40).map(|_| vec![1; 1000]));
    assert!(matches!(refused, Err(Error::TooLarge { .. })), "{refused:?}");
    topic.append("this one fits").expect("appends");
}

#[test]
fn a_group_with_a_dead_letter_topic_of_its_own_opens_again_by_name_alone() {
    let log = open(2 * 8192);
    let topic = log.topic(&"t".repeat(249)).expect("a topic");
    let refused = topic.group("g");
    assert!(matches!(refused, Err(Error::InvalidName { .. })), "{refused:?}");
    let options = GroupOptions::new().dead_letter("dead");
    topic.group_with("g", options).expect("a group");
    assert_eq!(topic.group("g").expect("known").dead_letter_topic(), "dead");
}

#[test]
fn a_callback_that_comes_after_closing_is_called() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = Log::open(dir.path()).expect("opens");
    let pending = log.topic("t").expect("a topic").submit("x");
    log.close().expect("closes");
    let (done, outcome) = std::sync::mpsc::channel();
    pending.on_complete(move |result| done.send(result).expect("the test listens"));
    let receipt = outcome.recv().expect("called").expect("closing commits what is queued");
    assert_eq!(receipt.offset, Offset(0));
}

#[cfg(target_os = "linux")]
#[test]
fn a_directory_that_exists_and_is_not_writable_is_an_io_error() {
    // Nobody can make a file there, whoever runs the tests.
    for directory in ["/proc", "/sys"] {
        let error = Log::open(directory).expect_err("not writable");
        assert!(matches!(error, Error::Io { .. }), "{directory}: {error}");
        assert!(error.to_string().contains(directory), "{error}");
    }
}
