//! Every kind of fault at every call of what makes a replica and changes its files, and after each
//! of them a kill or a power cut.

use std::collections::HashSet;

use ackline::simulation::{Crash, Fault, SimDisk};
use ackline::{Epoch, Error, Position, Result};

use crate::common::{Machine, payload, small};
use crate::double::{Node, payloads};
use crate::files::{Step, append};

const FAULTS: [Fault; 5] =
    [Fault::Io, Fault::NoSpace, Fault::Interrupted, Fault::Short, Fault::SyncLost];

/// How often each fault strikes each call: what it does all the same, and what it loses, is random.
const SEEDS: u64 = 3;

/// How many random outcomes of a power cut are looked at behind each fault.
const POWER_CUTS: u64 = 4;

/// What the faults strike. Each ends with a promise or begins with one.
enum Work {
    /// The first opening of a replica.
    Make,
    /// A step on a log that was opened before.
    Take(Step),
    /// An opening that has to finish a step.
    Finish(Step),
}

/// What a work came to.
struct Came {
    /// Keeps the log open until its process ends.
    node: Option<Node>,
    /// The epoch that it promised last.
    promised: u64,
    /// What failed; all that was tried before was answered.
    error: Option<Error>,
}

/// The epoch that works promise; replicas that were made before have promised `EPOCH - 1`.
const EPOCH: u64 = 3;

impl Work {
    fn step(&self) -> Option<&Step> {
        match self {
            Self::Make => None,
            Self::Take(step) | Self::Finish(step) => Some(step),
        }
    }

    fn promised_before(&self) -> u64 {
        if matches!(self, Self::Make) { 0 } else { EPOCH - 1 }
    }

    /// Does it, with a fault at one of its calls; answers how many calls it made, too.
    fn run(&self, machine: &Machine, call: u64, fault: Option<Fault>) -> (Came, u64) {
        let disk = &machine.disk;
        let plan = || {
            if let Some(fault) = fault {
                disk.fail_at(disk.calls() + call, fault);
            }
            disk.calls()
        };
        let mut came = Came { node: None, promised: self.promised_before(), error: None };
        let before = if let Self::Take(step) = self {
            let node = Node::on(machine.clone(), small());
            let before = plan();
            let done = came.follow(&node).and_then(|()| step.run(&node, EPOCH));
            came.error = done.err();
            came.node = Some(node);
            before
        } else {
            let before = plan();
            match Node::try_on(machine.clone(), small()) {
                Ok(node) => {
                    came.error = came.follow(&node).err();
                    came.node = Some(node);
                }
                Err(error) => came.error = Some(error),
            }
            before
        };
        disk.clear_faults();
        (came, disk.calls() - before)
    }

    /// Where the log may end after that.
    fn ends(&self, came: &Came, before: Position) -> Vec<Position> {
        match self {
            Self::Make => vec![Position(0)],
            Self::Take(step) if came.error.is_some() => vec![before, step.end()],
            Self::Take(step) | Self::Finish(step) => vec![step.end()],
        }
    }
}

impl Came {
    fn follow(&mut self, node: &Node) -> Result<()> {
        node.handle().follow(Epoch(EPOCH))?;
        self.promised = EPOCH;
        Ok(())
    }
}

struct Sweep<'a> {
    work: &'a Work,
    machine: &'a Machine,
    /// Where the log ended before.
    before: Position,
    seen: HashSet<(u64, u64, bool)>,
    /// How many faults have struck, by the kinds of [`FAULTS`].
    struck: [u64; FAULTS.len()],
}

impl Sweep<'_> {
    fn run(&mut self) {
        let calls = self.work.run(&self.machine.fork(), 0, None).1;
        for (i, fault) in FAULTS.into_iter().enumerate() {
            for seed in 0..calls * SEEDS {
                let (machine, call) = (self.machine.fork(), seed / SEEDS);
                machine.disk.reseed(seed);
                let (came, _) = self.work.run(&machine, call, Some(fault));
                let struck = is_struck(&machine.disk);
                let told = format!("{fault:?} at call {call}, seed {seed}");
                check_error(&came, fault, struck).unwrap_or_else(|why| panic!("{why}: {told}"));
                if struck {
                    self.struck[i] += 1;
                    self.crash(&machine, &came, &told);
                    self.go_on(&machine, came, &told);
                }
            }
        }
    }

    /// Ends the process in several ways, and checks what is left.
    fn crash(&mut self, machine: &Machine, came: &Came, told: &str) {
        let ends = self.work.ends(came, self.before);
        for end in 0..4 + POWER_CUTS {
            let ended = machine.fork();
            match end {
                0 => ended.disk.kill(),
                1 => {
                    ended.disk.kill();
                    ended.disk.evict();
                }
                2 => ended.disk.crash_as(&ended.disk.unsynced().all(false)),
                3 => ended.disk.crash_as(&ended.disk.unsynced().all(true)),
                seed => {
                    ended.disk.reseed(seed);
                    ended.disk.crash(Crash::Power);
                }
            }
            let is_done = came.error.is_none();
            if self.seen.insert((ended.disk.content_hash(), came.promised, is_done)) {
                self.check(ended, came.promised, &ends, &format!("{told}, end {end}"));
            }
        }
    }

    /// Where the log refused and goes on, nothing has changed, and what it refused can be done.
    fn go_on(&mut self, machine: &Machine, came: Came, told: &str) {
        let (Work::Take(step), Some(node)) = (self.work, came.node) else { return };
        if came.error.is_none() || node.handle().promised().is_err() {
            return;
        }
        assert_eq!(node.end(), self.before, "{told}");
        let again = node.handle().follow(Epoch(EPOCH)).and_then(|()| step.run(&node, EPOCH));
        again.unwrap_or_else(|error| panic!("{error} again after {told}"));
        machine.disk.crash(Crash::Power);
        self.check(machine.fork(), EPOCH, &[step.end()], &format!("{told}, again"));
    }

    /// Opens what is left: it is done or not, no promise is forgotten, and the log goes on.
    fn check(&self, machine: Machine, promised: u64, ends: &[Position], told: &str) {
        let node = Node::try_on(machine, small());
        let node = node.unwrap_or_else(|error| panic!("{error}: {told}"));
        let (end, found) = (node.end(), node.handle().promised().expect("it is open").0);
        assert!(ends.contains(&end), "{end} is not one of {ends:?}: {told}");
        assert!(found == promised || found == EPOCH, "{found} after {promised}: {told}");
        let mut expected = Vec::new();
        if let Some(step) = self.work.step() {
            step.run(&node, found).expect("it can be done now");
            expected.extend((0..step.messages()).map(payload));
        }
        node.lead(EPOCH + 1);
        drop(node.log.topic("t"));
        append(&node, 20..23);
        node.advance(EPOCH + 1);
        let node = node.crash(small());
        node.lead(EPOCH + 2);
        node.advance(EPOCH + 2);
        expected.extend((20..23).map(payload));
        assert!(payloads(&node.log, "t") == expected, "other messages: {told}");
    }
}

fn is_struck(disk: &SimDisk) -> bool {
    disk.counts().iter().any(|(name, count)| name.starts_with("fault_") && count > 0)
}

/// An error must have a reason and be one that is to be expected of it. No sync that failed may be
/// kept quiet.
fn check_error(came: &Came, fault: Fault, struck: bool) -> std::result::Result<(), String> {
    let is_error = !matches!(fault, Fault::Interrupted | Fault::Short);
    match &came.error {
        None if struck && fault == Fault::SyncLost => Err("it is answered all the same".to_owned()),
        None => Ok(()),
        Some(Error::Io { .. } | Error::Full { .. } | Error::Poisoned { .. })
            if struck && is_error =>
        {
            Ok(())
        }
        Some(error) => Err(format!("{error:?} for no good reason")),
    }
}

/// Goes through all faults, and checks that each kind has struck so often at least.
fn sweep(work: &Work, machine: &Machine, least: [u64; FAULTS.len()]) {
    let before = match work {
        Work::Take(_) => Node::on(machine.fork(), small()).end(),
        Work::Make | Work::Finish(_) => Position(0),
    };
    let mut sweep = Sweep { work, machine, before, seen: HashSet::new(), struck: [0; 5] };
    sweep.run();
    let enough = sweep.struck.iter().zip(least).all(|(struck, least)| *struck >= least);
    assert!(enough, "{:?} of {FAULTS:?} have struck", sweep.struck);
}

#[test]
fn a_replica_can_be_made_whatever_call_fails() {
    sweep(&Work::Make, &Machine::new(1), [60, 60, 25, 25, 25]);
}

#[test]
fn a_truncation_and_a_reset_are_done_or_not_whatever_call_fails() {
    for (step, machine) in Step::all() {
        sweep(&Work::Take(step), &machine, [140, 90, 60, 60, 30]);
    }
}

#[test]
fn an_opening_finishes_what_was_begun_whatever_call_fails() {
    for (step, machine) in Step::all() {
        let stopped = [step.begun(&machine), step.renamed(&machine)];
        let work = Work::Finish(step);
        for machine in stopped {
            sweep(&work, &machine, [85, 45, 45, 45, 22]);
        }
    }
}
