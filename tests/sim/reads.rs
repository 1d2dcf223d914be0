//! Operations that look, and those that let time and the background work go on.

use std::time::Duration;

use ackline::simulation::Rng;
use ackline::{Error, Explanation, Offset, Topic};

use super::model::Ack;
use super::setup::wall;
use super::world::World;
use super::{Checked, at, ensure};

impl World {
    /// Reads a topic from some offset to its end.
    pub(crate) fn read(&mut self, rng: &mut Rng) -> Checked {
        if self.live().topics.is_empty() {
            return Ok(());
        }
        self.count("read_from");
        let topics = self.live().topics.len();
        let id = rng.index(topics);
        let topic = self.live().topics[id].clone();
        let offsets = topic.offsets();
        let from = offsets.start.0 + rng.below(offsets.end.0 - offsets.start.0 + 1);
        self.note(|| format!("read #{id} from {from}"));
        match self.read_checked(id, &topic, from)? {
            Ok(next) => ensure!(next == offsets.end.0, "#{id} ended at {next}"),
            Err(error) => {
                self.failed("read", &error)?;
            }
        }
        Ok(())
    }

    fn read_checked(&self, id: usize, topic: &Topic, from: u64) -> Checked<Result<u64, Error>> {
        let reader = match topic.read_from(Offset(from)) {
            Ok(reader) => reader,
            Err(error) => return Ok(Err(error)),
        };
        let mut next = from;
        for message in reader {
            let message = match message {
                Ok(message) => message,
                Err(error) => return Ok(Err(error)),
            };
            ensure!(message.offset().0 == next, "#{id}: {} at {next}", message.offset());
            self.model.check(&self.setup, id, &message)?;
            next += 1;
        }
        Ok(Ok(next))
    }

    pub(crate) fn offset_at(&mut self, rng: &mut Rng) -> Checked {
        let Some(id) = self.draw_topic(rng) else { return Ok(()) };
        self.count("offset_at");
        let ms = 1_700_000_000_000 + rng.below(200_000) - 60_000;
        let topic = self.live().topics[id].clone();
        let offsets = topic.offsets();
        self.note(|| format!("offset_at {ms} in #{id}"));
        match topic.offset_at(wall(ms)) {
            Ok(found) => {
                let mut visible = offsets.start.0..offsets.end.0;
                let messages = &self.model.topics[id].messages;
                let expected = visible.find(|&offset| messages[at(offset)].0.time_ms() >= ms);
                let expected = expected.unwrap_or(offsets.end.0);
                ensure!(found.0 == expected, "offset_at({ms}) is {found} instead of {expected}");
            }
            Err(error) => {
                self.failed("offset_at", &error)?;
            }
        }
        Ok(())
    }

    /// Compares what a group says of itself with the model.
    pub(crate) fn look(&mut self, rng: &mut Rng) -> Checked {
        let Some(id) = self.draw_group(rng) else { return Ok(()) };
        self.count("look");
        let handle = self.live().groups[id].clone();
        let offsets = handle.topic().offsets();
        let group = &self.model.groups[id];
        let plan = &self.setup.groups[group.plan];
        let comparable = plan.tag.is_none() && !self.setup.lossy;
        let lag = match handle.lag() {
            Ok(lag) => lag,
            Err(error) => return self.failed("lag", &error).map(|_| ()),
        };
        if comparable {
            let visible = 0..offsets.end.0;
            let open = visible.filter(|&offset| group.get(offset).ack == Ack::No).count() as u64;
            ensure!(lag.messages == open, "lag of group {id} is {lag:?}, {open} are open");
        }
        let offset = rng.below(offsets.end.0 + 2);
        let explained = match handle.explain(Offset(offset)) {
            Ok(explained) => explained,
            Err(error) => return self.failed("explain", &error).map(|_| ()),
        };
        if offset >= offsets.end.0 {
            let not_yet = explained == Explanation::NotYet;
            ensure!(not_yet, "{explained:?} of {offset}, beyond the end");
            return Ok(());
        }
        let progress = group.get(offset);
        let held = progress.held_until.is_some_and(|until| until > self.now());
        let leased = matches!(explained, Explanation::Leased { .. });
        let settled = explained == Explanation::Settled;
        let gone = self.setup.lossy && explained == Explanation::Gone;
        if progress.ack != Ack::No {
            let settled = settled || gone;
            ensure!(settled, "group {id}: {offset} is {explained:?}, and {:?}", progress.ack);
        } else if comparable {
            ensure!(!settled, "group {id}: {offset} is {explained:?}, and not acknowledged");
            ensure!(leased == held, "group {id}: {offset} is {explained:?}, held: {held}");
        }
        Ok(())
    }

    pub(crate) fn advance(&mut self, rng: &mut Rng) {
        self.count("advance");
        let ms = match rng.below(4) {
            0 => rng.below(200),
            1 => rng.below(2000),
            _ => rng.below(60_000),
        };
        self.note(|| format!("advance {ms} ms"));
        self.clock.advance(Duration::from_millis(ms));
    }

    /// One round of what the background threads do.
    pub(crate) fn maintain(&mut self) -> Checked {
        self.count("maintain");
        self.note(|| "maintain".to_owned());
        if let Err(error) = self.live().log.maintain() {
            self.failed("maintain", &error)?;
        }
        if self.dead() {
            return Ok(());
        }
        let poisoned = self.live().log.stats().poisoned;
        if poisoned {
            // It has nobody to tell.
            ensure!(self.struck(), "maintain poisoned the log without a fault");
            self.live().poisoned = true;
        } else {
            self.promise_by_policy();
        }
        Ok(())
    }

    pub(crate) fn sync(&mut self) -> Checked {
        self.count("sync");
        self.note(|| "sync".to_owned());
        match self.live().log.sync() {
            Ok(()) => {
                self.succeeded("sync")?;
                self.model.promise(true);
                self.model.promise_groups();
                Ok(())
            }
            Err(error) => self.failed("sync", &error).map(|_| ()),
        }
    }
}
