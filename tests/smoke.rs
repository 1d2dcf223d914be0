//! The main path, end to end, on a real disk and on a simulated one.

use std::sync::Arc;
use std::time::Duration;

use ackline::simulation::{SimClock, SimDisk};
use ackline::{Ending, Error, Log, Offset, Options};

#[test]
fn what_was_appended_is_polled_acked_and_gone_after_reopening() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = Log::open(dir.path()).expect("opens");
    assert_eq!(log.report().ending, Ending::New);
    let orders = log.topic("orders").expect("a topic");
    for i in 0..100 {
        let receipt = orders.append(format!("order {i}")).expect("appends");
        assert_eq!(receipt.offset, Offset(i));
    }
    let billing = orders.group("billing").expect("a group");
    let polled = billing.poll(60, Duration::from_secs(1)).expect("polls");
    assert_eq!(polled.len(), 60);
    for (i, message) in polled.into_iter().enumerate() {
        assert_eq!(message.payload(), format!("order {i}").as_bytes());
        assert_eq!(message.attempt(), 1);
        message.ack().expect("acks");
    }
    billing.commit().expect("commits");
    log.close().expect("closes");
    assert!(matches!(orders.append("late"), Err(Error::Closed)));
    drop((orders, billing));

    let log = Log::open(dir.path()).expect("opens again");
    assert_eq!(log.report().ending, Ending::Closed);
    let billing = log.topic("orders").expect("a topic").group("billing").expect("a group");
    assert_eq!(billing.lag().expect("lag").messages, 40);
    let rest = billing.poll(100, Duration::from_secs(1)).expect("polls");
    assert_eq!(rest.first().map(|message| message.offset()), Some(Offset(60)));
    assert_eq!(rest.len(), 40);
}

#[test]
fn many_threads_append_through_small_segments() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = Options::new().segment_bytes(64 * 1024).open(dir.path()).expect("opens");
    let topic = log.topic("t").expect("a topic");
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let topic = topic.clone();
            scope.spawn(move || {
                for i in 0..300 {
                    topic.append(format!("{thread} {i} {}", "x".repeat(100))).expect("appends");
                }
            });
        }
    });
    let read: Vec<_> =
        topic.read_from(Offset(0)).expect("reads").map(|message| message.expect("whole")).collect();
    assert_eq!(read.len(), 2400);
    assert!(log.stats().segments > 3);
    for thread in 0..8 {
        let own: Vec<u32> = read
            .iter()
            .filter_map(|message| {
                let text = String::from_utf8(message.payload().to_vec()).expect("text");
                let mut words = text.split(' ');
                (words.next() == Some(&thread.to_string()))
                    .then(|| words.next().expect("a number").parse().expect("a number"))
            })
            .collect();
        assert_eq!(own, (0..300).collect::<Vec<_>>());
    }
    drop(topic);
    log.close().expect("closes");
    let log = Options::new().segment_bytes(64 * 1024).open(dir.path()).expect("opens");
    let topic = log.topic("t").expect("a topic");
    assert_eq!(topic.read_from(Offset(0)).expect("reads").flatten().count(), 2400);
}

#[test]
#[allow(clippy::disallowed_methods, reason = "it damages a real directory")]
fn each_of_many_older_segments_is_missed_where_it_is_gone() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = || Options::new().segment_bytes(4096);
    let log = options().open(dir.path()).expect("opens");
    let topic = log.topic("t").expect("a topic");
    while log.stats().segments < 40 {
        topic.append([7; 1000].as_slice()).expect("appends");
    }
    let bytes = log.stats().segment_bytes;
    log.close().expect("closes");
    let mut paths: Vec<_> = std::fs::read_dir(dir.path())
        .expect("lists")
        .map(|entry| entry.expect("a name").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .collect();
    paths.sort();
    assert_eq!(paths.len(), 40);
    let (aside, newest) = (dir.path().join("aside"), paths.len() - 1);
    for path in &paths[1..newest] {
        std::fs::rename(path, &aside).expect("moves it away");
        let error = options().open(dir.path()).expect_err("one is missing");
        assert!(matches!(error, Error::Corrupt { .. }), "{error}");
        std::fs::rename(&aside, path).expect("moves it back");
    }
    let log = options().open(dir.path()).expect("opens");
    assert_eq!((log.stats().segments, log.stats().segment_bytes), (40, bytes));
}

#[test]
fn a_power_cut_keeps_what_was_acknowledged() {
    let disk = SimDisk::new(7);
    let clock = SimClock::new();
    let open = |disk: &SimDisk| {
        Options::new()
            .segment_bytes(8192)
            .simulated(Arc::new(clock.clone()), 1)
            .open_on(disk.storage())
            .expect("opens")
    };
    let mut acked = Vec::new();
    for round in 0..50 {
        let log = open(&disk);
        let topic = log.topic("t").expect("a topic");
        let read: Vec<_> = topic
            .read_from(Offset(0))
            .expect("reads")
            .map(|message| message.expect("whole").payload().to_vec())
            .collect();
        assert_eq!(read, acked, "round {round}");
        for i in 0..20 {
            let payload = format!("{round} {i} {}", "y".repeat(i * 7)).into_bytes();
            topic.append(payload.clone()).expect("appends");
            acked.push(payload);
        }
        disk.crash(ackline::simulation::Crash::Power);
    }
}

#[test]
fn a_segment_that_is_empty_and_too_small_is_replaced() {
    let disk = SimDisk::new(7);
    let open = || {
        Options::new()
            .segment_bytes(4096)
            .simulated(Arc::new(SimClock::new()), 1)
            .open_on(disk.storage())
            .expect("opens")
    };
    let log = open();
    log.topic("t").expect("a topic").append("small").expect("appends");
    log.close().expect("closes");
    // A torn write behind the end: opening drops it, and goes on in a new, empty segment.
    let log = open();
    disk.overwrite("00000000000000000000.seg", 2000, &[9; 100]);
    disk.kill();
    drop(log);
    let log = open();
    assert!(log.report().dropped_torn_tail);
    assert_eq!(log.stats().segments, 2);
    let topic = log.topic("t").expect("a topic");
    let large = vec![7; 100_000];
    for i in 0..3 {
        assert_eq!(topic.append(large.clone()).expect("appends").offset, Offset(i + 1));
    }
    log.close().expect("closes");
    let log = open();
    let topic = log.topic("t").expect("a topic");
    let read = topic.read_from(Offset(1)).expect("reads");
    assert!(read.map(|message| message.expect("whole")).all(|m| m.payload() == large));
    assert_eq!(topic.offsets().end, Offset(4));
}
