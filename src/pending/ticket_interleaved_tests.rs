//! All orders in which the steps of those who wait for a ticket and who complete it can come.

use std::sync::Arc;

use super::*;
use crate::sync::thread;

/// A thread that waits as a commit does: leads if it is asked to, and completes the ticket.
fn follow(ticket: &Ticket) -> bool {
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

fn waiters(ticket: &Arc<Ticket>, number: usize) -> Vec<thread::JoinHandle<bool>> {
    let waiter = |_| {
        // As under the queue's lock, before anybody can make an offer.
        ticket.register(Ack::Synced);
        let ticket = Arc::clone(ticket);
        thread::spawn(move || follow(&ticket))
    };
    (0..number).map(waiter).collect()
}

fn check_complete(number: usize) {
    let ticket = Arc::new(Ticket::default());
    let waiting = waiters(&ticket, number);
    assert!(ticket.complete(&Ok(())).is_empty(), "nobody called back");
    for waiter in waiting {
        assert!(!waiter.join().expect("it returns"), "leadership was offered to nobody");
    }
    assert!(!ticket.offer_lead(), "nobody waits any more");
}

fn check_offer(number: usize) {
    let ticket = Arc::new(Ticket::default());
    let waiting = waiters(&ticket, number);
    assert!(ticket.offer_lead(), "somebody waits");
    let leaders = waiting.into_iter().map(|waiter| waiter.join().expect("it returns"));
    assert_eq!(leaders.filter(|leads| *leads).count(), 1);
}

#[test]
fn waiters_learn_of_the_end_in_whatever_order_the_steps_come() {
    shuttle::check_dfs(|| check_complete(2), None);
}

#[test]
fn a_waiter_that_is_offered_leadership_takes_it_in_whatever_order_the_steps_come() {
    shuttle::check_dfs(|| check_offer(1), None);
}

#[test]
fn of_several_waiters_one_leads_and_all_return_whatever_order_is_drawn() {
    shuttle::check_random(|| check_offer(3), 20_000);
    shuttle::check_random(|| check_complete(3), 20_000);
}

fn check_replicated(acks: &'static [Ack]) {
    let ticket = Arc::new(Ticket::default().and_replicated());
    let waiting: Vec<_> = acks
        .iter()
        .map(|ack| {
            let ticket = Arc::clone(&ticket);
            thread::spawn(move || {
                ticket.register(*ack);
                assert!(matches!(ticket.park(Limit::Endless, *ack), Parked::Done(Ok(()))));
                assert!(ticket.awaited(*ack).is_done());
            })
        })
        .collect();
    // The replicas may be heard of before the commit has told of itself.
    let advancing = {
        let ticket = Arc::clone(&ticket);
        thread::spawn(move || assert!(ticket.complete_replicas(&Ok(())).is_empty()))
    };
    assert!(ticket.complete(&Ok(())).is_empty());
    advancing.join().expect("it returns");
    for waiter in waiting {
        waiter.join().expect("it returns");
    }
}

#[test]
fn who_waits_for_either_is_woken_whatever_order_is_drawn() {
    // All orders for one who waits for replicas take minutes; they were run once.
    shuttle::check_random(|| check_replicated(&[Ack::Replicated]), 20_000);
    shuttle::check_random(|| check_replicated(&[Ack::Replicated, Ack::Synced]), 20_000);
}

/// Threads that share a time limit, of which one may be made the leader, of a write that does not
/// end.
fn check_shared_limit(number: u64, leads: bool) {
    let ticket = Arc::new(Ticket::default());
    let returned = Arc::new(AtomicU64::new(0));
    let waiting: Vec<_> = (0..number)
        .map(|_| {
            ticket.register(Ack::Synced);
            let (ticket, returned) = (Arc::clone(&ticket), Arc::clone(&returned));
            thread::spawn(move || {
                let parked = ticket.park(Limit::Shared(Duration::from_secs(1)), Ack::Synced);
                match parked {
                    Parked::Done(_) => panic!("nobody completes it"),
                    // Its time is up, so it keeps it for nobody any more.
                    Parked::TimedOut { kept_time: true } => ticket.look_up(),
                    Parked::TimedOut { kept_time: false } | Parked::Lead => {}
                }
                returned.fetch_add(1, Ordering::Release);
            })
        })
        .collect();
    assert!(!leads || ticket.offer_lead(), "somebody waits");
    while returned.load(Ordering::Acquire) < number {
        crate::sync::let_time_pass();
        thread::yield_now();
    }
    for waiter in waiting {
        waiter.join().expect("it returns");
    }
}

#[test]
fn who_shares_a_time_limit_is_woken_by_it_whatever_order_is_drawn() {
    shuttle::check_random(|| check_shared_limit(4, false), 5_000);
    shuttle::check_random(|| check_shared_limit(4, true), 5_000);
}
