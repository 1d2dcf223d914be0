//! Appends from several threads: the leader, those who wait for it, and the hand-over between.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ackline::{Error, Log, Offset, Options, SyncPolicy, Topic};
use shuttle::thread::{self, JoinHandle};

use super::harness::check;
use super::machine::Machine;
use super::promises::{Promises, text};

fn roomy() -> Options {
    Options::new().segment_bytes(65536)
}

/// Starts threads that append `each` records to a topic, all of which must be promised.
fn writers(topic: &Topic, promises: &Promises, threads: u64, each: u64) -> Vec<JoinHandle<()>> {
    let writer = |writer| {
        let (topic, promises) = (topic.clone(), promises.clone());
        thread::spawn(move || {
            for i in 0..each {
                promises.append(&topic, &text(writer, i, 0)).expect("appends");
            }
        })
    };
    (0..threads).map(writer).collect()
}

pub(crate) fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        thread.join().expect("the thread returns");
    }
}

/// Checks that every writer returns, and that after a power cut every record is at the offset
/// that it was given. Returns the number of syncs that it took.
fn check_appends(options: Options, open: fn(&Machine, Options) -> Log, threads: u64) -> u64 {
    let machine = Machine::new();
    let log = open(&machine, options.clone());
    let topic = log.topic("t").expect("a topic");
    let (promises, before) = (Promises::default(), log.stats().syncs);
    join(writers(&topic, &promises, threads, 2));
    let syncs = log.stats().syncs - before;
    drop((log, topic));
    let log = machine.crash(options);
    promises.check(&log.topic("t").expect("a topic"));
    assert_eq!(promises.number() as u64, 2 * threads);
    syncs
}

#[test]
fn appends_that_share_syncs_all_return_and_are_durable() {
    let shared = Arc::new(AtomicU64::new(0));
    let most = Arc::clone(&shared);
    check(6000, move || {
        let syncs = check_appends(roomy(), Machine::open, 3);
        most.fetch_max(6 - syncs, Ordering::Relaxed);
    });
    assert!(shared.load(Ordering::Relaxed) >= 3, "the six appends of a schedule took three syncs");
}

#[test]
fn appends_beside_the_background_threads_all_return_and_are_durable() {
    check(3000, || {
        check_appends(roomy(), Machine::open_with_threads, 3);
    });
}

#[test]
fn appends_that_wait_for_company_all_return_and_are_durable() {
    let linger = SyncPolicy::GroupCommit { linger: Duration::from_micros(50) };
    check(3000, move || {
        check_appends(roomy().sync(linger), Machine::open, 4);
    });
}

#[test]
fn appends_that_share_no_sync_all_return_and_are_durable() {
    check(3000, || {
        let syncs = check_appends(roomy().sync(SyncPolicy::EachAppend), Machine::open, 3);
        assert_eq!(syncs, 6, "each has its own");
    });
}

#[test]
fn a_reader_sees_each_record_once_and_in_order_and_only_what_a_crash_cannot_take_back() {
    check(3000, || {
        let machine = Machine::new();
        let log = machine.open(roomy());
        let topic = log.topic("t").expect("a topic");
        let promises = Promises::default();
        let writers = writers(&topic, &promises, 2, 2);
        let reader = {
            let (topic, machine) = (topic.clone(), machine.clone());
            thread::spawn(move || {
                let seen = super::machine::texts(&topic);
                // The disk as a power cut at this moment would leave it.
                let then = Machine::on(machine.disk.fork());
                let kept = super::machine::texts(&then.crash(roomy()).topic("t").expect("a topic"));
                assert!(kept.starts_with(&seen), "{seen:?} was seen, {kept:?} was durable");
            })
        };
        join(writers);
        reader.join().expect("the reader returns");
    });
}

#[test]
fn waiters_of_a_slow_sync_give_up_and_their_records_are_in_the_log() {
    let gave_up = Arc::new(AtomicU64::new(0));
    let most = Arc::clone(&gave_up);
    check(3000, move || {
        let second = Duration::from_secs(1);
        let machine = Machine::new();
        let log = machine.open(roomy().sync_timeout(second));
        let topic = log.topic("t").expect("a topic");
        let (promises, done) = (Promises::default(), Arc::new(AtomicU64::new(0)));
        let threads: Vec<_> = (0..3)
            .map(|writer| {
                let (topic, promises, done) = (topic.clone(), promises.clone(), Arc::clone(&done));
                let most = Arc::clone(&most);
                thread::spawn(move || {
                    for i in 0..2 {
                        let record = text(writer, i, 0);
                        match promises.append(&topic, &record) {
                            Ok(_) => {}
                            Err(Error::SyncTimeout { offset: Some(offset), .. }) => {
                                promises.is_kept(offset, &record);
                                most.fetch_add(1, Ordering::Relaxed);
                            }
                            other => panic!("{other:?}"),
                        }
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                })
            })
            .collect();
        machine.advance_until(second, || done.load(Ordering::Relaxed) == 3);
        join(threads);
        // What nobody waits for any more is in the log all the same.
        log.sync().expect("syncs");
        drop((log, topic));
        promises.check(&machine.crash(roomy()).topic("t").expect("a topic"));
        assert_eq!(promises.number(), 6);
    });
    assert!(gave_up.load(Ordering::Relaxed) > 0, "some wait was too long");
}

#[test]
fn who_waits_needs_no_other_thread_to_write_what_nobody_waits_for() {
    check(3000, || {
        let machine = Machine::new();
        let log = machine.open(roomy().sync(SyncPolicy::EachAppend));
        let topic = log.topic("t").expect("a topic");
        let promises = Promises::default();
        let mut threads = writers(&topic, &promises, 2, 2);
        threads.push(thread::spawn(move || {
            for _ in 0..3 {
                topic.submit("0.9").detach();
            }
        }));
        join(threads);
    });
}

#[test]
fn two_threads_that_make_the_same_topic_and_group_get_the_same() {
    check(3000, || {
        let machine = Machine::new();
        let log = machine.open(roomy());
        let made: Vec<_> = (0..2)
            .map(|_| {
                let log = log.clone();
                thread::spawn(move || {
                    let topic = log.topic("t").expect("a topic");
                    let group = topic.group("g").expect("a group");
                    topic.append("a record").expect("appends");
                    group.poll(1, Duration::ZERO).expect("polls").pop().map(ackline::Delivery::ack)
                })
            })
            .collect();
        let acked = made.into_iter().filter_map(|one| one.join().expect("it returns"));
        assert!(acked.map(|acked| acked.expect("acks")).count() >= 1);
        log.sync().expect("syncs");
        drop(log);
        let log = machine.crash(roomy());
        assert_eq!(log.topics(), ["t"]);
        let topic = log.topic("t").expect("a topic");
        assert_eq!(log.groups(&topic), ["g"]);
        assert_eq!(topic.offsets().end.0, 2);
    });
}

#[test]
fn what_a_sync_has_covered_is_seen_by_whoever_asked_for_it() {
    check(3000, || {
        let machine = Machine::new();
        let interval = SyncPolicy::Interval { every: Duration::from_secs(1), bytes: 1 << 20 };
        let log = machine.open(roomy().sync(interval));
        let topic = log.topic("t").expect("a topic");
        let threads = (0..3).map(|_| {
            let (log, topic) = (log.clone(), topic.clone());
            thread::spawn(move || {
                let receipt = topic.append("a record").expect("appends");
                log.sync().expect("syncs");
                assert!(receipt.offset < topic.offsets().end, "{:?}", topic.offsets());
            })
        });
        join(threads.collect());
    });
}

#[test]
fn of_the_appends_that_ask_for_one_offset_one_gets_it() {
    check(2000, || {
        let machine = Machine::new();
        let log = machine.open(roomy());
        let topic = log.topic("t").expect("a topic");
        let promises = Promises::default();
        let threads = (0..3).map(|writer| {
            let (topic, promises) = (topic.clone(), promises.clone());
            thread::spawn(move || {
                let (record, mut expected) = (text(writer, 0, 0), Offset(0));
                promises.will_try(&record);
                loop {
                    match topic.append_if(expected, record.as_str()) {
                        Ok(receipt) => break promises.is_kept(receipt.offset, &record),
                        Err(Error::Conflict { actual, .. }) => expected = actual,
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        });
        join(threads.collect());
        drop((log, topic));
        let topic = machine.crash(roomy()).topic("t").expect("a topic");
        promises.check(&topic);
        assert_eq!(topic.offsets().end, Offset(3), "none was written twice");
    });
}
