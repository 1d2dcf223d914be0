//! How leases end, and who gets the message then.

use std::time::Duration;

use ackline::{Error, Explanation, GroupOptions, Offset};

use super::{HOUR, SECOND, with_records};
use crate::common::{Machine, drain, fill, offsets, poll, poll_offsets, poll_one, small};

#[test]
fn nobody_else_gets_a_message_until_its_lease_ends() {
    let (machine, _, topic, group) = with_records(1, GroupOptions::new());
    let other = topic.group("g").expect("the same group");
    let held = poll_one(&group);
    machine.advance(29 * SECOND);
    assert_eq!(poll_offsets(&other, 10), []);
    machine.advance(SECOND);
    let again = poll_one(&other);
    assert_eq!((again.offset(), again.attempt()), (Offset(0), 2));
    assert_error!(held.ack(), Error::StaleLease { offset: Offset(0) });
    again.ack().expect("the new holder acknowledges");
}

#[test]
fn a_late_acknowledgement_counts_until_the_message_is_given_out_again() {
    let (machine, .., group) = with_records(1, GroupOptions::new());
    let held = poll_one(&group);
    machine.advance(HOUR);
    assert!(matches!(
        group.explain(Offset(0)).expect("explains"),
        Explanation::Waiting { attempts: 1, .. }
    ));
    held.ack().expect("nobody else has it");
    assert_eq!(drain(&group), []);
}

#[test]
fn a_lease_that_ended_can_be_neither_retried_nor_extended() {
    let (machine, .., group) = with_records(4, GroupOptions::new());
    let mut held = poll(&group, 4);
    machine.advance(HOUR);
    // The group notices when it is next looked at.
    assert_eq!(group.lag().expect("lag").leased, 0);
    let mut next = || held.remove(0);
    assert_error!(next().retry_after(SECOND), Error::StaleLease { .. });
    assert_error!(next().release(), Error::StaleLease { .. });
    assert_error!(next().extend(SECOND), Error::StaleLease { .. });
    assert_eq!(poll(&group, 10).len(), 4, "all of them come again");
}

#[test]
fn the_lease_is_as_long_as_the_option_says() {
    let (machine, .., group) = with_records(1, GroupOptions::new().lease(5 * SECOND));
    let _held = poll_one(&group);
    machine.advance(4 * SECOND);
    assert_eq!(poll_offsets(&group, 1), []);
    machine.advance(SECOND);
    assert_eq!(poll_offsets(&group, 1), [0]);
}

#[test]
fn an_extended_lease_ends_later() {
    let (machine, .., group) = with_records(1, GroupOptions::new());
    let held = poll_one(&group);
    for _ in 0..5 {
        machine.advance(25 * SECOND);
        held.extend(30 * SECOND).expect("extends");
        assert_eq!(poll_offsets(&group, 1), []);
    }
    machine.advance(30 * SECOND);
    let again = poll_one(&group);
    assert_eq!(again.attempt(), 2);
    assert_error!(held.extend(SECOND), Error::StaleLease { .. });
}

#[test]
fn a_dropped_delivery_comes_again_at_once_and_is_counted() {
    let (.., group) = with_records(2, GroupOptions::new());
    drop(poll_one(&group));
    let again = poll_one(&group);
    assert_eq!((again.offset(), again.attempt()), (Offset(0), 2));
    drop(again);
    assert_eq!(drain(&group), [(0, 3), (1, 1)]);
}

#[test]
fn a_released_delivery_comes_again_at_once_and_is_not_counted() {
    let (.., group) = with_records(1, GroupOptions::new().attempts_max(2));
    for _ in 0..10 {
        let message = poll_one(&group);
        assert_eq!(message.attempt(), 1);
        message.release().expect("gives back");
    }
    assert_eq!(drain(&group), [(0, 1)]);
}

#[test]
fn a_retried_delivery_comes_when_it_is_due_and_before_new_ones() {
    let (machine, .., group) = with_records(3, GroupOptions::new());
    poll_one(&group).retry_after(7 * SECOND).expect("gives back");
    machine.advance(6 * SECOND);
    let second = poll_one(&group);
    assert_eq!(second.offset(), Offset(1));
    machine.advance(SECOND);
    let (due, fresh) = (poll_one(&group), poll_one(&group));
    assert_eq!((due.offset(), due.attempt(), fresh.offset()), (Offset(0), 2, Offset(2)));
}

#[test]
fn the_backoff_grows_with_the_attempts_and_its_last_delay_repeats() {
    let backoff = GroupOptions::new().backoff([SECOND, 5 * SECOND]);
    let (machine, .., group) = with_records(1, backoff);
    for (attempt, delay) in [(1, 1), (2, 5), (3, 5), (4, 5)] {
        let message = poll_one(&group);
        assert_eq!(message.attempt(), attempt);
        message.retry().expect("gives back");
        machine.advance(Duration::from_millis(delay * 1000 - 1));
        assert_eq!(poll_offsets(&group, 1), [], "attempt {attempt}");
        machine.advance(Duration::from_millis(1));
    }
    assert_eq!(drain(&group), [(0, 5)]);
}

#[test]
fn the_default_backoff_is_ten_seconds_thirty_and_a_minute() {
    let (machine, .., group) = with_records(1, GroupOptions::new());
    for delay in [10, 30, 60] {
        poll_one(&group).retry().expect("gives back");
        machine.advance(Duration::from_secs(delay - 1));
        assert_eq!(poll_offsets(&group, 1), []);
        machine.advance(SECOND);
    }
    assert_eq!(poll_one(&group).attempt(), 4);
}

#[test]
fn outcomes_may_come_in_any_order_from_any_thread() {
    let (.., group) = with_records(60, GroupOptions::new());
    let mut held = poll(&group, 60);
    held.reverse();
    std::thread::scope(|scope| {
        while !held.is_empty() {
            let part = held.split_off(held.len().saturating_sub(20));
            scope.spawn(move || {
                for (i, message) in part.into_iter().enumerate() {
                    if i % 4 == 3 { drop(message) } else { message.ack().expect("acks") }
                }
            });
        }
    });
    assert_eq!(group.lag().expect("lag").messages, 15);
    let again = drain(&group);
    assert_eq!(again.len(), 15);
    assert!(again.iter().all(|message| message.1 == 2));
}

#[test]
fn an_acknowledgement_by_offset_ends_the_lease() {
    let (.., group) = with_records(2, GroupOptions::new());
    let held = poll_one(&group);
    group.ack(Offset(0)).expect("acks");
    assert_error!(held.extend(SECOND), Error::AlreadyAcked { .. });
    drop(held);
    assert_eq!(drain(&group), [(1, 1)]);
}

#[test]
fn options_given_again_hold_for_what_comes() {
    let (machine, _, topic, group) = with_records(2, GroupOptions::new());
    let _first = poll_one(&group);
    topic.group_with("g", GroupOptions::new().lease(SECOND)).expect("the same group");
    let _second = poll_one(&group);
    machine.advance(SECOND);
    assert_eq!(poll_offsets(&group, 10), [1], "the first keeps the lease that it was given");
}

#[test]
fn acknowledged_gaps_are_remembered() {
    let (_, _, topic, group) = with_records(0, GroupOptions::new().in_flight_max(5000));
    topic.append_batch((0..4000).map(|i| format!("{i}"))).expect("appends");
    let (mut kept, mut acked) = (Vec::new(), 0);
    for message in poll(&group, 5000) {
        if message.offset().0.is_multiple_of(2) {
            message.ack().expect("acks");
            acked += 1;
        } else {
            kept.push(message);
        }
    }
    assert_eq!(group.lag().expect("lag").messages, 4000 - acked);
    drop(kept);
    fill(&topic, 4000..4001);
    let again = poll(&group, 5000);
    assert_eq!(again.len(), 2001);
    assert!(offsets(&again[..2000]).iter().all(|offset| offset % 2 == 1));
}

#[test]
fn a_poll_in_which_the_storage_panics_does_not_wait_for_itself() {
    let mut panics = 0;
    for calls in 0..20 {
        let machine = Machine::new(1);
        let log = machine.open(small().recent_bytes(0));
        let topic = log.topic("t").expect("a topic");
        fill(&topic, 0..30);
        let group = topic.group("g").expect("a group");
        machine.disk.allow_calls(calls);
        // With messages of one segment in its hands, it meets the panic at those of the next.
        let poll = std::panic::AssertUnwindSafe(|| group.poll(100, Duration::ZERO));
        panics += u32::from(std::panic::catch_unwind(poll).is_err());
    }
    assert!(panics > 0, "the storage was asked for more than it allowed");
}
