//! Going on in new segments while others append, read and sync, and running out of room.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ackline::{Error, Log, Offset, Options, SyncPolicy, Topic};
use shuttle::thread::{self, JoinHandle};

use super::appends::join;
use super::harness::{check, draw};
use super::machine::Machine;
use super::promises::{Promises, text};

/// A few records of this size fill a small segment.
const LARGE: usize = 900;

fn small() -> Options {
    Options::new().segment_bytes(4096)
}

fn writers(topic: &Topic, promises: &Promises, threads: u64, each: u64) -> Vec<JoinHandle<()>> {
    let writer = |writer| {
        let (topic, promises) = (topic.clone(), promises.clone());
        thread::spawn(move || {
            for i in 0..each {
                promises.append(&topic, &text(writer, i, LARGE)).expect("appends");
            }
        })
    };
    (0..threads).map(writer).collect()
}

fn check_rolls(options: Options, open: fn(&Machine, Options) -> Log) {
    let machine = Machine::new();
    let log = open(&machine, options.clone());
    let topic = log.topic("t").expect("a topic");
    let promises = Promises::default();
    join(writers(&topic, &promises, 3, 3));
    assert!(log.stats().rolls >= 2, "nine records of 900 bytes do not fit in two segments");
    log.sync().expect("syncs");
    drop((log, topic));
    promises.check(&machine.crash(options).topic("t").expect("a topic"));
    assert_eq!(promises.number(), 9);
}

#[test]
fn appends_that_roll_all_return_and_are_durable() {
    check(2000, || check_rolls(small(), Machine::open));
}

#[test]
fn appends_that_roll_beside_the_background_threads_all_return_and_are_durable() {
    check(2000, || check_rolls(small(), Machine::open_with_threads));
}

#[test]
fn appends_that_roll_without_syncs_are_durable_once_the_log_is_synced() {
    let interval = SyncPolicy::Interval { every: Duration::from_secs(1), bytes: 2000 };
    check(1000, move || check_rolls(small().sync(interval), Machine::open_with_threads));
    check(1000, || check_rolls(small().sync(SyncPolicy::Never), Machine::open));
}

#[test]
fn readers_go_on_while_segments_come_and_go() {
    check(1000, || {
        let machine = Machine::new();
        // From memory, from maps and without them.
        let recent_bytes = [0, 1000, 1 << 20][usize::try_from(draw(3)).expect("below 3")];
        let options = small().recent_bytes(recent_bytes).map_segments(draw(2) == 0);
        let log = machine.open_with_threads(options.sync_timeout(Duration::MAX));
        let topic = log.topic("t").expect("a topic");
        let group = topic.group("g").expect("a group");
        let promises = Promises::default();
        let mut threads = writers(&topic, &promises, 2, 4);
        threads.push(thread::spawn(move || {
            for delivery in group.poll(5, Duration::from_secs(1)).expect("polls") {
                delivery.ack().expect("acks");
            }
            group.commit().expect("commits");
        }));
        let reader = thread::spawn(move || {
            let (mut reader, mut expected) = loop {
                let start = topic.offsets().start;
                match topic.read_from(start) {
                    Ok(reader) => break (reader, start),
                    Err(Error::OffsetOutOfRange { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            };
            while expected < Offset(8) {
                match reader.next() {
                    None => thread::yield_now(),
                    Some(Ok(message)) => {
                        assert_eq!(message.offset(), expected);
                        expected = expected.next();
                    }
                    Some(Err(Error::Lagged { to, .. })) => expected = to,
                    Some(Err(error)) => panic!("{error}"),
                }
            }
        });
        threads.push(reader);
        // The consumer may come before anything else.
        let done = Arc::new(AtomicU64::new(0));
        let joined = Arc::clone(&done);
        let all = thread::spawn(move || {
            join(threads);
            joined.store(1, Ordering::Relaxed);
        });
        machine.advance_until(Duration::from_secs(1), || done.load(Ordering::Relaxed) > 0);
        all.join().expect("all return");
        log.close().expect("closes");
    });
}

#[test]
fn a_full_log_goes_on_once_its_group_has_made_room() {
    let refused = Arc::new(AtomicU64::new(0));
    let times = Arc::clone(&refused);
    check(1000, move || {
        let machine = Machine::new();
        let log =
            machine.open_with_threads(small().max_bytes(3 * 4096).sync_timeout(Duration::MAX));
        let topic = log.topic("t").expect("a topic");
        let group = topic.group("g").expect("a group");
        let done = Arc::new(AtomicU64::new(0));
        let mut threads: Vec<_> = (0..2)
            .map(|writer| {
                let (topic, done, times) = (topic.clone(), Arc::clone(&done), Arc::clone(&times));
                thread::spawn(move || {
                    for i in 0..8 {
                        let record = text(writer, i, LARGE);
                        while let Err(error) = topic.append(record.as_str()) {
                            assert!(matches!(error, Error::Full { .. }), "{error}");
                            times.fetch_add(1, Ordering::Relaxed);
                            thread::yield_now();
                        }
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                })
            })
            .collect();
        let consumed = Arc::clone(&done);
        threads.push(thread::spawn(move || {
            let mut acked = 0;
            while acked < 16 {
                for delivery in group.poll(3, Duration::from_secs(1)).expect("polls") {
                    delivery.ack().expect("acks");
                    acked += 1;
                }
                group.commit().expect("commits");
            }
            consumed.fetch_add(1, Ordering::Relaxed);
        }));
        machine.advance_until(Duration::from_secs(1), || done.load(Ordering::Relaxed) == 3);
        join(threads);
        log.close().expect("closes");
    });
    assert!(refused.load(Ordering::Relaxed) > 0, "the log was full at times");
}

#[test]
fn a_segment_that_goes_while_another_comes_stays_gone() {
    check(2000, || {
        let machine = Machine::new();
        let log = machine.open(small());
        let topic = log.topic("t").expect("a topic");
        let group = topic.group("g").expect("a group");
        // Two segments that nobody needs any more, and one that is full.
        for i in 0..9 {
            topic.append(text(0, i, LARGE)).expect("appends");
        }
        for delivery in group.poll(9, Duration::ZERO).expect("polls") {
            delivery.ack().expect("acks");
        }
        group.commit().expect("commits");
        let keeper = log.clone();
        let threads = vec![
            thread::spawn(move || keeper.maintain().expect("maintains")),
            thread::spawn(move || {
                topic.append(text(0, 9, LARGE)).expect("appends");
            }),
        ];
        join(threads);
        log.maintain().expect("maintains");
        let segments = log.stats().segments;
        let names = machine.disk.names();
        let files = names.iter().filter(|name| name.strip_suffix(".seg").is_some()).count();
        assert_eq!(segments, files, "{names:?}");
    });
}

#[test]
fn a_full_disk_refuses_what_does_not_fit_and_the_log_goes_on_when_there_is_room() {
    let refused = Arc::new(AtomicU64::new(0));
    let times = Arc::clone(&refused);
    check(1000, move || {
        let machine = Machine::new();
        let log = machine.open_with_threads(small().sync_timeout(Duration::MAX));
        let topic = log.topic("t").expect("a topic");
        // Room for one more segment, or for most of it.
        machine.disk.set_capacity(Some(3 * 4096 - draw(2) * 512));
        let (promises, done) = (Promises::default(), Arc::new(AtomicU64::new(0)));
        let threads = (0..2).map(|writer| {
            let (topic, promises) = (topic.clone(), promises.clone());
            let (done, times) = (Arc::clone(&done), Arc::clone(&times));
            thread::spawn(move || {
                for i in 0..5 {
                    let record = text(writer, i, LARGE);
                    promises.will_try(&record);
                    let receipt = loop {
                        match topic.append(record.as_str()) {
                            Err(Error::Full { .. }) => {}
                            appended => break appended.expect("appends"),
                        }
                        times.fetch_add(1, Ordering::Relaxed);
                        thread::yield_now();
                    };
                    promises.is_kept(receipt.offset, &record);
                }
                done.fetch_add(1, Ordering::Relaxed);
            })
        });
        let threads = threads.collect();
        for _ in 0..draw(20) {
            thread::yield_now();
        }
        machine.disk.set_capacity(None);
        machine.advance_until(Duration::from_secs(1), || done.load(Ordering::Relaxed) == 2);
        join(threads);
        drop((log, topic));
        promises.check(&machine.crash(small()).topic("t").expect("a topic"));
        assert_eq!(promises.number(), 10);
    });
    assert!(refused.load(Ordering::Relaxed) > 0, "the disk was full at times");
}

#[test]
fn no_file_stays_open_that_was_deleted_while_it_was_read() {
    check(2000, || {
        let machine = Machine::new();
        let log = machine.open(small().recent_bytes(0));
        let topic = log.topic("t").expect("a topic");
        let group = topic.group("g").expect("a group");
        for i in 0..9 {
            topic.append(text(0, i, LARGE)).expect("appends");
        }
        // Nothing is open but what is written to.
        drop((topic, group));
        log.close().expect("closes");
        let log = machine.open(small().recent_bytes(0));
        let topic = log.topic("t").expect("a topic");
        let reader = topic.clone();
        let reader = thread::spawn(move || {
            // What is deleted under it is skipped, or its end.
            for message in reader.read_from(Offset(0)).into_iter().flatten() {
                let read = matches!(message, Ok(_) | Err(Error::Lagged { .. }));
                assert!(read, "{message:?}");
            }
        });
        let group = topic.group("g").expect("a group");
        group.commit_through(Offset(8)).expect("commits");
        log.maintain().expect("maintains");
        reader.join().expect("the reader returns");
        log.maintain().expect("maintains");
        let (names, open) = (machine.disk.names(), machine.open_files());
        let gone = open.iter().filter(|name| !names.contains(name));
        assert_eq!(gone.count(), 0, "{open:?} are open, {names:?} are there");
    });
}
