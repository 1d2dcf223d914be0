//! Reading in order, from anywhere, however the log is cut and cached.

#[macro_use]
mod common;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ackline::{Error, Log, Offset, Options, Record, Topic};

use common::{Machine, assert_holds, fill, has_suffix, payload, read_all, small};

fn topic(log: &Log) -> Topic {
    log.topic("t").expect("a topic")
}

/// Nothing stays in memory, and hardly anything open.
fn cold(map: bool) -> Options {
    small().recent_bytes(0).open_segments_max(1).map_segments(map)
}

fn at(ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(ms)
}

#[test]
fn every_offset_can_be_read_from_in_many_cold_segments() {
    for map in [true, false] {
        let machine = Machine::new(1);
        let log = machine.open(cold(map));
        fill(&topic(&log), 0..100);
        for round in 0..2 {
            let (topic, log) = if round == 0 {
                (topic(&log), log.clone())
            } else {
                log.clone().close().expect("closes");
                let log = machine.open(cold(map));
                (topic(&log), log)
            };
            assert!(log.stats().segments > 8);
            for from in 0..=100 {
                let reader = topic.read_from(Offset(from)).expect("reads");
                let found: Vec<_> = reader.map(|message| message.expect("whole")).collect();
                assert_eq!(found.len() as u64, 100 - from, "from {from}, map {map}");
                for (message, i) in found.iter().zip(from..) {
                    assert_eq!((message.offset(), message.payload()), (Offset(i), &payload(i)[..]));
                }
            }
        }
    }
}

#[test]
fn two_hundred_interleaved_topics_are_each_read_in_order() {
    const TOPICS: u64 = 200;
    for map in [true, false] {
        let machine = Machine::new(1);
        let options = || cold(map).segment_bytes(32 * 1024);
        let log = machine.open(options());
        let name = |i: u64| format!("topic {i}");
        let topics: Vec<_> = (0..TOPICS).map(|i| log.topic(&name(i)).expect("a topic")).collect();
        for round in 0..10 {
            for (i, topic) in (0..).zip(&topics) {
                topic.append(payload(i * 1000 + round)).expect("appends");
            }
        }
        let check = |topics: &[Topic]| {
            for (i, topic) in (0..).zip(topics) {
                let expected: Vec<_> = (0..10).map(|round| payload(i * 1000 + round)).collect();
                assert!(read_all(topic) == expected, "topic {i}");
                let middle = topic.read_from(Offset(6)).expect("reads").next();
                let middle = middle.expect("one").expect("whole");
                assert!(middle.payload() == payload(i * 1000 + 6), "topic {i}");
            }
        };
        check(&topics);
        log.close().expect("closes");
        drop(topics);
        let log = machine.open(options());
        let topics: Vec<_> = (0..TOPICS).map(|i| log.topic(&name(i)).expect("a topic")).collect();
        check(&topics);
    }
}

#[test]
fn a_reader_at_the_end_goes_on_when_more_comes() {
    let log = Machine::new(1).open(small());
    let topic = topic(&log);
    fill(&topic, 0..3);
    let mut reader = topic.read_from(Offset(3)).expect("the end");
    for i in 3..40 {
        assert!(reader.next().is_none());
        assert_eq!(reader.next_offset(), Offset(i));
        fill(&topic, i..i + 1);
        let message = reader.next().expect("one more").expect("whole");
        assert_eq!((message.offset(), message.payload()), (Offset(i), &payload(i)[..]));
    }
}

#[test]
fn readers_of_many_threads_see_only_whole_prefixes_while_others_append() {
    let machine = Machine::new(1);
    let log = machine.open(small().segment_bytes(16 * 1024).recent_bytes(8 * 1024));
    let topic = topic(&log);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut reader = topic.read_from(Offset(0)).expect("reads");
                let mut next = 0;
                while next < 600 {
                    match reader.next() {
                        Some(message) => {
                            let message = message.expect("whole");
                            assert!(message.payload() == payload(next), "message {next}");
                            next += 1;
                        }
                        None => std::thread::yield_now(),
                    }
                }
            });
        }
        scope.spawn(|| fill(&topic, 0..600));
    });
}

#[test]
fn a_time_is_found_in_any_segment() {
    for map in [true, false] {
        let machine = Machine::new(1);
        let log = machine.open(cold(map));
        let topic = topic(&log);
        for i in 0..100 {
            let record = Record::new(payload(i)).timestamp(at(1000 + 10 * i));
            topic.append(record).expect("appends");
        }
        let check = |topic: &Topic| {
            for i in 0..100 {
                let exact = topic.offset_at(at(1000 + 10 * i)).expect("finds");
                let between = topic.offset_at(at(1000 + 10 * i + 1)).expect("finds");
                assert_eq!((exact, between), (Offset(i), Offset(i + 1)));
            }
            assert_eq!(topic.offset_at(UNIX_EPOCH).expect("finds"), Offset(0));
            assert_eq!(topic.offset_at(at(1_000_000)).expect("finds"), Offset(100));
        };
        check(&topic);
        log.close().expect("closes");
        check(&self::topic(&machine.open(cold(map))));
    }
}

#[test]
fn a_time_is_found_among_timestamps_that_jump_back() {
    let machine = Machine::new(1);
    let log = machine.open(cold(true));
    let topic = topic(&log);
    // A clock that goes on by 10 and back by 90 every tenth message, and an outlier.
    let times: Vec<u64> =
        (0..120).map(|i| if i == 60 { 1 } else { 1000 + 10 * (i % 10) + i / 10 * 40 }).collect();
    for time in &times {
        topic.append(Record::new(vec![0; 300]).timestamp(at(*time))).expect("appends");
    }
    let check = |topic: &Topic| {
        for time in (0..1700).step_by(7) {
            let expected = times.iter().position(|found| *found >= time).unwrap_or(times.len());
            let found = topic.offset_at(at(time)).expect("finds");
            assert_eq!(found, Offset(expected as u64), "time {time}");
        }
    };
    check(&topic);
    log.close().expect("closes");
    check(&self::topic(&machine.open(cold(false))));
}

#[test]
fn times_of_other_topics_do_not_confuse() {
    let machine = Machine::new(1);
    let log = machine.open(cold(true));
    let (topic, other) = (topic(&log), log.topic("other").expect("a topic"));
    for i in 0..50 {
        topic.append(Record::new(payload(i)).timestamp(at(100 + i))).expect("appends");
        other.append(Record::new(payload(i)).timestamp(at(900_000 - i))).expect("appends");
    }
    for i in 0..50 {
        assert_eq!(topic.offset_at(at(100 + i)).expect("finds"), Offset(i));
    }
    assert_eq!(other.offset_at(at(1)).expect("finds"), Offset(0));
}

#[test]
fn records_of_every_size_are_read_back() {
    for map in [true, false] {
        let machine = Machine::new(1);
        let options = || Options::new().segment_bytes(1 << 20).recent_bytes(0).map_segments(map);
        let log = machine.open(options());
        let sizes: Vec<usize> =
            [0, 1, 7, 8, 9, 511, 512, 513, 4095, 65_535, 65_536, 262_143, 262_144, 262_145]
                .into_iter()
                .chain([1_000_000, 4 * 1024 * 1024, 0, 3, 4 * 1024 * 1024])
                .collect();
        let content = |i: usize, size: usize| -> Vec<u8> {
            (0..size).map(|at| u8::try_from((at * 31 + i) % 251).expect("below 251")).collect()
        };
        for (i, size) in sizes.iter().enumerate() {
            topic(&log).append(content(i, *size)).expect("appends");
        }
        let check = |topic: &Topic| {
            let found = read_all(topic);
            assert_eq!(found.len(), sizes.len());
            for (i, size) in sizes.iter().enumerate() {
                assert!(found[i] == content(i, *size), "record {i} of {size} bytes, map {map}");
            }
        };
        check(&topic(&log));
        log.close().expect("closes");
        check(&topic(&machine.open(options())));
    }
}

#[test]
fn sidecars_are_made_again_when_they_are_missing() {
    let machine = Machine::new(1);
    let log = machine.open(cold(true));
    fill(&topic(&log), 0..60);
    log.maintain().expect("writes the sidecars");
    log.close().expect("closes");
    let sidecars: Vec<_> =
        machine.disk.names().into_iter().filter(|name| has_suffix(name, "idx")).collect();
    assert!(sidecars.len() > 4);
    for name in &sidecars {
        machine.disk.delete(name);
    }
    let log = machine.open(cold(true));
    for from in (0..60).rev() {
        let message = topic(&log).read_from(Offset(from)).expect("reads").next();
        assert_eq!(message.expect("one").expect("whole").offset(), Offset(from));
    }
}

#[test]
fn a_sidecar_that_cannot_be_written_is_counted_and_does_not_matter() {
    let machine = Machine::new(1);
    let log = machine.open(cold(true));
    fill(&topic(&log), 0..12);
    machine.disk.fail_at(machine.disk.calls(), ackline::simulation::Fault::NoSpace);
    log.maintain().expect("goes on without");
    assert_eq!(log.stats().index_failures, 1);
    assert_holds(&topic(&log), 0..12);
}

#[test]
fn all_kinds_of_payloads_convert() {
    let log = Machine::new(1).open(small());
    let topic = topic(&log);
    topic.append("text").expect("appends");
    topic.append(b"array").expect("appends");
    topic.append(&b"slice"[..]).expect("appends");
    topic.append(b"vector".to_vec()).expect("appends");
    topic.append("string".to_owned()).expect("appends");
    topic.append(Record::default()).expect("appends");
    assert_eq!(read_all(&topic), [&b"text"[..], b"array", b"slice", b"vector", b"string", b""]);
}

#[test]
fn append_if_refuses_when_another_writer_was_first() {
    let log = Machine::new(1).open(small());
    let topic = topic(&log);
    assert_eq!(topic.append_if(Offset(0), "a").expect("appends").offset, Offset(0));
    assert_error!(
        topic.append_if(Offset(0), "b"),
        Error::Conflict { expected: Offset(0), actual: Offset(1) }
    );
    assert_error!(topic.append_if(Offset(2), "b"), Error::Conflict { .. });
    assert_eq!(topic.append_if(Offset(1), "b").expect("appends").offset, Offset(1));
    assert_eq!(read_all(&topic), [b"a", b"b"]);
}

#[test]
fn append_batch_gives_dense_offsets_in_one_frame() {
    let log = Machine::new(1).open(small());
    let topic = topic(&log);
    topic.append("x").expect("appends");
    let receipt = topic.append_batch((0..50).map(payload)).expect("appends");
    assert_eq!(receipt.offsets, Offset(1)..Offset(51));
    let reader = topic.read_from(Offset(1)).expect("reads");
    let frames: Vec<_> = reader.map(|message| message.expect("whole").position()).collect();
    assert!(frames.iter().all(|position| *position == receipt.position));
}
