//! Which operation comes next, and what is looked at after each.

use std::collections::BTreeSet;

use ackline::simulation::Rng;

use super::model::Loss;
use super::world::World;
use super::{Checked, mix};

/// All that runs count by name, so that what never came up shows as a zero.
pub(crate) const COUNTED: [&str; 35] = [
    "ack",
    "ack_offset",
    "advance",
    "append",
    "append_batch",
    "append_if",
    "batch",
    "close",
    "commit",
    "commit_through",
    "crash",
    "damage_harmless",
    "damage_refused",
    "damage_shown",
    "disk_full",
    "disk_roomy",
    "drained",
    "drop",
    "exhausted",
    "extend",
    "group",
    "look",
    "maintain",
    "offset_at",
    "poll",
    "read_from",
    "reject",
    "release",
    "reopen",
    "retry_after",
    "seek",
    "submit",
    "sync",
    "topic",
    "wait",
];

impl World {
    /// Runs the operations of the seed, but for those in `skip`.
    pub(super) fn run(&mut self, skip: &BTreeSet<usize>) -> Checked {
        let seed = self.setup.seed;
        let mut rng = Rng::new(mix(seed, 2));
        self.open(&mut rng, Loss::Power)?;
        for op in 0..self.setup.ops {
            if skip.contains(&op) {
                continue;
            }
            // Each operation has its own numbers, so that leaving one out changes no other.
            let mut rng = Rng::new(mix(seed, 1000 + op as u64));
            self.disk.reseed(rng.next_u64());
            self.step(&mut rng)?;
            self.after(&mut rng)?;
        }
        let mut rng = Rng::new(mix(seed, 3));
        self.crash(&mut rng)?;
        self.check_fork(&mut rng, true)
    }

    fn step(&mut self, rng: &mut Rng) -> Checked {
        if self.model.topics.is_empty() {
            return self.create_topic(rng);
        }
        if self.model.groups.is_empty() && rng.chance(1, 2) {
            return self.create_group(rng);
        }
        match rng.below(100) {
            0..3 => self.create_topic(rng),
            3..7 => self.create_group(rng),
            7..20 => self.append(rng, false),
            20..27 => self.submit(rng),
            27..33 => self.append_batch(rng),
            33..36 => self.append(rng, true),
            36..42 => self.batch(rng),
            42..55 => self.poll(rng),
            55..67 => self.settle(rng),
            67..69 => self.ack_offset(rng),
            69..73 => self.commit(rng),
            73..75 => self.commit_through(rng),
            75..77 => self.seek(rng),
            77..79 => self.look(rng),
            79..80 => self.read(rng),
            80..81 => self.offset_at(rng),
            81..85 => {
                self.advance(rng);
                Ok(())
            }
            85..89 => self.maintain(),
            89..90 => self.sync(),
            90..92 => self.wait_for_submit(rng),
            92..94 => self.close_and_reopen(rng),
            94..95 => self.drop_and_reopen(rng),
            95..97 => self.crash(rng),
            97..98 => {
                self.change_capacity(rng);
                Ok(())
            }
            98..99 => {
                self.plan_fault(rng);
                Ok(())
            }
            _ => {
                let call = self.disk.calls() + rng.below(15);
                self.note(|| format!("  die at call {call}"));
                self.disk.die_at(call);
                Ok(())
            }
        }
    }

    /// Sees what became of an operation.
    fn after(&mut self, rng: &mut Rng) -> Checked {
        self.take_in()?;
        if self.dead() {
            self.note(|| "  died".to_owned());
            return self.crash(rng);
        }
        let live = self.live();
        if live.poisoned || live.log.stats().poisoned {
            live.poisoned = true;
            if rng.chance(1, 3) {
                return if rng.chance(1, 2) { self.crash(rng) } else { self.drop_and_reopen(rng) };
            }
        }
        if rng.chance(1, 12) {
            self.check_fork(rng, false)?;
        }
        Ok(())
    }

    /// Fills the disk, or makes room again.
    fn change_capacity(&mut self, rng: &mut Rng) {
        self.tight = !self.tight && rng.chance(2, 3);
        let used: usize =
            self.disk.names().iter().filter_map(|name| self.disk.file(name)).map(|f| f.len()).sum();
        let room = rng.below(3 * self.setup.segment_bytes / 2);
        let capacity = self.tight.then(|| used as u64 + room);
        self.note(|| format!("capacity {capacity:?}"));
        self.count(if self.tight { "disk_full" } else { "disk_roomy" });
        self.disk.set_capacity(capacity);
    }
}
