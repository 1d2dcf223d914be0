//! A power cut in the middle of several threads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ackline::simulation::Crash;
use ackline::{Delivery, Group, Log, Options, Result, Retention, SyncPolicy, Topic};
use shuttle::thread;

use super::appends::join;
use super::harness::{check, draw};
use super::machine::{Machine, texts};
use super::promises::{Promises, text};

/// What the consumer of a group knows before the crash.
#[derive(Debug, Default)]
struct Consumed {
    /// How often each message was handed out.
    attempts: BTreeMap<u64, u32>,
    /// Acknowledged by a batch or a commit that was answered.
    settled: BTreeSet<u64>,
    /// Acknowledged; a crash may take that back.
    acked: BTreeSet<u64>,
    /// Acknowledged in a batch, which may or may not have taken effect.
    batched: BTreeSet<u64>,
    /// Rejected, with or without an answer.
    rejected: BTreeSet<u64>,
    /// What is answered is durable by the log's policy, not only after a commit.
    syncs: bool,
}

impl Consumed {
    fn hand_out(&mut self, delivery: &Delivery) {
        let attempts = self.attempts.entry(delivery.offset().0).or_default();
        *attempts += 1;
        assert!(delivery.attempt() >= *attempts, "attempts never count down");
    }
}

/// Consumes until the disk is gone: acknowledges alone, commits, hands on in batches and rejects.
fn consume(log: &Log, group: &Group, out: &Topic, consumed: &Mutex<Consumed>) -> Result<()> {
    let is_acked = |offset| {
        let mut consumed = consumed.lock().expect("no holder panicked");
        let kept = &mut *consumed;
        if kept.syncs {
            kept.settled.insert(offset)
        } else {
            kept.acked.insert(offset)
        };
    };
    for round in 0..3 {
        for delivery in group.poll(2, Duration::ZERO)? {
            let offset = delivery.offset().0;
            consumed.lock().expect("no holder panicked").hand_out(&delivery);
            match (round + offset) % 4 {
                0 => {
                    delivery.ack()?;
                    consumed.lock().expect("no holder panicked").acked.insert(offset);
                }
                1 => {
                    consumed.lock().expect("no holder panicked").batched.insert(offset);
                    log.batch().append(out, offset.to_string()).ack(delivery).commit()?;
                    is_acked(offset);
                }
                2 => {
                    consumed.lock().expect("no holder panicked").rejected.insert(offset);
                    delivery.reject("it is one of these")?;
                    is_acked(offset);
                }
                _ => drop(delivery),
            }
        }
        let acked = consumed.lock().expect("no holder panicked").acked.clone();
        group.commit()?;
        consumed.lock().expect("no holder panicked").settled.extend(acked);
    }
    Ok(())
}

/// Checks what is left of a group, by delivering all of it.
fn check_group(log: &Log, group: &Group, out: &Topic, known: &Consumed) {
    let end = group.topic().offsets().end.0;
    let mut delivered = BTreeMap::new();
    loop {
        let polled = group.poll(10, Duration::ZERO).expect("polls");
        if polled.is_empty() {
            break;
        }
        for delivery in polled {
            let before = delivered.insert(delivery.offset().0, delivery.attempt());
            assert_eq!(before, None, "offset {} was acknowledged", delivery.offset());
            delivery.ack().expect("acks");
        }
    }
    let handed_on: BTreeSet<u64> =
        texts(out).iter().map(|text| text.parse().expect("an offset")).collect();
    let mut buried = BTreeSet::new();
    if log.topics().contains(&group.dead_letter_topic()) {
        let letters = log.topic(&group.dead_letter_topic()).expect("a topic");
        for letter in letters.read_from(letters.offsets().start).expect("reads") {
            let letter = letter.expect("reads");
            let source = letter.header("ackline.offset").expect("a letter names its source");
            let offset = String::from_utf8_lossy(source).parse().expect("an offset");
            assert!(buried.insert(offset), "two letters for {offset}");
            assert!(known.rejected.contains(&offset), "nobody rejected {offset}");
        }
    }
    for offset in 0..end {
        let Some(attempt) = delivered.get(&offset) else {
            let settled = [&known.acked, &handed_on, &buried];
            let may_be_settled = settled.iter().any(|settled| settled.contains(&offset));
            assert!(may_be_settled, "nobody acknowledged {offset}, and nobody gets it");
            continue;
        };
        assert!(!known.settled.contains(&offset), "the ack of {offset} was undone");
        assert!(!handed_on.contains(&offset), "half of the batch with {offset} took effect");
        assert!(!buried.contains(&offset), "{offset} was buried and is delivered again");
        let before = known.attempts.get(&offset).copied().unwrap_or(0);
        assert!(!known.syncs || *attempt > before, "attempt {attempt} of {offset} after {before}");
    }
    for offset in &handed_on {
        assert!(known.batched.contains(offset), "{offset} was handed on by nobody");
    }
}

fn check_crash(
    policy: SyncPolicy,
    options: Options,
    open: fn(&Machine, Options) -> Log,
    bytes: usize,
    calls: u64,
) {
    let (options, syncs) = (options.sync(policy), policy == SyncPolicy::default());

    let machine = Machine::new();
    let log = open(&machine, options.clone());
    let (topic, out) = (log.topic("in").expect("a topic"), log.topic("out").expect("a topic"));
    let group = topic.group("g").expect("a group");
    let promises = Promises::default();
    machine.disk.die_at(machine.disk.calls() + draw(calls));
    let mut threads: Vec<_> = (0..2)
        .map(|writer| {
            let (log, topic, promises) = (log.clone(), topic.clone(), promises.clone());
            thread::spawn(move || {
                for i in 0..4 {
                    let record = text(writer, i, bytes);
                    promises.will_try(&record);
                    // Under a policy that syncs later, only a sync is a promise.
                    let appended = topic.append(record.as_str());
                    match appended.and_then(|receipt| log.sync().map(|()| receipt)) {
                        Ok(receipt) => promises.is_kept(receipt.offset, &record),
                        Err(_) => return,
                    }
                }
            })
        })
        .collect();
    let consumed = Arc::new(Mutex::new(Consumed { syncs, ..Consumed::default() }));
    let known = Arc::clone(&consumed);
    let own = log.clone();
    // It ends with an error where the disk goes away.
    threads.push(thread::spawn(move || drop(consume(&own, &group, &out, &known))));
    let (own, clock) = (log.clone(), machine.clone());
    threads.push(thread::spawn(move || {
        for _ in 0..2 {
            clock.clock.advance(Duration::from_millis(600));
            drop(own.maintain());
        }
    }));
    join(threads);
    drop((log, topic));
    machine.disk.crash(if draw(4) == 0 { Crash::Kill } else { Crash::Power });
    let log = machine.open(options);
    let (topic, out) = (log.topic("in").expect("a topic"), log.topic("out").expect("a topic"));
    promises.check(&topic);
    let group = topic.group("g").expect("a group");
    check_group(&log, &group, &out, &consumed.lock().expect("no holder panicked"));
}

fn small() -> Options {
    Options::new().segment_bytes(4096).retention(Retention::keep_consumed())
}

#[test]
fn a_power_cut_among_threads_takes_back_nothing_that_was_promised() {
    let roomy = Options::new().segment_bytes(65536);
    check(4000, move || {
        check_crash(SyncPolicy::default(), roomy.clone(), Machine::open, 0, 60);
    });
}

#[test]
fn a_power_cut_among_threads_that_roll_takes_back_nothing_that_was_promised() {
    check(3000, || check_crash(SyncPolicy::default(), small(), Machine::open, 700, 150));
}

#[test]
fn a_power_cut_beside_the_background_threads_takes_back_nothing_that_was_promised() {
    check(2000, || {
        check_crash(SyncPolicy::default(), small(), Machine::open_with_threads, 700, 200);
    });
}

#[test]
fn a_power_cut_takes_back_nothing_that_was_synced_under_a_policy_that_syncs_later() {
    let interval = SyncPolicy::Interval { every: Duration::from_secs(1), bytes: 2000 };
    check(2000, move || check_crash(interval, small(), Machine::open_with_threads, 700, 200));
    check(2000, || check_crash(SyncPolicy::Never, small(), Machine::open, 700, 150));
}

/// What retention deletes is what the group has consumed, and what is left can be read.
#[test]
fn a_power_cut_while_segments_are_deleted_takes_nothing_that_is_still_needed() {
    let deleted = Arc::new(AtomicU64::new(0));
    let times = Arc::clone(&deleted);
    check(2000, move || {
        let options = Options::new().segment_bytes(4096);
        let machine = Machine::new();
        let log = machine.open_with_threads(options.clone());
        let topic = log.topic("in").expect("a topic");
        let group = topic.group("g").expect("a group");
        let promises = Promises::default();
        machine.disk.die_at(machine.disk.calls() + 40 + draw(200));
        let mut threads: Vec<_> = (0..2)
            .map(|writer| {
                let (topic, promises) = (topic.clone(), promises.clone());
                thread::spawn(move || {
                    for i in 0..6 {
                        if promises.append(&topic, &text(writer, i, 700)).is_err() {
                            return;
                        }
                    }
                })
            })
            .collect();
        let acked = Arc::new(Mutex::new(BTreeSet::new()));
        let known = Arc::clone(&acked);
        threads.push(thread::spawn(move || {
            for _ in 0..6 {
                let Ok(polled) = group.poll(3, Duration::ZERO) else { return };
                for delivery in polled {
                    let offset = delivery.offset().0;
                    if delivery.ack().is_ok() {
                        known.lock().expect("no holder panicked").insert(offset);
                    }
                }
                drop(group.commit());
                thread::yield_now();
            }
        }));
        let keeper = log.clone();
        threads.push(thread::spawn(move || {
            for _ in 0..4 {
                drop(keeper.maintain());
            }
        }));
        join(threads);
        drop((log, topic));
        let log = machine.crash(options);
        let topic = log.topic("in").expect("a topic");
        promises.check(&topic);
        let start = topic.offsets().start.0;
        times.fetch_max(start, Ordering::Relaxed);
        let acked = acked.lock().expect("no holder panicked");
        for offset in 0..start {
            assert!(acked.contains(&offset), "{offset} was deleted, and nobody acknowledged it");
        }
        let group = topic.group("g").expect("a group");
        let mut left: BTreeSet<u64> = (start..topic.offsets().end.0).collect();
        left.retain(|offset| !acked.contains(offset));
        while let Some(delivery) = group.poll(1, Duration::ZERO).expect("polls").pop() {
            left.remove(&delivery.offset().0);
            delivery.ack().expect("acks");
        }
        assert!(left.is_empty(), "{left:?} were neither acknowledged nor delivered again");
    });
    assert!(deleted.load(Ordering::Relaxed) > 0, "some segment was deleted");
}
