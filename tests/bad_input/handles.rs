//! Handles that outlive the log.

use std::time::Duration;

use ackline::{Error, Offset, Start};

use crate::common::{Machine, fill, poll_one, small};

#[test]
fn every_handle_answers_closed_after_close() {
    let machine = Machine::new(1);
    let log = machine.open(small());
    let clone = log.clone();
    let topic = log.topic("t").expect("a topic");
    let group = topic.group("g").expect("a group");
    fill(&topic, 0..20);
    let reader = topic.read_from(Offset(0)).expect("reads");
    let mut deliveries: Vec<_> = (0..8).map(|_| poll_one(&group)).collect();
    let mut delivery = || deliveries.pop().expect("enough of them");
    let (batch, acks) = (log.batch().append(&topic, "x"), log.batch().ack(delivery()));
    let empty = log.batch();
    log.close().expect("closes");
    let before = machine.segments();

    assert_error!(clone.topic("t"), Error::Closed);
    assert_error!(clone.topic("new"), Error::Closed);
    assert_error!(clone.sync(), Error::Closed);
    assert_error!(clone.batch().append(&topic, "x").commit(), Error::Closed);
    assert_error!(batch.commit(), Error::Closed);
    assert_error!(acks.commit(), Error::Closed);
    assert_error!(empty.commit(), Error::Closed);
    assert_error!(topic.append("x"), Error::Closed);
    assert_error!(topic.append_if(Offset(20), "x"), Error::Closed);
    assert_error!(topic.append_batch(["x", "y"]), Error::Closed);
    assert_error!(topic.submit("x").wait(), Error::Closed);
    assert_error!(topic.read_from(Offset(0)), Error::Closed);
    assert_error!(topic.offset_at(std::time::UNIX_EPOCH), Error::Closed);
    assert_error!(topic.group("g"), Error::Closed);
    assert_error!(topic.group("new"), Error::Closed);
    assert_error!(group.poll(1, Duration::ZERO), Error::Closed);
    assert_error!(group.poll(1, Duration::from_secs(3600)), Error::Closed);
    assert_error!(group.ack(Offset(0)), Error::Closed);
    assert_error!(group.commit(), Error::Closed);
    assert_error!(group.commit_through(Offset(0)), Error::Closed);
    assert_error!(group.seek(Start::Earliest), Error::Closed);
    assert_error!(group.lag(), Error::Closed);
    assert_error!(group.explain(Offset(0)), Error::Closed);
    assert_error!(delivery().extend(Duration::from_secs(1)), Error::Closed);
    assert_error!(delivery().ack(), Error::Closed);
    assert_error!(delivery().retry(), Error::Closed);
    assert_error!(delivery().retry_after(Duration::ZERO), Error::Closed);
    assert_error!(delivery().release(), Error::Closed);
    assert_error!(delivery().reject("no"), Error::Closed);
    drop(delivery());
    assert_eq!(topic.offsets().end, Offset(20), "what is known in memory can be asked for");
    assert_error!(clone.clone().close(), Error::Closed);

    let mut reader = reader;
    assert_error!(reader.next().expect("it says that the log is closed"), Error::Closed);
    assert!(reader.next().is_none(), "a loop over a reader ends");

    assert!(machine.segments() == before, "nothing was written after the close");
    drop((clone, topic, group, reader, deliveries));
    let log = machine.open(small());
    let topic = log.topic("t").expect("a topic");
    assert_eq!(topic.offsets().end, Offset(20));
    assert_eq!(topic.group("g").expect("a group").lag().expect("lag").messages, 20);
}

#[test]
fn a_message_can_be_used_after_its_log_is_gone() {
    let machine = Machine::new(1);
    let log = machine.open(small());
    let topic = log.topic("t").expect("a topic");
    topic.append("kept in memory").expect("appends");
    let message = topic.read_from(Offset(0)).expect("reads").next().expect("one").expect("whole");
    log.close().expect("closes");
    drop(topic);
    assert_eq!(message.payload(), b"kept in memory");
}
