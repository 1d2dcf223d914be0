//! Consumers that wait are woken by what they wait for.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;

use ackline::simulation::Fault;
use ackline::{Error, GroupOptions, Log, Offset, Options, Record, Result, SyncPolicy, Topic};

use super::{HOUR, SECOND, with_records};
use crate::common::gate::RealClock;
use crate::common::{Machine, ack_all, drain, poll_one};

/// A log on the machine's time, so that waits can end.
fn real(machine: &Machine) -> (Log, Topic) {
    let options = Options::new().simulated(RealClock::new(), 1);
    let log = options.open_on(machine.disk.storage()).expect("opens");
    let topic = log.topic("t").expect("a topic");
    (log, topic)
}

#[derive(Default)]
pub(super) struct Woken(pub(super) AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

pub(super) fn poll_once<F: Future>(
    future: std::pin::Pin<&mut F>,
    woken: &Arc<Woken>,
) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(&Waker::from(Arc::clone(woken))))
}

fn ready<T>(poll: Poll<Result<T>>) -> T {
    match poll {
        Poll::Ready(outcome) => outcome.expect("delivers"),
        Poll::Pending => panic!("there is a message"),
    }
}

#[test]
fn a_poll_that_waits_is_woken_by_an_append_of_another_thread() {
    let machine = Machine::new(1);
    let (_log, topic) = real(&machine);
    let group = topic.group("g").expect("a group");
    thread::scope(|scope| {
        let consumer = scope.spawn(|| {
            for i in 0..500 {
                let polled = group.poll(10, HOUR).expect("polls");
                assert_eq!(polled.first().map(|message| message.offset()), Some(Offset(i)));
                ack_all(polled);
            }
        });
        for i in 0..500_u64 {
            topic.append(format!("{i}")).expect("appends");
            // Each one is appended to a group that is about to sleep.
            while group.lag().expect("lag").messages > 0 {
                thread::yield_now();
            }
        }
        consumer.join().expect("no panic");
    });
}

#[test]
fn a_poll_that_waits_is_woken_by_a_delivery_that_is_given_back() {
    let machine = Machine::new(1);
    let (_log, topic) = real(&machine);
    let group = topic.group("g").expect("a group");
    topic.append("x").expect("appends");
    for round in 0..3 {
        let held = poll_one(&group);
        thread::scope(|scope| {
            let consumer = scope.spawn(|| group.poll(1, HOUR).expect("polls").len());
            match round {
                0 => drop(held),
                1 => held.release().expect("gives back"),
                _ => held.retry_after(std::time::Duration::ZERO).expect("gives back"),
            }
            assert_eq!(consumer.join().expect("no panic"), 1);
        });
    }
}

#[test]
fn a_poll_that_waits_is_woken_by_a_seek() {
    let machine = Machine::new(1);
    let (_log, topic) = real(&machine);
    let group = topic.group("g").expect("a group");
    topic.append("x").expect("appends");
    drain(&group);
    thread::scope(|scope| {
        let consumer = scope.spawn(|| group.poll(1, HOUR).expect("polls").len());
        group.seek(Offset(0)).expect("seeks");
        assert_eq!(consumer.join().expect("no panic"), 1);
    });
}

#[test]
fn a_poll_that_waits_gets_a_message_when_its_lease_ends() {
    let machine = Machine::new(1);
    let (_log, topic) = real(&machine);
    let options = GroupOptions::new().lease(SECOND / 20);
    let group = topic.group_with("g", options).expect("a group");
    topic.append("x").expect("appends");
    let held = poll_one(&group);
    let again = group.poll(1, HOUR).expect("polls");
    assert_eq!(again.first().map(ackline::Delivery::attempt), Some(2));
    assert_error!(held.ack(), Error::StaleLease { .. });
}

#[test]
fn next_goes_on_past_what_it_settles_itself() {
    let (_, log, topic, _) = with_records(0, GroupOptions::new());
    // In topics of their own, so that neither wakes the other.
    let other = log.topic("other").expect("a topic");
    let filtered = topic.group_with("f", GroupOptions::new().tag("b")).expect("a group");
    let options = GroupOptions::new().attempts_max(1);
    let exhausted = other.group_with("e", options).expect("a group");
    for topic in [&topic, &other] {
        topic.append(Record::new("x").tag("a")).expect("appends");
        topic.append(Record::new("x").tag("b")).expect("appends");
    }
    drop(poll_one(&exhausted));
    for group in [filtered, exhausted] {
        let woken = Arc::new(Woken::default());
        let mut next = pin!(group.next());
        let delivery = loop {
            let before = woken.0.load(Ordering::SeqCst);
            if let Poll::Ready(outcome) = poll_once(next.as_mut(), &woken) {
                break outcome.expect("delivers");
            }
            log.maintain().expect("commits");
            let after = woken.0.load(Ordering::SeqCst);
            assert!(after > before, "nothing will ever wake it, and there is a message");
        };
        assert_eq!(delivery.offset(), Offset(1));
    }
}

#[test]
fn a_poll_without_messages_ends_after_its_timeout() {
    let machine = Machine::new(1);
    let (_log, topic) = real(&machine);
    let group = topic.group("g").expect("a group");
    assert!(group.poll(1, SECOND / 100).expect("polls").is_empty());
}

#[test]
fn next_is_woken_by_an_append() {
    let (_, log, topic, group) = with_records(0, GroupOptions::new());
    let woken = Arc::new(Woken::default());
    let mut next = pin!(group.next());
    assert!(poll_once(next.as_mut(), &woken).is_pending());
    let before = woken.0.load(Ordering::SeqCst);
    topic.append("x").expect("appends");
    assert!(woken.0.load(Ordering::SeqCst) > before);
    // Progress that must be durable first is committed in the background.
    let delivery = loop {
        match poll_once(next.as_mut(), &woken) {
            Poll::Ready(outcome) => break outcome.expect("delivers"),
            Poll::Pending => log.maintain().expect("commits"),
        }
    };
    assert_eq!(delivery.offset(), Offset(0));
}

#[test]
fn next_is_woken_when_a_lease_ends_and_when_a_retry_is_due() {
    let (machine, log, _, group) = with_records(1, GroupOptions::new());
    let held = poll_one(&group);
    let woken = Arc::new(Woken::default());
    for wait in [30 * SECOND, 7 * SECOND] {
        let mut next = pin!(group.next());
        assert!(poll_once(next.as_mut(), &woken).is_pending());
        log.maintain().expect("looks at the time");
        let before = woken.0.load(Ordering::SeqCst);
        machine.advance(wait);
        log.maintain().expect("looks at the time");
        assert!(woken.0.load(Ordering::SeqCst) > before, "after {wait:?}");
        assert!(poll_once(next.as_mut(), &woken).is_pending(), "the attempt is logged first");
        log.maintain().expect("commits");
        let delivery = ready(poll_once(next.as_mut(), &woken));
        delivery.retry_after(7 * SECOND).expect("gives back");
    }
    drop(held);
}

#[test]
fn a_next_that_is_dropped_gives_back_what_it_was_about_to_take() {
    let (_, log, _, group) = with_records(1, GroupOptions::new());
    let woken = Arc::new(Woken::default());
    {
        let mut next = pin!(group.next());
        assert!(poll_once(next.as_mut(), &woken).is_pending(), "progress is logged first");
    }
    log.maintain().expect("commits");
    let delivery = poll_one(&group);
    assert_eq!((delivery.offset(), delivery.attempt()), (Offset(0), 1));
}

#[test]
fn next_answers_closed() {
    let (_, log, _, group) = with_records(0, GroupOptions::new());
    let woken = Arc::new(Woken::default());
    let mut next = pin!(group.next());
    assert!(poll_once(next.as_mut(), &woken).is_pending());
    log.close().expect("closes");
    assert!(woken.0.load(Ordering::SeqCst) > 0);
    let Poll::Ready(outcome) = poll_once(next.as_mut(), &woken) else { panic!("it ends") };
    assert_error!(outcome, Error::Closed);
}

#[test]
fn tasks_on_tokio_share_the_messages_of_a_group() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
    let machine = Machine::new(1);
    let log = Options::new().open_on(machine.disk.storage()).expect("opens");
    let topic = log.topic("t").expect("a topic");
    let group = topic.group("g").expect("a group");
    runtime.block_on(async {
        let tasks: Vec<_> = (0..4)
            .map(|_| {
                let group = group.clone();
                tokio::spawn(async move {
                    for _ in 0..50 {
                        group.next().await.expect("delivers").ack().expect("acks");
                    }
                })
            })
            .collect();
        for i in 0..200 {
            topic.submit(format!("{i}")).await.expect("appends");
        }
        for task in tasks {
            task.await.expect("no panic");
        }
    });
    assert_eq!(group.lag().expect("lag").messages, 0);
}

/// A log that shows what is synced, and goes on in a new segment when call `fails` finds no room:
/// whether the task that waits was woken if it has a message now.
fn woken_by_a_roll_that_fails(fails: u64) -> Option<bool> {
    let machine = Machine::new(1);
    let seldom = SyncPolicy::Interval { every: HOUR, bytes: 1 << 20 };
    let log = machine.open(super::small().sync(seldom));
    let topic = log.topic("t").expect("a topic");
    let group = topic.group("g").expect("a group");
    topic.append(vec![0; 2500]).expect("appends");
    let woken = Arc::new(Woken::default());
    let mut next = pin!(group.next());
    assert!(poll_once(next.as_mut(), &woken).is_pending());
    let before = woken.0.load(Ordering::SeqCst);
    assert_eq!(topic.offsets().end, Offset(0), "nothing is synced");
    machine.disk.fail_at(machine.disk.calls() + fails, Fault::NoSpace);
    let full = matches!(topic.append(vec![0; 2500]), Err(Error::Full { .. }));
    let shown = topic.offsets().end > Offset(0);
    (full && shown).then(|| woken.0.load(Ordering::SeqCst) > before)
}

#[test]
fn next_is_woken_by_what_a_roll_shows_although_there_is_no_room_to_go_on() {
    let woken: Vec<bool> = (0..20).filter_map(woken_by_a_roll_that_fails).collect();
    assert!(!woken.is_empty(), "some roll ends between the two");
    assert!(woken.iter().all(|woken| *woken), "nothing will ever wake it: {woken:?}");
}

#[test]
fn a_next_that_is_dropped_lets_go_of_the_log() {
    let (machine, log, topic, group) = with_records(0, GroupOptions::new());
    let woken = Arc::new(Woken::default());
    let mut next = Box::pin({
        let group = group.clone();
        async move { group.next().await }
    });
    assert!(poll_once(next.as_mut(), &woken).is_pending());
    drop((log, topic, group, next));
    machine.try_open(super::small()).expect("nobody holds the directory any more");
}
