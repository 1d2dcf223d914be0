//! What goes wrong beside replication: fencing in the middle of a call, failing and full disks,
//! replicators that panic, a mirror whose first disk was replaced.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::Duration;

use ackline::replicate::{Frames, LogEnd, LogHandle, Mirror, ReplicaStatus, Replicator};
use ackline::simulation::{Call, Fault, SimDisk};
use ackline::{Epoch, Error, Log, Options, Position, Result};

use crate::common::Machine;
use crate::double::{Node, next, payloads};

fn leader() -> Node {
    let node = Node::new(1, Options::new());
    node.lead(1);
    drop(node.log.topic("t"));
    node.advance(1);
    node
}

#[test]
fn a_sync_of_a_leader_that_is_fenced_meanwhile_does_not_succeed() {
    let node = leader();
    let pending = node.log.topic("t").expect("made").submit("a");
    node.double.fence_at_settle(Epoch(2));
    let synced = node.log.sync();
    assert!(matches!(synced, Err(Error::Fenced { .. })), "{synced:?}");
    assert!(matches!(pending.wait(), Err(Error::Fenced { .. })));
}

#[test]
fn a_commit_of_a_group_whose_leader_is_fenced_meanwhile_does_not_succeed() {
    let node = leader();
    let topic = node.log.topic("t").expect("made");
    drop(topic.group("g"));
    topic.submit("a").detach();
    node.log.maintain().expect("it commits");
    node.advance(1);
    let group = topic.group("g").expect("made");
    let delivery = next(&node, &group, 1);
    delivery.ack().expect("it is held");
    // The acknowledgement rides along with this one, and nothing is left to log.
    topic.submit("b").detach();
    node.log.maintain().expect("it commits");
    topic.submit("c").detach();
    node.double.fence_at_settle(Epoch(2));
    let committed = group.commit();
    assert!(matches!(committed, Err(Error::Fenced { .. })), "{committed:?}");
}

/// Makes the disk fail for somebody else while frames are offered.
#[derive(Debug, Default)]
struct Hook {
    log: Mutex<Option<LogHandle>>,
    disk: Mutex<Option<SimDisk>>,
}

impl Replicator for Hook {
    fn attach(&self, log: LogHandle) -> Result<()> {
        *self.log.lock().expect("nobody panicked") = Some(log);
        Ok(())
    }

    fn offer(&self, _: &Frames) {
        let Some(disk) = self.disk.lock().expect("nobody panicked").take() else { return };
        let log = self.log.lock().expect("nobody panicked").clone().expect("attached");
        let beside = std::thread::spawn(move || {
            disk.fail_next(Call::Sync, Fault::Io);
            log.store_cell(b"x")
        });
        let failed = beside.join().expect("it returns");
        assert!(matches!(failed, Err(Error::Poisoned { .. })), "{failed:?}");
    }

    fn status(&self) -> ReplicaStatus {
        ReplicaStatus::Healthy { lag: 0 }
    }

    fn detach(&self, _: Duration) {}
}

#[test]
fn a_failure_beside_a_write_answers_those_who_wait_for_its_replicas() {
    let (machine, hook) = (Machine::new(1), Arc::new(Hook::default()));
    let replicator: Arc<dyn Replicator> = Arc::clone(&hook) as _;
    let log = machine.open(Options::new().replicator(replicator));
    let handle = hook.log.lock().expect("nobody panicked").clone().expect("attached");
    handle.lead(Epoch(1), LogEnd::default()).expect("it leads");
    drop(log.topic("t"));
    handle.advance(Epoch(1), handle.written().expect("open")).expect("it leads");
    let mut pending = pin!(log.topic("t").expect("made").submit("a"));
    *hook.disk.lock().expect("nobody panicked") = Some(machine.disk.clone());
    drop(log.maintain());
    let mut context = Context::from_waker(Waker::noop());
    assert!(pending.as_mut().poll(&mut context).is_ready(), "nobody else will answer");
}

#[test]
fn a_follower_on_a_full_disk_that_must_truncate_changes_nothing() {
    let node = leader();
    let base = node.end();
    node.log.topic("t").expect("made").submit("a").detach();
    node.log.maintain().expect("it commits");
    node.follow(2);
    let end = node.end();
    node.machine.disk.set_capacity(Some(0));
    let full = node.handle().truncate(Epoch(2), base);
    assert!(matches!(full, Err(Error::Full { .. })), "{full:?}");
    assert_eq!(node.end(), end);
    drop(node.log.close());
    let node = Node::on(node.machine, Options::new());
    node.machine.disk.set_capacity(None);
    node.handle().truncate(Epoch(2), base).expect("there is room again");
    assert_eq!(node.end(), base);
}

#[test]
fn a_mirror_refills_a_first_disk_that_was_replaced() {
    let second = Machine::new(2);
    let open = |first: &Machine, seed: u64| -> (Log, Arc<Mirror>) {
        let options = Options::new().simulated(Arc::new(second.clock.clone()), seed);
        let mirror = Mirror::open_on(options, second.disk.storage()).expect("it opens");
        let mirror = Arc::new(mirror);
        let replicator: Arc<dyn Replicator> = Arc::clone(&mirror) as _;
        let log = first.try_open_with(Options::new().replicator(replicator), seed + 1);
        (log.expect("it opens"), mirror)
    };
    let work = |log: &Log, mirror: &Mirror| {
        log.maintain().expect("it commits");
        while mirror.step() {}
    };
    let (log, mirror) = open(&Machine::new(1), 10);
    drop(log.topic("t"));
    work(&log, &mirror);
    let pending = log.topic("t").expect("made").submit("a");
    work(&log, &mirror);
    pending.wait().expect("it is on both");
    log.close().expect("it closes");
    let (log, mirror) = open(&Machine::new(9), 20);
    work(&log, &mirror);
    assert_eq!(payloads(&log, "t"), [b"a"]);
}

#[test]
fn a_position_that_nobody_can_hold_is_not_believed() {
    let node = leader();
    node.handle().advance(Epoch(1), Position(1 << 40)).expect("it leads");
    let pending = node.log.topic("t").expect("made").submit("a");
    node.log.maintain().expect("it commits");
    assert!(pending.wait_timeout(Duration::ZERO).is_err(), "nobody has spoken of this one");
}

/// Panics whenever it is given the time.
#[derive(Debug)]
struct Panicking;

impl Replicator for Panicking {
    fn attach(&self, log: LogHandle) -> Result<()> {
        log.lead(log.promised()?.next(), LogEnd::default())
    }

    fn offer(&self, _: &Frames) {}

    fn status(&self) -> ReplicaStatus {
        ReplicaStatus::Healthy { lag: 0 }
    }

    fn tick(&self, _: Duration) {
        panic!("a bug of the host");
    }

    fn detach(&self, _: Duration) {}
}

#[test]
fn a_replicator_that_panics_poisons_the_log_and_leaves_the_directory() {
    let directory = tempfile::tempdir().expect("a directory");
    for _ in 0..2 {
        let options = Options::new().lock_timeout(Duration::from_secs(30));
        let log = options.replicator(Arc::new(Panicking)).open(directory.path());
        let log = log.expect("it opens");
        while !log.stats().poisoned {
            std::thread::yield_now();
        }
        let closed = log.close();
        assert!(matches!(closed, Err(Error::Poisoned { .. })), "{closed:?}");
    }
}
