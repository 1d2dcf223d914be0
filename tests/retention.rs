//! What is deleted, when, and how those learn of it who still wanted it.

#[macro_use]
mod common;

use std::time::Duration;

use ackline::simulation::Crash;
use ackline::{Error, Explanation, GroupOptions, Log, Offset, Options, Retention, Topic};

use common::{
    Machine, ack_all, assert_holds, drain, fill, is_segment, payload, poll, poll_one, small, start,
};

const HOUR: Duration = Duration::from_secs(3600);

fn segments(machine: &Machine) -> usize {
    machine.disk.names().into_iter().filter(|name| is_segment(name)).count()
}

fn with_records(options: Options, records: u64) -> (Machine, Log, Topic) {
    let machine = Machine::new(1);
    let log = machine.open(options);
    let topic = log.topic("t").expect("a topic");
    fill(&topic, 0..records);
    (machine, log, topic)
}

#[test]
fn what_every_group_has_consumed_is_deleted_from_the_disk() {
    let (machine, log, topic) = with_records(small(), 60);
    let (one, two) = (topic.group("one").expect("a group"), topic.group("two").expect("a group"));
    let before = segments(&machine);
    drain(&one);
    one.commit().expect("commits");
    log.maintain().expect("keeps files");
    assert_eq!((segments(&machine), start(&topic)), (before, Offset(0)), "two needs them");
    drain(&two);
    two.commit().expect("commits");
    log.maintain().expect("keeps files");
    assert_eq!(segments(&machine), 1, "only the one that is written to is left");
    assert!(start(&topic) > Offset(40));
    assert_eq!(log.stats().segments, 1);
    let of_files = |suffix| {
        machine.disk.names().iter().filter(|name| common::has_suffix(name, suffix)).count()
    };
    assert_eq!(of_files("idx"), 0, "sidecars go with their segments");
    assert_holds(&topic, start(&topic).0..60);
}

#[test]
fn only_whole_segments_below_the_slowest_group_go() {
    let (machine, log, topic) = with_records(small(), 60);
    let group = topic.group("g").expect("a group");
    group.commit_through(Offset(29)).expect("commits");
    log.maintain().expect("keeps files");
    let first = start(&topic);
    assert!(first > Offset(15) && first <= Offset(30), "{first}");
    assert!(segments(&machine) > 2);
    assert_holds(&topic, first.0..60);
    assert_eq!(poll_one(&group).offset(), Offset(30));
}

#[test]
fn one_unacknowledged_message_keeps_its_segment() {
    let (_machine, log, topic) = with_records(small(), 60);
    let group = topic.group("g").expect("a group");
    let mut messages = poll(&group, 60);
    let kept = messages.remove(12);
    ack_all(messages);
    group.commit().expect("commits");
    log.maintain().expect("keeps files");
    assert!(start(&topic) <= Offset(12));
    kept.ack().expect("acks");
    group.commit().expect("commits");
    log.maintain().expect("keeps files");
    assert!(start(&topic) > Offset(12));
}

#[test]
fn topics_without_groups_are_kept_and_keep_their_segments() {
    let (machine, log, topic) = with_records(small(), 30);
    let unread = log.topic("unread").expect("a topic");
    fill(&unread, 0..2);
    fill(&topic, 30..60);
    let group = topic.group("g").expect("a group");
    drain(&group);
    group.commit().expect("commits");
    log.maintain().expect("keeps files");
    assert_eq!(start(&unread), Offset(0));
    assert_holds(&unread, 0..2);
    assert!(start(&topic) > Offset(0), "what lies before the unread topic's messages went");
    assert!(segments(&machine) > 3);
}

#[test]
fn consumed_messages_can_be_kept() {
    let (_machine, log, topic) = with_records(small().retention(Retention::keep_consumed()), 60);
    let group = topic.group("g").expect("a group");
    drain(&group);
    group.commit().expect("commits");
    log.maintain().expect("keeps files");
    assert_holds(&topic, 0..60);
}

#[test]
fn age_deletes_what_nobody_has_consumed_and_groups_are_told_once() {
    let machine = Machine::new(1);
    let options = || small().retention(Retention::keep_consumed().max_age(HOUR));
    let log = machine.open(options());
    let topic = log.topic("t").expect("a topic");
    let group = topic.group("g").expect("a group");
    fill(&topic, 0..30);
    machine.advance(Duration::from_secs(3599));
    fill(&topic, 30..60);
    log.maintain().expect("keeps files");
    assert_eq!(start(&topic), Offset(0), "nothing is old enough");
    machine.advance(Duration::from_secs(10));
    log.maintain().expect("keeps files");
    let first = start(&topic);
    assert!(first > Offset(10) && first <= Offset(30), "{first}");
    assert_eq!(group.explain(Offset(0)).expect("explains"), Explanation::Gone);
    assert_error!(
        group.poll(10, Duration::ZERO),
        Error::Lagged { from: Offset(0), to } if to == first
    );
    assert_eq!(drain(&group).len() as u64, 60 - first.0);
    assert_holds(&topic, first.0..60);
}

#[test]
fn size_deletes_the_oldest_segments() {
    let retention = Retention::keep_consumed().max_bytes(4 * 4096);
    let (machine, log, topic) = with_records(small().retention(retention), 100);
    log.maintain().expect("keeps files");
    assert!(segments(&machine) <= 4);
    assert!(log.stats().segment_bytes <= 4 * 4096);
    assert_holds(&topic, start(&topic).0..100);
}

#[test]
fn a_group_that_may_lag_loses_the_oldest_rather_than_appends_be_refused() {
    let machine = Machine::new(1);
    let options = || small().max_bytes(5 * 4096);
    let log = machine.open(options());
    let topic = log.topic("t").expect("a topic");
    let group = topic.group_with("g", GroupOptions::new().may_lag(true)).expect("a group");
    let append_all = |log: &Log, topic: &Topic, range: std::ops::Range<u64>| {
        for i in range {
            while let Err(error) = topic.append(payload(i)) {
                assert!(matches!(error, Error::Full { .. }), "{error:?}");
                log.maintain().expect("deletes the oldest");
            }
        }
    };
    append_all(&log, &topic, 0..100);
    let first = start(&topic);
    assert!(first > Offset(50));
    assert_error!(
        group.poll(1, Duration::ZERO),
        Error::Lagged { from: Offset(0), to } if to == first
    );
    assert_eq!(poll_one(&group).offset(), first, "told once, then it goes on");
    log.close().expect("closes");
    drop((topic, group));
    // The option is stored: it holds for a group that is not even opened.
    let log = machine.open(options());
    let topic = log.topic("t").expect("a topic");
    append_all(&log, &topic, 100..150);
    assert!(start(&topic) > first);
}

#[test]
fn a_group_that_may_not_lag_is_not_robbed_by_one_that_may() {
    let machine = Machine::new(1);
    let log = machine.open(small().max_bytes(5 * 4096));
    let topic = log.topic("t").expect("a topic");
    topic.group_with("lax", GroupOptions::new().may_lag(true)).expect("a group");
    let strict = topic.group("strict").expect("a group");
    let mut next = 0;
    while topic.append(payload(next)).is_ok() {
        next += 1;
    }
    log.maintain().expect("has nothing to delete");
    assert_error!(topic.append(payload(next)), Error::Full { .. });
    assert_eq!(start(&topic), Offset(0));
    assert_eq!(drain(&strict).len() as u64, next);
    strict.commit().expect("commits");
    log.maintain().expect("deletes the oldest");
    topic.append(payload(next)).expect("there is room again");
}

#[test]
fn what_was_deleted_stays_deleted_and_offsets_go_on() {
    for crash in [false, true] {
        let (machine, log, topic) = with_records(small(), 60);
        let group = topic.group("g").expect("a group");
        drain(&group);
        group.commit().expect("commits");
        log.maintain().expect("keeps files");
        let first = start(&topic);
        if crash {
            machine.disk.crash(Crash::Power);
        } else {
            log.close().expect("closes");
        }
        drop((topic, group));
        let log = machine.open(small());
        let topic = log.topic("t").expect("a topic");
        assert_eq!(start(&topic), first);
        assert_eq!(topic.append("next").expect("appends").offset, Offset(60));
        let group = topic.group("g").expect("a group");
        assert_eq!(poll_one(&group).offset(), Offset(60));
    }
}

#[test]
fn a_reader_of_what_is_deleted_is_told_and_goes_on() {
    let (_machine, log, topic) = with_records(small().recent_bytes(0), 60);
    let mut reader = topic.read_from(Offset(0)).expect("reads");
    let group = topic.group("g").expect("a group");
    group.commit_through(Offset(49)).expect("commits");
    log.maintain().expect("keeps files");
    let first = start(&topic);
    assert_error!(
        reader.next().expect("something"),
        Error::Lagged { from: Offset(0), to } if to == first
    );
    let rest: Vec<_> = reader.map(|message| message.expect("whole").offset().0).collect();
    assert_eq!(rest, (first.0..60).collect::<Vec<_>>());
    assert_error!(
        topic.read_from(Offset(3)),
        Error::OffsetOutOfRange { offset: Offset(3), start, end: Offset(60) } if start == first
    );
}

#[test]
fn messages_that_are_held_stay_readable_when_their_segment_goes() {
    let (_machine, log, topic) = with_records(small().recent_bytes(0), 60);
    let group = topic.group("g").expect("a group");
    let kept: Vec<_> = poll(&group, 60).iter().map(|message| message.message().clone()).collect();
    group.commit_through(Offset(59)).expect("commits");
    log.maintain().expect("keeps files");
    assert!(start(&topic) > Offset(0));
    for (i, message) in kept.iter().enumerate() {
        assert_eq!(message.payload(), payload(i as u64));
    }
}

#[test]
fn a_crash_at_any_call_of_a_deletion_leaves_a_log_that_opens() {
    for call in 0..60 {
        let (machine, log, topic) = with_records(small(), 60);
        machine.disk.reseed(call);
        let group = topic.group("g").expect("a group");
        drain(&group);
        group.commit().expect("commits");
        machine.disk.die_at(machine.disk.calls() + call);
        drop(log.maintain());
        machine.disk.crash(Crash::Power);
        drop((log, topic, group));
        let log = machine.open(small());
        let topic = log.topic("t").expect("a topic");
        assert_holds(&topic, start(&topic).0..60);
        assert_eq!(topic.group("g").expect("a group").lag().expect("lag").messages, 0);
    }
}
