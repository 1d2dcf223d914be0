//! How a quorum is detached from a log that is closed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{Link, Quorum, QuorumOptions};
use crate::clock::Clock;
use crate::error::Error;
use crate::log::Log;
use crate::offset::{Epoch, Position};
use crate::options::Options;
use crate::replicate::{Message, Replicator};
use crate::storage::sim::{Call, Fault, SimClock, SimDisk};

const EPOCH: Epoch = Epoch(1);

/// What is sent there is lost.
#[derive(Debug)]
struct Nowhere;

impl Link for Nowhere {
    fn send(&self, _: Message) {}
}

/// A log that leads two replicas, and its quorum.
fn leader(clock: &SimClock) -> (Log, Quorum) {
    leader_on(&SimDisk::new(1), clock)
}

fn leader_on(disk: &SimDisk, clock: &SimClock) -> (Log, Quorum) {
    let quorum = Quorum::new(&QuorumOptions::new(2), vec![Arc::new(Nowhere)]).expect("possible");
    let options = Options::new().replicator(Arc::new(quorum.clone()));
    let options = options.simulated(Arc::new(clock.clone()), 1);
    let log = options.open_on(disk.storage()).expect("opens");
    quorum.promote(EPOCH, Duration::ZERO).expect("nobody else has to promise");
    (log, quorum)
}

#[test]
fn it_waits_as_long_as_it_may_however_often_it_is_woken() {
    let clock = SimClock::new();
    let (log, quorum) = leader(&clock);
    quorum.received(0, Message::Following { epoch: EPOCH, end: Position(0) });
    let ended = AtomicBool::new(false);
    let (before, after) = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Acquire) {
                clock.advance(Duration::from_millis(1));
                quorum.inner.changed.notify();
            }
        });
        let before = clock.monotonic();
        quorum.detach(Duration::from_secs(3));
        ended.store(true, Ordering::Release);
        (before, clock.monotonic())
    });
    assert!(after >= before + Duration::from_secs(3), "the replica could still have answered");
    drop(log);
}

#[test]
fn it_waits_for_nobody_who_is_not_there_nor_for_a_log_that_is_lost() {
    // The clock stands still: a wait would not end.
    let (log, quorum) = leader(&SimClock::new());
    quorum.received(0, Message::Following { epoch: EPOCH, end: Position(0) });
    quorum.disconnected(0);
    quorum.detach(Duration::from_secs(3));
    drop(log);
    let disk = SimDisk::new(1);
    let (log, quorum) = leader_on(&disk, &SimClock::new());
    quorum.received(0, Message::Following { epoch: EPOCH, end: log.stats().written });
    disk.fail_next(Call::Sync, Fault::Io);
    let failed = log.topic("t");
    assert!(matches!(failed, Err(Error::Poisoned { .. })), "{failed:?}");
    quorum.detach(Duration::from_secs(3));
}

#[test]
fn it_does_not_wait_for_what_has_enough_copies() {
    let (log, quorum) = leader(&SimClock::new());
    let end = log.stats().written;
    quorum.received(0, Message::Following { epoch: EPOCH, end });
    quorum.detach(Duration::from_secs(3));
    drop(log);
}
