//! Consumers that sleep are woken by whatever there is for them. Time stands still, so that no
//! time limit helps them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ackline::{Delivery, Error, Group, GroupOptions, Log, Options, Topic};
use shuttle::future::block_on;
use shuttle::thread::{self, JoinHandle};

use super::appends::join;
use super::harness::check;
use super::machine::Machine;

const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);

fn roomy() -> Options {
    Options::new().segment_bytes(65536)
}

/// A topic with a group and `records` messages.
fn with_records(log: &Log, records: u64, options: GroupOptions) -> (Topic, Group) {
    let topic = log.topic("t").expect("a topic");
    for i in 0..records {
        topic.append(i.to_string()).expect("appends");
    }
    let group = topic.group_with("g", options).expect("a group");
    (topic, group)
}

/// Takes one message, sleeping as long as there is none.
fn take(group: &Group) -> Delivery {
    let mut polled = group.poll(1, HOUR).expect("polls");
    polled.pop().expect("it sleeps until there is one")
}

fn take_async(group: &Group) -> Delivery {
    block_on(group.next()).expect("polls")
}

/// How consumers wait in a test.
type Take = fn(&Group) -> Delivery;

/// Consumers that do something with a message and then acknowledge another, or the same.
fn consumers(group: &Group, number: u64, take: Take, first: fn(Delivery)) -> Vec<JoinHandle<()>> {
    let consumer = |_| {
        let group = group.clone();
        thread::spawn(move || {
            first(take(&group));
            take(&group).ack().expect("acks");
        })
    };
    (0..number).map(consumer).collect()
}

fn check_woken_by_appends(take: Take, threads: bool) {
    let machine = Machine::new();
    let log = if threads { machine.open_with_threads(roomy()) } else { machine.open(roomy()) };
    let (topic, group) = with_records(&log, 0, GroupOptions::new());
    let ack: fn(Delivery) = |delivery| delivery.ack().expect("acks");
    let mut all = consumers(&group, 2, take, ack);
    all.push(thread::spawn(move || {
        topic.append("first").expect("appends");
        topic.append_batch(["second", "third"]).expect("appends");
        topic.append("fourth").expect("appends");
    }));
    join(all);
    group.commit().expect("commits");
    assert_eq!(group.lag().expect("a lag").messages, 0);
}

#[test]
fn sleeping_threads_are_woken_by_appends() {
    check(3000, || check_woken_by_appends(take, false));
}

#[test]
fn sleeping_tasks_are_woken_by_appends() {
    check(2000, || check_woken_by_appends(take_async, true));
}

#[test]
fn a_sleeping_thread_is_woken_by_what_the_background_syncs() {
    check(3000, || {
        let machine = Machine::new();
        let interval = ackline::SyncPolicy::Interval { every: SECOND, bytes: 40 };
        let log = machine.open_with_threads(roomy().sync(interval));
        let (topic, group) = with_records(&log, 0, GroupOptions::new());
        let consumer = thread::spawn(move || take(&group).ack().expect("acks"));
        // Over the number of bytes after which a sync is due.
        topic.append("a record that is long enough for a sync").expect("appends");
        consumer.join().expect("the consumer returns");
        log.close().expect("closes");
    });
}

fn check_woken_by_end_of_lease(take: Take, threads: bool, end: fn(Delivery)) {
    let machine = Machine::new();
    let log = if threads { machine.open_with_threads(roomy()) } else { machine.open(roomy()) };
    let (_topic, group) = with_records(&log, 2, GroupOptions::new());
    // While one consumer holds a message, the other may have to wait for it.
    join(consumers(&group, 2, take, end));
    assert_eq!(group.lag().expect("a lag").messages, 0);
}

fn release(delivery: Delivery) {
    delivery.release().expect("releases");
}

#[test]
fn sleeping_threads_are_woken_by_a_release() {
    check(3000, || check_woken_by_end_of_lease(take, false, release));
}

#[test]
fn sleeping_threads_are_woken_by_a_delivery_that_is_dropped() {
    check(3000, || check_woken_by_end_of_lease(take, false, drop));
}

#[test]
fn sleeping_tasks_are_woken_by_a_release() {
    check(2000, || check_woken_by_end_of_lease(take_async, true, release));
}

#[test]
fn sleeping_tasks_are_woken_by_a_delivery_that_is_dropped() {
    check(2000, || check_woken_by_end_of_lease(take_async, true, drop));
}

fn check_woken_by_time(take: Take, threads: bool, end: fn(Delivery)) {
    let machine = Machine::new();
    let log = if threads { machine.open_with_threads(roomy()) } else { machine.open(roomy()) };
    let (_topic, group) = with_records(&log, 1, GroupOptions::new().lease(30 * SECOND));
    end(take(&group));
    let done = Arc::new(AtomicU64::new(0));
    let consumer = {
        let (group, done) = (group.clone(), Arc::clone(&done));
        thread::spawn(move || {
            let delivery = take(&group);
            assert_eq!(delivery.attempt(), 2);
            delivery.ack().expect("acks");
            done.store(1, Ordering::Relaxed);
        })
    };
    machine.advance_until(SECOND, || done.load(Ordering::Relaxed) > 0);
    consumer.join().expect("the consumer returns");
    let least = if threads { 10 } else { 5 };
    assert!(machine.elapsed() >= least * SECOND, "after {:?}", machine.elapsed());
}

#[test]
fn a_sleeping_thread_gets_a_retry_once_it_is_due() {
    let retry = |delivery: Delivery| delivery.retry_after(5 * SECOND).expect("retries");
    check(1000, move || check_woken_by_time(take, false, retry));
}

#[test]
fn a_sleeping_task_gets_a_retry_once_it_is_due() {
    let retry = |delivery: Delivery| delivery.retry_after(10 * SECOND).expect("retries");
    check(1000, move || check_woken_by_time(take_async, true, retry));
}

#[test]
fn a_task_that_stops_waiting_leaves_the_message_to_others() {
    check(2000, || {
        let machine = Machine::new();
        let log = machine.open_with_threads(roomy());
        let (topic, group) = with_records(&log, 0, GroupOptions::new());
        let fickle = {
            let group = group.clone();
            thread::spawn(move || {
                let mut next = Box::pin(group.next());
                block_on(std::future::poll_fn(|context| {
                    // What it may have got goes back with the future.
                    drop(next.as_mut().poll(context));
                    std::task::Poll::Ready(())
                }));
            })
        };
        let faithful = thread::spawn(move || take_async(&group).ack().expect("acks"));
        topic.append("for the faithful one").expect("appends");
        join(vec![fickle, faithful]);
        log.close().expect("closes");
    });
}

fn check_woken_by_the_end(threads: bool, end: fn(&Machine, Log)) {
    let machine = Machine::new();
    let log = if threads { machine.open_with_threads(roomy()) } else { machine.open(roomy()) };
    let (_topic, group) = with_records(&log, 0, GroupOptions::new());
    let ended = |result: Result<(), Error>| {
        let expected = matches!(result, Err(Error::Closed | Error::Poisoned { .. }));
        assert!(expected, "{result:?}");
    };
    let mut sleepers = vec![{
        let group = group.clone();
        thread::spawn(move || ended(group.poll(1, HOUR).map(drop)))
    }];
    if threads {
        sleepers.push(thread::spawn(move || ended(block_on(group.next()).map(drop))));
    }
    end(&machine, log);
    join(sleepers);
}

#[test]
fn sleepers_learn_that_the_log_is_closed() {
    let close = |_: &Machine, log: Log| log.close().expect("closes");
    check(2000, move || check_woken_by_the_end(false, close));
    check(2000, move || check_woken_by_the_end(true, close));
}

#[test]
fn sleepers_learn_that_the_log_is_poisoned() {
    let poison = |machine: &Machine, log: Log| {
        machine.fail_sync(1);
        let appended = log.topic("t").and_then(|topic| topic.append("lost"));
        assert!(matches!(appended, Err(Error::Poisoned { .. })), "{appended:?}");
    };
    check(2000, move || check_woken_by_the_end(false, poison));
    check(2000, move || check_woken_by_the_end(true, poison));
}

fn check_woken_by_room(take: Take, threads: bool, end: fn(Delivery)) {
    let machine = Machine::new();
    let log = if threads { machine.open_with_threads(roomy()) } else { machine.open(roomy()) };
    // One message may be in somebody's hands at a time, so each consumer waits for the other.
    let (_topic, group) = with_records(&log, 4, GroupOptions::new().in_flight_max(1));
    join(consumers(&group, 2, take, end));
}

#[test]
fn consumers_that_the_bounds_hold_back_are_woken_when_there_is_room() {
    let ack: fn(Delivery) = |delivery| delivery.ack().expect("acks");
    let retry: fn(Delivery) = |delivery| delivery.retry_after(HOUR).expect("retries");
    check(2000, move || check_woken_by_room(take, false, ack));
    check(1000, move || check_woken_by_room(take, false, retry));
    check(1000, move || check_woken_by_room(take_async, true, ack));
}
