//! Files that were cut, emptied, renamed, swapped, lost: promised records are never lost
//! silently, and refusing to open changes nothing.

use ackline::simulation::{Crash, SimDisk, salvage_on};
use ackline::{Ending, Error, Offset, Record};

use crate::common::{
    Machine, assert_holds, fill, has_suffix, is_segment, payload, small, start, try_read_all,
};

const RECORDS: u64 = 60;

/// A log of several segments with sidecars, cleanly closed.
fn made(seed: u64) -> Machine {
    let machine = Machine::new(seed);
    let log = machine.open(small());
    fill(&log.topic("t").expect("a topic"), 0..RECORDS);
    log.maintain().expect("writes the sidecars");
    log.close().expect("closes");
    assert!(segment_names(&machine.disk).len() > 5, "there are several segments");
    machine
}

/// Where the frames of a segment and the marker behind them end; its last two sectors are for
/// echoes.
fn used(bytes: &[u8]) -> u64 {
    let frames = &bytes[..bytes.len() - 1024];
    frames.iter().rposition(|byte| *byte != 0).expect("records") as u64 + 1
}

fn segment_names(disk: &SimDisk) -> Vec<String> {
    disk.names().into_iter().filter(|name| is_segment(name)).collect()
}

/// Does `damage` to a log, expects opening to be refused without a change to any segment, and
/// expects everything to be there again once the damage is undone.
fn refused(damage: impl Fn(&SimDisk, &[String]), is_expected: impl Fn(&Error) -> bool) {
    let machine = made(1);
    let intact = machine.segments();
    damage(&machine.disk, &segment_names(&machine.disk));
    let damaged = machine.segments();
    let error = machine.try_open(small()).expect_err("damage is not opened");
    assert!(is_expected(&error), "{error:?}");
    assert!(machine.segments() == damaged, "a refused open changes no segment");
    for (name, _) in &damaged {
        machine.disk.delete(name);
    }
    for (name, bytes) in &intact {
        machine.disk.put(name, bytes);
    }
    let log = machine.open(small());
    assert_eq!(log.report().ending, Ending::Closed);
    assert_holds(&log.topic("t").expect("a topic"), 0..RECORDS);
}

fn is_corrupt(name: &str) -> impl Fn(&Error) -> bool + '_ {
    move |error| matches!(error, Error::Corrupt { file, .. } if file == name)
}

fn any_corrupt(error: &Error) -> bool {
    matches!(error, Error::Corrupt { .. })
}

#[test]
fn the_newest_segment_cut_below_what_was_promised_is_refused() {
    for size in [1, 127, 128, 511, 512, 600, 1000, 1700] {
        refused(|disk, names| disk.truncate(&names[names.len() - 1], size), any_corrupt);
    }
}

#[test]
fn a_newest_segment_that_was_cut_can_be_salvaged() {
    let machine = made(1);
    let newest = segment_names(&machine.disk).pop().expect("a segment");
    machine.disk.truncate(&newest, 1700);
    let report = salvage_on(&*machine.disk.storage()).expect("salvages");
    assert!(!report.lost.is_empty(), "it says that something is lost");
    let log = machine.fork().open(small());
    let topic = log.topic("t").expect("a topic");
    let left = topic.offsets().end.0;
    assert!(left > RECORDS - 8 && left < RECORDS, "{left}");
    assert_holds(&topic, 0..left);
    fill(&topic, left..left + 5);
}

#[test]
fn the_newest_segment_cut_behind_its_records_loses_nothing() {
    let machine = made(1);
    let names = segment_names(&machine.disk);
    let newest = &names[names.len() - 1];
    let bytes = machine.disk.file(newest).expect("it was listed");
    let used = used(&bytes);
    assert!(used + 64 < bytes.len() as u64, "some of it is not written yet");
    machine.disk.truncate(newest, used.next_multiple_of(8));
    match machine.try_open(small()) {
        Ok(log) => assert_holds(&log.topic("t").expect("a topic"), 0..RECORDS),
        // To refuse what no crash leaves behind is as good: nothing is lost.
        Err(error) => assert!(any_corrupt(&error), "{error:?}"),
    }
}

#[test]
fn a_torn_tail_behind_the_watermark_is_dropped_and_reported() {
    let machine = Machine::new(1);
    let log = machine.open(small());
    let topic = log.topic("t").expect("a topic");
    fill(&topic, 0..3);
    let newest = segment_names(&machine.disk).pop().expect("a segment");
    let bytes = machine.disk.file(&newest).expect("it was listed");
    let used = used(&bytes);
    machine.disk.kill();
    drop((topic, log));
    machine.disk.overwrite(&newest, used.next_multiple_of(8), b"AKLF half a header");
    let log = machine.open(small());
    assert!(log.report().dropped_torn_tail);
    assert_eq!(log.report().ending, Ending::Unclean);
    assert_holds(&log.topic("t").expect("a topic"), 0..3);
}

#[test]
fn an_older_segment_cut_short_is_refused() {
    for size in [0, 1, 127, 128, 600, 2000] {
        refused(|disk, names| disk.truncate(&names[2], size), any_corrupt);
        refused(|disk, names| disk.truncate(&names[0], size), any_corrupt);
    }
}

#[test]
fn an_emptied_segment_is_refused() {
    for which in [0, 3] {
        let empty = |disk: &SimDisk, names: &[String]| disk.truncate(&names[which], 0);
        refused(empty, any_corrupt);
    }
    refused(|disk, names| disk.truncate(&names[names.len() - 1], 0), any_corrupt);
}

#[test]
fn a_zeroed_segment_is_refused() {
    for which in [0, 3, usize::MAX] {
        let zero = |disk: &SimDisk, names: &[String]| {
            let which = which.min(names.len() - 1);
            disk.overwrite(&names[which], 0, &[0; 4096]);
        };
        refused(zero, any_corrupt);
    }
}

#[test]
fn a_renamed_segment_is_refused() {
    // Another position, in front, in between and behind.
    for to in ["00000000000000000001.seg", "00000000000000005001.seg", "00000000000099999999.seg"] {
        refused(|disk, names| disk.rename_durable(&names[3], to), any_corrupt);
        refused(|disk, names| disk.rename_durable(&names[names.len() - 1], to), any_corrupt);
    }
}

#[test]
fn a_misnamed_segment_is_refused_by_its_name() {
    for to in ["12.seg", "copy of 3.seg", "99999999999999999999.seg", ".seg"] {
        refused(|disk, names| disk.rename_durable(&names[3], to), is_corrupt(to));
        refused(
            |disk, names| {
                let copy = disk.file(&names[3]).expect("it was listed");
                disk.put(to, &copy);
            },
            is_corrupt(to),
        );
    }
}

#[test]
fn two_swapped_segments_are_refused() {
    let swap = |a: usize, b: usize| {
        move |disk: &SimDisk, names: &[String]| {
            let (a, b) = (&names[a.min(names.len() - 1)], &names[b.min(names.len() - 1)]);
            disk.rename_durable(a, "aside");
            disk.rename_durable(b, a);
            disk.rename_durable("aside", b);
        }
    };
    refused(swap(1, 2), any_corrupt);
    refused(swap(0, 4), any_corrupt);
    refused(swap(2, usize::MAX), any_corrupt);
}

#[test]
fn a_segment_of_another_log_is_refused() {
    // A log with the same records and the same segments, but another identity.
    let other = Machine::new(9);
    let log = small()
        .simulated(std::sync::Arc::new(other.clock.clone()), 77)
        .open_on(other.disk.storage())
        .expect("opens");
    fill(&log.topic("t").expect("a topic"), 0..RECORDS);
    log.close().expect("closes");
    for which in [0, 3, usize::MAX] {
        let replace = |disk: &SimDisk, names: &[String]| {
            let name = &names[which.min(names.len() - 1)];
            disk.put(name, &other.disk.file(name).expect("the same names"));
        };
        refused(replace, any_corrupt);
    }
}

#[test]
fn a_missing_segment_is_refused_by_its_name() {
    let names = segment_names(&made(1).disk);
    refused(|disk, names| disk.delete(&names[3]), is_corrupt(&names[3]));
    let newest = &names[names.len() - 1];
    refused(|disk, names| disk.delete(&names[names.len() - 1]), is_corrupt(newest));
}

#[test]
fn all_segments_missing_but_an_index_is_refused() {
    refused(
        |disk, names| {
            for name in names {
                disk.delete(name);
            }
        },
        any_corrupt,
    );
}

/// Without its oldest segment a log looks as if retention had deleted it, so it opens; but what
/// is gone is told, to readers and to groups.
#[test]
fn a_missing_oldest_segment_is_told_to_readers_and_groups() {
    let machine = Machine::new(1);
    let log = machine.open(small());
    let topic = log.topic("t").expect("a topic");
    topic.group("g").expect("a group");
    fill(&topic, 0..RECORDS);
    log.close().expect("closes");
    drop(topic);
    let oldest = segment_names(&machine.disk).swap_remove(0);
    let bytes = machine.disk.file(&oldest).expect("it was listed");
    let damaged = machine.fork();
    damaged.disk.delete(&oldest);
    let log = damaged.open(small());
    let topic = log.topic("t").expect("a topic");
    let first = start(&topic);
    assert!(first > Offset(0));
    assert_error!(
        topic.read_from(Offset(0)),
        Error::OffsetOutOfRange { start, .. } if start == first
    );
    let group = topic.group("g").expect("a group");
    assert_error!(
        group.poll(1, std::time::Duration::ZERO),
        Error::Lagged { from: Offset(0), to } if to == first
    );
    assert_holds(&topic, first.0..RECORDS);
    drop((log, topic, group));
    // The file of a log that was not written to since can be put back.
    let restored = machine.fork();
    restored.disk.put(&oldest, &bytes);
    assert_holds(&restored.open(small()).topic("t").expect("a topic"), 0..RECORDS);
}

#[test]
fn a_newer_format_is_refused_as_such() {
    for which in [0, 3, usize::MAX] {
        refused(
            |disk, names| disk.overwrite(&names[which.min(names.len() - 1)], 4, &[9]),
            |error| matches!(error, Error::UnsupportedVersion { found: 9, supported: 1, .. }),
        );
    }
}

#[test]
fn index_files_do_not_matter() {
    let machine = made(1);
    let names: Vec<_> =
        machine.disk.names().into_iter().filter(|name| has_suffix(name, "idx")).collect();
    assert!(names.len() > 3, "there are sidecars");
    let check = |damage: &dyn Fn(&SimDisk)| {
        let fork = machine.fork();
        damage(&fork.disk);
        let log = fork.open(small());
        let topic = log.topic("t").expect("a topic");
        assert_holds(&topic, 0..RECORDS);
        let one = topic.read_from(Offset(11)).expect("reads").next().expect("one").expect("whole");
        assert_eq!(one.offset(), Offset(11));
    };
    check(&|disk| names.iter().for_each(|name| disk.delete(name)));
    check(&|disk| names.iter().for_each(|name| disk.truncate(name, 0)));
    check(&|disk| names.iter().for_each(|name| disk.truncate(name, 57)));
    check(&|disk| names.iter().for_each(|name| disk.overwrite(name, 20, b"garbage")));
    let large = vec![255; 100_000];
    check(&|disk| names.iter().for_each(|name| disk.put(name, &large)));
    check(&|disk| {
        let first = disk.file(&names[0]).expect("it was listed");
        for name in &names {
            disk.put(name, &first);
        }
    });
    check(&|disk| disk.put("00000000000000000007.idx", b"of no segment"));
}

#[test]
fn damage_in_an_older_segment_is_an_error_where_it_is_read_and_nowhere_else() {
    let machine = made(1);
    let names = segment_names(&machine.disk);
    machine.disk.overwrite(&names[3], 2000, b"damaged");
    let log = machine.open(small());
    let topic = log.topic("t").expect("a topic");
    assert_error!(try_read_all(&topic), Error::Corrupt { file, .. } if file == names[3]);
    let later = topic.read_from(Offset(45)).expect("reads");
    let later: Vec<_> = later.map(|message| message.expect("whole").offset().0).collect();
    assert_eq!(later, (45..RECORDS).collect::<Vec<_>>());
    topic.append(Record::new("the log goes on")).expect("appends");
}

/// Whatever was the last thing that a process did: once the log was opened again, nobody can
/// take the newest segment away unnoticed.
#[test]
fn the_loss_of_the_newest_segment_is_noticed_after_any_crash() {
    let mut tried = 0;
    for crash in [Crash::Kill, Crash::Power] {
        for call in 0..80 {
            let machine = Machine::new(call);
            let log = machine.open(small());
            let topic = log.topic("t").expect("a topic");
            machine.disk.die_at(machine.disk.calls() + call);
            while topic.append(payload(0)).is_ok() {}
            machine.disk.crash(crash);
            drop(log);
            machine.open(small()).close().expect("closes");
            let names = segment_names(&machine.disk);
            let [.., _, newest] = names.as_slice() else { continue };
            machine.disk.delete(newest);
            assert_error!(machine.try_open(small()), Error::Corrupt { .. });
            tried += 1;
        }
    }
    assert!(tried > 50, "there were several segments, {tried} times");
}
