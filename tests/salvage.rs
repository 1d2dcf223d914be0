//! Salvage keeps everything but what is damaged, says what is lost, and deletes nothing.

use std::sync::Arc;

use ackline::simulation::{SimClock, SimDisk, salvage_on};
use ackline::{Error, Log, Offset, Options, Position};

const MESSAGES: u64 = 400;

fn open(disk: &SimDisk) -> Result<Log, Error> {
    Options::new()
        .segment_bytes(8192)
        .recent_bytes(0)
        .simulated(Arc::new(SimClock::new()), 1)
        .open_on(disk.storage())
}

/// A log of several segments, closed cleanly.
fn written() -> (SimDisk, Vec<String>) {
    let disk = SimDisk::new(3);
    let log = open(&disk).expect("opens");
    let topic = log.topic("t").expect("a topic");
    for i in 0..MESSAGES {
        topic.append(payload(i)).expect("appends");
    }
    // Writes the sidecars: they must not point at what salvage finds lost.
    log.maintain().expect("writes the sidecars");
    log.close().expect("closes");
    let segments: Vec<_> = disk.names().into_iter().filter(|name| name.contains(".seg")).collect();
    assert!(segments.len() > 4, "several segments");
    (disk, segments)
}

fn payload(i: u64) -> String {
    format!("message {i} {}", "z".repeat(usize::try_from(i % 50).expect("small")))
}

#[test]
fn an_index_from_before_points_at_nothing_that_is_lost() {
    let (disk, segments) = written();
    assert!(disk.names().iter().any(|name| name.contains(".idx")));
    disk.kill();
    // All frames of a segment but the first.
    let bytes = disk.file(&segments[1]).expect("there");
    let frame = |from: usize| bytes[from..].windows(4).position(|magic| magic == b"AKLF");
    let first = frame(0).expect("a frame");
    let second = first + 4 + frame(first + 4).expect("another one");
    disk.overwrite(&segments[1], second as u64, &vec![0; bytes.len() - second - 64]);
    disk.kill();
    salvage_on(&*disk.storage()).expect("salvages");
    disk.kill();
    let log = open(&disk).expect("a salvaged log opens");
    let topic = log.topic("t").expect("a topic");
    // Each start asks the index anew.
    let mut gone = 0;
    for offset in 0..MESSAGES {
        match topic.read_from(Offset(offset)).expect("reads").next() {
            Some(Ok(message)) => assert_eq!(message.offset(), Offset(offset)),
            Some(Err(Error::Lagged { from, .. })) => gone += u64::from(from == Offset(offset)),
            other => panic!("{offset}: {other:?}"),
        }
    }
    assert!(gone > 10, "{gone} are gone");
}

/// What can be read, and the ranges that readers are told are gone.
fn read(disk: &SimDisk) -> (Vec<u64>, Vec<(u64, u64)>) {
    let log = open(disk).expect("a salvaged log opens");
    let topic = log.topic("t").expect("a topic");
    let (mut offsets, mut gone) = (Vec::new(), Vec::new());
    for message in topic.read_from(Offset(0)).expect("reads") {
        match message {
            Ok(message) => {
                assert_eq!(message.payload(), payload(message.offset().0).as_bytes());
                offsets.push(message.offset().0);
            }
            Err(Error::Lagged { from, to }) => gone.push((from.0, to.0)),
            Err(error) => panic!("{error}"),
        }
    }
    topic.append("goes on").expect("a salvaged log can be written to");
    drop(topic);
    log.close().expect("closes");
    (offsets, gone)
}

/// Damages the log, and checks that salvage loses little and says what.
fn check(damage: impl Fn(&SimDisk, &[String]), lost_at_most: u64) {
    let (disk, segments) = written();
    disk.kill();
    damage(&disk, &segments);
    let damaged: Vec<_> = segments.iter().map(|name| disk.file(name)).collect();
    let refused = open(&disk).and_then(|log| {
        let topic = log.topic("t")?;
        topic.read_from(Offset(0))?.collect::<Result<Vec<_>, _>>().map(|_| ())
    });
    assert!(matches!(refused, Err(Error::Corrupt { .. })), "{refused:?}");
    disk.kill();
    let report = salvage_on(&*disk.storage()).expect("salvages");
    assert!(!report.lost.is_empty(), "the report says what is lost");
    disk.kill();
    let (offsets, gone) = read(&disk);
    let missing = MESSAGES - offsets.len() as u64;
    assert!(missing <= lost_at_most, "{missing} are missing");
    let told: u64 = gone.iter().map(|(from, to)| to - from).sum();
    let at_end = MESSAGES - offsets.last().map_or(0, |last| last + 1);
    assert_eq!(told + at_end, missing, "readers are told: {gone:?}");
    for name in &report.quarantined {
        let original = name.trim_end_matches(".damaged");
        let i = segments.iter().position(|segment| segment == original).expect("a segment");
        assert_eq!(disk.quarantined_file(name), damaged[i], "the damaged file is kept");
    }
    disk.kill();
    let again = salvage_on(&*disk.storage()).expect("salvages");
    assert!(again.lost.is_empty(), "a salvaged log is whole: {again:?}");
}

#[test]
fn a_flipped_bit_in_an_old_segment_costs_one_frame() {
    check(|disk, segments| disk.flip_bit(&segments[1], 3000, 3), 1);
}

#[test]
fn a_flipped_bit_in_the_newest_segment_costs_one_frame() {
    check(
        |disk, segments| {
            let newest = segments.last().expect("segments");
            let head = disk.file(newest).expect("there");
            let first = head.windows(4).position(|magic| magic == b"AKLF").expect("a frame");
            disk.flip_bit(newest, first as u64 + 70, 3);
        },
        1,
    );
}

#[test]
fn a_damaged_head_costs_no_message() {
    check(|disk, segments| disk.flip_bit(&segments[2], 30, 0), 0);
}

#[test]
fn a_damaged_head_of_the_oldest_segment_costs_no_message() {
    check(|disk, segments| disk.flip_bit(&segments[0], 30, 0), 0);
}

#[test]
fn a_damaged_head_of_the_oldest_segment_that_retention_left_costs_no_message() {
    let disk = SimDisk::new(3);
    let clock = SimClock::new();
    let options = |seed| {
        let options = Options::new().segment_bytes(8192).recent_bytes(0);
        options.simulated(Arc::new(clock.clone()), seed)
    };
    let log = options(1).open_on(disk.storage()).expect("opens");
    let topic = log.topic("t").expect("a topic");
    let group = topic.group("g").expect("a group");
    for i in 0..MESSAGES {
        topic.append(payload(i)).expect("appends");
    }
    group.commit_through(Offset(MESSAGES / 2)).expect("commits");
    log.maintain().expect("deletes what is consumed");
    let start = topic.offsets().start;
    assert!(start > Offset(0), "retention has deleted something");
    drop((topic, group));
    log.close().expect("closes");
    let oldest = disk.names().into_iter().find(|name| name.contains(".seg")).expect("a segment");
    for byte in [30, 130] {
        let damaged = disk.fork();
        damaged.flip_bit(&oldest, byte, 0);
        damaged.kill();
        let report = salvage_on(&*damaged.storage()).expect("salvages");
        assert_eq!(report.lost.len(), 1, "{report:?}");
        damaged.kill();
        let log = options(2).open_on(damaged.storage()).expect("a salvaged log opens");
        let topic = log.topic("t").expect("a topic");
        let read = topic.read_from(topic.offsets().start).expect("reads");
        let whole: Vec<_> = read.filter_map(Result::ok).collect();
        let offsets = whole.iter().map(|message| message.offset().0);
        assert!(offsets.eq(start.0..MESSAGES), "all that retention left is there");
        for message in &whole {
            assert_eq!(message.payload(), payload(message.offset().0).as_bytes());
        }
        let group = topic.group("g").expect("a group");
        let polled = group.poll(1, std::time::Duration::ZERO).expect("polls");
        assert_eq!(polled[0].offset(), Offset(MESSAGES / 2 + 1), "its progress is kept");
    }
}

#[test]
fn a_missing_segment_costs_what_was_in_it() {
    check(|disk, segments| disk.delete(&segments[2]), 80);
}

#[test]
fn a_missing_newest_segment_costs_what_was_in_it() {
    check(|disk, segments| disk.delete(segments.last().expect("segments")), 80);
}

#[test]
fn a_damaged_header_of_the_only_frame_says_neither_the_salt_nor_where_the_log_ends() {
    let disk = SimDisk::new(3);
    let log = open(&disk).expect("opens");
    log.topic("t").expect("a topic");
    log.close().expect("closes");
    let name = disk.names().pop().expect("a segment");
    let bytes = disk.file(&name).expect("there");
    let frame = bytes.windows(4).position(|magic| magic == b"AKLF").expect("a frame");
    for bit in 0..64 * 8_u64 {
        let damaged = disk.fork();
        damaged.flip_bit(&name, frame as u64 + bit / 8, u8::try_from(bit % 8).expect("below 8"));
        let refused = open(&damaged);
        assert!(matches!(refused, Err(Error::Corrupt { .. } | Error::UnsupportedVersion { .. })));
        damaged.kill();
        let report = salvage_on(&*damaged.storage()).expect("one frame is lost and no more");
        assert!(matches!(&report.lost[..], [lost] if lost.to == Position(96)), "{report:?}");
        damaged.kill();
        let log = open(&damaged).expect("a salvaged log opens");
        assert!(log.topics().is_empty(), "nothing vouches for what a damaged header says");
    }
}

#[test]
fn a_whole_log_is_left_alone() {
    let (disk, segments) = written();
    disk.kill();
    let before: Vec<_> = segments.iter().map(|name| disk.file(name)).collect();
    let report = salvage_on(&*disk.storage()).expect("salvages");
    assert_eq!(
        (report.segments, report.lost.len(), report.quarantined.len()),
        (segments.len(), 0, 0)
    );
    let after: Vec<_> = segments.iter().map(|name| disk.file(name)).collect();
    assert_eq!(before, after);
}

#[test]
fn a_log_that_is_open_is_not_salvaged() {
    let (disk, segments) = written();
    disk.flip_bit(&segments[1], 600, 0);
    let log = open(&disk).expect("the damage lies in an older segment");
    let refused = salvage_on(&*disk.storage());
    assert!(matches!(refused, Err(Error::Locked { .. })), "{refused:?}");
    log.close().expect("closes");
    assert!(!salvage_on(&*disk.storage()).expect("salvages").lost.is_empty());
}

#[test]
fn a_segment_with_a_wrong_name_is_refused_rather_than_filled_up_to() {
    let (disk, segments) = written();
    disk.kill();
    let newest = segments.last().expect("segments");
    disk.rename_durable(newest, "09000000000000000000.seg");
    let refused = salvage_on(&*disk.storage());
    assert!(matches!(refused, Err(Error::Corrupt { .. })), "{refused:?}");
}
