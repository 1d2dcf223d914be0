//! Callbacks: called once, on a thread of the log, whatever they do there.

use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use ackline::{Error, Log, Offset, Options, Topic};

use crate::common::gate::RealClock;
use crate::common::{Machine, read_all};

/// Only a callback that never comes takes as long.
fn receive<T>(receiver: &Receiver<T>) -> T {
    receiver.recv_timeout(Duration::from_secs(120)).expect("the callback is called")
}

/// A log with background threads.
fn started() -> (Machine, Log, Topic) {
    let machine = Machine::new(1);
    let log = Options::new().open_on(machine.disk.storage()).expect("opens");
    let topic = log.topic("t").expect("a topic");
    (machine, log, topic)
}

#[test]
fn callbacks_get_the_receipts() {
    let (_machine, _log, topic) = started();
    let (sender, receiver) = channel();
    for i in 0..100_u64 {
        let sender = sender.clone();
        topic.submit(format!("{i}")).on_complete(move |outcome| {
            sender.send((i, outcome.expect("appends").offset)).expect("the test listens");
        });
    }
    let mut got: Vec<_> = (0..100).map(|_| receive(&receiver)).collect();
    got.sort_unstable();
    let expected: Vec<_> = (0..100).map(|i| (i, Offset(i))).collect();
    assert_eq!(got, expected);
}

#[test]
fn a_callback_that_comes_after_the_commit_is_called_too() {
    let machine = Machine::new(1);
    let log = Options::new()
        .simulated(RealClock::new(), 1)
        .open_on(machine.disk.storage())
        .expect("opens");
    let topic = log.topic("t").expect("a topic");
    let pending = topic.submit("first");
    topic.append("commits both").expect("appends");
    let (sender, receiver) = channel();
    pending.on_complete(move |outcome| sender.send(outcome).expect("the test listens"));
    log.maintain().expect("runs callbacks");
    assert_eq!(receive(&receiver).expect("appends").offset, Offset(0));
}

#[test]
fn a_refused_append_is_called_back_at_once() {
    let log = Machine::new(1).open(Options::new().payload_bytes_max(3));
    let topic = log.topic("t").expect("a topic");
    let (sender, receiver) = channel();
    topic.submit("too long").on_complete(move |outcome| sender.send(outcome).expect("listens"));
    assert_error!(receiver.try_recv().expect("called already"), Error::TooLarge { .. });
}

#[test]
fn a_panic_in_a_callback_harms_nobody() {
    let (_machine, log, topic) = started();
    let (sender, receiver) = channel();
    topic.submit("first").on_complete(|_| panic!("a callback of the test panics"));
    topic.submit("second").on_complete(move |outcome| sender.send(outcome).expect("listens"));
    receive(&receiver).expect("appends");
    topic.append("third").expect("appends");
    log.close().expect("closes");
}

#[test]
fn a_callback_may_append_and_poll() {
    let (_machine, _log, topic) = started();
    let group = topic.group("g").expect("a group");
    let (sender, receiver) = channel();
    let inner = topic.clone();
    topic.submit("first").on_complete(move |outcome| {
        outcome.expect("appends");
        inner.append("second").expect("appends in a callback");
        let polled = group.poll(10, Duration::ZERO).expect("polls in a callback");
        let offsets: Vec<_> = polled.iter().map(|message| message.offset()).collect();
        for message in polled {
            message.ack().expect("acks");
        }
        group.commit().expect("commits in a callback");
        sender.send(offsets).expect("the test listens");
    });
    assert_eq!(receive(&receiver), [Offset(0), Offset(1)]);
}

#[test]
fn a_callback_may_close_the_log() {
    let (machine, log, topic) = started();
    let (sender, receiver) = channel();
    topic.submit("first").on_complete(move |outcome| {
        outcome.expect("appends");
        sender.send(log.close()).expect("the test listens");
    });
    receive(&receiver).expect("closes");
    assert_error!(topic.append("late"), Error::Closed);
    drop(topic);
    let log = Options::new().open_on(machine.disk.storage()).expect("opens again");
    assert_eq!(read_all(&log.topic("t").expect("a topic")), [b"first"]);
}

#[test]
fn callbacks_are_called_by_close_at_the_latest() {
    let machine = Machine::new(1);
    let log = Options::new()
        .simulated(RealClock::new(), 1)
        .open_on(machine.disk.storage())
        .expect("opens");
    let topic = log.topic("t").expect("a topic");
    let (sender, receiver) = channel();
    for i in 0..10 {
        let sender = sender.clone();
        topic.submit(format!("{i}")).on_complete(move |outcome| {
            sender.send(outcome.expect("appends").offset).expect("the test listens");
        });
    }
    log.close().expect("closes");
    assert_eq!(receiver.try_iter().count(), 10);
}

#[test]
fn callbacks_learn_that_a_sync_failed() {
    let machine = Machine::new(1);
    let log = Options::new()
        .simulated(RealClock::new(), 1)
        .open_on(machine.disk.storage())
        .expect("opens");
    let topic = log.topic("t").expect("a topic");
    let (sender, receiver) = channel();
    let pending = topic.submit("first");
    pending.on_complete(move |outcome| sender.send(outcome).expect("the test listens"));
    machine.disk.fail_at(machine.disk.calls() + 1, ackline::simulation::Fault::Io);
    drop(log.maintain());
    assert_error!(receiver.try_recv().expect("called"), Error::Poisoned { .. });
}
