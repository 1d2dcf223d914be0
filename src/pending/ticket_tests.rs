//! How tickets and what waits for them get on.

use std::sync::Arc;

use super::*;
use crate::error::Error;

/// A thread that waits as a commit does; it says whether it was asked to lead.
fn wait(ticket: &Ticket) -> bool {
    match ticket.park(Limit::Endless, Ack::Synced) {
        Parked::Done(result) => {
            result.expect("the ticket is completed well");
            false
        }
        Parked::Lead => {
            assert!(ticket.complete(&Ok(())).is_empty(), "nobody called back");
            true
        }
        Parked::TimedOut { .. } => panic!("there is no time limit"),
    }
}

#[test]
fn of_those_who_wait_one_is_made_the_leader_and_all_learn_of_the_end() {
    let ticket = Arc::new(Ticket::default());
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            ticket.register(Ack::Synced);
            let ticket = Arc::clone(&ticket);
            std::thread::spawn(move || wait(&ticket))
        })
        .collect();
    assert!(ticket.offer_lead(), "somebody waits");
    let led = waiting.into_iter().map(|waiter| waiter.join().expect("it returns"));
    assert_eq!(led.filter(|led| *led).count(), 1);
    assert!(ticket.is_done() && !ticket.offer_lead(), "nobody waits any more");
}

#[test]
fn who_comes_after_the_end_does_not_wait() {
    let ticket = Ticket::completed();
    ticket.register(Ack::Synced);
    assert!(!wait(&ticket));
    assert!(matches!(ticket.poll(Waker::noop()), Some(Ok(()))));
    assert!(ticket.call_back(Box::new(drop)).is_some(), "the callback is handed back");
}

#[test]
fn a_task_and_a_callback_learn_of_the_end() {
    struct Woken(std::sync::mpsc::Sender<()>);
    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.send(()).expect("the test waits for it");
        }
    }
    let ticket = Arc::new(Ticket::default());
    let (woken, wakes) = std::sync::mpsc::channel();
    assert!(ticket.poll(&Waker::from(Arc::new(Woken(woken)))).is_none());
    assert!(ticket.call_back(Box::new(drop)).is_none());
    let completing = Arc::clone(&ticket);
    let completing = std::thread::spawn(move || completing.complete(&Err(Error::Closed)));
    wakes.recv().expect("the task is woken");
    assert!(matches!(ticket.result(), Some(Err(Error::Closed))), "before the task was woken");
    assert_eq!(completing.join().expect("it returns").len(), 1, "the callback is to be run");
}

#[test]
fn who_waits_for_replicas_learns_of_both_failures_and_of_the_last_success() {
    let outcomes = [(Ok(()), Ok(())), (Ok(()), Err(Error::Closed)), (Err(Error::Closed), Ok(()))];
    for (here, there) in outcomes {
        let ticket = Arc::new(Ticket::default().and_replicated());
        ticket.register(Ack::Replicated);
        let waiting = {
            let ticket = Arc::clone(&ticket);
            std::thread::spawn(move || ticket.park(Limit::Endless, Ack::Replicated))
        };
        let expected = here.clone().and(there.clone());
        assert!(ticket.complete(&here).is_empty() && ticket.complete_replicas(&there).is_empty());
        let Parked::Done(result) = waiting.join().expect("it returns") else { panic!("no end") };
        assert_eq!(result.is_ok(), expected.is_ok());
        assert_eq!(ticket.waiting.load(Ordering::Acquire), 0);
    }
}

#[test]
fn who_waits_for_this_disk_alone_does_not_wait_for_replicas() {
    let ticket = Arc::new(Ticket::default().and_replicated());
    ticket.register(Ack::Synced);
    let waiting = {
        let ticket = Arc::clone(&ticket);
        std::thread::spawn(move || wait(&ticket))
    };
    assert!(ticket.complete(&Ok(())).is_empty());
    assert!(!waiting.join().expect("it returns"), "it was not to lead");
    assert_eq!(ticket.waiting_here.load(Ordering::Acquire), 0);
}
