//! A sync that fails: everybody who waits is told so, and nobody is told anything else later.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ackline::{Error, GroupOptions, Log, Options, SyncPolicy};
use shuttle::thread;

use super::appends::join;
use super::harness::{check, draw};
use super::machine::Machine;
use super::promises::{Promises, text};

fn is_poisoned<T>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::Poisoned { .. }))
}

/// Whether a call was told of a failure. Where it struck the next segment, which is not in use
/// yet, it is the caller's alone.
fn is_told<T>(result: &Result<T, Error>) -> bool {
    is_poisoned(result) || matches!(result, Err(Error::Io { file, .. }) if file == "spare.tmp")
}

/// Lets one of the first syncs fail under three writers. Returns how many were told so.
fn check_failure(options: Options, open: fn(&Machine, Options) -> Log, bytes: usize) -> u64 {
    let machine = Machine::new();
    let log = open(&machine, options.clone());
    let topic = log.topic("t").expect("a topic");
    machine.fail_sync(1 + draw(6));
    let (promises, told) = (Promises::default(), Arc::new(AtomicU64::new(0)));
    let mut threads: Vec<_> = (0..3)
        .map(|writer| {
            let (topic, promises, told) = (topic.clone(), promises.clone(), Arc::clone(&told));
            thread::spawn(move || {
                for i in 0..2 {
                    let appended = promises.append(&topic, &text(writer, i, bytes));
                    if appended.is_ok() {
                        continue;
                    }
                    assert!(is_told(&appended), "{appended:?}");
                    if is_poisoned(&appended) {
                        told.fetch_add(1, Ordering::Relaxed);
                        let later = topic.append("later");
                        assert!(is_poisoned(&later), "{later:?}");
                    }
                    return;
                }
            })
        })
        .collect();
    let consumer = topic.group_with("g", GroupOptions::new());
    threads.push(thread::spawn(move || {
        let used = consumer.and_then(|group| {
            for delivery in group.poll(1, Duration::ZERO)? {
                delivery.ack()?;
            }
            group.commit()
        });
        assert!(used.is_ok() || is_told(&used), "{used:?}");
    }));
    let synced = log.sync();
    assert!(synced.is_ok() || is_told(&synced), "{synced:?}");
    join(threads);
    let told = told.load(Ordering::Relaxed);
    assert!(told == 0 || log.stats().poisoned);
    drop((log, topic));
    let log = machine.crash(options);
    if log.topics().iter().any(|name| name == "t") {
        promises.check(&log.topic("t").expect("a topic"));
    }
    told
}

#[test]
fn a_sync_that_fails_is_told_to_all_who_wait_for_it() {
    let most = Arc::new(AtomicU64::new(0));
    let told = Arc::clone(&most);
    check(4000, move || {
        let options = Options::new().segment_bytes(65536);
        told.fetch_max(check_failure(options, Machine::open, 0), Ordering::Relaxed);
    });
    assert_eq!(most.load(Ordering::Relaxed), 3, "all were told in some schedule");
}

#[test]
fn a_sync_that_fails_in_a_roll_is_told_to_all_who_wait_for_it() {
    check(2000, || {
        check_failure(Options::new().segment_bytes(4096), Machine::open, 900);
    });
}

#[test]
fn a_sync_that_fails_beside_the_background_threads_is_told_to_all_who_wait_for_it() {
    check(1500, || {
        check_failure(Options::new().segment_bytes(4096), Machine::open_with_threads, 900);
    });
}

/// Under a policy that syncs later, two syncs of one file may be under way at a time: the system
/// tells one of them that it failed, and neither may say that all is well.
#[test]
fn a_sync_in_the_background_that_fails_is_the_end_of_all_promises() {
    check(3000, || {
        let interval = SyncPolicy::Interval { every: Duration::from_secs(1), bytes: 100 };
        let options = Options::new().segment_bytes(4096).sync(interval);
        let machine = Machine::new();
        let log = machine.open_with_threads(options.clone());
        let topic = log.topic("t").expect("a topic");
        machine.fail_sync(1 + draw(4));
        let promises = Promises::default();
        let threads: Vec<_> = (0..3)
            .map(|writer| {
                let (log, topic, promises) = (log.clone(), topic.clone(), promises.clone());
                thread::spawn(move || {
                    let record = text(writer, 0, 900);
                    promises.will_try(&record);
                    let synced = topic.append(record.as_str());
                    match synced.and_then(|receipt| log.sync().map(|()| receipt)) {
                        Ok(receipt) => promises.is_kept(receipt.offset, &record),
                        other => assert!(is_told(&other), "{other:?}"),
                    }
                })
            })
            .collect();
        join(threads);
        drop((log, topic));
        promises.check(&machine.crash(options).topic("t").expect("a topic"));
    });
}

/// After a log is closed its directory may be another's, whatever its last users still do.
#[test]
fn nothing_is_written_to_the_directory_of_a_failed_log_that_is_closed() {
    check(4000, || {
        let interval = SyncPolicy::Interval { every: Duration::from_secs(1), bytes: 1 << 20 };
        let options = Options::new().segment_bytes(4096).sync(interval);
        let machine = Machine::new();
        let log = machine.open(options);
        let topic = log.topic("t").expect("a topic");
        let group = topic.group("g").expect("a group");
        for i in 0..3 {
            topic.append(text(0, i, 900)).expect("appends");
        }
        log.sync().expect("syncs");
        for delivery in group.poll(3, Duration::ZERO).expect("polls") {
            delivery.ack().expect("acks");
        }
        machine.fail_sync(1 + draw(3));
        let (syncing, appending) = (log.clone(), topic.clone());
        let threads = vec![
            thread::spawn(move || drop(group.commit())),
            thread::spawn(move || drop(syncing.sync())),
            thread::spawn(move || drop(appending.append(text(1, 0, 900)))),
        ];
        drop(log.close());
        join(threads);
    });
}

#[test]
fn a_sync_that_is_answered_covers_what_was_submitted_before_it() {
    let failed = Arc::new(AtomicU64::new(0));
    let times = Arc::clone(&failed);
    check(4000, move || {
        let options = Options::new().segment_bytes(65536);
        let machine = Machine::new();
        let log = machine.open(options.clone());
        let topic = log.topic("t").expect("a topic");
        machine.fail_sync(1 + draw(3));
        let promises = Promises::default();
        let threads: Vec<_> = (0..3)
            .map(|writer| {
                let (log, topic, promises) = (log.clone(), topic.clone(), promises.clone());
                let times = Arc::clone(&times);
                thread::spawn(move || {
                    let record = text(writer, 0, 0);
                    promises.will_try(&record);
                    topic.submit(record.as_str()).detach();
                    match log.sync() {
                        Ok(()) => promises.is_kept_somewhere(&record),
                        other => {
                            assert!(is_poisoned(&other), "{other:?}");
                            times.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                })
            })
            .collect();
        join(threads);
        drop((log, topic));
        promises.check(&machine.crash(options).topic("t").expect("a topic"));
    });
    assert!(failed.load(Ordering::Relaxed) > 0, "some syncs failed");
}

/// The system may tell only one of two syncs that it failed, so there must not be two at a time,
/// nor one after a failure: that holds for the directory, too.
#[test]
fn a_sync_of_the_directory_that_fails_is_the_last_one() {
    let failed = Arc::new(AtomicU64::new(0));
    let times = Arc::clone(&failed);
    check(4000, move || {
        let machine = Machine::new();
        let log = machine.open(Options::new().segment_bytes(4096));
        let topic = log.topic("t").expect("a topic");
        let group = topic.group("g").expect("a group");
        for i in 0..5 {
            topic.append(text(0, i, 900)).expect("appends");
        }
        for delivery in group.poll(5, Duration::ZERO).expect("polls") {
            delivery.ack().expect("acks");
        }
        group.commit().expect("commits");
        machine.fail_sync(1 + draw(9));
        let keeper = log.clone();
        let threads = vec![
            thread::spawn(move || drop(keeper.maintain())),
            thread::spawn(move || {
                for i in 5..8 {
                    if topic.append(text(0, i, 900)).is_err() {
                        return;
                    }
                }
            }),
        ];
        join(threads);
        times.fetch_add(u64::from(log.stats().poisoned), Ordering::Relaxed);
    });
    assert!(failed.load(Ordering::Relaxed) > 0, "some syncs failed");
}
