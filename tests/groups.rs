//! What consumer groups promise: each message to one consumer at a time, again until it is
//! acknowledged, and never again after that.
//!
//! Time is a simulated clock's, so that leases and delays end when a test says so.

#[macro_use]
mod common;

#[path = "groups/dead_letters.rs"]
mod dead_letters;
#[path = "groups/late.rs"]
mod late;
#[path = "groups/leases.rs"]
mod leases;
#[path = "groups/restarts.rs"]
mod restarts;
#[path = "groups/room.rs"]
mod room;
#[path = "groups/waking.rs"]
mod waking;

use std::time::{Duration, UNIX_EPOCH};

use ackline::simulation::Clock;
use ackline::{Error, Explanation, Group, GroupOptions, Log, Offset, Record, Start, Topic};

use common::{Machine, ack_all, drain, fill, offsets, poll, poll_offsets, poll_one, small};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// A topic with `records` messages and a group of it.
fn with_records(records: u64, options: GroupOptions) -> (Machine, Log, Topic, Group) {
    let machine = Machine::new(1);
    let log = machine.open(small());
    let topic = log.topic("t").expect("a topic");
    fill(&topic, 0..records);
    let group = topic.group_with("g", options).expect("a group");
    (machine, log, topic, group)
}

#[test]
fn messages_come_in_order_once_each_as_first_attempts() {
    let (.., group) = with_records(50, GroupOptions::new());
    let expected: Vec<_> = (0..50).map(|offset| (offset, 1)).collect();
    assert_eq!(drain(&group), expected);
    assert_eq!(poll_offsets(&group, 10), []);
}

#[test]
fn a_poll_gives_no_more_than_asked_for() {
    let (.., group) = with_records(10, GroupOptions::new());
    let first = poll(&group, 3);
    assert_eq!(offsets(&first), [0, 1, 2]);
    assert_eq!(offsets(&poll(&group, 0)), []);
    let rest = poll(&group, 100);
    assert_eq!(offsets(&rest), [3, 4, 5, 6, 7, 8, 9]);
}

#[test]
fn two_handles_of_a_group_share_its_messages() {
    let (_, _, topic, group) = with_records(6, GroupOptions::new());
    let other = topic.group("g").expect("the same group");
    let (one, two) = (poll(&group, 2), poll(&other, 2));
    assert_eq!((offsets(&one), offsets(&two)), (vec![0, 1], vec![2, 3]));
    other.ack(Offset(0)).expect("any handle may acknowledge by offset");
    assert_eq!(group.lag().expect("lag").messages, 5);
}

#[test]
fn two_groups_are_independent() {
    let (_, _, topic, group) = with_records(5, GroupOptions::new());
    let other = topic.group("other").expect("a group");
    assert_eq!(drain(&group).len(), 5);
    assert_eq!(drain(&other).len(), 5);
    group.seek(Start::Earliest).expect("seeks");
    assert_eq!((group.lag().expect("lag").messages, other.lag().expect("lag").messages), (5, 0));
}

#[test]
fn groups_of_the_same_name_in_two_topics_are_two_groups() {
    let (_, log, _, group) = with_records(5, GroupOptions::new());
    let namesake = log.topic("u").expect("a topic").group("g").expect("a group");
    assert_eq!(namesake.lag().expect("lag").messages, 0);
    assert_eq!(drain(&group).len(), 5);
}

#[test]
fn messages_of_other_topics_do_not_reach_a_group() {
    let (_, log, topic, group) = with_records(0, GroupOptions::new());
    let other = log.topic("u").expect("a topic");
    for i in 0..20 {
        topic.append(format!("t{i}")).expect("appends");
        other.append(format!("u{i}")).expect("appends");
    }
    for (i, message) in poll(&group, 100).into_iter().enumerate() {
        assert_eq!(message.payload(), format!("t{i}").as_bytes());
        assert_eq!(message.topic(), "t");
    }
}

#[test]
fn in_flight_messages_are_bounded_and_delivery_resumes() {
    let (.., group) = with_records(10, GroupOptions::new().in_flight_max(3));
    let mut held = poll(&group, 100);
    assert_eq!(offsets(&held), [0, 1, 2]);
    assert_eq!(poll_offsets(&group, 100), []);
    held.remove(1).ack().expect("acks");
    let next = poll(&group, 100);
    assert_eq!(offsets(&next), [3]);
}

#[test]
fn a_thousand_messages_are_in_flight_by_default() {
    let (_, _, topic, group) = with_records(0, GroupOptions::new());
    topic.append_batch((0..1500).map(|i| format!("{i}"))).expect("appends");
    assert_eq!(poll(&group, 2000).len(), 1000);
}

#[test]
fn unacknowledged_messages_are_bounded_and_delivery_resumes() {
    let (machine, .., group) = with_records(20, GroupOptions::new().unacked_max(5));
    for message in poll(&group, 100) {
        message.retry_after(HOUR).expect("gives back");
    }
    assert_eq!(group.lag().expect("lag").waiting, 5);
    assert_eq!(poll_offsets(&group, 100), [], "the bound is reached");
    group.ack(Offset(2)).expect("it was delivered");
    group.ack(Offset(4)).expect("it was delivered");
    let next = poll(&group, 100);
    assert_eq!(offsets(&next), [5, 6]);
    ack_all(next);
    machine.advance(HOUR);
    assert_eq!(offsets(&poll(&group, 3)), [0, 1, 3], "what waits comes first");
}

#[test]
fn a_tag_filter_selects_and_settles_the_rest() {
    let (_, _, topic, group) = with_records(0, GroupOptions::new().tag("a"));
    for i in 0..12 {
        let record = Record::new(format!("{i}"));
        let record = if i % 3 == 0 { record.tag("a") } else { record };
        topic.append(if i % 3 == 1 { record.tag("b") } else { record }).expect("appends");
    }
    assert_eq!(drain(&group), [(0, 1), (3, 1), (6, 1), (9, 1)]);
    assert_eq!(group.lag().expect("lag").messages, 0);
    assert_eq!(group.explain(Offset(1)).expect("explains"), Explanation::Settled);
}

#[test]
fn a_poll_looks_past_messages_that_the_filter_skips() {
    let (_, _, topic, group) = with_records(0, GroupOptions::new().tag("wanted"));
    topic.append_batch((0..100).map(|_| Record::new("").tag("other"))).expect("appends");
    topic.append(Record::new("").tag("wanted")).expect("appends");
    assert_eq!(poll_offsets(&group, 1), [100]);
}

/// In one frame there are messages of two topics, wanted ones and others, with keys and headers and
/// without.
#[test]
fn messages_that_lie_between_others_in_one_frame_are_found_with_their_parts() {
    let (_, log, topic, group) = with_records(0, GroupOptions::new().tag("wanted"));
    let other = log.topic("other").expect("a topic");
    let all = topic.group("all").expect("a group");
    let mut batch = log.batch();
    for i in 0..60_u64 {
        let record = Record::new(format!("payload {i}"));
        let record = if i % 2 == 0 { record.key(format!("key {i}")) } else { record };
        let record = if i % 5 == 0 { record.header("number", format!("{i}")) } else { record };
        let tag = if i % 3 == 0 { "wanted" } else { "other" };
        batch = batch.append(&topic, if i % 7 == 0 { record } else { record.tag(tag) });
        if i % 4 == 0 {
            batch = batch.append(&other, "in between");
        }
    }
    batch.commit().expect("commits");
    let wanted = (0..60).filter(|i| i % 3 == 0 && i % 7 != 0).collect::<Vec<u64>>();
    for (group, expected) in [(group, wanted), (all, (0..60).collect())] {
        let mut found = Vec::new();
        // A poll ends in the middle of the frame, and the next one goes on there.
        while let messages = poll(&group, 7)
            && !messages.is_empty()
        {
            for message in messages {
                let i = message.offset().0;
                assert_eq!(message.payload(), format!("payload {i}").as_bytes());
                let key = (i % 2 == 0).then(|| format!("key {i}").into_bytes());
                assert_eq!(message.key(), key.as_deref());
                let number = (i % 5 == 0).then(|| format!("{i}").into_bytes());
                assert_eq!(message.header("number"), number.as_deref());
                let tag = if i % 3 == 0 { "wanted" } else { "other" };
                assert_eq!(message.tag(), (i % 7 != 0).then_some(tag));
                found.push(i);
                message.ack().expect("acks");
            }
        }
        assert_eq!(found, expected);
        assert_eq!(group.lag().expect("lag").messages, 0);
    }
}

#[test]
fn commit_through_settles_what_was_delivered_and_what_was_not() {
    let (machine, log, topic, group) = with_records(10, GroupOptions::new());
    let held = poll(&group, 3);
    group.commit_through(Offset(5)).expect("commits");
    assert_eq!(group.lag().expect("lag").messages, 4);
    for message in held {
        assert_error!(message.ack(), Error::AlreadyAcked { .. });
    }
    machine.disk.crash(ackline::simulation::Crash::Power);
    drop((log, topic, group));
    let group = machine.open(small()).topic("t").expect("a topic").group("g").expect("a group");
    assert_eq!(poll_one(&group).offset(), Offset(6), "it was durable");
}

#[test]
fn seek_goes_back_and_forward_and_makes_leases_stale() {
    let (_, _, topic, group) = with_records(10, GroupOptions::new());
    let held = poll(&group, 2);
    for message in poll(&group, 100) {
        message.ack().expect("acks");
    }
    group.seek(Offset(4)).expect("seeks");
    for message in held {
        assert_error!(message.ack(), Error::StaleLease { .. });
    }
    assert_eq!(drain(&group), (4..10).map(|offset| (offset, 1)).collect::<Vec<_>>());
    group.seek(Start::Earliest).expect("seeks");
    assert_eq!(drain(&group).len(), 10);
    group.seek(Offset(2)).expect("seeks");
    group.seek(Start::Latest).expect("seeks");
    assert_eq!(poll_offsets(&group, 10), []);
    fill(&topic, 10..11);
    assert_eq!(poll_offsets(&group, 10), [10]);
}

#[test]
fn seek_finds_a_time() {
    let (machine, _, topic, group) = with_records(0, GroupOptions::new());
    for i in 0..30 {
        machine.advance(SECOND);
        fill(&topic, i..i + 1);
    }
    let now = UNIX_EPOCH + Duration::from_millis(machine.clock.wall_ms());
    group.seek(now - 10 * SECOND).expect("seeks");
    assert_eq!(poll_offsets(&group, 1), [19]);
    group.seek(now + SECOND).expect("seeks");
    assert_eq!(poll_offsets(&group, 1), []);
    group.seek(UNIX_EPOCH).expect("seeks");
    assert_eq!(poll_offsets(&group, 1), [0]);
}

#[test]
fn a_seek_is_durable_when_it_returns() {
    let (machine, log, topic, group) = with_records(10, GroupOptions::new());
    drain(&group);
    group.commit().expect("commits");
    group.seek(Offset(7)).expect("seeks");
    machine.disk.crash(ackline::simulation::Crash::Power);
    drop((log, topic, group));
    let group = machine.open(small()).topic("t").expect("a topic").group("g").expect("a group");
    assert_eq!(group.lag().expect("lag").messages, 3);
    assert_eq!(poll_one(&group).offset(), Offset(7));
}

#[test]
fn a_new_group_begins_where_it_is_told() {
    let (machine, _, topic, _) = with_records(10, GroupOptions::new());
    let now = UNIX_EPOCH + Duration::from_millis(machine.clock.wall_ms());
    machine.advance(SECOND);
    fill(&topic, 10..20);
    for (name, start, lag) in [
        ("earliest", Start::Earliest, 20),
        ("latest", Start::Latest, 0),
        ("offset", Start::Offset(Offset(3)), 17),
        ("time", Start::Time(now + SECOND), 10),
    ] {
        let group = topic.group_with(name, GroupOptions::new().start(start)).expect("a group");
        assert_eq!(group.lag().expect("lag").messages, lag, "{name}");
        assert_eq!(drain(&group).len() as u64, lag, "{name}");
    }
}

#[test]
fn an_existing_group_keeps_its_place_whatever_the_start() {
    let (_, _, topic, group) = with_records(10, GroupOptions::new());
    poll_one(&group).ack().expect("acks");
    let again = topic.group_with("g", GroupOptions::new().start(Start::Latest)).expect("a group");
    assert_eq!(again.lag().expect("lag").messages, 9);
}

#[test]
fn lag_and_explain_tell_what_became_of_each_message() {
    let (machine, _, topic, group) = with_records(5, GroupOptions::new());
    let mut held = poll(&group, 3);
    held.remove(0).ack().expect("acks");
    held.remove(0).retry_after(10 * SECOND).expect("gives back");
    machine.advance(4 * SECOND);
    let lag = group.lag().expect("lag");
    assert_eq!((lag.messages, lag.leased, lag.waiting), (4, 1, 1));
    let explain = |offset| group.explain(Offset(offset)).expect("explains");
    assert_eq!(explain(0), Explanation::Settled);
    assert_eq!(explain(1), Explanation::Waiting { attempts: 1, due_in: 6 * SECOND });
    assert_eq!(explain(2), Explanation::Leased { attempt: 1, ends_in: 26 * SECOND });
    assert_eq!(explain(3), Explanation::Undelivered);
    assert_eq!(explain(5), Explanation::NotYet);
    fill(&topic, 5..6);
    assert_eq!(explain(5), Explanation::Undelivered);
}

#[test]
fn a_delivery_tells_what_was_appended() {
    let (_, _, topic, group) = with_records(0, GroupOptions::new());
    let time = UNIX_EPOCH + Duration::from_millis(1_234_567);
    let record = Record::new("payload").key("k").tag("x").header("a", "1").header("a", "2");
    topic.append(record.timestamp(time)).expect("appends");
    let message = poll_one(&group);
    assert_eq!(
        (message.payload(), message.key(), message.tag()),
        (&b"payload"[..], Some(&b"k"[..]), Some("x"))
    );
    assert_eq!(message.headers().collect::<Vec<_>>(), [("a", &b"1"[..]), ("a", b"2")]);
    assert_eq!((message.header("a"), message.header("b")), (Some(&b"1"[..]), None));
    assert_eq!(message.timestamp(), time);
    let kept = message.message().clone();
    message.ack().expect("acks");
    assert_eq!(kept.payload(), b"payload");
}

#[test]
fn the_groups_of_a_topic_are_listed() {
    let (_, log, topic, _) = with_records(0, GroupOptions::new());
    topic.group("second").expect("a group");
    log.topic("u").expect("a topic").group("third").expect("a group");
    assert_eq!(log.groups(&topic), ["g", "second"]);
    assert_eq!(log.topics(), ["t", "u"]);
}
