//! The four ways to use a `Pending`, and what becomes of those whose log is closed or forgotten.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ackline::{Ending, Error, Offset, Options};
use shuttle::future::block_on;
use shuttle::sync::mpsc::channel;
use shuttle::thread;

use super::appends::join;
use super::harness::check;
use super::machine::Machine;
use super::promises::{Promises, text};

fn roomy() -> Options {
    Options::new().segment_bytes(65536)
}

#[test]
fn a_submitted_record_resolves_for_whoever_waits_in_whatever_way() {
    check(3000, || {
        let machine = Machine::new();
        let log = machine.open_with_threads(roomy());
        let topic = log.topic("t").expect("a topic");
        let promises = Promises::default();
        let (called, calls) = channel();
        let ways: Vec<_> = (0..3)
            .map(|way| {
                let (topic, promises, called) = (topic.clone(), promises.clone(), called.clone());
                thread::spawn(move || {
                    let record = text(way, 0, 0);
                    promises.will_try(&record);
                    let pending = topic.submit(record.as_str());
                    let receipt = match way {
                        0 => pending.wait(),
                        1 => block_on(pending),
                        _ => {
                            pending.on_complete(move |result| {
                                // A receiver that is gone has failed already.
                                drop(called.send(result));
                            });
                            return;
                        }
                    };
                    promises.is_kept(receipt.expect("appends").offset, &record);
                })
            })
            .collect();
        join(ways);
        let receipt = calls.recv().expect("the callback is called").expect("appends");
        promises.is_kept(receipt.offset, &text(2, 0, 0));
        log.close().expect("closes");
        let log = machine.crash(roomy());
        assert_eq!(log.report().ending, Ending::Closed);
        promises.check(&log.topic("t").expect("a topic"));
        assert_eq!(promises.number(), 3);
    });
}

#[test]
fn tasks_and_threads_that_wait_for_one_write_all_learn_of_it() {
    check(3000, || {
        let machine = Machine::new();
        let log = machine.open_with_threads(roomy());
        let topic = log.topic("t").expect("a topic");
        let tasks: Vec<_> = (0..2)
            .map(|_| {
                let topic = topic.clone();
                shuttle::future::spawn(async move {
                    let first = topic.submit("first");
                    let second = topic.submit("second");
                    (first.await.expect("appends"), second.await.expect("appends"))
                })
            })
            .collect();
        topic.append("third").expect("appends");
        for task in tasks {
            let (first, second) = block_on(task).expect("the task returns");
            assert!(first.offset < second.offset);
        }
        assert_eq!(topic.offsets().end.0, 5);
        log.close().expect("closes");
    });
}

#[test]
fn a_task_that_stops_waiting_leaves_the_others_alone() {
    check(3000, || {
        let machine = Machine::new();
        let log = machine.open_with_threads(roomy());
        let topic = log.topic("t").expect("a topic");
        let fickle = {
            let topic = topic.clone();
            thread::spawn(move || {
                let mut pending = topic.submit("dropped while it waits");
                block_on(std::future::poll_fn(|context| {
                    // Its outcome is of no interest: the waker stays registered.
                    drop(std::pin::Pin::new(&mut pending).poll(context));
                    std::task::Poll::Ready(())
                }));
                topic.submit("detached").detach();
            })
        };
        let faithful = {
            let topic = topic.clone();
            thread::spawn(move || {
                block_on(topic.submit("awaited")).expect("appends");
            })
        };
        topic.submit("waited for").wait_timeout(Duration::MAX).expect("in time").expect("appends");
        join(vec![fickle, faithful]);
        log.close().expect("closes");
        let log = machine.crash(roomy());
        assert_eq!(super::machine::texts(&log.topic("t").expect("a topic")).len(), 4);
    });
}

#[test]
fn what_nobody_waits_for_is_written_in_a_moment() {
    check(3000, || {
        let machine = Machine::new();
        let log = machine.open_with_threads(roomy());
        let topic = log.topic("t").expect("a topic");
        let sender = |number| {
            let (topic, machine) = (topic.clone(), machine.clone());
            thread::spawn(move || {
                for i in 0..3 {
                    topic.submit(text(number, i, 0)).detach();
                    // The committer looks again, or goes to sleep, between any two of them.
                    machine.clock.advance(Duration::from_millis(1));
                }
            })
        };
        join(vec![sender(0), sender(1)]);
        machine.advance_until(Duration::from_millis(1), || topic.offsets().end == Offset(6));
    });
}

#[test]
fn the_last_handle_that_is_dropped_closes_the_log_and_loses_nothing() {
    check(3000, || {
        let machine = Machine::new();
        let log = machine.open_with_threads(roomy());
        let topic = log.topic("t").expect("a topic");
        drop(log);
        let promises = Promises::default();
        let called = Arc::new(AtomicU64::new(0));
        let threads: Vec<_> = (0..2)
            .map(|writer| {
                let (topic, promises) = (topic.clone(), promises.clone());
                let called = Arc::clone(&called);
                thread::spawn(move || {
                    promises.will_try(&text(writer, 0, 0));
                    promises.will_try(&text(writer, 1, 0));
                    topic.submit(text(writer, 0, 0)).detach();
                    topic.submit(text(writer, 1, 0)).on_complete(move |result| {
                        if result.is_ok() {
                            called.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                })
            })
            .collect();
        drop(topic);
        join(threads);
        let log = machine.reopen(&roomy());
        assert_eq!(log.report().ending, Ending::Closed);
        let topic = log.topic("t").expect("a topic");
        promises.check(&topic);
        assert_eq!(topic.offsets().end.0, 4, "what was submitted was written");
        // The directory is free before the last callbacks are run.
        while called.load(Ordering::Relaxed) < 2 {
            thread::yield_now();
        }
    });
}

/// A callback is called exactly once, whatever happens to the log meanwhile.
fn check_callbacks(faulty: bool) {
    let machine = Machine::new();
    let log = machine.open_with_threads(roomy());
    let topic = log.topic("t").expect("a topic");
    if faulty {
        machine.fail_sync(1);
    }
    let (called, calls) = channel();
    let mut threads: Vec<_> = (0..2)
        .map(|_| {
            let (topic, called) = (topic.clone(), called.clone());
            thread::spawn(move || {
                topic.submit("a record").on_complete(move |result| drop(called.send(result)));
            })
        })
        .collect();
    threads.push(thread::spawn(move || {
        let appended = topic.append("beside them");
        let expected = matches!(appended, Ok(_) | Err(Error::Closed | Error::Poisoned { .. }));
        assert!(expected, "{appended:?}");
    }));
    let closed = log.close();
    assert!(faulty || closed.is_ok(), "{closed:?}");
    join(threads);
    drop(called);
    for _ in 0..2 {
        // Fails if a callback was dropped, sleeps for ever if it is kept and not called.
        let result = calls.recv().expect("every callback is called");
        let expected = match &result {
            Ok(_) | Err(Error::Closed) => true,
            Err(error) => faulty && matches!(error, Error::Poisoned { .. }),
        };
        assert!(expected, "{result:?}");
    }
    assert!(calls.recv().is_err(), "none is called twice");
}

#[test]
fn callbacks_are_called_once_while_the_log_is_closed() {
    check(3000, || check_callbacks(false));
}

#[test]
fn callbacks_are_called_once_while_a_failing_log_is_closed() {
    check(3000, || check_callbacks(true));
}

#[test]
fn a_callback_may_append_and_close_the_log() {
    check(3000, || {
        let machine = Machine::new();
        let log = machine.open_with_threads(roomy());
        let topic = log.topic("t").expect("a topic");
        let (called, calls) = channel();
        let (last, second) = (log.clone(), topic.clone());
        topic.submit("first").on_complete(move |first| {
            let second = second.append("second");
            drop(called.send((first, second, last.close())));
        });
        let appended = topic.append("beside them");
        assert!(matches!(appended, Ok(_) | Err(Error::Closed)), "{appended:?}");
        drop((log, topic));
        let (first, second, closed) = calls.recv().expect("the callback is called");
        assert!(
            first.is_ok() && second.is_ok() && closed.is_ok(),
            "{first:?} {second:?} {closed:?}"
        );
        let log = machine.reopen(&roomy());
        assert_eq!(log.report().ending, Ending::Closed);
    });
}

#[test]
fn who_waits_for_a_while_gets_the_handle_back_and_may_wait_again() {
    let again = Arc::new(AtomicU64::new(0));
    let times = Arc::clone(&again);
    check(2000, move || {
        let second = Duration::from_secs(1);
        let machine = Machine::new();
        let log = machine.open(roomy());
        let topic = log.topic("t").expect("a topic");
        let done = Arc::new(AtomicU64::new(0));
        let threads: Vec<_> = (0..3)
            .map(|writer| {
                let (topic, done, times) = (topic.clone(), Arc::clone(&done), Arc::clone(&times));
                thread::spawn(move || {
                    let mut pending = topic.submit(text(writer, 0, 0));
                    loop {
                        match pending.wait_timeout(second) {
                            Ok(appended) => break appended.map(drop).expect("appends"),
                            Err(back) => pending = back,
                        }
                        times.fetch_add(1, Ordering::Relaxed);
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                })
            })
            .collect();
        machine.advance_until(second, || done.load(Ordering::Relaxed) == 3);
        join(threads);
    });
    assert!(again.load(Ordering::Relaxed) > 0, "somebody waited twice");
}
