//! Tests of the leases, case by case.

use super::*;
use crate::format::entry::{Attempt, Progress};

pub(super) fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

pub(super) fn at(secs: u64) -> Now {
    Now { monotonic: Duration::from_secs(secs), wall_ms: 1_000_000 + secs * 1000 }
}

pub(super) fn limits() -> Limits {
    Limits {
        lease: Duration::from_secs(30),
        in_flight_max: 100,
        unsettled_max: 1000,
        attempts_max: 3,
        backoff: [10, 60].map(Duration::from_secs).into(),
    }
}

pub(super) fn fresh_with(limits: Limits) -> Leases {
    Leases::recover(&GroupProgress::starting_at(0), 0, false, limits, at(0))
}

pub(super) fn fresh() -> Leases {
    fresh_with(limits())
}

/// A group that has delivered `0..delivered` before a crash, and acked nothing.
pub(super) fn crashed(delivered: u64, attempts: &[(u64, u32, u64)]) -> Leases {
    let mut progress = GroupProgress::starting_at(0);
    progress.apply(&Progress { delivered, attempts: list(attempts), ..Progress::default() });
    Leases::recover(&progress, 100, true, limits(), at(0))
}

pub(super) fn list(attempts: &[(u64, u32, u64)]) -> Vec<Attempt> {
    attempts.iter().map(|&(offset, count, due_ms)| Attempt { offset, count, due_ms }).collect()
}

/// Plans and logs; returns what was given out as (offset, attempt).
pub(super) fn take(leases: &mut Leases, now: Now, max: usize, end: u64) -> Vec<(u64, u32)> {
    let plan = leases.plan(now.monotonic, max, end);
    leases.plan_logged(&plan);
    plan.granted().map(|granted| (granted.offset, granted.attempt)).collect()
}

/// Leases the only message that is there to lease.
pub(super) fn take_one(leases: &mut Leases, now: Now, end: u64) -> u64 {
    let plan = leases.plan(now.monotonic, 1, end);
    leases.plan_logged(&plan);
    plan.granted().next().expect("a message is due").token
}

#[test]
fn fresh_messages_are_given_out_once_and_in_order() {
    let mut leases = fresh();
    assert_eq!(take(&mut leases, at(0), 2, 3), [(0, 1), (1, 1)]);
    assert_eq!(take(&mut leases, at(0), 9, 3), [(2, 1)]);
    assert_eq!(take(&mut leases, at(0), 9, 3), []);
    assert_eq!((leases.leased_len(), leases.waiting_len(), leases.next()), (3, 0, 3));
}

#[test]
fn acks_in_order_move_the_floor() {
    let mut leases = fresh();
    let plan = leases.plan(secs(0), 3, 3);
    for granted in plan.granted() {
        assert_eq!(leases.ack(granted.offset, granted.token), Ok(()));
    }
    assert_eq!((leases.floor(), leases.unsettled_len(), leases.settled_above_floor()), (3, 0, 0));
    let acked = std::iter::once(0..3).collect();
    let expected = Progress { acked, ..Progress::default() };
    assert_eq!(leases.take_delta(), Some(expected));
    assert!(!leases.is_dirty());
}

#[test]
fn acks_out_of_order_wait_above_the_floor() {
    let mut leases = fresh();
    let tokens: Vec<_> =
        leases.plan(secs(0), 3, 3).granted().map(|granted| granted.token).collect();
    leases.ack(2, tokens[2]).unwrap();
    leases.ack(1, tokens[1]).unwrap();
    assert_eq!((leases.floor(), leases.settled_above_floor()), (0, 2));
    leases.ack(0, tokens[0]).unwrap();
    assert_eq!((leases.floor(), leases.settled_above_floor()), (3, 0));
}

#[test]
fn in_flight_max_bounds_the_leases() {
    let mut leases = fresh_with(Limits { in_flight_max: 2, ..limits() });
    assert_eq!(take(&mut leases, at(0), 9, 9).len(), 2);
    assert!(!leases.has_work(at(1), 9));
    assert_eq!(take(&mut leases, at(1), 9, 9), []);
}

#[test]
fn unsettled_max_holds_new_messages_back_but_not_redeliveries() {
    let mut leases = fresh_with(Limits { unsettled_max: 2, ..limits() });
    assert_eq!(take(&mut leases, at(0), 9, 9), [(0, 1), (1, 1)]);
    assert_eq!(take(&mut leases, at(30), 9, 9), [(0, 2), (1, 2)]);
    leases.ack_offset(1).unwrap();
    assert_eq!(take(&mut leases, at(31), 9, 9), [(2, 1)]);
}

#[test]
fn recovery_above_the_bound_redelivers_until_it_is_below() {
    let mut progress = GroupProgress::starting_at(0);
    progress.apply(&Progress { delivered: 4, ..Progress::default() });
    let limits = Limits { unsettled_max: 2, ..limits() };
    let mut leases = Leases::recover(&progress, 9, false, limits, at(0));
    assert_eq!(take(&mut leases, at(0), 9, 9), [(0, 2), (1, 2), (2, 2), (3, 2)]);
    leases.ack_through(2);
    assert_eq!(take(&mut leases, at(0), 9, 9), [(4, 1)]);
}

#[test]
fn due_redeliveries_come_first_by_due_time_then_offset() {
    let mut leases = fresh();
    let plan = leases.plan(secs(0), 3, 3);
    let tokens: Vec<_> = plan.granted().map(|granted| granted.token).collect();
    leases.retry(0, tokens[0], Some(Duration::from_secs(9)), at(0)).unwrap();
    leases.drop_lease(2, tokens[2], at(1)).unwrap();
    leases.drop_lease(1, tokens[1], at(1)).unwrap();
    assert_eq!(take(&mut leases, at(9), 9, 4), [(1, 2), (2, 2), (0, 2), (3, 1)]);
}

#[test]
fn an_expired_lease_counts_and_is_due_at_once() {
    let mut leases = fresh();
    take(&mut leases, at(0), 1, 1);
    assert_eq!(take(&mut leases, at(29), 9, 1), []);
    assert_eq!(leases.next_event(), Some(Duration::from_secs(30)));
    assert!(leases.has_work(at(30), 1));
    assert_eq!(take(&mut leases, at(30), 9, 1), [(0, 2)]);
}

#[test]
fn an_extended_lease_lasts_longer() {
    let mut leases = fresh();
    let token = take_one(&mut leases, at(0), 1);
    leases.extend(0, token, at(20), Duration::from_secs(30)).unwrap();
    assert_eq!(take(&mut leases, at(49), 9, 1), []);
    assert_eq!(take(&mut leases, at(50), 9, 1), [(0, 2)]);
    assert_eq!(leases.extend(0, token, at(51), Duration::from_secs(1)), Err(Refused::Stale));
}

#[test]
fn a_lease_extended_to_end_sooner_ends_sooner() {
    let mut leases = fresh();
    let token = take_one(&mut leases, at(0), 1);
    leases.extend(0, token, at(0), Duration::from_secs(5)).unwrap();
    assert_eq!(take(&mut leases, at(5), 9, 1), [(0, 2)]);
}

#[test]
fn a_late_ack_counts_until_the_message_is_leased_again() {
    let mut leases = fresh();
    let first = take_one(&mut leases, at(0), 1);
    leases.expire(secs(30));
    let mut again = leases.clone();
    assert_eq!(leases.ack(0, first), Ok(()));
    let second = take_one(&mut again, at(30), 1);
    assert_eq!(again.ack(0, first), Err(Refused::Stale));
    assert_eq!(again.ack(0, second), Ok(()));
    assert_eq!(again.ack(0, second), Err(Refused::AlreadySettled));
}

#[test]
fn outcomes_other_than_an_ack_are_refused_once_the_lease_is_over() {
    let mut leases = fresh();
    let token = take_one(&mut leases, at(0), 1);
    leases.expire(secs(30));
    assert_eq!(leases.retry(0, token, None, at(30)), Err(Refused::Stale));
    assert_eq!(leases.release(0, token, at(30)), Err(Refused::Stale));
    assert_eq!(leases.drop_lease(0, token, at(30)), Err(Refused::Stale));
    leases.ack(0, token).unwrap();
    assert_eq!(leases.retry(0, token, None, at(30)), Err(Refused::AlreadySettled));
}

#[test]
fn what_was_never_leased_cannot_be_acked() {
    let mut leases = fresh();
    let token = take_one(&mut leases, at(0), 3);
    assert_eq!(leases.ack(1, token), Err(Refused::NotLeased));
    assert_eq!(leases.ack(0, token + 1), Err(Refused::NotLeased));
    assert_eq!(leases.ack_offset(1), Err(Refused::NotLeased));
    assert_eq!(leases.ack_offset(0), Ok(()));
    assert_eq!(leases.ack_offset(0), Err(Refused::AlreadySettled));
}

#[test]
fn an_offset_delivered_before_a_restart_can_be_acked_by_its_number() {
    assert_eq!(crashed(2, &[]).ack_offset(1), Ok(()));
    assert_eq!(crashed(2, &[(1, 0, 0)]).ack_offset(1), Err(Refused::NotLeased));
}

#[test]
fn a_retry_waits_for_the_backoff_of_its_count() {
    let mut leases = fresh();
    let token = take_one(&mut leases, at(0), 1);
    leases.retry(0, token, None, at(0)).unwrap();
    assert_eq!(leases.next_event(), Some(Duration::from_secs(10)));
    let token = take_one(&mut leases, at(10), 1);
    leases.retry(0, token, None, at(10)).unwrap();
    assert_eq!(
        leases.status(0),
        OffsetStatus::Waiting { attempt: 2, due: Duration::from_secs(70) }
    );
    let token = take_one(&mut leases, at(70), 1);
    leases.retry(0, token, None, at(70)).unwrap();
    assert_eq!(leases.next_event(), Some(Duration::from_secs(130)));
}

#[test]
fn a_message_out_of_attempts_is_exhausted_instead_of_delivered() {
    let mut leases = fresh();
    for time in [0, 30, 60] {
        assert_eq!(take(&mut leases, at(time), 1, 1).len(), 1);
    }
    let plan = leases.plan(secs(90), 1, 1);
    assert_eq!(plan.granted().count(), 0);
    assert_eq!(plan.log(), None);
    let Exhausted { offset, token, count } = plan.exhausted[0];
    assert_eq!((offset, count), (0, 3));
    assert!(leases.plan(secs(91), 1, 1).is_empty());
    leases.unbury(0, token, at(91), Duration::from_secs(5)).unwrap();
    assert!(leases.plan(secs(95), 1, 1).is_empty());
    let token = leases.plan(secs(96), 1, 1).exhausted[0].token;
    assert_eq!(leases.settle_exhausted(0, token), Ok(()));
    assert_eq!(leases.floor(), 1);
}

#[test]
fn suspects_are_delivered_one_at_a_time_and_before_all_else() {
    let mut leases = crashed(2, &[]);
    assert_eq!(take(&mut leases, at(0), 9, 3), [(0, 2)]);
    assert!(!leases.has_work(at(0), 3));
    assert_eq!(leases.next_event(), Some(Duration::from_secs(30)));
    assert_eq!(take(&mut leases, at(0), 9, 3), []);
    leases.ack_offset(0).unwrap();
    assert_eq!(take(&mut leases, at(1), 9, 3), [(1, 2)]);
    leases.expire(secs(31));
    assert_eq!(leases.suspects_len(), 0);
    assert_eq!(take(&mut leases, at(31), 9, 3), [(1, 3), (2, 1)]);
}

#[test]
fn any_end_of_a_lease_clears_a_suspect() {
    let check = |end: fn(&mut Leases, u64)| {
        let mut leases = crashed(1, &[]);
        let token = take_one(&mut leases, at(0), 9);
        end(&mut leases, token);
        assert_eq!((leases.suspects_len(), leases.has_work(at(99), 9)), (0, true));
    };
    check(|leases, token| leases.ack(0, token).unwrap());
    check(|leases, token| leases.retry(0, token, None, at(0)).unwrap());
    check(|leases, token| leases.release(0, token, at(0)).unwrap());
    check(|leases, token| leases.drop_lease(0, token, at(0)).unwrap());
    check(|leases, _| leases.expire(secs(30)));
    check(|leases, _| leases.ack_through(0));
    check(|leases, _| leases.seek(5));
}

#[test]
fn a_suspect_in_backoff_holds_nothing_up() {
    let mut leases = crashed(1, &[(0, 2, at(60).wall_ms)]);
    assert_eq!(take(&mut leases, at(0), 1, 9), [(1, 1)]);
    assert_eq!(take(&mut leases, at(60), 1, 9), [(0, 3)]);
}

#[test]
fn an_exhausted_suspect_holds_nothing_up() {
    let mut leases = crashed(3, &[(0, 3, 0), (1, 3, 0)]);
    let plan = leases.plan(secs(0), 9, 9);
    assert_eq!(plan.exhausted.iter().map(|e| e.offset).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(plan.granted().map(|granted| granted.offset).collect::<Vec<_>>(), [2]);
}

#[test]
fn a_seek_makes_every_lease_stale() {
    let mut leases = fresh();
    let token = take_one(&mut leases, at(0), 9);
    leases.ack(0, token).unwrap();
    let token = take_one(&mut leases, at(0), 9);
    leases.seek(0);
    assert_eq!(leases.ack(0, token), Err(Refused::Stale));
    assert_eq!(leases.ack(1, token), Err(Refused::Stale));
    assert!(!leases.is_dirty());
    assert_eq!(take(&mut leases, at(0), 2, 9), [(0, 1), (1, 1)]);
    assert_eq!(leases.retry(1, token, None, at(0)), Err(Refused::Stale));
}

#[test]
fn ack_through_settles_delivered_and_new_messages() {
    let mut leases = fresh();
    take(&mut leases, at(0), 4, 9);
    leases.ack_through(1);
    assert_eq!((leases.floor(), leases.leased_len(), leases.next()), (2, 2, 4));
    leases.ack_through(6);
    assert_eq!((leases.floor(), leases.leased_len(), leases.next()), (7, 0, 7));
    leases.ack_through(3);
    assert_eq!(leases.floor(), 7);
    assert_eq!(take(&mut leases, at(0), 9, 9), [(7, 1), (8, 1)]);
    leases.ack_through(u64::MAX);
    assert_eq!(leases.floor(), u64::MAX);
}

#[test]
fn skip_to_settles_what_retention_took() {
    let mut leases = fresh();
    take(&mut leases, at(0), 4, 9);
    leases.skip_to(6);
    assert_eq!((leases.floor(), leases.unsettled_len()), (6, 0));
    assert_eq!(leases.status(5), OffsetStatus::Settled);
    assert_eq!(leases.status(6), OffsetStatus::Fresh);
}

#[test]
fn filtered_offsets_are_settled_whether_leased_or_ahead() {
    let mut leases = fresh();
    take(&mut leases, at(0), 3, 9);
    leases.settle_filtered(1..2);
    leases.settle_filtered(3..4);
    leases.settle_filtered(6..8);
    assert_eq!((leases.leased_len(), leases.settled_above_floor()), (2, 4));
    assert_eq!(take(&mut leases, at(0), 9, 9), [(4, 1), (5, 1)]);
    assert_eq!(take(&mut leases, at(0), 9, 9), [(8, 1)]);
}

#[test]
fn backoff_takes_any_count_and_any_table() {
    let check = |secs: &[u64], count: u32, expected: u64| {
        let backoff = secs.iter().copied().map(Duration::from_secs).collect();
        let limits = Limits { backoff, ..limits() };
        assert_eq!(limits.backoff_after(count), Duration::from_secs(expected));
    };
    check(&[], 1, 0);
    check(&[5, 9], 0, 5);
    check(&[5, 9], 1, 5);
    check(&[5, 9], 2, 9);
    check(&[5, 9], u32::MAX, 9);
}

#[test]
fn a_lease_begins_when_the_message_is_handed_out() {
    let mut leases = fresh();
    let plan = leases.plan(secs(0), 1, 1);
    leases.plan_logged(&plan);
    // The log took 20 of the 30 seconds.
    leases.hand_out(&plan, secs(20));
    leases.expire(secs(49));
    assert_eq!(leases.leased_len(), 1);
    leases.expire(secs(50));
    assert_eq!(leases.leased_len(), 0);
}

#[test]
fn what_became_somebody_elses_while_the_log_took_long_is_not_handed_out() {
    let mut leases = fresh();
    let slow = leases.plan(secs(0), 1, 1);
    assert_eq!(take(&mut leases, at(30), 1, 1), [(0, 2)]);
    leases.hand_out(&slow, secs(50));
    leases.expire(secs(60));
    assert_eq!(leases.leased_len(), 0, "the lease of the other one was not extended");
}

#[test]
fn what_was_leased_together_can_be_settled_in_any_order() {
    let in_order = |offsets: &[usize]| {
        let mut leases = fresh_with(limits());
        let granted: Vec<_> = leases.plan(secs(0), 5, 5).granted().collect();
        for (done, &i) in offsets.iter().enumerate() {
            let Granted { offset, token, .. } = granted[i];
            assert!(leases.ack(offset, token + 1).is_err(), "that is its neighbour's: {offsets:?}");
            assert_eq!(leases.ack(offset, token), Ok(()), "{offsets:?}");
            assert_eq!(leases.ack(offset, token), Err(Refused::AlreadySettled), "{offsets:?}");
            assert_eq!(leases.unsettled_len(), 4 - done);
        }
        assert_eq!((leases.floor(), leases.leased_len()), (5, 0), "{offsets:?}");
    };
    in_order(&[0, 1, 2, 3, 4]);
    in_order(&[4, 3, 2, 1, 0]);
    in_order(&[2, 0, 4, 1, 3]);
    in_order(&[1, 3, 2, 4, 0]);
}

#[test]
fn what_was_leased_together_and_ran_out_can_still_be_acknowledged_one_by_one() {
    let mut leases = fresh_with(limits());
    let granted: Vec<_> = leases.plan(secs(0), 3, 3).granted().collect();
    leases.expire(secs(31));
    assert_eq!((leases.leased_len(), leases.waiting_len()), (0, 3));
    assert_eq!(leases.ack(1, granted[0].token), Err(Refused::Stale));
    assert_eq!(leases.ack(1, granted[1].token), Ok(()));
    assert_eq!(take(&mut leases, at(31), 9, 3), [(0, 2), (2, 2)]);
    assert_eq!(leases.ack(2, granted[2].token), Err(Refused::Stale));
}
