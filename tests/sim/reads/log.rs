//! Operations on the log as a whole: what it says of itself, what it refuses, and letting time
//! and the background work go on.

use std::time::Duration;

use ackline::simulation::{Clock, Rng};
use ackline::{Error, GroupOptions, Offset, Record, SyncPolicy};

use super::super::setup::PAYLOAD_MAX;
use super::super::world::World;
use super::super::{Checked, ensure};

/// An acknowledgement is written this long after it was made at the latest.
const ACK_DELAY_MAX: Duration = Duration::from_secs(1);

impl World {
    pub(crate) fn advance(&mut self, rng: &mut Rng) {
        self.count("advance");
        let ms = match rng.below(4) {
            0 => rng.below(200),
            1 => rng.below(2000),
            _ => rng.below(60_000),
        };
        self.pass(Duration::from_millis(ms));
    }

    /// Lets so much time pass.
    pub(crate) fn pass(&mut self, time: Duration) {
        self.note(|| format!("advance {} ms", time.as_millis()));
        self.clock.advance(time);
        self.model.now_ms = self.clock.wall_ms();
    }

    /// One round of what the background threads do.
    pub(crate) fn maintain(&mut self) -> Checked {
        self.count("maintain");
        self.note(|| "maintain".to_owned());
        let before = self.segments();
        let mut result = self.live().log.maintain();
        // A round may end with what rode along still queued, and then the next one is due at once.
        if result.is_ok() {
            result = self.live().log.maintain();
        }
        if let Err(error) = &result {
            self.failed("maintain", error)?;
        }
        if self.dead() {
            return Ok(());
        }
        if self.poisoned() {
            // It has nobody to tell.
            self.check_poisoned("maintain")?;
            return Ok(());
        }
        self.promise_by_policy();
        // Where the round failed, they wait for the next one.
        if result.is_ok() {
            self.promise_late_acks();
        }
        self.check_retained(&before, result.is_ok())?;
        self.check_answered()?;
        self.deleted_for_size = u64::MAX;
        Ok(())
    }

    /// What was acknowledged a second ago is written by now, where there is room for it.
    fn promise_late_acks(&mut self) {
        if !self.setup.syncs() || self.tight || self.lacked_space_ever() {
            return;
        }
        if let Some(until) = self.now().checked_sub(ACK_DELAY_MAX) {
            self.model.promise_groups(until);
        }
    }

    /// The segment files with their sizes, oldest first.
    pub(crate) fn segments(&self) -> Vec<(String, u64)> {
        let names =
            self.disk.names().into_iter().filter(|name| name.strip_suffix(".seg").is_some());
        names.map(|name| (name.clone(), self.disk.size(&name).unwrap_or(0))).collect()
    }

    /// Checks what a round of the file keeper has deleted for the size, and has left.
    fn check_retained(&mut self, before: &[(String, u64)], done: bool) -> Checked {
        let Some(max) = self.setup.retained_bytes else { return Ok(()) };
        let after = self.segments();
        let total = |segments: &[(String, u64)]| segments.iter().map(|one| one.1).sum::<u64>();
        // A round may go on in a new segment before it deletes old ones.
        let new = after.iter().filter(|segment| !before.contains(segment)).map(|one| one.1);
        let mut left = total(before) + new.sum::<u64>();
        // What is deleted once the rest is small enough must have been consumed.
        let for_size = before.iter().take_while(|segment| {
            let too_large = left > max;
            left -= segment.1;
            too_large
        });
        let small_from = before.get(for_size.count());
        let base = small_from.and_then(|segment| segment.0.strip_suffix(".seg")?.parse().ok());
        self.deleted_for_size = base.unwrap_or(u64::MAX);
        let small = total(&after) <= max || after.len() == 1;
        ensure!(small || !done, "retention left {} bytes of {max}", total(&after));
        Ok(())
    }

    pub(crate) fn sync(&mut self) -> Checked {
        self.count("sync");
        self.note(|| "sync".to_owned());
        match self.live().log.sync() {
            Ok(()) => {
                self.succeeded("sync")?;
                self.model.promise(true);
                let now = self.now();
                self.model.promise_groups(now);
                let stats = self.live().log.stats();
                let durable = stats.durable == stats.written;
                ensure!(durable, "synced, and not all that is written is durable: {stats:?}");
                let expected = self.messages() - self.live().messages_before;
                ensure!(stats.appended == expected, "appended {} of {expected}", stats.appended);
                Ok(())
            }
            Err(error) => self.failed("sync", &error).map(|_| ()),
        }
    }

    /// Compares what the log says of itself with the model and with the disk.
    pub(crate) fn look_at_log(&mut self) -> Checked {
        self.count("look_at_log");
        if self.poisoned() {
            return Ok(());
        }
        let live = self.live.as_ref().expect("a process runs");
        let names = live.log.topics();
        let expected = self.model.topics.iter().map(|topic| &topic.name);
        ensure!(names.iter().eq(expected), "the topics are {names:?}");
        for (id, topic) in live.topics.iter().enumerate() {
            let groups = live.log.groups(topic);
            let of_topic = self.model.groups.iter().filter(|group| group.topic == id);
            let expected = of_topic.map(|group| &self.setup.groups[group.plan].name);
            ensure!(groups.iter().eq(expected), "the groups of #{id} are {groups:?}");
        }
        let (stats, segments) = (live.log.stats(), self.segments());
        // A file that could not be removed is counted until it is.
        if !self.struck_ever() {
            let bytes: u64 = segments.iter().map(|segment| segment.1).sum();
            let found = (stats.segments, stats.segment_bytes);
            let expected = (segments.len(), bytes);
            ensure!(found == expected, "{found:?} segments and bytes, there are {expected:?}");
        }
        Ok(())
    }

    /// Asks for what is to be refused, whatever the state of the log.
    pub(crate) fn misuse(&mut self, rng: &mut Rng) -> Checked {
        let Some(topic) = self.draw_topic(rng) else { return Ok(()) };
        self.count("misuse");
        let (log, handle) = (self.live().log.clone(), self.live().topics[topic].clone());
        let end = handle.offsets().end.0;
        let beyond = Offset(end + 1 + rng.below(3));
        let misuse = rng.below(7);
        self.note(|| format!("misuse {misuse}"));
        let result = match misuse {
            0 => log.topic(["", "a/b", "..", "a\u{0}"][rng.index(4)]).map(drop),
            1 => handle.group("x/y").map(drop),
            2 => handle.group_with("g", GroupOptions::new().attempts_max(0)).map(drop),
            3 => handle.read_from(beyond).map(drop),
            4 => handle.group_with("late", GroupOptions::new().start(beyond)).map(drop),
            5 => {
                let large = Record::new(vec![1; PAYLOAD_MAX + 1]);
                log.batch().append(&handle, "small").append(&handle, large).commit().map(drop)
            }
            _ => match self.draw_group(rng).map(|group| self.live().groups[group].clone()) {
                Some(group) => {
                    let end = group.topic().offsets().end;
                    if rng.chance(1, 2) {
                        group.commit_through(end)
                    } else {
                        group.seek(end.next())
                    }
                }
                None => return Ok(()),
            },
        };
        match result {
            Err(
                Error::InvalidName { .. }
                | Error::InvalidOption { .. }
                | Error::OffsetOutOfRange { .. }
                | Error::TooLarge { .. },
            ) => Ok(()),
            Err(error) => self.failed("misuse", &error).map(|_| ()),
            Ok(()) => {
                let unsynced = self.setup.policy == SyncPolicy::Never;
                ensure!(false, "misuse {misuse} of #{topic} was taken (unsynced: {unsynced})");
                Ok(())
            }
        }
    }
}
