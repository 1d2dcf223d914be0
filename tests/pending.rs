//! Waiting for an append: by thread, by task, by callback, or not at all. Nobody waits for ever,
//! whatever fails and whoever gives up.
//!
//! A gate holds syncs until the test has arranged what is to happen meanwhile, so that nothing
//! here depends on speed.

#[macro_use]
mod common;

#[path = "pending/callbacks.rs"]
mod callbacks;
#[path = "pending/futures.rs"]
mod futures;

use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use ackline::simulation::SimDisk;
use ackline::{Error, Log, Offset, Options, Topic};

use common::gate::{Gate, GatedStorage, RealClock};
use common::{Machine, read_all};

/// Long enough that it ends only by what the test waits for.
const LONG: Duration = Duration::from_secs(3600);

/// A log whose syncs a gate holds, without background threads.
struct Gated {
    gate: Gate,
    disk: SimDisk,
    log: Log,
    topic: Topic,
}

impl Gated {
    fn new(sync_timeout: Duration) -> Self {
        let (gate, disk) = (Gate::default(), SimDisk::new(1));
        let log = Options::new()
            .segment_bytes(64 * 1024)
            .sync_timeout(sync_timeout)
            .simulated(RealClock::new(), 1)
            .open_on(GatedStorage::on(&disk, &gate))
            .expect("opens");
        let topic = log.topic("t").expect("a topic");
        Self { gate, disk, log, topic }
    }

    fn payloads(&self) -> Vec<Vec<u8>> {
        read_all(&self.topic)
    }
}

/// Runs `meanwhile` while a thread's append of `first` is held at its sync, then lets it go.
fn while_a_sync_is_held<R>(
    gated: &Gated,
    meanwhile: impl FnOnce(&Gated) -> R,
) -> (ackline::Result<ackline::Receipt>, R) {
    gated.gate.close();
    thread::scope(|scope| {
        let first = scope.spawn(|| gated.topic.append("first"));
        gated.gate.await_arrival();
        let result = meanwhile(gated);
        gated.gate.open();
        (first.join().expect("no panic"), result)
    })
}

#[test]
fn a_pending_append_resolves_to_its_receipt() {
    let gated = Gated::new(LONG);
    let pending: Vec<_> = (0..5).map(|i| gated.topic.submit(format!("{i}"))).collect();
    for (i, pending) in pending.into_iter().enumerate() {
        assert_eq!(pending.wait().expect("waits").offset, Offset(i as u64));
    }
    assert_eq!(gated.payloads().len(), 5);
}

#[test]
fn a_refused_append_resolves_at_once() {
    let log = Machine::new(1).open(Options::new().payload_bytes_max(10));
    let topic = log.topic("t").expect("a topic");
    let refused = || topic.submit("far more than ten bytes");
    assert_error!(refused().wait(), Error::TooLarge { .. });
    let outcome = refused().wait_timeout(Duration::ZERO).expect("it is known at once");
    assert_error!(outcome, Error::TooLarge { .. });
}

#[test]
fn nothing_is_visible_before_it_is_durable() {
    let gated = Gated::new(LONG);
    let (first, seen) = while_a_sync_is_held(&gated, |gated| {
        (gated.topic.offsets().end, gated.payloads().len(), gated.log.stats().appended)
    });
    assert_eq!(seen, (Offset(0), 0, 0));
    assert_eq!(first.expect("appends").offset, Offset(0));
    assert_eq!(gated.topic.offsets().end, Offset(1));
}

#[test]
fn a_waiter_that_is_kept_too_long_learns_its_offset_and_may_yet_succeed() {
    let gated = Gated::new(Duration::from_millis(1));
    let (first, second) = while_a_sync_is_held(&gated, |gated| gated.topic.append("second"));
    first.expect("the thread inside the sync returns when the disk answers");
    assert_error!(
        second,
        Error::SyncTimeout { offset: Some(Offset(1)), waited } if waited == Duration::from_millis(1)
    );
    assert_eq!(gated.payloads(), [b"first"]);
    // The record is in the log: the next commit carries it.
    gated.topic.append("third").expect("appends");
    assert_eq!(gated.payloads(), [&b"first"[..], b"second", b"third"]);
}

/// One after the other, so that no two limits end at the same time, and others come meanwhile; one
/// of them, who syncs the log, waits for as long as it takes.
#[test]
fn all_who_wait_for_a_disk_that_hangs_are_told_in_time_while_others_keep_coming() {
    const PATIENT: usize = 6;
    let gated = Gated::new(Duration::from_millis(60));
    thread::scope(|scope| {
        gated.gate.close();
        let first = scope.spawn(|| gated.topic.append("first"));
        gated.gate.await_arrival();
        let start = |number: usize| {
            if number == 2 {
                scope.spawn(|| gated.log.sync().expect("syncs in the end"));
            }
            let waiting = scope.spawn(|| gated.topic.append("late"));
            thread::sleep(Duration::from_millis(7));
            waiting
        };
        let patient: Vec<_> = (0..PATIENT).map(start).collect();
        // Would go on for ever if one of them were forgotten.
        while !patient.iter().all(thread::ScopedJoinHandle::is_finished) {
            start(PATIENT);
        }
        for waited in patient {
            assert_error!(waited.join().expect("no panic"), Error::SyncTimeout { .. });
        }
        gated.gate.open();
        first.join().expect("no panic").expect("appends");
    });
}

#[test]
fn a_handle_that_timed_out_can_be_waited_for_again() {
    let gated = Gated::new(LONG);
    let (_, pending) = while_a_sync_is_held(&gated, |gated| {
        let mut pending = gated.topic.submit("second");
        for _ in 0..3 {
            pending = pending.wait_timeout(Duration::from_millis(1)).expect_err("it is held");
        }
        pending
    });
    assert_eq!(pending.wait().expect("waits").offset, Offset(1));
}

#[test]
fn sixty_four_waiters_share_one_sync() {
    const WAITERS: usize = 64;
    let gated = Gated::new(LONG);
    let before = gated.log.stats();
    let queued = Barrier::new(WAITERS + 1);
    thread::scope(|scope| {
        gated.gate.close();
        let first = scope.spawn(|| gated.topic.append("first"));
        gated.gate.await_arrival();
        let waiters: Vec<_> = (0..WAITERS)
            .map(|i| {
                let (queued, topic) = (&queued, &gated.topic);
                scope.spawn(move || {
                    let pending = topic.submit(format!("{i}"));
                    queued.wait();
                    pending.wait()
                })
            })
            .collect();
        queued.wait();
        gated.gate.open();
        first.join().expect("no panic").expect("appends");
        for waiter in waiters {
            waiter.join().expect("no panic").expect("waits");
        }
    });
    let after = gated.log.stats();
    assert_eq!(after.syncs - before.syncs, 2, "one for the first, one for all others");
    assert_eq!(after.writes - before.writes, 2);
    assert_eq!(after.appended, WAITERS as u64 + 1);
}

#[test]
fn a_waiter_that_gives_up_does_not_take_leadership_with_it() {
    let gated = Gated::new(LONG);
    let (first, ()) = while_a_sync_is_held(&gated, |gated| {
        let impatient = gated.topic.submit("second");
        let given_up = impatient.wait_timeout(Duration::from_millis(1)).expect_err("it is held");
        given_up.detach();
    });
    first.expect("appends");
    // Nobody is left who waits for the second record; the next waiter commits it.
    gated.topic.append("third").expect("appends");
    assert_eq!(gated.payloads(), [&b"first"[..], b"second", b"third"]);
}

#[test]
fn impatient_waiters_and_leadership_never_lose_each_other() {
    let gated = Gated::new(LONG);
    thread::scope(|scope| {
        for waiter in 0..8_u64 {
            let topic = &gated.topic;
            scope.spawn(move || {
                for i in 0..300_u64 {
                    let mut pending = topic.submit(format!("{waiter} {i}"));
                    // Times that end just when leadership is handed on, some of them.
                    let mut patience = Duration::from_micros((waiter * 7 + i) % 40);
                    let outcome = loop {
                        match pending.wait_timeout(patience) {
                            Ok(outcome) => break outcome,
                            Err(again) => pending = again,
                        }
                        patience += Duration::from_micros(50);
                    };
                    outcome.expect("appends");
                }
            });
        }
    });
    assert_eq!(gated.topic.offsets().end, Offset(8 * 300));
}

#[test]
fn a_failed_sync_answers_every_waiter() {
    let gated = Gated::new(LONG);
    let queued = Barrier::new(17);
    thread::scope(|scope| {
        gated.gate.close();
        let first = scope.spawn(|| gated.topic.append("first"));
        gated.gate.await_arrival();
        let waiters: Vec<_> = (0..16)
            .map(|i| {
                let (queued, topic) = (&queued, &gated.topic);
                scope.spawn(move || {
                    let pending = topic.submit(format!("{i}"));
                    queued.wait();
                    pending.wait()
                })
            })
            .collect();
        queued.wait();
        gated.gate.fail_next();
        gated.gate.open();
        assert_error!(first.join().expect("no panic"), Error::Poisoned { .. });
        for waiter in waiters {
            assert_error!(waiter.join().expect("no panic"), Error::Poisoned { .. });
        }
    });
    assert_error!(gated.topic.append("later"), Error::Poisoned { .. });
    assert_error!(gated.topic.submit("later").wait(), Error::Poisoned { .. });
    assert_eq!(gated.topic.offsets().end, Offset(0));
}

#[test]
fn a_failed_sync_ends_polls_that_wait() {
    let gated = Gated::new(LONG);
    let group = gated.topic.group("g").expect("a group");
    thread::scope(|scope| {
        let polling = scope.spawn(|| group.poll(1, LONG));
        gated.gate.fail_next();
        assert_error!(gated.topic.append("first"), Error::Poisoned { .. });
        assert_error!(polling.join().expect("no panic"), Error::Poisoned { .. });
    });
}

#[test]
fn close_commits_what_waits_and_ends_all_waiters() {
    let gated = Gated::new(LONG);
    let group = gated.topic.group("g").expect("a group");
    let queued = Barrier::new(9);
    gated.gate.close();
    let log = gated.log.clone();
    thread::scope(|scope| {
        let first = scope.spawn(|| gated.topic.append("first"));
        gated.gate.await_arrival();
        let polling = scope.spawn(|| {
            group.poll(100, Duration::ZERO).map(drop).and_then(|()| {
                // Whatever is there is taken and given back until the log is closed.
                loop {
                    drop(group.poll(100, LONG)?);
                }
            })
        });
        let waiters: Vec<_> = (0..8)
            .map(|i| {
                let (queued, topic) = (&queued, &gated.topic);
                scope.spawn(move || {
                    let pending = topic.submit(format!("{i}"));
                    queued.wait();
                    pending.wait()
                })
            })
            .collect();
        queued.wait();
        let closing = scope.spawn(move || log.close());
        gated.gate.open();
        closing.join().expect("no panic").expect("closes");
        first.join().expect("no panic").expect("was queued before the close");
        for waiter in waiters {
            waiter.join().expect("no panic").expect("was queued before the close");
        }
        let ended: ackline::Result<()> = polling.join().expect("no panic");
        assert_error!(ended, Error::Closed);
    });
    drop(group);
    let Gated { disk, log, topic, .. } = gated;
    drop((log, topic));
    let log = Options::new().simulated(RealClock::new(), 1).open_on(disk.storage()).expect("opens");
    assert_eq!(log.topic("t").expect("a topic").offsets().end, Offset(9));
}

#[test]
fn what_appends_nothing_does_not_wait_for_anyone() {
    let gated = Gated::new(LONG);
    let (first, receipt) = while_a_sync_is_held(&gated, |gated| {
        gated.topic.append_batch(Vec::<&str>::new()).expect("nothing to do")
    });
    first.expect("appends");
    assert!(receipt.offsets.is_empty());
}

#[test]
fn two_threads_that_make_the_same_topic_both_get_it() {
    for _ in 0..50 {
        let gated = Gated::new(LONG);
        let start = Barrier::new(4);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    start.wait();
                    let topic = gated.log.topic("new").expect("a topic");
                    topic.group("new").expect("a group");
                    topic.append("x").expect("appends");
                });
            }
        });
        assert_eq!(gated.log.topics(), ["t", "new"]);
        assert_eq!(gated.log.topic("new").expect("a topic").offsets().end, Offset(4));
    }
}

#[test]
fn a_detached_or_dropped_append_is_written_all_the_same() {
    let gated = Gated::new(LONG);
    gated.topic.submit("detached").detach();
    drop(gated.topic.submit("dropped"));
    gated.log.maintain().expect("commits what nobody waits for");
    assert_eq!(gated.payloads(), [&b"detached"[..], b"dropped"]);
    drop(gated.topic.submit("dropped before the close"));
    gated.log.clone().close().expect("closes");
    let disk = gated.disk.clone();
    drop(gated);
    let log = Options::new().simulated(RealClock::new(), 1).open_on(disk.storage()).expect("opens");
    assert_eq!(log.topic("t").expect("a topic").offsets().end, Offset(3));
}

#[test]
fn a_full_queue_lets_submits_wait_but_not_for_ever() {
    // 32 MiB may be queued; each of these adds 1 MiB, and nobody waits for any of them.
    let gated = Gated::new(LONG);
    let payload = vec![7; 1024 * 1024];
    for _ in 0..100 {
        gated.topic.submit(payload.clone()).detach();
    }
    gated.log.maintain().expect("commits the rest");
    assert_eq!(gated.topic.offsets().end, Offset(100));
}
