//! Which operation comes next, and what is looked at after each.

use std::collections::BTreeSet;

use ackline::simulation::Rng;

use super::model::Loss;
use super::setup::Role;
use super::world::World;
use super::{Checked, mix};

/// All that runs count by name, so that what never came up shows as a zero.
pub(crate) const COUNTED: [&str; 61] = [
    "ack",
    "ack_offset",
    "advance",
    "append",
    "append_batch",
    "append_if",
    "batch",
    "branch",
    "close",
    "commit",
    "commit_through",
    "crash",
    "damage_cut",
    "damage_earlier_life",
    "damage_elsewhere",
    "damage_gone",
    "damage_harmless",
    "damage_head",
    "damage_header",
    "damage_leftover",
    "damage_other_head",
    "damage_refused",
    "damage_shown",
    "damage_zeros",
    "disk_full",
    "disk_roomy",
    "drained",
    "drop",
    "exhausted",
    "extend",
    "group",
    "lagged",
    "look",
    "look_at_log",
    "maintain",
    "misuse",
    "next",
    "next_delivered",
    "next_dropped",
    "offset_at",
    "poll",
    "read_from",
    "recovery_crash",
    "recovery_crash_twice",
    "recovery_fault",
    "reject",
    "release",
    "reopen",
    "retry",
    "retry_after",
    "salvage_refused",
    "salvaged",
    "seek",
    "seek_by_time",
    "situation",
    "sleepers",
    "submit",
    "sync",
    "tail",
    "topic",
    "wait",
];

/// Operations that are followed by a crash more often than others: what they promise is lost
/// at once or never.
const PROMISING: [&str; 9] = [
    "batch",
    "commit",
    "commit_through",
    "exhausted",
    "maintain",
    "reject",
    "seek",
    "submit",
    "sync",
];

/// No operation makes more calls of the storage.
const CALLS_MAX: u64 = 50_000;

/// No operation reads the clock more often.
const READINGS_MAX: u64 = 50_000;

impl World {
    /// Runs the operations of the seed, but for those in `skip`.
    pub(super) fn run(&mut self, skip: &BTreeSet<usize>) -> Checked {
        let seed = self.setup.seed;
        self.note(|| format!("{:?}", self.setup));
        let mut rng = Rng::new(mix(seed, 2));
        self.open(&mut rng, Loss::Power)?;
        for op in 0..self.setup.ops {
            if skip.contains(&op) {
                continue;
            }
            // Each operation has its own numbers, so that leaving one out changes no other.
            let mut rng = Rng::new(mix(seed, 1000 + op as u64));
            self.disk.reseed(rng.next_u64());
            let before = self.promising();
            self.step(&mut rng)?;
            let promised = self.promising() > before;
            self.after(&mut rng, promised)?;
        }
        let mut rng = Rng::new(mix(seed, 3));
        self.crash(&mut rng)?;
        self.check_fork(&mut rng, true)
    }

    /// Lets one of those who use the log act, or whoever looks after it.
    pub(super) fn step(&mut self, rng: &mut Rng) -> Checked {
        if self.model.topics.is_empty() {
            return self.create_topic(rng);
        }
        if self.model.groups.is_empty() && rng.chance(1, 2) {
            return self.create_group(rng);
        }
        let acting = rng.index(self.setup.actors.len());
        self.acting = acting;
        let role = self.actor().role;
        self.note(|| format!("{acting} ({role:?}):"));
        match rng.below(108) {
            0..74 => match role {
                Role::Producer => self.produce(rng),
                Role::Worker if rng.chance(1, 3) => self.batch(rng),
                Role::Consumer | Role::Worker => self.consume(rng),
            },
            74..90 => self.look_after(rng),
            90..100 => self.go_wrong(rng),
            _ => self.situation(rng),
        }
    }

    fn produce(&mut self, rng: &mut Rng) -> Checked {
        match rng.below(40) {
            0..14 => self.append(rng, false),
            14..23 => self.submit(rng),
            23..29 => self.append_batch(rng),
            29..32 => self.append(rng, true),
            32..36 => self.batch(rng),
            36..39 => self.wait_for_submit(rng),
            _ => self.tail(rng),
        }
    }

    fn consume(&mut self, rng: &mut Rng) -> Checked {
        match rng.below(48) {
            0..13 => self.poll(rng),
            13..19 => self.next(rng),
            19..33 => self.settle(rng),
            33..35 => self.ack_offset(rng),
            35..40 => self.commit(rng),
            40..42 => self.commit_through(rng),
            42..44 => self.seek(rng),
            44..47 => self.look(rng),
            _ => self.tail(rng),
        }
    }

    /// Lets one operation make as many calls as any sound one may; more are a livelock.
    pub(crate) fn allow_work(&self) {
        self.disk.allow_calls(CALLS_MAX);
        self.clock.allow_readings(READINGS_MAX);
    }

    /// What is done for all who use the log.
    fn look_after(&mut self, rng: &mut Rng) -> Checked {
        match rng.below(32) {
            0..5 => self.create_topic(rng),
            5..13 => self.create_group(rng),
            13..18 => {
                self.advance(rng);
                // The background threads mostly keep up with the time.
                if rng.chance(1, 2) { self.maintain() } else { Ok(()) }
            }
            18..23 => self.maintain(),
            23..25 => self.check_sleepers(),
            25..27 => self.sync(),
            27 => self.read(rng),
            28 => self.offset_at(rng),
            29 => self.look_at_log(),
            30 => self.misuse(rng),
            _ => self.tail(rng),
        }
    }

    /// Ends of the process, and what goes wrong below the log.
    fn go_wrong(&mut self, rng: &mut Rng) -> Checked {
        match rng.below(20) {
            0..4 => self.close_and_reopen(rng),
            4..6 => self.drop_and_reopen(rng),
            6..10 => self.crash(rng),
            10..12 => {
                self.change_capacity(rng);
                Ok(())
            }
            12..16 => {
                self.plan_fault(rng);
                Ok(())
            }
            16..18 => {
                self.disk.evict_some();
                Ok(())
            }
            _ => {
                self.plan_death_soon(rng, 15);
                Ok(())
            }
        }
    }

    /// How many operations there were of which no later one makes the promise again.
    fn promising(&self) -> u64 {
        PROMISING.iter().filter_map(|what| self.tally.get(what)).sum()
    }

    /// Sees what became of an operation, which may have promised something.
    pub(super) fn after(&mut self, rng: &mut Rng, promised: bool) -> Checked {
        self.take_in()?;
        if self.dead() {
            self.note(|| "  died".to_owned());
            return self.crash(rng);
        }
        if self.check_poisoned("an operation")? && rng.chance(1, 3) {
            return if rng.chance(1, 2) { self.crash(rng) } else { self.drop_and_reopen(rng) };
        }
        // Nothing that an operation has left undone may fail the next one.
        self.watch.answer(&self.disk);
        if !self.is_branch && rng.chance(1, if promised { 6 } else { 24 }) {
            self.check_fork(rng, false)?;
        }
        Ok(())
    }

    /// Fills the disk, or makes room again.
    fn change_capacity(&mut self, rng: &mut Rng) {
        self.tight = !self.tight && rng.chance(2, 3);
        let used: u64 = self.disk.names().iter().filter_map(|name| self.disk.size(name)).sum();
        let room = rng.below(3 * self.setup.segment_bytes / 2);
        let capacity = self.tight.then_some(used + room);
        self.note(|| format!("capacity {capacity:?}"));
        self.count(if self.tight { "disk_full" } else { "disk_roomy" });
        self.disk.set_capacity(capacity);
    }
}
