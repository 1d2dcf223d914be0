//! Cutting and replacing a log on its files, with the power cut at every call.

use ackline::replicate::Snapshot;
use ackline::simulation::Crash;
use ackline::{Ack, Epoch, Error, Options, Position};

use crate::common::{Machine, payload, small};
use crate::double::{Node, payloads};

fn append(node: &Node, messages: std::ops::Range<u64>) {
    let topic = node.log.topic("t").expect("it is made").with_ack(Ack::Synced);
    for i in messages {
        topic.append(payload(i)).expect("it is durable here");
    }
}

/// A follower of epoch 2 with a tail of several segments that nobody saw, and where it begins.
fn with_tail(seed: u64) -> (Machine, Position) {
    let node = Node::new(seed, small());
    node.lead(1);
    drop(node.log.topic("t"));
    append(&node, 0..20);
    node.advance(1);
    let kept = node.end();
    append(&node, 20..60);
    node.follow(2);
    let machine = node.machine.clone();
    node.log.close().expect("it closes");
    (machine, kept)
}

fn check_truncation(machine: &Machine, kept: Position, call: u64, crash: Crash) -> bool {
    let node = Node::on(machine.fork(), small());
    let before = node.end();
    node.machine.disk.die_at(node.machine.disk.calls() + call);
    let cut = node.handle().truncate(Epoch(2), kept);
    let finished = cut.is_ok();
    node.machine.disk.crash(crash);
    let node = Node::on(node.machine, small());
    let end = node.end();
    assert!(end == kept || (end == before && !finished), "{end} at call {call}, {crash:?}");
    // Whatever became of it, it can be done now, and the log goes on.
    node.handle().truncate(Epoch(2), kept).expect("it can be done");
    node.lead(3);
    append(&node, 20..30);
    node.advance(3);
    let node = node.crash(small());
    node.lead(4);
    node.advance(4);
    let expected: Vec<_> = (0..30).map(payload).collect();
    assert_eq!(payloads(&node.log, "t"), expected, "call {call}, {crash:?}");
    finished
}

#[test]
fn a_truncation_is_done_or_not_wherever_the_power_is_cut() {
    for crash in [Crash::Power, Crash::Kill] {
        let (machine, kept) = with_tail(3);
        let finished = (0..400).find(|call| check_truncation(&machine, kept, *call, crash));
        assert!(finished.is_some_and(|calls| calls > 10), "{finished:?}");
    }
}

fn check_reset(snapshot: &Snapshot, machine: &Machine, call: u64, crash: Crash) -> bool {
    let node = Node::on(machine.fork(), small());
    let before = node.end();
    node.machine.disk.die_at(node.machine.disk.calls() + call);
    let finished = node.handle().reset(Epoch(2), snapshot).is_ok();
    node.machine.disk.crash(crash);
    let node = Node::on(node.machine, small());
    let (end, base) = (node.end(), snapshot.position());
    assert!(end == base || (end == before && !finished), "{end} at call {call}, {crash:?}");
    node.handle().reset(Epoch(2), snapshot).expect("it can be done");
    assert_eq!(node.end(), base);
    node.lead(3);
    append(&node, 0..3);
    finished
}

#[test]
fn a_reset_is_done_or_not_wherever_the_power_is_cut() {
    let leader = Node::new(5, small());
    leader.lead(1);
    drop(leader.log.topic("t"));
    let follower = Node::new(6, small());
    follower.join(&leader, 1);
    follower.follow(2);
    append(&leader, 0..60);
    leader.advance(1);
    // A snapshot behind the follower's end: the leader's segments before it are gone.
    let topic = leader.log.topic("t").expect("it is made");
    drop(topic.group("g"));
    leader.advance(1);
    let group = topic.group("g").expect("it is made");
    drop(group.commit_through(ackline::Offset(59)));
    for _ in 0..4 {
        leader.advance(1);
        leader.log.maintain().expect("it deletes");
    }
    let snapshot = leader.handle().snapshot().expect("it has one");
    assert!(snapshot.position() > follower.end());
    let machine = follower.machine.clone();
    follower.log.close().expect("it closes");
    for crash in [Crash::Power, Crash::Kill] {
        let finished = (0..400).find(|call| check_reset(&snapshot, &machine, *call, crash));
        assert!(finished.is_some_and(|calls| calls > 10), "{finished:?}");
    }
}

#[test]
fn a_damaged_promise_is_refused() {
    let node = Node::new(1, Options::new());
    node.lead(1);
    let machine = node.machine.clone();
    node.log.close().expect("it closes");
    let storage = machine.disk.storage();
    let file = storage.open("REPLICA").expect("it is there");
    for at in [0, 4096] {
        file.write_at(&[9; 64], at).expect("writes");
    }
    let refused = Node::try_on(machine, Options::new()).map(|node| node.end());
    assert!(matches!(refused, Err(Error::Corrupt { .. })), "{refused:?}");
}

#[test]
fn a_promise_without_its_log_is_refused_and_kept() {
    let node = Node::new(1, Options::new());
    node.follow(7);
    let machine = node.machine.clone();
    node.log.close().expect("it closes");
    let storage = machine.disk.storage();
    for segment in storage.list().expect("it lists").iter().filter(|file| file.name != "REPLICA") {
        storage.remove(&segment.name).expect("it is removed");
    }
    for _ in 0..2 {
        let refused = Node::try_on(machine.clone(), Options::new()).map(|node| node.end());
        let named = matches!(&refused, Err(Error::Corrupt { file, .. }) if file == "REPLICA");
        assert!(named, "{refused:?}");
    }
}

#[test]
fn a_replica_can_be_made_wherever_the_power_is_cut() {
    for crash in [Crash::Power, Crash::Kill] {
        let made = (0..400).find(|call| {
            let machine = Machine::new(*call);
            machine.disk.die_at(*call);
            let made = Node::try_on(machine.clone(), small()).is_ok();
            machine.disk.crash(crash);
            let node = Node::on(machine, small());
            node.lead(1);
            drop(node.log.topic("t"));
            append(&node, 0..3);
            made
        });
        assert!(made.is_some_and(|calls| calls > 10), "{made:?}");
    }
}
