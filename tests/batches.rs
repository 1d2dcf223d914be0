//! Batches: all of it or nothing, also after a crash.

#[macro_use]
mod common;

use std::time::Duration;

use ackline::simulation::Crash;
use ackline::{Error, Log, Offset, Topic};

use common::{Machine, drain, fill, payload, poll, poll_one, read_all, small};

fn topics(log: &Log) -> (Topic, Topic, Topic) {
    let topic = |name| log.topic(name).expect("a topic");
    (topic("in"), topic("out"), topic("audit"))
}

#[test]
fn a_batch_appends_to_several_topics_and_acknowledges_for_several_groups() {
    let machine = Machine::new(1);
    let log = machine.open(small());
    let (input, out, audit) = topics(&log);
    fill(&input, 0..3);
    fill(&out, 0..1);
    let (one, two) = (input.group("g").expect("a group"), out.group("g").expect("a group"));
    let (first, second, third) = (poll_one(&one), poll_one(&one), poll_one(&two));
    let receipts = log
        .batch()
        .append(&out, "a")
        .append(&audit, "b")
        .append(&out, "c")
        .ack(first)
        .ack(third)
        .ack(second)
        .commit()
        .expect("commits");
    let offsets: Vec<_> = receipts.iter().map(|receipt| receipt.offset.0).collect();
    assert_eq!(offsets, [1, 0, 2], "receipts come in the order of the records");
    assert!(receipts.iter().all(|receipt| receipt.position == receipts[0].position), "one frame");
    assert_eq!(one.lag().expect("lag").messages, 1);
    assert_eq!(two.lag().expect("lag").messages, 2);
    assert_eq!(read_all(&audit), [b"b"]);
}

#[test]
fn a_committed_batch_survives_a_power_cut_as_a_whole() {
    let machine = Machine::new(1);
    let log = machine.open(small());
    let (input, out, _) = topics(&log);
    fill(&input, 0..5);
    let group = input.group("g").expect("a group");
    let mut batch = log.batch();
    for message in poll(&group, 5) {
        batch = batch.append(&out, message.payload().to_vec()).ack(message);
    }
    batch.commit().expect("commits");
    machine.disk.crash(Crash::Power);
    drop((log, input, out, group));
    let log = machine.open(small());
    let (input, out, _) = topics(&log);
    assert_eq!(drain(&input.group("g").expect("a group")), []);
    assert_eq!(read_all(&out), (0..5).map(payload).collect::<Vec<_>>());
}

#[test]
fn a_crash_at_any_call_of_a_batch_keeps_all_of_it_or_nothing() {
    let (mut kept, mut lost) = (0, 0);
    for call in 0..40 {
        for seed in 0..20 {
            let machine = Machine::new(seed);
            let log = machine.open(small());
            let (input, out, audit) = topics(&log);
            fill(&input, 0..2);
            let group = input.group("g").expect("a group");
            let message = poll_one(&group);
            // Large enough for several sectors, and for a roll in the middle of the calls.
            let batch = log.batch().append(&out, vec![1; 1500]).append(&audit, vec![2; 1500]);
            let batch = batch.ack(message);
            machine.disk.die_at(machine.disk.calls() + call);
            let outcome = batch.commit();
            machine.disk.crash(Crash::Power);
            drop((log, input, out, audit, group));
            let log = machine.open(small());
            let (input, out, audit) = topics(&log);
            let parts = [
                out.offsets().end.0 == 1,
                audit.offsets().end.0 == 1,
                input.group("g").expect("a group").lag().expect("lag").messages == 1,
            ];
            assert!(
                parts == [true; 3] || parts == [false; 3],
                "call {call} seed {seed}: {parts:?}"
            );
            assert!(outcome.is_err() || parts[0], "call {call} seed {seed}: it was acknowledged");
            if parts[0] { kept += 1 } else { lost += 1 }
        }
    }
    assert!(kept > 0 && lost > 0, "{kept} kept, {lost} lost");
}

#[test]
fn one_stale_delivery_refuses_all_of_a_batch() {
    let machine = Machine::new(1);
    let log = machine.open(small());
    let (input, out, _) = topics(&log);
    fill(&input, 0..2);
    let group = input.group("g").expect("a group");
    let stale = poll_one(&group);
    machine.advance(Duration::from_secs(30));
    let again = poll_one(&group);
    assert_eq!(again.offset(), stale.offset());
    let good = poll_one(&group);
    let batch = log.batch().append(&out, "x").ack(good).ack(stale);
    assert_error!(batch.commit(), Error::StaleLease { offset: Offset(0) });
    assert_eq!(out.offsets().end, Offset(0));
    let back = poll_one(&group);
    assert_eq!((back.offset(), back.attempt()), (Offset(1), 2), "the good one was given back");
    again.ack().expect("the holder's lease was not touched");
}

#[test]
fn an_empty_batch_commits_nothing() {
    let machine = Machine::new(1);
    let log = machine.open(small());
    let writes = log.stats().writes;
    assert!(log.batch().commit().expect("nothing to do").is_empty());
    assert_eq!(log.stats().writes, writes);
}

#[test]
fn a_batch_that_is_not_committed_gives_its_deliveries_back() {
    let machine = Machine::new(1);
    let log = machine.open(small());
    let (input, out, _) = topics(&log);
    fill(&input, 0..1);
    let group = input.group("g").expect("a group");
    drop(log.batch().append(&out, "x").ack(poll_one(&group)));
    assert_eq!(drain(&group), [(0, 2)]);
    assert_eq!(out.offsets().end, Offset(0));
}

#[test]
fn a_refused_batch_gives_its_deliveries_back() {
    let machine = Machine::new(1);
    let log = machine.open(small().payload_bytes_max(100));
    let (input, out, _) = topics(&log);
    input.append("x").expect("appends");
    let group = input.group("g").expect("a group");
    let batch = log.batch().append(&out, vec![0; 101]).ack(poll_one(&group));
    assert_error!(batch.commit(), Error::TooLarge { what: "payload", .. });
    assert_eq!(drain(&group), [(0, 2)]);
}

#[test]
fn a_batch_of_acknowledgements_alone_is_durable() {
    let machine = Machine::new(1);
    let log = machine.open(small());
    let (input, ..) = topics(&log);
    fill(&input, 0..4);
    let group = input.group("g").expect("a group");
    let messages = poll(&group, 4);
    let batch = messages.into_iter().fold(log.batch(), ackline::Batch::ack);
    assert!(batch.commit().expect("commits").is_empty());
    machine.disk.crash(Crash::Power);
    drop((log, input, group));
    let log = machine.open(small());
    assert_eq!(drain(&topics(&log).0.group("g").expect("a group")), []);
}

#[test]
fn a_batch_larger_than_a_segment_gets_one_of_its_own_size() {
    let machine = Machine::new(1);
    let log = machine.open(small());
    let (_, out, audit) = topics(&log);
    let batch = log.batch().append(&out, vec![1; 30_000]).append(&audit, vec![2; 30_000]);
    batch.commit().expect("commits");
    fill(&out, 0..20);
    log.close().expect("closes");
    drop((out, audit));
    let log = machine.open(small());
    let (_, out, audit) = topics(&log);
    assert_eq!(read_all(&out).len(), 21);
    assert_eq!(read_all(&audit), [vec![2; 30_000]]);
}

#[test]
fn batches_of_many_threads_acknowledge_across_groups_without_deadlock() {
    let machine = Machine::new(1);
    let log = machine.open(small().segment_bytes(64 * 1024));
    let (one, two, out) = topics(&log);
    fill(&one, 0..100);
    fill(&two, 0..100);
    let (a, b) = (one.group("g").expect("a group"), two.group("g").expect("a group"));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (log, out, a, b) = (&log, &out, &a, &b);
            scope.spawn(move || {
                for _ in 0..25 {
                    // Half of the threads take them in the other order.
                    let (first, second) = if thread % 2 == 0 { (a, b) } else { (b, a) };
                    let batch = log.batch().append(out, "x");
                    batch.ack(poll_one(first)).ack(poll_one(second)).commit().expect("commits");
                }
            });
        }
    });
    assert_eq!(out.offsets().end, Offset(100));
    assert_eq!((a.lag().expect("lag").messages, b.lag().expect("lag").messages), (0, 0));
}
