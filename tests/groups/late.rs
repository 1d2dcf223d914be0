//! Polls that take longer than the lease: what was planned for them may be somebody else's by the
//! time at which it is handed out.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::thread;
use std::time::Duration;

use ackline::{Error, GroupOptions, Offset};

use super::waking::{Woken, poll_once};
use super::{SECOND, with_records};
use crate::common::gate::{Gate, GatedStorage};
use crate::common::{Machine, fill, poll, poll_one, read_all, small};

#[test]
fn a_task_that_slept_through_its_lease_does_not_get_what_another_consumer_holds() {
    let (machine, log, _, group) = with_records(1, GroupOptions::new());
    let woken = Arc::new(Woken::default());
    let mut next = pin!(group.next());
    assert!(poll_once(next.as_mut(), &woken).is_pending(), "progress is logged first");
    log.maintain().expect("commits");
    machine.advance(31 * SECOND);
    let held = poll_one(&group);
    assert_eq!((held.offset(), held.attempt()), (Offset(0), 2));
    for _ in 0..3 {
        assert!(poll_once(next.as_mut(), &woken).is_pending(), "somebody else has the message");
    }
    held.ack().expect("the lease is its own");
}

#[test]
fn a_task_that_slept_gets_its_message_if_nobody_else_did() {
    let (machine, log, _, group) = with_records(1, GroupOptions::new());
    let woken = Arc::new(Woken::default());
    let mut next = pin!(group.next());
    assert!(poll_once(next.as_mut(), &woken).is_pending(), "progress is logged first");
    log.maintain().expect("commits");
    machine.advance(31 * SECOND);
    let Poll::Ready(Ok(late)) = poll_once(next.as_mut(), &woken) else {
        panic!("else a slow disk would use up all attempts of a message that nobody sees");
    };
    assert_eq!(late.attempt(), 1);
    late.ack().expect("nobody else has it");
}

#[test]
fn a_task_that_slept_does_not_get_what_was_settled_or_moved_meanwhile() {
    for settled in [true, false] {
        let (_, log, _, group) = with_records(1, GroupOptions::new());
        let woken = Arc::new(Woken::default());
        let mut next = pin!(group.next());
        assert!(poll_once(next.as_mut(), &woken).is_pending(), "progress is logged first");
        log.maintain().expect("commits");
        if settled {
            group.commit_through(Offset(0)).expect("commits");
        } else {
            group.seek(Offset(1)).expect("seeks");
        }
        for _ in 0..3 {
            assert!(poll_once(next.as_mut(), &woken).is_pending(), "settled: {settled}");
        }
    }
}

#[test]
fn a_task_that_slept_while_the_log_was_closed_gets_nothing() {
    let (_, log, _, group) = with_records(1, GroupOptions::new());
    let woken = Arc::new(Woken::default());
    let mut next = pin!(group.next());
    assert!(poll_once(next.as_mut(), &woken).is_pending(), "progress is logged first");
    log.close().expect("closes");
    let Poll::Ready(outcome) = poll_once(next.as_mut(), &woken) else { panic!("it ends") };
    assert_error!(outcome, Error::Closed);
}

#[test]
fn what_was_dead_lettered_and_deleted_while_a_task_slept_is_no_lag() {
    let machine = Machine::new(1);
    let log = machine.open(small().recent_bytes(0));
    let topic = log.topic("t").expect("a topic");
    let group = topic.group_with("g", GroupOptions::new().attempts_max(1)).expect("a group");
    fill(&topic, 0..1);
    let woken = Arc::new(Woken::default());
    let mut next = pin!(group.next());
    assert!(poll_once(next.as_mut(), &woken).is_pending(), "progress is logged first");
    log.maintain().expect("commits");
    machine.advance(31 * SECOND);
    assert!(poll(&group, 1).is_empty(), "its only attempt is over");
    log.topic("t.g.dead").expect("a topic").group("d").expect("a group");
    fill(&topic, 1..40);
    for message in poll(&group, 100) {
        message.ack().expect("acks");
    }
    for letter in poll(&log.topic("t.g.dead").expect("a topic").group("d").expect("a group"), 9) {
        letter.ack().expect("acks");
    }
    log.sync().expect("syncs");
    log.maintain().expect("deletes what is consumed");
    assert!(topic.offsets().start > Offset(0), "retention took it");
    for _ in 0..3 {
        assert!(poll_once(next.as_mut(), &woken).is_pending(), "the group has missed nothing");
    }
}

#[test]
fn a_poll_that_was_slow_makes_no_second_dead_letter() {
    let (machine, gate) = (Machine::new(1), Gate::default());
    let options = small().simulated(Arc::new(machine.clock.clone()), 1);
    let log = options.open_on(GatedStorage::on(&machine.disk, &gate)).expect("opens");
    let topic = log.topic("t").expect("a topic");
    let group = topic.group_with("g", GroupOptions::new().attempts_max(1)).expect("a group");
    fill(&topic, 0..1);
    drop(poll_one(&group));
    fill(&topic, 1..2);
    gate.close();
    thread::scope(|scope| {
        // One message is out of attempts, and the other must be logged before it is handed out.
        let slow = scope.spawn(|| group.poll(10, Duration::ZERO).map(|polled| polled.len()));
        gate.await_arrival();
        machine.advance(31 * SECOND);
        let other = scope.spawn(|| group.poll(10, Duration::ZERO).map(|polled| polled.len()));
        while log.topics().len() < 2 {
            thread::yield_now();
        }
        gate.open();
        assert!(matches!(other.join().expect("no panic"), Ok(0)));
        assert!(matches!(slow.join().expect("no panic"), Ok(0)));
    });
    let letters = log.topic("t.g.dead").expect("a topic");
    assert_eq!(read_all(&letters).len(), 2, "one for each message");
    assert!(matches!(group.ack(Offset(0)), Err(Error::AlreadyAcked { .. })));
}
