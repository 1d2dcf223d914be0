//! A log that leads: what its appends wait for, and what its readers see.

use ackline::replicate::{LogEnd, ReplicaStatus};
use ackline::{Ack, Acknowledged, Epoch, Error, Offset, Options, Position};

use crate::common::small;
use crate::double::{Node, is_late, next, payloads, poll_one};

fn leader() -> Node {
    let node = Node::new(1, Options::new());
    node.lead(1);
    node
}

#[test]
fn a_log_with_a_replicator_takes_nothing_before_it_leads() {
    let node = Node::new(1, Options::new());
    let refused = node.log.topic("t");
    assert!(matches!(refused, Err(Error::Fenced { epoch: Epoch(0) })), "{refused:?}");
    node.lead(1);
    assert!(is_late(&node.log.topic("t")), "the topic is to be replicated as well");
    node.advance(1);
    assert!(node.log.topic("t").is_ok());
}

#[test]
fn an_append_is_answered_once_it_is_replicated() {
    let node = leader();
    drop(node.log.topic("t"));
    let topic = node.log.topic("t").expect("it is made");
    let pending = topic.submit("a");
    node.log.maintain().expect("it commits");
    let pending = pending.wait_timeout(std::time::Duration::ZERO).expect_err("not yet");
    assert_eq!(topic.offsets().end, Offset(0), "nobody sees it yet");
    node.advance(1);
    let receipt = pending.wait().expect("it is safe");
    assert_eq!((receipt.offset, receipt.acknowledged), (Offset(0), Acknowledged::Replicated));
    assert_eq!(payloads(&node.log, "t"), [b"a"]);
}

#[test]
fn an_append_that_waits_for_the_local_copy_alone_is_invisible_all_the_same() {
    let node = leader();
    drop(node.log.topic("t"));
    let topic = node.log.topic("t").expect("it is made").with_ack(Ack::Synced);
    let receipt = topic.append("a").expect("it is durable here");
    assert_eq!(receipt.acknowledged, Acknowledged::Local);
    assert_eq!(topic.offsets().end, Offset(0));
    node.advance(1);
    assert_eq!(topic.offsets().end, Offset(1));
}

#[test]
fn a_timeout_is_unknown_and_can_land_later() {
    let node = leader();
    drop(node.log.topic("t"));
    node.advance(1);
    let topic = node.log.topic("t").expect("it is made");
    let late = topic.append("a");
    assert!(matches!(late, Err(Error::ReplicaTimeout { offset: Some(Offset(0)), .. })), "{late:?}");
    let zero = std::time::Duration::ZERO;
    assert!(is_late(&topic.wait_visible(Offset(0), zero)));
    node.advance(1);
    topic.wait_visible(Offset(0), zero).expect("it landed");
    assert_eq!(payloads(&node.log, "t"), [b"a"]);
}

#[test]
fn too_few_replicas_refuse_before_anything_is_written() {
    let node = leader();
    drop(node.log.topic("t"));
    node.advance(1);
    let topic = node.log.topic("t").expect("it is made");
    let before = node.end();
    node.double.set_status(ReplicaStatus::Unavailable { needed: 2, available: 1 });
    for refused in [topic.append("a").map(drop), topic.submit("a").wait().map(drop)] {
        let expected =
            matches!(refused, Err(Error::ReplicasUnavailable { needed: 2, available: 1 }));
        assert!(expected, "{refused:?}");
    }
    assert_eq!(node.end(), before);
    node.double.set_status(ReplicaStatus::Healthy { lag: 0 });
    assert!(is_late(&topic.append("a")));
}

#[test]
fn frames_are_offered_whole_in_order_and_once() {
    let node = leader();
    drop(node.log.topic("t"));
    let topic = node.log.topic("t").expect("it is made").with_ack(Ack::Synced);
    for i in 0..50 {
        topic.append(format!("{i}")).expect("it is durable here");
    }
    let offered = node.double.offered();
    let mut at = Position(0);
    let mut sequence = 0;
    for frames in &offered {
        assert_eq!((frames.start(), frames.sequence()), (at, sequence));
        assert_eq!(frames.epoch(), Epoch(1));
        (at, sequence) = (frames.end(), sequence + frames.count());
    }
    assert_eq!(at, node.end());
    let synced = node.double.synced();
    assert_eq!(synced.len(), offered.len());
    assert!(synced.iter().zip(&offered).all(|(synced, offered)| synced.1 == offered.end()));
}

#[test]
fn what_was_inherited_counts_with_the_first_frame_of_the_new_epoch() {
    let node = leader();
    drop(node.log.topic("t"));
    let inherited = node.end();
    let node = node.crash(Options::new());
    assert_eq!(node.end(), inherited);
    node.lead(2);
    node.handle().advance(Epoch(2), inherited).expect("it is no error");
    assert_eq!(node.handle().visible().expect("open"), Position(0));
    node.advance(2);
    assert_eq!(node.handle().visible().expect("open"), node.end());
}

#[test]
fn an_epoch_is_led_once() {
    let node = leader();
    let node = node.crash(Options::new());
    let again = node.handle().lead(Epoch(1), LogEnd::default());
    assert!(matches!(again, Err(Error::Fenced { epoch: Epoch(1) })), "{again:?}");
    node.follow(5);
    let older = node.handle().lead(Epoch(4), LogEnd::default());
    assert!(matches!(older, Err(Error::Fenced { epoch: Epoch(5) })), "{older:?}");
    node.lead(5);
}

#[test]
fn an_epoch_that_was_promised_in_an_earlier_life_is_not_led() {
    let node = Node::new(1, Options::new());
    node.follow(3);
    // It may have led it, and have sent frames that a power cut took here.
    let node = node.crash(Options::new());
    let again = node.handle().lead(Epoch(3), LogEnd::default());
    assert!(matches!(again, Err(Error::Fenced { epoch: Epoch(3) })), "{again:?}");
    node.lead(4);
}

#[test]
fn a_replica_that_lacks_what_others_hold_does_not_lead() {
    let node = leader();
    let end = node.end();
    let further = LogEnd { epoch: Epoch(1), end: Position(end.0 + 8) };
    let node = node.crash(Options::new());
    let refused = node.handle().lead(Epoch(2), further);
    assert!(matches!(refused, Err(Error::Lagging { needed, .. }) if needed == further.end));
    let later = LogEnd { epoch: Epoch(2), end: Position(8) };
    assert!(matches!(node.handle().lead(Epoch(3), later), Err(Error::Lagging { .. })));
    node.handle().lead(Epoch(3), LogEnd { epoch: Epoch(1), end }).expect("it has all of that");
}

#[test]
fn what_an_earlier_epoch_says_is_not_believed() {
    let node = leader();
    drop(node.log.topic("t"));
    let node = node.crash(Options::new());
    node.lead(2);
    let stale = node.handle().advance(Epoch(1), node.end());
    assert!(matches!(stale, Err(Error::Fenced { epoch: Epoch(2) })), "{stale:?}");
    assert_eq!(node.handle().visible().expect("open"), Position(0));
}

#[test]
fn a_promise_survives_a_power_cut() {
    let node = leader();
    node.follow(7);
    node.handle().store_cell(b"vote 7").expect("it is stored");
    let node = node.crash(Options::new());
    assert_eq!(node.handle().promised().expect("open"), Epoch(7));
    assert_eq!(node.handle().cell().expect("open"), b"vote 7");
    assert!(matches!(node.handle().follow(Epoch(6)), Err(Error::Fenced { epoch: Epoch(7) })));
}

#[test]
fn a_leader_that_is_fenced_answers_whoever_waits() {
    let node = leader();
    drop(node.log.topic("t"));
    node.advance(1);
    let topic = node.log.topic("t").expect("it is made");
    drop(topic.group("g"));
    node.advance(1);
    let group = topic.group("g").expect("it is made");
    let pending = topic.submit("a");
    node.log.maintain().expect("it commits");
    node.follow(2);
    let fenced = pending.wait();
    assert!(matches!(fenced, Err(Error::Fenced { epoch: Epoch(2) })), "{fenced:?}");
    assert!(matches!(topic.append("b"), Err(Error::Fenced { .. })));
    assert!(matches!(poll_one(&group), Err(Error::Fenced { .. })));
    assert!(matches!(topic.group("g"), Err(Error::Fenced { .. })));
    let reading = topic.read_from(Offset(0)).expect("what is visible can be read");
    assert_eq!(reading.count(), 0);
}

#[test]
fn groups_go_on_at_the_next_leadership() {
    let node = leader();
    drop(node.log.topic("t"));
    node.advance(1);
    let topic = node.log.topic("t").expect("it is made");
    drop(topic.group("g"));
    for i in 0..3 {
        topic.submit(format!("{i}")).detach();
    }
    node.log.maintain().expect("it commits");
    node.advance(1);
    let group = topic.group("g").expect("it is made");
    let delivery = next(&node, &group, 1);
    assert_eq!((delivery.offset(), delivery.attempt()), (Offset(0), 1));
    delivery.ack().expect("it is held");
    assert!(is_late(&group.commit()));
    node.advance(1);
    group.commit().expect("it is replicated by now");
    let held = poll_one(&group).expect("it polls").expect("there is one");
    assert_eq!(held.offset(), Offset(1));
    node.follow(2);
    assert!(matches!(held.ack(), Err(Error::Fenced { .. })));
    node.lead(3);
    node.advance(3);
    let group = topic.group("g").expect("it is there");
    let delivery = next(&node, &group, 3);
    assert_eq!((delivery.offset(), delivery.attempt()), (Offset(1), 2), "attempts go on");
}

#[test]
fn too_much_that_is_not_replicated_refuses_appends() {
    let node = Node::new(1, small().unreplicated_bytes_max(2000));
    node.lead(1);
    drop(node.log.topic("t"));
    let topic = node.log.topic("t").expect("it is made").with_ack(Ack::Synced);
    let refused = (0..100).find_map(|i| topic.append(vec![i; 100]).err()).expect("it is bounded");
    assert!(matches!(refused, Error::Full { .. }), "{refused:?}");
    node.advance(1);
    topic.append("there is room again").expect("it is taken");
}

#[test]
fn what_was_written_last_can_still_be_replicated_while_the_log_is_closed() {
    let node = leader();
    drop(node.log.topic("t"));
    node.advance(1);
    let pending = node.log.topic("t").expect("it is made").submit("a");
    // Replicas answer only once the log waits for them.
    node.double.answer_when_detached(Epoch(1));
    node.log.clone().close().expect("it closes");
    pending.wait().expect("it was replicated in time");
}

#[test]
fn closing_detaches_the_replicator() {
    let node = leader();
    let (double, log) = (node.double.clone(), node.log.clone());
    drop(node);
    log.close().expect("it closes");
    assert!(double.is_detached());
    assert!(matches!(double.handle().written(), Err(Error::Closed)));
}
