//! How a quorum is detached from a log that is closed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{Link, Quorum, QuorumOptions, Shared};
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
fn whoever_wakes_it_again_and_again_does_not_hold_up_the_end() {
    let quorum = Quorum::new(&QuorumOptions::new(2), vec![Arc::new(Nowhere)]).expect("possible");
    let options = Options::new().replicator(Arc::new(quorum.clone()));
    let options = options.simulated(Arc::new(SimClock::new()), 1);
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
                quorum.inner.changed.notify();
            }
        });
        // With the time counted between wake-ups alone, it would not come back.
        quorum.detach(Duration::from_millis(20));
        ended.store(true, Ordering::Release);
    });
    drop(log);
}
