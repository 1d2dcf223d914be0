//! Pending appends as futures, on tokio and on an executor made by hand.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use ackline::simulation::Fault;
use ackline::{Error, Offset, Options};

use crate::common::{Machine, read_all};

/// Counts how often it was woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn waker() -> (Arc<Woken>, Waker) {
    let woken = Arc::new(Woken::default());
    (Arc::clone(&woken), Waker::from(woken))
}

#[test]
fn many_tasks_await_their_appends_on_tokio() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
    let machine = Machine::new(1);
    let log = Options::new().open_on(machine.disk.storage()).expect("opens");
    let topic = log.topic("t").expect("a topic");
    runtime.block_on(async {
        let tasks: Vec<_> = (0..200)
            .map(|i| {
                let topic = topic.clone();
                tokio::spawn(async move { topic.submit(format!("{i}")).await })
            })
            .collect();
        let mut offsets = Vec::new();
        for task in tasks {
            offsets.push(task.await.expect("no panic").expect("appends").offset.0);
        }
        offsets.sort_unstable();
        assert_eq!(offsets, (0..200).collect::<Vec<_>>());
    });
    let stats = log.stats();
    assert!(stats.writes <= stats.appended + 1, "tasks share writes");
}

#[test]
fn a_future_is_woken_when_its_record_is_durable_and_not_before() {
    let machine = Machine::new(1);
    let log = machine.open(Options::new());
    let topic = log.topic("t").expect("a topic");
    let (woken, waker) = waker();
    let mut context = Context::from_waker(&waker);
    let mut pending = pin!(topic.submit("first"));
    for _ in 0..3 {
        assert!(pending.as_mut().poll(&mut context).is_pending());
    }
    assert_eq!(woken.0.load(Ordering::SeqCst), 0);
    log.maintain().expect("commits");
    assert_eq!(woken.0.load(Ordering::SeqCst), 1, "polled thrice by one task, woken once");
    match pending.as_mut().poll(&mut context) {
        Poll::Ready(outcome) => assert_eq!(outcome.expect("appends").offset, Offset(0)),
        Poll::Pending => panic!("it was woken"),
    }
}

#[test]
fn a_future_that_is_ready_is_not_pending_once() {
    let machine = Machine::new(1);
    let log = machine.open(Options::new());
    let topic = log.topic("t").expect("a topic");
    let (_, waker) = waker();
    let mut pending = pin!(topic.submit("first"));
    topic.append("commits both").expect("appends");
    assert!(pending.as_mut().poll(&mut Context::from_waker(&waker)).is_ready());
}

#[test]
fn a_future_that_moved_to_another_task_wakes_that_one() {
    let machine = Machine::new(1);
    let log = machine.open(Options::new());
    let topic = log.topic("t").expect("a topic");
    let ((_, one), (second, other)) = (waker(), waker());
    let mut pending = pin!(topic.submit("first"));
    assert!(pending.as_mut().poll(&mut Context::from_waker(&one)).is_pending());
    assert!(pending.as_mut().poll(&mut Context::from_waker(&other)).is_pending());
    log.maintain().expect("commits");
    assert_eq!(second.0.load(Ordering::SeqCst), 1);
}

#[test]
fn a_future_that_is_dropped_early_loses_nothing() {
    let machine = Machine::new(1);
    let log = machine.open(Options::new());
    let topic = log.topic("t").expect("a topic");
    let (_, waker) = waker();
    {
        let mut pending = pin!(topic.submit("first"));
        assert!(pending.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    log.maintain().expect("commits");
    assert_eq!(read_all(&topic), [b"first"]);
}

#[test]
fn a_failed_sync_wakes_every_task() {
    let machine = Machine::new(1);
    let log = machine.open(Options::new());
    let topic = log.topic("t").expect("a topic");
    let (woken, waker) = waker();
    let mut context = Context::from_waker(&waker);
    let mut pendings: Vec<_> = (0..5).map(|i| Box::pin(topic.submit(format!("{i}")))).collect();
    for pending in &mut pendings {
        assert!(pending.as_mut().poll(&mut context).is_pending());
    }
    // The write, then the sync.
    machine.disk.fail_at(machine.disk.calls() + 1, Fault::Io);
    drop(log.maintain());
    assert!(woken.0.load(Ordering::SeqCst) >= 1);
    for mut pending in pendings {
        let Poll::Ready(outcome) = pending.as_mut().poll(&mut context) else {
            panic!("every task has its answer");
        };
        assert_error!(outcome, Error::Poisoned { .. });
    }
}
