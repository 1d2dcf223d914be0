//! What nobody waits for gets done all the same, and extreme values hang and break nothing.
//! These tests run on the real threads; they wait until something is true, however long it takes.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use ackline::simulation::{Fault, SimClock, SimDisk};
use ackline::{Error, Log, Offset, Options, Record, SyncPolicy};

/// Waits until `condition` holds; a test that waits in vain is ended by the test runner.
fn until(condition: impl Fn() -> bool) {
    while !condition() {
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn an_interval_ends_without_another_call() {
    let dir = tempfile::tempdir().expect("a directory");
    let policy = SyncPolicy::Interval { every: Duration::from_millis(20), bytes: 1 << 30 };
    let log = Options::new().sync(policy).open(dir.path()).expect("opens");
    let topic = log.topic("t").expect("a topic");
    for i in 0..3 {
        // Long enough that the background thread has gone to sleep, or not: both must do.
        std::thread::sleep(Duration::from_millis(30 * i));
        topic.append("x").expect("appends");
        until(|| topic.offsets().end == Offset(i + 1));
    }
}

#[test]
fn an_idle_log_vouches_for_its_last_record() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = Log::open(dir.path()).expect("opens");
    let topic = log.topic("t").expect("a topic");
    for i in 0..3 {
        std::thread::sleep(Duration::from_millis(150 * i));
        topic.append("x").expect("appends");
        let after_append = log.stats().syncs;
        until(|| log.stats().syncs > after_append);
    }
}

#[test]
fn the_longest_times_are_only_long() {
    let dir = tempfile::tempdir().expect("a directory");
    let policy = SyncPolicy::Interval { every: Duration::MAX, bytes: u64::MAX };
    for policy in [SyncPolicy::default(), policy] {
        let options = Options::new().sync(policy).sync_timeout(Duration::MAX);
        let log = options.open(dir.path()).expect("opens");
        let topic = log.topic("t").expect("a topic");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        topic.append("x").expect("appends");
                    }
                });
            }
        });
        topic.submit("x").wait_timeout(Duration::MAX).expect("in time").expect("appends");
        log.sync().expect("syncs");
        let group = topic.group("g").expect("a group");
        let mut polled = group.poll(usize::MAX, Duration::MAX).expect("polls");
        let delivery = polled.pop().expect("there are messages");
        delivery.extend(Duration::MAX).expect("extends");
        delivery.retry_after(Duration::MAX).expect("gives back");
        drop(polled);
        log.close().expect("closes");
    }
}

#[test]
fn a_callback_may_close_the_log() {
    let dir = tempfile::tempdir().expect("a directory");
    for _ in 0..50 {
        let log = Log::open(dir.path()).expect("opens");
        let topic = log.topic("t").expect("a topic");
        let (done, closed) = mpsc::channel();
        let in_callback = log.clone();
        topic.submit("x").on_complete(move |_| {
            // One of the two closes it; the other one is told so.
            let result = in_callback.close();
            assert!(matches!(result, Ok(()) | Err(Error::Closed)), "{result:?}");
            done.send(()).expect("the test listens");
        });
        let result = log.close();
        assert!(matches!(result, Ok(()) | Err(Error::Closed)), "{result:?}");
        closed.recv().expect("the callback was run");
    }
}

#[test]
fn a_record_with_the_most_headers_can_be_rejected() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = Log::open(dir.path()).expect("opens");
    let topic = log.topic("t").expect("a topic");
    let with = |headers| (0..headers).fold(Record::new("x"), |record, _| record.header("a", ""));
    let refused = topic.append(with(32 * 1024 + 1));
    assert!(matches!(refused, Err(Error::TooLarge { max: 32_768, .. })), "{refused:?}");
    topic.append(with(32 * 1024)).expect("appends");
    let group = topic.group("g").expect("a group");
    let delivery = group.poll(1, Duration::ZERO).expect("polls").pop().expect("one");
    delivery.reject("no").expect("rejects");
    let dead = log.topic(&group.dead_letter_topic()).expect("a topic");
    let letter = dead.read_from(Offset(0)).expect("reads").next().expect("one").expect("whole");
    assert_eq!(letter.headers().count(), 32 * 1024 + 5);
}

#[test]
fn a_removal_that_fails_leaves_no_hole() {
    for call in 0..60 {
        let disk = SimDisk::new(1);
        let clock = Arc::new(SimClock::new());
        let open = || {
            let options = Options::new().segment_bytes(4096).simulated(clock.clone(), 1);
            options.open_on(disk.storage())
        };
        let log = open().expect("opens");
        let topic = log.topic("t").expect("a topic");
        let group = topic.group("g").expect("a group");
        for _ in 0..60 {
            topic.append(vec![7; 300]).expect("appends");
        }
        for delivery in group.poll(100, Duration::ZERO).expect("polls") {
            delivery.ack().expect("acks");
        }
        group.commit().expect("commits");
        disk.fail_at(disk.calls() + call, Fault::Io);
        let failed = log.maintain();
        disk.clear_faults();
        if log.stats().poisoned {
            assert!(failed.is_err() || call > 0, "a poisoned log has a cause");
            continue;
        }
        log.maintain().expect("the removal is tried again");
        log.close().expect("closes");
        open().unwrap_or_else(|error| panic!("call {call}: {error}"));
    }
}

#[test]
fn dropped_futures_are_forgotten() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = Log::open(dir.path()).expect("opens");
    let group = log.topic("t").expect("a topic").group("g").expect("a group");
    let waker = Arc::new(Count);
    for _ in 0..1000 {
        let waker = std::task::Waker::from(Arc::clone(&waker));
        let mut context = std::task::Context::from_waker(&waker);
        let mut next = Box::pin(group.next());
        assert!(next.as_mut().poll(&mut context).is_pending());
    }
    // Each registration holds a clone of the waker; all are gone with their futures.
    assert_eq!(Arc::strong_count(&waker), 1);
}

struct Count;

impl std::task::Wake for Count {
    fn wake(self: Arc<Self>) {}
}
