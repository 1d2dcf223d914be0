//! Cutting and replacing a log on its files, with the power cut at every call.

use ackline::replicate::Snapshot;
use ackline::simulation::{Crash, salvage_on};
use ackline::{Ack, Epoch, Error, Options, Position, Result};

use crate::common::{Machine, has_suffix, is_segment, payload, small};
use crate::double::{Node, payloads};

pub(crate) fn append(node: &Node, messages: std::ops::Range<u64>) {
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

/// A follower of epoch 2, and a snapshot behind its end: the leader's segments before it are gone.
fn before_reset() -> (Machine, Snapshot) {
    let leader = Node::new(5, small());
    leader.lead(1);
    drop(leader.log.topic("t"));
    let follower = Node::new(6, small());
    follower.join(&leader, 1);
    follower.follow(2);
    append(&leader, 0..60);
    leader.advance(1);
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
    (machine, snapshot)
}

#[test]
fn a_reset_is_done_or_not_wherever_the_power_is_cut() {
    let (machine, snapshot) = before_reset();
    for crash in [Crash::Power, Crash::Kill] {
        let finished = (0..400).find(|call| check_reset(&snapshot, &machine, *call, crash));
        assert!(finished.is_some_and(|calls| calls > 10), "{finished:?}");
    }
}

/// A step of several changes to the directory.
pub(crate) enum Step {
    Truncate(Position),
    Reset(Snapshot),
}

impl Step {
    /// Both, each with the follower of epoch 2 that is to take it.
    pub(crate) fn all() -> [(Self, Machine); 2] {
        let ((tail, kept), (empty, snapshot)) = (with_tail(3), before_reset());
        [(Self::Truncate(kept), tail), (Self::Reset(snapshot), empty)]
    }

    pub(crate) fn run(&self, node: &Node, epoch: u64) -> Result<()> {
        match self {
            Self::Truncate(kept) => node.handle().truncate(Epoch(epoch), *kept),
            Self::Reset(snapshot) => node.handle().reset(Epoch(epoch), snapshot),
        }
    }

    /// Where the log ends once it is done.
    pub(crate) fn end(&self) -> Position {
        match self {
            Self::Truncate(kept) => *kept,
            Self::Reset(snapshot) => snapshot.position(),
        }
    }

    /// How many messages there are then: [`payload`]s from 0 on.
    pub(crate) fn messages(&self) -> u64 {
        match self {
            Self::Truncate(_) => 20,
            Self::Reset(_) => 0,
        }
    }

    /// Its number in `REPLICA`.
    fn number(&self) -> u8 {
        match self {
            Self::Truncate(_) => 1,
            Self::Reset(_) => 2,
        }
    }

    /// A machine that lost its power when nothing of the step was done but to say so.
    pub(crate) fn begun(&self, machine: &Machine) -> Machine {
        let lose = |node: &Node| {
            let disk = &node.machine.disk;
            disk.crash_as(&disk.unsynced().all(false));
        };
        self.stopped(machine, lose, |_| true)
    }

    /// A machine whose process was killed when the rename was done, and not yet synced.
    pub(crate) fn renamed(&self, machine: &Machine) -> Machine {
        let is_renamed = |machine: &Machine| {
            let names = machine.disk.names();
            !names.iter().any(|name| has_suffix(name, "tmp")) && machine.disk.unsynced().names > 0
        };
        self.stopped(machine, |node| node.machine.disk.kill(), is_renamed)
    }

    /// The first machine of a kind of those that stop within the step, and have to finish it.
    fn stopped(
        &self,
        machine: &Machine,
        crash: impl Fn(&Node),
        is_meant: impl Fn(&Machine) -> bool,
    ) -> Machine {
        let found = (0..400).find_map(|call| {
            let node = Node::on(machine.fork(), small());
            node.machine.disk.die_at(node.machine.disk.calls() + call);
            drop(self.run(&node, 2));
            crash(&node);
            // In both slots, or one torn write makes it unsaid.
            let file = node.machine.disk.file("REPLICA").expect("it is a replica");
            let is_pending = [5, 4096 + 5].iter().all(|at| file[*at] == self.number());
            (is_pending && is_meant(&node.machine)).then_some(node.machine)
        });
        found.expect("every step comes by there")
    }
}

/// What is promised on a disk: the step to be finished, the epoch and what follows it.
fn promise(machine: &Machine) -> Vec<u8> {
    let slot = machine.disk.file("REPLICA").expect("it is a replica");
    [&slot[5..6], &slot[16..508]].concat()
}

fn check_salvage(step: &Step, machine: &Machine, call: u64, crash: Crash) -> bool {
    let node = Node::on(machine.fork(), small());
    let before = node.end();
    node.machine.disk.die_at(node.machine.disk.calls() + call);
    let finished = step.run(&node, 2).is_ok();
    node.machine.disk.crash(crash);
    let salvaged = salvage_on(&*node.machine.disk.storage());
    let salvaged = salvaged.unwrap_or_else(|error| panic!("{error} at call {call}, {crash:?}"));
    assert_eq!(salvaged.lost, [], "call {call}, {crash:?}");
    node.machine.disk.kill();
    let end = Node::on(node.machine, small()).end();
    let right = end == step.end() || (end == before && !finished);
    assert!(right, "{end} at call {call}, {crash:?}");
    finished
}

#[test]
fn a_salvage_finishes_what_was_begun_wherever_the_process_ended() {
    for (step, machine) in Step::all() {
        for crash in [Crash::Power, Crash::Kill] {
            let finished = (0..400).find(|call| check_salvage(&step, &machine, *call, crash));
            assert!(finished.is_some_and(|calls| calls > 10), "{finished:?}");
        }
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

/// Opens and salvages a replica whose files were removed, and looks what is left of it.
fn check_refused(machine: &Machine) {
    let (promised, names) = (promise(machine), machine.disk.names());
    for _ in 0..2 {
        let refused = Node::try_on(machine.clone(), small()).map(|node| node.end());
        let right = matches!(&refused, Err(Error::Corrupt { file, .. }) if file == "REPLICA");
        assert!(right, "{refused:?}");
        let salvaged = salvage_on(&*machine.disk.storage());
        assert!(matches!(salvaged, Err(Error::Corrupt { .. })), "{salvaged:?}");
    }
    assert_eq!(promise(machine), promised, "of {names:?}");
    assert_eq!(machine.disk.names(), names);
}

fn remove(machine: &Machine, is_removed: impl Fn(&str) -> bool) {
    let storage = machine.disk.storage();
    let names = machine.disk.names();
    let removed: Vec<_> = names.iter().filter(|name| is_removed(name)).collect();
    assert!(!removed.is_empty(), "of {names:?}");
    for name in removed {
        storage.remove(name).expect("it is removed");
    }
}

#[test]
fn a_promise_without_its_log_is_refused_and_kept() {
    let node = Node::new(1, small());
    node.follow(7);
    let machine = node.machine.clone();
    node.log.close().expect("it closes");
    remove(&machine, |name| name != "REPLICA");
    assert_eq!(promise(&machine)[..2], [0, 7]);
    check_refused(&machine);
    for (step, machine) in Step::all() {
        let machine = step.begun(&machine);
        assert_eq!(promise(&machine)[..2], [step.number(), 2]);
        let unprepared = machine.fork();
        remove(&unprepared, |name| has_suffix(name, "tmp"));
        if let Step::Truncate(kept) = &step {
            let kept = format!("{:020}.seg", kept.0);
            remove(&unprepared, |name| is_segment(name) && name <= &kept);
        }
        check_refused(&unprepared);
        remove(&machine, |name| name != "REPLICA");
        check_refused(&machine);
    }
}

/// Whether what is left of a first opening is a place for a replica.
fn check_made(machine: Machine, told: &str) {
    let node = Node::try_on(machine, small());
    let node = node.unwrap_or_else(|error| panic!("{error} {told}"));
    node.lead(1);
    drop(node.log.topic("t"));
    append(&node, 0..3);
}

/// Cuts the power at a call of a first opening, and goes through all that can be left of the
/// directory; answers whether the opening was done before, and how many outcomes there were.
fn check_making(call: u64) -> (bool, usize) {
    let machine = Machine::new(call);
    machine.disk.die_at(call);
    let made = Node::try_on(machine.clone(), small()).is_ok();
    for crash in [Crash::Kill, Crash::Power] {
        let ended = machine.fork();
        ended.disk.reseed(call);
        ended.disk.crash(crash);
        check_made(ended, &format!("at call {call}, {crash:?}"));
    }
    let unsynced = machine.disk.unsynced();
    assert!(unsynced.names <= 8, "too many names to go through all outcomes: {unsynced:?}");
    let outcomes = 1_usize << unsynced.names;
    for names in 0..outcomes {
        for survive in [false, true] {
            let mut outcome = unsynced.all(survive);
            outcome.names = (0..unsynced.names).map(|i| names >> i & 1 == 1).collect();
            let cut = machine.fork();
            cut.disk.crash_as(&outcome);
            check_made(cut, &format!("at call {call}, {outcome:?}"));
        }
    }
    (made, outcomes)
}

#[test]
fn a_replica_can_be_made_wherever_the_power_is_cut() {
    let mut most = 0;
    let made = (0..400).find(|call| {
        let (made, outcomes) = check_making(*call);
        most = most.max(outcomes);
        made
    });
    assert!(made.is_some_and(|calls| calls > 10), "{made:?}");
    assert!(most >= 4, "two names are never unsynced at a time: {most}");
}
