//! Consumers that the bounds of a group hold back are woken when there is room again.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ackline::{Delivery, Group, GroupOptions, Log, Offset};

use super::waking::{Woken, poll_once};
use super::{SECOND, with_records};
use crate::common::poll_one;

/// How a consumer is done with its message.
type Outcome = fn(&Log, &Group, Delivery);

const OUTCOMES: [(&str, Outcome); 5] = [
    ("ack", |_, _, held| held.ack().expect("acks")),
    ("ack by offset", |_, group, held| group.ack(held.offset()).expect("acks")),
    ("commit_through", |_, group, held| group.commit_through(held.offset()).expect("commits")),
    ("batch", |log, _, held| drop(log.batch().ack(held).commit().expect("commits"))),
    ("reject", |_, _, held| held.reject("bad").expect("rejects")),
];

/// One consumer holds what may be held, another one waits; the first is done with it.
fn check(log: &Log, group: &Group, name: &str, outcome: Outcome) {
    let held = poll_one(group);
    let woken = Arc::new(Woken::default());
    let mut next = pin!(group.next());
    assert!(poll_once(next.as_mut(), &woken).is_pending(), "nothing may be given out");
    let before = woken.0.load(Ordering::SeqCst);
    outcome(log, group, held);
    assert!(woken.0.load(Ordering::SeqCst) > before, "{name}: nothing will ever wake it");
}

#[test]
fn next_is_woken_when_one_of_the_messages_in_flight_is_settled() {
    for (name, outcome) in OUTCOMES {
        let options = GroupOptions::new().in_flight_max(1);
        let (_, log, _, group) = with_records(3, options);
        check(&log, &group, name, outcome);
    }
}

#[test]
fn next_is_woken_when_one_of_the_unacknowledged_messages_is_settled() {
    for (name, outcome) in OUTCOMES {
        let options = GroupOptions::new().unacked_max(1);
        let (_, log, _, group) = with_records(3, options);
        check(&log, &group, name, outcome);
    }
}

#[test]
fn next_is_woken_when_a_suspect_is_settled() {
    for (name, outcome) in OUTCOMES {
        let (machine, log, _, group) = with_records(3, GroupOptions::new());
        drop(group.poll(3, SECOND).expect("polls"));
        machine.disk.kill();
        drop((log, group));
        let log = machine.open(super::small());
        let group = log.topic("t").expect("a topic").group("g").expect("a group");
        check(&log, &group, name, outcome);
    }
}

#[test]
fn next_is_woken_when_a_group_may_hold_more() {
    let (_, _, topic, group) = with_records(3, GroupOptions::new().in_flight_max(1));
    let _held = poll_one(&group);
    let woken = Arc::new(Woken::default());
    let mut next = pin!(group.next());
    assert!(poll_once(next.as_mut(), &woken).is_pending(), "nothing may be given out");
    let before = woken.0.load(Ordering::SeqCst);
    topic.group_with("g", GroupOptions::new()).expect("the same group");
    assert!(woken.0.load(Ordering::SeqCst) > before, "nothing will ever wake it");
}

#[test]
fn a_consumer_that_is_not_held_back_is_not_woken_by_an_ack() {
    let (_, _, _, group) = with_records(1, GroupOptions::new());
    let held = poll_one(&group);
    assert_eq!(held.offset(), Offset(0));
    let woken = Arc::new(Woken::default());
    let mut next = pin!(group.next());
    assert!(poll_once(next.as_mut(), &woken).is_pending());
    let before = woken.0.load(Ordering::SeqCst);
    held.ack().expect("acks");
    assert_eq!(woken.0.load(Ordering::SeqCst), before);
}

#[test]
fn next_is_woken_when_another_poll_ends_the_lease_of_a_suspect() {
    let (machine, log, _, group) = with_records(1, GroupOptions::new());
    drop(group.poll(1, SECOND).expect("polls"));
    machine.disk.kill();
    drop((log, group));
    let log = machine.open(super::small());
    let topic = log.topic("t").expect("a topic");
    let group = topic.group("g").expect("a group");
    let _suspect = poll_one(&group);
    topic.append("nobody's yet").expect("appends");
    let woken = Arc::new(Woken::default());
    let mut next = pin!(group.next());
    assert!(poll_once(next.as_mut(), &woken).is_pending(), "the suspect is delivered alone");
    let before = woken.0.load(Ordering::SeqCst);
    machine.advance(super::HOUR);
    let again = poll_one(&group);
    assert_eq!(again.offset(), Offset(0));
    // It is nobody's suspect any more, so what lies behind it is for whoever waits.
    assert!(woken.0.load(Ordering::SeqCst) > before, "nothing will ever wake it");
}
