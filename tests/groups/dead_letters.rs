//! Messages that nobody can handle.

use std::time::Duration;

use ackline::simulation::Crash;
use ackline::{Delivery, Explanation, GroupOptions, Log, Offset, Record};

use super::with_records;
use crate::common::{drain, fill, poll, poll_one, small};

fn letter(log: &Log, topic: &str) -> Delivery {
    log.sync().expect("syncs");
    poll_one(&log.topic(topic).expect("a topic").group("look").expect("a group"))
}

#[test]
fn a_rejected_message_is_a_dead_letter_with_all_that_it_was() {
    let (_, log, topic, group) = with_records(2, GroupOptions::new());
    let record = Record::new("payload").key("key").tag("tag").header("mine", "kept");
    topic.append(record).expect("appends");
    for _ in 0..3 {
        assert_eq!(poll(&group, 2).len(), 2);
        for message in poll(&group, 1) {
            message.release().expect("gives back");
        }
    }
    let messages = poll(&group, 3);
    let message = messages.into_iter().find(|message| message.offset() == Offset(2));
    message.expect("it is among them").reject("it cannot be parsed").expect("rejects");
    assert_eq!(group.explain(Offset(2)).expect("explains"), Explanation::Settled);
    let letter = letter(&log, "t.g.dead");
    assert_eq!(letter.payload(), b"payload");
    assert_eq!((letter.key(), letter.tag()), (Some(&b"key"[..]), Some("tag")));
    let headers: Vec<_> = letter.headers().collect();
    let expected: [(&str, &[u8]); 6] = [
        ("mine", b"kept"),
        ("ackline.topic", b"t"),
        ("ackline.group", b"g"),
        ("ackline.offset", b"2"),
        ("ackline.attempts", b"1"),
        ("ackline.reason", b"it cannot be parsed"),
    ];
    assert_eq!(headers, expected);
}

#[test]
fn a_message_out_of_attempts_is_a_dead_letter_and_the_next_ones_go_on() {
    let options = GroupOptions::new().attempts_max(3).dead_letter("graveyard");
    let (_, log, _, group) = with_records(2, options);
    assert_eq!(group.dead_letter_topic(), "graveyard");
    for attempt in 1..=3 {
        assert_eq!(poll_one(&group).attempt(), attempt);
    }
    assert_eq!(drain(&group), [(1, 1)]);
    let letter = letter(&log, "graveyard");
    assert_eq!(letter.header("ackline.attempts"), Some(&b"3"[..]));
    assert_eq!(letter.header("ackline.reason"), Some(&b"out of attempts"[..]));
    assert_eq!(group.lag().expect("lag").messages, 0);
}

#[test]
fn a_poll_looks_past_messages_that_are_out_of_attempts() {
    let (.., group) = with_records(2, GroupOptions::new().attempts_max(1));
    drop(poll_one(&group));
    assert_eq!(poll(&group, 1).first().map(|message| message.offset()), Some(Offset(1)));
}

#[test]
fn a_reject_is_durable_when_it_returns_and_there_is_one_letter() {
    let (machine, log, topic, group) = with_records(1, GroupOptions::new());
    poll_one(&group).reject("no").expect("rejects");
    machine.disk.crash(Crash::Power);
    drop((log, topic, group));
    let log = machine.open(small());
    let group = log.topic("t").expect("a topic").group("g").expect("a group");
    assert_eq!(drain(&group), []);
    assert_eq!(log.topics(), ["t", "t.g.dead"]);
    assert_eq!(log.topic("t.g.dead").expect("a topic").offsets().end, Offset(1));
}

#[test]
fn a_crash_at_any_call_of_a_reject_leaves_the_message_or_its_letter_and_never_both() {
    let (mut letters, mut messages) = (0, 0);
    for call in 0.. {
        let (machine, log, topic, group) = with_records(1, GroupOptions::new());
        machine.disk.reseed(call);
        let message = poll_one(&group);
        let first = machine.disk.calls();
        machine.disk.die_at(first + call);
        let outcome = message.reject("no");
        let finished = outcome.is_ok();
        machine.disk.crash(Crash::Power);
        drop((log, topic, group));
        let log = machine.open(small());
        let left = log.topic("t").expect("a topic").group("g").expect("a group");
        let left = left.lag().expect("lag").messages;
        let letter = log.topic("t.g.dead").expect("a topic").offsets().end.0;
        assert_eq!(left + letter, 1, "call {call}: {left} messages, {letter} letters");
        assert!(outcome.is_err() || letter == 1, "call {call}: a reject that succeeded is durable");
        (letters, messages) = (letters + letter, messages + left);
        if finished {
            break;
        }
    }
    assert!(letters > 0 && messages > 0, "{letters} letters, {messages} messages");
}

#[test]
fn a_long_reason_is_cut_and_a_large_message_still_fits() {
    let (_, log, _, _) = with_records(0, GroupOptions::new());
    let large = log.topic("large").expect("a topic");
    let group = large.group("g").expect("a group");
    let headers = Record::new(vec![1; 4 * 1024 * 1024]).header("h", vec![2; 65_535]);
    large.append(headers).expect("appends");
    poll_one(&group).reject(&"ä".repeat(5000)).expect("rejects");
    let letter = letter(&log, "large.g.dead");
    assert_eq!(letter.payload().len(), 4 * 1024 * 1024);
    let reason = letter.header("ackline.reason").expect("a reason");
    assert_eq!(std::str::from_utf8(reason).expect("text"), "ä".repeat(1024));
}

#[test]
fn dead_letters_can_be_worked_off_like_any_topic() {
    let (_, log, _, group) = with_records(3, GroupOptions::new());
    for message in poll(&group, 3) {
        message.reject("try elsewhere").expect("rejects");
    }
    let dead = log.topic("t.g.dead").expect("a topic").group("again").expect("a group");
    assert_eq!(drain(&dead).len(), 3);
    let own = dead.dead_letter_topic();
    assert_eq!(own, "t.g.dead.again.dead");
}

#[test]
fn a_dead_letter_without_room_leaves_the_message_to_be_tried_again() {
    let (machine, log, topic, group) = with_records(1, GroupOptions::new().attempts_max(1));
    let group_letters = || log.topics().contains(&"t.g.dead".to_owned());
    let used: usize = machine
        .disk
        .names()
        .iter()
        .map(|name| machine.disk.file(name).expect("it was listed").len())
        .sum();
    machine.disk.set_capacity(Some(used as u64));
    let mut next = 1;
    while topic.append(crate::common::payload(next)).is_ok() {
        next += 1;
    }
    drop(poll_one(&group));
    let other = poll(&group, 1);
    assert!(other.iter().all(|message| message.offset() != Offset(0)), "it is out of attempts");
    assert!(!group_letters(), "there was no room for it");
    machine.disk.set_capacity(None);
    machine.advance(Duration::from_secs(2));
    drop(poll(&group, 1));
    log.sync().expect("syncs");
    assert!(group_letters());
    fill(&topic, next..next + 1);
}
