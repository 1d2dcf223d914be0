//! How a quorum is detached from a log that is closed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{Link, Quorum, QuorumOptions, Shared};
use crate::clock::Clock;
use crate::offset::Epoch;
use crate::options::Options;
use crate::replicate::{Message, Replicator};
use crate::storage::sim::{SimClock, SimDisk};

/// What is sent there is lost.
#[derive(Debug)]
struct Nowhere;

impl Link for Nowhere {
    fn send(&self, _: Message) {}
}

#[test]
fn it_waits_as_long_as_it_may_however_often_it_is_woken() {
    let quorum = Quorum::new(&QuorumOptions::new(2), vec![Arc::new(Nowhere)]).expect("possible");
    let options = Options::new().replicator(Arc::new(quorum.clone()));
    let clock = SimClock::new();
    let options = options.simulated(Arc::new(clock.clone()), 1);
    let log = options.open_on(SimDisk::new(1).storage()).expect("opens");
    quorum.promote(Epoch(1), Duration::ZERO).expect("nobody else has to promise");
    let lag = |shared: &Shared| {
        let rules = shared.member.rules();
        shared.member.leader().map(|leader| leader.lag(&rules))
    };
    assert!(lag(&quorum.inner.shared.lock()) > Some(0));
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Acquire) {
                clock.advance(Duration::from_millis(1));
                quorum.inner.changed.notify();
            }
        });
        let began = clock.monotonic();
        quorum.detach(Duration::from_secs(3));
        assert!(clock.monotonic() >= began + Duration::from_secs(3), "it waits that long");
        ended.store(true, Ordering::Release);
    });
    drop(log);
}
