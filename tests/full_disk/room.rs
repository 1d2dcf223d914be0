//! Room that runs out and comes back.

use std::time::Duration;

use ackline::simulation::Crash;
use ackline::{Error, Log, Options, Topic};

use crate::common::{Machine, assert_holds, drain, fill, payload, poll, small};

/// Appends until the log refuses; returns how many there are then.
fn append_until_full(topic: &Topic, from: u64) -> u64 {
    for i in from.. {
        match topic.append(payload(i)) {
            Ok(receipt) => assert_eq!(receipt.offset.0, i),
            Err(Error::Full { needed, .. }) => {
                assert!(needed > 0, "it says what it needs");
                return i;
            }
            Err(error) => panic!("expected Full, got {error:?}"),
        }
    }
    unreachable!("a log with a limit is full at some time")
}

fn used(machine: &Machine) -> u64 {
    let disk = &machine.disk;
    disk.names().iter().map(|name| disk.file(name).expect("it was listed").len() as u64).sum()
}

#[test]
fn appends_resume_by_themselves_when_the_disk_has_room_again() {
    let machine = Machine::new(1);
    let log = machine.open(small());
    let topic = log.topic("t").expect("a topic");
    machine.disk.set_capacity(Some(used(&machine) + 10_000));
    let first = append_until_full(&topic, 0);
    assert!(first > 10);
    for _ in 0..3 {
        assert_error!(topic.append(payload(first)), Error::Full { .. });
        assert_error!(topic.append_batch([payload(first), payload(0)]), Error::Full { .. });
        assert_error!(topic.submit(payload(first)).wait(), Error::Full { .. });
        assert_error!(log.batch().append(&topic, payload(first)).commit(), Error::Full { .. });
    }
    assert!(!log.stats().poisoned);
    assert!(log.stats().refused_full > 0);
    assert_holds(&topic, 0..first);
    machine.disk.set_capacity(Some(used(&machine) + 10_000));
    let second = append_until_full(&topic, first);
    assert!(second > first + 10);
    machine.disk.set_capacity(None);
    fill(&topic, second..second + 30);
    assert_holds(&topic, 0..second + 30);
}

#[test]
fn acknowledgements_go_on_while_appends_are_refused() {
    let machine = Machine::new(1);
    let log = machine.open(small());
    let topic = log.topic("t").expect("a topic");
    let group = topic.group("g").expect("a group");
    machine.disk.set_capacity(Some(used(&machine) + 4096 + 100));
    let records = append_until_full(&topic, 0);
    assert!(records > 8);
    let acked = records / 2;
    for delivery in poll(&group, usize::try_from(acked).expect("a few")) {
        delivery.ack().expect("acks");
    }
    group.commit().expect("commits while the disk is full");
    assert_error!(topic.append(payload(records)), Error::Full { .. });
    machine.disk.crash(Crash::Power);
    drop((log, topic, group));
    // What nobody knows to be on the disk is written again, and that needs room.
    assert_error!(machine.try_open(small()), Error::Full { .. });
    machine.disk.set_capacity(Some(used(&machine) + 4096));
    let log = machine.open(small());
    let topic = log.topic("t").expect("a topic");
    assert_holds(&topic, acked.min(topic.offsets().start.0)..records);
    let lag = topic.group("g").expect("a group").lag().expect("lag");
    assert_eq!(lag.messages, records - acked, "the acknowledgements survived");
}

#[test]
fn consumption_makes_room_again_on_a_full_disk() {
    let machine = Machine::new(1);
    let log = machine.open(small());
    let topic = log.topic("t").expect("a topic");
    let group = topic.group("g").expect("a group");
    machine.disk.set_capacity(Some(used(&machine) + 20_000));
    let mut next = 0;
    for round in 0..5 {
        let full = append_until_full(&topic, next);
        assert!(full > next + 8, "round {round}: only {} more", full - next);
        assert_eq!(drain(&group).len() as u64, full - next, "round {round}");
        next = full;
        group.commit().expect("commits on a full disk");
        log.maintain().expect("deletes what was consumed");
    }
}

#[test]
fn at_the_limit_appends_are_refused_until_consumption_makes_room() {
    let machine = Machine::new(1);
    let options = || small().max_bytes(5 * 4096);
    let log = machine.open(options());
    let topic = log.topic("t").expect("a topic");
    let group = topic.group("g").expect("a group");
    let full = append_until_full(&topic, 0);
    assert!(log.stats().segment_bytes <= 5 * 4096, "the limit is kept");
    assert!(full > 20);
    log.maintain().expect("has nothing to delete");
    assert_error!(topic.append(payload(full)), Error::Full { .. });
    assert_eq!(drain(&group).len() as u64, full, "all of it can still be worked off");
    group.commit().expect("commits at the limit");
    log.maintain().expect("deletes what was consumed");
    fill(&topic, full..full + 10);
    log.close().expect("closes");
    drop((topic, group));
    let topic = machine.open(options()).topic("t").expect("a topic");
    assert_eq!(topic.offsets().end.0, full + 10);
}

#[test]
fn a_log_on_a_full_disk_closes_and_opens_again() {
    let machine = Machine::new(1);
    let log = machine.open(small());
    let topic = log.topic("t").expect("a topic");
    machine.disk.set_capacity(Some(used(&machine) + 9000));
    let records = append_until_full(&topic, 0);
    log.close().expect("closing needs no room");
    drop(topic);
    let reopened = |log: &Log| assert_holds(&log.topic("t").expect("a topic"), 0..records);
    let log = machine.open(small());
    reopened(&log);
    machine.disk.kill();
    drop(log);
    let log = machine.open(small());
    reopened(&log);
}

#[test]
fn a_record_larger_than_the_room_is_refused_and_smaller_ones_go_on() {
    let machine = Machine::new(1);
    let log = machine.open(Options::new().segment_bytes(64 * 1024));
    let topic = log.topic("t").expect("a topic");
    machine.disk.set_capacity(Some(used(&machine) + 100_000));
    assert_error!(topic.append(vec![0; 1_000_000]), Error::Full { needed, .. } if needed > 1_000_000);
    topic.append("small").expect("there is room for it");
    machine.disk.set_capacity(None);
    topic.append(vec![0; 1_000_000]).expect("there is room now");
    let lengths: Vec<_> = topic
        .read_from(ackline::Offset(0))
        .expect("reads")
        .map(|message| message.expect("whole").payload().len())
        .collect();
    assert_eq!(lengths, [5, 1_000_000]);
    assert_eq!(topic.group("g").expect("a group").poll(9, Duration::ZERO).expect("polls").len(), 2);
}
