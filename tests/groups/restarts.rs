//! Groups over restarts, clean ones and crashes.

use ackline::simulation::Crash;
use ackline::{Explanation, Group, GroupOptions, Log, Media, Offset, Topic};

use super::{HOUR, SECOND, with_records};
use crate::common::{Machine, drain, fill, offsets, poll, poll_offsets, poll_one, small};

fn reopen(machine: &Machine, options: GroupOptions) -> (Log, Topic, Group) {
    let log = machine.open(small());
    let topic = log.topic("t").expect("a topic");
    let group = topic.group_with("g", options).expect("a group");
    (log, topic, group)
}

#[test]
fn a_restart_gives_out_what_was_held_with_its_attempts_counted() {
    let (machine, log, topic, group) = with_records(10, GroupOptions::new());
    let mut held = poll(&group, 4);
    held.remove(0).ack().expect("acks");
    log.close().expect("closes");
    drop((topic, group, held));
    let (_log, _topic, group) = reopen(&machine, GroupOptions::new());
    let again: Vec<_> =
        poll(&group, 100).iter().map(|message| (message.offset().0, message.attempt())).collect();
    let expected = [(1, 2), (2, 2), (3, 2), (4, 1), (5, 1), (6, 1), (7, 1), (8, 1), (9, 1)];
    assert_eq!(again, expected);
}

#[test]
fn acknowledgements_are_durable_after_commit_whatever_happens() {
    for crash in [Crash::Kill, Crash::Power] {
        let (machine, log, topic, group) = with_records(10, GroupOptions::new());
        for message in poll(&group, 10).into_iter().step_by(2) {
            message.ack().expect("acks");
        }
        group.commit().expect("commits");
        machine.disk.crash(crash);
        drop((log, topic, group));
        let (_log, _topic, group) = reopen(&machine, GroupOptions::new());
        let again: Vec<_> = drain(&group).into_iter().map(|message| message.0).collect();
        assert_eq!(again, [1, 3, 5, 7, 9], "{crash:?}");
    }
}

#[test]
fn acknowledgements_ride_on_the_next_append() {
    let (machine, log, topic, group) = with_records(3, GroupOptions::new());
    poll_one(&group).ack().expect("acks");
    let before = log.stats().syncs;
    fill(&topic, 3..4);
    assert_eq!(log.stats().syncs, before + 1, "one sync for both");
    machine.disk.crash(Crash::Power);
    drop((log, topic, group));
    let (_log, _topic, group) = reopen(&machine, GroupOptions::new());
    assert_eq!(group.lag().expect("lag").messages, 3);
}

#[test]
fn acknowledgements_are_durable_within_a_second_where_they_found_no_room_on_an_append() {
    // Some of these just fit into the segment, and leave no room for the progress.
    for bytes in (0..1500).step_by(16) {
        let machine = Machine::new(1);
        let options = || small().media(Media::WholeSectors);
        let log = machine.open(options());
        let topic = log.topic("t").expect("a topic");
        let group = topic.group("g").expect("a group");
        fill(&topic, 0..1);
        fill(&topic, 1..4);
        log.maintain().expect("prepares the next segment, so that this one may be filled up");
        poll_one(&group).ack().expect("acks");
        machine.advance(SECOND * 9 / 10);
        topic.append(vec![0; bytes]).expect("appends");
        machine.advance(SECOND / 10);
        log.maintain().expect("commits what has waited for a second");
        machine.disk.crash(Crash::Power);
        drop((log, topic, group));
        let log = machine.open(options());
        let group = log.topic("t").expect("a topic").group("g").expect("a group");
        let settled = matches!(group.explain(Offset(0)), Ok(Explanation::Settled));
        assert!(settled, "after a record of {bytes} bytes");
    }
}

#[test]
fn acknowledgements_are_durable_within_a_second_without_any_append() {
    let (machine, log, topic, group) = with_records(3, GroupOptions::new());
    poll_one(&group).ack().expect("acks");
    machine.advance(SECOND);
    log.maintain().expect("does what the background does");
    machine.disk.crash(Crash::Power);
    drop((log, topic, group));
    let (_log, _topic, group) = reopen(&machine, GroupOptions::new());
    assert_eq!(group.lag().expect("lag").messages, 2);
}

#[test]
fn a_retry_is_due_at_its_time_after_a_restart_too() {
    for clean in [true, false] {
        let (machine, log, topic, group) = with_records(1, GroupOptions::new());
        poll_one(&group).retry_after(HOUR).expect("gives back");
        group.commit().expect("commits");
        if clean {
            log.close().expect("closes");
        } else {
            machine.disk.crash(Crash::Power);
        }
        drop((topic, group));
        machine.advance(3599 * SECOND);
        let (_log, _topic, group) = reopen(&machine, GroupOptions::new());
        assert_eq!(poll_offsets(&group, 1), [], "clean: {clean}");
        machine.advance(SECOND);
        assert_eq!(drain(&group), [(0, 2)], "clean: {clean}");
    }
}

#[test]
fn attempts_survive_crashes_until_they_run_out() {
    let (machine, log, topic, group) = with_records(3, GroupOptions::new().attempts_max(3));
    drop((log, topic, group));
    let mut attempts = Vec::new();
    for _ in 0..3 {
        let (log, topic, group) = reopen(&machine, GroupOptions::new().attempts_max(3));
        let message = poll_one(&group);
        assert_eq!(message.offset(), Offset(0));
        attempts.push(message.attempt());
        // The message ends the process.
        machine.disk.kill();
        drop((message, group, topic, log));
    }
    assert_eq!(attempts, [1, 2, 3]);
    let (log, _topic, group) = reopen(&machine, GroupOptions::new().attempts_max(3));
    let next = poll(&group, 1);
    assert!(next.iter().all(|message| message.offset() != Offset(0)), "it is out of attempts");
    log.sync().expect("syncs");
    let dead = log.topic("t.g.dead").expect("a topic").group("look").expect("a group");
    assert_eq!(poll_one(&dead).header("ackline.offset"), Some(&b"0"[..]));
}

#[test]
fn suspects_of_a_crash_come_one_at_a_time_and_then_it_goes_on_as_before() {
    let (machine, log, topic, group) = with_records(5, GroupOptions::new());
    let held = poll(&group, 5);
    machine.disk.kill();
    drop((held, group, topic, log));
    let (_log, topic, group) = reopen(&machine, GroupOptions::new());
    fill(&topic, 5..8);
    for offset in 0..5 {
        let suspect = poll(&group, 10);
        assert_eq!(offsets(&suspect), [offset], "alone");
        assert_eq!(suspect[0].attempt(), 2);
        assert_eq!(poll_offsets(&group, 10), [], "nothing beside it");
        for message in suspect {
            message.ack().expect("acks");
        }
    }
    assert_eq!(poll_offsets(&group, 10), [5, 6, 7]);
}

#[test]
fn after_a_clean_end_nothing_is_suspect() {
    let (machine, log, topic, group) = with_records(5, GroupOptions::new());
    let held = poll(&group, 5);
    log.close().expect("closes");
    drop((held, group, topic));
    let (_log, _topic, group) = reopen(&machine, GroupOptions::new());
    assert_eq!(poll_offsets(&group, 10), [0, 1, 2, 3, 4]);
}

#[test]
fn released_deliveries_stay_uncounted_over_a_restart() {
    let (machine, log, topic, group) = with_records(1, GroupOptions::new());
    poll_one(&group).release().expect("gives back");
    log.close().expect("closes");
    drop((group, topic));
    let (_log, _topic, group) = reopen(&machine, GroupOptions::new());
    assert_eq!(drain(&group), [(0, 1)]);
}

#[test]
fn progress_survives_rolls_and_reopening() {
    let (machine, log, topic, group) = with_records(30, GroupOptions::new());
    let mut held = poll(&group, 30);
    for at in [25, 20, 15, 10, 5, 0] {
        held.remove(at).ack().expect("acks");
    }
    fill(&topic, 30..60);
    log.close().expect("closes");
    drop((held, topic, group));
    let (log, topic, group) = reopen(&machine, GroupOptions::new());
    fill(&topic, 60..90);
    assert_eq!(group.lag().expect("lag").messages, 84);
    machine.disk.crash(Crash::Power);
    drop((log, topic, group));
    let (_log, _topic, group) = reopen(&machine, GroupOptions::new());
    let got: Vec<_> = drain(&group).into_iter().map(|message| message.0).collect();
    let mut sorted = got.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (0..90).filter(|i| *i > 25 || i % 5 != 0).collect::<Vec<_>>());
}
