//! Acknowledgements from several threads: batches, commits, and those that ride along.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ackline::{Error, Group, GroupOptions, Log, Offset, Options, SyncPolicy};
use shuttle::thread;

use super::appends::join;
use super::harness::check;
use super::machine::{Machine, texts};

fn roomy() -> Options {
    Options::new().segment_bytes(65536)
}

/// A log with two topics of `records` messages each, and a group of each.
fn two_groups(machine: &Machine, records: u64, threads: bool) -> (Log, Group, Group) {
    let log = if threads { machine.open_with_threads(roomy()) } else { machine.open(roomy()) };
    let group = |name| {
        let topic = log.topic(name).expect("a topic");
        topic.append_batch((0..records).map(|i| i.to_string())).expect("appends");
        topic.group_with("g", GroupOptions::new()).expect("a group")
    };
    let (a, b) = (group("a"), group("b"));
    (log, a, b)
}

fn left(group: &Group) -> Vec<u64> {
    let polled = group.poll(100, Duration::ZERO).expect("polls");
    polled.iter().map(|delivery| delivery.offset().0).collect()
}

fn check_batches(threads: bool) {
    let machine = Machine::new();
    let (log, a, b) = two_groups(&machine, 3, threads);
    let (mut of_a, mut of_b) =
        (a.poll(3, Duration::ZERO).expect("polls"), b.poll(3, Duration::ZERO).expect("polls"));
    let out = log.topic("out").expect("a topic");
    let mut all = Vec::new();
    // Two batches that name the groups in opposite order, two acknowledgements alone, commits.
    for swapped in [false, true] {
        let (x, y) = (of_a.pop().expect("leased"), of_b.pop().expect("leased"));
        let batch = log.batch().append(&out, "done");
        all.push(thread::spawn(move || {
            let batch = if swapped { batch.ack(y).ack(x) } else { batch.ack(x).ack(y) };
            batch.commit().expect("commits");
        }));
    }
    for (delivery, group) in [(of_a.pop(), b.clone()), (of_b.pop(), a.clone())] {
        all.push(thread::spawn(move || {
            delivery.expect("leased").ack().expect("acks");
            group.commit().expect("commits");
        }));
    }
    join(all);
    assert_eq!(texts(&out), ["done"; 2]);
    a.commit().expect("commits");
    b.commit().expect("commits");
    drop((log, a, b, out));
    let log = machine.crash(roomy());
    for name in ["a", "b"] {
        let group = log.topic(name).and_then(|topic| topic.group("g")).expect("a group");
        assert_eq!(left(&group), [0; 0]);
    }
    assert_eq!(texts(&log.topic("out").expect("a topic")), ["done"; 2]);
}

#[test]
fn batches_over_two_groups_and_acks_of_one_do_not_wait_for_one_another_for_ever() {
    check(2000, || check_batches(false));
    check(1000, || check_batches(true));
}

#[test]
fn of_two_that_acknowledge_one_delivery_only_one_takes_effect() {
    check(2000, || {
        let machine = Machine::new();
        let (log, a, _b) = two_groups(&machine, 1, false);
        let delivery = a.poll(1, Duration::ZERO).expect("polls").pop().expect("leased");
        let offset = delivery.offset();
        let out = log.topic("out").expect("a topic");
        let batch = log.batch().append(&out, "done").ack(delivery);
        let other = a.clone();
        let other = thread::spawn(move || other.ack(offset));
        let batched = batch.commit();
        let acked = other.join().expect("it returns");
        match (&batched, &acked) {
            (Ok(_), Err(Error::AlreadyAcked { .. })) => assert_eq!(texts(&out), ["done"]),
            (Err(Error::AlreadyAcked { .. }), Ok(())) => assert_eq!(texts(&out), [""; 0]),
            _ => panic!("{batched:?} and {acked:?}"),
        }
    });
}

/// Acknowledgements that ride along on others' writes, or are written by the background after
/// a while, are as durable as the writes after them.
fn check_riders(threads: bool) {
    let machine = Machine::new();
    let (log, a, b) = two_groups(&machine, 2, threads);
    let consume = |group: &Group| {
        let group = group.clone();
        thread::spawn(move || {
            for delivery in group.poll(2, Duration::ZERO).expect("polls") {
                delivery.ack().expect("acks");
            }
        })
    };
    let mut all = vec![consume(&a), consume(&b)];
    let topic = a.topic().clone();
    all.push(thread::spawn(move || {
        for _ in 0..2 {
            topic.append("carries others' acks").expect("appends");
        }
    }));
    let maintained = log.clone();
    let clock = machine.clone();
    all.push(thread::spawn(move || {
        clock.clock.advance(Duration::from_secs(2));
        maintained.maintain().expect("maintains");
    }));
    join(all);
    log.sync().expect("syncs");
    drop((log, a, b));
    let log = machine.crash(roomy());
    for (name, expected) in [("a", &[2, 3][..]), ("b", &[])] {
        let group = log.topic(name).and_then(|topic| topic.group("g")).expect("a group");
        let mut seen = Vec::new();
        loop {
            let polled = group.poll(10, Duration::ZERO).expect("polls");
            if polled.is_empty() {
                break;
            }
            for delivery in polled {
                seen.push(delivery.offset().0);
                delivery.ack().expect("acks");
            }
        }
        assert_eq!(seen, expected, "of {name}");
    }
}

#[test]
fn acks_that_ride_along_are_durable_after_a_sync() {
    check(2000, || check_riders(false));
    check(1000, || check_riders(true));
}

#[test]
fn a_message_is_in_one_pair_of_hands_at_a_time_and_is_settled_once() {
    check(3000, || {
        let machine = Machine::new();
        let (log, a, _b) = two_groups(&machine, 4, false);
        let held = Arc::new(Mutex::new(BTreeSet::new()));
        let settled = Arc::new(Mutex::new(BTreeSet::new()));
        let consumers = (0..3_u64).map(|consumer| {
            let (a, held, settled) = (a.clone(), Arc::clone(&held), Arc::clone(&settled));
            thread::spawn(move || {
                for round in 0..3 {
                    for delivery in a.poll(2, Duration::ZERO).expect("polls") {
                        let offset = delivery.offset().0;
                        let first = held.lock().expect("no holder panicked").insert(offset);
                        assert!(first, "{offset} is in two pairs of hands");
                        thread::yield_now();
                        // From here on somebody else may get it.
                        held.lock().expect("no holder panicked").remove(&offset);
                        if (consumer + round + offset) % 3 == 0 {
                            drop(delivery);
                        } else {
                            delivery.ack().expect("acks");
                            let once = settled.lock().expect("no holder panicked").insert(offset);
                            assert!(once, "{offset} was settled twice");
                        }
                    }
                }
            })
        });
        join(consumers.collect());
        a.commit().expect("commits");
        drop((log, a));
        let log = machine.crash(roomy());
        let a = log.topic("a").and_then(|topic| topic.group("g")).expect("a group");
        let settled = settled.lock().expect("no holder panicked");
        let expected: Vec<_> = (0..4).filter(|offset| !settled.contains(offset)).collect();
        let mut found = Vec::new();
        loop {
            let polled = a.poll(10, Duration::ZERO).expect("polls");
            if polled.is_empty() {
                break;
            }
            for delivery in polled {
                found.push(delivery.offset().0);
                delivery.ack().expect("acks");
            }
        }
        found.sort_unstable();
        assert_eq!(found, expected);
    });
}

#[test]
fn a_group_that_was_moved_goes_on_there_whatever_was_under_way() {
    check(3000, || {
        let machine = Machine::new();
        let (log, a, _b) = two_groups(&machine, 4, false);
        let consumer = a.clone();
        let consumer = thread::spawn(move || {
            for _ in 0..3 {
                for delivery in consumer.poll(2, Duration::ZERO).expect("polls") {
                    let offset = delivery.offset();
                    let acked = delivery.ack();
                    let expected = matches!(acked, Ok(()) | Err(Error::StaleLease { .. }));
                    assert!(expected, "{offset}: {acked:?}");
                }
                consumer.commit().expect("commits");
            }
        });
        a.seek(Offset(1)).expect("seeks");
        let lag = a.lag().expect("a lag");
        consumer.join().expect("the consumer returns");
        assert!(lag.messages <= 3, "{lag:?}");
        let open = a.lag().expect("a lag").messages;
        drop((log, a));
        let log = machine.crash(roomy());
        let a = log.topic("a").and_then(|topic| topic.group("g")).expect("a group");
        assert_eq!(a.lag().expect("a lag").messages, open);
        assert!(!left(&a).contains(&0), "the group was moved behind it");
    });
}

#[test]
fn a_message_whose_leases_end_is_acknowledged_by_one_of_its_holders() {
    let refused = Arc::new(AtomicU64::new(0));
    let times = Arc::clone(&refused);
    check(3000, move || {
        let second = Duration::from_secs(1);
        let machine = Machine::new();
        let log = machine.open(roomy().sync_timeout(Duration::MAX));
        let topic = log.topic("t").expect("a topic");
        topic.append_batch(["0", "1"]).expect("appends");
        // Enough attempts for leases that end while a poll waits for the log.
        let options = GroupOptions::new().lease(second).attempts_max(1000);
        let group = topic.group_with("g", options).expect("a group");
        let acked = Arc::new(Mutex::new(BTreeSet::new()));
        let done = Arc::new(AtomicU64::new(0));
        let consumers = (0..3).map(|_| {
            let (group, acked) = (group.clone(), Arc::clone(&acked));
            let (done, times) = (Arc::clone(&done), Arc::clone(&times));
            thread::spawn(move || {
                for _ in 0..3 {
                    for delivery in group.poll(2, Duration::ZERO).expect("polls") {
                        let offset = delivery.offset().0;
                        match delivery.ack() {
                            Ok(()) => {
                                let mut acked = acked.lock().expect("no holder panicked");
                                assert!(acked.insert(offset), "{offset} was acknowledged twice");
                            }
                            Err(Error::StaleLease { .. } | Error::AlreadyAcked { .. }) => {
                                times.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
                done.fetch_add(1, Ordering::Relaxed);
            })
        });
        let consumers = consumers.collect();
        machine.advance_until(second / 2, || done.load(Ordering::Relaxed) == 3);
        join(consumers);
        let open = group.lag().expect("a lag").messages;
        let acked = acked.lock().expect("no holder panicked").len() as u64;
        assert_eq!(open + acked, 2, "what nobody acknowledged is still to be done");
    });
    assert!(refused.load(Ordering::Relaxed) > 0, "some acknowledgement came too late");
}

#[test]
fn acknowledgements_that_ride_behind_an_append_that_is_alone_are_written_in_a_moment() {
    check(3000, || {
        let machine = Machine::new();
        let log = machine.open_with_threads(roomy().sync(SyncPolicy::EachAppend));
        let topic = log.topic("t").expect("a topic");
        let group = topic.group_with("g", GroupOptions::new()).expect("a group");
        topic.append("first").expect("appends");
        let polled = group.poll(1, Duration::ZERO).expect("polls");
        machine.advance_until(Duration::from_millis(1), || log.stats().writes >= 4);
        let before = log.stats().writes;
        for delivery in polled {
            delivery.ack().expect("acks");
        }
        topic.append("second").expect("appends");
        // That one has a write of its own, and so have the acknowledgements.
        machine.advance_until(Duration::from_millis(100), || log.stats().writes >= before + 2);
    });
}
