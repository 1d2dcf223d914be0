//! Closing a log that is in use.

use ackline::{Delivery, Ending, Error, GroupOptions, Options};
use shuttle::thread;

use super::appends::join;
use super::harness::check;
use super::machine::Machine;
use super::promises::{Promises, text};

fn roomy() -> Options {
    Options::new().segment_bytes(65536)
}

/// Closes a log while others append to it, submit and poll.
fn check_close(threads: bool, bytes: usize, options: Options) {
    let machine = Machine::new();
    let log = if threads {
        machine.open_with_threads(options.clone())
    } else {
        machine.open(options.clone())
    };
    let topic = log.topic("t").expect("a topic");
    let group = topic.group_with("g", GroupOptions::new()).expect("a group");
    let promises = Promises::default();
    let mut users: Vec<_> = (0..2)
        .map(|writer| {
            let (topic, promises) = (topic.clone(), promises.clone());
            thread::spawn(move || {
                for i in 0..3 {
                    match promises.append(&topic, &text(writer, i, bytes)) {
                        Ok(_) => {}
                        Err(Error::Closed) => return,
                        other => panic!("{other:?}"),
                    }
                }
            })
        })
        .collect();
    users.push(thread::spawn(move || {
        for _ in 0..3 {
            let polled = group.poll(2, std::time::Duration::ZERO);
            let acked = polled.and_then(|all| all.into_iter().try_for_each(Delivery::ack));
            match acked.and_then(|()| group.commit()) {
                Ok(()) => {}
                Err(Error::Closed) => return,
                other => panic!("{other:?}"),
            }
        }
    }));
    log.close().expect("closes");
    join(users);
    let log = machine.crash(options);
    assert_eq!(log.report().ending, Ending::Closed);
    promises.check(&log.topic("t").expect("a topic"));
}

#[test]
fn users_of_a_log_that_is_closed_are_told_so_or_were_before_it() {
    check(3000, || check_close(false, 0, roomy()));
}

#[test]
fn users_of_a_log_that_is_closed_beside_its_threads_are_told_so_or_were_before_it() {
    check(2000, || check_close(true, 0, roomy()));
}

#[test]
fn a_log_can_be_closed_while_it_rolls() {
    check(2000, || check_close(false, 900, Options::new().segment_bytes(4096)));
    check(1000, || check_close(true, 900, Options::new().segment_bytes(4096)));
}

#[test]
fn nothing_comes_behind_the_mark_that_a_log_was_closed() {
    check(6000, || {
        let options = Options::new().segment_bytes(4096);
        let machine = Machine::new();
        let log = machine.open(options.clone());
        let topic = log.topic("t").expect("a topic");
        // The last one needs a new segment, whose file the one before it has prepared.
        for i in 0..2 {
            topic.append(text(0, i, 1000)).expect("appends");
        }
        let appended = thread::spawn(move || topic.append(text(0, 9, 1000)).map(drop));
        log.close().expect("closes");
        let appended = appended.join().expect("it returns");
        assert!(matches!(appended, Ok(()) | Err(Error::Closed)), "{appended:?}");
        assert_eq!(machine.crash(options).report().ending, Ending::Closed);
    });
}

#[test]
fn what_was_made_while_the_log_was_closed_is_there_or_was_refused() {
    check(3000, || {
        let machine = Machine::new();
        let log = machine.open_with_threads(roomy());
        let topic = log.topic("t").expect("a topic");
        let made = log.clone();
        let made = thread::spawn(move || made.topic("made").map(drop));
        let group = topic.clone();
        let group = thread::spawn(move || group.group("g").map(drop));
        let batch = log.batch().append(&topic, "in a batch");
        let batched = thread::spawn(move || batch.commit().map(drop));
        log.close().expect("closes");
        let results = [made, group, batched].map(|one| one.join().expect("it returns"));
        for result in &results {
            assert!(matches!(result, Ok(()) | Err(Error::Closed)), "{result:?}");
        }
        let log = machine.crash(roomy());
        assert_eq!(log.report().ending, Ending::Closed);
        let topic = log.topic("t").expect("a topic");
        let found = [
            log.topics().iter().any(|name| name == "made"),
            !log.groups(&topic).is_empty(),
            topic.offsets().end.0 == 1,
        ];
        for (result, found) in results.iter().zip(found) {
            assert!(found || result.is_err(), "{results:?}");
        }
    });
}

#[test]
fn of_two_that_close_one_does_and_both_return_when_it_is_done() {
    check(3000, || {
        let machine = Machine::new();
        let log = machine.open_with_threads(roomy());
        let topic = log.topic("t").expect("a topic");
        topic.submit("a record").detach();
        let other = log.clone();
        let other = thread::spawn(move || other.close());
        let closed = [log.close(), other.join().expect("it returns")];
        assert!(closed.iter().any(Result::is_ok), "{closed:?}");
        let known = |result: &Result<(), Error>| matches!(result, Ok(()) | Err(Error::Closed));
        assert!(closed.iter().all(known), "{closed:?}");
        let log = machine.open(roomy());
        assert_eq!(log.report().ending, Ending::Closed);
        assert_eq!(log.topic("t").expect("a topic").offsets().end.0, 1);
    });
}
