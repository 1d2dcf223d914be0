//! Tests of what the leases hand out for the log.

use super::tests::{at, crashed, fresh, fresh_with, limits, list, secs, take, take_one};
use super::*;
use crate::format::entry::Progress;

#[test]
fn a_retry_time_survives_a_restart() {
    let mut leases = fresh();
    let plan = leases.plan(secs(0), 1, 1);
    let mut progress = GroupProgress::starting_at(0);
    progress.apply(&plan.log().unwrap());
    let token = plan.granted().next().unwrap().token;
    leases.retry(0, token, Some(Duration::from_secs(50)), at(1)).unwrap();
    progress.apply(&leases.take_delta().unwrap());
    let later = Now { monotonic: Duration::from_secs(3), wall_ms: at(41).wall_ms };
    let mut leases = Leases::recover(&progress, 1, true, limits(), later);
    assert_eq!(leases.suspects_len(), 0);
    assert_eq!(leases.next_event(), Some(Duration::from_secs(13)));
    assert_eq!(take(&mut leases, at(13), 1, 1), [(0, 2)]);
}

#[test]
fn a_release_does_not_count() {
    let mut leases = fresh();
    let token = take_one(&mut leases, at(0), 1);
    leases.release(0, token, at(0)).unwrap();
    let expected = Progress { attempts: list(&[(0, 0, 0)]), ..Progress::default() };
    assert_eq!(leases.take_delta(), Some(expected));
    assert_eq!(take(&mut leases, at(0), 1, 1), [(0, 1)]);
}

#[test]
fn a_redelivery_logs_its_attempt_and_supersedes_the_delta() {
    let mut leases = fresh();
    let token = take_one(&mut leases, at(0), 1);
    leases.retry(0, token, Some(Duration::ZERO), at(0)).unwrap();
    assert!(leases.is_dirty());
    let plan = leases.plan(secs(0), 1, 1);
    assert_eq!(plan.log(), Some(Progress { attempts: list(&[(0, 2, 0)]), ..Progress::default() }));
    assert!(!leases.is_dirty());
}

#[test]
fn a_failed_plan_counts_nothing() {
    let mut leases = fresh();
    let first = take_one(&mut leases, at(0), 3);
    leases.expire(secs(30));
    let plan = leases.plan(secs(30), 3, 3);
    leases.plan_failed(&plan);
    assert_eq!((leases.leased_len(), leases.waiting_len()), (0, 3));
    // The lease before was not superseded after all.
    assert_eq!(leases.clone().ack(0, first), Ok(()));
    // The entry of the failed plan may have reached the disk; this one puts it right.
    let counts = list(&[(0, 1, 0), (1, 0, 0), (2, 0, 0)]);
    assert_eq!(leases.clone().take_delta().unwrap().attempts, counts);
    assert_eq!(leases.ack_offset(1), Err(Refused::NotLeased));
    assert_eq!(take(&mut leases, at(30), 3, 3), [(0, 2), (1, 1), (2, 1)]);
}

#[test]
fn a_delivery_after_a_failed_plan_reserves_its_offset() {
    let mut leases = fresh();
    let plan = leases.plan(secs(0), 1, 1);
    leases.plan_failed(&plan);
    let mut progress = GroupProgress::starting_at(0);
    progress.apply(&leases.plan(secs(0), 1, 1).log().unwrap());
    let mut leases = Leases::recover(&progress, 1, true, limits(), at(0));
    assert_eq!(take(&mut leases, at(0), 1, 1), [(0, 2)]);
}

#[test]
fn a_failed_plan_leaves_a_suspect_suspect() {
    let mut leases = crashed(2, &[]);
    let plan = leases.plan(secs(0), 9, 9);
    leases.plan_failed(&plan);
    assert_eq!(leases.suspects_len(), 2);
    assert_eq!(take(&mut leases, at(0), 9, 9), [(0, 2)]);
}

#[test]
fn a_clean_reopening_has_no_suspects_and_exact_counts() {
    let mut leases = fresh();
    let mut progress = GroupProgress::starting_at(0);
    let plan = leases.plan(secs(0), 4, 9);
    progress.apply(&plan.log().unwrap());
    let tokens: Vec<_> = plan.granted().map(|granted| granted.token).collect();
    leases.ack(0, tokens[0]).unwrap();
    leases.release(1, tokens[1], at(0)).unwrap();
    leases.drop_lease(2, tokens[2], at(0)).unwrap();
    progress.apply(&leases.close(at(1)));
    assert_eq!((leases.leased_len(), leases.waiting_len()), (0, 3));
    let mut leases = Leases::recover(&progress, 9, false, limits(), at(2));
    assert_eq!(take(&mut leases, at(2), 9, 6), [(1, 1), (2, 2), (3, 2), (4, 1), (5, 1)]);
}

#[test]
fn a_first_delivery_waits_for_the_log_only_when_the_reserve_is_used_up() {
    let mut leases = fresh();
    let plan = leases.plan(secs(0), 1, 999);
    assert_eq!(plan.log().unwrap().delivered, 17);
    leases.plan_logged(&plan);
    assert_eq!(leases.plan(secs(0), 16, 999).log(), None);
    let plan = leases.plan(secs(0), 1, 999);
    assert_eq!(plan.log().unwrap().delivered, 18 + 32);
}

#[test]
fn nothing_is_reserved_ahead_where_one_attempt_is_all() {
    let mut leases = fresh_with(Limits { attempts_max: 1, ..limits() });
    let plan = leases.plan(secs(0), 2, 999);
    assert_eq!(plan.log().unwrap().delivered, 2);
    leases.plan_logged(&plan);
    assert!(leases.wants_reserve().is_none());
}

#[test]
fn a_reserve_that_is_not_durable_yet_makes_other_polls_wait() {
    let mut leases = fresh();
    let first = leases.plan(secs(0), 1, 999);
    let second = leases.plan(secs(0), 1, 999);
    assert_eq!(second.log(), first.log());
    leases.plan_logged(&second);
    assert_eq!(leases.plan(secs(0), 1, 999).log(), None);
}

#[test]
fn a_reserve_from_before_a_seek_covers_nothing() {
    let mut leases = fresh();
    let plan = leases.plan(secs(0), 50, 999);
    leases.seek(0);
    leases.plan_logged(&plan);
    assert!(leases.plan(secs(0), 1, 999).log().is_some());
}

#[test]
fn the_reserve_is_raised_in_the_background_once_half_is_used() {
    let mut leases = fresh();
    assert!(leases.wants_reserve().is_none());
    take(&mut leases, at(0), 1, 999);
    assert!(leases.wants_reserve().is_none());
    take(&mut leases, at(0), 9, 999);
    let reserve = leases.wants_reserve().unwrap();
    assert_eq!(reserve.to_progress().delivered, 10 + 32);
    assert!(leases.wants_reserve().is_none());
    leases.reserve_logged(reserve);
    leases.ack_through(9);
    assert_eq!(leases.plan(secs(0), 30, 999).log(), None);
}

#[test]
fn a_reserve_grows_no_larger_than_its_bound_and_is_raised_once_half_is_used() {
    let mut leases = fresh_with(Limits { in_flight_max: 100_000, ..limits() });
    let mut next = 0;
    while leases.wants_reserve().is_none_or(|reserve| {
        leases.reserve_logged(reserve);
        reserve.to_progress().delivered < next + 32_768
    }) {
        take(&mut leases, at(0), 100, 999_999);
        next += 100;
        leases.ack_through(next - 1);
    }
    let end = next + 32_768;
    while next + 16_384 <= end {
        assert!(leases.wants_reserve().is_none(), "{next} of {end}");
        take(&mut leases, at(0), 100, 999_999);
        next += 100;
        leases.ack_through(next - 1);
    }
    let raised = leases.wants_reserve().map(|reserve| reserve.to_progress().delivered);
    assert_eq!(raised, Some(next + 32_768));
}

/// A group that has consumed 5000 messages so fast that it reserves 512 ahead.
fn fast() -> Leases {
    let mut leases = fresh_with(Limits { in_flight_max: 1000, ..limits() });
    for (end, ahead) in [(1000, 16), (2000, 32), (3000, 64), (4000, 128), (5000, 256)] {
        let plan = leases.plan(secs(0), 1000, end);
        assert_eq!(plan.log().unwrap().delivered, end + ahead);
        leases.plan_logged(&plan);
        leases.ack_through(end - 1);
    }
    leases
}

#[test]
fn the_reserve_grows_with_use_and_is_of_what_is_there_once_it_was_caught_up() {
    let check = |end: u64, now: Now, ahead: u64| {
        let mut leases = fast();
        assert!(leases.plan(secs(0), 1, 5000).is_empty());
        leases.ack_through(6999);
        let plan = leases.plan(now.monotonic, 1, end);
        assert_eq!(plan.log().unwrap().delivered, 7001 + ahead, "of {end} messages");
    };
    check(9000, at(0), 512);
    check(7101, at(0), 100);
    check(7001, at(0), 16);
    // It was fast a second ago; that says nothing of now.
    check(9000, at(1), 16);
}

#[test]
fn a_reserve_of_all_that_is_there_is_logged_once() {
    let mut leases = fast();
    assert!(leases.plan(secs(0), 1, 5000).is_empty());
    leases.ack_through(6999);
    let plan = leases.plan(secs(0), 1, 7400);
    assert_eq!(plan.log().unwrap().delivered, 7400);
    leases.plan_logged(&plan);
    for _ in 0..10 {
        assert!(leases.plan(secs(0), 30, 7400).log().is_none());
        assert!(leases.wants_reserve().is_none());
    }
    take(&mut leases, at(0), 80, 7400);
    // What comes next is unknown, so little is reserved of it.
    assert_eq!(leases.wants_reserve().unwrap().to_progress().delivered, 7381 + 32);
}

#[test]
fn a_group_that_is_moved_reserves_at_once_what_it_will_want() {
    let check = |to: u64, now: Now, reserved: Option<u64>| {
        let mut leases = fast();
        leases.seek(to);
        let reserve = leases.wants_reserve_after_seek(now.monotonic);
        assert_eq!(reserve.map(|reserve| reserve.to_progress().delivered), reserved, "to {to}");
        (leases, reserve)
    };
    check(4900, at(0), Some(5000));
    check(4990, at(0), None);
    check(5000, at(0), None);
    check(0, at(1), None);
    let (mut leases, reserve) = check(0, at(0), Some(512));
    let reserve = reserve.unwrap();
    let waiting = leases.clone().plan(secs(0), 1, 5000);
    assert!(waiting.needs_only(reserve), "it is not durable yet");
    leases.reserve_logged(reserve);
    assert_eq!(leases.plan(secs(0), 300, 5000).log(), None);
    assert!(leases.wants_reserve().is_some());
}

#[test]
fn a_slow_consumer_reserves_little() {
    let mut leases = fresh_with(Limits { in_flight_max: 1000, ..limits() });
    for (time, end, ahead) in [(0, 1000, 16), (0, 2000, 32), (1, 3000, 32), (2, 4000, 16)] {
        let plan = leases.plan(secs(time), 1000, end);
        assert_eq!(plan.log().unwrap().delivered, end + ahead);
        leases.plan_logged(&plan);
        leases.ack_through(end - 1);
    }
}

#[test]
fn a_delta_put_back_is_handed_over_again() {
    let mut leases = fresh();
    let tokens: Vec<_> =
        leases.plan(secs(0), 5, 5).granted().map(|granted| granted.token).collect();
    leases.ack(0, tokens[0]).unwrap();
    leases.ack(2, tokens[2]).unwrap();
    leases.retry(3, tokens[3], None, at(0)).unwrap();
    let delta = leases.take_delta().unwrap();
    leases.put_back(delta.clone());
    assert_eq!(leases.take_delta(), Some(delta));
}

#[test]
fn a_delta_put_back_overrides_nothing_newer() {
    let mut leases = fresh();
    let tokens: Vec<_> =
        leases.plan(secs(0), 3, 3).granted().map(|granted| granted.token).collect();
    leases.retry(0, tokens[0], Some(Duration::ZERO), at(0)).unwrap();
    leases.retry(1, tokens[1], None, at(0)).unwrap();
    leases.ack(2, tokens[2]).unwrap();
    let delta = leases.take_delta().unwrap();
    take(&mut leases, at(0), 1, 3);
    leases.ack_offset(1).unwrap();
    leases.take_delta();
    let mut moved = leases.clone();
    leases.put_back(delta.clone());
    let acked = std::iter::once(2..3).collect();
    assert_eq!(leases.take_delta(), Some(Progress { acked, ..Progress::default() }));
    moved.seek(1);
    moved.put_back(delta);
    assert_eq!(moved.take_delta(), None);
}
