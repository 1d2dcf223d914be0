//! What opening finds and does after each kind of end.

#[macro_use]
mod common;

use std::time::Duration;

use ackline::simulation::{Crash, Fault, salvage_on};
use ackline::{Ending, Error, Log, Media, Offset, Options, SyncPolicy, Topic};

use common::{Machine, assert_holds, fill, has_suffix, is_segment, payload, read_all, small};

fn topic(log: &Log) -> Topic {
    log.topic("t").expect("a topic")
}

/// Ends the process and opens again.
fn reopen(machine: &Machine, log: Log, crash: Crash) -> Log {
    machine.disk.crash(crash);
    drop(log);
    machine.open(small())
}

#[test]
fn a_new_log_is_reported_as_new() {
    let log = Machine::new(1).open(small());
    let report = log.report();
    assert_eq!((report.ending, report.segments), (Ending::New, 1));
    assert_eq!((report.replayed_bytes, report.rewritten_bytes), (0, 0));
    assert!(!report.dropped_torn_tail);
}

#[test]
fn a_closed_log_is_reported_as_closed_and_goes_on_in_place() {
    let machine = Machine::new(1);
    let log = machine.open(small());
    fill(&topic(&log), 0..5);
    log.close().expect("closes");
    let before = machine.segments().len();
    let log = machine.open(small());
    assert_eq!(log.report().ending, Ending::Closed);
    assert_eq!(log.report().rewritten_bytes, 0);
    assert!(log.report().replayed_bytes > 0);
    fill(&topic(&log), 5..6);
    assert_eq!(machine.segments().len(), before);
    assert_holds(&topic(&log), 0..6);
}

#[test]
fn an_unclean_end_writes_the_unproven_tail_again() {
    for crash in [Crash::Kill, Crash::Power] {
        let machine = Machine::new(1);
        let log = machine.open(small());
        fill(&topic(&log), 0..5);
        let log = reopen(&machine, log, crash);
        assert_eq!(log.report().ending, Ending::Unclean);
        // The last record was synced, but no header says so.
        assert!(log.report().rewritten_bytes > 0);
        assert!(!log.report().dropped_torn_tail);
        assert_holds(&topic(&log), 0..5);
        fill(&topic(&log), 5..10);
        assert_holds(&topic(&log), 0..10);
    }
}

#[test]
fn what_lies_behind_a_copied_end_is_cut_off_unless_it_is_little() {
    const FILE_BYTES: u64 = 16 * 1024;
    let (mut cut, mut left) = (0, 0);
    for records in 2.. {
        let machine = Machine::new(1);
        let options = || small().segment_bytes(FILE_BYTES);
        let log = machine.open(options());
        fill(&topic(&log), 0..records);
        if log.stats().rolls > 0 {
            break;
        }
        machine.disk.crash(Crash::Kill);
        drop(log);
        let log = machine.open(options());
        let files: Vec<u64> =
            machine.segments().iter().map(|(_, bytes)| bytes.len() as u64).collect();
        assert_eq!((files.len(), log.stats().segments), (2, 2), "{records} records");
        assert_eq!(log.stats().segment_bytes, files.iter().sum::<u64>());
        let used = log.report().replayed_bytes - log.report().rewritten_bytes;
        if files[0] == FILE_BYTES {
            assert!(used >= FILE_BYTES * 3 / 4, "{used} bytes are used");
            left += 1;
        } else {
            assert!(files[0] < used + 1024, "{} bytes for {used}", files[0]);
            cut += 1;
        }
        assert_holds(&topic(&log), 0..records);
    }
    assert!(cut > 0 && left > 0, "{cut} cut, {left} left");
}

#[test]
fn the_end_of_an_idle_process_leaves_nothing_to_write_again() {
    for crash in [Crash::Kill, Crash::Power] {
        let machine = Machine::new(1);
        let log = machine.open(small());
        fill(&topic(&log), 0..5);
        machine.advance(Duration::from_secs(1));
        log.maintain().expect("marks the end");
        let before = machine.segments().len();
        let log = reopen(&machine, log, crash);
        assert_eq!(log.report().ending, Ending::Unclean);
        assert_eq!(log.report().rewritten_bytes, 0);
        fill(&topic(&log), 5..6);
        assert_eq!(machine.segments().len(), before, "it goes on in place");
        assert_holds(&topic(&log), 0..6);
    }
}

#[test]
fn a_torn_write_is_dropped_and_reported_and_only_that() {
    let (mut torn, mut kept) = (0, 0);
    for seed in 0..200 {
        let machine = Machine::new(seed);
        let log = machine.open(small());
        fill(&topic(&log), 0..3);
        // The process ends between the write and its sync.
        machine.disk.die_at(machine.disk.calls() + 1);
        topic(&log).append(vec![9; 800]).expect_err("the process died");
        let log = reopen(&machine, log, Crash::Power);
        let found = read_all(&topic(&log));
        assert!(found.len() == 3 || found[3] == [9; 800], "seed {seed}");
        assert!(!log.report().dropped_torn_tail || found.len() == 3, "seed {seed}");
        torn += u32::from(log.report().dropped_torn_tail);
        kept += u32::from(found.len() == 4);
    }
    assert!(torn > 0 && kept > 0, "{torn} torn, {kept} kept");
}

#[test]
fn opening_twice_gives_the_same() {
    for crash in [Crash::Kill, Crash::Power] {
        let machine = Machine::new(3);
        let log = machine.open(small());
        fill(&topic(&log), 0..20);
        machine.disk.die_at(machine.disk.calls() + 1);
        topic(&log).append(vec![9; 500]).expect_err("the process died");
        let log = reopen(&machine, log, crash);
        let first = read_all(&topic(&log));
        let log = reopen(&machine, log, crash);
        assert_eq!(read_all(&topic(&log)), first);
        let log = reopen(&machine, log, crash);
        assert_eq!(read_all(&topic(&log)), first);
        assert!(!log.report().dropped_torn_tail, "it was dropped the first time");
    }
}

#[test]
fn a_crash_at_any_call_of_opening_changes_nothing() {
    let machine = Machine::new(3);
    let log = machine.open(small());
    fill(&topic(&log), 0..20);
    machine.disk.crash(Crash::Power);
    drop(log);
    for call in 0.. {
        let again = machine.fork();
        again.disk.reseed(call);
        let first = again.disk.calls();
        again.disk.die_at(first + call);
        let outcome = again.try_open(small());
        let finished = outcome.is_ok();
        again.disk.crash(Crash::Power);
        drop(outcome);
        assert_holds(&topic(&again.open(small())), 0..20);
        if finished {
            assert!(call > 10, "opening makes many calls");
            return;
        }
    }
}

#[test]
fn a_closed_marker_does_not_outlive_an_opening_whose_sync_failed() {
    let machine = Machine::new(1);
    let log = machine.open(small());
    fill(&topic(&log), 0..3);
    log.close().expect("closes");
    let mut struck = 0;
    for call in 0..30 {
        let fork = machine.fork();
        fork.disk.fail_at(fork.disk.calls() + call, Fault::SyncLost);
        if fork.try_open(small()).is_ok() {
            continue;
        }
        struck += 1;
        // What the cache shows of the first opening never got to the disk.
        let log = fork.open(small());
        let log = reopen(&fork, log, Crash::Power);
        assert_eq!(log.report().ending, Ending::Unclean, "call {call}");
        assert_holds(&topic(&log), 0..3);
    }
    assert!(struck > 0, "opening a closed log syncs something");
}

#[test]
fn a_large_log_that_was_closed_opens_without_reading_it_all() {
    let machine = Machine::new(1);
    let log = machine.open(Options::new());
    let append = |log: &Log| topic(log).append(vec![7; 1024 * 1024]).expect("appends");
    while log.stats().rolls < 4 {
        append(&log);
    }
    // These are in the segment that is written to: more than opening should have to read.
    for _ in 0..5 {
        append(&log);
    }
    let last = append(&log);
    assert_eq!(log.stats().rolls, 4);
    log.close().expect("closes");
    let log = machine.open(Options::new());
    assert_eq!(log.report().ending, Ending::Closed);
    assert!(log.report().replayed_bytes < 1024 * 1024, "{:?}", log.report());
    assert_eq!(topic(&log).offsets().end, last.offset.next());
    assert_eq!(read_all(&topic(&log)).len() as u64, last.offset.0 + 1);
}

#[test]
fn groups_and_topics_come_back_from_the_checkpoint_alone() {
    let machine = Machine::new(1);
    let log = machine.open(small());
    for i in 0..30 {
        let topic = log.topic(&format!("topic {i}")).expect("a topic");
        topic.group(&format!("group {i}")).expect("a group");
        topic.append(format!("{i}")).expect("appends");
    }
    fill(&topic(&log), 0..60);
    log.close().expect("closes");
    let log = machine.open(small());
    assert_eq!(log.topics().len(), 31);
    for i in 0..30 {
        let topic = log.topic(&format!("topic {i}")).expect("a topic");
        assert_eq!(log.groups(&topic), [format!("group {i}")]);
        assert_eq!(read_all(&topic), [format!("{i}").into_bytes()]);
    }
}

#[test]
fn every_policy_keeps_what_it_promises() {
    let interval = SyncPolicy::Interval { every: Duration::from_secs(1), bytes: 1 << 20 };
    for (policy, survives_power) in [
        (SyncPolicy::EachAppend, true),
        (SyncPolicy::GroupCommit { linger: Duration::ZERO }, true),
        (interval, false),
        (SyncPolicy::Never, false),
    ] {
        for crash in [Crash::Kill, Crash::Power] {
            for seed in 0..20 {
                let machine = Machine::new(seed);
                let log = machine.open(small().sync(policy));
                fill(&topic(&log), 0..4);
                log.sync().expect("syncs");
                fill(&topic(&log), 4..20);
                let log = reopen(&machine, log, crash);
                let found = read_all(&topic(&log)).len() as u64;
                let least = if survives_power || crash == Crash::Kill { 20 } else { 4 };
                assert!((least..=20).contains(&found), "{policy:?} {crash:?} {seed}: {found}");
                assert_holds(&topic(&log), 0..found);
            }
        }
    }
}

#[test]
fn an_interval_shows_messages_once_they_are_synced() {
    let machine = Machine::new(1);
    let interval = SyncPolicy::Interval { every: Duration::from_secs(1), bytes: 1 << 20 };
    let log = machine.open(small().segment_bytes(1 << 20).sync(interval));
    fill(&topic(&log), 0..5);
    assert_eq!(topic(&log).offsets().end.0, 0);
    log.maintain().expect("nothing is due");
    assert_eq!(topic(&log).offsets().end.0, 0);
    machine.advance(Duration::from_secs(1));
    log.maintain().expect("syncs");
    assert_holds(&topic(&log), 0..5);
}

#[test]
fn a_log_with_background_threads_ends_cleanly_each_time_it_is_closed() {
    let dir = tempfile::tempdir().expect("a directory");
    for round in 0..60 {
        let log = Options::new().segment_bytes(64 * 1024).open(dir.path()).expect("opens");
        let expected = if round == 0 { Ending::New } else { Ending::Closed };
        assert_eq!(log.report().ending, expected, "round {round}");
        let group = topic(&log).group("g").expect("a group");
        // What the background commits must not keep the end from being marked.
        fill(&topic(&log), round..round + 1);
        for message in group.poll(10, Duration::from_secs(60)).expect("polls") {
            message.ack().expect("acks");
        }
        topic(&log).submit("nobody waits for it").detach();
        log.close().expect("closes");
    }
}

#[test]
fn dropping_the_last_handle_closes_the_log_in_the_background() {
    let dir = tempfile::tempdir().expect("a directory");
    let open = || Options::new().lock_timeout(Duration::from_secs(60)).open(dir.path());
    let log = open().expect("opens");
    let other = topic(&log);
    drop(log);
    fill(&other, 0..3);
    assert_error!(
        Options::new().lock_timeout(Duration::ZERO).open(dir.path()),
        Error::Locked { .. }
    );
    drop(other);
    let log = open().expect("the lock is let go of");
    assert_eq!(log.report().ending, Ending::Closed);
    assert_holds(&topic(&log), 0..3);
}

#[test]
fn nothing_but_segments_and_sidecars_is_left_behind() {
    let machine = Machine::new(1);
    let log = machine.open(small());
    fill(&topic(&log), 0..60);
    log.maintain().expect("keeps files");
    log.close().expect("closes");
    let ours = |name: &String| is_segment(name) || has_suffix(name, "idx");
    assert!(machine.disk.names().iter().all(ours), "{:?}", machine.disk.names());
}

fn whole_sectors() -> Options {
    small().media(Media::WholeSectors)
}

/// A log of two records and so many more, the first of which is one that the log got when it went on
/// in another way.
fn with_a_frame_of_another_history(more: u64, closed: bool) -> Machine {
    let machine = Machine::new(1);
    let log = machine.open(whole_sectors());
    fill(&topic(&log), 0..2);
    log.close().expect("closes");
    let other = machine.fork();
    fill(&topic(&other.open(whole_sectors())), 7..8);
    let log = machine.open(whole_sectors());
    fill(&topic(&log), 2..2 + more);
    if closed {
        log.close().expect("closes");
    }
    machine.disk.crash(Crash::Kill);
    let (name, bytes) = machine.segments().pop().expect("a segment");
    let old = other.disk.file(&name).expect("both have the same segment");
    let at = other_sector(&bytes, &old, 0);
    machine.disk.overwrite(&name, at as u64, &old[at..at + 512]);
    machine
}

/// A disk that gives back a sector from a life of the file in which the log went on in another
/// way: what is there is whole and lies where it belongs, and only what follows it contradicts.
#[test]
fn a_frame_of_another_history_is_found_by_what_follows_it() {
    for closed in [false, true] {
        let machine = with_a_frame_of_another_history(2, closed);
        assert_error!(machine.try_open(whole_sectors()), Error::Corrupt { .. });
        let report = salvage_on(&*machine.disk.storage()).expect("salvages");
        assert_eq!(report.lost.len(), 1, "the frame of the other history is what is lost");
        let topic = topic(&machine.open(whole_sectors()));
        let mut reader = topic.read_from(Offset(0)).expect("reads");
        for i in 0..2 {
            assert_eq!(reader.next().expect("a message").expect("whole").payload(), payload(i));
        }
        assert_error!(reader.next().expect("a gap"), Error::Lagged { .. });
        assert_eq!(reader.next().expect("a message").expect("whole").payload(), payload(3));
    }
}

/// Two processes that went on from the same log after a crash: each wrote the newest segment anew,
/// under the same name, and put another frame behind the same ones. Returns their machines.
fn two_lives(seeds: [u64; 2]) -> [Machine; 2] {
    let machine = Machine::new(1);
    let log = machine.open(small());
    fill(&topic(&log), 0..3);
    machine.disk.kill();
    drop(log);
    [(seeds[0], 4), (seeds[1], 3)].map(|(seed, number)| {
        let life = machine.fork();
        let log = life.try_open_with(small(), seed).expect("opens");
        assert!(log.report().rewritten_bytes > 0, "the segment is made again");
        fill(&topic(&log), number..number + 1);
        life.disk.kill();
        drop(log);
        life
    })
}

/// The first sector in which two files differ from `from` on.
fn other_sector(bytes: &[u8], other: &[u8], from: usize) -> usize {
    let mut sectors = (from..bytes.len()).step_by(512);
    sectors.find(|&at| bytes[at..at + 512] != other[at..at + 512]).expect("they differ")
}

#[test]
fn what_another_file_held_on_these_blocks_is_not_taken_for_a_frame_of_this_one() {
    let mut held = Vec::new();
    for seeds in [[5, 5], [5, 6]] {
        let [other, machine] = two_lives(seeds);
        let (name, bytes) = machine.segments().pop().expect("a segment");
        let old = other.disk.file(&name).expect("both have the same segment");
        // The write of the last frame is torn, and leaves what was there before.
        let frame = bytes.windows(8).position(|bytes| bytes == b"record 3").expect("the frame");
        let header = bytes[..frame].windows(4).rposition(|bytes| bytes == b"AKLF");
        let torn = header.expect("a header")..bytes.len() - 1024;
        machine.disk.overwrite(&name, torn.start as u64, &old[torn]);
        let log = machine.try_open_with(small(), 7).expect("opens");
        held.push(read_all(&topic(&log)));
    }
    let expected: Vec<_> = (0..3).map(payload).collect();
    // With the same salt in both, the frame fits: that is what salts are for.
    assert!(held[0] == [&expected[..], &[payload(4)]].concat());
    assert!(held[1] == expected, "{} records", held[1].len());
}

#[test]
fn the_head_of_another_file_is_found_and_salvage_loses_nothing() {
    let [other, machine] = two_lives([5, 6]);
    let (name, bytes) = machine.segments().pop().expect("a segment");
    let old = other.disk.file(&name).expect("both have the same segment");
    assert_eq!(other_sector(&bytes, &old, 0), 0, "their heads differ");
    machine.disk.overwrite(&name, 0, &old[..512]);
    let refused = machine.try_open(small());
    assert!(matches!(&refused, Err(Error::Corrupt { byte: 88, .. })), "{refused:?}");
    let report = salvage_on(&*machine.disk.storage()).expect("salvages");
    assert_eq!(report.quarantined.len(), 1);
    let log = machine.open(small());
    assert_eq!(read_all(&topic(&log)), (0..4).map(payload).collect::<Vec<_>>());
}

/// The same at the very end of a closed log, where only the echoes contradict.
#[test]
fn a_last_frame_of_another_history_is_found_by_the_echoes() {
    let machine = with_a_frame_of_another_history(1, true);
    assert_error!(machine.try_open(whole_sectors()), Error::Corrupt { .. });
    let report = salvage_on(&*machine.disk.storage()).expect("salvages");
    assert!(report.lost.len() == 1 && report.lost[0].from < report.lost[0].to, "{report:?}");
    let topic = topic(&machine.open(whole_sectors()));
    let read: Vec<_> = topic.read_from(Offset(0)).expect("reads").filter_map(Result::ok).collect();
    assert!(read.iter().map(|message| message.payload().to_vec()).eq((0..2).map(payload)));
}

/// A close that was torn leaves echoes of it behind, and the log goes on.
#[test]
fn the_echoes_of_a_close_that_failed_do_not_outlive_the_next_opening() {
    for torn in 0..2 {
        let machine = Machine::new(1);
        let log = machine.open(small());
        fill(&topic(&log), 0..2);
        machine.advance(Duration::from_secs(1));
        log.maintain().expect("marks the log as idle");
        let idle = machine.segments().pop().expect("a segment");
        log.close().expect("closes");
        let (name, bytes) = machine.segments().pop().expect("a segment");
        // Of the three marks, only the echoes have reached the disk, or only one.
        let frames = ..bytes.len() - 1024;
        machine.disk.overwrite(&name, 0, &idle.1[frames]);
        if torn == 0 {
            let first = bytes.len() - 1024;
            machine.disk.overwrite(&name, first as u64, &idle.1[first..first + 512]);
        }
        machine.disk.crash(Crash::Kill);
        for records in [2, 3] {
            let log = machine.open(small());
            assert_holds(&topic(&log), 0..records);
            fill(&topic(&log), records..records + 1);
            machine.disk.crash(Crash::Kill);
        }
    }
}
