//! The state machine against a log, replicas and a network that are a few lines each.

use std::time::Duration;

use proptest::prelude::*;

use super::member::{Effect, Member};
use super::options::QuorumOptions;
use crate::error::Error;
use crate::offset::{Epoch, Position};
use crate::replicate::testing::hollow_frames;
use crate::replicate::{EpochStart, Frames, History, LogEnd, Message, ReplicaStatus};

const EPOCH: Epoch = Epoch(5);
const WINDOW: u64 = 1000;

fn member(nodes: usize, copies: usize) -> Member {
    let options = QuorumOptions::new(copies).window_bytes(WINDOW);
    Member::new(options.rules(nodes).expect("possible"))
}

fn log_end(epoch: u64, end: u64) -> LogEnd {
    LogEnd { epoch: Epoch(epoch), end: Position(end) }
}

fn promised(member: &mut Member, link: usize, epoch: u64, end: LogEnd) -> Vec<Effect> {
    member.received(link, Message::Promised { epoch: Epoch(epoch), end })
}

/// A leader whose first frame goes up to 100 and is durable.
fn leader(nodes: usize, copies: usize) -> Member {
    let mut member = member(nodes, copies);
    member.campaign(EPOCH, log_end(4, 60)).expect("it may");
    for link in 0..nodes - copies {
        promised(&mut member, link, 5, log_end(4, 60));
    }
    member.offer(&hollow_frames(5, 60, 40));
    member.synced(EPOCH, Position(100));
    member.led(EPOCH, Ok(()));
    member
}

fn following(member: &mut Member, link: usize, end: u64) -> Vec<Effect> {
    member.received(link, Message::Following { epoch: EPOCH, end: Position(end) })
}

fn synced(member: &mut Member, link: usize, epoch: u64, end: u64) -> Vec<Effect> {
    member.received(link, Message::Synced { epoch: Epoch(epoch), end: Position(end) })
}

fn advance(end: u64) -> Effect {
    Effect::Advance { epoch: EPOCH, end: Position(end) }
}

#[test]
fn a_candidate_leads_once_enough_have_promised() {
    let mut member = member(5, 3);
    let asks = member.campaign(EPOCH, log_end(2, 60)).expect("it may");
    let ask = |link| Effect::Send(link, Message::Campaign { epoch: EPOCH });
    assert_eq!(asks, (0..4).map(ask).collect::<Vec<_>>());
    assert_eq!(promised(&mut member, 1, 5, log_end(3, 50)), []);
    assert_eq!(promised(&mut member, 1, 5, log_end(3, 50)), [], "the same one again");
    assert_eq!(promised(&mut member, 0, 4, log_end(9, 50)), [], "of another epoch");
    let lead = Effect::Lead(EPOCH, log_end(3, 50));
    assert_eq!(promised(&mut member, 3, 5, log_end(2, 90)), [lead]);
}

#[test]
fn a_candidate_that_needs_nobody_else_leads_at_once() {
    let mut member = member(2, 2);
    let effects = member.campaign(EPOCH, log_end(2, 60)).expect("it may");
    assert_eq!(effects.last(), Some(&Effect::Lead(EPOCH, log_end(2, 60))));
}

#[test]
fn a_log_that_refuses_to_lead_ends_the_campaign_with_its_error() {
    let mut member = member(1, 1);
    member.campaign(EPOCH, log_end(2, 60)).expect("it may");
    assert!(member.outcome(EPOCH).is_none());
    member.led(EPOCH, Err(Error::Closed));
    assert!(matches!(member.outcome(EPOCH), Some(Err(Error::Closed))));
    assert_eq!(member.status(), ReplicaStatus::Following);
}

#[test]
fn a_newer_epoch_ends_a_campaign_and_a_leadership() {
    for mut member in [leader(3, 2), {
        let mut candidate = member(3, 2);
        candidate.campaign(EPOCH, log_end(4, 60)).expect("it may");
        candidate
    }] {
        assert_eq!(member.received(0, Message::Fenced { epoch: Epoch(4) }), []);
        let fenced = member.received(0, Message::Fenced { epoch: Epoch(6) });
        assert_eq!(fenced, [Effect::Follow(Epoch(6))]);
        assert!(matches!(member.outcome(EPOCH), Some(Err(Error::Fenced { epoch: Epoch(6) }))));
    }
}

#[test]
fn an_epoch_that_was_given_twice_is_noticed() {
    let mut member = leader(3, 2);
    assert!(member.heard_of(Epoch(4)), "its log refuses");
    assert!(!member.heard_of(EPOCH));
    assert!(member.heard_of(Epoch(6)));
    assert_eq!(member.epoch(), None);
}

#[test]
fn the_copies_that_have_the_most_count_and_only_those_of_this_epoch() {
    let mut member = leader(5, 3);
    following(&mut member, 0, 60);
    assert!(!following(&mut member, 1, 60).contains(&advance(100)));
    assert!(!synced(&mut member, 0, 5, 100).contains(&advance(100)));
    assert!(!synced(&mut member, 1, 4, 100).contains(&advance(100)), "said to another leader");
    assert!(synced(&mut member, 1, 5, 100).contains(&advance(100)));
}

#[test]
fn a_replica_that_has_not_joined_does_not_count() {
    let mut member = leader(2, 2);
    assert_eq!(synced(&mut member, 0, 5, 100), []);
}

#[test]
fn the_own_copy_counts_once_it_is_synced() {
    let mut member = leader(2, 2);
    following(&mut member, 0, 100);
    member.visible(EPOCH, Position(100));
    member.offer(&hollow_frames(5, 100, 50));
    assert_eq!(synced(&mut member, 0, 5, 150), []);
    assert_eq!(member.settle(), []);
    member.synced(EPOCH, Position(150));
    assert_eq!(member.settle(), [advance(150)]);
}

#[test]
fn a_leader_whose_own_copy_comes_last_learns_what_readers_see() {
    let mut member = leader(3, 2);
    following(&mut member, 0, 100);
    following(&mut member, 1, 100);
    member.visible(EPOCH, Position(100));
    member.offer(&hollow_frames(5, 100, 50));
    synced(&mut member, 0, 5, 150);
    assert_eq!(synced(&mut member, 1, 5, 150), [advance(150)]);
    // The log shows it only now.
    member.synced(EPOCH, Position(150));
    assert_eq!(member.settle(), [advance(150)]);
    member.visible(EPOCH, Position(150));
    assert_eq!(member.settle(), []);
}

#[test]
fn a_replica_that_claims_more_than_was_written_does_not_count() {
    let mut member = leader(2, 2);
    assert_eq!(following(&mut member, 0, 101), []);
    assert!(matches!(member.status(), ReplicaStatus::Unavailable { needed: 2, available: 1 }));
}

#[test]
fn appends_are_refused_while_too_few_are_in_sync() {
    let mut member = leader(3, 2);
    let unavailable = ReplicaStatus::Unavailable { needed: 2, available: 1 };
    assert_eq!(member.status(), unavailable);
    following(&mut member, 1, 100);
    assert_eq!(member.status(), ReplicaStatus::Healthy { lag: 0 });
    member.disconnected(1);
    assert_eq!(member.status(), unavailable);
    following(&mut member, 1, 100);
    assert_eq!(member.status(), unavailable, "it was said before");
    member.connected(1);
    following(&mut member, 1, 100);
    member.tick(Duration::from_secs(100));
    assert_eq!(member.status(), ReplicaStatus::Healthy { lag: 0 });
    member.tick(Duration::from_secs(103));
    assert_eq!(member.status(), unavailable, "silent for too long");
    synced(&mut member, 1, 5, 100);
    assert_eq!(member.status(), ReplicaStatus::Healthy { lag: 0 });
}

#[test]
fn fewer_copies_do_only_when_the_host_says_so() {
    let mut member = leader(3, 2);
    assert!(member.degrade(Some(2)).is_err() && member.degrade(Some(0)).is_err());
    assert_eq!(member.degrade(Some(1)).expect("fewer"), [advance(100)]);
    member.visible(EPOCH, Position(100));
    assert_eq!(member.status(), ReplicaStatus::Degraded { copies: 1 });
    assert_eq!(member.rules().promises(), 3, "fewer copies take more promises");
    assert_eq!(member.degrade(None).expect("as before"), []);
    assert!(matches!(member.status(), ReplicaStatus::Unavailable { .. }));
}

#[test]
fn a_replica_is_given_one_snapshot_at_a_time_and_asked_again_if_it_is_lost() {
    let mut member = leader(2, 2);
    let needs = || Message::NeedsSnapshot { epoch: EPOCH };
    assert_eq!(member.received(0, needs()), [Effect::Snapshot { link: 0, epoch: EPOCH }]);
    member.snapshot_sent(0, EPOCH, Position(30));
    assert_eq!(member.needed_from(), Some(Position(30)));
    assert_eq!(member.received(0, needs()), []);
    let again = member.tick(Duration::from_secs(1));
    assert_eq!(again, [Effect::Introduce { link: 0, epoch: EPOCH }]);
}

#[test]
fn what_is_not_kept_any_more_is_not_sent() {
    let mut member = leader(2, 2);
    let read = Effect::Read { link: 0, epoch: EPOCH, from: Position(20), bytes: WINDOW };
    assert_eq!(following(&mut member, 0, 20), [advance(20), read]);
    let gone = Error::NotContinuous { start: Position(20), end: Position(100) };
    let told = Effect::Introduce { link: 0, epoch: EPOCH };
    assert_eq!(member.read(0, EPOCH, Err(gone)), [told]);
}

#[test]
fn a_replica_that_the_leader_cannot_read_for_is_reported_and_tried_again() {
    let mut member = leader(2, 2);
    following(&mut member, 0, 20);
    let damaged = Error::corrupt("file", 7, "a frame", "a gap");
    assert_eq!(member.read(0, EPOCH, Err(damaged)), []);
    assert!(member.leader().is_some_and(|leader| leader.peers[0].failure.is_some()));
    let told = Effect::Introduce { link: 0, epoch: EPOCH };
    assert!(!member.tick(Duration::from_millis(100)).contains(&told), "not at once");
    assert!(member.tick(Duration::from_secs(1)).contains(&told));
}

#[test]
fn a_leader_that_is_silent_says_that_it_is_there() {
    let mut member = leader(2, 2);
    following(&mut member, 0, 100);
    member.visible(EPOCH, Position(100));
    assert_eq!(member.tick(Duration::from_millis(100)), []);
    let visible = Message::Visible { epoch: EPOCH, visible: Position(100) };
    assert_eq!(member.tick(Duration::from_millis(200)), [Effect::Send(0, visible)]);
}

/// A replica whose log is a number, on a network that keeps what it was given.
#[derive(Debug, Default)]
struct Replica {
    knows_leader: bool,
    end: u64,
    durable: u64,
    inbox: Vec<Message>,
    answers: Vec<Message>,
}

impl Replica {
    fn take(&mut self, message: &Message) {
        let epoch = EPOCH;
        let end = Position(self.durable);
        let answer = match message {
            Message::Lead { .. } => {
                self.knows_leader = true;
                Message::Following { epoch, end }
            }
            _ if !self.knows_leader => Message::Unknown { epoch },
            Message::Frames { frames, .. } if frames.start().0 > self.end => {
                Message::Gap { epoch, end: Position(self.end) }
            }
            Message::Frames { frames, .. } => {
                self.end = self.end.max(frames.end().0);
                return;
            }
            _ => Message::Synced { epoch, end },
        };
        self.answers.push(answer);
    }

    fn sync(&mut self) {
        self.durable = self.end;
        let end = Position(self.end);
        self.answers.push(Message::Synced { epoch: EPOCH, end });
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write(usize),
    Sync,
    Tick(u64),
    Deliver { link: usize, at: prop::sample::Index, keep: bool },
    Answer { link: usize, at: prop::sample::Index, keep: bool },
    Lose { link: usize, at: prop::sample::Index },
    ReplicaSync(usize),
    Restart(usize),
    Connect(usize, bool),
    Stale { link: usize, end: u64 },
}

fn any_step(links: usize) -> impl Strategy<Value = Step> {
    let link = move || 0..links;
    let at = any::<prop::sample::Index>;
    prop_oneof![
        4 => (1..600usize).prop_map(Step::Write),
        4 => Just(Step::Sync),
        2 => (1..800u64).prop_map(Step::Tick),
        8 => (link(), at(), prop::bool::weighted(0.1))
            .prop_map(|(link, at, keep)| Step::Deliver { link, at, keep }),
        8 => (link(), at(), prop::bool::weighted(0.1))
            .prop_map(|(link, at, keep)| Step::Answer { link, at, keep }),
        1 => (link(), at()).prop_map(|(link, at)| Step::Lose { link, at }),
        4 => link().prop_map(Step::ReplicaSync),
        1 => link().prop_map(Step::Restart),
        1 => (link(), any::<bool>()).prop_map(|(link, on)| Step::Connect(link, on)),
        1 => (link(), 0..9000u64).prop_map(|(link, end)| Step::Stale { link, end }),
    ]
}

struct World {
    member: Member,
    copies: usize,
    /// Where the frames of the leader's log begin, and where it ends.
    bounds: Vec<u64>,
    synced: u64,
    advanced: u64,
    now: Duration,
    replicas: Vec<Replica>,
}

impl World {
    fn new(nodes: usize, copies: usize) -> Self {
        let mut world = Self {
            member: leader(nodes, copies),
            copies,
            bounds: vec![0, 60, 100],
            synced: 100,
            advanced: 0,
            now: Duration::ZERO,
            replicas: (1..nodes).map(|_| Replica::default()).collect(),
        };
        for link in 0..nodes - 1 {
            world.act(vec![Effect::Introduce { link, epoch: EPOCH }]);
        }
        world
    }

    fn written(&self) -> u64 {
        *self.bounds.last().expect("never empty")
    }

    fn read(&self, from: Position, bytes: u64) -> Option<Frames> {
        let at = self.bounds.binary_search(&from.0).expect("only the beginning of a frame is read");
        let ends = &self.bounds[at + 1..];
        let fits = ends.iter().take_while(|end| **end - from.0 <= bytes).count().max(1);
        let end = ends.get(fits - 1)?;
        let bytes = usize::try_from(end - from.0).expect("small");
        Some(hollow_frames(4, from.0, bytes))
    }

    fn act(&mut self, effects: Vec<Effect>) {
        let mut left = std::collections::VecDeque::from(effects);
        while let Some(effect) = left.pop_front() {
            match effect {
                Effect::Send(link, message) => self.replicas[link].inbox.push(message),
                Effect::Introduce { link, .. } => {
                    let epochs = vec![EpochStart { epoch: EPOCH, start: Position(60) }];
                    let (start, end) = (Position(0), Position(self.written()));
                    let history = History { log_id: 1, epochs, start, end };
                    self.replicas[link].inbox.push(Message::Lead { epoch: EPOCH, history });
                }
                Effect::Read { link, epoch, from, bytes } => {
                    let frames = Ok(self.read(from, bytes));
                    left.extend(self.member.read(link, epoch, frames));
                }
                Effect::Advance { end, .. } => {
                    let durable = self.replicas.iter().map(|replica| replica.durable);
                    let copies = durable.chain([self.synced]).filter(|have| *have >= end.0);
                    assert!(copies.count() >= self.copies, "{end} is not held by enough");
                    self.advanced = self.advanced.max(end.0);
                }
                effect => panic!("{effect:?}"),
            }
        }
        for peer in &self.member.leader().expect("it leads").peers {
            let Some(progress) = peer.following() else { continue };
            let alone = self
                .bounds
                .windows(2)
                .any(|frame| frame[0] == progress.matched.0 && frame[1] == progress.sent_to.0);
            assert!(progress.in_flight() <= WINDOW || alone, "over the window: {progress:?}");
        }
    }

    fn step(&mut self, step: &Step) {
        let effects = match *step {
            Step::Write(bytes) => {
                let start = self.written();
                let effects = self.member.offer(&hollow_frames(5, start, bytes));
                self.bounds.push(start + bytes as u64);
                effects
            }
            Step::Sync => {
                self.synced = self.written();
                self.member.synced(EPOCH, Position(self.synced));
                self.member.settle()
            }
            Step::Tick(ms) => {
                self.now += Duration::from_millis(ms);
                self.member.tick(self.now)
            }
            Step::Deliver { link, at, keep } => {
                if let Some(message) = pick(&mut self.replicas[link].inbox, at, keep) {
                    self.replicas[link].take(&message);
                }
                Vec::new()
            }
            Step::Answer { link, at, keep } => {
                let answer = pick(&mut self.replicas[link].answers, at, keep);
                answer.map_or_else(Vec::new, |answer| self.member.received(link, answer))
            }
            Step::Lose { link, at } => {
                drop(pick(&mut self.replicas[link].inbox, at, false));
                Vec::new()
            }
            Step::ReplicaSync(link) => {
                self.replicas[link].sync();
                Vec::new()
            }
            Step::Restart(link) => {
                let replica = &mut self.replicas[link];
                (replica.end, replica.knows_leader) = (replica.durable, false);
                Vec::new()
            }
            Step::Connect(link, true) => self.member.connected(link),
            Step::Connect(link, false) => {
                self.member.disconnected(link);
                Vec::new()
            }
            Step::Stale { link, end } => synced(&mut self.member, link, 4, end),
        };
        self.act(effects);
    }

    /// The network is good from here on: everything is delivered, in order.
    fn heal(&mut self) {
        for link in 0..self.replicas.len() {
            self.step(&Step::Connect(link, true));
        }
        for _ in 0..self.bounds.len() * 4 + 20 {
            self.step(&Step::Sync);
            for link in 0..self.replicas.len() {
                for message in std::mem::take(&mut self.replicas[link].inbox) {
                    self.replicas[link].take(&message);
                }
                self.replicas[link].sync();
                for answer in std::mem::take(&mut self.replicas[link].answers) {
                    let effects = self.member.received(link, answer);
                    self.act(effects);
                }
            }
            self.step(&Step::Tick(250));
        }
    }
}

fn pick(messages: &mut Vec<Message>, at: prop::sample::Index, keep: bool) -> Option<Message> {
    if messages.is_empty() {
        return None;
    }
    let at = at.index(messages.len());
    Some(if keep { messages[at].clone() } else { messages.remove(at) })
}

proptest! {
    /// Whatever is lost, doubled, overtaken or restarted: what is called safe is held by enough,
    /// and once the network is good again, everybody gets everything.
    #[test]
    fn what_is_called_safe_is_held_by_enough_and_everyone_catches_up(
        (nodes, copies) in prop_oneof![Just((2, 2)), Just((3, 2)), Just((4, 2)), Just((4, 4))],
        steps in prop::collection::vec(any_step(3), 0..200),
    ) {
        let mut world = World::new(nodes, copies);
        for step in steps {
            let link = match &step {
                Step::Deliver { link, .. } | Step::Answer { link, .. } | Step::Lose { link, .. }
                | Step::ReplicaSync(link) | Step::Restart(link) | Step::Connect(link, _)
                | Step::Stale { link, .. } => *link,
                _ => 0,
            };
            if link < nodes - 1 {
                world.step(&step);
            }
        }
        world.heal();
        prop_assert_eq!(world.advanced, world.written());
        for replica in &world.replicas {
            prop_assert_eq!(replica.durable, world.written());
        }
    }
}
