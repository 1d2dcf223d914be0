//! Closing a log.

use std::time::Duration;

use ackline::{Ending, Log};

#[test]
fn a_log_is_closed_cleanly_while_the_background_still_commits() {
    let dir = tempfile::tempdir().expect("a directory");
    for round in 0..50 {
        let log = Log::open(dir.path()).expect("opens");
        let expected = if round == 0 { Ending::New } else { Ending::Closed };
        assert_eq!(log.report().ending, expected, "round {round}");
        let topic = log.topic("t").expect("a topic");
        let group = topic.group("g").expect("a group");
        topic.append("waited for").expect("appends");
        for message in group.poll(1, Duration::ZERO).expect("polls") {
            message.ack().expect("acks");
        }
        // The background thread commits the end of the group, and may still be at it when the
        // log is to be marked as closed.
        log.close().expect("closes");
    }
}
