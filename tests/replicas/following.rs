//! A log that follows: frames come in as they are, and only what continues.

use ackline::replicate::{Frames, LogEnd};
use ackline::{Ack, Epoch, Error, Offset, Options, Position};

use crate::common::{payload, small};
use crate::double::{Node, payloads};

/// A leader with a topic and some messages, all replicated.
fn leader(options: Options, messages: u64) -> Node {
    let node = Node::new(1, options);
    node.lead(1);
    drop(node.log.topic("t"));
    append(&node, 0..messages);
    node.advance(1);
    node
}

fn append(node: &Node, messages: std::ops::Range<u64>) {
    let topic = node.log.topic("t").expect("it is made").with_ack(Ack::Synced);
    for i in messages {
        topic.append(payload(i)).expect("it is durable here");
    }
}

fn expected(messages: u64) -> Vec<Vec<u8>> {
    (0..messages).map(payload).collect()
}

#[test]
fn a_follower_holds_what_the_leader_holds_and_shows_what_is_replicated() {
    let leader = leader(small(), 40);
    let follower = Node::new(2, small());
    follower.join(&leader, 1);
    assert_eq!(
        follower.handle().history().expect("open"),
        leader.handle().history().expect("open")
    );
    assert_eq!(follower.handle().visible().expect("open"), Position(0));
    follower.advance(1);
    assert_eq!(payloads(&follower.log, "t"), expected(40));
}

#[test]
fn a_follower_recovers_what_it_has_taken_in() {
    let leader = leader(small(), 40);
    let follower = Node::new(2, small());
    follower.join(&leader, 1);
    let follower = follower.crash(small());
    assert_eq!(follower.end(), leader.end());
    append(&leader, 40..50);
    follower.pull(&leader, 1);
    follower.advance(1);
    assert_eq!(payloads(&follower.log, "t"), expected(50));
}

#[test]
fn a_follower_that_is_promoted_goes_on_where_the_leader_was() {
    let leader = leader(small(), 20);
    let follower = Node::new(2, small());
    follower.join(&leader, 1);
    let needed = leader.handle().history().expect("open").log_end();
    follower.handle().lead(Epoch(2), needed).expect("it holds all of it");
    follower.advance(2);
    append(&follower, 20..25);
    follower.advance(2);
    assert_eq!(payloads(&follower.log, "t"), expected(25));
    leader.follow(2);
    leader.pull(&follower, 2);
    leader.advance(2);
    assert_eq!(payloads(&leader.log, "t"), expected(25));
}

#[test]
fn what_came_before_is_taken_for_known_and_what_comes_too_early_is_refused() {
    let leader = leader(Options::new(), 10);
    let follower = Node::new(2, Options::new());
    follower.join(&leader, 1);
    append(&leader, 10..12);
    let offered = leader.double.offered();
    let [.., before, last] = offered.as_slice() else { panic!("two were offered") };
    let early = follower.handle().ingest(Epoch(1), last).wait();
    assert!(matches!(early, Err(Error::NotContinuous { .. })), "{early:?}");
    for frames in &offered {
        follower.handle().ingest(Epoch(1), frames).wait().expect("they are known or follow");
    }
    assert_eq!(follower.end(), last.end());
    assert_eq!(follower.handle().ingest(Epoch(1), before).wait().expect("known"), before.end());
    follower.advance(1);
    assert_eq!(payloads(&follower.log, "t"), expected(12));
}

#[test]
fn frames_of_an_earlier_epoch_are_refused_and_those_of_a_later_one_promised() {
    let leader = leader(Options::new(), 1);
    let follower = Node::new(2, Options::new());
    follower.join(&leader, 1);
    append(&leader, 1..2);
    let last = leader.double.offered().pop().expect("it was offered");
    follower.follow(3);
    let stale = follower.handle().ingest(Epoch(1), &last).wait();
    assert!(matches!(stale, Err(Error::Fenced { epoch: Epoch(3) })), "{stale:?}");
    follower.handle().ingest(Epoch(4), &last).wait().expect("whoever leads 4 may send it");
    assert_eq!(follower.handle().promised().expect("open"), Epoch(4));
}

#[test]
fn frames_that_differ_are_refused() {
    let leader = leader(Options::new(), 5);
    let follower = Node::new(2, Options::new());
    follower.join(&leader, 1);
    // The other one leads in secret, while the first one goes on.
    let other = Node::on(follower.machine.fork(), Options::new());
    other.lead(2);
    append(&leader, 5..6);
    follower.pull(&leader, 1);
    let frames = other.double.offered().pop().expect("it began its epoch");
    let refused = follower.handle().ingest(Epoch(2), &frames).wait();
    assert!(matches!(refused, Err(Error::Diverged { .. })), "{refused:?}");
    append(&other, 0..1);
    let frames = other.double.offered().pop().expect("it appended");
    let refused = follower.handle().ingest(Epoch(2), &frames).wait();
    assert!(
        matches!(refused, Err(Error::Diverged { .. } | Error::NotContinuous { .. })),
        "{refused:?}"
    );
}

#[test]
fn a_tail_that_nobody_saw_is_given_up() {
    for crash in [false, true] {
        let leader = leader(small(), 5);
        let mut follower = Node::new(2, small());
        follower.join(&leader, 1);
        follower.advance(1);
        // The old leader writes on alone, over several segments.
        append(&leader, 5..60);
        follower.handle().lead(Epoch(2), LogEnd::default()).expect("it leads");
        append(&follower, 5..9);
        follower.advance(2);
        leader.follow(2);
        let theirs = follower.handle().history().expect("open");
        let common = leader.handle().history().expect("open").common_end(&theirs);
        let common = common.expect("they have a common epoch");
        assert!(common < leader.end());
        leader.handle().truncate(Epoch(2), common).expect("nobody saw it");
        assert_eq!(leader.end(), common);
        let leader = if crash { leader.crash(small()) } else { leader };
        assert_eq!(leader.end(), common);
        leader.pull(&follower, 2);
        leader.advance(2);
        assert_eq!(payloads(&leader.log, "t"), expected(9));
        let leader = leader.crash(small());
        follower = follower.crash(small());
        assert_eq!(leader.end(), follower.end());
    }
}

#[test]
fn a_reader_finds_what_took_the_place_of_a_tail_that_was_given_up() {
    for recent in [0, 1 << 20] {
        let options = || small().recent_bytes(recent);
        let leader = leader(options(), 2);
        let follower = Node::new(2, options());
        follower.join(&leader, 1);
        // What is not visible lies in segments that are sealed, and beside what is.
        append(&leader, 2..30);
        let topic = leader.log.topic("t").expect("it is there");
        let mut reader = topic.read_from(Offset(0)).expect("it can be read");
        assert_eq!(reader.by_ref().count(), 2, "only so much is replicated");
        follower.lead(2);
        append(&follower, 100..130);
        follower.advance(2);
        leader.follow(2);
        let theirs = follower.handle().history().expect("open");
        let common = leader.handle().history().expect("open").common_end(&theirs);
        leader.handle().truncate(Epoch(2), common.expect("common")).expect("nobody saw it");
        leader.pull(&follower, 2);
        leader.advance(2);
        let read: Vec<_> =
            reader.map(|message| message.expect("whole").payload().to_vec()).collect();
        assert_eq!(read, (100..130).map(payload).collect::<Vec<_>>());
    }
}

#[test]
fn what_was_visible_is_not_given_up() {
    let leader = leader(Options::new(), 5);
    let end = leader.end();
    leader.follow(2);
    let before = leader.double.offered()[1].end();
    let refused = leader.handle().truncate(Epoch(2), before);
    assert!(matches!(refused, Err(Error::Diverged { .. })), "{refused:?}");
    // Nor after a restart: the promise of epoch 2 says how far it was.
    let leader = leader.crash(Options::new());
    let refused = leader.handle().truncate(Epoch(2), before);
    assert!(matches!(refused, Err(Error::Diverged { .. })), "{refused:?}");
    assert_eq!(leader.end(), end);
}

#[test]
fn a_cut_where_no_frame_ends_changes_nothing() {
    let leader = Node::new(1, Options::new());
    leader.lead(1);
    drop(leader.log.topic("t"));
    let end = leader.end();
    leader.follow(2);
    let refused = leader.handle().truncate(Epoch(2), Position(8));
    assert!(matches!(refused, Err(Error::NotContinuous { .. })), "{refused:?}");
    let behind = leader.handle().truncate(Epoch(2), Position(end.0 + 8));
    assert!(matches!(behind, Err(Error::NotContinuous { .. })), "{behind:?}");
    assert_eq!(leader.end(), end);
    leader.lead(3);
}

#[test]
fn a_topic_that_was_given_up_takes_nothing_any_more() {
    let leader = leader(Options::new(), 1);
    let follower = Node::new(2, Options::new());
    follower.join(&leader, 1);
    drop(leader.log.topic("lost"));
    let lost = leader.log.topic("lost").expect("it is made");
    follower.lead(2);
    follower.advance(2);
    let theirs = follower.handle().history().expect("open");
    leader.follow(2);
    let common = leader.handle().history().expect("open").common_end(&theirs).expect("common");
    leader.handle().truncate(Epoch(2), common).expect("nobody saw it");
    leader.pull(&follower, 2);
    leader.lead(3);
    drop(leader.log.topic("other"));
    leader.advance(3);
    let refused = lost.append("for another topic?");
    assert!(matches!(refused, Err(Error::Fenced { .. })), "{refused:?}");
    assert_eq!(leader.log.topics(), ["t", "other"]);
    assert_eq!(leader.log.topic("other").expect("made").offsets().end, Offset(0));
}

#[test]
fn a_follower_behind_what_is_kept_begins_with_a_snapshot() {
    let leader = leader(small().recent_bytes(0), 5);
    let follower = Node::new(2, small());
    follower.join(&leader, 1);
    let topic = leader.log.topic("t").expect("it is made");
    drop(topic.group("g"));
    append(&leader, 5..80);
    leader.advance(1);
    let group = topic.group("g").expect("it is made");
    let through = Offset(topic.offsets().end.0 - 1);
    drop(group.commit_through(through));
    leader.advance(1);
    for _ in 0..4 {
        leader.log.maintain().expect("it deletes");
        leader.advance(1);
    }
    assert!(topic.offsets().start > Offset(5), "the oldest segments are gone");
    let missing = leader.handle().read(follower.end(), 1000);
    assert!(matches!(missing, Err(Error::NotContinuous { .. })), "{missing:?}");
    let snapshot = leader.handle().snapshot().expect("it has one");
    follower.handle().reset(Epoch(1), &snapshot).expect("it is behind");
    follower.pull(&leader, 1);
    follower.advance(1);
    assert_eq!(follower.end(), leader.end());
    let follower = follower.crash(small());
    follower.lead(2);
    follower.advance(2);
    let copy = follower.log.topic("t").expect("it is there");
    assert_eq!(copy.offsets(), topic.offsets());
    assert_eq!(copy.group("g").expect("it is there").lag().expect("open").messages, 0);
}

#[test]
fn a_snapshot_does_not_replace_what_is_another_log_or_further() {
    let leader = leader(Options::new(), 5);
    let other = Node::new(9, Options::new());
    other.lead(1);
    other.follow(2);
    let snapshot = leader.handle().snapshot().expect("it has one");
    let refused = other.handle().reset(Epoch(2), &snapshot);
    assert!(matches!(refused, Err(Error::Diverged { .. })), "{refused:?}");
    leader.follow(2);
    let refused = leader.handle().reset(Epoch(2), &snapshot);
    assert!(matches!(refused, Err(Error::Diverged { .. })), "{refused:?}");
}

#[test]
fn what_a_replica_lacks_is_kept() {
    let leader = leader(small().catch_up_bytes_max(20_000), 5);
    leader.double.set_needed_from(Some(Position(0)));
    let topic = leader.log.topic("t").expect("it is made");
    drop(topic.group("g"));
    leader.advance(1);
    let group = topic.group("g").expect("it is made");
    let consume = |messages| {
        append(&leader, messages);
        leader.advance(1);
        drop(group.commit_through(Offset(topic.offsets().end.0 - 1)));
        leader.advance(1);
        for _ in 0..4 {
            leader.log.maintain().expect("it deletes");
            leader.advance(1);
        }
    };
    consume(5..40);
    assert_eq!(topic.offsets().start, Offset(0));
    consume(40..200);
    assert!(topic.offsets().start > Offset(0), "it lags too far");
}

#[test]
fn a_log_that_was_replicated_does_not_go_on_alone() {
    let leader = leader(Options::new(), 5);
    let machine = leader.machine.clone();
    leader.log.close().expect("it closes");
    let alone = machine.try_open(Options::new());
    assert!(matches!(alone, Err(Error::InvalidOption { option: "replicator", .. })), "{alone:?}");
}

#[test]
fn bytes_that_are_no_frames_are_refused() {
    let leader = leader(Options::new().recent_bytes(0), 5);
    let frames = leader.handle().read(Position(0), 1 << 20).expect("reads").expect("some");
    let bytes = frames.bytes().to_vec();
    assert_eq!(Frames::from_bytes(bytes.clone()).expect("whole"), frames);
    assert!(frames.count() > 1, "the salt of one alone could be any");
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let read = Frames::from_bytes(damaged);
        assert!(matches!(read, Err(Error::Malformed { .. })), "bit {bit}: {read:?}");
    }
    for cut in 0..bytes.len() {
        match Frames::from_bytes(bytes[..cut].to_vec()) {
            Ok(fewer) => assert!(fewer.count() < frames.count(), "cut at {cut}"),
            Err(error) => assert!(matches!(error, Error::Malformed { .. }), "{error:?}"),
        }
    }
}

#[test]
fn what_was_visible_is_not_given_up_after_a_kill_either() {
    let node = Node::new(1, small());
    node.lead(1);
    drop(node.log.topic("t"));
    node.advance(1);
    let start = node.end();
    let topic = node.log.topic("t").expect("it is made").with_ack(Ack::Synced);
    for i in 0..3 {
        topic.append(payload(i)).expect("it is durable here");
    }
    node.advance(1);
    let seen = node.end();
    // As the background does once in a while.
    node.log.maintain().expect("a round");
    let node = node.crash(small());
    node.follow(2);
    let refused = node.handle().truncate(Epoch(2), start);
    assert!(matches!(refused, Err(Error::Diverged { .. })), "{refused:?}");
    assert_eq!(node.end(), seen);
}
